/**
 * Singular values of a product of two thin matrices, on the host in float64.
 */

/** A matrix by columns. */
type Columns = Float64Array[];

const dot = (a: Float64Array, b: Float64Array): number => {
  let total = 0;
  for (let i = 0; i < a.length; i++) total += a[i]! * b[i]!;
  return total;
};

/** Below this part of its length a column counts as a combination of those before it. */
const DEPENDENT = 1e-13;

/** Gram–Schmidt, each column made orthogonal twice: q has orthonormal columns, or zeros; x = q·r. */
function qr(x: Columns): { q: Columns; r: Columns } {
  const q: Columns = [];
  const r: Columns = [];
  for (const column of x) {
    const rest = Float64Array.from(column);
    const row = new Float64Array(x.length);
    for (let pass = 0; pass < 2; pass++) {
      for (const [k, unit] of q.entries()) {
        const along = dot(unit, rest);
        row[k]! += along;
        for (let i = 0; i < rest.length; i++) rest[i]! -= along * unit[i]!;
      }
    }
    const length = Math.sqrt(dot(rest, rest));
    const isNew = length > DEPENDENT * Math.sqrt(dot(column, column));
    row[q.length] = isNew ? length : 0;
    q.push(isNew ? rest.map((value) => value / length) : new Float64Array(rest.length));
    r.push(row);
  }
  return { q, r };
}

/** One-sided Jacobi: rotates pairs of columns of m (and of v, which begins as the identity) until all are orthogonal. */
function orthogonalise(m: Columns): Columns {
  const v = m.map((_, i) => Float64Array.from(m, (_column, j) => Number(i === j)));
  for (let sweep = 0; sweep < 60; sweep++) {
    let isDone = true;
    for (let i = 0; i < m.length; i++) {
      for (let j = i + 1; j < m.length; j++) {
        const [a, b, c] = [dot(m[i]!, m[i]!), dot(m[j]!, m[j]!), dot(m[i]!, m[j]!)];
        if (Math.abs(c) <= 1e-15 * Math.sqrt(a * b) || c === 0) continue;
        isDone = false;
        const zeta = (b - a) / (2 * c);
        const t = (zeta < 0 ? -1 : 1) / (Math.abs(zeta) + Math.hypot(1, zeta));
        const cos = 1 / Math.hypot(1, t);
        for (const x of [m, v]) {
          const [p, q] = [x[i]!, x[j]!];
          for (let k = 0; k < p.length; k++) {
            const held = p[k]!;
            p[k] = cos * (held - t * q[k]!);
            q[k] = cos * (t * held + q[k]!);
          }
        }
      }
    }
    if (isDone) break;
  }
  return v;
}

/** x·y, with y's columns as combinations of x's. */
const times = (x: Columns, y: Float64Array): Float64Array => {
  const result = new Float64Array(x[0]!.length);
  for (const [k, column] of x.entries()) for (let i = 0; i < result.length; i++) result[i]! += column[i]! * y[k]!;
  return result;
};

/**
 * @internal The largest `rank` singular values of left·rightᵀ, each with its vectors: left·rightᵀ ≈ Σ value · u·vᵀ. Both matrices are
 * given by columns, as many in each.
 *
 * @source Golub and Van Loan, Matrix Computations, §5.4.8 (product by QR) and §8.6.3 (one-sided Jacobi)
 */
export function productSvd(
  left: Columns,
  right: Columns,
  rank: number,
): { readonly value: number; readonly u: Float64Array; readonly v: Float64Array }[] {
  const [a, b] = [qr(left), qr(right)];
  // left·rightᵀ = qa · (ra·rbᵀ) · qbᵀ; columns of ra·rbᵀ: Σ_k ra[k] · rb[k][j]
  const inner = b.r.map((_, j) =>
    times(
      a.r,
      Float64Array.from(b.r, (column) => column[j]!),
    ),
  );
  const v = orthogonalise(inner);
  return inner
    .map((column, j) => ({ value: Math.sqrt(dot(column, column)), column, own: v[j]! }))
    .sort((x, y) => y.value - x.value)
    .slice(0, rank)
    .map(({ value, column, own }) => ({
      value,
      u: times(a.q, value === 0 ? column : column.map((x) => x / value)),
      v: times(b.q, own),
    }));
}
