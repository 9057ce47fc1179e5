/**
 * Normalisers of `tokenizer.json`: what happens to text before it is cut up. Each works on plain strings, for speed,
 * and on {@link AlignedText}, for offsets.
 *
 * @module
 */
import { AlignedBuilder, type AlignedText } from './aligned_text.js';
import { BYTE_CHARS, textToAlphabet } from './byte_level.js';
import { asArray, asObject, badField, booleanField, checkDepth, patternField, stringField } from './json_fields.js';
import { Charsmap } from './charsmap.js';
import { translatePattern } from './pattern.js';

/** A change of text. */
export interface Normalizer {
  apply(text: string): string;
  align(text: AlignedText): AlignedText;
}

/** Changes each match of a pattern on its own; what it leaves out keeps its place. */
class Rewriting implements Normalizer {
  constructor(
    readonly pattern: RegExp,
    readonly rewrite: (match: string) => string,
    /** Align with the last character of a match, as the Hugging Face library does for Replace, not with all of it. */
    readonly alignLast = false,
  ) {}

  apply(text: string): string {
    return text.replace(this.pattern, this.rewrite);
  }

  align(source: AlignedText): AlignedText {
    const builder = new AlignedBuilder(source);
    let from = 0;
    for (const match of source.text.matchAll(this.pattern)) {
      const end = match.index + match[0].length;
      builder.keep(from, match.index);
      const last = this.alignLast ? Array.from(match[0]).at(-1) : undefined;
      builder.put(this.rewrite(match[0]), last === undefined ? match.index : end - last.length, end);
      from = end;
    }
    builder.keep(from, source.text.length);
    return builder.build();
  }
}

type Form = 'NFC' | 'NFD' | 'NFKC' | 'NFKD';

/**
 * Unicode normalisation. Clusters (a character with what combines with it) change independently; in a changed cluster
 * the n-th character of the result is aligned with the n-th of the source, the surplus with the last one.
 */
class UnicodeForm implements Normalizer {
  constructor(readonly form: Form) {}

  apply(text: string): string {
    return text.normalize(this.form);
  }

  align(source: AlignedText): AlignedText {
    const { text } = source;
    if (text.normalize(this.form) === text) return source;
    const builder = new AlignedBuilder(source);
    // Conjoining jamo, and the trailing vowel signs of Indic scripts, compose without being marks of class 0.
    const clusters = /[\u1100-\u11ff\uac00-\ud7fb]+|\P{M}\p{M}*|\p{M}+/gu;
    for (const { 0: cluster, index } of text.matchAll(clusters)) {
      const changed = cluster.normalize(this.form);
      if (changed === cluster) builder.keep(index, index + cluster.length);
      else this.#alignCluster(builder, cluster, changed, index);
    }
    return builder.build();
  }

  #alignCluster(builder: AlignedBuilder, cluster: string, changed: string, index: number): void {
    const sources = Array.from(cluster);
    let at = 0;
    let from = index;
    for (const char of changed) {
      const here = sources[Math.min(at, sources.length - 1)]!;
      builder.put(char, from, from + here.length);
      // A composed character used up as many source characters as its decomposition needs of them.
      const parts = Array.from(char.normalize('NFD')).length;
      let taken = 0;
      while (taken < parts && at < sources.length - 1) {
        taken += Array.from(sources[at]!.normalize('NFD')).length;
        from += sources[at]!.length;
        at++;
      }
    }
  }
}

class Prepend implements Normalizer {
  constructor(readonly prefix: string) {}

  apply(text: string): string {
    return text === '' ? text : this.prefix + text;
  }

  align(source: AlignedText): AlignedText {
    if (source.text === '') return source;
    const builder = new AlignedBuilder(source);
    builder.prefix(this.prefix);
    builder.keep(0, source.text.length);
    return builder.build();
  }
}

class Chain implements Normalizer {
  constructor(readonly parts: readonly Normalizer[]) {}

  apply(text: string): string {
    return this.parts.reduce((changed, part) => part.apply(changed), text);
  }

  align(source: AlignedText): AlignedText {
    return this.parts.reduce((changed, part) => part.align(changed), source);
  }
}

class Aligning implements Normalizer {
  constructor(readonly charsmap: Charsmap) {}

  apply(text: string): string {
    return this.charsmap.normalizeClusters(text, (part) => part);
  }

  align(source: AlignedText): AlignedText {
    const builder = new AlignedBuilder(source);
    this.charsmap.normalizeClusters(source.text, (part, from, to) => {
      builder.put(part, from, to);
      return '';
    });
    return builder.build();
  }
}

