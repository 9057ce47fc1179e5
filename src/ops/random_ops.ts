/**
 * Random choices, made of the draws of tensor/random.ts: the same generator state gives the same choice.
 *
 * @module
 */
import { AttributeError, DTypeError, ShapeError } from '../errors.js';
import { tensor } from '../tensor/create.js';
import { isFloating, type DType } from '../tensor/dtype.js';
import { rand, randint, type RandomOptions } from '../tensor/random.js';
import { Tensor, checkTensor } from '../tensor/tensor.js';
import { checkInteger, checkNumber } from '../util/assert.js';
import { formatShape } from '../util/format.js';
import { div, mul } from './arithmetic.js';
import { lt } from './comparison.js';
import { to } from './copy.js';
import { indexSelect } from './indexing.js';
import { concat } from './join.js';
import { argmax } from './reduce.js';
import { argsort, topk } from './sorting.js';
import { clamp, log1p } from './unary.js';
import { reshape, unsqueeze } from './views.js';

/** Elements drawn at once, at most. */
const MAX_DRAWS = 1 << 22;

/** Stream of the draws. Default: the shared one. */
export type StreamOptions = Pick<RandomOptions, 'generator'>;

export interface MultinomialOptions extends StreamOptions {
  /** Whether an index may come more than once. Default false, as in PyTorch. */
  readonly replacement?: boolean;
}

/** Exponential waiting times with the given rates; the shortest wins with probability in proportion to its rate. */
function speeds(rates: Tensor, shape: readonly number[], options: StreamOptions): Tensor {
  const waiting = mul(log1p(mul(rand(shape, options), -1)), -1);
  return div(rates, clamp(waiting, 1e-30));
}

/**
 * Indices drawn with probabilities in proportion to the weights of a row: an exponential race, whose winner is exact also
 * where weights are 0 (never drawn while another is positive).
 *
 * @shape weights (K) or (B, K), not negative, with a positive sum → (count) or (B, count), int64
 * @throws AttributeError if `count` is larger than K without replacement
 * @source the exponential-clocks form of Gumbel-top-k, arXiv 1903.06059
 */
export function multinomial(weights: Tensor, count: number, options: MultinomialOptions = {}): Tensor {
  const op = 'multinomial';
  const { replacement = false, ...stream } = options;
  checkTensor(op, 'weights', weights);
  if (!isFloating(weights.dtype))
    throw new DTypeError({ op, argument: 'weights', expected: 'a floating-point tensor', actual: weights.dtype });
  const classes = weights.shape.at(-1);
  if (weights.rank < 1 || weights.rank > 2 || classes === 0) {
    throw new ShapeError({
      op,
      argument: 'weights',
      expected: '1 or 2 axes, the last with elements',
      actual: formatShape(weights.shape),
    });
  }
  checkInteger(op, 'count', count, 1, replacement ? undefined : classes);
  const rows = to(reshape(weights.alias(), [-1, classes!]), 'float32');
  const batch = rows.shape[0]!;
  let indices: Tensor;
  if (!replacement) {
    indices = topk(speeds(rows, rows.shape, stream), count).indices;
  } else {
    const atOnce = Math.max(1, Math.floor(MAX_DRAWS / Math.max(1, rows.size)));
    const parts: Tensor[] = [];
    for (let start = 0; start < count; start += atOnce) {
      const draws = Math.min(atOnce, count - start);
      parts.push(argmax(speeds(unsqueeze(rows, 1), [batch, draws, classes!], stream), -1));
    }
    indices = parts.length === 1 ? parts[0]! : concat(parts, 1);
  }
  return weights.rank === 1 ? reshape(indices, [count]) : indices;
}

export interface PermutationOptions extends StreamOptions {
  /** Default int64. */
  readonly dtype?: DType;
}

/** The integers below `count` in random order. */
export function randperm(count: number, options: PermutationOptions = {}): Tensor {
  checkInteger('randperm', 'count', count, 0, 2 ** 31);
  const { dtype = 'int64', ...stream } = options;
  if (count === 0) return tensor([], { dtype });
  // Order by random keys; a second draw decides among equal ones, of which 31 bits leave few.
  const key = (): Tensor => argsort(randint(0, 2 ** 31 - 1, [count], { ...stream, dtype: 'int32' }));
  const first = key();
  return to(indexSelect(first, 0, key()), dtype);
}

/**
 * 1 with probability `p`, else 0, independently for each element of `p`; or of a given shape for one probability.
 *
 * @throws DTypeError if `p` is not floating-point
 */
export function bernoulli(p: Tensor, options?: StreamOptions): Tensor;
export function bernoulli(p: number, shape: readonly number[], options?: RandomOptions): Tensor;
export function bernoulli(
  p: Tensor | number,
  second: StreamOptions | readonly number[] = {},
  third: RandomOptions = {},
): Tensor {
  if (p instanceof Tensor) {
    p.check('bernoulli');
    if (!isFloating(p.dtype))
      throw new DTypeError({ op: 'bernoulli', argument: 'p', expected: 'a floating-point tensor', actual: p.dtype });
    return to(lt(rand(p.shape, { ...(second as StreamOptions), dtype: 'float32' }), p.alias()), p.dtype);
  }
  checkNumber('bernoulli', 'p', p, 0, 1);
  if (!Array.isArray(second)) {
    throw new AttributeError({
      op: 'bernoulli',
      argument: 'shape',
      expected: 'an array of lengths',
      actual: String(second),
    });
  }
  const { dtype = 'float32', ...rest } = third;
  return to(lt(rand(second as readonly number[], { ...rest, dtype: 'float32' }), p), dtype);
}
