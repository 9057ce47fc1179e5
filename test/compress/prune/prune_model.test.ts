/** prune(model, …): what is dropped, how close the model stays, and what is refused before any work. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  calibrationBatches,
  prune,
  quantize,
  sparsify,
  type PrunedLayerReport,
  type PruneOptions,
} from '../../../src/compress/index.js';
import * as og from '../../../src/index.js';
import { tinyDataset, tinyLoss, trainedTiny } from '../../helpers/trained_tiny.js';

const { nn } = og;
const calibration = calibrationBatches(tinyDataset, { batches: 4, batchSize: 8 });
const trained = await trainedTiny();
const dense = tinyLoss(trained);

const weightsOf = (model: og.nn.Module): [string, og.nn.Linear][] =>
  [...model.namedModules()].filter((entry): entry is [string, og.nn.Linear] => entry[1] instanceof nn.Linear);
const zerosIn = (x: og.Tensor): number =>
  og.scope(() => og.mean(og.to(og.eq(og.detach(x), 0), 'float32')).itemSync() as number);
/** Most kept of any `m` neighbours. */
const mostOf = (x: og.Tensor, m: number): number =>
  og.scope(
    () => og.amax(og.sum(og.to(og.ne(og.reshape(og.detach(x), [-1, m]), 0), 'float32'), 1)).itemSync() as number,
  );
/** Share of 16 × 16 squares with any weight. */
const keptSquares = ({ weight, outFeatures, inFeatures }: og.nn.Linear): number =>
  og.scope(() => {
    const squares = og.reshape(og.detach(weight), [outFeatures / 16, 16, inFeatures / 16, 16]);
    return og.mean(og.to(og.gt(og.amax(og.abs(squares), [1, 3]), 0), 'float32')).itemSync() as number;
  });

test('every pattern and method leaves what it says, in a copy, and nothing behind', async () => {
  const cases: [PruneOptions, string, number][] = [];
  for (const method of ['magnitude', 'wanda', 'sparsegpt'] as const) {
    cases.push([{ method, pattern: { sparsity: 0.5 } }, 'unstructured', 0.5]);
    cases.push([{ method, pattern: '2:4' }, '2:4', 0.5], [{ method, pattern: '4:8' }, '4:8', 0.5]);
    cases.push([{ method, pattern: { sparsity: 0.75, block: 16 } }, 'block:16', 0.75]);
  }
  cases.push([{ pattern: { sparsity: 0.5, scope: 'output' } }, 'unstructured', 0.5]);
  cases.push([{ method: 'wanda', pattern: { sparsity: 0.25, scope: 'layer' } }, 'unstructured', 0.25]);
  cases.push(cases[0]!); // once more: the first time, weights that are met again are packed, which stays
  const counts: number[] = [];
  for (const [options, name, share] of cases) {
    const reports: PrunedLayerReport[] = [];
    const made = await prune(trained, { ...options, calibration, onLayer: (report) => reports.push(report) });
    assert.equal(reports.length, 12);
    for (const { path, sparsity, pattern, outputError } of reports) {
      assert.equal(pattern, name, path);
      assert.ok(Math.abs(sparsity - share) < 0.01, `${path}: ${sparsity} for ${JSON.stringify(options)}`);
      assert.ok(outputError! > 0 && outputError! < 0.8, `${path}: ${outputError}`);
    }
    for (const [, layer] of weightsOf(made)) {
      if (name.includes(':') && !name.startsWith('block')) {
        const [n, m] = name.split(':').map(Number);
        assert.ok(mostOf(layer.weight, m!) <= n!);
      }
      if (name === 'block:16') assert.ok(Math.abs(keptSquares(layer) - 0.25) < 0.01);
    }
    const { scope = '' } = typeof options.pattern === 'string' ? {} : (options.pattern as { scope?: string });
    if (options.method === undefined && scope === 'output')
      for (const [, { weight }] of weightsOf(made))
        assert.equal(
          og.scope(() => zerosIn(og.select(weight, 0, 3))),
          0.5,
        );
    made.dispose();
    counts.push(og.memory().tensors);
  }
  assert.ok(weightsOf(trained).every(([, { pruned }]) => pruned === null));
  assert.equal(tinyLoss(trained), dense);
  assert.equal(counts.at(-1), counts.at(-2), 'nothing is left behind');
});

