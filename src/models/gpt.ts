/**
 * A decoder-only transformer.
 *
 * @module
 */
import { AttributeError } from '../errors.js';
import { add } from '../ops/arithmetic.js';
import { expand } from '../ops/broadcast.js';
import { crossEntropy } from '../ops/cross_entropy.js';
import { linearCrossEntropy } from '../ops/linear_cross_entropy.js';
import { linear } from '../ops/linear.js';
import { ropeTables } from '../ops/rope.js';
import { indexSelect } from '../ops/indexing.js';
import { concat } from '../ops/join.js';
import { narrow, reshape, unsqueeze } from '../ops/views.js';
import { TransformerBlock, makeNorm, type NormKind } from '../nn/block.js';
import { Dropout } from '../nn/dropout.js';
import { Embedding } from '../nn/embedding.js';
import { normal_, zeros_ } from '../nn/init.js';
import { KvCache } from '../nn/kv_cache.js';
import { Linear } from '../nn/linear.js';
import { activations, type Activation } from '../nn/mlp.js';
import { Module } from '../nn/module.js';
import type { LayerNorm, RMSNorm } from '../nn/norm.js';
import { QuantizedEmbedding } from '../nn/quantized_embedding.js';
import { watchModules } from '../nn/unchanged.js';
import {
  generateTokens,
  type GenerateOptions,
  type GeneratedPiece,
  type ModelCacheOptions,
} from '../generate/generate.js';
import type { Generator } from '../tensor/random.js';
import { arange } from '../tensor/create.js';
import { keep, scope } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkBoolean, checkInteger, checkKeys, checkNumber, checkOneOf } from '../util/assert.js';
import { positionIds, readCall, type HiddenOptions } from './gpt_inputs.js';

/** Geometry of a {@link GPT}. */
export interface GPTConfig {
  /** Number of token ids. */
  readonly vocabSize: number;
  /** Longest sequence, in tokens. */
  readonly context: number;
  readonly layers: number;
  readonly heads: number;
  /** Width of the residual stream. */
  readonly width: number;
  /** Key and value heads (grouped queries). Default: `heads`. */
  readonly kvHeads?: number;
  /** Width of the feed-forward part. Default 4 × width (swiglu: ⅔ of that). */
  readonly hidden?: number;
  /** Default `gelu` (exact); `geluTanh` is GPT-2's. */
  readonly activation?: Activation;
  /** Default `layerNorm`. */
  readonly norm?: NormKind;
  /** Default 1e-5. */
  readonly normEps?: number;
  /** Learnt position vectors, or rotations of queries and keys. Default `learned`. */
  readonly position?: 'learned' | 'rope';
  /** Base of the rotations. Default 10000. */
  readonly ropeTheta?: number;
  /** Biases in linear layers and norms. Default true. */
  readonly bias?: boolean;
  /** Share the token table with the output layer. Default true. */
  readonly tieEmbeddings?: boolean;
  /** Default 0. */
  readonly dropout?: number;
  /** How keys and values are cached by default: `int8` takes about a quarter of the memory. Default: in the dtype of the token table. */
  readonly cacheDType?: CacheDType;
}

/** How a model may say that its keys and values are cached. */
export type CacheDType = 'float32' | 'bfloat16' | 'float16' | 'int8';

const configKeys = [
  'vocabSize', 'context', 'layers', 'heads', 'width', 'kvHeads', 'hidden', 'activation', 'norm', 'normEps', 'position',
  'ropeTheta', 'bias', 'tieEmbeddings', 'dropout', 'cacheDType',
]; // prettier-ignore

/** A {@link GPTConfig} with its defaults filled in. */
export type ResolvedGPTConfig = Required<Omit<GPTConfig, 'hidden' | 'cacheDType'>> &
  Pick<GPTConfig, 'hidden' | 'cacheDType'>;

