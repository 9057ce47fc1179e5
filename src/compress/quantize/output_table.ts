/**
 * The output layer of a model with tied tables, where the table is held in two stages (`int4+int4`): logits read the first stage alone, so that its
 * codes may be chosen for them, and the second stage gives back to look-ups what that takes.
 *
 * @module
 */
import { noGrad } from '../../autograd/grad.js';
import { GPT } from '../../models/gpt.js';
import type { Module } from '../../nn/module.js';
import { QuantizedEmbedding } from '../../nn/quantized_embedding.js';
import { place, sitesOf, type Site } from '../../nn/surgery.js';
import { synchronize } from '../../runtime/backend.js';
import { keep, scope } from '../../tensor/scope.js';
import type { Calibration } from '../calibration.js';
import { tableGrid } from '../embedding_tables.js';
import { InputStatistics } from '../input_statistics.js';
import { gptq, type GptqOptions } from './gptq.js';
import { roundToNearest } from './weight_codes.js';

/**
 * Damping at least: final hidden states are all of one length and strongly correlated, and with the 0.01 that suits layers within blocks codes of a
 * table fit the calibration text too closely.
 */
const LEAST_DAMPING = 0.1;

const isTable = (module: Module): module is QuantizedEmbedding => module instanceof QuantizedEmbedding;

/** The site of a tied table in two stages; null if there is none. */
function stagedOutput(model: Module): Site<QuantizedEmbedding> | null {
  if (!(model instanceof GPT) || model.head !== null) return null;
  const site = [...sitesOf(model, isTable).values()].find(({ layer }) => (layer as Module) === model.tokens);
  return site === undefined || site.layer.remainder === null ? null : site;
}

/** Path of the table whose codes {@link chooseOutputCodes} would choose; null if the model has none. */
export const outputTableOf = (model: Module): string | null => stagedOutput(model)?.path ?? null;

/**
 * Chooses the first stage of a tied table by GPTQ, with the final hidden states of the calibration inputs as the layer's inputs, and makes the
 * second stage anew.
 *
 * @throws StateError if the Hessian cannot be factored
 */
export async function chooseOutputCodes(
  op: string,
  model: Module,
  calibration: Calibration,
  { actOrder, damping }: Pick<GptqOptions, 'actOrder' | 'damping'>,
): Promise<void> {
  const site = stagedOutput(model)!;
  const { layer, path } = site;
  const wasTraining = model.training;
  const statistics = new InputStatistics(['gram']);
  const weight = keep(layer.weight);
  try {
    model.eval();
    for (const ids of calibration) {
      scope(() => noGrad(() => statistics.add((model as GPT).hidden(ids))));
      await synchronize();
    }
    const options = { ...tableGrid, actOrder, damping: Math.max(damping, LEAST_DAMPING) };
    const first = await gptq(op, path, weight, statistics.get('gram'), statistics.rows, options);
    const made = QuantizedEmbedding.inFourBits(weight, 'int4+int4', (rest) => roundToNearest(rest, tableGrid), first);
    made.train(layer.training);
    place(op, site, made);
    layer.dispose();
  } finally {
    model.train(wasTraining);
    statistics.dispose();
    weight.dispose();
  }
}
