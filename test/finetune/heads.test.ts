/** Heads: as Hugging Face's, metrics, contrastive training, stored features, gradual unfreezing. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import {
  accuracy,
  cacheFeatures,
  classificationScores,
  contrastiveLoss,
  EmbeddingModel,
  evaluateClassifier,
  f1Score,
  FeatureDataset,
  featureLoss,
  gradualUnfreezing,
  headOnly,
  infoNce,
  LabelledDataset,
  labelledLoss,
  PairDataset,
  SequenceClassifier,
  SequenceRegressor,
  TokenClassifier,
  trainableParameters,
} from '../../src/finetune/index.js';
import * as og from '../../src/index.js';
import { assertClose } from '../helpers/allclose.js';
import { gpt2 } from '../helpers/peft_models.js';

const expected = await og.loadSafetensors('test/fixtures/finetune/heads.safetensors');
const of = (name: string): og.Tensor => expected[name]!;
const close = { rtol: 1e-4, atol: 1e-5 };
const tiny = (seed = 1): og.GPT =>
  new og.GPT({ vocabSize: 16, context: 12, layers: 3, heads: 2, width: 16 }, { generator: og.generator(seed) });

describe('as Hugging Face’s', () => {
  for (const problem of ['single', 'multi', 'regression'] as const) {
    test(`GPT2ForSequenceClassification, ${problem}`, async () => {
      const labels = of(`${problem}.score`).shape[0]!;
      const model = new SequenceClassifier(await gpt2(), { labels, problem, padId: 96 });
      model.score.loadStateDict({ weight: of(`${problem}.score`) });
      assertClose(model.forward(of('ids')), of(`${problem}.logits`), close, 'logits');
      assertClose(model.forward(of('ids'), { lengths: of('lengths') }), of(`${problem}.logits`), close, 'by lengths');
      const loss = model.loss(of('ids'), of(`${problem}.labels`));
      assertClose([loss.itemSync()], [of(`${problem}.loss`).itemSync()], close, 'loss');
      loss.backward();
      assertClose(model.score.weight.grad!, of(`${problem}.grad.score`), close, 'gradient of score');
      assertClose(model.backbone.tokens.weight.grad!, of(`${problem}.grad.wte`), close, 'gradient of the table');
    });
  }

  test('GPT2ForTokenClassification', async () => {
    const model = new TokenClassifier(await gpt2(), { labels: 4 });
    model.classifier.loadStateDict({ weight: of('token.weight'), bias: of('token.bias') });
    const loss = model.loss(of('ids'), of('token.labels'));
    assertClose([loss.itemSync()], [of('token.loss').itemSync()], close, 'loss');
    loss.backward();
    assertClose(model.classifier.weight.grad!, of('token.grad.weight'), close, 'gradient');
  });

  test('pooling: a row gives what it gives alone', () => {
    for (const pooling of ['last', 'mean', 'cls'] as const) {
      const model = new EmbeddingModel(tiny(), { pooling, outputs: 5 });
      const ids = og.randint(0, 16, [2, 6], { generator: og.generator(2) });
      const both = model.forward(ids, { lengths: og.tensor(Int32Array.of(6, 4)) });
      assertClose(both.at(1), model.forward(ids.at('1:2', ':4')).at(0), { atol: 1e-6 }, pooling);
      assertClose(both.square().sum(-1), og.ones([2]), { atol: 1e-5 });
    }
  });

  test('what cannot be is refused', () => {
    assert.throws(() => new SequenceClassifier(tiny(), { labels: 0 }), /labels/);
    assert.throws(() => new SequenceClassifier(new og.nn.Linear(2, 2) as never, { labels: 2 }), /hidden\(ids\)/);
    assert.throws(() => new SequenceRegressor(tiny(), { pooling: 'max' as never }), /last.*cls.*mean/);
    const model = new SequenceClassifier(tiny(), { labels: 2 });
    assert.throws(() => model.forward(og.zeros([2, 3], { dtype: 'int32' }), { lengths: og.ones([3]) }), /int32 \[2\]/);
  });
});

test('labels by name, of tokens and numbers; rows are filled up', () => {
  const named = new LabelledDataset(
    [
      { text: [1, 2, 3], label: 'good' },
      { text: [4], label: 'bad' },
    ],
    { classes: ['bad', 'good'], padId: 9 },
  );
  const { x, y, lengths } = named.batch([0, 1]);
  assert.deepEqual(x.toArraySync(), [
    [1, 2, 3],
    [4, 9, 9],
  ]);
  assert.deepEqual(
    [y.toArraySync(), lengths.toArraySync()],
    [
      [1, 0],
      [3, 1],
    ],
  );
  const several = new LabelledDataset([{ text: [1], label: [2, 0] }], { problem: 'multi', classes: 3 });
  assert.deepEqual(several.batch([0]).y.toArraySync(), [[1, 0, 1]]);
  const tokens = new LabelledDataset(
    [
      { text: [1, 2], label: [1, -100] },
      { text: [1, 2, 3], label: [0, 0, 1] },
    ],
    { problem: 'token', maxLength: 2 },
  );
  assert.deepEqual(tokens.batch([0, 1]).y.toArraySync(), [
    [1, -100],
    [0, 0],
  ]);
  assert.throws(() => new LabelledDataset([{ text: 'a', label: 1 }]), /tokenizer/);
  assert.throws(() => new LabelledDataset([{ text: [1], label: 'ugly' }], { classes: ['bad'] }), /one of bad/);
  assert.throws(() => new LabelledDataset([{ text: [], label: 1 }]), /examples\[0\]\.text.*token/s);
  assert.throws(() => new LabelledDataset([{ text: [1], label: NaN }], { problem: 'regression' }), /finite/);
});

test('scores as scikit-learn has them', () => {
  const [truth, said] = [
    [0, 0, 1, 1, 1, 2, -100],
    [0, 1, 1, 1, 0, 1, 2],
  ];
  const scores = classificationScores(said, truth);
  assert.equal(accuracy(said, truth), 0.5);
  assert.deepEqual(scores.confusion, [
    [1, 1, 0],
    [1, 2, 0],
    [0, 1, 0],
  ]);
  // sklearn.metrics.f1_score: per class 0.5, 4/7, 0
  assert.ok(Math.abs(f1Score(said, truth) - (0.5 + 4 / 7) / 3) < 1e-12);
  assert.ok(Math.abs(f1Score(said, truth, { average: 'weighted' }) - (2 * 0.5 + (3 * 4) / 7) / 6) < 1e-12);
  assert.equal(f1Score(said, truth, { average: 'micro' }), 0.5);
  assert.throws(() => accuracy([1], [1, 2]), /2 predictions/);
  assert.throws(() => accuracy([1], [-100]), /labels/);
});

test('infoNce is the cross-entropy of similarities, negatives included', () => {
  const draw = (seed: number, rows: number): og.Tensor => og.randn([rows, 4], { generator: og.generator(seed) });
  const [q, k, n] = [draw(1, 3), draw(2, 3), draw(3, 2)];
  const unit = (x: og.Tensor): number[][] =>
    (x.toArraySync() as number[][]).map((row) => row.map((value) => value / Math.hypot(...row)));
  const [a, b, c] = [unit(q), unit(k), unit(n)];
  const loss = (from: number[][], to: number[][]): number =>
    from.reduce((sum, row, i) => {
      const s = to.map((other) => row.reduce((total, value, j) => total + value * other[j]!, 0) / 0.1);
      return sum + (Math.log(s.reduce((total, value) => total + Math.exp(value), 0)) - s[i]!) / from.length;
    }, 0);
  assertClose([infoNce(q, k, { temperature: 0.1, negatives: n }).itemSync()], [loss(a, [...b, ...c])], { rtol: 1e-4 });
  const both = (loss(a, b) + loss(b, a)) / 2;
  assertClose([infoNce(q, k, { temperature: 0.1, symmetric: true }).itemSync()], [both], { rtol: 1e-4 });
  assert.throws(() => infoNce(q, draw(1, 2)), /keys.*\[3, 4\]/s);
});

/** Rows whose class is whether they hold token 3. */
const examples = Array.from({ length: 48 }, (_, i) => {
  const text = Array.from({ length: 3 + (i % 5) }, (_, j) => 4 + ((i * 7 + j * 3) % 12));
  if (i % 2 === 1) text[i % text.length] = 3;
  return { text, label: i % 2 };
});

