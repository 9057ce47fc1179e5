/** Merged weights against numpy, PEFT and plain loops; models in, a model out. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import {
  averageStates,
  dareStates,
  graftLayers,
  graftStates,
  greedySoup,
  LogitEnsemble,
  lora,
  mergeModels,
  slerpStates,
  stackLayers,
  taskArithmetic,
  taskVector,
  tiesStates,
} from '../../../src/finetune/index.js';
import * as og from '../../../src/index.js';
import { nn } from '../../../src/index.js';
import { assertClose, numbersOf } from '../../helpers/allclose.js';
import { load, readSafetensors } from '../../helpers/reference.js';
import { root } from '../../helpers/source_tree.js';

const stored = readSafetensors(join(root, 'test/fixtures/merge/merge.safetensors'));
const names = ['a.weight', 'b.bias'];
const state = (prefix: string): Record<string, og.Tensor> =>
  Object.fromEntries(names.map((name) => [name, load(stored, `${prefix}.${name}`)]));
const base = state('base');
const tuned = [0, 1, 2].map((i) => state(`tuned${i}`));
const tight = { rtol: 1e-12, atol: 1e-13 };
function same(got: Record<string, og.Tensor>, want: Record<string, og.Tensor>, tolerance = tight): void {
  assert.deepEqual(Object.keys(got), Object.keys(want));
  for (const name of Object.keys(want)) assertClose(got[name]!, want[name]!, tolerance, name);
}
/** A state by a formula of the elements of several. */
const formula = (
  f: (...values: number[]) => number,
  ...states: Record<string, og.Tensor>[]
): Record<string, og.Tensor> =>
  Object.fromEntries(
    names.map((name) => {
      const lists = states.map((own) => numbersOf(own[name]!));
      const values = lists[0]!.map((_, i) => f(...lists.map((list) => list[i]!)));
      return [name, og.tensor(values, { shape: base[name]!.shape })];
    }),
  );

