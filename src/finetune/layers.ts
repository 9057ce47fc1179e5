/**
 * The layers that can carry an adapter.
 */
import { Linear } from '../nn/linear.js';
import type { Module } from '../nn/module.js';
import { QuantizedLinear } from '../nn/quantized_linear.js';
import { chooseSites, sitesOf as layersOf, type Site as LayerSite, type Target } from '../nn/surgery.js';
import { LoraLinear } from './lora_linear.js';

/** A linear layer of a model, adapted or not, with all places where it hangs. */
export type Site = LayerSite<Linear | QuantizedLinear | LoraLinear>;

const isAdaptable = (module: Module): module is Site['layer'] =>
  module instanceof Linear || module instanceof QuantizedLinear || module instanceof LoraLinear;

/** @internal Every layer of `model` that can carry an adapter, by path. */
export function sitesOf(model: Module): Map<string, Site> {
  return layersOf(model, isAdaptable, (module) => module instanceof LoraLinear);
}

/** @internal The sites that a target means. @throws AttributeError if there is none, with the names there are */
export function chosenSites(op: string, model: Module, target: Target): Site[] {
  return chooseSites(op, sitesOf(model).values(), target);
}
