/**
 * Sliding windows as columns and back: what convolution and pooling are made of.
 *
 * @module
 */
import { AttributeError, DTypeError, ShapeError } from '../errors.js';
import { isFloating } from '../tensor/dtype.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { checkInteger } from '../util/assert.js';
import { formatShape, formatValue } from '../util/format.js';
import { defineOp } from './define.js';

/** One number for both axes, or [rows, columns]. */
export type Pair = number | readonly [number, number];

/** @internal Geometry of a window, as pairs. */
export interface Window {
  readonly kernel: readonly [number, number];
  readonly stride: readonly [number, number];
  readonly padding: readonly [number, number];
  readonly dilation: readonly [number, number];
}

/** @internal @throws AttributeError unless `value` is one or two integers of at least `low` */
export function checkPair(op: string, argument: string, value: unknown, low: number): [number, number] {
  const pair = Array.isArray(value) ? value : [value, value];
  if (pair.length !== 2)
    throw new AttributeError({ op, argument, expected: 'a number or a pair', actual: formatValue(value) });
  return [checkInteger(op, argument, pair[0], low), checkInteger(op, argument, pair[1], low)];
}

/** Options of {@link unfold}. */
export interface WindowOptions {
  /** Default 1. */
  readonly stride?: Pair;
  /** Zeros at both ends. Default 0. */
  readonly padding?: Pair;
  /** Distance between the elements of a window. Default 1. */
  readonly dilation?: Pair;
}

/** @internal */
export function checkWindow(op: string, kernel: Pair, options: WindowOptions): Window {
  return {
    kernel: checkPair(op, 'kernel', kernel, 1),
    stride: checkPair(op, 'stride', options.stride ?? 1, 1),
    padding: checkPair(op, 'padding', options.padding ?? 0, 0),
    dilation: checkPair(op, 'dilation', options.dilation ?? 1, 1),
  };
}

/** @internal Positions of a window along axis `i` of length `length`; may be 0 or less where it does not fit. */
export function positions({ kernel, stride, padding, dilation }: Window, i: 0 | 1, length: number): number {
  return Math.floor((length + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) / stride[i]) + 1;
}

/** @internal @throws ShapeError if the window does not fit once */
export function checkFits(op: string, window: Window, height: number, width: number): [number, number] {
  const [rows, columns] = [positions(window, 0, height), positions(window, 1, width)];
  if (rows < 1 || columns < 1) {
    const expected = `room for a window of ${formatShape(window.kernel)} with dilation ${formatShape(window.dilation)}`;
    const actual = `${height} × ${width} with padding ${formatShape(window.padding)}`;
    throw new ShapeError({ op, argument: 'x', expected, actual });
  }
  return [rows, columns];
}

interface UnfoldAttrs {
  readonly window: Window;
  readonly size: readonly [number, number];
}

const encode = ({ window: { kernel, stride, padding, dilation } }: UnfoldAttrs): number[] => [
  ...kernel,
  ...stride,
  ...padding,
  ...dilation,
];

const unfoldOp = defineOp<UnfoldAttrs>({
  name: 'unfold',
  inputs: [{ name: 'x', kind: 'float' }],
  attrCount: 8,
  output: ([x], { window }) => {
    const [batch, channels, height, width] = x!.shape as [number, number, number, number];
    const count = positions(window, 0, height) * positions(window, 1, width);
    return { shape: [batch, channels * window.kernel[0] * window.kernel[1], count], dtype: x!.dtype };
  },
  encode,
  backward: ({ grad, attrs }) => [foldColumns(grad, attrs.window, attrs.size)],
  cost: ([x], [y]) => ({ flops: 0, bytes: x!.bytes + y!.bytes }),
});

const foldOp = defineOp<UnfoldAttrs>({
  name: 'fold',
  inputs: [{ name: 'x', kind: 'float' }],
  attrCount: 8,
  output: ([x], { window, size }) => {
    const [batch, rows] = x!.shape as [number, number];
    return { shape: [batch, rows / (window.kernel[0] * window.kernel[1]), ...size], dtype: x!.dtype };
  },
  encode,
  backward: ({ grad, attrs }) => [unfoldWindows(grad, attrs.window)],
  cost: ([x], [y]) => ({ flops: x!.size, bytes: x!.bytes + y!.bytes }),
});

/** @internal {@link unfold} with checked arguments. */
export function unfoldWindows(x: Tensor, window: Window): Tensor {
  return unfoldOp.call([x], { window, size: [x.shape[2]!, x.shape[3]!] });
}

/** @internal {@link fold} with checked arguments. */
export function foldColumns(x: Tensor, window: Window, size: readonly [number, number]): Tensor {
  return foldOp.call([x], { window, size });
}

function checkInput(op: string, x: Tensor, rank: number, axes: string): void {
  checkTensor(op, 'x', x);
  if (x.rank !== rank)
    throw new ShapeError({ op, argument: 'x', expected: `${rank} axes ${axes}`, actual: formatShape(x.shape) });
  if (!isFloating(x.dtype)) {
    throw new DTypeError({
      op,
      argument: 'x',
      expected: 'a floating-point tensor',
      actual: x.dtype,
      hint: 'Cast it with to()',
    });
  }
}

/**
 * Every window of an image as a column (im2col). What lies in the padding is 0.
 *
 * @shape (B, C, H, W) → (B, C·kernel rows·kernel columns, positions), both in row-major order
 * @throws ShapeError if the window does not fit
 */
export function unfold(x: Tensor, kernel: Pair, options: WindowOptions = {}): Tensor {
  checkInput('unfold', x, 4, '(B, C, H, W)');
  const window = checkWindow('unfold', kernel, options);
  checkFits('unfold', window, x.shape[2]!, x.shape[3]!);
  return unfoldWindows(x, window);
}

/**
 * The adjoint of {@link unfold}: columns added up where their windows lie (col2im).
 *
 * @shape (B, C·kernel rows·kernel columns, positions) → (B, C, size rows, size columns)
 * @throws ShapeError if the number of rows or positions does not fit
 */
export function fold(x: Tensor, size: Pair, kernel: Pair, options: WindowOptions = {}): Tensor {
  checkInput('fold', x, 3, '(B, C·kernel, positions)');
  const window = checkWindow('fold', kernel, options);
  const whole = checkPair('fold', 'size', size, 1);
  const [rows, columns] = checkFits('fold', window, ...whole);
  const perChannel = window.kernel[0] * window.kernel[1];
  if (x.shape[1]! % perChannel !== 0 || x.shape[2] !== rows * columns) {
    const expected = `(B, a multiple of ${perChannel}, ${rows * columns})`;
    throw new ShapeError({ op: 'fold', argument: 'x', expected, actual: formatShape(x.shape) });
  }
  return foldColumns(x, window, whole);
}