describe('states', () => {
  test('averages and task arithmetic, by their formulae', () => {
    same(
      averageStates(tuned),
      formula((a, b, c) => (a + b + c) / 3, ...tuned),
    );
    same(
      averageStates(tuned.slice(0, 2), [1, 3]),
      formula((a, b) => (a + 3 * b) / 4, ...tuned.slice(0, 2)),
    );
    const arithmetic = taskArithmetic(base, tuned.slice(0, 2), { weights: [1, -0.5], scale: 0.4 });
    same(
      arithmetic,
      formula((s, a, b) => s + 0.4 * (a - s - 0.5 * (b - s)), base, ...tuned.slice(0, 2)),
    );
    same(
      taskVector(tuned[0]!, base),
      formula((a, b) => a - b, tuned[0]!, base),
    );
  });

  test('SLERP, against numpy; in a straight line where there is no arc', () => {
    same(slerpStates(base, state('other'), 0.3), state('slerp'));
    same(
      slerpStates(base, state('other'), (name) => (name === 'a.weight' ? 0.3 : 1)),
      {
        'a.weight': state('slerp')['a.weight']!,
        'b.bias': state('other')['b.bias']!,
      },
    );
    const double = formula((a) => 2 * a, base);
    same(
      slerpStates(base, double, 0.25),
      formula((a) => 1.25 * a, base),
    );
    same(slerpStates(base, formula((a) => -a, base), 0.25), formula((a) => a / 2, base)); // prettier-ignore
    const zero = formula(() => 0, base);
    same(
      slerpStates(zero, base, 0.25),
      formula((a) => a / 4, base),
    );
    same(slerpStates(zero, zero, 0.25), zero);
    assert.throws(() => slerpStates(base, double, 1.5), /t: expected a number from 0 to 1/);
  });

  test('TIES over the whole task vector, plain and weighted, against numpy; by tensor, against PEFT', async () => {
    same(await tiesStates(base, tuned, { density: 0.3 }), state('ties'));
    const options = { density: 0.45, weights: [0.5, 2, 1], scale: 0.7 };
    same(await tiesStates(base, tuned, options), state('ties_weighted'));
    same(await tiesStates(base, tuned, { density: 0.3, trim: 'tensor' }), state('ties_tensor'));
    assert.notDeepEqual(numbersOf(state('ties')['b.bias']!), numbersOf(state('ties_tensor')['b.bias']!));
    same(await tiesStates(base, [base, base]), base);
    await assert.rejects(tiesStates(base, tuned, { density: 0 }), /density: expected a share above 0/);
    await assert.rejects(tiesStates(base, []), /at least one state/);
  });

  test('TIES of float32 keeps exactly the elements it should', async () => {
    const values = Float32Array.from({ length: 1000 }, (_, i) => Math.sin(i * 1.7) * 10 ** ((i % 9) - 6));
    const zero = { w: og.zeros([1000]) };
    const { w } = await tiesStates(zero, [{ w: og.tensor(values) }], { density: 0.1 });
    const limit = [...values].map(Math.abs).sort((a, b) => b - a)[99]!;
    assert.deepEqual([...numbersOf(w!)], [...values].map((value) => (Math.abs(value) >= limit ? value : 0))); // prettier-ignore
    assert.equal(w!.dtype, 'float32');
  });

  test('DARE: what the seed keeps, divided by the density, summed or elected', () => {
    for (const consensus of ['linear', 'ties'] as const) {
      const generator = og.generator(9);
      const masks = names.map((name) =>
        tuned.map(() => numbersOf(og.bernoulli(0.4, base[name]!.shape, { dtype: 'float64', generator }))),
      );
      const want = Object.fromEntries(
        names.map((name, n) => {
          const start = numbersOf(base[name]!);
          const values = start.map((s, i) => {
            const deltas = tuned.map((own, t) => ((numbersOf(own[name]!)[i]! - s) * masks[n]![t]![i]!) / 0.4);
            const total = deltas.reduce((a, b) => a + b);
            const agree = deltas.filter((delta) => delta !== 0 && Math.sign(delta) === Math.sign(total));
            const elected = agree.length === 0 ? 0 : agree.reduce((a, b) => a + b) / agree.length;
            return s + 0.5 * (consensus === 'linear' ? total : elected);
          });
          return [name, og.tensor(values, { shape: base[name]!.shape })];
        }),
      );
      same(dareStates(base, tuned, { density: 0.4, seed: 9, scale: 0.5, consensus }), want);
    }
    const zero = { w: og.zeros([20000]) };
    const kept = numbersOf(dareStates(zero, [{ w: og.ones([20000]) }], { density: 0.25 })['w']!);
    assert.deepEqual([...new Set(kept)].sort(), [0, 4]);
    const share = kept.filter((value) => value !== 0).length / 20000;
    assert.ok(Math.abs(share - 0.25) < 0.015, `${share}`);
    const unscaled = dareStates(zero, [{ w: og.ones([20000]) }], { density: 0.25, rescale: false })['w']!;
    assert.deepEqual([...new Set(numbersOf(unscaled))].sort(), [0, 1]);
  });

  test('dtypes stay; codes must be equal; names and shapes are checked', () => {
    const half = { w: og.tensor([1, 2.5]).to('bfloat16'), codes: og.tensor([3, 4], { dtype: 'uint8' }) };
    const other = { w: og.tensor([2, 3.5]), codes: og.tensor([3, 4], { dtype: 'uint8' }) };
    const made = averageStates([half, other]);
    assert.deepEqual([made['w']!.dtype, made['codes']!.dtype], ['bfloat16', 'uint8']);
    assert.deepEqual([...numbersOf(made['w']!)], [1.5, 3]);
    const changed = { ...other, codes: og.tensor([3, 5], { dtype: 'uint8' }) };
    assert.throws(() => averageStates([half, changed]), /codes: expected equal values, as uint8 cannot be averaged/);
    assert.throws(
      () => averageStates([half, { w: other.w }]),
      /states\[1\]: expected the names of the first, got none of codes/,
    );
    assert.throws(() => averageStates([{ w: og.ones([2]) }, { w: og.ones([3]) }]), { code: 'OG_SHAPE' });
    assert.throws(() => averageStates([]), /at least one state/);
    assert.throws(() => averageStates([half, other], [1]), /2 numbers, one a state/);
    assert.throws(() => averageStates([half, other], [1, -1]), /a sum other than 0/);
    const single = averageStates([other]);
    single['w']!.copy_(og.zeros([2]));
    assert.deepEqual([...numbersOf(other.w)], [2, 3.5], 'a copy, also of one');
  });
});

