/**
 * 8-bit floats as bit patterns in uint8 tensors: a storage format, not a dtype to compute in.
 *
 * @module
 */
import { DTypeError } from '../errors.js';
import { isFloating } from '../tensor/dtype.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { checkOneOf } from '../util/assert.js';
import { contiguous, to } from './copy.js';
import { defineOp } from './define.js';

const formats: readonly Float8Format[] = ['e4m3fn', 'e5m2'];
/** `e4m3fn`: 4 bits of exponent, 3 of mantissa, no infinity, largest 448. `e5m2`: as IEEE, largest 57344. */
export type Float8Format = 'e4m3fn' | 'e5m2';

interface FormatAttrs {
  readonly format: Float8Format;
}

const encode = ({ format }: FormatAttrs): number[] => [formats.indexOf(format)];

const encodeOp = defineOp<FormatAttrs>({
  name: 'float8_encode',
  inputs: [{ name: 'x', kind: 'float' }],
  attrCount: 1,
  output: ([x]) => ({ shape: x!.shape, dtype: 'uint8' }),
  encode,
});

const decodeOp = defineOp<FormatAttrs>({
  name: 'float8_decode',
  inputs: [{ name: 'x', kind: 'integer' }],
  attrCount: 1,
  output: ([x]) => ({ shape: x!.shape, dtype: 'float32' }),
  encode,
});

/**
 * Floats as 8-bit patterns, rounded to nearest even. What is too large becomes NaN in `e4m3fn` and infinity in `e5m2`.
 * There is no gradient.
 *
 * @dtype floats (through float32) → uint8
 * @throws DTypeError if `x` is not floating-point
 * @source OCP 8-bit Floating Point Specification (OFP8) 1.0
 */
export function toFloat8(x: Tensor, format: Float8Format): Tensor {
  checkTensor('toFloat8', 'x', x);
  checkOneOf('toFloat8', 'format', format, formats);
  if (!isFloating(x.dtype))
    throw new DTypeError({ op: 'toFloat8', argument: 'x', expected: 'a floating-point tensor', actual: x.dtype });
  return encodeOp.call([contiguous(to(x.alias(), 'float32'))], { format });
}

/**
 * 8-bit patterns as float32, exactly.
 *
 * @dtype uint8 → float32
 * @throws DTypeError if `bits` is not uint8
 */
export function fromFloat8(bits: Tensor, format: Float8Format): Tensor {
  checkTensor('fromFloat8', 'bits', bits);
  checkOneOf('fromFloat8', 'format', format, formats);
  if (bits.dtype !== 'uint8')
    throw new DTypeError({ op: 'fromFloat8', argument: 'bits', expected: 'uint8', actual: bits.dtype });
  return decodeOp.call([contiguous(bits)], { format });
}
