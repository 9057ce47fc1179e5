/**
 * What a {@link GPT} is called with besides ids: caches, packed sequences, places, and what stands in front of them.
 *
 * @module
 */
import { AttributeError, ShapeError } from '../errors.js';
import type { KeyValues } from '../nn/attention.js';
import type { KvCache } from '../nn/kv_cache.js';
import { expand } from '../ops/broadcast.js';
import { narrow, reshape } from '../ops/views.js';
import { tensor } from '../tensor/create.js';
import { Tensor } from '../tensor/tensor.js';
import { checkKeys } from '../util/assert.js';
import { formatShape, formatValue } from '../util/format.js';

/** Options of `GPT.hidden` and `GPT.loss`. */
export interface HiddenOptions {
  /** One cache a layer, from `GPT.makeCache`; positions continue behind what it holds. */
  readonly cache?: readonly KvCache[];
  /**
   * Sequences packed behind each other: N + 1 numbers from 0 to B·T that do not fall, counted over the rows read one after another;
   * sequence n takes the places offsets[n] … offsets[n + 1] − 1, sees nothing but itself, and its positions begin at 0.
   */
  readonly offsets?: readonly number[];
  /** Position of each token, int32 `[B, T]` or `[T]`. Default: counted on from the cache, or within each packed sequence. */
  readonly positions?: Tensor;
  /**
   * Keys and values in front of every sequence, one pair a layer, `[1 or B, kvHeads, P, headWidth]` (prefix tuning). Positions
   * of the tokens begin at P. With a cache, give them at the first call: the cache holds them from then on.
   */
  readonly prefix?: readonly KeyValues[];
  /** Vectors in front of every sequence, `[P, width]` (prompt tuning). They take the first P positions and give no output. */
  readonly prompt?: Tensor;
}

/** @internal Names of {@link HiddenOptions}. */
export const hiddenKeys = ['cache', 'offsets', 'positions', 'prefix', 'prompt'];

/** @internal A call of the model, checked. */
export interface Call {
  /** `[B, T]`, or `[1, B·T]` for packed sequences. */
  readonly ids: Tensor;
  /** Vectors in front. */
  readonly prompt: Tensor | null;
  /** Positions, `[B, T]` or `[T]`; null: `first` and on. */
  readonly positions: Tensor | null;
  /** Position of the first vector. */
  readonly first: number;
  /** Vectors of a row, the prompt's included. */
  readonly time: number;
  readonly offsets: Tensor | null;
}

const op = 'GPT';

function checkOffsets(offsets: readonly number[], count: number, context: number): void {
  const argument = 'offsets';
  const fits =
    Array.isArray(offsets) &&
    offsets[0] === 0 &&
    offsets.at(-1) === count &&
    offsets.every((at: unknown, n) => Number.isInteger(at) && (n === 0 || (at as number) >= offsets[n - 1]!));
  if (!fits) {
    const expected = `numbers that go from 0 to ${count} without falling`;
    throw new AttributeError({ op, argument, expected, actual: formatValue(offsets) });
  }
  const longest = offsets.reduce((most, at, n) => Math.max(most, at - (offsets[n - 1] ?? at)), 0);
  if (longest <= context) return;
  throw new ShapeError({
    op,
    argument,
    expected: `sequences of at most ${context} positions`,
    actual: `one of ${longest}`,
  });
}

/** Positions that begin at 0 in each sequence. */
function restarting(offsets: readonly number[], count: number): Tensor {
  const places = new Int32Array(count);
  for (let n = 1; n < offsets.length; n++) {
    for (let i = offsets[n - 1]!; i < offsets[n]!; i++) places[i] = i - offsets[n - 1]!;
  }
  return tensor(places, { shape: [1, count] });
}

/** Positions [B, T] of the next `time` tokens behind so many. */
function behind(lengths: readonly number[], time: number): Tensor {
  const list = Int32Array.from(
    { length: lengths.length * time },
    (_, i) => lengths[Math.floor(i / time)]! + (i % time),
  );
  return tensor(list, { shape: [lengths.length, time] });
}

