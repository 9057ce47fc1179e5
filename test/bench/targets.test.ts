/** Judging a run by its goals. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { makeRow, type Row } from '../../bench/harness.js';
import { formatJudgement, judge, type Target } from '../../bench/targets.js';

const row = (name: string, ours: number, peers: Record<string, number>, more: Partial<Row> = {}): Row =>
  makeRow({ name, shape: '8x8', threads: 1, unit: 'GFLOP/s', better: 'higher', ours, peers, ...more });
const goal = (parts: Partial<Target>): Target => ({
  goal: 'g',
  rows: ['a'],
  against: [''],
  atLeast: 1,
  threads: 1,
  over: 'mean',
  ...parts,
});
const rows = [
  row('a 1', 200, { 'torch x': 100, 'torch y': 50, ort: 400 }),
  row('a 2', 50, { 'torch x': 100 }, { ceiling: 100 }),
  row('time', 5, { torch: 10 }, { unit: 'µs', better: 'lower' }),
];
const reached = (parts: Partial<Target>): readonly [number | null, string] => {
  const [judged] = judge(rows, 1, [goal(parts)]);
  return [judged!.reached, judged!.verdict];
};

test('the best of the named peers counts, over the mean or the worst of the rows', () => {
  assert.deepEqual(reached({ rows: ['a 1'], against: ['torch'] }), [2, 'met']);
  assert.deepEqual(reached({ rows: ['a 1'], against: ['torch y'], atLeast: 5 }), [4, 'missed']);
  assert.deepEqual(reached({ rows: ['a 1'] }), [0.5, 'missed']);
  assert.deepEqual(reached({ against: ['torch'] }), [1, 'met']); // 2 and 0.5
  assert.deepEqual(reached({ against: ['torch'], over: 'each' }), [0.5, 'missed']);
  assert.deepEqual(reached({ rows: ['a 2'], against: 'ceiling', atLeast: 0.5 }), [0.5, 'met']);
});

test('a figure of its own unit is judged without a peer', () => {
  assert.deepEqual(reached({ rows: ['a 1'], against: 'figure', over: 'each', atLeast: 150 }), [200, 'met']);
  assert.deepEqual(reached({ against: 'figure', atLeast: 150, over: 'each' }), [50, 'missed']);
});

test('where less is better, half the time is twice as good', () => {
  assert.deepEqual(reached({ rows: ['time'], atLeast: 2 }), [2, 'met']);
});

test('goals without a row, without a peer, or of other numbers of threads', () => {
  assert.deepEqual(reached({ rows: ['b'] }), [null, 'not measured']);
  assert.deepEqual(reached({ against: ['llama'] }), [null, 'no peer']);
  assert.deepEqual(judge(rows, 1, [goal({ threads: 2 })]), []);
});

test('a line of the table', () => {
  const [judged] = judge(rows, 1, [goal({ against: ['torch'], over: 'each', atLeast: 1.25 })]);
  assert.match(formatJudgement(judged!), /^g +torch +each >= 1\.25 +0\.50 {2}missed$/);
});
