/** Runs of the one training loop, with what they took. */
import { rm } from 'node:fs/promises';
import path from 'node:path';
import * as og from '../../src/index.js';
import { say } from './cli.js';
import type { Encoded } from './text.js';

/** What a run took. */
export interface Cost {
  readonly seconds: number;
  /** Bytes of all tensors at their most. */
  readonly peakBytes: number;
  readonly reason: og.DoneEvent['reason'];
}

/** Runs a trainer to its end. */
export async function runToEnd<M extends og.nn.Module, B>(
  trainer: og.Trainer<M, B>,
  options?: og.RunOptions,
): Promise<Cost> {
  await og.synchronize();
  og.resetPeakMemory();
  let [seconds, reason]: [number, Cost['reason']] = [0, 'finished'];
  for await (const event of trainer.run(options)) {
    if (event.type === 'resume') say(`Goes on from step ${event.step}.`);
    if (event.type === 'done') [seconds, reason] = [event.elapsed, event.reason];
  }
  return { seconds, peakBytes: og.memory().peakBytes, reason };
}

/** A table's cells about a cost. */
export const costCells = ({ seconds, peakBytes }: Cost): Record<string, string> => ({
  seconds: seconds.toFixed(1),
  memory: og.formatBytes(peakBytes),
});

/** How a GPT is trained on text. */
export interface TextTraining {
  readonly steps: number;
  readonly batchSize: number;
  readonly lr: number;
  readonly seed: number;
  /** Folder of the run's log; what was there goes. */
  readonly dir: string;
  readonly card?: Readonly<Record<string, unknown>>;
}

/** Trains a GPT on text: AdamW, a cosine, a log. */
export async function trainOnText(model: og.GPT, train: Encoded, valid: Encoded, options: TextTraining): Promise<Cost> {
  const { steps, batchSize, lr, seed, dir, card } = options;
  const { context } = model.config;
  const config = { steps, batchSize, lr, seed, model: model.config };
  const dataset = new og.TextDataset(train.ids, { context, seed });
  const held = new og.TextDataset(valid.ids, { context, shift: false });
  await rm(dir, { recursive: true, force: true });
  const logger = new og.RunLogger<og.GPT>({ dir, config, tensorboard: false, ...(card === undefined ? {} : { card }) });
  const trainer = new og.Trainer(model, {
    train: dataset,
    valid: held,
    batchSize: Math.min(batchSize, dataset.length),
    steps,
    seed,
    optimizer: (parameters) => new og.optim.AdamW(parameters, { lr, betas: [0.9, 0.95], weightDecay: 0.1 }),
    schedule: og.schedules.cosine({ warmup: Math.min(50, steps >> 3), end: 0.05 }),
    clipGradNorm: 1,
    evalEvery: Math.max(10, Math.ceil(steps / 6)),
    evalBatches: 8,
    callbacks: [new og.TrainingProgress<og.GPT>(), logger],
  });
  try {
    return await runToEnd(trainer);
  } finally {
    trainer.optimizer.dispose();
    for (const { tokens } of [dataset, held]) if (tokens instanceof og.Tensor) tokens.dispose();
  }
}

/**
 * The model in a folder, if it was made with these settings; else a new one, which is saved there.
 *
 * @returns the seconds that making it took, 0 if it was there
 */
export async function baseModel(
  folder: string,
  settings: Readonly<Record<string, unknown>>,
  make: () => Promise<{ readonly model: og.GPT; readonly tokenizer: og.BpeTokenizer; readonly seconds: number }>,
): Promise<{ readonly model: og.GPT; readonly tokenizer: og.Tokenizer; readonly seconds: number }> {
  const found = await og.load(folder).catch((error: unknown) => {
    if (error instanceof og.OmniError) return null;
    throw error;
  });
  if (found !== null && found.tokenizer !== null && og.configDifferences([found.card, settings]).length === 0) {
    say(`Pre-trained model of ${path.relative('', folder)}, from an earlier run.`);
    return { model: found.model, tokenizer: found.tokenizer, seconds: 0 };
  }
  const made = await make();
  await og.saveModel(folder, made.model, { tokenizer: made.tokenizer, card: settings });
  return made;
}
