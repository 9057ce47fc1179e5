/**
 * Digits of x for AVX-512 VNNI: three signed bytes, x = unit · (65536·high + 256·middle + low). Three vpdpbusd of a
 * vector of codes do what sixteen look-ups and FMAs did (weight_rows.h).
 *
 * A chunk is 64 bytes of codes of a row: 128 elements of 4 bits, whose even ones are the low halves, or 64 of 8 bits.
 */
#ifndef OMNIGRAD_CPU_WEIGHT_DIGITS_VNNI_H
#define OMNIGRAD_CPU_WEIGHT_DIGITS_VNNI_H

#include "gemm_int8_kinds.h"
#include "weight_digits_unit.h"

namespace og {
namespace {

#define OG_DIGITS_TARGET OG_VNNI_TARGET
#define OG_DIGITS_ROWS __attribute__((noinline))
/** Whether a held scale meets the sums of its group, rather than each chunk: registers for two sets of sums. */
constexpr bool kDigitsSumGroups = true;
/** Rows of x that meet a chunk of codes while it is in registers. */
constexpr int64_t kDigitRowsTogether = 4;
/** Bytes of codes fetched ahead in each stream: 4-bit ones into L1, as one thread computes about as long as it reads.
 */
template <int kBits>
struct DigitsAhead {
  static constexpr int kBytes = kBits == 4 ? 1024 : 4096, kHint = kBits == 4 ? 3 : 2;
};
/** Elements of a group from which its scale is held for several chunks instead of spread over each. */
constexpr int64_t held_digits_group(int bits) { return 512 / bits; }

/** x of a chunk, a number a lane of four bytes of codes. */
template <int kBits>
struct DigitChunk {
  Vi digits[6];  // high, middle, low; for 4 bits the even elements and the odd ones of each
  /**
   * Without zero points, what the middle of the codes takes from the sums: 4 bits: of all digits; 8 bits: of each. With
   * them, -Σx in units, as floats.
   */
  Vi shares[3];
  Vf unit;
};

/** Σ of the four bytes in each lane. */
OG_VNNI_TARGET static inline Vi byte_sums(Vi x) {
  return (Vi)_mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), (__m512i)x);
}

/** The largest lane of each of four vectors of non-negative integers. */
OG_INLINE __m128i largest_of_four(const Vi (&v)[4]) {
  __m128i q[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    const __m512i x = (__m512i)v[i];
    const __m256i half = _mm256_max_epi32(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1));
    q[i] = _mm_max_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  }
  const __m128i a = _mm_max_epi32(_mm_unpacklo_epi32(q[0], q[1]), _mm_unpackhi_epi32(q[0], q[1]));  // 0 1 0 1
  const __m128i b = _mm_max_epi32(_mm_unpacklo_epi32(q[2], q[3]), _mm_unpackhi_epi32(q[2], q[3]));  // 2 3 2 3
  return _mm_max_epi32(_mm_unpacklo_epi64(a, b), _mm_unpackhi_epi64(a, b));
}

/** unit_of four blocks. False where one has none. */
OG_INLINE bool units_of(__m128i images, __m128* to, __m128* unit) {
  const __m128i exponent = _mm_srli_epi32(images, 23);
  const __mmask8 some = _mm_test_epi32_mask(images, images);
  if (_mm_mask_cmplt_epi32_mask(some, exponent, _mm_set1_epi32(31)) |
      _mm_cmpge_epi32_mask(exponent, _mm_set1_epi32(255)))
    return false;
  __m128i up = _mm_sub_epi32(_mm_set1_epi32(276), exponent);
  const __m128 scaled = _mm_mul_ps(_mm_castsi128_ps(images), _mm_castsi128_ps(_mm_slli_epi32(up, 23)));
  const __mmask8 too_far = _mm_cmp_ps_mask(scaled, _mm_set1_ps(8355711.f), _CMP_GT_OQ);
  up = _mm_mask_sub_epi32(up, too_far, up, _mm_set1_epi32(1));
  *to = _mm_castsi128_ps(_mm_maskz_slli_epi32(some, up, 23));
  *unit = _mm_castsi128_ps(_mm_maskz_slli_epi32(some, _mm_sub_epi32(_mm_set1_epi32(254), up), 23));
  return true;
}

/** In each 128 bits, the bytes of four integers by digits: even elements' high, middle, low, then the odd ones'. */
OG_INLINE __m512i split_even_odd(Vi x) {
  return _mm512_shuffle_epi8(
      (__m512i)x, _mm512_broadcast_i32x4(_mm_setr_epi8(2, 10, 1, 9, 0, 8, -1, -1, 6, 14, 5, 13, 4, 12, -1, -1)));
}
/** The same in their order: four high ones, middle, low. */
OG_INLINE __m512i split_in_order(Vi x) {
  return _mm512_shuffle_epi8(
      (__m512i)x, _mm512_broadcast_i32x4(_mm_setr_epi8(2, 6, 10, 14, 1, 5, 9, 13, 0, 4, 8, 12, -1, -1, -1, -1)));
}

