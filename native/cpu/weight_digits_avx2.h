/**
 * Digits of x for AVX2, by the width of the codes:
 *
 *   4 bits  three signed bytes, x = unit · (65536·high + 256·middle + low). vpmaddubsw sums two products in int16, at
 *           most 2·15·128, so those of even and of odd elements add there; vpmaddwd sums pairs, times 256 for `high`.
 *   8 bits  an int16 and a signed byte (also held as int16), x = unit · (256·high + low), against codes widened to
 *           int16: vpmaddwd is exact, and four products of `high` and a uint8 code stay below 2^25.
 *
 * A chunk is 32 bytes of codes of a row: 64 elements of 4 bits, whose even ones are the low halves, or 32 of 8 bits.
 */
#ifndef OMNIGRAD_CPU_WEIGHT_DIGITS_AVX2_H
#define OMNIGRAD_CPU_WEIGHT_DIGITS_AVX2_H

#include "gemm_int8_kinds.h"
#include "weight_digits_unit.h"

namespace og {
namespace {

#define OG_DIGITS_TARGET
#define OG_DIGITS_ROWS OG_INLINE
/** Whether a held scale meets the sums of its group, rather than each chunk: there are no registers for that. */
constexpr bool kDigitsSumGroups = false;
/** Rows of x that meet a chunk of codes while it is in registers. */
constexpr int64_t kDigitRowsTogether = 2;
/** Nothing is fetched ahead: that costs more instructions than it hides (Zen 3). */
template <int kBits>
struct DigitsAhead {
  static constexpr int kBytes = 0, kHint = 0;
};
/** Elements of a group from which its scale is held for several chunks instead of spread over each. */
constexpr int64_t held_digits_group(int) { return 128; }

template <int kBits>
struct DigitChunk;

template <>
struct DigitChunk<4> {
  __m256i digits[6];  // high, middle, low: even elements, odd ones
  Vf share;           // Σx in units: as integers times -8, what the middle of the codes takes, or -Σx as floats
  Vf unit;
};

template <>
struct DigitChunk<8> {
  __m256i high[2], low[2];  // int16 of 16 elements
  Vf share;                 // -Σx in units
  Vf unit;
};

/** A block of 32 elements in units. False where it has none. */
OG_INLINE bool block_in_units(const float* x, __m256i (&to)[4], float* unit) {
  float largest = 0, scale;
  find_magnitude(x, 32, &largest);
  if (!unit_of(largest, &scale, unit)) return false;
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) to[i] = _mm256_cvtps_epi32((__m256)(load(x + i * kLanes) * scale));
  return true;
}

/** Bytes of a block, even elements before odd ones, of the words' byte `digit`: as three vectors, low first. */
OG_INLINE void split_bytes(const __m256i (&y)[4], __m256i (&to)[3]) {
  // by fours of elements: a word of each byte, elements 0 2 1 3
  const __m256i order =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 8, 4, 12, 1, 9, 5, 13, 2, 10, 6, 14, 3, 11, 7, 15));
  __m256i v[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) v[i] = _mm256_shuffle_epi8(y[i], order);
  const __m256i a = _mm256_unpacklo_epi32(v[0], v[1]), b = _mm256_unpacklo_epi32(v[2], v[3]);
  const __m256i c = _mm256_unpackhi_epi32(v[0], v[1]), d = _mm256_unpackhi_epi32(v[2], v[3]);
  // words of fours 0 2 4 6 | 1 3 5 7
  to[0] = _mm256_unpacklo_epi64(a, b);
  to[1] = _mm256_unpackhi_epi64(a, b);
  to[2] = _mm256_unpacklo_epi64(c, d);
  const __m256i fours = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i halves =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
#pragma GCC unroll 3
  for (int i = 0; i < 3; i++) {
    const __m256i split = _mm256_shuffle_epi8(_mm256_permutevar8x32_epi32(to[i], fours), halves);
    to[i] = _mm256_permute4x64_epi64(split, 0xd8);
  }
}