/** Lower case one character at a time, without the context rule for a final sigma. */
const lowercase = new Rewriting(/[\p{Changes_When_Lowercased}]/gu, (char) => char.toLowerCase());

function bertNormalizer(json: Readonly<Record<string, unknown>>, path: string): Normalizer {
  const lower = booleanField(json, 'lowercase', path, true);
  const parts: Normalizer[] = [];
  if (booleanField(json, 'clean_text', path, true)) {
    parts.push(new Rewriting(/(?![\t\n\r])[\p{Cc}\p{Cf}\p{Cs}\p{Co}\ufffd]/gu, () => ''));
    parts.push(new Rewriting(/\p{White_Space}/gu, () => ' '));
  }
  if (booleanField(json, 'handle_chinese_chars', path, true)) {
    const ideographs =
      /[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u{20000}-\u{2a6df}\u{2a700}-\u{2b81f}\u{2b920}-\u{2ceaf}\u{2f800}-\u{2fa1f}]/gu;
    parts.push(new Rewriting(ideographs, (char) => ` ${char} `));
  }
  if (booleanField(json, 'strip_accents', path, lower)) {
    parts.push(new UnicodeForm('NFD'), new Rewriting(/\p{Mn}/gu, () => ''));
  }
  if (lower) parts.push(lowercase);
  return new Chain(parts);
}

function strip(json: Readonly<Record<string, unknown>>, path: string): Normalizer {
  const parts: Normalizer[] = [];
  if (booleanField(json, 'strip_left', path, true)) parts.push(new Rewriting(/^\p{White_Space}+/gu, () => ''));
  if (booleanField(json, 'strip_right', path, true))
    parts.push(new Rewriting(/(?<!\p{White_Space})\p{White_Space}+$/gu, () => ''));
  return new Chain(parts);
}

/** Controls that Nmt leaves alone, or turns into spaces below. */
const NMT_KEPT = /^[\t\n\f\r\0\u0080-\u008e\u0090-\u009e]$/;

/** SentencePiece's clean-up of control characters and spaces, as `Nmt`. */
const nmt = new Chain([
  new Rewriting(/\p{Cc}/gu, (char) => (NMT_KEPT.test(char) ? char : '')),
  new Rewriting(/[\t\n\f\r\u1680\u200b-\u200f\u2028\u2029\u2581\ufeff\ufffd]/gu, () => ' '),
]);

const byteLevel = new Rewriting(/[^]/gu, (char) =>
  char <= '\x7f' ? BYTE_CHARS[char.charCodeAt(0)]! : textToAlphabet(char),
);

/**
 * Reads the `normalizer` of a `tokenizer.json`; `undefined` when there is none.
 *
 * @throws `FormatError` if it is malformed or of an unknown type.
 */
export function readNormalizer(value: unknown, path: string, depth = 0): Normalizer | undefined {
  if (value === undefined || value === null) return undefined;
  checkDepth(depth, path);
  const json = asObject(value, path);
  const type = stringField(json, 'type', path);
  switch (type) {
    case 'NFC':
    case 'NFD':
    case 'NFKC':
    case 'NFKD':
      return new UnicodeForm(type);
    case 'Lowercase':
      return lowercase;
    case 'StripAccents':
      return new Rewriting(/\p{M}/gu, () => '');
    case 'Strip':
      return strip(json, path);
    case 'Prepend':
      return new Prepend(stringField(json, 'prepend', path));
    case 'BertNormalizer':
      return bertNormalizer(json, path);
    case 'Nmt':
      return nmt;
    case 'ByteLevel':
      return byteLevel;
    case 'Replace': {
      const content = stringField(json, 'content', path);
      return new Rewriting(replacePattern(json, path), () => content, true);
    }
    case 'Precompiled': {
      const map = stringField(json, 'precompiled_charsmap', path, '');
      return new Aligning(new Charsmap(Buffer.from(map, 'base64')));
    }
    case 'Sequence': {
      const parts = asArray(json['normalizers'], `${path}.normalizers`);
      const read = parts.map((part, i) => readNormalizer(part, `${path}.normalizers[${i}]`, depth + 1));
      return new Chain(read.filter((part) => part !== undefined));
    }
    default:
      throw badField(`${path}.type`, 'a known normalizer', type);
  }
}

/** The pattern of a Replace as a global regular expression. */
export function replacePattern(json: Readonly<Record<string, unknown>>, path: string): RegExp {
  const { literal, regex } = patternField(json, path);
  if (regex !== undefined) return new RegExp(translatePattern(regex), 'vg');
  if (literal === '') throw badField(`${path}.pattern`, 'a pattern that is not empty', literal);
  return new RegExp(literal!.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&'), 'gu');
}
