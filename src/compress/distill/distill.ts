/**
 * Distillation in one call.
 *
 * @module
 */
import { AttributeError } from '../../errors.js';
import type { Dataset } from '../../data/loader.js';
import type { Tensor } from '../../tensor/tensor.js';
import { formatValue } from '../../util/format.js';
import type { WritingModel } from './continuation.js';
import {
  batchLoss,
  Distillation,
  type DistillationBatch,
  type DistillationModuleOptions,
  type LogitsModel,
} from './distillation.js';
import { OnPolicyDataset, type OnPolicyOptions } from './on_policy.js';
import { TeacherCache, type TeacherCacheOptions } from './teacher_cache.js';

/** What a `Trainer` is given of a distillation: spread it into its options. */
export interface DistillationParts {
  readonly train: Dataset<DistillationBatch>;
  readonly loss: typeof batchLoss;
}

/** Options of {@link distill}. */
export interface DistillOptions<S extends LogitsModel, E> extends Omit<DistillationModuleOptions<S>, 'teacher'> {
  readonly teacher: LogitsModel;
  /** Inputs and targets. */
  readonly data: Dataset<{ readonly x: Tensor; readonly y: Tensor }>;
  /** Runs the training: give the module and the parts to a `Trainer`, and return its `run()`. */
  readonly train: (module: Distillation<S>, parts: DistillationParts) => AsyncIterable<E> | Promise<unknown>;
  /** Told of the events of the run. */
  readonly onEvent?: (event: E) => void;
  /** Compute the teacher's predictions once, into this folder; see {@link TeacherCache}. Default: at every step. */
  readonly cache?: Omit<TeacherCacheOptions, 'temperature'>;
  /** Let the student write a share of the batches; see {@link OnPolicyDataset}. Default: none. */
  readonly onPolicy?: OnPolicyOptions;
}

/**
 * Trains a student on what a teacher thinks, and returns it, in evaluation mode. The loop is whatever `train` runs: the `Trainer` of
 * `omnigrad`, with all that it can do (checkpoints, schedules, callbacks). Projections of hidden states are freed at the end.
 *
 * @throws AttributeError as {@link Distillation}, or if both a cache and on-policy batches are asked for
 * @example
 * ```ts
 * const student = await distill({
 *   teacher, student: small, data, temperature: 2, alpha: 0.5,
 *   train: (module, parts) => new og.Trainer(module, { ...parts, batchSize: 16, steps: 1000, optimizer }).run(),
 * });
 * ```
 */
export async function distill<S extends LogitsModel, E = unknown>(options: DistillOptions<S, E>): Promise<S> {
  const op = 'distill';
  const { data, train, onEvent, cache, onPolicy, ...own } = options;
  if (typeof train !== 'function') {
    const expected = 'a function that runs a Trainer';
    throw new AttributeError({ op, argument: 'train', expected, actual: formatValue(train) });
  }
  if (typeof (data as Partial<typeof data> | undefined)?.batch !== 'function') {
    throw new AttributeError({ op, argument: 'data', expected: 'a dataset', actual: formatValue(data) });
  }
  if (cache !== undefined && onPolicy !== undefined) {
    const expected = 'none with onPolicy: what the student writes is not known beforehand';
    throw new AttributeError({ op, argument: 'cache', expected, actual: 'both' });
  }
  const module = new Distillation<S>(own);
  let cached: TeacherCache<{ readonly x: Tensor; readonly y: Tensor }> | null = null;
  try {
    let dataset: Dataset<DistillationBatch> = data;
    if (onPolicy !== undefined) dataset = new OnPolicyDataset(data, own.student as unknown as WritingModel, onPolicy);
    if (cache !== undefined) {
      const { temperature } = module.choice;
      dataset = cached = await TeacherCache.build(own.teacher, data, { ...cache, temperature });
    }
    const run = train(module, { train: dataset, loss: batchLoss });
    if (run instanceof Promise) await run;
    else for await (const event of run) onEvent?.(event);
  } finally {
    cached?.dispose();
    for (const projection of module.projections) projection.dispose();
  }
  own.student.eval();
  return own.student;
}
