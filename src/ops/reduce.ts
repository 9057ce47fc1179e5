/**
 * Reductions over any axes. All take `axes` (one, several, or undefined for all) and `{ keepDims }`, which leaves the
 * reduced axes in place with length 1.
 *
 * @module
 */
import { DTypeError, ShapeError } from '../errors.js';
import type { View } from '../runtime/queue.js';
import { getDefaultDType, isFloating, type DType } from '../tensor/dtype.js';
import { checkAxes, type Shape } from '../tensor/shape.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { checkNumber } from '../util/assert.js';
import { formatShape } from '../util/format.js';
import { add, div, mul, sub } from './arithmetic.js';
import { expand } from './broadcast.js';
import { eq } from './comparison.js';
import { to } from './copy.js';
import { defineOp, type BackwardContext, type Op } from './define.js';
import { pow } from './power.js';
import { abs, sign, sqrt } from './unary.js';
import { reshape } from './views.js';
import { where } from './where.js';

/** Axes to reduce: one, several, or undefined for all. */
export type Axes = number | readonly number[] | undefined;

/** Options shared by the reductions. */
export interface ReduceOptions {
  /** Leave reduced axes in place with length 1. Default false. */
  readonly keepDims?: boolean;
}

interface ReduceAttrs {
  readonly axes: readonly number[];
  /** Shape of the input, for the way back. */
  readonly from: Shape;
  readonly extra: number;
}

/** `x` with the reduced axes last, as the kernels want it. */
function reducedLast(x: Tensor, axes: readonly number[]): View {
  const order = [...x.shape.keys()].filter((axis) => !axes.includes(axis)).concat(axes);
  const { storage, offset, dtypeId, itemBytes } = x;
  const pick = (values: readonly number[]): number[] => order.map((axis) => values[axis]!);
  return { storage, offset, dtypeId, itemBytes, shape: pick(x.shape), strides: pick(x.strides) };
}

const withoutAxes = (shape: Shape, axes: readonly number[]): number[] => shape.filter((_, i) => !axes.includes(i));

/** A reduced tensor with length 1 where axes are gone. */
function restore(y: Tensor, from: Shape, axes: readonly number[]): Tensor {
  return reshape(
    y,
    from.map((length, i) => (axes.includes(i) ? 1 : length)),
  );
}

/** A reduced tensor repeated to the shape it came from. */
function spread(y: Tensor, { from, axes }: ReduceAttrs): Tensor {
  return expand(restore(y, from, axes), from);
}

interface ReduceRule {
  readonly name: string;
  readonly kind?: 'float' | 'any';
  readonly extraAttr?: boolean;
  readonly outputs?: 1 | 2;
  readonly result?: (dtype: DType) => DType;
  /** Whether an empty set has no result (a largest element, say). */
  readonly needsElements?: boolean;
  readonly saves?: 'x' | 'xy';
  readonly gradient?: (context: BackwardContext<ReduceAttrs>) => Tensor;
}

function defineReduction(rule: ReduceRule): Op<ReduceAttrs> {
  const { name, gradient } = rule;
  return defineOp<ReduceAttrs>({
    name,
    inputs: [{ name: 'x', kind: rule.kind ?? 'any' }],
    attrCount: rule.extraAttr ? 2 : 1,
    outputCount: rule.outputs ?? 1,
    output: ([x], { axes }) => {
      const shape = withoutAxes(x!.shape, axes);
      if (rule.needsElements && x!.size === 0 && shape.every((length) => length > 0)) {
        throw new ShapeError({
          op: name,
          argument: 'x',
          expected: 'at least one element to reduce',
          actual: formatShape(x!.shape),
        });
      }
      const spec = { shape, dtype: rule.result === undefined ? x!.dtype : rule.result(x!.dtype) };
      return rule.outputs === 2 ? [spec, spec] : spec;
    },
    operands: ([x], { axes }) => [reducedLast(x!, axes)],
    encode: ({ axes, extra }) => (rule.extraAttr ? [axes.length, extra] : [axes.length]),
    saves: ([x], outputs) => (rule.saves === undefined ? [] : rule.saves === 'x' ? [x!] : [x!, ...outputs]),
    ...(gradient === undefined ? {} : { backward: (context: BackwardContext<ReduceAttrs>) => [gradient(context)] }),
    cost: ([x], [y]) => ({ flops: x!.size, bytes: x!.bytes + y!.bytes }),
  });
}

function reduce(op: Op<ReduceAttrs>, x: Tensor, axes: Axes, options: ReduceOptions, extra = 0): Tensor {
  checkTensor(op.schema.name, 'x', x);
  const list = checkAxes(op.schema.name, axes, x.rank);
  const y = op.call([x], { axes: list, from: x.shape, extra });
  return options.keepDims ? restore(y, x.shape, list) : y;
}

const wideInteger = (dtype: DType): DType => (isFloating(dtype) ? dtype : 'int64');
const floating = (x: Tensor): Tensor => (isFloating(x.dtype) ? x : to(x, getDefaultDType()));

const sumOp = defineReduction({ name: 'sum', result: wideInteger, gradient: ({ grad, attrs }) => spread(grad, attrs) });

/** Sum of the elements; 0 for none. Integers and booleans give int64. Accumulates blockwise in pairs. */
export function sum(x: Tensor, axes?: Axes, options: ReduceOptions = {}): Tensor {
  return reduce(sumOp, x, axes, options);
}

const countOf = ({ from, axes }: ReduceAttrs): number => axes.reduce((count, axis) => count * from[axis]!, 1);

const meanOp = defineReduction({
  name: 'mean',
  kind: 'float',
  gradient: ({ grad, attrs }) => spread(mul(grad, 1 / countOf(attrs)), attrs),
});

