/**
 * Between dense matrices [N, K] and the 2:4 layout (semi_structured.h). Everything here moves bits.
 *
 * semi_structured_compress: dense, mask [N, K] (bool, true = kept) → values [N, K/2], indices [N, ⌈K/8⌉]. A group of
 *   four that keeps more than two is an error that names it; one that keeps fewer is filled up with zeros.
 * semi_structured_gather:   dense, indices → values: the elements at the kept positions.
 * semi_structured_expand:   values, indices → dense, zero elsewhere.
 *
 * Parallel split: by rows. `reference` runs the same loops.
 */
#include "../core/parallel.h"
#include "semi_structured.h"
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

int32_t check(const char* op, const og_view& dense, const og_view& values, const og_view& indices) {
  OG_REQUIRE(dense.rank == 2 && dense.dtype == values.dtype, "%s: dense is [N, K], of the values' dtype", op);
  return check_pair(op, values, indices, dense.shape[0], dense.shape[1]);
}

}  // namespace

int32_t kernel_semi_structured_compress(const og_call* call) {
  const char* op = "semi_structured_compress";
  const og_view &dense = call->inputs[0], &mask = call->inputs[1];
  const og_view &values = call->outputs[0], &indices = call->outputs[1];
  OG_TRY(check(op, dense, values, indices));
  OG_REQUIRE(mask.dtype == OG_BOOL && same_shape(mask, dense), "%s: the mask must be bool, shaped like the matrix", op);
  for (int i = 0; i < 2; i++)
    OG_REQUIRE(!spans_meet(mask, call->outputs[i]) && !spans_meet(dense, call->outputs[i]),
               "%s: the result lies over its operands", op);
  OG_REQUIRE(!spans_meet(values, indices), "%s: the results lie over each other", op);
  const int64_t n = dense.shape[0], groups = dense.shape[1] / 4, bytes = (dense.shape[1] + 7) / 8;
  int64_t first_bad = n * groups;
  with_bits(values.dtype, [&](auto type) {
    typedef decltype(type) T;
    parallel_ranges(n, grain_for(groups * 8), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; row++) {
        const T* from = data_of<const T>(dense) + row * dense.strides[0];
        const uint8_t* keep = data_of<const uint8_t>(mask) + row * mask.strides[0];
        T* to = data_of<T>(values) + row * groups * 2;
        uint8_t* where = data_of<uint8_t>(indices) + row * bytes;
        std::memset(where, 0, (size_t)bytes);
        for (int64_t g = 0; g < groups; g++) {
          bool kept[4];
          int count = 0;
          for (int i = 0; i < 4; i++) count += kept[i] = keep[(4 * g + i) * mask.strides[1]] != 0;
          if (count > 2) {
            const int64_t bad = row * groups + g;
            int64_t seen = __atomic_load_n(&first_bad, __ATOMIC_RELAXED);
            while (bad < seen &&
                   !__atomic_compare_exchange_n(&first_bad, &seen, bad, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
            }
            break;
          }
          int slot = 0, spare = 2 - count;
          for (int i = 0; i < 4 && slot < 2; i++) {
            if (!kept[i] && spare == 0) continue;
            if (!kept[i]) spare--;
            to[2 * g + slot] = kept[i] ? from[(4 * g + i) * dense.strides[1]] : T(0);
            where[g / 2] |= (uint8_t)(i << (4 * (g & 1) + 2 * slot));
            slot++;
          }
        }
      }
    });
  });
  if (first_bad == n * groups) return OG_OK;
  return fail(OG_INDEX, "%s: row %lld keeps more than 2 of the columns %lld to %lld", op,
              (long long)(first_bad / groups), (long long)(first_bad % groups * 4),
              (long long)(first_bad % groups * 4 + 3));
}

int32_t kernel_semi_structured_gather(const og_call* call) {
  const char* op = "semi_structured_gather";
  const og_view &dense = call->inputs[0], &indices = call->inputs[1], &values = call->outputs[0];
  OG_TRY(check(op, dense, values, indices));
  const int64_t kept = dense.shape[1] / 2, bytes = (dense.shape[1] + 7) / 8;
  with_bits(values.dtype, [&](auto type) {
    typedef decltype(type) T;
    parallel_ranges(dense.shape[0], grain_for(kept * 2), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; row++) {
        const T* from = data_of<const T>(dense) + row * dense.strides[0];
        const uint8_t* where = data_of<const uint8_t>(indices) + row * bytes;
        for (int64_t e = 0; e < kept; e++)
          data_of<T>(values)[row * kept + e] = from[kept_column(where, e) * dense.strides[1]];
      }
    });
  });
  return OG_OK;
}

int32_t kernel_semi_structured_expand(const og_call* call) {
  const char* op = "semi_structured_expand";
  const og_view &values = call->inputs[0], &indices = call->inputs[1], &dense = call->outputs[0];
  OG_TRY(check(op, dense, values, indices));
  const int64_t k = dense.shape[1], kept = k / 2, bytes = (k + 7) / 8;
  with_bits(values.dtype, [&](auto type) {
    typedef decltype(type) T;
    parallel_ranges(dense.shape[0], grain_for(k * 2), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; row++) {
        T* to = data_of<T>(dense) + row * dense.strides[0];
        const uint8_t* where = data_of<const uint8_t>(indices) + row * bytes;
        for (int64_t i = 0; i < k; i++) to[i * dense.strides[1]] = 0;
        for (int64_t e = 0; e < kept; e++)
          to[kept_column(where, e) * dense.strides[1]] = data_of<const T>(values)[row * kept + e];
      }
    });
  });
  return OG_OK;
}

}  // namespace OG_ISA
}  // namespace og
