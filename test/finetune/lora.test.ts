/** Adapters: gradients, no change at the start, merging, magnitudes, dropout, several at a time, quantised bases, training, wrong calls. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  adaptersOf,
  adapterState,
  addAdapter,
  lora,
  LoraLinear,
  mergeAdapters,
  mergeAndUnload,
  removeAdapter,
  setActiveAdapters,
  trainableParameters,
  unloadAdapters,
  unmergeAdapters,
  withoutAdapters,
  type LoraOptions,
  type LoraVariant,
} from '../../src/finetune/index.js';
import * as og from '../../src/index.js';
import { nn, optim } from '../../src/index.js';
import { assertClose, numbersOf } from '../helpers/allclose.js';

const variants: readonly LoraVariant[] = ['lora', 'rslora', 'dora', 'rsdora'];
const tokens = og.tensor(
  Int32Array.from({ length: 24 }, (_, i) => (i * 7 + 3) % 16),
  { shape: [2, 12] },
);

class Net extends nn.Module {
  readonly layers: nn.Module[];
  readonly head: nn.Linear;

  constructor(dtype: og.DType = 'float32', seed = 1) {
    super();
    const options = { dtype, generator: og.generator(seed) };
    this.layers = [new nn.Linear(6, 5, options), new nn.Linear(5, 5, { ...options, bias: false })];
    this.head = new nn.Linear(5, 3, options);
  }

  forward(x: og.Tensor): og.Tensor {
    for (const layer of this.layers) x = (layer as nn.Linear).forward(x).tanh();
    return this.head.forward(x);
  }
}

/** Its token table is large enough for decisive logits, as a trained one is. */
function gpt(): og.GPT {
  const generator = og.generator(2);
  const model = new og.GPT({ vocabSize: 16, context: 16, layers: 2, heads: 2, width: 32 }, { generator });
  nn.init.normal_(model.tokens.weight, 0, 0.3, generator);
  return model;
}

/** Makes int4 layers of all linear layers of the blocks. */
function quantized(model: og.GPT): og.GPT {
  for (const { attention, mlp } of model.blocks) {
    for (const [holder, keys] of [
      [attention, ['q', 'k', 'v', 'o']],
      [mlp, ['up', 'down']],
    ] as const) {
      const layers = holder as unknown as Record<string, nn.Module>;
      for (const key of keys) layers[key] = nn.QuantizedLinear.from(layers[key] as nn.Linear);
    }
  }
  return model;
}

const layerOf = (model: Net, index = 0): LoraLinear => model.layers[index] as LoraLinear;
const input = (dtype: og.DType = 'float32'): og.Tensor =>
  og.randn([4, 6], { dtype, generator: og.generator(7) } as never);

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

describe('adapters by name', () => {
  const two = (): Net => {
    const model = lora(new Net(), { name: 'a', rank: 2, init: 'random', generator: og.generator(1) });
    addAdapter(model, 'b', { rank: 3, init: 'random', target: 'layers.0', generator: og.generator(2) });
    return model;
  };
  const change = (model: Net, names: Parameters<typeof setActiveAdapters>[1]): Float64Array => {
    setActiveAdapters(model, names);
    const x = input();
    const layer = layerOf(model);
    const [on, off] = [numbersOf(layer.forward(x)), withoutAdapters(model, () => numbersOf(layer.forward(x)))];
    return on.map((value, i) => value - off[i]!);
  };

  test('one, several, with weights, none', () => {
    const model = two();
    assert.deepEqual(adaptersOf(model), { names: ['a', 'b'], active: { a: 1 } });
    const [a, b] = [change(model, 'a'), change(model, ['b'])];
    assertClose(
      change(model, ['a', 'b']),
      a.map((value, i) => value + b[i]!),
      { atol: 1e-5 },
    );
    assertClose(
      change(model, { a: 0.5, b: -2 }),
      a.map((value, i) => 0.5 * value - 2 * b[i]!),
      { atol: 1e-5 },
    );
    assert.deepEqual(
      change(model, []),
      a.map(() => 0),
    );
    assert.equal(trainableParameters(model).count, 0);
    setActiveAdapters(model, 'b');
    assert.ok(trainableParameters(model).names.every((name) => name.includes('.adapters.b.')));
    setActiveAdapters(model, 'b', { trainable: false });
    assert.equal(trainableParameters(model).count, 0);
    setActiveAdapters(model, { a: 0.5, b: -2 });
    const x = input();
    const y = numbersOf(model.forward(x));
    assertClose(mergeAndUnload(model).forward(x), y, { rtol: 1e-4, atol: 1e-5 });
  });

  test('removing, unloading', () => {
    const model = two();
    const x = input();
    setActiveAdapters(model, ['a', 'b']);
    removeAdapter(model, 'a');
    assert.deepEqual(adaptersOf(model), { names: ['b'], active: { b: 1 } });
    assert.ok(model.layers[1] instanceof nn.Linear && model.layers[0] instanceof LoraLinear);
    unloadAdapters(model);
    assert.deepEqual(numbersOf(model.forward(x)), numbersOf(new Net().forward(x)));
    assert.ok(model.layers[0] instanceof nn.Linear);
    assert.deepEqual(adaptersOf(model), { names: [], active: {} });
    lora(model); // and again from the start
    assert.deepEqual(adaptersOf(model).names, ['default']);
  });

  test('withoutAdapters restores after errors and promises', async () => {
    const model = two();
    const x = input();
    const y = numbersOf(model.forward(x));
    assert.throws(() => withoutAdapters(model, () => assert.fail('no')), /no/);
    assert.deepEqual(numbersOf(model.forward(x)), y);
    const plain = await withoutAdapters(model, async () => {
      assert.throws(() => setActiveAdapters(model, 'a'), /outside withoutAdapters/);
      assert.throws(() => withoutAdapters(model, () => 0), /outside withoutAdapters/);
      await Promise.resolve();
      return numbersOf(model.forward(x));
    });
    assert.deepEqual(plain, numbersOf(new Net().forward(x)));
    assert.deepEqual(numbersOf(model.forward(x)), y);
  });

  test('a layer that hangs in two places stays one', () => {
    const model = new Net();
    model.layers[1] = new nn.Linear(5, 5);
    model.layers.push(model.layers[1]);
    lora(model, { target: 'layers.1' });
    assert.ok(model.layers[1] instanceof LoraLinear);
    assert.equal(model.layers[2], model.layers[1]);
    unloadAdapters(model);
    assert.ok(model.layers[1] instanceof nn.Linear);
    assert.equal(model.layers[2], model.layers[1]);
  });

  test('bfloat16 weights have float32 adapters, and the result keeps its type', () => {
    const model = lora(new Net().to('bfloat16'), { init: 'random', variant: 'dora' });
    const y = model.forward(og.randn([2, 6]).to('bfloat16'));
    assert.equal(y.dtype, 'bfloat16');
    og.sum(y).backward();
    const adapter = layerOf(model).adapters.get('default')!;
    assert.equal(adapter.loraA.dtype, 'float32');
    assert.ok(adapter.loraA.grad !== null && adapter.magnitude!.grad !== null);
    mergeAdapters(model);
    assert.equal((layerOf(model).base as nn.Linear).weight.dtype, 'bfloat16');
  });

  test('a weight with a row of zeros has no length to divide by, and stays finite', () => {
    const net = new Net();
    nn.init.zeros_((net.layers[0] as nn.Linear).weight);
    const x = input();
    const before = numbersOf(net.forward(x));
    lora(net, { variant: 'dora' });
    assert.deepEqual(numbersOf(net.forward(x)), before);
    og.sum(net.forward(x)).backward();
    for (const { grad } of net.parameters()) assert.ok(grad === null || numbersOf(grad).every(Number.isFinite));
  });

  test('a GPT generates with adapters, with and without a cache alike', async () => {
    const model = lora(gpt(), { init: 'random', alpha: 64 }).eval();
    const full = numbersOf(model.forward(tokens));
    const cache = model.makeCache(2);
    const first = model.forward(og.narrow(tokens, 1, 0, 5), { cache });
    const rest = model.forward(og.narrow(tokens, 1, 5, 7), { cache });
    assertClose(og.concat([first, rest], 1), full, { rtol: 1e-3, atol: 1e-4 });
  });

  test('nothing leaks in a step', () => {
    const model = lora(gpt(), { variant: 'dora', dropout: 0.1 });
    const step = (): void => {
      const loss = og.scope(() => model.loss(tokens, tokens));
      loss.backward();
      loss.dispose();
      model.zeroGrad();
    };
    step();
    og.trackMemory(step);
  });
});

