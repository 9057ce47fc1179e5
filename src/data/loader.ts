/**
 * Batches from datasets, in an order that a seed fixes and a checkpoint can take up again.
 *
 * @module
 */
import { AttributeError, StateError } from '../errors.js';
import { checkBoolean, checkInteger, checkKeys } from '../util/assert.js';
import { formatValue } from '../util/format.js';
import { permutationOf } from './permutation.js';

/** Examples by number, and how several become one batch. */
export interface Dataset<B> {
  /** Number of examples in an epoch. */
  readonly length: number;
  /** One batch of the given examples. `epoch` lets a dataset vary from one epoch to the next (shifted windows, say). */
  batch(indices: readonly number[], epoch: number): B;
  /**
   * What tells these data from others: a hash, a version, a path with its date. A run that is taken up again compares it. Default:
   * a hash of a few examples.
   */
  readonly fingerprint?: string;
  /**
   * Gets ready what the batch of these examples needs (pages read, images decoded), while the step before is under way. Called ahead of
   * `batch`, once for each; a rejection surfaces where the batch is waited for.
   */
  prepare?(indices: readonly number[], epoch: number): Promise<void>;
  /** The dataset shuffles by itself, by its own seed and the epoch (mixtures do): a loader then asks for examples in order. */
  readonly hasOwnOrder?: boolean;
}

/**
 * Throws unless a value can be drawn from.
 *
 * @internal
 * @throws AttributeError naming what is missing, or that there is no example
 */
export function checkDataset(op: string, argument: string, value: unknown): void {
  const { length, batch } = (value ?? {}) as Partial<Dataset<unknown>>;
  const wrong = (actual: string, hint?: string): AttributeError =>
    new AttributeError({ op, argument, expected: 'a dataset { length, batch(indices, epoch) }', actual, hint });
  if (Array.isArray(value)) {
    const hint = 'Wrap it: { length: list.length, batch: (indices) => … }';
    throw wrong(`an array of ${value.length}`, hint);
  }
  if (typeof value !== 'object' || value === null) throw wrong(formatValue(value));
  if (typeof batch !== 'function') throw wrong(`${formatValue(value)} without batch()`);
  if (!Number.isSafeInteger(length) || length! < 0) throw wrong(`one whose length is ${formatValue(length)}`);
  if (length === 0) throw new AttributeError({ op, argument, expected: 'at least one example', actual: 'none' });
}

/** @internal Numbers of examples for a message: all of a few, the first of many. */
export function formatIndices(indices: readonly number[]): string {
  return indices.length > 16 ? `${indices.slice(0, 16).join(', ')}, … (${indices.length})` : indices.join(', ');
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

/** Which examples a batch was made of. */
export interface DrawnBatch {
  readonly indices: readonly number[];
  readonly epoch: number;
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
  private batch = 0;
  /** Orders of this epoch and, near its end, of the next. */
  private readonly orders = new Map<number, Uint32Array>();
  /** Preparations under way or done, by the number of their batch, counted from the first epoch on. */
  private readonly prepared = new Map<number, Promise<void>>();
  private readonly spent = { batches: 0, waited: 0, made: 0 };
  private drawn: DrawnBatch | null = null;

  /** @throws AttributeError if there is not a single batch in an epoch */
  constructor(dataset: Dataset<B>, options: LoaderOptions) {
    checkKeys('DataLoader', options, ['batchSize', 'shuffle', 'seed', 'dropLast', 'prefetch']);
    checkDataset('DataLoader', 'dataset', dataset);
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

  /** Batches given since the start of the first epoch, or passed over; set it to go on from there. */
  get position(): number {
    return this.epoch * this.length + this.batch;
  }

  set position(position: number) {
    checkInteger('DataLoader', 'position', position, 0);
    if (position === this.position) return;
    this.state = { epoch: Math.floor(position / this.length), batch: position % this.length };
  }

  /** What {@link next} gave last. */
  get last(): DrawnBatch | null {
    return this.drawn;
  }

  /** What data has cost so far. */
  get times(): LoaderTimes {
    return { ...this.spent };
  }

  /** Where the loader stands; set it to go on from there. */
  get state(): LoaderState {
    return { epoch: this.epoch, batch: this.batch };
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
    this.batch = batch;
    this.prepared.clear();
  }

  /** Examples of a batch, counted from the first epoch on. */
  private examplesOf(number: number): DrawnBatch {
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
    const next = this.position;
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
    const promise = this.prepared.get(this.position);
    if (promise === undefined) return;
    const begun = performance.now();
    await promise;
    this.spent.waited += performance.now() - begun;
  }

  /**
   * The next batch; the next epoch begins when one ends. Does not wait for preparations: see {@link ready}.
   *
   * @throws StateError naming the examples if the dataset throws; its own error is the cause
   */
  next(): B {
    const begun = performance.now();
    if (this.batch >= this.length) {
      this.epoch++;
      this.batch = 0;
    }
    const number = this.position;
    const { indices, epoch } = (this.drawn = this.examplesOf(number));
    this.batch++;
    this.prepared.delete(number);
    try {
      const made = this.dataset.batch(indices, epoch);
      this.spent.batches++;
      this.spent.made += performance.now() - begun;
      return made;
    } catch (cause) {
      throw new StateError({
        op: 'DataLoader',
        argument: 'dataset.batch',
        expected: `a batch of examples ${formatIndices(indices)} of epoch ${epoch}`,
        actual: `an error: ${cause instanceof Error ? cause.message : String(cause)}`,
        cause,
      });
    }
  }

  /** The batches that are left of this epoch (all of them, at its start). */
  async *[Symbol.asyncIterator](): AsyncGenerator<B, void, undefined> {
    if (this.batch >= this.length) this.state = { epoch: this.epoch + 1, batch: 0 };
    while (this.batch < this.length) {
      await this.ready();
      yield this.next();
    }
  }
}
