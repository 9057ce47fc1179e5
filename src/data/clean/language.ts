import { AttributeError } from '../../errors.js';
import { checkInteger, checkKeys, checkNumber } from '../../util/assert.js';
import { formatValue } from '../../util/format.js';
import { importOptional } from '../../util/optional.js';
import { dropDocument, type CleanStep } from './step.js';

/** Options of {@link languageFilter}. */
export interface LanguageOptions {
  /** ISO 639-1 codes of the languages to keep (`'en'`, `'zh'`). Default: all; the language is only noted. */
  readonly keep?: readonly string[];
  /** Documents whose best language is less likely than this are dropped as `uncertain language`; 0 to 1. Default 0. */
  readonly minConfidence?: number;
  /** Characters looked at, from the middle of the document. Default 2000. */
  readonly sample?: number;
}

interface TinyLd {
  detectAll(text: string): { readonly lang: string; readonly accuracy: number }[];
}

/**
 * Finds the language of each document with the optional package `tinyld` and notes it in `meta.language`. Drops those of other languages
 * as `language xx`. The summary counts languages, before dropping. Text of a few words is guesswork.
 *
 * @throws BackendError at the first document if `tinyld` is not installed
 */
export function languageFilter(options: LanguageOptions = {}): CleanStep {
  const op = 'languageFilter';
  checkKeys(op, options, ['keep', 'minConfidence', 'sample']);
  const { keep } = options;
  if (keep !== undefined && !(Array.isArray(keep) && keep.every((code) => /^[a-z]{2}$/.test(code)))) {
    const expected = 'ISO 639-1 codes such as "en"';
    throw new AttributeError({ op, argument: 'keep', expected, actual: formatValue(keep) });
  }
  const minConfidence = checkNumber(op, 'minConfidence', options.minConfidence ?? 0, 0, 1);
  const sample = checkInteger(op, 'sample', options.sample ?? 2000, 20);
  const languages = new Map<string, number>();
  let library: TinyLd;
  return {
    name: op,
    kind: op,
    options: { ...(keep === undefined ? {} : { keep: [...keep] }), minConfidence, sample },
    async prepare() {
      library = await importOptional<TinyLd>('tinyld', op);
    },
    process(document) {
      const start = Math.max(0, (document.text.length - sample) >> 1);
      const [best] = library.detectAll(document.text.slice(start, start + sample));
      const language = best?.lang ?? 'unknown';
      languages.set(language, (languages.get(language) ?? 0) + 1);
      const confidence = best?.accuracy ?? 0;
      if (keep !== undefined && !keep.includes(language)) return dropDocument(`language ${language}`);
      if (confidence < minConfidence) return dropDocument('uncertain language', `${language} ${confidence.toFixed(3)}`);
      return { documents: [{ ...document, meta: { ...document.meta, language } }] };
    },
    summary: () => ({
      languages: Object.fromEntries([...languages].sort(([x, a], [y, b]) => b - a || (x < y ? -1 : 1))),
    }),
    merge(summary) {
      for (const [language, times] of Object.entries(summary['languages'] as Record<string, number>))
        languages.set(language, (languages.get(language) ?? 0) + times);
    },
  };
}
