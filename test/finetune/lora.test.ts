/** One adapter: gradients, no change at the start, merging, magnitudes, dropout, quantised bases, training. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  adapterState,
  lora,
  mergeAdapters,
  mergeAndUnload,
  setActiveAdapters,
  unmergeAdapters,
  type LoraOptions,
  type LoraVariant,
} from '../../src/finetune/index.js';
import * as og from '../../src/index.js';
import { nn, optim } from '../../src/index.js';
import { gpt, input, layerOf, Net, quantized, tokens } from '../helpers/adapted.js';
import { assertClose, numbersOf } from '../helpers/allclose.js';

const variants: readonly LoraVariant[] = ['lora', 'rslora', 'dora', 'rsdora'];

for (const variant of variants) {
  describe(variant, () => {
    const make = (options: LoraOptions = {}, dtype: og.DType = 'float32'): Net =>
      lora(new Net(dtype), { rank: 2, alpha: 3, variant, generator: og.generator(5), ...options });

    test('changes nothing at the start, bit for bit', () => {
      const x = input();
      assert.deepEqual(numbersOf(make().forward(x)), numbersOf(new Net().forward(x)));
      assert.deepEqual(numbersOf(make({ init: 'gaussian' }).forward(x)), numbersOf(new Net().forward(x)));
      const model = quantized(gpt());
      const before = numbersOf(model.forward(tokens));
      assert.deepEqual(numbersOf(lora(model, { variant }).forward(tokens)), before);
    });

    test('computes the formula', () => {
      const model = make({ init: 'random' });
      const layer = layerOf(model);
      const adapter = layer.adapters.get('default')!;
      const scaling = 3 / (variant.startsWith('rs') ? Math.SQRT2 : 2);
      assert.equal(adapter.scaling, scaling);
      const { weight, bias } = layer.base as nn.Linear;
      let changed = og.add(weight, og.mul(og.matmul(adapter.loraB, adapter.loraA), scaling));
      if (adapter.magnitude !== null) {
        assert.ok(variant.endsWith('dora'));
        nn.init.uniform_(adapter.magnitude, 0.5, 2, og.generator(8));
        const norm = og.sqrt(og.sum(og.square(changed), 1, { keepDims: true }));
        changed = og.mul(og.div(og.unsqueeze(adapter.magnitude, 1), norm), changed);
      }
      const x = input();
      assertClose(layer.forward(x), og.linear(x, changed, bias), { rtol: 1e-4, atol: 1e-5 });
    });

    test('gradients of the adapter in float64', () => {
      const model = make({ init: 'random' }, 'float64');
      const layer = layerOf(model);
      const { loraA, loraB, magnitude } = layer.adapters.get('default')!;
      assert.equal(loraA.dtype, 'float64');
      // In DoRA the norm is a constant to the gradient, so differences agree for what it does not depend on.
      const inputs = magnitude === null ? [loraA, loraB] : [magnitude];
      const properties = layer.adapters.get('default') as unknown as Record<string, og.Tensor>;
      const names = magnitude === null ? ['loraA', 'loraB'] : ['magnitude'];
      const result = og.gradCheck(
        (x, ...given) => {
          names.forEach((name, i) => (properties[name] = given[i]!));
          return layer.forward(x);
        },
        [input('float64'), ...inputs.map((tensor) => og.clone(tensor.detach()))],
      );
      assert.ok(result.ok, JSON.stringify(result));
    });

    test('merged it gives the same; unmerged the weights have the bits they had', () => {
      const model = make({ init: 'random' });
      const x = input();
      const y = numbersOf(model.forward(x));
      const weight = (layerOf(model).base as nn.Linear).weight;
      const bits = numbersOf(weight);
      mergeAdapters(model);
      assert.ok(layerOf(model).isMerged);
      assert.notDeepEqual(numbersOf((layerOf(model).base as nn.Linear).weight), bits);
      assertClose(model.forward(x), y, { rtol: 1e-4, atol: 1e-5 });
      assert.throws(() => setActiveAdapters(model, 'default'), /Call unmergeAdapters first/);
      unmergeAdapters(model);
      assert.equal((layerOf(model).base as nn.Linear).weight, weight);
      assert.deepEqual(numbersOf(weight), bits);
      assert.deepEqual(numbersOf(model.forward(x)), y);
      const names = Object.keys(new Net().stateDict());
      assertClose(mergeAndUnload(model).forward(x), y, { rtol: 1e-4, atol: 1e-5 });
      assert.deepEqual(Object.keys(model.stateDict()), names);
      assert.throws(() => unmergeAdapters(model), /expected a model with adapters/);
    });

    test('dropout works in training only', () => {
      const model = make({ init: 'random', dropout: 0.5 });
      const x = input();
      const wanted = numbersOf(make({ init: 'random' }).forward(x));
      assert.notDeepEqual(numbersOf(model.forward(x)), numbersOf(model.forward(x)));
      assert.deepEqual(numbersOf(model.eval().forward(x)), wanted);
      model.train();
      const y = model.forward(x);
      og.sum(y).backward();
      assert.ok(numbersOf(layerOf(model).adapters.get('default')!.loraB.grad!).some((value) => value !== 0));
    });

    for (const base of ['float', 'int4'] as const) {
      test(`training a GPT with a base of ${base} weights lowers the loss and leaves them as they are`, () => {
        og.manualSeed(3);
        const model = base === 'int4' ? quantized(gpt()) : gpt();
        const bits = new Map(Object.entries(model.stateDict()).map(([name, value]) => [name, numbersOf(value)]));
        lora(model, { rank: 4, variant, target: 'all-linear' });
        assert.ok(model.parameters().filter((tensor) => tensor.requiresGrad).length >= 24);
        const optimizer = new optim.AdamW(
          model.parameters().filter((tensor) => tensor.requiresGrad),
          { lr: 1e-2, weightDecay: 0.1 },
        );
        const targets = og.tensor(
          Int32Array.from({ length: 24 }, (_, i) => (i * 5) % 16),
          { shape: [2, 12] },
        );
        const losses = Array.from({ length: 25 }, () => {
          using _ = og.scope();
          const loss = model.loss(tokens, targets);
          loss.backward();
          optimizer.step();
          optimizer.zeroGrad();
          return loss.itemSync();
        });
        assert.ok(losses.at(-1)! < 0.6 * losses[0]!, `${losses[0]} → ${losses.at(-1)}`);
        for (const [name, value] of Object.entries(model.stateDict())) {
          const before = bits.get(name.replace('.base.', '.'));
          if (name.includes('.adapters.')) assert.equal(before, undefined);
          else assert.deepEqual(numbersOf(value), before, name);
        }
        // The state goes on elsewhere: all of it, or the adapter's part.
        const fresh = lora(base === 'int4' ? quantized(gpt()) : gpt(), { rank: 4, variant });
        const report = fresh.loadStateDict(adapterState(model), { strict: false });
        assert.deepEqual(report.unexpected, []);
        assert.deepEqual(numbersOf(fresh.forward(tokens)), numbersOf(model.forward(tokens)));
        const whole = lora(base === 'int4' ? quantized(gpt()) : gpt(), { rank: 4, variant });
        whole.loadStateDict(model.stateDict());
        assert.deepEqual(numbersOf(whole.forward(tokens)), numbersOf(model.forward(tokens)));
        const wanted = numbersOf(model.forward(tokens));
        if (base === 'int4') {
          assert.throws(
            () => mergeAdapters(model),
            /blocks\.0\.attention\.q: expected a layer that is not quantised, got 4-bit/,
          );
          assert.deepEqual(numbersOf(model.forward(tokens)), wanted);
          mergeAdapters(model, { dequantize: true });
          unmergeAdapters(model);
          assert.deepEqual(numbersOf(model.forward(tokens)), wanted);
        }
        mergeAndUnload(model, { dequantize: base === 'int4' });
        assertClose(model.forward(tokens), wanted, { rtol: 1e-3, atol: 2e-4 });
        assert.ok(model.blocks[0]!.attention.q instanceof nn.Linear);
      });
    }
  });
}
