/**
 * Options of attention: their checks, and what the kernels take for them.
 *
 * @module
 */
import { AttributeError, ShapeError } from '../errors.js';
import { tensor } from '../tensor/create.js';
import { isFloating, type DType } from '../tensor/dtype.js';
import { Generator, defaultGenerator } from '../tensor/random.js';
import { Tensor } from '../tensor/tensor.js';
import { checkBoolean, checkInteger, checkNumber } from '../util/assert.js';
import { formatShape, formatValue } from '../util/format.js';
import type { AttentionAttrs } from './attention_parts.js';
import { expand } from './broadcast.js';
import { to } from './copy.js';

/** Options of {@link scaledDotProductAttention}. */
export interface AttentionOptions {
  /** Broadcasts to (B, Hq, T, S). bool: true where a query may attend; float: added to the scaled scores. */
  readonly mask?: Tensor | null;
  /** Query i sees keys up to i + S − T, so that the last query sees all: right for a cache as well. Default false. */
  readonly causal?: boolean;
  /** Factor of the scores. Default 1/√D. */
  readonly scale?: number;
  /** Query i sees keys after i + S − T − window. Default none. */
  readonly window?: number | null;
  /** Scores become softCap · tanh(score / softCap), before ALiBi and mask (Gemma 2, arXiv 2408.00118). Default none. */
  readonly softCap?: number | null;
  /**
   * One slope a query head: slope · |i + S − T − j| is taken off the scores (ALiBi, arXiv 2108.12409), without a tensor of
   * biases. See `alibiSlopes`. Slopes get no gradient.
   */
  readonly alibi?: Tensor | readonly number[] | null;
  /** Probability with which a weight is dropped; the others are divided by 1 − p. Default 0. */
  readonly dropout?: number;
  /** Stream of the dropped weights. Default: the shared one, see `manualSeed`. */
  readonly generator?: Generator;
  /**
   * Sequences packed behind each other: N + 1 offsets from 0 to T, int32; sequence n has queries offsets[n] … offsets[n + 1] − 1
   * and sees its own keys only. Needs a batch of 1 and goes without a mask. Default none.
   */
  readonly queryOffsets?: Tensor | readonly number[] | null;
  /** The same for the keys. Default: `queryOffsets`. */
  readonly keyOffsets?: Tensor | readonly number[] | null;
  /**
   * Stretches of keys in which attention goes both ways, whatever `causal` and `window` say: a prefix, or the tokens of an image
   * (PaliGemma, arXiv 2407.07726; Gemma 3, 2503.19786). For each sequence of the batch a list of [start, end) among the keys that
   * do not overlap; or an int32 tensor (B, T, 2) or (T, 2) with start and end of the span that each query stands in (two equal
   * numbers where it is in none). Spans of packed sequences lie inside one each. No T·S mask is made. Default none.
   */
  readonly spans?: Tensor | readonly (readonly (readonly [start: number, end: number])[])[] | null;
}

const op = 'scaledDotProductAttention';

/**
 * @internal Numbers among the options, with their defaults; of dropout only the probability (0 for 1, which needs no stream).
 *
 * @throws AttributeError if one is outside its domain
 */
export function readOptions(options: AttentionOptions, width: number): AttentionAttrs {
  const [window, cap] = [options.window ?? null, options.softCap ?? null];
  const p = checkNumber(op, 'dropout', options.dropout ?? 0, 0, 1);
  return {
    scale: checkNumber(op, 'scale', options.scale ?? 1 / Math.sqrt(Math.max(width, 1))),
    causal: checkBoolean(op, 'causal', options.causal ?? false),
    window: window === null ? 0 : checkInteger(op, 'window', window, 1),
    softCap: cap === null ? 0 : checkNumber(op, 'softCap', cap, 1e-3, 1e30),
    dropout: p === 1 ? 0 : p,
    stream: [0, 0, 0, 0],
  };
}

/** @internal Slopes of ALiBi as the kernel takes them. */
export function slopesOf(alibi: AttentionOptions['alibi'], heads: number, dtype: DType): Tensor | null {
  if (alibi === undefined || alibi === null) return null;
  const argument = 'alibi';
  const wanted: DType = dtype === 'float64' ? 'float64' : 'float32';
  if (!(alibi instanceof Tensor) && !Array.isArray(alibi)) {
    throw new AttributeError({ op, argument, expected: 'a list or tensor of slopes', actual: formatValue(alibi) });
  }
  if (!(alibi instanceof Tensor)) alibi.forEach((slope, h) => checkNumber(op, `alibi[${h}]`, slope));
  const slopes =
    alibi instanceof Tensor ? alibi : tensor(Float64Array.from(alibi as readonly number[]), { dtype: wanted });
  if (!isFloating(slopes.dtype) || slopes.requiresGrad) {
    const actual = slopes.requiresGrad ? 'a tensor that requires a gradient' : slopes.dtype;
    throw new AttributeError({ op, argument, expected: 'fixed floating-point slopes', actual });
  }
  if (slopes.rank !== 1 || slopes.shape[0] !== heads) {
    throw new ShapeError({
      op,
      argument,
      expected: `${heads} slopes, one a query head`,
      actual: formatShape(slopes.shape),
    });
  }
  return to(slopes, wanted);
}

