/**
 * Observers: what range the codes of calibrated ("static") activations span.
 *
 * @module
 */
import { StateError } from '../../errors.js';
import { tensor } from '../../tensor/create.js';
import { dataSync } from '../../tensor/read.js';
import type { Tensor } from '../../tensor/tensor.js';
import { Histogram } from './histogram.js';
import { entropyRange, leastSquaresRange, percentileRange, type Range } from './range_search.js';

/**
 * How the range of static activations is chosen: the least and largest number seen (`minmax`); a moving average of those of each
 * calibration batch (`movingAverage`, Jacob et al. 2018, arXiv 1712.05877); so many percent of all numbers (`percentile`); the least squared error of the
 * codes (`mse`); the least Kullback–Leibler divergence (`entropy`, Migacz 2017).
 */
export type ObserverKind = 'minmax' | 'movingAverage' | 'percentile' | 'mse' | 'entropy';
/** Every {@link ObserverKind}. */
export const observerKinds: readonly ObserverKind[] = ['minmax', 'movingAverage', 'percentile', 'mse', 'entropy'];

/** Share of a new batch in moving averages. */
export const MOMENTUM = 0.1;

/** What codes of inputs are made with: scalars, a float32 scale and, for uint8 codes, an int32 zero point. */
export interface ActivationCodes {
  readonly scale: Tensor;
  readonly zeroPoint: Tensor | null;
}

/** Histogram and ranges of all numbers that reach a layer, gathered in one pass. */
export class ActivationObserver {
  private readonly histogram = new Histogram();
  /** Moving averages of the ends of batches. */
  private average: Range | null = null;

  /** Takes a batch of inputs (float32) into account; waits for it. @throws StateError if it holds NaN or infinities */
  add(x: Tensor): void {
    if (x.size === 0) return;
    const ends = this.histogram.add(dataSync(x) as Float32Array);
    if (ends === null) {
      const [expected, actual] = ['finite activations', 'NaN or infinities'];
      throw new StateError({ op: 'quantize', argument: 'calibration', expected, actual });
    }
    const [low, high] = ends;
    const mix = (before: number, now: number): number => before + MOMENTUM * (now - before);
    this.average = this.average === null ? [low, high] : [mix(this.average[0], low), mix(this.average[1], high)];
  }

  /** The range that a kind of observer chooses; [−b, b] for symmetric codes. It is [0, 0] if all numbers were 0. */
  range(kind: ObserverKind, symmetric: boolean, percentile: number): Range {
    const { histogram, average } = this;
    if (histogram.total === 0 || histogram.reach === 0) return [0, 0];
    switch (kind) {
      case 'percentile':
        return percentileRange(histogram, percentile, symmetric);
      case 'mse':
        return leastSquaresRange(histogram, symmetric);
      case 'entropy':
        return entropyRange(histogram, symmetric);
      default: {
        const [low, high] = kind === 'minmax' ? [histogram.min, histogram.max] : average!;
        const bound = Math.max(-low, high);
        return symmetric ? [-bound, bound] : [low, high];
      }
    }
  }
}

/** Scale and zero point of 8-bit codes for a range, which is widened to hold 0: int8 if symmetric, else uint8. */
export function codesForRange([low, high]: Range, symmetric: boolean): ActivationCodes {
  if (symmetric) {
    const bound = Math.max(-low, high);
    return { scale: tensor(bound > 0 ? bound / 127 : 1), zeroPoint: null };
  }
  const [least, largest] = [Math.min(low, 0), Math.max(high, 0)];
  const scale = largest > least ? (largest - least) / 255 : 1;
  return { scale: tensor(scale), zeroPoint: tensor(Math.round(-least / scale), { dtype: 'int32' }) };
}
