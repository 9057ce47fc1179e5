/**
 * Quantising a model's linear layers after training.
 *
 * @module
 */
import { AttributeError, StateError } from '../../errors.js';
import { noGrad } from '../../autograd/grad.js';
import { cloneModel, type SavableModel } from '../../models/saved_model.js';
import { Int8Linear } from '../../nn/int8_linear.js';
import { Linear } from '../../nn/linear.js';
import type { Module } from '../../nn/module.js';
import { QuantizedLinear } from '../../nn/quantized_linear.js';
import { chooseSites, matcher, place, sitesOf, type Site, type Target } from '../../nn/surgery.js';
import { all } from '../../ops/reduce.js';
import { isFinite } from '../../ops/unary.js';
import { dequantize, quantize as quantizeTensor, type Quantized } from '../../ops/quantization.js';
import { detach } from '../../ops/views.js';
import { synchronize } from '../../runtime/backend.js';
import { item } from '../../tensor/read.js';
import { keep, scope } from '../../tensor/scope.js';
import type { Tensor } from '../../tensor/tensor.js';
import { checkBoolean, checkKeys } from '../../util/assert.js';
import { blocksOf, walkBlocks } from '../block_walk.js';
import { checkCalibration, type Calibration } from '../calibration.js';
import { relativeOutputError } from '../hessian.js';
import type { LayerJournal } from '../layer_journal.js';
import { observeInputs, type InputStatistics, type StatisticKind } from '../input_statistics.js';
import { calibratedInputs, statisticsFor, type CalibratedInputs } from './calibrated_inputs.js';
import { gptq } from './gptq.js';
import {
  layerQuantizationKeys,
  needsCalibration,
  resolveQuantization,
  type LayerQuantization,
  type ResolvedQuantization,
} from './scheme.js';
import type { Rounding } from './smoothing.js';

/** A scheme of their own for some layers, or none. */
export interface QuantizationOverride extends Partial<LayerQuantization> {
  readonly target: Target;
  /** Leave these layers as they are. */
  readonly skip?: boolean;
}

/** Options of {@link quantize}. */
export interface QuantizeModelOptions extends LayerQuantization {
  /** What the model sees while its activations are measured. Needed by all methods but `rtn`, and by static activations. */
  readonly calibration?: Calibration;
  /** Which layers. Default: all linear layers but the output layer. */
  readonly target?: Target;
  /** Layers that get another scheme, or stay; later entries win. */
  readonly overrides?: readonly QuantizationOverride[];
  /** Change the model itself instead of a copy. Default false. */
  readonly inPlace?: boolean;
  /** Told of each layer when it is done. */
  readonly onLayer?: (report: QuantizedLayerReport) => void;
  /** Stops between layers; the promise is rejected with its reason. */
  readonly signal?: AbortSignal;
  /** Keeps finished layers, so that the same call goes on after an interruption: see `folderJournal`. Default: none. */
  readonly journal?: LayerJournal;
}

/** What became of one layer. */
export interface QuantizedLayerReport {
  readonly path: string;
  readonly scheme: ResolvedQuantization['scheme'];
  readonly method: ResolvedQuantization['method'];
  /** ‖X·(W − Ŵ)ᵀ‖² / ‖X·Wᵀ‖² over the calibration inputs; null without calibration. */
  readonly outputError: number | null;
  /** Of weight and bias. */
  readonly bytesBefore: number;
  readonly bytesAfter: number;
}

type Plan = Map<Site<Linear>, ResolvedQuantization>;
const OP = 'quantize';

const isLinear = (module: Module): module is Linear => Object.getPrototypeOf(module) === Linear.prototype;
const bytesOf = (layer: Module): number =>
  scope(() => Object.values(layer.stateDict()).reduce((sum, { bytes }) => sum + bytes, 0));

/** What happens to which layer. @throws AttributeError or StateError before any work */
function planOf(model: Module, options: QuantizeModelOptions): Plan {
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
  const general = resolveQuantization(OP, own);
  const sites = [...sitesOf(model, isLinear).values()];
  if (sites.length === 0) {
    const isDone = [...model.namedModules()].some(([, m]) => m instanceof QuantizedLinear || m instanceof Int8Linear);
    const actual = isDone ? 'one that is quantised already' : 'one without any';
    throw new StateError({ op: OP, argument: 'model', expected: 'a model with linear layers', actual });
  }
  const rules = overrides.map((override, i) => {
    checkKeys(`${OP}: overrides[${i}]`, override, ['target', 'skip', ...layerQuantizationKeys]);
    const { target: match, skip = false, ...change } = override;
    const matches = matcher(OP, `overrides[${i}].target`, match);
    if (!sites.some(({ path }) => matches(path))) chooseSites(OP, sites, match);
    const scheme = change.scheme === undefined || change.scheme === own.scheme ? { ...own, ...change } : change;
    return { matches, resolved: skip ? null : resolveQuantization(OP, scheme as LayerQuantization) };
  });
  const plan: Plan = new Map();
  for (const site of chooseSites(OP, sites, target)) {
    const rule = rules.findLast(({ matches }) => matches(site.path));
    const resolved = rule === undefined ? general : rule.resolved;
    if (resolved === null) continue;
    checkGroups(site, resolved);
    plan.set(site, resolved);
  }
  if (plan.size === 0) {
    throw new AttributeError({ op: OP, argument: 'overrides', expected: 'some layer left', actual: 'all are skipped' });
  }
  return plan;
}

