/** The command `omnigrad` as a process of its own: it trains, goes on, and stops when told. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as wait } from 'node:timers/promises';
import * as og from '../../src/index.js';
import { startCli, type Outcome, type Started } from '../helpers/cli.js';

let folder = '';

const words = ['tensor', 'gradient', 'kernel', 'train', 'the', 'a', 'of', 'and'];
const text = Array.from({ length: 900 }, (_, i) => words[(i * i + 3 * i) % 8] + (i % 9 === 8 ? '.\n' : ' ')).join('');

const config = {
  data: { train: 'text.txt', validShare: 0.2 },
  model: { layers: 1, heads: 2, width: 16, context: 16 },
  optimizer: { type: 'adamw', lr: 3e-3, weightDecay: 0.1 },
  schedule: { type: 'cosine', warmup: 2 },
  batchSize: 4,
  steps: 12,
  evaluate: { every: 6, batches: 2 },
  checkpoint: { every: 5 },
  log: { samples: { every: 6, prompts: ['the '], maxNewTokens: 4 } },
};

before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'omnigrad-cli-'));
  await writeFile(path.join(folder, 'text.txt'), text);
  await writeFile(path.join(folder, 'tiny.json'), JSON.stringify(config));
});
after(() => rm(folder, { recursive: true, force: true }));

const start = (args: readonly string[]): Started => startCli(folder, args);
const omnigrad = (...args: string[]): Promise<Outcome> => start(args).outcome;

test('a configuration becomes a model, a log, a report; the run goes on when told to', async () => {
  const first = await omnigrad('train', 'tiny.json');
  assert.equal(first.status, 0, first.err);
  assert.match(first.out, /^tiny: \d+ parameters, 12 steps; 1 threads/);
  assert.match(first.err, /step 12\/12 .*loss \d.*lr .*grad norm .*tokens\/s {2}memory .*left\n/, 'lines in a pipe');
  assert.match(first.out, /Model: runs.tiny.model \(with its tokenizer\)\nReport: runs.tiny.report\.html/);
  const dir = path.join(folder, 'runs', 'tiny');
  const { model, tokenizer, card } = await og.load(path.join(dir, 'model'));
  assert.equal(model.config.vocabSize, 257);
  assert.equal(tokenizer!.decode(tokenizer!.encode('größer')), 'größer');
  assert.equal((card as { step: number }).step, 12);
  assert.match(await readFile(path.join(dir, 'report.html'), 'utf8'), /<svg/);
  const run = await og.readRun(dir);
  assert.deepEqual([run.status, run.steps.length, run.evals.length], ['finished', 12, 2]);
  assert.deepEqual(
    run.samples.map(({ step, title }) => [step, title]),
    [
      [6, '"the "'],
      [12, '"the "'],
    ],
  );

  const [again, more, other] = await Promise.all([
    omnigrad('train', 'tiny.json', '--set', 'steps=20'),
    omnigrad('train', 'tiny.json', '--resume', '--set', 'steps=16'),
    omnigrad('train', 'tiny.json', '--set', 'name=other', '--set', 'optimizer.lr=0.01', '--set', 'steps=3', '--set', 'tokenizer={"vocabSize":300}'), // prettier-ignore
  ]);
  assert.equal(again.status, 1);
  assert.match(
    again.err,
    /expected a folder (without a run, got one at step 12\. Pass --resume|that no other process uses)/,
  );
  assert.equal(more.status, 0, more.err);
  assert.match(more.out, /Changed since the last session: steps from 12 to 16\./);
  assert.match(more.err, /Going on from step 12/);
  assert.equal(other.status, 0, other.err);
  assert.match(other.out, /Tokenizer: \d+ tokens learnt/);

  const [refused, tuned] = await Promise.all([
    omnigrad('train', 'tiny.json', '--resume', '--set', 'model.width=32'),
    omnigrad('train', 'tiny.json', '--set', 'model=runs/tiny/model', '--set', 'out=tuned', '--set', 'steps=2'),
  ]);
  assert.equal(refused.status, 1);
  assert.match(refused.err, /expected the model and the tokenizer that the run began with, got a change of model\.width from 16 to 32/); // prettier-ignore

  assert.equal(tuned.status, 0, tuned.err);
  const before = (await og.readRun(dir)).evals.at(-1)!.loss;
  const after = (await og.readRun(path.join(folder, 'tuned'))).evals.at(-1)!.loss;
  assert.ok(Math.abs(after - before) < 0.2, `goes on from the model: ${before}, ${after}`);
});

test('--dry-run prints configuration and plan, and writes nothing', async () => {
  const { status, out, err } = await omnigrad(
    'train',
    'tiny.json',
    '--dry-run',
    '--set',
    'out=dry',
    '--set',
    'ema=0.99',
  );
  assert.equal(status, 0, err);
  const end = out.indexOf('\n}\n') + 2;
  const resolved = JSON.parse(out.slice(0, end)) as { ema: number; clipGradNorm: number; data: object };
  assert.deepEqual([resolved.ema, resolved.clipGradNorm], [0.99, 1]);
  assert.match(out.slice(end), /steps +12, of 64 tokens \(4 × 1 × 16\)\noptimizer +adamw, cosine schedule/);
  assert.match(out.slice(end), /data +1 file, [\d.]+ KiB; 20 % of it held back\n/);
  assert.equal(existsSync(path.join(folder, 'dry')), false);
});

test('Ctrl-C saves the run, and --resume goes on with it', { skip: process.platform === 'win32' }, async () => {
  const settings = [
    '--set',
    'steps=100000',
    '--set',
    'out=long',
    '--set',
    'log.samples=null',
    '--set',
    'evaluate.every=100000',
  ];
  const { child, outcome } = start(['train', 'tiny.json', ...settings]);
  const log = path.join(folder, 'long', 'run.jsonl');
  for (let i = 0; i < 300; i++) {
    if (existsSync(log) && (await readFile(log, 'utf8')).includes('"step":3,')) break;
    await wait(50);
  }
  child.kill('SIGINT');
  const { status, out, err } = await outcome;
  assert.equal(status, 130, err);
  assert.match(out, /Saved\. The same command with --resume goes on\./);
  const run = await og.readRun(path.join(folder, 'long'));
  assert.deepEqual([run.status, run.reason], ['stopped', 'aborted']);
  const files = await readdir(path.join(folder, 'long', 'checkpoints'));
  const last = run.steps.at(-1)!.step;
  assert.ok(files.includes(`step-${String(last).padStart(8, '0')}.safetensors`), `${last}: ${files.join(' ')}`);
});
