/** quantizedLinear in every format against the dequantised weight; nn.QuantizedLinear through files and training. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import * as og from '../../src/index.js';
import { assertClose, numbersOf } from '../helpers/allclose.js';

const { nn } = og;
const stream = og.generator(9);
const normal = (shape: number[]): og.Tensor => og.randn(shape, { generator: stream });

const formats: Record<string, og.QuantizeOptions> = {
  'int4 in groups of 32': { bits: 4, packed: true, groupSize: 32 },
  'uint4 in groups of 64': { bits: 4, packed: true, groupSize: 64, scheme: 'affine' },
  'NF4 in groups of 64, float16 scales': { scheme: 'nf4', packed: true, groupSize: 64, scaleDType: 'float16' },
  'int8 in groups of 128': { groupSize: 128 },
  'int8 by output': { axis: 0 },
  'uint8 by output': { axis: 0, scheme: 'affine' },
  'int4 unpacked': { bits: 4, groupSize: 32 },
  'groups of 16, dequantised first': { groupSize: 16 },
  'by input, dequantised first': { axis: 1 },
  'one scale, dequantised first': { scheme: 'affine' },
  'NF4 unpacked, dequantised first': { scheme: 'nf4', groupSize: 32 },
};

for (const [name, options] of Object.entries(formats)) {
  test(`quantizedLinear with ${name}`, () => {
    const weight = og.quantize(normal([37, 128]), options);
    const bias = normal([37]).requiresGrad_();
    const dense = og.dequantize(weight);
    for (const rows of [[], [1], [3, 2], [40]]) {
      const x = normal([...rows, 128]).requiresGrad_();
      const other = og.clone(x).detach().requiresGrad_();
      const y = og.quantizedLinear(x, weight, bias);
      const wanted = og.linear(other, dense, bias);
      assertClose(y, wanted, { rtol: 1e-4, atol: 1e-4 });
      const grad = normal([...rows, 37]);
      y.backward(grad);
      const biasGrad = numbersOf(bias.grad!);
      bias.grad = null;
      wanted.backward(grad);
      assertClose(x.grad!, other.grad!, { rtol: 1e-4, atol: 1e-4 });
      assertClose(biasGrad, numbersOf(bias.grad!), { rtol: 1e-4, atol: 1e-4 });
      bias.grad = null;
    }
  });
}

test('int8 activations stay within the rounding of their blocks', () => {
  const weight = og.quantize(normal([64, 256]), { bits: 4, packed: true, groupSize: 32 });
  const x = normal([2, 256]);
  const exact = og.quantizedLinear(x, weight);
  const coded = og.quantizedLinear(x, weight, null, { activations: 'int8' });
  assert.notDeepEqual(numbersOf(coded), numbersOf(exact));
  const noise = og.norm(og.sub(coded, exact)).itemSync() as number;
  assert.ok(noise < 0.01 * (og.norm(exact).itemSync() as number), `${noise}`);
  const many = normal([20, 256]);
  assert.deepEqual(
    numbersOf(og.quantizedLinear(many, weight, null, { activations: 'int8' })),
    numbersOf(og.quantizedLinear(many, weight)),
  );
});

test('quantizedLinear refuses what does not fit', () => {
  const weight = og.quantize(normal([5, 64]), { bits: 4, packed: true, groupSize: 32 });
  assert.throws(() => og.quantizedLinear(normal([2, 63]), weight), og.ShapeError);
  assert.throws(() => og.quantizedLinear(normal([2, 64]), weight, normal([4])), og.ShapeError);
  assert.throws(() => og.quantizedLinear(normal([2, 64]), og.quantize(normal([64]))), og.ShapeError);
  assert.throws(() => og.quantizedLinear(og.arange(64), weight), og.DTypeError);
  assert.throws(() => og.quantizedLinear(normal([2, 64]), normal([5, 64]) as never), og.DTypeError);
  assert.throws(
    () => og.quantizedLinear(normal([2, 64]), weight, null, { activations: 'int4' as never }),
    og.AttributeError,
  );
});

test('QuantizedLinear is a rounded Linear, and its state goes through a file', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'omnigrad-quantized-'));
  try {
    for (const options of [
      {},
      { scheme: 'affine' },
      { scheme: 'nf4', groupSize: 64 },
      { bits: 8, groupSize: null },
    ] as const) {
      const linear = new nn.Linear(128, 12);
      const layer = nn.QuantizedLinear.from(linear, options);
      const x = normal([3, 128]);
      assertClose(layer.forward(x), og.linear(x, og.dequantize(layer.weight), linear.bias), { rtol: 1e-4, atol: 1e-5 });
      assert.equal(layer.parameters().length, 1);
      assert.deepEqual(
        layer
          .namedBuffers()
          .map(([name]) => name)
          .sort(),
        'scheme' in options && options.scheme === 'affine' ? ['codes', 'scale', 'zeroPoint'] : ['codes', 'scale'],
      );
      const path = join(folder, 'layer.safetensors');
      await og.saveSafetensors(path, layer.stateDict());
      const other = new nn.QuantizedLinear(128, 12, options);
      other.loadStateDict(await og.loadSafetensors(path));
      assert.deepEqual(numbersOf(other.forward(x)), numbersOf(layer.forward(x)));
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test('an adapter learns on top of a quantised layer, whose codes stay', () => {
  const base = nn.QuantizedLinear.from(new nn.Linear(64, 16));
  const before = numbersOf(base.codes);
  const down = nn.parameter(og.mul(normal([64, 4]), 0.1));
  const up = nn.parameter(og.zeros([4, 16]));
  const optimizer = new og.optim.AdamW([down, up], { lr: 0.02 });
  const [x, target] = [normal([32, 64]), normal([32, 16])];
  const first = og.mul(x, 0.5).requiresGrad_(); // what layers below would learn from
  const loss = (): og.Tensor => og.mseLoss(og.add(base.forward(first), og.matmul(og.matmul(first, down), up)), target);
  const start = loss().itemSync() as number;
  for (let step = 0; step < 60; step++) {
    loss().backward();
    optimizer.step();
    optimizer.zeroGrad();
  }
  assert.ok((loss().itemSync() as number) < 0.7 * start);
  assert.ok(first.grad !== null);
  assert.deepEqual(numbersOf(base.codes), before);
});

test('QuantizedLinear refuses what it cannot hold', () => {
  assert.throws(() => nn.QuantizedLinear.from(new nn.Linear(48, 4)), og.ShapeError);
  assert.throws(() => nn.QuantizedLinear.of(og.quantize(normal([4, 32]))), og.ShapeError);
  assert.throws(() => nn.QuantizedLinear.of(og.quantize(normal([32]), { groupSize: 32 })), og.ShapeError);
  assert.throws(() => new nn.QuantizedLinear(32, 4, { bits: 3 as never }), og.AttributeError);
});
