/**
 * Tables of vectors in fewer bits, beside layers that are quantised or sparse.
 *
 * @module
 */
import { AttributeError } from '../errors.js';
import { Embedding } from '../nn/embedding.js';
import type { Module } from '../nn/module.js';
import { QuantizedEmbedding } from '../nn/quantized_embedding.js';
import { place, sitesOf } from '../nn/surgery.js';
import { unloadPages } from '../runtime/cache.js';
import { checkOneOf } from '../util/assert.js';

/** What becomes of tables of vectors. */
export interface EmbeddingOptions {
  /**
   * Tables of vectors, frozen: int8 with a scale a row, or bfloat16. A tied output layer computes with the same codes. Default: as they are.
   */
  readonly embeddings?: 'int8' | 'bfloat16';
}

const isEmbedding = (module: Module): module is Embedding => Object.getPrototypeOf(module) === Embedding.prototype;

/** @throws AttributeError if there is no such format, or the model has no table to change */
export function checkEmbeddings(op: string, model: Module, { embeddings }: EmbeddingOptions): void {
  if (embeddings === undefined) return;
  checkOneOf(op, 'embeddings', embeddings, ['int8', 'bfloat16']);
  if (sitesOf(model, isEmbedding).size > 0) return;
  const [expected, actual] = ['a model with embeddings', 'one without any'];
  throw new AttributeError({ op, argument: 'embeddings', expected, actual });
}

/** Applies an option that was checked. */
export function changeEmbeddings(op: string, model: Module, { embeddings }: EmbeddingOptions): void {
  if (embeddings === undefined) return;
  for (const site of sitesOf(model, isEmbedding).values()) {
    const made = QuantizedEmbedding.from(site.layer, embeddings);
    made.train(site.layer.training);
    place(op, site, made);
    unloadPages(site.layer.weight);
    site.layer.dispose();
  }
}
