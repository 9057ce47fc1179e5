/** Training that is aware of quantisation: gradients of learned steps, the codes that training saw, and what it gains. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { convertQat, prepareQat, quantize, type QatOptions } from '../../src/compress/index.js';
import { initialStep, learnedStep } from '../../src/compress/quantize/learned_step.js';
import { QatLinear } from '../../src/compress/quantize/qat_layer.js';
import * as og from '../../src/index.js';
import { tinyTokens } from '../helpers/tiny_run.js';

const folder = new URL('../fixtures/compress/', import.meta.url);
const fixture = await og.loadSafetensors(new URL('observers.safetensors', folder).pathname);
const largest = (value: og.Tensor): number => og.scope(() => og.amax(og.abs(value)).itemSync() as number);

for (const [name, options] of [
  ['channel', { bits: 4, axis: 0 }],
  ['tensor', { bits: 8 }],
] as const) {
  test(`learned step, one a ${name}: value and gradients as PyTorch’s in float64`, () => {
    const part = (key: string): og.Tensor => fixture[`lsq_${name}_${key}`]!;
    const x = og.clone(part('x')).requiresGrad_();
    const scale = og.clone(og.reshape(part('scale'), name === 'tensor' ? [] : [-1])).requiresGrad_();
    const y = learnedStep(x, scale, options);
    const weights = og.reshape(og.linspace(-1, 1, x.size, { dtype: 'float64' }), x.shape);
    og.sum(og.mul(y, weights)).backward();
    assert.ok(largest(og.sub(y, part('y'))) < 1e-6);
    assert.ok(largest(og.sub(x.grad!, part('dx'))) < 1e-9);
    const difference = og.sub(og.reshape(scale.grad!, [-1]), part('ds'));
    assert.ok(largest(difference) < 1e-6 * largest(part('ds')), `${largest(difference)}`);
  });
}

test('learned steps of groups are those of their numbers as rows', () => {
  const x = og.randn([4, 64], { generator: og.generator(1) });
  const grouped = initialStep(x, { bits: 4, groupSize: 16 });
  const rows = initialStep(og.reshape(x, [16, 16]), { bits: 4, axis: 0 });
  assert.equal(largest(og.sub(og.reshape(grouped, [-1]), rows)), 0);
  const [a, b] = [og.clone(grouped).requiresGrad_(), og.clone(rows).requiresGrad_()];
  og.sum(og.square(learnedStep(x, a, { bits: 4, groupSize: 16 }))).backward();
  og.sum(og.square(learnedStep(og.reshape(x, [16, 16]), b, { bits: 4, axis: 0 }))).backward();
  assert.ok(largest(og.sub(og.reshape(a.grad!, [-1]), b.grad!)) < 1e-6);
  assert.throws(() => learnedStep(x, rows, { bits: 4, groupSize: 16 }), /\[4, 4\]/);
});

const dataset = new og.TextDataset(tinyTokens(), { context: 32, shift: false });
async function train(model: og.GPT, steps: number, lr = 3e-3): Promise<og.GPT> {
  const trainer = new og.Trainer(model, {
    train: dataset,
    batchSize: 16,
    steps,
    optimizer: (_parameters, whole) => new og.optim.AdamW(og.optim.decayGroups(whole!, { weightDecay: 0.01 }), { lr }),
  });
  for await (const _ of trainer.run());
  return model.eval();
}
const config = { vocabSize: 32, context: 32, layers: 2, heads: 2, width: 64 };
const trained = await train(new og.GPT(config, { generator: og.generator(7) }), 60);
const ids = og.tensor(
  Array.from({ length: 4 }, (_, i) => [...tinyTokens().slice(100 * i, 100 * i + 32)]),
  { dtype: 'int32' },
);
const logits = (model: og.GPT): og.Tensor => og.noGrad(() => model.eval().forward(ids));
const text = tinyTokens().subarray(0, 1056);
const window = (shift: number): og.Tensor =>
  og.tensor(
    Array.from({ length: 32 }, (_, i) => [...text.slice(32 * i + shift, 32 * i + shift + 32)]),
    { dtype: 'int32' },
  );
const [inputs, answers] = [window(0), window(1)];
const lossOf = (model: og.GPT): number => og.noGrad(() => model.eval().loss(inputs, answers)).itemSync() as number;

const variants: Record<string, QatOptions> = {
  w8a8: { scheme: 'w8a8' },
  'w8a8 affine inputs': { scheme: 'w8a8', activationScheme: 'affine', momentum: 0.1, observerSteps: 4 },
  'w8a8 dynamic': { scheme: 'w8a8', activations: 'dynamic' },
  'w8a8 learned': { scheme: 'w8a8', learnedSteps: true },
  w8a16: { scheme: 'w8a16' },
  'w4a16 rows': { scheme: 'w4a16', groupSize: null },
  'w4a16 affine': { scheme: 'w4a16', affine: true },
  'w4a16 learned': { scheme: 'w4a16', learnedSteps: true },
  'w4a8 learned': { scheme: 'w4a8', learnedSteps: true, scaleDType: 'float32' },
  nf4: { scheme: 'nf4' },
};
for (const [name, options] of Object.entries(variants)) {
  test(`${name}: the converted model computes what training saw`, async () => {
    const aware = await train(prepareQat(trained, options), 6, 1e-3);
    const want = logits(aware);
    const made = convertQat(aware);
    const kinds = new Set(
      [...made.namedModules()].filter(([path]) => path.endsWith('.up')).map(([, { constructor }]) => constructor.name),
    );
    assert.deepEqual([...kinds], [options.scheme === 'w8a8' ? 'Int8Linear' : 'QuantizedLinear']);
    // on the same inputs, layer by layer; through the model, float noise may move a number over a border between codes
    for (const [path, layer] of aware.namedModules()) {
      if (!(layer instanceof QatLinear)) continue;
      const x = og.randn([40, layer.inFeatures], { generator: og.generator(5) });
      const converted = [...made.namedModules()].find(([name]) => name === path)![1] as og.nn.QuantizedLinear;
      const [saw, gives] = og.noGrad(() => [layer.forward(x), converted.forward(x)]);
      const off = largest(og.sub(gives, saw)) / largest(saw);
      assert.ok(off < 1e-5, `${path}: ${off}`);
    }
    // such a number changes the logits of its own position, by a step of its codes; the others differ by float noise
    const off = og.div(og.amax(og.abs(og.sub(logits(made), want)), -1), largest(want));
    const moved = [...(await off.data())].filter((far) => !((far as number) < 1e-5)) as number[];
    assert.ok(moved.length <= off.size / 20, `${moved.length} of ${off.size} positions`);
    assert.ok(
      moved.every((far) => far < 3e-2),
      `${Math.max(...moved)}`,
    );
    assert.equal(largest(og.sub(logits(og.cloneModel(aware)), want)), 0, 'a copy of the layers in training');
    assert.equal(largest(og.sub(logits(og.cloneModel(made)), logits(made))), 0, 'a copy of the result');
  });
}

test('4 bits a row: training recovers what rounding lost', async () => {
  const plain = lossOf(trained);
  const rounded = lossOf(await quantize(trained, { scheme: 'w4a16', groupSize: null }));
  for (const learnedSteps of [false, true]) {
    const aware = await train(prepareQat(trained, { scheme: 'w4a16', groupSize: null, learnedSteps }), 40, 1e-3);
    const further = lossOf(convertQat(aware));
    assert.ok(further < rounded, `${further} after, ${rounded} before; ${plain} in float32`);
  }
});

test('ranges stay as they are after so many passes, learned steps move, and evaluation changes nothing', async () => {
  const layerOf = (model: og.GPT): QatLinear => model.blocks[0]!.mlp.up as unknown as QatLinear;
  const aware = prepareQat(trained, { scheme: 'w8a8', observerSteps: 3, momentum: 0.5 });
  const { inputLow, inputHigh, observed } = layerOf(aware);
  const ends = (): unknown[] => [inputLow!.itemSync(), inputHigh!.itemSync()];
  await train(aware, 3);
  const before = ends();
  logits(aware);
  await train(aware, 2, 1e-2);
  assert.deepEqual([ends(), observed!.itemSync()], [before, 5]);
  const learned = prepareQat(trained, { scheme: 'w8a8', learnedSteps: true });
  await train(learned, 1);
  const step = layerOf(learned).inputStep!.itemSync() as number;
  await train(learned, 3);
  const moved = layerOf(learned).inputStep!.itemSync() as number;
  assert.ok(step > 0 && moved > 0 && moved !== step && Math.abs(moved / step - 1) < 0.9, `${step} to ${moved}`);
  assert.equal(layerOf(learned).weightStep!.rank, 1, 'no weight decay');
});

test('what cannot be is refused before any work', () => {
  const refuses = (options: object, pattern: RegExp): void =>
    assert.throws(() => prepareQat(trained, options as never), pattern);
  refuses({ scheme: 'fp8-e4m3' }, /scheme/);
  refuses({ scheme: 'w4a16', activations: 'static' }, /activations/);
  refuses({ scheme: 'nf4', learnedSteps: true }, /learnedSteps/);
  refuses({ scheme: 'w8a8', activations: 'dynamic', activationScheme: 'affine' }, /activationScheme/);
  refuses({ scheme: 'w4a16', groupSize: 48 }, /64 inputs of blocks\.0/);
  refuses({ scheme: 'w4a16', learnedStep: true }, /learnedSteps/);
  refuses({ scheme: 'w4a16', target: 'mpl' }, /mlp\.up/);
  assert.throws(() => convertQat(trained), /prepareQat/);
  assert.throws(() => convertQat(prepareQat(trained, { scheme: 'w8a8' })), /blocks\.0\.attention\.q.*Train/s);
});
