/**
 * Between dense matrices and compressed sparse rows (csr.h). Everything here moves bits; nothing is rounded.
 *
 * csr_columns:   mask [N, K] (bool), crow [N+1] → col [nnz], the columns of each row's true elements, ascending. crow
 *                must count them rightly.
 * csr_gather:    dense [N, K], crow, col → values [nnz].
 * csr_scatter:   values [nnz], crow, col → dense [N, K], zero elsewhere.
 * csr_transpose: crow [N+1], col [nnz] → of the transposed matrix crow [K+1] and col [nnz], and where each of its
 *                non-zeros lies in the original [nnz]: a counting sort, which keeps the order of rows.
 *
 * Parallel split: by rows; the transpose is sequential. `reference` runs the same loops.
 */
#include "../core/scratch.h"
#include "csr.h"
#include "stage.h"

namespace og {
namespace OG_ISA {
namespace {

template <class F>
void with_bits(int32_t dtype, const F& f) {
  switch (dtype_size(dtype)) {
    case 8:
      return f(uint64_t{});
    case 4:
      return f(uint32_t{});
    case 2:
      return f(uint16_t{});
    default:
      return f(uint8_t{});
  }
}

int32_t check_output(const char* op, const og_view& v, int64_t n) {
  OG_REQUIRE(v.rank == 1 && v.shape[0] == n, "%s: an operand must be [%lld]", op, (long long)n);
  OG_SUPPORTED(is_dense(v), "%s: an operand must be dense in memory", op);
  return OG_OK;
}

}  // namespace

int32_t kernel_csr_columns(const og_call* call) {
  const char* op = "csr_columns";
  const og_view &mask = call->inputs[0], &crow = call->inputs[1], &col = call->outputs[0];
  OG_REQUIRE(mask.rank == 2 && mask.dtype == OG_BOOL, "%s: the mask must be bool [N, K]", op);
  OG_REQUIRE(!spans_meet(crow, col) && !spans_meet(mask, col), "%s: the result lies over its operands", op);
  Csr s;
  OG_TRY(read_csr(op, crow, col, mask.shape[1], &s));
  OG_REQUIRE(s.rows == mask.shape[0], "%s: crow has %lld rows, the mask %lld", op, (long long)s.rows,
             (long long)mask.shape[0]);
  int32_t wrong = 0;
  parallel_ranges(s.rows, grain_for(s.columns), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; n++) {
      const uint8_t* row = data_of<const uint8_t>(mask) + n * mask.strides[0];
      int32_t* to = data_of<int32_t>(col) + s.begin(n);
      const int64_t room = s.length(n);
      int64_t found = 0;
      for (int64_t k = 0; k < s.columns; k++) {
        if (!row[k * mask.strides[1]]) continue;
        if (found < room) to[found] = (int32_t)k;
        found++;
      }
      if (found != room) __atomic_store_n(&wrong, 1, __ATOMIC_RELAXED);
    }
  });
  OG_REQUIRE(!wrong, "%s: crow does not count the mask's elements", op);
  return OG_OK;
}

int32_t kernel_csr_gather(const og_call* call) {
  const char* op = "csr_gather";
  const og_view &dense = call->inputs[0], &values = call->outputs[0];
  OG_REQUIRE(dense.rank == 2 && dense.dtype == values.dtype, "%s: dense is [N, K], of the result's dtype", op);
  Csr s;
  OG_TRY(read_checked_csr(op, call->inputs[1], call->inputs[2], dense.shape[1], values, &s));
  OG_REQUIRE(s.rows == dense.shape[0], "%s: crow and the matrix have different rows", op);
  OG_TRY(check_output(op, values, s.count));
  with_bits(values.dtype, [&](auto type) {
    typedef decltype(type) T;
    parallel_ranges(s.rows, csr_grain(s, 2, 32768), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; n++) {
        const T* row = data_of<const T>(dense) + n * dense.strides[0];
        for (int64_t e = s.crow[n]; e < s.crow[n + 1]; e++) data_of<T>(values)[e] = row[s.col[e] * dense.strides[1]];
      }
    });
  });
  return OG_OK;
}

int32_t kernel_csr_scatter(const og_call* call) {
  const char* op = "csr_scatter";
  const og_view &values = call->inputs[0], &dense = call->outputs[0];
  OG_REQUIRE(dense.rank == 2 && dense.dtype == values.dtype, "%s: the result is [N, K], of the values' dtype", op);
  Csr s;
  OG_TRY(read_checked_csr(op, call->inputs[1], call->inputs[2], dense.shape[1], dense, &s));
  OG_REQUIRE(s.rows == dense.shape[0], "%s: crow and the matrix have different rows", op);
  OG_TRY(check_output(op, values, s.count));
  with_bits(values.dtype, [&](auto type) {
    typedef decltype(type) T;
    parallel_ranges(s.rows, grain_for(s.columns), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; n++) {
        T* row = data_of<T>(dense) + n * dense.strides[0];
        for (int64_t k = 0; k < s.columns; k++) row[k * dense.strides[1]] = 0;
        for (int64_t e = s.crow[n]; e < s.crow[n + 1]; e++)
          row[s.col[e] * dense.strides[1]] = data_of<const T>(values)[e];
      }
    });
  });
  return OG_OK;
}

int32_t kernel_csr_transpose(const og_call* call) {
  const char* op = "csr_transpose";
  const og_view &crow = call->outputs[0], &col = call->outputs[1], &from = call->outputs[2];
  OG_REQUIRE(crow.rank == 1 && crow.shape[0] >= 1, "%s: crow of the result is [K + 1]", op);
  Csr s;
  for (int i = 1; i < 3; i++)
    for (int k = 0; k < 2; k++)
      OG_REQUIRE(!spans_meet(call->inputs[k], call->outputs[i]), "%s: the result lies over its own indices", op);
  OG_TRY(read_checked_csr(op, call->inputs[0], call->inputs[1], crow.shape[0] - 1, crow, &s));
  OG_TRY(check_output(op, crow, s.columns + 1));
  OG_TRY(check_output(op, col, s.count));
  OG_TRY(check_output(op, from, s.count));
  OG_SUPPORTED(crow.dtype == OG_I32 && col.dtype == OG_I32 && from.dtype == OG_I32, "%s: results must be int32", op);
  OG_REQUIRE(!spans_meet(crow, col) && !spans_meet(crow, from) && !spans_meet(col, from),
             "%s: the results lie over each other", op);
  ScratchFrame scratch;
  int32_t* next = scratch.take<int32_t>(s.columns + 1);
  OG_SCRATCH(next, "counts");
  std::memset(next, 0, sizeof(int32_t) * (size_t)(s.columns + 1));
  for (int64_t e = 0; e < s.count; e++) next[s.col[e] + 1]++;
  for (int64_t k = 0; k < s.columns; k++) next[k + 1] += next[k];
  std::memcpy(crow.data, next, sizeof(int32_t) * (size_t)(s.columns + 1));
  for (int64_t n = 0; n < s.rows; n++)
    for (int32_t e = s.crow[n]; e < s.crow[n + 1]; e++) {
      const int32_t to = next[s.col[e]]++;
      data_of<int32_t>(col)[to] = (int32_t)n;
      data_of<int32_t>(from)[to] = e;
    }
  return OG_OK;
}

}  // namespace OG_ISA
}  // namespace og
