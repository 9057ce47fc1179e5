/**
 * Rotary position embedding.
 *
 * @module
 */
import { AttributeError, DTypeError, ShapeError, StateError } from '../errors.js';
import type { View } from '../runtime/queue.js';
import { tensor } from '../tensor/create.js';
import type { DType } from '../tensor/dtype.js';
import { broadcastStrides, type Shape } from '../tensor/shape.js';
import { Tensor, checkTensor } from '../tensor/tensor.js';
import { checkInteger, checkNumber } from '../util/assert.js';
import { formatShape, formatValue } from '../util/format.js';
import { mul } from './arithmetic.js';
import { to } from './copy.js';
import { defineOp, type Op } from './define.js';
import { cos as cosine, sin as sine } from './unary.js';
import { unsqueeze } from './views.js';

/** Options of {@link ropeTables}. */
export interface RopeTablesOptions {
  /** Default 10000. */
  readonly theta?: number;
  /** Angle per position of each pair, in radians, instead of theta^(−2i/dim): for scaled variants. */
  readonly frequencies?: readonly number[] | Float32Array | Float64Array;
  /** Both tables are multiplied by it (YaRN). Default 1. */
  readonly scale?: number;
  /** Default float32. Angles are computed in float64 whatever it is. */
  readonly dtype?: DType;
}

/** Tables for {@link rope}. */
export interface RopeTables {
  readonly cos: Tensor;
  readonly sin: Tensor;
}

/** @throws DTypeError unless `positions` is a list of numbers */
function checkPositions(positions: readonly number[]): readonly number[] {
  if (!Array.isArray(positions)) {
    throw new DTypeError({
      op: 'ropeTables',
      argument: 'positions',
      expected: 'a number, a list of numbers or a tensor',
      actual: formatValue(positions),
    });
  }
  positions.forEach((position, i) => checkNumber('ropeTables', `positions[${i}]`, position));
  return positions;
}

/**
 * Cosines and sines of position·frequency.
 *
 * @param positions - how many, counted from 0, or the positions themselves
 * @param dim - elements to be turned, even
 * @shape positions: (…) → two of (…, dim/2)
 * @throws AttributeError if `dim` is odd or the frequencies are not dim/2
 * @source arXiv 2104.09864
 */
export function ropeTables(
  positions: number | readonly number[] | Tensor,
  dim: number,
  options: RopeTablesOptions = {},
): RopeTables {
  checkInteger('ropeTables', 'dim', dim, 0);
  if (dim % 2 !== 0)
    throw new AttributeError({ op: 'ropeTables', argument: 'dim', expected: 'an even number', actual: String(dim) });
  const theta = checkNumber('ropeTables', 'theta', options.theta ?? 10000, Number.MIN_VALUE);
  const scale = checkNumber('ropeTables', 'scale', options.scale ?? 1);
  const dtype = options.dtype ?? 'float32';
  const half = dim / 2;
  const frequencies = options.frequencies ?? Array.from({ length: half }, (_, i) => theta ** (-i / half));
  if (frequencies.length !== half) {
    throw new AttributeError({
      op: 'ropeTables',
      argument: 'frequencies',
      expected: `${half} numbers`,
      actual: `${frequencies.length}`,
    });
  }
  if (positions instanceof Tensor) {
    const angles = mul(to(unsqueeze(positions, -1), 'float64'), tensor(Float64Array.from(frequencies)));
    const finish = (x: Tensor): Tensor => to(scale === 1 ? x : mul(x, scale), dtype);
    return { cos: finish(cosine(angles)), sin: finish(sine(angles)) };
  }
  const list =
    typeof positions === 'number'
      ? Array.from({ length: checkInteger('ropeTables', 'positions', positions, 0) }, (_, i) => i)
      : checkPositions(positions);
  const fill = (f: (angle: number) => number): Tensor => {
    const values = new Float64Array(list.length * half);
    for (let t = 0; t < list.length; t++)
      for (let i = 0; i < half; i++) values[t * half + i] = f(list[t]! * frequencies[i]!) * scale;
    return tensor(values, { shape: [list.length, half], dtype });
  };
  return { cos: fill(Math.cos), sin: fill(Math.sin) };
}

interface RopeAttrs {
  readonly interleaved: boolean;
  readonly inverse: boolean;
}

