/** SmoothQuant and AWQ: scales against an independent computation, and what they do to a model. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { quantize } from '../../src/compress/index.js';
import { awqScales, smoothQuantScales } from '../../src/compress/quantize/smoothing.js';
import * as og from '../../src/index.js';

const folder = new URL('../fixtures/compress/', import.meta.url);
const fixture = await og.loadSafetensors(new URL('scales.safetensors', folder).pathname);
const { awq } = JSON.parse(await readFile(new URL('scales.json', folder), 'utf8')) as {
  awq: { alpha: number; error: number; plain: number };
};
const [x, a, b] = [fixture['x']!, fixture['a']!, fixture['b']!];
const gram = og.matmul(og.transpose(x), x);
const largest = (value: og.Tensor): number => og.scope(() => og.amax(og.abs(value)).itemSync() as number);

test('SmoothQuant’s scales', () => {
  for (const alpha of [0.5, 0.75]) {
    const want = fixture[`smoothquant_${alpha}`]!;
    const made = smoothQuantScales([a, b], og.amax(og.abs(x), 0), alpha);
    assert.ok(largest(og.sub(og.div(made, want), 1)) < 1e-5);
  }
  const dead = smoothQuantScales([a], og.zeros([64]), 0.5);
  assert.equal(largest(og.sub(dead, 1)), 0, 'channels that are always 0 keep 1');
});

test('AWQ’s search finds the same power, scales and error', async () => {
  const rounding = (weight: og.Tensor): og.Tensor =>
    og.dequantize(og.quantize(weight, { bits: 4, groupSize: 32, scaleDType: 'float16' }));
  const { scales, alpha, error } = await awqScales([a, b], og.mean(og.abs(x), 0), gram, rounding);
  assert.equal(alpha, awq.alpha);
  assert.ok(largest(og.sub(og.div(scales, fixture['awq']!), 1)) < 1e-4);
  assert.ok(Math.abs(error / awq.error - 1) < 0.01, `${error} against ${awq.error}`);
  assert.ok(error < 0.8 * awq.plain);
});

/** A model some of whose channels speak far louder than others, as large models' do. */
function loudModel(activation: 'gelu' | 'swiglu', norm: 'layerNorm' | 'rmsNorm'): og.GPT {
  const config = { vocabSize: 32, context: 16, layers: 2, heads: 2, width: 64, activation, norm };
  const model = new og.GPT(config, { generator: og.generator(3) });
  og.noGrad(() => {
    for (const block of model.blocks) {
      for (const layer of [block.attentionNorm, block.mlpNorm])
        for (const channel of [3, 17]) og.copy_(og.narrow(layer.weight!, 0, channel, 1), og.tensor(30));
    }
  });
  return model.eval();
}

const ids = og.randint(0, 32, [8, 16], { generator: og.generator(9) });
const run = (model: og.GPT): og.Tensor => og.noGrad(() => model.forward(ids));
const distance = (model: og.GPT, want: og.Tensor): number =>
  og.scope(() => og.div(og.sum(og.square(og.sub(run(model), want))), og.sum(og.square(want))).itemSync() as number);

for (const [activation, norm] of [
  ['gelu', 'layerNorm'],
  ['swiglu', 'rmsNorm'],
] as const) {
  test(`in a model with ${activation} and ${norm}: loud channels cost less`, async () => {
    const model = loudModel(activation, norm);
    const want = run(model);
    const calibration = [ids];
    const far = async (options: object): Promise<number> => {
      const made = await quantize(model, { calibration, ...options } as never);
      return distance(made, want);
    };
    const plain8 = await far({ scheme: 'w8a8' });
    const smooth8 = await far({ scheme: 'w8a8', method: 'smoothquant' });
    assert.ok(smooth8 < 0.5 * plain8, `${smooth8} against ${plain8}`);
    const static8 = await far({ scheme: 'w8a8', method: 'smoothquant', activations: 'static' });
    const plainStatic8 = await far({ scheme: 'w8a8', activations: 'static' });
    assert.ok(static8 < 0.5 * plainStatic8, `${static8} against ${plainStatic8}`);
    const plain4 = await far({ scheme: 'w4a16', groupSize: 64 });
    const aware4 = await far({ scheme: 'w4a16', groupSize: 64, method: 'awq' });
    assert.ok(aware4 < 0.8 * plain4, `${aware4} against ${plain4}`);
    assert.equal(distance(model, want), 0, 'the original stays');
  });
}

test('scales go into the norm where it feeds these layers alone, else into the layer; both are saved', async () => {
  const model = loudModel('gelu', 'layerNorm');
  const made = await quantize(model, { scheme: 'w8a8', method: 'smoothquant', calibration: [ids] });
  const [block] = made.blocks;
  const factorOf = (layer: unknown): og.Tensor | null => (layer as og.nn.Int8Linear).inputFactor;
  assert.equal(factorOf(block!.attention.q), null);
  assert.equal(factorOf(block!.mlp.up), null);
  assert.ok(factorOf(block!.attention.o) !== null && factorOf(block!.mlp.down) !== null);
  assert.ok(largest(og.sub(block!.attentionNorm.weight!, model.blocks[0]!.attentionNorm.weight!)) > 0);
  const partly = await quantize(model, {
    scheme: 'w8a8',
    method: 'smoothquant',
    calibration: [ids],
    overrides: [{ target: 'k', skip: true }],
  });
  assert.ok(factorOf(partly.blocks[0]!.attention.q) !== null, 'k still reads the norm as it was');
  assert.ok(distance(partly, run(model)) < 1e-2);
  const again = await quantize(model, { scheme: 'w4a16', method: 'awq', calibration: [ids] });
  for (const saved of [made, again]) assert.equal(distance(og.cloneModel(saved).eval(), run(saved)), 0);
});
