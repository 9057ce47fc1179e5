/** The ground that calibrated methods stand on: calibration data, the walk over blocks, statistics of inputs. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as og from '../../src/index.js';
import { blocksOf, walkBlocks } from '../../src/compress/block_walk.js';
import { calibrationBatches, calibrationHash, checkCalibration } from '../../src/compress/calibration.js';
import { InputStatistics, observeInputs } from '../../src/compress/input_statistics.js';
import { sitesOf } from '../../src/nn/surgery.js';

const { nn } = og;
const isLinear = (module: og.nn.Module): module is og.nn.Linear => module instanceof nn.Linear;

function tinyGpt(): og.GPT {
  const config = {
    vocabSize: 32,
    context: 16,
    layers: 2,
    heads: 2,
    width: 16,
    position: 'rope',
    activation: 'swiglu',
  } as const;
  return new og.GPT(config, { generator: og.generator(5) });
}

const idsOf = (seed: number): og.Tensor => og.randint(0, 32, [2, 8], { generator: og.generator(seed) });

function assertClose(actual: og.Tensor, expected: og.Tensor, tolerance = 1e-4): void {
  assert.deepEqual(actual.shape, expected.shape);
  const difference = og.scope(() => og.amax(og.abs(og.sub(actual, expected))).itemSync() as number);
  assert.ok(difference <= tolerance, `differs by ${difference}`);
}

test('the walk gives each block what the model gives it, changes of earlier blocks included', async () => {
  const model = tinyGpt();
  const calibration = [idsOf(1), idsOf(2)];
  assert.deepEqual(
    blocksOf(model).map(([path]) => path),
    ['blocks.0', 'blocks.1'],
  );
  const before = og.memory().tensors;
  const seen: og.Tensor[][] = [];
  for await (const { block, index, observe } of walkBlocks('test', model, calibration)) {
    const inputs: og.Tensor[] = [];
    const remove = block.registerForwardPreHook((_module, [x]) => void inputs.push(og.keep(og.clone(x as og.Tensor))));
    await observe();
    remove();
    seen.push(inputs);
    // as a method would: the block is another one afterwards
    if (index === 0) nn.init.zeros_((block as og.nn.TransformerBlock).attention.o.weight);
  }
  const remembered: og.Tensor[][] = [[], []];
  const removers = model.blocks.map((block, i) =>
    block.registerForwardPreHook((_module, [x]) => void remembered[i]!.push(og.keep(og.clone(x as og.Tensor)))),
  );
  for (const ids of calibration) og.noGrad(() => model.forward(ids)).dispose();
  removers.forEach((remove) => remove());
  for (const [i, inputs] of seen.entries()) {
    assert.equal(inputs.length, 2);
    inputs.forEach((input, j) => assertClose(input, remembered[i]![j]!, 1e-6));
  }
  for (const tensor of [...seen.flat(), ...remembered.flat()]) tensor.dispose();
  assert.equal(og.memory().tensors, before, 'the walk leaves nothing behind');
  assert.equal(model.training, true);
});

test('a model without a list of blocks is one block', async () => {
  const model = new nn.Linear(4, 3);
  const steps: string[] = [];
  for await (const { path, count, observe } of walkBlocks('test', model, [og.ones([2, 4])])) {
    await observe();
    steps.push(`${path}|${count}`);
  }
  assert.deepEqual(steps, ['|1']);
});

test('a failing caller leaves the model and the memory as they were', async () => {
  const model = tinyGpt();
  const calibration = [idsOf(1)];
  const before = og.memory().tensors;
  await assert.rejects(async () => {
    for await (const step of walkBlocks('test', model, calibration)) throw new Error(`at ${step.path}`);
  }, /at blocks.0/);
  assert.equal(og.memory().tensors, before);
  assert.ok(!Object.hasOwn(model.blocks[0]!, 'forward'));
});

test('statistics are those of all rows; layers with one input share them', async () => {
  const model = tinyGpt();
  model.eval();
  const sites = [...sitesOf(model, isLinear).values()].filter(({ path }) => path.startsWith('blocks.0'));
  const never = { path: 'never', layer: new nn.Linear(2, 2), slots: [] };
  const inputs: og.Tensor[] = [];
  const remove = model.blocks[0]!.mlp.up.registerForwardPreHook(
    (_m, [x]) => void inputs.push(og.keep(og.clone(x as og.Tensor))),
  );
  const { groups, unreached } = await observeInputs(
    [...sites, never],
    { kinds: ['gram', 'absMax', 'absSum', 'squareSum', 'max', 'min'], keepRows: true },
    async () => {
      for (const seed of [1, 2]) og.scope(() => og.noGrad(() => void model.forward(idsOf(seed))));
    },
  );
  remove();
  assert.deepEqual(
    groups.map(({ sites: of }) => of.map(({ path }) => path.replace('blocks.0.', '')).join(' ')),
    ['attention.q attention.k attention.v', 'attention.o', 'mlp.gate mlp.up', 'mlp.down'],
  );
  assert.deepEqual(
    unreached.map(({ path }) => path),
    ['never'],
  );
  const { statistics } = groups[2]!;
  const rows = og.concat(inputs.map((x) => og.reshape(x, [16, 16])));
  assert.equal(statistics.rows, 32);
  assertClose(statistics.get('gram'), og.matmul(og.transpose(rows, 0, 1), rows));
  assertClose(statistics.get('absMax'), og.amax(og.abs(rows), 0), 0);
  assertClose(statistics.get('absSum'), og.sum(og.abs(rows), 0));
  assertClose(statistics.get('squareSum'), og.sum(og.square(rows), 0));
  assertClose(statistics.get('max'), og.amax(rows, 0), 0);
  assertClose(statistics.get('min'), og.amin(rows, 0), 0);
  assertClose(og.concat(statistics.samples), rows, 0);
  assert.throws(() => new InputStatistics(['max']).get('max'), /never reached/);
  assert.throws(() => statistics.get('absmax' as 'absMax'), /not gathered/);
});

test('calibration data are chosen by a seed, and known by a hash', async () => {
  const tokens = Int32Array.from({ length: 400 }, (_, i) => i % 32);
  const dataset = new og.TextDataset(tokens, { context: 8, shift: false });
  const [a, b, c] = [1, 1, 2].map((seed) => calibrationBatches(dataset, { batches: 3, batchSize: 4, seed }));
  assert.deepEqual(
    a!.map(({ shape }) => shape),
    [[4, 8], [4, 8], [4, 8]],
  ); // prettier-ignore
  assert.equal(await calibrationHash(a!), await calibrationHash(b!));
  assert.notEqual(await calibrationHash(a!), await calibrationHash(c!));
  assert.throws(() => calibrationBatches(dataset, { batches: 30, batchSize: 4 }), /30 × 4 examples/);
  assert.throws(() => checkCalibration('quantize', []), /at least one input/);
  assert.throws(() => checkCalibration('quantize', [og.zeros([0, 4])]), /calibration\[0\].*elements/);
});
