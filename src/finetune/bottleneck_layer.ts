/**
 * Bottlenecks behind a module: their arithmetic.
 */
import { Linear } from '../nn/linear.js';
import { zeros_ } from '../nn/init.js';
import { Module } from '../nn/module.js';
import { noGrad } from '../autograd/grad.js';
import { gelu, relu, silu, tanh } from '../ops/activation.js';
import { add, mul } from '../ops/arithmetic.js';
import { le } from '../ops/comparison.js';
import { copy_ } from '../ops/copy.js';

import { abs, clamp } from '../ops/unary.js';
import { where } from '../ops/where.js';
import { randn, type Generator as Stream } from '../tensor/random.js';
import { scope } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';

/** Non-linearity of a bottleneck. */
export type BottleneckActivation = 'relu' | 'gelu' | 'silu' | 'tanh';
/** @internal */
export const bottleneckActivations: readonly BottleneckActivation[] = ['relu', 'gelu', 'silu', 'tanh'];

const functions: Readonly<Record<BottleneckActivation, (x: Tensor) => Tensor>> = { relu, gelu, silu, tanh };

/** Normal numbers of which none lies beyond two standard deviations: those that do are drawn again. */
function truncatedNormal_(tensor: Tensor, std: number, generator: Stream | undefined): void {
  scope(() =>
    noGrad(() => {
      const options = generator === undefined ? {} : { generator };
      let x = randn(tensor.shape, options);
      // One number in 22 lies beyond; after five draws, one in five million, which is put on the border.
      for (let i = 0; i < 4; i++) x = where(le(abs(x), 2), x, randn(tensor.shape, options));
      copy_(tensor, mul(clamp(x, -2, 2), std));
    }),
  );
}

/** One bottleneck: up(activation(down(x))). Its change is added to x by {@link BottleneckSet}. */
export class BottleneckAdapter extends Module {
  readonly down: Linear;
  readonly up: Linear;
  readonly activation: BottleneckActivation;

  constructor(width: number, size: number, activation: BottleneckActivation, generator?: Stream) {
    super();
    this.activation = activation;
    const options = generator === undefined ? {} : { generator };
    this.down = new Linear(width, size, options);
    this.up = new Linear(size, width, options);
    for (const layer of [this.down, this.up]) {
      truncatedNormal_(layer.weight, 1e-2, generator);
      zeros_(layer.bias!);
    }
  }

  /** `[…, width]` → `[…, width]`. */
  forward(x: Tensor): Tensor {
    return this.up.forward(functions[this.activation](this.down.forward(x)));
  }
}

/** Bottlenecks behind one module, by name: x + Σ factor · adapter(x) over those that are active. */
export class BottleneckSet extends Module {
  /** All there are. */
  readonly adapters = new Map<string, BottleneckAdapter>();
  /** Those that work, with their weights. */
  active: ReadonlyMap<string, number> = new Map();

  override *children(): Generator<[name: string, part: Module | Tensor]> {
    yield* this.adapters;
  }

  /** `[…, width]` → `[…, width]`. */
  forward(x: Tensor): Tensor {
    return scope(() => {
      let y = x;
      for (const [name, factor] of this.active) {
        const change = this.adapters.get(name)?.forward(x);
        if (change !== undefined && factor !== 0) y = add(y, factor === 1 ? change : mul(change, factor));
      }
      return y;
    });
  }
}
