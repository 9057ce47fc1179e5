/** Pruning against results computed in float64 with PyTorch: masks, schedule, movement pruning, importance, and what is removed. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import {
  cubicSparsity,
  layerImportance,
  movementPruning,
  prune,
  removeStructures,
  unitImportance,
  type PrunePattern,
  type Structures,
} from '../../../src/compress/index.js';
import * as og from '../../../src/index.js';

interface Manifest {
  readonly cubic: readonly number[];
  readonly influence: readonly number[];
  readonly loss: Readonly<Record<'whole' | 'layer' | 'heads' | 'neurons', number>>;
}
const folder = new URL('../../fixtures/compress/', import.meta.url);
const manifest = JSON.parse(await readFile(new URL('prune.json', folder), 'utf8')) as Manifest;
const fixture = await og.loadSafetensors(new URL('prune.safetensors', folder).pathname);
const { nn } = og;

function assertClose(actual: og.Tensor, expected: og.Tensor, tolerance: number): void {
  assert.deepEqual(actual.shape, expected.shape);
  const far = og.scope(() => og.amax(og.abs(og.sub(actual, expected))).itemSync() as number);
  assert.ok(far <= tolerance, `differs by ${far}`);
}

const patterns: [string, PrunePattern][] = [
  ['half', { sparsity: 0.5 }],
  ['2:4', '2:4'],
  ['4:8', '4:8'],
  ['1:4', '1:4'],
  ['block16', { sparsity: 0.5, block: 16 }],
];
for (const [name, pattern] of patterns) {
  test(`Wanda ${name}`, async () => {
    const layer = nn.Linear.of(og.clone(fixture['wanda.weight']!));
    const model = new nn.Sequential(layer);
    const calibration = og.split(fixture['wanda.inputs']!, 40);
    await prune(model, { pattern, method: 'wanda', calibration, inPlace: true });
    const kept = og.to(og.ne(layer.weight, 0), 'uint8');
    assertClose(og.to(kept, 'float32'), og.to(fixture[`wanda.${name}`]!, 'float32'), 0);
    const want = og.where(og.gt(fixture[`wanda.${name}`]!, 0), fixture['wanda.weight']!, 0);
    assertClose(og.detach(layer.weight), want, 0); // what is kept is not touched
  });
}

test('the cubic schedule', () => {
  const schedule = { sparsity: 0.8, initialSparsity: 0.1, begin: 10, end: 70, every: 6 };
  for (const [step, want] of manifest.cubic.entries())
    assert.ok(Math.abs(cubicSparsity(step, schedule) - want) < 1e-12, `step ${step}`);
});

test('movement pruning takes the steps of its equations', async () => {
  const layer = nn.Linear.of(og.to(fixture['movement.weight']!, 'float64'));
  const model = new nn.Sequential(layer);
  const movement = movementPruning(model, { sparsity: 0.6, end: 10 });
  const [x, y] = [og.to(fixture['movement.x']!, 'float64'), og.to(fixture['movement.y']!, 'float64')];
  const trainer = new og.Trainer(model, {
    train: { length: 1, batch: () => ({ x: og.clone(x), y: og.clone(y) }) },
    loss: (of, batch) => og.mseLoss(of.forward(batch.x), batch.y),
    batchSize: 1,
    steps: 12,
    optimizer: (parameters) => new og.optim.SGD(parameters, { lr: 0.5 }),
    callbacks: [movement.callback],
  });
  for await (const _ of trainer.run());
  assertClose(og.detach(movement.scores[0]!), og.to(fixture['movement.scores']!, 'float64'), 1e-6);
  const { layers: [made] } = movement.finish(); // prettier-ignore
  assertClose(og.detach((made as og.nn.Linear).weight), og.to(fixture['movement.final']!, 'float64'), 1e-6);
  assert.equal((made as og.nn.Linear).pruned, 'unstructured');
  assert.throws(() => movement.finish(), /finished/);
});

/** The transformer of the fixture. */
const reference = (() => {
  const config = { vocabSize: 24, context: 12, layers: 3, heads: 4, kvHeads: 2, width: 16, hidden: 40 } as const;
  const model = new og.GPT(config);
  const state = Object.entries(fixture).flatMap(([name, value]) =>
    /^gpt\.(?!ids)/.test(name) ? [[name.slice(4), value]] : [],
  );
  model.loadStateDict(Object.fromEntries(state) as og.nn.StateDict);
  return model.eval();
})();
const batches = Array.from({ length: 3 }, (_, i) => {
  const ids = og.select(fixture['gpt.ids']!, 0, i);
  return { x: og.clone(og.narrow(ids, 1, 0, 12)), y: og.clone(og.narrow(ids, 1, 1, 12)) };
});
const calibration = batches.map(({ x }) => x);
const lossOf = (model: og.GPT): number =>
  og.scope(() => og.noGrad(() => model.loss(batches[0]!.x, batches[0]!.y).itemSync() as number));

for (const by of ['taylor', 'activation'] as const) {
  for (const kind of ['heads', 'neurons'] as const) {
    test(`${by} importance of ${kind}`, async () => {
      const found = await unitImportance(reference, kind, by, { batches, calibration });
      const made = og.tensor([...found.values()].map((values) => [...values]));
      const want = fixture[`${by}.${kind}`]!;
      assertClose(made, want, 1e-4 * (og.amax(want).itemSync() as number));
      assert.deepEqual([...found.keys()], [0, 1, 2].map((i) => `blocks.${i}.${kind === 'heads' ? 'attention' : 'mlp'}`)); // prettier-ignore
      assert.ok(reference.parameters().every(({ grad, requiresGrad }) => grad === null && requiresGrad));
    });
  }
}

test('block influence', async () => {
  const found = await layerImportance(reference, calibration);
  found.forEach((value, i) => assert.ok(Math.abs(value - manifest.influence[i]!) < 1e-5, `${value}`));
});

test('a model without heads, neurons or layers is the one with these switched off', () => {
  assert.ok(Math.abs(lossOf(reference) - manifest.loss.whole) < 1e-4);
  const neurons = { 'blocks.1.mlp': [0, 7, 39], 'blocks.2.mlp': Array.from({ length: 15 }, (_, i) => 5 + i) };
  const heads = { 'blocks.0.attention': [1], 'blocks.2.attention': [0] };
  const all: Record<string, Structures> = { heads: { heads }, neurons: { neurons }, layer: { layers: [1] } };
  for (const [name, structures] of Object.entries(all)) {
    const made = removeStructures(reference, structures);
    const want = manifest.loss[name as 'heads'];
    assert.ok(Math.abs(lossOf(made) - want) < 1e-4, `${name}: ${lossOf(made)} against ${want}`);
    assert.ok(Math.abs(want - manifest.loss.whole) > 0.01, 'and this is not what it was');
    assert.ok(made.parameterCount() < reference.parameterCount());
    made.dispose();
  }
});
