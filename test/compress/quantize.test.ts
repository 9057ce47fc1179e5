/** quantize(model, …): which layers become what, how close the model stays, and what is refused before any work. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { calibrationBatches, prune, quantize, type QuantizedLayerReport } from '../../src/compress/index.js';
import * as og from '../../src/index.js';
import { tinyTokens } from '../helpers/tiny_run.js';

const { nn } = og;
const dataset = new og.TextDataset(tinyTokens(), { context: 32, shift: false });
const calibration = calibrationBatches(dataset, { batches: 4, batchSize: 8 });

function makeModel(): og.GPT {
  const config = { vocabSize: 32, context: 32, layers: 2, heads: 2, width: 64 };
  return new og.GPT(config, { generator: og.generator(7) });
}

/** A model that has learnt something, so that its weights and activations are not noise. */
const trained = await (async () => {
  const model = makeModel();
  const trainer = new og.Trainer(model, {
    train: dataset,
    batchSize: 16,
    steps: 60,
    optimizer: (parameters) => new og.optim.AdamW(parameters, { lr: 3e-3 }),
  });
  for await (const _ of trainer.run());
  return model.eval();
})();

const ids = og.tensor(
  Array.from({ length: 4 }, (_, i) => [...tinyTokens().slice(100 * i, 100 * i + 32)]),
  { dtype: 'int32' },
);
const logits = (model: og.GPT): og.Tensor => og.noGrad(() => model.eval().forward(ids));
const reference = logits(trained);
/** ‖difference‖² / ‖reference‖². */
const distance = (model: og.GPT): number =>
  og.scope(() => {
    const lost = og.sum(og.square(og.sub(logits(model), reference)));
    return og.div(lost, og.sum(og.square(reference))).itemSync() as number;
  });
const kindsOf = (model: og.GPT): Record<string, string> =>
  Object.fromEntries(
    [...model.namedModules()]
      .filter(([path]) => /\.(q|k|v|o|up|down)$/.test(path))
      .map(([path, module]) => [path.replace('blocks.', ''), module.constructor.name]),
  );

test('every scheme gives layers of its kind, near the original, in a copy', async () => {
  assert.equal(distance(trained), 0); // weights that are met again are packed; that stays
  const before = og.memory().tensors;
  const bounds = { w8a8: 1e-3, w8a16: 1e-4, w4a16: 3e-2, w4a8: 3e-2, nf4: 3e-2 } as const;
  for (const [scheme, bound] of Object.entries(bounds)) {
    const reports: QuantizedLayerReport[] = [];
    const made = await quantize(trained, {
      scheme: scheme as keyof typeof bounds,
      onLayer: (report) => reports.push(report),
    });
    const kinds = new Set(Object.values(kindsOf(made)));
    assert.deepEqual([...kinds], [scheme === 'w8a8' ? 'Int8Linear' : 'QuantizedLinear']);
    const far = distance(made);
    assert.ok(far > 0 && far < bound, `${scheme}: ${far}`);
    assert.equal(reports.length, 12);
    const share = reports[0]!.bytesAfter / reports[0]!.bytesBefore;
    assert.ok(share < (scheme.startsWith('w8') ? 0.3 : 0.2), `${scheme}: ${share} of the bytes`);
    assert.equal(made.head, null);
    made.dispose();
  }
  assert.deepEqual(new Set(Object.values(kindsOf(trained))), new Set(['Linear']));
  assert.equal(distance(trained), 0);
  assert.ok(og.memory().tensors <= before, 'nothing is left behind');
});

test('GPTQ loses less than rounding to nearest, layer by layer and in the end', async () => {
  const errors: Record<string, number>[] = [];
  const far: number[] = [];
  for (const method of ['rtn', 'gptq'] as const) {
    const found: Record<string, number> = {};
    const onLayer = ({ path, outputError }: QuantizedLayerReport): void => void (found[path] = outputError!);
    const made = await quantize(trained, { scheme: 'w4a16', groupSize: 64, method, calibration, onLayer });
    errors.push(found);
    far.push(distance(made));
    made.dispose();
  }
  for (const [path, error] of Object.entries(errors[1]!))
    assert.ok(error < 0.9 * errors[0]![path]!, `${path}: ${error}`);
  assert.ok(far[1]! < 0.7 * far[0]!, `${far[1]} against ${far[0]}`);
});

test('overrides choose by path, later ones win; the output layer joins when it is named', async () => {
  const made = await quantize(trained, {
    scheme: 'w4a16',
    overrides: [
      { target: /attention/, scheme: 'w8a8' },
      { target: /blocks\.1/, skip: true },
      { target: 'blocks.1.mlp.down', groupSize: 128, affine: true },
    ],
  });
  const kinds = kindsOf(made);
  assert.equal(kinds['0.attention.q'], 'Int8Linear');
  assert.equal(kinds['0.mlp.up'], 'QuantizedLinear');
  assert.equal(kinds['1.mlp.up'], 'Linear');
  const down = made.blocks[1]!.mlp.down as unknown as og.nn.QuantizedLinear;
  assert.deepEqual([down.format.groupSize, down.format.scheme], [128, 'affine']);
  made.dispose();
  const config = { vocabSize: 32, context: 8, layers: 1, heads: 2, width: 32, tieEmbeddings: false } as const;
  const untied = new og.GPT(config);
  const [batch] = calibration;
  const short = [og.narrow(batch!, 1, 0, 8)];
  const all = await quantize(untied, { scheme: 'w8a16', method: 'gptq', calibration: short, target: /./ });
  assert.ok((all.head as og.nn.Module | null) instanceof nn.QuantizedLinear);
});

