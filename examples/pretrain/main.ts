/**
 * Pre-trains a GPT on a file or a folder of text: vocabulary, token files, training with checkpoints, samples, a model to go on from,
 * and a report. Ctrl-C saves; the same command again goes on.
 *
 *     npx tsx examples/pretrain/main.ts --data FOLDER --steps 600
 */
import { existsSync } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { gzipSync } from 'node:zlib';
import { Command, Option } from 'commander';
import * as og from '../../src/index.js';
import {
  keepSettings,
  positive,
  printTable,
  runExample,
  say,
  whole,
  withGeometry,
  type Geometry,
} from '../shared/cli.js';
import { bitsPerByte, write } from '../shared/measure.js';
import {
  declarationFiles, encodePieces, firstWords, learnTokenizer, readDocuments, splitDocuments, type Encoded, type SplitText,
} from '../shared/text.js'; // prettier-ignore
import { runToEnd } from '../shared/train.js';

const SEED = 1337;

interface Options extends Geometry {
  data?: string;
  field: string;
  out: string;
  batch: number;
  steps: number;
  lr: number;
  precision: og.Precision;
  prompt?: string[];
  fresh?: boolean;
}

const options = withGeometry(
  new Command('npx tsx examples/pretrain/main.ts')
    .option('--data <path>', 'text, JSON Lines, or a folder of them (default: the declaration files of TypeScript)')
    .option('--field <name>', 'where a line of JSON Lines has its text', 'text')
    .option('--out <folder>', 'where everything goes', 'runs/pretrain'),
  { vocab: { least: 259, usual: 2048 }, width: 192, context: { least: 2, usual: 128, of: 'sequence' } },
)
  .option('--batch <number>', 'sequences of a step', whole(1), 16)
  .option('--steps <number>', '', whole(1), 600)
  .option('--lr <number>', 'highest learning rate', positive, 2e-3)
  .addOption(new Option('--precision <dtype>', '').choices(['float32', 'bfloat16', 'float16']).default('float32'))
  .option('--prompt <text...>', 'what samples begin with (default: text that was held back)')
  .option('--fresh', 'forget an earlier run in that folder')
  .parse()
  .opts<Options>();
const file = (...names: string[]): string => path.join(options.out, ...names);

async function readText(): Promise<SplitText> {
  const { data, field, fresh, out, prompt: _, ...settings } = options;
  const documents =
    data === undefined ? [...(await declarationFiles()).values()] : await readDocuments('--data', data, field);
  const characters = documents.reduce((sum, text) => sum + text.length, 0);
  const text = splitDocuments('--data', documents);
  if (fresh) await rm(out, { recursive: true, force: true });
  const source = data ?? 'the declaration files of TypeScript';
  await keepSettings(out, { ...settings, data: source, documents: documents.length, characters });
  say(`Text: ${source}, ${documents.length} documents, ${(characters / 1e6).toFixed(2)} million characters.`);
  return text;
}

async function prepareTokens(
  text: SplitText,
): Promise<{ tokenizer: og.BpeTokenizer; train: og.Tensor; valid: Encoded }> {
  if (!existsSync(file('tokenizer.json'))) {
    const begun = performance.now();
    const learnt = await learnTokenizer(
      text.train.map((piece) => piece.text),
      options.vocab,
    );
    await learnt.save(file('tokenizer.json'));
    say(`Tokenizer: ${learnt.vocabSize} tokens learnt in ${((performance.now() - begun) / 1000).toFixed(1)} s.`);
  }
  const tokenizer = await og.BpeTokenizer.fromFile(file('tokenizer.json'));
  if (!existsSync(file('train.safetensors'))) {
    await og.saveTokens(file('train.safetensors'), encodePieces(tokenizer, text.train).ids);
  }
  // mapped, not read: pages come in as windows ask for them
  return {
    tokenizer,
    train: await og.openTokens(file('train.safetensors')),
    valid: encodePieces(tokenizer, text.valid),
  };
}

