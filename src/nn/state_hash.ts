import { createHash } from 'node:crypto';
import { noGrad } from '../autograd/grad.js';
import { data } from '../tensor/read.js';
import { scope } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import type { Module } from './module.js';

/** @internal SHA-256 over names, shapes, dtypes and values of tensors, in hexadecimal. */
export async function tensorsHash(tensors: Iterable<readonly [string, Tensor]>): Promise<string> {
  const hash = createHash('sha256');
  for (const [name, value] of tensors) {
    hash.update(`${name} ${value.dtype} ${value.shape.join('x')};`);
    const { buffer, byteOffset, byteLength } = (await data(value)) as Uint8Array;
    hash.update(new Uint8Array(buffer, byteOffset, byteLength));
  }
  return hash.digest('hex');
}

/** @internal {@link tensorsHash} of a model's parameters and buffers: what a cache of its results is checked with. */
export async function modelHash(model: Module): Promise<string> {
  const state = scope(() => noGrad(() => model.stateDict()));
  try {
    return await tensorsHash(Object.entries(state));
  } finally {
    for (const tensor of Object.values(state)) tensor.dispose();
  }
}
