/**
 * Copies: same dtype or another.
 *
 * @module
 */
import { DTypeError, ShapeError } from '../errors.js';
import { kernelId } from '../runtime/kernels.js';
import { submit } from '../runtime/queue.js';
import { checkDType, isFloating, type DType } from '../tensor/dtype.js';
import { broadcastStrides, sameShape } from '../tensor/shape.js';
import { isGradEnabled } from '../tensor/tape.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { formatShape } from '../util/format.js';
import { StateError } from '../errors.js';
import { defineOp } from './define.js';

interface CopyAttrs {
  readonly dtype: DType;
}

export const copyOp = defineOp<CopyAttrs>({
  name: 'copy',
  inputs: [{ name: 'x', kind: 'any' }],
  output: ([x], { dtype }) => ({ shape: x!.shape, dtype }),
  saves: ([x]) => [x!.dtype === 'float32' ? null : x!],
  backward: ({ grad, saved: [x] }) => [to(grad, x?.dtype ?? 'float32')],
  cost: ([x], [y]) => ({ flops: 0, bytes: x!.bytes + y!.bytes }),
});

/** A copy in row-major order, with memory of its own. */
export function clone(x: Tensor): Tensor {
  return copyOp.call([x], { dtype: x.dtype });
}

/** The tensor itself if its elements lie in row-major order, else a copy that does. */
export function contiguous(x: Tensor): Tensor {
  checkTensor('contiguous', 'x', x);
  return x.isContiguous ? x : clone(x);
}

/**
 * The same values in another dtype; the tensor itself if it has it already. Floats round to nearest even; a float becomes an
 * integer by truncation, saturating, with NaN as 0; anything but 0 becomes true.
 *
 * @throws DTypeError if `dtype` is not the name of a dtype
 */
export function to(x: Tensor, dtype: DType): Tensor {
  checkDType('to', dtype);
  return x.dtype === dtype ? x : copyOp.call([x], { dtype });
}

const copyKernel = kernelId('copy', 1, 1, 0);

/**
 * Overwrites `target` in place with `source`, broadcast and cast. Returns `target`.
 *
 * @throws StateError if `target` takes part in a graph that is being recorded
 * @throws ShapeError if `source` does not broadcast to it
 */
export function copy_(target: Tensor, source: Tensor): Tensor {
  checkTensor('copy_', 'target', target);
  checkTensor('copy_', 'source', source);
  checkInPlace('copy_', target);
  if (isFloating(source.dtype) !== isFloating(target.dtype) && isFloating(source.dtype) && target.dtype !== 'bool') {
    throw new DTypeError({
      op: 'copy_',
      argument: 'source',
      expected: target.dtype,
      actual: source.dtype,
      hint: 'Cast it with to()',
    });
  }
  let from: Parameters<typeof submit>[1][number] = source;
  if (!sameShape(source.shape, target.shape)) {
    const lead = target.rank - source.rank;
    const fits = lead >= 0 && source.shape.every((length, i) => length === 1 || length === target.shape[lead + i]);
    if (!fits) {
      const expected = `a shape that broadcasts to ${formatShape(target.shape)}`;
      throw new ShapeError({ op: 'copy_', argument: 'source', expected, actual: formatShape(source.shape) });
    }
    const strides = broadcastStrides(source.shape, source.strides, target.shape);
    const { storage, offset, dtypeId, itemBytes } = source;
    from = { storage, offset, dtypeId, itemBytes, shape: target.shape, strides };
  }
  submit(copyKernel, [from], [target], [], target.size);
  target.storage.version++;
  return target;
}

/**
 * @internal
 * @throws StateError unless `target` may be written to now
 */
export function checkInPlace(op: string, target: Tensor): void {
  if (isGradEnabled() && target.requiresGrad) {
    throw new StateError({
      op,
      expected: 'a tensor outside the recorded graph',
      actual: target.isLeaf ? 'a leaf that requires a gradient' : `a result of ${target.node!.op}`,
      hint: 'Wrap the update in og.noGrad',
    });
  }
}
