/**
 * The main job: on real text, trains a byte-pair tokeniser and a GPT, makes it cheaper, measures every form of it, shows what they
 * write, and leaves a report. Ctrl-C saves what is done; starting again goes on.
 *
 *     npm start -- --text my.txt --minutes 2 --out runs/mine
 */
import { existsSync } from 'node:fs';
import { mkdir, readFile, rm } from 'node:fs/promises';
import path from 'node:path';
import { Command } from 'commander';
import ts from 'typescript';
import * as og from '../../src/index.js';
import { optim, schedules } from '../../src/index.js';
import { compressionTable, paretoCharts } from '../../src/compress/index.js';
import { compressed, resultText } from './compression.js';
import { loadCorpus } from './corpus.js';
import { factTable } from '../../src/util/report_page.js';
import { median } from '../../src/util/statistics.js';

const BATCH = 16;
const CONTEXT = 128;
const SHAPE = { context: CONTEXT, layers: 4, heads: 4, width: 256 };
const VOCABULARY = 2048;
const SEED = 1337;
const PROMPT = 'interface HTML';
const OPTIMIZER = { lr: 2e-3, betas: [0.9, 0.95], weightDecay: 0.1 } as const;

const command = new Command('npm start --')
  .option('--text <file>', 'train on this text instead of the TypeScript declaration files')
  .option('--minutes <number>', 'time for training', '2')
  .option('--out <folder>', 'where tokeniser, checkpoints, model and report go', 'runs/typescript')
  .option('--fresh', 'forget an earlier run in that folder')
  .parse();
const options = command.opts<{ text?: string; minutes: string; out: string; fresh?: boolean }>();
const minutes = Number(options.minutes);
if (!(minutes > 0)) command.error(`--minutes: expected a positive number, got ${options.minutes}`);

const say = (text: string): void => void process.stdout.write(`${text}\n`);
const file = (name: string): string => path.join(options.out, name);

/** What must stay the same when a run is taken up again. */
interface Plan {
  readonly text: string | null;
  readonly steps: number;
}

async function prepareTokens(): Promise<{ tokenizer: og.BpeTokenizer; train: og.Tensor; valid: og.Tensor }> {
  const corpus = await loadCorpus(options.text);
  const characters = corpus.train.length + corpus.valid.length;
  say(
    `Text: ${corpus.name}, ${(characters / 1e6).toFixed(1)} million characters, ${((100 * corpus.valid.length) / characters).toFixed(0)} % held back.`,
  );
  if (!existsSync(file('tokenizer.json'))) {
    const begun = performance.now();
    const trained = await og.BpeTokenizer.train([corpus.train.slice(0, 2_000_000)], { vocabSize: VOCABULARY });
    await trained.save(file('tokenizer.json'));
    say(`Tokeniser: ${trained.vocabSize} tokens learnt in ${((performance.now() - begun) / 1000).toFixed(1)} s.`);
  }
  const tokenizer = await og.BpeTokenizer.fromFile(file('tokenizer.json'));
  for (const part of ['train', 'valid'] as const) {
    if (!existsSync(file(`${part}.safetensors`)))
      await og.saveTokens(file(`${part}.safetensors`), tokenizer.encode(corpus[part]));
  }
  return {
    tokenizer,
    train: await og.openTokens(file('train.safetensors')),
    valid: await og.openTokens(file('valid.safetensors')),
  };
}

function makeModel(vocabSize: number): og.GPT {
  return new og.GPT({ ...SHAPE, vocabSize }, { generator: og.generator(SEED) });
}

function makeTrainer(
  model: og.GPT,
  train: og.TextDataset,
  valid: og.TextDataset,
  steps: number,
  callbacks: og.TrainCallback<og.GPT>[],
): og.Trainer<og.GPT> {
  return new og.Trainer(model, {
    train,
    valid,
    batchSize: BATCH,
    steps,
    optimizer: (parameters) => new optim.AdamW(parameters, OPTIMIZER),
    schedule: schedules.cosine({ warmup: Math.min(50, steps >> 3), end: 0.05 }),
    clipGradNorm: 1,
    evalEvery: Math.max(50, Math.ceil(steps / 8)),
    evalBatches: 8,
    checkpoint: { dir: file('checkpoints'), every: 200, keep: 2 },
    seed: SEED,
    config: model.config,
    callbacks,
  });
}

/** What is written down about the run: `report.html` is made of it, and `tensorboard --logdir` shows it while it goes on. */
function makeLogger(model: og.GPT, plan: Plan): og.RunLogger<og.GPT> {
  return new og.RunLogger<og.GPT>({
    dir: options.out,
    config: {
      model: model.config,
      optimizer: OPTIMIZER,
      steps: plan.steps,
      batchSize: BATCH,
      clipGradNorm: 1,
      seed: SEED,
    },
    card: { text: plan.text ?? 'the declaration files of TypeScript' },
  });
}

/** How many steps this machine does in the time given: found on a model that is thrown away, once code and memory are warm. */
async function planSteps(vocabSize: number, train: og.TextDataset): Promise<number> {
  const model = makeModel(vocabSize);
  const trial = new og.Trainer(model, {
    train,
    batchSize: BATCH,
    steps: 16,
    optimizer: (parameters) => new optim.AdamW(parameters, { lr: 1e-4 }),
    clipGradNorm: 1,
  });
  const seconds: number[] = [];
  for await (const event of trial.run())
    if (event.type === 'step') seconds.push((BATCH * CONTEXT) / event.tokensPerSecond);
  trial.optimizer.dispose();
  model.dispose();
  return Math.max(20, Math.min(6000, Math.round((minutes * 60 * 0.97) / median(seconds.slice(8)))));
}

