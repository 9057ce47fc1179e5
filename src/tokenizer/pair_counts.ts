/**
 * Counts per pair of neighbouring symbols, and the queue that names the most frequent one: the two data structures of
 * BPE training.
 *
 * @module
 */

/** Pairs numbered from 0 in order of first sight, each with a running count. */
export class PairCounts {
  #slots: Int32Array;
  #mask: number;
  left: Int32Array = new Int32Array(1024);
  right: Int32Array = new Int32Array(1024);
  count: Float64Array = new Float64Array(1024);
  size = 0;

  constructor() {
    this.#slots = new Int32Array(4096).fill(-1);
    this.#mask = 4095;
  }

  /** Number of the pair, a new one with count 0 when unseen. */
  indexOf(left: number, right: number): number {
    let slot = hashPair(left, right) & this.#mask;
    for (;;) {
      const pair = this.#slots[slot]!;
      if (pair < 0) break;
      if (this.left[pair] === left && this.right[pair] === right) return pair;
      slot = (slot + 1) & this.#mask;
    }
    const pair = this.size++;
    if (pair === this.left.length) this.#growPairs();
    this.left[pair] = left;
    this.right[pair] = right;
    this.#slots[slot] = pair;
    if (this.size * 2 > this.#slots.length) this.#growSlots();
    return pair;
  }

  #growPairs(): void {
    const length = this.left.length * 2;
    this.left = copyInto(new Int32Array(length), this.left);
    this.right = copyInto(new Int32Array(length), this.right);
    this.count = copyInto(new Float64Array(length), this.count);
  }

  #growSlots(): void {
    const length = this.#slots.length * 2;
    this.#slots = new Int32Array(length).fill(-1);
    this.#mask = length - 1;
    for (let pair = 0; pair < this.size; pair++) {
      let slot = hashPair(this.left[pair]!, this.right[pair]!) & this.#mask;
      while (this.#slots[slot]! >= 0) slot = (slot + 1) & this.#mask;
      this.#slots[slot] = pair;
    }
  }
}

function hashPair(left: number, right: number): number {
  const hash = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b);
  return (hash ^ (hash >>> 15)) >>> 0;
}

function copyInto<T extends Int32Array | Float64Array>(target: T, source: T): T {
  target.set(source);
  return target;
}

/** A pair to merge, as counted when it was queued, with the words that may contain it. */
export interface Candidate {
  readonly pair: number;
  count: number;
  readonly words: number[];
}

/** Max-heap of candidates: highest count first, of equals the pair of lower ids. */
export class CandidateQueue {
  readonly #heap: Candidate[] = [];
  readonly #pairs: PairCounts;

  constructor(pairs: PairCounts) {
    this.#pairs = pairs;
  }

  get size(): number {
    return this.#heap.length;
  }

  push(candidate: Candidate): void {
    const heap = this.#heap;
    let at = heap.length;
    heap.push(candidate);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!this.#before(candidate, heap[parent]!)) break;
      heap[at] = heap[parent]!;
      at = parent;
    }
    heap[at] = candidate;
  }

  pop(): Candidate | undefined {
    const heap = this.#heap;
    const top = heap[0];
    const last = heap.pop();
    if (top === undefined || last === undefined || heap.length === 0) return top;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && this.#before(heap[child + 1]!, heap[child]!)) child++;
      if (!this.#before(heap[child]!, last)) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = last;
    return top;
  }

  #before(a: Candidate, b: Candidate): boolean {
    if (a.count !== b.count) return a.count > b.count;
    const { left, right } = this.#pairs;
    const byLeft = left[a.pair]! - left[b.pair]!;
    return byLeft === 0 ? right[a.pair]! < right[b.pair]! : byLeft < 0;
  }
}
