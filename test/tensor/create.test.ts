/** Making tensors, reading them, printing them, and which dtype comes out. */
import assert from 'node:assert/strict';
import { inspect } from 'node:util';
import { test } from 'node:test';
import * as og from '../../src/index.js';

const dtypes: og.DType[] = ['float32', 'float16', 'bfloat16', 'float64', 'int8', 'uint8', 'int32', 'int64', 'bool'];

test('nested arrays give float32, bool or int64 of their shape', () => {
  const x = og.tensor([
    [1, 2, 3],
    [4, 5, 6],
  ]);
  assert.deepEqual([x.dtype, [...x.shape], x.rank, x.size, x.bytes], ['float32', [2, 3], 2, 6, 24]);
  assert.deepEqual(x.toArraySync(), [
    [1, 2, 3],
    [4, 5, 6],
  ]);
  assert.equal(og.tensor([true, false]).dtype, 'bool');
  assert.equal(og.tensor([1n, -2n]).dtype, 'int64');
  assert.equal(og.tensor([true, 2]).dtype, 'float32');
  assert.deepEqual([...og.tensor(3).shape], []);
  assert.deepEqual([...og.tensor([[], []]).shape], [2, 0]);
});

test('typed arrays keep their type and are copied', () => {
  const source = Float64Array.of(1, 2);
  const x = og.tensor(source);
  source[0] = 9;
  assert.equal(x.dtype, 'float64');
  assert.deepEqual(x.toArraySync(), [1, 2]);
  assert.equal(og.tensor(Uint8Array.of(255)).dtype, 'uint8');
  assert.equal(og.tensor(Buffer.from([1])).dtype, 'uint8');
  assert.equal(og.tensor(BigInt64Array.of(2n ** 62n)).dataSync()[0], 2n ** 62n);
  assert.deepEqual(og.tensor(Uint16Array.of(0x3c00), { dtype: 'float16' }).to('float32').toArraySync(), [1]);
});

test('lent memory is shared both ways', () => {
  const source = Float32Array.of(1, 2, 3);
  const x = og.fromTypedArray(source);
  og.copy_(x, og.tensor([7, 8, 9]));
  og.synchronizeSync();
  assert.deepEqual([...source], [7, 8, 9]);
});

test('every dtype survives a round trip', () => {
  for (const dtype of dtypes) {
    const x = og.tensor([0, 1, 1, 0], { dtype, shape: [2, 2] });
    assert.equal(x.dtype, dtype);
    assert.deepEqual(x.to('float64').toArraySync(), [
      [0, 1],
      [1, 0],
    ]);
  }
});

test('fills, ranges and the identity', () => {
  assert.deepEqual(og.full([2], 3).toArraySync(), [3, 3]);
  assert.equal(og.full([1], true).dtype, 'bool');
  assert.deepEqual(og.zeros([2, 0]).toArraySync(), [[], []]);
  assert.deepEqual(og.onesLike(og.zeros([2], { dtype: 'int32' })).toArraySync(), [1, 1]);
  const range = og.arange(1, 10, 3);
  assert.deepEqual([range.dtype, range.toArraySync()], ['int64', [1, 4, 7]]);
  assert.deepEqual(og.arange(3, 0, -1).toArraySync(), [3, 2, 1]);
  assert.equal(og.arange(0, 1, 0.25).dtype, 'float32');
  assert.deepEqual(og.linspace(0, 1, 5).toArraySync(), [0, 0.25, 0.5, 0.75, 1]);
  assert.deepEqual(og.eye(2, 3).toArraySync(), [
    [1, 0, 0],
    [0, 1, 0],
  ]);
});

test('casts round to even, saturate and send NaN to 0', () => {
  assert.deepEqual(og.tensor([300, -300, NaN, 2.9, -2.9]).to('int8').toArraySync(), [127, -128, 0, 2, -2]);
  assert.deepEqual(og.tensor([0, 0.5, NaN]).to('bool').toArraySync(), [false, true, true]);
  assert.deepEqual(og.tensor([2049, 2051]).to('float16').to('float32').toArraySync(), [2048, 2052]);
});

test('dtypes promote as in PyTorch', () => {
  const of = (dtype: og.DType): og.Tensor => og.ones([1], { dtype });
  const cases: [og.DType, og.DType, og.DType][] = [
    ['int32', 'float16', 'float16'],
    ['float16', 'bfloat16', 'float32'],
    ['float16', 'float32', 'float32'],
    ['float64', 'float16', 'float64'],
    ['uint8', 'int8', 'int32'],
    ['int8', 'int64', 'int64'],
    ['bool', 'uint8', 'uint8'],
    ['bool', 'float32', 'float32'],
  ];
  for (const [a, b, expected] of cases) {
    assert.equal(og.add(of(a), of(b)).dtype, expected, `${a} + ${b}`);
    assert.equal(og.add(of(b), of(a)).dtype, expected, `${b} + ${a}`);
  }
  assert.equal(og.add(of('float16'), 2).dtype, 'float16');
  assert.equal(og.add(of('int32'), 2).dtype, 'int32');
  assert.equal(og.add(of('int32'), 0.5).dtype, 'float32');
  assert.equal(og.div(of('int32'), of('int32')).dtype, 'float32');
  assert.equal(og.sum(of('int8')).dtype, 'int64');
});

test('the default dtype can be changed to another float', () => {
  og.setDefaultDType('float64');
  try {
    assert.equal(og.tensor([1]).dtype, 'float64');
    assert.equal(og.zeros([1]).dtype, 'float64');
  } finally {
    og.setDefaultDType('float32');
  }
  assert.throws(() => og.setDefaultDType('int8'), og.DTypeError);
});

test('reading without blocking gives what blocking gives', async () => {
  const x = og.arange(6, undefined, 1, { dtype: 'float32' }).reshape([2, 3]).transpose();
  assert.deepEqual(await x.toArray(), x.toArraySync());
  assert.deepEqual(await x.data(), Float32Array.of(0, 3, 1, 4, 2, 5));
  assert.equal(await x.sum().item(), 15);
  await assert.rejects(x.item(), og.ShapeError);
});

test('tensors print as NumPy prints', () => {
  const shown = (x: og.Tensor): string => inspect(x);
  assert.match(
    shown(
      og.tensor([
        [1, 2.5],
        [-3, 4],
      ]),
    ),
    /^Tensor \[2, 2\] float32 cpu\n?/,
  );
  assert.match(
    shown(
      og.tensor([
        [1, 2.5],
        [-3, 4],
      ]),
    ),
    /\[\[ *1\.0, +2\.5\],\n +\[-3\.0, +4\.0\]\]/,
  );
  assert.match(shown(og.tensor([true, false])), /\[ *true, false\]/);
  assert.match(shown(og.tensor([1, NaN, -Infinity])), /nan.*-inf/);
  assert.match(shown(og.zeros([2000])), /…/);
  assert.match(shown(og.zeros([0])), /\[\]$/);
  assert.match(shown(og.ones([2], { requiresGrad: true })), /requiresGrad/);
  assert.match(shown(og.ones([2], { requiresGrad: true }).mul(2)), /grad=mul/);
  const gone = og.zeros([2]);
  gone.dispose();
  assert.match(shown(gone), /disposed/);
});
