/** Documents of one file, by its format. */
import { stat } from 'node:fs/promises';
import { pipeline, type Readable } from 'node:stream';
import { FormatError } from '../../errors.js';
import { formatBytes, formatValue } from '../../util/format.js';
import { importOptional } from '../../util/optional.js';
import type { TextDocument } from '../clean/step.js';
import { openBytes, unreadable } from './bytes.js';
import { linesOf } from './lines.js';
import type { FileAccount, ResolvedReadOptions, Row } from './options.js';

type Documents = AsyncGenerator<TextDocument, void, undefined>;

/** Whether a line stands between two documents. */
function borderOf(split: ResolvedReadOptions['split']): (line: string) => boolean {
  if (typeof split === 'object') return (line) => line.trim() === split.separator;
  return split === 'paragraph' ? (line) => line.trim() === '' : () => split === 'line';
}

/** A text file in documents. */
export async function* readText(file: string, account: FileAccount, options: ResolvedReadOptions): Documents {
  const { split, maxBytes } = options;
  const isBorder = borderOf(split);
  let parts: string[] = [];
  let bytes = 0;
  let first = 1;
  let tooLong = false;
  const finish = (): TextDocument | null => {
    const text = parts.join('\n');
    const isEmpty = text.trim() === '';
    const id = split === 'file' ? file : `${file}:${first}`;
    if (tooLong) {
      const actual = `one of ${formatBytes(bytes)} or more`;
      const hint = split === 'file' ? ' (split: "line" or "paragraph" makes several of a file)' : '';
      account.reject(String(first), `a document of at most ${formatBytes(maxBytes)}`, `${actual}${hint}`);
    }
    const isGood = !tooLong && !isEmpty;
    [parts, bytes, tooLong] = [[], 0, false];
    if (!isGood) return null;
    account.documents++;
    return { id, text };
  };
  for await (const line of linesOf(file, await openBytes(file), maxBytes)) {
    if (line.fault !== undefined) {
      account.reject(String(line.number), 'UTF-8 text in lines', line.fault);
      continue;
    }
    const border = isBorder(line.text);
    if (border && split !== 'line') {
      const document = finish();
      if (document !== null) yield document;
      continue;
    }
    if (parts.length === 0) first = line.number;
    bytes += line.bytes;
    if (bytes > maxBytes) {
      tooLong = true;
      parts = [];
    }
    if (!tooLong) parts.push(line.text);
    if (!border) continue;
    const document = finish();
    if (document !== null) yield document;
  }
  const document = finish();
  if (document !== null) yield document;
}

/** A JSON Lines file: an object a line. Empty lines are passed over. */
export async function* readJsonl(file: string, account: FileAccount, options: ResolvedReadOptions): Documents {
  for await (const { number, text, fault } of linesOf(file, await openBytes(file), options.maxBytes)) {
    const place = String(number);
    if (fault !== undefined) {
      account.reject(place, 'UTF-8 text in lines', fault);
      continue;
    }
    if (text.trim() === '') continue;
    let row: unknown;
    try {
      row = JSON.parse(text);
    } catch (cause) {
      account.reject(place, 'a JSON object', (cause as Error).message, cause);
      continue;
    }
    if (typeof row !== 'object' || row === null || Array.isArray(row)) {
      account.reject(place, 'a JSON object', formatValue(row));
      continue;
    }
    const document = account.document(row as Row, place);
    if (document !== null) yield document;
  }
}

interface CsvRecord {
  readonly record: Row;
  readonly info: { readonly lines: number };
}

interface CsvError extends Error {
  readonly code: string;
  readonly lines?: number;
}

