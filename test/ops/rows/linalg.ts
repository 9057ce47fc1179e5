/** Dense linear algebra, and the inner loop of GPTQ and SparseGPT. */
import * as og from '../../../src/index.js';
import { get, make, map, type Nd, type Row } from '../row.js';
import { round } from './elementwise.js';

const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);
const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);

/** x·xᵀ + 2·I: symmetric and positive definite. */
function definite(x: og.Tensor): og.Tensor {
  const n = x.shape.at(-2)!;
  return og.add(og.matmul(x, og.transpose(x)), og.mul(og.eye(n, n, { dtype: x.dtype }), 2));
}

function definiteOf(x: Nd): Nd {
  const [n, m] = [x.shape.at(-2)!, x.shape.at(-1)!];
  return make([...x.shape.slice(0, -1), n], (index) => {
    const [lead, i, j] = [index.slice(0, -2), index.at(-2)!, index.at(-1)!];
    return sum(range(m).map((k) => get(x, [...lead, i, k]) * get(x, [...lead, j, k]))) + (i === j ? 2 : 0);
  });
}

/** Column by column, from the definition. */
function choleskyOf(a: Nd): Nd {
  const n = a.shape.at(-1)!;
  const l = new Float64Array(a.data.length);
  for (let at = 0; at < a.data.length; at += n * n) {
    for (let j = 0; j < n; j++) {
      for (let i = j; i < n; i++) {
        const rest = a.data[at + i * n + j]! - sum(range(j).map((k) => l[at + i * n + k]! * l[at + j * n + k]!));
        l[at + i * n + j] = i === j ? Math.sqrt(rest) : rest / l[at + j * n + j]!;
      }
    }
  }
  return { shape: a.shape, data: l };
}

const flipped = (a: Nd): Nd => make(a.shape, (index) => get(a, [...index.slice(0, -2), index.at(-1)!, index.at(-2)!]));

/** Substitution, forwards or backwards. */
function solved(a: Nd, b: Nd, upper: boolean): Nd {
  const [n, m] = [b.shape.at(-2)!, b.shape.at(-1)!];
  const x = new Float64Array(b.data.length);
  const order = upper ? range(n).reverse() : range(n);
  for (let matrix = 0; matrix * n * m < x.length; matrix++) {
    const factor = (i: number, k: number): number => a.data[(matrix * n + i) * n + k]!;
    for (let j = 0; j < m; j++) {
      for (const i of order) {
        const known = order.slice(0, order.indexOf(i));
        const taken = sum(known.map((k) => factor(i, k) * x[(matrix * n + k) * m + j]!));
        x[(matrix * n + i) * m + j] = (b.data[(matrix * n + i) * m + j]! - taken) / factor(i, i);
      }
    }
  }
  return { shape: b.shape, data: x };
}

/** A triangular matrix with a diagonal away from 0. */
const safe = (x: og.Tensor): og.Tensor => og.add(x, og.mul(og.eye(x.shape.at(-1)!, undefined, { dtype: x.dtype }), 4));
const safeOf = (x: Nd): Nd => make(x.shape, (index) => get(x, index) + (index.at(-1) === index.at(-2) ? 4 : 0));

const halfIsRounded = 'x·xᵀ is rounded to 16 bits on the way';

export const linalgRows: readonly Row[] = [
  {
    name: 'linalg.cholesky',
    call: (x) => og.linalg.cholesky(definite(x!)),
    oracle: (x) => choleskyOf(definiteOf(x!)),
    shapes: [[[3, 4]], [[0, 4]], [[1, 1]], [[2, 5, 2]], [[17, 3]], [[65, 2]]],
    large: [[150, 3]],
    ulps: 64,
    kernels: ['cholesky', 'triangular_solve'],
    exceptions: { half: halfIsRounded, wrong: 'the row makes its matrix of another tensor' },
    refused: [(x) => og.linalg.cholesky(definite(x!), { lower: true } as never)],
  },
  {
    name: 'linalg.choleskyEx',
    call: (x) => {
      const { factor, info } = og.linalg.choleskyEx(definite(x!), { upper: true });
      return [factor, info];
    },
    oracle: (x) => [flipped(choleskyOf(definiteOf(x!))), make(x!.shape.slice(0, -2), () => 0)],
    shapes: [[[2, 3, 4]], [[2, 0, 4]], [[1, 1, 1]], [[1, 33, 2]]],
    large: [[1, 150, 3]],
    inputs: [{ dtype: 'float32' }],
    result: ['float32', 'int32'],
    ulps: 64,
    gradient: false,
    exceptions: { half: halfIsRounded, wrong: 'the row makes its matrix of another tensor' },
  },
  ...[false, true].map((upper): Row => ({
    name: `linalg.solveTriangular ${upper ? 'backwards' : 'forwards'}`,
    op: 'linalg.solveTriangular',
    call: (a, b) => og.linalg.solveTriangular(safe(a!), b!, { upper }),
    oracle: (a, b) => solved(safeOf(a!), b!, upper),
    shapes: [
      [[3, 3], [3, 4]],
      [[0, 0], [0, 2]],
      [[1, 1], [1, 1]],
      [[2, 5, 5], [2, 5, 1]],
      [[17, 17], [17, 33]],
    ], // prettier-ignore
    large: [[90, 90], [90, 70]], // prettier-ignore
    inputs: [{ value: (u) => 0.1 * u }, {}],
    misfits: [[[3, 3], [4, 2]], [[2, 2, 2], [2, 2]]], // prettier-ignore
    ulps: 64,
    exceptions: { half: 'the diagonal is rounded to 16 bits on the way', wrong: 'the row changes a first' },
  })),
  {
    name: 'obsBlock',
    call: (w, u) => {
      const { values, errors, codes } = og.obsBlock(w!, safe(u!), {
        scale: og.full([1, 1], 0.25),
        lowest: -7,
        highest: 7,
      });
      return [values, errors, codes!];
    },
    oracle: (w, u) => {
      const [n, factor] = [w!.shape[1]!, safeOf(u!)];
      const codes = new Float64Array(w!.data.length);
      const errors = new Float64Array(w!.data.length);
      for (let row = 0; row < w!.shape[0]!; row++) {
        const now = w!.data.slice(row * n, (row + 1) * n);
        for (let j = 0; j < n; j++) {
          const code = Math.min(Math.max(round(now[j]! / 0.25), -7), 7);
          const error = Math.fround(Math.fround(now[j]! - code * 0.25) / factor.data[j * n + j]!);
          for (let k = j + 1; k < n; k++) now[k] = Math.fround(now[k]! - Math.fround(error * factor.data[j * n + k]!));
          codes[row * n + j] = code;
          errors[row * n + j] = error;
        }
      }
      const as = (data: Float64Array): Nd => ({ shape: w!.shape, data });
      return [map((code) => code * 0.25, as(codes)), as(errors), as(codes)];
    },
    shapes: [[[3, 4], [4, 4]], [[0, 4], [4, 4]], [[1, 1], [1, 1]], [[17, 33], [33, 33]]], // prettier-ignore
    large: [[200, 64], [64, 64]], // prettier-ignore
    inputs: [
      { dtype: 'float32', value: (u) => 2 * u },
      { dtype: 'float32', value: (u) => 0.3 * u },
    ],
    result: ['float32', 'float32', 'int8'],
    gradient: false,
    exceptions: { wrong: 'shapes and dtypes are checked by the kernel' },
  },
];
