/** Attention, its biases, and rotary positions. */
import * as og from '../../../src/index.js';
import { get, make, type InputRule, type Nd, type Row, type Shape } from '../row.js';
import { sum } from './reductions.js';

interface Seen {
  readonly causal?: boolean;
  readonly window?: number;
  readonly scale?: number;
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
  const { causal = false, window = Infinity, scale = 1 / Math.sqrt(width) } = seen;
  const shape = [...q.shape.slice(0, -1), v.shape.at(-1)!];
  const result = make([...queries.shape.slice(0, 3), v.shape.at(-1)!], ([n, h, t, d]) => {
    const group = Math.floor(h! / (heads / groups));
    const place = t! + length - count;
    const terms: [power: number, value: number][] = [];
    for (let s = 0; s < length; s++) {
      if ((causal && s > place) || s <= place - window) continue;
      const bias = mask === undefined ? 0 : get(mask, [n!, h!, t!, s]);
      if (isBool && bias === 0) continue;
      let score = 0;
      for (let i = 0; i < width; i++) score += get(queries, [n!, h!, t!, i]) * get(keys, [n!, group, s, i]);
      terms.push([Math.exp(score * scale + (isBool ? 0 : bias)), get(values, [n!, group, s, d!])]);
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

function attention(name: string, options: og.AttentionOptions & Seen, extra: Partial<Row> = {}): Row {
  const isBool = extra.inputs?.[3]?.dtype === 'bool';
  return {
    name,
    op: 'scaledDotProductAttention',
    call: (q, k, v, mask) => og.scaledDotProductAttention(q!, k!, v!, { ...options, ...(mask ? { mask } : {}) }),
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

/** Pairs (2i, 2i + 1), or (i, i + R/2), turned by the angles of which the tables give cosine and sine. */
function turned(x: Nd, cos: Nd, sin: Nd, interleaved: boolean): Nd {
  const half = cos.shape.at(-1)!;
  return make(x.shape, (index) => {
    const d = index.at(-1)!;
    const outer = index.slice(0, -1);
    if (d >= 2 * half) return get(x, index);
    const pair = interleaved ? Math.floor(d / 2) : d % half;
    const isSecond = interleaved ? d % 2 === 1 : d >= half;
    const first = get(x, [...outer, interleaved ? 2 * pair : pair]);
    const second = get(x, [...outer, interleaved ? 2 * pair + 1 : pair + half]);
    const [c, s] = [get(cos, [...outer, pair]), get(sin, [...outer, pair])];
    return isSecond ? second * c + first * s : first * c - second * s;
  });
}

const rope = (name: string, interleaved: boolean): Row => ({
  name,
  op: 'rope',
  call: (x, cos, sin) => og.rope(x!, cos!, sin!, { interleaved }),
  oracle: (x, cos, sin) => turned(x!, cos!, sin!, interleaved),
  inputs: [{}, { constant: true }, { constant: true }],
  shapes: [
    [
      [2, 2, 3, 6],
      [3, 2],
      [3, 2],
    ],
    [
      [0, 3, 4],
      [3, 2],
      [3, 2],
    ],
    [
      [1, 1],
      [1, 0],
      [1, 0],
    ],
    [
      [5, 34],
      [5, 17],
      [5, 17],
    ],
    [
      [2, 3, 5, 66],
      [2, 1, 5, 33],
      [2, 1, 5, 33],
    ],
  ],
  large: [
    [2, 4, 131, 64],
    [131, 32],
    [131, 32],
  ],
  magnitude: 4,
  misfits: [
    [
      [2, 3, 6],
      [2, 2],
      [2, 2],
    ],
    [
      [2, 3, 6],
      [3, 4],
      [3, 4],
    ],
    [
      [2, 3, 6],
      [3, 2],
      [3, 1],
    ],
    [[6], [2], [2]],
  ],
});

const angles = (positions: Nd, dim: number, theta: number): Nd =>
  make(
    [...positions.shape, dim / 2],
    (index) => get(positions, index.slice(0, -1)) * theta ** ((-2 * index.at(-1)!) / dim),
  );
const circle = (at: Nd, scale = 1): Nd[] =>
  [Math.cos, Math.sin].map((f) => ({ shape: at.shape, data: at.data.map((angle) => f(angle) * scale) }));
const upTo = (count: number): Nd => make([count], ([i]) => i!);

const positions: Row[] = [
  rope('rope', false),
  rope('rope of neighbours', true),
  {
    name: 'ropeTables',
    call: (at) => Object.values(og.ropeTables(at!, 6, { theta: 500, scale: 1.5, dtype: 'float64' })) as og.Tensor[],
    oracle: (at) => circle(angles(at!, 6, 500), 1.5),
    shapes: [[[3, 4]], [[0]], [[1]], [[17]]],
    result: 'float64',
    refused: [
      (at) => og.ropeTables(at!, 5),
      (at) => og.ropeTables(at!, 4, { frequencies: [1] }),
      (at) => og.ropeTables(at!, 4, { theta: 0 }),
      () => og.ropeTables(-1, 4),
      () => og.ropeTables(0.5, 4),
    ],
  },
  {
    name: 'ropeTables of counted positions',
    op: 'ropeTables',
    call: () =>
      [og.ropeTables(17, 6), og.ropeTables([5, 0, 2.5], 2), og.ropeTables(0, 4)].flatMap(({ cos, sin }) => [cos, sin]),
    oracle: () => {
      const listed: Nd = { shape: [3], data: Float64Array.of(5, 0, 2.5) };
      return [
        ...circle(angles(upTo(17), 6, 1e4)),
        ...circle(angles(listed, 2, 1e4)),
        ...circle(angles(upTo(0), 4, 1e4)),
      ];
    },
    shapes: [[]],
    gradient: false,
    result: 'float32',
    exceptions: noTensors,
  },
];

export const attentionRows: readonly Row[] = [...attentions, ...biases, ...positions];
