/**
 * Other geometry over the same memory: nothing is copied (reshape copies only when strides cannot express the result).
 *
 * @module
 */
import { AttributeError, ShapeError } from '../errors.js';
import { zeros } from '../tensor/create.js';
import { checkAxis, checkAxes, checkShape, contiguousStrides, sizeOf, type Shape } from '../tensor/shape.js';
import { needsRecord, record } from '../tensor/tape.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { checkInteger } from '../util/assert.js';
import { formatShape, formatValue } from '../util/format.js';
import { clone, copy_ } from './copy.js';
import { makeView } from './make_view.js';

/** Strides of `x` in another shape, or null if only a copy can have it. */
function stridesFor(x: Tensor, shape: Shape): number[] | null {
  if (x.size === 0 || x.isContiguous) return contiguousStrides(shape);
  // Merge the axes of x that are walked as one, then split them again as `shape` asks.
  const lengths: number[] = [];
  const steps: number[] = [];
  for (let i = 0; i < x.rank; i++) {
    if (x.shape[i] === 1) continue;
    const last = steps.length - 1;
    if (last >= 0 && steps[last] === x.strides[i]! * x.shape[i]!) {
      lengths[last]! *= x.shape[i]!;
      steps[last] = x.strides[i]!;
    } else {
      lengths.push(x.shape[i]!);
      steps.push(x.strides[i]!);
    }
  }
  const strides = new Array<number>(shape.length).fill(1);
  let group = lengths.length - 1;
  let left = group >= 0 ? lengths[group]! : 1;
  let step = group >= 0 ? steps[group]! : 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    const length = shape[i]!;
    if (length === 1) continue;
    if (left === 1) {
      group--;
      left = lengths[group]!;
      step = steps[group]!;
    }
    if (left % length !== 0) return null;
    strides[i] = step;
    step *= length;
    left /= length;
  }
  return strides;
}

/**
 * The elements in row-major order in another shape. One length may be -1: it is found from the others.
 *
 * @throws ShapeError if the number of elements differs
 */
export function reshape(x: Tensor, shape: Shape): Tensor {
  checkTensor('reshape', 'x', x);
  const unknown = shape.indexOf(-1);
  const wanted = checkShape('reshape', unknown < 0 ? shape : shape.map((length, i) => (i === unknown ? 1 : length)));
  if (unknown >= 0) wanted[unknown] = sizeOf(wanted) === 0 ? 0 : x.size / sizeOf(wanted);
  if (sizeOf(wanted) !== x.size || !wanted.every(Number.isInteger)) {
    throw new ShapeError({
      op: 'reshape',
      argument: 'shape',
      expected: `${x.size} elements`,
      actual: formatValue([...shape]),
    });
  }
  const strides = stridesFor(x, wanted);
  if (strides === null) return reshape(clone(x), wanted);
  const before = x.shape;
  return makeView('reshape', x, x.offset, wanted, strides, (grad) => reshape(grad, before));
}

/** All elements in one axis, or the axes from `start` to `end` (both included) merged. */
export function flatten(x: Tensor, start = 0, end = -1): Tensor {
  checkTensor('flatten', 'x', x);
  if (x.rank === 0) return reshape(x, [1]);
  const from = checkAxis('flatten', start, x.rank, 'start');
  const to = checkAxis('flatten', end, x.rank, 'end');
  if (to < from)
    throw new AttributeError({ op: 'flatten', argument: 'end', expected: `at least ${from}`, actual: String(to) });
  return reshape(x, [...x.shape.slice(0, from), sizeOf(x.shape.slice(from, to + 1)), ...x.shape.slice(to + 1)]);
}

