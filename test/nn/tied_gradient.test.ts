/** A table that is also the output layer gets two gradients: they are added up in the memory of the first, and nobody can tell otherwise. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as og from '../../src/index.js';
import { detach } from '../../src/ops/views.js';

const [rows, width] = [3000, 64];
const ids = og.tensor([5, 7, 5, 2999, 0, 7, 5, 11], { shape: [2, 4], dtype: 'int32' });
const targets = og.tensor([1, 2, 3, 4, 5, 6, 7, 8], { shape: [2, 4], dtype: 'int32' });

const tableOf = (dtype: 'float32' | 'float64' = 'float32'): og.Tensor =>
  og
    .randn([rows, width], { generator: og.generator(3) })
    .to(dtype)
    .detach()
    .requiresGrad_();
const headLoss = (hidden: og.Tensor, table: og.Tensor): og.Tensor => og.linearCrossEntropy(hidden, table, targets);
const tiedLoss = (table: og.Tensor): og.Tensor => headLoss(og.embedding(table, ids), table);

/** The gradient with a table for each use, added up in float64. */
function expected(): Float64Array {
  const [first, second] = [tableOf('float64'), tableOf('float64')];
  headLoss(og.embedding(first, ids), second).backward();
  return first.grad!.add(second.grad!).dataSync() as Float64Array;
}

function assertClose(actual: og.Tensor, wanted: Float64Array): void {
  const values = actual.dataSync() as Float32Array;
  let [worst, largest] = [0, 0];
  wanted.forEach((value, i) => {
    worst = Math.max(worst, Math.abs(value - values[i]!));
    largest = Math.max(largest, Math.abs(value));
  });
  assert.ok(worst < 1e-6 * largest, `off by ${worst} of ${largest}`);
}

test('the sum of both gradients, with the same bits for any number of threads and under a checkpoint', () => {
  const wanted = expected();
  const { threads } = og.backend();
  const bits = [1, 2].map((count) => {
    og.setThreads(count);
    const table = tableOf();
    tiedLoss(table).backward();
    assertClose(table.grad!, wanted);
    return table.grad!.dataSync();
  });
  og.setThreads(threads);
  assert.deepEqual(bits[0], bits[1]);
  const table = tableOf();
  const hidden = og.checkpoint(() => og.embedding(table, ids));
  headLoss(hidden, table).backward();
  assert.deepEqual(table.grad!.dataSync(), bits[0]);
  const [asked] = og.gradientsOf(tiedLoss(table), [table]) as [og.Tensor];
  assert.deepEqual(asked.dataSync(), bits[0]);
});

test('no second table is made for it', () => {
  const table = tableOf();
  const loss = tiedLoss(table); // the head's gradient is there already
  og.resetPeakMemory();
  const before = og.memory().bytes;
  loss.backward();
  const more = og.memory().peakBytes - before;
  assert.ok(more < table.bytes / 2, `${more} bytes beside a table of ${table.bytes}`);
});

test('hooks see both gradients, and what they return counts', () => {
  const table = tableOf();
  const seen: number[] = [];
  og.registerHook(table, (grad) => {
    seen.push(grad.size);
    return grad.mul(2);
  });
  tiedLoss(table).backward();
  assert.deepEqual(seen, [rows * width, rows * width]);
  assertClose(
    table.grad!,
    expected().map((value) => 2 * value),
  );
});

test('a gradient that somebody looks at through a view is left as it was', () => {
  const table = tableOf();
  tiedLoss(table).backward();
  const view = detach(table.grad!);
  const before = view.dataSync();
  og.embedding(table, ids).sum().backward();
  assert.deepEqual(view.dataSync(), before);
  const difference = table.grad!.sub(view).dataSync() as Float32Array;
  const counts = new Map([[5, 3], [7, 2], [2999, 1], [0, 1], [11, 1]]); // prettier-ignore
  difference.forEach((value, i) =>
    assert.ok(Math.abs(value - (counts.get(Math.floor(i / width)) ?? 0)) < 1e-5, `${i}: ${value}`),
  );
});

test('a gradient in a graph of its own is left as it was', () => {
  const w = og.tensor([1, 2, 3, 4], { shape: [2, 2] }).requiresGrad_();
  const pick = og.tensor([0, 0, 1], { dtype: 'int32' });
  og.embedding(w, pick).square().sum().backward(null, { createGraph: true });
  const first = w.grad!; // 2·(2, 1)·w, with a graph
  const saved = first.square().sum(); // whose gradient needs `first` as it is
  og.embedding(w, pick).sum().backward();
  const [second] = og.gradientsOf(saved, [w]) as [og.Tensor]; // 2·first·(4, 2)
  assert.deepEqual(second.toArraySync(), [[32, 64], [24, 32]]); // prettier-ignore
  assert.deepEqual(w.grad!.toArraySync(), [[6, 10], [7, 9]]); // prettier-ignore
});

test('second derivatives of a tied table', () => {
  const w = og.tensor([1, 2, 3, 4], { shape: [2, 2], dtype: 'float64' }).requiresGrad_();
  const pick = og.tensor([0, 0, 1], { dtype: 'int32' });
  const loss = og.mul(og.embedding(w, pick), og.embedding(w, pick)).mul(w.sum()).sum();
  const [slope] = og.gradientsOf(loss, [w], { createGraph: true }) as [og.Tensor];
  const [curve] = og.gradientsOf(slope.sum(), [w]) as [og.Tensor];
  // f = S·(2a² + 2b² + c² + d²) with S = a + b + c + d; Σ of the gradient: 4·Q + S·(4a + 4b + 2c + 2d)
  const [a, b, c, d] = [1, 2, 3, 4];
  const [S, L] = [a + b + c + d, 4 * a + 4 * b + 2 * c + 2 * d];
  const parts = [4 * 4 * a + L + 4 * S, 4 * 4 * b + L + 4 * S, 4 * 2 * c + L + 2 * S, 4 * 2 * d + L + 2 * S];
  assert.deepEqual((curve.toArraySync() as number[][]).flat(), parts);
});

test('a padding row gets no gradient beside another one either', () => {
  const table = tableOf();
  headLoss(og.embedding(table, ids, { paddingIdx: 5 }), table).backward();
  const alone = tableOf();
  const constant = detach(og.embedding(alone, ids));
  headLoss(constant, alone).backward();
  const row = (grad: og.Tensor, i: number): unknown => grad.slice(0, i, i + 1).toArraySync();
  assert.deepEqual(row(table.grad!, 5), row(alone.grad!, 5));
  assert.notDeepEqual(row(table.grad!, 7), row(alone.grad!, 7));
});

test('large gradients are summed up in place over several walks', () => {
  const large = og.zeros([(1 << 25) / 4 / 8, 8]).requiresGrad_();
  const factor = og.arange(8).to('float32');
  const walk = (): void => void og.scope(() => og.mul(large, factor).sum().backward());
  walk();
  const { storage } = large.grad!;
  og.resetPeakMemory();
  walk();
  walk();
  assert.equal(large.grad!.storage, storage);
  assert.deepEqual(large.grad!.slice(0, 0, 1).toArraySync(), [[0, 3, 6, 9, 12, 15, 18, 21]]);
});
