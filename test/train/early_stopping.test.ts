/** Validation sets and metrics, early stopping, the best checkpoints. */
import assert from 'node:assert/strict';
import { readdir, readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import * as og from '../../src/index.js';
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

/** A metric that gives these values in turn, whatever the model; one batch a validation. */
function scripted(values: readonly number[]): { script: () => number } {
  let i = 0;
  return { script: () => values[Math.min(i++, values.length - 1)]! };
}

test('several sets and metrics come with each event, at every so many tokens', async () => {
  const trainer = lineTrainer({
    steps: 6,
    valid: { near: lineData(), far: lineData((i) => ({ y: i })) },
    metrics: {
      worst: (model, { x, y }) => og.amax(og.abs(og.sub(model.forward(x), y))),
      examples: (_, { x }) => x.shape[0]!,
    },
    evalEvery: { tokens: 8 },
    evalBatches: 2,
  });
  const evals = ofType(await eventsOf(trainer), 'eval');
  assert.deepEqual(evals.map(({ step }) => step), [2, 4, 6]); // prettier-ignore
  const last = evals.at(-1)!;
  assert.deepEqual(Object.keys(last.sets), ['near', 'far']);
  assert.equal(last.loss, last.sets['near']!.loss);
  assert.equal(last.metrics['examples'], 4);
  assert.ok(last.sets['far']!.loss > last.loss && last.sets['far']!.metrics['worst']! > last.metrics['worst']!);

  const { model } = trainer;
  const expected = [0, 4].map((from) =>
    lineData().batch(
      [0, 1, 2, 3].map((i) => from + i),
      0,
    ),
  );
  const worst = expected.map(({ x, y }) => og.amax(og.abs(og.sub(model.forward(x), y))).itemSync());
  assert.ok(Math.abs(last.metrics['worst']! - (worst[0]! + worst[1]!) / 2) < 1e-6);
});

test('a run stops after `patience` validations that do not improve by minDelta, and gets the best weights back', async () => {
  const dir = await folder();
  const options = {
    valid: lineData(),
    evalEvery: 3,
    evalBatches: 1,
    earlyStopping: { metric: 'script', mode: 'max', patience: 2, minDelta: 0.1, restoreBest: true },
    checkpoint: { dir, every: 100 },
  } as const;
  // Best with minDelta: 1 at step 6; 1.05 at step 9 is better, but not by enough; 0.5 ends it.
  const trainer = lineTrainer({ ...options, metrics: scripted([0, 1, 1.05, 0.5, 9]) });
  const seen: Record<number, unknown> = {};
  const events: og.TrainEvent[] = [];
  for await (const event of trainer.run()) {
    if (event.type === 'step') seen[event.step] = await weightsOf(trainer.model);
    events.push(event);
  }
  const [done] = ofType(events, 'done');
  assert.deepEqual([done!.reason, done!.step], ['earlyStopping', 12]);
  const [restored] = ofType(events, 'restore');
  assert.deepEqual([restored!.step, restored!.value, restored!.metric], [9, 1.05, 'script']);
  assert.deepEqual(await weightsOf(trainer.model), seen[9]);

  // Started again, it is still over, and the best weights are there again.
  const again = lineTrainer({ ...options, metrics: scripted([2]) });
  const after = await eventsOf(again);
  assert.deepEqual(after.map(({ type }) => type), ['resume', 'restore', 'done']); // prettier-ignore
  assert.deepEqual(await weightsOf(again.model), seen[9]);
});

test('the best k are kept beside the last n, with a name for the best of all; a resumed run keeps the same', async () => {
  const values = [5, 1, 4, 2, 3, 6, 7, 0.5, 9, 9];
  const options = (dir: string): Parameters<typeof lineTrainer>[0] => ({
    steps: 20,
    valid: lineData(),
    evalEvery: 2,
    evalBatches: 1,
    checkpoint: { dir, every: 5, keep: 1, best: { metric: 'valid.script', keep: 2 } },
  });
  const stable = (name: string): boolean => name.endsWith('.safetensors') || name.endsWith('.json');
  const whole = await folder();
  const events = await eventsOf(lineTrainer({ ...options(whole), metrics: scripted(values) }));
  const names = (await readdir(whole)).sort();
  assert.deepEqual(names, [
    'best-00000004.safetensors', 'best-00000016.safetensors', 'best.json', 'best.safetensors', 'step-00000020.safetensors',
  ]); // prettier-ignore
  assert.equal((await stat(path.join(whole, 'best.safetensors'))).ino, (await stat(path.join(whole, names[1]!))).ino);
  const index = JSON.parse(await readFile(path.join(whole, 'best.json'), 'utf8')) as {
    metric: string;
    best: unknown[];
  };
  assert.equal(index.metric, 'valid.script');
  assert.deepEqual(index.best, [
    { step: 16, value: 0.5, file: 'best-00000016.safetensors' },
    { step: 4, value: 1, file: 'best-00000004.safetensors' },
  ]);
  const ranks = ofType(events, 'checkpoint').flatMap(({ step, best }) =>
    best === undefined ? [] : [[step, best.rank]],
  );
  assert.deepEqual(ranks, [[2, 1], [4, 1], [6, 2], [8, 2], [16, 1]]); // prettier-ignore
  const best = await og.loadCheckpoint(path.join(whole, 'best.safetensors'));
  assert.equal(best.run.step, 16);

  // Stopped between evaluations and started again: the metric goes on where a model's would.
  const broken = await folder();
  for await (const event of lineTrainer({ ...options(broken), metrics: scripted(values) }).run())
    if (event.type === 'step' && event.step === 13) break; // the last regular checkpoint is that of step 10
  await eventsOf(lineTrainer({ ...options(broken), metrics: scripted(values.slice(5)) }));
  assert.deepEqual((await readdir(broken)).sort(), names);
  for (const name of names.filter((entry) => stable(entry) && entry.includes('.json')))
    assert.equal(await readFile(path.join(broken, name), 'utf8'), await readFile(path.join(whole, name), 'utf8'));
  const [a, b] = await Promise.all([whole, broken].map((dir) => og.loadCheckpoint(path.join(dir, 'best.safetensors'))));
  for (const [name, value] of Object.entries(a!.model))
    assert.deepEqual(await b!.model[name]!.toArray(), await value.toArray());
});

test('an evaluation that an abort cuts short is made up for after resuming', async () => {
  const dir = await folder();
  const abort = new AbortController();
  const make = (stopAt: number): og.Trainer<LineModel, LineBatch> => {
    let calls = 0;
    return lineTrainer({
      steps: 9,
      valid: lineData(),
      evalEvery: 4,
      evalBatches: 4,
      metrics: { count: () => (++calls === stopAt ? abort.abort() : undefined, 1) },
      checkpoint: { dir, every: 100 },
    });
  };
  const first = await eventsOf(make(2), { signal: abort.signal });
  assert.deepEqual(first.map(({ type }) => type), ['step', 'step', 'step', 'step', 'checkpoint', 'done']); // prettier-ignore
  const second = await eventsOf(make(-1));
  assert.deepEqual(second.slice(0, 3).map(({ type, step }) => [type, step]), [['resume', 4], ['eval', 4], ['step', 5]]); // prettier-ignore
});
