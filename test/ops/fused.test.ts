/** Losses that leave their gradient behind, against the ones that do not. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as og from '../../src/index.js';
import { registry, type Inputs, type Op } from '../../src/ops/define.js';
import { assertClose, numbersOf } from '../helpers/allclose.js';

const [rows, width, classes] = [37, 24, 41];
const uniform = (seed: number, shape: readonly number[]): og.Tensor =>
  og.uniform(shape, -2, 2, { generator: og.generator(seed) });

/** Every fifth target does not count. */
const targets = (): og.Tensor =>
  og.tensor(
    Int32Array.from({ length: rows }, (_, i) => (i % 5 === 4 ? -100 : (i * 7) % classes)),
    { shape: [rows] },
  );

interface Result {
  readonly loss: Float64Array;
  readonly grads: readonly Float64Array[];
}

/** Loss and gradients of f at fresh leaves. */
function gradientsAt(f: (...leaves: og.Tensor[]) => og.Tensor, inputs: readonly og.Tensor[]): Result {
  return og.scope(() => {
    const leaves = inputs.map((x) => og.detach(x).requiresGrad_());
    const loss = f(...leaves);
    const grads = og.gradientsOf(loss, leaves).map((grad) => numbersOf(grad!));
    return { loss: numbersOf(loss), grads };
  });
}

for (const reduction of ['mean', 'sum'] as const) {
  for (const labelSmoothing of [0, 0.1]) {
    for (const weighted of [false, true]) {
      test(`crossEntropy over its logits: ${reduction}, smoothing ${labelSmoothing}, weights ${weighted}`, () => {
        const [h, w] = [uniform(1, [rows, width]), uniform(2, [classes, width])];
        const weight = weighted ? og.uniform([classes], 0.5, 2, { generator: og.generator(3) }) : null;
        const options = { reduction, labelSmoothing, weight };
        const run = (overwriteLogits: boolean, factor: number): Result =>
          gradientsAt(
            (x, v) => og.crossEntropy(og.linear(x!, v!), targets(), { ...options, overwriteLogits }).mul(factor),
            [h, w],
          );
        assert.deepEqual(run(true, 1).loss, run(false, 1).loss);
        for (const factor of [1, 0.25]) {
          const [fused, plain] = [run(true, factor), run(false, factor)];
          fused.grads.forEach((grad, i) => assertClose(grad, plain.grads[i]!, { rtol: 1e-5, atol: 1e-6 * rows }));
        }
      });
    }
  }
}

test('the logits become their gradient, and only an intermediate result does', () => {
  const x = uniform(4, [rows, classes]).requiresGrad_();
  const before = numbersOf(x);
  og.crossEntropy(x, targets(), { overwriteLogits: true }).backward();
  assert.deepEqual(numbersOf(x), before);
  const logits = x.mul(1);
  const loss = og.crossEntropy(logits, targets(), { overwriteLogits: true });
  assertClose(logits, x.grad!, { rtol: 1e-6, atol: 1e-9 });
  og.backward(loss, null, { retainGraph: true });
  og.backward(loss.mul(2), null);
  assertClose(x.grad!, logits.mul(2), { rtol: 1e-5, atol: 1e-8 });
});

test('memory that is not the logits’ alone is left as it is', () => {
  const x = uniform(4, [rows * classes]).requiresGrad_();
  const row = uniform(5, [1, classes]).requiresGrad_();
  const views: readonly (() => og.Tensor)[] = [
    () => x.reshape([rows, classes]),
    () => x.narrow(0, 0, rows * classes).reshape([rows, classes]),
    () => og.expand(row, [rows, classes]),
    () => og.expand(row.mul(1), [rows, classes]),
  ];
  for (const view of views) {
    const before = [x, row].map(numbersOf);
    const grads = [true, false].map((overwriteLogits) =>
      og.gradientsOf(og.crossEntropy(view(), targets(), { overwriteLogits }), [x, row]),
    );
    assert.deepEqual([x, row].map(numbersOf), before);
    grads[1]!.forEach((grad, i) => {
      assert.equal(grads[0]![i] === null, grad === null);
      if (grad !== null) assertClose(grads[0]![i]!, grad, { rtol: 1e-5, atol: 1e-7 });
    });
  }
});

