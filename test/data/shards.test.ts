/** Shards of tokens: what they hold, resuming after a kill, damage, and the loader that reads them. */
import assert from 'node:assert/strict';
import { cp, mkdtemp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { openShards, readShardIndex, tokenizerHash, writeShards, type TextDocument } from '../../src/data/index.js';
import { BpeTokenizer, DataLoader, TextDataset, type TextBatch } from '../../src/index.js';

let folder = '';
let tokenizer: BpeTokenizer;
const documents: TextDocument[] = Array.from({ length: 60 }, (_, i) => ({
  id: `d${i}`,
  text: `Document ${i} ${'says something '.repeat((i * 7) % 11)}<|endoftext|> and ends.`,
}));

before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'omnigrad-shards-'));
  const texts = documents.map(({ text }) => text);
  tokenizer = await BpeTokenizer.train(texts, { vocabSize: 300, specialTokens: ['<|endoftext|>'] });
});
after(() => rm(folder, { recursive: true, force: true }));

/** What the shards must hold: every document and the end token. */
function expectedIds(): number[] {
  const end = tokenizer.specialTokens.get('<|endoftext|>')!;
  return documents.flatMap(({ text }) => [
    ...tokenizer.encode(text, { addSpecialTokens: false, allowedSpecial: 'none' }),
    end,
  ]);
}

async function idsOf(dir: string): Promise<number[]> {
  const tokens = await openShards(dir, { verify: true });
  const { x } = new TextDataset(tokens, { context: tokens.size - 1, shift: false }).batch([0], 0);
  const { y } = new TextDataset(tokens, { context: tokens.size - 1, shift: false }).batch([0], 0);
  const ids = [...(x.toArraySync() as number[][])[0]!, (y.toArraySync() as number[][])[0]!.at(-1)!];
  await tokens.close();
  return ids;
}

async function contents(dir: string): Promise<Record<string, string>> {
  const entries = (await readdir(dir))
    .sort()
    .map(async (name) => [name, await readFile(path.join(dir, name), 'base64')]);
  return Object.fromEntries(await Promise.all(entries)) as Record<string, string>;
}

/** A source that dies after some documents, as a process that is killed does between two of them. */
function* dying(after: number): Generator<TextDocument> {
  for (const [i, document] of documents.entries()) {
    if (i === after) throw new Error('killed');
    yield { ...document, text: document.text };
  }
}

describe('writing', () => {
  test('documents, each with an end token, in shards of equal size', async () => {
    const dir = path.join(folder, 'plain');
    const index = await writeShards(documents, dir, { tokenizer, shardTokens: 200 });
    const expected = expectedIds();
    assert.deepEqual(await idsOf(dir), expected);
    assert.equal(index.tokens, expected.length);
    assert.equal(index.documents, 60);
    assert.ok(index.shards.length > 5 && index.shards.slice(0, -1).every(({ tokens }) => tokens === 200));
    assert.equal(index.tokenizer.hash, tokenizerHash(tokenizer));
    assert.deepEqual(await readShardIndex(dir), index);
    const end = tokenizer.specialTokens.get('<|endoftext|>')!;
    assert.equal(expected.filter((id) => id === end).length, 60, 'text cannot fake an end');
  });

  test('a call that ended early is taken up, with the same bytes', async () => {
    const whole = path.join(folder, 'whole');
    await writeShards(documents, whole, { tokenizer, shardTokens: 50 });
    const broken = path.join(folder, 'broken');
    // Long documents make many batches: each is 256 Ki characters at most, so give every document a batch of its own.
    const long = documents.map((document) => ({ ...document, text: `${document.text} ${'pad '.repeat(70_000)}` }));
    const [wholeLong, brokenLong] = [path.join(folder, 'wholeLong'), path.join(folder, 'brokenLong')];
    const few = long.slice(0, 6);
    await writeShards(few, wholeLong, { tokenizer, shardTokens: 100_000 });
    for (const stop of [2, 3, 5]) {
      const source = function* (): Generator<TextDocument> {
        yield* few.slice(0, stop);
        throw new Error('killed');
      };
      await assert.rejects(writeShards(source(), brokenLong, { tokenizer, shardTokens: 100_000 }), /killed/);
      const index = await readShardIndex(brokenLong);
      assert.ok(index !== null && !index.complete && index.shards.length > 0);
      await assert.rejects(openShards(brokenLong), { code: 'OG_FORMAT', message: /partial: true/ });
    }
    await writeFile(path.join(brokenLong, 'shard-00009.safetensors.999999999.0.tmp'), 'a draft of a dead process');
    await writeShards(few, brokenLong, { tokenizer, shardTokens: 100_000 });
    assert.deepEqual(await contents(brokenLong), await contents(wholeLong));

    await assert.rejects(writeShards(dying(30), broken, { tokenizer, shardTokens: 50 }), /killed/);
    await writeShards(documents, broken, { tokenizer, shardTokens: 50 });
    assert.deepEqual(await contents(broken), await contents(whole));
  });

  test('other documents, options and folders in use are refused', async () => {
    const dir = path.join(folder, 'changed');
    const long = documents.slice(0, 3).map(({ id, text }) => ({ id, text: text + ' pad'.repeat(70_000) }));
    const source = function* (changed: boolean): Generator<TextDocument> {
      yield { ...long[0]!, text: changed ? `X${long[0]!.text}` : long[0]!.text };
      yield long[1]!;
      if (!changed) throw new Error('killed');
    };
    await assert.rejects(writeShards(source(false), dir, { tokenizer, shardTokens: 10_000 }), /killed/);
    await assert.rejects(writeShards(source(true), dir, { tokenizer, shardTokens: 10_000 }), { code: 'OG_STATE' });
    await assert.rejects(writeShards(long.slice(0, 1), dir, { tokenizer, shardTokens: 10_000 }), { code: 'OG_STATE' });
    await assert.rejects(writeShards(long, dir, { tokenizer, shardTokens: 20_000 }), {
      code: 'OG_STATE',
      message: /shardTokens/,
    });
    await assert.rejects(writeShards(long, dir, { tokenizer, resume: false }), { code: 'OG_STATE' });
    const plain = await BpeTokenizer.train(['a b'], { vocabSize: 260 });
    await assert.rejects(writeShards(long, path.join(folder, 'end'), { tokenizer: plain }), { message: /endToken/ });
  });

  test('a signal stops it; an empty source gives an empty folder', async () => {
    const stop = new AbortController();
    stop.abort();
    await assert.rejects(writeShards(documents, path.join(folder, 'stopped'), { tokenizer, signal: stop.signal }), { name: 'AbortError' }); // prettier-ignore
    const dir = path.join(folder, 'empty');
    const index = await writeShards([], dir, { tokenizer });
    assert.deepEqual([index.tokens, index.complete], [0, true]);
    await assert.rejects(openShards(dir), { code: 'OG_FORMAT' });
  });
});

