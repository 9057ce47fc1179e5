import { dropout } from '../ops/dropout.js';
import type { Generator } from '../tensor/random.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkNumber } from '../util/assert.js';
import { Module } from './module.js';

/** Zeroes each element with probability `p` while training and scales the others by 1/(1 − p). */
export class Dropout extends Module {
  readonly p: number;
  readonly #generator: Generator | undefined;

  constructor(p = 0.5, options: { readonly generator?: Generator } = {}) {
    super();
    this.p = checkNumber('Dropout', 'p', p, 0, 1);
    this.#generator = options.generator;
  }

  /** Whether {@link forward} is more than the identity: it zeroes elements now, or hooks want to see it. */
  get isActive(): boolean {
    return (this.training && this.p > 0) || this.forward !== Dropout.prototype.forward;
  }

  /** Same shape; `x` itself in evaluation mode. */
  forward(x: Tensor): Tensor {
    if (!this.training || this.p === 0) return x;
    return dropout(x, this.p, {
      training: true,
      ...(this.#generator === undefined ? {} : { generator: this.#generator }),
    });
  }
}
