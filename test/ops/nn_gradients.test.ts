/** Gradients, and second derivatives of the fused operations, against central differences in float64. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { backward, gradients } from '../../src/autograd/backward.js';
import { enableGrad } from '../../src/autograd/grad.js';
import { gradCheck, type GradCheckOptions } from '../../src/autograd/gradcheck.js';
import * as activation from '../../src/ops/activation.js';
import { mul } from '../../src/ops/arithmetic.js';
import { scaledDotProductAttention } from '../../src/ops/attention.js';
import { crossEntropy } from '../../src/ops/cross_entropy.js';
import { dropout } from '../../src/ops/dropout.js';
import { einsum } from '../../src/ops/einsum.js';
import { embedding } from '../../src/ops/embedding.js';
import * as losses from '../../src/ops/losses.js';
import { linear } from '../../src/ops/linear.js';
import { matmul } from '../../src/ops/matmul.js';
import * as norm from '../../src/ops/norm.js';
import { sum } from '../../src/ops/reduce.js';
import { rope, ropeTables } from '../../src/ops/rope.js';
import { logSoftmax, logsumexp, softmax } from '../../src/ops/softmax.js';
import { detach, permute, slice, transpose } from '../../src/ops/views.js';
import { tensor } from '../../src/tensor/create.js';
import { generator } from '../../src/tensor/random.js';
import type { Tensor } from '../../src/tensor/tensor.js';
import { numbersOf } from '../helpers/allclose.js';

let state = 1;
function uniform(): number {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return state / 2 ** 31 - 1;
}

/** float64 numbers in [-scale, scale], away from the corners of piecewise functions. */
function values(shape: readonly number[], scale = 1.5): Tensor {
  const size = shape.reduce((a, b) => a * b, 1);
  const data = Float64Array.from({ length: size }, () => {
    const x = uniform() * scale;
    return Math.abs(x) < 0.01 ? x + 0.05 : x;
  });
  return tensor(data, { shape });
}

const integers = (data: readonly number[]): Tensor => tensor(data, { dtype: 'int64' });

type Function = (...inputs: Tensor[]) => Tensor;

/** The gradient of f, weighted, as a function: checking that one checks second derivatives. */
function derivativeOf(f: Function, index: number): Function {
  return (...inputs) =>
    enableGrad(() => {
      // The differences are taken without recording, on operands that ask for nothing
      const operands = inputs.map((input) => (input.requiresGrad ? input : detach(input).requiresGrad_()));
      const y = f(...operands);
      const weights = Float64Array.from({ length: y.size }, (_, i) => Math.sin(i + 1));
      const total = sum(mul(y, tensor(weights, { shape: y.shape })));
      return gradients('test', [total], [operands[index]!], [undefined], { createGraph: true })[0]!;
    });
}

interface Row {
  readonly name: string;
  readonly f: Function;
  readonly inputs: () => readonly Tensor[];
  /** Inputs whose first derivative is differentiated again. */
  readonly second?: readonly number[];
}

const x = (): readonly Tensor[] => [values([3, 5])];
const mask = (): Tensor =>
  tensor([true, false, true, true, true, false, true, true, true, true, false, false], { shape: [3, 4] });
const qkv = (): readonly Tensor[] => [values([2, 4, 3, 6]), values([2, 2, 4, 6]), values([2, 2, 4, 5])];
const { gelu, silu, softplus, elu } = activation;

