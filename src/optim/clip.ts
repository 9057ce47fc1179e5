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
import { reshape } from '../ops/views.js';
import { kernelId } from '../runtime/kernels.js';
import { submit } from '../runtime/queue.js';
import { uninitialised, zeros } from '../tensor/create.js';
import { scope } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkNumber } from '../util/assert.js';

const sumSquares = kernelId('sum_squares', 1, 1, 0);
const multiply = kernelId('mul', 2, 1, 0);

function gradientsOf(params: Iterable<Tensor>): Tensor[] {
  return [...params].flatMap((param) => (param.grad === null ? [] : [param.grad]));
}

/** Norm of one tensor to the power p (its largest magnitude for p = ∞), as a tensor of one element. */
function part(grad: Tensor, p: number): Tensor {
  if (p !== 2) return reshape(p === Infinity ? norm(grad, p) : pow(norm(grad, p), p), [1]);
  const result = uninitialised([1], grad.dtype === 'float64' ? 'float64' : 'float32');
  submit(sumSquares, [grad], [{ ...viewOf(result), shape: [], strides: [] }], [], grad.size);
  return result;
}

function viewOf({
  storage,
  offset,
  shape,
  strides,
  dtypeId,
  itemBytes,
}: Tensor): Parameters<typeof submit>[2][number] & object {
  return { storage, offset, shape, strides, dtypeId, itemBytes };
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
      const parts = concat(grads.map((grad) => part(grad, p)));
      if (p === Infinity) return amax(parts);
      return p === 2 ? sqrt(sum(parts)) : pow(sum(parts), 1 / p);
    }),
  );
}

/** Multiplies in place by a scalar tensor. */
function scale_(target: Tensor, factor: Tensor): void {
  const strides = new Array<number>(target.rank).fill(0);
  submit(multiply, [target, { ...viewOf(factor), shape: target.shape, strides }], [target], [], target.size);
  target.storage.version++;
}

/**
 * Scales all gradients together so that their norm is at most `maxNorm`: by maxNorm / (norm + 1e-6) if that is below 1, as
 * torch.nn.utils.clip_grad_norm_. Returns the norm before clipping, a scalar tensor.
 */
export function clipGradNorm(params: Iterable<Tensor>, maxNorm: number, p = 2): Tensor {
  checkNumber('clipGradNorm', 'maxNorm', maxNorm, 0);
  const list = [...params];
  const total = gradNorm(list, p);
  scope(() =>
    noGrad(() => {
      const factor = clamp(div(maxNorm, add(total, 1e-6)), -Infinity, 1);
      for (const grad of gradientsOf(list)) scale_(grad, factor.dtype === grad.dtype ? factor : to(factor, grad.dtype));
    }),
  );
  return total;
}

/** Limits every element of every gradient to [−limit, limit]. */
export function clipGradValue(params: Iterable<Tensor>, limit: number): void {
  checkNumber('clipGradValue', 'limit', limit, 0);
  scope(() => noGrad(() => gradientsOf(params).forEach((grad) => copy_(grad, clamp(grad, -limit, limit)))));
}
