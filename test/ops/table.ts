/** The op table: a row for every operation, and a reason for each that has none. See checks.ts for what a row is put through. */
import { arrayRows } from './rows/arrays.js';
import { elementwiseRows } from './rows/elementwise.js';
import { otherRows } from './rows/others.js';
import { reductionRows } from './rows/reductions.js';
import type { Row } from './row.js';

export const table: readonly Row[] = [...elementwiseRows, ...reductionRows, ...arrayRows, ...otherRows];

const elsewhere =
  'compared with reference vectors in test/reference; gradients and refusals in test/ops/*_gradients and nn_ops';
const random = 'its result is random: streams and distributions are tested by themselves';
const integerCodes = 'codes of integers, not numbers on the line: reference vectors in test/reference';
const dynamicShape =
  'asynchronous, or its shape is in the data: nonzeroSync has a row, maskedSelectSync array_gradients.test.ts';

/** Operations without a row, each with the reason. */
export const withoutRow: Readonly<Record<string, string>> = {
  ...Object.fromEntries(
    (
      'adaptiveAvgPool2d alibiBias alibiSlopes avgPool2d batchNorm bceWithLogits ' +
      'clipContrastive conv1d conv2d convTranspose1d convTranspose2d cosineSimilarity crossEntropy ' +
      'distillationLoss fold groupNorm huberLoss indexAdd interpolate klDiv l1Loss maxPool2d ' +
      'mseLoss oneHot rope ropeTables scaledDotProductAttention scatter scatterAdd smoothL1Loss take takeAlongAxis ' +
      'tripletMarginLoss unfold'
    )
      .split(' ')
      .map((name) => [name, elsewhere]),
  ),
  ...Object.fromEntries('bernoulli dropout multinomial randperm'.split(' ').map((name) => [name, random])),
  ...Object.fromEntries(
    'dequantize fakeQuantize fromFloat8 linearInt8 linearInt8Dynamic matmulInt8 matmulInteger quantize toFloat8'
      .split(' ')
      .map((name) => [name, integerCodes]),
  ),
  ...Object.fromEntries('maskedSelect maskedSelectSync nonzero'.split(' ').map((name) => [name, dynamicShape])),
  copy_: 'changes its first argument, which every row forbids: test/tensor',
};
