/**
 * Few rows of x against quantised weights, without ever storing a dequantised one: codes become floats in registers and
 * meet x in FMAs. Weights are read once, in four streams n/4 rows apart (gemm_small.h tells why), and used for up to
 * kCodeRows rows of x while they are in registers.
 *
 * 4-bit codes are unpacked as they lie, kLanes bytes at a time: the low halves are the even elements, the high halves
 * the odd ones, so x is laid out likewise once, before. AVX-512 looks its 16 possible weights up in a register that
 * holds them already scaled; elsewhere weight = code · scale + offset. Sums run along k in float lanes, as in
 * few_rows_dot.
 */
#ifndef OMNIGRAD_CPU_WEIGHT_ROWS_H
#define OMNIGRAD_CPU_WEIGHT_ROWS_H

#include "gemm_frame.h"
#include "weight_matrix.h"

namespace og {
namespace {

enum CodeKind { kInt4, kNormal4, kInt8, kUint8 };

constexpr int kCodeStreams = 4;
#if OG_LANES == 16 || defined(__aarch64__)
constexpr int kCodeRows = 4;
#else
constexpr int kCodeRows = 2;
#endif

/** Turns codes of one group into weights. */
template <int kKind>
struct Decoder {
  Vf scale, offset;  // AVX-512 and 4 bits: scale is the table of weights

  OG_INLINE void set(float s, float zero) {
#if OG_LANES == 16
    if (kKind == kNormal4) {
      scale = (Vf)_mm512_load_ps(kNf4) * s;
      return;
    }
    if (kKind == kInt4) {
      const Vf code = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
      scale = (code - zero) * s;
      return;
    }
#endif
    scale = set1(s);
    offset = set1(-zero * s);
  }

  /** Weights of the low and the high halves of kLanes bytes. */
  OG_INLINE void pair(const uint8_t* bytes, Vf& even, Vf& odd) const {
#if OG_LANES == 16
    const __m512i v = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)bytes));  // the look-up ignores high bits
    even = (Vf)_mm512_permutexvar_ps(v, (__m512)scale);
    odd = (Vf)_mm512_permutexvar_ps(_mm512_srli_epi32(v, 4), (__m512)scale);
#else
    const Vi v = load_bytes(bytes, false);
    if (kKind == kNormal4) {
      even = nf4_value(v & 15) * scale;
      odd = nf4_value(v >> 4) * scale;
    } else {
      even = fma(to_float(v & 15), scale, offset);
      odd = fma(to_float(v >> 4), scale, offset);
    }
#endif
  }

  OG_INLINE Vf single(const uint8_t* bytes) const {
    return fma(to_float(load_bytes(bytes, kKind == kInt8)), scale, offset);
  }
};

/** out[r][s] = Σ x[r] · w[row s] for R rows of x and four weight rows. */
template <int R, int kKind>
OG_INLINE void code_dots(const WeightMatrix& w, const float* x, const int64_t* rows, float (&out)[R][kCodeStreams]) {
  constexpr int S = kCodeStreams;
  constexpr bool kPaired = kKind == kInt4 || kKind == kNormal4;
  Vf sums[R][S];
#pragma GCC unroll 4
  for (int i = 0; i < R; i++)
#pragma GCC unroll 4
    for (int s = 0; s < S; s++) sums[i][s] = Vf{};
  const uint8_t* code[S];
  for (int s = 0; s < S; s++) code[s] = w.row(rows[s]);
  const float* at = x;
  for (int64_t group = 0; group < w.groups; group++) {
    Decoder<kKind> decoder[S];
#pragma GCC unroll 4
    for (int s = 0; s < S; s++) {
      const int64_t index = rows[s] * w.groups + group;
      decoder[s].set(w.scale_at(index), w.zero_at(index));
    }
    for (int64_t j = 0; j < w.group; j += 2 * kLanes, at += 2 * kLanes) {
      Vf even[S], odd[S];
#pragma GCC unroll 4
      for (int s = 0; s < S; s++) {
        if (kPaired) {
          decoder[s].pair(code[s], even[s], odd[s]);
          code[s] += kLanes;
        } else {
          even[s] = decoder[s].single(code[s]);
          odd[s] = decoder[s].single(code[s] + kLanes);
          code[s] += 2 * kLanes;
        }
      }
#pragma GCC unroll 4
      for (int i = 0; i < R; i++) {
        const Vf a = load(at + i * w.k), b = load(at + i * w.k + kLanes);
#pragma GCC unroll 4
        for (int s = 0; s < S; s++) sums[i][s] = fma(b, odd[s], fma(a, even[s], sums[i][s]));
      }
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < R; i++)
#pragma GCC unroll 4
    for (int s = 0; s < S; s++) out[i][s] = sum(sums[i][s]);
}

/** Weight rows [begin, end) as four streams. */
struct Streams {
  int64_t begin, end, quarter;
  Streams(int64_t from, int64_t to) : begin(from), end(to), quarter(ceil_div(to - from, kCodeStreams)) {}

  /** Rows of step j, repeated where a stream has ended; how many are real. */
  int rows(int64_t j, int64_t (&to)[kCodeStreams]) const {
    int count = 0;
    for (int s = 0; s < kCodeStreams; s++) {
      const int64_t row = begin + s * quarter + j;
      if (row < end) to[count++] = row;
    }
    for (int s = count; s < kCodeStreams; s++) to[s] = to[0];
    return count;
  }
};

/** Weight rows [begin, end) for all m rows of x. sums: [m][n]. */
template <int kKind>
struct CodeRows {
  const WeightMatrix* w;
  int64_t m;
  const float* x;  // [m][k], laid out by arrange()
  const float* bias;
  float* sums;

  template <int R>
  OG_INLINE void rows(int64_t i, const int64_t* at, int count) const {
    float out[R][kCodeStreams];
    code_dots<R, kKind>(*w, x + i * w->k, at, out);
    for (int r = 0; r < R; r++)
      for (int s = 0; s < count; s++) sums[(i + r) * w->n + at[s]] = out[r][s] + (bias ? bias[at[s]] : 0.f);
  }

  void operator()(int64_t begin, int64_t end) const {
    const Streams streams(begin, end);
    for (int64_t j = 0; j < streams.quarter; j++) {
      int64_t at[kCodeStreams];
      const int count = streams.rows(j, at);
      int64_t i = 0;
      for (; i + kCodeRows <= m; i += kCodeRows) rows<kCodeRows>(i, at, count);
      if (kCodeRows > 2)
        for (; i + 2 <= m; i += 2) rows<2>(i, at, count);
      for (; i < m; i++) rows<1>(i, at, count);
    }
  }
};

/** Even elements before odd ones, in runs of 2·kLanes: the order of halves of bytes. In place. */
inline void arrange(float* x, int64_t count) {
  for (int64_t i = 0; i < count; i += 2 * kLanes) {
    float run[2 * kLanes];
    for (int j = 0; j < kLanes; j++) run[j] = x[i + 2 * j], run[kLanes + j] = x[i + 2 * j + 1];
    std::memcpy(x + i, run, sizeof run);
  }
}

}  // namespace
}  // namespace og
#endif
