/**
 * Log-probabilities of answers under a model.
 */
import type { Module } from '../../nn/module.js';
import { clamp, neg } from '../../ops/unary.js';
import { crossEntropy } from '../../ops/cross_entropy.js';
import { div } from '../../ops/arithmetic.js';
import { ne } from '../../ops/comparison.js';
import { to } from '../../ops/copy.js';
import { sum } from '../../ops/reduce.js';
import { noGrad } from '../../autograd/grad.js';
import { scope } from '../../tensor/scope.js';
import type { Tensor } from '../../tensor/tensor.js';
import { inEvaluation } from '../../nn/evaluation.js';

/** A model that gives logits `[B, T, V]` for ids `[B, T]`. */
export type LogitsModel = Module & { forward(ids: Tensor): Tensor };

/** Log-probabilities of the rows' counted targets. */
export interface RowLogProbs {
  /** Summed over a row: `[B]`, nats. */
  readonly sum: Tensor;
  /** Averaged over a row's counted targets: `[B]`. */
  readonly average: Tensor;
  /** Counted targets of each row, at least 1: `[B]`, of the sums' dtype. */
  readonly count: Tensor;
}

/**
 * How likely a model finds the targets of each row, from its logits. Targets of -100 do not count.
 *
 * Shapes: logits `[B, T, V]`, targets `[B, T]` (int32 or int64) → `[B]` each, float32 (float64 from float64).
 *
 * @throws ShapeError if the shapes do not match
 */
export function answerLogProbs(logits: Tensor, targets: Tensor): RowLogProbs {
  return scope(() => {
    const total = neg(sum(crossEntropy(logits, targets, { reduction: 'none' }), 1));
    const count = noGrad(() => clamp(to(sum(ne(targets, -100), 1), total.dtype), 1));
    return { sum: total, average: div(total, count), count };
  });
}

/** @internal Runs `body` with a model in evaluation mode and without recording, and puts each module's mode back. */
export function asReference<T>(model: Module, body: () => T): T {
  return inEvaluation(model, () => noGrad(body));
}
