/**
 * Compressed sparse rows: `crow` [N+1] and `col` [nnz], both int32, dense in memory. Checks of what a caller says about
 * them: nothing is read through an index that was not looked at before.
 *
 * A row is right if its columns ascend strictly and the outer two lie inside the matrix: then all do, and none is named
 * twice. That is one comparison a non-zero, in vectors.
 */
#ifndef OMNIGRAD_CPU_CSR_H
#define OMNIGRAD_CPU_CSR_H

#include "../core/parallel.h"
#include "../core/status.h"
#include "../core/view.h"
#include "index.h"

namespace og {
namespace {

struct Csr {
  int64_t rows, columns, count;
  const int32_t* crow;
  const int32_t* col;

  int64_t begin(int64_t row) const { return crow[row]; }
  int64_t length(int64_t row) const { return crow[row + 1] - crow[row]; }
};

/**
 * Steps of k in a stretch, `depth` of which stay in L1: more where rows are so sparse that a run of non-zeros would be
 * over before it pays for its start. By sizes only.
 */
inline int64_t stretch_depth(const Csr& s, int64_t depth) {
  const double density = (double)s.count / ((double)s.rows * (double)s.columns + 1);
  return density > 0.45 ? depth : density > 0.12 ? 2 * depth : 4 * depth;
}

/** Rows for which a chunk of about `target` units is enough, when each non-zero costs `work`. By sizes only. */
inline int64_t csr_grain(const Csr& s, int64_t work, int64_t target) {
  return grain_for((s.count / (s.rows > 0 ? s.rows : 1) + 1) * work, target);
}

/** Shapes and the row pointers; the columns are looked at row by row, by `row_is_right`. */
inline int32_t read_csr(const char* op, const og_view& crow, const og_view& col, int64_t columns, Csr* out) {
  OG_REQUIRE(crow.rank == 1 && col.rank == 1 && crow.shape[0] >= 1, "%s: crow is [rows + 1] and col is [count]", op);
  OG_SUPPORTED(crow.dtype == OG_I32 && col.dtype == OG_I32, "%s: crow and col must be int32", op);
  OG_SUPPORTED(is_dense(crow) && is_dense(col), "%s: crow and col must be dense in memory", op);
  OG_REQUIRE(columns <= INT32_MAX && col.shape[0] <= INT32_MAX, "%s: more than 2^31 - 1 columns or non-zeros", op);
  const Csr s{crow.shape[0] - 1, columns, col.shape[0], data_of<const int32_t>(crow), data_of<const int32_t>(col)};
  bool rising = s.crow[0] == 0 && s.crow[s.rows] == s.count;
  for (int64_t i = 0; i < s.rows && rising; i++) rising = s.crow[i] <= s.crow[i + 1];
  if (!rising) return fail(OG_INDEX, "%s: crow does not rise from 0 to the %lld non-zeros", op, (long long)s.count);
  *out = s;
  return OG_OK;
}

inline bool row_is_right(const Csr& s, int64_t row) {
  const int64_t n = s.length(row);
  if (n == 0) return true;
  const int32_t* c = s.col + s.begin(row);
  if (c[0] < 0 || c[n - 1] >= s.columns) return false;
  int32_t wrong = 0;
  for (int64_t i = 1; i < n; i++) wrong |= c[i] <= c[i - 1];
  return wrong == 0;
}

/** What to say when some row was not right. */
inline int32_t bad_column(const char* op, const Csr& s) {
  for (int64_t row = 0; row < s.rows; row++) {
    const int32_t* c = s.col + s.begin(row);
    for (int64_t i = 0; i < s.length(row); i++) {
      if (c[i] < 0 || c[i] >= s.columns)
        return fail(OG_INDEX, "%s: column %d of row %lld is outside [0, %lld)", op, c[i], (long long)row,
                    (long long)s.columns);
      if (i > 0 && c[i] <= c[i - 1])
        return fail(OG_INDEX, "%s: the columns of row %lld do not ascend: %d follows %d", op, (long long)row, c[i],
                    c[i - 1]);
    }
  }
  return fail(OG_INDEX, "%s: a column is not right", op);
}

/** Whether rows [begin, end) are right: all places where columns do not ascend are those where a row begins. */
inline bool rows_are_right(const Csr& s, int64_t begin, int64_t end) {
  const int64_t first = s.crow[begin], last = s.crow[end];
  int32_t falls = 0, wrong = 0;
  for (int64_t i = first + 1; i < last; i++) falls += s.col[i] <= s.col[i - 1];
  for (int64_t row = begin; row < end; row++) {
    const int64_t at = s.crow[row], next = s.crow[row + 1];
    if (at == next) continue;
    wrong |= (s.col[at] < 0) | (s.col[next - 1] >= s.columns);
    if (at > first) falls -= s.col[at] <= s.col[at - 1];
  }
  return (falls | wrong) == 0;
}

/** All rows looked at. */
inline int32_t check_columns(const char* op, const Csr& s) {
  int32_t wrong = 0;
  parallel_ranges(s.rows, csr_grain(s, 1, 1 << 17), [&](int64_t begin, int64_t end) {
    if (!rows_are_right(s, begin, end)) __atomic_store_n(&wrong, 1, __ATOMIC_RELAXED);
  });
  return wrong ? bad_column(op, s) : OG_OK;
}

/** read_csr, check_columns, and that nothing written lies over the indices. */
inline int32_t read_checked_csr(const char* op, const og_view& crow, const og_view& col, int64_t columns,
                                const og_view& written, Csr* out) {
  OG_REQUIRE(!spans_meet(crow, written) && !spans_meet(col, written), "%s: the result lies over its own indices", op);
  OG_TRY(read_csr(op, crow, col, columns, out));
  return check_columns(op, *out);
}

/** The first position of [begin, end) whose column is at least `limit`; columns ascend. */
inline int32_t first_at_least(const int32_t* col, int32_t begin, int32_t end, int64_t limit) {
  int32_t n = end - begin;
  while (n > 0) {
    const int32_t half = n / 2;
    const bool right = col[begin + half] < limit;
    begin = right ? begin + half + 1 : begin;
    n = right ? n - half - 1 : half;
  }
  return begin;
}

/** An optional vector [n] of the output's type, dense. */
inline int32_t check_vector(const char* op, const char* name, const og_view& v, int64_t n, int32_t dtype) {
  if (!is_present(v)) return OG_OK;
  OG_REQUIRE(v.rank == 1 && v.shape[0] == n, "%s: %s must be [%lld]", op, name, (long long)n);
  OG_SUPPORTED(v.dtype == dtype && is_dense(v), "%s: %s must have the output's dtype and be dense", op, name);
  return OG_OK;
}

}  // namespace
}  // namespace og
#endif
