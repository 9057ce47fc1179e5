import { add } from '../ops/arithmetic.js';
import { applyEnd, type LinearEnd } from '../ops/linear.js';
import { swiglu } from '../ops/swiglu.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkOneOf } from '../util/assert.js';
import { Linear, type LinearOptions } from './linear.js';
import { Module } from './module.js';

/** Non-linearity of the feed-forward part. */
export type Activation = 'gelu' | 'geluTanh' | 'swiglu';
/** Every {@link Activation}. */
export const activations: readonly Activation[] = ['gelu', 'geluTanh', 'swiglu'];

/** Whatever took a Linear's place and has no end of its own (weight-only, sparse) is called as it is. */
function withEnd(layer: Linear, x: Tensor, end: LinearEnd): Tensor {
  const fused = (layer as Partial<Linear>).endForward;
  return fused === undefined ? applyEnd(layer.forward(x), end) : fused.call(layer, x, end);
}

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
    return withEnd(this.down, this.inner(x), {});
  }

  /** residual + what {@link forward} gives: the sum costs no pass of its own, unless hooks want to see that result. */
  addForward(x: Tensor, residual: Tensor): Tensor {
    if (this.forward !== Mlp.prototype.forward) return add(residual, this.forward(x));
    return withEnd(this.down, this.inner(x), { residual });
  }

  private inner(x: Tensor): Tensor {
    if (this.gate !== null) return swiglu(this.gate.forward(x), this.up.forward(x));
    return withEnd(this.up, x, { activation: this.activation === 'gelu' ? 'gelu' : 'geluTanh' });
  }
}
