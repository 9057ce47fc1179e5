/**
 * A histogram that is filled in one pass, without knowing the range beforehand.
 *
 * @module
 */

/** Bins on each side of zero. */
export const HALF = 4096;

/**
 * Counts of numbers in equal bins over [−reach, reach]. Where a batch goes beyond, the reach doubles until it fits: two bins become
 * one exactly, so that nothing is guessed about where in a bin its numbers lay.
 */
export class Histogram {
  /** Numbers in each of the 2 · {@link HALF} bins. */
  readonly counts = new Float64Array(2 * HALF);
  /** Numbers seen. */
  total = 0;
  /** Largest magnitude that has a bin; 0 until a number other than 0 came. */
  reach = 0;
  min = Infinity;
  max = -Infinity;

  /** Width of a bin. */
  get width(): number {
    return this.reach / HALF;
  }

  /** Takes numbers into account; returns their least and largest, or null, having changed nothing, if one is not finite. */
  add(values: Float32Array): readonly [low: number, high: number] | null {
    let [low, high, check] = [Infinity, -Infinity, 0];
    for (const value of values) {
      if (value < low) low = value;
      if (value > high) high = value;
      check += value - value; // NaN from then on
    }
    if (check !== 0) return null;
    this.grow(Math.max(Math.abs(low), Math.abs(high)));
    const perBin = this.reach === 0 ? 0 : HALF / this.reach;
    const { counts } = this;
    for (const value of values) counts[Math.min(2 * HALF - 1, Math.floor(value * perBin + HALF))]! += 1;
    this.total += values.length;
    this.min = Math.min(this.min, low);
    this.max = Math.max(this.max, high);
    return [low, high];
  }

  private grow(magnitude: number): void {
    if (magnitude <= this.reach) return;
    if (this.reach === 0) {
      this.reach = magnitude; // zeros, if there were any, are in the middle bin already
      return;
    }
    const { counts } = this;
    while (magnitude > this.reach) {
      const merged = Float64Array.from({ length: HALF }, (_, i) => counts[2 * i]! + counts[2 * i + 1]!);
      counts.fill(0);
      counts.set(merged, HALF / 2);
      this.reach *= 2;
    }
  }

  /** Counts of magnitudes: bins of the same width over [0, reach]. */
  magnitudes(): Float64Array {
    const { counts } = this;
    return Float64Array.from({ length: HALF }, (_, i) => counts[HALF + i]! + counts[HALF - 1 - i]!);
  }
}
