/** The output layer of a table in two stages: its codes by GPTQ, look-ups as exact as before, and a journal that holds it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { calibrationBatches, folderJournal, quantize, type QuantizeModelOptions } from '../../src/compress/index.js';
import * as og from '../../src/index.js';
import { temporaryFolders } from '../helpers/folders.js';
import { bitsOf } from '../helpers/model_bits.js';
import { tinyTokens } from '../helpers/tiny_run.js';

const folder = temporaryFolders();
const dataset = new og.TextDataset(tinyTokens(), { context: 32 });
const calibration = calibrationBatches(dataset, { batches: 4, batchSize: 8 });
const config: og.GPTConfig = { vocabSize: 96, context: 32, layers: 2, heads: 2, width: 64 };
const gpt = new og.GPT(config, { generator: og.generator(7) }).eval();
const options = { scheme: 'w4a16', groupSize: 32, method: 'gptq', embeddings: 'int4+int4', calibration } as const;

const tableOf = (model: og.GPT): og.nn.QuantizedEmbedding => model.tokens as unknown as og.nn.QuantizedEmbedding;
const number = (value: og.Tensor): number => value.itemSync() as number;

/** ‖H·(W − Ŵ)ᵀ‖² / ‖H·Wᵀ‖² over the final hidden states of a model. */
function lostLogits(model: og.GPT): number {
  return og.scope(() =>
    og.noGrad(() => {
      const hidden = og.concat(calibration.map((ids) => og.reshape(model.hidden(ids), [-1, config.width!])));
      const [wanted, found] = [gpt.tokens.weight, tableOf(model).outputWeight].map((table) => og.linear(hidden, table));
      return number(og.sum(og.square(og.sub(wanted!, found!)))) / number(og.sum(og.square(wanted!)));
    }),
  );
}
const lostVectors = (model: og.GPT): number =>
  og.scope(() => number(og.sum(og.square(og.sub(tableOf(model).weight, gpt.tokens.weight)))));

test('GPTQ chooses what logits read, and look-ups lose no more by it', async () => {
  const [nearest, chosen] = [await quantize(gpt, { ...options, method: 'rtn' }), await quantize(gpt, options)];
  assert.ok(lostLogits(chosen) < 0.7 * lostLogits(nearest), `${lostLogits(chosen)} against ${lostLogits(nearest)}`);
  assert.ok(lostVectors(chosen) < 4 * lostVectors(nearest), `${lostVectors(chosen)} against ${lostVectors(nearest)}`);
  assert.equal(chosen.training, false);
  const coarse = await quantize(gpt, { ...options, embeddings: 'int4' });
  assert.ok(lostVectors(coarse) > 20 * lostVectors(chosen));
});

test('the table of a model with an output layer of its own is rounded to nearest', async () => {
  const untied = new og.GPT({ ...config, tieEmbeddings: false }, { generator: og.generator(7) }).eval();
  const [a, b] = [await quantize(untied, options), await quantize(untied, { ...options, method: 'rtn' })];
  assert.equal(number(og.amax(og.abs(og.sub(tableOf(a).outputWeight, tableOf(b).outputWeight)))), 0);
});

test('an interrupted run goes on, before the table and behind it', async () => {
  const expected = await bitsOf(await quantize(gpt, options));
  for (const stopAfter of [5, 12, 13]) {
    const stop = new AbortController();
    const inner = folderJournal(await folder(), 'key');
    const recorded: string[] = [];
    const journal: typeof inner = {
      restore: (model) => inner.restore(model),
      async record(model, paths) {
        await inner.record(model, paths);
        recorded.push(...paths);
        if (recorded.length >= stopAfter) stop.abort(new Error('pulled the plug'));
      },
    };
    const run = (more: Partial<QuantizeModelOptions>): Promise<og.GPT> => quantize(gpt, { ...options, ...more });
    const stopped = run({ journal, signal: stop.signal });
    if (stopAfter < 13) await assert.rejects(stopped, /pulled the plug/);
    else assert.deepEqual(await bitsOf(await stopped), expected);
    assert.equal(recorded.includes('tokens'), stopAfter === 13);
    assert.deepEqual(await bitsOf(await run({ journal: inner })), expected, `after ${stopAfter}`);
  }
});
