/**
 * The kernels behind sparse tensors as recorded operations: products with compressed rows, blocks and the 2:4 layout, sampled
 * products, and conversions. What users call is in sparse.ts and sparse_linear.ts.
 *
 * @module
 */
import { keep } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { mul } from './arithmetic.js';
import { contiguous, to } from './copy.js';
import { defineOp, type Gradients, type Inputs, type InputSpec } from './define.js';
import { indexSelect } from './indexing.js';
import { matmul } from './matmul.js';
import { sum } from './reduce.js';
import { transpose } from './views.js';

const csrTransposeOp = defineOp<{ readonly columns: number }>({
  name: 'csr_transpose',
  inputs: [
    { name: 'crowIndices', kind: 'integer' },
    { name: 'colIndices', kind: 'integer' },
  ],
  outputCount: 3,
  output: ([, col], { columns }) => [
    { shape: [columns + 1], dtype: 'int32' },
    { shape: [col!.size], dtype: 'int32' },
    { shape: [col!.size], dtype: 'int32' },
  ],
});

/** @internal The places of the kept elements (or blocks), by rows; and, made when first asked for, by columns. */
export class CsrPattern {
  private byColumns: { pattern: CsrPattern; from: Tensor } | null = null;
  private version = -1;

  constructor(
    readonly crow: Tensor,
    readonly col: Tensor,
    readonly rows: number,
    readonly columns: number,
  ) {}

  /** Of the transposed matrix, and where each of its elements lies here. Made again when the indices were overwritten. */
  transposed(): { readonly pattern: CsrPattern; readonly from: Tensor } {
    const version = this.crow.storage.version + this.col.storage.version;
    if (this.byColumns === null || this.version !== version) {
      this.dispose();
      const [crow, col, from] = csrTransposeOp.callAll([this.crow, this.col], { columns: this.columns });
      keep([crow, col, from]);
      this.byColumns = { pattern: new CsrPattern(crow!, col!, this.columns, this.rows), from: from! };
      this.version = version;
    }
    return this.byColumns;
  }

  /** Frees what {@link transposed} made; the indices themselves are not this object's. */
  dispose(): void {
    if (this.byColumns === null) return;
    const { pattern, from } = this.byColumns;
    pattern.dispose();
    for (const tensor of [pattern.crow, pattern.col, from]) tensor.dispose();
    this.byColumns = null;
  }
}

interface PatternAttrs {
  readonly pattern: CsrPattern;
}

const linearInputs: readonly InputSpec[] = [
  { name: 'x', kind: 'float' },
  { name: 'crowIndices', kind: 'integer' },
  { name: 'colIndices', kind: 'integer' },
  { name: 'values', kind: 'any' },
  { name: 'scale', kind: 'float', optional: true },
  { name: 'bias', kind: 'float', optional: true },
];
const sampledInputs: readonly InputSpec[] = [
  { name: 'a', kind: 'float' },
  { name: 'b', kind: 'float' },
  { name: 'crowIndices', kind: 'integer' },
  { name: 'colIndices', kind: 'integer' },
];

const linearSaves = ([x, , , values, scale]: Inputs): Inputs => [
  values!.requiresGrad ? x! : null,
  x!.requiresGrad ? values! : null,
  scale ?? null,
];

/** x·Wᵀ·scale + bias for W in compressed rows. x [M, columns] → [M, rows]. */
const csrLinearOp = defineOp<PatternAttrs>({
  name: 'csr_linear',
  inputs: linearInputs,
  output: ([x], { pattern }) => ({ shape: [x!.shape[0]!, pattern.rows], dtype: x!.dtype }),
  saves: linearSaves,
  backward: ({ grad, saved: [x, values, scale], attrs: { pattern }, needs }): Gradients => {
    const scaled = scale ? mul(grad, scale) : grad;
    return [
      needs(0) ? csrLinearBackward(scaled, values!, pattern) : null,
      null,
      null,
      needs(3) ? csrSampled(scaled, x!, pattern) : null,
      null,
      needs(5) ? sum(grad, 0) : null,
    ];
  },
  cost: ([x, , , values], [y]) => ({
    flops: 2 * x!.shape[0]! * values!.size,
    bytes: x!.bytes + values!.bytes + 4 * values!.size + y!.bytes,
  }),
});

/** aᵀ·b at the kept places. a [M, rows], b [M, columns] → [count]. */
const csrSampledOp = defineOp<PatternAttrs>({
  name: 'csr_sampled',
  inputs: sampledInputs,
  output: ([a, , , col]) => ({ shape: [col!.size], dtype: a!.dtype }),
  saves: ([a, b]) => [b!.requiresGrad ? a! : null, a!.requiresGrad ? b! : null],
  backward: ({ grad, saved: [a, b], attrs: { pattern }, needs }) => [
    needs(0) ? csrLinear(b!, grad, pattern) : null,
    needs(1) ? csrLinearBackward(a!, grad, pattern) : null,
    null,
    null,
  ],
  cost: ([a, b, , col], [values]) => ({
    flops: 2 * a!.shape[0]! * values!.size,
    bytes: a!.bytes + b!.bytes + col!.bytes + values!.bytes,
  }),
});

