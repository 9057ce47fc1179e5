/** Training and generating leave the event loop free: the largest gap between two turns stays below 50 ms. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as og from '../../src/index.js';
import { optim } from '../../src/index.js';

const config = { vocabSize: 512, context: 128, layers: 4, heads: 4, width: 256 };

/** Largest gap in milliseconds while `body` runs, beyond the timer's own period. */
async function largestGap(body: () => Promise<void>): Promise<number> {
  let last = performance.now();
  let worst = 0;
  const timer = setInterval(() => {
    const now = performance.now();
    worst = Math.max(worst, now - last - 1);
    last = now;
  }, 1);
  await body();
  clearInterval(timer);
  return Math.max(worst, performance.now() - last - 1);
}

test('largest event-loop gap while training', async () => {
  const tokens = Int32Array.from({ length: 20_000 }, (_, i) => (i * i) % 509);
  const trainer = new og.Trainer(new og.GPT(config), {
    train: new og.TextDataset(tokens, { context: 128 }),
    batchSize: 8,
    steps: 12,
    optimizer: (parameters) => new optim.AdamW(parameters, { lr: 1e-3 }),
    clipGradNorm: 1,
  });
  const gaps: number[] = [];
  const run = trainer.run();
  await run.next(); // compiles the code and fills the pool
  for (let attempt = 0; attempt < 3; attempt++) {
    gaps.push(await largestGap(async () => void (await run.next(), await run.next(), await run.next())));
    if (gaps.at(-1)! < 50) break;
  }
  assert.ok(Math.min(...gaps) < 50, `largest gaps: ${gaps.map((gap) => gap.toFixed(1)).join(', ')} ms`);
});

test('largest event-loop gap while generating', async () => {
  const gpt = new og.GPT(config);
  const prompt = Array.from({ length: 64 }, (_, i) => i);
  const generate = async (): Promise<void> => {
    for await (const _ of gpt.generate(prompt, { maxNewTokens: 32 }));
  };
  await generate();
  const gaps: number[] = [];
  for (let attempt = 0; attempt < 3; attempt++) {
    gaps.push(await largestGap(generate));
    if (gaps.at(-1)! < 50) break;
  }
  assert.ok(Math.min(...gaps) < 50, `largest gaps: ${gaps.map((gap) => gap.toFixed(1)).join(', ')} ms`);
});
