/**
 * Tokens that are found in the text before the model sees it: special ones (`<|endoftext|>`), which decoding can leave
 * out, and ordinary additions (`<think>`).
 *
 * @module
 */
import { AttributeError } from '../errors.js';
import { asArray, asId, asObject, badField, booleanField, stringField } from './json_fields.js';

/** An entry of `added_tokens`. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  /** Matches only as a whole word. */
  readonly singleWord: boolean;
  /** Takes the white space before it along. */
  readonly lstrip: boolean;
  /** Takes the white space after it along. */
  readonly rstrip: boolean;
  /** Is looked for in the normalised text, not in the raw one. */
  readonly normalized: boolean;
  readonly special: boolean;
}

/** Which special tokens `AddedTokens.split` recognises in text. */
export type AllowedSpecial = 'all' | 'none' | Iterable<string>;

/** A stretch of text: an added token, or what lies between. */
export interface Segment {
  readonly start: number;
  readonly end: number;
  readonly token: AddedToken | undefined;
}

interface Matcher {
  readonly regex: RegExp | undefined;
  readonly byContent: ReadonlyMap<string, AddedToken>;
}

export class AddedTokens {
  readonly list: readonly AddedToken[];
  readonly #byId = new Map<number, AddedToken>();
  readonly #byContent = new Map<string, AddedToken>();
  readonly #matchers = new Map<string, Matcher>();
  readonly #normalize: (text: string) => string;

  constructor(tokens: readonly AddedToken[], normalize: (text: string) => string = (text) => text) {
    this.list = [...tokens].sort((a, b) => a.id - b.id);
    this.#normalize = normalize;
    for (const token of this.list) {
      this.#byId.set(token.id, token);
      this.#byContent.set(token.content, token);
    }
  }

  /** One past the largest id. */
  get size(): number {
    return (this.list[this.list.length - 1]?.id ?? -1) + 1;
  }

  byId(id: number): AddedToken | undefined {
    return this.#byId.get(id);
  }

  byContent(content: string): AddedToken | undefined {
    return this.#byContent.get(content);
  }

  /**
   * Cuts `text` at the added tokens it contains: leftmost first, of several the longest.
   *
   * @throws `AttributeError` if `allowed` names a token that is not special.
   */
  split(text: string, allowed: AllowedSpecial, normalized: boolean): Segment[] {
    const { regex, byContent } = this.#matcher(allowed, normalized);
    if (regex === undefined) return [{ start: 0, end: text.length, token: undefined }];
    const out: Segment[] = [];
    let from = 0;
    regex.lastIndex = 0;
    for (let match = regex.exec(text); match !== null; match = regex.exec(text)) {
      const token = byContent.get(match[0])!;
      let start = match.index;
      let end = start + match[0].length;
      if (token.singleWord && (isWordChar(text, start - 1) || isWordChar(text, end))) continue;
      if (token.lstrip) while (start > from && isSpace(text, start - 1)) start--;
      if (token.rstrip) while (end < text.length && isSpace(text, end)) end++;
      if (start > from) out.push({ start: from, end: start, token: undefined });
      out.push({ start, end, token });
      from = end;
      regex.lastIndex = end;
    }
    if (from < text.length) out.push({ start: from, end: text.length, token: undefined });
    return out;
  }

  toJSON(): Record<string, unknown>[] {
    return this.list.map(({ id, content, singleWord, lstrip, rstrip, normalized, special }) => ({
      id,
      content,
      single_word: singleWord,
      lstrip,
      rstrip,
      normalized,
      special,
    }));
  }

  #matcher(allowed: AllowedSpecial, normalized: boolean): Matcher {
    const names = typeof allowed === 'string' ? undefined : [...allowed];
    for (const name of names ?? []) {
      if (this.#byContent.get(name)?.special !== true) {
        throw new AttributeError({
          op: 'encode',
          argument: 'allowedSpecial',
          expected: '"all", "none" or special tokens of this tokenizer',
          actual: JSON.stringify(name),
        });
      }
    }
    const key = `${normalized ? 'n' : 'r'}${names === undefined ? String(allowed) : JSON.stringify(names)}`;
    let matcher = this.#matchers.get(key);
    if (matcher === undefined) {
      const permitted = (token: AddedToken): boolean =>
        !token.special || allowed === 'all' || (names?.includes(token.content) ?? false);
      const tokens = this.list.filter((token) => token.normalized === normalized && permitted(token));
      matcher = this.#compile(tokens, normalized);
      if (this.#matchers.size > 32) this.#matchers.clear();
      this.#matchers.set(key, matcher);
    }
    return matcher;
  }

  #compile(tokens: readonly AddedToken[], normalized: boolean): Matcher {
    const byContent = new Map<string, AddedToken>();
    for (const token of tokens) {
      const content = normalized ? this.#normalize(token.content) : token.content;
      if (content !== '') byContent.set(content, token);
    }
    const longestFirst = [...byContent.keys()].sort((a, b) => b.length - a.length);
    const source = longestFirst.map((content) => content.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&')).join('|');
    return { byContent, regex: source === '' ? undefined : new RegExp(source, 'g') };
  }
}

function isSpace(text: string, at: number): boolean {
  return /\p{White_Space}/u.test(text.charAt(at));
}

function isWordChar(text: string, at: number): boolean {
  return at >= 0 && at < text.length && /[\p{L}\p{M}\p{Nd}\p{Pc}]/u.test(text.charAt(at));
}

/** An added token with everything but its text and id at its default. */
export function specialToken(content: string, id: number): AddedToken {
  return { id, content, singleWord: false, lstrip: false, rstrip: false, normalized: false, special: true };
}

/** @throws `FormatError` if an entry is malformed. */
export function readAddedTokens(value: unknown, path: string): AddedToken[] {
  const seen = new Set<number>();
  return asArray(value ?? [], path).map((raw, index) => {
    const where = `${path}[${index}]`;
    const json = asObject(raw, where);
    const id = asId(json['id'], `${where}.id`);
    if (id > 2 ** 24) throw badField(`${where}.id`, `an id up to ${2 ** 24}`, id);
    if (seen.has(id)) throw badField(`${where}.id`, 'an id of its own', id);
    seen.add(id);
    const special = booleanField(json, 'special', where, false);
    return {
      id,
      content: stringField(json, 'content', where),
      singleWord: booleanField(json, 'single_word', where, false),
      lstrip: booleanField(json, 'lstrip', where, false),
      rstrip: booleanField(json, 'rstrip', where, false),
      normalized: booleanField(json, 'normalized', where, !special),
      special,
    };
  });
}
