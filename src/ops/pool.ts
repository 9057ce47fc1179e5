/**
 * Pooling: the largest or the mean of each window.
 *
 * @module
 */
import { AttributeError, DTypeError, ShapeError } from '../errors.js';
import { tensor } from '../tensor/create.js';
import { isFloating } from '../tensor/dtype.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { checkInteger } from '../util/assert.js';
import { formatShape, formatValue } from '../util/format.js';
import { mul } from './arithmetic.js';
import { matmul } from './matmul.js';
import { pad } from './pad.js';
import { mean, sum } from './reduce.js';
import { maxWithIndices } from './sorting.js';
import { checkPair, unfoldWindows, type Pair, type Window } from './unfold.js';
import { reshape, squeeze, transpose, unsqueeze } from './views.js';

/** Options shared by the pooling functions. */
export interface PoolOptions {
  /** Default: the window's size. */
  readonly stride?: Pair;
  /** At most half the window. Default 0. */
  readonly padding?: Pair;
  /** Also windows that begin inside and end outside. Default false. */
  readonly ceilMode?: boolean;
}

/** Options of {@link maxPool2d}. */
export interface MaxPoolOptions extends PoolOptions {
  /** Default 1. */
  readonly dilation?: Pair;
}

/** Options of {@link avgPool2d}. */
export interface AvgPoolOptions extends PoolOptions {
  /** Whether the padding counts in the mean. Default true, as in PyTorch. */
  readonly countIncludePad?: boolean;
}

interface PoolPlan {
  readonly window: Window;
  /** Lengths of the result. */
  readonly size: readonly [number, number];
  /** Elements missing at the far end beyond the padding (ceilMode). */
  readonly extra: readonly [number, number];
}

