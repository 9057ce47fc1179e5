/**
 * Learned step size quantisation: the scale of the codes is a parameter.
 *
 * @module
 */
import { customFunction } from '../../autograd/custom.js';
import { AttributeError } from '../../errors.js';
import { noGrad } from '../../autograd/grad.js';
import { div, mul, sub } from '../../ops/arithmetic.js';
import { le } from '../../ops/comparison.js';
import { contiguous, to } from '../../ops/copy.js';
import { dequantize, layout, quantize } from '../../ops/quantization.js';
import { mean, sum } from '../../ops/reduce.js';
import { abs, clamp, round } from '../../ops/unary.js';
import { detach, reshape } from '../../ops/views.js';
import { where } from '../../ops/where.js';
import { scope } from '../../tensor/scope.js';
import type { Tensor } from '../../tensor/tensor.js';

/** How scales lie over a tensor: one for all of it, one for each position of an axis, or one for each group of the last axis. */
export interface StepLayout {
  readonly bits: 8 | 4;
  readonly axis?: number;
  readonly groupSize?: number;
}

/** Options of {@link learnedStep}. */
export interface LearnedStepOptions extends StepLayout {
  /** Numbers that count in the gradient's factor (N in the paper): those that share a scale. */
  readonly count?: number;
}

/** Largest code: codes are −Q … Q, as the integer kernels take them (the paper has one more negative code). */
const largestCode = (bits: 8 | 4): number => 2 ** (bits - 1) - 1;

/** `x` as [outer, channels, inner] with one scale a channel. */
function geometry({ shape }: Tensor, { axis, groupSize }: StepLayout): [readonly number[], readonly number[]] {
  const found = layout('learnedStep', shape, axis ?? null, groupSize ?? null);
  return [found.extent, found.scale];
}

/** The step that training begins with, 2·mean|x| / √Q for all numbers of a scale (section 2.1 of the paper). */
export function initialStep(x: Tensor, options: StepLayout): Tensor {
  return scope(() =>
    noGrad(() => {
      const [extent, shape] = geometry(x, options);
      const sizes = mean(reshape(contiguous(abs(detach(x))), extent), [0, 2]);
      return reshape(mul(sizes, 2 / Math.sqrt(largestCode(options.bits))), shape);
    }),
  );
}

/**
 * What symmetric codes of a scale make of `x`, with gradients for both: x's passes where it was not clamped; the scale's is, for each number,
 * round(x/s) − x/s, or ±Q where it was clamped, times 1/√(N·Q).
 *
 * @shape x any; scale: a scalar, the axis's length, or (…, groups) → that of x
 * @dtype floats
 * @throws AttributeError if the scale is not of the shape that the layout asks for
 * @source Esser et al. 2020, arXiv 1902.08153, eq. 1 to 3 and section 2.2
 */
export function learnedStep(x: Tensor, scale: Tensor, options: LearnedStepOptions): Tensor {
  const { bits, count, ...grouping } = options;
  const [extent, shape] = geometry(x, options);
  if (scale.shape.length !== shape.length || scale.shape.some((size, i) => size !== shape[i])) {
    const [expected, actual] = [`shape [${shape.join(', ')}]`, `[${scale.shape.join(', ')}]`];
    throw new AttributeError({ op: 'learnedStep', argument: 'scale', expected, actual });
  }
  const largest = largestCode(bits);
  const channels = extent[1]!;
  const shared = count ?? x.size / Math.max(1, channels);
  const factor = 1 / Math.sqrt(Math.max(1, shared) * largest);
  const forward = (value: Tensor, step: Tensor): Tensor =>
    scope(() => {
      const codes = quantize(value, { bits, ...grouping, scale: to(step, 'float32') });
      return to(dequantize({ ...codes, scale: to(step, 'float32') }), value.dtype);
    });
  return customFunction<readonly [Tensor, Tensor]>({
    name: 'learnedStep',
    forward,
    backward({ grad, saved, needs }) {
      const [value, step] = saved as [Tensor, Tensor];
      const parts = div(reshape(contiguous(value), extent), reshape(step, [1, channels, 1]));
      const inside = le(abs(parts), largest);
      const slope = reshape(contiguous(grad), extent);
      let scaleGrad: Tensor | null = null;
      if (needs(1)) {
        const codes = clamp(round(parts), -largest, largest);
        const own = mul(sum(mul(slope, sub(codes, where(inside, parts, 0))), [0, 2]), factor);
        scaleGrad = to(reshape(own, shape), step.dtype);
      }
      return [needs(0) ? reshape(where(inside, slope, 0), value.shape) : null, scaleGrad];
    },
  })(x, scale);
}
