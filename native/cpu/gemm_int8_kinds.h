/**
 * The dot products of bytes that instruction sets offer, behind one interface (a Kind).
 *
 * B is always signed: B' = B, or B − 128 for uint8 codes (their top bit is flipped while packing). A becomes A' in
 * the form that the instruction wants. Either shift is a change of zero point, so the frame knows one rule for all:
 * Σ(A' − za')(B' − zb'), modulo 2^32. Packed panels, per step of kGroup values of k, padded with zeros:
 *
 *   A `[step][kRows]` words of 32 bits: four bytes, or two int16 that were widened while packing
 *   B `[step][kColumns]` of kGroup bytes, kColumns = 2·kLanes; pairs are widened when they are loaded
 *
 * With kPairs a step is two words of four bytes, side by side in both. With kTurns few rows take the unsigned side from
 * the weights, as they come: signed A', which is A with no zero point or uint8 codes around 128, times B' + 128. What
 * that adds is known from A' alone, so that no sums of weights are needed.
 *
 * Vnni      (AVX-512 VNNI)    vpdpbusd, unsigned A' × signed B', wraps and never saturates
 * Vnni256   (AVX2)            the same on 256 bits, encoded for AVX-512VL; AvxVnni: for AVX-VNNI
 * Wide      (AVX-512BW, AVX2, SSE2)  vpmaddwd on int16: exact for every pair of bytes
 * Chained   (AVX2)            the same with four rows in three sums (gemm_int8_chained.h); not for few rows
 * SevenBit  (AVX2)            vpmaddubsw, then vpmaddwd with ones: exact while |B'| ≤ 64, because 2·255·64 < 2^15
 * Neon      (arm64)           smull and pairwise sums; NeonDot: sdot; NeonMatrix: smmla, rows and columns in pairs
 *
 * Source of the offset: Rodriguez et al., "Lower Numerical Precision Deep Learning Inference and Training", 2018.
 */
#ifndef OMNIGRAD_CPU_GEMM_INT8_KINDS_H
#define OMNIGRAD_CPU_GEMM_INT8_KINDS_H

#include "../core/cpu_features.h"
#include "gemm_int8_six_rows.h"
#include "simd.h"