function checkGroups({ path, layer }: Site<Linear>, { groupSize, bits }: ResolvedQuantization): void {
  const { inFeatures } = layer;
  if (groupSize !== null && inFeatures % groupSize !== 0) {
    const divisors = [32, 64, 128].filter((size) => inFeatures % size === 0);
    throw new AttributeError({
      op: OP,
      argument: 'groupSize',
      expected: `a divisor of the ${inFeatures} inputs of ${path}`,
      actual: String(groupSize),
      hint: divisors.length > 0 ? `Use ${divisors.join(' or ')}, or an override` : 'Skip the layer with an override',
    });
  }
  if (bits === 4 && inFeatures % 2 !== 0) {
    const [expected, actual] = ['an even number of inputs for 4 bits', `${path} has ${inFeatures}`];
    throw new AttributeError({ op: OP, argument: 'scheme', expected, actual });
  }
}

/** @throws StateError naming the first layer with a weight that is not finite */
async function checkWeights(plan: Plan): Promise<void> {
  for (const { path, layer } of plan.keys()) {
    const finite = scope(() => noGrad(() => all(isFinite(layer.weight))));
    const isGood = await item(finite);
    finite.dispose();
    if (!isGood) {
      const actual = 'NaN or infinities';
      throw new StateError({ op: OP, argument: `${path}.weight`, expected: 'finite weights', actual });
    }
  }
}

function roundToNearest(weight: Tensor, { codes, bits, scaleDType, groupSize }: ResolvedQuantization): Quantized {
  const grouping = groupSize === null ? { axis: 0 } : { groupSize };
  return scope(() =>
    noGrad(() => quantizeTensor(detach(weight), { scheme: codes, bits, scaleDType, packed: bits === 4, ...grouping })),
  );
}

/** Codes by the method that was asked for. */
async function codesOf(
  { path, layer }: Site<Linear>,
  wanted: ResolvedQuantization,
  inputs: CalibratedInputs | null,
): Promise<Quantized> {
  if (wanted.method !== 'gptq') return roundToNearest(layer.weight, wanted);
  const { codes, bits, groupSize, scaleDType, actOrder, damping } = wanted;
  const options = { scheme: codes as 'symmetric' | 'affine', bits, groupSize, scaleDType, actOrder, damping };
  return gptq(OP, path, layer.weight, inputs!.gram, inputs!.rows, options);
}

/** Replaces one layer. */
async function quantizeLayer(
  site: Site<Linear>,
  wanted: ResolvedQuantization,
  inputs: CalibratedInputs | null,
): Promise<QuantizedLayerReport> {
  const { path, layer } = site;
  const weight = await codesOf(site, wanted, inputs);
  let outputError: number | null = null;
  if (inputs !== null) {
    const back = noGrad(() => dequantize(weight));
    outputError = await relativeOutputError(layer.weight, back, inputs.gram);
    back.dispose();
  }
  const { scheme, method } = wanted;
  const { inputScale = null, inputFactor = null } = inputs ?? {};
  const made =
    scheme === 'w8a8'
      ? new Int8Linear(weight, layer.bias, { inputScale, inputFactor })
      : QuantizedLinear.of(weight, layer.bias, scheme === 'w4a8' ? 'int8' : 'float');
  if (made instanceof QuantizedLinear && inputFactor !== null) made.inputFactor = keep(detach(inputFactor));
  made.train(layer.training);
  const report = { path, scheme, method, outputError, bytesBefore: bytesOf(layer), bytesAfter: bytesOf(made) };
  place(OP, site, made);
  layer.dispose();
  return report;
}

/** Sites of one input, in runs of equal schemes. */
function alike(sites: readonly Site<Linear>[], plan: Plan): Site<Linear>[][] {
  const parts = new Map<string, Site<Linear>[]>();
  for (const site of sites) {
    const key = JSON.stringify(plan.get(site));
    parts.set(key, [...(parts.get(key) ?? []), site]);
  }
  return [...parts.values()];
}

/** @throws StateError naming layers that calibration never reached */
function refuseUnreached(unreached: readonly Site[]): void {
  if (unreached.length === 0) return;
  throw new StateError({
    op: OP,
    argument: 'calibration',
    expected: 'inputs that reach every layer',
    actual: `${unreached.map(({ path }) => path).join(', ')} never ran`,
    hint: 'Calibrate with other data, or skip the layers with an override',
  });
}

