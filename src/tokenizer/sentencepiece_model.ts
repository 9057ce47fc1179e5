/** Contents of a SentencePiece `.model` file, and the normalisation it prescribes. */
import { FormatError } from '../errors.js';
import { byteOfFallbackToken } from './byte_level.js';
import { Charsmap } from './charsmap.js';
import { floatOf, protobufFields, textOf } from './protobuf.js';
import { codePoints, type Trie } from './trie.js';

/** Kind of a piece. */
export const PieceType = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

/** An entry of the vocabulary. */
export interface Piece {
  readonly text: string;
  readonly score: number;
  readonly type: number;
}

/** What a `.model` file says, as far as encoding and decoding need it. */
export interface SentencePieceModel {
  readonly pieces: readonly Piece[];
  readonly algorithm: 'unigram' | 'bpe';
  readonly byteFallback: boolean;
  readonly unkId: number;
  /** Text that unknown pieces decode to. */
  readonly unkSurface: string;
  readonly charsmap: Charsmap;
  readonly addDummyPrefix: boolean;
  readonly removeExtraWhitespaces: boolean;
  readonly escapeWhitespaces: boolean;
  readonly whitespaceAsSuffix: boolean;
}

/** The mark that stands for a space. */
export const SPACE_MARK = '▁';

function bad(argument: string, expected: string, actual: string): FormatError {
  return new FormatError({ op: 'sentencepiece', argument, expected, actual });
}

function readPiece(message: Uint8Array): Piece {
  let text = '';
  let score = 0;
  let type: number = PieceType.normal;
  for (const field of protobufFields(message)) {
    if (field.number === 1) text = textOf(field);
    else if (field.number === 2) score = floatOf(field);
    else if (field.number === 3) type = field.integer;
  }
  return { text, score, type };
}

/**
 * Reads a `.model` file.
 *
 * @throws `FormatError` if it is no such file, has no pieces, or another algorithm than BPE or Unigram.
 */
export function readSentencePieceModel(data: Uint8Array): SentencePieceModel {
  const pieces: Piece[] = [];
  let algorithm = 1;
  let byteFallback = false;
  let unkSurface = ' \u2047 ';
  let charsmap: Uint8Array = new Uint8Array(0);
  let whitespaceAsSuffix = false;
  const flags = { addDummyPrefix: true, removeExtraWhitespaces: true, escapeWhitespaces: true };
  for (const field of protobufFields(data)) {
    if (field.number === 1) pieces.push(readPiece(field.bytes));
    if (field.number === 2) {
      for (const entry of protobufFields(field.bytes)) {
        if (entry.number === 3) algorithm = entry.integer;
        else if (entry.number === 24) whitespaceAsSuffix = entry.integer !== 0;
        else if (entry.number === 35) byteFallback = entry.integer !== 0;
        else if (entry.number === 44) unkSurface = textOf(entry);
      }
    }
    if (field.number === 3) {
      for (const entry of protobufFields(field.bytes)) {
        if (entry.number === 2) charsmap = entry.bytes;
        else if (entry.number === 3) flags.addDummyPrefix = entry.integer !== 0;
        else if (entry.number === 4) flags.removeExtraWhitespaces = entry.integer !== 0;
        else if (entry.number === 5) flags.escapeWhitespaces = entry.integer !== 0;
      }
    }
  }
  if (algorithm !== 1 && algorithm !== 2) throw bad('model_type', '1 (unigram) or 2 (BPE)', String(algorithm));
  const unkId = pieces.findIndex(({ type }) => type === PieceType.unknown);
  if (unkId < 0) throw bad('pieces', 'a piece of type unknown', `${pieces.length} pieces without one`);
  const seen = new Set<string>();
  pieces.forEach(({ text, score, type }, id) => {
    if (text === '' || seen.has(text)) throw bad(`pieces[${id}]`, 'a text of its own', JSON.stringify(text));
    if (!Number.isFinite(score)) throw bad(`pieces[${id}].score`, 'a finite number', String(score));
    if (type === PieceType.byte && byteOfFallbackToken(text) < 0)
      throw bad(`pieces[${id}]`, 'a byte such as <0x0A>', text);
    seen.add(text);
  });
  if (byteFallback && pieces.filter(({ type }) => type === PieceType.byte).length !== 256) {
    throw bad('pieces', '256 bytes, for byte_fallback', 'other');
  }
  return {
    pieces,
    algorithm: algorithm === 1 ? 'unigram' : 'bpe',
    byteFallback,
    unkId,
    unkSurface,
    charsmap: new Charsmap(charsmap),
    whitespaceAsSuffix,
    ...flags,
  };
}

