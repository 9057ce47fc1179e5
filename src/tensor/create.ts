/**
 * Making tensors: from data, or filled by a rule.
 *
 * @module
 */
import { AttributeError, DTypeError, ShapeError } from '../errors.js';
import { kernelId } from '../runtime/kernels.js';
import { submit } from '../runtime/queue.js';
import { allocate, allocateForHostWrite, borrow } from '../runtime/storage.js';
import { checkInteger, checkKeys, checkNumber } from '../util/assert.js';
import { formatShape, formatValue } from '../util/format.js';
import {
  arrayConstructors,
  checkDType,
  getDefaultDType,
  isFloating,
  itemSize,
  type DType,
  type TensorData,
} from './dtype.js';
import { checkShape, contiguousStrides, sizeOf, type Shape } from './shape.js';
import { Tensor, type Device } from './tensor.js';

/** Options of every function that makes a tensor. */
export interface TensorOptions {
  /** Default: the data's own, or `float32`. */
  readonly dtype?: DType;
  /** Default `cpu`. */
  readonly device?: Device;
  /** Default false. */
  readonly requiresGrad?: boolean;
}

/** Options of {@link tensor} and {@link fromTypedArray}. */
export interface DataOptions extends TensorOptions {
  /** Shape of flat data. Default: its length, or the nesting of the arrays. */
  readonly shape?: Shape;
}

/** Numbers, booleans or bigints, nested to any depth; every level must be as long as its neighbours. */
export type NestedArray = number | boolean | bigint | readonly NestedArray[];

const optionKeys = ['dtype', 'device', 'requiresGrad', 'shape', 'generator'];
const fillKernel = kernelId('fill', 0, 1, 1);
const copyKernel = kernelId('copy', 1, 1, 0);

/** @internal Checks what all factories share, and finishes the tensor. */
export function finish(tensor: Tensor, options: TensorOptions): Tensor {
  return options.requiresGrad ? tensor.requiresGrad_() : tensor;
}

/** @internal */
export function checkOptions(op: string, options: TensorOptions): void {
  checkKeys(op, options, optionKeys);
  if (options.device !== undefined && options.device !== 'cpu') {
    throw new AttributeError({ op, argument: 'device', expected: '"cpu"', actual: formatValue(options.device) });
  }
}

/** @internal A tensor of the given shape with undefined contents. */
export function uninitialised(shape: Shape, dtype: DType): Tensor {
  return new Tensor(allocate(sizeOf(shape) * itemSize(dtype)), 0, shape, contiguousStrides(shape), dtype);
}

/**
 * A tensor without defined contents: fill it before reading.
 *
 * @throws ShapeError if the shape is malformed
 */
export function empty(shape: Shape, options: TensorOptions = {}): Tensor {
  checkOptions('empty', options);
  const dtype = options.dtype === undefined ? getDefaultDType() : checkDType('empty', options.dtype);
  return finish(uninitialised(checkShape('empty', shape), dtype), options);
}

/**
 * A tensor with `value` everywhere.
 *
 * @throws ShapeError if the shape is malformed
 */
export function full(shape: Shape, value: number | boolean, options: TensorOptions = {}): Tensor {
  checkOptions('full', options);
  const dtype =
    options.dtype !== undefined
      ? checkDType('full', options.dtype)
      : typeof value === 'boolean'
        ? 'bool'
        : getDefaultDType();
  const result = uninitialised(checkShape('full', shape), dtype);
  submit(fillKernel, [], [result], [Number(value)], result.size);
  return finish(result, options);
}

/** A tensor of zeros. Default dtype `float32`. */
export function zeros(shape: Shape, options: TensorOptions = {}): Tensor {
  return full(shape, 0, options);
}

/** A tensor of ones. Default dtype `float32`. */
export function ones(shape: Shape, options: TensorOptions = {}): Tensor {
  return full(shape, 1, options);
}

/** Zeros of the shape and dtype of `like`. */
export function zerosLike(like: Tensor, options: TensorOptions = {}): Tensor {
  return full(like.shape, 0, { dtype: like.dtype, ...options });
}

/** Ones of the shape and dtype of `like`. */
export function onesLike(like: Tensor, options: TensorOptions = {}): Tensor {
  return full(like.shape, 1, { dtype: like.dtype, ...options });
}

/**
 * Evenly spaced numbers `start, start + step, …` below `end`. `arange(n)` counts from 0.
 * Default dtype: int64 if all arguments are integers, as in PyTorch, else float32.
 */
