/**
 * Finding layers in a model by path, and putting others in their place: what adapters, quantisation and pruning share.
 *
 * @module
 */
import { AttributeError, StateError } from '../errors.js';
import { formatValue } from '../util/format.js';
import { Module } from './module.js';

/** What says which layers or parameters are meant: a pattern, names (whole paths or their ends), or a function of the path. */
export type Target = RegExp | string | readonly string[] | ((path: string) => boolean);

/** A place in a module where a layer hangs. */
export interface Slot {
  readonly parent: Module;
  readonly key: string;
}

/** A layer of a model, with all places where it hangs. */
export interface Site<L extends Module = Module> {
  readonly path: string;
  readonly layer: L;
  readonly slots: readonly Slot[];
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

/** @internal Every layer of a kind, by path, in the order of the model; what hangs below `isOpaque` modules is left out. */
export function sitesOf<L extends Module>(
  model: Module,
  isLayer: (module: Module) => module is L,
  isOpaque: (module: Module) => boolean = () => false,
): Map<string, Site<L>> {
  const sites = new Map<Module, { path: string; layer: L; slots: Slot[] }>();
  for (const [prefix, parent] of model.namedModules()) {
    if (isOpaque(parent)) continue;
    for (const [key, layer] of parent.children()) {
      if (!(layer instanceof Module) || !isLayer(layer)) continue;
      const path = prefix === '' ? key : `${prefix}.${key}`;
      const site = sites.get(layer);
      if (site === undefined) sites.set(layer, { path, layer, slots: [{ parent, key }] });
      else site.slots.push({ parent, key });
    }
  }
  return new Map([...sites.values()].map((site) => [site.path, site]));
}

/** @internal The sites that a target means. @throws AttributeError if there is none, with the names there are */
export function chooseSites<L extends Module>(op: string, sites: Iterable<Site<L>>, target: Target): Site<L>[] {
  const all = [...sites];
  const matches =
    target === 'all-linear' ? (path: string): boolean => !outputLayer.test(path) : matcher(op, 'target', target);
  const chosen = all.filter(({ path }) => matches(path));
  if (chosen.length > 0) return chosen;
  const names = [...new Set(all.map(({ path }) => path.replace(/\.\d+(?=\.|$)/g, '.*')))];
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
