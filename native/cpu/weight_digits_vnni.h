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

/** Eight bytes, every eighth of a vector, from the one at `at`. */
template <int at>
OG_INLINE void store_every_eighth(Vi x, uint8_t* to) {
  _mm_storel_epi64((__m128i*)to, _mm512_cvtepi64_epi8(_mm512_srli_epi64((__m512i)x, 8 * at)));
}

/** Σ of the four bytes in each lane. */
OG_VNNI_TARGET static inline Vi byte_sums(Vi x) {
  return (Vi)_mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), (__m512i)x);
}

/** A row of x as chunks. False where a block has no unit. */
template <int kBits>
OG_VNNI_TARGET bool make_digits(const float* x, int64_t k, bool affine, DigitChunk<kBits>* to) {
  constexpr int64_t kElements = 512 / kBits, kBlocks = kElements / 32;
  for (int64_t first = 0; first < k; first += kElements, to++) {
    std::memset((void*)to, 0, sizeof *to);
    alignas(64) float units[16] = {};
    uint8_t* bytes = reinterpret_cast<uint8_t*>(to->digits);
    for (int64_t block = 0; block < kBlocks && first + 32 * block < k; block++) {
      const float* from = x + first + 32 * block;
      const Vf a = load(from), b = load(from + 16);
      float largest = 0, scale, unit;
      find_magnitude(from, 32, &largest);
      if (!unit_of(largest, &scale, &unit)) return false;
      for (int i = 0; i < 16 / kBlocks; i++) units[block * (16 / kBlocks) + i] = unit;
      // a byte of the sum is a digit plus 128
      const Vi low = (Vi)_mm512_cvtps_epi32((__m512)(a * scale)) + 0x00808080,
               high = (Vi)_mm512_cvtps_epi32((__m512)(b * scale)) + 0x00808080;
      const Vi y = low ^ 0x00808080, z = high ^ 0x00808080;
      if (kBits == 4) {
        uint8_t* at = bytes + 16 * block;
        store_every_eighth<2>(y, at), store_every_eighth<2>(z, at + 8);
        store_every_eighth<6>(y, at + 64), store_every_eighth<6>(z, at + 72);
        store_every_eighth<1>(y, at + 128), store_every_eighth<1>(z, at + 136);
        store_every_eighth<5>(y, at + 192), store_every_eighth<5>(z, at + 200);
        store_every_eighth<0>(y, at + 256), store_every_eighth<0>(z, at + 264);
        store_every_eighth<4>(y, at + 320), store_every_eighth<4>(z, at + 328);
      } else {
        for (int digit = 0; digit < 3; digit++) {
          const int shift = 16 - 8 * digit;
          uint8_t* at = bytes + 64 * digit + 32 * block;
          _mm_storeu_si128((__m128i*)at, _mm512_cvtepi32_epi8(_mm512_srli_epi32((__m512i)y, shift)));
          _mm_storeu_si128((__m128i*)(at + 16), _mm512_cvtepi32_epi8(_mm512_srli_epi32((__m512i)z, shift)));
        }
      }
    }
    to->unit = load(units);
    Vi sums[3];
    for (int digit = 0; digit < 3; digit++)
      sums[digit] = kBits == 4 ? byte_sums(to->digits[2 * digit]) + byte_sums(to->digits[2 * digit + 1])
                               : byte_sums(to->digits[digit]);
    const Vi all = sums[0] * 65536 + sums[1] * 256 + sums[2];
    if (affine)
      to->shares[0] = (Vi)(-to_float(all));
    else if (kBits == 4)
      to->shares[0] = all * -8;
    else
      for (int digit = 0; digit < 3; digit++) to->shares[digit] = sums[digit] * -128;
  }
  return true;
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

}  // namespace
}  // namespace og
#endif
