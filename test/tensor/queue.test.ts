/** The in-order queue as users meet it: nothing blocks, results do not depend on timing, failures surface at the wait. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as og from '../../src/index.js';

/** Large enough to go through the queue rather than inline. */
const LARGE = 1 << 17;
const outside = (): og.Tensor => og.full([LARGE], 5, { dtype: 'int64' });

test('a tensor may be disposed of while its reading is under way', async () => {
  const x = og.full([LARGE], 3).mul(2);
  const reading = x.data();
  x.dispose();
  const overwriting = og.zeros([LARGE]); // likely the same memory
  const values = (await reading) as Float32Array;
  assert.ok(values.every((value) => value === 6));
  overwriting.dispose();
});

test('operands may be disposed of as soon as the call returns', async () => {
  let x = og.ones([LARGE]);
  for (let i = 0; i < 50; i++) {
    const next = x.add(1);
    x.dispose();
    x = next;
  }
  const values = (await x.data()) as Float32Array;
  assert.ok(values.every((value) => value === 51));
});

test('memory that host data are written to is not still being read', () => {
  for (let i = 0; i < 20; i++) {
    const a = og.full([LARGE], i);
    const sum = a.sum();
    a.dispose();
    const b = og.tensor(new Float32Array(LARGE).fill(-1));
    assert.equal(sum.itemSync(), i * LARGE);
    b.dispose();
    sum.dispose();
  }
});

test('reads resolve in any order of waiting', async () => {
  const tensors = Array.from({ length: 40 }, (_, i) => og.full([i % 3 === 0 ? LARGE : 3], i).add(0.5));
  const values = await Promise.all(tensors.reverse().map((x) => x.amax().item()));
  assert.deepEqual(
    values,
    Array.from({ length: 40 }, (_, i) => 39.5 - i),
  );
});

test('the event loop turns while kernels run', async () => {
  let turns = 0;
  const timer = setInterval(() => turns++, 1);
  let x = og.rand([1 << 20]);
  for (let i = 0; i < 60; i++) x = og.scope(() => x.exp().log1p());
  await x.data();
  clearInterval(timer);
  assert.ok(turns > 1, `${turns} turns`);
});

test('a loop that never waits does not run away', () => {
  const before = og.memory().bytes;
  const total = og.scope(() => {
    let sum = og.zeros([LARGE]);
    for (let i = 0; i < 3000; i++) {
      const next = sum.add(1);
      sum.dispose();
      sum = next;
    }
    return sum.amax();
  });
  assert.equal(total.itemSync(), 3000);
  assert.ok(og.memory().bytes - before < LARGE * 4 * 64);
});

test('an index out of range in tiny work is thrown at the call', () => {
  og.synchronizeSync();
  assert.throws(() => og.gather(og.ones([3]), 0, og.tensor([3], { dtype: 'int64' })), og.AttributeError);
  assert.throws(() => og.indexSelect(og.ones([3]), 0, og.tensor([-1], { dtype: 'int64' })), og.AttributeError);
});

test('an index out of range in queued work surfaces at the wait, and what came after it is spoilt', async () => {
  const x = og.ones([4]);
  const bad = og.indexSelect(x, 0, outside());
  const after = bad.add(1);
  await assert.rejects(after.data(), (error: unknown) => {
    assert.ok(error instanceof og.AttributeError, String(error));
    assert.match(error.message, /index_select/);
    return true;
  });
  assert.throws(() => bad.dataSync(), og.StateError);
  assert.throws(() => after.dataSync(), og.StateError);
});

test('what was computed before a failure stays readable, and work goes on after it', async () => {
  const good = og.full([LARGE], 2).add(1);
  await assert.rejects(og.indexSelect(og.ones([4]), 0, outside()).data());
  assert.equal(await good.amax().item(), 3);
  const next = og.ones([LARGE]).add(good);
  assert.equal(await next.sum().item(), 4 * LARGE);
});

test('a failure is reported once', async () => {
  og.scope(() => void og.indexSelect(og.ones([4]), 0, outside()));
  await assert.rejects(og.synchronize(), og.AttributeError);
  await og.synchronize();
  assert.equal(og.ones([3]).sum().itemSync(), 3);
});

test('memory of spoilt tensors is good for new ones', async () => {
  for (let i = 0; i < 5; i++) {
    const bad = og.indexSelect(og.ones([4]), 0, outside());
    await assert.rejects(bad.data());
    bad.dispose();
    const fresh = og.full([LARGE], i);
    assert.equal(fresh.amax().itemSync(), i);
    fresh.dispose();
  }
});
