/**
 * What a run is told.
 *
 * @module
 */
import type { Dataset } from '../data/loader.js';
import type { Module } from '../nn/module.js';
import type { OptimizerOptions } from '../optim/groups.js';
import type { Optimizer } from '../optim/optimizer.js';
import type { Schedule } from '../optim/schedule.js';
import type { Tensor } from '../tensor/tensor.js';
import type { TrainCallback } from './callback.js';
import type { CheckpointOptions } from './checkpoint.js';
import type { Batch, LossFunction } from './loss.js';
import type { LossScaleOptions } from './loss_scale.js';
import type { Precision } from './precision.js';
import type { ProfileOptions } from './profile.js';
import type { RecomputationOptions } from './recomputation.js';

/** Options of `Trainer`. */
export interface TrainerOptions<M extends Module, B = Batch> {
  readonly train: Dataset<B>;
  /** Measured every `evalEvery` steps and at the end. */
  readonly valid?: Dataset<B>;
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
  /** Steps between validations. Default 200. */
  readonly evalEvery?: number;
  /** Batches of a validation, at most. Default 50. */
  readonly evalBatches?: number;
  readonly checkpoint?: CheckpointOptions;
  /** Seed of the order of the data. Default 0. */
  readonly seed?: number;
  /** Saved with each checkpoint, for whoever loads it. */
  readonly config?: unknown;
}

/** @internal */
export const optionKeys = [
  'train', 'valid', 'batchSize', 'gradientAccumulation', 'steps', 'optimizer', 'schedule', 'scheduleTokens', 'clipGradNorm', 'ema',
  'precision', 'lossScale', 'activationCheckpointing', 'profile', 'loss', 'countTokens', 'callbacks', 'evalEvery', 'evalBatches', 'checkpoint', 'seed', 'config',
]; // prettier-ignore

/** Options of `Trainer.run`. */
export interface RunOptions {
  /** Stops after the step under way; a checkpoint is written if the run keeps any. */
  readonly signal?: AbortSignal;
  /** Go on from the newest checkpoint, if there is one. Default true. */
  readonly resume?: boolean;
  /** Stop (with a checkpoint) after this long, seconds. Default: never. */
  readonly timeLimit?: number;
}
