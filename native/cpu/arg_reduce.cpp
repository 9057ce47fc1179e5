/**
 * argmax and argmin over the last attrs[0] axes: the position (int64, row-major in the reduced axes) of the extreme
 * element, the first of equals. NaN beats everything in both, as in PyTorch. Nothing to reduce is refused.
 * Algorithm: the extreme value of a block of kBlock elements is found with vectors; only when it beats the best so far
 * is the block searched for its position. Down columns (reduce.h) value and position are kept per output. No
 * arithmetic, so exact. Parallel split: as reduce.h; pieces are compared in order.
 */
#include "reduce.h"

namespace og {
namespace OG_ISA {
namespace {

template <class C>
inline bool is_nan(C x) {
  return x != x;
}

struct Max {
  template <class C>
  static bool beats(C a, C b) {
    return a > b || (is_nan(a) && !is_nan(b));
  }
  template <class C>
  C combine(C a, C b) const {
    return a > b || is_nan(a) ? a : b;
  }
};
struct Min {
  template <class C>
  static bool beats(C a, C b) {
    return a < b || (is_nan(a) && !is_nan(b));
  }
  template <class C>
  C combine(C a, C b) const {
    return a < b || is_nan(a) ? a : b;
  }
};

#ifndef OG_IS_REFERENCE
OG_INLINE Vf extreme(Max, Vf a, Vf b) { return max_nan(a, b); }
OG_INLINE Vf extreme(Min, Vf a, Vf b) { return min_nan(a, b); }
OG_INLINE float extreme_lane(Max, Vf a) { return max_lane(a); }
OG_INLINE float extreme_lane(Min, Vf a) { return min_lane(a); }
#endif

template <class C>
struct Best {
  C value;
  int64_t index;
};

template <class C, class R>
inline C block_extreme(R rule, const C* x, int64_t n) {
#ifndef OG_IS_REFERENCE
  if constexpr (std::is_same<C, float>::value) {
    if (n >= kLanes) {
      Vf a = load(x), b = load(x + n - kLanes);  // the last vector overlaps: extremes may see an element twice
      int64_t i = kLanes;
      for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
        a = extreme(rule, a, load(x + i));
        b = extreme(rule, b, load(x + i + kLanes));
      }
      if (i + kLanes <= n) a = extreme(rule, a, load(x + i));
      return extreme_lane(rule, extreme(rule, a, b));
    }
  }
#endif
  C best = x[0];
  for (int64_t i = 1; i < n; i++) best = rule.combine(best, x[i]);
  return best;
}

template <class C, class R>
Best<C> search(R rule, const Loop<1>& loop, const og_view& base, int64_t begin, int64_t end) {
  Best<C> best = {C(0), -1};
  alignas(64) C buffer[kBlock];
  for (int64_t at = begin; at < end; at += kBlock) {
    const int64_t n = end - at < kBlock ? end - at : kBlock;
    const C* x = stage_in<C>(loop, 0, base, at, n, buffer);
    const C value = block_extreme<C>(rule, x, n);
    if (best.index >= 0 && !R::beats(value, best.value)) continue;
    int64_t i = 0;
    while (is_nan(value) ? !is_nan(x[i]) : x[i] != value) i++;
    best = {value, at + i};
  }
  return best;
}

template <class C, class R>
int32_t search_rows(R rule, const Split& split, const og_view& y) {
  const Loop<1> loop = loop_of(split.reduced), kept = loop_of(split.kept), out = loop_of(y);
  const int64_t m = split.length, pieces = m > kPiece ? (m + kPiece - 1) / kPiece : 1;
  ScratchFrame frame;
  Best<C>* partial = nullptr;
  if (pieces > 1) {
    partial = frame.take<Best<C>>(split.outputs * pieces);
    OG_SCRATCH(partial, "partial results");
    parallel_for(split.outputs * pieces, [&](int64_t task) {
      const int64_t begin = task % pieces * kPiece;
      const og_view base = moved(split.reduced, offset_of(split.kept, task / pieces, split.kept.rank));
      partial[task] = search<C>(rule, loop, base, begin, begin + kPiece < m ? begin + kPiece : m);
    });
  }
  parallel_ranges(split.outputs, pieces > 1 ? kBlock : grain_for(m, kPiece), [&](int64_t begin, int64_t end) {
    int64_t results[kBlock];
    for (int64_t at = begin; at < end; at += kBlock) {
      const int64_t n = end - at < kBlock ? end - at : kBlock;
      if (pieces > 1) {
        for (int64_t k = 0; k < n; k++) {
          Best<C> best = partial[(at + k) * pieces];
          for (int64_t p = 1; p < pieces; p++) {
            const Best<C>& other = partial[(at + k) * pieces + p];
            if (R::beats(other.value, best.value)) best = other;
          }
          results[k] = best.index;
        }
      } else {
        int64_t k = 0;
        kept.lines(0, at, n, [&](int64_t offset, int64_t length, int64_t stride) {
          for (int64_t i = 0; i < length; i++)
            results[k++] = search<C>(rule, loop, moved(split.reduced, offset + i * stride), 0, m).index;
        });
      }
      put(y, out, at, n, results);
    }
  });
  return OG_OK;
}

/** best[j] and its row, after row r. */
template <class C, class R>
inline void update(const C* row, int64_t n, int64_t r, C* best, int32_t* position) {
  int64_t j = 0;
#ifndef OG_IS_REFERENCE
  if constexpr (std::is_same<C, float>::value) {
    for (; j + kLanes <= n; j += kLanes) {
      const Vf x = load(row + j), old = load(best + j);
      const Vi better = (std::is_same<R, Max>::value ? x > old : x < old) | ((x != x) & (old == old));
      ViUnaligned* at = reinterpret_cast<ViUnaligned*>(position + j);
      store(best + j, select(better, x, old));
      *at = (better & set1((int32_t)r)) | (~better & (Vi)*at);
    }
  }
#endif
  for (; j < n; j++) {
    if (!R::beats(row[j], best[j])) continue;
    best[j] = row[j];
    position[j] = (int32_t)r;
  }
}

template <class C, class R>
int32_t search_columns(const Split& split, const og_view& y) {
  constexpr int64_t kWidth = 256;
  const Loop<1> loop = loop_of(split.reduced), out = loop_of(y);
  const int64_t m = split.length, width = split.kept.shape[split.kept.rank - 1], tiles = (width + kWidth - 1) / kWidth;
  const int64_t work = m * (width < kWidth ? width : kWidth);
  parallel_ranges(split.outputs / width * tiles, grain_for(work, kPiece), [&](int64_t first, int64_t last) {
    alignas(64) C best[kWidth], row[kWidth];
    alignas(64) int32_t position[kWidth];
    int64_t results[kWidth];
    for (int64_t task = first; task < last; task++) {
      const int64_t tile = task % tiles, outer = task / tiles, column = tile * kWidth;
      const int64_t n = width - column < kWidth ? width - column : kWidth;
      const og_view base = moved(split.kept, offset_of(split.kept, outer, split.kept.rank - 1) + column);
      int64_t r = 0;
      loop.lines(0, 0, m, [&](int64_t offset, int64_t length, int64_t stride) {
        for (int64_t i = 0; i < length; i++, r++) {
          read_run(base, offset + i * stride, 1, n, row);
          if (r == 0) {
            std::memcpy(best, row, (size_t)n * sizeof(C));
            for (int64_t j = 0; j < n; j++) position[j] = 0;
          } else {
            update<C, R>(row, n, r, best, position);
          }
        }
      });
      for (int64_t j = 0; j < n; j++) results[j] = position[j];
      put(y, out, outer * width + column, n, results);
    }
  });
  return OG_OK;
}

template <class R>
int32_t arg_reduce(const og_call* call) {
  const og_view &x = call->inputs[0], &y = call->outputs[0];
  const int axes = (int)call->attrs[0];
  OG_TRY(check_reduction(call, axes));
  OG_REQUIRE(y.dtype == OG_I64, "argmax and argmin give int64");
  const Split split(x, axes);
  if (split.outputs == 0) return OG_OK;
  OG_REQUIRE(split.length > 0, "nothing to take the extreme value of");
  return with_compute(x.dtype, [&](auto type) {
    typedef decltype(type) C;
    return goes_down_columns(split) && split.length <= 0x7fffffff ? search_columns<C, R>(split, y)
                                                                  : search_rows<C>(R{}, split, y);
  });
}

}  // namespace

int32_t kernel_argmax(const og_call* call) { return arg_reduce<Max>(call); }
int32_t kernel_argmin(const og_call* call) { return arg_reduce<Min>(call); }

}  // namespace OG_ISA
}  // namespace og
