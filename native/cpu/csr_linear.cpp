/**
 * csr_linear: y[M, N] = x[M, K] · Wᵀ · scale + bias, W [N, K] in compressed sparse rows.
 *
 * Inputs: x, crow [N+1], col [nnz], values [nnz] (y's dtype, or int8), scale [N], bias [N] (both optional). With int8
 * values `scale` is the step of each output. float32 (any strides of x, dense columns of y); float64 on `reference`.
 *
 * Several rows of x: sparse_panel.h, the way of Zheng et al. and XNNPACK's sparse kernels (Elsen et al., arXiv
 * 1911.09723), but with the panel cut along k as well, so that it is read from L1. One row of x: dot products.
 * Sums are float32, in the order of k within up to four interleaved chains; int8 values are exact in float32. Error at
 * most (n + 2)·2^-24·Σ|v·x|·|scale| for the n non-zeros of a row. Values that are not stored are not multiplied: a NaN
 * in x reaches only the outputs whose row names its column.
 *
 * Parallel split: by tiles of rows of W and panels of x; a row is never split. `reference` is the definition.
 * Columns must ascend within a row; others give OG_INDEX, and the contents of y are then not defined.
 */
#include "csr.h"
#include "stage.h"
#ifndef OG_IS_REFERENCE
#include "sparse_panel.h"
#endif