test('without the logits there are no second derivatives, and nobody may rely on them', () => {
  const x = uniform(5, [rows, classes]).requiresGrad_();
  const run = (logits: og.Tensor): og.Tensor => og.crossEntropy(logits, targets(), { overwriteLogits: true });
  assert.throws(() => og.gradientsOf(run(x.mul(2)), [x], { createGraph: true }), og.StateError);
  // exp saves its result, which is gone
  assert.throws(() => run(x.exp()).backward(), og.StateError);
});

const blocks = [undefined, 1, 7, rows, 1000];
for (const bias of [false, true]) {
  for (const blockRows of blocks) {
    test(`linearCrossEntropy in blocks of ${blockRows ?? 'its own'} rows, bias ${bias}`, () => {
      const operands = [
        uniform(6, [rows, width]),
        uniform(7, [classes, width]),
        ...(bias ? [uniform(8, [classes])] : []),
      ];
      const options = { labelSmoothing: 0.05, ...(blockRows === undefined ? {} : { blockRows }) };
      const fused = (h?: og.Tensor, w?: og.Tensor, b?: og.Tensor): og.Tensor =>
        og.linearCrossEntropy(h!, w!, targets(), { ...options, bias: b ?? null });
      const plain = (h?: og.Tensor, w?: og.Tensor, b?: og.Tensor): og.Tensor =>
        og.crossEntropy(og.linear(h!, w!, b), targets(), { labelSmoothing: 0.05 });
      const want = gradientsAt((h, w, b) => plain(h, w, b).mul(3), operands);
      const got = gradientsAt((h, w, b) => fused(h, w, b).mul(3), operands);
      assertClose(got.loss, want.loss, { rtol: 1e-6 });
      got.grads.forEach((grad, i) => assertClose(grad, want.grads[i]!, { rtol: 1e-5, atol: 1e-6 }));
      const alone = og.noGrad(() => og.scope(() => fused(...operands)));
      assertClose(
        alone,
        og.scope(() => plain(...operands)),
        { rtol: 1e-6 },
      );
    });
  }
}

test('linearCrossEntropy: several axes, one operand with a gradient, a graph that is kept, bits for any threads', () => {
  const [h, w] = [uniform(9, [2, 30, width]), uniform(10, [classes, width]).requiresGrad_()];
  const target = og.randint(0, classes, [2, 30], { generator: og.generator(11) });
  const loss = og.linearCrossEntropy(h, w, target, { blockRows: 16 });
  og.backward(loss, null, { retainGraph: true });
  const once = numbersOf(w.grad!);
  og.backward(loss.mul(2), null);
  assertClose(
    w.grad!,
    once.map((x) => 3 * x),
    { rtol: 1e-5, atol: 1e-8 },
  );
  const plain = og.crossEntropy(og.linear(h, w), target);
  assertClose(once, og.gradientsOf(plain, [w])[0]!, { rtol: 1e-5, atol: 1e-7 });
  assertClose(
    og.linearCrossEntropy(h, w, target, { reduction: 'none' }),
    og.crossEntropy(og.linear(h, w), target, { reduction: 'none' }),
  );
  const threads = og.getThreads();
  const bits = [1, 2].map((count) => {
    og.setThreads(count);
    return gradientsAt((x, v) => og.linearCrossEntropy(x!, v!, target, { blockRows: 16 }), [h, og.detach(w)]);
  });
  og.setThreads(threads);
  assert.deepEqual(bits[0], bits[1]);
});

test('linearCrossEntropy: second derivatives are those of its parts', () => {
  const target = og.tensor([0, 4, 2], { dtype: 'int64' });
  const make = (seed: number, shape: readonly number[]): og.Tensor =>
    og.uniform(shape, -1, 1, { generator: og.generator(seed), dtype: 'float64' });
  const operands = [make(12, [3, 4]), make(13, [5, 4]), make(14, [5])];
  const second = (f: (h: og.Tensor, w: og.Tensor, b: og.Tensor) => og.Tensor): Float64Array[] => {
    const leaves = operands.map((x) => og.detach(x).requiresGrad_());
    const [h, w, b] = leaves as [og.Tensor, og.Tensor, og.Tensor];
    const first = og.gradientsOf(f(h, w, b), leaves, { createGraph: true });
    const total = first.map((grad) => grad!.square().sum()).reduce((a, c) => a.add(c));
    return og.gradientsOf(total, leaves).map((grad) => numbersOf(grad!));
  };
  const got = second((h, w, bias) => og.linearCrossEntropy(h, w, target, { bias, blockRows: 2 }).mul(2));
  const want = second((h, w, b) => og.crossEntropy(og.linear(h, w, b), target).mul(2));
  got.forEach((grad, i) => assertClose(grad, want[i]!, { rtol: 1e-12, atol: 1e-14 }));
});

