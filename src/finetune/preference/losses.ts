/**
 * Objectives of preference tuning, as functions of the log-probabilities of answers.
 */
import { ShapeError } from '../../errors.js';
import { logSigmoid, sigmoid } from '../../ops/activation.js';
import { add, mul, sub } from '../../ops/arithmetic.js';
import { mean } from '../../ops/reduce.js';
import { clamp, expm1, log, neg, square } from '../../ops/unary.js';
import { detach } from '../../ops/views.js';
import { where } from '../../ops/where.js';
import { constant } from '../../tensor/create.js';
import { scope } from '../../tensor/scope.js';
import { sameShape } from '../../tensor/shape.js';
import { checkTensor, type Tensor } from '../../tensor/tensor.js';
import { checkKeys, checkNumber, checkOneOf } from '../../util/assert.js';
import { formatShape } from '../../util/format.js';

/** Log-probabilities of the two answers of each pair: `[N]` each. */
export interface PairLogProbs {
  readonly chosen: Tensor;
  readonly rejected: Tensor;
}

/** @throws ShapeError unless all tensors are of one shape, with one axis */
function checkVectors(op: string, tensors: Readonly<Record<string, Tensor>>): void {
  let shape: readonly number[] | null = null;
  for (const [argument, value] of Object.entries(tensors)) {
    checkTensor(op, argument, value);
    shape ??= value.shape;
    if (value.rank === 1 && sameShape(value.shape, shape)) continue;
    const expected = shape.length === 1 ? formatShape(shape) : 'one axis';
    throw new ShapeError({ op, argument, expected, actual: formatShape(value.shape) });
  }
}

/** Options of {@link dpoLoss}. */
export interface DpoLossOptions {
  /** How strongly the reference holds (β). Default 0.1. */
  readonly beta?: number;
  /** Probability that a pair's verdict is wrong: conservative DPO. For `sigmoid` only; from 0 to below 0.5. Default 0. */
  readonly labelSmoothing?: number;
  /**
   * `sigmoid`: DPO. `ipo`: (Δ − 1/(2β))², which stays bounded where verdicts never differ. Default `sigmoid`.
   */
  readonly variant?: 'sigmoid' | 'ipo';
}

/** @internal */
export const dpoLossKeys = ['beta', 'labelSmoothing', 'variant'];

/**
 * Direct preference optimisation: −ln σ(βΔ), with Δ = (ln π(chosen) − ln π_ref(chosen)) − (ln π(rejected) − ln π_ref(rejected)),
 * averaged. With `labelSmoothing` ε it is −(1 − ε) ln σ(βΔ) − ε ln σ(−βΔ); the variant `ipo` is (Δ − 1/(2β))².
 *
 * Shapes: log-probabilities (summed over an answer's tokens) `[N]` → a scalar.
 *
 * @throws ShapeError if they differ in shape
 * @throws AttributeError if an option cannot be
 * @source Rafailov et al. 2023, arXiv 2305.18290, eq. 7; cDPO: Mitchell 2023, "A note on DPO with noisy preferences"; IPO: Azar et
 * al. 2023, arXiv 2310.12036, eq. 17
 */
export function dpoLoss(policy: PairLogProbs, reference: PairLogProbs, options: DpoLossOptions = {}): Tensor {
  const op = 'dpoLoss';
  checkKeys(op, options, dpoLossKeys);
  const beta = checkNumber(op, 'beta', options.beta ?? 0.1, 0, Number.MAX_VALUE);
  const smoothing = checkNumber(op, 'labelSmoothing', options.labelSmoothing ?? 0, 0, 0.5);
  const variant = checkOneOf(op, 'variant', options.variant ?? 'sigmoid', ['sigmoid', 'ipo']);
  checkVectors(op, {
    'policy.chosen': policy.chosen,
    'policy.rejected': policy.rejected,
    'reference.chosen': reference.chosen,
    'reference.rejected': reference.rejected,
  });
  return scope(() => {
    const logits = sub(
      sub(policy.chosen, policy.rejected),
      detach(sub(detach(reference.chosen), detach(reference.rejected))),
    );
    if (variant === 'ipo') return mean(square(sub(logits, 1 / (2 * beta))));
    const scaled = mul(logits, beta);
    const kept = mul(logSigmoid(scaled), smoothing - 1);
    return mean(smoothing === 0 ? kept : sub(kept, mul(logSigmoid(neg(scaled)), smoothing)));
  });
}

