/**
 * Putting sequences of different lengths into rows of one length.
 *
 * @module
 */
import { AttributeError } from '../errors.js';
import { checkInteger } from '../util/assert.js';

/**
 * Packs items into as few rows as first-fit-decreasing finds: longest first, each into the first row that has room. At most 11/9 of
 * the best number of rows and a rest. O(n log n).
 *
 * @param lengths - of the items, at most `capacity` each
 * @returns numbers of the items in each row, in the order in which they were put there
 * @throws AttributeError if a length is no integer from 0 to `capacity`
 * @source Johnson 1973, Near-optimal bin packing algorithms; for sequences of tokens Krell et al. 2021, arXiv 2107.02027
 */
export function packFirstFit(lengths: ArrayLike<number>, capacity: number): number[][] {
  checkInteger('packFirstFit', 'capacity', capacity, 1);
  const count = lengths.length;
  for (let i = 0; i < count; i++) {
    const length = lengths[i]!;
    if (Number.isInteger(length) && length >= 0 && length <= capacity) continue;
    const expected = `integers from 0 to ${capacity}`;
    throw new AttributeError({ op: 'packFirstFit', argument: `lengths[${i}]`, expected, actual: String(length) });
  }
  const order = Array.from({ length: count }, (_, i) => i).sort((a, b) => lengths[b]! - lengths[a]! || a - b);
  // A tree over the room of the rows: each node knows the most room below it.
  let leaves = 1;
  while (leaves < count) leaves *= 2;
  const room = new Int32Array(2 * leaves).fill(capacity);
  const rows: number[][] = [];
  for (const item of order) {
    const length = lengths[item]!;
    let node = 1;
    while (node < leaves) node = room[2 * node]! >= length ? 2 * node : 2 * node + 1;
    const row = node - leaves;
    (rows[row] ??= []).push(item);
    room[node]! -= length;
    for (node >>= 1; node > 0; node >>= 1) room[node] = Math.max(room[2 * node]!, room[2 * node + 1]!);
  }
  return rows;
}
