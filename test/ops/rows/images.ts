/** Pooling over two axes, and grids sampled anew. */
import * as og from '../../../src/index.js';
import { get, make, type Nd, type Row, type Shape } from '../row.js';
import { mean, sum } from './reductions.js';

type Two = readonly [number, number];

interface Pool {
  readonly kernel: Two;
  readonly stride: Two;
  readonly padding: Two;
  readonly dilation?: Two;
  readonly ceil?: boolean;
}

/** f of the elements in each window, and of how many places the window has within the image and its padding. */
function pooled(x: Nd, pool: Pool, f: (values: number[], places: number) => number): Nd {
  const { kernel, stride, padding, dilation = [1, 1], ceil = false } = pool;
  const lengths = x.shape.slice(2) as unknown as Two;
  const size = ([0, 1] as const).map((i) => {
    const room = lengths[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1;
    const count = (ceil ? Math.ceil(room / stride[i]) : Math.floor(room / stride[i])) + 1;
    // A window that would begin in the far padding is left out
    return ceil && (count - 1) * stride[i] >= lengths[i] + padding[i] ? count - 1 : count;
  });
  return make([...x.shape.slice(0, 2), ...size], ([n, c, ...at]) => {
    const values: number[] = [];
    let places = 0;
    for (let i = 0; i < kernel[0]; i++)
      for (let j = 0; j < kernel[1]; j++) {
        const [row, column] = [i, j].map((k, axis) => at[axis]! * stride[axis]! - padding[axis]! + k * dilation[axis]!);
        if (row! >= lengths[0] + padding[0] || column! >= lengths[1] + padding[1]) continue;
        places++;
        if (row! < 0 || column! < 0 || row! >= lengths[0] || column! >= lengths[1]) continue;
        values.push(get(x, [n!, c!, row!, column!]));
      }
    return f(values, places);
  });
}

const images: Row['shapes'] = [[[2, 2, 4, 5]], [[0, 2, 4, 5]], [[1, 1, 1, 1]], [[1, 2, 5, 17]], [[2, 1, 6, 33]]];
const large: readonly Shape[] = [[2, 16, 37, 35]];
const maxPool: Pool = { kernel: [2, 3], stride: [1, 2], padding: [1, 1], dilation: [1, 2] };
const avgPool: Pool = { kernel: [2, 3], stride: [2, 2], padding: [1, 1] };

const pools: Row[] = [
  {
    name: 'maxPool2d',
    call: (x) => og.maxPool2d(x!, [2, 3], { stride: [1, 2], padding: 1, dilation: [1, 2] }),
    oracle: (x) => pooled(x!, maxPool, (values) => Math.max(...values)),
    shapes: [[[2, 2, 4, 5]], [[0, 2, 4, 5]], [[1, 2, 5, 17]], [[2, 1, 6, 33]]],
    large,
    exceptions: { single: 'the spread window does not fit around one element; avgPool2d shows one' },
    misfits: [[[2, 4, 5]], [[1, 1, 4, 2]]],
    refused: [(x) => og.maxPool2d(x!, 2, { padding: 2 }), (x) => og.maxPool2d(x!, 0)],
  },
  {
    name: 'avgPool2d',
    call: (x) => og.avgPool2d(x!, [2, 3], { stride: 2, padding: 1 }),
    oracle: (x) => pooled(x!, avgPool, (values, places) => sum(values) / places),
    shapes: images,
    large,
    misfits: [[[4, 5]]],
    refused: [(x) => og.avgPool2d(x!, 2, { padding: 2 }), (x) => og.avgPool2d(x!, 2, { stride: 0 })],
  },
  {
    name: 'avgPool2d to the end',
    op: 'avgPool2d',
    call: (x) => og.avgPool2d(x!, [2, 3], { stride: 2, padding: 1, ceilMode: true }),
    oracle: (x) => pooled(x!, { ...avgPool, ceil: true }, (values, places) => sum(values) / places),
    shapes: images,
  },
  {
    name: 'avgPool2d without its padding',
    op: 'avgPool2d',
    call: (x) => og.avgPool2d(x!, [2, 3], { stride: 2, padding: 1, countIncludePad: false }),
    oracle: (x) => pooled(x!, avgPool, mean),
    shapes: images,
  },
];

/** Input positions of an output position, each with its weight. */
type Taps = (at: number, input: number, output: number) => readonly (readonly [from: number, weight: number])[];

/** Σ over the taps along the axes behind the first two. */
function resampled(x: Nd, size: Shape, taps: Taps): Nd {
  const lengths = x.shape.slice(2);
  const along = size.map((output, axis) => Array.from({ length: output }, (_, at) => taps(at, lengths[axis]!, output)));
  return make([...x.shape.slice(0, 2), ...size], ([n, c, ...at]) => {
    const from = (axis: number, index: readonly number[]): number => {
      if (axis === lengths.length) return get(x, [n!, c!, ...index]);
      return sum(along[axis]![at[axis]!]!.map(([place, weight]) => weight * from(axis + 1, [...index, place])));
    };
    return from(0, []);
  });
}

const within = (at: number, length: number): number => Math.min(Math.max(at, 0), length - 1);
const lerp = (at: number, length: number): [number, number][] => {
  const low = Math.floor(at);
  return [
    [within(low, length), 1 - (at - low)],
    [within(low + 1, length), at - low],
  ];
};

/** Keys' kernel with the parameter a. */
const keys =
  (a: number) =>
  (distance: number): number => {
    const t = Math.abs(distance);
    if (t >= 2) return 0;
    return t <= 1 ? (a + 2) * t ** 3 - (a + 3) * t ** 2 + 1 : a * (t ** 3 - 5 * t ** 2 + 8 * t - 4);
  };
const triangle = (distance: number): number => Math.max(0, 1 - Math.abs(distance));

/** All elements, weighted by a kernel that is as much wider as the grid gets coarser, and normalised. */
const antialiased =
  (kernel: (distance: number) => number): Taps =>
  (at, input, output) => {
    const scale = input / output;
    const weights = Array.from({ length: input }, (_, i) =>
      kernel((i + 0.5 - (at + 0.5) * scale) / Math.max(scale, 1)),
    );
    return weights.map((weight, i) => [i, weight / sum(weights)]);
  };

const equalParts: Taps = (at, input, output) => {
  const start = Math.floor((at * input) / output);
  const count = Math.ceil(((at + 1) * input) / output) - start;
  return Array.from({ length: count }, (_, i) => [start + i, 1 / count]);
};

const cubicTaps: Taps = (at, input, output) => {
  const place = ((at + 0.5) * input) / output - 0.5;
  return [-1, 0, 1, 2].map((step) => {
    const tap = Math.floor(place) + step;
    return [within(tap, input), keys(-0.75)(place - tap)];
  });
};

const linearTaps: Taps = (at, input, output) => lerp(Math.max(((at + 0.5) * input) / output - 0.5, 0), input);

function interpolation(name: string, options: og.InterpolateOptions, taps: Taps, extra: Partial<Row> = {}): Row {
  const size = options.size as Shape;
  return {
    name: `interpolate ${name}`,
    op: 'interpolate',
    call: (x) => og.interpolate(x!, options),
    oracle: (x) => resampled(x!, size, taps),
    shapes: images,
    ulps: 64, // positions as large as the axis carry their own rounding into the weights
    ...extra,
  };
}

const sequences: Row['shapes'] = [[[2, 2, 5]], [[0, 2, 5]], [[1, 1, 1]], [[1, 2, 17]]];

const grids: Row[] = [
  {
    name: 'adaptiveAvgPool2d',
    call: (x) => og.adaptiveAvgPool2d(x!, [2, 3]),
    oracle: (x) => resampled(x!, [2, 3], equalParts),
    shapes: images,
    ulps: 16,
    large,
    misfits: [[[2, 4, 5]], [[1, 1, 0, 5]]],
    refused: [(x) => og.adaptiveAvgPool2d(x!, 0)],
  },
  interpolation('nearest', { size: [3, 7] }, (at, input, output) => [[Math.floor((at * input) / output), 1]], {
    large,
    misfits: [[[3, 4]], [[1, 1, 0, 5]]],
    refused: [
      (x) => og.interpolate(x!, {}),
      (x) => og.interpolate(x!, { size: [3] }),
      (x) => og.interpolate(x!, { scaleFactor: -1 }),
      (x) => og.interpolate(x!, { size: 3, alignCorners: true }),
      (x) => og.interpolate(x!, { size: 3, mode: 'cubic' as never }),
    ],
  }),
  interpolation('nearest-exact', { size: [3, 7], mode: 'nearest-exact' }, (at, input, output) => [
    [Math.floor(((at + 0.5) * input) / output), 1],
  ]),
  interpolation('linear', { size: [8], mode: 'linear' }, linearTaps, { shapes: sequences, misfits: [[[1, 2, 3, 4]]] }),
  interpolation('bilinear', { size: [3, 7], mode: 'bilinear' }, linearTaps, { large }),
  interpolation(
    'bilinear, corners aligned',
    { size: [3, 7], mode: 'bilinear', alignCorners: true },
    (at, input, output) => lerp((at * (input - 1)) / (output - 1), input),
  ),
  interpolation('bilinear, antialiased', { size: [2, 3], mode: 'bilinear', antialias: true }, antialiased(triangle)),
  interpolation('bicubic', { size: [3, 7], mode: 'bicubic' }, cubicTaps, { magnitude: 4 }),
  interpolation('bicubic, antialiased', { size: [2, 3], mode: 'bicubic', antialias: true }, antialiased(keys(-0.5)), {
    magnitude: 4,
  }),
  interpolation('area', { size: [2, 3], mode: 'area' }, equalParts),
];

export const imageRows: readonly Row[] = [...pools, ...grids];
