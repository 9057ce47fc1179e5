/** Runs as their loggers would write them down, without training. */
import * as og from '../../src/index.js';

const model = new og.nn.Linear(2, 1);

export interface MadeRun {
  readonly dir: string;
  readonly name: string;
  readonly lr?: number;
  readonly steps?: number;
  /** What the losses come down to. */
  readonly floor?: number;
}

/** Losses of floor + 3 / step, one of them NaN, a validation and a sample every ten steps, a roll-back told of at step 25. */
export async function makeRun({ dir, name, lr = 0.001, steps = 40, floor = 1 }: MadeRun): Promise<og.RunRecord> {
  const config = { optimizer: { type: 'adamw', lr }, batchSize: 4 };
  const logger = new og.RunLogger({ dir, name, config, card: { source: '<made up>' } });
  const context = { model, optimizer: null as never, averages: null, step: 0, total: steps };
  for (let n = 1; n <= steps; n++) {
    const loss = n === 7 ? NaN : floor + 3 / n;
    await logger.onEvent({ type: 'step', step: n, total: steps, epoch: 0, loss, lr, gradNorm: n === 9 ? Infinity : 1 / n, tokens: n * 64, tokensPerSecond: 1000 + n, elapsed: n / 10 }, context); // prettier-ignore
    if (n % 10 === 0) {
      await logger.onEvent(
        { type: 'eval', step: n, loss: floor + 3 / n, perplexity: 2, metrics: {}, sets: {} },
        context,
      );
      logger.addSample({ title: 'once <upon>', text: `text & more of ${n}` });
    }
    if (n === 25) await logger.onEvent({ type: 'rollback', step: 25, why: 'a <spike>' } as never, context);
  }
  await logger.onEvent({ type: 'done', step: steps, reason: 'finished', elapsed: steps / 10 }, context);
  return og.readRun(dir);
}
