/** examples/language_adaptation as a process, on text that is made here. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { runExample as example, sentences, tinyModel as tiny } from '../helpers/examples.js';

let folder = '';
const at = (...names: string[]): string => path.join(folder, ...names);

before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'omnigrad-examples-'));
  await writeFile(at('book.txt'), sentences(1200));
  await writeFile(at('zh.txt'), sentences(1200, ['张量', '梯度', '内核', '训练', '的', '和']));
});
after(() => rm(folder, { recursive: true, force: true }));

test('examples/language_adaptation measures both languages in bits a byte', async () => {
  const args = [
    '--from',
    at('book.txt'),
    '--to',
    at('zh.txt'),
    '--out',
    at('ada'),
    '--context',
    '16',
    '--batch',
    '4',
    ...tiny,
  ];
  const { status, out, err } = await example('language_adaptation', [...args, '--pretrain', '6', '--steps', '6']);
  assert.equal(status, 0, err);
  const figures = (name: string): number[] =>
    new RegExp(`^${name} +(\\d+\\.\\d+) +(\\d+\\.\\d+)`, 'm').exec(out)!.slice(1).map(Number);
  assert.ok(figures('full')[1]! < figures('before')[1]!, out);
  for (const name of ['LoRA 16 \\+ embeddings', 'rehearsal 0.2', 'EWC [\\d.]+', 'new language from random']) {
    assert.equal(figures(name).length, 2);
  }
  assert.ok(existsSync(at('ada', 'report.html')));
});
