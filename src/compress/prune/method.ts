/**
 * How a layer is pruned: the pattern that is left, and the method that chooses what goes.
 *
 * @module
 */
import { AttributeError } from '../../errors.js';
import { checkKeys, checkNumber, checkOneOf } from '../../util/assert.js';
import { resolvePattern, type PrunePattern, type ResolvedPattern } from './pattern.js';

/**
 * What a weight is worth: its magnitude; its magnitude times the norm of its input (Wanda, Sun et al. 2023, arXiv 2306.11695); or
 * what dropping it costs when the others make up for it (SparseGPT, Frantar and Alistarh 2023, arXiv 2301.00774).
 */
export type PruneMethod = 'magnitude' | 'wanda' | 'sparsegpt';

/** How layers are pruned. */
export interface LayerPruning {
  readonly pattern: PrunePattern;
  /** Default `magnitude`. */
  readonly method?: PruneMethod;
  /** SparseGPT: share of the mean diagonal that is added to the Hessian. Default 0.01. */
  readonly damping?: number;
}

/** @internal Keys of {@link LayerPruning}. */
export const layerPruningKeys = ['pattern', 'method', 'damping'] as const;

/** @internal A {@link LayerPruning} with its defaults. */
export interface ResolvedPruning {
  readonly pattern: ResolvedPattern;
  readonly method: PruneMethod;
  readonly damping: number;
}
/** @internal @throws AttributeError naming what contradicts what */
export function resolvePruning(op: string, given: LayerPruning): ResolvedPruning {
  checkKeys(op, given, layerPruningKeys);
  const method = checkOneOf(op, 'method', given.method ?? 'magnitude', ['magnitude', 'wanda', 'sparsegpt']);
  const defaultScope = method === 'wanda' ? 'output' : 'layer';
  const pattern = resolvePattern(op, given.pattern, defaultScope);
  const refuse = (argument: string, expected: string, actual: string): never => {
    throw new AttributeError({ op, argument, expected, actual });
  };
  if (method !== 'magnitude') {
    if (pattern.kind === 'threshold') refuse('pattern', `a share or n:m for ${method}`, 'a threshold');
    if (pattern.kind === 'share' && pattern.scope === 'global')
      refuse('pattern.scope', `output or layer for ${method}, whose scores of two layers cannot be compared`, 'global');
    if (method === 'sparsegpt' && pattern.kind === 'share' && pattern.scope === 'output')
      refuse('pattern.scope', 'none for sparsegpt, which compares the weights of 128 columns', 'output');
  }
  return { pattern, method, damping: checkNumber(op, 'damping', given.damping ?? 0.01, 0, 1) };
}
