/**
 * Pre-tokenisation patterns. They are written for Oniguruma (`tokenizer.json`) or Rust (tiktoken); JavaScript reads a
 * translation with the same matches:
 *
 * | foreign | JavaScript (`v` flag) |
 * |---|---|
 * | possessive `X++`, `X?+`, `X{1,3}+`, atomic `(?>X)` | `(?=(?<aN>X+))\k<aN>`: a lookahead never backtracks. Plain greedy `X+` where nothing follows |
 * | `(?i:X)`, `(?i)` | every letter as the class of its case variants, with `ſ` for s and the Kelvin sign for k |
 * | `\s` `\d` `\w` | Unicode White_Space, Nd and the dialect's word class |
 * | `^` `$` | line ends in Oniguruma, text ends in Rust |
 * | `\A` `\z` `\b` | lookarounds, Unicode-aware |
 * | `\p{Han}`, `[[:alpha:]]`, `[a&&b]` | `\p{Script=Han}`, the property, `[[a]&&[b]]` |
 *
 * @module
 */
import { FormatError } from '../errors.js';
import {
  Reader,
  RegexSyntaxError,
  caseVariants,
  quoteChar,
  readClass,
  readEscape,
  type RegexDialect,
} from './regex_syntax.js';

export type { RegexDialect } from './regex_syntax.js';

/** GPT-2's pattern, the default of byte-level tokenizers. */
export const GPT2_PATTERN = String.raw`'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;

type Node =
  | { readonly kind: 'text'; readonly source: string }
  | { readonly kind: 'group'; readonly open: string; readonly alternatives: Node[][]; readonly look: boolean }
  | { readonly kind: 'atomic'; readonly alternatives: Node[][] }
  | { readonly kind: 'repeat'; readonly node: Node; readonly times: string; readonly mode: '' | '?' | '+' };

class Translator {
  #atomic = 0;
  readonly #reader: Reader;

  constructor(pattern: string, dialect: RegexDialect) {
    this.#reader = new Reader(pattern, dialect);
  }

  run(): string {
    const alternatives = this.#alternatives(false);
    if (!this.#reader.done) throw new RegexSyntaxError('a ")" has no "("');
    return this.#emitAll(alternatives, true);
  }

  #alternatives(ignoreCase: boolean): Node[][] {
    const out: Node[][] = [[]];
    let fold = ignoreCase;
    while (!this.#reader.done && this.#reader.peek() !== ')') {
      if (this.#reader.take('|')) out.push([]);
      else if (this.#reader.take('(?i)')) fold = true;
      else if (this.#reader.take('(?-i)')) fold = false;
      else if (this.#reader.take('(?#')) this.#reader.until(')');
      else out[out.length - 1]!.push(this.#repeated(this.#atom(fold)));
    }
    return out;
  }

  #repeated(atom: Node): Node {
    let node = atom;
    for (;;) {
      const times = this.#times();
      if (times === undefined) return node;
      // After a count, `+` is possessive in Rust but repeats the repeat in Oniguruma.
      const possessive = !times.startsWith('{') || this.#reader.dialect === 'rust';
      const mode = this.#reader.take('?') ? '?' : possessive && this.#reader.take('+') ? '+' : '';
      node = { kind: 'repeat', node: node.kind === 'repeat' ? wrap(node) : node, times, mode };
    }
  }

  #times(): string | undefined {
    const reader = this.#reader;
    for (const sign of ['*', '+', '?']) if (reader.take(sign)) return sign;
    if (reader.peek() !== '{') return undefined;
    let length = 1;
    while (/[0-9,]/.test(reader.peek(length))) length++;
    if (reader.peek(length) !== '}') return undefined;
    reader.next();
    const [low = '', high] = reader.until('}').split(',');
    if (low === '' && (high ?? '') === '') throw new RegexSyntaxError('"{}" names no count');
    return high === undefined ? `{${low}}` : `{${low === '' ? '0' : low},${high}}`;
  }

  #atom(fold: boolean): Node {
    const reader = this.#reader;
    const char = reader.next();
    switch (char) {
      case '(':
        return this.#group(fold);
      case '[':
        return text(readClass(reader, fold));
      case '.':
        return text('[^\\n]');
      case '^':
        return text(reader.dialect === 'rust' ? '(?<![\\s\\S])' : '(?<![^\\n])');
      case '$':
        return text(reader.dialect === 'rust' ? '(?![\\s\\S])' : '(?![^\\n])');
      case '*':
      case '+':
      case '?':
        throw new RegexSyntaxError(`"${char}" has nothing to repeat`);
      case '\\':
        return this.#escape(fold);
      default:
        return text(literal(char, fold));
    }
  }

  #escape(fold: boolean): Node {
    const reader = this.#reader;
    const escape = readEscape(reader);
    if (escape !== undefined) {
      if ('char' in escape) return text(literal(escape.char, fold));
      return text(`[${escape.negated ? '^' : ''}${escape.set}]`);
    }
    const letter = reader.next();
    if (letter === 'A') return text('(?<![\\s\\S])');
    if (letter === 'z') return text('(?![\\s\\S])');
    if (letter === 'Z') return text('(?=\\n?(?![\\s\\S]))');
    if (letter === 'b' || letter === 'B') {
      const word = '[\\p{L}\\p{M}\\p{N}\\p{Pc}]';
      const edge = `(?<=${word})(?!${word})|(?<!${word})(?=${word})`;
      return text(letter === 'b' ? `(?:${edge})` : `(?!${edge})`);
    }
    throw new RegexSyntaxError(`"\\${letter}" is not supported`);
  }

  #group(fold: boolean): Node {
    const reader = this.#reader;
    for (const open of ['?=', '?!', '?<=', '?<!']) {
      if (reader.take(open)) return { kind: 'group', open: `(${open}`, look: true, alternatives: this.#closed(fold) };
    }
    if (reader.take('?>')) return { kind: 'atomic', alternatives: this.#closed(fold) };
    let inner = fold;
    if (reader.take('?P<') || reader.take('?<')) reader.until('>');
    else if (reader.take('?')) {
      const flags = reader.until(':');
      if (!/^i?(-i?)?$/.test(flags)) throw new RegexSyntaxError(`the flags "(?${flags}:" are not supported`);
      if (flags !== '') inner = flags.startsWith('i') && !flags.endsWith('-i');
    }
    return { kind: 'group', open: '(?:', look: false, alternatives: this.#closed(inner) };
  }

  #closed(fold: boolean): Node[][] {
    const alternatives = this.#alternatives(fold);
    if (!this.#reader.take(')')) throw new RegexSyntaxError('a "(" is not closed');
    return alternatives;
  }

  /** `tail`: nothing follows in the whole pattern, so giving characters back could not help and greedy is exact. */
  #emitAll(alternatives: Node[][], tail: boolean): string {
    return alternatives
      .map((nodes) => nodes.map((node, i) => this.#emit(node, tail && i === nodes.length - 1)).join(''))
      .join('|');
  }

  #emit(node: Node, tail: boolean): string {
    switch (node.kind) {
      case 'text':
        return node.source;
      case 'group':
        return `${node.open}${this.#emitAll(node.alternatives, node.look || tail)})`;
      case 'atomic':
        return this.#lock(this.#emitAll(node.alternatives, true));
      case 'repeat': {
        const body = this.#emit(node.node, false);
        if (node.mode === '+') return tail ? body + node.times : this.#lock(body + node.times);
        return body + node.times + node.mode;
      }
    }
  }

  #lock(source: string): string {
    const name = `a${this.#atomic++}`;
    return `(?:(?=(?<${name}>${source}))\\k<${name}>)`;
  }
}