describe('reading', () => {
  test('damage is found', async () => {
    const dir = path.join(folder, 'plain');
    const damaged = async (change: (copy: string) => Promise<void>): Promise<string> => {
      const copy = await mkdtemp(path.join(folder, 'damaged-'));
      await cp(dir, copy, { recursive: true });
      await change(copy);
      return copy;
    };
    const shard = (copy: string): string => path.join(copy, 'shard-00001.safetensors');
    const flipped = await damaged(async (copy) => {
      const bytes = await readFile(shard(copy));
      bytes[bytes.length - 4]! ^= 1;
      await writeFile(shard(copy), bytes);
    });
    await assert.rejects(openShards(flipped, { verify: true }), { code: 'OG_FORMAT', message: /SHA-256/ });
    await assert.rejects(openShards(await damaged((copy) => truncate(shard(copy), 100))), { code: 'OG_FORMAT' });
    await assert.rejects(openShards(await damaged((copy) => rm(shard(copy)))), {
      code: 'OG_FORMAT',
      message: /no file/,
    });
    const edited = async (from: RegExp, to: string): Promise<string> =>
      damaged(async (copy) => {
        const index = path.join(copy, 'index.json');
        await writeFile(index, (await readFile(index, 'utf8')).replace(from, to));
      });
    await assert.rejects(openShards(await edited(/shard-00001/, '../shard-00001')), { message: /shards\[1\]\.file/ });
    await assert.rejects(openShards(await edited(/"tokens": 200/, '"tokens": 1e99')), { code: 'OG_FORMAT' });
    await assert.rejects(openShards(await edited(/\{/, '[')), { code: 'OG_FORMAT' });
    await assert.rejects(openShards(path.join(folder, 'nowhere')), { code: 'OG_FORMAT', message: /writeShards/ });
  });

  test('windows over borders of shards are those of one array; a loader takes up where it was, and prepares', async () => {
    const tokens = await openShards(path.join(folder, 'plain'));
    const options = { batchSize: 3, seed: 5 };
    const make = (): DataLoader<TextBatch> => new DataLoader(new TextDataset(tokens, { context: 33 }), options);
    const loader = make();
    const array = new DataLoader(new TextDataset(expectedIds(), { context: 33 }), options);
    const seen: unknown[] = [];
    for (let i = 0; i < 3 * loader.length; i++) {
      await loader.ready();
      const [{ x, y }, other] = [loader.next(), array.next()];
      seen.push([x.toArraySync(), y.toArraySync()]);
      assert.deepEqual(seen[i], [other.x.toArraySync(), other.y.toArraySync()]);
    }
    const again = make();
    again.state = { epoch: 1, batch: 2 };
    const { x, y } = again.next();
    assert.deepEqual([x.toArraySync(), y.toArraySync()], seen[loader.length + 2]);
    assert.equal(loader.times.batches, 3 * loader.length);
    await tokens.close();
  });
});
