/**
 * Unigram language model: of all ways to cut a word into pieces the one whose log probabilities add up to most.
 *
 * Source: Kudo 2018 (arXiv:1804.10959); one Viterbi pass over positions. Unknown characters cost 10 below the lowest
 * score of the vocabulary.
 *
 * @module
 */
import { utf8Length } from './aligned_text.js';
import { fallbackToken } from './byte_level.js';
import { asArray, asId, asNumber, asObject, asString, badField, booleanField } from './json_fields.js';
import type { EmitToken, TokenModel } from './model.js';
import { Trie, codePoints } from './trie.js';
import { Vocabulary } from './vocabulary.js';

/** How far below the lowest score an unknown character lies. */
export const UNKNOWN_PENALTY = 10;
const encoder = new TextEncoder();

/** A piece of the best cut, in code points. */
export interface CutPiece {
  readonly id: number;
  readonly start: number;
  readonly end: number;
}

/**
 * The best cut of `codes`. `round` is the precision sums are kept in; ties keep the cut found first, which is the
 * one whose last piece starts further left.
 */
export function viterbi(
  codes: ArrayLike<number>,
  trie: Trie,
  scoreOf: (id: number, length: number) => number,
  unknown: { readonly id: number; readonly score: number },
  round: (score: number) => number = (score) => score,
): CutPiece[] {
  const size = codes.length;
  const best = new Float64Array(size + 1);
  const from = new Int32Array(size + 1).fill(-1);
  const ids = new Int32Array(size + 1);
  const offer = (at: number, length: number, id: number, score: number): void => {
    const candidate = round(score + best[at]!);
    const to = at + length;
    if (from[to]! >= 0 && candidate <= best[to]!) return;
    best[to] = candidate;
    from[to] = at;
    ids[to] = id;
  };
  for (let at = 0; at < size; at++) {
    let single = false;
    trie.prefixes(codes, at, (id, length) => {
      if (length === 1) single = true;
      offer(at, length, id, scoreOf(id, length));
    });
    if (!single) offer(at, 1, unknown.id, unknown.score);
  }
  const pieces: CutPiece[] = [];
  for (let end = size; end > 0; end = from[end]!) pieces.push({ id: ids[end]!, start: from[end]!, end });
  return pieces.reverse();
}

/** Joins neighbouring pieces of the unknown id. */
export function fuseUnknown(pieces: readonly CutPiece[], unkId: number): CutPiece[] {
  const out: CutPiece[] = [];
  for (const piece of pieces) {
    const last = out[out.length - 1];
    if (piece.id === unkId && last?.id === unkId) out[out.length - 1] = { ...last, end: piece.end };
    else out.push(piece);
  }
  return out;
}

export class UnigramModel implements TokenModel {
  readonly type = 'Unigram';
  readonly #vocabulary: Vocabulary;
  readonly #trie = new Trie();
  readonly #lowest: number;

  constructor(
    readonly pieces: readonly (readonly [token: string, score: number])[],
    readonly unkId: number | undefined,
    readonly byteFallback: boolean,
  ) {
    this.#vocabulary = Vocabulary.fromList(pieces.map(([token]) => token));
    pieces.forEach(([token], id) => token !== '' && this.#trie.add(token, id));
    this.#lowest = pieces.reduce((lowest, [, score]) => Math.min(lowest, score), Infinity);
  }

  /** @throws `FormatError` if a piece is malformed or the unknown id is not there. */
  static fromJSON(value: unknown, path: string): UnigramModel {
    const json = asObject(value, path);
    const pieces = asArray(json['vocab'], `${path}.vocab`).map((raw, i): [string, number] => {
      const where = `${path}.vocab[${i}]`;
      const pair = asArray(raw, where);
      if (pair.length !== 2) throw badField(where, 'a token and its score', raw);
      return [asString(pair[0], where), asNumber(pair[1], where)];
    });
    const unk = json['unk_id'] ?? undefined;
    const unkId = unk === undefined ? undefined : asId(unk, `${path}.unk_id`);
    if (unkId !== undefined && unkId >= pieces.length)
      throw badField(`${path}.unk_id`, 'an id of the vocabulary', unkId);
    return new UnigramModel(pieces, unkId, booleanField(json, 'byte_fallback', path, false));
  }

  get size(): number {
    return this.pieces.length;
  }

  tokenToId(token: string): number | undefined {
    return this.#vocabulary.id(token);
  }

  idToToken(id: number): string | undefined {
    return this.#vocabulary.token(id);
  }

  tokenize(word: string, emit: EmitToken): void {
    const codes = codePoints(word);
    const unknown = { id: this.unkId ?? -1, score: this.#lowest - UNKNOWN_PENALTY };
    const best = viterbi(codes, this.#trie, (id) => this.pieces[id]![1], unknown);
    let byte = 0;
    for (const { start, end } of fuseUnknown(best, unknown.id)) {
      const token = String.fromCodePoint(...codes.subarray(start, end));
      const length = utf8Length(token);
      this.#emitPiece(token, byte, length, emit);
      byte += length;
    }
  }

  toJSON(): Record<string, unknown> {
    return { type: 'Unigram', unk_id: this.unkId ?? null, vocab: this.pieces, byte_fallback: this.byteFallback };
  }

  #emitPiece(token: string, byte: number, length: number, emit: EmitToken): void {
    const id = this.#vocabulary.id(token);
    if (id !== undefined) return emit(id, byte, byte + length);
    const bytes = this.byteFallback
      ? Array.from(encoder.encode(token), (value) => this.#vocabulary.id(fallbackToken(value)))
      : [undefined];
    if (bytes.every((value) => value !== undefined)) bytes.forEach((value) => emit(value, byte, byte + length));
    else if (this.unkId !== undefined) emit(this.unkId, byte, byte + length);
  }
}
