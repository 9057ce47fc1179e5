/**
 * Autoregressive generation: prefill once, then one token at a time against cached keys and values.
 *
 * @module
 */
import { AttributeError, StateError } from '../errors.js';
import { noGrad } from '../autograd/grad.js';
import { amax } from '../ops/reduce.js';
import { isFinite } from '../ops/unary.js';
import { reshape } from '../ops/views.js';
import { where } from '../ops/where.js';
import type { KvCache, KvCacheOptions } from '../nn/kv_cache.js';
import { isComplete } from '../runtime/sequence.js';
import { tensor } from '../tensor/create.js';
import { noticeDraws, type Draws, type GeneratorState } from '../tensor/random.js';
import { item } from '../tensor/read.js';
import { keep, scope } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkInteger } from '../util/assert.js';
import { checkSampling, sample, type SamplingOptions } from './sampler.js';
import { TokenStep } from './token_step.js';

/** What generation needs of a tokeniser. */
export interface TextCodec {
  /** Ids of a text. */
  encode(text: string): ArrayLike<number>;
  /** A decoder that holds back incomplete characters. */
  createDecoder(): { push(id: number): string; end(): string };
}

/** Options of a model's caches. */
export interface ModelCacheOptions extends KvCacheOptions {
  /** Positions that fit. Default: the context. */
  readonly capacity?: number;
}

/** What generation needs of a model. */
export interface CausalModel {
  readonly config: { readonly context: number };
  training: boolean;
  /** Switches to evaluation mode. */
  eval(): unknown;
  /** Switches to training mode, or back. */
  train(on?: boolean): unknown;
  /** Logits of the last position, `[B, 1, V]`; the caches take the new keys and values. */
  forward(ids: Tensor, options: { cache: readonly KvCache[]; lastOnly: true }): Tensor;
  /** Empty caches, one a layer. */
  makeCache(batch?: number, options?: ModelCacheOptions): KvCache[];
  /**
   * @internal Looks the model over; what it returns tells later whether `forward` would still make the same calls for one more token,
   * a position further. Null, or no such method: nobody can tell.
   */
  watch?(): (() => boolean) | null;
}

/** Options of {@link generateTokens}. */
export interface GenerateOptions extends SamplingOptions {
  /** Needed for a prompt of text, and for text in the pieces. */
  readonly tokenizer?: TextCodec;
  /** Default: what fits the context. */
  readonly maxNewTokens?: number;
  /** Ids that end the generation; they are not yielded. */
  readonly stopIds?: readonly number[];
  /** How keys and values are kept, in pages or in int8. Default: in the model's dtype, in one piece for the whole context. */
  readonly cache?: ModelCacheOptions;
  /** Stops the generation: the iterator throws the signal's reason. */
  readonly signal?: AbortSignal;
}

/** One generated token. */
export interface GeneratedPiece {
  readonly id: number;
  /** Text that became complete with this token; empty without a tokeniser. */
  readonly text: string;
}

function promptIds(prompt: string | readonly number[], { tokenizer }: GenerateOptions): number[] {
  if (typeof prompt === 'string' && tokenizer === undefined) {
    throw new AttributeError({
      op: 'generate',
      argument: 'tokenizer',
      expected: 'a tokenizer for a prompt of text',
      actual: 'none',
    });
  }
  const ids = typeof prompt === 'string' ? Array.from(tokenizer!.encode(prompt)) : [...prompt];
  if (ids.length === 0) {
    throw new AttributeError({
      op: 'generate',
      argument: 'prompt',
      expected: 'at least one token',
      actual: 'an empty prompt',
    });
  }
  return ids;
}

/**
 * Continues a prompt token by token. The model is in evaluation mode meanwhile and returns to the mode it was in.
 *
 * When the context is full, the older half is dropped and the rest is read again, so generation goes on as long as asked.
 *
 * @throws AttributeError if an option is outside its domain
 * @throws StateError if the model's logits are not finite
 */
export async function* generateTokens(
  model: CausalModel,
  prompt: string | readonly number[],
  options: GenerateOptions,
): AsyncGenerator<GeneratedPiece, void, undefined> {
  checkSampling(options);
  const ids = promptIds(prompt, options);
  const { context } = model.config;
  const limit = checkInteger('generate', 'maxNewTokens', options.maxNewTokens ?? Math.max(1, context - ids.length), 0);
  const decoder = options.tokenizer?.createDecoder();
  const wasTraining = model.training;
  const caches = model.makeCache(1, options.cache ?? {});
  const steps = new Steps(model, caches, options);
  const room = Math.min(context, caches[0]!.capacity);
  let pending = ids.length > room ? ids.slice(-room) : ids;
  try {
    for (let made = 0; made < limit; made++) {
      options.signal?.throwIfAborted();
      if (!steps.isAhead && caches[0]!.length + pending.length > room) {
        for (const cache of caches) cache.truncate(0);
        pending = ids.slice(-Math.max(1, room >> 1));
      }
      const drawn = steps.next(pending);
      let id: number;
      try {
        steps.goAhead(drawn, limit - made - 1, room - caches[0]!.length);
        id = await drawn.id;
      } finally {
        drawn.next.dispose();
      }
      if (id < 0) throw new StateError({ op: 'generate', expected: 'finite logits', actual: 'NaN or infinity' });
      if (options.stopIds?.includes(id)) break;
      ids.push(id);
      pending = [id];
      yield { id, text: decoder?.push(id) ?? '' };
    }
    const rest = decoder?.end() ?? '';
    if (rest !== '') yield { id: ids.at(-1)!, text: rest };
  } finally {
    steps.dispose();
    for (const cache of caches) cache.dispose();
    model.train(wasTraining);
  }
}

