/**
 * Learning-rate schedules: functions from the step (from 0) and the number of steps of the run to a factor of the base
 * rate. Plain functions, so they compose and hold no state to save; only `reduceOnPlateau` does. The unit is whatever the
 * caller counts in: steps, or tokens (`scheduleTokens` of the Trainer), with `warmup` and the like in the same unit.
 *
 * @module
 */
import { AttributeError } from '../errors.js';
import { checkInteger, checkKeys, checkNumber, checkOneOf } from '../util/assert.js';
import { formatValue } from '../util/format.js';

/** Factor of the base learning rate at `step` of a run of `total` steps. */
export type Schedule = (step: number, total: number) => number;

/** Options of schedules that warm up. */
export interface WarmupOptions {
  /** Steps over which the factor rises in a straight line to 1. Default 0. */
  readonly warmup?: number;
  /** Factor that the rise starts from. Default 0. */
  readonly warmupStart?: number;
}

const warmupKeys = ['warmup', 'warmupStart'];

/** A schedule that warms up and goes on with `after`. */
function warming(
  op: string,
  options: WarmupOptions,
  after: (step: number, total: number, warmup: number) => number,
): Schedule {
  const warmup = checkInteger(op, 'warmup', options.warmup ?? 0, 0);
  const start = checkNumber(op, 'warmupStart', options.warmupStart ?? 0, 0, 1);
  return (step, total) => (step < warmup ? start + (1 - start) * (step / warmup) : after(step, total, warmup));
}

/** The base rate throughout, after warm-up. */
export function constant(options: WarmupOptions = {}): Schedule {
  checkKeys('constant', options, warmupKeys);
  return warming('constant', options, () => 1);
}

/** Options of schedules that fall after warming up. */
export interface DecayOptions extends WarmupOptions {
  /** Factor at the end. Default 0. */
  readonly end?: number;
}

function decay(op: string, options: DecayOptions, shape: (progress: number) => number): Schedule {
  const end = checkNumber(op, 'end', options.end ?? 0, 0, Number.MAX_VALUE);
  return warming(op, options, (step, total, warmup) => {
    const progress = Math.min(1, (step - warmup) / Math.max(1, total - warmup));
    return end + (1 - end) * shape(progress);
  });
}

/** Linear warm-up, then a straight line down to `end`. */
export function linear(options: DecayOptions = {}): Schedule {
  checkKeys('linear', options, [...warmupKeys, 'end']);
  return decay('linear', options, (progress) => 1 - progress);
}

/** From 1 down to 0 along half a cosine. */
const halfCosine = (progress: number): number => 0.5 * (1 + Math.cos(Math.PI * progress));

/** Options of {@link cosine}. */
export interface CosineOptions extends DecayOptions {
  /** Half cosines over the run, each starting from the base rate again. Default 1. */
  readonly cycles?: number;
}

/**
 * Linear warm-up, then half a cosine down to `end`, or several of equal length.
 *
 * @source Loshchilov and Hutter, arXiv 1608.03983; `cycles` as transformers' get_cosine_with_hard_restarts_schedule_with_warmup
 */
export function cosine(options: CosineOptions = {}): Schedule {
  checkKeys('cosine', options, [...warmupKeys, 'end', 'cycles']);
  const cycles = checkInteger('cosine', 'cycles', options.cycles ?? 1, 1);
  return decay('cosine', options, (progress) => (progress >= 1 ? 0 : halfCosine((cycles * progress) % 1)));
}

/** Options of {@link cosineWarmRestarts}. */
export interface WarmRestartsOptions extends DecayOptions {
  /** Steps of the first half cosine. */
  readonly period: number;
  /** Each is so many times as long as the one before. Default 1. */
  readonly multiplier?: number;
}

/** Linear warm-up, then half cosines that restart after `period` steps, each `multiplier` times as long as the one before (SGDR, arXiv 1608.03983). */
export function cosineWarmRestarts(options: WarmRestartsOptions): Schedule {
  const op = 'cosineWarmRestarts';
  checkKeys(op, options, [...warmupKeys, 'end', 'period', 'multiplier']);
  const first = checkInteger(op, 'period', options.period, 1);
  const multiplier = checkNumber(op, 'multiplier', options.multiplier ?? 1, 1, Number.MAX_VALUE);
  const end = checkNumber(op, 'end', options.end ?? 0, 0, Number.MAX_VALUE);
  return warming(op, options, (step, _total, warmup) => {
    let period = first;
    let since = step - warmup;
    if (multiplier === 1) since %= period;
    else for (; since >= period; period *= multiplier) since -= period;
    return end + (1 - end) * halfCosine(since / period);
  });
}

/** Options of {@link inverseSqrt}. */
export interface InverseSqrtOptions extends WarmupOptions {
  /** Steps after which the factor would be 1/√2 of what it was at the end of the warm-up. Default: the warm-up, or 10000 without. */
  readonly timescale?: number;
}

