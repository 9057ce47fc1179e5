/**
 * Shards of tokens, read as one sequence.
 *
 * @module
 */
import { open, stat, type FileHandle } from 'node:fs/promises';
import path from 'node:path';
import { FormatError } from '../../errors.js';
import { copy_ } from '../../ops/copy.js';
import { narrow } from '../../ops/views.js';
import { dataSync } from '../../tensor/read.js';
import type { Tensor } from '../../tensor/tensor.js';
import { checkBoolean, checkInteger, checkKeys } from '../../util/assert.js';
import { openTokens } from '../tokens_file.js';
import type { TokenSequence } from '../token_sequence.js';
import { idsHash, INDEX_FILE, readShardIndex, type ShardIndex } from './index_file.js';

/** Options of {@link openShards}. */
export interface OpenShardsOptions {
  /** Read everything once and compare with the checksums of the index. Default false. */
  readonly verify?: boolean;
  /** Accept a folder whose writing has not ended. Default false. */
  readonly partial?: boolean;
}

/** Tokens of a folder of shards, one after the other; files are mapped, so that pages are read as they are used. */
export class ShardedTokens implements TokenSequence {
  readonly dir: string;
  readonly index: ShardIndex;
  private readonly shards: readonly Tensor[];
  private readonly handles: (Promise<FileHandle> | undefined)[] = [];

  /** @internal */
  constructor(dir: string, index: ShardIndex, shards: readonly Tensor[]) {
    this.dir = dir;
    this.index = index;
    this.shards = shards;
  }

  /** Tokens in all. */
  get size(): number {
    return this.index.tokens;
  }

  /** Calls `visit` with the parts of [start, start + count) that lie in one shard each. */
  private parts(start: number, count: number, visit: (shard: number, from: number, count: number) => void): void {
    const { shardTokens } = this.index;
    for (let at = start; at < start + count;) {
      const shard = Math.floor(at / shardTokens);
      const from = at - shard * shardTokens;
      const length = Math.min(start + count - at, shardTokens - from);
      visit(shard, from, length);
      at += length;
    }
  }

  /** @throws AttributeError if the place is not inside the sequence */
  copyTo(target: Tensor, start: number): void {
    checkInteger('ShardedTokens', 'start', start, 0, this.size - target.size);
    let done = 0;
    this.parts(start, target.size, (shard, from, count) => {
      copy_(narrow(target, 0, done, count), narrow(this.shards[shard]!, 0, from, count));
      done += count;
    });
  }

  /** Reads the pages of a stretch in the background, so that a copy that comes later need not wait for the disk. */
  async prefetch(start: number, count: number): Promise<void> {
    const reads: Promise<unknown>[] = [];
    this.parts(start, Math.min(count, this.size - start), (shard, from, length) => {
      const { file, tokens } = this.index.shards[shard]!;
      const handle = (this.handles[shard] ??= open(path.join(this.dir, file), 'r'));
      reads.push(
        handle.then(async (opened) => {
          const { size } = await opened.stat();
          await opened.read(Buffer.allocUnsafe(4 * length), 0, 4 * length, size - 4 * (tokens - from));
        }),
      );
    });
    await Promise.all(reads);
  }

  /** Closes files and maps; the tokens cannot be used any more. */
  async close(): Promise<void> {
    for (const handle of this.handles.splice(0)) await handle?.then((opened) => opened.close());
    for (const shard of this.shards) shard.dispose();
  }
}

/**
 * Opens a folder of `writeShards`.
 *
 * @throws FormatError if the folder has no index or an incomplete one, if a file is missing or of another length, or (`verify`) if a checksum differs
 */
export async function openShards(dir: string, options: OpenShardsOptions = {}): Promise<ShardedTokens> {
  const op = 'openShards';
  checkKeys(op, options, ['verify', 'partial']);
  const verify = checkBoolean(op, 'verify', options.verify ?? false);
  const partial = checkBoolean(op, 'partial', options.partial ?? false);
  const index = await readShardIndex(dir);
  const refuse = (file: string, expected: string, actual: string, hint?: string): FormatError =>
    new FormatError({ op, argument: path.join(dir, file), expected, actual, hint });
  if (index === null)
    throw refuse(INDEX_FILE, 'the index of a folder of shards', 'no file', 'Make one with writeShards');
  if (!index.complete && !partial) {
    const hint = 'Run writeShards again with the same source, or pass { partial: true }';
    throw refuse(INDEX_FILE, 'shards whose writing has ended', `the first ${index.tokens} tokens`, hint);
  }
  if (index.tokens === 0) throw refuse(INDEX_FILE, 'at least one token', 'none');
  const shards: Tensor[] = [];
  try {
    for (const { file, tokens, sha256 } of index.shards) {
      const found = await stat(path.join(dir, file)).catch(() => null);
      if (found === null) throw refuse(file, 'the shard that the index names', 'no file');
      const shard = await openTokens(path.join(dir, file));
      shards.push(shard);
      if (shard.size !== tokens) throw refuse(file, `${tokens} tokens`, String(shard.size));
      if (!verify) continue;
      const actual = idsHash(dataSync(shard) as Int32Array);
      if (actual !== sha256)
        throw refuse(file, `SHA-256 ${sha256}`, actual, 'The file is damaged; write the shards again');
    }
  } catch (error) {
    for (const shard of shards) shard.dispose();
    throw error;
  }
  return new ShardedTokens(dir, index, shards);
}
