/**
 * Adapters into folders that PEFT reads.
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { AttributeError, StateError } from '../errors.js';
import { noGrad } from '../autograd/grad.js';
import { saveSafetensors } from '../interop/safetensors.js';
import type { Module } from '../nn/module.js';
import { mul } from '../ops/arithmetic.js';
import { contiguous } from '../ops/copy.js';
import { concat } from '../ops/join.js';
import { detach, transpose } from '../ops/views.js';
import { zeros } from '../tensor/create.js';
import { scope } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkKeys, checkOneOf } from '../util/assert.js';
import { writeFileAtomically } from '../util/atomic_file.js';
import { sitesOf, type Site } from './layers.js';
import { LoraLinear, rowNorms, weightOf, type LoraAdapter, type LoraBase } from './lora_linear.js';
import { architectureOf, fromOurs, peftArchitectures, type PeftArchitecture } from './peft_names.js';
import { existingRegistry, type AdapterRecord } from './registry.js';

/** Options of {@link saveAdapter}. */
export interface SaveAdapterOptions {
  /** Which adapter. Default: the only one, else `default`. */
  readonly name?: string;
  /** Whose names to write. Default: Llama's or GPT-2's for a GPT, by its positions; the model's own paths for other models. */
  readonly architecture?: PeftArchitecture;
  /** Written as `base_model_name_or_path`: where PEFT finds the base model. Default: none. */
  readonly baseModel?: string;
}

/** An adapter as PEFT holds it. */
interface Written {
  readonly loraA: Tensor;
  readonly loraB: Tensor;
  readonly magnitude: Tensor | null;
  readonly rank: number;
  readonly alpha: number;
}

const baseOf = (site: Site): LoraBase => (site.layer instanceof LoraLinear ? site.layer.base : site.layer);

/**
 * The adapters of the parts of a fused matrix as one of the whole: with a common A the rows of B one below the other, else A's one below
 * the other and B's in blocks, of the summed rank and the same scaling. A part without an adapter has rows of zeros.
 */
function fuse(sites: readonly Site[], adapters: readonly (LoraAdapter | undefined)[]): Written {
  const present = adapters.filter((adapter) => adapter !== undefined);
  const [first] = present as [LoraAdapter];
  const { dtype } = first.loraA;
  const isShared = present.every(({ loraA, scaling }) => loraA === first.loraA && scaling === first.scaling);
  const rank = isShared ? first.rank : present.reduce((sum, adapter) => sum + adapter.rank, 0);
  const rows = adapters.map((adapter, i) => {
    const { outFeatures } = baseOf(sites[i]!);
    if (adapter === undefined) return zeros([outFeatures, rank], { dtype });
    const own = mul(detach(adapter.loraB), adapter.scaling / first.scaling);
    if (isShared) return own;
    const blocks = present.map((other) => (other === adapter ? own : zeros([outFeatures, other.rank], { dtype })));
    return concat(blocks, 1);
  });
  const root = first.variant === 'rslora' || first.variant === 'rsdora' ? Math.sqrt(rank) : rank;
  const magnitudes = adapters.map((adapter, i) =>
    adapter === undefined ? rowNorms(weightOf(baseOf(sites[i]!), dtype)) : detach(adapter.magnitude ?? adapter.loraB),
  );
  return {
    loraA: isShared ? detach(first.loraA) : concat(present.map(({ loraA }) => detach(loraA))),
    loraB: concat(rows),
    magnitude: first.magnitude === null ? null : concat(magnitudes),
    rank,
    alpha: isShared ? first.alpha : first.scaling * root,
  };
}

/** Adapters by the name PEFT gives their layer. */
function written(name: string, sites: ReadonlyMap<string, Site>, architecture: PeftArchitecture): Map<string, Written> {
  const result = new Map<string, Written>();
  for (const [path, site] of sites) {
    if (!(site.layer instanceof LoraLinear) || !site.layer.adapters.has(name)) continue;
    const { theirs, ours } = fromOurs(architecture, path);
    if (result.has(theirs)) continue;
    const parts = ours.map((part) => sites.get(part));
    if (parts.some((part) => part === undefined)) {
      throw new StateError({
        op: 'saveAdapter',
        argument: 'model',
        expected: `the layers ${ours.join(', ')}, which are one in ${theirs}`,
        actual: `only ${path}`,
        hint: "Pass { architecture: 'own' } to keep the model's own names",
      });
    }
    const adapters = (parts as Site[]).map(({ layer }) =>
      layer instanceof LoraLinear ? layer.adapters.get(name) : undefined,
    );
    const [adapter] = adapters;
    if (ours.length > 1) result.set(theirs, fuse(parts as Site[], adapters));
    else {
      const { loraA, loraB, magnitude, rank, alpha } = adapter!;
      result.set(theirs, { loraA, loraB, magnitude, rank, alpha });
    }
  }
  return result;
}

/** Target names as short as they can be: the last part, if every linear layer of that name has the adapter, else whole names. */
function targets(names: readonly string[], all: readonly string[]): string[] {
  const leaf = (name: string): string => name.slice(name.lastIndexOf('.') + 1);
  const own = new Set(names);
  const isWhole = (name: string): boolean =>
    name.includes('.') && all.every((other) => leaf(other) !== leaf(name) || own.has(other));
  return [...new Set(names.map((name) => (isWhole(name) ? leaf(name) : name)))];
}

