/**
 * Several adapters of low rank as one.
 */
import { AttributeError, StateError } from '../../errors.js';
import { noGrad } from '../../autograd/grad.js';
import type { Module } from '../../nn/module.js';
import { mul } from '../../ops/arithmetic.js';
import { clone, to } from '../../ops/copy.js';
import { concat } from '../../ops/join.js';
import { detach } from '../../ops/views.js';
import { tensor } from '../../tensor/create.js';
import { dataSync } from '../../tensor/read.js';
import { scope } from '../../tensor/scope.js';
import type { Tensor } from '../../tensor/tensor.js';
import { checkInteger, checkKeys, checkNumber, checkOneOf } from '../../util/assert.js';
import { formatValue } from '../../util/format.js';
import { sitesOf } from '../layers.js';
import { addRecord, attach } from '../lora.js';
import { checkAdapterName, LoraAdapter, LoraLinear } from '../lora_linear.js';
import { existingRegistry } from '../registry.js';
import { productSvd } from './small_svd.js';
import { weightedSum } from './states.js';

/** Options of {@link combineAdapters}. */
export interface CombineAdaptersOptions {
  /**
   * `cat`: exactly the weighted sum of the changes, of the summed rank. `svd`: that, cut to `rank` by its singular values. `linear`: sums of
   * the A's and of the B's, of the same rank; not the sum of the changes, but often near it. Default `cat`.
   */
  readonly method?: 'linear' | 'cat' | 'svd';
  /** Rank for `svd`. Default: the greatest of the adapters'. */
  readonly rank?: number;
}

type Weighted = readonly [adapter: LoraAdapter, weight: number];
interface Factors {
  readonly loraA: Tensor;
  readonly loraB: Tensor;
}

/** Columns of a matrix, or its rows. */
function vectorsOf(matrix: Tensor, by: 'rows' | 'columns'): Float64Array[] {
  const [rows, columns] = matrix.shape as [number, number];
  const values = dataSync(scope(() => to(matrix, 'float64'))) as Float64Array;
  if (by === 'rows') return Array.from({ length: rows }, (_, i) => values.slice(i * columns, (i + 1) * columns));
  return Array.from({ length: columns }, (_, j) =>
    Float64Array.from({ length: rows }, (_row, i) => values[i * columns + j]!),
  );
}

function concatenated(parts: readonly Weighted[]): Factors {
  return {
    loraA: concat(parts.map(([{ loraA, scaling }, weight]) => mul(detach(loraA), scaling * weight))),
    loraB: concat(parts.map(([{ loraB }]) => detach(loraB)), 1), // prettier-ignore
  };
}

function summed(parts: readonly Weighted[]): Factors {
  const roots = parts.map(([{ scaling }, weight]) => Math.sqrt(Math.abs(scaling * weight)));
  const signed = roots.map((root, i) => root * (parts[i]![1] < 0 ? -1 : 1));
  return {
    loraA: weightedSum(parts.map(([{ loraA }]) => detach(loraA)), signed), // prettier-ignore
    loraB: weightedSum(parts.map(([{ loraB }]) => detach(loraB)), roots), // prettier-ignore
  };
}

function truncated(parts: readonly Weighted[], rank: number): Factors {
  const { loraA, loraB } = concatenated(parts);
  const found = productSvd(vectorsOf(loraB, 'columns'), vectorsOf(loraA, 'rows'), rank);
  const [inner, outer] = [loraA.shape[1]!, loraB.shape[0]!];
  const [a, b] = [new Float64Array(found.length * inner), new Float64Array(outer * found.length)];
  for (const [k, { value, u, v }] of found.entries()) {
    a.set(v, k * inner);
    for (let i = 0; i < outer; i++) b[i * found.length + k] = u[i]! * value;
  }
  const { dtype } = loraA;
  return {
    loraA: to(tensor(a, { shape: [found.length, inner] }), dtype),
    loraB: to(tensor(b, { shape: [outer, found.length] }), dtype),
  };
}

/**
 * Makes one adapter of several, as PEFT's `add_weighted_adapter`: a new one of the given name, with scaling 1, that is not active yet. The
 * others stay.
 *
 * @param weights - the adapters with their weights, which may be negative
 * @throws StateError if an adapter is not there, has magnitudes (DoRA) or trains whole modules, or the name is taken; nothing is changed then
 * @throws AttributeError if an option cannot be, or ranks differ for `linear`
 * @example
 * ```ts
 * combineAdapters(model, 'both', { style: 0.5, facts: 1 });
 * setActiveAdapters(model, 'both');
 * ```
 */
export function combineAdapters(
  model: Module,
  name: string,
  weights: Readonly<Record<string, number>>,
  options: CombineAdaptersOptions = {},
): void {
  const op = 'combineAdapters';
  checkKeys(op, options, ['method', 'rank']);
  checkAdapterName(op, name);
  const method = checkOneOf(op, 'method', options.method ?? 'cat', ['linear', 'cat', 'svd']);
  const registry = existingRegistry(op, model);
  registry.requireApart(op);
  if (registry.adapters.has(name)) {
    throw new StateError({ op, argument: 'name', expected: 'a new name', actual: JSON.stringify(name) });
  }
  const list = Object.entries(weights ?? {});
  if (list.length === 0) {
    const actual = formatValue(weights);
    throw new AttributeError({ op, argument: 'weights', expected: 'adapters with their weights', actual });
  }
  for (const [own, weight] of list) {
    const { variant, saved } = registry.get(op, own);
    checkNumber(op, `weights.${own}`, weight, -Number.MAX_VALUE, Number.MAX_VALUE);
    if (variant === 'dora' || variant === 'rsdora' || saved.length > 0) {
      const actual = saved.length > 0 ? 'modules that it trains whole' : `magnitudes (${variant})`;
      throw new StateError({ op, argument: own, expected: 'an adapter of A and B alone', actual });
    }
  }
  const greatest = Math.max(...list.map(([own]) => registry.get(op, own).rank));
  const rank = checkInteger(op, 'rank', options.rank ?? greatest, 1);
  const dropout = registry.get(op, list[0]![0]).dropout;
  const plans = [...sitesOf(model).values()].flatMap((site) => {
    const { layer } = site;
    if (!(layer instanceof LoraLinear)) return [];
    const parts = list.flatMap(([own, weight]): Weighted[] => {
      const adapter = layer.adapters.get(own);
      return adapter === undefined ? [] : [[adapter, weight]];
    });
    if (parts.length === 0) return [];
    const ranks = new Set(parts.map(([adapter]) => adapter.rank));
    if (method === 'linear' && ranks.size > 1) {
      const actual = `${[...ranks].join(', ')} at ${site.path}`;
      throw new AttributeError({
        op,
        argument: 'method',
        expected: 'equal ranks for linear',
        actual,
        hint: 'Use cat or svd',
      });
    }
    return [{ site, parts }];
  });
  let total = 0;
  for (const { site, parts } of plans) {
    const { loraA, loraB } = scope(() =>
      noGrad(() => {
        const made = method === 'svd' ? truncated(parts, rank) : method === 'cat' ? concatenated(parts) : summed(parts);
        return { loraA: clone(made.loraA), loraB: clone(made.loraB) };
      }),
    );
    const own = loraA.shape[0]!;
    total = Math.max(total, own);
    const settings = { rank: own, alpha: own, dropout, variant: 'lora' as const };
    attach(op, site, name, new LoraAdapter(settings, { loraA, loraB, magnitude: null }));
  }
  addRecord(model, { name, rank: total, alpha: total, variant: 'lora', dropout, modulesToSave: [], saved: [] });
}
