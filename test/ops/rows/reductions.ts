/** Reductions, scans, normalisation and orderings: one axis or several go, or are rewritten as a whole. */
import * as og from '../../../src/index.js';
import { fold, lines, map, type Nd, type Row, type Shape } from '../row.js';

const shapes: readonly (readonly Shape[])[] = [[[3, 5]], [[0, 4]], [[1, 1]], [[2, 17]], [[3, 33]]];
const large: readonly Shape[] = [[259, 131]];

export const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);
export const mean = (values: readonly number[]): number => sum(values) / values.length;
const squares = (values: readonly number[], centre: number): number => sum(values.map((x) => (x - centre) ** 2));
const variance = (values: readonly number[]): number => squares(values, mean(values)) / (values.length - 1);
const logsumexp = (values: readonly number[]): number => Math.log(sum(values.map(Math.exp)));
const bool = (value: boolean): number => Number(value);
const position = (values: readonly number[], value: number): number => values.indexOf(value);

type Reduction = (x: og.Tensor, axes: number) => og.Tensor;

function reduction(name: string, f: (values: number[]) => number, extra: Partial<Row> = {}): Row {
  const call = (og as unknown as Record<string, Reduction>)[name]!;
  return {
    name,
    call: (x) => call(x!, -1),
    oracle: (x) => fold(x!, f, [-1]),
    shapes,
    large,
    ulps: 32,
    ...extra,
  };
}

const wide: Shape[][] = [[[3, 5]], [[0, 4]], [[4, 17]], [[2, 33]]];
const noSingle = { single: 'the spread of one element is not a number' };

function line(
  name: string,
  call: Row['call'],
  f: (line: number[]) => ArrayLike<number>,
  extra: Partial<Row> = {},
): Row {
  return { name, call, oracle: (x) => lines(x!, -1, f), shapes, large, ulps: 32, ...extra };
}

const running = (step: (a: number, b: number) => number) => (values: number[]) => {
  const result: number[] = [];
  for (const x of values) result.push(result.length === 0 ? x : step(result.at(-1)!, x));
  return result;
};

const softmax = (values: readonly number[]): number[] => {
  const total = sum(values.map(Math.exp));
  return values.map((x) => Math.exp(x) / total);
};

const rows = (x: Nd, f: (line: number[]) => number[]): Nd => lines(x, -1, f);
const standard = (values: number[]): number[] => {
  const spread = Math.sqrt(squares(values, mean(values)) / values.length + 1e-5);
  return values.map((x) => (x - mean(values)) / spread);
};
const byRoot = (values: number[]): number[] =>
  values.map((x) => x / Math.sqrt(squares(values, 0) / values.length + 1e-6));
const byLength = (values: number[]): number[] => values.map((x) => x / Math.max(Math.sqrt(squares(values, 0)), 1e-12));
const affine: Row['shapes'] = [
  [[3, 5], [5], [5]],
  [[0, 4], [4], [4]],
  [[1, 1], [1], [1]],
  [[2, 33], [33], [33]],
];
const order = (values: readonly number[]): number[] => [...values.keys()].sort((a, b) => values[a]! - values[b]!);

export const reductionRows: readonly Row[] = [
  reduction('sum', sum, { kernels: ['sum_to'], integers: false }),
  reduction('mean', mean),
  reduction('prod', (values) => values.reduce((a, b) => a * b, 1), { large: [[4000, 9]] }),
  reduction('amax', (values) => Math.max(...values), { integers: true }),
  reduction('amin', (values) => Math.min(...values), { integers: true }),
  reduction('argmax', (v) => position(v, Math.max(...v)), { gradient: false, result: 'int64', integers: true }),
  reduction('argmin', (v) => position(v, Math.min(...v)), { gradient: false, result: 'int64', integers: true }),
  reduction('any', (v) => bool(v.some((x) => x !== 0)), { gradient: false, result: 'bool' }),
  reduction('all', (v) => bool(v.every((x) => x !== 0)), { gradient: false, result: 'bool' }),
  reduction('variance', variance, { kernels: ['var'], shapes: wide, exceptions: noSingle }),
  reduction('std', (v) => Math.sqrt(variance(v)), {
    shapes: wide,
    exceptions: noSingle,
  }),
  reduction('norm', (v) => Math.sqrt(squares(v, 0)), { call: (x) => og.norm(x!, 2, -1) }),
  reduction('logsumexp', logsumexp),
  { ...reduction('sum of all', sum, { op: 'sum', call: (x) => og.sum(x!), oracle: (x) => fold(x!, sum) }) },
  line('softmax', (x) => og.softmax(x!), softmax, { kernels: ['softmax_backward'] }),
  line(
    'logSoftmax',
    (x) => og.logSoftmax(x!),
    (v) => v.map((x) => x - logsumexp(v)),
    {
      kernels: ['log_softmax', 'log_softmax_backward'],
    },
  ),
  line(
    'cumsum',
    (x) => og.cumsum(x!, -1),
    running((a, b) => a + b),
  ),
  line(
    'cumprod',
    (x) => og.cumprod(x!, -1),
    running((a, b) => a * b),
  ),
  line('normalize', (x) => og.normalize(x!), byLength),
  {
    ...line(
      'sort',
      (x) => Object.values(og.sort(x!, -1)),
      (v) => v,
    ),
    oracle: (x) => [rows(x!, (v) => order(v).map((i) => v[i]!)), rows(x!, order)],
  },
  line('argsort', (x) => og.argsort(x!, -1), order, { gradient: false, result: 'int64' }),
  {
    name: 'topk',
    call: (x) => og.topk(x!, 2).values,
    oracle: (x) => lines(x!, -1, (v) => v.toSorted((a, b) => b - a).slice(0, 2)),
    shapes: wide,
    exceptions: { single: 'two of one element cannot be taken' },
  },
  reduction('maxWithIndices', (v) => Math.max(...v), { call: (x) => og.maxWithIndices(x!, -1).values }),
  reduction('minWithIndices', (v) => Math.min(...v), { call: (x) => og.minWithIndices(x!, -1).values }),
  {
    name: 'layerNorm',
    call: (x, w, b) => og.layerNorm(x!, w!.shape, w!, b!),
    oracle: (x, w, b) => map((n, k, c) => n * k + c, rows(x!, standard), w!, b!),
    shapes: affine,
    large: [[259, 131], [131], [131]],
    ulps: 64,
    kernels: ['layer_norm', 'layer_norm_backward'],
    exceptions: {
      half: 'differences of nearly equal numbers: the inputs alone decide, see the reference vectors',
      broadcast: 'the weights are the shape: rows that repeat are shown by the others',
      wrong: 'the shape argument is read from the weight here',
    },
  },
  {
    name: 'rmsNorm',
    call: (x, w) => og.rmsNorm(x!, 5, w!),
    oracle: (x, w) => map((n, k) => n * k, rows(x!, byRoot), w!),
    shapes: [
      [[3, 5], [5]],
      [[0, 5], [5]],
      [[17, 5], [5]],
    ],
    large: [[2590, 5], [5]],
    ulps: 32,
    kernels: ['rms_norm', 'rms_norm_backward'],
    misfits: [[[3, 4], [4]]],
    exceptions: { single: 'the normalised length is part of the call here' },
  },
];
