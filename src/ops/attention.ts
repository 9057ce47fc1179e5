/**
 * Scaled dot product attention, without a matrix of scores in memory.
 *
 * @module
 */
import { AttributeError, ShapeError } from '../errors.js';
import type { View } from '../runtime/queue.js';
import { arange } from '../tensor/create.js';
import { isFloating, promote, type DType } from '../tensor/dtype.js';
import { sameShape, type Shape } from '../tensor/shape.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { checkBoolean, checkInteger, checkNumber } from '../util/assert.js';
import { formatShape } from '../util/format.js';
import { add, div, mul, sub } from './arithmetic.js';
import { expand, sumTo } from './broadcast.js';
import { eq, gt, le, logicalAnd } from './comparison.js';
import { to } from './copy.js';
import { defineOp, type Inputs, type OutputSpec } from './define.js';
import { broadcastView } from './elementwise.js';
import { matmul } from './matmul.js';
import { amax, sum } from './reduce.js';
import { exp } from './unary.js';
import { detach, reshape, squeeze, transpose, unsqueeze } from './views.js';
import { where } from './where.js';

interface AttentionAttrs {
  readonly scale: number;
  readonly causal: boolean;
  /** 0: none. */
  readonly window: number;
}

interface BackwardAttrs extends AttentionAttrs {
  readonly wantsMask: boolean;
}

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

const scoresShape = (q: Tensor, k: Tensor): Shape => [q.shape[0]!, q.shape[1]!, q.shape[2]!, k.shape[2]!];

/** The mask in the shape of the scores. */
function maskView(mask: Tensor | null | undefined, q: Tensor, k: Tensor): View | null {
  return mask ? broadcastView(mask, scoresShape(q, k)) : null;
}

const encode = ({ scale, causal, window }: AttentionAttrs): readonly number[] => [scale, Number(causal), window];

/** Which keys each query may see by its place, [T, S]; null for all. */
function places(queries: number, keys: number, { causal, window }: AttentionAttrs): Tensor | null {
  if (!causal && window === 0) return null;
  const query = unsqueeze(arange(keys - queries, keys), 1);
  const key = unsqueeze(arange(keys), 0);
  const past = causal ? le(key, query) : null;
  const near = window > 0 ? gt(key, sub(query, window)) : null;
  return past && near ? logicalAnd(past, near) : (past ?? near);
}

/** x with its heads in groups, [B, Hkv, G, T, ·], so that keys and values broadcast over the group. */
function grouped(x: Tensor, groups: number): Tensor {
  const [batch, heads, length, width] = x.shape as readonly [number, number, number, number];
  return reshape(x, [batch, groups, heads / Math.max(groups, 1) || 0, length, width]);
}

/** Probabilities [B, Hkv, G, T, S] in operations; all 0 for a query that may see nothing. */
function probabilities(q: Tensor, k: Tensor, mask: Tensor | null, attrs: AttentionAttrs): Tensor {
  const groups = k.shape[1]!;
  let scores = mul(matmul(grouped(q, groups), transpose(unsqueeze(k, 2))), attrs.scale);
  const whole = mask === null ? null : grouped(broadcastMask(mask, q, k), groups);
  if (whole !== null) scores = whole.dtype === 'bool' ? where(whole, scores, -Infinity) : add(scores, whole);
  const seen = places(q.shape[2]!, k.shape[2]!, attrs);
  if (seen !== null) scores = where(seen, scores, -Infinity);
  if (scores.size === 0) return scores;
  const most = detach(amax(scores, -1, { keepDims: true }));
  const powers = exp(sub(scores, where(eq(most, -Infinity), 0, most)));
  const total = sum(powers, -1, { keepDims: true });
  return div(powers, where(eq(total, 0), 1, total));
}

function broadcastMask(mask: Tensor, q: Tensor, k: Tensor): Tensor {
  const shape = scoresShape(q, k);
  return sameShape(mask.shape, shape) ? mask : expand(mask, shape);
}

/** Attention in operations: the definition, and what runs for heads that are too wide for the kernel. */
function attentionParts(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | null, attrs: AttentionAttrs): Tensor {
  const y = matmul(probabilities(q, k, mask, attrs), unsqueeze(v, 2));
  return reshape(y, [...q.shape.slice(0, 3), v.shape[3]!]);
}

/** The gradients in operations, so that they can be differentiated again. */
function gradientParts([q, k, v, mask, , , grad]: Inputs, attrs: BackwardAttrs): Tensor[] {
  const groups = k!.shape[1]!;
  const p = probabilities(q!, k!, mask ?? null, attrs);
  const g = grouped(grad!, groups);
  const fromValues = matmul(g, transpose(unsqueeze(v!, 2)));
  const scores = mul(p, sub(fromValues, sum(mul(fromValues, p), -1, { keepDims: true })));
  const scaled = mul(scores, attrs.scale);
  const dq = reshape(matmul(scaled, unsqueeze(k!, 2)), q!.shape);
  const dk = sum(matmul(transpose(scaled), grouped(q!, groups)), 2);
  const dv = sum(matmul(transpose(p), g), 2);
  return [dq, dk, dv, ...(attrs.wantsMask ? [reshape(scores, scoresShape(q!, k!))] : [])];
}