namespace og {
namespace OG_ISA {
namespace {

constexpr char kName[] = "csr_linear";

#ifdef OG_IS_REFERENCE

double element(const og_view& v, int64_t offset) {
  if (v.dtype == OG_F64) return data_of<const double>(v)[offset];
  if (v.dtype == OG_I8) return data_of<const int8_t>(v)[offset];
  return data_of<const float>(v)[offset];
}

int32_t multiply(const Csr& w, const og_call* call) {
  const og_view &x = call->inputs[0], &values = call->inputs[3], &scale = call->inputs[4], &bias = call->inputs[5];
  const og_view& y = call->outputs[0];
  OG_TRY(check_columns(kName, w));
  parallel_ranges(x.shape[0], csr_grain(w, w.rows, 1 << 17), [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; m++)
      for (int64_t n = 0; n < w.rows; n++) {
        double sum = 0;
        for (int64_t e = w.crow[n]; e < w.crow[n + 1]; e++)
          sum += element(values, e) * element(x, m * x.strides[0] + w.col[e] * x.strides[1]);
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

/** The non-zeros of one row as floats: where they are, or widened into `buffer`. */
const float* floats_of(const float* values, int64_t begin, int64_t, float*) { return values + begin; }
const float* floats_of(const int8_t* values, int64_t begin, int64_t n, float* buffer) {
  widen_codes(values + begin, n, buffer);
  return buffer;
}

/** One sum. Spelled out, because compilers gather four of them into a vector, which takes three times as long. */
struct Chain {
#if defined(__x86_64__)
  __m128 sum = _mm_setzero_ps();
  OG_INLINE void add(float a, float b) {
#if defined(__FMA__)
    sum = _mm_fmadd_ss(_mm_set_ss(a), _mm_set_ss(b), sum);
#else
    sum = _mm_add_ss(sum, _mm_mul_ss(_mm_set_ss(a), _mm_set_ss(b)));
#endif
  }
  OG_INLINE float value() const { return _mm_cvtss_f32(sum); }
#else
  float sum = 0;
  OG_INLINE void add(float a, float b) { sum = __builtin_fmaf(a, b, sum); }
  OG_INLINE float value() const { return sum; }
#endif
};

/** Bytes of a panel and of W up to which a panel meets all of W before the next: the panel then stays in L2. */
constexpr int64_t kCachedPanel = 256 << 10, kCachedWeights = int64_t{1} << 20;

template <class T>
struct CsrLinear {
  Csr w;
  const T* values;
  const float *scale, *bias;
  float* y;
  int64_t y_row;
  bool past;            // whether tiles of y go past the caches
  int64_t stretches;    // of k, in a full panel
  const int32_t* ends;  // [N][stretches]: end of each stretch within col
  mutable int32_t failed;

  void find_ends(int64_t depth, int32_t* to) const {
    parallel_ranges(w.rows, csr_grain(w, 1, 1 << 16), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; n++) {
        int32_t at = w.crow[n];
        for (int64_t s = 0; s + 1 < stretches; s++)
          to[n * stretches + s] = at = first_at_least(w.col, at, w.crow[n + 1], (s + 1) * depth);
        to[n * stretches + stretches - 1] = w.crow[n + 1];
      }
    });
  }

  template <int V>
  void run_tile(const Panels& panels, int64_t panel, int64_t m0, int64_t n0, int64_t n1, float* tile,
                float* buffer) const {
    constexpr int64_t width = V * kLanes;
    const float* from = panels.at(panel);
    const auto row = [&](int64_t n, int64_t begin, int64_t end, bool first) __attribute__((always_inline)) {
      accumulate_row<V>(end - begin, floats_of(values, begin, end - begin, buffer), w.col + begin, from,
                        tile + (n - n0) * width, first);
    };
    if (V < kPanelVectors || stretches == 1) {
      for (int64_t n = n0; n < n1; n++) row(n, w.begin(n), w.begin(n + 1), true);
    } else {
      for (int64_t n = n0; n < n1; n++) row(n, w.begin(n), ends[n * stretches], true);
      for (int64_t s = 1; s < stretches; s++)
        for (int64_t n = n0; n < n1; n++) row(n, ends[n * stretches + s - 1], ends[n * stretches + s], false);
    }
    store_tile(tile, width, n1 - n0, panels.rows(panel), scale ? scale + n0 : nullptr, bias ? bias + n0 : nullptr,
               y + (m0 + panel * kPanelWidth) * y_row + n0, y_row, past);
  }

  int32_t run(const Operand& x, int64_t m) {
    ScratchFrame scratch;
    const int64_t rows = m < kPanelRows ? m : kPanelRows;
    const Panels storage{rows, w.columns, scratch.take<float>(Panels::floats(rows, w.columns) + 1)};
    OG_SCRATCH(storage.data, "panels of x");
    const int64_t depth = stretch_depth(w, kPanelDepth);
    stretches = rows > kPanelWidth / 2 && w.columns > depth ? (w.columns + depth - 1) / depth : 1;
    if (stretches > 1) {
      int32_t* found = scratch.take<int32_t>(w.rows * stretches);
      OG_SCRATCH(found, "stretches");
      find_ends(depth, found);
      ends = found;
    }
    const int64_t tiles = (w.rows + kTileRows - 1) / kTileRows;
    const bool by_panels =
        w.count * (int64_t)(sizeof(T) + 4) <= kCachedWeights && w.columns * kPanelWidth * 4 <= kCachedPanel;
    for (int64_t m0 = 0; m0 < m; m0 += kPanelRows) {
      Panels panels = storage;
      panels.m = m - m0 < kPanelRows ? m - m0 : kPanelRows;
      panels.fill(advance(x, m0, 0));
      parallel_for(tiles * panels.count(), [&](int64_t chunk) {
        const int64_t panel = by_panels ? chunk / tiles : chunk % panels.count();
        const int64_t n0 = (by_panels ? chunk % tiles : chunk / panels.count()) * kTileRows;
        const int64_t n1 = n0 + kTileRows < w.rows ? n0 + kTileRows : w.rows;
        const StreamEnd streams{past};
        ScratchFrame own;
        float* tile = own.take<float>(kTileRows * kPanelWidth);
        float* buffer = own.take<float>(w.columns + 1);
        if (!tile || !buffer) {
          __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
          return;
        }
        with_vectors(panel_vectors(panels.rows(panel)),
                     [&](auto v) { run_tile<decltype(v)::value>(panels, panel, m0, n0, n1, tile, buffer); });
      });
      if (failed) return fail(OG_OUT_OF_MEMORY, "%s: no memory for a tile", kName);
    }
    return OG_OK;
  }

  /** One row of x, dense: a dot product per row of W, in four chains. Each row is looked at before it is used. */
  int32_t run_row(const float* x) {
    parallel_ranges(w.rows, csr_grain(w, 1, 1 << 15), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; n++) {
        if (!row_is_right(w, n)) {
          __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
          return;
        }
        const T* v = values + w.begin(n);
        const int32_t* c = w.col + w.begin(n);
        const int64_t count = w.length(n);
        Chain s0, s1, s2, s3;
        int64_t e = 0;
        for (; e + 4 <= count; e += 4) {
          s0.add(v[e], x[c[e]]);
          s1.add(v[e + 1], x[c[e + 1]]);
          s2.add(v[e + 2], x[c[e + 2]]);
          s3.add(v[e + 3], x[c[e + 3]]);
        }
        for (; e < count; e++) s0.add(v[e], x[c[e]]);
        const float sum = (s0.value() + s1.value()) + (s2.value() + s3.value());
        y[n] = (scale ? sum * scale[n] : sum) + (bias ? bias[n] : 0.f);
      }
    });
    return failed ? bad_column(kName, w) : OG_OK;
  }
};

template <class T>
int32_t multiply_as(const Csr& w, const og_call* call) {
  const og_view &x = call->inputs[0], &y = call->outputs[0];
  const auto vector = [&](int i) {
    return is_present(call->inputs[i]) ? data_of<const float>(call->inputs[i]) : nullptr;
  };
  CsrLinear<T> body{w,
                    data_of<const T>(call->inputs[3]),
                    vector(4),
                    vector(5),
                    data_of<float>(y),
                    y.strides[0],
                    stores_past(y),
                    1,
                    nullptr,
                    0};
  if (x.shape[0] == 1 && (x.strides[1] == 1 || w.columns == 1)) return body.run_row(data_of<const float>(x));
  OG_TRY(check_columns(kName, w));
  return body.run({x.data, OG_F32, x.strides[0], x.strides[1]}, x.shape[0]);
}

int32_t multiply(const Csr& w, const og_call* call) {
  const og_view &x = call->inputs[0], &y = call->outputs[0];
  OG_SUPPORTED(x.dtype == OG_F32, "%s: x must be float32", kName);
  OG_SUPPORTED(y.strides[1] == 1 || y.shape[1] == 1, "%s: the columns of the result must be dense", kName);
  return call->inputs[3].dtype == OG_I8 ? multiply_as<int8_t>(w, call) : multiply_as<float>(w, call);
}

#endif

}  // namespace

int32_t kernel_csr_linear(const og_call* call) {
  const og_view &x = call->inputs[0], &values = call->inputs[3], &y = call->outputs[0];
  OG_REQUIRE(x.rank == 2 && y.rank == 2 && x.shape[0] == y.shape[0], "%s: x is [M, K] and the result [M, N]", kName);
  OG_SUPPORTED((y.dtype == OG_F32 || y.dtype == OG_F64) && x.dtype == y.dtype,
               "%s: x and the result must be float32 or float64", kName);
  OG_SUPPORTED(values.dtype == y.dtype || values.dtype == OG_I8, "%s: values must be of x's dtype or int8", kName);
  Csr w;
  OG_REQUIRE(!spans_meet(call->inputs[1], y) && !spans_meet(call->inputs[2], y), "%s: the result lies over the indices",
             kName);
  OG_TRY(read_csr(kName, call->inputs[1], call->inputs[2], x.shape[1], &w));
  OG_REQUIRE(w.rows == y.shape[1], "%s: crow has %lld rows, the result %lld columns", kName, (long long)w.rows,
             (long long)y.shape[1]);
  OG_REQUIRE(values.rank == 1 && values.shape[0] == w.count, "%s: values must be [%lld]", kName, (long long)w.count);
  OG_SUPPORTED(is_dense(values), "%s: values must be dense in memory", kName);
  OG_TRY(check_vector(kName, "scale", call->inputs[4], w.rows, y.dtype));
  OG_TRY(check_vector(kName, "bias", call->inputs[5], w.rows, y.dtype));
  if (x.shape[0] == 0 || w.rows == 0) return OG_OK;
  return multiply(w, call);
}

}  // namespace OG_ISA
}  // namespace og
