/**
 * Convolution with windows one step apart, without packing what is read: a strip of rows of each plane is copied once,
 * with its padding, into rows of one length G. A position (i, j) is element i·G + j there, and every tap of it lies a
 * fixed distance on; so the positions of a register tile are runs of memory for each tap, and only the weights are
 * packed. Positions between the end of one row and the begin of the next are computed and dropped.
 *
 * Each strip is copied by the thread that uses it: lines that another core has just written come slowly. It stays in L2
 * while all panels of weights pass, and each sum is finished in registers, in the order of the taps.
 */
#ifndef OMNIGRAD_CPU_CONV_FLAT_H
#define OMNIGRAD_CPU_CONV_FLAT_H

#include "conv_direct.h"

namespace og {
namespace {

/** Floats that a strip of all channels may take, and how many strips an image is cut into where that pays. */
constexpr int64_t kFlatFloats = 96 << 10, kFlatStrips = 12;

/** Strips of `strip.rows` rows of positions of one image and group: [channels][reach][length], and some floats more. */
struct Flat {
  Strip strip;
  int64_t extent;  // rows that one row of positions reads

  explicit Flat(const Reading& r) : strip(strip_of(r)) {
    extent = strip.reach - (strip.rows - 1);
    strip.length -= strip.width - r.count[1];
    const int64_t fits = kFlatFloats / (r.channels * strip.length) - (extent - 1);
    int64_t most = ceil_div(r.count[0], kFlatStrips), best = 0;
    if (most < 4) most = 4;
    if (most > fits) most = fits;
    if (most > r.count[0]) most = r.count[0];
    strip.rows = 0;
    for (int64_t rows = 1; rows <= most; rows++) {  // few tiles, and few rows that are read twice
      const int64_t strips = ceil_div(r.count[0], rows);
      const int64_t all = (strips - 1) * tiles(rows, r) + tiles(r.count[0] - (strips - 1) * rows, r);
      const int64_t cost = 64 * all + strips * extent;
      if (strip.rows == 0 || cost <= best) {
        strip.rows = rows;
        best = cost;
      }
    }
  }
  int64_t count(const Reading& r) const { return ceil_div(r.count[0], strip.rows); }
  int64_t positions(int64_t rows, const Reading& r) const { return (rows - 1) * strip.length + r.count[1]; }
  int64_t tiles(int64_t rows, const Reading& r) const { return ceil_div(positions(rows, r), kNR); }
  int64_t plane(int64_t rows) const { return (rows + extent - 1) * strip.length; }
  /** The last tile reads up to kNR beyond. */
  int64_t floats(const Reading& r) const { return r.channels * plane(strip.rows) + kNR; }
};

/** Windows of fewer than 6 elements share too little: packing them reads from L1 as well. */
inline bool wants_flat(const SumCall& call) {
  const Reading& r = call.reading;
  if (call.spread || r.step[0] != 1 || r.step[1] != 1 || r.rows * r.cols < 6 || call.outputs < 8) return false;
  if (call.weights.dtype != OG_F32 || call.weights.column != 1 || r.taps() < 32) return false;
  const Flat flat(r);
  const int64_t rows = flat.strip.rows;
  return rows > 0 && rows * r.count[1] * 8 >= flat.tiles(rows, r) * kNR * 7;
}

/** Rows of a panel of weights: as even as the outputs allow. */
inline int64_t flat_rows(int64_t outputs) { return ceil_div(outputs, ceil_div(outputs, kMR)); }

/** R outputs at kNR positions: sums[R][kNR] = Σ a[k][R] · planes[k's channel][k's tap + position]. */
template <int R>
void flat_tile(const float* a, const float* planes, int64_t plane, int64_t channels, const int64_t* at, int64_t taps,
               float* sums) {
  Vf x[R][kNV];
#pragma GCC unroll 16
  for (int i = 0; i < R; i++)
#pragma GCC unroll 4
    for (int j = 0; j < kNV; j++) x[i][j] = Vf{};
  for (int64_t c = 0; c < channels; c++, planes += plane)
    for (int64_t t = 0; t < taps; t++, a += R) {
      const float* from = planes + at[t];
      Vf b[kNV];
#pragma GCC unroll 4
      for (int j = 0; j < kNV; j++) b[j] = load(from + j * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < R; i++) {
        const Vf w = set1(a[i]);
#pragma GCC unroll 4
        for (int j = 0; j < kNV; j++) x[i][j] = fma(w, b[j], x[i][j]);
      }
    }
#pragma GCC unroll 16
  for (int i = 0; i < R; i++)
#pragma GCC unroll 4
    for (int j = 0; j < kNV; j++) store(sums + i * kNR + j * kLanes, x[i][j]);
}

/** flat_tile for 1 to R rows. */
template <int R>
void flat_tile_of(int64_t rows, const float* a, const float* planes, int64_t plane, int64_t channels, const int64_t* at,
                  int64_t taps, float* sums) {
  if constexpr (R > 1)
    if (rows < R) return flat_tile_of<R - 1>(rows, a, planes, plane, channels, at, taps, sums);
  flat_tile<R>(a, planes, plane, channels, at, taps, sums);
}

/** Writes what is kept of the sums of `rows` outputs from `m` on, at the positions of a tile. */
inline void store_flat(const SumCall& call, int64_t length, int64_t image, int64_t group, int64_t m, int64_t rows,
                       int64_t row, int64_t position, int64_t end, float* sums) {
  const Reading& r = call.reading;
  const Planes& to = call.to;
  const bool plain = to.dtype == OG_F32 && to.column == 1;
  for (int64_t at = position; at < end;) {
    const int64_t i = row + at / length, j = at % length, count = least(r.count[1] - j, end - at);
    for (int64_t k = 0; k < rows && count > 0; k++) {
      const int64_t plane = group * call.outputs + m + k;
      float* from = sums + k * kNR + (at - position);
      const Vf bias = set1(call.bias ? call.bias[plane] : 0.f);
      float* target =
          plain ? static_cast<float*>(to.memory()) + image * to.image + plane * to.channel + i * to.row + j : from;
      int64_t n = 0;
      for (; n + kLanes <= count; n += kLanes) store(target + n, load(from + n) + bias);
      if (n < count) {
        const int left = (int)(count - n);
        store_first(target + n, load_first(from + n, left) + bias, left);
      }
      if (!plain) store_results(call, image, group, m + k, i * r.count[1] + j, count, from);
    }
    at += least(length - j, end - at);
  }
}

/** One strip of one image and group, whose weights are `panels`. */
inline void sum_flat_strip(const SumCall& call, const Flat& flat, const int64_t* at, int64_t image, int64_t group,
                           int64_t row, const float* panels, float* planes) {
  const Reading r = call.reading_of(image, group);
  Strip strip = flat.strip;
  strip.rows = least(strip.rows, r.count[0] - row);
  strip.reach = strip.rows + flat.extent - 1;
  const int64_t plane = flat.plane(strip.rows), end = flat.positions(strip.rows, r), height = flat_rows(call.outputs);
  for (int64_t c = 0; c < r.channels; c++)
    stage_strip(r, strip, r.from.at(c * r.from.channel), row, planes + c * plane);
  zero_run(planes + r.channels * plane, kNR);
  alignas(64) float sums[kMR * kNR];
  for (int64_t m = 0; m < call.outputs; m += height) {
    const int64_t rows = least(height, call.outputs - m);
    for (int64_t p = 0; p < end; p += kNR) {
      flat_tile_of<kMR>(rows, panels + m * r.taps(), planes + p, plane, r.channels, at, r.rows * r.cols, sums);
      store_flat(call, strip.length, image, group, m, rows, row, p, least(p + kNR, end), sums);
    }
  }
}

inline int32_t sum_flat(const SumCall& call) {
  const Reading& r = call.reading;
  const Flat flat(r);
  const int64_t k = r.taps(), height = flat_rows(call.outputs), parts = ceil_div(call.outputs, height);
  ScratchFrame frame;
  int64_t* at = frame.take<int64_t>(r.rows * r.cols);
  float* panels = frame.take<float>(call.groups * call.outputs * k);
  if (!at || !panels) return fail(OG_OUT_OF_MEMORY, "no memory for the weights of a convolution");
  tap_offsets(r, flat.strip, at);
  parallel_ranges(call.groups * parts, grain_for(height * k), [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; part++) {
      const int64_t m = part % parts * height, rows = least(height, call.outputs - m), group = part / parts;
      const MatrixView w = call.weights_of(group);
      float* to = panels + (group * call.outputs + m) * k;
      for (int64_t i = 0; i < rows; i++) {
        const float* from = static_cast<const float*>(w.data) + (m + i) * w.row;
        for (int64_t e = 0; e < k; e++) to[e * rows + i] = from[e];
      }
    }
  });
  int failed = 0;
  const int64_t strips = flat.count(r);
  parallel_for(call.images * call.groups * strips, [&](int64_t task) {
    ScratchFrame own;
    float* planes = own.take<float>(flat.floats(r));
    if (!planes) return __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
    const int64_t group = task / strips % call.groups;
    sum_flat_strip(call, flat, at, task / strips / call.groups, group, task % strips * flat.strip.rows,
                   panels + group * call.outputs * k, planes);
  });
  return failed ? fail(OG_OUT_OF_MEMORY, "no memory for a strip of a convolution") : (int32_t)OG_OK;
}

}  // namespace
}  // namespace og
#endif
