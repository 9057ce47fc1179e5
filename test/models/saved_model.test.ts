/** Models that go into a folder and come out the same, compressed ones as well. */
import assert from 'node:assert/strict';
import { copyFile, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, test } from 'node:test';
import { nOfMMask } from '../../src/compress/prune/masks.js';
import { lora } from '../../src/finetune/index.js';
import * as og from '../../src/index.js';

const { nn } = og;
const folders: string[] = [];

async function folder(): Promise<string> {
  const made = await mkdtemp(path.join(tmpdir(), 'omnigrad-model-'));
  folders.push(made);
  return made;
}

after(async () => {
  for (const made of folders) await rm(made, { recursive: true, force: true });
});

function tinyGpt(seed = 5): og.GPT {
  const config = { vocabSize: 32, context: 16, layers: 2, heads: 2, width: 32 };
  return new og.GPT(config, { generator: og.generator(seed) });
}

const ids = og.randint(0, 32, [2, 8], { generator: og.generator(1) });

async function assertSame(a: og.GPT, b: og.GPT): Promise<void> {
  const [x, y] = [a, b].map((model) => og.noGrad(() => model.eval().forward(ids)));
  assert.deepEqual(await y!.toArray(), await x!.toArray());
  const dtypes = (model: og.GPT): [string, string][] =>
    Object.entries(model.stateDict()).map(([name, { dtype }]): [string, string] => [name, dtype]).sort(); // prettier-ignore
  assert.deepEqual(dtypes(b), dtypes(a)); // float16 scales stay float16
}

async function roundTrip(model: og.GPT): Promise<og.GPT> {
  const dir = await folder();
  await og.saveModel(dir, model, { card: { note: 'of a test' } });
  const { model: loaded, tokenizer, card } = await og.load(dir);
  assert.equal(tokenizer, null);
  assert.deepEqual(card, { note: 'of a test' });
  assert.equal(loaded.training, false);
  await assertSame(model, loaded);
  return loaded;
}

test('a plain model; one in 16 bits stays in 16 bits', async () => {
  const loaded = await roundTrip(tinyGpt());
  assert.equal(loaded.tokens.weight.dtype, 'float32');
  assert.ok(loaded.parameters().every(({ requiresGrad }) => requiresGrad));
  const half = await roundTrip(tinyGpt().to('bfloat16'));
  assert.equal(half.tokens.weight.dtype, 'bfloat16');
});

test('quantised and sparse layers run as they were saved', async () => {
  const model = tinyGpt();
  const [first, second] = model.blocks.map(({ mlp }) => mlp as unknown as Record<string, og.nn.Module>);
  first!['up'] = nn.QuantizedLinear.from(first!['up'] as og.nn.Linear, { bits: 4, groupSize: 32, scheme: 'affine' });
  first!['down'] = nn.QuantizedLinear.from(first!['down'] as og.nn.Linear, {
    bits: 8,
    groupSize: null,
    activations: 'int8',
  });
  const up = second!['up'] as og.nn.Linear;
  second!['up'] = await nn.SparseLinear.fromLinear(up, { layout: '2:4', mask: nOfMMask(up.weight) });
  second!['down'] = await nn.SparseLinear.fromLinear(second!['down'] as og.nn.Linear, { layout: 'csr' });
  const loaded = await roundTrip(model);
  assert.equal((loaded.blocks[0]!.mlp.down as unknown as og.nn.QuantizedLinear).activations, 'int8');
  assert.ok((loaded.blocks[1]!.mlp.up as og.nn.Module) instanceof nn.SparseLinear);
});

test('layers that are narrower than the configuration says', async () => {
  const model = tinyGpt();
  const block = model.blocks[0]!;
  Object.assign(block.mlp, { up: new nn.Linear(32, 48), down: new nn.Linear(48, 32) });
  Object.assign(block.attention, { heads: 1, kvHeads: 1 });
  for (const key of ['q', 'k', 'v'] as const) Object.assign(block.attention, { [key]: new nn.Linear(32, 16) });
  Object.assign(block.attention, { o: new nn.Linear(16, 32) });
  const loaded = await roundTrip(model);
  assert.equal(loaded.blocks[0]!.attention.heads, 1);
  assert.equal(loaded.blocks[1]!.attention.heads, 2);
});

test('a copy has tensors of its own', async () => {
  const model = tinyGpt();
  const layers = model.blocks[0]!.mlp as unknown as Record<string, og.nn.Module>;
  layers['up'] = nn.QuantizedLinear.from(layers['up'] as og.nn.Linear, { bits: 8 });
  layers['down'] = new nn.Int8Linear(
    og.quantize((layers['down'] as og.nn.Linear).weight, { axis: 0 }),
    og.zeros([32]),
    {
      inputScale: og.tensor(0.1),
      inputFactor: og.ones([128]),
    },
  );
  const sparse = model.blocks[1]!.mlp as unknown as Record<string, og.nn.Module>;
  sparse['up'] = await nn.SparseLinear.fromLinear(sparse['up'] as og.nn.Linear, { layout: 'csr' });
  model.blocks[1]!.freeze();
  const tensors = og.memory().tensors;
  og.cloneModel(model).dispose();
  assert.equal(og.memory().tensors, tensors, 'nothing is left behind');
  const copy = og.cloneModel(model);
  await assertSame(model, copy);
  assert.deepEqual(
    copy.parameters().map(({ requiresGrad }) => requiresGrad),
    model.parameters().map(({ requiresGrad }) => requiresGrad),
  );
  const before = await og.noGrad(() => model.forward(ids)).toArray();
  copy.dispose();
  assert.deepEqual(await og.noGrad(() => model.forward(ids)).toArray(), before);
  lora(model, { rank: 2, target: 'q' });
  assert.throws(() => og.cloneModel(model), /blocks\.0\.attention\.q is a LoraLinear.*mergeAndUnload/s);
});

test('files that do not belong together, or are none, are refused', async () => {
  const [a, b] = [await folder(), await folder()];
  await og.saveModel(a, tinyGpt(1));
  await og.saveModel(b, tinyGpt(2));
  await copyFile(path.join(a, 'model.safetensors'), path.join(b, 'model.safetensors'));
  await assert.rejects(og.load(b), /another model/);
  const file = path.join(a, 'config.json');
  const content = JSON.parse(await readFile(file, 'utf8')) as Record<string, unknown>;
  const write = (change: object): Promise<void> => writeFile(file, JSON.stringify({ ...content, ...change }));
  await write({ architecture: 'Llama' });
  await assert.rejects(og.load(a), /Llama/);
  await write({ layers: { 'blocks.9.mlp.up': { kind: 'linear' } } });
  await assert.rejects(og.load(a), /blocks\.9\.mlp\.up/);
  await write({ layers: { 'blocks.0.mlp.up': { kind: 'ternary' } } });
  await assert.rejects(og.load(a), /ternary/);
  await write({ layers: { 'blocks.0.mlp.up': { kind: 'quantizedLinear', bits: 4, bias: true } } });
  await assert.rejects(og.load(a), /codes/);
  await write({ config: { ...(content['config'] as object), layers: 3 } });
  await assert.rejects(og.load(a), /no blocks\.2/);
  await writeFile(file, '{');
  await assert.rejects(og.load(a), /not JSON/);
  await assert.rejects(og.load(path.join(a, 'nowhere')), /no such file/);
  await assert.rejects(og.saveModel(a, new nn.Linear(2, 2) as unknown as og.GPT), /GPT/);
});