describe('wrong calls', () => {
  const refuses = (options: object, expected: RegExp): void => {
    const model = new Net();
    assert.throws(() => lora(model, options as LoraOptions), expected);
    assert.deepEqual(Object.keys(model.stateDict()), Object.keys(new Net().stateDict()));
    assert.ok(model.parameters().every(({ requiresGrad }) => requiresGrad));
  };

  test('options', () => {
    refuses({ target: /query/ }, /among the linear layers layers\.\*, head, got "\/query\/", which matches none/);
    refuses({ target: [] }, /expected a RegExp, one or more names/);
    refuses({ target: 3 }, /expected a RegExp/);
    refuses({ rank: 0 }, /rank: expected an integer of at least 1, got 0/);
    refuses({ rank: 2.5 }, /rank: expected an integer/);
    refuses({ alpha: -1 }, /alpha/);
    refuses({ dropout: 2 }, /dropout: expected a number from 0 to 1/);
    refuses({ variant: 'vera' }, /variant: expected "lora" or "rslora"/);
    refuses({ init: 'pissa' }, /init: expected "default"/);
    refuses({ ranks: 4 }, /options: expected rank, alpha/);
    refuses({ name: 'a.b' }, /name: expected a name of letters/);
    refuses({ dtype: 'int8' }, /dtype: expected a floating-point dtype, got int8/);
    refuses({ rankPattern: { '(': 2 } }, /rankPattern: expected patterns/);
    refuses({ rankPattern: { head: 0 }, target: 'head' }, /rankPattern: expected an integer/);
    refuses({ modulesToSave: 'tail' }, /modulesToSave: expected a match among the modules/);
  });

  test('calls out of order', () => {
    const model = new Net();
    assert.throws(() => setActiveAdapters(model, 'a'), /expected a model with adapters/);
    assert.throws(() => mergeAdapters(model), /Call lora, or loadAdapter/);
    lora(model);
    assert.throws(() => lora(model), /name: expected a new name, got "default"/);
    assert.throws(() => setActiveAdapters(model, 'b'), /expected one of the adapters default, got "b"/);
    assert.throws(() => removeAdapter(model, 'b'), og.StateError);
    assert.throws(() => setActiveAdapters(model, { default: NaN }), og.AttributeError);
    const whole = lora(new Net(), { target: 'layers.0', name: 'a', modulesToSave: 'head' });
    addAdapter(whole, 'b', { target: 'layers.0', modulesToSave: ['head'] });
    assert.throws(
      () => setActiveAdapters(whole, ['a', 'b']),
      /expected one adapter that has head\.weight, got a and b/,
    );
    assert.throws(() => addAdapter(whole, 'c', { modulesToSave: 'layers.0' }), /a layer with an adapter on it/);
  });
});
