/** Threads: the same results in the same order, whatever their number; failures that say what failed. Runs the built package's worker. */
import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import {
  clean,
  exactDuplicates,
  gopherRepetition,
  languageFilter,
  mapInWorkers,
  normalize,
  redact,
  writeShards,
  type TextDocument,
} from '../../src/data/index.js';
import { BpeTokenizer } from '../../src/index.js';

let folder = '';
let module = '';
before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'omnigrad-workers-'));
  const file = path.join(folder, 'task.mjs');
  await writeFile(
    file,
    `export const square = ({ add }) => async (x) => {
       await new Promise((done) => setTimeout(done, x % 3 === 0 ? 15 : 0));
       if (x === -1) throw new RangeError('no roots');
       if (x === -2) process.exit(3);
       return x * x + add;
     };
     export const nothing = 1;`,
  );
  module = pathToFileURL(file).href;
});
after(() => rm(folder, { recursive: true, force: true }));

async function collect<T>(source: AsyncIterable<T>): Promise<T[]> {
  const items: T[] = [];
  for await (const item of source) items.push(item);
  return items;
}

test('results come in order, and reading stays within bounds', async () => {
  const task = (): { module: string; name: string; options: unknown } => ({
    module,
    name: 'square',
    options: { add: 1 },
  });
  const expected = Array.from({ length: 20 }, (_, x) => x * x + 1);
  let read = 0;
  function* source(): Generator<number> {
    for (let x = 0; x < 20; x++) {
      read++;
      yield x;
    }
  }
  for (const workers of [0, 1, 3])
    assert.deepEqual(await collect(mapInWorkers(source(), task(), { workers })), expected);
  read = 0;
  for await (const y of mapInWorkers<number, number>(source(), task(), { workers: 2, ahead: 2 })) {
    assert.equal(y, 1);
    assert.ok(read <= 4, `${read} read`);
    break;
  }
});

test('failures are typed and name their cause', async () => {
  const run = (items: number[], name = 'square', workers = 2): Promise<unknown[]> =>
    collect(mapInWorkers(items, { module, name, options: { add: 0 } }, { workers }));
  await assert.rejects(run([1, -1, 2]), { code: 'OG_STATE', message: /RangeError: no roots/ });
  await assert.rejects(run([1, -2, 2]), { code: 'OG_RESOURCE', message: /exit code 3/ });
  await assert.rejects(run([1], 'nothing'), { code: 'OG_ATTRIBUTE', message: /nothing: 1/ });
  await assert.rejects(run([1], 'absent', 0), { code: 'OG_ATTRIBUTE' });
});

const documents: TextDocument[] = Array.from({ length: 400 }, (_, i) => ({
  id: `d${i}`,
  text: `${i % 7 === 0 ? 'spam eggs '.repeat(40) : `Number ${i} of the documents, from mail${i % 90}@example.org, tells of the sea.`} ${'It was a long story about the weather and the town. '.repeat(i % 5 === 0 ? 1 : 0)}${'x'.repeat(2500)}`,
}));

test('cleaning: the same documents and the same account', async () => {
  const run = async (workers: number): Promise<unknown> => {
    const steps = [normalize(), gopherRepetition(), languageFilter(), redact(), exactDuplicates()];
    const made = clean(documents, steps, { workers });
    const kept = await collect(made);
    return { kept, report: made.report };
  };
  const alone = await run(0);
  assert.deepEqual(await run(2), alone);
  assert.deepEqual(await run(3), alone);
});

test('shards: the same bytes', async () => {
  const tokenizer = await BpeTokenizer.train(documents.slice(0, 20).map(({ text }) => text), { vocabSize: 320, specialTokens: ['</s>'] }); // prettier-ignore
  const contents = async (workers: number): Promise<Record<string, string>> => {
    const dir = path.join(folder, `shards${workers}`);
    await writeShards(documents, dir, { tokenizer, shardTokens: 1000, workers });
    const names = (await readdir(dir)).sort();
    return Object.fromEntries(await Promise.all(names.map(async (name) => [name, await readFile(path.join(dir, name), 'base64')]))) as Record<string, string>; // prettier-ignore
  };
  const alone = await contents(0);
  assert.ok(Object.keys(alone).length > 5);
  assert.deepEqual(await contents(2), alone);
});
