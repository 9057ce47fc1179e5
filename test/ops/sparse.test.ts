/** Sparse layouts: conversions, products and their gradients against dense masked computation, refusals, the choice of layout. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as og from '../../src/index.js';

type Form = og.ToSparseOptions & { readonly layout: og.SparseLayout };

const forms: readonly Form[] = [
  { layout: 'csr' },
  { layout: 'block', blockSize: 16 },
  { layout: 'block', blockSize: 32 },
  { layout: '2:4' },
];
const nameOf = (form: Form): string => `${form.layout}${form.blockSize ?? ''}${form.dtype ?? ''}`;

/** A mask that the layout can hold, and weights that are zero where it drops them. */
function weights(form: Form, n: number, k: number, dtype: og.DType = 'float32'): { w: og.Tensor; mask: og.Tensor } {
  const g = og.generator(11);
  const w = og.randn([n, k], { generator: g, dtype });
  let mask: og.Tensor;
  if (form.layout === '2:4') {
    const { indices } = og.topk(og.rand([(n * k) / 4, 4], { generator: g }), 2);
    mask = og.scatter(og.full([(n * k) / 4, 4], false), -1, indices, 1).reshape([n, k]);
  } else {
    const b = form.blockSize ?? 1;
    const units = og.rand([n / b, k / b], { generator: g }).lt(0.3);
    mask = units
      .reshape([n / b, 1, k / b, 1])
      .expand([n / b, b, k / b, b])
      .reshape([n, k]);
  }
  return { w: og.where(mask, w, 0), mask };
}

async function near(got: og.Tensor, want: og.Tensor, tolerance = 1e-4): Promise<void> {
  assert.deepEqual(got.shape, want.shape);
  const [a, b] = [await got.to('float64').data(), await want.to('float64').data()];
  const worst = [...a].reduce<number>((most, v, i) => Math.max(most, Math.abs(Number(v) - Number(b[i])) || 0), 0);
  assert.ok(worst <= tolerance, `differs by ${worst}`);
  assert.ok([...a].every((v, i) => Number.isNaN(Number(v)) === Number.isNaN(Number(b[i]))));
}

type Product = (...inputs: og.Tensor[]) => og.Tensor;

/** The gradient of the sum of squares, as a function: checking that one checks second derivatives. */
function derivativeOf(f: Product, index: number): Product {
  return (...inputs) =>
    og.enableGrad(() => {
      const operands = inputs.map((input) => (input.requiresGrad ? input : input.detach().requiresGrad_()));
      const total = f(...operands)
        .square()
        .sum();
      return og.gradientsOf([total], [operands[index]!], { createGraph: true })[0]!;
    });
}

