import { addLayerNorm, addRmsNorm } from '../ops/add_norm.js';
import { add } from '../ops/arithmetic.js';
import { layerNorm, rmsNorm } from '../ops/norm.js';
import { ones, zeros } from '../tensor/create.js';
import { sameShape, type Shape } from '../tensor/shape.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkNumber } from '../util/assert.js';
import { Module, parameter } from './module.js';

/** Options of {@link LayerNorm}. */
export interface LayerNormOptions {
  /** Added to the variance. Default 1e-5. */
  readonly eps?: number;
  /** Learnt scale. Default true. */
  readonly affine?: boolean;
  /** Learnt shift, with `affine`. Default true. */
  readonly bias?: boolean;
}

/** Zero mean and unit variance over the last axes (Ba et al., arXiv 1607.06450). */
export class LayerNorm extends Module {
  readonly normalizedShape: Shape;
  readonly eps: number;
  weight: Tensor | null;
  bias: Tensor | null;

  constructor(normalizedShape: number | Shape, options: LayerNormOptions = {}) {
    super();
    this.normalizedShape = typeof normalizedShape === 'number' ? [normalizedShape] : [...normalizedShape];
    this.eps = checkNumber('LayerNorm', 'eps', options.eps ?? 1e-5, 0);
    const affine = options.affine ?? true;
    this.weight = affine ? parameter(ones(this.normalizedShape)) : null;
    this.bias = affine && (options.bias ?? true) ? parameter(zeros(this.normalizedShape)) : null;
  }

  /** Same shape; the last axes are normalised. */
  forward(x: Tensor): Tensor {
    return layerNorm(x, this.normalizedShape, this.weight, this.bias, this.eps);
  }

  /** x + residual, and what {@link forward} gives for it: in one pass, unless hooks want to see that call. */
  addForward(x: Tensor, residual: Tensor): [sum: Tensor, normalized: Tensor] {
    if (Object.hasOwn(this, 'forward') || !sameShape(x.shape, residual.shape)) {
      const sum = add(x, residual);
      return [sum, this.forward(sum)];
    }
    return addLayerNorm(x, residual, this.normalizedShape, this.weight, this.bias, this.eps);
  }
}

/** Unit root mean square over the last axis, with a learnt scale (Zhang and Sennrich, arXiv 1910.07467). */
export class RMSNorm extends Module {
  readonly eps: number;
  readonly normalizedShape: Shape;
  weight: Tensor;

  constructor(width: number, options: { readonly eps?: number } = {}) {
    super();
    this.normalizedShape = [width];
    this.eps = checkNumber('RMSNorm', 'eps', options.eps ?? 1e-6, 0);
    this.weight = parameter(ones([width]));
  }

  /** Same shape; the last axis is normalised. */
  forward(x: Tensor): Tensor {
    return rmsNorm(x, this.normalizedShape, this.weight, this.eps);
  }

  /** x + residual, and what {@link forward} gives for it: in one pass, unless hooks want to see that call. */
  addForward(x: Tensor, residual: Tensor): [sum: Tensor, normalized: Tensor] {
    if (Object.hasOwn(this, 'forward') || !sameShape(x.shape, residual.shape)) {
      const sum = add(x, residual);
      return [sum, this.forward(sum)];
    }
    return addRmsNorm(x, residual, this.normalizedShape, this.weight, this.eps);
  }
}
