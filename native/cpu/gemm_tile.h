/**
 * Register tiles of the float GEMM: C[R × kNR] = init + A·B, with the float32 sum over k held in vector registers.
 *
 * Packed panels of 32-bit words: A `[step][kMR]`, B `[step][kNR]`, B 64-byte aligned. What a word holds is a Words
 * type: FloatWords  one float32; summed by FMA (SSE2: multiply, then add), in the order of k PairWords   (AVX512_BF16,
 * kBf16Dot) two bfloat16, the even k in the low half; vdpbf16ps: sum = fma(even, fma(odd, sum)), each rounded to
 * nearest even. It takes operands below 2^-126 for zero and flushes results below that. The tile sizes fill the
 * register file: AVX-512 14×32 (28 accumulators of 32), AVX2 6×16 (12 of 16), NEON 8×12 (24 of 32), SSE2 6×8 (12 of
 * 16). The inner loop of AVX2 is assembly: it needs 20 instructions per 6 cycles, and compilers add moves to them.
 * vdpbf16ps is assembly because an intrinsic of an instruction beyond the file's own set cannot be inlined into a
 * template.
 */
#ifndef OMNIGRAD_CPU_GEMM_TILE_H
#define OMNIGRAD_CPU_GEMM_TILE_H

#include "simd.h"

namespace og {
namespace {

#if OG_LANES == 16
constexpr int kMR = 14, kNV = 2;
#elif OG_LANES == 8
constexpr int kMR = 6, kNV = 2;
#elif defined(__aarch64__)
constexpr int kMR = 8, kNV = 3;
#else
constexpr int kMR = 6, kNV = 2;
#endif
constexpr int kNR = kNV * kLanes;

struct FloatWords {
  static constexpr int kGroup = 1;
  static OG_INLINE Vf broadcast(const float* word) { return set1(*word); }
  static OG_INLINE Vf dot(Vf a, Vf b, Vf sum) { return fma(a, b, sum); }
};

#if OG_LANES == 16
struct PairWords {
  static constexpr int kGroup = 2;
  static OG_INLINE Vf broadcast(const float* word) { return (Vf)_mm512_set1_ps(*word); }
  static OG_INLINE Vf dot(Vf a, Vf b, Vf sum) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
  }
};
#endif

/** How many of the `left` remaining elements the vector that starts `offset` further on holds. */
OG_INLINE int lanes_left(int64_t left, int offset) {
  const int64_t n = left - offset;
  return n >= kLanes ? kLanes : n > 0 ? (int)n : 0;
}

/** The first n of kLanes elements (0 ≤ n ≤ kLanes), the rest zero; memory beyond them is not touched. */
OG_INLINE Vf load_first(const float* p, int n) {
#if OG_LANES == 16
  return (Vf)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1u), p);
#elif OG_LANES == 8
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return (Vf)_mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane));
#else
  Vf v{};
  for (int i = 0; i < n; i++) v[i] = p[i];
  return v;
#endif
}

OG_INLINE void store_first(float* p, Vf v, int n) {
#if OG_LANES == 16
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1u), (__m512)v);
#elif OG_LANES == 8
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  _mm256_maskstore_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane), (__m256)v);
#else
  for (int i = 0; i < n; i++) p[i] = v[i];
#endif
}

/** Where a finished tile goes, and what it starts from: init may be C itself, a bias (row stride 0), or null for zero.
 */
struct TileOut {
  float* c;
  int64_t ldc;
  const float* init;
  int64_t ldi;
};

template <int R, int V>
OG_INLINE void finish_tile(Vf (&x)[R][V], const TileOut& out, int64_t n) {
  if (n >= V * kLanes) {
#pragma GCC unroll 16
    for (int i = 0; i < R; i++) {
#pragma GCC unroll 16
      for (int j = 0; j < V; j++) {
        Vf v = x[i][j];
        if (out.init) v += load(out.init + i * out.ldi + j * kLanes);
        store(out.c + i * out.ldc + j * kLanes, v);
      }
    }
    return;
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; i++) {
#pragma GCC unroll 16
    for (int j = 0; j < V; j++) {
      const int left = lanes_left(n, j * kLanes);
      Vf v = x[i][j];
      if (out.init) v += load_first(out.init + i * out.ldi + j * kLanes, left);
      store_first(out.c + i * out.ldc + j * kLanes, v, left);
    }
  }
}

#if OG_LANES == 8 && defined(__x86_64__)
#define OG_ROW(offset, t, p, q)                                                       \
  "vbroadcastss " #offset "(%[a]),%%ymm" #t "\n vfmadd231ps %%ymm12,%%ymm" #t ",%" #p \
  "\n vfmadd231ps %%ymm13,%%ymm" #t ",%" #q "\n"
