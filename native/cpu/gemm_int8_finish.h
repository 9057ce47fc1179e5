/**
 * What becomes of exact int32 sums: zero points, scales, bias, activation, residual, and the output's dtype, in one
 * pass over a block that is still in L1.
 *
 * sum − za·(ΣB' − K·zb) − zb·ΣA' in int32 (modulo 2^32, exact because the true value fits), then in float32
 * act((sum · a_scale) · b_scale + bias) + residual, each operation rounded once; codes of eight bits as
 * gemm_int8_codes.h has them.
 */
#ifndef OMNIGRAD_CPU_GEMM_INT8_FINISH_H
#define OMNIGRAD_CPU_GEMM_INT8_FINISH_H

#include "gemm_frame.h"
#include "gemm_int8_codes.h"
#include "gemm_int8_kinds.h"
#include "math.h"

namespace og {
namespace {

enum Int8Activation { kNone = 0, kRelu = 1, kGeluExact = 2, kGeluTanh = 3, kSilu = 4, kActivationCount = 5 };

/** Numbers of the rows of A, each dense over all rows; null: none. */
struct RowTerms {
  const int32_t* zero;  // za' of each row; null when one value serves all (ColumnTerms::add holds its share)
  const int32_t* sum;   // ΣA' of each row; null when no column has a zero point
  const float* scale;
};

/** Numbers of some columns of B, dense, with room for a whole vector beyond the last. */
struct ColumnTerms {
  int32_t* add;   // the share of a uniform za'
  int32_t* sum;   // ΣB' − K·zb', for RowTerms::zero
  int32_t* zero;  // zb', for RowTerms::sum
  float* scale;   // null: int32 output
  float* bias;
};

struct Finish {
  RowTerms rows;
  MatrixView c, residual;  // residual.data null: none
  int activation;
  CodeGrid codes;  // of int8 and uint8 output

