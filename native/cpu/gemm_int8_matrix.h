/**
 * The inner loops of the int8 GEMM for arm64's smmla, which multiplies 2 × 8 by 8 × 2 bytes: a tile is made of blocks
 * of two rows and two columns. Few rows and everything else as gemm_int8_loops.h for sdot.
 */
namespace og {
namespace {

struct NeonMatrixLoops : NeonDotLoops {
  typedef NeonMatrix Kind;

  /** As NeonDotLoops::tile. R is even: rows come in pairs, and those beyond the panel's are zeros. */
  template <int R>
  OG_MATRIX_TARGET static void tile(int64_t steps, const int32_t* a, const uint8_t* b, const int32_t* add, int32_t* to,
                                    int64_t ld, const TileScale* scale) {
    constexpr int kPairs = kColumns / 2;
    int32x4_t sum[R / 2][kPairs];
#pragma GCC unroll 4
    for (int j = 0; j < kPairs; j++) {
      const int32x2_t first = vld1_s32(add + 2 * j);
#pragma GCC unroll 4
      for (int i = 0; i < R / 2; i++) sum[i][j] = vcombine_s32(first, first);
    }
    const int8_t* rows = reinterpret_cast<const int8_t*>(a);
    const int8_t* columns = reinterpret_cast<const int8_t*>(b);
    for (int64_t k = 0; k < steps; k++) {
      int8x16_t w[kPairs];
#pragma GCC unroll 4
      for (int j = 0; j < kPairs; j++) w[j] = vld1q_s8(columns + 16 * j);
      __builtin_prefetch(columns + kAhead, 0, 2);
#pragma GCC unroll 4
      for (int i = 0; i < R / 2; i++) {
        const int8x16_t v = vld1q_s8(rows + 16 * i);
#pragma GCC unroll 4
        for (int j = 0; j < kPairs; j++) sum[i][j] = vmmlaq_s32(sum[i][j], v, w[j]);
      }
      rows += Kind::kRows * 8;
      columns += kColumns * 8;
    }
    Vi x[R][2];
#pragma GCC unroll 4
    for (int i = 0; i < R / 2; i++)
#pragma GCC unroll 2
      for (int h = 0; h < 2; h++) {
        const int32x4_t left = sum[i][2 * h], right = sum[i][2 * h + 1];
        x[2 * i][h] = (Vi)vcombine_s32(vget_low_s32(left), vget_low_s32(right));
        x[2 * i + 1][h] = (Vi)vcombine_s32(vget_high_s32(left), vget_high_s32(right));
      }
    store_tile<R>(x, to, ld, scale);
  }

  /** Σ B' of the columns of one panel. */
  OG_MATRIX_TARGET static void sum_panel(int64_t steps, const uint8_t* b, int32_t* to) {
    const int8x16_t ones = vdupq_n_s8(1);
    int32x4_t x[kColumns / 2] = {};
    for (int64_t k = 0; k < steps; k++, b += kColumns * 8)
#pragma GCC unroll 4
      for (int j = 0; j < kColumns / 2; j++)
        x[j] = vdotq_s32(x[j], ones, vld1q_s8(reinterpret_cast<const int8_t*>(b) + 16 * j));
    vst1q_s32(to, vpaddq_s32(x[0], x[1]));
    vst1q_s32(to + 4, vpaddq_s32(x[2], x[3]));
  }

  static Tile pick(int64_t rows, bool, int& height) {
    height = rows <= 2 ? 2 : rows <= 4 ? 4 : 8;
    const Tile smaller = height == 2 ? tile<2> : tile<4>;
    return height == 8 ? tile<8> : smaller;
  }
};

}  // namespace
}  // namespace og
