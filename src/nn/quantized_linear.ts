import { customFunction } from '../autograd/custom.js';
import { noGrad } from '../autograd/grad.js';
import { mul } from '../ops/arithmetic.js';
import { clone, to } from '../ops/copy.js';
import {
  quantize,
  schemeOf,
  type Quantized,
  type QuantizationScheme,
  type QuantizeOptions,
} from '../ops/quantization.js';
import { applyEnd, type LinearEnd } from '../ops/linear.js';
import { quantizedLinear, quantizedLinearBackward } from '../ops/quantized_linear.js';
import { sum } from '../ops/reduce.js';
import { detach, reshape } from '../ops/views.js';
import { zeros } from '../tensor/create.js';
import { keep, scope } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { AttributeError, ShapeError } from '../errors.js';
import { checkBoolean, checkInteger, checkOneOf } from '../util/assert.js';
import { codeScales, decodeScales, type CodedScales } from './double_quant.js';
import type { Linear } from './linear.js';
import { Module, parameter } from './module.js';

/** How {@link QuantizedLinear} holds its weight. */
export interface WeightFormat {
  /** Default `symmetric`. */
  readonly scheme?: QuantizationScheme;
  /** Default 4, two codes a byte. */
  readonly bits?: 8 | 4;
  /** Inputs that share a scale; a multiple of 32 runs without dequantising. Default 32; null: one scale an output. */
  readonly groupSize?: number | null;
  /** Default float32. */
  readonly scaleDType?: 'float32' | 'float16';
  /** Scales of nf4 as 8-bit codes (double quantisation): decoded at each call, which saves most of their memory. Default false. */
  readonly doubleQuant?: boolean;
}

/** Options of {@link QuantizedLinear}. */
export interface QuantizedLinearModuleOptions extends WeightFormat {
  /** Default true. */
  readonly bias?: boolean;
  /** `int8` rounds activations to int8, see {@link quantizedLinear}. Default `float`. */
  readonly activations?: 'float' | 'int8';
}

const defaults = { scheme: 'symmetric', bits: 4, groupSize: 32, scaleDType: 'float32', doubleQuant: false } as const;

function resolve(format: WeightFormat): Required<WeightFormat> {
  const given = Object.fromEntries(Object.entries(format).filter(([, value]) => value !== undefined));
  return { ...defaults, ...(given as WeightFormat) };
}

/** Options under which {@link quantize} gives what the module holds. */
function quantizeOptions({ scheme, bits, groupSize, scaleDType }: Required<WeightFormat>): QuantizeOptions {
  return { scheme, bits, scaleDType, packed: bits === 4, ...(groupSize === null ? { axis: 0 } : { groupSize }) };
}

/**
 * y = x·Wᵀ + b with a weight of 4- or 8-bit codes that stays quantised. Codes, scales and zero points are buffers: they are
 * part of `stateDict`, and no optimiser changes them. The gradient of x flows, so that adapters can be trained on top (QLoRA,
 * Dettmers et al., arXiv 2305.14314).
 *
 * Shapes: x `[…, in]` → `[…, out]`; `codes` `[out, in]`, or `[out, in/2]` for 4 bits; `scale` and `zeroPoint`
 * `[out, in/groupSize]`, or `[out]`; `bias` `[out]`.
 */
export class QuantizedLinear extends Module {
  readonly inFeatures: number;
  readonly outFeatures: number;
  readonly format: Required<WeightFormat>;
  activations: 'float' | 'int8';
  private packed: boolean;
  codes: Tensor;
  /** Null under double quantisation: `scaleCodes`, `scaleMax` and `scaleMean` stand for it. */
  scale: Tensor | null;
  scaleCodes: Tensor | null = null;
  scaleMax: Tensor | null = null;
  scaleMean: Tensor | null = null;
  zeroPoint: Tensor | null;
  bias: Tensor | null;
  /** Multiplied into the inputs first, `[in]`: what a calibrated method moved from them to the weight (AWQ). Null: nothing. */
  inputFactor: Tensor | null = null;

  /** A layer of zeros, for `loadStateDict`. {@link QuantizedLinear.from} makes one of a Linear. */
  constructor(inFeatures: number, outFeatures: number, options: QuantizedLinearModuleOptions = {}) {
    super();
    const op = 'QuantizedLinear';
    this.inFeatures = checkInteger(op, 'inFeatures', inFeatures, 0);
    this.outFeatures = checkInteger(op, 'outFeatures', outFeatures, 0);
    const { bias = true, activations = 'float', scheme, bits, groupSize, scaleDType, doubleQuant } = options;
    this.format = resolve({ scheme, bits, groupSize, scaleDType, doubleQuant } as WeightFormat);
    if (checkBoolean(op, 'doubleQuant', this.format.doubleQuant) && this.format.scheme !== 'nf4') {
      const [expected, actual] = ['false unless the scheme is nf4', 'true'];
      throw new AttributeError({ op, argument: 'doubleQuant', expected, actual });
    }
    this.activations = checkOneOf(op, 'activations', activations, ['float', 'int8']);
    const weight = scope(() => quantize(zeros([outFeatures, inFeatures]), quantizeOptions(this.format)));
    this.packed = this.format.bits === 4;
    this.codes = keep(weight.codes);
    this.scale = keep(weight.scale);
    if (this.format.doubleQuant) this.codeScale();
    this.zeroPoint = weight.zeroPoint === null ? null : keep(weight.zeroPoint);
    this.bias = bias ? parameter(zeros([outFeatures])) : null;
  }

