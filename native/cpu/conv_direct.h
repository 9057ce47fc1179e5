/**
 * Convolution of groups with few outputs (depthwise above all), where packing for a matrix product would cost more than
 * the sums: a strip of rows is copied to L1 with its padding, and every tap adds a shifted row of it.
 *
 * Strided rows are copied element classes apart, those with the same remainder by the stride side by side, so that
 * positions next to each other always read next to each other.
 */
#ifndef OMNIGRAD_CPU_CONV_DIRECT_H
#define OMNIGRAD_CPU_CONV_DIRECT_H

#include "conv_call.h"
#include "gemm_frame.h"

namespace og {
namespace {

/** Outputs of a group below which sums of shifted rows are taken. */
constexpr int64_t kFewOutputs = 4;
/** Floats of a strip that are aimed at, and beyond which a single row's strip is too much. */
constexpr int64_t kStripFloats = 6144, kStripLimit = 1 << 17;

/** Rows of positions that are worked on together, and how what they read is laid out: [row][class][length]. */
struct Strip {
  int64_t rows, reach, low_row, low_col, classes, length, width;

  int64_t floats() const { return reach * classes * length; }
  int64_t count(const Reading& r) const { return (r.count[0] + rows - 1) / rows; }
};

inline Strip strip_of(const Reading& r) {
  Strip s{};
  int64_t high_row = r.row_at[0], high_col = r.col_at[0];
  s.low_row = high_row;
  s.low_col = high_col;
  for (int64_t i = 1; i < r.rows; i++) {
    if (r.row_at[i] < s.low_row) s.low_row = r.row_at[i];
    if (r.row_at[i] > high_row) high_row = r.row_at[i];
  }
  for (int64_t i = 1; i < r.cols; i++) {
    if (r.col_at[i] < s.low_col) s.low_col = r.col_at[i];
    if (r.col_at[i] > high_col) high_col = r.col_at[i];
  }
  s.classes = r.step[1];
  s.width = (r.count[1] + kLanes - 1) / kLanes * kLanes;
  s.length = s.width + (high_col - s.low_col) / s.classes;
  const int64_t row = s.classes * s.length, extent = high_row - s.low_row + 1;
  s.rows = kStripFloats / row > extent ? (kStripFloats / row - extent) / r.step[0] + 1 : 1;
  if (s.rows > r.count[0]) s.rows = r.count[0];
  s.reach = (s.rows - 1) * r.step[0] + extent;
  return s;
}

/** Offsets of a channel's taps in a strip, for its first position. */
inline void tap_offsets(const Reading& r, const Strip& s, int64_t* to) {
  for (int64_t i = 0; i < r.rows; i++)
    for (int64_t j = 0; j < r.cols; j++) {
      const int64_t col = r.col_at[j] - s.low_col;
      *to++ = ((r.row_at[i] - s.low_row) * s.classes + col % s.classes) * s.length + col / s.classes;
    }
}

/** What the rows of positions from `row` on read of one plane, zeros for what lies outside. */
template <class T>
void stage_strip(const Reading& r, const Strip& s, const Planes& plane, int64_t row, float* to) {
  for (int64_t i = 0; i < s.reach; i++) {
    const int64_t h = row * r.step[0] + s.low_row + i;
    for (int64_t c = 0; c < s.classes; c++, to += s.length) {
      if (h < 0 || h >= r.size[0]) {
        zero_run(to, s.length);
        continue;
      }
      const int64_t start = s.low_col + c, step = s.classes;  // element t is column start + t·step
      int64_t low = start < 0 ? (-start + step - 1) / step : 0;
      int64_t high = start < r.size[1] ? (r.size[1] - start + step - 1) / step : 0;
      if (high > s.length) high = s.length;
      if (low > high) low = high;
      zero_run(to, low);
      copy_run(static_cast<const T*>(plane.data) + h * plane.row + (start + low * step) * plane.column,
               step * plane.column, high - low, to + low);
      zero_run(to + high, s.length - high);
    }
  }
}

inline void stage_strip(const Reading& r, const Strip& s, const Planes& plane, int64_t row, float* to) {
  with_float_storage(plane.dtype, [&](auto type) -> int32_t {
    stage_strip<decltype(type)>(r, s, plane, row, to);
    return OG_OK;
  });
}

/** U vectors of sums, over the taps of one channel. */
template <int U>
OG_INLINE void add_taps(const float* strip, const int64_t* at, const float* weights, int64_t taps, float* sums) {
  Vf x[U];
#pragma GCC unroll 8
  for (int u = 0; u < U; u++) x[u] = load(sums + u * kLanes);
  for (int64_t t = 0; t < taps; t++) {
    const Vf w = set1(weights[t]);
#pragma GCC unroll 8
    for (int u = 0; u < U; u++) x[u] = fma(w, load(strip + at[t] + u * kLanes), x[u]);
  }
#pragma GCC unroll 8
  for (int u = 0; u < U; u++) store(sums + u * kLanes, x[u]);
}

/** The first n results of U vectors: bias + the taps of the only channel. */
template <int U>
OG_INLINE void finish_taps(const float* strip, const int64_t* at, const float* weights, int64_t taps, Vf bias,
                           float* to, int64_t n) {
  Vf x[U] = {};
  for (int64_t t = 0; t < taps; t++) {
    const Vf w = set1(weights[t]);
#pragma GCC unroll 8
    for (int u = 0; u < U; u++) x[u] = fma(w, load(strip + at[t] + u * kLanes), x[u]);
  }
#pragma GCC unroll 8
  for (int u = 0; u < U; u++) {
    const int count = lanes_left(n, u * kLanes);
    if (count == kLanes)
      store(to + u * kLanes, x[u] + bias);
    else if (count > 0)
      store_first(to + u * kLanes, x[u] + bias, count);
  }
}

/** Whether a sum goes this way. */
inline bool wants_direct(const SumCall& call) {
  const Reading& r = call.reading;
  if (call.spread || call.outputs >= kFewOutputs || r.rows * r.cols == 1) return false;
  return call.weights.dtype == OG_F32 && call.weights.column == 1 && strip_of(r).floats() <= kStripLimit;
}

/** One strip of one output: sums of all channels of its group, then the bias. */
inline void sum_strip(const SumCall& call, const Strip& s, const int64_t* at, int64_t image, int64_t plane, int64_t row,
                      float* strip, float* sums) {
  const int64_t group = plane / call.outputs, m = plane % call.outputs;
  const Reading r = call.reading_of(image, group);
  const int64_t taps = r.rows * r.cols, rows = least(s.rows, r.count[0] - row);
  const MatrixView w = call.weights_of(group);
  const float* weights = static_cast<const float*>(w.data) + m * w.row;
  if (r.channels == 1 && call.to.dtype == OG_F32 && call.to.column == 1) {
    stage_strip(r, s, r.from, row, strip);
    const Vf bias = set1(call.bias ? call.bias[plane] : 0.f);
    const Planes& to = call.to;
    float* base = static_cast<float*>(to.memory()) + image * to.image + plane * to.channel + row * to.row;
    for (int64_t i = 0; i < rows; i++) {
      const float* from = strip + i * r.step[0] * s.classes * s.length;
      float* line = base + i * to.row;
      int64_t j = 0;
      for (; j + 4 * kLanes <= s.width; j += 4 * kLanes)
        finish_taps<4>(from + j, at, weights, taps, bias, line + j, r.count[1] - j);
      for (; j < s.width; j += kLanes) finish_taps<1>(from + j, at, weights, taps, bias, line + j, r.count[1] - j);
    }
    return;
  }
  for (int64_t i = 0; i < rows * s.width; i++) sums[i] = 0.f;
  for (int64_t c = 0; c < r.channels; c++, weights += taps) {
    stage_strip(r, s, r.from.at(c * r.from.channel), row, strip);
    for (int64_t i = 0; i < rows; i++) {
      const float* from = strip + i * r.step[0] * s.classes * s.length;
      float* to = sums + i * s.width;
      int64_t j = 0;
      for (; j + 4 * kLanes <= s.width; j += 4 * kLanes) add_taps<4>(from + j, at, weights, taps, to + j);
      for (; j < s.width; j += kLanes) add_taps<1>(from + j, at, weights, taps, to + j);
    }
  }
  for (int64_t i = 0; i < rows; i++) {
    float* line = sums + i * s.width;
    if (call.bias)
      for (int64_t j = 0; j < r.count[1]; j++) line[j] += call.bias[plane];
    store_results(call, image, group, m, (row + i) * r.count[1], r.count[1], line);
  }
}

inline int32_t sum_directly(const SumCall& call) {
  const Reading& r = call.reading;
  const Strip s = strip_of(r);
  const int64_t strips = s.count(r), planes = call.groups * call.outputs, taps = r.rows * r.cols;
  ScratchFrame frame;
  int64_t* at = frame.take<int64_t>(taps);
  OG_SCRATCH(at, "the taps of a convolution");
  tap_offsets(r, s, at);
  int failed = 0;
  parallel_ranges(
      call.images * planes * strips, grain_for(s.rows * s.width * r.taps()), [&](int64_t begin, int64_t end) {
        ScratchFrame inner;
        float *strip = inner.take<float>(s.floats()), *sums = inner.take<float>(s.rows * s.width);
        if (!strip || !sums) return __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
        for (int64_t task = begin; task < end; task++)
          sum_strip(call, s, at, task / strips / planes, task / strips % planes, task % strips * s.rows, strip, sums);
      });
  return failed ? fail(OG_OUT_OF_MEMORY, "no memory for a strip of a convolution") : (int32_t)OG_OK;
}

inline bool wants_direct(const CorrelateCall& call) {
  const Reading& r = call.reading;
  return call.outputs < kFewOutputs && r.rows * r.cols > 1 && strip_of(r).floats() <= kStripLimit;
}

/** sums[t] += Σ over some rows of positions of with · what tap t reads, for T taps. */
template <int T>
OG_INLINE void correlate_taps(const Reading& r, const Strip& s, int64_t rows, const float* strip, const int64_t* at,
                              const float* with, float* sums) {
  Vf x[T];
#pragma GCC unroll 8
  for (int t = 0; t < T; t++) x[t] = Vf{};
  for (int64_t i = 0; i < rows; i++) {
    const float *from = strip + i * r.step[0] * s.classes * s.length, *line = with + i * s.width;
    int64_t j = 0;
    for (; j + kLanes <= r.count[1]; j += kLanes) {
      const Vf v = load(line + j);
#pragma GCC unroll 8
      for (int t = 0; t < T; t++) x[t] = fma(v, load(from + at[t] + j), x[t]);
    }
    if (j == r.count[1]) continue;
    const int left = (int)(r.count[1] - j);
    const Vf v = load_first(line + j, left);
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) x[t] = fma(v, load_first(from + at[t] + j, left), x[t]);
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; t++) sums[t] += sum(x[t]);
}

/** One output against one channel of its group. */
inline void correlate_pair(const CorrelateCall& call, const Strip& s, const int64_t* at, int64_t plane, int64_t channel,
                           float* strip, float* with, float* sums) {
  const Reading& r = call.reading;
  const int64_t taps = r.rows * r.cols;
  for (int64_t t = 0; t < taps; t++) sums[t] = 0.f;
  for (int64_t image = 0; image < call.images; image++) {
    const Planes from =
        r.from.at(image * r.from.image + (plane / call.outputs * r.channels + channel) * r.from.channel);
    const Planes grads = call.with.at(image * call.with.image + plane * call.with.channel);
    for (int64_t row = 0; row < r.count[0]; row += s.rows) {
      const int64_t rows = least(s.rows, r.count[0] - row);
      stage_strip(r, s, from, row, strip);
      for (int64_t i = 0; i < rows; i++)
        OG_ISA::load_elements(grads.at((row + i) * grads.row).data, grads.dtype, grads.column, r.count[1],
                              with + i * s.width);
      int64_t t = 0;
      for (; t + 8 <= taps; t += 8) correlate_taps<8>(r, s, rows, strip, at + t, with, sums + t);
      for (; t + 3 <= taps; t += 3) correlate_taps<3>(r, s, rows, strip, at + t, with, sums + t);
      for (; t < taps; t++) correlate_taps<1>(r, s, rows, strip, at + t, with, sums + t);
    }
  }
}

inline int32_t correlate_directly(const CorrelateCall& call) {
  const Reading& r = call.reading;
  const Strip s = strip_of(r);
  const int64_t taps = r.rows * r.cols, pairs = call.groups * call.outputs * r.channels;
  ScratchFrame frame;
  int64_t* at = frame.take<int64_t>(taps);
  OG_SCRATCH(at, "the taps of a convolution");
  tap_offsets(r, s, at);
  int failed = 0;
  parallel_ranges(pairs, grain_for(call.images * r.positions() * taps), [&](int64_t begin, int64_t end) {
    ScratchFrame inner;
    float *strip = inner.take<float>(s.floats()), *with = inner.take<float>(s.rows * s.width);
    if (!strip || !with) return __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
    for (int64_t pair = begin; pair < end; pair++)
      correlate_pair(call, s, at, pair / r.channels, pair % r.channels, strip, with, call.to + pair * taps);
  });
  return failed ? fail(OG_OUT_OF_MEMORY, "no memory for a strip of a convolution") : (int32_t)OG_OK;
}

}  // namespace
}  // namespace og
#endif
