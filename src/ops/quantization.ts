/**
 * Quantisation: floats as small integers with a scale, q = clamp(round(x / scale) + zeroPoint), x ≈ (q − zeroPoint) · scale.
 * Rounding is to nearest, ties to even. Groups run along the last axis.
 *
 * @module
 */
import { AttributeError, DTypeError, ShapeError } from '../errors.js';
import { zeros } from '../tensor/create.js';
import { isFloating, type DType } from '../tensor/dtype.js';
import { scope } from '../tensor/scope.js';
import { checkAxis, sameShape, type Shape } from '../tensor/shape.js';
import { needsRecord, record, setRecording } from '../tensor/tape.js';
import { Tensor, checkTensor } from '../tensor/tensor.js';
import { checkInteger, checkNumber, checkOneOf } from '../util/assert.js';
import { formatShape, formatValue } from '../util/format.js';
import { add, div, maximum, minimum, mul, sub } from './arithmetic.js';
import { eq, ge, le, logicalAnd } from './comparison.js';
import { to } from './copy.js';
import { amax, amin } from './reduce.js';
import { abs, clamp, round } from './unary.js';
import { reshape } from './views.js';
import { where } from './where.js';

const schemes: readonly QuantizationScheme[] = ['symmetric', 'affine'];
/** Around zero (codes −(2ᵇ⁻¹−1) … 2ᵇ⁻¹−1), or from the smallest to the largest element (codes 0 … 2ᵇ−1). */
export type QuantizationScheme = 'symmetric' | 'affine';

/** Options of {@link quantize}. */
export interface QuantizeOptions {
  /** Default `symmetric`. */
  readonly scheme?: QuantizationScheme;
  /** 8 (default) or 4. 4-bit codes come one in a byte; packing is the business of the formats that store them. */
  readonly bits?: 8 | 4;
  /** A scale for each position of this axis. Default: one for the whole tensor. */
  readonly axis?: number;
  /** A scale for each run of so many elements of the last axis. Excludes `axis`. */
  readonly groupSize?: number;
}

/** Codes with what turns them back into floats. */
export interface Quantized {
  /** In the shape of the original: int8 for symmetric, uint8 for affine codes. */
  readonly codes: Tensor;
  /** float32. A scalar, one for each position of the axis, or (…, groups). */
  readonly scale: Tensor;
  /** int32, shaped like `scale`; null for symmetric codes. */
  readonly zeroPoint: Tensor | null;
  readonly bits: 8 | 4;
  /** Axis that the scales run along; null for one scale or for groups. */
  readonly axis: number | null;
  readonly groupSize: number | null;
}

/** Runs `body` without recording; what it makes on the way is freed. */
function unrecorded<T>(body: () => T): T {
  const before = setRecording(false);
  try {
    return scope(body);
  } finally {
    setRecording(before);
  }
}

/** How codes and scales line up: the shape that codes are seen in, and the scales' shape in it. */
function layout(
  op: string,
  shape: Shape,
  axis: number | null,
  groupSize: number | null,
): { codes: Shape; scale: Shape; kept: number[] } {
  if (groupSize !== null) {
    const last = shape.at(-1);
    if (last === undefined || shape.length === 8 || last % groupSize !== 0) {
      const expected = `a last axis that is a multiple of groupSize ${groupSize}`;
      throw new ShapeError({ op, argument: 'x', expected, actual: formatShape(shape) });
    }
    const codes = [...shape.slice(0, -1), last / groupSize, groupSize];
    return { codes, scale: [...codes.slice(0, -1), 1], kept: [...codes.keys()].slice(0, -1) };
  }
  return { codes: shape, scale: shape.map((n, i) => (i === axis ? n : 1)), kept: axis === null ? [] : [axis] };
}

/** The scales' own shape: without the axes that they do not run along. */
function compact(shape: Shape, kept: readonly number[]): number[] {
  return kept.map((axis) => shape[axis]!);
}

/**
 * A tensor as integer codes. Scales come from the largest magnitude (symmetric) or from the smallest and the largest
 * element with 0 between them (affine).
 *
 * @dtype floats → int8 or uint8 codes, float32 scales, int32 zero points
 * @throws ShapeError if groups do not divide the last axis
 * @throws AttributeError if both `axis` and `groupSize` are given
 */
export function quantize(x: Tensor, options: QuantizeOptions = {}): Quantized {
  const op = 'quantize';
  checkTensor(op, 'x', x);
  if (!isFloating(x.dtype))
    throw new DTypeError({ op, argument: 'x', expected: 'a floating-point tensor', actual: x.dtype });
  const scheme = checkOneOf(op, 'scheme', options.scheme ?? 'symmetric', schemes);
  const { bits = 8 } = options;
  if (bits !== 8 && bits !== 4)
    throw new AttributeError({ op, argument: 'bits', expected: '8 or 4', actual: formatValue(bits) });
  if (options.axis !== undefined && options.groupSize !== undefined) {
    throw new AttributeError({ op, argument: 'groupSize', expected: 'either axis or groupSize', actual: 'both' });
  }
  const axis = options.axis === undefined ? null : checkAxis(op, options.axis, x.rank);
  const groupSize = options.groupSize === undefined ? null : checkInteger(op, 'groupSize', options.groupSize, 1);
  const { codes: seen, scale: scaleShape, kept } = layout(op, x.shape, axis, groupSize);
  const reduced = [...seen.keys()].filter((i) => !kept.includes(i));
  return unrecorded(() => {
    const values = reshape(x.dtype === 'float64' ? x : to(x, 'float32'), seen);
    const extreme = (f: typeof amax, of: Tensor): Tensor =>
      reduced.length === 0
        ? of
        : of.size === 0
          ? zeros(scaleShape, { dtype: of.dtype })
          : f(of, reduced, { keepDims: true });
    const top = 2 ** bits - 1;
    const limit = 2 ** (bits - 1) - 1;
    const low = scheme === 'affine' ? minimum(extreme(amin, values), 0) : null;
    const range = low === null ? extreme(amax, abs(values)) : sub(maximum(extreme(amax, values), 0), low);
    const raw = to(div(range, low === null ? limit : top), 'float32');
    const scale = where(eq(raw, 0), 1, raw); // all zeros: any scale gives them back
    const zero = low === null ? null : round(div(mul(low, -1), scale));
    const scaled = round(div(values, scale));
    const shifted = zero === null ? clamp(scaled, -limit, limit) : clamp(add(scaled, zero), 0, top);
    const short = compact(scaleShape, kept);
    return {
      codes: reshape(to(shifted, zero === null ? 'int8' : 'uint8'), x.shape),
      scale: reshape(scale, short),
      zeroPoint: zero === null ? null : reshape(to(zero, 'int32'), short),
      bits,
      axis,
      groupSize,
    };
  });
}