test('linearCrossEntropy holds a block of logits, and takes 16-bit operands', () => {
  const [h, w] = [uniform(15, [512, 16]), uniform(16, [2000, 16])];
  const target = og.randint(0, 2000, [512], { generator: og.generator(17) });
  const peakOf = (f: () => void): number => {
    og.resetPeakMemory();
    const { peakBytes } = og.memory();
    og.scope(f);
    return og.memory().peakBytes - peakBytes;
  };
  const whole = 512 * 2000 * 4;
  const leaf = og.detach(w).requiresGrad_();
  const blocked = peakOf(() => void og.gradientsOf(og.linearCrossEntropy(h, leaf, target, { blockRows: 64 }), [leaf]));
  assert.ok(blocked < whole / 2, `${blocked} bytes beside ${whole} of all logits`);

  const half = [h, w].map((x) => og.detach(x).to('bfloat16').requiresGrad_()) as [og.Tensor, og.Tensor];
  const grads = og.gradientsOf(og.linearCrossEntropy(half[0], half[1], target), half);
  assert.deepEqual(
    grads.map((grad) => grad!.dtype),
    ['bfloat16', 'bfloat16'],
  );
  const exact = half.map((x) => og.detach(x).to('float32').requiresGrad_()) as [og.Tensor, og.Tensor];
  const want = og.gradientsOf(og.crossEntropy(og.linear(exact[0], exact[1]), target), exact);
  grads.forEach((grad, i) => assertClose(grad!.to('float32'), want[i]!, { rtol: 2 ** -7, atol: 1e-7 }));
});

test('the kernels agree with their definitions in float32', () => {
  const [x, y, g, own] = [1, 2, 3, 4].map((seed) => uniform(seed, [4, 6])) as [
    og.Tensor,
    og.Tensor,
    og.Tensor,
    og.Tensor,
  ];
  const [weight, bias] = [uniform(5, [6]), uniform(6, [6])];
  const target = og.tensor([0, 5, 2, 3], { dtype: 'int64' });
  const norm = { eps: 1e-5, dtypes: ['float32', 'float32'] };
  const average = og.mean(x, -1);
  const rstd = og.rsqrt(og.variance(x, -1, { correction: 0 }).add(1e-5));
  const rms = og.rsqrt(og.mean(x.square(), -1).add(1e-5));
  const calls: readonly (readonly [string, Inputs, unknown])[] = [
    ['swiglu', [x, y], null],
    ['swiglu_backward', [x, y, g], { wants: [true, true] }],
    ['swiglu_halves', [x, null], null],
    ['swiglu_halves_backward', [x, null, uniform(7, [4, 3])], null],
    ['add_layer_norm', [x, y, weight, bias], norm],
    ['add_rms_norm', [x, y, weight], norm],
    ['add_layer_norm_backward', [x, weight, average, rstd, g, own], { ...norm, wants: [true, true, true] }],
    ['add_rms_norm_backward', [x, weight, rms, g, own], { ...norm, wants: [true, true] }],
    [
      'cross_entropy_fused',
      [x, target, weight.abs(), uniform(8, [4])],
      { ignoreIndex: 5, labelSmoothing: 0.1, inPlace: false },
    ],
  ];
  for (const [name, inputs, attrs] of calls) {
    const op = registry.get(name) as unknown as Op<unknown>;
    const want = [op.schema.definition!(inputs, attrs)].flat() as og.Tensor[];
    const got = op.callAll(inputs, attrs).filter((each) => each !== null);
    want.forEach((each, i) => assertClose(got[i]!, each, { rtol: 1e-5, atol: 3e-6 }, `${name} ${i}`));
  }
});

