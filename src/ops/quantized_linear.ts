/**
 * Fully connected layers whose weights stay quantised: they are read as codes and become floats in registers, or while a
 * large product is packed, never in memory.
 *
 * @module
 */
import { DTypeError, ShapeError } from '../errors.js';
import { isFloating, itemSize, type DType } from '../tensor/dtype.js';
import { scope } from '../tensor/scope.js';
import { sameShape, sizeOf } from '../tensor/shape.js';
import { willRecord } from '../tensor/tape.js';
import { checkTensor, Tensor } from '../tensor/tensor.js';
import { checkOneOf } from '../util/assert.js';
import { formatShape, formatValue } from '../util/format.js';
import { contiguous, to } from './copy.js';
import { defineOp, type Op } from './define.js';
import { applyEnd, linear, linearActivations, type LinearActivation, type LinearEnd } from './linear.js';
import { matmul } from './matmul.js';
import { PackedForms } from './packed_forms.js';
import { dequantize, schemeOf, type Quantized, type QuantizationScheme } from './quantization.js';
import { sum } from './reduce.js';
import { detach, reshape } from './views.js';

const schemes: readonly QuantizationScheme[] = ['symmetric', 'affine', 'nf4'];

interface WeightOnlyAttrs {
  readonly scheme: QuantizationScheme;
  /** Of the codes as they lie: 4 means two a byte. */
  readonly bits: 8 | 4;
  readonly coded: boolean;
  /** x·W instead of x·Wᵀ. */
  readonly transposed: boolean;
  /** Columns of W. */
  readonly inFeatures: number;
  readonly dtype: DType;
  readonly biasDType: DType | null;
  readonly activation: LinearActivation;
}

/** x: [rows, in], codes: [out, in] or [out, in/2], scale and zeroPoint: [out, groups]; packed: of these three. */
const weightOnlyOp: Op<WeightOnlyAttrs> = defineOp<WeightOnlyAttrs>({
  name: 'linear_weight_only',
  inputs: [
    { name: 'x', kind: 'float' },
    { name: 'codes', kind: 'integer' },
    { name: 'scale', kind: 'float' },
    { name: 'zeroPoint', kind: 'integer', optional: true },
    { name: 'bias', kind: 'float', optional: true },
    { name: 'packed', kind: 'any', optional: true },
    { name: 'residual', kind: 'float', optional: true },
  ],
  attrCount: 5,
  output: ([x, codes], { transposed, inFeatures, dtype }) => ({
    shape: [x!.shape[0]!, transposed ? inFeatures : codes!.shape[0]!],
    dtype,
  }),
  encode: ({ scheme, bits, coded, transposed, activation }) => [
    schemes.indexOf(scheme),
    bits,
    Number(coded),
    Number(transposed),
    linearActivations.indexOf(activation),
  ],
  saves: ([, codes, scale, zeroPoint]) => [codes!, scale!, zeroPoint ?? null],
  backward: ({ grad, saved: [codes, scale, zeroPoint], attrs, needs }) => [
    needs(0) ? weightOnlyOp.call([grad, codes!, scale!, zeroPoint!, null, null, null], turned(attrs)) : null,
    null,
    null,
    null,
    needs(4) ? to(sum(grad, 0), attrs.biasDType!) : null,
    null,
    null,
  ],
  cost: ([x, codes, scale], [y], { inFeatures }) => ({
    flops: 2 * x!.shape[0]! * codes!.shape[0]! * inFeatures,
    bytes: x!.bytes + codes!.bytes + scale!.bytes + y!.bytes,
  }),
});

interface PackAttrs {
  readonly scheme: QuantizationScheme;
  readonly bits: 8 | 4;
}

/** Codes, scales and zero points as one block: a header, and panels of 32 outputs in which all of them follow each other. */
const packOp: Op<PackAttrs> = defineOp<PackAttrs>({
  name: 'linear_weight_only_pack',
  inputs: [
    { name: 'codes', kind: 'integer' },
    { name: 'scale', kind: 'float' },
    { name: 'zeroPoint', kind: 'integer', optional: true },
  ],
  attrCount: 2,
  output: ([codes, scale, zeroPoint]) => {
    const rows = Math.ceil(codes!.shape[0]! / 32) * 32;
    const group = itemSize(scale!.dtype) + (zeroPoint ? 4 : 0);
    return { shape: [64 + rows * (scale!.shape[1]! * group + codes!.shape[1]!)], dtype: 'uint8' };
  },
  encode: ({ scheme, bits }) => [schemes.indexOf(scheme), bits],
});

