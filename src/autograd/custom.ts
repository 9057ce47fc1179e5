/**
 * Functions with a gradient of the user's own.
 *
 * @module
 */
import { detach } from '../ops/views.js';
import { needsRecord, record, setRecording } from '../tensor/tape.js';
import type { Tensor } from '../tensor/tensor.js';

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
