/**
 * Modules hold parameters, buffers and other modules as plain properties; a parameter's name is its path of properties.
 *
 * @module
 */
import { DTypeError, ShapeError, StateError } from '../errors.js';
import { copy_, to } from '../ops/copy.js';
import { detach } from '../ops/views.js';
import type { DType } from '../tensor/dtype.js';
import { isFloating } from '../tensor/dtype.js';
import { noGrad } from '../autograd/grad.js';
import { keep } from '../tensor/scope.js';
import { sameShape } from '../tensor/shape.js';
import { Tensor } from '../tensor/tensor.js';
import { formatShape } from '../util/format.js';

/** Tensors by name. */
export type StateDict = Record<string, Tensor>;

const parameters = new WeakSet<Tensor>();
const transient = new WeakMap<Module, Set<string>>();

/** Marks a tensor as a parameter: it asks for a gradient, no scope frees it, and modules list it. */
export function parameter(tensor: Tensor): Tensor {
  parameters.add(tensor);
  return keep(tensor).requiresGrad_();
}

/** Whether {@link parameter} made it one. */
export function isParameter(tensor: Tensor): boolean {
  return parameters.has(tensor);
}

/** Options of {@link Module.loadStateDict}. */
export interface LoadOptions {
  /** Refuse missing and unexpected names. Default true. */
  readonly strict?: boolean;
  /**
   * Take the tensors themselves, in their dtypes, in place of the module's own, instead of copying values into these: no memory is needed
   * beside that of the state, which is shared. Optimisers made before hold the old parameters. Default false.
   */
  readonly assign?: boolean;
}

/** Names that did not match, when loading was not strict. */
export interface LoadReport {
  readonly missing: readonly string[];
  readonly unexpected: readonly string[];
}

/** Sees the inputs of `forward`, and may replace them. */
export type ForwardPreHook = (module: Module, inputs: readonly unknown[]) => readonly unknown[] | void;
/** Sees the result of `forward`, and may replace it. */
export type ForwardHook = (module: Module, inputs: readonly unknown[], output: unknown) => unknown;

interface Hooks {
  readonly before: Set<ForwardPreHook>;
  readonly after: Set<ForwardHook>;
  /** The function over `forward` that calls them. */
  wrapped?: unknown;
  /** This instance's own `forward` before, if it had one. */
  readonly replaced: PropertyDescriptor | undefined;
}

const hooksOf = new WeakMap<Module, Hooks>();

/** Base class: assign parameters (`nn.parameter(…)`), buffers (other tensors) and modules to properties, and write `forward`. */
export abstract class Module {
  /** Whether dropout and the like are active. Set it with {@link train} and {@link eval}. */
  training = true;

  /** What the module computes. */
  abstract forward(...inputs: never[]): unknown;

  /** Direct parts, by property; items of arrays as `property.index`. */
  *children(): Generator<[name: string, part: Module | Tensor]> {
    for (const [key, value] of Object.entries(this) as [string, unknown][]) {
      if (value instanceof Tensor || value instanceof Module) yield [key, value];
      else if (Array.isArray(value)) {
        for (const [i, item] of value.entries()) {
          if (item instanceof Tensor || item instanceof Module) yield [`${key}.${i}`, item];
        }
      }
    }
  }

  /** This module and all below it, by path; each once. */
  *namedModules(prefix = '', seen = new Set<Module>()): Generator<[string, Module]> {
    if (seen.has(this)) return;
    seen.add(this);
    yield [prefix, this];
    for (const [name, part] of this.children()) {
      if (part instanceof Module) yield* part.namedModules(prefix ? `${prefix}.${name}` : name, seen);
    }
  }

  private *namedTensors(): Generator<[string, Tensor, Module, string]> {
    const seen = new Set<Tensor>();
    for (const [path, module] of this.namedModules()) {
      for (const [name, part] of module.children()) {
        if (!(part instanceof Tensor) || seen.has(part)) continue;
        seen.add(part);
        yield [path ? `${path}.${name}` : name, part, module, name];
      }
    }
  }

  /** Parameters by path, frozen ones included; a shared one appears once, under its first name. */
  namedParameters(): [name: string, tensor: Tensor][] {
    return [...this.namedTensors()]
      .filter(([, tensor]) => parameters.has(tensor))
      .map(([name, tensor]) => [name, tensor]);
  }

  /** All parameters, frozen ones included. */
  parameters(): Tensor[] {
    return this.namedParameters().map(([, tensor]) => tensor);
  }