const packedWeights = new PackedForms();

/** The gradient's product takes no rounded operand. */
function turned(attrs: WeightOnlyAttrs): WeightOnlyAttrs {
  return { ...attrs, transposed: !attrs.transposed, coded: false, biasDType: null };
}

/** Options of {@link quantizedLinear}. Without a gradient, in float32, what follows the product costs no call of its own. */
export interface QuantizedLinearOptions extends LinearEnd {
  /**
   * `int8`: x is rounded to int8 in blocks of 32 of each row and multiplied with integer codes (not NF4) as integers, exactly,
   * before scales apply. It is several times faster, and the first call packs the weight into a second block of memory, which
   * lives as long as `codes`. Default `float`.
   */
  readonly activations?: 'float' | 'int8';
}

/** The weight as the kernel takes it, or null where it lies otherwise. */
function kernelWeight(
  weight: Quantized,
  outFeatures: number,
  inFeatures: number,
): [Tensor, Tensor, Tensor | null] | null {
  const { codes, scale, zeroPoint, axis, groupSize, packed } = weight;
  const scheme = schemeOf(weight);
  const group = groupSize ?? (axis === 0 ? inFeatures : 0);
  if (group === 0 || group % 32 !== 0 || (scheme === 'nf4' && !packed)) return null;
  const shape = [outFeatures, inFeatures / group];
  const grid = (value: Tensor): Tensor => {
    const dense = contiguous(value.requiresGrad ? detach(value) : value);
    return sameShape(dense.shape, shape) ? dense : reshape(dense, shape);
  };
  const numbers = scale.dtype === 'float32' || scale.dtype === 'float16' ? scale : to(scale, 'float32');
  const zero = zeroPoint === null || zeroPoint.dtype === 'uint8' ? zeroPoint : to(zeroPoint, 'int32');
  return [contiguous(codes), grid(numbers), zero === null ? null : grid(zero)];
}

/**
 * f(x·Wᵀ + bias) + residual for a weight made by {@link quantize}. Weights in groups of a multiple of 32 along `in`, or with one scale an
 * output (`axis: 0`), are multiplied as they are; others are dequantised first. The gradient of `x` is that of the dequantised
 * weight, and `bias` gets one; codes and scales do not.
 *
 * Floats meet integers exactly to 2^-23 of the largest magnitude in each block of 32 of x where the machine has byte dot products
 * (AVX-512 VNNI) and x has up to 4 rows; otherwise in float32.
 *
 * @shape x (…, in), weight (out, in), bias (out), residual (…, out) → (…, out)
 * @dtype that of x; accumulates in float32 (float64 in float64)
 * @throws ShapeError if the axes do not match
 * @throws DTypeError if `x`, `bias` or `residual` is not floating-point
 * @throws AttributeError if an option is none of its values
 * @cost 2·rows·in·out flops; few rows are bound by reading the codes
 * @source QLoRA, Dettmers et al., arXiv 2305.14314
 */
