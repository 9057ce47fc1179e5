/**
 * Scaled dot product attention, without a matrix of scores in memory.
 *
 * @module
 */
import { AttributeError, ShapeError } from '../errors.js';
import type { View } from '../runtime/queue.js';
import { isFloating, promote, type DType } from '../tensor/dtype.js';
import { sizeOf, type Shape } from '../tensor/shape.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { formatShape } from '../util/format.js';
import { mul } from './arithmetic.js';
import {
  attentionParts,
  attentionScoreParts,
  gradientParts,
  scoresShape,
  type AttentionAttrs,
  type BackwardAttrs,
} from './attention_parts.js';
import { generatorOf, packing, readOptions, slopesOf, spansOf, type AttentionOptions } from './attention_options.js';
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
  { name: 'spans', kind: 'integer', optional: true },
];

const sharedOperands = ([q, k, v, mask, slopes, queryOffsets, keyOffsets, spans]: Inputs): (View | null)[] => [
  q!,
  k!,
  v!,
  maskView(mask, q!, k!),
  slopes ?? null,
  queryOffsets ?? null,
  keyOffsets ?? null,
  spans ?? null,
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
  operands: (inputs) => [...sharedOperands(inputs), ...inputs.slice(sharedInputs.length)],
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
    return [dq, dk, dv, dmask ? to(sumTo(dmask, saved[3]!.shape), saved[3]!.dtype) : null];
  },
  definition: attentionParts,
  cost: (inputs, [y], attrs) => ({
    flops: pairFlops(inputs, attrs),
    bytes: inputs[0]!.bytes + inputs[1]!.bytes + inputs[2]!.bytes + y!.bytes,
  }),
});

export type { AttentionOptions } from './attention_options.js';

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
  checkMask(mask, [...q.shape.slice(0, -1), k.shape.at(-2)!]);
}

/** @internal @throws unless a mask is bool or of floats and broadcasts to the scores */
export function checkMask(mask: Tensor | null, scores: Shape): void {
  if (mask === null) return;
  const argument = 'mask';
  checkTensor(op, argument, mask);
  const lead = scores.length - mask.rank;
  if (lead < 0 || mask.shape.some((length, i) => length !== 1 && length !== scores[lead + i])) {
    const expected = `a shape that broadcasts to ${formatShape(scores)}`;
    throw new ShapeError({ op, argument, expected, actual: formatShape(mask.shape) });
  }
  if (mask.dtype === 'bool' || isFloating(mask.dtype)) return;
  throw new AttributeError({ op, argument, expected: 'a bool or floating-point tensor', actual: mask.dtype });
}

/** `x` with axes of length 1 in front, up to four. */
function toFour(x: Tensor): Tensor {
  return x.rank === 4 ? x : reshape(x, [...new Array<number>(4 - x.rank).fill(1), ...x.shape]);
}

/** The kernel's inputs and attributes, checked; the stream of dropped weights is not drawn yet. */
function prepare(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: AttentionOptions,
): { inputs: Inputs; attrs: AttentionAttrs } {
  const mask = options.mask ?? null;
  checkShapes(q, k, v, mask);
  const width = q.shape.at(-1)!;
  const attrs = readOptions(options, width);
  const dtype = promote(promote(q.dtype, k.dtype), v.dtype);
  const [a, b, c] = [q, k, v].map((x) => toFour(to(x, dtype))) as [Tensor, Tensor, Tensor];
  // The kernel mixes floats of up to 32 bits
  const wide = mask !== null && mask.dtype !== 'bool' && (dtype === 'float64') !== (mask.dtype === 'float64');
  const bias = wide ? to(mask, dtype) : mask;
  const inputs = [
    a,
    b,
    c,
    bias,
    slopesOf(options.alibi, a.shape[1]!, dtype),
    ...packing(options, a, b),
    spansOf(options, a, new Array<number>(a.shape[0]!).fill(b.shape[2]!)),
  ];
  return { inputs, attrs };
}

/**
 * @internal The scores that softmax turns into the weights of {@link scaledDotProductAttention}, with −∞ where a query may not look.
 * They are held in memory, all of them. Options of dropout are of no effect.
 *
 * @shape q: (B, Hq, T, D), k: (B, Hkv, S, D) → (B, Hq, T, S)
 */
export function attentionScores(q: Tensor, k: Tensor, options: AttentionOptions = {}): Tensor {
  const { inputs, attrs } = prepare(q, k, k, options);
  return attentionScoreParts(inputs, attrs);
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
 * @throws AttributeError when the result is read at the latest, if offsets in a tensor do not go from 0 to the end without falling,
 *   or spans in a tensor do not hold their queries or overlap
 * @source arXiv 1706.03762, 2307.08691; soft cap 2408.00118; ALiBi 2108.12409
 * @cost 2·B·Hq·T·S·(D + Dv) flops, half of it when causal
 */
export function scaledDotProductAttention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): Tensor {
  const { inputs, attrs } = prepare(q, k, v, options);
  const [a, b, c] = inputs as [Tensor, Tensor, Tensor];
  const drawn =
    attrs.dropout > 0 ? { ...attrs, stream: generatorOf(options.generator).take(sizeOf(scoresShape(a, b))) } : attrs;
  const made =
    a.shape[3]! > MAX_WIDTH || c.shape[3]! > MAX_WIDTH ? attentionParts(inputs, drawn) : fused(inputs, drawn);
  const y = options.dropout === 1 ? mul(made, 0) : made;
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
