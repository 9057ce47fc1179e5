/** Plans of runs: memory against what a run really takes, operations against the formula, no trace left; budgets and profiles. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as og from '../../src/index.js';
import { fingerprint, tinyModel, tinyTokens } from '../helpers/tiny_run.js';

const { optim } = og;

type Options = Partial<og.TrainerOptions<og.GPT, og.Batch>>;

const config = { vocabSize: 128, context: 64, layers: 4, heads: 4, width: 64 };
const tokens = tinyTokens(12_000, 128);

function trainer(options: Options = {}, model = new og.GPT(config)): og.Trainer<og.GPT> {
  return new og.Trainer(model, {
    train: new og.TextDataset(tokens, { context: 64 }),
    batchSize: 16,
    steps: 3,
    optimizer: (parameters) => new optim.AdamW(parameters, { lr: 1e-3 }),
    clipGradNorm: 1,
    ...options,
  });
}

async function steps(run: og.Trainer<og.GPT>): Promise<og.StepEvent[]> {
  const found: og.StepEvent[] = [];
  for await (const event of run.run()) if (event.type === 'step') found.push(event);
  return found;
}

/** Bytes at the largest moment of a run, the model included. */
async function measuredPeak(run: og.Trainer<og.GPT>): Promise<number> {
  const model = run.model.parameters().reduce((bytes, parameter) => bytes + parameter.bytes, 0);
  const averages = run.ema === null ? 0 : model;
  const before = og.memory().bytes - model - averages;
  og.resetPeakMemory();
  await steps(run);
  return og.memory().peakBytes - before;
}

const muon = (_: og.Tensor[], model: og.GPT): og.optim.Muon =>
  new optim.Muon(optim.muonGroups(model, { lr: 0.01, adamLr: 1e-3 }));

const kinds: Readonly<Record<string, Options>> = {
  plain: {},
  'several batches': { gradientAccumulation: 2, batchSize: 8 },
  bfloat16: { precision: 'bfloat16' },
  'bfloat16, several batches': { precision: 'bfloat16', gradientAccumulation: 2 },
  'blocks computed again': { activationCheckpointing: true },
  averages: { ema: 0.9 },
  'one example': { batchSize: 1 },
  'eight bits': { batchSize: 2, optimizer: (parameters) => new optim.AdamW8bit(parameters) },
  muon: { batchSize: 4, optimizer: muon },
};

test('the peak that a plan tells is within 15 % of what the run takes', async () => {
  for (const [name, options] of Object.entries(kinds)) {
    const run = trainer(options);
    const { memory } = await run.plan();
    const measured = await measuredPeak(run);
    const ratio = memory.peak / measured;
    assert.ok(Math.abs(ratio - 1) < 0.15, `${name}: ${ratio}`);
    assert.ok(memory.weights + memory.optimizer < memory.peak);
    run.model.dispose();
    run.optimizer.dispose();
  }
});

test('bytes of state that every optimiser tells are those that it has after a step', () => {
  const w = og.nn.parameter(og.ones([64, 80]));
  const b = og.nn.parameter(og.ones([80]));
  const all = [
    new optim.SGD([w, b]),
    new optim.SGD([w, b], { momentum: 0.9 }),
    new optim.Adam([w, b]),
    new optim.AdamW([w, b], { amsgrad: true }),
    new optim.AdamW8bit([w, b]),
    new optim.Adamax([w, b]),
    new optim.NAdam([w, b]),
    new optim.RAdam([w, b]),
    new optim.RMSprop([w, b]),
    new optim.RMSprop([w, b], { centered: true, momentum: 0.9 }),
    new optim.Adagrad([w, b]),
    new optim.Adafactor([w, b]),
    new optim.Lion([w, b]),
    new optim.Muon([{ params: [w] }, { params: [b], useMuon: false }]),
  ];
  for (const optimizer of all) {
    w.grad = og.ones(w.shape);
    b.grad = og.ones(b.shape);
    const told = optimizer.stateBytes();
    optimizer.step();
    const held = Object.values(optimizer.stateDict().tensors).reduce((bytes, tensor) => bytes + tensor.bytes, 0);
    assert.equal(told, held, optimizer.constructor.name);
  }
});

test('operations follow the formula: 6 a parameter and token, attention besides', async () => {
  const model = new og.GPT(config);
  const plan = await trainer({}, model).plan();
  const { layers, width, context } = config;
  const matrices = model.parameters().reduce((count, { rank, size }) => count + (rank === 2 ? size : 0), 0);
  const inProducts = matrices - context * width; // positions are added, not multiplied with
  // scores and values, of which a causal mask leaves half; backward computes the scores again
  const attention = layers * 2 * 2 * context * width * 0.5;
  const least = 16 * context * (6 * inProducts + 3 * attention);
  assert.ok(plan.flops.step > least && plan.flops.step < 1.25 * least, `${plan.flops.step / least}`);
  assert.equal(plan.flops.run, 3 * plan.flops.step);
  assert.equal(plan.tokensPerStep, 16 * 64);
  assert.equal(plan.parameters, model.parameterCount());
  const again = await trainer({ activationCheckpointing: true }, model).plan();
  assert.ok(again.flops.forward === plan.flops.forward && again.flops.backward > 1.4 * plan.flops.backward);
  assert.ok(again.memory.activations < 0.4 * plan.memory.activations);
});

