/**
 * Telling whether a model still computes what it computed, without running it: for steps that are run again as they were
 * recorded (runtime/recording.ts).
 *
 * @module
 */
import { Tensor } from '../tensor/tensor.js';
import { MultiHeadAttention } from './attention.js';
import { TransformerBlock } from './block.js';
import { Dropout } from './dropout.js';
import { Embedding } from './embedding.js';
import { Float8Linear } from './float8_linear.js';
import { Int8Linear } from './int8_linear.js';
import { Linear } from './linear.js';
import { Mlp } from './mlp.js';
import type { Module } from './module.js';
import { LayerNorm, RMSNorm } from './norm.js';
import { QuantizedEmbedding } from './quantized_embedding.js';
import { QuantizedLinear } from './quantized_linear.js';
import { SparseLinear } from './sparse_linear.js';

/** Modules whose `forward` is a function of its inputs, of what their properties hold, and of nothing else. */
const known: readonly object[] = [
  MultiHeadAttention, TransformerBlock, Dropout, Embedding, Float8Linear, Int8Linear, Linear, Mlp, LayerNorm, RMSNorm,
  QuantizedEmbedding, QuantizedLinear, SparseLinear,
].map(({ prototype }) => prototype); // prettier-ignore

/**
 * Modules with the same properties, and what these held, one module after the other: looking at all of them is mostly waiting for memory, as
 * kernels have swept the caches since the last token.
 */
interface Group {
  readonly keys: readonly string[];
  readonly owners: Readonly<Record<string, unknown>>[];
  readonly values: unknown[];
}

function isAsItWas({ keys, owners, values }: Group): boolean {
  let at = 0;
  for (const owner of owners) for (const key of keys) if (!Object.is(owner[key], values[at++])) return false;
  return true;
}

/** Methods that callers take for what the class says. A hook puts its own over `forward`. */
const methods = ['forward', 'endForward', 'addForward'];

/**
 * Looks a model over; what it returns tells, later, whether every part is still in its place: modules, tensors, numbers, modes, and
 * methods without hooks. Values inside tensors are not looked at. Null where that would not say enough: a module of a class that is
 * not known (`more` adds some), or one with functions of its own.
 *
 * @internal
 */
export function watchModules(
  root: Module,
  more: readonly { readonly prototype: object }[] = [],
): (() => boolean) | null {
  const prototypes = new Set([...known, ...more.map(({ prototype }) => prototype)]);
  const groups = new Map<string, Group>();
  const arrays: { readonly array: readonly unknown[]; readonly elements: readonly unknown[] }[] = [];
  const tensors: Tensor[] = [];
  const note = (value: unknown): void => {
    if (value instanceof Tensor) tensors.push(value);
    if (!Array.isArray(value)) return;
    arrays.push({ array: value, elements: [...(value as unknown[])] });
    for (const element of value) note(element);
  };
  for (const [, module] of root.namedModules()) {
    if (!prototypes.has(Object.getPrototypeOf(module) as object)) return null;
    const owner = module as unknown as Readonly<Record<string, unknown>>;
    const own = Object.getOwnPropertyNames(module);
    if (own.some((key) => typeof owner[key] === 'function')) return null;
    const keys = [...own, ...methods];
    const name = keys.join();
    let group = groups.get(name);
    if (group === undefined) groups.set(name, (group = { keys, owners: [], values: [] }));
    group.owners.push(owner);
    for (const key of keys) {
      group.values.push(owner[key]);
      note(owner[key]);
    }
  }
  const all = [...groups.values()];
  return () =>
    all.every(isAsItWas) &&
    arrays.every(
      ({ array, elements }) =>
        array.length === elements.length && elements.every((element, i) => Object.is(element, array[i])),
    ) &&
    !tensors.some(({ isDisposed }) => isDisposed);
}
