/**
 * SentencePiece's BPE: neighbouring pieces whose joined text is in the vocabulary merge, the highest score first, the
 * leftmost of equals. Pieces marked unused serve on the way and are taken apart again at the end.
 *
 * Source: Sennrich et al. 2016 (arXiv:1508.07909) with the agenda of the SentencePiece library.
 *
 * @module
 */
import { PieceType, type Piece } from './sentencepiece_model.js';
import type { Trie } from './trie.js';
import type { CutPiece } from './unigram_model.js';

interface Pair {
  readonly score: number;
  readonly left: number;
  readonly right: number;
  /** Code points of both parts together when queued; an entry is stale once they differ. */
  readonly length: number;
}

function before(a: Pair, b: Pair): boolean {
  return a.score > b.score || (a.score === b.score && a.left < b.left);
}

/** A binary heap of pairs. */
class Agenda {
  readonly #heap: Pair[] = [];

  push(pair: Pair): void {
    const heap = this.#heap;
    let at = heap.push(pair) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!before(pair, heap[parent]!)) break;
      heap[at] = heap[parent]!;
      at = parent;
    }
    heap[at] = pair;
  }

  pop(): Pair | undefined {
    const heap = this.#heap;
    const top = heap[0];
    const last = heap.pop();
    if (top === undefined || last === undefined || heap.length === 0) return top;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && before(heap[child + 1]!, heap[child]!)) child++;
      if (!before(heap[child]!, last)) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = last;
    return top;
  }
}

/** Cuts normalised text. `idOf` finds a piece by text, `undefined` if there is none. */
export function mergePieces(
  codes: Uint32Array,
  pieces: readonly Piece[],
  idOf: (text: string) => number | undefined,
  userDefined: Trie,
  unkId: number,
): CutPiece[] {
  const starts: number[] = [];
  const frozen: boolean[] = [];
  for (let at = 0; at < codes.length;) {
    const fixed = userDefined.longest(codes, at);
    starts.push(at);
    frozen.push(fixed > 0);
    at += Math.max(1, fixed);
  }
  const count = starts.length;
  const lengths = starts.map((start, i) => (starts[i + 1] ?? codes.length) - start);
  const next = starts.map((_, i) => (i + 1 < count ? i + 1 : -1));
  const previous = starts.map((_, i) => i - 1);
  const textOf = (start: number, length: number): string =>
    String.fromCodePoint(...codes.subarray(start, start + length));

  const agenda = new Agenda();
  /** Length of the left part of every joined piece that is marked unused, by its text. */
  const unusedParts = new Map<string, number>();
  const consider = (left: number, right: number): void => {
    if (left < 0 || right < 0 || frozen[left]! || frozen[right]!) return;
    const length = lengths[left]! + lengths[right]!;
    const text = textOf(starts[left]!, length);
    const id = idOf(text);
    if (id === undefined) return;
    agenda.push({ score: pieces[id]!.score, left, right, length });
    if (pieces[id]!.type === PieceType.unused) unusedParts.set(text, lengths[left]!);
  };
  for (let i = 0; i + 1 < count; i++) consider(i, i + 1);
  for (let top = agenda.pop(); top !== undefined; top = agenda.pop()) {
    const { left, right, length } = top;
    if (lengths[left] === 0 || lengths[right] === 0 || lengths[left]! + lengths[right]! !== length) continue;
    lengths[left] = length;
    lengths[right] = 0;
    next[left] = next[right]!;
    if (next[right]! >= 0) previous[next[right]!] = left;
    consider(previous[left]!, left);
    consider(left, next[left]!);
  }

  const out: CutPiece[] = [];
  const resolve = (start: number, length: number): void => {
    const text = textOf(start, length);
    const id = idOf(text);
    const part = id !== undefined && pieces[id]!.type === PieceType.unused ? unusedParts.get(text) : undefined;
    if (part === undefined) {
      out.push({ id: id ?? unkId, start, end: start + length });
    } else {
      resolve(start, part);
      resolve(start + part, length - part);
    }
  };
  for (let at = count > 0 ? 0 : -1; at >= 0; at = next[at]!) resolve(starts[at]!, lengths[at]!);
  return out;
}
