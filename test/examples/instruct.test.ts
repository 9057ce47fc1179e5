/** examples/instruct as a process, on conversations that are made here, and its questions. */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { runExample as example, sentences, tinyModel as tiny, words } from '../helpers/examples.js';

let folder = '';
const at = (...names: string[]): string => path.join(folder, ...names);

before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'omnigrad-examples-'));
  await writeFile(at('book.txt'), sentences(6000));
  const chats = Array.from({ length: 40 }, (_, i) => ({
    messages: [
      { role: 'user', content: `What is ${i}?` },
      { role: 'assistant', content: `It is ${words[i % 8]}.` },
    ],
  }));
  await writeFile(at('chats.jsonl'), chats.map((chat) => JSON.stringify(chat)).join('\n'));
});
after(() => rm(folder, { recursive: true, force: true }));

test('examples/instruct tunes on conversations and answers what was held back', async () => {
  const args = [
    '--data',
    at('chats.jsonl'),
    '--text',
    at('book.txt'),
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
