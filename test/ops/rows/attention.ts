/** Attention and its biases. */
import * as og from '../../../src/index.js';
import { get, make, type InputRule, type Nd, type Row, type Shape } from '../row.js';
import { sum } from './reductions.js';

interface Seen {
  readonly causal?: boolean;
  readonly window?: number;
  readonly scale?: number;
  readonly softCap?: number;
  readonly slopes?: (heads: number) => number[];
  /** Probability of dropping a weight; the stream is that of a generator of seed 11. */
  readonly dropout?: number;
  /** Offsets of sequences in so many rows. */
  readonly packed?: (rows: number) => number[];
  /** Stretches of so many keys that are seen both ways in one sequence of the batch. */
  readonly both?: (batch: number, keys: number) => [start: number, end: number][];
}

/** What dropout makes of each weight: a factor. The kernel of dropout has its own tests. */
function factors(shape: Shape, p: number): Nd {
  const kept = og.dropout(og.ones([...shape], { dtype: 'float64' }), p, { generator: og.generator(11) });
  return { shape, data: Float64Array.from(kept.dataSync() as Float64Array) };
}

/** Which sequence a row is in, and the end of the sequence. */
function sequence(row: number, rows: number, packed: Seen['packed']): [index: number, end: number] {
  const offsets = packed?.(rows) ?? [0, rows];
  const index = offsets.findLastIndex((at) => at <= row);
  return [index, offsets[index + 1]!];
}

/** With axes of length 1 in front, up to four. */
const toFour = ({ shape, data }: Nd): Nd => ({
  shape: [...new Array<number>(4 - shape.length).fill(1), ...shape],
  data,
});

/** softmax(scale · q kᵀ + mask) v over the keys that a query may see; 0 where there are none. */
function attend(q: Nd, k: Nd, v: Nd, mask: Nd | undefined, isBool: boolean, seen: Seen): Nd {
  const [queries, keys, values] = [toFour(q), toFour(k), toFour(v)];
  const [, heads, count, width] = queries.shape as [number, number, number, number];
  const [, groups, length] = keys.shape as [number, number, number];
  const { causal = false, window = Infinity, scale = 1 / Math.sqrt(width), softCap = Infinity, packed } = seen;
  const slope = seen.slopes?.(heads) ?? new Array<number>(heads).fill(0);
  const kept = seen.dropout === undefined ? null : factors([...queries.shape.slice(0, 3), length], seen.dropout);
  const shape = [...q.shape.slice(0, -1), v.shape.at(-1)!];
  const result = make([...queries.shape.slice(0, 3), v.shape.at(-1)!], ([n, h, t, d]) => {
    const group = Math.floor(h! / (heads / groups));
    const [own, end] = sequence(t!, count, packed);
    const place = packed === undefined ? t! + length - count : t! - end + packed(length)[own + 1]!;
    const terms: [power: number, value: number][] = [];
    for (let s = 0; s < length; s++) {
      if (sequence(s, length, packed)[0] !== own) continue;
      const span = seen.both?.(n!, length).find(([start, end]) => start <= place && place < end);
      const near = !(causal && s > place) && s > place - window;
      if (!near && !(span !== undefined && s >= span[0] && s < span[1])) continue;
      const bias = mask === undefined ? 0 : get(mask, [n!, h!, t!, s]);
      if (isBool && bias === 0) continue;
      let score = 0;
      for (let i = 0; i < width; i++) score += get(queries, [n!, h!, t!, i]) * get(keys, [n!, group, s, i]);
      score *= scale;
      if (softCap !== Infinity) score = softCap * Math.tanh(score / softCap);
      score += (isBool ? 0 : bias) - slope[h!]! * Math.abs(place - s);
      const factor = kept === null ? 1 : get(kept, [n!, h!, t!, s]);
      terms.push([Math.exp(score), factor * get(values, [n!, group, s, d!])]);
    }
    const total = sum(terms.map(([power]) => power));
    return terms.length === 0 ? 0 : sum(terms.map(([power, value]) => power * value)) / total;
  });
  return { shape, data: result.data };
}

