/** Adapters that PEFT wrote: logits, gradients and merged weights as PEFT computes them; folders out and in again; wrong files. */
import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import {
  addAdapter,
  loadAdapter,
  lora,
  LoraLinear,
  mergeAdapters,
  mergeAndUnload,
  removeAdapter,
  saveAdapter,
  unloadAdapters,
  unmergeAdapters,
  withoutAdapters,
} from '../../src/finetune/index.js';
import * as og from '../../src/index.js';
import { assertClose, numbersOf } from '../helpers/allclose.js';
import { fixtures, gpt2, llama } from '../helpers/peft_models.js';

const folder = mkdtempSync(join(tmpdir(), 'omnigrad-peft-'));
after(() => rmSync(folder, { recursive: true, force: true }));
const ids = (batch: number, time: number, vocabulary: number): og.Tensor =>
  og.tensor(
    Int32Array.from({ length: batch * time }, (_, i) => (i * 37 + 11) % vocabulary),
    { shape: [batch, time] },
  );

interface Manifest {
  readonly tol: { readonly rtol: number; readonly atol: number };
}

const cases: Record<string, () => Promise<og.GPT>> = {
  gpt2_lora: gpt2,
  llama_lora_qv: llama,
  llama_rslora_all: llama,
  llama_dora: llama,
};

/** PEFT's gradient of a tensor, cut and summed as our adapters hold it. */
function layersOf(model: og.GPT, theirs: string): LoraLinear[] {
  const index = /\.(\d+)\./.exec(theirs)![1]!;
  const { attention, mlp } = model.blocks[Number(index)]!;
  const own: Record<string, unknown[]> = {
    'attn.c_attn': [attention.q, attention.k, attention.v],
    'attn.c_proj': [attention.o],
    'mlp.c_fc': [mlp.up],
    'mlp.c_proj': [mlp.down],
    'self_attn.q_proj': [attention.q],
    'self_attn.k_proj': [attention.k],
    'self_attn.v_proj': [attention.v],
    'self_attn.o_proj': [attention.o],
    'mlp.gate_proj': [mlp.gate],
    'mlp.up_proj': [mlp.up],
    'mlp.down_proj': [mlp.down],
  };
  return own[/\.\d+\.(\w+\.\w+)$/.exec(theirs)![1]!] as LoraLinear[];
}

