import { gelu } from '../ops/activation.js';
import { swiglu } from '../ops/swiglu.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkOneOf } from '../util/assert.js';
import { Linear, type LinearOptions } from './linear.js';
import { Module } from './module.js';

/** Non-linearity of the feed-forward part. */
export type Activation = 'gelu' | 'geluTanh' | 'swiglu';
/** Every {@link Activation}. */
export const activations: readonly Activation[] = ['gelu', 'geluTanh', 'swiglu'];

/**
 * The feed-forward part of a transformer block: down(activation(up(x))), or, for `swiglu`, down(silu(gate(x)) · up(x))
 * (Shazeer, arXiv 2002.05202).
 *
 * Shapes: x `[…, width]` → `[…, width]`, through `[…, hidden]`.
 */
export class Mlp extends Module {
  readonly activation: Activation;
  readonly up: Linear;
  readonly gate: Linear | null;
  readonly down: Linear;

  constructor(width: number, hidden: number, options: LinearOptions & { readonly activation?: Activation } = {}) {
    super();
    this.activation = checkOneOf('Mlp', 'activation', options.activation ?? 'gelu', activations);
    this.up = new Linear(width, hidden, options);
    this.gate = this.activation === 'swiglu' ? new Linear(width, hidden, options) : null;
    this.down = new Linear(hidden, width, options);
  }

  /** `[…, width]` → `[…, width]`. */
  forward(x: Tensor): Tensor {
    const up = this.up.forward(x);
    if (this.gate !== null) return this.down.forward(swiglu(this.gate.forward(x), up));
    return this.down.forward(gelu(up, { approximate: this.activation === 'gelu' ? 'none' : 'tanh' }));
  }
}
