/**
 * Attention in operations: the definition of the fused kernels, and what runs for heads that are too wide for them.
 *
 * @module
 */
import { arange, ones } from '../tensor/create.js';
import { sameShape, type Shape } from '../tensor/shape.js';
import type { Tensor } from '../tensor/tensor.js';
import { tanh } from './activation.js';
import { add, div, mul, sub } from './arithmetic.js';
import { expand } from './broadcast.js';
import { eq, gt, le, logicalAnd, logicalOr, lt } from './comparison.js';
import { to } from './copy.js';
import type { Inputs } from './define.js';
import { dropWith, type DropoutStream } from './dropout.js';
import { indexSelect } from './indexing.js';
import { matmul } from './matmul.js';
import { amax, sum } from './reduce.js';
import { abs, exp, square } from './unary.js';
import { detach, narrow, reshape, transpose, unsqueeze } from './views.js';
import { where } from './where.js';

/** What an attention does besides its operands. */
export interface AttentionAttrs {
  readonly scale: number;
  readonly causal: boolean;
  /** 0: none. */
  readonly window: number;
  /** 0: none. */
  readonly softCap: number;
  /** Probability of dropping a weight, below 1. */
  readonly dropout: number;
  /** Seed and counter of the dropped weights. */
  readonly stream: DropoutStream;
}

/** Attributes of the gradient. */
export interface BackwardAttrs extends AttentionAttrs {
  readonly wantsMask: boolean;
}

/** [B, Hq, T, S]. */
export const scoresShape = (q: Tensor, k: Tensor): Shape => [q.shape[0]!, q.shape[1]!, q.shape[2]!, k.shape[2]!];

/** Tensors that say how scores are made: as the kernels take them behind q, k and v. */
interface Extras {
  readonly mask: Tensor | null;
  readonly slopes: Tensor | null;
  readonly queryOffsets: Tensor | null;
  readonly keyOffsets: Tensor | null;
  /** [B, T, 2]: from and to of the keys that a query sees besides. */
  readonly spans: Tensor | null;
}

const extrasOf = ([, , , mask, slopes, queryOffsets, keyOffsets, spans]: Inputs): Extras => ({
  mask: mask ?? null,
  slopes: slopes ?? null,
  queryOffsets: queryOffsets ?? null,
  keyOffsets: keyOffsets ?? null,
  spans: spans ?? null,
});

/** One more than the number of the sequence that each of `count` rows belongs to; empty sequences are counted. */
function sequenceOf(offsets: Tensor, count: number): Tensor {
  return to(sum(to(le(unsqueeze(offsets, 1), unsqueeze(arange(count), 0)), 'int32'), 0), 'int32');
}

/** Where each query stands among the keys, [T, 1], and which keys belong to its sequence, [T, S] (null: all). */
function standing(queries: number, keys: number, { queryOffsets, keyOffsets }: Extras): [Tensor, Tensor | null] {
  if (queryOffsets === null || keyOffsets === null) return [unsqueeze(arange(keys - queries, keys), 1), null];
  const own = sequenceOf(queryOffsets, queries);
  const ends = sub(keyOffsets, queryOffsets);
  const place = add(arange(queries), to(indexSelect(ends, 0, own), 'float32'));
  return [unsqueeze(place, 1), eq(unsqueeze(own, 1), unsqueeze(sequenceOf(keyOffsets, keys), 0))];
}

/** Which keys each query may see by its place, [T, S], or [B, 1, 1, T, S] with spans; null for all. */
function places(
  query: Tensor,
  within: Tensor | null,
  spans: Tensor | null,
  keys: number,
  { causal, window }: AttentionAttrs,
): Tensor | null {
  const key = unsqueeze(arange(keys), 0);
  const conditions = [within, causal ? le(key, query) : null, window > 0 ? gt(key, sub(query, window)) : null].filter(
    (condition) => condition !== null,
  );
  if (conditions.length === 0) return null;
  const near = conditions.reduce((a, b) => logicalAnd(a, b));
  if (spans === null) return near;
  const [batch, queries] = spans.shape as readonly [number, number];
  const side = (which: number): Tensor => to(reshape(narrow(spans, 2, which, 1), [batch, 1, 1, queries, 1]), 'float32');
  return logicalOr(near, logicalAnd(le(side(0), key), lt(key, side(1))));
}

/** x with its heads in groups, [B, Hkv, G, T, ·], so that keys and values broadcast over the group. */
function grouped(x: Tensor, groups: number): Tensor {
  const [batch, heads, length, width] = x.shape as readonly [number, number, number, number];
  return reshape(x, [batch, groups, heads / Math.max(groups, 1) || 0, length, width]);
}

