/** Zeros in training: fixed masks, gradual and movement pruning, what files keep, and pruned layers on sparse kernels. */
import assert from 'node:assert/strict';
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import {
  calibrationBatches,
  cubicSparsity,
  gradualPruning,
  maskedTraining,
  movementPruning,
  prune,
  quantize,
  sparsify,
  type SparsifiedLayerReport,
} from '../../../src/compress/index.js';
import * as og from '../../../src/index.js';
import { tinyDataset, tinyLoss, trainTiny, trainedTiny } from '../../helpers/trained_tiny.js';

const { nn } = og;
const folder = await mkdtemp(join(tmpdir(), 'omnigrad-prune-'));
after(() => rm(folder, { recursive: true, force: true }));
const trained = await trainedTiny();
const calibration = calibrationBatches(tinyDataset, { batches: 4, batchSize: 8 });

const linears = (model: og.nn.Module): [string, og.nn.Linear][] =>
  [...model.namedModules()].filter((entry): entry is [string, og.nn.Linear] => entry[1] instanceof nn.Linear);
const zerosIn = (x: og.Tensor): number =>
  og.scope(() => og.mean(og.to(og.eq(og.detach(x), 0), 'float32')).itemSync() as number);
/** Places of zeros of all linear layers, as text. */
const zeroPlaces = (model: og.nn.Module): string =>
  linears(model)
    .map(
      ([path, { weight }]) =>
        `${path} ${og.scope(() => Buffer.from(og.eq(og.detach(weight), 0).dataSync() as Uint8Array).toString('base64'))}`,
    ) // prettier-ignore
    .join('\n');
const bytesOf = async (name: string): Promise<number> => (await stat(join(folder, name, 'model.safetensors'))).size;

test('masks survive fine-tuning, saving, loading and more fine-tuning; the loss recovers', async () => {
  const half = await prune(trained, { pattern: { sparsity: 0.7 }, method: 'sparsegpt', calibration });
  const [places, before] = [zeroPlaces(half), tinyLoss(half)];
  const callbacks = [maskedTraining(half)];
  await trainTiny(half, { steps: 20, callbacks });
  assert.equal(zeroPlaces(half), places);
  assert.ok(tinyLoss(half) < before - 0.02, `${tinyLoss(half)} after ${before}`);
  await og.saveModel(join(folder, 'masked'), half);
  const { model } = await og.load(join(folder, 'masked'));
  assert.equal(zeroPlaces(model), places);
  assert.equal(tinyLoss(model), tinyLoss(half));
  assert.deepEqual(new Set(linears(model).map(([, { pruned }]) => pruned)), new Set(['unstructured']));
  // an optimiser that moves weights without a gradient
  const optimizer = (parameters: og.Tensor[]): og.optim.SGD =>
    new og.optim.SGD(parameters, { lr: 0.05, momentum: 0.9 });
  await trainTiny(model, { steps: 5, optimizer, callbacks: [maskedTraining(model)] });
  assert.equal(zeroPlaces(model), places);
  await trainTiny(model, { steps: 1 });
  assert.notEqual(zeroPlaces(model), places, 'without the callback they do not');
});

test('gradual pruning follows the cubic schedule, never gives back, and resumes where it was', async () => {
  const schedule = { sparsity: 0.8, begin: 3, end: 15, every: 3 };
  const run = async (steps: number[], dir: string): Promise<{ model: og.GPT; shares: number[] }> => {
    let model = og.cloneModel(trained);
    const shares: number[] = [];
    let dropped: og.Tensor | null = null;
    for (const limit of steps) {
      model = og.cloneModel(trained);
      const stop = new AbortController();
      const trainer = new og.Trainer(model, {
        train: tinyDataset,
        batchSize: 8,
        steps: 20,
        optimizer: (parameters) => new og.optim.AdamW(parameters, { lr: 1e-3 }),
        callbacks: [gradualPruning(model, schedule)],
        checkpoint: { dir: join(folder, dir), every: 100 },
      });
      for await (const event of trainer.run({ signal: stop.signal })) {
        if (event.type !== 'step') continue;
        const { weight } = model.blocks[0]!.mlp.up;
        shares.push(zerosIn(weight));
        const now = og.scope(() => og.eq(og.detach(weight), 0));
        if (dropped !== null && limit === steps[0])
          assert.ok(
            og.scope(() => og.all(og.logicalOr(og.logicalNot(dropped!), now)).itemSync()),
            `step ${event.step}`,
          );
        dropped = now;
        if (event.step === limit) stop.abort();
      }
    }
    return { model, shares };
  };
  const whole = await run([20], 'whole');
  assert.equal(whole.shares.length, 20);
  for (const [i, share] of whole.shares.entries())
    assert.ok(Math.abs(share - cubicSparsity(i + 1, schedule)) < 1e-3, `step ${i + 1}: ${share}`);
  const parts = await run([7, 20], 'parts');
  assert.deepEqual(parts.shares, whole.shares);
  assert.equal(zeroPlaces(parts.model), zeroPlaces(whole.model));
  assert.equal(tinyLoss(parts.model), tinyLoss(whole.model));
  assert.equal(parts.model.blocks[1]!.attention.o.pruned, 'unstructured');
  const blocks = og.cloneModel(trained);
  await trainTiny(blocks, { steps: 4, callbacks: [gradualPruning(blocks, { sparsity: 0.5, end: 3, block: 16, scope: 'global' })] }); // prettier-ignore
  assert.equal(blocks.blocks[0]!.mlp.up.pruned, 'block:16');
});

