/**
 * What a model knows of its adapters: by name, which are active, and the modules that are trained whole beside them.
 */
import { StateError } from '../errors.js';
import { noGrad } from '../autograd/grad.js';
import { isParameter, parameter, type Module } from '../nn/module.js';
import { clone } from '../ops/copy.js';
import { detach } from '../ops/views.js';
import { Tensor } from '../tensor/tensor.js';
import { LoraLinear, type LoraVariant } from './lora_linear.js';

/** One tensor of a module that an adapter has a copy of. */
export interface SavedTensor {
  /** Path of the parameter in the model. */
  readonly path: string;
  readonly module: Module;
  readonly key: string;
  /** The model's own. */
  readonly original: Tensor;
  /** The adapter's. */
  readonly copy: Tensor;
}

/** What one named adapter was made with. */
export interface AdapterRecord {
  readonly name: string;
  readonly rank: number;
  readonly alpha: number;
  readonly variant: LoraVariant;
  readonly dropout: number;
  /** Paths of the modules that it has copies of. */
  readonly modulesToSave: readonly string[];
  readonly saved: readonly SavedTensor[];
}

/** @internal Adapters of one model. */
export class Registry {
  readonly adapters = new Map<string, AdapterRecord>();
  active: ReadonlyMap<string, number> = new Map();
  isMerged = false;
  isDisabled = false;

  readonly model: Module;

  constructor(model: Module) {
    this.model = model;
  }

  /** @throws StateError naming the adapters there are */
  get(op: string, name: string): AdapterRecord {
    const found = this.adapters.get(name);
    if (found !== undefined) return found;
    throw new StateError({
      op,
      argument: 'name',
      expected: `one of the adapters ${[...this.adapters.keys()].join(', ') || '(there are none)'}`,
      actual: JSON.stringify(name),
    });
  }

  /** @throws StateError while adapters are merged into the weights, or switched off for a while */
  requireApart(op: string): void {
    if (this.isMerged) {
      const [expected, hint] = ['adapters beside the weights', 'Call unmergeAdapters first'];
      throw new StateError({ op, argument: 'model', expected, actual: 'merged ones', hint });
    }
    if (this.isDisabled) {
      throw new StateError({ op, expected: 'a call outside withoutAdapters', actual: 'one inside it' });
    }
  }

  /** The model's own tensor where an active adapter has put its copy. */
  originalOf(tensor: Tensor): Tensor {
    for (const { saved } of this.adapters.values())
      for (const { copy, original } of saved) if (copy === tensor) return original;
    return tensor;
  }

  /** Layers with adapters, by path. */
  *layers(): Generator<[path: string, layer: LoraLinear]> {
    for (const [path, module] of this.model.namedModules()) if (module instanceof LoraLinear) yield [path, module];
  }

  /** Parameters of the named adapters, copies of whole modules included. */
  parametersOf(names: Iterable<string>): Tensor[] {
    const found = new Set<Tensor>();
    for (const name of names) {
      for (const [, layer] of this.layers()) {
        for (const tensor of layer.adapters.get(name)?.parameters() ?? []) found.add(tensor);
      }
      for (const { copy } of this.adapters.get(name)?.saved ?? []) found.add(copy);
    }
    return [...found];
  }

  /** Makes the layers and modules compute what `factors` says; the record of what is active is the caller's. */
  apply(factors: ReadonlyMap<string, number>): void {
    for (const [, layer] of this.layers()) layer.activate(factors);
    const records = [...this.adapters.values()];
    for (const { saved } of records) for (const { module, key, original } of saved) put(module, key, original);
    for (const { name, saved } of records) {
      if (factors.has(name)) for (const { module, key, copy } of saved) put(module, key, copy);
    }
  }
}

const registries = new WeakMap<Module, Registry>();

/** @internal The adapters of a model; made at the first call. */
export function registryOf(model: Module): Registry {
  let registry = registries.get(model);
  if (registry === undefined) registries.set(model, (registry = new Registry(model)));
  return registry;
}

/** @internal @throws StateError unless `model` has adapters */
export function existingRegistry(op: string, model: Module): Registry {
  const registry = registries.get(model);
  if (registry !== undefined && registry.adapters.size > 0) return registry;
  const [actual, hint] = ['one without any', 'Call lora, or loadAdapter, on the same model first'];
  throw new StateError({ op, argument: 'model', expected: 'a model with adapters', actual, hint });
}

/** @internal Forgets a model's adapters. */
export function dropRegistry(model: Module): void {
  registries.delete(model);
}

function put(module: Module, key: string, tensor: Tensor): void {
  (module as unknown as Record<string, Tensor>)[key] = tensor;
}

/** @internal The parameters of a module and all below it, each with a copy, for an adapter that trains it whole. */
export function copiesOf(op: string, registry: Registry, path: string, module: Module): SavedTensor[] {
  const saved: SavedTensor[] = [];
  for (const [below, part] of module.namedModules()) {
    if (part instanceof LoraLinear) {
      const actual = 'a layer with an adapter on it';
      throw new StateError({ op, argument: path, expected: 'a module to train whole', actual });
    }
    for (const [key, tensor] of part.children()) {
      if (!(tensor instanceof Tensor) || !isParameter(tensor) || !Object.hasOwn(part, key)) continue;
      const original = registry.originalOf(tensor);
      const copy = parameter(noGrad(() => clone(detach(original))));
      saved.push({
        path: [path, below, key].filter((name) => name !== '').join('.'),
        module: part,
        key,
        original,
        copy,
      });
    }
  }
  return saved;
}
