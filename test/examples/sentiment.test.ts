/** examples/sentiment as a process, on sentences that are made here. */
import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { runExample as example, tinyModel as tiny, words } from '../helpers/examples.js';

let folder = '';
const at = (...names: string[]): string => path.join(folder, ...names);

before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'omnigrad-examples-'));
  await mkdir(at('sst'));
  for (const [name, count] of [
    ['train', 64],
    ['dev', 16],
    ['test', 16],
  ] as const) {
    const lines = Array.from(
      { length: count },
      (_, i) => `${i % 2 ? 'a good film' : 'a bad film'} of ${words[i % 8]}\t${i % 2}`,
    );
    await writeFile(at('sst', `${name}.tsv`), lines.join('\n'));
  }
});
after(() => rm(folder, { recursive: true, force: true }));

test('examples/sentiment compares head only, LoRA and full tuning', async () => {
  const args = ['--out', at('sen'), '--context', '16', '--pretrain', '4', '--epochs', '2', '--batch', '8', ...tiny];
  const { status, out, err } = await example('sentiment', ['--data', at('sst'), ...args]);
  assert.equal(status, 0, err);
  for (const name of ['always the same', 'naive Bayes', 'head only', 'LoRA, rank 8', 'full', 'full, from random']) {
    assert.match(out, new RegExp(`^${name} +[01]\\.\\d{3} +[01]\\.\\d{3}`, 'm'));
  }
  assert.match(out, /naive Bayes +1\.000/, 'good and bad tell these sentences apart');
  assert.match(await readFile(at('sen', 'report.html'), 'utf8'), /LoRA, rank 8/);
  const none = await example('sentiment', ['--out', at('none')]);
  assert.match(none.err, /--data is needed: A folder of SST-2/);
});
