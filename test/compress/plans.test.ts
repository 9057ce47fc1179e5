/** Plans of several kinds of steps: pruning, sparse storage, distillation and training with masks, checked before, going on after. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import {
  checkPlan,
  compress,
  describeSteps,
  Distillation,
  maskedTraining,
  prune,
  pruneStructures,
  renderCompressionReport,
  sparsify,
  studentOf,
  type CompressionEvent,
  type CompressionPlan,
  type CompressOptions,
  type ModelMeasurement,
  type TrainFunction,
} from '../../src/compress/index.js';
import { calibrationBatches } from '../../src/compress/calibration.js';
import * as og from '../../src/index.js';
import { temporaryFolders } from '../helpers/folders.js';
import { bitsOf } from '../helpers/model_bits.js';
import { tinyTokens } from '../helpers/tiny_run.js';

const folder = temporaryFolders();
const dataset = new og.TextDataset(tinyTokens(), { context: 32, shift: false });
const calibration = calibrationBatches(dataset, { batches: 2, batchSize: 8 });
const config = { vocabSize: 32, context: 32, layers: 2, heads: 2, width: 64 };
const gpt = new og.GPT(config, { generator: og.generator(7) }).eval();
const quick = { measure: false, calibration } as const;

/** Trains so many steps, with a checkpoint after every step. */
const train: TrainFunction = async (model, settings, { dir, signal, callbacks }) => {
  const trainer = new og.Trainer(model, {
    train: dataset,
    batchSize: 4,
    steps: settings['steps'] as number,
    optimizer: (parameters) => new og.optim.AdamW(parameters, { lr: 3e-3 }),
    callbacks,
    checkpoint: { dir, every: 1, keep: 1 },
  });
  for await (const event of trainer.run({ signal })) if (event.type === 'step') stepsSeen.push(event.step);
  trainer.optimizer.dispose();
};
const stepsSeen: number[] = [];

const whole: CompressionPlan = {
  name: 'semi',
  steps: [
    {
      prune: {
        pattern: '2:4',
        method: 'sparsegpt',
        overrides: [{ target: '/blocks\\.1\\.attention\\.o/', skip: true }],
      },
    },
    { finetune: { steps: 3 } },
    { sparsify: { layout: '2:4' } },
    { quantize: { scheme: 'w8a8', embeddings: 'int8' } },
  ],
};

test('2:4, fine-tuned, stored sparse and quantised: one plan, whose zeros hold', async () => {
  const dir = await folder();
  const made = await compress(gpt, whole, { ...quick, dir, train });
  const { model, card } = made;
  const { q, o } = model.blocks[1]!.attention;
  assert.ok(q instanceof og.nn.SparseLinear && q.weight.layout === '2:4' && q.values.dtype === 'int8');
  assert.ok(o instanceof og.nn.Int8Linear, 'what was not pruned is quantised as ever');
  assert.equal(model.tokens.constructor.name, 'QuantizedEmbedding');
  // the weights are those of training with masks, rounded to 8 bits with a scale a row
  const tuned = await prune(gpt, {
    pattern: '2:4',
    method: 'sparsegpt',
    calibration,
    overrides: [{ target: /1\.attention\.o/, skip: true }],
  });
  await train(
    tuned,
    { steps: 3 },
    { step: 'finetune', dir: await folder(), signal: new AbortController().signal, callbacks: [maskedTraining(tuned)] },
  );
  const [exact, rounded] = [
    tuned.blocks[0]!.mlp.up.weight,
    (model.blocks[0]!.mlp.up as unknown as og.nn.SparseLinear).weight.toDense(),
  ];
  const [a, b] = [await exact.data(), await rounded.data()] as [Float32Array, Float32Array];
  for (let row = 0; row < 4; row++) {
    const range = a.subarray(row * 64, row * 64 + 64).reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    for (let i = row * 64; i < row * 64 + 64; i++) assert.ok(Math.abs(a[i]! - b[i]!) <= range / 127 / 2 + 1e-7);
  }
  assert.equal(a.filter((value) => value === 0).length, a.length / 2);
  assert.deepEqual(describeSteps(card), [
    'prune 2:4 sparsegpt, 50 % zeros in 11 layers',
    'finetune 3 steps',
    'sparsify 2:4, 50 % left out of 11 layers',
    'quantize w8a8 rtn, embeddings int8',
  ]);
  const notes = card.steps[3]!.notes.map(({ path: name, scheme }) => [name, scheme]);
  assert.deepEqual(
    notes.find(([name]) => name === 'blocks.1.attention.o'),
    ['blocks.1.attention.o', 'w8a8'],
  );
  assert.deepEqual(
    notes.find(([name]) => name === 'blocks.0.mlp.up'),
    ['blocks.0.mlp.up', 'w8a16'],
  );
  assert.deepEqual(await bitsOf((await og.load(dir)).model), await bitsOf(model));
});

