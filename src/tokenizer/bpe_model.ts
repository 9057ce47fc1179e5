/**
 * Byte-pair encoding of words, on bytes (GPT-2, Llama 3, Qwen) or on characters (Metaspace with byte fallback, CLIP).
 *
 * Source: Sennrich et al. 2016 (arXiv:1508.07909). Unknown characters, byte fallback, prefixes and suffixes behave as
 * in Hugging Face `tokenizers`, including the order in which a pending unknown token and fallback bytes come out.
 *
 * @module
 */
import { utf8Length } from './aligned_text.js';
import { BYTE_CHARS, bytesToAlphabet, fallbackToken } from './byte_level.js';
import type { IdBuffer } from './id_buffer.js';
import { asArray, asObject, badField, booleanField, optionalString } from './json_fields.js';
import { MAX_MERGES, MergeTable } from './merge_table.js';
import type { EmitToken, TokenModel } from './model.js';
import { Vocabulary } from './vocabulary.js';

/** Settings of a {@link BpeModel}, as `tokenizer.json` names them. */
export interface BpeOptions {
  readonly unkToken?: string | undefined;
  readonly continuingSubwordPrefix?: string | undefined;
  readonly endOfWordSuffix?: string | undefined;
  readonly fuseUnk: boolean;
  readonly byteFallback: boolean;
  readonly ignoreMerges: boolean;
}

export const PLAIN_BPE: BpeOptions = { fuseUnk: false, byteFallback: false, ignoreMerges: false };

/** Words whose ids are remembered; when full the cache starts anew. */
const CACHE_WORDS = 1 << 16;
const CACHE_WORD_LENGTH = 64;

const encoder = new TextEncoder();

export class BpeModel implements TokenModel {
  readonly type = 'BPE';
  readonly #unkId: number | undefined;
  readonly #byteIds: Int32Array;
  readonly #cache = new Map<string, number | Int32Array>();
  #ids = new Int32Array(256);
  #lengths = new Int32Array(256);
  #bytes = new Uint8Array(768);

  constructor(
    readonly vocabulary: Vocabulary,
    readonly merges: MergeTable,
    readonly options: BpeOptions = PLAIN_BPE,
  ) {
    this.#byteIds = Int32Array.from(BYTE_CHARS, (char) => vocabulary.id(char) ?? -1);
    this.#unkId = options.unkToken === undefined ? undefined : vocabulary.id(options.unkToken);
  }

  /**
   * Reads the `model` of a `tokenizer.json`.
   *
   * @throws `FormatError` if the vocabulary or a merge is malformed, or a merge names a token that is not there.
   */
  static fromJSON(value: unknown, path: string): BpeModel {
    const json = asObject(value, path);
    const vocabulary = Vocabulary.fromJSON(json['vocab'], `${path}.vocab`);
    const dropout = json['dropout'] ?? 0;
    if (dropout !== 0) throw badField(`${path}.dropout`, 'null or 0 (merging is deterministic here)', dropout);
    const options: BpeOptions = {
      unkToken: optionalString(json, 'unk_token', path),
      continuingSubwordPrefix: optionalString(json, 'continuing_subword_prefix', path),
      endOfWordSuffix: optionalString(json, 'end_of_word_suffix', path),
      fuseUnk: booleanField(json, 'fuse_unk', path, false),
      byteFallback: booleanField(json, 'byte_fallback', path, false),
      ignoreMerges: booleanField(json, 'ignore_merges', path, false),
    };
    if (options.unkToken !== undefined && vocabulary.id(options.unkToken) === undefined) {
      throw badField(`${path}.unk_token`, 'a token of the vocabulary', options.unkToken);
    }
    const merges = readMerges(json['merges'], `${path}.merges`, vocabulary, options.continuingSubwordPrefix ?? '');
    return new BpeModel(vocabulary, merges, options);
  }

  get size(): number {
    return this.vocabulary.size;
  }

  tokenToId(token: string): number | undefined {
    return this.vocabulary.id(token);
  }

  idToToken(id: number): string | undefined {
    return this.vocabulary.token(id);
  }

  tokenize(word: string, emit: EmitToken): void {
    if (word === '') return;
    const whole = this.options.ignoreMerges ? this.vocabulary.id(word) : undefined;
    if (whole !== undefined) return emit(whole, 0, utf8Length(word));
    this.#emit(this.#merge(this.#symbolsOf(word)), emit);
  }

  /** Cuts a word given as text, on its bytes. */
  tokenizeBytes(word: string, emit: EmitToken): void {
    if (word !== '') this.#emit(this.#mergeBytes(word), emit);
  }

  /** Appends the ids of a word given as text, on its bytes. Words seen before come from a cache. */
  appendBytes(word: string, out: IdBuffer): void {
    const known = this.#cache.get(word);
    if (known !== undefined) {
      if (typeof known === 'number') out.push(known);
      else out.pushAll(known);
      return;
    }
    const count = this.#mergeBytes(word);
    out.pushAll(this.#ids, count);
    if (word.length <= CACHE_WORD_LENGTH) this.#remember(word, count);
  }

  toJSON(): Record<string, unknown> {
    const { options, vocabulary } = this;
    return {
      type: 'BPE',
      dropout: null,
      unk_token: options.unkToken ?? null,
      continuing_subword_prefix: options.continuingSubwordPrefix ?? null,
      end_of_word_suffix: options.endOfWordSuffix ?? null,
      fuse_unk: options.fuseUnk,
      byte_fallback: options.byteFallback,
      ignore_merges: options.ignoreMerges,
      vocab: vocabulary.toJSON(),
      merges: this.merges.entries().map(({ left, right }) => [vocabulary.token(left), vocabulary.token(right)]),
    };
  }

  #emit(count: number, emit: EmitToken): void {
    const ids = this.#ids;
    const lengths = this.#lengths;
    for (let i = 0, at = 0; i < count; i++) {
      const end = at + lengths[i]!;
      emit(ids[i]!, at, end);
      at = end;
    }
  }

