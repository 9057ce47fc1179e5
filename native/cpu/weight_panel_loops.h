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
   * that loads wait for.
   */
  static constexpr int64_t ahead(int rows, int bits) { return rows <= 2 ? 4096 : 1024 * bits; }
  static constexpr int64_t fetched(int rows) { return rows <= 2 ? 128 : 64; }

  /** Adds products to a sum of a tile of R rows. */
  template <int R, int kBits, class Sum>
  OG_TARGET static OG_INLINE void add(Sum& sum, Vi w, Vi x) {
    sum = Kind::template add<kBits>(sum, w, x);
#if OG_LANES == 8
    if constexpr (R > 2) add_in_turn(sum);
#endif
  }

  /** to[R × kPanelColumns] = bias + x·Wᵀ for a panel of activations and one of weights, all of k. */
  template <int R, int kBits, bool kAffine>
  OG_TARGET static void tile(const PanelForm& form, const char* a, const uint8_t* b, const float* bias, float* to,
                             int64_t ld) {
    constexpr int C = kPanelVectors, kSteps = kBits, kStep = C * kLanes * 4;
    constexpr int64_t kAhead = ahead(R, kBits), kEvery = fetched(R);
    constexpr bool kWhole = Kind::whole(kBits), kStarts = kWhole && !kAffine;
    const int64_t blocks = form.group / kActivationBlock, groups = form.groups();
    const int64_t head_bytes = kPanelColumns * (form.scale_bytes() + form.zero_bytes);
    Vf total[R][C];
#pragma GCC unroll 8
    for (int i = 0; i < R; i++)
#pragma GCC unroll 2
      for (int c = 0; c < C; c++) total[i][c] = load(bias + c * kLanes);
    for (int64_t group = 0; group < groups; group++) {
      const uint8_t* head = b;
      for (int64_t at = 0; at < head_bytes; at += kEvery) __builtin_prefetch(head + at + kAhead, 0, 2);
      b += head_bytes;
      for (int64_t block = 0; block < blocks; block++) {
        const int32_t* x = reinterpret_cast<const int32_t*>(a);
        const int32_t* sums_of_x = x + 8 * R;  // where weights are affine, -Σx as floats
        const float *minus_x = reinterpret_cast<const float*>(sums_of_x), *scale_of_x = minus_x + R;
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
          if (s * kStep % kEvery == 0) __builtin_prefetch(b + kAhead, 0, 2);
          if (kStep > kEvery) __builtin_prefetch(b + kAhead + kEvery, 0, 2);
          Vi w[C], high[C];
#pragma GCC unroll 2
          for (int c = 0; c < C; c++) {
            w[c] = load_words(b + c * kLanes * 4);
            if (kBits == 4) {
              high[c] = (Vi)((Vu)w[c] >> 4) & 0x0f0f0f0f;
              w[c] &= 0x0f0f0f0f;
            }
          }
#pragma GCC unroll 8
          for (int i = 0; i < R; i++) {
            const Vi first = set1(x[i]);
#pragma GCC unroll 2
            for (int c = 0; c < C; c++) add<R, kBits>(sums[i][c], w[c], first);
            if (kBits == 8) continue;
            const Vi second = set1(x[R + i]);
#pragma GCC unroll 2
            for (int c = 0; c < C; c++) add<R, kBits>(sums[i][c], high[c], second);
          }
          x += kBits == 4 ? 2 * R : R;
          b += kStep;
        }
        a += 40 * R;
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
            total[i][c] = fma(value, scale * scale_of_x[i], total[i][c]);
          }
        }
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < R; i++)
#pragma GCC unroll 2
      for (int c = 0; c < C; c++) store(to + i * ld + c * kLanes, total[i][c]);
  }

  /** Panels of weights that one row reads side by side, where one stream leaves memory idle (Zen 3). */
  static constexpr int kFarPanels = OG_LANES == 8 ? 4 : 1;

  /**
   * tile() for one row and panels `far` bytes apart, whose results lie `far_to` floats apart and whose bias follows one
   * another. The same operations in the same order; not one function with it, as taller tiles have no register to
   * spare. Nothing is fetched ahead.
   */
  template <int kBits, bool kAffine>
  OG_TARGET static void far_tile(const PanelForm& form, const char* a, const uint8_t* b, int64_t far, const float* bias,
                                 float* to, int64_t far_to) {
    constexpr int P = kFarPanels, C = kPanelVectors, kStep = C * kLanes * 4;
    constexpr bool kWhole = Kind::whole(kBits), kStarts = kWhole && !kAffine;
    const int64_t blocks = form.group / kActivationBlock, groups = form.groups();
    const int64_t head_bytes = kPanelColumns * (form.scale_bytes() + form.zero_bytes);
    Vf total[P][C];
#pragma GCC unroll 8
    for (int i = 0; i < P * C; i++) total[i / C][i % C] = load(bias + i * kLanes);
    for (int64_t group = 0; group < groups; group++) {
      const uint8_t* const heads = b;
      b += head_bytes;
      for (int64_t block = 0; block < blocks; block++, a += 40, b += kBits * kStep) {
        const int32_t* x = reinterpret_cast<const int32_t*>(a);
        const float minus_x = reinterpret_cast<const float*>(x)[8], scale_of_x = reinterpret_cast<const float*>(x)[9];
#pragma GCC unroll 4
        for (int p = 0; p < P; p++)
#pragma GCC unroll 2
          for (int c = 0; c < C; c++) {
            const uint8_t *codes = b + p * far + c * kLanes * 4, *head = heads + p * far;
            typename Kind::template Sum<kBits> sums{};
            if constexpr (kStarts) sums = set1(x[8]);
#pragma GCC unroll 8
            for (int s = 0; s < kBits; s++) {
              const Vi w = load_words(codes + s * kStep);
              if (kBits == 4) {
                sums = Kind::template add<kBits>(sums, w & 0x0f0f0f0f, set1(x[2 * s]));
                sums = Kind::template add<kBits>(sums, (Vi)((Vu)w >> 4) & 0x0f0f0f0f, set1(x[2 * s + 1]));
              } else {
                sums = Kind::template add<kBits>(sums, w, set1(x[s]));
              }
            }
            const Vf scale = form.half_scale ? load(reinterpret_cast<const f16*>(head) + c * kLanes)
                                             : load(reinterpret_cast<const float*>(head) + c * kLanes);
            Vi sum = Kind::template close<kBits>(sums);
            if (!kWhole && !kAffine) sum = add_words(sum, set1(x[8]));
            Vf value = to_float(sum);
            if (kAffine) {
              const uint8_t* at = head + kPanelColumns * form.scale_bytes() + c * kLanes * form.zero_bytes;
              Vf zero =
                  form.zero_bytes == 1 ? to_float(load_bytes(at, false)) : load(reinterpret_cast<const float*>(at));
              if (kBits == 8 && Kind::kSignedBytes) zero -= 128.f;
              value = fma(zero, set1(minus_x), value);
            }
            total[p][c] = fma(value, scale * scale_of_x, total[p][c]);
          }
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < P * C; i++) store(to + i / C * far_to + i % C * kLanes, total[i / C][i % C]);
  }

  typedef void (*FarTile)(const PanelForm&, const char*, const uint8_t*, int64_t, const float*, float*, int64_t);
  static FarTile pick_far(const PanelForm& form) {
    if (form.bits == 4) return form.zero_bytes ? far_tile<4, true> : far_tile<4, false>;
    return form.zero_bytes ? far_tile<8, true> : far_tile<8, false>;
  }

  typedef void (*Tile)(const PanelForm&, const char*, const uint8_t*, const float*, float*, int64_t);
  template <int R>
  static Tile of_height(const PanelForm& form) {
    if (form.bits == 4) return form.zero_bytes ? tile<R, 4, true> : tile<R, 4, false>;
    return form.zero_bytes ? tile<R, 8, true> : tile<R, 8, false>;
  }
  /** Rows of a panel of activations that holds `rows`. */
  static int height_for(int64_t rows) {
    if (rows <= 2) return (int)rows;
    return rows <= 4 && Kind::kRows > 4 ? 4 : Kind::kRows;
  }
  static Tile pick(const PanelForm& form, int height) {
    if (height == 1) return of_height<1>(form);
    if (height == 2) return of_height<2>(form);
    if (Kind::kRows > 4 && height == 4) return of_height<(Kind::kRows > 4 ? 4 : 1)>(form);
    return of_height<Kind::kRows>(form);
  }
};

}  // namespace
}  // namespace og
