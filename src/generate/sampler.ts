/**
 * Choosing the next token from logits.
 *
 * @module
 */
import { noGrad } from '../autograd/grad.js';
import { argmax } from '../ops/reduce.js';
import { div, mul, sub } from '../ops/arithmetic.js';
import { ge, lt } from '../ops/comparison.js';
import { gather } from '../ops/indexing.js';
import { multinomial } from '../ops/random_ops.js';
import { cumsum } from '../ops/scan.js';
import { softmax } from '../ops/softmax.js';
import { sort, topk } from '../ops/sorting.js';
import { narrow, reshape } from '../ops/views.js';
import { where } from '../ops/where.js';
import type { Generator } from '../tensor/random.js';
import { scope } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkInteger, checkNumber } from '../util/assert.js';

/** How the next token is drawn. */
export interface SamplingOptions {
  /** 0 takes the likeliest token; higher is more varied. Default 1. */
  readonly temperature?: number;
  /** Only the k likeliest tokens. Default: all. */
  readonly topK?: number;
  /** Only the likeliest tokens that together reach this probability (Holtzman et al., arXiv 1904.09751). Default 1. */
  readonly topP?: number;
  /** Only tokens at least this likely relative to the likeliest (arXiv 2407.01082). Default 0. */
  readonly minP?: number;
  /** Stream of the draws. Default: the shared one. */
  readonly generator?: Generator;
}

/** @throws AttributeError if an option is outside its domain */
export function checkSampling(options: SamplingOptions): void {
  checkNumber('sample', 'temperature', options.temperature ?? 1, 0, Number.MAX_VALUE);
  checkInteger('sample', 'topK', options.topK ?? 1, 1);
  checkNumber('sample', 'topP', options.topP ?? 1, 0, 1);
  checkNumber('sample', 'minP', options.minP ?? 0, 0, 1);
}

/**
 * Next ids for logits `[B, V]`: `[B]` int64. Filters apply in the order temperature, top-k, min-p, top-p.
 */
export function sample(logits: Tensor, options: SamplingOptions = {}): Tensor {
  const { temperature = 1, topK, topP = 1, minP = 0 } = options;
  return scope(() =>
    noGrad(() => {
      if (temperature === 0) return argmax(logits, -1);
      const scaled = div(logits, temperature);
      const vocabulary = logits.shape[1]!;
      const restricted = topK !== undefined && topK < vocabulary;
      const { values, indices } =
        restricted || topP < 1 || minP > 0
          ? restricted
            ? topk(scaled, topK)
            : sort(scaled, -1, true)
          : { values: scaled, indices: null };
      let weights = softmax(values, -1); // [B, K], falling when filtered
      if (minP > 0) weights = where(ge(weights, mul(narrow(weights, 1, 0, 1), minP)), weights, 0);
      // What lies before a token must not reach topP yet; so the first always stays.
      if (topP < 1) weights = where(lt(sub(cumsum(weights, -1), weights), topP), weights, 0);
      const drawn = multinomial(weights, 1, options.generator === undefined ? {} : { generator: options.generator }); // [B, 1]
      return reshape(indices === null ? drawn : gather(indices, 1, drawn), [-1]);
    }),
  );
}
