/** Preference tuning end to end: datasets, references, caches, and margins that grow in the Trainer. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import {
  dpo,
  kto,
  KtoDataset,
  lora,
  orpo,
  precomputeReference,
  PreferenceDataset,
  PreferenceMetrics,
  RewardModel,
  rewardModeling,
  simpo,
  withoutAdapters,
  answerLogProbs,
  type KtoExample,
  type PreferenceExample,
  type PreferenceLoss,
  type PreferenceBatch,
} from '../../../src/finetune/index.js';
import * as og from '../../../src/index.js';
import { assertClose, numbersOf } from '../../helpers/allclose.js';

const folder = mkdtempSync(join(tmpdir(), 'omnigrad-preference-'));
after(() => rmSync(folder, { recursive: true, force: true }));

const gpt = (dropout = 0): og.GPT =>
  new og.GPT({ vocabSize: 16, context: 16, layers: 1, heads: 2, width: 16, dropout }, { generator: og.generator(5) });

/** Rising answers are liked, falling ones are not. */
const pairs: PreferenceExample[] = Array.from({ length: 24 }, (_, i) => {
  const start = i % 8;
  return {
    prompt: [15, start],
    chosen: [start + 1, start + 2, start + 3].slice(0, 1 + (i % 3)),
    rejected: [start + 6, start + 4],
    ...(i === 0 ? { margin: 0.5 } : {}),
  };
});
const singles: KtoExample[] = pairs.flatMap(({ prompt, chosen, rejected }) => [
  { prompt, answer: chosen, desirable: true },
  { prompt, answer: rejected, desirable: false },
]);
const rows = (x: og.Tensor): number[][] => x.toArraySync() as number[][];

describe('datasets', () => {
  test('answers are targets, prompts and padding are not; pairs side by side', () => {
    const data = new PreferenceDataset([
      { prompt: [1, 2], chosen: [3, 4, 5], rejected: [6], margin: 2 },
      { prompt: Int32Array.of(7), chosen: [8], rejected: [9, 10] },
    ], { padId: 11 }); // prettier-ignore
    const batch = data.batch([1, 0]);
    assert.deepEqual(rows(batch.x), [
      [7, 8, 11, 11, 11],
      [7, 9, 10, 11, 11],
      [1, 2, 3, 4, 5],
      [1, 2, 6, 11, 11],
    ]);
    assert.deepEqual(rows(batch.y), [
      [8, -100, -100, -100, -100],
      [9, 10, -100, -100, -100],
      [-100, 3, 4, 5, -100],
      [-100, 6, -100, -100, -100],
    ]);
    assert.deepEqual(numbersOf(batch.lengths), Float64Array.of(2, 3, 5, 3));
    assert.deepEqual(numbersOf(batch.margin), Float64Array.of(0, 2));
    assert.equal(batch.reference, null);
  });

  test('too long: the prompt loses its start, then the answer its end', () => {
    const long = { prompt: [1, 2, 3, 4], chosen: [5, 6], rejected: [7, 8, 9, 10, 11] };
    const { x, y } = new PreferenceDataset([long], { maxLength: 4, padToMaxLength: true }).batch([0]);
    assert.deepEqual(rows(x), [
      [3, 4, 5, 6],
      [4, 7, 8, 9],
    ]);
    assert.deepEqual(rows(y), [
      [-100, 5, 6, -100],
      [7, 8, 9, -100],
    ]);
  });

  test('each prompt of a KtoDataset meets the answer of another, every answer once', () => {
    const examples = Array.from({ length: 7 }, (_, i) => ({ prompt: [1], answer: [2 + i], desirable: i % 2 === 0 }));
    const all = [...examples.keys()];
    const { x, desirable } = new KtoDataset(examples, { seed: 3 }).batch(all);
    const answers = rows(x).map(([, id]) => id!);
    assert.deepEqual(answers.filter((_, i) => i % 2 === 0), [2, 3, 4, 5, 6, 7, 8]); // prettier-ignore
    const others = answers.filter((_, i) => i % 2 === 1);
    assert.deepEqual([...others].sort(), [2, 3, 4, 5, 6, 7, 8]);
    assert.ok(others.every((id, i) => id !== 2 + i));
    assert.deepEqual(desirable.toArraySync(), [true, false, true, false, true, false, true]);
    assert.deepEqual(rows(new KtoDataset(examples, { seed: 3 }).batch(all).x), rows(x));
    assert.notDeepEqual(rows(new KtoDataset(examples, { seed: 4 }).batch(all).x), rows(x));
  });

  test('errors name the example', () => {
    const make = (example: object, options = {}): unknown =>
      new PreferenceDataset([pairs[0]!, example as never], options);
    assert.throws(
      () => make({ prompt: [], chosen: [1], rejected: [2] }),
      /examples\[1\].prompt: expected at least one/,
    );
    assert.throws(() => make({ prompt: [1], chosen: [1.5], rejected: [2] }), /examples\[1\].chosen: expected ids/);
    assert.throws(() => make({ prompt: [1], chosen: 'text', rejected: [2] }), /examples\[1\].chosen/);
    assert.throws(() => make(pairs[1]!, { padToMaxLength: true }), /maxLength/);
    assert.throws(() => new PreferenceDataset([]), /a list of examples, got none/);
    assert.throws(() => new KtoDataset([singles[0]!]), /at least two/);
    assert.throws(() => new PreferenceDataset(pairs).withReference([1, 2]), /48 log-probabilities/);
  });
});

