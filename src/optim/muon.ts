/**
 * Muon: momentum, made orthogonal.
 *
 * @module
 */
import { AttributeError, ShapeError } from '../errors.js';
import { add, div, mul, sub } from '../ops/arithmetic.js';
import { copy_ } from '../ops/copy.js';
import { matmul } from '../ops/matmul.js';
import { norm } from '../ops/reduce.js';
import { clamp } from '../ops/unary.js';
import { transpose } from '../ops/views.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkBoolean, checkInteger, checkNumber, checkOneOf } from '../util/assert.js';
import { formatShape, formatValue } from '../util/format.js';
import { submitAdamStep } from './adam.js';
import type { OptimizedParameters, OptimizerOptions, OptionCheck } from './groups.js';
import { Optimizer, type GradScale } from './optimizer.js';

/** Options of {@link Muon}. */
export interface MuonOptions extends OptimizerOptions {
  /** Decoupled. Default 0.1. */
  weightDecay: number;
  /** Decay rate of the mean gradient. Default 0.95. */
  momentum: number;
  /** Look one step ahead. Default true. */
  nesterov: boolean;
  /** Coefficients of x, x³ and x⁵. Default [3.4445, -4.775, 2.0315]. */
  nsCoefficients: readonly [number, number, number];
  /** Newton–Schulz iterations. Default 5. */
  nsSteps: number;
  /** Least norm that the momentum is divided by. Default 1e-7. */
  eps: number;
  /**
   * What the rate of a matrix is multiplied by: √max(1, rows/columns) (`original`), 0.2·√max(rows, columns) so that updates are as
   * large as AdamW's and its rates and decay can be kept (`matchRmsAdamW`; Liu et al., arXiv 2502.16982), or 1 (`none`). Default
   * `original`.
   */
  adjustLr: 'original' | 'matchRmsAdamW' | 'none';
  /** Whether the group takes Muon's steps, or AdamW's: for vectors, embeddings and the output layer. Default true. */
  useMuon: boolean;
  /** Of AdamW's groups. Default [0.9, 0.95]. */
  betas: readonly [number, number];
  /** Of AdamW's groups. Default 1e-10. */
  adamEps: number;
}

const threeNumbers: OptionCheck = (op, argument, value) => {
  const isTriple = Array.isArray(value) && value.length === 3 && value.every((x) => Number.isFinite(x));
  if (!isTriple) throw new AttributeError({ op, argument, expected: 'three numbers', actual: formatValue(value) });
};

/**
 * The matrix of the same singular vectors whose singular values are near 1 (about 0.7 to 1.2, with the default coefficients): `steps`
 * times x ← a·x + (b·xxᵀ + c·(xxᵀ)²)x, from x divided by its norm. Computed along the shorter side.
 *
 * @shape x: (rows, columns) → (rows, columns)
 * @dtype float32, float64 → same
 * @throws ShapeError unless `x` is a matrix
 * @source Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; Björck and Bowie 1971
 */
export function orthogonalize(
  x: Tensor,
  options: Partial<Pick<MuonOptions, 'nsCoefficients' | 'nsSteps' | 'eps'>> = {},
): Tensor {
  if (x.rank !== 2) {
    throw new ShapeError({ op: 'orthogonalize', argument: 'x', expected: 'a matrix', actual: formatShape(x.shape) });
  }
  const { nsCoefficients: [a, b, c] = [3.4445, -4.775, 2.0315], nsSteps = 5, eps = 1e-7 } = options;
  const isTall = x.shape[0]! > x.shape[1]!;
  let y = isTall ? transpose(x) : x;
  y = div(y, clamp(norm(y), eps));
  for (let i = 0; i < nsSteps; i++) {
    const gram = matmul(y, transpose(y));
    const update = add(mul(gram, b), mul(matmul(gram, gram), c));
    y = add(mul(y, a), matmul(update, y));
  }
  return isTall ? transpose(y) : y;
}

