/** A model that was trained well, with the text that it was trained on and text that it has not seen. */
import { existsSync } from 'node:fs';
import { mkdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { loadCorpus } from '../../examples/typescript_gpt/corpus.js';
import * as og from '../../src/index.js';
import { runTraining } from './training.js';

/** What the folder of `npm start` holds, and what {@link trainModel} leaves. */
export interface Trained {
  readonly model: og.GPT;
  /** Of its training. */
  readonly steps: number;
  readonly train: og.TextDataset;
  readonly valid: og.TextDataset;
}

const SHAPE = { context: 128, layers: 10, heads: 4, width: 128 };
const VOCABULARY = 512;

async function prepareTokens(folder: string, text: string | undefined): Promise<number> {
  const file = (name: string): string => path.join(folder, name);
  const corpus = await loadCorpus(text);
  if (!existsSync(file('tokenizer.json'))) {
    const learnt = await og.BpeTokenizer.train([corpus.train.slice(0, 2_000_000)], { vocabSize: VOCABULARY });
    await learnt.save(file('tokenizer.json'));
  }
  const tokenizer = await og.BpeTokenizer.fromFile(file('tokenizer.json'));
  for (const part of ['train', 'valid'] as const) {
    if (existsSync(file(`${part}.safetensors`))) continue;
    await og.saveTokens(file(`${part}.safetensors`), tokenizer.encode(corpus[part]));
  }
  return tokenizer.vocabSize;
}

/** Opens a folder with model and tokens, as `npm start` and {@link trainModel} leave it. */
export async function openTrained(folder: string): Promise<Trained> {
  const { model, card } = await og.load(path.join(folder, 'model'));
  const plan = path.join(folder, 'plan.json'); // of npm start
  const { steps } = (existsSync(plan) ? JSON.parse(await readFile(plan, 'utf8')) : card) as { steps: number };
  const { context } = model.config;
  const tokens = (part: string): Promise<og.Tensor> => og.openTokens(path.join(folder, `${part}.safetensors`));
  const train = new og.TextDataset(await tokens('train'), { context, seed: 1 });
  const valid = new og.TextDataset(await tokens('valid'), { context, shift: false });
  return { model, steps, train, valid };
}

/**
 * Trains a GPT of 10 layers, 128 wide, on the declaration files of TypeScript (or another text) over several epochs, with weight decay and a
 * cosine: methods that look at activations have something to look at only in a model that has learnt. What is in the folder is not made again, and an
 * interrupted run goes on.
 */
export async function trainModel(folder: string, steps: number, text?: string): Promise<void> {
  if (existsSync(path.join(folder, 'model', 'config.json'))) return;
  await mkdir(folder, { recursive: true });
  const vocabSize = await prepareTokens(folder, text);
  const model = new og.GPT({ ...SHAPE, vocabSize }, { generator: og.generator(1) });
  const tokens = await og.openTokens(path.join(folder, 'train.safetensors'));
  console.log(`training: ${model.parameterCount()} parameters, ${tokens.size} tokens of text, ${steps} steps`);
  await runTraining(model, new og.TextDataset(tokens, { context: SHAPE.context, seed: 1 }), {
    steps,
    lr: 3e-3,
    dir: path.join(folder, 'checkpoints'),
  });
  await og.saveModel(path.join(folder, 'model'), model, { card: { steps } });
  model.dispose();
}
