/** 300 training steps keep memory flat, in tensors and in the process. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as og from '../../src/index.js';
import { tinyTrainer } from '../helpers/tiny_run.js';

test('300 steps keep tensors, bytes and resident memory flat', async () => {
  const trainer = tinyTrainer({ steps: 330 });
  const settled: { tensors: number; bytes: number; resident: number }[] = [];
  for await (const event of trainer.run()) {
    if (event.type !== 'step' || (event.step !== 30 && event.step !== 330)) continue;
    globalThis.gc?.();
    const { tensors, bytes } = og.memory();
    settled.push({ tensors, bytes, resident: process.memoryUsage().rss });
  }
  const [before, after] = [settled[0]!, settled[1]!];
  assert.equal(after.tensors, before.tensors);
  assert.equal(after.bytes, before.bytes);
  assert.ok(
    after.resident - before.resident < 24 * 2 ** 20,
    `resident memory grew by ${og.formatBytes(after.resident - before.resident)}`,
  );
  assert.ok(og.memory().poolHitRate > 0.9, `pool hit rate ${og.memory().poolHitRate}`);
});
