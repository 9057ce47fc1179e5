/**
 * Matrix products of integer codes, exact in int32, and fully connected layers made of them (W8A8).
 *
 * @module
 */
import { AttributeError, DTypeError, ShapeError } from '../errors.js';
import { tensor } from '../tensor/create.js';
import { isFloating, isInteger, type DType } from '../tensor/dtype.js';
import { scope } from '../tensor/scope.js';
import { broadcastShapes, sizeOf, type Shape } from '../tensor/shape.js';
import { Tensor, checkTensor } from '../tensor/tensor.js';
import { checkInteger, checkNumber, checkOneOf } from '../util/assert.js';
import { formatShape, formatValue } from '../util/format.js';
import { to } from './copy.js';
import type { Inputs } from './define.js';
import {
  checkDepth,
  int8Activations,
  int8Product,
  packedAgain,
  packWeight,
  type Int8Activation,
  type Int8Attrs,
} from './int8_product.js';
import type { Quantized } from './quantization.js';
import { detach, reshape, transpose } from './views.js';

export type { Int8Activation } from './int8_product.js';

const sumsOnly: Int8Attrs = { dtype: 'int32', activation: 'none', sevenBit: false, outScale: 1, outZero: 0 };
const byteDTypes: readonly DType[] = ['int8', 'uint8'];

function checkCodes(op: string, argument: string, x: Tensor, dtypes: readonly DType[]): void {
  checkTensor(op, argument, x);
  if (!dtypes.includes(x.dtype)) throw new DTypeError({ op, argument, expected: dtypes.join(' or '), actual: x.dtype });
  if (x.rank < 2) throw new ShapeError({ op, argument, expected: 'at least 2 axes', actual: formatShape(x.shape) });
}

function checkProduct(op: string, a: Tensor, b: Tensor): void {
  if (a.shape.at(-1) !== b.shape.at(-2)) {
    const expected = `second-to-last axis ${a.shape.at(-1)} to match a's last axis`;
    throw new ShapeError({ op, argument: 'b', expected, actual: formatShape(b.shape) });
  }
  broadcastShapes(op, a.shape.slice(0, -2), b.shape.slice(0, -2));
}

function rowsOf(a: Tensor): number {
  return sizeOf(a.shape.slice(0, -1));
}

/** Largest |code − zero point|. A tensor of zero points holds codes of x's dtype. */
function largestDistance(x: Tensor, zero: Tensor | number): number {
  const [low, high] = x.dtype === 'int8' ? [-128, 127] : [0, 255];
  return typeof zero === 'number' ? Math.max(high - zero, zero - low) : high - low;
}

/**
 * Product of two matrices of int8 codes, exact in int32. A matrix `b` that comes again unchanged is packed for the machine, in
 * memory of its own size, and read so until it changes (`OG_PREPACK=0`: never); so it is by {@link matmulInteger}.
 *
 * @shape (…, M, K), (…, K, N) → (…, M, N)
 * @dtype int8 → int32
 * @throws ShapeError if the inner axes differ, or K is above 131071, where a sum could leave int32
 */
export function matmulInt8(a: Tensor, b: Tensor): Tensor {
  const op = 'matmulInt8';
  checkCodes(op, 'a', a, ['int8']);
  checkCodes(op, 'b', b, ['int8']);
  checkProduct(op, a, b);
  checkDepth(op, 'a', a, [128, 128]);
  return int8Product.call([a, b, packedAgain(b, rowsOf(a)), null, null, null, null, null, null], sumsOnly);
}

/** A zero point as the kernel takes it: int32, or nothing for 0. */
function zeroPointTensor(op: string, argument: string, zero: Tensor | number, length: number): Tensor | null {
  if (typeof zero === 'number') {
    checkInteger(op, argument, zero, -128, 255);
    return zero === 0 ? null : tensor(zero, { dtype: 'int32' });
  }
  if (!(zero instanceof Tensor))
    throw new DTypeError({ op, argument, expected: 'an integer or a tensor', actual: formatValue(zero) });
  checkTensor(op, argument, zero);
  if (!byteDTypes.includes(zero.dtype) && !isInteger(zero.dtype))
    throw new DTypeError({ op, argument, expected: 'integers', actual: zero.dtype });
  if (zero.rank > 1 || (zero.rank === 1 && zero.shape[0] !== length)) {
    const expected = `a scalar or shape [${length}]`;
    throw new ShapeError({ op, argument, expected, actual: formatShape(zero.shape) });
  }
  return to(zero, 'int32');
}

