/**
 * Further adaptive optimisers, as compositions of operations. Each follows the class of the same name in torch.optim.
 *
 * @module
 */
import { AttributeError } from '../errors.js';
import { add, div, maximum, mul, sub } from '../ops/arithmetic.js';
import { copy_ } from '../ops/copy.js';
import { mean, norm } from '../ops/reduce.js';
import { abs, clamp, rsqrt, sqrt } from '../ops/unary.js';
import { unsqueeze } from '../ops/views.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkNumber } from '../util/assert.js';
import { formatValue } from '../util/format.js';
import type { OptimizedParameters, OptimizerOptions, OptionCheck } from './groups.js';
import { Optimizer, type GradScale } from './optimizer.js';

/** target ← target + factor·(value − target): a moving average of rate `factor`. */
function average_(target: Tensor, value: Tensor, factor: number): Tensor {
  return copy_(target, add(mul(target, 1 - factor), mul(value, factor)));
}

/** The gradient, scaled, with weight decay joined (L2). */
function decayed(param: Tensor, grad: Tensor, gradScale: GradScale, weightDecay: number): Tensor {
  const scaled = gradScale === 1 ? grad : mul(grad, gradScale);
  return weightDecay === 0 ? scaled : add(scaled, mul(param, weightDecay));
}

export interface RmsPropOptions extends OptimizerOptions {
  /** Decay rate of the mean square. Default 0.99. */
  alpha: number;
  /** Default 1e-8. */
  eps: number;
  /** Default 0. */
  weightDecay: number;
  /** Default 0. */
  momentum: number;
  /** Subtract the squared mean from the mean square. Default false. */
  centered: boolean;
}

/** RMSprop (Hinton 2012; Graves, arXiv 1308.0850). Default lr 1e-2. */
export class RMSprop extends Optimizer<RmsPropOptions> {
  constructor(params: OptimizedParameters<RmsPropOptions>, options: Partial<RmsPropOptions> = {}) {
    super(
      'RMSprop',
      params,
      {
        lr: 1e-2,
        alpha: 0.99,
        eps: 1e-8,
        weightDecay: 0,
        momentum: 0,
        centered: false,
      },
      options,
    );
  }

  protected override stateNames(_param: Tensor, options: RmsPropOptions): readonly string[] {
    return [
      'squareAvg',
      ...(options.centered ? ['gradAvg'] : []),
      ...(options.momentum === 0 ? [] : ['momentumBuffer']),
    ];
  }

  protected override update(
    param: Tensor,
    grad: Tensor,
    _step: number,
    options: RmsPropOptions,
    gradScale: GradScale,
  ): void {
    const { lr, alpha, eps, weightDecay, momentum, centered } = options;
    const g = decayed(param, grad, gradScale, weightDecay);
    const square = average_(this.state(param, 'squareAvg'), mul(g, g), 1 - alpha);
    const spread = centered ? average_(this.state(param, 'gradAvg'), g, 1 - alpha) : null;
    const root = sqrt(spread === null ? square : sub(square, mul(spread, spread)));
    const direction = div(g, add(root, eps));
    const step =
      momentum === 0
        ? direction
        : copy_(
            this.state(param, 'momentumBuffer'),
            add(mul(this.state(param, 'momentumBuffer'), momentum), direction),
          );
    copy_(param, sub(param, mul(step, lr)));
  }
}

export interface AdagradOptions extends OptimizerOptions {
  /** Default 0. */
  lrDecay: number;
  /** Default 1e-10. */
  eps: number;
  /** Default 0. */
  weightDecay: number;
  /** What the sums of squares start from. Default 0. */
  initialAccumulatorValue: number;
}

/** Adagrad (Duchi et al. 2011). Default lr 1e-2. */
export class Adagrad extends Optimizer<AdagradOptions> {
  constructor(params: OptimizedParameters<AdagradOptions>, options: Partial<AdagradOptions> = {}) {
    const defaults = { lr: 1e-2, lrDecay: 0, eps: 1e-10, weightDecay: 0, initialAccumulatorValue: 0 };
    super('Adagrad', params, defaults, options);
  }

  protected override stateNames(_param: Tensor, _options: AdagradOptions): readonly string[] {
    return ['sum'];
  }

  protected override update(
    param: Tensor,
    grad: Tensor,
    step: number,
    options: AdagradOptions,
    gradScale: GradScale,
  ): void {
    const { lr, lrDecay, eps, weightDecay } = options;
    const g = decayed(param, grad, gradScale, weightDecay);
    const sum = this.state(param, 'sum');
    const before = step === 1 && options.initialAccumulatorValue > 0 ? options.initialAccumulatorValue : sum;
    copy_(sum, add(mul(g, g), before));
    copy_(param, sub(param, mul(div(g, add(sqrt(sum), eps)), lr / (1 + (step - 1) * lrDecay))));
  }
}