const pairFlops = (q: Tensor, k: Tensor, v: Tensor, { causal, window }: AttentionAttrs): number => {
  const [queries, keys] = [q.shape[2]!, k.shape[2]!];
  const all = causal ? queries * Math.max(keys - queries / 2, 0) : queries * keys;
  const pairs = window > 0 ? Math.min(all, queries * window) : all;
  return 2 * q.shape[0]! * q.shape[1]! * pairs * (q.shape[3]! + v.shape[3]!);
};

const attentionBackward = defineOp<BackwardAttrs>({
  name: 'attention_backward',
  inputs: [
    { name: 'q', kind: 'float' },
    { name: 'k', kind: 'float' },
    { name: 'v', kind: 'float' },
    { name: 'mask', kind: 'any', optional: true },
    { name: 'y', kind: 'float' },
    { name: 'lse', kind: 'float' },
    { name: 'grad', kind: 'float' },
  ],
  attrCount: 3,
  outputCount: 4,
  output: ([q, k, v], { wantsMask }) => [
    headsInside(q!.shape, q!.dtype),
    headsInside(k!.shape, k!.dtype),
    headsInside(v!.shape, v!.dtype),
    wantsMask ? { shape: scoresShape(q!, k!), dtype: q!.dtype } : null,
  ],
  operands: ([q, k, v, mask, y, lse, grad]) => [q!, k!, v!, maskView(mask, q!, k!), y!, lse!, grad!],
  encode,
  definition: gradientParts,
  cost: ([q, k, v], _outputs, attrs) => ({
    flops: 2.5 * pairFlops(q!, k!, v!, attrs),
    bytes: 3 * (q!.bytes + k!.bytes + v!.bytes),
  }),
});

const attentionOp = defineOp<AttentionAttrs>({
  name: 'attention',
  inputs: [
    { name: 'q', kind: 'float' },
    { name: 'k', kind: 'float' },
    { name: 'v', kind: 'float' },
    { name: 'mask', kind: 'any', optional: true },
  ],
  attrCount: 3,
  outputCount: 2,
  output: ([q, , v]) => [
    headsInside([...q!.shape.slice(0, 3), v!.shape[3]!], q!.dtype),
    { shape: q!.shape.slice(0, 3), dtype: q!.dtype === 'float64' ? 'float64' : 'float32' },
  ],
  operands: ([q, k, v, mask]) => [q!, k!, v!, maskView(mask, q!, k!)],
  encode,
  saves: ([q, k, v, mask], [y, lse]) => [q!, k!, v!, mask ?? null, y!, lse!],
  backward: ({ grad, saved, attrs, needs }) => {
    const wantsMask = needs(3);
    const [dq, dk, dv, dmask] = attentionBackward.callAll([...saved, grad], { ...attrs, wantsMask });
    return [dq, dk, dv, dmask ? to(sumTo(dmask, saved[3]!.shape), saved[3]!.dtype) : null];
  },
  definition: ([q, k, v, mask], attrs) => attentionParts(q!, k!, v!, mask ?? null, attrs),
  cost: ([q, k, v], [y], attrs) => ({
    flops: pairFlops(q!, k!, v!, attrs),
    bytes: q!.bytes + k!.bytes + v!.bytes + y!.bytes,
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
}

const names = ['q', 'k', 'v'] as const;

function checkShapes(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | null): void {
  const op = 'scaledDotProductAttention';
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

/**
 * softmax(scale · q kᵀ + mask) v. Query head h reads key and value head ⌊h / (Hq / Hkv)⌋, so fewer key heads than query heads mean
 * grouped or multi-query attention. A query that may see nothing gives 0. Memory does not grow with T·S; values at places that
 * are masked must be finite.
 *
 * The result lies in (B, T, H, D) order: `y.transpose(1, 2).reshape(…)` copies nothing.
 *
 * @shape q: (B, Hq, T, D), k: (B, Hkv, S, D), v: (B, Hkv, S, Dv) → (B, Hq, T, Dv); leading axes may be left out of all
 * @dtype floats, promoted; computes in float32 (float64 in float64)
 * @throws ShapeError if the shapes do not match
 * @source arXiv 1706.03762, 2307.08691
 * @cost 2·B·Hq·T·S·(D + Dv) flops, half of it when causal
 */
export function scaledDotProductAttention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): Tensor {
  const op = 'scaledDotProductAttention';
  const mask = options.mask ?? null;
  checkShapes(q, k, v, mask);
  const width = q.shape.at(-1)!;
  const attrs: AttentionAttrs = {
    scale: checkNumber(op, 'scale', options.scale ?? 1 / Math.sqrt(Math.max(width, 1))),
    causal: checkBoolean(op, 'causal', options.causal ?? false),
    window: options.window === undefined || options.window === null ? 0 : checkInteger(op, 'window', options.window, 1),
  };
  if (mask !== null && mask.dtype !== 'bool' && !isFloating(mask.dtype)) {
    throw new AttributeError({ op, argument: 'mask', expected: 'a bool or floating-point tensor', actual: mask.dtype });
  }
  const dtype = promote(promote(q.dtype, k.dtype), v.dtype);
  const [a, b, c] = [q, k, v].map((x) => toFour(to(x, dtype))) as [Tensor, Tensor, Tensor];
  // The kernel mixes floats of up to 32 bits
  const wide = mask !== null && mask.dtype !== 'bool' && (dtype === 'float64') !== (mask.dtype === 'float64');
  const bias = wide ? to(mask, dtype) : mask;
  const y =
    width > MAX_WIDTH || c.shape[3]! > MAX_WIDTH ? attentionParts(a, b, c, bias, attrs) : fused([a, b, c, bias], attrs);
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
