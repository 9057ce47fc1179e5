/** What a layer of attention passes on: soft cap, ALiBi, packed sequences, dropped weights. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as og from '../../src/index.js';
import { assertClose } from '../helpers/allclose.js';

const { nn } = og;
const [width, heads] = [24, 4];

/** The layer's heads through the definition, put together again. */
function byHand(layer: og.nn.MultiHeadAttention, x: og.Tensor, softCap: number | null): og.Tensor {
  const time = x.shape[1]!;
  const split = (y: og.Tensor, count: number): og.Tensor =>
    og.transpose(og.reshape(y, [1, time, count, width / heads]), 1, 2);
  const repeat = (y: og.Tensor): og.Tensor => og.indexSelect(y, 1, og.tensor(Int32Array.of(0, 0, 1, 1)));
  const q = split(layer.q.forward(x), heads);
  const [k, v] = [repeat(split(layer.k.forward(x), 2)), repeat(split(layer.v.forward(x), 2))];
  let scores = og.mul(og.matmul(q, og.transpose(k)), 1 / Math.sqrt(width / heads));
  if (softCap !== null) scores = og.mul(og.tanh(og.div(scores, softCap)), softCap);
  scores = og.add(scores, og.alibiBias(heads, time));
  const causal = og.le(og.unsqueeze(og.arange(time), 0), og.unsqueeze(og.arange(time), 1));
  const y = og.matmul(og.softmax(og.where(causal, scores, -Infinity), -1), v);
  return layer.o.forward(og.reshape(og.transpose(y, 1, 2), [1, time, width]));
}

test('soft cap and ALiBi in a layer are what the formula says, also piece by piece', () => {
  const generator = og.generator(3);
  const options = { kvHeads: 2, causal: true, softCap: 0.6, alibi: true, generator };
  const layer = new nn.MultiHeadAttention(width, heads, options);
  const x = og.mul(og.randn([1, 11, width], { generator }), 3);
  og.noGrad(() => {
    const whole = layer.forward(x);
    assertClose(whole, byHand(layer, x, 0.6), { atol: 1e-5 });
    const cache = new nn.KvCache(1, 2, 11, width / heads);
    const parts = [4, 1, 6].map((count) => layer.forward(og.narrow(x, 1, cache.length, count), { cache }));
    assertClose(og.concat(parts, 1), whole, { atol: 1e-5 });
    cache.dispose();
  });
});

test('packed sequences give what each gives alone, and the same gradient', () => {
  const generator = og.generator(4);
  const layer = new nn.MultiHeadAttention(width, heads, { kvHeads: 2, causal: true, window: 5, generator });
  const values = og.randn([1, 20, width], { generator });
  const [x, y] = [values.clone().requiresGrad_(), values.clone().requiresGrad_()];
  const offsets = [0, 7, 8, 20];
  const parts = [0, 1, 2].map((n) => layer.forward(og.narrow(y, 1, offsets[n]!, offsets[n + 1]! - offsets[n]!)));
  const [packed, alone] = [layer.forward(x, { offsets }), og.concat(parts, 1)];
  assertClose(packed, alone, { atol: 1e-5 });
  assertClose(layer.forward(x, { offsets: og.tensor(Int32Array.from(offsets)) }), packed, { atol: 0, rtol: 0 });
  for (const result of [packed, alone]) og.sum(og.square(result)).backward();
  assertClose(x.grad!, y.grad!, { atol: 1e-4 });
  const cache = new nn.KvCache(1, 2, 20, width / heads);
  assert.throws(() => layer.forward(x, { offsets, cache }), og.AttributeError);
});

test('packed sequences with spans give what each gives alone', () => {
  const generator = og.generator(31);
  const layer = new nn.MultiHeadAttention(width, heads, { kvHeads: 2, causal: true, generator });
  const x = og.randn([1, 12, width], { generator }).requiresGrad_();
  const y = og.detach(x).clone().requiresGrad_();
  const packed = layer.forward(x, { offsets: [0, 5, 12], spans: [[[0, 3], [7, 12]]] }); // prettier-ignore
  const first = layer.forward(og.narrow(y, 1, 0, 5), { spans: [[[0, 3]]] });
  const second = layer.forward(og.narrow(y, 1, 5, 7), { spans: [[[2, 7]]] });
  const alone = og.concat([first, second], 1);
  assertClose(packed, alone, { atol: 1e-5 });
  for (const result of [packed, alone]) og.sum(og.square(result)).backward();
  assertClose(x.grad!, y.grad!, { atol: 1e-4 });
});