const config = { vocabSize: 16, context: 12, layers: 3, heads: 2, width: 8 };
const gpt = (seed: number): og.GPT => {
  const model = new og.GPT(config, { generator: og.generator(seed) });
  nn.init.normal_(model.tokens.weight, 0, 0.5, og.generator(seed + 100));
  return model;
};
const ids = og.tensor([[1, 5, 2, 9]], { dtype: 'int32' });

describe('greedy soups', () => {
  test('the best first, others while the metric does not fall; states may be the model’s own', async () => {
    const model = new nn.Linear(1, 1, { bias: false });
    const state = (value: number): Record<string, og.Tensor> => ({ weight: og.tensor([[value]]) });
    og.noGrad(() => model.weight.copy_(og.tensor([[4]])));
    // distance to 3: 4 (1), 1.5 (1.5), then 3.5 and 9 alone are 0.5 and 6
    const states = [model.stateDict(), state(1.5), state(9), state(3.5)];
    const loss = (own: nn.Linear): number => Math.abs(own.weight.itemSync() - 3);
    const soup = await greedySoup(model, states, loss, { higherIsBetter: false });
    assert.deepEqual(soup.scores, [1, 1.5, 6, 0.5]);
    assert.deepEqual(soup.members, [3, 1]); // 3.5 with 4: worse; with 1.5: 0.5, as good; with 9: worse
    assert.equal(model.weight.itemSync(), 2.5);
    assert.equal(soup.score, 0.5);
    const higher = await greedySoup(model, states.slice(1), async (own) => -loss(own));
    assert.deepEqual(higher.members, [2, 0]);
    const fails = greedySoup(model, states.slice(1), () => Promise.reject(new Error('no data')));
    await assert.rejects(fails, /no data/);
    assert.equal(model.weight.itemSync(), 2.5, 'the weights come back');
    await assert.rejects(
      greedySoup(model, states.slice(1), () => NaN),
      /expected a number, got NaN/,
    );
  });
});

