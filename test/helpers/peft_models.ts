/** The tiny Hugging Face models under the PEFT fixtures, as GPTs with the same weights. */
import { join } from 'node:path';
import * as og from '../../src/index.js';
import { root } from './source_tree.js';

export const fixtures = join(root, 'test/fixtures/peft');

type Weights = Record<string, og.Tensor>;

/** GPT-2's weights by our names: Conv1D turned, c_attn cut in three. */
function fromGpt2(theirs: Weights): Weights {
  const ours: Weights = {
    'tokens.weight': theirs['transformer.wte.weight']!,
    'positions.weight': theirs['transformer.wpe.weight']!,
  };
  const turned = (x: og.Tensor): og.Tensor => (x.rank === 2 ? og.transpose(x) : x);
  for (const part of ['weight', 'bias']) {
    ours[`norm.${part}`] = theirs[`transformer.ln_f.${part}`]!;
    for (const i of [0, 1]) {
      const [h, block] = [`transformer.h.${i}`, `blocks.${i}`];
      ours[`${block}.attentionNorm.${part}`] = theirs[`${h}.ln_1.${part}`]!;
      ours[`${block}.mlpNorm.${part}`] = theirs[`${h}.ln_2.${part}`]!;
      const qkv = og.chunk(turned(theirs[`${h}.attn.c_attn.${part}`]!), 3);
      for (const [j, name] of ['q', 'k', 'v'].entries()) ours[`${block}.attention.${name}.${part}`] = qkv[j]!;
      ours[`${block}.attention.o.${part}`] = turned(theirs[`${h}.attn.c_proj.${part}`]!);
      ours[`${block}.mlp.up.${part}`] = turned(theirs[`${h}.mlp.c_fc.${part}`]!);
      ours[`${block}.mlp.down.${part}`] = turned(theirs[`${h}.mlp.c_proj.${part}`]!);
    }
  }
  return ours;
}

const llamaNames: readonly (readonly [RegExp, string])[] = [
  [/^model\.embed_tokens/, 'tokens'],
  [/^model\.norm/, 'norm'],
  [/^lm_head/, 'head'],
  [/^model\.layers\.(\d+)/, 'blocks.$1'],
  [/input_layernorm/, 'attentionNorm'],
  [/post_attention_layernorm/, 'mlpNorm'],
  [/self_attn\.([qkvo])_proj/, 'attention.$1'],
  [/mlp\.(gate|up|down)_proj/, 'mlp.$1'],
];

export const ourLlamaName = (name: string): string =>
  llamaNames.reduce((text, [pattern, ours]) => text.replace(pattern, ours), name);

export async function gpt2(): Promise<og.GPT> {
  const model = new og.GPT({
    vocabSize: 97,
    context: 64,
    layers: 2,
    heads: 4,
    width: 32,
    activation: 'geluTanh',
  });
  model.loadStateDict(fromGpt2(await og.loadSafetensors(join(fixtures, 'gpt2.safetensors'))));
  return model;
}

export async function llama(): Promise<og.GPT> {
  const model = new og.GPT({
    vocabSize: 101,
    context: 128,
    layers: 2,
    heads: 4,
    kvHeads: 2,
    width: 32,
    hidden: 56,
    norm: 'rmsNorm',
    position: 'rope',
    activation: 'swiglu',
    bias: false,
    tieEmbeddings: false,
  });
  const theirs = await og.loadSafetensors(join(fixtures, 'llama_gqa.safetensors'));
  model.loadStateDict(Object.fromEntries(Object.entries(theirs).map(([name, value]) => [ourLlamaName(name), value])));
  return model;
}