describe('conversions', () => {
  for (const form of forms) {
    test(`${nameOf(form)}: there and back gives the same bits`, async () => {
      for (const dtype of ['float32', 'float64'] as const) {
        for (const [n, k] of [
          [64, 96],
          [32, 32],
          [0, 32],
          [32, 0],
        ] as const) {
          const { w } = weights(form, n, k, dtype);
          const sparse = await og.toSparse(w, form);
          assert.deepEqual(sparse.shape, [n, k]);
          assert.equal(sparse.layout, form.layout);
          const dense = sparse.toDense();
          assert.equal(dense.dtype, dtype);
          assert.deepEqual(await dense.toArray(), await w.toArray());
          assert.deepEqual(await og.toSparseSync(w, form).toDense().toArray(), await w.toArray());
        }
      }
    });

    test(`${nameOf(form)}: a mask drops what is not zero`, async () => {
      const { mask } = weights(form, 64, 64);
      const full = og.randn([64, 64], { generator: og.generator(3) });
      const sparse = await og.toSparse(full, { ...form, mask });
      await near(sparse.toDense(), og.where(mask, full, 0), 0);
    });

    test(`${nameOf(form)}: int8 codes are those of quantize by rows`, async () => {
      const { w } = weights(form, 64, 64);
      const sparse = await og.toSparse(w, { ...form, dtype: 'int8' });
      assert.equal(sparse.values.dtype, 'int8');
      const { codes, scale } = og.quantize(w, { axis: 0 });
      await near(sparse.toDense(), codes.to('float32').mul(scale.unsqueeze(1)), 1e-6);
    });

    test(`${nameOf(form)}: all zero, and all kept where that can be`, async () => {
      const none = await og.toSparse(og.zeros([32, 64]), form);
      await near(none.toDense(), og.zeros([32, 64]), 0);
      await near(og.sparseLinear(og.ones([3, 64]), none, og.ones([32])), og.ones([3, 32]), 0);
      if (form.layout === '2:4') return;
      const all = await og.toSparse(og.ones([32, 64]), form);
      assert.equal(all.sparsity, 0);
      await near(og.sparseLinear(og.ones([3, 64]), all), og.full([3, 32], 64), 0);
    });
  }

  test('gradients of the values reach the dense matrix', async () => {
    for (const form of forms) {
      const { w } = weights(form, 32, 64);
      const x = w.detach().clone().requiresGrad_();
      const sparse = await og.toSparse(x, form);
      sparse.toDense().square().sum().backward();
      await near(x.grad!, w.mul(2), 1e-6);
    }
  });

  test('2:4 refuses a group that keeps three, and says where', async () => {
    const w = og.tensor([
      [1, 2, 0, 0, 0, 0, 0, 3],
      [1, 0, 0, 0, 1, 2, 3, 0],
    ]);
    const expected = /toSparse\] x: .*row 1 keeps more than 2 of the columns 4 to 7/;
    await assert.rejects(og.toSparse(w, { layout: '2:4' }), expected);
    assert.throws(() => og.toSparseSync(w, { layout: '2:4' }), /row 1 keeps more than 2 of the columns 4 to 7/);
  });

  test('parts are counted by memory, and freed', () => {
    const { w } = weights({ layout: 'csr' }, 64, 64);
    const before = og.memory().tensors;
    const sparse = og.scope(() => og.toSparseSync(w, { layout: 'csr' }));
    assert.equal(og.memory().tensors, before + 3);
    assert.equal(sparse.bytes, sparse.nnz * 8 + 65 * 4);
    sparse.dispose();
    assert.equal(og.memory().tensors, before);
  });
});

