/** Tokenizers in SentencePiece `.model` files, BPE and Unigram. */
import { readFile } from 'node:fs/promises';
import { checkKeys } from '../util/assert.js';
import { AddedTokens, specialToken } from './added_tokens.js';
import { byteOfFallbackToken } from './byte_level.js';
import { mergePieces } from './sentencepiece_bpe.js';
import {
  PieceType,
  SPACE_MARK,
  normalizeForPieces,
  readSentencePieceModel,
  type SentencePieceModel,
} from './sentencepiece_model.js';
import { WindowTokenDecoder } from './token_decoder.js';
import {
  Tokenizer,
  checkText,
  toCodePoints,
  unknownId,
  type DecodeOptions,
  type EncodeOptions,
  type Encoding,
  type OffsetOptions,
  type TokenDecoder,
} from './tokenizer.js';
import { Trie } from './trie.js';
import { UNKNOWN_PENALTY, fuseUnknown, viterbi, type CutPiece } from './unigram_model.js';

/** What a {@link SentencePieceTokenizer} puts around a text; the file does not say. */
export interface SentencePieceOptions {
  /** Put `<s>` in front. Default `false`, as in the library. */
  readonly addBos?: boolean;
  /** Put `</s>` at the end. Default `false`, as in the library. */
  readonly addEos?: boolean;
}

const encoder = new TextEncoder();

/**
 * A tokenizer read from a SentencePiece `.model` file.
 *
 * Special tokens in the text are ordinary text unless `allowedSpecial` says otherwise, as in the library; then each
 * stretch between them is encoded as a text of its own.
 */
export class SentencePieceTokenizer extends Tokenizer {
  readonly specialTokens: ReadonlyMap<string, number>;
  readonly #model: SentencePieceModel;
  readonly #ids = new Map<string, number>();
  readonly #byteIds = new Int32Array(256).fill(-1);
  readonly #userDefined = new Trie();
  /** Every piece that text may be cut into. */
  readonly #pieces = new Trie();
  readonly #controls: AddedTokens;
  readonly #before: readonly number[];
  readonly #after: readonly number[];
  readonly #scores: readonly number[];
  readonly #unknownScore: number;

