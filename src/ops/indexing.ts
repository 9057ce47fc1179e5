/**
 * Picking and placing elements by index tensors. Indices are int32 or int64 and counted from the front; one outside its axis
 * is an error, found by the kernel: it is thrown at the call for tiny work, else where the result is waited for.
 *
 * @module
 */
import { AttributeError, DTypeError, ShapeError } from '../errors.js';
import { kernelId } from '../runtime/kernels.js';
import { submit, type View } from '../runtime/queue.js';
import { constant, zeros } from '../tensor/create.js';
import { isInteger, type DType } from '../tensor/dtype.js';
import { broadcastShapes, checkAxis, sameShape, type Shape } from '../tensor/shape.js';
import { needsRecord, record } from '../tensor/tape.js';
import { Tensor, checkTensor } from '../tensor/tensor.js';
import { checkInteger } from '../util/assert.js';
import { formatShape, formatValue } from '../util/format.js';
import { mul } from './arithmetic.js';
import { expand } from './broadcast.js';
import { to } from './copy.js';
import { defineOp, makeOutput } from './define.js';
import { narrow, reshape, unsqueeze } from './views.js';

interface AxisAttrs {
  readonly axis: number;
  /** Shape of the first operand, for the way back. */
  readonly from: Shape;
}

const copyKernel = kernelId('copy', 1, 1, 0);
const scatterKernel = kernelId('scatter', 2, 1, 2);
const indexAddKernel = kernelId('index_add', 2, 1, 1);

/** @throws DTypeError unless `index` is a tensor of integers */
function checkIndex(op: string, index: Tensor): void {
  if (!(index instanceof Tensor)) {
    throw new DTypeError({ op, argument: 'index', expected: 'an int32 or int64 tensor', actual: formatValue(index) });
  }
  checkTensor(op, 'index', index);
  if (index.dtype === 'int32' || index.dtype === 'int64') return;
  const hint = index.dtype === 'bool' ? 'Use maskedSelect for a mask' : "Cast it with to('int64')";
  throw new DTypeError({ op, argument: 'index', expected: 'an int32 or int64 tensor', actual: index.dtype, hint });
}

/** @throws DTypeError unless both have one dtype */
function checkSameDType(op: string, source: Tensor, x: Tensor): void {
  if (source.dtype === x.dtype) return;
  throw new DTypeError({
    op,
    argument: 'source',
    expected: x.dtype,
    actual: source.dtype,
    hint: `Cast it with to('${x.dtype}')`,
  });
}

/** @throws ShapeError unless `index` is no longer than `limit` along every axis but `axis` (null: along all) */
function checkWithin(op: string, index: Shape, limit: Shape, axis: number | null, name: string): void {
  if (index.length === limit.length && index.every((length, i) => i === axis || length <= limit[i]!)) return;
  throw new ShapeError({
    op,
    argument: 'index',
    expected: `a shape within ${formatShape(limit)} of ${name}${axis === null ? '' : ` (axis ${axis} aside)`}`,
    actual: formatShape(index),
  });
}

/** An in-place kernel as a function: a copy of `x` with the kernel's writes on top. */
function onCopy(x: Tensor, kernel: number, operands: readonly View[], attrs: readonly number[]): Tensor {
  const y = makeOutput(x.shape, x.dtype);
  submit(copyKernel, [x], [y], [], x.size);
  submit(
    kernel,
    operands,
    [y],
    attrs,
    Math.max(
      x.size,
      operands[1]!.shape.reduce((a, b) => a * b, 1),
    ),
  );
  return y;
}

const indexSelectOp = defineOp<AxisAttrs>({
  name: 'index_select',
  inputs: [
    { name: 'x', kind: 'any' },
    { name: 'index', kind: 'integer' },
  ],
  attrCount: 1,
  output: ([x, index], { axis }) => ({
    shape: x!.shape.map((length, i) => (i === axis ? index!.shape[0]! : length)),
    dtype: x!.dtype,
  }),
  encode: ({ axis }) => [axis],
  saves: ([, index]) => [index!],
  backward: ({ grad, saved: [index], attrs: { axis, from } }) => [
    indexAdd(zeros(from, { dtype: grad.dtype }), axis, index!, grad),
    null,
  ],
  cost: (_inputs, [y]) => ({ flops: 0, bytes: 2 * y!.bytes }),
});

