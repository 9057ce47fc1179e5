/** How much memory the pool keeps, and that what it lets go of is back with the system, in order, without a value being lost. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as og from '../../src/index.js';
import { submitted, whenDone } from '../../src/runtime/queue.js';

const MIB = 2 ** 20;
const resident = (): number => process.memoryUsage.rss() / MIB;
const onLinux = { skip: process.platform === 'linux' ? false : 'what the system shows elsewhere says little' };

/** Four tensors of `quarters` · 256 KiB at a time. */
function batch(quarters: number): void {
  og.scope(() => {
    const parts = Array.from({ length: 4 }, (_, i) => og.full([quarters * 65536], i));
    assert.ok(parts.length === 4);
  });
}

test('batches of ever other lengths do not leave blocks of every size behind', async () => {
  og.emptyCache();
  await whenDone();
  og.resetPeakMemory();
  const [before, live] = [resident(), og.memory().bytes];
  for (let i = 0; i < 160; i++) {
    batch(1 + ((i * 37) % 80));
    if (i % 8 === 0) await whenDone();
    const { bytes, peakBytes, pooledBytes } = og.memory();
    const bound = 1.25 * peakBytes + 64 * MIB;
    assert.ok(bytes + pooledBytes <= bound, `${bytes + pooledBytes} bytes after ${i} batches, more than ${bound}`);
  }
  assert.ok(og.memory().peakBytes - live < 100 * MIB);
  await whenDone();
  if (process.platform === 'linux') assert.ok(resident() - before < 260, `${resident() - before} MiB more`);
});

test('new large blocks begin at different places of a page, all on a line', () => {
  og.emptyCache();
  const made = Array.from({ length: 4 }, () => og.ones([3 * MIB]).storage); // as the four operands of AdamW
  const starts = made.map(({ start }) => (start - (made[0]!.start % 64) + 4096) % 4096);
  assert.equal(new Set(starts).size, 4, `starts ${starts.join(', ')}`);
  for (const a of starts) {
    for (const b of starts) assert.ok(a === b || Math.abs(a - b) >= 512, `${a} and ${b}`);
  }
});

test('a block of another size will do when memory is short', () => {
  for (let i = 0; i < 40; i++) batch(80 - i); // fills the pool up to its bound
  const { poolHitRate: rate } = og.memory();
  for (let i = 0; i < 40; i++) batch(41 + ((i * 7) % 39));
  assert.ok(og.memory().poolHitRate > rate);
});

test('emptyCache gives memory back to the system', onLinux, async () => {
  og.emptyCache();
  const large = Array.from({ length: 16 }, () => og.ones([2 * MIB])); // 128 MiB, in blocks that the allocator would keep
  await whenDone();
  for (const tensor of large) tensor.dispose();
  const before = resident();
  og.emptyCache();
  assert.equal(og.memory().pooledBytes, 0);
  await whenDone(submitted());
  assert.ok(before - resident() > 100, `${before - resident()} MiB of 128 came back`);
});

test('no value is lost when every block goes back as soon as it is free', async () => {
  og.setPoolLimit(0);
  try {
    const size = 50000;
    const x = og.arange(size).to('float32');
    const results = Array.from({ length: 40 }, (_, i) =>
      og.scope(() => {
        const a = x.add(i); // chains of calls, held back while blocks are returned
        const b = a.mul(2).sub(a);
        const product = og.matmul(b.reshape([100, 500]), x.narrow(0, 0, 500).reshape([500, 1]));
        return { sum: b.relu().mul(0.5).add(a).sum(), first: product.narrow(0, 0, 1), left: a.sub(1) };
      }),
    );
    const total = (size * (size - 1)) / 2;
    for (const [i, { sum, first, left }] of results.entries()) {
      const expected = 1.5 * (total + i * size);
      assert.ok(Math.abs(((await sum.item()) as number) / expected - 1) < 1e-5, `sum ${i}`);
      let dot = 0;
      for (let k = 0; k < 500; k++) dot += (k + i) * k;
      assert.ok(Math.abs(((await first.item()) as number) / dot - 1) < 1e-5, `product ${i}`);
      const values = (await left.data()) as Float32Array;
      assert.deepEqual([values[0], values[size - 1]], [i - 1, size + i - 2]);
    }
    assert.ok(og.memory().pooledBytes < 4 * MIB);
  } finally {
    og.setPoolLimit(Infinity);
  }
});

test("memory that JavaScript writes is nobody else's, also at the bound", async () => {
  og.emptyCache();
  const kept: og.Tensor[] = [];
  for (let i = 0; i < 30; i++) {
    batch(10 + i);
    kept.push(og.tensor(new Float32Array(300000 + 20000 * i).fill(i)));
    if (kept.length > 3) kept.shift()!.dispose();
    for (const tensor of kept)
      assert.equal((await tensor.narrow(0, 0, 1).data())[0], i - kept.length + 1 + kept.indexOf(tensor));
  }
});
