/**
 * Resampling of grids, as PyTorch's `interpolate`. Linear and cubic resampling is separable: y = W_h · x · W_wᵀ with one weight
 * matrix an axis, so that the gradient and higher derivatives come from the matrix product.
 *
 * Sources: Keys 1981 for the cubic kernel (a = −0.75, antialiased −0.5 as Pillow); antialiasing widens the kernel by the
 * reduction factor, also as Pillow.
 *
 * @module
 */
import { AttributeError, DTypeError, ShapeError } from '../errors.js';
import { tensor } from '../tensor/create.js';
import { isFloating } from '../tensor/dtype.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { checkInteger, checkNumber, checkOneOf } from '../util/assert.js';
import { formatShape, formatValue } from '../util/format.js';
import { indexSelect } from './indexing.js';
import { matmul } from './matmul.js';
import { adaptiveAveragePool } from './pool.js';
import { transpose } from './views.js';

const modes: readonly InterpolateMode[] = ['nearest', 'nearest-exact', 'linear', 'bilinear', 'bicubic', 'area'];
export type InterpolateMode = 'nearest' | 'nearest-exact' | 'linear' | 'bilinear' | 'bicubic' | 'area';

/** Options of {@link interpolate}. */
export interface InterpolateOptions {
  /** Lengths of the result's last axes; a number for all of them. */
  readonly size?: number | readonly number[];
  /** Or factors of them: the result is ⌊length · factor⌋ long. */
  readonly scaleFactor?: number | readonly number[];
  /** Default `nearest`. `linear` is for one axis, `bilinear` and `bicubic` for two. */
  readonly mode?: InterpolateMode;
  /** Whether the centres of the corner elements coincide, rather than their outer corners. Default false. */
  readonly alignCorners?: boolean;
  /** Widen the kernel when shrinking (bilinear and bicubic). Default false. */
  readonly antialias?: boolean;
}

/** Source positions an output position, as an index. */
function nearestIndex(input: number, output: number, scale: number, exact: boolean): Int32Array {
  const step = Math.fround(scale); // PyTorch multiplies in float32, which decides ties
  return Int32Array.from({ length: output }, (_, i) => {
    const at = Math.floor(Math.fround((exact ? i + 0.5 : i) * step));
    return Math.min(at, input - 1);
  });
}

const triangle = (x: number): number => Math.max(0, 1 - Math.abs(x));

