/** Spikes of the loss: seen, undone, left out; the same again after a restart. */
import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import { test } from 'node:test';
import * as og from '../../src/index.js';
import { LossSpikes, robustLimit } from '../../src/train/loss_spikes.js';
import { median } from '../../src/util/statistics.js';
import { temporaryFolders } from '../helpers/folders.js';
import {
  eventsOf,
  lineData,
  lineTrainer,
  ofType,
  weightsOf,
  type LineBatch,
  type LineModel,
} from '../helpers/line_run.js';

const folder = temporaryFolders();

/** The first epoch's examples in the order of seed 1, four a batch; those of batch `at` are spoilt in every epoch. */
async function batchOf(at: number): Promise<readonly number[]> {
  const loader = new og.DataLoader(lineData(undefined, 128), { batchSize: 4, seed: 1 });
  for (let i = 0; i <= at; i++) loader.next();
  return loader.last!.indices;
}

interface SpikeRun {
  readonly dir: string;
  readonly spoilt: readonly number[];
  readonly value?: number;
  readonly spikes?: og.LossSpikeOptions;
  readonly accumulation?: number;
  readonly steps?: number;
}

function spikeTrainer({
  dir,
  spoilt,
  value = 1e3,
  spikes,
  accumulation = 1,
  steps = 14,
}: SpikeRun): og.Trainer<LineModel, LineBatch> {
  return lineTrainer({
    train: lineData((i) => (spoilt.includes(i) ? { y: value } : {}), 128),
    steps,
    gradientAccumulation: accumulation,
    checkpoint: { dir, every: 4, keep: 2 },
    lossSpikes: { minHistory: 3, window: 16, lossThreshold: 20, gradNormThreshold: 20, ...spikes },
  });
}

test('median and limit', () => {
  assert.equal(median([3, 1, 2]), 2);
  assert.equal(median([4, 1, 2, 3]), 2.5);
  // Deviations of 1, 2, 3, 4, 100 from 3 are 2, 1, 0, 1, 97: their median is 1, whatever the outlier.
  assert.equal(
    robustLimit([1, 2, 3, 4, 100], 2, () => 0),
    3 + 2 * 1.482602218505602,
  );
  assert.equal(
    robustLimit([5, 5, 5], 2, (middle) => 0.01 * middle),
    5.1,
  );
});

test('a lone spike waits for confirmation, a second makes a spike that began at the first', () => {
  const spikes = new LossSpikes({ minHistory: 3, window: 8, confirm: 2 });
  const place = (step: number): { step: number; from: number; to: number } => ({ step, from: step - 1, to: step });
  for (let step = 1; step <= 5; step++) assert.equal(spikes.observe(2 + 0.01 * step, 1, place(step)), null);
  assert.equal(spikes.observe(50, 1, place(6)), null);
  assert.ok(spikes.pending);
  assert.equal(spikes.observe(2, 1, place(7)), null);
  assert.ok(!spikes.pending);
  assert.equal(spikes.observe(2, 1e6, place(8)), null);
  const spike = spikes.observe(60, 1, place(9));
  assert.deepEqual([spike?.signal, spike?.step, spike?.from, spike?.to], ['loss', 8, 7, 9]);
});

test('a run goes back to the checkpoint before the spike and takes other batches, as one that skips them by itself', async () => {
  const dir = await folder();
  const spoilt = await batchOf(9); // the batch of step 10; the checkpoint before is that of step 8
  const trainer = spikeTrainer({ dir, spoilt });
  const events = await eventsOf(trainer);
  const [back, ...more] = ofType(events, 'rollback');
  assert.equal(more.length, 0);
  assert.deepEqual([back!.step, back!.to, back!.signal, back!.skipped, back!.rollbacks], [10, 8, 'loss', 2, 1]);
  assert.ok(back!.value > back!.limit);
  assert.deepEqual(
    ofType(events, 'step').map(({ step }) => step),
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 10, 11, 12, 13, 14],
  );

  // By hand: the same steps on the batches 0–7 and 10–15.
  const model = lineTrainer({}).model;
  const optimizer = new og.optim.SGD(model.parameters(), { lr: 0.05, momentum: 0.9 });
  const loader = new og.DataLoader(lineData(undefined, 128), { batchSize: 4, seed: 1 });
  for (let step = 0; step < 14; step++) {
    if (loader.position === 8) loader.position = 10;
    og.scope(() => {
      const { x, y } = loader.next();
      model.loss(x, y).backward();
      optimizer.step();
      optimizer.zeroGrad();
    });
  }
  assert.deepEqual(await weightsOf(trainer.model), await weightsOf(model));
});

test('a run that is stopped anywhere around a roll-back ends with the same bits', async () => {
  const spoilt = await batchOf(11); // of steps 10 to 12 with two batches a step
  const make = (dir: string): og.Trainer<LineModel, LineBatch> =>
    spikeTrainer({ dir, spoilt, accumulation: 2, steps: 9, spikes: { skipBefore: 0, skipAfter: 1 } });
  const whole = make(await folder());
  const events = await eventsOf(whole);
  const [back] = ofType(events, 'rollback');
  assert.deepEqual([back!.step, back!.to, back!.skipped], [6, 4, 4]);
  const expected = await weightsOf(whole.model);
  for (let stopAt = 1; stopAt < events.length; stopAt += 2) {
    const dir = await folder();
    const abort = new AbortController();
    let i = 0;
    // Odd ones break off without a word, as a killed process does; even ones are asked to stop and write a checkpoint.
    for await (const _ of make(dir).run({ signal: abort.signal })) {
      if (++i !== stopAt) continue;
      if (stopAt % 4 === 1) break;
      abort.abort();
    }
    const second = make(dir);
    await eventsOf(second);
    assert.deepEqual(await weightsOf(second.model), expected, `stopped at event ${stopAt}`);
  }
});

test('one spike more than allowed ends the run; checkpoints are from before it', async () => {
  const dir = await folder();
  const spoilt = [...(await batchOf(5)), ...(await batchOf(10))];
  const trainer = spikeTrainer({ dir, spoilt, spikes: { maxRollbacks: 1 } });
  await assert.rejects(eventsOf(trainer), (error: unknown) => {
    assert.ok(error instanceof og.DivergenceError && error instanceof og.StateError);
    assert.deepEqual([error.rollbacks, error.spike.signal], [1, 'loss']);
    return /at most 1 roll-backs, got another spike at step \d+/.test(error.message);
  });
  assert.ok((await readdir(dir)).every((name) => name <= 'step-00000008.safetensors'));
});

test('with nonFinite: rollback a NaN counts as a spike', async () => {
  const dir = await folder();
  const trainer = spikeTrainer({ dir, spoilt: await batchOf(6), value: NaN, spikes: { nonFinite: 'rollback' } });
  const [back] = ofType(await eventsOf(trainer), 'rollback');
  assert.deepEqual([back!.step, back!.to, back!.value], [7, 4, NaN]);
  const finite = await Promise.all(trainer.model.parameters().map((value) => og.all(og.isFinite(value)).item()));
  assert.ok(finite.every(Boolean));
});
