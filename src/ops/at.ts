/**
 * Indexing as NumPy has it, and what depends on the values of a mask.
 *
 * @module
 */
import { AttributeError, DTypeError, ShapeError } from '../errors.js';
import { tensor } from '../tensor/create.js';
import { dataSync, data } from '../tensor/read.js';
import { broadcastShapes, contiguousStrides, sizeOf, type Shape } from '../tensor/shape.js';
import { Tensor, checkTensor } from '../tensor/tensor.js';
import { formatValue } from '../util/format.js';
import { add, mul } from './arithmetic.js';
import { expand } from './broadcast.js';
import { ge, logicalOr, lt } from './comparison.js';
import { to } from './copy.js';
import { indexSelect } from './indexing.js';
import { permute, reshape, select, slice, unsqueeze } from './views.js';
import { where } from './where.js';

/**
 * What to take along one axis: a number (that position; the axis goes), `':'` or `'start:end:step'` (a slice, any part may be
 * left out, negative counts from the end), `null` (a new axis of length 1), `'...'` (as many whole axes as are left), an integer
 * tensor or array of numbers (those positions).
 */
export type Index = number | string | null | Tensor | readonly number[];

function parseSlice(text: string): [number | null, number | null, number] {
  const match = /^\s*(-?\d+)?\s*:\s*(-?\d+)?\s*(?::\s*(-?\d+)?\s*)?$/.exec(text);
  if (match === null) {
    throw new AttributeError({
      op: 'at',
      argument: 'index',
      expected: "'start:end:step' or '...'",
      actual: formatValue(text),
    });
  }
  const part = (value: string | undefined): number | null => (value === undefined ? null : Number(value));
  return [part(match[1]), part(match[2]), part(match[3]) ?? 1];
}

/** `'...'` written out, and whole axes added behind. */
function complete(x: Tensor, indices: readonly Index[]): Index[] {
  const dots = indices.filter((index) => index === '...').length;
  const used = indices.filter((index) => index !== null && index !== '...').length;
  if (dots > 1 || used > x.rank) {
    const actual = dots > 1 ? `'...' ${dots} times` : `${used} indices`;
    throw new ShapeError({
      op: 'at',
      argument: 'indices',
      expected: `at most ${x.rank} indices and one '...'`,
      actual,
    });
  }
  const rest = new Array<Index>(x.rank - used).fill(':');
  const at = indices.indexOf('...');
  return at < 0 ? [...indices, ...rest] : [...indices.slice(0, at), ...rest, ...indices.slice(at + 1)];
}

function asPositions(index: Tensor | readonly number[]): Tensor {
  const positions =
    index instanceof Tensor ? index : tensor(Array.from(index), { dtype: 'int64', shape: [index.length] });
  if (positions.dtype === 'int32' || positions.dtype === 'int64') return to(positions, 'int64');
  const hint =
    positions.dtype === 'bool'
      ? 'The length of the result depends on the values: use await og.maskedSelect(x, mask)'
      : undefined;
  throw new DTypeError({
    op: 'at',
    argument: 'index',
    expected: 'an int32 or int64 tensor',
    actual: positions.dtype,
    hint,
  });
}

/** Takes positions along several axes at once: the index tensors broadcast to each other, as in NumPy. */
function takeTogether(x: Tensor, picks: ReadonlyMap<number, Tensor>): Tensor {
  const axes = [...picks.keys()];
  const shape = broadcastShapes('at', ...[...picks.values()].map((index) => index.shape));
  const adjacent = axes.every((axis, i) => i === 0 || axis === axes[i - 1]! + 1);
  const first = adjacent ? axes[0]! : 0;
  const others = [...x.shape.keys()].filter((axis) => !picks.has(axis));
  const ordered = adjacent ? x : permute(x, [...axes, ...others]);
  const lengths = axes.map((axis) => x.shape[axis]!);
  const steps = contiguousStrides(lengths);
  let flat: Tensor | null = null;
  let outside: Tensor | null = null;
  [...picks.values()].forEach((index, i) => {
    const length = lengths[i]!;
    const wrapped = where(lt(index, 0), add(index, length), index);
    const bad = logicalOr(lt(wrapped, 0), ge(wrapped, length));
    const scaled = mul(wrapped, steps[i]!);
    flat = flat === null ? scaled : add(flat, scaled);
    outside = outside === null ? bad : logicalOr(outside, bad);
  });
  // An index beyond its own axis might be within the merged one: -1 makes the kernel refuse it.
  const positions = reshape(expand(where(outside!, -1, flat!), shape), [sizeOf(shape)]);
  const before = ordered.shape.slice(0, first);
  const behind = ordered.shape.slice(first + axes.length);
  const merged = reshape(ordered, [...before, sizeOf(lengths), ...behind]);
  return reshape(indexSelect(merged, first, positions), [...before, ...shape, ...behind]);
}