namespace og {
namespace {

typedef int32_t ViBytes __attribute__((vector_size(OG_LANES * 4), aligned(1), may_alias));

/** kLanes words from any address. */
OG_INLINE Vi load_words(const void* p) { return *static_cast<const ViBytes*>(p); }
OG_INLINE void store_words(void* p, Vi v) { *static_cast<ViBytes*>(p) = v; }

/** Modulo 2^32. */
OG_INLINE Vi add_words(Vi a, Vi b) { return (Vi)((Vu)a + (Vu)b); }

/** What all kinds of four bytes a word share. */
struct FourBytes {
  static constexpr int kGroup = 4;
  static constexpr bool kPairs = false, kChained = false, kTurns = false;
  static constexpr int32_t kOnes = 0x01010101;
  /** kLanes words of B. */
  template <bool Flip>
  static OG_INLINE Vi load_b(const uint8_t* p) {
    return Flip ? load_words(p) ^ (int32_t)0x80808080u : load_words(p);
  }
};

#if OG_LANES == 16

struct Vnni : FourBytes {
  static constexpr int kRows = 14;
  static constexpr uint32_t kLayout = 1;
  static constexpr bool kUnsignedA = true, kWide = false, kTurns = true;
#define OG_VNNI_TARGET __attribute__((target("avx512vnni")))
  static inline __attribute__((always_inline, target("avx512vnni"))) Vi dot(Vi sum, Vi a, Vi b) {
    return (Vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
  }
};

#elif OG_LANES == 8

/** The same layout for both: they differ in their encoding alone. */
#define OG_VNNI256(NAME, TARGET, DOT)                                                         \
  struct NAME : FourBytes {                                                                   \
    static constexpr int kRows = 6;                                                           \
    static constexpr uint32_t kLayout = 8;                                                    \
    static constexpr bool kUnsignedA = true, kWide = false, kTurns = true;                    \
    static inline __attribute__((always_inline, target(TARGET))) Vi dot(Vi sum, Vi a, Vi b) { \
      return (Vi)DOT((__m256i)sum, (__m256i)a, (__m256i)b);                                   \
    }                                                                                         \
  };
OG_VNNI256(Vnni256, "avx512vnni,avx512vl", _mm256_dpbusd_epi32)
OG_VNNI256(AvxVnni, "avxvnni", _mm256_dpbusd_avx_epi32)
#undef OG_VNNI256

struct SevenBit : FourBytes {
  static constexpr int kRows = 6;
  static constexpr uint32_t kLayout = 4;
  static constexpr bool kUnsignedA = true, kWide = false;
  static OG_INLINE Vi dot(Vi sum, Vi a, Vi b) {
    const __m256i pairs = _mm256_maddubs_epi16((__m256i)a, (__m256i)b);
    return add_words(sum, (Vi)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  /** Two steps at a time for a whole tile; returns the steps that were done. */
  static OG_INLINE int64_t six_rows(int64_t steps, const int32_t* a, const uint8_t* b, Vi (&x)[6][2]) {
    three_op_six_rows(steps / 2, a, b, x);
    return steps / 2 * 2;
  }
};

#elif defined(__aarch64__)

struct Neon : FourBytes {
  static constexpr int kRows = 8;
  static constexpr uint32_t kLayout = 6;
  static constexpr bool kUnsignedA = false, kWide = false;
  static OG_INLINE Vi dot(Vi sum, Vi a, Vi b) {
    const int16x8_t low = vmull_s8(vget_low_s8((int8x16_t)a), vget_low_s8((int8x16_t)b));
    const int16x8_t high = vmull_high_s8((int8x16_t)a, (int8x16_t)b);
    return add_words(sum, (Vi)vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
  }
};

/** The same layout as Neon: what one has packed the other can read. */
#if defined(__ARM_FEATURE_DOTPROD)
#define OG_DOT_TARGET
#define OG_DOT_INLINE OG_INLINE
#else
#define OG_DOT_TARGET __attribute__((target("arch=armv8.2-a+dotprod")))
#define OG_DOT_INLINE inline __attribute__((always_inline, target("arch=armv8.2-a+dotprod")))
#endif
struct NeonDot : FourBytes {
  static constexpr int kRows = 8;
  static constexpr uint32_t kLayout = 6;
  static constexpr bool kUnsignedA = false, kWide = false;
  static OG_DOT_INLINE Vi dot(Vi sum, Vi a, Vi b) { return (Vi)vdotq_s32((int32x4_t)sum, (int8x16_t)a, (int8x16_t)b); }
};

/** Panels of pairs; dot products of single rows as NeonDot. */
#define OG_MATRIX_TARGET __attribute__((target("arch=armv8.2-a+dotprod+i8mm")))
struct NeonMatrix : FourBytes {
  static constexpr int kRows = 8;
  static constexpr uint32_t kLayout = 9;
  static constexpr bool kUnsignedA = false, kWide = false, kPairs = true;
};

#endif

#if defined(__x86_64__)

struct Wide {
  static constexpr int kGroup = 2;
  static constexpr bool kPairs = false, kChained = false, kTurns = false;
  static constexpr int32_t kOnes = 0x00010001;
  static constexpr int kRows = OG_LANES == 16 ? 12 : OG_LANES == 8 ? 6 : 4;
  static constexpr uint32_t kLayout = OG_LANES == 16 ? 2 : OG_LANES == 8 ? 3 : 5;
  static constexpr bool kUnsignedA = false, kWide = true;
  static OG_INLINE Vi dot(Vi sum, Vi a, Vi b) {
#if OG_LANES == 16
    return add_words(sum, (Vi)_mm512_madd_epi16((__m512i)a, (__m512i)b));
#elif OG_LANES == 8
    return add_words(sum, (Vi)_mm256_madd_epi16((__m256i)a, (__m256i)b));
#else
    return add_words(sum, (Vi)_mm_madd_epi16((__m128i)a, (__m128i)b));
#endif
  }
#if OG_LANES == 8
  static OG_INLINE int64_t six_rows(int64_t steps, const int32_t* a, const uint8_t* b, Vi (&x)[6][2]) {
    wide_six_rows<true>(steps / 2, a, b, x);
    return steps / 2 * 2;
  }
#endif
  template <bool Flip>
  static OG_INLINE Vi load_b(const uint8_t* p) {
#if OG_LANES == 16
    const __m256i raw = _mm256_loadu_si256((const __m256i*)p);
    return (Vi)_mm512_cvtepi8_epi16(Flip ? _mm256_xor_si256(raw, _mm256_set1_epi8(-128)) : raw);
#elif OG_LANES == 8
    const __m128i raw = _mm_loadu_si128((const __m128i*)p);
    return (Vi)_mm256_cvtepi8_epi16(Flip ? _mm_xor_si128(raw, _mm_set1_epi8(-128)) : raw);
#else
    __m128i raw = _mm_loadl_epi64((const __m128i*)p);
    if (Flip) raw = _mm_xor_si128(raw, _mm_set1_epi8(-128));
    return (Vi)_mm_srai_epi16(_mm_unpacklo_epi8(raw, raw), 8);
#endif
  }
};

#if OG_LANES == 8
struct Chained : Wide {
  static constexpr int kRows = 8;
  static constexpr bool kChained = true;
};
#endif

#endif

/** What turns the sums of a tile into floats: a number a row, two vectors of columns each. */
struct TileScale {
  const float *rows, *columns, *bias;
};

/** Stores the sums of a tile at `to`, or with `scale` as floats, (sum · row) · column + bias. */
template <int R>
OG_INLINE void store_tile(const Vi (&x)[R][2], int32_t* to, int64_t ld, const TileScale* scale) {
  if (scale) {
    const Vf s0 = load(scale->columns), s1 = load(scale->columns + kLanes);
    const Vf t0 = load(scale->bias), t1 = load(scale->bias + kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < R; i++) {
      store_words(to + i * ld, (Vi)((to_float(x[i][0]) * scale->rows[i]) * s0 + t0));
      store_words(to + i * ld + kLanes, (Vi)((to_float(x[i][1]) * scale->rows[i]) * s1 + t1));
    }
    return;
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; i++) {
    store_words(to + i * ld, x[i][0]);
    store_words(to + i * ld + kLanes, x[i][1]);
  }
}

/** Words of a step of a panel of A. */
template <class Kind>
constexpr int step_words() {
  return Kind::kChained ? Kind::kRows / 4 * 3 : Kind::kRows;
}

/** Whether A' is A with its top bits flipped, and the value that this adds to every zero point of A. */
template <class Kind>
OG_INLINE bool flips_a(bool is_signed) {
  return (!Kind::kWide || Kind::kChained) && is_signed == Kind::kUnsignedA;
}
template <class Kind>
OG_INLINE int32_t shift_of_a(bool is_signed) {
  return flips_a<Kind>(is_signed) ? (is_signed ? 128 : -128) : 0;
}
OG_INLINE int32_t shift_of_b(bool is_signed) { return is_signed ? 0 : -128; }

}  // namespace
}  // namespace og
#endif
