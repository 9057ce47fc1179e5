/**
 * Spherical interpolation of weights.
 */
import type { StateDict } from '../../nn/module.js';
import { add, div, mul } from '../../ops/arithmetic.js';
import { gt, logicalAnd, lt } from '../../ops/comparison.js';
import { to } from '../../ops/copy.js';
import { sum } from '../../ops/reduce.js';
import { abs, acos, clamp, sin, sqrt, square } from '../../ops/unary.js';
import { where } from '../../ops/where.js';
import type { Tensor } from '../../tensor/tensor.js';
import { constant } from '../../tensor/create.js';
import { checkNumber } from '../../util/assert.js';
import { combineStates } from './states.js';

/** From this cosine on, two tensors count as parallel. */
const PARALLEL = 0.9995;

/** Both factors of one pair, from the angle between them. */
function slerp(a: Tensor, b: Tensor, t: number): Tensor {
  const [p, q] = [to(a, 'float64'), to(b, 'float64')];
  const norms = mul(sqrt(sum(square(p))), sqrt(sum(square(q))));
  const isZero = lt(norms, Number.MIN_VALUE);
  const cosine = clamp(div(sum(mul(p, q)), where(isZero, constant(1, 'float64'), norms)), -1, 1);
  // a tensor of zeros has no direction: its cosine of 0 would turn the other by a right angle
  const isCurved = logicalAnd(lt(abs(cosine), PARALLEL), gt(norms, 0));
  const angle = where(isCurved, acos(cosine), constant(Math.PI / 2, 'float64'));
  const factor = (share: number): Tensor =>
    to(where(isCurved, div(sin(mul(angle, share)), sin(angle)), constant(share, 'float64')), a.dtype);
  return add(mul(a, factor(1 - t)), mul(b, factor(t)));
}

/**
 * Goes from one state to another along the arc between them, tensor by tensor, each as one long vector; the lengths are interpolated with
 * it. Tensors that are (nearly) parallel or opposite, |cos| ≥ 0.9995, or zero, are interpolated in a straight line.
 *
 * @param t - 0 is `a`, 1 is `b`; or a function of the tensor's name
 * @throws StateError or ShapeError if names or shapes differ
 * @source Shoemake 1985, "Animating rotation with quaternion curves"
 */
export function slerpStates(a: StateDict, b: StateDict, t: number | ((name: string) => number)): StateDict {
  const op = 'slerpStates';
  const at = typeof t === 'function' ? t : (): number => t;
  if (typeof t === 'number') checkNumber(op, 't', t, 0, 1);
  return combineStates(op, [a, b], ([x, y], name) => slerp(x!, y!, checkNumber(op, 't', at(name), 0, 1)));
}
