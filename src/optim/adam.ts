/**
 * The Adam family.
 *
 * @module
 */
import { add, div, maximum, mul } from '../ops/arithmetic.js';
import { copy_ } from '../ops/copy.js';
import { sqrt } from '../ops/unary.js';
import { kernelId } from '../runtime/kernels.js';
import { submit } from '../runtime/queue.js';
import type { Tensor } from '../tensor/tensor.js';
import { Optimizer, type OptimizerOptions, type OptimizedParameters } from './optimizer.js';

export interface AdamOptions extends OptimizerOptions {
  /** Decay rates of the first and second moments. Default [0.9, 0.999]. */
  betas: readonly [number, number];
  /** Added to the root of the second moment. Default 1e-8. */
  eps: number;
  /** Default 0 for Adam (joins the gradient), 0.01 for AdamW (decoupled). */
  weightDecay: number;
  /** Use the largest second moment so far (Reddi et al., arXiv 1904.09237). Default false. */
  amsgrad: boolean;
}

const adamwStep = kernelId('adamw_step', 1, 3, 9);

abstract class AdamBase extends Optimizer<AdamOptions> {
  protected abstract readonly decoupled: boolean;

  protected override update(param: Tensor, grad: Tensor, step: number, options: AdamOptions, gradScale: number): void {
    const { lr, betas, eps, weightDecay, amsgrad } = options;
    const [m, v] = [this.state(param, 'expAvg'), this.state(param, 'expAvgSq')];
    const [c1, c2] = [1 - betas[0] ** step, 1 - betas[1] ** step];
    if (amsgrad) {
      this.amsgradStep(param, mul(grad, gradScale), m, v, c1, c2, options);
      return;
    }
    const attrs = [lr, betas[0], betas[1], eps, weightDecay, c1, c2, gradScale, Number(this.decoupled)];
    submit(adamwStep, [grad], [param, m, v], attrs, param.size);
  }

  private amsgradStep(
    param: Tensor,
    scaled: Tensor,
    m: Tensor,
    v: Tensor,
    c1: number,
    c2: number,
    options: AdamOptions,
  ): void {
    const { lr, betas, eps, weightDecay } = options;
    const largest = this.state(param, 'maxExpAvgSq');
    if (this.decoupled) copy_(param, mul(param, 1 - lr * weightDecay));
    const grad = this.decoupled || weightDecay === 0 ? scaled : add(scaled, mul(param, weightDecay));
    copy_(m, add(mul(m, betas[0]), mul(grad, 1 - betas[0])));
    copy_(v, add(mul(v, betas[1]), mul(mul(grad, grad), 1 - betas[1])));
    copy_(largest, maximum(largest, v));
    const denominator = add(mul(sqrt(largest), 1 / Math.sqrt(c2)), eps);
    copy_(param, add(param, mul(div(m, denominator), -lr / c1)));
  }
}

/** Adam (Kingma and Ba, arXiv 1412.6980). Weight decay joins the gradient, as in torch.optim.Adam. Default lr 1e-3. */
export class Adam extends AdamBase {
  protected override readonly decoupled = false;
  constructor(params: OptimizedParameters<AdamOptions>, options: Partial<AdamOptions> = {}) {
    super('Adam', params, { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0, amsgrad: false, ...options });
  }
}

/** Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101), one fused pass a parameter. Default lr 1e-3. */
export class AdamW extends AdamBase {
  protected override readonly decoupled = true;
  constructor(params: OptimizedParameters<AdamOptions>, options: Partial<AdamOptions> = {}) {
    super('AdamW', params, { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0.01, amsgrad: false, ...options });
  }
}