export function arange(start: number, end?: number, step = 1, options: TensorOptions = {}): Tensor {
  const from = end === undefined ? 0 : checkNumber('arange', 'start', start);
  const to = checkNumber('arange', 'end', end ?? start);
  checkNumber('arange', 'step', step);
  const length = Math.max(0, Math.ceil((to - from) / step));
  if (step === 0 || !Number.isSafeInteger(length)) {
    throw new AttributeError({
      op: 'arange',
      argument: 'step',
      expected: 'a step that reaches the end',
      actual: formatValue(step),
    });
  }
  const integral = [from, to, step].every(Number.isInteger);
  const values = Float64Array.from({ length }, (_, i) => from + i * step);
  return tensor(values, { dtype: integral ? 'int64' : getDefaultDType(), ...options });
}

/** `count` numbers from `start` to `end`, both included. Default dtype float32. */
export function linspace(start: number, end: number, count: number, options: TensorOptions = {}): Tensor {
  checkInteger('linspace', 'count', count, 0);
  checkNumber('linspace', 'start', start);
  checkNumber('linspace', 'end', end);
  const step = count > 1 ? (end - start) / (count - 1) : 0;
  const values = Float64Array.from({ length: count }, (_, i) =>
    i === count - 1 && count > 1 ? end : start + i * step,
  );
  return tensor(values, { dtype: getDefaultDType(), ...options });
}

/** The identity matrix, or its first rows and columns. */
export function eye(rows: number, columns = rows, options: TensorOptions = {}): Tensor {
  checkInteger('eye', 'rows', rows, 0);
  checkInteger('eye', 'columns', columns, 0);
  const values = new Float64Array(rows * columns);
  for (let i = 0; i < Math.min(rows, columns); i++) values[i * columns + i] = 1;
  return tensor(values, { dtype: getDefaultDType(), ...options, shape: [rows, columns] });
}

const arrayDTypes = new Map<string, DType>([
  ['Float32Array', 'float32'],
  ['Float64Array', 'float64'],
  ['Int8Array', 'int8'],
  ['Uint8Array', 'uint8'],
  ['Uint8ClampedArray', 'uint8'],
  ['Buffer', 'uint8'],
  ['Int16Array', 'int32'],
  ['Uint16Array', 'int32'],
  ['Int32Array', 'int32'],
  ['Uint32Array', 'int64'],
  ['BigInt64Array', 'int64'],
  ['BigUint64Array', 'int64'],
]);

type AnyTypedArray = {
  readonly length: number;
  readonly [index: number]: number | bigint;
  readonly byteLength: number;
};

/**
 * A tensor with a copy of the data.
 *
 * Nested arrays of numbers become float32 (booleans bool, bigints int64); a typed array keeps its type. Float64Array becomes
 * float64: pass `{ dtype: 'float32' }` to convert. A Uint16Array with dtype float16 or bfloat16 is taken as bit patterns.
 *
 * @throws ShapeError if the nesting is ragged or `shape` does not fit
 * @throws DTypeError if the data are of no known type
 */
export function tensor(data: NestedArray | TensorData | ArrayLike<number>, options: DataOptions = {}): Tensor {
  checkOptions('tensor', options);
  if (options.dtype !== undefined) checkDType('tensor', options.dtype);
  if (ArrayBuffer.isView(data) && !(data instanceof DataView)) {
    const values = data as unknown as AnyTypedArray;
    const own = arrayDTypes.get(data.constructor.name);
    if (own === undefined)
      throw new DTypeError({ op: 'tensor', argument: 'data', expected: 'a typed array', actual: formatValue(data) });
    return finish(fromFlat(values, own, flatShape(values.length, options.shape), options.dtype ?? own), options);
  }
  const flat: (number | bigint)[] = [];
  const { shape, dtype } = flatten(data as NestedArray, flat);
  const target = options.shape === undefined ? shape : flatShape(flat.length, options.shape);
  return finish(fromFlat(flat, dtype, target, options.dtype ?? dtype), options);
}

function flatShape(length: number, shape: Shape | undefined): number[] {
  if (shape === undefined) return [length];
  const checked = checkShape('tensor', shape);
  if (sizeOf(checked) === length) return checked;
  throw new ShapeError({
    op: 'tensor',
    argument: 'shape',
    expected: `one of ${length} elements`,
    actual: formatShape(checked),
  });
}

