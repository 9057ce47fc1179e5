/** examples/pretrain as a process, on text that is made here. */
import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import * as og from '../../src/index.js';
import { runExample as example, sentences, tinyModel as tiny } from '../helpers/examples.js';

let folder = '';
const at = (...names: string[]): string => path.join(folder, ...names);

before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'omnigrad-examples-'));
  await mkdir(at('text', 'deep'), { recursive: true });
  await writeFile(at('text', 'deep', 'book.txt'), sentences(900));
  await writeFile(
    at('text', 'notes.jsonl'),
    Array.from({ length: 30 }, (_, i) => JSON.stringify({ text: `${sentences(20)} ${i}` })).join('\n'),
  );
});
after(() => rm(folder, { recursive: true, force: true }));

const args = (out: string): string[] => [
  '--data',
  at('text'),
  '--out',
  at(out),
  '--context',
  '16',
  '--batch',
  '4',
  ...tiny,
];

test('a folder of text becomes a model with figures, samples and a report', async () => {
  const { status, out, err } = await example('pretrain', [...args('pre'), '--steps', '8', '--precision', 'bfloat16']);
  assert.equal(status, 0, err);
  assert.match(out, /31 documents/);
  const [untrained, trained] = [/untrained +(\d\.\d+)/, /GPT, bfloat16 +(\d\.\d+)/].map((row) =>
    Number(row.exec(out)?.[1]),
  );
  assert.ok(trained! < untrained!, `${trained} bits a byte after training, ${untrained} before`);
  assert.match(await readFile(at('pre', 'report.html'), 'utf8'), /gzip -9/);
  const { model, tokenizer } = await og.load(at('pre', 'model'));
  assert.equal(model.config.vocabSize, tokenizer!.vocabSize);
  const again = await example('pretrain', [...args('pre'), '--steps', '9']);
  assert.equal(again.status, 1);
  assert.match(again.err, /steps was 8 and is 9.*--fresh/);
});

test('a run that is interrupted goes on from where it was', async () => {
  const long = [...args('stopped'), '--steps', '6000'];
  let isStopped = false;
  const first = await example('pretrain', long, (seen, stop) => {
    if (isStopped || !seen.includes('step ')) return;
    isStopped = true;
    stop();
  });
  assert.equal(first.status, 130, first.err);
  assert.match(first.out, /Saved/);
  isStopped = false;
  const second = await example('pretrain', long, (seen, stop) => {
    if (isStopped || !/step \d/.test(seen)) return;
    isStopped = true;
    stop();
  });
  assert.match(second.out, /Goes on from step \d+/, second.err);
});

test('says what is wrong with its data', async () => {
  const none = await example('pretrain', ['--data', at('nothing'), '--out', at('none')]);
  assert.deepEqual([none.status, none.err.split('\n').length], [1, 2]);
  assert.match(none.err, /--data .*nothing: there is no such file or folder/);
});
