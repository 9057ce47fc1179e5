/**
 * Rows of different lengths in one tensor.
 *
 * @module
 */
import { tensor } from '../tensor/create.js';
import type { Tensor } from '../tensor/tensor.js';

/** int32 `[rows, longest]` (at least one column), filled up on the right. */
export function padRows(rows: readonly ArrayLike<number>[], value: number): Tensor {
  const width = rows.reduce((most, { length }) => Math.max(most, length), 1);
  const data = new Int32Array(rows.length * width).fill(value);
  for (const [i, row] of rows.entries()) data.set(row, i * width);
  return tensor(data, { shape: [rows.length, width] });
}
