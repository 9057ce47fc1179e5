/**
 * Which linear layers a method works on, and how: a target, exceptions by name, and what is checked before any work.
 *
 * @module
 */
import { AttributeError, StateError } from '../errors.js';
import { noGrad } from '../autograd/grad.js';
import { Float8Linear } from '../nn/float8_linear.js';
import { Int8Linear } from '../nn/int8_linear.js';
import { Linear } from '../nn/linear.js';
import type { Module } from '../nn/module.js';
import { QuantizedLinear } from '../nn/quantized_linear.js';
import { SparseLinear } from '../nn/sparse_linear.js';
import { chooseSites, matcher, sitesOf, type Site, type Target } from '../nn/surgery.js';
import { all } from '../ops/reduce.js';
import { isFinite } from '../ops/unary.js';
import { unloadPages } from '../runtime/cache.js';
import { item } from '../tensor/read.js';
import { scope } from '../tensor/scope.js';

/** What happens to which layer. */
export type LayerPlan<R, L extends Module = Linear> = Map<Site<L>, R>;

/** An exception: what some layers get instead (null: they stay as they are). */
export interface PlanRule<R> {
  readonly target: Target;
  readonly resolved: R | null;
}

/** A plain linear layer, not one of a derived class. */
export const isLinear = (module: Module): module is Linear => Object.getPrototypeOf(module) === Linear.prototype;

const isQuantized = (module: Module): boolean =>
  module instanceof QuantizedLinear || module instanceof Int8Linear || module instanceof Float8Linear;

/** Bytes of a layer's tensors. */
export const bytesOf = (layer: Module): number =>
  scope(() => Object.values(layer.stateDict()).reduce((sum, { bytes }) => sum + bytes, 0));

/** The linear layers of a model. @throws StateError if there are none, saying why */
export function linearSites(op: string, model: Module): Site<Linear>[] {
  const sites = [...sitesOf(model, isLinear).values()];
  if (sites.length > 0) return sites;
  const modules = [...model.namedModules()].map(([, module]) => module);
  const actual = modules.some(isQuantized)
    ? 'one that is quantised already'
    : modules.some((module) => module instanceof SparseLinear)
      ? 'one whose layers are sparse already'
      : 'one without any';
  throw new StateError({ op, argument: 'model', expected: 'a model with linear layers', actual });
}

/**
 * The layers that `target` means, each with the general setting or that of the last rule that matches it.
 *
 * @throws AttributeError if a target matches no layer, or all layers are skipped
 */
export function planLayers<R, L extends Module = Linear>(
  op: string,
  sites: readonly Site<L>[],
  target: Target,
  general: R,
  rules: readonly PlanRule<R>[],
): LayerPlan<R, L> {
  const exceptions = rules.map(({ target: match, resolved }, i) => {
    const matches = matcher(op, `overrides[${i}].target`, match);
    if (!sites.some(({ path }) => matches(path))) chooseSites(op, sites, match);
    return { matches, resolved };
  });
  const plan: LayerPlan<R, L> = new Map();
  for (const site of chooseSites(op, sites, target)) {
    const rule = exceptions.findLast(({ matches }) => matches(site.path));
    const resolved = rule === undefined ? general : rule.resolved;
    if (resolved !== null) plan.set(site, resolved);
  }
  if (plan.size > 0) return plan;
  throw new AttributeError({ op, argument: 'overrides', expected: 'some layer left', actual: 'all are skipped' });
}

/** @throws StateError naming the first layer with a weight that is not finite */
export async function checkWeights(op: string, sites: Iterable<Site<Linear>>): Promise<void> {
  for (const { path, layer } of sites) {
    const finite = scope(() => noGrad(() => all(isFinite(layer.weight))));
    const isGood = await item(finite);
    finite.dispose();
    unloadPages(layer.weight);
    if (isGood) continue;
    const [expected, actual] = ['finite weights', 'NaN or infinities'];
    throw new StateError({ op, argument: `${path}.weight`, expected, actual });
  }
}
