/** Elements picked and placed by index tensors, by masks, and in place. */
import * as og from '../../../src/index.js';
import { get, make, map, type InputRule, type Nd, type Row } from '../row.js';

const ids = (below: number): InputRule => ({ dtype: 'int64', value: (_, i) => (i * 7 + 2) % below });
const index = (values: number[]): og.Tensor => og.tensor(values, { dtype: 'int64' });

/** x with what `put` writes: called with every coordinate of the index, what it holds, and a way to the element it names. */
function written(x: Nd, where: Nd, axis: number, put: (old: number, at: readonly number[]) => number): Nd {
  const result: Nd = { shape: x.shape, data: x.data.slice() };
  make(where.shape, (at) => {
    const to = at.map((i, k) => (k === axis ? get(where, at) : i));
    const flat = to.reduce((sum, i, k) => sum * x.shape[k]! + i, 0);
    result.data[flat] = put(result.data[flat]!, at);
    return 0;
  });
  return result;
}

const placed: Row['shapes'] = [
  [
    [3, 17],
    [3, 5],
    [3, 5],
  ],
  [
    [3, 17],
    [2, 3],
    [3, 5],
  ],
  [
    [3, 17],
    [0, 4],
    [3, 4],
  ],
  [
    [1, 17],
    [1, 1],
    [1, 1],
  ],
  [
    [4, 33],
    [4, 17],
    [4, 17],
  ],
];
const largePlaced: Row['large'] = [
  [3001, 17],
  [3001, 5],
  [3001, 5],
];
const misplaced: Row['misfits'] = [
  [
    [3, 17],
    [4, 5],
    [4, 5],
  ],
  [
    [3, 17],
    [3, 5],
    [3, 4],
  ],
  [[3, 17], [5], [5]],
];

const places: Row[] = [
  {
    name: 'scatter',
    call: (x, where, source) => og.scatter(x!, 1, where!, source!),
    oracle: (x, where, source) => written(x!, where!, 1, (_, at) => get(source!, at)),
    inputs: [{}, ids(17), {}],
    shapes: placed,
    large: largePlaced,
    misfits: misplaced,
    refused: [
      (x) => og.scatter(x!, 0, og.tensor([[3]], { dtype: 'int64' }), 1),
      (x) => og.scatter(x!, 0, og.tensor([[-1]], { dtype: 'int64' }), 1),
    ],
  },
  {
    name: 'scatter of a number',
    op: 'scatter',
    call: (x, where) => og.scatter(x!, -1, where!, 1.5),
    oracle: (x, where) => written(x!, where!, 1, () => 1.5),
    inputs: [{}, ids(17)],
    shapes: placed.map(([x, where]) => [x!, where!]),
  },
  {
    name: 'scatterAdd',
    call: (x, where, source) => og.scatterAdd(x!, 1, where!, source!),
    oracle: (x, where, source) => written(x!, where!, 1, (old, at) => old + get(source!, at)),
    inputs: [{}, ids(4), {}],
    shapes: placed,
    large: largePlaced,
    misfits: misplaced,
    refused: [(x) => og.scatterAdd(x!, 0, og.tensor([[3]], { dtype: 'int64' }), 1)],
  },
  {
    name: 'indexAdd',
    call: (x, where, source) => og.indexAdd(x!, 0, where!, source!, 2),
    oracle: (x, where, source) => {
      const repeated = make(source!.shape, ([i]) => where!.data[i!]!);
      return written(x!, repeated, 0, (old, at) => old + 2 * get(source!, at));
    },
    inputs: [{}, ids(3), {}],
    shapes: [
      [[3, 4], [5], [5, 4]],
      [[3, 4], [0], [0, 4]],
      [[3, 1], [1], [1, 1]],
      [[4, 33], [17], [17, 33]],
    ],
    large: [[3, 1001], [67], [67, 1001]],
    misfits: [
      [[3, 4], [5], [4, 4]],
      [[3, 4], [5], [5, 3]],
      [
        [3, 4],
        [5, 1],
        [5, 4],
      ],
    ],
    refused: [(x) => og.indexAdd(x!, 0, index([3]), og.zeros([1, 4]))],
  },
];