  constructor(model: SentencePieceModel, options: SentencePieceOptions = {}) {
    super();
    checkKeys('SentencePieceTokenizer', options, ['addBos', 'addEos']);
    this.#model = model;
    const controls: [string, number][] = [];
    let lowest = Infinity;
    let highest = -Infinity;
    model.pieces.forEach(({ text, score, type }, id) => {
      this.#ids.set(text, id);
      if (type === PieceType.control) controls.push([text, id]);
      if (type === PieceType.byte) this.#byteIds[byteOfFallbackToken(text)] = id;
      if (type === PieceType.userDefined) this.#userDefined.add(text, id);
      if (type === PieceType.normal || type === PieceType.userDefined) this.#pieces.add(text, id);
      if (type === PieceType.normal) [lowest, highest] = [Math.min(lowest, score), Math.max(highest, score)];
    });
    // A user-defined piece beats any cut of its text: its score is a bit below that of as many best pieces as bytes.
    this.#scores = model.pieces.map(({ text, score, type }) =>
      type === PieceType.userDefined ? Math.fround(encoder.encode(text).length * highest) - 0.1 : score,
    );
    this.#unknownScore = Math.fround(lowest - UNKNOWN_PENALTY);
    this.#controls = new AddedTokens(controls.map(([text, id]) => specialToken(text, id)));
    this.specialTokens = new Map(controls);
    const named = (text: string, wanted: boolean | undefined): number[] => {
      const id = this.specialTokens.get(text);
      return wanted === true && id !== undefined ? [id] : [];
    };
    this.#before = named('<s>', options.addBos);
    this.#after = named('</s>', options.addEos);
  }

  /** @throws `FormatError` if `data` is not the contents of a `.model` file. */
  static fromBytes(data: Uint8Array, options: SentencePieceOptions = {}): SentencePieceTokenizer {
    return new SentencePieceTokenizer(readSentencePieceModel(data), options);
  }

  /** @throws `FormatError` if it is not a `.model` file; the file system's error if it cannot be read. */
  static async fromFile(path: string, options: SentencePieceOptions = {}): Promise<SentencePieceTokenizer> {
    return SentencePieceTokenizer.fromBytes(await readFile(path), options);
  }

  override get vocabSize(): number {
    return this.#model.pieces.length;
  }

  override encodeToTypedArray(text: string, options: EncodeOptions = {}): Int32Array {
    return Int32Array.from(this.encodeWithOffsets(text, options).ids);
  }

  override encodeWithOffsets(text: string, options: OffsetOptions = {}): Encoding {
    checkText('encode', text);
    const ids: number[] = [];
    let offsets: [number, number][] = [];
    const add = (id: number, start: number, end: number): void => {
      ids.push(id);
      offsets.push([start, end]);
    };
    const around = options.addSpecialTokens ?? true;
    if (around) for (const id of this.#before) add(id, 0, 0);
    for (const { start, end, token } of this.#controls.split(text, options.allowedSpecial ?? 'none', false)) {
      if (token !== undefined) add(token.id, start, end);
      else this.#encodePart(text.slice(start, end), start, add);
    }
    if (options.unit === 'codePoint') offsets = toCodePoints(text, offsets);
    if (around) for (const id of this.#after) add(id, 0, 0);
    return { ids, offsets, tokens: ids.map((id) => this.#model.pieces[id]!.text) };
  }

  override decode(ids: Iterable<number>, options: DecodeOptions = {}): string {
    const { addDummyPrefix, removeExtraWhitespaces, pieces, unkSurface } = this.#model;
    let out = '';
    let bytes: number[] = [];
    /** Whether the mark that encoding put in front is still to come. */
    let expectPrefix = addDummyPrefix || removeExtraWhitespaces;
    const flush = (): void => {
      if (bytes.length > 0) expectPrefix = false;
      out += textOfBytes(bytes);
      bytes = [];
    };
    for (const id of ids) {
      const piece = pieces[id];
      if (piece === undefined) throw unknownId('decode', id, pieces.length);
      if (piece.type === PieceType.byte) {
        bytes.push(byteOfFallbackToken(piece.text));
        continue;
      }
      flush();
      if (piece.type === PieceType.control) {
        if (options.skipSpecialTokens === false) out += piece.text;
        continue;
      }
      let text = piece.type === PieceType.unknown ? unkSurface : piece.text;
      if (expectPrefix && text.startsWith(SPACE_MARK)) {
        text = text.slice(SPACE_MARK.length);
        expectPrefix = removeExtraWhitespaces;
      }
      if (text !== '') expectPrefix = false;
      out += text.replaceAll(SPACE_MARK, ' ');
    }
    flush();
    return out;
  }

  override tokenToId(token: string): number | undefined {
    return this.#ids.get(token);
  }

  override idToToken(id: number): string | undefined {
    return this.#model.pieces[id]?.text;
  }

  override tokenBytes(id: number): Uint8Array {
    const piece = this.#model.pieces[id];
    if (piece === undefined) throw unknownId('tokenBytes', id, this.vocabSize);
    if (piece.type === PieceType.byte) return Uint8Array.of(byteOfFallbackToken(piece.text));
    return encoder.encode(piece.text.replaceAll(SPACE_MARK, ' '));
  }

  override createDecoder(options: DecodeOptions = {}): TokenDecoder {
    return new WindowTokenDecoder(this, options.skipSpecialTokens ?? true);
  }

  #encodePart(text: string, base: number, add: (id: number, start: number, end: number) => void): void {
    const { unkId, byteFallback, algorithm, pieces } = this.#model;
    const { codes, starts, ends } = normalizeForPieces(this.#model, this.#userDefined, text);
    let cut: CutPiece[];
    if (algorithm === 'bpe') {
      cut = mergePieces(codes, pieces, (piece) => this.#cuttable(piece), this.#userDefined, unkId);
    } else {
      const unknown = { id: unkId, score: this.#unknownScore };
      cut = viterbi(codes, this.#pieces, (id) => this.#scores[id]!, unknown, Math.fround);
    }
    for (const { id, start, end } of byteFallback ? cut : fuseUnknown(cut, unkId)) {
      const [from, to] = [base + starts[start]!, base + ends[end - 1]!];
      if (id !== unkId || !byteFallback) {
        add(id, from, to);
        continue;
      }
      for (const byte of encoder.encode(String.fromCodePoint(...codes.subarray(start, end))))
        add(this.#byteIds[byte]!, from, to);
    }
  }

  /** Pieces that text may be cut into; the others are reserved for what text does not say. */
  #cuttable(text: string): number | undefined {
    const id = this.#ids.get(text);
    const type = id === undefined ? undefined : this.#model.pieces[id]!.type;
    const reserved = type === PieceType.unknown || type === PieceType.control || type === PieceType.byte;
    return reserved ? undefined : id;
  }
}

/** UTF-8 to text, one U+FFFD for every byte that belongs to no character. */
function textOfBytes(bytes: readonly number[]): string {
  const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  let out = '';
  for (let at = 0; at < bytes.length;) {
    const first = bytes[at]!;
    const length = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    try {
      out += strict.decode(Uint8Array.from(bytes.slice(at, at + length)));
      at += length;
    } catch {
      out += '\ufffd';
      at++;
    }
  }
  return out;
}
