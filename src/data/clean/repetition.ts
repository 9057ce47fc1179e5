/**
 * Rules against text that repeats itself, and FineWeb's rules on lines.
 *
 * @module
 */
import { checkKeys, checkInteger } from '../../util/assert.js';
import { checkShare, show, TERMINAL_MARKS } from './quality.js';
import { dropDocument, keepDocument, type CleanStep } from './step.js';
import { textLines, textParagraphs, wordSplitter, type WordRule } from './words.js';

/** Largest shares of {@link gopherRepetition}; `false` switches a rule off. */
export interface GopherRepetitionOptions {
  /** `duplicate line fraction`. Default 0.3. */
  readonly duplicateLines?: number | false;
  /** `duplicate paragraph fraction`. Default 0.3. */
  readonly duplicateParagraphs?: number | false;
  /** `duplicate line character fraction`. Default 0.2. */
  readonly duplicateLineCharacters?: number | false;
  /** `duplicate paragraph character fraction`. Default 0.2. */
  readonly duplicateParagraphCharacters?: number | false;
  /** `top n-gram character fraction`, by n. Default { 2: 0.2, 3: 0.18, 4: 0.16 }. */
  readonly topNgrams?: Readonly<Record<number, number>> | false;
  /** `duplicate n-gram character fraction`, by n. Default { 5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.1 }. */
  readonly duplicateNgrams?: Readonly<Record<number, number>> | false;
  /** How words are found. Default `'whitespace'`. */
  readonly words?: WordRule;
}

/** Share of parts, and of their characters, that occurred before in the text. */
export function duplicateFractions(parts: readonly string[]): { parts: number; characters: number } {
  const seen = new Set<string>();
  let [repeated, repeatedCharacters, characters] = [0, 0, 0];
  for (const part of parts) {
    characters += part.length;
    if (seen.has(part)) {
      repeated++;
      repeatedCharacters += part.length;
    } else {
      seen.add(part);
    }
  }
  return {
    parts: parts.length === 0 ? 0 : repeated / parts.length,
    characters: characters === 0 ? 0 : repeatedCharacters / characters,
  };
}

/** Numbers for words, so that n-grams are compared exactly: equal words have equal numbers. */
function numberWords(words: readonly string[]): Int32Array {
  const numbers = new Map<string, number>();
  const ids = new Int32Array(words.length);
  for (let i = 0; i < words.length; i++) {
    let id = numbers.get(words[i]!);
    if (id === undefined) numbers.set(words[i]!, (id = numbers.size));
    ids[i] = id;
  }
  return ids;
}

/**
 * Numbers of the n-grams that begin at each word: equal numbers for equal n-grams. An n-gram is the (n−1)-gram before its last word
 * and that word; both have numbers, so a pair of them is a key without collisions.
 */
function extendNgrams(shorter: Int32Array, ids: Int32Array, n: number, wordCount: number): Int32Array {
  const numbers = new Map<number, number>();
  const longer = new Int32Array(Math.max(0, ids.length - n + 1));
  for (let i = 0; i < longer.length; i++) {
    const key = shorter[i]! * wordCount + ids[i + n - 1]!;
    let id = numbers.get(key);
    if (id === undefined) numbers.set(key, (id = numbers.size));
    longer[i] = id;
  }
  return longer;
}

/** Characters of each run of n words, without what separates them. */
function ngramCharacters(starts: Float64Array, i: number, n: number): number {
  return starts[i + n]! - starts[i]!;
}

/** Share of the characters that the most frequent n-gram makes up (the longest of equally frequent ones); 0 where none repeats. */
function topFraction(grams: Int32Array, starts: Float64Array, n: number): number {
  const counts = new Int32Array(grams.length);
  for (const gram of grams) counts[gram]!++;
  let [best, bestCount, bestLength] = [0, 1, 0];
  for (let i = 0; i < grams.length; i++) {
    const times = counts[grams[i]!]!;
    if (times < 2 || times < bestCount) continue;
    const length = ngramCharacters(starts, i, n);
    if (times === bestCount && length <= bestLength) continue;
    [best, bestCount, bestLength] = [times * length, times, length];
  }
  return best / starts.at(-1)!;
}