/**
 * Σₖ (aᵢₖ − aZeroPoint)·(bₖⱼ − bZeroPoint) of codes, exact in int32. Zero points are numbers, or tensors with one for each
 * row of `a` and each column of `b`.
 *
 * @shape (…, M, K), (…, K, N) → (…, M, N); zero points: scalars, or (M) and (N)
 * @dtype int8 or uint8 → int32
 * @throws ShapeError if the axes do not match, or K is so large that a sum could leave int32
 * @source ONNX MatMulInteger
 */
export function matmulInteger(
  a: Tensor,
  b: Tensor,
  aZeroPoint: Tensor | number = 0,
  bZeroPoint: Tensor | number = 0,
): Tensor {
  const op = 'matmulInteger';
  checkCodes(op, 'a', a, byteDTypes);
  checkCodes(op, 'b', b, byteDTypes);
  checkProduct(op, a, b);
  return scope(() => {
    const aZero = zeroPointTensor(op, 'aZeroPoint', aZeroPoint, a.shape.at(-2)!);
    const bZero = zeroPointTensor(op, 'bZeroPoint', bZeroPoint, b.shape.at(-1)!);
    checkDepth(op, 'a', a, [largestDistance(a, aZeroPoint), largestDistance(b, bZeroPoint)]);
    return int8Product.call([a, b, packedAgain(b, rowsOf(a)), aZero, bZero, null, null, null, null], sumsOnly);
  });
}

/** What follows the sums of an int8 product. */
export interface Int8EpilogueOptions {
  /** Applied after the bias. Default `none`. */
  readonly activation?: Int8Activation;
  /** Added at the end, in the result's shape. */
  readonly residual?: Tensor | null;
}

/** Options of {@link linearInt8Dynamic}. */
export interface LinearInt8DynamicOptions extends Int8EpilogueOptions {
  /** Multiplied into the rows of x before they are quantised, `(in)`: smoothing (SmoothQuant). Constant. Default: none. */
  readonly inputFactor?: Tensor | null;
}

/** Options of {@link linearInt8}. */
export interface LinearInt8Options extends Int8EpilogueOptions {
  /** Of the result. Default float32. */
  readonly dtype?: 'float32' | 'float16' | 'bfloat16';
  /** Codes instead of floats: clamp(round(y / scale) + zeroPoint), ties to even. Excludes `dtype`. */
  readonly output?: { readonly scale: number; readonly zeroPoint?: number; readonly dtype?: 'int8' | 'uint8' };
  /** The weight's codes lie in [-64, 64]: verified once, and faster on machines without byte dot products. Default false. */
  readonly sevenBit?: boolean;
}

/** A weight [out, in] in 8-bit codes with one scale, or one for each output. */
function checkWeight(op: string, { codes, axis, bits }: Quantized, dtypes: readonly DType[]): void {
  checkTensor(op, 'weight', codes);
  if (!dtypes.includes(codes.dtype) || bits !== 8 || codes.rank !== 2 || (axis !== 0 && axis !== null)) {
    const actual = `${bits}-bit ${codes.dtype} codes ${formatShape(codes.shape)} with scales along axis ${axis}`;
    throw new DTypeError({
      op,
      argument: 'weight',
      expected: `8-bit ${dtypes.join(' or ')} codes [out, in] with scales along axis 0`,
      actual,
      hint: 'quantize(weight, { axis: 0 })',
    });
  }
}

