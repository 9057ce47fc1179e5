/** Going on from a checkpoint: what must be the same, what may differ, what a damaged file does. */
import assert from 'node:assert/strict';
import { open, readdir, truncate, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import * as og from '../../src/index.js';
import { temporaryFolders } from '../helpers/folders.js';
import { eventsOf, lineData, lineTrainer, LineModel, ofType } from '../helpers/line_run.js';

const folder = temporaryFolders();
type Options = Parameters<typeof lineTrainer>[0];

/** A folder with checkpoints of steps 4 and 6. */
async function stopped(options: Options = {}): Promise<string> {
  const dir = await folder();
  const trainer = lineTrainer({ steps: 6, checkpoint: { dir, every: 4 }, ...options });
  await eventsOf(trainer);
  return dir;
}

async function differences(
  dir: string,
  options: Options,
  run: og.RunOptions = {},
): Promise<[string, string, string][]> {
  try {
    await eventsOf(lineTrainer({ steps: 6, checkpoint: { dir }, ...options }), run);
  } catch (error) {
    assert.ok(error instanceof og.ResumeError, String(error));
    return error.differences.map(({ aspect, saved, now }) => [aspect, saved, now]);
  }
  return [];
}

test('what differs is named, with both values; the same run goes on', async () => {
  const dir = await stopped();
  assert.deepEqual(await differences(dir, {}), []);
  assert.deepEqual(await differences(dir, {}, { resume: 'strict' }), []);
  assert.deepEqual(await differences(dir, { batchSize: 8, seed: 2 }), [['batchSize', '4', '8'], ['seed', '1', '2']]); // prettier-ignore
  assert.deepEqual(await differences(dir, { gradientAccumulation: 2 }), [['gradientAccumulation', '1', '2']]);
  assert.deepEqual(await differences(dir, { ema: 0.9 }), [['ema', 'null', '0.9']]);
  const adam = { optimizer: (p: og.Tensor[]) => new og.optim.AdamW(p, { lr: 0.1 }) };
  assert.deepEqual(await differences(dir, adam), [['optimizer', '"SGD"', '"AdamW"']]);
  const [[aspect, saved, now]] = (await differences(dir, { train: lineData((i) => (i === 63 ? { y: 0 } : {})) })) as [[string, string, string]]; // prettier-ignore
  assert.equal(aspect, 'dataset');
  assert.match(saved, /^64 examples, fingerprint [0-9a-f]{16}$/);
  assert.ok(saved !== now);
  assert.match((await differences(dir, { train: lineData(undefined, 60) }))[0]![2], /^60 examples/);
  await assert.rejects(
    eventsOf(lineTrainer({ steps: 6, checkpoint: { dir }, batchSize: 8 })),
    /batchSize: 8 \(checkpoint: 4\)\. Set it back, or say that it is meant: run\(\{ allowChanges: \['batchSize'\] \}\), or start anew in another checkpoint\.dir/,
  );
});

test('another model is refused in any case; a data set may bring its own fingerprint', async () => {
  const data = (fingerprint: string): Options => ({ train: { ...lineData(), fingerprint } });
  const dir = await stopped(data('v1'));
  assert.deepEqual(await differences(dir, data('v2')), [
    ['dataset', '64 examples, fingerprint v1', '64 examples, fingerprint v2'],
  ]);
  const wide = new LineModel();
  (wide as { second: og.nn.Linear }).second = new og.nn.Linear(4, 2);
  const run = (model: og.nn.Module, options: og.RunOptions): Promise<unknown> =>
    eventsOf(lineTrainer({ steps: 6, checkpoint: { dir }, ...data('v1') } as never, model as LineModel), options);
  await assert.rejects(run(wide, { allowChanges: true }), (error: unknown) => {
    assert.ok(error instanceof og.ResumeError);
    const list = error.differences.map(({ aspect, saved, now }) => [aspect, saved, now]);
    assert.deepEqual(list, [['model', 'second.weight [1, 4]', '[2, 4]'], ['model', 'second.bias [1]', '[2]']]); // prettier-ignore
    return /strict: false/.test(error.message);
  });
  await assert.rejects(run(new og.nn.Linear(1, 1), {}), /model: also weight, bias \(checkpoint: also first\.bias/);
  await assert.rejects(run(new LineModel().to('float64'), {}), /dtype: float64 \(checkpoint: first\.weight float32\)/);
});

test('a longer run is a warning, or an error if strict; changes that are meant are warnings', async () => {
  const dir = await stopped();
  assert.deepEqual(await differences(dir, { steps: 9 }, { resume: 'strict' }), [['steps', '6', '9']]);
  const longer = await eventsOf(lineTrainer({ steps: 9, checkpoint: { dir, every: 4 } }));
  assert.deepEqual(longer.slice(0, 3).map(({ type, step }) => [type, step]), [['warning', 6], ['resume', 6], ['step', 7]]); // prettier-ignore
  assert.match(ofType(longer, 'warning')[0]!.message, /goes on with another steps: 9 \(checkpoint: 6\)/);

  // Nine batches of four are 36 examples; with eight a batch that is four and a half batches.
  const trainer = lineTrainer({ steps: 11, batchSize: 8, ema: 0.5, optimizer: (p) => new og.optim.AdamW(p), checkpoint: { dir, every: 1 } }); // prettier-ignore
  const events = await eventsOf(trainer, { allowChanges: ['batchSize', 'optimizer', 'ema'] });
  assert.deepEqual(ofType(events, 'warning').map(({ code }) => code), Array(4).fill('changed-run')); // prettier-ignore
  const last = (await og.loadLatestCheckpoint(dir))!.checkpoint;
  assert.deepEqual(last.run.loader, { epoch: 0, batch: 6 });
  await assert.rejects(eventsOf(lineTrainer({ checkpoint: { dir } }), { allowChanges: ['batchsize' as never] }), /Did you mean batchSize/); // prettier-ignore
});

test('resume: false refuses a folder with checkpoints instead of mixing two runs', async () => {
  const dir = await stopped();
  const before = await readdir(dir);
  await assert.rejects(
    eventsOf(lineTrainer({ checkpoint: { dir } }), { resume: false }),
    /without checkpoints to start anew in, got 2 in/,
  );
  assert.deepEqual(await readdir(dir), before);
  const events = await eventsOf(lineTrainer({ steps: 2, checkpoint: { dir: await folder() } }), { resume: false });
  assert.equal(events[0]!.type, 'step');
});

test('a damaged checkpoint is passed over with a warning, whether it is cut or a bit of it has changed', async () => {
  const damage: ((file: string) => Promise<void>)[] = [
    (file) => truncate(file, 900),
    async (file) => {
      const handle = await open(file, 'r+');
      const { size } = await handle.stat();
      const byte = new Uint8Array(1);
      await handle.read(byte, 0, 1, size - 30);
      byte[0]! ^= 4;
      await handle.write(byte, 0, 1, size - 30);
      await handle.close();
    },
  ];
  for (const change of damage) {
    const dir = await stopped();
    const newest = path.join(dir, 'step-00000006.safetensors');
    await change(newest);
    const events = await eventsOf(lineTrainer({ steps: 6, checkpoint: { dir, every: 4 } }));
    const [warning] = ofType(events, 'warning');
    assert.deepEqual([warning!.code, warning!.path, warning!.step], ['damaged-checkpoint', newest, 4]);
    assert.equal(ofType(events, 'resume')[0]!.step, 4);
  }
  const dir = await stopped();
  for (const name of await readdir(dir)) await truncate(path.join(dir, name), 100);
  await assert.rejects(
    eventsOf(lineTrainer({ checkpoint: { dir } })),
    /a whole checkpoint in .*, got 2 that are all damaged/,
  );
});

test('files that a killed process left unfinished are removed, those of a living one are not', async () => {
  const dir = await stopped();
  const dead = 'step-00000008.safetensors.4194304.0.tmp'; // above the largest process number of Linux
  const living = `step-00000008.safetensors.${process.ppid}.0.tmp`;
  for (const name of [dead, living, 'notes.tmp']) await writeFile(path.join(dir, name), 'x');
  await eventsOf(lineTrainer({ steps: 6, checkpoint: { dir, every: 4 } }));
  assert.deepEqual((await readdir(dir)).filter((name) => name.endsWith('.tmp')).sort(), ['notes.tmp', living]);
});
