/** Random tensors: reproducible, independent of threads and shapes, of the right distribution. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as og from '../../src/index.js';

const numbers = (x: og.Tensor): number[] => Array.from(x.to('float64').dataSync() as Float64Array);
const average = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;

test('a seed gives the same numbers, another seed others', () => {
  const draw = (seed: number): number[] => numbers(og.randn([1000], { generator: og.generator(seed) }));
  assert.deepEqual(draw(7), draw(7));
  assert.notDeepEqual(draw(7), draw(8));
  og.manualSeed(3);
  const first = numbers(og.rand([5]));
  const second = numbers(og.rand([5]));
  og.manualSeed(3);
  assert.deepEqual(numbers(og.rand([5])), first);
  assert.deepEqual(numbers(og.rand([5])), second);
  assert.notDeepEqual(first, second);
});

test('a saved state continues the stream', () => {
  const stream = og.generator(11);
  og.rand([13], { generator: stream });
  const { state } = stream;
  const next = numbers(og.randn([9], { generator: stream }));
  const other = og.generator(0);
  other.state = JSON.parse(JSON.stringify(state)) as og.GeneratorState;
  assert.deepEqual(numbers(og.randn([9], { generator: other })), next);
});

test('the number of threads does not matter', () => {
  const threads = og.getThreads();
  const draw = (count: number): number[] => {
    og.setThreads(count);
    return numbers(og.randn([100_003], { generator: og.generator(5) }));
  };
  try {
    assert.deepEqual(draw(1), draw(3));
  } finally {
    og.setThreads(threads);
  }
});

test('moments and ranges', () => {
  const stream = { generator: og.generator(1) };
  const uniform = numbers(og.uniform([50_000], -2, 4, stream));
  assert.ok(uniform.every((u) => u >= -2 && u < 4));
  assert.ok(Math.abs(average(uniform) - 1) < 0.05);
  const normal = numbers(og.normal([50_000], 3, 2, stream));
  assert.ok(Math.abs(average(normal) - 3) < 0.05);
  assert.ok(Math.abs(average(normal.map((z) => (z - 3) ** 2)) - 4) < 0.15);
  const dice = numbers(og.randint(1, 7, [6000], stream));
  assert.deepEqual([...new Set(dice)].sort(), [1, 2, 3, 4, 5, 6]);
  for (let face = 1; face <= 6; face++) assert.ok(Math.abs(dice.filter((n) => n === face).length - 1000) < 150);
});

test('multinomial draws in proportion, and never what has no weight', () => {
  const weights = og.tensor([0, 1, 3, 0]);
  const drawn = numbers(og.multinomial(weights, 8000, { replacement: true, generator: og.generator(2) }));
  assert.deepEqual([...new Set(drawn)].sort(), [1, 2]);
  assert.ok(Math.abs(drawn.filter((i) => i === 2).length / 8000 - 0.75) < 0.03);
  const without = og.multinomial(og.ones([50, 6]), 6, { generator: og.generator(2) });
  for (const row of without.toArraySync() as number[][]) assert.deepEqual([...row].sort(), [0, 1, 2, 3, 4, 5]);
  assert.throws(() => og.multinomial(weights, 5), og.AttributeError);
});

test('permutations and coin flips', () => {
  const order = numbers(og.randperm(500, { generator: og.generator(4) }));
  assert.deepEqual(
    [...order].sort((a, b) => a - b),
    Array.from({ length: 500 }, (_, i) => i),
  );
  assert.notDeepEqual(
    order,
    [...order].sort((a, b) => a - b),
  );
  assert.deepEqual(numbers(og.randperm(0)), []);
  const flips = numbers(og.bernoulli(0.3, [10_000], { generator: og.generator(4) }));
  assert.ok(flips.every((f) => f === 0 || f === 1) && Math.abs(average(flips) - 0.3) < 0.03);
  assert.deepEqual(numbers(og.bernoulli(og.tensor([0, 1]))), [0, 1]);
  assert.throws(() => og.bernoulli(1.5, [1]), og.AttributeError);
});
