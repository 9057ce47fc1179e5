/** AdamW8bit beside AdamW: the same trajectory up to the rounding of its states, a quarter of the memory, and its state. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as og from '../../src/index.js';
import { numbersOf } from '../helpers/allclose.js';

const { optim } = og;

/** Least squares with a matrix of 64 · 96 unknowns. */
function fit(
  make: (params: og.Tensor[]) => { step(): void; zeroGrad(): void },
  steps: number,
): { loss: number[]; weight: og.Tensor } {
  const stream = og.generator(4);
  const [x, wanted] = [og.randn([128, 64], { generator: stream }), og.randn([64, 96], { generator: stream })];
  const y = og.matmul(x, wanted);
  const weight = og.zeros([64, 96]).requiresGrad_();
  const optimizer = make([weight]);
  const loss: number[] = [];
  for (let step = 0; step < steps; step++) {
    const error = og.mseLoss(og.matmul(x, weight), y);
    error.backward();
    loss.push(error.itemSync() as number);
    optimizer.step();
    optimizer.zeroGrad();
  }
  return { loss, weight };
}

test('AdamW8bit follows AdamW', () => {
  const options = { lr: 0.02, betas: [0.9, 0.99] as const, weightDecay: 0.01 };
  const full = fit((params) => new optim.AdamW(params, options), 150);
  const coded = fit((params) => new optim.AdamW8bit(params, { ...options, minSize: 0 }), 150);
  assert.ok(full.loss.at(-1)! < 0.01 * full.loss[0]!, 'AdamW learns');
  for (const [step, loss] of full.loss.entries()) {
    const [a, b] = [loss, coded.loss[step]!];
    assert.ok(Math.abs(a - b) <= 0.05 * a + 0.002 * full.loss[0]!, `step ${step}: ${b} instead of ${a}`);
  }
  const distance = og.norm(og.sub(coded.weight, full.weight)).itemSync() as number;
  assert.ok(distance < 0.05 * (og.norm(full.weight).itemSync() as number), `${distance}`);
  assert.notDeepEqual(numbersOf(coded.weight), numbersOf(full.weight));
});

test('small parameters keep exact states', () => {
  const [a, b] = [0, 1].map(() => og.ones([100]).requiresGrad_()) as [og.Tensor, og.Tensor];
  const optimizers = [new optim.AdamW([a]), new optim.AdamW8bit([b])];
  for (let step = 0; step < 5; step++) {
    a.grad = og.randn([100], { generator: og.generator(step) });
    b.grad = og.randn([100], { generator: og.generator(step) });
    for (const optimizer of optimizers) optimizer.step();
  }
  assert.deepEqual(numbersOf(b), numbersOf(a));
});

test('its state is small, and goes on where it was', () => {
  const make = (): og.Tensor => og.randn([5000], { generator: og.generator(1) }).requiresGrad_();
  const step = (optimizer: og.optim.AdamW8bit, param: og.Tensor, seed: number): void => {
    param.grad = og.randn([5000], { generator: og.generator(seed) });
    optimizer.step();
  };
  const straight = make();
  const one = new optim.AdamW8bit([straight]);
  for (let i = 0; i < 6; i++) step(one, straight, i);
  const param = make();
  const first = new optim.AdamW8bit([param]);
  for (let i = 0; i < 3; i++) step(first, param, i);
  const saved = first.stateDict();
  assert.equal(saved.tensors['0.expAvgCodes']!.dtype, 'uint8');
  const bytes = Object.values(saved.tensors).reduce((sum, tensor) => sum + tensor.bytes, 0);
  assert.equal(bytes, 2 * 5000 + 2 * 3 * 4);
  const second = new optim.AdamW8bit([param]);
  second.loadStateDict(saved);
  for (let i = 3; i < 6; i++) step(second, param, i);
  assert.deepEqual(numbersOf(param), numbersOf(straight));
});

test('wrong block sizes are refused', () => {
  assert.throws(() => new optim.AdamW8bit([og.ones([3])], { blockSize: 0 }), og.AttributeError);
  assert.throws(() => new optim.AdamW8bit([og.ones([3])], { blockSize: 8192 }), og.AttributeError);
});
