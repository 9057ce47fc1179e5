/**
 * The frame of all reductions. The input's last `axes` axes are reduced, the output has the shape of the others.
 *
 * A rule says what is done with the elements:
 *   T map(T x, T shift)      applied to each element (T: Vf, or a scalar); shift is a number per output (the mean, for
 * var) T combine(T a, T b)      associative identity                 its neutral element result(P total, int64_t m)
 *
 * Accumulation: at most kBlock elements are combined in C (four vectors side by side for float), the partial results of
 * the blocks in P (double for floats, int64_t for integers). For sums the chain of float additions is at most 75 long,
 * so |error| ≤ 75·2^-24·Σ|x| whatever the length; the integer sum wraps.
 *
 * Two orders of walking: along rows (the reduced elements of one output after the other), and down columns, when
 * neighbouring outputs are neighbours in memory. There the rows are taken kGroup at a time and up to kColumns wide:
 * their elements are combined in pairs, the result goes to the accumulator in L1 (read and written once for kGroup
 * rows), and the next group is fetched meanwhile, because prefetchers do not follow from one short line to the next.
 * kChainRows rows in one run make a chain of kChainRows / kGroup + log2 kGroup combinations in C; in runs shorter than
 * a group it is kChainRows.
 *
 * Parallel split: outputs × pieces of at most kPiece reduced elements (or kPieceRows rows); pieces are combined in
 * order. Both depend on shapes and strides only.
 */
#ifndef OMNIGRAD_CPU_REDUCE_H
#define OMNIGRAD_CPU_REDUCE_H

#include <utility>

#include "../core/scratch.h"
#include "elementwise.h"

namespace og {
namespace {

constexpr int64_t kPiece = 64 * kBlock;
constexpr int64_t kPieceRows = 256;
constexpr int64_t kColumns = 1024;  // outputs of one column task
constexpr int64_t kChainRows = 64;  // rows combined in C before they go to P
constexpr int64_t kGroup = 4;       // rows combined with each other before they meet the accumulator

template <class C>
struct Partial {
  typedef double type;
};
template <>
struct Partial<int64_t> {
  typedef int64_t type;
};

/** The input seen as kept axes (leading) and reduced axes (trailing). */
struct Split {
  og_view kept, reduced;
  int64_t outputs, length;

