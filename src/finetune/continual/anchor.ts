/**
 * Distances of a model's parameters to values they once had.
 */
import { StateError } from '../../errors.js';
import type { Module } from '../../nn/module.js';
import { add, mul, sub } from '../../ops/arithmetic.js';
import { to } from '../../ops/copy.js';
import { wideOf } from '../../ops/cross_entropy.js';
import { sum } from '../../ops/reduce.js';
import { square } from '../../ops/unary.js';
import { constant } from '../../tensor/create.js';
import { scope } from '../../tensor/scope.js';
import { sameShape } from '../../tensor/shape.js';
import type { Tensor } from '../../tensor/tensor.js';

/** @internal Parameters that train, by path. */
export function trainedOf(model: Module): [name: string, tensor: Tensor][] {
  return model.namedParameters().filter(([, tensor]) => tensor.requiresGrad);
}

/**
 * @internal Σ weight · (θ − anchor)² over the named parameters of a model, in float32 or float64.
 *
 * @throws StateError if the model lacks one of them, or has it in another shape
 */
export function distanceTo(
  op: string,
  model: Module,
  anchors: Readonly<Record<string, Tensor>>,
  weightOf: (name: string) => Tensor | null,
): Tensor {
  const parameters = new Map(model.namedParameters());
  return scope(() => {
    let total: Tensor | null = null;
    for (const [name, anchor] of Object.entries(anchors)) {
      const parameter = parameters.get(name);
      if (parameter === undefined || !sameShape(parameter.shape, anchor.shape)) {
        const actual = parameter === undefined ? 'a model without' : 'one of another shape';
        throw new StateError({ op, argument: 'model', expected: `the parameter ${name} that it was made of`, actual });
      }
      if (!parameter.requiresGrad) continue;
      const dtype = wideOf(parameter.dtype);
      const squares = square(sub(to(parameter, dtype), to(anchor, dtype)));
      const weight = weightOf(name);
      const part = sum(weight === null ? squares : mul(squares, to(weight, dtype)));
      total = total === null ? part : add(total, part);
    }
    return total ?? constant(0, 'float32');
  });
}

/** @internal Σ θ² over parameters. */
export function sizeSquared(parameters: readonly Tensor[]): Tensor {
  return scope(() =>
    parameters.map((parameter) => sum(square(to(parameter, wideOf(parameter.dtype))))).reduce((a, b) => add(a, b)),
  );
}
