/**
 * Sparse matrices: compressed sparse rows, blocks, and 2:4 semi-structured. A container's parts are ordinary tensors, so that
 * they are counted, saved, trained and freed as others are. Which one pays is in sparse_choice.ts; products in sparse_linear.ts.
 *
 * @module
 */
import { AttributeError, DTypeError, ShapeError, StateError } from '../errors.js';
import { arange, zeros } from '../tensor/create.js';
import { sameShape, type Shape } from '../tensor/shape.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { formatShape, formatValue } from '../util/format.js';
import { mul } from './arithmetic.js';
import { contiguous, to } from './copy.js';
import { indexAdd } from './indexing.js';
import { CsrPattern, csrGather, csrScatter, semiStructuredExpand } from './sparse_kernels.js';
import { permute, reshape, unsqueeze } from './views.js';

/** `csr`: single elements. `block`: squares of 16, 32 or 64. `2:4`: two of every four neighbours of a row. */
export type SparseLayout = 'csr' | 'block' | '2:4';
/** Side of a block. */
export type BlockSize = 16 | 32 | 64;

const blockSizes: readonly BlockSize[] = [16, 32, 64];

/** What the three layouts have in common: the shape, the kept values and, for int8 codes, what scales them. */
export abstract class SparseTensor {
  abstract readonly layout: SparseLayout;
  /** Of the whole matrix, `[rows, columns]`. */
  readonly shape: readonly [number, number];
  /** The kept elements: floating-point, or int8 codes. */
  readonly values: Tensor;
  /** One for each row, float32, where the values are int8 codes; else null. */
  readonly scale: Tensor | null;

  protected constructor(shape: readonly [number, number], values: Tensor, scale: Tensor | null) {
    this.shape = shape;
    this.values = values;
    this.scale = scale;
  }

  /** The tensors that make it up, by name. */
  abstract parts(): Readonly<Record<string, Tensor>>;
  /** The same places with other values. */
  abstract withValues(values: Tensor, scale?: Tensor | null): SparseTensor;
  /** @internal The matrix of the values alone, unscaled. */
  protected abstract expand(): Tensor;

  /** Elements that are stored. */
  get nnz(): number {
    return this.values.size;
  }

  /** Share of the elements that are not stored. */
  get sparsity(): number {
    const size = this.shape[0] * this.shape[1];
    return size === 0 ? 0 : 1 - this.nnz / size;
  }

  /** Bytes of all parts. */
  get bytes(): number {
    return Object.values(this.parts()).reduce((total, part) => total + part.bytes, 0);
  }

  /** The whole matrix, floating-point; recorded, so that gradients reach the values. */
  toDense(): Tensor {
    this.values.check('toDense');
    const dense = this.expand();
    return this.scale === null ? dense : mul(to(dense, this.scale.dtype), unsqueeze(this.scale, 1));
  }

  /** Frees all parts. */
  dispose(): void {
    for (const part of Object.values(this.parts())) part.dispose();
  }

  toString(): string {
    const share = (100 * this.sparsity).toFixed(1);
    return `SparseTensor ${this.layout} ${formatShape(this.shape)} ${this.values.dtype}, ${share}% sparse`;
  }
}

function withScale(parts: Record<string, Tensor>, scale: Tensor | null): Record<string, Tensor> {
  if (scale !== null) parts['scale'] = scale;
  return parts;
}

/** Single elements in compressed rows: the columns of row i are `colIndices[crowIndices[i] … crowIndices[i + 1])`, ascending. */
export class CsrTensor extends SparseTensor {
  readonly layout = 'csr';

  /** @internal Use {@link sparseCsrTensor}. */
  constructor(
    shape: readonly [number, number],
    values: Tensor,
    /** @internal */ readonly pattern: CsrPattern,
    scale: Tensor | null,
  ) {
    super(shape, values, scale);
  }

  /** int32 `[rows + 1]`. */
  get crowIndices(): Tensor {
    return this.pattern.crow;
  }
  /** int32 `[nnz]`. */
  get colIndices(): Tensor {
    return this.pattern.col;
  }
  parts(): Readonly<Record<string, Tensor>> {
    return withScale({ values: this.values, crowIndices: this.crowIndices, colIndices: this.colIndices }, this.scale);
  }
  withValues(values: Tensor, scale: Tensor | null = null): CsrTensor {
    checkValues('withValues', values, this.values.shape, scale, this.shape[0]);
    return new CsrTensor(this.shape, values, this.pattern, scale);
  }
  protected expand(): Tensor {
    return csrScatter(contiguous(this.values), this.pattern);
  }
  override dispose(): void {
    this.pattern.dispose();
    super.dispose();
  }
}