interface Weights {
  /** Probabilities [B, Hkv, G, T, S]; all 0 for a query that may see nothing. */
  readonly p: Tensor;
  /** Derivative of the soft cap; null without one. */
  readonly bend: Tensor | null;
}

/** Scores as softmax takes them, [B, Hkv, G, T, S]: −∞ where a query may not look. */
function scoresOf(
  q: Tensor,
  k: Tensor,
  extras: Extras,
  attrs: AttentionAttrs,
): { scores: Tensor; bend: Tensor | null } {
  const groups = k.shape[1]!;
  const [queries, keys] = [q.shape[2]!, k.shape[2]!];
  let scores = mul(matmul(grouped(q, groups), transpose(unsqueeze(k, 2))), attrs.scale);
  let bend: Tensor | null = null;
  if (attrs.softCap > 0) {
    const t = tanh(div(scores, attrs.softCap));
    scores = mul(t, attrs.softCap);
    bend = sub(1, square(t));
  }
  const [query, within] = standing(queries, keys, extras);
  if (extras.slopes !== null) {
    const distance = to(abs(sub(query, unsqueeze(arange(keys), 0))), scores.dtype);
    const slopes = reshape(to(extras.slopes, scores.dtype), [groups, q.shape[1]! / Math.max(groups, 1) || 0, 1, 1]);
    scores = sub(scores, mul(slopes, distance));
  }
  const whole = extras.mask === null ? null : grouped(broadcastMask(extras.mask, q, k), groups);
  if (whole !== null) scores = whole.dtype === 'bool' ? where(whole, scores, -Infinity) : add(scores, whole);
  const seen = places(query, within, extras.spans, keys, attrs);
  return { scores: seen === null ? scores : where(seen, scores, -Infinity), bend };
}

/** Scores of the kernel's inputs, [B, Hq, T, S]: −∞ where a query may not look. */
export function attentionScoreParts(inputs: Inputs, attrs: AttentionAttrs): Tensor {
  const [q, k] = inputs as [Tensor, Tensor];
  return reshape(scoresOf(q, k, extrasOf(inputs), attrs).scores, scoresShape(q, k));
}

function weights(q: Tensor, k: Tensor, extras: Extras, attrs: AttentionAttrs): Weights {
  const { scores, bend } = scoresOf(q, k, extras, attrs);
  if (scores.size === 0) return { p: scores, bend };
  const most = detach(amax(scores, -1, { keepDims: true }));
  const powers = exp(sub(scores, where(eq(most, -Infinity), 0, most)));
  const total = sum(powers, -1, { keepDims: true });
  return { p: div(powers, where(eq(total, 0), 1, total)), bend };
}

function broadcastMask(mask: Tensor, q: Tensor, k: Tensor): Tensor {
  const shape = scoresShape(q, k);
  return sameShape(mask.shape, shape) ? mask : expand(mask, shape);
}

/** y of attention, of the kernel's inputs. */
export function attentionParts(inputs: Inputs, attrs: AttentionAttrs): Tensor {
  const [q, k, v] = inputs as [Tensor, Tensor, Tensor];
  const { p } = weights(q, k, extrasOf(inputs), attrs);
  const used = attrs.dropout > 0 ? dropWith(p, attrs.dropout, attrs.stream) : p;
  return reshape(matmul(used, unsqueeze(v, 2)), [...q.shape.slice(0, 3), v.shape[3]!]);
}

/** The gradients in operations, so that they can be differentiated again. */
export function gradientParts(inputs: Inputs, attrs: BackwardAttrs): Tensor[] {
  const [q, k, v] = inputs as [Tensor, Tensor, Tensor];
  const groups = k.shape[1]!;
  const { p, bend } = weights(q, k, extrasOf(inputs), attrs);
  const kept = attrs.dropout > 0 ? dropWith(ones(p.shape, { dtype: p.dtype }), attrs.dropout, attrs.stream) : null;
  const drop = (x: Tensor): Tensor => (kept === null ? x : mul(x, kept));
  const g = grouped(inputs[10]!, groups);
  const fromValues = drop(matmul(g, transpose(unsqueeze(v, 2))));
  const scores = mul(p, sub(fromValues, sum(mul(fromValues, p), -1, { keepDims: true })));
  const scaled = mul(bend === null ? scores : mul(scores, bend), attrs.scale);
  const dq = reshape(matmul(scaled, unsqueeze(k, 2)), q.shape);
  const dk = sum(matmul(transpose(scaled), grouped(q, groups)), 2);
  const dv = sum(matmul(transpose(drop(p)), g), 2);
  return [dq, dk, dv, ...(attrs.wantsMask ? [reshape(scores, scoresShape(q, k))] : [])];
}
