/** Reading files of every format, whole and damaged. */
import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { readDocuments, type ReadOptions, type TextDocument } from '../../src/data/index.js';

const fixture = (name: string): string => fileURLToPath(new URL(`../fixtures/data/${name}`, import.meta.url));
let folder = '';
before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'omnigrad-read-'));
});
after(() => rm(folder, { recursive: true, force: true }));

async function file(name: string, content: string | Uint8Array): Promise<string> {
  const target = path.join(folder, name);
  await writeFile(target, content);
  return target;
}

async function all(sources: string | string[], options: ReadOptions = {}): Promise<TextDocument[]> {
  const documents: TextDocument[] = [];
  for await (const document of readDocuments(sources, options)) documents.push(document);
  return documents;
}

const texts = async (source: string, options: ReadOptions = {}): Promise<string[]> =>
  (await all(source, options)).map(({ text }) => text);

describe('formats', () => {
  test('text: file, lines, paragraphs, separators; line ends and a byte-order mark', async () => {
    const source = await file('a.txt', '\ufeffone\r\ntwo\r\n\r\n---\nthrée');
    assert.deepEqual(await all(source), [{ id: source, text: 'one\ntwo\n\n---\nthrée' }]);
    assert.deepEqual(await texts(source, { split: 'line' }), ['one', 'two', '---', 'thrée']);
    assert.deepEqual(await all(source, { split: 'paragraph' }), [
      { id: `${source}:1`, text: 'one\ntwo' },
      { id: `${source}:4`, text: '---\nthrée' },
    ]);
    assert.deepEqual(await texts(source, { split: { separator: '---' } }), ['one\ntwo\n', 'thrée']);
  });

  test('JSON Lines, plain and packed', async () => {
    const lines = '{"text":"a","n":1}\n\n{"text":"b","key":"k"}';
    const plain = await file('b.jsonl', lines);
    assert.deepEqual(await all(plain), [
      { id: `${plain}:1`, text: 'a', meta: { n: 1 } },
      { id: `${plain}:3`, text: 'b', meta: { key: 'k' } },
    ]);
    const packed = await file('b.jsonl.gz', gzipSync(lines));
    assert.deepEqual(await texts(packed), ['a', 'b']);
    const found = await texts(fixture('lines.jsonl.zst'));
    assert.deepEqual([found.length, found[0], found[999]], [1000, 'line 0, é', 'line 999, é']);
    assert.deepEqual(await all(plain, { meta: false, text: (row) => `${String(row['text'])}!` }), [
      { id: `${plain}:1`, text: 'a!' },
      { id: `${plain}:3`, text: 'b!' },
    ]);
  });

  test('CSV and TSV', async () => {
    const csv = await file('c.csv', 'id,text,who\n1,"two\nlines, ""quoted""",x\n2,plain,y\n');
    assert.deepEqual(await all(csv, { id: 'id' }), [
      { id: '1', text: 'two\nlines, "quoted"', meta: { who: 'x' } },
      { id: '2', text: 'plain', meta: { who: 'y' } },
    ]);
    assert.deepEqual(await texts(await file('c.tsv', 'text\twho\na "b\tc\n')), ['a "b']);
  });

  test('Parquet, in several codecs', async () => {
    for (const codec of ['none', 'snappy', 'zstd']) {
      const source = fixture(`rows_${codec}.parquet`);
      const documents = await all(source, { id: 'name', meta: ['name'] });
      assert.equal(documents.length, 10);
      assert.deepEqual(documents[9], { id: 'row9', text: 'text number 9, é 中', meta: { name: 'row9' } });
      assert.equal((await all(source, { meta: false }))[5]!.id, `${source}:5`);
    }
  });

  test('a folder, by name, and the account of its files', async () => {
    const stream = readDocuments(folder, { onMalformed: 'skip', split: 'line' });
    let count = 0;
    for await (const _ of stream) count++;
    assert.deepEqual(stream.files.map((each) => path.basename(each.file)), ['a.txt', 'b.jsonl', 'b.jsonl.gz', 'c.csv', 'c.tsv']); // prettier-ignore
    assert.equal(
      stream.files.reduce((sum, { documents }) => sum + documents, 0),
      count,
    );
  });
});

