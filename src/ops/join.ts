/**
 * Putting tensors together and taking them apart.
 *
 * @module
 */
import { AttributeError, ShapeError } from '../errors.js';
import { kernelId } from '../runtime/kernels.js';
import { submit } from '../runtime/queue.js';
import { arange, tensor, zeros } from '../tensor/create.js';
import { promote } from '../tensor/dtype.js';
import { checkAxes, checkAxis, sameShape } from '../tensor/shape.js';
import { needsRecord, record } from '../tensor/tape.js';
import { Tensor, checkTensor } from '../tensor/tensor.js';
import { checkInteger, checkOneOf } from '../util/assert.js';
import { formatShape, formatValue } from '../util/format.js';
import { add } from './arithmetic.js';
import { expand } from './broadcast.js';
import { ge, le } from './comparison.js';
import { to } from './copy.js';
import { makeOutput } from './define.js';
import { indexSelect } from './indexing.js';
import { narrow, permute, reshape, slice, squeeze, transpose, unsqueeze } from './views.js';
import { where } from './where.js';

const copyKernel = kernelId('copy', 1, 1, 0);

function checkTensors(op: string, tensors: readonly Tensor[]): void {
  if (!Array.isArray(tensors) || tensors.length === 0 || !tensors.every((x) => x instanceof Tensor)) {
    throw new AttributeError({
      op,
      argument: 'tensors',
      expected: 'an array of at least one tensor',
      actual: formatValue(tensors),
    });
  }
  for (const x of tensors) checkTensor(op, 'x', x);
}

/**
 * Tensors one behind the other along an axis; dtypes promote. Only that axis may differ in length.
 *
 * @throws ShapeError if ranks or other axes differ
 * @throws AttributeError if there are no tensors
 */
export function concat(tensors: readonly Tensor[], axis = 0): Tensor {
  checkTensors('concat', tensors);
  const first = tensors[0]!;
  const at = checkAxis('concat', axis, first.rank);
  const dtype = tensors.reduce((common, x) => promote(common, x.dtype), first.dtype);
  const parts = tensors.map((x) => to(x, dtype));
  let total = 0;
  for (const [i, { shape }] of parts.entries()) {
    if (shape.length !== first.rank || shape.some((length, k) => k !== at && length !== first.shape[k])) {
      const expected = `${formatShape(first.shape)}, axis ${at} aside`;
      throw new ShapeError({ op: 'concat', argument: `tensors[${i}]`, expected, actual: formatShape(shape) });
    }
    total += shape[at]!;
  }
  const y = makeOutput(
    first.shape.map((length, i) => (i === at ? total : length)),
    dtype,
  );
  const { storage, dtypeId, itemBytes, strides } = y;
  let start = 0;
  for (const x of parts) {
    const target = { storage, dtypeId, itemBytes, strides, shape: x.shape, offset: y.offset + start * strides[at]! };
    if (x.size > 0) submit(copyKernel, [x], [target], [], x.size);
    start += x.shape[at]!;
  }
  if (needsRecord(parts)) {
    const lengths = parts.map((x) => x.shape[at]!);
    record('concat', parts, [y], [], (node, [grad]) => {
      let from = 0;
      return lengths.map((length, i) => {
        const begin = from;
        from += length;
        return node.needs(i) ? narrow(grad!, at, begin, length) : null;
      });
    });
  }
  return y;
}

/**
 * Tensors of one shape along a new axis.
 *
 * @throws ShapeError if shapes differ
 */
export function stack(tensors: readonly Tensor[], axis = 0): Tensor {
  checkTensors('stack', tensors);
  const { shape } = tensors[0]!;
  const at = checkAxis('stack', axis, shape.length + 1);
  for (const [i, x] of tensors.entries()) {
    if (!sameShape(x.shape, shape)) {
      throw new ShapeError({
        op: 'stack',
        argument: `tensors[${i}]`,
        expected: formatShape(shape),
        actual: formatShape(x.shape),
      });
    }
  }
  return concat(
    tensors.map((x) => unsqueeze(x, at)),
    at,
  );
}

/**
 * Views of consecutive parts of an axis: of `sizes` each, or of the given sizes. With one size the last part may be shorter.
 * Their gradients come back together, as one concatenation.
 *
 * @throws AttributeError if the sizes do not add up to the axis
 */
