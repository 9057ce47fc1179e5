/**
 * Integer products: exact modulo 2^64 (2^32 when the output is no wider), as an int64 accumulator that wraps would
 * give. B is staged as 32- or 64-bit words in blocks that stay in L2; four rows of A run over a block together, and the
 * inner loop over columns is left to the compiler to vectorise. No instruction set is assumed.
 */
#ifndef OMNIGRAD_CPU_GEMM_INT_H
#define OMNIGRAD_CPU_GEMM_INT_H

#include "../core/parallel.h"
#include "../core/scratch.h"
#include "../core/status.h"
#include "stage.h"

namespace og {
namespace {

struct IntView {
  const void* data;
  int32_t dtype;
  int64_t row, column;
};

struct IntCall {
  int64_t m, n, k;
  IntView a, b, bias, c;  // bias.data null: none
};

/** W: unsigned word that sums modulo its width. */
template <class W>
inline void stage_words(const IntView& from, int64_t row, int64_t column, int64_t stride, int64_t n, W* to) {
  with_storage(from.dtype, [&](auto type) {
    typedef decltype(type) T;
    if constexpr (std::is_integral<T>::value) {
      const T* at = static_cast<const T*>(from.data) + row * from.row + column * from.column;
      if (stride == 1)
        for (int64_t i = 0; i < n; i++) to[i] = (W)(int64_t)at[i];
      else
        for (int64_t i = 0; i < n; i++) to[i] = (W)(int64_t)at[i * stride];
    }
  });
}

/** The low bits of `word`, as the output's type. */
template <class W>
inline void store_word(const IntView& c, int64_t row, int64_t column, W word) {
  with_storage(c.dtype, [&](auto type) {
    typedef decltype(type) T;
    if constexpr (std::is_integral<T>::value)
      static_cast<T*>(const_cast<void*>(c.data))[row * c.row + column * c.column] = (T)word;
  });
}

constexpr int64_t kIntColumns = 128, kIntDepth = 128, kIntRows = 4;

/** Rows [m0, m1) × columns [n0, n1), n1 − n0 ≤ kIntColumns. */
template <class W>
void int_block(const IntCall& call, int64_t m0, int64_t m1, int64_t n0, int64_t n1, W* words, W* sums) {
  const int64_t n = n1 - n0;
  for (int64_t i = m0; i < m1; i++) {
    W* to = sums + (i - m0) * kIntColumns;
    if (call.bias.data)
      stage_words(call.bias, i, n0, call.bias.column, n, to);
    else
      std::memset(to, 0, sizeof(W) * (size_t)n);
  }
  for (int64_t k0 = 0; k0 < call.k; k0 += kIntDepth) {
    const int64_t depth = call.k - k0 < kIntDepth ? call.k - k0 : kIntDepth;
    if (call.b.column == 1 || call.b.row != 1) {
      for (int64_t k = 0; k < depth; k++) stage_words(call.b, k0 + k, n0, call.b.column, n, words + k * kIntColumns);
    } else {
      W line[kIntDepth];
      for (int64_t j = 0; j < n; j++) {
        stage_words(call.b, k0, n0 + j, 1, depth, line);
        for (int64_t k = 0; k < depth; k++) words[k * kIntColumns + j] = line[k];
      }
    }
    for (int64_t i = m0; i < m1; i += kIntRows) {
      W a[kIntRows][kIntDepth] = {};
      const int64_t rows = m1 - i < kIntRows ? m1 - i : kIntRows;
      for (int64_t r = 0; r < rows; r++) stage_words(call.a, i + r, k0, call.a.column, depth, a[r]);
      W* s0 = sums + (i - m0) * kIntColumns;
      // rows beyond the last multiply zeros into the spare lines that `sums` has at its end
      W *s1 = s0 + kIntColumns, *s2 = s1 + kIntColumns, *s3 = s2 + kIntColumns;
      for (int64_t k = 0; k < depth; k++) {
        const W a0 = a[0][k], a1 = a[1][k], a2 = a[2][k], a3 = a[3][k];
        const W* b = words + k * kIntColumns;
        for (int64_t j = 0; j < n; j++) {
          const W w = b[j];
          s0[j] += a0 * w;
          s1[j] += a1 * w;
          s2[j] += a2 * w;
          s3[j] += a3 * w;
        }
      }
    }
  }
  with_storage(call.c.dtype, [&](auto type) {
    typedef decltype(type) T;
    if constexpr (std::is_integral<T>::value) {
      for (int64_t i = m0; i < m1; i++) {
        T* to = static_cast<T*>(const_cast<void*>(call.c.data)) + i * call.c.row + n0 * call.c.column;
        const W* from = sums + (i - m0) * kIntColumns;
        for (int64_t j = 0; j < n; j++) to[j * call.c.column] = (T)from[j];
      }
    }
  });
}

/** A few rows against a B whose k is dense: dot products, nothing staged but the rows. */
constexpr int64_t kIntFewRows = 4;

template <class W>
inline int32_t int_few_rows(const IntCall& call) {
  ScratchFrame scratch;
  W* a = scratch.take<W>(call.m * call.k);
  OG_SCRATCH(a, "rows");
  for (int64_t i = 0; i < call.m; i++) stage_words(call.a, i, 0, call.a.column, call.k, a + i * call.k);
  parallel_ranges(call.n, grain_for(call.m * call.k, 1 << 17), [&](int64_t begin, int64_t end) {
    with_storage(call.b.dtype, [&](auto type) {
      typedef decltype(type) T;
      if constexpr (std::is_integral<T>::value) {
        for (int64_t j = begin; j < end; j++) {
          const T* b = static_cast<const T*>(call.b.data) + j * call.b.column;
          for (int64_t i = 0; i < call.m; i++) {
            W sum = 0;
            if (call.bias.data) stage_words(call.bias, i, j, 1, 1, &sum);
            const W* row = a + i * call.k;
            for (int64_t k = 0; k < call.k; k++) sum += row[k] * (W)(int64_t)b[k];
            store_word(call.c, i, j, sum);
          }
        }
      }
    });
  });
  return OG_OK;
}

template <class W>
inline int32_t int_multiply(const IntCall& call) {
  if (call.m <= kIntFewRows && call.b.row == 1) return int_few_rows<W>(call);
  constexpr int64_t kTaskRows = 64;
  const int64_t row_tasks = (call.m + kTaskRows - 1) / kTaskRows,
                column_tasks = (call.n + kIntColumns - 1) / kIntColumns;
  int failed = 0;
  parallel_for(row_tasks * column_tasks, [&](int64_t task) {
    const int64_t m0 = task / column_tasks * kTaskRows, n0 = task % column_tasks * kIntColumns;
    const int64_t m1 = m0 + kTaskRows < call.m ? m0 + kTaskRows : call.m;
    const int64_t n1 = n0 + kIntColumns < call.n ? n0 + kIntColumns : call.n;
    ScratchFrame scratch;
    W* words = scratch.take<W>(kIntDepth * kIntColumns);
    W* sums = scratch.take<W>((kTaskRows + kIntRows) * kIntColumns);
    if (!words || !sums) {
      __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
      return;
    }
    std::memset(sums + (m1 - m0) * kIntColumns, 0, sizeof(W) * (size_t)(kIntRows * kIntColumns));
    int_block<W>(call, m0, m1, n0, n1, words, sums);
  });
  if (failed) return fail(OG_OUT_OF_MEMORY, "matmul: no memory for a task");
  return OG_OK;
}

}  // namespace
}  // namespace og
#endif
