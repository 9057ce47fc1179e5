/**
 * Dense matrices as sparse ones.
 *
 * @module
 */
import { AttributeError, DTypeError, ShapeError } from '../errors.js';
import { submitted, waitFor, whenDone } from '../runtime/queue.js';
import { zeros } from '../tensor/create.js';
import { item, itemSync } from '../tensor/read.js';
import { keep } from '../tensor/scope.js';
import { sameShape } from '../tensor/shape.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { checkKeys, checkOneOf } from '../util/assert.js';
import { formatShape } from '../util/format.js';
import { mul } from './arithmetic.js';
import { ne } from './comparison.js';
import { contiguous, to } from './copy.js';
import { indexSelect } from './indexing.js';
import { concat } from './join.js';
import { quantize } from './quantization.js';
import { any, sum } from './reduce.js';
import { cumsum } from './scan.js';
import {
  BlockTensor,
  CsrTensor,
  SemiStructuredTensor,
  blockPlaces,
  checkBlocks,
  checkFours,
  type BlockSize,
  type SparseLayout,
  type SparseTensor,
} from './sparse.js';
import { CsrPattern, csrColumns, csrGather, semiStructuredCompress, semiStructuredGather } from './sparse_kernels.js';
import { where } from './where.js';
import { detach, permute, reshape } from './views.js';

const layouts: readonly SparseLayout[] = ['csr', 'block', '2:4'];

/** Options of {@link toSparse}. */
export interface ToSparseOptions {
  /** Default `csr`. */
  readonly layout?: SparseLayout;
  /** Side of the blocks of layout `block`. Default 32. */
  readonly blockSize?: BlockSize;
  /** What is kept (bool, true = kept). Default: what is not 0. A block is kept if any of its elements is. */
  readonly mask?: Tensor;
  /** Store the values as int8 codes with a scale for each row. They get no gradient. Default: as they are. */
  readonly dtype?: 'int8';
}

interface Prepared {
  readonly layout: SparseLayout;
  readonly shape: readonly [number, number];
  /** What is kept: of the elements, or of the blocks. */
  readonly kept: Tensor;
  readonly blockSize: BlockSize | null;
  /** The matrix, or its codes. */
  readonly source: Tensor;
  readonly scale: Tensor | null;
  /** Row pointers of what is kept; null for 2:4. */
  readonly crow: Tensor | null;
}

function prepare(op: string, x: Tensor, options: ToSparseOptions): Prepared {
  checkTensor(op, 'x', x);
  checkKeys(op, options, ['layout', 'blockSize', 'mask', 'dtype']);
  const layout = checkOneOf(op, 'layout', options.layout ?? 'csr', layouts);
  if (x.rank !== 2) throw new ShapeError({ op, argument: 'x', expected: 'a matrix', actual: formatShape(x.shape) });
  const shape = [x.shape[0]!, x.shape[1]!] as const;
  if (x.dtype !== 'float32' && x.dtype !== 'float64') {
    const hint = "Cast it with to('float32')";
    throw new DTypeError({ op, argument: 'x', expected: 'float32 or float64', actual: x.dtype, hint });
  }
  const { mask } = options;
  if (mask !== undefined) {
    checkTensor(op, 'mask', mask);
    if (mask.dtype !== 'bool') throw new DTypeError({ op, argument: 'mask', expected: 'bool', actual: mask.dtype });
    if (!sameShape(mask.shape, shape)) {
      const actual = formatShape(mask.shape);
      throw new ShapeError({ op, argument: 'mask', expected: formatShape(shape), actual });
    }
  }
  if (options.dtype !== undefined) checkOneOf(op, 'dtype', options.dtype, ['int8']);
  if (layout === '2:4') checkFours(op, shape);
  const blockSize = layout === 'block' ? checkBlocks(op, options.blockSize ?? 32, ...shape) : null;

  let kept = mask ?? ne(x, 0);
  // a mask may keep part of a block: its other elements are stored as zeros
  let source = mask !== undefined && layout === 'block' ? where(mask, x, 0) : x;
  let scale: Tensor | null = null;
  if (options.dtype === 'int8') {
    const chosen = where(kept, to(detach(x), 'float32'), 0);
    const quantized = quantize(chosen, { axis: 0 });
    source = quantized.codes;
    scale = quantized.scale;
  }
  if (blockSize !== null) {
    const [rows, columns] = [shape[0] / blockSize, shape[1] / blockSize];
    kept = any(any(reshape(kept, [rows, blockSize, columns, blockSize]), 3), 1);
  }
  return { layout, shape, kept, blockSize, source, scale, crow: layout === '2:4' ? null : rowPointers(kept) };
}

