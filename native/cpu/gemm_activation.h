/**
 * The end of a float product: pre = c; c = f(c) + residual, by rectangles (gemm_epilogue.h) or, on `reference`, by
 * element. The functions, and so the bits, are those of the kernels gelu, silu, relu, sigmoid and tanh, and of add.
 */
#ifndef OMNIGRAD_CPU_GEMM_ACTIVATION_H
#define OMNIGRAD_CPU_GEMM_ACTIVATION_H

#include "../core/view.h"
#include "activation_functions.h"
#include "stage.h"
#ifndef OG_IS_REFERENCE
#include "gemm_epilogue.h"
#endif

namespace og {
namespace {

/** Where lines of a matrix, or of a stack of matrices, start: the axes but the last, walked in order. */
struct Lines {
  Loop<1> loop;

  explicit Lines(const og_view& all) : loop(all_but_last(all)) {}
  int64_t offset(int64_t line) const {
    int64_t offset = 0;
    for (int i = loop.rank - 1; i > 0; i--) {
      offset += line % loop.shape[i] * loop.strides[0][i];
      line /= loop.shape[i];
    }
    return loop.rank > 0 ? offset + line * loop.strides[0][0] : 0;
  }
  /** Whether they are `length` apart. */
  bool apart(int64_t length) const { return loop.rank == 0 || (loop.rank == 1 && loop.strides[0][0] == length); }

 private:
  static Loop<1> all_but_last(og_view view) {
    view.rank--;
    const og_view* const views[1] = {&view};
    return Loop<1>(views);
  }
};

enum ActivationKind { kNoActivation, kActGelu, kActGeluTanh, kActSilu, kActRelu, kActSigmoid, kActTanh, kActCount };

#ifdef OG_IS_REFERENCE

/** x is a float or double; the result has its type. */
template <class T>
T activated(int kind, T x) {
  switch (kind) {
    case kActGelu:
      return (T)GeluExact{}((double)x);
    case kActGeluTanh:
      return (T)GeluTanh{}((double)x);
    case kActSilu:
      return (T)Silu{}((double)x);
    case kActRelu:
      return x < T(0) ? T(0) : x;
    case kActSigmoid:
      return T(1) / (T(1) + std::exp(-x));
    case kActTanh:
      return std::tanh(x);
    default:
      return x;
  }
}

#else

struct Identity {
  OG_INLINE Vf operator()(Vf x) const { return x; }
};
struct ReluOf {
  OG_INLINE Vf operator()(Vf x) const { return select(x < 0.f, Vf{}, x); }
};
struct SigmoidOf {
  OG_INLINE Vf operator()(Vf x) const { return sigmoid(x); }
};
struct TanhOf {
  OG_INLINE Vf operator()(Vf x) const { return tanh(x); }
};

/** What follows the sums of one matrix, whose first row is line `first` of residual and pre. */
struct ActivationEnd {
  int kind;
  int64_t first;
  const float* residual;  // null: none
  const Lines* residual_lines;
  int64_t residual_column;
  float* pre;  // null: not wanted; dense
  int64_t pre_line;
};

/** c[0 … n) in place. `pre` and `residual` (dense here) may be null. */
template <class F>
void end_run(float* c, int64_t n, float* pre, const float* residual) {
  const F f;
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) {
    const Vf x = load(c + j);
    if (pre) store(pre + j, x);
    Vf y = f(x);
    if (residual) y += load(residual + j);
    store(c + j, y);
  }
  if (j == n) return;
  const int64_t left = n - j;
  const Vf x = load_partial(c + j, left);
  if (pre) store_partial(pre + j, x, left);
  Vf y = f(x);
  if (residual) y += load_partial(residual + j, left);
  store_partial(c + j, y, left);
}

constexpr int64_t kEndStage = 512;  // floats of a residual that is not dense

template <class F>
void end_rows(const ActivationEnd& end, float* c, int64_t ldc, int64_t row, int64_t col, int64_t rows, int64_t cols) {
  const int64_t step = end.residual_column;
  const bool staged = end.residual && step != 1;
  // lines that run on are one line
  if (ldc == cols && !staged && (!end.pre || end.pre_line == cols) &&
      (!end.residual || end.residual_lines->apart(cols))) {
    cols *= rows;
    rows = 1;
  }
  for (int64_t i = 0; i < rows; i++) {
    const int64_t at = end.first + row + i;
    float* line = c + i * ldc;
    float* pre = end.pre ? end.pre + at * end.pre_line + col : nullptr;
    const float* residual = end.residual ? end.residual + end.residual_lines->offset(at) + col * step : nullptr;
    if (!staged) {
      end_run<F>(line, cols, pre, residual);
      continue;
    }
    alignas(64) float buffer[kEndStage];
    for (int64_t j = 0; j < cols; j += kEndStage) {
      const int64_t n = cols - j < kEndStage ? cols - j : kEndStage;
      load_run(residual + j * step, step, n, buffer);
      end_run<F>(line + j, n, pre ? pre + j : nullptr, buffer);
    }
  }
}

/** Epilogue::run; the context is an ActivationEnd. */
inline void run_activation_end(const void* context, float* c, int64_t ldc, int64_t, int64_t row, int64_t col,
                               int64_t rows, int64_t cols) {
  const ActivationEnd& end = *static_cast<const ActivationEnd*>(context);
  switch (end.kind) {
    case kActGelu:
      return end_rows<GeluExact>(end, c, ldc, row, col, rows, cols);
    case kActGeluTanh:
      return end_rows<GeluTanh>(end, c, ldc, row, col, rows, cols);
    case kActSilu:
      return end_rows<Silu>(end, c, ldc, row, col, rows, cols);
    case kActRelu:
      return end_rows<ReluOf>(end, c, ldc, row, col, rows, cols);
    case kActSigmoid:
      return end_rows<SigmoidOf>(end, c, ldc, row, col, rows, cols);
    case kActTanh:
      return end_rows<TanhOf>(end, c, ldc, row, col, rows, cols);
    default:
      return end_rows<Identity>(end, c, ldc, row, col, rows, cols);
  }
}

#endif

}  // namespace
}  // namespace og
#endif