/** Transposes 4 × 4 blocks of 128 bits. */
OG_INLINE void transpose_quarters(const __m512i (&from)[4], Vi* to, const int (&index)[4]) {
  const __m512i a = _mm512_shuffle_i32x4(from[0], from[1], 0x44), b = _mm512_shuffle_i32x4(from[0], from[1], 0xee);
  const __m512i c = _mm512_shuffle_i32x4(from[2], from[3], 0x44), d = _mm512_shuffle_i32x4(from[2], from[3], 0xee);
  to[index[0]] = (Vi)_mm512_shuffle_i32x4(a, c, 0x88);
  to[index[1]] = (Vi)_mm512_shuffle_i32x4(a, c, 0xdd);
  if (index[2] >= 0) to[index[2]] = (Vi)_mm512_shuffle_i32x4(b, d, 0x88);
  if (index[3] >= 0) to[index[3]] = (Vi)_mm512_shuffle_i32x4(b, d, 0xdd);
}

/** Bytes of a chunk's integers as DigitChunk has them: digits plus 128. */
OG_INLINE void arrange_digits(const Vi (&x)[8], Vi (&digits)[6]) {
  // 8 words each of the first four kinds, and of the last two, from a pair of vectors
  alignas(64) static constexpr uint16_t kFirst[32] = {0, 8,  16, 24, 32, 40, 48, 56, 1, 9,  17, 25, 33, 41, 49, 57,
                                                      2, 10, 18, 26, 34, 42, 50, 58, 4, 12, 20, 28, 36, 44, 52, 60};
  alignas(64) static constexpr uint16_t kLast[32] = {5, 13, 21, 29, 37, 45, 53, 61, 6, 14, 22, 30, 38, 46, 54, 62};
  const __m512i first = _mm512_load_si512(kFirst), last = _mm512_load_si512(kLast);
  __m512i a[4], b[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    const __m512i low = split_even_odd(x[2 * i]), high = split_even_odd(x[2 * i + 1]);
    a[i] = _mm512_permutex2var_epi16(low, first, high);
    b[i] = _mm512_permutex2var_epi16(low, last, high);
  }
  transpose_quarters(a, digits, {0, 2, 4, 1});
  transpose_quarters(b, digits, {3, 5, -1, -1});
}
OG_INLINE void arrange_digits(const Vi (&x)[4], Vi (&digits)[6]) {
  alignas(64) static constexpr int32_t kFirst[16] = {0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29};
  alignas(64) static constexpr int32_t kLast[16] = {2, 6, 10, 14, 18, 22, 26, 30};
  const __m512i first = _mm512_load_si512(kFirst), last = _mm512_load_si512(kLast);
  const __m512i a = split_in_order(x[0]), b = split_in_order(x[1]), c = split_in_order(x[2]), d = split_in_order(x[3]);
  const __m512i front = _mm512_permutex2var_epi32(a, first, b), back = _mm512_permutex2var_epi32(c, first, d);
  digits[0] = (Vi)_mm512_shuffle_i32x4(front, back, 0x44);
  digits[1] = (Vi)_mm512_shuffle_i32x4(front, back, 0xee);
  digits[2] =
      (Vi)_mm512_shuffle_i32x4(_mm512_permutex2var_epi32(a, last, b), _mm512_permutex2var_epi32(c, last, d), 0x44);
}

/** The sums of four vectors' lanes. */
OG_INLINE void sum_of_four(const Vf (&v)[4], float* to) {
  __m128 q[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    const __m512 x = (__m512)v[i];
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    q[i] = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  }
  const __m128 a = _mm_add_ps(_mm_unpacklo_ps(q[0], q[1]), _mm_unpackhi_ps(q[0], q[1]));  // 0 1 0 1
  const __m128 b = _mm_add_ps(_mm_unpacklo_ps(q[2], q[3]), _mm_unpackhi_ps(q[2], q[3]));  // 2 3 2 3
  _mm_storeu_ps(to, _mm_add_ps(_mm_movelh_ps(a, b), _mm_movehl_ps(b, a)));
}

/** Codes and their numbers as a chunk takes them, and its product with x. */
template <int kBits>
struct DigitCodes {
  Vi even, odd;  // 8 bits: all in `even`

  /** The first `left` blocks of 32 where kTail is set, else a whole chunk. */
  template <bool kAffine, bool kTail>
  OG_INLINE void take(const uint8_t* from, int64_t left) {
    const Vi v = kTail ? (Vi)_mm512_maskz_loadu_epi8(((__mmask64)1 << (left * 4 * kBits)) - 1, from) : load_words(from);
    even = kBits == 4 ? v & 0x0f0f0f0f : kAffine ? v : v ^ (int32_t)0x80808080;
    odd = kBits == 4 ? (Vi)((Vu)v >> 4) & 0x0f0f0f0f : Vi{};
  }

