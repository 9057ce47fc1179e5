/**
 * Register tiles of the attention kernels. Scores are kept transposed: a strip of kStrip queries lies along the lanes,
 * keys along the rows. Then keys and values are read by broadcast, in the layout they have (no packing); row maxima
 * and sums are plain lane-wise operations; and the probabilities already have the layout that the next product wants.
 */
#ifndef OMNIGRAD_CPU_ATTENTION_TILE_H
#define OMNIGRAD_CPU_ATTENTION_TILE_H

#include <utility>

#include "attention_common.h"
#include "math.h"

namespace og {
namespace {

#if OG_LANES == 16 || defined(__aarch64__)
constexpr int kRegs = 8;  // rows of a register tile: 8×2 accumulators of 32 registers
#else
constexpr int kRegs = 6;  // 6×2 of 16
#endif
constexpr int kVecs = 2;
constexpr int kStrip = kVecs * kLanes;
constexpr float kLog2e = 1.44269504088896341f, kLn2 = 0.693147180559945309f;

OG_INLINE int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

OG_INLINE bool any(Vi mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_ps((__m256)mask) != 0;
#elif defined(__x86_64__)
  return _mm_movemask_ps((__m128)mask) != 0;
#else
  return vmaxvq_u32((uint32x4_t)mask) != 0;
#endif
}

OG_INLINE Vi lane_index() {
  Vi v{};
  for (int i = 0; i < kLanes; i++) v[i] = i;
  return v;
}

/**
 * 2^x for x ≤ 0 or -∞; below -126 it is 0, NaN stays NaN. Degree-5 minimax polynomial on [-½, ½], relative error
 * 1.7e-7. +∞ and large x never occur: the row maximum has been subtracted.
 */
OG_INLINE Vf exp2_nonpositive(Vf x) {
#if defined(__AVX512F__)
  x = (Vf)_mm512_max_ps(_mm512_set1_ps(-200.f), (__m512)x);  // keeps NaN, its second operand
  const Vf n = (Vf)_mm512_roundscale_ps((__m512)x, 0);
#else
  const Vf magic = set1(12582912.f);  // 1.5 · 2^23: the integer part ends up in the low bits
  const Vf shifted = x + magic;
  const Vf n = shifted - magic;
#endif
  const Vf r = x - n;
  Vf p = set1(0.00132647273f);
  p = fma(p, r, set1(0.00967151299f));
  p = fma(p, r, set1(0.0555073358f));
  p = fma(p, r, set1(0.240222424f));
  p = fma(p, r, set1(0.693147004f));
  p = fma(p, r, set1(1.f));
#if defined(__AVX512F__)
  return (Vf)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
  p = p * (Vf)(((Vu)shifted << 23) + 0x3f800000u);  // unsigned: below -126 and for NaN any bits come, and go unused
  return as_float(bits(p) & ~(Vi)(x < -126.f));
#endif
}

/** Lanes l with bit S clear come from a (High: from a's lane l+S), the others from b's lane l-S (High: b's lane l). */
template <int S, bool High, int... L>
OG_INLINE Vf exchange(Vf a, Vf b, std::integer_sequence<int, L...>) {
  return __builtin_shufflevector(a, b, ((L & S) ? (High ? L + kLanes : L - S + kLanes) : (High ? L + S : L))...);
}
typedef std::make_integer_sequence<int, kLanes> Lanes;

template <int S>
OG_INLINE void transpose_step(Vf (&r)[kLanes]) {
  if constexpr (S < kLanes) {
    for (int i = 0; i < kLanes; i++) {
      if (i & S) continue;
      const Vf a = r[i], b = r[i | S];
      r[i] = exchange<S, false>(a, b, Lanes());
      r[i | S] = exchange<S, true>(a, b, Lanes());
    }
    transpose_step<2 * S>(r);
  }
}
/** r[i][l] ↔ r[l][i]. */
OG_INLINE void transpose(Vf (&r)[kLanes]) { transpose_step<1>(r); }

template <int S, int N>
OG_INLINE void fold_step(Vf (&r)[kLanes]) {
  if constexpr (N > 1) {
    for (int i = 0; i < N / 2; i++)
      r[i] = exchange<S, false>(r[2 * i], r[2 * i + 1], Lanes()) + exchange<S, true>(r[2 * i], r[2 * i + 1], Lanes());
    fold_step<2 * S, N / 2>(r);
  }
}
/** Lane i of the result is the sum of r[i]'s lanes. */
OG_INLINE Vf sum_each(Vf (&r)[kLanes]) {
  fold_step<1, kLanes>(r);
  return r[0];
}

/**
 * C[r][·] += Σ_k a(r, k) · B[k][·] for R rows and NV vectors; a(r, k) is a[r·lda + k] (ByRow) or a[k·lda + r].
 */
template <int R, int NV, bool ByRow>
__attribute__((noinline)) void micro(int64_t depth, const float* a, int64_t lda, const float* b, int64_t ldb, float* c,
                                     int64_t ldc, bool add) {
  Vf acc[R][NV];
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) acc[r][v] = add ? load(c + r * ldc + v * kLanes) : Vf{};
  for (int64_t k = 0; k < depth; k++) {
    Vf right[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) right[v] = load(b + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      const Vf left = set1(ByRow ? a[r * lda] : a[r]);
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) acc[r][v] = fma(left, right[v], acc[r][v]);
    }
    a += ByRow ? 1 : lda;
    b += ldb;
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) store(c + r * ldc + v * kLanes, acc[r][v]);
}

