/**
 * Takes a GPT from one language to another, and measures what it forgets: full tuning, LoRA with embeddings, rehearsal, elastic weight
 * consolidation, and, to compare, the new language from random weights.
 *
 *     npx tsx examples/language_adaptation/main.ts --from english.txt --to chinese.txt
 */
import { mkdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { Command, Option } from 'commander';
import * as og from '../../src/index.js';
import { Ewc, lora, RehearsalDataset, trainableParameters, withPenalty } from '../../src/finetune/index.js';
import { positive, printTable, runExample, say, whole, withGeometry, type Geometry } from '../shared/cli.js';
import { bitsPerByte, write } from '../shared/measure.js';
import {
  encodePieces,
  firstWords,
  learnTokenizer,
  splitDocuments,
  type Encoded,
  type SplitText,
} from '../shared/text.js';
import { baseModel, costCells, runToEnd, trainOnText, type Cost } from '../shared/train.js';
import { readLanguages } from './texts.js';

const SEED = 1337;
/** Tokens of each language that figures are of, at most. */
const MEASURED = 60_000;

interface Options extends Geometry {
  from?: string;
  to?: string;
  field: string;
  out: string;
  tokenizer: 'bpe' | 'bytes';
  batch: number;
  pretrain: number;
  steps: number;
  lr: number;
  lrLora: number;
  rank: number;
  rehearsal: number;
  ewc: number;
  fresh?: boolean;
}

const options = withGeometry(
  new Command('npx tsx examples/language_adaptation/main.ts')
    .option(
      '--from <path>',
      'text of the first language, a file or folder (default: English of the typescript package)',
    )
    .option('--to <path>', 'text of the second (default: Chinese of the typescript package)')
    .option('--field <name>', 'where a line of JSON Lines has its text', 'text')
    .option('--out <folder>', 'where everything goes', 'runs/language_adaptation')
    .addOption(
      new Option('--tokenizer <kind>', 'one vocabulary learnt on both, or the 256 bytes')
        .choices(['bpe', 'bytes'])
        .default('bpe'),
    ),
  { vocab: { least: 260, usual: 4096 }, width: 128, context: { least: 2, usual: 128, of: 'sequence' } },
)
  .option('--batch <number>', 'sequences of a step', whole(1), 16)
  .option('--pretrain <steps>', 'steps on the first language', whole(1), 400)
  .option('--steps <number>', 'steps on the second, for each way', whole(1), 200)
  .option('--lr <number>', 'learning rate of full tuning', positive, 1e-3)
  .option('--lr-lora <number>', 'of LoRA and embeddings', positive, 2e-3)
  .option('--rank <number>', 'of LoRA', whole(1), 16)
  .option('--rehearsal <share>', 'share of old text among the new', positive, 0.2)
  .option('--ewc <strength>', 'λ of elastic weight consolidation', positive, 0.3)
  .option('--fresh', 'forget the pre-trained model of an earlier run')
  .parse()
  .opts<Options>();
const file = (...names: string[]): string => path.join(options.out, ...names);

interface Tokens {
  readonly train: Encoded;
  readonly valid: Encoded;
}

const encode = (tokenizer: og.Tokenizer, { train, valid }: SplitText): Tokens => ({
  train: encodePieces(tokenizer, train),
  valid: encodePieces(tokenizer, valid, MEASURED),
});

async function makeBase(from: SplitText, to: SplitText) {
  // Both languages in turn, in equal amounts: the vocabulary serves the second before the model has seen it.
  const texts = function* (): Generator<string> {
    for (let i = 0; i < Math.min(from.train.length, to.train.length); i++)
      yield* [from.train[i]!.text, to.train[i]!.text];
  };
  const tokenizer = await learnTokenizer(
    options.tokenizer === 'bytes' ? [] : texts(),
    options.tokenizer === 'bytes' ? 259 : options.vocab,
  );
  const old = encode(tokenizer, from);
  const { context, layers, heads, width, pretrain: steps, batch: batchSize } = options;
  const model = new og.GPT(
    { vocabSize: tokenizer.vocabSize, context, layers, heads, width },
    { generator: og.generator(SEED) },
  );
  say(
    `Pre-training: ${(model.parameterCount() / 1e6).toFixed(2)} million parameters, ${steps} steps on ${(old.train.ids.length / 1e6).toFixed(2)} million tokens.`,
  );
  const { seconds } = await trainOnText(model, old.train, old.valid, {
    steps,
    batchSize,
    lr: 2e-3,
    seed: SEED,
    dir: file('pretraining'),
  });
  return { model, tokenizer, seconds };
}

interface Way {
  readonly name: string;
  readonly lr: number;
  readonly isRandom?: boolean;
  readonly isRehearsed?: boolean;
  readonly isConsolidated?: boolean;
  readonly isAdapter?: boolean;
}

const ways: readonly Way[] = [
  { name: 'full', lr: options.lr },
  { name: `LoRA ${options.rank} + embeddings`, lr: options.lrLora, isAdapter: true },
  { name: `rehearsal ${options.rehearsal}`, lr: options.lr, isRehearsed: true },
  { name: `EWC ${options.ewc}`, lr: options.lr, isConsolidated: true },
  { name: 'new language from random', lr: 2e-3, isRandom: true },
];

async function adapt(
  way: Way,
  base: og.GPT,
  old: Tokens,
  fresh: Tokens,
): Promise<{ model: og.GPT; logger: og.RunLogger<og.GPT>; cost: Cost; count: number }> {
  const model =
    way.isRandom === true ? new og.GPT(base.config, { generator: og.generator(SEED) }) : og.cloneModel(base);
  const { context } = base.config;
  const [oldSet, newSet] = [old, fresh].map(({ train }) => new og.TextDataset(train.ids, { context, seed: SEED })) as [
    og.TextDataset,
    og.TextDataset,
  ];
  const held = new og.TextDataset(fresh.valid.ids, { context, shift: false });
  let loss = (gpt: og.GPT, { x, y }: og.TextBatch): og.Tensor => gpt.loss(x, y);
  const begun = performance.now();
  const ewc =
    way.isConsolidated === true
      ? await Ewc.estimate(model, oldSet, { strength: options.ewc, samples: Math.min(200, oldSet.length), seed: SEED })
      : null;
  if (ewc !== null) loss = withPenalty(loss, ewc);
  const before = ewc === null ? 0 : (performance.now() - begun) / 1000;
  if (way.isAdapter === true)
    lora(model, { rank: options.rank, modulesToSave: ['tokens'], generator: og.generator(SEED) });
  const train =
    way.isRehearsed === true ? new RehearsalDataset(newSet, oldSet, { ratio: options.rehearsal, seed: SEED }) : newSet;
  const { count } = trainableParameters(model);
  say(`\n${way.name}: ${count.toLocaleString('en')} parameters train.`);

  const dir = file(way.name.replace(/[^\w.]+/g, '-'));
  await rm(dir, { recursive: true, force: true });
  const config = { way: way.name, lr: way.lr, steps: options.steps, batchSize: options.batch, model: base.config };
  const logger = new og.RunLogger<og.GPT>({ dir, config, tensorboard: false });
  const trainer = new og.Trainer(model, {
    train,
    loss,
    valid: { new: held, old: new og.TextDataset(old.valid.ids, { context, shift: false }) },
    batchSize: Math.min(options.batch, train.length),
    steps: options.steps,
    seed: SEED,
    optimizer: (parameters) =>
      new og.optim.AdamW(parameters, {
        lr: way.lr,
        betas: [0.9, 0.95],
        weightDecay: way.isConsolidated === true ? 0 : 0.01,
      }),
    schedule: og.schedules.cosine({ warmup: Math.min(30, options.steps >> 3), end: 0.05 }),
    clipGradNorm: 1,
    evalEvery: Math.max(1, Math.ceil(options.steps / 5)),
    evalBatches: 8,
    callbacks: [new og.TrainingProgress<og.GPT>(), logger],
  });
  const cost = await runToEnd(trainer);
  trainer.optimizer.dispose();
  ewc?.dispose();
  return { model, logger, cost: { ...cost, seconds: cost.seconds + before }, count };
}

async function main(): Promise<void> {
  const [from, to] = await readLanguages(options.from, options.to, options.field);
  const [oldText, newText] = [splitDocuments('--from', from.documents), splitDocuments('--to', to.documents)];
  if (options.fresh) await rm(options.out, { recursive: true, force: true });
  await mkdir(options.out, { recursive: true });
  const { tokenizer: kind, vocab, layers, heads, width, context, batch, pretrain } = options;
  const sizes = { from: from.documents.join('').length, to: to.documents.join('').length };
  const settings = { kind, vocab, layers, heads, width, context, batch, pretrain, ...sizes };
  const { model: base, tokenizer, seconds } = await baseModel(file('base'), settings, () => makeBase(oldText, newText));
  const [old, fresh] = [encode(tokenizer, oldText), encode(tokenizer, newText)];
  const size = ({ train: { ids, bytes } }: Tokens): string =>
    `${(bytes / 1e6).toFixed(2)} MB, ${(bytes / ids.length).toFixed(2)} bytes a token`;
  say(`${from.name}: ${size(old)}. ${to.name}: ${size(fresh)}.`);

  const [oldColumn, newColumn] = [`${from.name}, bits/byte`, `${to.name}, bits/byte`];
  const figures = async (model: og.GPT): Promise<Record<string, string>> => ({
    [oldColumn]: (await bitsPerByte(model, old.valid)).toFixed(3),
    [newColumn]: (await bitsPerByte(model, fresh.valid)).toFixed(3),
  });
  const start = {
    'trained parameters': base.parameterCount().toLocaleString('en'),
    ...(seconds > 0 ? { seconds: seconds.toFixed(1) } : {}),
  };
  const rows: og.ReportRow[] = [{ name: 'before', cells: { ...(await figures(base)), ...start } }];
  const runs: og.RunRecord[] = [];
  const prompts = [oldText, newText].map(({ valid }) => firstWords(valid[0]!.text));
  for (const way of ways) {
    const { model, logger, cost, count } = await adapt(way, base, old, fresh);
    const row = {
      name: way.name,
      cells: { ...(await figures(model)), 'trained parameters': count.toLocaleString('en'), ...costCells(cost) },
    };
    rows.push(row);
    logger.addResults({ rows: runs.length === 0 ? [rows[0]!, row] : [row] });
    for (const prompt of prompts) {
      const sampling = { maxNewTokens: 60, temperature: 0.7, topP: 0.95, generator: og.generator(SEED) };
      logger.addSample({
        title: JSON.stringify(prompt),
        text: prompt + (await write(model, tokenizer, prompt, sampling)).text,
      });
    }
    runs.push(await og.readRun(logger.dir));
    model.dispose();
  }
  say(
    `\nOn text that was held back, ${old.valid.bytes.toLocaleString('en')} and ${fresh.valid.bytes.toLocaleString('en')} bytes:`,
  );
  printTable(rows);
  await og.writeRunReport(file('report.html'), runs, { title: `From ${from.name} to ${to.name}` });
  say(`Report: ${file('report.html')}`);
}

await runExample(main);