/**
 * Floats from codes: (codes − zeroPoint) · scale.
 *
 * @throws ShapeError if scales and codes do not fit together
 */
export function dequantize(quantized: Quantized, dtype: DType = 'float32'): Tensor {
  const { codes, scale, zeroPoint, axis, groupSize } = quantized;
  checkTensor('dequantize', 'codes', codes);
  checkTensor('dequantize', 'scale', scale);
  if (zeroPoint !== null) checkTensor('dequantize', 'zeroPoint', zeroPoint);
  const { codes: seen, scale: scaleShape, kept } = layout('dequantize', codes.shape, axis, groupSize);
  if (!sameShape(scale.shape, compact(scaleShape, kept))) {
    const expected = formatShape(compact(scaleShape, kept));
    throw new ShapeError({ op: 'dequantize', argument: 'scale', expected, actual: formatShape(scale.shape) });
  }
  return unrecorded(() => {
    const whole = to(reshape(codes, seen), 'float32');
    const centred = zeroPoint === null ? whole : sub(whole, to(reshape(zeroPoint, scaleShape), 'float32'));
    return to(reshape(mul(centred, reshape(scale, scaleShape)), codes.shape), dtype);
  });
}

/** Options of {@link fakeQuantize}. */
export interface FakeQuantizeOptions {
  /** Smallest code. Default -128. */
  readonly qmin?: number;
  /** Largest code. Default 127. */
  readonly qmax?: number;
  /** Axis that `scale` and `zeroPoint` run along, if they have one. Default 0. */
  readonly axis?: number;
}

/** A number, or a tensor of one axis laid along `axis` of `x`. */
function alongAxis(op: string, argument: string, value: Tensor | number, x: Tensor, axis: number): Tensor | number {
  if (typeof value === 'number') return checkNumber(op, argument, value);
  if (!(value instanceof Tensor))
    throw new DTypeError({ op, argument, expected: 'a tensor or a number', actual: formatValue(value) });
  checkTensor(op, 'value', value);
  if (value.rank === 0) return value;
  if (value.rank !== 1 || value.size !== x.shape[axis]) {
    throw new ShapeError({ op, argument, expected: `shape [${x.shape[axis]}]`, actual: formatShape(value.shape) });
  }
  return reshape(
    value,
    x.shape.map((_, i) => (i === axis ? -1 : 1)),
  );
}

/**
 * What quantising and dequantising make of `x`, for training that is aware of it. The gradient passes straight through where
 * the code lies within [qmin, qmax], and is 0 where it was clamped. Scales and zero points get none.
 *
 * @throws ShapeError if `scale` or `zeroPoint` is neither a number, a scalar, nor as long as the axis
 * @source Jacob et al., arXiv 1712.05877; Bengio et al., arXiv 1308.3432
 */
export function fakeQuantize(
  x: Tensor,
  scale: Tensor | number,
  zeroPoint: Tensor | number = 0,
  options: FakeQuantizeOptions = {},
): Tensor {
  const op = 'fakeQuantize';
  checkTensor(op, 'x', x);
  if (!isFloating(x.dtype))
    throw new DTypeError({ op, argument: 'x', expected: 'a floating-point tensor', actual: x.dtype });
  const qmin = checkInteger(op, 'qmin', options.qmin ?? -128);
  const qmax = checkInteger(op, 'qmax', options.qmax ?? 127, qmin + 1);
  const axis = x.rank === 0 ? 0 : checkAxis(op, options.axis ?? 0, x.rank);
  if (typeof scale === 'number' && !(scale > 0)) {
    throw new AttributeError({ op, argument: 'scale', expected: 'a number above 0', actual: formatValue(scale) });
  }
  const { y, inside } = unrecorded(() => {
    const step = alongAxis(op, 'scale', scale, x, axis);
    const zero = alongAxis(op, 'zeroPoint', zeroPoint, x, axis);
    const offset = zero instanceof Tensor ? to(zero, x.dtype) : zero;
    const code = add(round(div(x, step)), offset);
    return {
      y: to(mul(sub(clamp(code, qmin, qmax), offset), step), x.dtype),
      inside: logicalAnd(ge(code, qmin), le(code, qmax)),
    };
  });
  if (needsRecord([x])) {
    record('fake_quantize', [x], [y], [inside], (node, [grad]) => [where(node.unpack()[0]!, grad!, 0)]);
  }
  return y;
}
