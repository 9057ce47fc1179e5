/**
 * Looking for a learning rate before a run.
 *
 * @module
 */
import { AttributeError } from '../errors.js';
import type { Module } from '../nn/module.js';
import { checkInteger, checkKeys, checkNumber } from '../util/assert.js';
import { NonFiniteError } from './diagnose.js';
import type { Batch } from './loss.js';
import { snapshotModel } from './snapshot.js';
import { Trainer } from './trainer.js';
import type { TrainerOptions } from './trainer_options.js';

/** What the sweep takes from the options of a run. */
const runKeys = [
  'train', 'batchSize', 'gradientAccumulation', 'optimizer', 'clipGradNorm', 'precision', 'lossScale', 'activationCheckpointing',
  'loss', 'countTokens', 'seed',
] as const; // prettier-ignore

/** Options of {@link findLearningRate}: those of the run that looks for its rate, and of the sweep. */
export interface LearningRateSearchOptions<M extends Module, B = Batch> extends Pick<
  TrainerOptions<M, B>,
  (typeof runKeys)[number]
> {
  /** First rate. Default 1e-7. */
  readonly start?: number;
  /** Last rate, if the loss does not diverge before. Default 10. */
  readonly end?: number;
  /** Steps of the sweep. Default 100. */
  readonly steps?: number;
  /** Share of the past in the moving average of the loss, in [0, 1). Default 0.9. */
  readonly smoothing?: number;
  /** The sweep stops when the smoothed loss exceeds its least value so many times. Default 4. */
  readonly divergence?: number;
  /** Stops after the step under way. */
  readonly signal?: AbortSignal;
}

/** What a sweep found. */
export interface LearningRateSearch {
  /** Rates tried, rising exponentially. */
  readonly rates: readonly number[];
  /** Loss at each rate, before the step. */
  readonly losses: readonly number[];
  /** Moving average of the losses, free of the bias of its start. */
  readonly smoothed: readonly number[];
  /** Rate at which the smoothed loss falls fastest over the logarithm of the rate; null if it falls nowhere. */
  readonly suggestion: number | null;
  readonly stopped: 'finished' | 'diverged' | 'aborted';
}

const sweepKeys = ['start', 'end', 'steps', 'smoothing', 'divergence', 'signal'];

/** Where the curve falls fastest, by differences over the neighbours; null if nowhere. */
function steepest(rates: readonly number[], smoothed: readonly number[]): number | null {
  let best: number | null = null;
  let least = 0;
  for (let i = 1; i + 1 < smoothed.length; i++) {
    const slope = smoothed[i + 1]! - smoothed[i - 1]!; // the rates' logarithms are equally far apart
    if (slope < least) [least, best] = [slope, rates[i]!];
  }
  return best;
}

interface Sweep {
  readonly start: number;
  readonly end: number;
  readonly steps: number;
  readonly smoothing: number;
  readonly divergence: number;
}

function checkSweep(options: Partial<Sweep>): Sweep {
  const op = 'findLearningRate';
  const start = checkNumber(op, 'start', options.start ?? 1e-7, Number.MIN_VALUE, Number.MAX_VALUE);
  const end = checkNumber(op, 'end', options.end ?? 10, 0, Number.MAX_VALUE);
  if (!(end > start)) {
    throw new AttributeError({ op, argument: 'end', expected: `a number above start, ${start}`, actual: String(end) });
  }
  const smoothing = checkNumber(op, 'smoothing', options.smoothing ?? 0.9, 0, 1);
  if (smoothing === 1) {
    throw new AttributeError({ op, argument: 'smoothing', expected: 'a number in [0, 1)', actual: '1' });
  }
  return {
    start,
    end,
    steps: checkInteger(op, 'steps', options.steps ?? 100, 3),
    smoothing,
    divergence: checkNumber(op, 'divergence', options.divergence ?? 4, 1),
  };
}

interface SweepRun extends Pick<Sweep, 'smoothing' | 'divergence'> {
  readonly rateAt: (step: number) => number;
  readonly signal: AbortSignal | undefined;
}

async function sweep<M extends Module, B>(
  trainer: Trainer<M, B>,
  { rateAt, smoothing, divergence, signal }: SweepRun,
): Promise<LearningRateSearch> {
  const [rates, losses, smoothed]: [number[], number[], number[]] = [[], [], []];
  const found = (stopped: LearningRateSearch['stopped']): LearningRateSearch => ({
    rates,
    losses,
    smoothed,
    suggestion: steepest(rates, smoothed),
    stopped,
  });
  let [average, least] = [0, Infinity];
  try {
    for await (const event of trainer.run(signal === undefined ? {} : { signal })) {
      if (event.type === 'done') return found(event.reason === 'aborted' ? 'aborted' : 'finished');
      if (event.type !== 'step') continue;
      average = smoothing * average + (1 - smoothing) * event.loss;
      const smooth = average / (1 - smoothing ** event.step);
      rates.push(rateAt(event.step - 1));
      losses.push(event.loss);
      smoothed.push(smooth);
      if (smooth > least + (divergence - 1) * Math.abs(least)) return found('diverged');
      least = Math.min(least, smooth);
    }
  } catch (error) {
    if (!(error instanceof NonFiniteError)) throw error; // a loss that is no number any more says nothing of where it fell
    return found('diverged');
  }
  return found('finished');
}

/**
 * Learning-rate range test: trains with a rate that rises exponentially from `start` to `end`, and suggests the one at which the
 * smoothed loss falls fastest. Stops when the loss diverges. Afterwards the model is as it was, bit for bit: weights, buffers,
 * gradients, modes, and the shared random stream. Groups of parameters keep the ratios of their rates.
 *
 * @example
 * ```ts
 * const { suggestion } = await og.findLearningRate(gpt, { train, batchSize: 12, optimizer: (p) => new og.optim.AdamW(p) });
 * ```
 * The steps are those of a {@link Trainer}: in its precision, with its accumulation and clipping.
 *
 * @throws AttributeError for options that are unknown or cannot be, or an optimiser whose rates are all 0
 * @source Smith, arXiv 1506.01186, §3.3; exponential sweep and steepest slope as in fastai's lr_find
 */
export async function findLearningRate<M extends Module, B = Batch>(
  model: M,
  options: LearningRateSearchOptions<M, B>,
): Promise<LearningRateSearch> {
  const op = 'findLearningRate';
  checkKeys(op, options, [...runKeys, ...sweepKeys]);
  const { start, end, steps, smoothing, divergence } = checkSweep(options);
  const run = Object.fromEntries(
    runKeys.map((name) => [name, options[name]]).filter(([, value]) => value !== undefined),
  );
  const rateAt = (step: number): number => start * (end / start) ** (step / (steps - 1));
  let fastest = 1;
  const restore = snapshotModel(model);
  try {
    const trainer = new Trainer<M, B>(model, {
      ...(run as Pick<TrainerOptions<M, B>, (typeof runKeys)[number]>),
      steps,
      schedule: (step) => rateAt(step) / fastest,
    });
    try {
      fastest = Math.max(...trainer.optimizer.groups.map((group) => group.baseLr));
      if (!(fastest > 0)) {
        const expected = 'an optimizer with a rate above 0: its groups keep their ratios';
        throw new AttributeError({ op, argument: 'optimizer', expected, actual: String(fastest) });
      }
      return await sweep(trainer, { rateAt, smoothing, divergence, signal: options.signal });
    } finally {
      trainer.optimizer.dispose();
    }
  } finally {
    restore();
  }
}
