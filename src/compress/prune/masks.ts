/**
 * Which weights to keep: masks (bool, true = keep) by magnitude, by channel, by N of M, and by activation-weighted magnitude.
 * Apply one with `where(mask, w, 0)`. Nothing here is recorded.
 *
 * @module
 */
import { AttributeError, ShapeError } from '../../errors.js';
import { noGrad } from '../../autograd/grad.js';
import { abs } from '../../ops/unary.js';
import { concat, split } from '../../ops/join.js';
import { expand } from '../../ops/broadcast.js';
import { mul } from '../../ops/arithmetic.js';
import { clone } from '../../ops/copy.js';
import { norm } from '../../ops/reduce.js';
import { reshape } from '../../ops/views.js';
import { scatter } from '../../ops/indexing.js';
import { scope } from '../../tensor/scope.js';
import { topk } from '../../ops/sorting.js';
import { full } from '../../tensor/create.js';
import { checkAxis } from '../../tensor/shape.js';
import type { Tensor } from '../../tensor/tensor.js';
import { checkInteger, checkNumber } from '../../util/assert.js';
import { formatShape } from '../../util/format.js';

/** How many of `size` a share (below 1, rounded half to even as in PyTorch) or an absolute number means. */
function amountOf(op: string, amount: number, size: number): number {
  checkNumber(op, 'amount', amount, 0, size);
  if (amount >= 1 && Number.isInteger(amount)) return amount;
  if (amount > 1)
    throw new AttributeError({
      op,
      argument: 'amount',
      expected: 'a share below 1 or a whole number',
      actual: String(amount),
    });
  const exact = amount * size;
  const floor = Math.floor(exact);
  return exact - floor === 0.5 ? floor + (floor % 2) : Math.round(exact);
}

/** @internal All of `shape`, except along the last axis the `count` positions with the smallest scores. */
export function dropSmallest(scores: Tensor, count: number): Tensor {
  const { indices } = topk(scores, count, { largest: false });
  return scatter(full(scores.shape, true), -1, indices, 0);
}

const quietly = <T>(body: () => T): T => noGrad(() => scope(body));

/**
 * Without the `amount` weights of smallest magnitude.
 *
 * @param amount - a share from 0 to below 1, or a number of weights
 */
export function magnitudeMask(weight: Tensor, amount: number): Tensor {
  const count = amountOf('magnitudeMask', amount, weight.size);
  return quietly(() => reshape(dropSmallest(reshape(abs(weight), [weight.size]), count), weight.shape));
}

/**
 * Masks of several weights with one threshold: without the `amount` weights of smallest magnitude among all of them.
 *
 * @param amount - a share from 0 to below 1, or a number of weights
 */
export function globalMagnitudeMasks(weights: readonly Tensor[], amount: number): Tensor[] {
  const sizes = weights.map((weight) => weight.size);
  const count = amountOf(
    'globalMagnitudeMasks',
    amount,
    sizes.reduce((a, b) => a + b, 0),
  );
  return quietly(() => {
    const all = concat(weights.map((weight) => reshape(abs(weight), [weight.size])));
    return split(dropSmallest(all, count), sizes).map((mask, i) => reshape(mask, weights[i]!.shape));
  });
}

export interface StructuredMaskOptions {
  /** The norm that channels are judged by. Default 2. */
  readonly p?: number;
  /** Axis of the channels. Default 0. */
  readonly axis?: number;
}

/**
 * Without the `amount` channels of smallest norm: whole slices along an axis.
 *
 * @param amount - a share from 0 to below 1, or a number of channels
 */
export function structuredMask(weight: Tensor, amount: number, options: StructuredMaskOptions = {}): Tensor {
  const { p = 2, axis = 0 } = options;
  const at = checkAxis('structuredMask', axis, weight.rank);
  const count = amountOf('structuredMask', amount, weight.shape[at]!);
  return quietly(() => {
    const others = [...weight.shape.keys()].filter((i) => i !== at);
    const scores = others.length === 0 ? abs(weight) : norm(weight, p, others);
    const kept = reshape(
      dropSmallest(scores, count),
      weight.shape.map((length, i) => (i === at ? length : 1)),
    );
    return clone(expand(kept, weight.shape));
  });
}

/**
 * The `n` largest magnitudes of every `m` neighbours along the last axis; 2 of 4 is what sparse tensor cores take.
 *
 * @throws ShapeError if `m` does not divide the last axis
 */
export function nOfMMask(weight: Tensor, n = 2, m = 4): Tensor {
  const op = 'nOfMMask';
  checkInteger(op, 'm', m, 1);
  checkInteger(op, 'n', n, 0, m);
  const last = weight.shape.at(-1);
  if (last === undefined || last % m !== 0) {
    throw new ShapeError({
      op,
      argument: 'weight',
      expected: `a last axis that is a multiple of ${m}`,
      actual: formatShape(weight.shape),
    });
  }
  return quietly(() => {
    const { indices } = topk(reshape(abs(weight), [weight.size / m, m]), n);
    return reshape(scatter(full([weight.size / m, m], false), -1, indices, 1), weight.shape);
  });
}

/**
 * Wanda: without the share `sparsity` of each row's weights whose magnitude times the norm of their input is smallest.
 *
 * @shape weight (out, in), inputs (…, in): what the layer saw on calibration data
 * @throws ShapeError if the last axes differ
 * @source Sun et al., arXiv 2306.11695
 */
export function wandaMask(weight: Tensor, inputs: Tensor, sparsity: number): Tensor {
  const op = 'wandaMask';
  checkNumber(op, 'sparsity', sparsity, 0, 1);
  if (weight.rank !== 2 || inputs.rank < 1 || inputs.shape.at(-1) !== weight.shape[1]) {
    const actual = `${formatShape(weight.shape)} and ${formatShape(inputs.shape)}`;
    throw new ShapeError({ op, argument: 'inputs', expected: 'a weight (out, in) and inputs (…, in)', actual });
  }
  return quietly(() => {
    const columns = norm(reshape(inputs, [-1, weight.shape[1]!]), 2, 0);
    return dropSmallest(mul(abs(weight), columns), Math.floor(weight.shape[1]! * sparsity));
  });
}