/**
 * The positions `index` along an axis, in that order; repeats are allowed.
 *
 * @shape `x` (…, n, …), `index` (k) → (…, k, …)
 * @throws DTypeError if `index` is not int32 or int64
 * @throws ShapeError if `index` does not have one axis
 * @throws AttributeError if an index lies outside the axis
 */
export function indexSelect(x: Tensor, axis: number, index: Tensor): Tensor {
  checkTensor('indexSelect', 'x', x);
  checkIndex('indexSelect', index);
  const at = checkAxis('indexSelect', axis, x.rank);
  if (index.rank !== 1) {
    throw new ShapeError({
      op: 'indexSelect',
      argument: 'index',
      expected: 'one axis',
      actual: formatShape(index.shape),
    });
  }
  return indexSelectOp.call([x, index], { axis: at, from: x.shape });
}

/**
 * `x` with the slices of `source` added at the positions `index` along an axis; repeated positions add up.
 *
 * @shape `x` (…, n, …), `index` (k), `source` (…, k, …) → (…, n, …)
 * @param alpha - factor of `source`. Default 1
 * @throws ShapeError if `source` is not shaped like the positions that it goes to
 * @throws AttributeError if an index lies outside the axis
 */
export function indexAdd(x: Tensor, axis: number, index: Tensor, source: Tensor, alpha = 1): Tensor {
  const op = 'indexAdd';
  checkTensor(op, 'x', x);
  checkTensor(op, 'source', source);
  checkIndex(op, index);
  checkSameDType(op, source, x);
  const at = checkAxis(op, axis, x.rank);
  const wanted = x.shape.map((length, i) => (i === at ? index.size : length));
  if (index.rank !== 1 || !sameShape(source.shape, wanted)) {
    const expected = index.rank === 1 ? formatShape(wanted) : 'an index of one axis';
    throw new ShapeError({
      op,
      argument: 'source',
      expected,
      actual: formatShape(index.rank === 1 ? source.shape : index.shape),
    });
  }
  const added = alpha === 1 ? source : mul(source, alpha);
  const y = onCopy(x, indexAddKernel, [index, added], [at]);
  if (needsRecord([x, added])) {
    record('index_add', [x, added], [y], [index], (node, [grad]) => [
      grad,
      node.needs(1) ? indexSelect(grad!, at, node.unpack()[0]!) : null,
    ]);
  }
  return y;
}

const gatherOp = defineOp<AxisAttrs>({
  name: 'gather',
  inputs: [
    { name: 'x', kind: 'any' },
    { name: 'index', kind: 'integer' },
  ],
  attrCount: 1,
  output: ([x, index]) => ({ shape: index!.shape, dtype: x!.dtype }),
  encode: ({ axis }) => [axis],
  saves: ([, index]) => [index!],
  backward: ({ grad, saved: [index], attrs: { axis, from } }) => [
    scatterAdd(zeros(from, { dtype: grad.dtype }), axis, index!, grad),
    null,
  ],
  cost: ([, index], [y]) => ({ flops: 0, bytes: index!.bytes + 2 * y!.bytes }),
});

/**
 * One element of `x` for each element of `index`: `y[i][j] = x[i][index[i][j]]` for axis 1 of two, and so on.
 *
 * @shape `index` has the rank of `x` and is nowhere longer, `axis` aside; the result has the shape of `index`
 * @throws DTypeError if `index` is not int32 or int64
 * @throws ShapeError if `index` does not fit
 * @throws AttributeError if an index lies outside the axis
 */
export function gather(x: Tensor, axis: number, index: Tensor): Tensor {
  checkTensor('gather', 'x', x);
  checkIndex('gather', index);
  const at = checkAxis('gather', axis, x.rank);
  checkWithin('gather', index.shape, x.shape, at, 'x');
  return gatherOp.call([x, index], { axis: at, from: x.shape });
}

/** {@link gather} with `index` and `x` broadcast to each other along the other axes, as NumPy's function of that name. */
export function takeAlongAxis(x: Tensor, index: Tensor, axis = -1): Tensor {
  const op = 'takeAlongAxis';
  checkTensor(op, 'x', x);
  checkIndex(op, index);
  const at = checkAxis(op, axis, x.rank);
  if (index.rank !== x.rank) {
    throw new ShapeError({ op, argument: 'index', expected: `${x.rank} axes`, actual: formatShape(index.shape) });
  }
  const without = (shape: Shape): number[] => shape.map((length, i) => (i === at ? 1 : length));
  const common = broadcastShapes(op, without(x.shape), without(index.shape));
  const withAxis = (length: number): number[] => common.map((other, i) => (i === at ? length : other));
  return gather(expand(x, withAxis(x.shape[at]!)), at, expand(index, withAxis(index.shape[at]!)));
}

