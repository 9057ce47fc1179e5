/**
 * Learning-rate schedules: functions from the step (from 0) and the number of steps of the run to a factor of the base
 * rate. Plain functions, so they compose and hold no state to save.
 *
 * @module
 */
import { AttributeError } from '../errors.js';
import { checkInteger, checkNumber } from '../util/assert.js';

/** Factor of the base learning rate at `step` of a run of `total` steps. */
export type Schedule = (step: number, total: number) => number;

/** Options of schedules that only warm up. */
export interface WarmupOptions {
  /** Steps over which the factor rises from 0 to 1. Default 0. */
  readonly warmup?: number;
}

const checkWarmup = (op: string, { warmup = 0 }: WarmupOptions): number => checkInteger(op, 'warmup', warmup, 0);

/** The base rate throughout, after warm-up. */
export function constant(options: WarmupOptions = {}): Schedule {
  const warmup = checkWarmup('constant', options);
  return (step) => (step < warmup ? step / Math.max(1, warmup) : 1);
}

/** Options of schedules that fall after warming up. */
export interface DecayOptions extends WarmupOptions {
  /** Factor at the end. Default 0. */
  readonly end?: number;
}

function decay(op: string, options: DecayOptions, shape: (progress: number) => number): Schedule {
  const warmup = checkWarmup(op, options);
  const end = checkNumber(op, 'end', options.end ?? 0, 0);
  return (step, total) => {
    if (step < warmup) return step / Math.max(1, warmup);
    const progress = Math.min(1, (step - warmup) / Math.max(1, total - warmup));
    return end + (1 - end) * shape(progress);
  };
}

/** Linear warm-up, then a straight line down to `end`. */
export function linear(options: DecayOptions = {}): Schedule {
  return decay('linear', options, (progress) => 1 - progress);
}

/** Linear warm-up, then half a cosine down to `end` (Loshchilov and Hutter, arXiv 1608.03983). */
export function cosine(options: DecayOptions = {}): Schedule {
  return decay('cosine', options, (progress) => 0.5 * (1 + Math.cos(Math.PI * progress)));
}

/** Half cosines, restarting after `period` steps, each `multiplier` times as long as the one before (arXiv 1608.03983). */
export function cosineWarmRestarts(options: {
  readonly period: number;
  readonly multiplier?: number;
  readonly end?: number;
}): Schedule {
  const first = checkInteger('cosineWarmRestarts', 'period', options.period, 1);
  const multiplier = checkNumber('cosineWarmRestarts', 'multiplier', options.multiplier ?? 1, 1);
  const end = checkNumber('cosineWarmRestarts', 'end', options.end ?? 0, 0);
  return (step) => {
    let period = first;
    let since = step;
    if (multiplier === 1) since %= period;
    else for (; since >= period; period *= multiplier) since -= period;
    return end + (1 - end) * 0.5 * (1 + Math.cos((Math.PI * since) / period));
  };
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
  const rise = checkNumber('oneCycle', 'rise', options.rise ?? 0.3, 0, 1);
  const start = 1 / checkNumber('oneCycle', 'divFactor', options.divFactor ?? 25, 1);
  const end = start / checkNumber('oneCycle', 'finalDivFactor', options.finalDivFactor ?? 1e4, 1);
  const between = (from: number, to: number, part: number): number =>
    options.anneal === 'linear' ? from + (to - from) * part : to + ((from - to) / 2) * (1 + Math.cos(Math.PI * part));
  return (step, total) => {
    const top = rise * total - 1;
    if (step <= top) return between(start, 1, top > 0 ? step / top : 1);
    return between(1, end, Math.min(1, (step - top) / Math.max(1, total - 1 - top)));
  };
}

/** Times `gamma` every `stepSize` steps. */
export function stepDecay(options: { readonly stepSize: number; readonly gamma?: number }): Schedule {
  const size = checkInteger('stepDecay', 'stepSize', options.stepSize, 1);
  const gamma = checkNumber('stepDecay', 'gamma', options.gamma ?? 0.1, 0);
  return (step) => gamma ** Math.floor(step / size);
}

/** Times `gamma` at each milestone. */
export function multiStep(options: { readonly milestones: readonly number[]; readonly gamma?: number }): Schedule {
  const gamma = checkNumber('multiStep', 'gamma', options.gamma ?? 0.1, 0);
  return (step) => gamma ** options.milestones.filter((milestone) => step >= milestone).length;
}

/** Times `gamma` every step. */
export function exponential(options: { readonly gamma: number }): Schedule {
  const gamma = checkNumber('exponential', 'gamma', options.gamma, 0);
  return (step) => gamma ** step;
}

/** From factor `start` to factor `end` in a straight line over `steps` steps, then constant (torch's LinearLR). */
export function linearRamp(options: {
  readonly start?: number;
  readonly end?: number;
  readonly steps: number;
}): Schedule {
  const start = checkNumber('linearRamp', 'start', options.start ?? 1 / 3, 0);
  const end = checkNumber('linearRamp', 'end', options.end ?? 1, 0);
  const steps = checkInteger('linearRamp', 'steps', options.steps, 1);
  return (step) => start + (end - start) * Math.min(1, step / steps);
}

/** (1 − step/total)^power (torch's PolynomialLR over the whole run). */
export function polynomial(options: { readonly power?: number } = {}): Schedule {
  const power = checkNumber('polynomial', 'power', options.power ?? 1, 0);
  return (step, total) => (1 - Math.min(1, step / Math.max(1, total))) ** power;
}

/** Schedules one after the other, the i-th from `starts[i]` on, each counting its own steps. `starts[0]` must be 0. */
export function sequential(schedules: readonly Schedule[], starts: readonly number[]): Schedule {
  if (schedules.length === 0 || schedules.length !== starts.length || starts[0] !== 0) {
    throw new AttributeError({
      op: 'sequential',
      argument: 'starts',
      expected: 'one start a schedule, the first 0',
      actual: String(starts),
    });
  }
  return (step, total) => {
    const i = starts.findLastIndex((start) => step >= start);
    const next = starts[i + 1] ?? total;
    return schedules[i]!(step - starts[i]!, next - starts[i]!);
  };
}
