/** The command `omnigrad` as a process of its own: it trains, goes on, and stops when told. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as wait } from 'node:timers/promises';
import * as og from '../../src/index.js';
import { readConfig } from '../../src/cli/train_config.js';
import { findRate, train } from '../../src/cli/train_run.js';
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

  const again = await omnigrad('train', 'tiny.json', '--set', 'steps=20');
  assert.equal(again.status, 1);
  assert.match(again.err, /expected a folder without a run, got one at step 12\. Pass --resume/);
  const more = await omnigrad('train', 'tiny.json', '--resume', '--set', 'steps=16');
  assert.equal(more.status, 0, more.err);
  assert.match(more.out, /Changed since the last session: steps from 12 to 16\./);
  assert.match(more.err, /Going on from step 12/);
});

/** The same within this process, which saves its start. */
async function trainHere(settings: readonly string[], resume = false): Promise<string> {
  const said: string[] = [];
  const say = (line: string): void => void said.push(line);
  const paths = [`data.train=${path.join(folder, 'text.txt')}`, 'steps=4', 'log.samples=null'];
  const resolved = await readConfig(path.join(folder, 'tiny.json'), [...paths, ...settings]);
  const { signal } = new AbortController();
  assert.ok(await train(resolved, { resume, signal, say, mode: 'lines', stream: { write: () => true } }));
  return said.join('\n');
}

test('a tokenizer is learnt; a saved model goes on; another geometry is refused', async () => {
  const [learnt, tuned] = [path.join(folder, 'learnt'), path.join(folder, 'tuned')];
  assert.match(await trainHere([`out=${learnt}`, 'tokenizer={"vocabSize":300}']), /Tokenizer: \d+ tokens learnt/);
  const { model, tokenizer } = await og.load(path.join(learnt, 'model'));
  assert.ok(model.config.vocabSize > 257 && model.config.vocabSize === tokenizer!.vocabSize);
  await trainHere([`out=${tuned}`, `model=${path.join(learnt, 'model')}`, 'optimizer.lr=0']);
  const lossOf = async (dir: string): Promise<number> => (await og.readRun(dir)).evals.at(-1)!.loss;
  assert.equal(await lossOf(tuned), await lossOf(learnt), 'the model as it was');
  await assert.rejects(
    trainHere([`out=${learnt}`, 'tokenizer={"vocabSize":300}', 'model.width=32'], true),
    /expected the model and the tokenizer that the run began with, got a change of model\.width from 16 to 32/,
  );
});

test('a run stops early and keeps its best; --find-lr says which rate to begin with', async () => {
  const out = path.join(folder, 'early');
  const settings = ['earlyStopping={"patience":1,"minDelta":100}', 'checkpoint.best={"keep":1}', 'evaluate.every=1'];
  await trainHere([`out=${out}`, 'steps=9', 'precision=bfloat16', 'activationCheckpointing=true', ...settings]);
  assert.equal((await og.readRun(out)).steps.length, 2, 'the first validation counts, the second is not better by 100');
  assert.ok((await readdir(path.join(out, 'checkpoints'))).includes('best.safetensors'));
  const said: string[] = [];
  const resolved = await readConfig(path.join(folder, 'tiny.json'), [
    `data.train=${path.join(folder, 'text.txt')}`,
    `out=${path.join(folder, 'rate')}`,
  ]);
  await findRate(resolved, { signal: new AbortController().signal, say: (line) => void said.push(line) });
  assert.match(said.at(-1)!, /^The loss falls fastest at [\d.e-]+: --set optimizer\.lr=/);
  assert.ok(said.length > 15, said.join('\n'));
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
  assert.match(
    out.slice(end),
    /memory +[\d.]+ \w+ at its largest: gradients [\d.]+ \w+, optimizer [\d.]+ \w+, activations/,
  );
  assert.match(out.slice(end), /time +[\d.e-]+ s a step, \d+:\d\d in all; \$[\d.e-]+ at \$[\d.]+ an hour/);
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