function checkScale(op: string, argument: string, { scale, zeroPoint, codes, groupSize }: Quantized): void {
  for (const [name, values] of [
    ['scale', scale],
    ['zeroPoint', zeroPoint],
  ] as const) {
    if (values === null) continue;
    checkTensor(op, `${argument}.${name}`, values);
    const fits = values.rank === 0 || (values.rank === 1 && values.shape[0] === codes.shape[0]);
    if (!fits || groupSize !== null) {
      const expected = `a scalar or shape [${codes.shape[0]}]`;
      throw new ShapeError({ op, argument: `${argument}.${name}`, expected, actual: formatShape(values.shape) });
    }
  }
}

function checkWidth(op: string, x: Tensor, weight: Tensor): void {
  if (x.rank > 0 && x.shape.at(-1) === weight.shape[1]) return;
  throw new ShapeError({ op, argument: 'x', expected: `last axis ${weight.shape[1]}`, actual: formatShape(x.shape) });
}

/** A float operand of the given shape, at most 32 bits wide. */
function epilogueTensor(op: string, argument: string, x: Tensor | null | undefined, shape: Shape): Tensor | null {
  if (x === null || x === undefined) return null;
  checkTensor(op, argument, x);
  if (!isFloating(x.dtype))
    throw new DTypeError({ op, argument, expected: 'a floating-point tensor', actual: x.dtype });
  if (x.rank !== shape.length || x.shape.some((length, i) => length !== shape[i]))
    throw new ShapeError({ op, argument, expected: `shape ${formatShape(shape)}`, actual: formatShape(x.shape) });
  return x.dtype === 'float64' ? to(x, 'float32') : x;
}

/** Codes with their scale, or floats that get both in the product's call. */
type Rows = Pick<Quantized, 'codes' | 'zeroPoint'> & { readonly scale: Tensor | null; readonly factor?: Tensor | null };

/** Rows of codes times the weight, with everything that follows; `shape` is the result's. What is made on the way is the caller's to free. */
function finished(
  op: string,
  rows: Rows,
  weight: Quantized,
  bias: Tensor | null,
  shape: Shape,
  options: Int8EpilogueOptions,
  attrs: Int8Attrs,
): Tensor {
  const [out] = weight.codes.shape as readonly [number, number];
  const activation = checkOneOf(op, 'activation', options.activation ?? 'none', int8Activations);
  const offset = epilogueTensor(op, 'bias', bias, [out]);
  const residual = epilogueTensor(op, 'residual', options.residual, shape);
  const distance = (x: Rows): number => (isFloating(x.codes.dtype) ? 127 : largestDistance(x.codes, x.zeroPoint ?? 0));
  checkDepth(op, 'x', rows.codes, [distance(rows), distance(weight)]);
  const count = rows.codes.shape[0]!;
  const integers = (zero: Tensor | null): Tensor | null => (zero === null ? null : to(zero, 'int32'));
  const floats = (scale: Tensor): Tensor => (scale.dtype === 'float64' ? to(scale, 'float32') : scale);
  const inputs: Inputs = [
    rows.codes,
    transpose(weight.codes),
    packWeight(weight.codes, attrs.sevenBit, count),
    integers(rows.zeroPoint),
    integers(weight.zeroPoint),
    rows.scale === null ? null : floats(rows.scale),
    floats(weight.scale),
    offset,
    residual === null || shape.length === 2 ? residual : reshape(residual, [count, out]),
    rows.factor ?? null,
  ];
  const y = int8Product.call(inputs, { ...attrs, activation });
  return shape.length === 2 ? y : reshape(y, shape);
}

/**
 * A fully connected layer of 8-bit codes: (x − zeroPoint)·(weight − zeroPoint)ᵀ exactly in int32, then, in the same pass,
 * scales, bias, activation, residual, and rounding to the result's dtype. The weight is packed for the machine when more than 2
 * rows first meet it, and again only after it was written to.
 *
 * @shape x: codes (…, in), with one scale, or (rows, in) with one a row; weight: (out, in) with one scale or one a row;
 * bias: (out); residual: (…, out) → (…, out)
 * @dtype int8 or uint8 codes → float32, float16, bfloat16, or int8 or uint8 codes; the epilogue runs in float32
 * @throws ShapeError if the axes do not match, or `in` is so large that a sum could leave int32
 * @throws DTypeError unless both have 8-bit codes
 * @source Jacob et al., arXiv 1712.05877, §2.3
 */
