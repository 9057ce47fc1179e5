/**
 * cholesky and triangular_solve of matrices in double (Golub and Van Loan 2013, Matrix Computations,
 * sections 4.2, 3.1).
 *
 *   cholesky          a (…, n, n) → l (…, n, n), info (…). A = L·Lᵀ; only the lower triangle of a is read, the upper
 * one of l is 0. info is 0, or the order of the first leading minor that is not positive definite; the rows of l from
 * there on are NaN then. triangular_solve  a (…, n, n), b (…, n, m) → x with A·X = B; attr 1: the upper triangle of a
 * is meant, else the lower one. The other triangle is not read. Where leading rows of a strip of columns of b are 0
 *                     (forwards; trailing ones backwards) they stay 0 and cost nothing, so that an inverse costs a
 * third.
 *
 * Accumulation: double, backward stable: |L·Lᵀ − A| ≤ n·2^-53·|L|·|Lᵀ| element by element, likewise |A·X − B|.
 * Blocked, right-looking: a diagonal block of kBlock, the panel below it, then the trailing triangle in register tiles.
 * Contiguous operands; x may be b, l may be a. Parallel split: rows of the panel, tiles of the trailing triangle,
 * strips of columns.
 */
#include <cmath>
#include <cstring>
#include <limits>

#include "../core/parallel.h"
#include "../core/scratch.h"
#include "../core/status.h"
#include "../core/view.h"

namespace og {
namespace OG_ISA {
namespace {

constexpr int64_t kBlock = 64;
constexpr int64_t kTileRows = 4;
constexpr int64_t kTileColumns = 16;
constexpr int64_t kStrip = 32;

int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }

/**
 * c[i][j] -= Σ_p a[i][p]·b[p][j] for a tile of at most kTileRows × kTileColumns, in row i only below `first` + i
 * columns; b is padded to whole tiles.
 */
void subtract_tile(const double* a, int64_t a_stride, const double* b, int64_t b_stride, int64_t depth, double* c,
                   int64_t c_stride, int64_t rows, int64_t first) {
  double sums[kTileRows][kTileColumns] = {};
  const double* lines[kTileRows];
  for (int64_t i = 0; i < kTileRows; i++) lines[i] = a + (i < rows ? i : 0) * a_stride;
  for (int64_t p = 0; p < depth; p++) {
    const double* line = b + p * b_stride;
    for (int64_t i = 0; i < kTileRows; i++) {
      const double factor = lines[i][p];
      for (int64_t j = 0; j < kTileColumns; j++) sums[i][j] += factor * line[j];
    }
  }
  for (int64_t i = 0; i < rows; i++) {
    const int64_t columns = min_of(kTileColumns, first + i);
    for (int64_t j = 0; j < columns; j++) c[i * c_stride + j] -= sums[i][j];
  }
}

/** The block on the diagonal at `at`, in place. Returns the place of the first pivot that is not positive, or -1. */
int64_t factor_diagonal(double* l, int64_t n, int64_t at, int64_t size) {
  for (int64_t j = at; j < at + size; j++) {
    double pivot = l[j * n + j];
    for (int64_t p = at; p < j; p++) pivot -= l[j * n + p] * l[j * n + p];
    if (!(pivot > 0) || std::isinf(pivot)) return j;
    pivot = std::sqrt(pivot);
    l[j * n + j] = pivot;
    for (int64_t i = j + 1; i < at + size; i++) {
      double sum = l[i * n + j];
      for (int64_t p = at; p < j; p++) sum -= l[i * n + p] * l[j * n + p];
      l[i * n + j] = sum / pivot;
    }
  }
  return -1;
}

/** Factors l in place; `panel` has room for kBlock rows of n + kTileColumns. Returns as factor_diagonal. */
int64_t factor(double* l, int64_t n, double* panel) {
  const int64_t width = n + kTileColumns;
  for (int64_t at = 0; at < n; at += kBlock) {
    const int64_t size = min_of(kBlock, n - at), below = at + size;
    const int64_t broken = factor_diagonal(l, n, at, size);
    if (broken >= 0) return broken;
    if (below == n) break;
    const int64_t left = n - below;
    // rows below: L21 = A21·L11⁻ᵀ, and its transpose beside it for the tiles
    parallel_ranges(left, grain_for(size * size), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; r++) {
        double* row = l + (below + r) * n + at;
        for (int64_t j = 0; j < size; j++) {
          const double* other = l + (at + j) * n + at;
          double sum = row[j];
          for (int64_t p = 0; p < j; p++) sum -= row[p] * other[p];
          row[j] = sum / other[j];
          panel[j * width + r] = row[j];
        }
      }
    });
    for (int64_t j = 0; j < size; j++)
      std::memset(panel + j * width + left, 0, (size_t)(kTileColumns) * sizeof(double));
    const int64_t bands = (left + kTileRows - 1) / kTileRows;
    parallel_ranges(bands, grain_for(kTileRows * size * left / 2, 1 << 20), [&](int64_t begin, int64_t end) {
      for (int64_t band = begin; band < end; band++) {
        const int64_t r = band * kTileRows, rows = min_of(kTileRows, left - r);
        for (int64_t c = 0; c < r + rows; c += kTileColumns) {
          double* target = l + (below + r) * n + below + c;
          subtract_tile(l + (below + r) * n + at, n, panel + c, width, size, target, n, rows, r + 1 - c);
        }
      }
    });
  }
  return -1;
}

