/**
 * Register tiles of the float GEMM: C[R × kNR] = init + A·B, with the float32 sum over k held in vector registers.
 *
 * Packed panels of 32-bit words: A `[step][kMR]`, B `[step][kNR]`, B 64-byte aligned. What a word holds is a Words
 * type: FloatWords  one float32; summed by FMA (SSE2: multiply, then add), in the order of k PairWords   (AVX512_BF16,
 * kBf16Dot) two bfloat16, the even k in the low half; vdpbf16ps: sum = fma(even, fma(odd, sum)), each rounded to
 * nearest even. It takes operands below 2^-126 for zero and flushes results below that. The tile sizes fill the
 * register file: AVX-512 6×64 (24 accumulators of 32), AVX2 6×16 (12 of 16), NEON 8×12 (24 of 32), SSE2 6×8 (12 of
 * 16). AVX-512 takes the wide tile because it needs the fewest loads: 10 for 24 multiply-adds. Ice Lake does two of
 * these a cycle, but little more than one load of 64 bytes (14×32 needs 16 for 28), and issues five instructions,
 * which it may share with another thread.
 *
 * The inner loops of AVX2 and AVX-512 are assembly: the one needs 20 instructions per 6 cycles, and compilers add moves
 * to them; the other saves what counts turns. vdpbf16ps is assembly because an intrinsic of an instruction beyond the
 * file's own set cannot be inlined into a template.
 */
#ifndef OMNIGRAD_CPU_GEMM_TILE_H
#define OMNIGRAD_CPU_GEMM_TILE_H

#include "simd.h"