/** Axes in another order: axis i of the result is axis `order[i]` of `x`. Default: reversed. */
export function permute(
  x: Tensor,
  order: readonly number[] = Array.from({ length: x.rank }, (_, i) => x.rank - 1 - i),
): Tensor {
  checkTensor('permute', 'x', x);
  const axes = order.map((axis) => checkAxis('permute', axis, x.rank, 'order'));
  if (axes.length !== x.rank || new Set(axes).size !== x.rank) {
    throw new AttributeError({
      op: 'permute',
      argument: 'order',
      expected: `each of ${x.rank} axes once`,
      actual: formatValue([...order]),
    });
  }
  const back = axes.map((_, i) => axes.indexOf(i));
  const pick = (values: readonly number[]): number[] => axes.map((axis) => values[axis]!);
  return makeView('permute', x, x.offset, pick(x.shape), pick(x.strides), (grad) => permute(grad, back));
}

/** Two axes exchanged. Default: the last two. */
export function transpose(x: Tensor, a = -2, b = -1): Tensor {
  checkTensor('transpose', 'x', x);
  const i = checkAxis('transpose', a, x.rank, 'a');
  const j = checkAxis('transpose', b, x.rank, 'b');
  const swap = (values: readonly number[]): number[] => {
    const result = [...values];
    result[i] = values[j]!;
    result[j] = values[i]!;
    return result;
  };
  return makeView('transpose', x, x.offset, swap(x.shape), swap(x.strides), (grad) => transpose(grad, i, j));
}

/** Without the given axes of length 1 (default: without all of them). */
export function squeeze(x: Tensor, axes?: number | readonly number[]): Tensor {
  checkTensor('squeeze', 'x', x);
  const drop =
    axes === undefined ? x.shape.flatMap((length, i) => (length === 1 ? [i] : [])) : checkAxes('squeeze', axes, x.rank);
  const keep = x.shape.flatMap((length, i) => (drop.includes(i) && length === 1 ? [] : [i]));
  const before = x.shape;
  const shape = keep.map((i) => x.shape[i]!);
  return makeView(
    'squeeze',
    x,
    x.offset,
    shape,
    keep.map((i) => x.strides[i]!),
    (grad) => reshape(grad, before),
  );
}

/** With a new axis of length 1 before `axis` (-1: behind the last). */
export function unsqueeze(x: Tensor, axis: number): Tensor {
  checkTensor('unsqueeze', 'x', x);
  const at = checkAxis('unsqueeze', axis, x.rank + 1);
  const insert = (values: readonly number[], value: number): number[] => [
    ...values.slice(0, at),
    value,
    ...values.slice(at),
  ];
  const before = x.shape;
  return makeView('unsqueeze', x, x.offset, insert(x.shape, 1), insert(x.strides, 0), (grad) => reshape(grad, before));
}

/** The gradient of a part: zeros with the part's gradient in place. */
function embed(grad: Tensor, shape: Shape, place: (whole: Tensor) => Tensor): Tensor {
  const whole = zeros(shape, { dtype: grad.dtype });
  if (needsRecord([grad])) {
    const { backward, part } = { part: place(whole), backward: place };
    copy_(part, grad.alias());
    record('embed', [grad], [whole], [], (_node, grads) => [backward(grads[0]!)]);
    return whole;
  }
  copy_(place(whole), grad);
  return whole;
}

/** A bound as Python slices have it: negative counts from the end, and it is clamped to the axis. */
function clampBound(value: number, length: number, low: number, high: number): number {
  const positive = value < 0 ? value + length : value;
  return Math.min(Math.max(positive, low), high);
}

/**
 * Every `step`-th element from `start` (included) to `end` (excluded) along an axis. Bounds may be negative (from the end)
 * and are clamped, as in Python; a negative step walks backwards.
 */
