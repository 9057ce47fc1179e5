import { applyEnd, linear, type LinearEnd } from '../ops/linear.js';
import type { DType } from '../tensor/dtype.js';
import type { Generator } from '../tensor/random.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkInteger } from '../util/assert.js';
import { kaimingUniform_, uniform_, unfilled } from './init.js';
import { Module, parameter } from './module.js';

/** Options of {@link Linear}. */
export interface LinearOptions {
  /** Default true. */
  readonly bias?: boolean;
  /** Default float32. */
  readonly dtype?: DType;
  /** Stream of the initial values. Default: the shared one. */
  readonly generator?: Generator;
}

/**
 * y = x·Wᵀ + b. Initial values as PyTorch's: uniform within ±1/√in.
 *
 * Shapes: x `[…, in]` → `[…, out]`; `weight` `[out, in]`, `bias` `[out]`.
 */
export class Linear extends Module {
  readonly inFeatures: number;
  readonly outFeatures: number;
  weight: Tensor;
  bias: Tensor | null;
  /**
   * The pattern that the zeros of a pruned weight follow, as data: `'unstructured'`, `'block:32'`, `'2:4'`. Null: not pruned. Files of
   * models keep it.
   */
  pruned: string | null = null;

  constructor(inFeatures: number, outFeatures: number, options: LinearOptions = {}) {
    super();
    this.inFeatures = checkInteger('Linear', 'inFeatures', inFeatures, 0);
    this.outFeatures = checkInteger('Linear', 'outFeatures', outFeatures, 0);
    const dtype = options.dtype === undefined ? {} : { dtype: options.dtype };
    this.weight = parameter(kaimingUniform_(unfilled([outFeatures, inFeatures], dtype), undefined, options.generator));
    const bound = inFeatures > 0 ? 1 / Math.sqrt(inFeatures) : 0;
    this.bias =
      (options.bias ?? true)
        ? parameter(uniform_(unfilled([outFeatures], dtype), -bound, bound, options.generator))
        : null;
  }

  /** A layer that takes over a weight `[out, in]` and a bias `[out]`; both become parameters. */
  static of(weight: Tensor, bias: Tensor | null = null): Linear {
    const layer = new Linear(0, 0, { bias: false });
    layer.dispose();
    const [outFeatures, inFeatures] = weight.shape as [number, number];
    Object.assign(layer, { inFeatures, outFeatures, weight: parameter(weight) });
    if (bias !== null) layer.bias = parameter(bias);
    return layer;
  }

  /** `[…, in]` → `[…, out]`. */
  forward(x: Tensor): Tensor {
    return linear(x, this.weight, this.bias);
  }

  /** What {@link forward} gives, with an activation and a residual: in one call, unless hooks want to see that result. */
  endForward(x: Tensor, end: LinearEnd): Tensor {
    return this.forward === Linear.prototype.forward
      ? linear(x, this.weight, this.bias, end)
      : applyEnd(this.forward(x), end);
  }
}
