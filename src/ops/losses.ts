/**
 * Losses, named and defined as in PyTorch. Where both operands are differentiable, both get gradients.
 *
 * @module
 */
import { ShapeError } from '../errors.js';
import { arange, constant } from '../tensor/create.js';
import { broadcastShapes, sameShape } from '../tensor/shape.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { checkBoolean, checkNumber, checkOneOf } from '../util/assert.js';
import { formatShape } from '../util/format.js';
import { softplus } from './activation.js';
import { add, div, maximum, mul, sub } from './arithmetic.js';
import { gt, lt } from './comparison.js';
import { to } from './copy.js';
import { crossEntropy, reduceLoss, reductions, wideOf, type Reduction } from './cross_entropy.js';
import { matmul } from './matmul.js';
import { normalize } from './norm.js';
import { recorded } from './recorded.js';
import { norm as vectorNorm, sum } from './reduce.js';
import { logSoftmax } from './softmax.js';
import { abs, clamp, exp, log, square } from './unary.js';
import { detach, transpose } from './views.js';
import { where } from './where.js';

/** Options shared by the losses. */
export interface LossOptions {
  /** Default `mean`. */
  readonly reduction?: Reduction;
}

function reductionOf(op: string, options: LossOptions): Reduction {
  return checkOneOf(op, 'reduction', options.reduction ?? 'mean', reductions);
}

/** Predictions and targets of a loss must have one shape: broadcasting there is nearly always a mistake. */
function checkSame(op: string, input: Tensor, target: Tensor): void {
  checkTensor(op, 'input', input);
  checkTensor(op, 'target', target);
  if (sameShape(input.shape, target.shape)) return;
  const expected = `shape ${formatShape(input.shape)}, as input has`;
  throw new ShapeError({
    op,
    argument: 'target',
    expected,
    actual: formatShape(target.shape),
    hint: 'Expand it if that is meant',
  });
}

/**
 * (input − target)².
 *
 * @shape both alike → a scalar, or the same for `reduction: 'none'`
 * @throws ShapeError if the shapes differ
 */
export function mseLoss(input: Tensor, target: Tensor, options: LossOptions = {}): Tensor {
  checkSame('mseLoss', input, target);
  return reduceLoss(square(sub(input, target)), reductionOf('mseLoss', options));
}

/**
 * |input − target|. The gradient at 0 is 0.
 *
 * @shape both alike → a scalar, or the same for `reduction: 'none'`
 * @throws ShapeError if the shapes differ
 */
export function l1Loss(input: Tensor, target: Tensor, options: LossOptions = {}): Tensor {
  checkSame('l1Loss', input, target);
  return reduceLoss(abs(sub(input, target)), reductionOf('l1Loss', options));
}

/** d²/2 where |d| < delta, else delta·(|d| − delta/2). Its slope is d limited to ±delta. */
function huber(name: string, difference: Tensor, delta: number): Tensor {
  return recorded(
    name,
    [difference],
    () => {
      const size = abs(difference);
      return where(lt(size, delta), mul(square(difference), 0.5), mul(sub(size, 0.5 * delta), delta));
    },
    () => [difference],
    (grad, [d]) => [mul(grad, clamp(d!, -delta, delta))],
  );
}

/** Options of a loss. */
export interface HuberOptions extends LossOptions {
  /** Where the parabola becomes a line. Default 1. */
  readonly delta?: number;
}

/**
 * d²/2 where |d| < delta, else delta·(|d| − delta/2), with d = input − target.
 *
 * @shape both alike → a scalar, or the same for `reduction: 'none'`
 * @throws ShapeError if the shapes differ
 * @throws AttributeError if delta is not positive
 */
export function huberLoss(input: Tensor, target: Tensor, options: HuberOptions = {}): Tensor {
  checkSame('huberLoss', input, target);
  const delta = checkNumber('huberLoss', 'delta', options.delta ?? 1, Number.MIN_VALUE);
  return reduceLoss(huber('huberLoss', sub(input, target), delta), reductionOf('huberLoss', options));
}

/** Options of a loss. */
export interface SmoothL1Options extends LossOptions {
  /** Where the parabola becomes a line; 0 gives {@link l1Loss}. Default 1. */
  readonly beta?: number;
}

/**
 * d²/(2·beta) where |d| < beta, else |d| − beta/2, with d = input − target.
 *
 * @shape both alike → a scalar, or the same for `reduction: 'none'`
 * @throws ShapeError if the shapes differ
 */