/** Above it a probability counts as this: the odds of a certain answer are infinite. */
const MOST_LOG_PROB = -1e-7;

/** ln(p / (1 − p)) from ln p. */
function logOdds(logProbs: Tensor): Tensor {
  const x = clamp(logProbs, undefined, MOST_LOG_PROB);
  return sub(x, log(neg(expm1(x))));
}

/** Options of {@link orpoLoss}. */
export interface OrpoLossOptions {
  /** Weight of the odds ratio against the likelihood (λ). Default 0.1. */
  readonly lambda?: number;
}

/** @internal */
export const orpoLossKeys = ['lambda'];

/**
 * Odds-ratio preference optimisation: the likelihood loss of the chosen answers plus λ · −ln σ(ln odds(chosen) − ln odds(rejected)), with
 * odds = p/(1 − p) of the geometric mean p of an answer's token probabilities. It needs no reference.
 *
 * Shapes: log-probabilities, averaged over an answer's tokens, `[N]`; `nll`, the mean loss of the chosen answers' tokens, a scalar → a
 * scalar.
 *
 * @throws ShapeError if they differ in shape
 * @source Hong et al. 2024, arXiv 2403.07691, eq. 6 and 7
 */
export function orpoLoss(averages: PairLogProbs, nll: Tensor, options: OrpoLossOptions = {}): Tensor {
  const op = 'orpoLoss';
  checkKeys(op, options, orpoLossKeys);
  const lambda = checkNumber(op, 'lambda', options.lambda ?? 0.1, 0, Number.MAX_VALUE);
  checkVectors(op, { 'averages.chosen': averages.chosen, 'averages.rejected': averages.rejected });
  return scope(() => {
    const ratio = sub(logOdds(averages.chosen), logOdds(averages.rejected));
    return add(nll, mul(mean(logSigmoid(ratio)), -lambda));
  });
}

/** Options of {@link simpoLoss}. */
export interface SimpoLossOptions {
  /** Scale of the reward (β). Default 2. */
  readonly beta?: number;
  /** By how much the chosen reward should be higher (γ). Default 1. */
  readonly gamma?: number;
}

/** @internal */
export const simpoLossKeys = ['beta', 'gamma'];

/**
 * Simple preference optimisation: −ln σ(β · (mean ln π(chosen) − mean ln π(rejected)) − γ), without a reference.
 *
 * Shapes: log-probabilities, averaged over an answer's tokens, `[N]` → a scalar.
 *
 * @throws ShapeError if they differ in shape
 * @source Meng et al. 2024, arXiv 2405.14734, eq. 6
 */
export function simpoLoss(averages: PairLogProbs, options: SimpoLossOptions = {}): Tensor {
  const op = 'simpoLoss';
  checkKeys(op, options, simpoLossKeys);
  const beta = checkNumber(op, 'beta', options.beta ?? 2, 0, Number.MAX_VALUE);
  const gamma = checkNumber(op, 'gamma', options.gamma ?? 1, 0, Number.MAX_VALUE);
  checkVectors(op, { 'averages.chosen': averages.chosen, 'averages.rejected': averages.rejected });
  return scope(() => neg(mean(logSigmoid(sub(mul(sub(averages.chosen, averages.rejected), beta), gamma)))));
}

/** What {@link ktoLoss} works on. */
export interface KtoInputs {
  /** Log-probabilities of the answers, `[N]`. */
  readonly policy: Tensor;
  readonly reference: Tensor;
  /** Whether each answer is a good one, `[N]` bool. */
  readonly desirable: Tensor;
  /** Log-probabilities of answers to other prompts, `[M]`: the reference point is estimated from them. */
  readonly mismatched: { readonly policy: Tensor; readonly reference: Tensor };
}