test('a plan changes nothing of the run, with a probe and without, in the middle and before', async () => {
  const make = (): og.Trainer<og.GPT> => {
    og.manualSeed(3);
    const valid = new og.TextDataset(tinyTokens(400), { context: 16, shift: false });
    return trainer(
      {
        train: new og.TextDataset(tinyTokens(1200), { context: 16 }),
        valid,
        steps: 8,
        precision: 'float16',
        lossScale: { growthInterval: 2 },
        ema: 0.9,
        gradientAccumulation: 2,
        batchSize: 4,
      },
      tinyModel(0.1),
    );
  };
  const plain = make();
  const expected = await steps(plain);
  const planned = make();
  planned.model.eval();
  const plan = await planned.plan({ probe: 2 });
  assert.equal(planned.model.training, false);
  await planned.plan({ probe: 1, pricePerHour: 1 });
  const got: og.StepEvent[] = [];
  for await (const event of planned.run()) {
    if (event.type !== 'step') continue;
    got.push(event);
    if (event.step === 4) await planned.plan({ probe: 1 });
  }
  const essence = (events: og.StepEvent[]): unknown => events.map(({ loss, gradNorm, lossScale }) => [loss, gradNorm, lossScale]); // prettier-ignore
  assert.deepEqual(essence(got), essence(expected));
  assert.deepEqual(await fingerprint(planned), await fingerprint(plain));
  assert.ok(plan.secondsPerStep! > 0 && plan.seconds! > 8 * plan.secondsPerStep! * 0.999);
  assert.ok(plan.flops.run > 8 * plan.flops.step);
});

test('time and cost follow from a rate; the print is legible; what cannot be is refused', async () => {
  const run = trainer();
  const plan = await run.plan({ flopsPerSecond: 1e9, pricePerHour: 3600, currency: '€' });
  assert.ok(Math.abs(plan.seconds! - plan.flops.run / 1e9) < 1e-9);
  assert.ok(Math.abs(plan.cost! - plan.seconds!) < 1e-9);
  const text = String(plan);
  for (const part of ['parameters', 'activations', 'GFLOP/s', '€', 'peak', 'MiB']) assert.ok(text.includes(part), part);
  const bare = await run.plan();
  assert.deepEqual([bare.seconds, bare.cost, bare.flopsPerSecond], [null, null, null]);
  for (const options of [{ probe: -1 }, { flopsPerSecond: 0 }, { pricePerHour: -1 }, { price: 1 }]) {
    await assert.rejects(async () => run.plan(options as object), og.AttributeError);
  }
});

test('a budget finds the least number of blocks, and the run stays below it with the same bits', async () => {
  const make = (activationCheckpointing: boolean | og.RecomputationOptions): og.Trainer<og.GPT> => {
    og.manualSeed(8);
    return trainer({ activationCheckpointing }, new og.GPT({ ...config, dropout: 0.1 }));
  };
  const without = make(false);
  const all = (await without.plan()).memory.activations;
  const expected = await steps(without);
  let before = 5;
  for (const share of [0.4, 0.6, 0.8, 1]) {
    const run = make({ share });
    const { memory, recomputedBlocks } = await run.plan();
    assert.ok(memory.activations <= share * all, `${memory.activations / all} of ${share}`);
    assert.ok(recomputedBlocks < before, `${recomputedBlocks} at ${share}`);
    before = recomputedBlocks;
    const { weights, optimizer, gradients } = memory;
    const peak = await measuredPeak(run);
    assert.ok(peak < (weights + optimizer + gradients + share * all) * 1.05);
  }
  assert.equal(before, 0);
  const budgeted = make({ budget: 0.5 * all });
  const events = await steps(budgeted);
  assert.deepEqual(events.map(({ loss }) => loss), expected.map(({ loss }) => loss)); // prettier-ignore
  assert.deepEqual(await fingerprint(budgeted), await fingerprint(without));
  assert.equal(Object.hasOwn(budgeted.model.blocks[0]!, 'forward'), false);
  await assert.rejects(() => make({ budget: 1000 }).plan(), og.ResourceError);
  await assert.rejects(async () => {
    for await (const _ of make({ share: 0.01 }).run());
  }, og.ResourceError);
  for (const wrong of [{}, { share: 0.5, budget: 5 }, { share: 2 }, { budget: 0 }, { blocks: 3 }, 'all']) {
    assert.throws(() => make(wrong as never), og.AttributeError);
  }
  const linear = {
    train: new og.TextDataset(tokens, { context: 64 }),
    batchSize: 1,
    optimizer: (p: og.Tensor[]) => new optim.SGD(p),
  };
  assert.throws(
    () => new og.Trainer(new og.nn.Linear(2, 2), { ...linear, activationCheckpointing: true }),
    og.AttributeError,
  );
});

test('steps tell where their time goes when asked', async () => {
  const run = trainer({ profile: { ceiling: 1e12 }, gradientAccumulation: 2, activationCheckpointing: true });
  const { flops } = await run.plan();
  for (const event of await steps(run)) {
    const profile = event.profile!;
    for (const phase of ['data', 'forward', 'backward', 'optimizer'] as const) assert.ok(profile[phase] > 0, phase);
    assert.ok(Math.abs(profile.flops / flops.step - 1) < 0.02, `${profile.flops / flops.step}`);
    assert.equal(profile.shareOfCeiling, profile.flopsPerSecond / 1e12);
  }
  const [plain] = await steps(trainer({ steps: 1 }));
  assert.equal(plain!.profile, undefined);
  const [measured] = await steps(trainer({ steps: 1, profile: true, batchSize: 2 }));
  assert.ok(measured!.profile!.shareOfCeiling > 0 && measured!.profile!.shareOfCeiling < 1.5);
});