const grouped: Shape[] = [
  [2, 4, 3, 6],
  [2, 2, 4, 6],
  [2, 2, 4, 5],
];
const ordinary: Row['shapes'] = [
  grouped,
  [
    [2, 2, 0, 4],
    [2, 2, 3, 4],
    [2, 2, 3, 4],
  ],
  [
    [1, 2, 3, 4],
    [1, 2, 0, 4],
    [1, 2, 0, 4],
  ],
  [
    [1, 1, 1, 1],
    [1, 1, 1, 1],
    [1, 1, 1, 1],
  ],
  [
    [3, 4],
    [5, 4],
    [5, 2],
  ],
  [
    [4, 3, 17],
    [1, 5, 17],
    [1, 5, 33],
  ],
  [
    [1, 2, 2, 300],
    [1, 1, 3, 300],
    [1, 1, 3, 2],
  ],
];

/** Length of an axis; 1 for what has none, which the call refuses. */
const lengthOf = (x: og.Tensor | undefined, axis: number): number =>
  (x instanceof og.Tensor ? x.shape.at(axis) : undefined) ?? 1;

/** Spans of a batch, as the option takes them. */
const spansOf = (both: NonNullable<Seen['both']>, q: og.Tensor | undefined, keys: number): [number, number][][] =>
  Array.from({ length: q instanceof og.Tensor && q.rank > 3 ? q.shape[0]! : 1 }, (_, b) => both(b, keys));

function attention(name: string, options: og.AttentionOptions & Seen, extra: Partial<Row> = {}): Row {
  const isBool = extra.inputs?.[3]?.dtype === 'bool';
  return {
    name,
    op: 'scaledDotProductAttention',
    call: (q, k, v, mask) =>
      og.scaledDotProductAttention(q!, k!, v!, {
        ...options,
        ...(mask ? { mask } : {}),
        ...(options.slopes ? { alibi: options.slopes(lengthOf(q, -3)) } : {}),
        ...(options.dropout ? { generator: og.generator(11) } : {}),
        ...(options.both ? { spans: spansOf(options.both, q, lengthOf(k, -2)) } : {}),
        ...(options.packed
          ? { queryOffsets: options.packed(lengthOf(q, -2)), keyOffsets: options.packed(lengthOf(k, -2)) }
          : {}),
      }),
    oracle: (q, k, v, mask) => attend(q!, k!, v!, mask, isBool, options),
    shapes: ordinary,
    large: [
      [2, 4, 67, 32],
      [2, 2, 67, 32],
      [2, 2, 67, 32],
    ],
    ulps: 16,
    magnitude: 4,
    kernels: ['attention', 'attention_backward'],
    ...extra,
  };
}

const bool: InputRule = { dtype: 'bool', value: (_, i) => Number(i % 3 !== 0 && i < 9) };
const masked: Row['shapes'] = [
  [...grouped, [3, 4]],
  [...grouped, [2, 1, 3, 1]],
  [[2, 2, 0, 4], [2, 2, 3, 4], [2, 2, 3, 4], [1]],
  [
    [1, 1, 1, 1],
    [1, 1, 1, 1],
    [1, 1, 1, 1],
    [1, 1],
  ],
  [
    [1, 2, 3, 17],
    [1, 2, 33, 17],
    [1, 2, 33, 4],
    [2, 3, 33],
  ],
];

const softRefusals: Partial<Row> = {
  refused: [
    (q, k, v) => og.scaledDotProductAttention(q!, k!, v!, { softCap: 0 }),
    (q, k, v) => og.scaledDotProductAttention(q!, k!, v!, { softCap: NaN }),
    (q, k, v) => og.scaledDotProductAttention(q!, k!, v!, { dropout: 1.5 }),
    (q, k, v) => og.scaledDotProductAttention(q!, k!, v!, { dropout: 0.5, generator: {} as never }),
    (q, k, v) => og.scaledDotProductAttention(q!, k!, v!, { alibi: 1 as never }),
    (q, k, v) => og.scaledDotProductAttention(q!, k!, v!, { alibi: og.ones([4]).requiresGrad_() }),
    (q, k, v) => og.scaledDotProductAttention(q!, k!, v!, { keyOffsets: [0, 4] }),
    (q, k, v) => og.scaledDotProductAttention(q!, k!, v!, { queryOffsets: [0, 3], mask: og.ones([3, 4]) }),
  ],
};

