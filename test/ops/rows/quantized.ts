/** Quantised weights: the product with a fixed weight, as a function of x. Block-wise codes of eight bits. */
import * as og from '../../../src/index.js';
import { lines, make, sizeOf, type Row } from '../row.js';

const [outFeatures, inFeatures] = [5, 64];
const weightValues = make([outFeatures, inFeatures], ([i, j]) => Math.sin(3 * i! + 0.7 * j!) * (1 + (j! % 5)));
const biasValues = [0.5, -1, 0, 2, -0.25];

/** Groups of 32 along a row, symmetric codes of `bits` bits with a float32 scale, back as numbers. */
function roundTrip(row: ArrayLike<number>, bits: number): number[] {
  const limit = 2 ** (bits - 1) - 1;
  return Array.from(row, (_, i) => {
    const group = Array.from(row).slice(i - (i % 32), i - (i % 32) + 32);
    const scale = Math.fround(Math.max(...group.map((x) => Math.abs(Math.fround(x)))) / limit);
    const ratio = Math.fround(Math.fround(row[i]!) / scale);
    const near = Math.floor(ratio + 0.5);
    const code = near - ratio === 0.5 && near % 2 !== 0 ? near - 1 : near;
    return Math.max(-limit, Math.min(limit, code)) * scale;
  });
}

function row(name: string, bits: 4 | 8, activations: 'float' | 'int8' = 'float'): Row {
  const rows = Array.from({ length: outFeatures }, (_, i) =>
    roundTrip(weightValues.data.slice(i * inFeatures, (i + 1) * inFeatures), bits),
  );
  const weight = (): og.Quantized => {
    const dense = og.tensor(weightValues.data, { shape: [outFeatures, inFeatures], dtype: 'float32' });
    return og.quantize(dense, { bits, packed: bits === 4, groupSize: 32 });
  };
  return {
    name,
    op: 'quantizedLinear',
    call: (x) => og.quantizedLinear(x!, weight(), og.tensor(biasValues, { dtype: x!.dtype }), { activations }),
    oracle: (x) =>
      lines(x!, -1, (line) => {
        if (line.length !== inFeatures) return biasValues;
        const near = activations === 'int8' ? roundTrip(line, 8) : line;
        return rows.map((w, i) => w.reduce((sum, value, j) => sum + value * near[j]!, biasValues[i]!));
      }),
    // the product of what was rounded has steps; its gradient by definition is that of the float product
    gradient: activations === 'float',
    shapes: [[[3, inFeatures]], [[0, inFeatures]], [[1, 1, inFeatures]], [[17, inFeatures]], [[33, inFeatures]]],
    magnitude: 50,
    kernels: activations === 'int8' ? ['linear_weight_only', 'linear_weight_only_pack'] : ['linear_weight_only'],
    misfits: [[[3, inFeatures - 1]], [[]]],
    exceptions: {
      single: 'the last axis is that of the weight',
    },
  };
}

/** The signed map as its authors list it, ascending. */
const dynamicMap = [0, 1, 2, 3, 4, 5, 6]
  .flatMap((decade) =>
    Array.from({ length: 2 ** decade }, (_, j) => (0.1 + (0.9 * (j + 0.5)) / 2 ** decade) * 10 ** (decade - 6)),
  )
  .flatMap((value) => [value, -value])
  .concat([0, 1])
  .sort((a, b) => a - b);

const blockSize = 16;

const blockwiseRows: readonly Row[] = [
  {
    name: 'quantizeBlockwise',
    call: (x) => {
      const { codes, absmax } = og.quantizeBlockwise(x!, { blockSize });
      return [codes, absmax];
    },
    oracle: (x) => {
      const absmax = Array.from({ length: Math.ceil(sizeOf(x!.shape) / blockSize) }, (_, i) =>
        Math.max(...x!.data.slice(i * blockSize, (i + 1) * blockSize).map((value) => Math.abs(Math.fround(value)))),
      );
      const codes = x!.data.map((value, i) => {
        const away = dynamicMap.map((number) => Math.abs(number - value / absmax[Math.floor(i / blockSize)]!));
        return away.indexOf(Math.min(...away));
      });
      return [
        { shape: x!.shape, data: codes },
        { shape: [absmax.length], data: Float64Array.from(absmax) },
      ];
    },
    shapes: [[[3, 4]], [[0, 4]], [[1]], [[5, 17]]],
    large: [[259, 131]],
    gradient: false,
    result: ['uint8', 'float32'],
    kernels: ['dynamic8_encode'],
    refused: [
      (x) => og.quantizeBlockwise(x!, { blockSize: 0 }),
      (x) => og.quantizeBlockwise(x!, { signed: 1 as never }),
    ],
  },
  {
    name: 'dequantizeBlockwise',
    call: (codes, absmax) => og.dequantizeBlockwise({ codes: codes!, absmax: absmax!, signed: true, blockSize }),
    oracle: (codes, absmax) => ({
      shape: codes!.shape,
      data: codes!.data.map((code, i) => dynamicMap[code]! * absmax!.data[Math.floor(i / blockSize)]!),
    }),
    inputs: [
      { dtype: 'uint8', value: (_, i) => (i * 41 + 7) % 256 },
      { dtype: 'float32', value: (u) => 1 + u },
    ],
    shapes: [
      [[3, 4], [1]],
      [[0, 4], [0]],
      [[1], [1]],
      [[5, 17], [6]],
    ],
    large: [[256, 16], [256]],
    gradient: false,
    result: 'float32',
    kernels: ['dynamic8_decode'],
    misfits: [[[3, 4], [2]]],
  },
];

export const quantizedRows: readonly Row[] = [
  row('quantizedLinear int4', 4),
  row('quantizedLinear int8', 8),
  row('quantizedLinear int4, int8 activations', 4, 'int8'),
  row('quantizedLinear int8, int8 activations', 8, 'int8'),
  ...blockwiseRows,
];
