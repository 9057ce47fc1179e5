/**
 * Quantising a model's linear layers after training.
 *
 * @module
 */
import { noGrad } from '../../autograd/grad.js';
import { cloneModel, type SavableModel } from '../../models/saved_model.js';
import { Float8Linear } from '../../nn/float8_linear.js';
import { Int8Linear } from '../../nn/int8_linear.js';
import type { Linear } from '../../nn/linear.js';
import type { Module } from '../../nn/module.js';
import { QuantizedLinear } from '../../nn/quantized_linear.js';
import { SparseLinear } from '../../nn/sparse_linear.js';
import { place, sitesOf, type Site, type Target } from '../../nn/surgery.js';
import { dequantize, type Quantized } from '../../ops/quantization.js';
import { detach } from '../../ops/views.js';
import { unloadPages } from '../../runtime/cache.js';
import { keep, scope } from '../../tensor/scope.js';
import type { Tensor } from '../../tensor/tensor.js';
import { checkBoolean, checkKeys } from '../../util/assert.js';
import { checkCalibration, type Calibration } from '../calibration.js';
import { visitInputs, type VisitInputs } from '../calibrated_walk.js';
import { relativeOutputError } from '../hessian.js';
import type { LayerJournal } from '../layer_journal.js';
import { bytesOf, checkWeights, isLinear, linearSites, planLayers, type LayerPlan } from '../linear_sites.js';
import { checkSparseScheme, floatSparseSites, quantizeSparse } from './sparse_layers.js';
import { calibratedInputs, observesInputs, statisticsFor, type CalibratedInputs } from './calibrated_inputs.js';
import { gptq } from './gptq.js';
import { changeWholeModel, checkWholeModel, type WholeModelOptions } from './model_options.js';
import { ActivationObserver } from './observers.js';
import { chooseOutputCodes, outputTableOf } from './output_table.js';
import {
  checkGroups,
  layerQuantizationKeys,
  needsCalibration,
  resolveQuantization,
  type LayerQuantization,
  type ResolvedQuantization,
} from './scheme.js';
import type { Rounding } from './smoothing.js';
import { roundToNearest, type WeightGrid } from './weight_codes.js';

/** A scheme of their own for some layers, or none. */
export interface QuantizationOverride extends Partial<LayerQuantization> {
  readonly target: Target;
  /** Leave these layers as they are. */
  readonly skip?: boolean;
}

