/**
 * 2:4 semi-structured sparsity: of every four neighbours along K two are kept. `values` [N, K/2] holds them in order of
 * k; `indices` [N, ⌈K/8⌉] (uint8) says where they were, two bits each: byte j describes the groups 2j (low half) and
 * 2j + 1 (high half), the first kept element of a group in the lower two bits. K is a multiple of 4. A group with fewer
 * than two elements keeps a zero at a position of its choice. No pattern of bits points outside its group.
 */
#ifndef OMNIGRAD_CPU_SEMI_STRUCTURED_H
#define OMNIGRAD_CPU_SEMI_STRUCTURED_H

#include "../core/status.h"
#include "../core/view.h"
#include "index.h"

namespace og {
namespace {

/** Column of the e-th kept element of a row. */
inline int64_t kept_column(const uint8_t* indices, int64_t e) {
  return e / 2 * 4 + (indices[e / 4] >> (2 * (e % 4)) & 3);
}

/** Shapes of the pair for a matrix [N, K]; both dense in memory. */
inline int32_t check_pair(const char* op, const og_view& values, const og_view& indices, int64_t n, int64_t k) {
  OG_REQUIRE(k % 4 == 0, "%s: K is %lld, which is no multiple of 4", op, (long long)k);
  OG_REQUIRE(values.rank == 2 && values.shape[0] == n && values.shape[1] == k / 2, "%s: values must be [%lld, %lld]",
             op, (long long)n, (long long)(k / 2));
  OG_REQUIRE(indices.rank == 2 && indices.shape[0] == n && indices.shape[1] == (k + 7) / 8,
             "%s: indices must be [%lld, %lld]", op, (long long)n, (long long)((k + 7) / 8));
  OG_SUPPORTED(indices.dtype == OG_U8, "%s: indices must be uint8", op);
  OG_SUPPORTED(is_dense(values) && is_dense(indices), "%s: values and indices must be dense in memory", op);
  return OG_OK;
}

}  // namespace
}  // namespace og
#endif
