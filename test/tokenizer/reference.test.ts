/** Ids, offsets and texts equal to those of tokenizers, tiktoken and sentencepiece. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { suite, test } from 'node:test';
import { BpeTokenizer, loadTokenizer, type Tokenizer } from '../../src/tokenizer/index.js';

interface Result {
  readonly ids: number[];
  readonly decoded?: string;
}
interface Subject {
  readonly name: string;
  readonly tokenizer?: string;
  readonly files?: readonly string[];
  readonly pattern?: string;
}
interface Cases {
  readonly tokenizers: readonly Subject[];
  readonly strings: readonly string[];
  readonly results: Readonly<Record<string, readonly Result[]>>;
  readonly gpt2_token_bytes: readonly { readonly text: string; readonly ids: number[]; readonly bytes_hex: string[] }[];
}

const path = (relative: string): string => fileURLToPath(new URL(relative, import.meta.url));
const cases = JSON.parse(readFileSync(path('../fixtures/tokenizers/cases.json'), 'utf8')) as Cases;

/** The large vocabularies are not part of the repository; they lie beside a checkout that has them. */
function locate(file: string): string {
  return file.startsWith('data/') ? path(`../../../shared/${file}`) : path(`../fixtures/${file}`);
}

async function open({ tokenizer, files = [], pattern = '' }: Subject): Promise<Tokenizer> {
  if (tokenizer !== undefined) return loadTokenizer(locate(tokenizer));
  const [first = '', second] = files.map(locate);
  // The expected ids treat the text of special tokens as ordinary text.
  if (second !== undefined) return BpeTokenizer.fromGpt2Files(first, second, { specialTokens: [] });
  return BpeTokenizer.fromTiktoken(first, { pattern });
}

for (const subject of cases.tokenizers) {
  const missing = [subject.tokenizer ?? [], subject.files ?? []].flat().find((file) => !existsSync(locate(file)));
  suite(subject.name, { skip: missing === undefined ? false : `${missing} is not at hand` }, () => {
    let tokenizer: Tokenizer;
    const load = async (): Promise<Tokenizer> => (tokenizer ??= await open(subject));

    test('encodes every string to the same ids', async () => {
      const tokenizer = await load();
      cases.strings.forEach((text, i) => {
        const want = cases.results[subject.name]![i]!.ids;
        assert.deepEqual(tokenizer.encode(text), want, JSON.stringify(text));
        assert.deepEqual(tokenizer.encodeWithOffsets(text).ids, want, JSON.stringify(text));
      });
    });

    test('decodes to the same text, at once and as ids arrive', async () => {
      const tokenizer = await load();
      cases.strings.forEach((text, i) => {
        const { ids, decoded } = cases.results[subject.name]![i]!;
        const whole = tokenizer.decode(ids);
        if (decoded !== undefined) assert.equal(whole, decoded);
        const stream = tokenizer.createDecoder();
        assert.equal(ids.map((id) => stream.push(id)).join('') + stream.end(), whole, JSON.stringify(text));
      });
    });

    const offsets = cases.results[`${subject.name}_offsets`] as unknown as [number, number][][] | undefined;
    test('places tokens where they come from', { skip: offsets ? false : 'no offsets were recorded' }, async () => {
      const tokenizer = await load();
      offsets!.forEach((want, i) => {
        const text = cases.strings[i]!;
        assert.deepEqual(tokenizer.encodeWithOffsets(text, { unit: 'codePoint' }).offsets, want, JSON.stringify(text));
      });
    });

    if (subject.name === 'gpt2') {
      test('knows the bytes of each token', async () => {
        const tokenizer = await load();
        for (const { ids, bytes_hex, text } of cases.gpt2_token_bytes) {
          assert.deepEqual(
            ids.map((id) => Buffer.from(tokenizer.tokenBytes(id)).toString('hex')),
            bytes_hex,
            text,
          );
        }
      });
    }
  });
}
