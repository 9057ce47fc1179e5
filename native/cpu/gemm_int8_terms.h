/** A matrix product of bytes, and the terms of its rows and columns that zero points and scales make. */
#ifndef OMNIGRAD_CPU_GEMM_INT8_TERMS_H
#define OMNIGRAD_CPU_GEMM_INT8_TERMS_H

#include <initializer_list>

#include "gemm_int8_call.h"
#include "gemm_int8_finish.h"
#include "gemm_int8_pack.h"

namespace og {
namespace {

/** Numbers along one axis; data null: absent. */
struct Numbers {
  const void* data;
  int32_t dtype;
  int64_t stride;

  int32_t integer(int64_t i) const { return data ? static_cast<const int32_t*>(data)[i * stride] : 0; }
};

/** One matrix of the product: bytes, and everything that belongs to its rows and columns. */
struct Int8Call {
  int64_t m, n, k;
  Bytes a, b;  // b.row: along its columns
  bool a_signed, b_signed;
  bool seven_bit;             // B' is promised to lie in [-64, 64]; checked when it is packed
  const uint8_t* panels;      // B packed by matmul_int8_pack; null: not
  const int32_t* panel_sums;  // Σ B' of its columns
  Numbers a_zero, b_zero, a_scale, b_scale, bias;
  MatrixView c, residual;
  int activation;
  float out_scale;
  int32_t out_zero;
};

enum Int8Failure { kNoFailure = 0, kNoMemory = 1, kNotSevenBit = 2 };

/** What all loops share: the terms of rows and columns. Not a template, so that it is compiled once. */
struct Int8Terms {
  const Int8Call* call;
  Finish finish;
  int32_t uniform_zero;  // za' where all rows share it
  bool needs_sums;       // Σ B' of columns
  bool needs_zeros;      // zb' of columns
  bool centred;          // A' is staged less its zero points, and za' is 0
  int failed;

  void fail_with(int failure) { __atomic_store_n(&failed, failure, __ATOMIC_RELAXED); }

  /** Terms of the rows, in memory of `scratch`; A' = A + shift. False when it is short. */
  bool prepare(int32_t shift, ScratchFrame& scratch) {
    const Int8Call& p = *call;
    finish = {{nullptr, nullptr, nullptr},
              p.c,
              p.residual,
              p.activation,
              code_grid(p.out_scale, p.out_zero, p.c.dtype == OG_I8)};
    failed = kNoFailure;
    uniform_zero = centred ? 0 : p.a_zero.integer(0) + shift;
    if (!centred && p.a_zero.data && p.a_zero.stride != 0 && p.m > 1) {
      int32_t* zero = scratch.take<int32_t>(p.m);
      if (!zero) return false;
      bool same = true;
      for (int64_t i = 0; i < p.m; i++) {
        zero[i] = p.a_zero.integer(i) + shift;
        same = same && zero[i] == zero[0];
      }
      if (!same) finish.rows.zero = zero;
    }
    needs_sums = finish.rows.zero || uniform_zero != 0;
    needs_zeros = p.b_zero.data || !p.b_signed;
    if (needs_zeros) {
      int32_t* sum = scratch.take<int32_t>(p.m);
      if (!sum) return false;
      parallel_ranges(p.m, grain_for(p.k, 1 << 17), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
          const int64_t zero = centred ? p.a_zero.integer(i) : 0;
          sum[i] = (int32_t)((uint32_t)row_sum(i) + (uint32_t)((shift - zero) * p.k));
        }
      });
      finish.rows.sum = sum;
    }
    if (finish.floats()) {
      float* scale = scratch.take<float>(p.m);
      if (!scale) return false;
      for (int64_t i = 0; i < p.m; i++) scale[i] = 1.f;
      if (p.a_scale.data) OG_ISA::load_elements(p.a_scale.data, p.a_scale.dtype, p.a_scale.stride, p.m, scale);
      finish.rows.scale = scale;
    }
    return true;
  }

  template <class T>
  static int32_t sum_bytes(const T* from, int64_t stride, int64_t n) {
    int32_t sum = 0;
    if (stride == 1)
      for (int64_t i = 0; i < n; i++) sum += from[i];
    else
      for (int64_t i = 0; i < n; i++) sum += from[i * stride];
    return sum;
  }
  int32_t row_sum(int64_t row) const {
    const uint8_t* from = call->a.data + row * call->a.row;
    return call->a_signed ? sum_bytes(reinterpret_cast<const int8_t*>(from), call->a.k, call->k)
                          : sum_bytes(from, call->a.k, call->k);
  }

  /** Terms of columns [begin, end); `sums`: their Σ B', or null where needs_sums is false. False: no memory. */
  bool prepare_columns(int64_t begin, int64_t end, const int32_t* sums, ScratchFrame& scratch, ColumnTerms& at) const {
    const Int8Call& p = *call;
    const int64_t n = end - begin, room = n + 2 * kLanes;
    at = {scratch.take<int32_t>(room), nullptr, nullptr, nullptr, nullptr};
    at.sum = finish.rows.zero ? scratch.take<int32_t>(room) : at.add;
    at.zero = needs_zeros ? scratch.take<int32_t>(room) : at.add;
    if (!at.add || !at.sum || !at.zero) return false;
    for (int64_t j = 0; j < room; j++) at.add[j] = 0;
    const int32_t shift = shift_of_b(p.b_signed);
    if (needs_zeros) {
      for (int64_t j = 0; j < n; j++) at.zero[j] = p.b_zero.integer(begin + j) + shift;
      for (int64_t j = n; j < room; j++) at.zero[j] = 0;
    }
    if (needs_sums) {
      const uint32_t k = (uint32_t)p.k;
      for (int64_t j = 0; j < n; j++) {
        const uint32_t sum = (uint32_t)sums[j] - (needs_zeros ? k * (uint32_t)at.zero[j] : 0u);
        if (finish.rows.zero)
          at.sum[j] = (int32_t)sum;
        else
          at.add[j] = (int32_t)(0u - (uint32_t)uniform_zero * sum);
      }
      if (finish.rows.zero)
        for (int64_t j = n; j < room; j++) at.sum[j] = 0;
    }
    if (!finish.floats()) return true;
    at.scale = scratch.take<float>(room);
    at.bias = scratch.take<float>(room);
    if (!at.scale || !at.bias) return false;
    for (int64_t j = 0; j < room; j++) at.scale[j] = p.b_scale.data && j < n ? 0.f : 1.f, at.bias[j] = 0.f;
    if (p.b_scale.data) stage_numbers(p.b_scale, begin, n, at.scale);
    if (p.bias.data) stage_numbers(p.bias, begin, n, at.bias);
    return true;
  }
  static void stage_numbers(const Numbers& from, int64_t begin, int64_t n, float* to) {
    OG_ISA::load_elements(static_cast<const char*>(from.data) + begin * from.stride * dtype_size(from.dtype),
                          from.dtype, from.stride, n, to);
  }

  /** The lines that the epilogue will touch, while the tile computes. */
  void fetch_output(int64_t row, int64_t rows, int64_t column, int64_t columns) const {
    for (const MatrixView* one : {&finish.c, &finish.residual}) {
      if (!one->data || one->column != 1) continue;
      const int64_t size = dtype_size(one->dtype);
      const char* at = static_cast<const char*>(one->data) + (row * one->row + column) * size;
      for (int64_t r = 0; r < rows; r++, at += one->row * size) {
        __builtin_prefetch(at, 1);
        __builtin_prefetch(at + (columns - 1) * size, 1);
      }
    }
  }
};

}  // namespace
}  // namespace og
#endif
