/** Byte-level BPE vocabularies in the formats of GPT-2 and of tiktoken. */
import { FormatError } from '../errors.js';
import { BpeModel, PLAIN_BPE } from './bpe_model.js';
import { bytesToAlphabet } from './byte_level.js';
import { MAX_MERGES, MergeTable } from './merge_table.js';
import { Vocabulary } from './vocabulary.js';

/** Longest token of a `.tiktoken` file, in bytes; all its splits are tried. */
const MAX_TOKEN_BYTES = 4096;
/** An odd multiplier, so that no hash loses bits. */
const HASH_BASE = 0x01000193;

function badLine(file: string, line: number, expected: string, actual: string): FormatError {
  const shown = actual.length > 60 ? `${actual.slice(0, 60)}…` : actual;
  return new FormatError({ op: file, argument: `line ${line}`, expected, actual: JSON.stringify(shown) });
}

/**
 * The model of `encoder.json` (already parsed) and `vocab.bpe`.
 *
 * @throws `FormatError` if the vocabulary is malformed or a merge names a token that is not there.
 */
export function readGpt2(encoder: unknown, merges: string): BpeModel {
  const vocabulary = Vocabulary.fromJSON(encoder, 'encoder.json');
  const lines = merges.split('\n');
  const table = new MergeTable(lines.length);
  let rank = 0;
  lines.forEach((raw, i) => {
    const line = raw.endsWith('\r') ? raw.slice(0, -1) : raw;
    if (line === '' || (i === 0 && line.startsWith('#version'))) return;
    const [left = '', right = '', ...more] = line.split(' ');
    const ids = [left, right, left + right].map((token) => vocabulary.id(token));
    if (more.length > 0 || ids.includes(undefined)) {
      throw badLine('vocab.bpe', i + 1, 'two tokens of encoder.json, parted by a space', line);
    }
    table.set(ids[0]!, ids[1]!, rank++, ids[2]!);
  });
  return new BpeModel(vocabulary, table, PLAIN_BPE);
}

/**
 * The model of a `.tiktoken` file. Its ranks are ids, and any two tokens whose joined bytes are a token may merge.
 *
 * @throws `FormatError` if a line is malformed, an id or token comes twice, or a byte has no token.
 */
export function readTiktoken(text: string): BpeModel {
  const vocabulary = new Vocabulary();
  const tokens: [token: string, id: number][] = [];
  text.split('\n').forEach((raw, i) => {
    const line = raw.trim();
    if (line === '') return;
    const [base64 = '', rank = '', ...more] = line.split(' ');
    const id = /^\d{1,8}$/.test(rank) ? Number(rank) : Number.NaN;
    // Whisper's file holds an empty token, written as a lone padding character.
    const sound = base64 === '=' || (/^[A-Za-z0-9+/]+={0,2}$/.test(base64) && base64.length % 4 === 0);
    if (more.length > 0 || !(id < MAX_MERGES) || !sound) {
      throw badLine('tiktoken', i + 1, 'a token in base64 and its rank', line);
    }
    const bytes = Buffer.from(base64, 'base64');
    const token = bytesToAlphabet(bytes);
    if (bytes.length > MAX_TOKEN_BYTES) throw badLine('tiktoken', i + 1, `at most ${MAX_TOKEN_BYTES} bytes`, line);
    if (vocabulary.id(token) !== undefined || vocabulary.token(id) !== undefined) {
      throw badLine('tiktoken', i + 1, 'a token and a rank of its own', line);
    }
    vocabulary.set(token, id);
    tokens.push([token, id]);
  });
  for (let byte = 0; byte < 256; byte++) {
    if (vocabulary.id(bytesToAlphabet(Uint8Array.of(byte))) === undefined) {
      throw new FormatError({
        op: 'tiktoken',
        argument: 'file',
        expected: 'a token for each byte',
        actual: `none for ${byte}`,
      });
    }
  }
  const table = new MergeTable(tokens.length * 3);
  const index = new TokenIndex(tokens);
  for (const [token, id] of tokens) index.splits(token, (left, right) => table.set(left, right, id, id));
  return new BpeModel(vocabulary, table, { ...PLAIN_BPE, ignoreMerges: true });
}

/** Finds the parts of tokens that are tokens too, by rolling hashes instead of substrings. */
class TokenIndex {
  readonly #slots: Int32Array;
  readonly #mask: number;
  readonly #tokens: readonly (readonly [token: string, id: number])[];
  readonly #prefixes = new Int32Array(MAX_TOKEN_BYTES + 1);

  constructor(tokens: readonly (readonly [token: string, id: number])[]) {
    let capacity = 1024;
    while (capacity < tokens.length * 4) capacity *= 2;
    this.#slots = new Int32Array(capacity).fill(-1);
    this.#mask = capacity - 1;
    this.#tokens = tokens;
    tokens.forEach(([token], index) => {
      let slot = this.#slotOf(this.#hash(token));
      while (this.#slots[slot]! >= 0) slot = (slot + 1) & this.#mask;
      this.#slots[slot] = index;
    });
  }

  /** Calls `visit` with the ids of both parts for every cut of `token` into two tokens. */
  splits(token: string, visit: (left: number, right: number) => void): void {
    const whole = this.#hash(token);
    const prefixes = this.#prefixes;
    let power = 1;
    for (let cut = token.length - 1; cut > 0; cut--) {
      power = Math.imul(power, HASH_BASE);
      const left = this.#find(token, 0, cut, prefixes[cut]!);
      if (left < 0) continue;
      const right = this.#find(token, cut, token.length, (whole - Math.imul(prefixes[cut]!, power)) | 0);
      if (right >= 0) visit(left, right);
    }
  }

  /** Hashes `token` and notes the hash of each of its prefixes. */
  #hash(token: string): number {
    let hash = 0;
    for (let i = 0; i < token.length; i++) {
      hash = (Math.imul(hash, HASH_BASE) + token.charCodeAt(i)) | 0;
      this.#prefixes[i + 1] = hash;
    }
    return hash;
  }

  #slotOf(hash: number): number {
    return (hash ^ (hash >>> 15)) & this.#mask;
  }

  #find(text: string, from: number, to: number, hash: number): number {
    for (let slot = this.#slotOf(hash); this.#slots[slot]! >= 0; slot = (slot + 1) & this.#mask) {
      const [token, id] = this.#tokens[this.#slots[slot]!]!;
      if (token.length !== to - from) continue;
      let i = 0;
      while (i < token.length && token.charCodeAt(i) === text.charCodeAt(from + i)) i++;
      if (i === token.length) return id;
    }
    return -1;
  }
}
