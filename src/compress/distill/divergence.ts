/**
 * How far a student's predictions are from a teacher's: divergences of logits, row by row.
 *
 * @module
 */
import { DTypeError, ShapeError } from '../../errors.js';
import { add, div, mul, sub } from '../../ops/arithmetic.js';
import { gt, ne } from '../../ops/comparison.js';
import { contiguous, to } from '../../ops/copy.js';
import { crossEntropy, wideOf, type Reduction } from '../../ops/cross_entropy.js';
import { argmax, sum } from '../../ops/reduce.js';
import { logSoftmax } from '../../ops/softmax.js';
import { exp, log } from '../../ops/unary.js';
import { detach, reshape } from '../../ops/views.js';
import { where } from '../../ops/where.js';
import { noGrad } from '../../autograd/grad.js';
import { scope } from '../../tensor/scope.js';
import { sameShape } from '../../tensor/shape.js';
import { checkTensor, type Tensor } from '../../tensor/tensor.js';
import { checkInteger, checkKeys, checkNumber, checkOneOf } from '../../util/assert.js';
import { formatShape } from '../../util/format.js';

/**
 * What is made small, p being the teacher's distribution and q the student's.
 *
 * - `forward`: KL(p ‖ q), Hinton's soft targets: q must cover all that p does.
 * - `reverse`: KL(q ‖ p): q keeps to what p finds likely, and may leave something out. It is taken token by token, the single-step part
 *   of MiniLLM's objective; on batches that the student writes, GKD's form of it.
 * - `jensenShannon`: β·KL(p ‖ m) + (1 − β)·KL(q ‖ m) with m = β·p + (1 − β)·q, bounded, between the two.
 * - `hard`: cross-entropy with the class that the teacher finds likeliest. No temperature.
 */
export type DivergenceKind = 'forward' | 'reverse' | 'jensenShannon' | 'hard';
const kinds: readonly DivergenceKind[] = ['forward', 'reverse', 'jensenShannon', 'hard'];

/** Which divergence, and of what. */
export interface DivergenceChoice {
  /** Default `forward`. */
  readonly divergence?: DivergenceKind;
  /** Of `jensenShannon`, above 0 and below 1: near 0 it acts as the forward divergence, near 1 as the reverse one. Default 0.5. */
  readonly beta?: number;
  /** Divides both logits; the divergence is multiplied by its square, so that gradients keep their size. Default 2. */
  readonly temperature?: number;
}

/** @internal */
export const choiceKeys = ['divergence', 'beta', 'temperature'];

/** A {@link DivergenceChoice} with defaults. */
export type ResolvedDivergence = Required<DivergenceChoice>;

/** @internal @throws AttributeError naming the option that cannot be */
export function checkChoice(op: string, options: DivergenceChoice): ResolvedDivergence {
  const divergence = checkOneOf(op, 'divergence', options.divergence ?? 'forward', kinds);
  const beta = checkNumber(op, 'beta', options.beta ?? 0.5, Number.EPSILON, 1 - Number.EPSILON);
  const temperature = checkNumber(op, 'temperature', options.temperature ?? 2, 1e-3, 1e6);
  return { divergence, beta, temperature };
}

/** Σ a·(ln a − ln b) along the last axis; nothing where a is 0. */
function relativeEntropy(a: Tensor, logA: Tensor, logB: Tensor): Tensor {
  return sum(mul(a, where(gt(a, 0), sub(logA, logB), 0)), -1);
}

/** @internal The divergence of rows of log-probabilities, without the temperature's square: `[N, C]` twice → `[N]`. */
export function rowDivergence(student: Tensor, teacher: Tensor, { divergence, beta }: ResolvedDivergence): Tensor {
  const p = exp(teacher);
  if (divergence === 'forward') return relativeEntropy(p, teacher, student);
  const q = exp(student);
  if (divergence === 'reverse') return relativeEntropy(q, student, teacher);
  const mixture = add(mul(p, beta), mul(q, 1 - beta));
  const logMixture = log(where(gt(mixture, 0), mixture, 1));
  return add(
    mul(relativeEntropy(p, teacher, logMixture), beta),
    mul(relativeEntropy(q, student, logMixture), 1 - beta),
  );
}

/** @internal Log-probabilities at a temperature, in the dtype that losses are computed in. */
export function softened(logits: Tensor, temperature: number): Tensor {
  return logSoftmax(mul(to(logits, wideOf(logits.dtype)), 1 / temperature));
}

/** @internal The divergence of each row of logits, times the temperature's square: `[N, V]` twice → `[N]`. */
export function rowLosses(student: Tensor, teacher: Tensor, choice: ResolvedDivergence): Tensor {
  if (choice.divergence === 'hard') {
    const classes = noGrad(() => argmax(detach(teacher), -1));
    return crossEntropy(student, classes, { reduction: 'none' });
  }
  const { temperature } = choice;
  const target = noGrad(() => softened(detach(teacher), temperature));
  return mul(rowDivergence(softened(student, temperature), target, choice), temperature ** 2);
}