export function split(x: Tensor, sizes: number | readonly number[], axis = 0): Tensor[] {
  checkTensor('split', 'x', x);
  const at = checkAxis('split', axis, x.rank);
  const length = x.shape[at]!;
  const list: number[] = [];
  if (typeof sizes === 'number') {
    checkInteger('split', 'sizes', sizes, 1);
    for (let start = 0; start < length || start === 0; start += sizes) list.push(Math.min(sizes, length - start));
  } else {
    for (const size of sizes) list.push(checkInteger('split', 'sizes', size, 0));
    if (list.length === 0 || list.reduce((a, b) => a + b, 0) !== length) {
      throw new AttributeError({
        op: 'split',
        argument: 'sizes',
        expected: `sizes that add up to ${length}`,
        actual: formatValue(sizes),
      });
    }
  }
  let start = 0;
  const parts = list.map((size) => {
    const offset = size === 0 ? x.offset : x.offset + start * x.strides[at]!;
    start += size;
    return x.view(
      offset,
      x.shape.map((n, i) => (i === at ? size : n)),
      x.strides,
    );
  });
  if (needsRecord([x])) {
    const { dtype } = x;
    record('split', [x], parts, [], (node, grads) => [
      concat(
        grads.map((grad, i) => grad ?? zeros(node.outputs[i]!.shape, { dtype })),
        at,
      ),
    ]);
  }
  return parts;
}

/** {@link split} into at most `count` parts of equal length, the last of which may be shorter; as in PyTorch. */
export function chunk(x: Tensor, count: number, axis = 0): Tensor[] {
  checkTensor('chunk', 'x', x);
  checkInteger('chunk', 'count', count, 1);
  const at = checkAxis('chunk', axis, x.rank);
  return split(x, Math.max(1, Math.ceil(x.shape[at]! / count)), at);
}

/** The positions along an axis, one tensor each, without that axis. */
export function unbind(x: Tensor, axis = 0): Tensor[] {
  checkTensor('unbind', 'x', x);
  const at = checkAxis('unbind', axis, x.rank);
  return x.shape[at] === 0 ? [] : split(x, 1, at).map((part) => squeeze(part, at));
}

/**
 * The tensor repeated as a whole, `repeats[i]` times along axis i. With more numbers than axes, axes are added in front.
 *
 * @throws AttributeError if there are fewer numbers than axes
 */
export function repeat(x: Tensor, repeats: readonly number[]): Tensor {
  checkTensor('repeat', 'x', x);
  for (const count of repeats) checkInteger('repeat', 'repeats', count, 0);
  if (repeats.length < x.rank || repeats.length > 8) {
    throw new AttributeError({
      op: 'repeat',
      argument: 'repeats',
      expected: `${x.rank} to 8 numbers`,
      actual: formatValue(repeats),
    });
  }
  let y = reshape(x, [...new Array<number>(repeats.length - x.rank).fill(1), ...x.shape]);
  repeats.forEach((count, axis) => {
    if (count === 1) return;
    const { shape } = y;
    if (shape[axis] === 1)
      y = expand(
        y,
        shape.map((n, i) => (i === axis ? count : n)),
      );
    else if (count === 0) y = narrow(y, axis, 0, 0);
    else if (y.rank === 8) y = concat(new Array<Tensor>(count).fill(y), axis);
    else {
      const wide = expand(unsqueeze(y, axis), [...shape.slice(0, axis), count, ...shape.slice(axis)]);
      y = reshape(
        wide,
        shape.map((n, i) => (i === axis ? n * count : n)),
      );
    }
  });
  return y;
}

/** {@link repeat}, with 1 for the leading axes if there are fewer numbers than axes; NumPy's name. */
export function tile(x: Tensor, repeats: readonly number[]): Tensor {
  checkTensor('tile', 'x', x);
  return repeat(x, [...new Array<number>(Math.max(0, x.rank - repeats.length)).fill(1), ...repeats]);
}

/**
 * Each position along an axis repeated in place: `repeats` times, or `repeats[i]` times the i-th. Without `axis`, of the
 * flattened tensor.
 *
 * @throws AttributeError if there are not as many numbers as positions
 */
export function repeatInterleave(x: Tensor, repeats: number | readonly number[], axis?: number): Tensor {
  const op = 'repeatInterleave';
  checkTensor(op, 'x', x);
  if (axis === undefined) return repeatInterleave(reshape(x, [x.size]), repeats, 0);
  const at = checkAxis(op, axis, x.rank);
  const length = x.shape[at]!;
  const counts = typeof repeats === 'number' ? new Array<number>(length).fill(repeats) : repeats;
  if (typeof repeats === 'number') checkInteger(op, 'repeats', repeats, 0);
  else for (const count of repeats) checkInteger(op, 'repeats', count, 0);
  if (counts.length !== length) {
    throw new AttributeError({ op, argument: 'repeats', expected: `${length} numbers`, actual: formatValue(repeats) });
  }
  if (typeof repeats === 'number' && x.rank < 8) {
    const behind = x.shape.slice(at + 1);
    const wide = expand(unsqueeze(x, at + 1), [...x.shape.slice(0, at + 1), repeats, ...behind]);
    return reshape(wide, [...x.shape.slice(0, at), length * repeats, ...behind]);
  }
  const positions = counts.flatMap((count, i) => new Array<number>(count).fill(i));
  return indexSelect(x, at, tensor(Int32Array.from(positions)));
}

