/**
 * What calibration has to say about the inputs of layers that share them, made ready for choosing codes.
 *
 * @module
 */
import { noGrad } from '../../autograd/grad.js';
import type { Linear } from '../../nn/linear.js';
import type { Module } from '../../nn/module.js';
import type { Site } from '../../nn/surgery.js';
import { div, mul } from '../../ops/arithmetic.js';
import { unsqueeze } from '../../ops/views.js';
import { keep, scope } from '../../tensor/scope.js';
import type { Tensor } from '../../tensor/tensor.js';
import { observeInputs, type InputStatistics, type StatisticKind } from '../input_statistics.js';
import { ActivationObserver, codesForRange, type ActivationCodes } from './observers.js';
import type { ResolvedQuantization } from './scheme.js';
import { applyScales, awqScales, smoothQuantScales, type Rounding } from './smoothing.js';

/** Of the inputs as the layers' codes will meet them. */
export interface CalibratedInputs {
  /** XᵀX `[in, in]`. */
  readonly gram: Tensor;
  readonly rows: number;
  /** What the layers have to multiply their inputs by first, or null. */
  readonly inputFactor: Tensor | null;
  /** Of static inputs, or null. */
  readonly codes: ActivationCodes | null;
  dispose(): void;
}

/** What has to be gathered for a scheme. */
export function statisticsFor({ method }: ResolvedQuantization): StatisticKind[] {
  const kinds: StatisticKind[] = ['gram'];
  if (method === 'smoothquant') kinds.push('absMax');
  if (method === 'awq') kinds.push('absSum');
  return kinds;
}

/** Whether inputs have to be observed as they come: static ones that no method scales. */
export function observesInputs({ method, activations }: ResolvedQuantization): boolean {
  return activations === 'static' && (method === 'rtn' || method === 'gptq');
}

/** Observes inputs once more, as scales left them. */
async function observeScaled(
  sites: readonly Site<Linear>[],
  inputFactor: Tensor | null,
  run: () => Promise<void>,
): Promise<ActivationObserver> {
  const observer = new ActivationObserver();
  const scaled = {
    add: (rows: Tensor): void => observer.add(inputFactor === null ? rows : mul(rows, inputFactor)),
  };
  const { groups } = await observeInputs(sites, { kinds: [], observer: () => scaled }, run);
  for (const { statistics } of groups) statistics.dispose();
  return observer;
}

/**
 * Applies the method's scales to layers of one scheme (their weights, and the norm before them, change in place) and says what their inputs
 * are like then. `run` calls the model on the calibration inputs.
 */
export async function calibratedInputs(
  model: Module,
  sites: readonly Site<Linear>[],
  wanted: ResolvedQuantization,
  statistics: InputStatistics,
  rounding: Rounding,
  run: () => Promise<void>,
): Promise<CalibratedInputs> {
  const { method, activations, activationScheme, observer, percentile, smoothing } = wanted;
  const weights = sites.map(({ layer }) => layer.weight);
  let scales: Tensor | null = null;
  if (method === 'smoothquant') scales = smoothQuantScales(weights, statistics.get('absMax'), smoothing);
  if (method === 'awq') {
    const absMean = scope(() => noGrad(() => div(statistics.get('absSum'), statistics.rows)));
    ({ scales } = await awqScales(weights, absMean, statistics.get('gram'), rounding));
    absMean.dispose();
  }
  const inputFactor = scales === null ? null : applyScales(model, sites, scales);
  let codes: ActivationCodes | null = null;
  if (activations === 'static') {
    const seen = scales === null ? statistics.observer : await observeScaled(sites, inputFactor, run);
    const symmetric = activationScheme === 'symmetric';
    const range = (seen as ActivationObserver).range(observer, symmetric, percentile);
    codes = scope(() => {
      const { scale, zeroPoint } = codesForRange(range, symmetric);
      return { scale: keep(scale), zeroPoint: zeroPoint === null ? null : keep(zeroPoint) };
    });
  }
  const raw = statistics.get('gram');
  const gram =
    scales === null ? raw : scope(() => noGrad(() => div(raw, mul(unsqueeze(scales, 0), unsqueeze(scales, 1)))));
  scales?.dispose();
  return {
    gram,
    rows: statistics.rows,
    inputFactor,
    codes,
    dispose() {
      if (gram !== raw) gram.dispose(); // otherwise it belongs to the statistics
      for (const tensor of [inputFactor, codes?.scale, codes?.zeroPoint]) tensor?.dispose();
    },
  };
}