/** @internal @throws DTypeError, ShapeError unless targets are class numbers of that shape */
export function checkTarget(op: string, target: Tensor | null | undefined, outer: readonly number[]): Tensor | null {
  if (target === null || target === undefined) return null;
  checkTensor(op, 'target', target);
  if (target.dtype !== 'int32' && target.dtype !== 'int64') {
    throw new DTypeError({ op, argument: 'target', expected: 'int32 or int64', actual: target.dtype });
  }
  if (!sameShape(target.shape, outer)) {
    const [expected, actual] = [`shape ${formatShape(outer)}`, formatShape(target.shape)];
    throw new ShapeError({ op, argument: 'target', expected, actual });
  }
  return target;
}

/** @internal @throws ShapeError unless teacher and student speak of the same classes and rows */
export function checkLogits(op: string, student: Tensor, teacher: Tensor): void {
  checkTensor(op, 'student', student);
  checkTensor(op, 'teacher', teacher);
  const argument = 'teacher';
  if (student.rank === 0) {
    throw new ShapeError({ op, argument: 'student', expected: 'at least 1 axis', actual: 'a scalar' });
  }
  if (student.shape.at(-1) !== teacher.shape.at(-1)) {
    const expected = `${student.shape.at(-1)} classes, as the student has`;
    const hint = 'Teacher and student need one vocabulary: the same tokenizer, and tables of the same size';
    throw new ShapeError({ op, argument, expected, actual: `${teacher.shape.at(-1) ?? 'no axis'}`, hint });
  }
  if (sameShape(student.shape, teacher.shape)) return;
  const expected = `shape ${formatShape(student.shape)}, as student has`;
  throw new ShapeError({ op, argument, expected, actual: formatShape(teacher.shape) });
}

/** @internal Losses of the rows that do not count as 0. */
export function onlyCounted(losses: Tensor, target: Tensor | null, ignoreIndex: number): Tensor {
  return target === null ? losses : where(ne(target, ignoreIndex), losses, 0);
}

/** @internal How many rows count: a number, or a scalar of the losses' dtype. */
export function countOf(
  rows: number,
  target: Tensor | null,
  ignoreIndex: number,
  dtype: Tensor['dtype'],
): Tensor | number {
  return target === null ? rows : noGrad(() => sum(to(ne(target, ignoreIndex), dtype)));
}

/** Options of {@link distillationDivergence}. */
export interface DivergenceOptions extends DivergenceChoice {
  /** Class numbers, `[…]`: rows whose target is `ignoreIndex` do not count. Default: all rows count. */
  readonly target?: Tensor | null;
  /** Default -100. */
  readonly ignoreIndex?: number;
  /** Default `mean`, over the rows that count. */
  readonly reduction?: Reduction;
}

/**
 * The divergence of a student's predictions from a teacher's, times the square of the temperature. No gradient flows to the teacher. A
 * class of probability 0 (a logit of −∞) adds nothing where 0·ln 0 would stand. If no row counts, the mean is NaN.
 *
 * @shape student, teacher: (…, V), target: (…) → a scalar, or (…) for `reduction: 'none'`
 * @dtype floats; computes in float32 (float64 in float64), and returns that
 * @throws ShapeError if the shapes, the numbers of classes among them, differ
 * @throws AttributeError if an option is outside its domain
 * @source forward: Hinton et al., arXiv 1503.02531; reverse: MiniLLM, 2306.08543; Jensen–Shannon and its limits: GKD, 2306.13649,
 * eq. 1 and appendix A; hard: Kim and Rush, 1606.07947, §3
 * @example
 * ```ts
 * const loss = distillationDivergence(student.forward(x), teacherLogits, { divergence: 'reverse', temperature: 1, target: y });
 * ```
 */
export function distillationDivergence(student: Tensor, teacher: Tensor, options: DivergenceOptions = {}): Tensor {
  const op = 'distillationDivergence';
  checkKeys(op, options, [...choiceKeys, 'target', 'ignoreIndex', 'reduction']);
  const choice = checkChoice(op, options);
  checkLogits(op, student, teacher);
  const outer = student.shape.slice(0, -1);
  const classes = student.shape.at(-1)!;
  const target = checkTarget(op, options.target, outer);
  const ignoreIndex = checkInteger(op, 'ignoreIndex', options.ignoreIndex ?? -100);
  const reduction = checkOneOf(op, 'reduction', options.reduction ?? 'mean', ['mean', 'sum', 'none']);
  return scope(() => {
    const rows = outer.reduce((a, b) => a * b, 1);
    const flat = target === null ? null : reshape(contiguous(target), [rows]);
    const matrix = (x: Tensor): Tensor => reshape(x, [rows, classes]);
    const losses = onlyCounted(rowLosses(matrix(student), matrix(teacher), choice), flat, ignoreIndex);
    if (reduction === 'none') return reshape(losses, outer);
    const total = sum(losses);
    return reduction === 'sum' ? total : div(total, countOf(rows, flat, ignoreIndex, total.dtype));
  });
}
