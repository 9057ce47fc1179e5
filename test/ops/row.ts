/** A row of the op table, and arrays of plain numbers for the oracles. */
import type { DType, Tensor } from '../../src/index.js';

export type Shape = readonly number[];

/** An array of doubles in row-major order. */
export interface Nd {
  readonly shape: Shape;
  readonly data: Float64Array;
}

/** What a row's checks are called where a row switches one off. */
export type CheckName = 'empty' | 'single' | 'tails' | 'layouts' | 'broadcast' | 'half' | 'wrong';

export interface InputRule {
  /** Value from a number in (-1, 1) that is different for each element. Default: 2·u. */
  readonly value?: (u: number, i: number) => number;
  /** Default `float`: every floating-point dtype in turn. */
  readonly dtype?: 'float' | DType;
  /** A float without a gradient by definition (tables, running statistics): held fixed where gradients are compared. */
  readonly constant?: boolean;
}

export interface Row {
  /** What the test is called; the op, if `op` does not say otherwise. */
  readonly name: string;
  /** The function of src/ops/index.ts. */
  readonly op?: string;
  readonly call: (...inputs: Tensor[]) => Tensor | readonly Tensor[];
  /** In float64, of the numbers that the tensors hold. */
  readonly oracle: (...inputs: Nd[]) => Nd | readonly Nd[];
  /** Shapes of the inputs. The first are those of all checks; the others are run forward only. */
  readonly shapes: readonly (readonly Shape[])[];
  readonly inputs?: readonly InputRule[];
  /** Compare the gradient with differences. Default true. */
  readonly gradient?: boolean;
  /** Dtype of the results where it is not the first input's: of all, of each, or as it follows from the floats' dtype. */
  readonly result?: DType | readonly DType[] | ((floats: DType) => DType);
  /** Error allowed: ulps · ε(dtype) · (|expected| + magnitude). Default 8 and 1. */
  readonly ulps?: number;
  readonly magnitude?: number;
  /** The dtype that ε belongs to where it is not the result's: what a result of more digits went through on its way. */
  readonly precision?: (floats: DType) => DType;
  /** Takes int32 and int64 too, with the same meaning. */
  readonly integers?: boolean;
  /** Large enough that several threads work on it. Default: the first of `shapes`. */
  readonly large?: readonly Shape[];
  /** Shapes that are refused with ShapeError. */
  readonly misfits?: readonly (readonly Shape[])[];
  /** Calls of the first inputs that are refused with AttributeError. */
  readonly refused?: readonly ((...inputs: Tensor[]) => unknown)[];
  /** Ops of the registry that the row or its gradient must run, beyond the one of its name. */
  readonly kernels?: readonly string[];
  /** Checks that do not apply, each with its reason. */
  readonly exceptions?: Readonly<Partial<Record<CheckName, string>>>;
}

export const sizeOf = (shape: Shape): number => shape.reduce((a, b) => a * b, 1);

/** An array from a function of the coordinates. */
export function make(shape: Shape, value: (index: readonly number[]) => number): Nd {
  const data = new Float64Array(sizeOf(shape));
  const index = shape.map(() => 0);
  for (let i = 0; i < data.length; i++) {
    data[i] = value(index);
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      if (++index[axis]! < shape[axis]!) break;
      index[axis] = 0;
    }
  }
  return { shape: [...shape], data };
}

/** The element at these coordinates; axes of length 1 and missing leading axes broadcast. */
export function get(x: Nd, index: readonly number[]): number {
  let at = 0;
  const skip = index.length - x.shape.length;
  for (let axis = 0; axis < x.shape.length; axis++) {
    const length = x.shape[axis]!;
    at = at * length + (length === 1 ? 0 : index[axis + skip]!);
  }
  return x.data[at]!;
}

function broadcast(a: Shape, b: Shape): Shape {
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, i) => {
    const [m, n] = [a[i - rank + a.length] ?? 1, b[i - rank + b.length] ?? 1];
    return m === 1 ? n : m;
  });
}

/** f element by element, with broadcasting. */
export function map(f: (...values: number[]) => number, ...inputs: readonly Nd[]): Nd {
  const shape = inputs.reduce<Shape>((found, { shape: next }) => broadcast(found, next), []);
  return make(shape, (index) => f(...inputs.map((x) => get(x, index))));
}

/** f of the elements along some axes (default all); the axes go, or stay with length 1. */
export function fold(x: Nd, f: (values: number[]) => number, axes?: readonly number[], keepDims = false): Nd {
  const rank = x.shape.length;
  const gone = (axes ?? x.shape.map((_, i) => i)).map((axis) => (axis < 0 ? axis + rank : axis));
  const kept = x.shape.map((n, i) => (gone.includes(i) ? 1 : n));
  const inner = x.shape.map((n, i) => (gone.includes(i) ? n : 1));
  const full = make(kept, (index) => {
    const values: number[] = [];
    make(inner, (offset) =>
      values.push(
        get(
          x,
          index.map((i, axis) => i + offset[axis]!),
        ),
      ),
    );
    return f(values);
  });
  return keepDims ? full : { shape: kept.filter((_, i) => !gone.includes(i)), data: full.data };
}

/** f of each line along one axis, which gives a line of any one length. */
export function lines(x: Nd, axis: number, f: (line: number[]) => ArrayLike<number>): Nd {
  const at = axis < 0 ? axis + x.shape.length : axis;
  const length = x.shape[at]!;
  const results = new Map<string, ArrayLike<number>>();
  const lineAt = (index: readonly number[]): ArrayLike<number> => {
    const key = index.map((i, k) => (k === at ? '' : i)).join();
    let found = results.get(key);
    if (found === undefined) {
      found = f(
        Array.from({ length }, (_, i) =>
          get(
            x,
            index.map((old, k) => (k === at ? i : old)),
          ),
        ),
      );
      results.set(key, found);
    }
    return found;
  };
  const probe = f(Array.from({ length }, () => 0.5)).length;
  return make(
    x.shape.map((n, k) => (k === at ? probe : n)),
    (index) => lineAt(index)[index[at]!]!,
  );
}

/** Shapes of the same kind for functions of one array: ordinary, odd, empty, one element. */
export const plainShapes: readonly (readonly Shape[])[] = [
  [[3, 4]],
  [[2, 0]],
  [[1]],
  [[]],
  [[3]],
  [[7]],
  [[5, 17]],
  [[2, 33]],
];