async function main(): Promise<void> {
  const text = await readText();
  const { tokenizer, train, valid } = await prepareTokens(text);
  const { context, layers, heads, width, batch, steps, lr, precision } = options;
  const dataset = new og.TextDataset(train, { context, seed: SEED });
  const shape = { vocabSize: tokenizer.vocabSize, context, layers, heads, width };
  const model = new og.GPT(shape, { generator: og.generator(SEED) });
  const tokensOfText = `${(train.size / 1e6).toFixed(2)} million tokens`;
  const epochs = ((steps * batch * context) / train.size).toFixed(1);
  say(
    `Model: ${(model.parameterCount() / 1e6).toFixed(2)} million parameters; ${steps} steps of ${batch * context} tokens, ${epochs} epochs of ${tokensOfText}.`,
  );
  const before = await bitsPerByte(model, valid);

  const prompts = options.prompt ?? text.valid.slice(0, 2).map((piece) => firstWords(piece.text));
  const sample = async (gpt: og.GPT, prompt: string, seed: number): Promise<{ title: string; text: string }> => {
    const sampling = { maxNewTokens: 80, temperature: 0.7, topP: 0.95, generator: og.generator(seed) };
    return { title: JSON.stringify(prompt), text: prompt + (await write(gpt, tokenizer, prompt, sampling)).text };
  };
  const card = { text: options.data ?? 'the declaration files of TypeScript', tokens: tokensOfText };
  const logger = new og.RunLogger<og.GPT>({
    dir: options.out,
    config: { model: model.config, batchSize: batch, steps, lr, precision, seed: SEED },
    card,
    samples: {
      every: Math.max(1, Math.ceil(steps / 4)),
      make: (gpt) => Promise.all(prompts.map((prompt, i) => sample(gpt, prompt, i))),
    },
  });
  const trainer = new og.Trainer(model, {
    train: dataset,
    valid: new og.TextDataset(valid.ids, { context, shift: false }),
    batchSize: Math.min(batch, dataset.length),
    steps,
    precision,
    seed: SEED,
    // decay for matrices, none for norms and biases
    optimizer: (_, gpt) =>
      new og.optim.AdamW(og.optim.decayGroups(gpt, { weightDecay: 0.1 }), { lr, betas: [0.9, 0.95] }),
    schedule: og.schedules.cosine({ warmup: Math.min(50, steps >> 3), end: 0.05 }),
    clipGradNorm: 1,
    evalEvery: Math.max(1, Math.ceil(steps / 8)),
    evalBatches: 16,
    checkpoint: { dir: file('checkpoints'), every: Math.max(1, Math.ceil(steps / 10)), keep: 2 },
    callbacks: [new og.TrainingProgress<og.GPT>(), logger],
    config: model.config,
  });
  const { reason, peakBytes } = await runToEnd(trainer, { handleSignals: true });
  if (reason === 'aborted') {
    say('Saved. The same command again goes on.');
    return;
  }

  const after = await bitsPerByte(model, valid);
  const zipped = (8 * gzipSync(text.valid.map((piece) => piece.text).join(''), { level: 9 }).length) / valid.bytes;
  const run = await og.readRun(options.out);
  const { tokensPerSecond } = og.summarizeRun(run);
  // no learning was needed for these two: a model that does not beat them has learnt nothing
  const rows: og.ReportRow[] = [
    { name: 'untrained', cells: { 'bits per byte': before.toFixed(3) } },
    { name: 'gzip -9', cells: { 'bits per byte': zipped.toFixed(3) } },
    {
      name: `GPT, ${precision}`,
      cells: {
        'bits per byte': after.toFixed(3),
        'perplexity a token': Math.exp((after * Math.LN2 * valid.bytes) / (valid.ids.length - 1)).toFixed(2),
        'tokens/s': Math.round(tokensPerSecond).toLocaleString('en'),
        seconds: run.elapsed.toFixed(0),
        memory: og.formatBytes(peakBytes),
      },
    },
  ];
  say(`\nOn ${valid.bytes.toLocaleString('en')} bytes that were held back:`);
  printTable(rows);
  const shown = await sample(model, prompts[0]!, 0);
  say(`After ${shown.title} it writes:\n\n${shown.text}\n`);
  await og.saveModel(file('model'), model, { tokenizer, card: { ...card, steps, bitsPerByte: after } });
  logger.addResults({ rows });
  await og.writeRunReport(file('report.html'), [await og.readRun(options.out)], { title: 'Pre-training a GPT' });
  say(`Model: ${file('model')}\nReport: ${file('report.html')}`);
}

await mkdir(options.out, { recursive: true });
await runExample(main);