/** Three sequences, of which the second is empty. */
const thirds = (rows: number): number[] => [0, Math.floor(rows / 3), Math.floor(rows / 3), rows];
const packedShapes: Partial<Row> = {
  shapes: [
    [
      [1, 4, 7, 6],
      [1, 2, 8, 6],
      [1, 2, 8, 5],
    ],
    [
      [1, 2, 0, 4],
      [1, 2, 3, 4],
      [1, 2, 3, 4],
    ],
    [
      [1, 2, 3, 4],
      [1, 2, 0, 4],
      [1, 2, 0, 4],
    ],
    [
      [1, 1, 1, 1],
      [1, 1, 1, 1],
      [1, 1, 1, 1],
    ],
    [
      [1, 2, 33, 17],
      [1, 1, 65, 17],
      [1, 1, 65, 3],
    ],
    [
      [2, 9, 5],
      [2, 9, 5],
      [2, 9, 5],
    ],
    [
      [1, 1, 4, 300],
      [1, 1, 5, 300],
      [1, 1, 5, 2],
    ],
  ],
  large: [
    [1, 4, 167, 32],
    [1, 2, 167, 32],
    [1, 2, 167, 32],
  ],
  refused: [
    (q, k, v) => og.scaledDotProductAttention(q!, k!, v!, { queryOffsets: [0, 4, 3, 7], keyOffsets: [0, 1, 2, 8] }),
    (q, k, v) => og.scaledDotProductAttention(q!, k!, v!, { queryOffsets: [1, 7], keyOffsets: [0, 8] }),
    (q, k, v) => og.scaledDotProductAttention(q!, k!, v!, { queryOffsets: [0, 6], keyOffsets: [0, 8] }),
    (q, k, v) => og.scaledDotProductAttention(q!, k!, v!, { queryOffsets: [0, 7], keyOffsets: [0, 9] }),
    (q, k, v) => og.scaledDotProductAttention(q!, k!, v!, { queryOffsets: [] }),
    (q, k, v) => og.scaledDotProductAttention(q!, k!, v!, { queryOffsets: og.ones([2]) }),
  ],
};

/** A prefix, and a stretch near the end; the second sequence has one in the middle. */
const stretches = (batch: number, keys: number): [number, number][] => {
  const third = Math.floor(keys / 3);
  if (batch % 2 === 1) return [[third, keys - third]];
  return [
    [0, third],
    [keys - third, keys],
  ];
};
const spanned = (q: og.Tensor, k: og.Tensor, v: og.Tensor, spans: unknown): og.Tensor =>
  og.scaledDotProductAttention(q, k, v, { spans: spans as og.Tensor, causal: true });
const spanRefusals: Partial<Row> = {
  misfits: [],
  refused: [
    ...[1, 'x', [], [[]], [[[0, 2]]], [[[0, 5]], []], [[[-1, 2]], []], [[[2, 1]], []], [[[0.5, 2]], []]],
    ...[[[[0]], []], [[[0, 1, 2]], []], [[0, 1], []], [[[0, 3], [2, 4]], []], [{}, []]], // prettier-ignore
    og.zeros([2, 3, 2]),
  ].map((spans) => (q, k, v) => spanned(q!, k!, v!, spans)),
};

