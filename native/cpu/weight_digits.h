/**
 * One to four rows of x against quantised weights by integer dot products, without rounding x to bytes: each block of
 * 32 elements of x becomes integers of 24 bits, in units of a power of two, and these are split into digits that the
 * instruction set can multiply with codes exactly (weight_digits_vnni.h, weight_digits_avx2.h). Sums of a block are
 * exact, and meet the scales once.
 *
 * The error is that of x: half a unit, at most 2^-23 of the block's largest magnitude. Blocks that such units do not
 * reach (largest magnitude above 0 and below 2^-96, infinite, NaN) are left to weight_rows.h.
 *
 * A row is read in chunks of 4·kLanes bytes of codes. Weights are read once, in four streams n/4 rows apart, as in
 * weight_rows.h.
 */
#ifndef OMNIGRAD_CPU_WEIGHT_DIGITS_H
#define OMNIGRAD_CPU_WEIGHT_DIGITS_H

#include "weight_rows.h"

#if OG_LANES == 16
#include "weight_digits_vnni.h"
#elif OG_LANES == 8
#include "weight_digits_avx2.h"
#endif

namespace og {
namespace {

enum DigitsOutcome { kDigitsDone, kDigitsUnfit, kDigitsNoMemory };

#if OG_LANES >= 8

constexpr int64_t kDigitRows = 4;

/** How scales lie: one for several chunks, or a float32 or float16 a block. */
enum DigitScales { kHeldScale, kBlockScale, kBlockHalf };

/** Weight rows [begin, end) for all m rows of x. sums: [m][n]. */
template <int kBits, bool kAffine, DigitScales kScales>
struct DigitDots {
  static constexpr int S = kCodeStreams;
  static constexpr int64_t kBytes = 4 * kLanes, kElements = 8 * kBytes / kBits;
  static constexpr int kBlocks = (int)kElements / 32;
  typedef DigitChunk<kBits> Chunk;
  typedef DigitCodes<kBits> Codes;

  const WeightMatrix* w;
  int64_t m;
  const Chunk* x;  // [m][chunks]
  const float* bias;
  float* sums;
  int* failed;

  int64_t chunks() const { return ceil_div(w->k, kElements); }
  int64_t blocks() const { return w->k / 32; }

  /** Where the numbers of four weight rows lie. */
  struct Rows {
    const uint8_t* code[S];
    const char* scale[S];  // of blocks
    const float* zero[S];  // of blocks, where weights are affine
    int64_t first[S];      // index of the first group
  };

  template <bool kTail>
  static OG_INLINE Vf scales_at(const char* from, int64_t block, int64_t left) {
    if (kScales == kBlockScale)
      return Codes::template numbers<kTail>(reinterpret_cast<const float*>(from) + block, left);
    return Codes::template numbers<kTail>(reinterpret_cast<const uint16_t*>(from) + block, left);
  }

  /** sum[r][s] += chunk `at` of x times that of the codes; a tail has `left` blocks, `held` are scales that are held.
   */
  template <int R, bool kTail>
  static OG_DIGITS_TARGET OG_INLINE void step(const Chunk* x, int64_t stride, const Rows& rows, int64_t at,
                                              int64_t left, const Vf (&held)[S], Vf (&sum)[R][S]) {
#pragma GCC unroll 4
    for (int s = 0; s < S; s++) {
      const uint8_t* code = rows.code[s] + kBytes * at;
      if (DigitsAhead<kBits>::kBytes)
        __builtin_prefetch(code + DigitsAhead<kBits>::kBytes, 0, DigitsAhead<kBits>::kHint);
      Codes codes;
      codes.template take<kAffine, kTail>(code, left);
      const Vf scales = kScales == kHeldScale ? held[s] : scales_at<kTail>(rows.scale[s], at * kBlocks, left);
      const Vf zeros = kAffine ? Codes::template numbers<kTail>(rows.zero[s] + at * kBlocks, left) : Vf{};
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) {
        const Chunk& c = x[r * stride + at];
        const Vf unit = kScales == kHeldScale && kDigitsSumGroups ? c.unit : c.unit * scales;
        sum[r][s] = fma(codes.template product<kAffine>(c, zeros), unit, sum[r][s]);
      }
    }
  }

