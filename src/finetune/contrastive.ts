/**
 * Contrastive training of embeddings.
 */
import { ShapeError } from '../errors.js';
import type { Module } from '../nn/module.js';
import { add, mul } from '../ops/arithmetic.js';
import { crossEntropy } from '../ops/cross_entropy.js';
import { concat } from '../ops/join.js';
import { matmul } from '../ops/matmul.js';
import { normalize as unit } from '../ops/norm.js';
import { transpose } from '../ops/views.js';
import { arange } from '../tensor/create.js';
import { scope } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkBoolean, checkKeys, checkNumber } from '../util/assert.js';
import { formatShape } from '../util/format.js';
import type { LengthOptions } from './pooling.js';

/** Options of {@link infoNce}. */
export interface InfoNceOptions {
  /** Similarities are divided by this. Default 0.05. */
  readonly temperature?: number;
  /** More wrong answers for every query, `[N, width]` (hard negatives). Default: none. */
  readonly negatives?: Tensor;
  /** Also find the query of each key; the mean of both (without `negatives` there). Default false. */
  readonly symmetric?: boolean;
  /** Compare by the cosine: vectors are made of length 1 first. Default true. */
  readonly normalize?: boolean;
}

/**
 * InfoNCE: each query must find its own key among the keys of the batch (in-batch negatives), by cross-entropy over similarities.
 *
 * @shape queries, keys: (B, D) → a scalar
 * @throws ShapeError if they differ
 * @source van den Oord et al. 2018, arXiv 1807.03748; for sentences Gao et al. 2021, arXiv 2104.08821
 */
export function infoNce(queries: Tensor, keys: Tensor, options: InfoNceOptions = {}): Tensor {
  const op = 'infoNce';
  checkKeys(op, options, ['temperature', 'negatives', 'symmetric', 'normalize']);
  const temperature = checkNumber(op, 'temperature', options.temperature ?? 0.05, Number.MIN_VALUE, Number.MAX_VALUE);
  const symmetric = checkBoolean(op, 'symmetric', options.symmetric ?? false);
  const isCosine = checkBoolean(op, 'normalize', options.normalize ?? true);
  const { negatives } = options;
  const [batch, width] = [queries.shape[0] ?? 0, queries.shape[1] ?? 0];
  for (const [argument, x, rows] of [
    ['queries', queries, batch],
    ['keys', keys, batch],
    ['negatives', negatives, negatives?.shape[0] ?? 0],
  ] as const) {
    if (x === undefined || (x.rank === 2 && x.shape[0] === rows && x.shape[1] === width)) continue;
    throw new ShapeError({ op, argument, expected: `[${rows}, ${width}]`, actual: formatShape(x.shape) });
  }
  return scope(() => {
    const made = (x: Tensor): Tensor => (isCosine ? unit(x) : x);
    const [q, k] = [made(queries), made(keys)];
    const all = negatives === undefined ? k : concat([k, made(negatives)], 0);
    const own = arange(0, batch, 1, { dtype: 'int32' });
    const toKeys = crossEntropy(mul(matmul(q, transpose(all)), 1 / temperature), own);
    if (!symmetric) return toKeys;
    return mul(add(toKeys, crossEntropy(mul(matmul(k, transpose(q)), 1 / temperature), own)), 0.5);
  });
}

/** Pairs of texts that belong together, as `PairDataset` makes them. */
export interface PairBatch {
  /** Ids of the queries, int32 `[B, T]`. */
  readonly x: Tensor;
  /** Their lengths, int32 `[B]`. */
  readonly lengths: Tensor;
  /** Ids of what they should find, int32 `[B, S]`. */
  readonly y: Tensor;
  readonly yLengths: Tensor;
  /** Ids of what they should not find, int32 `[N, R]`. */
  readonly negatives?: Tensor;
  readonly negativeLengths?: Tensor;
}

/** A model of one vector a text: `EmbeddingModel`. */
export type Embedder = Module & { forward(ids: Tensor, options: LengthOptions): Tensor };

/** A loss for `Trainer`: {@link infoNce} of the vectors of a {@link PairBatch}. */
export function contrastiveLoss(
  options: Omit<InfoNceOptions, 'negatives'> = {},
): (model: Embedder, batch: PairBatch) => Tensor {
  return (model, { x, lengths, y, yLengths, negatives, negativeLengths }) =>
    scope(() => {
      const wrong =
        negatives === undefined || negativeLengths === undefined
          ? {}
          : { negatives: model.forward(negatives, { lengths: negativeLengths }) };
      const [queries, keys] = [model.forward(x, { lengths }), model.forward(y, { lengths: yLengths })];
      return infoNce(queries, keys, { ...options, ...wrong });
    });
}
