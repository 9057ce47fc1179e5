/**
 * Scales that are codes themselves.
 *
 * @module
 */
import { noGrad } from '../autograd/grad.js';
import { add, sub } from '../ops/arithmetic.js';
import { dequantizeBlockwise, quantizeBlockwise } from '../ops/blockwise.js';
import { clone, contiguous, to } from '../ops/copy.js';
import { mean } from '../ops/reduce.js';
import { detach, reshape } from '../ops/views.js';
import { keep, scope } from '../tensor/scope.js';
import type { Shape } from '../tensor/shape.js';
import type { Tensor } from '../tensor/tensor.js';

/** Scales that share a second scale. */
const BLOCK = 256;

/** Scales as 8-bit codes around their mean, with a magnitude for each 256 of them. */
export interface CodedScales {
  /** uint8, one a scale, in their order. */
  readonly scaleCodes: Tensor;
  /** float32, one for each 256 codes. */
  readonly scaleMax: Tensor;
  /** float32 scalar. */
  readonly scaleMean: Tensor;
}

/**
 * Scales as {@link CodedScales}: their mean is taken off, since all are positive, and what is left becomes 8-bit codes of a dynamic
 * exponent.
 *
 * @source QLoRA, Dettmers et al. 2023, arXiv 2305.14314, section 3 ("Double Quantization"); codes: Dettmers et al. 2022, arXiv 2110.02861
 */
export function codeScales(scale: Tensor): CodedScales {
  return scope(() =>
    noGrad(() => {
      const flat = reshape(contiguous(to(detach(scale), 'float32')), [-1]);
      const centre = mean(flat);
      const { codes, absmax } = quantizeBlockwise(sub(flat, centre), { blockSize: BLOCK });
      return { scaleCodes: keep(codes), scaleMax: keep(absmax), scaleMean: keep(clone(centre)) };
    }),
  );
}

/** The scales that codes stand for, float32 of the given shape. */
export function decodeScales({ scaleCodes, scaleMax, scaleMean }: CodedScales, shape: Shape): Tensor {
  return scope(() =>
    noGrad(() => {
      const part = dequantizeBlockwise({ codes: scaleCodes, absmax: scaleMax, signed: true, blockSize: BLOCK });
      return reshape(add(part, scaleMean), shape);
    }),
  );
}
