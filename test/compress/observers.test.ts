/** Observers of activations against ranges computed from the numbers themselves, and what they do to a model. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { quantize } from '../../src/compress/index.js';
import { Histogram } from '../../src/compress/quantize/histogram.js';
import { ActivationObserver, codesForRange, type ObserverKind } from '../../src/compress/quantize/observers.js';
import { gridOf, roundToNearest } from '../../src/compress/quantize/weight_codes.js';
import * as og from '../../src/index.js';

type Pair = [number, number];
interface Expected {
  readonly minmax: Pair;
  readonly movingAverage: Pair;
  readonly percentile: { symmetric: number; affine: Pair };
  readonly mse: { symmetric: Pair; affine: [number, number, number] };
  readonly entropy: number;
  readonly wholeError: { symmetric: number; affine: number };
}

const folder = new URL('../fixtures/compress/', import.meta.url);
const fixture = await og.loadSafetensors(new URL('observers.safetensors', folder).pathname);
const expected = JSON.parse(await readFile(new URL('observers.json', folder), 'utf8')) as Record<string, Expected>;
const near = (made: number, want: number, within: number): void =>
  assert.ok(Math.abs(made - want) <= within * Math.abs(want) + 1e-6, `${made} against ${want}`);

/** Squared error of the codes of a range, by the library's own quantisation. */
function errorOf(x: og.Tensor, range: readonly [number, number], symmetric: boolean): number {
  return og.scope(() => {
    const { scale, zeroPoint } = codesForRange(range, symmetric);
    const codes = og.quantize(x, zeroPoint === null ? { scale } : { scheme: 'affine', scale, zeroPoint });
    return og.sum(og.square(og.sub(x, og.dequantize(codes)))).itemSync() as number;
  });
}

for (const name of ['tails', 'gelu']) {
  const want = expected[name]!;
  const batches = og.to(fixture[name]!, 'float32');
  const observer = new ActivationObserver();
  for (let i = 0; i < batches.shape[0]!; i++) observer.add(og.contiguous(og.narrow(batches, 0, i, 1)));
  const range = (kind: ObserverKind, symmetric: boolean): readonly [number, number] =>
    observer.range(kind, symmetric, 99.9);

  test(`${name}: least and largest, and their moving averages`, () => {
    for (const kind of ['minmax', 'movingAverage'] as const) {
      const [low, high] = want[kind];
      assert.deepEqual(range(kind, false).map(Math.fround), [low, high].map(Math.fround));
      const bound = Math.fround(Math.max(-low, high));
      assert.deepEqual(range(kind, true).map(Math.fround), [-bound, bound]);
    }
  });

  test(`${name}: percentiles`, () => {
    near(range('percentile', true)[1], want.percentile.symmetric, 0.02);
    const [low, high] = range('percentile', false);
    near(low, want.percentile.affine[0], 0.02);
    near(high, want.percentile.affine[1], 0.03);
  });

  test(`${name}: least squares, as good as an exhaustive search over the numbers`, () => {
    const symmetric = range('mse', true);
    near(errorOf(batches, symmetric, true), want.mse.symmetric[1], 0.02);
    near(symmetric[1], want.mse.symmetric[0], 0.06);
    near(errorOf(batches, range('mse', false), false), want.mse.affine[2], 0.03);
    assert.ok(want.mse.symmetric[1] <= want.wholeError.symmetric && want.mse.affine[2] <= want.wholeError.affine);
  });

  test(`${name}: least divergence`, () => {
    const [low, high] = range('entropy', true);
    near(high, want.entropy, 0.01);
    assert.equal(low, -high);
    const [least, largest] = range('entropy', false);
    assert.ok(least >= want.minmax[0] && largest <= want.minmax[1] && least < 0 && largest > 0);
  });
}

test('the histogram grows without losing a number, whatever comes first', () => {
  const histogram = new Histogram();
  histogram.add(new Float32Array([0, 0]));
  histogram.add(new Float32Array([0.5, -0.25, 0.1]));
  const before = histogram.counts.reduce((a, b) => a + b, 0);
  histogram.add(new Float32Array([100, -3]));
  assert.deepEqual([before, histogram.counts.reduce((a, b) => a + b, 0), histogram.total], [5, 7, 7]);
  const binOf = (x: number): number =>
    Math.min(histogram.counts.length - 1, Math.floor((x / histogram.reach + 1) * (histogram.counts.length / 2)));
  for (const x of [100, -3, 0.499]) assert.ok(histogram.counts[binOf(x)]! >= 1, `${x}`);
  assert.equal(histogram.add(new Float32Array([1, NaN])), null);
  assert.equal(histogram.total, 7);
  const silent = new ActivationObserver();
  silent.add(og.zeros([4]));
  for (const kind of ['minmax', 'mse', 'entropy', 'percentile'] as const)
    assert.deepEqual(silent.range(kind, false, 99), [0, 0]);
  assert.throws(() => silent.add(og.tensor([1, Infinity])), /finite activations/);
});

test('scales of many rows are those of fewer', async () => {
  const own = { scheme: 'affine', bits: 4, groupSize: 32, scaleDType: 'float16', weightObserver: 'mse' } as const;
  const weight = og.randn([2100, 512], { generator: og.generator(3) });
  const all = roundToNearest(weight, own);
  for (const [from, count] of [
    [0, 7],
    [1020, 9],
    [2090, 10],
  ] as const) {
    const part = roundToNearest(og.narrow(weight, 0, from, count), own);
    for (const key of ['codes', 'scale', 'zeroPoint'] as const)
      assert.deepEqual(await og.narrow(all[key]!, 0, from, count).data(), await part[key]!.data(), `${key} of ${from}`);
  }
});