export function smoothL1Loss(input: Tensor, target: Tensor, options: SmoothL1Options = {}): Tensor {
  checkSame('smoothL1Loss', input, target);
  const beta = checkNumber('smoothL1Loss', 'beta', options.beta ?? 1, 0);
  if (beta === 0) return l1Loss(input, target, options);
  const losses = mul(huber('smoothL1Loss', sub(input, target), beta), 1 / beta);
  return reduceLoss(losses, reductionOf('smoothL1Loss', options));
}

/** Options of the binary cross-entropies. */
export interface BceOptions extends LossOptions {
  /** Weight of each element; broadcasts. */
  readonly weight?: Tensor | null;
  /** Weight of the positive term; broadcasts. */
  readonly posWeight?: Tensor | null;
}

/**
 * Binary cross-entropy of logits x and probabilities y: −(y·ln σ(x) + (1 − y)·ln(1 − σ(x))), without overflow.
 *
 * @shape both alike → a scalar, or the same for `reduction: 'none'`
 * @throws ShapeError if the shapes differ
 */
export function bceWithLogits(input: Tensor, target: Tensor, options: BceOptions = {}): Tensor {
  checkSame('bceWithLogits', input, target);
  // softplus(-x) = -ln σ(x), and -ln(1 - σ(x)) = x + softplus(-x)
  const negative = softplus(mul(input, -1), 1, Infinity);
  const share = options.posWeight ? add(mul(sub(options.posWeight, 1), target), 1) : null;
  const losses = add(mul(sub(1, target), input), share ? mul(share, negative) : negative);
  return reduceLoss(options.weight ? mul(losses, options.weight) : losses, reductionOf('bceWithLogits', options));
}

/**
 * Binary cross-entropy of probabilities, with logarithms kept above −100 as in PyTorch. Prefer {@link bceWithLogits}.
 *
 * @shape both alike → a scalar, or the same for `reduction: 'none'`
 * @throws ShapeError if the shapes differ
 */
export function binaryCrossEntropy(input: Tensor, target: Tensor, options: Omit<BceOptions, 'posWeight'> = {}): Tensor {
  checkSame('binaryCrossEntropy', input, target);
  const yes = mul(target, clamp(log(input), -100));
  const no = mul(sub(1, target), clamp(log(sub(1, input)), -100));
  const losses = mul(add(yes, no), -1);
  return reduceLoss(options.weight ? mul(losses, options.weight) : losses, reductionOf('binaryCrossEntropy', options));
}

/** {@link Reduction}, or the sum divided by the length of the first axis. */
export type KlReduction = Reduction | 'batchmean';

/** Options of a loss. */
export interface KlDivOptions {
  /** Default `mean`; the divergence of distributions, averaged over a batch, is `batchmean`. */
  readonly reduction?: KlReduction;
  /** The target, too, is given as logarithms. Default false. */
  readonly logTarget?: boolean;
}

/**
 * Kullback-Leibler divergence: target·(ln target − input), `input` being logarithms of probabilities, as from `logSoftmax`.
 *
 * @shape both alike → a scalar, or the same for `reduction: 'none'`
 * @throws ShapeError if the shapes differ
 */
export function klDiv(input: Tensor, target: Tensor, options: KlDivOptions = {}): Tensor {
  checkSame('klDiv', input, target);
  const reduction = checkOneOf('klDiv', 'reduction', options.reduction ?? 'mean', ['mean', 'sum', 'none', 'batchmean']);
  const losses = checkBoolean('klDiv', 'logTarget', options.logTarget ?? false)
    ? mul(exp(target), sub(target, input))
    : sub(entropyTerm(target), mul(target, input));
  if (reduction !== 'batchmean') return reduceLoss(losses, reduction);
  if (input.rank === 0)
    throw new ShapeError({ op: 'klDiv', argument: 'input', expected: 'a batch axis', actual: 'a scalar' });
  return div(sum(losses), input.shape[0]!);
}

/** t·ln t, and 0 for t = 0. */
function entropyTerm(target: Tensor): Tensor {
  const positive = gt(target, 0);
  return where(positive, mul(target, log(where(positive, target, 1))), 0);
}

/** Options of a loss. */
export interface DistillationOptions {
  /** Divides both logits. Default 2. */
  readonly temperature?: number;
  /** Share of the teacher's term, 0 to 1. Default 0.5. */
  readonly alpha?: number;
  /** Target that does not count in the cross-entropy. Default -100. */
  readonly ignoreIndex?: number;
}