/**
 * Muon, as torch.optim.Muon: the momentum of a matrix, made orthogonal by five Newton–Schulz iterations, is the step. For the
 * matrices of hidden layers; groups with `useMuon: false` take AdamW's steps ({@link muonGroups} tells the parameters apart).
 * The iterations run in float32 (float64 for float64), where PyTorch rounds to bfloat16. Default lr 1e-3.
 *
 * @example
 * ```ts
 * new og.optim.Muon(og.optim.muonGroups(model, { lr: 0.02, adamLr: 3e-4 }));
 * ```
 * @throws ShapeError for a parameter of a Muon group that is not a matrix
 * @source Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; scale of the rate: Liu et al., arXiv 2502.16982, §2.2
 */
export class Muon extends Optimizer<MuonOptions> {
  constructor(params: OptimizedParameters<MuonOptions>, options: Partial<MuonOptions> = {}) {
    const defaults: MuonOptions = {
      lr: 1e-3,
      weightDecay: 0.1,
      momentum: 0.95,
      nesterov: true,
      nsCoefficients: [3.4445, -4.775, 2.0315],
      nsSteps: 5,
      eps: 1e-7,
      adjustLr: 'original',
      useMuon: true,
      betas: [0.9, 0.95],
      adamEps: 1e-10,
    };
    super('Muon', params, defaults, options, {
      nsCoefficients: threeNumbers,
      nsSteps: (op, argument, value) => checkInteger(op, argument, value, 0, 99),
      momentum: (op, argument, value) => checkNumber(op, argument, value, 0, 1),
      adjustLr: (op, argument, value) => checkOneOf(op, argument, value, ['original', 'matchRmsAdamW', 'none']),
      useMuon: (op, argument, value) => checkBoolean(op, argument, value),
      adamEps: (op, argument, value) => checkNumber(op, argument, value, 0, Number.MAX_VALUE),
    });
    for (const group of this.groups) {
      const wrong = group.useMuon ? group.params.find((param) => param.rank !== 2) : undefined;
      if (wrong === undefined) continue;
      throw new ShapeError({
        op: 'Muon',
        argument: 'params',
        expected: 'matrices',
        actual: formatShape(wrong.shape),
        hint: 'Put other parameters into a group with useMuon: false, as muonGroups does',
      });
    }
  }

  protected override stateNames(_param: Tensor, options: MuonOptions): readonly string[] {
    return options.useMuon ? ['momentumBuffer'] : ['expAvg', 'expAvgSq'];
  }

  protected override update(
    param: Tensor,
    grad: Tensor,
    step: number,
    options: MuonOptions,
    gradScale: GradScale,
  ): void {
    if (!options.useMuon) {
      this.adamStep(param, grad, step, options, gradScale);
      return;
    }
    const { lr, weightDecay, momentum, nesterov, adjustLr } = options;
    const [rows, columns] = param.shape as [number, number];
    const buffer = this.state(param, 'momentumBuffer');
    const g = gradScale === 1 ? grad : mul(grad, gradScale);
    copy_(buffer, add(mul(buffer, momentum), mul(g, 1 - momentum)));
    const direction = nesterov ? add(mul(g, 1 - momentum), mul(buffer, momentum)) : buffer;
    const scales = {
      original: Math.sqrt(Math.max(1, rows / columns)),
      matchRmsAdamW: 0.2 * Math.sqrt(Math.max(rows, columns)),
      none: 1,
    };
    const change = mul(orthogonalize(direction, options), lr * scales[adjustLr]);
    copy_(param, sub(mul(param, 1 - lr * weightDecay), change));
  }

  private adamStep(param: Tensor, grad: Tensor, step: number, options: MuonOptions, gradScale: GradScale): void {
    const { lr, betas, adamEps, weightDecay } = options;
    const [factor, scale] = this.kernelScale(gradScale, param);
    const corrections = [1 - betas[0] ** step, 1 - betas[1] ** step];
    submitAdamStep(
      factor,
      [grad],
      [[param], [this.state(param, 'expAvg')], [this.state(param, 'expAvgSq')]],
      [lr, betas[0], betas[1], adamEps, weightDecay, ...corrections, scale, 1],
    );
  }
}