export function quantizedLinear(
  x: Tensor,
  weight: Quantized,
  bias: Tensor | null = null,
  options: QuantizedLinearOptions = {},
): Tensor {
  const op = 'quantizedLinear';
  if (!(weight?.codes instanceof Tensor))
    throw new DTypeError({ op, argument: 'weight', expected: 'what quantize returns', actual: formatValue(weight) });
  checkTensor(op, 'weight', weight.codes);
  for (const [argument, value] of [
    ['x', x],
    ['bias', bias],
    ['residual', options.residual ?? null],
  ] as const) {
    if (value === null) continue;
    checkTensor(op, argument, value);
    if (!isFloating(value.dtype))
      throw new DTypeError({ op, argument, expected: 'a floating-point tensor', actual: value.dtype });
  }
  const activations = checkOneOf(op, 'activations', options.activations ?? 'float', ['float', 'int8']);
  const activation = checkOneOf(op, 'activation', options.activation ?? 'none', linearActivations);
  const residual = options.residual ?? null;
  const { codes, packed } = weight;
  if (codes.rank !== 2)
    throw new ShapeError({ op, argument: 'weight', expected: 'codes [out, in]', actual: formatShape(codes.shape) });
  const outFeatures = codes.shape[0]!;
  const inFeatures = packed ? 2 * codes.shape[1]! : codes.shape[1]!;
  if (x.rank === 0 || x.shape.at(-1) !== inFeatures)
    throw new ShapeError({ op, argument: 'x', expected: `last axis ${inFeatures}`, actual: formatShape(x.shape) });
  if (bias !== null && (bias.rank !== 1 || bias.size !== outFeatures))
    throw new ShapeError({ op, argument: 'bias', expected: `shape [${outFeatures}]`, actual: formatShape(bias.shape) });
  const shape = [...x.shape.slice(0, -1), outFeatures];
  if (residual !== null && !sameShape(residual.shape, shape)) {
    const expected = `the result's shape ${formatShape(shape)}`;
    throw new ShapeError({ op, argument: 'residual', expected, actual: formatShape(residual.shape) });
  }
  return scope(() => {
    const end = { activation, residual };
    const parts = kernelWeight(weight, outFeatures, inFeatures);
    if (parts === null) {
      const dense = dequantize(weight, x.dtype === 'float64' ? 'float64' : 'float32');
      return applyEnd(to(linear(x, dense, bias), x.dtype), end);
    }
    const scheme = schemeOf(weight);
    const bits = packed ? 4 : 8;
    const coded = activations === 'int8' && scheme !== 'nf4' && inFeatures > 0;
    const direct = x.dtype === 'float32' || x.dtype === 'float64';
    const fused = direct && (residual === null || residual.dtype === x.dtype) && !willRecord([x, bias, residual]);
    const attrs: WeightOnlyAttrs = {
      scheme,
      bits,
      coded,
      transposed: false,
      inFeatures,
      dtype: x.dtype,
      biasDType: bias?.dtype ?? null,
      activation: fused ? activation : 'none',
    };
    const rows =
      x.rank === 2 ? x : reshape(x, [x.size === 0 ? sizeOf(x.shape.slice(0, -1)) : x.size / inFeatures, inFeatures]);
    // float64 runs on the reference set, which reads the codes
    const panels =
      coded && x.dtype !== 'float64' && bias?.dtype !== 'float64'
        ? packedWeights.get(codes, [weight.scale, weight.zeroPoint], scheme, () =>
            packOp.call([...parts], { scheme, bits }),
          )
        : null;
    const more = fused && residual !== null ? reshape(residual, [rows.shape[0]!, outFeatures]) : null;
    const y = weightOnlyOp.call([rows, ...parts, bias, panels, more], attrs);
    const shaped = x.rank === 2 ? y : reshape(y, shape);
    return fused ? shaped : applyEnd(shaped, end);
  });
}

/**
 * @internal grad·W for a weight of codes: the gradient that {@link quantizedLinear} sends to x, (…, out) → (…, in), for callers that keep
 * something smaller than scales until it is needed.
 */
export function quantizedLinearBackward(grad: Tensor, weight: Quantized): Tensor {
  const { codes, packed = false } = weight;
  const outFeatures = codes.shape[0]!;
  const inFeatures = packed ? 2 * codes.shape[1]! : codes.shape[1]!;
  const parts = kernelWeight(weight, outFeatures, inFeatures);
  if (parts === null) return to(matmul(grad, dequantize(weight)), grad.dtype);
  const attrs = {
    scheme: schemeOf(weight),
    bits: packed ? 4 : 8,
    coded: false,
    transposed: true,
    inFeatures,
    dtype: grad.dtype,
    biasDType: null,
    activation: 'none',
  } as const;
  const rows = reshape(contiguous(grad), [sizeOf(grad.shape.slice(0, -1)), outFeatures]);
  return reshape(weightOnlyOp.call([rows, ...parts, null, null, null], attrs), [
    ...grad.shape.slice(0, -1),
    inFeatures,
  ]);
}