/** Runs the whole model on the calibration inputs. */
async function runWhole(model: Module, calibration: Calibration): Promise<void> {
  for (const input of calibration) {
    scope(() => noGrad(() => void (model.forward as (x: Tensor) => unknown)(input)));
    await synchronize();
  }
}

/** Layers with one input at a time, in the order of their calls: those behind see what the quantised ones before them give. */
async function oneByOne(
  sites: readonly Site<Linear>[],
  kinds: readonly StatisticKind[],
  run: () => Promise<void>,
  finish: (sites: readonly Site<Linear>[], statistics: InputStatistics) => Promise<void>,
): Promise<void> {
  if (sites.length === 0) return;
  const first = await observeInputs(sites, { kinds: [] }, run);
  for (const { statistics } of first.groups) statistics.dispose();
  refuseUnreached(first.unreached);
  for (const group of first.groups) {
    const { groups } = await observeInputs(group.sites, { kinds }, run);
    try {
      for (const { sites: of, statistics } of groups) await finish(of, statistics);
    } finally {
      for (const { statistics } of groups) statistics.dispose();
    }
  }
}

/** @internal Whether `quantize` would take a model and options. @throws what it would throw before any work on layers */
export function checkQuantization(model: Module, options: QuantizeModelOptions): void {
  planOf(model, options);
}

/**
 * A copy of the model (or the model itself, `inPlace`) with quantised linear layers, which run on the integer kernels as they are. The
 * output layer stays as it is unless `target` names it; embeddings stay.
 *
 * Calibrated methods go through the model block by block; each block's layers see what the quantised blocks before them give. All
 * options are checked before any work.
 *
 * @example
 * ```ts
 * const calibration = calibrationBatches(dataset, { batches: 16 });
 * const int4 = await quantize(gpt, { scheme: 'w4a16', method: 'gptq', calibration });
 * ```
 * @throws AttributeError if options contradict each other, name no layer, or groups do not divide a layer's inputs
 * @throws StateError if a weight or an activation is not finite, calibration misses a layer, or the model is quantised already
 */
export async function quantize<M extends Module>(model: M, options: QuantizeModelOptions): Promise<M> {
  const { calibration, inPlace, onLayer, signal, journal } = options;
  checkBoolean(OP, 'inPlace', inPlace ?? false);
  const rehearsal = planOf(model, options);
  const calibrated = [...rehearsal.values()].some(needsCalibration) || calibration !== undefined;
  if (calibrated) checkCalibration(OP, calibration);
  await checkWeights(rehearsal);
  const result = inPlace ? model : (cloneModel(model as unknown as SavableModel) as unknown as M);
  try {
    const plan = inPlace ? rehearsal : planOf(result, options);
    const done = (await journal?.restore(result)) ?? new Set<string>();
    for (const site of [...plan.keys()]) if (done.has(site.path)) plan.delete(site);
    const layers = async (sites: readonly Site<Linear>[], inputs: CalibratedInputs | null): Promise<void> => {
      for (const site of sites) {
        signal?.throwIfAborted();
        const report = await quantizeLayer(site, plan.get(site)!, inputs);
        onLayer?.(report);
      }
      const paths = sites.map(({ path }) => path);
      await journal?.record(result, paths);
    };
    if (!calibrated) {
      for (const site of plan.keys()) await layers([site], null);
      return result;
    }
    const group = async (sites: readonly Site<Linear>[], statistics: InputStatistics): Promise<void> => {
      for (const part of alike(sites, plan)) {
        const wanted = plan.get(part[0]!)!;
        const rounding: Rounding = (weight) => dequantize(roundToNearest(weight, wanted));
        const inputs = await calibratedInputs(result, part, wanted, statistics, rounding);
        try {
          await layers(part, inputs);
        } finally {
          inputs.inputFactor?.dispose();
          inputs.inputScale?.dispose();
          inputs.dispose();
        }
      }
    };
    const kinds = [...new Set([...plan.values()].flatMap(statisticsFor))];
    const within = (prefix: string, sites: readonly Site<Linear>[]): Site<Linear>[] =>
      sites.filter(({ path }) => prefix === '' || path.startsWith(`${prefix}.`));
    const blocks = blocksOf(result).map(([path]) => path);
    const outside = [...plan.keys()].filter(
      ({ path }) => !blocks.some((prefix) => prefix === '' || path.startsWith(`${prefix}.`)),
    );
    for await (const { path, observe } of walkBlocks(OP, result, calibration!)) {
      await oneByOne(within(path, [...plan.keys()]), kinds, observe, group);
    }
    await oneByOne(outside, kinds, () => runWhole(result, calibration!), group);
    return result;
  } catch (error) {
    if (!inPlace) result.dispose();
    throw error;
  }
}