test('one threshold for all layers; a threshold of magnitudes', async () => {
  const all = await prune(trained, { pattern: { sparsity: 0.6, scope: 'global' } });
  const layers = weightsOf(all).map(([, { weight }]) => weight);
  const shares = layers.map(zerosIn);
  const total =
    shares.reduce((sum, share, i) => sum + share * layers[i]!.size, 0) /
    layers.reduce((sum, { size }) => sum + size, 0);
  assert.ok(Math.abs(total - 0.6) < 1e-4, `${total}`);
  assert.ok(Math.max(...shares) - Math.min(...shares) > 0.02, 'layers differ');
  const smallest = og.scope(() =>
    Math.min(
      ...layers.map((x) => og.amin(og.where(og.ne(og.detach(x), 0), og.abs(og.detach(x)), 9)).itemSync() as number),
    ),
  );
  const made = await prune(trained, { pattern: { threshold: smallest } });
  assert.deepEqual(weightsOf(made).map(([, { weight }]) => zerosIn(weight)), shares); // prettier-ignore
});

test('Wanda loses less of an output than magnitude where inputs differ in size, SparseGPT least', async () => {
  const weight = og.randn([48, 64], { generator: og.generator(5) });
  const sizes = og.exp(og.randn([64], { generator: og.generator(6) }));
  const x = og.matmul(og.randn([400, 64], { generator: og.generator(7) }), og.mul(og.randn([64, 64], { generator: og.generator(8) }), sizes)); // prettier-ignore
  for (const pattern of [{ sparsity: 0.5 }, '2:4', { sparsity: 0.5, block: 16 }] as const) {
    const errors: number[] = [];
    for (const method of ['magnitude', 'wanda', 'sparsegpt'] as const) {
      const model = new nn.Sequential(nn.Linear.of(og.clone(weight)));
      const onLayer = ({ outputError }: PrunedLayerReport): void => void errors.push(outputError!);
      await prune(model, { pattern, method, calibration: [x], inPlace: true, onLayer });
    }
    const [magnitude, wanda, sparse] = errors as [number, number, number];
    assert.ok(wanda < 0.9 * magnitude && sparse < 0.9 * wanda, `${JSON.stringify(pattern)}: ${errors.join(', ')}`);
  }
});

test('on a model, SparseGPT loses least of every layer', async () => {
  const errors: Record<string, number>[] = [];
  for (const method of ['magnitude', 'wanda', 'sparsegpt'] as const) {
    const found: Record<string, number> = {};
    const onLayer = ({ path, outputError }: PrunedLayerReport): void => void (found[path] = outputError!);
    const made = await prune(trained, { pattern: { sparsity: 0.5 }, method, calibration, onLayer });
    made.dispose();
    errors.push(found);
  }
  const [magnitude, wanda, sparse] = errors as [Record<string, number>, Record<string, number>, Record<string, number>];
  for (const [path, error] of Object.entries(sparse))
    assert.ok(error < 0.9 * magnitude[path]! && error < 0.9 * wanda[path]!, path);
});

test('overrides choose by path, later ones win; other dtypes stay what they are', async () => {
  const made = await prune(trained, {
    pattern: '2:4',
    overrides: [
      { target: /attention/, pattern: { sparsity: 0.25 } },
      { target: /blocks\.1/, skip: true },
      { target: 'blocks.1.mlp.down', pattern: '1:4', method: 'wanda' },
    ],
    calibration,
  });
  const names = Object.fromEntries(weightsOf(made).map(([path, { pruned }]) => [path.slice(7), pruned]));
  assert.deepEqual(
    [names['0.attention.q'], names['0.mlp.up'], names['1.mlp.up'], names['1.mlp.down']],
    ['unstructured', '2:4', null, '1:4'],
  );
  const half = og.cloneModel(trained).to('bfloat16');
  const sparse = await prune(half, { pattern: '2:4', method: 'sparsegpt', calibration });
  assert.ok(weightsOf(sparse).every(([, { weight }]) => weight.dtype === 'bfloat16' && zerosIn(weight) >= 0.5));
});

