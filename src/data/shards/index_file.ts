/** The index of a folder of token shards: read with every claim checked, written whole or not at all. */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { FormatError } from '../../errors.js';
import type { Tokenizer } from '../../tokenizer/tokenizer.js';
import { writeFileAtomically } from '../../util/atomic_file.js';
import { formatValue } from '../../util/format.js';

/** One file of tokens. */
export interface ShardEntry {
  readonly file: string;
  readonly tokens: number;
  /** SHA-256 of the ids as little-endian int32, hexadecimal. */
  readonly sha256: string;
}

/** `index.json` of a folder of shards. */
export interface ShardIndex {
  readonly format: 'omnigrad-shards';
  readonly version: 1;
  readonly dtype: 'int32';
  /** Which tokenizer made the ids: see {@link tokenizerHash}. */
  readonly tokenizer: { readonly hash: string; readonly vocabSize: number };
  /** Id after each document. */
  readonly endToken: number;
  readonly addSpecialTokens: boolean;
  /** Tokens of every shard but the last. */
  readonly shardTokens: number;
  readonly shards: readonly ShardEntry[];
  readonly tokens: number;
  /** Documents that lie completely in the shards. */
  readonly documents: number;
  /** Whether the source was read to its end. */
  readonly complete: boolean;
  /** Tokens of the next document that the shards already hold. */
  readonly partial: number;
  /** SHA-256 over ids and texts of the documents, the partial one included: tells whether a source is still the same. */
  readonly sourceDigest: string;
}

/** Name of the index in its folder. */
export const INDEX_FILE = 'index.json';

/**
 * SHA-256 of what a tokenizer does: its vocabulary, its special tokens, and what it makes of a text in many scripts. Equal for two copies
 * of a tokenizer, however they were loaded.
 */
export function tokenizerHash(tokenizer: Tokenizer): string {
  const hash = createHash('sha256');
  for (let id = 0; id < tokenizer.vocabSize; id++) hash.update(`${tokenizer.idToToken(id) ?? ''}\n`);
  for (const [token, id] of [...tokenizer.specialTokens].sort(([, a], [, b]) => a - b)) hash.update(`${id} ${token}\n`);
  const probe =
    'The quick brown fox’s 1,234.5 jumps;\n\tif (x >= 0) { return y_2; }  ÀÉÎõü ﬁ Ωμέγα Привет 你好，世界 こんにちは 안녕 مرحبا 👩‍👩‍👧 \u00a0';
  hash.update(tokenizer.encodeToTypedArray(probe, { addSpecialTokens: false }).join(' '));
  return hash.digest('hex');
}

/** SHA-256 of ids as they lie in a file (little-endian, as every machine that Node runs on). */
export function idsHash(ids: Int32Array): string {
  return createHash('sha256')
    .update(new Uint8Array(ids.buffer, ids.byteOffset, ids.byteLength))
    .digest('hex');
}

/** @internal */
export async function writeIndex(dir: string, index: ShardIndex): Promise<void> {
  const bytes = new TextEncoder().encode(`${JSON.stringify(index, null, 2)}\n`);
  await writeFileAtomically(path.join(dir, INDEX_FILE), (write) => write(bytes));
}

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;
const isHash = (value: unknown): boolean => typeof value === 'string' && /^[0-9a-f]{64}$/.test(value);

/** What is wrong with a parsed index; undefined if nothing is. */
function fault(index: ShardIndex): [field: string, expected: string, value: unknown] | undefined {
  if (index?.format !== 'omnigrad-shards') return ['format', '"omnigrad-shards"', index?.format];
  if (index.version !== 1) return ['version', '1', index.version];
  if (index.dtype !== 'int32') return ['dtype', '"int32"', index.dtype];
  if (!isHash(index.tokenizer?.hash)) return ['tokenizer.hash', '64 hexadecimal digits', index.tokenizer?.hash];
  if (!isCount(index.tokenizer.vocabSize)) return ['tokenizer.vocabSize', 'a count', index.tokenizer.vocabSize];
  for (const key of ['endToken', 'tokens', 'documents', 'partial'] as const)
    if (!isCount(index[key])) return [key, 'a count', index[key]];
  if (!isCount(index.shardTokens) || index.shardTokens === 0)
    return ['shardTokens', 'a count above 0', index.shardTokens];
  for (const key of ['complete', 'addSpecialTokens'] as const)
    if (typeof index[key] !== 'boolean') return [key, 'true or false', index[key]];
  if (!isHash(index.sourceDigest)) return ['sourceDigest', '64 hexadecimal digits', index.sourceDigest];
  if (!Array.isArray(index.shards)) return ['shards', 'an array', index.shards];
  let sum = 0;
  for (const [i, shard] of (index.shards as ShardEntry[]).entries()) {
    // A bare name: an index must not lead out of its folder.
    if (typeof shard?.file !== 'string' || !/^[\w.-]+$/.test(shard.file) || shard.file.startsWith('.'))
      return [`shards[${i}].file`, 'the name of a file in the folder', shard?.file];
    if (!isCount(shard.tokens) || shard.tokens === 0) return [`shards[${i}].tokens`, 'a count above 0', shard.tokens];
    const isLast = i === index.shards.length - 1;
    if (isLast ? shard.tokens > index.shardTokens : shard.tokens !== index.shardTokens)
      return [`shards[${i}].tokens`, `${isLast ? 'at most ' : ''}${index.shardTokens}`, shard.tokens];
    if (!isHash(shard.sha256)) return [`shards[${i}].sha256`, '64 hexadecimal digits', shard.sha256];
    sum += shard.tokens;
  }
  return sum === index.tokens ? undefined : ['tokens', `${sum}, the sum of the shards`, index.tokens];
}

/**
 * Reads and checks the index of a folder of shards; null if there is none.
 *
 * @throws FormatError naming the field that is wrong
 */
export async function readShardIndex(dir: string): Promise<ShardIndex | null> {
  const file = path.join(dir, INDEX_FILE);
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
  let index: ShardIndex;
  try {
    index = JSON.parse(text) as ShardIndex;
  } catch (cause) {
    throw new FormatError({ op: 'shards', argument: file, expected: 'JSON', actual: (cause as Error).message, cause });
  }
  const wrong = fault(index);
  if (wrong === undefined) return index;
  const [field, expected, value] = wrong;
  throw new FormatError({ op: 'shards', argument: `${file}: ${field}`, expected, actual: formatValue(value) });
}
