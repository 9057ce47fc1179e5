/**
 * Element types, their sizes, and which type an operation on two of them gives.
 *
 * @module
 */
import { DTypeError } from '../errors.js';
import { formatValue } from '../util/format.js';

/** Element type of a tensor. `float64` is for reference results and gradient checks: its kernels are plain loops. */
export type DType = 'float32' | 'float16' | 'bfloat16' | 'float64' | 'int8' | 'uint8' | 'int32' | 'int64' | 'bool';

/** Numbers as in native/include/omnigrad/abi.h. */
export const dtypes: readonly DType[] = [
  'float32',
  'float16',
  'bfloat16',
  'float64',
  'int8',
  'uint8',
  'int32',
  'int64',
  'bool',
];

const ids: Readonly<Record<DType, number>> = {
  float32: 0,
  float16: 1,
  bfloat16: 2,
  float64: 3,
  int8: 4,
  uint8: 5,
  int32: 6,
  int64: 7,
  bool: 8,
};
const sizes: Readonly<Record<DType, number>> = {
  float32: 4,
  float16: 2,
  bfloat16: 2,
  float64: 8,
  int8: 1,
  uint8: 1,
  int32: 4,
  int64: 8,
  bool: 1,
};

/** Typed array that holds the elements of a dtype. The 16-bit floats come as their bit patterns. */
export interface DTypeArrays {
  float32: Float32Array;
  float16: Uint16Array;
  bfloat16: Uint16Array;
  float64: Float64Array;
  int8: Int8Array;
  uint8: Uint8Array;
  int32: Int32Array;
  int64: BigInt64Array;
  bool: Uint8Array;
}
/** A typed array that can hold elements of a tensor. */
export type TensorData = DTypeArrays[DType];

export const arrayConstructors = {
  float32: Float32Array,
  float16: Uint16Array,
  bfloat16: Uint16Array,
  float64: Float64Array,
  int8: Int8Array,
  uint8: Uint8Array,
  int32: Int32Array,
  int64: BigInt64Array,
  bool: Uint8Array,
} as const;

export function dtypeId(dtype: DType): number {
  return ids[dtype];
}

/** Bytes of one element. */
export function itemSize(dtype: DType): number {
  return sizes[dtype];
}

export function isFloating(dtype: DType): boolean {
  return ids[dtype] <= 3;
}

export function isInteger(dtype: DType): boolean {
  return ids[dtype] >= 4 && ids[dtype] <= 7;
}

/**
 * @throws DTypeError if `value` is not the name of a dtype
 */
export function checkDType(op: string, value: unknown): DType {
  if (typeof value === 'string' && Object.hasOwn(ids, value)) return value as DType;
  throw new DTypeError({ op, argument: 'dtype', expected: dtypes.join(', '), actual: formatValue(value) });
}

const integerOrder: readonly DType[] = ['bool', 'uint8', 'int8', 'int32', 'int64'];

/**
 * The dtype of a result of `a` and `b`, as PyTorch's type promotion has it: a float wins over an integer, the wider of two
 * floats wins, float16 with bfloat16 gives float32, uint8 with int8 gives int32 (PyTorch: int16, which is not a dtype here).
 */
export function promote(a: DType, b: DType): DType {
  if (a === b) return a;
  const fa = isFloating(a);
  const fb = isFloating(b);
  if (fa !== fb) return fa ? a : b;
  if (fa) {
    if (a === 'float64' || b === 'float64') return 'float64';
    return 'float32'; // float32 with a 16-bit float, or the two 16-bit floats with each other
  }
  if ((a === 'uint8' && b === 'int8') || (a === 'int8' && b === 'uint8')) return 'int32';
  return integerOrder.indexOf(a) > integerOrder.indexOf(b) ? a : b;
}

let defaultDType: DType = 'float32';

/** Dtype of floating-point tensors made without naming one. Default `float32`. */
export function getDefaultDType(): DType {
  return defaultDType;
}

/**
 * Sets the dtype of floating-point tensors made without naming one.
 *
 * @throws DTypeError if it is not a floating-point dtype
 */
export function setDefaultDType(dtype: DType): void {
  if (!isFloating(checkDType('setDefaultDType', dtype))) {
    throw new DTypeError({
      op: 'setDefaultDType',
      argument: 'dtype',
      expected: 'a floating-point dtype',
      actual: dtype,
    });
  }
  defaultDType = dtype;
}
