/**
 * Carries out a configuration: tokenizer, tokens, model, trainer, log, and what is left behind.
 *
 * @module
 */
import '../methods.js';
import { existsSync } from 'node:fs';
import { mkdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { AttributeError, BackendError, StateError } from '../errors.js';
import { TextDataset, type TextBatch } from '../data/text_dataset.js';
import { GPT, type GPTConfig } from '../models/gpt.js';
import { load, saveModel } from '../models/saved_model.js';
import { backend } from '../runtime/backend.js';
import { generator } from '../tensor/random.js';
import type { Tokenizer } from '../tokenizer/tokenizer.js';
import { listCheckpoints } from '../train/checkpoint.js';
import { configDifferences } from '../train/config_difference.js';
import { formatDuration, TrainingProgress, type ProgressStream } from '../train/progress.js';
import { RunLogger } from '../train/run_logger.js';
import { LOG_FILE } from '../train/run_lines.js';
import { readRun, summarizeRun } from '../train/run_reader.js';
import { writeRunReport } from '../train/run_report.js';
import { Trainer } from '../train/trainer.js';
import type { TrainerOptions } from '../train/trainer_options.js';
import { writeFileAtomically } from '../util/atomic_file.js';
import { formatBytes, formatValue } from '../util/format.js';
import type { TrainConfig } from './train_config.js';
import { bytesTokenizer, prepareTokenizer, prepareTokens, sizeOf } from './train_data.js';
import { makeOptimizer, makeSchedule } from './train_parts.js';

type Say = (text: string) => void;

const checkpointsOf = ({ out }: TrainConfig): string => path.join(out, 'checkpoints');

/** What a run has left in its folder. */
async function earlierRun(config: TrainConfig): Promise<{ step: number; hasCheckpoint: boolean } | null> {
  const [newest] = await listCheckpoints(checkpointsOf(config));
  const isLogged = existsSync(path.join(config.out, LOG_FILE));
  if (newest === undefined && !isLogged) return null;
  const step = newest === undefined ? 0 : Number(/step-(\d+)/.exec(path.basename(newest))?.[1] ?? 0);
  return { step, hasCheckpoint: newest !== undefined };
}

/** A run's folder has one process; what was learnt with one geometry or vocabulary goes on with the same. */
async function checkFolder(config: TrainConfig, resume: boolean, say: Say): Promise<void> {
  const earlier = await earlierRun(config);
  if (earlier === null) return;
  if (existsSync(path.join(config.out, LOG_FILE))) {
    const run = await readRun(config.out).catch(() => null);
    if (run?.status === 'running' && run.sessions.at(-1)!.machine.pid !== process.pid) {
      const actual = `process ${run.sessions.at(-1)!.machine.pid}, which trains there`;
      throw new StateError({
        op: 'train',
        argument: config.out,
        expected: 'a folder that no other process uses',
        actual,
      });
    }
  }
  if (!resume) {
    throw new StateError({
      op: 'train',
      argument: config.out,
      expected: 'a folder without a run',
      actual: earlier.hasCheckpoint ? `one at step ${earlier.step}` : 'one without a checkpoint',
      hint: `Pass --resume to go on with it, or --set out=${config.out}-2 for another`,
    });
  }
  const saved = await readFile(path.join(config.out, 'config.json'), 'utf8').catch(() => null);
  if (saved === null) return;
  const changes = configDifferences([JSON.parse(saved), config]).map(
    ({ name, values: [before, now] }) => `${name} from ${formatValue(before)} to ${formatValue(now)}`,
  );
  const refused = changes.find((change) => /^(model|tokenizer)\b/.test(change));
  if (refused !== undefined) {
    const [expected, actual] = ['the model and the tokenizer that the run began with', `a change of ${refused}`];
    throw new StateError({
      op: 'train',
      argument: 'config',
      expected,
      actual,
      hint: 'Set another out for another model',
    });
  }
  if (changes.length > 0) say(`Changed since the last session: ${changes.join(', ')}.`);
}

async function makeModel(config: TrainConfig, vocabSize: number): Promise<GPT> {
  if (typeof config.model !== 'string') {
    const geometry = { vocabSize, ...config.model } as unknown as GPTConfig;
    if (geometry.vocabSize < vocabSize) {
      const actual = String(geometry.vocabSize);
      throw new AttributeError({
        op: 'train',
        argument: 'model.vocabSize',
        expected: `at least the tokenizer's ${vocabSize}`,
        actual,
      });
    }
    return new GPT(geometry, { generator: generator(config.seed) });
  }
  const { model } = await load(config.model);
  if (model.config.vocabSize >= vocabSize) return model;
  const expected = `a tokenizer of at most the model's ${model.config.vocabSize} tokens`;
  throw new AttributeError({ op: 'train', argument: 'tokenizer', expected, actual: String(vocabSize) });
}

/** Loads the tokenizer, or says how large one will be, without writing anything. */
async function plannedVocabulary(config: TrainConfig): Promise<number> {
  const { tokenizer, out } = config;
  const isMade = tokenizer === 'bytes' || typeof tokenizer !== 'string';
  if (!isMade || existsSync(path.join(out, 'tokenizer.json')))
    return (await prepareTokenizer(config, () => {})).vocabSize;
  return tokenizer === 'bytes' ? (await bytesTokenizer()).vocabSize : (tokenizer as { vocabSize: number }).vocabSize;
}

const millions = (count: number): string => (count >= 1e5 ? `${(count / 1e6).toFixed(1)} million` : String(count));

/** What a run would do, in words. Writes nothing. */
export async function describePlan(config: TrainConfig): Promise<string> {
  const trainBytes = await sizeOf('data.train', config.data.train);
  const validBytes = await sizeOf('data.valid', config.data.valid);
  const vocabSize = await plannedVocabulary(config);
  const model = await makeModel(config, vocabSize);
  const { context } = model.config;
  const parameters = model.parameterCount();
  const weights = model.parameters().reduce((sum, { bytes }) => sum + bytes, 0);
  const perStep = config.batchSize * config.gradientAccumulation * context;
  const earlier = await earlierRun(config);
  const { isa, threads } = backend();
  model.dispose();
  const files = (list: readonly string[], bytes: number): string =>
    `${list.length} ${list.length === 1 ? 'file' : 'files'}, ${formatBytes(bytes)}`;
  const held = config.data.validShare > 0 ? `${100 * config.data.validShare} % of it held back` : 'no validation';
  const rows: [string, string][] = [
    [
      'model',
      `${millions(parameters)} parameters, ${formatBytes(weights)}; ${formatBytes(2 * weights)} with gradients, without the optimizer's state`,
    ],
    ['tokenizer', `${typeof config.tokenizer === 'string' ? config.tokenizer : 'to be learnt'}, ${vocabSize} tokens`],
    [
      'data',
      `${files(config.data.train, trainBytes)}; ${config.data.valid.length > 0 ? `${files(config.data.valid, validBytes)} for validation` : held}`,
    ],
    [
      'steps',
      `${config.steps ?? `${config.epochs} ${config.epochs === 1 ? 'epoch' : 'epochs'}`}, of ${perStep} tokens (${config.batchSize} × ${config.gradientAccumulation} × ${context})`,
    ],
    ['optimizer', `${config.optimizer.type}, ${config.schedule.type} schedule, ${config.precision}`],
    ['machine', `${threads} threads, ${isa}`],
    [
      'output',
      `${config.out}${earlier === null ? '' : `, which holds a run at step ${earlier.step}: --resume goes on with it`}`,
    ],
  ];
  return rows.map(([name, text]) => `${name.padEnd(11)}${text}\n`).join('');
}

function makeLogger(config: TrainConfig, tokenizer: Tokenizer, progress: TrainingProgress<GPT>): RunLogger<GPT> {
  const { every, tensorboard, histograms, samples } = config.log;
  const { data } = config;
  return new RunLogger<GPT>({
    dir: config.out,
    name: config.name,
    config,
    card: { train: data.train, valid: data.valid.length > 0 ? data.valid : `${100 * data.validShare} % held back` },
    every,
    tensorboard,
    ...(histograms === null ? {} : { histograms }),
    ...(samples === null
      ? {}
      : {
          samples: {
            every: samples.every,
            async make(model: GPT) {
              progress.phase = 'sampling';
              const made: { title: string; text: string }[] = [];
              for (const [i, prompt] of samples.prompts.entries()) {
                const options = { tokenizer, maxNewTokens: samples.maxNewTokens, temperature: samples.temperature };
                let text = prompt;
                // The same numbers each time: what changes between samples is the model.
                for await (const piece of model.generate(prompt, { ...options, generator: generator(config.seed + i) }))
                  text += piece.text;
                made.push({ title: JSON.stringify(prompt), text });
              }
              progress.phase = 'training';
              return made;
            },
          },
        }),
  });
}

/** What the caller decides. */
export interface TrainControl {
  readonly resume: boolean;
  readonly signal: AbortSignal;
  /** A line for people. */
  readonly say: Say;
  readonly mode: 'auto' | 'lines';
  /** Where progress is shown. Default: standard error. */
  readonly stream?: ProgressStream;
}

async function makeTrainer(
  config: TrainConfig,
  tokenizer: Tokenizer,
  callbacks: TrainerOptions<GPT, TextBatch>['callbacks'] & object,
): Promise<Trainer<GPT, TextBatch>> {
  const model = await makeModel(config, tokenizer.vocabSize);
  const { context } = model.config;
  const tokens = await prepareTokens(config, tokenizer, context);
  const train = new TextDataset(tokens.train, { context, seed: config.seed });
  const valid = tokens.valid === null ? null : new TextDataset(tokens.valid, { context, shift: false });
  const stepsOfEpoch = Math.floor(train.length / (config.batchSize * config.gradientAccumulation));
  return new Trainer<GPT, TextBatch>(model, {
    train,
    ...(valid === null ? {} : { valid }),
    batchSize: config.batchSize,
    gradientAccumulation: config.gradientAccumulation,
    steps: config.steps ?? Math.max(1, Math.floor((config.epochs ?? 1) * stepsOfEpoch)),
    optimizer: (_, all) => makeOptimizer(config.optimizer, all),
    schedule: makeSchedule(config.schedule),
    ...(config.clipGradNorm === null ? {} : { clipGradNorm: config.clipGradNorm }),
    ...(config.ema === null ? {} : { ema: config.ema }),
    precision: config.precision as NonNullable<TrainerOptions<GPT>['precision']>,
    evalEvery: config.evaluate.every,
    evalBatches: config.evaluate.batches,
    checkpoint: { dir: checkpointsOf(config), ...config.checkpoint },
    seed: config.seed,
    config: model.config,
    callbacks,
  });
}

/** Model, report, and a sentence about the run. */
async function leaveBehind(config: TrainConfig, model: GPT, tokenizer: Tokenizer, say: Say): Promise<void> {
  const run = await readRun(config.out);
  const { loss, bestValid, bestStep, lastValid } = summarizeRun(run);
  const folder = path.join(config.out, 'model');
  const canSave = 'save' in tokenizer && typeof tokenizer.save === 'function';
  const saved = canSave ? { tokenizer: tokenizer as Tokenizer & { save(file: string): Promise<void> } } : {};
  await saveModel(folder, model, {
    ...saved,
    card: { run: config.name, step: run.steps.at(-1)?.step ?? 0, validLoss: lastValid },
  });
  const valid = Number.isFinite(lastValid)
    ? `, validation ${lastValid.toFixed(3)} (best ${bestValid.toFixed(3)} at step ${bestStep})`
    : '';
  say(`Loss ${loss.toFixed(3)}${valid}, ${formatDuration(run.elapsed)} of training.`);
  say(`Model: ${folder}${canSave ? ' (with its tokenizer)' : ''}`);
  const report = path.join(config.out, 'report.html');
  try {
    await writeRunReport(report, [run]);
    say(`Report: ${report}`);
  } catch (error) {
    if (!(error instanceof BackendError)) throw error;
    say(`No report. ${error.message}`);
  }
}

/**
 * Trains as the configuration says.
 *
 * @returns whether the run came to its end; false if it was stopped by the signal
 */
export async function train(config: TrainConfig, control: TrainControl): Promise<boolean> {
  const { resume, signal, say, mode, stream = process.stderr } = control;
  await sizeOf('data.train', config.data.train);
  await sizeOf('data.valid', config.data.valid);
  await checkFolder(config, resume, say);
  await mkdir(config.out, { recursive: true });
  const tokenizer = await prepareTokenizer(config, say);
  const timeLimit = config.timeLimit === null ? {} : { timeLimit: config.timeLimit * 60 };
  const progress = new TrainingProgress<GPT>({ mode, stream, ...timeLimit });
  signal.addEventListener('abort', () => progress.note('Stopping after this step; once more to stop at once.'));
  const logger = makeLogger(config, tokenizer, progress);
  const trainer = await makeTrainer(config, tokenizer, [progress, logger]);
  await writeFileAtomically(path.join(config.out, 'config.json'), (write) =>
    write(Buffer.from(`${JSON.stringify(config, null, 2)}\n`)),
  );
  const { isa, threads } = backend();
  say(
    `${config.name}: ${millions(trainer.model.parameterCount())} parameters, ${trainer.total} steps; ${threads} threads, ${isa}.`,
  );
  let reason = '';
  try {
    for await (const event of trainer.run({ signal, resume, ...timeLimit }))
      if (event.type === 'done') reason = event.reason;
  } catch (error) {
    logger.fail(error);
    throw error;
  } finally {
    progress.stop();
    logger.close();
  }
  if (reason === 'aborted') {
    say('Saved. The same command with --resume goes on.');
    return false;
  }
  await leaveBehind(config, trainer.model, tokenizer, say);
  return true;
}
