/** Comparing two runs of the bench, and the page of one. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { compareRows, formatComparison, readRecorded, type Recorded } from '../../bench/compare.js';
import { makeRow, type Row } from '../../bench/harness.js';
import { advantage, renderPage } from '../../bench/page.js';
import { judge } from '../../bench/targets.js';

const row = (name: string, ours: number, more: Partial<Row> = {}): Row =>
  makeRow({ name, shape: '8x8', threads: 2, unit: 'GFLOP/s', better: 'higher', ours, spread: 0.01, ...more });

test('a change counts only beyond the noise of both runs', () => {
  const before = [row('a', 100), row('b', 100), row('c', 100), row('d', 100, { spread: 0.2 }), row('gone', 1)];
  const after = [row('a', 120), row('b', 95), row('c', 80), row('d', 80), row('new', 1)];
  const compared = compareRows(before, after);
  assert.deepEqual(
    compared.map(({ name, verdict }) => `${name} ${verdict}`),
    ['a better', 'b same', 'c worse', 'd same'],
  );
  assert.match(formatComparison(compared[0]!), /a +8x8 +100 → 120 GFLOP\/s +1\.20x +±8 % {2}better/);
});

test('where less is better, less is progress', () => {
  const time = { unit: 'ms', better: 'lower' } as const;
  const [compared] = compareRows([row('t', 10, time)], [row('t', 5, time)]);
  assert.deepEqual([compared!.change, compared!.verdict], [2, 'better']);
  assert.equal(advantage(row('t', 5, { ...time, peers: { torch: 10 } })), 2);
});

test('rows of other shapes, dtypes or thread counts do not meet', () => {
  const others = [row('a', 1, { shape: '9x9' }), row('a', 1, { dtype: 'int8' }), row('a', 1, { threads: 1 })];
  assert.deepEqual(compareRows(others, [row('a', 1)]), []);
});

test('a file that is no record is refused', () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'omnigrad-bench-'));
  try {
    const file = path.join(folder, 'run.json');
    for (const text of ['null', '{}', '[1]', '{"rows": 3}']) {
      writeFileSync(file, text);
      assert.throws(() => readRecorded(file), /expected a record/);
    }
    writeFileSync(file, JSON.stringify({ rows: [row('a', 1)] }));
    assert.equal(readRecorded(file).rows[0]!.ours, 1);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('the page has a roofline, bars and every row, with names escaped', () => {
  const rows = [
    row('matmul', 200, { peers: { torch: 150 }, ceiling: 230, limit: 'fma', intensity: 100 }),
    row('matmul int8', 400, { unit: 'GOP/s', ceiling: 470, limit: 'int8', intensity: 200 }),
    row('soft<max>', 25, { unit: 'GB/s', peers: { torch: 16 }, ceiling: 38, limit: 'copy', intensity: 0.6 }),
    row('import', 130, { unit: 'ms', better: 'lower' }),
  ];
  const run: Recorded = {
    date: '2026-01-02T00:00:00.000Z',
    cpu: 'a & b',
    isa: 'avx2',
    threads: 2,
    node: 'v20',
    commit: 'abc',
    versions: { torch: '2' },
    load: 0.5,
    rows,
  };
  const html = renderPage(run);
  assert.match(html, /Roofline/);
  assert.equal(html.match(/<svg/g)?.length, 2);
  assert.match(html, /soft&lt;max&gt;/);
  assert.doesNotMatch(html, /soft<max>/);
  assert.match(html, /a &amp; b, avx2, 2 threads/);
  assert.doesNotMatch(html, /Goals/);
  const alone = renderPage({ ...run, rows: [rows[3]!] });
  assert.doesNotMatch(alone, /<svg|Roofline/);
  const goals = judge(rows, 1, [
    { goal: 'all', rows: ['matmul 8'], against: [''], atLeast: 1.5, threads: 1, over: 'mean' },
  ]);
  assert.match(
    renderPage({ ...run, targets: goals }),
    /Goals.*<td>all<\/td>.*<td>1\.50<\/td><td>1\.33<\/td><td>missed<\/td>/s,
  );
});
