import { add } from '../ops/arithmetic.js';
import { scope } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkOneOf } from '../util/assert.js';
import { MultiHeadAttention, type AttentionContext, type AttentionOptions } from './attention.js';
import { Dropout } from './dropout.js';
import { Mlp, type Activation } from './mlp.js';
import { Module } from './module.js';
import { LayerNorm, RMSNorm } from './norm.js';

/** Which normalisation a block uses. */
export type NormKind = 'layerNorm' | 'rmsNorm';

/** Options of {@link TransformerBlock}. */
export interface BlockOptions extends AttentionOptions {
  /** Width of the feed-forward part. Default 4 × width (for swiglu ⅔ of that, in multiples of 64). */
  readonly hidden?: number;
  /** Default `gelu`. */
  readonly activation?: Activation;
  /** Default `layerNorm`. */
  readonly norm?: NormKind;
  readonly normEps?: number;
  /** Probability of dropout after attention and after the feed-forward part. Default 0. */
  readonly dropout?: number;
}

/** @internal A normalisation layer of the named kind. */
export function makeNorm(kind: NormKind, width: number, eps: number | undefined, bias: boolean): LayerNorm | RMSNorm {
  checkOneOf('norm', 'norm', kind, ['layerNorm', 'rmsNorm']);
  const options = eps === undefined ? {} : { eps };
  return kind === 'layerNorm' ? new LayerNorm(width, { ...options, bias }) : new RMSNorm(width, options);
}

/** Default width of the feed-forward part. */
export function defaultHidden(width: number, activation: Activation): number {
  return activation === 'swiglu' ? Math.ceil((8 * width) / 3 / 64) * 64 : 4 * width;
}

/**
 * A pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x)) (Radford et al. 2019).
 *
 * Shapes: x `[B, T, C]` → `[B, T, C]`. What the gradient does not need is freed before the block returns.
 */
export class TransformerBlock extends Module {
  readonly attentionNorm: LayerNorm | RMSNorm;
  readonly attention: MultiHeadAttention;
  readonly mlpNorm: LayerNorm | RMSNorm;
  readonly mlp: Mlp;
  readonly dropout: Dropout;

  constructor(width: number, heads: number, options: BlockOptions = {}) {
    super();
    const activation = options.activation ?? 'gelu';
    const norm = options.norm ?? 'layerNorm';
    const bias = options.bias ?? true;
    this.attentionNorm = makeNorm(norm, width, options.normEps, bias);
    this.attention = new MultiHeadAttention(width, heads, options);
    this.mlpNorm = makeNorm(norm, width, options.normEps, bias);
    this.mlp = new Mlp(width, options.hidden ?? defaultHidden(width, activation), { ...options, activation });
    this.dropout = new Dropout(
      options.dropout ?? 0,
      options.generator === undefined ? {} : { generator: options.generator },
    );
  }

  /** `[B, T, width]` → `[B, T, width]`. */
  forward(x: Tensor, context: AttentionContext = {}): Tensor {
    const [attended, normalized] = scope(() => {
      const change = this.dropout.forward(this.attention.forward(this.attentionNorm.forward(x), context));
      return this.mlpNorm.addForward(x, change);
    });
    const result = scope(() =>
      this.dropout.isActive || !(this.mlp instanceof Mlp)
        ? add(attended, this.dropout.forward((this.mlp as Mlp).forward(normalized)))
        : this.mlp.addForward(normalized, attended),
    );
    normalized.dispose();
    attended.dispose();
    return result;
  }
}
