/**
 * Going through a plan before any work: each step is asked whether it could be done with the model that the steps before would leave.
 *
 * @module
 */
import { AttributeError } from '../../errors.js';
import type { GPT } from '../../models/gpt.js';
import type { Calibration } from '../calibration.js';
import type { ResolvedPlan } from './plan.js';
import type { TrainFunction } from './step.js';

/** @throws the first reason why the plan could not be carried out, as far as it can be told before */
export async function rehearse(
  op: string,
  original: GPT,
  { steps }: ResolvedPlan,
  calibration: Calibration | null,
  train: TrainFunction | undefined,
): Promise<void> {
  for (const [i, { kind, options }] of steps.entries()) {
    if (!kind.needsCalibration(options) || calibration !== null) continue;
    const [expected, actual] = [`calibration data for steps[${i}], ${kind.name}`, 'none'];
    throw new AttributeError({ op, argument: 'calibration', expected, actual });
  }
  let model = original;
  try {
    for (const [i, { kind, options }] of steps.entries()) {
      const earlier = steps.slice(0, i).map(({ kind: { name } }) => name);
      kind.rehearse(model, options, { original, calibration, train, earlier });
      if (i === steps.length - 1 || kind.standIn === undefined) continue;
      const next = await kind.standIn(model, options);
      if (next === null) return;
      if (model !== original && next !== model) model.dispose();
      model = next;
    }
  } finally {
    if (model !== original) model.dispose();
  }
}
