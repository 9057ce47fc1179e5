/** Products of int8 codes and the layers made of them: against sums of numbers, on every instruction set. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import * as og from '../../src/index.js';
import { AttributeError, DTypeError, ShapeError } from '../../src/errors.js';
import { registry, type Op } from '../../src/ops/define.js';
import { packWeight } from '../../src/ops/int8_product.js';
import { assertClose, numbersOf } from '../helpers/allclose.js';
import { filesUnder, root } from '../helpers/source_tree.js';

const initial = og.backend().isa;
after(() => og.setIsa(initial));

function codes(shape: readonly number[], dtype: 'int8' | 'uint8', step = 37): og.Tensor {
  const size = shape.reduce((a, b) => a * b, 1);
  const values = Array.from({ length: size }, (_, i) => ((i * step + 11) % 256) - (dtype === 'int8' ? 128 : 0));
  return og.tensor(values, { dtype }).reshape([...shape]);
}

function wave(shape: readonly number[], step = 0.37): og.Tensor {
  const size = shape.reduce((a, b) => a * b, 1);
  return og.tensor(
    Float32Array.from({ length: size }, (_, i) => Math.sin(1 + i * step)),
    { shape: [...shape] },
  );
}

/** Sums over k of (a − za)(b − zb) of one matrix, with a zero point for each row and column. */
function sums(a: og.Tensor, b: og.Tensor, za: readonly number[] = [], zb: readonly number[] = []): number[] {
  const [m, k] = a.shape as [number, number];
  const n = b.shape[1]!;
  const [x, y] = [numbersOf(a), numbersOf(b)];
  return Array.from({ length: m * n }, (_, at) => {
    const [i, j] = [Math.floor(at / n), at % n];
    let sum = 0;
    for (let t = 0; t < k; t++) sum += (x[i * k + t]! - (za[i] ?? 0)) * (y[t * n + j]! - (zb[j] ?? 0));
    return sum;
  });
}

function onEverySet(body: (isa: string) => void): void {
  for (const isa of og.backend().isas) {
    og.setIsa(isa);
    og.scope(() => body(isa));
  }
  og.setIsa(initial);
}

describe('products', () => {
  test('all pairs of dtypes, with zero points of rows and columns', () => {
    onEverySet((isa) => {
      for (const [m, k, n] of [
        [3, 70, 41],
        [19, 33, 37],
      ] as const)
        for (const left of ['int8', 'uint8'] as const)
          for (const right of ['int8', 'uint8'] as const) {
            const [a, b] = [codes([m, k], left), codes([k, n], right, 53)];
            const zb = Array.from({ length: n }, (_, j) => (right === 'int8' ? j - 20 : j * 3));
            const za = Array.from({ length: m }, (_, i) => (left === 'int8' ? i - 9 : i * 5));
            const what = `${isa} ${left} ${right} ${m}`;
            const plain = og.matmulInteger(a, b);
            assert.equal(plain.dtype, 'int32');
            assert.deepEqual([...numbersOf(plain)], sums(a, b), what);
            const [rows, columns] = [og.tensor(za, { dtype: 'int32' }), og.tensor(zb, { dtype: 'int64' })];
            assert.deepEqual([...numbersOf(og.matmulInteger(a, b, rows, columns))], sums(a, b, za, zb), what);
            const zero = left === 'int8' ? -3 : 131;
            const all = Array.from({ length: m }, () => zero);
            assert.deepEqual([...numbersOf(og.matmulInteger(a, b, zero))], sums(a, b, all), what);
          }
    });
  });

  test('batches broadcast, transposed operands are read where they lie', () => {
    const a = codes([2, 1, 12, 20], 'int8');
    const b = codes([3, 15, 20], 'int8', 91).transpose();
    const y = og.matmulInt8(a, b);
    assert.deepEqual(y.shape, [2, 3, 12, 15]);
    for (let g = 0; g < 2; g++)
      for (let h = 0; h < 3; h++) assert.deepEqual([...numbersOf(y.at(g, h))], sums(a.at(g, 0), b.at(h)), `${g} ${h}`);
  });

  test('a matrix that comes again is packed, and again after it changed', () => {
    const [a, b] = [codes([5, 128], 'int8'), codes([128, 200], 'int8')];
    const first = numbersOf(og.matmulInteger(a, b));
    assert.equal(b.attached?.length ?? 0, 0);
    for (let i = 0; i < 2; i++) assert.deepEqual(numbersOf(og.matmulInt8(a, b)), first);
    assert.equal(b.attached?.length, 1);
    og.copy_(b, og.flip(b, [0]));
    const turned = numbersOf(og.matmulInteger(a, b));
    assert.deepEqual(turned, numbersOf(og.matmulInteger(a, og.clone(b))));
    assert.deepEqual(numbersOf(og.matmulInteger(a, b, 0, 3)), numbersOf(og.matmulInteger(a, og.clone(b), 0, 3)));
    onEverySet((isa) => assert.deepEqual(numbersOf(og.matmulInteger(a, b)), turned, isa));
  });

  test('a depth at which a sum could leave int32 is refused', () => {
    const [a, b] = [og.zeros([1, 131072], { dtype: 'int8' }), og.zeros([131072, 1], { dtype: 'int8' })];
    assert.throws(() => og.matmulInt8(a, b), ShapeError);
    assert.throws(() => og.matmulInteger(og.to(a, 'uint8'), og.to(b, 'uint8')), ShapeError);
    const deepest = og.full([1, 131071], -128, { dtype: 'int8' });
    assert.equal(numbersOf(og.matmulInt8(deepest, deepest.transpose()))[0], 131071 * 16384);
  });

  test('wrong operands', () => {
    const [a, b] = [codes([2, 3], 'int8'), codes([3, 4], 'int8')];
    assert.throws(() => og.matmulInt8(a, codes([4, 4], 'int8')), ShapeError);
    assert.throws(() => og.matmulInt8(a, og.to(b, 'uint8')), DTypeError);
    assert.throws(() => og.matmulInteger(a, b, og.tensor([1, 2, 3], { dtype: 'int32' })), ShapeError);
    assert.throws(() => og.matmulInteger(a, b, og.tensor([1, 2])), DTypeError);
    assert.throws(() => og.matmulInteger(a, b, 256), AttributeError);
  });
});

