/** Models that change on their way from the file: what is replaced never takes memory as a whole, and the rest is the model's own. */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { quantize } from '../../src/compress/index.js';
import * as og from '../../src/index.js';
import { whenDone } from '../../src/runtime/queue.js';

const MIB = 2 ** 20;
const config = { vocabSize: 4000, context: 32, layers: 4, heads: 4, width: 512 };
let folder = '';

before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'omnigrad-convert-'));
  const model = new og.GPT(config, { generator: og.generator(5) });
  await og.saveModel(folder, model);
  model.dispose();
  og.emptyCache();
  await whenDone();
});
after(() => rm(folder, { recursive: true, force: true }));

const ids = og.randint(0, 4000, [1, 8], { generator: og.generator(1) });
const logits = (model: og.GPT): Promise<unknown> => og.noGrad(() => model.forward(ids)).toArray();
const inFourBits = (model: og.GPT): Promise<og.GPT> =>
  quantize(model, { scheme: 'nf4', doubleQuant: true, embeddings: 'int8', inPlace: true });

test('a model quantised while it is loaded is the model that was loaded and quantised', async () => {
  const { model: whole } = await og.load(folder);
  assert.ok(whole.parameters().every(({ storage }) => storage.pooled));
  const expected = await logits(await inFourBits(whole));
  let [inFile, calls] = [0, 0];
  const { model } = await og.load(folder, {
    convert: (given) => {
      calls++;
      assert.equal(given.training, false);
      inFile = given.parameters().filter(({ storage }) => !storage.pooled).length;
      return inFourBits(given);
    },
  });
  assert.equal(calls, 1);
  assert.ok(inFile > 30, `${inFile} parameters in the file`);
  assert.ok(model.blocks[0]!.mlp.up instanceof og.nn.QuantizedLinear);
  assert.ok(model.parameters().every(({ storage }) => storage.pooled));
  assert.deepEqual(await logits(model), expected);
  whole.dispose();
  model.dispose();
});

test('the whole model is never in memory', { skip: process.platform === 'linux' ? false : 'needs /proc' }, async () => {
  og.emptyCache();
  await whenDone();
  const bytes = (await readFile(path.join(folder, 'model.safetensors'))).byteLength;
  globalThis.gc?.();
  await writeFile('/proc/self/clear_refs', '5'); // the peak starts afresh
  const peak = async (): Promise<number> =>
    Number(/VmHWM:\s+(\d+)/.exec(await readFile('/proc/self/status', 'utf8'))![1]) * 1024;
  const start = await peak();
  const { model } = await og.load(folder, { convert: inFourBits });
  await logits(model);
  const more = (await peak()) - start;
  assert.ok(bytes > 55 * MIB);
  assert.ok(more < 0.7 * bytes, `${more / MIB} MiB more at the peak, of a file of ${bytes / MIB}`);
  model.dispose();
});

test('loading draws nothing from random streams, and the parameters can be trained', async () => {
  const { state } = og.defaultGenerator();
  const { model } = await og.load(folder);
  assert.deepEqual(og.defaultGenerator().state, state);
  const optimizer = new og.optim.SGD(model.parameters(), { lr: 0.1 });
  const losses: number[] = [];
  for (let i = 0; i < 2; i++) {
    const loss = og.scope(() => model.loss(ids, ids));
    og.scope(() => loss.backward());
    optimizer.step();
    optimizer.zeroGrad();
    losses.push((await loss.item()) as number);
  }
  assert.ok(losses[1]! < losses[0]!);
  const { model: again } = await og.load(folder); // the file is as it was
  assert.equal(await again.loss(ids, ids).item(), losses[0]);
  model.dispose();
  again.dispose();
});

test('what is written to a model that lies in its file is not lost when pages are given back', async () => {
  const target = 'blocks.0.mlp.up';
  const { model } = await og.load(folder, {
    convert: (given) => {
      const { weight } = given.blocks[0]!.mlp.up as og.nn.Linear;
      og.noGrad(() => weight.narrow(0, 0, 500).copy_(og.zeros([500, 512])));
      return quantize(given, { scheme: 'w8a16', target, inPlace: true });
    },
  });
  const layer = model.blocks[0]!.mlp.up as unknown as og.nn.QuantizedLinear;
  const rows = await og.dequantize(layer.weight).narrow(0, 0, 500).data();
  assert.ok((rows as Float32Array).every((value) => value === 0));
  model.dispose();
});

test('a conversion may give another model, and may fail', async () => {
  const tensors = og.memory().tensors;
  const { model } = await og.load(folder, { convert: (given) => quantize(given, { scheme: 'w8a16' }) });
  assert.ok(model.blocks[0]!.mlp.up instanceof og.nn.QuantizedLinear);
  model.dispose();
  const fails = og.load(folder, { convert: () => Promise.reject(new Error('not this one')) });
  await assert.rejects(fails, /not this one/);
  assert.equal(og.memory().tensors, tensors);
  await assert.rejects(og.load(folder, { quantize: true } as never), /convert/);
});

test('loadStateDict takes tensors over with assign', () => {
  const layer = new og.nn.Linear(3, 2);
  layer.weight.requiresGrad = false;
  const state = { weight: og.ones([2, 3]).to('bfloat16'), bias: og.zeros([2]) };
  layer.loadStateDict(state, { assign: true });
  assert.equal(layer.weight.storage, state.weight.storage);
  assert.deepEqual([layer.weight.dtype, layer.weight.requiresGrad], ['bfloat16', false]);
  assert.ok(layer.bias!.requiresGrad && layer.parameters().length === 2);
  state.weight.dispose();
  assert.deepEqual(layer.weight.toArraySync(), [[1, 1, 1], [1, 1, 1]]); // prettier-ignore
  assert.throws(() => layer.loadStateDict({ bias: og.zeros([2]) }, { assign: true }), og.StateError);
  const wrong = { weight: og.ones([2, 3]), bias: og.zeros([2], { dtype: 'int32' }) };
  assert.throws(() => layer.loadStateDict(wrong, { assign: true }), og.DTypeError);
  assert.equal(layer.weight.dtype, 'bfloat16', 'nothing was taken');
  assert.throws(() => layer.loadStateDict({ ...wrong, bias: og.zeros([3]) }, { assign: true }), og.ShapeError);
});
