/**
 * Datasets of preferences: pairs of answers, and single answers with a verdict.
 */
import { createHash } from 'node:crypto';
import type { Dataset } from '../../data/loader.js';
import { permutationOf } from '../../data/permutation.js';
import { AttributeError, ShapeError } from '../../errors.js';
import { tensor } from '../../tensor/create.js';
import type { Tensor } from '../../tensor/tensor.js';
import { checkBoolean, checkInteger, checkKeys, checkNumber } from '../../util/assert.js';
import { formatValue } from '../../util/format.js';
import {
  checkIds,
  makeBatch,
  makeRow,
  rowOptionKeys,
  rowSettings,
  type AnswerRow,
  type RowBatch,
  type AnswerRowOptions,
  type AnswerRowSettings,
  type TokenIds,
} from './rows.js';

/** Rows in twos, and what a reference says of them. */
export interface PairedBatch extends RowBatch {
  /** Log-probability of each row's answer under a reference model, `[2N]` float32; null unless computed beforehand. */
  readonly reference: Tensor | null;
}

/** Pairs: rows 2i hold the chosen answers, rows 2i + 1 the rejected ones. */
export interface PreferenceBatch extends PairedBatch {
  /** By how much each pair's rewards should differ at least, `[N]` float32. */
  readonly margin: Tensor;
}

/** Single answers: rows 2i hold the examples, rows 2i + 1 their prompts with an answer to another one. */
export interface KtoBatch extends PairedBatch {
  /** Whether each answer is a good one, `[N]` bool. */
  readonly desirable: Tensor;
}

/** @internal A dataset with two rows an example. */
export abstract class PairedDataset<B extends PairedBatch> implements Dataset<B> {
  /** Two an example. */
  protected readonly rows: readonly AnswerRow[];
  protected readonly settings: AnswerRowSettings;
  /** Log-probabilities of all rows' answers under a reference model. */
  protected readonly reference: Float32Array | null;

  protected constructor(rows: readonly AnswerRow[], settings: AnswerRowSettings, reference: Float32Array | null) {
    this.rows = rows;
    this.settings = settings;
    this.reference = reference;
  }

  /** Examples. */
  get length(): number {
    return this.rows.length / 2;
  }

  abstract batch(indices: readonly number[], epoch: number): B;

  /** The same examples, with a reference's log-probabilities of all rows' answers (see `precomputeReference`). */
  abstract withReference(logProbs: ArrayLike<number>): PairedDataset<B>;

  protected paired(indices: readonly number[]): PairedBatch {
    const numbers = indices.flatMap((i) => [2 * i, 2 * i + 1]);
    const batch = makeBatch(
      numbers.map((i) => this.rows[i]!),
      this.settings,
    );
    const { reference } = this;
    return {
      ...batch,
      reference: reference === null ? null : tensor(Float32Array.from(numbers, (i) => reference[i]!)),
    };
  }

  /** @internal @throws ShapeError unless there is a number for each row */
  protected checked(logProbs: ArrayLike<number>): Float32Array {
    const expected = `${this.rows.length} log-probabilities, two an example`;
    if (logProbs?.length !== this.rows.length) {
      const actual = formatValue(logProbs?.length);
      throw new ShapeError({ op: 'withReference', argument: 'logProbs', expected, actual });
    }
    const own = Float32Array.from(logProbs);
    const wrong = own.find((value) => !Number.isFinite(value));
    if (wrong === undefined) return own;
    throw new AttributeError({ op: 'withReference', argument: 'logProbs', expected, actual: String(wrong) });
  }

  /** A digest of all rows, by which a cache knows what it was computed from. */
  get fingerprint(): string {
    const hash = createHash('sha256');
    for (const { ids, promptLength } of this.rows) {
      hash.update(Int32Array.of(ids.length, promptLength));
      hash.update(ids);
    }
    return hash.digest('hex');
  }
}

/** A prompt with a better and a worse answer, as token ids. */
export interface PreferenceExample {
  /** At least one token: a prompt of no words is the token that begins texts. */
  readonly prompt: TokenIds;
  readonly chosen: TokenIds;
  readonly rejected: TokenIds;
  /** By how much the rewards should differ at least (reward models and IPO's like do not need it). Default 0. */
  readonly margin?: number;
}

/**
 * Pairs of answers to a prompt, for `dpo`, `orpo`, `simpo` and `rewardModeling`. Only the answers count; end them with the token that
 * ends texts if the model is to learn where to stop. Rows are filled up at their end.
 *
 * @throws AttributeError if an example cannot be
 */
