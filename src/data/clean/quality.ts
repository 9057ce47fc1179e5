/**
 * Rules of published corpora that tell prose from the rest of the web, each under its own name and with the thresholds of its paper.
 *
 * @module
 */
import { AttributeError } from '../../errors.js';
import { checkBoolean, checkInteger, checkKeys, checkNumber } from '../../util/assert.js';
import { formatValue } from '../../util/format.js';
import { dropDocument, keepDocument, replaceText, type CleanStep } from './step.js';
import { textLines, wordSplitter, type WordRule } from './words.js';

/** Thresholds of {@link gopherQuality}; `false` switches a rule off. */
export interface GopherQualityOptions {
  /** `word count`: fewest and most words. Default [50, 100000]. */
  readonly wordCount?: readonly [number, number] | false;
  /** `mean word length`: characters. Default [3, 10]; too high a floor for segmented Chinese. */
  readonly meanWordLength?: readonly [number, number] | false;
  /** `symbol-to-word ratio`: most `#`, and most ellipses, a word. Default 0.1. */
  readonly symbolRatio?: number | false;
  /** `bullet lines`: largest share of lines that begin with a bullet. Default 0.9. */
  readonly bulletLines?: number | false;
  /** `ellipsis lines`: largest share of lines that end with an ellipsis. Default 0.3. */
  readonly ellipsisLines?: number | false;
  /** `alphabetic words`: smallest share of words with a letter. Default 0.8. */
  readonly alphabeticWords?: number | false;
  /** `stop words`: fewest different stop words that must occur. Default 2. */
  readonly stopWords?: number | false;
  /** Stop words, lower case. Default: the paper's eight English ones (the, be, to, of, and, that, have, with). */
  readonly stopWordList?: readonly string[];
  /** How words are found. Default `'whitespace'`. */
  readonly words?: WordRule;
}

const GOPHER_KEYS = [
  'wordCount', 'meanWordLength', 'symbolRatio', 'bulletLines', 'ellipsisLines', 'alphabeticWords', 'stopWords', 'stopWordList', 'words',
]; // prettier-ignore
const STOP_WORDS = ['the', 'be', 'to', 'of', 'and', 'that', 'have', 'with'];
const BULLET = /^(?:[•‣▪●◦○∙·*–—-](?:\s|$)|[•‣▪●◦○])/;

/** @internal A range, a share, or false. */
export function checkRange(op: string, name: string, value: readonly [number, number] | false): typeof value {
  if (value === false) return value;
  const isRange = Array.isArray(value) && value.length === 2 && value.every((v) => typeof v === 'number' && v >= 0);
  if (isRange && value[0]! <= value[1]!) return value;
  const expected = 'two numbers [least, most], or false';
  throw new AttributeError({ op, argument: name, expected, actual: formatValue(value) });
}

/** @internal */
export function checkShare(op: string, name: string, value: number | false, high = 1): number | false {
  return value === false ? value : checkNumber(op, name, value, 0, high);
}

/** @internal A figure for a reader. */
export function show(value: number): string {
  return String(Math.round(value * 1000) / 1000);
}

const count = (text: string, pattern: RegExp): number => text.match(pattern)?.length ?? 0;

/**
 * The document filters of Gopher. Drops with the name of the first rule that a document breaks as its reason.
 *
 * @source Rae et al. 2021, Scaling Language Models, arXiv 2112.11446, appendix A.1.1, "Quality filtering"
 * @throws AttributeError for unknown rules or thresholds that cannot be
 */
