/** Optimiser state, parameter groups, clipping by value and moving averages. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import * as og from '../../src/index.js';
import { numbersOf } from '../helpers/allclose.js';

const { optim, schedules } = og;

const schedule = schedules.wsd({ warmup: 3, warmupStart: 0.2, decay: 4, end: 0.1, shape: '1-sqrt' });

type Made = og.optim.Optimizer<og.optim.OptimizerOptions>;
const makers: Record<string, (params: og.Tensor[]) => Made> = {
  SGD: (params) => new optim.SGD(params, { lr: 0.05, momentum: 0.9, dampening: 0.1 }) as unknown as Made,
  Lion: (params) => new optim.Lion(params, { lr: 0.01 }) as unknown as Made,
  Adam: (params) => new optim.Adam(params, { lr: 0.05, weightDecay: 0.1 }) as unknown as Made,
  AMSGrad: (params) => new optim.Adam(params, { lr: 0.05, amsgrad: true }) as unknown as Made,
  AdamW: (params) => new optim.AdamW(params, { lr: 0.05 }) as unknown as Made,
  RMSprop: (params) => new optim.RMSprop(params, { momentum: 0.5, centered: true }) as unknown as Made,
  Adagrad: (params) => new optim.Adagrad(params, { lrDecay: 0.1 }) as unknown as Made,
  Adamax: (params) => new optim.Adamax(params) as unknown as Made,
  NAdam: (params) => new optim.NAdam(params) as unknown as Made,
  RAdam: (params) => new optim.RAdam(params) as unknown as Made,
  Adafactor: (params) => new optim.Adafactor(params) as unknown as Made,
  AdamW8bit: (params) => new optim.AdamW8bit(params, { minSize: 8, blockSize: 4 }) as unknown as Made,
  'AdagradFrom0.5': (params) => new optim.Adagrad(params, { initialAccumulatorValue: 0.5 }) as unknown as Made,
  'SGD up': (params) =>
    new optim.SGD(params, { lr: 0.05, momentum: 0.9, nesterov: true, maximize: true }) as unknown as Made,
  Muon: (params) =>
    new optim.Muon(
      inGroups<og.optim.MuonOptions>(params, { lr: 0.05 }, { useMuon: false, lr: 0.01 }),
    ) as unknown as Made,
  'AdamW in groups': (params) =>
    new optim.AdamW(
      inGroups<og.optim.AdamOptions>(params, { lr: 0.05, weightDecay: 0.1 }, { betas: [0.8, 0.9] }),
    ) as unknown as Made,
  'NAdam in groups': (params) =>
    new optim.NAdam(
      inGroups<og.optim.NAdamOptions>(params, { momentumDecay: 0.1 }, { betas: [0.8, 0.9] }),
    ) as unknown as Made,
};

/** A group for each of two parameters. */
function inGroups<O>(
  params: readonly og.Tensor[],
  first: Partial<O>,
  second: Partial<O>,
): (Partial<O> & { params: og.Tensor[] })[] {
  return [
    { params: [params[0]!], ...first },
    { params: [params[1]!], ...second },
  ];
}

const shapes = [[4, 3], [5]];

function freshParams(): og.Tensor[] {
  const generator = og.generator(11);
  return shapes.map((shape) => og.randn(shape, { generator }).requiresGrad_());
}

/** The same gradients for the same step, whoever asks. */
function setGrads(params: readonly og.Tensor[], step: number): void {
  const generator = og.generator(100 + step);
  for (const param of params) param.grad = og.randn(param.shape, { generator });
}

function run(optimizer: Made, params: og.Tensor[], from: number, to: number): void {
  for (let step = from; step < to; step++) {
    setGrads(params, step);
    optimizer.step();
    optimizer.zeroGrad();
  }
}

const valuesOf = (params: readonly og.Tensor[]): number[][] => params.map((param) => [...numbersOf(param)]);

