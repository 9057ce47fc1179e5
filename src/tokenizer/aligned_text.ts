/**
 * Text that remembers where it came from. Normalisers and pre-tokenisers change text; offsets are reported in the
 * text the caller gave. Indices are UTF-16 units.
 *
 * @module
 */

/** A stretch of text, each unit of which stands for a range of the original. */
export class AlignedText {
  /** Without `starts` and `ends`, unit i stands for unit `base + i` of the original. */
  constructor(
    readonly text: string,
    readonly base = 0,
    readonly starts?: Int32Array,
    readonly ends?: Int32Array,
  ) {}

  slice(from: number, to: number): AlignedText {
    const text = this.text.slice(from, to);
    if (this.starts === undefined) return new AlignedText(text, this.base + from);
    return new AlignedText(text, 0, this.starts.subarray(from, to), this.ends!.subarray(from, to));
  }

  /** Where in the original units [from, to) begin and end. An empty range lies at its place. */
  range(from: number, to: number): [start: number, end: number] {
    if (from >= to) {
      const at = from < this.text.length ? this.startOf(from) : this.endOf(from - 1);
      return [at, at];
    }
    return [this.startOf(from), this.endOf(to - 1)];
  }

  startOf(unit: number): number {
    if (unit < 0) return this.base;
    return this.starts === undefined ? this.base + unit : this.starts[unit]!;
  }

  endOf(unit: number): number {
    if (unit < 0) return this.starts === undefined ? this.base : (this.starts[0] ?? 0);
    return this.ends === undefined ? this.base + unit + 1 : this.ends[unit]!;
  }
}

/** Builds changed text together with its alignment. */
export class AlignedBuilder {
  #text = '';
  #starts: number[] = [];
  #ends: number[] = [];

  constructor(readonly source: AlignedText) {}

  /** Keeps units [from, to) of the source. */
  keep(from: number, to: number): void {
    this.#text += this.source.text.slice(from, to);
    for (let unit = from; unit < to; unit++) {
      this.#starts.push(this.source.startOf(unit));
      this.#ends.push(this.source.endOf(unit));
    }
  }

  /** Writes `text` for units [from, to) of the source; with an empty range it is an insertion. */
  put(text: string, from: number, to: number): void {
    const [start, end] = this.source.range(from, to);
    this.#text += text;
    for (let i = 0; i < text.length; i++) {
      this.#starts.push(start);
      this.#ends.push(end);
    }
  }

  /** Puts `text` in front of all, standing for the first character. */
  prefix(text: string): void {
    const first = this.source.text.codePointAt(0);
    this.put(text, 0, first === undefined ? 0 : first > 0xffff ? 2 : 1);
  }

  build(): AlignedText {
    return new AlignedText(this.#text, 0, Int32Array.from(this.#starts), Int32Array.from(this.#ends));
  }
}

/** For each byte of `text` in UTF-8: where the character it belongs to starts and ends. */
function unitsOfBytes(text: string): { readonly starts: Int32Array; readonly ends: Int32Array } {
  const starts: number[] = [];
  const ends: number[] = [];
  for (let unit = 0; unit < text.length;) {
    const code = text.codePointAt(unit)!;
    const units = code > 0xffff ? 2 : 1;
    const bytes = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (let i = 0; i < bytes; i++) {
      starts.push(unit);
      ends.push(unit + units);
    }
    unit += units;
  }
  return { starts: Int32Array.from(starts), ends: Int32Array.from(ends) };
}

/** Number of bytes of `text` in UTF-8; a lone surrogate counts as U+FFFD. */
export function utf8Length(text: string): number {
  return Buffer.byteLength(text, 'utf8');
}

/** Converts ranges of bytes in `text` to ranges of UTF-16 units; a range inside a character takes all of it. */
export function unitRanges(text: string): (startByte: number, endByte: number) => [start: number, end: number] {
  const { starts, ends } = unitsOfBytes(text);
  const last = starts.length;
  return (startByte, endByte) => {
    const start = startByte < last ? starts[startByte]! : text.length;
    return [start, endByte > startByte ? (ends[Math.min(endByte, last) - 1] ?? start) : start];
  };
}
