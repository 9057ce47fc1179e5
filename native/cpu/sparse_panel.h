/**
 * The dense side of sparse products. The rows of x [M, K] are packed into panels `[k][width]`, so that column k of the
 * sparse weight meets `width` rows of x as one run of memory: a non-zero costs one broadcast and a multiply-add per
 * vector, whatever its place. The last panel is as narrow as its rows allow.
 *
 * A sparse row keeps the sums of its panel in registers over a stretch of k whose part of the panel fits L1; between
 * stretches they lie in a tile [rows of the weight][width], which is written out transposed, scaled and with the bias.
 */
#ifndef OMNIGRAD_CPU_SPARSE_PANEL_H
#define OMNIGRAD_CPU_SPARSE_PANEL_H

#include "../core/parallel.h"
#include "../core/scratch.h"
#include "../core/status.h"
#include "../core/view.h"
#include "gemm_pack.h"
#include "stream.h"

namespace og {
namespace {

#if OG_LANES == 4
constexpr int kPanelVectors = 8;
#else
constexpr int kPanelVectors = 4;
#endif
constexpr int kPanelWidth = kPanelVectors * kLanes;
/** Rows of x packed at a time: a bound on scratch memory, not on M. */
constexpr int64_t kPanelRows = 512;
/** Steps of k whose part of a full panel stays in L1. */
constexpr int64_t kPanelDepth = 24576 / (kPanelWidth * 4);
/** Rows of the weight in one tile of sums. */
constexpr int64_t kTileRows = 128;

/** Vectors of the panel that holds `rows` rows: 1, 2, 4 or kPanelVectors. */
inline int panel_vectors(int64_t rows) {
  int vectors = 1;
  while (vectors < kPanelVectors && vectors * kLanes < rows) vectors *= 2;
  return vectors;
}

/** x[0 … m) × [0 … k) in panels of W times kPanelWidth rows, where so many are left; panel p starts at row start(p). */
template <int W>
struct PanelsOf {
  int64_t m, k;
  float* data;

  int64_t full() const { return m / (W * kPanelWidth); }
  int64_t count() const { return full() + (m - full() * W * kPanelWidth + kPanelWidth - 1) / kPanelWidth; }
  int64_t start(int64_t panel) const { return (panel < full() ? panel * W : full() * (W - 1) + panel) * kPanelWidth; }
  int64_t rows(int64_t panel) const {
    const int64_t width = (panel < full() ? W : 1) * kPanelWidth, left = m - start(panel);
    return left < width ? left : width;
  }
  const float* at(int64_t panel) const { return data + start(panel) * k; }

  static int64_t floats(int64_t m, int64_t k) { return (m + kPanelWidth - 1) / kPanelWidth * kPanelWidth * k; }

