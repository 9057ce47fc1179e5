/**
 * Running sums and products along an axis, and the product of elements.
 *
 * @module
 */
import type { View } from '../runtime/queue.js';
import { isFloating } from '../tensor/dtype.js';
import { checkAxes, checkAxis } from '../tensor/shape.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { add, mul } from './arithmetic.js';
import { to } from './copy.js';
import { defineOp } from './define.js';
import { moveAxis } from './join.js';
import { pad } from './pad.js';
import type { Axes, ReduceOptions } from './reduce.js';
import { flatten, flip, narrow, permute, reshape, unsqueeze } from './views.js';

interface AxisAttrs {
  readonly axis: number;
}

/** @internal The same memory with one axis moved to the end, as kernels that work along the last axis want it. */
export function axisLast(x: Tensor, axis: number): View {
  if (axis === x.rank - 1) return x;
  const { storage, offset, dtypeId, itemBytes } = x;
  const move = (values: readonly number[]): number[] => [...values.filter((_, i) => i !== axis), values[axis]!];
  return { storage, offset, dtypeId, itemBytes, shape: move(x.shape), strides: move(x.strides) };
}

/** Integers and booleans count in int64, as in PyTorch. */
const wide = (x: Tensor): Tensor => (isFloating(x.dtype) ? x : to(x, 'int64'));

const cumsumOp = defineOp<AxisAttrs>({
  name: 'cumsum',
  inputs: [{ name: 'x', kind: 'any' }],
  output: ([x]) => ({ shape: x!.shape, dtype: x!.dtype }),
  operands: ([x], { axis }) => [axisLast(x!, axis)],
  results: (_inputs, { axis }, [y]) => [axisLast(y!, axis)],
  backward: ({ grad, attrs: { axis } }) => [flip(cumsum(flip(grad, axis), axis), axis)],
});

/**
 * Sums of the elements up to and including each, along an axis. Integers and booleans give int64.
 *
 * @throws AttributeError if there is no such axis
 */
export function cumsum(x: Tensor, axis: number): Tensor {
  checkTensor('cumsum', 'x', x);
  if (x.rank === 0) return wide(x);
  return cumsumOp.call([wide(x)], { axis: checkAxis('cumsum', axis, x.rank) });
}

const cumprodOp = defineOp<AxisAttrs>({
  name: 'cumprod',
  inputs: [{ name: 'x', kind: 'any' }],
  output: ([x]) => ({ shape: x!.shape, dtype: x!.dtype }),
  operands: ([x], { axis }) => [axisLast(x!, axis)],
  results: (_inputs, { axis }, [y]) => [axisLast(y!, axis)],
  saves: ([x]) => [x!],
  backward: ({ grad, saved: [x], attrs: { axis } }) => [cumprodGradient(grad, x!, axis)],
});

/** Amounts for `pad` that change one axis alone. */
function padsOf(x: Tensor, axis: number, before: number, after: number): number[] {
  return [...new Array<number>(2 * (x.rank - 1 - axis)).fill(0), before, after];
}

/** Products of the elements before each: 1, x₀, x₀x₁, … */
function exclusiveProducts(x: Tensor, axis: number): Tensor {
  const length = x.shape[axis]!;
  return pad(cumprod(narrow(x, axis, 0, length - 1), axis), padsOf(x, axis, 1, 0), { value: 1 });
}

/**
 * dL/dxₖ = (Π_{j<k} xⱼ) · Σ_{i≥k} gᵢ Π_{k<j≤i} xⱼ: no division, so it is right where elements are 0. The sum follows
 * rₖ = gₖ + xₖ₊₁ rₖ₊₁, a linear recurrence, which is solved by doubling (Hillis & Steele 1986) in log₂ n steps.
 */
function cumprodGradient(grad: Tensor, x: Tensor, axis: number): Tensor {
  const length = x.shape[axis]!;
  if (x.size === 0) return grad;
  let value = flip(grad, axis);
  let factor = pad(flip(narrow(x, axis, 1, length - 1), axis), padsOf(x, axis, 1, 0));
  for (let step = 1; step < length; step *= 2) {
    const shift = padsOf(x, axis, step, -step);
    value = add(value, mul(factor, pad(value, shift)));
    if (2 * step < length) factor = mul(factor, pad(factor, shift));
  }
  return mul(exclusiveProducts(x, axis), flip(value, axis));
}

/**
 * Products of the elements up to and including each, along an axis. Integers and booleans give int64. The gradient is
 * right also where elements are 0.
 *
 * @throws AttributeError if there is no such axis
 */
export function cumprod(x: Tensor, axis: number): Tensor {
  checkTensor('cumprod', 'x', x);
  if (x.rank === 0) return wide(x);
  return cumprodOp.call([wide(x)], { axis: checkAxis('cumprod', axis, x.rank) });
}

/** Product along the last axis. */
const prodOp = defineOp({
  name: 'prod',
  inputs: [{ name: 'x', kind: 'any' }],
  attrCount: 1,
  output: ([x]) => ({ shape: x!.shape.slice(0, -1), dtype: x!.dtype }),
  encode: () => [1],
  saves: ([x]) => [x!],
  backward: ({ grad, saved: [x] }) => {
    if (x!.size === 0) return [mul(x!, 0)];
    const last = x!.rank - 1;
    const others = mul(exclusiveProducts(x!, last), flip(exclusiveProducts(flip(x!, last), last), last));
    return [mul(unsqueeze(grad, -1), others)];
  },
});

/**
 * Product of the elements; 1 for none. Integers and booleans give int64. The gradient of an element is the product of the
 * others, right also where some are 0.
 *
 * @param axes - one, several, or undefined for all
 */
export function prod(x: Tensor, axes?: Axes, options: ReduceOptions = {}): Tensor {
  checkTensor('prod', 'x', x);
  const list = checkAxes('prod', axes, x.rank);
  const y = list.length === 0 ? wide(x) : prodOp.call([reducedTogether(wide(x), list)], {});
  return options.keepDims
    ? reshape(
        y,
        x.shape.map((length, i) => (list.includes(i) ? 1 : length)),
      )
    : y;
}

/** The given axes as one, the last. */
function reducedTogether(x: Tensor, axes: readonly number[]): Tensor {
  if (axes.length === 1) return moveAxis(x, axes[0]!, -1);
  const kept = [...x.shape.keys()].filter((axis) => !axes.includes(axis));
  return flatten(permute(x, [...kept, ...axes]), kept.length);
}
