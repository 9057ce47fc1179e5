/**
 * Scaled dot product attention, without a matrix of scores in memory.
 *
 * @module
 */
import { AttributeError, ShapeError } from '../errors.js';
import type { View } from '../runtime/queue.js';
import { tensor } from '../tensor/create.js';
import { isFloating, promote, type DType } from '../tensor/dtype.js';
import { Generator, defaultGenerator } from '../tensor/random.js';
import { sizeOf, type Shape } from '../tensor/shape.js';
import { Tensor, checkTensor } from '../tensor/tensor.js';
import { checkBoolean, checkInteger, checkNumber } from '../util/assert.js';
import { formatShape, formatValue } from '../util/format.js';
import { mul } from './arithmetic.js';
import {
  attentionParts,
  gradientParts,
  scoresShape,
  type AttentionAttrs,
  type BackwardAttrs,
} from './attention_parts.js';
import { sumTo } from './broadcast.js';
import { to } from './copy.js';
import { defineOp, type InputSpec, type Inputs, type OutputSpec } from './define.js';
import { broadcastView } from './elementwise.js';
import { reshape, squeeze } from './views.js';

/** Widest head of the fused kernels; wider ones run as {@link attentionParts}. */
const MAX_WIDTH = 256;

/** [B, H, T, D] in [B, T, H, D] memory: the transpose and reshape that follow, or came before, cost nothing. */
function headsInside([batch, heads, length, width]: Shape, dtype: DType): OutputSpec {
  return {
    shape: [batch!, heads!, length!, width!],
    strides: [length! * heads! * width!, width!, heads! * width!, 1],
    dtype,
  };
}

/** The mask in the shape of the scores. */
function maskView(mask: Tensor | null | undefined, q: Tensor, k: Tensor): View | null {
  return mask ? broadcastView(mask, scoresShape(q, k)) : null;
}

const encode = ({ scale, causal, window, softCap, dropout, stream }: AttentionAttrs): readonly number[] => [
  scale,
  Number(causal),
  window,
  softCap,
  dropout,
  ...stream,
];

/** What both kernels begin with. */
const sharedInputs: readonly InputSpec[] = [
  { name: 'q', kind: 'float' },
  { name: 'k', kind: 'float' },
  { name: 'v', kind: 'float' },
  { name: 'mask', kind: 'any', optional: true },
  { name: 'slopes', kind: 'float', optional: true },
  { name: 'queryOffsets', kind: 'integer', optional: true },
  { name: 'keyOffsets', kind: 'integer', optional: true },
];

const sharedOperands = ([q, k, v, mask, slopes, queryOffsets, keyOffsets]: Inputs): (View | null)[] => [
  q!,
  k!,
  v!,
  maskView(mask, q!, k!),
  slopes ?? null,
  queryOffsets ?? null,
  keyOffsets ?? null,
];

/** Of sequences of equal length, where they are packed. */
const pairFlops = ([q, k, v, , , offsets]: Inputs, { causal, window }: AttentionAttrs): number => {
  const sequences = Math.max((offsets?.size ?? 2) - 1, 1);
  const [queries, keys] = [q!.shape[2]!, k!.shape[2]! / sequences];
  const all = causal ? queries * Math.max(keys - queries / 2, 0) : queries * keys;
  const pairs = window > 0 ? Math.min(all, queries * window) : all;
  return 2 * q!.shape[0]! * q!.shape[1]! * pairs * (q!.shape[3]! + v!.shape[3]!);
};

const attentionBackward = defineOp<BackwardAttrs>({
  name: 'attention_backward',
  inputs: [
    ...sharedInputs,
    { name: 'y', kind: 'float' },
    { name: 'lse', kind: 'float' },
    { name: 'grad', kind: 'float' },
  ],
  attrCount: 9,
  outputCount: 4,
  output: ([q, k, v], { wantsMask }) => [
    headsInside(q!.shape, q!.dtype),
    headsInside(k!.shape, k!.dtype),
    headsInside(v!.shape, v!.dtype),
    wantsMask ? { shape: scoresShape(q!, k!), dtype: q!.dtype } : null,
  ],
  operands: (inputs) => [...sharedOperands(inputs), ...inputs.slice(7)],
  encode,
  definition: gradientParts,
  cost: (inputs, _outputs, attrs) => ({
    flops: 2.5 * pairFlops(inputs, attrs),
    bytes: 3 * (inputs[0]!.bytes + inputs[1]!.bytes + inputs[2]!.bytes),
  }),
});

