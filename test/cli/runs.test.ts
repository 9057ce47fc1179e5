/** `omnigrad runs` as a process of its own: the table, one run, a comparison, a report. */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { startCli, type Outcome } from '../helpers/cli.js';
import { makeRun } from '../helpers/made_run.js';

let folder = '';
before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'omnigrad-runs-'));
  await makeRun({ dir: path.join(folder, 'runs', 'tiny'), name: 'tiny' });
  await makeRun({ dir: path.join(folder, 'runs', 'deep', 'other'), name: 'other', lr: 0.01, steps: 12 });
});
after(() => rm(folder, { recursive: true, force: true }));

const omnigrad = (...args: string[]): Promise<Outcome> => startCli(folder, args).outcome;

test('runs are listed, for people and for programs', async () => {
  const [list, json, none] = await Promise.all([
    omnigrad('runs'),
    omnigrad('runs', 'runs', '--json'),
    omnigrad('runs', 'list', 'elsewhere'),
  ]);
  assert.match(list.out, /^run +status +step +loss +best valid +tokens\/s +last change\n/);
  assert.match(list.out, /\ntiny +finished +40\/40 +1\.\d+ +1\.075 +1,021 +\d{4}-\d\d-\d\d \d\d:\d\d\n/);
  assert.match(list.out, /\ndeep.other +finished +12\/12 /);
  const parsed = JSON.parse(json.out) as { name: string; bestValid: number; config: { batchSize: number } }[];
  assert.deepEqual(
    parsed.map(({ name, bestValid, config }) => [name, bestValid, config.batchSize]),
    [
      ['other', 1.3, 4],
      ['tiny', 1.075, 4],
    ],
  );
  assert.match(none.out, /^No runs below .*elsewhere\./);
  assert.deepEqual([list.status, json.status, none.status], [0, 0, 0]);
});

test('one run is shown; runs are compared, on a page, too; a misspelt name is recognised', async () => {
  const [shown, compared, reported, missing] = await Promise.all([
    omnigrad('runs', 'show', 'tiny'),
    omnigrad('runs', 'compare', 'tiny', 'other', '--html', 'both.html'),
    omnigrad('runs', 'report', 'other'),
    omnigrad('runs', 'show', 'tny'),
  ]);
  assert.match(shown.out, /status +finished\nstep +40\/40\n/);
  assert.match(shown.out, /optimizer\.lr +0\.001\n/);
  assert.match(shown.out, /rollback +step 25 +why a <spike>\n/);
  assert.match(compared.out, /\nbest valid +1\.075 +1\.300\n/);
  assert.match(compared.out, /\noptimizer\.lr +0\.001 +0\.01\n/);
  assert.doesNotMatch(compared.out, /batchSize/);
  assert.match(await readFile(path.join(folder, 'both.html'), 'utf8'), /Comparison of 2 runs/);
  assert.equal(reported.out.trim(), `Report: ${path.join('runs', 'deep', 'other', 'report.html')}`);
  assert.equal(missing.status, 1);
  assert.match(missing.err, /Did you mean tiny/);
});
