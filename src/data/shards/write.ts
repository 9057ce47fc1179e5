/**
 * Documents to token shards.
 *
 * @module
 */
import { createHash, type Hash } from 'node:crypto';
import { mkdir, mkdtemp, readdir, rm, stat, unlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { AttributeError, StateError } from '../../errors.js';
import type { AllowedSpecial } from '../../tokenizer/added_tokens.js';
import { BpeTokenizer } from '../../tokenizer/bpe_tokenizer.js';
import { loadTokenizer } from '../../tokenizer/load.js';
import type { Tokenizer } from '../../tokenizer/tokenizer.js';
import { checkBoolean, checkInteger, checkKeys } from '../../util/assert.js';
import { formatValue } from '../../util/format.js';
import type { TextDocument } from '../clean/step.js';
import { saveTokens } from '../tokens_file.js';
import { mapInOrder } from '../workers/map.js';
import type { TokenizedBatch, TokenizeTask } from '../workers/tasks.js';
import { idsHash, readShardIndex, tokenizerHash, writeIndex, type ShardIndex } from './index_file.js';

/** Where {@link writeShards} stands. */
export interface ShardProgress {
  readonly documents: number;
  readonly tokens: number;
  readonly shards: number;
}

/** Options of {@link writeShards}. */
export interface ShardOptions {
  /** The tokenizer, or the path of its file; workers load their own copy of the latter. */
  readonly tokenizer: Tokenizer | string;
  /** Token after each document, or its id. Default: the one of `<|endoftext|>`, `<|end_of_text|>`, `</s>`, `<eos>` that the tokenizer has. */
  readonly endToken?: string | number;
  /** Put the tokenizer's own special tokens around each document, too. Default false. */
  readonly addSpecialTokens?: boolean;
  /** Special tokens that count as such in the text. Default `'none'`: text cannot fake the end of a document. */
  readonly allowedSpecial?: AllowedSpecial;
  /** Tokens of a shard; 4 bytes each. Default 2²⁴ (64 MiB). */
  readonly shardTokens?: number;
  /** Go on where an earlier call for this folder and source ended. Default true. */
  readonly resume?: boolean;
  /** Threads that tokenise. Default 0: this one. The files are the same. */
  readonly workers?: number;
  /** Stops after the batch under way, keeping whole shards; the call then rejects with the signal's reason. */
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: ShardProgress) => void;
}

const KEYS = [
  'tokenizer', 'endToken', 'addSpecialTokens', 'allowedSpecial', 'shardTokens', 'resume', 'workers', 'signal', 'onProgress',
]; // prettier-ignore
const OP = 'writeShards';
const END_TOKENS = ['<|endoftext|>', '<|end_of_text|>', '</s>', '<eos>'];
/** Characters that travel to a worker together. */
const BATCH_CHARACTERS = 1 << 18;

function endTokenId(tokenizer: Tokenizer, asked: string | number | undefined): number {
  if (typeof asked === 'number') return checkInteger(OP, 'endToken', asked, 0, tokenizer.vocabSize - 1);
  const names = asked === undefined ? END_TOKENS : [asked];
  for (const name of names) {
    const id = tokenizer.specialTokens.get(name) ?? tokenizer.tokenToId(name);
    if (id !== undefined) return id;
  }
  throw new AttributeError({
    op: OP,
    argument: 'endToken',
    expected: asked === undefined ? `a tokenizer with one of ${END_TOKENS.join(' ')}` : 'a token of the vocabulary',
    actual: asked === undefined ? 'none of them' : formatValue(asked),
    hint: 'Pass { endToken } with a token that ends documents, and nothing else',
  });
}

/** The part of an index whose files are all there and as long as they should be. */
async function intactShards(dir: string, index: ShardIndex): Promise<boolean> {
  for (const { file, tokens } of index.shards) {
    const size = await stat(path.join(dir, file)).then(
      (found) => found.size,
      () => -1,
    );
    if (size < 4 * tokens) return false;
  }
  return true;
}

