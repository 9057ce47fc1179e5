/**
 * Prompts with answers as rows of ids and targets.
 */
import { AttributeError } from '../../errors.js';
import { tensor } from '../../tensor/create.js';
import type { Tensor } from '../../tensor/tensor.js';
import { checkBoolean, checkInteger } from '../../util/assert.js';
import { formatValue } from '../../util/format.js';

/** Ids of a text. */
export type TokenIds = readonly number[] | Int32Array;

/** How examples become rows. */
export interface AnswerRowOptions {
  /** Most tokens of prompt and answer together. A longer prompt loses its start, then the answer its end. Default: no limit. */
  readonly maxLength?: number;
  /** Id that fills short rows up. Any valid one will do: it is neither attended to by what stands before it nor counted. Default 0. */
  readonly padId?: number;
  /** Fill every row up to `maxLength`, not to the longest of its batch. Default false. */
  readonly padToMaxLength?: boolean;
}

/** @internal */
export const rowOptionKeys = ['maxLength', 'padId', 'padToMaxLength'];

/** {@link AnswerRowOptions} with defaults. */
export interface AnswerRowSettings {
  readonly maxLength: number;
  readonly padId: number;
  readonly padToMaxLength: boolean;
}

/** One prompt with one answer, cut to what fits. */
export interface AnswerRow {
  readonly ids: Int32Array;
  /** How many of them are the prompt's. */
  readonly promptLength: number;
}

/** Rows side by side. */
export interface RowBatch {
  /** Ids `[rows, T]`, int32. */
  readonly x: Tensor;
  /** The id behind each, where that is one of the answer's, else -100: `[rows, T]`, int32. */
  readonly y: Tensor;
  /** Tokens of each row that are not padding: `[rows]`, int32. */
  readonly lengths: Tensor;
}

/** @internal @throws AttributeError naming the option that cannot be */
export function rowSettings(op: string, options: AnswerRowOptions): AnswerRowSettings {
  const { maxLength = Infinity, padId = 0, padToMaxLength = false } = options;
  if (maxLength !== Infinity) checkInteger(op, 'maxLength', maxLength, 2);
  checkInteger(op, 'padId', padId, 0, 2 ** 31 - 1);
  if (checkBoolean(op, 'padToMaxLength', padToMaxLength) && maxLength === Infinity) {
    throw new AttributeError({ op, argument: 'maxLength', expected: 'a length to fill rows up to', actual: 'none' });
  }
  return { maxLength, padId, padToMaxLength };
}

/** @internal @throws AttributeError unless they are at least one id */
export function checkIds(op: string, argument: string, ids: unknown): TokenIds {
  const isList = Array.isArray(ids) || ids instanceof Int32Array;
  if (!isList || ids.length === 0) {
    const actual = isList ? 'an empty list' : formatValue(ids);
    throw new AttributeError({ op, argument, expected: 'at least one token id', actual });
  }
  for (const id of ids as TokenIds) {
    if (!Number.isSafeInteger(id) || id < 0 || id >= 2 ** 31) {
      throw new AttributeError({ op, argument, expected: 'ids from 0 to 2147483647', actual: formatValue(id) });
    }
  }
  return ids as TokenIds;
}

/** @internal Prompt and answer behind each other: the prompt keeps at least its last token, the answer its first. */
export function makeRow(prompt: TokenIds, answer: TokenIds, { maxLength }: AnswerRowSettings): AnswerRow {
  const kept = Math.min(answer.length, Math.max(1, maxLength - 1));
  const promptLength = Math.min(prompt.length, maxLength - kept);
  const ids = new Int32Array(promptLength + kept);
  ids.set(prompt.slice(prompt.length - promptLength));
  ids.set(answer.slice(0, kept), promptLength);
  return { ids, promptLength };
}

/** @internal */
export function makeBatch(
  rows: readonly AnswerRow[],
  { maxLength, padId, padToMaxLength }: AnswerRowSettings,
): RowBatch {
  const time = padToMaxLength ? maxLength : Math.max(...rows.map(({ ids }) => ids.length));
  const x = new Int32Array(rows.length * time).fill(padId);
  const y = new Int32Array(rows.length * time).fill(-100);
  for (const [i, { ids, promptLength }] of rows.entries()) {
    x.set(ids, i * time);
    y.set(ids.subarray(promptLength), i * time + promptLength - 1);
  }
  const shape = [rows.length, time];
  const lengths = tensor(Int32Array.from(rows, ({ ids }) => ids.length));
  return { x: tensor(x, { shape }), y: tensor(y, { shape }), lengths };
}