/**
 * Linear warm-up, then 1/√(1 + (step − warmup) / timescale).
 *
 * @source Vaswani et al., arXiv 1706.03762, eq. 3; `timescale` as in transformers' get_inverse_sqrt_schedule
 */
export function inverseSqrt(options: InverseSqrtOptions = {}): Schedule {
  checkKeys('inverseSqrt', options, [...warmupKeys, 'timescale']);
  const timescale = checkNumber(
    'inverseSqrt',
    'timescale',
    options.timescale ?? (options.warmup || 10000),
    Number.MIN_VALUE,
    Number.MAX_VALUE,
  );
  return warming(
    'inverseSqrt',
    options,
    (step, _total, warmup) => 1 / Math.sqrt((step - warmup + timescale) / timescale),
  );
}

/** Options of {@link wsd}. */
export interface WsdOptions extends DecayOptions {
  /** Steps of the fall at the end of the run. */
  readonly decay: number;
  /** Its shape: a straight line, half a cosine, 1 − √progress, or exponential (`end` must be above 0 then). Default `linear`. */
  readonly shape?: 'linear' | 'cosine' | '1-sqrt' | 'exponential';
}

/**
 * Warm-up, stable, decay: the base rate until `decay` steps before the end, then down to `end`. A run can be made longer from a
 * checkpoint before its fall.
 *
 * @source Hu et al. (MiniCPM), arXiv 2404.06395 (its 0.5^(n/T) over `decay` steps is `exponential` with end 0.5^(decay/T));
 *   `1-sqrt`: Hägele et al., arXiv 2405.18392
 */
export function wsd(options: WsdOptions): Schedule {
  checkKeys('wsd', options, [...warmupKeys, 'end', 'decay', 'shape']);
  const shapes = ['linear', 'cosine', '1-sqrt', 'exponential'] as const;
  const kind = checkOneOf('wsd', 'shape', options.shape ?? 'linear', shapes);
  const length = checkInteger('wsd', 'decay', options.decay, 0);
  const end = checkNumber('wsd', 'end', options.end ?? 0, kind === 'exponential' ? Number.MIN_VALUE : 0, 1);
  const shape = {
    linear: (progress: number) => 1 - progress,
    cosine: halfCosine,
    '1-sqrt': (progress: number) => 1 - Math.sqrt(progress),
    exponential: (progress: number) => (end === 1 ? 1 : (end ** progress - end) / (1 - end)),
  }[kind];
  return warming('wsd', options, (step, total) => {
    const since = step - (total - length);
    if (since < 0) return 1;
    return since >= length ? end : end + (1 - end) * shape(since / length);
  });
}

/** Options of {@link oneCycle}. */
export interface OneCycleOptions {
  /** Share of the run in which the rate rises. Default 0.3. */
  readonly rise?: number;
  /** The rate starts at base / divFactor. Default 25. */
  readonly divFactor?: number;
  /** The rate ends at base / divFactor / finalDivFactor. Default 1e4. */
  readonly finalDivFactor?: number;
  /** Shape of both legs. Default `cosine`. */
  readonly anneal?: 'cosine' | 'linear';
}

/** Up to the base rate and down again (Smith and Topin, arXiv 1708.07120), as torch's OneCycleLR; the base rate is its maximum. */
export function oneCycle(options: OneCycleOptions = {}): Schedule {
  checkKeys('oneCycle', options, ['rise', 'divFactor', 'finalDivFactor', 'anneal']);
  const anneal = checkOneOf('oneCycle', 'anneal', options.anneal ?? 'cosine', ['cosine', 'linear']);
  const rise = checkNumber('oneCycle', 'rise', options.rise ?? 0.3, 0, 1);
  const start = 1 / checkNumber('oneCycle', 'divFactor', options.divFactor ?? 25, 1);
  const end = start / checkNumber('oneCycle', 'finalDivFactor', options.finalDivFactor ?? 1e4, 1);
  const between = (from: number, to: number, part: number): number =>
    anneal === 'linear' ? from + (to - from) * part : to + ((from - to) / 2) * (1 + Math.cos(Math.PI * part));
  return (step, total) => {
    const top = rise * total - 1;
    if (step <= top) return between(start, 1, top > 0 ? step / top : 1);
    return between(1, end, Math.min(1, (step - top) / Math.max(1, total - 1 - top)));
  };
}

/** Times `gamma` every `stepSize` steps. */
export function stepDecay(options: { readonly stepSize: number; readonly gamma?: number }): Schedule {
  checkKeys('stepDecay', options, ['stepSize', 'gamma']);
  const size = checkInteger('stepDecay', 'stepSize', options.stepSize, 1);
  const gamma = checkNumber('stepDecay', 'gamma', options.gamma ?? 0.1, 0);
  return (step) => gamma ** Math.floor(step / size);
}

