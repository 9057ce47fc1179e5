/**
 * semi_structured_linear: y[M, N] = x[M, K] · Wᵀ · scale + bias, W [N, K] 2:4 sparse (semi_structured.h).
 *
 * Inputs: x, values [N, K/2] (y's dtype, or int8), indices [N, ⌈K/8⌉], scale [N], bias [N] (both optional).
 * Many rows of x: sparse_panel.h, a stretch of columns decoded at a time. Up to eight: the kept elements of a vector
 * are fetched from x by a permutation (two loads and a two-source permutation serve 16 elements on AVX-512; AVX2 takes
 * rows of W in pairs, semi_structured_pairs.h), so that values and indices are read once, at the speed of memory.
 *
 * float32 sums in the order of k (in vector lanes for few rows); int8 is exact in float32. Error at most
 * (K/2 + 6)·2^-24·Σ|v·x|·|scale|. float64 on `reference`. Parallel split: tiles of rows of W by panels; rows of W.
 */
#include "semi_structured.h"

#include "csr.h"
#include "stage.h"
#ifndef OG_IS_REFERENCE
#include "semi_structured_pairs.h"
#include "sparse_panel.h"
#endif

namespace og {
namespace OG_ISA {
namespace {

constexpr char kName[] = "semi_structured_linear";

#ifdef OG_IS_REFERENCE

double element(const og_view& v, int64_t offset) {
  if (v.dtype == OG_F64) return data_of<const double>(v)[offset];
  if (v.dtype == OG_I8) return data_of<const int8_t>(v)[offset];
  return data_of<const float>(v)[offset];
}

int32_t multiply(const og_call* call) {
  const og_view &x = call->inputs[0], &values = call->inputs[1], &indices = call->inputs[2];
  const og_view &scale = call->inputs[3], &bias = call->inputs[4], &y = call->outputs[0];
  const int64_t kept = x.shape[1] / 2, bytes = (x.shape[1] + 7) / 8;
  parallel_ranges(x.shape[0], grain_for(y.shape[1] * kept, 1 << 17), [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; m++)
      for (int64_t n = 0; n < y.shape[1]; n++) {
        double sum = 0;
        for (int64_t e = 0; e < kept; e++)
          sum +=
              element(values, n * kept + e) *
              element(x, m * x.strides[0] + kept_column(data_of<const uint8_t>(indices) + n * bytes, e) * x.strides[1]);
        if (is_present(scale)) sum *= element(scale, n);
        if (is_present(bias)) sum += element(bias, n);
        const int64_t at = m * y.strides[0] + n * y.strides[1];
        if (y.dtype == OG_F64)
          data_of<double>(y)[at] = sum;
        else
          data_of<float>(y)[at] = (float)sum;
      }
  });
  return OG_OK;
}

#else

/** kLanes two-bit numbers of kLanes/4 bytes. */
OG_INLINE Vi two_bits(const uint8_t* from) {
#if OG_LANES == 4
  const int32_t b = from[0];
  return Vi{b & 3, b >> 2 & 3, b >> 4 & 3, b >> 6};
#else
  Vu word, shift;
#if OG_LANES == 16
  uint32_t bits;
#else
  uint16_t bits;
#endif
  std::memcpy(&bits, from, sizeof bits);
  word = Vu{} + bits;
  for (int i = 0; i < kLanes; i++) shift[i] = 2u * (unsigned)i;
  return (Vi)(word >> shift) & 3;
#endif
}

/** 0 0 4 4 8 8 … : where the groups of kLanes kept elements begin. */
OG_INLINE Vi group_starts() {
  Vi v;
  for (int i = 0; i < kLanes; i++) v[i] = i / 2 * 4;
  return v;
}

OG_INLINE Vf load_values(const float* p) { return load(p); }
OG_INLINE Vf load_values(const int8_t* p) {
#if OG_LANES == 16
  return (Vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
#elif OG_LANES == 8
  return (Vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
#else
  return Vf{(float)p[0], (float)p[1], (float)p[2], (float)p[3]};
#endif
}

/** Lane i: the element of x[0 … 2·kLanes) that index[i] + group_starts()[i] names. */
OG_INLINE Vf pick(const float* x, Vi column) {
#if OG_LANES == 16
  return (Vf)_mm512_permutex2var_ps((__m512)load(x), (__m512i)column, (__m512)load(x + 16));
#elif OG_LANES == 8
  // lanes 0 to 3 point into the first vector, the others into the second; the permutation looks at three bits
  const __m256 low = _mm256_permutevar8x32_ps((__m256)load(x), (__m256i)column);
  const __m256 high = _mm256_permutevar8x32_ps((__m256)load(x + 8), (__m256i)column);
  return (Vf)_mm256_blend_ps(low, high, 0xF0);
#else
  return Vf{x[column[0]], x[column[1]], x[column[2]], x[column[3]]};
#endif
}

const float* floats_of(const float* values, int64_t, float*) { return values; }
const float* floats_of(const int8_t* values, int64_t n, float* buffer) {
  widen_codes(values, n, buffer);
  return buffer;
}

/** On AVX2 a kept element meets 64 rows of x: nine loads for eight multiply-adds instead of five for four. */
constexpr int kWide = kLanes == 8 ? 2 : 1;
using WidePanels = PanelsOf<kWide>;

template <class T>
struct SemiStructured {
  int64_t n, k;
  const T* values;
  const uint8_t* indices;
  const float *scale, *bias;
  float* y;
  int64_t y_row;
  int32_t failed;

  int64_t kept() const { return k / 2; }
  int64_t bytes() const { return (k + 7) / 8; }
  float finish(float sum, int64_t row) const { return (scale ? sum * scale[row] : sum) + (bias ? bias[row] : 0.f); }

  /** Columns of kept elements [begin, begin + count) of a row, begin a multiple of 4. */
  void decode(const uint8_t* row, int64_t begin, int64_t count, int32_t* to) const {
    const Vi starts = group_starts();
    int64_t e = 0;
    for (; e + kLanes <= count; e += kLanes) {
      const Vi column = two_bits(row + (begin + e) / 4) + starts + set1((int32_t)(2 * (begin + e)));
      std::memcpy(to + e, &column, sizeof column);
    }
    for (; e < count; e++) to[e] = (int32_t)kept_column(row, begin + e);
  }

  template <int V>
  void run_tile(const WidePanels& panels, int64_t panel, int64_t m0, int64_t n0, int64_t n1, float* tile) const {
    constexpr int64_t width = V * kLanes;
    // kept elements: a multiple of 8
    constexpr int64_t stretch = kPanelDepth / (V > kPanelVectors ? kWide : 1) / 16 * 8;
    alignas(64) float buffer[stretch];
    alignas(64) int32_t columns[stretch];
    std::memset(tile, 0, sizeof(float) * (size_t)((n1 - n0) * width));
    for (int64_t e = 0; e < kept(); e += stretch) {
      const int64_t count = kept() - e < stretch ? kept() - e : stretch;
      fetch(panels.at(panel) + 2 * e * width, 2 * count * width);
      for (int64_t row = n0; row < n1; row++) {
        fetch(values + (row + 1 < n1 ? row + 1 : row) * kept() + e, count);
        decode(indices + row * bytes(), e, count, columns);
        accumulate_row<V>(count, floats_of(values + row * kept() + e, count, buffer), columns, panels.at(panel),
                          tile + (row - n0) * width, false);
      }
    }
    store_tile(tile, width, n1 - n0, panels.rows(panel), scale ? scale + n0 : nullptr, bias ? bias + n0 : nullptr,
               y + (m0 + panels.start(panel)) * y_row + n0, y_row, false);
  }

  int32_t run(const Operand& x, int64_t m) {
    ScratchFrame scratch;
    const int64_t rows = m < kPanelRows ? m : kPanelRows;
    WidePanels panels{rows, k, scratch.take<float>(WidePanels::floats(rows, k) + 1)};
    OG_SCRATCH(panels.data, "panels of x");
    const int64_t tiles = (n + kTileRows - 1) / kTileRows;
    for (int64_t m0 = 0; m0 < m; m0 += kPanelRows) {
      panels.m = m - m0 < kPanelRows ? m - m0 : kPanelRows;
      panels.fill(advance(x, m0, 0));
      parallel_for(tiles * panels.count(), [&](int64_t chunk) {
        const int64_t panel = chunk % panels.count(), n0 = chunk / panels.count() * kTileRows;
        const int64_t n1 = n0 + kTileRows < n ? n0 + kTileRows : n;
        ScratchFrame own;
        float* tile = own.take<float>(kTileRows * kPanelWidth * kWide);
        if (!tile) {
          __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
          return;
        }
        if (kWide > 1 && panel < panels.full()) return run_tile<kWide * kPanelVectors>(panels, panel, m0, n0, n1, tile);
        with_vectors(panel_vectors(panels.rows(panel)),
                     [&](auto v) { run_tile<decltype(v)::value>(panels, panel, m0, n0, n1, tile); });
      });
      if (failed) return fail(OG_OUT_OF_MEMORY, "%s: no memory for a tile", kName);
    }
    return OG_OK;
  }

  /** R rows of x, each dense, against S rows of W from `row` on, `step` apart. */
  template <int R, int S>
  OG_INLINE void dots(const float* x, int64_t x_row, int64_t m, int64_t row, int64_t step) const {
    const Vi starts = group_starts();
    Vf s[R][S];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int j = 0; j < S; j++) s[r][j] = Vf{};
    int64_t e = 0;
    for (; e + kLanes <= kept(); e += kLanes) {
#pragma GCC unroll 4
      for (int j = 0; j < S; j++) {
        const int64_t at = row + j * step;
        const Vi column = two_bits(indices + at * bytes() + e / 4) + starts;
        const Vf v = load_values(values + at * kept() + e);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) s[r][j] = fma(pick(x + r * x_row + 2 * e, column), v, s[r][j]);
      }
    }
    for (int j = 0; j < S; j++)
      for (int r = 0; r < R; r++) {
        const int64_t at = row + j * step;
        float total = sum(s[r][j]);
        for (int64_t i = e; i < kept(); i++)
          total += (float)values[at * kept() + i] * x[r * x_row + kept_column(indices + at * bytes(), i)];
        y[(m + r) * y_row + at] = finish(total, at);
      }
  }

#if OG_LANES == 8
  /** The same for an even number of rows of W; `turned`: x in the order of pairs. */
  template <int R, int S>
  OG_INLINE void dots(const float* x, int64_t x_row, const float* turned, int64_t m, int64_t row, int64_t step) const {
    const T* rows[S];
    const uint8_t* places[S];
    for (int j = 0; j < S; j++) {
      rows[j] = values + (row + j * step) * kept();
      places[j] = indices + (row + j * step) * bytes();
    }
    float sums[R][S];
    pair_sums<R, S / 2>(rows, places, kept(), turned, paired_columns(k), sums);
    for (int j = 0; j < S; j++)
      for (int r = 0; r < R; r++) {
        for (int64_t i = kept() / kLanes * kLanes; i < kept(); i++)
          sums[r][j] += (float)rows[j][i] * x[r * x_row + kept_column(places[j], i)];
        y[(m + r) * y_row + row + j * step] = finish(sums[r][j], row + j * step);
      }
  }
#else
  template <int R, int S>
  OG_INLINE void dots(const float* x, int64_t x_row, const float*, int64_t m, int64_t row, int64_t step) const {
    dots<R, S>(x, x_row, m, row, step);
  }
#endif

  /** Rows [begin, end) of W in four streams that lie apart in memory: one stream leaves bandwidth unused. */
  template <int R, int S>
  void rows(const float* x, int64_t x_row, const float* turned, int64_t m, int64_t begin, int64_t end) const {
    const int64_t step = (end - begin) / S;
    for (int64_t i = 0; i < step; i++) dots<R, S>(x, x_row, turned, m, begin + i, step);
    for (int64_t i = begin + S * step; i < end; i++) dots<R, 1>(x, x_row, m, i, 0);
  }

  int32_t run_rows(const float* x, int64_t x_row, int64_t m) {
    ScratchFrame scratch;
    const float* turned = nullptr;
    int64_t turned_row = 0;
#if OG_LANES == 8
    turned_row = paired_columns(k);
    float* to = scratch.take<float>(m * turned_row);
    OG_SCRATCH(to, "rows of x");
    for (int64_t i = 0; i < m; i++) turn_groups(x + i * x_row, k, to + i * turned_row);
    turned = to;
#endif
    parallel_ranges(n, grain_for(kept() * m, 1 << 16), [&](int64_t begin, int64_t end) {
      int64_t i = 0;
      const auto from = [&] { return x + i * x_row; };
      const auto also = [&] { return turned ? turned + i * turned_row : nullptr; };
      for (; i + 4 <= m; i += 4) rows<4, 2>(from(), x_row, also(), i, begin, end);
      for (; i + 2 <= m; i += 2) rows<2, 2>(from(), x_row, also(), i, begin, end);
      for (; i < m; i++) rows<1, 4>(from(), x_row, also(), i, begin, end);
    });
    return OG_OK;
  }
};

template <class T>
int32_t multiply_as(const og_call* call) {
  const og_view &x = call->inputs[0], &y = call->outputs[0];
  const auto vector = [&](int i) {
    return is_present(call->inputs[i]) ? data_of<const float>(call->inputs[i]) : nullptr;
  };
  SemiStructured<T> body{y.shape[1],
                         x.shape[1],
                         data_of<const T>(call->inputs[1]),
                         data_of<const uint8_t>(call->inputs[2]),
                         vector(3),
                         vector(4),
                         data_of<float>(y),
                         y.strides[0],
                         0};
  if (x.shape[0] <= 8 && x.strides[1] == 1) return body.run_rows(data_of<const float>(x), x.strides[0], x.shape[0]);
  return body.run({x.data, OG_F32, x.strides[0], x.strides[1]}, x.shape[0]);
}

int32_t multiply(const og_call* call) {
  return call->inputs[1].dtype == OG_I8 ? multiply_as<int8_t>(call) : multiply_as<float>(call);
}

#endif

}  // namespace

int32_t kernel_semi_structured_linear(const og_call* call) {
  const og_view &x = call->inputs[0], &values = call->inputs[1], &indices = call->inputs[2], &y = call->outputs[0];
  OG_REQUIRE(x.rank == 2 && y.rank == 2 && x.shape[0] == y.shape[0], "%s: x is [M, K] and the result [M, N]", kName);
  OG_SUPPORTED((y.dtype == OG_F32 || y.dtype == OG_F64) && x.dtype == y.dtype,
               "%s: x and the result must be float32 or float64", kName);
  OG_SUPPORTED(values.dtype == y.dtype || values.dtype == OG_I8, "%s: values must be of x's dtype or int8", kName);
  OG_SUPPORTED(y.strides[1] == 1 || y.shape[1] == 1, "%s: the columns of the result must be dense", kName);
  OG_SUPPORTED(x.shape[1] <= INT32_MAX, "%s: K is too large", kName);
  OG_TRY(check_pair(kName, values, indices, y.shape[1], x.shape[1]));
  OG_TRY(check_vector(kName, "scale", call->inputs[3], y.shape[1], y.dtype));
  OG_TRY(check_vector(kName, "bias", call->inputs[4], y.shape[1], y.dtype));
  if (x.shape[0] == 0 || y.shape[1] == 0) return OG_OK;
  return multiply(call);
}

}  // namespace OG_ISA
}  // namespace og
