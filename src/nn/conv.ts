import { conv1d, conv2d, type Conv1dOptions, type Conv2dOptions } from '../ops/conv.js';
import type { Generator } from '../tensor/random.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkInteger } from '../util/assert.js';
import { kaimingUniform_, uniform_, unfilled } from './init.js';
import { Module, parameter } from './module.js';

/** Options of {@link Conv1d} and {@link Conv2d}. */
export interface ConvLayerOptions {
  /** Default true. */
  readonly bias?: boolean;
  readonly generator?: Generator;
}

/** What both convolutions hold: a weight `[out, in/groups, …kernel]` and a bias `[out]`, initialised as PyTorch does. */
abstract class Conv extends Module {
  weight: Tensor;
  bias: Tensor | null;

  constructor(
    op: string,
    inChannels: number,
    outChannels: number,
    kernel: readonly number[],
    options: ConvLayerOptions & { readonly groups?: number },
  ) {
    super();
    const { bias = true, generator } = options;
    const groups = checkInteger(op, 'groups', options.groups ?? 1, 1);
    checkInteger(op, 'inChannels', inChannels, 1);
    checkInteger(op, 'outChannels', outChannels, 1);
    for (const length of kernel) checkInteger(op, 'kernelSize', length, 1);
    const shape = [outChannels, checkInteger(op, 'inChannels / groups', inChannels / groups, 1), ...kernel];
    this.weight = parameter(kaimingUniform_(unfilled(shape), undefined, generator));
    const bound = 1 / Math.sqrt(shape.slice(1).reduce((product, length) => product * length, 1));
    this.bias = bias ? parameter(uniform_(unfilled([outChannels]), -bound, bound, generator)) : null;
  }
}

/** Convolution over time. Shapes: x `[N, in, T]` → `[N, out, T']`. */
export class Conv1d extends Conv {
  readonly options: Conv1dOptions;

  constructor(
    inChannels: number,
    outChannels: number,
    kernelSize: number,
    options: ConvLayerOptions & Conv1dOptions = {},
  ) {
    super('Conv1d', inChannels, outChannels, [kernelSize], options);
    const { bias: _bias, generator: _generator, ...rest } = options;
    this.options = rest;
  }

  /** `[N, inChannels, L]` → `[N, outChannels, L′]`. */
  forward(x: Tensor): Tensor {
    return conv1d(x, this.weight, this.bias, this.options);
  }
}

/** Convolution over an image. Shapes: x `[N, in, H, W]` → `[N, out, H', W']`. */
export class Conv2d extends Conv {
  readonly options: Conv2dOptions;

  constructor(
    inChannels: number,
    outChannels: number,
    kernelSize: number | readonly [number, number],
    options: ConvLayerOptions & Conv2dOptions = {},
  ) {
    super(
      'Conv2d',
      inChannels,
      outChannels,
      typeof kernelSize === 'number' ? [kernelSize, kernelSize] : kernelSize,
      options,
    );
    const { bias: _bias, generator: _generator, ...rest } = options;
    this.options = rest;
  }

  /** `[N, inChannels, H, W]` → `[N, outChannels, H′, W′]`. */
  forward(x: Tensor): Tensor {
    return conv2d(x, this.weight, this.bias, this.options);
  }
}
