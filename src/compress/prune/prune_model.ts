/**
 * Pruning a model's linear layers after training: single weights, n of m neighbours, or squares.
 *
 * @module
 */
import { StateError } from '../../errors.js';
import { noGrad } from '../../autograd/grad.js';
import { cloneModel, type SavableModel } from '../../models/saved_model.js';
import type { Linear } from '../../nn/linear.js';
import type { Module } from '../../nn/module.js';
import type { Site, Target } from '../../nn/surgery.js';
import { mul } from '../../ops/arithmetic.js';
import { eq } from '../../ops/comparison.js';
import { clone, copy_, to } from '../../ops/copy.js';
import { mean } from '../../ops/reduce.js';
import { abs, sqrt } from '../../ops/unary.js';
import { where } from '../../ops/where.js';
import { item } from '../../tensor/read.js';
import { keep, scope } from '../../tensor/scope.js';
import type { Tensor } from '../../tensor/tensor.js';
import { checkBoolean, checkKeys } from '../../util/assert.js';
import { checkCalibration, type Calibration } from '../calibration.js';
import { checkInputs, visitInputs } from '../calibrated_walk.js';
import { relativeOutputError } from '../hessian.js';
import type { InputStatistics, StatisticKind } from '../input_statistics.js';
import type { LayerJournal } from '../layer_journal.js';
import { checkWeights, linearSites, planLayers, type LayerPlan } from '../linear_sites.js';
import {
  layerPruningKeys,
  resolvePruning,
  type LayerPruning,
  type PruneMethod,
  type ResolvedPruning,
} from './method.js';
import { checkDivides, globalMasks, maskOfScores, patternName, type ResolvedPattern } from './pattern.js';
import { sparseGpt, type SparseGptOptions } from './sparse_gpt.js';

/** A pattern or method of their own for some layers, or none. */
export interface PruneOverride extends Partial<LayerPruning> {
  readonly target: Target;
  /** Leave these layers as they are. */
  readonly skip?: boolean;
}

/** Options of {@link prune}. */
export interface PruneOptions extends LayerPruning {
  /** What the model sees while its activations are measured. Needed by wanda and sparsegpt. */
  readonly calibration?: Calibration;
  /** Which layers. Default: all linear layers but the output layer. */
  readonly target?: Target;
  /** Layers that get another pattern, or stay; later entries win. */
  readonly overrides?: readonly PruneOverride[];
  /** Change the model itself instead of a copy. Default false. */
  readonly inPlace?: boolean;
  /** Told of each layer when it is done. */
  readonly onLayer?: (report: PrunedLayerReport) => void;
  /** Stops between layers; the promise is rejected with its reason. */
  readonly signal?: AbortSignal;
  /** Keeps finished layers, so that the same call goes on after an interruption: see `folderJournal`. Default: none. */
  readonly journal?: LayerJournal;
}

/** What became of one layer. */
export interface PrunedLayerReport {
  readonly path: string;
  readonly method: PruneMethod;
  /** `unstructured`, `block:32`, `2:4`. */
  readonly pattern: string;
  /** How many weights the layer has, zeros included. */
  readonly weights: number;
  /** Share of the weights that are 0 now. */
  readonly sparsity: number;
  /** ‖X·(W − Ŵ)ᵀ‖² / ‖X·Wᵀ‖² over the calibration inputs; null without calibration. */
  readonly outputError: number | null;
}

type Plan = LayerPlan<ResolvedPruning>;

const OP = 'prune';

/** What happens to which layer. @throws AttributeError or StateError before any work */
function planOf(model: Module, options: PruneOptions): Plan {
  const {
    target = 'all-linear',
    overrides = [],
    calibration: _1,
    inPlace: _2,
    onLayer: _3,
    signal: _4,
    journal: _5,
    ...own
  } = options;
  const general = resolvePruning(OP, own);
  const sites = linearSites(OP, model);
  const rules = overrides.map((override, i) => {
    checkKeys(`${OP}: overrides[${i}]`, override, ['target', 'skip', ...layerPruningKeys]);
    const { target: match, skip = false, ...change } = override;
    return { target: match, resolved: skip ? null : resolvePruning(OP, { ...own, ...change }) };
  });
  const plan = planLayers(OP, sites, target, general, rules);
  for (const [site, { pattern }] of plan) {
    if (site.layer.pruned !== null) {
      throw new StateError({
        op: OP,
        argument: 'model',
        expected: 'layers that are not pruned yet',
        actual: `${site.path} is (${site.layer.pruned})`,
        hint: 'Prune the dense model, further in training with gradualPruning, or other layers with a target',
      });
    }
    checkDivides(OP, site, pattern);
  }
  return plan;
}

/** Scores of weights, at least 0. */
function scoresOf(weight: Tensor, method: PruneMethod, statistics: InputStatistics | null): Tensor {
  const size = abs(to(weight, 'float32'));
  return method === 'wanda' ? mul(size, sqrt(statistics!.get('squareSum'))) : size;
}

/** The weight that a layer gets, in float32 or its own dtype. */
async function prunedWeight(
  { path, layer: { weight } }: Site<Linear>,
  { pattern, method, damping }: ResolvedPruning,
  statistics: InputStatistics | null,
): Promise<Tensor> {
  if (method !== 'sparsegpt') {
    return scope(() =>
      noGrad(() => clone(where(maskOfScores(scoresOf(weight, method, statistics), pattern), weight, 0))),
    );
  }
  const options = { pattern: pattern as SparseGptOptions['pattern'], damping };
  const made = await sparseGpt(OP, path, weight, statistics!.get('gram'), statistics!.rows, options);
  made.mask.dispose();
  return made.weight;
}

