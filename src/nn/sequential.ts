import { AttributeError } from '../errors.js';
import type { Tensor } from '../tensor/tensor.js';
import { formatValue } from '../util/format.js';
import { Module } from './module.js';

/** A module (or a function) from one tensor to one tensor. */
export type Layer = (Module & { forward(x: Tensor): Tensor }) | ((x: Tensor) => Tensor);

/** Layers one after the other. Functions (activations) may stand among them. */
export class Sequential extends Module {
  readonly layers: readonly Layer[];

  constructor(...layers: Layer[]) {
    super();
    for (const layer of layers) {
      if (!(layer instanceof Module) && typeof layer !== 'function') {
        throw new AttributeError({
          op: 'Sequential',
          argument: 'layers',
          expected: 'modules or functions',
          actual: formatValue(layer),
        });
      }
    }
    this.layers = layers;
  }

  /** Applies the layers one after the other. */
  forward(x: Tensor): Tensor {
    return this.layers.reduce((value, layer) => (typeof layer === 'function' ? layer(value) : layer.forward(value)), x);
  }
}