  /** Tensors that are not parameters: running statistics, tables. */
  namedBuffers(): [name: string, tensor: Tensor][] {
    return [...this.namedTensors()]
      .filter(([, tensor]) => !parameters.has(tensor))
      .map(([name, tensor]) => [name, tensor]);
  }

  /** Number of elements of all parameters. */
  parameterCount(): number {
    return this.parameters().reduce((count, tensor) => count + tensor.size, 0);
  }

  /** Leaves a buffer out of {@link stateDict}: it can be computed again. */
  protected excludeFromState(property: string): void {
    let names = transient.get(this);
    if (names === undefined) transient.set(this, (names = new Set()));
    names.add(property);
  }

  /** Parameters and buffers by path. The tensors share memory with the module; they do not ask for gradients. */
  stateDict(): StateDict {
    const state: StateDict = {};
    for (const [path, tensor, module, name] of this.namedTensors()) {
      if (!transient.get(module)?.has(name)) state[path] = detach(tensor);
    }
    return state;
  }

  /**
   * Copies values into the parameters and buffers of the same names, casting if dtypes differ.
   *
   * @throws StateError if names are missing or unexpected (unless `strict` is false)
   * @throws ShapeError if a shape differs; nothing is copied then
   * @throws DTypeError if `assign` would make a parameter of integers
   */
  loadStateDict(state: Readonly<StateDict>, options: LoadOptions = {}): LoadReport {
    const own = new Map<string, Tensor>();
    for (const [path, tensor, module, name] of this.namedTensors()) {
      if (!transient.get(module)?.has(name)) own.set(path, tensor);
    }
    const missing = [...own.keys()].filter((name) => !Object.hasOwn(state, name));
    const unexpected = Object.keys(state).filter((name) => !own.has(name));
    if ((options.strict ?? true) && missing.length + unexpected.length > 0) {
      const list = (names: string[]): string =>
        names.slice(0, 8).join(', ') + (names.length > 8 ? `, … (${names.length})` : '');
      throw new StateError({
        op: 'loadStateDict',
        argument: 'state',
        expected: missing.length > 0 ? `also ${list(missing)}` : 'names of this module only',
        actual: unexpected.length > 0 ? `unknown names ${list(unexpected)}` : 'a state without them',
        hint: 'Pass { strict: false } to load what matches',
      });
    }
    for (const [name, tensor] of own) {
      const value = state[name];
      if (value !== undefined && !sameShape(value.shape, tensor.shape)) {
        throw new ShapeError({
          op: 'loadStateDict',
          argument: name,
          expected: formatShape(tensor.shape),
          actual: formatShape(value.shape),
        });
      }
    }
    if (options.assign) {
      this.assign(own, state);
    } else {
      noGrad(() => {
        for (const [name, tensor] of own) {
          const value = state[name];
          if (value !== undefined) copy_(tensor, to(value, tensor.dtype));
        }
      });
    }
    return { missing, unexpected };
  }

  /** Puts tensors of a state into the places of those of the same names. */
  private assign(own: ReadonlyMap<string, Tensor>, state: Readonly<StateDict>): void {
    const pairs = [...own].flatMap(([name, tensor]): [string, Tensor, Tensor][] =>
      state[name] === undefined ? [] : [[name, tensor, state[name]]],
    );
    for (const [name, tensor, { dtype }] of pairs) {
      if (!parameters.has(tensor) || isFloating(dtype)) continue;
      throw new DTypeError({ op: 'loadStateDict', argument: name, expected: 'a floating-point tensor', actual: dtype });
    }
    const replaced = pairs.map(([, tensor, value]): [Tensor, Tensor] => {
      const taken = keep(detach(value));
      if (parameters.has(tensor)) parameter(taken).requiresGrad = tensor.requiresGrad;
      return [tensor, taken];
    });
    this.replace(new Map(replaced));
  }

  /** Puts tensors into all places of others, which are freed. */
  private replace(replaced: ReadonlyMap<Tensor, Tensor>): void {
    const now = (value: unknown): unknown => (value instanceof Tensor ? (replaced.get(value) ?? value) : value);
    for (const [, module] of this.namedModules()) {
      const properties = module as unknown as Record<string, unknown>;
      for (const [key, value] of Object.entries(properties)) {
        if (value instanceof Tensor) properties[key] = now(value);
        else if (Array.isArray(value)) value.forEach((item: unknown, i) => (value[i] = now(item)));
      }
    }
    for (const tensor of replaced.keys()) tensor.dispose();
  }