/** @internal */
export function csrLinear(
  x: Tensor,
  values: Tensor,
  pattern: CsrPattern,
  scale: Tensor | null = null,
  bias: Tensor | null = null,
): Tensor {
  return csrLinearOp.call([x, pattern.crow, pattern.col, values, scale, bias], { pattern });
}

/** grad·W: the product with the transposed rows. */
function csrLinearBackward(grad: Tensor, values: Tensor, pattern: CsrPattern): Tensor {
  const { pattern: byColumns, from } = pattern.transposed();
  return csrLinear(grad, indexSelect(values, 0, from), byColumns);
}

/** @internal */
export function csrSampled(a: Tensor, b: Tensor, pattern: CsrPattern): Tensor {
  return csrSampledOp.call([a, b, pattern.crow, pattern.col], { pattern });
}

/** x·Wᵀ·scale + bias for W in blocks; the pattern counts blocks. values [count, b, b]. */
const blockLinearOp = defineOp<PatternAttrs>({
  name: 'block_linear',
  inputs: linearInputs,
  output: ([x, , , values], { pattern }) => ({
    shape: [x!.shape[0]!, pattern.rows * values!.shape[1]!],
    dtype: x!.dtype,
  }),
  saves: linearSaves,
  backward: ({ grad, saved: [x, values, scale], attrs: { pattern }, needs }): Gradients => {
    const scaled = scale ? mul(grad, scale) : grad;
    return [
      needs(0) ? blockLinearBackward(scaled, values!, pattern) : null,
      null,
      null,
      needs(3) ? blockSampled(scaled, x!, pattern, scaled.shape[1]! / pattern.rows) : null,
      null,
      needs(5) ? sum(grad, 0) : null,
    ];
  },
  cost: ([x, , , values], [y]) => ({
    flops: 2 * x!.shape[0]! * values!.size,
    bytes: x!.bytes + values!.bytes + y!.bytes,
  }),
});

/** The kept blocks of aᵀ·b. */
const blockSampledOp = defineOp<PatternAttrs & { readonly size: number }>({
  name: 'block_sampled',
  inputs: sampledInputs,
  output: ([a, , , col], { size }) => ({ shape: [col!.size, size, size], dtype: a!.dtype }),
  saves: ([a, b]) => [b!.requiresGrad ? a! : null, a!.requiresGrad ? b! : null],
  backward: ({ grad, saved: [a, b], attrs: { pattern }, needs }) => [
    needs(0) ? blockLinear(b!, contiguous(grad), pattern) : null,
    needs(1) ? blockLinearBackward(a!, contiguous(grad), pattern) : null,
    null,
    null,
  ],
  cost: ([a, b], [values]) => ({
    flops: 2 * a!.shape[0]! * values!.size,
    bytes: a!.bytes + b!.bytes + values!.bytes,
  }),
});

/** @internal */
export function blockLinear(
  x: Tensor,
  values: Tensor,
  pattern: CsrPattern,
  scale: Tensor | null = null,
  bias: Tensor | null = null,
): Tensor {
  return blockLinearOp.call([x, pattern.crow, pattern.col, values, scale, bias], { pattern });
}

function blockLinearBackward(grad: Tensor, values: Tensor, pattern: CsrPattern): Tensor {
  const { pattern: byColumns, from } = pattern.transposed();
  return blockLinear(grad, contiguous(transpose(indexSelect(values, 0, from))), byColumns);
}

/** @internal */
export function blockSampled(a: Tensor, b: Tensor, pattern: CsrPattern, size: number): Tensor {
  return blockSampledOp.call([a, contiguous(b), pattern.crow, pattern.col], { pattern, size });
}

const pairInputs: readonly InputSpec[] = [
  { name: 'values', kind: 'any' },
  { name: 'indices', kind: 'integer' },
];

/** A 2:4 pair as a dense matrix. */
const expandOp = defineOp<null>({
  name: 'semi_structured_expand',
  inputs: pairInputs,
  output: ([values]) => ({ shape: [values!.shape[0]!, 2 * values!.shape[1]!], dtype: values!.dtype }),
  saves: ([, indices]) => [indices!],
  backward: ({ grad, saved: [indices] }) => [semiStructuredGather(grad, indices!), null],
});

/** The elements of a dense matrix at the kept places of a 2:4 pair. */
const gatherOp = defineOp<null>({
  name: 'semi_structured_gather',
  inputs: [
    { name: 'dense', kind: 'any' },
    { name: 'indices', kind: 'integer' },
  ],
  output: ([dense]) => ({ shape: [dense!.shape[0]!, dense!.shape[1]! / 2], dtype: dense!.dtype }),
  saves: ([, indices]) => [indices!],
  backward: ({ grad, saved: [indices] }) => [semiStructuredExpand(contiguous(grad), indices!), null],
});

