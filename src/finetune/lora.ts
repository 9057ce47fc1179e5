/**
 * Adapters of low rank on the linear layers of a model.
 */
import { AttributeError, StateError } from '../errors.js';
import type { Module } from '../nn/module.js';
import type { DType } from '../tensor/dtype.js';
import type { Generator } from '../tensor/random.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkBoolean, checkInteger, checkKeys, checkNumber, checkOneOf } from '../util/assert.js';
import { formatValue } from '../util/format.js';
import { matcher, place, type Target } from '../nn/surgery.js';
import { during } from './during.js';
import { chosenSites, sitesOf } from './layers.js';
import {
  adapterDType,
  checkAdapterName,
  LoraAdapter,
  LoraLinear,
  loraInits,
  loraVariants,
  type LoraInit,
  type LoraVariant,
} from './lora_linear.js';
import { copiesOf, dropRegistry, existingRegistry, registryOf, type AdapterRecord } from './registry.js';

/** Options of {@link lora} and {@link addAdapter}. */
export interface LoraOptions {
  /** Default 8. */
  readonly rank?: number;
  /** Strength: ΔW = alpha/rank · B·A (alpha/√rank for `rslora`). Default 2 · rank. */
  readonly alpha?: number;
  /**
   * Layers to adapt: a pattern over paths, names (whole paths or their ends), a function of the path, or `all-linear`: every
   * linear layer but the output layer. Default `all-linear`.
   */
  readonly target?: Target;
  /** Probability of dropping an input of the adapter while training. Default 0. */
  readonly dropout?: number;
  /** Default `lora`. */
  readonly variant?: LoraVariant;
  /** Default `default`. */
  readonly init?: LoraInit;
  /** Ranks of some layers, by a pattern of their path; the first that fits counts. */
  readonly rankPattern?: Readonly<Record<string, number>>;
  /** Alphas of some layers, likewise. */
  readonly alphaPattern?: Readonly<Record<string, number>>;
  /** Modules that the adapter trains whole, in a copy of its own: names (whole paths or their ends), a pattern, a function. */
  readonly modulesToSave?: Target;
  /** Element type of the adapters. Default float32 (float64 beside float64 weights). */
  readonly dtype?: DType;
  /** Stream of initial values and dropout. Default: the shared one, which is the one that checkpoints of a run hold. */
  readonly generator?: Generator;
  /** Default `default`. */
  readonly name?: string;
}

const optionKeys = [
  'rank', 'alpha', 'target', 'dropout', 'variant', 'init', 'rankPattern', 'alphaPattern', 'modulesToSave', 'dtype', 'generator',
  'name',
]; // prettier-ignore

/** The value of the first pattern that a path matches, as PEFT reads them: a whole path, or its end after a dot. */
function patterned(
  op: string,
  argument: string,
  patterns: Readonly<Record<string, number>>,
  path: string,
): number | null {
  for (const [pattern, value] of Object.entries(patterns)) {
    let expression: RegExp;
    try {
      expression = new RegExp(`^(.*\\.)?(${pattern})$`);
    } catch (cause) {
      throw new AttributeError({ op, argument, expected: 'patterns', actual: formatValue(pattern), cause });
    }
    if (expression.test(path)) return value;
  }
  return null;
}

/** Modules that a target means, topmost ones only. */
function modulesFor(op: string, model: Module, target: Target): [path: string, module: Module][] {
  const matches = matcher(op, 'modulesToSave', target);
  const all = [...model.namedModules()].filter(([path]) => path !== '');
  const found: [string, Module][] = [];
  for (const [path, module] of all) {
    if (matches(path) && !found.some(([above]) => path.startsWith(`${above}.`))) found.push([path, module]);
  }
  if (found.length > 0) return found;
  const names = [...new Set(all.map(([path]) => path.replace(/\.\d+(?=\.|$)/g, '.*')))];
  throw new AttributeError({
    op,
    argument: 'modulesToSave',
    expected: `a match among the modules ${names.join(', ')}`,
    actual: `${formatValue(target instanceof RegExp ? String(target) : target)}, which matches none`,
  });
}

