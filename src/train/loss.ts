/**
 * What training asks of a model: a loss on a batch.
 *
 * @module
 */
import { AttributeError } from '../errors.js';
import type { Module } from '../nn/module.js';
import type { Tensor } from '../tensor/tensor.js';

/** A model that can tell its loss on a pair of tensors. */
export type TrainableModel = Module & { loss(x: Tensor, y: Tensor): Tensor };

/** Inputs and targets. */
export interface Batch {
  readonly x: Tensor;
  readonly y: Tensor;
}

/** What a loss function sees. */
export type LossFunction<M> = (model: M, batch: Batch) => Tensor;

/** @internal The model's own `loss(x, y)`; the loss function throws AttributeError in the name of `op` if there is none. */
export function defaultLoss<M extends Module>(op: string): LossFunction<M> {
  return (model, { x, y }) => {
    const trainable = model as unknown as Partial<TrainableModel>;
    if (typeof trainable.loss !== 'function') {
      throw new AttributeError({
        op,
        argument: 'loss',
        expected: 'a loss function, or a model with loss(x, y)',
        actual: 'neither',
      });
    }
    return trainable.loss(x, y);
  };
}
