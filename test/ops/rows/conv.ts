/** Convolutions, their transposes, and the windows that they are made of. */
import * as og from '../../../src/index.js';
import { get, make, type Nd, type Row, type Shape } from '../row.js';

type Two = readonly [number, number];

/** Geometry as numbers for each axis; `end` is the padding at the far end where it differs. */
interface Geometry {
  readonly stride?: Two;
  readonly padding?: Two;
  readonly end?: Two;
  readonly dilation?: Two;
  readonly groups?: number;
}

const inside = (at: number, length: number): boolean => at >= 0 && at < length;

/** Positions of a window along axis i. */
function positions(length: number, kernel: number, i: 0 | 1, geometry: Geometry): number {
  const { stride = [1, 1], padding = [0, 0], end = padding, dilation = [1, 1] } = geometry;
  return Math.floor((length + padding[i] + end[i] - dilation[i] * (kernel - 1) - 1) / stride[i]) + 1;
}

/** y[n, o, r, s] = bias[o] + Σ x[n, c, r·stride − padding + i·dilation, …] · w[o, c, i, j], channels c of o's group. */
function convolution(x: Nd, w: Nd, bias: Nd | undefined, geometry: Geometry): Nd {
  const { stride = [1, 1], padding = [0, 0], dilation = [1, 1], groups = 1 } = geometry;
  const [batch, , height, width] = x.shape as [number, number, number, number];
  const [outputs, channels, rows, columns] = w.shape as [number, number, number, number];
  const shape = [batch, outputs, positions(height, rows, 0, geometry), positions(width, columns, 1, geometry)];
  return make(shape, ([n, o, r, s]) => {
    const first = Math.floor(o! / (outputs / groups)) * channels;
    let total = bias?.data[o!] ?? 0;
    for (let c = 0; c < channels; c++)
      for (let i = 0; i < rows; i++)
        for (let j = 0; j < columns; j++) {
          const row = r! * stride[0] - padding[0] + i * dilation[0];
          const column = s! * stride[1] - padding[1] + j * dilation[1];
          if (inside(row, height) && inside(column, width))
            total += get(x, [n!, first + c, row, column]) * get(w, [o!, c, i, j]);
        }
    return total;
  });
}

/** Where a window at `to` along an axis of a convolution would have begun, if it reads `at` with its element `k`. */
function cameFrom(at: number, k: number, i: 0 | 1, geometry: Geometry): number {
  const { stride = [1, 1], padding = [0, 0], dilation = [1, 1] } = geometry;
  return (at + padding[i] - k * dilation[i]) / stride[i];
}

const isPosition = (at: number, length: number): boolean => Number.isInteger(at) && inside(at, length);

/** The adjoint: each element of x adds its multiple of the kernel. */
function transposedConvolution(x: Nd, w: Nd, bias: Nd | undefined, geometry: Geometry, extra: Two): Nd {
  const { stride = [1, 1], padding = [0, 0], dilation = [1, 1], groups = 1 } = geometry;
  const [batch, inputs, height, width] = x.shape as [number, number, number, number];
  const [, outputs, rows, columns] = w.shape as [number, number, number, number];
  const size = (length: number, kernel: number, i: 0 | 1): number =>
    (length - 1) * stride[i] - 2 * padding[i] + dilation[i] * (kernel - 1) + extra[i] + 1;
  return make([batch, outputs * groups, size(height, rows, 0), size(width, columns, 1)], ([n, o, r, s]) => {
    const channels = inputs / groups;
    const first = Math.floor(o! / outputs) * channels;
    let total = bias?.data[o!] ?? 0;
    for (let c = first; c < first + channels; c++)
      for (let i = 0; i < rows; i++)
        for (let j = 0; j < columns; j++) {
          const [row, column] = [cameFrom(r!, i, 0, geometry), cameFrom(s!, j, 1, geometry)];
          if (isPosition(row, height) && isPosition(column, width))
            total += get(x, [n!, c, row, column]) * get(w, [c, o! % outputs, i, j]);
        }
    return total;
  });
}

/** A sequence as an image of one row, and back. */
const lifted = ({ shape: [batch, channels, length], data }: Nd): Nd => ({
  shape: [batch!, channels!, 1, length!],
  data,
});
const flat = ({ shape, data }: Nd): Nd => ({ shape: [shape[0]!, shape[1]!, shape[3]!], data });

interface Case {
  readonly name: string;
  readonly geometry: Geometry;
  readonly shapes: Row['shapes'];
  readonly extra?: Partial<Row>;
}

function conv2d({ name, geometry, shapes, extra }: Case, options: og.Conv2dOptions): Row {
  return {
    name,
    op: 'conv2d',
    call: (x, w, b) => og.conv2d(x!, w!, b ?? null, options),
    oracle: (x, w, b) => convolution(x!, w!, b, geometry),
    shapes,
    magnitude: 8,
    refused: [
      (x, w) => og.conv2d(x!, w!, null, { ...options, stride: 0 }),
      (x, w) => og.conv2d(x!, w!, null, { ...options, groups: 0 }),
      (x, w) => og.conv2d(x!, w!, null, { ...options, stride: 2, padding: 'same' }),
    ],
    ...extra,
  };
}