describe('references', () => {
  const data = new PreferenceDataset(pairs);
  const direct = (model: og.GPT): number[] => {
    const { x, y } = data.batch([...pairs.keys()]);
    return Array.from(numbersOf(og.noGrad(() => answerLogProbs(model.forward(x), y).sum)));
  };

  test('computed beforehand: what a forward pass gives, in evaluation mode; modes come back', async () => {
    const model = gpt(0.5);
    model.blocks[0]!.training = false;
    const { reference } = (await precomputeReference(model, data, { batchSize: 5 })).batch([...pairs.keys()]);
    assert.equal(model.training, true);
    assert.equal(model.blocks[0]!.training, false);
    assertClose(reference!, direct(model.eval()), { rtol: 1e-5 });
  });

  test('the cache is read for the same weights and examples, and for no others', async () => {
    const cache = join(folder, 'reference.safetensors');
    const model = gpt();
    const first = await precomputeReference(model, data, { cache });
    const { mtimeMs, ino } = statSync(cache);
    const second = await precomputeReference(model, data, { cache });
    assert.deepEqual([statSync(cache).mtimeMs, statSync(cache).ino], [mtimeMs, ino], 'not written again');
    assert.deepEqual(numbersOf(second.batch([3]).reference!), numbersOf(first.batch([3]).reference!));
    og.noGrad(() => model.tokens.weight.copy_(model.tokens.weight.mul(1.5)));
    const third = await precomputeReference(model, data, { cache });
    assertClose(third.batch([...pairs.keys()]).reference!, direct(model), { rtol: 1e-5 });
    const fewer = new PreferenceDataset(pairs.slice(1));
    assert.equal((await precomputeReference(model, fewer, { cache })).length, 23);
    const other = join(folder, 'other.safetensors');
    await og.saveSafetensors(other, { weights: og.ones([2]) });
    await assert.rejects(precomputeReference(model, data, { cache: other }), /expected log-probabilities, got weights/);
    writeFileSync(other, 'not a file of tensors');
    await assert.rejects(precomputeReference(model, data, { cache: other }), { code: 'OG_FORMAT' });
  });

  test('with adapters, the model itself without them, whatever they have learnt', async () => {
    const model = lora(gpt(), { rank: 2, init: 'random' });
    const without = withoutAdapters(model, () => direct(model));
    const made = await precomputeReference(model, data, { withoutAdapters: true });
    assertClose(made.batch([...pairs.keys()]).reference!, without, { rtol: 1e-5 });
    const batch = data.batch([0, 1, 2]);
    const online = dpo({ reference: 'withoutAdapters' })(model, batch).itemSync();
    const before = dpo()(model, made.batch([0, 1, 2])).itemSync();
    assertClose([online], [before], { rtol: 1e-5 });
    assert.ok(Math.abs(online - Math.log(2)) > 1e-3, 'random adapters change the model');
    await assert.rejects(precomputeReference(gpt(), data, { withoutAdapters: true }), /a model with adapters/);
  });
});

