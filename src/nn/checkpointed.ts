/**
 * Activation checkpointing of modules as they are.
 *
 * @module
 */
import { AttributeError } from '../errors.js';
import { checkpoint, type CheckpointResult } from '../autograd/checkpoint.js';
import { isGradEnabled } from '../tensor/tape.js';
import { Tensor } from '../tensor/tensor.js';
import { formatValue } from '../util/format.js';
import { Module } from './module.js';

type Forward = (...inputs: unknown[]) => unknown;

/** A value with its tensors taken out, in order; null if it holds something with a state of its own (a cache). */
function takeTensors(value: unknown, found: Tensor[]): ((tensors: Iterator<Tensor>) => unknown) | null {
  if (value instanceof Tensor) {
    found.push(value);
    return (tensors) => tensors.next().value as Tensor;
  }
  if (typeof value !== 'object' || value === null) return typeof value === 'function' ? null : () => value;
  if (ArrayBuffer.isView(value)) return () => value;
  const isList = Array.isArray(value);
  if (!isList && Object.getPrototypeOf(value) !== Object.prototype) return null;
  const parts = Object.entries(value).map(([key, part]) => [key, takeTensors(part, found)] as const);
  if (parts.some(([, make]) => make === null)) return null;
  return (tensors) => {
    const made = parts.map(([key, make]) => [key, make!(tensors)] as const);
    return isList ? made.map(([, part]) => part) : Object.fromEntries(made);
  };
}

const isResult = (value: unknown): value is CheckpointResult =>
  value instanceof Tensor || (Array.isArray(value) && value.every((item) => item instanceof Tensor));

/** `forward` under {@link checkpoint}; as it is where nothing is recorded, or where an argument has a state of its own. */
function wrap(module: Module, forward: Forward): Forward {
  return (...given) => {
    const tensors: Tensor[] = [];
    const make = isGradEnabled() ? takeTensors(given, tensors) : null;
    if (make === null) return forward.apply(module, given);
    return checkpoint(
      (...inputs: Tensor[]) => {
        const result = forward.apply(module, make(inputs.values()) as unknown[]);
        if (isResult(result)) return result;
        throw new AttributeError({
          op: 'checkpointed',
          argument: module.constructor.name,
          expected: 'a module whose forward gives a tensor or a list of tensors',
          actual: formatValue(result),
        });
      },
      ...tensors,
    );
  };
}

/**
 * Runs `body` while the `forward` of each of these modules is computed under {@link checkpoint}: their activations are not kept for
 * `backward` but computed again. Tensors in arguments (in plain objects and arrays, too) become inputs; a call with anything that has
 * a state of its own, a cache, is made as it is. The modules are as before afterwards; `backward` may come later.
 *
 * @example
 * ```ts
 * const loss = og.nn.checkpointed(gpt.blocks, () => gpt.loss(x, y));
 * loss.backward();
 * ```
 * @throws AttributeError if something in the list is not a module, or its forward gives no tensors
 * @source Chen et al., arXiv 1604.06174
 */
export function checkpointed<T>(modules: Iterable<Module>, body: () => T): T {
  const list = [...new Set(modules)];
  for (const module of list) {
    if (module instanceof Module) continue;
    const actual = formatValue(module);
    throw new AttributeError({ op: 'checkpointed', argument: 'modules', expected: 'modules', actual });
  }
  const before = list.map((module) => Object.getOwnPropertyDescriptor(module, 'forward'));
  try {
    for (const module of list) {
      const forward = (module as unknown as { forward: Forward }).forward;
      Object.defineProperty(module, 'forward', { value: wrap(module, forward), enumerable: false, configurable: true });
    }
    return body();
  } finally {
    list.forEach((module, i) => {
      if (before[i] === undefined) delete (module as { forward?: unknown }).forward;
      else Object.defineProperty(module, 'forward', before[i]);
    });
  }
}
