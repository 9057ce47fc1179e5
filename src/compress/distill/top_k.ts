/**
 * A teacher's predictions as its k likeliest classes and one bucket for all others: what is kept on disk, and how a student compares.
 *
 * @module
 */
import { ShapeError } from '../../errors.js';
import { noGrad } from '../../autograd/grad.js';
import { mul, sub } from '../../ops/arithmetic.js';
import { to } from '../../ops/copy.js';
import { crossEntropy, wideOf } from '../../ops/cross_entropy.js';
import { gather, scatter } from '../../ops/indexing.js';
import { concat } from '../../ops/join.js';
import { logSoftmax, logsumexp } from '../../ops/softmax.js';
import { topk } from '../../ops/sorting.js';
import { detach, narrow, select, unsqueeze } from '../../ops/views.js';
import { scope } from '../../tensor/scope.js';
import { sameShape } from '../../tensor/shape.js';
import { checkTensor, type Tensor } from '../../tensor/tensor.js';
import { checkInteger } from '../../util/assert.js';
import { formatShape } from '../../util/format.js';
import { rowDivergence, softened, type ResolvedDivergence } from './divergence.js';

/** A teacher's k likeliest classes, the likeliest first, at one temperature. */
export interface TopKPredictions {
  /** Class numbers, int32 `[…, k]`. */
  readonly indices: Tensor;
  /** Their log-probabilities (nats), `[…, k]`. */
  readonly logProbs: Tensor;
  /** Log-probability of all other classes together, `[…]`; −∞ if there are none. */
  readonly rest: Tensor;
}

/**
 * The k likeliest classes of rows of logits, at a temperature: what a cache keeps of a teacher.
 *
 * Shapes: logits `[…, V]` → indices int32 and log-probabilities `[…, k]`, the others' share `[…]`.
 *
 * @throws AttributeError if k is not from 1 to V
 */
export function topKOf(logits: Tensor, k: number, temperature = 1): TopKPredictions {
  checkTensor('topKOf', 'logits', logits);
  checkInteger('topKOf', 'k', k, 1, logits.shape.at(-1) ?? 0);
  return scope(() =>
    noGrad(() => {
      const scores = softened(detach(logits), temperature);
      const { values, indices } = topk(scores, k);
      const rest = logsumexp(scatter(scores, -1, indices, -Infinity), -1);
      return { indices: to(indices, 'int32'), logProbs: values, rest };
    }),
  );
}

/** @internal @throws ShapeError unless the predictions are of these rows */
export function checkTopK(op: string, teacher: TopKPredictions, outer: readonly number[], classes: number): void {
  const { indices, logProbs, rest } = teacher;
  const k = indices.shape.at(-1) ?? 0;
  const fits =
    sameShape(indices.shape, [...outer, k]) &&
    sameShape(logProbs.shape, [...outer, k]) &&
    sameShape(rest.shape, outer) &&
    k >= 1 &&
    k <= classes;
  if (fits) return;
  const expected = `indices and logProbs [${[...outer, 'k'].join(', ')}] of ${classes} classes, and rest ${formatShape(outer)}`;
  const actual = [indices, logProbs, rest].map(({ shape }) => formatShape(shape)).join(', ');
  throw new ShapeError({ op, argument: 'teacher', expected, actual });
}

/**
 * @internal The divergence of each row over k + 1 buckets, times the temperature's square: logits `[N, V]`, predictions of N rows →
 * `[N]`. Merging classes never makes a divergence larger, so it is at most the one over all classes, and equal to it for k = V.
 */
export function topKLosses(student: Tensor, teacher: TopKPredictions, choice: ResolvedDivergence): Tensor {
  const { indices, logProbs, rest } = teacher;
  if (choice.divergence === 'hard') return crossEntropy(student, select(indices, 1, 0), { reduction: 'none' });
  const { temperature } = choice;
  const wide = wideOf(student.dtype);
  const isAll = indices.shape[1] === student.shape[1];
  const target = noGrad(() => {
    const top = to(detach(logProbs), wide);
    // rounded to 16 bits, they no longer sum to one quite
    return logSoftmax(isAll ? top : concat([top, unsqueeze(to(detach(rest), wide), 1)], 1));
  });
  const scaled = mul(to(student, wide), 1 / temperature);
  const others = isAll ? [] : [logsumexp(scatter(scaled, 1, indices, -Infinity), 1, { keepDims: true })];
  const all = logsumexp(scaled, 1, { keepDims: true });
  const buckets = sub(concat([gather(scaled, 1, indices), ...others], 1), all);
  return mul(rowDivergence(buckets, target, choice), temperature ** 2);
}

/** @internal Predictions of some of the rows: all of rank 2 and 1. */
export function rowsOf({ indices, logProbs, rest }: TopKPredictions, begin: number, count: number): TopKPredictions {
  const part = (x: Tensor): Tensor => narrow(x, 0, begin, count);
  return { indices: part(indices), logProbs: part(logProbs), rest: part(rest) };
}
