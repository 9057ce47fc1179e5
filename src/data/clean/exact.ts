import { createHash } from 'node:crypto';
import { checkBoolean, checkInteger, checkKeys, checkOneOf } from '../../util/assert.js';
import { dropDocument, keepDocument, replaceText, type CleanStep } from './step.js';

/** Options of {@link exactDuplicates}. */
export interface ExactDuplicatesOptions {
  /** What is compared: whole documents (dropped), or their lines or paragraphs (cut out). Default `'document'`. */
  readonly unit?: 'document' | 'paragraph' | 'line';
  /** Compare without regard to case, punctuation and white space. Default true. */
  readonly normalize?: boolean;
  /** Lines and paragraphs of fewer characters stay (headings, closing brackets, "Yes."). Default 20. */
  readonly minCharacters?: number;
}

/** What remains to compare: lower case, compatibility forms folded, only letters, marks and digits. */
function bare(text: string): string {
  return text
    .normalize('NFKC')
    .toLowerCase()
    .replace(/[^\p{L}\p{M}\p{N}]+/gu, '');
}

/**
 * Drops what was there before, word for word: documents as `duplicate`, or repeated lines or paragraphs inside and across documents
 * (documents of which nothing is left as `only duplicate lines`). The first occurrence stays.
 *
 * Texts are compared by the first 96 bits of their SHA-256. Memory: one hash of 12 bytes in a Set, about 60 bytes in all, for each
 * distinct unit; nothing of the text is held.
 *
 * @throws AttributeError for options that cannot be
 */
export function exactDuplicates(options: ExactDuplicatesOptions = {}): CleanStep {
  const op = 'exactDuplicates';
  checkKeys(op, options, ['unit', 'normalize', 'minCharacters']);
  const unit = checkOneOf(op, 'unit', options.unit ?? 'document', ['document', 'paragraph', 'line']);
  const folded = checkBoolean(op, 'normalize', options.normalize ?? true);
  const minCharacters = checkInteger(op, 'minCharacters', options.minCharacters ?? 20, 0);
  const seen = new Set<string>();
  /** True the first time. A text without letters and digits is compared as it is. */
  const isNew = (text: string): boolean => {
    const compared = (folded ? bare(text) : '') || text;
    const key = createHash('sha256').update(compared).digest().toString('latin1', 0, 12);
    const before = seen.size;
    return seen.add(key).size > before;
  };
  return {
    name: unit === 'document' ? op : `${op} (${unit}s)`,
    options: { unit, normalize: folded, ...(unit === 'document' ? {} : { minCharacters }) },
    process(document) {
      if (unit === 'document') return isNew(document.text) ? keepDocument(document) : dropDocument('duplicate');
      let removed = 0;
      const isKept = (part: string): boolean => {
        const text = part.trim();
        if (text.length < minCharacters || isNew(text)) return true;
        removed++;
        return false;
      };
      const [separator, glue] = unit === 'line' ? [/\n/, '\n'] : [/\n[^\S\n]*\n\s*/, '\n\n'];
      const text = document.text.split(separator).filter(isKept).join(glue);
      if (removed === 0) return keepDocument(document);
      const counts = { [`duplicate ${unit}s`]: removed };
      if (text.trim() === '') return { ...dropDocument(`only duplicate ${unit}s`), counts };
      return replaceText(document, text, counts);
    },
    summary: () => ({ distinct: seen.size }),
  };
}
