/**
 * Few rows, at most kFewPanelRows, against packed panels of B that come from memory or the last cache (AVX2).
 *
 * Hardware fetches ahead in each of several streams, and a single one leaves memory idle; software fetches alone do not
 * fill it either, as a core has 24 places for lines on their way to L1 (Zen 3). So four panels that lie far apart are
 * read in turn, kTurn steps of each. More rows than a tile holds pass in two parts, the second of which finds B in L1
 * and fetches what its stream needs next.
 *
 * Sums pass through memory between turns: the same operations in the same order as one tile over all steps.
 */
#ifndef OMNIGRAD_CPU_GEMM_FAR_PANELS_H
#define OMNIGRAD_CPU_GEMM_FAR_PANELS_H

#include "gemm_tile.h"

namespace og {
namespace {

/** Up to so many rows are bound by reading B. */
constexpr int kFewPanelRows = 8;
constexpr int kFarPanels = 4;

#if OG_LANES == 8
/** Panels that are read in turn: their steps, and R × kNR sums each. */
template <int R>
struct FarPanels {
  static constexpr int kFirstRows = R <= kMR ? R : (R + 1) / 2, kLastRows = R - kFirstRows;
  static constexpr int kTurn = kLastRows ? 32 : 16;

  const float* b[kFarPanels];
  int64_t columns[kFarPanels];
  int count;
  alignas(64) Vf sums[kFarPanels][R][kNV];

  /** Rows [From, From + Rows) of one panel; rows beyond kMR lie in `more`, the panel of A that follows. */
  template <class Words, int From, int Rows>
  OG_INLINE void part(int64_t steps, const float* a, const float* more, const float* at, Vf (&to)[R][kNV]) {
    Vf x[Rows][kNV];
#pragma GCC unroll 8
    for (int i = 0; i < Rows; i++)
#pragma GCC unroll 2
      for (int j = 0; j < kNV; j++) x[i][j] = to[From + i][j];
#pragma GCC unroll 4
    for (int64_t step = 0; step < steps; step++) {
      Vf row[kNV];
#pragma GCC unroll 2
      for (int j = 0; j < kNV; j++) row[j] = load(at + step * kNR + j * kLanes);
      if (From > 0) __builtin_prefetch(at + (step + kTurn) * kNR, 0, 2);
#pragma GCC unroll 8
      for (int i = 0; i < Rows; i++) {
        const Vf v = Words::broadcast((From + i < kMR ? a + From + i : more + From + i - kMR) + step * kMR);
#pragma GCC unroll 2
        for (int j = 0; j < kNV; j++) x[i][j] = Words::dot(v, row[j], x[i][j]);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < Rows; i++)
#pragma GCC unroll 2
      for (int j = 0; j < kNV; j++) to[From + i][j] = x[i][j];
  }

  template <class Words>
  void multiply(int64_t steps, const float* a) {
    for (int p = 0; p < count; p++)
      for (int i = 0; i < R; i++)
        for (int j = 0; j < kNV; j++) sums[p][i][j] = Vf{};
    const float* more = a + kMR * steps;
    for (int64_t step = 0; step < steps; step += kTurn, a += kTurn * kMR, more += kTurn * kMR) {
      const int64_t here = steps - step < kTurn ? steps - step : kTurn;
      for (int p = 0; p < count; p++) {
        part<Words, 0, kFirstRows>(here, a, more, b[p] + step * kNR, sums[p]);
        if constexpr (kLastRows > 0) part<Words, kFirstRows, kLastRows>(here, a, more, b[p] + step * kNR, sums[p]);
      }
    }
  }
};

/** All R rows times n columns, whose panels lie one after another at b. */
template <class Words, int R>
void far_rows(int64_t n, int64_t steps, const float* a, const float* b, const TileOut& out) {
  const int64_t panels = (n + kNR - 1) / kNR, quarter = (panels + kFarPanels - 1) / kFarPanels;
  FarPanels<R> far;
  for (int64_t at = 0; at < quarter; at++) {
    far.count = 0;
    for (int64_t panel = at; panel < panels; panel += quarter) {
      far.b[far.count] = b + panel * kNR * steps;
      far.columns[far.count++] = panel * kNR;
    }
    far.template multiply<Words>(steps, a);
    for (int p = 0; p < far.count; p++) {
      const int64_t j = far.columns[p];
      finish_tile(far.sums[p], {out.c + j, out.ldc, out.init ? out.init + j : nullptr, out.ldi}, n - j);
    }
  }
}

/** 1 ≤ m ≤ kFewPanelRows rows. */
template <class Words>
void far_panels(int64_t m, int64_t n, int64_t steps, const float* a, const float* b, const TileOut& out) {
  typedef void (*Rows)(int64_t, int64_t, const float*, const float*, const TileOut&);
  static constexpr Rows fns[kFewPanelRows] = {far_rows<Words, 1>, far_rows<Words, 2>, far_rows<Words, 3>,
                                              far_rows<Words, 4>, far_rows<Words, 5>, far_rows<Words, 6>,
                                              far_rows<Words, 7>, far_rows<Words, 8>};
  fns[m - 1](n, steps, a, b, out);
}
#endif

}  // namespace
}  // namespace og
#endif
