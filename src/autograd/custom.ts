/**
 * Functions with a gradient of the user's own, and recomputation instead of saving.
 *
 * @module
 */
import { StateError } from '../errors.js';
import { detach } from '../ops/views.js';
import { scope } from '../tensor/scope.js';
import { needsRecord, record, setRecording } from '../tensor/tape.js';
import type { Tensor } from '../tensor/tensor.js';
import { gradients, isDepositing } from './backward.js';

/** What a custom gradient sees. */
export interface CustomContext {
  /** Gradient of the result. */
  readonly grad: Tensor;
  /** The tensors named by `save`. */
  readonly saved: readonly (Tensor | null)[];
  /** Whether the i-th input needs a gradient. */
  needs(index: number): boolean;
}

/** A function and its gradient, for {@link customFunction}. */
export interface CustomFunction<A extends readonly Tensor[]> {
  /** Name in messages and prints. */
  readonly name: string;
  /** Runs without recording. */
  forward(...inputs: A): Tensor;
  /** Which tensors `backward` needs. Default: the inputs. */
  save?(inputs: A, output: Tensor): readonly (Tensor | null)[];
  /** Gradients of the inputs, in their order; null for none. */
  backward(context: CustomContext): readonly (Tensor | null | undefined)[];
}

/**
 * A differentiable function with its own gradient rule: for a straight-through estimator, a fused kernel, a clipped gradient.
 *
 * @example
 * ```ts
 * const roundThrough = og.customFunction({
 *   name: 'roundThrough',
 *   forward: (x: og.Tensor) => x.round(),
 *   backward: ({ grad }) => [grad],
 * });
 * ```
 */
export function customFunction<A extends readonly Tensor[]>(definition: CustomFunction<A>): (...inputs: A) => Tensor {
  return (...inputs: A) => {
    const before = setRecording(false);
    let output: Tensor;
    try {
      output = definition.forward(...inputs);
    } finally {
      setRecording(before);
    }
    if (!needsRecord(inputs)) return output;
    const result = inputs.includes(output) || output.node !== null ? detach(output) : output;
    const saved = definition.save === undefined ? inputs : definition.save(inputs, result);
    record(definition.name, inputs, [result], saved, (node, grads) =>
      definition.backward({ grad: grads[0]!, saved: node.unpack(), needs: (index) => node.needs(index) }),
    );
    return result;
  };
}

/**
 * Activation checkpointing: computes f(…) without saving what its gradient needs, and computes f again when the gradient is
 * asked for. Memory for time (Chen et al., arXiv 1604.06174). `f` must give the same result both times: random operations
 * in it need a generator whose state it restores.
 *
 * Parameters that `f` reads from outside get their gradients too, so it belongs under `backward()`, not under `grad`.
 */
export function checkpoint<A extends readonly Tensor[]>(f: (...inputs: A) => Tensor, ...inputs: A): Tensor {
  const before = setRecording(false);
  let output: Tensor;
  try {
    output = scope(() => f(...inputs));
  } finally {
    setRecording(before);
  }
  if (!before) return output;
  const result = inputs.includes(output) ? detach(output) : output;
  const node = record('checkpoint', inputs, [result], inputs, (_node, grads) => {
    if (!isDepositing()) {
      throw new StateError({
        op: 'checkpoint',
        expected: 'a walk by backward()',
        actual: 'one by grad or gradientsOf',
      });
    }
    const saved = node.unpack();
    const recorded = setRecording(true);
    try {
      const leaves = saved.map((input, i) => {
        const leaf = detach(input!);
        if (node.needs(i)) leaf.requiresGrad = true;
        return leaf;
      }) as unknown as A;
      const again = f(...leaves);
      setRecording(recorded);
      if (recorded) {
        throw new StateError({
          op: 'checkpoint',
          expected: 'first derivatives',
          actual: 'createGraph: true',
          hint: 'Compute second derivatives without checkpoint',
        });
      }
      return recompute(again, grads[0]!, leaves, node);
    } finally {
      setRecording(recorded);
    }
  });
  node.reachesHiddenLeaves = true;
  return result;
}

function recompute(
  again: Tensor,
  grad: Tensor,
  leaves: readonly Tensor[],
  node: { needs(index: number): boolean },
): (Tensor | null)[] {
  const wanted = leaves.filter((_, i) => node.needs(i));
  const found = gradients('checkpoint', [again], wanted, [grad], { depositLeaves: true });
  let next = 0;
  return leaves.map((_, i) => (node.needs(i) ? found[next++]! : null));
}
