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

/** One property and what it held. */
interface Part {
  readonly owner: Record<string, unknown>;
  readonly key: string;
  readonly value: unknown;
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
  const parts: Part[] = [];
  const tensors: Tensor[] = [];
  const add = (owner: object, key: string): void => {
    const part: Part = { owner: owner as Record<string, unknown>, key, value: (owner as Record<string, unknown>)[key] };
    parts.push(part);
    if (part.value instanceof Tensor) tensors.push(part.value);
    if (!Array.isArray(part.value)) return;
    add(part.value, 'length');
    for (const i of part.value.keys()) add(part.value, String(i));
  };
  for (const [, module] of root.namedModules()) {
    if (!prototypes.has(Object.getPrototypeOf(module) as object)) return null;
    for (const key of Object.getOwnPropertyNames(module)) {
      if (typeof (module as unknown as Record<string, unknown>)[key] === 'function') return null;
      add(module, key);
    }
    for (const key of methods) add(module, key);
  }
  return () => {
    for (const { owner, key, value } of parts) if (!Object.is(owner[key], value)) return false;
    for (const tensor of tensors) if (tensor.isDisposed) return false;
    return true;
  };
}
