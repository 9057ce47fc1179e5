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
  /**
   * Gets ready what the batch of these examples needs (pages read, images decoded), while the step before is under way. Called ahead of
   * `batch`, once for each; a rejection surfaces where the batch is waited for.
   */
  prepare?(indices: readonly number[], epoch: number): Promise<void>;
  /** The dataset shuffles by itself, by its own seed and the epoch (mixtures do): a loader then asks for examples in order. */
  readonly hasOwnOrder?: boolean;
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
  /** Batches that are prepared ahead of the one asked for, where the dataset can `prepare`. Default 2; 0: none. */
  readonly prefetch?: number;
}

/** Time that data took, of this loader, since it was made; milliseconds. */
export interface LoaderTimes {
  readonly batches: number;
  /** Waiting for what was prepared ahead: 0 if it always was in time. */
  readonly waited: number;
  /** Making batches of it. */
  readonly made: number;
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
  private readonly prefetch: number;
  private epoch = 0;
  private position = 0;
  /** Orders of this epoch and, near its end, of the next. */
  private readonly orders = new Map<number, Uint32Array>();
  /** Preparations under way or done, by the number of their batch, counted from the first epoch on. */
  private readonly prepared = new Map<number, Promise<void>>();
  private readonly spent = { batches: 0, waited: 0, made: 0 };

  /** @throws AttributeError if there is not a single batch in an epoch */
  constructor(dataset: Dataset<B>, options: LoaderOptions) {
    checkKeys('DataLoader', options, ['batchSize', 'shuffle', 'seed', 'dropLast', 'prefetch']);
    this.dataset = dataset;
    this.batchSize = checkInteger('DataLoader', 'batchSize', options.batchSize, 1);
    this.shuffle = checkBoolean('DataLoader', 'shuffle', options.shuffle ?? true);
    this.seed = checkInteger('DataLoader', 'seed', options.seed ?? 0, 0);
    this.dropLast = checkBoolean('DataLoader', 'dropLast', options.dropLast ?? true);
    this.prefetch = checkInteger('DataLoader', 'prefetch', options.prefetch ?? 2, 0, 1024);
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

  /** What data has cost so far. */
  get times(): LoaderTimes {
    return { ...this.spent };
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
    this.orders.clear();
    this.prepared.clear();
  }

  /** Examples of a batch, counted from the first epoch on. */
  private examplesOf(number: number): { indices: number[]; epoch: number } {
    const epoch = Math.floor(number / this.length);
    const start = (number - epoch * this.length) * this.batchSize;
    const { length, hasOwnOrder } = this.dataset;
    if (!this.shuffle || hasOwnOrder === true) {
      const count = Math.min(this.batchSize, length - start);
      return { indices: Array.from({ length: count }, (_, i) => start + i), epoch };
    }
    let order = this.orders.get(epoch);
    if (order === undefined) {
      order = permutationOf(length, { seed: this.seed, epoch });
      for (const old of this.orders.keys()) if (old < this.epoch) this.orders.delete(old);
      this.orders.set(epoch, order);
    }
    return { indices: Array.from(order.subarray(start, start + this.batchSize)), epoch };
  }

  /** Sees to it that the next batches are prepared, or on their way. */
  private prepareAhead(): void {
    if (this.prefetch === 0 || this.dataset.prepare === undefined) return;
    const next = this.epoch * this.length + this.position;
    for (let number = next; number <= next + this.prefetch; number++) {
      if (this.prepared.has(number)) continue;
      const { indices, epoch } = this.examplesOf(number);
      const promise = this.dataset.prepare(indices, epoch);
      promise.catch(() => {}); // thrown by ready(), in its turn
      this.prepared.set(number, promise);
    }
  }

  /** Resolves when what the next batch needs is at hand; the batches after it are being prepared then. */
  async ready(): Promise<void> {
    this.prepareAhead();
    const promise = this.prepared.get(this.epoch * this.length + this.position);
    if (promise === undefined) return;
    const begun = performance.now();
    await promise;
    this.spent.waited += performance.now() - begun;
  }

  /** The next batch; the next epoch begins when one ends. Does not wait for preparations: see {@link ready}. */
  next(): B {
    const begun = performance.now();
    if (this.position >= this.length) {
      this.epoch++;
      this.position = 0;
    }
    const number = this.epoch * this.length + this.position;
    const { indices, epoch } = this.examplesOf(number);
    this.position++;
    this.prepared.delete(number);
    const batch = this.dataset.batch(indices, epoch);
    this.spent.batches++;
    this.spent.made += performance.now() - begun;
    return batch;
  }

  /** The batches that are left of this epoch (all of them, at its start). */
  async *[Symbol.asyncIterator](): AsyncGenerator<B, void, undefined> {
    if (this.position >= this.length) this.state = { epoch: this.epoch + 1, batch: 0 };
    while (this.position < this.length) {
      await this.ready();
      yield this.next();
    }
  }
}
