/**
 * The inner loops of the int8 tile of six rows and two vectors on AVX2, in assembly: GCC 12 keeps one of the twelve
 * sums of the three-op dot in memory (5 % slower), and widens in an order that costs as much.
 *
 * Twelve registers hold sums. Three-op: one of ones, two of products, B as memory operand. Wide: two of B, two of
 * products.
 */
#ifndef OMNIGRAD_CPU_GEMM_INT8_SIX_ROWS_H
#define OMNIGRAD_CPU_GEMM_INT8_SIX_ROWS_H

#include "simd.h"

#if OG_LANES == 8

namespace og {
namespace {

// Instructions stand one a line.
// clang-format off

/** The sums of six rows as operands, two a row. */
#define OG_SIX_ROWS(X)                                                                                  \
  [x0] "+x"(X[0][0]), [y0] "+x"(X[0][1]), [x1] "+x"(X[1][0]), [y1] "+x"(X[1][1]), [x2] "+x"(X[2][0]),   \
  [y2] "+x"(X[2][1]), [x3] "+x"(X[3][0]), [y3] "+x"(X[3][1]), [x4] "+x"(X[4][0]), [y4] "+x"(X[4][1]),   \
  [x5] "+x"(X[5][0]), [y5] "+x"(X[5][1])

/** ROW for six rows; A and B: where the step begins. */
#define OG_STEP(ROW, A, B)              \
  ROW("0+" A, B, "x0", "y0")            \
  ROW("4+" A, B, "x1", "y1")            \
  ROW("8+" A, B, "x2", "y2")            \
  ROW("12+" A, B, "x3", "y3")           \
  ROW("16+" A, B, "x4", "y4")           \
  ROW("20+" A, B, "x5", "y5")

#define OG_THREE_OP_ROW(A, B, X, Y)                   \
  "vpbroadcastd " A "(%[a]), %%ymm13\n"               \
  "vpmaddubsw " B "(%[b]), %%ymm13, %%ymm14\n"        \
  "vpmaddubsw 32+" B "(%[b]), %%ymm13, %%ymm13\n"     \
  "vpmaddwd %%ymm12, %%ymm14, %%ymm14\n"              \
  "vpmaddwd %%ymm12, %%ymm13, %%ymm13\n"              \
  "vpaddd %%ymm14, %t[" X "], %t[" X "]\n"            \
  "vpaddd %%ymm13, %t[" Y "], %t[" Y "]\n"

/**
 * x += A'·B' over `pairs` of steps of four k, where the sum of two products fits an int16. B is fetched ahead into L2,
 * as in the loops that this stands for.
 */
OG_INLINE void three_op_six_rows(int64_t pairs, const int32_t* a, const uint8_t* b, Vi (&x)[6][2]) {
  if (pairs <= 0) return;
  asm volatile(
      "vpcmpeqd %%ymm12, %%ymm12, %%ymm12\n"
      "vpsrlw $15, %%ymm12, %%ymm12\n"  // ones
      ".p2align 5\n"
      "1:\n"
      "prefetcht1 8192(%[b])\n"
      OG_STEP(OG_THREE_OP_ROW, "0", "0")
      "prefetcht1 64+8192(%[b])\n"
      OG_STEP(OG_THREE_OP_ROW, "24", "64")
      "add $48, %[a]\n"
      "sub $-128, %[b]\n"
      "dec %[pairs]\n"
      "jnz 1b\n"
      : OG_SIX_ROWS(x), [a] "+r"(a), [b] "+r"(b), [pairs] "+r"(pairs)
      :
      : "xmm12", "xmm13", "xmm14", "memory", "cc");
}

#define OG_WIDE_ROW(A, B, X, Y)              \
  "vpbroadcastd " A "(%[a]), %%ymm14\n"      \
  "vpmaddwd %%ymm12, %%ymm14, %%ymm15\n"     \
  "vpmaddwd %%ymm13, %%ymm14, %%ymm14\n"     \
  "vpaddd %%ymm15, %t[" X "], %t[" X "]\n"   \
  "vpaddd %%ymm14, %t[" Y "], %t[" Y "]\n"
#define OG_WIDE_STEP(A, B)                   \
  "vpmovsxbw " B "(%[b]), %%ymm12\n"         \
  "vpmovsxbw 16+" B "(%[b]), %%ymm13\n"      \
  OG_STEP(OG_WIDE_ROW, A, B)

#define OG_WIDE_LOOP(FETCH)                                               \
  asm volatile(                                                           \
      ".p2align 5\n"                                                      \
      "1:\n"                                                              \
      FETCH                                                               \
      OG_WIDE_STEP("0", "0")                                              \
      OG_WIDE_STEP("24", "32")                                            \
      "add $48, %[a]\n"                                                   \
      "add $64, %[b]\n"                                                   \
      "dec %[pairs]\n"                                                    \
      "jnz 1b\n"                                                          \
      : OG_SIX_ROWS(x), [a] "+r"(a), [b] "+r"(b), [pairs] "+r"(pairs)     \
      :                                                                   \
      : "xmm12", "xmm13", "xmm14", "xmm15", "memory", "cc")

/** The same over pairs of steps of two k, for any bytes; A' as int16. `Fetch`: B is not in L2 yet. */
template <bool Fetch>
OG_INLINE void wide_six_rows(int64_t pairs, const int32_t* a, const uint8_t* b, Vi (&x)[6][2]) {
  if (pairs <= 0) return;
  if (Fetch)
    OG_WIDE_LOOP("prefetcht1 8192(%[b])\n");
  else
    OG_WIDE_LOOP("");
}

// clang-format on

#undef OG_SIX_ROWS
#undef OG_STEP
#undef OG_THREE_OP_ROW
#undef OG_WIDE_ROW
#undef OG_WIDE_STEP
#undef OG_WIDE_LOOP

}  // namespace
}  // namespace og
#endif
#endif
