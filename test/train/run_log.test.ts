/** The log of a run: what it holds, what a resume and a kill leave of it. */
import assert from 'node:assert/strict';
import { appendFile, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, test } from 'node:test';
import * as og from '../../src/index.js';
import { encodeLine } from '../../src/train/run_lines.js';
import { fingerprint, tinyModel, tinyTokens } from '../helpers/tiny_run.js';
import { eventsOf, type DecodedEvent } from '../helpers/tfrecord.js';

const folders: string[] = [];
async function folder(): Promise<string> {
  const made = await mkdtemp(path.join(tmpdir(), 'omnigrad-log-'));
  folders.push(made);
  return made;
}
after(async () => {
  for (const made of folders) await rm(made, { recursive: true, force: true });
});

interface Options {
  readonly dir: string;
  readonly steps?: number;
  readonly logger?: Partial<og.RunLoggerOptions<og.GPT>> | null;
  readonly callbacks?: og.TrainCallback<og.GPT>[];
}

function trainer({ dir, steps = 12, logger = {}, callbacks = [] }: Options): og.Trainer<og.GPT> {
  og.manualSeed(5);
  const tokens = tinyTokens(1200);
  const log = logger === null ? [] : [new og.RunLogger<og.GPT>({ dir, config: { lr: 0.005, seed: 3 }, ...logger })];
  return new og.Trainer(tinyModel(0.1), {
    train: new og.TextDataset(tokens.subarray(0, 1000), { context: 16 }),
    valid: new og.TextDataset(tokens.subarray(1000), { context: 16, shift: false }),
    batchSize: 4,
    steps,
    optimizer: (parameters) => new og.optim.AdamW(parameters, { lr: 5e-3 }),
    evalEvery: 4,
    checkpoint: { dir: path.join(dir, 'checkpoints'), every: 5 },
    callbacks: [...log, ...callbacks],
  });
}

const drain = async (run: AsyncIterable<og.TrainEvent>): Promise<og.TrainEvent[]> => {
  const events: og.TrainEvent[] = [];
  for await (const event of run) events.push(event);
  return events;
};

async function boardOf(dir: string): Promise<DecodedEvent[]> {
  const names = (await readdir(path.join(dir, 'tensorboard'))).sort();
  const files = await Promise.all(names.map((name) => readFile(path.join(dir, 'tensorboard', name))));
  return files.flatMap(eventsOf);
}

test('a log holds every event of the run, with memory, time and what describes it', async () => {
  const dir = await folder();
  const events = await drain(trainer({ dir, logger: { card: { source: 'made up' } } }).run());
  const run = await og.readRun(dir);
  assert.equal(run.status, 'finished');
  assert.equal(run.name, path.basename(dir));
  assert.deepEqual(run.config, { lr: 0.005, seed: 3 });
  assert.deepEqual(run.card, { source: 'made up' });
  const steps = events.filter((event) => event.type === 'step');
  assert.deepEqual(
    run.steps.map(({ time: _time, memory: _memory, rss: _rss, cpu: _cpu, ...event }) => event),
    steps,
  );
  for (const { memory, rss, cpu, time } of run.steps) {
    assert.ok(memory > 1e4 && rss > 1e7 && cpu >= 0 && Math.abs(time - Date.now()) < 60_000);
  }
  assert.deepEqual(
    run.evals.map(({ time: _time, ...event }) => event),
    events.filter((event) => event.type === 'eval'),
  );
  assert.deepEqual(
    run.events.map(({ type }) => type),
    ['checkpoint', 'checkpoint', 'checkpoint', 'done'],
  );
  const [session] = run.sessions;
  assert.equal(session!.parameters, tinyModel().parameterCount());
  assert.equal(session!.machine.pid, process.pid);
  assert.deepEqual([run.superseded, run.damaged, run.total], [0, 0, 12]);

  const summary = og.summarizeRun(run);
  const best = run.evals.reduce((a, b) => (b.loss < a.loss ? b : a));
  assert.deepEqual([summary.step, summary.bestValid, summary.bestStep], [12, best.loss, best.step]);

  const board = await boardOf(dir);
  const losses = board.flatMap(({ step, values }) =>
    values.filter(({ tag }) => tag === 'train/loss').map(({ scalar }) => [step, scalar]),
  );
  assert.deepEqual(
    losses,
    steps.map(({ step, loss }) => [step, Math.fround(loss)]),
  );
});

