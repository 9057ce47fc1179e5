/**
 * A linear layer of 8-bit codes on both sides.
 *
 * @module
 */
import { AttributeError, DTypeError, ShapeError } from '../errors.js';
import { noGrad } from '../autograd/grad.js';
import { clone, to } from '../ops/copy.js';
import { mul } from '../ops/arithmetic.js';
import { applyEnd, type LinearEnd } from '../ops/linear.js';
import { linearInt8, linearInt8Dynamic, type Int8EpilogueOptions } from '../ops/matmul_integer.js';
import { quantize, type Quantized } from '../ops/quantization.js';
import { detach } from '../ops/views.js';
import { zeros } from '../tensor/create.js';
import { keep, scope } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { formatShape } from '../util/format.js';
import { Module, parameter } from './module.js';

/** What an {@link Int8Linear} does to its input before it multiplies. */
export interface Int8InputOptions {
  /** Scale of all inputs, a scalar found in calibration ("static"). Default: one a row, found at each call ("dynamic"). */
  readonly inputScale?: Tensor | null;
  /** Zero point of static inputs, an int32 scalar: they are uint8 codes then. Default: none, int8 codes. */
  readonly inputZeroPoint?: Tensor | null;
  /** Multiplied into the inputs first, `[in]`: the smoothing that could not be folded into the layer before (SmoothQuant). Default: none. */
  readonly inputFactor?: Tensor | null;
}

/**
 * y = x·Wᵀ + b with int8 weights, one scale an output, and 8-bit inputs ("w8a8"): sums are exact integers, scales follow. For
 * inference: gradients reach the bias, not x.
 *
 * Shapes: x `[…, in]` → `[…, out]`; `codes` `[out, in]` int8, `scale` `[out]`, `bias` `[out]`.
 */
export class Int8Linear extends Module {
  readonly inFeatures: number;
  readonly outFeatures: number;
  codes: Tensor;
  scale: Tensor;
  bias: Tensor | null;
  inputScale: Tensor | null;
  inputZeroPoint: Tensor | null;
  inputFactor: Tensor | null;

  /**
   * Takes over the tensors of a weight that `quantize(weight, { axis: 0 })`, or a calibrated method, made.
   *
   * @throws DTypeError unless the weight is symmetric int8 with one scale an output
   */
  constructor(weight: Quantized, bias: Tensor | null = null, options: Int8InputOptions = {}) {
    super();
    const op = 'Int8Linear';
    const { codes, scale, zeroPoint, bits, axis, groupSize } = weight;
    if (codes.dtype !== 'int8' || bits !== 8 || codes.rank !== 2 || axis !== 0 || groupSize !== null || zeroPoint) {
      const [expected, hint] = [
        'symmetric int8 codes [out, in] with one scale an output',
        'quantize(weight, { axis: 0 })',
      ];
      const actual = `${bits}-bit ${codes.dtype} codes ${formatShape(codes.shape)}`;
      throw new DTypeError({ op, argument: 'weight', expected, actual, hint });
    }
    [this.outFeatures, this.inFeatures] = codes.shape as [number, number];
    if (bias !== null && (bias.rank !== 1 || bias.size !== this.outFeatures)) {
      const expected = `shape [${this.outFeatures}]`;
      throw new ShapeError({ op, argument: 'bias', expected, actual: formatShape(bias.shape) });
    }
    const { inputScale = null, inputZeroPoint = null, inputFactor = null } = options;
    if (inputZeroPoint !== null && inputScale === null) {
      const expected = 'none without inputScale';
      throw new AttributeError({ op, argument: 'inputZeroPoint', expected, actual: 'one' });
    }
    for (const [argument, value] of Object.entries({ inputScale, inputZeroPoint })) {
      if (value !== null && value.rank !== 0)
        throw new ShapeError({ op, argument, expected: 'a scalar', actual: formatShape(value.shape) });
    }
    if (inputFactor !== null && (inputFactor.rank !== 1 || inputFactor.size !== this.inFeatures)) {
      const expected = `shape [${this.inFeatures}]`;
      throw new ShapeError({ op, argument: 'inputFactor', expected, actual: formatShape(inputFactor.shape) });
    }
    const own = (x: Tensor | null): Tensor | null => (x === null ? null : keep(detach(x)));
    this.codes = keep(codes);
    this.scale = keep(to(scale, 'float32'));
    this.bias = bias === null ? null : parameter(scope(() => noGrad(() => clone(detach(bias)))));
    this.inputScale = own(inputScale);
    this.inputZeroPoint = own(inputZeroPoint);
    this.inputFactor = own(inputFactor);
  }

  /** A layer of zeros, for `loadStateDict`. */
  static empty(inFeatures: number, outFeatures: number, options: { readonly bias?: boolean } = {}): Int8Linear {
    const weight = noGrad(() => quantize(zeros([outFeatures, inFeatures]), { axis: 0 }));
    return new Int8Linear(weight, (options.bias ?? true) ? zeros([outFeatures]) : null);
  }

  /** The weight as `linearInt8` takes it. */
  get weight(): Quantized {
    return {
      codes: this.codes,
      scale: this.scale,
      zeroPoint: null,
      bits: 8,
      axis: 0,
      groupSize: null,
      scheme: 'symmetric',
    };
  }

  /** `[…, in]` → `[…, out]`. */
  forward(x: Tensor): Tensor {
    return this.product(x, {});
  }

  /** What {@link forward} gives, with an activation and a residual in the product's own call, unless hooks want to see that result. */
  endForward(x: Tensor, end: LinearEnd): Tensor {
    return this.forward === Int8Linear.prototype.forward ? this.product(x, end) : applyEnd(this.forward(x), end);
  }

  private product(x: Tensor, end: LinearEnd): Tensor {
    const { activation = 'none', residual = null } = end;
    // activations that the integer product's pass does not have
    if (activation === 'sigmoid' || activation === 'tanh') return scope(() => applyEnd(this.compute(x, {}), end));
    return scope(() => this.compute(x, { activation, residual }));
  }

  private compute(x: Tensor, end: Int8EpilogueOptions): Tensor {
    const { inputFactor, inputScale, inputZeroPoint, bias } = this;
    if (inputScale === null) return linearInt8Dynamic(x, this.weight, bias, { ...end, inputFactor });
    const input = inputFactor === null ? x : mul(x, inputFactor);
    const codes =
      inputZeroPoint === null
        ? quantize(input, { scale: inputScale })
        : quantize(input, { scheme: 'affine', scale: inputScale, zeroPoint: inputZeroPoint });
    const dtype = x.dtype === 'float16' || x.dtype === 'bfloat16' ? x.dtype : 'float32';
    return linearInt8(codes, this.weight, bias, { ...end, dtype });
  }
}
