/**
 * Structured pruning: the least important heads, neurons and layers are removed.
 *
 * @module
 */
import { AttributeError } from '../../../errors.js';
import type { GPT } from '../../../models/gpt.js';
import { checkInteger, checkKeys, checkNumber, checkOneOf } from '../../../util/assert.js';
import { checkCalibration } from '../../calibration.js';
import {
  checkImportance,
  layerImportance,
  unitImportance,
  unitImportances,
  type ImportanceData,
  type UnitImportance,
} from './importance.js';
import { formatValue } from '../../../util/format.js';
import { removeStructures, type Structures } from './remove.js';
import { unitSites, type UnitKind } from './units.js';
import type { Tensor } from '../../../tensor/tensor.js';

/** Options of {@link pruneStructures}. */
export interface PruneStructuresOptions<B = { readonly x: Tensor; readonly y: Tensor }> extends ImportanceData<GPT, B> {
  /** Share (below 1) or number of the heads that go, of each layer, or of all with scope `global`. Default 0. */
  readonly heads?: number;
  /** Share or number of the neurons that go, likewise. Default 0. */
  readonly neurons?: number;
  /** Number of whole layers that go, by {@link layerImportance}; or which. Needs calibration if it is a number. Default 0. */
  readonly layers?: number | readonly number[];
  /** Default `magnitude`. */
  readonly importance?: UnitImportance;
  /** Whether units compete within their layer (default), or over all layers, each of which keeps at least one. */
  readonly scope?: 'layer' | 'global';
  /** Change the model itself instead of a copy. Default false. */
  readonly inPlace?: boolean;
  /** Told what goes, before it does. */
  readonly onPlan?: (structures: Structures) => void;
}

const OP = 'pruneStructures';
const keys = [
  'heads', 'neurons', 'layers', 'importance', 'scope', 'inPlace', 'onPlan', 'calibration', 'batches', 'loss',
] as const; // prettier-ignore

/** How many of `count` an amount means. @throws AttributeError if none would be left */
function amountOf(argument: string, amount: number, count: number): number {
  const gone = amount < 1 ? Math.round(count * amount) : checkInteger(OP, argument, amount, 0);
  if (gone < count || gone === 0) return gone;
  throw new AttributeError({ op: OP, argument, expected: `fewer than the ${count} there are`, actual: String(amount) });
}

/** Positions in order of their scores, smallest first; the first of equals comes first. */
const ranked = (scores: ArrayLike<number>): number[] =>
  Array.from({ length: scores.length }, (_, i) => i).sort((a, b) => scores[a]! - scores[b]! || a - b);

/** The least important units, by path. */
function leastOf(
  kind: UnitKind,
  amount: number,
  importance: ReadonlyMap<string, Float64Array>,
  isGlobal: boolean,
): Record<string, number[]> {
  const gone: Record<string, number[]> = {};
  if (!isGlobal) {
    for (const [path, scores] of importance) {
      const list = ranked(scores).slice(0, amountOf(kind, amount, scores.length));
      gone[path] = list.sort((a, b) => a - b);
    }
    return gone;
  }
  // the best unit of each layer stays in any case
  const candidates = [...importance].flatMap(
    ([path, scores]) =>
    ranked(scores).slice(0, -1).map((unit) => ({ path, unit, score: scores[unit]! })), // prettier-ignore
  );
  const count = [...importance.values()].reduce((total, { length }) => total + length, 0);
  const wanted = amountOf(kind, amount, count);
  if (wanted > candidates.length) {
    const expected = `at most ${candidates.length}, so that each layer keeps one`;
    throw new AttributeError({ op: OP, argument: kind, expected, actual: String(wanted) });
  }
  const order = ranked(candidates.map(({ score }) => score)).slice(0, wanted);
  for (const { path, unit } of order.map((i) => candidates[i]!)) (gone[path] ??= []).push(unit);
  for (const list of Object.values(gone)) list.sort((a, b) => a - b);
  return gone;
}

/** What is asked for, with its defaults. */
interface Wanted {
  readonly amounts: { readonly heads: number; readonly neurons: number };
  /** Those of which some go. */
  readonly kinds: readonly UnitKind[];
  /** How many layers go by their importance, or which. */
  readonly layers: number | readonly number[];
  readonly importance: UnitImportance;
  readonly isGlobal: boolean;
}

