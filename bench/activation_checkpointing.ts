/**
 * What computing blocks again costs in time and saves in memory, and 16 bits beside it, on the small character model (6 layers, 6 heads, 384 wide, 12 x 256):
 *
 *     npm run build && node --import tsx bench/activation_checkpointing.ts
 *
 * The runs take their steps in turn, in one process; medians. Goal: activations of 35 % or less for 35 % more time or less.
 */
import type { Trainer, TrainerOptions, TrainEvent, GPT, Batch } from '../src/index.js';
import { median } from './harness.js';
import { og } from './library.js';

const config = { vocabSize: 65, context: 256, layers: 6, heads: 6, width: 384 };
const batchSize = 12;
const rounds = Number(process.argv[2] ?? 5);

interface Contender {
  readonly name: string;
  readonly run: AsyncGenerator<TrainEvent, void, undefined>;
  readonly blocks: number;
  readonly times: number[];
  /** Bytes at the largest moment of a step beyond what is held between steps. */
  peak: number;
}

const kinds: Readonly<Record<string, Partial<TrainerOptions<GPT, Batch>>>> = {
  'all kept': {},
  'share: 0.35': { activationCheckpointing: { share: 0.35 } },
  'all blocks again': { activationCheckpointing: true },
  bfloat16: { precision: 'bfloat16' },
};

const ids = Int32Array.from({ length: 100_000 }, (_, i) => (i * i + (i >> 3)) % config.vocabSize);
const contenders: Contender[] = [];
for (const [name, options] of Object.entries(kinds)) {
  const trainer: Trainer<GPT> = new og.Trainer(new og.GPT(config, { generator: og.generator(1) }), {
    train: new og.TextDataset(ids, { context: config.context }),
    batchSize,
    steps: 1000,
    optimizer: (parameters) => new og.optim.AdamW(parameters, { lr: 1e-4 }),
    clipGradNorm: 1,
    ...options,
  });
  const { recomputedBlocks } = await trainer.plan();
  contenders.push({ name, run: trainer.run(), blocks: recomputedBlocks, times: [], peak: 0 });
}
for (let round = 0; round <= rounds; round++) {
  for (const contender of contenders) {
    const before = og.memory().bytes;
    og.resetPeakMemory();
    const begun = performance.now();
    await contender.run.next();
    if (round === 0) continue;
    contender.times.push(performance.now() - begun);
    contender.peak = og.memory().peakBytes - before;
  }
}
const [first] = contenders as [Contender];
const base = median(first.times);
for (const { name, blocks, times, peak } of contenders) {
  const time = median(times);
  console.log(
    `${name.padEnd(18)} ${blocks} of ${config.layers} blocks  ${time.toFixed(0).padStart(6)} ms  ${(time / base).toFixed(2)} x time` +
      `  ${og.formatBytes(peak).padStart(9)}  ${(peak / first.peak).toFixed(2)} x memory`,
  );
}
