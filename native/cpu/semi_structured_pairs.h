/**
 * Few rows of x against a 2:4 weight on AVX2, two rows of W at a time. Half a vector of x is one group of four, so one
 * permutation within halves fetches what both rows keep of two groups: [a a b b | a a b b] for rows a and b. Values of
 * the two are interleaved to match, and the two-bit indices of both make one word, which is shifted and not masked,
 * because the permutation looks at two bits. A permutation across halves would serve one row, and two of them a vector.
 *
 * That order takes the groups of 16 columns as 0 2 | 1 3; `turn_groups` brings x into it, once a call.
 */
#ifndef OMNIGRAD_CPU_SEMI_STRUCTURED_PAIRS_H
#define OMNIGRAD_CPU_SEMI_STRUCTURED_PAIRS_H

#include "simd.h"

#if OG_LANES == 8

namespace og {
namespace {

/** Columns that `turn_groups` brings into order, and that `pair_sums` serves: the whole sixteens of k. */
inline int64_t paired_columns(int64_t k) { return k / 16 * 16; }

/** `to` holds the whole sixteens of x, groups 1 and 2 of each exchanged. */
inline void turn_groups(const float* x, int64_t k, float* to) {
  for (int64_t i = 0; i < paired_columns(k); i += 16) {
    std::memcpy(to + i, x + i, 16);
    std::memcpy(to + i + 4, x + i + 8, 16);
    std::memcpy(to + i + 8, x + i + 4, 16);
    std::memcpy(to + i + 12, x + i + 12, 16);
  }
}

/** Eight values of two rows: those of groups 0 and 2, those of 1 and 3. */
OG_INLINE void interleave(const float* a, const float* b, __m256& even, __m256& odd) {
  const __m256d left = _mm256_castps_pd(_mm256_loadu_ps(a)), right = _mm256_castps_pd(_mm256_loadu_ps(b));
  even = _mm256_castpd_ps(_mm256_unpacklo_pd(left, right));
  odd = _mm256_castpd_ps(_mm256_unpackhi_pd(left, right));
}
OG_INLINE void interleave(const int8_t* a, const int8_t* b, __m256& even, __m256& odd) {
  const __m128i both = _mm_unpacklo_epi16(_mm_loadl_epi64((const __m128i*)a), _mm_loadl_epi64((const __m128i*)b));
  const __m128i turned = _mm_shuffle_epi32(both, 0xD8);
  even = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(turned));
  odd = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(turned, turned)));
}

/** out[r][2p + i] = the sum over the whole sixteens of k for row r of x (turned) and row i of pair p. */
template <int R, int P, class T>
OG_INLINE void pair_sums(const T* const (&values)[2 * P], const uint8_t* const (&indices)[2 * P], int64_t kept,
                         const float* x, int64_t x_row, float (&out)[R][2 * P]) {
  const __m256i shifts = _mm256_setr_epi32(0, 2, 16, 18, 8, 10, 24, 26);
  __m256 sums[R][P][2];
#pragma GCC unroll 4
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int p = 0; p < P; p++) sums[r][p][0] = sums[r][p][1] = _mm256_setzero_ps();
  const auto step = [&](int64_t e, const uint32_t* words, int64_t stride) __attribute__((always_inline)) {
#pragma GCC unroll 2
    for (int p = 0; p < P; p++) {
      const __m256i places = _mm256_srlv_epi32(_mm256_set1_epi32((int32_t)words[p * stride]), shifts);
      const __m256i places_odd = _mm256_srli_epi32(places, 4);
      __m256 even, odd;
      interleave(values[2 * p] + e, values[2 * p + 1] + e, even, odd);
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) {
        const float* from = x + r * x_row + 2 * e;
        sums[r][p][0] = _mm256_fmadd_ps(_mm256_permutevar_ps(_mm256_loadu_ps(from), places), even, sums[r][p][0]);
        sums[r][p][1] =
            _mm256_fmadd_ps(_mm256_permutevar_ps(_mm256_loadu_ps(from + 8), places_odd), odd, sums[r][p][1]);
      }
    }
  };
  int64_t e = 0;
  for (; e + 32 <= kept; e += 32) {
    alignas(16) uint32_t words[P][4];
#pragma GCC unroll 2
    for (int p = 0; p < P; p++)
      _mm_store_si128((__m128i*)words[p],
                      _mm_unpacklo_epi16(_mm_loadl_epi64((const __m128i*)(indices[2 * p] + e / 4)),
                                         _mm_loadl_epi64((const __m128i*)(indices[2 * p + 1] + e / 4))));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) step(e + 8 * i, words[0] + i, 4);
  }
  for (; e + 8 <= kept; e += 8) {
    uint32_t words[P];
    for (int p = 0; p < P; p++) {
      uint16_t a, b;
      std::memcpy(&a, indices[2 * p] + e / 4, 2);
      std::memcpy(&b, indices[2 * p + 1] + e / 4, 2);
      words[p] = (uint32_t)a | (uint32_t)b << 16;
    }
    step(e, words, 1);
  }
  for (int r = 0; r < R; r++)
    for (int p = 0; p < P; p++) {
      const __m256 all = _mm256_add_ps(sums[r][p][0], sums[r][p][1]);
      const __m128 half = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
      const __m128 twice = _mm_hadd_ps(half, half);
      out[r][2 * p] = _mm_cvtss_f32(twice);
      out[r][2 * p + 1] = _mm_cvtss_f32(_mm_shuffle_ps(twice, twice, 1));
    }
}

}  // namespace
}  // namespace og
#endif
#endif