  /** Four numbers of blocks (two for 8 bits) as one a lane. */
  static OG_INLINE Vf spread(__m128 numbers) {
    const __m512i lane = kBits == 4 ? _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0)
                                    : _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
    return (Vf)_mm512_permutexvar_ps(lane, _mm512_castps128_ps512(numbers));
  }
  static OG_INLINE __mmask8 mask(int64_t left) { return (__mmask8)((1 << left) - 1); }
  template <bool kTail>
  static OG_INLINE Vf numbers(const float* from, int64_t left) {
    return spread(kTail ? _mm_maskz_loadu_ps(mask(left), from) : _mm_loadu_ps(from));
  }
  template <bool kTail>
  static OG_INLINE Vf numbers(const uint16_t* halves, int64_t left) {
    return spread(
        _mm_cvtph_ps(kTail ? _mm_maskz_loadu_epi16(mask(left), halves) : _mm_loadl_epi64((const __m128i*)halves)));
  }

  /** Σ of a chunk of x times these codes, in floats. */
  template <bool kAffine>
  OG_VNNI_TARGET OG_INLINE Vf product(const DigitChunk<kBits>& c, Vf zeros) const {
    Vf value;
    if (kBits == 4) {
      // three chains: one would be too long for other streams to hide
      const Vi high = Vnni::dot(Vnni::dot(Vi{}, even, c.digits[0]), odd, c.digits[1]);
      const Vi middle = Vnni::dot(Vnni::dot(Vi{}, even, c.digits[2]), odd, c.digits[3]);
      const Vi low = Vnni::dot(Vnni::dot(kAffine ? Vi{} : c.shares[0], even, c.digits[4]), odd, c.digits[5]);
      value = to_float(add_words(add_words(high << 8, middle) << 8, low));
    } else {
      const Vi high = Vnni::dot(kAffine ? Vi{} : c.shares[0], even, c.digits[0]);
      const Vi middle = Vnni::dot(kAffine ? Vi{} : c.shares[1], even, c.digits[1]);
      const Vi low = Vnni::dot(kAffine ? Vi{} : c.shares[2], even, c.digits[2]);
      value = fma(to_float(high), set1(65536.f), to_float((middle << 8) + low));
    }
    return kAffine ? fma(zeros, (Vf)c.shares[0], value) : value;
  }
};

/** A row of x as chunks. False where a block has no unit. */
template <int kBits>
OG_VNNI_TARGET bool make_digits(const float* x, int64_t k, bool affine, DigitChunk<kBits>* to) {
  constexpr int kElements = 512 / kBits, kVectors = kElements / kLanes, kDigits = kBits == 4 ? 6 : 3;
  for (int64_t first = 0; first < k; first += kElements, to++) {
    Vf values[kVectors];
    Vi largest[4] = {};
    const int64_t left = k - first;
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; i++) {
      values[i] = left >= kLanes * (i + 1) ? load(x + first + kLanes * i) : Vf{};  // k is a multiple of 32
      largest[i / 2] = larger(largest[i / 2], bits(abs(values[i])));
    }
    __m128 up, unit;
    if (!units_of(largest_of_four(largest), &up, &unit)) return false;
    Vi integers[kVectors];
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; i++) {
      const Vf scale = (Vf)_mm512_permutexvar_ps(_mm512_set1_epi32(i / 2), _mm512_castps128_ps512(up));
      integers[i] = (Vi)_mm512_cvtps_epi32((__m512)(values[i] * scale)) + 0x00808080;
    }
    Vi digits[6] = {}, sums[3];
    arrange_digits(integers, digits);
#pragma GCC unroll 6
    for (int i = 0; i < kDigits; i++) digits[i] ^= (int32_t)0x80808080;
#pragma GCC unroll 3
    for (int digit = 0; digit < 3; digit++)
      sums[digit] =
          kBits == 4 ? byte_sums(digits[2 * digit]) + byte_sums(digits[2 * digit + 1]) : byte_sums(digits[digit]);
#pragma GCC unroll 6
    for (int i = 0; i < 6; i++) to->digits[i] = digits[i];
    to->unit = DigitCodes<kBits>::spread(unit);
    const Vi all = sums[0] * 65536 + sums[1] * 256 + sums[2];
    to->shares[1] = to->shares[2] = Vi{};
    if (affine)
      to->shares[0] = (Vi)(-to_float(all));
    else if (kBits == 4)
      to->shares[0] = all * -8;
    else
      for (int digit = 0; digit < 3; digit++) to->shares[digit] = sums[digit] * -128;
  }
  return true;
}

}  // namespace
}  // namespace og
#endif
