/**
 * Broadcasting and its adjoint, which need each other for their gradients.
 *
 * @module
 */
import { ShapeError } from '../errors.js';
import { broadcastShapes, broadcastStrides, checkShape, sameShape, type Shape } from '../tensor/shape.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { formatShape } from '../util/format.js';
import { defineOp } from './define.js';
import { makeView } from './make_view.js';

interface SumToAttrs {
  /** Same rank as the input; 1 where an axis is summed. */
  readonly shape: Shape;
  /** Shape of the input, for the way back. */
  readonly from: Shape;
}

/** Axes of `x` that are summed to reach `shape`, and those that stay. */
function splitAxes(x: Tensor, shape: Shape): { kept: number[]; summed: number[] } {
  const kept: number[] = [];
  const summed: number[] = [];
  x.shape.forEach((length, i) => (length !== shape[i] ? summed : kept).push(i));
  return { kept, summed };
}

const sumToOp = defineOp<SumToAttrs>({
  name: 'sum_to',
  kernel: 'sum',
  inputs: [{ name: 'x', kind: 'any' }],
  attrCount: 1,
  output: ([x], { shape }) => ({ shape, dtype: x!.dtype }),
  operands: ([x], { shape }) => {
    const { kept, summed } = splitAxes(x!, shape);
    const order = [...kept, ...summed];
    const { storage, offset, dtypeId, itemBytes } = x!;
    const pick = (values: readonly number[]): number[] => order.map((axis) => values[axis]!);
    return [{ storage, offset, dtypeId, itemBytes, shape: pick(x!.shape), strides: pick(x!.strides) }];
  },
  results: ([x], { shape }, [y]) => {
    const { kept } = splitAxes(x!, shape);
    const { storage, offset, dtypeId, itemBytes, strides } = y!;
    return [
      {
        storage,
        offset,
        dtypeId,
        itemBytes,
        shape: kept.map((axis) => shape[axis]!),
        strides: kept.map((axis) => strides[axis]!),
      },
    ];
  },
  encode: ({ shape }, [x]) => [splitAxes(x!, shape).summed.length],
  backward: ({ grad, attrs }) => [expand(grad, attrs.from)],
});

/** The adjoint of broadcasting: sums over the axes along which `shape` was stretched. */
export function sumTo(x: Tensor, shape: Shape): Tensor {
  if (sameShape(x.shape, shape)) return x;
  const lead = x.rank - shape.length;
  const aligned = [...new Array<number>(lead).fill(1), ...shape];
  const reduced = sameShape(x.shape, aligned) ? x : sumToOp.call([x], { shape: aligned, from: x.shape });
  if (lead === 0) return reduced;
  return makeView('squeeze', reduced, reduced.offset, shape, reduced.strides.slice(lead), (grad) =>
    makeView('unsqueeze', grad, grad.offset, aligned, [...new Array<number>(lead).fill(0), ...grad.strides], (g) =>
      sumTo(g, shape),
    ),
  );
}

/**
 * A view in a larger shape: axes of length 1 are repeated, new axes may be added in front. -1 keeps a length.
 *
 * @throws ShapeError if an axis longer than 1 would have to change
 */
export function expand(x: Tensor, shape: Shape): Tensor {
  checkTensor('expand', 'x', x);
  const lead = shape.length - x.rank;
  const wanted = checkShape(
    'expand',
    shape.map((length, i) => (length === -1 && i >= lead ? x.shape[i - lead]! : length)),
  );
  if (lead < 0 || !sameShape(broadcastShapes('expand', x.shape, wanted), wanted)) {
    throw new ShapeError({
      op: 'expand',
      argument: 'shape',
      expected: `one that ${formatShape(x.shape)} broadcasts to`,
      actual: formatShape(wanted),
    });
  }
  const before = x.shape;
  return makeView('expand', x, x.offset, wanted, broadcastStrides(x.shape, x.strides, wanted), (grad) =>
    sumTo(grad, before),
  );
}

/** {@link expand} to whatever both shapes broadcast to. */
export function broadcastTo(x: Tensor, shape: Shape): Tensor {
  return expand(x, shape);
}
