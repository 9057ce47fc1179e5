/** The two problems of convolution, as conv.cpp poses them to the ways of solving them. */
#ifndef OMNIGRAD_CPU_CONV_CALL_H
#define OMNIGRAD_CPU_CONV_CALL_H

#include "conv_lines.h"
#include "gemm_frame.h"

namespace og {
namespace {

inline Planes planes_of(const og_view& v) {
  return {v.data, v.dtype, v.strides[0], v.strides[1], v.strides[2], v.strides[3]};
}

/**
 * to[b, g·outputs + m](i, j) = bias + Σ over the taps that `reading` describes (channels of group g of image b) of
 * weights[g][m, tap] · what the tap reads. With `spread` the m-th result belongs elsewhere: m counts a channel's kernel
 * elements, and result (i, j) goes where that element of window (i, j) lies in the image, if it lies inside.
 */
struct SumCall {
  Reading reading;
  int64_t images, groups, outputs;
  MatrixView weights;     // [outputs × taps] of the first group
  int64_t weights_group;  // elements from one group's to the next
  const float* bias;      // of all groups, or null
  Planes to;
  const Windows* spread;

  /** Channels of `to` that a group has. */
  int64_t planes() const { return spread ? outputs / (spread->kernel[0] * spread->kernel[1]) : outputs; }
  Reading reading_of(int64_t image, int64_t group) const {
    Reading r = reading;
    r.from = r.from.at(image * r.from.image + group * r.channels * r.from.channel);
    return r;
  }
  MatrixView weights_of(int64_t group) const {
    MatrixView w = weights;
    w.data = static_cast<char*>(w.data) + group * weights_group * dtype_size(w.dtype);
    return w;
  }
};

/** to[g][m, tap] = Σ over images and positions of with[b, g·outputs + m](i, j) · what the tap reads; dense. */
struct CorrelateCall {
  Reading reading;
  int64_t images, groups, outputs;
  Planes with;
  float* to;
};

/** n finished results from position `at` on, images numbered from `image`, of row m of a group. */
inline void store_results(const SumCall& call, int64_t image, int64_t group, int64_t m, int64_t at, int64_t n,
                          const float* from) {
  const Reading& r = call.reading;
  const Planes& to = call.to;
  int64_t j = at % r.count[1], i = at / r.count[1] % r.count[0];
  image += at / r.positions();
  int64_t plane = m, row = 0, col = 0;
  if (call.spread) {
    const int64_t cols = call.spread->kernel[1], rows = call.spread->kernel[0];
    plane = m / (rows * cols);
    row = call.spread->at(0, m / cols % rows, 0);
    col = call.spread->at(1, m % cols, 0);
  }
  const int64_t step[2] = {call.spread ? call.spread->stride[0] : 1, call.spread ? call.spread->stride[1] : 1};
  while (n > 0) {
    const int64_t length = r.count[1] - j < n ? r.count[1] - j : n;
    const int64_t h = row + i * step[0];
    int64_t first = j, end = j + length;
    if (call.spread) {
      const int64_t s = step[1], low = col < 0 ? (-col + s - 1) / s : 0;
      const int64_t left = call.spread->size[1] - col, high = left <= 0 ? 0 : (left + s - 1) / s;
      if (h < 0 || h >= call.spread->size[0]) end = first;
      if (low > first) first = low;
      if (high < end) end = high;
    }
    if (first < end)
      emit(from + (first - j), length, 1, end - first,
           {to.at(image * to.image + (group * call.planes() + plane) * to.channel + h * to.row +
                  (col + first * step[1]) * to.column)
                .memory(),
            to.dtype, 0, to.column * step[1]},
           0, 0);
    from += length;
    n -= length;
    j = 0;
    if (++i == r.count[0]) {
      i = 0;
      image++;
    }
  }
}

}  // namespace
}  // namespace og
#endif
