/**
 * A run to be killed: trains a tiny model in the folder given, prints each step, and each checkpoint once it is on disk. Also what the
 * tests of signals and full disks start. `killed_run <dir> <steps> [signals | large]`.
 */
import { pathToFileURL } from 'node:url';
import * as og from '../../src/index.js';
import { tinyTokens } from './tiny_tokens.js';

export const INTERVAL = 4;

/** The run; `width` makes its checkpoints larger. */
export function killedTrainer(dir: string | null, steps: number, width = 16): og.Trainer<og.GPT> {
  og.manualSeed(5);
  const model = new og.GPT({ vocabSize: 32, context: 8, layers: 1, heads: 2, width, dropout: 0.1 });
  const tokens = tinyTokens(1200);
  return new og.Trainer(model, {
    train: new og.TextDataset(tokens.subarray(0, 1000), { context: 8 }),
    valid: new og.TextDataset(tokens.subarray(1000), { context: 8, shift: false }),
    batchSize: 4,
    steps,
    optimizer: (parameters) => new og.optim.AdamW(parameters, { lr: 5e-3 }),
    schedule: og.schedules.cosine({ warmup: 3 }),
    clipGradNorm: 1,
    ema: 0.9,
    evalEvery: 6,
    evalBatches: 2,
    earlyStopping: { patience: 100 },
    seed: 3,
    ...(dir === null ? {} : { checkpoint: { dir, every: INTERVAL, keep: 2, best: { keep: 2 } } }),
  });
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [, , dir, steps, mode] = process.argv;
  const trainer = killedTrainer(dir!, Number(steps), mode === 'large' ? 256 : 16);
  const handleSignals = mode === 'signals';
  for await (const event of trainer.run({ handleSignals })) {
    if (event.type === 'step') process.stdout.write(`step ${event.step}\n`);
    else if (event.type === 'resume') process.stdout.write(`resume ${event.step}\n`);
    else if (event.type === 'checkpoint') process.stdout.write(`checkpoint ${event.step}\n`);
    else if (event.type === 'done') process.stdout.write(`done ${event.reason} ${event.signal ?? ''}\n`);
  }
}
