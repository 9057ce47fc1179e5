/**
 * Floats as codes of eight bits: clamp(round(y / scale) + zero), ties to even, NaN becomes zero; the quotient rounded
 * to float as a division.
 *
 * On AVX-512 y is multiplied by the inverse instead, and packing clamps. Quotients that are not clamped are below 512,
 * where the product is within 3 · 2^-24 · 512 of the rounded quotient: the code is the same unless the product lies
 * that near to a tie. Rows with such a lane, or one that is NaN or beyond int32, are divided after all.
 */
#ifndef OMNIGRAD_CPU_GEMM_INT8_CODES_H
#define OMNIGRAD_CPU_GEMM_INT8_CODES_H

#include "quantize_run.h"

namespace og {
namespace {

/** low and high are relative to zero. */
struct CodeGrid {
  float scale, inverse, low, high;
  int32_t zero;
  bool is_signed;
};

inline CodeGrid code_grid(float scale, int32_t zero, bool is_signed) {
  const bool invertible = scale > 0x1p-100f && scale < 0x1p100f;  // or the inverse would lose bits
  const int32_t low = is_signed ? -128 : 0;
  return {scale,
          invertible ? 1.f / scale : std::numeric_limits<float>::quiet_NaN(),
          (float)(low - zero),
          (float)(low + 255 - zero),
          zero,
          is_signed};
}

/** One vector as bytes at `to`. */
OG_INLINE void divide_to_codes(Vf y, const CodeGrid& grid, uint8_t* to) {
  const Vf ratio = y / grid.scale;
  const Vf clipped = within(select(ratio == ratio, ratio, Vf{}), set1(grid.low), set1(grid.high));
  store_bytes(to, to_int(round_small(clipped)) + grid.zero);
}

/** Two vectors. */
OG_INLINE void store_codes(Vf a, Vf b, const CodeGrid& grid, uint8_t* to) {
#if defined(__AVX512F__)
  const __m512 p = (__m512)(a * grid.inverse), q = (__m512)(b * grid.inverse);
  const __m512i c = _mm512_cvtps_epi32(p), d = _mm512_cvtps_epi32(q);
  const Vf e = abs((Vf)p - to_float((Vi)c)), f = abs((Vf)q - to_float((Vi)d));
  const Vf farthest = (Vf)larger((Vi)e, (Vi)f);  // NaN, as bits, is above all
  if (__builtin_expect(_mm512_cmp_ps_mask((__m512)farthest, (__m512)set1(0.5f - 0x1p-13f), _CMP_NLT_UQ) == 0, 1)) {
    const int flip = grid.is_signed ? 0 : 128;
    const __m512i words = _mm512_adds_epi16(_mm512_packs_epi32(c, d), _mm512_set1_epi16((int16_t)(grid.zero - flip)));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 0, 4, 8, 12, 1, 5, 9, 13);
    const __m512i bytes = _mm512_permutexvar_epi32(order, _mm512_packs_epi16(words, words));
    _mm256_storeu_si256((__m256i*)to, _mm256_xor_si256(_mm512_castsi512_si256(bytes), _mm256_set1_epi8((char)flip)));
    return;
  }
#endif
  divide_to_codes(a, grid, to);
  divide_to_codes(b, grid, to + kLanes);
}

/** n floats as codes, `stride` apart. */
inline void store_codes(const float* from, int64_t n, const CodeGrid& grid, uint8_t* to, int64_t stride) {
  int64_t i = 0;
  if (stride == 1)
    for (; i + 2 * kLanes <= n; i += 2 * kLanes) store_codes(load(from + i), load(from + i + kLanes), grid, to + i);
  for (; i < n; i++) {
    const float x = from[i] / grid.scale;
    const float clipped = x < grid.low ? grid.low : x > grid.high ? grid.high : x == x ? x : 0.f;
    const float magic = 12582912.f;  // 1.5 · 2^23: rounds to the nearest integer, ties to even
    to[i * stride] = (uint8_t)((int32_t)((clipped + magic) - magic) + grid.zero);
  }
}

}  // namespace
}  // namespace og
#endif
