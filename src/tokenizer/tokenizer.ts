/** What every tokenizer does. */
import { AttributeError } from '../errors.js';
import type { AllowedSpecial } from './added_tokens.js';
import { formatValue } from '../util/format.js';

/** Options of `encode`. */
export interface EncodeOptions {
  /** Put the tokenizer's own special tokens (begin of text, [CLS] …) around the text. Default `true`. */
  readonly addSpecialTokens?: boolean;
  /**
   * Which special tokens count as such when they stand in the text; the others are ordinary text. Use `'none'` for text
   * from strangers. Default `'all'`.
   */
  readonly allowedSpecial?: AllowedSpecial;
}

/** Options of `encodeWithOffsets`. */
export interface OffsetOptions extends EncodeOptions {
  /** What offsets count: UTF-16 units as `String.slice` does, or code points as Python does. Default `'utf16'`. */
  readonly unit?: 'utf16' | 'codePoint';
}

/** Options of `decode`. */
export interface DecodeOptions {
  /** Leave special tokens out of the text. Default `true`. */
  readonly skipSpecialTokens?: boolean;
}

/** An encoded text with the place of each token. */
export interface Encoding {
  readonly ids: number[];
  readonly tokens: string[];
  /** Start and end of each token in the text; (0, 0) for tokens that were put around it. */
  readonly offsets: [start: number, end: number][];
}

/** Turns ids into text as they come. */
export interface TokenDecoder {
  /** Text that is complete with these ids; characters whose bytes are still to come wait. */
  push(ids: number | Iterable<number>): string;
  /** What is left at the end; bytes that never became a character give U+FFFD. */
  end(): string;
}

/** Cuts text into tokens of a vocabulary and puts it together again. */
export abstract class Tokenizer {
  /** Number of rows an embedding needs: one past the largest id. */
  abstract readonly vocabSize: number;
  /** Special tokens and their ids. */
  abstract readonly specialTokens: ReadonlyMap<string, number>;

  /**
   * Ids of `text` as a typed array, the fastest form.
   *
   * @throws `AttributeError` if `text` is no string or `allowedSpecial` names an unknown token.
   */
  abstract encodeToTypedArray(text: string, options?: EncodeOptions): Int32Array;
  /** Ids of `text` with their tokens and places. */
  abstract encodeWithOffsets(text: string, options?: OffsetOptions): Encoding;
  /**
   * Text of `ids`.
   *
   * @throws `AttributeError` if an id is not in the vocabulary.
   */
  abstract decode(ids: Iterable<number>, options?: DecodeOptions): string;
  /** Id of a token, or undefined if the vocabulary does not have it. */
  abstract tokenToId(token: string): number | undefined;
  /** Token of an id, or undefined if the vocabulary does not have it. */
  abstract idToToken(id: number): string | undefined;
  /** The UTF-8 bytes a token stands for in the middle of a text. A character may be spread over several tokens. */
  abstract tokenBytes(id: number): Uint8Array;
  /** A decoder for ids that arrive one after another. */
  abstract createDecoder(options?: DecodeOptions): TokenDecoder;

  /**
   * Ids of `text`.
   *
   * @throws `AttributeError` if `text` is no string or `allowedSpecial` names an unknown token.
   */
  encode(text: string, options: EncodeOptions = {}): number[] {
    return Array.from(this.encodeToTypedArray(text, options));
  }
}

/** @throws `AttributeError` unless `text` is a string. */
export function checkText(op: string, text: unknown): asserts text is string {
  if (typeof text === 'string') return;
  throw new AttributeError({ op, argument: 'text', expected: 'a string', actual: formatValue(text) });
}

/** The error for an id outside the vocabulary. */
export function unknownId(op: string, id: unknown, vocabSize: number): AttributeError {
  return new AttributeError({
    op,
    argument: 'ids',
    expected: `ids of the vocabulary, 0 to ${vocabSize - 1}`,
    actual: formatValue(id),
  });
}

/** Rewrites offsets from UTF-16 units to code points. */
export function toCodePoints(text: string, offsets: readonly [number, number][]): [number, number][] {
  const points = new Int32Array(text.length + 1);
  let count = 0;
  for (let unit = 0; unit < text.length;) {
    const units = text.codePointAt(unit)! > 0xffff ? 2 : 1;
    points.fill(count++, unit, unit + units);
    unit += units;
  }
  points[text.length] = count;
  return offsets.map(([start, end]) => [points[start]!, points[end]!]);
}
