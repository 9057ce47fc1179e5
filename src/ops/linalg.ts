/**
 * Linear algebra of dense matrices: `og.linalg`. Computed in float64 whatever the dtype.
 *
 * @module
 */
import { DTypeError, ShapeError } from '../errors.js';
import { isFloating } from '../tensor/dtype.js';
import { checkTensor, type Tensor } from '../tensor/tensor.js';
import { checkBoolean, checkKeys } from '../util/assert.js';
import { formatShape } from '../util/format.js';
import { add, mul } from './arithmetic.js';
import { contiguous, to } from './copy.js';
import { defineOp, type Op } from './define.js';
import { tril, triu } from './join.js';
import { matmul } from './matmul.js';
import { transpose } from './views.js';

function checkMatrices(op: string, argument: string, x: Tensor, square: boolean): void {
  checkTensor(op, argument, x);
  if (!isFloating(x.dtype))
    throw new DTypeError({ op, argument, expected: 'a floating-point tensor', actual: x.dtype });
  if (x.rank >= 2 && (!square || x.shape.at(-1) === x.shape.at(-2))) return;
  const expected = square ? 'square matrices […, n, n]' : 'matrices […, n, m]';
  throw new ShapeError({ op, argument, expected, actual: formatShape(x.shape) });
}

const turned = (x: Tensor): Tensor => transpose(x, -2, -1);
const cube = (x: Tensor): number => x.size * x.shape.at(-1)!;

/** The lower triangle with half of the diagonal. */
function halved(x: Tensor): Tensor {
  return mul(add(tril(x), tril(x, -1)), 0.5);
}

const choleskyOp: Op<null> = defineOp<null>({
  name: 'cholesky',
  inputs: [{ name: 'a', kind: 'float' }],
  outputCount: 2,
  output: ([a]) => [
    { shape: a!.shape, dtype: 'float64' },
    { shape: a!.shape.slice(0, -2), dtype: 'int32' },
  ],
  saves: (_inputs, [l]) => [l!],
  // Murray 2016, arXiv 1602.07527, section 3: S = L⁻ᵀ·Φ(Lᵀ·grad)·L⁻¹, made symmetric
  backward: ({ grad, saved: [l] }) => {
    const inner = halved(matmul(turned(l!), tril(grad)));
    const left = solveOp.call([contiguous(turned(l!)), inner], { upper: true });
    const right = turned(solveOp.call([contiguous(turned(l!)), contiguous(turned(left))], { upper: true }));
    return [mul(add(right, turned(right)), 0.5)];
  },
  cost: ([a], [l]) => ({ flops: cube(a!) / 3, bytes: a!.bytes + l!.bytes }),
});

interface SolveAttrs {
  readonly upper: boolean;
}

const solveOp: Op<SolveAttrs> = defineOp<SolveAttrs>({
  name: 'triangular_solve',
  inputs: [
    { name: 'a', kind: 'float' },
    { name: 'b', kind: 'float' },
  ],
  attrCount: 1,
  output: ([, b]) => ({ shape: b!.shape, dtype: 'float64' }),
  encode: ({ upper }) => [Number(upper)],
  saves: ([a], [x]) => [a!, x!],
  backward: ({ grad, saved: [a, x], attrs: { upper }, needs }) => {
    const back = solveOp.call([contiguous(turned(a!)), contiguous(grad)], { upper: !upper });
    if (!needs(0)) return [null, back];
    const outer = mul(matmul(back, turned(x!)), -1);
    return [upper ? triu(outer) : tril(outer), back];
  },
  cost: ([a, b], [x]) => ({ flops: b!.size * a!.shape.at(-1)!, bytes: a!.bytes + b!.bytes + x!.bytes }),
});

/** Options of {@link cholesky}. */
export interface CholeskyOptions {
  /** The factor U with A = Uᵀ·U instead. Default false. */
  readonly upper?: boolean;
}

/** What {@link choleskyEx} gives. */
export interface CholeskyFactor {
  readonly factor: Tensor;
  /** 0, or the order of the first leading minor that is not positive definite: int32, one a matrix. */
  readonly info: Tensor;
}

/**
 * {@link cholesky}, and whether it went well, as torch.linalg.cholesky_ex. The rows of the factor from a bad pivot on are NaN.
 *
 * @shape (…, n, n) → (…, n, n), (…)
 * @throws ShapeError if the matrices are not square
 */
export function choleskyEx(a: Tensor, options: CholeskyOptions = {}): CholeskyFactor {
  const op = 'linalg.cholesky';
  checkMatrices(op, 'a', a, true);
  checkKeys(op, options, ['upper']);
  const upper = checkBoolean(op, 'upper', options.upper ?? false);
  const [l, info] = choleskyOp.callAll([contiguous(to(a, 'float64'))], null);
  return { factor: to(upper ? turned(l!) : l!, a.dtype), info: info! };
}

/**
 * The Cholesky factor of symmetric positive definite matrices: the lower triangular L with A = L·Lᵀ. Only the lower triangle
 * of A is read. Where A is not positive definite, the rows from there on are NaN: results are not waited for, so nothing can be thrown here; ask
 * {@link choleskyEx}.
 *
 * @shape (…, n, n) → (…, n, n)
 * @throws ShapeError if the matrices are not square
 * @cost n³/3 flops a matrix, in float64
 * @source Golub and Van Loan 2013, Matrix Computations, section 4.2
 */
export function cholesky(a: Tensor, options: CholeskyOptions = {}): Tensor {
  const { factor, info } = choleskyEx(a, options);
  info.dispose();
  return factor;
}

/** Options of {@link solveTriangular}. */
export interface SolveTriangularOptions {
  /** Which triangle of A is meant; the other one is not read. */
  readonly upper: boolean;
}

/**
 * X with A·X = B for triangular A. A diagonal with zeros gives infinities or NaN.
 *
 * @shape (…, n, n), (…, n, m) → (…, n, m), with the same leading axes
 * @throws ShapeError if the axes do not fit
 */
export function solveTriangular(a: Tensor, b: Tensor, options: SolveTriangularOptions): Tensor {
  const op = 'linalg.solveTriangular';
  checkMatrices(op, 'a', a, true);
  checkMatrices(op, 'b', b, false);
  checkKeys(op, options, ['upper']);
  const upper = checkBoolean(op, 'upper', options.upper);
  if (b.rank !== a.rank || !a.shape.slice(0, -1).every((length, axis) => b.shape[axis] === length)) {
    const expected = `[${[...a.shape.slice(0, -1), 'm'].join(', ')}]`;
    throw new ShapeError({ op, argument: 'b', expected, actual: formatShape(b.shape) });
  }
  const wide = (x: Tensor): Tensor => contiguous(to(x, 'float64'));
  return to(solveOp.call([wide(a), wide(b)], { upper }), b.dtype);
}