#define OG_STEP(o0, o1, o2, o3, o4, o5, b0, b1)                                                               \
  "vmovaps " #b0 "(%[b]),%%ymm12\n vmovaps " #b1 "(%[b]),%%ymm13\n" OG_ROW(o0, 14, 0, 1) OG_ROW(o1, 15, 2, 3) \
      OG_ROW(o2, 14, 4, 5) OG_ROW(o3, 15, 6, 7) OG_ROW(o4, 14, 8, 9) OG_ROW(o5, 15, 10, 11)
/** Four steps of k per turn; b is biased by 128 bytes so that every displacement fits in one byte. */
OG_INLINE void accumulate_6x16(int64_t turns, const float*& a, const float*& b, Vf (&x)[6][2]) {
  const float* biased = b + 32;
  asm volatile(".p2align 5\n1:\n" OG_STEP(0, 4, 8, 12, 16, 20, -128, -96) OG_STEP(24, 28, 32, 36, 40, 44, -64, -32)
                   OG_STEP(48, 52, 56, 60, 64, 68, 0, 32)
                       OG_STEP(72, 76, 80, 84, 88, 92, 64, 96) "add $96,%[a]\n add $256,%[b]\n dec %[turns]\n jnz 1b\n"
               : "+x"(x[0][0]), "+x"(x[0][1]), "+x"(x[1][0]), "+x"(x[1][1]), "+x"(x[2][0]), "+x"(x[2][1]),
                 "+x"(x[3][0]), "+x"(x[3][1]), "+x"(x[4][0]), "+x"(x[4][1]), "+x"(x[5][0]),
                 "+x"(x[5][1]), [a] "+r"(a), [b] "+r"(biased), [turns] "+r"(turns)
               :
               : "xmm12", "xmm13", "xmm14", "xmm15", "cc", "memory");
  b = biased - 32;
}
#undef OG_STEP
#undef OG_ROW
#endif

/** Bytes of B fetched ahead, into L2, where few rows are done with a line before hardware has the next from memory. */
constexpr int kTileAhead = 8192;

/** One tile of R ≤ kMR rows and n ≤ kNR columns from packed panels. */
template <class Words, int R>
void tile(int64_t steps, const float* a, const float* b, const TileOut& out, int64_t n) {
  Vf x[R][kNV];
#pragma GCC unroll 16
  for (int i = 0; i < R; i++) {
    __builtin_prefetch(out.c + i * out.ldc, 1);
    __builtin_prefetch(out.c + i * out.ldc + kNR - 1, 1);
#pragma GCC unroll 16
    for (int j = 0; j < kNV; j++) x[i][j] = Vf{};
  }
#if OG_LANES == 8 && defined(__x86_64__)
  if constexpr (R == 6) {
    if (steps >= 4) accumulate_6x16(steps / 4, a, b, x);
    steps %= 4;
  }
#endif
  for (int64_t step = 0; step < steps; step++) {
    Vf row[kNV];
#pragma GCC unroll 16
    for (int j = 0; j < kNV; j++) row[j] = load(b + j * kLanes);
    if constexpr (R <= 8) {
      __builtin_prefetch(reinterpret_cast<const char*>(b) + kTileAhead, 0, 2);
      if (kNR > 16) __builtin_prefetch(reinterpret_cast<const char*>(b) + kTileAhead + 64, 0, 2);
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; i++) {
      const Vf v = Words::broadcast(a + i);
#pragma GCC unroll 16
      for (int j = 0; j < kNV; j++) x[i][j] = Words::dot(v, row[j], x[i][j]);
    }
    a += kMR;
    b += kNR;
  }
  finish_tile(x, out, n);
}

typedef void (*TileFn)(int64_t steps, const float* a, const float* b, const TileOut& out, int64_t n);

/** tile<Words, m>, for the rows at the lower edge: they cost what they hold. */
template <class Words>
inline TileFn tile_of(int64_t m) {
  static const TileFn fns[] = {
    tile<Words, 1>,
    tile<Words, 2>,
    tile<Words, 3>,
    tile<Words, 4>,
    tile<Words, 5>,
    tile<Words, 6>,
#if OG_LANES == 16 || defined(__aarch64__)
    tile<Words, 7>,
    tile<Words, 8>,
#endif
#if OG_LANES == 16
    tile<Words, 9>,
    tile<Words, 10>,
    tile<Words, 11>,
    tile<Words, 12>,
    tile<Words, 13>,
    tile<Words, 14>,
#endif
  };
  return fns[(m < kMR ? m : kMR) - 1];
}

}  // namespace
}  // namespace og
#endif
