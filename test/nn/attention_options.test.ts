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
