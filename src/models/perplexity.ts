/**
 * How well a language model predicts text that it has not seen.
 *
 * @module
 */
import { setImmediate } from 'node:timers/promises';
import { noGrad } from '../autograd/grad.js';
import { checkDataset, type Dataset } from '../data/loader.js';
import type { Module } from '../nn/module.js';
import { item } from '../tensor/read.js';
import { scope } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkInteger, checkKeys } from '../util/assert.js';

/** Options of {@link perplexity}. */
export interface PerplexityOptions {
  /** Examples at once. Default 16. */
  readonly batchSize?: number;
  /** Batches looked at, at most, from the beginning. Default: all. */
  readonly batches?: number;
  /** Stops between batches; the promise is rejected with its reason. */
  readonly signal?: AbortSignal;
}

/** Inputs and the tokens that follow them, both `[B, T]`. */
export interface ScoredText {
  readonly x: Tensor;
  readonly y: Tensor;
}

/** A model that tells its loss, in nats a token. */
export type ScoringModel = Module & { loss(x: Tensor, y: Tensor): Tensor };

/**
 * e to the mean loss over the windows of a dataset, in evaluation mode. All windows count alike.
 *
 * @throws AttributeError if the dataset is none, or empty
 */
export async function perplexity(
  model: ScoringModel,
  dataset: Dataset<ScoredText>,
  options: PerplexityOptions = {},
): Promise<number> {
  const op = 'perplexity';
  checkKeys(op, options, ['batchSize', 'batches', 'signal']);
  checkDataset(op, 'dataset', dataset);
  const batchSize = checkInteger(op, 'batchSize', options.batchSize ?? 16, 1);
  const batches = checkInteger(op, 'batches', options.batches ?? Number.MAX_SAFE_INTEGER, 1);
  const count = Math.min(dataset.length, batchSize * batches);
  const modes = [...model.namedModules()].map(([, module]) => [module, module.training] as const);
  model.eval();
  try {
    let sum = 0;
    for (let at = 0; at < count; at += batchSize) {
      options.signal?.throwIfAborted();
      const indices = Array.from({ length: Math.min(batchSize, count - at) }, (_, i) => at + i);
      const loss = scope(() =>
        noGrad(() => {
          const { x, y } = dataset.batch(indices, 0);
          return model.loss(x, y);
        }),
      );
      sum += indices.length * ((await item(loss).finally(() => loss.dispose())) as number);
      await setImmediate();
    }
    return Math.exp(sum / count);
  } finally {
    for (const [module, training] of modes) module.training = training;
  }
}