describe('linearInt8', () => {
  const activations: Record<string, (x: og.Tensor) => og.Tensor> = {
    none: (x) => x,
    relu: (x) => og.relu(x),
    gelu: (x) => og.gelu(x),
    geluTanh: (x) => og.gelu(x, { approximate: 'tanh' }),
    silu: (x) => og.silu(x),
  };

  test('equals dequantised operands through a float layer, for every epilogue', () => {
    onEverySet((isa) => {
      for (const rows of [1, 5, 30])
        for (const scheme of ['symmetric', 'affine'] as const) {
          const x = og.quantize(wave([rows, 50]), { scheme, axis: 0 });
          const w = og.quantize(wave([23, 50], 0.71), { scheme, axis: 0 });
          const [bias, residual] = [wave([23], 1.3), wave([rows, 23], 0.9)];
          const before = og.linear(og.dequantize(x), og.dequantize(w), bias);
          for (const [name, f] of Object.entries(activations)) {
            const activation = name as og.Int8Activation;
            const what = `${isa} ${rows} ${scheme} ${name}`;
            const want = og.add(f(before), residual);
            const got = og.linearInt8(x, w, bias, { activation, residual });
            assertClose(got, want, { rtol: 1e-5, atol: 2e-5 }, what);
            const half = og.linearInt8(x, w, bias, { activation, residual, dtype: 'bfloat16' });
            assertClose(half, og.to(got, 'bfloat16'), { rtol: 2 ** -7, atol: 1e-6 }, what);
            const output = { scale: 0.05, zeroPoint: 3 };
            const q = og.linearInt8(x, w, bias, { activation, residual, output });
            assert.equal(q.dtype, 'int8');
            const exact = numbersOf(got).map((y) => Math.min(Math.max(y / 0.05 + 3, -128), 127));
            numbersOf(q).forEach((code, i) => assert.ok(Math.abs(code - exact[i]!) <= 0.5001, what));
          }
        }
    });
  });

  test('one scale for everything, and more axes', () => {
    const x = og.quantize(wave([2, 3, 40]));
    const w = og.quantize(wave([10, 40], 0.71));
    const want = og.linear(og.dequantize(x), og.dequantize(w));
    assertClose(og.linearInt8(x, w), want, { rtol: 1e-5, atol: 1e-5 });
    assert.equal(og.linearInt8(x, w, null, { output: { scale: 0.1, dtype: 'uint8' } }).dtype, 'uint8');
  });

  test('a weight is packed once, and again after it changed or another set is chosen', () => {
    const x = og.quantize(wave([20, 32]), { axis: 0 });
    const weight = { ...og.quantize(wave([9, 32], 0.5), { axis: 0 }) };
    const first = packWeight(weight.codes, false);
    og.linearInt8(x, weight).dispose();
    assert.equal(packWeight(weight.codes, false), first);
    const before = og.linearInt8(x, weight);
    og.copy_(weight.codes, og.mul(weight.codes, -1));
    const after = og.linearInt8(x, weight);
    assert.notEqual(packWeight(weight.codes, false), first);
    assertClose(after, og.neg(before));
    onEverySet((isa) => assertClose(og.linearInt8(x, weight), after, { rtol: 1e-6, atol: 1e-6 }, isa));
    // outlives the scope in which it was made
    const other = og.quantize(wave([9, 32], 0.6), { axis: 0 });
    const inside = og.scope(() => og.linearInt8(x, other));
    assertClose(og.linearInt8(x, other), inside);
  });

  test('seven-bit weights give the same sums; a broken promise is reported', () => {
    onEverySet((isa) => {
      const x = og.quantize(wave([20, 32]), { axis: 0 });
      const small = { ...og.quantize(wave([9, 32], 0.5), { axis: 0 }) };
      small.codes = og.clamp(small.codes, -64, 64);
      const want = numbersOf(og.linearInt8(x, small));
      assert.deepEqual(numbersOf(og.linearInt8(x, small, null, { sevenBit: true })), want, isa);
      const large = og.quantize(wave([9, 32], 0.5), { axis: 0 });
      assert.throws(() => og.linearInt8(x, large, null, { sevenBit: true }).dataSync(), /\[-64, 64\]/);
      assertClose(og.linearInt8(x, large), og.linear(og.dequantize(x), og.dequantize(large)), { atol: 1e-5 });
    });
  });

  test('wrong operands', () => {
    const [x, w] = [og.quantize(wave([4, 6]), { axis: 0 }), og.quantize(wave([3, 6]), { axis: 0 })];
    assert.throws(() => og.linearInt8(x, og.quantize(wave([3, 5]), { axis: 0 })), ShapeError);
    assert.throws(() => og.linearInt8(x, og.quantize(wave([3, 6]), { axis: 1 })), DTypeError);
    assert.throws(() => og.linearInt8(x, og.quantize(wave([3, 6]), { groupSize: 3 })), ShapeError);
    assert.throws(() => og.linearInt8(og.quantize(wave([2, 2, 6]), { axis: 0 }), w), ShapeError);
    assert.throws(() => og.linearInt8(x, w, wave([4])), ShapeError);
    assert.throws(() => og.linearInt8(x, w, null, { residual: wave([3]) }), ShapeError);
    assert.throws(() => og.linearInt8(x, w, null, { output: { scale: 0 } }), AttributeError);
    assert.throws(() => og.linearInt8(x, w, null, { output: { scale: 1 }, dtype: 'float32' }), AttributeError);
    assert.throws(() => og.linearInt8(x, w, null, { activation: 'tanh' as never }), AttributeError);
  });
});