const escaped = (name: string): string => name.replace(/[\\^$*+?()[\]{}|.]/g, '\\$&');

/** The most frequent rank and alpha, and patterns for what differs. */
function patternsOf(adapters: ReadonlyMap<string, Written>, record: AdapterRecord): object {
  const counts = new Map<string, number>();
  for (const { rank, alpha } of adapters.values())
    counts.set(`${rank} ${alpha}`, (counts.get(`${rank} ${alpha}`) ?? 0) + 1);
  const [best] = [...counts].sort(([, a], [, b]) => b - a)[0] ?? [`${record.rank} ${record.alpha}`];
  const [r, alpha] = best.split(' ').map(Number) as [number, number];
  const others = (differs: (written: Written) => boolean, value: (written: Written) => number): object =>
    Object.fromEntries(
      [...adapters].filter(([, entry]) => differs(entry)).map(([name, entry]) => [escaped(name), value(entry)]),
    );
  return {
    r,
    lora_alpha: alpha,
    rank_pattern: others(
      (entry) => entry.rank !== r,
      (entry) => entry.rank,
    ),
    alpha_pattern: others(
      (entry) => entry.alpha !== alpha,
      (entry) => entry.alpha,
    ),
  };
}

/**
 * Writes an adapter as PEFT does: `adapter_config.json` and `adapter_model.safetensors` in a folder, which is made if it is not there.
 * Each file is whole or what it was before; the tensors come first. For GPT-2's names, adapters of q, k and v become one of the fused
 * `c_attn` that computes the same.
 *
 * @throws StateError if there is no such adapter
 * @throws ResourceError if a file cannot be written
 */
export async function saveAdapter(model: Module, folder: string, options: SaveAdapterOptions = {}): Promise<void> {
  const op = 'saveAdapter';
  checkKeys(op, options, ['name', 'architecture', 'baseModel']);
  const registry = existingRegistry(op, model);
  const [only, ...rest] = registry.adapters.keys();
  const record = registry.get(op, options.name ?? (rest.length === 0 ? only! : 'default'));
  const architecture = checkOneOf(op, 'architecture', options.architecture ?? architectureOf(model), peftArchitectures);
  if (options.baseModel !== undefined && typeof options.baseModel !== 'string') {
    throw new AttributeError({
      op,
      argument: 'baseModel',
      expected: 'a name or path',
      actual: typeof options.baseModel,
    });
  }
  registry.requireApart(op);
  const sites = sitesOf(model);
  const tensors: Record<string, Tensor> = {};
  const adapters = scope(() =>
    noGrad(() => {
      const made = written(record.name, sites, architecture);
      for (const [theirs, { loraA, loraB, magnitude }] of made) {
        const key = `base_model.model.${theirs}`;
        tensors[`${key}.lora_A.weight`] = detach(loraA);
        tensors[`${key}.lora_B.weight`] = detach(loraB);
        if (magnitude !== null) tensors[`${key}.lora_magnitude_vector`] = detach(magnitude);
      }
      for (const { path, copy } of record.saved) {
        const dot = path.lastIndexOf('.');
        const { theirs, ours, isTransposed } = fromOurs(architecture, path.slice(0, dot));
        if (ours.length > 1) {
          const actual = `${theirs}, a fused matrix, trained whole`;
          throw new StateError({ op, argument: path, expected: 'modules that are one in both', actual });
        }
        tensors[`base_model.model.${theirs}${path.slice(dot)}`] =
          isTransposed && copy.rank === 2 ? contiguous(transpose(detach(copy))) : detach(copy);
      }
      return [made, tensors] as const;
    }),
  )[0];
  const all = [...new Set([...sites.keys()].map((path) => fromOurs(architecture, path).theirs))];
  const config = {
    peft_type: 'LORA',
    task_type: architecture === 'own' ? null : 'CAUSAL_LM',
    base_model_name_or_path: options.baseModel ?? null,
    inference_mode: true,
    ...patternsOf(adapters, record),
    lora_dropout: record.dropout,
    bias: 'none',
    fan_in_fan_out: architecture === 'gpt2',
    init_lora_weights: true,
    target_modules: targets([...adapters.keys()], all).sort(),
    modules_to_save:
      record.modulesToSave.length === 0
        ? null
        : [...new Set(record.modulesToSave.map((path) => fromOurs(architecture, path).theirs))],
    use_rslora: record.variant === 'rslora' || record.variant === 'rsdora',
    use_dora: record.variant === 'dora' || record.variant === 'rsdora',
  };
  try {
    await mkdir(folder, { recursive: true });
    await saveSafetensors(join(folder, 'adapter_model.safetensors'), tensors, { format: 'pt' });
    await writeFileAtomically(join(folder, 'adapter_config.json'), (write) =>
      write(new TextEncoder().encode(`${JSON.stringify(config, null, 2)}\n`)),
    );
  } finally {
    for (const tensor of Object.values(tensors)) tensor.dispose();
  }
}
