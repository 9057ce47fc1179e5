/** Which layers mind, and plans for a budget: against brute force, and on a model. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  planMixedPrecision,
  quantize,
  sensitivity,
  type LayerSensitivity,
  type QuantizationOverride,
} from '../../src/compress/index.js';
import * as og from '../../src/index.js';

const config = { vocabSize: 32, context: 16, layers: 2, heads: 2, width: 64 };
const model = new og.GPT(config, { generator: og.generator(3) });
// one layer speaks far louder than the others, and has outliers that 4 bits a row cannot hold
og.noGrad(() => {
  const { weight } = model.blocks[1]!.mlp.down;
  og.copy_(og.detach(weight), og.mul(weight, 40));
  og.copy_(og.narrow(og.detach(weight), 1, 5, 1), og.mul(og.narrow(weight, 1, 5, 1), 12));
});
const ids = og.randint(0, 32, [6, 16], { generator: og.generator(9) });
const candidates = [{ scheme: 'w8a16' }, { scheme: 'w4a16', groupSize: null }] as const;

/** Mean divergence of the model from itself changed, in float64 from the definition. */
function divergence(changed: og.GPT): number {
  const rows = (gpt: og.GPT): number[][] =>
    og
      .reshape(
        og.noGrad(() => gpt.eval().forward(ids)),
        [-1, 32],
      )
      .toArraySync() as number[][];
  const probabilities = (logits: number[]): number[] => {
    const most = Math.max(...logits);
    const parts = logits.map((x) => Math.exp(x - most));
    const total = parts.reduce((a, b) => a + b, 0);
    return parts.map((x) => x / total);
  };
  const [own, other] = [rows(model), rows(changed)];
  const each = own.map((row, i) => {
    const [p, q] = [probabilities(row), probabilities(other[i]!)];
    return p.reduce((sum, x, j) => sum + x * Math.log(x / q[j]!), 0);
  });
  return each.reduce((a, b) => a + b, 0) / each.length;
}

test('the loud layer is first; figures are those of the layer alone', async () => {
  model.train();
  const before = og.memory().tensors;
  const ranking = await sensitivity(model, { calibration: [ids], candidates });
  assert.ok(og.memory().tensors <= before + 4, 'nothing is left behind');
  assert.ok(model.training);
  assert.equal(ranking.length, 12);
  const [first] = ranking;
  assert.equal(first!.path, 'blocks.1.mlp.down');
  for (const [i, candidate] of candidates.entries()) {
    const alone = await quantize(model, { ...candidate, target: 'blocks.1.mlp.down' });
    const want = divergence(alone);
    assert.ok(Math.abs(first!.candidates[i]!.loss / want - 1) < 0.02, `${first!.candidates[i]!.loss} against ${want}`);
  }
  assert.ok(first!.candidates[1]!.loss > first!.candidates[0]!.loss);
  assert.ok(first!.candidates[1]!.bytes < first!.candidates[0]!.bytes && first!.candidates[0]!.bytes < first!.bytes);
  const worst = ranking.map((layer) => Math.max(...layer.candidates.map(({ loss }) => loss)));
  assert.deepEqual(
    worst,
    [...worst].sort((a, b) => b - a),
  );

  const all4 = ranking.reduce((sum, { candidates: [, four] }) => sum + four!.bytes, 0);
  const all8 = ranking.reduce((sum, { candidates: [eight] }) => sum + eight!.bytes, 0);
  const plan = planMixedPrecision(ranking, { bytes: Math.round((all4 + all8) / 2) });
  const options = { scheme: 'w8a16', target: plan.target, overrides: plan.overrides } as const;
  const reports: number[] = [];
  const mixed = await quantize(model, { ...options, onLayer: ({ bytesAfter }) => reports.push(bytesAfter) });
  assert.ok(reports.reduce((a, b) => a + b, 0) <= (all4 + all8) / 2);
  const uniform = await quantize(model, candidates[1]);
  assert.ok(divergence(mixed) < 0.3 * divergence(uniform), `${divergence(mixed)} against ${divergence(uniform)}`);
});

