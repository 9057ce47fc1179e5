/**
 * Functions of one operand, element by element. Those of real analysis turn integers into floats first.
 *
 * @module
 */
import { getDefaultDType, isFloating } from '../tensor/dtype.js';
import type { Tensor } from '../tensor/tensor.js';
import { add, div, mul, sub } from './arithmetic.js';
import { ge, le, logicalAnd } from './comparison.js';
import { to } from './copy.js';
import { defineUnary } from './elementwise.js';
import { where } from './where.js';

/** An element-wise function: the result has the shape of `x`. */
export type Unary = (x: Tensor) => Tensor;

/** Gradient of y = f(x) given the incoming one. */
type Derivative = (grad: Tensor, x: Tensor, y: Tensor) => Tensor;

/** What a derivative is made of, so that only that is kept. */
type Keeps = 'x' | 'y' | 'xy' | 'none';

function analytic(name: string, keeps: Keeps, derivative: Derivative, flops = 8): Unary {
  const op = defineUnary({
    name,
    kind: 'float',
    flops,
    saves: ([x], [y]) => [keeps.includes('x') ? x! : null, keeps.includes('y') ? y! : null],
    gradient: ({ grad, saved: [x, y] }) => derivative(grad, x!, y!),
  });
  return (x) => op.call([isFloating(x.dtype) ? x : to(x, getDefaultDType())], null);
}

function exact(name: string, keeps: Keeps, derivative: Derivative): Unary {
  const op = defineUnary({
    name,
    saves: ([x], [y]) => [keeps.includes('x') ? x! : null, keeps.includes('y') ? y! : null],
    gradient: ({ grad, saved: [x, y] }) => derivative(grad, x!, y!),
  });
  return (x) => op.call([x], null);
}

/** Steps: constant between jumps, so the gradient is zero, as in PyTorch. */
function stepwise(name: string): Unary {
  return exact(name, 'none', (grad) => mul(grad, 0));
}

function predicate(name: string): Unary {
  const op = defineUnary({ name, result: () => 'bool' });
  return (x) => op.call([x], null);
}

const cube: Unary = (x) => mul(x, mul(x, x));

/** e^x. Vector kernels are within 2 ulp. */
export const exp: Unary = analytic('exp', 'y', (g, _x, y) => mul(g, y));
/** e^x − 1, exact near 0. */
export const expm1: Unary = analytic('expm1', 'y', (g, _x, y) => mul(g, add(y, 1)));
/** Natural logarithm; −∞ at 0, NaN below. */
export const log: Unary = analytic('log', 'x', (g, x) => div(g, x));
/** ln(1 + x), exact near 0. */
export const log1p: Unary = analytic('log1p', 'x', (g, x) => div(g, add(x, 1)));
/** Logarithm to base 2. */
export const log2: Unary = analytic('log2', 'x', (g, x) => div(g, mul(x, Math.LN2)));
/** Square root; NaN below 0. */
export const sqrt: Unary = analytic('sqrt', 'y', (g, _x, y) => div(g, mul(y, 2)), 1);
/** 1/√x. */
export const rsqrt: Unary = analytic('rsqrt', 'y', (g, _x, y) => mul(mul(g, -0.5), cube(y)), 2);
/** 1/x. */
export const reciprocal: Unary = analytic('reciprocal', 'y', (g, _x, y) => mul(mul(g, -1), mul(y, y)), 1);
/** Sine of an angle in radians. */
export const sin: Unary = analytic('sin', 'x', (g, x) => mul(g, cos(x)));
/** Cosine of an angle in radians. */
export const cos: Unary = analytic('cos', 'x', (g, x) => mul(mul(g, -1), sin(x)));
/** Tangent of an angle in radians. */
export const tan: Unary = analytic('tan', 'y', (g, _x, y) => mul(g, add(mul(y, y), 1)));
/** Angle in radians whose sine is x; NaN outside [−1, 1]. */
export const asin: Unary = analytic('asin', 'x', (g, x) => mul(g, rsqrt(sub(1, mul(x, x)))));
/** Angle in radians whose cosine is x; NaN outside [−1, 1]. */
export const acos: Unary = analytic('acos', 'x', (g, x) => mul(mul(g, -1), rsqrt(sub(1, mul(x, x)))));
/** Angle in radians whose tangent is x. */
export const atan: Unary = analytic('atan', 'x', (g, x) => div(g, add(mul(x, x), 1)));
/** Hyperbolic sine. */
export const sinh: Unary = analytic('sinh', 'x', (g, x) => mul(g, cosh(x)));
/** Hyperbolic cosine. */
export const cosh: Unary = analytic('cosh', 'x', (g, x) => mul(g, sinh(x)));
/** Error function (2/√π)·∫₀ˣ e^(−t²) dt. */
export const erf: Unary = analytic('erf', 'x', (g, x) => mul(mul(g, 2 / Math.sqrt(Math.PI)), exp(mul(mul(x, x), -1))));
/** 1 − erf(x), exact for large x. */
export const erfc: Unary = analytic('erfc', 'x', (g, x) =>
  mul(mul(g, -2 / Math.sqrt(Math.PI)), exp(mul(mul(x, x), -1))),
);

/** −x. */
export const neg: Unary = exact('neg', 'none', (g) => mul(g, -1));
/** |x|. The gradient at 0 is 0. */
export const abs: Unary = exact('abs', 'x', (g, x) => mul(g, sign(x)));
/** x². */
export const square: Unary = exact('square', 'x', (g, x) => mul(g, mul(x, 2)));
/** −1, 0 or 1; NaN stays NaN. */
export const sign: Unary = stepwise('sign');
/** Largest integer not above x. */
export const floor: Unary = stepwise('floor');
/** Smallest integer not below x. */
export const ceil: Unary = stepwise('ceil');
/** Nearest integer, ties to even. */
export const round: Unary = stepwise('round');
/** x without its fraction. */
export const trunc: Unary = stepwise('trunc');

/** True where x is zero. */
export const logicalNot: Unary = predicate('logical_not');
/** True where x is NaN. */
export const isNaN: Unary = predicate('isnan');
/** True where x is infinite. */
export const isInf: Unary = predicate('isinf');
/** True where x is neither NaN nor infinite. */
export const isFinite: Unary = predicate('isfinite');

interface ClampAttrs {
  readonly min: number;
  readonly max: number;
}

const clampOp = defineUnary<ClampAttrs>({
  name: 'clamp',
  attrCount: 2,
  encode: ({ min, max }) => [min, max],
  saves: ([x]) => [x!],
  gradient: ({ grad, saved: [x], attrs: { min, max } }) => where(logicalAnd(ge(x!, min), le(x!, max)), grad, 0),
});

/**
 * x limited to [min, max]. The gradient passes where x lies within, bounds included. NaN stays NaN.
 *
 * @param min - default −∞
 * @param max - default ∞
 */
export function clamp(x: Tensor, min = -Infinity, max = Infinity): Tensor {
  return clampOp.call([x], { min, max });
}
