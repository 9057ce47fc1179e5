/** A loss that is not finite: which step, examples and module; no weight and no checkpoint is spoilt. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as og from '../../src/index.js';
import { temporaryFolders } from '../helpers/folders.js';
import { eventsOf, lineData, lineTrainer, weightsOf, type LineBatch, type LineModel } from '../helpers/line_run.js';

const folder = temporaryFolders();

/** Layers in a list, of which the middle one takes the logarithm of what may be negative. */
class LogModel extends og.nn.Module {
  readonly layers = [new og.nn.Linear(1, 4, { generator: og.generator(3) }), new Log(), new og.nn.Linear(4, 1)];

  forward(x: og.Tensor): og.Tensor {
    return this.layers.reduce((value: og.Tensor, layer) => layer.forward(value), x);
  }

  loss(x: og.Tensor, y: og.Tensor): og.Tensor {
    return og.mean(og.square(og.sub(this.forward(x), y)));
  }
}

class Log extends og.nn.Module {
  forward(x: og.Tensor): og.Tensor {
    return og.log(og.add(og.mul(x, 0), og.select(x, 1, 0).reshape([x.shape[0]!, 1])));
  }
}

async function failure(trainer: og.Trainer<never, LineBatch>): Promise<og.NonFiniteError> {
  try {
    await eventsOf(trainer);
  } catch (error) {
    assert.ok(error instanceof og.NonFiniteError && error instanceof og.StateError, String(error));
    return error;
  }
  throw new Error('the run went through');
}

test('the first module with an output that is not finite, its class, share and dtype, and the examples', async () => {
  const model = new LogModel();
  // Feature 0 is x: example 9 alone is negative, so a quarter of its batch has the logarithm of a negative number.
  og.noGrad(() => {
    og.copy_(model.layers[0]!.parameters()[0]!, og.ones([4, 1]));
    og.copy_(model.layers[0]!.parameters()[1]!, og.zeros([4]));
  });
  const train = lineData((i) => ({ x: i === 9 ? -1 : 1 }));
  const trainer = lineTrainer({ train, optimizer: (p) => new og.optim.SGD(p, { lr: 0 }) }, model);
  const error = await failure(trainer as never);
  assert.deepEqual(error.module, { path: 'layers.1', type: 'Log', dtype: 'float32', share: 0.25, inputsFinite: true });
  assert.ok(error.batches[0]!.includes(9) && error.batches[0]!.length === 4);
  assert.deepEqual([error.loss, error.epoch, error.batch, error.weights, error.inputs], [NaN, 0, 0, [], []]);
  assert.match(
    error.message,
    /a loss of NaN at step \d+ \(examples [\d, ]+ of epoch 0\); first in module layers\.1 \(Log\): 25 % of its float32 output, from finite inputs/,
  );

  const loader = new og.DataLoader(lineData(), { batchSize: 4, seed: 1 });
  for (let step = 1; step <= error.step; step++) loader.next();
  assert.deepEqual(error.batches[0], loader.last!.indices);
});

test('data that are not finite are named; weights and the last checkpoint stay good, and the run can go on from there', async () => {
  const dir = await folder();
  const bad = new og.DataLoader(lineData(), { batchSize: 4, seed: 1 });
  for (let i = 0; i < 7; i++) bad.next();
  const spoilt = bad.last!.indices[2]!;
  const options = { steps: 12, gradientAccumulation: 2, checkpoint: { dir, every: 2 } };
  const trainer = lineTrainer({ ...options, train: lineData((i) => (i === spoilt ? { x: Infinity } : {})) });
  const error = await failure(trainer as never);
  assert.deepEqual([error.step, error.batch, error.batches.length], [4, 0, 2]);
  assert.deepEqual(error.inputs, [{ name: 'x', dtype: 'float32', share: 0.25 }]);
  assert.match(error.checkpoint!, /step-00000002\.safetensors$/);
  assert.match(
    error.message,
    /the batch itself is not finite: x \(float32, 25 %\).*last good checkpoint is .*step-00000002/,
  );
  const latest = (await og.loadLatestCheckpoint(dir))!;
  assert.equal(latest.checkpoint.run.step, 2);
  for (const [name, value] of Object.entries(await weightsOf(trainer.model)))
    assert.ok((value as number[]).flat(3).every(Number.isFinite), name);

  // The data repaired, the same folder: as a run whose data were good all along.
  const whole = lineTrainer({ ...options, checkpoint: { dir: await folder(), every: 2 } });
  await eventsOf(whole);
  const repaired = lineTrainer(options);
  await eventsOf(repaired, { allowChanges: ['dataset'] });
  assert.deepEqual(await weightsOf(repaired.model), await weightsOf(whole.model));
});

test('gradients alone: the forward pass is finite, the parameters are named', async () => {
  // sqrt has an infinite slope at 0.
  const loss = (model: LineModel, { x }: LineBatch): og.Tensor => og.sum(og.sqrt(og.mul(model.forward(x), 0)));
  const error = await failure(lineTrainer({ loss: loss as never }) as never);
  assert.deepEqual([error.loss, error.module, error.batch], [0, null, null]);
  assert.ok(!Number.isFinite(error.gradNorm));
  assert.ok(error.gradients.some(({ name, share }) => name === 'second.weight' && share === 1));
  assert.match(error.message, /a gradient norm of .* the forward pass is finite, gradients are not: first\.weight/);
});

test('weights that are not finite are never saved', async () => {
  const dir = await folder();
  const spoil: og.TrainCallback<LineModel> = {
    afterStep: ({ model, step }) => {
      if (step === 4) og.noGrad(() => void og.copy_(model.second.bias!, og.full([1], NaN)));
    },
  };
  const trainer = lineTrainer({ steps: 8, checkpoint: { dir, every: 2 }, callbacks: [spoil] as never });
  await assert.rejects(eventsOf(trainer), (error: unknown) => {
    assert.ok(error instanceof og.NonFiniteWeightsError);
    assert.deepEqual([error.step, error.weights.map(({ name }) => name)], [4, ['second.bias']]);
    return /nothing was saved, and the last good checkpoint is .*step-00000002/.test(error.message);
  });
  assert.deepEqual((await og.listCheckpoints(dir)).length, 1);
});

test('a failed step leaves place, random stream and gradients as they were: it can be tried again', async () => {
  let fail = true;
  const loss = (model: LineModel, { x, y }: LineBatch): og.Tensor => {
    const value = model.loss(og.dropout(x, 0.2), y);
    return fail ? og.mul(value, NaN) : value;
  };
  const trainer = lineTrainer({ steps: 5, loss: loss as never });
  og.manualSeed(4);
  await failure(trainer as never);
  fail = false;
  await eventsOf(trainer);
  const whole = lineTrainer({ steps: 5, loss: loss as never });
  og.manualSeed(4);
  await eventsOf(whole);
  assert.deepEqual(await weightsOf(trainer.model), await weightsOf(whole.model));
});