function checkImage(op: string, x: Tensor, rank: number): void {
  checkTensor(op, 'x', x);
  if (x.rank !== rank)
    throw new ShapeError({ op, argument: 'x', expected: `${rank} axes`, actual: formatShape(x.shape) });
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

function plan(op: string, x: Tensor, kernel: Pair, options: MaxPoolOptions): PoolPlan {
  const window: Window = {
    kernel: checkPair(op, 'kernel', kernel, 1),
    stride: checkPair(op, 'stride', options.stride ?? kernel, 1),
    padding: checkPair(op, 'padding', options.padding ?? 0, 0),
    dilation: checkPair(op, 'dilation', options.dilation ?? 1, 1),
  };
  const along = [0, 1].map((i) => {
    const [length, stride, padding] = [x.shape[2 + i]!, window.stride[i]!, window.padding[i]!];
    const reach = window.dilation[i]! * (window.kernel[i]! - 1) + 1;
    if (padding > window.kernel[i]! / 2) {
      const expected = `at most half of the window ${formatShape(window.kernel)}`;
      throw new AttributeError({ op, argument: 'padding', expected, actual: formatShape(window.padding) });
    }
    const room = length + 2 * padding - reach;
    let count = Math[options.ceilMode ? 'ceil' : 'floor'](room / stride) + 1;
    if (options.ceilMode && (count - 1) * stride >= length + padding) count--; // begins in the far padding
    if (room < 0 || count < 1) {
      throw new ShapeError({
        op,
        argument: 'x',
        expected: `room for a window of ${formatShape(window.kernel)}`,
        actual: formatShape(x.shape),
      });
    }
    return { count, extra: Math.max(0, (count - 1) * stride + reach - (length + 2 * padding)) };
  });
  return { window, size: [along[0]!.count, along[1]!.count], extra: [along[0]!.extra, along[1]!.extra] };
}

/** Windows of each channel: (B, C, elements of a window, positions), padded with `filler`. */
function windowsOf(x: Tensor, { window, extra }: PoolPlan, filler: number): Tensor {
  const [top, left] = window.padding;
  const padded = pad(x, [left, left + extra[1], top, top + extra[0]], { value: filler });
  const columns = unfoldWindows(padded, { ...window, padding: [0, 0] });
  return reshape(columns, [x.shape[0]!, x.shape[1]!, window.kernel[0] * window.kernel[1], columns.shape[2]!]);
}

/**
 * The largest element of each window. The gradient goes to the first of equals.
 *
 * @shape (B, C, H, W) → (B, C, H', W')
 * @throws AttributeError if the padding is more than half the window
 * @throws ShapeError if the window does not fit
 */
export function maxPool2d(x: Tensor, kernel: Pair, options: MaxPoolOptions = {}): Tensor {
  return maxPool('maxPool2d', x, kernel, options);
}

function maxPool(op: string, x: Tensor, kernel: Pair, options: MaxPoolOptions): Tensor {
  checkImage(op, x, 4);
  const pool = plan(op, x, kernel, options);
  const { values } = maxWithIndices(windowsOf(x, pool, -Infinity), 2);
  return reshape(values, [x.shape[0]!, x.shape[1]!, ...pool.size]);
}

/** One over the number of elements that count in each window, along one axis. */
function countsAlong({ window, size }: PoolPlan, i: 0 | 1, length: number, includePad: boolean): number[] {
  const padding = window.padding[i];
  return Array.from({ length: size[i] }, (_, k) => {
    const start = k * window.stride[i] - padding;
    const end = Math.min(start + window.kernel[i], length + padding);
    return includePad ? end - start : Math.min(end, length) - Math.max(start, 0);
  });
}

/**
 * The mean of each window.
 *
 * @shape (B, C, H, W) → (B, C, H', W')
 * @throws AttributeError if the padding is more than half the window
 * @throws ShapeError if the window does not fit
 */
export function avgPool2d(x: Tensor, kernel: Pair, options: AvgPoolOptions = {}): Tensor {
  return avgPool('avgPool2d', x, kernel, options);
}

function avgPool(op: string, x: Tensor, kernel: Pair, options: AvgPoolOptions): Tensor {
  checkImage(op, x, 4);
  const pool = plan(op, x, kernel, options);
  const { size } = pool;
  const total = reshape(sum(windowsOf(x, pool, 0), 2), [x.shape[0]!, x.shape[1]!, ...size]);
  const includePad = options.countIncludePad ?? true;
  const rows = countsAlong(pool, 0, x.shape[2]!, includePad);
  const columns = countsAlong(pool, 1, x.shape[3]!, includePad);
  const [first, second] = [rows[0]!, columns[0]!];
  if (rows.every((n) => n === first) && columns.every((n) => n === second)) return mul(total, 1 / (first * second));
  const inverse = Float64Array.from(
    { length: size[0] * size[1] },
    (_, i) => 1 / (rows[Math.floor(i / size[1])]! * columns[i % size[1]]!),
  );
  return mul(total, tensor(inverse, { shape: size, dtype: x.dtype }));
}

/** Averaging matrix [output, input]: row i covers elements ⌊i·n/m⌋ to ⌈(i+1)·n/m⌉. */
function averagingMatrix(input: number, output: number): Float64Array {
  const result = new Float64Array(output * input);
  for (let i = 0; i < output; i++) {
    const start = Math.floor((i * input) / output);
    const end = Math.ceil(((i + 1) * input) / output);
    for (let at = start; at < end; at++) result[i * input + at] = 1 / (end - start);
  }
  return result;
}

/** @internal The mean of as many nearly equal parts of each axis behind the channels as `size` says. */
export function adaptiveAveragePool(op: string, x: Tensor, size: readonly number[]): Tensor {
  for (const length of size) checkInteger(op, 'size', length, 1);
  const spatial = x.shape.slice(2);
  if (spatial.length !== size.length || spatial.includes(0)) {
    throw new ShapeError({
      op,
      argument: 'x',
      expected: `${size.length} axes with elements behind the channels`,
      actual: formatShape(x.shape),
    });
  }
  return size.reduce((y, output, i) => {
    const axis = 2 + i;
    const input = y.shape[axis]!;
    if (input === output) return y;
    if (input % output === 0)
      return mean(
        reshape(y, [...y.shape.slice(0, axis), output, input / output, ...y.shape.slice(axis + 1)]),
        axis + 1,
      );
    const weights = tensor(averagingMatrix(input, output), { shape: [output, input], dtype: x.dtype });
    return axis === y.rank - 1 ? matmul(y, transpose(weights)) : matmul(weights, y);
  }, x);
}

/**
 * The mean of rows × columns nearly equal parts, whatever the size of the image.
 *
 * @shape (B, C, H, W) → (B, C, …size)
 */
export function adaptiveAvgPool2d(x: Tensor, size: Pair): Tensor {
  checkImage('adaptiveAvgPool2d', x, 4);
  return adaptiveAveragePool('adaptiveAvgPool2d', x, checkPair('adaptiveAvgPool2d', 'size', size, 1));
}

/** {@link adaptiveAvgPool2d} along one axis: (B, C, T) → (B, C, size). */
export function adaptiveAvgPool1d(x: Tensor, size: number): Tensor {
  checkImage('adaptiveAvgPool1d', x, 3);
  return adaptiveAveragePool('adaptiveAvgPool1d', x, [size]);
}

/** Options of one axis as those of two. */
function lift<O extends PoolOptions & { dilation?: Pair }>(op: string, kernel: number, options: O): O {
  for (const name of ['stride', 'padding', 'dilation'] as const) {
    if (options[name] !== undefined && typeof options[name] !== 'number') {
      throw new AttributeError({ op, argument: name, expected: 'a number', actual: formatValue(options[name]) });
    }
  }
  const { stride = kernel, padding = 0, dilation = 1 } = options;
  return { ...options, stride: [1, stride], padding: [0, padding], dilation: [1, dilation] } as O;
}

/** {@link maxPool2d} along one axis: (B, C, T) → (B, C, T'). */
export function maxPool1d(x: Tensor, kernel: number, options: MaxPoolOptions = {}): Tensor {
  checkImage('maxPool1d', x, 3);
  checkInteger('maxPool1d', 'kernel', kernel, 1);
  return squeeze(maxPool('maxPool1d', unsqueeze(x, 2), [1, kernel], lift('maxPool1d', kernel, options)), 2);
}

/** {@link avgPool2d} along one axis: (B, C, T) → (B, C, T'). */
export function avgPool1d(x: Tensor, kernel: number, options: AvgPoolOptions = {}): Tensor {
  checkImage('avgPool1d', x, 3);
  checkInteger('avgPool1d', 'kernel', kernel, 1);
  return squeeze(avgPool('avgPool1d', unsqueeze(x, 2), [1, kernel], lift('avgPool1d', kernel, options)), 2);
}
