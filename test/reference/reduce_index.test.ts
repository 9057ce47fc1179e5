/** Reductions, order, running sums, indexing, joining: against PyTorch. */
import * as og from '../../src/index.js';
import { testGroup, type Attributes, type Operation } from '../helpers/reference.js';

const axes = (dim: number | readonly number[] | null): number | readonly number[] | undefined => dim ?? undefined;
const keep = ({ keepdim }: Attributes): { keepDims: boolean } => ({ keepDims: Boolean(keepdim) });
const pair = ({ values, indices }: og.ValuesAndIndices): Record<string, og.Tensor> => ({ values, indices });
const numbered = (parts: og.Tensor[]): Record<string, og.Tensor> =>
  Object.fromEntries(parts.map((part, i) => [`y${i}`, part]));

const operations: Record<string, Operation> = {
  sum: ({ x }, a) => og.sum(x!, axes(a.dim), keep(a)),
  mean: ({ x }, a) => og.mean(x!, axes(a.dim), keep(a)),
  amax: ({ x }, a) => og.amax(x!, axes(a.dim), keep(a)),
  amin: ({ x }, a) => og.amin(x!, axes(a.dim), keep(a)),
  var: ({ x }, a) => og.variance(x!, axes(a.dim), { ...keep(a), correction: a.correction }),
  std: ({ x }, a) => og.std(x!, axes(a.dim), { ...keep(a), correction: a.correction }),
  prod: ({ x }, a) => og.prod(x!, axes(a.dim), keep(a)),
  norm: ({ x }, a) => og.norm(x!, a.p === 'inf' ? Infinity : Number(a.p), axes(a.dim), keep(a)),
  argmax: ({ x }, a) => og.argmax(x!, a.dim ?? undefined, keep(a)),
  argmin: ({ x }, a) => og.argmin(x!, a.dim ?? undefined, keep(a)),
  max_dim: ({ x }, a) => pair(og.maxWithIndices(x!, a.dim)),
  topk: ({ x }, a) => pair(og.topk(x!, a.k, { axis: a.dim, largest: a.largest })),
  sort: ({ x }, a) => pair(og.sort(x!, a.dim, a.descending)),
  cumsum: ({ x }, a) => og.cumsum(x!, a.dim),
  cumprod: ({ x }, a) => og.cumprod(x!, a.dim),
  gather: ({ x, i }, a) => og.gather(x!, a.dim, i!),
  scatter: ({ x, i, s }, a) => og.scatter(x!, a.dim, i!, s!),
  scatter_add: ({ x, i, s }, a) => og.scatterAdd(x!, a.dim, i!, s!),
  index_select: ({ x, i }, a) => og.indexSelect(x!, a.dim, i!),
  index_add: ({ x, i, s }, a) => og.indexAdd(x!, a.dim, i!, s!),
  embedding: ({ w, i }, a) => {
    // The row of the padding index takes part in the look-up and gets no gradient.
    if (a.padding_idx === undefined) return lookUp(w!, i!);
    const padded = og.eq(i!, a.padding_idx).unsqueeze(-1);
    return og.where(padded, lookUp(w!.detach(), i!), lookUp(w!, i!));
  },
  one_hot: ({ i }, a) => og.oneHot(i!, a.classes),
  any_all: ({ m }, a) => ({ any: og.any(m!, a.dim), all: og.all(m!, a.dim) }),
  concat: ({ a: first, b }, a) => og.concat([first!, b!], a.dim),
  stack: ({ a: first, b }, a) => og.stack([first!, b!], a.dim),
  split: ({ x }, a) => numbered(og.split(x!, a.sizes, a.dim)),
  chunk: ({ x }, a) => numbered(og.chunk(x!, a.chunks, a.dim)),
  tril: ({ x }, a) => og.tril(x!, a.diagonal),
  triu: ({ x }, a) => og.triu(x!, a.diagonal),
  roll: ({ x }, a) => og.roll(x!, a.shifts, a.dims),
  flip: ({ x }, a) => og.flip(x!, a.dims),
  repeat: ({ x }, a) => og.repeat(x!, a.repeats),
  repeat_interleave: ({ x }, a) => og.repeatInterleave(x!, a.repeats, a.dim),
  permute: ({ x }, a) => og.permute(x!, a.dims),
  diagonal: ({ x }, a) => og.diagonal(x!, a.offset),
};

function lookUp(weight: og.Tensor, index: og.Tensor): og.Tensor {
  return og.indexSelect(weight, 0, index.reshape([-1])).reshape([...index.shape, weight.shape[1]!]);
}

testGroup('ops/ops_reduce_index', operations);
