/** Element by element, copies, reductions and selections. */
import { og } from '../library.js';
import { discard, uniform, type KernelCase } from './case.js';
import type { Tensor } from '../../src/index.js';

function add(shape: readonly number[], unit: 'GB/s' | 'µs'): KernelCase {
  const size = shape.reduce((a, b) => a * b, 1);
  return {
    name: unit === 'µs' ? 'add, whole call' : 'add',
    shape: shape.join('x'),
    unit,
    amount: 12 * size,
    other: size,
    op: 'add',
    args: { shape },
    prepare: () => {
      const [a, b] = [uniform(...shape), uniform(...shape)];
      return () => og.add(a, b).dispose();
    },
  };
}

interface Matrix {
  readonly name: string;
  /** Bytes of an element that is read, and of one that is written. */
  readonly bytes: number;
  readonly limit?: 'read';
  run(x: Tensor): unknown;
}

/** Work on one matrix; reductions only read. */
const matrices = {
  transpose: { name: 'transposing copy', bytes: 8, run: (x) => og.contiguous(og.transpose(x, 0, 1)) },
  cast: { name: 'cast to bfloat16', bytes: 6, run: (x) => og.to(x, 'bfloat16') },
  sumRows: { name: 'sum of rows', bytes: 4, limit: 'read', run: (x) => og.sum(x, -1) },
  sumColumns: { name: 'sum of columns', bytes: 4, limit: 'read', run: (x) => og.sum(x, 0) },
  argmax: { name: 'argmax of rows', bytes: 4, limit: 'read', run: (x) => og.argmax(x, -1) },
  topk: { name: 'topk of rows, 50', bytes: 4, limit: 'read', run: (x) => og.topk(x, 50) },
  cumsum: { name: 'cumsum of rows', bytes: 8, run: (x) => og.cumsum(x, -1) },
} satisfies Record<string, Matrix>;

function matrix(kind: keyof typeof matrices, rows: number, width: number): KernelCase {
  const { name, bytes, limit, run }: Matrix = matrices[kind];
  return {
    name,
    shape: `${rows}x${width}`,
    unit: 'GB/s',
    amount: bytes * rows * width,
    ...(limit === undefined ? {} : { limit }),
    op: 'matrix',
    args: { kind, rows, width },
    prepare: () => {
      const x = uniform(rows, width);
      return discard(() => run(x));
    },
  };
}

export const elementCases: readonly KernelCase[] = [
  add([8192, 1024], 'GB/s'),
  add([2], 'µs'),
  matrix('transpose', 4096, 3072),
  matrix('cast', 8192, 1024),
  matrix('sumRows', 16384, 1024),
  matrix('sumColumns', 16384, 1024),
  matrix('argmax', 256, 50257),
  matrix('topk', 256, 50257),
  matrix('cumsum', 8192, 1024),
];
