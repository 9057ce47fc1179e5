/** Scopes, keeping, explicit disposal, and the leak report. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as og from '../../src/index.js';

test('a scope frees what is not returned', () => {
  og.scope(() => void og.ones([1]).add(1).mul(2)); // numbers become shared scalars the first time
  const before = og.memory();
  let inner: og.Tensor | undefined;
  const result = og.scope(() => {
    inner = og.ones([1000]);
    return { a: inner.add(1), list: [inner.mul(2)], map: new Map([['c', inner.sum()]]) };
  });
  assert.ok(inner!.isDisposed);
  assert.equal(og.memory().tensors - before.tensors, 3);
  assert.equal(result.a.toArraySync().toString(), og.full([1000], 2).toArraySync().toString());
  result.a.dispose();
  result.list[0]!.dispose();
  result.map.get('c')!.dispose();
});

test('a block can hold a scope, which nested scopes hand their results to', () => {
  let outer: og.Tensor;
  {
    using _ = og.scope();
    outer = og.scope(() => og.ones([3]).mul(2));
    assert.ok(!outer.isDisposed);
  }
  assert.ok(outer.isDisposed);
});

test('keep takes a tensor out of all scopes; parameters stay by themselves', () => {
  const [kept, parameter] = og.scope(() => {
    const kept = og.keep(og.ones([2]));
    const parameter = og.ones([2], { requiresGrad: true });
    return [() => kept, () => parameter];
  });
  assert.deepEqual(kept!().toArraySync(), [1, 1]);
  assert.deepEqual(parameter!().toArraySync(), [1, 1]);
});

test('views keep the memory alive', () => {
  const view = og.scope(() => og.arange(10).slice(0, 2, 4));
  assert.deepEqual(view.toArraySync(), [2, 3]);
  const base = og.arange(4);
  const part = base.slice(0, 1);
  base.dispose();
  assert.deepEqual(part.toArraySync(), [1, 2, 3]);
});

test('gradients that were asked for belong to the scope that is open', () => {
  const x = og.ones([1000], { requiresGrad: true });
  og.scope(() => void og.gradientsOf(x.mul(2).sum(), [x])); // makes the shared scalars
  const before = og.memory();
  let inner: og.Tensor | undefined;
  const kept = og.scope(() => {
    [inner] = og.gradientsOf(x.mul(2).sum(), [x]) as [og.Tensor];
    const middle = x.mul(2);
    return og.gradientsOf(middle.sum(), [middle])[0]!;
  });
  assert.ok(inner!.isDisposed);
  assert.deepEqual(og.memory().tensors - before.tensors, 1);
  assert.equal(og.memory().bytes - before.bytes, kept.storage.bytes);
  kept.dispose();
  assert.throws(
    () =>
      og.trackMemory(
        () =>
          void og.gradientsOf(
            og.scope(() => x.mul(2).sum()),
            [x],
          ),
      ),
    og.LeakError,
  );
  const leaks = (): og.Tensor => og.grad((w: og.Tensor) => w.square().sum())(x);
  og.trackMemory(leaks).dispose();
});

test('a scope that throws frees what it made', () => {
  let made: og.Tensor | undefined;
  assert.throws(
    () =>
      og.scope(() => {
        made = og.ones([4]);
        throw new Error('stop');
      }),
    /stop/,
  );
  assert.ok(made!.isDisposed);
});

test('a training step in a scope leaves nothing behind but gradients', () => {
  const w = og.ones([8, 8], { requiresGrad: true });
  const step = (): void =>
    og.scope(() => {
      w.mul(w).exp().sum().backward();
    });
  step();
  const before = og.memory().tensors;
  for (let i = 0; i < 5; i++) step();
  assert.equal(og.memory().tensors, before);
});

test('freed memory is used again', () => {
  const size = 1 << 16;
  og.zeros([size]).dispose();
  const { pooledBytes } = og.memory();
  assert.ok(pooledBytes >= size * 4);
  const again = og.zeros([size]);
  assert.equal(og.memory().pooledBytes, pooledBytes - size * 4);
  again.dispose();
  og.emptyCache();
  assert.equal(og.memory().pooledBytes, 0);
});

test('trackMemory names who leaked', async () => {
  assert.throws(
    () => og.trackMemory(() => void og.ones([3, 5])),
    (error: unknown) => {
      assert.ok(error instanceof og.LeakError);
      assert.deepEqual([...error.leaks[0]!.shape], [3, 5]);
      assert.match(error.leaks[0]!.stack, /memory\.test/);
      return true;
    },
  );
  const kept = og.trackMemory(() => og.scope(() => og.ones([2]).add(1)));
  assert.deepEqual(kept.toArraySync(), [2, 2]);
  await assert.rejects(
    og.trackMemory(async () => void og.ones([1])),
    og.LeakError,
  );
});

test('operations made of others leave nothing behind but their result', () => {
  const x = og.ones([2, 3, 64]);
  const [kernel, turned] = [og.ones([3, 3, 5]), og.ones([3, 2, 5])];
  const weight = og.quantize(og.ones([5, 64]), { bits: 4, packed: true, groupSize: 32 });
  const [bias, residual, wide] = [og.ones([5]), og.ones([2, 3, 5]), x.to('float64')];
  for (const call of [
    () => og.conv1d(x, kernel),
    () => og.convTranspose1d(x, turned),
    () => og.quantizedLinear(x, weight, bias, { activation: 'gelu', residual }),
    () => og.quantizedLinear(x, weight, bias, { activations: 'int8' }),
    () => og.quantizedLinear(wide, weight),
  ])
    og.trackMemory(() => call()).dispose();
});

test('peak memory can be restarted', () => {
  og.scope(() => void og.zeros([1 << 18]));
  og.resetPeakMemory();
  const start = og.memory();
  assert.equal(start.peakBytes, start.bytes);
  og.scope(() => void og.zeros([1 << 18]));
  assert.ok(og.memory().peakBytes >= start.bytes + (1 << 20));
});
