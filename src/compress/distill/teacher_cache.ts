/**
 * A teacher's predictions on disk: computed once, then read at every step in place of running the teacher.
 *
 * @module
 */
import { AttributeError, ShapeError } from '../../errors.js';
import { noGrad } from '../../autograd/grad.js';
import type { Dataset } from '../../data/loader.js';
import type { SafetensorsFile } from '../../interop/safetensors.js';
import { inEvaluation } from '../../nn/evaluation.js';
import { modelHash, tensorsHash } from '../../nn/state_hash.js';
import { copy_, to } from '../../ops/copy.js';
import { concat } from '../../ops/join.js';
import { narrow, reshape, select } from '../../ops/views.js';
import { full, zeros } from '../../tensor/create.js';
import { keep, scope } from '../../tensor/scope.js';
import type { Tensor } from '../../tensor/tensor.js';
import { synchronize } from '../../runtime/backend.js';
import { checkInteger, checkKeys, checkNumber } from '../../util/assert.js';
import { formatShape } from '../../util/format.js';
import type { DistillationBatch, LogitsModel, TeacherBatch } from './distillation.js';
import { ShardFolder } from './shards.js';
import { topKOf, type TopKPredictions } from './top_k.js';

/** Options of {@link TeacherCache.build}. */
export interface TeacherCacheOptions {
  /** Where the predictions are kept; made if it is not there. What is there already is not computed again. */
  readonly folder: string;
  /** Classes kept of each prediction; all others become one bucket. Default 64, or all if there are fewer. */
  readonly k?: number;
  /** That the student will learn at: predictions of one temperature cannot be turned into those of another. Default 2. */
  readonly temperature?: number;
  /** Examples in a forward pass. Default 8. */
  readonly batchSize?: number;
  /** Examples in a file. Default 256. */
  readonly shardSize?: number;
  /** Epochs that are computed, for datasets that vary from one to the next; training begins again with the first. Default 1. */
  readonly epochs?: number;
  /** Told after each file. */
  readonly onProgress?: (done: number, total: number) => void;
  /** Stops between forward passes; the files that are complete stay. */
  readonly signal?: AbortSignal;
}

const op = 'TeacherCache';
const names = ['indices', 'logProbs', 'rest'] as const;
type Shard = Readonly<Record<(typeof names)[number], Tensor>>;

/** Rows of one shard in one tensor each: those of shorter rows are filled up, and never count. */
function joined(parts: readonly TopKPredictions[]): Shard {
  const time = Math.max(...parts.map(({ rest }) => rest.shape[1]!));
  const filled = (part: Tensor, value: number): Tensor => {
    const missing = time - part.shape[1]!;
    if (missing === 0) return part;
    const shape = [part.shape[0]!, missing, ...part.shape.slice(2)];
    return concat([part, full(shape, value, { dtype: part.dtype })], 1);
  };
  return {
    indices: concat(parts.map(({ indices }) => filled(indices, 0)), 0),
    logProbs: concat(parts.map(({ logProbs }) => filled(logProbs, 0)), 0),
    rest: concat(parts.map(({ rest }) => filled(rest, -Infinity)), 0),
  }; // prettier-ignore
}

/**
 * A dataset whose batches carry a teacher's k likeliest classes at every place, read from disk: log-probabilities as float16 and class
 * numbers as int32 in safetensors files, and the share of all other classes as one float32. Train on it with {@link batchLoss}; the
 * teacher is not needed any more, unless hidden states or attention are learnt.
 */
export class TeacherCache<B extends { readonly x: Tensor; readonly y: Tensor }> implements Dataset<DistillationBatch> {
  readonly dataset: Dataset<B>;
  /** Classes kept. */
  readonly k: number;
  readonly temperature: number;
  private readonly epochs: number;
  private readonly shardSize: number;
  private readonly shards: readonly Shard[];

  private constructor(
    dataset: Dataset<B>,
    k: number,
    temperature: number,
    epochs: number,
    shardSize: number,
    files: SafetensorsFile[],
  ) {
    [this.dataset, this.k, this.temperature] = [dataset, k, temperature];
    [this.epochs, this.shardSize] = [epochs, shardSize];
    const open = (file: SafetensorsFile): Shard =>
      keep(Object.fromEntries(names.map((name) => [name, file.tensor(name)])) as Shard);
    this.shards = files.map(open);
  }

