/** What readers are told, and the account they keep. */
import { AttributeError, FormatError } from '../../errors.js';
import { checkInteger, checkKeys, checkOneOf } from '../../util/assert.js';
import { formatValue } from '../../util/format.js';
import type { TextDocument } from '../clean/step.js';

/** Kinds of files. */
export type FileFormat = 'text' | 'jsonl' | 'csv' | 'parquet';

/** A row of a table or JSON Lines file as it was parsed. */
export type Row = Readonly<Record<string, unknown>>;

/** Options of `readDocuments`. */
export interface ReadOptions {
  /** Default: by the name, without `.gz` or `.zst`: `.txt`, `.md`, `.text`; `.jsonl`, `.ndjson`; `.csv`, `.tsv`; `.parquet`. */
  readonly format?: FileFormat;
  /** The field with the text, or a function that makes the text of a row (undefined: the row is malformed). Default `'text'`. */
  readonly text?: string | ((row: Row) => string | undefined);
  /** The field with a unique id. Default: none, the id is `file:line` (`file:row` in Parquet files). */
  readonly id?: string;
  /** Fields that become `meta`; true: all but text and id. Default true. */
  readonly meta?: boolean | readonly string[];
  /** Text files: a document is the whole `'file'`, a `'line'`, a `'paragraph'` (between empty lines), or what stands between lines of this text. Default `'file'`. */
  readonly split?: 'file' | 'line' | 'paragraph' | { readonly separator: string };
  /** Rows that cannot be read: `'throw'`, or `'skip'` them and count. Default `'throw'`. */
  readonly onMalformed?: 'throw' | 'skip';
  /** Longest line, row or document of a text file, bytes; longer ones are malformed. Default 2²⁶ (64 MiB). */
  readonly maxBytes?: number;
  /** CSV: what separates fields. Default `,`, in `.tsv` files a tab. */
  readonly delimiter?: string;
}

const KEYS = ['format', 'text', 'id', 'meta', 'split', 'onMalformed', 'maxBytes', 'delimiter'];

/** What was read of one file. */
export interface FileReport {
  readonly file: string;
  /** Documents that were given out. */
  readonly documents: number;
  /** Rows that could not be read. */
  readonly malformed: number;
  /** The first few of them: line or row, and what was wrong. */
  readonly problems: readonly string[];
}

/** @internal Options with their defaults. */
export type ResolvedReadOptions = Required<Omit<ReadOptions, 'format' | 'id' | 'delimiter'>> &
  Pick<ReadOptions, 'format' | 'id' | 'delimiter'>;

/** @internal */
export function resolveReadOptions(options: ReadOptions): ResolvedReadOptions {
  const op = 'readDocuments';
  checkKeys(op, options, KEYS);
  const { format, text = 'text', id, meta = true, split = 'file', delimiter } = options;
  const refuse = (argument: string, expected: string, value: unknown): AttributeError =>
    new AttributeError({ op, argument, expected, actual: formatValue(value) });
  if (format !== undefined) checkOneOf(op, 'format', format, ['text', 'jsonl', 'csv', 'parquet']);
  if (typeof text !== 'string' && typeof text !== 'function') throw refuse('text', 'a field or a function', text);
  if (id !== undefined && typeof id !== 'string') throw refuse('id', 'the name of a field', id);
  if (typeof meta !== 'boolean' && !Array.isArray(meta)) throw refuse('meta', 'true, false or names of fields', meta);
  if (typeof split === 'object' ? !(typeof split?.separator === 'string' && split.separator !== '') : true)
    checkOneOf(op, 'split', split, ['file', 'line', 'paragraph']);
  return {
    text,
    meta,
    split,
    onMalformed: checkOneOf(op, 'onMalformed', options.onMalformed ?? 'throw', ['throw', 'skip']),
    maxBytes: checkInteger(op, 'maxBytes', options.maxBytes ?? 1 << 26, 1, 2 ** 29),
    ...(format === undefined ? {} : { format }),
    ...(id === undefined ? {} : { id }),
    ...(delimiter === undefined ? {} : { delimiter }),
  };
}

/** @internal Counts what is read of a file, and decides what becomes of malformed rows. */
export class FileAccount {
  documents = 0;
  malformed = 0;
  readonly problems: string[] = [];

  constructor(
    readonly file: string,
    private readonly options: ResolvedReadOptions,
  ) {}

  /** @throws FormatError naming file and place, unless malformed rows are skipped */
  reject(place: string, expected: string, actual: string, cause?: unknown): void {
    if (this.options.onMalformed === 'throw') {
      const hint = 'Repair it, or pass { onMalformed: "skip" } to count such rows and go on';
      throw new FormatError({ op: 'readDocuments', argument: `${this.file}:${place}`, expected, actual, hint, cause });
    }
    this.malformed++;
    if (this.problems.length < 10) this.problems.push(`${place}: expected ${expected}, got ${actual}`);
  }

  /** The document of a row; null if it has none. */
  document(row: Row, place: string): TextDocument | null {
    const { text: wanted, id, meta } = this.options;
    const text = typeof wanted === 'function' ? wanted(row) : row[wanted];
    if (typeof text !== 'string') {
      const expected =
        typeof wanted === 'function' ? 'a text of the function' : `a string in field ${JSON.stringify(wanted)}`;
      this.reject(
        place,
        expected,
        text === undefined ? `fields ${Object.keys(row).join(', ') || '(none)'}` : formatValue(text),
      );
      return null;
    }
    const own = id === undefined ? undefined : row[id];
    if (id !== undefined && typeof own !== 'string' && typeof own !== 'number' && typeof own !== 'bigint') {
      this.reject(place, `an id in field ${JSON.stringify(id)}`, formatValue(own));
      return null;
    }
    this.documents++;
    const fields =
      meta === false
        ? []
        : Object.entries(row).filter(([name]) =>
            meta === true ? name !== wanted && name !== id : meta.includes(name),
          );
    return {
      id: own === undefined ? `${this.file}:${place}` : String(own),
      text,
      ...(fields.length === 0 ? {} : { meta: Object.fromEntries(fields) }),
    };
  }

  get report(): FileReport {
    const { file, documents, malformed, problems } = this;
    return { file, documents, malformed, problems: [...problems] };
  }
}
