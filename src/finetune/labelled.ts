/**
 * Texts with labels, and pairs of texts, as batches.
 */
import type { Dataset } from '../data/loader.js';
import { padRows } from '../data/padding.js';
import { AttributeError } from '../errors.js';
import type { Module } from '../nn/module.js';
import { tensor } from '../tensor/create.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkInteger, checkKeys, checkOneOf } from '../util/assert.js';
import { formatValue } from '../util/format.js';
import type { PairBatch } from './contrastive.js';
import type { LengthOptions } from './pooling.js';

/** What cuts texts into ids here. */
export interface TextEncoder {
  encode(text: string): ArrayLike<number>;
}

/** A text, or its ids. */
export type TextOrIds = string | ArrayLike<number>;

/** How texts become rows. */
export interface RowOptions {
  /** Needed for texts; ids go without. */
  readonly tokenizer?: TextEncoder;
  /** Longest row; what is longer is cut at its end. Default: none is. */
  readonly maxLength?: number;
  /** Fills rows up. Default 0. */
  readonly padId?: number;
}

const rowKeys = ['tokenizer', 'maxLength', 'padId'];

/** Ids of a text, cut. @throws AttributeError if it has none */
function idsOf(op: string, argument: string, text: TextOrIds, { tokenizer, maxLength }: RowOptions): Int32Array {
  if (typeof text === 'string' && tokenizer === undefined) {
    throw new AttributeError({ op, argument: 'tokenizer', expected: 'a tokenizer for texts', actual: 'none' });
  }
  const isList = typeof text === 'object' && text !== null && typeof text.length === 'number';
  if (typeof text !== 'string' && !isList) {
    throw new AttributeError({ op, argument, expected: 'a text or ids', actual: formatValue(text) });
  }
  const ids = Int32Array.from(typeof text === 'string' ? tokenizer!.encode(text) : text);
  if (ids.length === 0) throw new AttributeError({ op, argument, expected: 'at least one token', actual: 'none' });
  return ids.subarray(0, maxLength ?? ids.length);
}

function checkRows(op: string, options: RowOptions): void {
  if (options.maxLength !== undefined) checkInteger(op, 'maxLength', options.maxLength, 1);
  checkInteger(op, 'padId', options.padId ?? 0, 0);
}

const lengthTensor = (rows: readonly ArrayLike<number>[]): Tensor =>
  tensor(Int32Array.from(rows, ({ length }) => length));

/** A text with what is to be said of it. */
export interface LabelledExample {
  readonly text: TextOrIds;
  /**
   * `single`: a class, by number or by name. `multi`: the classes that hold, likewise. `regression`: a number, or several.
   * `token`: a class for each id, -100 for those that do not count.
   */
  readonly label: number | string | readonly (number | string)[];
}

/** Options of {@link LabelledDataset}. */
export interface LabelledOptions extends RowOptions {
  /** Default `single`. */
  readonly problem?: 'single' | 'multi' | 'regression' | 'token';
  /** Names of the classes, or their number. Needed for labels by name and for `multi`. */
  readonly classes?: readonly string[] | number;
}

/** A batch of {@link LabelledDataset}. */
export interface LabelledBatch {
  /** Ids, int32 `[B, T]`, filled up on the right. */
  readonly x: Tensor;
  /** Int32 `[B]` classes; float32 `[B, classes]` of 0 and 1; float32 `[B]` or `[B, n]` numbers; int32 `[B, T]` classes of tokens. */
  readonly y: Tensor;
  /** Tokens of each row, int32 `[B]`. */
  readonly lengths: Tensor;
}

const op = 'LabelledDataset';

/** Texts with labels, encoded once and filled up to the longest of a batch. */
export class LabelledDataset implements Dataset<LabelledBatch> {
  readonly problem: 'single' | 'multi' | 'regression' | 'token';
  readonly #rows: Int32Array[] = [];
  readonly #labels: Float64Array[] = [];
  readonly #padId: number;

