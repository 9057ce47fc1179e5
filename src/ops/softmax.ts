/**
 * Softmax and its relatives. One axis is read where it lies; several axes are taken together, as one.
 *
 * @module
 */
import { DTypeError } from '../errors.js';
import type { View } from '../runtime/queue.js';
import { isFloating } from '../tensor/dtype.js';
import { checkAxes, type Shape } from '../tensor/shape.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { add, mul, sub } from './arithmetic.js';
import { defineOp, type Op } from './define.js';
import { amax, sum, type Axes, type ReduceOptions } from './reduce.js';
import { exp, log } from './unary.js';
import { detach, permute, reshape } from './views.js';

interface AxisAttrs {
  readonly axis: number;
}

/** `x` with an axis moved to the end, where the kernels want it. */
function axisLast(x: Tensor, axis: number): View {
  if (axis === x.rank - 1) return x;
  const { storage, offset, dtypeId, itemBytes } = x;
  const move = (values: readonly number[]): number[] => [...values.filter((_, i) => i !== axis), values[axis]!];
  return { storage, offset, dtypeId, itemBytes, shape: move(x.shape), strides: move(x.strides) };
}

/** Operation along an axis whose result has the shape of its input. */
function alongAxis(
  name: string,
  gradientOp: Op<AxisAttrs>,
  definition: (x: Tensor, axis: number) => Tensor,
): Op<AxisAttrs> {
  return defineOp<AxisAttrs>({
    name,
    inputs: [{ name: 'x', kind: 'float' }],
    output: ([x]) => ({ shape: x!.shape, dtype: x!.dtype }),
    operands: ([x], { axis }) => [axisLast(x!, axis)],
    results: (_inputs, { axis }, [y]) => [axisLast(y!, axis)],
    saves: (_inputs, [y]) => [y!],
    backward: ({ grad, saved: [y], attrs }) => [gradientOp.call([y!, grad], attrs)],
    definition: ([x], { axis }) => definition(x!, axis),
    cost: ([x], [y]) => ({ flops: 5 * x!.size, bytes: x!.bytes + y!.bytes }),
  });
}

/** Gradient along an axis from the result and its gradient. */
function gradientAlongAxis(name: string, definition: (y: Tensor, grad: Tensor, axis: number) => Tensor): Op<AxisAttrs> {
  return defineOp<AxisAttrs>({
    name,
    inputs: [
      { name: 'y', kind: 'float' },
      { name: 'grad', kind: 'float' },
    ],
    output: ([y]) => ({ shape: y!.shape, dtype: y!.dtype }),
    operands: ([y, grad], { axis }) => [axisLast(y!, axis), axisLast(grad!, axis)],
    results: (_inputs, { axis }, [dx]) => [axisLast(dx!, axis)],
    definition: ([y, grad], { axis }) => definition(y!, grad!, axis),
    cost: ([y], [dx]) => ({ flops: 4 * y!.size, bytes: 2 * y!.bytes + dx!.bytes }),
  });
}

const softmaxBackward = gradientAlongAxis('softmax_backward', (y, grad, axis) =>
  mul(y, sub(grad, sum(mul(y, grad), axis, { keepDims: true }))),
);
const logSoftmaxBackward = gradientAlongAxis('log_softmax_backward', (y, grad, axis) =>
  sub(grad, mul(exp(y), sum(grad, axis, { keepDims: true }))),
);

const softmaxOp = alongAxis('softmax', softmaxBackward, (x, axis) => {
  const powers = exp(sub(x, detach(amax(x, axis, { keepDims: true }))));
  return mul(powers, exp(mul(log(sum(powers, axis, { keepDims: true })), -1)));
});
const logSoftmaxOp = alongAxis('log_softmax', logSoftmaxBackward, (x, axis) => {
  const shifted = sub(x, detach(amax(x, axis, { keepDims: true })));
  return sub(shifted, log(sum(exp(shifted), axis, { keepDims: true })));
});

interface LogSumExpAttrs extends AxisAttrs {
  /** Shape of the input with length 1 at the axis. */
  readonly kept: Shape;
}