const attentions: Row[] = [
  attention(
    'scaledDotProductAttention',
    {},
    {
      misfits: [
        [
          [2, 4, 3, 6],
          [2, 2, 4, 5],
          [2, 2, 4, 5],
        ],
        [
          [2, 4, 3, 6],
          [2, 3, 4, 6],
          [2, 3, 4, 6],
        ],
        [
          [2, 4, 3, 6],
          [2, 2, 4, 6],
          [2, 2, 5, 6],
        ],
        [
          [2, 4, 3, 6],
          [1, 2, 4, 6],
          [1, 2, 4, 6],
        ],
        [[6], [6], [6]],
      ],
      refused: [
        (q, k, v) => og.scaledDotProductAttention(q!, k!, v!, { window: 0 }),
        (q, k, v) => og.scaledDotProductAttention(q!, k!, v!, { scale: 'x' as never }),
        (q, k, v) => og.scaledDotProductAttention(q!, k!, v!, { causal: 1 as never }),
        (q, k, v) => og.scaledDotProductAttention(q!, k!, v!, { mask: og.zeros([3, 4], { dtype: 'int32' }) }),
      ],
    },
  ),
  attention('causal attention', { causal: true, scale: 0.7 }),
  attention('attention in a sliding window', { causal: true, window: 2 }),
  attention('attention of neighbours', { window: 1 }),
  attention(
    'attention with a bool mask',
    {},
    {
      inputs: [{}, {}, {}, bool],
      shapes: masked,
      misfits: [[...grouped, [3, 3]]],
    },
  ),
  attention('attention with a soft cap', { softCap: 0.9 }, softRefusals),
  attention('attention with slopes', { causal: true, slopes: (heads) => slopes(heads) }),
  attention('attention with slopes in both directions', { softCap: 20, slopes: (heads) => slopes(heads) }),
  attention('attention with dropped weights', { causal: true, dropout: 0.4 }),
  attention('attention of packed sequences', { causal: true, softCap: 5, packed: thirds }, packedShapes),
  attention('attention of packed sequences, dropped', { dropout: 0.2, window: 3, packed: thirds }, packedShapes),
  attention('attention with a prefix seen both ways', { causal: true, both: stretches }, spanRefusals),
  attention('attention with spans in a window', { causal: true, window: 2, softCap: 5, both: stretches }),
  attention(
    'attention with spans and a mask',
    { causal: true, both: (_, keys) => [[Math.floor(keys / 2), keys]] },
    { inputs: [{}, {}, {}, bool], shapes: masked },
  ),
  attention('attention with a learnt bias', { causal: true }, { inputs: [{}, {}, {}, {}], shapes: masked }),
];

const noTensors = {
  empty: 'no tensor goes in; an empty result is among those that are made',
  single: 'no tensor goes in; one element is among the results',
  tails: 'no tensor goes in; odd lengths are among the results',
  layouts: 'no tensor goes in',
};

/** Slopes as the paper gives them: a geometric series, filled up from the one of twice as many heads. */
function slopes(heads: number): number[] {
  const series = (count: number): number[] => Array.from({ length: count }, (_, i) => 2 ** (-(8 / count) * (i + 1)));
  let power = 1;
  while (2 * power <= heads) power *= 2;
  const between = series(2 * power).filter((_, i) => i % 2 === 0);
  return [...series(power), ...between].slice(0, heads);
}

const bias = (heads: number, queries: number, keys: number, slope = slopes(heads)): Nd =>
  make([heads, queries, keys], ([h, t, s]) => -slope[h!]! * Math.abs(t! + keys - queries - s!) + 0);
const headCounts = [1, 2, 4, 6, 12, 17];

const biases: Row[] = [
  {
    name: 'alibiSlopes',
    call: () => headCounts.map((heads) => og.tensor(Float64Array.from(og.alibiSlopes(heads)))),
    oracle: () => headCounts.map((heads) => make([heads], ([h]) => slopes(heads)[h!]!)),
    shapes: [[]],
    gradient: false,
    result: 'float64',
    refused: [() => og.alibiSlopes(0), () => og.alibiSlopes(1.5)],
    exceptions: { ...noTensors, empty: 'no heads are refused' },
  },
  {
    name: 'alibiBias',
    call: () => [
      og.alibiBias(6, 3),
      og.alibiBias(2, 0, 4),
      og.alibiBias(1, 1, 1),
      og.alibiBias(3, 17, 33, [1, 0.5, 0.3]),
    ],
    oracle: () => [bias(6, 3, 3), bias(2, 0, 4), bias(1, 1, 1), bias(3, 17, 33, [1, 0.5, 0.3])],
    shapes: [[]],
    gradient: false,
    result: 'float32',
    refused: [() => og.alibiBias(2, -1), () => og.alibiBias(2, 3, 0.5)],
    exceptions: noTensors,
  },
];

export const attentionRows: readonly Row[] = [...attentions, ...biases];