  /** Sets training behaviour here and below. Returns the module. */
  train(on = true): this {
    for (const [, module] of this.namedModules()) module.training = on;
    return this;
  }

  /** Sets evaluation behaviour: no dropout. Returns the module. */
  eval(): this {
    return this.train(false);
  }

  /** Stops gradients to the parameters whose path matches (default: all). Returns the module. */
  freeze(match: RegExp | ((name: string) => boolean) = () => true): this {
    return this.setTrainable(match, false);
  }

  /** The opposite of {@link freeze}. */
  unfreeze(match: RegExp | ((name: string) => boolean) = () => true): this {
    return this.setTrainable(match, true);
  }

  private setTrainable(match: RegExp | ((name: string) => boolean), on: boolean): this {
    const matches = typeof match === 'function' ? match : (name: string): boolean => match.test(name);
    for (const [name, tensor] of this.namedParameters()) if (matches(name)) tensor.requiresGrad = on;
    return this;
  }

  /** Casts floating-point parameters and buffers. Optimisers made before hold the old ones. Returns the module. */
  to(dtype: DType): this {
    const replaced = new Map<Tensor, Tensor>();
    for (const [, tensor] of this.namedTensors()) {
      if (!isFloating(tensor.dtype) || tensor.dtype === dtype) continue;
      const made = keep(noGrad(() => to(detach(tensor), dtype)));
      if (parameters.has(tensor)) parameter(made).requiresGrad = tensor.requiresGrad;
      replaced.set(tensor, made);
    }
    this.replace(replaced);
    return this;
  }

  /** Frees the gradients of all parameters. */
  zeroGrad(): void {
    for (const tensor of this.parameters()) {
      tensor.grad?.dispose();
      tensor.grad = null;
    }
  }

  /** Calls `visit` with this module and all below it. Returns the module. */
  apply(visit: (module: Module, path: string) => void): this {
    for (const [path, module] of this.namedModules()) visit(module, path);
    return this;
  }

  /** Frees all parameters and buffers. */
  dispose(): void {
    for (const [, module] of [...this.namedModules()]) module.release();
    for (const [, tensor] of this.namedTensors()) tensor.dispose();
  }

  /** Frees what a module holds beside parameters, buffers and modules; {@link dispose} calls it for each module. */
  protected release(): void {}

  /** Calls `hook` before `forward`; what it returns, if anything, takes the inputs' place. Returns its remover. */
  registerForwardPreHook(hook: ForwardPreHook): () => void {
    const { before } = this.hooks();
    before.add(hook);
    return () => {
      before.delete(hook);
      this.dropIdleHooks();
    };
  }

  /** Calls `hook` after `forward`; what it returns, if not undefined, takes the output's place. Returns its remover. */
  registerForwardHook(hook: ForwardHook): () => void {
    const { after } = this.hooks();
    after.add(hook);
    return () => {
      after.delete(hook);
      this.dropIdleHooks();
    };
  }

  /** Without hooks, `forward` is what it was: callers that fuse around a plain `forward` do so again. */
  private dropIdleHooks(): void {
    const hooks = hooksOf.get(this);
    if (hooks === undefined || hooks.before.size + hooks.after.size > 0) return;
    if (Object.getOwnPropertyDescriptor(this, 'forward')?.value !== hooks.wrapped) return;
    hooksOf.delete(this);
    delete (this as Partial<this>).forward;
    if (hooks.replaced !== undefined) Object.defineProperty(this, 'forward', hooks.replaced);
  }

  /** The first hook puts a wrapper over this instance's `forward`, so that modules without hooks pay nothing. */
  private hooks(): Hooks {
    const existing = hooksOf.get(this);
    if (existing !== undefined) return existing;
    const replaced = Object.getOwnPropertyDescriptor(this, 'forward');
    const made: Hooks = { before: new Set(), after: new Set(), replaced };
    hooksOf.set(this, made);
    const original = this.forward.bind(this) as (...inputs: unknown[]) => unknown;
    const wrapped = (...given: unknown[]): unknown => {
      let inputs: readonly unknown[] = given;
      for (const hook of made.before) inputs = hook(this, inputs) ?? inputs;
      let output = original(...inputs);
      for (const hook of made.after) {
        const replaced = hook(this, inputs, output);
        if (replaced !== undefined) output = replaced;
      }
      return output;
    };
    made.wrapped = wrapped;
    Object.defineProperty(this, 'forward', { value: wrapped, enumerable: false, configurable: true });
    return made;
  }
}
