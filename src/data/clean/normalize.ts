import { checkBoolean, checkKeys, checkOneOf } from '../../util/assert.js';
import { dropDocument, replaceText, type CleanStep } from './step.js';

/** Options of {@link normalizeText} and {@link normalize}. */
export interface NormalizeOptions {
  /**
   * Unicode form (UAX #15): `'NFC'` keeps what one sees, `'NFKC'` also folds compatibility characters (full-width letters, ligatures,
   * ² to 2), `'none'` leaves the form. Default `'NFC'`.
   */
  readonly form?: 'NFC' | 'NFKC' | 'none';
  /** Remove control characters other than tab and line feed, BOMs, non-characters, and the invisible U+00AD, U+200B, U+2060. Default true. */
  readonly control?: boolean;
  /** Line ends become `\n`; blanks of any kind become one space, none at line ends; at most one empty line in a row. Default true. */
  readonly whitespace?: boolean;
  /** Keep tabs and runs of blanks at the start of lines (code, tables) when `whitespace` is set. Default false. */
  readonly indentation?: boolean;
}

const KEYS = ['form', 'control', 'whitespace', 'indentation'];

/** Halves of surrogate pairs without the other half, which no UTF-8 can hold. */
const LONE_SURROGATE = /\p{Surrogate}/gu;
// C0 and C1 controls save \t \n \r and U+0085, soft hyphen, zero-width space, word joiner, BOM. Joiners (U+200C, U+200D) carry meaning.
const INVISIBLE = new RegExp(
  '[\\u0000-\\u0008\\u000b\\u000c\\u000e-\\u001f\\u007f-\\u0084\\u0086-\\u009f\\u00ad\\u200b\\u2060\\ufeff\\ufdd0-\\ufdef\\ufffe\\uffff]',
  'g',
);

function resolve(options: NormalizeOptions): Required<NormalizeOptions> {
  checkKeys('normalize', options, KEYS);
  return {
    form: checkOneOf('normalize', 'form', options.form ?? 'NFC', ['NFC', 'NFKC', 'none']),
    control: checkBoolean('normalize', 'control', options.control ?? true),
    whitespace: checkBoolean('normalize', 'whitespace', options.whitespace ?? true),
    indentation: checkBoolean('normalize', 'indentation', options.indentation ?? false),
  };
}

function apply(text: string, options: Required<NormalizeOptions>, counts: Record<string, number>): string {
  const remove = (from: string, pattern: RegExp, by: string, name: string): string => {
    let found = 0;
    const result = from.replace(pattern, () => {
      found++;
      return by;
    });
    if (found > 0) counts[name] = (counts[name] ?? 0) + found;
    return result;
  };
  let result = remove(text, LONE_SURROGATE, '\ufffd', 'broken surrogates');
  if (options.form !== 'none') result = result.normalize(options.form);
  if (options.control) result = remove(result, INVISIBLE, '', 'invisible characters');
  if (!options.whitespace) return result;
  result = result.replace(/\r\n?|[\u0085\u2028\u2029]/g, '\n');
  result = options.indentation
    ? result.replace(/(\S)[^\S\n]+/g, '$1 ').replace(/(?<![^\S\n])[^\S\n]+$/gm, '')
    : result.replace(/[^\S\n]{2,}|[^\S\n ]/g, ' ').replace(/^ | $/gm, '');
  result = result.replace(/\n{3,}/g, '\n\n');
  return options.indentation ? result.replace(/^\n+|\n+$/g, '') : result.trim();
}

/**
 * Text in one Unicode form, without broken surrogates (each becomes U+FFFD), control characters and stray white space.
 *
 * @throws AttributeError for unknown options
 */
export function normalizeText(text: string, options: NormalizeOptions = {}): string {
  return apply(text, resolve(options), {});
}

/**
 * {@link normalizeText} as a step; documents of which nothing is left are dropped as `empty`. Counts what it removed.
 *
 * @throws AttributeError for unknown options
 */
export function normalize(options: NormalizeOptions = {}): CleanStep {
  const resolved = resolve(options);
  return {
    name: 'normalize',
    kind: 'normalize',
    options: { ...resolved },
    process(document) {
      const counts: Record<string, number> = {};
      const text = apply(document.text, resolved, counts);
      if (text.trim() === '') return dropDocument('empty');
      return replaceText(document, text, counts);
    },
  };
}
