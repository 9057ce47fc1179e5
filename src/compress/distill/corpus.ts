/**
 * Texts that a teacher writes, for a student to learn as if they were data: distillation of sequences.
 *
 * @module
 */
import { createHash } from 'node:crypto';
import { AttributeError } from '../../errors.js';
import { noGrad } from '../../autograd/grad.js';
import type { Dataset } from '../../data/loader.js';
import { padRows } from '../../data/padding.js';
import { checkSampling, type SamplingOptions } from '../../generate/sampler.js';
import type { SafetensorsFile } from '../../interop/safetensors.js';
import { modelHash } from '../../nn/state_hash.js';
import { tensor } from '../../tensor/create.js';
import { generator } from '../../tensor/random.js';
import { data } from '../../tensor/read.js';
import { keep, scope } from '../../tensor/scope.js';
import type { Tensor } from '../../tensor/tensor.js';
import { checkInteger, checkKeys } from '../../util/assert.js';
import { formatValue } from '../../util/format.js';
import { Continuation, type WritingModel } from './continuation.js';
import { seedFrom } from './seeds.js';
import { ShardFolder } from './shards.js';

/** Options of {@link generateCorpus}. */
export interface CorpusOptions extends Omit<SamplingOptions, 'generator'> {
  /** Where the texts are kept; made if it is not there. What is there already is not written again. */
  readonly folder: string;
  /** Most tokens that are written behind a prompt. */
  readonly maxNewTokens: number;
  /** Prompts that are continued at once. Default 16. */
  readonly batchSize?: number;
  /** Prompts in a file. Default 256. */
  readonly shardSize?: number;
  /** 0 takes the likeliest token each time: the greedy form of the paper's beam search. Default 0. */
  readonly temperature?: number;
  /** Ids that end an answer; the answer keeps it. */
  readonly stopIds?: readonly number[];
  /** Of the draws. Default 0. */
  readonly seed?: number;
  /** Told after each file. */
  readonly onProgress?: (done: number, total: number) => void;
  /** Stops between tokens; the files that are complete stay. */
  readonly signal?: AbortSignal;
}

/** A prompt with what the teacher wrote behind it. */
export interface WrittenRow {
  readonly ids: Int32Array;
  readonly promptLength: number;
}

/** Rows side by side, filled up on the right. */
export interface CorpusBatch {
  /** int32 `[B, T]`. */
  readonly x: Tensor;
  /** The id behind each where the teacher wrote it, else -100: int32 `[B, T]`. */
  readonly y: Tensor;
  /** Tokens of each row that do not fill it up: int32 `[B]`. */
  readonly lengths: Tensor;
}

const op = 'generateCorpus';
const optionKeys = [
  'folder', 'maxNewTokens', 'batchSize', 'shardSize', 'temperature', 'topK', 'topP', 'minP', 'stopIds', 'seed', 'onProgress', 'signal',
]; // prettier-ignore
/** Tokens between looks at whether all sequences have ended. */
const LOOK_EVERY = 32;

/** Rows of prompts with answers: the targets are the answers. */
export class CorpusDataset implements Dataset<CorpusBatch> {
  readonly rows: readonly WrittenRow[];

  constructor(rows: readonly WrittenRow[]) {
    this.rows = rows;
  }

  get length(): number {
    return this.rows.length;
  }

  batch(indices: readonly number[]): CorpusBatch {
    const rows = indices.map((i) => this.rows[i]!);
    const targets = rows.map(({ ids, promptLength }) => ids.slice(1).fill(-100, 0, promptLength - 1));
    return scope(() => ({
      x: padRows(rows.map(({ ids }) => ids.subarray(0, -1)), 0),
      y: padRows(targets, -100),
      lengths: tensor(Int32Array.from(rows, ({ ids }) => ids.length - 1)),
    })); // prettier-ignore
  }
}

interface Plan {
  readonly maxNewTokens: number;
  readonly batchSize: number;
  readonly stopIds: readonly number[];
  readonly sampling: SamplingOptions;
  readonly signal: AbortSignal | undefined;
}

