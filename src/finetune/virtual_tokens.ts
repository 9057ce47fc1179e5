/**
 * Prompt tuning and prefix tuning: trained vectors in front of every sequence, of a model that stays as it is.
 */
import { AttributeError, StateError } from '../errors.js';
import { noGrad } from '../autograd/grad.js';
import {
  generateTokens,
  type GenerateOptions,
  type GeneratedPiece,
  type ModelCacheOptions,
} from '../generate/generate.js';
import type { ForwardOptions, GPT } from '../models/gpt.js';
import type { HiddenOptions } from '../models/gpt_inputs.js';
import type { KeyValues } from '../nn/attention.js';
import { normal_ } from '../nn/init.js';
import type { KvCache } from '../nn/kv_cache.js';
import { Linear } from '../nn/linear.js';
import { Module, parameter } from '../nn/module.js';
import { tanh } from '../ops/activation.js';
import { clone } from '../ops/copy.js';
import { embedding } from '../ops/embedding.js';
import { concat } from '../ops/join.js';
import { narrow, reshape, transpose } from '../ops/views.js';
import { empty, tensor } from '../tensor/create.js';
import type { Generator } from '../tensor/random.js';
import { scope } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkBoolean, checkInteger, checkKeys } from '../util/assert.js';
import { during } from './during.js';
import { checkAdapterName } from './lora_linear.js';

/** Options of {@link promptTuning}. */
export interface PromptOptions {
  /** Virtual tokens. Default 20. */
  readonly length?: number;
  /** Begin with the vectors of these tokens, over and over (a text that says what to do). Default: random, std 0.02. */
  readonly ids?: ArrayLike<number>;
  /** Stream of the initial values. */
  readonly generator?: Generator;
  /** Default `default`. */
  readonly name?: string;
}

/** Options of {@link prefixTuning}. */
export interface PrefixOptions {
  /** Virtual tokens. Default 20. */
  readonly length?: number;
  /**
   * Width of the hidden layer of the network that makes keys and values of smaller vectors (steadier training); 0: train keys and values
   * themselves. Default: the model's width.
   */
  readonly hidden?: number;
  /** Stream of the initial values. */
  readonly generator?: Generator;
  /** Default `default`. */
  readonly name?: string;
}

/** Virtual tokens as vectors in front of the tokens': `[length, width]`. */
export class PromptEmbedding extends Module {
  readonly length: number;
  embedding: Tensor;

  constructor(length: number, width: number, generator?: Generator) {
    super();
    this.length = length;
    this.embedding = parameter(normal_(empty([length, width]), 0, 0.02, generator));
  }

  /** `[length, width]`. */
  forward(): Tensor {
    return this.embedding;
  }
}

/** Virtual tokens as keys and values of every layer: `[length, layers · 2 · width]`, key before value. */
export class PrefixEncoder extends Module {
  readonly length: number;
  embedding: Tensor;
  /** Width of the vectors → hidden. */
  readonly up: Linear | null;
  /** Hidden → keys and values. */
  readonly out: Linear | null;

  constructor(length: number, layers: number, width: number, hidden: number, generator?: Generator) {
    super();
    this.length = length;
    const total = layers * 2 * width;
    const options = generator === undefined ? {} : { generator };
    this.embedding = parameter(normal_(empty([length, hidden === 0 ? total : width]), 0, 1, generator));
    this.up = hidden === 0 ? null : new Linear(width, hidden, options);
    this.out = hidden === 0 ? null : new Linear(hidden, total, options);
  }

  /** `[length, layers · 2 · width]`. */
  forward(): Tensor {
    if (this.up === null || this.out === null) return this.embedding;
    return scope(() => this.out!.forward(tanh(this.up!.forward(this.embedding))));
  }
}

/** Parts by name. */
/** Virtual tokens by name. */
export class VirtualTokenSets extends Module {
  readonly parts = new Map<string, PromptEmbedding | PrefixEncoder>();

  override *children(): globalThis.Generator<[name: string, part: Module | Tensor]> {
    yield* this.parts;
  }

  forward(): never {
    throw new StateError({ op: 'virtual', expected: 'a call of the model', actual: 'a call of its list of parts' });
  }
}

/**
 * A GPT with virtual tokens in front of every sequence; it takes the GPT's place in `Trainer` and `generate`. Several sets of them may
 * be there by name; active ones stand behind each other. Virtual tokens take positions, so the context is shorter by their number.
 */
