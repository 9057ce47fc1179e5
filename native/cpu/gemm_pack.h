/**
 * Packing: a strided operand becomes panels of P rows, laid out `[panel][k][P]`, converted to float32, the rows that
 * the last panel lacks set to zero. "Row" is a row of A or a column of B: whatever the panel is P wide in.
 *
 * Three ways in: rows adjacent in memory (copied, several panels at a time so that each visit to a line of the source
 * uses all of it), k adjacent in memory (transposed in registers), anything else or 16-bit (staged through L1, then
 * as before).
 */
#ifndef OMNIGRAD_CPU_GEMM_PACK_H
#define OMNIGRAD_CPU_GEMM_PACK_H

#include "gemm_tile.h"
#include "stage.h"

namespace og {
namespace {

/** A matrix that is no strided array of floats (quantised weights): fill writes n elements of a line, from `first` on,
 * as floats. n and first are multiples of 4, but for the end of a line. */
struct LineSource {
  void (*fill)(const LineSource* self, int64_t line, int64_t first, int64_t n, float* to);
};

/** A matrix operand seen from packing: `row` strides along the panel's width, `k` along the sum. Strides count
 * elements. With `lines` it starts at (row0, k0) of a LineSource; the one of row and k that is 1 runs along its lines.
 */
struct Operand {
  const void* data;
  int32_t dtype;
  int64_t row, k;
  const LineSource* lines = nullptr;
  int64_t row0 = 0, k0 = 0;
};

inline Operand advance(const Operand& from, int64_t rows, int64_t k) {
  Operand to = from;
  if (from.lines) {
    to.row0 += rows;
    to.k0 += k;
    return to;
  }
  to.data = static_cast<const char*>(from.data) + (rows * from.row + k * from.k) * dtype_size(from.dtype);
  return to;
}

/** Steps of k that one register transpose yields: whole cache lines where rows may share an L1 set (strides of 4 KiB).
 */
constexpr int kBlockK = kLanes;

/** Lane i of to[j] receives lane j of r[i]. */
OG_INLINE void transpose_lanes(const Vf (&r)[kBlockK], Vf (&to)[kBlockK]) {
#if OG_LANES == 16
  __m512 t[16], s[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
    t[2 * i] = _mm512_unpacklo_ps((__m512)r[2 * i], (__m512)r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_ps((__m512)r[2 * i], (__m512)r[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int g = 0; g < 16; g += 4) {  // lane L of s[g + c] holds column 4·L + c of rows g … g+3
    s[g] = _mm512_shuffle_ps(t[g], t[g + 2], 0x44);
    s[g + 1] = _mm512_shuffle_ps(t[g], t[g + 2], 0xEE);
    s[g + 2] = _mm512_shuffle_ps(t[g + 1], t[g + 3], 0x44);
    s[g + 3] = _mm512_shuffle_ps(t[g + 1], t[g + 3], 0xEE);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; c++) {
    const __m512 u0 = _mm512_shuffle_f32x4(s[c], s[c + 4], 0x44), u1 = _mm512_shuffle_f32x4(s[c], s[c + 4], 0xEE);
    const __m512 u2 = _mm512_shuffle_f32x4(s[c + 8], s[c + 12], 0x44),
                 u3 = _mm512_shuffle_f32x4(s[c + 8], s[c + 12], 0xEE);
    to[c] = (Vf)_mm512_shuffle_f32x4(u0, u2, 0x88);
    to[c + 4] = (Vf)_mm512_shuffle_f32x4(u0, u2, 0xDD);
    to[c + 8] = (Vf)_mm512_shuffle_f32x4(u1, u3, 0x88);
    to[c + 12] = (Vf)_mm512_shuffle_f32x4(u1, u3, 0xDD);
  }
#elif OG_LANES == 8
  __m256 t[8], s[8];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    t[2 * i] = _mm256_unpacklo_ps((__m256)r[2 * i], (__m256)r[2 * i + 1]);
    t[2 * i + 1] = _mm256_unpackhi_ps((__m256)r[2 * i], (__m256)r[2 * i + 1]);
  }
#pragma GCC unroll 2
  for (int h = 0; h < 2; h++) {
    s[4 * h] = _mm256_shuffle_ps(t[4 * h], t[4 * h + 2], 0x44);
    s[4 * h + 1] = _mm256_shuffle_ps(t[4 * h], t[4 * h + 2], 0xEE);
    s[4 * h + 2] = _mm256_shuffle_ps(t[4 * h + 1], t[4 * h + 3], 0x44);
    s[4 * h + 3] = _mm256_shuffle_ps(t[4 * h + 1], t[4 * h + 3], 0xEE);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    to[i] = (Vf)_mm256_permute2f128_ps(s[i], s[i + 4], 0x20);
    to[i + 4] = (Vf)_mm256_permute2f128_ps(s[i], s[i + 4], 0x31);
  }
#else
  const Vf t0 = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5), t1 = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7);
  const Vf t2 = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5), t3 = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
  to[0] = __builtin_shufflevector(t0, t2, 0, 1, 4, 5);
  to[1] = __builtin_shufflevector(t0, t2, 2, 3, 6, 7);
  to[2] = __builtin_shufflevector(t1, t3, 0, 1, 4, 5);
  to[3] = __builtin_shufflevector(t1, t3, 2, 3, 6, 7);
#endif
}

/** rows[i] points at n ≤ kBlockK floats of row i < count; lane i of to[j] receives the j-th of them. */
OG_INLINE void transpose_block(const float* const* rows, int count, int n, Vf (&to)[kBlockK]) {
  Vf r[kBlockK];
#pragma GCC unroll 16
  for (int i = 0; i < kBlockK; i++) {
#if OG_LANES == 16
    r[i] = i < count ? load_first(rows[i], n) : Vf{};
#else
    r[i] = i < count ? (n == kBlockK ? load(rows[i]) : load_first(rows[i], n)) : Vf{};
#endif
  }
  transpose_lanes(r, to);
}

#if OG_LANES == 16

/** Panels of six words a step lie denser than vectors: rows of eight words in, three vectors of 16 words out. */
constexpr int kSix = 6, kSixSteps = 8;

/** Vector V of eight steps of six rows, from pairs of rows. */
template <int V>
OG_INLINE __m512 six_vector(__m512 r01, __m512 r23, __m512 r45) {
  struct Lanes {
    int32_t first[16], last[16];
    __mmask16 of_last;
  };
  static constexpr Lanes lanes = [] {
    Lanes l{};
    for (int i = 0; i < 16; i++) {
      const int word = 16 * V + i, row = word % kSix, step = word / kSix;
      l.first[i] = row < 4 ? row / 2 * 16 + row % 2 * 8 + step : 0;
      l.last[i] = row % 2 * 8 + step;
      if (row >= 4) l.of_last = (__mmask16)(l.of_last | 1u << i);
    }
    return l;
  }();
  const __m512 v = _mm512_permutex2var_ps(r01, _mm512_loadu_si512(lanes.first), r23);
  return _mm512_mask_permutexvar_ps(v, lanes.of_last, _mm512_loadu_si512(lanes.last), r45);
}

/** One panel of `count` ≤ 6 rows: row(i, step, n) are n ≤ 8 words of row i from a step on, as a vector of eight. */
template <class Row>
OG_INLINE void pack_six(const Row& row, int count, int64_t steps, float* to) {
  const auto two = [&](int i, int64_t step, int n) {
    const __m256 a = i < count ? row(i, step, n) : _mm256_setzero_ps();
    const __m256 b = i + 1 < count ? row(i + 1, step, n) : _mm256_setzero_ps();
    return _mm512_insertf32x8(_mm512_castps256_ps512(a), b, 1);
  };
  for (int64_t step = 0; step < steps; step += kSixSteps, to += kSix * kSixSteps) {
    const int n = steps - step < kSixSteps ? (int)(steps - step) : kSixSteps;
    const __m512 r01 = two(0, step, n), r23 = two(2, step, n), r45 = two(4, step, n);
    const Vf v0 = (Vf)six_vector<0>(r01, r23, r45), v1 = (Vf)six_vector<1>(r01, r23, r45),
             v2 = (Vf)six_vector<2>(r01, r23, r45);
    store_first(to, v0, lanes_left(n * kSix, 0));
    store_first(to + kLanes, v1, lanes_left(n * kSix, kLanes));
    store_first(to + 2 * kLanes, v2, lanes_left(n * kSix, 2 * kLanes));
  }
}

/** Words of one step of a panel of six, the first n of eight from memory; without `last` two more are overwritten. */
OG_INLINE __m256 load_six(const float* from, int n) { return _mm256_maskz_loadu_ps((__mmask8)((1u << n) - 1u), from); }
OG_INLINE void store_six(float* to, __m256 words, bool last) {
  if (last)
    _mm256_mask_storeu_ps(to, 0x3f, words);
  else
    _mm256_storeu_ps(to, words);
}

#endif

/** `count` ≤ kLanes rows whose k is dense go to lanes [lane, lane+count) of a panel; further lanes up to P become zero.
 */
template <int P>
OG_INLINE void pack_group(const float* const* rows, int count, int64_t kc, int lane, float* to) {
  const int width = P - lane < kLanes ? P - lane : kLanes;
  const float* at[kLanes];
  for (int i = 0; i < count; i++) at[i] = rows[i];
  for (int64_t k = 0; k < kc; k += kBlockK) {
    const int n = kc - k < kBlockK ? (int)(kc - k) : kBlockK;
    Vf column[kBlockK];
    if (n == kBlockK && count >= width)
      transpose_block(at, width, kBlockK, column);
    else
      transpose_block(at, count, n, column);
    float* target = to + k * P + lane;
    if (width == kLanes) {
#pragma GCC unroll 16
      for (int j = 0; j < kBlockK; j++)
        if (j < n) store(target + j * P, column[j]);
    } else if (P < kLanes && n == kBlockK && k + n < kc) {
      // the lanes beyond the panel fall into the next step of k, which is written afterwards
#pragma GCC unroll 16
      for (int j = 0; j < kBlockK; j++) store(target + j * P, column[j]);
    } else {
#pragma GCC unroll 16
      for (int j = 0; j < kBlockK; j++)
        if (j < n) store_first(target + j * P, column[j], width);
    }
    for (int i = 0; i < count; i++) at[i] += n;
  }
}

/** One panel of `count` rows, `stride` apart, each with k dense. */
template <int P>
void pack_transposed(const float* from, int64_t stride, int count, int64_t kc, float* to) {
#if OG_LANES == 16
  if constexpr (P == kSix) {
    const auto row = [&](int i, int64_t k, int n) { return load_six(from + i * stride + k, n); };
    return count == kSix ? pack_six(row, kSix, kc, to) : pack_six(row, count, kc, to);
  }
#endif
#pragma GCC unroll 4
  for (int lane = 0; lane < P; lane += kLanes) {
    const float* rows[kLanes];
    const int here = count - lane < kLanes ? (count > lane ? count - lane : 0) : kLanes;
    for (int i = 0; i < here; i++) rows[i] = from + (lane + i) * stride;
    pack_group<P>(rows, here, kc, lane, to);
  }
}

/** A run of rows adjacent in memory, for one k: spread over the panels. */
template <int P>
OG_INLINE void spread_row(const float* from, int64_t rows, int64_t panel_size, float* to, bool last) {
#if OG_LANES == 16
  if constexpr (P == kSix) {
    for (; rows >= P; rows -= P, from += P, to += panel_size) store_six(to, load_six(from, P), last);
    if (rows > 0) store_six(to, load_six(from, (int)rows), last);
    return;
  }
#endif
  for (; rows >= P; rows -= P, from += P, to += panel_size) {
#pragma GCC unroll 8
    for (int j = 0; j < P; j += kLanes) {
      if (P - j >= kLanes)
        store(to + j, load(from + j));
      else if (P < kLanes && !last)
        store(to + j, load_first(from + j, P - j));
      else
        store_first(to + j, load_first(from + j, P - j), P - j);
    }
  }
  if (rows == 0) return;
#pragma GCC unroll 8
  for (int j = 0; j < P; j += kLanes)
    store_first(to + j, load_first(from + j, lanes_left(rows, j)), P - j < kLanes ? P - j : kLanes);
}

constexpr int kSpread = 8;       // panels filled together from adjacent rows
constexpr int64_t kStageK = 64;  // steps of k staged at a time

/** pack() of a LineSource: lines are staged in L1, then spread or transposed like floats. */
template <int P>
void pack_lines(const Operand& from, int64_t rows, int64_t kc, float* to) {
  const int64_t panel = kc * P;
  const LineSource* lines = from.lines;
  if (from.row == 1) {
    alignas(64) float staged[kSpread * P];
    for (int64_t r = 0; r < rows; r += kSpread * P) {
      const int64_t here = rows - r < kSpread * P ? rows - r : kSpread * P;
      for (int64_t k = 0; k < kc; k++) {
        lines->fill(lines, from.k0 + k, from.row0 + r, here, staged);
        spread_row<P>(staged, here, panel, to + r / P * panel + k * P, k + 1 == kc);
      }
    }
    return;
  }
  alignas(64) float staged[P * kStageK];
  for (int64_t r = 0; r < rows; r += P, to += panel) {
    const int count = rows - r < P ? (int)(rows - r) : P;
    for (int64_t k = 0; k < kc; k += kStageK) {
      const int64_t n = kc - k < kStageK ? kc - k : kStageK;
      for (int i = 0; i < count; i++) lines->fill(lines, from.row0 + r + i, from.k0 + k, n, staged + i * kStageK);
      pack_transposed<P>(staged, kStageK, count, n, to + k * P);
    }
  }
}

/** Rows [0, rows) and steps [0, kc) of `from`, as panels. */
template <int P>
void pack(const Operand& from, int64_t rows, int64_t kc, float* to) {
  if (from.lines) return pack_lines<P>(from, rows, kc, to);
  const int64_t panel = kc * P;
  const int64_t size = dtype_size(from.dtype);
  const char* base = static_cast<const char*>(from.data);
  const bool is_f32 = from.dtype == OG_F32;
  if (from.row == 1 || (from.row == 0 && from.k != 1)) {
    for (int64_t r = 0; r < rows; r += kSpread * P) {
      const int64_t here = rows - r < kSpread * P ? rows - r : kSpread * P;
      const char* source = base + r * from.row * size;
      float* target = to + r / P * panel;
      alignas(64) float staged[kSpread * P];
      for (int64_t k = 0; k < kc; k++) {
        const char* line = source + k * from.k * size;
        const float* floats = reinterpret_cast<const float*>(line);
        // the next panels are made of what follows here: pieces are too short for hardware to see a stream from memory
        const int64_t bytes = from.row == 1 ? here * size : 0;
        for (int64_t j = 0; j < bytes; j += 64) __builtin_prefetch(line + bytes + j, 0, 2);
        if (!is_f32 || from.row != 1) {
          OG_ISA::load_elements(line, from.dtype, from.row, here, staged);
          floats = staged;
        }
        spread_row<P>(floats, here, panel, target + k * P, k + 1 == kc);
      }
    }
    return;
  }
  for (int64_t r = 0; r < rows; r += P, to += panel) {
    const int count = rows - r < P ? (int)(rows - r) : P;
    const char* source = base + r * from.row * size;
    if (is_f32 && from.k == 1) {
      pack_transposed<P>(reinterpret_cast<const float*>(source), from.row, count, kc, to);
      continue;
    }
    alignas(64) float staged[P * kStageK];
    for (int64_t k = 0; k < kc; k += kStageK) {
      const int64_t n = kc - k < kStageK ? kc - k : kStageK;
      for (int i = 0; i < count; i++)
        OG_ISA::load_elements(source + (i * from.row + k * from.k) * size, from.dtype, from.k, n, staged + i * kStageK);
      pack_transposed<P>(staged, kStageK, count, n, to + k * P);
    }
  }
}

}  // namespace
}  // namespace og
#endif
