import { add, mul } from '../../ops/arithmetic.js';
import { contiguous, to } from '../../ops/copy.js';
import { slice } from '../../ops/views.js';
import type { Tensor } from '../../tensor/tensor.js';

/** Two 4-bit codes a byte along the last axis, as `quantize` packs them: the first in the low half, signed ones plus 8. */
export function packNibbles(codes: Tensor): Tensor {
  const raised = codes.dtype === 'int8' ? 8 : 0;
  const half = (start: number): Tensor => add(to(contiguous(slice(codes, -1, start, null, 2)), 'int32'), raised);
  return to(add(half(0), mul(half(1), 16)), 'uint8');
}
