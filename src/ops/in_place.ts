import { kernelId } from '../runtime/kernels.js';
import { submit } from '../runtime/queue.js';
import type { Tensor } from '../tensor/tensor.js';
import { defineOp } from './define.js';

const scaleOp = defineOp<{ readonly into: Tensor }>({
  name: 'scale_',
  inputs: [{ name: 'factor', kind: 'float' }],
  output: () => [null],
  results: (_inputs, { into }) => [into],
  cost: (_inputs, _outputs, { into }) => ({ flops: into.size, bytes: 2 * into.bytes }),
});

/** @internal x ·= factor (float32 or float64, one element), outside the record. Memory is not touched if the factor is 1. */
export function scale_(x: Tensor, factor: Tensor): Tensor {
  scaleOp.callAll([factor], { into: x });
  x.storage.version++;
  return x;
}

const addKernel = kernelId('add', 2, 1, 0);

/** @internal a += b, of one shape and dtype, a contiguous; outside the record. */
export function add_(a: Tensor, b: Tensor): Tensor {
  submit(addKernel, [a, b], [a], [], a.size);
  a.storage.version++;
  return a;
}