/** Options of {@link ktoLoss}. */
export interface KtoLossOptions {
  /** How strongly the reference holds (β). Default 0.1. */
  readonly beta?: number;
  /** Weight of good answers (λ_D). Default 1; with n_D good and n_U bad ones, λ_D·n_D / (λ_U·n_U) should be from 1 to 4/3. */
  readonly desirableWeight?: number;
  /** Weight of bad answers (λ_U). Default 1. */
  readonly undesirableWeight?: number;
}

/** @internal */
export const ktoLossKeys = ['beta', 'desirableWeight', 'undesirableWeight'];

/**
 * Kahneman–Tversky optimisation: λ_D · (1 − σ(β(r − z))) for good answers and λ_U · (1 − σ(β(z − r))) for bad ones, averaged, with
 * r = ln π(y|x) − ln π_ref(y|x) and the reference point z = max(0, mean of r over mismatched pairs), which gets no gradient.
 *
 * Shapes: `[N]` and `[M]` → a scalar.
 *
 * @throws ShapeError if they differ in shape
 * @source Ethayarajh et al. 2024, arXiv 2402.01306, eq. 8 and §4.1
 */
export function ktoLoss(inputs: KtoInputs, options: KtoLossOptions = {}): Tensor {
  const op = 'ktoLoss';
  checkKeys(op, options, ktoLossKeys);
  const beta = checkNumber(op, 'beta', options.beta ?? 0.1, 0, Number.MAX_VALUE);
  const good = checkNumber(op, 'desirableWeight', options.desirableWeight ?? 1, 0, Number.MAX_VALUE);
  const bad = checkNumber(op, 'undesirableWeight', options.undesirableWeight ?? 1, 0, Number.MAX_VALUE);
  const { policy, reference, desirable, mismatched } = inputs;
  checkVectors(op, { policy, reference, desirable });
  checkVectors(op, { 'mismatched.policy': mismatched.policy, 'mismatched.reference': mismatched.reference });
  return scope(() => {
    const point = clamp(mean(sub(detach(mismatched.policy), detach(mismatched.reference))), 0);
    const gain = mul(sub(sub(policy, detach(reference)), point), beta);
    const towards = where(desirable, gain, neg(gain));
    const weights = where(desirable, constant(good, gain.dtype), constant(bad, gain.dtype));
    return mean(mul(weights, sigmoid(neg(towards))));
  });
}

/** Options of {@link bradleyTerryLoss}. */
export interface BradleyTerryOptions {
  /** By how much the chosen reward should be higher: a number, or `[N]`. Default 0. */
  readonly margin?: Tensor | number;
  /** Weight of (chosen + rejected)², which keeps the rewards around zero. Default 0. */
  readonly centering?: number;
}

/**
 * The loss of a reward model on pairs: −ln σ(chosen − rejected − margin), averaged.
 *
 * Shapes: rewards `[N]` → a scalar.
 *
 * @throws ShapeError if they differ in shape
 * @source Ouyang et al. 2022, arXiv 2203.02155, eq. 1; margin: Touvron et al. 2023, arXiv 2307.09288, eq. 2; centering: Eisenstein
 * et al. 2023, arXiv 2312.09244, §3
 */
export function bradleyTerryLoss(rewards: PairLogProbs, options: BradleyTerryOptions = {}): Tensor {
  const op = 'bradleyTerryLoss';
  checkKeys(op, options, ['margin', 'centering']);
  const { margin = 0 } = options;
  if (typeof margin === 'number') checkNumber(op, 'margin', margin);
  const centering = checkNumber(op, 'centering', options.centering ?? 0, 0, Number.MAX_VALUE);
  const { chosen, rejected } = rewards;
  checkVectors(op, { chosen, rejected, ...(typeof margin === 'number' ? {} : { margin }) });
  return scope(() => {
    const loss = neg(mean(logSigmoid(sub(sub(chosen, rejected), margin))));
    return centering === 0 ? loss : add(loss, mul(mean(square(add(chosen, rejected))), centering));
  });
}
