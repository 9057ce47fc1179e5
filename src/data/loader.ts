/**
 * Batches from datasets, in an order that a seed fixes and a checkpoint can take up again.
 *
 * @module
 */
import { AttributeError, StateError } from '../errors.js';
import { checkBoolean, checkInteger, checkKeys } from '../util/assert.js';
import { permutationOf } from './permutation.js';

/** Examples by number, and how several become one batch. */
export interface Dataset<B> {
  /** Number of examples in an epoch. */
  readonly length: number;
  /** One batch of the given examples. `epoch` lets a dataset vary from one epoch to the next (shifted windows, say). */
  batch(indices: readonly number[], epoch: number): B;
}

/** Options of {@link DataLoader}. */
export interface LoaderOptions {
  readonly batchSize: number;
  /** Default true. */
  readonly shuffle?: boolean;
  /** Seed of the order. Default 0. */
  readonly seed?: number;
  /** Leave out a last batch that is not full. Default true. */
  readonly dropLast?: boolean;
}

/** Where a loader stands. JSON-safe. */
export interface LoaderState {
  readonly epoch: number;
  readonly batch: number;
}

/**
 * Batches of a dataset. `for await (const { x, y } of loader)` walks one epoch; {@link next} goes on for ever.
 */
export class DataLoader<B> {
  readonly dataset: Dataset<B>;
  readonly batchSize: number;
  private readonly shuffle: boolean;
  private readonly seed: number;
  private readonly dropLast: boolean;
  private epoch = 0;
  private position = 0;
  private order: Uint32Array | null = null;

  /** @throws AttributeError if there is not a single batch in an epoch */
  constructor(dataset: Dataset<B>, options: LoaderOptions) {
    checkKeys('DataLoader', options, ['batchSize', 'shuffle', 'seed', 'dropLast']);
    this.dataset = dataset;
    this.batchSize = checkInteger('DataLoader', 'batchSize', options.batchSize, 1);
    this.shuffle = checkBoolean('DataLoader', 'shuffle', options.shuffle ?? true);
    this.seed = checkInteger('DataLoader', 'seed', options.seed ?? 0, 0);
    this.dropLast = checkBoolean('DataLoader', 'dropLast', options.dropLast ?? true);
    if (this.length === 0) {
      throw new AttributeError({
        op: 'DataLoader',
        argument: 'dataset',
        expected: `at least one batch of ${this.batchSize}`,
        actual: `${dataset.length} examples`,
        hint: 'Use more data, a smaller batch, or { dropLast: false }',
      });
    }
  }

  /** Batches in an epoch. */
  get length(): number {
    const { length } = this.dataset;
    return this.dropLast ? Math.floor(length / this.batchSize) : Math.ceil(length / this.batchSize);
  }

  /** Where the loader stands; set it to go on from there. */
  get state(): LoaderState {
    return { epoch: this.epoch, batch: this.position };
  }

  /** @throws StateError if the state lies outside an epoch */
  set state(state: LoaderState) {
    const epoch = checkInteger('DataLoader', 'state.epoch', state?.epoch, 0);
    const batch = checkInteger('DataLoader', 'state.batch', state?.batch, 0);
    if (batch > this.length) {
      throw new StateError({
        op: 'DataLoader',
        argument: 'state',
        expected: `a batch of at most ${this.length}`,
        actual: String(batch),
      });
    }
    this.epoch = epoch;
    this.position = batch;
    this.order = null;
  }

  /** The next batch; the next epoch begins when one ends. */
  next(): B {
    if (this.position >= this.length) {
      this.epoch++;
      this.position = 0;
      this.order = null;
    }
    this.order ??= permutationOf(this.dataset.length, this.shuffle ? { seed: this.seed, epoch: this.epoch } : null);
    const start = this.position * this.batchSize;
    this.position++;
    return this.dataset.batch(Array.from(this.order.subarray(start, start + this.batchSize)), this.epoch);
  }

  /** The batches that are left of this epoch (all of them, at its start). */
  async *[Symbol.asyncIterator](): AsyncGenerator<B, void, undefined> {
    if (this.position >= this.length) this.state = { epoch: this.epoch + 1, batch: 0 };
    while (this.position < this.length) yield this.next();
  }
}