test('moving averages drop what gradual pruning drops', async () => {
  const model = og.cloneModel(trained);
  const trainer = new og.Trainer(model, {
    train: tinyDataset,
    batchSize: 8,
    steps: 8,
    ema: 0.9,
    optimizer: (parameters) => new og.optim.AdamW(parameters, { lr: 1e-3 }),
    callbacks: [gradualPruning(model, { sparsity: 0.7, begin: 1, end: 6 })],
  });
  for await (const _ of trainer.run());
  const places = zeroPlaces(model);
  const { weight } = model.blocks[0]!.mlp.up;
  const before = og.scope(() => og.clone(og.detach(weight)).toArraySync());
  trainer.ema!.apply();
  assert.equal(zeroPlaces(model), places);
  assert.notDeepEqual(weight.toArraySync(), before, 'the averages are others than the weights');
  trainer.ema!.restore();
});

for (const mode of ['topv', 'threshold'] as const) {
  test(`movement pruning (${mode}) trains scores beside weights and ends in plain pruned layers`, async () => {
    const model = og.cloneModel(trained);
    const movement = movementPruning(model, { sparsity: 0.6, begin: 2, end: 20, mode, target: /mlp/, ...(mode === 'threshold' ? { strength: 20 } : {}) }); // prettier-ignore
    assert.equal(movement.scores.length, 4);
    await trainTiny(model, {
      steps: 30,
      optimizer: (parameters) => {
        const params = parameters.filter((parameter) => !movement.scores.includes(parameter));
        const scores = { params: [...movement.scores], lr: 0.02, weightDecay: 0 };
        return new og.optim.AdamW([{ params }, scores], { lr: 1e-3 });
      },
      loss: movement.withPenalty((of: og.GPT, { x, y }: og.TextBatch) => of.loss(x, y)),
      callbacks: [movement.callback],
    });
    await assert.rejects(og.saveModel(join(folder, 'never'), model), /MovementLinear/);
    const before = tinyLoss(model);
    assert.equal(movement.finish(), model);
    const shares = linears(model).filter(([path]) => path.includes('mlp')).map(([, { weight }]) => zerosIn(weight)); // prettier-ignore
    if (mode === 'topv')
      assert.ok(
        shares.every((share) => Math.abs(share - 0.6) < 1e-3),
        shares.join(),
      );
    else
      assert.ok(
        shares.every((share) => share > 0.2 && share < 1),
        shares.join(),
      );
    assert.ok(Math.abs(tinyLoss(model) - before) < 0.1);
    const places = zeroPlaces(model);
    await og.saveModel(join(folder, 'moved'), model);
    const { model: loaded } = await og.load(join(folder, 'moved'));
    assert.equal(zeroPlaces(loaded), places);
  });
}

test('pruned layers run on sparse kernels, and are smaller on disk', async () => {
  await og.saveModel(join(folder, 'dense'), trained);
  const cases = [['2:4', '2:4'], [{ sparsity: 0.75, block: 16 }, 'block'], [{ sparsity: 0.9 }, 'csr']] as const; // prettier-ignore
  for (const [pattern, layout] of cases) {
    const made = await prune(trained, { pattern, method: 'sparsegpt', calibration });
    for (const values of ['float32', 'int8'] as const) {
      const reports: SparsifiedLayerReport[] = [];
      const sparse = await sparsify(made, { layout, values, onLayer: (report) => reports.push(report) });
      assert.deepEqual(new Set(reports.map((report) => report.layout)), new Set([layout]));
      assert.ok(sparse.blocks[0]!.mlp.up instanceof (nn.SparseLinear as unknown as typeof nn.Linear));
      const far = Math.abs(tinyLoss(sparse) - tinyLoss(made));
      assert.ok(far < (values === 'int8' ? 0.05 : 1e-4), `${layout} ${values}: ${far}`);
      const name = `${layout.replace(':', '')}_${values}`;
      await og.saveModel(join(folder, name), sparse);
      assert.ok((await bytesOf(name)) < (await bytesOf('dense')) * 0.75, `${name}: ${await bytesOf(name)}`);
      if (values === 'int8') assert.ok((await bytesOf(name)) < (await bytesOf(`${name.slice(0, -5)}_float32`.replace('__', '_')))); // prettier-ignore
      const { model } = await og.load(join(folder, name));
      assert.equal(tinyLoss(model), tinyLoss(sparse));
      if (values === 'float32') await trainTiny(model, { steps: 2 }); // kept values are parameters
    }
  }
});