test('the growth of the loss of the next token', async () => {
  const target = ['blocks.1.mlp.down', 'blocks.0.mlp.up'];
  const ranking = await sensitivity(model, { calibration: [ids], candidates, metric: 'loss', target });
  const lossOf = (gpt: og.GPT): number =>
    og.scope(() => {
      const logits = og.narrow(
        og.noGrad(() => gpt.eval().forward(ids)),
        1,
        0,
        15,
      );
      return og.crossEntropy(logits, og.narrow(ids, 1, 1, 15)).itemSync() as number;
    });
  const found = ranking.find(({ path }) => path === 'blocks.1.mlp.down')!.candidates[1]!.loss;
  const want = lossOf(await quantize(model, { ...candidates[1], target: 'blocks.1.mlp.down' })) - lossOf(model);
  assert.ok(Math.abs(found - want) < 1e-4, `${found} against ${want}`);
});

/** Every combination of choices. */
function bruteForce(ranking: readonly LayerSensitivity[]): { bytes: number; loss: number }[] {
  return ranking.reduce<{ bytes: number; loss: number }[]>(
    (sums, layer) =>
      sums.flatMap(({ bytes, loss }) =>
        [{ bytes: layer.bytes, loss: 0 }, ...layer.candidates].map((one) => ({
          bytes: bytes + one.bytes,
          loss: loss + Math.max(0, one.loss),
        })),
      ),
    [{ bytes: 0, loss: 0 }],
  );
}

test('plans: no combination of their size loses less, and none loses more than it may', () => {
  const stream = og.generator(11);
  const numbers = og.rand([400], { generator: stream }).toArraySync() as number[];
  let next = 0;
  for (let round = 0; round < 10; round++) {
    const ranking = Array.from({ length: 5 }, (_, i): LayerSensitivity => {
      const bytes = 1000 + Math.round(3000 * numbers[next++]!);
      const one = (share: number): LayerSensitivity['candidates'][number] => ({
        quantization: { scheme: 'w4a16' },
        bytes: Math.round(bytes * share),
        loss: numbers[next++]! ** 3 / share - 0.01,
      });
      return { path: `layer.${i}`, bytes, candidates: [one(0.5), one(0.25), one(0.125)] };
    });
    const all = bruteForce(ranking);
    const total = ranking.reduce((sum, { bytes }) => sum + bytes, 0);
    for (const share of [0.9, 0.5, 0.3]) {
      const plan = planMixedPrecision(ranking, { bytes: total * share });
      assert.ok(plan.bytes <= total * share);
      const best = Math.min(...all.filter(({ bytes }) => bytes <= plan.bytes).map(({ loss }) => loss));
      assert.ok(plan.loss <= best + 1e-9, `${plan.loss} against ${best}`);
    }
    const plan = planMixedPrecision(ranking, { maxLoss: 0.5 });
    assert.ok(plan.loss <= 0.5);
  }
});

test('a plan says skip where a layer stays, and what cannot be is refused', async () => {
  const layer: LayerSensitivity = {
    path: 'a',
    bytes: 100,
    candidates: [{ quantization: { scheme: 'w8a16' }, bytes: 25, loss: 1 }],
  };
  const skips = ({ overrides }: { overrides: readonly QuantizationOverride[] }): boolean[] =>
    overrides.map(({ skip }) => skip === true);
  assert.deepEqual(skips(planMixedPrecision([layer], { bytes: 100 })), [true]);
  assert.deepEqual(skips(planMixedPrecision([layer], { bytes: 25 })), [false]);
  assert.deepEqual(skips(planMixedPrecision([layer], { maxLoss: 0.5 })), [true]);
  assert.throws(() => planMixedPrecision([layer], { bytes: 24 }), /at least 25/);
  assert.throws(() => planMixedPrecision([layer], {}), /either/);
  assert.throws(() => planMixedPrecision([], { bytes: 1 }), /sensitivity/);
  const refuses = (options: object, pattern: RegExp): Promise<void> =>
    assert.rejects(sensitivity(model, { calibration: [ids], candidates, ...options } as never), pattern);
  await refuses({ candidates: [] }, /candidates/);
  await refuses({ candidates: [{ scheme: 'w4' }] }, /scheme/);
  await refuses({ candidates: [{ scheme: 'w4a16', groupSize: 48 }] }, /groupSize/);
  await refuses({ metric: 'mse' }, /metric/);
  await refuses({ target: 'nothing' }, /mlp\.up/);
  await refuses({ calibration: [] }, /calibration/);
  await refuses({ metric: 'loss', calibration: [og.zeros([3], { dtype: 'int32' })] }, /\[B, T\]/);
});
