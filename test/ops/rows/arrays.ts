/** Views, joins, indexing and products of matrices. */
import * as og from '../../../src/index.js';
import { get, make, sizeOf, type InputRule, type Nd, type Row, type Shape } from '../row.js';

const shapes: readonly (readonly Shape[])[] = [[[3, 4]], [[0, 4]], [[1, 1]], [[2, 17]], [[5, 33]]];

/** A rearrangement: the result's shape, and where each of its elements comes from. */
function moved(
  name: string,
  call: (x: og.Tensor) => og.Tensor,
  shape: (of: Shape) => Shape,
  from: (index: readonly number[], of: Shape) => readonly number[] | number,
): Row {
  return {
    name,
    call: (x) => call(x!),
    oracle: (x) =>
      make(shape(x!.shape), (index) => {
        const source = from(index, x!.shape);
        return typeof source === 'number' ? source : get(x!, source);
      }),
    shapes,
    integers: true,
  };
}

const same = (of: Shape): Shape => of;
const at = (index: readonly number[]): readonly number[] => index;
const flat = (_index: readonly number[], of: Shape): readonly number[] => [
  Math.floor(_index[0]! / of[1]!),
  _index[0]! % of[1]!,
];
const swap = ([i, j]: readonly number[]): number[] => [j!, i!];
const swapped = ([m, n]: Shape): Shape => [n!, m!];

const views: Row[] = [
  moved('clone', og.clone, same, at),
  moved('contiguous', og.contiguous, same, at),
  { ...moved('detach', og.detach, same, at), gradient: false },
  { ...moved('to', (x) => og.to(og.to(x, 'float64'), x.dtype), same, at), kernels: ['copy'] },
  moved(
    'flatten',
    (x) => og.flatten(x),
    (of) => [sizeOf(of)],
    flat,
  ),
  moved(
    'reshape',
    (x) => og.reshape(x, [x.size]),
    (of) => [sizeOf(of)],
    flat,
  ),
  moved('transpose', (x) => og.transpose(x), swapped, swap),
  moved('permute', (x) => og.permute(x, [1, 0]), swapped, swap),
  moved('moveAxis', (x) => og.moveAxis(x, 0, 1), swapped, swap),
  moved(
    'unsqueeze',
    (x) => og.unsqueeze(x, 1),
    ([m, n]) => [m!, 1, n!],
    ([i, , j]) => [i!, j!],
  ),
  moved('squeeze', (x) => og.squeeze(og.unsqueeze(x, 0), 0), same, at),
  moved(
    'expand',
    (x) => og.expand(x, [2, ...(x.shape ?? [])]),
    (of) => [2, ...of],
    ([, i, j]) => [i!, j!],
  ),
  moved(
    'broadcastTo',
    (x) => og.broadcastTo(x, [2, ...(x.shape ?? [])]),
    (of) => [2, ...of],
    ([, i, j]) => [i!, j!],
  ),
  moved(
    'narrow',
    (x) => og.narrow(x, 1, 0, 1),
    ([m]) => [m!, 1],
    at,
  ),
  moved(
    'slice',
    (x) => og.slice(x, 1, 0, null, 2),
    ([m, n]) => [m!, Math.ceil(n! / 2)],
    ([i, j]) => [i!, 2 * j!],
  ),
  moved(
    'select',
    (x) => og.select(x, 1, -1),
    ([m]) => [m!],
    ([i], [, n]) => [i!, n! - 1],
  ),
  moved(
    'flip',
    (x) => og.flip(x, 1),
    same,
    ([i, j], [, n]) => [i!, n! - 1 - j!],
  ),
  moved(
    'diagonal',
    (x) => og.diagonal(x),
    ([m, n]) => [Math.min(m!, n!)],
    ([i]) => [i!, i!],
  ),
  moved(
    'tril',
    (x) => og.tril(x),
    same,
    ([i, j]) => (j! <= i! ? [i!, j!] : 0),
  ),
  moved(
    'triu',
    (x) => og.triu(x),
    same,
    ([i, j]) => (j! >= i! ? [i!, j!] : 0),
  ),
  moved(
    'roll',
    (x) => og.roll(x, 1, 1),
    same,
    ([i, j], [, n]) => [i!, (j! + n! - 1) % n!],
  ),
  moved(
    'repeat',
    (x) => og.repeat(x, [2, 1]),
    ([m, n]) => [2 * m!, n!],
    ([i, j], [m]) => [i! % m!, j!],
  ),
  moved(
    'tile',
    (x) => og.tile(x, [1, 2]),
    ([m, n]) => [m!, 2 * n!],
    ([i, j], [, n]) => [i!, j! % n!],
  ),
  moved(
    'repeatInterleave',
    (x) => og.repeatInterleave(x, 2, 1),
    ([m, n]) => [m!, 2 * n!],
    ([i, j]) => [i!, Math.floor(j! / 2)],
  ),
  moved(
    'pad',
    (x) => og.pad(x, [1, 2]),
    ([m, n]) => [m!, n! + 3],
    ([i, j], [, n]) => (j! >= 1 && j! <= n! ? [i!, j! - 1] : 0),
  ),
  moved(
    'at',
    (x) => og.at(x, ':', -1),
    ([m]) => [m!],
    ([i], [, n]) => [i!, n! - 1],
  ),
];

