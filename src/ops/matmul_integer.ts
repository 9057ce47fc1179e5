/**
 * Matrix products of integer codes. Sums are exact in int32; the one seam through which kernels for int8 come in.
 *
 * @module
 */
import { DTypeError, ShapeError } from '../errors.js';
import { isFloating, type DType } from '../tensor/dtype.js';
import { broadcastShapes, sameShape, sizeOf } from '../tensor/shape.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { checkInteger } from '../util/assert.js';
import { formatShape } from '../util/format.js';
import { add, mul, sub } from './arithmetic.js';
import { expand } from './broadcast.js';
import { to } from './copy.js';
import { defineOp } from './define.js';
import { quantize, type Quantized } from './quantization.js';
import { sum } from './reduce.js';
import { reshape, transpose, unsqueeze } from './views.js';

const integerProduct = defineOp<null>({
  name: 'matmul_integer',
  kernel: 'matmul',
  inputs: [
    { name: 'a', kind: 'integer' },
    { name: 'b', kind: 'integer' },
    { name: 'bias', kind: 'integer', optional: true },
  ],
  output: ([a, b]) => ({ shape: [...a!.shape.slice(0, -1), b!.shape.at(-1)!], dtype: 'int32' }),
  cost: ([a, b], [y]) => ({ flops: 2 * y!.size * a!.shape.at(-1)!, bytes: a!.bytes + b!.bytes + y!.bytes }),
});

function checkCodes(op: string, argument: string, x: Tensor, dtypes: readonly DType[]): void {
  checkTensor(op, 'x', x);
  if (!dtypes.includes(x.dtype)) throw new DTypeError({ op, argument, expected: dtypes.join(' or '), actual: x.dtype });
  if (x.rank < 2) throw new ShapeError({ op, argument, expected: 'at least 2 axes', actual: formatShape(x.shape) });
}

/** a·b of int8 or uint8 codes with the outer axes broadcast. */
function product(op: string, a: Tensor, b: Tensor): Tensor {
  if (a.shape.at(-1) !== b.shape.at(-2)) {
    const expected = `second-to-last axis ${a.shape.at(-1)} to match a's last axis`;
    throw new ShapeError({ op, argument: 'b', expected, actual: formatShape(b.shape) });
  }
  const batch = broadcastShapes(op, a.shape.slice(0, -2), b.shape.slice(0, -2));
  return integerProduct.call(
    [expand(a, [...batch, ...a.shape.slice(-2)]), expand(b, [...batch, ...b.shape.slice(-2)]), null],
    null,
  );
}

/**
 * Product of two matrices of int8 codes, exact in int32.
 *
 * @shape (…, M, K), (…, K, N) → (…, M, N)
 * @dtype int8 → int32
 * @throws ShapeError if the inner axes differ
 */
export function matmulInt8(a: Tensor, b: Tensor): Tensor {
  checkCodes('matmulInt8', 'a', a, ['int8']);
  checkCodes('matmulInt8', 'b', b, ['int8']);
  return product('matmulInt8', a, b);
}

/**
 * Σₖ (aᵢₖ − aZeroPoint)·(bₖⱼ − bZeroPoint) of codes, exact in int32: from the product of the codes and their row and column
 * sums, so that the codes are never widened.
 *
 * @shape (…, M, K), (…, K, N) → (…, M, N)
 * @dtype int8 or uint8 → int32
 * @source ONNX MatMulInteger
 */
export function matmulInteger(a: Tensor, b: Tensor, aZeroPoint = 0, bZeroPoint = 0): Tensor {
  const op = 'matmulInteger';
  checkCodes(op, 'a', a, ['int8', 'uint8']);
  checkCodes(op, 'b', b, ['int8', 'uint8']);
  checkInteger(op, 'aZeroPoint', aZeroPoint, -128, 255);
  checkInteger(op, 'bZeroPoint', bZeroPoint, -128, 255);
  let y = product(op, a, b);
  if (aZeroPoint !== 0) y = sub(y, mul(to(sum(b, -2, { keepDims: true }), 'int32'), aZeroPoint));
  if (bZeroPoint !== 0) y = sub(y, mul(to(sum(a, -1, { keepDims: true }), 'int32'), bZeroPoint));
  if (aZeroPoint !== 0 && bZeroPoint !== 0) y = add(y, a.shape.at(-1)! * aZeroPoint * bZeroPoint);
  return y;
}

/**
 * A fully connected layer with int8 weights: each row of `x` is quantised on the way (symmetric, by its own largest
 * magnitude), multiplied exactly, and scaled back.
 *
 * @shape x (…, in), weight (out, in) with one scale a row, bias (out) → (…, out)
 * @throws ShapeError if the axes do not match
 * @throws DTypeError unless the weight has symmetric int8 codes with one scale an output
 */
export function linearInt8Dynamic(x: Tensor, weight: Quantized, bias: Tensor | null = null): Tensor {
  const op = 'linearInt8Dynamic';
  checkTensor(op, 'x', x);
  const { codes, scale, axis } = weight;
  checkTensor(op, 'weight', codes);
  checkTensor(op, 'weight', scale);
  if (bias !== null) checkTensor(op, 'bias', bias);
  if (!isFloating(x.dtype))
    throw new DTypeError({ op, argument: 'x', expected: 'a floating-point tensor', actual: x.dtype });
  if (codes.dtype !== 'int8' || axis !== 0 || codes.rank !== 2) {
    const actual = `${codes.dtype} codes ${formatShape(codes.shape)} with scales along axis ${axis}`;
    throw new DTypeError({
      op,
      argument: 'weight',
      expected: 'int8 codes [out, in] with scales along axis 0',
      actual,
      hint: 'quantize(weight, { axis: 0 })',
    });
  }
  if (x.rank === 0 || x.shape.at(-1) !== codes.shape[1]) {
    throw new ShapeError({ op, argument: 'x', expected: `last axis ${codes.shape[1]}`, actual: formatShape(x.shape) });
  }
  for (const [argument, each] of [
    ['weight', scale],
    ['bias', bias],
  ] as const) {
    if (each === null || sameShape(each.shape, [codes.shape[0]!])) continue;
    const expected = `${argument === 'weight' ? 'scales' : 'a bias'} of shape [${codes.shape[0]}]`;
    throw new ShapeError({ op, argument, expected, actual: formatShape(each.shape) });
  }
  const rows = reshape(x, [sizeOf(x.shape.slice(0, -1)), codes.shape[1]!]);
  const input = quantize(rows, { axis: 0 });
  const sums = matmulInt8(input.codes, transpose(codes));
  const y = mul(mul(to(sums, 'float32'), unsqueeze(input.scale, 1)), scale);
  return reshape(to(bias === null ? y : add(y, bias), x.dtype), [...x.shape.slice(0, -1), codes.shape[0]!]);
}
