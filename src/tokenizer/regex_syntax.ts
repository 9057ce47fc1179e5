/**
 * The parts of a foreign regular expression that name characters, written for JavaScript's `v` flag: properties,
 * escapes, bracket classes and case variants.
 *
 * @module
 */

/** Where a pattern was written: Oniguruma in `tokenizer.json` files, Rust's fancy-regex in tiktoken. */
export type RegexDialect = 'oniguruma' | 'rust';

/** Thrown while translating; the caller turns it into a `FormatError` with the pattern. */
export class RegexSyntaxError extends Error {}

/** A position in a pattern. */
export class Reader {
  at = 0;
  readonly #chars: readonly string[];

  constructor(
    pattern: string,
    readonly dialect: RegexDialect,
  ) {
    this.#chars = Array.from(pattern);
  }

  get done(): boolean {
    return this.at >= this.#chars.length;
  }

  peek(offset = 0): string {
    return this.#chars[this.at + offset] ?? '';
  }

  next(): string {
    if (this.done) throw new RegexSyntaxError('the pattern ends too early');
    return this.#chars[this.at++]!;
  }

  /** Steps over `text` if it comes next. */
  take(text: string): boolean {
    for (let i = 0; i < text.length; i++) if (this.peek(i) !== text[i]) return false;
    this.at += text.length;
    return true;
  }

  until(end: string): string {
    let out = '';
    while (!this.take(end)) out += this.next();
    return out;
  }
}

/** Unicode's White_Space, which is what `\s` means in both dialects. JavaScript's own adds U+FEFF and lacks U+0085. */
const SPACE = '\\p{White_Space}';
const WORD = { oniguruma: '\\p{L}\\p{M}\\p{N}\\p{Pc}', rust: '\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}' };

/** POSIX names, inside `\p{…}` and `[:…:]`, as class contents. */
const POSIX: Readonly<Record<string, string>> = {
  alnum: '\\p{Alphabetic}\\p{Nd}',
  alpha: '\\p{Alphabetic}',
  ascii: '\\x00-\\x7f',
  blank: '\\p{Zs}\\t',
  cntrl: '\\p{Cc}',
  digit: '\\p{Nd}',
  lower: '\\p{Lowercase}',
  punct: '\\p{P}\\p{S}',
  space: SPACE,
  upper: '\\p{Uppercase}',
  word: WORD.oniguruma,
  xdigit: '0-9A-Fa-f',
};

const CONTROL: Readonly<Record<string, string>> = { t: '\t', n: '\n', r: '\r', f: '\f', v: '\v', a: '\x07', e: '\x1b' };

/** Class contents that an escape stands for, or the one character it spells. */
export type Escape = { readonly set: string; readonly negated: boolean } | { readonly char: string };

/** Reads an escape after its backslash, as far as it means characters; `undefined` leaves the letter to the caller. */
export function readEscape(reader: Reader): Escape | undefined {
  const letter = reader.peek();
  const word = WORD[reader.dialect];
  const sets: Readonly<Record<string, string>> =
    reader.dialect === 'oniguruma'
      ? { s: SPACE, d: '\\p{Nd}', w: word, h: '0-9A-Fa-f' }
      : { s: SPACE, d: '\\p{Nd}', w: word };
  const set = sets[letter.toLowerCase()];
  if (set !== undefined) {
    reader.next();
    return { set, negated: letter !== letter.toLowerCase() };
  }
  const control = CONTROL[letter];
  if (control !== undefined) {
    reader.next();
    return { char: control };
  }
  if (letter === 'p' || letter === 'P') {
    reader.next();
    return readProperty(reader, letter === 'P');
  }
  if (letter === 'x' || letter === 'u' || letter === 'U') {
    reader.next();
    return { char: readHex(reader, letter) };
  }
  if (/^[A-Za-z0-9]$/.test(letter)) return undefined;
  return { char: reader.next() };
}

function readHex(reader: Reader, letter: string): string {
  let digits = '';
  if (reader.take('{')) digits = reader.until('}');
  else for (let i = letter === 'x' ? 2 : letter === 'u' ? 4 : 8; i > 0; i--) digits += reader.next();
  const code = /^[0-9A-Fa-f]{1,8}$/.test(digits) ? Number.parseInt(digits, 16) : Number.NaN;
  if (!(code <= 0x10ffff)) throw new RegexSyntaxError(`"\\${letter}${digits}" is no code point`);
  return String.fromCodePoint(code);
}

