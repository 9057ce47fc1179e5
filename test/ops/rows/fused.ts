/** Operations that are several others in one pass. */
import * as og from '../../../src/index.js';
import { get, lines, make, map, type Nd, type Row } from '../row.js';
import { mean, sum } from './reductions.js';
import { sigmoid } from './elementwise.js';

const silu = (x: number): number => x * sigmoid(x);

/** A line, normalised as the layer or the RMS normalisation does it, without parameters. */
function normalized(line: readonly number[], eps: number, centre: boolean): number[] {
  const average = centre ? mean([...line]) : 0;
  const rstd = 1 / Math.sqrt(mean(line.map((x) => (x - average) ** 2)) + eps);
  return line.map((x) => (x - average) * rstd);
}

/** The sum, and its normalisation times weight plus bias. */
function addNorm(eps: number, centre: boolean): Row['oracle'] {
  return (x, residual, weight, bias) => {
    const total = map((a, b) => a + b, x!, residual!);
    const normal = lines(total, -1, (line) => normalized(line, eps, centre));
    const scaled = map((a, w) => a * w, normal, weight!);
    return [total, bias === undefined ? scaled : map((a, b) => a + b, scaled, bias)];
  };
}

const rowShapes = (width: number, lead: readonly number[], parameters: number): readonly (readonly number[])[] => [
  [...lead, width],
  [...lead, width],
  ...Array.from({ length: parameters }, () => [width]),
];

const normShapes = (parameters: number): Row['shapes'] => [
  rowShapes(4, [3], parameters),
  rowShapes(4, [0], parameters),
  rowShapes(1, [1], parameters),
  rowShapes(17, [2, 3], parameters),
];

/** ln Σ e^x of a line, minus the x of the target. */
function loss(line: readonly number[], target: number): number {
  const largest = Math.max(...line);
  return largest + Math.log(sum(line.map((x) => Math.exp(x - largest)))) - line[target]!;
}

function logits(hidden: Nd, weight: Nd): Nd {
  const [rows, width] = hidden.shape as [number, number];
  return make([rows, weight.shape[0]!], ([i, j]) =>
    sum(Array.from({ length: width }, (_, k) => get(hidden, [i!, k]) * get(weight, [j!, k]))),
  );
}

const linearLoss: Row = {
  name: 'linearCrossEntropy',
  call: (hidden, weight, target) =>
    og.linearCrossEntropy(hidden!, weight!, target!, { reduction: 'sum', blockRows: 2 }),
  oracle: (hidden, weight, target) => {
    const scores = logits(hidden!, weight!);
    const classes = weight!.shape[0]!;
    const losses = Array.from(target!.data, (t, i) => loss([...scores.data.slice(i * classes, (i + 1) * classes)], t));
    return make([], () => sum(losses));
  },
  inputs: [{}, {}, { dtype: 'int64', value: (_u, i) => i % 5 }],
  shapes: [
    [[3, 4], [5, 4], [3]],
    [[0, 4], [5, 4], [0]],
    [[1, 1], [5, 1], [1]],
    [[17, 33], [19, 33], [17]],
  ],
  large: [[300, 64], [700, 64], [300]],
  misfits: [
    [[3, 4], [5, 3], [3]],
    [[3, 4], [5, 4], [2]],
  ],
  ulps: 16,
  magnitude: 16,
  kernels: ['cross_entropy_fused', 'matmul_into', 'scale_'],
  result: (floats) => (floats === 'float64' ? 'float64' : 'float32'),
};

export const fusedRows: readonly Row[] = [
  {
    name: 'swiglu',
    call: (gate, up) => og.swiglu(gate!, up!),
    oracle: (gate, up) => map((a, b) => silu(a) * b, gate!, up!),
    shapes: [
      [
        [3, 4],
        [3, 4],
      ],
      [[0], [0]],
      [[1], [1]],
      [[], []],
      [[17], [17]],
    ],
    misfits: [[[3], [4]]],
    kernels: ['swiglu_backward'],
  },
  {
    name: 'swiglu of halves',
    op: 'swiglu',
    call: (x) => og.swiglu(x!),
    oracle: (x) =>
      lines(x!, -1, (line) => {
        const half = line.length / 2;
        return line.slice(0, half).map((value, i) => silu(value) * line[half + i]!);
      }),
    shapes: [[[3, 4]], [[0, 4]], [[17, 2]]],
    kernels: ['swiglu_halves', 'swiglu_halves_backward'],
    exceptions: { single: 'the axis is halved' },
  },
  {
    name: 'addLayerNorm',
    call: (x, residual, weight, bias) => og.addLayerNorm(x!, residual!, weight!.shape, weight, bias),
    oracle: addNorm(1e-5, true),
    shapes: normShapes(2),
    misfits: [rowShapes(4, [3], 2).map((shape, i) => (i === 1 ? [2, 4] : shape))],
    ulps: 32,
    magnitude: 4,
    kernels: ['add_layer_norm', 'add_layer_norm_backward'],
    exceptions: {
      broadcast: 'rows of one repeated value have no variance, and what is left is rounding',
      wrong: 'the shape is read from the weight',
    },
  },
  {
    name: 'addRmsNorm',
    call: (x, residual, weight) => og.addRmsNorm(x!, residual!, weight!.shape, weight),
    oracle: addNorm(1e-6, false),
    shapes: normShapes(1),
    misfits: [rowShapes(4, [3], 1).map((shape, i) => (i === 1 ? [2, 4] : shape))],
    ulps: 32,
    magnitude: 4,
    kernels: ['add_rms_norm', 'add_rms_norm_backward'],
    exceptions: { wrong: 'the shape is read from the weight' },
  },
  linearLoss,
  {
    ...linearLoss,
    name: 'linearCrossEntropy without a gradient',
    op: 'linearCrossEntropy',
    call: (...inputs) => og.noGrad(() => linearLoss.call(...inputs)),
    gradient: false,
    kernels: ['cross_entropy_into', 'matmul_into'],
  },
];
