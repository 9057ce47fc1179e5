/** Gradients of the array operations against finite differences, and second derivatives of those with rules of their own. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as og from '../../src/index.js';

type Case = readonly [name: string, f: (...inputs: og.Tensor[]) => og.Tensor, shapes: readonly (readonly number[])[]];

/** Distinct values in float64, away from each other and from 0. */
function input(shape: readonly number[], seed: number): og.Tensor {
  const size = shape.reduce((a, b) => a * b, 1);
  const values = Float64Array.from(
    { length: size },
    (_, i) => Math.sin(12.9898 * (i + 1) + 78.233 * seed) * 1.5 + 0.013 * i,
  );
  return og.tensor(values, { shape });
}

const index = (values: number[], shape = [values.length]): og.Tensor => og.tensor(values, { dtype: 'int64', shape });

const cases: Case[] = [
  ['indexSelect', (x) => og.indexSelect(x, 1, index([2, 0, 2])), [[2, 3, 2]]],
  [
    'indexAdd',
    (x, s) => og.indexAdd(x, 0, index([1, 1, 0]), s, 2),
    [
      [2, 3],
      [3, 3],
    ],
  ],
  ['gather', (x) => og.gather(x, 1, index([0, 2, 2, 1], [2, 2])), [[2, 3]]],
  [
    'scatter',
    (x, s) => og.scatter(x, 1, index([0, 2, 1, 0], [2, 2]), s),
    [
      [2, 3],
      [3, 2],
    ],
  ],
  [
    'scatterAdd',
    (x, s) => og.scatterAdd(x, 0, index([1, 1, 0, 1], [2, 2]), s),
    [
      [2, 3],
      [2, 2],
    ],
  ],
  ['takeAlongAxis', (x) => og.takeAlongAxis(x, index([1, 0], [1, 2])), [[3, 2]]],
  ['take', (x) => og.take(x, index([5, 0, 5])), [[2, 3]]],
  ['at', (x) => og.at(x, [1, -1], ':', null, '::-2', 0), [[3, 2, 4, 2]]],
  ['at, index tensors apart', (x) => og.at(x, index([0, 1]), ':', index([2, -1])), [[3, 2, 4]]],
  ['maskedSelect', (x) => og.maskedSelectSync(x, og.tensor([true, false, true])), [[2, 3]]],
  [
    'concat',
    (a, b) => og.concat([a, b, a], 1),
    [
      [2, 3],
      [2, 2],
    ],
  ],
  [
    'stack',
    (a, b) => og.stack([a, b], -1),
    [
      [2, 3],
      [2, 3],
    ],
  ],
  ['split', (x) => og.mul(og.split(x, [2, 1, 2], 1)[0]!, og.split(x, [2, 1, 2], 1)[2]!), [[2, 5]]],
  ['unbind', (x) => og.mul(...(og.unbind(x, 1) as [og.Tensor, og.Tensor])), [[3, 2]]],
  ['repeat', (x) => og.repeat(x, [2, 3, 1]), [[2, 2]]],
  ['repeatInterleave', (x) => og.repeatInterleave(x, [2, 0, 1], 1), [[2, 3]]],
  ['roll', (x) => og.roll(x, [1, -2], [0, 1]), [[2, 5]]],
  ['pad constant', (x) => og.pad(x, [2, -1, -1, 3], { value: 7 }), [[3, 4]]],
  ['pad reflect', (x) => og.pad(x, [2, 1], { mode: 'reflect' }), [[2, 4]]],
  ['pad replicate', (x) => og.pad(x, [2, -1, 1, 0], { mode: 'replicate' }), [[2, 4]]],
  ['pad circular', (x) => og.pad(x, [3, 1], { mode: 'circular' }), [[2, 4]]],
  ['tril', (x) => og.tril(x, -1), [[2, 3, 3]]],
  ['triu', (x) => og.triu(x, 1), [[3, 4]]],
  ['cumsum', (x) => og.cumsum(x, 0), [[4, 2]]],
  ['cumprod', (x) => og.cumprod(x, 1), [[2, 5, 2]]],
  ['prod', (x) => og.prod(x, [0, 2]), [[2, 3, 2]]],
  ['sort', (x) => og.sort(x, 0, true).values, [[5, 2]]],
  ['topk', (x) => og.topk(x, 2, { axis: 0, largest: false }).values, [[5, 2]]],
  ['maxWithIndices', (x) => og.maxWithIndices(x, 1).values, [[3, 4]]],
  ['minWithIndices', (x) => og.minWithIndices(x, 0, { keepDims: true }).values, [[3, 4]]],
  ['unfold', (x) => og.unfold(x, [2, 3], { stride: 2, padding: [1, 0], dilation: [1, 2] }), [[1, 2, 4, 6]]],
  ['fold', (x) => og.fold(x, [4, 3], 2), [[1, 8, 6]]],
  ['conv1d', (x, w, b) => og.conv1d(x, w, b, { stride: 2, padding: 1, groups: 2 }), [[2, 4, 5], [6, 2, 3], [6]]],
  [
    'conv1d same',
    (x, w) => og.conv1d(x, w, null, { padding: 'same' }),
    [
      [1, 2, 5],
      [1, 2, 4],
    ],
  ],
  [
    'conv2d',
    (x, w, b) => og.conv2d(x, w, b, { stride: [2, 1], padding: 1, dilation: [1, 2] }),
    [[2, 2, 5, 6], [3, 2, 2, 3], [3]],
  ],
  [
    'conv2d 1×1',
    (x, w) => og.conv2d(x, w),
    [
      [2, 3, 2, 2],
      [2, 3, 1, 1],
    ],
  ],
  [
    'convTranspose1d',
    (x, w, b) => og.convTranspose1d(x, w, b, { stride: 2, outputPadding: 1, groups: 2 }),
    [[1, 4, 3], [4, 1, 3], [2]],
  ],
  [
    'convTranspose2d',
    (x, w) => og.convTranspose2d(x, w, null, { stride: 2, padding: 1, dilation: 2 }),
    [
      [1, 2, 3, 3],
      [2, 3, 2, 2],
    ],
  ],
  ['maxPool2d', (x) => og.maxPool2d(x, 2, { stride: 1, padding: 1 }), [[1, 2, 3, 4]]],
  ['avgPool2d', (x) => og.avgPool2d(x, [2, 3], { padding: 1, countIncludePad: false, ceilMode: true }), [[1, 2, 4, 5]]],
  ['maxPool1d', (x) => og.maxPool1d(x, 2), [[1, 2, 4]]],
  ['avgPool1d', (x) => og.avgPool1d(x, 3, { stride: 2 }), [[1, 2, 7]]],
  ['adaptiveAvgPool2d', (x) => og.adaptiveAvgPool2d(x, [2, 3]), [[1, 2, 4, 5]]],
  ['interpolate bicubic', (x) => og.interpolate(x, { size: [3, 5], mode: 'bicubic' }), [[1, 2, 4, 4]]],
  [
    'interpolate antialias',
    (x) => og.interpolate(x, { size: [2, 3], mode: 'bilinear', antialias: true }),
    [[1, 1, 5, 5]],
  ],
  ['interpolate linear', (x) => og.interpolate(x, { scaleFactor: 1.6, mode: 'linear' }), [[1, 2, 5]]],
  ['interpolate nearest', (x) => og.interpolate(x, { scaleFactor: [2, 0.5] }), [[1, 2, 3, 4]]],
];