  /**
   * Computes what is not there yet, file by file. A build that was interrupted goes on where it stopped. The files say which teacher
   * (by a hash of its tensors), which data (by a hash of ids and targets) and which options they are of.
   *
   * @throws FormatError if the folder holds predictions of another teacher, other data or other options
   * @throws ShapeError if the teacher does not give logits `[B, T, V]` for ids `[B, T]`
   * @example
   * ```ts
   * const train = await TeacherCache.build(teacher, texts, { folder: 'cache/teacher', k: 64, temperature: 2 });
   * const trainer = new og.Trainer(new Distillation({ student }), { train, loss: batchLoss, batchSize: 16, optimizer });
   * ```
   */
  static async build<B extends { readonly x: Tensor; readonly y: Tensor }>(
    teacher: LogitsModel,
    dataset: Dataset<B>,
    options: TeacherCacheOptions,
  ): Promise<TeacherCache<B>> {
    checkKeys(op, options, ['folder', 'k', 'temperature', 'batchSize', 'shardSize', 'epochs', 'onProgress', 'signal']);
    const temperature = checkNumber(op, 'temperature', options.temperature ?? 2, 1e-3, 1e6);
    const batchSize = checkInteger(op, 'batchSize', options.batchSize ?? 8, 1);
    const shardSize = checkInteger(op, 'shardSize', options.shardSize ?? 256, 1);
    const epochs = checkInteger(op, 'epochs', options.epochs ?? 1, 1);
    const wanted = checkInteger(op, 'k', options.k ?? 64, 1);
    const { length } = dataset;
    if (length < 1)
      throw new AttributeError({ op, argument: 'dataset', expected: 'at least one example', actual: 'none' });
    const k = Math.min(wanted, classesOf(teacher, dataset));
    const description = {
      format: 'omnigrad-teacher/1',
      teacher: await modelHash(teacher),
      k,
      temperature,
      length,
      epochs,
      shardSize,
    };
    const folder = await ShardFolder.open(op, options.folder, description);
    const files: SafetensorsFile[] = [];
    const total = length * epochs;
    for (let begin = 0; begin < total; begin += shardSize) {
      const places = Array.from({ length: Math.min(shardSize, total - begin) }, (_, i) => begin + i);
      const groups: { epoch: number; indices: number[] }[] = [];
      for (const place of places) {
        const [epoch, index, last] = [Math.floor(place / length), place % length, groups.at(-1)];
        if (last?.epoch === epoch && last.indices.length < batchSize) last.indices.push(index);
        else groups.push({ epoch, indices: [index] });
      }
      files.push(await shardOf(folder, files.length, teacher, dataset, groups, { k, temperature }, options.signal));
      options.onProgress?.(begin + places.length, total);
    }
    return new TeacherCache(dataset, k, temperature, epochs, shardSize, files);
  }

  get length(): number {
    return this.dataset.length;
  }

  batch(indices: readonly number[], epoch: number): DistillationBatch {
    const round = epoch % this.epochs;
    return scope(() =>
      noGrad(() => {
        const batch = this.dataset.batch(indices, round);
        const [rows, time] = batch.x.shape as readonly [number, number];
        const shape = [rows, time, this.k];
        const made = {
          indices: zeros(shape, { dtype: 'int32' }),
          logProbs: zeros(shape, { dtype: 'float16' }),
          rest: full([rows, time], -Infinity, { dtype: 'float32' }),
        };
        for (const [row, index] of indices.entries()) {
          const place = round * this.length + index;
          const shard = this.shards[Math.floor(place / this.shardSize)]!;
          for (const name of names) {
            const from = select(shard[name], 0, place % this.shardSize);
            const held = Math.min(time, from.shape[0]!);
            copy_(narrow(select(made[name], 0, row), 0, 0, held), narrow(from, 0, 0, held));
          }
        }
        const teacher: TeacherBatch = { ...made, temperature: this.temperature };
        return { ...batch, teacher };
      }),
    );
  }

  /** Lets the files go. */
  dispose(): void {
    for (const shard of this.shards) for (const name of names) shard[name].dispose();
  }
}

/** Classes of the teacher's logits for the first example. @throws ShapeError unless they are `[B, T, V]` */
function classesOf<B extends { readonly x: Tensor }>(teacher: LogitsModel, dataset: Dataset<B>): number {
  return scope(() =>
    noGrad(() => {
      const { x } = dataset.batch([0], 0);
      const logits = inEvaluation(teacher, () => teacher.forward(x));
      if (logits.rank === 3 && logits.shape[0] === 1 && logits.shape[1] === x.shape[1]) return logits.shape[2]!;
      const [expected, actual] = [`logits [1, ${x.shape[1]}, classes]`, formatShape(logits.shape)];
      throw new ShapeError({ op, argument: 'teacher', expected, actual });
    }),
  );
}

async function shardOf<B extends { readonly x: Tensor; readonly y: Tensor }>(
  folder: ShardFolder,
  number: number,
  teacher: LogitsModel,
  dataset: Dataset<B>,
  groups: readonly { readonly epoch: number; readonly indices: readonly number[] }[],
  { k, temperature }: { readonly k: number; readonly temperature: number },
  signal: AbortSignal | undefined,
): Promise<SafetensorsFile> {
  const batches = groups.map(({ epoch, indices }) => keep(scope(() => {
    const { x, y } = dataset.batch(indices, epoch);
    return { x, y };
  }))); // prettier-ignore
  const parts: TopKPredictions[] = [];
  try {
    const hash = await tensorsHash(batches.flatMap(({ x, y }) => [['x', x] as const, ['y', y] as const]));
    const found = await folder.find(number, hash, names);
    if (found !== null) return found;
    for (const { x } of batches) {
      signal?.throwIfAborted();
      parts.push(keep(scope(() => noGrad(() => predictions(teacher, x, k, temperature)))));
      await synchronize();
    }
    const shard = keep(scope(() => noGrad(() => joined(parts))));
    try {
      return await folder.write(number, hash, shard);
    } finally {
      for (const name of names) shard[name].dispose();
    }
  } finally {
    for (const { x, y } of batches) [x, y].forEach((tensor) => tensor.dispose());
    for (const part of parts) for (const name of names) part[name].dispose();
  }
}

function predictions(teacher: LogitsModel, x: Tensor, k: number, temperature: number): TopKPredictions {
  const logits = inEvaluation(teacher, () => teacher.forward(x));
  const { indices, logProbs, rest } = topKOf(logits, k, temperature);
  return { indices, logProbs: to(logProbs, 'float16'), rest: to(reshape(rest, rest.shape), 'float32') };
}
