/**
 * Dynamic loss scaling: gradients of float16 are kept away from zero by making the loss large, as large as it may be.
 *
 * @module
 */
import { AttributeError, StateError } from '../errors.js';
import { checkInteger, checkKeys, checkNumber } from '../util/assert.js';

/** Options of {@link LossScaler}, with torch.amp.GradScaler's defaults. */
export interface LossScaleOptions {
  /** First scale. Default 65536. */
  readonly initial?: number;
  /** What the scale is multiplied by after `growthInterval` steps without an overflow. Default 2. */
  readonly growthFactor?: number;
  /** What it is multiplied by after an overflow. Default 0.5. */
  readonly backoffFactor?: number;
  /** Steps in a row without an overflow before the scale grows. Default 2000. */
  readonly growthInterval?: number;
}

/** Where a scaler stands. JSON-safe. */
export interface LossScaleState {
  readonly scale: number;
  /** Steps in a row without an overflow. */
  readonly growthTracker: number;
}

/** Below it the scale cannot be what makes gradients overflow. */
const LEAST = 2 ** -14;

/**
 * The scale of a loss whose gradients are computed in float16. A step whose gradients are not all finite is skipped and the scale
 * falls; after enough steps in a row that were taken it grows. `Trainer` with `precision: 'float16'` has one.
 *
 * @source Micikevicius et al., arXiv 1710.03740, §3.2; the rules of torch.amp.GradScaler
 */
export class LossScaler {
  private readonly growthFactor: number;
  private readonly backoffFactor: number;
  private readonly growthInterval: number;
  private current: number;
  private tracker = 0;

  /** @throws AttributeError for options that are unknown or cannot be */
  constructor(options: LossScaleOptions = {}) {
    const op = 'lossScale';
    checkKeys(op, options, ['initial', 'growthFactor', 'backoffFactor', 'growthInterval']);
    this.current = checkNumber(op, 'initial', options.initial ?? 65536, LEAST, Number.MAX_VALUE);
    this.growthFactor = checkNumber(op, 'growthFactor', options.growthFactor ?? 2, 1, Number.MAX_VALUE);
    this.backoffFactor = checkNumber(op, 'backoffFactor', options.backoffFactor ?? 0.5, 0, 1);
    if (this.backoffFactor === 0 || this.backoffFactor === 1) {
      const actual = String(this.backoffFactor);
      throw new AttributeError({ op, argument: 'backoffFactor', expected: 'a number between 0 and 1', actual });
    }
    this.growthInterval = checkInteger(op, 'growthInterval', options.growthInterval ?? 2000, 1);
  }

  /** What the loss is to be multiplied by. */
  get scale(): number {
    return this.current;
  }

  /**
   * Takes note of one step.
   *
   * @param overflowed - whether any of its gradients was infinite or no number
   * @throws StateError if the scale falls below 2⁻¹⁴: then it is not the scale that makes them so
   */
  update(overflowed: boolean): void {
    if (!overflowed) {
      this.tracker++;
      if (this.tracker < this.growthInterval) return;
      this.tracker = 0;
      const grown = this.current * this.growthFactor;
      if (Math.fround(grown) < Infinity) this.current = grown;
      return;
    }
    this.tracker = 0;
    this.current *= this.backoffFactor;
    if (this.current >= LEAST) return;
    throw new StateError({
      op: 'lossScale',
      expected: 'finite gradients at some scale of the loss',
      actual: `an overflow at a scale of ${this.current / this.backoffFactor}`,
      hint: "The loss itself overflows: lower the learning rate, set clipGradNorm, or use precision: 'bfloat16'",
    });
  }

  /** For a checkpoint. */
  stateDict(): LossScaleState {
    return { scale: this.current, growthTracker: this.tracker };
  }

  /** @throws AttributeError unless the state is one of a scaler */
  loadStateDict(state: LossScaleState): void {
    const scale = checkNumber('lossScale', 'state.scale', state?.scale, LEAST, Number.MAX_VALUE);
    this.tracker = checkInteger('lossScale', 'state.growthTracker', state?.growthTracker, 0);
    this.current = scale;
  }
}
