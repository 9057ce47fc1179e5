/**
 * Bottleneck adapters on a model: adding, choosing, saving.
 */
import { mkdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { AttributeError, FormatError, StateError } from '../errors.js';
import { loadSafetensors, saveSafetensors } from '../interop/safetensors.js';
import { MultiHeadAttention } from '../nn/attention.js';
import { Mlp } from '../nn/mlp.js';
import type { Module } from '../nn/module.js';
import { detach } from '../ops/views.js';
import type { Generator } from '../tensor/random.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkBoolean, checkInteger, checkKeys, checkNumber, checkOneOf } from '../util/assert.js';
import { writeFileAtomically } from '../util/atomic_file.js';
import { formatValue } from '../util/format.js';
import {
  BottleneckAdapter,
  bottleneckActivations,
  BottleneckSet,
  type BottleneckActivation,
} from './bottleneck_layer.js';
import { during } from './during.js';
import { checkAdapterName } from './lora_linear.js';

/** Where bottlenecks stand: behind attention and feed-forward part (Houlsby), or behind the feed-forward part only (Pfeiffer). */
export type BottleneckPlacement = 'houlsby' | 'pfeiffer';

/** Options of {@link bottleneck}. */
export interface BottleneckOptions {
  /** Width of the bottleneck. Default 64. */
  readonly size?: number;
  /** Default `houlsby`. */
  readonly placement?: BottleneckPlacement;
  /** Default `gelu`. */
  readonly activation?: BottleneckActivation;
  /** Stream of the initial values. */
  readonly generator?: Generator;
  /** Default `default`. */
  readonly name?: string;
}

type Settings = Required<Pick<BottleneckOptions, 'size' | 'placement' | 'activation'>>;

interface Site {
  readonly path: string;
  readonly module: MultiHeadAttention | Mlp;
  readonly width: number;
}

interface Registry {
  readonly adapters: Map<string, Settings>;
  active: ReadonlyMap<string, number>;
  isDisabled: boolean;
}

const optionKeys = ['size', 'placement', 'activation', 'generator', 'name'];
const registries = new WeakMap<Module, Registry>();
const removers = new WeakMap<BottleneckSet, () => void>();
/** Property of a module that its bottlenecks hang on. */
const PROPERTY = 'bottleneck';

function setOf(module: Module): BottleneckSet | undefined {
  const found = (module as unknown as Record<string, unknown>)[PROPERTY];
  return found instanceof BottleneckSet ? found : undefined;
}

/** Sites of a placement, by path. @throws AttributeError if the model has none */
function sitesOf(op: string, model: Module, placement: BottleneckPlacement): Site[] {
  const sites: Site[] = [];
  for (const [path, module] of model.namedModules()) {
    const isAttention = module instanceof MultiHeadAttention && placement === 'houlsby';
    if (!isAttention && !(module instanceof Mlp)) continue;
    const last = isAttention ? module.o : (module as Mlp).down;
    sites.push({ path, module, width: last.outFeatures });
  }
  if (sites.length > 0) return sites;
  const expected = 'a model with nn.MultiHeadAttention and nn.Mlp';
  throw new AttributeError({ op, argument: 'model', expected, actual: 'one without' });
}

function existing(op: string, model: Module): Registry {
  const registry = registries.get(model);
  if (registry !== undefined && registry.adapters.size > 0) return registry;
  const hint = 'Call bottleneck, or loadBottleneck, on the same model first';
  throw new StateError({ op, argument: 'model', expected: 'a model with bottlenecks', actual: 'one without', hint });
}

/** @throws StateError naming those there are */
function settingsOf(op: string, registry: Registry, name: string): Settings {
  const found = registry.adapters.get(name);
  if (found !== undefined) return found;
  const expected = `one of ${[...registry.adapters.keys()].join(', ')}`;
  throw new StateError({ op, argument: 'name', expected, actual: JSON.stringify(name) });
}

function* setsOf(model: Module): globalThis.Generator<[path: string, module: Module, set: BottleneckSet]> {
  for (const [path, module] of model.namedModules()) {
    const set = setOf(module);
    if (set !== undefined) yield [path, module, set];
  }
}

/**
 * Adds bottlenecks; what the model trains and which are active stays as it was. See {@link bottleneck}.
 *
 * @throws AttributeError if an option cannot be
 * @throws StateError if there are bottlenecks of that name
 */
export function addBottleneck(model: Module, name: string, options: Omit<BottleneckOptions, 'name'> = {}): void {
  const op = 'addBottleneck';
  checkKeys(op, options, optionKeys);
  checkAdapterName(op, name);
  const settings: Settings = {
    size: checkInteger(op, 'size', options.size ?? 64, 1),
    placement: checkOneOf(op, 'placement', options.placement ?? 'houlsby', ['houlsby', 'pfeiffer']),
    activation: checkOneOf(op, 'activation', options.activation ?? 'gelu', bottleneckActivations),
  };
  const registry = registries.get(model) ?? { adapters: new Map(), active: new Map(), isDisabled: false };
  if (registry.adapters.has(name)) {
    throw new StateError({ op, argument: 'name', expected: 'a new name', actual: JSON.stringify(name) });
  }
  const sites = sitesOf(op, model, settings.placement);
  registries.set(model, registry);
  registry.adapters.set(name, settings);
  for (const { module, width } of sites) {
    let set = setOf(module);
    if (set === undefined) {
      set = new BottleneckSet();
      set.training = module.training;
      const own = set;
      (module as unknown as Record<string, unknown>)[PROPERTY] = own;
      removers.set(
        own,
        module.registerForwardHook((_, _inputs, output) =>
          own.active.size === 0 ? undefined : own.forward(output as Tensor),
        ),
      );
    }
    const adapter = new BottleneckAdapter(width, settings.size, settings.activation, options.generator);
    adapter.freeze();
    set.adapters.set(name, adapter);
  }
}

/**
 * Puts a bottleneck behind each attention and feed-forward part of a model, before the residual sum: y + up(activation(down(y))).
 * Nearly nothing changes at first (weights are normal with std 0.01, truncated at two of those; biases 0), and only the bottlenecks
 * train from now on. The paper trains the norms, too: `unfreeze(model, /norm\./i)` after this. The model is changed in place and
 * returned; its own parameters keep their names, those of the bottlenecks are `<path>.bottleneck.<name>.…`. LoRA may stand beside.
 *
 * @throws AttributeError if an option cannot be, or the model has no `nn.Mlp` or `nn.MultiHeadAttention`
 * @throws StateError if there are bottlenecks of that name
 * @source Houlsby et al. 2019, arXiv 1902.00751; placement `pfeiffer`: Pfeiffer et al. 2021, arXiv 2005.00247
 */
export function bottleneck<M extends Module>(model: M, options: BottleneckOptions = {}): M {
  checkKeys('bottleneck', options, optionKeys);
  const { name = 'default', ...rest } = options;
  addBottleneck(model, name, rest);
  model.freeze();
  setActiveBottlenecks(model, name);
  return model;
}

/** Names of a model's bottlenecks, and the weights of those that are active. */
export function bottlenecksOf(model: Module): { readonly names: string[]; readonly active: Record<string, number> } {
  const registry = registries.get(model);
  return { names: [...(registry?.adapters.keys() ?? [])], active: Object.fromEntries(registry?.active ?? []) };
}

/**
 * Says which bottlenecks work: one, several, or several with weights, whose changes add up. The others stand by and do not train.
 *
 * @throws StateError if there are none of that name
 */
export function setActiveBottlenecks(
  model: Module,
  names: string | readonly string[] | Readonly<Record<string, number>>,
  options: { readonly trainable?: boolean } = {},
): void {
  const op = 'setActiveBottlenecks';
  const registry = existing(op, model);
  checkKeys(op, options, ['trainable']);
  const trainable = checkBoolean(op, 'trainable', options.trainable ?? true);
  const list = typeof names === 'string' ? [names] : names;
  const active = new Map<string, number>(
    Array.isArray(list) ? list.map((name: string) => [name, 1]) : Object.entries(list as Record<string, number>),
  );
  for (const [name, factor] of active) {
    settingsOf(op, registry, name);
    checkNumber(op, name, factor, -Number.MAX_VALUE, Number.MAX_VALUE);
  }
  registry.active = active;
  for (const [, , set] of setsOf(model)) {
    if (!registry.isDisabled) set.active = active;
    for (const [name, adapter] of set.adapters) {
      for (const tensor of adapter.parameters()) tensor.requiresGrad = trainable && active.has(name);
    }
  }
}

/** Runs `body` with the model as it was before its bottlenecks; they come back after it, or when its promise settles. */
export function withoutBottlenecks<T>(model: Module, body: () => T): T {
  const registry = existing('withoutBottlenecks', model);
  const apply = (active: ReadonlyMap<string, number>): void => {
    for (const [, , set] of setsOf(model)) set.active = active;
  };
  const restore = (): void => {
    registry.isDisabled = false;
    apply(registry.active);
  };
  registry.isDisabled = true;
  apply(new Map());
  return during(body, restore);
}

/** Takes bottlenecks away and frees them; a model without any is what it was. @throws StateError if there are none of that name */
export function removeBottleneck(model: Module, name: string): void {
  const op = 'removeBottleneck';
  const registry = existing(op, model);
  settingsOf(op, registry, name);
  registry.adapters.delete(name);
  registry.active = new Map([...registry.active].filter(([active]) => active !== name));
  for (const [, module, set] of [...setsOf(model)]) {
    set.adapters.get(name)?.dispose();
    set.adapters.delete(name);
    set.active = registry.active;
    if (set.adapters.size > 0) continue;
    removers.get(set)?.();
    delete (module as unknown as Record<string, unknown>)[PROPERTY];
  }
}

/** The tensors of some bottlenecks by `<path of the module>.<down or up>.<weight or bias>`. */
function stateOf(model: Module, name: string): Record<string, Tensor> {
  return Object.fromEntries(
    [...setsOf(model)].flatMap(([path, , set]) =>
      Object.entries(set.adapters.get(name)?.stateDict() ?? {}).map(([key, tensor]) => [
        `${path}.${key}`,
        detach(tensor),
      ]),
    ),
  );
}

/**
 * Writes bottlenecks into a folder: `adapter_config.json` and `adapter_model.safetensors`, each whole or what it was.
 *
 * @throws StateError if there are none of that name
 */
export async function saveBottleneck(
  model: Module,
  folder: string,
  options: { readonly name?: string } = {},
): Promise<void> {
  const op = 'saveBottleneck';
  checkKeys(op, options, ['name']);
  const registry = existing(op, model);
  const name = options.name ?? (registry.adapters.size === 1 ? [...registry.adapters.keys()][0]! : 'default');
  const settings = settingsOf(op, registry, name);
  await mkdir(folder, { recursive: true });
  await saveSafetensors(join(folder, 'adapter_model.safetensors'), stateOf(model, name), { format: 'pt' });
  await writeFileAtomically(join(folder, 'adapter_config.json'), (write) =>
    write(new TextEncoder().encode(`${JSON.stringify({ adapter_type: 'BOTTLENECK', ...settings }, null, 2)}\n`)),
  );
}

/** Options of {@link loadBottleneck}. */
export interface LoadBottleneckOptions {
  /** Default `default`. */
  readonly name?: string;
  /** Go on training them: the rest of the model is frozen. Default false. */
  readonly trainable?: boolean;
}

/**
 * Reads what {@link saveBottleneck} wrote and makes it active. Returns the model.
 *
 * @throws FormatError if the files are malformed or belong to another model; nothing is changed then
 * @throws StateError if there are bottlenecks of that name
 */
export async function loadBottleneck<M extends Module>(
  model: M,
  folder: string,
  options: LoadBottleneckOptions = {},
): Promise<M> {
  const op = 'loadBottleneck';
  checkKeys(op, options, ['name', 'trainable']);
  const { name = 'default' } = options;
  const trainable = checkBoolean(op, 'trainable', options.trainable ?? false);
  const file = join(folder, 'adapter_config.json');
  const { size: bytes } = await stat(file);
  if (bytes > 1 << 20)
    throw new FormatError({ op, argument: file, expected: 'at most 1 MiB', actual: `${bytes} bytes` });
  let config: Record<string, unknown>;
  try {
    config = Object(JSON.parse(await readFile(file, 'utf8'))) as Record<string, unknown>;
  } catch (cause) {
    throw new FormatError({ op, argument: file, expected: 'JSON', actual: (cause as Error).message, cause });
  }
  const { adapter_type: type, size, placement, activation } = config;
  if (type !== 'BOTTLENECK') {
    throw new FormatError({
      op,
      argument: `${file}: adapter_type`,
      expected: '"BOTTLENECK"',
      actual: formatValue(type),
    });
  }
  const tensors = await loadSafetensors(join(folder, 'adapter_model.safetensors'));
  addBottleneck(model, name, { size, placement, activation } as BottleneckOptions);
  try {
    const own = stateOf(model, name);
    const wanted = Object.keys(own);
    const wrong = wanted.find((key) => String(tensors[key]?.shape) !== String(own[key]!.shape));
    if (wrong !== undefined || Object.keys(tensors).length !== wanted.length) {
      const actual = wrong === undefined ? 'other tensors' : `${wrong}: [${String(tensors[wrong]?.shape ?? 'none')}]`;
      throw new FormatError({ op, argument: folder, expected: 'tensors of this model’s bottlenecks', actual });
    }
    for (const [path, , set] of setsOf(model)) {
      const adapter = set.adapters.get(name);
      if (adapter === undefined) continue;
      const prefix = `${path}.`;
      const state = Object.keys(adapter.stateDict()).map((key) => [key, tensors[prefix + key]!] as const);
      adapter.loadStateDict(Object.fromEntries(state));
    }
  } catch (error) {
    removeBottleneck(model, name);
    throw error;
  } finally {
    for (const tensor of Object.values(tensors)) tensor.dispose();
  }
  if (trainable) model.freeze();
  setActiveBottlenecks(model, name, { trainable });
  return model;
}