// prettier-ignore
const rows: readonly Row[] = [
  { name: 'matmul', f: (a, b) => matmul(a!, b!), inputs: () => [values([3, 4]), values([4, 2])], second: [0, 1] },
  { name: 'matmul of a batch and one matrix', f: (a, b) => matmul(a!, b!), inputs: () => [values([2, 3, 4]), values([4, 2])], second: [1] },
  { name: 'matmul of broadcast batches', f: (a, b) => matmul(a!, b!), inputs: () => [values([2, 1, 3, 4]), values([3, 4, 2])] },
  { name: 'matmul of one matrix and a batch', f: (a, b) => matmul(a!, b!), inputs: () => [values([3, 4]), values([2, 4, 2])] },
  { name: 'matmul of vectors', f: (a, b) => matmul(a!, b!), inputs: () => [values([4]), values([4])], second: [0] },
  { name: 'matmul of matrix and vector', f: (a, b) => matmul(a!, b!), inputs: () => [values([3, 4]), values([4])] },
  { name: 'matmul of vector and batch', f: (a, b) => matmul(a!, b!), inputs: () => [values([4]), values([2, 4, 3])] },
  { name: 'matmul of transposed operands', f: (a, b) => matmul(transpose(a!), transpose(b!)), inputs: () => [values([4, 3]), values([2, 4])] },
  { name: 'linear', f: (a, w, b) => linear(a!, w!, b), inputs: () => [values([2, 3, 4]), values([5, 4]), values([5])], second: [0, 1] },
  { name: 'linear with gelu and a residual', f: (a, w, b, r) => linear(a!, w!, b, { activation: 'gelu', residual: r }), inputs: () => [values([2, 3, 4]), values([5, 4]), values([5]), values([2, 3, 5])], second: [0, 1, 2] },
  { name: 'linear with tanh', f: (a, w, b) => linear(a!, w!, b, { activation: 'tanh' }), inputs: () => [values([3, 4]), values([5, 4]), values([5])], second: [0, 1] },
  { name: 'linear of a vector', f: (a, w, b) => linear(a!, w!, b), inputs: () => [values([4]), values([5, 4]), values([5])] },
  { name: 'einsum of two', f: (a, b) => einsum('bhid,bhjd->bhij', a!, b!), inputs: () => [values([2, 2, 3, 4]), values([2, 2, 2, 4])] },
  { name: 'einsum of three', f: (a, b, c) => einsum('ij,jk,kl->li', a!, b!, c!), inputs: () => [values([2, 3]), values([3, 4]), values([4, 2])] },
  { name: 'einsum with a diagonal and an ellipsis', f: (a, b) => einsum('...ii,i->...i', a!, b!), inputs: () => [values([2, 3, 3]), values([3])] },
  { name: 'softmax', f: (a) => softmax(a!), inputs: x, second: [0] },
  { name: 'softmax along the first axis', f: (a) => softmax(a!, 0), inputs: x, second: [0] },
  { name: 'softmax along two axes', f: (a) => softmax(a!, [0, 2]), inputs: () => [values([2, 3, 2])] },
  { name: 'logSoftmax', f: (a) => logSoftmax(a!, 0), inputs: x, second: [0] },
  { name: 'logsumexp', f: (a) => logsumexp(a!, 0), inputs: x, second: [0] },
  { name: 'logsumexp along two axes', f: (a) => logsumexp(a!, [0, 1], { keepDims: true }), inputs: x },
  { name: 'layerNorm', f: (a, w, b) => norm.layerNorm(a!, 5, w, b), inputs: () => [values([3, 5]), values([5]), values([5])], second: [0, 1] },
  { name: 'layerNorm without parameters', f: (a) => norm.layerNorm(a!, [2, 3]), inputs: () => [values([4, 2, 3])], second: [0] },
  { name: 'rmsNorm', f: (a, w) => norm.rmsNorm(a!, 5, w), inputs: () => [values([3, 5]), values([5])], second: [0, 1] },
  { name: 'groupNorm', f: (a, w, b) => norm.groupNorm(a!, 2, w, b), inputs: () => [values([2, 4, 3]), values([4]), values([4])] },
  { name: 'batchNorm', f: (a, w, b) => norm.batchNorm(a!, null, null, w, b, { training: true }), inputs: () => [values([4, 3]), values([3]), values([3])], second: [0] },
  { name: 'normalize', f: (a) => norm.normalize(a!), inputs: x },
  { name: 'gelu', f: (a) => gelu(a!), inputs: x, second: [0] },
  { name: 'gelu, tanh form', f: (a) => gelu(a!, { approximate: 'tanh' }), inputs: x, second: [0] },
  { name: 'silu', f: (a) => silu(a!), inputs: x, second: [0] },
  { name: 'softplus', f: (a) => softplus(a!, 2), inputs: x, second: [0] },
  { name: 'elu', f: (a) => elu(a!, 0.7), inputs: x, second: [0] },
  ...(['relu', 'sigmoid', 'tanh', 'logSigmoid', 'mish', 'quickGelu', 'hardswish', 'hardsigmoid', 'relu6', 'selu', 'softsign', 'reluSquared'] as const).map(
    (name): Row => ({ name, f: (a) => activation[name](a!), inputs: x, second: name === 'sigmoid' || name === 'tanh' ? [0] : [] }),
  ),
  { name: 'celu', f: (a) => activation.celu(a!, 0.7), inputs: x },
  { name: 'leakyRelu', f: (a) => activation.leakyRelu(a!, 0.1), inputs: x },
  { name: 'glu', f: (a) => activation.glu(a!, 0), inputs: () => [values([4, 3])] },
  { name: 'crossEntropy', f: (a) => crossEntropy(a!, integers([0, 4, 2])), inputs: x, second: [0] },
  {
    name: 'crossEntropy with weights, smoothing and an ignored target',
    f: (a) =>
      crossEntropy(a!, integers([0, 1, 4]), { ignoreIndex: 1, labelSmoothing: 0.2, weight: tensor(Float64Array.of(1, 2, 0.5, 1, 3)) }),
    inputs: x,
    second: [0],
  },
  { name: 'crossEntropy of probabilities', f: (a, p) => crossEntropy(a!, softmax(p!), { labelSmoothing: 0.1 }), inputs: () => [values([3, 5]), values([3, 5])] },
  { name: 'mseLoss', f: (a, b) => losses.mseLoss(a!, b!), inputs: () => [values([3, 5]), values([3, 5])] },
  { name: 'huberLoss', f: (a, b) => losses.huberLoss(a!, b!, { delta: 0.7, reduction: 'none' }), inputs: () => [values([3, 5]), values([3, 5])] },
  { name: 'bceWithLogits', f: (a, b) => losses.bceWithLogits(a!, b!), inputs: () => [values([3, 5]), values([3, 5], 0.5)] },
  { name: 'klDiv', f: (a, b) => losses.klDiv(logSoftmax(a!), softmax(b!), { reduction: 'batchmean' }), inputs: () => [values([3, 5]), values([3, 5])] },
  { name: 'cosineSimilarity', f: (a, b) => losses.cosineSimilarity(a!, b!), inputs: () => [values([3, 5]), values([3, 5])] },
  { name: 'clipContrastive', f: (a, b, s) => losses.clipContrastive(a!, b!, s!), inputs: () => [values([3, 5]), values([3, 5]), values([])] },
  { name: 'tripletMarginLoss', f: (a, b, c) => losses.tripletMarginLoss(a!, b!, c!), inputs: () => [values([3, 5]), values([3, 5]), values([3, 5])] },
  { name: 'attention of grouped queries, causal', f: (q, k, v) => scaledDotProductAttention(q!, k!, v!, { causal: true }), inputs: qkv, second: [0, 1, 2] },
  { name: 'attention with a window', f: (q, k, v) => scaledDotProductAttention(q!, k!, v!, { causal: true, window: 2, scale: 0.7 }), inputs: qkv },
  { name: 'attention with a bool mask', f: (q, k, v) => scaledDotProductAttention(q!, k!, v!, { mask: mask() }), inputs: qkv },
  { name: 'attention with a learnt mask', f: (q, k, v, m) => scaledDotProductAttention(q!, k!, v!, { mask: m! }), inputs: () => [...qkv(), values([4, 1, 4])], second: [3] },
  { name: 'attention with a soft cap and ALiBi', f: (q, k, v) => scaledDotProductAttention(q!, k!, v!, { causal: true, softCap: 0.8, alibi: [0.5, 0.25, 0, 1].slice(0, q!.shape[1]) }), inputs: qkv, second: [0, 1, 2] },
  { name: 'attention with spans', f: (q, k, v) => scaledDotProductAttention(q!, k!, v!, { causal: true, window: 2, softCap: 2, spans: Array.from({ length: q!.shape[0]! }, (_, b) => [[b, 3], [3, 4]]) }), inputs: qkv, second: [0, 1, 2] },
  { name: 'attention with dropped weights', f: (q, k, v) => scaledDotProductAttention(q!, k!, v!, { dropout: 0.3, generator: generator(5) }), inputs: qkv, second: [0, 1, 2] },
  {
    name: 'attention of packed sequences',
    f: (q, k, v) => scaledDotProductAttention(q!, k!, v!, { causal: true, softCap: 2, queryOffsets: [0, 2, 2, 5], keyOffsets: [0, 3, 4, 7] }),
    inputs: () => [values([1, 4, 5, 3]), values([1, 2, 7, 3]), values([1, 2, 7, 2])],
    second: [0, 1, 2],
  },
  { name: 'attention of wide heads', f: (q, k, v) => scaledDotProductAttention(q!, k!, v!), inputs: () => [values([1, 2, 2, 300], 0.5), values([1, 1, 3, 300], 0.5), values([1, 1, 3, 2])] },
  { name: 'attention without batch or heads', f: (q, k, v) => scaledDotProductAttention(q!, k!, v!, { causal: true }), inputs: () => [values([3, 4]), values([5, 4]), values([5, 2])] },
  ...[false, true].map((interleaved): Row => {
    const tables = ropeTables(3, 4, { dtype: 'float64' });
    return { name: `rope, interleaved ${interleaved}`, f: (a) => rope(permute(a!, [0, 2, 1, 3]), tables.cos, tables.sin, { interleaved }), inputs: () => [values([2, 3, 2, 6])], second: [0] };
  }),
  { name: 'embedding', f: (w) => embedding(w!, tensor([[0, 2], [2, 3]], { dtype: 'int64' })), inputs: () => [values([5, 3])], second: [0] },
  { name: 'dropout', f: (a) => dropout(a!, 0.4, { generator: generator(7) }), inputs: () => [values([6, 7])], second: [0] },
  { name: 'dropout of a view', f: (a) => dropout(slice(transpose(a!), 0, 1, 6, 2), 0.4, { generator: generator(7) }), inputs: () => [values([6, 7])] },
];

