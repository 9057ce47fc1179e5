/**
 * Arithmetic on whole states: tensors by name, the same names everywhere.
 */
import { AttributeError, ShapeError, StateError } from '../../errors.js';
import { noGrad } from '../../autograd/grad.js';
import type { StateDict } from '../../nn/module.js';
import { add, mul, sub } from '../../ops/arithmetic.js';
import { eq } from '../../ops/comparison.js';
import { clone, to } from '../../ops/copy.js';
import { all } from '../../ops/reduce.js';
import { detach } from '../../ops/views.js';
import { isFloating, type DType } from '../../tensor/dtype.js';
import { itemSync } from '../../tensor/read.js';
import { keep, scope } from '../../tensor/scope.js';
import { sameShape } from '../../tensor/shape.js';
import { Tensor } from '../../tensor/tensor.js';
import { checkNumber } from '../../util/assert.js';
import { formatShape, formatValue } from '../../util/format.js';

/** @internal What sums of tensors are computed in: float64 if one of them is, else float32. */
export const arithmeticDType = (tensors: readonly Tensor[]): DType =>
  tensors.some(({ dtype }) => dtype === 'float64') ? 'float64' : 'float32';

/** @throws AttributeError unless `value` is a state */
function checkState(op: string, argument: string, value: unknown): StateDict {
  const isState = typeof value === 'object' && value !== null && Object.values(value).every((x) => x instanceof Tensor);
  if (isState && Object.keys(value).length > 0) return value as StateDict;
  const actual = isState ? 'no tensors' : formatValue(value);
  throw new AttributeError({ op, argument, expected: 'tensors by name, as stateDict() gives them', actual });
}

/** @internal @throws StateError or ShapeError unless all states have the names and shapes of the first */
export function checkStates(op: string, states: readonly StateDict[]): void {
  if (!Array.isArray(states) || states.length === 0) {
    const actual = formatValue(states);
    throw new AttributeError({ op, argument: 'states', expected: 'at least one state', actual });
  }
  const [first, ...others] = states.map((state, i) => checkState(op, `states[${i}]`, state)) as [
    StateDict,
    ...StateDict[],
  ];
  for (const [i, state] of others.entries()) {
    const argument = `states[${i + 1}]`;
    const missing = Object.keys(first).filter((name) => !Object.hasOwn(state, name));
    const extra = Object.keys(state).filter((name) => !Object.hasOwn(first, name));
    if (missing.length + extra.length > 0) {
      const list = (names: string[]): string => names.slice(0, 4).join(', ') + (names.length > 4 ? ', …' : '');
      throw new StateError({
        op,
        argument,
        expected: 'the names of the first',
        actual: [
          ...(missing.length > 0 ? [`none of ${list(missing)}`] : []),
          ...(extra.length > 0 ? [`also ${list(extra)}`] : []),
        ].join(', '),
        hint: 'Merge models of one architecture; make adapters part of the weights first (mergeAndUnload)',
      });
    }
    for (const [name, tensor] of Object.entries(first)) {
      if (sameShape(state[name]!.shape, tensor.shape)) continue;
      const [expected, actual] = [formatShape(tensor.shape), formatShape(state[name]!.shape)];
      throw new ShapeError({ op, argument: `${argument}: ${name}`, expected, actual });
    }
  }
}

/** @internal A weight for each of so many states. */
export function checkWeights(
  op: string,
  weights: readonly number[] | undefined,
  count: number,
  value: number,
): number[] {
  if (weights === undefined) return new Array<number>(count).fill(value);
  if (!Array.isArray(weights) || weights.length !== count) {
    const actual = formatValue(Array.isArray(weights) ? weights.length : weights);
    throw new AttributeError({ op, argument: 'weights', expected: `${count} numbers, one a state`, actual });
  }
  return weights.map((weight: number, i) =>
    checkNumber(op, `weights[${i}]`, weight, -Number.MAX_VALUE, Number.MAX_VALUE),
  );
}

/**
 * @internal Applies `combine` to the tensors of each name; the result has the dtype of the first state's. What is not floating-point
 * (codes, counters) cannot be combined: it must be equal everywhere and is copied.
 *
 * @throws StateError if it is not
 */