/** Share of the characters that lie in n-grams which occurred before; characters in several of them count once. */
function duplicateFraction(grams: Int32Array, starts: Float64Array, n: number): number {
  const seen = new Uint8Array(grams.length);
  let [covered, end] = [0, 0];
  for (let i = 0; i < grams.length; i++) {
    if (seen[grams[i]!] === 1) {
      covered += starts[i + n]! - starts[Math.max(i, end)]!;
      end = i + n;
    } else {
      seen[grams[i]!] = 1;
    }
  }
  return covered / starts.at(-1)!;
}

/** Shares for the given n, computed together. */
export function ngramFractions(
  words: readonly string[],
  top: readonly number[],
  duplicate: readonly number[],
): { top: Map<number, number>; duplicate: Map<number, number> } {
  const result = { top: new Map<number, number>(), duplicate: new Map<number, number>() };
  const starts = new Float64Array(words.length + 1);
  for (let i = 0; i < words.length; i++) starts[i + 1] = starts[i]! + words[i]!.length;
  const ids = numberWords(words);
  const most = Math.max(0, ...top, ...duplicate);
  let grams = ids;
  for (let n = 1; n <= most; n++) {
    if (n > 1) grams = extendNgrams(grams, ids, n, words.length);
    const isEmpty = grams.length === 0;
    if (top.includes(n)) result.top.set(n, isEmpty ? 0 : topFraction(grams, starts, n));
    if (duplicate.includes(n)) result.duplicate.set(n, isEmpty ? 0 : duplicateFraction(grams, starts, n));
  }
  return result;
}

const REPETITION_KEYS = [
  'duplicateLines', 'duplicateParagraphs', 'duplicateLineCharacters', 'duplicateParagraphCharacters', 'topNgrams', 'duplicateNgrams', 'words',
]; // prettier-ignore

function checkNgrams(op: string, name: string, value: Readonly<Record<number, number>> | false): [number, number][] {
  if (value === false) return [];
  return Object.entries(value).map(([n, limit]) => [
    checkInteger(op, name, Number(n), 1, 32),
    checkShare(op, `${name}[${n}]`, limit) as number,
  ]);
}

/**
 * Gopher's rules against repetition: lines, paragraphs and n-grams of words. Drops with the name of the first rule broken.
 * Time is linear in the words for each n.
 *
 * @source Rae et al. 2021, arXiv 2112.11446, appendix A.1.1, "Repetition removal", table A1
 * @throws AttributeError for unknown rules or thresholds that cannot be
 */
