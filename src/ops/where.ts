/**
 * Choosing between two operands, element by element.
 *
 * @module
 */
import { broadcastShapes } from '../tensor/shape.js';
import { constant } from '../tensor/create.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { sumTo } from './broadcast.js';
import { to } from './copy.js';
import { defineOp } from './define.js';
import { broadcastView, promoteOperands, type Operand, type ShapeAttrs } from './elementwise.js';

const whereOp = defineOp<ShapeAttrs>({
  name: 'where',
  inputs: [
    { name: 'condition', kind: 'bool' },
    { name: 'a', kind: 'any' },
    { name: 'b', kind: 'any' },
  ],
  output: ([condition, a, b]) => ({
    shape: broadcastShapes('where', condition!.shape, a!.shape, b!.shape),
    dtype: a!.dtype,
  }),
  operands: (inputs, _attrs, [out]) => inputs.map((x) => broadcastView(x!, out!.shape)),
  saves: ([condition]) => [condition!],
  backward: ({ grad, saved: [condition], attrs, needs }) => {
    const zero = constant(0, grad.dtype);
    return [
      null,
      needs(1) ? sumTo(where(condition!, grad, zero), attrs.shapes[1]!) : null,
      needs(2) ? sumTo(where(condition!, zero, grad), attrs.shapes[2]!) : null,
    ];
  },
});

/**
 * `a` where `condition` holds, else `b`. All three broadcast together.
 *
 * @throws DTypeError if `condition` is not a bool tensor
 */
export function where(condition: Tensor, a: Operand, b: Operand): Tensor {
  const [x, y] = promoteOperands('where', a, b);
  return whereOp.call([condition, x, y], { shapes: [condition.shape, x.shape, y.shape] });
}

/** `x` with `value` where `mask` holds. */
export function maskedFill(x: Tensor, mask: Tensor, value: number): Tensor {
  checkTensor('maskedFill', 'x', x);
  const filler = constant(value, x.dtype);
  return where(mask, filler, to(x, filler.dtype));
}
