/**
 * Row-wise kernels work along the last axis. A row of the compute type with unit stride is used in place, any other is
 * staged through scratch memory; the leading axes may have any strides. Results beyond the caches (stream.h) are staged
 * too, and written past them. Parallel split: by rows, grain from the shape.
 */
#ifndef OMNIGRAD_CPU_ROWS_H
#define OMNIGRAD_CPU_ROWS_H

#include "../core/parallel.h"
#include "../core/scratch.h"
#include "../core/status.h"
#include "../core/view.h"
#include "stage.h"
#include "stream.h"
#ifndef OG_IS_REFERENCE
#include "math.h"
#endif

namespace og {
namespace {

/** Element offset of the r-th position of the first `axes` axes, without divisions where one stride serves. */
struct RowOffsets {
  const og_view* view;
  int axes;
  bool uniform = true;
  int64_t step = 0;

  RowOffsets(const og_view& v, int axes) : view(&v), axes(axes) {
    int64_t expected = 0;
    bool first = true;
    for (int i = axes - 1; i >= 0; i--) {
      if (v.shape[i] == 1) continue;
      if (first)
        step = v.strides[i];
      else if (v.strides[i] != expected)
        uniform = false;
      first = false;
      expected = v.strides[i] * v.shape[i];
    }
  }
  int64_t operator()(int64_t row) const { return uniform ? row * step : offset_of(*view, row, axes); }
};

#ifndef OG_IS_REFERENCE
/**
 * Into the second level: into L1, a row that is not needed yet takes the place and the misses of the one at hand. A
 * lambda that does nothing but fetch must be always_inline: GCC drops calls of functions that have no other effect.
 */
OG_INLINE void prefetch_second(const void* p) { __builtin_prefetch(p, 0, 2); }
#endif

/** Longest row that is written past the caches at once: a longer one would wait for the stores alone. */
constexpr int64_t kPastRow = 4096;

/** The rows of a view of rank ≥ 1. An absent view has no rows and must not be asked. */
template <class C>
struct Rows {
  const og_view* view;
  RowOffsets offset;
  int64_t stride;
  bool direct, past = false;

  explicit Rows(const og_view& v, bool is_result = false, int64_t longest_past = kPastRow)
      : view(&v), offset(v, v.rank > 0 ? v.rank - 1 : 0) {
    stride = v.rank > 0 ? v.strides[v.rank - 1] : 1;
    direct = is_native<C>(v.dtype) && (stride == 1 || v.rank == 0 || v.shape[v.rank - 1] <= 1);
    past = is_result && direct && v.rank > 0 && v.shape[v.rank - 1] <= longest_past && is_beyond_caches(v);
    direct = direct && !past;
  }
  /** Elements [begin, begin+n) of a row, in place or copied into the buffer. */
  const C* read(int64_t row, int64_t begin, int64_t n, C* buffer) const {
    const int64_t at = offset(row) + begin * stride;
    if (direct) return data_of<const C>(*view) + at;
    read_run(*view, at, stride, n, buffer);
    return buffer;
  }
  /**
   * The row `by` rows after `row`, to be fetched while this one is computed on: the kernels read memory only in their
   * first pass over a row, and hardware does not look further. `row` itself, which is cached, if there is no such row
   * before `end`.
   */
  const C* ahead(int64_t row, int64_t end, int64_t by = 1) const {
    return direct ? data_of<const C>(*view) + offset(row + by < end ? row + by : row) : nullptr;
  }
  /** Where a result goes: the row itself, or the buffer that `commit` will write out. */
  C* target(int64_t row, int64_t begin, C* buffer) const {
    return direct ? data_of<C>(*view) + offset(row) + begin * stride : buffer;
  }
  /** Where a row of a result beyond the caches goes in the end. */
  C* past_row(int64_t row) const { return data_of<C>(*view) + offset(row); }
  void commit(int64_t row, int64_t begin, int64_t n, const C* from) const {
    if (past)
      stream_copy(from, data_of<C>(*view) + offset(row) + begin, n * (int64_t)sizeof(C));
    else if (!direct)
      write_run(*view, offset(row) + begin * stride, stride, n, from);
  }
};

/** One number per row: statistics, losses, gradients of losses. */
template <class C>
struct RowScalars {
  const og_view* view;
  RowOffsets offset;

