/**
 * SentencePiece's precompiled normalisation rules: a double-array trie from byte strings to their replacements.
 *
 * Layout: u32 length of the trie in bytes, the trie's u32 units, then the replacements, each ended by a zero byte.
 * A unit holds label (bits 0-7), leaf flag (8), and offset to its children (bits 10-30, times 256 if bit 9 is set).
 * Source: the format of the Darts-clone library, and SentencePiece's normaliser.
 *
 * @module
 */
import { FormatError } from '../errors.js';

const encoder = new TextEncoder();

export class Charsmap {
  readonly #trie: Uint32Array;
  readonly #replacements: Buffer;

  /** @throws `FormatError` if the lengths do not fit. An empty map changes nothing. */
  constructor(data: Uint8Array) {
    const bytes = Buffer.from(data);
    const size = bytes.length < 4 ? 0 : bytes.readUInt32LE(0);
    if ((bytes.length > 0 && bytes.length < 4) || size % 4 !== 0 || size + 4 > Math.max(4, bytes.length)) {
      throw new FormatError({
        op: 'tokenizer',
        argument: 'precompiled_charsmap',
        expected: 'a trie and its replacements',
        actual: `${bytes.length} bytes with a trie of ${size}`,
      });
    }
    this.#trie = new Uint32Array(size / 4);
    for (let i = 0; i < this.#trie.length; i++) this.#trie[i] = bytes.readUInt32LE(4 + 4 * i);
    this.#replacements = bytes.subarray(4 + size);
  }

  /**
   * Longest rule that applies at `from`: how many bytes it replaces and by what; length 0 if there is none.
   * `bytes` is UTF-8.
   */
  longestMatch(bytes: Uint8Array, from: number): { readonly length: number; readonly replacement: string } {
    const trie = this.#trie;
    let length = 0;
    let value = 0;
    if (trie.length > 0) {
      let node = offsetOf(trie[0]!);
      for (let at = from; at < bytes.length; at++) {
        node ^= bytes[at]!;
        const unit = trie[node] ?? 0;
        if ((unit & 0x800000ff) >>> 0 !== bytes[at]!) break;
        node ^= offsetOf(unit);
        if ((unit >>> 8) & 1) {
          length = at + 1 - from;
          value = (trie[node] ?? 0) & 0x7fffffff;
        }
      }
    }
    return { length, replacement: length === 0 ? '' : this.#replacementAt(value) };
  }

  /**
   * Applies the rules as Hugging Face does: a grapheme cluster short enough that a rule covers all of it, else each
   * character on its own. `emit` sees every part with its units in `text`; what it returns is joined.
   */
  normalizeClusters(text: string, emit: (part: string, from: number, to: number) => string): string {
    let out = '';
    for (const { segment, index } of new Intl.Segmenter('en', { granularity: 'grapheme' }).segment(text)) {
      const bytes = encoder.encode(segment);
      const whole = bytes.length < 6 ? this.longestMatch(bytes, 0) : undefined;
      if (whole !== undefined && whole.length > 0) {
        out += emit(whole.replacement, index, index + segment.length);
        continue;
      }
      let at = index;
      for (const char of segment) {
        const encoded = encoder.encode(char);
        const match = this.longestMatch(encoded, 0);
        out += emit(match.length > 0 ? match.replacement : char, at, at + char.length);
        at += char.length;
      }
    }
    return out;
  }

  #replacementAt(offset: number): string {
    const end = this.#replacements.indexOf(0, offset);
    return this.#replacements.toString('utf8', offset, end < 0 ? this.#replacements.length : end);
  }
}

function offsetOf(unit: number): number {
  return (unit >>> 10) << ((unit & 0x200) >>> 6);
}
