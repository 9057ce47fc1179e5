/**
 * Tables of vectors in fewer bits, beside layers that are quantised or sparse.
 *
 * @module
 */
import { AttributeError, ShapeError } from '../errors.js';
import { GPT } from '../models/gpt.js';
import { Embedding } from '../nn/embedding.js';
import type { Module } from '../nn/module.js';
import {
  EMBEDDING_GROUP,
  embeddingFormats,
  QuantizedEmbedding,
  type EmbeddingFormat,
} from '../nn/quantized_embedding.js';
import { place, sitesOf, type Site } from '../nn/surgery.js';
import { unloadPages } from '../runtime/cache.js';
import { checkOneOf } from '../util/assert.js';
import { roundToNearest } from './quantize/weight_codes.js';

/** What becomes of tables of vectors. */
export interface EmbeddingOptions {
  /**
   * Tables of vectors, frozen: int8 with a scale a row, int4 with a float16 scale for 32 numbers (chosen for the least squared error; the positions
   * of a GPT, which weigh little, get int8 then), or bfloat16. A tied output layer computes with the same codes; of `int4+int4`, twice 4 bits, with
   * the first: as fast as int4, and nearly as exact as int8 ({@link QuantizedEmbedding}). Default: as they are.
   */
  readonly embeddings?: EmbeddingFormat;
}

/** Codes of a table in 4 bits, and of each of two stages. */
export const tableGrid = {
  scheme: 'symmetric',
  bits: 4,
  groupSize: EMBEDDING_GROUP,
  scaleDType: 'float16',
  weightObserver: 'mse',
} as const;

const hasFourBits = (format: EmbeddingFormat): format is 'int4' | 'int4+int4' => format.startsWith('int4');

const isEmbedding = (module: Module): module is Embedding => Object.getPrototypeOf(module) === Embedding.prototype;

/** How each table is to be held. */
function plannedTables(model: Module, embeddings: EmbeddingFormat): [Site<Embedding>, EmbeddingFormat][] {
  const positions = model instanceof GPT ? model.positions : null;
  return [...sitesOf(model, isEmbedding).values()].map((site) => {
    const isSmall = hasFourBits(embeddings) && site.layer === positions;
    return [site, isSmall ? 'int8' : embeddings];
  });
}

/** @throws AttributeError if there is no such format, or the model has no table to change; ShapeError for vectors that no group divides */
export function checkEmbeddings(op: string, model: Module, { embeddings }: EmbeddingOptions): void {
  if (embeddings === undefined) return;
  checkOneOf(op, 'embeddings', embeddings, embeddingFormats);
  const sites = plannedTables(model, embeddings);
  for (const [{ path, layer }, format] of sites) {
    if (!hasFourBits(format) || layer.width % EMBEDDING_GROUP === 0) continue;
    const [expected, actual] = [
      `vectors of a multiple of ${EMBEDDING_GROUP} for ${format}`,
      `${layer.width} in ${path}`,
    ];
    throw new ShapeError({ op, argument: 'embeddings', expected, actual });
  }
  if (sites.length > 0) return;
  const [expected, actual] = ['a model with embeddings', 'one without any'];
  throw new AttributeError({ op, argument: 'embeddings', expected, actual });
}

/** Applies an option that was checked. */
export function changeEmbeddings(op: string, model: Module, { embeddings }: EmbeddingOptions): void {
  if (embeddings === undefined) return;
  for (const [site, format] of plannedTables(model, embeddings)) {
    const made = hasFourBits(format)
      ? QuantizedEmbedding.inFourBits(site.layer.weight, format, (part) => roundToNearest(part, tableGrid))
      : QuantizedEmbedding.from(site.layer, format);
    made.train(site.layer.training);
    place(op, site, made);
    unloadPages(site.layer.weight);
    site.layer.dispose();
  }
}
