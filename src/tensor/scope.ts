/**
 * Who disposes of what: a scope frees the tensors made while it was open, except those that were returned, kept, or are
 * leaves that ask for a gradient (parameters).
 *
 * @module
 */
import { StateError } from '../errors.js';
import type { Tensor } from './tensor.js';

let current: Scope | null = null;

/**
 * An open scope. Use it with `using`, or call {@link scope} with a function.
 *
 * A scope belongs to the synchronous code, or to the one asynchronous loop, that opened it: while it is open, every tensor
 * made on this thread is its own.
 */
export class Scope {
  private readonly made: Tensor[] = [];
  private parent: Scope | null = current;
  private open = true;

  /** @internal */
  constructor() {
    current = this;
  }

  /** @internal */
  add(tensor: Tensor): void {
    tensor.scopeIndex = this.made.push(tensor) - 1;
    tensor.owner = this;
  }

  /** @internal Called when a tensor was disposed of by hand, so that a long scope does not pile up husks. */
  remove(tensor: Tensor): void {
    const last = this.made.pop()!;
    if (last !== tensor) {
      this.made[tensor.scopeIndex] = last;
      last.scopeIndex = tensor.scopeIndex;
    }
    tensor.owner = null;
  }

  /** Takes tensors out of this scope, into the one around it (or out of all scopes). */
  release(tensors: Iterable<Tensor>): void {
    for (const tensor of tensors) {
      if (tensor.owner !== this) continue;
      this.remove(tensor);
      if (this.parent !== null && this.parent.open) this.parent.add(tensor);
    }
  }

  /** Closes the scope and frees what is in it. */
  [Symbol.dispose](): void {
    if (!this.open) return;
    this.open = false;
    if (current === this) {
      current = this.parent;
    } else {
      // Closed out of order (interleaved asynchronous loops): unlink it from the chain.
      for (let inner = current; inner !== null; inner = inner.parent) {
        if (inner.parent === this) inner.parent = this.parent;
      }
    }
    for (const tensor of this.made) {
      tensor.owner = null;
      if (!(tensor.isLeaf && tensor.requiresGrad)) tensor.dispose();
    }
    this.made.length = 0;
  }

  /** Closes the scope, as the end of a `using` block does. */
  dispose(): void {
    this[Symbol.dispose]();
  }
}

/** @internal */
export function currentScope(): Scope | null {
  return current;
}

/** Tensors inside a value: itself, or in (nested) arrays, maps and plain objects. */
export function* tensorsIn(value: unknown, depth = 0): Generator<Tensor> {
  if (typeof value !== 'object' || value === null || depth > 16) return;
  if (isTensorLike(value)) yield value;
  else if (Array.isArray(value)) for (const item of value) yield* tensorsIn(item, depth + 1);
  else if (value instanceof Map) for (const item of value.values()) yield* tensorsIn(item, depth + 1);
  else if (Object.getPrototypeOf(value) === Object.prototype) {
    for (const item of Object.values(value)) yield* tensorsIn(item, depth + 1);
  }
}

function isTensorLike(value: object): value is Tensor {
  return 'storage' in value && 'dtypeId' in value;
}

/**
 * Frees every tensor made by `body` when it returns, except those in its result (nested arrays, maps and plain objects
 * are searched), those given to {@link keep}, and parameters. Without `body`, opens a scope for `using`.
 *
 * @example
 * ```ts
 * const total = og.scope(() => a.add(1).mul(a).sum());
 * {
 *   using _ = og.scope();
 *   a.exp(); // freed at the end of the block
 * }
 * ```
 * @throws StateError if `body` returns a promise: the scope would close before it settles
 */
export function scope(): Scope;
export function scope<T>(body: () => T): T;
export function scope<T>(body?: () => T): T | Scope {
  const opened = new Scope();
  if (body === undefined) return opened;
  try {
    const result = body();
    if (result instanceof Promise) {
      throw new StateError({
        op: 'scope',
        expected: 'a synchronous function',
        actual: 'one that returned a promise',
        hint: 'Use `using _ = og.scope()` in an async function',
      });
    }
    opened.release(tensorsIn(result));
    return result;
  } finally {
    opened[Symbol.dispose]();
  }
}

/** Takes tensors out of every open scope; they live until disposed of or collected. Returns its argument. */
export function keep<T>(value: T): T {
  for (const tensor of tensorsIn(value)) tensor.owner?.remove(tensor);
  return value;
}