/** Strides without gaps in the order in which `x` lies in memory, so that a transposed x gives a transposed result. */
function denseLike(x: Tensor): number[] {
  const order = [...x.shape.keys()].sort((a, b) => Math.abs(x.strides[b]!) - Math.abs(x.strides[a]!) || a - b);
  const strides = new Array<number>(x.rank);
  let step = 1;
  for (const axis of order.reverse()) {
    strides[axis] = step;
    step *= x.shape[axis]!;
  }
  return strides;
}

/** A view of four axes with `shape` at the end, as the kernel wants it. */
function fourAxes(x: Tensor, shape: Shape): View {
  const { storage, offset, dtypeId, itemBytes } = x;
  const lead = new Array<number>(4 - shape.length);
  return {
    storage,
    offset,
    dtypeId,
    itemBytes,
    shape: [...lead.fill(1), ...shape],
    strides: [...lead.fill(0), ...broadcastStrides(x.shape, x.strides, shape)],
  };
}

const ropeOp: Op<RopeAttrs> = defineOp<RopeAttrs>({
  name: 'rope',
  inputs: [
    { name: 'x', kind: 'float' },
    { name: 'cos', kind: 'float' },
    { name: 'sin', kind: 'float' },
  ],
  attrCount: 2,
  output: ([x]) => ({ shape: x!.shape, dtype: x!.dtype, strides: denseLike(x!) }),
  operands: ([x, cos, sin]) => {
    const table = [...x!.shape.slice(0, -1), cos!.shape.at(-1)!];
    return [fourAxes(x!, x!.shape), fourAxes(cos!, table), fourAxes(sin!, table)];
  },
  results: (_inputs, _attrs, [y]) => [fourAxes(y!, y!.shape)],
  encode: ({ interleaved, inverse }) => [Number(interleaved), Number(inverse)],
  saves: ([, cos, sin]) => [cos!, sin!],
  backward: ({ grad, saved: [cos, sin], attrs }) => [
    ropeOp.call([grad, cos!, sin!], { ...attrs, inverse: !attrs.inverse }),
    null,
    null,
  ],
  cost: ([x], [y]) => ({ flops: 3 * x!.size, bytes: x!.bytes + y!.bytes }),
});

/** Options of {@link rope}. */
export interface RopeOptions {
  /** Pairs are neighbours (x[2i], x[2i+1]) rather than halves (x[i], x[i + R/2]). Default false, as in Llama checkpoints on the Hub. */
  readonly interleaved?: boolean;
}

/**
 * Turns pairs of elements by angles given by their cosine and sine. Elements beyond twice the tables' width stay as they are.
 * The result lies in memory in the order of `x`.
 *
 * @shape x: (…, T, D) of 2 to 4 axes, cos and sin: (T, R/2) or anything that broadcasts to (…, T, R/2), R ≤ D → the shape of x
 * @dtype floats; computes in float32 (float64 in float64)
 * @throws ShapeError if the tables do not fit
 * @throws StateError if the tables ask for a gradient
 * @source arXiv 2104.09864
 */
export function rope(x: Tensor, cos: Tensor, sin: Tensor, options: RopeOptions = {}): Tensor {
  checkTensor('rope', 'x', x);
  if (x.rank < 2 || x.rank > 4) {
    throw new ShapeError({ op: 'rope', argument: 'x', expected: '2 to 4 axes', actual: formatShape(x.shape) });
  }
  for (const [argument, table] of [
    ['cos', cos],
    ['sin', sin],
  ] as const) {
    checkTensor('rope', argument, table);
    const lead = x.rank - table.rank;
    const fits =
      lead >= 0 &&
      table.shape.every((length, i) => i === table.rank - 1 || length === 1 || length === x.shape[lead + i]);
    const width = table.shape.at(-1);
    if (table.rank === 0 || !fits || width !== cos.shape.at(-1) || 2 * width! > x.shape.at(-1)!) {
      const expected = `a shape that broadcasts to ${formatShape([...x.shape.slice(0, -1), Math.floor(x.shape.at(-1)! / 2)])}`;
      throw new ShapeError({ op: 'rope', argument, expected, actual: formatShape(table.shape) });
    }
    if (table.requiresGrad) {
      throw new StateError({
        op: 'rope',
        argument,
        expected: 'a constant',
        actual: 'a tensor that asks for a gradient',
        hint: 'Detach it',
      });
    }
  }
  return ropeOp.call([x, cos, sin], { interleaved: options.interleaved ?? false, inverse: false });
}
