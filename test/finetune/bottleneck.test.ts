/** Bottleneck adapters: near identity at first, training, several by name, files. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import {
  addBottleneck,
  bottleneck,
  bottlenecksOf,
  loadBottleneck,
  lora,
  removeBottleneck,
  saveBottleneck,
  setActiveBottlenecks,
  trainableParameters,
  withoutBottlenecks,
} from '../../src/finetune/index.js';
import * as og from '../../src/index.js';
import { assertClose } from '../helpers/allclose.js';

const exact = { rtol: 0, atol: 0 };
const make = (): og.GPT =>
  new og.GPT({ vocabSize: 16, context: 12, layers: 2, heads: 2, width: 8 }, { generator: og.generator(1) });
const ids = og.randint(0, 16, [2, 6], { generator: og.generator(2) });
const loud = (model: og.GPT): og.GPT => {
  for (const [name, tensor] of model.namedParameters()) {
    if (name.includes('bottleneck')) og.nn.init.normal_(tensor, 0, 0.5, og.generator(name.length));
  }
  return model;
};

test('two for each block, close to the model as it was; only they train', () => {
  const model = make();
  const before = model.forward(ids);
  const names = model.namedParameters().map(([name]) => name);
  assert.equal(bottleneck(model, { size: 3 }), model);
  const { count, names: trained } = trainableParameters(model);
  assert.equal(count, 4 * (2 * 3 * 8 + 3 + 8));
  assert.ok(
    trained.every((name) => /^blocks\.\d\.(attention|mlp)\.bottleneck\.default\.(up|down)\.(weight|bias)$/.test(name)),
  );
  assert.deepEqual(
    model
      .namedParameters()
      .map(([name]) => name)
      .filter((name) => !name.includes('bottleneck')),
    names,
  );
  const change = model.forward(ids).sub(before).abs().amax().itemSync();
  assert.ok(change > 0 && change < 1e-3, String(change));
  const weight = new Map(model.namedParameters()).get('blocks.0.mlp.bottleneck.default.down.weight')!;
  assert.ok(weight.abs().amax().itemSync() <= 0.02);
  const pfeiffer = bottleneck(make(), { size: 3, placement: 'pfeiffer' });
  assert.ok(trainableParameters(pfeiffer).names.every((name) => name.includes('.mlp.')));
});

test('what they compute: y + up(gelu(down(y))) behind each part', () => {
  const model = loud(bottleneck(make(), { size: 3, activation: 'tanh' }));
  const part = new Map(model.namedModules());
  const behind = (path: string, y: og.Tensor): og.Tensor => {
    const [down, up] = ['down', 'up'].map((name) => part.get(`${path}.bottleneck.default.${name}`) as og.nn.Linear);
    return y.add(up!.forward(down!.forward(y).tanh()));
  };
  const plain = make();
  let x = plain.tokens.forward(ids).add(plain.positions!.forward(og.arange(6)));
  for (const [i, block] of plain.blocks.entries()) {
    x = x.add(behind(`blocks.${i}.attention`, block.attention.forward(block.attentionNorm.forward(x))));
    x = x.add(behind(`blocks.${i}.mlp`, block.mlp.forward(block.mlpNorm.forward(x))));
  }
  assertClose(model.forward(ids), plain.logits(plain.norm.forward(x)), { rtol: 1e-4, atol: 1e-5 });
});

test('they learn while the rest stays; away they leave nothing', async () => {
  const base = make();
  og.nn.init.normal_(base.tokens.weight, 0, 1, og.generator(5)); // as of a trained model: initial ones can say little
  const model = bottleneck(base, { size: 8 });
  const before = og.keep(withoutBottlenecks(model, () => model.forward(ids)));
  const trainer = new og.Trainer(model, {
    train: new og.TextDataset(
      Array.from({ length: 200 }, (_, i) => i % 7),
      { context: 8 },
    ),
    batchSize: 4,
    steps: 60,
    optimizer: (p) => new og.optim.AdamW(p, { lr: 1e-2 }),
  });
  const losses: number[] = [];
  for await (const event of trainer.run()) if (event.type === 'step') losses.push(event.loss);
  assert.ok(losses.at(-1)! < 0.8 * losses[0]!, `${losses[0]} → ${losses.at(-1)}`);
  assertClose(
    withoutBottlenecks(model, () => model.forward(ids)),
    before,
    exact,
  );
  await assert.rejects(
    withoutBottlenecks(model, () => Promise.reject(new Error('no'))),
    /no/,
  );
  assert.ok(model.forward(ids).sub(before).abs().amax().itemSync() > 1e-3);
  removeBottleneck(model, 'default');
  assertClose(model.forward(ids), before, exact);
  assert.ok(!model.namedParameters().some(([name]) => name.includes('bottleneck')));
});

test('several by name, with weights, beside LoRA', () => {
  const model = bottleneck(make(), { size: 3, name: 'style' });
  addBottleneck(model, 'facts', { size: 2, placement: 'pfeiffer' });
  loud(model);
  const alone = model.forward(ids);
  setActiveBottlenecks(model, ['facts']);
  assert.ok(trainableParameters(model).names.every((name) => name.includes('.facts.')));
  setActiveBottlenecks(model, { style: 1, facts: 0 });
  assertClose(model.forward(ids), alone, exact);
  setActiveBottlenecks(model, { style: 1, facts: 0.5 });
  assert.ok(model.forward(ids).sub(alone).abs().amax().itemSync() > 1e-4);
  assert.deepEqual(bottlenecksOf(model), { names: ['style', 'facts'], active: { style: 1, facts: 0.5 } });
  const both = model.forward(ids);
  lora(model, { rank: 2, target: /attention\.(q|v)$/ });
  assertClose(model.forward(ids), both, exact);
  assert.throws(() => addBottleneck(model, 'facts'), /a new name/);
  assert.throws(() => setActiveBottlenecks(model, 'none'), /style, facts/);
  assert.throws(() => removeBottleneck(make(), 'x'), /bottlenecks/);
  assert.throws(() => bottleneck(new og.nn.Linear(2, 2)), /nn\.Mlp/);
  assert.throws(() => bottleneck(make(), { size: 0 }), /size/);
});

test('files', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'omnigrad-bottleneck-'));
  try {
    const model = loud(bottleneck(make(), { size: 3, activation: 'relu' }));
    await saveBottleneck(model, folder);
    const again = await loadBottleneck(make(), folder, { name: 'copy', trainable: true });
    assertClose(again.forward(ids), model.forward(ids), exact);
    assert.ok(trainableParameters(again).names.every((name) => name.includes('.copy.')));
    const other = new og.GPT({ vocabSize: 16, context: 12, layers: 2, heads: 2, width: 16 });
    await assert.rejects(loadBottleneck(other, folder), /this model’s bottlenecks/);
    assert.deepEqual(bottlenecksOf(other).names, []);
    writeFileSync(join(folder, 'adapter_config.json'), '{"peft_type":"LORA"}');
    await assert.rejects(loadBottleneck(make(), folder), /BOTTLENECK/);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