export interface MomentOptions extends OptimizerOptions {
  /** Default [0.9, 0.999]. */
  betas: readonly [number, number];
  /** Default 1e-8. */
  eps: number;
  /** Joins the gradient. Default 0. */
  weightDecay: number;
}

/** Adamax: Adam with the infinity norm (Kingma and Ba, arXiv 1412.6980, §7.1). Default lr 2e-3. */
export class Adamax extends Optimizer<MomentOptions> {
  constructor(params: OptimizedParameters<MomentOptions>, options: Partial<MomentOptions> = {}) {
    super('Adamax', params, { lr: 2e-3, betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0 }, options);
  }

  protected override stateNames(_param: Tensor, _options: MomentOptions): readonly string[] {
    return ['expAvg', 'expInf'];
  }

  protected override update(
    param: Tensor,
    grad: Tensor,
    step: number,
    options: MomentOptions,
    gradScale: GradScale,
  ): void {
    const { lr, betas, eps, weightDecay } = options;
    const g = decayed(param, grad, gradScale, weightDecay);
    const m = average_(this.state(param, 'expAvg'), g, 1 - betas[0]);
    const u = this.state(param, 'expInf');
    copy_(u, maximum(mul(u, betas[1]), add(abs(g), eps)));
    copy_(param, sub(param, mul(div(m, u), lr / (1 - betas[0] ** step))));
  }
}

export interface NAdamOptions extends MomentOptions {
  /** Default 0.004. */
  momentumDecay: number;
}

/** Adam with Nesterov momentum (Dozat 2016). Default lr 2e-3. */
export class NAdam extends Optimizer<NAdamOptions> {
  /** Products of the momenta of steps 1 … t, by the options they depend on: groups may differ in them. */
  private readonly products = new Map<string, number[]>();

  constructor(params: OptimizedParameters<NAdamOptions>, options: Partial<NAdamOptions> = {}) {
    super(
      'NAdam',
      params,
      {
        lr: 2e-3,
        betas: [0.9, 0.999],
        eps: 1e-8,
        weightDecay: 0,
        momentumDecay: 0.004,
      },
      options,
    );
  }

  protected override stateNames(_param: Tensor, _options: NAdamOptions): readonly string[] {
    return ['expAvg', 'expAvgSq'];
  }

  protected override update(
    param: Tensor,
    grad: Tensor,
    step: number,
    options: NAdamOptions,
    gradScale: GradScale,
  ): void {
    const { lr, betas, eps, weightDecay, momentumDecay } = options;
    const g = decayed(param, grad, gradScale, weightDecay);
    const m = average_(this.state(param, 'expAvg'), g, 1 - betas[0]);
    const v = average_(this.state(param, 'expAvgSq'), mul(g, g), 1 - betas[1]);
    const mu = (t: number): number => betas[0] * (1 - 0.5 * 0.96 ** (t * momentumDecay));
    const key = `${betas[0]} ${momentumDecay}`;
    const products = this.products.get(key) ?? [1];
    this.products.set(key, products);
    for (let t = products.length; t <= step; t++) products.push(products[t - 1]! * mu(t));
    const product = products[step]!;
    const root = add(sqrt(mul(v, 1 / (1 - betas[1] ** step))), eps);
    const fromGradient = mul(div(g, root), (lr * (1 - mu(step))) / (1 - product));
    const fromMomentum = mul(div(m, root), (lr * mu(step + 1)) / (1 - product * mu(step + 1)));
    copy_(param, sub(sub(param, fromGradient), fromMomentum));
  }
}

/** Rectified Adam (Liu et al., arXiv 1908.03265). Default lr 1e-3. */
export class RAdam extends Optimizer<MomentOptions> {
  constructor(params: OptimizedParameters<MomentOptions>, options: Partial<MomentOptions> = {}) {
    super('RAdam', params, { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0 }, options);
  }

  protected override stateNames(_param: Tensor, _options: MomentOptions): readonly string[] {
    return ['expAvg', 'expAvgSq'];
  }

  protected override update(
    param: Tensor,
    grad: Tensor,
    step: number,
    options: MomentOptions,
    gradScale: GradScale,
  ): void {
    const { lr, betas, eps, weightDecay } = options;
    const g = decayed(param, grad, gradScale, weightDecay);
    const m = average_(this.state(param, 'expAvg'), g, 1 - betas[0]);
    const v = average_(this.state(param, 'expAvgSq'), mul(g, g), 1 - betas[1]);
    const corrected = mul(m, 1 / (1 - betas[0] ** step));
    const correction = 1 - betas[1] ** step;
    const longest = 2 / (1 - betas[1]) - 1;
    const length = longest - (2 * step * betas[1] ** step) / correction;
    if (length <= 5) {
      copy_(param, sub(param, mul(corrected, lr)));
      return;
    }
    const rectified = Math.sqrt(((length - 4) * (length - 2) * longest) / ((longest - 4) * (longest - 2) * length));
    const adaptive = div(Math.sqrt(correction), add(sqrt(v), eps));
    copy_(param, sub(param, mul(mul(corrected, adaptive), lr * rectified)));
  }
}

