/**
 * Several models as one: their logits or probabilities, averaged.
 */
import { AttributeError, ShapeError } from '../../errors.js';
import {
  generateTokens,
  type GeneratedPiece,
  type GenerateOptions,
  type ModelCacheOptions,
} from '../../generate/generate.js';
import type { KvCache } from '../../nn/kv_cache.js';
import { Module } from '../../nn/module.js';
import { add, mul } from '../../ops/arithmetic.js';
import { to } from '../../ops/copy.js';
import { crossEntropy, wideOf } from '../../ops/cross_entropy.js';
import { stack } from '../../ops/join.js';
import { logSoftmax, logsumexp } from '../../ops/softmax.js';
import { scope } from '../../tensor/scope.js';
import { sameShape } from '../../tensor/shape.js';
import type { Tensor } from '../../tensor/tensor.js';
import { checkKeys, checkOneOf } from '../../util/assert.js';
import { formatShape } from '../../util/format.js';
import { checkWeights } from './states.js';

/** A model that can be a member of an ensemble, as `GPT` can. */
export type EnsembleMember = Module & {
  readonly config: { readonly context: number };
  forward(ids: Tensor, options?: { readonly cache?: readonly KvCache[]; readonly lastOnly?: boolean }): Tensor;
  makeCache(batch?: number, options?: ModelCacheOptions): KvCache[];
};

/** Options of {@link LogitEnsemble}. */
export interface EnsembleOptions {
  /** One a member, none negative; they are divided by their sum. Default: equal. */
  readonly weights?: readonly number[];
  /** What is averaged: `logits` (a geometric mean of the distributions), or `probabilities`, whose logarithm comes out. Default `logits`. */
  readonly average?: 'logits' | 'probabilities';
}

/**
 * Models with a common vocabulary that answer together. It is a module like any other: `generate`, `loss` and evaluation work on it, and its
 * members are its `models`.
 *
 * Shapes: ids `[B, T]` → logits, or log-probabilities, `[B, T, V]`, float32 (float64 if a member's are).
 *
 * @throws AttributeError if there is no member, or a weight cannot be
 */
export class LogitEnsemble<M extends EnsembleMember = EnsembleMember> extends Module {
  readonly models: readonly M[];
  /** They add up to 1. */
  readonly weights: readonly number[];
  readonly average: 'logits' | 'probabilities';
  /** The shortest context of the members. */
  readonly config: { readonly context: number };

  constructor(models: readonly M[], options: EnsembleOptions = {}) {
    super();
    const op = 'LogitEnsemble';
    checkKeys(op, options, ['weights', 'average']);
    const list: unknown = models;
    if (!Array.isArray(list) || list.length === 0 || !list.every((model) => model instanceof Module)) {
      throw new AttributeError({ op, argument: 'models', expected: 'at least one model', actual: 'none, or others' });
    }
    const weights = checkWeights(op, options.weights, models.length, 1);
    const total = weights.reduce((a, b) => a + b, 0);
    if (weights.some((weight) => weight < 0) || total === 0) {
      const [expected, actual] = ['weights of at least 0, not all of them 0', weights.join(', ')];
      throw new AttributeError({ op, argument: 'weights', expected, actual });
    }
    this.models = models;
    this.weights = weights.map((weight) => weight / total);
    this.average = checkOneOf(op, 'average', options.average ?? 'logits', ['logits', 'probabilities']);
    this.config = { context: Math.min(...models.map(({ config }) => config.context)) };
  }

  /** `cache` is one of {@link makeCache}. @throws ShapeError if vocabularies differ */
  forward(ids: Tensor, options: { readonly cache?: readonly KvCache[]; readonly lastOnly?: boolean } = {}): Tensor {
    const { cache, ...rest } = options;
    const parts = cache === undefined ? [] : this.partsOf(cache);
    return scope(() => {
      const logits = this.models.map((model, i) => {
        const own = model.forward(ids, cache === undefined ? rest : { ...rest, cache: parts[i]! });
        return to(own, wideOf(own.dtype));
      });
      for (const { shape } of logits) {
        if (sameShape(shape, logits[0]!.shape)) continue;
        const expected = `logits of ${formatShape(logits[0]!.shape)} from every member`;
        throw new ShapeError({ op: 'LogitEnsemble', argument: 'models', expected, actual: formatShape(shape) });
      }
      if (this.average === 'logits') {
        return logits.map((own, i) => mul(own, this.weights[i]!)).reduce((a, b) => add(a, b));
      }
      const shares = logits.flatMap((own, i) => {
        const weight = this.weights[i]!;
        return weight === 0 ? [] : [add(logSoftmax(own, -1), Math.log(weight))];
      });
      return logsumexp(stack(shares), 0);
    });
  }

  /** Mean cross-entropy, nats a target: ids and targets `[B, T]`; targets of -100 do not count. */
  loss(ids: Tensor, targets: Tensor): Tensor {
    return scope(() => crossEntropy(this.forward(ids), targets));
  }

  /** Caches of all members, one list behind the other. */
  makeCache(batch = 1, options: ModelCacheOptions = {}): KvCache[] {
    const capacity = Math.min(options.capacity ?? this.config.context, this.config.context);
    const lists = this.models.map((model) => model.makeCache(batch, { ...options, capacity }));
    this.#counts = lists.map(({ length }) => length);
    return lists.flat();
  }

  /** Caches a member has, by the last {@link makeCache}. */
  #counts: number[] = [];

  private partsOf(cache: readonly KvCache[]): KvCache[][] {
    let at = 0;
    const parts = this.#counts.map((count) => cache.slice(at, (at += count)));
    if (at === cache.length && at > 0) return parts;
    const expected = 'a cache that makeCache made';
    throw new AttributeError({ op: 'LogitEnsemble', argument: 'cache', expected, actual: `${cache.length} layers` });
  }

  /** Continues a prompt, see `generateTokens`. */
  generate(
    prompt: string | readonly number[],
    options: GenerateOptions = {},
  ): AsyncGenerator<GeneratedPiece, void, undefined> {
    return generateTokens(this, prompt, options);
  }
}
