/** Steps that take several parameters and a scale along: the bits of steps one by one on gradients that were scaled before. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as og from '../../src/index.js';
import { numbersOf } from '../helpers/allclose.js';

const { optim } = og;
type Made = og.optim.Optimizer<og.optim.OptimizerOptions>;

const shapes = [[4, 3], [1], [37], [2, 3, 5], [0], [40000], [7], [129], [3], [2], [65], [5, 5]];

function parameters(seed: number, dtype: og.DType = 'float32'): og.Tensor[] {
  const generator = og.generator(seed);
  return shapes.map((shape) => {
    const param = og.randn(shape, { generator, dtype }).requiresGrad_();
    param.grad = og.randn(shape, { generator, dtype });
    return param;
  });
}

const valuesOf = (params: readonly og.Tensor[]): Float64Array[] => params.map(numbersOf);

const makers: Record<string, (params: og.Tensor[]) => Made> = {
  AdamW: (params) => new optim.AdamW(params, { lr: 0.05 }) as unknown as Made,
  Adam: (params) => new optim.Adam(params, { lr: 0.05, weightDecay: 0.1 }) as unknown as Made,
  AMSGrad: (params) => new optim.Adam(params, { lr: 0.05, amsgrad: true }) as unknown as Made,
  SGD: (params) => new optim.SGD(params, { lr: 0.05, momentum: 0.9 }) as unknown as Made,
  Lion: (params) => new optim.Lion(params, { lr: 0.01 }) as unknown as Made,
  RMSprop: (params) => new optim.RMSprop(params) as unknown as Made,
};

for (const [name, make] of Object.entries(makers)) {
  for (const maxNorm of [0.5, 1e6]) {
    test(`${name} clips in its own pass, to a norm of ${maxNorm}`, () => {
      const [apart, together] = [parameters(1), parameters(1)];
      const [first, second] = [make(apart), make(together)];
      for (let step = 0; step < 3; step++) {
        const before = optim.clipGradNorm(apart, maxNorm);
        first.step();
        const norm = optim.gradNorm(together);
        assert.equal(norm.itemSync(), before.itemSync());
        second.step({ gradScale: optim.clipFactor(norm, maxNorm) });
        assert.deepEqual(valuesOf(together), valuesOf(apart));
        if (maxNorm > 1e5)
          assert.deepEqual(valuesOf(apart.map((x) => x.grad!)), valuesOf(together.map((x) => x.grad!)));
        apart.forEach((param, i) => og.noGrad(() => param.grad!.copy_(together[i]!.grad!)));
      }
    });
  }
}

test('AdamW takes parameters together that have different dtypes, step numbers and groups', () => {
  const make = (): og.Tensor[] => [...parameters(2), ...parameters(3, 'float64').slice(0, 7)];
  const [apart, together] = [make(), make()];
  const rates = [0.1, 0.01];
  const groups = rates.map((lr, k) => ({ lr, params: together.filter((_, i) => i % 2 === k) }));
  const whole = new optim.AdamW(groups);
  const single = apart.map((param, i) => new optim.AdamW([param], { lr: rates[i % 2]! }));
  for (let step = 0; step < 3; step++) {
    const late = step === 0 ? [3, 8] : [];
    const kept = late.map((i) => [apart[i]!.grad, together[i]!.grad] as const);
    for (const i of late) apart[i]!.grad = together[i]!.grad = null;
    whole.step();
    for (const one of single) one.step();
    late.forEach((i, k) => ([apart[i]!.grad, together[i]!.grad] = kept[k]!));
  }
  assert.deepEqual(valuesOf(together), valuesOf(apart));
  assert.deepEqual(whole.stateDict().steps.filter((steps) => steps === 2).length, 2);
});

test('the norm of many gradients is that of one vector', () => {
  const params = [...parameters(4), ...parameters(5), ...parameters(6)];
  const total = params.reduce((sum, { grad }) => sum + numbersOf(grad!).reduce((a, x) => a + x * x, 0), 0);
  const norm = optim.gradNorm(params);
  assert.equal(norm.dtype, 'float32');
  assert.ok(Math.abs(norm.itemSync() - Math.sqrt(total)) < 1e-5 * Math.sqrt(total));
  const threads = og.getThreads();
  og.setThreads(1);
  assert.equal(optim.gradNorm(params).itemSync(), norm.itemSync());
  og.setThreads(threads);
});

test('a scale must be one number', () => {
  const params = parameters(7);
  const adam = new optim.AdamW(params);
  assert.throws(() => adam.step({ gradScale: og.ones([2]) }), og.ShapeError);
  assert.throws(() => adam.step({ gradScale: 'x' as never }), og.AttributeError);
  assert.throws(() => optim.clipFactor(og.ones([]), -1), og.AttributeError);
  assert.throws(() => optim.clipFactor(1 as never, 1), og.DTypeError);
  assert.deepEqual(
    adam.stateDict().steps.every((steps) => steps === 0),
    true,
  );
});