test('after a kill and a resume, each step counts once, and TensorBoard is told where the run went back', async () => {
  const dir = await folder();
  // Seven steps, of which the last two are after the checkpoint; then the process dies in the middle of a line.
  for await (const event of trainer({ dir }).run()) if (event.type === 'step' && event.step === 7) break;
  const log = path.join(dir, 'run.jsonl');
  await appendFile(log, '{"type":"step","step":8,"lo');
  assert.equal((await og.readRun(dir)).damaged, 0, 'an unfinished line is not damage');
  await drain(trainer({ dir }).run());
  const run = await og.readRun(dir);
  assert.deepEqual(
    run.steps.map(({ step }) => step),
    Array.from({ length: 12 }, (_, i) => i + 1),
  );
  assert.deepEqual(
    run.sessions.map(({ step }) => step),
    [0, 5],
  );
  assert.equal(run.superseded, 2);
  assert.equal(run.damaged, 0);
  assert.doesNotMatch(await readFile(log, 'utf8'), /"lo\{/);
  const whole = await folder();
  await drain(trainer({ dir: whole }).run());
  const loss = async (where: string): Promise<number[]> => (await og.readRun(where)).steps.map((step) => step.loss);
  assert.deepEqual(await loss(dir), await loss(whole));
  const restarts = (await boardOf(dir)).filter(({ isRestart }) => isRestart).map(({ step }) => step);
  assert.deepEqual(restarts, [1, 6]);
});

test('samples, histograms and logging leave the bits of a run alone', async () => {
  const [plain, logged] = [await folder(), await folder()];
  const first = trainer({ dir: plain, logger: null });
  await drain(first.run());
  const asked: number[] = [];
  const samples = {
    every: 5,
    make: (model: og.GPT, step: number) => {
      asked.push(step);
      assert.equal(model.training, false);
      og.rand([100]); // draws from the shared stream
      return [{ title: 'numbers', text: `after ${step}\n<b>` }];
    },
  };
  const second = trainer({ dir: logged, logger: { samples, histograms: 6 } });
  await drain(second.run());
  assert.deepEqual(await fingerprint(second), await fingerprint(first));
  assert.deepEqual(asked, [5, 10, 12]);
  const run = await og.readRun(logged);
  assert.deepEqual(
    run.samples.map(({ step, title, text }) => [step, title, text]),
    asked.map((step) => [step, 'numbers', `after ${step}\n<b>`]),
  );
  const board = await boardOf(logged);
  const histograms = board.flatMap(({ step, values }) =>
    values.flatMap(({ tag, histogram }) => (histogram === undefined ? [] : [{ step, tag, histogram }])),
  );
  const parameters = second.model.namedParameters();
  assert.equal(histograms.length, 2 * 2 * parameters.length, 'weights and gradients, twice');
  const [name, parameter] = parameters[0]!;
  const last = histograms.find(({ step, tag }) => step === 12 && tag === `weights/${name}`)!;
  const values = [...((await parameter.data()) as Float32Array)];
  assert.equal(last.histogram.count, values.length);
  assert.equal(last.histogram.min, Math.min(...values));
  assert.deepEqual(
    board.flatMap(({ values: all }) => all.filter(({ tag }) => tag === 'samples/numbers').map(({ text }) => text)),
    asked.map((step) => `after ${step}\n<b>`),
  );
});

test('events that nobody knows are kept; steps that go back replace what was logged; odd numbers survive', async () => {
  const dir = await folder();
  const logger = new og.RunLogger({ dir });
  const context = { model: tinyModel(), optimizer: null as never, averages: null, step: 0, total: 9 };
  const step = (n: number, loss = 1): og.StepEvent => ({ type: 'step', step: n, total: 9, epoch: 0, loss, lr: 1, gradNorm: Infinity, tokens: n, tokensPerSecond: 5, elapsed: n }); // prettier-ignore
  for (const n of [1, 2, 3]) await logger.onEvent(step(n), context);
  await logger.onEvent({ type: 'rollback', from: 3, step: 1, why: 'spike' } as unknown as og.TrainEvent, context);
  await logger.onEvent(step(2, NaN), context);
  logger.fail(new Error('no more'));
  logger.addResults({ facts: { machine: 'small' }, rows: [{ name: 'a', cells: { size: '1' } }] });
  const run = await og.readRun(dir);
  assert.deepEqual(
    run.steps.map(({ step: n, loss, gradNorm }) => [n, loss, gradNorm]),
    [
      [1, 1, Infinity],
      [2, NaN, Infinity],
    ],
  );
  assert.equal(run.events[0]!.type, 'rollback');
  assert.equal(run.events[0]!['why'], 'spike');
  assert.deepEqual([run.status, run.reason, run.facts], ['failed', 'no more', { machine: 'small' }]);
  assert.deepEqual(run.rows, [{ name: 'a', cells: { size: '1' } }]);
  assert.deepEqual(
    (await boardOf(dir)).filter(({ isRestart }) => isRestart).map(({ step: n }) => n),
    [1, 2],
  );
});

test('a run whose process is gone without a word is interrupted; one that is alive runs', async () => {
  const dir = await folder();
  for await (const event of trainer({ dir }).run()) {
    if (event.type === 'step' && event.step === 2) assert.equal((await og.readRun(dir)).status, 'running');
    if (event.type === 'step' && event.step === 3) break;
  }
  const log = path.join(dir, 'run.jsonl');
  await writeFile(log, (await readFile(log, 'utf8')).replaceAll(`"pid":${process.pid}`, '"pid":2147483646'));
  assert.equal((await og.readRun(dir)).status, 'interrupted');
});

test('runs are found by folder and by name; a damaged line is counted, a foreign file refused', async () => {
  const root = await folder();
  for (const name of ['first', 'second']) await drain(trainer({ dir: path.join(root, 'deep', name), steps: 2 }).run());
  const log = path.join(root, 'deep', 'first', 'run.jsonl');
  await writeFile(log, (await readFile(log, 'utf8')).replace('{', '?'));
  assert.deepEqual(
    (await og.listRuns(root)).map(({ name }) => name),
    ['second'],
    'a log whose start is lost is none',
  );
  await assert.rejects(og.readRun(path.join(root, 'deep', 'first')), /without the start of a run/);
  assert.equal((await og.findRun('second', root)).dir, path.join(root, 'deep', 'second'));
  assert.equal((await og.findRun('deep/second', root)).name, 'second');
  await assert.rejects(og.findRun('secnd', root), /Did you mean second/);
  const second = path.join(root, 'deep', 'second', 'run.jsonl');
  await appendFile(second, `garbage\n${encodeLine({ type: 'note', time: 1 })}`);
  assert.equal((await og.readRun(path.dirname(second))).damaged, 1);
});

test('options that cannot be are refused before the run; a folder that cannot be made, at its start', async () => {
  const dir = await folder();
  const make = (options: object) => () => new og.RunLogger({ dir, ...options });
  assert.throws(make({ evry: 2 }), /Did you mean every/);
  assert.throws(make({ every: 0 }), /every: expected an integer of at least 1, got 0/);
  assert.throws(make({ histograms: 5, tensorboard: false }), /histograms: expected tensorboard/);
  assert.throws(make({ config: { n: 1n } }), /config: expected what JSON can hold/);
  assert.throws(make({ dir: '' }), /dir: expected the path of a folder/);
  await writeFile(path.join(dir, 'file'), '');
  const blocked = trainer({ dir, logger: { dir: path.join(dir, 'file', 'below') } });
  await assert.rejects(drain(blocked.run()), og.ResourceError);
});

test('a disk that is full costs the log, not the run', { skip: process.platform !== 'linux' }, async () => {
  const dir = await folder();
  await symlink('/dev/full', path.join(dir, 'run.jsonl'));
  const warnings: string[] = [];
  const note = (warning: Error): void => void warnings.push(warning.message);
  process.on('warning', note);
  try {
    const events = await drain(trainer({ dir, steps: 3, logger: { tensorboard: false } }).run());
    assert.equal(events.filter(({ type }) => type === 'step').length, 3);
    await new Promise(setImmediate);
  } finally {
    process.off('warning', note);
  }
  assert.equal(warnings.length, 1, 'one warning, not one a line');
  assert.match(warnings[0]!, /The run goes on without a part of its log\. \[append\].* ENOSPC/);
});

test('settings are flattened and compared', () => {
  const configs = [
    { a: 1, b: { c: [1, 2], d: null } },
    { a: 1, b: { c: [1, 3] }, e: true },
  ];
  assert.deepEqual(og.flattenConfig(configs[0]), { a: 1, 'b.c': '[1,2]' });
  assert.deepEqual(og.configDifferences(configs), [
    { name: 'b.c', values: ['[1,2]', '[1,3]'] },
    { name: 'e', values: [undefined, true] },
  ]);
});