/** What a pass and a draw gave. */
interface Drawn {
  /** `[1]`, the id or -1. */
  readonly next: Tensor;
  /** The same for JavaScript: the copy is queued at once, so that it does not wait for passes that are queued behind. */
  readonly id: Promise<number>;
}

function readLater(next: Tensor): Drawn {
  const id = item(next);
  id.catch(() => undefined); // perhaps nobody will wait for it
  return { next, id };
}

/** A pass and a draw that were queued before anybody asked for them. */
interface Ahead extends Drawn {
  /** Streams that it drew from, where they stood before and stand since. */
  readonly draws: Draws;
  readonly drawn: readonly GeneratorState[];
}

/** Forward passes and draws. Nothing is read back for them: a draw from logits that are no numbers becomes -1. */
class Steps {
  /** For one token at a time, made when it is first needed: the model is in evaluation mode then. */
  #single: TokenStep | null = null;
  /** Oldest first. */
  readonly #ahead: Ahead[] = [];

  constructor(
    private readonly model: CausalModel,
    private readonly cache: readonly KvCache[],
    private readonly options: GenerateOptions,
  ) {}

  /** Queues a pass and a draw. Synchronous, so that no other code runs inside its scope. */
  next(pending: readonly number[]): Drawn {
    const ahead = this.#takeAhead(pending.length === 1);
    if (ahead !== null) return ahead;
    if (this.model.training) this.model.eval();
    return scope(() =>
      noGrad(() => {
        const made = pending.length === 1 ? this.#one.next(pending[0]!) : this.#pass(toIds(pending));
        return readLater(keep(this.#isGreedy ? made : this.#draw(made)));
      }),
    );
  }

  /**
   * Queues the pass behind the one that draws a token, before anybody has read that: the queue never runs dry while JavaScript looks at a
   * token. Only where steps are recorded or will be, so that it can be told later whether the pass is still the right one. While the queue has not
   * reached that token, the first one behind a long prompt, those behind it are recorded as well: JavaScript has nothing else to do then, and has no time
   * when they are due.
   *
   * @param wanted - tokens that may still be asked for, those that are queued included
   * @param places - that the caches have left
   */
  goAhead({ next }: Drawn, wanted: number, places: number): void {
    const single = this.#one;
    const { lastUse } = next.storage;
    const isDue = (): boolean =>
      this.#ahead.length === 0 || (this.#ahead.length < single.mostAhead && !isComplete(lastUse));
    const most = Math.min(wanted - this.#ahead.length, places);
    for (let made = 0; made < most && isDue(); made++)
      if (!this.#queueAhead(single, this.#ahead.at(-1)?.next ?? next)) return;
  }

  #queueAhead(single: TokenStep, id: Tensor): boolean {
    const [made, draws] = noticeDraws(() =>
      scope(() =>
        noGrad(() => {
          const result = single.ahead(id);
          if (result === null) return null;
          return keep(this.#isGreedy ? result : this.#draw(result));
        }),
      ),
    );
    if (made === null) return false;
    this.#ahead.push({ ...readLater(made), draws, drawn: [...draws.keys()].map(({ state }) => state) });
    return true;
  }

  /** Whether a pass was queued that nobody has asked for yet: the caches hold its position. */
  get isAhead(): boolean {
    return this.#ahead.length > 0;
  }

  /** The oldest of what {@link goAhead} queued, if it is wanted and the model is as it was then; null, as if nothing had been queued, else. */
  #takeAhead(isWanted: boolean): Drawn | null {
    if (this.#ahead.length === 0) return null;
    if (this.#single!.confirm(isWanted)) return this.#ahead.shift()!;
    for (const { next, draws, drawn } of this.#ahead.splice(0).reverse()) {
      next.dispose();
      for (const [i, [stream, before]] of [...draws].entries()) {
        const { seed, offset } = drawn[i]!;
        if (stream.state.seed === seed && stream.state.offset === offset) stream.state = before; // else others have drawn since
      }
    }
    return null;
  }

  /** The likeliest token is a function of the logits; what is drawn is another at each call. */
  get #isGreedy(): boolean {
    return this.options.temperature === 0;
  }

  get #one(): TokenStep {
    const { model, cache } = this;
    return (this.#single ??= new TokenStep({
      run: (ids) => this.#pass(ids),
      caches: cache,
      givesId: this.#isGreedy,
      isUnchanged: model.watch?.() ?? null,
    }));
  }

  /** Logits `[1, V]`, or the likeliest id `[1]` if that is what is wanted. */
  #pass(ids: Tensor): Tensor {
    const logits = reshape(this.model.forward(ids, { cache: this.cache, lastOnly: true }), [1, -1]);
    return this.#isGreedy ? this.#draw(logits) : logits;
  }

  #draw(logits: Tensor): Tensor {
    return where(isFinite(amax(logits, -1)), sample(logits, this.options), -1);
  }

  dispose(): void {
    this.#takeAhead(false);
    this.#single?.dispose();
  }
}

const toIds = (pending: readonly number[]): Tensor => tensor(Int32Array.from(pending), { shape: [1, pending.length] });
