/**
 * Losses with a penalty on top, for training that should not move too far.
 */
import { AttributeError } from '../../errors.js';
import { add } from '../../ops/arithmetic.js';
import type { Module } from '../../nn/module.js';
import { scope } from '../../tensor/scope.js';
import type { Tensor } from '../../tensor/tensor.js';
import { formatValue } from '../../util/format.js';

/** Something to be kept small beside the loss: a function of the model, or an object with one. */
export type Penalty<M extends Module = Module> = ((model: M) => Tensor) | { value(model: M): Tensor };

/**
 * The loss plus penalties, as a loss for the `Trainer`. In evaluation mode (validations) it is the loss alone, so that figures stay
 * comparable.
 *
 * @throws AttributeError if a penalty is neither a function nor has a `value(model)`
 * @example
 * ```ts
 * const start = new L2Sp(gpt, { strength: 0.01 });
 * new Trainer(gpt, { train, loss: withPenalty((model, { x, y }) => model.loss(x, y), start), batchSize, optimizer });
 * ```
 */
export function withPenalty<M extends Module, B>(
  loss: (model: M, batch: B) => Tensor,
  ...penalties: readonly Penalty<M>[]
): (model: M, batch: B) => Tensor {
  const values = penalties.map((penalty, i): ((model: M) => Tensor) => {
    if (typeof penalty === 'function') return penalty;
    if (typeof penalty?.value === 'function') return (model) => penalty.value(model);
    const expected = 'a function of the model, or an object with value(model)';
    const argument = `penalties[${i}]`;
    throw new AttributeError({ op: 'withPenalty', argument, expected, actual: formatValue(penalty) });
  });
  return (model, batch) =>
    scope(() => {
      const value = loss(model, batch);
      return model.training ? values.reduce((sum, penalty) => add(sum, penalty(model)), value) : value;
    });
}