for (const [name, make] of Object.entries(makers)) {
  test(`${name} goes on from its saved state as if it had never stopped, to the last bit`, () => {
    const straight = freshParams();
    run(make(straight), straight, 0, 12);

    const params = freshParams();
    const first = make(params);
    run(first, params, 0, 7);
    const saved = first.stateDict();
    const resumed = params.map((param) => og.noGrad(() => og.clone(param)).requiresGrad_());
    const second = make(resumed);
    second.loadStateDict(saved);
    first.dispose(); // the loaded state is a copy
    run(second, resumed, 7, 12);
    assert.deepEqual(valuesOf(resumed), valuesOf(straight));
  });

  test(`${name} goes on from a checkpoint file to the last bit, with rates that a schedule moved and options that changed`, async () => {
    const steps = (optimizer: Made, params: og.Tensor[], from: number, to: number): void => {
      for (let step = from; step < to; step++) {
        if (step === 3) {
          for (const group of optimizer.groups) [group.baseLr, group.maximize] = [group.baseLr / 2, !group.maximize];
        }
        optimizer.setRateFactor(schedule(step, 12));
        run(optimizer, params, step, step + 1);
      }
    };
    const straight = freshParams();
    const whole = make(straight);
    steps(whole, straight, 0, 12);

    const params = freshParams();
    const first = make(params);
    steps(first, params, 0, 5);
    const dir = await mkdtemp(path.join(tmpdir(), 'omnigrad-optim-'));
    try {
      const runState = { step: 5, tokens: 0, loader: { epoch: 0, batch: 0 }, generator: og.generator(0).state };
      const file = await og.saveCheckpoint({ dir }, { model: {}, optimizer: first.stateDict(), run: runState });
      const second = make(params);
      second.loadStateDict((await og.loadCheckpoint(file)).optimizer);
      assert.deepEqual(second.groups, first.groups);
      steps(second, params, 5, 12);
      assert.deepEqual(valuesOf(params), valuesOf(straight));
      const [a, b] = [second.stateDict(), whole.stateDict()];
      assert.deepEqual([a.steps, a.lrs, a.groups], [b.steps, b.lrs, b.groups]);
      assert.deepEqual(Object.keys(a.tensors).sort(), Object.keys(b.tensors).sort());
      for (const [key, tensor] of Object.entries(a.tensors))
        assert.deepEqual(numbersOf(tensor), numbersOf(b.tensors[key]!));
    } finally {
      await rm(dir, { recursive: true, force: true });
    }
  });

  test(`${name} leaves parameters without gradients alone, and a gradient scale is as scaled gradients`, () => {
    const [a, b] = [freshParams(), freshParams()];
    const [plain, scaled] = [make(a), make(b)];
    const untouched = [...numbersOf(a[1]!)];
    for (let step = 0; step < 3; step++) {
      for (const [params, optimizer, scale] of [
        [a, plain, 1],
        [b, scaled, 0.25],
      ] as const) {
        const grad = og.randn(shapes[0]!, { generator: og.generator(step) });
        params[0]!.grad = og.mul(grad, 1 / scale);
        optimizer.step({ gradScale: scale });
        optimizer.zeroGrad();
      }
    }
    assert.deepEqual([...numbersOf(a[1]!)], untouched);
    assert.deepEqual(valuesOf(b), valuesOf(a)); // powers of two scale exactly
    assert.ok(a.every((param) => param.grad === null));
  });
}

for (const [name, make] of Object.entries(makers)) {
  for (const scale of [0.5, og.tensor(0.5)]) {
    test(`${name} with maximize goes against the negated gradients, scaled by a ${typeof scale}`, () => {
      const [up, down] = [freshParams(), freshParams()];
      const [first, second] = [make(up), make(down)];
      for (const group of first.groups) group.maximize = !group.maximize;
      for (let step = 0; step < 3; step++) {
        setGrads(up, step);
        up.forEach((param, i) => (down[i]!.grad = og.neg(param.grad!)));
        for (const optimizer of [first, second]) optimizer.step({ gradScale: scale });
      }
      assert.deepEqual(valuesOf(up), valuesOf(down));
      assert.notDeepEqual(valuesOf(up), valuesOf(freshParams()));
    });
  }
}

test('a state of other parameters is refused', () => {
  const params = freshParams();
  const optimizer = new optim.AdamW(params);
  run(optimizer as unknown as Made, params, 0, 1);
  const fewer = new optim.AdamW(params.slice(0, 1));
  assert.throws(() => fewer.loadStateDict(optimizer.stateDict()), og.StateError);
  const others = [og.zeros([2, 2]), og.zeros([5])];
  const other = new optim.AdamW(others);
  assert.throws(() => other.loadStateDict(optimizer.stateDict()), og.ShapeError);
  // Nothing was taken over: the refused one still starts from nothing.
  assert.deepEqual(other.stateDict().steps, [0, 0]);
});