  /** @throws AttributeError naming the first example or option that cannot be */
  constructor(examples: Iterable<LabelledExample>, options: LabelledOptions = {}) {
    checkKeys(op, options, ['problem', 'classes', ...rowKeys]);
    checkRows(op, options);
    this.problem = checkOneOf(op, 'problem', options.problem ?? 'single', ['single', 'multi', 'regression', 'token']);
    this.#padId = options.padId ?? 0;
    const { classes } = options;
    if (classes === undefined && this.problem === 'multi') {
      const expected = 'the names of the classes, or their number';
      throw new AttributeError({ op, argument: 'classes', expected, actual: 'none' });
    }
    for (const example of examples) {
      const argument = `examples[${this.#rows.length}]`;
      const { text, label } = Object(example) as LabelledExample;
      const ids = idsOf(op, `${argument}.text`, text, options);
      this.#rows.push(ids);
      this.#labels.push(this.numbersOf(`${argument}.label`, label, classes, ids.length));
    }
    if (this.problem === 'regression' && new Set(this.#labels.map(({ length }) => length)).size > 1) {
      throw new AttributeError({ op, argument: 'examples', expected: 'as many numbers each', actual: 'others' });
    }
  }

  private numbersOf(
    argument: string,
    label: LabelledExample['label'],
    classes: readonly string[] | number | undefined,
    length: number,
  ): Float64Array {
    const fail = (expected: string): never => {
      throw new AttributeError({ op, argument, expected, actual: formatValue(label) });
    };
    const count = typeof classes === 'number' ? classes : (classes?.length ?? Infinity);
    const classOf = (value: unknown): number => {
      const number = typeof value === 'string' && Array.isArray(classes) ? classes.indexOf(value) : Number(value);
      const isClass = typeof value !== 'object' && Number.isInteger(number) && number >= 0 && number < count;
      if (isClass) return number;
      return fail(Array.isArray(classes) ? `one of ${classes.join(', ')}` : `classes from 0 to ${count - 1}`);
    };
    const list: readonly (number | string)[] = Array.isArray(label) ? label : [label as number | string];
    if (this.problem === 'single') return Float64Array.of(classOf(label));
    if (this.problem === 'multi') {
      const made = new Float64Array(count);
      for (const value of list) made[classOf(value)] = 1;
      return made;
    }
    if (this.problem === 'token') {
      if (list.length < length) fail(`${length} classes, one a token`);
      return Float64Array.from(list.slice(0, length), (value) => (value === -100 ? -100 : classOf(value)));
    }
    return list.every((value) => typeof value === 'number' && Number.isFinite(value)) && list.length > 0
      ? Float64Array.from(list as readonly number[])
      : fail('finite numbers');
  }

  get length(): number {
    return this.#rows.length;
  }

  batch(indices: readonly number[]): LabelledBatch {
    const rows = indices.map((index) => this.#rows[index]!);
    return { x: padRows(rows, this.#padId), y: this.labelsOf(indices), lengths: lengthTensor(rows) };
  }

  private labelsOf(indices: readonly number[]): Tensor {
    const labels = indices.map((index) => this.#labels[index]!);
    if (this.problem === 'token') return padRows(labels, -100);
    const flat = labels.flatMap((values) => [...values]);
    if (this.problem === 'single') return tensor(Int32Array.from(flat));
    const width = labels[0]?.length ?? 0;
    const isVector = this.problem === 'regression' && width === 1;
    return tensor(Float32Array.from(flat), { shape: isVector ? [labels.length] : [labels.length, width] });
  }
}

/** A model with a loss on labelled batches: `SequenceClassifier`, `SequenceRegressor`, `TokenClassifier`. */
export type LabelledModel = Module & { loss(ids: Tensor, target: Tensor, options: LengthOptions): Tensor };

/** The loss of a model on a batch of {@link LabelledDataset}, for `Trainer`. */
export function labelledLoss(model: LabelledModel, { x, y, lengths }: LabelledBatch): Tensor {
  return model.loss(x, y, { lengths });
}

/** Two texts that belong together. */
export interface PairExample {
  readonly query: TextOrIds;
  /** What it should find. */
  readonly positive: TextOrIds;
  /** What it should not find; all queries of a batch get all of them. */
  readonly negatives?: readonly TextOrIds[];
}

/** Pairs of texts for `contrastiveLoss`, encoded once and filled up to the longest of a batch. */
export class PairDataset implements Dataset<PairBatch> {
  readonly #pairs: { readonly query: Int32Array; readonly positive: Int32Array; readonly negatives: Int32Array[] }[] =
    [];
  readonly #padId: number;

  /** @throws AttributeError naming the first example or option that cannot be */
  constructor(examples: Iterable<PairExample>, options: RowOptions = {}) {
    const name = 'PairDataset';
    checkKeys(name, options, rowKeys);
    checkRows(name, options);
    this.#padId = options.padId ?? 0;
    for (const example of examples) {
      const { query, positive, negatives } = Object(example) as PairExample;
      const read = (part: string, text: TextOrIds): Int32Array =>
        idsOf(name, `examples[${this.#pairs.length}].${part}`, text, options);
      this.#pairs.push({
        query: read('query', query),
        positive: read('positive', positive),
        negatives: (negatives ?? []).map((text, i) => read(`negatives[${i}]`, text)),
      });
    }
  }

  get length(): number {
    return this.#pairs.length;
  }

  batch(indices: readonly number[]): PairBatch {
    const pairs = indices.map((index) => this.#pairs[index]!);
    const [queries, positives] = [pairs.map(({ query }) => query), pairs.map(({ positive }) => positive)];
    const negatives = pairs.flatMap((pair) => pair.negatives);
    return {
      x: padRows(queries, this.#padId),
      lengths: lengthTensor(queries),
      y: padRows(positives, this.#padId),
      yLengths: lengthTensor(positives),
      ...(negatives.length === 0
        ? {}
        : { negatives: padRows(negatives, this.#padId), negativeLengths: lengthTensor(negatives) }),
    };
  }
}
