import { AttributeError, ShapeError } from '../errors.js';
import { alibiSlopes } from '../ops/alibi.js';
import { attentionScores, scaledDotProductAttention } from '../ops/attention.js';
import type { AttentionOptions as SdpaOptions } from '../ops/attention_options.js';
import { expand } from '../ops/broadcast.js';
import { concat } from '../ops/join.js';
import { rope } from '../ops/rope.js';
import { reshape, transpose } from '../ops/views.js';
import type { Generator } from '../tensor/random.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkInteger, checkNumber } from '../util/assert.js';
import { formatShape } from '../util/format.js';
import type { KvCache } from './kv_cache.js';
import { Linear, type LinearOptions } from './linear.js';
import { Module } from './module.js';

/** Options of {@link MultiHeadAttention}. */
export interface AttentionOptions extends LinearOptions {
  /** Key and value heads; a divisor of `heads` (grouped-query attention, arXiv 2305.13245). Default: `heads`. */
  readonly kvHeads?: number;
  /** Width of a head. Default: width / heads. */
  readonly headWidth?: number;
  /** Each position sees itself and what came before. Default false. */
  readonly causal?: boolean;
  /** With `causal`: at most this many positions are seen. Default: all. */
  readonly window?: number;
  /** Scores become softCap · tanh(score / softCap) (Gemma 2, arXiv 2408.00118). Default: none. */
  readonly softCap?: number;
  /** Positions by ALiBi (arXiv 2108.12409): scores fall with the distance, by a slope for each head. Default false. */
  readonly alibi?: boolean;
  /** Probability of dropping an attention weight in training. Default 0. */
  readonly attentionDropout?: number;
}

/** Rotations of the positions in a batch, as ropeTables gives them. */
export interface Rotary {
  readonly cos: Tensor;
  readonly sin: Tensor;
}

/** Keys and values of positions, each `[B, kvHeads, length, headWidth]`. */
export interface KeyValues {
  readonly k: Tensor;
  readonly v: Tensor;
}

/** What a call of attention needs besides its input. */
export interface AttentionContext {
  /** Boolean (true: may be seen) or additive mask, broadcast to `[B, H, T, S]`. */
  readonly mask?: Tensor;
  readonly rotary?: Rotary;
  /** Sequences packed behind each other in a batch of 1: where each begins, and where the last ends. Without a cache. */
  readonly offsets?: Tensor | readonly number[];
  /** Stretches of positions that see each other both ways, as of `scaledDotProductAttention`. */
  readonly spans?: SdpaOptions['spans'];
  /** Keys and values of earlier positions; this call's are appended. */
  readonly cache?: KvCache;
  /** Keys and values in front of this call's, that every query sees: of a batch of 1 for all. A cache takes them in. */
  readonly prefix?: KeyValues;
}

/**
 * Multi-head self-attention (Vaswani et al., arXiv 1706.03762), with grouped queries, rotary or ALiBi positions, packed
 * sequences, spans that are seen both ways, and a cache.
 *
 * Shapes: x `[B, T, C]` → `[B, T, C]`. The heads are views into the projections' outputs: nothing is copied.
 */
export class MultiHeadAttention extends Module {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headWidth: number;
  readonly causal: boolean;
  readonly window: number | undefined;
  readonly softCap: number | undefined;
  readonly attentionDropout: number;
  readonly #slopes: readonly number[] | undefined;
  readonly #generator: Generator | undefined;
  readonly q: Linear;
  readonly k: Linear;
  readonly v: Linear;
  readonly o: Linear;

  constructor(width: number, heads: number, options: AttentionOptions = {}) {
    super();
    this.heads = checkInteger('MultiHeadAttention', 'heads', heads, 1);
    this.kvHeads = checkInteger('MultiHeadAttention', 'kvHeads', options.kvHeads ?? heads, 1, heads);
    this.headWidth = checkInteger('MultiHeadAttention', 'headWidth', options.headWidth ?? width / heads, 1);
    this.causal = options.causal ?? false;
    this.window = options.window;
    this.softCap = options.softCap;
    this.attentionDropout = checkNumber('MultiHeadAttention', 'attentionDropout', options.attentionDropout ?? 0, 0, 1);
    this.#slopes = (options.alibi ?? false) ? alibiSlopes(heads) : undefined;
    this.#generator = options.generator;
    if (heads % this.kvHeads !== 0) {
      throw new AttributeError({
        op: 'MultiHeadAttention',
        argument: 'kvHeads',
        expected: `a divisor of ${heads}`,
        actual: String(this.kvHeads),
      });
    }
    this.q = new Linear(width, heads * this.headWidth, options);
    this.k = new Linear(width, this.kvHeads * this.headWidth, options);
    this.v = new Linear(width, this.kvHeads * this.headWidth, options);
    this.o = new Linear(heads * this.headWidth, width, options);
  }

