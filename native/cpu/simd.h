/**
 * Float vectors of the instruction set a kernel file is being compiled for (OG_ISA, see sources.cjs). A kernel is
 * written once against Vf/Vi and kLanes; GCC and clang vector extensions give the arithmetic, and only what they
 * cannot express is an intrinsic. Everything has internal linkage, so no instruction-set copy can replace another.
 *
 * `reference` sees none of this: there a kernel compiles its plain definition.
 */
#ifndef OMNIGRAD_CPU_SIMD_H
#define OMNIGRAD_CPU_SIMD_H

#include <cstdint>
#include <cstring>

#include "../core/dtype.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
#define OG_LANES 16
#elif defined(__AVX2__)
#define OG_LANES 8
#else
#define OG_LANES 4
#endif

namespace og {
namespace {

constexpr int kLanes = OG_LANES;

typedef float Vf __attribute__((vector_size(OG_LANES * 4)));
typedef int32_t Vi __attribute__((vector_size(OG_LANES * 4)));
typedef uint32_t Vu __attribute__((vector_size(OG_LANES * 4)));
typedef float VfUnaligned __attribute__((vector_size(OG_LANES * 4), aligned(4), may_alias));
typedef int32_t ViUnaligned __attribute__((vector_size(OG_LANES * 4), aligned(4), may_alias));

#define OG_INLINE inline __attribute__((always_inline))

OG_INLINE Vf load(const float* p) { return *reinterpret_cast<const VfUnaligned*>(p); }
OG_INLINE void store(float* p, Vf v) { *reinterpret_cast<VfUnaligned*>(p) = v; }
OG_INLINE void prefetch(const void* p) { __builtin_prefetch(p); }
OG_INLINE Vf set1(float x) { return x - Vf{}; }
OG_INLINE Vi set1(int32_t x) { return x - Vi{}; }
OG_INLINE Vi bits(Vf v) { return (Vi)v; }
OG_INLINE Vf as_float(Vi v) { return (Vf)v; }

/** The first n lanes, the rest `fill`. Never touches memory beyond p[n-1]. */
OG_INLINE Vf load_partial(const float* p, int64_t n, float fill = 0.f) {
#if defined(__AVX512F__)
  return (Vf)_mm512_mask_loadu_ps((__m512)set1(fill), (__mmask16)((1u << n) - 1u), p);
#elif defined(__AVX2__)
  const Vi mask = Vi{0, 1, 2, 3, 4, 5, 6, 7} < set1((int32_t)n);
  const Vf v = (Vf)_mm256_maskload_ps(p, (__m256i)mask);
  return mask ? v : set1(fill);
#else
  Vf v = set1(fill);
  std::memcpy(&v, p, (size_t)n * 4);
  return v;
#endif
}
OG_INLINE void store_partial(float* p, Vf v, int64_t n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1u), (__m512)v);
#elif defined(__AVX2__)  // masked stores are microcode on Zen 3
  __m128 q = _mm256_castps256_ps128((__m256)v);
  if (n & 4) {
    _mm_storeu_ps(p, q);
    q = _mm256_extractf128_ps((__m256)v, 1);
    p += 4;
  }
  if (n & 2) {
    _mm_storel_pi((__m64*)p, q);
    q = _mm_movehl_ps(q, q);
    p += 2;
  }
  if (n & 1) _mm_store_ss(p, q);
#else
  std::memcpy(p, &v, (size_t)n * 4);
#endif
}

/**
 * mask lanes are all ones or all zeros, as comparisons give them. Written as a conditional, not as bit operations: only
 * then do compilers find vmaxps, blends and AVX-512 mask registers.
 */
OG_INLINE Vf select(Vi mask, Vf yes, Vf no) { return mask ? yes : no; }