/** Where the answer ends: behind the first stop, or at the end. */
function endOf(ids: Int32Array, promptLength: number, stopIds: readonly number[]): number | null {
  for (let i = promptLength; i < ids.length; i++) if (stopIds.includes(ids[i]!)) return i + 1;
  return null;
}

/** What the teacher writes behind prompts of about one length. */
async function write(
  teacher: WritingModel,
  prompts: readonly Int32Array[],
  seed: number,
  plan: Plan,
): Promise<Int32Array[]> {
  const longest = Math.max(...prompts.map(({ length }) => length));
  const shortest = Math.min(...prompts.map(({ length }) => length));
  const total = longest + plan.maxNewTokens;
  const told = new Int32Array(prompts.length * total).fill(-1);
  for (const [row, prompt] of prompts.entries()) told.set(prompt, row * total);
  const given = scope(() => keep(tensor(told, { shape: [prompts.length, total] })));
  const sampling = { ...plan.sampling, generator: generator(seed) };
  const writing = new Continuation(op, teacher, given, shortest, sampling);
  const rowsSoFar = async (): Promise<Int32Array[]> => {
    const ids = scope(() => keep(writing.ids()));
    const all = (await data(ids).finally(() => ids.dispose())) as Int32Array;
    const { length } = writing;
    return prompts.map((prompt, row) =>
      all.slice(row * length, Math.min(row * length + prompt.length + plan.maxNewTokens, (row + 1) * length)),
    );
  };
  try {
    while (writing.length < total) {
      plan.signal?.throwIfAborted();
      writing.step();
      const isLook = (writing.length - longest) % LOOK_EVERY === 0 && writing.length > longest;
      if (!isLook || plan.stopIds.length === 0) continue;
      const rows = await rowsSoFar();
      if (rows.every((ids, i) => endOf(ids, prompts[i]!.length, plan.stopIds) !== null)) break;
    }
    const rows = await rowsSoFar();
    return rows.map((ids, i) => ids.slice(0, endOf(ids, prompts[i]!.length, plan.stopIds) ?? ids.length));
  } finally {
    writing.dispose();
    given.dispose();
  }
}

/** A file's rows. */
async function readRows(file: SafetensorsFile): Promise<WrittenRow[]> {
  const arrays = await Promise.all(
    ['ids', 'lengths', 'prompts'].map(async (name) => {
      const value = keep(file.tensor(name));
      return Int32Array.from((await data(value).finally(() => value.dispose())) as Int32Array);
    }),
  );
  const [ids, lengths, prompts] = arrays as [Int32Array, Int32Array, Int32Array];
  let at = 0;
  return Array.from(lengths, (length, i) => {
    at += length;
    return { ids: ids.slice(at - length, at), promptLength: prompts[i]! };
  });
}

function checkPrompts(prompts: readonly ArrayLike<number>[]): Int32Array[] {
  if (!Array.isArray(prompts) || prompts.length === 0) {
    const expected = 'at least one prompt of ids';
    throw new AttributeError({ op, argument: 'prompts', expected, actual: formatValue(prompts) });
  }
  return prompts.map((prompt, i) => {
    const ids = Int32Array.from(prompt);
    if (ids.length > 0 && ids.every((id) => id >= 0)) return ids;
    const argument = `prompts[${i}]`;
    throw new AttributeError({ op, argument, expected: 'at least one id', actual: formatValue(prompt) });
  });
}

/**
 * Lets a teacher continue prompts, several at once, and keeps what it wrote in a folder of safetensors files: a dataset for a `Trainer`
 * with the ordinary loss, or for a {@link Distillation}. It goes on where an earlier call was interrupted; each file is the same however
 * often that was.
 *
 * @throws FormatError if the folder holds texts of another teacher, other prompts or other options
 * @throws AttributeError if a prompt is empty, does not fit the context together with the new tokens, or an option cannot be
 * @source Kim and Rush, arXiv 1606.07947, §3.2
 * @example
 * ```ts
 * const corpus = await generateCorpus(teacher, prompts, { folder: 'cache/corpus', maxNewTokens: 64, stopIds: [eos] });
 * const trainer = new og.Trainer(student, { train: corpus, batchSize: 16, optimizer });
 * ```
 */
