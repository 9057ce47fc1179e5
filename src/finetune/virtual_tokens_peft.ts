/**
 * Virtual tokens in PEFT's folders.
 */
import { mkdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { noGrad } from '../autograd/grad.js';
import { FormatError } from '../errors.js';
import { openSafetensors, saveSafetensors } from '../interop/safetensors.js';
import type { GPT } from '../models/gpt.js';
import { parameter } from '../nn/module.js';
import { clone, contiguous, to } from '../ops/copy.js';
import { detach } from '../ops/views.js';
import { isFloating } from '../tensor/dtype.js';
import { keep, scope } from '../tensor/scope.js';
import { checkBoolean, checkKeys } from '../util/assert.js';
import { writeFileAtomically } from '../util/atomic_file.js';
import { formatShape, formatValue } from '../util/format.js';
import { PrefixEncoder, PromptEmbedding, VirtualTokenModel } from './virtual_tokens.js';

/** Options of {@link saveVirtualTokens}. */
export interface SaveVirtualTokensOptions {
  /** Default: the only set there is, or `default`. */
  readonly name?: string;
  /** Name or path of the base model, for whoever loads the folder. */
  readonly baseModel?: string;
}

/**
 * Writes a set of virtual tokens as PEFT does: `adapter_config.json` and `adapter_model.safetensors`. Of a prefix the keys and values are
 * written, not the network that made them.
 *
 * @throws StateError if there is no such set
 */
export async function saveVirtualTokens(
  model: VirtualTokenModel,
  folder: string,
  options: SaveVirtualTokensOptions = {},
): Promise<void> {
  checkKeys('saveVirtualTokens', options, ['name', 'baseModel']);
  const { names } = model.sets;
  const part = model.part(options.name ?? (names.length === 1 ? names[0]! : 'default'));
  const isPrefix = part instanceof PrefixEncoder;
  const { layers, width, heads, kvHeads } = model.config;
  const config = {
    peft_type: isPrefix ? 'PREFIX_TUNING' : 'PROMPT_TUNING',
    task_type: 'CAUSAL_LM',
    base_model_name_or_path: options.baseModel ?? null,
    inference_mode: true,
    num_virtual_tokens: part.length,
    token_dim: isPrefix ? kvHeads * (width / heads) : width,
    num_transformer_submodules: 1,
    num_attention_heads: isPrefix ? kvHeads : heads,
    num_layers: layers,
    ...(isPrefix
      ? { encoder_hidden_size: part.up?.outFeatures ?? width, prefix_projection: part.up !== null }
      : { prompt_tuning_init: 'RANDOM' }),
  };
  const made = scope(() => noGrad(() => keep(contiguous(clone(detach(part.forward()))))));
  try {
    await mkdir(folder, { recursive: true });
    await saveSafetensors(join(folder, 'adapter_model.safetensors'), { prompt_embeddings: made }, { format: 'pt' });
    await writeFileAtomically(join(folder, 'adapter_config.json'), (write) =>
      write(new TextEncoder().encode(`${JSON.stringify(config, null, 2)}\n`)),
    );
  } finally {
    made.dispose();
  }
}

/** Options of {@link loadVirtualTokens}. */
export interface LoadVirtualTokensOptions {
  /** Default `default`. */
  readonly name?: string;
  /** Go on training them: the base is frozen. Default false. */
  readonly trainable?: boolean;
}

/**
 * Puts virtual tokens that PEFT (prompt tuning or prefix tuning) or {@link saveVirtualTokens} saved in front of a model, and makes them
 * active. Returns a model around the given one, or the given one if it has virtual tokens already. A prefix that was made by a network
 * goes on as the keys and values it became.
 *
 * @throws FormatError if the files are malformed, of another kind, or belong to another model; nothing is changed then
 * @throws StateError if there is a set of that name
 */
export async function loadVirtualTokens(
  base: GPT | VirtualTokenModel,
  folder: string,
  options: LoadVirtualTokensOptions = {},
): Promise<VirtualTokenModel> {
  const op = 'loadVirtualTokens';
  checkKeys(op, options, ['name', 'trainable']);
  const trainable = checkBoolean(op, 'trainable', options.trainable ?? false);
  const file = join(folder, 'adapter_config.json');
  const fail = (argument: string, expected: string, actual: string, cause?: unknown): never => {
    throw new FormatError({ op, argument, expected, actual, cause });
  };
  const { size: bytes } = await stat(file);
  if (bytes > 1 << 20) fail(file, 'at most 1 MiB', `${bytes} bytes`);
  let config: Record<string, unknown> = {};
  try {
    config = Object(JSON.parse(await readFile(file, 'utf8'))) as Record<string, unknown>;
  } catch (cause) {
    fail(file, 'JSON', (cause as Error).message, cause);
  }
  const { peft_type: type, num_virtual_tokens: length, num_transformer_submodules: submodules } = config;
  if (type !== 'PREFIX_TUNING' && type !== 'PROMPT_TUNING') {
    fail(`${file}: peft_type`, '"PREFIX_TUNING" or "PROMPT_TUNING"', formatValue(type));
  }
  if ((submodules ?? 1) !== 1) fail(`${file}: num_transformer_submodules`, '1, of a decoder', formatValue(submodules));
  if (!Number.isInteger(length) || (length as number) < 1) {
    fail(`${file}: num_virtual_tokens`, 'an integer from 1 on', formatValue(length));
  }
  const model = base instanceof VirtualTokenModel ? base : new VirtualTokenModel(base);
  const { layers, width, heads, kvHeads, context } = model.config;
  if ((length as number) > context / 2) {
    fail(`${file}: num_virtual_tokens`, `at most half of the context ${context}`, String(length));
  }
  const size = kvHeads * (width / heads);
  const shape = [length as number, type === 'PREFIX_TUNING' ? layers * 2 * size : width];
  const tensors = await openSafetensors(join(folder, 'adapter_model.safetensors'));
  const key = 'prompt_embeddings';
  const found = tensors.has(key) ? tensors.info(key).shape : null;
  if (found === null || String(found) !== String(shape)) {
    fail(`${tensors.path}: ${key}`, formatShape(shape), found === null ? 'none' : formatShape(found));
  }
  const value = scope(() =>
    noGrad(() => {
      const stored = tensors.tensor(key);
      if (!isFloating(stored.dtype)) fail(`${tensors.path}: ${key}`, 'floating-point numbers', stored.dtype);
      return clone(to(stored, 'float32'));
    }),
  );
  const part =
    type === 'PREFIX_TUNING'
      ? new PrefixEncoder(length as number, layers, size, 0)
      : new PromptEmbedding(length as number, width);
  part.embedding.dispose();
  part.embedding = parameter(value);
  const { name = 'default' } = options;
  model.add(op, name, part);
  if (trainable) model.base.freeze();
  model.setActive(name, { trainable });
  return model;
}
