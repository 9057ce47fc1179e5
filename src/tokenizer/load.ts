/** Opening tokenizer files by what is in them. */
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { FormatError } from '../errors.js';
import { BpeModel } from './bpe_model.js';
import { BpeTokenizer } from './bpe_tokenizer.js';
import { PipelineTokenizer, parseTokenizerJson, readPipeline } from './pipeline.js';
import { SentencePieceTokenizer } from './sentencepiece.js';
import type { Tokenizer } from './tokenizer.js';

/** Looked for in a folder, in this order. */
const FILE_NAMES = ['tokenizer.json', 'tokenizer.model', 'spiece.model', 'sentencepiece.bpe.model'];

/**
 * Opens a tokenizer: a `tokenizer.json` (BPE, WordPiece, Unigram, WordLevel), a SentencePiece `.model`, or a folder
 * with one of them. Files without a pattern of their own are opened by {@link BpeTokenizer.fromTiktoken} and
 * {@link BpeTokenizer.fromGpt2Files}.
 *
 * @throws `FormatError` naming what is wrong with the file; the file system's error if it cannot be read.
 */
export async function loadTokenizer(path: string): Promise<Tokenizer> {
  const data = await readFile(await findFile(path));
  if (
    /^\s*[{[]/.test(
      data
        .subarray(0, 64)
        .toString('latin1')
        .replace(/^\u00ef\u00bb\u00bf/, ''),
    )
  ) {
    const text = data.toString('utf8').replace(/^\ufeff/, '');
    const [model, added, parts] = readPipeline(parseTokenizerJson(text, path));
    return model instanceof BpeModel
      ? new BpeTokenizer(model, added, parts)
      : new PipelineTokenizer(model, added, parts);
  }
  if (path.endsWith('.tiktoken')) {
    throw new FormatError({
      op: 'loadTokenizer',
      argument: path,
      expected: 'a tokenizer.json or a SentencePiece model',
      actual: 'a .tiktoken file, which has no pattern',
      hint: 'Use BpeTokenizer.fromTiktoken with the pattern it was made for',
    });
  }
  return SentencePieceTokenizer.fromBytes(data);
}

async function findFile(path: string): Promise<string> {
  if (!(await stat(path)).isDirectory()) return path;
  for (const name of FILE_NAMES) {
    const candidate = join(path, name);
    const found = await stat(candidate).catch(() => undefined);
    if (found?.isFile() === true) return candidate;
  }
  throw new FormatError({
    op: 'loadTokenizer',
    argument: path,
    expected: `a folder with ${FILE_NAMES.join(' or ')}`,
    actual: 'none of them',
  });
}
