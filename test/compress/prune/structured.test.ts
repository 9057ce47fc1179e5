/** Heads, neurons and layers that are removed: the same results as with zeros in their places, in smaller matrices. */
import assert from 'node:assert/strict';
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import {
  calibrationBatches,
  layerImportance,
  prune,
  pruneStructures,
  quantize,
  removeStructures,
  unitImportance,
  type PruneStructuresOptions,
  type Structures,
} from '../../../src/compress/index.js';
import * as og from '../../../src/index.js';
import { tinyDataset, tinyLoss, trainTiny } from '../../helpers/trained_tiny.js';

const folder = await mkdtemp(join(tmpdir(), 'omnigrad-structured-'));
after(() => rm(folder, { recursive: true, force: true }));
const base = { vocabSize: 32, context: 32, layers: 3, heads: 4, width: 32 } as const;
const configs: Record<string, og.GPTConfig> = {
  'gelu, learned positions': base,
  'swiglu, rope, grouped queries': { ...base, kvHeads: 2, activation: 'swiglu', position: 'rope', norm: 'rmsNorm', bias: false }, // prettier-ignore
  'geluTanh, rope, own head': { ...base, activation: 'geluTanh', position: 'rope', tieEmbeddings: false },
};
const makeModel = (config: og.GPTConfig): og.GPT => new og.GPT(config, { generator: og.generator(3) }).eval();
const ids = og.randint(0, 32, [2, 20], { generator: og.generator(9), dtype: 'int32' });
const logits = (model: og.GPT): og.Tensor => og.noGrad(() => model.forward(ids));
const farthest = (a: og.Tensor, b: og.Tensor): number =>
  og.scope(() => og.amax(og.abs(og.sub(a, b))).itemSync() as number);
const calibration = calibrationBatches(tinyDataset, { batches: 2, batchSize: 4 });

/** Writes zeros where the units are read. */
function silence(layer: og.nn.Linear, columns: readonly number[]): void {
  for (const column of columns) og.noGrad(() => og.copy_(og.narrow(layer.weight, 1, column, 1), og.tensor(0, { dtype: layer.weight.dtype }))); // prettier-ignore
}

for (const [name, config] of Object.entries(configs)) {
  test(`${name}: removing is zeroing, exactly`, async () => {
    const model = makeModel(config).to('float64');
    const per = 32 / (config.kvHeads ?? 4);
    const structures: Structures = {
      heads: { 'blocks.0.attention': [1], 'blocks.2.attention': [0] },
      neurons: { 'blocks.0.mlp': [0, 5, 31], 'blocks.2.mlp': Array.from({ length: 20 }, (_, i) => i + 7) },
    };
    const zeroed = og.cloneModel(model);
    for (const [path, units] of Object.entries(structures.heads!)) {
      const block = zeroed.blocks[Number(path.split('.')[1])]!;
      silence(block.attention.o, units.flatMap((unit) => Array.from({ length: per }, (_, i) => unit * per + i))); // prettier-ignore
    }
    for (const [path, units] of Object.entries(structures.neurons!))
      silence(zeroed.blocks[Number(path.split('.')[1])]!.mlp.down, units);
    const small = removeStructures(model, structures);
    assert.ok(farthest(logits(small), logits(zeroed)) < 1e-12);
    assert.ok(farthest(logits(small), logits(model)) > 1e-6);
    const { attention, mlp } = small.blocks[0]!;
    const kvHeads = config.kvHeads ?? 4;
    assert.deepEqual([attention.heads, attention.kvHeads, attention.headWidth], [(4 / kvHeads) * (kvHeads - 1), kvHeads - 1, 8]); // prettier-ignore
    assert.deepEqual(attention.k.weight.shape, [(kvHeads - 1) * 8, 32]);
    assert.deepEqual(attention.o.weight.shape, [32, attention.heads * 8]);
    assert.equal(mlp.down.inFeatures, model.blocks[0]!.mlp.down.inFeatures - 3);
    // a whole layer: as if the block added nothing
    const still = og.cloneModel(model);
    for (const layer of [still.blocks[1]!.attention.o, still.blocks[1]!.mlp.down]) {
      og.nn.init.zeros_(layer.weight);
      if (layer.bias !== null) og.nn.init.zeros_(layer.bias);
    }
    const shorter = removeStructures(model, { layers: [1] });
    assert.ok(farthest(logits(shorter), logits(still)) < 1e-12);
    assert.equal(shorter.config.layers, 2);
    assert.equal(model.blocks.length, 3);
  });

  test(`${name}: a smaller model generates, trains, is saved and loaded`, async () => {
    const model = makeModel(config);
    const options: PruneStructuresOptions = {
      heads: 0.5,
      neurons: 0.25,
      layers: 1,
      importance: 'activation',
      calibration,
    };
    const small = await pruneStructures(model, options);
    await og.saveModel(join(folder, 'whole'), model);
    await og.saveModel(join(folder, 'small'), small);
    const size = async (of: string): Promise<number> => (await stat(join(folder, of, 'model.safetensors'))).size;
    assert.ok((await size('small')) < 0.7 * (await size('whole')));
    const { model: loaded } = await og.load(join(folder, 'small'));
    assert.equal(farthest(logits(loaded), logits(small)), 0);
    const pieces: number[][] = [];
    for (const one of [small, loaded]) {
      const list: number[] = [];
      for await (const { id } of one.generate([1, 2, 3], { maxNewTokens: 6, temperature: 0 })) list.push(id);
      pieces.push(list);
    }
    assert.deepEqual(pieces[0], pieces[1]);
    // cached keys give what a whole pass gives
    const full = og.noGrad(() => small.forward(og.tensor([[1, 2, 3]], { dtype: 'int32' }), { lastOnly: true }));
    assert.equal(og.argmax(og.reshape(full, [-1])).itemSync(), pieces[0]![0]);
    const worse = tinyLoss(loaded);
    await trainTiny(loaded, { steps: 5 });
    assert.ok(tinyLoss(loaded) < worse);
    const again = await pruneStructures(small, { neurons: 4 }); // and once more
    assert.equal(again.blocks[0]!.mlp.up.outFeatures, small.blocks[0]!.mlp.up.outFeatures - 4);
  });
}