function conv1d({ name, geometry, shapes, extra }: Case, options: og.Conv1dOptions): Row {
  return {
    name,
    op: 'conv1d',
    call: (x, w, b) => og.conv1d(x!, w!, b ?? null, options),
    oracle: (x, w, b) => flat(convolution(lifted(x!), lifted(w!), b, geometry)),
    shapes,
    magnitude: 8,
    refused: [(x, w) => og.conv1d(x!, w!, null, { ...options, dilation: 0 })],
    ...extra,
  };
}

const needsGroups = { single: 'two groups need two channels, the other rows show one' };
const images: Row['shapes'] = [
  [[2, 2, 5, 6], [3, 2, 2, 3], [3]],
  [[0, 2, 5, 6], [3, 2, 2, 3], [3]],
  [[1, 1, 1, 1], [1, 1, 1, 1], [1]],
  [[1, 3, 7, 17], [5, 3, 3, 3], [5]],
];

const convolutions: Row[] = [
  conv2d(
    {
      name: 'conv2d',
      geometry: { stride: [2, 1], padding: [1, 1], dilation: [1, 2] },
      shapes: images,
      extra: {
        large: [[3, 8, 33, 31], [16, 8, 3, 3], [16]],
        misfits: [
          [[2, 3, 5, 6], [3, 2, 2, 3], [3]],
          [[2, 2, 5, 6], [3, 2, 2, 3], [2]],
          [[2, 2, 5, 6], [3, 2, 9, 3], [3]],
          [[2, 5, 6], [3, 2, 2, 3], [3]],
        ],
      },
    },
    { stride: [2, 1], padding: 1, dilation: [1, 2] },
  ),
  conv2d(
    {
      name: 'conv2d in groups',
      geometry: { groups: 2, padding: [0, 1] },
      shapes: [
        [[2, 4, 3, 4], [6, 2, 2, 3], [6]],
        [[0, 4, 3, 4], [6, 2, 2, 3], [6]],
        [[1, 2, 4, 17], [2, 1, 3, 3], [2]],
      ],
      extra: { exceptions: needsGroups, misfits: [[[2, 4, 3, 4], [5, 2, 2, 3], [5]]] },
    },
    { groups: 2, padding: [0, 1] },
  ),
  conv2d(
    {
      name: 'conv2d of single elements',
      geometry: {},
      shapes: [
        [
          [2, 3, 2, 2],
          [4, 3, 1, 1],
        ],
        [
          [0, 3, 2, 2],
          [4, 3, 1, 1],
        ],
        [
          [1, 1, 1, 1],
          [1, 1, 1, 1],
        ],
        [
          [1, 3, 1, 33],
          [2, 3, 1, 1],
        ],
      ],
    },
    {},
  ),
  conv2d(
    {
      name: 'conv2d that keeps the size',
      geometry: { padding: [0, 1], end: [1, 1] },
      shapes: [
        [[1, 2, 3, 4], [3, 2, 2, 3], [3]],
        [[0, 2, 3, 4], [3, 2, 2, 3], [3]],
        [[1, 1, 1, 1], [1, 1, 2, 3], [1]],
        [[1, 1, 3, 17], [1, 1, 2, 3], [1]],
      ],
    },
    { padding: 'same' },
  ),
  conv1d(
    {
      name: 'conv1d',
      geometry: { stride: [1, 2], padding: [0, 1], groups: 2 },
      shapes: [
        [[2, 4, 5], [6, 2, 3], [6]],
        [[0, 4, 5], [6, 2, 3], [6]],
        [[1, 2, 33], [2, 1, 5], [2]],
      ],
      extra: {
        large: [[3, 16, 301], [32, 8, 3], [32]],
        exceptions: needsGroups,
        misfits: [
          [[2, 3, 5], [6, 2, 3], [6]],
          [[2, 4, 5], [6, 2, 9], [6]],
          [[4, 5], [6, 2, 3], [6]],
        ],
      },
    },
    { stride: 2, padding: 1, groups: 2 },
  ),
  conv1d(
    {
      name: 'conv1d that keeps the length',
      geometry: { padding: [0, 3], end: [0, 3], dilation: [1, 2] },
      shapes: [
        [
          [1, 2, 5],
          [3, 2, 4],
        ],
        [
          [0, 2, 5],
          [3, 2, 4],
        ],
        [
          [1, 1, 1],
          [1, 1, 4],
        ],
        [
          [1, 1, 17],
          [1, 1, 4],
        ],
      ],
    },
    { padding: 'same', dilation: 2 },
  ),
];

