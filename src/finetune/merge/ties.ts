/**
 * Merging task vectors that disagree: TIES, and DARE.
 */
import { AttributeError } from '../../errors.js';
import { noGrad } from '../../autograd/grad.js';
import type { StateDict } from '../../nn/module.js';
import { add, div, mul, sub } from '../../ops/arithmetic.js';
import { eq, ge, logicalAnd, ne } from '../../ops/comparison.js';
import { to } from '../../ops/copy.js';
import { bernoulli } from '../../ops/random_ops.js';
import { sum } from '../../ops/reduce.js';
import { abs, sign } from '../../ops/unary.js';
import { where } from '../../ops/where.js';
import { tensor } from '../../tensor/create.js';
import { generator as makeGenerator } from '../../tensor/random.js';
import { item } from '../../tensor/read.js';
import { scope } from '../../tensor/scope.js';
import type { Tensor } from '../../tensor/tensor.js';
import { checkBoolean, checkInteger, checkKeys, checkNumber, checkOneOf } from '../../util/assert.js';
import { formatValue } from '../../util/format.js';
import { disposeState } from '../copies.js';
import { checkStates, checkWeights, combineStates, taskVector, weightedSum } from './states.js';

/** @throws AttributeError unless it is above 0 and at most 1 */
function checkDensity(op: string, value: unknown): number {
  if (typeof value === 'number' && value > 0 && value <= 1) return value;
  const [expected, actual] = ['a share above 0, at most 1', formatValue(value)];
  throw new AttributeError({ op, argument: 'density', expected, actual });
}

/** The float32 or float64 number of given bits; for positive numbers their order is that of the bits. */
function floatOf(bits: bigint, isWide: boolean): number {
  const view = new DataView(new ArrayBuffer(8));
  if (isWide) {
    view.setBigUint64(0, bits);
    return view.getFloat64(0);
  }
  view.setUint32(0, Number(bits));
  return view.getFloat32(0);
}

/**
 * @internal The k-th largest magnitude over all tensors, exactly: bisection over the bits of the numbers, one count of all elements a bit,
 * without sorting or joining anything.
 */
export async function kthMagnitude(tensors: readonly Tensor[], k: number): Promise<number> {
  const isWide = tensors.some(({ dtype }) => dtype === 'float64');
  // the largest bits whose number at least k magnitudes reach
  let [low, high] = [0n, isWide ? 0x7ff0000000000000n : 0x7f800000n];
  while (low < high) {
    const middle = (low + high + 1n) / 2n;
    const limit = floatOf(middle, isWide);
    const count = scope(() =>
      noGrad(() => {
        // a tensor of its own: numbers become constants that are remembered, and these are never met again
        const bound = tensor(limit, { dtype: isWide ? 'float64' : 'float32' });
        return tensors.map((x) => sum(ge(abs(to(x, bound.dtype)), bound))).reduce((a, b) => add(a, b));
      }),
    );
    const reached = await item(count).finally(() => count.dispose());
    if (reached >= k) low = middle;
    else high = middle - 1n;
  }
  return floatOf(low, isWide);
}

/** How {@link tiesStates} trims. */
export type TrimScope = 'global' | 'tensor';

/** Options of {@link tiesStates}. */
export interface TiesOptions {
  /** Share of each task vector's elements that stays, the largest. Default 0.2. */
  readonly density?: number;
  /** Over the whole task vector, as the paper does, or tensor by tensor, as mergekit and PEFT do. Default `global`. */
  readonly trim?: TrimScope;
  /** Weight of each state, in the vote on the sign and in the mean. Default 1 each. */
  readonly weights?: readonly number[];
  /** Factor of the merged task vector (λ). Default 1. */
  readonly scale?: number;
}

/** Below it nothing is kept: the smallest magnitude that stays, by tensor name. */
async function thresholds(vector: StateDict, density: number, trim: TrimScope): Promise<(name: string) => number> {
  if (density === 1) return () => 0;
  const kept = (size: number): number => Math.max(1, Math.floor(density * size));
  const list = Object.entries(vector).filter(([, { size }]) => size > 0);
  if (trim === 'global') {
    const total = list.reduce((count, [, { size }]) => count + size, 0);
    const limit = total === 0 ? 0 : await kthMagnitude(list.map(([, own]) => own), kept(total)); // prettier-ignore
    return () => limit;
  }
  const limits = new Map<string, number>();
  for (const [name, own] of list) limits.set(name, await kthMagnitude([own], kept(own.size)));
  return (name) => limits.get(name) ?? 0;
}

