/** Parts that the reference files do not use, against what Hugging Face tokenizers and sentencepiece make of them. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { suite, test } from 'node:test';
import { SentencePieceTokenizer } from '../../src/tokenizer/index.js';
import { PipelineTokenizer, readPipeline } from '../../src/tokenizer/pipeline.js';

interface Part {
  readonly name: string;
  readonly file: { readonly model: unknown };
  /** Ids, offsets end to end, and the text of the ids, for each string. */
  readonly results: readonly [ids: number[], offsets: number[], decoded: string][];
}

const read = (name: string): unknown =>
  JSON.parse(readFileSync(new URL(`../fixtures/tokenizers/${name}`, import.meta.url), 'utf8'));
const { strings, parts, rules } = read('parts.json') as {
  strings: string[];
  parts: Part[];
  rules: { text: string; ids: number[]; decoded: string }[];
};

suite('parts of tokenizer.json', () => {
  for (const { name, file, results } of parts) {
    test(name, () => {
      const model = typeof file.model === 'string' ? (read(file.model) as { model: unknown }).model : file.model;
      const tokenizer = new PipelineTokenizer(...readPipeline({ ...file, model }));
      strings.forEach((text, i) => {
        const [ids, offsets, decoded] = results[i]!;
        const placed = tokenizer.encodeWithOffsets(text, { unit: 'codePoint' });
        assert.deepEqual(tokenizer.encode(text), ids, JSON.stringify(text));
        assert.deepEqual(placed.ids, ids, JSON.stringify(text));
        assert.deepEqual(placed.offsets.flat(), offsets, JSON.stringify(text));
        assert.equal(tokenizer.decode(ids), decoded);
        const stream = tokenizer.createDecoder();
        assert.equal(ids.map((id) => stream.push(id)).join('') + stream.end(), decoded);
      });
    });
  }
});

test('SentencePiece: rules of its own, user-defined pieces, tidied spaces', async () => {
  const path = fileURLToPath(new URL('../fixtures/tokenizers/sentencepiece_rules.model', import.meta.url));
  const tokenizer = await SentencePieceTokenizer.fromFile(path);
  for (const { text, ids, decoded } of rules) {
    assert.deepEqual(tokenizer.encode(text), ids, JSON.stringify(text));
    assert.equal(tokenizer.decode(ids), decoded);
  }
});
