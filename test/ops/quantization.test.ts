/** Options of quantize beyond the reference vectors: packed codes, NF4, float16 scales, stochastic rounding, errors; block-wise codes. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as og from '../../src/index.js';
import { assertClose, numbersOf } from '../helpers/allclose.js';

const generator = (): og.Generator => og.generator(5);
const sample = (shape: number[], dtype: og.DType = 'float32'): og.Tensor =>
  og.randn(shape, { generator: generator(), dtype });

test('packed 4-bit codes are the unpacked ones, two a byte', () => {
  for (const scheme of ['symmetric', 'affine', 'nf4'] as const) {
    for (const grid of [{ groupSize: 32 }, { axis: 0 }, { axis: 1 }, {}]) {
      const x = sample([6, 64]);
      const plain = og.quantize(x, { scheme, bits: 4, ...grid });
      const packed = og.quantize(x, { scheme, bits: 4, packed: true, ...grid });
      assert.deepEqual(packed.codes.shape, [6, 32]);
      assert.equal(packed.codes.dtype, 'uint8');
      const [bytes, codes] = [numbersOf(packed.codes), numbersOf(plain.codes)];
      const middle = scheme === 'symmetric' ? 8 : 0;
      bytes.forEach((byte, i) => {
        assert.equal(byte & 15, codes[2 * i]! + middle);
        assert.equal(byte >> 4, codes[2 * i + 1]! + middle);
      });
      assert.deepEqual(numbersOf(og.dequantize(packed)), numbersOf(og.dequantize(plain)));
    }
  }
});

test('NF4 gives numbers of its table back exactly', () => {
  const x = og.tensor([
    -1, -0.6961928009986877, -0.09105003625154495, 0, 0.07958029955625534, 0.44070982933044434, 1, 0.5626170039176941,
  ]);
  const q = og.quantize(og.mul(x, 3), { scheme: 'nf4' });
  assert.deepEqual([...numbersOf(q.codes)], [0, 1, 6, 7, 8, 12, 15, 13]);
  assert.equal(q.bits, 4);
  assertClose(og.dequantize(q), og.mul(x, 3));
});

test('codes fit scales of float16', () => {
  const x = sample([4, 64]);
  const q = og.quantize(x, { bits: 8, groupSize: 32, scaleDType: 'float16' });
  assert.equal(q.scale.dtype, 'float16');
  const scale = numbersOf(q.scale);
  const [codes, values] = [numbersOf(q.codes), numbersOf(x)];
  codes.forEach((code, i) => {
    const ratio = values[i]! / scale[Math.floor(i / 32)]!;
    assert.ok(Math.abs(code - Math.max(-127, Math.min(127, ratio))) <= 0.5001, `${code} for ${ratio}`);
  });
});

test('errors are those of the dequantised codes', () => {
  for (const options of [
    { bits: 4, groupSize: 32 },
    { scheme: 'affine', axis: 0 },
    { scheme: 'nf4', groupSize: 64 },
    {},
  ] as const) {
    const x = sample([33, 128]);
    const { errors, ...q } = og.quantize(x, { ...options, errors: true });
    const [a, b] = [numbersOf(x), numbersOf(og.dequantize(q as og.Quantized))];
    const off = a.map((value, i) => Math.abs(value - b[i]!));
    const squares = off.reduce((sum, value) => sum + value * value, 0);
    assertClose([errors!.mse.itemSync() as number], [squares / a.length], { rtol: 1e-5 });
    assertClose([errors!.max.itemSync() as number], [Math.max(...off)], { rtol: 1e-5 });
    const signal = a.reduce((sum, value) => sum + value * value, 0);
    assertClose([errors!.sqnr.itemSync() as number], [10 * Math.log10(signal / squares)], { rtol: 1e-4 });
  }
  assert.equal(og.quantize(sample([4])).errors, undefined);
});

test('stochastic rounding has the right mean, follows its stream, and moves the shared one', () => {
  const x = og.full([1 << 14], 0.3);
  const options = { rounding: 'stochastic', generator: og.generator(3) } as const;
  const fixed = og.concat([x, og.tensor([127])]); // the scale becomes 1
  const first = og.quantize(fixed, options);
  const codes: number[] = [...numbersOf(first.codes)].slice(0, -1);
  assert.ok(codes.every((code) => code === 0 || code === 1));
  assert.ok(Math.abs(codes.reduce<number>((a, b) => a + b, 0) / codes.length - 0.3) < 0.015);
  assert.notDeepEqual(numbersOf(og.quantize(fixed, options).codes), numbersOf(first.codes));
  const again = og.quantize(fixed, { rounding: 'stochastic', generator: og.generator(3) });
  assert.deepEqual(numbersOf(again.codes), numbersOf(first.codes));
});

test('sixteen-bit and strided tensors quantise as their float32 copies do', () => {
  const x = og.transpose(sample([40, 24], 'bfloat16'));
  const q = og.quantize(x, { groupSize: 20 });
  const wanted = og.quantize(og.to(og.contiguous(x), 'float32'), { groupSize: 20 });
  assert.deepEqual(numbersOf(q.codes), numbersOf(wanted.codes));
  assert.deepEqual(numbersOf(q.scale), numbersOf(wanted.scale));
  assert.deepEqual(og.quantize(og.zeros([0, 32]), { groupSize: 32 }).codes.shape, [0, 32]);
});

test('wrong options of quantize are refused', () => {
  const x = sample([4, 6]);
  const refuses = (options: object, type: new (...args: never[]) => Error): void => {
    assert.throws(() => og.quantize(x, options), type, JSON.stringify(options));
  };
  refuses({ axis: 0, groupSize: 3 }, og.AttributeError);
  refuses({ bits: 5 }, og.AttributeError);
  refuses({ scheme: 'nf4', bits: 8 }, og.AttributeError);
  refuses({ packed: true }, og.AttributeError);
  refuses({ packed: 1, bits: 4 }, og.AttributeError);
  refuses({ scheme: 'nf4', rounding: 'stochastic' }, og.AttributeError);
  refuses({ rounding: 'up' }, og.AttributeError);
  refuses({ rounding: 'stochastic', generator: 3 }, og.AttributeError);
  refuses({ scaleDType: 'bfloat16' }, og.AttributeError);
  refuses({ groupSize: 4 }, og.ShapeError);
  assert.throws(() => og.quantize(sample([4, 5]), { bits: 4, packed: true }), og.ShapeError);
  assert.throws(() => og.quantize(og.arange(4)), og.DTypeError);
  const q = og.quantize(x, { axis: 0 });
  assert.throws(() => og.dequantize({ ...q, scale: og.ones([5]) }), og.ShapeError);
});

test('block-wise codes come back within half a cell, and zero exactly', () => {
  for (const signed of [true, false]) {
    const x = signed ? sample([3, 1000]) : og.square(sample([3, 1000]));
    const q = og.quantizeBlockwise(x, { signed, blockSize: 256 });
    assert.deepEqual(q.absmax.shape, [12]);
    const [a, b] = [numbersOf(x), numbersOf(og.dequantizeBlockwise(q))];
    const top = numbersOf(q.absmax);
    a.forEach((value, i) => assert.ok(Math.abs(value - b[i]!) <= 0.0072 * top[Math.floor(i / 256)]!));
  }
  assert.deepEqual(numbersOf(og.dequantizeBlockwise(og.quantizeBlockwise(og.zeros([5])))), new Float64Array(5));
  assert.equal(og.dequantizeBlockwise(og.quantizeBlockwise(og.ones([5])), 'bfloat16').dtype, 'bfloat16');
  const q = og.quantizeBlockwise(og.ones([5]));
  assert.throws(() => og.dequantizeBlockwise({ ...q, absmax: og.ones([2]) }), og.ShapeError);
  assert.throws(() => og.dequantizeBlockwise(q, 'int8'), og.DTypeError);
  assert.throws(() => og.quantizeBlockwise(og.ones([5]), { blockSize: 5000 }), og.AttributeError);
  assert.throws(() => og.quantizeBlockwise(og.arange(5)), og.DTypeError);
});
