/** Training follows PyTorch: same initial weights, same batches, 100 steps. The fixture holds the script that made it. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import * as og from '../../src/index.js';
import { optim, schedules } from '../../src/index.js';

const folder = new URL('../fixtures/torch_curve/', import.meta.url);
const curve = JSON.parse(readFileSync(new URL('curve.json', folder), 'utf8')) as {
  config: og.GPTConfig;
  training: {
    lr: number;
    warmup: number;
    clipGradNorm: number;
    weightDecay: number;
    betas: [number, number];
    steps: number;
  };
  losses: number[];
  gradNorms: number[];
};

/** The fixture's batches, one an index, in order. */
class FixedBatches implements og.Dataset<og.Batch> {
  constructor(private readonly ids: og.Tensor) {}
  get length(): number {
    return this.ids.shape[0]!;
  }
  batch([index]: readonly number[]): og.Batch {
    const step = this.ids.select(0, index!);
    const time = step.shape[1]! - 1;
    return { x: step.narrow(1, 0, time).contiguous(), y: step.narrow(1, 1, time).contiguous() };
  }
}

test('100 steps stay within 1e-4 of the losses of PyTorch', async () => {
  const stored = await og.loadSafetensors(new URL('curve.safetensors', folder).pathname);
  const gpt = new og.GPT(curve.config);
  gpt.loadStateDict(
    Object.fromEntries(
      Object.entries(stored).flatMap(([name, value]) => (name.startsWith('initial.') ? [[name.slice(8), value]] : [])),
    ),
  );
  const { lr, warmup, clipGradNorm, weightDecay, betas, steps } = curve.training;
  const optimizer = new optim.AdamW(gpt.parameters(), { lr, weightDecay, betas });
  const schedule = schedules.cosine({ warmup });
  const batches = new FixedBatches(stored['ids']!);
  for (let step = 0; step < steps; step++) {
    optimizer.lr = lr * schedule(step, steps);
    const { loss, norm } = og.scope(() => {
      const { x, y } = batches.batch([step]);
      const result = gpt.loss(x, y);
      result.backward();
      const total = optim.clipGradNorm(gpt.parameters(), clipGradNorm);
      optimizer.step();
      optimizer.zeroGrad();
      return { loss: result.detach(), norm: total };
    });
    const [lossValue, normValue] = [await loss.item(), await norm.item()];
    const [wantLoss, wantNorm] = [curve.losses[step]!, curve.gradNorms[step]!];
    assert.ok(
      Math.abs(lossValue - wantLoss) <= 1e-4 * wantLoss,
      `loss at step ${step}: ${lossValue}, PyTorch ${wantLoss}`,
    );
    assert.ok(
      Math.abs(normValue - wantNorm) <= 1e-3 * wantNorm,
      `gradient norm at step ${step}: ${normValue}, PyTorch ${wantNorm}`,
    );
  }
});
