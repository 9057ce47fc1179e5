/**
 * What a run is told.
 *
 * @module
 */
import { AttributeError } from '../errors.js';
import { checkDataset, type Dataset } from '../data/loader.js';
import type { Module } from '../nn/module.js';
import type { OptimizerOptions } from '../optim/groups.js';
import type { Optimizer } from '../optim/optimizer.js';
import type { Schedule } from '../optim/schedule.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkInteger, checkKeys, checkNumber } from '../util/assert.js';
import { formatValue } from '../util/format.js';
import type { TrainCallback } from './callback.js';
import type { CheckpointOptions } from './checkpoint.js';
import type { EarlyStoppingOptions } from './early_stopping.js';
import type { EvalInterval, MetricFunction, ValidationSets } from './evaluate.js';
import type { Batch, LossFunction } from './loss.js';
import type { LossScaleOptions } from './loss_scale.js';
import type { LossSpikeOptions } from './loss_spikes.js';
import type { Precision } from './precision.js';
import { checkProfile, type ProfileOptions } from './profile.js';
import type { RecomputationOptions } from './recomputation.js';
import type { AllowedChanges } from './resume_check.js';

/** Options of `Trainer`. */
export interface TrainerOptions<M extends Module, B = Batch> {
  readonly train: Dataset<B>;
  /** Measured every `evalEvery` steps and at the end: one set, or several by name, of which the first is the main one. */
  readonly valid?: ValidationSets<B>;
  /** Measured beside the loss, by name: the mean over the batches of each set. Computed in evaluation mode, without gradients. */
  readonly metrics?: Readonly<Record<string, MetricFunction<M, B>>>;
  readonly batchSize: number;
  /** Batches whose gradients are added up before a step. Default 1. */
  readonly gradientAccumulation?: number;
  /** Steps of the run. Default: one epoch. */
  readonly steps?: number;
  /** Makes the optimiser of the parameters that ask for a gradient, or of groups of the model's (`optim.decayGroups(model, …)`). */
  readonly optimizer: (parameters: Tensor[], model: M) => Optimizer<OptimizerOptions>;
  /** Factor of each group's own rate, step by step; one that observes is told the loss of each regular validation. Default: constant. */
  readonly schedule?: Schedule;
  /** Tokens of the whole run: the schedule counts tokens then, not steps. */
  readonly scheduleTokens?: number;
  /** Largest norm of the gradient. Default: unbounded. */
  readonly clipGradNorm?: number;
  /** Decay of a moving average of the parameters, used for validation. Default: none. */
  readonly ema?: number;
  /**
   * Arithmetic of forward and backward. With 16 bits they run on copies of the weights in that dtype, while the model, its
   * `stateDict`, the optimiser and the averages keep the float32 (master) weights; gradients are added up in float32. Default float32.
   */
  readonly precision?: Precision;
  /** Dynamic scaling of the loss with `precision: 'float16'`. Default: torch.amp.GradScaler's. */
  readonly lossScale?: LossScaleOptions;
  /**
   * Blocks whose activations are computed again in the backward pass instead of kept: all of them, or as few as a budget in bytes (or
   * a share of what they take without) allows. The budget counts what a step holds at its largest beside weights, gradients and
   * optimiser state; it is found by running one and two examples before the first step. The bits of the run do not change. Default
   * false.
   */
  readonly activationCheckpointing?: boolean | RecomputationOptions;
  /** Whether step events carry a `profile`; the queue is waited for between the parts of a step then. Default false. */
  readonly profile?: boolean | ProfileOptions;
  /** Default: model.loss(x, y). */
  readonly loss?: LossFunction<M, B>;
  /** Tokens (or examples) of a batch, for rates and schedules. Default: the elements of `x`, or 0 where there is no `x`. */
  readonly countTokens?: (batch: B) => number;
  /** Hooks into the loop. */
  readonly callbacks?: readonly TrainCallback<M>[];
  /** Steps between validations, or `{ tokens }`. Default 200 steps. */
  readonly evalEvery?: EvalInterval;
  /** Batches of a validation, at most. Default 50. */
  readonly evalBatches?: number;
  readonly checkpoint?: CheckpointOptions;
  /** Stop when validation no longer improves. Default: never. */
  readonly earlyStopping?: EarlyStoppingOptions;
  /** Go back to a checkpoint when the loss spikes, and leave out the batches around the spike. Needs `checkpoint`. Default: never. */
  readonly lossSpikes?: LossSpikeOptions;
  /** Seed of the order of the data. Default 0. */
  readonly seed?: number;
  /** Saved with each checkpoint, for whoever loads it. */
  readonly config?: unknown;
}