/** @throws AttributeError naming the first entry that cannot be */
function resolve(config: GPTConfig): ResolvedGPTConfig {
  checkKeys('GPT', config, configKeys);
  const positive = (key: 'vocabSize' | 'context' | 'layers' | 'heads' | 'width'): number =>
    checkInteger('GPT', key, config[key], 1);
  const [width, heads] = [positive('width'), positive('heads')];
  if (width % heads !== 0) {
    throw new AttributeError({
      op: 'GPT',
      argument: 'heads',
      expected: `a divisor of the width ${width}`,
      actual: String(heads),
    });
  }
  const position = checkOneOf('GPT', 'position', config.position ?? 'learned', ['learned', 'rope']);
  if (position === 'rope' && (width / heads) % 2 !== 0) {
    throw new AttributeError({
      op: 'GPT',
      argument: 'heads',
      expected: 'an even head width for rope',
      actual: `${width / heads}`,
    });
  }
  return {
    vocabSize: positive('vocabSize'),
    context: positive('context'),
    layers: positive('layers'),
    heads,
    width,
    kvHeads: checkInteger('GPT', 'kvHeads', config.kvHeads ?? heads, 1, heads),
    ...(config.hidden === undefined ? {} : { hidden: checkInteger('GPT', 'hidden', config.hidden, 1) }),
    activation: checkOneOf('GPT', 'activation', config.activation ?? 'gelu', activations),
    norm: checkOneOf('GPT', 'norm', config.norm ?? 'layerNorm', ['layerNorm', 'rmsNorm']),
    normEps: checkNumber('GPT', 'normEps', config.normEps ?? 1e-5, 0),
    position,
    ropeTheta: checkNumber('GPT', 'ropeTheta', config.ropeTheta ?? 10000, 1),
    bias: checkBoolean('GPT', 'bias', config.bias ?? true),
    tieEmbeddings: checkBoolean('GPT', 'tieEmbeddings', config.tieEmbeddings ?? true),
    dropout: checkNumber('GPT', 'dropout', config.dropout ?? 0, 0, 1),
    ...(config.cacheDType === undefined
      ? {}
      : { cacheDType: checkOneOf('GPT', 'cacheDType', config.cacheDType, ['float32', 'bfloat16', 'float16', 'int8']) }),
  };
}

/** Options of {@link GPT.forward}. */
export interface ForwardOptions extends HiddenOptions {
  /** Logits of the last position only. Default false. */
  readonly lastOnly?: boolean;
}

/**
 * A GPT: token and position vectors, pre-norm transformer blocks, logits over the vocabulary. GPT-2's geometry by default;
 * `{ norm: 'rmsNorm', position: 'rope', activation: 'swiglu', bias: false }` gives Llama's.
 *
 * Initial values as GPT-2's: normal with std 0.02, projections into the residual stream divided by √(2 · layers).
 */
export class GPT extends Module {
  readonly config: ResolvedGPTConfig;
  readonly tokens: Embedding;
  readonly positions: Embedding | null;
  readonly dropout: Dropout;
  readonly blocks: readonly TransformerBlock[];
  readonly norm: LayerNorm | RMSNorm;
  readonly head: Linear | null;
  /** 0, 1, 2, …: of learnt positions. */
  readonly #places: Tensor | null;
  readonly #rotary: { readonly cos: Tensor; readonly sin: Tensor } | null;

  constructor(config: GPTConfig, options: { readonly generator?: Generator } = {}) {
    super();
    this.config = resolve(config);
    const { vocabSize, context, layers, heads, width, position, norm, normEps, bias, tieEmbeddings } = this.config;
    this.tokens = new Embedding(vocabSize, width, { std: 0.02, ...options });
    this.positions = position === 'learned' ? new Embedding(context, width, { std: 0.02, ...options }) : null;
    this.dropout = new Dropout(this.config.dropout, options);
    this.blocks = Array.from(
      { length: layers },
      () => new TransformerBlock(width, heads, { ...this.config, causal: true, ...options }),
    );
    this.norm = makeNorm(norm, width, normEps, bias);
    this.head = tieEmbeddings ? null : new Linear(width, vocabSize, { bias: false, ...options });
    this.#places = position === 'learned' ? keep(arange(context)) : null;
    this.#rotary =
      position === 'rope' ? keep(ropeTables(context, width / heads, { theta: this.config.ropeTheta })) : null;
    this.apply((module, path) => {
      if (!(module instanceof Linear)) return;
      const intoResidual = /\.(o|down)$/.test(path);
      normal_(module.weight, 0, intoResidual ? 0.02 / Math.sqrt(2 * layers) : 0.02, options.generator);
      if (module.bias !== null) zeros_(module.bias);
    });
  }

  /**
   * Logits for ids.
   *
   * Shapes: ids `[B, T]` (int32 or int64) → `[B, T, vocabSize]` (`[B, 1, vocabSize]` with `lastOnly`).
   *
   * @throws ShapeError if a sequence is longer than the context, or an option has another shape
   * @throws AttributeError for options that do not go together
   */
  forward(ids: Tensor, options: ForwardOptions = {}): Tensor {
    const { lastOnly = false, ...rest } = options;
    return scope(() => {
      const x = this.hidden(ids, rest);
      const wanted = lastOnly ? narrow(x, 1, x.shape[1]! - 1, 1) : x;
      return this.logits(wanted);
    });
  }

