import { needsRecord, record } from '../tensor/tape.js';
import type { Shape } from '../tensor/shape.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';

/** A recorded view. `backward` maps the gradient of the view to that of `x`. */
export function makeView(
  op: string,
  x: Tensor,
  offset: number,
  shape: Shape,
  strides: readonly number[],
  backward: (grad: Tensor) => Tensor,
): Tensor {
  checkTensor(op, 'x', x);
  const result = x.view(offset, shape, strides);
  if (needsRecord([x])) record(op, [x], [result], [], (_node, grads) => [backward(grads[0]!)]);
  return result;
}