  /**
   * The layer with its weight rounded to the nearest codes; the bias is copied.
   *
   * @throws ShapeError if groups do not divide the layer's inputs
   */
  static from(linear: Linear, options: Omit<QuantizedLinearModuleOptions, 'bias'> = {}): QuantizedLinear {
    const { activations, ...format } = options;
    const weight = scope(() => quantize(detach(linear.weight), quantizeOptions(resolve(format))));
    return QuantizedLinear.of(weight, linear.bias, activations, format.doubleQuant);
  }

  /**
   * A layer around codes that were made elsewhere, such as by a calibrated method. It owns them.
   *
   * @throws ShapeError unless the codes are those of a matrix
   */
  static of(
    weight: Quantized,
    bias: Tensor | null = null,
    activations: 'float' | 'int8' = 'float',
    doubleQuant: boolean | CodedScales = false,
  ): QuantizedLinear {
    const { codes, scale, zeroPoint, bits, packed = false, groupSize, axis } = weight;
    if (codes.rank !== 2 || (groupSize === null && axis !== 0)) {
      const expected = 'codes [out, in] in groups or with one scale an output';
      const actual = `${codes.rank} axes, scales along axis ${axis}`;
      throw new ShapeError({ op: 'QuantizedLinear.of', argument: 'weight', expected, actual });
    }
    const [outFeatures, width] = codes.shape as [number, number];
    const scaleDType = scale.dtype === 'float16' ? 'float16' : 'float32';
    const layer = new QuantizedLinear(packed ? 2 * width : width, outFeatures, {
      scheme: schemeOf(weight),
      bits,
      groupSize,
      scaleDType,
      activations,
      bias: bias !== null,
      doubleQuant: doubleQuant !== false,
    });
    layer.dispose();
    layer.packed = packed;
    layer.codes = keep(codes);
    if (typeof doubleQuant === 'object') Object.assign(layer, doubleQuant);
    else {
      layer.scale = keep(scale);
      if (doubleQuant) layer.codeScale();
    }
    layer.zeroPoint = zeroPoint === null ? null : keep(zeroPoint);
    layer.bias = bias === null ? null : parameter(scope(() => noGrad(() => clone(detach(bias)))));
    if (layer.bias !== null) layer.bias.requiresGrad = bias!.requiresGrad;
    return layer;
  }

  /** The weight as {@link quantizedLinear} and `dequantize` take it. */
  get weight(): Quantized {
    const { scheme, bits, groupSize } = this.format;
    const { codes, zeroPoint, packed } = this;
    const scale = this.scale ?? this.decodedScale();
    return { codes, scale, zeroPoint, bits, scheme, packed, groupSize, axis: groupSize === null ? 0 : null };
  }

  /** @internal Everything but the bias. */
  get weightTensors(): Tensor[] {
    const { codes, scale, zeroPoint, scaleCodes, scaleMax, scaleMean } = this;
    return [codes, scale, zeroPoint, scaleCodes, scaleMax, scaleMean].filter((part) => part !== null);
  }

  private codeScale(): void {
    const { scale } = this;
    Object.assign(this, codeScales(scale!));
    this.scale = null;
    scale!.dispose();
  }

  private decodedScale(): Tensor {
    const { scaleCodes, scaleMax, scaleMean, outFeatures, inFeatures } = this;
    const { groupSize } = this.format;
    const shape = groupSize === null ? [outFeatures] : [outFeatures, inFeatures / groupSize];
    return decodeScales({ scaleCodes: scaleCodes!, scaleMax: scaleMax!, scaleMean: scaleMean! }, shape);
  }

  /** `[…, in]` → `[…, out]`. */
  forward(x: Tensor): Tensor {
    return this.compute(x, {});
  }

  /** What {@link forward} gives, with an activation and a residual: in the product's own call, unless hooks want to see that result. */
  endForward(x: Tensor, end: LinearEnd): Tensor {
    return this.forward === QuantizedLinear.prototype.forward ? this.compute(x, end) : applyEnd(this.forward(x), end);
  }

  private compute(x: Tensor, end: LinearEnd): Tensor {
    const { inputFactor } = this;
    return scope(() => this.product(inputFactor === null ? x : to(mul(x, inputFactor), x.dtype), end));
  }

  private product(x: Tensor, end: LinearEnd): Tensor {
    const { bias, activations } = this;
    if (this.scale !== null) return quantizedLinear(x, this.weight, bias, { activations, ...end });
    return applyEnd(this.decoded(x), end);
  }

  private decoded(x: Tensor): Tensor {
    const { bias } = this;
    // decoded scales are not kept until the gradient is asked for: they are decoded again
    return customFunction<readonly Tensor[]>({
      name: 'quantizedLinear',
      forward: (input, offset) => scope(() => quantizedLinear(input!, this.weight, offset ?? null)),
      save: () => [],
      backward: ({ grad, needs }) => [
        needs(0) ? scope(() => quantizedLinearBackward(grad, this.weight)) : null,
        bias !== null && needs(1) ? to(sum(reshape(grad, [-1, this.outFeatures]), 0), bias.dtype) : null,
      ],
    })(...(bias === null ? [x] : [x, bias]));
  }
}
