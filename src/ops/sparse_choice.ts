/**
 * Whether a sparse product pays, by what was measured (sparse_breakeven.ts).
 *
 * @module
 */
import { checkInteger, checkKeys, checkNumber, checkOneOf } from '../util/assert.js';
import { breakEvenPoints } from './sparse_breakeven.js';
import type { SparseLayout } from './sparse.js';

/** The product x [m, k] · Wᵀ with W [n, k]. */
export interface ProductSize {
  /** Rows of x: 1 when decoding, batch × length in training. */
  readonly m: number;
  /** Outputs. */
  readonly n: number;
  /** Inputs. */
  readonly k: number;
}

/** Question to {@link shouldUseSparse}. */
export interface SparseQuestion extends ProductSize {
  readonly layout: SparseLayout;
  /** Share of the weight that is not kept. */
  readonly sparsity: number;
}

/** Question to {@link chooseLayout}. */
export interface LayoutQuestion extends ProductSize {
  readonly sparsity: number;
  /** Layouts that the pattern allows, best first. Default: `csr`, which takes any. */
  readonly layouts?: readonly SparseLayout[];
}

const layouts: readonly SparseLayout[] = ['csr', 'block', '2:4'];

/** Distance in octaves between two lengths. */
const octaves = (a: number, b: number): number => Math.abs(Math.log2(Math.max(a, 1) / Math.max(b, 1)));

/**
 * The share of zeros from which on `layout` is expected to be faster than the dense product: that of the measured point
 * closest in m, then in n and k. 1 if it never was.
 *
 * @throws AttributeError if a size is no number of rows or columns
 */
export function breakEvenSparsity(layout: SparseLayout, size: ProductSize): number {
  const op = 'breakEvenSparsity';
  checkOneOf(op, 'layout', layout, layouts);
  const [m, n, k] = [size.m, size.n, size.k];
  checkInteger(op, 'm', m, 0);
  checkInteger(op, 'n', n, 0);
  checkInteger(op, 'k', k, 0);
  let [best, found] = [Infinity, 1];
  for (const point of breakEvenPoints) {
    if (point.layout !== layout) continue;
    const distance = 100 * octaves(m, point.m) + octaves(n, point.n) + octaves(k, point.k);
    if (distance < best) [best, found] = [distance, point.sparsity];
  }
  return found;
}

/**
 * Whether a product with a sparse weight is expected to be faster than the dense one.
 *
 * @throws AttributeError if `sparsity` is not from 0 to 1, or a size no number of rows or columns
 */
export function shouldUseSparse(question: SparseQuestion): boolean {
  const op = 'shouldUseSparse';
  checkKeys(op, question, ['layout', 'sparsity', 'm', 'n', 'k']);
  checkNumber(op, 'sparsity', question.sparsity, 0, 1);
  const needed = breakEvenSparsity(question.layout, question);
  return needed < 1 && question.sparsity >= needed;
}

/** The first of the layouts that is expected to pay, or `dense`. */
export function chooseLayout(question: LayoutQuestion): SparseLayout | 'dense' {
  checkKeys('chooseLayout', question, ['sparsity', 'm', 'n', 'k', 'layouts']);
  const { sparsity, m, n, k } = question;
  const allowed = question.layouts ?? ['csr'];
  return allowed.find((layout) => shouldUseSparse({ layout, sparsity, m, n, k })) ?? 'dense';
}
