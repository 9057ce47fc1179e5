/**
 * What pruning leaves: which weights compete with each other, and in which units they go.
 *
 * @module
 */
import { AttributeError } from '../../errors.js';
import type { Linear } from '../../nn/linear.js';
import type { Site } from '../../nn/surgery.js';
import { expand } from '../../ops/broadcast.js';
import { ge } from '../../ops/comparison.js';
import { clone } from '../../ops/copy.js';
import { concat, split } from '../../ops/join.js';
import { mean } from '../../ops/reduce.js';
import type { BlockSize } from '../../ops/sparse.js';
import { sqrt, square } from '../../ops/unary.js';
import { reshape } from '../../ops/views.js';
import type { Tensor } from '../../tensor/tensor.js';
import { checkInteger, checkKeys, checkNumber, checkOneOf } from '../../util/assert.js';
import { formatValue } from '../../util/format.js';
import { dropSmallest, nOfMMask } from './masks.js';

/** Which weights are compared when some have to go: those of one output (row), of a layer, or of all layers together. */
export type PruneScope = 'output' | 'layer' | 'global';

/**
 * What is dropped: a share of the weights, or of squares of 16, 32 or 64 (`block`); all weights (or squares, by the root mean square)
 * whose magnitude is below a threshold; or all but the best n of every m neighbours of a row (`'2:4'`).
 */
export type PrunePattern =
  | { readonly sparsity: number; readonly scope?: PruneScope; readonly block?: BlockSize }
  | { readonly threshold: number; readonly block?: BlockSize }
  | `${number}:${number}`;

/** @internal A {@link PrunePattern} with its defaults. */
export type ResolvedPattern =
  | {
      readonly kind: 'share';
      readonly sparsity: number;
      readonly scope: PruneScope;
      readonly block: BlockSize | null;
    }
  | { readonly kind: 'threshold'; readonly threshold: number; readonly block: BlockSize | null }
  | { readonly kind: 'neighbours'; readonly n: number; readonly m: number };

const sides: readonly BlockSize[] = [16, 32, 64];

function checkSide(op: string, block: BlockSize | undefined): BlockSize | null {
  if (block === undefined || sides.includes(block)) return block ?? null;
  throw new AttributeError({ op, argument: 'pattern.block', expected: sides.join(', '), actual: formatValue(block) });
}

/** @internal The share of weights to drop. @throws AttributeError unless it is from 0 to below 1 */
export function checkSparsity(op: string, argument: string, sparsity: unknown): number {
  checkNumber(op, argument, sparsity, 0, 1);
  if (sparsity !== 1) return sparsity as number;
  throw new AttributeError({ op, argument, expected: 'a share from 0 to below 1', actual: '1' });
}

/** @internal @throws AttributeError unless it is a pattern */
export function resolvePattern(op: string, pattern: PrunePattern, defaultScope: PruneScope): ResolvedPattern {
  if (typeof pattern === 'string') {
    const [n, m] = (/^(\d+):(\d+)$/.exec(pattern)?.slice(1) ?? []).map(Number) as [number?, number?];
    if (n === undefined || m === undefined || n < 1 || n >= m) {
      const expected = "n:m with n from 1 to below m, as in '2:4'";
      throw new AttributeError({ op, argument: 'pattern', expected, actual: formatValue(pattern) });
    }
    return { kind: 'neighbours', n, m: checkInteger(op, 'm', m, 2) };
  }
  if (typeof pattern !== 'object' || pattern === null) {
    const expected = "{ sparsity }, { threshold } or n:m as in '2:4'";
    throw new AttributeError({ op, argument: 'pattern', expected, actual: formatValue(pattern) });
  }
  if ('threshold' in pattern) {
    checkKeys(`${op}: pattern`, pattern, ['threshold', 'block']);
    const threshold = checkNumber(op, 'pattern.threshold', pattern.threshold, 0, Number.MAX_VALUE);
    return { kind: 'threshold', threshold, block: checkSide(op, pattern.block) };
  }
  checkKeys(`${op}: pattern`, pattern, ['sparsity', 'scope', 'block']);
  return {
    kind: 'share',
    sparsity: checkSparsity(op, 'pattern.sparsity', pattern.sparsity),
    scope: checkOneOf(op, 'pattern.scope', pattern.scope ?? defaultScope, ['output', 'layer', 'global']),
    block: checkSide(op, pattern.block),
  };
}

