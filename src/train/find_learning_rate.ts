/**
 * Looking for a learning rate before a run.
 *
 * @module
 */
import { AttributeError } from '../errors.js';
import { DataLoader, type Dataset } from '../data/loader.js';
import type { Module } from '../nn/module.js';
import { clipFactor, gradNorm } from '../optim/clip.js';
import type { OptimizerOptions } from '../optim/groups.js';
import type { Optimizer } from '../optim/optimizer.js';
import { scope } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkInteger, checkKeys, checkNumber } from '../util/assert.js';
import { formatValue } from '../util/format.js';
import { turn } from '../util/turn.js';
import { defaultLoss, type Batch, type LossFunction } from './loss.js';
import { snapshotModel } from './snapshot.js';

/** Options of {@link findLearningRate}. */
export interface LearningRateSearchOptions<M extends Module> {
  readonly train: Dataset<Batch>;
  readonly batchSize: number;
  /** Makes the optimiser, as for the Trainer. Groups keep the ratios of their rates. */
  readonly optimizer: (parameters: Tensor[], model: M) => Optimizer<OptimizerOptions>;
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
  /** Largest norm of the gradient. Default: unbounded. */
  readonly clipGradNorm?: number;
  /** Default: model.loss(x, y). */
  readonly loss?: LossFunction<M>;
  /** Of the order of the data. Default 0. */
  readonly seed?: number;
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

const optionKeys = [
  'train', 'batchSize', 'optimizer', 'start', 'end', 'steps', 'smoothing', 'divergence', 'clipGradNorm', 'loss', 'seed', 'signal',
]; // prettier-ignore

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

/**
 * Learning-rate range test: trains with a rate that rises exponentially from `start` to `end`, and suggests the one at which the
 * smoothed loss falls fastest. Stops when the loss diverges. Afterwards the model is as it was, bit for bit: weights, buffers,
 * gradients, modes, and the shared random stream.
 *
 * @example
 * ```ts
 * const { suggestion } = await og.findLearningRate(gpt, { train, batchSize: 12, optimizer: (p) => new og.optim.AdamW(p) });
 * ```
 * @throws AttributeError for options that are unknown or cannot be
 * @source Smith, arXiv 1506.01186, §3.3; exponential sweep and steepest slope as in fastai's lr_find
 */
export async function findLearningRate<M extends Module>(
  model: M,
  options: LearningRateSearchOptions<M>,
): Promise<LearningRateSearch> {
  const op = 'findLearningRate';
  checkKeys(op, options, optionKeys);
  const { start, end, steps, smoothing, divergence } = checkSweep(options);
  if (options.clipGradNorm !== undefined) checkNumber(op, 'clipGradNorm', options.clipGradNorm, 0);
  if (typeof options.optimizer !== 'function') {
    const expected = 'a function from parameters to an optimizer';
    throw new AttributeError({ op, argument: 'optimizer', expected, actual: formatValue(options.optimizer) });
  }
  const loader = new DataLoader(options.train, { batchSize: options.batchSize, seed: options.seed ?? 0 });
  const parameters = model.parameters().filter((parameter) => parameter.requiresGrad);
  const optimizer = options.optimizer(parameters, model);
  const fastest = Math.max(...optimizer.groups.map((group) => group.baseLr));
  const ratios = optimizer.groups.map((group) => (fastest > 0 ? group.baseLr / fastest : 1));
  const computeLoss = options.loss ?? defaultLoss(op);
  const rates: number[] = [];
  const losses: number[] = [];
  const smoothed: number[] = [];
  let stopped: LearningRateSearch['stopped'] = 'finished';
  const restore = snapshotModel(model);
  try {
    model.train();
    let [average, least] = [0, Infinity];
    for (let i = 0; i < steps; i++) {
      if (options.signal?.aborted) {
        stopped = 'aborted';
        break;
      }
      const rate = start * (end / start) ** (i / (steps - 1));
      optimizer.groups.forEach((group, k) => (group.lr = rate * ratios[k]!));
      const loss = scope(() => {
        const value = computeLoss(model, loader.next());
        value.backward();
        return value;
      });
      const value = await loss.item();
      loss.dispose();
      average = smoothing * average + (1 - smoothing) * value;
      const smooth = average / (1 - smoothing ** (i + 1));
      // A loss that is no number any more says nothing of where it fell.
      if (!Number.isFinite(smooth)) {
        stopped = 'diverged';
        break;
      }
      rates.push(rate);
      losses.push(value);
      smoothed.push(smooth);
      if (smooth > least + (divergence - 1) * Math.abs(least)) {
        stopped = 'diverged';
        break;
      }
      least = Math.min(least, smooth);
      scope(() => {
        const limit = options.clipGradNorm;
        const gradScale = limit === undefined ? 1 : clipFactor(gradNorm(optimizer.parameters()), limit);
        optimizer.step({ gradScale });
      });
      optimizer.zeroGrad();
      await turn();
    }
  } finally {
    restore();
    optimizer.dispose();
  }
  return { rates, losses, smoothed, suggestion: steepest(rates, smoothed), stopped };
}