const pairs: Row['shapes'] = [
  [
    [3, 4],
    [3, 4],
  ],
  [
    [0, 4],
    [0, 4],
  ],
  [
    [1, 1],
    [1, 1],
  ],
  [
    [2, 17],
    [2, 17],
  ],
];
const ids = (below: number): InputRule => ({ dtype: 'int64', value: (_, i) => (i * 7 + 2) % below });

const joins: Row[] = [
  {
    name: 'concat',
    call: (a, b) => og.concat([a!, b!], 1),
    oracle: (a, b) => {
      const n = a!.shape[1]!;
      return make([a!.shape[0]!, 2 * n], ([i, j]) => (j! < n ? get(a!, [i!, j!]) : get(b!, [i!, j! - n])));
    },
    shapes: pairs,
    integers: true,
    exceptions: { wrong: 'the argument is a list, of which what is no tensor is refused as an attribute' },
    misfits: [
      [
        [3, 4],
        [2, 4],
      ],
    ],
  },
  {
    name: 'stack',
    call: (a, b) => og.stack([a!, b!]),
    oracle: (a, b) => make([2, ...a!.shape], ([k, ...rest]) => get(k === 0 ? a! : b!, rest)),
    shapes: pairs,
    integers: true,
    exceptions: { wrong: 'the argument is a list, of which what is no tensor is refused as an attribute' },
    misfits: [
      [
        [3, 4],
        [3, 3],
      ],
    ],
  },
  ...(['split', 'chunk', 'unbind'] as const).map((name): Row => ({
    name,
    call: (x) => (name === 'unbind' ? og.unbind(x!, 0) : name === 'chunk' ? og.chunk(x!, 3) : og.split(x!, 1)),
    oracle: (x) =>
      Array.from({ length: 3 }, (_, k) =>
        make(name === 'unbind' ? x!.shape.slice(1) : [1, ...x!.shape.slice(1)], (index) => get(x!, [k, index.at(-1)!])),
      ),
    shapes: [[[3, 4]], [[3, 0]], [[3, 17]]],
    exceptions: { single: 'three parts are compared' },
  })),
  {
    name: 'indexSelect',
    call: (x, index) => og.indexSelect(x!, 0, index!),
    oracle: (x, index) => make([index!.shape[0]!, x!.shape[1]!], ([i, j]) => get(x!, [index!.data[i!]!, j!])),
    inputs: [{}, ids(3)],
    shapes: [
      [[3, 4], [5]],
      [[3, 4], [0]],
      [[3, 33], [1]],
    ],
    kernels: ['index_select'],
  },
  {
    name: 'gather',
    call: (x, index) => og.gather(x!, 1, index!),
    oracle: (x, index) => make(index!.shape, (where) => get(x!, [where[0]!, get(index!, where)])),
    inputs: [{}, ids(4)],
    shapes: [
      [
        [3, 4],
        [3, 2],
      ],
      [
        [3, 4],
        [3, 0],
      ],
      [
        [3, 4],
        [1, 1],
      ],
      [
        [3, 4],
        [3, 17],
      ],
    ],
  },
  {
    name: 'embedding',
    call: (weight, index) => og.embedding(weight!, index!),
    oracle: (weight, index) =>
      make([...index!.shape, weight!.shape[1]!], (where) =>
        get(weight!, [get(index!, where.slice(0, -1)), where.at(-1)!]),
      ),
    inputs: [{}, ids(3)],
    shapes: [
      [
        [3, 4],
        [2, 3],
      ],
      [[3, 4], [0]],
      [[3, 33], [1]],
    ],
  },
];

