/** What holds for any text: round trips, special tokens, offsets, streams. */
import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, suite, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { AttributeError } from '../../src/errors.js';
import { BpeTokenizer, SentencePieceTokenizer, loadTokenizer } from '../../src/tokenizer/index.js';

const fixture = (name: string): string => fileURLToPath(new URL(`../fixtures/tokenizers/${name}`, import.meta.url));
const anyText = fc
  .oneof(
    fc.string({ unit: 'binary', maxLength: 60 }),
    fc.string({ unit: 'grapheme', maxLength: 60 }),
    fc.string({
      unit: fc.constantFrom(' ', '\n', '\t', 'a', "'", 's', '1', '.', '\u00a0', '\ufeff', 'é', '中', '😀'),
      maxLength: 60,
    }),
  )
  .filter((text) => !text.includes('<|'));

suite('byte-level BPE', () => {
  let tokenizer: BpeTokenizer;
  before(async () => (tokenizer = await BpeTokenizer.fromFile(fixture('bytelevel_bpe.tokenizer.json'))));

  test('decoding undoes encoding', () => {
    fc.assert(
      fc.property(anyText, (text) => assert.equal(tokenizer.decode(tokenizer.encode(text)), text)),
      { numRuns: 500 },
    );
  });

  test('the bytes of the tokens are the bytes of the text', () => {
    fc.assert(
      fc.property(anyText, (text) => {
        const bytes = Buffer.concat(tokenizer.encode(text).map((id) => tokenizer.tokenBytes(id)));
        assert.equal(bytes.toString('hex'), Buffer.from(text).toString('hex'));
      }),
    );
  });

  test('a stream passes on whole characters, and all of them', () => {
    fc.assert(
      fc.property(anyText, (text) => {
        const stream = tokenizer.createDecoder();
        const parts = tokenizer.encode(text).map((id) => stream.push(id));
        assert.ok(parts.every((part) => !/[\ud800-\udbff]$|^[\udc00-\udfff]/.test(part)));
        assert.equal(parts.join('') + stream.end(), text);
      }),
    );
  });

  test('special tokens between texts are found, or not when they are not allowed', () => {
    const [end, pad] = ['<|endoftext|>', '<|pad|>'];
    fc.assert(
      fc.property(anyText, anyText, (a, b) => {
        const joined = a + end + b + pad;
        const want = [...tokenizer.encode(a), 0, ...tokenizer.encode(b), 1];
        assert.deepEqual(tokenizer.encode(joined), want);
        assert.deepEqual(tokenizer.encodeWithOffsets(joined).ids, want);
        const plain = tokenizer.encode(joined, { allowedSpecial: 'none' });
        assert.ok(!plain.includes(0) && !plain.includes(1));
        assert.equal(tokenizer.decode(plain), joined);
        const some = tokenizer.encode(joined, { allowedSpecial: [pad] });
        assert.ok(!some.includes(0) && some.includes(1));
        assert.equal(tokenizer.decode(want, { skipSpecialTokens: false }), joined);
        assert.equal(tokenizer.decode(want), a + b);
      }),
    );
  });

  test('offsets follow each other and cover the text', () => {
    fc.assert(
      fc.property(anyText, (text) => {
        const { offsets } = tokenizer.encodeWithOffsets(text);
        let reached = 0;
        for (const [start, end] of offsets) {
          assert.ok(start <= reached && end >= reached && end > start);
          reached = end;
        }
        assert.equal(reached, text.length);
      }),
    );
  });

  test('long words take no longer than they should, and give what short ones would', () => {
    const text = 'ab'.repeat(60_000);
    const started = process.cpuUsage();
    const ids = tokenizer.encode(text);
    assert.ok(process.cpuUsage(started).user < 2e6);
    assert.equal(tokenizer.decode(ids), text);
  });

  test('lone surrogates become the replacement character', () => {
    assert.equal(tokenizer.decode(tokenizer.encode('a\ud800b')), 'a\ufffdb');
  });

  test('wrong arguments are refused', () => {
    assert.throws(() => tokenizer.encode(1 as unknown as string), AttributeError);
    assert.throws(() => tokenizer.encode('a', { allowedSpecial: ['nope'] }), AttributeError);
    for (const id of [-1, 0.5, Number.NaN, 1e9]) assert.throws(() => tokenizer.decode([id]), AttributeError);
    assert.throws(() => tokenizer.tokenBytes(1e9), AttributeError);
  });
});

suite('files', () => {
  let folder: string;
  before(async () => (folder = await mkdtemp(join(tmpdir(), 'tokenizer-'))));
  after(async () => rm(folder, { recursive: true }));

  test('what is saved is read back as the same tokenizer, and nothing else is left behind', async () => {
    const pattern = String.raw`\p{L}++|\p{N}{1,3}|\s+|[^\s\p{L}\p{N}]+`;
    const text = 'The theme of the thesis: 12345 theatres, the other 678.\n'.repeat(9);
    const made = await BpeTokenizer.train([text], { vocabSize: 290, specialTokens: ['<s>', '__proto__'], pattern });
    const path = join(folder, 'tokenizer.json');
    await made.save(path);
    assert.deepEqual(await readdir(folder), ['tokenizer.json']);
    const read = await loadTokenizer(folder);
    assert.ok(read instanceof BpeTokenizer);
    assert.deepEqual(read.toJSON(), made.toJSON());
    fc.assert(fc.property(anyText, (any) => assert.deepEqual(read.encode(any), made.encode(any))));
    assert.equal(read.tokenToId('__proto__'), 1);
    assert.deepEqual(read.encode('a__proto__'), [...made.encode('a'), 1]);
  });
});

suite('SentencePiece', () => {
  for (const name of ['sentencepiece_bpe.model', 'sentencepiece_unigram.model']) {
    test(`${name}: decoding undoes encoding`, async () => {
      const tokenizer = await SentencePieceTokenizer.fromFile(fixture(name));
      // The mark is the vocabulary's space, so it does not come back as itself.
      const texts = anyText.filter((text) => !text.includes('▁'));
      fc.assert(
        fc.property(texts, (text) => {
          const { ids, offsets } = tokenizer.encodeWithOffsets(text);
          assert.equal(tokenizer.decode(ids), text);
          assert.ok(offsets.every(([start, end]) => start >= 0 && start <= end && end <= text.length));
        }),
      );
    });

    test(`${name}: control pieces only where they are asked for`, async () => {
      const tokenizer = await SentencePieceTokenizer.fromFile(fixture(name), { addBos: true, addEos: true });
      assert.equal(tokenizer.encode('a')[0], 1);
      assert.equal(tokenizer.encode('a').at(-1), 2);
      assert.ok(!tokenizer.encode('<s>', { addSpecialTokens: false }).includes(1));
      assert.deepEqual(tokenizer.encode('<s>', { addSpecialTokens: false, allowedSpecial: 'all' }), [1]);
    });
  }
});