/** Keys' piecewise cubic. */
function cubic(x: number, a: number): number {
  const t = Math.abs(x);
  if (t <= 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
  return t < 2 ? (((t - 5) * t + 8) * t - 4) * a : 0;
}

interface AxisPlan {
  readonly input: number;
  readonly output: number;
  /** Input positions an output position. */
  readonly scale: number;
}

/** Weights [output, input] of one axis, kernel of fixed width; taps beyond an edge count for the edge. */
function weights({ input, output, scale }: AxisPlan, isCubic: boolean, alignCorners: boolean): Float64Array {
  const result = new Float64Array(output * input);
  for (let i = 0; i < output; i++) {
    const position = alignCorners ? i * scale : (i + 0.5) * scale - 0.5;
    const centre = isCubic ? position : Math.max(0, position);
    const base = Math.floor(centre);
    for (let tap = isCubic ? -1 : 0; tap <= (isCubic ? 2 : 1); tap++) {
      const at = Math.min(Math.max(base + tap, 0), input - 1);
      const distance = centre - (base + tap);
      result[i * input + at]! += isCubic ? cubic(distance, -0.75) : triangle(distance);
    }
  }
  return result;
}

/** Weights [output, input] of one axis, kernel stretched by the reduction and normalised. */
function antialiasedWeights({ input, output, scale }: AxisPlan, isCubic: boolean): Float64Array {
  const result = new Float64Array(output * input);
  const stretch = Math.max(scale, 1);
  const support = (isCubic ? 2 : 1) * stretch;
  for (let i = 0; i < output; i++) {
    const centre = scale * (i + 0.5);
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(input, Math.trunc(centre + support + 0.5));
    let total = 0;
    for (let at = first; at < end; at++) {
      const distance = (at - centre + 0.5) / stretch;
      const weight = isCubic ? cubic(distance, -0.5) : triangle(distance);
      result[i * input + at] = weight;
      total += weight;
    }
    if (total !== 0) for (let at = first; at < end; at++) result[i * input + at]! /= total;
  }
  return result;
}

function perAxis(argument: string, value: number | readonly number[], axes: number, low: number): number[] {
  const list = typeof value === 'number' ? new Array<number>(axes).fill(value) : [...value];
  if (list.length !== axes) {
    throw new AttributeError({ op: 'interpolate', argument, expected: `${axes} numbers`, actual: formatValue(value) });
  }
  for (const item of list) {
    if (argument === 'size') checkInteger('interpolate', argument, item, low);
    else if (checkNumber('interpolate', argument, item, low) <= 0 || !Number.isFinite(item)) {
      throw new AttributeError({
        op: 'interpolate',
        argument,
        expected: 'finite numbers above 0',
        actual: formatValue(item),
      });
    }
  }
  return list;
}

function plan(x: Tensor, options: InterpolateOptions, alignCorners: boolean): AxisPlan[] {
  const { size, scaleFactor } = options;
  const axes = x.rank - 2;
  if ((size === undefined) === (scaleFactor === undefined)) {
    const actual = size === undefined ? 'neither' : 'both';
    throw new AttributeError({
      op: 'interpolate',
      argument: 'options',
      expected: 'either size or scaleFactor',
      actual,
    });
  }
  const factors = scaleFactor === undefined ? null : perAxis('scaleFactor', scaleFactor, axes, 0);
  const sizes = size === undefined ? null : perAxis('size', size, axes, 1);
  return x.shape.slice(2).map((input, i) => {
    const output = sizes?.[i] ?? Math.floor(input * factors![i]!);
    if (input === 0 || output === 0) {
      throw new ShapeError({
        op: 'interpolate',
        argument: 'x',
        expected: 'axes with elements before and after',
        actual: formatShape(x.shape),
      });
    }
    const corners = output > 1 ? (input - 1) / (output - 1) : 0;
    return { input, output, scale: alignCorners ? corners : factors === null ? input / output : 1 / factors[i]! };
  });
}

/** Along one of the last two axes: the product with a weight matrix. */
function resample(x: Tensor, axis: number, matrix: Float64Array, { input, output }: AxisPlan): Tensor {
  const w = tensor(matrix, { shape: [output, input], dtype: x.dtype });
  return axis === x.rank - 1 ? matmul(x, transpose(w)) : matmul(w, x);
}

/**
 * The last axes (all but the first two) sampled anew on a grid of another size.
 *
 * @shape (B, C, L) or (B, C, H, W) → the same with the new lengths
 * @dtype floats
 * @throws ShapeError if the rank does not suit the mode
 * @throws AttributeError if not exactly one of `size` and `scaleFactor` is given
 * @source PyTorch's torch.nn.functional.interpolate
 */
export function interpolate(x: Tensor, options: InterpolateOptions): Tensor {
  const op = 'interpolate';
  checkTensor(op, 'x', x);
  const mode = checkOneOf(op, 'mode', options.mode ?? 'nearest', modes);
  const { alignCorners = false, antialias = false } = options;
  const wanted = mode === 'linear' ? [3] : mode === 'bilinear' || mode === 'bicubic' ? [4] : [3, 4];
  if (!wanted.includes(x.rank)) {
    throw new ShapeError({
      op,
      argument: 'x',
      expected: `${wanted.join(' or ')} axes for mode ${mode}`,
      actual: formatShape(x.shape),
    });
  }
  const smooth = mode === 'linear' || mode === 'bilinear' || mode === 'bicubic';
  if (alignCorners && !smooth) {
    throw new AttributeError({ op, argument: 'alignCorners', expected: 'false', actual: `true with mode ${mode}` });
  }
  if (antialias && (mode === 'linear' || !smooth || alignCorners)) {
    const expected = 'mode bilinear or bicubic without alignCorners';
    throw new AttributeError({ op, argument: 'antialias', expected, actual: alignCorners ? 'alignCorners' : mode });
  }
  if (smooth && !isFloating(x.dtype)) {
    throw new DTypeError({
      op,
      argument: 'x',
      expected: 'a floating-point tensor',
      actual: x.dtype,
      hint: 'Cast it with to()',
    });
  }
  const axes = plan(x, options, alignCorners);
  if (mode === 'area')
    return adaptiveAveragePool(
      op,
      x,
      axes.map(({ output }) => output),
    );
  if (!smooth) {
    return axes.reduce((y, { input, output, scale }, i) => {
      return indexSelect(y, 2 + i, tensor(nearestIndex(input, output, scale, mode === 'nearest-exact')));
    }, x);
  }
  const isCubic = mode === 'bicubic';
  // The axis that shrinks most goes first: less work for the others.
  const order = [...axes.keys()].sort((a, b) => axes[a]!.output / axes[a]!.input - axes[b]!.output / axes[b]!.input);
  return order.reduce((y, i) => {
    const matrix = antialias ? antialiasedWeights(axes[i]!, isCubic) : weights(axes[i]!, isCubic, alignCorners);
    return resample(y, 2 + i, matrix, axes[i]!);
  }, x);
}
