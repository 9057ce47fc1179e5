/** Products with sparse weights, as functions of the input and of the dense weight they were made from. */
import * as og from '../../../src/index.js';
import { get, make, type Nd, type Row, type Shape } from '../row.js';

type Keep = (i: number, j: number) => boolean;

const masked = (w: Nd, keep: Keep): Nd => make(w.shape, ([i, j]) => (keep(i!, j!) ? get(w, [i!, j!]) : 0));

/** x·wᵀ of two matrices. */
function product(x: Nd, w: Nd): Nd {
  return make([x.shape[0]!, w.shape[0]!], ([i, n]) => {
    let sum = 0;
    for (let k = 0; k < x.shape[1]!; k++) sum += get(x, [i!, k]) * get(w, [n!, k]);
    return sum;
  });
}

function row(options: og.ToSparseOptions, keep: Keep, weights: readonly Shape[], kernels: readonly string[]): Row {
  const maskOf = ({ shape }: og.Tensor): og.Tensor =>
    og.tensor(make(shape, ([i, j]) => Number(keep(i!, j!))).data, { shape: [...shape], dtype: 'bool' });
  const [small, wide] = weights as readonly [Shape, Shape];
  return {
    name: `sparseLinear ${options.layout}`,
    op: 'sparseLinear',
    call: (x, w) => {
      if (!(w instanceof og.Tensor)) return og.sparseLinear(x!, og.toSparseSync(w!));
      const weight = og.toSparseSync(w.dtype === 'float64' ? w : w.to('float32'), { ...options, mask: maskOf(w) });
      return og.sparseLinear(x!, weight).to(x!.dtype);
    },
    oracle: (x, w) => product(x!, masked(w!, keep)),
    shapes: [
      [[3, small[1]!], small],
      [[0, small[1]!], small],
      [[17, wide[1]!], wide],
      [[33, small[1]!], small],
    ],
    large: [[130, wide[1]!], wide],
    magnitude: 20,
    kernels,
    misfits: [
      [[3, small[1]! + 1], small],
      [[], small],
    ],
    exceptions: { single: 'the layouts have a least size' },
  };
}

export const sparseRows: readonly Row[] = [
  row(
    { layout: 'csr' },
    (i, j) => (i * 7 + j * 3) % 5 < 2,
    [
      [5, 7],
      [19, 33],
    ],
    ['csr_linear', 'csr_columns', 'csr_gather'],
  ),
  row(
    { layout: 'block', blockSize: 16 },
    (i, j) => ((i >> 4) + (j >> 4)) % 2 === 0,
    [
      [16, 32],
      [48, 64],
    ],
    ['block_linear'],
  ),
  row(
    { layout: '2:4' },
    (_, j) => j % 4 === 0 || j % 4 === 3,
    [
      [5, 8],
      [19, 36],
    ],
    ['semi_structured_linear', 'semi_structured_compress'],
  ),
];
