/**
 * Products for which packing would cost more than it saves.
 *
 * few_rows_dot:  m ≤ 8 rows against a B whose k is dense (a Linear weight, transposed). Every weight is read once from
 *   memory, in four streams that lie n/4 columns apart (one stream leaves half of the memory bandwidth unused), and is
 *   used for all rows while it is in L1. Sums run along k in vector lanes.
 * few_rows_axpy: m ≤ 8 rows against a B whose columns are dense: c += a[k]·b[k], several weight rows at a time, over a
 *   stretch of c that stays in L1. Each weight row is read as one long stream.
 * direct:        any m against a B whose columns are dense: register tiles straight from both operands.
 */
#ifndef OMNIGRAD_CPU_GEMM_SMALL_H
#define OMNIGRAD_CPU_GEMM_SMALL_H

#include "gemm_frame.h"

namespace og {
namespace {

constexpr int64_t kFewRows = 8;
/** So many rows read a packed B, where there is one: sequential, and no sums across lanes. */
constexpr int64_t kLeastPackedRows = 3;

OG_INLINE Vf load_tail(const float* p, int n) { return load_first(p, n); }
/** Copied in halves, quarters and so on: a loop over elements, unrolled, would be most of the code of this file. */
template <class T>
OG_INLINE Vf load_tail(const T* p, int n) {
  if (n == kLanes) return load(p);
  T lanes[kLanes] = {};
  int at = 0;
#pragma GCC unroll 4
  for (int part = kLanes / 2; part > 0; part /= 2) {
    if (!(n & part)) continue;
    std::memcpy(lanes + at, p + at, (size_t)part * sizeof(T));
    at += part;
  }
  return load(lanes);
}

/**
 * Weights beyond this size come from memory rather than from a cache, and lines of each stream are fetched into L2 so
 * many bytes ahead (Zen 4, one thread: 15-20 % faster from memory, as much slower from L3). Other sets were not
 * measured.
 */
constexpr int64_t kPastCaches = OG_LANES == 16 ? 8 << 20 : INT64_MAX, kStreamAhead = 1536;

/** out[r][s] = Σ_k a[r][k] · b[s][k] for R dense rows and S streams; U independent sums each, against FMA latency. */
template <int R, int S, int U, bool kFetch, class T>
OG_INLINE void dot_block(int64_t k, const float* a, int64_t lda, const T* const* b, float (&out)[R][S]) {
  Vf x[U][R][S];
#pragma GCC unroll 4
  for (int u = 0; u < U; u++)
#pragma GCC unroll 8
    for (int i = 0; i < R; i++)
#pragma GCC unroll 8
      for (int j = 0; j < S; j++) x[u][i][j] = Vf{};
  int64_t p = 0;
  for (; p + U * kLanes <= k; p += U * kLanes) {
#pragma GCC unroll 4
    for (int u = 0; u < U; u++) {
      Vf v[R];
#pragma GCC unroll 8
      for (int i = 0; i < R; i++) v[i] = load(a + i * lda + p + u * kLanes);
#pragma GCC unroll 8
      for (int j = 0; j < S; j++) {
        const T* at = b[j] + p + u * kLanes;
        if (kFetch && u * kLanes * sizeof(T) % 64 == 0)
          __builtin_prefetch(reinterpret_cast<const char*>(at) + kStreamAhead, 0, 2);
        const Vf w = load(at);
#pragma GCC unroll 8
        for (int i = 0; i < R; i++) x[u][i][j] = fma(v[i], w, x[u][i][j]);
      }
    }
  }
  for (; p < k; p += kLanes) {
    const int n = lanes_left(k - p, 0);
#pragma GCC unroll 8
    for (int i = 0; i < R; i++) {
      const Vf v = load_first(a + i * lda + p, n);
#pragma GCC unroll 8
      for (int j = 0; j < S; j++) x[0][i][j] = fma(v, load_tail(b[j] + p, n), x[0][i][j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < R; i++)
#pragma GCC unroll 8
    for (int j = 0; j < S; j++) {
      Vf v = x[0][i][j];
#pragma GCC unroll 4
      for (int u = 1; u < U; u++) v += x[u][i][j];
      out[i][j] = sum(v);
    }
}

constexpr int kStreams = 4;
#if OG_LANES == 16 || defined(__aarch64__)
constexpr int kDotRows = 4;  // 16 sums, 4 rows and a weight of 32 registers
#else
constexpr int kDotRows = 3;  // 12 sums, 3 rows and a weight: all 16
#endif

/** All m rows of A against the columns first, first+step, … of four streams, or fewer at the end. */
template <class T>
struct FewRows {
  const GemmCall* call;
  const float* a;  // [m][k], dense
  float* sums;     // [m][n], dense
  bool fetches;

  template <int R>
  OG_INLINE void rows(int64_t i, const T* const* b, const int64_t* columns, int count) const {
    float out[R][kStreams];
    if (OG_LANES == 16 && fetches)
      dot_block<R, kStreams, R == 1 ? 2 : 1, true>(call->k, a + i * call->k, call->k, b, out);
    else
      dot_block<R, kStreams, R == 1 ? 2 : 1, false>(call->k, a + i * call->k, call->k, b, out);
    for (int r = 0; r < R; r++)
      for (int s = 0; s < count; s++) {
        const float* init =
            call->init ? call->init + (i + r) * call->init_row + columns[s] * call->init_column : nullptr;
        sums[(i + r) * call->n + columns[s]] = init ? out[r][s] + *init : out[r][s];
      }
  }

  /** Columns [begin, end): stream s walks [begin + s·quarter, …). */
  void operator()(int64_t begin, int64_t end) const {
    const int64_t quarter = ceil_div(end - begin, kStreams);
    for (int64_t j = 0; j < quarter; j++) {
      const T* b[kStreams];
      int64_t columns[kStreams];
      int count = 0;
      for (int s = 0; s < kStreams; s++) {
        const int64_t column = begin + s * quarter + j;
        if (column >= end || j >= quarter) continue;
        columns[count] = column;
        b[count++] = static_cast<const T*>(call->b.data) + column * call->b.column;
      }
      for (int s = count; s < kStreams; s++) b[s] = b[0];
      int64_t i = 0;
      for (; i + kDotRows <= call->m; i += kDotRows) rows<kDotRows>(i, b, columns, count);
      for (; i + 2 <= call->m; i += 2) rows<2>(i, b, columns, count);
      for (; i < call->m; i++) rows<1>(i, b, columns, count);
    }
  }
};

/** A as dense float32 rows: itself, or a copy. Null when memory is short. */
inline const float* dense_rows(const GemmCall& call, ScratchFrame& scratch) {
  if (call.a.dtype == OG_F32 && call.a.column == 1 && (call.a.row == call.k || call.m == 1))
    return static_cast<const float*>(call.a.data);
  float* to = scratch.take<float>(call.m * call.k);
  if (!to) return nullptr;
  for (int64_t i = 0; i < call.m; i++) {
    const Operand row = advance({call.a.data, call.a.dtype, call.a.row, call.a.column}, i, 0);
    OG_ISA::load_elements(row.data, row.dtype, row.k, call.k, to + i * call.k);
  }
  return to;
}

template <class T>
inline int32_t few_rows_dot(const GemmCall& call) {
  ScratchFrame scratch;
  const bool direct = is_direct(call.c) && (call.c.row == call.n || call.m == 1);
  const float* a = dense_rows(call, scratch);
  float* sums = direct ? static_cast<float*>(call.c.data) : scratch.take<float>(call.m * call.n);
  OG_SCRATCH(a, "rows");
  OG_SCRATCH(sums, "sums");
  const int64_t bytes = call.n * call.k * (int64_t)sizeof(T);
  const FewRows<T> body{&call, a, sums, bytes > kPastCaches};
  const int64_t grain = even_grain(call.n, call.k * (int64_t)sizeof(T), kStreams, 16);
  parallel_ranges(call.n, grain, [&](int64_t begin, int64_t end) {
    body(begin, end);
    call.finish(sums + begin, call.n, 0, begin, call.m, end - begin);
  });
  if (!direct) emit(sums, call.n, call.m, call.n, call.c, 0, 0);
  return OG_OK;
}

/** Whether few_rows_dot takes this call. */
inline bool is_few_rows(const GemmCall& call) { return call.m <= kFewRows && call.b.row == 1 && call.n >= kStreams; }

/** c[r][0 … n) += Σ_s a[r][s] · b[s][0 … n) for R rows and S weight rows. */
template <int R, int S, class T>
OG_INLINE void axpy_block(int64_t n, const float* a, int64_t a_row, int64_t a_k, const T* b, int64_t ldb, float* c,
                          int64_t ldc) {
  Vf v[R][S];
#pragma GCC unroll 8
  for (int i = 0; i < R; i++)
#pragma GCC unroll 8
    for (int s = 0; s < S; s++) v[i][s] = set1(a[i * a_row + s * a_k]);
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) {
    Vf x[R];
#pragma GCC unroll 8
    for (int i = 0; i < R; i++) x[i] = load(c + i * ldc + j);
#pragma GCC unroll 8
    for (int s = 0; s < S; s++) {
      const Vf w = load(b + s * ldb + j);
#pragma GCC unroll 8
      for (int i = 0; i < R; i++) x[i] = fma(v[i][s], w, x[i]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < R; i++) store(c + i * ldc + j, x[i]);
  }
  if (j == n) return;
  const int left = lanes_left(n - j, 0);
#pragma GCC unroll 8
  for (int i = 0; i < R; i++) {
    Vf x = load_first(c + i * ldc + j, left);
#pragma GCC unroll 8
    for (int s = 0; s < S; s++) x = fma(v[i][s], load_tail(b + s * ldb + j, left), x);
    store_first(c + i * ldc + j, x, left);
  }
}

#if OG_LANES == 16 || defined(__aarch64__)
constexpr int kAxpyRows = 4, kAxpyRowStreams = 4;
#else
constexpr int kAxpyRows = 2, kAxpyRowStreams = 4;
#endif
constexpr int kAxpyStreams = 8;  // of a single row

/** Steps [p, p+S) of k for all rows. */
template <int S, class T>
OG_INLINE void axpy_rows(const GemmCall& call, const float* a, int64_t a_row, int64_t a_k, const T* b, int64_t n,
                         float* c, int64_t ldc) {
  int64_t i = 0;
  for (; i + kAxpyRows <= call.m; i += kAxpyRows)
    axpy_block<kAxpyRows, S>(n, a + i * a_row, a_row, a_k, b, call.b.row, c + i * ldc, ldc);
  if (kAxpyRows > 2)
    for (; i + 2 <= call.m; i += 2) axpy_block<2, S>(n, a + i * a_row, a_row, a_k, b, call.b.row, c + i * ldc, ldc);
  for (; i < call.m; i++) axpy_block<1, S>(n, a + i * a_row, a_row, a_k, b, call.b.row, c + i * ldc, ldc);
}

template <class T>
inline void axpy_columns(const GemmCall& call, const float* a, int64_t a_row, int64_t a_k, float* c, int64_t ldc,
                         int64_t begin, int64_t end) {
  const int64_t n = end - begin;
  const T* b = static_cast<const T*>(call.b.data) + begin;
  for (int64_t i = 0; i < call.m; i++)
    for (int64_t j = 0; j < n; j++) c[i * ldc + begin + j] = call.init ? call.init[i * call.init_row + begin + j] : 0.f;
  int64_t p = 0;
  if (call.m == 1)
    for (; p + kAxpyStreams <= call.k; p += kAxpyStreams)
      axpy_block<1, kAxpyStreams>(n, a + p * a_k, a_row, a_k, b + p * call.b.row, call.b.row, c + begin, ldc);
  for (; p + kAxpyRowStreams <= call.k; p += kAxpyRowStreams)
    axpy_rows<kAxpyRowStreams>(call, a + p * a_k, a_row, a_k, b + p * call.b.row, n, c + begin, ldc);
  for (; p < call.k; p++) axpy_rows<1>(call, a + p * a_k, a_row, a_k, b + p * call.b.row, n, c + begin, ldc);
}

/** R rows × V vectors of C from an A of any strides and a B with dense columns, nothing packed. */
template <int R, int V, class T>
OG_INLINE void direct_tile(int64_t k, const float* a, int64_t a_row, int64_t a_k, const T* b, int64_t ldb,
                           const TileOut& out, int64_t n) {
  Vf x[R][V];
#pragma GCC unroll 16
  for (int i = 0; i < R; i++)
#pragma GCC unroll 16
    for (int j = 0; j < V; j++) x[i][j] = Vf{};
  if (n >= V * kLanes) {
    for (int64_t p = 0; p < k; p++) {
      Vf row[V];
#pragma GCC unroll 16
      for (int j = 0; j < V; j++) row[j] = load(b + j * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < R; i++) {
        const Vf v = set1(a[i * a_row]);
#pragma GCC unroll 16
        for (int j = 0; j < V; j++) x[i][j] = fma(v, row[j], x[i][j]);
      }
      a += a_k;
      b += ldb;
    }
  } else {
    for (int64_t p = 0; p < k; p++) {
      Vf row[V];
#pragma GCC unroll 16
      for (int j = 0; j < V; j++) row[j] = load_tail(b + j * kLanes, lanes_left(n, j * kLanes));
#pragma GCC unroll 16
      for (int i = 0; i < R; i++) {
        const Vf v = set1(a[i * a_row]);
#pragma GCC unroll 16
        for (int j = 0; j < V; j++) x[i][j] = fma(v, row[j], x[i][j]);
      }
      a += a_k;
      b += ldb;
    }
  }
  finish_tile(x, out, n);
}

/** Columns [begin, end) of all rows, in tiles of R rows (then 4, 2, 1) × V vectors. */
template <int R, int V, class T>
inline void direct_columns(const GemmCall& call, const float* a, int64_t a_row, int64_t a_k, float* c, int64_t ldc,
                           int64_t begin, int64_t end) {
  for (int64_t j = begin; j < end; j += V * kLanes) {
    const T* b = static_cast<const T*>(call.b.data) + j;
    const int64_t n = end - j;
    int64_t i = 0;
    const auto at = [&](int64_t row) {
      return TileOut{c + row * ldc + j, ldc, call.init ? call.init + row * call.init_row + j : nullptr, call.init_row};
    };
    for (; i + R <= call.m; i += R) direct_tile<R, V>(call.k, a + i * a_row, a_row, a_k, b, call.b.row, at(i), n);
    if (R > 4)
      for (; i + 4 <= call.m; i += 4) direct_tile<4, V>(call.k, a + i * a_row, a_row, a_k, b, call.b.row, at(i), n);
    if (R > 2)
      for (; i + 2 <= call.m; i += 2) direct_tile<2, V>(call.k, a + i * a_row, a_row, a_k, b, call.b.row, at(i), n);
    for (; i < call.m; i++) direct_tile<1, V>(call.k, a + i * a_row, a_row, a_k, b, call.b.row, at(i), n);
  }
}

#if OG_LANES == 16 || defined(__aarch64__)
constexpr int kDirectRows = 8, kWideRows = 6, kWideVectors = 4;  // 24 sums either way
constexpr int kNarrowRows = 12, kNarrowVectors = 2;
#else
constexpr int kDirectRows = 4, kWideRows = 6, kWideVectors = 2;  // 12
constexpr int kNarrowRows = 4, kNarrowVectors = 1;
#endif
constexpr int kDirectVectors = 3;

/** Whether strips of kWideVectors waste fewer lanes of n columns than strips of kDirectVectors. */
inline bool wants_wide(int64_t n) {
  constexpr int64_t wide = kWideVectors * kLanes, usual = kDirectVectors * kLanes;
  return ceil_div(n, wide) * wide < ceil_div(n, usual) * usual;
}

/** Up to two rows are bound by reading B; so are up to kFewRows once B no longer fits a cache. */
inline bool wants_axpy(const GemmCall& call) {
  return call.m <= 2 || (call.m <= kFewRows && call.n * call.k * dtype_size(call.b.dtype) > (16 << 20));
}

template <class T>
inline int32_t direct(const GemmCall& call) {
  ScratchFrame scratch;
  const bool dense = is_direct(call.c);
  const float* a = static_cast<const float*>(call.a.data);
  int64_t a_row = call.a.row, a_k = call.a.column;
  if (call.a.dtype != OG_F32) {
    a = dense_rows(call, scratch);
    OG_SCRATCH(a, "rows");
    a_row = call.k;
    a_k = 1;
  }
  float* c = dense ? static_cast<float*>(call.c.data) : scratch.take<float>(call.m * call.n);
  OG_SCRATCH(c, "sums");
  const int64_t ldc = dense ? call.c.row : call.n;
  if (wants_axpy(call)) {
    // stretches of c that fit half of L1, and enough of them for several threads
    const int64_t stretch = least(4096 / call.m, ceil_div(ceil_div(call.n, 8), 64) * 64);
    parallel_ranges(call.n, stretch < 256 ? 256 : stretch, [&](int64_t begin, int64_t end) {
      axpy_columns<T>(call, a, a_row, a_k, c, ldc, begin, end);
      call.finish(c + begin, ldc, 0, begin, call.m, end - begin);
    });
  } else {
    const bool wide = wants_wide(call.n);
    const int64_t strip = (wide ? kWideVectors : kDirectVectors) * kLanes;
    parallel_ranges(ceil_div(call.n, strip), grain_for(call.m * call.k * strip, 1 << 18),
                    [&](int64_t begin, int64_t end) {
                      const int64_t n0 = begin * strip, n1 = least(call.n, end * strip);
                      if (call.n <= kNarrowVectors * kLanes)
                        direct_columns<kNarrowRows, kNarrowVectors, T>(call, a, a_row, a_k, c, ldc, n0, n1);
                      else if (wide)
                        direct_columns<kWideRows, kWideVectors, T>(call, a, a_row, a_k, c, ldc, n0, n1);
                      else
                        direct_columns<kDirectRows, kDirectVectors, T>(call, a, a_row, a_k, c, ldc, n0, n1);
                      call.finish(c + n0, ldc, 0, n0, call.m, n1 - n0);
                    });
  }
  if (!dense) emit(c, ldc, call.m, call.n, call.c, 0, 0);
  return OG_OK;
}

constexpr int64_t kSmallWork = 64 * 64 * 128;

/** Whether `direct` takes this call: few rows, or a product small enough for its operands to stay in L1/L2 unpacked. */
inline bool is_direct_call(const GemmCall& call) {
  return call.b.column == 1 && (!call.init || call.init_column == 1) &&
         (call.m <= kFewRows || call.m * call.n * call.k <= kSmallWork);
}

/** The transposed product of a call with few columns, if a way for few rows takes it. Its epilogue is left to do. */
inline bool multiply_turned(const GemmCall& call, int32_t* status) {
  const GemmCall turned{call.n,
                        call.m,
                        call.k,
                        {call.b.data, call.b.dtype, call.b.column, call.b.row},
                        {call.a.data, call.a.dtype, call.a.column, call.a.row},
                        {call.c.data, call.c.dtype, call.c.column, call.c.row},
                        call.init,
                        call.init_column,
                        call.init_row};
  if (is_few_rows(turned))
    *status = with_float_storage(turned.b.dtype, [&](auto t) { return few_rows_dot<decltype(t)>(turned); });
  else if (is_direct_call(turned))
    *status = with_float_storage(turned.b.dtype, [&](auto t) { return direct<decltype(t)>(turned); });
  else
    return false;
  return true;
}

/** m > n, n ≤ kFewRows. False where no way for few rows takes it. */
inline bool multiply_few_columns(const GemmCall& call, int32_t* status) {
  if (!call.epilogue.run) return multiply_turned(call, status);
  ScratchFrame scratch;
  GemmCall inner = call;
  const bool dense = is_direct(call.c);
  if (!dense) {
    inner.c = {scratch.take<float>(call.m * call.n), OG_F32, call.n, 1};
    if (!inner.c.data) {
      *status = fail(OG_OUT_OF_MEMORY, "no memory for sums");
      return true;
    }
  }
  if (!multiply_turned(inner, status)) return false;
  if (*status != OG_OK) return true;
  parallel_ranges(call.m, finish_rows(call.n), [&](int64_t begin, int64_t end) {
    float* c = static_cast<float*>(inner.c.data) + begin * inner.c.row;
    call.finish(c, inner.c.row, begin, 0, end - begin, call.n);
    if (!dense) emit(c, inner.c.row, end - begin, call.n, call.c, begin, 0);
  });
  return true;
}

/** The product by one of these ways, if one suits its shape and layout. m, n, k > 0. */
inline bool multiply_small(const GemmCall& call, int32_t* status) {
  if (call.n <= kFewRows && call.m > call.n && multiply_few_columns(call, status)) return true;
  const bool reads_packed = call.packed_b && call.m >= kLeastPackedRows && call.m <= kFewRows;
  if (reads_packed) return false;
  if (is_few_rows(call))
    *status = with_float_storage(call.b.dtype, [&](auto t) { return few_rows_dot<decltype(t)>(call); });
  else if (is_direct_call(call))
    *status = with_float_storage(call.b.dtype, [&](auto t) { return direct<decltype(t)>(call); });
  else
    return false;
  return true;
}

}  // namespace
}  // namespace og
#endif