describe('models', () => {
  const [start, one, two] = [gpt(1), gpt(2), gpt(3)];

  test('mergeModels makes a new model; the others stay', async () => {
    const before = numbersOf(one.tokens.weight);
    og.manualSeed(5);
    const first = numbersOf(og.rand([2]));
    og.manualSeed(5);
    const merged = await mergeModels([one, two], { method: 'ties', base: start, weights: [1, 1], density: 0.3 });
    assert.deepEqual(numbersOf(og.rand([2])), first, 'the shared stream of random numbers is not touched');
    const want = await tiesStates(start.stateDict(), [one.stateDict(), two.stateDict()], { density: 0.3 });
    same(merged.stateDict(), want, { rtol: 0, atol: 0 });
    assert.deepEqual(numbersOf(one.tokens.weight), before);
    assert.notEqual(merged, one);
    for (const options of [
      { method: 'average' },
      { method: 'slerp' },
      { method: 'taskArithmetic', base: start, scale: 0.5 },
      { method: 'dare', base: start, seed: 3 },
    ] as const) {
      const model = await mergeModels([one, two], options);
      assert.deepEqual([...model.forward(ids).shape], [1, 4, 16], options.method);
    }
    const half = await mergeModels([gpt(2).to('bfloat16'), two], { method: 'average' });
    assert.equal(half.tokens.weight.dtype, 'bfloat16');
  });

  test('into another model, and what is refused', async () => {
    const layers = [new nn.Linear(2, 2), new nn.Linear(2, 2)];
    const into = new nn.Linear(2, 2);
    assert.equal(await mergeModels(layers, { method: 'average', into }), into);
    assertClose(into.weight, og.mul(og.add(layers[0]!.weight, layers[1]!.weight), 0.5));
    await assert.rejects(mergeModels(layers, { method: 'average' }), /Pass \{ into \}/);
    await assert.rejects(
      mergeModels([one, two], { method: 'ties' } as never),
      /base: expected the model that all were/,
    );
    await assert.rejects(mergeModels([one], { method: 'slerp' }), /two models for slerp/);
    await assert.rejects(mergeModels([one, lora(gpt(4), { rank: 2 })], { method: 'average' }), /mergeAndUnload/);
    await assert.rejects(mergeModels([one, two], { method: 'tie' as never }), /method/);
  });

  test('layers of another model, and deeper models', () => {
    const model = gpt(1);
    graftLayers(model, two, { 'blocks.0': 'blocks.2', norm: 'norm' });
    same(
      model.stateDict(),
      Object.fromEntries(
        Object.entries(start.stateDict()).map(([name, own]) => {
          if (name.startsWith('blocks.0.')) return [name, two.stateDict()[name.replace('blocks.0', 'blocks.2')]!];
          return [name, name.startsWith('norm.') ? two.stateDict()[name]! : own];
        }),
      ),
      { rtol: 0, atol: 0 },
    );
    assert.throws(() => graftLayers(model, two, { 'blocks.0': 'blocks.7' }), { code: 'OG_STATE' });
    assert.throws(() => graftStates(start.stateDict(), two.stateDict(), []), /at least one layer/);
    const deeper = stackLayers([
      { model: start, layers: [0, 2] },
      { model: two, layers: [1, 3] },
    ]);
    assert.equal(deeper.config.layers, 4);
    // the same by hand: the four blocks one after the other
    let x = og.add(start.tokens.forward(ids), start.positions!.forward(og.arange(4)));
    for (const block of [start.blocks[0]!, start.blocks[1]!, two.blocks[1]!, two.blocks[2]!]) x = block.forward(x);
    assertClose(deeper.hidden(ids), two.norm.forward(x), { rtol: 1e-5, atol: 1e-6 });
    assert.throws(
      () => stackLayers([{ model: start, layers: [2, 4] }]),
      /layers\[1\]: expected an integer from 3 to 3/,
    );
    assert.throws(() => stackLayers([]), /at least one slice/);
  });

  test('an ensemble averages logits or probabilities, and generates with caches', async () => {
    const logits = [one, two].map((model) => model.forward(ids));
    const ensemble = new LogitEnsemble([one, two], { weights: [3, 1] });
    assertClose(ensemble.forward(ids), og.add(logits[0]!.mul(0.75), logits[1]!.mul(0.25)), { rtol: 1e-5 });
    const mixed = new LogitEnsemble([one, two], { weights: [3, 1], average: 'probabilities' });
    const p = logits.map((own) => og.softmax(own, -1));
    assertClose(mixed.forward(ids).exp(), og.add(p[0]!.mul(0.75), p[1]!.mul(0.25)), { rtol: 1e-5 });
    assert.equal(ensemble.parameterCount(), one.parameterCount() + two.parameterCount());
    for (const model of [ensemble, mixed]) {
      const sequence = [1, 5, 2, 9];
      for await (const { id } of model.generate([...sequence], { temperature: 0, maxNewTokens: 6 })) sequence.push(id);
      for (let at = 4; at < sequence.length; at++) {
        const input = og.tensor([sequence.slice(0, at)], { dtype: 'int32' });
        const best = og
          .argmax(
            model
              .eval()
              .forward(input)
              .select(1, at - 1),
            -1,
          )
          .itemSync();
        assert.equal(best, sequence[at], `token ${at}`);
      }
    }
    const targets = og.tensor([[5, 2, 9, 3]], { dtype: 'int32' });
    assert.ok(Number.isFinite(ensemble.loss(ids, targets).itemSync()));
    const other = new og.GPT({ ...config, vocabSize: 17 });
    assert.throws(() => new LogitEnsemble([one, other]).forward(ids), { code: 'OG_SHAPE' });
    assert.throws(() => new LogitEnsemble([]), /at least one model/);
    assert.throws(() => new LogitEnsemble([one, two], { weights: [1, -1] }), /at least 0/);
  });
});
