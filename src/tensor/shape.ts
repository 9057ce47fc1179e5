/** Shape arithmetic: sizes, strides, axes, broadcasting. Numbers only; no tensors. */
import { AttributeError, ShapeError } from '../errors.js';
import { formatShape, formatValue } from '../util/format.js';
import { isContiguous, sizeOf } from '../util/layout.js';

export { isContiguous, sizeOf };

/** Lengths of the axes. */
export type Shape = readonly number[];

export const MAX_RANK = 8;

/** Row-major strides, in elements. */
export function contiguousStrides(shape: Shape): number[] {
  const strides = new Array<number>(shape.length);
  let stride = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    strides[i] = stride;
    stride *= shape[i]!;
  }
  return strides;
}

export function sameShape(a: Shape, b: Shape): boolean {
  if (a === b) return true;
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

/**
 * A checked copy of a shape given by the user.
 *
 * @throws ShapeError if it is not an array of at most 8 non-negative integers whose product is exact
 */
export function checkShape(op: string, shape: unknown, argument = 'shape'): number[] {
  const ok =
    Array.isArray(shape) &&
    shape.length <= MAX_RANK &&
    shape.every((length) => Number.isInteger(length) && length >= 0) &&
    sizeOf(shape) <= Number.MAX_SAFE_INTEGER;
  if (ok) return [...(shape as number[])];
  throw new ShapeError({
    op,
    argument,
    expected: `at most ${MAX_RANK} non-negative integers`,
    actual: formatValue(shape),
  });
}

/**
 * An axis counted from the front, given one that may be negative.
 *
 * @throws AttributeError if it is not an integer in [-rank, rank)
 */
export function checkAxis(op: string, axis: unknown, rank: number, argument = 'axis'): number {
  if (Number.isInteger(axis)) {
    const positive = (axis as number) < 0 ? (axis as number) + rank : (axis as number);
    if (positive >= 0 && positive < rank) return positive;
  }
  throw new AttributeError({
    op,
    argument,
    expected: rank === 0 ? 'no axis for a scalar' : `an integer from ${-rank} to ${rank - 1}`,
    actual: formatValue(axis),
  });
}

/** Distinct axes in ascending order; undefined means all of them. */
export function checkAxes(op: string, axes: number | readonly number[] | undefined | null, rank: number): number[] {
  if (axes === undefined || axes === null) return Array.from({ length: rank }, (_, i) => i);
  const list = (typeof axes === 'number' ? [axes] : [...axes]).map((axis) => checkAxis(op, axis, rank, 'axes'));
  list.sort((a, b) => a - b);
  if (list.some((axis, i) => axis === list[i - 1])) {
    throw new AttributeError({ op, argument: 'axes', expected: 'distinct axes', actual: formatValue(axes) });
  }
  return list;
}

/**
 * The shape that all of `shapes` broadcast to, by NumPy's rule.
 *
 * @throws ShapeError if two axes differ and neither is 1
 */
export function broadcastShapes(op: string, ...shapes: Shape[]): number[] {
  let rank = 0;
  for (const shape of shapes) if (shape.length > rank) rank = shape.length;
  const result = new Array<number>(rank).fill(1);
  for (const shape of shapes) {
    const lead = rank - shape.length;
    for (let i = 0; i < shape.length; i++) {
      const length = shape[i]!;
      const current = result[lead + i]!;
      if (length === current || length === 1) continue;
      if (current !== 1) {
        throw new ShapeError({
          op,
          expected: 'shapes that broadcast together',
          actual: shapes.map(formatShape).join(' and '),
          hint: 'Each axis, counted from the last, must be equal or 1',
        });
      }
      result[lead + i] = length;
    }
  }
  return result;
}

/** Strides that make a view of `shape` look like `target`: 0 along broadcast axes. The shapes must be compatible. */
export function broadcastStrides(shape: Shape, strides: readonly number[], target: Shape): number[] {
  const lead = target.length - shape.length;
  const result = new Array<number>(target.length).fill(0);
  for (let i = 0; i < shape.length; i++) {
    if (shape[i] === target[lead + i]) result[lead + i] = shape[i] === 1 ? 0 : strides[i]!;
  }
  return result;
}
