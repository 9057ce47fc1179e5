/** 300 training steps keep memory flat, in tensors and in the process. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
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

test('saving leaves no tensor behind', async () => {
  const dir = await mkdtemp(path.join(tmpdir(), 'omnigrad-memory-'));
  try {
    const counts: number[] = [];
    for await (const event of tinyTrainer({ dir, every: 2, steps: 12 }).run())
      if (event.type === 'checkpoint') counts.push(og.memory().tensors);
    assert.deepEqual(
      counts,
      counts.map(() => counts[0]),
    );
    assert.equal(counts.length, 6);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
});
