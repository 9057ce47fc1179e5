/**
 * Finding layers in a model by path, and putting others in their place.
 */
import { AttributeError, StateError } from '../errors.js';
import { Linear } from '../nn/linear.js';
import { Module } from '../nn/module.js';
import { QuantizedLinear } from '../nn/quantized_linear.js';
import { formatValue } from '../util/format.js';
import { LoraLinear } from './lora_linear.js';

/** What says which layers or parameters are meant: a pattern, names (whole paths or their ends), or a function of the path. */
export type Target = RegExp | string | readonly string[] | ((path: string) => boolean);

/** A place in a module where a layer hangs. */
interface Slot {
  readonly parent: Module;
  readonly key: string;
}

/** A linear layer of a model, adapted or not, with all places where it hangs. */
export interface Site {
  readonly path: string;
  readonly layer: Linear | QuantizedLinear | LoraLinear;
  readonly slots: Slot[];
}

/** Names of output layers, which `all-linear` leaves out. */
const outputLayer = /(^|\.)(head|lm_head|score|classifier)$/;

/** @internal The test that a target means. @throws AttributeError unless it is one */
export function matcher(op: string, argument: string, target: Target): (path: string) => boolean {
  if (typeof target === 'function') return target;
  if (target instanceof RegExp) return (path) => path.search(target) >= 0;
  const names = typeof target === 'string' ? [target] : target;
  if (!Array.isArray(names) || names.length === 0 || !names.every((name) => typeof name === 'string' && name !== '')) {
    const expected = 'a RegExp, one or more names, or a function of the path';
    throw new AttributeError({ op, argument, expected, actual: formatValue(target) });
  }
  return (path) => names.some((name) => path === name || path.endsWith(`.${name}`));
}

/** @internal Every layer of `model` that can carry an adapter, by path. */
export function sitesOf(model: Module): Map<string, Site> {
  const sites = new Map<Module, Site>();
  for (const [prefix, parent] of model.namedModules()) {
    if (parent instanceof LoraLinear) continue;
    for (const [key, layer] of parent.children()) {
      if (!(layer instanceof Linear || layer instanceof QuantizedLinear || layer instanceof LoraLinear)) continue;
      const path = prefix === '' ? key : `${prefix}.${key}`;
      const site = sites.get(layer);
      if (site === undefined) sites.set(layer, { path, layer, slots: [{ parent, key }] });
      else site.slots.push({ parent, key });
    }
  }
  return new Map([...sites.values()].map((site) => [site.path, site]));
}

/** @internal The sites that a target means. @throws AttributeError if there is none, with the names there are */
export function chosenSites(op: string, model: Module, target: Target): Site[] {
  const sites = [...sitesOf(model).values()];
  const matches =
    target === 'all-linear' ? (path: string): boolean => !outputLayer.test(path) : matcher(op, 'target', target);
  const chosen = sites.filter(({ path }) => matches(path));
  if (chosen.length > 0) return chosen;
  const names = [...new Set(sites.map(({ path }) => path.replace(/\.\d+(?=\.|$)/g, '.*')))];
  throw new AttributeError({
    op,
    argument: 'target',
    expected: `a match among the linear layers ${names.join(', ') || '(the model has none below it)'}`,
    actual: `${formatValue(target instanceof RegExp ? String(target) : target)}, which matches none`,
  });
}

/** @internal Puts `layer` into every place of a site. */
export function place(op: string, site: Site, layer: Module): void {
  for (const { parent, key } of site.slots) {
    const [property, index] = /^(.*)\.(\d+)$/.exec(key)?.slice(1) ?? [key];
    const properties = parent as unknown as Record<string, unknown>;
    const [holder, entry] =
      index === undefined ? [properties, key] : [properties[property!] as Record<string, unknown>, index];
    if (!(holder?.[entry!] instanceof Module)) {
      const expected = `${site.path} as a property of its module, or an item of one`;
      throw new StateError({ op, argument: 'model', expected, actual: 'a module with children of its own making' });
    }
    holder[entry!] = layer;
  }
}