const picks: Row[] = [
  {
    name: 'take',
    call: (x, where) => og.take(x!, where!),
    oracle: (x, where) => make(where!.shape, (at) => x!.data[get(where!, at)]!),
    inputs: [{}, ids(12)],
    shapes: [
      [
        [3, 4],
        [2, 3],
      ],
      [
        [3, 4],
        [0, 2],
      ],
      [[13], []],
      [[3, 33], [17]],
    ],
    refused: [(x) => og.take(x!, index([12])), (x) => og.take(x!, index([-1]))],
  },
  {
    name: 'takeAlongAxis',
    call: (x, where) => og.takeAlongAxis(x!, where!, 0),
    oracle: (x, where) => {
      const width = Math.max(x!.shape[1]!, where!.shape[1]!);
      return make([where!.shape[0]!, x!.shape[1] === 0 ? 0 : width], ([i, j]) => get(x!, [get(where!, [i!, j!]), j!]));
    },
    inputs: [{}, ids(3)],
    shapes: [
      [
        [3, 4],
        [2, 1],
      ],
      [
        [3, 1],
        [5, 4],
      ],
      [
        [3, 0],
        [2, 1],
      ],
      [
        [3, 1],
        [1, 1],
      ],
      [
        [4, 33],
        [17, 33],
      ],
    ],
    misfits: [
      [
        [3, 4],
        [2, 3],
      ],
      [[3, 4], [3]],
    ],
    refused: [(x) => og.takeAlongAxis(x!, og.tensor([[7]], { dtype: 'int64' }))],
  },
  {
    name: 'oneHot',
    call: (where) => og.oneHot(where!, 5),
    oracle: (where) => make([...where!.shape, 5], (at) => Number(get(where!, at.slice(0, -1)) === at.at(-1)!)),
    inputs: [ids(5)],
    shapes: [[[3, 4]], [[0]], [[]], [[17]]],
    large: [[3001]],
    gradient: false,
    result: 'int64',
    refused: [(where) => og.oneHot(where!, 0), (where) => og.oneHot(where!, 3), () => og.oneHot(index([-1]), 3)],
  },
  {
    name: 'oneHot of bytes',
    op: 'oneHot',
    call: (where) => og.oneHot(where!, 5, { dtype: 'float32' }),
    oracle: (where) => make([...where!.shape, 5], (at) => Number(get(where!, at.slice(0, -1)) === at.at(-1)!)),
    inputs: [{ ...ids(5), dtype: 'uint8' }],
    shapes: [[[3, 4]], [[0]], [[1]], [[17]]],
    gradient: false,
    result: 'float32',
  },
  {
    name: 'maskedSelectSync',
    call: (x, chosen) => og.maskedSelectSync(x!, chosen!),
    oracle: (x, chosen) => {
      const found: number[] = [];
      map((value, c) => (c === 0 ? 0 : found.push(value)), x!, chosen!);
      return { shape: [found.length], data: Float64Array.from(found) };
    },
    inputs: [{}, { dtype: 'bool', value: (_, i) => Number(i % 3 !== 1) }],
    shapes: [
      [
        [3, 4],
        [3, 4],
      ],
      [[3, 4], [4]],
      [
        [0, 4],
        [0, 4],
      ],
      [[1], [1]],
      [
        [2, 17],
        [2, 1],
      ],
    ],
    misfits: [[[3, 4], [3]]],
  },
  {
    name: 'copy_',
    call: (x, source) => og.copy_(og.clone(x!), source!),
    oracle: (x, source) => make(x!.shape, (at) => get(source!, at)),
    shapes: [
      [
        [3, 4],
        [3, 4],
      ],
      [[3, 4], [4]],
      [
        [0, 4],
        [1, 4],
      ],
      [[1], []],
      [
        [2, 17],
        [2, 1],
      ],
    ],
    integers: true,
    gradient: false,
    misfits: [[[3, 4], [3]]],
  },
];

export const indexingRows: readonly Row[] = [...places, ...picks];