/** Offsets of packed sequences as the kernel takes them; those of a list are checked here, a tensor's by the kernel. */
function offsetsOf(argument: string, offsets: Tensor | readonly number[], rows: number): Tensor {
  if (offsets instanceof Tensor) {
    if (offsets.dtype !== 'int32' && offsets.dtype !== 'int64') {
      throw new AttributeError({ op, argument, expected: 'int32 offsets', actual: offsets.dtype });
    }
    if (offsets.rank !== 1 || offsets.size === 0) {
      throw new ShapeError({ op, argument, expected: 'one axis, not empty', actual: formatShape(offsets.shape) });
    }
    return to(offsets, 'int32');
  }
  const fits =
    Array.isArray(offsets) &&
    offsets.length > 0 &&
    offsets[0] === 0 &&
    offsets.at(-1) === rows &&
    offsets.every((at, n) => Number.isInteger(at) && (n === 0 || at >= offsets[n - 1]!));
  if (fits) return tensor(Int32Array.from(offsets));
  throw new AttributeError({
    op,
    argument,
    expected: `offsets that go from 0 to ${rows} without falling`,
    actual: formatValue(offsets),
  });
}

/** @internal Offsets of queries and keys, or two nulls. */
export function packing(
  { queryOffsets, keyOffsets, mask }: AttentionOptions,
  q: Tensor,
  k: Tensor,
): [Tensor | null, Tensor | null] {
  const own = queryOffsets ?? null;
  if (own === null) {
    if ((keyOffsets ?? null) === null) return [null, null];
    throw new AttributeError({ op, argument: 'keyOffsets', expected: 'queryOffsets too', actual: 'keyOffsets alone' });
  }
  if ((mask ?? null) !== null) {
    throw new AttributeError({ op, argument: 'mask', expected: 'none for packed sequences', actual: 'a mask' });
  }
  if (q.shape[0] !== 1) {
    throw new ShapeError({ op, argument: 'q', expected: 'batch 1 for packed sequences', actual: formatShape(q.shape) });
  }
  const queries = offsetsOf('queryOffsets', own, q.shape[2]!);
  const keys = offsetsOf('keyOffsets', keyOffsets ?? own, k.shape[2]!);
  if (queries.size !== keys.size) {
    const expected = `${queries.size} offsets, as queryOffsets has`;
    throw new ShapeError({ op, argument: 'keyOffsets', expected, actual: formatShape(keys.shape) });
  }
  return [queries, keys];
}

/** @internal */
export function generatorOf(generator: Generator | undefined): Generator {
  const stream = generator ?? defaultGenerator();
  if (stream instanceof Generator) return stream;
  throw new AttributeError({ op, argument: 'generator', expected: 'og.generator(seed)', actual: formatValue(stream) });
}

/** Start and end of the span that each query stands in, from lists of spans. */
function listedSpans(spans: unknown, queries: number, keys: readonly number[]): Tensor {
  const wrong = (b: number): never => {
    const actual = formatValue(b < 0 || !Array.isArray(spans) ? spans : spans[b]);
    const expected =
      b < 0
        ? `a list of spans for each of ${keys.length} sequences`
        : `[start, end) from 0 to ${keys[b]}, without overlap`;
    throw new AttributeError({ op, argument: b < 0 ? 'spans' : `spans[${b}]`, expected, actual });
  };
  if (!Array.isArray(spans) || spans.length !== keys.length) return wrong(-1);
  const sides = new Int32Array(2 * keys.length * queries);
  for (const [b, list] of (spans as readonly unknown[]).entries()) {
    if (!Array.isArray(list)) return wrong(b);
    const length = keys[b]!;
    const ordered = (list as readonly unknown[]).map((span) => (Array.isArray(span) ? span.map(Number) : []));
    ordered.sort((left, right) => left[0]! - right[0]! || left[1]! - right[1]!);
    let before = 0;
    for (const span of ordered) {
      const [start, end] = span as [number, number];
      if (span.length !== 2 || !span.every(Number.isInteger) || start < before || end < start || end > length) wrong(b);
      before = end;
      for (let place = Math.max(start, length - queries); place < end; place++)
        sides.set(span, 2 * (b * queries + place - length + queries));
    }
  }
  return tensor(sides, { shape: [keys.length, queries, 2] });
}

/** @internal Spans among so many keys a sequence as the kernel takes them, (B, T, 2); it checks those of a tensor itself. */
export function spansOf({ spans, keyOffsets }: AttentionOptions, q: Tensor, keys: readonly number[]): Tensor | null {
  if (spans === undefined || spans === null) return null;
  const argument = 'spans';
  const [batch, queries] = [q.shape[0]!, q.shape[2]!];
  if (!(spans instanceof Tensor)) {
    if ((keyOffsets ?? null) === null) return listedSpans(spans, queries, keys);
    const expected = 'a tensor where keys have offsets of their own';
    throw new AttributeError({ op, argument, expected, actual: 'lists' });
  }
  if (spans.dtype !== 'int32' && spans.dtype !== 'int64') {
    throw new AttributeError({ op, argument, expected: 'int32 starts and ends', actual: spans.dtype });
  }
  const lead = 3 - spans.rank;
  const wanted = [batch, queries, 2];
  if (spans.rank < 2 || spans.rank > 3 || spans.shape.some((length, i) => length !== wanted[lead + i])) {
    const expected = `${formatShape(wanted)} or ${formatShape(wanted.slice(1))}`;
    throw new ShapeError({ op, argument, expected, actual: formatShape(spans.shape) });
  }
  return to(spans.rank === 3 ? spans : expand(spans, wanted), 'int32');
}
