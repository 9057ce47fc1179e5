/** Shape arithmetic over views: counting, contiguity, and merging of axes that can be walked as one. */
#ifndef OMNIGRAD_CORE_VIEW_H
#define OMNIGRAD_CORE_VIEW_H

#include "dtype.h"
#include "omnigrad/abi.h"

namespace og {

/** How one operand of a Loop is walked: the loop's shape, and the operand's strides. */
struct Walk {
  int rank;
  const int64_t* shape;
  const int64_t* strides;
};

namespace {

inline bool is_present(const og_view& v) { return v.dtype >= 0; }

inline int64_t count_of(const og_view& v) {
  int64_t n = 1;
  for (int i = 0; i < v.rank; i++) n *= v.shape[i];
  return n;
}

inline bool same_shape(const og_view& a, const og_view& b) {
  if (a.rank != b.rank) return false;
  for (int i = 0; i < a.rank; i++)
    if (a.shape[i] != b.shape[i]) return false;
  return true;
}

/** Row-major without gaps (axes of length 1 may have any stride). */
inline bool is_contiguous(const og_view& v) {
  int64_t expected = 1;
  for (int i = v.rank - 1; i >= 0; i--) {
    if (v.shape[i] == 1) continue;
    if (v.strides[i] != expected) return false;
    expected *= v.shape[i];
  }
  return true;
}

/** Strides of the last `axes` axes are those of a contiguous block. */
inline bool is_contiguous_tail(const og_view& v, int axes) {
  int64_t expected = 1;
  for (int i = v.rank - 1; i >= v.rank - axes; i--) {
    if (v.shape[i] != 1 && v.strides[i] != expected) return false;
    expected *= v.shape[i];
  }
  return true;
}

template <class T>
inline T* data_of(const og_view& v) {
  return static_cast<T*>(v.data);
}

/** Element offset of the `index`-th position in row-major order of the first `axes` axes. */
inline int64_t offset_of(const og_view& v, int64_t index, int axes) {
  int64_t offset = 0;
  for (int i = axes - 1; i >= 0; i--) {
    offset += (index % v.shape[i]) * v.strides[i];
    index /= v.shape[i];
  }
  return offset;
}

/** Calls run(offset, length, stride) for the pieces of [begin, begin+n) that lie on one innermost line. */
template <class F>
inline void walk_lines(const Walk& walk, int64_t begin, int64_t n, const F& run) {
  if (walk.rank == 0) {
    if (n > 0) run(0, 1, 1);
    return;
  }
  int64_t index[OG_MAX_RANK], rest = begin, offset = 0;
  for (int i = walk.rank - 1; i >= 0; i--) {
    index[i] = rest % walk.shape[i];
    rest /= walk.shape[i];
    offset += index[i] * walk.strides[i];
  }
  const int inner = walk.rank - 1;
  const int64_t step = walk.strides[inner];
  while (n > 0) {
    const int64_t left = walk.shape[inner] - index[inner];
    const int64_t length = left < n ? left : n;
    run(offset, length, step);
    n -= length;
    offset += length * step;
    index[inner] += length;
    for (int i = inner; i > 0 && index[i] == walk.shape[i]; i--) {
      offset += walk.strides[i - 1] - walk.shape[i] * walk.strides[i];
      index[i] = 0;
      index[i - 1]++;
    }
  }
}

/** Several equally shaped views, walked together after dropping axes of length 1 and merging neighbours. */
template <int N>
struct Loop {
  int rank = 0;
  int64_t count = 1;
  int64_t shape[OG_MAX_RANK];
  int64_t strides[N][OG_MAX_RANK];

  explicit Loop(const og_view* const (&views)[N]) {
    const og_view& first = *views[0];
    for (int i = 0; i < first.rank; i++) {
      const int64_t length = first.shape[i];
      count *= length;
      if (length == 1) continue;
      bool merges = rank > 0;
      for (int k = 0; k < N && merges; k++) merges = strides[k][rank - 1] == views[k]->strides[i] * length;
      if (merges) {
        shape[rank - 1] *= length;
        for (int k = 0; k < N; k++) strides[k][rank - 1] = views[k]->strides[i];
      } else {
        shape[rank] = length;
        for (int k = 0; k < N; k++) strides[k][rank] = views[k]->strides[i];
        rank++;
      }
    }
  }

  /** Whether operand k is laid out in the order of the walk, without gaps. */
  bool linear(int k) const {
    int64_t expected = 1;
    for (int i = rank - 1; i >= 0; i--) {
      if (strides[k][i] != expected) return false;
      expected *= shape[i];
    }
    return true;
  }

  Walk walk(int k) const { return {rank, shape, strides[k]}; }

  /** walk_lines of operand k. */
  template <class F>
  void lines(int k, int64_t begin, int64_t n, const F& run) const {
    walk_lines(walk(k), begin, n, run);
  }
};

}  // namespace
}  // namespace og
#endif