for (const [name, make] of Object.entries(cases)) {
  describe(`PEFT's ${name}`, () => {
    const source = join(fixtures, name);
    const { tol } = JSON.parse(readFileSync(join(source, 'expected.json'), 'utf8')) as Manifest;

    test('logits without, with and with merged adapters; weights come back bit for bit', async () => {
      const model = (await make()).eval();
      const want = await og.loadSafetensors(join(source, 'expected.safetensors'));
      const input = want['input_ids']!;
      assertClose(model.forward(input), want['base_logits']!, tol, 'base');
      const before = numbersOf(model.forward(input));
      await loadAdapter(model, source);
      assert.equal(
        model.parameters().filter(({ requiresGrad }) => requiresGrad).length > 0,
        true,
        'base stays as it was',
      );
      assertClose(model.forward(input), want['adapter_logits']!, tol, 'adapter');
      assert.deepEqual(
        withoutAdapters(model, () => numbersOf(model.forward(input))),
        before,
      );
      const weights = Object.values(model.stateDict()).map(numbersOf);
      mergeAdapters(model);
      assertClose(model.forward(input), want['merged_logits']!, tol, 'merged');
      for (const [key, merged] of Object.entries(want).filter(([key]) => key.startsWith('merged.'))) {
        const layers = layersOf(model, key.slice('merged.'.length, -'.weight'.length));
        const own = og.concat(layers.map(({ base }) => (base as og.nn.Linear).weight.detach()));
        assertClose(own, name.startsWith('gpt2') ? og.transpose(merged) : merged, tol, key);
      }
      unmergeAdapters(model);
      assert.deepEqual(Object.values(model.stateDict()).map(numbersOf), weights);
      removeAdapter(model, 'default');
      assert.deepEqual(numbersOf(model.forward(input)), before);
      assert.ok(![...model.namedModules()].some(([, module]) => module instanceof LoraLinear));
    });

    test('loss and gradients of the adapters', async () => {
      const model = await loadAdapter(await make(), source, { trainable: true });
      const want = await og.loadSafetensors(join(source, 'expected.safetensors'));
      const input = want['input_ids']!;
      const [batch, time] = input.shape as [number, number];
      const loss = og.crossEntropy(
        og.reshape(og.narrow(model.forward(input), 1, 0, time - 1), [batch * (time - 1), -1]),
        og.reshape(og.narrow(input, 1, 1, time - 1), [-1]),
      );
      assertClose(loss, want['loss']!, tol, 'loss');
      loss.backward();
      let seen = 0;
      for (const [key, gradient] of Object.entries(want)) {
        const [, layer, part] = /^grad\.(.*)\.(lora_[AB]|lora_magnitude_vector)\.weight$/.exec(key) ?? [];
        if (layer === undefined) continue;
        const adapters = layersOf(model, layer).map(({ adapters }) => adapters.get('default')!);
        const own =
          part === 'lora_A'
            ? adapters[0]!.loraA.grad!
            : og.concat(adapters.map(({ loraB, magnitude }) => (part === 'lora_B' ? loraB : magnitude!).grad!));
        assertClose(own, gradient, { rtol: 2e-3, atol: 1e-4 }, key);
        seen++;
      }
      const adapted = model.namedParameters().filter(([, { requiresGrad }]) => requiresGrad);
      assert.ok(seen >= 8 && adapted.length >= seen, `${seen} gradients`);
      assert.ok(adapted.every(([path]) => path.includes('.adapters.default.')));
    });

    test('saved, it is the same files and loads to the same bits', async () => {
      const model = await loadAdapter((await make()).eval(), source);
      const target = join(folder, name);
      await saveAdapter(model, target, { baseModel: 'somewhere' });
      const [own, theirs] = await Promise.all(
        [target, source].map((path) => og.loadSafetensors(join(path, 'adapter_model.safetensors'))),
      );
      assert.deepEqual(Object.keys(own!).sort(), Object.keys(theirs!).sort());
      for (const [key, value] of Object.entries(theirs!))
        assert.deepEqual(numbersOf(own![key]!), numbersOf(value), key);
      const [config, other] = [target, source].map(
        (path) => JSON.parse(readFileSync(join(path, 'adapter_config.json'), 'utf8')) as Record<string, unknown>,
      ) as [Record<string, unknown>, Record<string, unknown>];
      for (const key of [
        'r',
        'lora_alpha',
        'use_dora',
        'use_rslora',
        'fan_in_fan_out',
        'peft_type',
        'task_type',
        'bias',
      ]) {
        assert.deepEqual(config[key], other[key], key);
      }
      if (name.startsWith('llama')) {
        assert.deepEqual(config['target_modules'], (other['target_modules'] as string[]).sort());
      }
      const again = await loadAdapter((await make()).eval(), target);
      const input = ids(2, 7, 90);
      assert.deepEqual(numbersOf(again.forward(input)), numbersOf(model.forward(input)));
    });
  });
}