  explicit RowScalars(const og_view& v) : view(&v), offset(v, v.rank) {}
  C get(int64_t row) const {
    C value;
    read_run(*view, offset(row), 1, 1, &value);
    return value;
  }
  void set(int64_t row, C value) const { write_run(*view, offset(row), 1, 1, &value); }
};

/** Whether `v` has the shape of the leading axes of `x`. */
inline bool is_leading_shape(const og_view& v, const og_view& x) {
  if (v.rank != x.rank - 1) return false;
  for (int i = 0; i < v.rank; i++)
    if (v.shape[i] != x.shape[i]) return false;
  return true;
}
inline bool is_vector(const og_view& v, int64_t n) { return v.rank == 1 && v.shape[0] == n; }

inline int64_t leading_count(const og_view& x) {
  int64_t n = 1;
  for (int i = 0; i < x.rank - 1; i++) n *= x.shape[i];
  return n;
}

/** Elements of one staged row, padded to a cache line. */
inline int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

/** Calls body(begin, end, scratch) for pieces of [0, rows); every piece has its own `scratch` elements of type C. */
template <class C, class F>
inline int32_t parallel_rows(int64_t rows, int64_t grain, int64_t scratch, const char* what, const F& body) {
  int32_t failed = 0;
  parallel_ranges(rows, grain, [&](int64_t begin, int64_t end) {
    const StreamEnd streams{true};
    ScratchFrame frame;
    C* memory = scratch > 0 ? frame.take<C>(scratch) : nullptr;
    if (scratch > 0 && !memory) {
      __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
      return;
    }
    body(begin, end, memory);
  });
  if (failed) return fail(OG_OUT_OF_MEMORY, "no memory for the rows of %s", what);
  return OG_OK;
}

/** Sums run in vectors over this many elements, and in double from there on, whatever the length of the row. */
constexpr int64_t kSumBlock = 2048;

/** f(begin, n) for the blocks of a row; returns the sum of the results. */
template <class F>
inline double sum_blocks(int64_t n, const F& f) {
  double total = 0;
  for (int64_t at = 0; at < n; at += kSumBlock) total += f(at, n - at < kSumBlock ? n - at : kSumBlock);
  return total;
}

#ifdef OG_IS_REFERENCE

template <class C>
inline double sum_row(const C* x, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += (double)x[i];
  return sum;
}
template <class C>
inline double dot_row(const C* a, const C* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += (double)a[i] * (double)b[i];
  return sum;
}
/** Largest element; NaN is ignored, an empty row gives -∞. */
template <class C>
inline C row_max(const C* x, int64_t n) {
  C m = -std::numeric_limits<C>::infinity();
  for (int64_t i = 0; i < n; i++) m = x[i] > m ? x[i] : m;
  return m;
}
/** Σ e^{x − shift}. */
template <class C>
inline double exp_sum(const C* x, C shift, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += std::exp((double)x[i] - (double)shift);
  return sum;
}
template <class C>
inline double exp_sum_max(const C* x, C shift, int64_t n, C* max) {
  *max = row_max(x, n);
  return exp_sum(x, shift, n);
}

#else

/** Σ f(loads of a and b) over n ≤ kSumBlock elements, four running sums so that additions overlap; f(0, 0) must be 0.
 */
template <class F>
OG_INLINE float sum_vectors(const float* a, const float* b, int64_t n, const F& f) {
  Vf s0{}, s1{}, s2{}, s3{};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    s0 = s0 + f(load(a + i), load(b + i));
    s1 = s1 + f(load(a + i + kLanes), load(b + i + kLanes));
    s2 = s2 + f(load(a + i + 2 * kLanes), load(b + i + 2 * kLanes));
    s3 = s3 + f(load(a + i + 3 * kLanes), load(b + i + 3 * kLanes));
  }
  for (; i + kLanes <= n; i += kLanes) s0 = s0 + f(load(a + i), load(b + i));
  if (i < n) s1 = s1 + f(load_partial(a + i, n - i), load_partial(b + i, n - i));
  return sum((s0 + s1) + (s2 + s3));
}
/** The same for one operand, whose missing lanes read `fill`; f(fill) must be 0. */
template <class F>
OG_INLINE float sum_vectors(const float* a, int64_t n, float fill, const F& f) {
  Vf s0{}, s1{}, s2{}, s3{};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    s0 = s0 + f(load(a + i));
    s1 = s1 + f(load(a + i + kLanes));
    s2 = s2 + f(load(a + i + 2 * kLanes));
    s3 = s3 + f(load(a + i + 3 * kLanes));
  }
  for (; i + kLanes <= n; i += kLanes) s0 = s0 + f(load(a + i));
  if (i < n) s1 = s1 + f(load_partial(a + i, n - i, fill));
  return sum((s0 + s1) + (s2 + s3));
}
inline double sum_row(const float* x, int64_t n) {
  return sum_blocks(n,
                    [&](int64_t at, int64_t count) { return sum_vectors(x + at, count, 0.f, [](Vf v) { return v; }); });
}
inline double dot_row(const float* a, const float* b, int64_t n) {
  return sum_blocks(n, [&](int64_t at, int64_t count) {
    return sum_vectors(a + at, b + at, count, [](Vf u, Vf v) { return u * v; });
  });
}

