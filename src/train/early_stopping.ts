/**
 * Stopping a run when validation no longer improves.
 *
 * @module
 */
import { StateError } from '../errors.js';
import { checkBoolean, checkInteger, checkKeys, checkNumber, checkOneOf } from '../util/assert.js';
import { formatValue } from '../util/format.js';

/** Options of early stopping. */
export interface EarlyStoppingOptions {
  /** `loss`, `perplexity`, one of the run's `metrics`, or any of them of a named set: `<set>.<metric>`. Default `loss`. */
  readonly metric?: string;
  /** Whether small or large values are good. Default `min`. */
  readonly mode?: 'min' | 'max';
  /** Validations in a row without improvement after which the run stops. Default 5. */
  readonly patience?: number;
  /** Least improvement over the best value that counts, absolute. Default 0: any. */
  readonly minDelta?: number;
  /**
   * At the end of the run, stopped or finished, put the weights of its best validation back. They come from the best checkpoint, so
   * it needs `checkpoint`. Default false.
   */
  readonly restoreBest?: boolean;
}

/** State of an `EarlyStopping`. JSON-safe. */
export interface EarlyStoppingState {
  /** Best value that counted; null before the first. */
  readonly best: number | null;
  /** Validations since. */
  readonly bad: number;
}

/** Whether `value` is better than `best` by more than `minDelta`. What is not finite is never better. */
export function isBetter(mode: 'min' | 'max', value: number, best: number | null, minDelta = 0): boolean {
  if (!Number.isFinite(value)) return false;
  if (best === null) return true;
  return mode === 'min' ? value < best - minDelta : value > best + minDelta;
}

/**
 * Counts validations without improvement, as `EarlyStopping` of Keras and `EarlyStoppingCallback` of transformers.
 *
 * @internal
 */
export class EarlyStopping {
  readonly metric: string;
  readonly mode: 'min' | 'max';
  readonly patience: number;
  readonly restoreBest: boolean;
  private readonly minDelta: number;
  private current: EarlyStoppingState = { best: null, bad: 0 };

  /** @throws AttributeError for options that are unknown or cannot be */
  constructor(options: EarlyStoppingOptions) {
    const op = 'earlyStopping';
    checkKeys(op, options, ['metric', 'mode', 'patience', 'minDelta', 'restoreBest']);
    this.metric = options.metric ?? 'loss';
    this.mode = checkOneOf(op, 'mode', options.mode ?? 'min', ['min', 'max']);
    this.patience = checkInteger(op, 'patience', options.patience ?? 5, 1);
    this.minDelta = checkNumber(op, 'minDelta', options.minDelta ?? 0, 0, Number.MAX_VALUE);
    this.restoreBest = checkBoolean(op, 'restoreBest', options.restoreBest ?? false);
  }

  /** Whether the run is to stop. */
  get stopped(): boolean {
    return this.current.bad >= this.patience;
  }

  /** Takes note of a validation. */
  observe(value: number): void {
    const better = isBetter(this.mode, value, this.current.best, this.minDelta);
    this.current = better ? { best: value, bad: 0 } : { best: this.current.best, bad: this.current.bad + 1 };
  }

  /** From which {@link loadStateDict} goes on. */
  stateDict(): EarlyStoppingState {
    return this.current;
  }

  /** @throws StateError, AttributeError unless it is the state of early stopping */
  loadStateDict(state: EarlyStoppingState): void {
    if (typeof state !== 'object' || state === null || !('bad' in state)) {
      const expected = 'the state of early stopping';
      throw new StateError({ op: 'earlyStopping', argument: 'state', expected, actual: formatValue(state) });
    }
    const { best, bad } = state;
    this.current = {
      best: best === null ? null : checkNumber('earlyStopping', 'state.best', best),
      bad: checkInteger('earlyStopping', 'state.bad', bad, 0),
    };
  }
}
