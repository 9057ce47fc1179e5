/**
 * Carries out a configuration: tokenizer, tokens, model, trainer, log, and what is left behind.
 *
 * @module
 */
import '../methods.js';
import { existsSync } from 'node:fs';
import { mkdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { BackendError, StateError } from '../errors.js';
import { TextDataset, type TextBatch } from '../data/text_dataset.js';
import type { GPT } from '../models/gpt.js';
import { saveModel } from '../models/saved_model.js';
import { backend } from '../runtime/backend.js';
import { generator } from '../tensor/random.js';
import type { Tokenizer } from '../tokenizer/tokenizer.js';
import { configDifferences } from '../train/config_difference.js';
import { formatDuration, TrainingProgress, type ProgressStream } from '../train/progress.js';
import { RunLogger } from '../train/run_logger.js';
import { LOG_FILE } from '../train/run_lines.js';
import { readRun, summarizeRun } from '../train/run_reader.js';
import { writeRunReport } from '../train/run_report.js';
import { findLearningRate } from '../train/find_learning_rate.js';
import { Trainer } from '../train/trainer.js';
import type { TrainerOptions } from '../train/trainer_options.js';
import { writeFileAtomically } from '../util/atomic_file.js';
import { formatValue } from '../util/format.js';
import type { TrainConfig } from './train_config.js';
import { prepareTokenizer, prepareTokens, sizeOf } from './train_data.js';
import { checkpointsOf, earlierRun, makeModel, millions, trainerOptions } from './train_setup.js';

type Say = (text: string) => void;

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

interface Ingredients {
  readonly model: GPT;
  readonly train: TextDataset;
  readonly valid: TextDataset | null;
}

async function prepare(config: TrainConfig, tokenizer: Tokenizer): Promise<Ingredients> {
  const model = await makeModel(config, tokenizer.vocabSize);
  const { context } = model.config;
  const tokens = await prepareTokens(config, tokenizer, context);
  const train = new TextDataset(tokens.train, { context, seed: config.seed });
  const valid = tokens.valid === null ? null : new TextDataset(tokens.valid, { context, shift: false });
  return { model, train, valid };
}

async function makeTrainer(
  config: TrainConfig,
  tokenizer: Tokenizer,
  callbacks: TrainerOptions<GPT, TextBatch>['callbacks'] & object,
): Promise<Trainer<GPT, TextBatch>> {
  const { model, train, valid } = await prepare(config, tokenizer);
  const { every, keep, best } = config.checkpoint;
  return new Trainer<GPT, TextBatch>(model, {
    ...trainerOptions(config, train),
    ...(valid === null ? {} : { valid }),
    evalEvery: config.evaluate.every,
    evalBatches: config.evaluate.batches,
    ...(config.earlyStopping === null ? {} : { earlyStopping: config.earlyStopping }),
    ...(config.lossSpikes === null ? {} : { lossSpikes: config.lossSpikes }),
    checkpoint: { dir: checkpointsOf(config), every, keep, ...(best === null ? {} : { best }) },
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

/** Sweeps the learning rate on the data of a run, whose other settings count, and says which rate to begin with. */
export async function findRate(
  config: TrainConfig,
  { signal, say }: Pick<TrainControl, 'signal' | 'say'>,
): Promise<void> {
  await sizeOf('data.train', config.data.train);
  await sizeOf('data.valid', config.data.valid);
  await mkdir(config.out, { recursive: true });
  const tokenizer = await prepareTokenizer(config, say);
  const { model, train } = await prepare(config, tokenizer);
  const { steps: _steps, schedule: _schedule, ema: _ema, profile: _profile, ...run } = trainerOptions(config, train);
  const { rates, smoothed, suggestion, stopped } = await findLearningRate(model, { ...run, signal });
  const shown = Math.max(1, Math.round(rates.length / 20));
  say('     rate      loss');
  for (let i = 0; i < rates.length; i += shown)
    say(`${rates[i]!.toExponential(2).padStart(9)}  ${smoothed[i]!.toFixed(4).padStart(8)}`);
  if (stopped === 'aborted') say('Stopped.');
  else if (suggestion === null) say('The loss falls at none of these rates.');
  else say(`The loss falls fastest at ${suggestion.toPrecision(2)}: --set optimizer.lr=${suggestion.toPrecision(2)}`);
}