/** Stops after so many notes or steps of training, as often as it takes. */
async function inPieces(
  plan: CompressionPlan,
  options: CompressOptions,
  every: number,
): Promise<{ bits: unknown; attempts: number; card: unknown }> {
  for (let attempts = 1; ; attempts++) {
    assert.ok(attempts < 40, 'goes on');
    const stop = new AbortController();
    let done = 0;
    const count = (): void => void (++done === every && stop.abort(new Error('pulled the plug')));
    const onEvent = ({ type }: CompressionEvent): void => void (type === 'note' && count());
    const counting: TrainFunction = (model, settings, context) => {
      const callback = {
        name: 'count',
        afterStep: count,
        onGradients() {},
        stateDict: () => ({}),
        loadStateDict() {},
        dispose() {},
      };
      return train(model, settings, { ...context, callbacks: [...context.callbacks, callback] });
    };
    const result = await compress(gpt, plan, { ...options, train: counting, onEvent, signal: stop.signal }).catch(
      (error: Error) => error,
    );
    if (!(result instanceof Error)) return { bits: await bitsOf(result.model), attempts, card: result.card.steps };
    assert.equal(result.message, 'pulled the plug');
  }
}

test(
  'interrupted at layers and at steps of training, it goes on and gives the same bits',
  { timeout: 60_000 },
  async () => {
    const plans: CompressionPlan[] = [
      whole,
      { steps: [{ prune: { pattern: { sparsity: 0.6 }, method: 'wanda' } }, { finetune: { steps: 2 } }] },
      {
        steps: [
          { prune: { pattern: { sparsity: 0.5, scope: 'global', block: 16 } } },
          { sparsify: { layout: 'block', values: 'int8' } },
        ],
      },
      {
        steps: [
          { prune: { heads: 1, neurons: 0.5, importance: 'taylor' } },
          { distill: { layers: 1, train: { steps: 3 }, hidden: {} } },
        ],
      },
    ];
    for (const plan of plans) {
      const expected = await compress(gpt, plan, { ...quick, dir: await folder(), train });
      const pieces = await inPieces(plan, { ...quick, dir: await folder() }, 5);
      assert.deepEqual(pieces.bits, await bitsOf(expected.model));
      assert.deepEqual(pieces.card, JSON.parse(JSON.stringify(expected.card.steps)));
      assert.ok(pieces.attempts > 1);
    }
  },
);

test('distill trains some of the layers, or a pruned model, on the predictions of the original', async () => {
  const seen: unknown[] = [];
  const spy: TrainFunction = async (model, settings, context) => {
    assert.ok(model instanceof Distillation);
    seen.push(settings, context.step, await bitsOf(model.student), model.alpha, model.choice.temperature);
    await train(model, settings, context);
  };
  const plan = {
    name: 'small',
    steps: [{ distill: { layers: [1], temperature: 3, alpha: 0.25, train: { steps: 2 } } }],
  };
  const dir = await folder();
  const before = await bitsOf(gpt);
  const { model, card } = await compress(gpt, plan, { ...quick, dir, train: spy });
  assert.deepEqual(seen, [{ steps: 2 }, 'distill', await bitsOf(studentOf(gpt, [1])), 0.25, 3]);
  assert.deepEqual(await bitsOf(gpt), before);
  assert.equal(model.blocks.length, 1);
  assert.deepEqual(card.steps[0]!.notes, [
    {
      layers: [1],
      student: model.parameterCount(),
      teacher: gpt.parameterCount(),
      alpha: 0.25,
      divergence: 'forward',
      temperature: 3,
    },
  ]);
  // it learns what the Trainer would teach it, by hand
  const student = studentOf(gpt, [1]);
  const module = new Distillation({ student, teacher: gpt, temperature: 3, alpha: 0.25 });
  await train(
    module,
    { steps: 2 },
    { step: 'distill', dir: await folder(), signal: new AbortController().signal, callbacks: [] },
  );
  assert.deepEqual(await bitsOf(model), await bitsOf(student));
  // a pruned student keeps its zeros while it learns
  const sparse = { steps: [{ prune: { pattern: { sparsity: 0.5 } } }, { distill: { train: { steps: 2 } } }] } as const;
  const made = await compress(gpt, sparse, { ...quick, dir: await folder(), train });
  const weight = (await made.model.blocks[0]!.mlp.up.weight.data()) as Float32Array;
  assert.equal(weight.filter((value) => value === 0).length, weight.length / 2);
});

