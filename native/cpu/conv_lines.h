/**
 * Convolution as a matrix product whose second operand is never stored: what packing asks for is read from the image.
 *
 * A Reading says where a sum of shifted planes reads: position (i, j) of a grid takes, for tap (r, s) of channel c,
 * element (i·step + row_at[r], j·step + col_at[s]) of plane c, 0 outside. A tap's place among all, (c·rows + r)·cols +
 * s, is the k of the product; positions are numbered image after image, row after row.
 */
#ifndef OMNIGRAD_CPU_CONV_LINES_H
#define OMNIGRAD_CPU_CONV_LINES_H

#include <type_traits>

#include "gemm_pack.h"
#include "window.h"

namespace og {
namespace {

/** The images that are read, by element strides. */
struct Planes {
  const void* data;
  int32_t dtype;
  int64_t image, channel, row, column;

  Planes at(int64_t offset) const {
    Planes to = *this;
    to.data = static_cast<const char*>(data) + offset * dtype_size(dtype);
    return to;
  }
  void* memory() const { return const_cast<void*>(data); }
};

struct Reading {
  Planes from;
  int64_t channels, rows, cols;        // taps of a channel
  const int64_t *row_at, *col_at;      // where tap r (s) of position (0, 0) reads
  const int64_t *first, *end;          // positions [first, end) of a row for which tap s lies inside
  int64_t size[2], step[2], count[2];  // of a plane, between positions, positions of an image
  bool runs;                           // col_at counts up by one

  int64_t taps() const { return channels * rows * cols; }
  int64_t positions() const { return count[0] * count[1]; }
};

/** n elements, `stride` apart. */
template <class T>
OG_INLINE void copy_run(const T* from, int64_t stride, int64_t n, float* to) {
  if constexpr (std::is_same<T, float>::value) {
    int64_t i = 0;
    if (stride == 1) {
      for (; i + kLanes <= n; i += kLanes) store(to + i, load(from + i));
      if (i < n) store_first(to + i, load_first(from + i, (int)(n - i)), (int)(n - i));
      return;
    }
    if (stride == 2) {  // the last pair may end with the run's last element
      for (; i + kLanes < n; i += kLanes) {
        const Vf low = load(from + 2 * i), high = load(from + 2 * i + kLanes);
#if OG_LANES == 16
        store(to + i, __builtin_shufflevector(low, high, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30));
#elif OG_LANES == 8
        store(to + i, __builtin_shufflevector(low, high, 0, 2, 4, 6, 8, 10, 12, 14));
#else
        store(to + i, __builtin_shufflevector(low, high, 0, 2, 4, 6));
#endif
      }
    }
    for (; i < n; i++) to[i] = from[i * stride];
  } else {
    load_run(from, stride, n, to);
  }
}

OG_INLINE void zero_run(float* to, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] = 0.f;
}

/** The operand with a line for each tap, all positions long. */
template <class T>
struct TapLines : LineSource {
  const Reading* reading;

  explicit TapLines(const Reading& r) : LineSource{fill_line}, reading(&r) {}

  static void fill_line(const LineSource* self, int64_t line, int64_t at, int64_t n, float* to) {
    const Reading& r = *static_cast<const TapLines*>(self)->reading;
    const Planes& p = r.from;
    const uint64_t tap = (uint64_t)line, cols = (uint64_t)r.cols, rows = (uint64_t)r.rows;
    const int64_t s = (int64_t)(tap % cols), row = r.row_at[tap / cols % rows], c = (int64_t)(tap / cols / rows);
    const int64_t width = r.count[1], first = r.first[s], end = r.end[s], walk = r.step[1] * p.column;
    int64_t j = (int64_t)((uint64_t)at % (uint64_t)width), i = (int64_t)((uint64_t)at / (uint64_t)width), image = 0;
    if (i >= r.count[0]) {
      image = i / r.count[0];
      i %= r.count[0];
    }
    const T* plane = static_cast<const T*>(p.data) + c * p.channel + r.col_at[s] * p.column;
    while (n > 0) {
      const int64_t length = width - j < n ? width - j : n, stop = j + length;
      const int64_t h = i * r.step[0] + row;
      if (h < 0 || h >= r.size[0]) {
        zero_run(to, length);
      } else {
        const int64_t low = first < j ? j : first < stop ? first : stop;
        const int64_t high = end > stop ? stop : end > low ? end : low;
        zero_run(to, low - j);
        copy_run(plane + image * p.image + h * p.row + low * walk, walk, high - low, to + (low - j));
        zero_run(to + (high - j), stop - high);
      }
      to += length;
      n -= length;
      j = 0;
      if (++i == r.count[0]) {
        i = 0;
        image++;
      }
    }
  }
};

/** The operand with a line for each position, all taps long: for windows whose rows are runs of memory. */
template <class T>
struct PositionLines : LineSource {
  const Reading* reading;

  explicit PositionLines(const Reading& r) : LineSource{fill_line}, reading(&r) {}

  static void fill_line(const LineSource* self, int64_t line, int64_t at, int64_t n, float* to) {
    const Reading& r = *static_cast<const PositionLines*>(self)->reading;
    const Planes& p = r.from;
    const int64_t j = line % r.count[1], i = line / r.count[1] % r.count[0], image = line / r.positions();
    const int64_t left = j * r.step[1] + r.col_at[0];
    int64_t s = at % r.cols, t = at / r.cols % r.rows, c = at / r.cols / r.rows;
    // taps [low, high) of a row lie inside
    const int64_t low = left < 0 ? (-left < r.cols ? -left : r.cols) : 0;
    const int64_t room = r.size[1] - left, high = room < low ? low : room < r.cols ? room : r.cols;
    const T* base = static_cast<const T*>(p.data) + image * p.image + left * p.column;
    while (n > 0) {
      const int64_t length = r.cols - s < n ? r.cols - s : n, stop = s + length;
      const int64_t h = i * r.step[0] + r.row_at[t];
      if (h < 0 || h >= r.size[0]) {
        zero_run(to, length);
      } else {
        const int64_t from = low < s      ? s
                             : low < stop ? low
                                          : stop,
                      end = high > stop   ? stop
                            : high > from ? high
                                          : from;
        zero_run(to, from - s);
        copy_run(base + c * p.channel + h * p.row + from * p.column, p.column, end - from, to + (from - s));
        zero_run(to + (end - s), stop - end);
      }
      to += length;
      n -= length;
      s = 0;
      if (++t == r.rows) {
        t = 0;
        c++;
      }
    }
  }
};

/** Whether windows lie far enough apart, and their rows are long enough, for lines along taps. */
inline bool wants_position_lines(const Reading& r) {
  return r.runs && r.from.column == 1 && r.step[1] > 2 && r.cols >= 4;
}

/** Calls f(lines, whether a line is a position) with the source that suits the reading. */
template <class F>
int32_t with_lines(const Reading& r, const F& f) {
  const auto typed = [&](auto type) -> int32_t {
    typedef decltype(type) T;
    if (wants_position_lines(r)) return f(PositionLines<T>(r), true);
    return f(TapLines<T>(r), false);
  };
  if (r.from.dtype == OG_F16) return typed(f16{});
  if (r.from.dtype == OG_BF16) return typed(bf16{});
  return typed(float{});
}

}  // namespace
}  // namespace og
#endif
