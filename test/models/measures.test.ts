/** Perplexity, speed and memory of models, measured. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as og from '../../src/index.js';
import { median, percentile } from '../../src/util/statistics.js';
import { temporaryFolders } from '../helpers/folders.js';
import { tinyModel, tinyTokens } from '../helpers/tiny_run.js';

const folder = temporaryFolders();

test('perplexity is e to the mean loss over all windows, the last ones included', async () => {
  const model = tinyModel(0.5);
  const dataset = new og.TextDataset(tinyTokens(16 * 7 + 1), { context: 16, shift: false });
  assert.equal(dataset.length, 7);
  model.eval();
  const { x, y } = dataset.batch([0, 1, 2, 3, 4, 5, 6], 0);
  const expected = Math.exp(await og.noGrad(() => model.loss(x, y)).item());
  model.train();
  const tensors = og.memory().tensors;
  const close = (a: number, b: number): void => assert.ok(Math.abs(a - b) < 1e-4 * b, `${a} and ${b}`);
  close(await og.perplexity(model, dataset), expected);
  close(await og.perplexity(model, dataset, { batchSize: 3 }), expected);
  assert.equal(model.training, true);
  const first = new og.TextDataset(tinyTokens(16 * 4 + 1), { context: 16, shift: false });
  close(await og.perplexity(model, dataset, { batchSize: 2, batches: 2 }), await og.perplexity(model, first));
  assert.ok(og.memory().tensors <= tensors + 1);
  await assert.rejects(og.perplexity(model, [] as never), /dataset/);
  await assert.rejects(og.perplexity(model, dataset, { batch: 2 } as never), /Did you mean batches|batchSize/);
});

test('speeds are tokens over seconds; models are measured in turns', async () => {
  const [a, b] = [tinyModel(), tinyModel()];
  const calls: string[] = [];
  for (const [name, model] of Object.entries({ a, b }))
    model.registerForwardPreHook((_, [ids]) => void ((ids as og.Tensor).shape[1]! > 1 && calls.push(name)));
  const speeds = await og.benchmarkTogether({ a, b }, { prompt: 6, generate: 5, runs: 3 });
  assert.deepEqual(calls, ['a', 'b', 'a', 'b', 'a', 'b', 'a', 'b']);
  for (const { promptTokens, newTokens, runs, prefill, decode, firstToken, nextToken } of Object.values(speeds)) {
    assert.deepEqual([promptTokens, newTokens, runs], [6, 5, 3]);
    assert.ok(Math.abs(prefill * firstToken.p50 - 6) < 1e-9);
    assert.ok(decode > 0 && nextToken.p95 >= nextToken.p50 && nextToken.p50 > 0);
  }
  assert.equal((await og.benchmark(a, { runs: 1 })).promptTokens, 8);
  await assert.rejects(og.benchmark(a, { prompt: 12, generate: 8 }), /at most the context, 16/);
  await assert.rejects(og.benchmark(a, { signal: AbortSignal.abort(new Error('enough')) }), /enough/);
});

test('memory is that of another process, larger for a larger model', { timeout: 30_000 }, async () => {
  const [small, large] = [await folder(), await folder()];
  await og.saveModel(small, tinyModel());
  const config = { vocabSize: 8192, context: 16, layers: 1, heads: 2, width: 1024 };
  await og.saveModel(large, new og.GPT(config, { generator: og.generator(1) })); // 80 MiB
  const [a, b] = [await og.residentMemory(small), await og.residentMemory(large, { generate: 2 })];
  for (const one of [a, b]) assert.ok(one.without > 2e7 && one.peak >= one.resident, JSON.stringify(one));
  assert.ok(b.resident - b.without > 6e7, `${b.resident - b.without} for 80 MiB of weights`);
  assert.ok(a.resident - a.without < 4e7, `${a.resident - a.without} for next to nothing`);
  await assert.rejects(og.residentMemory(await folder()), /no such file/);
});

test('median and percentiles', () => {
  assert.equal(median([3, 1, 2]), 2);
  assert.equal(median([4, 1, 2, 3]), 2.5);
  assert.equal(percentile([10, 20, 30, 40, 50], 0.95), 48);
  assert.ok(Number.isNaN(median([])));
});