  bool floats() const { return c.dtype != OG_I32; }
  bool corrects() const { return rows.zero || rows.sum; }
  /** Whether a whole tile may be stored as it comes out of the loop: as sums, or scaled. */
  bool is_plain() const { return !floats() && c.column == 1 && !corrects(); }
  bool is_scaled() const {
    return c.dtype == OG_F32 && c.column == 1 && !corrects() &&
           (!residual.data || (residual.dtype == OG_F32 && residual.column == 1));
  }
  /** Whether it may come scaled and then only needs an activation and rounding to codes. */
  bool is_coded() const {
    return (c.dtype == OG_I8 || c.dtype == OG_U8) && c.column == 1 && !corrects() && !residual.data;
  }
};

/** 1/(1 + e^-x) times x. */
OG_INLINE Vf times_logistic(Vf x, Vf of) {
  const Vf t = exp_nonpositive(-abs(of)), high = 1.f / (1.f + t);
  return x * select(of < 0.f, t * high, high);
}

template <int Act>
OG_INLINE Vf activate(Vf x) {
  if (Act == kRelu) return select(x <= 0.f, Vf{}, x);  // NaN stays
  if (Act == kGeluExact) return x * normal(x).cdf;
  if (Act == kGeluTanh) return times_logistic(x, x * (1.5957691216057308f + 0.07135481627260025f * (x * x)));
  if (Act == kSilu) return times_logistic(x, x);
  return x;
}

constexpr int64_t kFinishChunk = 128;  // columns at a time where the output is not dense float32

OG_INLINE Vi corrected(Vi v, const ColumnTerms& at, int64_t j, const RowTerms& rows, int64_t row) {
  Vu u = (Vu)v;
  if (rows.zero) u -= (uint32_t)rows.zero[row] * (Vu)load_words(at.sum + j);
  if (rows.sum) u -= (uint32_t)rows.sum[row] * (Vu)load_words(at.zero + j);
  return (Vi)u;
}

/** One vector of R rows: their chains of operations overlap. */
template <int Act, int R>
OG_INLINE void finish_vector(const Finish& f, const ColumnTerms& at, const int32_t* sums, int64_t ld, int64_t row,
                             int64_t j, int left, const float* residual, int64_t ld_residual, float* to,
                             int64_t ld_to) {
  const Vf scale = load(at.scale + j), bias = load(at.bias + j);
  Vf y[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; r++) {
    const Vi v = corrected(load_words(sums + r * ld + j), at, j, f.rows, row + r);
    y[r] = (to_float(v) * f.rows.scale[row + r]) * scale + bias;
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; r++) y[r] = activate<Act>(y[r]);
#pragma GCC unroll 4
  for (int r = 0; r < R; r++) {
    if (left == kLanes) {
      if (residual) y[r] += load(residual + r * ld_residual + j);
      store(to + r * ld_to + j, y[r]);
    } else {
      if (residual) y[r] += load_first(residual + r * ld_residual + j, left);
      store_first(to + r * ld_to + j, y[r], left);
    }
  }
}

/** to[rows × n]; sums and terms are readable to the end of the last vector. */
template <int Act>
void finish_floats(const Finish& f, const ColumnTerms& at, const int32_t* sums, int64_t ld, int64_t row, int64_t rows,
                   int64_t n, const float* residual, int64_t ld_residual, float* to, int64_t ld_to) {
  for (int64_t j = 0; j < n; j += kLanes) {
    const int left = lanes_left(n - j, 0);
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4)
      finish_vector<Act, 4>(f, at, sums + r * ld, ld, row + r, j, left, residual ? residual + r * ld_residual : nullptr,
                            ld_residual, to + r * ld_to, ld_to);
    for (; r < rows; r++)
      finish_vector<Act, 1>(f, at, sums + r * ld, ld, row + r, j, left, residual ? residual + r * ld_residual : nullptr,
                            ld_residual, to + r * ld_to, ld_to);
  }
}

inline void finish_any(const Finish& f, const ColumnTerms& at, const int32_t* sums, int64_t ld, int64_t row,
                       int64_t rows, int64_t n, const float* residual, int64_t ld_residual, float* to, int64_t ld_to) {
  switch (f.activation) {
    case kRelu:
      return finish_floats<kRelu>(f, at, sums, ld, row, rows, n, residual, ld_residual, to, ld_to);
    case kGeluExact:
      return finish_floats<kGeluExact>(f, at, sums, ld, row, rows, n, residual, ld_residual, to, ld_to);
    case kGeluTanh:
      return finish_floats<kGeluTanh>(f, at, sums, ld, row, rows, n, residual, ld_residual, to, ld_to);
    case kSilu:
      return finish_floats<kSilu>(f, at, sums, ld, row, rows, n, residual, ld_residual, to, ld_to);
    default:
      return finish_floats<kNone>(f, at, sums, ld, row, rows, n, residual, ld_residual, to, ld_to);
  }
}

/** Activation and residual of rows × two vectors of scaled floats, in place. */
template <int Act>
void activate_in_place(int64_t rows, float* to, int64_t ld, const float* residual, int64_t ld_residual) {
  for (int64_t r = 0; r < rows; r += 2) {  // two rows of two vectors: four chains
    const int64_t next = r + 1 < rows ? 1 : 0;
    float *first = to + r * ld, *second = first + next * ld;
    Vf a = load(first), b = load(first + kLanes), c = load(second), d = load(second + kLanes);
    a = activate<Act>(a), b = activate<Act>(b), c = activate<Act>(c), d = activate<Act>(d);
    if (residual) {
      const float *p = residual + r * ld_residual, *q = p + next * ld_residual;
      a += load(p), b += load(p + kLanes), c += load(q), d += load(q + kLanes);
    }
    store(second, c), store(second + kLanes, d);
    store(first, a), store(first + kLanes, b);
  }
}

/** What is left to do for a whole tile of two vectors that was stored scaled. */
inline void finish_scaled(const Finish& f, int64_t row, int64_t rows, int64_t column) {
  if (f.activation == kNone && !f.residual.data) return;
  float* to = static_cast<float*>(f.c.data) + row * f.c.row + column;
  const float* more =
      f.residual.data ? static_cast<const float*>(f.residual.data) + row * f.residual.row + column : nullptr;
  switch (f.activation) {
    case kRelu:
      return activate_in_place<kRelu>(rows, to, f.c.row, more, f.residual.row);
    case kGeluExact:
      return activate_in_place<kGeluExact>(rows, to, f.c.row, more, f.residual.row);
    case kGeluTanh:
      return activate_in_place<kGeluTanh>(rows, to, f.c.row, more, f.residual.row);
    case kSilu:
      return activate_in_place<kSilu>(rows, to, f.c.row, more, f.residual.row);
    default:
      return activate_in_place<kNone>(rows, to, f.c.row, more, f.residual.row);
  }
}

/** The same for codes: `y` holds the scaled tile, rows `ld` floats apart. */
inline void finish_coded(const Finish& f, int64_t row, int64_t rows, int64_t column, float* y, int64_t ld) {
  switch (f.activation) {
    case kRelu:
      activate_in_place<kRelu>(rows, y, ld, nullptr, 0);
      break;
    case kGeluExact:
      activate_in_place<kGeluExact>(rows, y, ld, nullptr, 0);
      break;
    case kGeluTanh:
      activate_in_place<kGeluTanh>(rows, y, ld, nullptr, 0);
      break;
    case kSilu:
      activate_in_place<kSilu>(rows, y, ld, nullptr, 0);
      break;
    default:
      break;
  }
  uint8_t* to = static_cast<uint8_t*>(f.c.data) + row * f.c.row + column;
  with_codes(f.codes, [&](const auto& code) {
    for (int64_t r = 0; r < rows; r++, to += f.c.row, y += ld)
      for (int half = 0; half < 2; half++) store_bytes(to + half * kLanes, code(load(y + half * kLanes)));
  });
}

/** n floats of one row as the output's dtype, from column `column` on. */
inline void store_floats(const Finish& f, const float* from, int64_t row, int64_t column, int64_t n) {
  const MatrixView& c = f.c;
  char* to = static_cast<char*>(c.data) + (row * c.row + column * c.column) * dtype_size(c.dtype);
  if (c.dtype == OG_I8 || c.dtype == OG_U8)
    store_codes(from, n, f.codes, reinterpret_cast<uint8_t*>(to), c.column);
  else
    OG_ISA::store_elements(from, n, to, c.dtype, c.column);
}

inline void finish_integers(const Finish& f, const ColumnTerms& at, const int32_t* sums, int64_t row, int64_t column,
                            int64_t n) {
  int32_t* to = static_cast<int32_t*>(f.c.data) + row * f.c.row + column * f.c.column;
  for (int64_t j = 0; j < n; j += kLanes) {
    const Vi v = corrected(load_words(sums + j), at, j, f.rows, row);
    const int left = lanes_left(n - j, 0);
    if (f.c.column == 1 && left == kLanes)
      store_words(to + j, v);
    else
      for (int i = 0; i < left; i++) to[(j + i) * f.c.column] = v[i];
  }
}

/** A block of sums, rows from `row` and columns [column, column + n) of the matrix; `at` begins with the first column.
 */
inline void finish_block(const Finish& f, const ColumnTerms& at, const int32_t* sums, int64_t ld, int64_t row,
                         int64_t rows, int64_t column, int64_t n) {
  if (!f.floats()) {
    for (int64_t r = 0; r < rows; r++) finish_integers(f, at, sums + r * ld, row + r, column, n);
    return;
  }
  const MatrixView& more = f.residual;
  const bool dense_residual = !more.data || (more.dtype == OG_F32 && more.column == 1);
  const int64_t size = dtype_size(more.dtype);
  const char* residual =
      more.data ? static_cast<const char*>(more.data) + (row * more.row + column * more.column) * size : nullptr;
  if (f.c.dtype == OG_F32 && f.c.column == 1 && dense_residual) {
    finish_any(f, at, sums, ld, row, rows, n, reinterpret_cast<const float*>(residual), more.row,
               static_cast<float*>(f.c.data) + row * f.c.row + column, f.c.row);
    return;
  }
  for (int64_t r = 0; r < rows; r += 4)
    for (int64_t j = 0; j < n; j += kFinishChunk) {
      const int64_t here = least(kFinishChunk, n - j), count = least(4, rows - r);
      alignas(64) float y[4 * kFinishChunk], terms[4 * kFinishChunk];
      if (residual)
        for (int64_t i = 0; i < count; i++)
          OG_ISA::load_elements(residual + ((r + i) * more.row + j * more.column) * size, more.dtype, more.column, here,
                                terms + i * kFinishChunk);
      const ColumnTerms from{at.add + j, at.sum + j, at.zero + j, at.scale + j, at.bias + j};
      finish_any(f, from, sums + r * ld + j, ld, row + r, count, here, residual ? terms : nullptr, kFinishChunk, y,
                 kFinishChunk);
      for (int64_t i = 0; i < count; i++) store_floats(f, y + i * kFinishChunk, row + r + i, column + j, here);
    }
}

}  // namespace
}  // namespace og
#endif