/** One strip of columns of x, which lie `stride` apart. `upper` goes from the last row to the first. */
void solve_strip(const double* a, int64_t n, bool upper, double* x, int64_t stride, int64_t columns) {
  const auto row_at = [&](int64_t step) { return upper ? n - 1 - step : step; };
  const auto is_zero = [&](const double* row) {
    for (int64_t j = 0; j < columns; j++)
      if (!(row[j] == 0)) return false;
    return true;
  };
  int64_t first = 0;
  while (first < n && is_zero(x + row_at(first) * stride)) first++;
  for (int64_t at = first; at < n; at += kTileRows) {
    const int64_t rows = min_of(kTileRows, n - at);
    // what the rows that are solved take away from these, then these among themselves
    double sums[kTileRows][kStrip] = {};
    for (int64_t p = first; p < at; p++) {
      const double* solved = x + row_at(p) * stride;
      for (int64_t i = 0; i < rows; i++) {
        const double factor = a[row_at(at + i) * n + row_at(p)];
        for (int64_t j = 0; j < columns; j++) sums[i][j] += factor * solved[j];
      }
    }
    for (int64_t i = 0; i < rows; i++) {
      const int64_t own = row_at(at + i);
      double* row = x + own * stride;
      for (int64_t k = 0; k < i; k++) {
        const double factor = a[own * n + row_at(at + k)];
        const double* solved = x + row_at(at + k) * stride;
        for (int64_t j = 0; j < columns; j++) sums[i][j] += factor * solved[j];
      }
      for (int64_t j = 0; j < columns; j++) row[j] = (row[j] - sums[i][j]) / a[own * n + own];
    }
  }
}

bool is_dense(const og_view& a) { return count_of(a) == 0 || is_contiguous(a); }

bool is_square(const og_view& a) { return a.rank >= 2 && a.shape[a.rank - 1] == a.shape[a.rank - 2] && is_dense(a); }

int64_t batch_of(const og_view& a) {
  int64_t batch = 1;
  for (int i = 0; i < a.rank - 2; i++) batch *= a.shape[i];
  return batch;
}

}  // namespace

int32_t kernel_cholesky(const og_call* call) {
  const og_view &a = call->inputs[0], &l = call->outputs[0], &info = call->outputs[1];
  OG_SUPPORTED(a.dtype == OG_F64 && l.dtype == OG_F64 && info.dtype == OG_I32, "cholesky: float64, and int32 for info");
  OG_REQUIRE(is_square(a) && is_square(l) && same_shape(a, l), "cholesky: contiguous square matrices are expected");
  OG_REQUIRE(is_dense(info) && count_of(info) == batch_of(a), "cholesky: one info a matrix is expected");
  const int64_t n = a.shape[a.rank - 1], batch = batch_of(a);
  if (n == 0 || batch == 0) {
    for (int64_t i = 0; i < batch; i++) data_of<int32_t>(info)[i] = 0;
    return OG_OK;
  }
  ScratchFrame frame;
  double* panel = frame.take<double>(kBlock * (n + kTileColumns));
  OG_SCRATCH(panel, "cholesky's panel");
  for (int64_t b = 0; b < batch; b++) {
    const double* from = data_of<const double>(a) + b * n * n;
    double* to = data_of<double>(l) + b * n * n;
    for (int64_t i = 0; i < n; i++) {
      if (from != to) std::memcpy(to + i * n, from + i * n, (size_t)(i + 1) * sizeof(double));
      for (int64_t j = i + 1; j < n; j++) to[i * n + j] = 0;
    }
    const int64_t broken = factor(to, n, panel);
    data_of<int32_t>(info)[b] = (int32_t)(broken + 1);
    if (broken < 0) continue;
    for (int64_t i = broken; i < n; i++)
      for (int64_t j = 0; j < n; j++) to[i * n + j] = std::numeric_limits<double>::quiet_NaN();
  }
  return OG_OK;
}

int32_t kernel_triangular_solve(const og_call* call) {
  const og_view &a = call->inputs[0], &b = call->inputs[1], &x = call->outputs[0];
  OG_SUPPORTED(a.dtype == OG_F64 && b.dtype == OG_F64 && x.dtype == OG_F64, "triangular_solve: float64");
  OG_REQUIRE(is_square(a) && same_shape(b, x) && is_dense(b) && is_dense(x) && b.rank == a.rank,
             "triangular_solve: a contiguous square matrix and right-hand sides are expected");
  const int64_t n = a.shape[a.rank - 1], m = b.shape[b.rank - 1], batch = batch_of(a);
  OG_REQUIRE(b.shape[b.rank - 2] == n && batch_of(b) == batch, "triangular_solve: the axes of a and b differ");
  const bool upper = call->attrs[0] != 0;
  if (b.data != x.data) std::memcpy(x.data, b.data, (size_t)count_of(b) * sizeof(double));
  const int64_t strips = (m + kStrip - 1) / kStrip;
  parallel_ranges(batch * strips, grain_for(n * n * kStrip / 2, 1 << 20), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; task++) {
      const int64_t matrix = task / strips, at = task % strips * kStrip;
      solve_strip(data_of<const double>(a) + matrix * n * n, n, upper, data_of<double>(x) + matrix * n * m + at, m,
                  min_of(kStrip, m - at));
    }
  });
  return OG_OK;
}

}  // namespace OG_ISA
}  // namespace og