/** Normalised text as code points, each with its place in the original (UTF-16 units). */
export interface NormalizedText {
  readonly codes: Uint32Array;
  readonly starts: Int32Array;
  readonly ends: Int32Array;
}

const encoder = new TextEncoder();

/** Applies the rules and the treatment of spaces of a model; `userDefined` texts pass unchanged. */
export function normalizeForPieces(model: SentencePieceModel, userDefined: Trie, text: string): NormalizedText {
  const codes: number[] = [];
  const starts: number[] = [];
  const ends: number[] = [];
  const put = (part: string, start: number, end: number): void => {
    for (const char of part) {
      codes.push((char === ' ' && model.escapeWhitespaces ? SPACE_MARK : char).codePointAt(0)!);
      starts.push(start);
      ends.push(end);
    }
  };
  const parts = rewritten(model.charsmap, userDefined, text);
  const trim = model.removeExtraWhitespaces;
  if (trim) while (parts.length > 0 && /^ *$/.test(parts[0]!.text)) parts.shift();
  if (parts.length === 0) return { codes: new Uint32Array(0), starts: new Int32Array(0), ends: new Int32Array(0) };
  const first = parts[0]!.start;
  if (model.addDummyPrefix && !model.whitespaceAsSuffix) put(' ', first, first);
  let afterSpace = trim;
  for (const part of parts) {
    const kept = afterSpace ? part.text.replace(/^ +/, '') : part.text;
    if (kept === '') continue;
    put(kept, part.start, part.end);
    afterSpace = trim && kept.endsWith(' ');
  }
  if (trim) {
    const space = (model.escapeWhitespaces ? SPACE_MARK : ' ').codePointAt(0)!;
    while (codes.length > 0 && codes[codes.length - 1] === space) [codes, starts, ends].forEach((list) => list.pop());
  }
  if (model.addDummyPrefix && model.whitespaceAsSuffix) put(' ', text.length, text.length);
  return { codes: Uint32Array.from(codes), starts: Int32Array.from(starts), ends: Int32Array.from(ends) };
}

interface RewrittenPart {
  readonly text: string;
  readonly start: number;
  readonly end: number;
}

function rewritten(charsmap: Charsmap, userDefined: Trie, text: string): RewrittenPart[] {
  const source = text.replace(/\p{Cs}/gu, '\ufffd');
  const chars = Array.from(source);
  const codes = codePoints(source);
  const bytes = encoder.encode(source);
  const parts: RewrittenPart[] = [];
  for (let at = 0, unit = 0, byte = 0; at < chars.length;) {
    const kept = userDefined.longest(codes, at);
    const rule = kept > 0 ? undefined : charsmap.longestMatch(bytes, byte);
    let count = Math.max(1, kept);
    if (rule !== undefined && rule.length > 0) {
      let covered = 0;
      for (count = 0; covered < rule.length && at + count < chars.length; count++)
        covered += byteLength(codes[at + count]!);
    }
    const own = chars.slice(at, at + count).join('');
    parts.push({
      text: rule !== undefined && rule.length > 0 ? rule.replacement : own,
      start: unit,
      end: unit + own.length,
    });
    for (let i = 0; i < count; i++) byte += byteLength(codes[at + i]!);
    unit += own.length;
    at += count;
  }
  return parts;
}

function byteLength(code: number): number {
  return code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
}
