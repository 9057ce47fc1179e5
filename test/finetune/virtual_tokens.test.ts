/** Prompt tuning and prefix tuning: what PEFT computes, training, generation, files. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import {
  loadVirtualTokens,
  prefixTuning,
  PrefixEncoder,
  promptTuning,
  saveVirtualTokens,
  trainableParameters,
  type VirtualTokenModel,
} from '../../src/finetune/index.js';
import * as og from '../../src/index.js';
import { assertClose } from '../helpers/allclose.js';
import { gpt2, llama } from '../helpers/peft_models.js';

const expected = await og.loadSafetensors('test/fixtures/finetune/virtual.safetensors');
const ids = expected['ids']!;
const exact = { rtol: 0, atol: 0 };

describe('PEFT’s folders', () => {
  for (const name of ['prompt', 'prefix', 'prefix_plain']) {
    test(`${name}: logits and loss are PEFT’s, and the folder is written as it was read`, async () => {
      const folder = mkdtempSync(join(tmpdir(), 'omnigrad-virtual-'));
      try {
        const model = await loadVirtualTokens(await gpt2(), `test/fixtures/finetune/${name}`);
        assertClose(model.forward(ids), expected[`${name}.logits`]!, { rtol: 1e-4, atol: 2e-5 });
        const targets = og.concat([ids.at(':', '1:'), og.full([2, 1], -100, { dtype: 'int32' })], 1);
        // With a prompt, PEFT's loss counts the first token, too: it follows a virtual one.
        if (name !== 'prompt') {
          assertClose([model.loss(ids, targets).itemSync()], [expected[`${name}.loss`]!.itemSync()], { rtol: 1e-5 });
        }
        await saveVirtualTokens(model, folder);
        const theirs = JSON.parse(readFileSync(`test/fixtures/finetune/${name}/adapter_config.json`, 'utf8')) as Record<
          string,
          unknown
        >;
        const ours = JSON.parse(readFileSync(join(folder, 'adapter_config.json'), 'utf8')) as Record<string, unknown>;
        for (const key of [
          'peft_type',
          'num_virtual_tokens',
          'token_dim',
          'num_attention_heads',
          'num_layers',
          'task_type',
        ]) {
          assert.equal(ours[key], theirs[key], key);
        }
        const [was, is] = await Promise.all(
          [`test/fixtures/finetune/${name}`, folder].map((at) =>
            og.loadSafetensors(join(at, 'adapter_model.safetensors')),
          ),
        );
        assertClose(is!['prompt_embeddings']!, was!['prompt_embeddings']!, exact);
      } finally {
        rmSync(folder, { recursive: true, force: true });
      }
    });
  }

  test('what does not fit is refused', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'omnigrad-virtual-'));
    try {
      await assert.rejects(
        loadVirtualTokens(await llama(), 'test/fixtures/finetune/prefix_plain'),
        /prompt_embeddings.*\[3, 64\]/s,
      );
      await assert.rejects(loadVirtualTokens(await gpt2(), 'test/fixtures/peft/gpt2_lora'), /PROMPT_TUNING/);
      writeFileSync(join(folder, 'adapter_config.json'), '{"peft_type":"PROMPT_TUNING","num_virtual_tokens":60}');
      await assert.rejects(loadVirtualTokens(await gpt2(), folder), /half of the context/);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
});

const kinds: Record<string, (model: og.GPT | VirtualTokenModel, name?: string) => VirtualTokenModel> = {
  prompt: (model, name = 'default') => promptTuning(model, { length: 4, name, generator: og.generator(3) }),
  'prompt of tokens': (model, name = 'default') => promptTuning(model, { length: 4, ids: [5, 6], name }),
  prefix: (model, name = 'default') => prefixTuning(model, { length: 4, hidden: 8, name, generator: og.generator(3) }),
};

for (const [kind, make] of Object.entries(kinds)) {
  for (const base of [gpt2, llama]) {
    test(`${kind} on ${base.name}: trains, generates as it reads, and leaves the base alone`, async () => {
      const model = make(await base());
      const plain = og.keep(model.without(() => model.forward(ids)));
      assertClose(plain, model.base.forward(ids), exact);
      assert.ok(trainableParameters(model).names.every((name) => name.startsWith('virtual.default.')));
      const optimizer = new og.optim.AdamW(
        model.parameters().filter((tensor) => tensor.requiresGrad),
        { lr: 5e-2 },
      );
      const losses: number[] = [];
      for (let step = 0; step < 25; step++) {
        using _ = og.scope();
        const loss = model.loss(ids.at(':', ':-1'), ids.at(':', '1:'));
        loss.backward();
        optimizer.step();
        optimizer.zeroGrad();
        losses.push(loss.itemSync());
      }
      assert.ok(losses.at(-1)! < losses[0]! - 0.02, `${losses[0]} → ${losses.at(-1)}`);
      assertClose(
        model.without(() => model.forward(ids)),
        plain,
        exact,
      );

      const prompt = [3, 1, 4];
      const made: number[] = [];
      for await (const { id } of model.generate(prompt, { maxNewTokens: 6, temperature: 0 })) made.push(id);
      const greedy = [...prompt];
      for (let i = 0; i < 6; i++) {
        const logits = og.noGrad(() =>
          model.forward(og.tensor(Int32Array.from(greedy), { shape: [1, greedy.length] })),
        );
        greedy.push(Number(logits.at(0, -1).argmax(-1).itemSync()));
      }
      assert.deepEqual(made, greedy.slice(3));
    });
  }
}

test('generation goes on past the context', async () => {
  const model = kinds['prefix']!(await gpt2());
  let count = 0;
  const long = Array.from({ length: 90 }, (_, i) => i);
  for await (const { id } of model.generate(long, { maxNewTokens: 70, temperature: 0 })) count += Number(id >= 0);
  assert.equal(count, 70);
});

test('several sets by name', async () => {
  const model = kinds['prefix']!(await gpt2(), 'a');
  const alone = model.forward(ids);
  assert.equal(kinds['prompt']!(model, 'b'), model);
  assert.deepEqual(model.sets, { names: ['a', 'b'], active: ['b'] });
  model.setActive(['a', 'b']);
  assert.equal(model.length, 8);
  assert.ok(model.forward(ids).sub(alone).abs().amax().itemSync() > 1e-6);
  model.setActive('a', { trainable: false });
  assert.equal(trainableParameters(model).count, 0);
  assertClose(model.forward(ids), alone, exact);
  assert.ok(model.part('a') instanceof PrefixEncoder);
  assert.ok(Object.keys(model.stateDict()).includes('virtual.b.embedding'));
  model.remove('a');
  assert.deepEqual(model.sets.active, []);
  assert.throws(() => model.setActive('a'), /one of b/);
  assert.throws(() => promptTuning(model, { name: 'b' }), /a new name/);
  assert.throws(() => promptTuning(model, { name: 'c', length: 40 }), /half of the context/);
  assert.throws(() => model.forward(ids, { offsets: [0, 18], prompt: og.ones([1, 32]) }), /packed/);
});