/**
 * Elements moved `shifts` positions along axes; what leaves at one end comes in at the other. Without `axes`, the flattened
 * tensor is rolled.
 *
 * @throws AttributeError if there are not as many shifts as axes
 */
export function roll(x: Tensor, shifts: number | readonly number[], axes?: number | readonly number[]): Tensor {
  checkTensor('roll', 'x', x);
  const by = typeof shifts === 'number' ? [shifts] : shifts;
  for (const shift of by) checkInteger('roll', 'shifts', shift);
  if (axes === undefined) {
    if (by.length === 1) return reshape(roll(reshape(x, [x.size]), by, [0]), x.shape);
    throw new AttributeError({ op: 'roll', argument: 'axes', expected: 'as many axes as shifts', actual: 'none' });
  }
  const list = (typeof axes === 'number' ? [axes] : axes).map((axis) => checkAxis('roll', axis, x.rank, 'axes'));
  if (list.length !== by.length) {
    throw new AttributeError({
      op: 'roll',
      argument: 'axes',
      expected: `${by.length} axes`,
      actual: formatValue(axes),
    });
  }
  return list.reduce((y, axis, i) => {
    const length = y.shape[axis]!;
    const shift = length === 0 ? 0 : ((by[i]! % length) + length) % length;
    if (shift === 0) return y;
    return concat([slice(y, axis, length - shift), slice(y, axis, 0, length - shift)], axis);
  }, x);
}

function triangle(op: string, x: Tensor, offset: number, keeps: (row: Tensor, column: Tensor) => Tensor): Tensor {
  checkTensor(op, 'x', x);
  checkInteger(op, 'offset', offset);
  if (x.rank < 2)
    throw new ShapeError({ op, argument: 'x', expected: 'at least 2 axes', actual: formatShape(x.shape) });
  const [rows, columns] = [x.shape.at(-2)!, x.shape.at(-1)!];
  const row = add(reshape(arange(rows, undefined, 1, { dtype: 'int32' }), [rows, 1]), offset);
  return where(keeps(row, arange(columns, undefined, 1, { dtype: 'int32' })), x, 0);
}

/** The lower triangle of the last two axes, up to the diagonal `offset` above the main one; zeros elsewhere. */
export function tril(x: Tensor, offset = 0): Tensor {
  return triangle('tril', x, offset, (row, column) => ge(row, column));
}

/** The upper triangle of the last two axes, from the diagonal `offset` above the main one; zeros elsewhere. */
export function triu(x: Tensor, offset = 0): Tensor {
  return triangle('triu', x, offset, (row, column) => le(row, column));
}

/**
 * Coordinate grids from one-axis tensors: the i-th result varies along axis i alone.
 *
 * @param indexing - `'ij'` (default) for matrix order, `'xy'` for the first two axes exchanged, as in NumPy
 */
export function meshgrid(tensors: readonly Tensor[], indexing: 'ij' | 'xy' = 'ij'): Tensor[] {
  checkTensors('meshgrid', tensors);
  checkOneOf('meshgrid', 'indexing', indexing, ['ij', 'xy']);
  for (const x of tensors) {
    if (x.rank !== 1)
      throw new ShapeError({
        op: 'meshgrid',
        argument: 'tensors',
        expected: 'one axis each',
        actual: formatShape(x.shape),
      });
  }
  const shape = tensors.map((x) => x.size);
  const grids = tensors.map((x, i) =>
    expand(
      reshape(
        x,
        shape.map((n, k) => (k === i ? n : 1)),
      ),
      shape,
    ),
  );
  return indexing === 'xy' && tensors.length > 1 ? grids.map((grid) => transpose(grid, 0, 1)) : grids;
}

/** Axes moved elsewhere; the others keep their order. */
export function moveAxis(x: Tensor, from: number, to: number): Tensor {
  checkTensor('moveAxis', 'x', x);
  const source = checkAxis('moveAxis', from, x.rank, 'from');
  const target = checkAxis('moveAxis', to, x.rank, 'to');
  const order = checkAxes('moveAxis', undefined, x.rank).filter((axis) => axis !== source);
  order.splice(target, 0, source);
  return permute(x, order);
}
