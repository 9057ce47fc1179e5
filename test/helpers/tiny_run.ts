/** A small training run with dropout and checkpoints, for the tests of resuming; as a program it trains and prints steps. */
import { pathToFileURL } from 'node:url';
import * as og from '../../src/index.js';
import { optim, schedules } from '../../src/index.js';
import { tinyTokens } from './tiny_tokens.js';

export { tinyTokens };

export interface TinyRunOptions {
  readonly dir?: string;
  readonly steps?: number;
  readonly every?: number;
  readonly dropout?: number;
}

export function tinyModel(dropout = 0): og.GPT {
  const config = { vocabSize: 32, context: 16, layers: 2, heads: 2, width: 32, dropout };
  return new og.GPT(config, dropout > 0 ? {} : { generator: og.generator(7) });
}

export function tinyTrainer({ dir, steps = 60, every = 5, dropout = 0.1 }: TinyRunOptions): og.Trainer<og.GPT> {
  og.manualSeed(99);
  const model = tinyModel(dropout);
  const tokens = tinyTokens();
  return new og.Trainer(model, {
    train: new og.TextDataset(tokens.subarray(0, 3600), { context: 16 }),
    valid: new og.TextDataset(tokens.subarray(3600), { context: 16, shift: false }),
    batchSize: 8,
    gradientAccumulation: 2,
    steps,
    optimizer: (parameters) => new optim.AdamW(parameters, { lr: 5e-3 }),
    schedule: schedules.cosine({ warmup: 5 }),
    clipGradNorm: 1,
    ema: 0.9,
    evalEvery: 20,
    seed: 3,
    ...(dir === undefined ? {} : { checkpoint: { dir, every, keep: 2 } }),
  });
}

/** Weights and optimiser state, as bytes. */
export async function fingerprint(trainer: og.Trainer<og.GPT>): Promise<Record<string, string>> {
  const tensors = { ...trainer.model.stateDict(), ...trainer.optimizer.stateDict().tensors };
  const entries = await Promise.all(
    Object.entries(tensors).map(
      async ([name, value]) =>
        [name, Buffer.from((await value.data()).buffer as ArrayBuffer).toString('base64')] as const,
    ),
  );
  return Object.fromEntries(entries);
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [, , dir, steps] = process.argv;
  const trainer = tinyTrainer({ dir: dir!, steps: Number(steps) });
  for await (const event of trainer.run()) if (event.type === 'step') process.stdout.write(`${event.step}\n`);
  process.stdout.write(`done ${JSON.stringify(await fingerprint(trainer))}\n`);
}
