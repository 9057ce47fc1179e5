/** Codes of integers and 8-bit floats: made, read, and multiplied. */
import * as og from '../../../src/index.js';
import { get, make, map, sizeOf, type InputRule, type Nd, type Row, type Shape } from '../row.js';
import { round } from './elementwise.js';
import { product, transposed } from './arrays.js';

const clamp = (x: number, low: number, high: number): number => Math.min(Math.max(x, low), high);

interface Codes {
  readonly codes: number[];
  readonly scale: number;
  readonly zero: number;
}

/** −(2ᵇ⁻¹ − 1) … 2ᵇ⁻¹ − 1 around zero; the scale is a float32. */
function symmetric(values: readonly number[], bits: number): Codes {
  const limit = 2 ** (bits - 1) - 1;
  const scale = Math.fround(Math.max(0, ...values.map(Math.abs)) / limit) || 1;
  return { codes: values.map((x) => clamp(round(x / scale), -limit, limit)), scale, zero: 0 };
}

/** 0 … 2ᵇ − 1 from the smallest to the largest, 0 among them. */
function affine(values: readonly number[], bits: number): Codes {
  const top = 2 ** bits - 1;
  const low = Math.min(0, ...values);
  const scale = Math.fround((Math.max(0, ...values) - low) / top) || 1;
  const zero = round(-low / scale);
  return { codes: values.map((x) => clamp(round(x / scale) + zero, 0, top)), scale, zero };
}

type Scheme = (values: readonly number[], bits: number) => Codes;

/** Codes, scales and zero points of runs of `length` elements in memory order. */
function inRuns(x: Nd, length: number, shape: Shape, scheme: Scheme, bits: number): { codes: Nd; scale: Nd; zero: Nd } {
  const runs = Array.from({ length: sizeOf(shape) }, (_, i) =>
    scheme([...x.data.slice(i * length, (i + 1) * length)], bits),
  );
  const each = (f: (run: Codes) => number): Nd => ({ shape, data: Float64Array.from(runs, f) });
  return {
    codes: { shape: x.shape, data: Float64Array.from(runs.flatMap((run) => run.codes)) },
    scale: each((run) => run.scale),
    zero: each((run) => run.zero),
  };
}

const matrices: Row['shapes'] = [[[3, 4]], [[0, 4]], [[1, 1]], [[2, 17]], [[5, 33]]];
const large: readonly Shape[] = [[259, 131]];
const listed = ({ codes, scale, zeroPoint }: og.Quantized): og.Tensor[] =>
  zeroPoint === null ? [codes, scale] : [codes, scale, zeroPoint];

const makers: Row[] = [
  {
    name: 'quantize',
    call: (x) => listed(og.quantize(x!)),
    oracle: (x) => {
      const { codes, scale } = inRuns(x!, sizeOf(x!.shape), [], symmetric, 8);
      return [codes, scale];
    },
    shapes: [...matrices, [[]]],
    large,
    gradient: false,
    result: ['int8', 'float32'],
    refused: [
      (x) => og.quantize(x!, { bits: 5 as never }),
      (x) => og.quantize(x!, { scheme: 'linear' as never }),
      (x) => og.quantize(x!, { axis: 0, groupSize: 2 }),
      (x) => og.quantize(x!, { groupSize: 0 }),
    ],
  },
  {
    name: 'quantize by rows',
    op: 'quantize',
    call: (x) => listed(og.quantize(x!, { scheme: 'affine', axis: 0 })),
    oracle: (x) => Object.values(inRuns(x!, x!.shape[1]!, [x!.shape[0]!], affine, 8)) as Nd[],
    shapes: [...matrices, [[3, 0]]],
    large,
    gradient: false,
    result: ['uint8', 'float32', 'int32'],
  },
  {
    name: 'quantize in groups of four bits',
    op: 'quantize',
    call: (x) => listed(og.quantize(x!, { bits: 4, groupSize: 2 })),
    oracle: (x) => {
      const { codes, scale } = inRuns(x!, 2, [x!.shape[0]!, x!.shape[1]! / 2], symmetric, 4);
      return [codes, scale];
    },
    shapes: [[[3, 4]], [[0, 4]], [[17, 6]]],
    large: [[259, 130]],
    gradient: false,
    result: ['int8', 'float32'],
    exceptions: { single: 'a group is of two' },
    misfits: [[[3, 5]], [[]]],
  },
  {
    name: 'fakeQuantize',
    call: (x, scale, zero) => og.fakeQuantize(x!, scale!, zero!, { qmin: -4, qmax: 3, axis: 1 }),
    // Scales are powers of two, so that quotients are exact in every dtype
    oracle: (x, scale, zero) =>
      map((value, step, offset) => (clamp(round(value / step) + offset, -4, 3) - offset) * step, x!, scale!, zero!),
    inputs: [
      { value: (u) => 4 * u },
      { value: (_, i) => 2 ** -(i % 3) },
      { dtype: 'int32', value: (_, i) => (i % 4) - 1 },
    ],
    shapes: [
      [[3, 4], [4], [4]],
      [[0, 4], [4], [4]],
      [[1, 1], [1], [1]],
      [[2, 17], [17], []],
      [[2, 33], [], [33]],
    ],
    large: [[259, 131], [131], [131]],
    gradient: false, // straight through by definition: test/reference/numeric_quantize.test.ts has it
    misfits: [[[3, 4], [3], [4]]],
    refused: [
      (x) => og.fakeQuantize(x!, 0),
      (x) => og.fakeQuantize(x!, 1, 0, { qmin: 3, qmax: 3 }),
      (x) => og.fakeQuantize(x!, 1, 0.5 as never, { axis: 1.5 }),
    ],
  },
];

