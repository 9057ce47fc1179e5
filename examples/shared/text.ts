/** Text at hand: files and folders of the user's, and the declaration files that ship inside the `typescript` package. */
import { readdir, readFile, stat } from 'node:fs/promises';
import { createRequire } from 'node:module';
import path from 'node:path';
import * as og from '../../src/index.js';
import { UsageError } from './cli.js';

/** Marks the end of a document. */
export const END = '<|endoftext|>';
/** Special tokens of the examples' vocabularies: the end of a document, and the ends of turns in ChatML. */
export const SPECIAL = [END, '<|im_start|>', '<|im_end|>'];

/** Where the `typescript` package keeps its files. */
export const typescriptFolder = (): string =>
  path.join(path.dirname(createRequire(import.meta.url).resolve('typescript/package.json')), 'lib');

/** The declarations of the language and of the browser: about 3 MB of regular, well-commented TypeScript, by file name. */
export async function declarationFiles(): Promise<Map<string, string>> {
  const folder = typescriptFolder();
  const names = (await readdir(folder)).filter((name) => /^lib\.(es|dom).*\.d\.ts$/.test(name)).sort();
  const licence = /^\/\*! \*+\nCopyright[\s\S]*?\*+ \*\/\s*/;
  const read = async (name: string): Promise<readonly [string, string]> => [
    name,
    (await readFile(path.join(folder, name), 'utf8')).replaceAll('\r\n', '\n').replace(licence, '').trim(),
  ];
  return new Map(await Promise.all(names.map(read)));
}

const isLines = (file: string): boolean => /\.(jsonl|ndjson)$/i.test(file);
const isText = (file: string): boolean =>
  isLines(file) || /\.(txt|md|text|rst|html|xml|csv|tsv|[cm]?[jt]sx?|py)$/i.test(file);

/** Objects of a JSON Lines file, with the place of each. @throws UsageError naming the line that is none */
export async function readLines(
  file: string,
): Promise<{ readonly place: string; readonly value: Record<string, unknown> }[]> {
  const text = await readFile(file, 'utf8').catch(() => {
    throw new UsageError(`${file}: expected a file of JSON Lines, which is not there or cannot be read`);
  });
  return text.split('\n').flatMap((line, i) => {
    if (line.trim() === '') return [];
    const place = `${file}:${i + 1}`;
    try {
      const value = JSON.parse(line) as unknown;
      if (typeof value === 'object' && value !== null) return [{ place, value: value as Record<string, unknown> }];
    } catch {
      // said below
    }
    throw new UsageError(`${place}: expected a JSON object, got ${line.slice(0, 60)}`);
  });
}

async function documentsOf(file: string, field: string): Promise<string[]> {
  if (!isLines(file)) return [(await readFile(file, 'utf8')).replaceAll('\r\n', '\n')];
  return (await readLines(file)).map(({ place, value }) => {
    const text = value[field];
    if (typeof text === 'string') return text;
    if (Array.isArray(text) && text.every((part) => typeof part === 'string')) return text.join('\n');
    const names = Object.keys(value).join(', ');
    throw new UsageError(
      `${place}: expected text under "${field}", there is ${names || 'nothing'}; --field names another`,
    );
  });
}

/**
 * Documents of a file, or of the files of a folder and below it: each text file is one, each line of JSON Lines has one under `field`.
 *
 * @throws UsageError if there is no text
 */
export async function readDocuments(option: string, source: string, field = 'text'): Promise<string[]> {
  const found = await stat(source).catch(() => {
    throw new UsageError(`${option} ${source}: there is no such file or folder`);
  });
  const names = found.isDirectory() ? (await readdir(source, { recursive: true })).filter(isText).sort() : [''];
  const documents: string[] = [];
  for (const name of names) documents.push(...(await documentsOf(path.join(source, name), field)));
  if (documents.some((text) => text.trim() !== '')) return documents.filter((text) => text.trim() !== '');
  throw new UsageError(
    `${option} ${source}: expected text (.txt, .md, source code) or JSON Lines (.jsonl), found none`,
  );
}

/** Documents in pieces, with a mark where one ends. */
export interface Piece {
  readonly text: string;
  readonly isEnd: boolean;
}

export interface SplitText {
  readonly train: readonly Piece[];
  readonly valid: readonly Piece[];
}

/** Pieces of about `size` characters that end at the end of a line. */
function piecesOf(text: string, size: number): Piece[] {
  const pieces: Piece[] = [];
  for (let from = 0; from < text.length;) {
    const end = from + 1.5 * size > text.length ? text.length : text.indexOf('\n', from + size) + 1 || text.length;
    pieces.push({ text: text.slice(from, end), isEnd: end === text.length });
    from = end;
  }
  return pieces;
}

/**
 * Holds back one piece of text of every `every`, of about 20 kB or less, so that both parts have the same kind of text.
 *
 * @throws UsageError if there is too little of it
 */
export function splitDocuments(option: string, documents: readonly string[], every = 20): SplitText {
  const characters = documents.reduce((sum, text) => sum + text.length, 0);
  if (characters < 2000) {
    throw new UsageError(`${option}: expected at least 2000 characters of text to train on, got ${characters}`);
  }
  const size = Math.min(20_000, Math.ceil(characters / (4 * every)));
  const [train, valid]: [Piece[], Piece[]] = [[], []];
  let seen = 0;
  for (const piece of documents.flatMap((text) => piecesOf(text, size))) {
    // by characters rather than by pieces: many short documents are held back in stretches, too
    const stretch = Math.floor(seen / size);
    (stretch % every === every - 1 ? valid : train).push(piece);
    seen += piece.text.length;
  }
  if (valid.length === 0) valid.push(train.pop()!);
  return { train, valid };
}

/** What a text begins with, for a model to go on from. */
export const firstWords = (text: string): string => {
  const some = text.trimStart().slice(0, 40);
  return some.replace(/\s+\S*$/, '') || some;
};

/** Ids of a text and the bytes that they stand for. */
export interface Encoded {
  readonly ids: Int32Array;
  readonly bytes: number;
}

/** Ids of pieces in a row. They begin with an end of document, so that every byte is predicted from something; each document ends with one. */
export function encodePieces(tokenizer: og.Tokenizer, pieces: readonly Piece[], limit = Infinity): Encoded {
  const end = Int32Array.of(tokenizer.tokenToId(END) ?? 0);
  const parts: Int32Array[] = [end];
  let [bytes, length] = [0, 1];
  for (const { text, isEnd } of pieces) {
    const ids = tokenizer.encodeToTypedArray(text, { addSpecialTokens: false });
    parts.push(ids, ...(isEnd ? [end] : []));
    length += ids.length + (isEnd ? 1 : 0);
    bytes += Buffer.byteLength(text);
    if (length >= limit) break;
  }
  const ids = new Int32Array(length);
  let at = 0;
  for (const part of parts) {
    ids.set(part, at);
    at += part.length;
  }
  return { ids, bytes };
}

/** Learns a byte-level vocabulary of the examples from texts, of at most 5 million characters. */
export function learnTokenizer(texts: Iterable<string>, vocabSize: number): Promise<og.BpeTokenizer> {
  const some = function* (): Generator<string> {
    let characters = 0;
    for (const text of texts) {
      yield text;
      characters += text.length;
      if (characters >= 5_000_000) return;
    }
  };
  return og.BpeTokenizer.train(some(), { vocabSize, specialTokens: SPECIAL });
}
