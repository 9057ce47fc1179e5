/**
 * The dot products of weight_panel_loops.h by instruction set (a Kind): unsigned codes times signed activations, four
 * of each in a 32-bit lane, summed over a block of 32.
 *
 * Panels hold 4-bit codes as they are, [0, 15], and 8-bit codes as code + 128 (uint8 codes as they are) in [0, 255],
 * less 128 where kSignedBytes is set. Everything is exact: Vnni and NEON's sdot sum in int32; vpmaddubsw of 4-bit codes
 * gives at most 2·15·127, so eight of them stay in an int16 (30480) and one vpmaddwd closes the block; bytes beyond
 * that are split into even and odd int16 and go through vpmaddwd.
 */
#ifndef OMNIGRAD_CPU_WEIGHT_PANEL_KINDS_H
#define OMNIGRAD_CPU_WEIGHT_PANEL_KINDS_H

#include "gemm_int8_kinds.h"

namespace og {
namespace {

/** Columns of a panel in vectors. All kinds of a set have the same, and so read the same panels. */
constexpr int kPanelVectors = 2;
constexpr int kPanelColumns = kPanelVectors * kLanes;

#if OG_LANES == 8
/**
 * What comes is added to this sum, not to something else first: GCC 12 adds up in pairs where it can, for which a tile
 * of four rows has no registers, and moves dozens of products through memory.
 */
OG_INLINE void add_in_turn(Vi& sum) { asm("" : "+x"(sum)); }
#endif

#if OG_LANES == 16
struct PanelVnni {
  static constexpr int kRows = 6;
  static constexpr bool kSignedBytes = false;
  /** Whether sums are int32 from the start, so that they can begin with a number. */
  static constexpr bool whole(int) { return true; }
  template <int kBits>
  using Sum = Vi;
  template <int kBits>
  static inline __attribute__((always_inline, target("avx512vnni"))) Vi add(Vi sum, Vi w, Vi x) {
    return (Vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, (__m512i)x);
  }
  template <int kBits>
  static OG_INLINE Vi close(Vi sum) {
    return sum;
  }
};
#endif

#if defined(__x86_64__)
struct PanelPairs {
  static constexpr int kRows = OG_LANES == 16 ? 6 : OG_LANES == 8 ? 4 : 2;
  static constexpr bool kSignedBytes = OG_LANES == 8;
  static constexpr bool kHasBytePairs = OG_LANES > 4;  // SSE2 has no vpmaddubsw
  static constexpr bool whole(int bits) { return bits == 8 || !kHasBytePairs; }
  template <int kBits>
  using Sum = Vi;

#if OG_LANES == 16
  static OG_INLINE Vi pairs(Vi a, Vi b) { return (Vi)_mm512_madd_epi16((__m512i)a, (__m512i)b); }
  static OG_INLINE Vi odd(Vi x) { return (Vi)_mm512_srai_epi16((__m512i)x, 8); }
  static OG_INLINE Vi even(Vi x) { return odd((Vi)_mm512_slli_epi16((__m512i)x, 8)); }
  static OG_INLINE Vi high(Vi x) { return (Vi)_mm512_srli_epi16((__m512i)x, 8); }
  static OG_INLINE Vi ones() { return (Vi)_mm512_set1_epi16(1); }
  static OG_INLINE Vi byte_pairs(Vi sum, Vi w, Vi x) {
    return (Vi)_mm512_add_epi16((__m512i)sum, _mm512_maddubs_epi16((__m512i)w, (__m512i)x));
  }
#elif OG_LANES == 8
  static OG_INLINE Vi pairs(Vi a, Vi b) { return (Vi)_mm256_madd_epi16((__m256i)a, (__m256i)b); }
  static OG_INLINE Vi odd(Vi x) { return (Vi)_mm256_srai_epi16((__m256i)x, 8); }
  static OG_INLINE Vi even(Vi x) { return odd((Vi)_mm256_slli_epi16((__m256i)x, 8)); }
  static OG_INLINE Vi high(Vi x) { return (Vi)_mm256_srli_epi16((__m256i)x, 8); }
  static OG_INLINE Vi ones() { return (Vi)_mm256_set1_epi16(1); }
  static OG_INLINE Vi byte_pairs(Vi sum, Vi w, Vi x) {
    return (Vi)_mm256_add_epi16((__m256i)sum, _mm256_maddubs_epi16((__m256i)w, (__m256i)x));
  }
#else
  static OG_INLINE Vi pairs(Vi a, Vi b) { return (Vi)_mm_madd_epi16((__m128i)a, (__m128i)b); }
  static OG_INLINE Vi odd(Vi x) { return (Vi)_mm_srai_epi16((__m128i)x, 8); }
  static OG_INLINE Vi even(Vi x) { return odd((Vi)_mm_slli_epi16((__m128i)x, 8)); }
  static OG_INLINE Vi high(Vi x) { return (Vi)_mm_srli_epi16((__m128i)x, 8); }
  static OG_INLINE Vi ones() { return (Vi)_mm_set1_epi16(1); }
  static OG_INLINE Vi byte_pairs(Vi, Vi w, Vi) { return w; }
#endif
  template <int kBits>
  static OG_INLINE Vi add(Vi sum, Vi w, Vi x) {
    if (!whole(kBits)) return byte_pairs(sum, w, x);
#if OG_LANES == 8  // |w| · (x with w's sign): at most 2·128·127 in an int16
    const __m256i magnitude = _mm256_abs_epi8((__m256i)w), turned = _mm256_sign_epi8((__m256i)x, (__m256i)w);
    return add_words(sum, pairs((Vi)_mm256_maddubs_epi16(magnitude, turned), ones()));
#else
    return add_words(add_words(sum, pairs(w & 0x00ff00ff, even(x))), pairs(high(w), odd(x)));
#endif
  }
  template <int kBits>
  static OG_INLINE Vi close(Vi sum) {
    return whole(kBits) ? sum : pairs(sum, ones());
  }
};
#elif defined(__aarch64__)
struct PanelNeon {
  static constexpr int kRows = 4;
  static constexpr bool kSignedBytes = true;
  static constexpr bool whole(int bits) { return bits == 8; }
  /** Products of 4-bit codes by int16 lane: eight stay below 8·15·127. */
  struct Lanes {
    int16x8_t low, high;
  };
  template <int kBits>
  using Sum = std::conditional_t<kBits == 4, Lanes, Vi>;
  template <int kBits>
  static OG_INLINE Sum<kBits> add(Sum<kBits> sum, Vi w, Vi x) {
    const int8x16_t a = (int8x16_t)w, b = (int8x16_t)x;
    if constexpr (kBits == 4)
      return {vmlal_s8(sum.low, vget_low_s8(a), vget_low_s8(b)), vmlal_high_s8(sum.high, a, b)};
    else
      return Neon::dot(sum, w, x);
  }
  template <int kBits>
  static OG_INLINE Vi close(Sum<kBits> sum) {
    if constexpr (kBits == 4)
      return (Vi)vpaddq_s32(vpaddlq_s16(sum.low), vpaddlq_s16(sum.high));
    else
      return sum;
  }
};
struct PanelNeonDot {
  static constexpr int kRows = 6;
  static constexpr bool kSignedBytes = true;
  static constexpr bool whole(int) { return true; }
  template <int kBits>
  using Sum = Vi;
  template <int kBits>
  static OG_DOT_INLINE Vi add(Vi sum, Vi w, Vi x) {
    return NeonDot::dot(sum, w, x);
  }
  template <int kBits>
  static OG_INLINE Vi close(Vi sum) {
    return sum;
  }
};
#endif

}  // namespace
}  // namespace og
#endif