async function readPlan(): Promise<Plan | null> {
  if (!existsSync(file('plan.json'))) return null;
  return JSON.parse(await readFile(file('plan.json'), 'utf8')) as Plan;
}

/** Syntax errors that the TypeScript parser finds. */
function syntaxErrors(text: string): number {
  const source = ts.createSourceFile('sample.d.ts', text, ts.ScriptTarget.Latest, false);
  return (source as unknown as { parseDiagnostics: unknown[] }).parseDiagnostics.length;
}

async function sampleText(model: og.GPT, tokenizer: og.BpeTokenizer, prompt: string, seed: number): Promise<string> {
  let text = prompt;
  const sampling = { tokenizer, maxNewTokens: 220, temperature: 0.7, topP: 0.95, generator: og.generator(seed) };
  for await (const piece of model.generate(prompt, sampling)) text += piece.text;
  return text;
}

async function main(): Promise<void> {
  const interrupt = new AbortController();
  process.once('SIGINT', () => interrupt.abort());
  if (options.fresh) await rm(options.out, { recursive: true, force: true });
  await mkdir(options.out, { recursive: true });
  const previous = await readPlan();
  if (previous !== null && previous.text !== (options.text ?? null)) {
    throw new Error(
      `${options.out} holds a run on ${previous.text ?? 'the declaration files'}: pass --fresh, or another --out`,
    );
  }

  const { tokenizer, train: trainTokens, valid: validTokens } = await prepareTokens();
  const train = new og.TextDataset(trainTokens, { context: CONTEXT, seed: SEED });
  const valid = new og.TextDataset(validTokens, { context: CONTEXT, shift: false });
  const plan: Plan = previous ?? { text: options.text ?? null, steps: await planSteps(tokenizer.vocabSize, train) };
  await og.writeFileAtomically(file('plan.json'), (write) => write(Buffer.from(JSON.stringify(plan))));

  const model = makeModel(tokenizer.vocabSize);
  const { isa, threads } = og.backend();
  say(
    `Model: ${(model.parameterCount() / 1e6).toFixed(1)} million parameters; ${plan.steps} steps of ${BATCH * CONTEXT} tokens; ${threads} threads, ${isa}.`,
  );
  const progress = new og.TrainingProgress<og.GPT>();
  const logger = makeLogger(model, plan);
  const trainer = makeTrainer(model, train, valid, plan.steps, [progress, logger]);
  // Should the machine become slower than planned, training ends early rather than late.
  let isNew = false;
  for await (const event of trainer.run({ signal: interrupt.signal, timeLimit: minutes * 75 })) {
    isNew ||= event.type === 'step';
    if (event.type === 'done' && event.reason === 'aborted') {
      say('Saved. Run the same command again to go on.');
      return;
    }
  }
  await og.saveModel(file('model'), model, { tokenizer });
  if (isNew) await rm(file('compressed'), { recursive: true, force: true }); // what an earlier state of the model was made into

  const results = await compressed(model, {
    dir: file('compressed'),
    train,
    valid,
    tokenizer,
    batchSize: BATCH,
    steps: plan.steps,
    seed: SEED,
    say,
    signal: interrupt.signal,
  });
  if (results === null) {
    say('Saved. Run the same command again to go on.');
    return;
  }
  const { measured, smallest } = results;
  say(`\n${resultText(measured)}`);

  const prompts =
    options.text === undefined
      ? [PROMPT, 'declare function ', '/**\n * Returns']
      : [(await loadCorpus(options.text)).valid.slice(0, 40)];
  const samples: string[] = [];
  for (const [i, prompt] of prompts.entries()) {
    const text = await sampleText(model, tokenizer, prompt, SEED + i);
    const title =
      options.text === undefined
        ? `${JSON.stringify(prompt)} (${syntaxErrors(text)} syntax errors)`
        : JSON.stringify(prompt);
    samples.push(text);
    logger.addSample({ title, text });
  }
  const short = await sampleText(smallest, tokenizer, prompts[0]!, SEED);
  logger.addSample({ title: `${JSON.stringify(prompts[0])}, the smallest model`, text: short });
  say(`\nWhat it writes after ${JSON.stringify(prompts[0])}:\n\n${samples[0]}\n`);

  logger.addResults({
    rows: compressionTable(measured),
    facts: { 'peak tensor memory': og.formatBytes(og.memory().peakBytes) },
  });
  const run = await og.readRun(options.out);
  await og.writeRunReport(file('report.html'), [run], {
    title: 'A GPT trained in TypeScript',
    summary: `${(model.parameterCount() / 1e6).toFixed(1)} million parameters, ${plan.steps} steps on ${options.text ?? 'the declaration files of TypeScript'}; validation perplexity ${measured[0]!.measured.perplexity!.toFixed(2)}.`,
    sections: [
      {
        title: 'How the models were made',
        html: factTable(
          Object.fromEntries(measured.map(({ name, how }) => [name, how?.join('; then ') ?? 'as trained'])),
        ),
      },
      { title: 'Quality against size and speed', html: await paretoCharts(measured) },
    ],
  });
  say(`Report: ${file('report.html')}`);
}

await main();