/** @internal Amounts of heads, neurons and layers, checked without a model. @throws AttributeError for the first that cannot be */
export function checkAmounts<B>(op: string, options: PruneStructuresOptions<B>): Wanted {
  const { importance = 'magnitude', scope = 'layer', layers = 0, heads = 0, neurons = 0 } = options;
  checkOneOf(op, 'importance', importance, unitImportances);
  checkOneOf(op, 'scope', scope, ['layer', 'global']);
  if (typeof layers === 'number') checkInteger(op, 'layers', layers, 0);
  else if (Array.isArray(layers)) layers.forEach((layer: unknown) => checkInteger(op, 'layers', layer, 0));
  else {
    const expected = 'how many layers go, or a list of their numbers';
    throw new AttributeError({ op, argument: 'layers', expected, actual: formatValue(layers) });
  }
  const amounts = { heads: checkNumber(op, 'heads', heads, 0), neurons: checkNumber(op, 'neurons', neurons, 0) };
  const kinds = (['heads', 'neurons'] as const).filter((kind) => amounts[kind] > 0);
  if (kinds.length === 0 && (typeof layers === 'number' ? layers === 0 : layers.length === 0)) {
    const [expected, actual] = ['some heads, neurons or layers to remove', 'none'];
    throw new AttributeError({ op, argument: 'options', expected, actual });
  }
  return { amounts, kinds, layers, importance, isGlobal: scope === 'global' };
}

/** @internal Whether `pruneStructures` would take a model and options. @throws what it would throw before any work */
export function checkPruneStructures<B>(model: GPT, options: PruneStructuresOptions<B>): Wanted {
  checkKeys(OP, options, keys);
  const wanted = checkAmounts(OP, options);
  const { amounts, kinds, layers, importance, isGlobal } = wanted;
  const count = model.blocks.length;
  if (typeof layers === 'number') checkInteger(OP, 'layers', layers, 0, count - 1);
  else for (const layer of layers) checkInteger(OP, 'layers', layer, 0, count - 1);
  const { calibration, batches, loss } = options;
  const evidence = {
    ...(calibration === undefined ? {} : { calibration }),
    ...(batches === undefined ? {} : { batches }),
    ...(loss === undefined ? {} : { loss }),
  };
  if (kinds.length > 0) checkImportance(OP, model, importance, evidence);
  if (typeof layers === 'number' && layers > 0) checkCalibration(OP, calibration);
  for (const kind of kinds) {
    const sizes = unitSites(OP, model, kind).map((site) => site.count);
    const total = sizes.reduce((a, b) => a + b, 0);
    if (isGlobal) amountOf(kind, amounts[kind], total);
    else for (const size of sizes) amountOf(kind, amounts[kind], size);
  }
  return wanted;
}

/**
 * A smaller copy of a GPT (or the model itself, `inPlace`) without its least important heads, neurons and layers. All are judged on the
 * model as it was given; nothing makes up for what goes, so fine-tune afterwards.
 *
 * @example
 * ```ts
 * const calibration = calibrationBatches(dataset, { batches: 16 });
 * const small = await pruneStructures(gpt, { heads: 0.25, neurons: 0.25, layers: 2, importance: 'activation', calibration });
 * ```
 * @throws AttributeError if an amount leaves nothing, or what the importance needs is missing
 * @throws StateError if a layer is quantised, sparse or an adapter, or an importance is not finite
 */
export async function pruneStructures<B = { readonly x: Tensor; readonly y: Tensor }>(
  model: GPT,
  options: PruneStructuresOptions<B>,
): Promise<GPT> {
  const { amounts, kinds, layers, importance, isGlobal } = checkPruneStructures(model, options);
  const {
    inPlace = false,
    onPlan,
    heads: _1,
    neurons: _2,
    layers: _3,
    importance: _4,
    scope: _5,
    ...evidence
  } = options;
  const gone: { -readonly [K in keyof Structures]: Structures[K] } = {};
  for (const kind of kinds) {
    const found = await unitImportance(model, kind, importance, evidence);
    gone[kind] = leastOf(kind, amounts[kind], found, isGlobal);
  }
  if (typeof layers !== 'number') gone.layers = layers;
  else if (layers > 0) {
    const least = ranked(await layerImportance(model, evidence.calibration!)).slice(0, layers);
    gone.layers = least.sort((a, b) => a - b);
  }
  onPlan?.(gone);
  return removeStructures(model, gone, { inPlace });
}