/**
 * Adds an adapter; everything is as {@link lora} says, but what the model trains and which adapters are active stays as it was.
 *
 * @throws AttributeError if an option cannot be, or nothing matches `target` (with the names there are)
 * @throws StateError if there is an adapter of that name
 */
export function addAdapter(model: Module, name: string, options: Omit<LoraOptions, 'name'> = {}): void {
  const op = 'addAdapter';
  checkKeys(op, options, optionKeys);
  checkAdapterName(op, name);
  const registry = registryOf(model);
  registry.requireApart(op);
  if (registry.adapters.has(name)) {
    throw new StateError({ op, argument: 'name', expected: 'a new name', actual: JSON.stringify(name) });
  }
  const rank = checkInteger(op, 'rank', options.rank ?? 8, 1);
  const alpha = checkNumber(op, 'alpha', options.alpha ?? 2 * rank, 0, Number.MAX_VALUE);
  const dropout = checkNumber(op, 'dropout', options.dropout ?? 0, 0, 1);
  const variant = checkOneOf(op, 'variant', options.variant ?? 'lora', loraVariants);
  const init = checkOneOf(op, 'init', options.init ?? 'default', loraInits);
  const { generator, rankPattern = {}, alphaPattern = {} } = options;
  const sites = chosenSites(op, model, options.target ?? 'all-linear');
  const whole = options.modulesToSave === undefined ? [] : modulesFor(op, model, options.modulesToSave);
  const plans = sites.map((site) => {
    const ownRank = checkInteger(op, 'rankPattern', patterned(op, 'rankPattern', rankPattern, site.path) ?? rank, 1);
    const ownAlpha = patterned(op, 'alphaPattern', alphaPattern, site.path) ?? alpha;
    checkNumber(op, 'alphaPattern', ownAlpha, 0, Number.MAX_VALUE);
    const base = site.layer instanceof LoraLinear ? site.layer.base : site.layer;
    const settings = { rank: ownRank, alpha: ownAlpha, dropout, variant, generator };
    return { site, base, settings, dtype: adapterDType(op, base, options.dtype) };
  });
  const saved = whole.flatMap(([path, module]) => copiesOf(op, registry, path, module));
  for (const { site } of plans) place(op, site, site.layer); // refuses before anything is changed
  for (const { site, base, settings, dtype } of plans) {
    attach(op, site, name, LoraAdapter.make(base, settings, init, dtype));
  }
  const modulesToSave = whole.map(([path]) => path);
  addRecord(model, { name, rank, alpha, variant, dropout, modulesToSave, saved });
}

/** @internal Puts an adapter on a layer. */
export function attach(
  op: string,
  site: ReturnType<typeof chosenSites>[number],
  name: string,
  adapter: LoraAdapter,
): void {
  let { layer } = site;
  if (!(layer instanceof LoraLinear)) {
    layer = new LoraLinear(layer);
    place(op, site, layer);
  }
  layer.attach(name, adapter);
}

/** @internal Registers an adapter whose layers are in place; it asks for no gradients until it is made active. */
export function addRecord(model: Module, record: AdapterRecord): void {
  const registry = registryOf(model);
  registry.adapters.set(record.name, record);
  for (const tensor of registry.parametersOf([record.name])) tensor.requiresGrad = false;
}

/**
 * Adapts the chosen linear layers of a model: beside each stands an adapter B·A of low rank, and only adapters (and
 * `modulesToSave`) train from now on. At first nothing changes, as B is zero. Quantised layers stay quantised (QLoRA). The layers
 * are replaced in the model itself, which is returned; make optimisers afterwards, and cast the model (`to`) before. The state of an adapted layer is named
 * `<path>.base.…` and `<path>.adapters.<name>.…`.
 *
 * @throws AttributeError if an option cannot be, or nothing matches `target` (with the names there are)
 * @throws StateError if there is an adapter of that name
 * @source Hu et al. 2021, arXiv 2106.09685; rsLoRA: Kalajdzievski 2023, arXiv 2312.03732; DoRA: Liu et al. 2024, arXiv 2402.09353;
 * QLoRA: Dettmers et al. 2023, arXiv 2305.14314
 */
