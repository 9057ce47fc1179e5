/**
 * Pre-tokenisers of `tokenizer.json`: how text is cut into words, which the model then cuts into tokens one by one.
 * A pre-tokeniser is read into a flat list of {@link Stage}s.
 *
 * @module
 */
import { AlignedBuilder, type AlignedText } from './aligned_text.js';
import { BYTE_CHARS, textToAlphabet } from './byte_level.js';
import {
  asArray,
  asObject,
  badField,
  booleanField,
  checkDepth,
  choiceField,
  patternField,
  stringField,
  type JsonObject,
} from './json_fields.js';
import { GPT2_PATTERN, Splitter } from './pattern.js';

/** One step of cutting. */
export interface Stage {
  split(piece: AlignedText, out: AlignedText[]): void;
}

const BEHAVIORS = ['Removed', 'Isolated', 'MergedWithPrevious', 'MergedWithNext', 'Contiguous'] as const;
/** What becomes of the matches of a split. */
export type SplitBehavior = (typeof BEHAVIORS)[number];

/** Cuts at the matches of a pattern. */
export class SplitStage implements Stage {
  constructor(
    readonly splitter: Splitter,
    readonly behavior: SplitBehavior,
    readonly invert = false,
  ) {}

  /** Whether the pieces are just the matches and what lies between them. */
  get isPlain(): boolean {
    return this.behavior === 'Isolated';
  }

  split(piece: AlignedText, out: AlignedText[]): void {
    const cursor = this.splitter.over(piece.text);
    let start = 0;
    let previousMatched = false;
    for (let from = 0, end = cursor.next(); end >= 0; from = end, end = cursor.next()) {
      const matched = cursor.matched !== this.invert;
      // `start` trails `from` while pieces are being joined.
      if (from > 0 && this.#partsBefore(matched, previousMatched)) {
        if (!(previousMatched && this.behavior === 'Removed')) out.push(piece.slice(start, from));
        start = from;
      }
      previousMatched = matched;
    }
    if (start < piece.text.length && !(previousMatched && this.behavior === 'Removed')) {
      out.push(start === 0 ? piece : piece.slice(start, piece.text.length));
    }
  }

  #partsBefore(matched: boolean, previousMatched: boolean): boolean {
    switch (this.behavior) {
      case 'Removed':
      case 'Isolated':
        return true;
      case 'MergedWithPrevious':
        return !matched || previousMatched;
      case 'MergedWithNext':
        return matched || !previousMatched;
      case 'Contiguous':
        return matched !== previousMatched;
    }
  }
}

/** Puts a space in front of a piece that does not start with one. */
class PrefixSpaceStage implements Stage {
  split(piece: AlignedText, out: AlignedText[]): void {
    out.push(piece.text.startsWith(' ') || piece.text === '' ? piece : withPrefix(piece, ' '));
  }
}

/** Writes each piece in the byte-level alphabet. The tokenizer leaves it out when the model takes bytes itself. */
export class AlphabetStage implements Stage {
  split(piece: AlignedText, out: AlignedText[]): void {
    const builder = new AlignedBuilder(piece);
    let at = 0;
    for (const char of piece.text) {
      const code = char.charCodeAt(0);
      builder.put(code < 0x80 ? BYTE_CHARS[code]! : textToAlphabet(char), at, at + char.length);
      at += char.length;
    }
    out.push(builder.build());
  }
}

/** SentencePiece's way of keeping spaces: a visible mark in their place, one put in front. */
class MetaspaceStage implements Stage {
  readonly #cut: SplitStage | undefined;

  constructor(
    readonly mark: string,
    readonly prepend: 'always' | 'first' | 'never',
    cut: boolean,
  ) {
    this.#cut = cut
      ? new SplitStage(new Splitter(`\\x{${mark.codePointAt(0)!.toString(16)}}`), 'MergedWithNext')
      : undefined;
  }