/** Options of {@link quantize}. */
export interface QuantizeModelOptions extends LayerQuantization, WholeModelOptions {
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

type Plan = LayerPlan<ResolvedQuantization>;

/** Dense layers, and sparse ones of float values, which are rounded alone. */
interface WholePlan {
  readonly dense: Plan;
  readonly sparse: LayerPlan<ResolvedQuantization, SparseLinear>;
}

const OP = 'quantize';

/** Options without those that are not of the scheme. */
function schemeOf(options: QuantizeModelOptions): LayerQuantization {
  const {
    target: _1,
    overrides: _2,
    calibration: _3,
    inPlace: _4,
    onLayer: _5,
    signal: _6,
    embeddings: _7,
    cacheDType: _8,
    journal: _9,
    ...own
  } = options;
  return own;
}

/** What happens to which layer. @throws AttributeError or StateError before any work */
function planOf(model: Module, options: QuantizeModelOptions): WholePlan {
  const { target = 'all-linear', overrides = [] } = options;
  const own = schemeOf(options);
  const general = resolveQuantization(OP, own);
  const sparseSites = floatSparseSites(model);
  const sites = sparseSites.length > 0 ? [...sitesOf(model, isLinear).values()] : linearSites(OP, model);
  const rules = overrides.map((override, i) => {
    checkKeys(`${OP}: overrides[${i}]`, override, ['target', 'skip', ...layerQuantizationKeys]);
    const { target: match, skip = false, ...change } = override;
    const scheme = change.scheme === undefined || change.scheme === own.scheme ? { ...own, ...change } : change;
    return { target: match, resolved: skip ? null : resolveQuantization(OP, scheme as LayerQuantization) };
  });
  const [dense, sparse]: [Plan, WholePlan['sparse']] = [new Map(), new Map()];
  const plan = planLayers<ResolvedQuantization, Linear | SparseLinear>(
    OP,
    [...sites, ...sparseSites],
    target,
    general,
    rules,
  );
  for (const [site, resolved] of plan) {
    const { path, layer } = site;
    if (layer instanceof SparseLinear) {
      checkSparseScheme(OP, path, resolved);
      sparse.set(site as Site<SparseLinear>, resolved);
    } else {
      checkGroups(OP, path, layer.inFeatures, resolved);
      dense.set(site as Site<Linear>, resolved);
    }
  }
  return { dense, sparse };
}

const gridFor = ({ codes, bits, groupSize, scaleDType, weightObserver }: ResolvedQuantization): WeightGrid => ({
  scheme: codes,
  bits,
  groupSize,
  scaleDType,
  weightObserver,
});

/** Codes by the method that was asked for. */
async function codesOf(
  { path, layer }: Site<Linear>,
  wanted: ResolvedQuantization,
  inputs: CalibratedInputs | null,
): Promise<Quantized> {
  if (wanted.method !== 'gptq')
    return roundToNearest(layer.weight, gridFor(wanted), wanted.method === 'awq' ? inputs!.gram : null);
  const { actOrder, damping, codes } = wanted;
  const keepZeros = layer.pruned !== null;
  const options = { ...gridFor(wanted), scheme: codes as 'symmetric' | 'affine', actOrder, damping, keepZeros };
  return gptq(OP, path, layer.weight, inputs!.gram, inputs!.rows, options);
}

/** ‖X·(W − Ŵ)ᵀ‖² / ‖X·Wᵀ‖² of a layer's new weight, which is freed. */
async function errorOf(layer: Linear, back: Tensor, inputs: CalibratedInputs): Promise<number> {
  try {
    return await relativeOutputError(layer.weight, back, inputs.gram);
  } finally {
    back.dispose();
  }
}

/** The layer that takes another's place, and what it loses of the output. */
async function madeOf(
  site: Site<Linear>,
  wanted: ResolvedQuantization,
  inputs: CalibratedInputs | null,
): Promise<{ made: Int8Linear | QuantizedLinear | Float8Linear; outputError: number | null }> {
  const { layer } = site;
  const { scheme, float8, doubleQuant } = wanted;
  if (float8 !== null) {
    const made = Float8Linear.from(layer, float8);
    return { made, outputError: inputs === null ? null : await errorOf(layer, made.weight, inputs) };
  }
  const weight = await codesOf(site, wanted, inputs);
  const { codes = null, inputFactor = null } = inputs ?? {};
  if (scheme === 'w8a8') {
    const inputScale = codes?.scale ?? null;
    const made = new Int8Linear(weight, layer.bias, {
      inputScale,
      inputZeroPoint: codes?.zeroPoint ?? null,
      inputFactor,
    });
    return {
      made,
      outputError:
        inputs === null
          ? null
          : await errorOf(
              layer,
              noGrad(() => dequantize(weight)),
              inputs,
            ),
    };
  }
  const made = QuantizedLinear.of(weight, layer.bias, scheme === 'w4a8' ? 'int8' : 'float', doubleQuant);
  if (inputFactor !== null) made.inputFactor = keep(detach(inputFactor));
  const back = (): Tensor => scope(() => noGrad(() => dequantize(made.weight)));
  return { made, outputError: inputs === null ? null : await errorOf(layer, back(), inputs) };
}

/** Replaces one layer. */
async function quantizeLayer(
  site: Site<Linear>,
  wanted: ResolvedQuantization,
  inputs: CalibratedInputs | null,
): Promise<QuantizedLayerReport> {
  const { path, layer } = site;
  const { made, outputError } = await madeOf(site, wanted, inputs);
  const { scheme, method } = wanted;
  made.train(layer.training);
  const report = { path, scheme, method, outputError, bytesBefore: bytesOf(layer), bytesAfter: bytesOf(made) };
  place(OP, site, made);
  unloadPages(layer.weight);
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

/** @internal Whether `quantize` would take a model and options. @throws what it would throw before any work on layers */
export function checkQuantization(model: Module, options: QuantizeModelOptions): void {
  checkWholeModel(OP, model, options);
  planOf(model, options);
}

/**
 * A copy of the model (or the model itself, `inPlace`) with quantised linear layers, which run on the integer kernels as they are. The
 * output layer stays as it is unless `target` names it; embeddings stay.
 *
 * Calibrated methods go through the model block by block; each block's layers see what the quantised blocks before them give. All
 * options are checked before any work. The zeros of pruned layers stay zeros. GPTQ also chooses what logits read of a tied token table in two stages
 * (`embeddings: 'int4+int4'`).
 *
 * Sparse layers of float values (`sparsify`) get 8-bit codes for the values that they keep, to nearest, by `w8a8` and `w8a16`; they take
 * floats either way.
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
  checkWholeModel(OP, model, options);
  const rehearsal = planOf(model, options);
  const calibrated = [...rehearsal.dense.values()].some(needsCalibration) || calibration !== undefined;
  if (calibrated) checkCalibration(OP, calibration);
  await checkWeights(OP, rehearsal.dense.keys());
  const result = inPlace ? model : (cloneModel(model as unknown as SavableModel) as unknown as M);
  try {
    const { dense: plan, sparse } = inPlace ? rehearsal : planOf(result, options);
    changeWholeModel(OP, result, options);
    const done = (await journal?.restore(result)) ?? new Set<string>();
    for (const site of [...plan.keys()]) if (done.has(site.path)) plan.delete(site);
    for (const site of sparse.keys()) {
      if (done.has(site.path)) continue;
      signal?.throwIfAborted();
      const report = await quantizeSparse(OP, site);
      onLayer?.(report);
      await journal?.record(result, [site.path]);
    }
    const { method, actOrder, damping } = resolveQuantization(OP, schemeOf(options));
    const table = method === 'gptq' && calibration !== undefined ? outputTableOf(result) : null;
    const finish = async (): Promise<M> => {
      if (table === null || done.has(table)) return result;
      signal?.throwIfAborted();
      await chooseOutputCodes(OP, result, calibration!, { actOrder, damping });
      await journal?.record(result, [table]);
      return result;
    };
    if (plan.size === 0) return await finish();
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
    const group: VisitInputs = async (sites, statistics, run) => {
      for (const part of alike(sites, plan)) {
        const wanted = plan.get(part[0]!)!;
        const rounding: Rounding = (weight) =>
          dequantize(roundToNearest(weight, { ...gridFor(wanted), weightObserver: 'minmax' }));
        const inputs = await calibratedInputs(result, part, wanted, statistics, rounding, run);
        try {
          await layers(part, inputs);
        } finally {
          inputs.dispose();
        }
      }
    };
    const kinds = [...new Set([...plan.values()].flatMap(statisticsFor))];
    const observer = [...plan.values()].some(observesInputs) ? { observer: () => new ActivationObserver() } : {};
    await visitInputs(OP, result, [...plan.keys()], calibration!, { kinds, ...observer }, group);
    return await finish();
  } catch (error) {
    if (!inPlace) result.dispose();
    throw error;
  }
}
