/** A small GPT that has learnt something, so that its weights and activations are not noise: for the tests of compression. */
import * as og from '../../src/index.js';
import { tinyTokens } from './tiny_run.js';

/** Windows of 32 tokens. */
export const tinyDataset = new og.TextDataset(tinyTokens(), { context: 32, shift: false });

/** Trains a model for some steps. */
export async function trainTiny(model: og.GPT, options: Partial<og.TrainerOptions<og.GPT>> = {}): Promise<og.GPT> {
  const trainer = new og.Trainer(model, {
    train: tinyDataset,
    batchSize: 16,
    steps: 60,
    optimizer: (parameters) => new og.optim.AdamW(parameters, { lr: 3e-3 }),
    ...options,
  });
  for await (const _ of trainer.run());
  return model.eval();
}

/** A GPT of two layers of width 64, trained for 60 steps. */
export function trainedTiny(config: Partial<og.GPTConfig> = {}, seed = 7): Promise<og.GPT> {
  const own = { vocabSize: 32, context: 32, layers: 2, heads: 2, width: 64, ...config };
  return trainTiny(new og.GPT(own, { generator: og.generator(seed) }));
}

/** Mean loss over the first windows of the data. */
export function tinyLoss(model: og.GPT): number {
  const { x, y } = tinyDataset.batch(Array.from({ length: 32 }, (_, i) => i), 0); // prettier-ignore
  const loss = og.scope(() => og.noGrad(() => model.loss(x, y).itemSync() as number));
  x.dispose();
  y.dispose();
  return loss;
}
