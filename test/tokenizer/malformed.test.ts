/** Files that are not what they claim to be are refused with a FormatError, never with a crash or a hang. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, suite, test } from 'node:test';
import fc from 'fast-check';
import { FormatError, OmniError } from '../../src/errors.js';
import { BpeTokenizer, SentencePieceTokenizer, loadTokenizer } from '../../src/tokenizer/index.js';

const fixture = (name: string): Buffer => readFileSync(new URL(`../fixtures/tokenizers/${name}`, import.meta.url));

interface Sound {
  readonly model: Readonly<Record<string, unknown>>;
  readonly added_tokens: readonly unknown[];
  readonly [key: string]: unknown;
}

/** A small valid file, for tests to spoil. */
function sound(): Sound {
  return {
    version: '1.0',
    added_tokens: [{ id: 3, content: '<s>', special: true }],
    normalizer: null,
    pre_tokenizer: { type: 'ByteLevel' },
    post_processor: null,
    decoder: { type: 'ByteLevel' },
    model: { type: 'BPE', vocab: { a: 0, b: 1, ab: 2 }, merges: [['a', 'b']] },
  };
}

const spoilt: Record<string, (json: Sound) => unknown> = {
  'not an object': () => [],
  null: () => null,
  'no model': (json) => ({ ...json, model: undefined }),
  'unknown model': (json) => ({ ...json, model: { type: 'Magic' } }),
  'vocab is a list': (json) => ({ ...json, model: { ...json.model, vocab: ['a'] } }),
  'id is text': (json) => ({ ...json, model: { ...json.model, vocab: { a: '0' } } }),
  'id is negative': (json) => ({ ...json, model: { ...json.model, vocab: { a: -1 } } }),
  'id is a fraction': (json) => ({ ...json, model: { ...json.model, vocab: { a: 0.5 } } }),
  'id is huge': (json) => ({ ...json, model: { ...json.model, vocab: { a: 2e9 }, merges: [] } }),
  'id twice': (json) => ({ ...json, model: { ...json.model, vocab: { a: 0, b: 0, ab: 2 } } }),
  'merge of three': (json) => ({ ...json, model: { ...json.model, merges: [['a', 'b', 'a']] } }),
  'merge of a stranger': (json) => ({ ...json, model: { ...json.model, merges: [['a', 'c']] } }),
  'merge without result': (json) => ({ ...json, model: { ...json.model, merges: ['b a'] } }),
  'merges are missing': (json) => ({ ...json, model: { type: 'BPE', vocab: { a: 0 } } }),
  dropout: (json) => ({ ...json, model: { ...json.model, dropout: 0.1 } }),
  'unknown token is missing': (json) => ({ ...json, model: { ...json.model, unk_token: '<unk>' } }),
  'unknown pre-tokenizer': (json) => ({ ...json, pre_tokenizer: { type: 'Magic' } }),
  'broken pattern': (json) => ({
    ...json,
    pre_tokenizer: { type: 'Split', pattern: { Regex: '(a' }, behavior: 'Isolated' },
  }),
  'pattern of nothing': (json) => ({ ...json, pre_tokenizer: { type: 'Split', pattern: {}, behavior: 'Isolated' } }),
  'unknown behavior': (json) => ({
    ...json,
    pre_tokenizer: { type: 'Split', pattern: { String: 'a' }, behavior: 'Eaten' },
  }),
  'unknown normalizer': (json) => ({ ...json, normalizer: { type: 'Magic' } }),
  'charsmap cut off': (json) => ({ ...json, normalizer: { type: 'Precompiled', precompiled_charsmap: '/////w==' } }),
  'unknown decoder': (json) => ({ ...json, decoder: { type: 'Magic' } }),
  'added token without text': (json) => ({ ...json, added_tokens: [{ id: 3 }] }),
  'added id twice': (json) => ({ ...json, added_tokens: [json.added_tokens[0], { id: 3, content: 'x' }] }),
  'template names a stranger': (json) => ({
    ...json,
    post_processor: { type: 'TemplateProcessing', single: [{ SpecialToken: { id: 'x' } }], special_tokens: {} },
  }),
  'template id out of range': (json) => ({
    ...json,
    post_processor: { type: 'BertProcessing', sep: ['x', 99], cls: ['y', 0] },
  }),
  'sequences without end': (json) => {
    let nested: unknown = { type: 'NFC' };
    for (let i = 0; i < 5000; i++) nested = { type: 'Sequence', normalizers: [nested] };
    return { ...json, normalizer: nested };
  },
};