export interface AdafactorOptions extends OptimizerOptions {
  /** Exponent of the decay of the second moment's rate. Default -0.8. */
  beta2Decay: number;
  /** Lower bounds of squared gradient (null: the dtype's epsilon) and of a parameter's root mean square. Default [null, 1e-3]. */
  eps: readonly [number | null, number];
  /** Largest root mean square of an update. Default 1. */
  clipThreshold: number;
  /** Decoupled. Default 0. */
  weightDecay: number;
}

const lowerBounds: OptionCheck = (op, argument, value) => {
  const [first, second, ...more] = Array.isArray(value) ? (value as unknown[]) : [];
  const bound = (x: unknown): boolean => typeof x === 'number' && x >= 0 && x < Infinity;
  if (more.length === 0 && (first === null || bound(first)) && bound(second)) return;
  const expected = 'a number of at least 0 or null, and a number of at least 0';
  throw new AttributeError({ op, argument, expected, actual: formatValue(value) });
};

const rootMeanSquare = (x: Tensor): Tensor => mul(norm(x), 1 / Math.sqrt(x.size));

/**
 * Adafactor: second moments of matrices as the product of row and column means (Shazeer and Stern, arXiv 1804.04235), in
 * torch.optim's form: relative step sizes, no first moment. Default lr 1e-2.
 */
export class Adafactor extends Optimizer<AdafactorOptions> {
  constructor(params: OptimizedParameters<AdafactorOptions>, options: Partial<AdafactorOptions> = {}) {
    super(
      'Adafactor',
      params,
      {
        lr: 1e-2,
        beta2Decay: -0.8,
        eps: [null, 1e-3],
        clipThreshold: 1,
        weightDecay: 0,
      },
      options,
      { eps: lowerBounds, beta2Decay: (op, argument, value) => checkNumber(op, argument, value, -Number.MAX_VALUE, 0) },
    );
  }

  protected override stateNames(param: Tensor, _options: AdafactorOptions): readonly string[] {
    return param.rank > 1 ? ['rowVar', 'colVar'] : ['variance'];
  }

  protected override update(
    param: Tensor,
    grad: Tensor,
    step: number,
    options: AdafactorOptions,
    gradScale: GradScale,
  ): void {
    const { lr, beta2Decay, weightDecay, clipThreshold } = options;
    const eps = options.eps[0] ?? (param.dtype === 'float64' ? 2 ** -52 : 2 ** -23);
    const rate = step ** beta2Decay; // 1 − beta2
    const rho = Math.min(lr, 1 / Math.sqrt(step));
    const g = gradScale === 1 ? grad : mul(grad, gradScale);
    const alpha = mul(clamp(rootMeanSquare(param), options.eps[1]), rho);
    if (weightDecay !== 0) copy_(param, mul(param, 1 - lr * weightDecay));
    const direction = param.rank > 1 ? this.factored(param, g, rate, eps) : this.plain(param, g, rate, eps);
    const scale = div(alpha, clamp(mul(rootMeanSquare(direction), 1 / clipThreshold), 1));
    copy_(param, sub(param, mul(direction, scale)));
  }

  /** Means over the last axis, and over the one before it. */
  protected override stateShape(param: Tensor, name: string): readonly number[] {
    if (name === 'rowVar') return param.shape.slice(0, -1);
    return name === 'colVar' ? [...param.shape.slice(0, -2), ...param.shape.slice(-1)] : param.shape;
  }

  private plain(param: Tensor, g: Tensor, rate: number, eps: number): Tensor {
    const variance = average_(this.state(param, 'variance'), mul(g, g), rate);
    return mul(rsqrt(clamp(variance, eps * eps)), g);
  }

  private factored(param: Tensor, g: Tensor, rate: number, eps: number): Tensor {
    const squared = mul(g, g);
    const rowMean = mean(squared, -1);
    const columnMean = mean(squared, -2);
    const row = average_(this.state(param, 'rowVar'), rowMean, rate);
    const column = average_(this.state(param, 'colVar'), columnMean, rate);
    const scale = clamp(mean(row, -1, { keepDims: true }), eps);
    const variance = mul(unsqueeze(div(row, scale), -1), unsqueeze(column, -2));
    return mul(rsqrt(clamp(variance, eps * eps)), g);
  }
}