const transposes: Row[] = [
  {
    name: 'convTranspose2d',
    call: (x, w, b) =>
      og.convTranspose2d(x!, w!, b!, { stride: [2, 3], padding: 1, dilation: 2, outputPadding: [1, 2] }),
    oracle: (x, w, b) =>
      transposedConvolution(x!, w!, b, { stride: [2, 3], padding: [1, 1], dilation: [2, 2] }, [1, 2]),
    shapes: [
      [[2, 2, 3, 3], [2, 3, 2, 2], [3]],
      [[0, 2, 3, 3], [2, 3, 2, 2], [3]],
      [[1, 1, 1, 1], [1, 1, 2, 2], [1]],
      [[1, 2, 2, 17], [2, 1, 3, 2], [1]],
    ],
    magnitude: 8,
    misfits: [
      [[2, 3, 3, 3], [2, 3, 2, 2], [3]],
      [[2, 2, 3, 3], [2, 3, 2, 2], [2]],
    ],
    refused: [
      (x, w) => og.convTranspose2d(x!, w!, null, { outputPadding: 1 }),
      (x, w) => og.convTranspose2d(x!, w!, null, { padding: -1 }),
    ],
  },
  {
    name: 'convTranspose1d',
    call: (x, w, b) => og.convTranspose1d(x!, w!, b!, { stride: 2, outputPadding: 1, groups: 2 }),
    oracle: (x, w, b) => flat(transposedConvolution(lifted(x!), lifted(w!), b, { stride: [1, 2], groups: 2 }, [0, 1])),
    shapes: [
      [[2, 4, 3], [4, 2, 3], [4]],
      [[0, 4, 3], [4, 2, 3], [4]],
      [[1, 2, 17], [2, 1, 4], [2]],
    ],
    magnitude: 8,
    exceptions: needsGroups,
    misfits: [
      [[2, 3, 3], [4, 2, 3], [4]],
      [[2, 4, 3], [4, 2, 3], [2]],
    ],
    refused: [(x, w) => og.convTranspose1d(x!, w!, null, { groups: 2, stride: 0 })],
  },
];

const window: Geometry = { stride: [2, 1], padding: [1, 0], dilation: [1, 2] };
const kernel: Two = [2, 3];
const windowOptions: og.WindowOptions = { stride: [2, 1], padding: [1, 0], dilation: [1, 2] };
/** Channel and place in the window of a row of columns. */
const place = (row: number): [channel: number, i: number, j: number] => [
  Math.floor(row / 6),
  Math.floor((row % 6) / 3),
  row % 3,
];

/** Shapes of columns from windows over images of 4 × 6. */
const columns = (batch: number, channels: number): Shape => [batch, channels * 6, 6];

const windows: Row[] = [
  {
    name: 'unfold',
    call: (x) => og.unfold(x!, kernel, windowOptions),
    oracle: (x) => {
      const [batch, channels, height, width] = x!.shape as [number, number, number, number];
      const [rows, across] = [positions(height, 2, 0, window), positions(width, 3, 1, window)];
      return make([batch, channels * 6, rows * across], ([n, row, at]) => {
        const [c, i, j] = place(row!);
        const [r, s] = [Math.floor(at! / across) * 2 - 1 + i, (at! % across) + 2 * j];
        return inside(r, height) && inside(s, width) ? get(x!, [n!, c, r, s]) : 0;
      });
    },
    shapes: [[[2, 2, 4, 6]], [[0, 2, 4, 6]], [[1, 1, 3, 17]], [[2, 3, 5, 33]]],
    large: [[2, 8, 33, 35]],
    exceptions: { single: 'a window of 2 × 3, spread over five columns, needs more' },
    misfits: [[[2, 2, 4, 4]], [[2, 4, 6]]],
    refused: [(x) => og.unfold(x!, 0), (x) => og.unfold(x!, [1, 2, 3] as never)],
  },
  {
    name: 'fold',
    call: (x) => og.fold(x!, [4, 6], kernel, windowOptions),
    oracle: (x) =>
      make([x!.shape[0]!, x!.shape[1]! / 6, 4, 6], ([n, c, r, s]) => {
        let total = 0;
        for (let i = 0; i < 2; i++)
          for (let j = 0; j < 3; j++) {
            const [row, column] = [cameFrom(r!, i, 0, window), cameFrom(s!, j, 1, window)];
            if (isPosition(row, 3) && isPosition(column, 2))
              total += get(x!, [n!, c! * 6 + i * 3 + j, row * 2 + column]);
          }
        return total;
      }),
    shapes: [[columns(2, 2)], [columns(0, 2)], [columns(1, 1)], [columns(17, 3)]],
    large: [columns(16, 64)],
    exceptions: { single: 'one position of one channel has the six rows of its window' },
    misfits: [[[2, 12, 5]], [[2, 11, 6]]],
    refused: [(x) => og.fold(x!, [4, 6], kernel, { stride: 0 })],
  },
];

export const convRows: readonly Row[] = [...convolutions, ...transposes, ...windows];