/** Reports of the first and the last steps of a run. */
async function train(
  make: (metrics: PreferenceMetrics) => PreferenceLoss<PreferenceBatch>,
  model: og.GPT = gpt(),
): Promise<{ first: number; last: number; accuracy: number; valid: number }> {
  const metrics = new PreferenceMetrics();
  const data = new PreferenceDataset(pairs);
  const trainer = new og.Trainer<og.GPT, PreferenceBatch>(model, {
    train: data,
    valid: data,
    batchSize: 8,
    steps: 40,
    loss: make(metrics),
    optimizer: (parameters) => new og.optim.AdamW(parameters, { lr: 1e-2 }),
  });
  const margins: number[] = [];
  let accuracy = 0;
  for await (const event of trainer.run()) {
    if (event.type !== 'step') continue;
    const report = await metrics.train.read();
    margins.push(report.margin);
    accuracy = report.accuracy;
  }
  const valid = (await metrics.valid.read()).accuracy;
  return { first: margins[0]!, last: margins.at(-1)!, accuracy, valid };
}

describe('training', () => {
  test('DPO against a frozen copy: margins grow from zero, every pair is told rightly', async () => {
    const { first, last, accuracy, valid } = await train((metrics) => dpo({ reference: gpt(), metrics }));
    assert.ok(Math.abs(first) < 1e-4, `margin ${first} at first`);
    assert.ok(last > 0.5, `margin ${last}`);
    assert.deepEqual([accuracy, valid], [1, 1]);
  });

  test('DPO of adapters against the model without them', async () => {
    const model = lora(gpt(), { rank: 4, generator: og.generator(1) });
    const { last } = await train((metrics) => dpo({ reference: 'withoutAdapters', metrics }), model);
    assert.ok(last > 0.05, `margin ${last}`);
  });

  test('IPO holds the margin near 1/2: β · 1/(2β)', async () => {
    const { last } = await train((metrics) => dpo({ reference: gpt(), metrics, variant: 'ipo', beta: 0.5 }));
    assert.ok(Math.abs(last - 0.5) < 0.15, `margin ${last}`);
  });

  test('ORPO and SimPO, without a reference', async () => {
    const odds = await train((metrics) => orpo({ lambda: 1, metrics }));
    assert.ok(odds.last > odds.first + 1 && odds.accuracy === 1, JSON.stringify(odds));
    const simple = await train((metrics) => simpo({ metrics }));
    assert.ok(simple.last > simple.first + 1 && simple.accuracy === 1, JSON.stringify(simple));
  });

  test('KTO, with log-probabilities computed beforehand', async () => {
    const model = gpt();
    const train = await precomputeReference(model, new KtoDataset(singles));
    const metrics = new PreferenceMetrics();
    const trainer = new og.Trainer(model, {
      train,
      batchSize: 16,
      steps: 40,
      loss: kto({ metrics, beta: 0.2 }),
      optimizer: (parameters) => new og.optim.AdamW(parameters, { lr: 1e-2 }),
    });
    const reports = [];
    for await (const event of trainer.run()) if (event.type === 'step') reports.push(await metrics.train.read());
    assert.ok(Math.abs(reports[0]!.margin) < 1e-4);
    assert.ok(reports.at(-1)!.margin > 0.5, JSON.stringify(reports.at(-1)));
    assert.ok(reports.at(-1)!.accuracy > 0.9);
  });

  test('a reward model ranks the answers; its reward does not depend on padding', async () => {
    const model = new RewardModel(gpt(), { generator: og.generator(2) });
    const metrics = new PreferenceMetrics();
    const trainer = new og.Trainer<RewardModel<og.GPT>, PreferenceBatch>(model, {
      train: new PreferenceDataset(pairs),
      batchSize: 8,
      steps: 40,
      loss: rewardModeling({ metrics, centering: 0.01 }),
      optimizer: (parameters) => new og.optim.AdamW(parameters, { lr: 1e-2 }),
    });
    let last = await metrics.train.read();
    for await (const event of trainer.run()) if (event.type === 'step') last = await metrics.train.read();
    assert.ok(last.margin > 1 && last.accuracy === 1, JSON.stringify(last));
    const plain = model.forward(og.tensor([[15, 3, 4]], { dtype: 'int32' }));
    const padded = model.forward(og.tensor([[15, 3, 4, 0, 0]], { dtype: 'int32' }), og.tensor([3], { dtype: 'int32' }));
    assertClose(padded, plain, { rtol: 1e-5 });
    assert.throws(() => new RewardModel(new og.nn.Linear(2, 2) as never), /a model with hidden/);
  });
});