function text(source: string): Node {
  return { kind: 'text', source };
}

function wrap(node: Node): Node {
  return { kind: 'group', open: '(?:', look: false, alternatives: [[node]] };
}

function literal(char: string, fold: boolean): string {
  const all = fold ? caseVariants(char) : [char];
  return all.length === 1 ? quoteChar(char) : `[${all.map(quoteChar).join('')}]`;
}

/**
 * Translates a pre-tokenisation pattern into JavaScript source for the `v` flag.
 *
 * @throws `FormatError` if the pattern is malformed or uses a construct without equivalent, which it names.
 */
export function translatePattern(pattern: string, dialect: RegexDialect = 'oniguruma'): string {
  try {
    const source = new Translator(pattern, dialect).run();
    new RegExp(source, 'v');
    return source;
  } catch (cause) {
    throw new FormatError({
      op: 'tokenizer',
      argument: 'pattern',
      expected: 'a regular expression that JavaScript can express',
      actual: `${JSON.stringify(pattern.length > 80 ? `${pattern.slice(0, 80)}…` : pattern)} (${(cause as Error).message})`,
      cause,
    });
  }
}

/** Walks through the pieces of one text. */
export interface SplitCursor {
  /** Whether the piece last returned is a match; otherwise it lies between matches. */
  readonly matched: boolean;
  /** End of the next piece, which starts where the last one ended; -1 after the last. */
  next(): number;
}

/** Cuts text into matches of a pattern and what lies between them. */
export class Splitter {
  readonly #sticky: RegExp;
  readonly #global: RegExp;

  constructor(
    readonly pattern: string,
    readonly dialect: RegexDialect = 'oniguruma',
  ) {
    const source = translatePattern(pattern, dialect);
    this.#sticky = new RegExp(source, 'vy');
    this.#global = new RegExp(source, 'vg');
  }

  over(text: string): SplitCursor {
    return new RegexCursor(text, this.#sticky, this.#global);
  }
}

class RegexCursor implements SplitCursor {
  matched = false;
  #at = 0;

  constructor(
    readonly text: string,
    readonly sticky: RegExp,
    readonly global: RegExp,
  ) {}

  next(): number {
    const { text, sticky } = this;
    const from = this.#at;
    if (from >= text.length) return -1;
    sticky.lastIndex = from;
    if (sticky.test(text) && sticky.lastIndex > from) {
      this.matched = true;
      this.#at = sticky.lastIndex;
      return this.#at;
    }
    this.matched = false;
    let found: number;
    this.global.lastIndex = from + 1;
    do {
      // The engine may stop inside a surrogate pair, where no character starts; then the search goes on after it.
      found = this.global.exec(text)?.index ?? text.length;
      this.global.lastIndex = found + 1;
    } while (insidePair(text, found));
    this.#at = found;
    return this.#at;
  }
}

function insidePair(text: string, at: number): boolean {
  return (text.charCodeAt(at) & 0xfc00) === 0xdc00 && at > 0 && (text.charCodeAt(at - 1) & 0xfc00) === 0xd800;
}