/** Σ of signed bytes by lanes of four. */
OG_INLINE __m256i byte_sums(__m256i x) {
  return _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), x), _mm256_set1_epi16(1));
}

/** A row of x as chunks. False where a block has no unit. */
inline bool make_digits(const float* x, int64_t k, bool affine, DigitChunk<4>* to) {
  for (int64_t first = 0; first < k; first += 64, to++) {
    std::memset((void*)to, 0, sizeof *to);
    alignas(32) float units[8] = {};
    for (int64_t block = 0; block < 2 && first + 32 * block < k; block++) {
      __m256i y[4], bytes[3];
      float unit;
      if (!block_in_units(x + first + 32 * block, y, &unit)) return false;
      for (int i = 0; i < 4; i++) {
        units[4 * block + i] = unit;
        // a byte of the sum is a digit plus 128
        const __m256i middle = _mm256_set1_epi32(0x00808080);
        y[i] = _mm256_xor_si256(_mm256_add_epi32(y[i], middle), middle);
      }
      split_bytes(y, bytes);
      for (int digit = 0; digit < 3; digit++) {
        char* at = reinterpret_cast<char*>(to->digits + 4 - 2 * digit) + 16 * block;
        _mm_store_si128((__m128i*)at, _mm256_castsi256_si128(bytes[digit]));
        _mm_store_si128((__m128i*)(at + 32), _mm256_extracti128_si256(bytes[digit], 1));
      }
    }
    to->unit = load(units);
    Vi sums[3];
    for (int digit = 0; digit < 3; digit++)
      sums[digit] = (Vi)_mm256_add_epi32(byte_sums(to->digits[2 * digit]), byte_sums(to->digits[2 * digit + 1]));
    const Vi all = sums[0] * 65536 + sums[1] * 256 + sums[2];
    to->share = affine ? -to_float(all) : (Vf)(all * -8);
  }
  return true;
}

inline bool make_digits(const float* x, int64_t k, bool, DigitChunk<8>* to) {
  const __m256i ones = _mm256_set1_epi16(1);
  for (int64_t first = 0; first < k; first += 32, to++) {
    __m256i y[4];
    float unit;
    if (!block_in_units(x + first, y, &unit)) return false;
    Vi sums{};
    for (int half = 0; half < 2; half++) {
      __m256i high[2], low[2];
      for (int i = 0; i < 2; i++) {
        const __m256i v = y[2 * half + i];
        high[i] = _mm256_srai_epi32(_mm256_add_epi32(v, _mm256_set1_epi32(128)), 8);
        low[i] = _mm256_sub_epi32(v, _mm256_slli_epi32(high[i], 8));
      }
      to->high[half] = _mm256_permute4x64_epi64(_mm256_packs_epi32(high[0], high[1]), 0xd8);
      to->low[half] = _mm256_permute4x64_epi64(_mm256_packs_epi32(low[0], low[1]), 0xd8);
      sums += (Vi)_mm256_madd_epi16(to->high[half], ones) * 256 + (Vi)_mm256_madd_epi16(to->low[half], ones);
    }
    to->share = -to_float(sums);
    to->unit = set1(unit);
  }
  return true;
}

/** The sums of four vectors' lanes. */
OG_INLINE void sum_of_four(const Vf (&v)[4], float* to) {
  const __m256 a = _mm256_hadd_ps((__m256)v[0], (__m256)v[1]), b = _mm256_hadd_ps((__m256)v[2], (__m256)v[3]);
  const __m256 c = _mm256_hadd_ps(a, b);
  _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(c), _mm256_extractf128_ps(c, 1)));
}

/** Codes and their numbers as a chunk takes them, and its product with x. */
template <int kBits>
struct DigitCodes;

template <>
struct DigitCodes<4> {
  __m256i even, odd;