/** Removes what calls that were killed left behind. */
async function removeDrafts(dir: string): Promise<void> {
  for (const name of await readdir(dir)) {
    const pid = /^(?:shard-\d{5,}\.safetensors|index\.json)\.(\d+)\.\d+\.tmp$/.exec(name)?.[1];
    if (pid === undefined || isAlive(Number(pid))) continue;
    await unlink(path.join(dir, name)).catch(() => {});
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** A document as digests see it. */
const entryOf = (id: string, text: string): string => `${id}\0${text.length}\0${text}\0`;

/** Fills shards one after the other; each that is full goes to disk, with an index that counts it. */
class ShardWriter {
  private buffer: Int32Array;
  private used = 0;
  /** Tokens of the document under way that lie in shards before. */
  partial = 0;

  constructor(
    private readonly dir: string,
    public index: ShardIndex,
    readonly digest: Hash,
  ) {
    this.buffer = new Int32Array(Math.min(index.shardTokens, 1 << 16));
    this.partial = index.partial;
  }

  private reserve(size: number): void {
    if (size <= this.buffer.length) return;
    const grown = new Int32Array(Math.min(this.index.shardTokens, Math.max(size, 2 * this.buffer.length)));
    grown.set(this.buffer.subarray(0, this.used));
    this.buffer = grown;
  }

  /** The ids of one document, less what a call before wrote of it. */
  async add({ id, text }: TextDocument, ids: Int32Array): Promise<void> {
    let at = this.partial;
    while (at < ids.length) {
      const count = Math.min(ids.length - at, this.index.shardTokens - this.used);
      this.reserve(this.used + count);
      this.buffer.set(ids.subarray(at, at + count), this.used);
      this.used += count;
      at += count;
      const isEnd = at === ids.length;
      if (isEnd) this.consume(id, text);
      if (this.used === this.index.shardTokens) await this.flush(isEnd ? null : { id, text, tokens: at }, false);
    }
    this.partial = 0;
  }

  private documents = 0;
  /** Notes a complete document. */
  consume(id: string, text: string): void {
    this.documents++;
    this.digest.update(entryOf(id, text));
  }

  private async flush(under: { id: string; text: string; tokens: number } | null, complete: boolean): Promise<void> {
    const { index } = this;
    const shards = [...index.shards];
    if (this.used > 0) {
      const ids = this.buffer.slice(0, this.used);
      const file = `shard-${String(shards.length).padStart(5, '0')}.safetensors`;
      await saveTokens(path.join(this.dir, file), ids);
      shards.push({ file, tokens: ids.length, sha256: idsHash(ids) });
    }
    const tokens = index.tokens + this.used;
    const digest = this.digest.copy();
    if (under !== null) digest.update(entryOf(under.id, under.text));
    const [partial, sourceDigest] = [under?.tokens ?? 0, digest.digest('hex')];
    this.index = { ...index, shards, tokens, documents: this.documents, partial, complete, sourceDigest };
    await writeIndex(this.dir, this.index);
    this.used = 0;
  }

  async finish(): Promise<ShardIndex> {
    await this.flush(null, true);
    return this.index;
  }

  get progress(): ShardProgress {
    const { index } = this;
    return { documents: this.documents, tokens: index.tokens + this.used, shards: index.shards.length };
  }
}

/** What must be the same for a call to go on where another ended. */
function checkSameMake(dir: string, index: ShardIndex, wanted: ShardIndex): void {
  const make = ({ tokenizer, endToken, addSpecialTokens, shardTokens }: ShardIndex): Record<string, unknown> => ({
    'tokenizer.hash': tokenizer.hash,
    endToken,
    addSpecialTokens,
    shardTokens,
  });
  const [before, now] = [make(index), make(wanted)];
  for (const [field, value] of Object.entries(now)) {
    if (before[field] === value) continue;
    throw new StateError({
      op: OP,
      argument: `${dir}: ${field}`,
      expected: `${String(before[field])}, of the shards that are there`,
      actual: String(value),
      hint: 'Use the same options, or another folder',
    });
  }
}

function sourceChanged(dir: string, actual: string): StateError {
  return new StateError({
    op: OP,
    argument: dir,
    expected: 'the documents that the shards in the folder were made of, in the same order',
    actual,
    hint: 'Use another folder, or empty this one',
  });
}

/** Passes over what is in the shards already, then gives batches of what is left. */
async function* unwritten(
  source: AsyncIterable<TextDocument> | Iterable<TextDocument>,
  dir: string,
  writer: ShardWriter,
  signal: AbortSignal | undefined,
): AsyncGenerator<TextDocument[], void, undefined> {
  const { documents, partial, sourceDigest } = writer.index;
  const verify = (digest: Hash): void => {
    if (digest.digest('hex') !== sourceDigest) throw sourceChanged(dir, 'others');
  };
  let [seen, characters]: [number, number] = [0, 0];
  let batch: TextDocument[] = [];
  for await (const document of source) {
    signal?.throwIfAborted();
    if (seen < documents) {
      writer.consume(document.id, document.text);
      if (++seen === documents && partial === 0) verify(writer.digest.copy());
      continue;
    }
    if (partial > 0 && seen++ === documents) verify(writer.digest.copy().update(entryOf(document.id, document.text)));
    batch.push(document);
    characters += document.text.length;
    if (characters < BATCH_CHARACTERS) continue;
    yield batch;
    [batch, characters] = [[], 0];
  }
  if (seen < documents + Number(partial > 0))
    throw sourceChanged(dir, `only ${seen} of ${documents + Number(partial > 0)}`);
  if (batch.length > 0) yield batch;
}

/** A tokenizer that workers can have: the path of its file; one that is only in memory is saved to a temporary folder. */
async function sharedTokenizer(tokenizer: Tokenizer | string): Promise<{ path: string; remove: () => Promise<void> }> {
  if (typeof tokenizer === 'string') return { path: tokenizer, remove: async () => {} };
  if (!(tokenizer instanceof BpeTokenizer)) {
    throw new AttributeError({
      op: OP,
      argument: 'tokenizer',
      expected: 'the path of a tokenizer file, since workers load their own',
      actual: formatValue(tokenizer),
      hint: 'Pass the path, or { workers: 0 }',
    });
  }
  const folder = await mkdtemp(path.join(tmpdir(), 'omnigrad-tokenizer-'));
  const file = path.join(folder, 'tokenizer.json');
  await tokenizer.save(file);
  return { path: file, remove: () => rm(folder, { recursive: true, force: true }) };
}

/**
 * Tokenises documents into a folder: `shard-00000.safetensors`, … (int32 `tokens`, see `saveTokens`), all of `shardTokens` tokens but the
 * last, and `index.json` with counts, the tokenizer's hash and a checksum a shard. Documents follow one another, each with the end token
 * after it; they run on over the borders of shards. Read it with `openShards`.
 *
 * A call that was killed is taken up by the next one with the same source and options: the source is read again, documents that are in
 * whole shards are compared by a digest and not tokenised again, and the files come out as if nothing had happened. A folder that is
 * complete is left as it is, without reading the source. Memory: one shard, and a few batches of 256 Ki characters.
 *
 * @returns the index
 * @throws StateError if the folder holds shards made with other options or of other documents
 * @throws AttributeError if the tokenizer has no token to end documents with
 * @throws ResourceError if a file cannot be written; the folder keeps what was complete
 */
export async function writeShards(
  source: AsyncIterable<TextDocument> | Iterable<TextDocument>,
  dir: string,
  options: ShardOptions,
): Promise<ShardIndex> {
  checkKeys(OP, options, KEYS);
  const workers = checkInteger(OP, 'workers', options.workers ?? 0, 0, 256);
  const resume = checkBoolean(OP, 'resume', options.resume ?? true);
  const tokenizer = typeof options.tokenizer === 'string' ? await loadTokenizer(options.tokenizer) : options.tokenizer;
  const fresh: ShardIndex = {
    format: 'omnigrad-shards',
    version: 1,
    dtype: 'int32',
    tokenizer: { hash: tokenizerHash(tokenizer), vocabSize: tokenizer.vocabSize },
    endToken: endTokenId(tokenizer, options.endToken),
    addSpecialTokens: checkBoolean(OP, 'addSpecialTokens', options.addSpecialTokens ?? false),
    shardTokens: checkInteger(OP, 'shardTokens', options.shardTokens ?? 1 << 24, 1, 2 ** 30),
    shards: [],
    tokens: 0,
    documents: 0,
    complete: false,
    partial: 0,
    sourceDigest: createHash('sha256').digest('hex'),
  };
  await mkdir(dir, { recursive: true });
  let index = await readShardIndex(dir);
  if (index !== null) {
    if (!resume) {
      const hint = 'Use another folder, empty this one, or go on with { resume: true }';
      throw new StateError({
        op: OP,
        argument: dir,
        expected: 'a folder without shards',
        actual: 'an index.json',
        hint,
      });
    }
    checkSameMake(dir, index, fresh);
    if (!(await intactShards(dir, index)))
      index = null; // begins again; whole shards are written over with the same bytes
    else if (index.complete) return index;
  }
  await removeDrafts(dir);
  const writer = new ShardWriter(dir, index ?? fresh, createHash('sha256'));
  const shared = workers > 0 ? await sharedTokenizer(options.tokenizer) : null;
  const task: TokenizeTask = {
    kind: 'tokenize',
    tokenizer: shared?.path ?? tokenizer,
    endToken: fresh.endToken,
    addSpecialTokens: fresh.addSpecialTokens,
    allowedSpecial: options.allowedSpecial ?? 'none',
  };
  try {
    const batches: TextDocument[][] = [];
    const texts = async function* (): AsyncGenerator<string[], void, undefined> {
      for await (const batch of unwritten(source, dir, writer, options.signal)) {
        batches.push(batch);
        yield batch.map(({ text }) => text);
      }
    };
    for await (const { ids, ends } of mapInOrder<string[], TokenizedBatch>(texts(), task, { workers })) {
      const batch = batches.shift()!;
      for (const [i, document] of batch.entries())
        await writer.add(document, ids.subarray(i === 0 ? 0 : ends[i - 1]!, ends[i]));
      options.onProgress?.(writer.progress);
      options.signal?.throwIfAborted();
    }
    return await writer.finish();
  } finally {
    await shared?.remove();
  }
}
