/** The one way in which all models of the comparison are trained. */
import { batchLoss, Distillation, type DistillationBatch } from '../../src/compress/index.js';
import * as og from '../../src/index.js';

const BATCH = 16;
/** Steps between two lines about a run. */
const SAID_EVERY = 100;

export interface TrainingPlan {
  readonly steps: number;
  readonly lr: number;
  readonly seed?: number;
  /** Folder of checkpoints, for a run that is long enough to be interrupted. */
  readonly dir?: string;
  readonly callbacks?: readonly og.TrainCallback<og.nn.Module>[];
  /** Learns from its predictions as well (`alpha` of the loss). */
  readonly teacher?: og.GPT;
  readonly alpha?: number;
  readonly temperature?: number;
}

/** bfloat16 where the processor computes in it, which takes two thirds of the time. */
const precision = og.backend().features.includes('bf16') ? 'bfloat16' : 'float32';

async function run<M extends og.nn.Module>(
  model: M,
  train: og.TextDataset,
  { steps, lr, seed = 1, dir, callbacks = [] }: TrainingPlan,
  loss?: (model: M, batch: DistillationBatch) => og.Tensor,
): Promise<void> {
  const trainer = new og.Trainer<M, DistillationBatch>(model, {
    train,
    batchSize: BATCH,
    steps,
    seed,
    precision,
    clipGradNorm: 1,
    optimizer: (_, of) =>
      new og.optim.AdamW(og.optim.decayGroups(of, { weightDecay: 0.1 }), { lr, betas: [0.9, 0.95] }),
    schedule: og.schedules.cosine({ warmup: Math.min(100, steps >> 3), end: 0.02 }),
    callbacks,
    ...(dir === undefined ? {} : { checkpoint: { dir, every: 250, keep: 1 } }),
    ...(loss === undefined ? {} : { loss }),
  });
  let sum = 0;
  for await (const event of trainer.run()) {
    if (event.type !== 'step') continue;
    sum += event.loss;
    if (event.step % SAID_EVERY !== 0) continue;
    console.log(
      `  step ${event.step} of ${steps}: loss ${(sum / SAID_EVERY).toFixed(4)}, ${event.tokensPerSecond.toFixed(0)} tokens/s`,
    );
    sum = 0;
  }
  trainer.optimizer.dispose();
}

/** AdamW, warm-up and cosine; from the data alone, or with a teacher. */
export async function runTraining(model: og.GPT, train: og.TextDataset, plan: TrainingPlan): Promise<void> {
  const { teacher, alpha = 0.5, temperature = 1 } = plan;
  if (teacher === undefined) await run(model, train, plan);
  else await run(new Distillation({ student: model, teacher, alpha, temperature }), train, plan, batchLoss);
}
