/**
 * Products with sparse matrices.
 *
 * @module
 */
import { DTypeError, ShapeError } from '../errors.js';
import { isFloating, promote } from '../tensor/dtype.js';
import { scope } from '../tensor/scope.js';
import { sizeOf } from '../tensor/shape.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { formatShape, formatValue } from '../util/format.js';
import { contiguous, to } from './copy.js';
import { matmul } from './matmul.js';
import { BlockTensor, CsrTensor, SparseTensor, type SemiStructuredTensor } from './sparse.js';
import {
  blockLinear,
  blockSampled,
  csrLinear,
  csrSampled,
  semiStructuredGather,
  semiStructuredLinear,
} from './sparse_kernels.js';
import { reshape, transpose } from './views.js';

function checkSparse(op: string, argument: string, value: unknown): asserts value is SparseTensor {
  if (!(value instanceof SparseTensor)) {
    const hint = 'Make one with og.toSparse';
    throw new DTypeError({ op, argument, expected: 'a sparse tensor', actual: formatValue(value), hint });
  }
  value.values.check(op);
}

/**
 * x·weightᵀ + bias with a sparse weight: {@link linear} that skips what the weight does not store. Gradients reach `x`, the kept
 * values (floating-point ones) and the bias.
 *
 * @shape x: (…, in), weight: (out, in), bias: (out) → (…, out)
 * @dtype floats, computed in the dtype of the values (float32 for int8 ones); sums in float32 (float64 in float64)
 * @throws ShapeError if the axes do not match
 * @throws DTypeError if `weight` is not sparse or an operand not floating-point
 * @cost 2·rows·nnz flops
 */
export function sparseLinear(x: Tensor, weight: SparseTensor, bias: Tensor | null = null): Tensor {
  const op = 'sparseLinear';
  checkTensor(op, 'x', x);
  checkSparse(op, 'weight', weight);
  const [out, width] = weight.shape;
  for (const [argument, value] of [
    ['x', x],
    ['bias', bias],
  ] as const) {
    if (value === null) continue;
    checkTensor(op, argument, value);
    if (!isFloating(value.dtype))
      throw new DTypeError({ op, argument, expected: 'a floating-point tensor', actual: value.dtype });
  }
  if (x.rank === 0 || x.shape.at(-1) !== width) {
    const expected = `last axis ${width} to match weight ${formatShape(weight.shape)}`;
    throw new ShapeError({ op, argument: 'x', expected, actual: formatShape(x.shape) });
  }
  if (bias !== null && (bias.rank !== 1 || bias.shape[0] !== out)) {
    throw new ShapeError({ op, argument: 'bias', expected: `shape [${out}]`, actual: formatShape(bias.shape) });
  }
  const codes = weight.scale !== null;
  const dtype = codes || (weight.values.dtype === 'float32' && x.dtype !== 'float64') ? 'float32' : 'float64';
  return scope(() => {
    const rows = to(reshape(x, [sizeOf(x.shape.slice(0, -1)), width]), dtype);
    const offset = bias === null ? null : contiguous(to(bias, dtype));
    const values = contiguous(codes ? weight.values : to(weight.values, dtype));
    let y: Tensor;
    if (weight instanceof CsrTensor) y = csrLinear(rows, values, weight.pattern, weight.scale, offset);
    else if (weight instanceof BlockTensor) y = blockLinear(rows, values, weight.pattern, weight.scale, offset);
    else y = semiStructuredLinear(rows, values, (weight as SemiStructuredTensor).indices, weight.scale, offset);
    return reshape(y, [...x.shape.slice(0, -1), out]);
  });
}

/**
 * The elements of a·b at the places that `like` keeps, as a sparse tensor of its layout: a sampled dense-dense product. What is
 * not kept is not computed (but for 2:4, which samples the dense product). With the gradient of a layer's output for `a`,
 * transposed, and its input for `b` this is the masked gradient of the weight.
 *
 * @shape a: (rows, n), b: (n, columns), like: (rows, columns)
 * @dtype float32 or float64
 * @throws ShapeError if the axes do not match
 * @source `torch.sparse.sampled_addmm`
 */
export function sampledMatmul<S extends SparseTensor>(a: Tensor, b: Tensor, like: S): S {
  const op = 'sampledMatmul';
  checkTensor(op, 'a', a);
  checkTensor(op, 'b', b);
  checkSparse(op, 'like', like);
  for (const [argument, x] of [
    ['a', a],
    ['b', b],
  ] as const) {
    if (!isFloating(x.dtype))
      throw new DTypeError({ op, argument, expected: 'a floating-point tensor', actual: x.dtype });
    if (x.rank !== 2) throw new ShapeError({ op, argument, expected: 'a matrix', actual: formatShape(x.shape) });
  }
  const [rows, columns] = like.shape;
  if (a.shape[0] !== rows) {
    const expected = `${rows} rows to match ${formatShape(like.shape)}`;
    throw new ShapeError({ op, argument: 'a', expected, actual: formatShape(a.shape) });
  }
  if (b.shape[0] !== a.shape[1] || b.shape[1] !== columns) {
    const expected = formatShape([a.shape[1]!, columns]);
    throw new ShapeError({ op, argument: 'b', expected, actual: formatShape(b.shape) });
  }
  const dtype = promote(a.dtype, b.dtype) === 'float64' ? 'float64' : 'float32';
  const values = scope(() => {
    const [left, right] = [to(a, dtype), to(b, dtype)];
    if (like instanceof CsrTensor) return csrSampled(transpose(left), right, like.pattern);
    if (like instanceof BlockTensor) return blockSampled(transpose(left), right, like.pattern, like.blockSize);
    return semiStructuredGather(matmul(left, right), (like as unknown as SemiStructuredTensor).indices);
  });
  return like.withValues(values) as S;
}
