/** GPTQ and SparseGPT against results that were computed without their Cholesky form, in float64 with PyTorch. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { hessianFactor, relativeOutputError } from '../../src/compress/hessian.js';
import { sparseGpt } from '../../src/compress/prune/sparse_gpt.js';
import { gptq } from '../../src/compress/quantize/gptq.js';
import { packNibbles } from '../../src/compress/quantize/pack.js';
import * as og from '../../src/index.js';

interface Manifest {
  readonly gptq: readonly {
    name: string;
    bits: 8 | 4;
    group: number | null;
    affine: boolean;
    act_order: boolean;
    lost: number;
  }[];
  readonly sparse_gpt: readonly { name: string; sparsity?: number; n_of_m?: [number, number]; lost: number }[];
}

const folder = new URL('../fixtures/compress/', import.meta.url);
const manifest = JSON.parse(await readFile(new URL('obs.json', folder), 'utf8')) as Manifest;
const fixture = await og.loadSafetensors(new URL('obs.safetensors', folder).pathname);
const weight = fixture['weight']!;
const inputs = fixture['inputs']!;
const rows = inputs.shape[0]!;
const gram = og.matmul(og.transpose(inputs), inputs);

/** Share of elements that are not equal. */
function unequal(a: og.Tensor, b: og.Tensor): number {
  assert.deepEqual(a.shape, b.shape);
  return og.mean(og.to(og.ne(og.to(a, 'float32'), og.to(b, 'float32')), 'float32')).itemSync() as number;
}

for (const { name, bits, group, affine, act_order: actOrder, lost } of manifest.gptq) {
  test(`GPTQ ${name}`, async () => {
    const scheme = affine ? 'affine' : 'symmetric';
    const options = { scheme, bits, groupSize: group, scaleDType: 'float32', actOrder, damping: 0.01 } as const;
    const made = await gptq('test', name, weight, gram, rows, options);
    const packedReference = (codes: og.Tensor): og.Tensor =>
      bits === 4 ? packNibbles(og.to(codes, affine ? 'uint8' : 'int8')) : codes;
    // float32 against float64: a weight next to a border between codes may fall to the other side, and moves what follows
    assert.ok(unequal(made.codes, packedReference(fixture[`${name}.codes`]!)) < 0.02);
    const scale = og.reshape(made.scale, fixture[`${name}.scale`]!.shape);
    const far = og.amax(og.abs(og.div(og.sub(scale, fixture[`${name}.scale`]!), scale))).itemSync() as number;
    assert.ok(far < 0.02, `scales differ by ${far}`);
    const error = await relativeOutputError(weight, og.dequantize(made), gram);
    assert.ok(Math.abs(error / lost - 1) < 0.02, `${error} against ${lost}`);
    const groups = group === null ? { axis: 0 } : { groupSize: group };
    const nearest = await relativeOutputError(
      weight,
      og.dequantize(og.quantize(weight, { scheme, bits, ...groups })),
      gram,
    );
    assert.ok(error < 0.9 * nearest, `${error} against ${nearest} of rounding to nearest`);
  });
}

for (const { name, sparsity, n_of_m: neighbours, lost } of manifest.sparse_gpt) {
  test(`SparseGPT ${name}`, async () => {
    const pattern = neighbours === undefined ? { sparsity: sparsity! } : { n: neighbours[0], m: neighbours[1] };
    const made = await sparseGpt('test', name, weight, gram, rows, { pattern });
    assert.ok(unequal(made.mask, og.gt(fixture[`${name}.keep`]!, 0)) < 0.005);
    assert.equal(unequal(og.mul(made.weight, og.to(og.logicalNot(made.mask), 'float32')), og.zerosLike(weight)), 0);
    const error = await relativeOutputError(weight, made.weight, gram);
    assert.ok(Math.abs(error / lost - 1) < 0.01, `${error} against ${lost}`);
    const alone = await relativeOutputError(weight, og.where(made.mask, weight, 0), gram);
    assert.ok(error < 0.8 * alone, `${error} against ${alone} without making up for it`);
  });
}

test('the factor is that of the damped inverse; inputs that are always 0 stand alone', async () => {
  const { u, dead, damping } = await hessianFactor('test', 'layer', gram, rows, 0.01);
  assert.equal(damping, 0.01);
  const flags = await dead.data();
  assert.deepEqual([...flags].flatMap((flag, i) => (flag ? [i] : [])), [17]); // prettier-ignore
  const wide = og.to(u, 'float64');
  const h = og.mul(og.to(gram, 'float64'), 2 / rows);
  const diagonal = og.to(og.diagonal(h), 'float64');
  const mean = og.mean(og.where(dead, 1, diagonal)).itemSync() as number;
  const extra = og.add(og.to(dead, 'float64'), 0.01 * mean);
  const damped = og.add(h, og.mul(og.eye(192, undefined, { dtype: 'float64' }), og.unsqueeze(extra, 1)));
  const product = og.matmul(og.matmul(og.transpose(wide), wide), damped);
  const far = og.amax(og.abs(og.sub(product, og.eye(192, undefined, { dtype: 'float64' })))).itemSync() as number;
  assert.ok(far < 1e-3, `UᵀU·H differs from I by ${far}`);
});

test('a singular Hessian is damped until it can be factored; what is not finite is refused', async () => {
  const one = og.full([1, 8], Math.SQRT2); // rank 1: H is 4 everywhere, so that the second pivot is exactly 0
  const flat = og.round(og.matmul(og.transpose(one), one));
  const { damping } = await hessianFactor('gptq', 'layer', flat, 1, 0);
  assert.ok(damping > 0 && damping <= 1);
  const negative = og.mul(og.eye(4), -1);
  await assert.rejects(hessianFactor('gptq', 'blocks.3.mlp.up', negative, 1, 0.01), /blocks\.3\.mlp\.up.*damping/s);
  const nan = og.full([4, 4], NaN);
  await assert.rejects(hessianFactor('gptq', 'blocks.3.mlp.up', nan, 1, 0.01), /blocks\.3\.mlp\.up.*finite/s);
});