export function lora<M extends Module>(model: M, options: LoraOptions = {}): M {
  checkKeys('lora', options, optionKeys);
  const { name = 'default', ...rest } = options;
  addAdapter(model, name, rest);
  model.freeze();
  setActiveAdapters(model, name);
  return model;
}

/** Names of a model's adapters, and the weights of those that are active. */
export function adaptersOf(model: Module): { readonly names: string[]; readonly active: Record<string, number> } {
  const registry = registryOf(model);
  return { names: [...registry.adapters.keys()], active: Object.fromEntries(registry.active) };
}

/** Options of {@link setActiveAdapters}. */
export interface SetActiveOptions {
  /** Whether the active adapters train. Default true. */
  readonly trainable?: boolean;
}

/**
 * Says which adapters work: one, several, or several with weights, whose changes then add up (`{ style: 0.7, facts: 1 }`). The others
 * stand by and do not train. A module that several adapters train whole can be active in one only, and takes no weight.
 *
 * @throws StateError if there is no such adapter, or two have copies of the same module
 */
export function setActiveAdapters(
  model: Module,
  names: string | readonly string[] | Readonly<Record<string, number>>,
  options: SetActiveOptions = {},
): void {
  const op = 'setActiveAdapters';
  const registry = existingRegistry(op, model);
  registry.requireApart(op);
  checkKeys(op, options, ['trainable']);
  const trainable = checkBoolean(op, 'trainable', options.trainable ?? true);
  const list = typeof names === 'string' ? [names] : names;
  const factors = new Map<string, number>(
    Array.isArray(list) ? list.map((name: string) => [name, 1]) : Object.entries(list as Record<string, number>),
  );
  const owners = new Map<string, string>();
  for (const [name, factor] of factors) {
    checkNumber(op, name, factor, -Number.MAX_VALUE, Number.MAX_VALUE);
    for (const { path } of registry.get(op, name).saved) {
      const other = owners.get(path);
      if (other !== undefined) {
        const actual = `${other} and ${name}`;
        throw new StateError({ op, argument: 'names', expected: `one adapter that has ${path}`, actual });
      }
      owners.set(path, name);
    }
  }
  registry.active = factors;
  registry.apply(factors);
  for (const tensor of registry.parametersOf(registry.adapters.keys())) tensor.requiresGrad = false;
  if (trainable) for (const tensor of registry.parametersOf(factors.keys())) tensor.requiresGrad = true;
}

/**
 * Runs `body` with the model as it was before its adapters: a reference for preference training, or for a comparison. If `body` is
 * asynchronous, they come back when its promise settles.
 *
 * @throws StateError if the model has no adapters, they are merged, or this is called within itself
 */
export function withoutAdapters<T>(model: Module, body: () => T): T {
  const op = 'withoutAdapters';
  const registry = existingRegistry(op, model);
  registry.requireApart(op);
  const restore = (): void => {
    registry.isDisabled = false;
    registry.apply(registry.active);
  };
  registry.apply(new Map());
  registry.isDisabled = true;
  return during(body, restore);
}

/**
 * Takes an adapter away and frees it; layers without any become what they were.
 *
 * @throws StateError if there is no such adapter
 */
export function removeAdapter(model: Module, name: string): void {
  const op = 'removeAdapter';
  const registry = existingRegistry(op, model);
  registry.requireApart(op);
  const record = registry.get(op, name);
  registry.active = new Map([...registry.active].filter(([active]) => active !== name));
  registry.apply(registry.active);
  for (const [, layer] of registry.layers()) layer.detachAdapter(name);
  for (const { copy } of record.saved) copy.dispose();
  registry.adapters.delete(name);
  uncover(op, model);
}

/** Puts bare layers back where no adapter is left. */
function uncover(op: string, model: Module): void {
  for (const site of sitesOf(model).values()) {
    if (site.layer instanceof LoraLinear && site.layer.adapters.size === 0) place(op, site, site.layer.base);
  }
}

