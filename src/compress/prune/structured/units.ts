/**
 * What structured pruning removes within a layer: heads of attention (whole groups, where queries share keys and values), and neurons
 * of the feed-forward part.
 *
 * @module
 */
import { AttributeError, StateError } from '../../../errors.js';
import { MultiHeadAttention } from '../../../nn/attention.js';
import type { Linear } from '../../../nn/linear.js';
import { Mlp } from '../../../nn/mlp.js';
import type { Module } from '../../../nn/module.js';
import type { Site } from '../../../nn/surgery.js';
import { isLinear } from '../../linear_sites.js';

/** `heads`: of attention; with grouped queries a unit is a key head with its query heads. `neurons`: of the feed-forward part. */
export type UnitKind = 'heads' | 'neurons';

/** A module whose units can be removed. */
export interface UnitSite {
  readonly kind: UnitKind;
  readonly path: string;
  readonly owner: MultiHeadAttention | Mlp;
  /** Units there are. */
  readonly count: number;
  /** Layers that write the units (rows), with the rows of one unit. */
  readonly writers: readonly { readonly site: Site<Linear>; readonly rows: number }[];
  /** The layer that reads them (columns), with the columns of one unit. */
  readonly reader: { readonly site: Site<Linear>; readonly columns: number };
}

/** A layer of a module as a site. @throws StateError unless it is a plain linear layer */
function part(op: string, path: string, owner: Module, key: string): Site<Linear> {
  const layer = (owner as unknown as Record<string, Module>)[key]!;
  if (isLinear(layer)) return { path: `${path}.${key}`, layer, slots: [{ parent: owner, key }] };
  throw new StateError({
    op,
    argument: 'model',
    expected: 'plain linear layers',
    actual: `${path}.${key} is a ${layer.constructor.name}`,
    hint: 'Remove structures first, then quantise or sparsify; merge adapters before',
  });
}

/** All modules of a model with units of a kind. @throws StateError if their layers are quantised, sparse, or adapters */
export function unitSites(op: string, model: Module, kind: UnitKind): UnitSite[] {
  const sites: UnitSite[] = [];
  for (const [path, owner] of model.namedModules()) {
    if (kind === 'heads' && owner instanceof MultiHeadAttention) {
      const { heads, kvHeads, headWidth } = owner;
      const rowsOfQ = (heads / kvHeads) * headWidth;
      sites.push({
        kind,
        path,
        owner,
        count: kvHeads,
        writers: (['q', 'k', 'v'] as const).map((key) => ({
          site: part(op, path, owner, key),
          rows: key === 'q' ? rowsOfQ : headWidth,
        })),
        reader: { site: part(op, path, owner, 'o'), columns: rowsOfQ },
      });
    } else if (kind === 'neurons' && owner instanceof Mlp) {
      const keys = owner.gate === null ? ['up'] : ['up', 'gate'];
      const reader = part(op, path, owner, 'down');
      sites.push({
        kind,
        path,
        owner,
        count: reader.layer.inFeatures,
        writers: keys.map((key) => ({ site: part(op, path, owner, key), rows: 1 })),
        reader: { site: reader, columns: 1 },
      });
    }
  }
  if (sites.length > 0) return sites;
  const expected = kind === 'heads' ? 'a model with nn.MultiHeadAttention' : 'a model with nn.Mlp';
  throw new AttributeError({ op, argument: 'model', expected, actual: 'one without any' });
}
