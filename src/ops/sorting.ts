/**
 * Order: sorting, the largest elements, and where they stand. Gradients flow to the places that the values came from.
 *
 * @module
 */
import { AttributeError } from '../errors.js';
import { zeros } from '../tensor/create.js';
import { checkAxis, type Shape } from '../tensor/shape.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { checkBoolean, checkInteger } from '../util/assert.js';
import { formatShape } from '../util/format.js';
import { defineOp, type BackwardContext, type Gradients } from './define.js';
import { gather, scatterAdd } from './indexing.js';
import { argmax, argmin, type ReduceOptions } from './reduce.js';
import { axisLast } from './scan.js';
import { reshape, squeeze } from './views.js';

/** Values, and the positions (int64) along the axis that they came from. */
export interface ValuesAndIndices {
  readonly values: Tensor;
  readonly indices: Tensor;
}

interface OrderAttrs {
  readonly axis: number;
  /** Shape of the input, for the way back. */
  readonly from: Shape;
  /** Largest first. */
  readonly descending: boolean;
  readonly count: number;
}

/** Each gradient goes back to where its value stood. */
function putBack({ grad, saved: [indices], attrs: { axis, from } }: BackwardContext<OrderAttrs>): Gradients {
  return [scatterAdd(zeros(from, { dtype: grad.dtype }), axis, indices!, grad)];
}

const sortOp = defineOp<OrderAttrs>({
  name: 'sort',
  inputs: [{ name: 'x', kind: 'any' }],
  attrCount: 1,
  outputCount: 2,
  output: ([x]) => [
    { shape: x!.shape, dtype: x!.dtype },
    { shape: x!.shape, dtype: 'int64' },
  ],
  operands: ([x], { axis }) => [axisLast(x!, axis)],
  results: (_inputs, { axis }, outputs) => outputs.map((y) => axisLast(y!, axis)),
  encode: ({ descending }) => [descending ? 1 : 0],
  saves: (_inputs, [, indices]) => [indices!],
  backward: putBack,
  cost: ([x], [y]) => ({
    flops: x!.size * Math.ceil(Math.log2(2 + x!.shape.at(-1)!)),
    bytes: x!.bytes + y!.bytes + 8 * y!.size,
  }),
});

/**
 * Elements in order along an axis, equal ones as they stood (stable); NaN counts as larger than everything.
 *
 * @returns the values in order, and where they stood
 */
export function sort(x: Tensor, axis = -1, descending = false): ValuesAndIndices {
  checkTensor('sort', 'x', x);
  checkBoolean('sort', 'descending', descending);
  if (x.rank === 0) return sortScalar(x);
  const at = checkAxis('sort', axis, x.rank);
  const [values, indices] = sortOp.callAll([x], { axis: at, from: x.shape, descending, count: 0 });
  return { values: values!, indices: indices! };
}

function sortScalar(x: Tensor): ValuesAndIndices {
  return { values: reshape(x, []), indices: zeros([], { dtype: 'int64' }) };
}

/** Positions (int64) that would put the elements in order along an axis; stable. */
export function argsort(x: Tensor, axis = -1, descending = false): Tensor {
  const { values, indices } = sort(x, axis, descending);
  values.dispose();
  return indices;
}

const topkOp = defineOp<OrderAttrs>({
  name: 'topk',
  inputs: [{ name: 'x', kind: 'any' }],
  attrCount: 2,
  outputCount: 2,
  output: ([x], { axis, count }) => {
    const shape = x!.shape.map((length, i) => (i === axis ? count : length));
    return [
      { shape, dtype: x!.dtype },
      { shape, dtype: 'int64' },
    ];
  },
  operands: ([x], { axis }) => [axisLast(x!, axis)],
  results: (_inputs, { axis }, outputs) => outputs.map((y) => axisLast(y!, axis)),
  encode: ({ descending }) => [descending ? 1 : 0, 1],
  saves: (_inputs, [, indices]) => [indices!],
  backward: putBack,
  cost: ([x], [y]) => ({ flops: 2 * x!.size, bytes: x!.bytes + y!.bytes + 8 * y!.size }),
});

/** Options of {@link topk}. */
export interface TopkOptions {
  /** Default -1. */
  readonly axis?: number;
  /** The largest (default) or the smallest. */
  readonly largest?: boolean;
}

/**
 * The `k` largest (or smallest) elements along an axis, in order, and where they stood; the first of equals comes first.
 *
 * @throws AttributeError if `k` is larger than the axis is long
 */
export function topk(x: Tensor, k: number, options: TopkOptions = {}): ValuesAndIndices {
  checkTensor('topk', 'x', x);
  const { axis = -1, largest = true } = options;
  checkBoolean('topk', 'largest', largest);
  if (x.rank === 0) {
    checkInteger('topk', 'k', k, 1, 1);
    return sortScalar(x);
  }
  const at = checkAxis('topk', axis, x.rank);
  checkInteger('topk', 'k', k, 0, x.shape[at]!);
  const [values, indices] = topkOp.callAll([x], { axis: at, from: x.shape, descending: largest, count: k });
  return { values: values!, indices: indices! };
}

function extreme(
  op: string,
  find: (x: Tensor, axis?: number, options?: ReduceOptions) => Tensor,
  x: Tensor,
  axis: number,
  options: ReduceOptions,
): ValuesAndIndices {
  checkTensor(op, 'x', x);
  if (x.rank === 0) return sortScalar(x);
  const at = checkAxis(op, axis, x.rank);
  if (x.shape[at] === 0) {
    throw new AttributeError({ op, argument: 'x', expected: 'an axis with elements', actual: formatShape(x.shape) });
  }
  const found = find(x, at, { keepDims: true });
  const values = gather(x, at, found);
  return options.keepDims ? { values, indices: found } : { values: squeeze(values, at), indices: squeeze(found, at) };
}

/**
 * The largest element along an axis and where it stands (the first of equals, which alone gets the gradient); NaN if any is.
 *
 * @throws AttributeError if the axis has no elements
 */
export function maxWithIndices(x: Tensor, axis = -1, options: ReduceOptions = {}): ValuesAndIndices {
  return extreme('maxWithIndices', argmax, x, axis, options);
}

/**
 * The smallest element along an axis and where it stands (the first of equals, which alone gets the gradient); NaN if any is.
 *
 * @throws AttributeError if the axis has no elements
 */
export function minWithIndices(x: Tensor, axis = -1, options: ReduceOptions = {}): ValuesAndIndices {
  return extreme('minWithIndices', argmin, x, axis, options);
}
