/**
 * Documents out of files of several formats, one at a time.
 *
 * @module
 */
import { readdir, stat } from 'node:fs/promises';
import path from 'node:path';
import { AttributeError, ResourceError } from '../../errors.js';
import { formatValue } from '../../util/format.js';
import type { TextDocument } from '../clean/step.js';
import { readCsv, readJsonl, readParquet, readText } from './formats.js';
import { FileAccount, resolveReadOptions, type FileFormat, type FileReport, type ReadOptions } from './options.js';

const formatOf: Readonly<Record<string, FileFormat>> = {
  '.txt': 'text',
  '.text': 'text',
  '.md': 'text',
  '.jsonl': 'jsonl',
  '.ndjson': 'jsonl',
  '.csv': 'csv',
  '.tsv': 'csv',
  '.parquet': 'parquet',
};
const readers = { text: readText, jsonl: readJsonl, csv: readCsv, parquet: readParquet };

function guessFormat(file: string): FileFormat | undefined {
  return formatOf[path.extname(file.replace(/\.(gz|zst)$/i, '')).toLowerCase()];
}

/** A stream of documents with an account of its files. Each walk reads the files anew. */
export interface DocumentStream extends AsyncIterable<TextDocument> {
  /** What the last walk read so far, file by file. */
  readonly files: readonly FileReport[];
}

/** Files of a folder and the folders in it that have a known format, by name. */
async function filesIn(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true });
  const found: string[] = [];
  for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const full = path.join(folder, entry.name);
    if (entry.isDirectory()) found.push(...(await filesIn(full)));
    else if (guessFormat(entry.name) !== undefined) found.push(full);
  }
  return found;
}

async function expand(sources: readonly string[]): Promise<string[]> {
  const files: string[] = [];
  for (const source of sources) {
    const isFolder = await stat(source).then(
      (found) => found.isDirectory(),
      () => false, // the reader says what is wrong
    );
    if (!isFolder) {
      files.push(source);
      continue;
    }
    const inside = await filesIn(source);
    if (inside.length === 0) {
      const expected = `a folder with files of ${Object.keys(formatOf).join(', ')}`;
      throw new ResourceError({ op: 'readDocuments', argument: source, expected, actual: 'none' });
    }
    files.push(...inside);
  }
  return files;
}

/**
 * Documents of text, JSON Lines, CSV and Parquet files, the first three also packed (`.gz`, `.zst`); of a folder, all such files in it, by
 * name. Files are read in the order given, a piece at a time and no faster than the documents are taken: memory holds one line, row,
 * document of a text file, or row group of a Parquet file. Text must be UTF-8; a byte-order mark is passed over.
 *
 * CSV needs the optional package `csv-parse`, Parquet `hyparquet` (and `hyparquet-compressors` where columns are packed otherwise than
 * by Snappy), `.zst` `fzstd` where Node has no Zstandard of its own.
 *
 * @throws AttributeError for unknown formats and options, at once
 * @throws ResourceError, while reading, if a file cannot be read
 * @throws FormatError, while reading, naming file and line (CSV, JSON Lines, text) or row (Parquet)
 * @throws BackendError, while reading, if an optional package is not installed
 * @example
 * for await (const { id, text } of readDocuments(['a.jsonl.gz', 'folder'], { text: 'content' })) …
 */
export function readDocuments(sources: string | readonly string[], options: ReadOptions = {}): DocumentStream {
  const resolved = resolveReadOptions(options);
  const given = typeof sources === 'string' ? [sources] : [...sources];
  if (given.length === 0 || given.some((source) => typeof source !== 'string')) {
    const expected = 'paths of files or folders';
    throw new AttributeError({ op: 'readDocuments', argument: 'sources', expected, actual: formatValue(given) });
  }
  let accounts: FileAccount[] = [];
  return {
    get files() {
      return accounts.map(({ report }) => report);
    },
    async *[Symbol.asyncIterator]() {
      accounts = [];
      for (const file of await expand(given)) {
        const format = resolved.format ?? guessFormat(file);
        if (format === undefined) {
          throw new AttributeError({
            op: 'readDocuments',
            argument: file,
            expected: `a name that ends in ${Object.keys(formatOf).join(', ')}`,
            actual: path.basename(file),
            hint: 'Pass { format }',
          });
        }
        const account = new FileAccount(file, resolved);
        accounts.push(account);
        yield* readers[format](file, account, resolved);
      }
    },
  };
}