function flatten(data: NestedArray, flat: (number | bigint)[]): { shape: number[]; dtype: DType } {
  const shape: number[] = [];
  for (let level: NestedArray | undefined = data; Array.isArray(level); level = (level as readonly NestedArray[])[0]) {
    shape.push((level as readonly NestedArray[]).length);
  }
  let dtype: DType | undefined;
  const visit = (value: NestedArray, depth: number): void => {
    if (Array.isArray(value)) {
      if (depth >= shape.length || value.length !== shape[depth]) {
        const expected =
          depth < shape.length ? `rows of ${shape[depth]} at depth ${depth}` : `numbers at depth ${depth}`;
        throw new ShapeError({ op: 'tensor', argument: 'data', expected, actual: formatValue(value) });
      }
      for (const item of value) visit(item as NestedArray, depth + 1);
      return;
    }
    if (depth !== shape.length) {
      throw new ShapeError({
        op: 'tensor',
        argument: 'data',
        expected: `an array at depth ${depth}`,
        actual: formatValue(value),
      });
    }
    const kind = typeof value;
    if (kind !== 'number' && kind !== 'boolean' && kind !== 'bigint') {
      throw new DTypeError({
        op: 'tensor',
        argument: 'data',
        expected: 'numbers, booleans or bigints',
        actual: formatValue(value),
      });
    }
    const own: DType = kind === 'boolean' ? 'bool' : kind === 'bigint' ? 'int64' : getDefaultDType();
    if (dtype === undefined || dtype === 'bool') dtype = own;
    else if (own === getDefaultDType()) dtype = own;
    flat.push(kind === 'boolean' ? Number(value) : (value as number | bigint));
  };
  visit(data, 0);
  return { shape: checkShape('tensor', shape, 'data'), dtype: dtype ?? getDefaultDType() };
}

/** Writes host values: directly if the dtype has an array of its own, else through float32 and a cast. */
function fromFlat(values: ArrayLike<number | bigint>, own: DType, shape: number[], dtype: DType): Tensor {
  const half = dtype === 'float16' || dtype === 'bfloat16';
  const rawBits = half && (values as { constructor?: { name: string } }).constructor?.name === 'Uint16Array';
  if (half && !rawBits) {
    const wide = hostTensor(values, shape, isFloating(own) ? own : 'float32');
    return castAway(wide, dtype);
  }
  return hostTensor(values, shape, dtype);
}

function castAway(source: Tensor, dtype: DType): Tensor {
  const result = uninitialised(source.shape, dtype);
  submit(copyKernel, [source], [result], [], result.size);
  source.dispose();
  return result;
}

function hostTensor(values: ArrayLike<number | bigint>, shape: number[], dtype: DType): Tensor {
  const size = sizeOf(shape);
  const storage = allocateForHostWrite(size * itemSize(dtype));
  const target = new arrayConstructors[dtype](storage.buffer as ArrayBuffer, storage.start, size);
  if (target instanceof BigInt64Array) {
    for (let i = 0; i < size; i++) target[i] = toBigInt(values[i]!);
  } else if (dtype === 'bool') {
    for (let i = 0; i < size; i++) target[i] = Number(values[i]) !== 0 ? 1 : 0;
  } else if (ArrayBuffer.isView(values) && !(values instanceof BigInt64Array) && !(values instanceof BigUint64Array)) {
    target.set(values as unknown as ArrayLike<number>);
  } else {
    for (let i = 0; i < size; i++) target[i] = Number(values[i]);
  }
  return new Tensor(storage, 0, shape, contiguousStrides(shape), dtype);
}

function toBigInt(value: number | bigint): bigint {
  if (typeof value === 'bigint') return value;
  return Number.isFinite(value) ? BigInt(Math.trunc(value)) : 0n;
}

/**
 * A tensor over the caller's own memory, without a copy. The array must not be resized, transferred or written to while the
 * tensor lives; the tensor may write to it.
 *
 * @throws DTypeError if the array's type is not that of a dtype
 */
export function fromTypedArray(array: TensorData, options: DataOptions = {}): Tensor {
  checkOptions('fromTypedArray', options);
  const own = ArrayBuffer.isView(array) ? arrayDTypes.get((array as object).constructor.name) : undefined;
  const dtype = options.dtype === undefined ? own : checkDType('fromTypedArray', options.dtype);
  const fits =
    own !== undefined && dtype !== undefined && arrayConstructors[dtype].name === (array as object).constructor.name;
  if (!fits || (array.buffer as { resizable?: boolean }).resizable) {
    throw new DTypeError({
      op: 'fromTypedArray',
      argument: 'array',
      expected: 'a typed array of fixed length whose type is that of a dtype',
      actual: formatValue(array),
    });
  }
  const shape = flatShape(array.length, options.shape);
  const storage = borrow(new Uint8Array(array.buffer as ArrayBuffer, array.byteOffset, array.byteLength));
  return finish(new Tensor(storage, 0, shape, contiguousStrides(shape), dtype), options);
}

const constants = new Map<string, Tensor>();
const MAX_CONSTANTS = 512;

/** @internal A shared scalar; never dispose of it. */
export function constant(value: number, dtype: DType): Tensor {
  const key = `${dtype}${Object.is(value, -0) ? '-0' : value}`;
  let found = constants.get(key);
  if (found === undefined) {
    if (constants.size >= MAX_CONSTANTS) constants.clear(); // left to the collector: a queued kernel may still read them
    found = new Tensor(allocate(itemSize(dtype)), 0, [], [], dtype, true);
    submit(fillKernel, [], [found], [value], 1);
    constants.set(key, found);
  }
  return found;
}
