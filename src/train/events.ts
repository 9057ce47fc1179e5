/** What a run reports while it goes on. */

import type { StepProfile } from './profile.js';

/** One optimiser step. */
export interface StepEvent {
  readonly type: 'step';
  /** Steps done, this one included. */
  readonly step: number;
  /** Steps of the whole run. */
  readonly total: number;
  readonly epoch: number;
  /** Mean training loss of the step, nats a token. */
  readonly loss: number;
  readonly lr: number;
  /** Norm of the gradient before clipping. */
  readonly gradNorm: number;
  /** Tokens trained on so far. */
  readonly tokens: number;
  /** Of this step. */
  readonly tokensPerSecond: number;
  /** Since this process began to train, seconds. */
  readonly elapsed: number;
  /** With `precision: 'float16'`: what the loss was multiplied by for the backward pass. */
  readonly lossScale?: number;
  /** With `precision: 'float16'`: gradients overflowed, and the weights were left as they were. */
  readonly skipped?: boolean;
  /** With `profile`: where the time went. */
  readonly profile?: StepProfile;
}

/** What was measured on one validation set. */
export interface Measurement {
  /** Mean loss, nats a token. */
  readonly loss: number;
  /** e^loss. */
  readonly perplexity: number;
  /** The run's `metrics`, by name. */
  readonly metrics: Readonly<Record<string, number>>;
}

/** The validation sets were measured. Loss, perplexity and metrics are those of the first set. */
export interface EvalEvent extends Measurement {
  readonly type: 'eval';
  readonly step: number;
  /** Every set by its name, the first included; a set that was given without one is `valid`. */
  readonly sets: Readonly<Record<string, Measurement>>;
}

/** A checkpoint is on disk. */
export interface CheckpointEvent {
  readonly type: 'checkpoint';
  readonly step: number;
  readonly path: string;
  /** It is among the best by a metric. `rank` counts from 1. */
  readonly best?: { readonly metric: string; readonly value: number; readonly rank: number };
}

/** The run goes on from a checkpoint. */
export interface ResumeEvent {
  readonly type: 'resume';
  readonly step: number;
  readonly path: string;
}

/** A spike of the loss: the run went back to a checkpoint and leaves out the batches around the spike. */
export interface RollbackEvent {
  readonly type: 'rollback';
  /** Step whose batch showed the spike; it was not taken. */
  readonly step: number;
  /** Step of the checkpoint, from which the run goes on. */
  readonly to: number;
  readonly path: string;
  /** What was out of line. */
  readonly signal: 'loss' | 'gradNorm';
  readonly value: number;
  /** What it would have had to stay below; NaN where the value itself is not finite. */
  readonly limit: number;
  /** Batches left out. */
  readonly skipped: number;
  /** Roll-backs of the run so far, this one included. */
  readonly rollbacks: number;
}

/** Something to know about that does not stop the run. */
export interface WarningEvent {
  readonly type: 'warning';
  readonly step: number;
  /**
   * `damaged-checkpoint`: passed over while resuming; `changed-run`: goes on although options differ from the checkpoint's; `no-best`: there
   * are no best weights to put back.
   */
  readonly code: 'damaged-checkpoint' | 'changed-run' | 'no-best';
  readonly message: string;
  /** File that it is about. */
  readonly path?: string;
}

/** The weights of the best validation are in place again. */
export interface RestoreEvent {
  readonly type: 'restore';
  /** Step of those weights. */
  readonly step: number;
  readonly path: string;
  readonly metric: string;
  readonly value: number;
}

/** The run is over. */
export interface DoneEvent {
  readonly type: 'done';
  readonly step: number;
  readonly reason: 'finished' | 'aborted' | 'time' | 'earlyStopping';
  readonly elapsed: number;
  /** That ended the run, if one did. */
  readonly signal?: NodeJS.Signals;
}

/** Everything that `Trainer.run` yields. */
export type TrainEvent =
  StepEvent | EvalEvent | CheckpointEvent | ResumeEvent | RollbackEvent | WarningEvent | RestoreEvent | DoneEvent;
