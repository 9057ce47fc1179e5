/** Softmax, normalisations and activations: work on rows that fit a cache. */
import { og } from '../library.js';
import { discard, uniform, type KernelCase } from './case.js';
import type { Tensor } from '../../src/index.js';

interface RowOp {
  /** Operations of an element, about. */
  readonly operations: number;
  /** Arrays of the size of x that are read or written. */
  readonly arrays: number;
  prepare(count: number, width: number): () => void;
}

const once = (make: () => Tensor) => (): void => make().dispose();

/** The way back alone: the graph is recorded once and walked again and again. */
function wayBack(forward: (inputs: readonly Tensor[]) => Tensor, inputs: readonly Tensor[]): () => void {
  const leaves = inputs.map((x) => x.requiresGrad_());
  const y = forward(leaves);
  const gradient = uniform(...y.shape);
  return discard(() => og.gradientsOf(y, leaves, { gradOutputs: [gradient], retainGraph: true }));
}

const kinds = {
  softmax: {
    operations: 5,
    arrays: 2,
    prepare: (n, width) => {
      const x = uniform(n, width);
      return once(() => og.softmax(x));
    },
  },
  logSoftmax: {
    operations: 5,
    arrays: 2,
    prepare: (n, width) => {
      const x = uniform(n, width);
      return once(() => og.logSoftmax(x));
    },
  },
  layerNorm: {
    operations: 8,
    arrays: 2,
    prepare: (n, width) => {
      const [x, weight, bias] = [uniform(n, width), uniform(width), uniform(width)];
      return once(() => og.layerNorm(x, width, weight, bias));
    },
  },
  'layerNorm backward': {
    operations: 14,
    arrays: 3,
    prepare: (n, width) =>
      wayBack(
        ([x, weight, bias]) => og.layerNorm(x!, width, weight!, bias!),
        [uniform(n, width), uniform(width), uniform(width)],
      ),
  },
  rmsNorm: {
    operations: 4,
    arrays: 2,
    prepare: (n, width) => {
      const [x, weight] = [uniform(n, width), uniform(width)];
      return once(() => og.rmsNorm(x, width, weight));
    },
  },
  'rmsNorm backward': {
    operations: 10,
    arrays: 3,
    prepare: (n, width) =>
      wayBack(([x, weight]) => og.rmsNorm(x!, width, weight!), [uniform(n, width), uniform(width)]),
  },
  addLayerNorm: {
    operations: 9,
    arrays: 4, // x and residual, their sum and its norm
    prepare: (n, width) => {
      const [x, residual, weight, bias] = [uniform(n, width), uniform(n, width), uniform(width), uniform(width)];
      return discard(() => og.addLayerNorm(x, residual, width, weight, bias));
    },
  },
  gelu: {
    operations: 20,
    arrays: 2,
    prepare: (n, width) => {
      const x = uniform(n, width);
      return once(() => og.gelu(x));
    },
  },
  'gelu backward': {
    operations: 25,
    arrays: 3,
    prepare: (n, width) => wayBack(([x]) => og.gelu(x!), [uniform(n, width)]),
  },
  'gelu tanh': {
    operations: 15,
    arrays: 2,
    prepare: (n, width) => {
      const x = uniform(n, width);
      return once(() => og.gelu(x, { approximate: 'tanh' }));
    },
  },
  'gelu tanh backward': {
    operations: 20,
    arrays: 3,
    prepare: (n, width) => wayBack(([x]) => og.gelu(x!, { approximate: 'tanh' }), [uniform(n, width)]),
  },
  swiglu: {
    operations: 12,
    arrays: 3,
    prepare: (n, width) => {
      const [gate, up] = [uniform(n, width), uniform(n, width)];
      return once(() => og.swiglu(gate, up));
    },
  },
  exp: {
    operations: 10,
    arrays: 2,
    prepare: (n, width) => {
      const x = uniform(n, width);
      return once(() => og.exp(x));
    },
  },
} satisfies Record<string, RowOp>;

function rows(kind: keyof typeof kinds, count: number, width: number): KernelCase {
  const { operations, arrays, prepare }: RowOp = kinds[kind];
  return {
    name: kind,
    shape: `${count}x${width}`,
    unit: 'GB/s',
    amount: 4 * arrays * count * width,
    other: operations * count * width,
    op: 'rows',
    args: { kind, rows: count, width },
    prepare: () => prepare(count, width),
  };
}

export const rowCases: readonly KernelCase[] = [
  rows('softmax', 8192, 1024),
  rows('softmax', 256, 50257),
  rows('logSoftmax', 8192, 1024),
  rows('exp', 8192, 1024),
  rows('layerNorm', 8192, 1024),
  rows('layerNorm backward', 8192, 1024),
  rows('rmsNorm', 8192, 1024),
  rows('rmsNorm backward', 8192, 1024),
  rows('addLayerNorm', 8192, 1024),
  rows('gelu', 8192, 1024),
  rows('gelu backward', 8192, 1024),
  rows('gelu tanh', 8192, 1024),
  rows('gelu tanh backward', 8192, 1024),
  rows('swiglu', 8192, 1024),
];