template <int NV, bool ByRow>
void micro_tail(int64_t rows, int64_t depth, const float* a, int64_t lda, const float* b, int64_t ldb, float* c,
                int64_t ldc, bool add) {
  switch (rows) {
    case 1:
      micro<1, NV, ByRow>(depth, a, lda, b, ldb, c, ldc, add);
      break;
    case 2:
      micro<2, NV, ByRow>(depth, a, lda, b, ldb, c, ldc, add);
      break;
    case 3:
      micro<3, NV, ByRow>(depth, a, lda, b, ldb, c, ldc, add);
      break;
    case 4:
      micro<4, NV, ByRow>(depth, a, lda, b, ldb, c, ldc, add);
      break;
    case 5:
      micro<5, NV, ByRow>(depth, a, lda, b, ldb, c, ldc, add);
      break;
#if OG_LANES == 16 || defined(__aarch64__)
    case 6:
      micro<6, NV, ByRow>(depth, a, lda, b, ldb, c, ldc, add);
      break;
    case 7:
      micro<7, NV, ByRow>(depth, a, lda, b, ldb, c, ldc, add);
      break;
#endif
    default:
      break;
  }
}

// Rows a register tile fetches ahead, and whereto: on AVX2, whose tiles are half as long, one into L2.
constexpr int64_t kAheadRows = OG_LANES == 8 ? 1 : 4;
constexpr int kAheadInto = OG_LANES == 8 ? 2 : 3;

/**
 * Rows that will be needed soon. Rows of one head lie far apart in a [B, T, 3, H, D] buffer, where hardware prefetchers
 * do not follow; so each register tile fetches a few of them.
 */
struct Ahead {
  struct Part {
    const char* data;
    int64_t row, rows, lines;
  };
  Part parts[6];
  int count = 0, current = 0;

  void add(const Head& head, int64_t from, int64_t n, int64_t width) {
    if (n <= 0 || head.column != 1) return;
    const char* first = head.at(from);
    const int64_t offset = reinterpret_cast<uintptr_t>(first) & 63;
    parts[count++] = {first - offset, head.row * head.size, n, (offset + width * head.size + 63) / 64};
  }
  OG_INLINE void step(int64_t rows) {
    for (; rows > 0 && current < count; rows--) {
      Part& part = parts[current];
      for (int64_t i = 0; i < part.lines; i++) __builtin_prefetch(part.data + i * 64, 0, kAheadInto);
      part.data += part.row;
      if (--part.rows == 0) current++;
    }
  }
};

/** The product for any number of rows, NV vectors wide. */
template <int NV, bool ByRow>
inline void multiply(int64_t rows, int64_t depth, const float* a, int64_t lda, const float* b, int64_t ldb, float* c,
                     int64_t ldc, bool add, Ahead* ahead = nullptr) {
  int64_t r = 0, whole = rows / kRegs * kRegs;
  const bool halves = OG_LANES == 8 && rows > kRegs && rows % kRegs == 2;  // 4 + 4, not 6 + 2: two wait for each other
  if (halves) whole -= kRegs;
  for (; r < whole; r += kRegs) {
    micro<kRegs, NV, ByRow>(depth, ByRow ? a + r * lda : a + r, lda, b, ldb, c + r * ldc, ldc, add);
    if (ahead) ahead->step(kAheadRows);
  }
  for (int64_t n = halves ? 4 : rows - r; r < rows; r += n)
    micro_tail<NV, ByRow>(n, depth, ByRow ? a + r * lda : a + r, lda, b, ldb, c + r * ldc, ldc, add);
}