const attentionOp = defineOp<AttentionAttrs>({
  name: 'attention',
  inputs: sharedInputs,
  attrCount: 9,
  outputCount: 2,
  output: ([q, , v]) => [
    headsInside([...q!.shape.slice(0, 3), v!.shape[3]!], q!.dtype),
    { shape: q!.shape.slice(0, 3), dtype: q!.dtype === 'float64' ? 'float64' : 'float32' },
  ],
  operands: sharedOperands,
  encode,
  saves: (inputs, [y, lse]) => [...sharedInputs.map((_, i) => inputs[i] ?? null), y!, lse!],
  backward: ({ grad, saved, attrs, needs }) => {
    const wantsMask = needs(3);
    const [dq, dk, dv, dmask] = attentionBackward.callAll([...saved, grad], { ...attrs, wantsMask });
    return [dq, dk, dv, dmask ? to(sumTo(dmask, saved[3]!.shape), saved[3]!.dtype) : null, null, null, null];
  },
  definition: attentionParts,
  cost: (inputs, [y], attrs) => ({
    flops: pairFlops(inputs, attrs),
    bytes: inputs[0]!.bytes + inputs[1]!.bytes + inputs[2]!.bytes + y!.bytes,
  }),
});

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
}

const op = 'scaledDotProductAttention';
const names = ['q', 'k', 'v'] as const;

function checkShapes(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | null): void {
  [q, k, v].forEach((x, i) => {
    checkTensor(op, names[i]!, x);
    if (x.rank === q.rank && x.rank >= 2 && x.rank <= 4) return;
    const expected = i === 0 ? 'shape [batch, heads, length, width]' : `${q.rank} axes, as q has`;
    throw new ShapeError({ op, argument: names[i]!, expected, actual: formatShape(x.shape) });
  });
  const fail = (argument: string, expected: string, x: Tensor): never => {
    throw new ShapeError({ op, argument, expected, actual: formatShape(x.shape) });
  };
  if (k.shape.at(-1) !== q.shape.at(-1)) fail('k', `last axis ${q.shape.at(-1)} to match q`, k);
  if (v.shape.at(-2) !== k.shape.at(-2)) fail('v', `second-to-last axis ${k.shape.at(-2)} to match k`, v);
  if (q.rank >= 3) {
    const [own, shared] = [q.shape.at(-3)!, k.shape.at(-3)!];
    if (own !== shared && (shared === 0 || own % shared !== 0)) fail('k', `a number of heads that divides ${own}`, k);
    if (v.shape.at(-3) !== shared) fail('v', `${shared} heads, as k has`, v);
  }
  if (q.rank === 4)
    for (const [i, x] of [k, v].entries()) if (x.shape[0] !== q.shape[0]) fail(names[i + 1]!, `batch ${q.shape[0]}`, x);
  if (mask === null) return;
  checkTensor(op, 'mask', mask);
  const scores = [...q.shape.slice(0, -1), k.shape.at(-2)!];
  const lead = scores.length - mask.rank;
  if (lead < 0 || mask.shape.some((length, i) => length !== 1 && length !== scores[lead + i])) {
    fail('mask', `a shape that broadcasts to ${formatShape(scores)}`, mask);
  }
}

/** `x` with axes of length 1 in front, up to four. */
function toFour(x: Tensor): Tensor {
  return x.rank === 4 ? x : reshape(x, [...new Array<number>(4 - x.rank).fill(1), ...x.shape]);
}