/** Options of {@link mergeAdapters} and {@link mergeAndUnload}. */
export interface MergeOptions {
  /** Make float32 layers of quantised ones, which cannot hold the sum. Default false: they are refused. */
  readonly dequantize?: boolean;
}

/**
 * Adds the active adapters to the weights, so that a call costs what it did without them. The old weights are kept beside until
 * {@link unmergeAdapters}: quantities that were added and subtracted again would not have the same bits. Save and train unmerged.
 *
 * @throws StateError if a layer is quantised and `dequantize` is not set; nothing is merged then
 */
export function mergeAdapters(model: Module, options: MergeOptions = {}): void {
  const op = 'mergeAdapters';
  checkKeys(op, options, ['dequantize']);
  const dequantize = checkBoolean(op, 'dequantize', options.dequantize ?? false);
  const registry = existingRegistry(op, model);
  registry.requireApart(op);
  const layers = [...registry.layers()];
  try {
    for (const [path, layer] of layers) layer.merge(dequantize, path);
  } catch (error) {
    for (const [, layer] of layers) layer.unmerge();
    throw error;
  }
  registry.isMerged = true;
}

/** Puts the weights back as they were before {@link mergeAdapters}, bit for bit. */
export function unmergeAdapters(model: Module): void {
  const registry = existingRegistry('unmergeAdapters', model);
  for (const [, layer] of registry.layers()) layer.unmerge();
  registry.isMerged = false;
}

/**
 * Makes the active adapters part of the weights for good: plain layers again, with the names they had, and no adapters. Returns the
 * model. Its parameters are frozen; `unfreeze` opens them.
 *
 * @throws StateError if a layer is quantised and `dequantize` is not set; nothing is changed then
 */
export function mergeAndUnload<M extends Module>(model: M, options: MergeOptions = {}): M {
  const op = 'mergeAndUnload';
  const registry = existingRegistry(op, model);
  if (!registry.isMerged) mergeAdapters(model, options);
  const old: Tensor[] = [];
  for (const [, layer] of registry.layers()) old.push(...layer.forget());
  return unload(op, model, old);
}

/** Takes all adapters away: the model is what it was before the first. Returns it. */
export function unloadAdapters<M extends Module>(model: M): M {
  const op = 'unloadAdapters';
  const registry = existingRegistry(op, model);
  if (registry.isMerged) unmergeAdapters(model);
  registry.requireApart(op);
  registry.active = new Map();
  registry.apply(registry.active);
  return unload(op, model, []);
}

function unload<M extends Module>(op: string, model: M, old: readonly Tensor[]): M {
  const registry = registryOf(model);
  const spare = [...old];
  for (const { name, saved } of registry.adapters.values()) {
    for (const [, layer] of registry.layers()) layer.detachAdapter(name);
    for (const { module, key, copy, original } of saved) {
      const isInPlace = (module as unknown as Record<string, unknown>)[key] === copy;
      if (isInPlace) copy.requiresGrad = false;
      spare.push(isInPlace ? original : copy);
    }
  }
  uncover(op, model);
  dropRegistry(model);
  const held = new Set<unknown>();
  for (const [, module] of model.namedModules()) for (const [, part] of module.children()) held.add(part);
  for (const tensor of spare) if (!held.has(tensor)) tensor.dispose();
  return model;
}

/**
 * The tensors of one adapter by their names in the model's state, sharing memory with it: small enough for a checkpoint at every
 * step. `model.loadStateDict(state, { strict: false })` takes them back into a model with the same adapter.
 *
 * @throws StateError if there is no such adapter
 */
export function adapterState(model: Module, name = 'default'): Record<string, Tensor> {
  const op = 'adapterState';
  const registry = existingRegistry(op, model);
  const record = registry.get(op, name);
  const own = new Set(registry.parametersOf([name]));
  const state = Object.fromEntries(model.namedParameters().filter(([, tensor]) => own.has(tensor)));
  for (const { path, copy } of record.saved) state[path] = copy;
  return state;
}