test('a classifier is trained by Trainer; its head alone on stored features gives the same losses', async () => {
  const dataset = new LabelledDataset(examples);
  const losses = async (stored: boolean): Promise<number[]> => {
    const model = headOnly(new SequenceClassifier(tiny(), { labels: 2, generator: og.generator(4) }));
    const shared = { batchSize: 8, steps: 6, optimizer: (p: og.Tensor[]) => new og.optim.SGD(p, { lr: 0.5 }) };
    const features = stored ? await cacheFeatures(model, dataset) : null;
    const trainer: { run(): AsyncGenerator<og.TrainEvent> } =
      features === null
        ? new og.Trainer(model, { ...shared, train: dataset, loss: labelledLoss })
        : new og.Trainer(model, { ...shared, train: features, loss: featureLoss });
    const made: number[] = [];
    for await (const event of trainer.run()) if (event.type === 'step') made.push(event.loss);
    return made;
  };
  const whole = await losses(false);
  assertClose(await losses(true), whole, { rtol: 1e-5 });
  assert.ok(whole.at(-1) !== whole[0]);
});

test('stored features survive a file', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'omnigrad-features-'));
  try {
    const model = new SequenceClassifier(tiny(), { labels: 2 });
    const features = await cacheFeatures(model, new LabelledDataset(examples), { batchSize: 7 });
    assert.equal(features.length, 48);
    assert.equal(model.training, true);
    await features.save(join(folder, 'features.safetensors'));
    const again = await FeatureDataset.open(join(folder, 'features.safetensors'));
    assertClose(again.batch([3, 40]).x, features.batch([3, 40]).x, { rtol: 0, atol: 0 });
    assert.deepEqual(again.batch([3, 40]).y.toArraySync(), [1, 0]);
    await og.saveSafetensors(join(folder, 'other.safetensors'), { x: og.ones([1]) });
    await assert.rejects(FeatureDataset.open(join(folder, 'other.safetensors')), /features and targets/);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test('gradual unfreezing opens a layer at a time, and what is closed stays as it was', async () => {
  const model = new SequenceClassifier(tiny(), { labels: 2, generator: og.generator(4) });
  const start = new Map(model.namedParameters().map(([name, tensor]) => [name, og.keep(tensor.detach().clone())]));
  const opened: string[] = [];
  const dataset = new LabelledDataset(examples);
  const trainer = new og.Trainer(model, {
    train: dataset,
    loss: labelledLoss,
    batchSize: 8,
    steps: 60,
    callbacks: [
      gradualUnfreezing({ at: [2, 4, 6, 8] }),
      {
        afterStep({ step }) {
          const open = new Set(
            trainableParameters(model).names.map((name) => /blocks\.\d|tokens|score/.exec(name)?.[0] ?? ''),
          );
          if (step <= 10) opened.push([...open].filter((name) => name !== '').join(' '));
          if (step !== 3) return;
          const moved = model
            .namedParameters()
            .filter(([name, tensor]) => tensor.sub(start.get(name)!).abs().amax().itemSync() > 0);
          assert.deepEqual([...new Set(moved.map(([name]) => name.split('.')[0]))], ['backbone', 'score']);
          assert.ok(moved.every(([name]) => !/blocks\.[01]|tokens|positions/.test(name)));
        },
      },
    ],
    optimizer: (_, whole) => new og.optim.AdamW(og.optim.layerwiseRates(whole, { lr: 1e-2, decay: 1 / 1.3 })),
    schedule: og.schedules.slantedTriangular(),
  });
  let last = 0;
  for await (const event of trainer.run()) if (event.type === 'step') last = event.loss;
  assert.deepEqual(
    [opened[0], opened[2], opened[4], opened[6], opened[8]],
    [
      'score',
      'blocks.2 score',
      'blocks.1 blocks.2 score',
      'blocks.0 blocks.1 blocks.2 score',
      'tokens blocks.0 blocks.1 blocks.2 score',
    ],
  );
  assert.ok(last < 0.5, String(last));
  const scores = await evaluateClassifier(model, dataset);
  assert.ok(scores.accuracy > 0.75, String(scores.accuracy));
  assert.throws(() => gradualUnfreezing({}), /neither/);
  assert.throws(() => gradualUnfreezing({ at: [3, 3] }), /at\[1\]/);
});

test('gradual unfreezing refuses an optimiser that lacks what opens', async () => {
  const model = headOnly(new SequenceClassifier(tiny(), { labels: 2 }));
  const trainer = new og.Trainer(model, {
    train: new LabelledDataset(examples),
    loss: labelledLoss,
    batchSize: 8,
    steps: 2,
    callbacks: [gradualUnfreezing({ every: 1 })],
    optimizer: (p) => new og.optim.SGD(p, { lr: 0.1 }),
  });
  await assert.rejects(async () => {
    for await (const _ of trainer.run()) void _;
  }, /Unfreeze the model before/);
});

test('slanted triangular rates', () => {
  const rate = og.schedules.slantedTriangular({ cut: 0.25, ratio: 4 });
  assertClose(
    [0, 1, 2, 5, 8].map((step) => rate(step, 8)),
    [0.25, 0.625, 1, 0.625, 0.25],
  );
});

test('embeddings learn which texts belong together', async () => {
  const pairs = Array.from({ length: 12 }, (_, i) => ({
    query: [i, (i * 5) % 16, 1],
    positive: [(i + 3) % 16, i, 2, 2],
    negatives: i % 3 === 0 ? [[15, 15]] : [],
  }));
  const model = new EmbeddingModel(tiny());
  const trainer = new og.Trainer(model, {
    train: new PairDataset(pairs),
    loss: contrastiveLoss({ temperature: 0.1, symmetric: true }),
    batchSize: 6,
    steps: 40,
    optimizer: (p) => new og.optim.AdamW(p, { lr: 5e-3 }),
  });
  const losses: number[] = [];
  for await (const event of trainer.run()) if (event.type === 'step') losses.push(event.loss);
  assert.ok(losses.at(-1)! < losses[0]! / 2, `${losses[0]} → ${losses.at(-1)}`);
});