/** Square blocks in compressed rows of blocks; `values` is `[blocks, b, b]`. What PyTorch calls BSR. */
export class BlockTensor extends SparseTensor {
  readonly layout = 'block';

  /** @internal Use {@link sparseBsrTensor}. */
  constructor(
    shape: readonly [number, number],
    values: Tensor,
    /** @internal */ readonly pattern: CsrPattern,
    scale: Tensor | null,
  ) {
    super(shape, values, scale);
  }

  /** Side of a block. */
  get blockSize(): BlockSize {
    return this.values.shape[1] as BlockSize;
  }
  /** int32 `[rows / b + 1]`. */
  get crowIndices(): Tensor {
    return this.pattern.crow;
  }
  /** int32 `[blocks]`. */
  get colIndices(): Tensor {
    return this.pattern.col;
  }
  parts(): Readonly<Record<string, Tensor>> {
    return withScale({ values: this.values, crowIndices: this.crowIndices, colIndices: this.colIndices }, this.scale);
  }
  withValues(values: Tensor, scale: Tensor | null = null): BlockTensor {
    checkValues('withValues', values, this.values.shape, scale, this.shape[0]);
    return new BlockTensor(this.shape, values, this.pattern, scale);
  }
  protected expand(): Tensor {
    const { rows, columns } = this.pattern;
    const b = this.blockSize;
    const all = zeros([rows * columns, b, b], { dtype: this.values.dtype });
    const blocks = indexAdd(all, 0, blockPlaces(this.pattern), this.values);
    return reshape(permute(reshape(blocks, [rows, columns, b, b]), [0, 2, 1, 3]), this.shape);
  }
  override dispose(): void {
    this.pattern.dispose();
    super.dispose();
  }
}

/** Two of every four neighbours of a row. `values` `[rows, columns / 2]`; `indices` (uint8) holds two bits for each. */
export class SemiStructuredTensor extends SparseTensor {
  readonly layout = '2:4';

  /** @internal Use {@link sparseSemiStructuredTensor}. */
  constructor(
    shape: readonly [number, number],
    values: Tensor,
    /** uint8 `[rows, ⌈columns / 8⌉]`: byte j describes the groups 2j (low half) and 2j + 1, the first element in the lower bits. */
    readonly indices: Tensor,
    scale: Tensor | null,
  ) {
    super(shape, values, scale);
  }

  parts(): Readonly<Record<string, Tensor>> {
    return withScale({ values: this.values, indices: this.indices }, this.scale);
  }
  withValues(values: Tensor, scale: Tensor | null = null): SemiStructuredTensor {
    checkValues('withValues', values, this.values.shape, scale, this.shape[0]);
    return new SemiStructuredTensor(this.shape, values, this.indices, scale);
  }
  protected expand(): Tensor {
    return semiStructuredExpand(contiguous(this.values), this.indices);
  }
}

/** @internal Where each kept block lies among all of them, counted row by row. */
export function blockPlaces(pattern: CsrPattern): Tensor {
  const { rows, columns } = pattern;
  return csrGather(reshape(arange(0, rows * columns, 1, { dtype: 'int32' }), [rows, columns]), pattern);
}

function checkShape2(op: string, shape: Shape): readonly [number, number] {
  const fits = Array.isArray(shape) && shape.length === 2 && shape.every((n) => Number.isSafeInteger(n) && n >= 0);
  if (!fits) throw new ShapeError({ op, argument: 'shape', expected: '[rows, columns]', actual: formatValue(shape) });
  return [shape[0]!, shape[1]!];
}

function checkValues(op: string, values: Tensor, shape: Shape | null, scale: Tensor | null, rows: number): void {
  checkTensor(op, 'values', values);
  if (shape !== null && !sameShape(values.shape, shape)) {
    throw new ShapeError({ op, argument: 'values', expected: formatShape(shape), actual: formatShape(values.shape) });
  }
  const codes = values.dtype === 'int8';
  if (!codes && values.dtype !== 'float32' && values.dtype !== 'float64') {
    throw new DTypeError({
      op,
      argument: 'values',
      expected: 'float32, float64 or int8',
      actual: values.dtype,
      hint: "Cast them with to('float32')",
    });
  }
  if (scale !== null) checkTensor(op, 'scale', scale);
  if ((scale !== null) !== codes) {
    const actual = scale === null ? 'none' : `one for ${values.dtype} values`;
    throw new StateError({ op, argument: 'scale', expected: 'a scale for int8 values and only for them', actual });
  }
  if (scale !== null && (scale.rank !== 1 || scale.size !== rows || scale.dtype !== 'float32')) {
    const actual = `${scale.dtype} ${formatShape(scale.shape)}`;
    throw new ShapeError({ op, argument: 'scale', expected: `float32 [${rows}]`, actual });
  }
}