OG_INLINE Vf fma(Vf a, Vf b, Vf c) {
#if defined(__AVX512F__)
  return (Vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (Vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  return (Vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

/**
 * Largest (smallest) operand; if either is NaN the result is the second (x86 rule): max_second(bound, x) keeps a NaN of
 * x, max_second(x, accumulator) drops it. Spelled out, because compilers turn the comparison round next to constants.
 */
OG_INLINE Vf max_second(Vf a, Vf b) {
#if defined(__AVX512F__)
  return (Vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (Vf)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__x86_64__)
  return (Vf)_mm_max_ps((__m128)a, (__m128)b);
#else
  return select(a > b, a, b);
#endif
}
OG_INLINE Vf min_second(Vf a, Vf b) {
#if defined(__AVX512F__)
  return (Vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (Vf)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__x86_64__)
  return (Vf)_mm_min_ps((__m128)a, (__m128)b);
#else
  return select(a < b, a, b);
#endif
}
/** NaN in either operand gives NaN. */
OG_INLINE Vf max_nan(Vf a, Vf b) { return select((a > b) | (a != a), a, b); }
OG_INLINE Vf min_nan(Vf a, Vf b) { return select((a < b) | (a != a), a, b); }
OG_INLINE Vf abs(Vf a) { return (Vf)((Vi)a & 0x7fffffff); }
OG_INLINE Vf copysign(Vf magnitude, Vf sign) {
  return (Vf)(((Vi)magnitude & 0x7fffffff) | ((Vi)sign & (Vi)(Vu{} + 0x80000000u)));
}

OG_INLINE Vf sqrt(Vf a) {
#if defined(__AVX512F__)
  return (Vf)_mm512_sqrt_ps((__m512)a);
#elif defined(__AVX2__)
  return (Vf)_mm256_sqrt_ps((__m256)a);
#elif defined(__x86_64__)
  return (Vf)_mm_sqrt_ps((__m128)a);
#else
  return (Vf)vsqrtq_f32((float32x4_t)a);
#endif
}

/** Nearest integer, ties to even; |a| must be below 2^22 (the polynomials guarantee it). */
OG_INLINE Vf round_small(Vf a) {
  const Vf magic = set1(12582912.f);  // 1.5 · 2^23
  return (a + magic) - magic;
}
OG_INLINE Vi to_int(Vf a) { return __builtin_convertvector(a, Vi); }
OG_INLINE Vf to_float(Vi a) { return __builtin_convertvector(a, Vf); }

/** All lanes by one operation, half with half. */
template <class Op>
OG_INLINE float fold_lanes(Vf v, const Op& op) {
#if defined(__AVX512F__)
  const __m256 half = op(_mm512_castps512_ps256((__m512)v), _mm512_extractf32x8_ps((__m512)v, 1));
#elif defined(__AVX2__)
  const __m256 half = (__m256)v;
#endif
#if defined(__AVX2__)
  __m128 q = op(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  q = op(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(op(q, _mm_shuffle_ps(q, q, 1)));
#else
  return op(op(v[0], v[2]), op(v[1], v[3]));
#endif
}
struct SumOp {
  template <class T>
  OG_INLINE T operator()(T a, T b) const {
    return a + b;
  }
};
struct MaxOp {
#if defined(__AVX2__)
  OG_INLINE __m256 operator()(__m256 a, __m256 b) const { return _mm256_max_ps(a, b); }
  OG_INLINE __m128 operator()(__m128 a, __m128 b) const { return _mm_max_ps(a, b); }
#endif
  OG_INLINE float operator()(float a, float b) const { return a > b ? a : b; }
};

OG_INLINE float sum(Vf v) { return fold_lanes(v, SumOp{}); }
/** Largest lane where none is NaN. */
OG_INLINE float max_number(Vf v) { return fold_lanes(v, MaxOp{}); }
/** Largest lane, NaN if any lane is. */
OG_INLINE float max_lane(Vf v) {
#if defined(__AVX512F__)
  const bool some = _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q) != 0;
#elif defined(__AVX2__)
  const bool some = _mm256_movemask_ps(_mm256_cmp_ps((__m256)v, (__m256)v, _CMP_UNORD_Q)) != 0;
#else
  const bool some = v[0] != v[0] || v[1] != v[1] || v[2] != v[2] || v[3] != v[3];
#endif
  return some ? __builtin_nanf("") : max_number(v);
}
OG_INLINE float min_lane(Vf v) { return -max_lane(-v); }

#if !defined(__AVX2__) && !defined(__aarch64__)
/** Out of line: a dozen instructions an element, which kernels would repeat in every unrolled loop. */
__attribute__((noinline)) inline Vf widen_halves(const f16* p) {
  Vf v;
  for (int i = 0; i < kLanes; i++) v[i] = og::to_float(p[i]);
  return v;
}
#endif
/** kLanes halves, widened. */
OG_INLINE Vf load(const f16* p) {
#if defined(__AVX512F__)
  return (Vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif defined(__AVX2__)
  return (Vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#elif defined(__aarch64__)
  return (Vf)vcvt_f32_f16(vld1_f16((const __fp16*)p));
#else
  return widen_halves(p);
#endif
}
OG_INLINE Vf load(const bf16* p) {
#if defined(__AVX512F__)
  return (Vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16);
#elif defined(__AVX2__)
  return (Vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16);
#elif defined(__aarch64__)
  return (Vf)vshlq_n_u32(vmovl_u16(vld1_u16((const uint16_t*)p)), 16);
#elif defined(__SSE2__)
  return (Vf)_mm_unpacklo_epi16(_mm_setzero_si128(), _mm_loadl_epi64((const __m128i*)p));
#else
  Vf v;
  for (int i = 0; i < kLanes; i++) v[i] = og::to_float(p[i]);
  return v;
#endif
}
OG_INLINE void store(f16* p, Vf v) {
#if defined(__AVX512F__)
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__AVX2__)
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__aarch64__)
  vst1_f16((__fp16*)p, vcvt_f16_f32((float32x4_t)v));
#else
  for (int i = 0; i < kLanes; i++) p[i] = to_f16(v[i]);
#endif
}
OG_INLINE void store(bf16* p, Vf v) {
  const Vi u = (Vi)v;
  const Vi rounded = (Vi)((Vu)u + 0x7fffu + (((Vu)u >> 16) & 1u));
  const Vi quiet = u | 0x400000;
  const Vi r = ((v != v) & quiet) | (~(v != v) & rounded);
#if defined(__AVX512F__)
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32((__m512i)r, 16)));
#elif defined(__AVX2__)
  const __m256i top = _mm256_srai_epi32((__m256i)r, 16);  // fits int16: packing does not saturate
  _mm_storeu_si128((__m128i*)p, _mm_packs_epi32(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1)));
#elif defined(__aarch64__)
  vst1_u16((uint16_t*)p, vshrn_n_u32((uint32x4_t)r, 16));
#elif defined(__SSE2__)
  const __m128i top = _mm_srai_epi32((__m128i)r, 16);
  _mm_storel_epi64((__m128i*)p, _mm_packs_epi32(top, top));
#else
  for (int i = 0; i < kLanes; i++) p[i].bits = (uint16_t)((uint32_t)r[i] >> 16);
#endif
}

}  // namespace
}  // namespace og
#endif
