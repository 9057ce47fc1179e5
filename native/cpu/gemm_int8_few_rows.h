/**
 * Few rows of bytes against weights whose k is dense: dot products in four streams that lie far apart, from the weights
 * as they are. A row is staged so that few sums of weights are needed: less its zero point where there is room for it
 * (kWide), or with its sign, and the unsigned side from the weights (kTurns).
 */
#ifndef OMNIGRAD_CPU_GEMM_INT8_FEW_ROWS_H
#define OMNIGRAD_CPU_GEMM_INT8_FEW_ROWS_H

#include "gemm_int8_terms.h"

namespace og {
namespace {

/** Rows up to which the unpacked weights are read; beyond, tiles over packed ones are faster if there are any. */
constexpr int64_t kInt8FewRows = 8, kInt8FewPacked = 2;
/** Sums that a thread finishes at once: fewer are not worth waking another. */
constexpr int64_t kFinishSums = 8192;
/** Whether streams run on from task to task, or each task has four of its own (other sets were not measured). */
constexpr bool kRunsOn = OG_LANES == 8;

template <class Loops>
struct Int8FewRows {
  typedef typename Loops::Kind Kind;
  static constexpr int kStreams = Loops::kStreams;
  static constexpr int kDotRows = OG_LANES == 16 ? 4 : 2;

  Int8Terms* terms;
  uint32_t surplus[kInt8FewRows];  // what turned dot products of each row have too much: 128·Σ A'

  /** Whether m rows are dot products with B as it is, whose k is `stride` bytes apart. */
  static bool serves(int64_t m, int64_t n, int64_t stride, bool packed) {
    return m <= (packed ? kInt8FewPacked : kInt8FewRows) && stride == 1 && n >= kStreams;
  }
  /** A' − A, where A' is not less its zero points. */
  static int32_t shift(bool a_signed) { return !Kind::kTurns ? shift_of_a<Kind>(a_signed) : a_signed ? 0 : -128; }

  /** A' of one row as whole vectors, zeros beyond k. Words of 16 bits also hold a code less its zero point. */
  void stage_row(int64_t row, uint8_t* to, int64_t bytes) const {
    const Int8Call& p = *terms->call;
    const uint8_t* from = p.a.data + row * p.a.row;
    std::memset(to, 0, (size_t)bytes);
    if (Kind::kWide) {
      int16_t* words = reinterpret_cast<int16_t*>(to);
      const int zero = p.a_zero.integer(row);
      const auto stage = [&](auto* codes, int64_t stride) {
        for (int64_t k = 0; k < p.k; k++) words[k] = (int16_t)(codes[k * stride] - zero);
      };
      const int8_t* with_sign = reinterpret_cast<const int8_t*>(from);
      if (p.a.k == 1)  // known to the loop
        p.a_signed ? stage(with_sign, 1) : stage(from, 1);
      else
        p.a_signed ? stage(with_sign, p.a.k) : stage(from, p.a.k);
    } else {
      const uint8_t flip = (Kind::kTurns ? !p.a_signed : flips_a<Kind>(p.a_signed)) ? 0x80 : 0;
      for (int64_t k = 0; k < p.k; k++) to[k] = from[k * p.a.k] ^ flip;
    }
  }

  /** Four columns that are read side by side, and where their results go. */
  struct FourColumns {
    const uint8_t* b[kStreams];  // their weights
    int64_t ahead;               // bytes from them to those that come after them
    int64_t columns[kStreams];
    int count;
    int32_t *block, *sums;  // [row][column]; [column], or null
    int64_t ld;
  };

  template <int R, bool Flip, bool Sums, bool Fetch>
  void dot_rows(int64_t i, const uint8_t* a, int64_t lda, const FourColumns& at) const {
    typename Loops::Four out[R], of_columns{};
    Loops::template dots<R, Flip, Sums, Fetch>(terms->call->k, a + i * lda, lda, at.b, at.ahead, out, of_columns);
    for (int s = 0; s < at.count; s++) {
      for (int r = 0; r < R; r++) at.block[(i + r) * at.ld + at.columns[s]] = (int32_t)out[r][s];
      if (Sums) at.sums[at.columns[s]] = (int32_t)of_columns[s];
    }
  }
  /** The first rows wait for memory; while the others compute, the next weights are fetched. */
  template <int R, bool Flip>
  void dot_some(int64_t i, const uint8_t* a, int64_t lda, const FourColumns& at) const {
    if (i > 0)
      dot_rows<R, Flip, false, true>(i, a, lda, at);
    else if (at.sums)
      dot_rows<R, Flip, true, false>(i, a, lda, at);
    else
      dot_rows<R, Flip, false, false>(i, a, lda, at);
  }