const logsumexpOp = defineOp<LogSumExpAttrs>({
  name: 'logsumexp',
  inputs: [{ name: 'x', kind: 'float' }],
  output: ([x], { axis }) => ({ shape: x!.shape.filter((_, i) => i !== axis), dtype: x!.dtype }),
  operands: ([x], { axis }) => [axisLast(x!, axis)],
  saves: ([x], [y]) => [x!, y!],
  backward: ({ grad, saved: [x, y], attrs: { kept } }) => [mul(exp(sub(x!, reshape(y!, kept))), reshape(grad, kept))],
  definition: ([x], { axis }) => {
    const most = detach(amax(x!, axis, { keepDims: true }));
    const total = log(sum(exp(sub(x!, most)), axis));
    return add(total, reshape(most, total.shape));
  },
  cost: ([x], [y]) => ({ flops: 4 * x!.size, bytes: x!.bytes + y!.bytes }),
});

function checkFloat(op: string, x: Tensor): void {
  checkTensor(op, 'x', x);
  if (isFloating(x.dtype)) return;
  throw new DTypeError({
    op,
    argument: 'x',
    expected: 'a floating-point tensor',
    actual: x.dtype,
    hint: 'Cast it with x.to(dtype)',
  });
}

/** `x` with `axes` merged into one last axis, and the way back for a result of the same shape. */
function merged(x: Tensor, axes: readonly number[]): { flat: Tensor; restore: (y: Tensor) => Tensor } {
  const others = [...x.shape.keys()].filter((axis) => !axes.includes(axis));
  const order = [...others, ...axes];
  const moved = permute(x, order);
  const outer = others.map((axis) => x.shape[axis]!);
  const flat = reshape(moved, [...outer, axes.reduce((size, axis) => size * x.shape[axis]!, 1)]);
  return {
    flat,
    restore: (y) =>
      permute(
        reshape(y, moved.shape),
        order.map((_, axis) => order.indexOf(axis)),
      ),
  };
}

function applyAlong(op: Op<AxisAttrs>, name: string, x: Tensor, axes: Axes): Tensor {
  checkFloat(name, x);
  const list = checkAxes(name, axes, x.rank);
  if (list.length === 1) return op.call([x], { axis: list[0]! });
  const { flat, restore } = merged(x, list);
  return restore(op.call([flat], { axis: flat.rank - 1 }));
}

/**
 * e^x / Σ e^x along the given axes, computed from x − max. A slice that is −∞ throughout gives NaN.
 *
 * @param axes - default the last
 * @shape any → the same
 * @dtype floats; computes in float32 (float64 in float64)
 * @throws DTypeError if `x` is not floating-point
 */
export function softmax(x: Tensor, axes: Axes = -1): Tensor {
  return applyAlong(softmaxOp, 'softmax', x, axes);
}

/**
 * Logarithm of {@link softmax}: x − ln Σ e^x, without the loss of taking a logarithm of small numbers.
 *
 * @param axes - default the last
 * @shape any → the same
 * @dtype floats; computes in float32 (float64 in float64)
 * @throws DTypeError if `x` is not floating-point
 */
export function logSoftmax(x: Tensor, axes: Axes = -1): Tensor {
  return applyAlong(logSoftmaxOp, 'logSoftmax', x, axes);
}

/**
 * ln Σ e^x over the given axes, in one pass; −∞ for a slice that is −∞ throughout.
 *
 * @param axes - default the last
 * @shape any → without the axes, or with length 1 there for `keepDims`
 * @dtype floats; computes in float32 (float64 in float64)
 * @throws DTypeError if `x` is not floating-point
 */
export function logsumexp(x: Tensor, axes: Axes = -1, options: ReduceOptions = {}): Tensor {
  checkFloat('logsumexp', x);
  const list = checkAxes('logsumexp', axes, x.rank);
  const source = list.length === 1 ? x : merged(x, list).flat;
  const axis = list.length === 1 ? list[0]! : source.rank - 1;
  const y = logsumexpOp.call([source], { axis, kept: source.shape.map((length, i) => (i === axis ? 1 : length)) });
  return options.keepDims
    ? reshape(
        y,
        x.shape.map((length, i) => (list.includes(i) ? 1 : length)),
      )
    : y;
}