/** `source` cut to the shape of `index`, and a number repeated to it. */
function fitSource(op: string, source: Tensor | number, index: Tensor, dtype: DType): Tensor {
  if (typeof source === 'number') return expand(constant(source, dtype), index.shape);
  if (!(source instanceof Tensor)) {
    throw new DTypeError({ op, argument: 'source', expected: 'a tensor or a number', actual: formatValue(source) });
  }
  checkTensor(op, 'source', source);
  checkWithin(op, index.shape, source.shape, null, 'source');
  let cut = source;
  index.shape.forEach((length, i) => {
    if (length !== cut.shape[i]) cut = narrow(cut, i, 0, length);
  });
  return cut;
}

function place(
  op: string,
  x: Tensor,
  axis: number,
  index: Tensor,
  source: Tensor | number,
  accumulate: boolean,
): Tensor {
  checkTensor(op, 'x', x);
  checkIndex(op, index);
  const at = checkAxis(op, axis, x.rank);
  checkWithin(op, index.shape, x.shape, at, 'x');
  const placed = fitSource(op, source, index, x.dtype);
  checkSameDType(op, placed, x);
  const y = onCopy(x, scatterKernel, [index, placed], [at, accumulate ? 1 : 0]);
  if (needsRecord([x, placed])) {
    record(accumulate ? 'scatter_add' : 'scatter', [x, placed], [y], [index], (node, [grad]) => {
      const where = node.unpack()[0]!;
      const kept = accumulate || !node.needs(0) ? grad : place('scatter', grad!, at, where, 0, false);
      return [kept, node.needs(1) ? gather(grad!, at, where) : null];
    });
  }
  return y;
}

/**
 * `x` with elements of `source` (or one number) written where `index` says: `y[i][index[i][j]] = source[i][j]` for axis 1
 * of two. If positions repeat, one of the values is kept, and the gradient of `source` is right only where they do not.
 *
 * @throws ShapeError if `index` is longer than `source`, or than `x` along an axis other than `axis`
 * @throws AttributeError if an index lies outside the axis
 */
export function scatter(x: Tensor, axis: number, index: Tensor, source: Tensor | number): Tensor {
  return place('scatter', x, axis, index, source, false);
}

/**
 * {@link scatter} that adds to what is there; repeated positions add up, in a fixed order.
 *
 * @throws ShapeError if `index` is longer than `source`, or than `x` along an axis other than `axis`
 * @throws AttributeError if an index lies outside the axis
 */
export function scatterAdd(x: Tensor, axis: number, index: Tensor, source: Tensor | number): Tensor {
  return place('scatterAdd', x, axis, index, source, true);
}

/** Options of {@link oneHot}. */
export interface OneHotOptions {
  /** Default int64, as in PyTorch. */
  readonly dtype?: DType;
}

/**
 * A new last axis of length `classes` that holds 1 at the position given by the index and 0 elsewhere.
 *
 * @shape `index` (…) → (…, classes)
 * @throws DTypeError if `index` is not of integers
 * @throws AttributeError if `classes` is not a positive integer, or an index is not below it
 */
export function oneHot(index: Tensor, classes: number, options: OneHotOptions = {}): Tensor {
  checkInteger('oneHot', 'classes', classes, 1);
  if (index instanceof Tensor && isInteger(index.dtype) && index.itemBytes < 4)
    return oneHot(to(index, 'int32'), classes, options);
  checkIndex('oneHot', index);
  const { dtype = 'int64' } = options;
  if (index.rank === 8) {
    throw new AttributeError({
      op: 'oneHot',
      argument: 'index',
      expected: 'at most 7 axes',
      actual: formatShape(index.shape),
    });
  }
  return scatter(zeros([...index.shape, classes], { dtype }), -1, unsqueeze(index, -1), 1);
}

/** The elements at positions `index` of the flattened tensor, in the shape of `index`. */
export function take(x: Tensor, index: Tensor): Tensor {
  checkIndex('take', index);
  return reshape(indexSelect(reshape(x, [x.size]), 0, reshape(index, [index.size])), index.shape);
}
