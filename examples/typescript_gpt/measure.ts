/** What a finished model is worth and what it costs: the rows of the table. */
import * as og from '../../src/index.js';
import { median } from './statistics.js';

/** A model in one of its forms. Compressed forms of the same model join the table as further entries. */
export interface Variant {
  readonly name: string;
  readonly model: og.GPT;
}

export interface Measurement {
  readonly name: string;
  readonly perplexity: number;
  /** Bytes of the weights. */
  readonly bytes: number;
  /** Prompt tokens a second. */
  readonly prefill: number;
  /** Generated tokens a second, one sequence. */
  readonly decode: number;
}

/** Median of several timed runs, after one that warms up. */
async function secondsOf(runs: number, body: () => Promise<void>): Promise<number> {
  const times: number[] = [];
  for (let i = 0; i <= runs; i++) {
    const begun = performance.now();
    await body();
    if (i > 0) times.push((performance.now() - begun) / 1000);
  }
  return median(times);
}

/** Mean loss over windows of the held-back text. */
async function perplexityOf(model: og.GPT, valid: og.TextDataset, batchSize: number): Promise<number> {
  const loader = new og.DataLoader(valid, { batchSize: Math.min(batchSize, valid.length), shuffle: false });
  let sum = 0;
  for (let i = 0; i < loader.length; i++) {
    const loss = og.scope(() =>
      og.noGrad(() => {
        const { x, y } = loader.next();
        return model.loss(x, y);
      }),
    );
    sum += await loss.item();
    loss.dispose();
  }
  return Math.exp(sum / loader.length);
}

export async function measure(
  { name, model }: Variant,
  valid: og.TextDataset,
  batchSize: number,
): Promise<Measurement> {
  model.eval();
  const perplexity = await perplexityOf(model, valid, batchSize);
  const { context, vocabSize } = model.config;
  const promptLength = context >> 1;
  const prompt = Array.from({ length: promptLength }, (_, i) => (i * 37) % vocabSize);
  const prefillSeconds = await secondsOf(5, async () => {
    for await (const _ of model.generate(prompt, { maxNewTokens: 1, temperature: 0 }));
  });
  const newTokens = Math.min(64, context - promptLength);
  const bothSeconds = await secondsOf(5, async () => {
    for await (const _ of model.generate(prompt, { maxNewTokens: newTokens, temperature: 0 }));
  });
  const bytes = Object.values(model.stateDict()).reduce((sum, tensor) => sum + tensor.bytes, 0);
  return {
    name,
    perplexity,
    bytes,
    prefill: promptLength / prefillSeconds,
    decode: (newTokens - 1) / (bothSeconds - prefillSeconds),
  };
}
