/**
 * Bounds on gradients. Nothing is read back: the norm is a tensor, so a step need not wait for it.
 *
 * @module
 */
import { noGrad } from '../autograd/grad.js';
import { add, div } from '../ops/arithmetic.js';
import { copy_, to } from '../ops/copy.js';
import { concat } from '../ops/join.js';
import { amax, norm, sum } from '../ops/reduce.js';
import { clamp, sqrt } from '../ops/unary.js';
import { pow } from '../ops/power.js';
import { scale_ } from '../ops/in_place.js';
import { reshape, select } from '../ops/views.js';
import { kernelId } from '../runtime/kernels.js';
import { submit } from '../runtime/queue.js';
import { uninitialised, zeros } from '../tensor/create.js';
import { scope } from '../tensor/scope.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { checkNumber } from '../util/assert.js';

/** Tensors that one call of the kernel adds up. */
const TENSORS = 16;
const sumSquares = kernelId('sum_squares', TENSORS, 1, 0);

function gradientsOf(params: Iterable<Tensor>): Tensor[] {
  return [...params].flatMap((param) => (param.grad === null ? [] : [param.grad]));
}

/** Norm of one tensor to the power p (its largest magnitude for p = ∞), as a tensor of one element. */
function part(grad: Tensor, p: number): Tensor {
  return reshape(p === Infinity ? norm(grad, p) : pow(norm(grad, p), p), [1]);
}

/** Σ x² over all gradients, each read once. */
function squares(grads: readonly Tensor[]): Tensor {
  const dtype = grads.some((grad) => grad.dtype === 'float64') ? 'float64' : 'float32';
  const parts = uninitialised([Math.ceil(grads.length / TENSORS)], dtype);
  for (let i = 0; i < parts.size; i++) {
    const some: (Tensor | null)[] = grads.slice(i * TENSORS, (i + 1) * TENSORS);
    const work = some.reduce((total, grad) => total + grad!.size, 0);
    while (some.length < TENSORS) some.push(null);
    submit(sumSquares, some, [select(parts, 0, i)], [], work);
  }
  return sum(parts);
}

/**
 * Norm of all gradients taken as one vector (a scalar tensor; 0 without gradients).
 *
 * @param p - order of the norm, at least 1. Default 2
 */
export function gradNorm(params: Iterable<Tensor>, p = 2): Tensor {
  checkNumber('gradNorm', 'p', p, 1);
  return scope(() =>
    noGrad(() => {
      const grads = gradientsOf(params);
      if (grads.length === 0) return zeros([]);
      if (p === 2) return sqrt(squares(grads));
      const parts = concat(grads.map((grad) => part(grad, p)));
      return p === Infinity ? amax(parts) : pow(sum(parts), 1 / p);
    }),
  );
}

/**
 * What gradients of this norm are to be multiplied by so that their norm is at most `maxNorm`: maxNorm / (norm + 1e-6), or 1 if
 * that is larger. Given to a step as `gradScale`, it clips in the pass that the step takes anyway; the gradients stay as they are.
 *
 * @param norm - of {@link gradNorm}
 * @example
 * ```ts
 * optimizer.step({ gradScale: og.optim.clipFactor(og.optim.gradNorm(optimizer.parameters()), 1) });
 * ```
 */
export function clipFactor(norm: Tensor, maxNorm: number): Tensor {
  checkTensor('clipFactor', 'norm', norm);
  checkNumber('clipFactor', 'maxNorm', maxNorm, 0);
  return scope(() => noGrad(() => clamp(div(maxNorm, add(norm, 1e-6)), -Infinity, 1)));
}

/**
 * Scales all gradients together so that their norm is at most `maxNorm`: by maxNorm / (norm + 1e-6) if that is below 1, as
 * torch.nn.utils.clip_grad_norm_. Returns the norm before clipping, a scalar tensor. {@link clipFactor} saves the pass.
 */
export function clipGradNorm(params: Iterable<Tensor>, maxNorm: number, p = 2): Tensor {
  checkNumber('clipGradNorm', 'maxNorm', maxNorm, 0);
  const list = [...params];
  const total = gradNorm(list, p);
  scope(() =>
    noGrad(() => {
      const factor = clipFactor(total, maxNorm);
      for (const grad of gradientsOf(list)) scale_(grad, to(factor, grad.dtype === 'float64' ? 'float64' : 'float32'));
    }),
  );
  return total;
}

/** Limits every element of every gradient to [−limit, limit]. */
export function clipGradValue(params: Iterable<Tensor>, limit: number): void {
  checkNumber('clipGradValue', 'limit', limit, 0);
  scope(() => noGrad(() => gradientsOf(params).forEach((grad) => copy_(grad, clamp(grad, -limit, limit)))));
}