test('structures go as pruneStructures takes them; later steps are checked against what is left', async () => {
  const settings = { heads: 1, neurons: 0.25, layers: 1, importance: 'activation' } as const;
  const { model, card } = await compress(gpt, { steps: [{ prune: settings }] }, { ...quick, dir: await folder() });
  const expected = await pruneStructures(gpt, { ...settings, calibration });
  assert.deepEqual(await bitsOf(model), await bitsOf(expected));
  const share = ((100 * expected.parameterCount()) / gpt.parameterCount()).toFixed(0);
  assert.deepEqual(describeSteps(card), [`prune 1 head, 64 neurons, 1 layer, ${share} % of the parameters left`]);
  const dir = path.join(await folder(), 'none');
  const run = (...steps: CompressionPlan['steps']): Promise<unknown> =>
    compress(gpt, { steps }, { ...quick, dir, train });
  await assert.rejects(
    run({ prune: { neurons: 20 } }, { quantize: { scheme: 'w4a16', groupSize: 64 } }),
    /236 inputs of blocks\.0\.mlp\.down/,
  );
  await assert.rejects(run({ prune: { layers: 1 } }, { sparsify: {} }), /no pruned layer/);
  await assert.rejects(run({ prune: { layers: 1 } }, { distill: { layers: 2 } }), /layers.*1/s);
  assert.equal(existsSync(dir), false);
});

test('settings of every step are checked before any work', async () => {
  const refuses = (step: object, pattern: RegExp): void =>
    void assert.throws(() => checkPlan({ steps: [step] }), pattern);
  refuses({ prun: { pattern: '2:4' } }, /Did you mean prune/);
  refuses({ prune: { patern: '2:4' } }, /steps\[0\]\.prune.*Did you mean pattern/s);
  refuses({ prune: {} }, /pattern/);
  refuses({ prune: { pattern: '4:2' } }, /n:m/);
  refuses({ prune: { pattern: { sparsity: 0.5, blok: 16 } } }, /Did you mean block/);
  refuses({ prune: { pattern: { threshold: 0.1 }, method: 'wanda' } }, /threshold/);
  refuses({ prune: { pattern: '2:4', heads: 1 } }, /pattern beside heads/);
  refuses({ prune: { heads: -1 } }, /heads/);
  refuses({ prune: { layers: 'all' } }, /layers/);
  refuses({ prune: { heads: 1, importance: 'tailor' } }, /taylor/);
  refuses(
    { prune: { pattern: '2:4', overrides: [{ target: 'up', metod: 'wanda' }] } },
    /overrides\[0\].*Did you mean method/s,
  );
  refuses({ sparsify: { layout: 'coo' } }, /csr/);
  refuses({ sparsify: { value: 'int8' } }, /Did you mean values/);
  refuses({ distill: { layer: 1 } }, /Did you mean layers/);
  refuses({ distill: { layers: [1, 0] } }, /in order/);
  refuses({ distill: { alpha: 2 } }, /alpha/);
  refuses({ distill: { divergence: 'backward' } }, /reverse/);
  refuses({ distill: { hidden: { wieght: 1 } } }, /Did you mean weight/);
  refuses({ distill: { train: 3 } }, /train/);
  refuses({ quantize: { scheme: 'w8a8', embedings: 'int8' } }, /Did you mean embeddings/);

  const dir = path.join(await folder(), 'none');
  const run = (steps: CompressionPlan['steps'], options: object = {}): Promise<unknown> =>
    compress(gpt, { steps }, { ...quick, dir, train, ...options });
  const pruned = { prune: { pattern: '2:4' } };
  await assert.rejects(run([{ prune: { pattern: '2:4', target: '/mpl/' } }]), /mlp\.up/);
  await assert.rejects(run([{ prune: { pattern: '3:5' } }]), /multiple of 5/);
  await assert.rejects(
    run([{ prune: { pattern: { sparsity: 0.5, block: 16 } } }, { sparsify: { layout: '2:4' } }]),
    /block or csr/,
  );
  await assert.rejects(run([pruned, { sparsify: { layout: 'block' } }]), /2:4 or csr/);
  await assert.rejects(run([{ sparsify: {} }]), /Prune it first/);
  await assert.rejects(run([pruned, { sparsify: { embeddings: 'int3' } }]), /embeddings: expected.*bfloat16/);
  await assert.rejects(
    run([pruned, { sparsify: { embeddings: 'int8' } }, { quantize: { scheme: 'w8a16', embeddings: 'int8' } }]),
    /a model with embeddings/,
  );
  await assert.rejects(run([pruned, pruned]), /pruned yet/);
  await assert.rejects(
    run([pruned, { sparsify: { layout: 'csr' } }, { quantize: { scheme: 'w4a16' } }]),
    /w8a8 or w8a16.*sparse/,
  );
  await assert.rejects(run([pruned, { quantize: { scheme: 'w8a16' } }, { sparsify: {} }]), /quantised already/);
  await assert.rejects(
    run([{ prune: { pattern: '2:4', method: 'wanda' } }], { calibration: undefined }),
    /steps\[0\], prune/,
  );
  await assert.rejects(
    run([{ prune: { heads: 1, importance: 'taylor' } }], { calibration: undefined }),
    /steps\[0\], prune/,
  );
  await assert.rejects(run([{ distill: { layers: 1 } }], { train: undefined }), /trains, for the distill step/);
  await assert.rejects(run([{ distill: {} }]), /fewer layers than the teacher/);
  await assert.rejects(run([{ distill: { layers: 3 } }]), /layers/);
  await assert.rejects(run([pruned, { distill: { hidden: { layers: [[9, 1]] } } }]), /hidden/);
  await assert.rejects(run([pruned], { train: 3 }), /train.*a function/);
  assert.equal(existsSync(dir), false, 'nothing was written');
});

