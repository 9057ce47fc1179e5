/**
 * The inner loops of the int8 GEMM for one Kind (gemm_int8_kinds.h). Included once per kind, with OG_LOOPS (name of the
 * struct), OG_KIND and OG_TARGET defined (and OG_HAS_SIX_ROWS where the kind has a loop for six rows): an instruction
 * that the file's own set does not have can only be used in functions that carry its target attribute, and a template
 * parameter cannot supply one.
 */
namespace og {
namespace {

struct OG_LOOPS {
  typedef OG_KIND Kind;
  static constexpr int kColumns = 2 * kLanes;
  static constexpr int kStreams = 4;
  /** Bytes of B fetched ahead, into L2: few rows are done with a line before hardware has the next from memory. */
  static constexpr int kAhead = 8192;

  /**
   * to[R × kColumns] = add (a row) + A·B over `steps` packed steps; with `scale` as floats, (sum · row) · column +
   * bias. `Fetch`: B is not in L2 yet. Many rows of AVX-512 do without where it is: their time is that of their loads,
   * and fetching takes two more.
   */
  template <int R, bool Fetch>
  OG_TARGET static void tile(int64_t steps, const int32_t* a, const uint8_t* b, const int32_t* add, int32_t* to,
                             int64_t ld, const TileScale* scale) {
    Vi x[R][2];
    constexpr bool kFetches = Fetch || OG_LANES != 16 || R <= 8;
#pragma GCC unroll 16
    for (int i = 0; i < R; i++) {
      __builtin_prefetch(to + i * ld, 1);
      __builtin_prefetch(to + i * ld + kColumns - 1, 1);
      x[i][0] = load_words(add);
      x[i][1] = load_words(add + kLanes);
    }
    int64_t k = 0;
#ifdef OG_HAS_SIX_ROWS
    if constexpr (R == 6) {
      k = Kind::six_rows(steps, a, b, x);
      a += k * Kind::kRows;
      b += k * kColumns * Kind::kGroup;
    }
#endif
#pragma GCC unroll 2
    for (; k < steps; k++) {
      const Vi b0 = Kind::load_b<false>(b), b1 = Kind::load_b<false>(b + kLanes * Kind::kGroup);
      if (kFetches) {
        __builtin_prefetch(b + kAhead, 0, 2);
        if (kColumns * Kind::kGroup > 64) __builtin_prefetch(b + kAhead + 64, 0, 2);
      }
#pragma GCC unroll 16
      for (int i = 0; i < R; i++) {
        const Vi v = set1(a[i]);
        x[i][0] = Kind::dot(x[i][0], v, b0);
        x[i][1] = Kind::dot(x[i][1], v, b1);
      }
      a += Kind::kRows;
      b += kColumns * Kind::kGroup;
    }
    store_tile<R>(x, to, ld, scale);
  }

  /** Σ B' of the columns of one panel. */
  OG_TARGET static void sum_panel(int64_t steps, const uint8_t* b, int32_t* to) {
    const Vi ones = set1(Kind::kOnes);
    Vi x0{}, x1{};
    for (int64_t k = 0; k < steps; k++, b += kColumns * Kind::kGroup) {
      x0 = Kind::dot(x0, ones, Kind::load_b<false>(b));
      x1 = Kind::dot(x1, ones, Kind::load_b<false>(b + kLanes * Kind::kGroup));
    }
    store_words(to, x0);
    store_words(to + kLanes, x1);
  }

  typedef uint32_t Four __attribute__((vector_size(16)));

  static OG_INLINE Four quarter(Vi v) {
#if OG_LANES == 16
    const __m256i h = _mm256_add_epi32(_mm512_castsi512_si256((__m512i)v), _mm512_extracti64x4_epi64((__m512i)v, 1));
    return (Four)_mm_add_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
#elif OG_LANES == 8
    return (Four)_mm_add_epi32(_mm256_castsi256_si128((__m256i)v), _mm256_extracti128_si256((__m256i)v, 1));
#else
    return (Four)v;
#endif
  }
  /** The sums of all lanes of four vectors. */
  static OG_INLINE Four sum_of_four(const Vi (&v)[4]) {
    const Four a = quarter(v[0]), b = quarter(v[1]), c = quarter(v[2]), d = quarter(v[3]);
    const Four ab =
        __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);  // a02 b02 a13 b13
    const Four cd = __builtin_shufflevector(c, d, 0, 4, 1, 5) + __builtin_shufflevector(c, d, 2, 6, 3, 7);
    return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
  }

