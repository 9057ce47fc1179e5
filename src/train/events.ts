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

/** The validation set was measured. */
export interface EvalEvent {
  readonly type: 'eval';
  readonly step: number;
  /** Mean validation loss, nats a token. */
  readonly loss: number;
  /** e^loss. */
  readonly perplexity: number;
}

/** A checkpoint is on disk. */
export interface CheckpointEvent {
  readonly type: 'checkpoint';
  readonly step: number;
  readonly path: string;
}

/** The run goes on from a checkpoint. */
export interface ResumeEvent {
  readonly type: 'resume';
  readonly step: number;
  readonly path: string;
}

/** The run is over. */
export interface DoneEvent {
  readonly type: 'done';
  readonly step: number;
  readonly reason: 'finished' | 'aborted' | 'time';
  readonly elapsed: number;
}

/** Everything that `Trainer.run` yields. */
export type TrainEvent = StepEvent | EvalEvent | CheckpointEvent | ResumeEvent | DoneEvent;