export function gopherRepetition(options: GopherRepetitionOptions = {}): CleanStep {
  const op = 'gopherRepetition';
  checkKeys(op, options, REPETITION_KEYS);
  const rules = {
    duplicateLines: checkShare(op, 'duplicateLines', options.duplicateLines ?? 0.3),
    duplicateParagraphs: checkShare(op, 'duplicateParagraphs', options.duplicateParagraphs ?? 0.3),
    duplicateLineCharacters: checkShare(op, 'duplicateLineCharacters', options.duplicateLineCharacters ?? 0.2),
    duplicateParagraphCharacters: checkShare(
      op,
      'duplicateParagraphCharacters',
      options.duplicateParagraphCharacters ?? 0.2,
    ),
    topNgrams: options.topNgrams ?? { 2: 0.2, 3: 0.18, 4: 0.16 },
    duplicateNgrams: options.duplicateNgrams ?? { 5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.1 },
    words: options.words ?? 'whitespace',
  };
  const top = checkNgrams(op, 'topNgrams', rules.topNgrams);
  const duplicate = checkNgrams(op, 'duplicateNgrams', rules.duplicateNgrams);
  const split = wordSplitter(op, rules.words);
  const orders = (limits: readonly [number, number][]): number[] => limits.map(([n]) => n);

  const broken = (text: string): [string, string] | undefined => {
    const over = (rule: string, value: number, limit: number | false): [string, string] | undefined =>
      limit !== false && value > limit ? [rule, show(value)] : undefined;
    const lines = duplicateFractions(textLines(text));
    const paragraphs = duplicateFractions(textParagraphs(text));
    const early =
      over('duplicate line fraction', lines.parts, rules.duplicateLines) ??
      over('duplicate paragraph fraction', paragraphs.parts, rules.duplicateParagraphs) ??
      over('duplicate line character fraction', lines.characters, rules.duplicateLineCharacters) ??
      over('duplicate paragraph character fraction', paragraphs.characters, rules.duplicateParagraphCharacters);
    if (early !== undefined || top.length + duplicate.length === 0) return early;
    const fractions = ngramFractions(split(text), orders(top), orders(duplicate));
    for (const [n, limit] of top) {
      const found = over(`top ${n}-gram character fraction`, fractions.top.get(n)!, limit);
      if (found !== undefined) return found;
    }
    for (const [n, limit] of duplicate) {
      const found = over(`duplicate ${n}-gram character fraction`, fractions.duplicate.get(n)!, limit);
      if (found !== undefined) return found;
    }
    return undefined;
  };
  return {
    name: op,
    kind: op,
    options: rules,
    process(document) {
      const rule = broken(document.text);
      return rule === undefined ? keepDocument(document) : dropDocument(...rule);
    },
  };
}

/** Thresholds of {@link finewebQuality}; `false` switches a rule off. */
export interface FinewebOptions {
  /** `lines ending in punctuation`: documents up to this share are dropped. Default 0.12. */
  readonly punctuatedLines?: number | false;
  /** `characters in duplicate lines`: documents from this share on are dropped. Default 0.1. */
  readonly duplicateLineCharacters?: number | false;
  /** `short lines`: documents from this share of short lines on are dropped. Default 0.67. */
  readonly shortLines?: number | false;
  /** What a short line is, characters. Default 30. */
  readonly shortLineCharacters?: number;
}

/**
 * The three filters that FineWeb adds to those of Gopher and C4. As there, a document that reaches a limit is dropped.
 *
 * @source Penedo et al. 2024, The FineWeb Datasets, arXiv 2406.17557, section 3.6
 * @throws AttributeError for unknown rules or thresholds that cannot be
 */
export function finewebQuality(options: FinewebOptions = {}): CleanStep {
  const op = 'finewebQuality';
  checkKeys(op, options, ['punctuatedLines', 'duplicateLineCharacters', 'shortLines', 'shortLineCharacters']);
  const rules = {
    punctuatedLines: checkShare(op, 'punctuatedLines', options.punctuatedLines ?? 0.12),
    duplicateLineCharacters: checkShare(op, 'duplicateLineCharacters', options.duplicateLineCharacters ?? 0.1),
    shortLines: checkShare(op, 'shortLines', options.shortLines ?? 0.67),
    shortLineCharacters: checkInteger(op, 'shortLineCharacters', options.shortLineCharacters ?? 30, 1),
  };
  const marks = new Set(TERMINAL_MARKS);
  return {
    name: op,
    kind: op,
    options: rules,
    process(document) {
      const lines = textLines(document.text);
      if (lines.length === 0) return dropDocument('empty');
      const shareOf = (test: (line: string) => boolean): number => lines.filter(test).length / lines.length;
      if (rules.punctuatedLines !== false) {
        const share = shareOf((line) => marks.has(line.at(-1)!));
        if (share <= rules.punctuatedLines) return dropDocument('lines ending in punctuation', show(share));
      }
      if (rules.duplicateLineCharacters !== false) {
        const { characters } = duplicateFractions(lines);
        if (characters >= rules.duplicateLineCharacters)
          return dropDocument('characters in duplicate lines', show(characters));
      }
      if (rules.shortLines !== false) {
        const share = shareOf((line) => line.length < rules.shortLineCharacters);
        if (share >= rules.shortLines) return dropDocument('short lines', show(share));
      }
      return keepDocument(document);
    },
  };
}