export function combineStates(
  op: string,
  states: readonly StateDict[],
  combine: (tensors: Tensor[], name: string) => Tensor,
): StateDict {
  checkStates(op, states);
  const made: StateDict = {};
  noGrad(() => {
    for (const [name, tensor] of Object.entries(states[0]!)) {
      made[name] = keep(
        scope(() => {
          const tensors = states.map((state) => detach(state[name]!));
          if (tensors.every(({ dtype }) => isFloating(dtype))) {
            const dtype = arithmeticDType(tensors);
            const result = to(combine(tensors.map((x) => to(x, dtype)), name), tensor.dtype); // prettier-ignore
            return tensors.some(({ storage }) => storage === result.storage) ? clone(result) : result;
          }
          const [own, ...others] = tensors as [Tensor, ...Tensor[]];
          if (others.some((other) => other.dtype !== own.dtype || itemSync(all(eq(other, own))) === 0)) {
            const expected = `equal values, as ${own.dtype} cannot be averaged`;
            throw new StateError({
              op,
              argument: name,
              expected,
              actual: 'others',
              hint: 'Dequantise the models first',
            });
          }
          return clone(own);
        }),
      );
    }
  });
  return made;
}

/** @internal Σ weight · tensor. */
export function weightedSum(tensors: readonly Tensor[], weights: readonly number[]): Tensor {
  return tensors.map((tensor, i) => mul(tensor, weights[i]!)).reduce((a, b) => add(a, b));
}

/**
 * The weighted mean of states, in float64 or float32 and returned in the first one's dtypes: a uniform soup, if no weights are given.
 *
 * @param weights - one a state, of any sum but 0; they are divided by it. Default: equal
 * @throws StateError or ShapeError if names or shapes differ
 * @source Wortsman et al. 2022, arXiv 2203.05482; weights: Matena and Raffel 2022, arXiv 2111.09832, §2
 */
export function averageStates(states: readonly StateDict[], weights?: readonly number[]): StateDict {
  const op = 'averageStates';
  checkStates(op, states);
  const list = checkWeights(op, weights, states.length, 1);
  const total = list.reduce((a, b) => a + b, 0);
  if (total === 0) throw new AttributeError({ op, argument: 'weights', expected: 'a sum other than 0', actual: '0' });
  return combineStates(op, states, (tensors) => weightedSum(tensors, list.map((weight) => weight / total))); // prettier-ignore
}

/** What a fine-tuned model learnt: its state less that of its base, in float64 or float32. */
export function taskVector(tuned: StateDict, base: StateDict): StateDict {
  const op = 'taskVector';
  checkStates(op, [base, tuned]);
  const wide = Object.entries(base).filter(([, { dtype }]) => isFloating(dtype));
  return noGrad(() =>
    Object.fromEntries(
      wide.map(([name, tensor]) => {
        const dtype = arithmeticDType([tensor, tuned[name]!]);
        return [name, keep(scope(() => sub(to(detach(tuned[name]!), dtype), to(detach(tensor), dtype))))];
      }),
    ),
  );
}

/** Options of {@link taskArithmetic}. */
export interface TaskArithmeticOptions {
  /** Factor of each task vector; negative ones unlearn. Default 1 each. */
  readonly weights?: readonly number[];
  /** Factor of their sum (λ). Default 1; with several tasks 0.3 to 0.5 is usual. */
  readonly scale?: number;
}

/**
 * θ_base + λ · Σ weight · (θ_t − θ_base).
 *
 * @throws StateError or ShapeError if names or shapes differ
 * @source Ilharco et al. 2023, arXiv 2212.04089
 */
export function taskArithmetic(
  base: StateDict,
  states: readonly StateDict[],
  options: TaskArithmeticOptions = {},
): StateDict {
  const op = 'taskArithmetic';
  const { scale = 1 } = options;
  checkNumber(op, 'scale', scale, -Number.MAX_VALUE, Number.MAX_VALUE);
  checkStates(op, [base, ...states]);
  const weights = checkWeights(op, options.weights, states.length, 1);
  return combineStates(op, [base, ...states], ([start, ...tuned]) => {
    if (tuned.length === 0) return start!;
    const deltas = tuned.map((x) => sub(x, start!));
    return add(start!, mul(weightedSum(deltas, weights), scale));
  });
}
