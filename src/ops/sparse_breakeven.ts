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
export const breakEvenPoints: readonly BreakEvenPoint[] = [
  { layout: 'csr', m: 1, n: 768, k: 768, sparsity: 0.814 },
  { layout: 'block', m: 1, n: 768, k: 768, sparsity: 0.5 },
  { layout: '2:4', m: 1, n: 768, k: 768, sparsity: 0.5 },
  { layout: 'csr', m: 1, n: 3072, k: 768, sparsity: 0.858 },
  { layout: 'block', m: 1, n: 3072, k: 768, sparsity: 0.5 },
  { layout: '2:4', m: 1, n: 3072, k: 768, sparsity: 0.5 },
  { layout: 'csr', m: 1, n: 768, k: 3072, sparsity: 0.828 },
  { layout: 'block', m: 1, n: 768, k: 3072, sparsity: 0.5 },
  { layout: '2:4', m: 1, n: 768, k: 3072, sparsity: 0.5 },
  { layout: 'csr', m: 1, n: 384, k: 1536, sparsity: 0.859 },
  { layout: 'block', m: 1, n: 384, k: 1536, sparsity: 0.5 },
  { layout: '2:4', m: 1, n: 384, k: 1536, sparsity: 0.5 },
  { layout: 'csr', m: 8, n: 768, k: 768, sparsity: 0.84 },
  { layout: 'block', m: 8, n: 768, k: 768, sparsity: 0.5 },
  { layout: '2:4', m: 8, n: 768, k: 768, sparsity: 1 },
  { layout: 'csr', m: 8, n: 3072, k: 768, sparsity: 0.687 },
  { layout: 'block', m: 8, n: 3072, k: 768, sparsity: 0.5 },
  { layout: '2:4', m: 8, n: 3072, k: 768, sparsity: 0.5 },
  { layout: 'csr', m: 8, n: 768, k: 3072, sparsity: 0.695 },
  { layout: 'block', m: 8, n: 768, k: 3072, sparsity: 0.5 },
  { layout: '2:4', m: 8, n: 768, k: 3072, sparsity: 1 },
  { layout: 'csr', m: 8, n: 384, k: 1536, sparsity: 0.875 },
  { layout: 'block', m: 8, n: 384, k: 1536, sparsity: 0.563 },
  { layout: '2:4', m: 8, n: 384, k: 1536, sparsity: 1 },
  { layout: 'csr', m: 128, n: 768, k: 768, sparsity: 0.5 },
  { layout: 'block', m: 128, n: 768, k: 768, sparsity: 0.5 },
  { layout: '2:4', m: 128, n: 768, k: 768, sparsity: 0.5 },
  { layout: 'csr', m: 128, n: 3072, k: 768, sparsity: 0.5 },
  { layout: 'block', m: 128, n: 3072, k: 768, sparsity: 0.5 },
  { layout: '2:4', m: 128, n: 3072, k: 768, sparsity: 0.5 },
  { layout: 'csr', m: 128, n: 768, k: 3072, sparsity: 0.538 },
  { layout: 'block', m: 128, n: 768, k: 3072, sparsity: 0.5 },
  { layout: '2:4', m: 128, n: 768, k: 3072, sparsity: 0.5 },
  { layout: 'csr', m: 128, n: 384, k: 1536, sparsity: 0.5 },
  { layout: 'block', m: 128, n: 384, k: 1536, sparsity: 0.5 },
  { layout: '2:4', m: 128, n: 384, k: 1536, sparsity: 0.5 },
  { layout: 'csr', m: 512, n: 768, k: 768, sparsity: 0.5 },
  { layout: 'block', m: 512, n: 768, k: 768, sparsity: 0.5 },
  { layout: '2:4', m: 512, n: 768, k: 768, sparsity: 0.5 },
  { layout: 'csr', m: 512, n: 3072, k: 768, sparsity: 0.5 },
  { layout: 'block', m: 512, n: 3072, k: 768, sparsity: 0.5 },
  { layout: '2:4', m: 512, n: 3072, k: 768, sparsity: 0.5 },
  { layout: 'csr', m: 512, n: 768, k: 3072, sparsity: 0.5 },
  { layout: 'block', m: 512, n: 768, k: 3072, sparsity: 0.5 },
  { layout: '2:4', m: 512, n: 768, k: 3072, sparsity: 0.5 },
  { layout: 'csr', m: 512, n: 384, k: 1536, sparsity: 0.5 },
  { layout: 'block', m: 512, n: 384, k: 1536, sparsity: 0.5 },
  { layout: '2:4', m: 512, n: 384, k: 1536, sparsity: 0.5 },
];