test('parameter groups have options of their own', () => {
  const [a, b] = [og.ones([3]), og.ones([3])];
  const optimizer = new optim.SGD([{ params: [a] }, { params: [b], lr: 0.5 }], { lr: 0.25 });
  a.grad = og.ones([3]);
  b.grad = og.ones([3]);
  optimizer.step();
  assert.deepEqual(valuesOf([a, b]), [
    [0.75, 0.75, 0.75],
    [0.5, 0.5, 0.5],
  ]);
  optimizer.groups[1]!.lr = 0.125;
  optimizer.step();
  assert.deepEqual(valuesOf([a, b]), [
    [0.5, 0.5, 0.5],
    [0.375, 0.375, 0.375],
  ]);
  assert.equal(optimizer.lr, 0.25);
  optimizer.lr = 1;
  assert.deepEqual(
    optimizer.groups.map((group) => group.lr),
    [1, 1],
  );
  assert.deepEqual(optimizer.stateDict().lrs, [1, 1]);
  assert.deepEqual(optimizer.parameters(), [a, b]);
});

test('wrong parameters and rates are refused', () => {
  const a = og.ones([3]);
  assert.throws(() => new optim.SGD([a, a]), og.AttributeError);
  assert.throws(() => new optim.SGD([{ params: [a] }, { params: [a] }]), og.AttributeError);
  assert.throws(() => new optim.SGD([3 as unknown as og.Tensor]), og.AttributeError);
  assert.throws(() => new optim.SGD([a], { lr: -1 }), og.AttributeError);
  assert.throws(() => new optim.SGD([a], { lr: NaN }), og.AttributeError);
  assert.throws(() => (new optim.SGD([a]).lr = Infinity), og.AttributeError);
});

test('a step counts as a change of the parameter: a graph over its old value is refused', () => {
  const w = og.ones([3]).requiresGrad_();
  const loss = og.sum(og.mul(w, w));
  w.grad = og.ones([3]);
  new optim.SGD([w], { lr: 0.1 }).step();
  assert.throws(() => og.backward(loss), og.StateError);
});

test('clipping by value, and norms without gradients', () => {
  const [a, b] = [og.zeros([3]), og.zeros([2])];
  assert.equal(optim.gradNorm([a, b]).itemSync(), 0);
  a.grad = og.tensor([-3, 0.5, 2]);
  assert.equal(optim.gradNorm([a, b]).itemSync(), Math.fround(Math.sqrt(13.25)));
  optim.clipGradValue([a, b], 1);
  assert.deepEqual(valuesOf([a.grad!]), [[-1, 0.5, 1]]);
  assert.equal(b.grad, null);
  assert.throws(() => optim.clipGradNorm([a], -1), og.AttributeError);
  assert.throws(() => optim.gradNorm([a], 0.5), og.AttributeError);
});

test('EMA follows, swaps in and out, and goes on from its state', () => {
  const w = og.zeros([2]);
  const ema = new optim.EMA([w], 0.75);
  const set = (value: number): void => void og.noGrad(() => og.copy_(w, og.full([2], value)));
  set(4);
  ema.update();
  assert.deepEqual(valuesOf([ema.stateDict()['0']!]), [[1, 1]]);
  set(8);
  ema.update();
  assert.deepEqual(valuesOf([ema.stateDict()['0']!]), [[2.75, 2.75]]);
  assert.throws(() => ema.restore(), og.StateError);
  ema.apply();
  assert.deepEqual(valuesOf([w]), [[2.75, 2.75]]);
  assert.throws(() => ema.apply(), og.StateError);
  ema.restore();
  assert.deepEqual(valuesOf([w]), [[8, 8]]);
  const again = new optim.EMA([w], 0.75);
  again.loadStateDict(ema.stateDict());
  ema.dispose();
  again.update();
  assert.deepEqual(valuesOf([again.stateDict()['0']!]), [[4.0625, 4.0625]]);
  assert.throws(() => again.loadStateDict({}), og.StateError);
  assert.throws(() => new optim.EMA([w], 1), og.AttributeError);
});

test('training steps leave no tensors behind', () => {
  const params = freshParams();
  for (const make of Object.values(makers)) {
    const optimizer = make(params);
    run(optimizer, params, 0, 2);
    const before = og.memory().tensors;
    run(optimizer, params, 2, 6);
    assert.equal(og.memory().tensors, before);
    optimizer.dispose();
  }
});
