/**
 * Arithmetic of two operands. They broadcast; dtypes promote as in PyTorch; a bare number takes the other's dtype.
 *
 * @module
 */
import { isFloating, getDefaultDType } from '../tensor/dtype.js';
import type { Tensor } from '../tensor/tensor.js';
import { defineBinary, promoteOperands, type Operand } from './elementwise.js';
import { to } from './copy.js';
import { eq, gt, lt } from './comparison.js';

/** a + b. */
export const add: (a: Operand, b: Operand) => Tensor = defineBinary({
  name: 'add',
  gradient: ({ grad }) => [grad, grad],
});

/** a − b. */
export const sub: (a: Operand, b: Operand) => Tensor = defineBinary({
  name: 'sub',
  gradient: ({ grad, needs }) => [grad, needs(1) ? mul(grad, -1) : null],
});

/** a · b, element by element. */
export const mul: (a: Operand, b: Operand) => Tensor = defineBinary({
  name: 'mul',
  saves: ([a, b]) => [a!, b!],
  gradient: ({ grad, saved: [a, b], needs }) => [needs(0) ? mul(grad, b!) : null, needs(1) ? mul(grad, a!) : null],
});

const divide = defineBinary({
  name: 'div',
  saves: ([a, b]) => [a!, b!],
  gradient: ({ grad, saved: [a, b], needs }) => [
    needs(0) ? div(grad, b!) : null,
    needs(1) ? mul(div(mul(grad, a!), mul(b!, b!)), -1) : null,
  ],
});

/** a / b. Integers give floats, as in Python. */
export function div(a: Operand, b: Operand): Tensor {
  const [x, y] = promoteOperands('div', a, b);
  if (isFloating(x.dtype)) return divide(x, y);
  return divide(to(x, getDefaultDType()), to(y, getDefaultDType()));
}

/** a mod b is a − q·b with a whole q that is constant between the jumps, so the slope in b is −q = (y − a)/b. */
const modulo = (name: string): ((a: Operand, b: Operand) => Tensor) =>
  defineBinary({
    name,
    saves: ([a, b], [y]) => [a!, b!, y!],
    gradient: ({ grad, saved: [a, b, y], needs }) => [grad, needs(1) ? mul(grad, div(sub(y!, a!), b!)) : null],
  });

/** Remainder of a / b with the sign of b, as Python's `%`. */
export const remainder: (a: Operand, b: Operand) => Tensor = modulo('remainder');

/** Remainder of a / b with the sign of a, as C's fmod. */
export const fmod: (a: Operand, b: Operand) => Tensor = modulo('fmod');

/** Angle of the point (b, a), in radians within [-π, π]. */
export const atan2: (a: Operand, b: Operand) => Tensor = defineBinary({
  name: 'atan2',
  saves: ([a, b]) => [a!, b!],
  gradient: ({ grad, saved: [a, b], needs }) => {
    const scaled = div(grad, add(mul(a!, a!), mul(b!, b!)));
    return [needs(0) ? mul(scaled, b!) : null, needs(1) ? mul(mul(scaled, a!), -1) : null];
  },
});

/** Half of the gradient to each operand where they are equal, as in PyTorch. */
function pickGradient(grad: Tensor, wins: Tensor, tie: Tensor): Tensor {
  return mul(grad, add(to(wins, grad.dtype), mul(to(tie, grad.dtype), 0.5)));
}

/** The larger of both; NaN if either is. */
export const maximum: (a: Operand, b: Operand) => Tensor = defineBinary({
  name: 'maximum',
  saves: ([a, b]) => [a!, b!],
  gradient: ({ grad, saved: [a, b] }) => {
    const tie = eq(a!, b!);
    return [pickGradient(grad, gt(a!, b!), tie), pickGradient(grad, lt(a!, b!), tie)];
  },
});

/** The smaller of both; NaN if either is. */
export const minimum: (a: Operand, b: Operand) => Tensor = defineBinary({
  name: 'minimum',
  saves: ([a, b]) => [a!, b!],
  gradient: ({ grad, saved: [a, b] }) => {
    const tie = eq(a!, b!);
    return [pickGradient(grad, lt(a!, b!), tie), pickGradient(grad, gt(a!, b!), tie)];
  },
});