/**
 * Rows [from, from+n) of a head as float rows of `width` padded with zeros to `padded`; rows beyond n up to `rows` are
 * zero.
 */
inline void stage_rows(const Head& head, int64_t from, int64_t n, int64_t rows, int64_t width, int64_t padded,
                       float* to) {
  for (int64_t i = 0; i < rows; i++, to += padded) {
    int64_t filled = 0;
    if (i < n) {
      load_row(head, from + i, 0, width, to);
      filled = width;
    }
    for (; filled < padded; filled++) to[filled] = 0.f;
  }
}

/** to[d][lane] = factor · from[lane][d] for kStrip rows of `padded` (a multiple of kLanes) elements; ldt ≥ kStrip. */
inline void transpose_strip(const float* from, int64_t padded, float factor, float* to, int64_t ldt) {
  for (int v = 0; v < kVecs; v++)
    for (int64_t d = 0; d < padded; d += kLanes) {
      Vf r[kLanes];
      for (int i = 0; i < kLanes; i++) r[i] = load(from + (v * kLanes + i) * padded + d) * factor;
      transpose(r);
      for (int i = 0; i < kLanes; i++) store(to + (d + i) * ldt + v * kLanes, r[i]);
    }
}

/** to[lane][d] = from[d][lane] · factor[lane] for kStrip lanes; `padded` rows d; rows of `to` are `padded` long. */
inline void transpose_back(const float* from, int64_t ldf, int64_t padded, const float* factor, float* to) {
  for (int v = 0; v < kVecs; v++) {
    const Vf f = load(factor + v * kLanes);
    for (int64_t d = 0; d < padded; d += kLanes) {
      Vf r[kLanes];
      for (int i = 0; i < kLanes; i++) r[i] = load(from + (d + i) * ldf + v * kLanes) * f;
      transpose(r);
      for (int i = 0; i < kLanes; i++) store(to + (v * kLanes + i) * padded + d, r[i]);
    }
  }
}

/** Keys [from, from+n): in place when they are float rows already, otherwise converted to `buffer`. */
struct Rows {
  const float* data;
  int64_t stride;
};
inline Rows key_rows(const Head& head, int64_t from, int64_t n, int64_t width, float* buffer) {
  if (head.dtype == OG_F32 && (head.column == 1 || width == 1))
    return {reinterpret_cast<const float*>(head.at(from)), head.row};
  for (int64_t i = 0; i < n; i++) load_row(head, from + i, 0, width, buffer + i * width);
  return {buffer, width};
}

/**
 * The same rows, copied to `buffer` where they lie far apart (as heads of a [B, T, 3, H, D] buffer do: each in another
 * page, and in few sets of the caches), for products that go down their columns several times. Measured on AVX2 only.
 */
inline Rows near_rows(const Rows& rows, int64_t n, int64_t width, float* buffer) {
  if (OG_LANES != 8 || rows.stride < 2 * width || width % kLanes != 0) return rows;
  for (int64_t i = 0; i < n; i++)
    for (int64_t d = 0; d < width; d += kLanes) store(buffer + i * width + d, load(rows.data + i * rows.stride + d));
  return {buffer, width};
}

OG_INLINE Vf add_mask(Vf score, Vf mask) {
  const Vf never = set1(-__builtin_inff());
  return select(mask == never, never, fma(mask, set1(kLog2e), score));
}

/**
 * Adds the mask to scores[j][lane], j in [begin, end) counted from key j0, of a strip whose first query is t0.
 * `stage` holds kStrip rows of `capacity` (a multiple of kLanes, at least end rounded up).
 */
__attribute__((noinline)) inline void apply_mask(const Head& mask, int64_t t0, int64_t count, int64_t j0, int64_t begin,
                                                 int64_t end, float* scores, int64_t lds, float* stage,
                                                 int64_t capacity) {
  if (mask.row == 0) {  // one row for all queries: padding masks
    load_mask_row(mask, 0, j0 + begin, end - begin, stage);
    for (int64_t j = begin; j < end; j++)
      for (int v = 0; v < kVecs; v++) {
        float* at = scores + j * lds + v * kLanes;
        store(at, add_mask(load(at), set1(stage[j - begin])));
      }
    return;
  }
  for (int64_t i = 0; i < kStrip; i++)  // lanes without a query repeat the last one
    load_mask_row(mask, t0 + (i < count ? i : count - 1), j0 + begin, end - begin, stage + i * capacity);
  for (int v = 0; v < kVecs; v++)
    for (int64_t j = begin; j < end; j += kLanes) {
      Vf r[kLanes];
      for (int i = 0; i < kLanes; i++) r[i] = load(stage + (v * kLanes + i) * capacity + (j - begin));
      transpose(r);
      const int64_t n = end - j < kLanes ? end - j : kLanes;
      for (int64_t i = 0; i < n; i++) {
        float* at = scores + (j + i) * lds + v * kLanes;
        store(at, add_mask(load(at), r[i]));
      }
    }
}

