/** Freezing by name, the report, training the head only, rates by layer. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { freeze, headOnly, lora, trainableParameters, unfreeze, unfreezeLast } from '../../src/finetune/index.js';
import * as og from '../../src/index.js';
import { nn } from '../../src/index.js';

const gpt = (options: Partial<og.GPTConfig> = {}): og.GPT =>
  new og.GPT({ vocabSize: 16, context: 8, layers: 3, heads: 2, width: 8, tieEmbeddings: false, ...options });
const trained = (model: nn.Module): string[] => [...trainableParameters(model).names];

test('freeze and unfreeze by pattern, name of a module, function', () => {
  const model = gpt();
  const all = trained(model);
  assert.equal(freeze(model), model);
  assert.deepEqual(trained(model), []);
  unfreeze(model, /bias$/);
  assert.deepEqual(
    trained(model),
    all.filter((name) => name.endsWith('bias')),
  );
  freeze(model);
  unfreeze(model, ['blocks.1', 'positions']);
  assert.deepEqual(
    trained(model),
    all.filter((name) => /^(blocks\.1|positions)\./.test(name)),
  );
  freeze(model, 'mlp');
  assert.ok(!trained(model).some((name) => name.includes('.mlp.')));
  unfreeze(model, (path) => path.startsWith('tokens'));
  assert.ok(trained(model).includes('tokens.weight'));
  assert.throws(
    () => freeze(model, /decoder/),
    /among the parameters tokens\.weight, .*blocks\.\*\.attention\.q\.weight/,
  );
});

test('the report counts elements, bytes and the share, quantised weights included', () => {
  const model = gpt();
  const whole = trainableParameters(model);
  assert.equal(whole.count, model.parameterCount());
  assert.equal(whole.share, 1);
  assert.equal(whole.bytes, 4 * whole.count);
  freeze(model);
  unfreeze(model, 'head');
  const { count, total, share, bytes } = trainableParameters(model);
  assert.deepEqual(
    { count, total, share, bytes },
    { count: 128, total: whole.total, share: 128 / whole.total, bytes: 512 },
  );
  const small = new nn.Sequential(nn.QuantizedLinear.from(new nn.Linear(64, 32)));
  assert.equal(trainableParameters(small).total, 64 * 32 + 32);
  lora(small, { rank: 2 });
  assert.equal(trainableParameters(small).count, 2 * (64 + 32));
  assert.equal(trainableParameters(small).total, 64 * 32 + 32 + 2 * (64 + 32));
});

test('only the head', () => {
  const model = headOnly(gpt());
  assert.deepEqual(trained(model), ['head.weight']);
  headOnly(model, { head: /^norm\./ });
  assert.deepEqual(trained(model), ['norm.weight', 'norm.bias']);
  const tied = gpt({ tieEmbeddings: true });
  assert.throws(() => headOnly(tied), og.AttributeError);
  assert.equal(trainableParameters(tied).share, 1, 'nothing was changed');
});

test('gradual unfreezing', () => {
  const model = gpt();
  const tops = (): string[] => [...new Set(trained(model).map((name) => /^(blocks\.\d|\w+)/.exec(name)![1]!))];
  const seen = [0, 1, 2, 3, 4].map((layers) => (unfreezeLast(model, layers), tops()));
  assert.deepEqual(seen[0], ['norm', 'head']);
  assert.deepEqual(seen[1], ['blocks.2', 'norm', 'head']);
  assert.deepEqual(seen[3], ['blocks.0', 'blocks.1', 'blocks.2', 'norm', 'head']);
  assert.deepEqual(seen[4], ['tokens', 'positions', 'blocks.0', 'blocks.1', 'blocks.2', 'norm', 'head']);
  assert.throws(() => unfreezeLast(model, -1), /layers: expected an integer of at least 0/);
});
