/** Pruning and sparse storage with a journal: what is finished is put back, not done again, and the bits are the same. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { calibrationBatches } from '../../../src/compress/calibration.js';
import { folderJournal, prune, sparsify, type PruneOptions } from '../../../src/compress/index.js';
import * as og from '../../../src/index.js';
import { temporaryFolders } from '../../helpers/folders.js';
import { bitsOf } from '../../helpers/model_bits.js';
import { tinyTokens } from '../../helpers/tiny_run.js';

const folder = temporaryFolders();
const dataset = new og.TextDataset(tinyTokens(), { context: 32 });
const calibration = calibrationBatches(dataset, { batches: 2, batchSize: 8 });
const config = { vocabSize: 32, context: 32, layers: 2, heads: 2, width: 64 };
const gpt = new og.GPT(config, { generator: og.generator(7) }).eval();

/** Layers that an attempt does before it is stopped, if it is. */
async function attempt(run: (more: object) => Promise<og.GPT>, stopAfter: number): Promise<[og.GPT | null, string[]]> {
  const stop = new AbortController();
  const done: string[] = [];
  const onLayer = ({ path }: { readonly path: string }): void => {
    done.push(path);
    if (done.length === stopAfter) stop.abort(new Error('pulled the plug'));
  };
  const result = await run({ onLayer, signal: stop.signal }).catch((error: Error) => error);
  if (result instanceof Error) assert.equal(result.message, 'pulled the plug');
  return [result instanceof Error ? null : result, done];
}

test('each method goes on at the first layers that are not finished', async () => {
  const ways: PruneOptions[] = [
    { pattern: '2:4', method: 'sparsegpt', calibration },
    { pattern: { sparsity: 0.5 }, method: 'wanda', calibration },
    { pattern: { sparsity: 0.5, scope: 'global' } },
  ];
  for (const way of ways) {
    const journal = folderJournal(await folder(), 'key');
    const run = (more: object): Promise<og.GPT> => prune(gpt, { ...way, journal, ...more });
    const [none, first] = await attempt(run, 9); // in the midst of q, k, v of the second block
    assert.equal(none, null);
    const [made, second] = await attempt(run, 99);
    const expected = await prune(gpt, way);
    assert.deepEqual(await bitsOf(made!), await bitsOf(expected));
    assert.equal(made!.blocks[0]!.mlp.up.pruned, expected.blocks[0]!.mlp.up.pruned);
    assert.equal(first.length, 9);
    const again = second.filter((path) => first.includes(path));
    assert.ok(again.length <= 3, `only layers of one input are done again: ${again.join(', ')}`);
    assert.equal(new Set([...first, ...second]).size, 12);
    for (const model of [made!, expected]) model.dispose();
  }
});

test('sparsify goes on, too', async () => {
  const pruned = await prune(gpt, { pattern: '2:4' });
  const journal = folderJournal(await folder(), 'key');
  const run = (more: object): Promise<og.GPT> => sparsify(pruned, { layout: '2:4', values: 'int8', journal, ...more });
  const [none, first] = await attempt(run, 5);
  const [made, second] = await attempt(run, 99);
  assert.equal(none, null);
  assert.deepEqual([first.length, second.length], [5, 7]);
  assert.deepEqual(await bitsOf(made!), await bitsOf(await sparsify(pruned, { layout: '2:4', values: 'int8' })));
});
