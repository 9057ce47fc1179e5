/**
 * The inner loops of the product of int8 activations and weight panels for one Kind (weight_panel_kinds.h). Included
 * once a kind, with OG_LOOPS (name of the struct), OG_KIND and OG_TARGET defined, for the reason that gemm_int8_loops.h
 * gives.
 */
namespace og {
namespace {

struct OG_LOOPS {
  typedef OG_KIND Kind;
  /**
   * Bytes of weights fetched ahead into L2, and every how many: few rows are done with a line before hardware has the
   * next from memory. One or two rows fetch every other line, whose neighbour comes along: each fetch takes a place
   * that loads wait for. Several panels side by side need none.
   */
  static constexpr int64_t ahead(int rows, int bits) { return rows <= 2 ? 4096 : 1024 * bits; }
  static constexpr int64_t fetched(int rows) { return rows <= 2 ? 128 : 64; }

  /**
   * to[R × kPanelColumns] = bias + x·Wᵀ for a panel of activations and P of weights, all of k. Panels of weights lie
   * `far` bytes apart, their results `far_to` floats, and their bias follows one another.
   */
  template <int R, int P, int kBits, bool kAffine>
  OG_TARGET static void tile(const PanelForm& form, const char* a, const uint8_t* b, int64_t far, const float* bias,
                             float* to, int64_t ld, int64_t far_to) {
    constexpr int C = kPanelVectors, kSteps = kBits, kStep = C * kLanes * 4;
    constexpr int64_t kAhead = P > 1 ? 0 : ahead(R, kBits), kEvery = fetched(R);
    constexpr bool kWhole = Kind::whole(kBits), kStarts = kWhole && !kAffine;
    const int64_t blocks = form.group / kActivationBlock, groups = form.groups();
    const int64_t head_bytes = kPanelColumns * (form.scale_bytes() + form.zero_bytes);
    Vf total[P][R][C];
#pragma GCC unroll 4
    for (int p = 0; p < P; p++)
#pragma GCC unroll 8
      for (int i = 0; i < R; i++)
#pragma GCC unroll 2
        for (int c = 0; c < C; c++) total[p][i][c] = load(bias + p * kPanelColumns + c * kLanes);
    for (int64_t group = 0; group < groups; group++) {
      const uint8_t* const heads = b;
      if (kAhead)
        for (int64_t at = 0; at < head_bytes; at += kEvery)
          for (int p = 0; p < P; p++) __builtin_prefetch(heads + p * far + at + kAhead, 0, 2);
      b += head_bytes;
      for (int64_t block = 0; block < blocks; block++) {
        const int32_t* sums_of_x = reinterpret_cast<const int32_t*>(a) + 8 * R;  // affine weights: -Σx as floats
        const float *minus_x = reinterpret_cast<const float*>(sums_of_x), *scale_of_x = minus_x + R;
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) {
          const int32_t* x = reinterpret_cast<const int32_t*>(a);
          const uint8_t *codes = b + p * far, *head = heads + p * far;
          typename Kind::template Sum<kBits> sums[R][C];
#pragma GCC unroll 8
          for (int i = 0; i < R; i++)
#pragma GCC unroll 2
            for (int c = 0; c < C; c++) {
              if constexpr (kStarts)
                sums[i][c] = set1(sums_of_x[i]);
              else
                sums[i][c] = typename Kind::template Sum<kBits>{};
            }
#pragma GCC unroll 8
          for (int s = 0; s < kSteps; s++) {
            if (kAhead && s * kStep % kEvery == 0) __builtin_prefetch(codes + kAhead, 0, 2);
            if (kAhead && kStep > kEvery) __builtin_prefetch(codes + kAhead + kEvery, 0, 2);
            Vi w[C], high[C];
#pragma GCC unroll 2
            for (int c = 0; c < C; c++) {
              w[c] = load_words(codes + c * kLanes * 4);
              if (kBits == 4) {
                high[c] = (Vi)((Vu)w[c] >> 4) & 0x0f0f0f0f;
                w[c] &= 0x0f0f0f0f;
              }
            }
#pragma GCC unroll 8
            for (int i = 0; i < R; i++) {
              const Vi first = set1(x[i]);
#pragma GCC unroll 2
              for (int c = 0; c < C; c++) sums[i][c] = Kind::template add<kBits>(sums[i][c], w[c], first);
              if (kBits == 8) continue;
              const Vi second = set1(x[R + i]);
#pragma GCC unroll 2
              for (int c = 0; c < C; c++) sums[i][c] = Kind::template add<kBits>(sums[i][c], high[c], second);
            }
            x += kBits == 4 ? 2 * R : R;
            codes += kStep;
          }
#pragma GCC unroll 2
          for (int c = 0; c < C; c++) {
            const Vf scale = form.half_scale ? load(reinterpret_cast<const f16*>(head) + c * kLanes)
                                             : load(reinterpret_cast<const float*>(head) + c * kLanes);
            Vf zero{};
            if (kAffine) {
              const uint8_t* at = head + kPanelColumns * form.scale_bytes() + c * kLanes * form.zero_bytes;
              zero = form.zero_bytes == 1 ? to_float(load_bytes(at, false)) : load(reinterpret_cast<const float*>(at));
              if (kBits == 8 && Kind::kSignedBytes) zero -= 128.f;
            }
#pragma GCC unroll 8
            for (int i = 0; i < R; i++) {
              Vi sum = Kind::template close<kBits>(sums[i][c]);
              if (!kWhole && !kAffine) sum = add_words(sum, set1(sums_of_x[i]));
              Vf value = to_float(sum);
              if (kAffine) value = fma(zero, set1(minus_x[i]), value);
              total[p][i][c] = fma(value, scale * scale_of_x[i], total[p][i][c]);
            }
          }
        }
        a += 40 * R;
        b += kSteps * kStep;
      }
    }
#pragma GCC unroll 4
    for (int p = 0; p < P; p++)
#pragma GCC unroll 8
      for (int i = 0; i < R; i++)
#pragma GCC unroll 2
        for (int c = 0; c < C; c++) store(to + p * far_to + i * ld + c * kLanes, total[p][i][c]);
  }

  typedef void (*Tile)(const PanelForm&, const char*, const uint8_t*, int64_t, const float*, float*, int64_t, int64_t);
  template <int R, int P>
  static Tile of_height(const PanelForm& form) {
    if (form.bits == 4) return form.zero_bytes ? tile<R, P, 4, true> : tile<R, P, 4, false>;
    return form.zero_bytes ? tile<R, P, 8, true> : tile<R, P, 8, false>;
  }
  /** Panels of weights that one row reads side by side, where one stream leaves memory idle (Zen 3). */
  static constexpr int kFarPanels = OG_LANES == 8 ? 4 : 1;
  /** Rows of a panel of activations that holds `rows`. */
  static int height_for(int64_t rows) {
    if (rows <= 2) return (int)rows;
    return rows <= 4 && Kind::kRows > 4 ? 4 : Kind::kRows;
  }
  static Tile pick(const PanelForm& form, int height) {
    if (height == 1) return of_height<1, 1>(form);
    if (height == 2) return of_height<2, 1>(form);
    if (Kind::kRows > 4 && height == 4) return of_height<(Kind::kRows > 4 ? 4 : 1), 1>(form);
    return of_height<Kind::kRows, 1>(form);
  }
  static Tile pick_far(const PanelForm& form) { return of_height<1, kFarPanels>(form); }
};

}  // namespace
}  // namespace og