/** @internal The sign with the greater weight at each place, and the mean of what has it. */
export function electAndMerge(vectors: readonly Tensor[], weights: readonly number[]): Tensor {
  const elected = sign(weightedSum(vectors, weights));
  const agrees = vectors.map((x, i) => {
    const own = weights[i]! < 0 ? mul(sign(x), -1) : sign(x);
    return to(logicalAnd(eq(own, elected), ne(x, 0)), x.dtype);
  });
  const total = agrees.map((mask, i) => mul(mul(mask, vectors[i]!), weights[i]!)).reduce((a, b) => add(a, b));
  const mass = agrees.map((mask, i) => mul(mask, Math.abs(weights[i]!))).reduce((a, b) => add(a, b));
  return div(total, where(eq(mass, 0), 1, mass));
}

/**
 * TIES: trims each task vector to its largest elements, elects at each place the sign with the greater total, and averages the vectors that
 * have it; θ_base + λ · that. Elements as large as the smallest that stays stay, too. With weights the vote and the mean are weighted. Waits
 * for counts of the tensors' elements; the event loop turns.
 *
 * @throws StateError or ShapeError if names or shapes differ
 * @throws AttributeError if an option cannot be
 * @source Yadav et al. 2023, arXiv 2306.01708, §3, algorithm 1
 */
export async function tiesStates(
  base: StateDict,
  states: readonly StateDict[],
  options: TiesOptions = {},
): Promise<StateDict> {
  const op = 'tiesStates';
  checkKeys(op, options, ['density', 'trim', 'weights', 'scale']);
  const density = checkDensity(op, options.density ?? 0.2);
  const trim = checkOneOf(op, 'trim', options.trim ?? 'global', ['global', 'tensor']);
  const scale = checkNumber(op, 'scale', options.scale ?? 1, -Number.MAX_VALUE, Number.MAX_VALUE);
  checkTuned(op, base, states);
  const weights = checkWeights(op, options.weights, states.length, 1);
  const limits: ((name: string) => number)[] = [];
  for (const state of states) {
    const vector = taskVector(state, base);
    limits.push(await thresholds(vector, density, trim).finally(() => disposeState(vector)));
  }
  return combineStates(op, [base, ...states], ([start, ...tuned], name) => {
    const trimmed = tuned.map((x, i) => {
      const delta = sub(x, start!);
      return where(ge(abs(delta), tensor(limits[i]!(name), { dtype: delta.dtype })), delta, 0);
    });
    return add(start!, mul(electAndMerge(trimmed, weights), scale));
  });
}

/** Options of {@link dareStates}. */
export interface DareOptions {
  /** Share of each task vector's elements that stays (1 − p). Default 0.5. */
  readonly density?: number;
  /** Divide what stays by the density, which keeps the mean. Default true. */
  readonly rescale?: boolean;
  /** How the thinned task vectors are put together: `linear`, their weighted sum, or `ties`, election and mean. Default `linear`. */
  readonly consensus?: 'linear' | 'ties';
  /** Default 1 each. */
  readonly weights?: readonly number[];
  /** Factor of the merged task vector (λ). Default 1. */
  readonly scale?: number;
  /** Of the choice of what stays, drawn tensor by tensor in the base's order and within it state by state. Default 0. */
  readonly seed?: number;
}

/**
 * DARE: drops elements of each task vector at random, divides the rest by the share that stays, and merges.
 *
 * @throws StateError or ShapeError if names or shapes differ
 * @throws AttributeError if an option cannot be
 * @source Yu et al. 2024, arXiv 2311.03099, §3.2
 */
export function dareStates(base: StateDict, states: readonly StateDict[], options: DareOptions = {}): StateDict {
  const op = 'dareStates';
  checkKeys(op, options, ['density', 'rescale', 'consensus', 'weights', 'scale', 'seed']);
  const density = checkDensity(op, options.density ?? 0.5);
  const rescale = checkBoolean(op, 'rescale', options.rescale ?? true);
  const consensus = checkOneOf(op, 'consensus', options.consensus ?? 'linear', ['linear', 'ties']);
  const scale = checkNumber(op, 'scale', options.scale ?? 1, -Number.MAX_VALUE, Number.MAX_VALUE);
  const generator = makeGenerator(checkInteger(op, 'seed', options.seed ?? 0, 0));
  checkTuned(op, base, states);
  const weights = checkWeights(op, options.weights, states.length, 1);
  return combineStates(op, [base, ...states], ([start, ...tuned]) => {
    const thinned = tuned.map((x) => {
      const kept = mul(sub(x, start!), bernoulli(density, x.shape, { dtype: x.dtype, generator }));
      return rescale ? div(kept, density) : kept;
    });
    const merged = consensus === 'ties' ? electAndMerge(thinned, weights) : weightedSum(thinned, weights);
    return add(start!, mul(merged, scale));
  });
}

/** @throws AttributeError unless there is something to merge into the base */
function checkTuned(op: string, base: StateDict, states: readonly StateDict[]): void {
  if (!Array.isArray(states) || states.length === 0) {
    throw new AttributeError({ op, argument: 'states', expected: 'at least one state', actual: formatValue(states) });
  }
  checkStates(op, [base, ...states]);
}
