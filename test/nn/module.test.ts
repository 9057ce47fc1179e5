/** Modules: names, state, freezing, casting, hooks, modes; and the shapes of every layer. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as og from '../../src/index.js';
import { numbersOf } from '../helpers/allclose.js';

const { nn } = og;

class Pair extends nn.Module {
  readonly first = new nn.Linear(3, 4);
  readonly items = [new nn.Linear(4, 4, { bias: false }), new nn.LayerNorm(4)];
  /** The same tensor as `first.bias`: listed once. */
  readonly shared = this.first.bias;
  /** A buffer. */
  readonly steps = og.zeros([2]);
  readonly scratch = og.zeros([5]);

  constructor() {
    super();
    this.excludeFromState('scratch');
  }

  forward(x: og.Tensor): og.Tensor {
    return (this.items[1] as og.nn.LayerNorm).forward((this.items[0] as og.nn.Linear).forward(this.first.forward(x)));
  }
}

const names = (list: readonly (readonly [string, og.Tensor])[]): string[] => list.map(([name]) => name).sort();

test('parameters and buffers go by their path, each once', () => {
  const model = new Pair();
  const params = names(model.namedParameters());
  assert.equal(params.length, 5);
  for (const name of ['first.weight', 'items.0.weight', 'items.1.weight', 'items.1.bias'])
    assert.ok(params.includes(name), name);
  assert.ok(params.includes('shared') !== params.includes('first.bias'));
  assert.deepEqual(names(model.namedBuffers()), ['scratch', 'steps']);
  assert.equal(model.parameterCount(), 12 + 4 + 16 + 8);
  assert.deepEqual(
    [...model.namedModules()].map(([name]) => name),
    ['', 'first', 'items.0', 'items.1'],
  );
  assert.ok(model.parameters().every((tensor) => tensor.requiresGrad && nn.isParameter(tensor)));
});

test('a state goes from one module to another', () => {
  const [a, b] = [new Pair(), new Pair()];
  const x = og.randn([2, 3]);
  assert.notDeepEqual(numbersOf(a.forward(x)), numbersOf(b.forward(x)));
  const state = a.stateDict();
  assert.ok(!('scratch' in state) && 'steps' in state);
  assert.ok(Object.values(state).every((tensor) => !tensor.requiresGrad));
  const before = b.parameters();
  assert.deepEqual(b.loadStateDict(state), { missing: [], unexpected: [] });
  assert.deepEqual(b.parameters(), before); // copied into, not replaced: optimisers keep theirs
  assert.deepEqual(numbersOf(a.forward(x)), numbersOf(b.forward(x)));
});

test('a state that does not fit changes nothing', () => {
  const [model, other] = [new Pair(), new Pair()];
  const values = (): Float64Array[] => model.parameters().map(numbersOf);
  const before = values();
  const { 'items.1.bias': left, ...rest } = other.stateDict();
  assert.ok(left);
  assert.throws(
    () => model.loadStateDict(rest),
    (error: og.StateError) => error instanceof og.StateError && /items\.1\.bias/.test(error.message),
  );
  assert.throws(() => model.loadStateDict({ ...other.stateDict(), extra: og.zeros([1]) }), og.StateError);
  assert.throws(() => model.loadStateDict({ ...other.stateDict(), 'items.1.bias': og.zeros([5]) }), og.ShapeError);
  assert.throws(() => model.loadStateDict({ 'items.1.bias': og.zeros([5]) }, { strict: false }), og.ShapeError);
  assert.deepEqual(values(), before);
  const report = model.loadStateDict({ ...rest, extra: og.zeros([1]) }, { strict: false });
  assert.deepEqual(report, { missing: ['items.1.bias'], unexpected: ['extra'] });
  assert.deepEqual(numbersOf(model.first.weight), numbersOf(other.first.weight));
});

test('another dtype is cast on loading, and `to` casts in place', () => {
  const [model, half] = [new Pair(), new Pair().to('bfloat16')];
  assert.ok([...half.parameters()].every((tensor) => tensor.dtype === 'bfloat16' && tensor.requiresGrad));
  assert.equal(half.namedParameters().length, 5); // what was shared still is
  assert.equal(half.shared, half.first.bias);
  model.loadStateDict(half.stateDict());
  assert.equal(model.first.weight.dtype, 'float32');
  assert.deepEqual(numbersOf(model.first.weight), numbersOf(half.first.weight));
  const double = model.to('float64');
  assert.equal(double.forward(og.randn([2, 3], { dtype: 'float64' })).dtype, 'float64');
});

test('frozen parameters get no gradient', () => {
  const model = new Pair();
  model.freeze(/^items/);
  og.backward(og.sum(og.square(model.forward(og.randn([2, 3])))));
  assert.ok(model.first.weight.grad !== null);
  assert.equal((model.items[0] as og.nn.Linear).weight.grad, null);
  model.zeroGrad();
  assert.equal(model.first.weight.grad, null);
  model.unfreeze((name) => name === 'items.0.weight').freeze((name) => name.startsWith('first') || name === 'shared');
  og.backward(og.sum(og.square(model.forward(og.randn([2, 3])))));
  assert.equal(model.first.weight.grad, null);
  assert.ok((model.items[0] as og.nn.Linear).weight.grad !== null);
});

test('modes reach every module below', () => {
  const model = new nn.Sequential(new nn.Linear(3, 64), new nn.Dropout(0.5));
  const x = og.randn([4, 3]);
  const zeros = (): number => numbersOf(model.forward(x)).filter((value) => value === 0).length;
  assert.ok(zeros() > 60);
  assert.equal(model.eval(), model);
  assert.ok([...model.namedModules()].every(([, module]) => !module.training));
  assert.equal(zeros(), 0);
  model.train();
  assert.ok(zeros() > 60);
});

