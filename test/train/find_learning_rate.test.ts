/** The learning-rate range test: what it suggests, when it stops, and that it leaves no trace. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as og from '../../src/index.js';
import { tinyModel, tinyTokens } from '../helpers/tiny_run.js';

const { optim } = og;

/** ½·Σ λᵢ·wᵢ² with w = 1 at first: gradient descent diverges above 2/max λ, and falls fastest near 1/λ. */
class Bowl extends og.nn.Module {
  readonly w = og.nn.parameter(og.ones([2]));
  readonly seen = og.zeros([1]);
  override forward(x: og.Tensor): og.Tensor {
    og.noGrad(() => og.copy_(this.seen, og.add(this.seen, 1)));
    return og.sum(og.mul(og.mul(og.mul(this.w, this.w), x), 0.5));
  }
}

/** Batches that are all the same: the two curvatures. */
const curvatures: og.Dataset<og.Batch> = {
  length: 8,
  batch: () => ({ x: og.tensor([4, 1]), y: og.zeros([1]) }),
};

const loss = (model: Bowl, { x }: og.Batch): og.Tensor => model.forward(x);
const bowl = { train: curvatures, batchSize: 1, loss, steps: 60, start: 1e-4, end: 10, smoothing: 0 };
const sgd = (params: og.Tensor[]): og.optim.SGD => new optim.SGD(params);

/** Everything that a sweep could change, as bytes. */
async function traces(model: og.nn.Module): Promise<unknown> {
  const tensors = [...model.namedParameters(), ...model.namedBuffers()];
  const bytesOf = async (tensor: og.Tensor): Promise<string> =>
    Buffer.from((await tensor.data()).buffer as ArrayBuffer).toString('base64');
  return {
    values: await Promise.all(tensors.map(async ([name, tensor]) => [name, await bytesOf(tensor)])),
    grads: await Promise.all(tensors.map(async ([, { grad }]) => (grad === null ? null : bytesOf(grad)))),
    modes: [...model.namedModules()].map(([, module]) => module.training),
    random: [...(await og.randn([4]).data())],
  };
}

test('the rate that it suggests lies where gradient descent is stable, and it stops when the loss diverges', async () => {
  const model = new Bowl();
  const found = await og.findLearningRate(model, { ...bowl, optimizer: sgd });
  assert.equal(found.stopped, 'diverged');
  assert.ok(found.rates.at(-1)! > 0.5 && found.rates.length < 60);
  assert.ok(found.suggestion! > 0.02 && found.suggestion! < 0.5, String(found.suggestion));
  assert.equal(found.losses[0], 2.5);
  assert.deepEqual(found.smoothed, found.losses);
  assert.deepEqual([found.losses.length, found.smoothed.length], [found.rates.length, found.rates.length]);
  found.rates.slice(1).forEach((rate, i) => assert.ok(Math.abs(rate / found.rates[i]! - 1e5 ** (1 / 59)) < 1e-12));
});

test('the smoothed loss is the moving average without the bias of its start', async () => {
  const { losses, smoothed } = await og.findLearningRate(new Bowl(), {
    ...bowl,
    end: 0.1,
    smoothing: 0.8,
    optimizer: sgd,
  });
  losses.forEach((_, i) => {
    const weights = losses.slice(0, i + 1).map((__, j) => 0.8 ** (i - j));
    const total = weights.reduce((a, b) => a + b);
    const want = weights.reduce((sum, weight, j) => sum + weight * losses[j]!, 0) / total;
    assert.ok(Math.abs(smoothed[i]! - want) < 1e-12 * want);
  });
});

test('a model is left as it was, to the last bit: weights, buffers, gradients, modes, random stream', async () => {
  const model = tinyModel(0.1);
  const tokens = tinyTokens(600);
  model.eval();
  const [first] = model.parameters() as [og.Tensor];
  first.grad = og.ones(first.shape);
  const options = {
    train: new og.TextDataset(tokens, { context: 16 }),
    batchSize: 4,
    steps: 25,
    start: 1e-4,
    clipGradNorm: 1,
    optimizer: (_: og.Tensor[], m: og.GPT) => new optim.AdamW(optim.decayGroups(m, { weightDecay: 0.1 })),
  };
  og.manualSeed(5);
  const before = await traces(model);
  og.manualSeed(5);
  const found = await og.findLearningRate(model, options);
  assert.deepEqual(await traces(model), before);
  assert.ok(found.losses.at(-1) !== found.losses[0]);
  og.manualSeed(5);
  const { tensors } = og.memory();
  assert.deepEqual(await og.findLearningRate(model, options), found);
  assert.equal(og.memory().tensors, tensors);
});