const int8: InputRule = { dtype: 'int8', value: (_, i) => ((i * 37 + 11) % 255) - 127 };
const uint8: InputRule = { dtype: 'uint8', value: (_, i) => (i * 41 + 7) % 256 };
const steps: InputRule = { dtype: 'float32', value: (u) => 0.1 + 0.05 * u };
const zeros: InputRule = { dtype: 'int32', value: (_, i) => (i * 5) % 256 };

const grouped = { zeroPoint: null, bits: 4, axis: null, groupSize: 2, scheme: 'symmetric', packed: false } as const;

const readers: Row[] = [
  {
    name: 'dequantize',
    call: (codes, scale, zeroPoint) =>
      og.dequantize({
        codes: codes!,
        scale: scale!,
        zeroPoint: zeroPoint!,
        bits: 8,
        axis: 0,
        groupSize: null,
        scheme: 'affine',
        packed: false,
      }),
    oracle: (codes, scale, zero) =>
      make(codes!.shape, ([i, j]) => (get(codes!, [i!, j!]) - zero!.data[i!]!) * scale!.data[i!]!),
    inputs: [uint8, steps, zeros],
    shapes: [
      [[3, 4], [3], [3]],
      [[0, 4], [0], [0]],
      [[1, 1], [1], [1]],
      [[5, 33], [5], [5]],
    ],
    large: [[259, 131], [259], [259]],
    gradient: false,
    result: 'float32',
    misfits: [[[3, 4], [4], [3]]],
  },
  {
    name: 'dequantize of groups',
    op: 'dequantize',
    call: (codes, scale) => og.dequantize({ ...grouped, codes: codes!, scale: scale! }, 'float64'),
    oracle: (codes, scale) =>
      make(codes!.shape, ([i, j]) => Math.fround(get(codes!, [i!, j!]) * get(scale!, [i!, Math.floor(j! / 2)]))),
    inputs: [int8, steps],
    shapes: [
      [
        [3, 4],
        [3, 2],
      ],
      [
        [0, 4],
        [0, 2],
      ],
      [
        [17, 6],
        [17, 3],
      ],
    ],
    gradient: false,
    result: 'float64',
    exceptions: { single: 'a group is of two' },
    misfits: [
      [[3, 4], [3]],
      [
        [3, 5],
        [3, 2],
      ],
    ],
  },
];

const integerShapes: Row['shapes'] = [
  [
    [3, 4],
    [4, 5],
  ],
  [
    [0, 4],
    [4, 5],
  ],
  [
    [2, 0],
    [0, 3],
  ],
  [
    [1, 1],
    [1, 1],
  ],
  [
    [7, 33],
    [33, 17],
  ],
  [
    [5, 129],
    [129, 65],
  ],
];
const integerLarge: readonly Shape[] = [
  [131, 67],
  [67, 129],
];
const innerDiffers: Row['misfits'] = [
  [
    [3, 4],
    [3, 4],
  ],
  [[4], [4, 5]],
];
const shifted = (x: Nd, by: number): Nd => map((value) => value - by, x);