/** Times `gamma` at each milestone. */
export function multiStep(options: { readonly milestones: readonly number[]; readonly gamma?: number }): Schedule {
  checkKeys('multiStep', options, ['milestones', 'gamma']);
  const gamma = checkNumber('multiStep', 'gamma', options.gamma ?? 0.1, 0);
  if (!Array.isArray(options.milestones)) {
    const actual = formatValue(options.milestones);
    throw new AttributeError({ op: 'multiStep', argument: 'milestones', expected: 'a list of steps', actual });
  }
  const milestones = options.milestones.map((step, i) => checkInteger('multiStep', `milestones[${i}]`, step, 0));
  return (step) => gamma ** milestones.filter((milestone) => step >= milestone).length;
}

/** Times `gamma` every step. */
export function exponential(options: { readonly gamma: number }): Schedule {
  checkKeys('exponential', options, ['gamma']);
  const gamma = checkNumber('exponential', 'gamma', options.gamma, 0);
  return (step) => gamma ** step;
}

/** From factor `start` to factor `end` in a straight line over `steps` steps, then constant (torch's LinearLR). */
export function linearRamp(options: {
  readonly start?: number;
  readonly end?: number;
  readonly steps: number;
}): Schedule {
  checkKeys('linearRamp', options, ['start', 'end', 'steps']);
  const start = checkNumber('linearRamp', 'start', options.start ?? 1 / 3, 0);
  const end = checkNumber('linearRamp', 'end', options.end ?? 1, 0);
  const steps = checkInteger('linearRamp', 'steps', options.steps, 1);
  return (step) => start + (end - start) * Math.min(1, step / steps);
}

/** Options of {@link polynomial}. */
export interface PolynomialOptions extends DecayOptions {
  /** Default 1. */
  readonly power?: number;
}

/** Linear warm-up, then end + (1 − end)·(1 − progress)^power (torch's PolynomialLR, transformers' polynomial decay). */
export function polynomial(options: PolynomialOptions = {}): Schedule {
  checkKeys('polynomial', options, [...warmupKeys, 'end', 'power']);
  const power = checkNumber('polynomial', 'power', options.power ?? 1, 0, Number.MAX_VALUE);
  return decay('polynomial', options, (progress) => (1 - progress) ** power);
}

/** Options of {@link piecewise}. */
export interface PiecewiseOptions {
  /** Steps and factors, steps rising. Before the first and after the last the factor stays. */
  readonly points: readonly (readonly [step: number, factor: number])[];
  /** Straight lines between the points, or steps at them. Default `linear`. */
  readonly between?: 'linear' | 'constant';
}

/** Through given points. With `constant`, each factor holds from its step to the next. */
export function piecewise(options: PiecewiseOptions): Schedule {
  checkKeys('piecewise', options, ['points', 'between']);
  const between = checkOneOf('piecewise', 'between', options.between ?? 'linear', ['linear', 'constant']);
  const points: readonly unknown[] = Array.isArray(options.points) ? [...options.points] : [];
  let before = -Infinity;
  const known = points.map((point, i): readonly [number, number] => {
    const [step, factor] = Array.isArray(point) ? (point as unknown[]) : [];
    checkNumber('piecewise', `points[${i}][0]`, step, 0, Number.MAX_VALUE);
    checkNumber('piecewise', `points[${i}][1]`, factor, 0, Number.MAX_VALUE);
    if (!((step as number) > before)) {
      const expected = `a step above ${before}`;
      throw new AttributeError({ op: 'piecewise', argument: `points[${i}]`, expected, actual: String(step) });
    }
    before = step as number;
    return [step as number, factor as number];
  });
  const [first] = known;
  if (first === undefined) {
    const actual = formatValue(options.points);
    throw new AttributeError({ op: 'piecewise', argument: 'points', expected: 'at least one [step, factor]', actual });
  }
  return (step) => {
    const i = known.findLastIndex(([at]) => step >= at);
    const [from, low] = known[i] ?? first;
    const next = i < 0 || between === 'constant' ? undefined : known[i + 1];
    return next === undefined ? low : low + ((next[1] - low) * (step - from)) / (next[0] - from);
  };
}

/** Options of {@link slantedTriangular}. */
export interface SlantedTriangularOptions {
  /** Share of the run in which the rate rises. Default 0.1. */
  readonly cut?: number;
  /** The highest rate over the lowest. Default 32. */
  readonly ratio?: number;
}

/**
 * A short linear rise from 1/ratio to 1, then a long linear fall back.
 *
 * @source Howard and Ruder 2018, arXiv 1801.06146, §3.2, equation 3
 */
export function slantedTriangular(options: SlantedTriangularOptions = {}): Schedule {
  checkKeys('slantedTriangular', options, ['cut', 'ratio']);
  const share = checkNumber('slantedTriangular', 'cut', options.cut ?? 0.1, 0, 1);
  const ratio = checkNumber('slantedTriangular', 'ratio', options.ratio ?? 32, 1, Number.MAX_VALUE);
  return (step, total) => {
    const cut = Math.floor(total * share);
    const p = step < cut ? step / cut : 1 - (step - cut) / Math.max(total - cut, 1);
    return (1 + Math.max(p, 0) * (ratio - 1)) / ratio;
  };
}
