/** What the normalisations share: shapes, checks, and their gradients in operations. */
import { DTypeError, ShapeError } from '../errors.js';
import { isFloating, type DType } from '../tensor/dtype.js';
import type { Shape } from '../tensor/shape.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { formatShape } from '../util/format.js';
import { add, mul, sub } from './arithmetic.js';
import { sumTo } from './broadcast.js';
import type { OutputSpec } from './define.js';
import { mean } from './reduce.js';
import { rsqrt, square } from './unary.js';
import { reshape } from './views.js';

export interface NormAttrs {
  readonly eps: number;
}

export interface NormGradAttrs extends NormAttrs {
  /** Which gradients are wanted: of x, weight, bias. */
  readonly wants: readonly boolean[];
}

/** Statistics have the leading axes, and the precision that is computed in. */
export function statistic(x: Tensor): OutputSpec {
  return { shape: x.shape.slice(0, -1), dtype: x.dtype === 'float64' ? 'float64' : 'float32' };
}

export const like = (x: Tensor): OutputSpec => ({ shape: x.shape, dtype: x.dtype });
export const vector = (width: number, dtype: DType): OutputSpec => ({ shape: [width], dtype });

/** The normalised rows and 1/σ, in operations. */
export function standardised(x: Tensor, eps: number, centre: boolean): { normal: Tensor; rstd: Tensor } {
  const centred = centre ? sub(x, mean(x, -1, { keepDims: true })) : x;
  const rstd = rsqrt(add(mean(square(centred), -1, { keepDims: true }), eps));
  return { normal: mul(centred, rstd), rstd };
}

/** The gradients in operations; mean and 1/σ are computed anew, so that second derivatives see what they depend on. */
export function normGradients(
  x: Tensor,
  weight: Tensor | null,
  grad: Tensor,
  { eps, wants }: NormGradAttrs,
  centre: boolean,
): Tensor[] {
  const { normal, rstd } = standardised(x, eps, centre);
  const scaled = weight === null ? grad : mul(grad, weight);
  const along = mul(normal, mean(mul(scaled, normal), -1, { keepDims: true }));
  const free = centre ? sub(scaled, mean(scaled, -1, { keepDims: true })) : scaled;
  const width = [x.shape.at(-1)!];
  return [
    ...(wants[0] ? [mul(rstd, sub(free, along))] : []),
    ...(wants[1] ? [sumTo(mul(grad, normal), width)] : []),
    ...(wants[2] ? [sumTo(grad, width)] : []),
  ];
}

export function checkFloat(op: string, x: Tensor): void {
  checkTensor(op, 'x', x);
  if (isFloating(x.dtype)) return;
  throw new DTypeError({
    op,
    argument: 'x',
    expected: 'a floating-point tensor',
    actual: x.dtype,
    hint: 'Cast it with x.to(dtype)',
  });
}

/** Checks that x ends in `normalizedShape` and parameters have it. Gives that shape. */
export function checkNormalized(
  op: string,
  x: Tensor,
  normalizedShape: Shape | number,
  parameters: Readonly<Record<string, Tensor | null | undefined>>,
): Shape {
  checkFloat(op, x);
  const shape = typeof normalizedShape === 'number' ? [normalizedShape] : normalizedShape;
  const tail = x.shape.slice(x.rank - shape.length);
  if (shape.length === 0 || shape.length > x.rank || shape.some((length, i) => length !== tail[i])) {
    const expected = `a shape that ends in ${formatShape(shape)}`;
    throw new ShapeError({ op, argument: 'x', expected, actual: formatShape(x.shape) });
  }
  for (const [argument, value] of Object.entries(parameters)) {
    if (!value || (value.rank === shape.length && value.shape.every((length, i) => length === shape[i]))) continue;
    throw new ShapeError({ op, argument, expected: `shape ${formatShape(shape)}`, actual: formatShape(value.shape) });
  }
  return shape;
}

export const flat = (x: Tensor | null | undefined): Tensor | null =>
  x ? (x.rank === 1 ? x : reshape(x, [x.size])) : null;
