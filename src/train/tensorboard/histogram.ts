/**
 * Histograms as TensorBoard keeps them: buckets that grow by a tenth, on both sides of zero.
 *
 * @module
 */

/** Counts of values, with what is needed for their mean and variance. */
export interface Histogram {
  readonly min: number;
  readonly max: number;
  readonly count: number;
  readonly sum: number;
  readonly sumOfSquares: number;
  /** Upper border of each bucket, rising. */
  readonly limits: readonly number[];
  /** Values in each bucket. */
  readonly counts: readonly number[];
}

/** Smallest border, growth from border to border, and borders on each side of zero (up to 1e20): those of tf.summary. */
const SMALLEST = 1e-12;
const GROWTH = 1.1;
const SIDE = Math.ceil(Math.log(1e20 / SMALLEST) / Math.log(GROWTH));

const borderOf = (i: number): number => SMALLEST * GROWTH ** i;

/** Bucket of a positive value: 0 up to the smallest border. */
function bucketOf(value: number): number {
  if (value <= SMALLEST) return 0;
  return Math.min(SIDE, Math.ceil(Math.log(value / SMALLEST) / Math.log(GROWTH)));
}

/** The histogram of the finite values; null if there are none. */
export function histogramOf(values: ArrayLike<number>): Histogram | null {
  const buckets = new Float64Array(2 * SIDE + 2); // negative values from large to small, then positive ones
  let [min, max, count, sum, sumOfSquares] = [Infinity, -Infinity, 0, 0, 0];
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    if (!Number.isFinite(value)) continue;
    min = Math.min(min, value);
    max = Math.max(max, value);
    count++;
    sum += value;
    sumOfSquares += value * value;
    buckets[value < 0 ? SIDE - bucketOf(-value) : SIDE + 1 + bucketOf(value)]!++;
  }
  if (count === 0) return null;
  // A bucket of negative values of sizes (b(i−1), b(i)] ends at −b(i−1); that of the smallest ones ends at 0.
  const limitOf = (at: number): number => {
    if (at > SIDE) return borderOf(at - SIDE - 1);
    return at === SIDE ? 0 : -borderOf(SIDE - at - 1);
  };
  let first = buckets.findIndex((n) => n > 0);
  const last = buckets.findLastIndex((n) => n > 0);
  first = Math.max(0, first - 1); // an empty bucket below tells where the first one begins
  const limits: number[] = [];
  const counts: number[] = [];
  for (let at = first; at <= last; at++) {
    limits.push(limitOf(at));
    counts.push(buckets[at]!);
  }
  return { min, max, count, sum, sumOfSquares, limits, counts };
}