const optionKeys = [
  'train', 'valid', 'batchSize', 'gradientAccumulation', 'steps', 'optimizer', 'schedule', 'scheduleTokens', 'clipGradNorm', 'ema',
  'precision', 'lossScale', 'activationCheckpointing', 'profile', 'loss', 'countTokens', 'callbacks', 'evalEvery', 'evalBatches',
  'checkpoint', 'seed', 'config', 'metrics', 'earlyStopping', 'lossSpikes',
]; // prettier-ignore

/** @internal Throws AttributeError for options that do not exist, and for what should be functions, lists or records and is not. */
export function checkTrainerOptions<M extends Module, B>(options: TrainerOptions<M, B>): void {
  const op = 'Trainer';
  checkKeys(op, options, optionKeys);
  for (const argument of ['optimizer', 'schedule', 'loss', 'countTokens'] as const) {
    const value: unknown = options[argument];
    if (typeof value === 'function' || (value === undefined && argument !== 'optimizer')) continue;
    const expected = argument === 'optimizer' ? 'a function from parameters to an optimizer' : 'a function';
    throw new AttributeError({ op, argument, expected, actual: formatValue(value) });
  }
  checkDataset(op, 'train', options.train);
  if (options.clipGradNorm !== undefined) checkNumber(op, 'clipGradNorm', options.clipGradNorm, 0);
  if (options.scheduleTokens !== undefined) checkInteger(op, 'scheduleTokens', options.scheduleTokens, 1);
  checkProfile(options.profile);
  const isCallback = (value: unknown): boolean => typeof value === 'object' && value !== null;
  if (options.callbacks !== undefined && !(Array.isArray(options.callbacks) && options.callbacks.every(isCallback))) {
    const actual = formatValue(options.callbacks);
    throw new AttributeError({ op, argument: 'callbacks', expected: 'a list of callbacks', actual });
  }
  for (const argument of ['metrics', 'earlyStopping', 'lossSpikes'] as const) {
    const value: unknown = options[argument];
    if (value === undefined || (typeof value === 'object' && value !== null)) continue;
    throw new AttributeError({ op, argument, expected: 'an object', actual: formatValue(value) });
  }
}

/** Options of `Trainer.run`. */
export interface RunOptions {
  /** Stops after the step under way; a checkpoint is written if the run keeps any. */
  readonly signal?: AbortSignal;
  /**
   * Go on from the newest checkpoint, if there is one. `true` refuses a checkpoint of another run (model, data, batch size, accumulation,
   * seed, optimiser, averages), and warns of another length; `strict` refuses that, too; `false` starts anew, which needs a folder without
   * checkpoints. Default true.
   */
  readonly resume?: boolean | 'strict';
  /** What may differ from the checkpoint's run, all of it with `true`; each difference is a warning event. Default: nothing. */
  readonly allowChanges?: AllowedChanges;
  /**
   * Stop as `signal` does on SIGINT and SIGTERM, or the signals named; a second one ends the process at once. The exit code is then 128 +
   * the signal's number, unless the program sets it. Default false.
   */
  readonly handleSignals?: boolean | readonly NodeJS.Signals[];
  /** Stop (with a checkpoint) after this long, seconds. Default: never. */
  readonly timeLimit?: number;
}

/** @internal */
export const runOptionKeys = ['signal', 'resume', 'allowChanges', 'handleSignals', 'timeLimit'];

/** @internal Steps of the whole run: as asked for, or one epoch of so many batches. */
export function stepsOf({ steps }: { readonly steps?: number }, batches: number, accumulation: number): number {
  return checkInteger('Trainer', 'steps', steps ?? Math.max(1, Math.floor(batches / accumulation)), 1);
}
