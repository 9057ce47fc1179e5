/**
 * Spikes of the loss: seen by robust statistics, undone by going back to a checkpoint and leaving out the batches around them.
 *
 * @module
 */
import { AttributeError, StateError } from '../errors.js';
import { checkInteger, checkKeys, checkNumber, checkOneOf } from '../util/assert.js';
import { formatValue } from '../util/format.js';
import { median } from '../util/statistics.js';

/** Options of spike detection. */
export interface LossSpikeOptions {
  /** Recent steps that are compared with. Default 128. */
  readonly window?: number;
  /** Steps of the window that must be there before anything is judged. Default 32. */
  readonly minHistory?: number;
  /** k of median + k·σ for the loss; Infinity switches it off. Default 8. */
  readonly lossThreshold?: number;
  /** k of median + k·σ for the logarithm of the gradient's norm; Infinity switches it off. Default 10. */
  readonly gradNormThreshold?: number;
  /** Steps in a row that must be out of line. Those before the last are taken. Default 1: a spike is never learnt from. */
  readonly confirm?: number;
  /** Steps before the spike whose batches are left out. Default: all since the checkpoint. */
  readonly skipBefore?: number;
  /** Steps after the spike whose batches are left out. Default 0. */
  readonly skipAfter?: number;
  /** Roll-backs of the whole run; one more spike ends it with a {@link DivergenceError}. Default 10. */
  readonly maxRollbacks?: number;
  /** A loss or gradient that is not finite: `stop` with a NonFiniteError, or treat it as a spike. Default `stop`. */
  readonly nonFinite?: 'stop' | 'rollback';
}

/** State of a `LossSpikes`. JSON-safe. */
export interface LossSpikeState {
  readonly losses: readonly number[];
  /** Logarithms of the norms. */
  readonly norms: readonly number[];
  readonly rollbacks: number;
  /** Batches left out, counted from the start of the run: from (included) and to (excluded). */
  readonly skips: readonly (readonly [from: number, to: number])[];
  /** Steps out of line in a row, and where the first of them began; null if the last was in line. */
  readonly suspect: { readonly count: number; readonly step: number; readonly from: number } | null;
}

/** A step out of line. */
export interface Spike {
  readonly signal: 'loss' | 'gradNorm';
  readonly value: number;
  readonly limit: number;
  /** First step of the spike. */
  readonly step: number;
  /** Its batches, counted from the start of the run: from (included) and to (excluded). */
  readonly from: number;
  readonly to: number;
}

/** One spike more than a run may have. `code` is `OG_STATE`. */
export class DivergenceError extends StateError {
  /** Step that would have been the next. */
  readonly step: number;
  readonly spike: Spike;
  readonly rollbacks: number;

  constructor(spike: Spike, step: number, rollbacks: number) {
    super({
      op: 'Trainer',
      expected: `at most ${rollbacks} roll-backs`,
      actual: `another spike at step ${step}: ${spike.signal} ${spike.value}, limit ${spike.limit}`,
      hint: 'Lower the learning rate, clip gradients harder, or look at the data; the last checkpoint is from before the spike',
    });
    this.step = step;
    this.spike = spike;
    this.rollbacks = rollbacks;
  }
}

/** 1 / Φ⁻¹(3/4): makes the median absolute deviation estimate σ of normal numbers (Rousseeuw and Croux 1993). */
const CONSISTENT = 1.482602218505602;

/** median + k·max(1.4826·MAD, floor): what is above it is out of line. */
export function robustLimit(values: readonly number[], k: number, floor: (middle: number) => number): number {
  const middle = median(values);
  const deviation = CONSISTENT * median(values.map((value) => Math.abs(value - middle)));
  return middle + k * Math.max(deviation, floor(middle));
}

const keys = [
  'window', 'minHistory', 'lossThreshold', 'gradNormThreshold', 'confirm', 'skipBefore', 'skipAfter', 'maxRollbacks', 'nonFinite',
]; // prettier-ignore

/**
 * Tells spikes from the usual noise, and knows which batches to leave out after going back.
 *
 * A step is out of line if its loss exceeds median + k·max(1.4826·MAD, 1 % of |median|) of the recent losses, or the logarithm of its
 * gradient norm exceeds median + k·max(1.4826·MAD, 0.05) of the recent logarithms: norms are positive and spread by factors. Steps out
 * of line do not enter the window. The floors keep a run whose losses hardly vary from taking every flutter for a spike. Everything
 * it knows is saved with each checkpoint and depends on the run alone, so a run that was killed after a roll-back sees the same
 * spike again and goes back again.
 *
 * @internal
 * @source Chowdhery et al. (PaLM), arXiv 2204.02311, §5.1: restart from a checkpoint before the spike and skip the batches seen
 *   before and during it; the detection (median, MAD) as in Hampel's identifier
 */
export class LossSpikes {
  readonly nonFinite: 'stop' | 'rollback';
  private readonly window: number;
  private readonly minHistory: number;
  private readonly thresholds: { readonly loss: number; readonly norm: number };
  private readonly confirm: number;
  private readonly skipBefore: number;
  private readonly skipAfter: number;
  private readonly maxRollbacks: number;
  private current: LossSpikeState = { losses: [], norms: [], rollbacks: 0, skips: [], suspect: null };

