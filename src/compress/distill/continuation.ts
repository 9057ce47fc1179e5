/**
 * Several sequences continued at once, without waiting for a single token: what on-policy steps and teacher-written texts need.
 *
 * @module
 */
import { AttributeError } from '../../errors.js';
import { noGrad } from '../../autograd/grad.js';
import { sample, type SamplingOptions } from '../../generate/sampler.js';
import type { CausalModel } from '../../generate/generate.js';
import { inEvaluation } from '../../nn/evaluation.js';
import type { KvCache } from '../../nn/kv_cache.js';
import type { Module } from '../../nn/module.js';
import { ge } from '../../ops/comparison.js';
import { to } from '../../ops/copy.js';
import { concat } from '../../ops/join.js';
import { narrow, reshape } from '../../ops/views.js';
import { where } from '../../ops/where.js';
import { keep, scope } from '../../tensor/scope.js';
import type { Tensor } from '../../tensor/tensor.js';

/** A model that writes: a GPT, or one with its members. */
export type WritingModel = Module & CausalModel;

/** @internal Sequences that grow by a token at each call of `step`. */
export class Continuation {
  private readonly model: WritingModel;
  private readonly given: Tensor;
  private readonly sampling: SamplingOptions;
  private readonly caches: KvCache[];
  private readonly pieces: Tensor[];
  /** Tokens of each sequence in the end. */
  readonly total: number;
  /** Tokens of each sequence so far. */
  length: number;

  /**
   * @param given - int32 `[B, total]`: what is told, and -1 where the model is to write. Not to be freed meanwhile.
   * @param start - columns at the front, at least one, in which everything is told: they are read at once
   * @throws AttributeError if the total does not fit the model's context
   */
  constructor(op: string, model: WritingModel, given: Tensor, start: number, sampling: SamplingOptions) {
    [this.model, this.given, this.sampling] = [model, given, sampling];
    const [rows, total] = given.shape as readonly [number, number];
    const { context } = model.config;
    if (start < 1) {
      const expected = 'at least one token each';
      throw new AttributeError({ op, argument: 'prompts', expected, actual: 'an empty prompt' });
    }
    if (total > context + 1) {
      const [expected, hint] = [
        `at most ${context + 1} tokens in all`,
        'Ask for fewer new tokens, or shorten the prompts',
      ];
      throw new AttributeError({ op, argument: 'prompts', expected, actual: String(total), hint });
    }
    [this.total, this.length] = [total, Math.min(start, total)];
    this.caches = model.makeCache(rows, { capacity: Math.min(total, context) });
    this.pieces = [scope(() => noGrad(() => keep(narrow(given, 1, 0, this.length))))];
  }

  /** Queues one forward pass and one draw. What is told goes before what is drawn. */
  step(): void {
    const next = scope(() =>
      noGrad(() =>
        inEvaluation(this.model, () => {
          const logits = this.model.forward(this.pieces.at(-1)!, { cache: this.caches, lastOnly: true });
          const rows = this.given.shape[0]!;
          const drawn = to(reshape(sample(reshape(logits, [rows, -1]), this.sampling), [rows, 1]), 'int32');
          const told = narrow(this.given, 1, this.length, 1);
          return keep(where(ge(told, 0), told, drawn));
        }),
      ),
    );
    this.pieces.push(next);
    this.length++;
  }

  /** All ids so far: int32 `[B, length]`. */
  ids(): Tensor {
    return scope(() => noGrad(() => concat(this.pieces, 1)));
  }

  dispose(): void {
    for (const cache of this.caches) cache.dispose();
    for (const piece of this.pieces) piece.dispose();
  }
}

/** @internal All rows of {@link Continuation} to their end: int32 `[B, total]`. Queued as a whole; nothing waits. */
export function continueRows(
  op: string,
  model: WritingModel,
  given: Tensor,
  start: number,
  sampling: SamplingOptions,
): Tensor {
  const writing = new Continuation(op, model, given, start, sampling);
  try {
    while (writing.length < writing.total) writing.step();
    return writing.ids();
  } finally {
    writing.dispose();
  }
}