test('offsets of a tensor that do not fit are reported', async () => {
  const layer = new nn.MultiHeadAttention(width, heads);
  const read = async (offsets: og.Tensor): Promise<unknown> =>
    layer.forward(og.ones([1, 5, width]), { offsets }).data();
  await read(og.tensor(Int32Array.of(0, 4, 4, 5)));
  await assert.rejects(() => read(og.tensor(Int32Array.of(0, 4, 2, 5))), /offset 2 is 2/);
  await assert.rejects(() => read(og.tensor(Int32Array.of(0, 6))), /offset 1 is 6/);
});

test('attention weights are dropped in training only', () => {
  const layer = new nn.MultiHeadAttention(width, heads, { attentionDropout: 0.5, generator: og.generator(5) });
  const x = og.randn([1, 9, width], { generator: og.generator(6) });
  layer.eval();
  const [first, second] = [layer.forward(x), layer.forward(x)];
  assertClose(first, second, { atol: 0, rtol: 0 });
  layer.train();
  const third = layer.forward(x);
  assert.ok(Number(og.amax(og.abs(og.sub(third, first))).dataSync()[0]) > 1e-3);
  assert.throws(() => new nn.MultiHeadAttention(width, heads, { attentionDropout: 2 }), og.AttributeError);
});

test('spans in a layer: a prefix that sees itself both ways, also against a cache', () => {
  const generator = og.generator(14);
  const layer = new nn.MultiHeadAttention(width, heads, { kvHeads: 2, causal: true, window: 4, generator });
  const x = og.randn([2, 12, width], { generator });
  const spans = [[[0, 7]], [[2, 5], [5, 6]]] as const; // prettier-ignore
  const place = og.arange(12);
  const [query, key] = [og.unsqueeze(place, 1), og.unsqueeze(place, 0)];
  const near = og.logicalAnd(og.le(key, query), og.gt(key, og.sub(query, 4)));
  const inside = (from: number, to: number): og.Tensor => {
    const within = (at: og.Tensor): og.Tensor => og.logicalAnd(og.ge(at, from), og.lt(at, to));
    return og.logicalAnd(within(query), within(key));
  };
  const masks = spans.map((list) =>
    list.reduce<og.Tensor>((mask, [from, to]) => og.logicalOr(mask, inside(from, to)), near),
  );
  const free = new nn.MultiHeadAttention(width, heads, { kvHeads: 2 });
  free.loadStateDict(layer.stateDict());
  og.noGrad(() => {
    const want = free.forward(x, { mask: og.unsqueeze(og.stack(masks), 1) });
    assertClose(layer.forward(x, { spans }), want, { atol: 1e-5 });
    for (const options of [{}, { pageSize: 4 }, { dtype: 'int8' }] as const) {
      const cache = new nn.KvCache(2, 2, 12, width / heads, options);
      const parts = [7, 1, 4].map((count) => {
        const from = cache.length;
        // what lies behind the last key is not there yet
        const held = spans.map((list) => list.filter(([, to]) => to <= from + count));
        return layer.forward(og.narrow(x, 1, from, count), { cache, spans: held });
      });
      assertClose(og.concat(parts, 1), want, { atol: 'dtype' in options ? 0.03 : 1e-5 });
    }
  });
});

test('spans of a tensor that do not hold their queries, or overlap, are reported', async () => {
  const layer = new nn.MultiHeadAttention(width, heads, { causal: true });
  const read = async (...sides: number[]): Promise<unknown> => {
    const spans = og.tensor(Int32Array.from(sides), { shape: [3, 2] });
    return layer.forward(og.ones([2, 3, width]), { spans }).data();
  };
  await read(0, 2, 0, 2, 0, 0);
  await assert.rejects(() => read(0, 0, 2, 3, 0, 0), /span 2 to 3 does not hold query 1/);
  await assert.rejects(() => read(0, 3, 0, 0, 0, 0), /query 1 sees less far/);
  assert.throws(() => layer.forward(og.ones([1, 3, width]), { spans: [], offsets: [0, 3] }), og.AttributeError);
  const packed = async (spans: [number, number][]): Promise<unknown> =>
    layer.forward(og.ones([1, 5, width]), { spans: [spans], offsets: [0, 3, 5] }).data();
  await packed([[3, 5]]); // prettier-ignore
  await assert.rejects(() => packed([[2, 4]]), /span 2 to 4 does not hold query 2/); // prettier-ignore
  const x = og.ones([1, 1, 5, 4]);
  const options = { queryOffsets: [0, 5], keyOffsets: [0, 5], spans: [[]] };
  assert.throws(() => og.scaledDotProductAttention(x, x, x, options), og.AttributeError);
});
