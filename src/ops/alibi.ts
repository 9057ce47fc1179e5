/**
 * Attention with linear biases.
 *
 * @module
 */
import { arange, tensor } from '../tensor/create.js';
import type { DType } from '../tensor/dtype.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkInteger } from '../util/assert.js';
import { mul, sub } from './arithmetic.js';
import { to } from './copy.js';
import { abs } from './unary.js';
import { reshape, unsqueeze } from './views.js';

/**
 * Slope of each head: 2^(−8(h+1)/H) for a power of two; else those of the next lower power, then every other one of the next
 * higher.
 *
 * @source arXiv 2108.12409
 */
export function alibiSlopes(heads: number): number[] {
  checkInteger('alibiSlopes', 'heads', heads, 1);
  const power = 2 ** Math.floor(Math.log2(heads));
  const base = Array.from({ length: power }, (_, h) => 2 ** ((-8 * (h + 1)) / power));
  const between = Array.from({ length: heads - power }, (_, h) => 2 ** ((-4 * (2 * h + 1)) / power));
  return [...base, ...between];
}

/**
 * A mask for attention: minus slope times distance. The last query stands at the last key.
 *
 * @param slopes - default {@link alibiSlopes}
 * @shape → (heads, queries, keys)
 * @dtype default float32
 * @source arXiv 2108.12409
 */
export function alibiBias(
  heads: number,
  queries: number,
  keys = queries,
  slopes: readonly number[] = alibiSlopes(heads),
  dtype: DType = 'float32',
): Tensor {
  checkInteger('alibiBias', 'queries', queries, 0);
  checkInteger('alibiBias', 'keys', keys, 0);
  const distance = abs(sub(unsqueeze(arange(keys - queries, keys), 1), unsqueeze(arange(keys), 0)));
  return mul(
    to(distance, dtype),
    reshape(
      tensor(
        Float64Array.from(slopes, (slope) => -slope),
        { dtype },
      ),
      [heads, 1, 1],
    ),
  );
}