  /** The first block where kTail is set, else both. */
  template <bool, bool kTail>
  OG_INLINE void take(const uint8_t* from, int64_t) {
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i v = kTail ? _mm256_zextsi128_si256(_mm_loadu_si128((const __m128i*)from))
                            : _mm256_loadu_si256((const __m256i*)from);
    even = _mm256_and_si256(v, low);
    odd = _mm256_and_si256(_mm256_srli_epi16(v, 4), low);
  }

  /** A number of each block, in its four lanes. */
  template <bool kTail>
  static OG_INLINE Vf numbers(const float* from, int64_t) {
    const __m256i lane = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
    const __m256 both = kTail ? _mm256_zextps128_ps256(_mm_load1_ps(from))
                              : _mm256_castpd_ps(_mm256_broadcast_sd(reinterpret_cast<const double*>(from)));
    return (Vf)_mm256_permutevar_ps(both, lane);
  }
  template <bool kTail>
  static OG_INLINE Vf numbers(const uint16_t* halves, int64_t) {
    const __m128i order = _mm_setr_epi8(0, 1, 0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3, 2, 3);
    uint32_t both = *halves;
    if (!kTail) std::memcpy(&both, halves, 4);
    return (Vf)_mm256_cvtph_ps(_mm_shuffle_epi8(_mm_cvtsi32_si128((int)both), order));
  }

  /** Σ of a chunk of x times these codes, in floats. */
  template <bool kAffine>
  OG_INLINE Vf product(const DigitChunk<4>& c, Vf zeros) const {
    const auto sums = [&](int at) {
      return _mm256_add_epi16(_mm256_maddubs_epi16(even, c.digits[at]), _mm256_maddubs_epi16(odd, c.digits[at + 1]));
    };
    const __m256i by256 = _mm256_set1_epi16(256), ones = _mm256_set1_epi16(1);
    const __m256i upper = _mm256_add_epi32(_mm256_madd_epi16(sums(0), by256), _mm256_madd_epi16(sums(2), ones));
    __m256i total = _mm256_madd_epi16(sums(4), ones);
    if (!kAffine) total = _mm256_add_epi32(total, (__m256i)c.share);
    total = _mm256_add_epi32(total, _mm256_slli_epi32(upper, 8));
    const Vf value = (Vf)_mm256_cvtepi32_ps(total);
    return kAffine ? fma(zeros, c.share, value) : value;
  }
};

template <>
struct DigitCodes<8> {
  __m256i first, second;  // int16 of 16 elements

  template <bool kAffine, bool>
  OG_INLINE void take(const uint8_t* from, int64_t) {
    const __m128i a = _mm_loadu_si128((const __m128i*)from), b = _mm_loadu_si128((const __m128i*)(from + 16));
    first = kAffine ? _mm256_cvtepu8_epi16(a) : _mm256_cvtepi8_epi16(a);
    second = kAffine ? _mm256_cvtepu8_epi16(b) : _mm256_cvtepi8_epi16(b);
  }

  template <bool>
  static OG_INLINE Vf numbers(const float* from, int64_t) {
    return (Vf)_mm256_broadcast_ss(from);
  }
  template <bool>
  static OG_INLINE Vf numbers(const uint16_t* half, int64_t) {
    return set1(_cvtsh_ss(*half));
  }

  template <bool kAffine>
  OG_INLINE Vf product(const DigitChunk<8>& c, Vf zeros) const {
    const __m256i high = _mm256_add_epi32(_mm256_madd_epi16(first, c.high[0]), _mm256_madd_epi16(second, c.high[1]));
    const __m256i low = _mm256_add_epi32(_mm256_madd_epi16(first, c.low[0]), _mm256_madd_epi16(second, c.low[1]));
    const Vf value = fma((Vf)_mm256_cvtepi32_ps(high), set1(256.f), (Vf)_mm256_cvtepi32_ps(low));
    return kAffine ? fma(zeros, c.share, value) : value;
  }
};

}  // namespace
}  // namespace og
#endif