/** @internal As layers and files of models call it: `unstructured`, `block:32`, `2:4`. */
export function patternName(pattern: ResolvedPattern): string {
  if (pattern.kind === 'neighbours') return `${pattern.n}:${pattern.m}`;
  return pattern.block === null ? 'unstructured' : `block:${pattern.block}`;
}

/** @internal @throws AttributeError if the units do not divide a layer's weight */
export function checkDivides(op: string, { path, layer }: Site<Linear>, pattern: ResolvedPattern): void {
  const { inFeatures, outFeatures } = layer;
  const refuse = (expected: string, actual: string): never => {
    const hint = 'Use another pattern for the layer, or skip it, with an override';
    throw new AttributeError({ op, argument: 'pattern', expected, actual, hint });
  };
  if (pattern.kind === 'neighbours') {
    const { n, m } = pattern;
    if (inFeatures % m !== 0) refuse(`a multiple of ${m} inputs for ${n}:${m}`, `${path} with ${inFeatures}`);
  } else if (pattern.block !== null && (inFeatures % pattern.block !== 0 || outFeatures % pattern.block !== 0)) {
    refuse(`a weight that divides into squares of ${pattern.block}`, `that of ${path}, ${outFeatures} × ${inFeatures}`);
  }
}

/** Scores of squares: the root of their mean square; without squares the scores themselves. */
function unitScores(scores: Tensor, block: BlockSize | null): Tensor {
  if (block === null) return scores;
  const [rows, columns] = [scores.shape[0]! / block, scores.shape[1]! / block];
  return sqrt(mean(square(reshape(scores, [rows, block, columns, block])), [1, 3]));
}

/** @internal A mask of squares as one of their elements. */
export function expandBlocks(mask: Tensor, block: BlockSize | null): Tensor {
  if (block === null) return mask;
  const [rows, columns] = mask.shape as [number, number];
  const wide = expand(reshape(mask, [rows, 1, columns, 1]), [rows, block, columns, block]);
  return reshape(clone(wide), [rows * block, columns * block]);
}

/** Without the share of smallest scores of each group: of rows, or of all. */
function keepShare(units: Tensor, sparsity: number, scope: PruneScope): Tensor {
  const [rows, columns] = units.shape as [number, number];
  if (scope === 'output') return dropSmallest(units, Math.floor(columns * sparsity));
  const flat = reshape(units, [rows * columns]);
  return reshape(dropSmallest(flat, Math.round(flat.size * sparsity)), units.shape);
}

/**
 * @internal The mask (bool, true = kept) that scores `[out, in]` (at least 0) give. `sparsity` takes the place of the pattern's (for
 * schedules).
 */
export function maskOfScores(scores: Tensor, pattern: ResolvedPattern, sparsity?: number): Tensor {
  if (pattern.kind === 'neighbours') return nOfMMask(scores, pattern.n, pattern.m);
  const units = unitScores(scores, pattern.block);
  const kept =
    pattern.kind === 'threshold'
      ? ge(units, pattern.threshold)
      : keepShare(units, sparsity ?? pattern.sparsity, pattern.scope);
  return expandBlocks(kept, pattern.block);
}

/** @internal Masks of several layers whose units compete with each other. */
export function globalMasks(scores: readonly Tensor[], sparsity: number, block: BlockSize | null): Tensor[] {
  const units = scores.map((x) => unitScores(x, block));
  const all = concat(units.map((x) => reshape(x, [x.size])));
  const kept = dropSmallest(all, Math.round(all.size * sparsity));
  const parts = split(
    kept,
    units.map(({ size }) => size),
  );
  return parts.map((mask, i) => expandBlocks(reshape(mask, units[i]!.shape), block));
}