function checkPositions(positions: Tensor, [batch, time]: readonly number[]): void {
  const fits = positions instanceof Tensor && (positions.dtype === 'int32' || positions.dtype === 'int64');
  const shape = fits ? positions.shape.join() : '';
  if (fits && (shape === `${batch},${time}` || shape === `${time}`)) return;
  const expected = `int32 [${batch}, ${time}] or [${time}]`;
  const actual =
    positions instanceof Tensor ? `${positions.dtype} ${formatShape(positions.shape)}` : formatValue(positions);
  throw new ShapeError({ op, argument: 'positions', expected, actual });
}

/**
 * @internal Checks a call.
 *
 * @throws ShapeError if ids, positions, prefix or prompt have other shapes, or a sequence is longer than the context
 * @throws AttributeError for options that do not go together
 */
export function readCall(
  ids: Tensor,
  options: HiddenOptions,
  config: { readonly context: number; readonly layers: number; readonly width: number },
): Call {
  checkKeys(op, options, hiddenKeys);
  const { cache, offsets, positions, prefix, prompt } = options;
  if (ids.rank !== 2) {
    throw new ShapeError({ op, argument: 'ids', expected: '[batch, time]', actual: formatShape(ids.shape) });
  }
  const [batch, tokens] = ids.shape as readonly [number, number];
  if (offsets !== undefined) {
    const others = { cache, prefix, prompt };
    const other = Object.entries(others).find(([, value]) => value !== undefined)?.[0];
    if (other !== undefined) {
      throw new AttributeError({ op, argument: other, expected: 'none for packed sequences', actual: 'both' });
    }
    checkOffsets(offsets, batch * tokens, config.context);
    if (positions !== undefined) checkPositions(positions, [batch, tokens]);
    return {
      ids: reshape(ids, [1, batch * tokens]),
      prompt: null,
      positions: positions === undefined ? restarting(offsets, batch * tokens) : flat(positions, batch, tokens),
      first: 0,
      time: batch * tokens,
      offsets: tensor(Int32Array.from(offsets)),
    };
  }
  if (prefix !== undefined && prefix.length !== config.layers) {
    const expected = `${config.layers} pairs, one a layer`;
    throw new AttributeError({ op, argument: 'prefix', expected, actual: String(prefix.length) });
  }
  if (prompt !== undefined && (prompt.rank !== 2 || prompt.shape[1] !== config.width)) {
    const expected = `[length, ${config.width}]`;
    throw new ShapeError({ op, argument: 'prompt', expected, actual: formatShape(prompt.shape) });
  }
  const past = (cache?.[0]?.length ?? 0) + (prefix?.[0]?.k.shape[2] ?? 0);
  const time = tokens + (prompt?.shape[0] ?? 0);
  if (past + time > config.context) {
    throw new ShapeError({
      op,
      argument: 'ids',
      expected: `at most ${config.context} positions`,
      actual: `${past + time}`,
      hint: 'Shorten the sequence or make a model of longer context',
    });
  }
  if (positions !== undefined) {
    if (prompt !== undefined) {
      throw new AttributeError({ op, argument: 'positions', expected: 'none with a prompt', actual: 'both' });
    }
    checkPositions(positions, [batch, tokens]);
  }
  const lengths = cache?.[0]?.lengths ?? [];
  // sequences of different lengths (a joined cache) stand at positions of their own
  const ragged = lengths.some((length) => length !== past) && prefix === undefined ? behind(lengths, time) : null;
  return { ids, prompt: prompt ?? null, positions: positions ?? ragged, first: past, time, offsets: null };
}

/** Positions of all rows as one. */
function flat(positions: Tensor, batch: number, tokens: number): Tensor {
  if (positions.rank === 2) return reshape(positions, [1, batch * tokens]);
  return reshape(expand(positions, [batch, tokens]), [1, batch * tokens]);
}

/** @internal Positions as the table of learnt vectors takes them: of the call's own, or from a list of all. */
export const positionIds = ({ positions, first, time }: Call, all: Tensor): Tensor =>
  positions ?? narrow(all, 0, first, time);
