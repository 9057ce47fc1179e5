/** Cutting text into words, lines and paragraphs, the way the published rules count them. */
import { AttributeError } from '../../errors.js';
import { formatValue } from '../../util/format.js';

/**
 * How words are found: `'whitespace'`, as the papers do for English; or a locale of `Intl.Segmenter` (`'zh'`, `'ja'`, `'th'`, …),
 * whose word-like segments count, for languages that put no spaces between words.
 */
export type WordRule = string;

/** A function from text to words. */
export type WordSplitter = (text: string) => string[];

/** @throws AttributeError if the rule is neither 'whitespace' nor a locale */
export function wordSplitter(op: string, rule: WordRule): WordSplitter {
  if (rule === 'whitespace') return whitespaceWords;
  let segmenter: Intl.Segmenter;
  try {
    segmenter = new Intl.Segmenter(rule, { granularity: 'word' });
  } catch (cause) {
    const expected = '"whitespace" or a locale such as "zh"';
    throw new AttributeError({ op, argument: 'words', expected, actual: formatValue(rule), cause });
  }
  return (text) => {
    const words: string[] = [];
    for (const { segment, isWordLike } of segmenter.segment(text)) if (isWordLike) words.push(segment);
    return words;
  };
}

/** Runs of characters that are no white space. */
export function whitespaceWords(text: string): string[] {
  return text.match(/\S+/g) ?? [];
}

/** Lines that hold something besides white space, trimmed. */
export function textLines(text: string): string[] {
  const lines: string[] = [];
  for (const line of text.split('\n')) {
    const trimmed = line.trim();
    if (trimmed !== '') lines.push(trimmed);
  }
  return lines;
}

/** Paragraphs: what stands between empty lines, trimmed. */
export function textParagraphs(text: string): string[] {
  const paragraphs: string[] = [];
  for (const part of text.split(/\n[^\S\n]*\n\s*/)) {
    const trimmed = part.trim();
    if (trimmed !== '') paragraphs.push(trimmed);
  }
  return paragraphs;
}
