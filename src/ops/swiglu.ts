/**
 * The gated unit of Llama's feed-forward part, in one pass.
 *
 * @module
 */
import { AttributeError, DTypeError, ShapeError } from '../errors.js';
import type { View } from '../runtime/queue.js';
import { isFloating } from '../tensor/dtype.js';
import { sameShape } from '../tensor/shape.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { formatShape } from '../util/format.js';
import { sigmoid, silu } from './activation.js';
import { add, mul, sub } from './arithmetic.js';
import { defineOp, type Cost, type Inputs } from './define.js';
import { promoteOperands } from './elementwise.js';
import { concat } from './join.js';
import { narrow } from './views.js';

/** The halves of the last axis, without a record. */
function halves({ storage, offset, shape, strides, dtypeId, itemBytes, rank }: Tensor): [View, View] {
  const width = shape[rank - 1]! / 2;
  const half = { storage, dtypeId, itemBytes, strides, shape: [...shape.slice(0, -1), width] };
  // A half without elements might start beyond the memory
  const second = half.shape.includes(0) ? offset : offset + width * strides[rank - 1]!;
  return [
    { ...half, offset },
    { ...half, offset: second },
  ];
}

function splitInTwo(x: Tensor): [Tensor, Tensor] {
  const width = x.shape.at(-1)! / 2;
  return [narrow(x, x.rank - 1, 0, width), narrow(x, x.rank - 1, width, width)];
}

/** Gradients of silu(gate)·up in operations. */
function slopes(gate: Tensor, up: Tensor, grad: Tensor): [Tensor, Tensor] {
  const s = sigmoid(gate);
  const slope = mul(s, add(mul(gate, sub(1, s)), 1));
  return [mul(mul(grad, up), slope), mul(grad, mul(gate, s))];
}

const cost =
  (flops: number) =>
  (inputs: Inputs): Cost => ({ flops: flops * inputs[0]!.size, bytes: 3 * inputs[0]!.bytes });

const pairBackward = defineOp<{ readonly wants: readonly boolean[] }>({
  name: 'swiglu_backward',
  inputs: [
    { name: 'gate', kind: 'float' },
    { name: 'up', kind: 'float' },
    { name: 'grad', kind: 'float' },
  ],
  outputCount: 2,
  output: ([gate, up], { wants }) => [gate!, up!].map(({ shape, dtype }, i) => (wants[i] ? { shape, dtype } : null)),
  definition: ([gate, up, grad], { wants }) => slopes(gate!, up!, grad!).filter((_, i) => wants[i]),
  cost: cost(14),
});

const pairOp = defineOp<null>({
  name: 'swiglu',
  inputs: [
    { name: 'gate', kind: 'float' },
    { name: 'up', kind: 'float' },
  ],
  output: ([gate]) => ({ shape: gate!.shape, dtype: gate!.dtype }),
  saves: ([gate, up]) => [gate!, up!],
  backward: ({ grad, saved: [gate, up], needs }) =>
    pairBackward.callAll([gate!, up!, grad], { wants: [needs(0), needs(1)] }),
  definition: ([gate, up]) => mul(silu(gate!), up!),
  cost: cost(10),
});

const halvesBackward = defineOp<null>({
  name: 'swiglu_halves_backward',
  kernel: 'swiglu_backward',
  inputs: [
    { name: 'x', kind: 'float' },
    { name: 'halves', kind: 'float', optional: true }, // the kernel's second operand is in the first
    { name: 'grad', kind: 'float' },
  ],
  outputCount: 2,
  output: ([x]) => [{ shape: x!.shape, dtype: x!.dtype }, null],
  operands: ([x, , grad]) => [...halves(x!), grad!],
  results: (_inputs, _attrs, [dx]) => halves(dx!),
  definition: ([x, , grad]) => concat(slopes(...splitInTwo(x!), grad!), -1),
  cost: cost(14),
});

const halvesOp = defineOp<null>({
  name: 'swiglu_halves',
  kernel: 'swiglu',
  inputs: [
    { name: 'x', kind: 'float' },
    { name: 'halves', kind: 'float', optional: true },
  ],
  output: ([x]) => ({ shape: [...x!.shape.slice(0, -1), x!.shape.at(-1)! / 2], dtype: x!.dtype }),
  operands: ([x]) => halves(x!),
  saves: ([x]) => [x!],
  backward: ({ grad, saved: [x] }) => [halvesBackward.call([x!, null, grad], null)],
  definition: ([x]) => {
    const [gate, up] = splitInTwo(x!);
    return mul(silu(gate), up);
  },
  cost: cost(10),
});

function checkOperand(argument: string, x: Tensor): void {
  checkTensor('swiglu', argument, x);
  if (isFloating(x.dtype)) return;
  throw new DTypeError({
    op: 'swiglu',
    argument,
    expected: 'a floating-point tensor',
    actual: x.dtype,
    hint: 'Cast it with x.to(dtype)',
  });
}

/**
 * silu(gate)·up, silu(x) = x·σ(x). Of one tensor, the first half of the last axis is the gate and the second what it lets through:
 * the result of one product with both weights.
 *
 * @shape gate and up: the same → that; or gate alone: (…, 2·n) → (…, n)
 * @dtype floats, promoted; computes in float32 (float64 in float64)
 * @throws ShapeError if the shapes differ
 * @throws AttributeError if one tensor is given whose last axis is odd
 * @source arXiv 2002.05202
 */
export function swiglu(gate: Tensor, up?: Tensor | null): Tensor {
  checkOperand('gate', gate);
  if (up === undefined || up === null) {
    const length = gate.shape.at(-1) ?? 1;
    if (length % 2 !== 0) {
      throw new AttributeError({
        op: 'swiglu',
        argument: 'gate',
        expected: 'a last axis of even length, or a second tensor',
        actual: formatShape(gate.shape),
      });
    }
    return halvesOp.call([gate, null], null);
  }
  checkOperand('up', up);
  if (!sameShape(gate.shape, up.shape)) {
    const expected = `shape ${formatShape(gate.shape)}`;
    throw new ShapeError({ op: 'swiglu', argument: 'up', expected, actual: formatShape(up.shape) });
  }
  return pairOp.call(promoteOperands('swiglu', gate, up), null);
}