const products: Row[] = [
  {
    name: 'matmulInt8',
    call: (a, b) => og.matmulInt8(a!, b!),
    oracle: (a, b) => product(a!, b!),
    inputs: [int8, int8],
    shapes: integerShapes,
    large: integerLarge,
    gradient: false,
    result: 'int32',
    misfits: innerDiffers,
    kernels: ['matmul_int8'],
  },
  {
    name: 'matmulInteger',
    call: (a, b) => og.matmulInteger(a!, b!, 131, -5),
    oracle: (a, b) => product(shifted(a!, 131), shifted(b!, -5)),
    inputs: [uint8, int8],
    shapes: integerShapes,
    large: integerLarge,
    gradient: false,
    result: 'int32',
    misfits: innerDiffers,
    refused: [(a, b) => og.matmulInteger(a!, b!, 256), (a, b) => og.matmulInteger(a!, b!, 0, 0.5)],
  },
  {
    name: 'linearInt8Dynamic',
    call: (x, codes, scale, bias) => {
      const weight: og.Quantized = {
        codes: codes!,
        scale: scale!,
        zeroPoint: null,
        bits: 8,
        axis: 0,
        groupSize: null,
        scheme: 'symmetric',
        packed: false,
      };
      return og.linearInt8Dynamic(x!, weight, bias!);
    },
    oracle: (x, codes, scale, bias) => {
      const width = codes!.shape[1]!;
      const outer = x!.shape.slice(0, -1);
      const rows: Nd = { shape: [sizeOf(outer), width], data: x!.data };
      const input = inRuns(rows, width, [sizeOf(outer)], symmetric, 8);
      const sums = product(input.codes, transposed(codes!));
      const y = make(
        sums.shape,
        ([i, j]) => get(sums, [i!, j!]) * input.scale.data[i!]! * scale!.data[j!]! + bias!.data[j!]!,
      );
      return { shape: [...outer, codes!.shape[0]!], data: y.data };
    },
    inputs: [{}, int8, steps, {}],
    shapes: [
      [[3, 4], [5, 4], [5], [5]],
      [[2, 3, 4], [5, 4], [5], [5]],
      [[0, 4], [5, 4], [5], [5]],
      [[2, 0], [5, 0], [5], [5]],
      [[1, 1], [1, 1], [1], [1]],
      [[3, 33], [17, 33], [17], [17]],
    ],
    large: [[131, 67], [129, 67], [129], [129]],
    gradient: false, // of codes: the layer is for inference
    magnitude: 16,
    misfits: [
      [[3, 5], [5, 4], [5], [5]],
      [[3, 4], [5, 4], [1], [5]],
      [[3, 4], [5, 4], [5], [1]],
    ],
    precision: (floats) => (floats === 'float64' ? 'float32' : floats),
  },
];

interface Format {
  readonly mantissa: number;
  readonly bias: number;
  /** Largest code of a finite number, and the code that what is larger gets. */
  readonly top: number;
  readonly overflow: number;
}

const formats: Readonly<Record<og.Float8Format, Format>> = {
  e4m3fn: { mantissa: 3, bias: 7, top: 0x7e, overflow: 0x7f },
  e5m2: { mantissa: 2, bias: 15, top: 0x7b, overflow: 0x7c },
};
const formatNames = ['e4m3fn', 'e5m2'] as const;

/** What a code without sign stands for, were all exponents those of finite numbers. */
function magnitude(code: number, { mantissa, bias }: Format): number {
  const [exponent, rest] = [code >> mantissa, (code % 2 ** mantissa) / 2 ** mantissa];
  return exponent === 0 ? rest * 2 ** (1 - bias) : (1 + rest) * 2 ** (exponent - bias);
}

function decode(code: number, format: Format): number {
  const a = code & 0x7f;
  const value = a <= format.top ? magnitude(a, format) : a === 0x7c && format.overflow === 0x7c ? Infinity : NaN;
  return code < 128 ? value : -value;
}

/** The nearest of all codes, of two the even one. */
function encode(x: number, format: Format): number {
  if (Number.isNaN(x)) return 0x7f;
  const a = Math.abs(Math.fround(x));
  let best = 0;
  for (let code = 1; code <= format.top + 1; code++) {
    const [before, now] = [a - magnitude(best, format), magnitude(code, format) - a];
    if (Math.abs(now) < Math.abs(before) || (now === before && code % 2 === 0)) best = code;
  }
  const sign = x < 0 || Object.is(x, -0) ? 128 : 0;
  return sign + (a === Infinity || best > format.top ? format.overflow : best);
}

/** Numbers of all sizes, ties, and what is no number. */
const special = [
  NaN,
  Infinity,
  -Infinity,
  0,
  -0,
  448,
  464,
  465,
  -480,
  57344,
  61440,
  1e5,
  2 ** -10,
  2 ** -17,
  1.0625,
  17,
];
const float8: Row[] = [
  {
    name: 'toFloat8',
    call: (x) => formatNames.map((name) => og.toFloat8(x!, name)),
    oracle: (x) => formatNames.map((name) => map((value) => encode(value, formats[name]), x!)),
    inputs: [{ value: (u, i) => (i % 2 === 0 ? special[(i / 2) % special.length]! : u * 2 ** ((i % 29) - 14)) }],
    shapes: [[[3, 14]], [[0, 4]], [[1]], [[]], [[5, 17]], [[33, 7]]],
    large,
    gradient: false,
    result: 'uint8',
    refused: [(x) => og.toFloat8(x!, 'e3m4' as never)],
  },
  {
    name: 'fromFloat8',
    call: (bits) => formatNames.map((name) => og.fromFloat8(bits!, name)),
    oracle: (bits) => formatNames.map((name) => map((code) => decode(code, formats[name]), bits!)),
    inputs: [{ dtype: 'uint8', value: (_, i) => i % 256 }],
    shapes: [[[16, 16]], [[0, 4]], [[1]], [[]], [[5, 17]]],
    large,
    gradient: false,
    result: 'float32',
    refused: [(bits) => og.fromFloat8(bits!, 'e3m4' as never)],
  },
];

export const quantizationRows: readonly Row[] = [...makers, ...readers, ...products, ...float8];
