/**
 * Tells positive sentences from negative ones with one small GPT, tuned in three ways: its head only, LoRA, everything. The GPT is
 * pre-trained on the training sentences, without their labels; a fourth row shows what it does from random weights.
 *
 *     npx tsx examples/sentiment/main.ts --data FOLDER
 */
import { mkdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { Command } from 'commander';
import * as og from '../../src/index.js';
import * as ft from '../../src/finetune/index.js';
import { positive, printTable, runExample, say, whole, withGeometry, type Geometry } from '../shared/cli.js';
import { encodePieces, learnTokenizer, readDocuments, type Piece } from '../shared/text.js';
import { baseModel, costCells, runToEnd, trainOnText, type Cost } from '../shared/train.js';
import { classes, naiveBayes, readSentiment, type Sentence, type SentimentData } from './data.js';

const SEED = 1337;

interface Options extends Geometry {
  data?: string;
  text?: string;
  out: string;
  pretrain: number;
  epochs: number;
  batch: number;
  rank: number;
  lrHead: number;
  lrLora: number;
  lrFull: number;
  fresh?: boolean;
}

const options = withGeometry(
  new Command('npx tsx examples/sentiment/main.ts')
    .option('--data <path>', 'folder of SST-2 (train.tsv, dev.tsv, test.tsv), or a .csv of label,review')
    .option('--text <path>', 'more text to pre-train on, a file or a folder')
    .option('--out <folder>', 'where everything goes', 'runs/sentiment'),
  { vocab: { least: 259, usual: 4096 }, width: 128, context: { least: 8, usual: 64, of: 'sentence' } },
)
  .option('--pretrain <steps>', 'steps of pre-training', whole(1), 500)
  .option('--epochs <number>', 'of LoRA and of full tuning', whole(1), 3)
  .option('--batch <number>', 'sentences of a step', whole(1), 32)
  .option('--rank <number>', 'of LoRA', whole(1), 8)
  .option('--lr-head <number>', 'learning rate of the head alone', positive, 1e-2)
  .option('--lr-lora <number>', 'of LoRA', positive, 1e-3)
  .option('--lr-full <number>', 'of everything', positive, 3e-4)
  .option('--fresh', 'forget the pre-trained model of an earlier run')
  .parse()
  .opts<Options>();
const file = (...names: string[]): string => path.join(options.out, ...names);

async function makeBase(train: readonly Sentence[], more: readonly string[]) {
  const asPiece = (text: string): Piece => ({ text, isEnd: true });
  const texts = [...train.map(({ text }) => text), ...more];
  const tokenizer = await learnTokenizer(texts, options.vocab);
  const held = encodePieces(tokenizer, texts.filter((_, i) => i % 20 === 19).map(asPiece));
  const ids = encodePieces(tokenizer, texts.filter((_, i) => i % 20 !== 19).map(asPiece));
  const { context, layers, heads, width, pretrain: steps } = options;
  const shape = { vocabSize: tokenizer.vocabSize, context, layers, heads, width, dropout: 0.1 };
  const model = new og.GPT(shape, { generator: og.generator(SEED) });
  say(
    `Pre-training: ${(model.parameterCount() / 1e6).toFixed(2)} million parameters, ${steps} steps on ${(ids.ids.length / 1e3).toFixed(0)} thousand tokens.`,
  );
  const training = { steps, batchSize: 32, lr: 2e-3, seed: SEED, dir: file('pretraining') };
  const { seconds } = await trainOnText(model, ids, held, training);
  return { model, tokenizer, seconds };
}

/** A way to tune: what trains of a classifier, and how fast. */
interface Way {
  readonly name: string;
  readonly lr: number;
  readonly epochs: number;
  readonly prepare: (model: ft.SequenceClassifier<og.GPT>) => void;
  /** The body stands still: it runs once over the data, and the head trains on what it said. */
  readonly isCached?: boolean;
  readonly isRandom?: boolean;
}

const ways: readonly Way[] = [
  {
    name: 'head only',
    lr: options.lrHead,
    epochs: 10 * options.epochs,
    prepare: (model) => void ft.headOnly(model),
    isCached: true,
  },
  {
    name: `LoRA, rank ${options.rank}`,
    lr: options.lrLora,
    epochs: options.epochs,
    prepare: (model) => void ft.lora(model, { rank: options.rank, dropout: 0.1, modulesToSave: 'score' }),
  },
  { name: 'full', lr: options.lrFull, epochs: options.epochs, prepare: () => undefined },
  { name: 'full, from random', lr: options.lrFull, epochs: options.epochs, prepare: () => undefined, isRandom: true },
];

interface Sets {
  readonly train: ft.LabelledDataset;
  readonly valid: ft.LabelledDataset;
  readonly test: ft.LabelledDataset;
}

function trainerOptions<B>(way: Way, train: og.Dataset<B>, valid: og.Dataset<B>, logger: og.RunLogger) {
  const batchSize = Math.min(options.batch, train.length);
  const perEpoch = Math.max(1, Math.floor(train.length / batchSize));
  const steps = way.epochs * perEpoch;
  return {
    train,
    valid,
    batchSize,
    steps,
    seed: SEED,
    optimizer: (parameters: og.Tensor[]) => new og.optim.AdamW(parameters, { lr: way.lr, weightDecay: 0.01 }),
    schedule: og.schedules.cosine({ warmup: Math.min(50, steps >> 3), end: 0 }),
    clipGradNorm: 1,
    evalEvery: perEpoch,
    evalBatches: Math.max(1, Math.ceil(valid.length / batchSize)),
    // the weights of the epoch that did best on the validation set are those that are tested
    checkpoint: { dir: path.join(logger.dir, 'checkpoints'), every: steps, keep: 1, best: {} },
    earlyStopping: { patience: Math.max(2, way.epochs >> 1), restoreBest: true },
  };
}

async function tune(way: Way, base: og.GPT, sets: Sets): Promise<{ row: og.ReportRow; run: og.RunRecord }> {
  og.manualSeed(SEED);
  const start = way.isRandom === true ? new og.GPT(base.config) : og.cloneModel(base);
  const model = new ft.SequenceClassifier(start, { labels: 2, pooling: 'mean', dropout: 0.1 });
  way.prepare(model);
  const { count, share } = ft.trainableParameters(model);
  say(`\n${way.name}: ${count.toLocaleString('en')} of the parameters train (${(100 * share).toFixed(1)} %).`);
  const dir = file(way.name.replace(/\W+/g, '-'));
  await rm(dir, { recursive: true, force: true });
  const config = { way: way.name, lr: way.lr, epochs: way.epochs, batchSize: options.batch, model: base.config };
  const logger = new og.RunLogger({ dir, config, tensorboard: false });
  const callbacks = [new og.TrainingProgress(), logger];
  let cost: Cost;
  if (way.isCached === true) {
    const begun = performance.now();
    og.resetPeakMemory();
    const [train, valid] = [await ft.cacheFeatures(model, sets.train), await ft.cacheFeatures(model, sets.valid)];
    const [seconds, peakBytes] = [(performance.now() - begun) / 1000, og.memory().peakBytes];
    cost = await runToEnd(
      new og.Trainer(model, { ...trainerOptions(way, train, valid, logger), loss: ft.featureLoss, callbacks }),
    );
    cost = { ...cost, seconds: cost.seconds + seconds, peakBytes: Math.max(cost.peakBytes, peakBytes) };
    train.dispose();
    valid.dispose();
  } else {
    const trainer = new og.Trainer(model, {
      ...trainerOptions(way, sets.train, sets.valid, logger),
      loss: ft.labelledLoss,
      callbacks,
    });
    cost = await runToEnd(trainer);
    trainer.optimizer.dispose();
  }
  const { accuracy, macroF1 } = await ft.evaluateClassifier(model, sets.test, { batchSize: 32 });
  const row = {
    name: way.name,
    cells: {
      accuracy: accuracy.toFixed(3),
      F1: macroF1.toFixed(3),
      'trainable parameters': count.toLocaleString('en'),
      ...costCells(cost),
    },
  };
  logger.addResults({ rows: [row] });
  if (start !== base) model.dispose();
  return { row, run: await og.readRun(dir) };
}

const sizes = ({ train, valid, test }: SentimentData): string =>
  `${train.length} to train, ${valid.length} to choose the epoch, ${test.length} to test`;

/** What needs no network. */
function simpleRow(name: string, predictions: readonly number[], test: readonly Sentence[]): og.ReportRow {
  const { accuracy, macroF1 } = ft.classificationScores(
    predictions,
    test.map(({ label }) => label),
    2,
  );
  return { name, cells: { accuracy: accuracy.toFixed(3), F1: macroF1.toFixed(3) } };
}

async function main(): Promise<void> {
  const data = await readSentiment(options.data);
  const more = options.text === undefined ? [] : await readDocuments('--text', options.text);
  say(`Sentences: ${sizes(data)}.`);
  if (options.fresh) await rm(options.out, { recursive: true, force: true });
  await mkdir(options.out, { recursive: true });
  const { vocab, layers, heads, width, context, pretrain, data: source, text = null } = options;
  const settings = { vocab, layers, heads, width, context, pretrain, data: source, text, sentences: data.train.length };
  const { model: base, tokenizer } = await baseModel(file('base'), settings, () => makeBase(data.train, more));

  const labelled = { tokenizer, classes: classes.length, maxLength: base.config.context };
  const sets: Sets = {
    train: new ft.LabelledDataset(data.train, labelled),
    valid: new ft.LabelledDataset(data.valid, labelled),
    test: new ft.LabelledDataset(data.test, labelled),
  };
  const positives = data.train.filter(({ label }) => label === 1).length;
  const rows = [
    simpleRow(
      'always the same',
      data.test.map(() => (2 * positives > data.train.length ? 1 : 0)),
      data.test,
    ),
    simpleRow('naive Bayes', naiveBayes(data.train, data.test), data.test),
  ];
  const runs: og.RunRecord[] = [];
  for (const way of ways) {
    const { row, run } = await tune(way, base, sets);
    rows.push(row);
    runs.push(run);
  }
  say(`\nOn ${data.test.length} sentences of the test set:`);
  printTable(rows);
  const summary = `${sizes(data)}. Without a network: ${rows
    .slice(0, 2)
    .map(({ name, cells }) => `${name} ${cells['accuracy']}`)
    .join(', ')}.`;
  await og.writeRunReport(file('report.html'), runs, { title: 'Sentiment: head only, LoRA, full tuning', summary });
  say(`Report: ${file('report.html')}`);
}

await runExample(main);
