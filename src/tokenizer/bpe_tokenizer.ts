/** Byte-pair encoding: training, files, and the tokenizer itself. */
import { readFile } from 'node:fs/promises';
import { AttributeError, FormatError } from '../errors.js';
import { checkInteger, checkKeys } from '../util/assert.js';
import { formatValue } from '../util/format.js';
import { specialToken, type AddedToken } from './added_tokens.js';
import { BpeModel } from './bpe_model.js';
import { trainMerges, type BpeTrainProgress } from './bpe_trainer.js';
import { readGpt2, readTiktoken } from './foreign_files.js';
import { MergeTable } from './merge_table.js';
import { GPT2_PATTERN, Splitter, type RegexDialect } from './pattern.js';
import { rustToOniguruma } from './pattern_dialect.js';
import { PipelineTokenizer, parseTokenizerJson, readPipeline, type PipelineParts } from './pipeline.js';
import { writeTokenizerFile } from './save.js';
import { Vocabulary } from './vocabulary.js';

/** Options of {@link BpeTokenizer.train}. */
export interface BpeTrainOptions {
  /** Number of tokens to learn, with the special ones and the 256 bytes; fewer if the text yields no more. */
  readonly vocabSize: number;
  /** Get the first ids, in this order. Default none. */
  readonly specialTokens?: readonly string[];
  /** Cuts text into words; merges never cross them. Oniguruma syntax. Default GPT-2's. */
  readonly pattern?: string;
  /** Pairs rarer than this are not merged. Default 0. */
  readonly minFrequency?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: BpeTrainProgress) => void;
}

/** Options of {@link BpeTokenizer.fromTiktoken}. */
export interface TiktokenOptions {
  /** Cuts text into words, in the syntax of Rust's fancy-regex as tiktoken gives it. */
  readonly pattern: string;
  /** Special tokens and their ids. Default none. */
  readonly specialTokens?: Readonly<Record<string, number>>;
}

/** Options of {@link BpeTokenizer.fromGpt2Files}. */
export interface Gpt2Options {
  /** Entries of the vocabulary to treat as special. Default `<|endoftext|>` if the vocabulary has it. */
  readonly specialTokens?: readonly string[];
}

const TRAIN_OPTIONS = ['vocabSize', 'specialTokens', 'pattern', 'minFrequency', 'signal', 'onProgress'];

/**
 * A byte-pair encoding tokenizer.
 *
 * @example
 * ```ts
 * const tokenizer = await BpeTokenizer.train([text], { vocabSize: 4096, specialTokens: ['<|endoftext|>'] });
 * const ids = tokenizer.encode('const x = 1;');
 * tokenizer.decode(ids); // 'const x = 1;'
 * await tokenizer.save('tokenizer.json');
 * ```
 */
export class BpeTokenizer extends PipelineTokenizer {
  /** From parts at hand; files are read by the static functions. */
  constructor(model: BpeModel, added: readonly AddedToken[], parts: PipelineParts) {
    super(model, added, parts);
  }

  /**
   * Learns a byte-level vocabulary from texts. The event loop turns every few milliseconds.
   *
   * @param texts - Each is cut into words on its own.
   * @throws `AttributeError` if an option is out of range or a text is no string; the signal's reason when aborted.
   * @source Sennrich et al. 2016, arXiv:1508.07909; same result as Hugging Face `tokenizers`
   */
  static async train(texts: Iterable<string> | AsyncIterable<string>, options: BpeTrainOptions): Promise<BpeTokenizer> {
    const op = 'BpeTokenizer.train';
    checkKeys(op, options, TRAIN_OPTIONS);
    const { specialTokens = [], pattern, signal, onProgress } = options;
    const minFrequency = checkInteger(op, 'minFrequency', options.minFrequency ?? 0, 0);
    const vocabSize = checkInteger(op, 'vocabSize', options.vocabSize, 256 + specialTokens.length, 2 ** 22);
    checkSpecialTokens(op, specialTokens);
    if (typeof texts === 'string') {
      throw new AttributeError({
        op,
        argument: 'texts',
        expected: 'an iterable of texts',
        actual: 'one string',
        hint: 'Pass [text]',
      });
    }
    const splitter = new Splitter(pattern ?? GPT2_PATTERN);
    const learned = await trainMerges(texts, { vocabSize, specialTokens, minFrequency, splitter, signal, onProgress });
    const merges = new MergeTable(learned.merges.length);
    learned.merges.forEach(([left, right, merged], rank) => merges.set(left, right, rank, merged));
    const added = specialTokens.map((content, id) => specialToken(content, id));
    return new BpeTokenizer(new BpeModel(Vocabulary.fromList(learned.tokens), merges), added, byteLevelParts(pattern));
  }

