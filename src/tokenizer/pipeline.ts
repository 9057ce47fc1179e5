/**
 * The tokenizer that a `tokenizer.json` describes: added tokens are found, the rest is normalised, cut into words,
 * cut into tokens by the model, and special tokens are put around.
 *
 * @module
 */
import { FormatError } from '../errors.js';
import { AddedTokens, readAddedTokens, type Segment } from './added_tokens.js';
import { AlignedText, unitRanges } from './aligned_text.js';
import { BpeModel } from './bpe_model.js';
import { byteOfFallbackToken } from './byte_level.js';
import { byteLevelTokenBytes, isByteLevelDecoder, readDecoder, type DecodeStep } from './decoder.js';
import { IdBuffer } from './id_buffer.js';
import { asObject, badField, stringField, type JsonObject } from './json_fields.js';
import type { TokenModel } from './model.js';
import { readNormalizer, type Normalizer } from './normalizer.js';
import { readPostProcessor, trimOffsets, type PostProcessor } from './post_processor.js';
import { AlphabetStage, SplitStage, readPreTokenizer, type Stage } from './pre_tokenizer.js';
import { ByteTokenDecoder, WindowTokenDecoder } from './token_decoder.js';
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
import { UnigramModel } from './unigram_model.js';
import { WordLevelModel, WordPieceModel } from './wordpiece_model.js';

/** The parts of a `tokenizer.json` other than the model and its added tokens, as they are in the file. */
export interface PipelineParts {
  readonly normalizer?: unknown;
  readonly pre_tokenizer?: unknown;
  readonly post_processor?: unknown;
  readonly decoder?: unknown;
}

const encoder = new TextEncoder();

/** A tokenizer made of the parts of a `tokenizer.json`. */
export class PipelineTokenizer extends Tokenizer {
  readonly vocabSize: number;
  readonly specialTokens: ReadonlyMap<string, number>;
  readonly #model: TokenModel;
  readonly #added: AddedTokens;
  readonly #parts: PipelineParts;
  readonly #normalizer: Normalizer | undefined;
  readonly #stages: readonly Stage[];
  readonly #post: PostProcessor;
  readonly #decoder: readonly DecodeStep[];
  /** The model when it takes the bytes of words, the byte-level alphabet being left out. */
  readonly #byteModel: BpeModel | undefined;
  /** Set when cutting is one plain split, so that no piece needs an object. */
  readonly #onlySplit: SplitStage | undefined;