  /**
   * Output of the last block after the final norm: ids `[B, T]` → `[B, T, width]`.
   *
   * @throws ShapeError if a sequence is longer than the context, or an option has another shape
   * @throws AttributeError for options that do not go together
   */
  hidden(ids: Tensor, options: HiddenOptions = {}): Tensor {
    const { cache, prefix } = options;
    return scope(() => {
      const call = readCall(ids, options, this.config);
      const { prompt, positions, first, time, offsets } = call;
      let x = this.tokens.forward(call.ids);
      const front = prompt?.shape[0] ?? 0;
      if (prompt !== null) x = concat([expand(unsqueeze(prompt, 0), [ids.shape[0]!, ...prompt.shape]), x], 1);
      if (this.positions !== null) x = add(x, this.positions.forward(positionIds(call, this.#places!)));
      x = this.dropout.forward(x);
      const rows = (table: Tensor): Tensor => {
        if (positions === null) return narrow(table, 0, first, time);
        const batch = positions.rank === 2 ? [positions.shape[0]!, 1] : [];
        return reshape(indexSelect(table, 0, reshape(positions, [-1])), [...batch, time, -1]);
      };
      const rotary =
        this.#rotary === null ? {} : { rotary: { cos: rows(this.#rotary.cos), sin: rows(this.#rotary.sin) } };
      for (const [i, block] of this.blocks.entries()) {
        const own = prefix?.[i];
        const layerCache = cache?.[i];
        const next = block.forward(x, {
          ...rotary,
          ...(offsets === null ? {} : { offsets }),
          ...(own === undefined ? {} : { prefix: own }),
          ...(layerCache === undefined ? {} : { cache: layerCache }),
        });
        x.dispose(); // the record keeps what the gradient needs
        x = next;
      }
      const wanted = front === 0 ? x : narrow(x, 1, front, time - front);
      const y = this.norm.forward(wanted);
      return offsets === null ? y : reshape(y, [...ids.shape, this.config.width]);
    });
  }

  /** Logits of hidden states: `[…, width]` → `[…, vocabSize]`. */
  logits(x: Tensor): Tensor {
    if (this.head !== null) return this.head.forward(x);
    const { frozenTokens } = this;
    return frozenTokens === null ? linear(x, this.tokens.weight) : frozenTokens.logits(x);
  }

  /**
   * Mean cross-entropy of predicting `targets` (nats a token): a scalar. Targets of -100 do not count. Not all logits are held at a
   * time, unless a hook wants to see them.
   *
   * Shapes: ids and targets `[B, T]`.
   */
  loss(ids: Tensor, targets: Tensor, options: HiddenOptions = {}): Tensor {
    return scope(() => {
      const { frozenTokens } = this;
      if (frozenTokens !== null && this.head === null && this.isPlain)
        return frozenTokens.crossEntropy(this.hidden(ids, options), targets);
      const weight = this.plainHead();
      if (weight !== null) return linearCrossEntropy(this.hidden(ids, options), weight, targets);
      return crossEntropy(this.forward(ids, options), targets);
    });
  }

  /** The token table, if it was made smaller (`quantize` or `sparsify` with `embeddings`). */
  private get frozenTokens(): QuantizedEmbedding | null {
    const tokens: unknown = this.tokens;
    return tokens instanceof QuantizedEmbedding ? tokens : null;
  }

  /** Whether no hook wants to see logits. */
  private get isPlain(): boolean {
    return this.forward === GPT.prototype.forward && this.logits === GPT.prototype.logits;
  }

  /** The output layer's matrix, if nobody needs to see the logits: no hook, and no other kind of layer in its place. */
  private plainHead(): Tensor | null {
    if (!this.isPlain) return null;
    const { head } = this;
    if (head === null) return this.tokens.weight;
    const isPlain = Object.getPrototypeOf(head) === Linear.prototype && !Object.hasOwn(head, 'forward');
    return isPlain && head.bias === null ? head.weight : null;
  }

  /**
   * Empty caches for {@link forward}, one a layer: in one piece, or `{ paged: true }` for memory that grows with what is held,
   * or `{ dtype: 'int8' }` for about a quarter of it. Dispose of them afterwards.
   */
  makeCache(batch = 1, options: ModelCacheOptions = {}): KvCache[] {
    const { context, cacheDType } = this.config;
    const { capacity = context, ...rest } = options;
    const own = { dtype: cacheDType ?? (this.frozenTokens ?? this.tokens.weight).dtype, ...rest };
    return this.blocks.map(
      ({ attention: { kvHeads, headWidth } }) => new KvCache(batch, kvHeads, capacity, headWidth, own),
    );
  }

  protected override release(): void {
    for (const table of [this.#places, this.#rotary?.cos, this.#rotary?.sin]) table?.dispose();
  }

  /** @internal See {@link CausalModel.watch}. */
  watch(): (() => boolean) | null {
    return watchModules(this, [GPT]);
  }

  /**
   * Continues a prompt: an async iterator of pieces. Keys and values are cached, the event loop stays free, `signal` stops it. After
   * three tokens the calls of a step are recorded and run again as one, until something about the model changes.
   *
   * @example
   * ```ts
   * for await (const piece of gpt.generate('interface ', { tokenizer, maxNewTokens: 50 })) process.stdout.write(piece.text);
   * ```
   */
  generate(
    prompt: string | readonly number[],
    options: GenerateOptions = {},
  ): AsyncGenerator<GeneratedPiece, void, undefined> {
    return generateTokens(this, prompt, options);
  }
}
