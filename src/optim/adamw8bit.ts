/**
 * AdamW with states of eight bits.
 *
 * @module
 */
import { mul } from '../ops/arithmetic.js';
import { contiguous } from '../ops/copy.js';
import { kernelId } from '../runtime/kernels.js';
import { submit } from '../runtime/queue.js';
import type { DType } from '../tensor/dtype.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkInteger } from '../util/assert.js';
import { submitAdamStep } from './adam.js';
import type { OptimizedParameters, OptimizerOptions } from './groups.js';
import { Optimizer, type GradScale } from './optimizer.js';

/** Options of {@link AdamW8bit}. */
export interface AdamW8bitOptions extends OptimizerOptions {
  /** Decay rates of the first and second moments. Default [0.9, 0.999]. */
  betas: readonly [number, number];
  /** Added to the root of the second moment. Default 1e-8. */
  eps: number;
  /** Default 0.01. */
  weightDecay: number;
  /** Elements that share a magnitude, at most 4096. Default 2048. */
  blockSize: number;
  /** Parameters of fewer elements keep 32-bit states. Default 4096. */
  minSize: number;
}

/** Whether the moments of a parameter are codes. */
function isCoded(param: Tensor, { minSize }: AdamW8bitOptions): boolean {
  return param.size >= minSize && param.dtype !== 'float64' && param.isContiguous;
}

const codedStep = kernelId('adamw8bit_step', 1, 5, 10);

/**
 * AdamW whose moments take one byte an element instead of four: block-wise dynamic 8-bit codes (Dettmers et al., arXiv
 * 2110.02861), decoded, stepped and encoded in one pass. Small, non-contiguous and float64 parameters keep 32-bit (64-bit)
 * states. Default lr 1e-3.
 */
export class AdamW8bit extends Optimizer<AdamW8bitOptions> {
  constructor(params: OptimizedParameters<AdamW8bitOptions>, options: Partial<AdamW8bitOptions> = {}) {
    const defaults = {
      lr: 1e-3,
      betas: [0.9, 0.999] as const,
      eps: 1e-8,
      weightDecay: 0.01,
      blockSize: 2048,
      minSize: 4096,
    };
    super('AdamW8bit', params, defaults, options, {
      blockSize: (op, argument, value) => checkInteger(op, argument, value, 1, 4096),
      minSize: (op, argument, value) => checkInteger(op, argument, value, 0),
    });
  }

  /** One magnitude a block; codes and full moments are shaped like the parameter. */
  protected override stateShape(param: Tensor, name: string): readonly number[] {
    if (name !== 'expAvgMax' && name !== 'expAvgSqMax') return param.shape;
    const { blockSize } = this.groups.find((group) => group.params.includes(param))!;
    return [Math.ceil(param.size / blockSize)];
  }

  protected override stateDType(param: Tensor, name: string): DType {
    return name.endsWith('Codes') ? 'uint8' : super.stateDType(param, name);
  }

  protected override stateNames(param: Tensor, options: AdamW8bitOptions): readonly string[] {
    return isCoded(param, options)
      ? ['expAvgCodes', 'expAvgMax', 'expAvgSqCodes', 'expAvgSqMax']
      : ['expAvg', 'expAvgSq'];
  }

  protected override update(
    param: Tensor,
    grad: Tensor,
    step: number,
    options: AdamW8bitOptions,
    gradScale: GradScale,
  ): void {
    const { lr, betas, eps, weightDecay, blockSize } = options;
    const corrections = [1 - betas[0] ** step, 1 - betas[1] ** step];
    const [factor, scale] = this.kernelScale(gradScale, param);
    const attrs = [lr, betas[0], betas[1], eps, weightDecay, ...corrections, scale, 1];
    if (!isCoded(param, options)) {
      const moments = [this.state(param, 'expAvg'), this.state(param, 'expAvgSq')];
      submitAdamStep(factor, [grad], [[param], [moments[0]!], [moments[1]!]], attrs);
      return;
    }
    const scaled = factor === null ? grad : mul(grad, factor);
    const states = this.stateNames(param, options).map((name) => this.state(param, name));
    submit(codedStep, [contiguous(scaled)], [param, ...states], [...attrs, blockSize], param.size);
  }
}