export function gopherQuality(options: GopherQualityOptions = {}): CleanStep {
  const op = 'gopherQuality';
  checkKeys(op, options, GOPHER_KEYS);
  const rules = {
    wordCount: checkRange(op, 'wordCount', options.wordCount ?? [50, 100_000]),
    meanWordLength: checkRange(op, 'meanWordLength', options.meanWordLength ?? [3, 10]),
    symbolRatio: checkShare(op, 'symbolRatio', options.symbolRatio ?? 0.1, Infinity),
    bulletLines: checkShare(op, 'bulletLines', options.bulletLines ?? 0.9),
    ellipsisLines: checkShare(op, 'ellipsisLines', options.ellipsisLines ?? 0.3),
    alphabeticWords: checkShare(op, 'alphabeticWords', options.alphabeticWords ?? 0.8),
    stopWords: checkShare(op, 'stopWords', options.stopWords ?? 2, Infinity),
    stopWordList: [...(options.stopWordList ?? STOP_WORDS)],
    words: options.words ?? 'whitespace',
  };
  const split = wordSplitter(op, rules.words);
  const stopWords = new Set(rules.stopWordList);

  const broken = (text: string): [string, string] | undefined => {
    const words = split(text);
    const { length } = words;
    if (rules.wordCount !== false && (length < rules.wordCount[0] || length > rules.wordCount[1]))
      return ['word count', String(length)];
    if (length === 0) return undefined;
    if (rules.meanWordLength !== false) {
      const mean = words.reduce((sum, word) => sum + word.length, 0) / length;
      if (mean < rules.meanWordLength[0] || mean > rules.meanWordLength[1]) return ['mean word length', show(mean)];
    }
    if (rules.symbolRatio !== false) {
      const ratio = Math.max(count(text, /#/g), count(text, /\.{3}|…/g)) / length;
      if (ratio > rules.symbolRatio) return ['symbol-to-word ratio', show(ratio)];
    }
    const lines = textLines(text);
    if (rules.bulletLines !== false) {
      const share = lines.filter((line) => BULLET.test(line)).length / lines.length;
      if (share > rules.bulletLines) return ['bullet lines', show(share)];
    }
    if (rules.ellipsisLines !== false) {
      const share = lines.filter((line) => line.endsWith('...') || line.endsWith('…')).length / lines.length;
      if (share > rules.ellipsisLines) return ['ellipsis lines', show(share)];
    }
    if (rules.alphabeticWords !== false) {
      const share = words.reduce((sum, word) => sum + Number(/\p{L}/u.test(word)), 0) / length;
      if (share < rules.alphabeticWords) return ['alphabetic words', show(share)];
    }
    if (rules.stopWords !== false) {
      const found = new Set<string>();
      for (const word of words) {
        const plain = word.length > 24 ? '' : word.toLowerCase().replace(/^[^\p{L}]+|[^\p{L}]+$/gu, '');
        if (stopWords.has(plain) && found.add(plain).size >= rules.stopWords) return undefined;
      }
      if (found.size < rules.stopWords) return ['stop words', String(found.size)];
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

/** Switches of {@link c4Filter}. */
export interface C4Options {
  /** Lines must end in a terminal punctuation mark. Default true. */
  readonly terminalPunctuation?: boolean;
  /** Lines of fewer words are cut out. Default 5. */
  readonly minLineWords?: number;
  /** `sentences`: pages with fewer are dropped. Default 3. */
  readonly minSentences?: number;
  /** Cut out lines with the word JavaScript. Default true. */
  readonly javascript?: boolean;
  /** Cut out lines of terms of use, privacy and cookie policies. Default true. */
  readonly policies?: boolean;
  /** Remove markers such as [1] and [citation needed]. Default true. */
  readonly citations?: boolean;
  /** `lorem ipsum`: drop pages with it. Default true. */
  readonly loremIpsum?: boolean;
  /** `curly bracket`: drop pages with `{`, as in code. Default true. */
  readonly curlyBracket?: boolean;
  /** `bad words`: drop pages with one of these (whole words, any case). Default none; the paper's list has some 400 entries. */
  readonly badWords?: readonly string[];
  /** Marks that end a sentence. Default `.!?"` of the paper, with their typographic and Chinese forms. */
  readonly punctuation?: string;
  /** How words are found. Default `'whitespace'`. */
  readonly words?: WordRule;
}

const C4_KEYS = [
  'terminalPunctuation', 'minLineWords', 'minSentences', 'javascript', 'policies', 'citations', 'loremIpsum', 'curlyBracket',
  'badWords', 'punctuation', 'words',
]; // prettier-ignore
const POLICIES = /terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies/i;
const CITATIONS = /\[\d{1,3}\]|\[edit\]|\[citation needed\]/gi;
/** @internal */
export const TERMINAL_MARKS = '.!?"”’\'…。！？」』';

const escapeForRegExp = (text: string): string => text.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&');

/**
 * The page and line filters of the Colossal Clean Crawled Corpus, less its deduplication (see `exactDuplicates`) and its
 * language filter (see `languageFilter`). Pages of which no line is left are dropped as `no lines`.
 *
 * @source Raffel et al. 2020, Exploring the Limits of Transfer Learning, JMLR 21, section 2.2
 * @throws AttributeError for unknown switches
 */
export function c4Filter(options: C4Options = {}): CleanStep {
  const op = 'c4Filter';
  checkKeys(op, options, C4_KEYS);
  const on = (name: 'terminalPunctuation' | 'javascript' | 'policies' | 'citations' | 'loremIpsum' | 'curlyBracket') =>
    checkBoolean(op, name, options[name] ?? true);
  const rules = {
    terminalPunctuation: on('terminalPunctuation'),
    minLineWords: checkInteger(op, 'minLineWords', options.minLineWords ?? 5, 0),
    minSentences: checkInteger(op, 'minSentences', options.minSentences ?? 3, 0),
    javascript: on('javascript'),
    policies: on('policies'),
    citations: on('citations'),
    loremIpsum: on('loremIpsum'),
    curlyBracket: on('curlyBracket'),
    badWords: [...(options.badWords ?? [])],
    punctuation: options.punctuation ?? TERMINAL_MARKS,
    words: options.words ?? 'whitespace',
  };
  const split = wordSplitter(op, rules.words);
  const marks = new Set(rules.punctuation);
  const sentenceEnd = new RegExp(
    `[${escapeForRegExp(rules.punctuation).replaceAll('-', '\\-')}]+(?=\\s|$)|[。！？]+`,
    'gu',
  );
  const bad =
    rules.badWords.length === 0
      ? null
      : new RegExp(`(?<![\\p{L}\\p{N}])(?:${rules.badWords.map(escapeForRegExp).join('|')})(?![\\p{L}\\p{N}])`, 'iu');

  return {
    name: op,
    kind: op,
    options: rules,
    process(document) {
      const { text } = document;
      if (rules.curlyBracket && text.includes('{')) return dropDocument('curly bracket');
      if (rules.loremIpsum && /lorem ipsum/i.test(text)) return dropDocument('lorem ipsum');
      const word = bad?.exec(text)?.[0];
      if (word !== undefined) return dropDocument('bad words', word);
      const counts: Record<string, number> = {};
      const kept: string[] = [];
      const cut = (why: string): void => {
        counts[why] = (counts[why] ?? 0) + 1;
      };
      for (const raw of text.split('\n')) {
        const line = (rules.citations ? raw.replace(CITATIONS, '') : raw).trim();
        if (line === '') continue;
        if (rules.terminalPunctuation && !marks.has(line.at(-1)!)) cut('lines without terminal punctuation');
        else if (split(line).length < rules.minLineWords) cut('short lines');
        else if (rules.javascript && /javascript/i.test(line)) cut('lines with JavaScript');
        else if (rules.policies && POLICIES.test(line)) cut('policy lines');
        else kept.push(line);
      }
      if (kept.length === 0) return { ...dropDocument('no lines'), counts };
      const result = kept.join('\n');
      const sentences = count(result, sentenceEnd);
      if (sentences < rules.minSentences) return { ...dropDocument('sentences', String(sentences)), counts };
      return replaceText(document, result, counts);
    },
  };
}
