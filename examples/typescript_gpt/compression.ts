/** What the trained model is made into: plans, the training that they need, and what came of it. */
import { mkdir, readFile, rm } from 'node:fs/promises';
import path from 'node:path';
import * as og from '../../src/index.js';
import { optim, schedules } from '../../src/index.js';
import { table } from '../../src/cli/table.js';
import {
  comparedModels,
  compressAll,
  compressionTable,
  type ComparedModel,
  type CompressionEvent,
  type CompressionPlan,
  type TrainFunction,
} from '../../src/compress/index.js';

/** What all models of a run have in common. */
export interface CompressionRun {
  readonly dir: string;
  readonly train: og.TextDataset;
  readonly valid: og.TextDataset;
  readonly tokenizer: og.BpeTokenizer;
  readonly batchSize: number;
  /** Steps that the model was trained for: what follows takes a share of them. */
  readonly steps: number;
  readonly seed: number;
  readonly say: (text: string) => void;
  readonly signal: AbortSignal;
}

/** The compressed forms, and figures of all models. */
export interface CompressionResults {
  readonly measured: readonly ComparedModel[];
  readonly smallest: og.GPT;
}

/** Shares of the model's own steps. */
const FINETUNE_SHARE = 0.25;
const DISTILL_SHARE = 0.5;

function plansFor(steps: number): CompressionPlan[] {
  const share = (of: number): number => Math.max(4, Math.round(of * steps));
  const embeddings = 'int8';
  return [
    { name: 'int8-smoothquant', steps: [{ quantize: { scheme: 'w8a8', method: 'smoothquant', embeddings } }] },
    { name: 'int4-gptq', steps: [{ quantize: { scheme: 'w4a16', groupSize: 32, method: 'gptq', embeddings } }] },
    {
      name: '2of4-int8',
      steps: [
        { prune: { pattern: '2:4', method: 'sparsegpt' } },
        { finetune: { steps: share(FINETUNE_SHARE), lr: 6e-4 } },
        { sparsify: { layout: '2:4' } },
        { quantize: { scheme: 'w8a8', embeddings } },
      ],
    },
    {
      name: 'student',
      steps: [
        { prune: { layers: [1, 2, 3], heads: 0.5, neurons: 0.547 } }, // a quarter of the parameters is left
        { distill: { temperature: 1, alpha: 0.5, train: { steps: share(DISTILL_SHARE), lr: 3e-3 } } },
      ],
    },
  ];
}

/** The training of `finetune` and `distill` steps: as the model was trained, with checkpoints. */
function trainWith({ train, batchSize, seed, say }: CompressionRun): TrainFunction {
  return async (model, settings, { dir, signal, callbacks, step }) => {
    const { steps, lr } = settings as { readonly steps: number; readonly lr: number };
    say(`${step === 'distill' ? 'Distilling' : 'Fine-tuning'}: ${steps} steps.`);
    const trainer = new og.Trainer(model, {
      train,
      batchSize,
      steps,
      optimizer: (parameters) => new optim.AdamW(parameters, { lr, betas: [0.9, 0.95], weightDecay: 0.1 }),
      schedule: schedules.cosine({ warmup: Math.min(30, steps >> 3), end: 0.05 }),
      clipGradNorm: 1,
      checkpoint: { dir, every: 50, keep: 1 },
      seed,
      callbacks: [...callbacks, new og.TrainingProgress()],
    });
    for await (const _ of trainer.run({ signal }));
    trainer.optimizer.dispose();
  };
}

/** Removes what other plans made there: those of an earlier version of this example. */
async function forgetOthers(dir: string, plans: readonly CompressionPlan[]): Promise<void> {
  const [file, text] = [path.join(dir, 'plans.json'), JSON.stringify(plans, null, 2)];
  if ((await readFile(file, 'utf8').catch(() => null)) === text) return;
  await rm(dir, { recursive: true, force: true });
  await mkdir(dir, { recursive: true });
  await og.writeFileAtomically(file, (write) => write(Buffer.from(text)));
}

/** Carries out the plans, and measures all models together; null if the signal stopped it. */
export async function compressed(model: og.GPT, run: CompressionRun): Promise<CompressionResults | null> {
  const { dir, train, valid, tokenizer, steps, say, signal } = run;
  const plans = plansFor(steps);
  await forgetOthers(dir, plans);
  let current = '';
  const onEvent = (event: CompressionEvent): void => {
    if (event.type === 'step' && event.plan !== current) say(`Compressing: ${(current = event.plan)}`);
    else if (event.type === 'measure') say(`Measuring: ${event.what}`);
  };
  try {
    const { models } = await compressAll(model, plans, {
      dir,
      calibration: train,
      evaluation: valid,
      tokenizer,
      train: trainWith(run),
      baseline: 'float32',
      onEvent,
      signal,
    });
    const all = Object.values(models);
    const sizes = all.map(({ card }) => card.after!.bytes);
    const measured = comparedModels(
      all.map(({ card }) => card),
      'float32',
    );
    return { measured, smallest: all[sizes.indexOf(Math.min(...sizes))]!.model };
  } catch (error) {
    if (!signal.aborted) throw error;
    return null;
  }
}

/** The table and what was done to each model, for a terminal. */
export function resultText(measured: readonly ComparedModel[]): string {
  const rows = compressionTable(measured);
  const titles = Object.keys(rows[0]!.cells);
  const body = rows.map(({ name, cells }) => [name, ...titles.map((title) => cells[title]!)]);
  const done = measured.flatMap(({ name, how }) => (how === undefined ? [] : [`${name}: ${how.join('; ')}`]));
  return `${table([['', ...titles], ...body])}\n\n${done.join('\n')}`;
}