/** Gives a layer its new weight, which is freed. */
async function finishLayer(
  { path, layer }: Site<Linear>,
  { method, pattern }: ResolvedPruning,
  made: Tensor,
  gram: Tensor | null,
): Promise<PrunedLayerReport> {
  const outputError = gram === null ? null : await relativeOutputError(layer.weight, made, gram);
  scope(() => noGrad(() => copy_(layer.weight, to(made, layer.weight.dtype))));
  made.dispose();
  layer.pruned = patternName(pattern);
  const sparsity = await zerosOf(layer.weight);
  return { path, method, pattern: layer.pruned, weights: layer.weight.size, sparsity, outputError };
}

/** Share of the elements that are 0. */
async function zerosOf(weight: Tensor): Promise<number> {
  const share = scope(() => noGrad(() => mean(to(eq(weight, 0), 'float32'))));
  return item(share).finally(() => share.dispose());
}

/** Layers whose units compete with those of other layers, by what they have in common. */
function competitors(plan: Plan): Map<string, Site<Linear>[]> {
  const groups = new Map<string, Site<Linear>[]>();
  for (const [site, { pattern }] of plan) {
    if (pattern.kind !== 'share' || pattern.scope !== 'global') continue;
    const key = JSON.stringify(pattern);
    groups.set(key, [...(groups.get(key) ?? []), site]);
  }
  return groups;
}

/** Weights of layers that are pruned by one threshold, by their layers. */
function globalWeights(plan: Plan): Map<Site<Linear>, Tensor> {
  const made = new Map<Site<Linear>, Tensor>();
  for (const sites of competitors(plan).values()) {
    const { sparsity, block } = plan.get(sites[0]!)!.pattern as Extract<ResolvedPattern, { kind: 'share' }>;
    const weights = sites.map(({ layer }) => layer.weight);
    const pruned = scope(() =>
      noGrad(() => {
        const scores = weights.map((weight) => scoresOf(weight, 'magnitude', null));
        return globalMasks(scores, sparsity, block).map((mask, i) => clone(where(mask, weights[i]!, 0)));
      }),
    );
    sites.forEach((site, i) => made.set(site, keep(pruned[i]!)));
  }
  return made;
}

/** What has to be gathered for a plan. */
function statisticsFor(plan: Plan, withErrors: boolean): StatisticKind[] {
  const methods = new Set([...plan.values()].map(({ method }) => method));
  const kinds: StatisticKind[] = methods.has('wanda') ? ['squareSum'] : [];
  return methods.has('sparsegpt') || withErrors ? [...kinds, 'gram'] : kinds;
}

/** @internal Whether `prune` would take a model and options. @throws what it would throw before any work on layers */
export function checkPruning(model: Module, options: PruneOptions): void {
  planOf(model, options);
}

/**
 * A copy of the model (or the model itself, `inPlace`) whose linear layers have zeros where the pattern drops weights; each says so in
 * `layer.pruned`, which files keep. `maskedTraining` makes the zeros hold in training, `sparsify` puts sparse kernels in their place.
 *
 * Calibrated methods go through the model block by block; each block's layers see what the pruned blocks before them give. All
 * options, weights and inputs are checked before any work.
 *
 * @example
 * ```ts
 * const calibration = calibrationBatches(dataset, { batches: 16 });
 * const half = await prune(gpt, { pattern: { sparsity: 0.5 }, method: 'wanda', calibration });
 * const semi = await prune(gpt, { pattern: '2:4', method: 'sparsegpt', calibration });
 * ```
 * @throws AttributeError if options contradict each other, name no layer, or n:m or squares do not divide a layer
 * @throws StateError if a weight or an activation is not finite, calibration misses a layer, a layer is pruned or quantised already, or
 * a Hessian stays singular
 */
export async function prune<M extends Module>(model: M, options: PruneOptions): Promise<M> {
  const { calibration, inPlace, onLayer, signal, journal } = options;
  checkBoolean(OP, 'inPlace', inPlace ?? false);
  const rehearsal = planOf(model, options);
  const calibrated = calibration !== undefined || [...rehearsal.values()].some(({ method }) => method !== 'magnitude');
  if (calibrated) checkCalibration(OP, calibration);
  await checkWeights(OP, rehearsal.keys());
  if (calibrated) await checkInputs(OP, model, [...rehearsal.keys()], calibration!);
  const result = inPlace ? model : (cloneModel(model as unknown as SavableModel) as unknown as M);
  let ready = new Map<Site<Linear>, Tensor>();
  try {
    const plan = inPlace ? rehearsal : planOf(result, options);
    ready = globalWeights(plan);
    const done = (await journal?.restore(result)) ?? new Set<string>();
    for (const site of [...plan.keys()]) if (done.has(site.path)) plan.delete(site);
    const visit = async (sites: readonly Site<Linear>[], statistics: InputStatistics | null): Promise<void> => {
      for (const site of sites) {
        signal?.throwIfAborted();
        const wanted = plan.get(site)!;
        const made = ready.get(site) ?? (await prunedWeight(site, wanted, statistics));
        const gram = statistics === null || onLayer === undefined ? null : statistics.get('gram');
        const report = await finishLayer(site, wanted, made, gram);
        onLayer?.(report);
      }
      const paths = sites.map(({ path }) => path);
      await journal?.record(result, paths);
    };
    const kinds = statisticsFor(plan, onLayer !== undefined);
    if (!calibrated) for (const site of plan.keys()) await visit([site], null);
    else await visitInputs(OP, result, [...plan.keys()], calibration!, { kinds }, visit);
    return result;
  } catch (error) {
    if (!inPlace) result.dispose();
    throw error;
  } finally {
    for (const weight of ready.values()) weight.dispose();
  }
}
