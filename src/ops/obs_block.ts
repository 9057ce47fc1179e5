/**
 * The inner loop of GPTQ and SparseGPT over one block of columns.
 *
 * @module
 */
import type { Tensor } from '../tensor/tensor.js';
import { broadcastStrides } from '../tensor/shape.js';
import type { View } from '../runtime/queue.js';
import { defineOp } from './define.js';

interface Attrs {
  readonly lowest: number;
  readonly highest: number;
}

const obsBlockOp = defineOp<Attrs>({
  name: 'obs_block',
  inputs: [
    { name: 'w', kind: 'float' },
    { name: 'u', kind: 'float' },
    { name: 'keep', kind: 'bool', optional: true },
    { name: 'scale', kind: 'float', optional: true },
    { name: 'zero', kind: 'integer', optional: true },
  ],
  attrCount: 2,
  outputCount: 3,
  output: ([w, , , scale], { lowest }) => [
    { shape: w!.shape, dtype: 'float32' },
    { shape: w!.shape, dtype: 'float32' },
    scale ? { shape: w!.shape, dtype: lowest < 0 ? 'int8' : 'uint8' } : null,
  ],
  operands: ([w, u, keep, scale, zero]) => {
    const stretched = (x: Tensor | null | undefined): View | null => {
      if (!x) return null;
      const { storage, offset, dtypeId, itemBytes } = x;
      const strides = broadcastStrides(x.shape, x.strides, w!.shape);
      return { storage, offset, dtypeId, itemBytes, shape: w!.shape, strides };
    };
    return [w!, u!, keep ?? null, stretched(scale), stretched(zero)];
  },
  encode: ({ lowest, highest }) => [lowest, highest],
  cost: ([w], [y]) => ({ flops: w!.size * w!.shape[1]!, bytes: w!.bytes + 2 * y!.bytes }),
});

/** What happens to the columns of {@link obsBlock}. */
export interface ObsBlockOptions {
  /** bool `[rows, columns]`: what is not kept becomes 0. */
  readonly keep?: Tensor | null;
  /** Scales of codes, broadcast to `[rows, columns]`: kept weights are rounded. */
  readonly scale?: Tensor | null;
  /** int32 zero points, likewise. */
  readonly zeroPoint?: Tensor | null;
  /** Range of the codes. */
  readonly lowest?: number;
  readonly highest?: number;
}

/** Results of {@link obsBlock}. */
export interface ObsBlock {
  /** The weights as they are then, float32. */
  readonly values: Tensor;
  /** What each column lost, over u's diagonal: the columns behind the block lose `errors · u`. */
  readonly errors: Tensor;
  /** int8 codes if `lowest` is negative, else uint8; null without scales. */
  readonly codes: Tensor | null;
}

/**
 * Rounds or drops the columns of a block of weights one after the other, and makes up for what each loses in those to its
 * right. Not differentiable.
 *
 * @shape w (rows, columns), u (columns, columns), upper triangular: of the Cholesky factor of the inverse Hessian
 * @throws BackendError if shapes or dtypes do not fit
 * @source GPTQ, arXiv 2210.17323; SparseGPT, arXiv 2301.00774
 */
export function obsBlock(w: Tensor, u: Tensor, options: ObsBlockOptions): ObsBlock {
  const { keep = null, scale = null, zeroPoint = null, lowest = 0, highest = 0 } = options;
  const [values, errors, codes] = obsBlockOp.callAll([w, u, keep, scale, zeroPoint], { lowest, highest });
  return { values: values!, errors: errors!, codes: codes ?? null };
}
