/** Activation checkpointing: the bits of gradients and of random numbers, nesting, what is refused, what it saves. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as og from '../../src/index.js';
import { tinyModel, tinyTokens } from '../helpers/tiny_run.js';

const { nn } = og;

type Numbers = readonly number[];
const numbers = async (tensor: og.Tensor | null): Promise<Numbers | null> =>
  tensor === null ? null : [...((await tensor.data()) as Float32Array)];

const gradientsIn = (model: og.nn.Module): Promise<(Numbers | null)[]> =>
  Promise.all(model.parameters().map(({ grad }) => numbers(grad)));

function batch(model: og.GPT): [og.Tensor, og.Tensor] {
  const ids = og.tensor(tinyTokens(4 * (model.config.context + 1)), { shape: [4, model.config.context + 1] });
  return [ids.narrow(1, 0, model.config.context).contiguous(), ids.narrow(1, 1, model.config.context).contiguous()];
}

test('a GPT with dropout has the gradients and the random stream that it has without, bit for bit', async () => {
  for (const extra of [{}, { position: 'rope', norm: 'rmsNorm', activation: 'swiglu', bias: false }] as const) {
    og.manualSeed(4);
    const config = { vocabSize: 32, context: 16, layers: 3, heads: 2, width: 32, dropout: 0.2, ...extra };
    const model = new og.GPT(config);
    const [x, y] = batch(model);
    const run = async (count: number): Promise<unknown> => {
      og.manualSeed(7);
      model.zeroGrad();
      const loss = og.scope(() => {
        const value = nn.checkpointed(model.blocks.slice(0, count), () => model.loss(x, y));
        value.backward();
        return value;
      });
      return [await loss.item(), await gradientsIn(model), og.defaultGenerator().state];
    };
    const plain = await run(0);
    assert.deepEqual(await run(3), plain);
    assert.deepEqual(await run(2), plain);
    assert.equal(Object.hasOwn(model.blocks[0]!, 'forward'), false);
  }
});

test('streams of their own are replayed too, and a stream that stands elsewhere by then is left there', async () => {
  const stream = og.generator(5);
  const x = og.ones([64], { requiresGrad: true });
  const f = (t: og.Tensor): og.Tensor => og.mul(og.dropout(t, 0.5, { generator: stream }), og.rand([64]));
  const run = async (how: (t: og.Tensor) => og.Tensor): Promise<unknown> => {
    stream.state = { seed: 5, offset: 0 };
    og.manualSeed(1);
    const y = og.sum(how(x));
    stream.take(100);
    const later = stream.state;
    y.backward();
    assert.deepEqual(stream.state, later);
    const found = await numbers(x.grad);
    x.grad = null;
    return [await y.item(), found, og.defaultGenerator().state];
  };
  assert.deepEqual(await run((t) => og.checkpoint(f, t)), await run(f));
});

test('checkpoints nest', async () => {
  og.manualSeed(2);
  const [a, b] = [new nn.Linear(8, 8), new nn.Linear(8, 8)];
  const x = og.randn([3, 8], { requiresGrad: true });
  const inner = (t: og.Tensor): og.Tensor => og.dropout(og.gelu(a.forward(t)), 0.3);
  const outer = (part: (t: og.Tensor) => og.Tensor) => (t: og.Tensor) => b.forward(part(og.tanh(part(t))));
  const run = async (f: (t: og.Tensor) => og.Tensor): Promise<unknown> => {
    og.manualSeed(3);
    for (const tensor of [x, ...a.parameters(), ...b.parameters()]) tensor.grad = null;
    og.scope(() => og.mean(og.square(f(x))).backward());
    return [await numbers(x.grad), await gradientsIn(a), await gradientsIn(b), og.defaultGenerator().state];
  };
  const nested = outer((t) => og.checkpoint(inner, t));
  const plain = await run(outer(inner));
  assert.deepEqual(await run((t) => og.checkpoint(nested, t)), plain);
  assert.deepEqual(await run((t) => og.checkpoint(outer(inner), t)), plain);
});

test('gradientsOf and grad find parameters and inputs behind a checkpoint', async () => {
  const layer = new nn.Linear(4, 4, { generator: og.generator(1) });
  const x = og.randn([2, 4], { requiresGrad: true });
  const loss = (f: (t: og.Tensor) => og.Tensor): og.Tensor => og.sum(og.square(f(og.mul(x, 2))));
  const through = (f: (t: og.Tensor) => og.Tensor): Promise<(Numbers | null)[]> =>
    Promise.all(og.gradientsOf(loss(f), [layer.weight, x, layer.bias!]).map(numbers));
  const plain = (t: og.Tensor): og.Tensor => og.gelu(layer.forward(t));
  assert.deepEqual(await through((t) => og.checkpoint(plain, t)), await through(plain));
  assert.deepEqual([layer.weight.grad, x.grad], [null, null]);
  const slope = og.grad((t: og.Tensor) => og.sum(og.checkpoint(plain, t)));
  assert.deepEqual(await numbers(slope(x)), await numbers(og.grad((t: og.Tensor) => og.sum(plain(t)))(x)));
});

test('several results, of which some are used; inputs that come back; parameters alone; nothing that asks', async () => {
  const w = nn.parameter(og.tensor([1, 2, 3]));
  const x = og.tensor([4, 5, 6], { requiresGrad: true });
  const [product, , same] = og.checkpoint((t) => [og.mul(t, w), og.exp(t), t], x);
  og.sum(og.add(product!, same!)).backward();
  assert.deepEqual([await numbers(x.grad), await numbers(w.grad)], [[2, 3, 4], [4, 5, 6]]); // prettier-ignore
  w.grad = null;
  const plain = og.tensor([1, 1, 1]);
  og.sum(og.checkpoint((t) => og.mul(t, w), plain)).backward();
  assert.deepEqual([await numbers(w.grad), plain.grad], [[1, 1, 1], null]); // prettier-ignore
  w.requiresGrad = false;
  assert.equal(og.checkpoint((t) => og.mul(t, w), plain).requiresGrad, false);
  assert.equal(og.noGrad(() => og.checkpoint((t) => og.mul(t, w), x)).requiresGrad, false);
});

test('a graph that is kept can be walked twice', async () => {
  const x = og.tensor([2], { requiresGrad: true });
  const y = og.checkpoint((t) => og.square(t), x);
  y.backward(null, { retainGraph: true });
  y.backward();
  assert.deepEqual(await numbers(x.grad), [8]);
});

test('results from outside and second derivatives are refused', () => {
  const x = og.tensor([2], { requiresGrad: true });
  const outside = og.square(x);
  const y = og.checkpoint((t) => og.mul(t, outside), x);
  assert.throws(() => y.backward(), (error: unknown) => error instanceof og.StateError && /square from outside/.test(error.message)); // prettier-ignore
  const z = og.checkpoint((t) => og.square(t), x);
  assert.throws(() => og.gradientsOf(z, [x], { createGraph: true }), /first derivatives/);
  assert.equal(og.square(x).requiresGrad, true);
  assert.throws(() => og.checkpoint((t) => t, 3 as never), og.DTypeError);
  assert.throws(() => og.nn.checkpointed([3 as never], () => 0), og.AttributeError);
});

test('a block with a cache is called as it is; a hook sees the call', async () => {
  const model = tinyModel();
  const cache = model.makeCache();
  const ids = og.tensor([[1, 2, 3]], { dtype: 'int32' });
  const want = await numbers(og.noGrad(() => model.forward(ids)));
  const got = nn.checkpointed(model.blocks, () => og.noGrad(() => model.forward(ids, { cache })));
  assert.deepEqual(await numbers(got), want);
  let calls = 0;
  const remove = model.blocks[0]!.registerForwardHook(() => void calls++);
  const loss = nn.checkpointed(model.blocks, () => model.loss(...batch(model)));
  assert.equal(calls, 1);
  loss.backward();
  assert.equal(calls, 2);
  remove();
});

test('eight blocks keep less than two of them', async () => {
  const width = 64;
  const blocks = Array.from({ length: 8 }, () => new nn.TransformerBlock(width, 4, { causal: true }));
  const x = og.randn([32, 32, width]);
  const peak = async (some: readonly og.nn.Module[]): Promise<number> => {
    const { bytes } = og.memory();
    og.resetPeakMemory();
    og.scope(() => {
      const run = (): og.Tensor => {
        let h = x;
        for (const block of blocks) {
          const next = block.forward(h);
          if (h !== x) h.dispose();
          h = next;
        }
        return og.mean(h);
      };
      nn.checkpointed(some, run).backward();
    });
    const { peakBytes } = og.memory();
    await x.data();
    for (const block of blocks) block.zeroGrad();
    return peakBytes - bytes;
  };
  await peak([]);
  const [all, none] = [await peak(blocks), await peak([])];
  assert.ok(all < 0.3 * none, `${og.formatBytes(all)} of ${og.formatBytes(none)}`);
});

test('nothing is left of a checkpoint that was walked, or never was', () => {
  const model = tinyModel(0.1);
  const [x, y] = batch(model);
  const step = (walk: boolean): void =>
    og.scope(() => {
      const loss = nn.checkpointed(model.blocks, () => model.loss(x, y));
      if (walk) loss.backward();
      model.zeroGrad();
    });
  step(true);
  const { tensors, bytes } = og.memory();
  step(true);
  step(false);
  assert.deepEqual([og.memory().tensors, og.memory().bytes], [tensors, bytes]);
});