/** Slopes of ALiBi as the kernel takes them. */
function slopesOf(alibi: AttentionOptions['alibi'], heads: number, dtype: DType): Tensor | null {
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

function packing(
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

function generatorOf(generator: Generator | undefined): Generator {
  const stream = generator ?? defaultGenerator();
  if (stream instanceof Generator) return stream;
  throw new AttributeError({ op, argument: 'generator', expected: 'og.generator(seed)', actual: formatValue(stream) });
}

/**
 * dropout(softmax(cap(scale · q kᵀ) − slopes · distance + mask)) v. Query head h reads key and value head ⌊h / (Hq / Hkv)⌋, so
 * fewer key heads than query heads mean grouped or multi-query attention. A query that may see nothing gives 0. Memory does not
 * grow with T·S; values at places that are masked must be finite.
 *
 * The result lies in (B, T, H, D) order: `y.transpose(1, 2).reshape(…)` copies nothing.
 *
 * @shape q: (B, Hq, T, D), k: (B, Hkv, S, D), v: (B, Hkv, S, Dv) → (B, Hq, T, Dv); leading axes may be left out of all
 * @dtype floats, promoted; computes in float32 (float64 in float64)
 * @throws ShapeError if the shapes do not match
 * @throws AttributeError if an option is outside its domain
 * @throws AttributeError when the result is read at the latest, if offsets in a tensor do not go from 0 to the end without falling
 * @source arXiv 1706.03762, 2307.08691; soft cap 2408.00118; ALiBi 2108.12409
 * @cost 2·B·Hq·T·S·(D + Dv) flops, half of it when causal
 */
export function scaledDotProductAttention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): Tensor {
  const mask = options.mask ?? null;
  checkShapes(q, k, v, mask);
  const width = q.shape.at(-1)!;
  const optional = (name: 'window' | 'softCap'): number | null => options[name] ?? null;
  const [window, cap] = [optional('window'), optional('softCap')];
  const p = checkNumber(op, 'dropout', options.dropout ?? 0, 0, 1);
  const attrs: AttentionAttrs = {
    scale: checkNumber(op, 'scale', options.scale ?? 1 / Math.sqrt(Math.max(width, 1))),
    causal: checkBoolean(op, 'causal', options.causal ?? false),
    window: window === null ? 0 : checkInteger(op, 'window', window, 1),
    softCap: cap === null ? 0 : checkNumber(op, 'softCap', cap, 1e-3, 1e30),
    dropout: p === 1 ? 0 : p,
    stream: [0, 0, 0, 0],
  };
  if (mask !== null && mask.dtype !== 'bool' && !isFloating(mask.dtype)) {
    throw new AttributeError({ op, argument: 'mask', expected: 'a bool or floating-point tensor', actual: mask.dtype });
  }
  const dtype = promote(promote(q.dtype, k.dtype), v.dtype);
  const [a, b, c] = [q, k, v].map((x) => toFour(to(x, dtype))) as [Tensor, Tensor, Tensor];
  // The kernel mixes floats of up to 32 bits
  const wide = mask !== null && mask.dtype !== 'bool' && (dtype === 'float64') !== (mask.dtype === 'float64');
  const bias = wide ? to(mask, dtype) : mask;
  const inputs = [a, b, c, bias, slopesOf(options.alibi, a.shape[1]!, dtype), ...packing(options, a, b)];
  const drawn =
    attrs.dropout > 0 ? { ...attrs, stream: generatorOf(options.generator).take(sizeOf(scoresShape(a, b))) } : attrs;
  const made = width > MAX_WIDTH || c.shape[3]! > MAX_WIDTH ? attentionParts(inputs, drawn) : fused(inputs, drawn);
  const y = p === 1 ? mul(made, 0) : made;
  const extra = 4 - q.rank;
  return extra === 0
    ? y
    : squeeze(
        y,
        Array.from({ length: extra }, (_, i) => i),
      );
}

function fused(inputs: Inputs, attrs: AttentionAttrs): Tensor {
  const [y, lse] = attentionOp.callAll(inputs, attrs);
  lse!.dispose();
  return y!;
}
