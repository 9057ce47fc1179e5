/** Functions called with a leaf's gradient as it arrives. */
import type { Tensor } from '../tensor/tensor.js';

/** Sees the gradient that reaches a leaf, and may replace it. */
export type GradHook = (grad: Tensor) => Tensor | void;

const hooks = new WeakMap<Tensor, Set<GradHook>>();

/**
 * Calls `hook` with every gradient that reaches the leaf, before it is added to `leaf.grad`. What it returns, if anything,
 * takes the gradient's place. Returns a function that removes the hook.
 */
export function registerHook(leaf: Tensor, hook: GradHook): () => void {
  let set = hooks.get(leaf);
  if (set === undefined) hooks.set(leaf, (set = new Set<GradHook>()));
  set.add(hook);
  return () => set.delete(hook);
}

type ArrivalListener = (leaf: Tensor, grad: Tensor) => void;
let onArrival: ArrivalListener | null = null;

/**
 * @internal Calls `listener` with each tensor that reaches a leaf, before it is added, while `body` runs. Unlike a hook it leaves walks as
 * they are: what is added in place does not come as a tensor, and is not heard of.
 */
export function hearArrivals<T>(listener: ArrivalListener, body: () => T): T {
  const before = onArrival;
  onArrival = listener;
  try {
    return body();
  } finally {
    onArrival = before;
  }
}

/** @internal Whether anybody wants to see the gradients of a leaf. */
export function hasHooks(leaf: Tensor): boolean {
  return (hooks.get(leaf)?.size ?? 0) > 0;
}

/** @internal */
export function runHooks(leaf: Tensor, grad: Tensor): Tensor {
  onArrival?.(leaf, grad);
  const set = hooks.get(leaf);
  if (set === undefined) return grad;
  let current = grad;
  for (const hook of set) {
    const replaced = hook(current);
    if (replaced && replaced !== current) {
      current.dispose();
      current = replaced;
    }
  }
  return current;
}