describe('damaged files', () => {
  test('JSON Lines: line and reason, thrown or counted', async () => {
    const bad = await file('bad.jsonl', '{"text":"a"}\n{"text":\n[1]\n{"txt":"b"}\n{"text":"c"}');
    await assert.rejects(all(bad), { code: 'OG_FORMAT', message: /bad\.jsonl:2: expected a JSON object/ });
    const stream = readDocuments(bad, { onMalformed: 'skip' });
    const kept: string[] = [];
    for await (const { text } of stream) kept.push(text);
    assert.deepEqual(kept, ['a', 'c']);
    const [report] = stream.files;
    assert.deepEqual([report!.documents, report!.malformed], [2, 3]);
    assert.match(report!.problems[2]!, /^4: expected a string in field "text", got fields txt/);
  });

  test('bytes that are not UTF-8, lines that are too long', async () => {
    const bad = await file('utf.txt', Buffer.from([0x61, 0x0a, 0xff, 0xfe, 0x0a, 0x62]));
    await assert.rejects(all(bad, { split: 'line' }), { code: 'OG_FORMAT', message: /utf\.txt:2: .*not UTF-8/ });
    assert.deepEqual(await texts(bad, { split: 'line', onMalformed: 'skip' }), ['a', 'b']);
    const long = await file('long.txt', `${'x'.repeat(300_000)}\nshort`);
    assert.deepEqual(await texts(long, { split: 'line', onMalformed: 'skip', maxBytes: 1000 }), ['short']);
    await assert.rejects(all(long, { maxBytes: 1000 }), /above the limit of 1000/);
    const many = await file('many.txt', 'line\n'.repeat(1000));
    await assert.rejects(all(many, { maxBytes: 1000 }), /a document of at most/);
  });

  test('CSV: a row with another number of fields, an open quote', async () => {
    const bad = await file('bad.csv', 'text,who\na,b\nc\nd,e\n');
    await assert.rejects(all(bad), { code: 'OG_FORMAT', message: /bad\.csv:3/ });
    assert.deepEqual(await texts(bad, { onMalformed: 'skip' }), ['a', 'd']);
    const open = await file('open.csv', 'text,who\na,b\n"c,d\n');
    await assert.rejects(all(open), { code: 'OG_FORMAT' });
  });

  test('packed files that end too early or are none', async () => {
    const whole = gzipSync(`${'{"text":"a"}\n'.repeat(1000)}`);
    await assert.rejects(all(await file('cut.jsonl.gz', whole.subarray(0, whole.length - 20))), { code: 'OG_FORMAT' });
    await assert.rejects(all(await file('no.jsonl.gz', 'plain')), { code: 'OG_FORMAT' });
    await assert.rejects(all(await file('no.jsonl.zst', 'plain text')), { code: 'OG_FORMAT' });
    await assert.rejects(all(await file('no.parquet', 'PAR1 nothing of the kind')), { code: 'OG_FORMAT' });
  });

  test('missing files, unknown names and options', async () => {
    await assert.rejects(all(path.join(folder, 'nowhere.txt')), { code: 'OG_RESOURCE', message: /ENOENT/ });
    await assert.rejects(all(path.join(folder, 'nowhere.parquet')), { code: 'OG_RESOURCE' });
    await assert.rejects(all(await file('x.bin', 'x')), { code: 'OG_ATTRIBUTE', message: /Pass \{ format \}/ });
    assert.throws(() => readDocuments('a.txt', { onMalfomed: 'skip' } as object), /Did you mean onMalformed/);
    assert.throws(() => readDocuments([]), { code: 'OG_ATTRIBUTE' });
  });
});

test('no more is read than is asked for', async () => {
  const big = await file('big.jsonl', '{"text":"abcdefghij"}\n'.repeat(200_000));
  let count = 0;
  for await (const _ of readDocuments(big)) if (++count === 10) break;
  assert.equal(count, 10);
});