  template <int P>
  void pack_one(const Operand& from, int64_t panel) const {
    pack<P>(from, rows(panel), k, data + start(panel) * k);
  }
  void fill(const Operand& x) const {
    parallel_for(count(), [&](int64_t panel) {
      const Operand from = advance(x, start(panel), 0);
      if (W > 1 && panel < full()) return pack_one<W * kPanelWidth>(from, panel);
      switch (panel_vectors(rows(panel))) {
        case 1:
          return pack_one<kLanes>(from, panel);
        case 2:
          return pack_one<2 * kLanes>(from, panel);
#if OG_LANES == 4
        case 4:
          return pack_one<4 * kLanes>(from, panel);
#endif
        default:
          return pack_one<kPanelWidth>(from, panel);
      }
    });
  }
};
using Panels = PanelsOf<1>;

/** Brings n elements into L1 on AVX2, which was measured to gain from it: pieces of rows are too short for hardware. */
template <class T>
OG_INLINE void fetch(const T* from, int64_t n) {
  if constexpr (kLanes == 8)
    for (int64_t i = 0; i < n; i += 64 / (int64_t)sizeof(T)) __builtin_prefetch(from + i);
}

/** Calls f(integral constant V) with the vectors of a panel. */
template <class F>
OG_INLINE void with_vectors(int vectors, const F& f) {
  switch (vectors) {
    case 1:
      return f(std::integral_constant<int, 1>{});
    case 2:
      return f(std::integral_constant<int, 2>{});
#if OG_LANES == 4
    case 4:
      return f(std::integral_constant<int, 4>{});
#endif
    default:
      return f(std::integral_constant<int, kPanelVectors>{});
  }
}

/**
 * x += Σ values[e] · panel row columns[e], over `count` non-zeros. Several chains of sums where a vector's few would
 * wait for each other: AVX2 needs eight in flight, AVX-512 on Zen 4 is served by the four of a panel.
 */
template <int V>
OG_INLINE void accumulate(int64_t count, const float* values, const int32_t* columns, const float* panel, Vf (&x)[V]) {
  constexpr int kChains = V == 1 ? 4 : V < kPanelVectors || (kLanes == 8 && V == kPanelVectors) ? 2 : 1;
  constexpr int64_t width = V * kLanes;
  int64_t e = 0;
  if constexpr (kChains > 1) {
    if (count >= 2 * kChains) {
      Vf y[kChains - 1][V];
#pragma GCC unroll 8
      for (int c = 0; c < kChains - 1; c++)
#pragma GCC unroll 8
        for (int j = 0; j < V; j++) y[c][j] = Vf{};
      for (; e + kChains <= count; e += kChains) {
#pragma GCC unroll 8
        for (int c = 0; c < kChains; c++) {
          const float* row = panel + (int64_t)columns[e + c] * width;
          const Vf v = set1(values[e + c]);
#pragma GCC unroll 8
          for (int j = 0; j < V; j++) {
            Vf& sum = c == 0 ? x[j] : y[c - (c > 0)][j];
            sum = fma(v, load(row + j * kLanes), sum);
          }
        }
      }
#pragma GCC unroll 8
      for (int c = 0; c < kChains - 1; c++)
#pragma GCC unroll 8
        for (int j = 0; j < V; j++) x[j] += y[c][j];
    }
  }
#pragma GCC unroll 4
  for (; e < count; e++) {
    const float* row = panel + (int64_t)columns[e] * width;
    const Vf v = set1(values[e]);
#pragma GCC unroll 8
    for (int j = 0; j < V; j++) x[j] = fma(v, load(row + j * kLanes), x[j]);
  }
}

/** The same for one row of the tile, whose sums are in memory, unless these non-zeros are the first. */
template <int V>
OG_INLINE void accumulate_row(int64_t count, const float* values, const int32_t* columns, const float* panel,
                              float* sums, bool first) {
  if (count == 0 && !first) return;
  Vf x[V];
#pragma GCC unroll 8
  for (int j = 0; j < V; j++) x[j] = first ? Vf{} : load(sums + j * kLanes);
  accumulate<V>(count, values, columns, panel, x);
#pragma GCC unroll 8
  for (int j = 0; j < V; j++) store(sums + j * kLanes, x[j]);
}

/**
 * Whether tiles of y go past the caches: where a vector is a whole line and y more than the second-level caches of some
 * cores hold. At 90 % zeros and more there is so little to compute that fetching the lines of y takes half of the time.
 */
inline bool stores_past(const og_view& y) {
  constexpr int64_t bytes = int64_t{4} << 20;
  const int64_t bits = (int64_t)(uintptr_t)y.data | y.strides[0] * 4;
  return kLanes * 4 == kStreamLine && (bits & (kStreamLine - 1)) == 0 && count_of(y) * 4 >= bytes;
}

/** What becomes of a tile; scale and bias may be null. */
struct TileEnd {
  const float *scale, *bias;
  int64_t row;  // of y, apart
  bool past;    // the caches
};

/** `count` columns of `lines` rows of y, from column i on; `from`: those rows in the tile's first such column. */
OG_INLINE void store_tile_block(const float* from, int64_t width, int count, int lines, int64_t i, const TileEnd& end,
                                float* to) {
  const Vf factor = end.scale ? load_first(end.scale + i, count) : set1(1.f);
  const Vf offset = end.bias ? load_first(end.bias + i, count) : Vf{};
  const float* rows[kLanes];
#pragma GCC unroll 16
  for (int r = 0; r < kLanes; r++) rows[r] = from + (r < count ? r : 0) * width;
  Vf columns[kBlockK];
  transpose_block(rows, count, lines, columns);
#pragma GCC unroll 16
  for (int c = 0; c < kBlockK; c++) {
    if (c >= lines) continue;
    const Vf v = end.scale ? fma(columns[c], factor, offset) : columns[c] + offset;
    if (count < kLanes)
      store_first(to + c * end.row, v, count);
    else if (end.past)
      stream(to + c * end.row, v);
    else
      store(to + c * end.row, v);
  }
}

/**
 * y[0 … m)[0 … n) = tile[n][width]ᵀ · scale[n] + bias[n]; scale and bias may be null. `y` has dense columns, `row`
 * apart. Line after line of some rows at a time, so that they are written in runs.
 */
inline void store_tile(const float* tile, int64_t width, int64_t n, int64_t m, const float* scale, const float* bias,
                       float* y, int64_t row, bool past) {
  const TileEnd end{scale, bias, row, past};
  for (int64_t j = 0; j < m; j += kBlockK) {
    const int lines = m - j < kBlockK ? (int)(m - j) : kBlockK;
    for (int64_t i = 0; i < n; i += kLanes) {
      const int count = lanes_left(n - i, 0);
      const float* from = tile + i * width + j;
      float* to = y + j * row + i;
      if (count == kLanes && lines == kBlockK)  // known to the loops
        store_tile_block(from, width, kLanes, kBlockK, i, end, to);
      else
        store_tile_block(from, width, count, lines, i, end, to);
    }
  }
}

/** n codes of int8 as floats. */
inline void widen_codes(const int8_t* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; i++) to[i] = (float)from[i];
}

}  // namespace
}  // namespace og
#endif