export class VirtualTokenModel extends Module {
  readonly base: GPT;
  readonly virtual = new VirtualTokenSets();
  #active: readonly string[] = [];

  constructor(base: GPT) {
    super();
    this.base = base;
  }

  get config(): GPT['config'] {
    return this.base.config;
  }

  /** Names of the sets, and of the active ones in their order. */
  get sets(): { readonly names: string[]; readonly active: readonly string[] } {
    return { names: [...this.virtual.parts.keys()], active: this.#active };
  }

  /** @internal Registers a set; it does not train until it is made active. */
  add(op: string, name: string, part: PromptEmbedding | PrefixEncoder): void {
    checkAdapterName(op, name);
    if (this.virtual.parts.has(name)) {
      throw new StateError({ op, argument: 'name', expected: 'a new name', actual: JSON.stringify(name) });
    }
    part.freeze();
    this.virtual.parts.set(name, part);
  }

  /** A set by its name. @throws StateError if there is none */
  part(name: string): PromptEmbedding | PrefixEncoder {
    const found = this.virtual.parts.get(name);
    if (found !== undefined) return found;
    const expected = `one of ${[...this.virtual.parts.keys()].join(', ') || '(there are none)'}`;
    throw new StateError({ op: 'VirtualTokenModel', argument: 'name', expected, actual: JSON.stringify(name) });
  }

  /**
   * Says which sets stand in front, in this order; the others do not train. None: the model as it was.
   *
   * @throws StateError if there is no such set
   * @throws AttributeError if they take more than half of the context
   */
  setActive(names: string | readonly string[], options: { readonly trainable?: boolean } = {}): void {
    const op = 'VirtualTokenModel.setActive';
    checkKeys(op, options, ['trainable']);
    const trainable = checkBoolean(op, 'trainable', options.trainable ?? true);
    const list = typeof names === 'string' ? [names] : [...names];
    const length = list.reduce((sum, name) => sum + this.part(name).length, 0);
    if (length > this.config.context / 2) {
      const expected = `at most ${Math.floor(this.config.context / 2)} virtual tokens, half of the context`;
      throw new AttributeError({ op, argument: 'names', expected, actual: String(length) });
    }
    for (const [name, part] of this.virtual.parts) {
      for (const weight of part.parameters()) weight.requiresGrad = trainable && list.includes(name);
    }
    this.#active = list;
  }

  /** Takes a set away and frees it. @throws StateError if there is none of that name */
  remove(name: string): void {
    this.part(name).dispose();
    this.virtual.parts.delete(name);
    this.#active = this.#active.filter((active) => active !== name);
  }

  /** Runs `body` without virtual tokens; they come back after it, or when its promise settles. */
  without<T>(body: () => T): T {
    const active = this.#active;
    const restore = (): void => {
      this.#active = active;
    };
    this.#active = [];
    return during(body, restore);
  }

  /** Number of active virtual tokens. */
  get length(): number {
    return this.#active.reduce((sum, name) => sum + this.part(name).length, 0);
  }

  /** What goes in front; nothing behind positions that a cache holds. */
  private front({ cache }: HiddenOptions): HiddenOptions {
    if ((cache?.[0]?.length ?? 0) > 0) return {};
    const parts = this.#active.map((name) => this.part(name));
    const prompts = parts.filter((part) => part instanceof PromptEmbedding).map((part) => part.forward());
    const flats = parts.filter((part) => part instanceof PrefixEncoder).map((part) => part.forward());
    return {
      ...(prompts.length === 0 ? {} : { prompt: prompts.length === 1 ? prompts[0]! : concat(prompts) }),
      ...(flats.length === 0 ? {} : { prefix: this.keyValues(flats.length === 1 ? flats[0]! : concat(flats)) }),
    };
  }

  /** `[P, layers · 2 · kvHeads · headWidth]` as a pair a layer, each `[1, kvHeads, P, headWidth]`. */
  private keyValues(flat: Tensor): KeyValues[] {
    const { layers, kvHeads, width, heads } = this.config;
    const size = kvHeads * (width / heads);
    const side = (i: number): Tensor => {
      const rows = reshape(narrow(flat, 1, i * size, size), [1, flat.shape[0]!, kvHeads, width / heads]);
      return transpose(rows, 1, 2);
    };
    return Array.from({ length: layers }, (_, i) => ({ k: side(2 * i), v: side(2 * i + 1) }));
  }

  /** As {@link GPT.forward}; virtual tokens give no output. */
  forward(ids: Tensor, options: ForwardOptions = {}): Tensor {
    return scope(() => this.base.forward(ids, { ...options, ...this.front(options) }));
  }

  /** As {@link GPT.hidden}. */
  hidden(ids: Tensor, options: HiddenOptions = {}): Tensor {
    return scope(() => this.base.hidden(ids, { ...options, ...this.front(options) }));
  }

  /** As {@link GPT.loss}. */
  loss(ids: Tensor, targets: Tensor, options: HiddenOptions = {}): Tensor {
    return scope(() => this.base.loss(ids, targets, { ...options, ...this.front(options) }));
  }

  /** As {@link GPT.makeCache}. The first call with a cache puts the virtual tokens into it. */
  makeCache(batch = 1, options: ModelCacheOptions = {}): KvCache[] {
    return this.base.makeCache(batch, options);
  }

  /** As {@link GPT.generate}; of a prompt that does not fit behind the virtual tokens, the end counts. */
  generate(
    prompt: string | readonly number[],
    options: GenerateOptions = {},
  ): AsyncGenerator<GeneratedPiece, void, undefined> {
    const { context } = this.config;
    const ids =
      typeof prompt === 'string' && options.tokenizer !== undefined
        ? Array.from(options.tokenizer.encode(prompt))
        : prompt;
    const room = Math.min(context, options.cache?.capacity ?? context) - this.length;
    const given = typeof ids === 'string' ? ids : ids.slice(-Math.max(1, room));
    const left = typeof given === 'string' ? {} : { maxNewTokens: Math.max(1, context - this.length - given.length) };
    return generateTokens(this, given, { ...left, ...options });
  }
}

const modelOf = (base: GPT | VirtualTokenModel): VirtualTokenModel =>
  base instanceof VirtualTokenModel ? base : new VirtualTokenModel(base);

function finish(
  op: string,
  model: VirtualTokenModel,
  name: string,
  part: PromptEmbedding | PrefixEncoder,
): VirtualTokenModel {
  model.add(op, name, part);
  model.base.freeze();
  model.setActive(name);
  return model;
}

/**
 * Prompt tuning: trains the vectors of `length` virtual tokens in front of every sequence, and nothing else. Returns a model around the
 * given one; of a model that has virtual tokens already, the same with one more set, which is the active one.
 *
 * @throws AttributeError if an option cannot be
 * @throws StateError if there is a set of that name
 * @source Lester et al. 2021, arXiv 2104.08691
 */
export function promptTuning(base: GPT | VirtualTokenModel, options: PromptOptions = {}): VirtualTokenModel {
  const op = 'promptTuning';
  checkKeys(op, options, ['length', 'ids', 'generator', 'name']);
  const length = checkInteger(op, 'length', options.length ?? 20, 1);
  const model = modelOf(base);
  const { width, vocabSize } = model.config;
  const part = new PromptEmbedding(length, width, options.generator);
  const { ids } = options;
  if (ids !== undefined) {
    if (ids.length === 0) throw new AttributeError({ op, argument: 'ids', expected: 'some', actual: 'none' });
    const wanted = Int32Array.from({ length }, (_, i) =>
      checkInteger(op, 'ids', ids[i % ids.length], 0, vocabSize - 1),
    );
    part.embedding.dispose();
    part.embedding = parameter(scope(() => noGrad(() => clone(embedding(model.base.tokens.weight, tensor(wanted))))));
  }
  return finish(op, model, options.name ?? 'default', part);
}

/**
 * Prefix tuning: trains keys and values of `length` virtual tokens in every layer, by way of a small network (which is not saved), and
 * nothing else. Returns a model around the given one, as {@link promptTuning}.
 *
 * @throws AttributeError if an option cannot be
 * @throws StateError if there is a set of that name
 * @source Li and Liang 2021, arXiv 2101.00190
 */
export function prefixTuning(base: GPT | VirtualTokenModel, options: PrefixOptions = {}): VirtualTokenModel {
  const op = 'prefixTuning';
  checkKeys(op, options, ['length', 'hidden', 'generator', 'name']);
  const length = checkInteger(op, 'length', options.length ?? 20, 1);
  const model = modelOf(base);
  const { layers, width, heads, kvHeads } = model.config;
  const hidden = checkInteger(op, 'hidden', options.hidden ?? width, 0);
  const part = new PrefixEncoder(length, layers, kvHeads * (width / heads), hidden, options.generator);
  return finish(op, model, options.name ?? 'default', part);
}