  /**
   * R rows of A' (dense, padded with zeros to whole vectors, `lda` bytes apart) against four rows of weights whose k is
   * dense: out[r][s] = Σ A'·B', sums[s] = Σ B' where Sums is set; of kinds that turn Σ A'·(B' + 128), Σ (B' + 128).
   * Flip: the weights are uint8 codes. `ahead`: bytes from these weights to those that are fetched meanwhile where
   * Fetch is set.
   */
  template <int R, bool Flip, bool Sums, bool Fetch>
  OG_TARGET static void dots(int64_t k, const uint8_t* a, int64_t lda, const uint8_t* const* b, int64_t ahead,
                             Four (&out)[R], Four& sums) {
    constexpr int kBytes = kLanes * Kind::kGroup;  // of a weight vector
    constexpr int kBytesA = kLanes * 4;            // of an A' vector
    constexpr bool kFlips = Flip != Kind::kTurns;
    const auto dot = [](Vi sum, Vi a, Vi b)
                         OG_TARGET { return Kind::kTurns ? Kind::dot(sum, b, a) : Kind::dot(sum, a, b); };
    const Vi ones = set1(Kind::kOnes);
    Vi x[R][kStreams], y[kStreams];  // spelled out, as compilers clear arrays in memory
    const uint8_t* from[kStreams];
#pragma GCC unroll 4
    for (int s = 0; s < kStreams; s++) {
      from[s] = b[s];
      y[s] = Vi{};
#pragma GCC unroll 4
      for (int i = 0; i < R; i++) x[i][s] = Vi{};
    }
    int64_t p = 0;
    for (; p + kBytes <= k; p += kBytes, a += kBytesA) {
      Vi v[R];
#pragma GCC unroll 4
      for (int i = 0; i < R; i++) v[i] = load_words(a + i * lda);
#pragma GCC unroll 4
      for (int s = 0; s < kStreams; s++) {
        const Vi w = Kind::load_b<kFlips>(from[s] + p);
        if (Fetch) __builtin_prefetch(from[s] + ahead + p);
        if (R > 1 && !Fetch) __builtin_prefetch(from[s] + p + kAhead / 4, 0, 2);  // one row alone: hardware does it
        if (Sums) y[s] = dot(y[s], ones, w);
#pragma GCC unroll 4
        for (int i = 0; i < R; i++) x[i][s] = dot(x[i][s], v[i], w);
      }
    }
    if (p < k) {
#pragma GCC unroll 4
      for (int s = 0; s < kStreams; s++) {
        alignas(64) uint8_t tail[kBytes];
        std::memset(tail, kFlips ? 0x80 : 0, sizeof tail);
        std::memcpy(tail, from[s] + p, (size_t)(k - p));
        const Vi w = Kind::load_b<kFlips>(tail);
        if (Sums) y[s] = dot(y[s], ones, w);
#pragma GCC unroll 4
        for (int i = 0; i < R; i++) x[i][s] = dot(x[i][s], load_words(a + i * lda), w);
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < R; i++) out[i] = sum_of_four(x[i]);
    if (Sums) sums = sum_of_four(y);
  }

  typedef void (*Tile)(int64_t, const int32_t*, const uint8_t*, const int32_t*, int32_t*, int64_t, const TileScale*);
  /** The smallest tile that holds so many rows, and how many it has. `far`: B is not in L2 yet. */
  static Tile pick(int64_t rows, bool far, int& height) {
    constexpr int kMost = Kind::kRows;
    (void)far;
#define OG_PICK(R)                              \
  if (R < kMost && rows <= R) {                 \
    height = R;                                 \
    return tile<(R < kMost ? R : kMost), true>; \
  }
    OG_PICK(1)
    OG_PICK(2)
    OG_PICK(4)
    OG_PICK(6)
    OG_PICK(8)
    OG_PICK(11)
#undef OG_PICK
    height = kMost;
#if OG_LANES == 16
    if (!far) return tile<kMost, false>;
#endif
    return tile<kMost, true>;
  }
};

}  // namespace
}  // namespace og
