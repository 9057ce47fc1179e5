/** Reading and checking of index operands (int32 or int64). */
#ifndef OMNIGRAD_CPU_INDEX_H
#define OMNIGRAD_CPU_INDEX_H

#include "../core/parallel.h"
#include "../core/status.h"
#include "../core/view.h"

namespace og {
namespace {

inline int64_t index_at(const og_view& index, int64_t offset) {
  return index.dtype == OG_I64 ? data_of<const int64_t>(index)[offset] : (int64_t)data_of<const int32_t>(index)[offset];
}

/** Whether the byte ranges that two views span have a byte in common. */
inline bool spans_meet(const og_view& a, const og_view& b) {
  const og_view* const views[2] = {&a, &b};
  const char *low[2], *high[2];
  for (int k = 0; k < 2; k++) {
    const og_view& v = *views[k];
    if (count_of(v) == 0) return false;
    const int64_t size = dtype_size(v.dtype);
    low[k] = high[k] = static_cast<const char*>(v.data);
    for (int i = 0; i < v.rank; i++) {
      const int64_t reach = (v.shape[i] - 1) * v.strides[i] * size;
      (reach < 0 ? low[k] : high[k]) += reach;
    }
    high[k] += size;
  }
  return low[0] < high[1] && low[1] < high[0];
}

/**
 * Every index lies in [0, length), or OG_INDEX with the first that does not. Before anything is written; and nothing
 * that is written may change an index after this look at it.
 */
inline int32_t check_indices(const char* op, const og_view& index, int axis, int64_t length, const og_view& written) {
  OG_REQUIRE(index.dtype == OG_I32 || index.dtype == OG_I64, "%s: the index must be int32 or int64", op);
  OG_REQUIRE(!spans_meet(index, written), "%s: the result lies over its own index", op);
  const og_view* const views[1] = {&index};
  const Loop<1> loop(views);
  int64_t first_bad = loop.count;  // smallest position over all chunks: the message does not depend on threads
  parallel_ranges(loop.count, 65536, [&](int64_t begin, int64_t end) {
    int64_t position = begin, bad = -1;
    loop.lines(0, begin, end - begin, [&](int64_t offset, int64_t n, int64_t stride) {
      for (int64_t i = 0; i < n && bad < 0; i++)
        if ((uint64_t)index_at(index, offset + i * stride) >= (uint64_t)length) bad = position + i;
      position += n;
    });
    if (bad < 0) return;
    int64_t seen = __atomic_load_n(&first_bad, __ATOMIC_RELAXED);
    while (bad < seen &&
           !__atomic_compare_exchange_n(&first_bad, &seen, bad, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
  });
  if (first_bad == loop.count) return OG_OK;
  const int64_t value = index_at(index, offset_of(index, first_bad, index.rank));
  return fail(OG_INDEX, "%s: index %lld at position %lld is outside axis %d of length %lld", op, (long long)value,
              (long long)first_bad, axis, (long long)length);
}

/** Row-major without gaps, or without elements. */
inline bool is_dense(const og_view& v) { return count_of(v) == 0 || is_contiguous(v); }

/** Axes [from, to) of a view, at its own origin. */
inline og_view axes_of_view(const og_view& v, int from, int to) {
  og_view part = v;
  part.rank = to - from;
  for (int i = from; i < to; i++) {
    part.shape[i - from] = v.shape[i];
    part.strides[i - from] = v.strides[i];
  }
  return part;
}

/** The view with one axis moved to the end. */
inline og_view axis_last(const og_view& v, int axis) {
  og_view moved = v;
  for (int i = axis; i + 1 < v.rank; i++) {
    moved.shape[i] = v.shape[i + 1];
    moved.strides[i] = v.strides[i + 1];
  }
  moved.shape[v.rank - 1] = v.shape[axis];
  moved.strides[v.rank - 1] = v.strides[axis];
  return moved;
}

inline og_view shifted(const og_view& view, int64_t offset) {
  og_view v = view;
  v.data = static_cast<char*>(view.data) + offset * dtype_size(view.dtype);
  return v;
}

}  // namespace
}  // namespace og
#endif
