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
import type { OptimizedParameters, OptimizerOptions } from './groups.js';
import { Optimizer, type Due, type GradScale } from './optimizer.js';

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

/** Tensors that one call of the kernel updates: the number of operands of a frame is bounded. */
const TENSORS = 5;
const adamwStep = kernelId('adamw_step', 1 + TENSORS, 3 * TENSORS, 9);

/**
 * @internal One call of the step kernel.
 *
 * @param grads - at most {@link TENSORS}
 * @param updated - parameters, first and second moments, as many of each
 * @param attrs - lr, β₁, β₂, ε, weight decay, 1 − β₁ᵗ, 1 − β₂ᵗ, scale of the gradients, whether decay is decoupled
 */
export function submitAdamStep(
  factor: Tensor | null,
  grads: readonly Tensor[],
  updated: readonly (readonly Tensor[])[],
  attrs: readonly number[],
): void {
  const inputs = new Array<Tensor | null>(1 + TENSORS).fill(null);
  const outputs = new Array<Tensor | null>(3 * TENSORS).fill(null);
  inputs[0] = factor;
  let work = 0;
  for (let i = 0; i < grads.length; i++) {
    inputs[1 + i] = grads[i]!;
    for (let kind = 0; kind < updated.length; kind++) outputs[kind * TENSORS + i] = updated[kind]![i]!;
    work += grads[i]!.size;
  }
  submit(adamwStep, inputs, outputs, attrs, work);
}

/** Where the next call ends: it takes parameters of one step number and one precision. */
function endOfRun(due: readonly Due[], begin: number): number {
  const isWide = (i: number): boolean => due[i]!.param.dtype === 'float64';
  let end = begin + 1;
  while (
    end < due.length &&
    end < begin + TENSORS &&
    due[end]!.step === due[begin]!.step &&
    isWide(end) === isWide(begin)
  )
    end++;
  return end;
}

abstract class AdamBase extends Optimizer<AdamOptions> {
  protected abstract readonly decoupled: boolean;

  protected override stateNames(_param: Tensor, options: AdamOptions): readonly string[] {
    return ['expAvg', 'expAvgSq', ...(options.amsgrad ? ['maxExpAvgSq'] : [])];
  }

  protected override updateAll(due: readonly Due[], options: AdamOptions, gradScale: GradScale): void {
    if (options.amsgrad) {
      super.updateAll(due, options, gradScale);
      return;
    }
    for (let begin = 0; begin < due.length;) {
      const end = endOfRun(due, begin);
      this.updateTogether(due.slice(begin, end), options, gradScale);
      begin = end;
    }
  }

  /** At most {@link TENSORS} parameters in one call. */
  private updateTogether(due: readonly Due[], options: AdamOptions, gradScale: GradScale): void {
    const { lr, betas, eps, weightDecay } = options;
    const [{ param, step }] = due as [Due];
    const [factor, scale] = this.kernelScale(gradScale, param);
    const stateOf = (name: string): Tensor[] => due.map((each) => this.state(each.param, name));
    submitAdamStep(
      factor,
      due.map(({ grad }) => grad),
      [due.map((each) => each.param), stateOf('expAvg'), stateOf('expAvgSq')],
      [
        lr,
        betas[0],
        betas[1],
        eps,
        weightDecay,
        1 - betas[0] ** step,
        1 - betas[1] ** step,
        scale,
        Number(this.decoupled),
      ],
    );
  }

  /** With the largest second moment so far. */
  protected override update(
    param: Tensor,
    grad: Tensor,
    step: number,
    options: AdamOptions,
    gradScale: GradScale,
  ): void {
    const [m, v] = [this.state(param, 'expAvg'), this.state(param, 'expAvgSq')];
    const [c1, c2] = [1 - options.betas[0] ** step, 1 - options.betas[1] ** step];
    this.amsgradStep(param, mul(grad, gradScale), m, v, c1, c2, options);
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
    super('Adam', params, { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0, amsgrad: false }, options);
  }
}

/** Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101), in one pass over parameters, gradients and moments. Default lr 1e-3. */
export class AdamW extends AdamBase {
  protected override readonly decoupled = true;
  constructor(params: OptimizedParameters<AdamOptions>, options: Partial<AdamOptions> = {}) {
    super('AdamW', params, { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0.01, amsgrad: false }, options);
  }
}
