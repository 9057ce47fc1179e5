/**
 * Matrix products. Transposed, sliced and broadcast operands are read where they lie.
 *
 * @module
 */
import { DTypeError, ShapeError } from '../errors.js';
import type { View } from '../runtime/queue.js';
import { isFloating, promote, type DType } from '../tensor/dtype.js';
import { broadcastShapes, broadcastStrides, sizeOf, type Shape } from '../tensor/shape.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { formatShape } from '../util/format.js';
import { sumTo } from './broadcast.js';
import { to } from './copy.js';
import { defineOp, type Inputs } from './define.js';
import { reshape, squeeze, transpose, unsqueeze } from './views.js';

/** @internal */
export interface MatmulAttrs {
  /** Dtype of the result. */
  readonly dtype: DType;
  /** Of both operands, for the way back. */
  readonly shapes: readonly [Shape, Shape];
  readonly dtypes: readonly [DType, DType];
}

/** `x` with its batch axes stretched to `batch`. */
function withBatch(x: Tensor, batch: Shape): View {
  const { storage, offset, dtypeId, itemBytes, rank } = x;
  const own = rank - 2;
  return {
    storage,
    offset,
    dtypeId,
    itemBytes,
    shape: [...batch, x.shape[own]!, x.shape[own + 1]!],
    strides: [...broadcastStrides(x.shape.slice(0, own), x.strides, batch), x.strides[own]!, x.strides[own + 1]!],
  };
}

/** @internal What a gradient rule needs of two factors: each one for the other's sake. */
export function otherFactor([a, b]: Inputs): Inputs {
  return [b!.requiresGrad ? a! : null, a!.requiresGrad ? b! : null];
}

/** Operands of rank 2 or more; bias, residual and the second output of the kernel are for linear.ts. */
const matmulOp = defineOp<MatmulAttrs>({
  name: 'matmul',
  inputs: [
    { name: 'a', kind: 'any' },
    { name: 'b', kind: 'any' },
    { name: 'bias', kind: 'any', optional: true },
    { name: 'residual', kind: 'any', optional: true },
    { name: 'packed', kind: 'float', optional: true },
  ],
  outputCount: 2,
  attrCount: 1,
  output: ([a, b], { dtype }) => [
    {
      shape: [
        ...broadcastShapes('matmul', a!.shape.slice(0, -2), b!.shape.slice(0, -2)),
        a!.shape.at(-2)!,
        b!.shape.at(-1)!,
      ],
      dtype,
    },
    null,
  ],
  encode: () => [0],
  operands: ([a, b], _attrs, [y]) => {
    const batch = y!.shape.slice(0, -2);
    return [withBatch(a!, batch), withBatch(b!, batch), null, null, null];
  },
  saves: otherFactor,
  backward: ({ grad, saved: [a, b], attrs: { shapes, dtypes }, needs }) => [
    needs(0) ? sumTo(product(grad, transpose(b!), dtypes[0]), shapes[0]) : null,
    needs(1) ? rightGradient(a!, grad, shapes[1], dtypes[1]) : null,
  ],
  cost: ([a], [y]) => ({ flops: 2 * y!.size * a!.shape.at(-1)!, bytes: a!.bytes + y!.bytes }),
});

/** aᵀ·grad, summed over the batch axes that b does not have: as one product of all rows where b is a single matrix. */
function rightGradient(a: Tensor, grad: Tensor, shape: Shape, dtype: DType): Tensor {
  const shared = shape.slice(0, -2).every((length) => length === 1);
  const sameBatch = a.rank === grad.rank && a.shape.slice(0, -2).every((length, i) => length === grad.shape[i]);
  if (!shared || !sameBatch || grad.rank === 2) return sumTo(product(transpose(a), grad, dtype), shape);
  return reshape(product(transpose(asRows(a)), asRows(grad), dtype), shape);
}

/** @internal All axes but the last as one. */
export function asRows(x: Tensor): Tensor {
  return reshape(x, [sizeOf(x.shape.slice(0, -1)), x.shape.at(-1)!]);
}

/** @internal a·b in that dtype; their shapes fit. */
export function product(a: Tensor, b: Tensor, dtype: DType): Tensor {
  return matmulOp.call([a, b, null, null, null], { dtype, shapes: [a.shape, b.shape], dtypes: [a.dtype, b.dtype] });
}

/** @internal Operands as the kernel takes them: it mixes floats of up to 32 bits, and integers, but not both. */
export function operandsFor(op: string, a: Tensor, b: Tensor, name: string): { a: Tensor; b: Tensor; dtype: DType } {
  checkTensor(op, 'a', a);
  checkTensor(op, 'b', b);
  const dtype = promote(a.dtype, b.dtype);
  if (dtype === 'bool') {
    throw new DTypeError({ op, argument: name, expected: 'numbers', actual: 'bool', hint: 'Cast it with x.to(dtype)' });
  }
  const fits = (x: Tensor): boolean => x.dtype === dtype || (isFloating(x.dtype) && dtype !== 'float64');
  return { a: fits(a) ? a : to(a, dtype), b: fits(b) ? b : to(b, dtype), dtype };
}

/**
 * Matrix product a·b, as `torch.matmul`: the last two axes are multiplied, the ones before broadcast; a vector on the left is a
 * row, on the right a column, and its axis is gone from the result.
 *
 * @shape a: (…, M, K), b: (…, K, N) → (…, M, N)
 * @dtype floats and integers, promoted; float32, float16 and bfloat16 accumulate in float32; integers wrap
 * @throws ShapeError if the inner axes differ or the outer ones do not broadcast
 * @cost 2·M·N·K flops for each matrix
 */
export function matmul(a: Tensor, b: Tensor): Tensor {
  for (const [name, x] of [
    ['a', a],
    ['b', b],
  ] as const) {
    checkTensor('matmul', name, x);
    if (x.rank === 0)
      throw new ShapeError({
        op: 'matmul',
        argument: name,
        expected: 'at least 1 axis',
        actual: 'a scalar',
        hint: 'Use mul',
      });
  }
  const inner = b.rank === 1 ? b.shape[0]! : b.shape.at(-2)!;
  if (inner !== a.shape.at(-1)) {
    const which = b.rank === 1 ? 'its length' : 'second-to-last axis';
    throw new ShapeError({
      op: 'matmul',
      argument: 'b',
      expected: `${which} ${a.shape.at(-1)} to match a's last axis`,
      actual: formatShape(b.shape),
      ...(b.rank > 1 && b.shape.at(-1) === a.shape.at(-1) ? { hint: 'Transpose b' } : {}),
    });
  }
  const operands = operandsFor('matmul', a, b, 'a');
  const left = a.rank === 1 ? unsqueeze(operands.a, 0) : operands.a;
  const right = b.rank === 1 ? unsqueeze(operands.b, 1) : operands.b;
  const y = product(left, right, operands.dtype);
  const gone = [...(a.rank === 1 ? [y.rank - 2] : []), ...(b.rank === 1 ? [y.rank - 1] : [])];
  return gone.length === 0 ? y : squeeze(y, gone);
}
