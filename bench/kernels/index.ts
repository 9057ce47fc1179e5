/** Rows that time one operation, by family. */
import { attentionCases } from './attention.js';
import { elementCases } from './elements.js';
import { matmulCases } from './matmul.js';
import { quantizedCases } from './quantized.js';
import { rowCases } from './rows.js';
import { signalCases } from './signals.js';
import { sparseCases } from './sparse.js';
import { trainingCases } from './training.js';
import type { KernelCase } from './case.js';

export const kernelCases: readonly KernelCase[] = [
  ...matmulCases,
  ...quantizedCases,
  ...sparseCases,
  ...attentionCases,
  ...rowCases,
  ...trainingCases,
  ...elementCases,
  ...signalCases,
];
