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
import { amax } from '../../ops/reduce.js';
import { where } from '../../ops/where.js';
import { eq } from '../../ops/comparison.js';
import { unsqueeze } from '../../ops/views.js';
import { keep, scope } from '../../tensor/scope.js';
import type { Tensor } from '../../tensor/tensor.js';
import type { InputStatistics, StatisticKind } from '../input_statistics.js';
import type { ResolvedQuantization } from './scheme.js';
import { applyScales, awqScales, smoothQuantScales, type Rounding } from './smoothing.js';

/** Of the inputs as the layers' codes will meet them. */
export interface CalibratedInputs {
  /** XᵀX `[in, in]`. */
  readonly gram: Tensor;
  readonly rows: number;
  /** What the layers have to multiply their inputs by first, or null. */
  readonly inputFactor: Tensor | null;
  /** Scale of static int8 inputs, a scalar, or null. */
  readonly inputScale: Tensor | null;
  dispose(): void;
}

/** What has to be gathered for a scheme. */
export function statisticsFor({ method, activations }: ResolvedQuantization): StatisticKind[] {
  const kinds: StatisticKind[] = ['gram'];
  if (method === 'smoothquant' || activations === 'static') kinds.push('absMax');
  if (method === 'awq') kinds.push('absSum');
  return kinds;
}

/**
 * Applies the method's scales to layers of one scheme (their weights, and the norm before them, change in place) and says what their inputs
 * are like then.
 */
export async function calibratedInputs(
  model: Module,
  sites: readonly Site<Linear>[],
  wanted: ResolvedQuantization,
  statistics: InputStatistics,
  rounding: Rounding,
): Promise<CalibratedInputs> {
  const { method, activations, smoothing } = wanted;
  const weights = sites.map(({ layer }) => layer.weight);
  let scales: Tensor | null = null;
  if (method === 'smoothquant') scales = smoothQuantScales(weights, statistics.get('absMax'), smoothing);
  if (method === 'awq') {
    const absMean = scope(() => noGrad(() => div(statistics.get('absSum'), statistics.rows)));
    ({ scales } = await awqScales(weights, absMean, statistics.get('gram'), rounding));
    absMean.dispose();
  }
  const inputFactor = scales === null ? null : applyScales(model, sites, scales);
  const [gram, inputScale] = scope(() =>
    noGrad(() => {
      const raw = statistics.get('gram');
      const made = scales === null ? raw : div(raw, mul(unsqueeze(scales, 0), unsqueeze(scales, 1)));
      if (activations !== 'static') return [made, null] as const;
      const absMax = statistics.get('absMax');
      const largest = amax(scales === null ? absMax : div(absMax, scales));
      return [made, keep(where(eq(largest, 0), 1, div(largest, 127)))] as const;
    }),
  );
  scales?.dispose();
  const own = scales !== null;
  return {
    gram,
    rows: statistics.rows,
    inputFactor,
    inputScale,
    dispose() {
      if (own) gram.dispose(); // otherwise it belongs to the statistics
    },
  };
}