  /** `[B, T, width]` → `[B, T, width]`. */
  forward(x: Tensor, context: AttentionContext = {}): Tensor {
    const { q, ...own } = this.project(x, context);
    let { k, v } = own;
    if (context.prefix !== undefined) {
      const [keys, values] = this.prefixOf(context.prefix, x.shape[0]!);
      if (context.cache === undefined) [k, v] = [concat([keys, k], 2), concat([values, v], 2)];
      else context.cache.append(keys, values);
    }
    const options = {
      ...this.options(context),
      dropout: this.training ? this.attentionDropout : 0,
      ...(this.#generator === undefined ? {} : { generator: this.#generator }),
    };
    const { cache } = context;
    const y = cache === undefined ? scaledDotProductAttention(q, k, v, options) : cache.attend(q, k, v, options);
    return this.o.forward(reshape(transpose(y, 1, 2), [x.shape[0]!, x.shape[1]!, this.heads * this.headWidth]));
  }

  /**
   * The scores that {@link forward} turns into weights by softmax, −∞ where a position may not look: `[B, T, width]` →
   * `[B, heads, T, S]`, with the gradients of queries and keys. They are all held in memory, which `forward` does without. Not for
   * calls with a cache.
   *
   * @throws AttributeError for a call with a cache
   */
  scores(x: Tensor, context: AttentionContext = {}): Tensor {
    if (context.cache !== undefined) {
      const [expected, actual] = ['none for the scores', 'a cache'];
      throw new AttributeError({ op: 'MultiHeadAttention.scores', argument: 'cache', expected, actual });
    }
    const { q, k } = this.project(x, context);
    const keys = context.prefix === undefined ? k : concat([this.prefixOf(context.prefix, x.shape[0]!)[0], k], 2);
    return attentionScores(q, keys, this.options(context));
  }

  /** Queries, keys and values, `[B, H, T, D]`, rotated to their positions. */
  private project(x: Tensor, context: AttentionContext): { q: Tensor; k: Tensor; v: Tensor } {
    if (x.rank !== 3) {
      throw new ShapeError({
        op: 'MultiHeadAttention',
        argument: 'x',
        expected: '[batch, time, width]',
        actual: formatShape(x.shape),
      });
    }
    const [batch, time] = [x.shape[0]!, x.shape[1]!];
    const split = (y: Tensor, heads: number): Tensor =>
      transpose(reshape(y, [batch, time, heads, this.headWidth]), 1, 2);
    let q = split(this.q.forward(x), this.heads); // [B, H, T, D]
    let k = split(this.k.forward(x), this.kvHeads);
    const v = split(this.v.forward(x), this.kvHeads);
    if (context.rotary !== undefined) {
      q = rope(q, context.rotary.cos, context.rotary.sin);
      k = rope(k, context.rotary.cos, context.rotary.sin);
    }
    if (context.offsets !== undefined && (context.cache ?? context.prefix) !== undefined) {
      throw new AttributeError({
        op: 'MultiHeadAttention',
        argument: 'offsets',
        expected: 'none with a cache or a prefix',
        actual: 'both',
      });
    }
    return { q, k, v };
  }

  /** How positions see each other. */
  private options(context: AttentionContext): SdpaOptions {
    return {
      causal: this.causal,
      ...(context.mask === undefined ? {} : { mask: context.mask }),
      ...(this.window === undefined ? {} : { window: this.window }),
      ...(this.softCap === undefined ? {} : { softCap: this.softCap }),
      ...(this.#slopes === undefined ? {} : { alibi: this.#slopes }),
      ...(context.offsets === undefined ? {} : { queryOffsets: context.offsets }),
      ...(context.spans === undefined ? {} : { spans: context.spans }),
    };
  }

  /** A prefix for every sequence of the batch. @throws ShapeError if it does not fit the heads */
  private prefixOf({ k, v }: KeyValues, batch: number): [Tensor, Tensor] {
    const wanted = [batch, this.kvHeads, k.shape[2] ?? 0, this.headWidth];
    const whole = (argument: string, x: Tensor): Tensor => {
      if (x.rank === 4 && x.shape.every((length, i) => length === wanted[i] || (i === 0 && length === 1))) {
        return expand(x, wanted);
      }
      const [expected, actual] = [formatShape(wanted), formatShape(x.shape)];
      throw new ShapeError({ op: 'MultiHeadAttention', argument, expected, actual });
    };
    return [whole('prefix.k', k), whole('prefix.v', v)];
  }
}
