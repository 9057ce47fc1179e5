/**
 * The merges of a BPE vocabulary as a hash table over pairs of ids, and the merging of one word with it.
 *
 * Rule: among all neighbouring pairs the one of lowest rank is merged first, the leftmost one of equals; repeat until
 * no pair is in the table. Short words scan for the minimum, long ones (base64, runs of one letter, unsplit Chinese)
 * keep a heap, so a word of n symbols costs O(n log n).
 *
 * @module
 */

/** Up to here scanning all ranks beats a heap. */
const SCAN_LIMIT = 64;
/** Heap keys are `rank * 2^30 + position`, exact in a double while rank stays below 2^23. */
const POSITION_SPAN = 2 ** 30;
/** Largest number of merges a table takes. */
export const MAX_MERGES = 2 ** 23;
const NO_RANK = 0x7fffffff;

export class MergeTable {
  #left: Int32Array;
  #right: Int32Array;
  #rank: Int32Array;
  #merged: Int32Array;
  #mask: number;
  #size = 0;

  constructor(expected = 1024) {
    let capacity = 16;
    while (capacity < expected * 2) capacity *= 2;
    this.#left = new Int32Array(capacity).fill(-1);
    this.#right = new Int32Array(capacity);
    this.#rank = new Int32Array(capacity);
    this.#merged = new Int32Array(capacity);
    this.#mask = capacity - 1;
  }

  get size(): number {
    return this.#size;
  }

  /** Adds a pair; a pair added twice keeps the later rank. */
  set(left: number, right: number, rank: number, merged: number): void {
    if ((this.#size + 1) * 2 > this.#left.length) this.#grow();
    const slot = this.#slot(left, right);
    if (this.#left[slot] === -1) this.#size++;
    this.#left[slot] = left;
    this.#right[slot] = right;
    this.#rank[slot] = rank;
    this.#merged[slot] = merged;
  }

  /** All pairs in rank order. */
  entries(): { left: number; right: number; rank: number; merged: number }[] {
    const out = [];
    for (let slot = 0; slot <= this.#mask; slot++) {
      const left = this.#left[slot]!;
      if (left < 0) continue;
      out.push({ left, right: this.#right[slot]!, rank: this.#rank[slot]!, merged: this.#merged[slot]! });
    }
    return out.sort((a, b) => a.rank - b.rank || a.left - b.left || a.right - b.right);
  }

  /**
   * Merges the first `count` symbols of `ids` in place, adding up `lengths` along, and returns how many are left.
   */
  mergeWord(ids: Int32Array, lengths: Int32Array, count: number): number {
    if (count < 2 || this.#size === 0) return count;
    return count <= SCAN_LIMIT ? this.#mergeByScan(ids, lengths, count) : this.#mergeByHeap(ids, lengths, count);
  }

  #slot(left: number, right: number): number {
    let slot = (Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b)) >>> 0;
    slot = (slot ^ (slot >>> 15)) & this.#mask;
    while (this.#left[slot] !== -1 && (this.#left[slot] !== left || this.#right[slot] !== right)) {
      slot = (slot + 1) & this.#mask;
    }
    return slot;
  }

  #rankOf(left: number, right: number): number {
    const slot = this.#slot(left, right);
    return this.#left[slot] === -1 ? NO_RANK : this.#rank[slot]!;
  }

  #mergedOf(left: number, right: number): number {
    return this.#merged[this.#slot(left, right)]!;
  }

  #mergeByScan(ids: Int32Array, lengths: Int32Array, count: number): number {
    const ranks = scanRanks;
    let n = count;
    for (let i = 0; i < n - 1; i++) ranks[i] = this.#rankOf(ids[i]!, ids[i + 1]!);
    while (n > 1) {
      let best = NO_RANK;
      let at = -1;
      for (let i = 0; i < n - 1; i++) {
        if (ranks[i]! < best) {
          best = ranks[i]!;
          at = i;
        }
      }
      if (at < 0) break;
      ids[at] = this.#mergedOf(ids[at]!, ids[at + 1]!);
      lengths[at] = lengths[at]! + lengths[at + 1]!;
      n--;
      for (let i = at + 1; i < n; i++) {
        ids[i] = ids[i + 1]!;
        lengths[i] = lengths[i + 1]!;
        ranks[i] = ranks[i + 1]!;
      }
      if (at < n - 1) ranks[at] = this.#rankOf(ids[at]!, ids[at + 1]!);
      if (at > 0) ranks[at - 1] = this.#rankOf(ids[at - 1]!, ids[at]!);
    }
    return n;
  }

  #mergeByHeap(ids: Int32Array, lengths: Int32Array, count: number): number {
    const next = new Int32Array(count);
    const previous = new Int32Array(count);
    /** Rank of the pair that starts here; an entry of the heap is valid only while it agrees. */
    const ranks = new Int32Array(count).fill(NO_RANK);
    const heap = new KeyHeap(count);
    for (let i = 0; i < count; i++) {
      next[i] = i + 1 < count ? i + 1 : -1;
      previous[i] = i - 1;
    }
    const consider = (at: number): void => {
      const after = next[at]!;
      const rank = after < 0 ? NO_RANK : this.#rankOf(ids[at]!, ids[after]!);
      ranks[at] = rank;
      if (rank !== NO_RANK) heap.push(rank * POSITION_SPAN + at);
    };
    for (let i = 0; i < count - 1; i++) consider(i);
    while (heap.size > 0) {
      const key = heap.pop();
      const rank = Math.floor(key / POSITION_SPAN);
      const at = key - rank * POSITION_SPAN;
      if (ranks[at] !== rank) continue;
      const gone = next[at]!;
      ids[at] = this.#mergedOf(ids[at]!, ids[gone]!);
      lengths[at] = lengths[at]! + lengths[gone]!;
      ranks[gone] = NO_RANK;
      next[at] = next[gone]!;
      if (next[at]! >= 0) previous[next[at]!] = at;
      consider(at);
      if (previous[at]! >= 0) consider(previous[at]!);
    }
    let n = 0;
    for (let at = 0; at >= 0; at = next[at]!) {
      ids[n] = ids[at]!;
      lengths[n++] = lengths[at]!;
    }
    return n;
  }

  #grow(): void {
    const old = this.entries();
    const larger = new MergeTable(this.#left.length);
    for (const { left, right, rank, merged } of old) larger.set(left, right, rank, merged);
    this.#left = larger.#left;
    this.#right = larger.#right;
    this.#rank = larger.#rank;
    this.#merged = larger.#merged;
    this.#mask = larger.#mask;
  }
}

const scanRanks = new Int32Array(SCAN_LIMIT);

/** A binary min-heap of doubles. */
class KeyHeap {
  #keys: Float64Array;
  size = 0;

  constructor(capacity: number) {
    this.#keys = new Float64Array(Math.max(16, capacity * 2));
  }

  push(key: number): void {
    if (this.size === this.#keys.length) {
      const larger = new Float64Array(this.size * 2);
      larger.set(this.#keys);
      this.#keys = larger;
    }
    const keys = this.#keys;
    let at = this.size++;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (keys[parent]! <= key) break;
      keys[at] = keys[parent]!;
      at = parent;
    }
    keys[at] = key;
  }

  pop(): number {
    const keys = this.#keys;
    const top = keys[0]!;
    const last = keys[--this.size]!;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= this.size) break;
      if (child + 1 < this.size && keys[child + 1]! < keys[child]!) child++;
      if (keys[child]! >= last) break;
      keys[at] = keys[child]!;
      at = child;
    }
    keys[at] = last;
    return top;
  }
}
