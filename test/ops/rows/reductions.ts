/** Reductions, scans, normalisation and orderings: one axis or several go, or are rewritten as a whole. */
import * as og from '../../../src/index.js';
import { fold, get, lines, make, map, sizeOf, type InputRule, type Nd, type Row, type Shape } from '../row.js';

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

/** (x − mean) / √(variance + eps) · w + b, each of one number a channel (axis 1). */
function channelwise(x: Nd, ofChannel: (f: 'mean' | 'variance') => Nd, w: Nd, b: Nd): Nd {
  const [centre, spread] = [ofChannel('mean'), ofChannel('variance')];
  return make(x.shape, (index) => {
    const c = index[1]!;
    return ((get(x, index) - centre.data[c]!) / Math.sqrt(spread.data[c]! + 1e-5)) * w.data[c]! + b.data[c]!;
  });
}
/** Statistics of each channel over all else. */
function ofBatch(x: Nd, f: 'mean' | 'variance'): Nd {
  const axes = x.shape.map((_, i) => i).filter((i) => i !== 1);
  return fold(x, f === 'mean' ? mean : (values) => squares(values, mean(values)) / values.length, axes);
}
/** Each of two groups of channels of an example as one line. */
const inGroups = (x: Nd): Nd => ({ shape: [x.shape[0]! * 2, sizeOf(x.shape.slice(1)) / 2], data: x.data });
const runningMean: InputRule = { constant: true };
const runningVar: InputRule = { constant: true, value: (u) => u + 1.5 };

const channelRows: readonly Row[] = [
  {
    name: 'batchNorm',
    call: (x, average, spread, w, b) => og.batchNorm(x!, average!, spread!, w!, b!),
    oracle: (x, average, spread, w, b) => channelwise(x!, (f) => (f === 'mean' ? average! : spread!), w!, b!),
    inputs: [{}, runningMean, runningVar],
    shapes: [
      [[4, 3], [3], [3], [3], [3]],
      [[2, 3, 4, 5], [3], [3], [3], [3]],
      [[0, 3], [3], [3], [3], [3]],
      [[1, 1], [1], [1], [1], [1]],
      [[2, 17, 3], [17], [17], [17], [17]],
    ],
    large: [[37, 19, 53], [19], [19], [19], [19]],
    ulps: 16,
    misfits: [
      [[4, 3], [4], [3], [3], [3]],
      [[4, 3], [3], [3], [2], [3]],
      [[3], [3], [3], [3], [3]],
    ],
    refused: [(x, average, spread) => og.batchNorm(x!, average!, spread!, null, null, { momentum: 2 })],
  },
  {
    name: 'batchNorm of the batch',
    op: 'batchNorm',
    call: (x, w, b) => og.batchNorm(x!, null, null, w!, b!, { training: true }),
    oracle: (x, w, b) => channelwise(x!, (f) => ofBatch(x!, f), w!, b!),
    shapes: [
      [[4, 3], [3], [3]],
      [[2, 3, 4, 5], [3], [3]],
      [[3, 17, 3], [17], [17]],
    ],
    large: [[37, 19, 53], [19], [19]],
    ulps: 64,
    exceptions: {
      empty: 'no values have no statistics, and are refused',
      single: 'one value has no spread, and is refused',
    },
    misfits: [
      [[4, 3], [4], [3]],
      [[1, 3], [3], [3]],
      [[0, 3], [3], [3]],
    ],
  },
  {
    name: 'groupNorm',
    call: (x, w, b) => og.groupNorm(x!, 2, w!, b!),
    oracle: (x, w, b) => {
      const normal: Nd = { shape: x!.shape, data: lines(inGroups(x!), -1, standard).data };
      return make(x!.shape, (index) => get(normal, index) * w!.data[index[1]!]! + b!.data[index[1]!]!);
    },
    shapes: [
      [[2, 4, 3], [4], [4]],
      [[0, 4, 3], [4], [4]],
      [[3, 6], [6], [6]],
      [[2, 2, 3, 17], [2], [2]],
    ],
    large: [[37, 18, 53], [18], [18]],
    ulps: 64,
    exceptions: { single: 'two groups need two channels' },
    misfits: [
      [[2, 4, 3], [3], [4]],
      [[4], [4], [4]],
    ],
    refused: [(x) => og.groupNorm(x!, 3), (x) => og.groupNorm(x!, 0), (x) => og.groupNorm(x!, 2, null, null, -1)],
  },
];

const order = (values: readonly number[]): number[] => [...values.keys()].sort((a, b) => values[a]! - values[b]!);

export const reductionRows: readonly Row[] = [
  ...channelRows,
  reduction('sum', sum),
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