  Split(const og_view& x, int axes) : kept(x), reduced(x), outputs(1), length(1) {
    kept.rank = x.rank - axes;
    reduced.rank = axes;
    for (int i = 0; i < kept.rank; i++) outputs *= x.shape[i];
    for (int i = 0; i < axes; i++) {
      reduced.shape[i] = x.shape[kept.rank + i];
      reduced.strides[i] = x.strides[kept.rank + i];
      length *= reduced.shape[i];
    }
  }
};

/** Out of line: the walk is set up once per call, not once per rule. */
__attribute__((noinline)) inline Loop<1> loop_of(const og_view& view) {
  const og_view* const views[1] = {&view};
  return Loop<1>(views);
}

inline int32_t check_reduction(const og_call* call, int axes) {
  const og_view& x = call->inputs[0];
  OG_REQUIRE(axes >= 0 && axes <= x.rank, "reduction over %d axes of a tensor of rank %d", axes, x.rank);
  for (int k = 0; k < call->output_count; k++) {
    const og_view& y = call->outputs[k];
    OG_REQUIRE(y.rank == x.rank - axes, "reduction: the output has rank %d, expected %d", y.rank, x.rank - axes);
    for (int i = 0; i < y.rank; i++) OG_REQUIRE(y.shape[i] == x.shape[i], "reduction: the output's shape does not fit");
  }
  return OG_OK;
}

inline og_view moved(const og_view& view, int64_t offset) {
  og_view v = view;
  v.data = static_cast<char*>(view.data) + offset * dtype_size(view.dtype);
  return v;
}

#ifndef OG_IS_REFERENCE
/** All lanes combined: lane k with lane k + W, from half the vector down to 1. */
template <int W, class R, int... L>
OG_INLINE float combine_lanes(const R& rule, Vf v, std::integer_sequence<int, L...> lanes) {
  if constexpr (W == 0)
    return v[0];
  else
    return combine_lanes<W / 2>(rule, rule.combine(v, (Vf)__builtin_shufflevector(v, v, ((L + W) % kLanes)...)), lanes);
}
#endif

/** Combines n ≤ kBlock contiguous elements. */
template <class C, class R>
typename Partial<C>::type reduce_block(const void* context, const C* x, int64_t n, C shift) {
  typedef typename Partial<C>::type P;
  const R& rule = *static_cast<const R*>(context);
#ifndef OG_IS_REFERENCE
  if constexpr (std::is_same<C, float>::value) {
    const Vf s = set1(shift), none = set1((float)rule.identity);
    Vf a = none, b = none, c = none, d = none;
    int64_t i = 0;
    for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
      a = rule.combine(a, rule.map(load(x + i), s));
      b = rule.combine(b, rule.map(load(x + i + kLanes), s));
      c = rule.combine(c, rule.map(load(x + i + 2 * kLanes), s));
      d = rule.combine(d, rule.map(load(x + i + 3 * kLanes), s));
    }
    for (; i + kLanes <= n; i += kLanes) a = rule.combine(a, rule.map(load(x + i), s));
    a = rule.combine(rule.combine(a, b), rule.combine(c, d));
    float total = combine_lanes<kLanes / 2>(rule, a, std::make_integer_sequence<int, kLanes>());
    for (; i < n; i++) total = rule.combine(total, rule.map(x[i], shift));
    return total;
  }
#endif
  P total = (P)rule.identity;
  for (int64_t i = 0; i < n; i++) total = rule.combine(total, (P)rule.map(x[i], shift));
  return total;
}

/** acc[j] = combine(acc[j], map(x[r · stride + j])) for the rows r < count of a column task. */
template <class C, class R>
void accumulate_rows(const void* context, const C* __restrict x, int64_t stride, int64_t count,
                     const C* __restrict shifts, C* __restrict acc, int64_t n) {
  const R& rule = *static_cast<const R*>(context);
  int64_t r = 0;
#ifndef OG_IS_REFERENCE
  for (; r + kGroup <= count; r += kGroup) {
    const C *a = x + r * stride, *b = a + stride, *c = b + stride, *d = c + stride;
    const auto group = [&](int64_t j, auto read) {
      const auto s = read(shifts + j);
      return rule.combine(read(acc + j),
                          rule.combine(rule.combine(rule.map(read(a + j), s), rule.map(read(b + j), s)),
                                       rule.combine(rule.map(read(c + j), s), rule.map(read(d + j), s))));
    };
    const auto scalar = [](const C* p) { return *p; };
    int64_t j = 0;
    if constexpr (std::is_same<C, float>::value) {
      const auto vector = [](const float* p) { return load(p); };
      const int64_t next = r + 2 * kGroup <= count ? kGroup * stride : 0;
      for (; j + 16 <= n; j += 16) {
        prefetch(a + j + next);
        prefetch(b + j + next);
        prefetch(c + j + next);
        prefetch(d + j + next);
        for (int64_t v = j; v < j + 16; v += kLanes) store(acc + v, group(v, vector));
      }
      for (; j + kLanes <= n; j += kLanes) store(acc + j, group(j, vector));
    }
    for (; j < n; j++) acc[j] = group(j, scalar);
  }
#endif
  for (; r < count; r++) {
    const C* row = x + r * stride;
    int64_t j = 0;
#ifndef OG_IS_REFERENCE
    if constexpr (std::is_same<C, float>::value)
      for (; j + kLanes <= n; j += kLanes)
        store(acc + j, rule.combine(load(acc + j), rule.map(load(row + j), load(shifts + j))));
#endif
    for (; j < n; j++) acc[j] = rule.combine(acc[j], rule.map(row[j], shifts[j]));
  }
}

/** total[j] = combine(total[j], other[j]); T: partial results, or those of a block. */
template <class C, class R, class T>
void combine_all(const void* context, typename Partial<C>::type* __restrict total, const T* __restrict other,
                 int64_t n) {
  typedef typename Partial<C>::type P;
  const R& rule = *static_cast<const R*>(context);
  for (int64_t j = 0; j < n; j++) total[j] = rule.combine(total[j], (P)other[j]);
}

template <class C, class R>
void finish_all(const void* context, const typename Partial<C>::type* total, int64_t m, C* results, int64_t n) {
  const R& rule = *static_cast<const R*>(context);
  for (int64_t j = 0; j < n; j++) results[j] = (C)rule.result(total[j], m);
}

/** A rule as the walks see it: functions over runs of elements, so that each walk is compiled once for all rules. */
template <class C>
struct Rule {
  typedef typename Partial<C>::type P;
  const void* context;
  C identity;
  P (*block)(const void*, const C* x, int64_t n, C shift);
  void (*rows)(const void*, const C* x, int64_t stride, int64_t count, const C* shifts, C* acc, int64_t n);
  void (*combine)(const void*, P* total, const P* other, int64_t n);
  void (*combine_row)(const void*, P* total, const C* row, int64_t n);
  void (*result)(const void*, const P* total, int64_t m, C* results, int64_t n);
};

/** Elements [begin, end) of one output's reduced set, whose first element is at `base`. */
template <class C>
inline typename Partial<C>::type reduce_run(const Rule<C>& rule, const Loop<1>& loop, const og_view& base,
                                            int64_t begin, int64_t end, C shift) {
  typedef typename Partial<C>::type P;
  if (begin == end) return (P)rule.identity;
  alignas(64) C buffer[kBlock];
  const int64_t first = end - begin < kBlock ? end - begin : kBlock;
  P total = rule.block(rule.context, stage_in<C>(loop, 0, base, begin, first, buffer), first, shift);
  for (int64_t at = begin + first; at < end; at += kBlock) {
    const int64_t n = end - at < kBlock ? end - at : kBlock;
    const P next = rule.block(rule.context, stage_in<C>(loop, 0, base, at, n, buffer), n, shift);
    rule.combine(rule.context, &total, &next, 1);
  }
  return total;
}

/** Writes results of outputs [begin, begin+n) from a contiguous buffer. */
template <class C>
inline void put(const og_view& y, const Loop<1>& loop, int64_t begin, int64_t n, const C* results) {
  stage_out<C>(loop, 0, y, begin, n, results);
}

template <class C>
__attribute__((noinline)) int32_t reduce_rows(const Rule<C>& rule, const Split& split, const C* shifts,
                                              const og_view& y) {
  typedef typename Partial<C>::type P;
  const Loop<1> loop = loop_of(split.reduced), kept = loop_of(split.kept), out = loop_of(y);
  const int64_t m = split.length, pieces = m > kPiece ? (m + kPiece - 1) / kPiece : 1;
  if (pieces == 1) {
    parallel_ranges(split.outputs, grain_for(m, kPiece), [&](int64_t begin, int64_t end) {
      P totals[kBlock];
      C results[kBlock];
      for (int64_t at = begin; at < end; at += kBlock) {
        const int64_t n = end - at < kBlock ? end - at : kBlock;
        int64_t k = 0;
        kept.lines(0, at, n, [&](int64_t offset, int64_t length, int64_t stride) {
          for (int64_t i = 0; i < length; i++, k++) {
            const og_view base = moved(split.reduced, offset + i * stride);
            totals[k] = reduce_run<C>(rule, loop, base, 0, m, shifts ? shifts[at + k] : C(0));
          }
        });
        rule.result(rule.context, totals, m, results, n);
        put(y, out, at, n, results);
      }
    });
    return OG_OK;
  }
  ScratchFrame frame;
  P* partial = frame.take<P>(split.outputs * pieces);
  OG_SCRATCH(partial, "partial reductions");
  parallel_for(split.outputs * pieces, [&](int64_t task) {
    const int64_t o = task / pieces, begin = task % pieces * kPiece;
    const og_view base = moved(split.reduced, offset_of(split.kept, o, split.kept.rank));
    partial[task] =
        reduce_run<C>(rule, loop, base, begin, begin + kPiece < m ? begin + kPiece : m, shifts ? shifts[o] : C(0));
  });
  parallel_ranges(split.outputs, kBlock, [&](int64_t begin, int64_t end) {
    C results[kBlock];
    for (int64_t o = begin; o < end; o++) {
      P total = partial[o * pieces];
      for (int64_t p = 1; p < pieces; p++) rule.combine(rule.context, &total, partial + o * pieces + p, 1);
      rule.result(rule.context, &total, m, results + (o - begin), 1);
    }
    put(y, out, begin, end - begin, results);
  });
  return OG_OK;
}

/** The innermost kept axis is dense and the reduced elements are not: whole rows are combined. */
inline bool goes_down_columns(const Split& split) {
  const int last = split.kept.rank - 1;
  if (last < 0 || split.length < 2 || split.kept.strides[last] != 1 || split.kept.shape[last] < 4) return false;
  for (int i = 0; i < split.reduced.rank; i++)
    if (split.reduced.shape[i] > 1 && split.reduced.strides[i] == 1) return false;
  return true;
}

template <class C>
__attribute__((noinline)) int32_t reduce_columns(const Rule<C>& rule, const Split& split, const C* shifts,
                                                 const og_view& y) {
  typedef typename Partial<C>::type P;
  const Loop<1> loop = loop_of(split.reduced), out = loop_of(y);
  const int64_t m = split.length, width = split.kept.shape[split.kept.rank - 1];
  const int64_t pieces = (m + kPieceRows - 1) / kPieceRows;
  const int64_t strip = pieces > 1 ? kColumns : kColumns / 2;  // few rows: more tasks
  const int64_t tiles = (width + strip - 1) / strip;
  ScratchFrame frame;
  P* partial = nullptr;
  if (pieces > 1) {
    partial = frame.take<P>(split.outputs * pieces);
    OG_SCRATCH(partial, "partial reductions");
  }
  const int64_t work = (m < kPieceRows ? m : kPieceRows) * (width < strip ? width : strip);
  const int64_t tasks = split.outputs / width * tiles * pieces;
  parallel_ranges(tasks, grain_for(work, kPiece), [&](int64_t first, int64_t last) {
    alignas(64) C acc[kColumns], shift[kColumns], staged[kGroup * kColumns];
    alignas(64) P total[kColumns];
    for (int64_t task = first; task < last; task++) {
      const int64_t piece = task % pieces, tile = task / pieces % tiles, outer = task / pieces / tiles;
      const int64_t column = tile * strip, n = width - column < strip ? width - column : strip;
      const int64_t output = outer * width + column;
      const int64_t begin = piece * kPieceRows, end = begin + kPieceRows < m ? begin + kPieceRows : m;
      const og_view base = moved(split.kept, offset_of(split.kept, outer, split.kept.rank - 1) + column);
      for (int64_t j = 0; j < n; j++) {
        shift[j] = shifts ? shifts[output + j] : C(0);
        total[j] = (P)rule.identity;
      }
      for (int64_t r = begin; r < end; r += kChainRows) {
        for (int64_t j = 0; j < n; j++) acc[j] = (C)rule.identity;
        loop.lines(0, r, end - r < kChainRows ? end - r : kChainRows,
                   [&](int64_t offset, int64_t length, int64_t stride) {
                     if (is_native<C>(base.dtype)) {
                       rule.rows(rule.context, data_of<const C>(base) + offset, stride, length, shift, acc, n);
                       return;
                     }
                     for (int64_t i = 0; i < length; i += kGroup) {
                       const int64_t count = length - i < kGroup ? length - i : kGroup;
                       for (int64_t k = 0; k < count; k++)
                         read_run(base, offset + (i + k) * stride, 1, n, staged + k * kColumns);
                       rule.rows(rule.context, staged, kColumns, count, shift, acc, n);
                     }
                   });
        rule.combine_row(rule.context, total, acc, n);
      }
      if (pieces > 1) {
        std::memcpy(partial + piece * split.outputs + output, total, (size_t)n * sizeof(P));
      } else {
        rule.result(rule.context, total, m, acc, n);
        put(y, out, output, n, acc);
      }
    }
  });
  if (pieces == 1) return OG_OK;
  parallel_ranges(split.outputs, kBlock, [&](int64_t begin, int64_t end) {
    C results[kBlock];
    for (int64_t p = 1; p < pieces; p++)
      rule.combine(rule.context, partial + begin, partial + p * split.outputs + begin, end - begin);
    rule.result(rule.context, partial + begin, m, results, end - begin);
    put(y, out, begin, end - begin, results);
  });
  return OG_OK;
}

/** y = rule over the last `axes` axes of x; shifts: one number per output, or null. */
template <class C, class R>
int32_t reduce_all(const R& with, const og_view& x, int axes, const C* shifts, const og_view& y) {
  typedef typename Partial<C>::type P;
  const Split split(x, axes);
  if (split.outputs == 0) return OG_OK;
  const Rule<C> rule{&with,
                     (C)R::identity,
                     reduce_block<C, R>,
                     accumulate_rows<C, R>,
                     combine_all<C, R, P>,
                     combine_all<C, R, C>,
                     finish_all<C, R>};
  return goes_down_columns(split) ? reduce_columns<C>(rule, split, shifts, y) : reduce_rows<C>(rule, split, shifts, y);
}

}  // namespace
}  // namespace og
#endif
