/**
 * Batches that the student writes itself while it learns.
 *
 * @module
 */
import { AttributeError, ShapeError } from '../../errors.js';
import { noGrad } from '../../autograd/grad.js';
import type { Dataset } from '../../data/loader.js';
import { hostRandom } from '../../data/permutation.js';
import { checkSampling, type SamplingOptions } from '../../generate/sampler.js';
import { add, sub } from '../../ops/arithmetic.js';
import { eq, ge, logicalAnd, logicalOr, lt } from '../../ops/comparison.js';
import { contiguous, to } from '../../ops/copy.js';
import { concat } from '../../ops/join.js';
import { cumsum } from '../../ops/scan.js';
import { narrow, unsqueeze } from '../../ops/views.js';
import { where } from '../../ops/where.js';
import { arange, full, tensor } from '../../tensor/create.js';
import { generator } from '../../tensor/random.js';
import { dataSync } from '../../tensor/read.js';
import { scope } from '../../tensor/scope.js';
import type { Tensor } from '../../tensor/tensor.js';
import { checkInteger, checkKeys, checkNumber } from '../../util/assert.js';
import { formatShape, formatValue } from '../../util/format.js';
import { continueRows, type WritingModel } from './continuation.js';
import type { DistillationBatch } from './distillation.js';
import { seedFrom } from './seeds.js';

/** Options of {@link OnPolicyDataset}. */
export interface OnPolicyOptions extends Omit<SamplingOptions, 'generator'> {
  /** Share of the batches that the student writes (λ), from 0 to 1. Default 0.5. */
  readonly share?: number;
  /**
   * Tokens of each row that are the prompt: a number; or `targets`, those before the first target that counts (rows of prompts with
   * answers). Default `targets`, and for rows whose targets count from the start a quarter of the row.
   */
  readonly promptLength?: number | 'targets';
  /** Ids that end an answer: what comes behind does not count. */
  readonly stopIds?: readonly number[];
  /** Seed of the choice of batches and of the draws. Default 0. */
  readonly seed?: number;
}

const op = 'OnPolicyDataset';
const optionKeys = ['share', 'promptLength', 'stopIds', 'seed', 'temperature', 'topK', 'topP', 'minP'];

/**
 * Batches of a dataset of which a share is written by the student: the beginning of each row stays, the student goes on from it to the
 * row's length, and the loss is what the teacher thinks of that. Use it with {@link batchLoss}; such batches count the teacher's part
 * alone.
 *
 * Which batches, and every draw, follow from the seed, the epoch and the examples of the batch; a run that is taken up again from a
 * checkpoint sees the same ones, bit for bit.
 *
 * @throws AttributeError if an option cannot be
 * @source GKD, arXiv 2306.13649, algorithm 1; reverse KL on such batches: MiniLLM, 2306.08543
 * @example
 * ```ts
 * const distillation = new Distillation({ student, teacher, divergence: 'reverse', temperature: 1 });
 * const train = new OnPolicyDataset(texts, student, { share: 0.5, promptLength: 32 });
 * const trainer = new og.Trainer(distillation, { train, loss: batchLoss, batchSize: 8, optimizer });
 * ```
 */
export class OnPolicyDataset<
  B extends { readonly x: Tensor; readonly y: Tensor },
> implements Dataset<DistillationBatch> {
  readonly dataset: Dataset<B>;
  private readonly student: WritingModel;
  private readonly share: number;
  private readonly promptLength: number | 'targets' | undefined;
  private readonly stopIds: readonly number[];
  private readonly seed: number;
  private readonly sampling: SamplingOptions;

  constructor(dataset: Dataset<B>, student: WritingModel, options: OnPolicyOptions = {}) {
    checkKeys(op, options, optionKeys);
    const { share = 0.5, promptLength, stopIds = [], seed = 0, ...sampling } = options;
    if (typeof (student as Partial<WritingModel> | undefined)?.makeCache !== 'function') {
      const expected = 'a model that writes, with makeCache';
      throw new AttributeError({ op, argument: 'student', expected, actual: formatValue(student) });
    }
    checkSampling(sampling);
    this.dataset = dataset;
    this.student = student;
    this.share = checkNumber(op, 'share', share, 0, 1);
    this.promptLength =
      promptLength === undefined || promptLength === 'targets'
        ? promptLength
        : checkInteger(op, 'promptLength', promptLength, 1, student.config.context);
    this.stopIds = stopIds.map((id, i) => checkInteger(op, `stopIds[${i}]`, id, 0));
    this.seed = checkInteger(op, 'seed', seed, 0);
    this.sampling = sampling;
  }

  get length(): number {
    return this.dataset.length;
  }

  batch(indices: readonly number[], epoch: number): DistillationBatch {
    const given = this.dataset.batch(indices, epoch);
    const seed = seedFrom([this.seed, epoch, ...indices]);
    if (hostRandom(seed, 0x0901)() >= this.share) return given;
    return scope(() => noGrad(() => this.written(given, seed)));
  }

  /** Tokens of the prompt of each row. */
  private promptsOf({ x, y }: B): Int32Array {
    const [rows, time] = x.shape as readonly [number, number];
    if (typeof this.promptLength === 'number') return new Int32Array(rows).fill(Math.min(this.promptLength, time));
    const targets = dataSync(y) as ArrayLike<number | bigint>;
    return Int32Array.from({ length: rows }, (_, row) => {
      let first = 0;
      while (first < time && Number(targets[row * time + first]) === -100) first++;
      if (first > 0 || this.promptLength === 'targets') return Math.min(first + 1, time);
      return Math.max(1, time >> 2);
    });
  }

  private written(given: B, seed: number): DistillationBatch {
    const { x } = given;
    if (x.rank !== 2) {
      throw new ShapeError({ op, argument: 'x', expected: '[batch, time]', actual: formatShape(x.shape) });
    }
    const [rows, time] = x.shape as readonly [number, number];
    const prompts = this.promptsOf(given);
    const lengths = unsqueeze(tensor(prompts), 1); // [B, 1]
    const places = unsqueeze(arange(time + 1, undefined, 1, { dtype: 'int32' }), 0);
    const known = concat([to(contiguous(x), 'int32'), full([rows, 1], -1, { dtype: 'int32' })], 1);
    const told = where(lt(places, lengths), known, -1); // [B, T + 1]
    const sampling = { ...this.sampling, generator: generator(seed) };
    const ids = continueRows(op, this.student, told, Math.min(...prompts), sampling);
    const next = narrow(ids, 1, 1, time);
    // target t is token t + 1: it counts if the student wrote it, and no stop came before it
    let counts = ge(add(narrow(places, 1, 0, time), 1), lengths);
    if (this.stopIds.length > 0) {
      const isStop = this.stopIds.map((id) => eq(next, id)).reduce((a, b) => logicalOr(a, b));
      const written = to(logicalAnd(isStop, counts), 'int32');
      const before = sub(cumsum(written, 1), written);
      counts = logicalAnd(counts, eq(before, 0));
    }
    return { x: contiguous(narrow(ids, 1, 0, time)), y: where(counts, next, -100), onPolicy: true };
  }
}
