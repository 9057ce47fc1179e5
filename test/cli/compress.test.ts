/** The command `omnigrad compress` on a model in a folder: data, plans, the table, going on after Ctrl-C. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { before, test } from 'node:test';
import { compressFolder, type CompressCommand } from '../../src/cli/compress_run.js';
import type { CompressionCard } from '../../src/compress/index.js';
import * as og from '../../src/index.js';
import { startCli } from '../helpers/cli.js';
import { temporaryFolders } from '../helpers/folders.js';

const folders = temporaryFolders();
let folder = '';
const at = (name: string): string => path.join(folder, name);

const words = ['tensor', 'gradient', 'kernel', 'train', 'the', 'a', 'of', 'and'];
const text = Array.from({ length: 900 }, (_, i) => words[(i * i + 3 * i) % 8] + (i % 9 === 8 ? '.\n' : ' ')).join('');

before(async () => {
  folder = await folders();
  const tokenizer = await og.BpeTokenizer.train([], { vocabSize: 257, specialTokens: ['<|endoftext|>'] });
  const config = { vocabSize: 257, context: 32, layers: 1, heads: 2, width: 32 };
  await og.saveModel(at('gpt'), new og.GPT(config, { generator: og.generator(3) }), { tokenizer });
  await writeFile(at('text.txt'), text);
  const benchmark = { prompt: 8, generate: 4, runs: 1 };
  const write = (name: string, plan: object): Promise<void> => writeFile(at(name), JSON.stringify(plan));
  await write('int8.json', { steps: [{ quantize: { scheme: 'w8a8', method: 'smoothquant' } }], benchmark });
  await write('tuned.json', {
    steps: [{ finetune: { steps: 3, batchSize: 4 } }, { quantize: { scheme: 'w4a16', method: 'gptq' } }],
    benchmark,
    calibration: { batches: 2, batchSize: 4 },
  });
  await write('semi.json', {
    steps: [
      { prune: { pattern: '2:4', method: 'sparsegpt' } },
      { finetune: { steps: 4, batchSize: 4, lr: 1e-3, schedule: 'cosine' } },
      { sparsify: { layout: '2:4' } },
      { quantize: { scheme: 'w8a8', embeddings: 'int8' } },
    ],
  });
  await write('student.json', {
    steps: [
      { prune: { heads: 1, neurons: 0.5, importance: 'taylor' } },
      { distill: { layers: 1, temperature: 2, train: { steps: 4, batchSize: 4 } } },
    ],
  });
  await write('badly.json', { steps: [{ distill: { layers: 1, train: { step: 4 } } }] });
  await write('typo.json', { steps: [{ quantize: { scheme: 'w8a8', metod: 'smoothquant' } }] });
});

const said: string[] = [];
function run(command: Partial<CompressCommand>): Promise<void> {
  said.length = 0;
  return compressFolder(at('gpt'), {
    plans: [],
    calibration: [at('text.txt')],
    evaluation: [],
    field: 'text',
    out: null,
    measure: true,
    dryRun: false,
    signal: new AbortController().signal,
    say: (line) => void said.push(line),
    ...command,
  });
}

test(
  'a process compresses a folder, prints the table and leaves model, card and report',
  { timeout: 60_000 },
  async () => {
    const args = ['compress', 'gpt', '--plan', 'int8.json', '--calibration', 'text.txt'];
    const { status, out, err } = await startCli(folder, args).outcome;
    assert.equal(status, 0, err);
    assert.match(out, /int8: step 1 of 1, quantize\n {2}blocks\.0\.attention\.q, output error \d/);
    assert.match(out, /perplexity +on disk +in memory +prefill tokens\/s +decode tokens\/s/);
    assert.match(out, /\noriginal .*\nint8 .*KiB \(×0\.\d+\)/);
    const { tokenizer, card } = await og.load(at('gpt-int8'));
    assert.equal(tokenizer!.decode(tokenizer!.encode('größer')), 'größer');
    assert.ok((card as CompressionCard).after!.perplexity! > 1);
    assert.match(await readFile(at('gpt-int8/report.html'), 'utf8'), /<svg/);
  },
);

test(
  'several plans are compared; finetune steps train on the text, and go on after a stop',
  { timeout: 60_000 },
  async () => {
    const stop = new AbortController();
    const plans = [at('tuned.json'), at('int8.json')];
    const options = { plans, out: at('both'), measure: false };
    const say = (line: string): void => {
      said.push(line);
      if (line.includes('attention.o')) stop.abort();
    };
    await run({ ...options, signal: stop.signal, say });
    assert.equal(said.at(-1), 'Stopped. The same command goes on.');
    await run(options);
    assert.match(said[0]!, /^tuned: goes on after 1 steps and \d layers of the next\.$/);
    const [tuned, int8] = await Promise.all(['both/tuned', 'both/int8'].map((name) => og.load(at(name))));
    const { model: original } = await og.load(at('gpt'));
    const embedding = (model: og.GPT): Promise<unknown> => model.tokens.weight.toArray();
    assert.notDeepEqual(await embedding(tuned!.model), await embedding(original));
    assert.deepEqual(await embedding(int8!.model), await embedding(original));
    assert.equal((tuned!.card as CompressionCard).steps.length, 2);
  },
);

test('pruned, fine-tuned, sparse and int8; pruned and distilled: by plans alone', { timeout: 60_000 }, async () => {
  const stop = new AbortController();
  const options = { plans: [at('semi.json'), at('student.json')], out: at('plans'), measure: false };
  const say = (line: string): void => {
    said.push(line);
    if (line.includes('step 2 of 4, loss')) stop.abort(); // in the middle of the training
  };
  await run({ ...options, signal: stop.signal, say });
  assert.equal(said.at(-1), 'Stopped. The same command goes on.');
  await run(options);
  const text = said.join('\n');
  assert.match(text, /^semi: goes on after 1 steps\./);
  assert.match(text, /\nsemi: step 2 of 4, finetune\n {2}step 3 of 4, loss/, 'the training goes on, too');
  assert.match(text, /\nsemi: prune 2:4 sparsegpt, 50 % zeros in 6 layers; finetune 4 steps; sparsify 2:4, 50 % left/);
  assert.match(
    text,
    /\nstudent: prune 1 head, 64 neurons, \d\d % of the parameters left; distill a student of ×0\.\d\d the parameters, 4 steps/,
  );
  const { model } = await og.load(at('plans/semi'));
  assert.ok(model.blocks[0]!.mlp.up instanceof og.nn.SparseLinear);
  assert.equal(model.blocks[0]!.mlp.up.values.dtype, 'int8');
  assert.equal((await og.load(at('plans/student'))).model.blocks[0]!.mlp.up.outFeatures, 64);
});

test('what cannot be is refused before any work', async () => {
  await assert.rejects(run({ plans: [at('typo.json')] }), /Did you mean method/);
  await assert.rejects(run({ plans: [at('none.json')] }), /no such file/);
  await assert.rejects(run({ plans: [at('text.txt')] }), /expected JSON/);
  await assert.rejects(run({ plans: [at('int8.json')], calibration: [] }), /calibration data for steps\[0\]/);
  await assert.rejects(run({ plans: [at('tuned.json')], calibration: [] }), /text for the finetune step/);
  await assert.rejects(run({ plans: [at('student.json')], calibration: [] }), /text for the distill step/);
  await assert.rejects(run({ plans: [at('badly.json')] }), /steps\[0\]\.distill\.train.*Did you mean steps/s);
  await assert.rejects(run({ plans: [at('int8.json')], calibration: [at('gone.txt')] }), /not there/);
  const wrong = { steps: [{ prune: { pattern: '2:4' } }, { sparsify: { layout: 'block' } }] };
  await writeFile(at('wrong.json'), JSON.stringify(wrong));
  for (const dryRun of [true, false])
    await assert.rejects(run({ plans: [at('wrong.json')], dryRun, out: at('dry') }), /2:4 or csr/);
  await run({ plans: [at('int8.json')], dryRun: true, out: at('dry') });
  assert.match(said.join('\n'), /"smoothquant"/);
  assert.equal(existsSync(at('dry')), false);
});