test('what is made on the way is freed', async () => {
  const model = makeModel(base);
  const batches = [tinyDataset.batch([0, 1, 2, 3], 0)];
  const counts: number[] = [];
  for (const importance of ['magnitude', 'activation', 'taylor', 'magnitude', 'activation', 'taylor'] as const) {
    const small = await pruneStructures(model, { heads: 1, neurons: 0.5, layers: 1, importance, calibration, batches });
    small.dispose();
    counts.push(og.memory().tensors);
  }
  // the first time, weights that are met again are packed; that stays
  assert.deepEqual(counts.slice(3), [counts[2], counts[2], counts[2]]);
});

test('scope global compares over layers; the least important goes first', async () => {
  const model = makeModel(configs['gelu, learned positions']!);
  const batches = [tinyDataset.batch([0, 1, 2, 3], 0), tinyDataset.batch([9, 8], 0)];
  for (const importance of ['magnitude', 'activation', 'taylor'] as const) {
    const scores = await unitImportance(model, 'neurons', importance, { calibration, batches });
    let plan: Structures = {};
    const onPlan = (given: Structures): void => void (plan = given);
    const small = await pruneStructures(model, {
      neurons: 0.3,
      importance,
      scope: 'global',
      calibration,
      batches,
      onPlan,
    });
    const gone = Object.entries(plan.neurons!).flatMap(([path, units]) =>
      units.map((unit) => scores.get(path)![unit]!),
    );
    const all = [...scores.values()].flatMap((values) => [...values]).sort((a, b) => a - b);
    assert.deepEqual(gone.sort((a, b) => a - b), all.slice(0, gone.length)); // prettier-ignore
    assert.equal(gone.length, Math.round(3 * 128 * 0.3));
    assert.equal(small.blocks.reduce((sum, { mlp }) => sum + mlp.up.outFeatures, 0), 3 * 128 - gone.length); // prettier-ignore
  }
  const influence = await layerImportance(model, calibration);
  const small = await pruneStructures(model, { layers: 2, calibration });
  const best = influence.indexOf(Math.max(...influence));
  assert.equal(farthest(small.blocks[0]!.mlp.up.weight, model.blocks[best]!.mlp.up.weight), 0);
});

test('zeros of a pruned model stay; patterns of cut columns do not', async () => {
  const model = await prune(makeModel(base), { pattern: '2:4' });
  const small = removeStructures(model, { neurons: { 'blocks.0.mlp': [2] } });
  assert.deepEqual([small.blocks[0]!.mlp.up.pruned, small.blocks[0]!.mlp.down.pruned], ['2:4', 'unstructured']);
  model.blocks[0]!.mlp.up.weight.requiresGrad = false;
  assert.equal(removeStructures(model, { neurons: { 'blocks.0.mlp': [2] } }).blocks[0]!.mlp.up.weight.requiresGrad, false); // prettier-ignore
});

test('what cannot be is refused before any work, by name', async () => {
  const model = makeModel(configs['swiglu, rope, grouped queries']!);
  const count = model.parameterCount();
  const refuses = (options: object, pattern: RegExp): Promise<void> =>
    assert.rejects(pruneStructures(model, { inPlace: true, ...options } as never), pattern);
  await refuses({}, /some heads, neurons or layers/);
  await refuses({ head: 1 }, /Did you mean heads/);
  await refuses({ heads: 2 }, /fewer than the 2/);
  await refuses({ heads: 1.5 }, /integer/);
  await refuses({ heads: -1 }, /heads/);
  await refuses({ layers: 3, calibration }, /layers/);
  await refuses({ layers: 1 }, /calibration/);
  await refuses({ layers: [0, 7] }, /layers/);
  await refuses({ neurons: 0.5, importance: 'activation' }, /calibration/);
  await refuses({ neurons: 0.5, importance: 'taylor' }, /batch/);
  await refuses({ neurons: 0.5, importance: 'size' }, /taylor/);
  await refuses({ heads: 4, scope: 'global' }, /each layer keeps one/);
  assert.throws(() => removeStructures(model, { heads: { 'blocks.9.attention': [0] } }), /blocks\.0\.attention/);
  assert.throws(() => removeStructures(model, { neurons: { 'blocks.0.mlp': [1000] } }), /blocks\.0\.mlp/);
  assert.throws(() => removeStructures(model, { layers: [0, 1, 2] }), /all 3/);
  assert.throws(() => removeStructures(new og.nn.Linear(2, 2) as never, { layers: [0] }), /a GPT/);
  const done = await quantize(model, { scheme: 'w8a16' });
  await assert.rejects(pruneStructures(done, { heads: 1 }), /blocks\.0\.attention\.q is a QuantizedLinear/);
  const broken = og.cloneModel(model);
  og.noGrad(() => og.copy_(og.narrow(broken.blocks[1]!.mlp.up.weight, 0, 3, 1), og.tensor(NaN)));
  await assert.rejects(pruneStructures(broken, { neurons: 1 }), /blocks\.1\.mlp.*finite/s);
  await assert.rejects(pruneStructures(broken, { layers: 1, calibration }), /blocks\.1.*finite/s);
  assert.equal(model.parameterCount(), count);
});
