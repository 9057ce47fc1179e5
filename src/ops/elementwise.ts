/** What element-wise operations share: broadcasting, promotion, and the way gradients come back through both. */
import { type View } from '../runtime/queue.js';
import { promote, isFloating, getDefaultDType, type DType } from '../tensor/dtype.js';
import { broadcastShapes, broadcastStrides, sameShape, type Shape } from '../tensor/shape.js';
import { constant } from '../tensor/create.js';
import { Tensor } from '../tensor/tensor.js';
import { DTypeError } from '../errors.js';
import { formatValue } from '../util/format.js';
import { to } from './copy.js';
import { defineOp, type BackwardContext, type Gradients, type Inputs, type Op } from './define.js';
import { sumTo } from './broadcast.js';

/** A tensor, or a number that takes the dtype of the tensor beside it. */
export type Operand = Tensor | number;

/** `x` seen in the shape of `target`, without a copy and outside the record. */
export function broadcastView(x: Tensor, target: Shape): View {
  if (sameShape(x.shape, target)) return x;
  const { storage, offset, dtypeId, itemBytes } = x;
  return { storage, offset, dtypeId, itemBytes, shape: target, strides: broadcastStrides(x.shape, x.strides, target) };
}

/** A number as a tensor: of `like`'s dtype, unless a fraction meets integers. */
export function scalarFor(op: string, value: number, like: DType): Tensor {
  if (typeof value !== 'number') {
    throw new DTypeError({ op, argument: 'operand', expected: 'a tensor or a number', actual: formatValue(value) });
  }
  if (isFloating(like)) return constant(value, like);
  if (!Number.isInteger(value)) return constant(value, getDefaultDType());
  return constant(value, like === 'bool' ? 'int64' : like);
}

/** Both operands as tensors of one dtype. */
export function promoteOperands(op: string, a: Operand, b: Operand): [Tensor, Tensor] {
  const x = a instanceof Tensor ? a : scalarFor(op, a, b instanceof Tensor ? b.dtype : getDefaultDType());
  const y = b instanceof Tensor ? b : scalarFor(op, b, x.dtype);
  if (x.dtype === y.dtype) return [x, y];
  const dtype = promote(x.dtype, y.dtype);
  return [to(x, dtype), to(y, dtype)];
}

export interface BinaryRule {
  readonly name: string;
  /** Dtype of the result. Default: the operands'. */
  readonly result?: (dtype: DType) => DType;
  /** Inputs or outputs that `gradient` needs. */
  readonly saves?: (inputs: Inputs, outputs: readonly Tensor[]) => Inputs;
  /** Gradients in the shape of the result; they are summed back to the operands' shapes. */
  readonly gradient?: (context: BackwardContext<ShapeAttrs>) => Gradients;
  readonly flops?: number;
}

/** Shapes of the operands, for the way back. */
export interface ShapeAttrs {
  readonly shapes: readonly Shape[];
}

/** An element-wise operation of two operands that broadcast together. */
export function defineBinary(rule: BinaryRule): (a: Operand, b: Operand) => Tensor {
  const { name, gradient } = rule;
  const op: Op<ShapeAttrs> = defineOp<ShapeAttrs>({
    name,
    inputs: [
      { name: 'a', kind: 'any' },
      { name: 'b', kind: 'any' },
    ],
    output: ([a, b]) => ({
      shape: sameShape(a!.shape, b!.shape) ? a!.shape : broadcastShapes(name, a!.shape, b!.shape),
      dtype: rule.result === undefined ? a!.dtype : rule.result(a!.dtype),
    }),
    operands: (inputs, _attrs, [out]) => {
      const [a, b] = inputs;
      const { shape } = out!;
      if (sameShape(a!.shape, shape) && sameShape(b!.shape, shape)) return inputs;
      return [broadcastView(a!, shape), broadcastView(b!, shape)];
    },
    ...(rule.saves === undefined ? {} : { saves: rule.saves }),
    ...(gradient === undefined
      ? {}
      : {
          backward: (context) =>
            gradient(context).map((grad, i) =>
              grad && context.needs(i) ? sumTo(grad, context.attrs.shapes[i]!) : null,
            ),
        }),
  });
  return (a, b) => {
    const operands = promoteOperands(name, a, b);
    return op.call(operands, { shapes: [operands[0].shape, operands[1].shape] });
  };
}

export interface UnaryRule<A> {
  readonly name: string;
  readonly kind?: 'float' | 'any';
  readonly attrCount?: number;
  readonly encode?: (attrs: A) => readonly number[];
  readonly result?: (dtype: DType) => DType;
  readonly saves?: (inputs: Inputs, outputs: readonly Tensor[]) => Inputs;
  readonly gradient?: (context: BackwardContext<A>) => Tensor;
  readonly definition?: (x: Tensor, attrs: A) => Tensor;
  readonly flops?: number;
}

/** An element-wise operation of one operand. */
export function defineUnary<A = null>(rule: UnaryRule<A>): Op<A> {
  const { gradient, definition, encode } = rule;
  return defineOp<A>({
    name: rule.name,
    inputs: [{ name: 'x', kind: rule.kind ?? 'any' }],
    attrCount: rule.attrCount ?? 0,
    output: ([x]) => ({ shape: x!.shape, dtype: rule.result === undefined ? x!.dtype : rule.result(x!.dtype) }),
    ...(encode === undefined ? {} : { encode: (attrs: A) => encode(attrs) }),
    ...(rule.saves === undefined ? {} : { saves: rule.saves }),
    ...(gradient === undefined ? {} : { backward: (context: BackwardContext<A>) => [gradient(context)] }),
    ...(definition === undefined ? {} : { definition: ([x]: Inputs, attrs: A) => definition(x!, attrs) }),
    cost: ([x], [y]) => ({ flops: (rule.flops ?? 1) * x!.size, bytes: x!.bytes + y!.bytes }),
  });
}