/**
 * Knowledge distillation: alpha·T²·KL(softmax(teacher/T) ‖ softmax(student/T)), averaged over the rows, plus
 * (1 − alpha)·cross-entropy of the student. No gradient flows to the teacher.
 *
 * @param target - class numbers, or null for the teacher's term alone
 * @shape student, teacher: (…, V), target: (…) → a scalar
 * @dtype floats; computes in float32 (float64 in float64), and returns that
 * @throws ShapeError if the shapes differ
 * @source Hinton, Vinyals and Dean, arXiv 1503.02531
 */
export function distillationLoss(
  student: Tensor,
  teacher: Tensor,
  target: Tensor | null,
  options: DistillationOptions = {},
): Tensor {
  const op = 'distillationLoss';
  checkSame(op, student, teacher);
  const temperature = checkNumber(op, 'temperature', options.temperature ?? 2, Number.MIN_VALUE);
  const alpha = checkNumber(op, 'alpha', options.alpha ?? 0.5, 0, 1);
  const soften = (logits: Tensor): Tensor => logSoftmax(mul(to(logits, wideOf(logits.dtype)), 1 / temperature));
  const divergence = klDiv(soften(student), soften(detach(teacher)), { reduction: 'sum', logTarget: true });
  const rows = student.size / Math.max(student.shape.at(-1) ?? 1, 1);
  const fromTeacher = mul(divergence, (temperature * temperature) / rows);
  if (target === null) return mul(fromTeacher, alpha);
  const fromTarget = crossEntropy(student, target, { ignoreIndex: options.ignoreIndex ?? -100 });
  return add(mul(fromTeacher, alpha), mul(fromTarget, 1 - alpha));
}

/** Options of a loss. */
export interface CosineOptions {
  /** Default the last. */
  readonly axis?: number;
  /** Norms below it count as this. Default 1e-8. */
  readonly eps?: number;
}

/**
 * a·b / (|a|·|b|) along an axis.
 *
 * @shape a, b broadcast together → without the axis
 */
export function cosineSimilarity(a: Tensor, b: Tensor, options: CosineOptions = {}): Tensor {
  const { axis = -1, eps = 1e-8 } = options;
  checkTensor('cosineSimilarity', 'a', a);
  checkTensor('cosineSimilarity', 'b', b);
  checkNumber('cosineSimilarity', 'eps', eps, 0);
  broadcastShapes('cosineSimilarity', a.shape, b.shape);
  const length = (x: Tensor): Tensor => clamp(vectorNorm(x, 2, axis, { keepDims: true }), eps);
  return sum(mul(div(a, length(a)), div(b, length(b))), axis);
}

/**
 * The symmetric loss of CLIP: embeddings are brought to length 1, their similarities scaled by e^logScale, and each image must
 * find its text and each text its image.
 *
 * @param logScale - logarithm of the scale, one element
 * @shape images, texts: (B, D) → a scalar
 * @throws ShapeError if the shapes differ
 * @source arXiv 2103.00020, figure 3
 */
export function clipContrastive(images: Tensor, texts: Tensor, logScale: Tensor): Tensor {
  checkSame('clipContrastive', images, texts);
  if (images.rank !== 2) {
    throw new ShapeError({
      op: 'clipContrastive',
      argument: 'images',
      expected: 'shape [batch, width]',
      actual: formatShape(images.shape),
    });
  }
  const similarity = matmul(normalize(images), transpose(normalize(texts)));
  const logits = mul(similarity, exp(logScale));
  const pairs = arange(images.shape[0]!);
  return mul(add(crossEntropy(logits, pairs), crossEntropy(transpose(logits), pairs)), 0.5);
}

/** Options of a loss. */
export interface TripletOptions extends LossOptions {
  /** Default 1. */
  readonly margin?: number;
  /** Default 2. */
  readonly p?: number;
}

/**
 * max(|anchor − positive| − |anchor − negative| + margin, 0), with p-norms along the last axis.
 *
 * @shape all alike, (…, D) → a scalar, or (…) for `reduction: 'none'`
 * @throws ShapeError if the shapes differ
 */
export function tripletMarginLoss(
  anchor: Tensor,
  positive: Tensor,
  negative: Tensor,
  options: TripletOptions = {},
): Tensor {
  const op = 'tripletMarginLoss';
  checkSame(op, anchor, positive);
  checkSame(op, anchor, negative);
  const { margin = 1, p = 2 } = options;
  const distance = (x: Tensor): Tensor => vectorNorm(add(sub(anchor, x), 1e-6), p, -1);
  const excess = add(sub(distance(positive), distance(negative)), checkNumber(op, 'margin', margin));
  return reduceLoss(maximum(excess, constant(0, excess.dtype)), reductionOf(op, options));
}
