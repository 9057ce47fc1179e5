/** Training gives what Hugging Face tokenizers learns, holds the event loop only briefly and can be stopped. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { AttributeError } from '../../src/errors.js';
import { BpeTokenizer, type BpeTrainProgress } from '../../src/tokenizer/index.js';

interface Case {
  readonly corpus: string;
  readonly vocabSize: number;
  readonly specialTokens: string[];
  readonly minFrequency?: number;
  readonly pattern?: string;
  readonly texts: string[] | null;
  readonly tokens: string[];
  readonly merges: [string, string][];
}

const fixture = (name: string): unknown =>
  JSON.parse(readFileSync(new URL(`../fixtures/tokenizers/${name}`, import.meta.url), 'utf8'));
const { cases } = fixture('trained.json') as { cases: Case[] };
const { strings } = fixture('cases.json') as { strings: string[] };

for (const { corpus, texts, tokens, merges, vocabSize, specialTokens, minFrequency, pattern } of cases) {
  test(`learns what tokenizers learns: ${corpus}, ${vocabSize} tokens${pattern === undefined ? '' : ', own pattern'}`, async () => {
    const tokenizer = await BpeTokenizer.train(texts ?? strings, {
      vocabSize,
      specialTokens,
      ...(minFrequency === undefined ? {} : { minFrequency }),
      ...(pattern === undefined ? {} : { pattern }),
    });
    const model = tokenizer.toJSON()['model'] as { merges: [string, string][] };
    assert.deepEqual(
      Array.from({ length: tokenizer.vocabSize }, (_, id) => tokenizer.idToToken(id)),
      tokens,
    );
    assert.deepEqual(model.merges, merges);
  });
}

/** Text with many different words. */
function manyWords(count: number): string {
  let state = 1;
  const words: string[] = [];
  for (let i = 0; i < count; i++) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    words.push(state.toString(36), (state >>> 20).toString(2));
  }
  return words.join(' ');
}

test('lets the event loop turn while it trains', async () => {
  const text = manyWords(30_000);
  await BpeTokenizer.train([text.slice(0, 20_000)], { vocabSize: 400 });
  // Processor time between turns, not wall time: it does not grow when other programs use the processor.
  let longest = 0;
  let turns = 0;
  let running = true;
  let last = process.cpuUsage();
  const turn = (): void => {
    const { user, system } = process.cpuUsage(last);
    longest = Math.max(longest, (user + system) / 1000);
    last = process.cpuUsage();
    turns++;
    if (running) setImmediate(turn);
  };
  setImmediate(turn);
  await BpeTokenizer.train([text], { vocabSize: 1500 });
  running = false;
  assert.ok(turns > 10, `${turns} turns`);
  assert.ok(longest < 50, `${longest} ms of processor time in one turn`);
});

test('reports progress and stops on abort', async () => {
  const text = manyWords(20_000);
  const seen: BpeTrainProgress[] = [];
  const tokenizer = await BpeTokenizer.train([text], { vocabSize: 600, onProgress: (progress) => seen.push(progress) });
  assert.equal(tokenizer.vocabSize, 600);
  assert.deepEqual(seen[seen.length - 1], { phase: 'merge', done: 600, total: 600 });
  assert.ok(seen.some(({ phase, done }) => phase === 'count' && done === text.length));

  const stop = new AbortController();
  const training = BpeTokenizer.train([text], { vocabSize: 5000, signal: stop.signal });
  setTimeout(() => stop.abort(new Error('enough')), 20);
  await assert.rejects(training, /enough/);
  await assert.rejects(BpeTokenizer.train([text], { vocabSize: 300, signal: AbortSignal.abort() }), {
    name: 'AbortError',
  });
});

test('takes texts as they arrive', async () => {
  const texts = ['one two three', 'one two two'];
  const arriving = async function* (): AsyncGenerator<string> {
    yield* texts;
  };
  const [a, b] = [
    await BpeTokenizer.train(texts, { vocabSize: 262 }),
    await BpeTokenizer.train(arriving(), { vocabSize: 262 }),
  ];
  assert.deepEqual(a.toJSON(), b.toJSON());
});

test('ends early when there is nothing left to merge', async () => {
  const tokenizer = await BpeTokenizer.train(['ab ab'], { vocabSize: 1000 });
  assert.equal(tokenizer.vocabSize, 258);
  assert.equal((await BpeTokenizer.train([], { vocabSize: 1000 })).vocabSize, 256);
});

test('refuses options out of range', async () => {
  const refused = async (options: object, texts: unknown = ['a']): Promise<void> => {
    await assert.rejects(BpeTokenizer.train(texts as string[], options as { vocabSize: number }), AttributeError);
  };
  await refused({});
  await refused({ vocabSize: 255 });
  await refused({ vocabSize: 256, specialTokens: ['<s>'] });
  await refused({ vocabSize: 300, specialTokens: ['<s>', '<s>'] });
  await refused({ vocabSize: 300, specialTokens: [''] });
  await refused({ vocabSize: 300.5 });
  await refused({ vocabSize: 300, minFrequency: -1 });
  await refused({ vocabSize: 300, vocabsize: 1 });
  await refused({ vocabSize: 300 }, 'one string');
  await refused({ vocabSize: 300 }, [1]);
});
