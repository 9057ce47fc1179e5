/** The bench's own arithmetic: statistics, interleaving, the form of rows, the filter. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { chosen, makeRow, measure, median, statistics } from '../../bench/harness.js';

test('median, best and spread', () => {
  assert.equal(median([3, 1, 2]), 2);
  assert.equal(median([4, 1, 3, 2]), 2.5);
  assert.throws(() => median([]), RangeError);
  assert.deepEqual(statistics([5, 1, 3, 2, 100]), { median: 3, best: 1, mad: 2, samples: 5 });
});

test('subjects take turns, in alternating order, with samples of at least the wanted length', async () => {
  const calls: string[] = [];
  const subject = (name: string, seconds: number) => ({
    run: async (count: number) => {
      calls.push(`${name}${count}`);
      return seconds * count;
    },
  });
  const subjects = [subject('a', 0.001), subject('b', 0.05)];
  const [a, b] = await measure(subjects, { rounds: 3, minSeconds: 0.02, restSeconds: 0 });
  const sampled = calls.slice(-6);
  assert.deepEqual(
    sampled.map((call) => call[0]),
    ['a', 'b', 'b', 'a', 'a', 'b'],
  );
  assert.ok(Number(sampled[0]!.slice(1)) >= 20, sampled[0]);
  assert.equal(sampled[1], 'b1');
  assert.ok(Math.abs(a!.median - 0.001) < 1e-12 && a!.mad < 1e-12 && a!.samples === 3);
  assert.equal(b!.best, 0.05);
});

test('a subject far behind the fastest takes part in three rounds', async () => {
  const subject = (seconds: number) => ({ run: async (count: number) => seconds * count });
  const ceiling = { ...subject(0.001), isApart: true as const };
  const subjects = [subject(0.1), subject(2), subject(0.9), ceiling];
  const timings = await measure(subjects, { rounds: 5, minSeconds: 0, restSeconds: 0 });
  assert.deepEqual(
    timings.map(({ samples }) => samples),
    [5, 3, 5, 5],
  );
});

test('a row names its best peer', () => {
  const common = { name: 'x', shape: '2', threads: 2, peers: { slow: 10, fast: 40 } };
  const speed = makeRow({ ...common, unit: 'GFLOP/s', better: 'higher', ours: 30, ceiling: 60 });
  assert.deepEqual([speed.peer, speed.peerName, speed.ratio, speed.ofCeiling], [40, 'fast', 0.75, 0.5]);
  const time = makeRow({ ...common, unit: 'µs', better: 'lower', ours: 5 });
  assert.deepEqual([time.peer, time.peerName, time.ratio, time.ceiling, time.ofCeiling], [10, 'slow', 0.5, null, null]);
  const alone = makeRow({ ...common, unit: 'ms', better: 'lower', ours: 5, peers: {} });
  assert.deepEqual([alone.peer, alone.peerName, alone.ratio, alone.dtype], [null, null, null, 'float32']);
});

test('the filter looks for every word in name and shape', () => {
  const row = { name: 'matmul NT', shape: '512x2304x768' };
  for (const text of [undefined, '', 'matmul', 'NT matmul', '2304', 'MATMUL 768']) assert.ok(chosen(text, row), text);
  for (const text of ['softmax', 'matmul 1024']) assert.ok(!chosen(text, row), text);
});