export function linearInt8(
  x: Quantized,
  weight: Quantized,
  bias: Tensor | null = null,
  options: LinearInt8Options = {},
): Tensor {
  const op = 'linearInt8';
  checkTensor(op, 'x', x.codes);
  if (!byteDTypes.includes(x.codes.dtype) || x.bits !== 8)
    throw new DTypeError({ op, argument: 'x', expected: '8-bit codes', actual: `${x.bits}-bit ${x.codes.dtype}` });
  checkWeight(op, weight, byteDTypes);
  checkWidth(op, x.codes, weight.codes);
  if (x.scale.rank > 0 && x.codes.rank !== 2)
    throw new ShapeError({ op, argument: 'x', expected: 'codes (rows, in)', actual: formatShape(x.codes.shape) });
  checkScale(op, 'x', x);
  checkScale(op, 'weight', weight);
  const { output } = options;
  if (output !== undefined && options.dtype !== undefined)
    throw new AttributeError({ op, argument: 'output', expected: 'either output or dtype', actual: 'both' });
  const dtype =
    output === undefined
      ? checkOneOf(op, 'dtype', options.dtype ?? 'float32', ['float32', 'float16', 'bfloat16'] as const)
      : checkOneOf(op, 'output.dtype', output.dtype ?? 'int8', ['int8', 'uint8'] as const);
  const outScale = output === undefined ? 1 : checkNumber(op, 'output.scale', output.scale, 2 ** -126);
  const least = dtype === 'int8' ? -128 : 0;
  const outZero = checkInteger(op, 'output.zeroPoint', output?.zeroPoint ?? 0, least, least + 255);
  const { codes } = x;
  const [out, width] = weight.codes.shape as readonly [number, number];
  const shape = [...codes.shape.slice(0, -1), out];
  const rows = { ...x, codes: reshape(codes, [sizeOf(codes.shape.slice(0, -1)), width]) };
  const attrs = { dtype, activation: 'none', sevenBit: options.sevenBit === true, outScale, outZero } as const;
  return scope(() => finished(op, rows, weight, bias, shape, options, attrs));
}

/**
 * A fully connected layer with int8 weights: each row of `x` is quantised on the way (symmetric, by its own largest
 * magnitude), multiplied exactly, and scaled back; bias, activation and residual in the same pass. Gradients reach the bias,
 * the residual and the weight's scale, not `x`.
 *
 * @shape x (…, in), weight (out, in) with one scale a row, bias (out), residual (…, out) → (…, out)
 * @dtype floats → that of `x`
 * @throws ShapeError if the axes do not match
 * @throws DTypeError unless the weight has symmetric int8 codes with one scale an output
 */
export function linearInt8Dynamic(
  x: Tensor,
  weight: Quantized,
  bias: Tensor | null = null,
  options: LinearInt8DynamicOptions = {},
): Tensor {
  const op = 'linearInt8Dynamic';
  checkTensor(op, 'x', x);
  if (!isFloating(x.dtype))
    throw new DTypeError({ op, argument: 'x', expected: 'a floating-point tensor', actual: x.dtype });
  checkWeight(op, weight, ['int8']);
  checkWidth(op, x, weight.codes);
  checkScale(op, 'weight', weight);
  const [out, width] = weight.codes.shape as readonly [number, number];
  const shape = [...x.shape.slice(0, -1), out];
  const dtype = x.dtype === 'float64' ? 'float32' : x.dtype;
  const attrs = { dtype, activation: 'none', sevenBit: false, outScale: 1, outZero: 0 } as const;
  return scope(() => {
    const plain = to(x.requiresGrad ? detach(x) : x, dtype);
    const codes = reshape(plain, [sizeOf(x.shape.slice(0, -1)), width]);
    const factor = epilogueTensor(op, 'inputFactor', options.inputFactor, [width]);
    return to(
      finished(op, { codes, scale: null, zeroPoint: null, factor }, weight, bias, shape, options, attrs),
      x.dtype,
    );
  });
}