for (const [name, f, shapes] of cases) {
  test(`gradient of ${name}`, () => {
    const result = og.gradCheck(f, shapes.map(input));
    assert.ok(result.ok, JSON.stringify(result));
  });
}

/** f' as a function of x, so that gradCheck compares f''. */
const derivative =
  (f: (x: og.Tensor) => og.Tensor) =>
  (x: og.Tensor): og.Tensor =>
    og.enableGrad(() => {
      const leaf = x.requiresGrad ? x : x.detach().requiresGrad_();
      const y = f(leaf);
      return og.gradientsOf(og.sum(og.mul(y, og.mul(y, y))), [leaf], { createGraph: true })[0]!;
    });

const smooth: Case[] = [
  ['cumprod', (x) => og.cumprod(x!, 0), [[4]]],
  ['prod', (x) => og.prod(x!), [[4]]],
  ['conv2d', (x) => og.conv2d(x!, input([2, 1, 2, 2], 9)), [[1, 1, 3, 3]]],
  ['conv2d in the weight', (w) => og.conv2d(input([2, 1, 3, 3], 9), w!), [[2, 1, 2, 2]]],
  ['convTranspose2d', (x) => og.convTranspose2d(x!, input([1, 2, 2, 2], 9)), [[1, 1, 2, 2]]],
  ['concat', (x) => og.concat([x!, og.mul(x!, x!)]), [[3]]],
  ['split', (x) => og.mul(...(og.split(x!, 2) as [og.Tensor, og.Tensor])), [[4]]],
  ['gather', (x) => og.gather(x!, 0, index([1, 1, 0])), [[3]]],
  ['scatter', (x) => og.scatter(x!, 0, index([1]), og.square(x!)), [[3]]],
  ['pad', (x) => og.pad(og.square(x!), [1, -1]), [[3]]],
  ['slice', (x) => og.square(og.slice(x!, 0, 1)), [[3]]],
];

for (const [name, f, shapes] of smooth) {
  test(`second derivative of ${name}`, () => {
    const result = og.gradCheck(derivative(f), shapes.map(input));
    assert.ok(result.ok, JSON.stringify(result));
  });
}

test('gradients of products are right where elements are zero', () => {
  for (const f of [(x: og.Tensor) => og.cumprod(x, 0), (x: og.Tensor) => og.prod(x, 0, { keepDims: true })]) {
    for (const values of [
      [2, 0, 3, 4],
      [0, 5, 0, 2],
      [0, 0, 0, 0],
    ]) {
      const result = og.gradCheck(f, [og.tensor(Float64Array.from(values))]);
      assert.ok(result.ok, JSON.stringify({ values, ...result }));
    }
  }
});