for (const { name, f, inputs, second = [] } of rows) {
  test(`gradient of ${name}`, () => check(f, inputs()));
  for (const index of second) {
    test(`second derivative of ${name}, input ${index}`, () => check(derivativeOf(f, index), inputs(), { atol: 1e-4 }));
  }
}

function check(f: Function, inputs: readonly Tensor[], options: GradCheckOptions = {}): void {
  const { ok, input, index, analytic, numeric } = gradCheck(f, inputs, options);
  assert.ok(ok, `input ${input}, element ${index}: ${analytic}, by differences ${numeric}`);
}

test('the padding row of an embedding gets no gradient', () => {
  const weight = values([5, 2]).requiresGrad_();
  const ids = tensor([0, 2, 2, 3], { dtype: 'int64', shape: [2, 2] });
  const y = embedding(weight, ids, { paddingIdx: -2 });
  backward(sum(y));
  assert.deepEqual([...numbersOf(weight.grad!)], [1, 1, 0, 0, 2, 2, 0, 0, 0, 0]);
});

test('a gradient that nobody asked for is not computed', () => {
  const weight = values([5, 4]);
  const input = values([3, 4]).requiresGrad_();
  const y = linear(input, weight);
  assert.deepEqual(
    y.node!.unpack().map((tensor) => tensor?.shape ?? null),
    [null, [5, 4]],
  );
});
