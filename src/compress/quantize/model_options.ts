/**
 * What quantising changes beside linear layers: tables of vectors, and how keys and values are cached.
 *
 * @module
 */
import { AttributeError } from '../../errors.js';
import { GPT, type CacheDType } from '../../models/gpt.js';
import { Embedding } from '../../nn/embedding.js';
import type { Module } from '../../nn/module.js';
import { QuantizedEmbedding } from '../../nn/quantized_embedding.js';
import { place, sitesOf } from '../../nn/surgery.js';
import { unloadPages } from '../../runtime/cache.js';
import { checkOneOf } from '../../util/assert.js';

/** Widest head that a cache of int8 takes. */
const WIDEST_HEAD = 256;

/** Options that concern the model as a whole. */
export interface WholeModelOptions {
  /**
   * Tables of vectors, frozen: int8 with a scale a row, or bfloat16. A tied output layer computes with the same codes. Default: as they are.
   */
  readonly embeddings?: 'int8' | 'bfloat16';
  /** How keys and values are cached by default, which the model's configuration keeps and files of it hold. Default: as it was. */
  readonly cacheDType?: CacheDType;
}

const isEmbedding = (module: Module): module is Embedding => Object.getPrototypeOf(module) === Embedding.prototype;

/** @throws AttributeError if the model has not what the options are about */
export function checkWholeModel(op: string, model: Module, { embeddings, cacheDType }: WholeModelOptions): void {
  const refuse = (argument: string, expected: string, actual: string): never => {
    throw new AttributeError({ op, argument, expected, actual });
  };
  if (embeddings !== undefined) {
    checkOneOf(op, 'embeddings', embeddings, ['int8', 'bfloat16']);
    if (sitesOf(model, isEmbedding).size === 0) refuse('embeddings', 'a model with embeddings', 'one without any');
  }
  if (cacheDType === undefined) return;
  checkOneOf(op, 'cacheDType', cacheDType, ['float32', 'bfloat16', 'float16', 'int8']);
  if (!(model instanceof GPT)) return refuse('cacheDType', 'a GPT', model.constructor.name);
  const { width, heads } = model.config;
  if (cacheDType === 'int8' && width / heads > WIDEST_HEAD)
    refuse('cacheDType', `heads of at most ${WIDEST_HEAD} for int8`, `heads of ${width / heads}`);
}

/** Applies options that were checked. */
export function changeWholeModel(op: string, model: Module, { embeddings, cacheDType }: WholeModelOptions): void {
  if (embeddings !== undefined) {
    for (const site of sitesOf(model, isEmbedding).values()) {
      const made = QuantizedEmbedding.from(site.layer, embeddings);
      made.train(site.layer.training);
      place(op, site, made);
      unloadPages(site.layer.weight);
      site.layer.dispose();
    }
  }
  if (cacheDType !== undefined) Object.assign(model, { config: { ...(model as GPT).config, cacheDType } });
}
