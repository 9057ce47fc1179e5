/**
 * What watches over a run: validation, early stopping, the best checkpoints, spikes of the loss. Each is a part of its own; here they are
 * checked against each other, told what was measured, and saved with the run.
 *
 * @module
 */
import { AttributeError } from '../errors.js';
import type { Module } from '../nn/module.js';
import type { EMA } from '../optim/ema.js';
import { isObserving, type ObservingSchedule } from '../optim/plateau.js';
import { formatValue } from '../util/format.js';
import type { Arithmetic } from './arithmetic.js';
import { BestCheckpoints } from './best_checkpoints.js';
import { checkCheckpointOptions, type RunState } from './checkpoint.js';
import { EarlyStopping } from './early_stopping.js';
import { Evaluator, metricOf } from './evaluate.js';
import type { EvalEvent } from './events.js';
import type { LossFunction } from './loss.js';
import { checkCanRollBack, LossSpikes } from './loss_spikes.js';
import type { TrainerOptions } from './trainer_options.js';

/** The best checkpoints that a run keeps: those it asks for, or the one that early stopping goes back to. */
function bestOf<M extends Module, B>(
  { checkpoint }: TrainerOptions<M, B>,
  early: EarlyStopping | null,
): BestCheckpoints | null {
  const wrong = (argument: string, expected: string, actual: string): AttributeError =>
    new AttributeError({ op: 'Trainer', argument, expected, actual });
  const needs = early?.restoreBest === true;
  if (checkpoint === undefined) {
    if (needs) throw wrong('earlyStopping.restoreBest', 'checkpoint: { dir } beside it', 'none');
    return null;
  }
  const { best } = checkpoint;
  if (best === undefined) {
    return needs ? new BestCheckpoints(checkpoint.dir, { metric: early.metric, mode: early.mode }) : null;
  }
  if (typeof best !== 'object' || best === null) {
    throw wrong('checkpoint.best', '{ metric, mode, keep }', formatValue(best));
  }
  const made = new BestCheckpoints(checkpoint.dir, best);
  if (needs && (made.metric !== early.metric || made.mode !== early.mode)) {
    const expected = `metric and mode of earlyStopping.restoreBest, ${early.metric} and ${early.mode}`;
    throw wrong('checkpoint.best', expected, `${made.metric} and ${made.mode}`);
  }
  return made;
}

/** @internal */
export class Watch<M extends Module, B> {
  readonly evaluator: Evaluator<M, B> | null;
  readonly early: EarlyStopping | null;
  readonly best: BestCheckpoints | null;
  readonly spikes: LossSpikes | null;
  private readonly schedule: ObservingSchedule | null;

  /** @throws AttributeError for options that cannot be, or not together */
  constructor(
    options: TrainerOptions<M, B>,
    loss: LossFunction<M, B>,
    ema: EMA | null,
    arithmetic: Pick<Arithmetic, 'refresh' | 'dispose'>,
  ) {
    const { valid, metrics = {}, batchSize, evalBatches: batches = 50, schedule, earlyStopping, lossSpikes } = options;
    this.evaluator =
      valid === undefined ? null : new Evaluator({ sets: valid, loss, metrics, batchSize, batches, ema, arithmetic });
    this.schedule = schedule !== undefined && isObserving(schedule) ? schedule : null;
    if (options.checkpoint !== undefined) checkCheckpointOptions(options.checkpoint);
    this.early = earlyStopping === undefined ? null : new EarlyStopping(earlyStopping);
    this.best = bestOf(options, this.early);
    this.spikes = lossSpikes === undefined ? null : new LossSpikes(lossSpikes);
    if (this.spikes !== null) checkCanRollBack(options.checkpoint !== undefined);
    this.checkMeasured(options);
  }

  /** Whatever looks at measurements needs a set to measure, and a metric that there is. */
  private checkMeasured(options: TrainerOptions<M, B>): void {
    const users: [string, string, unknown][] = [
      ['schedule', 'whose loss the schedule observes', this.schedule],
      ['metrics', 'for the metrics', options.metrics ?? null],
      ['earlyStopping', 'for early stopping', this.early],
      ['checkpoint.best', 'for the best checkpoints', this.best],
    ];
    for (const [, why, user] of users) {
      if (user === null || this.evaluator !== null) continue;
      const expected = `a validation set, ${why}`;
      throw new AttributeError({ op: 'Trainer', argument: 'valid', expected, actual: 'none' });
    }
    if (this.early !== null) this.evaluator!.checkMetric('earlyStopping.metric', this.early.metric);
    if (this.best !== null) this.evaluator!.checkMetric('checkpoint.best.metric', this.best.metric);
  }

  /** Whether the run is to stop early. */
  get stopped(): boolean {
    return this.early?.stopped === true;
  }

  /**
   * Tells everyone what was measured.
   *
   * @param regular - by the schedule of validations, not at the end of the run
   * @returns its rank among the best checkpoints, if it is one of them
   */
  observe(event: EvalEvent, regular: boolean): number | null {
    if (regular) {
      this.schedule?.observe(event.loss);
      this.early?.observe(metricOf(event, this.early.metric));
    }
    return this.best === null ? null : this.best.observe(event.step, metricOf(event, this.best.metric));
  }

  /** What is saved with a run. */
  state(): Pick<RunState, 'schedule' | 'earlyStopping' | 'lossSpikes' | 'best'> {
    return {
      ...(this.schedule === null ? {} : { schedule: this.schedule.stateDict() }),
      ...(this.early === null ? {} : { earlyStopping: this.early.stateDict() }),
      ...(this.spikes === null ? {} : { lossSpikes: this.spikes.stateDict() }),
      ...(this.best === null ? {} : { best: this.best.entries }),
    };
  }

  /** Takes up a saved state; that of spikes is left to a roll-back if it is one. */
  restore(state: RunState, isRollback: boolean): void {
    if (state.schedule !== undefined) this.schedule?.loadStateDict(state.schedule);
    if (state.earlyStopping !== undefined) this.early?.loadStateDict(state.earlyStopping);
    if (state.best !== undefined) this.best?.load(state.best);
    if (state.lossSpikes !== undefined && !isRollback) this.spikes?.loadStateDict(state.lossSpikes);
  }
}
