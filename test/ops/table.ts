/** The op table: a row for every operation, and a reason for each that has none. See checks.ts for what a row is put through. */
import { arrayRows } from './rows/arrays.js';
import { attentionRows } from './rows/attention.js';
import { convRows } from './rows/conv.js';
import { elementwiseRows } from './rows/elementwise.js';
import { fourierRows } from './rows/fourier.js';
import { fusedRows } from './rows/fused.js';
import { imageRows } from './rows/images.js';
import { indexingRows } from './rows/indexing.js';
import { linalgRows } from './rows/linalg.js';
import { lossRows } from './rows/losses.js';
import { otherRows } from './rows/others.js';
import { positionRows } from './rows/positions.js';
import { quantizationRows } from './rows/quantization.js';
import { quantizedRows } from './rows/quantized.js';
import { reductionRows } from './rows/reductions.js';
import { sparseRows } from './rows/sparse.js';
import type { Row } from './row.js';

export const table: readonly Row[] = [
  ...elementwiseRows,
  ...reductionRows,
  ...arrayRows,
  ...indexingRows,
  ...convRows,
  ...imageRows,
  ...attentionRows,
  ...positionRows,
  ...linalgRows,
  ...lossRows,
  ...quantizationRows,
  ...quantizedRows,
  ...sparseRows,
  ...fusedRows,
  ...fourierRows,
  ...otherRows,
];

const random = 'its result is random: test/tensor/random.test.ts';
const sparse = 'takes or makes sparse tensors: compared with masked dense ones in test/ops/sparse.test.ts';
const asynchronous = 'it gives a promise of what its blocking twin gives, which has a row';

/** Operations without a row, each with the reason. Only what is random or asynchronous has one. */
export const withoutRow: Readonly<Record<string, string>> = {
  bernoulli: random,
  multinomial: random,
  randperm: random,
  maskedSelect: asynchronous,
  nonzero: asynchronous,
  linearInt8: 'takes codes with their scales: test/ops/int8.test.ts compares it with exact sums',
  ...Object.fromEntries(
    (
      'BlockTensor CsrTensor SemiStructuredTensor SparseTensor ' +
      'breakEvenSparsity chooseLayout sampledMatmul shouldUseSparse sparseBsrTensor sparseCsrTensor ' +
      'sparseSemiStructuredTensor toSparse toSparseSync'
    )
      .split(' ')
      .map((name) => [name, sparse]),
  ),
};
