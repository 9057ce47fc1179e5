/**
 * Names of layers in Hugging Face's models and in ours.
 */
import type { Module } from '../nn/module.js';
import { GPT } from '../models/gpt.js';

/** Whose names an adapter folder uses: Hugging Face's GPT-2 or Llama (Mistral, Qwen), or the model's own paths. */
export type PeftArchitecture = 'gpt2' | 'llama' | 'own';
/** @internal */
export const peftArchitectures: readonly PeftArchitecture[] = ['gpt2', 'llama', 'own'];

interface NamePair {
  /** Hugging Face's; `*` is a number. */
  readonly theirs: string;
  /** Ours; several where theirs is one matrix of them, one below the other. */
  readonly ours: readonly string[];
  /** Whether their weight is [in, out] (Conv1D). */
  readonly isTransposed: boolean;
}

const pair = (theirs: string, ours: string | readonly string[], isTransposed = false): NamePair => ({
  theirs,
  ours: typeof ours === 'string' ? [ours] : ours,
  isTransposed,
});

const attention = 'blocks.*.attention';
const tables: Readonly<Record<Exclude<PeftArchitecture, 'own'>, readonly NamePair[]>> = {
  gpt2: [
    pair('transformer.wte', 'tokens'),
    pair('transformer.wpe', 'positions'),
    pair('transformer.h.*.ln_1', 'blocks.*.attentionNorm'),
    pair('transformer.h.*.attn.c_attn', [`${attention}.q`, `${attention}.k`, `${attention}.v`], true),
    pair('transformer.h.*.attn.c_proj', `${attention}.o`, true),
    pair('transformer.h.*.ln_2', 'blocks.*.mlpNorm'),
    pair('transformer.h.*.mlp.c_fc', 'blocks.*.mlp.up', true),
    pair('transformer.h.*.mlp.c_proj', 'blocks.*.mlp.down', true),
    pair('transformer.ln_f', 'norm'),
    pair('lm_head', 'head'),
  ],
  llama: [
    pair('model.embed_tokens', 'tokens'),
    pair('model.layers.*.input_layernorm', 'blocks.*.attentionNorm'),
    pair('model.layers.*.self_attn.q_proj', `${attention}.q`),
    pair('model.layers.*.self_attn.k_proj', `${attention}.k`),
    pair('model.layers.*.self_attn.v_proj', `${attention}.v`),
    pair('model.layers.*.self_attn.o_proj', `${attention}.o`),
    pair('model.layers.*.post_attention_layernorm', 'blocks.*.mlpNorm'),
    pair('model.layers.*.mlp.gate_proj', 'blocks.*.mlp.gate'),
    pair('model.layers.*.mlp.up_proj', 'blocks.*.mlp.up'),
    pair('model.layers.*.mlp.down_proj', 'blocks.*.mlp.down'),
    pair('model.norm', 'norm'),
    pair('lm_head', 'head'),
  ],
};

/** A module in both worlds. */
export interface NamedModule {
  readonly theirs: string;
  readonly ours: readonly string[];
  readonly isTransposed: boolean;
}

/** The numbers of `name` where `template` has its star; null if it is another name. */
function fits(template: string, name: string): string | null {
  const [before, after] = template.split('*');
  if (after === undefined) return name === template ? '' : null;
  const middle = name.slice(before!.length, name.length - after.length);
  return name.startsWith(before!) && name.endsWith(after) && /^\d+$/.test(middle) ? middle : null;
}

function translated(entry: NamePair, index: string): NamedModule {
  const put = (template: string): string => template.replace('*', index);
  return { theirs: put(entry.theirs), ours: entry.ours.map(put), isTransposed: entry.isTransposed };
}

/** @internal What a name of an adapter file means; a name of no table is taken as the model's own path. */
export function fromTheirs(name: string, has: (path: string) => boolean): NamedModule {
  if (!has(name)) {
    for (const entry of [...tables.gpt2, ...tables.llama]) {
      const index = fits(entry.theirs, name);
      if (index !== null) return translated(entry, index);
    }
  }
  return { theirs: name, ours: [name], isTransposed: false };
}

/** @internal What a path of the model is called; a path of no table keeps its name. */
export function fromOurs(architecture: PeftArchitecture, path: string): NamedModule {
  for (const entry of architecture === 'own' ? [] : tables[architecture]) {
    for (const template of entry.ours) {
      const index = fits(template, path);
      if (index !== null) return translated(entry, index);
    }
  }
  return { theirs: path, ours: [path], isTransposed: false };
}

/** @internal Whose names fit a model: a GPT with rotations is Llama's, with learnt positions GPT-2's; others keep their own. */
export function architectureOf(model: Module): PeftArchitecture {
  if (!(model instanceof GPT)) return 'own';
  return model.config.position === 'rope' ? 'llama' : 'gpt2';
}