/** A CSV file with a header, by the optional package csv-parse. The place of a row is the line on which it ends. */
export async function* readCsv(file: string, account: FileAccount, options: ResolvedReadOptions): Documents {
  const { parse } = await importOptional<{ parse: (options: object) => NodeJS.ReadWriteStream & Readable }>(
    'csv-parse',
    'readDocuments of .csv files',
  );
  const isTabbed = /\.tsv(\.gz|\.zst)?$/i.test(file);
  const parser = parse({
    columns: true,
    bom: true,
    info: true,
    delimiter: options.delimiter ?? (isTabbed ? '\t' : ','),
    skip_empty_lines: true,
    max_record_size: options.maxBytes,
    skip_records_with_error: options.onMalformed === 'skip',
    ...(isTabbed ? { quote: null } : {}),
  });
  parser.on('skip', (error: CsvError) => account.reject(String(error.lines ?? '?'), 'a row of CSV', error.message));
  const records = pipeline(await openBytes(file), parser, () => {}) as unknown as AsyncIterable<CsvRecord>;
  try {
    for await (const { record, info } of records) {
      const document = account.document(record, String(info.lines));
      if (document !== null) yield document;
    }
  } catch (cause) {
    const { code, message, lines } = cause as CsvError;
    if (!code?.startsWith('CSV_')) throw code === undefined || code.startsWith('OG_') ? cause : unreadable(file, cause);
    // With 'skip', what is left are faults after which no row can be told from the next (an open quote at the end of the file).
    account.reject(String(lines ?? '?'), 'a row of CSV', message, cause);
  } finally {
    parser.destroy();
  }
}

interface Hyparquet {
  asyncBufferFromFile(file: string): Promise<unknown>;
  parquetMetadataAsync(buffer: unknown): Promise<{
    readonly row_groups: readonly {
      readonly num_rows: bigint;
      readonly columns: readonly { readonly meta_data?: { readonly codec: string } }[];
    }[];
  }>;
  parquetReadObjects(options: object): Promise<Row[]>;
}

/** A Parquet file, by the optional package hyparquet: one row group is held at a time. The place of a row counts from 0. */
export async function* readParquet(file: string, account: FileAccount, options: ResolvedReadOptions): Documents {
  const purpose = 'readDocuments of .parquet files';
  const library = await importOptional<Hyparquet>('hyparquet', purpose);
  await stat(file).catch((cause: unknown) => {
    throw unreadable(file, cause);
  });
  const damaged = (place: string, cause: unknown): FormatError =>
    new FormatError({
      op: 'readDocuments',
      argument: `${file}${place}`,
      expected: 'a Parquet file',
      actual: (cause as Error).message,
      cause,
    });
  let buffer: unknown;
  let metadata: Awaited<ReturnType<Hyparquet['parquetMetadataAsync']>>;
  try {
    buffer = await library.asyncBufferFromFile(file);
    metadata = await library.parquetMetadataAsync(buffer);
  } catch (cause) {
    throw damaged('', cause);
  }
  const codecs = new Set(
    metadata.row_groups.flatMap(({ columns }) => columns.map((column) => column.meta_data?.codec)),
  );
  const needsMore = [...codecs].some((codec) => codec !== undefined && codec !== 'UNCOMPRESSED' && codec !== 'SNAPPY');
  const compressors = needsMore
    ? (await importOptional<{ compressors: object }>('hyparquet-compressors', purpose)).compressors
    : undefined;
  const { text, id, meta } = options;
  const columns =
    meta === true || typeof text === 'function'
      ? undefined
      : [...new Set([text, ...(id === undefined ? [] : [id]), ...(meta === false ? [] : meta)])];
  let rowStart = 0;
  for (const { num_rows: count } of metadata.row_groups) {
    const rowEnd = rowStart + Number(count);
    let rows: Row[];
    try {
      const what = { file: buffer, metadata, rowStart, rowEnd, compressors };
      rows = await library.parquetReadObjects(columns === undefined ? what : { ...what, columns });
    } catch (cause) {
      throw damaged(`: rows ${rowStart} to ${rowEnd - 1}`, cause);
    }
    for (const [i, row] of rows.entries()) {
      const document = account.document(row, String(rowStart + i));
      if (document !== null) yield document;
    }
    rowStart = rowEnd;
  }
}
