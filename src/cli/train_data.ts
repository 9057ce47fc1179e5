/**
 * From files of text to tokens on disk.
 *
 * @module
 */
import { createHash } from 'node:crypto';
import { createReadStream, existsSync } from 'node:fs';
import { mkdir, stat } from 'node:fs/promises';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { AttributeError, FormatError } from '../errors.js';
import { openTokens, saveTokens } from '../data/tokens_file.js';
import { data as readData } from '../tensor/read.js';
import type { Tensor } from '../tensor/tensor.js';
import { BpeTokenizer } from '../tokenizer/bpe_tokenizer.js';
import { loadTokenizer } from '../tokenizer/load.js';
import type { Tokenizer } from '../tokenizer/tokenizer.js';
import type { DataConfig, TrainConfig } from './train_config.js';

/** Marks the end of a document, in a vocabulary that is learnt here. */
const END = '<|endoftext|>';

/** Characters that a tokenizer is learnt from, at most: more do not change it much. */
const TOKENIZER_TEXT = 20_000_000;

/** Characters encoded at once. */
const PIECE = 1 << 20;

/** @throws AttributeError naming the first file that is not there; @returns the bytes of all */
export async function sizeOf(argument: string, files: readonly string[]): Promise<number> {
  let bytes = 0;
  for (const file of files) {
    const found = await stat(file).catch(() => undefined);
    if (found?.isFile() !== true) {
      const actual = `${JSON.stringify(file)}, which is ${found === undefined ? 'not there' : 'a folder'}`;
      throw new AttributeError({ op: 'train', argument, expected: 'files', actual });
    }
    bytes += found.size;
  }
  return bytes;
}

/** Documents of a JSON Lines file. */
async function* linesOf(file: string, field: string): AsyncGenerator<string> {
  let number = 0;
  for await (const line of createInterface({ input: createReadStream(file), crlfDelay: Infinity })) {
    number++;
    if (line.trim() === '') continue;
    let text: unknown;
    try {
      text = (JSON.parse(line) as Record<string, unknown> | null)?.[field];
    } catch {
      text = undefined;
    }
    if (typeof text !== 'string') {
      throw new FormatError({
        op: 'train',
        argument: `${file}:${number}`,
        expected: `a JSON object with a text under ${JSON.stringify(field)}`,
        actual: line.length > 60 ? `${line.slice(0, 57)}…` : line,
        hint: 'data.field names another field',
      });
    }
    yield text;
  }
}

/** A text file in pieces that end between words on lines of their own, so that no token would have crossed their border. */
async function* piecesOf(file: string): AsyncGenerator<string> {
  let rest = '';
  for await (const chunk of createReadStream(file, { encoding: 'utf8', highWaterMark: PIECE })) {
    rest += String(chunk);
    if (rest.length < PIECE) continue;
    const border = [...rest.slice(PIECE >> 1).matchAll(/\S\n(?=\S)/g)].at(-1);
    if (border === undefined) continue;
    const at = (PIECE >> 1) + border.index + border[0].length;
    yield rest.slice(0, at);
    rest = rest.slice(at);
  }
  if (rest !== '') yield rest;
}

interface Piece {
  readonly text: string;
  /** Whether a document ends with it. */
  readonly isEnd: boolean;
}

async function* textsOf(files: readonly string[], field: string): AsyncGenerator<Piece> {
  for (const file of files) {
    if (/\.(jsonl|ndjson)$/i.test(file)) {
      for await (const text of linesOf(file, field)) yield { text, isEnd: true };
    } else {
      let last: string | null = null;
      for await (const text of piecesOf(file)) {
        if (last !== null) yield { text: last, isEnd: false };
        last = text;
      }
      if (last !== null) yield { text: last, isEnd: true };
    }
  }
}

const isTokenFile = (file: string): boolean => file.endsWith('.safetensors');

/** The tokenizer of a run: `bytes` and a learnt one are kept in its folder. */
export async function prepareTokenizer(config: TrainConfig, say: (text: string) => void): Promise<Tokenizer> {
  const file = path.join(config.out, 'tokenizer.json');
  if (existsSync(file)) return loadTokenizer(file);
  const { tokenizer, data } = config;
  if (typeof tokenizer === 'string' && tokenizer !== 'bytes') return loadTokenizer(tokenizer);
  const begun = performance.now();
  const learnt =
    tokenizer === 'bytes' ? await bytesTokenizer() : await learn(data, (tokenizer as { vocabSize: number }).vocabSize);
  await mkdir(config.out, { recursive: true });
  await learnt.save(file);
  if (tokenizer !== 'bytes')
    say(`Tokenizer: ${learnt.vocabSize} tokens learnt in ${((performance.now() - begun) / 1000).toFixed(1)} s.`);
  return learnt;
}

/** The 256 bytes and an end of text. */
export const bytesTokenizer = (): Promise<BpeTokenizer> =>
  BpeTokenizer.train([], { vocabSize: 257, specialTokens: [END] });

