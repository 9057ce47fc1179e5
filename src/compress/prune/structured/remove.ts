/**
 * Structures taken out of a model: its matrices are smaller afterwards.
 *
 * @module
 */
import { AttributeError } from '../../../errors.js';
import { noGrad } from '../../../autograd/grad.js';
import { cloneModel } from '../../../models/saved_model.js';
import { GPT } from '../../../models/gpt.js';
import { Linear } from '../../../nn/linear.js';
import type { Module } from '../../../nn/module.js';
import { place, type Site } from '../../../nn/surgery.js';
import { clone } from '../../../ops/copy.js';
import { indexSelect } from '../../../ops/indexing.js';
import { detach } from '../../../ops/views.js';
import { tensor } from '../../../tensor/create.js';
import { keep, scope } from '../../../tensor/scope.js';
import type { Tensor } from '../../../tensor/tensor.js';
import { checkBoolean, checkInteger, checkKeys } from '../../../util/assert.js';
import { formatValue } from '../../../util/format.js';
import { unitSites, type UnitSite } from './units.js';

/** What goes. */
export interface Structures {
  /** Heads by the path of their attention (`blocks.0.attention`); with grouped queries, numbers of key heads, which go with their queries. */
  readonly heads?: Readonly<Record<string, readonly number[]>>;
  /** Neurons by the path of their feed-forward part (`blocks.0.mlp`). */
  readonly neurons?: Readonly<Record<string, readonly number[]>>;
  /** Whole layers, by number. */
  readonly layers?: readonly number[];
}

const OP = 'removeStructures';

/** Which of `count` stay. @throws AttributeError unless some do, and all that go are there */
function keptOf(argument: string, count: number, gone: readonly number[]): number[] {
  if (!Array.isArray(gone)) {
    throw new AttributeError({ op: OP, argument, expected: 'a list of numbers', actual: formatValue(gone) });
  }
  const out = new Set(gone.map((i) => checkInteger(OP, argument, i, 0, count - 1)));
  if (out.size === count) {
    throw new AttributeError({ op: OP, argument, expected: `at most ${count - 1} of them`, actual: `all ${count}` });
  }
  return Array.from({ length: count }, (_, i) => i).filter((i) => !out.has(i));
}

/** Places of the elements of units: `per` neighbours each. */
const elements = (units: readonly number[], per: number): number[] =>
  units.flatMap((unit) => Array.from({ length: per }, (_, i) => unit * per + i));

/** What is left of a pruned layer's pattern. */
function patternLeft(pruned: string | null, axis: 0 | 1): string | null {
  const isByRow = pruned !== null && /^\d+:\d+$/.test(pruned);
  return pruned === null || (axis === 0 && isByRow) ? pruned : 'unstructured';
}

/** Puts a layer with some of the rows (axis 0) or columns (axis 1) in the place of one. */
function cut(site: Site<Linear>, axis: 0 | 1, indices: readonly number[]): void {
  const { layer } = site;
  const [weight, bias] = scope(() =>
    noGrad(() => {
      const index = tensor(Int32Array.from(indices));
      const some = (x: Tensor): Tensor => keep(clone(indexSelect(detach(x), axis, index)));
      const { bias: all } = layer;
      return [some(layer.weight), all === null ? null : axis === 0 ? some(all) : keep(clone(detach(all)))] as const;
    }),
  );
  const made = Linear.of(weight, bias);
  made.weight.requiresGrad = layer.weight.requiresGrad;
  if (made.bias !== null) made.bias.requiresGrad = layer.bias!.requiresGrad;
  made.pruned = patternLeft(layer.pruned, axis);
  made.train(layer.training);
  place(OP, site, made);
  layer.dispose();
}

function cutUnits(site: UnitSite, kept: readonly number[]): void {
  if (kept.length === site.count) return;
  for (const { site: writer, rows } of site.writers) cut(writer, 0, elements(kept, rows));
  cut(site.reader.site, 1, elements(kept, site.reader.columns));
  if (site.kind === 'neurons') return;
  const { heads, kvHeads } = site.owner as unknown as { heads: number; kvHeads: number };
  Object.assign(site.owner, { heads: (heads / kvHeads) * kept.length, kvHeads: kept.length });
}

/** Units that stay, by site. @throws AttributeError for a path or number that is not there */
function plannedUnits(model: Module, structures: Structures): [UnitSite, number[]][] {
  return (['heads', 'neurons'] as const).flatMap((kind) => {
    const wanted = structures[kind];
    if (wanted === undefined) return [];
    const sites = unitSites(OP, model, kind);
    return Object.entries(wanted).map(([path, gone]): [UnitSite, number[]] => {
      const site = sites.find((one) => one.path === path);
      if (site !== undefined) return [site, keptOf(`${kind}['${path}']`, site.count, gone)];
      const expected = sites.map((one) => one.path).join(', ');
      throw new AttributeError({ op: OP, argument: kind, expected, actual: formatValue(path) });
    });
  });
}

/**
 * A copy of a GPT (or the model itself, `inPlace`) without some heads, neurons and layers: narrower matrices, fewer blocks. It computes what
 * the model computes when the outputs of these heads and neurons are 0, and these blocks are the identity.
 *
 * @throws AttributeError if a path or number is not there, or nothing of a layer (or of the model) would be left
 * @throws StateError if a layer is quantised, sparse or an adapter
 */
export function removeStructures(
  model: GPT,
  structures: Structures,
  options: { readonly inPlace?: boolean } = {},
): GPT {
  checkKeys(OP, structures, ['heads', 'neurons', 'layers']);
  checkKeys(OP, options, ['inPlace']);
  const inPlace = checkBoolean(OP, 'inPlace', options.inPlace ?? false);
  if (!(model instanceof GPT)) {
    throw new AttributeError({ op: OP, argument: 'model', expected: 'a GPT', actual: formatValue(model) });
  }
  plannedUnits(model, structures);
  const keptLayers = keptOf('layers', model.blocks.length, structures.layers ?? []);
  const result = inPlace ? model : cloneModel(model);
  for (const [site, kept] of plannedUnits(result, structures)) cutUnits(site, kept);
  const blocks = keptLayers.map((i) => result.blocks[i]!);
  for (const block of result.blocks) if (!blocks.includes(block)) block.dispose();
  Object.assign(result, { blocks, config: { ...result.config, layers: blocks.length } });
  return result;
}
