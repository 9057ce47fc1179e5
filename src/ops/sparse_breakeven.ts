/**
 * Measured break-even points, written by bench/sparse_breakeven.ts: do not edit. `sparsity`: the share of zeros from which on a
 * layout takes less time than the dense product (1: at none that was measured). docs/performance.md names machine and date.
 *
 * @module
 */

/** @internal */
export interface BreakEvenPoint {
  readonly layout: 'csr' | 'block' | '2:4';
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly sparsity: number;
}

/** @internal */
export const breakEvenPoints: readonly BreakEvenPoint[] = [];
