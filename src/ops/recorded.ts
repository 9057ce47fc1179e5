import { scope } from '../tensor/scope.js';
import { needsRecord, record, setRecording } from '../tensor/tape.js';
import type { Tensor } from '../tensor/tensor.js';
import type { Inputs } from './define.js';

/**
 * Runs a composite of operations as one recorded call with a gradient of its own: where the chain of its parts would keep more
 * than the gradient needs, or would be wrong at a point (the corner of a piecewise function).
 *
 * @param forward - runs without recording; what it makes on the way is freed
 * @param backward - gradients of `inputs`, made of operations; `saved` is what was saved, `needs` tells which are wanted
 */
export function recorded(
  name: string,
  inputs: Inputs,
  forward: () => Tensor,
  saves: (y: Tensor) => Inputs,
  backward: (grad: Tensor, saved: Inputs, needs: (index: number) => boolean) => readonly (Tensor | null)[],
): Tensor {
  const before = setRecording(false);
  let result: Tensor;
  try {
    result = scope(forward);
  } finally {
    setRecording(before);
  }
  if (!needsRecord(inputs)) return result;
  record(name, inputs, [result], saves(result), (node, grads) =>
    backward(grads[0]!, node.unpack(), (index) => node.needs(index)),
  );
  return result;
}
