/** Quantisation: codes, scales, integer products, straight-through gradients. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as og from '../../src/index.js';
import { matmul } from '../../src/ops/matmul.js';
import { assertClose } from '../helpers/allclose.js';
import { load, readGroup, type Attributes, type ReferenceCase } from '../helpers/reference.js';

const group = readGroup('numeric/quantize');
type Results = Record<string, og.Tensor>;

/** Codes equal but for the allowed share that is one off: ties that fall either way. */
function assertCodes(got: og.Tensor, want: og.Tensor, share: number): void {
  assert.equal(got.dtype, want.dtype);
  assert.deepEqual(got.shape, want.shape);
  const [a, b] = [got.dataSync() as Int8Array, want.dataSync() as Int8Array];
  const off = Array.from(a, (code, i) => Math.abs(code - b[i]!)).filter((difference) => difference > 0);
  assert.ok(
    off.every((difference) => difference === 1),
    'a code is more than one off',
  );
  assert.ok(off.length <= share * a.length, `${off.length} of ${a.length} codes are off`);
}

function quantizeCase(x: og.Tensor, a: Attributes): Results {
  const options = {
    scheme: a.scheme,
    bits: a.bits,
    ...(a.reduce_axis === 0 || a.reduce_axis === 1 ? { axis: 1 - a.reduce_axis } : {}),
    ...(a.group_size === undefined ? {} : { groupSize: a.group_size }),
  } as og.QuantizeOptions;
  const quantized = og.quantize(x, options);
  // The reference keeps reduced axes as axes of length 1, and has one scale in an axis of its own.
  const shape =
    a.group_size === undefined
      ? quantized.axis === null
        ? [1]
        : quantized.axis === 0
          ? [-1, 1]
          : [1, -1]
      : quantized.scale.shape;
  const results: Results = {
    q: quantized.codes,
    scale: quantized.scale.reshape(shape),
    dequant: og.dequantize(quantized),
  };
  if (quantized.zeroPoint) results.zero_point = quantized.zeroPoint.reshape(shape);
  return results;
}

function fakeQuantizeCase(input: Results, a: Attributes): Results {
  const x = input.x!.requiresGrad_();
  const y = og.fakeQuantize(x, input.scale ?? a.scale, a.zero_point, { qmin: a.qmin, qmax: a.qmax, axis: a.axis ?? 0 });
  y.backward(input.gout!);
  return { y, grad_x: x.grad! };
}

function run(name: string, input: Results, a: Attributes): Results {
  switch (name) {
    case 'quantize':
      return quantizeCase(input.x!, a);
    case 'matmul_int8':
      return { y: og.matmulInt8(input.a!, input.b!) };
    case 'matmul_integer':
      return { y: og.matmulInteger(input.a!, input.b!, a.a_zero_point, a.b_zero_point) };
    case 'fake_quantize':
      return fakeQuantizeCase(input, a);
    case 'linear_int8_dynamic': {
      const weight = og.quantize(input.w!, { axis: 0 });
      const rows = og.quantize(input.x!, { axis: 0 });
      return {
        acc: og.matmulInt8(rows.codes, weight.codes.transpose()),
        y: og.linearInt8Dynamic(input.x!, weight),
        y_float: matmul(input.x!, input.w!.transpose()),
      };
    }
    default:
      return assert.fail(`no operation ${name}`);
  }
}

function check(reference: ReferenceCase): void {
  const input = Object.fromEntries(reference.inputs.map((one) => [one.name, load(group.stored, one.tensor, one.bool)]));
  const got = run(reference.op, input, reference.attrs);
  for (const output of reference.outputs) {
    const want = load(group.stored, output.tensor);
    const value = got[output.name];
    assert.ok(value, `no output ${output.name}`);
    if (output.name === 'q') assertCodes(value, want, reference.tol.q_off_by_one_fraction!);
    else assertClose(value, want, reference.tol, output.name);
  }
}

for (const reference of group.cases) test(`numeric/quantize ${reference.name}`, () => og.scope(() => check(reference)));