/** @internal */
export function semiStructuredExpand(values: Tensor, indices: Tensor): Tensor {
  return expandOp.call([values, indices], null);
}

/** @internal */
export function semiStructuredGather(dense: Tensor, indices: Tensor): Tensor {
  return gatherOp.call([dense, indices], null);
}

const compressOp = defineOp<null>({
  name: 'semi_structured_compress',
  inputs: [
    { name: 'x', kind: 'any' },
    { name: 'mask', kind: 'bool' },
  ],
  outputCount: 2,
  output: ([x]) => [
    { shape: [x!.shape[0]!, x!.shape[1]! / 2], dtype: x!.dtype },
    { shape: [x!.shape[0]!, Math.ceil(x!.shape[1]! / 8)], dtype: 'uint8' },
  ],
});

/** @internal Values and places of what the mask keeps; not recorded. */
export function semiStructuredCompress(x: Tensor, mask: Tensor): { values: Tensor; indices: Tensor } {
  const [values, indices] = compressOp.callAll([x, mask], null);
  return { values: values!, indices: indices! };
}

/**
 * x·Wᵀ·scale + bias for W in the 2:4 layout. Its gradients go through dense matrices: half of a dense product would be saved at
 * best, and rows of Wᵀ do not have the pattern.
 */
const semiStructuredOp = defineOp<null>({
  name: 'semi_structured_linear',
  inputs: [
    { name: 'x', kind: 'float' },
    ...pairInputs,
    { name: 'scale', kind: 'float', optional: true },
    { name: 'bias', kind: 'float', optional: true },
  ],
  output: ([x, values]) => ({ shape: [x!.shape[0]!, values!.shape[0]!], dtype: x!.dtype }),
  saves: ([x, values, indices, scale]) => [
    values!.requiresGrad ? x! : null,
    x!.requiresGrad ? values! : null,
    indices!,
    scale ?? null,
  ],
  backward: ({ grad, saved: [x, values, indices, scale], needs }): Gradients => {
    const scaled = scale ? mul(grad, scale) : grad;
    return [
      needs(0) ? matmul(scaled, to(semiStructuredExpand(values!, indices!), grad.dtype)) : null,
      needs(1) ? semiStructuredGather(matmul(transpose(scaled), x!), indices!) : null,
      null,
      null,
      needs(4) ? sum(grad, 0) : null,
    ];
  },
  cost: ([x, values, indices], [y]) => ({
    flops: 2 * x!.shape[0]! * values!.size,
    bytes: x!.bytes + values!.bytes + indices!.bytes + y!.bytes,
  }),
});

/** @internal */
export function semiStructuredLinear(
  x: Tensor,
  values: Tensor,
  indices: Tensor,
  scale: Tensor | null = null,
  bias: Tensor | null = null,
): Tensor {
  return semiStructuredOp.call([x, values, indices, scale, bias], null);
}

const csrColumnsOp = defineOp<{ readonly count: number }>({
  name: 'csr_columns',
  inputs: [
    { name: 'mask', kind: 'bool' },
    { name: 'crowIndices', kind: 'integer' },
  ],
  output: (_inputs, { count }) => ({ shape: [count], dtype: 'int32' }),
});

/** @internal The columns of the true elements, row by row; `crow` counts them. */
export function csrColumns(mask: Tensor, crow: Tensor, count: number): Tensor {
  return csrColumnsOp.call([mask, crow], { count });
}

const csrGatherOp = defineOp<PatternAttrs>({
  name: 'csr_gather',
  inputs: [
    { name: 'dense', kind: 'any' },
    { name: 'crowIndices', kind: 'integer' },
    { name: 'colIndices', kind: 'integer' },
  ],
  output: ([dense, , col]) => ({ shape: [col!.size], dtype: dense!.dtype }),
  backward: ({ grad, attrs: { pattern } }) => [csrScatter(contiguous(grad), pattern), null, null],
});

const csrScatterOp = defineOp<PatternAttrs>({
  name: 'csr_scatter',
  inputs: [
    { name: 'values', kind: 'any' },
    { name: 'crowIndices', kind: 'integer' },
    { name: 'colIndices', kind: 'integer' },
  ],
  output: ([values], { pattern }) => ({ shape: [pattern.rows, pattern.columns], dtype: values!.dtype }),
  backward: ({ grad, attrs: { pattern } }) => [csrGather(grad, pattern), null, null],
});

/** @internal The elements of a dense matrix at the kept places. */
export function csrGather(dense: Tensor, pattern: CsrPattern): Tensor {
  return csrGatherOp.call([dense, pattern.crow, pattern.col], { pattern });
}

/** @internal A dense matrix with these elements at the kept places and zeros elsewhere. */
export function csrScatter(values: Tensor, pattern: CsrPattern): Tensor {
  return csrScatterOp.call([values, pattern.crow, pattern.col], { pattern });
}