function learn(data: DataConfig, vocabSize: number): Promise<BpeTokenizer> {
  const some = async function* (): AsyncGenerator<string> {
    let characters = 0;
    for await (const { text } of textsOf(
      data.train.filter((file) => !isTokenFile(file)),
      data.field,
    )) {
      yield text;
      characters += text.length;
      if (characters >= TOKENIZER_TEXT) return;
    }
  };
  return BpeTokenizer.train(some(), { vocabSize, specialTokens: [END] });
}

/** Ids of all documents, each with an end-of-text token behind it, if the tokenizer has one. */
export async function encodeFiles(files: readonly string[], field: string, tokenizer: Tokenizer): Promise<Int32Array> {
  const end = ['<|endoftext|>', '<|end_of_text|>', '</s>', '<eos>'].map((token) => tokenizer.tokenToId(token));
  const endId = end.find((id) => id !== undefined);
  const parts: Int32Array[] = [];
  for (const file of files.filter(isTokenFile)) {
    const tokens = await openTokens(file);
    parts.push((await readData(tokens)) as Int32Array);
    tokens.dispose();
  }
  for await (const { text, isEnd } of textsOf(
    files.filter((file) => !isTokenFile(file)),
    field,
  )) {
    parts.push(tokenizer.encodeToTypedArray(text, { addSpecialTokens: false }));
    if (isEnd && endId !== undefined) parts.push(Int32Array.of(endId));
  }
  const ids = new Int32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    ids.set(part, at);
    at += part.length;
  }
  return ids;
}

/** Holds back every n-th stretch of at least `least` tokens, so that both parts have the same kind of text. */
export function splitTokens(ids: Int32Array, share: number, least: number): { train: Int32Array; valid: Int32Array } {
  if (share === 0) return { train: ids, valid: ids.subarray(0, 0) };
  const every = Math.round(1 / share);
  const stretch = Math.max(least, Math.min(8192, Math.ceil(ids.length / every)));
  const [train, valid] = [new Int32Array(ids.length), new Int32Array(ids.length)];
  let [inTrain, inValid] = [0, 0];
  for (let from = 0, i = 0; from < ids.length; from += stretch, i++) {
    const part = ids.subarray(from, from + stretch);
    if (i % every === every - 1) {
      valid.set(part, inValid);
      inValid += part.length;
    } else {
      train.set(part, inTrain);
      inTrain += part.length;
    }
  }
  return { train: train.subarray(0, inTrain), valid: valid.subarray(0, inValid) };
}

/** Tokens on disk, mapped. */
export interface PreparedTokens {
  readonly train: Tensor;
  /** Null where nothing is held back. */
  readonly valid: Tensor | null;
}

/** Names the tokens by everything that they depend on: other text, or another tokenizer, makes other files. */
async function keyOf({ data, tokenizer }: TrainConfig, context: number, known: Tokenizer): Promise<string> {
  const hash = createHash('sha256').update(JSON.stringify([data, tokenizer, context, known.vocabSize]));
  for (const file of [...data.train, ...data.valid]) {
    const { size, mtimeMs } = await stat(file);
    hash.update(`${path.resolve(file)} ${size} ${mtimeMs}\n`);
  }
  return hash.digest('hex').slice(0, 12);
}

/** Tokenises the run's files, or finds the tokens of an earlier session. */
export async function prepareTokens(
  config: TrainConfig,
  tokenizer: Tokenizer,
  context: number,
): Promise<PreparedTokens> {
  const { data, out } = config;
  const folder = path.join(out, 'data');
  const key = await keyOf(config, context, tokenizer);
  const files = {
    train: path.join(folder, `train-${key}.safetensors`),
    valid: path.join(folder, `valid-${key}.safetensors`),
  };
  const hasValid = data.valid.length > 0 || data.validShare > 0;
  if (!existsSync(files.train) || (hasValid && !existsSync(files.valid))) {
    await mkdir(folder, { recursive: true });
    const ids = await encodeFiles(data.train, data.field, tokenizer);
    const share = data.valid.length > 0 ? 0 : data.validShare;
    const parts = splitTokens(ids, share, context + 1);
    const valid = data.valid.length > 0 ? await encodeFiles(data.valid, data.field, tokenizer) : parts.valid;
    for (const [name, part] of [
      ['train', parts.train],
      ['valid', valid],
    ] as const) {
      if (name === 'valid' && !hasValid) continue;
      if (part.length > context) continue;
      throw new AttributeError({
        op: 'train',
        argument: `data.${name}`,
        expected: `text of at least ${context + 1} tokens, one window and its successor`,
        actual: `${part.length} tokens`,
        hint: name === 'valid' && share > 0 ? 'Raise data.validShare, or lower model.context' : 'Lower model.context',
      });
    }
    if (hasValid) await saveTokens(files.valid, valid);
    await saveTokens(files.train, parts.train);
  }
  return { train: await openTokens(files.train), valid: hasValid ? await openTokens(files.valid) : null };
}
