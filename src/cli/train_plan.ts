/**
 * What a run would do and take, without doing it.
 *
 * @module
 */
import '../methods.js';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { defaults } from '../cost/index.js';
import { TextDataset } from '../data/text_dataset.js';
import { backend } from '../runtime/backend.js';
import { zeros } from '../tensor/create.js';
import type { GPT } from '../models/gpt.js';
import type { TrainingPlan } from '../train/plan.js';
import { formatDuration } from '../train/progress.js';
import { Trainer } from '../train/trainer.js';
import { formatBytes } from '../util/format.js';
import type { TrainConfig } from './train_config.js';
import { bytesTokenizer, prepareTokenizer, sizeOf } from './train_data.js';
import { earlierRun, makeModel, millions, trainerOptions } from './train_setup.js';

/** Loads the tokenizer, or says how large one will be, without writing anything. */
async function plannedVocabulary(config: TrainConfig): Promise<number> {
  const { tokenizer, out } = config;
  const isMade = tokenizer === 'bytes' || typeof tokenizer !== 'string';
  if (!isMade || existsSync(path.join(out, 'tokenizer.json')))
    return (await prepareTokenizer(config, () => {})).vocabSize;
  return tokenizer === 'bytes' ? (await bytesTokenizer()).vocabSize : (tokenizer as { vocabSize: number }).vocabSize;
}

/** Steps of the run, if they are known before the text is encoded. */
function plannedSteps(config: TrainConfig, trainBytes: number, context: number): number | null {
  if (config.steps !== null) return config.steps;
  if (config.tokenizer !== 'bytes') return null;
  const windows = (trainBytes * (1 - config.data.validShare)) / context;
  return Math.max(1, Math.floor(((config.epochs ?? 1) * windows) / (config.batchSize * config.gradientAccumulation)));
}

/** Takes two steps on tokens that are all 0. */
async function probe(config: TrainConfig, model: GPT, steps: number): Promise<TrainingPlan> {
  const { context } = model.config;
  const tokens = zeros([(config.batchSize * config.gradientAccumulation + 1) * context + 1], { dtype: 'int32' });
  const options = trainerOptions({ ...config, steps }, new TextDataset(tokens, { context, shift: false }));
  const trainer = new Trainer(model, options);
  try {
    return await trainer.plan({ probe: 1, pricePerHour: defaults.rent.value });
  } finally {
    trainer.optimizer.dispose();
    trainer.ema?.dispose();
    tokens.dispose();
  }
}

/** What a run would do and take, in words. Writes nothing; two steps are tried out to find the memory and the time. */
export async function describePlan(config: TrainConfig): Promise<string> {
  const trainBytes = await sizeOf('data.train', config.data.train);
  const validBytes = await sizeOf('data.valid', config.data.valid);
  const vocabSize = await plannedVocabulary(config);
  const model = await makeModel(config, vocabSize);
  const { context } = model.config;
  const steps = plannedSteps(config, trainBytes, context);
  const plan = await probe(config, model, steps ?? 1).finally(() => model.dispose());
  const { memory } = plan;
  const earlier = await earlierRun(config);
  const { isa, threads } = backend();
  const files = (list: readonly string[], bytes: number): string =>
    `${list.length} ${list.length === 1 ? 'file' : 'files'}, ${formatBytes(bytes)}`;
  const held = config.data.validShare > 0 ? `${100 * config.data.validShare} % of it held back` : 'no validation';
  const length = config.steps ?? `${config.epochs} ${config.epochs === 1 ? 'epoch' : 'epochs'}`;
  const blocks = plan.recomputedBlocks === 0 ? '' : `, ${plan.recomputedBlocks} blocks computed again`;
  const rows: [string, string][] = [
    ['model', `${millions(plan.parameters)} parameters, ${formatBytes(memory.weights)}`],
    ['tokenizer', `${typeof config.tokenizer === 'string' ? config.tokenizer : 'to be learnt'}, ${vocabSize} tokens`],
    [
      'data',
      `${files(config.data.train, trainBytes)}; ${config.data.valid.length > 0 ? `${files(config.data.valid, validBytes)} for validation` : held}`,
    ],
    [
      'steps',
      `${length}, of ${plan.tokensPerStep} tokens (${config.batchSize} × ${config.gradientAccumulation} × ${context})`,
    ],
    ['optimizer', `${config.optimizer.type}, ${config.schedule.type} schedule, ${config.precision}`],
    [
      'memory',
      `${formatBytes(memory.peak)} at its largest: gradients ${formatBytes(memory.gradients)}, optimizer ${formatBytes(memory.optimizer)}, activations ${formatBytes(memory.activations)}${blocks}`,
    ],
    ['time', timeOf(plan, steps)],
    ['machine', `${threads} threads, ${isa}`],
    [
      'output',
      `${config.out}${earlier === null ? '' : `, which holds a run at step ${earlier.step}: --resume goes on with it`}`,
    ],
  ];
  return rows.map(([name, text]) => `${name.padEnd(11)}${text}\n`).join('');
}

function timeOf(plan: TrainingPlan, steps: number | null): string {
  const step = `${plan.secondsPerStep!.toPrecision(2)} s a step`;
  if (steps === null) return `${step}; how many there are is known when the text is encoded`;
  const cost = `$${plan.cost!.toPrecision(2)} at $${defaults.rent.value} an hour (rent of a small virtual machine)`;
  return `${step}, ${formatDuration(plan.seconds!)} in all; ${cost}`;
}