for (const embeddings of ['int8', 'bfloat16'] as const) {
  test(`sparse layers beside a token table in ${embeddings}`, async () => {
    const pruned = await prune(trained, { pattern: '2:4' });
    const plain = await sparsify(pruned, { layout: '2:4' });
    const small = await sparsify(pruned, { layout: '2:4', embeddings });
    const tokens = small.tokens as unknown as og.nn.QuantizedEmbedding;
    assert.ok(tokens instanceof nn.QuantizedEmbedding);
    assert.equal(tokens.codes.dtype, embeddings);
    const same = await quantize(plain, { scheme: 'w8a16', embeddings });
    const { codes } = same.tokens as unknown as og.nn.QuantizedEmbedding;
    assert.deepEqual(tokens.codes.dataSync(), codes.dataSync(), 'the table of quantize');
    const far = Math.abs(tinyLoss(small) - tinyLoss(plain));
    assert.ok(far > 0 && far < 0.01, `${far}`);
    for (const [name, model] of Object.entries({ plain, small })) await og.saveModel(join(folder, `${name}_${embeddings}`), model); // prettier-ignore
    const saved = (await bytesOf(`plain_${embeddings}`)) - (await bytesOf(`small_${embeddings}`));
    const tables = [...trained.namedModules()].flatMap(([, part]) => (part instanceof nn.Embedding ? [part] : []));
    const share = saved / tables.reduce((sum, { weight }) => sum + 4 * weight.size, 0);
    assert.ok(Math.abs(share - (embeddings === 'int8' ? 0.73 : 0.5)) < 0.03, `${share} of the tables is saved`);
    const { model } = await og.load(join(folder, `small_${embeddings}`));
    assert.equal(tinyLoss(model), tinyLoss(small));
    assert.ok(model.tokens.constructor === nn.QuantizedEmbedding);
    assert.ok(pruned.tokens instanceof nn.Embedding, 'the model that was given keeps its table');
  });
}

test('auto takes what pays by the measured table, and leaves the rest dense', async () => {
  const semi = await prune(trained, {
    pattern: '2:4',
    overrides: [{ target: /attention/, pattern: { sparsity: 0.3 } }],
  });
  const seen: Record<string, string> = {};
  const sparse = await sparsify(semi, { rows: 1, onLayer: ({ path, layout }) => void (seen[path] = layout) });
  const size = { m: 1, n: 256, k: 64, sparsity: 0.5, layouts: ['2:4', 'csr'] } as const;
  assert.equal(seen['blocks.0.mlp.up'], og.chooseLayout(size));
  assert.equal(seen['blocks.0.mlp.up'], '2:4');
  assert.equal(seen['blocks.0.attention.q'], 'dense');
  assert.ok(sparse.blocks[0]!.attention.q instanceof nn.Linear);
  await assert.rejects(sparsify(trained), /no pruned layer/);
  await assert.rejects(sparsify(semi, { layout: 'block' }), /csr for blocks\.0\.attention\.q/);
  await assert.rejects(sparsify(semi, { layout: '2:4', target: /attention/ }), /pruned as unstructured/);
  await assert.rejects(sparsify(semi, { rows: 0 }), /rows/);
  await assert.rejects(sparsify(semi, { values: 'int4' as 'int8' }), /int8/);
  await assert.rejects(sparsify(semi, { embeddings: 'int3' as 'int8' }), /embeddings: expected.*bfloat16/);
});

test('callbacks refuse what cannot be', () => {
  assert.throws(() => maskedTraining(trained), /no pruned layer/);
  assert.throws(() => gradualPruning(trained, { sparsity: 0.5, begin: 5, end: 5 }), /end/);
  assert.throws(() => gradualPruning(trained, { sparsity: 1.5, end: 5 }), /sparsity/);
  assert.throws(() => gradualPruning(trained, { sparsity: 0.5, initialSparsity: 0.6, end: 5 }), /initialSparsity/);
  assert.throws(() => gradualPruning(trained, { sparsity: 0.5, end: 5, every: 9 }), /every/);
  assert.throws(() => gradualPruning(trained, { sparsity: 0.5, end: 5, target: 'mpl' }), /mlp\.up/);
  assert.throws(() => movementPruning(trained, { sparsity: 0.5, end: 5, strength: 2 }), /threshold/);
  const pruned = og.cloneModel(trained);
  pruned.blocks[0]!.mlp.up.pruned = '2:4';
  assert.throws(() => gradualPruning(pruned, { sparsity: 0.5, end: 5 }), /mlp\.up is \(2:4\)/);
  assert.throws(() => movementPruning(pruned, { sparsity: 0.5, end: 5 }), /mlp\.up is \(2:4\)/);
});
