/**
 * SparseGPT: one-shot pruning with weight update (Frantar and Alistarh 2023, arXiv 2301.00774).
 *
 * @module
 */
import { noGrad } from '../../autograd/grad.js';
import { div, sub } from '../../ops/arithmetic.js';
import { clone, contiguous, copy_, to } from '../../ops/copy.js';
import { concat } from '../../ops/join.js';
import { scatter } from '../../ops/indexing.js';
import { matmul } from '../../ops/matmul.js';
import { obsBlock } from '../../ops/obs_block.js';
import { sum } from '../../ops/reduce.js';
import { topk } from '../../ops/sorting.js';
import type { BlockSize } from '../../ops/sparse.js';
import { square } from '../../ops/unary.js';
import { diagonal, narrow, reshape, unsqueeze } from '../../ops/views.js';
import { where } from '../../ops/where.js';
import { synchronize } from '../../runtime/backend.js';
import { full } from '../../tensor/create.js';
import { keep, scope } from '../../tensor/scope.js';
import type { Tensor } from '../../tensor/tensor.js';
import { hessianFactor } from '../hessian.js';
import { dropSmallest } from './masks.js';
import { expandBlocks } from './pattern.js';

/** Columns whose masks are chosen together (the paper's Bs). */
const BLOCK = 128;

/** Options of {@link sparseGpt}. */
export interface SparseGptOptions {
  /** Share of weights dropped, singly or in squares; or how many of every `m` neighbours are kept. */
  readonly pattern:
    { readonly sparsity: number; readonly block?: BlockSize | null } | { readonly n: number; readonly m: number };
  /** Share of the mean diagonal of the Hessian that is added to it. Default 0.01. */
  readonly damping?: number;
}

/** A pruned weight and what was kept of it. */
export interface PrunedWeight {
  /** `[out, in]`, float32, updated: 0 where the mask is false. */
  readonly weight: Tensor;
  /** bool. */
  readonly mask: Tensor;
}

/** Without the share of smallest scores among 128 columns: of weights, or of squares by their sums. */
function keepLargest(scores: Tensor, sparsity: number, block: BlockSize | null): Tensor {
  const [rows, columns] = scores.shape as [number, number];
  const units = block === null ? scores : sum(reshape(scores, [rows / block, block, columns / block, block]), [1, 3]);
  const kept = dropSmallest(reshape(units, [units.size]), Math.floor(units.size * sparsity));
  return expandBlocks(reshape(kept, units.shape), block);
}

/**
 * Prunes a weight `[out, in]` so that the layer's output on calibration inputs, whose XᵀX and number of rows are given, changes
 * little: the weights to drop are chosen by w² / [H⁻¹]ⱼⱼ within blocks of 128 columns (within every `m`, for n:m), and each
 * row's remaining weights make up for what was dropped.
 *
 * @throws StateError if the Hessian cannot be factored
 */
export async function sparseGpt(
  op: string,
  path: string,
  weight: Tensor,
  gram: Tensor,
  rows: number,
  options: SparseGptOptions,
): Promise<PrunedWeight> {
  const { pattern, damping = 0.01 } = options;
  const inFeatures = weight.shape[1]!;
  const made: Tensor[] = [];
  const held = (x: Tensor): Tensor => {
    made.push(keep(x));
    return x;
  };
  try {
    const { u, dead } = await hessianFactor(op, path, gram, rows, damping);
    held(u);
    held(dead);
    const w = held(scope(() => noGrad(() => clone(where(unsqueeze(dead, 0), 0, to(weight, 'float32'))))));
    const block = 'm' in pattern ? pattern.m : BLOCK;
    const values: Tensor[] = [];
    const masks: Tensor[] = [];
    for (let at = 0; at < inFeatures; at += block) {
      const size = Math.min(block, inFeatures - at);
      const behind = inFeatures - at - size;
      const [value, mask] = scope(() =>
        noGrad(() => {
          const part = narrow(w, 1, at, size);
          const stripe = narrow(u, 0, at, size);
          const factor = narrow(stripe, 1, at, size);
          const scores = square(div(part, unsqueeze(diagonal(factor), 0)));
          let mask: Tensor;
          if ('m' in pattern) {
            const { indices } = topk(scores, Math.min(pattern.n, size));
            mask = scatter(full(scores.shape, false), -1, indices, 1);
          } else mask = keepLargest(scores, pattern.sparsity, pattern.block ?? null);
          const result = obsBlock(part, factor, { keep: mask });
          if (behind > 0) {
            const rest = narrow(w, 1, at + size, behind);
            copy_(rest, sub(rest, matmul(result.errors, narrow(stripe, 1, at + size, behind))));
          }
          return [result.values, mask] as const;
        }),
      );
      values.push(held(value));
      masks.push(held(mask));
      if (at % BLOCK === 0) await synchronize();
    }
    return scope(() => noGrad(() => ({ weight: contiguous(concat(values, 1)), mask: contiguous(concat(masks, 1)) })));
  } finally {
    for (const x of made) x.dispose();
  }
}