/**
 * A part of `x`, one index an axis: `at(x, 0, '1:3', null, '...', index)`. Numbers, slices and new axes give views; index
 * tensors copy, broadcast to each other, and put their axes where the first of them stood (in front, if they are apart).
 * Missing indices take whole axes. For masks see {@link maskedSelect}.
 *
 * @throws AttributeError if a position lies outside its axis
 * @throws ShapeError if there are more indices than axes
 * @throws DTypeError for a mask, or an index tensor that is not of integers
 */
export function at(x: Tensor, ...indices: Index[]): Tensor {
  checkTensor('at', 'x', x);
  let result = x;
  let axis = 0;
  const picks = new Map<number, Tensor>();
  for (const index of complete(x, indices)) {
    if (index === null) {
      result = unsqueeze(result, axis++);
    } else if (typeof index === 'number') {
      result = select(result, axis, index);
    } else if (typeof index === 'string') {
      const [start, end, step] = parseSlice(index);
      if (index !== ':') result = slice(result, axis, start, end, step);
      axis++;
    } else if (index instanceof Tensor || Array.isArray(index)) {
      picks.set(axis++, asPositions(index));
    } else {
      throw new AttributeError({
        op: 'at',
        argument: 'index',
        expected: 'a number, a slice, null or a tensor',
        actual: formatValue(index),
      });
    }
  }
  return picks.size === 0 ? result : takeTogether(result, picks);
}

function positionsOf(flags: ArrayLike<number | bigint>): number[] {
  const found: number[] = [];
  for (let i = 0; i < flags.length; i++) if (Number(flags[i]) !== 0) found.push(i);
  return found;
}

function coordinates(flat: readonly number[], shape: Shape): Tensor {
  const steps = contiguousStrides(shape);
  const values = new BigInt64Array(flat.length * shape.length);
  flat.forEach((position, row) => {
    shape.forEach((length, i) => {
      values[row * shape.length + i] = BigInt(Math.floor(position / steps[i]!) % length);
    });
  });
  return tensor(values, { shape: [flat.length, shape.length] });
}

/** True where `x` is not zero; NaN counts as not zero. Reads as bytes whatever the dtype. */
const flagsOf = (x: Tensor): Tensor => (x.dtype === 'bool' ? x : to(x, 'bool'));

/**
 * Coordinates of the elements that are not zero, in row-major order. Reads the tensor: its shape depends on the values.
 *
 * @shape (…) of rank r → (count, r), int64
 */
export async function nonzero(x: Tensor): Promise<Tensor> {
  return coordinates(positionsOf(await data(flagsOf(x))), x.shape);
}

/** {@link nonzero}, blocking. */
export function nonzeroSync(x: Tensor): Tensor {
  return coordinates(positionsOf(dataSync(flagsOf(x))), x.shape);
}

function checkMask(op: string, x: Tensor, mask: Tensor): number[] {
  checkTensor(op, 'x', x);
  if (!(mask instanceof Tensor) || mask.dtype !== 'bool') {
    const actual = mask instanceof Tensor ? mask.dtype : formatValue(mask);
    throw new DTypeError({ op, argument: 'mask', expected: 'a bool tensor', actual, hint: 'Compare to make one' });
  }
  return broadcastShapes(op, x.shape, mask.shape);
}

function selectPositions(x: Tensor, shape: Shape, flags: ArrayLike<number | bigint>): Tensor {
  const positions = tensor(BigInt64Array.from(positionsOf(flags), BigInt));
  return indexSelect(reshape(expand(x, shape), [sizeOf(shape)]), 0, positions);
}

/**
 * The elements of `x` where `mask` holds, in row-major order; both broadcast. The mask is read, `x` is not, and the gradient
 * flows to the elements taken.
 *
 * @shape (…), (…) → (count)
 * @throws DTypeError if `mask` is not a bool tensor
 */
export async function maskedSelect(x: Tensor, mask: Tensor): Promise<Tensor> {
  const shape = checkMask('maskedSelect', x, mask);
  return selectPositions(x, shape, await data(expand(mask, shape)));
}

/** {@link maskedSelect}, blocking. */
export function maskedSelectSync(x: Tensor, mask: Tensor): Tensor {
  const shape = checkMask('maskedSelectSync', x, mask);
  return selectPositions(x, shape, dataSync(expand(mask, shape)));
}
