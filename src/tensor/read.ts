/**
 * Getting numbers out. The plain forms wait without blocking the event loop; the `Sync` twins block, as in Node's fs.
 */
import { ShapeError, StateError } from '../errors.js';
import { kernelId } from '../runtime/kernels.js';
import { flush, submit, submitted, waitFor, whenDone } from '../runtime/queue.js';
import { borrow, release, retain } from '../runtime/storage.js';
import { formatShape } from '../util/format.js';
import { arrayConstructors, dtypeId, itemSize, type DType, type DTypeArrays, type TensorData } from './dtype.js';
import { contiguousStrides } from './shape.js';
import type { Tensor } from './tensor.js';

/** Numbers (booleans for dtype bool) nested as the shape is. */
export type NestedNumbers = number | boolean | NestedNumbers[];

const copyKernel = kernelId('copy', 1, 1, 0);

/** Queues a copy into a fresh array: what happens to the tensor afterwards does not matter to the result. */
function startCopy<D extends DType>(op: string, source: Tensor, dtype: D): { array: DTypeArrays[D]; sequence: number } {
  source.check(op);
  flush(source.storage);
  if (source.storage.poisoned) {
    throw new StateError({
      op,
      expected: 'a computed tensor',
      actual: `one of shape ${formatShape(source.shape)} whose kernel failed or was skipped after a failure`,
    });
  }
  const array = new arrayConstructors[dtype](source.size) as DTypeArrays[D];
  const storage = borrow(new Uint8Array(array.buffer, 0, array.byteLength));
  retain(storage);
  const target = {
    storage,
    offset: 0,
    shape: source.shape,
    strides: contiguousStrides(source.shape),
    dtypeId: dtypeId(dtype),
    itemBytes: itemSize(dtype),
  };
  submit(copyKernel, [source], [target], [], source.size);
  release(storage);
  return { array, sequence: submitted() };
}

/**
 * The elements in row-major order, copied. 16-bit floats come as their bit patterns, int64 as bigints, bool as 0 and 1.
 */
export async function data(tensor: Tensor): Promise<TensorData> {
  const { array, sequence } = startCopy('data', tensor, tensor.dtype);
  await whenDone(sequence);
  return array;
}

/** {@link data}, blocking. */
export function dataSync(tensor: Tensor): TensorData {
  const { array, sequence } = startCopy('dataSync', tensor, tensor.dtype);
  waitFor(sequence);
  return array;
}

/** Dtype in which elements are numbers of JavaScript: int64 becomes float64 (exact up to 2^53), 16-bit floats float32. */
function numericDType(dtype: DType): DType {
  if (dtype === 'int64') return 'float64';
  return dtype === 'float16' || dtype === 'bfloat16' ? 'float32' : dtype;
}

function checkOne(op: string, tensor: Tensor): void {
  if (tensor.size === 1) return;
  throw new ShapeError({
    op,
    expected: 'one element',
    actual: formatShape(tensor.shape),
    hint: 'Use data() or toArray()',
  });
}

/**
 * The value of a tensor of one element.
 *
 * @throws ShapeError if it has another number of elements
 */
export async function item(tensor: Tensor): Promise<number> {
  checkOne('item', tensor);
  const { array, sequence } = startCopy('item', tensor, numericDType(tensor.dtype));
  await whenDone(sequence);
  return Number(array[0]);
}

/** {@link item}, blocking. */
export function itemSync(tensor: Tensor): number {
  checkOne('itemSync', tensor);
  const { array, sequence } = startCopy('itemSync', tensor, numericDType(tensor.dtype));
  waitFor(sequence);
  return Number(array[0]);
}

function nest(array: TensorData, shape: readonly number[], bool: boolean): NestedNumbers {
  let at = 0;
  const level = (depth: number): NestedNumbers => {
    if (depth === shape.length) {
      const value = Number(array[at++]);
      return bool ? value !== 0 : value;
    }
    return Array.from({ length: shape[depth]! }, () => level(depth + 1));
  };
  return level(0);
}

/** The elements as nested arrays of numbers (booleans for dtype bool; a bare number for a scalar). */
export async function toArray(tensor: Tensor): Promise<NestedNumbers> {
  const { array, sequence } = startCopy('toArray', tensor, numericDType(tensor.dtype));
  await whenDone(sequence);
  return nest(array, tensor.shape, tensor.dtype === 'bool');
}

/** {@link toArray}, blocking. */
export function toArraySync(tensor: Tensor): NestedNumbers {
  const { array, sequence } = startCopy('toArraySync', tensor, numericDType(tensor.dtype));
  waitFor(sequence);
  return nest(array, tensor.shape, tensor.dtype === 'bool');
}
