/** Rotary positions. */
import * as og from '../../../src/index.js';
import { get, make, type Nd, type Row } from '../row.js';

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

const noTensors = {
  empty: 'no tensor goes in; an empty result is among those that are made',
  single: 'no tensor goes in; one element is among the results',
  tails: 'no tensor goes in; odd lengths are among the results',
  layouts: 'no tensor goes in',
};

export const positionRows: readonly Row[] = [
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