test('weights: the best part of the range loses less, for every kind of codes, and GPTQ takes it too', async () => {
  const weight = og.mul(
    og.randn([24, 128], { generator: og.generator(4) }),
    og.exp(og.randn([24, 128], { generator: og.generator(5) })),
  );
  const lost = (codes: ReturnType<typeof roundToNearest>): number =>
    og.scope(() => og.sum(og.square(og.sub(weight, og.dequantize(codes)))).itemSync() as number);
  for (const [scheme, bits, groupSize] of [
    ['symmetric', 4, 32],
    ['affine', 4, 64],
    ['symmetric', 8, null],
    ['nf4', 4, 64],
  ] as const) {
    const own = { scheme, bits, groupSize, scaleDType: groupSize === null ? 'float32' : 'float16' } as const;
    const whole = lost(roundToNearest(weight, { ...own, weightObserver: 'minmax' }));
    const part = lost(roundToNearest(weight, { ...own, weightObserver: 'mse' }));
    assert.ok(bits === 4 ? part < 0.97 * whole : part <= whole, `${scheme} ${bits}: ${part} against ${whole}`);
  }
  // with XᵀX of the inputs what counts is the output; of white inputs that is the same
  const own = { scheme: 'symmetric', bits: 4, groupSize: 32, scaleDType: 'float32', weightObserver: 'mse' } as const;
  const plain = gridOf(weight, own);
  const white = gridOf(weight, own, og.mul(og.eye(128), 3));
  assert.equal(og.amax(og.abs(og.sub(plain.scale, white.scale))).itemSync(), 0);
  const x = og.mul(
    og.randn([400, 128], { generator: og.generator(6) }),
    og.exp(og.randn([128], { generator: og.generator(7) })),
  );
  const gram = og.matmul(og.transpose(x), x);
  const output = (codes: ReturnType<typeof roundToNearest>): number =>
    og.scope(
      () => og.sum(og.square(og.matmul(x, og.transpose(og.sub(weight, og.dequantize(codes)))))).itemSync() as number,
    );
  assert.ok(output(roundToNearest(weight, own, gram)) < output(roundToNearest(weight, own)));
});

const config = { vocabSize: 32, context: 16, layers: 2, heads: 2, width: 64 };
const model = new og.GPT(config, { generator: og.generator(3) }).eval();
const ids = og.randint(0, 32, [8, 16], { generator: og.generator(9) });
const run = (gpt: og.GPT): og.Tensor => og.noGrad(() => gpt.forward(ids));
const want = run(model);
const distance = (gpt: og.GPT): number =>
  og.scope(() => og.div(og.sum(og.square(og.sub(run(gpt), want))), og.sum(og.square(want))).itemSync() as number);

test('a model with static activations, by every observer, symmetric and affine, smoothed or not', async () => {
  for (const observer of ['minmax', 'movingAverage', 'percentile', 'mse', 'entropy'] as const) {
    for (const activationScheme of ['symmetric', 'affine'] as const) {
      const options = {
        scheme: 'w8a8',
        activations: 'static',
        observer,
        activationScheme,
        calibration: [ids],
      } as const;
      const made = await quantize(model, options);
      const layer = made.blocks[0]!.mlp.down as unknown as og.nn.Int8Linear;
      assert.equal(layer.inputZeroPoint === null, activationScheme === 'symmetric');
      assert.ok(distance(made) < 5e-3, `${observer} ${activationScheme}: ${distance(made)}`);
      made.dispose();
    }
  }
  const smoothed = await quantize(model, {
    scheme: 'w8a8',
    method: 'smoothquant',
    activations: 'static',
    observer: 'mse',
    activationScheme: 'affine',
    calibration: [ids],
  });
  assert.ok(distance(smoothed) < 5e-3, `${distance(smoothed)}`);
  assert.equal(distance(og.cloneModel(smoothed).eval()), distance(smoothed));
  const wide = await quantize(model, { scheme: 'w4a16', method: 'gptq', weightObserver: 'mse', calibration: [ids] });
  const aware = await quantize(model, { scheme: 'w4a16', method: 'awq', weightObserver: 'mse', calibration: [ids] });
  const nearest = await quantize(model, { scheme: 'w4a16' });
  assert.ok(distance(wide) < distance(nearest) && distance(aware) < distance(nearest));
});

test('observers without static activations, and what else cannot be, are refused', async () => {
  const refuses = (options: object, pattern: RegExp): Promise<void> =>
    assert.rejects(quantize(model, options as never), pattern);
  await refuses({ scheme: 'w8a8', observer: 'mse' }, /observer.*static/s);
  await refuses({ scheme: 'w8a8', activations: 'static', observer: 'kl', calibration: [ids] }, /entropy/);
  await refuses({ scheme: 'w8a8', activations: 'static', percentile: 99, calibration: [ids] }, /percentile/);
  await refuses({ scheme: 'w4a16', activationScheme: 'affine' }, /activationScheme/);
  await refuses({ scheme: 'w8a8', activations: 'static' }, /calibration/);
});