/** Which rows of a score tile (keys j0 … j0+n-1) each vector of a strip's queries needs, and where it must compare. */
struct Reach {
  int64_t begin;          // first key any query of the strip may see
  int64_t end[kVecs];     // keys from here on are seen by none of the vector's queries
  int64_t open[kVecs];    // keys from here on are hidden from some of them (causal)
  int64_t closed[kVecs];  // keys before this are hidden from some of them (window)
};

inline Reach reach_of(const Problem& p, int64_t t0, int64_t count, int64_t j0, int64_t n) {
  const auto within = [&](int64_t j) { return j < j0 ? int64_t{0} : j - j0 > n ? n : j - j0; };
  Reach reach;
  reach.begin = within(p.key_begin(t0));
  for (int v = 0; v < kVecs; v++) {
    const int64_t first = t0 + v * kLanes;
    const int64_t left = count - v * kLanes;
    if (left <= 0) {
      reach.end[v] = reach.open[v] = reach.closed[v] = 0;
      continue;
    }
    const int64_t last = first + (left < kLanes ? left : kLanes) - 1;
    reach.end[v] = within(p.key_end(last));
    reach.open[v] = within(p.key_end(first));
    reach.closed[v] = within(p.key_begin(last));
  }
  return reach;
}

/** apply_reach for vector v where every query has a begin and an end of its own. */
__attribute__((noinline)) inline void apply_spans(const Problem& p, const Reach& reach, int64_t t0, int64_t j0, int v,
                                                  float* scores, int64_t lds) {
  const Vf never = set1(-__builtin_inff());
  const Vi begins = *reinterpret_cast<const ViUnaligned*>(p.begins + t0 + v * kLanes);
  const Vi ends = *reinterpret_cast<const ViUnaligned*>(p.ends + t0 + v * kLanes);
  const int64_t open = reach.open[v] > reach.begin ? reach.open[v] : reach.begin;
  const int64_t closed = reach.closed[v] < reach.end[v] ? reach.closed[v] : reach.end[v];
  for (int64_t j = reach.begin; j < closed; j++) {
    float* at = scores + j * lds + v * kLanes;
    store(at, select(begins > set1((int32_t)(j0 + j)), never, load(at)));
  }
  for (int64_t j = open; j < reach.end[v]; j++) {
    float* at = scores + j * lds + v * kLanes;
    store(at, select(ends <= set1((int32_t)(j0 + j)), never, load(at)));
  }
}

/** Sets scores beyond each query's reach to -∞ within [begin, end[v]). */
inline void apply_reach(const Problem& p, const Reach& reach, int64_t t0, int64_t j0, float* scores, int64_t lds) {
  const Vf never = set1(-__builtin_inff());
  for (int v = 0; v < kVecs; v++) {
    // relative to j0, query of lane l sees keys in [last - window + 1, last], last = t + keys - queries - j0
    const int64_t base = t0 + v * kLanes + p.keys - p.queries - j0;
    const int64_t from = reach.open[v] > reach.begin ? reach.open[v] : reach.begin;
    if (p.ends) {
      if (reach.end[v] > reach.begin) apply_spans(p, reach, t0, j0, v, scores, lds);
      continue;
    }
    for (int64_t j = from; j < reach.end[v]; j++) {
      float* at = scores + j * lds + v * kLanes;
      store(at, select(lane_index() < set1((int32_t)(j - base)), never, load(at)));
    }
    if (p.window > 0) {
      const int64_t end = reach.closed[v] < reach.end[v] ? reach.closed[v] : reach.end[v];
      for (int64_t j = reach.begin; j < end; j++) {
        float* at = scores + j * lds + v * kLanes;
        // hidden when j ≤ base + lane - window
        const int64_t limit = j - base + p.window;
        const int32_t limit32 = limit > kLanes ? kLanes : limit < -1 ? -1 : (int32_t)limit;
        store(at, select(lane_index() >= set1(limit32), never, load(at)));
      }
    }
  }
}

}  // namespace
}  // namespace og
#endif