describe('sparseLinear', () => {
  for (const form of forms) {
    for (const m of [1, 2, 7, 17, 70, 130]) {
      test(`${nameOf(form)}, ${m} rows: values and gradients of the dense layer`, async () => {
        const [n, k] = [64, 96];
        const { w, mask } = weights(form, n, k);
        const g = og.generator(m);
        const [x, bias, up] = [og.randn([m, k], { generator: g }), og.randn([n], { generator: g }), og.randn([m, n])];
        const dense = [x, w, bias].map((t) => t.clone().requiresGrad_());
        og.linear(dense[0]!, dense[1]!, dense[2]!).mul(up).sum().backward();

        const sparse = await og.toSparse(w, form);
        const [sx, values, sb] = [x, sparse.values, bias].map((t) => t.detach().clone().requiresGrad_());
        const y = og.sparseLinear(sx!, sparse.withValues(values!), sb!);
        await near(y, og.linear(x, w, bias));
        y.mul(up).sum().backward();
        await near(sx!.grad!, dense[0]!.grad!);
        await near(sb!.grad!, dense[2]!.grad!);
        const masked = og.where(mask, dense[1]!.grad!, 0);
        await near(sparse.withValues(values!.grad!).toDense(), masked, 2e-4);
      });
    }

    test(`${nameOf(form)}: leaves nothing behind but its result`, () => {
      const sparse = og.toSparseSync(weights(form, 64, 96).w, form);
      for (const shape of [[5, 96], [2, 3, 96], [96]]) {
        for (const dtype of ['float32', 'float16'] as const) {
          const [x, bias] = [og.ones(shape, { dtype }), og.ones([64], { dtype })];
          og.trackMemory(() => og.sparseLinear(x, sparse, bias)).dispose();
        }
      }
      const [a, b] = [og.ones([64, 4], { dtype: 'float16' }), og.ones([4, 96], { dtype: 'float16' })];
      og.trackMemory(() => og.sampledMatmul(a, b, sparse).values).dispose();
    });

    test(`${nameOf(form)}: int8 values, leading axes, other dtypes of x`, async () => {
      const { w } = weights(form, 64, 96);
      const sparse = await og.toSparse(w, { ...form, dtype: 'int8' });
      const dense = sparse.toDense();
      const x = og.randn([2, 3, 96], { generator: og.generator(5) }).requiresGrad_();
      const y = og.sparseLinear(x, sparse, og.ones([64]));
      assert.deepEqual(y.shape, [2, 3, 64]);
      await near(y, og.linear(x.detach(), dense, og.ones([64])), 1e-4);
      y.sum().backward();
      const own = x.detach().clone().requiresGrad_();
      og.linear(own, dense).sum().backward();
      await near(x.grad!, own.grad!);
      const half = og.sparseLinear(x.detach().to('float16'), sparse);
      assert.equal(half.dtype, 'float32');
      await near(half, og.linear(x.detach().to('float16').to('float32'), dense), 1e-4);
    });

    test(`${nameOf(form)}: float64 gradients agree with differences, first and second`, () => {
      const [n, k] = form.layout === 'block' ? [form.blockSize!, 2 * form.blockSize!] : [5, 8];
      const { w } = weights(form, n, k, 'float64');
      const sparse = og.toSparseSync(w, form);
      const x = og.randn([2, k], { dtype: 'float64', generator: og.generator(1) });
      const bias = og.randn([n], { dtype: 'float64', generator: og.generator(2) });
      const inputs = [x, sparse.values.detach(), bias];
      const product: Product = (a, v, b) => og.sparseLinear(a!, sparse.withValues(v!), b!);
      for (const f of [product, derivativeOf(product, 0), derivativeOf(product, 1)]) {
        const result = og.gradCheck(f, inputs, { probes: 24 });
        assert.ok(result.ok, JSON.stringify(result));
      }
    });
  }

  test('rows without elements give the bias', async () => {
    const w = og.zeros([3, 8]);
    const sparse = await og.toSparse(w, { layout: 'csr' });
    assert.equal(sparse.nnz, 0);
    assert.deepEqual(await og.sparseLinear(og.ones([2, 8]), sparse, og.tensor([1, 2, 3])).toArray(), [
      [1, 2, 3],
      [1, 2, 3],
    ]);
  });

  test('indices that lie are an error', () => {
    const values = og.ones([2]);
    const crow = og.tensor([0, 1, 2], { dtype: 'int32' });
    for (const [columns, text] of [
      [[0, 9], /column 9 of row 1 is outside \[0, 4\)/],
      [[-1, 2], /column -1 of row 0/],
    ] as const) {
      const sparse = og.sparseCsrTensor(crow, og.tensor([...columns], { dtype: 'int32' }), values, [2, 4]);
      assert.throws(() => og.sparseLinear(og.ones([1, 4]), sparse).dataSync(), text);
      assert.throws(() => sparse.toDense().dataSync(), text);
    }
    const fallen = og.tensor([0, 2, 1], { dtype: 'int32' });
    const sparse = og.sparseCsrTensor(fallen, og.tensor([0, 1], { dtype: 'int32' }), values, [2, 4]);
    assert.throws(() => og.sparseLinear(og.ones([1, 4]), sparse).dataSync(), /crow does not rise/);
  });

  test('wrong inputs are refused at the call', async () => {
    const { w } = weights({ layout: 'csr' }, 32, 32);
    const sparse = await og.toSparse(w);
    const shape = { name: 'ShapeError' };
    const dtype = { name: 'DTypeError' };
    assert.throws(() => og.sparseLinear(og.ones([2, 31]), sparse), shape);
    assert.throws(() => og.sparseLinear(og.ones([]), sparse), shape);
    assert.throws(() => og.sparseLinear(og.ones([2, 32]), sparse, og.ones([31])), shape);
    assert.throws(() => og.sparseLinear(og.ones([2, 32], { dtype: 'int32' }), sparse), dtype);
    assert.throws(() => og.sparseLinear(og.ones([2, 32]), w as never), dtype);
    assert.throws(() => sparse.withValues(og.ones([3])), shape);
    assert.throws(() => og.toSparseSync(og.ones([4])), shape);
    assert.throws(() => og.toSparseSync(og.ones([4, 4], { dtype: 'int32' })), dtype);
    assert.throws(() => og.toSparseSync(w, { mask: og.ones([32, 32]) }), dtype);
    assert.throws(() => og.toSparseSync(w, { layout: 'coo' as never }), { name: 'AttributeError' });
    assert.throws(() => og.toSparseSync(w, { layout: 'block', blockSize: 8 as never }), { name: 'AttributeError' });
    assert.throws(() => og.toSparseSync(og.ones([33, 32]), { layout: 'block', blockSize: 16 }), shape);
    assert.throws(() => og.toSparseSync(og.ones([4, 6]), { layout: '2:4' }), shape);
    assert.throws(() => og.sampledMatmul(og.ones([31, 2]), og.ones([2, 32]), sparse), shape);
    assert.throws(() => og.sampledMatmul(og.ones([32, 2]), og.ones([3, 32]), sparse), shape);
    const index = og.tensor([0, 0], { dtype: 'int32' });
    assert.throws(() => og.sparseCsrTensor(index, index, og.ones([3]), [1, 4]), shape);
    assert.throws(() => og.sparseCsrTensor(og.ones([2]), index, og.ones([2]), [1, 4]), dtype);
    assert.throws(() => og.sparseSemiStructuredTensor(og.ones([2, 4]), og.ones([2, 1]), [2, 8]), dtype);
    sparse.dispose();
    assert.throws(() => og.sparseLinear(og.ones([2, 32]), sparse), { name: 'StateError' });
  });
});