/** Largest element; NaN is ignored, an empty row gives -∞. */
inline float row_max(const float* x, int64_t n) {
  Vf m0 = set1(-__builtin_inff()), m1 = m0, m2 = m0, m3 = m0;
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    m0 = max_second(load(x + i), m0);
    m1 = max_second(load(x + i + kLanes), m1);
    m2 = max_second(load(x + i + 2 * kLanes), m2);
    m3 = max_second(load(x + i + 3 * kLanes), m3);
  }
  for (; i + kLanes <= n; i += kLanes) m0 = max_second(load(x + i), m0);
  if (i < n) m0 = max_second(load_partial(x + i, n - i, -__builtin_inff()), m0);
  return max_number(max_second(max_second(m0, m1), max_second(m2, m3)));
}

inline double exp_sum(const float* x, float shift, int64_t n) {
  const Vf m = set1(shift);
  return sum_blocks(n, [&](int64_t at, int64_t count) {
    Vf s{};
    int64_t i = at;
    const int64_t end = at + count;
    for (; i + kLanes <= end; i += kLanes) {
      s = s + exp_difference(load(x + i) - m);
    }
    if (i < end) s = s + exp_difference(load_partial(x + i, end - i, -__builtin_inff()) - m);
    return sum(s);
  });
}
/** Elements of a line of the cache, and their sum, which is added to that of a row: half as many additions wait for
 * each other. */
constexpr int64_t kRowLine = 16;
OG_INLINE Vf sum_of_line(const Vf (&v)[kRowLine / kLanes]) {
  Vf sum = v[0];
#pragma GCC unroll 4
  for (size_t k = 1; k < kRowLine / kLanes; k++) sum = sum + v[k];
  return sum;
}
/** Elements that a pass over rows in memory fetches ahead. A Zen 3 gains a quarter by it; a Zen 4, with AVX-512, loses
 * a tenth. */
constexpr int64_t kReadAhead = 2048;
constexpr bool kFetchesRows = OG_LANES == 8;
/** exp_sum and row_max in one pass. */
inline double exp_sum_max(const float* x, float shift, int64_t n, float* max) {
  const Vf m = set1(shift);
  Vf largest = set1(-__builtin_inff());
  const double total = sum_blocks(n, [&](int64_t at, int64_t count) {
    Vf s{};
    int64_t i = at;
    const int64_t end = at + count;
    for (; i + kRowLine <= end; i += kRowLine) {
      if (kFetchesRows) prefetch_second(x + i + kReadAhead);
      Vf v[kRowLine / kLanes];
      for (int64_t k = 0; k < kRowLine; k += kLanes) {
        const Vf next = load(x + i + k);
        largest = max_second(next, largest);
        v[k / kLanes] = exp_difference(next - m);
      }
      s = s + sum_of_line(v);
    }
    for (; i + kLanes <= end; i += kLanes) {
      const Vf v = load(x + i);
      largest = max_second(v, largest);
      s = s + exp_difference(v - m);
    }
    if (i < end) {
      const Vf v = load_partial(x + i, end - i, -__builtin_inff());
      largest = max_second(v, largest);
      s = s + exp_difference(v - m);
    }
    return sum(s);
  });
  *max = max_number(largest);
  return total;
}

#endif

/**
 * Σ e^{x − shift} of a row that comes in blocks, each read once. The shift is the largest element of the first block
 * and moves only when it is passed by more than kSlack: then the block, still in L1, is summed again.
 */
template <class C>
struct OnlineSum {
  static constexpr int kSlack = 4;
  C shift = -std::numeric_limits<C>::infinity();  // afterwards: -∞ if there was nothing else, +∞ if there was one
  double sum = 0;                                 // NaN if there was a NaN or +∞

  /** pass(shift, &largest) goes over the block once: its sum and its largest element. */
  template <class Pass>
  void add(const C* x, int64_t n, const Pass& pass) {
    constexpr C none = -std::numeric_limits<C>::infinity();
    const bool is_first = shift == none;
    if (is_first) shift = row_max(x, n);
    C largest;
    const double s = pass(shift == none ? C(0) : shift, &largest);
    if (is_first || largest <= shift + kSlack) {
      sum += s;
    } else {
      sum = sum * std::exp((double)shift - (double)largest) + exp_sum(x, largest, n);
      shift = largest;
    }
  }
  void add(const C* x, int64_t n) {
    add(x, n, [&](C s, C* largest) { return exp_sum_max(x, s, n, largest); });
  }
  double value() const {
    return shift == -std::numeric_limits<C>::infinity() ? std::log(sum) : (double)shift + std::log(sum);
  }
};

}  // namespace
}  // namespace og
#endif