suite('tokenizer.json', () => {
  test('the sound file is accepted', () => {
    assert.deepEqual(BpeTokenizer.fromJSON(sound()).encode('ab<s>a'), [2, 3, 0]);
  });
  for (const [name, spoil] of Object.entries(spoilt)) {
    test(`refuses: ${name}`, () => {
      assert.throws(
        () => BpeTokenizer.fromJSON(spoil(sound())),
        (error) => error instanceof FormatError && /expected .*, got /.test(error.message),
      );
    });
  }

  test('any JSON is read or refused', () => {
    fc.assert(
      fc.property(
        fc.constantFrom('model', 'normalizer', 'pre_tokenizer', 'post_processor', 'decoder', 'added_tokens'),
        fc.jsonValue(),
        (key, value) => {
          try {
            BpeTokenizer.fromJSON({ ...sound(), [key]: value });
          } catch (error) {
            assert.ok(error instanceof OmniError, String(error));
          }
        },
      ),
    );
  });
});

suite('other files', () => {
  let folder: string;
  before(async () => (folder = await mkdtemp(join(tmpdir(), 'tokenizer-'))));
  after(async () => rm(folder, { recursive: true }));
  const refused = async (name: string, contents: string | Uint8Array): Promise<void> => {
    const path = join(folder, name);
    await writeFile(path, contents);
    await assert.rejects(loadTokenizer(path), FormatError, name);
  };

  test('text that is no JSON, and nothing at all', async () => {
    await refused('tokenizer.json', '{"model":');
    await refused('deep.json', '['.repeat(200_000));
    await refused('empty.json', '');
    await refused('x.tiktoken', 'IQ== 0\n');
    await assert.rejects(loadTokenizer(folder.concat('/none')), { code: 'ENOENT' });
  });

  test('tiktoken and GPT-2 files', async () => {
    const path = join(folder, 'bad.tiktoken');
    const all = Array.from({ length: 256 }, (_, i) => `${Buffer.from([i]).toString('base64')} ${i}`);
    for (const lines of [
      ['IQ=='],
      ['IQ== x'],
      ['! 0'],
      ['IQ== 0', 'IQ== 1'],
      ['IQ== 0', 'Ig== 0'],
      ['IQ== 0'],
      ['IQ== 99999999'],
    ]) {
      await writeFile(path, lines.join('\n'));
      await assert.rejects(BpeTokenizer.fromTiktoken(path, { pattern: '.' }), FormatError, lines.join());
    }
    await writeFile(path, all.join('\n'));
    const bytes = await BpeTokenizer.fromTiktoken(path, { pattern: '[^]', specialTokens: { '<s>': 256 } }).catch(
      (e: unknown) => e,
    );
    assert.ok(bytes instanceof FormatError, 'a pattern that Rust does not know either');
    const sound = await BpeTokenizer.fromTiktoken(path, { pattern: '(?s:.)|.+', specialTokens: { '<s>': 256 } }).catch(
      (e: unknown) => e,
    );
    assert.ok(sound instanceof FormatError, 'flags other than i');
    const read = await BpeTokenizer.fromTiktoken(path, { pattern: '\\S+|\\s+', specialTokens: { '<s>': 256 } });
    assert.deepEqual(read.encode('a<s>b'), [97, 256, 98]);

    const [vocab, merges] = [join(folder, 'encoder.json'), join(folder, 'vocab.bpe')];
    await writeFile(vocab, '{"a":0,"b":1,"ab":2}');
    await writeFile(merges, '#version: 0.2\na b\n');
    assert.deepEqual((await BpeTokenizer.fromGpt2Files(vocab, merges)).encode('ab'), [2]);
    await writeFile(merges, 'a c\n');
    await assert.rejects(BpeTokenizer.fromGpt2Files(vocab, merges), FormatError);
  });

  test('SentencePiece models cut off or changed anywhere', () => {
    const data = fixture('sentencepiece_bpe.model');
    const open = (bytes: Uint8Array): void => {
      try {
        SentencePieceTokenizer.fromBytes(bytes).encode('hello world 😀');
      } catch (error) {
        assert.ok(error instanceof OmniError, String(error));
      }
    };
    assert.throws(() => SentencePieceTokenizer.fromBytes(new Uint8Array(0)), FormatError);
    fc.assert(
      fc.property(fc.nat(data.length), (length) => open(data.subarray(0, length))),
      { numRuns: 60 },
    );
    fc.assert(
      fc.property(fc.nat(data.length - 1), fc.nat(255), (at, value) => {
        const changed = Buffer.from(data);
        changed[at] = value;
        open(changed);
      }),
      { numRuns: 150 },
    );
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), open));
  });
});
