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
  private epoch = 0;
  private batch = 0;
  private order: Uint32Array | null = null;
  private drawn: DrawnBatch | null = null;

  /** @throws AttributeError if there is not a single batch in an epoch */
  constructor(dataset: Dataset<B>, options: LoaderOptions) {
    checkKeys('DataLoader', options, ['batchSize', 'shuffle', 'seed', 'dropLast']);
    checkDataset('DataLoader', 'dataset', dataset);
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
    if (epoch !== this.epoch) this.order = null;
    this.epoch = epoch;
    this.batch = batch;
  }

  private peek(): DrawnBatch {
    if (this.batch >= this.length) {
      this.epoch++;
      this.batch = 0;
      this.order = null;
    }
    this.order ??= permutationOf(this.dataset.length, this.shuffle ? { seed: this.seed, epoch: this.epoch } : null);
    const start = this.batch * this.batchSize;
    return { indices: Array.from(this.order.subarray(start, start + this.batchSize)), epoch: this.epoch };
  }

  /**
   * The next batch; the next epoch begins when one ends.
   *
   * @throws StateError naming the examples if the dataset throws; its own error is the cause
   */
  next(): B {
    const { indices, epoch } = (this.drawn = this.peek());
    this.batch++;
    try {
      return this.dataset.batch(indices, epoch);
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
    while (this.batch < this.length) yield this.next();
  }
}
