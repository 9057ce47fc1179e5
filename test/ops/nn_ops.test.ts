/** What the reference vectors do not show: layouts, dtypes, definitions, and what is refused with which words. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AttributeError, DTypeError, ShapeError, StateError } from '../../src/errors.js';
import { gelu, softplus } from '../../src/ops/activation.js';
import { alibiSlopes } from '../../src/ops/alibi.js';
import { scaledDotProductAttention } from '../../src/ops/attention.js';
import { to } from '../../src/ops/copy.js';
import { crossEntropy } from '../../src/ops/cross_entropy.js';
import { registry, type Inputs, type Op } from '../../src/ops/define.js';
import { dropout } from '../../src/ops/dropout.js';
import { einsum } from '../../src/ops/einsum.js';
import { embedding } from '../../src/ops/embedding.js';
import { mseLoss } from '../../src/ops/losses.js';
import { linear } from '../../src/ops/linear.js';
import { matmul } from '../../src/ops/matmul.js';
import { batchNorm, groupNorm, layerNorm } from '../../src/ops/norm.js';
import { rope, ropeTables } from '../../src/ops/rope.js';
import { softmax } from '../../src/ops/softmax.js';
import { reshape, transpose } from '../../src/ops/views.js';
import { arange, full, tensor, zeros } from '../../src/tensor/create.js';
import { generator } from '../../src/tensor/random.js';
import { toArraySync } from '../../src/tensor/read.js';
import type { Tensor } from '../../src/tensor/tensor.js';
import { assertClose, numbersOf } from '../helpers/allclose.js';

function wave(shape: readonly number[], step = 0.37): Tensor {
  const size = shape.reduce((a, b) => a * b, 1);
  return tensor(
    Float32Array.from({ length: size }, (_, i) => Math.sin(1 + i * step)),
    { shape },
  );
}

function throws(body: () => unknown, type: new (...args: never[]) => Error, message: string): void {
  assert.throws(body, (error: Error) => {
    assert.equal(error.message, message);
    return error instanceof type;
  });
}

test('matmul names the argument at fault and the way out', () => {
  throws(
    () => matmul(zeros([2, 64]), zeros([32, 64])),
    ShapeError,
    "[matmul] b: expected second-to-last axis 64 to match a's last axis, got [32, 64]. Transpose b.",
  );
  throws(
    () => matmul(zeros([2, 3]), zeros([4])),
    ShapeError,
    "[matmul] b: expected its length 3 to match a's last axis, got [4].",
  );
  throws(
    () => matmul(zeros([]), zeros([4])),
    ShapeError,
    '[matmul] a: expected at least 1 axis, got a scalar. Use mul.',
  );
  assert.throws(() => matmul(zeros([2, 3, 4]), zeros([3, 4, 5])), ShapeError);
  assert.throws(() => matmul(full([2, 2], true), full([2, 2], true)), DTypeError);
  assert.throws(() => linear(zeros([2, 3]), zeros([3, 4])), ShapeError);
  assert.throws(() => linear(zeros([2, 3]), zeros([4, 3]), zeros([3])), ShapeError);
});

test('matmul promotes dtypes and takes integers', () => {
  const [a, b] = [wave([3, 4]), wave([4, 2], 0.91)];
  const mixed = matmul(to(a, 'bfloat16'), b);
  assert.equal(mixed.dtype, 'float32');
  assertClose(mixed, matmul(to(to(a, 'bfloat16'), 'float32'), b));
  assert.equal(matmul(to(a, 'float16'), to(b, 'float16')).dtype, 'float16');
  const integers = tensor([1, 2, 3, 4], { dtype: 'int32', shape: [2, 2] });
  assert.deepEqual([...numbersOf(matmul(integers, integers))], [7, 10, 15, 22]);
  assert.equal(matmul(integers, wave([2, 2])).dtype, 'float32');
});

test('einsum: diagonal, trace, implicit output, broadcasting ellipsis', () => {
  const a = arange(9, undefined, 1, { dtype: 'float32' });
  const square = reshape(a, [3, 3]);
  assert.deepEqual(toArraySync(einsum('ii->i', square)), [0, 4, 8]);
  assert.equal(toArraySync(einsum('ii', square)), 12);
  assert.deepEqual(toArraySync(einsum('ba', square)), toArraySync(transpose(square)));
  assertClose(einsum('...ij,jk', wave([2, 1, 3, 4]), wave([4, 5])), matmul(wave([2, 1, 3, 4]), wave([4, 5])));
  assertClose(
    einsum('...ij,...jk->...ik', wave([2, 1, 3, 4]), wave([5, 4, 2])),
    matmul(wave([2, 1, 3, 4]), wave([5, 4, 2])),
  );
  assert.throws(() => einsum('ij,jk->iz', square, square), AttributeError);
  assert.throws(() => einsum('ij->i->j', square), AttributeError);
  assert.throws(() => einsum('ij,jk', square), AttributeError);
  assert.throws(() => einsum('ijk', square), ShapeError);
  assert.throws(() => einsum('ij,jk', square, wave([4, 2])), ShapeError);
});

test('attention leaves its result in the order that the next reshape wants', () => {
  const [q, k, v] = [wave([2, 3, 5, 8]), wave([2, 3, 5, 8], 0.2), wave([2, 3, 5, 8], 0.7)];
  const y = scaledDotProductAttention(q, k, v, { causal: true });
  assert.deepEqual(y.strides, [120, 8, 24, 1]);
  const flat = reshape(transpose(y, 1, 2), [2, 5, 24]);
  assert.equal(flat.storage, y.storage);
});

test('a query that may see nothing gives zeros, and no NaN goes back', () => {
  const q = wave([1, 1, 2, 4]).requiresGrad_();
  const mask = tensor([true, true, false, false], { shape: [2, 2] });
  const y = scaledDotProductAttention(q, wave([1, 1, 2, 4]), wave([1, 1, 2, 4]), { mask });
  assert.deepEqual([...numbersOf(y).slice(4)], [0, 0, 0, 0]);
});

test('attention refuses what does not fit', () => {
  const q = zeros([1, 4, 2, 8]);
  assert.throws(() => scaledDotProductAttention(q, zeros([1, 3, 2, 8]), zeros([1, 3, 2, 8])), ShapeError);
  assert.throws(() => scaledDotProductAttention(q, zeros([1, 4, 2, 6]), zeros([1, 4, 2, 6])), ShapeError);
  assert.throws(() => scaledDotProductAttention(q, q, zeros([1, 4, 3, 8])), ShapeError);
  assert.throws(() => scaledDotProductAttention(q, q, q, { mask: full([3, 2], true) }), ShapeError);
  assert.throws(() => scaledDotProductAttention(q, q, q, { window: 0 }), AttributeError);
});

test('every kernel agrees with its definition in float32', () => {
  const x = wave([4, 6]);
  const target = tensor([0, 5, 2, 2], { dtype: 'int64' });
  const attention = {
    ...{ scale: 0.4, causal: true, window: 3, softCap: 0, dropout: 0 },
    stream: [0, 0, 0, 0],
  };
  const extras = { ...attention, softCap: 1.5, dropout: 0.3, stream: [7, 0, 5, 0] };
  const slopes = tensor([0.5, 0.25, 0, 0.1]);
  const [queryOffsets, keyOffsets] = [tensor(Int32Array.of(0, 2, 2, 5)), tensor(Int32Array.of(0, 3, 4, 7))];
  const packed = [wave([1, 4, 5, 8]), wave([1, 2, 7, 8], 0.2), wave([1, 2, 7, 6], 0.7)];
  const sides = [0, 0, 2, 5, 2, 5, 0, 0, 5, 7, 0, 3, 0, 0, 0, 0, 5, 6, 6, 7]; // queries stand at places 2 … 6
  const spans = tensor(Int32Array.from(sides), { shape: [2, 5, 2] });
  const qkv: Inputs = [wave([2, 4, 5, 8]), wave([2, 2, 7, 8], 0.2), wave([2, 2, 7, 6], 0.7), null];
  const calls: readonly (readonly [string, Inputs, unknown])[] = [
    ['gelu', [x], { tanh: false }],
    ['gelu', [x], { tanh: true }],
    ['gelu_backward', [x, wave([4, 6], 0.5)], { tanh: false }],
    ['gelu_backward', [x, wave([4, 6], 0.5)], { tanh: true }],
    ['silu', [x], null],
    ['silu_backward', [x, wave([4, 6], 0.5)], null],
    ['sigmoid_backward', [x, wave([4, 6], 0.5)], null],
    ['tanh_backward', [x, wave([4, 6], 0.5)], null],
    ['relu_backward', [x, wave([4, 6], 0.5)], null],
    ...[0, 1].flatMap((axis) => [
      ['softmax', [x], { axis }] as const,
      ['log_softmax', [x], { axis }] as const,
      ['softmax_backward', [softmax(x, axis), wave([4, 6], 0.5)], { axis }] as const,
      ['log_softmax_backward', [x, wave([4, 6], 0.5)], { axis }] as const,
      ['logsumexp', [x], { axis, kept: [] }] as const,
    ]),
    ['layer_norm', [x, wave([6]), wave([6], 0.1)], { eps: 1e-5 }],
    ['rms_norm', [x, wave([6])], { eps: 1e-5 }],
    ['linear', [wave([2, 4, 6]), wave([3, 6]), wave([3])], { dtype: 'float32', activation: 'none' }],
    [
      'linear',
      [wave([2, 4, 6]), wave([3, 6]), wave([3]), wave([2, 4, 3], 2)],
      { dtype: 'float32', activation: 'gelu' },
    ],
    ['cross_entropy', [x, target, wave([6], 0.1)], { ignoreIndex: 5, labelSmoothing: 0.1 }],
    ['attention', qkv, attention],
    ['attention', [...qkv.slice(0, 3), full([5, 7], true)], attention],
    ['attention', [...qkv, slopes], extras],
    ['attention', [...qkv, slopes, null, null, spans], extras],
    ['attention', [...packed, null, slopes, queryOffsets, keyOffsets], extras],
  ];
  for (const [name, inputs, attrs] of calls) {
    const op = registry.get(name) as unknown as Op<unknown>;
    const [want] = [op.schema.definition!(inputs, attrs)].flat() as Tensor[];
    assertClose(op.call(inputs, attrs), want!, { rtol: 1e-5, atol: 2e-6 }, name);
  }
});

test('rope keeps the order of its operand in memory, and undoes itself', () => {
  const x = transpose(wave([2, 5, 3, 8]), 1, 2);
  const { cos, sin } = ropeTables(5, 8);
  const y = rope(x, cos, sin);
  assert.deepEqual(y.strides, x.strides);
  const back = rope(y, cos, ropeTables([0, -1, -2, -3, -4], 8).sin);
  assertClose(back, x, { atol: 1e-6 });
  const fromTensor = ropeTables(arange(5), 8);
  assertClose(fromTensor.cos, cos);
  assertClose(fromTensor.sin, sin);
  assert.throws(() => ropeTables(5, 7), AttributeError);
  assert.throws(() => rope(x, wave([5, 5]), wave([5, 5])), ShapeError);
  assert.throws(() => rope(x, cos.requiresGrad_(), sin), StateError);
});

test('dropout keeps the expectation, replays from its generator, and passes x through when idle', () => {
  const x = full([100, 100], 1);
  const y = numbersOf(dropout(x, 0.3, { generator: generator(3) }));
  const kept = y.filter((value) => value !== 0);
  assert.ok(Math.abs(kept.length / y.length - 0.7) < 0.02);
  assert.ok(kept.every((value) => Math.abs(value - 1 / 0.7) < 1e-6));
  assert.deepEqual(numbersOf(dropout(x, 0.3, { generator: generator(3) })), y);
  assert.equal(dropout(x, 0.3, { training: false }), x);
  assert.ok(numbersOf(dropout(x, 1)).every((value) => value === 0));
  assert.throws(() => dropout(x, 1.5), AttributeError);
});

test('batchNorm moves its running statistics, and only while training', () => {
  const x = tensor([[1], [3]]);
  const [average, spread] = [zeros([1]), full([1], 1)];
  batchNorm(x, average, spread, null, null, { training: true, momentum: 0.5 });
  assert.deepEqual([toArraySync(average), toArraySync(spread)], [[1], [1.5]]);
  batchNorm(x, average, spread);
  assert.deepEqual([toArraySync(average), toArraySync(spread)], [[1], [1.5]]);
  assert.throws(() => batchNorm(tensor([[1]]), average, spread, null, null, { training: true }), ShapeError);
});

test('crossEntropy takes classes on any axis and refuses what does not fit', () => {
  const logits = wave([2, 5, 3]);
  const target = tensor([0, 1, 2, 3, 4, 0], { dtype: 'int32', shape: [2, 3] });
  assertClose(crossEntropy(logits, target, { axis: 1 }), crossEntropy(transpose(logits), target));
  assert.throws(() => crossEntropy(logits, target), ShapeError);
  assert.throws(() => crossEntropy(wave([2, 5]), full([2], true)), DTypeError);
  assert.throws(() => crossEntropy(wave([2, 5]), tensor([1, 7], { dtype: 'int64' })), AttributeError);
  assert.ok(Number.isNaN(toArraySync(crossEntropy(wave([1, 5]), tensor([-100], { dtype: 'int64' })))));
});

test('layers refuse what does not fit', () => {
  assert.throws(() => layerNorm(wave([2, 5]), 4), ShapeError);
  assert.throws(() => layerNorm(wave([2, 5]), 5, wave([4])), ShapeError);
  assert.throws(() => groupNorm(wave([2, 5, 3]), 2), AttributeError);
  assert.throws(() => embedding(wave([5, 3]), wave([2])), DTypeError);
  assert.throws(() => embedding(wave([5, 3]), tensor([5], { dtype: 'int64' })), AttributeError);
  assert.throws(() => softmax(tensor([1, 2], { dtype: 'int32' })), DTypeError);
  assert.throws(() => gelu(wave([3]), { approximate: 'fast' as 'tanh' }), AttributeError);
  assert.throws(() => softplus(wave([3]), 0), AttributeError);
  assert.throws(() => mseLoss(wave([3]), wave([1])), ShapeError);
});

test('slopes of linear biases', () => {
  assert.deepEqual(alibiSlopes(4), [0.25, 0.0625, 0.015625, 0.00390625]);
  assert.deepEqual(alibiSlopes(6), [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125]);
});
