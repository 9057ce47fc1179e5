/**
 * A linear layer that stores its weight as 8-bit floats.
 *
 * @module
 */
import { customFunction } from '../autograd/custom.js';
import { noGrad } from '../autograd/grad.js';
import { DTypeError, ShapeError } from '../errors.js';
import { add, div, mul } from '../ops/arithmetic.js';
import { eq } from '../ops/comparison.js';
import { clone, to } from '../ops/copy.js';
import { fromFloat8, toFloat8, type Float8Format } from '../ops/float8.js';
import { linear } from '../ops/linear.js';
import { matmul } from '../ops/matmul.js';
import { amax } from '../ops/reduce.js';
import { abs } from '../ops/unary.js';
import { detach, unsqueeze } from '../ops/views.js';
import { where } from '../ops/where.js';
import { keep, scope } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkOneOf } from '../util/assert.js';
import { formatShape } from '../util/format.js';
import type { Linear } from './linear.js';
import { Module, parameter } from './module.js';

/** Largest finite number of each format. */
const LARGEST: Readonly<Record<Float8Format, number>> = { e4m3fn: 448, e5m2: 57344 };

/** A matrix as 8-bit floats with a scale a row. */
export interface Float8Weight {
  /** uint8 patterns `[out, in]`. */
  readonly codes: Tensor;
  /** float32 `[out]`. */
  readonly scale: Tensor;
  readonly format: Float8Format;
}

/**
 * y = x·Wᵀ + b with a weight of 8-bit floats and one scale an output. This saves memory and files, not time: each call makes floats of the
 * codes, and so does the gradient of x; codes and scales get none.
 *
 * Shapes: x `[…, in]` → `[…, out]`; `codes` `[out, in]` uint8, `scale` `[out]`, `bias` `[out]`.
 *
 * @source OCP 8-bit Floating Point Specification (OFP8) 1.0; a scale a channel: Micikevicius et al. 2022, arXiv 2209.05433
 */
export class Float8Linear extends Module {
  readonly inFeatures: number;
  readonly outFeatures: number;
  readonly format: Float8Format;
  codes: Tensor;
  scale: Tensor;
  bias: Tensor | null;

  /** Takes over the tensors. {@link Float8Linear.from} makes a layer of a Linear. @throws DTypeError or ShapeError unless they fit */
  constructor({ codes, scale, format }: Float8Weight, bias: Tensor | null = null) {
    super();
    const op = 'Float8Linear';
    this.format = checkOneOf(op, 'format', format, ['e4m3fn', 'e5m2']);
    if (codes.dtype !== 'uint8')
      throw new DTypeError({ op, argument: 'codes', expected: 'uint8', actual: codes.dtype });
    if (codes.rank !== 2 || scale.rank !== 1 || scale.size !== codes.shape[0]) {
      const expected = 'codes [out, in] and scales [out]';
      const actual = `${formatShape(codes.shape)} and ${formatShape(scale.shape)}`;
      throw new ShapeError({ op, argument: 'weight', expected, actual });
    }
    [this.outFeatures, this.inFeatures] = codes.shape as [number, number];
    this.codes = codes;
    this.scale = scale;
    this.bias = bias;
  }

  /** The layer with its weight rounded to nearest, scaled so that the largest of a row is the format's largest; the bias is copied. */
  static from({ weight, bias }: Linear, format: Float8Format): Float8Linear {
    return scope(() =>
      noGrad(() => {
        const plain = to(detach(weight), 'float32');
        const largest = amax(abs(plain), 1);
        const scale = where(eq(largest, 0), 1, div(largest, LARGEST[format]));
        const codes = toFloat8(div(plain, unsqueeze(scale, 1)), format);
        const own = bias === null ? null : parameter(clone(detach(bias)));
        if (own !== null) own.requiresGrad = bias!.requiresGrad;
        return new Float8Linear({ codes: keep(codes), scale: keep(scale), format }, own);
      }),
    );
  }

  /** The weight that the codes stand for, `[out, in]` float32. */
  get weight(): Tensor {
    return scope(() => noGrad(() => mul(fromFloat8(this.codes, this.format), unsqueeze(this.scale, 1))));
  }

  /** `[…, in]` → `[…, out]`. */
  forward(x: Tensor): Tensor {
    const product = customFunction<readonly [Tensor]>({
      name: 'float8Linear',
      forward: (input) =>
        scope(() => to(mul(linear(input, fromFloat8(this.codes, this.format)), this.scale), input.dtype)),
      save: () => [],
      backward: ({ grad }) => [
        scope(() => to(matmul(mul(grad, this.scale), fromFloat8(this.codes, this.format)), grad.dtype)),
      ],
    });
    return scope(() => (this.bias === null ? product(x) : add(product(x), to(this.bias, x.dtype))));
  }
}
