/**
 * Gradients against finite differences.
 *
 * @module
 */
import { AttributeError, DTypeError } from '../errors.js';
import { sum } from '../ops/reduce.js';
import { mul } from '../ops/arithmetic.js';
import { detach } from '../ops/views.js';
import { tensor } from '../tensor/create.js';
import { dataSync } from '../tensor/read.js';
import { scope } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { gradients } from './backward.js';
import { noGrad } from './grad.js';

/** Options of {@link gradCheck}. */
export interface GradCheckOptions {
  /** Step of the central difference. Default 1e-6. */
  readonly step?: number;
  /** Default 1e-5. */
  readonly atol?: number;
  /** Default 1e-4. */
  readonly rtol?: number;
  /** Elements of each input that are probed, at most, evenly spread. Default 64. */
  readonly probes?: number;
}

/** The worst disagreement found. */
export interface GradCheckResult {
  readonly ok: boolean;
  readonly input: number;
  readonly index: number;
  readonly analytic: number;
  readonly numeric: number;
}

/** Fixed weights, so that the check sees every output and no symmetric cancellation. */
function weightsFor(output: Tensor): Tensor {
  const values = Float64Array.from({ length: output.size }, (_, i) => Math.cos(1.7 * i + 0.3));
  return tensor(values, { shape: output.shape });
}

/**
 * Compares the recorded gradient of f with central differences, in float64.
 *
 * @param f - from tensors to a tensor (any shape), deterministic and smooth where it is probed
 * @param inputs - float64 tensors
 * @throws DTypeError if an input is not float64: differences in float32 drown in rounding
 */
export function gradCheck(
  f: (...inputs: Tensor[]) => Tensor,
  inputs: readonly Tensor[],
  options: GradCheckOptions = {},
): GradCheckResult {
  const { step = 1e-6, atol = 1e-5, rtol = 1e-4, probes = 64 } = options;
  if (!(step > 0))
    throw new AttributeError({
      op: 'gradCheck',
      argument: 'step',
      expected: 'a positive number',
      actual: String(step),
    });
  for (const [i, input] of inputs.entries()) {
    if (input.dtype !== 'float64') {
      throw new DTypeError({
        op: 'gradCheck',
        argument: `inputs[${i}]`,
        expected: 'float64',
        actual: input.dtype,
        hint: "Use x.to('float64')",
      });
    }
  }
  return scope(() => {
    const leaves = inputs.map((input) => detach(input).requiresGrad_());
    const output = f(...leaves);
    const weights = weightsFor(output);
    const found = output.requiresGrad
      ? gradients('gradCheck', [output], leaves, [weights], {})
      : leaves.map(() => null);
    const evaluate = (at: readonly Tensor[]): number => noGrad(() => Number(dataSync(sum(mul(f(...at), weights)))[0]));
    let worst: GradCheckResult = { ok: true, input: 0, index: 0, analytic: 0, numeric: 0 };
    let worstExcess = -Infinity;
    for (const [i, input] of inputs.entries()) {
      const values = dataSync(input) as Float64Array;
      const grad = found[i] ? (dataSync(found[i]) as Float64Array) : new Float64Array(values.length);
      const stride = Math.max(1, Math.floor(values.length / probes));
      for (let index = 0; index < values.length; index += stride) {
        const numeric = scope(() => {
          const moved = (delta: number): Tensor[] => {
            const copy = Float64Array.from(values);
            copy[index]! += delta;
            return inputs.map((other, j) => (j === i ? tensor(copy, { shape: input.shape }) : other));
          };
          return (evaluate(moved(step)) - evaluate(moved(-step))) / (2 * step);
        });
        const analytic = grad[index]!;
        const excess = Math.abs(analytic - numeric) - (atol + rtol * Math.abs(numeric));
        if (excess > worstExcess || Number.isNaN(excess)) {
          worstExcess = Number.isNaN(excess) ? Infinity : excess;
          worst = { ok: excess <= 0, input: i, index, analytic, numeric };
        }
      }
    }
    return worst;
  });
}
