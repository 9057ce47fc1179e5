/**
 * The Hessian of a layer's squared output error, X·Xᵀ over calibration inputs, in the form that the optimal brain surgeon's methods
 * need.
 *
 * @module
 */
import { StateError } from '../errors.js';
import { add, mul } from '../ops/arithmetic.js';
import { contiguous, to } from '../ops/copy.js';
import { eq } from '../ops/comparison.js';
import { choleskyEx, solveTriangular } from '../ops/linalg.js';
import { mean, sum } from '../ops/reduce.js';
import { diagonal, flip, unsqueeze } from '../ops/views.js';
import { where } from '../ops/where.js';
import { noGrad } from '../autograd/grad.js';
import { eye } from '../tensor/create.js';
import { item } from '../tensor/read.js';
import { scope } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { matmul } from '../ops/matmul.js';

/** Largest share of the mean diagonal that is added before a layer is given up. */
const MOST_DAMPING = 1;

/** Factor of the inverse Hessian, and the inputs that were never other than 0. */
export interface HessianFactor {
  /** Upper triangular U `[in, in]` with Uᵀ·U = (H + damping)⁻¹, float32. */
  readonly u: Tensor;
  /** bool `[in]`: inputs that are always 0, whose weights do not matter. */
  readonly dead: Tensor;
  /** Share of the mean diagonal that was added in the end. */
  readonly damping: number;
}

const turnedAround = (x: Tensor): Tensor => flip(x, [-2, -1]);

/**
 * Uᵀ·U = A⁻¹ with an upper U: the inverse of the factor R of A = R·Rᵀ with an upper R, so that A itself is never inverted
 * (GPTQ, arXiv 2210.17323, step 3).
 */
function inverseFactor(a: Tensor): { u: Tensor; info: Tensor } {
  const { factor, info } = choleskyEx(contiguous(turnedAround(a)));
  const identity = eye(a.shape[0]!, undefined, { dtype: 'float64' });
  return { u: solveTriangular(turnedAround(factor), identity, { upper: true }), info };
}

/**
 * The factor of the inverse Hessian from XᵀX `[in, in]` of so many rows. `damping`, a share of the mean of the diagonal, is added to the
 * diagonal, and ten times as much each time that the matrix is not positive definite.
 *
 * @throws StateError if the matrix has values that are not finite, or stays singular with damping of 1
 */
export async function hessianFactor(
  op: string,
  path: string,
  gram: Tensor,
  rows: number,
  damping: number,
): Promise<HessianFactor> {
  const total = scope(() => noGrad(() => sum(gram)));
  const isFinite = Number.isFinite((await item(total)) as number);
  total.dispose();
  if (!isFinite) {
    const [expected, hint] = ['finite inputs in calibration', 'Look for NaN or infinities in the model or the data'];
    throw new StateError({ op, argument: path, expected, actual: 'NaN or infinities', hint });
  }
  for (let share = damping; ; share = Math.max(share * 10, 1e-6)) {
    const { u, dead, info } = scope(() =>
      noGrad(() => {
        const h = mul(to(gram, 'float64'), 2 / rows);
        const size = h.shape[0]!;
        const diag = diagonal(h);
        const never = eq(diag, 0);
        const identity = eye(size, undefined, { dtype: 'float64' });
        // an input that is always 0 gets a 1, so that it stands alone; then the damping
        const extra = add(to(never, 'float64'), mul(mean(where(never, 1, diag)), share));
        const { u: factor, info: broken } = inverseFactor(add(h, mul(identity, unsqueeze(extra, 1))));
        return { u: to(factor, 'float32'), dead: never, info: broken };
      }),
    );
    const broken = (await item(info)) as number;
    info.dispose();
    if (broken === 0) return { u, dead, damping: share };
    u.dispose();
    dead.dispose();
    if (share >= MOST_DAMPING) {
      throw new StateError({
        op,
        argument: path,
        expected: 'a Hessian that damping makes positive definite',
        actual: `one that is singular with damping of ${share} times its mean diagonal`,
        hint: 'Calibrate with more, or more varied, data',
      });
    }
  }
}

/**
 * How much of a layer's output another weight changes: ‖X·(W − Ŵ)ᵀ‖² / ‖X·Wᵀ‖² over the calibration inputs, from their gram
 * matrix. 0 where the output is 0.
 */
export async function relativeOutputError(weight: Tensor, changed: Tensor, gram: Tensor): Promise<number> {
  const energy = (x: Tensor): Tensor => sum(mul(matmul(x, gram), x));
  const [lost, whole] = scope(() =>
    noGrad(() => {
      const [before, after] = [to(weight, 'float32'), to(changed, 'float32')];
      return [energy(add(before, mul(after, -1))), energy(before)] as const;
    }),
  );
  const [a, b] = [(await item(lost)) as number, (await item(whole)) as number];
  lost.dispose();
  whole.dispose();
  return b === 0 ? 0 : a / b;
}
