/** Combined adapters: the change of the weight that PEFT's add_weighted_adapter gives. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import {
  addAdapter,
  adaptersOf,
  combineAdapters,
  lora,
  type LoraLinear,
  setActiveAdapters,
} from '../../../src/finetune/index.js';
import { productSvd } from '../../../src/finetune/merge/small_svd.js';
import * as og from '../../../src/index.js';
import { nn } from '../../../src/index.js';
import { assertClose, numbersOf } from '../../helpers/allclose.js';
import { load, readSafetensors } from '../../helpers/reference.js';
import { root } from '../../helpers/source_tree.js';

const stored = readSafetensors(join(root, 'test/fixtures/merge/merge.safetensors'));
const tight = { rtol: 1e-9, atol: 1e-10 };

class Net extends nn.Module {
  readonly up = new nn.Linear(6, 8, { bias: false, dtype: 'float64' });
  readonly down = new nn.Linear(8, 5, { bias: false, dtype: 'float64' });
  forward(x: og.Tensor): og.Tensor {
    return this.down.forward(this.up.forward(x).tanh());
  }
}
const layers = ['up', 'down'] as const;
const at = (model: Net, layer: (typeof layers)[number]): LoraLinear => model[layer] as unknown as LoraLinear;

function adapted(): Net {
  const model = lora(new Net(), { name: 'one', rank: 3, alpha: 6, target: layers });
  addAdapter(model, 'two', { rank: 3, alpha: 3, variant: 'rslora', target: layers });
  og.noGrad(() => {
    for (const layer of layers) {
      (at(model, layer).base as nn.Linear).weight.copy_(load(stored, `${layer}.weight`));
      for (const name of ['one', 'two']) {
        const { loraA, loraB } = at(model, layer).adapters.get(name)!;
        loraA.copy_(load(stored, `${layer}.${name}.a`));
        loraB.copy_(load(stored, `${layer}.${name}.b`));
      }
    }
  });
  return model;
}

test('linear, cat and svd as PEFT combines them', () => {
  const weights = { linear: { one: 0.7, two: -0.4 }, cat: { one: 0.7, two: -0.4 }, svd: { one: 0.7, two: 1.3 } };
  const model = adapted();
  for (const method of ['linear', 'cat', 'svd'] as const) {
    combineAdapters(model, method, weights[method], { method, ...(method === 'svd' ? { rank: 4 } : {}) });
    for (const layer of layers) {
      const adapter = at(model, layer).adapters.get(method)!;
      assert.equal(adapter.rank, { linear: 3, cat: 6, svd: 4 }[method]);
      const delta = adapter.weightChange(at(model, layer).base, 1);
      // PEFT's weights are float32 for linear and svd
      const tolerance = method === 'cat' ? tight : { rtol: 1e-6, atol: 1e-6 };
      assertClose(delta, load(stored, `${layer}.${method}.delta`), tolerance, `${method} ${layer}`);
    }
  }
  assert.deepEqual(adaptersOf(model), { names: ['one', 'two', 'linear', 'cat', 'svd'], active: { one: 1 } });
  // the concatenated one computes what both do together
  const x = og.randn([3, 6], { dtype: 'float64' });
  setActiveAdapters(model, weights.cat);
  const both = numbersOf(model.forward(x));
  setActiveAdapters(model, 'cat');
  assertClose(model.forward(x), both, tight);
});

test('what cannot be combined is refused, and nothing changes', () => {
  const model = adapted();
  addAdapter(model, 'wide', { rank: 5, target: layers });
  addAdapter(model, 'long', { rank: 3, variant: 'dora', target: layers });
  assert.throws(
    () => combineAdapters(model, 'new', { one: 1, wide: 1 }, { method: 'linear' }),
    /equal ranks for linear, got 3, 5/,
  );
  assert.throws(() => combineAdapters(model, 'new', { one: 1, long: 1 }), /an adapter of A and B alone/);
  assert.throws(() => combineAdapters(model, 'new', { one: 1, three: 1 }), /one of the adapters/);
  assert.throws(() => combineAdapters(model, 'two', { one: 1 }), /a new name/);
  assert.throws(() => combineAdapters(model, 'new', {}), /adapters with their weights/);
  assert.deepEqual(adaptersOf(model).names, ['one', 'two', 'wide', 'long']);
  combineAdapters(model, 'new', { one: 1, wide: 2 });
  assert.equal(at(model, 'up').adapters.get('new')!.rank, 8);
});

test('singular values of products that lack rank', () => {
  const column = (...values: number[]): Float64Array => Float64Array.from(values);
  // both columns of the left matrix are equal, the third is zero: rank 1
  const left = [column(1, 2, 2), column(1, 2, 2), column(0, 0, 0)];
  const right = [column(3, 0), column(0, 4), column(5, 6)];
  const found = productSvd(left, right, 3);
  assertClose(found.map(({ value }) => value), [15, 0, 0], { rtol: 1e-12, atol: 1e-12 }); // prettier-ignore
  const { u, v } = found[0]!;
  for (let i = 0; i < 3; i++) {
    for (let j = 0; j < 2; j++) assertClose([15 * u[i]! * v[j]!], [left[0]![i]! * [3, 4][j]!], { rtol: 1e-12 });
  }
});
