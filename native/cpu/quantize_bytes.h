/** Bytes from vectors and back, whole vectors or the first n lanes: what quantisation reads and writes. */
#ifndef OMNIGRAD_CPU_QUANTIZE_BYTES_H
#define OMNIGRAD_CPU_QUANTIZE_BYTES_H

#ifndef OG_IS_REFERENCE

#include "simd.h"

namespace og {
namespace {

/** Nearest integer, ties to even, for any float. */
OG_INLINE Vf round_even(Vf a) {
#if defined(__AVX512F__)
  return (Vf)_mm512_roundscale_ps((__m512)a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__AVX2__)
  return (Vf)_mm256_round_ps((__m256)a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__aarch64__)
  return (Vf)vrndnq_f32((float32x4_t)a);
#else
  const Vf magic = set1(8388608.f), magnitude = abs(a);
  return select(magnitude < magic, copysign((magnitude + magic) - magic, a), a);
#endif
}

/** The low bytes of the lanes. */
OG_INLINE void store_bytes(uint8_t* to, Vi v) {
#if defined(__AVX512F__)
  _mm_storeu_si128((__m128i*)to, _mm512_cvtepi32_epi8((__m512i)v));
#elif defined(__AVX2__)
  const __m256i low = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0,
                                       4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1);
  const __m256i picked = _mm256_shuffle_epi8((__m256i)v, low);
  _mm_storel_epi64((__m128i*)to, _mm_or_si128(_mm256_castsi256_si128(picked), _mm256_extracti128_si256(picked, 1)));
#elif defined(__x86_64__)
  __m128i bytes = _mm_and_si128((__m128i)v, _mm_set1_epi32(255));
  bytes = _mm_packs_epi32(bytes, bytes);
  const int32_t word = _mm_cvtsi128_si32(_mm_packus_epi16(bytes, bytes));
  std::memcpy(to, &word, 4);
#else
  const uint16x4_t half = vmovn_u32((uint32x4_t)v);
  const uint32_t word = vget_lane_u32(vreinterpret_u32_u8(vmovn_u16(vcombine_u16(half, half))), 0);
  std::memcpy(to, &word, 4);
#endif
}
OG_INLINE void store_bytes(uint8_t* to, Vi v, int n) {
  if (n == kLanes) {
    store_bytes(to, v);
    return;
  }
  uint8_t bytes[kLanes];
  store_bytes(bytes, v);
  std::memcpy(to, bytes, (size_t)n);
}
OG_INLINE Vi load_bytes(const uint8_t* from, bool is_signed) {
#if defined(__AVX512F__)
  const __m128i v = _mm_loadu_si128((const __m128i*)from);
  return is_signed ? (Vi)_mm512_cvtepi8_epi32(v) : (Vi)_mm512_cvtepu8_epi32(v);
#elif defined(__AVX2__)
  const __m128i v = _mm_loadl_epi64((const __m128i*)from);
  return is_signed ? (Vi)_mm256_cvtepi8_epi32(v) : (Vi)_mm256_cvtepu8_epi32(v);
#else
  int32_t word;
  std::memcpy(&word, from, 4);
#if defined(__x86_64__)
  const __m128i zero = _mm_setzero_si128();
  const __m128i low = _mm_unpacklo_epi16(_mm_unpacklo_epi8(_mm_cvtsi32_si128(word), zero), zero);
  const Vi v = (Vi)low;
#else
  const Vi v = (Vi)vmovl_u16(vget_low_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32((uint32_t)word)))));
#endif
  return is_signed ? (v << 24) >> 24 : v;
#endif
}
OG_INLINE Vi load_bytes(const uint8_t* from, bool is_signed, int n) {
  if (n == kLanes) return load_bytes(from, is_signed);
  uint8_t bytes[kLanes] = {};
  std::memcpy(bytes, from, (size_t)n);
  return load_bytes(bytes, is_signed);
}

OG_INLINE Vf load_n(const float* p, int n) { return n == kLanes ? load(p) : load_partial(p, n); }
OG_INLINE void store_n(float* p, Vf v, int n) {
  if (n == kLanes)
    store(p, v);
  else
    store_partial(p, v, n);
}

/** Lane numbers, for masks of the last vector. */
OG_INLINE Vi first_lanes(int n) {
  Vi lane;
  for (int i = 0; i < kLanes; i++) lane[i] = i;
  return lane < n;
}

/** Nearest integer, ties to even; NaN gives a number whose low byte is 0. */
OG_INLINE Vi round_to_int(Vf a) {
#if defined(__AVX512F__)
  return (Vi)_mm512_cvtps_epi32((__m512)a);
#elif defined(__AVX2__)
  return (Vi)_mm256_cvtps_epi32((__m256)a);
#elif defined(__x86_64__)
  return (Vi)_mm_cvtps_epi32((__m128)a);
#else
  return (Vi)vcvtnq_s32_f32((float32x4_t)a);
#endif
}

/** The low bytes of four vectors, `add` added to each. */
OG_INLINE void store_bytes(uint8_t* to, const Vi (&v)[4], uint8_t add) {
#if defined(__AVX512F__)
  const __m512i low = _mm512_set1_epi32(255);
  const auto byte = [&](int k) { return _mm512_and_si512((__m512i)v[k], low); };
  const __m512i bytes =
      _mm512_packus_epi16(_mm512_packus_epi32(byte(0), byte(1)), _mm512_packus_epi32(byte(2), byte(3)));
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i sum = _mm512_add_epi8(_mm512_permutexvar_epi32(order, bytes), _mm512_set1_epi8((char)add));
  _mm512_storeu_si512(to, sum);
#elif defined(__AVX2__)
  const __m256i low = _mm256_set1_epi32(255);
  const auto byte = [&](int k) { return _mm256_and_si256((__m256i)v[k], low); };
  const __m256i bytes =
      _mm256_packus_epi16(_mm256_packus_epi32(byte(0), byte(1)), _mm256_packus_epi32(byte(2), byte(3)));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i sum = _mm256_add_epi8(_mm256_permutevar8x32_epi32(bytes, order), _mm256_set1_epi8((char)add));
  _mm256_storeu_si256((__m256i*)to, sum);
#else
  for (int k = 0; k < 4; k++) store_bytes(to + k * kLanes, v[k] + (int32_t)add);
#endif
}

}  // namespace
}  // namespace og
#endif
#endif
