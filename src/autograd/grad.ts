/**
 * Function transforms on top of the walk, and the switches of recording.
 *
 * @module
 */
import { ShapeError, StateError } from '../errors.js';
import { detach } from '../ops/views.js';
import { zerosLike } from '../tensor/create.js';
import { scope } from '../tensor/scope.js';
import { setRecording } from '../tensor/tape.js';
import type { Tensor } from '../tensor/tensor.js';
import { formatShape } from '../util/format.js';
import { gradients, type BackwardOptions } from './backward.js';

function withRecording<T>(op: string, on: boolean, body: () => T): T {
  const before = setRecording(on);
  try {
    const result = body();
    if (result instanceof Promise) {
      throw new StateError({
        op,
        expected: 'a synchronous function',
        actual: 'one that returned a promise',
        hint: `Put og.${op} around the synchronous parts`,
      });
    }
    return result;
  } finally {
    setRecording(before);
  }
}

/** Runs `body` without recording: nothing made in it can be differentiated, and nothing is saved for gradients. */
export function noGrad<T>(body: () => T): T {
  return withRecording('noGrad', false, body);
}

/** Runs `body` with recording on, inside a {@link noGrad}. */
export function enableGrad<T>(body: () => T): T {
  return withRecording('enableGrad', true, body);
}

/** Options of {@link gradientsOf}. */
export interface GradOptions extends BackwardOptions {
  /** Gradients of the outputs. Default: 1 for outputs of one element. */
  readonly gradOutputs?: readonly (Tensor | null)[];
}

/**
 * Gradients of outputs with respect to inputs (leaves or intermediate results), without touching anybody's `grad`.
 * Null where an output does not depend on an input.
 *
 * @throws StateError if an output depends on nothing that asks for a gradient
 */
export function gradientsOf(
  outputs: Tensor | readonly Tensor[],
  inputs: readonly Tensor[],
  options: GradOptions = {},
): (Tensor | null)[] {
  const list = Array.isArray(outputs) ? (outputs as readonly Tensor[]) : [outputs as Tensor];
  return gradients('gradientsOf', list, inputs, options.gradOutputs ?? list.map(() => undefined), options);
}

/** A function that can be differentiated. */
export type TensorFunction<A extends readonly Tensor[]> = (...inputs: A) => Tensor;
/** One gradient for a function of one tensor, else one for each, in their order. */
export type GradientsOf<A extends readonly Tensor[]> = A extends readonly [Tensor]
  ? Tensor
  : { [K in keyof A]: Tensor };

/**
 * The function that gives both f(…) and the gradients of f with respect to its arguments: one tensor for one argument, else a
 * list. `f` must return one element. Inside another recorded computation the gradients can be differentiated again.
 *
 * @example
 * ```ts
 * const [value, gradient] = og.valueAndGrad((w: og.Tensor) => a.matmul(w).square().mean())(w);
 * ```
 */
export function valueAndGrad<A extends readonly Tensor[]>(
  f: TensorFunction<A>,
): (...inputs: A) => [Tensor, GradientsOf<A>] {
  return (...inputs: A) => {
    const createGraph = inputs.some((input) => input.node !== null || input.leaf !== null);
    return scope(() =>
      enableGrad(() => {
        const leaves = createGraph ? inputs : (inputs.map((input) => detach(input).requiresGrad_()) as unknown as A);
        const value = f(...leaves);
        if (value.size !== 1) {
          throw new ShapeError({
            op: 'valueAndGrad',
            argument: 'f',
            expected: 'a result of one element',
            actual: formatShape(value.shape),
          });
        }
        const found = gradients('valueAndGrad', [value], leaves, [undefined], { createGraph });
        const result = found.map((grad, i) => grad ?? zerosLike(inputs[i]!));
        for (const leaf of leaves) if (!createGraph) leaf.requiresGrad = false;
        const plain = createGraph ? value : detach(value);
        return [plain, (inputs.length === 1 ? result[0] : result) as GradientsOf<A>];
      }),
    );
  };
}

/** The gradient part of {@link valueAndGrad}. */
export function grad<A extends readonly Tensor[]>(f: TensorFunction<A>): (...inputs: A) => GradientsOf<A> {
  const both = valueAndGrad(f);
  return (...inputs: A) => {
    const [value, gradient] = both(...inputs);
    value.dispose();
    return gradient;
  };
}
