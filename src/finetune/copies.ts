/**
 * Small services of this folder: copies of tensors that live on.
 */
import { noGrad } from '../autograd/grad.js';
import type { StateDict } from '../nn/module.js';
import { clone } from '../ops/copy.js';
import { detach } from '../ops/views.js';
import { keep, scope } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';

/** @internal A copy that no scope frees. */
export function copyOf(tensor: Tensor): Tensor {
  return keep(scope(() => noGrad(() => clone(detach(tensor)))));
}

/** @internal Copies by name, which no scope frees. */
export function copyState(entries: Iterable<readonly [string, Tensor]>): StateDict {
  return Object.fromEntries(Array.from(entries, ([name, tensor]) => [name, copyOf(tensor)]));
}

/** @internal */
export function disposeState(state: Readonly<StateDict>): void {
  for (const tensor of Object.values(state)) tensor.dispose();
}