test('residual norms: what nobody asks for is not needed, and second derivatives exist', () => {
  const make = (seed: number, shape: readonly number[]): og.Tensor =>
    og.uniform(shape, -1, 1, { generator: og.generator(seed), dtype: 'float64' });
  const operands = [make(1, [3, 5]), make(2, [3, 5]), make(3, [5]), make(4, [5])];
  const outputs = (fused: boolean, [x, r, w, b]: og.Tensor[]): [og.Tensor, og.Tensor] => {
    if (fused) return og.addLayerNorm(x!, r!, 5, w, b);
    const total = x!.add(r!);
    return [total, og.layerNorm(total, 5, w, b)];
  };
  for (const use of ['sum', 'normalized', 'both'] as const) {
    const run = (fused: boolean): Float64Array[] => {
      const leaves = operands.map((each) => og.detach(each).requiresGrad_());
      const [total, normal] = outputs(fused, leaves);
      const parts = [...(use === 'normalized' ? [] : [total]), ...(use === 'sum' ? [] : [normal])];
      const loss = parts.map((each) => each.square().square().sum()).reduce((a, c) => a.add(c));
      const first = og.gradientsOf(loss, leaves, { createGraph: true });
      const present = first.filter((each) => each !== null);
      const second = present.map((each) => each.square().sum()).reduce((a, c) => a.add(c));
      return [...present, ...og.gradientsOf(second, leaves.slice(0, 2))].map((each) => numbersOf(each!));
    };
    const [got, want] = [run(true), run(false)];
    want.forEach((each, i) => assertClose(got[i]!, each, { rtol: 1e-9, atol: 1e-11 }, `${use} ${i}`));
  }
});

test('a transformer block calls the hooks of its norm, with the same result', () => {
  for (const norm of ['layerNorm', 'rmsNorm'] as const) {
    const block = new og.nn.TransformerBlock(16, 2, { norm, activation: 'swiglu' });
    const x = uniform(9, [2, 5, 16]);
    const before = numbersOf(block.forward(x));
    let seen = 0;
    const remove = block.mlpNorm.registerForwardHook(() => void seen++);
    assert.deepEqual(numbersOf(block.forward(x)), before);
    assert.equal(seen, 1);
    remove();
  }
});

test('a GPT whose logits a hook wants to see has the same loss', () => {
  for (const tieEmbeddings of [true, false]) {
    const gpt = new og.GPT({ vocabSize: 40, context: 8, layers: 1, heads: 2, width: 16, tieEmbeddings });
    const [ids, next] = [1, 2].map((seed) => og.randint(0, 40, [3, 8], { generator: og.generator(seed) }));
    const run = (): { loss: number; grads: Float64Array[] } => {
      const loss = gpt.loss(ids!, next!);
      loss.backward();
      const grads = gpt.parameters().map((each) => numbersOf(each.grad!));
      for (const each of gpt.parameters()) each.grad = null;
      return { loss: loss.itemSync(), grads };
    };
    const plain = run();
    let logits: readonly number[] = [];
    gpt.registerForwardHook((_module, _inputs, output) => void (logits = (output as og.Tensor).shape));
    const hooked = run();
    assert.deepEqual(logits, [3, 8, 40]);
    assert.ok(Math.abs(plain.loss - hooked.loss) < 1e-6);
    plain.grads.forEach((grad, i) => assertClose(grad, hooked.grads[i]!, { rtol: 1e-4, atol: 1e-7 }));
  }
});

test('linearCrossEntropy refuses what does not fit', () => {
  const [h, w, t] = [uniform(1, [3, 4]), uniform(2, [5, 4]), og.tensor([0, 1, 2], { dtype: 'int64' })];
  assert.throws(() => og.linearCrossEntropy(h, uniform(3, [5, 3]), t), og.ShapeError);
  assert.throws(() => og.linearCrossEntropy(h, w, t, { bias: uniform(3, [4]) }), og.ShapeError);
  assert.throws(() => og.linearCrossEntropy(h, w, t, { classWeight: uniform(3, [4]) }), og.ShapeError);
  assert.throws(() => og.linearCrossEntropy(h, w, t.to('float32')), og.DTypeError);
  assert.throws(() => og.linearCrossEntropy(h, w, t, { blockRows: 0 }), og.AttributeError);
  assert.throws(
    () => og.linearCrossEntropy(h, w, og.tensor([0, 9, 2], { dtype: 'int64' })).itemSync(),
    og.AttributeError,
  );
});