  template <int R>
  OG_DIGITS_TARGET OG_DIGITS_ROWS void rows(int64_t row, const int64_t* at, int count, const Rows& from) const {
    const int64_t stride = chunks(), whole = w->k / kElements, left = w->k % kElements / 32;
    const Chunk* c = x + row * stride;
    Vf total[R][S] = {}, held[S] = {};
    if (kScales == kHeldScale) {
      const int64_t length = w->groups == 1 ? whole : w->group / kElements;
      for (int64_t group = 0; group < w->groups; group++) {
#pragma GCC unroll 4
        for (int s = 0; s < S; s++) held[s] = set1(w->scale_at(from.first[s] + group));
        Vf sum[R][S] = {};
        auto& to = kDigitsSumGroups ? sum : total;
        for (int64_t i = group * length; i < (group + 1) * length; i++) step<R, false>(c, stride, from, i, 0, held, to);
        if (left) step<R, true>(c, stride, from, whole, left, held, to);
        if (!kDigitsSumGroups) continue;
#pragma GCC unroll 4
        for (int s = 0; s < S; s++)
#pragma GCC unroll 4
          for (int r = 0; r < R; r++) total[r][s] = fma(sum[r][s], held[s], total[r][s]);
      }
    } else {
      for (int64_t i = 0; i < whole; i++) step<R, false>(c, stride, from, i, 0, held, total);
      if (left) step<R, true>(c, stride, from, whole, left, held, total);
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
      float y[S];
      sum_of_four(total[r], y);
      for (int s = 0; s < count; s++) sums[(row + r) * w->n + at[s]] = y[s] + (bias ? bias[at[s]] : 0.f);
    }
  }

  /** A number for each block of a row, of one for each group. */
  template <class Number>
  void spread_groups(const Number& number, int64_t first, float* to) const {
    const int64_t times = w->group / 32;
    for (int64_t g = 0; g < w->groups; g++) {
      const float value = number(first + g);
      for (int64_t i = 0; i < times; i++) *to++ = value;
    }
  }

  void operator()(int64_t begin, int64_t end) const {
    ScratchFrame scratch;
    const bool spreads = kScales == kBlockScale && (w->group != 32 || w->half_scale);
    const int64_t room = blocks() + 16;
    float* numbers = kAffine || spreads ? scratch.take<float>(2 * S * room) : nullptr;
    if ((kAffine || spreads) && !numbers) return __atomic_store_n(failed, 1, __ATOMIC_RELAXED);
    const Streams streams(begin, end);
    for (int64_t j = 0; j < streams.quarter; j++) {
      int64_t at[S];
      const int count = streams.rows(j, at);
      Rows from;
      for (int s = 0; s < S; s++) {
        const int64_t first = at[s] * w->groups;
        from.code[s] = w->row(at[s]);
        from.first[s] = first;
        from.scale[s] = static_cast<const char*>(w->scale) + first * (w->half_scale ? 2 : 4);
        from.zero[s] = numbers + s * room;
        if (spreads) {
          float* scales = numbers + (S + s) * room;
          spread_groups([&](int64_t i) { return w->scale_at(i); }, first, scales);
          from.scale[s] = reinterpret_cast<const char*>(scales);
        }
        if (kAffine) spread_groups([&](int64_t i) { return w->zero_at(i); }, first, numbers + s * room);
      }
      int64_t i = 0;
      for (; i + kDigitRowsTogether <= m; i += kDigitRowsTogether) rows<kDigitRowsTogether>(i, at, count, from);
      if (kDigitRowsTogether > 2)
        for (; i + 2 <= m; i += 2) rows<2>(i, at, count, from);
      if (i < m) rows<1>(i, at, count, from);
    }
  }
};

template <int kBits, class Run>
DigitsOutcome multiply_digits_of(const WeightMatrix& w, int64_t m, const float* x, const float* bias, float* sums,
                                 const Run& run_rows) {
  typedef DigitChunk<kBits> Chunk;
  ScratchFrame scratch;
  const int64_t chunks = ceil_div(w.k * kBits, 32 * kLanes);
  Chunk* digits = reinterpret_cast<Chunk*>(scratch.take<char>(m * chunks * (int64_t)sizeof(Chunk)));
  if (!digits) return kDigitsNoMemory;
  const bool affine = w.zero || (w.bits == 8 && !w.is_signed);
  for (int64_t i = 0; i < m; i++)
    if (!make_digits(x + i * w.k, w.k, affine, digits + i * chunks)) return kDigitsUnfit;
  int failed = 0;
  const auto run = [&](auto dots) {
    dots = {&w, m, digits, bias, sums, &failed};
    run_rows(dots);
  };
  const auto of_scales = [&](auto zeros) {
    constexpr bool kAffine = decltype(zeros)::value;
    if (w.groups == 1 || w.group % held_digits_group(kBits) == 0)
      run(DigitDots<kBits, kAffine, kHeldScale>{});
    else if (w.group == 32 && w.half_scale)
      run(DigitDots<kBits, kAffine, kBlockHalf>{});
    else
      run(DigitDots<kBits, kAffine, kBlockScale>{});
  };
  affine ? of_scales(std::true_type{}) : of_scales(std::false_type{});
  return failed ? kDigitsNoMemory : kDigitsDone;
}

/**
 * sums[m][n] = x · Wᵀ + bias, x: [m][k]. `run` calls what it is given for ranges of weight rows. Unfit: some block of x
 * has no unit.
 */
template <class Run>
DigitsOutcome multiply_digits(const WeightMatrix& w, int64_t m, const float* x, const float* bias, float* sums,
                              const Run& run) {
  return w.bits == 4 ? multiply_digits_of<4>(w, m, x, bias, sums, run)
                     : multiply_digits_of<8>(w, m, x, bias, sums, run);
}

#endif

}  // namespace
}  // namespace og
#endif
