/**
 * One vector of a sequence of vectors.
 */
import { AttributeError, ShapeError } from '../errors.js';
import type { Module } from '../nn/module.js';
import { add, div, mul, sub } from '../ops/arithmetic.js';
import { lt, ne } from '../ops/comparison.js';
import { to } from '../ops/copy.js';
import { indexSelect } from '../ops/indexing.js';
import { amax, sum } from '../ops/reduce.js';
import { narrow, reshape, unsqueeze } from '../ops/views.js';
import { where } from '../ops/where.js';
import { arange, full } from '../tensor/create.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkInteger } from '../util/assert.js';
import { formatShape } from '../util/format.js';

/** A model that tells the vectors behind its last layer: ids `[B, T]` → `[B, T, width]`. `GPT`, or one of your own. */
export type HiddenModel = Module & { hidden(ids: Tensor): Tensor; readonly config?: unknown };

/** Which vector stands for a sequence: of its last token, of its first, or the mean of all. */
export type Pooling = 'last' | 'cls' | 'mean';
/** @internal */
export const poolings: readonly Pooling[] = ['last', 'cls', 'mean'];

/** How long the sequences of a batch are, where rows are filled up on the right. */
export interface LengthOptions {
  /** Tokens of each row, int32 `[B]`. Default: up to the last id that is not `padId`, or all. */
  readonly lengths?: Tensor;
}

/** @internal Width of a model's vectors. @throws AttributeError if neither an option nor `config.width` says it */
export function widthOf(op: string, backbone: HiddenModel, width: number | undefined): number {
  const own = (backbone.config as { readonly width?: unknown } | undefined)?.width;
  if (typeof backbone.hidden !== 'function') {
    throw new AttributeError({ op, argument: 'backbone', expected: 'a model with hidden(ids)', actual: 'one without' });
  }
  return checkInteger(op, 'width', width ?? own, 1);
}

/** @internal Tokens of each row, int32 [B]; as Hugging Face finds them: up to the last id that is not the padding's. */
export function lengthsOf(op: string, ids: Tensor, { lengths }: LengthOptions, padId: number | undefined): Tensor {
  const [batch, time] = ids.shape as readonly [number, number];
  if (lengths !== undefined) {
    if (lengths.rank === 1 && lengths.shape[0] === batch && lengths.dtype === 'int32') return lengths;
    const actual = `${lengths.dtype} ${formatShape(lengths.shape)}`;
    throw new ShapeError({ op, argument: 'lengths', expected: `int32 [${batch}]`, actual });
  }
  if (padId === undefined) return full([batch], time, { dtype: 'int32' });
  const places = where(ne(ids, padId), arange(1, time + 1), 1);
  return to(amax(places, -1), 'int32');
}

/**
 * @internal The vectors `[B, C]` of sequences `[B, T, C]`.
 *
 * @throws ShapeError unless there are three axes
 */
export function pool(op: string, x: Tensor, lengths: Tensor, pooling: Pooling): Tensor {
  if (x.rank !== 3) {
    throw new ShapeError({ op, argument: 'hidden', expected: '[batch, time, width]', actual: formatShape(x.shape) });
  }
  const [batch, time, width] = x.shape as readonly [number, number, number];
  if (pooling === 'cls') return reshape(narrow(x, 1, 0, 1), [batch, width]);
  if (pooling === 'last') {
    const rows = add(mul(arange(batch), time), sub(lengths, 1));
    return indexSelect(reshape(x, [batch * time, width]), 0, to(rows, 'int32'));
  }
  const isToken = to(lt(unsqueeze(arange(time), 0), unsqueeze(lengths, 1)), x.dtype);
  return div(sum(mul(x, unsqueeze(isToken, 2)), 1), unsqueeze(to(lengths, x.dtype), 1));
}