export class PreferenceDataset extends PairedDataset<PreferenceBatch> {
  private readonly margins: Float32Array;

  constructor(examples: readonly PreferenceExample[], options: AnswerRowOptions = {}) {
    const op = 'PreferenceDataset';
    checkKeys(op, options, rowOptionKeys);
    const settings = rowSettings(op, options);
    const list = checkExamples(op, examples);
    const rows = list.flatMap(({ prompt, chosen, rejected }, i) => {
      checkIds(op, `examples[${i}].prompt`, prompt);
      return [
        makeRow(prompt, checkIds(op, `examples[${i}].chosen`, chosen), settings),
        makeRow(prompt, checkIds(op, `examples[${i}].rejected`, rejected), settings),
      ];
    });
    super(rows, settings, null);
    this.margins = Float32Array.from(list, ({ margin = 0 }, i) => checkNumber(op, `examples[${i}].margin`, margin, 0));
  }

  batch(indices: readonly number[], _epoch = 0): PreferenceBatch {
    return { ...this.paired(indices), margin: tensor(Float32Array.from(indices, (i) => this.margins[i]!)) };
  }

  override withReference(logProbs: ArrayLike<number>): PreferenceDataset {
    return withValue(this, this.checked(logProbs));
  }
}

/** A prompt with one answer and a verdict, as token ids. */
export interface KtoExample {
  /** At least one token. */
  readonly prompt: TokenIds;
  readonly answer: TokenIds;
  /** Whether the answer is a good one. */
  readonly desirable: boolean;
}

/** Options of {@link KtoDataset}. */
export interface KtoDatasetOptions extends AnswerRowOptions {
  /** Seed of the circle in which each prompt gets the next one's answer. Default 0. */
  readonly seed?: number;
}

/**
 * Single answers, good or bad, for `kto`. Each example carries its prompt with the answer to another one, from which the distance of
 * the model to its reference is estimated: the examples stand in a circle that the seed shuffles, and each takes the next one's.
 *
 * @throws AttributeError if an example cannot be, or there are fewer than two
 */
export class KtoDataset extends PairedDataset<KtoBatch> {
  private readonly desirable: readonly boolean[];

  constructor(examples: readonly KtoExample[], options: KtoDatasetOptions = {}) {
    const op = 'KtoDataset';
    checkKeys(op, options, [...rowOptionKeys, 'seed']);
    const settings = rowSettings(op, options);
    const seed = checkInteger(op, 'seed', options.seed ?? 0, 0);
    const list = checkExamples(op, examples);
    if (list.length < 2) {
      throw new AttributeError({ op, argument: 'examples', expected: 'at least two examples', actual: 'one' });
    }
    for (const [i, { prompt, answer, desirable }] of list.entries()) {
      checkIds(op, `examples[${i}].prompt`, prompt);
      checkIds(op, `examples[${i}].answer`, answer);
      checkBoolean(op, `examples[${i}].desirable`, desirable);
    }
    const circle = permutationOf(list.length, { seed, epoch: 0 });
    const next = new Uint32Array(list.length);
    for (const [place, i] of circle.entries()) next[i] = circle[(place + 1) % circle.length]!;
    const rows = list.flatMap(({ prompt, answer }, i) => [
      makeRow(prompt, answer, settings),
      makeRow(prompt, list[next[i]!]!.answer, settings),
    ]);
    super(rows, settings, null);
    this.desirable = list.map(({ desirable }) => desirable);
  }

  batch(indices: readonly number[], _epoch = 0): KtoBatch {
    const desirable = tensor(
      indices.map((i) => this.desirable[i]!),
      { dtype: 'bool' },
    );
    return { ...this.paired(indices), desirable };
  }

  override withReference(logProbs: ArrayLike<number>): KtoDataset {
    return withValue(this, this.checked(logProbs));
  }
}

/** A copy of a dataset that shares its rows. */
function withValue<D extends object>(dataset: D, reference: Float32Array): D {
  const copy = Object.create(Object.getPrototypeOf(dataset) as object) as D;
  return Object.assign(copy, dataset, { reference });
}

function checkExamples<E>(op: string, examples: readonly E[]): readonly E[] {
  const isList = Array.isArray(examples);
  if (isList && examples.length > 0) return examples;
  const actual = isList ? 'none' : formatValue(examples);
  throw new AttributeError({ op, argument: 'examples', expected: 'a list of examples', actual });
}