describe('folders', () => {
  const input = ids(2, 9, 90);

  for (const variant of ['lora', 'rslora', 'dora', 'rsdora'] as const) {
    test(`GPT-2: q and v of unlike ranks as one fused ${variant} adapter`, async () => {
      const generator = og.generator(3);
      const model = lora((await gpt2()).eval(), {
        ...{ rank: 3, alpha: 5, target: /attention\.(q|v)$|mlp\.up$/, variant, init: 'random', generator },
        ...{ rankPattern: { 'blocks.1.attention.q': 2 }, alphaPattern: { q: 7 } },
      });
      const target = join(folder, `fused_${variant}`);
      await saveAdapter(model, target);
      const again = await loadAdapter((await gpt2()).eval(), target);
      assertClose(again.forward(input), model.forward(input), { rtol: 1e-4, atol: 1e-5 });
      const want = await gpt2();
      assert.notDeepEqual(numbersOf(want.eval().forward(input)), numbersOf(model.forward(input)));
    });
  }

  test('modules that are trained whole, and a second adapter', async () => {
    const model = lora((await llama()).eval(), {
      ...{ target: ['q', 'v'], init: 'random', modulesToSave: ['head', 'norm'], generator: og.generator(4) },
    });
    const before = withoutAdapters(model, () => numbersOf(model.forward(input)));
    og.nn.init.normal_(model.head!.weight, 0, 0.1, og.generator(5));
    assert.deepEqual(
      withoutAdapters(model, () => numbersOf(model.forward(input))),
      before,
      'the model keeps its own head',
    );
    const target = join(folder, 'whole');
    await saveAdapter(model, target);
    const file = await og.openSafetensors(join(target, 'adapter_model.safetensors'));
    assert.ok(file.has('base_model.model.lm_head.weight') && file.has('base_model.model.model.norm.weight'));
    const again = lora((await llama()).eval(), { target: 'k', name: 'other' });
    await loadAdapter(again, target, { name: 'second' });
    assert.deepEqual(numbersOf(again.forward(input)), numbersOf(model.forward(input)));
    await assert.rejects(loadAdapter(again, target, { name: 'second' }), /expected a new name, got "second"/);
    unloadAdapters(again);
    assert.deepEqual(numbersOf(again.forward(input)), before);
    assert.throws(
      () => addAdapter(model, 'third', { modulesToSave: 'nothing' }),
      /modules tokens, dropout, blocks\.\*/,
    );
    const wanted = numbersOf(model.forward(input));
    assertClose(mergeAndUnload(model).forward(input), wanted, { rtol: 1e-4, atol: 1e-5 });
  });

  test('models of other kinds keep their own names', async () => {
    class Net extends og.nn.Module {
      readonly first = new og.nn.Linear(6, 5);
      readonly last = new og.nn.Linear(5, 4);
      forward(x: og.Tensor): og.Tensor {
        return this.last.forward(this.first.forward(x).tanh());
      }
    }
    const [a, b] = [new Net(), new Net()];
    b.loadStateDict(a.stateDict());
    lora(a, { rank: 2, target: 'first', init: 'random' });
    await saveAdapter(a, join(folder, 'own'));
    await loadAdapter(b, join(folder, 'own'));
    const x = og.randn([3, 6]);
    assert.deepEqual(numbersOf(b.forward(x)), numbersOf(a.forward(x)));
  });

  test('what is malformed, unsupported, or of another model is named, and changes nothing', async () => {
    const model = (await llama()).eval();
    const state = Object.keys(model.stateDict());
    const broken = async (edit: (config: Record<string, unknown>) => void, expected: RegExp): Promise<void> => {
      const target = join(folder, 'broken');
      rmSync(target, { recursive: true, force: true });
      cpSync(join(fixtures, 'llama_lora_qv'), target, { recursive: true });
      const file = join(target, 'adapter_config.json');
      const config = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
      edit(config);
      writeFileSync(file, JSON.stringify(config));
      await assert.rejects(loadAdapter(model, target), (error: og.OmniError) => {
        assert.ok(error instanceof og.FormatError, String(error));
        assert.match(error.message, expected);
        return true;
      });
      assert.deepEqual(Object.keys(model.stateDict()), state);
    };
    await broken((config) => (config['peft_type'] = 'IA3'), /peft_type: expected "LORA"/);
    await broken((config) => (config['layer_replication'] = [[0, 1]]), /layer_replication: expected no such field/);
    await broken((config) => (config['something_new'] = true), /something_new: expected no such field/);
    await broken((config) => (config['bias'] = 'all'), /bias: expected "none"/);
    await broken((config) => (config['init_lora_weights'] = 'pissa_niter_4'), /init_lora_weights/);
    await broken((config) => (config['r'] = 5), /expected rank 5 as the configuration says, got 4/);
    await broken((config) => (config['r'] = '4'), /r: expected an integer/);
    await broken((config) => (config['use_dora'] = true), /magnitude vector/);
    await broken(
      (config) => (config['rank_pattern'] = { '(': 4 }),
      /expected patterns of at most four repetitions, none of a group, got "\("/,
    );
    await broken((config) => (config['rank_pattern'] = { '((\\w|\\.)+)+!': 4 }), /expected patterns/);
    await broken((config) => (config['rank_pattern'] = { q_proj: 9 }), /expected rank 9/);
    await broken((config) => (config['modules_to_save'] = 'lm_head'), /modules_to_save: expected a list/);
    writeFileSync(join(folder, 'broken', 'adapter_config.json'), '{"r": ');
    await assert.rejects(loadAdapter(model, join(folder, 'broken')), /expected JSON/);
    await assert.rejects(loadAdapter(model, join(folder, 'absent')), { code: 'ENOENT' });
    await assert.rejects(loadAdapter(await gpt2(), join(fixtures, 'llama_rslora_all')), og.FormatError);
    const small = new og.GPT({
      vocabSize: 11,
      context: 8,
      layers: 2,
      heads: 2,
      width: 8,
      position: 'rope',
      bias: false,
    });
    await assert.rejects(loadAdapter(small, join(fixtures, 'llama_lora_qv')), /expected \[rank, 8\], got \[4, 32\]/);
    const one = new og.GPT({ vocabSize: 11, context: 8, layers: 1, heads: 4, kvHeads: 2, width: 32, position: 'rope' });
    await assert.rejects(
      loadAdapter(one, join(fixtures, 'llama_lora_qv')),
      /blocks\.1\.attention\.\w, which the model lacks/,
    );
    await assert.rejects(saveAdapter(model, folder), /expected a model with adapters/);
  });
});
