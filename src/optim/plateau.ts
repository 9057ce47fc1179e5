/**
 * A schedule that looks at the loss.
 *
 * @module
 */
import { StateError } from '../errors.js';
import { checkInteger, checkKeys, checkNumber, checkOneOf } from '../util/assert.js';
import { formatValue } from '../util/format.js';
import type { Schedule } from './schedule.js';

/** State of an {@link ObservingSchedule}. JSON-safe. */
export type ScheduleState = PlateauState | readonly (ScheduleState | null)[];

/** A schedule whose factor depends on what was measured: the Trainer tells it the loss of each regular validation. */
export interface ObservingSchedule extends Schedule {
  /** Takes note of a measurement. */
  observe(metric: number): void;
  /** From which {@link loadStateDict} goes on. */
  stateDict(): ScheduleState;
  /** @throws StateError if the state is of another schedule */
  loadStateDict(state: ScheduleState): void;
}

/** Whether a schedule is to be told measurements. */
export function isObserving(schedule: Schedule): schedule is ObservingSchedule {
  return typeof (schedule as Partial<ObservingSchedule>).observe === 'function';
}

/** Options of {@link reduceOnPlateau}. */
export interface PlateauOptions {
  /** Whether small or large measurements are good. Default `min`. */
  readonly mode?: 'min' | 'max';
  /** The rate is multiplied by this. Default 0.1. */
  readonly factor?: number;
  /** Measurements without improvement that are waited out. Default 10. */
  readonly patience?: number;
  /** Least improvement that counts. Default 1e-4. */
  readonly threshold?: number;
  /** Of the best measurement, or absolute. Default `relative`. */
  readonly thresholdMode?: 'relative' | 'absolute';
  /** Measurements after a reduction that do not count as bad. Default 0. */
  readonly cooldown?: number;
  /** Least factor of the base rate. Default 0. */
  readonly end?: number;
  /** Reductions smaller than this (as factors of the base rate) are left out. Default 1e-8. */
  readonly eps?: number;
}

/** State of {@link reduceOnPlateau}. */
export interface PlateauState {
  readonly factor: number;
  /** Best measurement; null before the first. */
  readonly best: number | null;
  readonly bad: number;
  readonly cooldown: number;
}

const keys = ['mode', 'factor', 'patience', 'threshold', 'thresholdMode', 'cooldown', 'end', 'eps'];

/**
 * Multiplies the rate by `factor` when the measurement has not improved for more than `patience` observations, as torch's
 * ReduceLROnPlateau; `end` is its min_lr over the base rate. `chain` it with a warm-up.
 *
 * @example
 * ```ts
 * const schedule = og.schedules.chain(og.schedules.constant({ warmup: 100 }), og.schedules.reduceOnPlateau({ patience: 3 }));
 * ```
 * @throws AttributeError for options that are unknown or cannot be
 */
export function reduceOnPlateau(options: PlateauOptions = {}): ObservingSchedule {
  const op = 'reduceOnPlateau';
  checkKeys(op, options, keys);
  const sign = checkOneOf(op, 'mode', options.mode ?? 'min', ['min', 'max']) === 'min' ? 1 : -1;
  const reduction = checkNumber(op, 'factor', options.factor ?? 0.1, 0, 1 - Number.EPSILON / 2);
  const patience = checkInteger(op, 'patience', options.patience ?? 10, 0);
  const threshold = checkNumber(op, 'threshold', options.threshold ?? 1e-4, 0, Number.MAX_VALUE);
  const relative =
    checkOneOf(op, 'thresholdMode', options.thresholdMode ?? 'relative', ['relative', 'absolute']) === 'relative';
  const cooldown = checkInteger(op, 'cooldown', options.cooldown ?? 0, 0);
  const end = checkNumber(op, 'end', options.end ?? 0, 0, Number.MAX_VALUE);
  const eps = checkNumber(op, 'eps', options.eps ?? 1e-8, 0, Number.MAX_VALUE);
  let state: PlateauState = { factor: 1, best: null, bad: 0, cooldown: 0 };

  const isBetter = (metric: number, best: number | null): boolean => {
    if (best === null) return metric < Infinity && metric > -Infinity;
    const bound = relative ? best * (1 - sign * threshold) : best - sign * threshold;
    return sign * metric < sign * bound;
  };
  const observe = (metric: number): void => {
    if (typeof metric !== 'number') checkNumber(op, 'metric', metric);
    const better = isBetter(metric, state.best);
    let bad = better || state.cooldown > 0 ? 0 : state.bad + 1;
    let [left, { factor }] = [Math.max(0, state.cooldown - 1), state];
    if (bad > patience) {
      const reduced = Math.max(factor * reduction, end);
      if (factor - reduced > eps) factor = reduced;
      [bad, left] = [0, cooldown];
    }
    state = { factor, best: better ? metric : state.best, bad, cooldown: left };
  };
  const loadStateDict = (saved: ScheduleState): void => {
    if (typeof saved !== 'object' || saved === null || !('factor' in saved)) {
      throw new StateError({ op, argument: 'state', expected: 'the state of a plateau', actual: formatValue(saved) });
    }
    const { factor, best, bad, cooldown: left } = saved;
    state = {
      factor: checkNumber(op, 'state.factor', factor, 0, Number.MAX_VALUE),
      best: best === null ? null : checkNumber(op, 'state.best', best),
      bad: checkInteger(op, 'state.bad', bad, 0),
      cooldown: checkInteger(op, 'state.cooldown', left, 0),
    };
  };
  return Object.assign((): number => state.factor, { observe, stateDict: () => state, loadStateDict });
}
