import { ShapeError, StateError } from '../errors.js';
import { copy_ } from '../ops/copy.js';
import { narrow } from '../ops/views.js';
import { empty } from '../tensor/create.js';
import type { DType } from '../tensor/dtype.js';
import { keep } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { formatShape } from '../util/format.js';

/** Keys and values of the positions seen so far, for one attention layer: memory of full length, filled from the front. */
export class KvCache {
  readonly capacity: number;
  private readonly keys: Tensor;
  private readonly values: Tensor;
  private used = 0;

  /** Shapes: keys and values `[batch, heads, capacity, headWidth]`. */
  constructor(batch: number, heads: number, capacity: number, headWidth: number, dtype: DType = 'float32') {
    this.capacity = capacity;
    this.keys = keep(empty([batch, heads, capacity, headWidth], { dtype }));
    this.values = keep(empty([batch, heads, capacity, headWidth], { dtype }));
  }

  /** Positions held. */
  get length(): number {
    return this.used;
  }

  /**
   * Appends keys and values `[B, H, T, D]`; returns views of all that is held, `[B, H, length, D]`.
   *
   * @throws StateError if they do not fit
   * @throws ShapeError if batch, heads or width differ
   */
  append(k: Tensor, v: Tensor): [Tensor, Tensor] {
    const time = k.shape[2]!;
    const expected = [this.keys.shape[0], this.keys.shape[1], time, this.keys.shape[3]];
    if (k.rank !== 4 || k.shape.some((length, i) => length !== expected[i])) {
      throw new ShapeError({
        op: 'KvCache.append',
        argument: 'k',
        expected: formatShape(this.keys.shape),
        actual: formatShape(k.shape),
      });
    }
    if (this.used + time > this.capacity) {
      throw new StateError({
        op: 'KvCache.append',
        expected: `at most ${this.capacity} positions`,
        actual: String(this.used + time),
        hint: 'Truncate the prompt or make the cache larger',
      });
    }
    copy_(narrow(this.keys, 2, this.used, time), k);
    copy_(narrow(this.values, 2, this.used, time), v);
    this.used += time;
    return [narrow(this.keys, 2, 0, this.used), narrow(this.values, 2, 0, this.used)];
  }

  /** Forgets all positions from `length` on. */
  truncate(length: number): void {
    this.used = Math.min(this.used, Math.max(0, length));
  }

  /** Frees keys and values. */
  dispose(): void {
    this.keys.dispose();
    this.values.dispose();
  }
}