function checkIndexVector(op: string, argument: string, index: Tensor, length: number | null): Tensor {
  checkTensor(op, argument, index);
  if (index.dtype !== 'int32' && index.dtype !== 'int64') {
    throw new DTypeError({ op, argument, expected: 'an int32 or int64 tensor', actual: index.dtype });
  }
  if (index.rank !== 1 || (length !== null && index.size !== length)) {
    const expected = length === null ? 'one axis' : `[${length}]`;
    throw new ShapeError({ op, argument, expected, actual: formatShape(index.shape) });
  }
  return contiguous(to(index, 'int32'));
}

/**
 * A matrix from its compressed rows. The indices themselves are looked at by every product: one that is outside the matrix, or
 * columns that do not ascend within a row, is an error there.
 *
 * @shape crowIndices (rows + 1), colIndices (nnz), values (nnz), scale (rows)
 * @throws ShapeError if the lengths do not fit
 * @throws DTypeError unless the indices are integers and the values float32, float64 or int8
 */
export function sparseCsrTensor(
  crowIndices: Tensor,
  colIndices: Tensor,
  values: Tensor,
  shape: Shape,
  scale: Tensor | null = null,
): CsrTensor {
  const op = 'sparseCsrTensor';
  const [rows, columns] = checkShape2(op, shape);
  const crow = checkIndexVector(op, 'crowIndices', crowIndices, rows + 1);
  const col = checkIndexVector(op, 'colIndices', colIndices, null);
  checkValues(op, values, [col.size], scale, rows);
  return new CsrTensor([rows, columns], values, new CsrPattern(crow, col, rows, columns), scale);
}

/**
 * A matrix from its blocks.
 *
 * @shape crowIndices (rows / b + 1), colIndices (blocks), values (blocks, b, b), scale (rows)
 * @throws ShapeError if the lengths do not fit or blocks do not divide the matrix
 */
export function sparseBsrTensor(
  crowIndices: Tensor,
  colIndices: Tensor,
  values: Tensor,
  shape: Shape,
  scale: Tensor | null = null,
): BlockTensor {
  const op = 'sparseBsrTensor';
  const [rows, columns] = checkShape2(op, shape);
  checkTensor(op, 'values', values);
  const b = checkBlocks(op, values.shape[1] ?? 0, rows, columns);
  const crow = checkIndexVector(op, 'crowIndices', crowIndices, rows / b + 1);
  const col = checkIndexVector(op, 'colIndices', colIndices, null);
  checkValues(op, values, [col.size, b, b], scale, rows);
  return new BlockTensor([rows, columns], values, new CsrPattern(crow, col, rows / b, columns / b), scale);
}

/**
 * A matrix from its 2:4 parts.
 *
 * @shape values (rows, columns / 2), indices (rows, ⌈columns / 8⌉), scale (rows)
 * @throws ShapeError if the lengths do not fit or 4 does not divide the columns
 */
export function sparseSemiStructuredTensor(
  values: Tensor,
  indices: Tensor,
  shape: Shape,
  scale: Tensor | null = null,
): SemiStructuredTensor {
  const op = 'sparseSemiStructuredTensor';
  const [rows, columns] = checkShape2(op, shape);
  checkFours(op, [rows, columns]);
  checkValues(op, values, [rows, columns / 2], scale, rows);
  checkTensor(op, 'indices', indices);
  if (indices.dtype !== 'uint8')
    throw new DTypeError({ op, argument: 'indices', expected: 'uint8', actual: indices.dtype });
  const expected = [rows, Math.ceil(columns / 8)];
  if (!sameShape(indices.shape, expected)) {
    const actual = formatShape(indices.shape);
    throw new ShapeError({ op, argument: 'indices', expected: formatShape(expected), actual });
  }
  return new SemiStructuredTensor([rows, columns], values, contiguous(indices), scale);
}

/** @internal */
export function checkBlocks(op: string, size: number, rows: number, columns: number): BlockSize {
  if (!blockSizes.includes(size as BlockSize)) {
    const expected = blockSizes.join(' or ');
    throw new AttributeError({ op, argument: 'blockSize', expected, actual: formatValue(size) });
  }
  if (rows % size !== 0 || columns % size !== 0) {
    const actual = formatShape([rows, columns]);
    throw new ShapeError({ op, argument: 'shape', expected: `axes that are multiples of ${size}`, actual });
  }
  return size as BlockSize;
}

/** @internal */
export function checkFours(op: string, shape: Shape): void {
  if (shape[1]! % 4 === 0) return;
  const expected = 'a last axis that is a multiple of 4';
  throw new ShapeError({ op, argument: 'shape', expected, actual: formatShape(shape) });
}