export async function generateCorpus(
  teacher: WritingModel,
  prompts: readonly ArrayLike<number>[],
  options: CorpusOptions,
): Promise<CorpusDataset> {
  checkKeys(op, options, optionKeys);
  const {
    folder,
    maxNewTokens,
    batchSize = 16,
    shardSize = 256,
    stopIds = [],
    seed = 0,
    onProgress,
    signal,
    ...rest
  } = options;
  checkInteger(op, 'maxNewTokens', maxNewTokens, 1);
  checkInteger(op, 'batchSize', batchSize, 1);
  checkInteger(op, 'shardSize', shardSize, 1);
  checkInteger(op, 'seed', seed, 0);
  for (const [i, id] of stopIds.entries()) checkInteger(op, `stopIds[${i}]`, id, 0);
  const sampling = { temperature: 0, ...rest };
  checkSampling(sampling);
  const all = checkPrompts(prompts);
  const longest = Math.max(...all.map(({ length }) => length));
  if (longest + maxNewTokens > teacher.config.context + 1) {
    const expected = `at most ${teacher.config.context + 1} tokens with the prompt`;
    throw new AttributeError({ op, argument: 'maxNewTokens', expected, actual: String(longest + maxNewTokens) });
  }
  const description = {
    format: 'omnigrad-corpus/1', teacher: await modelHash(teacher), prompts: all.length, maxNewTokens, batchSize, shardSize, seed,
    stopIds: stopIds.join(' '), sampling: JSON.stringify(sampling),
  }; // prettier-ignore
  const shards = await ShardFolder.open(op, folder, description);
  const plan = { maxNewTokens, batchSize, stopIds, sampling, signal };
  const rows: WrittenRow[] = [];
  for (let begin = 0, number = 0; begin < all.length; begin += shardSize, number++) {
    const part = all.slice(begin, begin + shardSize);
    const hash = createHash('sha256');
    for (const prompt of part) hash.update(`${prompt.length};`).update(prompt);
    const dataHash = hash.digest('hex');
    const found = await shards.find(number, dataHash, ['ids', 'lengths', 'prompts']);
    const file =
      found ?? (await shards.write(number, dataHash, await written(teacher, part, seedFrom([seed, number]), plan)));
    rows.push(...(await readRows(file)));
    onProgress?.(rows.length, all.length);
  }
  return new CorpusDataset(rows);
}

/** The tensors of a file. Prompts of like length go together; the rows come in the order of the prompts. */
async function written(
  teacher: WritingModel,
  prompts: readonly Int32Array[],
  seed: number,
  plan: Plan,
): Promise<Record<'ids' | 'lengths' | 'prompts', Tensor>> {
  const order = [...prompts.keys()].sort((a, b) => prompts[a]!.length - prompts[b]!.length || a - b);
  const rows = new Array<Int32Array>(prompts.length);
  for (let begin = 0; begin < order.length; begin += plan.batchSize) {
    const group = order.slice(begin, begin + plan.batchSize);
    const made = await write(teacher, group.map((i) => prompts[i]!), seedFrom([seed, begin]), plan); // prettier-ignore
    for (const [n, i] of group.entries()) rows[i] = made[n]!;
  }
  const ids = new Int32Array(rows.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const row of rows) {
    ids.set(row, at);
    at += row.length;
  }
  return scope(() =>
    noGrad(() => ({
      ids: tensor(ids),
      lengths: tensor(Int32Array.from(rows, ({ length }) => length)),
      prompts: tensor(Int32Array.from(prompts, ({ length }) => length)),
    })),
  );
}