namespace og {
namespace {

#if OG_LANES == 16
constexpr int kMR = 6, kNV = 4;
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
  const float* next = nullptr;  // of B, to be fetched into L2 meanwhile; or null
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

/** Turns of four steps that a whole tile of AVX-512 leaves after it fetched its lines of C. */
constexpr int64_t kTurnsLeft = 32;

#if OG_LANES == 16
#define OG_ROW(dot, offset, p, q, r, s)                                                                           \
  "vbroadcastss " #offset "(%%rax),%%zmm4\n " dot " %%zmm0,%%zmm4,%" #p "\n " dot " %%zmm1,%%zmm4,%" #q "\n " dot \
  " %%zmm2,%%zmm4,%" #r "\n " dot " %%zmm3,%%zmm4,%" #s "\n"
#define OG_STEP(dot, o0, o1, o2, o3, o4, o5, b0, b1, b2, b3, fetch)                                              \
  "vmovaps " #b0 "(%%rcx),%%zmm0\n vmovaps " #b1 "(%%rcx),%%zmm1\n vmovaps " #b2 "(%%rcx),%%zmm2\n vmovaps " #b3 \
  "(%%rcx),%%zmm3\n" OG_ROW(dot, o0, 0, 1, 2, 3) OG_ROW(dot, o1, 4, 5, 6, 7) OG_ROW(dot, o2, 8, 9, 10, 11) fetch \
  OG_ROW(dot, o3, 12, 13, 14, 15) OG_ROW(dot, o4, 16, 17, 18, 19) OG_ROW(dot, o5, 20, 21, 22, 23)
#define OG_TURN(dot, c0, c1, c2, c3)                                                      \
  OG_STEP(dot, 0, 4, 8, 12, 16, 20, 0, 64, 128, 192, c0 "prefetcht0 4096(%%rax)\n")       \
  OG_STEP(dot, 24, 28, 32, 36, 40, 44, 256, 320, 384, 448, c1 "prefetcht1 (%%r9)\n")      \
  OG_STEP(dot, 48, 52, 56, 60, 64, 68, 512, 576, 640, 704, c2 "prefetcht0 4160(%%rax)\n") \
  OG_STEP(dot, 72, 76, 80, 84, 88, 92, 768, 832, 896, 960, c3)                            \
  "add $96,%%rax\n add $1024,%%rcx\n add $64,%%r9\n"
#define OG_ZERO(i) "vpxord %" #i ",%" #i ",%" #i "\n"
/** Turns at 1, six of which at 4 fetch the lines of C, and those left at 1 again. */
#define OG_PRODUCT_6X64(dot) \
  asm volatile(                                                                                                       \
      OG_ZERO(0) OG_ZERO(1) OG_ZERO(2) OG_ZERO(3) OG_ZERO(4) OG_ZERO(5) OG_ZERO(6) OG_ZERO(7) OG_ZERO(8) OG_ZERO(9)   \
          OG_ZERO(10) OG_ZERO(11) OG_ZERO(12) OG_ZERO(13) OG_ZERO(14) OG_ZERO(15) OG_ZERO(16) OG_ZERO(17) OG_ZERO(18) \
              OG_ZERO(19) OG_ZERO(20) OG_ZERO(21) OG_ZERO(22) OG_ZERO(23)                                             \
      "mov (%[args]),%%rax\n mov 8(%[args]),%%rcx\n mov 16(%[args]),%%rdx\n mov 24(%[args]),%%r8\n"                   \
      "mov 32(%[args]),%%rsi\n mov 40(%[args]),%%rdi\n mov 48(%[args]),%%r9\n"                                        \
      "test %%rdx,%%rdx\n jz 3f\n.p2align 6\n1:\n" OG_TURN(dot, "", "", "", "") "dec %%rdx\n jnz 1b\n3:\n"            \
      "test %%r8,%%r8\n jz 2f\n mov $6,%%edx\n.p2align 6\n4:\n"                                                       \
      OG_TURN(dot, "prefetchw (%%rsi)\n", "prefetchw 64(%%rsi)\n", "prefetchw 128(%%rsi)\n", "prefetchw 192(%%rsi)\n")\
      "add %%rdi,%%rsi\n dec %%rdx\n jnz 4b\n mov %%r8,%%rdx\n xor %%r8d,%%r8d\n jmp 1b\n2:\n"                        \
      : "=&v"(x[0][0]), "=&v"(x[0][1]), "=&v"(x[0][2]), "=&v"(x[0][3]), "=&v"(x[1][0]), "=&v"(x[1][1]),               \
        "=&v"(x[1][2]), "=&v"(x[1][3]), "=&v"(x[2][0]), "=&v"(x[2][1]), "=&v"(x[2][2]), "=&v"(x[2][3]),               \
        "=&v"(x[3][0]), "=&v"(x[3][1]), "=&v"(x[3][2]), "=&v"(x[3][3]), "=&v"(x[4][0]), "=&v"(x[4][1]),               \
        "=&v"(x[4][2]), "=&v"(x[4][3]), "=&v"(x[5][0]), "=&v"(x[5][1]), "=&v"(x[5][2]), "=&v"(x[5][3])                \
      : [args] "r"(args)                                                                                              \
      : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "cc", "memory")
/**
 * x = the sums of so many turns of four steps. They fetch A from L3, which holds more of it than L2, 4 KiB ahead, the
 * panel of B that comes next (out.next), and late, so that they stay in L1, the lines of C. What asm reads lies in
 * memory: it may have 30 operands.
 */
template <class Words>
OG_INLINE void product_6x64(int64_t turns, const float*& a, const float*& b, const TileOut& out, Vf (&x)[6][4]) {
  const bool fetches = turns > kTurnsLeft + 6;
  const struct {
    const float *a, *b;
    int64_t turns, left;
    const float* c;
    int64_t row;
    const float* next;
  } of_asm{a,
           b,
           fetches ? turns - kTurnsLeft - 6 : turns,
           fetches ? kTurnsLeft : 0,
           out.c,
           out.ldc * 4,
           out.next ? out.next : b};
  const void* const args = &of_asm;
  if constexpr (Words::kGroup == 1)
    OG_PRODUCT_6X64("vfmadd231ps");
  else
    OG_PRODUCT_6X64("vdpbf16ps");
  a += turns * 4 * kMR;
  b += turns * 4 * kNR;
}
#undef OG_PRODUCT_6X64
#undef OG_ZERO
#undef OG_TURN
#undef OG_STEP
#undef OG_ROW
#endif

/** Bytes of B fetched ahead where few rows are done with a line before hardware has the next from memory; and whereto.
 */
constexpr int kTileAhead = OG_LANES == 16 ? 16384 : 8192, kAheadInto = OG_LANES == 16 ? 3 : 2;

/**
 * One tile of R ≤ kMR rows and n ≤ V·kLanes columns from packed panels. `Fetch`: these are all rows of the product, so
 * that B comes from memory or the last cache.
 */
template <class Words, int R, int V, bool Fetch>
void tile(int64_t steps, const float* a, const float* b, const TileOut& out, int64_t n) {
  constexpr bool kWhole = OG_LANES == 16 && R == 6 && V == 4 && !Fetch;
  if (!kWhole || steps / 4 <= kTurnsLeft + 6) {
#pragma GCC unroll 16
    for (int i = 0; i < R; i++) {
#pragma GCC unroll 16
      for (int j = 0; j < V * kLanes; j += 16) __builtin_prefetch(out.c + i * out.ldc + j, 1);
      __builtin_prefetch(out.c + i * out.ldc + V * kLanes - 1, 1);
    }
  }
  Vf x[R][V];
#if OG_LANES == 16
  if constexpr (kWhole) product_6x64<Words>(steps / 4, a, b, out, x);
#endif
  if constexpr (!kWhole) {
#pragma GCC unroll 16
    for (int i = 0; i < R; i++)
#pragma GCC unroll 16
      for (int j = 0; j < V; j++) x[i][j] = Vf{};
  }
#if OG_LANES == 8 && defined(__x86_64__)
  if constexpr (R == 6) {
    if (steps >= 4) accumulate_6x16(steps / 4, a, b, x);
    steps %= 4;
  }
#endif
  for (int64_t step = kWhole ? steps / 4 * 4 : 0; step < steps; step++) {
    Vf row[V];
#pragma GCC unroll 16
    for (int j = 0; j < V; j++) row[j] = load(b + j * kLanes);
    if constexpr (Fetch || OG_LANES != 16) {
#pragma GCC unroll 4
      for (int j = 0; j < V * kLanes; j += 16)
        __builtin_prefetch(reinterpret_cast<const char*>(b + j) + kTileAhead, 0, kAheadInto);
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; i++) {
      const Vf v = Words::broadcast(a + i);
#pragma GCC unroll 16
      for (int j = 0; j < V; j++) x[i][j] = Words::dot(v, row[j], x[i][j]);
    }
    a += kMR;
    b += kNR;
  }
  finish_tile(x, out, n);
}

typedef void (*TileFn)(int64_t steps, const float* a, const float* b, const TileOut& out, int64_t n);

/** tile<Words, m, V, Fetch>, for the rows at the lower edge: they cost what they hold. */
template <class Words, int V, bool Fetch>
inline TileFn tile_of_rows(int64_t m) {
  static const TileFn fns[] = {
    tile<Words, 1, V, Fetch>,
    tile<Words, 2, V, Fetch>,
    tile<Words, 3, V, Fetch>,
    tile<Words, 4, V, Fetch>,
    tile<Words, 5, V, Fetch>,
    tile<Words, 6, V, Fetch>,
#if defined(__aarch64__)
    tile<Words, 7, V, Fetch>,
    tile<Words, 8, V, Fetch>,
#endif
  };
  return fns[(m < kMR ? m : kMR) - 1];
}

#if OG_LANES == 16
/**
 * Seven or eight rows, all of a product: more sums than registers. Two halves of the columns in turn, so many steps at
 * a time that the second finds B in L1. Rows beyond kMR are in the panel of A that follows.
 */
template <class Words, int R>
void tall_tile(int64_t steps, const float* a, const float* b, const TileOut& out, int64_t n) {
  constexpr int V = kNV / 2, kHalf = V * kLanes;
  // into L2: an L1 of 32 KB loses lines that come 8 KB and more ahead, beside the 8 KB that both halves read
  constexpr int64_t kSteps = 32;
  constexpr int kAhead = 8192;
  alignas(64) float sums[2][R][kHalf];
  const float* more = a + kMR * steps;
  for (int64_t first = 0; first < steps; first += kSteps) {
    const int64_t last = first + kSteps < steps ? first + kSteps : steps;
    for (int h = 0; h * kHalf < (n < kNR ? n : kNR); h++) {
      Vf x[R][V];
#pragma GCC unroll 16
      for (int i = 0; i < R; i++)
#pragma GCC unroll 16
        for (int j = 0; j < V; j++) x[i][j] = first ? load(&sums[h][i][j * kLanes]) : Vf{};
      for (int64_t step = first; step < last; step++) {
        const float* from = b + step * kNR + h * kHalf;
        Vf row[V];
#pragma GCC unroll 16
        for (int j = 0; j < V; j++) row[j] = load(from + j * kLanes);
#pragma GCC unroll 16
        for (int i = 0; i < R; i++) {
          const Vf v = Words::broadcast((i < kMR ? a + i : more + (i - kMR)) + step * kMR);
#pragma GCC unroll 16
          for (int j = 0; j < V; j++) x[i][j] = Words::dot(v, row[j], x[i][j]);
        }
#pragma GCC unroll 16
        for (int j = 0; j < V; j++) __builtin_prefetch(reinterpret_cast<const char*>(from + j * kLanes) + kAhead, 0, 2);
      }
      if (last == steps) {
        finish_tile(x, {out.c + h * kHalf, out.ldc, out.init ? out.init + h * kHalf : nullptr, out.ldi}, n - h * kHalf);
        continue;
      }
#pragma GCC unroll 16
      for (int i = 0; i < R; i++)
#pragma GCC unroll 16
        for (int j = 0; j < V; j++) store(&sums[h][i][j * kLanes], x[i][j]);
    }
  }
}
#endif

/** The tile of m rows and n columns; of the wide one of AVX-512, as many vectors as they need. */
template <class Words, bool Fetch = false>
inline TileFn tile_of(int64_t m, [[maybe_unused]] int64_t n) {
#if OG_LANES == 16
  if (!Fetch && n <= 16) return tile_of_rows<Words, 1, false>(m);
  if (!Fetch && n <= 32) return tile_of_rows<Words, 2, false>(m);
#endif
  return tile_of_rows<Words, kNV, Fetch>(m);
}

}  // namespace
}  // namespace og
#endif