  split(piece: AlignedText, out: AlignedText[]): void {
    if (piece.text === '') return;
    let marked = piece;
    if (piece.text.includes(' ')) {
      const builder = new AlignedBuilder(piece);
      for (let at = 0; at < piece.text.length; at++) {
        if (piece.text[at] === ' ') builder.put(this.mark, at, at + 1);
        else builder.keep(at, at + 1);
      }
      marked = builder.build();
    }
    const wanted = this.prepend === 'always' || (this.prepend === 'first' && piece.startOf(0) === 0);
    if (wanted && !marked.text.startsWith(this.mark)) marked = withPrefix(marked, this.mark);
    if (this.#cut === undefined) out.push(marked);
    else this.#cut.split(marked, out);
  }
}

function withPrefix(piece: AlignedText, prefix: string): AlignedText {
  const builder = new AlignedBuilder(piece);
  builder.prefix(prefix);
  builder.keep(0, piece.text.length);
  return builder.build();
}

const split = (pattern: string, behavior: SplitBehavior, invert = false): Stage =>
  new SplitStage(new Splitter(pattern), behavior, invert);

const PUNCTUATION = String.raw`[!-/:-@\[-\`{-~\p{P}]`;

/**
 * Reads the `pre_tokenizer` of a `tokenizer.json`. Without one the text is a single word.
 *
 * @throws `FormatError` if it is malformed or of an unknown type.
 */
export function readPreTokenizer(value: unknown, path: string, depth = 0): Stage[] {
  if (value === undefined || value === null) return [];
  checkDepth(depth, path);
  const json = asObject(value, path);
  const type = stringField(json, 'type', path);
  switch (type) {
    case 'ByteLevel': {
      const stages: Stage[] = [];
      if (booleanField(json, 'add_prefix_space', path, true)) stages.push(new PrefixSpaceStage());
      if (booleanField(json, 'use_regex', path, true)) stages.push(split(GPT2_PATTERN, 'Isolated'));
      return [...stages, new AlphabetStage()];
    }
    case 'Split':
      return [readSplit(json, path)];
    case 'Metaspace':
      return [readMetaspace(json, path)];
    case 'Whitespace':
      return [new SplitStage(new Splitter(String.raw`\w+|[^\w\s]+`, 'rust'), 'Removed', true)];
    case 'WhitespaceSplit':
      return [split(String.raw`\s`, 'Removed')];
    case 'BertPreTokenizer':
      return [split(String.raw`\s`, 'Removed'), split(PUNCTUATION, 'Isolated')];
    case 'Punctuation':
      return [split(PUNCTUATION, choiceField(json, 'behavior', path, BEHAVIORS, 'Isolated'))];
    case 'Digits':
      return [
        split(String.raw`\p{N}`, booleanField(json, 'individual_digits', path, false) ? 'Isolated' : 'Contiguous'),
      ];
    case 'CharDelimiterSplit': {
      const delimiter = stringField(json, 'delimiter', path);
      if (Array.from(delimiter).length !== 1) throw badField(`${path}.delimiter`, 'one character', delimiter);
      return [split(`\\x{${delimiter.codePointAt(0)!.toString(16)}}`, 'Removed')];
    }
    case 'Sequence': {
      const parts = asArray(json['pretokenizers'], `${path}.pretokenizers`);
      return parts.flatMap((part, i) => readPreTokenizer(part, `${path}.pretokenizers[${i}]`, depth + 1));
    }
    default:
      throw badField(`${path}.type`, 'a known pre-tokenizer', type);
  }
}

function readSplit(json: JsonObject, path: string): Stage {
  const { literal, regex } = patternField(json, path);
  const pattern = regex ?? Array.from(literal!, (char) => `\\x{${char.codePointAt(0)!.toString(16)}}`).join('');
  const behavior = choiceField(json, 'behavior', path, BEHAVIORS, 'Isolated');
  return split(pattern, behavior, booleanField(json, 'invert', path, false));
}

function readMetaspace(json: JsonObject, path: string): Stage {
  const mark = stringField(json, 'replacement', path, '▁');
  if (Array.from(mark).length !== 1) throw badField(`${path}.replacement`, 'one character', mark);
  // Files from before prepend_scheme have add_prefix_space.
  const fallback = booleanField(json, 'add_prefix_space', path, true) ? 'always' : 'never';
  const prepend = choiceField(json, 'prepend_scheme', path, ['always', 'first', 'never'], fallback);
  return new MetaspaceStage(mark, prepend, booleanField(json, 'split', path, true));
}
