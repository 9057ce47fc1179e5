/**
 * Powers.
 *
 * @module
 */
import type { Tensor } from '../tensor/tensor.js';
import { mul, sub } from './arithmetic.js';
import { eq, gt, logicalAnd } from './comparison.js';
import { defineBinary, promoteOperands, type Operand } from './elementwise.js';
import { log, square } from './unary.js';
import { where } from './where.js';

const power = defineBinary({
  name: 'pow',
  saves: ([a, b], [y]) => [a!, b!, y!],
  gradient: ({ grad, saved: [a, b, y], needs }) => [
    // Where b is 0 the derivative is 0, also at a = 0 where a^(b-1) is infinite
    needs(0) ? mul(grad, where(eq(b!, 0), mul(a!, 0), mul(b!, pow(a!, sub(b!, 1))))) : null,
    needs(1) ? mul(grad, where(logicalAnd(eq(a!, 0), gt(b!, 0)), mul(a!, 0), mul(y!, log(a!)))) : null,
  ],
});

/** a to the power b. */
export function pow(a: Operand, b: Operand): Tensor {
  if (b === 2) return square(promoteOperands('pow', a, 1)[0]);
  return power(a, b);
}
