import { embedding } from '../ops/embedding.js';
import type { Generator } from '../tensor/random.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkInteger } from '../util/assert.js';
import { normal_, unfilled } from './init.js';
import { Module, parameter } from './module.js';

/** Options of {@link Embedding}. */
export interface EmbeddingOptions {
  /** Row whose gradient is never computed. */
  readonly paddingIdx?: number;
  /** Standard deviation of the initial values. Default 1. */
  readonly std?: number;
  readonly generator?: Generator;
}

/** A table of vectors, looked up by id. Shapes: ids `[…]` (int32 or int64) → `[…, width]`; `weight` `[count, width]`. */
export class Embedding extends Module {
  readonly count: number;
  readonly width: number;
  readonly paddingIdx: number | undefined;
  weight: Tensor;

  constructor(count: number, width: number, options: EmbeddingOptions = {}) {
    super();
    this.count = checkInteger('Embedding', 'count', count, 0);
    this.width = checkInteger('Embedding', 'width', width, 0);
    this.paddingIdx = options.paddingIdx;
    this.weight = parameter(normal_(unfilled([count, width]), 0, options.std ?? 1, options.generator));
  }

  /** Integer ids `[…]` → vectors `[…, width]`. */
  forward(ids: Tensor): Tensor {
    return embedding(this.weight, ids, this.paddingIdx === undefined ? {} : { paddingIdx: this.paddingIdx });
  }
}
