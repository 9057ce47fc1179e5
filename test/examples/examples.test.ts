/** The programs of examples/ as processes, on tiny settings and text that is made here. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import * as og from '../../src/index.js';
import { root } from '../helpers/source_tree.js';

let folder = '';
const at = (...names: string[]): string => path.join(folder, ...names);
const tiny = ['--layers', '1', '--heads', '2', '--width', '16', '--vocab', '300'];

interface Outcome {
  readonly status: number | null;
  readonly out: string;
  readonly err: string;
}

/** Runs an example; `watch` sees what it has written so far and may stop it. */
function example(
  name: string,
  args: readonly string[],
  watch?: (out: string, stop: () => void) => void,
): Promise<Outcome> {
  const child = spawn(process.execPath, ['--import', 'tsx', path.join(root, 'examples', name, 'main.ts'), ...args], {
    cwd: root,
    env: { ...process.env, OG_THREADS: '1' },
  });
  let [out, err] = ['', ''];
  child.stdout.on('data', (data: Buffer) => (out += data.toString()));
  child.stderr.on('data', (data: Buffer) => {
    err += data.toString();
    watch?.(err, () => child.kill('SIGINT'));
  });
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (status) => resolve({ status, out, err }));
  });
}

const words = ['tensor', 'gradient', 'kernel', 'train', 'the', 'a', 'of', 'and'];
const sentences = (count: number, of: readonly string[] = words): string =>
  Array.from({ length: count }, (_, i) => of[(i * i + 3 * i) % of.length]! + (i % 9 === 8 ? '.\n' : ' ')).join('');

before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'omnigrad-examples-'));
  await mkdir(at('text', 'deep'), { recursive: true });
  await writeFile(at('text', 'deep', 'book.txt'), sentences(900));
  await writeFile(
    at('text', 'notes.jsonl'),
    Array.from({ length: 30 }, (_, i) => JSON.stringify({ text: `${sentences(20)} ${i}` })).join('\n'),
  );
  await writeFile(at('zh.txt'), sentences(1200, ['张量', '梯度', '内核', '训练', '的', '和']));
  const chats = Array.from({ length: 40 }, (_, i) => ({
    messages: [
      { role: 'user', content: `What is ${i}?` },
      { role: 'assistant', content: `It is ${words[i % 8]}.` },
    ],
  }));
  await writeFile(at('chats.jsonl'), chats.map((chat) => JSON.stringify(chat)).join('\n'));
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

describe('examples/pretrain', () => {
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
});

test('examples/instruct tunes on conversations and answers what was held back', async () => {
  const args = [
    '--data',
    at('chats.jsonl'),
    '--text',
    at('text'),
    '--out',
    at('ins'),
    '--context',
    '64',
    '--ask',
    '2',
    ...tiny,
  ];
  const { status, out, err } = await example('instruct', [...args, '--pretrain', '4', '--epochs', '6']);
  assert.equal(status, 0, err);
  assert.match(out, /Conversations: 36, and 4 held back/);
  const [earlier, later] = [/pre-trained +(\d\.\d+)/, /tuned +(\d\.\d+)/].map((row) => Number(row.exec(out)?.[1]));
  assert.ok(later! < earlier!, `loss ${later} after, ${earlier} before`);
  assert.match(await readFile(at('ins', 'report.html'), 'utf8'), /What is 9\?/);
  await writeFile(at('bad.jsonl'), '{"messages": [{"role": "user", "content": "no answer"}]}\n');
  const bad = await example('instruct', ['--data', at('bad.jsonl'), '--out', at('none')]);
  assert.match(bad.err, /bad\.jsonl:1: expected .*assistant/);
});

test('the default questions are made of comments, and the held-back answers are cut out of the text', async () => {
  const { makeQuestions, splitQuestions, withoutAnswers } = await import('../../examples/instruct/questions.js');
  const { declarationFiles } = await import('../../examples/shared/text.js');
  const files = new Map([...(await declarationFiles())].filter(([name]) => name === 'lib.es5.d.ts'));
  const { train, held } = splitQuestions(makeQuestions(files));
  const push = [...train, ...held].find(({ question }) => question === 'What does Array.push do?');
  assert.equal(push?.answer, 'Appends new elements to the end of an array, and returns the new length of the array.');
  const owners = new Set(train.map(({ owner }) => owner));
  assert.ok(held.length > 5 && held.every(({ owner }) => !owners.has(owner)));
  const text = withoutAnswers(files, held).join('\n');
  const found = held.filter(({ answer }) => text.replace(/\s+/g, ' ').includes(answer));
  assert.deepEqual(found, []);
});

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

test('examples/language_adaptation measures both languages in bits a byte', async () => {
  const args = [
    '--from',
    at('text'),
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
