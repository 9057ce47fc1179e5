/**
 * Products of two bfloat16 matrices by dot products of pairs (AVX512_BF16): twice the rate of float32, half its bytes.
 *
 * Panels hold words of two steps of k (gemm_tile.h); an odd K is padded with a zero. Where k is dense a word is two
 * elements as they lie, and packing transposes words as it does floats; where rows are dense two lines are interleaved;
 * anything else is first gathered. Products of two bfloat16 are exact in float32; every addition rounds once, as in a
 * float32 loop, so that the error is at most K·2^-24·Σ|a·b|, and K·2^-126 where results are flushed. Operands below
 * 2^-126 count as zero.
 */
#ifndef OMNIGRAD_CPU_GEMM_BF16_H
#define OMNIGRAD_CPU_GEMM_BF16_H

#include "../core/cpu_features.h"
#include "gemm_frame.h"

namespace og {
namespace {

/** Whether this set, on this machine, multiplies pairs of bfloat16. */
inline bool has_pairs() { return OG_LANES == 16 && cpu_feature(kBf16Dot); }

#if OG_LANES == 16

/** Elements of k in one vector of words. */
constexpr int kPairK = 2 * kLanes;

/** The first n of 32 elements, the rest zero. */
OG_INLINE Vf load_pairs(const bf16* p, int n) {
  return (Vf)_mm512_maskz_loadu_epi16((__mmask32)((uint64_t{1} << n) - 1), p);
}

/** Eight words of the first n of 16 elements. */
OG_INLINE __m256 load_eight_pairs(const bf16* p, int n) {
  return _mm256_castsi256_ps(_mm256_maskz_loadu_epi16((__mmask16)((1u << n) - 1u), p));
}

/** `count` ≤ kLanes rows of dense k go to lanes [lane, lane + width) of a panel; `Whole`: count fills them. */
template <int P, bool Whole>
OG_INLINE void pack_pair_lanes(const bf16* from, int64_t stride, int count, int64_t depth, int lane, float* to) {
  const int width = P - lane < kLanes ? P - lane : kLanes;
  for (int64_t k = 0; k < depth; k += kPairK) {
    const int n = depth - k < kPairK ? (int)(depth - k) : kPairK;
    Vf r[kLanes], column[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; i++) r[i] = i < (Whole ? width : count) ? load_pairs(from + i * stride + k, n) : Vf{};
    transpose_lanes(r, column);
    float* target = to + k / 2 * P + lane;
    const int steps = (n + 1) / 2;
    if (width == kLanes || (P < kLanes && n == kPairK && k + n < depth)) {
      // lanes beyond a narrow panel fall into its next step, which is written afterwards
#pragma GCC unroll 16
      for (int j = 0; j < kLanes; j++)
        if (j < steps) store(target + j * P, column[j]);
    } else {
#pragma GCC unroll 16
      for (int j = 0; j < kLanes; j++)
        if (j < steps) store_first(target + j * P, column[j], width);
    }
  }
}

/** One panel of `count` rows, `stride` apart, each with k dense. */
template <int P>
void pack_pairs_transposed(const bf16* from, int64_t stride, int count, int64_t depth, float* to) {
  if constexpr (P == kSix) {
    const auto row = [&](int i, int64_t step, int) {
      const int64_t left = depth - 2 * step;
      return load_eight_pairs(from + i * stride + 2 * step, left < 16 ? (int)left : 16);
    };
    return count == kSix ? pack_six(row, kSix, (depth + 1) / 2, to) : pack_six(row, count, (depth + 1) / 2, to);
  }
#pragma GCC unroll 4
  for (int lane = 0; lane < P; lane += kLanes) {
    const int width = P - lane < kLanes ? P - lane : kLanes, left = count - lane;
    if (left >= width)
      pack_pair_lanes<P, true>(from + lane * stride, stride, width, depth, lane, to);
    else
      pack_pair_lanes<P, false>(from + lane * stride, stride, left > 0 ? left : 0, depth, lane, to);
  }
}

/** 16 words of the first n elements of two lines. */
OG_INLINE Vf zip(const bf16* even, const bf16* odd, int n) {
  const __mmask16 mask = (__mmask16)((1u << n) - 1u);
  const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, even));
  if (!odd) return (Vf)low;
  const __m512i high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, odd));
  return (Vf)_mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

/** Rows adjacent in memory, lines of them `stride` apart: two lines at a time over several panels. */
template <int P>
void pack_pairs_adjacent(const bf16* from, int64_t stride, int64_t rows, int64_t depth, float* to) {
  const int64_t panel = (depth + 1) / 2 * P;
  for (int64_t r = 0; r < rows; r += kSpread * P, from += kSpread * P, to += kSpread * panel) {
    const int64_t here = rows - r < kSpread * P ? rows - r : kSpread * P;
    for (int64_t k = 0; k < depth; k += 2) {
      const bf16 *even = from + k * stride, *odd = k + 1 < depth ? even + stride : nullptr;
      const bool last = k + 2 >= depth;
      float* target = to + k / 2 * P;
      for (int64_t i = 0; i < here; i += P, target += panel) {
        if constexpr (P == kSix) {
          const int n = here - i < P ? (int)(here - i) : P;
          const __m512 words = (__m512)zip(even + i, odd ? odd + i : nullptr, n);
          store_six(target, _mm512_castps512_ps256(words), last);
          continue;
        }
#pragma GCC unroll 4
        for (int j = 0; j < P; j += kLanes) {
          const int width = P - j < kLanes ? P - j : kLanes, n = lanes_left(here - i, j);
          const Vf words = zip(even + (n ? i + j : 0), odd ? odd + (n ? i + j : 0) : nullptr, n < width ? n : width);
          if (width == kLanes || !last)
            store(target + j, words);
          else
            store_first(target + j, words, width);
        }
      }
    }
  }
}

/** Panels of pairs of bfloat16 (kBf16Dot). */
struct PairPanels : PairWords {
  template <int P>
  static void pack(const Operand& from, int64_t rows, int64_t depth, float* to) {
    const bf16* data = static_cast<const bf16*>(from.data);
    if (from.row == 1) return pack_pairs_adjacent<P>(data, from.k, rows, depth, to);
    const int64_t panel = (depth + 1) / 2 * P;
    for (int64_t r = 0; r < rows; r += P, to += panel, data += P * from.row) {
      const int count = rows - r < P ? (int)(rows - r) : P;
      if (from.k == 1) {
        pack_pairs_transposed<P>(data, from.row, count, depth, to);
        continue;
      }
      alignas(64) bf16 gathered[P * kStageK];
      for (int64_t k = 0; k < depth; k += kStageK) {
        const int64_t n = depth - k < kStageK ? depth - k : kStageK;
        for (int i = 0; i < count; i++)
          for (int64_t p = 0; p < n; p++) gathered[i * kStageK + p] = data[i * from.row + (k + p) * from.k];
        pack_pairs_transposed<P>(gathered, kStageK, count, n, to + k / 2 * P);
      }
    }
  }
};

/** Whether a product is one of pairs on this machine. */
inline bool is_of_pairs(const GemmCall& call) {
  return call.a.dtype == OG_BF16 && call.b.dtype == OG_BF16 && has_pairs();
}

#endif

}  // namespace
}  // namespace og
#endif
