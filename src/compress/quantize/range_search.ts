/**
 * The range that 8-bit codes of activations should span, found in a histogram of them.
 *
 * @module
 */
import { HALF, type Histogram } from './histogram.js';

/** Smallest and largest number that codes stand for. */
export type Range = readonly [low: number, high: number];

/** Ends that the search for the least squared error tries on one side. */
const STEPS = 256;
/** Times that each side is searched while the other one stays. */
const ROUNDS = 3;

/** The number below which `share` of the counts lie, spread evenly within their bins; bins begin at `start`. */
function quantile(counts: Float64Array, share: number, start: number, width: number): number {
  const wanted = share * counts.reduce((a, b) => a + b, 0);
  let seen = 0;
  for (const [i, count] of counts.entries()) {
    if (count > 0 && seen + count >= wanted) return start + width * (i + (wanted - seen) / count);
    seen += count;
  }
  return start + width * counts.length;
}

/**
 * The range that leaves `percent` of the numbers inside: of magnitudes if the codes are symmetric, else both tails are cut off
 * (Wu et al. 2020, arXiv 2004.09602, section 5.2).
 */
export function percentileRange(histogram: Histogram, percent: number, symmetric: boolean): Range {
  const { width, reach, min, max } = histogram;
  const share = percent / 100;
  if (symmetric) {
    const bound = Math.min(quantile(histogram.magnitudes(), share, 0, width), Math.max(-min, max));
    return [-bound, bound];
  }
  const low = quantile(histogram.counts, 1 - share, -reach, width);
  const high = quantile(histogram.counts, share, -reach, width);
  return [Math.max(low, min), Math.min(high, max)];
}

/**
 * Σ (x − x̂)² over a histogram whose numbers lie evenly in their bins: exact, as the error of a grid of the given step with codes
 * `lowest … highest` around zero has a primitive, k·s³/12 + (x − k·s)³/3 with the code k nearest to x.
 */
function squaredError(histogram: Histogram, step: number, lowest: number, highest: number): number {
  const { counts, width, reach } = histogram;
  const cell = step ** 3 / 12;
  const primitive = (x: number): number => {
    const code = Math.min(highest, Math.max(lowest, Math.round(x / step)));
    const lost = x - code * step;
    return code * cell + (lost * lost * lost) / 3;
  };
  let error = 0;
  let before = primitive(-reach);
  for (const [i, count] of counts.entries()) {
    const after = primitive(-reach + (i + 1) * width);
    error += count * (after - before);
    before = after;
  }
  return error / width;
}

/** The number of 1 … STEPS for which `cost` is least; the largest of equals. */
function leastOf(cost: (step: number) => number): number {
  let [best, least] = [STEPS, Infinity];
  for (let step = STEPS; step >= 1; step--) {
    const now = cost(step);
    if (now < least) [best, least] = [step, now];
  }
  return best;
}

/**
 * The range whose codes are nearest to the numbers in squared error: ends at multiples of 1/256 of the whole range, one after the other
 * where the codes are affine.
 */
export function leastSquaresRange(histogram: Histogram, symmetric: boolean): Range {
  const [least, largest] = [Math.min(histogram.min, 0), Math.max(histogram.max, 0)];
  if (symmetric) {
    const bound = Math.max(-least, largest);
    const found = leastOf((step) => squaredError(histogram, (bound * step) / STEPS / 127, -127, 127));
    return [(-bound * found) / STEPS, (bound * found) / STEPS];
  }
  const cost = (low: number, high: number): number => {
    const step = (high - low) / 255;
    const zero = Math.round(-low / step);
    return squaredError(histogram, step, -zero, 255 - zero);
  };
  let [low, high] = [least, largest];
  for (let round = 0; round < ROUNDS; round++) {
    if (largest > 0) high = (largest * leastOf((step) => cost(low, (largest * step) / STEPS))) / STEPS;
    if (least < 0) low = (least * leastOf((step) => cost((least * step) / STEPS, high))) / STEPS;
  }
  return [low, high];
}

/**
 * Kullback–Leibler divergence of bins `[from, to)`, with what lies beyond put into their ends, from what is left of them in `levels`
 * steps: the steps of Migacz's algorithm.
 */
function divergence(counts: Float64Array, from: number, to: number, levels: number, sums: Float64Array): number {
  const bins = to - from;
  const total = sums[counts.length]!;
  const inside = sums[to]! - sums[from]!;
  if (inside === 0) return Infinity;
  const [below, above] = [sums[from]!, total - sums[to]!];
  let divergence = 0;
  for (let level = 0; level < levels; level++) {
    const begin = from + Math.floor((level * bins) / levels);
    const end = from + Math.floor(((level + 1) * bins) / levels);
    let filled = 0;
    for (let i = begin; i < end; i++) if (counts[i]! > 0) filled++;
    // numbers of a step are spread evenly over those of its bins that are not empty
    const each = filled === 0 ? 0 : (sums[end]! - sums[begin]!) / filled / inside;
    for (let i = begin; i < end; i++) {
      const p = (counts[i]! + (i === from ? below : 0) + (i === to - 1 ? above : 0)) / total;
      if (p === 0) continue;
      const q = counts[i]! > 0 ? each : 0;
      divergence += q === 0 ? p * 50 : p * Math.log(p / q); // a bin that only what was cut off fills: e⁻⁵⁰ in place of 0
    }
  }
  return divergence;
}

function prefixSums(counts: Float64Array): Float64Array {
  const sums = new Float64Array(counts.length + 1);
  for (const [i, count] of counts.entries()) sums[i + 1] = sums[i]! + count;
  return sums;
}

/**
 * The range whose codes lose least information: the Kullback–Leibler divergence of the histogram from its 8-bit form is least (Migacz,
 * "8-bit Inference with TensorRT", GPU Technology Conference 2017; PyTorch's HistogramObserver minimises a squared error instead). With
 * symmetric codes, 128 steps of the magnitudes; with affine ones, 256 steps, and the ends are moved one after the other.
 */
export function entropyRange(histogram: Histogram, symmetric: boolean): Range {
  const { width, reach, min, max } = histogram;
  const search = (cost: (bin: number) => number, first: number, last: number): number => {
    let [best, least] = [last, Infinity];
    for (let bin = last; bin >= first; bin--) {
      const now = cost(bin);
      if (now < least) [best, least] = [bin, now];
    }
    return best;
  };
  if (symmetric) {
    const counts = histogram.magnitudes();
    const sums = prefixSums(counts);
    const used = Math.min(HALF, Math.ceil(Math.max(-min, max) / width));
    const bins = search((to) => divergence(counts, 0, to, 128, sums), Math.min(128, used), used);
    const bound = bins === used ? Math.max(-min, max) : (bins - 0.5) * width;
    return [-bound, bound];
  }
  const { counts } = histogram;
  const sums = prefixSums(counts);
  const first = Math.min(HALF, HALF + Math.floor(min / width));
  const last = Math.max(HALF, Math.min(2 * HALF, HALF + Math.ceil(max / width)));
  let [from, to] = [first, last];
  for (let round = 0; round < 2; round++) {
    to = search((bin) => divergence(counts, from, bin, 256, sums), Math.min(last, Math.max(HALF, from + 256)), last);
    const mirrored = (bin: number): number => divergence(counts, -bin, to, 256, sums);
    from = -search(mirrored, -Math.max(first, Math.min(HALF, to - 256)), -first);
  }
  return [Math.max(min, (from - HALF) * width, -reach), Math.min(max, (to - HALF) * width)];
}
