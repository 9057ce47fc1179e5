/**
 * Quantisation as seen in training: rounded forward, straight through backward.
 *
 * @module
 */
import { AttributeError, DTypeError, ShapeError } from '../errors.js';
import { full } from '../tensor/create.js';
import type { DType } from '../tensor/dtype.js';
import { checkAxis } from '../tensor/shape.js';
import { checkTensor, Tensor } from '../tensor/tensor.js';
import { checkInteger, checkNumber } from '../util/assert.js';
import { formatShape, formatValue } from '../util/format.js';
import { contiguous, to } from './copy.js';
import { defineOp } from './define.js';
import { checkFloat, layout, unrecorded } from './quantization.js';
import { detach, reshape } from './views.js';
import { where } from './where.js';

/** Options of {@link fakeQuantize}. */
export interface FakeQuantizeOptions {
  /** Smallest code. Default -128. */
  readonly qmin?: number;
  /** Largest code. Default 127. */
  readonly qmax?: number;
  /** Axis that `scale` and `zeroPoint` run along, if they have one. Default 0. */
  readonly axis?: number;
}

interface FakeQuantizeAttrs {
  readonly qmin: number;
  readonly qmax: number;
}

/** Over [outer, channels, inner]; also says which codes were not clamped, which is all that the gradient needs. */
const fakeQuantizeOp = defineOp<FakeQuantizeAttrs>({
  name: 'fake_quantize',
  inputs: [
    { name: 'x', kind: 'float' },
    { name: 'scale', kind: 'float' },
    { name: 'zeroPoint', kind: 'any' },
  ],
  outputCount: 2,
  attrCount: 2,
  output: ([x]) => [
    { shape: x!.shape, dtype: x!.dtype },
    { shape: x!.shape, dtype: 'bool' },
  ],
  encode: ({ qmin, qmax }) => [qmin, qmax],
  saves: (_inputs, outputs) => [outputs[1]!],
  backward: ({ grad, saved: [inside] }) => [where(inside!, grad, 0), null, null],
  cost: ([x], [y]) => ({ flops: 6 * x!.size, bytes: x!.bytes + y!.bytes + x!.size }),
});

/** A number, or a tensor of one axis laid along `axis` of `x`, as one number for each channel. */
function alongAxis(op: string, argument: string, value: Tensor | number, length: number, dtype: DType): Tensor {
  if (typeof value === 'number') return full([length], checkNumber(op, argument, value), { dtype });
  if (!(value instanceof Tensor))
    throw new DTypeError({ op, argument, expected: 'a tensor or a number', actual: formatValue(value) });
  checkTensor(op, argument, value);
  if (value.rank !== 0 && (value.rank !== 1 || value.size !== length)) {
    throw new ShapeError({ op, argument, expected: `shape [${length}]`, actual: formatShape(value.shape) });
  }
  const numbers = to(detach(value), dtype);
  return contiguous(value.rank === 0 ? numbers.view(numbers.offset, [length], [length === 1 ? 1 : 0]) : numbers);
}

/**
 * What quantising and dequantising make of `x`, for training that is aware of it. The gradient passes straight through where
 * the code lies within [qmin, qmax], and is 0 where it was clamped. Scales and zero points get none.
 *
 * @throws ShapeError if `scale` or `zeroPoint` is neither a number, a scalar, nor as long as the axis
 * @source Jacob et al., arXiv 1712.05877; Bengio et al., arXiv 1308.3432
 */
export function fakeQuantize(
  x: Tensor,
  scale: Tensor | number,
  zeroPoint: Tensor | number = 0,
  options: FakeQuantizeOptions = {},
): Tensor {
  const op = 'fakeQuantize';
  checkFloat(op, x);
  const qmin = checkInteger(op, 'qmin', options.qmin ?? -128, -(2 ** 31), 2 ** 31);
  const qmax = checkInteger(op, 'qmax', options.qmax ?? 127, qmin + 1, 2 ** 31);
  const axis = x.rank === 0 ? 0 : checkAxis(op, options.axis ?? 0, x.rank);
  if (typeof scale === 'number' && !(scale > 0)) {
    throw new AttributeError({ op, argument: 'scale', expected: 'a number above 0', actual: formatValue(scale) });
  }
  const isVector = [scale, zeroPoint].some((value) => value instanceof Tensor && value.rank > 0);
  const { extent } = layout(op, x.shape, isVector && x.rank > 0 ? axis : null, null);
  const dtype = x.dtype === 'float64' ? 'float64' : 'float32';
  const [step, zero] = unrecorded(() => [
    alongAxis(op, 'scale', scale, extent[1]!, dtype),
    alongAxis(op, 'zeroPoint', zeroPoint, extent[1]!, dtype),
  ]) as [Tensor, Tensor];
  return reshape(fakeQuantizeOp.call([reshape(contiguous(x), extent), step, zero], { qmin, qmax }), x.shape);
}