/** 0, and the number of true elements up to the end of each row. */
function rowPointers(kept: Tensor): Tensor {
  const counts = sum(to(kept, 'int64'), 1);
  return to(concat([zeros([1], { dtype: 'int64' }), cumsum(counts, 0)]), 'int32');
}

function lastOf(crow: Tensor): Tensor {
  return crow.view(crow.offset + crow.size - 1, [], []);
}

/** The container, once the number of kept elements is known. */
function build({ layout, shape, kept, blockSize, source, scale, crow }: Prepared, count: number): SparseTensor {
  if (layout === '2:4') {
    const { values, indices } = semiStructuredCompress(source, kept);
    // compression is not recorded: what is recorded is the choice of the elements at its places
    const chosen = source.requiresGrad
      ? mul(semiStructuredGather(source, indices), to(ne(values, 0), source.dtype))
      : values;
    return new SemiStructuredTensor(shape, chosen, indices, scale);
  }
  const [rows, columns] = [kept.shape[0]!, kept.shape[1]!];
  const pattern = new CsrPattern(crow!, csrColumns(contiguous(kept), crow!, count), rows, columns);
  if (layout === 'csr') return new CsrTensor(shape, csrGather(source, pattern), pattern, scale);
  const b = blockSize!;
  const blocks = reshape(permute(reshape(source, [rows, b, columns, b]), [0, 2, 1, 3]), [rows * columns, b, b]);
  return new BlockTensor(shape, indexSelect(blocks, 0, blockPlaces(pattern)), pattern, scale);
}

/** The parts outlive scopes: a container is freed by its owner. */
function owned(made: SparseTensor): SparseTensor {
  keep(made.parts());
  return made;
}

/** The class of a sparse tensor, as narrow as the options say. */
export type SparseOf<O extends ToSparseOptions> = O extends { readonly layout: 'block' }
  ? BlockTensor
  : O extends { readonly layout: '2:4' }
    ? SemiStructuredTensor
    : O extends { readonly layout: SparseLayout }
      ? SparseTensor
      : CsrTensor;

/**
 * The kept elements of a matrix in a sparse layout. Gradients of the values reach `x`. Scopes do not free the result: dispose of it.
 *
 * Waits for the number of kept elements without blocking; {@link toSparseSync} blocks.
 *
 * @shape x (rows, columns)
 * @dtype float32 or float64; `dtype: 'int8'` stores codes with a scale for each row
 * @throws ShapeError if `x` is no matrix, or its axes are no multiples of the block size (of 4 for 2:4)
 * @throws AttributeError if a group of four keeps more than two elements under layout 2:4; the error names the row and columns
 */
export async function toSparse<O extends ToSparseOptions>(x: Tensor, options: O = {} as O): Promise<SparseOf<O>> {
  const op = 'toSparse';
  const prepared = prepare(op, x, options);
  if (prepared.crow !== null) return owned(build(prepared, await item(lastOf(prepared.crow)))) as SparseOf<O>;
  try {
    const made = owned(build(prepared, 0));
    await whenDone(submitted());
    return made as SparseOf<O>;
  } catch (error) {
    throw explained(op, error);
  }
}

/** {@link toSparse}, blocking. */
export function toSparseSync<O extends ToSparseOptions>(x: Tensor, options: O = {} as O): SparseOf<O> {
  const op = 'toSparseSync';
  const prepared = prepare(op, x, options);
  if (prepared.crow !== null) return owned(build(prepared, itemSync(lastOf(prepared.crow)))) as SparseOf<O>;
  try {
    const made = owned(build(prepared, 0));
    waitFor(submitted());
    return made as SparseOf<O>;
  } catch (error) {
    throw explained(op, error);
  }
}

/** What the kernel says about a group that keeps too much, as an error of the argument. */
function explained(op: string, error: unknown): unknown {
  if (!(error instanceof AttributeError) || error.op !== 'semi_structured_compress') return error;
  return new AttributeError({
    op,
    argument: 'x',
    expected: 'at most 2 kept elements of every 4 neighbours in a row',
    actual: error.actual.replace(/^semi_structured_compress: /, ''),
    hint: 'Drop the others with a mask',
    cause: error,
  });
}