  /**
   * Reads a parsed `tokenizer.json`.
   *
   * @throws `FormatError` naming the field that is wrong, or if its model is not BPE.
   */
  static fromJSON(value: unknown): BpeTokenizer {
    const [model, added, parts] = readPipeline(value);
    if (model instanceof BpeModel) return new BpeTokenizer(model, added, parts);
    throw new FormatError({
      op: 'BpeTokenizer.fromJSON',
      argument: 'model.type',
      expected: 'BPE',
      actual: model.type,
      hint: 'Use loadTokenizer for other models',
    });
  }

  /**
   * Reads a `tokenizer.json`.
   *
   * @throws `FormatError` if it is malformed or its model is not BPE; the file system's error if it cannot be read.
   */
  static async fromFile(path: string): Promise<BpeTokenizer> {
    return BpeTokenizer.fromJSON(parseTokenizerJson(await readFile(path, 'utf8'), path));
  }

  /**
   * Reads GPT-2's own files: `encoder.json` with the vocabulary and `vocab.bpe` with the merges.
   *
   * @throws `FormatError` if one is malformed.
   */
  static async fromGpt2Files(
    encoderPath: string,
    mergesPath: string,
    options: Gpt2Options = {},
  ): Promise<BpeTokenizer> {
    checkKeys('BpeTokenizer.fromGpt2Files', options, ['specialTokens']);
    const model = readGpt2(
      parseTokenizerJson(await readFile(encoderPath, 'utf8'), encoderPath),
      await readFile(mergesPath, 'utf8'),
    );
    const names = options.specialTokens ?? ['<|endoftext|>'].filter((name) => model.tokenToId(name) !== undefined);
    const added = names.map((name) => {
      const id = model.tokenToId(name);
      if (id !== undefined) return specialToken(name, id);
      throw new AttributeError({
        op: 'BpeTokenizer.fromGpt2Files',
        argument: 'specialTokens',
        expected: 'tokens of the vocabulary',
        actual: formatValue(name),
      });
    });
    return new BpeTokenizer(model, added, byteLevelParts());
  }

  /**
   * Reads a `.tiktoken` file: one token in base64 and its rank on each line.
   *
   * @throws `FormatError` if a line is malformed or a byte is missing; `AttributeError` if a special id is taken.
   */
  static async fromTiktoken(path: string, options: TiktokenOptions): Promise<BpeTokenizer> {
    const op = 'BpeTokenizer.fromTiktoken';
    checkKeys(op, options, ['pattern', 'specialTokens']);
    const model = readTiktoken(await readFile(path, 'utf8'));
    const added = Object.entries(options.specialTokens ?? {}).map(([content, raw]) => {
      const id = checkInteger(op, `specialTokens[${JSON.stringify(content)}]`, raw, 0, 2 ** 24);
      if (model.idToToken(id) === undefined) return specialToken(content, id);
      throw new AttributeError({
        op,
        argument: 'specialTokens',
        expected: 'ids that no token has',
        actual: String(id),
      });
    });
    return new BpeTokenizer(model, added, byteLevelParts(options.pattern, 'rust'));
  }

  /**
   * Writes a `tokenizer.json`, which Hugging Face `tokenizers` reads too. The file appears whole or not at all.
   *
   * @throws the file system's error if it cannot be written.
   */
  async save(path: string): Promise<void> {
    await writeTokenizerFile(path, this.toJSON());
  }
}

function checkSpecialTokens(op: string, tokens: readonly string[]): void {
  tokens.forEach((token, i) => {
    if (typeof token === 'string' && token !== '' && tokens.indexOf(token) === i) return;
    throw new AttributeError({
      op,
      argument: `specialTokens[${i}]`,
      expected: 'a string, not empty, named once',
      actual: formatValue(token),
    });
  });
}

/** The pipeline around a byte-level vocabulary; `pattern` only if it is not GPT-2's. */
function byteLevelParts(pattern?: string, dialect: RegexDialect = 'oniguruma'): PipelineParts {
  const byteLevel = {
    type: 'ByteLevel',
    add_prefix_space: false,
    trim_offsets: false,
    use_regex: pattern === undefined,
  };
  if (pattern === undefined) return { pre_tokenizer: byteLevel, post_processor: byteLevel, decoder: byteLevel };
  // The pattern is kept the way a file holds it.
  const regex = dialect === 'rust' ? rustToOniguruma(pattern) : pattern;
  const split = { type: 'Split', pattern: { Regex: regex }, behavior: 'Isolated', invert: false };
  return {
    pre_tokenizer: { type: 'Sequence', pretokenizers: [split, byteLevel] },
    post_processor: byteLevel,
    decoder: byteLevel,
  };
}