  /** @throws AttributeError for options that are unknown or cannot be */
  constructor(options: LossSpikeOptions) {
    const op = 'lossSpikes';
    checkKeys(op, options, keys);
    this.window = checkInteger(op, 'window', options.window ?? 128, 3);
    this.minHistory = checkInteger(op, 'minHistory', options.minHistory ?? Math.min(32, this.window), 3, this.window);
    this.thresholds = {
      loss: checkNumber(op, 'lossThreshold', options.lossThreshold ?? 8, Number.MIN_VALUE),
      norm: checkNumber(op, 'gradNormThreshold', options.gradNormThreshold ?? 10, Number.MIN_VALUE),
    };
    this.confirm = checkInteger(op, 'confirm', options.confirm ?? 1, 1);
    this.skipBefore =
      options.skipBefore === undefined ? Infinity : checkInteger(op, 'skipBefore', options.skipBefore, 0);
    this.skipAfter = checkInteger(op, 'skipAfter', options.skipAfter ?? 0, 0);
    this.maxRollbacks = checkInteger(op, 'maxRollbacks', options.maxRollbacks ?? 10, 1);
    this.nonFinite = checkOneOf(op, 'nonFinite', options.nonFinite ?? 'stop', ['stop', 'rollback']);
  }

  /** Whether the last step was out of line, and not confirmed yet: no time to save. */
  get pending(): boolean {
    return this.current.suspect !== null;
  }

  /**
   * Takes note of a step that is about to be taken; a spike if it must not be.
   *
   * @param place - the step, and its batches counted from the start of the run
   */
  observe(loss: number, gradNorm: number, place: { step: number; from: number; to: number }): Spike | null {
    const { losses, norms, suspect } = this.current;
    const norm = Math.log(Math.max(gradNorm, Number.MIN_VALUE));
    const seen = this.outOfLine(loss, gradNorm, norm);
    if (seen === null) {
      const grown = (list: readonly number[], value: number): number[] => [...list, value].slice(-this.window);
      this.current = { ...this.current, losses: grown(losses, loss), norms: grown(norms, norm), suspect: null };
      return null;
    }
    const first = suspect ?? { count: 0, step: place.step, from: place.from };
    const count = first.count + 1;
    this.current = { ...this.current, suspect: { ...first, count } };
    if (count < this.confirm && Number.isFinite(loss) && Number.isFinite(gradNorm)) return null;
    return { ...seen, step: first.step, from: first.from, to: place.to };
  }

  private outOfLine(loss: number, gradNorm: number, norm: number): Pick<Spike, 'signal' | 'value' | 'limit'> | null {
    if (!Number.isFinite(loss)) return { signal: 'loss', value: loss, limit: NaN };
    if (!Number.isFinite(gradNorm)) return { signal: 'gradNorm', value: gradNorm, limit: NaN };
    const { losses, norms } = this.current;
    if (losses.length < this.minHistory) return null;
    const limit = robustLimit(losses, this.thresholds.loss, (middle) => 0.01 * Math.abs(middle));
    if (loss > limit) return { signal: 'loss', value: loss, limit };
    const normLimit = robustLimit(norms, this.thresholds.norm, () => 0.05);
    return norm > normLimit ? { signal: 'gradNorm', value: gradNorm, limit: Math.exp(normLimit) } : null;
  }

  /** @throws DivergenceError if there were as many roll-backs as a run may have */
  checkLimit(spike: Spike, step: number): void {
    if (this.current.rollbacks >= this.maxRollbacks) throw new DivergenceError(spike, step, this.current.rollbacks);
  }

  /**
   * The run is back at a checkpoint: takes up the window of then, and keeps what is known since about roll-backs and batches.
   *
   * @param at - batches drawn up to the checkpoint
   * @param stepBatches - batches of a step
   * @returns batches left out, and the number of roll-backs
   */
  rewind(
    spike: Spike,
    saved: LossSpikeState | undefined,
    at: number,
    stepBatches: number,
  ): { readonly skipped: number; readonly rollbacks: number } {
    const from = Math.max(at, spike.from - this.skipBefore * stepBatches);
    const to = spike.to + this.skipAfter * stepBatches;
    const rollbacks = this.current.rollbacks + 1;
    const skips = [...this.current.skips, [from, to] as const].filter(([, end]) => end > at);
    this.current = { losses: saved?.losses ?? [], norms: saved?.norms ?? [], rollbacks, skips, suspect: null };
    return { skipped: to - from, rollbacks };
  }

  /** The batch to draw where `at` would be the next. */
  next(at: number): number {
    let place = at;
    for (let moved = true; moved;) {
      const over = this.current.skips.find(([from, to]) => place >= from && place < to);
      moved = over !== undefined;
      if (over !== undefined) place = over[1];
    }
    return place;
  }

  /** The batches mean others now: nothing is left out any more. */
  forgetSkips(): void {
    this.current = { ...this.current, skips: [] };
  }

  /** From which {@link loadStateDict} goes on. */
  stateDict(): LossSpikeState {
    return this.current;
  }

  /** @throws StateError, AttributeError unless it is the state of spike detection */
  loadStateDict(state: LossSpikeState): void {
    const op = 'lossSpikes';
    const numbers = (list: unknown): boolean => Array.isArray(list) && list.every((x) => typeof x === 'number');
    if (
      !numbers(state?.losses) ||
      !numbers(state.norms) ||
      !Array.isArray(state.skips) ||
      !state.skips.every(numbers)
    ) {
      const expected = 'the state of spike detection';
      throw new StateError({ op, argument: 'state', expected, actual: formatValue(state) });
    }
    checkInteger(op, 'state.rollbacks', state.rollbacks, 0);
    const cut = (list: readonly number[]): readonly number[] => list.slice(-this.window);
    this.current = { ...state, losses: cut(state.losses), norms: cut(state.norms), suspect: state.suspect ?? null };
  }
}

/** @throws AttributeError unless a run that goes back has checkpoints to go back to */
export function checkCanRollBack(hasCheckpoints: boolean): void {
  if (hasCheckpoints) return;
  throw new AttributeError({
    op: 'Trainer',
    argument: 'lossSpikes',
    expected: 'checkpoint: { dir } beside it, to go back to',
    actual: 'none',
  });
}
