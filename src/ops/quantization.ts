/**
 * Quantisation: floats as small integers with a scale, q = clamp(round(x / scale) + zeroPoint), x ≈ (q − zeroPoint) · scale,
 * or as the 16 numbers of NF4. Groups run along the last axis. Each call is one pass of a kernel over its operand.
 *
 * @module
 */
import { AttributeError, DTypeError, ShapeError } from '../errors.js';
import { isFloating, type DType } from '../tensor/dtype.js';
import { defaultGenerator, Generator } from '../tensor/random.js';
import { scope } from '../tensor/scope.js';
import { checkAxis, sameShape, sizeOf, type Shape } from '../tensor/shape.js';
import { setRecording } from '../tensor/tape.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { checkBoolean, checkInteger, checkOneOf } from '../util/assert.js';
import { formatShape, formatValue } from '../util/format.js';
import { div, mul } from './arithmetic.js';
import { contiguous, to } from './copy.js';
import { defineOp } from './define.js';
import { log } from './unary.js';
import { reshape, select } from './views.js';

const schemes: readonly QuantizationScheme[] = ['symmetric', 'affine', 'nf4'];
/**
 * Around zero (codes −(2ᵇ⁻¹−1) … 2ᵇ⁻¹−1), from the smallest to the largest element (codes 0 … 2ᵇ−1), or the nearest of the 16
 * quantiles of a normal distribution (QLoRA, arXiv 2305.14314).
 */
export type QuantizationScheme = 'symmetric' | 'affine' | 'nf4';

const roundings: readonly QuantizationRounding[] = ['nearest', 'stochastic'];
/** To the nearest code, ties to even; or up with a probability of the fraction, so that the mean of the code is exact. */
export type QuantizationRounding = 'nearest' | 'stochastic';

/** Options of {@link quantize}. */
export interface QuantizeOptions {
  /** Default `symmetric`. */
  readonly scheme?: QuantizationScheme;
  /** 8 (default) or 4; NF4 has 4. */
  readonly bits?: 8 | 4;
  /** A scale for each position of this axis. Default: one for the whole tensor. */
  readonly axis?: number;
  /** A scale for each run of so many elements of the last axis. Excludes `axis`. */
  readonly groupSize?: number;
  /** Two 4-bit codes a byte, the first in its low half; symmetric codes are stored plus 8. Default false: one a byte. */
  readonly packed?: boolean;
  /** Default float32. Codes fit the scale as it is stored. */
  readonly scaleDType?: 'float32' | 'float16';
  /**
   * Use this scale, shaped as one that would be found, instead of the tensor's own range: what was calibrated before. Values beyond
   * its reach are clamped. The scale is not copied.
   */
  readonly scale?: Tensor;
  /** int32 or uint8, shaped like `scale`, for the affine scheme, which needs it with a scale. */
  readonly zeroPoint?: Tensor;
  /** Default `nearest`. */
  readonly rounding?: QuantizationRounding;
  /** Stream of stochastic rounding. Default: the shared one. */
  readonly generator?: Generator;
  /** Measure the error in the same pass. Default false. */
  readonly errors?: boolean;
}

/** How far the dequantised codes lie from the original, as float32 scalars. */
export interface QuantizationErrors {
  /** Mean of the squared error. */
  readonly mse: Tensor;
  /** Largest error. */
  readonly max: Tensor;
  /** Signal to quantisation noise, 10·log₁₀(Σx² / Σerror²), in decibels. */
  readonly sqnr: Tensor;
}

/** Codes with what turns them back into floats. */
export interface Quantized {
  /** In the shape of the original: int8 for symmetric, uint8 for other codes. Packed: uint8, the last axis halved. */
  readonly codes: Tensor;
  /** float32 or float16. A scalar, one for each position of the axis, or (…, groups). */
  readonly scale: Tensor;
  /** int32, shaped like `scale`; null unless the scheme is affine. */
  readonly zeroPoint: Tensor | null;
  readonly bits: 8 | 4;
  /** Axis that the scales run along; null for one scale or for groups. */
  readonly axis: number | null;
  readonly groupSize: number | null;
  /** Default: affine with zero points, else symmetric. */
  readonly scheme?: QuantizationScheme;
  /** Default false. */
  readonly packed?: boolean;
  /** Where they were asked for. */
  readonly errors?: QuantizationErrors;
}

