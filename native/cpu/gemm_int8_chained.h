/**
 * Four rows of A in three sums, exact for all bytes: vpmaddwd on words that hold two codes, a quarter fewer of them.
 *
 * With v = A' in [-128, 127], a word is (v_p + 128) + 256·v_q, which an int16 just holds. Rows p, q, r, s become the
 * three words of pq, qr and rs. Their sums of products with B', less 128·Σ B', are modulo 2^32
 *
 *   E1 = P + 2^8·Q    E2 = Q + 2^8·R    E3 = R + 2^8·S    where P … S are the sums of the four rows.
 *
 * E1 − 2^8·E2 + 2^16·E3 = P + 2^24·S gives P by its low 24 bits, if |P| < 2^23; then Q = (E1 − P) / 2^8, and so on. So
 * k is cut into blocks of at most 511 codes. B' comes as for Wide, and its sums of blocks are made once a panel.
 */
namespace og {
namespace {

struct ChainedLoops : WideLoops {
  typedef Chained Kind;
  static constexpr int kWords = step_words<Kind>();
  static constexpr int64_t kMostSteps = 254;  // of a block, two codes each
  static_assert(kMostSteps % 2 == 0 && kMostSteps * 2 * 128 * 128 < 1 << 23, "sums must fit 24 bits");

  static int64_t block_count(int64_t steps) { return (steps + kMostSteps - 1) / kMostSteps; }
  /** Steps of a block, which are even: loops take two at a time. */
  static int64_t block_steps(int64_t steps) {
    const int64_t count = block_count(steps);
    return count > 0 ? ((steps + count - 1) / count + 1) / 2 * 2 : 1;
  }

  /** Numbers that begin_panel leaves. */
  static int64_t first_length(int64_t steps) { return (1 + block_count(steps)) * kColumns; }
  /** What sums of a panel begin with: `add`, then what each block has too much. */
  static void begin_panel(int64_t steps, const uint8_t* b, const int32_t* add, int32_t* to) {
    std::memcpy(to, add, kColumns * sizeof(int32_t));
    const int64_t length = block_steps(steps);
    for (int64_t k = 0; k < steps; k += length) {
      to += kColumns;
      sum_panel(least(length, steps - k), b + k * kColumns * Kind::kGroup, to);
      for (int j = 0; j < kColumns; j++) to[j] *= -128;
    }
  }

  /** total[4] += the sums of four rows. */
  static OG_INLINE void unchain(Vi e1, Vi e2, Vi e3, Vi (*total)[2], int half) {
    const Vi p = (add_words((Vi)((Vu)e1 - ((Vu)e2 << 8)), (Vi)((Vu)e3 << 16)) << 8) >> 8;
    const Vi q = (Vi)((Vu)e1 - (Vu)p) >> 8, r = (Vi)((Vu)e2 - (Vu)q) >> 8, s = (Vi)((Vu)e3 - (Vu)r) >> 8;
    total[0][half] = add_words(total[0][half], p);
    total[1][half] = add_words(total[1][half], q);
    total[2][half] = add_words(total[2][half], r);
    total[3][half] = add_words(total[3][half], s);
  }

  /** As WideLoops::tile, for R = 4 or 8 rows; `first`: of begin_panel. */
  template <int R, bool Fetch>
  static void tile(int64_t steps, const int32_t* a, const uint8_t* b, const int32_t* first, int32_t* to, int64_t ld,
                   const TileScale* scale) {
    constexpr int W = R / 4 * 3;
    Vi total[R][2];
#pragma GCC unroll 8
    for (int i = 0; i < R; i++) {
      __builtin_prefetch(to + i * ld, 1);
      __builtin_prefetch(to + i * ld + kColumns - 1, 1);
      total[i][0] = load_words(first);
      total[i][1] = load_words(first + kLanes);
    }
    const int64_t length = block_steps(steps);
    for (int64_t left = steps; left > 0; left -= length) {
      const int64_t here = least(length, left);
      first += kColumns;
      Vi x[W][2];
#pragma GCC unroll 8
      for (int i = 0; i < W; i++) x[i][0] = load_words(first), x[i][1] = load_words(first + kLanes);
      if constexpr (W == 6) {
        wide_six_rows<Fetch>(here / 2, a, b, x);
      } else {
        for (int64_t k = 0; k < here; k++) {
          const Vi b0 = Kind::load_b<false>(b + k * kColumns * Kind::kGroup);
          const Vi b1 = Kind::load_b<false>(b + k * kColumns * Kind::kGroup + kLanes * Kind::kGroup);
#pragma GCC unroll 8
          for (int i = 0; i < W; i++) {
            const Vi v = set1(a[k * kWords + i]);
            x[i][0] = Kind::dot(x[i][0], v, b0);
            x[i][1] = Kind::dot(x[i][1], v, b1);
          }
        }
      }
      a += here * kWords;
      b += here * kColumns * Kind::kGroup;
#pragma GCC unroll 4
      for (int i = 0; i < R / 4; i++)
        for (int half = 0; half < 2; half++)
          unchain(x[3 * i][half], x[3 * i + 1][half], x[3 * i + 2][half], total + 4 * i, half);
    }
    store_tile<R>(total, to, ld, scale);
  }

  static Tile pick(int64_t rows, bool far, int& height) {
    height = rows <= 4 ? 4 : 8;
    if (height == 4) return tile<4, false>;
    return far ? tile<8, true> : tile<8, false>;
  }
};

}  // namespace
}  // namespace og