  #remember(word: string, count: number): void {
    if (this.#cache.size >= CACHE_WORDS) this.#cache.clear();
    // A long slice keeps the whole text it was cut from alive; the copy does not.
    const key = word.length < 13 ? word : Buffer.from(word, 'utf16le').toString('utf16le');
    this.#cache.set(key, count === 1 ? this.#ids[0]! : this.#ids.slice(0, count));
  }

  #merge(count: number): number {
    return this.merges.mergeWord(this.#ids, this.#lengths, count);
  }

  #mergeBytes(word: string): number {
    if (word.length * 3 > this.#bytes.length) this.#bytes = new Uint8Array(word.length * 4);
    const { written } = encoder.encodeInto(word, this.#bytes);
    this.#reserve(written);
    const ids = this.#ids;
    if (this.options.ignoreMerges) {
      const whole = this.vocabulary.id(bytesToAlphabet(this.#bytes.subarray(0, written)));
      if (whole !== undefined) {
        ids[0] = whole;
        this.#lengths[0] = written;
        return 1;
      }
    }
    for (let i = 0; i < written; i++) {
      const id = this.#byteIds[this.#bytes[i]!]!;
      if (id < 0) return this.#merge(this.#symbolsOf(bytesToAlphabet(this.#bytes.subarray(0, written)), true));
      ids[i] = id;
      this.#lengths[i] = 1;
    }
    return this.#merge(written);
  }

  /**
   * Writes the ids of the word's characters. `asBytes`: the characters are the byte-level alphabet, so each covers one
   * byte of the original.
   */
  #symbolsOf(word: string, asBytes = false): number {
    const { continuingSubwordPrefix: prefix, endOfWordSuffix: suffix, byteFallback, fuseUnk } = this.options;
    this.#reserve(word.length * 3);
    let count = 0;
    const add = (id: number, length: number): void => {
      this.#ids[count] = id;
      this.#lengths[count++] = length;
    };
    let unknownBytes = 0;
    for (let at = 0; at < word.length;) {
      const code = word.codePointAt(at)!;
      const end = at + (code > 0xffff ? 2 : 1);
      const char = word.slice(at, end);
      let symbol = char;
      if (at > 0 && prefix !== undefined) symbol = prefix + symbol;
      if (end === word.length && suffix !== undefined) symbol += suffix;
      at = end;
      const length = asBytes ? 1 : code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
      const id = this.vocabulary.id(symbol);
      if (id !== undefined) {
        if (unknownBytes > 0) add(this.#unkId!, unknownBytes);
        unknownBytes = 0;
        add(id, length);
        continue;
      }
      const bytes = byteFallback ? this.#fallbackIds(symbol) : undefined;
      if (bytes !== undefined) {
        this.#reserve(count + bytes.length + word.length * 3);
        for (const byte of bytes) add(byte, 1);
      } else if (this.#unkId !== undefined) {
        if (unknownBytes > 0 && !fuseUnk) {
          add(this.#unkId, unknownBytes);
          unknownBytes = 0;
        }
        unknownBytes += length;
      }
    }
    if (unknownBytes > 0) add(this.#unkId!, unknownBytes);
    return count;
  }

  #fallbackIds(symbol: string): number[] | undefined {
    const ids: number[] = [];
    for (const byte of encoder.encode(symbol)) {
      const id = this.vocabulary.id(fallbackToken(byte));
      if (id === undefined) return undefined;
      ids.push(id);
    }
    return ids;
  }

  #reserve(count: number): void {
    if (count <= this.#ids.length) return;
    const grow = (old: Int32Array): Int32Array<ArrayBuffer> => {
      const larger = new Int32Array(count * 2);
      larger.set(old);
      return larger;
    };
    this.#ids = grow(this.#ids);
    this.#lengths = grow(this.#lengths);
  }
}

function readMerges(value: unknown, path: string, vocabulary: Vocabulary, prefix: string): MergeTable {
  const list = asArray(value, path);
  if (list.length > MAX_MERGES) throw badField(path, `at most ${MAX_MERGES} merges`, list);
  const table = new MergeTable(list.length);
  list.forEach((merge, rank) => {
    const where = `${path}[${rank}]`;
    const pair: unknown = typeof merge === 'string' ? merge.split(' ') : merge;
    if (!Array.isArray(pair) || pair.length !== 2 || typeof pair[0] !== 'string' || typeof pair[1] !== 'string') {
      throw badField(where, 'two tokens, as an array or parted by one space', merge);
    }
    const [left, right] = pair as [string, string];
    const idOf = (token: string): number => {
      const id = vocabulary.id(token);
      if (id === undefined) throw badField(where, 'tokens of the vocabulary', token);
      return id;
    };
    const tail = prefix !== '' && right.startsWith(prefix) ? right.slice(prefix.length) : right;
    table.set(idOf(left), idOf(right), rank, idOf(left + tail));
  });
  return table;
}