interface QuantizeAttrs {
  readonly scheme: QuantizationScheme;
  readonly bits: 8 | 4;
  readonly packed: boolean;
  readonly scaleDType: DType;
  readonly errors: boolean;
  /** Null: to nearest. */
  readonly stream: readonly number[] | null;
}

/** Over [outer, channels, inner]; a scale for each channel. */
const quantizeOp = defineOp<QuantizeAttrs>({
  name: 'quantize',
  inputs: [
    { name: 'x', kind: 'float' },
    { name: 'scale', kind: 'float', optional: true },
    { name: 'zeroPoint', kind: 'integer', optional: true },
  ],
  outputCount: 4,
  attrCount: 7,
  output: ([x, given], { scheme, packed, scaleDType, errors }) => [
    packed
      ? { shape: [x!.size / 2], dtype: 'uint8' }
      : { shape: x!.shape, dtype: scheme === 'symmetric' ? 'int8' : 'uint8' },
    given ? null : { shape: [x!.shape[1]!], dtype: scaleDType },
    !given && scheme === 'affine' ? { shape: [x!.shape[1]!], dtype: 'int32' } : null,
    errors ? { shape: [3], dtype: 'float32' } : null,
  ],
  encode: ({ scheme, bits, stream }) => [
    schemes.indexOf(scheme),
    bits,
    Number(stream !== null),
    ...(stream ?? [0, 0, 0, 0]),
  ],
  cost: ([x], [codes]) => ({ flops: 6 * x!.size, bytes: x!.bytes + codes!.bytes }),
});

interface DequantizeAttrs {
  readonly scheme: QuantizationScheme;
  readonly bits: 8 | 4;
  readonly shape: Shape;
  readonly dtype: DType;
}

const dequantizeOp = defineOp<DequantizeAttrs>({
  name: 'dequantize',
  inputs: [
    { name: 'codes', kind: 'integer' },
    { name: 'scale', kind: 'float' },
    { name: 'zeroPoint', kind: 'integer', optional: true },
  ],
  attrCount: 2,
  output: (_inputs, { shape, dtype }) => ({ shape, dtype }),
  encode: ({ scheme, bits }) => [schemes.indexOf(scheme), bits],
  cost: ([codes], [y]) => ({ flops: 2 * y!.size, bytes: codes!.bytes + y!.bytes }),
});

/** @internal Runs `body` without recording; what it makes on the way is freed. */
export function unrecorded<T>(body: () => T): T {
  const before = setRecording(false);
  try {
    return scope(body);
  } finally {
    setRecording(before);
  }
}

/** @internal How scales lie over a shape: [outer, channels, inner] with one a channel, and the scales' own shape. */
export function layout(
  op: string,
  shape: Shape,
  axis: number | null,
  groupSize: number | null,
): { extent: Shape; scale: Shape } {
  const size = sizeOf(shape);
  if (groupSize !== null) {
    const last = shape.at(-1);
    if (last === undefined || last % groupSize !== 0) {
      const expected = `a last axis that is a multiple of groupSize ${groupSize}`;
      throw new ShapeError({ op, argument: 'x', expected, actual: formatShape(shape) });
    }
    return { extent: [1, size / groupSize, groupSize], scale: [...shape.slice(0, -1), last / groupSize] };
  }
  if (axis === null) return { extent: [1, 1, size], scale: [] };
  const length = shape[axis]!;
  return { extent: [sizeOf(shape.slice(0, axis)), length, sizeOf(shape.slice(axis + 1))], scale: [length] };
}

