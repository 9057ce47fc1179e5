/**
 * Hooks into the one training loop: whatever pre-training, fine-tuning, distillation and pruning need beside a loss.
 *
 * @module
 */
import type { Module } from '../nn/module.js';
import type { EMA } from '../optim/ema.js';
import type { OptimizerOptions } from '../optim/groups.js';
import type { Optimizer } from '../optim/optimizer.js';
import type { TrainEvent } from './events.js';

/** Where a run stands, as a callback sees it. */
export interface TrainContext<M extends Module = Module> {
  readonly model: M;
  readonly optimizer: Optimizer<OptimizerOptions>;
  /** Steps done. */
  readonly step: number;
  /** Steps of the whole run. */
  readonly total: number;
  /** Moving averages of the parameters, if the run keeps them (`ema`). */
  readonly averages: EMA | null;
}

/** What a trainer is doing. */
export type TrainPhase = 'training' | 'validating' | 'saving';

/**
 * A part of a run with a say at fixed moments. Hooks run in the order of the list; those of a step run on the JavaScript thread
 * between enqueued kernels, so they should enqueue and not wait.
 */
export interface TrainCallback<M extends Module = Module> {
  /** Before the forward pass of a step (rates, frozen layers, masks). */
  beforeStep?(context: TrainContext<M>): void;
  /** Gradients are complete, neither measured nor clipped yet: change them in place here. */
  onGradients?(context: TrainContext<M>): void;
  /** The optimiser has updated the parameters (masks that must hold, projections). `step` counts this step. */
  afterStep?(context: TrainContext<M>): void;
  /** An event, before `Trainer.run` yields it. May wait. */
  onEvent?(event: TrainEvent, context: TrainContext<M>): void | Promise<void>;
  /** The trainer turns to something else. */
  onPhase?(phase: TrainPhase, context: TrainContext<M>): void;
  /** Saved with each checkpoint under this name, if given; JSON-safe. Both or neither of the two below need it. */
  readonly name?: string;
  stateDict?(): unknown;
  loadStateDict?(state: unknown): void;
}