  /** Columns that are read in four streams: each walks a quarter of them. */
  struct Stretch {
    int64_t first, end;
    int64_t quarter() const { return ceil_div(end - first, kStreams); }
  };

  /** The dot products of columns [begin, end) of each quarter of a stretch. */
  template <bool Flip>
  void dot_columns(int64_t begin, int64_t end, Stretch of, const uint8_t* a, int64_t lda, FourColumns four) {
    const Int8Call& p = *terms->call;
    for (int64_t j = begin; j < end; j++) {
      four.count = 0;
      four.ahead = j + 1 < of.quarter() ? p.b.row : 0;
      for (int s = 0; s < kStreams; s++) {
        const int64_t column = of.first + s * of.quarter() + j;
        const bool real = column < of.end;  // else stream 0 once more, whose sums are not stored
        four.columns[s] = column;
        four.b[s] = p.b.data + (real ? column : of.first + j) * p.b.row;
        four.count += real;
      }
      int64_t i = 0;
      for (; i + kDotRows <= p.m; i += kDotRows) dot_some<kDotRows, Flip>(i, a, lda, four);
      if (kDotRows > 2)
        for (; i + 2 <= p.m; i += 2) dot_some<2, Flip>(i, a, lda, four);
      for (; i < p.m; i++) dot_some<1, Flip>(i, a, lda, four);
    }
  }

  /** What becomes of the dot products of columns [begin, end). */
  void finish_columns(int64_t begin, int64_t end, const FourColumns& four) {
    const Int8Call& p = *terms->call;
    ScratchFrame scratch;
    const int64_t n = end - begin;
    int32_t* sums = four.sums ? four.sums + begin : nullptr;
    if (Kind::kTurns && sums)
      for (int64_t j = 0; j < n; j++) sums[j] = (int32_t)((uint32_t)sums[j] - 128u * (uint32_t)p.k);
    ColumnTerms at;
    if (!terms->prepare_columns(begin, end, sums ? sums : p.panel_sums ? p.panel_sums + begin : nullptr, scratch, at))
      return terms->fail_with(kNoMemory);
    for (int64_t i = 0; i < p.m; i++) {
      int32_t* row = four.block + i * four.ld + begin;
      for (int64_t j = 0; j < n; j++) row[j] = (int32_t)((uint32_t)row[j] + (uint32_t)at.add[j] - surplus[i]);
    }
    finish_block(terms->finish, at, four.block + begin, four.ld, 0, p.m, begin, n);
  }

  void run() {
    const Int8Call& p = *terms->call;
    ScratchFrame scratch;
    const int64_t unit = kLanes * Kind::kGroup, lda = ceil_div(p.k, unit) * kLanes * 4;
    uint8_t* a = scratch.take<uint8_t>(p.m * lda);
    if (!a) return terms->fail_with(kNoMemory);
    for (int64_t i = 0; i < p.m; i++) {
      stage_row(i, a + i * lda, lda);
      surplus[i] = 0;
      if (Kind::kTurns)
        surplus[i] = 128u * (uint32_t)Int8Terms::sum_bytes(reinterpret_cast<const int8_t*>(a + i * lda), 1, p.k);
    }
    FourColumns four{};
    const bool own_sums = terms->needs_sums && !p.panel_sums;
    four.ld = p.n + kLanes;
    four.block = scratch.take<int32_t>(p.m * four.ld);
    four.sums = own_sums ? scratch.take<int32_t>(p.n) : nullptr;
    if (!four.block || (own_sums && !four.sums)) return terms->fail_with(kNoMemory);
    for (int64_t i = 0; i < p.m; i++)
      for (int64_t j = p.n; j < four.ld; j++) four.block[i * four.ld + j] = 0;
    const auto dot = [&](int64_t begin, int64_t end, Stretch of) {
      if (cancelled()) return;
      if (p.b_signed)
        dot_columns<false>(begin, end, of, a, lda, four);
      else
        dot_columns<true>(begin, end, of, a, lda, four);
    };
    const int64_t grain = even_grain(p.n, p.k, kStreams, 16);
    if (kRunsOn) {
      const Stretch all{0, p.n};
      parallel_ranges(all.quarter(), grain / kStreams, [&](int64_t begin, int64_t end) { dot(begin, end, all); });
    } else {
      parallel_ranges(p.n, grain, [&](int64_t begin, int64_t end) {
        const Stretch of{begin, end};
        dot(0, of.quarter(), of);
      });
    }
    if (cancelled() || terms->failed) return;
    const int64_t columns = kFinishSums / p.m / kLanes * kLanes;
    parallel_ranges(p.n, columns, [&](int64_t begin, int64_t end) { finish_columns(begin, end, four); });
  }
};

}  // namespace
}  // namespace og
#endif
