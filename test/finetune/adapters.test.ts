/** Adapters by name: which are active, removing, sharing; element types; the trainer; wrong calls. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
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
  withoutAdapters,
  type LoraOptions,
} from '../../src/finetune/index.js';
import * as og from '../../src/index.js';
import { nn, optim } from '../../src/index.js';
import { gpt, input, layerOf, Net, tokens } from '../helpers/adapted.js';
import { assertClose, numbersOf } from '../helpers/allclose.js';

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

  test('each adapter starts from the model’s own module, whichever is active', () => {
    const model = lora(new Net(), { target: 'layers.0', name: 'a', modulesToSave: 'head' });
    const own = numbersOf(new Net().head.weight);
    nn.init.zeros_(model.head.weight);
    addAdapter(model, 'b', { target: 'layers.0', modulesToSave: 'head' });
    setActiveAdapters(model, 'b');
    assert.deepEqual(numbersOf(model.head.weight), own);
    nn.init.ones_(model.head.weight);
    assert.deepEqual(new Set(numbersOf(adapterState(model, 'a')['head.weight']!)), new Set([0]));
    setActiveAdapters(model, 'a');
    assert.deepEqual(new Set(numbersOf(model.head.weight)), new Set([0]));
    removeAdapter(model, 'a');
    assert.deepEqual(numbersOf(model.head.weight), own);
    setActiveAdapters(model, 'b');
    assert.deepEqual(
      trainableParameters(model).names.filter((name) => name.startsWith('head')),
      ['head.weight', 'head.bias'],
    );
    assert.deepEqual(new Set(numbersOf(mergeAndUnload(model).head.weight)), new Set([1]));
    assert.equal(trainableParameters(model).count, 0);
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

  test('an adapted output layer counts in the loss', () => {
    const config = { vocabSize: 16, context: 16, layers: 1, heads: 2, width: 16, tieEmbeddings: false };
    const model = lora(new og.GPT(config), { target: 'head', init: 'random' });
    const loss = model.loss(tokens, tokens);
    assertClose(loss, og.crossEntropy(model.forward(tokens), tokens), { rtol: 1e-5 });
    loss.backward();
    const trained = model.parameters().filter(({ requiresGrad }) => requiresGrad);
    assert.equal(trained.length, 2);
    for (const { grad } of trained) assert.ok(numbersOf(grad!).some((value) => value !== 0));
    const other = lora(new og.GPT(config), { target: 'q', modulesToSave: 'head' });
    other.loss(tokens, tokens).backward();
    assert.ok(numbersOf(other.head!.weight.grad!).some((value) => value !== 0));
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

describe('the trainer', () => {
  const folder = mkdtempSync(join(tmpdir(), 'omnigrad-adapted-'));
  after(() => rmSync(folder, { recursive: true, force: true }));

  const trainer = (steps: number, dir?: string): og.Trainer<og.GPT> => {
    og.manualSeed(5);
    const data = Int32Array.from({ length: 600 }, (_, i) => (i * i) % 16);
    return new og.Trainer(lora(gpt(), { rank: 2, variant: 'dora', dropout: 0.1 }), {
      train: new og.TextDataset(data, { context: 16 }),
      batchSize: 4,
      steps,
      optimizer: (parameters) => new optim.AdamW(parameters, { lr: 1e-2 }),
      seed: 3,
      ...(dir === undefined ? {} : { checkpoint: { dir, every: 1000 } }),
    });
  };

  test('trains adapters only, and goes on from a checkpoint', async () => {
    const bits = (model: og.GPT): Float64Array[] => Object.values(model.stateDict()).map(numbersOf);
    const whole = trainer(8);
    assert.deepEqual(whole.optimizer.parameters().length, trainableParameters(whole.model).names.length);
    const start = bits(whole.model);
    for await (const _ of whole.run());
    assert.notDeepEqual(bits(whole.model), start);
    const abort = new AbortController();
    for await (const event of trainer(8, folder).run({ signal: abort.signal })) {
      if (event.type === 'step' && event.step === 3) abort.abort();
    }
    const second = trainer(8, folder);
    const events: string[] = [];
    for await (const event of second.run()) events.push(event.type);
    assert.equal(events[0], 'resume');
    assert.deepEqual(bits(second.model), bits(whole.model));
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