describe('linearInt8Dynamic', () => {
  test('quantises rows, and has the dtype of x', () => {
    const w = og.quantize(wave([11, 24], 0.71), { axis: 0 });
    const bias = wave([11], 1.3);
    for (const dtype of ['float32', 'float16', 'bfloat16', 'float64'] as const) {
      const x = og.to(wave([3, 5, 24]), dtype);
      const rows = og.quantize(og.reshape(x, [15, 24]), { axis: 0 });
      const want = og.reshape(og.linear(og.dequantize(rows), og.dequantize(w), bias), [3, 5, 11]);
      const got = og.linearInt8Dynamic(x, w, bias);
      assert.equal(got.dtype, dtype);
      const rtol = dtype === 'bfloat16' ? 2 ** -7 : dtype === 'float16' ? 2 ** -10 : 1e-5;
      assertClose(og.to(got, 'float32'), want, { rtol, atol: 1e-4 }, dtype);
    }
  });

  test('gives the bits of codes made beforehand', () => {
    const w = og.quantize(wave([40, 96], 0.71), { axis: 0 });
    const [bias, residual] = [wave([40], 1.3), wave([6, 40], 0.4)];
    onEverySet((isa) => {
      for (const rows of [1, 2, 6]) {
        const x = og.narrow(wave([6, 96], 0.3), 0, 0, rows);
        const end = { activation: 'geluTanh', residual: og.narrow(residual, 0, 0, rows) } as const;
        const want = og.linearInt8(og.quantize(x, { axis: 0 }), w, bias, end);
        assert.deepEqual(numbersOf(og.linearInt8Dynamic(x, w, bias, end)), numbersOf(want), isa);
        const inputFactor = wave([96], 0.9);
        const scaled = og.linearInt8(og.quantize(og.mul(x, inputFactor), { axis: 0 }), w, bias, end);
        assert.deepEqual(numbersOf(og.linearInt8Dynamic(x, w, bias, { ...end, inputFactor })), numbersOf(scaled), isa);
      }
    });
  });

  test('gradients reach bias, residual and scale, not x', () => {
    const w = og.quantize(wave([4, 6], 0.71), { axis: 0 });
    const [x, scale] = [wave([3, 6]).requiresGrad_(), og.clone(w.scale).requiresGrad_()];
    const [bias, residual] = [wave([4], 1.3).requiresGrad_(), wave([3, 4], 0.4).requiresGrad_()];
    const y = og.linearInt8Dynamic(x, { ...w, scale }, bias, { activation: 'relu', residual });
    y.sum().backward();
    assert.equal(x.grad, null);
    assert.deepEqual([...numbersOf(residual.grad!)], new Array(12).fill(1));
    const inner = og.linearInt8Dynamic(og.detach(x), w, og.detach(bias));
    const open = og.to(og.gt(inner, 0), 'float32');
    assertClose(bias.grad!, og.sum(open, 0));
    const unscaled = og.div(og.sub(inner, og.detach(bias)), w.scale);
    assertClose(scale.grad!, og.sum(og.mul(open, unscaled), 0), { rtol: 1e-4, atol: 1e-4 });
  });
});

