/**
 * Stochastic gradient descent, and Lion.
 *
 * @module
 */
import { AttributeError } from '../errors.js';
import { kernelId } from '../runtime/kernels.js';
import { submit } from '../runtime/queue.js';
import type { Tensor } from '../tensor/tensor.js';
import type { OptimizedParameters, OptimizerOptions } from './groups.js';
import { Optimizer, type GradScale } from './optimizer.js';

export interface SgdOptions extends OptimizerOptions {
  /** Default 0. */
  momentum: number;
  /** Default 0. */
  dampening: number;
  /** Joins the gradient. Default 0. */
  weightDecay: number;
  /** Default false. */
  nesterov: boolean;
}

const sgdStep = kernelId('sgd_step', 2, 2, 7);
const lionStep = kernelId('lion_step', 2, 2, 5);

/**
 * Stochastic gradient descent with momentum, as torch.optim.SGD. Default lr 1e-3.
 *
 * @throws AttributeError for Nesterov momentum without momentum, or with dampening
 * @source Polyak 1964; Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning"
 */
export class SGD extends Optimizer<SgdOptions> {
  constructor(params: OptimizedParameters<SgdOptions>, options: Partial<SgdOptions> = {}) {
    super('SGD', params, { lr: 1e-3, momentum: 0, dampening: 0, weightDecay: 0, nesterov: false }, options);
    for (const { nesterov, momentum, dampening } of this.groups) {
      if (nesterov && (momentum === 0 || dampening !== 0)) {
        throw new AttributeError({
          op: 'SGD',
          argument: 'nesterov',
          expected: 'false, or momentum above 0 and dampening 0',
          actual: `momentum ${momentum} and dampening ${dampening}`,
        });
      }
    }
  }

  protected override stateNames(_param: Tensor, options: SgdOptions): readonly string[] {
    return options.momentum === 0 ? [] : ['momentumBuffer'];
  }

  protected override update(
    param: Tensor,
    grad: Tensor,
    step: number,
    options: SgdOptions,
    gradScale: GradScale,
  ): void {
    const { lr, momentum, dampening, nesterov, weightDecay } = options;
    const buffer = momentum === 0 ? null : this.state(param, 'momentumBuffer');
    const [factor, scale] = this.kernelScale(gradScale, param);
    const attrs = [lr, momentum, dampening, Number(nesterov), weightDecay, Number(step === 1), scale];
    submit(sgdStep, [grad, factor], [param, buffer], attrs, param.size);
  }
}

export interface LionOptions extends OptimizerOptions {
  /** Default [0.9, 0.99]. */
  betas: readonly [number, number];
  /** Decoupled. Default 0. */
  weightDecay: number;
}

/** Lion: the sign of an interpolated momentum (Chen et al., arXiv 2302.06675). Default lr 1e-4. */
export class Lion extends Optimizer<LionOptions> {
  constructor(params: OptimizedParameters<LionOptions>, options: Partial<LionOptions> = {}) {
    super('Lion', params, { lr: 1e-4, betas: [0.9, 0.99], weightDecay: 0 }, options);
  }

  protected override stateNames(_param: Tensor, _options: LionOptions): readonly string[] {
    return ['expAvg'];
  }

  protected override update(
    param: Tensor,
    grad: Tensor,
    _step: number,
    options: LionOptions,
    gradScale: GradScale,
  ): void {
    const { lr, betas, weightDecay } = options;
    const [factor, scale] = this.kernelScale(gradScale, param);
    const attrs = [lr, betas[0], betas[1], weightDecay, scale];
    submit(lionStep, [grad, factor], [param, this.state(param, 'expAvg')], attrs, param.size);
  }
}