/** @internal The scheme that a value is of. */
export function schemeOf({ scheme, zeroPoint }: Quantized): QuantizationScheme {
  return scheme ?? (zeroPoint === null ? 'symmetric' : 'affine');
}

/** The shape that packed codes stand for. */
function unpackedShape({ codes, packed }: Quantized): Shape {
  return packed ? [...codes.shape.slice(0, -1), 2 * codes.shape.at(-1)!] : codes.shape;
}

/** @internal */
export function checkFloat(op: string, x: Tensor): void {
  checkTensor(op, 'x', x);
  if (!isFloating(x.dtype))
    throw new DTypeError({ op, argument: 'x', expected: 'a floating-point tensor', actual: x.dtype });
}

function refuse(argument: string, expected: string, actual: string): never {
  throw new AttributeError({ op: 'quantize', argument, expected, actual });
}

function readOptions(options: QuantizeOptions): QuantizeAttrs {
  const op = 'quantize';
  const scheme = checkOneOf(op, 'scheme', options.scheme ?? 'symmetric', schemes);
  const { bits = scheme === 'nf4' ? 4 : 8, scaleDType = 'float32' } = options;
  if (bits !== 8 && bits !== 4) refuse('bits', '8 or 4', formatValue(bits));
  if (scheme === 'nf4' && bits !== 4) refuse('bits', '4 for nf4', '8');
  const packed = checkBoolean(op, 'packed', options.packed ?? false);
  if (packed && bits !== 4) refuse('packed', '4 bits for two codes a byte', '8 bits');
  checkOneOf(op, 'scaleDType', scaleDType, ['float32', 'float16']);
  const rounding = checkOneOf(op, 'rounding', options.rounding ?? 'nearest', roundings);
  if (rounding === 'stochastic' && scheme === 'nf4') refuse('rounding', 'nearest for nf4', 'stochastic');
  const errors = checkBoolean(op, 'errors', options.errors ?? false);
  return { scheme, bits, packed, scaleDType, errors, stream: rounding === 'stochastic' ? [] : null };
}

function takeWords(count: number, stream: Generator = defaultGenerator()): readonly number[] {
  if (!(stream instanceof Generator)) refuse('generator', 'og.generator(seed)', formatValue(stream));
  return stream.take(count);
}

function errorsOf(sums: Tensor, size: number): QuantizationErrors {
  const [squares, max, signal] = [0, 1, 2].map((i) => select(sums, 0, i));
  return {
    mse: div(squares!, size),
    max: max!,
    sqnr: mul(log(div(signal!, squares!)), 10 / Math.LN10),
  };
}

/** A scale that was given, with its zero point. @throws ShapeError unless they are shaped as ones that would be found */
function givenScale(
  { scale, zeroPoint = undefined }: QuantizeOptions,
  scheme: QuantizationScheme,
  shape: Shape,
): { scale: Tensor; zeroPoint: Tensor | null } | null {
  const op = 'quantize';
  if (scale === undefined) {
    if (zeroPoint !== undefined) refuse('zeroPoint', 'none without a scale', 'one');
    return null;
  }
  if ((zeroPoint !== undefined) !== (scheme === 'affine'))
    refuse('zeroPoint', `${scheme === 'affine' ? 'one' : 'none'} for ${scheme}`, zeroPoint ? 'one' : 'none');
  for (const [argument, value] of [
    ['scale', scale],
    ['zeroPoint', zeroPoint],
  ] as const) {
    if (value === undefined) continue;
    checkTensor(op, argument, value);
    if (!sameShape(value.shape, shape))
      throw new ShapeError({ op, argument, expected: formatShape(shape), actual: formatShape(value.shape) });
  }
  return { scale, zeroPoint: zeroPoint ?? null };
}

/**
 * A tensor as integer codes. Scales come from the largest magnitude (symmetric, nf4) or from the smallest and the largest
 * element with 0 between them (affine). A row or group of up to 8192 elements is read once: its range is found and applied
 * while it is in the cache.
 *
 * @dtype floats → int8 or uint8 codes, float32 or float16 scales, int32 zero points
 * @throws ShapeError if groups do not divide the last axis, or packed codes an odd one
 * @throws AttributeError if options contradict each other, such as `axis` and `groupSize`
 * @source symmetric and affine: Jacob et al., arXiv 1712.05877; NF4: Dettmers et al., arXiv 2305.14314
 */
