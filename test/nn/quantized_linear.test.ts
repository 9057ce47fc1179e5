/** quantizedLinear in every format against the dequantised weight; nn.QuantizedLinear through files and training. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import * as og from '../../src/index.js';
import { applyEnd } from '../../src/ops/linear.js';
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

/** Blocks of 32 rounded to int8 and back. */
function rounded(values: ArrayLike<number>): Float32Array {
  const out = Float32Array.from(values);
  for (let at = 0; at < out.length; at += 32) {
    const block = out.subarray(at, at + 32);
    const scale = Math.fround(Math.max(...block.map(Math.abs)) / 127) || 1;
    for (let i = 0; i < block.length; i++) {
      const ratio = Math.fround(block[i]! / scale);
      const near = Math.round(ratio);
      block[i] = (near - ratio === 0.5 && near % 2 !== 0 ? near - 1 : near) * scale;
    }
  }
  return out;
}

const integerFormats: Record<string, og.QuantizeOptions> = {
  'int4 in groups of 32': { bits: 4, packed: true, groupSize: 32 },
  'uint4 in groups of 64, float16 scales': {
    bits: 4,
    packed: true,
    groupSize: 64,
    scheme: 'affine',
    scaleDType: 'float16',
  },
  'int8 in groups of 128': { groupSize: 128 },
  'uint8 by output': { axis: 0, scheme: 'affine' },
};

for (const [name, options] of Object.entries(integerFormats)) {
  test(`int8 activations times ${name} are the product of what was rounded, on every set`, () => {
    const before = og.backend().isa;
    try {
      for (const isa of og.backend().isas) {
        og.setIsa(isa);
        const weight = og.quantize(normal([41, 256]), options);
        const bias = normal([41]);
        for (const dtype of ['float32', 'bfloat16', 'float64'] as const)
          for (const rows of [1, 2, 5, 20, 40]) {
            const x = normal([rows, 256]).to(dtype);
            const near = og.tensor(rounded(numbersOf(x)), { shape: [rows, 256] });
            const coded = og.quantizedLinear(x, weight, bias, { activations: 'int8' });
            assert.equal(coded.dtype, dtype);
            const tolerance = dtype === 'bfloat16' ? 2e-2 : 1e-4;
            assertClose(coded.to('float32'), og.linear(near, og.dequantize(weight), bias), {
              rtol: tolerance,
              atol: tolerance,
            });
          }
      }
    } finally {
      og.setIsa(before);
    }
  });
}

test('int8 activations: the packed weight follows its codes and scales, and the gradient is that of the float product', () => {
  const weight = og.quantize(normal([33, 64]), { bits: 4, packed: true, groupSize: 32 });
  const x = normal([3, 64]).requiresGrad_();
  const multiply = (): og.Tensor => og.quantizedLinear(x, weight, null, { activations: 'int8' });
  const first = numbersOf(multiply());
  assert.deepEqual(numbersOf(multiply()), first);
  og.copy_(weight.scale, og.mul(weight.scale, 2));
  assert.deepEqual(
    numbersOf(multiply()),
    first.map((value) => 2 * value),
  );
  const grad = normal([3, 33]);
  multiply().backward(grad);
  assertClose(x.grad!, og.matmul(grad, og.dequantize(weight)), { rtol: 1e-4, atol: 1e-4 });
});

test('int8 activations stay within the rounding of their blocks; NF4 keeps floats', () => {
  for (const rows of [2, 20]) {
    const weight = og.quantize(normal([64, 256]), { bits: 4, packed: true, groupSize: 32 });
    const x = normal([rows, 256]);
    const exact = og.quantizedLinear(x, weight);
    const coded = og.quantizedLinear(x, weight, null, { activations: 'int8' });
    assert.notDeepEqual(numbersOf(coded), numbersOf(exact));
    const noise = og.norm(og.sub(coded, exact)).itemSync() as number;
    assert.ok(noise < 0.01 * (og.norm(exact).itemSync() as number), `${noise}`);
    const nf4 = og.quantize(normal([64, 256]), { scheme: 'nf4', packed: true, groupSize: 64 });
    assert.deepEqual(
      numbersOf(og.quantizedLinear(x, nf4, null, { activations: 'int8' })),
      numbersOf(og.quantizedLinear(x, nf4)),
    );
  }
});

test('activation and residual cost no call of their own without a gradient, and mean the same with one', () => {
  const bias = normal([37]);
  for (const [name, options] of Object.entries(formats)) {
    const weight = og.quantize(normal([37, 128]), options);
    for (const rows of [[], [1], [3, 2], [40]]) {
      const [x, residual] = [normal([...rows, 128]), normal([...rows, 37])];
      for (const activations of ['float', 'int8'] as const)
        for (const activation of ['none', 'gelu', 'geluTanh', 'silu', 'relu', 'sigmoid', 'tanh'] as const) {
          const plain = og.quantizedLinear(x, weight, bias, { activations });
          const end = { activations, activation, residual };
          const wanted = og.add(applyEnd(plain, { activation }), residual);
          assertClose(og.quantizedLinear(x, weight, bias, end), wanted, { rtol: 1e-5, atol: 1e-5 }, name);
        }
    }
  }
  const weight = og.quantize(normal([8, 64]), { bits: 4, packed: true, groupSize: 32 });
  const [x, residual] = [normal([2, 64]).requiresGrad_(), normal([2, 8]).requiresGrad_()];
  og.quantizedLinear(x, weight, null, { activation: 'tanh', residual }).sum().backward();
  const other = og.detach(x).clone().requiresGrad_();
  og.tanh(og.linear(other, og.dequantize(weight)))
    .sum()
    .backward();
  assertClose(x.grad!, other.grad!, { rtol: 1e-4, atol: 1e-4 });
  assert.deepEqual([...numbersOf(residual.grad!)], new Array(16).fill(1));
  assert.throws(() => og.quantizedLinear(x, weight, null, { residual: normal([2, 7]) }), og.ShapeError);
  assert.throws(() => og.quantizedLinear(x, weight, null, { activation: 'swish' as 'silu' }), og.AttributeError);
});

test('the end of a layer is part of its call, unless a hook wants to see the result', () => {
  const layer = nn.QuantizedLinear.from(new nn.Linear(64, 24));
  const [x, residual] = [normal([3, 64]), normal([3, 24])];
  const fused = og.noGrad(() => layer.endForward(x, { activation: 'gelu', residual }));
  let seen = 0;
  const remove = layer.registerForwardHook(() => void seen++);
  const apart = og.noGrad(() => layer.endForward(x, { activation: 'gelu', residual }));
  remove();
  assert.equal(seen, 1);
  assertClose(fused, apart, { rtol: 1e-6, atol: 1e-6 });
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
