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

/** A scalar to be made small: the loss of a model on a batch. */
export type LossFunction<M, B = Batch> = (model: M, batch: B) => Tensor;

/** @internal The model's own `loss(x, y)`; the loss function throws AttributeError in the name of `op` if there is none. */
export function defaultLoss<M extends Module, B>(op: string): LossFunction<M, B> {
  return (model, batch) => {
    const trainable = model as unknown as Partial<TrainableModel>;
    const { x, y } = batch as unknown as Partial<Batch>;
    if (typeof trainable.loss !== 'function' || x === undefined || y === undefined) {
      throw new AttributeError({
        op,
        argument: 'loss',
        expected: 'a loss function, or a model with loss(x, y) and batches of x and y',
        actual: 'neither',
      });
    }
    return trainable.loss(x, y);
  };
}

/** @internal Elements of the batch's `x`: what counts as tokens unless a run says otherwise. */
export function elementsOfX(batch: unknown): number {
  return (batch as { readonly x?: Tensor }).x?.size ?? 0;
}