export function slice(x: Tensor, axis: number, start?: number | null, end?: number | null, step = 1): Tensor {
  checkTensor('slice', 'x', x);
  const at = checkAxis('slice', axis, x.rank);
  checkInteger('slice', 'step', step);
  if (step === 0)
    throw new AttributeError({ op: 'slice', argument: 'step', expected: 'a step other than 0', actual: '0' });
  const length = x.shape[at]!;
  const first =
    step > 0 ? clampBound(start ?? 0, length, 0, length) : clampBound(start ?? length - 1, length, -1, length - 1);
  const limit =
    step > 0
      ? clampBound(end ?? length, length, 0, length)
      : end === undefined || end === null
        ? -1
        : clampBound(end, length, -1, length - 1);
  checkInteger('slice', 'start', first);
  checkInteger('slice', 'end', limit);
  const count = Math.max(0, Math.ceil((limit - first) / step));
  const shape = x.shape.map((n, i) => (i === at ? count : n));
  const strides = x.strides.map((n, i) => (i === at ? n * step : n));
  const offset = count === 0 ? x.offset : x.offset + first * x.strides[at]!;
  const before = x.shape;
  return makeView('slice', x, offset, shape, strides, (grad) =>
    embed(grad, before, (whole) => slice(whole, at, start, end, step)),
  );
}

/**
 * `length` elements from `start` along an axis. Unlike {@link slice} it refuses what does not fit.
 *
 * @throws AttributeError if the range leaves the axis
 */
export function narrow(x: Tensor, axis: number, start: number, length: number): Tensor {
  checkTensor('narrow', 'x', x);
  const at = checkAxis('narrow', axis, x.rank);
  const size = x.shape[at]!;
  checkInteger('narrow', 'start', start, -size, size);
  const from = start < 0 ? start + size : start;
  checkInteger('narrow', 'length', length, 0, size - from);
  return slice(x, at, from, from + length);
}

/** One position along an axis; the axis is gone from the result. */
export function select(x: Tensor, axis: number, index: number): Tensor {
  checkTensor('select', 'x', x);
  const at = checkAxis('select', axis, x.rank);
  const size = x.shape[at]!;
  checkInteger('select', 'index', index, -size, size - 1);
  const from = index < 0 ? index + size : index;
  const drop = (values: readonly number[]): number[] => values.filter((_, i) => i !== at);
  const before = x.shape;
  return makeView('select', x, x.offset + from * x.strides[at]!, drop(x.shape), drop(x.strides), (grad) =>
    embed(grad, before, (whole) => select(whole, at, from)),
  );
}

/** Reversed along the given axes. */
export function flip(x: Tensor, axes: number | readonly number[]): Tensor {
  checkTensor('flip', 'x', x);
  const list = checkAxes('flip', axes, x.rank);
  let offset = x.offset;
  for (const axis of list) if (x.size > 0) offset += (x.shape[axis]! - 1) * x.strides[axis]!;
  const strides = x.strides.map((stride, i) => (list.includes(i) ? -stride : stride));
  return makeView('flip', x, offset, x.shape, strides, (grad) => flip(grad, list));
}

/** The diagonal of the last two axes, as the last axis; `offset` above (positive) or below the main one. */
export function diagonal(x: Tensor, offset = 0): Tensor {
  checkTensor('diagonal', 'x', x);
  checkInteger('diagonal', 'offset', offset);
  if (x.rank < 2) {
    throw new ShapeError({ op: 'diagonal', argument: 'x', expected: 'at least 2 axes', actual: formatShape(x.shape) });
  }
  const [rows, columns] = [x.shape.at(-2)!, x.shape.at(-1)!];
  const [down, right] = [x.strides.at(-2)!, x.strides.at(-1)!];
  const length = Math.max(0, offset >= 0 ? Math.min(rows, columns - offset) : Math.min(rows + offset, columns));
  const start = length === 0 ? x.offset : x.offset + (offset >= 0 ? offset * right : -offset * down);
  const before = x.shape;
  return makeView(
    'diagonal',
    x,
    start,
    [...x.shape.slice(0, -2), length],
    [...x.strides.slice(0, -2), down + right],
    (grad) => embed(grad, before, (whole) => diagonal(whole, offset)),
  );
}

/** The tensor without its history: same memory, no gradient flows through it. */
export function detach(x: Tensor): Tensor {
  checkTensor('detach', 'x', x);
  return x.alias();
}
