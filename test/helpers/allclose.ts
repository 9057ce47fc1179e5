/** Comparing numbers as the reference vectors ask for it: |got − want| ≤ atol + rtol·|want|, NaN equal to NaN, infinities by sign. */
import assert from 'node:assert/strict';
import { to } from '../../src/ops/copy.js';
import { dataSync } from '../../src/tensor/read.js';
import { Tensor } from '../../src/tensor/tensor.js';

export interface Tolerance {
  /** Default 1e-5. */
  readonly rtol?: number;
  /** Default 1e-6. */
  readonly atol?: number;
}

export type Numbers = Tensor | ArrayLike<number | bigint | boolean>;

/** The elements in row-major order as plain numbers, whatever the dtype. */
export function numbersOf(source: Numbers): Float64Array {
  if (!(source instanceof Tensor)) return Float64Array.from(source as ArrayLike<number>, Number);
  const half = source.dtype === 'float16' || source.dtype === 'bfloat16';
  const values = dataSync(half ? to(source, 'float32') : source);
  return Float64Array.from(values as ArrayLike<number>, Number);
}

/** Index of the first element out of tolerance, or -1. */
export function firstDifference(got: ArrayLike<number>, want: ArrayLike<number>, tolerance: Tolerance = {}): number {
  const { rtol = 1e-5, atol = 1e-6 } = tolerance;
  for (let i = 0; i < want.length; i++) {
    const [a, b] = [got[i]!, want[i]!];
    if (a === b || (Number.isNaN(a) && Number.isNaN(b))) continue;
    if (!(Math.abs(a - b) <= atol + rtol * Math.abs(b)) || !Number.isFinite(b)) return i;
  }
  return -1;
}

/** Fails with the first and the worst difference. Shapes must agree where both are tensors. */
export function assertClose(actual: Numbers, expected: Numbers, tolerance: Tolerance = {}, label = 'values'): void {
  if (actual instanceof Tensor && expected instanceof Tensor)
    assert.deepEqual([...actual.shape], [...expected.shape], `${label}: shape`);
  const got = numbersOf(actual);
  const want = numbersOf(expected);
  assert.equal(got.length, want.length, `${label}: number of elements`);
  const at = firstDifference(got, want, tolerance);
  if (at < 0) return;
  let worst = at;
  let worstBy = -1;
  for (let i = 0; i < want.length; i++) {
    const by = Math.abs(got[i]! - want[i]!);
    if (by > worstBy) [worst, worstBy] = [i, by];
  }
  assert.fail(
    `${label}: element ${at} of ${want.length} is ${got[at]}, expected ${want[at]}; ` +
      `largest difference ${worstBy} at ${worst} (${got[worst]} for ${want[worst]})`,
  );
}
