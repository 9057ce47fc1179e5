/** What `npm start` makes of a trained model: five rows, measured; interrupted while it distils, it goes on. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { compressed, resultText, type CompressionRun } from '../../examples/typescript_gpt/compression.js';
import * as og from '../../src/index.js';
import { temporaryFolders } from '../helpers/folders.js';

const folder = temporaryFolders();

test('int8, int4, 2:4 and a student, after Ctrl-C as well', { timeout: 120_000 }, async () => {
  const dir = path.join(await folder(), 'compressed');
  const text = 'interface HTMLElement { readonly size: number; addEventListener(type: string): void; }\n'.repeat(60);
  const tokenizer = await og.BpeTokenizer.train([text], { vocabSize: 280 });
  const tokens = tokenizer.encodeToTypedArray(text);
  const config = { vocabSize: 280, context: 16, layers: 4, heads: 4, width: 64 };
  const model = new og.GPT(config, { generator: og.generator(3) });
  const said: string[] = [];
  const run = (signal: AbortSignal, say: (line: string) => void): CompressionRun => ({
    dir,
    train: new og.TextDataset(tokens, { context: 16, seed: 1 }),
    valid: new og.TextDataset(tokens.subarray(0, 200), { context: 16, shift: false }),
    tokenizer,
    batchSize: 4,
    steps: 16,
    seed: 1,
    signal,
    say: (line) => {
      said.push(line);
      say(line);
    },
  });
  const stop = new AbortController();
  const interrupt = (line: string): void => void (line.startsWith('Distilling') && stop.abort());
  assert.equal(await compressed(model, run(stop.signal, interrupt)), null);
  assert.ok(said.includes('Fine-tuning: 4 steps.'));
  said.length = 0;
  const results = await compressed(
    model,
    run(new AbortController().signal, () => {}),
  );
  assert.ok(!said.includes('Fine-tuning: 4 steps.'), 'what is done is not done again');
  const { measured, smallest } = results!;
  const names = ['float32', 'int8-smoothquant', 'int4-gptq', '2of4-int8', 'student'];
  assert.deepEqual(
    measured.map(({ name }) => name),
    names,
  );
  const bytes = measured.map(({ measured: { bytes: size } }) => size);
  assert.ok(bytes.slice(1).every((size) => size < 0.5 * bytes[0]!));
  assert.ok(smallest.tokens instanceof og.nn.QuantizedEmbedding);
  const shown = resultText(measured);
  for (const title of ['perplexity', 'on disk', 'in memory', 'prefill tokens/s', 'decode tokens/s', '$/M tokens out'])
    assert.ok(shown.includes(title), title);
  assert.match(shown, /\n2of4-int8: prune 2:4 sparsegpt, 50 % zeros in 24 layers; finetune 4 steps; sparsify 2:4/);
  // a folder of other plans is made anew, not refused
  await og.writeFileAtomically(path.join(dir, 'plans.json'), (write) => write(Buffer.from('[]')));
  stop.abort();
  assert.equal(
    await compressed(
      model,
      run(stop.signal, () => {}),
    ),
    null,
  );
  assert.match(await readFile(path.join(dir, 'plans.json'), 'utf8'), /smoothquant/);
  assert.equal(existsSync(path.join(dir, 'report.html')), false);
});
