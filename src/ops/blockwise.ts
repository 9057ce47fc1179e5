/**
 * Block-wise dynamic 8-bit codes, as 8-bit optimisers keep their states in.
 *
 * @module
 */
import { DTypeError, ShapeError } from '../errors.js';
import { isFloating, type DType } from '../tensor/dtype.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { checkBoolean, checkInteger } from '../util/assert.js';
import { formatShape } from '../util/format.js';
import { contiguous, to } from './copy.js';
import { defineOp } from './define.js';

interface BlockwiseAttrs {
  readonly signed: boolean;
  readonly blockSize: number;
  readonly dtype?: DType;
}

const encode = ({ signed, blockSize }: BlockwiseAttrs): number[] => [Number(signed), blockSize];

const encodeOp = defineOp<BlockwiseAttrs>({
  name: 'dynamic8_encode',
  inputs: [{ name: 'x', kind: 'float' }],
  attrCount: 2,
  outputCount: 2,
  output: ([x], { blockSize }) => [
    { shape: x!.shape, dtype: 'uint8' },
    { shape: [Math.ceil(x!.size / blockSize)], dtype: 'float32' },
  ],
  encode,
  cost: ([x], [codes]) => ({ flops: 16 * x!.size, bytes: x!.bytes + codes!.bytes }),
});

const decodeOp = defineOp<BlockwiseAttrs>({
  name: 'dynamic8_decode',
  inputs: [
    { name: 'codes', kind: 'integer' },
    { name: 'absmax', kind: 'float' },
  ],
  attrCount: 2,
  output: ([codes], { dtype }) => ({ shape: codes!.shape, dtype: dtype! }),
  encode,
  cost: ([codes], [x]) => ({ flops: 8 * x!.size, bytes: codes!.bytes + x!.bytes }),
});

/** Options of {@link quantizeBlockwise}. */
export interface BlockwiseOptions {
  /** Half of the codes for negative numbers. Without, there is twice the resolution for positive ones. Default true. */
  readonly signed?: boolean;
  /** Elements that share a magnitude, at most 4096. Default 2048. */
  readonly blockSize?: number;
}

/** What {@link quantizeBlockwise} returns. */
export interface BlockwiseQuantized extends Required<BlockwiseOptions> {
  /** uint8, in the shape of the original. */
  readonly codes: Tensor;
  /** float32, the largest magnitude of each block of elements in row-major order. */
  readonly absmax: Tensor;
}

/**
 * Each block of elements by its largest magnitude and a code of eight bits on a scale that covers seven decades. There is no
 * gradient.
 *
 * @dtype floats (float64 through float32) → uint8
 * @throws DTypeError if `x` is not floating-point
 * @source Dettmers et al., 8-bit Optimizers via Block-wise Quantization, arXiv 2110.02861
 */
export function quantizeBlockwise(x: Tensor, options: BlockwiseOptions = {}): BlockwiseQuantized {
  const op = 'quantizeBlockwise';
  checkTensor(op, 'x', x);
  if (!isFloating(x.dtype))
    throw new DTypeError({ op, argument: 'x', expected: 'a floating-point tensor', actual: x.dtype });
  const signed = checkBoolean(op, 'signed', options.signed ?? true);
  const blockSize = checkInteger(op, 'blockSize', options.blockSize ?? 2048, 1, 4096);
  const own = x.alias();
  const source = contiguous(x.dtype === 'float64' ? to(own, 'float32') : own);
  const [codes, absmax] = encodeOp.callAll([source], { signed, blockSize });
  return { codes: codes!, absmax: absmax!, signed, blockSize };
}

/**
 * Floats from block-wise codes.
 *
 * @throws ShapeError unless there is one magnitude a block
 * @throws DTypeError if `dtype` is not floating-point
 */
export function dequantizeBlockwise(quantized: BlockwiseQuantized, dtype: DType = 'float32'): Tensor {
  const op = 'dequantizeBlockwise';
  const { codes, absmax, signed } = quantized;
  checkTensor(op, 'codes', codes);
  checkTensor(op, 'absmax', absmax);
  const blockSize = checkInteger(op, 'blockSize', quantized.blockSize, 1, 4096);
  if (codes.dtype !== 'uint8') throw new DTypeError({ op, argument: 'codes', expected: 'uint8', actual: codes.dtype });
  if (!isFloating(dtype))
    throw new DTypeError({ op, argument: 'dtype', expected: 'a floating-point dtype', actual: String(dtype) });
  const blocks = Math.ceil(codes.size / blockSize);
  if (absmax.size !== blocks) {
    const expected = `${blocks} magnitudes`;
    throw new ShapeError({ op, argument: 'absmax', expected, actual: formatShape(absmax.shape) });
  }
  const direct = dtype === 'float64' ? 'float32' : dtype;
  const y = decodeOp.call([contiguous(codes), contiguous(to(absmax, 'float32'))], { signed, blockSize, dtype: direct });
  return to(y, dtype);
}
