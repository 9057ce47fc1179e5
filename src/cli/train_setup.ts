/**
 * What a run and its plan are both made of: the model, the options of the trainer, and what an earlier run has left.
 *
 * @module
 */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { AttributeError } from '../errors.js';
import type { Dataset } from '../data/loader.js';
import type { TextBatch } from '../data/text_dataset.js';
import { GPT, type GPTConfig } from '../models/gpt.js';
import { load } from '../models/saved_model.js';
import { generator } from '../tensor/random.js';
import { listCheckpoints } from '../train/checkpoint.js';
import { LOG_FILE } from '../train/run_lines.js';
import type { TrainerOptions } from '../train/trainer_options.js';
import type { TrainConfig } from './train_config.js';
import { makeOptimizer, makeSchedule } from './train_parts.js';
import { trainerSafeguards } from './train_safeguards.js';

/** Folder of a run's checkpoints. */
export const checkpointsOf = ({ out }: TrainConfig): string => path.join(out, 'checkpoints');

/** What a run has left in its folder. */
export async function earlierRun(config: TrainConfig): Promise<{ step: number; hasCheckpoint: boolean } | null> {
  const [newest] = await listCheckpoints(checkpointsOf(config));
  const isLogged = existsSync(path.join(config.out, LOG_FILE));
  if (newest === undefined && !isLogged) return null;
  const step = newest === undefined ? 0 : Number(/step-(\d+)/.exec(path.basename(newest))?.[1] ?? 0);
  return { step, hasCheckpoint: newest !== undefined };
}

/** The model to be trained: a new one, or one that was saved. */
export async function makeModel(config: TrainConfig, vocabSize: number): Promise<GPT> {
  if (typeof config.model !== 'string') {
    const geometry = { vocabSize, ...config.model } as unknown as GPTConfig;
    if (geometry.vocabSize < vocabSize) {
      const actual = String(geometry.vocabSize);
      throw new AttributeError({
        op: 'train',
        argument: 'model.vocabSize',
        expected: `at least the tokenizer's ${vocabSize}`,
        actual,
      });
    }
    return new GPT(geometry, { generator: generator(config.seed) });
  }
  const { model } = await load(config.model);
  if (model.config.vocabSize >= vocabSize) return model;
  const expected = `a tokenizer of at most the model's ${model.config.vocabSize} tokens`;
  throw new AttributeError({ op: 'train', argument: 'tokenizer', expected, actual: String(vocabSize) });
}

/** What the arithmetic of a run depends on, without validation, files and what looks on. */
export function trainerOptions(config: TrainConfig, train: Dataset<TextBatch>): TrainerOptions<GPT, TextBatch> {
  const stepsOfEpoch = Math.floor(train.length / (config.batchSize * config.gradientAccumulation));
  const { lossScale, activationCheckpointing, profile } = trainerSafeguards(config);
  return {
    train,
    batchSize: config.batchSize,
    gradientAccumulation: config.gradientAccumulation,
    steps: config.steps ?? Math.max(1, Math.floor((config.epochs ?? 1) * stepsOfEpoch)),
    optimizer: (_, all) => makeOptimizer(config.optimizer, all),
    schedule: makeSchedule(config.schedule),
    ...(config.clipGradNorm === null ? {} : { clipGradNorm: config.clipGradNorm }),
    ...(config.ema === null ? {} : { ema: config.ema }),
    precision: config.precision,
    ...(lossScale === undefined ? {} : { lossScale }),
    ...(activationCheckpointing === undefined ? {} : { activationCheckpointing }),
    ...(profile === undefined ? {} : { profile }),
    seed: config.seed,
  };
}

/** 12345678 → "12.3 million". */
export const millions = (count: number): string =>
  count >= 1e5 ? `${(count / 1e6).toFixed(1)} million` : String(count);
