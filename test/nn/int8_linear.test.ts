/** The layer of 8-bit codes on both sides: what it computes, how its end fuses, that its state comes back. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as og from '../../src/index.js';

const { nn } = og;
const largest = (x: og.Tensor): number => og.scope(() => og.amax(og.abs(x)).itemSync() as number);

function layers(): { dense: og.nn.Linear; weight: og.Quantized; x: og.Tensor } {
  const dense = new nn.Linear(48, 20, { generator: og.generator(2) });
  const x = og.randn([3, 5, 48], { generator: og.generator(3) });
  return {
    dense,
    weight: og.quantize(
      og.noGrad(() => og.clone(dense.weight)),
      { axis: 0 },
    ),
    x,
  };
}

/** x after its codes. */
const rounded = (codes: og.Quantized): og.Tensor => og.dequantize(codes);

test('dynamic: the product of both sides’ codes', () => {
  const { dense, weight, x } = layers();
  const layer = new nn.Int8Linear(weight, dense.bias);
  const rows = og.reshape(rounded(og.quantize(og.reshape(x, [15, 48]), { axis: 0 })), [3, 5, 48]);
  const want = og.linear(rows, og.dequantize(weight), og.detach(dense.bias!));
  assert.ok(largest(og.sub(layer.forward(x), want)) < 1e-5);
  assert.ok(
    largest(
      og.sub(
        want,
        og.noGrad(() => dense.forward(x)),
      ),
    ) < 0.05,
  );
});

test('static: one scale for all inputs, signed or with a zero point; values beyond it are clamped', () => {
  const { weight, x } = layers();
  const scale = og.tensor(0.02);
  const signed = new nn.Int8Linear(weight, null, { inputScale: scale });
  const clamped = og.clamp(og.mul(og.round(og.div(x, scale)), scale), -127 * 0.02, 127 * 0.02);
  assert.ok(largest(og.sub(signed.forward(x), og.linear(clamped, og.dequantize(weight)))) < 1e-4);
  const inputZeroPoint = og.tensor(100, { dtype: 'int32' });
  const shifted = new nn.Int8Linear(weight, null, { inputScale: scale, inputZeroPoint });
  const range = og.clamp(og.mul(og.round(og.div(x, scale)), scale), -100 * 0.02, 155 * 0.02);
  assert.ok(largest(og.sub(shifted.forward(x), og.linear(range, og.dequantize(weight)))) < 1e-4);
});

test('a factor on the inputs, the fused end, and hooks', () => {
  const { weight, dense, x } = layers();
  const inputFactor = og.linspace(0.5, 2, 48);
  const layer = new nn.Int8Linear(weight, dense.bias, { inputFactor });
  const plain = new nn.Int8Linear(weight, dense.bias).forward(og.mul(x, inputFactor));
  assert.equal(largest(og.sub(layer.forward(x), plain)), 0);
  const residual = og.randn([3, 5, 20]);
  for (const activation of ['none', 'gelu', 'geluTanh', 'sigmoid'] as const) {
    const fused = layer.endForward(x, { activation, residual });
    const remove = layer.registerForwardHook((_module, _inputs, output) => void assert.ok(output instanceof og.Tensor));
    const apart = layer.endForward(x, { activation, residual });
    remove();
    assert.ok(largest(og.sub(fused, apart)) < 2e-6, activation);
  }
  const half = layer.forward(og.to(x, 'bfloat16'));
  assert.equal(half.dtype, 'bfloat16');
});

test('in a model: saved, copied, and fused into its feed-forward part', async () => {
  const model = new og.GPT(
    { vocabSize: 32, context: 16, layers: 1, heads: 2, width: 32 },
    { generator: og.generator(1) },
  );
  const parts = model.blocks[0]!.mlp as unknown as Record<string, og.nn.Module>;
  for (const key of ['up', 'down']) {
    const { weight, bias, inFeatures } = parts[key] as og.nn.Linear;
    parts[key] = new nn.Int8Linear(og.quantize(og.detach(weight), { axis: 0 }), bias, {
      inputScale: key === 'up' ? og.tensor(0.05) : null,
      inputFactor: og.full([inFeatures], 1.5),
    });
  }
  const ids = og.randint(0, 32, [1, 9], { generator: og.generator(4) });
  const copy = og.cloneModel(model);
  const [a, b] = [model, copy].map((of) => og.noGrad(() => of.eval().forward(ids)));
  assert.deepEqual(await b!.toArray(), await a!.toArray());
});

test('wrong parts are refused', () => {
  const { dense, weight } = layers();
  const rows = og.detach(dense.weight);
  assert.throws(() => new nn.Int8Linear(og.quantize(rows)), /one scale an output/);
  assert.throws(() => new nn.Int8Linear(og.quantize(rows, { axis: 0, scheme: 'affine' })), /symmetric int8/);
  assert.throws(() => new nn.Int8Linear(weight, og.zeros([3])), /bias.*\[20\]/s);
  assert.throws(() => new nn.Int8Linear(weight, null, { inputScale: og.ones([2]) }), /inputScale.*scalar/s);
  assert.throws(
    () => new nn.Int8Linear(weight, null, { inputZeroPoint: og.tensor(0, { dtype: 'int32' }) }),
    /inputScale/,
  );
  assert.throws(() => new nn.Int8Linear(weight, null, { inputFactor: og.ones([2]) }), /\[48\]/);
  const x = og.randn([4, 8]);
  assert.throws(() => og.quantize(x, { scale: og.ones([2]) }), /scale/);
  assert.throws(() => og.quantize(x, { zeroPoint: og.tensor(0, { dtype: 'int32' }) }), /zeroPoint/);
  assert.throws(() => og.quantize(x, { scheme: 'affine', scale: og.tensor(1) }), /zeroPoint/);
});