test('in place, and any module', async () => {
  const model = new nn.Sequential(new nn.Linear(32, 16), new nn.Linear(16, 8));
  const x = og.randn([20, 32], { generator: og.generator(1) });
  const want = og.noGrad(() => model.forward(x));
  const same = await quantize(model, { scheme: 'w8a16', method: 'gptq', calibration: [x], inPlace: true });
  assert.equal(same, model);
  const far = og
    .amax(
      og.abs(
        og.sub(
          og.noGrad(() => model.forward(x)),
          want,
        ),
      ),
    )
    .itemSync() as number;
  assert.ok(model.layers.every((layer) => layer instanceof nn.QuantizedLinear) && far < 0.02);
  await assert.rejects(quantize(new nn.Sequential(new nn.Linear(4, 4)), { scheme: 'w8a16' }), /GPT/);
});

test('what cannot be is refused before any work, by name', async () => {
  const refuses = (options: object, pattern: RegExp): Promise<void> =>
    assert.rejects(quantize(trained, { scheme: 'w4a16', ...options } as never), pattern);
  await refuses({ scheme: 'w4a4' }, /w4a4/);
  await refuses({ groupsize: 32 }, /groupSize/);
  await refuses({ groupSize: 48 }, /64 inputs of blocks\.0\.attention\.q.*Use 32 or 64/s);
  await refuses({ target: 'mpl' }, /mlp\.up/);
  await refuses({ overrides: [{ target: 'mpl', skip: true }] }, /mlp\.up/);
  await refuses({ overrides: [{ target: /./, skip: true }] }, /all are skipped/);
  await refuses({ overrides: [{ target: 'up', bits: 3 }] }, /bits/);
  await refuses({ method: 'gptq' }, /calibration/);
  await refuses({ method: 'gptq', calibration: [] }, /at least one input/);
  await refuses({ scheme: 'w8a8', groupSize: 32 }, /w8a8/);
  await refuses({ scheme: 'nf4', method: 'gptq' }, /nf4/);
  await refuses({ method: 'smoothquant' }, /w8a8/);
  const done = await quantize(trained, { scheme: 'w8a16' });
  await assert.rejects(quantize(done, { scheme: 'w8a16' }), /quantised already/);
  const broken = og.cloneModel(trained);
  og.noGrad(() => og.copy_(og.narrow(broken.blocks[1]!.mlp.up.weight, 0, 3, 1), og.tensor(NaN)));
  await assert.rejects(quantize(broken, { scheme: 'w8a16' }), /blocks\.1\.mlp\.up\.weight.*finite/s);
  const idle = Object.assign(new nn.Sequential(new nn.Linear(8, 8)), { spare: new nn.Linear(8, 8) });
  const unreached = quantize(idle, { scheme: 'w8a16', method: 'gptq', calibration: [og.randn([4, 8])], inPlace: true });
  await assert.rejects(unreached, /spare never ran/);
  const stopped = quantize(trained, { scheme: 'w8a16', signal: AbortSignal.abort(new Error('enough')) });
  await assert.rejects(stopped, /enough/);
});

test('GPTQ leaves the zeros of a pruned layer, and still loses less than rounding to nearest', async () => {
  const zeros = (weight: og.Tensor): og.Tensor => og.eq(og.detach(weight), 0);
  const pruned = await prune(trained, { pattern: '2:4' });
  for (const options of [{ actOrder: true }, { actOrder: false }, { affine: true }, { scheme: 'w8a8' as const }]) {
    const errorOf = async (method: 'rtn' | 'gptq'): Promise<number> => {
      let sum = 0;
      const onLayer = ({ outputError }: QuantizedLayerReport): void => void (sum += outputError!);
      const made = await quantize(pruned, { scheme: 'w4a16', method, calibration, onLayer, ...options });
      const layers = new Map(made.namedModules());
      for (const [path, layer] of pruned.namedModules()) {
        if (!(layer instanceof nn.Linear) || layer.pruned === null) continue;
        const { weight } = layers.get(path) as og.nn.Int8Linear | og.nn.QuantizedLinear;
        const filled = og.logicalAnd(zeros(layer.weight), og.ne(og.dequantize(weight), 0));
        assert.equal(og.sum(og.to(filled, 'float32')).itemSync(), 0, `${path} ${JSON.stringify(options)}`);
      }
      return sum;
    };
    const [nearest, gptq] = [await errorOf('rtn'), await errorOf('gptq')];
    assert.ok(gptq < 0.95 * nearest, `${gptq} against ${nearest}, ${JSON.stringify(options)}`);
  }
});