test('groups keep the ratios of their rates', async () => {
  const model = new Bowl();
  const rates: number[][] = [];
  const other = og.zeros([1]).requiresGrad_();
  class Watched extends optim.SGD {
    override step(): void {
      rates.push(this.groups.map((group) => group.lr));
    }
  }
  const optimizer = (params: og.Tensor[]): og.optim.SGD =>
    new Watched([{ params, lr: 0.01 }, { params: [other], lr: 0.04 }]); // prettier-ignore
  const { rates: swept } = await og.findLearningRate(model, { ...bowl, steps: 5, optimizer });
  assert.deepEqual(rates, swept.map((rate) => [rate / 4, rate])); // prettier-ignore
});

test('a loss that never falls gives no suggestion; an error and an abort restore the model too', async () => {
  const model = new Bowl();
  const rising = await og.findLearningRate(model, {
    ...bowl,
    end: 0.01,
    optimizer: (params) => new optim.SGD(params, { maximize: true }),
  });
  assert.deepEqual([rising.suggestion, rising.stopped], [null, 'finished']);
  const before = await traces(model);
  let calls = 0;
  const failing = (m: Bowl, batch: og.Batch): og.Tensor => {
    if (++calls === 4) throw new RangeError('broken');
    return loss(m, batch);
  };
  await assert.rejects(og.findLearningRate(model, { ...bowl, loss: failing, optimizer: sgd }), RangeError);
  const abort = new AbortController();
  calls = -100;
  const stopping = (m: Bowl, batch: og.Batch): og.Tensor => {
    if (++calls === -97) abort.abort();
    return loss(m, batch);
  };
  const stopped = await og.findLearningRate(model, { ...bowl, loss: stopping, optimizer: sgd, signal: abort.signal });
  assert.deepEqual([stopped.stopped, stopped.rates.length], ['aborted', 3]);
  const values = (x: unknown): unknown => (x as { values: unknown }).values;
  assert.deepEqual(values(await traces(model)), values(before));
});

test('a loss that becomes NaN ends the sweep', async () => {
  let calls = 0;
  const broken = (m: Bowl, batch: og.Batch): og.Tensor => {
    const value = loss(m, batch);
    return ++calls === 6 ? og.mul(value, NaN) : value;
  };
  const found = await og.findLearningRate(new Bowl(), { ...bowl, loss: broken, optimizer: sgd });
  assert.deepEqual([found.stopped, found.losses.length], ['diverged', 5]);
});

test('the sweep runs in the precision of the run, and adds gradients up as it does', async () => {
  const model = tinyModel(0);
  const [weights] = model.parameters() as [og.Tensor];
  const seen = new Set<string>();
  const watching = (m: og.GPT, { x, y }: og.Batch): og.Tensor => {
    seen.add((m.parameters()[0] as og.Tensor).dtype);
    return m.loss(x, y);
  };
  const options = {
    train: new og.TextDataset(tinyTokens(600), { context: 16 }),
    batchSize: 2,
    steps: 6,
    start: 1e-4,
    loss: watching,
    optimizer: (params: og.Tensor[]) => new optim.AdamW(params),
  };
  const float = await og.findLearningRate(model, options);
  assert.deepEqual([...seen], ['float32']);
  seen.clear();
  const half = await og.findLearningRate(model, { ...options, precision: 'bfloat16' });
  assert.deepEqual([...seen], ['bfloat16']);
  assert.equal(weights.dtype, 'float32');
  assert.notDeepEqual(half.losses, float.losses);
  // The last rates diverge, and what differs there grows.
  half.losses.forEach((value, i) => assert.ok(Math.abs(value / float.losses[i]! - 1) < 0.03));
  const whole = await og.findLearningRate(model, { ...options, batchSize: 4 });
  const added = await og.findLearningRate(model, { ...options, gradientAccumulation: 2 });
  added.losses.forEach((value, i) => assert.ok(Math.abs(value - whole.losses[i]!) < 1e-4));
});

test('wrong options are refused', async () => {
  const model = new Bowl();
  const refuses = (options: object): Promise<void> =>
    assert.rejects(og.findLearningRate(model, { ...bowl, optimizer: sgd, ...options }), og.AttributeError);
  await refuses({ start: 0 });
  await refuses({ start: 1, end: 1 });
  await refuses({ steps: 2 });
  await refuses({ smoothing: 1 });
  await refuses({ divergence: 0.5 });
  await refuses({ optimizer: 3 });
  await refuses({ stepss: 10 });
  await refuses({ precision: 'float8' });
  await refuses({ optimizer: (params: og.Tensor[]) => new optim.SGD(params, { lr: 0 }) });
});