test('hooks see and replace inputs and outputs, until they are removed', () => {
  const model = new nn.Sequential(new nn.Linear(2, 2));
  const layer = model.layers[0] as og.nn.Linear;
  const x = og.ones([1, 2]);
  const plain = numbersOf(model.forward(x));
  const seen: string[] = [];
  const removePre = layer.registerForwardPreHook((module, [input]) => {
    assert.equal(module, layer);
    seen.push('before');
    return [og.mul(input as og.Tensor, 0)];
  });
  const removeAfter = layer.registerForwardHook((_module, _inputs, output) => {
    seen.push('after');
    return og.add(output as og.Tensor, 1);
  });
  const removeSecond = layer.registerForwardHook(() => void seen.push('second'));
  assert.deepEqual(numbersOf(model.forward(x)), numbersOf(og.add(og.reshape(layer.bias!, [1, 2]), 1)));
  assert.deepEqual(seen, ['before', 'after', 'second']);
  removePre();
  removeAfter();
  removeSecond();
  assert.deepEqual(numbersOf(model.forward(x)), plain);
  assert.ok(!Object.hasOwn(layer, 'forward'), 'without hooks, callers may fuse around a plain forward again');
  assert.deepEqual(names(model.namedParameters()), ['layers.0.bias', 'layers.0.weight']);
});

test('a layer without inputs has no weights to draw', () => {
  assert.deepEqual([...numbersOf(new nn.Linear(0, 2).forward(og.zeros([1, 0])))].map(Math.abs), [0, 0]);
  for (const init of [nn.init.xavierUniform_, nn.init.xavierNormal_, nn.init.kaimingNormal_])
    assert.equal((init as (tensor: og.Tensor) => og.Tensor)(og.zeros([2, 0])).size, 0);
});

test('disposal frees all parameters', () => {
  const before = og.memory().tensors;
  const model = new nn.TransformerBlock(16, 2);
  model.dispose();
  assert.equal(og.memory().tensors, before);
});

test('every layer keeps its promised shape', () => {
  const shapeOf = (tensor: og.Tensor): number[] => [...tensor.shape];
  const x = og.randn([2, 5, 12]);
  assert.deepEqual(shapeOf(new nn.Linear(12, 7).forward(x)), [2, 5, 7]);
  assert.deepEqual(shapeOf(new nn.Linear(12, 0).forward(x)), [2, 5, 0]);
  assert.deepEqual(shapeOf(new nn.Embedding(9, 4).forward(og.zeros([2, 3], { dtype: 'int32' }))), [2, 3, 4]);
  assert.deepEqual(shapeOf(new nn.LayerNorm(12).forward(x)), [2, 5, 12]);
  assert.deepEqual(shapeOf(new nn.LayerNorm([5, 12], { affine: false }).forward(x)), [2, 5, 12]);
  assert.deepEqual(shapeOf(new nn.RMSNorm(12).forward(x)), [2, 5, 12]);
  assert.deepEqual(shapeOf(new nn.Dropout(0.1).forward(x)), [2, 5, 12]);
  for (const activation of ['gelu', 'geluTanh', 'swiglu'] as const) {
    assert.deepEqual(shapeOf(new nn.Mlp(12, 20, { activation }).forward(x)), [2, 5, 12]);
    assert.deepEqual(shapeOf(new nn.TransformerBlock(12, 3, { activation, norm: 'rmsNorm' }).forward(x)), [2, 5, 12]);
  }
  assert.deepEqual(shapeOf(new nn.MultiHeadAttention(12, 4, { kvHeads: 2, headWidth: 6 }).forward(x)), [2, 5, 12]);
  assert.deepEqual(shapeOf(new nn.Conv1d(5, 8, 3, { padding: 1 }).forward(x)), [2, 8, 12]);
  assert.deepEqual(shapeOf(new nn.Conv2d(3, 8, [3, 2], { stride: 2 }).forward(og.randn([2, 3, 9, 8]))), [2, 8, 4, 4]);
  assert.deepEqual(shapeOf(new nn.Sequential(new nn.Linear(12, 3), og.relu).forward(x)), [2, 5, 3]);
});

test('layers refuse sizes that cannot be', () => {
  assert.throws(() => new nn.Linear(-1, 3), og.AttributeError);
  assert.throws(() => new nn.Linear(2.5, 3), og.AttributeError);
  assert.throws(() => new nn.Embedding(3, NaN), og.AttributeError);
  assert.throws(() => new nn.Dropout(1.5), og.AttributeError);
  assert.throws(() => new nn.MultiHeadAttention(12, 5), og.AttributeError);
  assert.throws(() => new nn.MultiHeadAttention(12, 4, { kvHeads: 3 }), og.AttributeError);
  assert.throws(() => new nn.Mlp(4, 8, { activation: 'tanh' as 'gelu' }), og.AttributeError);
  assert.throws(() => new nn.Conv1d(3, 8, 0), og.AttributeError);
  assert.throws(() => new nn.Sequential(3 as unknown as og.nn.Layer), og.AttributeError);
  assert.throws(() => new nn.Linear(3, 4).forward(og.ones([2, 5])), og.ShapeError);
  assert.throws(() => new nn.Embedding(3, 4).forward(og.tensor([3], { dtype: 'int32' })).dataSync(), og.AttributeError);
});
