/** Scales as codes, 8-bit floats, tables in fewer bits, caches: what is held, how near it stays, and that it trains and comes back. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { quantize } from '../../src/compress/index.js';
import { lora } from '../../src/finetune/index.js';
import * as og from '../../src/index.js';

const { nn } = og;
const config = { vocabSize: 96, context: 32, layers: 2, heads: 2, width: 128 };
const model = new og.GPT(config, { generator: og.generator(7) }).eval();
const ids = og.randint(0, 96, [3, 20], { generator: og.generator(1) });
const targets = og.randint(0, 96, [3, 20], { generator: og.generator(2) });
const logits = (gpt: og.GPT): og.Tensor => og.noGrad(() => gpt.forward(ids));
const largest = (value: og.Tensor): number => og.scope(() => og.amax(og.abs(value)).itemSync() as number);
const want = logits(model);
const distance = (gpt: og.GPT, from = want): number =>
  og.scope(() => og.div(og.sum(og.square(og.sub(logits(gpt), from))), og.sum(og.square(from))).itemSync() as number);
const bytesOf = (module: og.nn.Module): number =>
  og.scope(() => Object.values(module.stateDict()).reduce((sum, { bytes }) => sum + bytes, 0));

test('double quantisation: 0.127 bits a weight for scales instead of 0.5, hardly farther, with the same gradients', () => {
  const linear = new nn.Linear(512, 256, { generator: og.generator(3) });
  const plain = nn.QuantizedLinear.from(linear, { scheme: 'nf4', groupSize: 64, scaleDType: 'float32' });
  const double = nn.QuantizedLinear.from(linear, { scheme: 'nf4', groupSize: 64, doubleQuant: true });
  const bits = (layer: og.nn.QuantizedLinear): number =>
    (8 * (bytesOf(layer) - layer.codes.bytes - layer.bias!.bytes)) / linear.weight.size;
  assert.equal(bits(plain), 0.5);
  assert.ok(Math.abs(bits(double) - 0.127) < 0.001, `${bits(double)}`);
  const lost = (layer: og.nn.QuantizedLinear): number =>
    og.scope(() => og.sum(og.square(og.sub(og.dequantize(layer.weight), linear.weight))).itemSync() as number);
  assert.ok(lost(double) < 1.03 * lost(plain), `${lost(double)} against ${lost(plain)}`);
  const x = og.randn([2, 5, 512], { generator: og.generator(4) }).requiresGrad_();
  const weights = og.randn([2, 5, 256], { generator: og.generator(5) });
  og.sum(og.mul(double.forward(x), weights)).backward();
  const reference = og.clone(og.detach(x)).requiresGrad_();
  const bias = og.clone(og.detach(double.bias!)).requiresGrad_();
  og.sum(og.mul(og.linear(reference, og.dequantize(double.weight), bias), weights)).backward();
  assert.ok(largest(og.sub(x.grad!, reference.grad!)) < 1e-4 * largest(reference.grad!));
  assert.ok(largest(og.sub(double.bias!.grad!, bias.grad!)) < 1e-5 * largest(bias.grad!));
  assert.throws(() => nn.QuantizedLinear.from(linear, { doubleQuant: true }), /doubleQuant.*nf4/s);
});

test('a doubly quantised model: saved, loaded, trained with adapters, merged', async () => {
  const made = await quantize(model, { scheme: 'nf4', doubleQuant: true });
  const simple = await quantize(model, { scheme: 'nf4' });
  assert.ok(distance(made) < 1.1 * distance(simple));
  assert.ok(bytesOf(made) < bytesOf(simple));
  const folder = await mkdtemp(path.join(tmpdir(), 'omnigrad-double-'));
  await og.saveModel(folder, made);
  const { model: loaded } = await og.load(folder);
  assert.equal(distance(loaded, logits(made)), 0);
  await rm(folder, { recursive: true });
  const before = logits(made);
  const adapted = lora(og.cloneModel(made), { rank: 4, generator: og.generator(6) });
  const optimizer = new og.optim.AdamW(
    adapted.parameters().filter(({ requiresGrad }) => requiresGrad),
    { lr: 1e-2 },
  );
  const losses: number[] = [];
  for (let step = 0; step < 8; step++) {
    const loss = og.scope(() => adapted.loss(ids, targets));
    optimizer.zeroGrad();
    loss.backward();
    optimizer.step();
    losses.push(loss.itemSync() as number);
  }
  assert.ok(losses.at(-1)! < losses[0]! - 0.2, `${losses}`);
  assert.equal(distance(made, before), 0);
});

for (const [scheme, bound] of [
  ['fp8-e4m3', 2e-3],
  ['fp8-e5m2', 8e-3],
] as const) {
  test(`${scheme}: a quarter of the bytes, near, with the gradient of x, saved as it is`, async () => {
    const made = await quantize(model, { scheme, calibration: [ids] });
    const layer = made.blocks[0]!.mlp.up as unknown as og.nn.Float8Linear;
    assert.ok(layer instanceof nn.Float8Linear);
    assert.ok(bytesOf(layer) < 0.27 * bytesOf(model.blocks[0]!.mlp.up));
    assert.ok(distance(made) > 0 && distance(made) < bound, `${distance(made)}`);
    const row = og.amax(og.abs(og.sub(layer.weight, model.blocks[0]!.mlp.up.weight))).itemSync() as number;
    assert.ok(row <= (scheme === 'fp8-e4m3' ? 1 / 16 : 1 / 8) * largest(model.blocks[0]!.mlp.up.weight));
    const x = og.randn([4, 128], { generator: og.generator(4) }).requiresGrad_();
    og.sum(og.square(layer.forward(x))).backward();
    const reference = og.clone(og.detach(x)).requiresGrad_();
    og.sum(og.square(og.linear(reference, layer.weight, og.detach(layer.bias!)))).backward();
    assert.ok(largest(og.sub(x.grad!, reference.grad!)) < 1e-4 * largest(reference.grad!));
    assert.equal(distance(og.cloneModel(made).eval(), logits(made)), 0);
    const folder = await mkdtemp(path.join(tmpdir(), 'omnigrad-float8-'));
    await og.saveModel(folder, made);
    const file = await og.openSafetensors(path.join(folder, 'model.safetensors'));
    const name = 'blocks.0.mlp.up.codes';
    assert.equal(file.info(name).dtype, scheme === 'fp8-e4m3' ? 'F8_E4M3' : 'F8_E5M2');
    assert.equal(file.tensor(name).dtype, 'float32');
    assert.equal(largest(og.sub(file.tensor(name), og.fromFloat8(layer.codes, layer.format))), 0);
    assert.equal(distance((await og.load(folder)).model, logits(made)), 0);
    const wrong = og.saveSafetensors(
      path.join(folder, 'x.safetensors'),
      { a: og.zeros([2]) },
      {},
      { float8: { a: 'e5m2' } },
    );
    await assert.rejects(wrong, /uint8/);
    await rm(folder, { recursive: true });
    await assert.rejects(quantize(made, { scheme }), /quantised already/);
    await assert.rejects(quantize(model, { scheme, method: 'gptq', calibration: [ids] }), /rtn for fp8/);
  });
}

for (const [embeddings, most, farthest] of [
  ['int8', 0.27, 1e-3],
  ['int4', 0.15, 0.05],
  ['int4+int4', 0.29, 0.05],
  ['bfloat16', 0.51, 1e-3],
] as const) {
  test(`tables in ${embeddings}: looked up, tied to the output, trained through`, async () => {
    const made = await quantize(model, { scheme: 'w8a16', embeddings });
    const tokens = made.tokens as unknown as og.nn.QuantizedEmbedding;
    assert.ok(tokens instanceof nn.QuantizedEmbedding);
    const share = bytesOf(tokens) / bytesOf(model.tokens);
    assert.ok(share < most, `${share}`);
    assert.ok(distance(made) > 0 && distance(made) < farthest, `${distance(made)}`);
    assert.equal(tokens.forward(ids).dtype, 'float32');
    assert.deepEqual(
      made.makeCache().map(({ dtype }) => dtype),
      ['float32', 'float32'],
    );
    const spread = largest(og.sub(tokens.forward(ids), og.embedding(tokens.weight, ids)));
    assert.ok(spread < 1e-7, `${spread}`);
    // the loss and its gradient against those through all logits
    const hidden = og.randn([3, 20, 128], { generator: og.generator(8) }).requiresGrad_();
    const some = og.where(og.lt(og.randint(0, 4, [3, 20], { generator: og.generator(9) }), 1), -100, targets);
    const loss = tokens.crossEntropy(hidden, some);
    loss.backward();
    const reference = og.clone(og.detach(hidden)).requiresGrad_();
    const slow = og.crossEntropy(og.linear(reference, tokens.outputWeight), some);
    slow.backward();
    assert.ok(Math.abs((loss.itemSync() as number) - (slow.itemSync() as number)) < 1e-4);
    assert.ok(largest(og.sub(hidden.grad!, reference.grad!)) < 1e-4 * largest(reference.grad!));
    const whole = og.noGrad(() => made.loss(ids, targets)).itemSync() as number;
    const byLogits = og.crossEntropy(logits(made), targets).itemSync() as number;
    assert.ok(Math.abs(whole - byLogits) < 1e-4, `${whole} against ${byLogits}`);
    assert.equal(distance(og.cloneModel(made).eval(), logits(made)), 0);
    const folder = await mkdtemp(path.join(tmpdir(), 'omnigrad-table-'));
    await og.saveModel(folder, made);
    const { model: loaded } = await og.load(folder);
    assert.equal(distance(loaded, logits(made)), 0);
    await rm(folder, { recursive: true });
    const adapted = lora(made, { rank: 2, generator: og.generator(6) });
    og.scope(() => adapted.loss(ids, targets).backward());
    assert.ok(adapted.parameters().some(({ grad }) => grad !== null && largest(grad) > 0));
    const pieces: number[] = [];
    for await (const { id } of made.generate([1, 2, 3], { maxNewTokens: 4, temperature: 0 })) pieces.push(id);
    assert.equal(pieces.length, 4);
  });
}

test('a table in int4: the scales of least error, and widths that no group divides', async () => {
  const made = await quantize(model, { scheme: 'w8a16', embeddings: 'int4' });
  assert.equal((made.positions as unknown as og.nn.QuantizedEmbedding).codes.dtype, 'int8');
  const lost = (tokens: og.nn.QuantizedEmbedding): number =>
    largest(og.sum(og.square(og.sub(tokens.weight, model.tokens.weight))));
  const found = lost(made.tokens as unknown as og.nn.QuantizedEmbedding);
  const plain = lost(nn.QuantizedEmbedding.from(model.tokens, 'int4'));
  assert.ok(found < 0.95 * plain, `${found} against ${plain}`);
  const odd = new og.GPT({ vocabSize: 8, context: 4, layers: 1, heads: 1, width: 48 });
  await assert.rejects(quantize(odd, { scheme: 'w8a8', embeddings: 'int4' }), /multiple of 32.*48 in tokens/s);
  assert.throws(() => new nn.QuantizedEmbedding(og.zeros([4, 32], { dtype: 'uint8' }), og.zeros([4])), /for 32/);
});

test('a table in int4+int4: looked up about as exactly as int8, logits as those of int4', async () => {
  const [coarse, bytes, both] = await Promise.all(
    (['int4', 'int8', 'int4+int4'] as const).map(async (embeddings) => {
      const { tokens } = await quantize(model, { scheme: 'w8a16', embeddings });
      return tokens as unknown as og.nn.QuantizedEmbedding;
    }),
  );
  const [plain, hidden] = [model.tokens.weight, og.randn([5, 128], { generator: og.generator(3) })];
  const lost = (made: og.Tensor): number => largest(og.sum(og.square(og.sub(made, plain))));
  assert.ok(lost(both!.weight) < 1.5 * lost(bytes!.weight), `${lost(both!.weight)} against ${lost(bytes!.weight)}`);
  assert.ok(lost(coarse!.weight) > 50 * lost(both!.weight));
  assert.equal(largest(og.sub(both!.outputWeight, coarse!.weight)), 0);
  assert.equal(largest(og.sub(both!.logits(hidden), coarse!.logits(hidden))), 0);
  const codes = og.zeros([4, 32], { dtype: 'uint8' });
  const short = { codes: og.zeros([3, 32], { dtype: 'uint8' }), scale: og.zeros([3, 2]) };
  assert.throws(() => new nn.QuantizedEmbedding(codes, og.zeros([4, 2]), 'float32', short), /remainder.*\[3, 32\]/s);
});

test('rows of more than one block give the loss of one', () => {
  const table = new nn.Embedding(50_000, 32, { generator: og.generator(1), std: 0.3 });
  const tokens = nn.QuantizedEmbedding.from(table, 'int8');
  const hidden = og.randn([150, 32], { generator: og.generator(2) }).requiresGrad_();
  const some = og.randint(0, 50_000, [150], { generator: og.generator(3) });
  og.mul(tokens.crossEntropy(hidden, some), 3).backward();
  const reference = og.clone(og.detach(hidden)).requiresGrad_();
  og.mul(og.crossEntropy(og.linear(reference, tokens.weight), some), 3).backward();
  assert.ok(largest(og.sub(hidden.grad!, reference.grad!)) < 1e-4 * largest(reference.grad!));
});

test('a cache of int8 as the model’s own default, kept in files', async () => {
  const made = await quantize(model, { scheme: 'w8a8', cacheDType: 'int8' });
  const dtypeOf = (gpt: og.GPT): string => {
    const caches = gpt.makeCache();
    const { dtype } = caches[0]!;
    for (const cache of caches) cache.dispose();
    return dtype;
  };
  const folder = await mkdtemp(path.join(tmpdir(), 'omnigrad-cache-'));
  await og.saveModel(folder, made);
  const { model: loaded } = await og.load(folder);
  assert.deepEqual([dtypeOf(made), dtypeOf(loaded), dtypeOf(model)], ['int8', 'int8', 'float32']);
  await rm(folder, { recursive: true });
  await assert.rejects(quantize(model, { scheme: 'w8a8', cacheDType: 'int4' } as never), /cacheDType/);
  const wide = new og.GPT({ vocabSize: 8, context: 4, layers: 1, heads: 1, width: 512 });
  await assert.rejects(quantize(wide, { scheme: 'w8a8', cacheDType: 'int8' }), /256/);
  const plain = new nn.Sequential(new nn.Linear(8, 8));
  await assert.rejects(quantize(plain, { scheme: 'w8a8', embeddings: 'int8', inPlace: true }), /embeddings/);
});