test('a training that fills the zeros is refused', async () => {
  const forgetful: TrainFunction = (model, settings, context) => train(model, settings, { ...context, callbacks: [] });
  const plan = { steps: [{ prune: { pattern: '2:4' } }, { finetune: { steps: 1 } }] } as const;
  await assert.rejects(
    compress(gpt, plan, { ...quick, dir: await folder(), train: forgetful }),
    /blocks\.0.*Pass the callbacks/s,
  );
});

test('sparse layers take 8-bit codes in every layout', async () => {
  for (const [pattern, layout] of [
    ['2:4', '2:4'],
    [{ sparsity: 0.7 }, 'csr'],
    [{ sparsity: 0.5, block: 16 }, 'block'],
  ] as const) {
    const sparse = await sparsify(await prune(gpt, { pattern }), { layout });
    const { model } = await compress(
      sparse,
      { steps: [{ quantize: { scheme: 'w8a16' } }] },
      { measure: false, dir: await folder() },
    );
    const codes = await sparsify(await prune(gpt, { pattern }), { layout, values: 'int8' });
    assert.deepEqual(await bitsOf(model), await bitsOf(codes), layout);
    const x = og.randint(0, 32, [1, 8], { generator: og.generator(1) });
    const [a, b] = [await sparse.forward(x).data(), await model.forward(x).data()] as [Float32Array, Float32Array];
    assert.ok(a.every((value, i) => Math.abs(value - b[i]!) < 0.05));
  }
});

test('the page tells what was done', async () => {
  const steps = [
    { prune: { pattern: '2:4', method: 'wanda' } },
    { sparsify: { layout: '2:4', values: 'int8', embeddings: 'int8' } },
  ] as const;
  const { card } = await compress(gpt, { name: 'semi', steps }, { ...quick, dir: await folder() });
  const how = [
    'prune 2:4 wanda, 50 % zeros in 12 layers',
    'sparsify 2:4 int8, 50 % left out of 12 layers, embeddings int8',
  ];
  assert.deepEqual(describeSteps(card), how);
  const latency = { p50: 1, p95: 1 };
  const after: ModelMeasurement = {
    perplexity: 3,
    metrics: {},
    bytes: 1e6,
    memory: { resident: 1e8, without: 9e7, peak: 1e8 },
    speed: { promptTokens: 8, newTokens: 4, runs: 1, prefill: 9, decode: 9, firstToken: latency, nextToken: latency },
    cost: { input: 1, output: 1 },
  };
  const page = await renderCompressionReport([{ ...card, after }]);
  assert.ok(page.includes(how.join('; then ')), 'in a table');
  assert.ok(page.includes(`<title>semi\n${how.join('\n')}</title>`), 'in the chart');
  assert.ok(page.includes(`<h3>2. ${how[1]}</h3>`), 'on the card');
});