export function quantize(x: Tensor, options: QuantizeOptions = {}): Quantized {
  const op = 'quantize';
  checkFloat(op, x);
  const attrs = readOptions(options);
  const { scheme, bits, packed } = attrs;
  if (options.axis !== undefined && options.groupSize !== undefined)
    refuse('groupSize', 'either axis or groupSize', 'both');
  const axis = options.axis === undefined ? null : checkAxis(op, options.axis, x.rank);
  const groupSize = options.groupSize === undefined ? null : checkInteger(op, 'groupSize', options.groupSize, 1);
  const { extent, scale: scaleShape } = layout(op, x.shape, axis, groupSize);
  if (packed && (x.rank === 0 || x.shape.at(-1)! % 2 !== 0)) {
    throw new ShapeError({
      op,
      argument: 'x',
      expected: 'an even last axis for packed codes',
      actual: formatShape(x.shape),
    });
  }
  const stream = attrs.stream === null ? null : takeWords(x.size, options.generator);
  const given = givenScale(options, scheme, scaleShape);
  return unrecorded(() => {
    const flat = (value: Tensor | null): Tensor | null =>
      value === null ? null : reshape(contiguous(value), [extent[1]!]);
    const inputs = [reshape(contiguous(x), extent), flat(given?.scale ?? null), flat(given?.zeroPoint ?? null)];
    const [codes, scale, zero, sums] = quantizeOp.callAll(inputs, { ...attrs, stream });
    return {
      codes: reshape(codes!, packed ? [...x.shape.slice(0, -1), x.shape.at(-1)! / 2] : x.shape),
      scale: given?.scale ?? reshape(scale!, scaleShape),
      zeroPoint: given ? given.zeroPoint : zero === null ? null : reshape(zero!, scaleShape),
      bits,
      axis,
      groupSize,
      scheme,
      packed,
      ...(sums === null ? {} : { errors: errorsOf(sums!, x.size) }),
    };
  });
}

/**
 * Floats from codes: (codes − zeroPoint) · scale, or NF4's numbers · scale.
 *
 * @throws ShapeError if scales and codes do not fit together
 */
export function dequantize(quantized: Quantized, dtype: DType = 'float32'): Tensor {
  const op = 'dequantize';
  const { codes, scale, zeroPoint, axis, groupSize, bits } = quantized;
  const scheme = schemeOf(quantized);
  checkTensor(op, 'codes', codes);
  checkTensor(op, 'scale', scale);
  if (zeroPoint !== null) checkTensor(op, 'zeroPoint', zeroPoint);
  const shape = unpackedShape(quantized);
  const { extent, scale: scaleShape } = layout(op, shape, axis, groupSize);
  for (const [argument, value] of [
    ['scale', scale],
    ['zeroPoint', zeroPoint],
  ] as const) {
    if (value === null || sameShape(value.shape, scaleShape)) continue;
    throw new ShapeError({ op, argument, expected: formatShape(scaleShape), actual: formatShape(value.shape) });
  }
  return unrecorded(() => {
    const flat = (value: Tensor): Tensor => reshape(contiguous(value), [extent[1]!]);
    const zero = zeroPoint === null ? null : flat(zeroPoint.dtype === 'uint8' ? zeroPoint : to(zeroPoint, 'int32'));
    const numbers = scale.dtype === 'float16' ? scale : to(scale, 'float32');
    const direct = isFloating(dtype) && dtype !== 'float64' ? dtype : 'float32';
    const inputs = [contiguous(codes), flat(numbers), zero];
    const y = dequantizeOp.call(inputs, { scheme, bits, shape: extent, dtype: direct });
    return to(reshape(y, shape), dtype);
  });
}
