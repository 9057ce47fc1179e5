/** Operations that fit in no family: windows on one axis, losses, grids, coordinates. */
import * as og from '../../../src/index.js';
import { fold, get, lines, make, map, sizeOf, type Nd, type Row } from '../row.js';
import { mean, sum } from './reductions.js';
import { sigmoid } from './elementwise.js';

const images: Row['shapes'] = [[[2, 3, 6]], [[0, 3, 6]], [[1, 1, 34]], [[2, 2, 17]]];
const windows = (values: readonly number[]): number[][] =>
  Array.from({ length: Math.floor(values.length / 2) }, (_, i) => [values[2 * i]!, values[2 * i + 1]!]);
const noSingle = { single: 'a window of two elements needs them' };

function window(name: string, call: Row['call'], f: (values: number[]) => number): Row {
  return {
    name,
    call,
    oracle: (x) => lines(x!, -1, (line) => windows(line).map(f)),
    shapes: images,
    exceptions: noSingle,
  };
}

/** Word `i % 4` of block `i / 4` of Philox4x32-10 under a key of 32 bits. Source: Salmon et al., SC'11. */
function philox(key: number, i: number): number {
  const low = (x: bigint): bigint => x & 0xffffffffn;
  let [a, b, c, d] = [BigInt(Math.floor(i / 4)), 0n, 0n, 0n];
  let [k, l] = [BigInt(key), 0n];
  for (let round = 0; round < 10; round++) {
    const [p, q] = [0xd2511f53n * a, 0xcd9e8d57n * c];
    [a, b, c, d] = [(q >> 32n) ^ b ^ k, low(q), (p >> 32n) ^ d ^ l, low(p)];
    [k, l] = [low(k + 0x9e3779b9n), low(l + 0xbb67ae85n)];
  }
  return Number([a, b, c, d][i % 4]);
}

const probability = { value: (u: number): number => 0.5 + 0.4 * u };

export const otherRows: readonly Row[] = [
  window(
    'maxPool1d',
    (x) => og.maxPool1d(x!, 2),
    (values) => Math.max(...values),
  ),
  window('avgPool1d', (x) => og.avgPool1d(x!, 2), mean),
  {
    name: 'adaptiveAvgPool1d',
    call: (x) => og.adaptiveAvgPool1d(x!, 1),
    oracle: (x) => fold(x!, mean, [-1], true),
    shapes: [[[2, 3, 6]], [[0, 3, 6]], [[1, 1, 1]], [[2, 2, 17]]],
    ulps: 16,
  },
  {
    name: 'glu',
    call: (x) => og.glu(x!),
    oracle: (x) =>
      lines(x!, -1, (line) => {
        const half = line.length / 2;
        return line.slice(0, half).map((value, i) => value * sigmoid(line[half + i]!));
      }),
    shapes: [[[3, 4]], [[0, 4]], [[17, 2]]],
    exceptions: { single: 'the axis is halved' },
  },
  {
    name: 'binaryCrossEntropy',
    call: (input, target) => og.binaryCrossEntropy(input!, target!, { reduction: 'sum' }),
    oracle: (input, target) =>
      fold(
        map((p, t) => -(t * Math.log(p) + (1 - t) * Math.log(1 - p)), input!, target!),
        sum,
      ),
    inputs: [probability, probability],
    shapes: [
      [
        [3, 4],
        [3, 4],
      ],
      [[0], [0]],
      [[1], [1]],
      [[17], [17]],
    ],
    ulps: 32,
    magnitude: 8,
    misfits: [[[3], [4]]],
  },
  {
    name: 'meshgrid',
    call: (a, b) => og.meshgrid([a!, b!]),
    oracle: (a, b) => {
      const shape = [sizeOf(a!.shape), sizeOf(b!.shape)];
      return [make(shape, ([i]) => a!.data[i!]!), make(shape, ([, j]) => b!.data[j!]!)];
    },
    shapes: [
      [[3], [4]],
      [[0], [4]],
      [[1], [1]],
      [[17], [2]],
    ],
    exceptions: { wrong: 'the argument is a list, of which what is no tensor is refused as an attribute' },
  },
  {
    name: 'nonzeroSync',
    call: (x) => og.nonzeroSync(x!),
    oracle: (x) => {
      const found: number[][] = [];
      make(x!.shape, (index) => (get(x!, index) === 0 ? 0 : found.push([...index])));
      return { shape: [found.length, x!.shape.length], data: Float64Array.from(found.flat()) } satisfies Nd;
    },
    inputs: [{ value: (u, i) => (i % 3 === 0 ? u : 0) }],
    shapes: [[[3, 4]], [[0, 4]], [[1, 1]], [[17]]],
    gradient: false,
    result: 'int64',
  },
  {
    name: 'dropout',
    call: (x) => og.dropout(x!, 0.4, { generator: og.generator(7) }),
    oracle: (x) => ({
      shape: x!.shape,
      data: x!.data.map((value, i) => (philox(7, i) >= Math.floor(0.4 * 2 ** 32) ? value / 0.6 : 0)),
    }),
    shapes: [[[3, 4]], [[0, 4]], [[1]], [[5, 17]], [[2, 33]]],
    large: [[259, 131]],
    refused: [(x) => og.dropout(x!, 1.5), (x) => og.dropout(x!, 0.5, { generator: 7 as never })],
  },
  {
    name: 'dropout of nothing and of all',
    op: 'dropout',
    call: (x) => [og.dropout(x!, 0.3, { training: false }), og.dropout(x!, 0), og.dropout(x!, 1)],
    oracle: (x) => [x!, x!, map(() => 0, x!)],
    shapes: [[[3, 4]], [[0, 4]], [[1]], [[5, 17]]],
  },
];
