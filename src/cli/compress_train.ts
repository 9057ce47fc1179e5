/**
 * The training of `finetune` and `distill` steps, on the calibration text.
 *
 * @module
 */
import type { TrainFunction } from '../compress/index.js';
import type { TextDataset } from '../data/text_dataset.js';
import { AdamW } from '../optim/index.js';
import { cosine } from '../optim/schedule.js';
import { Trainer } from '../train/trainer.js';
import { checkInteger, checkKeys, checkNumber, checkOneOf } from '../util/assert.js';

/** What plans may say of a training. */
export interface TrainSettings {
  readonly steps: number;
  readonly lr: number;
  readonly batchSize: number;
  readonly weightDecay: number;
  readonly schedule: 'constant' | 'cosine';
  readonly seed: number;
}

const OP = 'compress';

/** Settings with their defaults. @throws AttributeError, in the name of `op`, for the first that cannot be */
export function trainSettings(op: string, settings: Readonly<Record<string, unknown>>): TrainSettings {
  checkKeys(op, settings, ['steps', 'lr', 'batchSize', 'weightDecay', 'schedule', 'seed'], 'settings');
  return {
    steps: checkInteger(op, 'steps', settings['steps'] ?? 100, 1),
    lr: checkNumber(op, 'lr', settings['lr'] ?? 1e-4, 0),
    batchSize: checkInteger(op, 'batchSize', settings['batchSize'] ?? 8, 1),
    weightDecay: checkNumber(op, 'weightDecay', settings['weightDecay'] ?? 0.01, 0),
    schedule: checkOneOf(op, 'schedule', settings['schedule'] ?? 'constant', ['constant', 'cosine']),
    seed: checkInteger(op, 'seed', settings['seed'] ?? 0, 0),
  };
}

/** Trains what can still be trained on a text, with checkpoints that an interrupted run goes on from. */
export function trainOn(train: TextDataset, say: (text: string) => void): TrainFunction {
  return async (model, settings, { dir, signal, callbacks }) => {
    const { steps, lr, batchSize, weightDecay, schedule, seed } = trainSettings(OP, settings);
    const trainer = new Trainer(model, {
      train,
      batchSize: Math.min(batchSize, train.length),
      steps,
      optimizer: (parameters) => new AdamW(parameters.filter(({ requiresGrad }) => requiresGrad), { lr, weightDecay }), // prettier-ignore
      ...(schedule === 'cosine' ? { schedule: cosine({ warmup: Math.min(50, steps >> 3), end: 0.05 }) } : {}),
      clipGradNorm: 1,
      seed,
      callbacks,
      checkpoint: { dir, every: Math.max(1, Math.min(100, steps >> 1)), keep: 1 },
    });
    const every = Math.max(1, Math.round(steps / 5));
    for await (const event of trainer.run({ signal })) {
      if (event.type === 'step' && event.step % every === 0)
        say(`  step ${event.step} of ${steps}, loss ${event.loss.toFixed(3)}`);
    }
    trainer.optimizer.dispose();
  };
}