test('what cannot be is refused before any work, by name', async () => {
  const refuses = async (options: object, pattern: RegExp, model: og.GPT = trained): Promise<void> => {
    const seen: string[] = [];
    const onLayer = ({ path }: PrunedLayerReport): void => void seen.push(path);
    await assert.rejects(prune(model, { pattern: { sparsity: 0.5 }, onLayer, ...options } as never), pattern);
    assert.deepEqual(seen, []);
  };
  await refuses({ pattern: undefined }, /2:4/);
  await refuses({ pattern: '4:2' }, /n:m/);
  await refuses({ pattern: 'half' }, /n:m/);
  await refuses({ pattern: { sparsity: 1 } }, /below 1/);
  await refuses({ pattern: { sparsity: NaN } }, /sparsity/);
  await refuses({ pattern: { sparsity: 0.5, blocks: 16 } }, /Did you mean block/);
  await refuses({ pattern: { sparsity: 0.5, block: 24 } }, /16, 32, 64/);
  await refuses({ pattern: '3:7' }, /blocks\.0\.attention\.q/);
  await refuses({ method: 'magic' }, /wanda/);
  await refuses({ method: 'wanda' }, /calibration/);
  await refuses({ method: 'wanda', calibration, pattern: { threshold: 0.1 } }, /threshold/);
  await refuses(
    { method: 'sparsegpt', calibration, pattern: { sparsity: 0.5, scope: 'global' } },
    /cannot be compared/,
  );
  await refuses({ target: 'mpl' }, /mlp\.up/);
  await refuses({ overrides: [{ target: 'mpl', skip: true }] }, /mlp\.up/);
  await refuses({ overrides: [{ target: /./, skip: true }] }, /all are skipped/);
  await refuses({ signal: AbortSignal.abort(new Error('enough')) }, /enough/);
  const narrow = new og.GPT({ vocabSize: 32, context: 32, layers: 1, heads: 2, width: 24 });
  await refuses({ pattern: { sparsity: 0.5, block: 16 } }, /squares of 16.*blocks\.0\.attention\.q, 24 × 24/s, narrow);
  const done = await prune(trained, { pattern: '2:4', target: 'mlp.up' });
  await refuses({}, /blocks\.0\.mlp\.up is \(2:4\)/, done);
  await prune(done, { pattern: '2:4', target: 'mlp.down' }); // another layer may follow
  await refuses({}, /quantised already/, await quantize(trained, { scheme: 'w8a16' }));
  const whole = await prune(trained, { pattern: '2:4' });
  await refuses({}, /sparse already/, await sparsify(whole, { layout: 'csr' }));
  const broken = og.cloneModel(trained);
  og.noGrad(() => og.copy_(og.narrow(broken.blocks[1]!.mlp.up.weight, 0, 3, 1), og.tensor(NaN)));
  await refuses({}, /blocks\.1\.mlp\.up\.weight.*finite/s, broken);
  const blown = og.cloneModel(trained);
  og.noGrad(() => og.copy_(og.narrow(blown.blocks[1]!.mlpNorm.weight as og.Tensor, 0, 3, 1), og.tensor(Infinity)));
  for (const method of ['wanda', 'sparsegpt'])
    await refuses({ method, calibration, inPlace: true }, /blocks\.1\.mlp\.up.*finite inputs/s, blown);
  const idle = Object.assign(new nn.Sequential(new nn.Linear(8, 8)), { spare: new nn.Linear(8, 8) });
  const unreached = { pattern: '2:4', method: 'wanda', calibration: [og.randn([4, 8])], inPlace: true } as const;
  await assert.rejects(prune(idle, unreached), /spare never ran/);
  assert.equal((idle.layers[0] as og.nn.Linear).pruned, null);
});

test('channels that are always 0 or never change are no trouble', async () => {
  const layer = new nn.Linear(32, 16, { generator: og.generator(3) });
  const x = og.randn([40, 32], { generator: og.generator(4) });
  og.copy_(og.narrow(x, 1, 5, 1), og.tensor(0));
  og.copy_(og.narrow(x, 1, 9, 2), og.tensor(3)); // two constant channels: X·Xᵀ is singular but for the damping
  for (const method of ['wanda', 'sparsegpt'] as const) {
    const model = new nn.Sequential(nn.Linear.of(og.clone(og.detach(layer.weight))));
    await prune(model, { pattern: { sparsity: 0.5 }, method, calibration: [x], inPlace: true });
    const { weight } = model.layers[0] as og.nn.Linear;
    assert.ok(zerosIn(weight) >= 0.5 && og.all(og.isFinite(weight)).itemSync());
    assert.equal(zerosIn(og.narrow(og.detach(weight), 1, 5, 1)), 1);
  }
});
