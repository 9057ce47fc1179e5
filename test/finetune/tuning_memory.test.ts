/** Preference losses, penalties and merges leave no tensor behind. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import {
  combineAdapters,
  addAdapter,
  dpo,
  Ewc,
  graftLayers,
  greedySoup,
  kto,
  KtoDataset,
  L2Sp,
  lora,
  mergeModels,
  orpo,
  precomputeReference,
  PreferenceDataset,
  PreferenceMetrics,
  RewardModel,
  rewardModeling,
  simpo,
  stackLayers,
  unloadAdapters,
  withPenalty,
} from '../../src/finetune/index.js';
import * as og from '../../src/index.js';

const folder = mkdtempSync(join(tmpdir(), 'omnigrad-tuning-'));
after(() => rmSync(folder, { recursive: true, force: true }));
const gpt = (seed = 1): og.GPT =>
  new og.GPT({ vocabSize: 16, context: 8, layers: 2, heads: 2, width: 8 }, { generator: og.generator(seed) });
const pairs = new PreferenceDataset([
  { prompt: [1, 2], chosen: [3], rejected: [4, 5] },
  { prompt: [1], chosen: [6, 2], rejected: [7] },
]);
const singles = new KtoDataset([
  { prompt: [1, 2], answer: [3], desirable: true },
  { prompt: [1], answer: [7], desirable: false },
]);

/** Runs it twice, and sees what the second time leaves. */
async function leavesNothing(name: string, body: () => void | Promise<void>): Promise<void> {
  await body();
  const before = og.memory().tensors;
  await body();
  assert.equal(og.memory().tensors, before, `${name}: tensors alive`);
}

test('steps of every preference loss', async () => {
  const [model, reference] = [lora(gpt(), { rank: 2 }), gpt()];
  const metrics = new PreferenceMetrics();
  const reward = new RewardModel(gpt(3));
  const train = await precomputeReference(reference, singles);
  const steps: Record<string, () => og.Tensor> = {
    dpo: () => dpo({ reference, metrics })(model, pairs.batch([0, 1])),
    adapters: () => dpo({ reference: 'withoutAdapters', metrics })(model, pairs.batch([0, 1])),
    orpo: () => orpo({ metrics })(model, pairs.batch([0, 1])),
    simpo: () => simpo({ metrics })(model, pairs.batch([0, 1])),
    kto: () => kto({ metrics })(model, train.batch([0, 1])),
    reward: () => rewardModeling({ metrics })(reward, pairs.batch([0, 1])),
  };
  for (const [name, step] of Object.entries(steps)) {
    await leavesNothing(name, async () => {
      og.scope(() => step().backward());
      await metrics.train.read();
    });
  }
});

test('references, penalties and merges', async () => {
  const [model, one, two] = [gpt(), gpt(2), gpt(3)];
  const cache = join(folder, 'reference.safetensors');
  await leavesNothing('precomputeReference', async () => {
    await precomputeReference(model, pairs, { cache });
    await precomputeReference(model, pairs);
  });
  const data = new og.TextDataset(Int32Array.from({ length: 40 }, (_, i) => i % 16), { context: 8 }); // prettier-ignore
  const path = join(folder, 'ewc.safetensors');
  await leavesNothing('penalties', async () => {
    const [ewc, start] = [await Ewc.estimate(model, data, { samples: 3 }), new L2Sp(model)];
    const loss = withPenalty((own: og.GPT, { x, y }: og.TextBatch) => own.loss(x, y), ewc, start);
    og.scope(() => loss(model, data.batch([0, 1], 0)).backward());
    await ewc.save(path);
    (await Ewc.load(path)).dispose();
    ewc.dispose();
    start.dispose();
  });
  for (const options of [
    { method: 'average' },
    { method: 'slerp' },
    { method: 'taskArithmetic', base: model },
    { method: 'ties', base: model },
    { method: 'ties', base: model, trim: 'tensor' },
    { method: 'dare', base: model, consensus: 'ties' },
  ] as const) {
    await leavesNothing(options.method, async () => (await mergeModels([one, two], options)).dispose());
  }
  await leavesNothing('soup, layers', async () => {
    const states = [one.stateDict(), two.stateDict()];
    const { state } = await greedySoup(model, states, (own) => og.scope(() => own.tokens.weight.sum().itemSync()));
    for (const tensor of [...Object.values(state), ...states.flatMap(Object.values<og.Tensor>)]) tensor.dispose();
    graftLayers(model, one, ['blocks.0']);
    stackLayers([{ model: one, layers: [0, 2] }, { model: two, layers: [1, 2] }]).dispose(); // prettier-ignore
  });
  await leavesNothing('adapters', () => {
    lora(two, { name: 'a', rank: 2 });
    addAdapter(two, 'b', { rank: 2 });
    for (const method of ['cat', 'linear', 'svd'] as const) combineAdapters(two, method, { a: 1, b: 1 }, { method });
    unloadAdapters(two);
  });
});