test('factors of inputs must fit', () => {
  const w = og.quantize(wave([4, 6], 0.71), { axis: 0 });
  const call = (inputFactor: og.Tensor): og.Tensor => og.linearInt8Dynamic(wave([3, 6]), w, null, { inputFactor });
  assert.throws(() => call(og.ones([5])), /inputFactor.*\[6\]/);
  assert.throws(() => call(og.ones([6], { dtype: 'int32' })), /inputFactor.*floating-point/);
});

test('the kernel agrees with its definition', () => {
  const op = registry.get('matmul_int8') as unknown as Op<unknown>;
  const zeros = (n: number): og.Tensor =>
    og.tensor(
      Array.from({ length: n }, (_, i) => i - 2),
      { dtype: 'int32' },
    );
  const inputs = [
    codes([2, 9, 20], 'int8'),
    codes([2, 20, 7], 'uint8'),
    null,
    zeros(9),
    zeros(7),
    og.abs(wave([9])),
    og.mul(og.abs(wave([7])), 1e-3),
    wave([7]),
    wave([2, 9, 7]),
  ];
  for (const activation of ['none', 'relu', 'gelu', 'geluTanh', 'silu']) {
    const attrs = { dtype: 'float32', activation, sevenBit: false, outScale: 1, outZero: 0 };
    const want = op.schema.definition!(inputs, attrs) as og.Tensor;
    assertClose(op.call(inputs, attrs), want, { rtol: 1e-5, atol: 1e-4 }, activation);
  }
});

describe('compiled dot products', () => {
  const objects = ['build/Release/obj.target', 'build/native/CMakeFiles']
    .flatMap((folder) => filesUnder(folder, /matmul_int8(\.cpp)?\.o$/))
    .filter((file) => existsSync(join(root, file)));
  const hasObjdump = (process.env['PATH'] ?? '').split(':').some((folder) => existsSync(join(folder, 'objdump')));
  const expected: readonly (readonly [set: RegExp, arch: string, instruction: RegExp])[] = [
    [/og_avx512/, 'x64', /\bvpdpbusd\b.*%zmm/g],
    [/og_avx512/, 'x64', /\bvpmaddwd\b.*%zmm/g],
    [/og_avx2/, 'x64', /\bvpmaddwd\b.*%ymm/g],
    [/og_avx2/, 'x64', /\bvpmaddubsw\b.*%ymm/g],
    [/og_baseline/, 'x64', /\bpmaddwd\b.*%xmm/g],
    [/og_baseline/, 'arm64', /\bsdot\b/g],
    [/og_baseline/, 'arm64', /\bsmull\b/g],
  ];
  const here = objects.filter((file) => /og_(avx512|avx2|baseline)/.test(file));
  const reason =
    process.platform !== 'linux' || !hasObjdump ? 'objdump is not on PATH' : here.length === 0 ? 'none built' : false;

  test('are in the objects of their sets', { skip: reason }, () => {
    for (const file of here) {
      const wanted = expected.filter(([set, arch]) => set.test(file) && arch === process.arch);
      const text = execFileSync('objdump', ['-d', '--no-show-raw-insn', file], {
        cwd: root,
        encoding: 'utf8',
        maxBuffer: 1 << 28,
      });
      for (const [, , instruction] of wanted) {
        const count = text.match(instruction)?.length ?? 0;
        assert.ok(count >= 24, `${file}: ${count} times ${instruction.source}`);
      }
    }
  });
});