/** Arithmetic mean; NaN for no elements. Integers give floats. */
export function mean(x: Tensor, axes?: Axes, options: ReduceOptions = {}): Tensor {
  return reduce(meanOp, floating(x), axes, options);
}

/** Gradient of an extreme value: shared evenly among the elements that have it, as in PyTorch. */
function shareAmongTies({ grad, saved: [x, y], attrs }: BackwardContext<ReduceAttrs>): Tensor {
  const ties = to(eq(x!, spread(y!, attrs)), grad.dtype);
  const count = sum(ties, attrs.axes, { keepDims: true });
  return mul(ties, div(restore(grad, attrs.from, attrs.axes), count));
}

const amaxOp = defineReduction({ name: 'amax', needsElements: true, saves: 'xy', gradient: shareAmongTies });
const aminOp = defineReduction({ name: 'amin', needsElements: true, saves: 'xy', gradient: shareAmongTies });

/**
 * Largest element; NaN if any is. The gradient is shared evenly among equal largest elements.
 *
 * @throws ShapeError if there is nothing to reduce
 */
export function amax(x: Tensor, axes?: Axes, options: ReduceOptions = {}): Tensor {
  return reduce(amaxOp, x, axes, options);
}

/**
 * Smallest element; NaN if any is. The gradient is shared evenly among equal smallest elements.
 *
 * @throws ShapeError if there is nothing to reduce
 */
export function amin(x: Tensor, axes?: Axes, options: ReduceOptions = {}): Tensor {
  return reduce(aminOp, x, axes, options);
}

const argmaxOp = defineReduction({ name: 'argmax', needsElements: true, result: () => 'int64' });
const argminOp = defineReduction({ name: 'argmin', needsElements: true, result: () => 'int64' });

/** Position (int64) of the largest element along an axis, the first of equals; without `axis`, in the flattened tensor. */
export function argmax(x: Tensor, axis?: number, options: ReduceOptions = {}): Tensor {
  return reduce(argmaxOp, x, axis, options);
}

/** Position (int64) of the smallest element along an axis, the first of equals; without `axis`, in the flattened tensor. */
export function argmin(x: Tensor, axis?: number, options: ReduceOptions = {}): Tensor {
  return reduce(argminOp, x, axis, options);
}

const anyOp = defineReduction({ name: 'any', result: () => 'bool' });
const allOp = defineReduction({ name: 'all', result: () => 'bool' });

/** Whether any element is other than zero. */
export function any(x: Tensor, axes?: Axes, options: ReduceOptions = {}): Tensor {
  return reduce(anyOp, x, axes, options);
}

/** Whether all elements are other than zero; true for none. */
export function all(x: Tensor, axes?: Axes, options: ReduceOptions = {}): Tensor {
  return reduce(allOp, x, axes, options);
}

const varOp = defineReduction({
  name: 'var',
  kind: 'float',
  extraAttr: true,
  outputs: 2,
  saves: 'xy',
  gradient: ({ grads, saved: [x], attrs }) => {
    const count = countOf(attrs);
    const fromMean = grads[1] ? spread(mul(grads[1], 1 / count), attrs) : null;
    if (!grads[0]) return fromMean!;
    const centred = sub(x!, mean(x!, attrs.axes, { keepDims: true }));
    const scale = mul(restore(grads[0], attrs.from, attrs.axes), 2 / (count - attrs.extra));
    const fromVariance = mul(centred, scale);
    return fromMean ? add(fromVariance, fromMean) : fromVariance;
  },
});

/** Options of {@link variance}. */
export interface VarianceOptions extends ReduceOptions {
  /** The sum of squares is divided by n − correction. Default 1 (Bessel), as in PyTorch. */
  readonly correction?: number;
}

/** Variance, in two passes; NaN if there are no more elements than `correction`. Integers give floats. */
export function variance(x: Tensor, axes?: Axes, options: VarianceOptions = {}): Tensor {
  return reduce(varOp, floating(x), axes, options, checkNumber('variance', 'correction', options.correction ?? 1, 0));
}

/** Standard deviation: the root of {@link variance}. */
export function std(x: Tensor, axes?: Axes, options: VarianceOptions = {}): Tensor {
  return sqrt(variance(x, axes, options));
}

const normOp = defineReduction({
  name: 'norm',
  kind: 'float',
  extraAttr: true,
  saves: 'xy',
  gradient: (context) => {
    const { grad, saved, attrs } = context;
    const [x, y] = [saved[0]!, saved[1]!];
    const p = attrs.extra;
    if (p === 0) return mul(x, 0);
    if (p === 1) return mul(sign(x), spread(grad, attrs));
    if (!Number.isFinite(p)) return mul(sign(x), shareAmongTies({ ...context, saved: [abs(x), y] }));
    // d‖x‖ₚ/dx = x·|x|^(p−2) / ‖x‖^(p−1), and 0 at the origin
    const whole = spread(y, attrs);
    const slope = p === 2 ? div(x, whole) : div(mul(sign(x), pow(abs(x), p - 1)), pow(whole, p - 1));
    return mul(where(eq(whole, 0), 0, slope), spread(grad, attrs));
  },
});

/**
 * p-norm (Σ|x|ᵖ)^(1/p): p = 2 by default, ±∞ for the largest or smallest magnitude, 0 for the count of non-zeros.
 *
 * @throws DTypeError if `x` is not floating-point
 */
export function norm(x: Tensor, p = 2, axes?: Axes, options: ReduceOptions = {}): Tensor {
  if (!isFloating(x.dtype)) {
    throw new DTypeError({
      op: 'norm',
      argument: 'x',
      expected: 'a floating-point tensor',
      actual: x.dtype,
      hint: 'Cast it with to()',
    });
  }
  return reduce(normOp, x, axes, options, checkNumber('norm', 'p', p));
}