function readProperty(reader: Reader, capital: boolean): Escape {
  let name = reader.take('{') ? reader.until('}') : reader.next();
  let negated = capital;
  if (name.startsWith('^')) {
    negated = !negated;
    name = name.slice(1);
  }
  for (const candidate of [name, `Script=${name}`]) {
    if (/^[\w=]+$/.test(candidate) && compiles(`\\p{${candidate}}`)) return { set: `\\p{${candidate}}`, negated };
  }
  const posix = POSIX[name.toLowerCase()];
  if (posix === undefined) throw new RegexSyntaxError(`the property "${name}" is unknown`);
  return { set: posix, negated };
}

function compiles(source: string): boolean {
  try {
    new RegExp(source, 'v');
    return true;
  } catch {
    return false;
  }
}

/** One character as pattern source, safe inside and outside of brackets. */
export function quoteChar(char: string): string {
  const code = char.codePointAt(0)!;
  return code < 0x80 && !/[A-Za-z0-9]/.test(char) ? `\\x${code.toString(16).padStart(2, '0')}` : char;
}

/** The characters that equal `char` when case is ignored (simple folding of Unicode). */
export function caseVariants(char: string): string[] {
  const found = new Set([char]);
  const extra: Readonly<Record<string, string>> = {
    s: 'ſ',
    S: 'ſ',
    k: '\u212a',
    K: '\u212a',
    å: '\u212b',
    Å: '\u212b',
  };
  for (const other of [char.toLowerCase(), char.toUpperCase(), extra[char] ?? char]) {
    if (Array.from(other).length === 1) found.add(other).add(other.toLowerCase()).add(other.toUpperCase());
  }
  const same = new RegExp(`^${quoteChar(char)}$`, 'iv');
  return [...found].filter((other) => same.test(other));
}

/** Reads a bracket class after its `[` and returns it as `v`-flag source. */
export function readClass(reader: Reader, ignoreCase: boolean): string {
  const negated = reader.take('^');
  const operands: string[] = [];
  let items = '';
  for (let first = true; ; first = false) {
    if (reader.done) throw new RegexSyntaxError('a "[" is not closed');
    if (reader.peek() === ']' && !first) break;
    if (reader.take('&&')) {
      operands.push(items);
      items = '';
    } else if (reader.take('[:')) {
      items += readPosix(reader);
    } else if (reader.take('[')) {
      items += readClass(reader, ignoreCase);
    } else {
      items += readClassItem(reader, ignoreCase);
    }
  }
  reader.next();
  const open = negated ? '[^' : '[';
  if (operands.length === 0) return `${open}${items}]`;
  return `${open}${[...operands, items].map((operand) => `[${operand}]`).join('&&')}]`;
}

function readPosix(reader: Reader): string {
  const negated = reader.take('^');
  const name = reader.until(':]');
  const set = POSIX[name];
  if (set === undefined) throw new RegexSyntaxError(`the class "[:${name}:]" is unknown`);
  return negated ? `[^${set}]` : set;
}

function readClassItem(reader: Reader, ignoreCase: boolean): string {
  const from = readClassChar(reader);
  if (typeof from !== 'string') return from.negated ? `[^${from.set}]` : from.set;
  if (reader.peek() !== '-' || reader.peek(1) === ']' || reader.peek(1) === '') return variants(from, ignoreCase);
  reader.next();
  const to = readClassChar(reader);
  if (typeof to !== 'string') {
    return variants(from, ignoreCase) + variants('-', false) + (to.negated ? `[^${to.set}]` : to.set);
  }
  const [low, high] = [from.codePointAt(0)!, to.codePointAt(0)!];
  if (low > high) throw new RegexSyntaxError(`the range "${from}-${to}" is reversed`);
  let out = `${quoteChar(from)}-${quoteChar(to)}`;
  if (!ignoreCase) return out;
  if (high - low > 0x1000) throw new RegexSyntaxError(`the range "${from}-${to}" is too long to ignore case`);
  for (let code = low; code <= high; code++) {
    const char = String.fromCodePoint(code);
    for (const other of caseVariants(char)) if (other !== char) out += quoteChar(other);
  }
  return out;
}

function variants(char: string, ignoreCase: boolean): string {
  return (ignoreCase ? caseVariants(char) : [char]).map(quoteChar).join('');
}

function readClassChar(reader: Reader): string | { set: string; negated: boolean } {
  const char = reader.next();
  if (char !== '\\') return char;
  if (reader.take('b')) return '\b';
  const escape = readEscape(reader);
  if (escape === undefined) throw new RegexSyntaxError(`"\\${reader.peek()}" is not supported inside brackets`);
  return 'char' in escape ? escape.char : escape;
}