export const product = (a: Nd, b: Nd): Nd =>
  make([a.shape[0]!, b.shape[1]!], ([i, j]) => {
    let total = 0;
    for (let k = 0; k < a.shape[1]!; k++) total += get(a, [i!, k]) * get(b, [k, j!]);
    return total;
  });
export const transposed = (x: Nd): Nd => make([x.shape[1]!, x.shape[0]!], ([i, j]) => get(x, [j!, i!]));
const plus = (x: Nd, bias: Nd): Nd => make(x.shape, (index) => get(x, index) + get(bias, index));

const products: Row[] = [
  ...(['matmul', 'einsum'] as const).map((name): Row => ({
    name,
    call: (a, b) => (name === 'matmul' ? og.matmul(a!, b!) : og.einsum('ij,jk->ik', a!, b!)),
    oracle: (a, b) => product(a!, b!),
    shapes: [
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
    ],
    large: [
      [131, 67],
      [67, 129],
    ],
    misfits: [
      [
        [3, 4],
        [3, 4],
      ],
    ],
    magnitude: 8,
  })),
  {
    name: 'linear',
    call: (x, weight, bias) => og.linear(x!, weight!, bias!),
    oracle: (x, weight, bias) => plus(product(x!, transposed(weight!)), bias!),
    shapes: [
      [[3, 4], [5, 4], [5]],
      [[0, 4], [5, 4], [5]],
      [[1, 1], [1, 1], [1]],
      [[3, 33], [17, 33], [17]],
    ],
    large: [[131, 67], [129, 67], [129]],
    misfits: [[[3, 4], [5, 3], [5]]],
    magnitude: 8,
  },
  {
    name: 'linear of a packed weight',
    op: 'linear',
    call: (x, weight, bias) =>
      og.noGrad(() => {
        og.linear(x!, weight!, bias!).dispose();
        return og.linear(x!, weight!, bias!);
      }),
    oracle: (x, weight, bias) => plus(product(x!, transposed(weight!)), bias!),
    shapes: [
      [[9, 130], [150, 130], [150]],
      [[5, 129], [150, 129], [150]],
      [[0, 4], [5, 4], [5]],
      [[1, 1], [1, 1], [1]],
      [[33, 257], [65, 257], [65]],
    ],
    gradient: false,
    kernels: ['matmul_pack'],
    large: [[131, 267], [129, 267], [129]],
    misfits: [[[9, 4], [5, 3], [5]]],
    magnitude: 16,
  },
  {
    name: 'linear with an activation and a residual',
    op: 'linear',
    call: (x, weight, bias, residual) => og.linear(x!, weight!, bias!, { activation: 'silu', residual: residual! }),
    oracle: (x, weight, bias, residual) => {
      const sums = plus(product(x!, transposed(weight!)), bias!);
      const active = make(sums.shape, (index) => {
        const value = get(sums, index);
        return value / (1 + Math.exp(-value));
      });
      return make(sums.shape, (index) => get(active, index) + get(residual!, index));
    },
    shapes: [
      [[3, 4], [5, 4], [5], [3, 5]],
      [[0, 4], [5, 4], [5], [0, 5]],
      [[1, 1], [1, 1], [1], [1, 1]],
      [[3, 33], [17, 33], [17], [3, 17]],
    ],
    large: [[131, 67], [129, 67], [129], [131, 129]],
    misfits: [[[3, 4], [5, 4], [5], [5]]],
    magnitude: 16,
  },
];

export const arrayRows: readonly Row[] = [...views, ...joins, ...products];