describe('sampledMatmul', () => {
  for (const form of forms) {
    test(`${nameOf(form)}: the kept elements of the dense product, and their gradients`, async () => {
      const [n, k, m] = [64, 96, 37];
      const { w, mask } = weights(form, n, k);
      const like = await og.toSparse(w, form);
      const g = og.generator(8);
      const [a, b] = [og.randn([n, m], { generator: g }), og.randn([m, k], { generator: g })];
      const [sa, sb, da, db] = [a, b, a, b].map((t) => t.clone().requiresGrad_());
      const sampled = og.sampledMatmul(sa!, sb!, like);
      const dense = og.where(mask, og.matmul(da!, db!), 0);
      await near(sampled.toDense(), dense);
      sampled.values.square().sum().backward();
      dense.square().sum().backward();
      await near(sa!.grad!, da!.grad!, 2e-3);
      await near(sb!.grad!, db!.grad!, 2e-3);
    });
  }
});

describe('the choice of a layout', () => {
  test('follows the measured break-even points', () => {
    for (const [m, n, k] of [
      [512, 768, 768],
      [600, 3000, 800],
    ] as const) {
      const needed = og.breakEvenSparsity('csr', { m, n, k });
      assert.ok(needed > 0 && needed < 1, `${needed}`);
      assert.equal(og.shouldUseSparse({ layout: 'csr', sparsity: needed, m, n, k }), true);
      assert.equal(og.shouldUseSparse({ layout: 'csr', sparsity: needed - 0.01, m, n, k }), false);
      assert.equal(og.chooseLayout({ sparsity: 0, m, n, k }), 'dense');
      assert.equal(og.chooseLayout({ sparsity: 0.99, m, n, k }), 'csr');
    }
  });
  test('refuses what is no question', () => {
    assert.throws(() => og.shouldUseSparse({ layout: 'csr', sparsity: 2, m: 1, n: 1, k: 1 }), {
      name: 'AttributeError',
    });
    assert.throws(() => og.breakEvenSparsity('dense' as never, { m: 1, n: 1, k: 1 }), { name: 'AttributeError' });
  });
});