  constructor(model: TokenModel, added: readonly AddedTokenInput[], parts: PipelineParts) {
    super();
    this.#model = model;
    this.#parts = parts;
    this.#normalizer = readNormalizer(parts.normalizer, 'normalizer');
    this.#added = new AddedTokens(added, (text) => this.#normalizer?.apply(text) ?? text);
    const stages = readPreTokenizer(parts.pre_tokenizer, 'pre_tokenizer');
    if (model instanceof BpeModel && stages[stages.length - 1] instanceof AlphabetStage) {
      this.#byteModel = model;
      stages.pop();
    }
    this.#stages = stages;
    const [first] = stages;
    if (this.#byteModel && stages.length === 1 && first instanceof SplitStage && first.isPlain) this.#onlySplit = first;
    this.#post = readPostProcessor(parts.post_processor, 'post_processor');
    this.#decoder = readDecoder(parts.decoder, 'decoder');
    this.vocabSize = Math.max(model.size, this.#added.size);
    this.specialTokens = new Map(this.#added.list.filter((t) => t.special).map((t) => [t.content, t.id]));
    for (const id of [...this.#post.before, ...this.#post.after]) {
      if (this.idToToken(id) === undefined) throw badField('post_processor', 'ids of the vocabulary', id);
    }
  }

  /** The vocabulary model inside. */
  get model(): TokenModel {
    return this.#model;
  }

  override encodeToTypedArray(text: string, options: EncodeOptions = {}): Int32Array {
    checkText('encode', text);
    const out = new IdBuffer(text.length >> 1);
    const around = options.addSpecialTokens ?? true;
    if (around) for (const id of this.#post.before) out.push(id);
    const allowed = options.allowedSpecial ?? 'all';
    for (const raw of this.#added.split(text, allowed, false)) {
      if (raw.token !== undefined) {
        out.push(raw.token.id);
        continue;
      }
      const part = cut(text, raw);
      const normal = this.#normalizer === undefined ? part : this.#normalizer.apply(part);
      for (const segment of this.#added.split(normal, allowed, true)) {
        if (segment.token !== undefined) out.push(segment.token.id);
        else if (this.#onlySplit !== undefined) this.#encodeWords(cut(normal, segment), out);
        // Metaspace's "first" asks where a piece starts, so the place in the whole text matters.
        else this.#encodePieces(new AlignedText(cut(normal, segment), raw.start + segment.start), out);
      }
    }
    if (around) for (const id of this.#post.after) out.push(id);
    return out.toTypedArray();
  }

  override encodeWithOffsets(text: string, options: OffsetOptions = {}): Encoding {
    checkText('encodeWithOffsets', text);
    const allowed = options.allowedSpecial ?? 'all';
    const ids: number[] = [];
    const tokens: string[] = [];
    let offsets: [number, number][] = [];
    const add = (id: number, range: [number, number]): void => {
      ids.push(id);
      tokens.push(this.idToToken(id) ?? '');
      offsets.push(range);
    };
    for (const raw of this.#added.split(text, allowed, false)) {
      if (raw.token !== undefined) {
        add(raw.token.id, [raw.start, raw.end]);
        continue;
      }
      const part = new AlignedText(cut(text, raw), raw.start);
      const normal = this.#normalizer === undefined ? part : this.#normalizer.align(part);
      for (const { start, end, token } of this.#added.split(normal.text, allowed, true)) {
        if (token !== undefined) add(token.id, normal.range(start, end));
        else this.#placeTokens(normal.slice(start, end), add);
      }
    }
    const { trim, before, after } = this.#post;
    if (trim !== undefined) {
      offsets = offsets.map((range, i) => trimOffsets(tokens[i]!, range, i === 0, trim.keepFirst));
    }
    if (options.unit === 'codePoint') offsets = toCodePoints(text, offsets);
    if (options.addSpecialTokens ?? true) {
      const place = (list: readonly number[]): Encoding => ({
        ids: [...list],
        tokens: list.map((id) => this.idToToken(id) ?? ''),
        offsets: list.map(() => [0, 0]),
      });
      const [head, tail] = [place(before), place(after)];
      return {
        ids: head.ids.concat(ids, tail.ids),
        tokens: head.tokens.concat(tokens, tail.tokens),
        offsets: head.offsets.concat(offsets, tail.offsets),
      };
    }
    return { ids, tokens, offsets };
  }

  override decode(ids: Iterable<number>, options: DecodeOptions = {}): string {
    const skip = options.skipSpecialTokens ?? true;
    let tokens: string[] = [];
    for (const id of ids) {
      const token = this.idToToken(id);
      if (token === undefined) throw unknownId('decode', id, this.vocabSize);
      if (!(skip && this.#added.byId(id)?.special === true)) tokens.push(token);
    }
    for (const step of this.#decoder) tokens = step(tokens);
    return tokens.join('');
  }

  override createDecoder(options: DecodeOptions = {}): TokenDecoder {
    const skip = options.skipSpecialTokens ?? true;
    if (!isByteLevelDecoder(this.#decoder)) return new WindowTokenDecoder(this, skip);
    return new ByteTokenDecoder((id) =>
      skip && this.#added.byId(id)?.special === true ? undefined : this.tokenBytes(id),
    );
  }

  override tokenToId(token: string): number | undefined {
    return this.#added.byContent(token)?.id ?? this.#model.tokenToId(token);
  }

  override idToToken(id: number): string | undefined {
    return this.#added.byId(id)?.content ?? this.#model.idToToken(id);
  }

  override tokenBytes(id: number): Uint8Array {
    const token = this.idToToken(id);
    if (token === undefined) throw unknownId('tokenBytes', id, this.vocabSize);
    if (isByteLevelDecoder(this.#decoder)) return byteLevelTokenBytes(token);
    const byte = byteOfFallbackToken(token);
    if (byte >= 0) return Uint8Array.of(byte);
    // In the middle of a text: between two empty neighbours, so that nothing is taken for the start.
    return encoder.encode(this.#decoder.reduce((tokens, step) => step(tokens), ['', token]).join(''));
  }

  /** The contents of a `tokenizer.json`. */
  toJSON(): Record<string, unknown> {
    return {
      version: '1.0',
      truncation: null,
      padding: null,
      added_tokens: this.#added.toJSON(),
      normalizer: this.#parts.normalizer ?? null,
      pre_tokenizer: this.#parts.pre_tokenizer ?? null,
      post_processor: this.#parts.post_processor ?? null,
      decoder: this.#parts.decoder ?? null,
      model: this.#model.toJSON(),
    };
  }

  #encodeWords(text: string, out: IdBuffer): void {
    const cursor = this.#onlySplit!.splitter.over(text);
    for (let start = 0, end = cursor.next(); end >= 0; start = end, end = cursor.next()) {
      this.#byteModel!.appendBytes(text.slice(start, end), out);
    }
  }

  #encodePieces(text: AlignedText, out: IdBuffer): void {
    for (const { text: word } of this.#cutUp(text)) {
      if (this.#byteModel !== undefined) this.#byteModel.appendBytes(word, out);
      else this.#model.tokenize(word, (id) => out.push(id));
    }
  }

  #placeTokens(text: AlignedText, add: (id: number, range: [number, number]) => void): void {
    for (const piece of this.#cutUp(text)) {
      const units = unitRanges(piece.text);
      const emit = (id: number, startByte: number, endByte: number): void =>
        add(id, piece.range(...units(startByte, endByte)));
      if (this.#byteModel !== undefined) this.#byteModel.tokenizeBytes(piece.text, emit);
      else this.#model.tokenize(piece.text, emit);
    }
  }

  #cutUp(text: AlignedText): AlignedText[] {
    let pieces = [text];
    for (const stage of this.#stages) {
      const next: AlignedText[] = [];
      for (const piece of pieces) stage.split(piece, next);
      pieces = next;
    }
    return pieces.filter((piece) => piece.text !== '');
  }
}

type AddedTokenInput = ConstructorParameters<typeof AddedTokens>[0][number];

function cut(text: string, { start, end }: Segment): string {
  return start === 0 && end === text.length ? text : text.slice(start, end);
}

/** Reads the `model` of a `tokenizer.json`. */
function readModel(value: unknown, path: string): TokenModel {
  const json = asObject(value, path);
  // Files of early versions leave the type out; they are BPE when they have merges.
  const type = stringField(json, 'type', path, json['merges'] === undefined ? undefined : 'BPE');
  switch (type) {
    case 'BPE':
      return BpeModel.fromJSON(json, path);
    case 'WordPiece':
      return WordPieceModel.fromJSON(json, path);
    case 'Unigram':
      return UnigramModel.fromJSON(json, path);
    case 'WordLevel':
      return WordLevelModel.fromJSON(json, path);
    default:
      throw badField(`${path}.type`, 'BPE, WordPiece, Unigram or WordLevel', type);
  }
}

/** The parts of a parsed `tokenizer.json`, checked as far as a {@link PipelineTokenizer} does not do it itself. */
export function readPipeline(value: unknown): [model: TokenModel, added: AddedTokenInput[], parts: PipelineParts] {
  const json: JsonObject = asObject(value, 'file');
  return [readModel(json['model'], 'model'), readAddedTokens(json['added_tokens'], 'added_tokens'), json];
}

/** Parses the text of a `tokenizer.json`. */
export function parseTokenizerJson(text: string, where: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch (cause) {
    throw new FormatError({
      op: 'tokenizer.json',
      argument: where,
      expected: 'JSON',
      actual: `text that does not parse (${(cause as Error).message.slice(0, 120)})`,
      cause,
    });
  }
}
