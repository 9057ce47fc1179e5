/**
 * Adding up the gradients that reach one place: where the sum so far is nobody else's, large ones are added into its memory.
 *
 * @module
 */
import { add } from '../ops/arithmetic.js';
import { clone } from '../ops/copy.js';
import { add_ } from '../ops/in_place.js';
import { sameShape } from '../tensor/shape.js';
import type { Addend } from '../tensor/tape.js';
import type { Tensor } from '../tensor/tensor.js';
import { hasHooks, runHooks } from './hooks.js';

/**
 * From here on a sum is written over its first summand. Below, it gets memory of its own, so that the addition can be one pass with the
 * product it adds (runtime/chain.ts); that memory comes from the pool.
 */
const LARGE_BYTES = 1 << 25;

/** Whether nobody else sees the memory of a sum: no view of it, no graph, no array of the user's. */
function isOurs(total: Tensor): boolean {
  const { storage } = total;
  return storage.references === 1 && storage.pooled && total.isContiguous && total.node === null && !total.requiresGrad;
}

/** a + b; frees both unless they are part of a graph. */
export function sum(a: Tensor, b: Tensor, createGraph: boolean): Tensor {
  if (!createGraph && a.bytes >= LARGE_BYTES && isOurs(a) && a.dtype === b.dtype && sameShape(a.shape, b.shape)) {
    add_(a, b);
    b.dispose();
    return a;
  }
  const total = add(a, b);
  if (!createGraph) {
    a.dispose();
    b.dispose();
  }
  return total;
}

/** Adds to a sum in place; false where that may not be, and nothing is done. */
export function addInto(total: Tensor | null | undefined, addend: Addend): boolean {
  if (!total || total.dtype !== addend.dtype || !isOurs(total)) return false;
  addend.addTo(total);
  total.storage.version++;
  return true;
}

/** The gradient of a leaf that may be added to without anybody's notice: none if a hook wants to see what comes. */
export function openGradient(leaf: Tensor): Tensor | null {
  return hasHooks(leaf) ? null : leaf.grad;
}

/** leaf.grad += grad; takes ownership of `grad`. */
export function accumulate(leaf: Tensor, grad: Tensor, createGraph: boolean): void {
  const hooked = runHooks(leaf, grad);
  if (leaf.grad !== null) {
    if (createGraph) {
      const before = leaf.grad;
      leaf.grad = adopt(add(before, hooked));
      before.dispose();
      return;
    }
    leaf.grad = adopt(sum(leaf.grad, hooked, false));
    return;
  }
  // A gradient outlives the walk, so it may not be a broadcast view or share its memory with anything.
  const alone = createGraph || (hooked.isContiguous && hooked.storage.references === 1);
  leaf.grad = adopt(alone ? hooked : clone(hooked));
  if (!alone) hooked.dispose();
}

function adopt(grad: Tensor): Tensor {
  grad.owner?.remove(grad);
  return grad;
}
