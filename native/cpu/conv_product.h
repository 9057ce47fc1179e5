/** Convolution by matrix products (gemm_frame.h) whose second operand is read as conv_lines.h says. */
#ifndef OMNIGRAD_CPU_CONV_PRODUCT_H
#define OMNIGRAD_CPU_CONV_PRODUCT_H

#include "conv_call.h"
#include "conv_direct.h"
#include "conv_flat.h"
#include "gemm_frame.h"

namespace og {
namespace {

/** Adds the bias to finished sums, and stores them where the product's C is not the result itself. */
struct SumEnd {
  const SumCall* call;
  int64_t image, group;
  bool stores;

  static void run(const void* context, float* c, int64_t ldc, int64_t, int64_t row, int64_t col, int64_t rows,
                  int64_t cols) {
    const SumEnd& self = *static_cast<const SumEnd*>(context);
    for (int64_t i = 0; i < rows; i++, c += ldc) {
      if (self.call->bias) {
        const float bias = self.call->bias[self.group * self.call->outputs + row + i];
        for (int64_t j = 0; j < cols; j++) c[j] += bias;
      }
      if (self.stores) store_results(*self.call, self.image, self.group, row + i, col, cols, c);
    }
  }
};

/** Whether the positions of one image lie one stride apart. */
inline bool is_line(const Planes& p, const int64_t (&count)[2], int64_t* stride) {
  *stride = count[1] == 1 ? p.row : p.column;
  return count[0] == 1 || count[1] == 1 || p.row == count[1] * p.column;
}

/** One tap in the same place for all positions, and no padding: the images are the operand as they lie. */
inline bool is_plain(const Reading& r, int64_t images, MatrixView* view) {
  int64_t stride;
  if (images != 1 || r.rows != 1 || r.cols != 1 || r.step[0] != 1 || r.step[1] != 1) return false;
  if (r.first[0] != 0 || r.end[0] != r.count[1] || r.row_at[0] < 0 || r.row_at[0] + r.count[0] > r.size[0])
    return false;
  if (!is_line(r.from, r.count, &stride)) return false;
  const Planes from = r.from.at(r.row_at[0] * r.from.row + r.col_at[0] * r.from.column);
  *view = {from.memory(), from.dtype, r.from.channel, stride};
  return true;
}

/** Whether fewer columns of a tile stay idle with positions as rows of the product. */
inline bool wants_turned(int64_t outputs, int64_t positions) {
  const int64_t straight = ceil_div(positions, kNR) * kNR * outputs, turned = ceil_div(outputs, kNR) * kNR * positions;
  return turned < straight - straight / 16;
}

inline int32_t multiply_planes(const SumCall& call, int64_t image, int64_t images, int64_t group) {
  const Reading r = call.reading_of(image, group);
  const MatrixView w = call.weights_of(group);
  const int64_t m = call.outputs, n = images * r.positions(), k = r.taps();
  const Planes to = call.to.at(image * call.to.image + group * call.planes() * call.to.channel);
  ScratchFrame frame;
  MatrixView plain{}, c{};
  int64_t stride = 0;
  const bool is_plain_call = is_plain(r, images, &plain);
  const bool stores = call.spread || images != 1 || !is_line(to, r.count, &stride);
  const bool turned = !stores && wants_turned(m, n);
  if (stores) {
    float* sums = frame.take<float>(m * n);
    OG_SCRATCH(sums, "the sums of a convolution");
    c = {sums, OG_F32, n, 1};
  } else {
    c = {to.memory(), to.dtype, to.channel, stride};
  }
  const SumEnd end{&call, image, group, stores};
  GemmCall product{m, n, k, w, plain, c, nullptr, 0, 1};
  if (turned) {
    product = GemmCall{n,
                       m,
                       k,
                       {plain.data, plain.dtype, plain.column, plain.row},
                       {w.data, w.dtype, w.column, w.row},
                       {c.data, c.dtype, c.column, c.row},
                       call.bias ? call.bias + group * m : nullptr,
                       0,
                       1};
  } else if (stores || call.bias) {
    product.epilogue = {SumEnd::run, &end};
  }
  if (is_plain_call) return multiply(product);
  return with_lines(r, [&](auto lines, bool by_position) {
    const MatrixView flags{nullptr, OG_F32, by_position ? 0 : 1, by_position ? 1 : 0};
    if (turned) {
      product.a = flags;
      product.a_lines = &lines;
    } else {
      product.b = {nullptr, OG_F32, flags.column, flags.row};
      product.b_lines = &lines;
    }
    return gemm(product);
  });
}

/** Images whose positions make one product: few, but enough that packing the weights for them pays. */
inline int64_t images_together(int64_t images, int64_t positions) {
  return positions >= 512 ? 1 : least(images, ceil_div(1024, positions));
}

/** run(item) for each item: side by side where they are small, else one by one and each on all threads. */
template <class F>
int32_t run_products(int64_t items, int64_t work, const F& run) {
  constexpr int64_t kLarge = int64_t{1} << 27, kTask = 1 << 20;
  if (items == 1 || work > kLarge || (items < 4 && work > kTask)) {
    for (int64_t i = 0; i < items; i++) OG_TRY(run(i));
    return OG_OK;
  }
  int failed = 0;
  parallel_ranges(items, grain_for(work, kTask), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++)
      if (run(i) != OG_OK) __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
  });
  return failed ? fail(OG_OUT_OF_MEMORY, "no memory for a part of a convolution") : (int32_t)OG_OK;
}

/** Results without a term: the bias, or zeros. */
inline int32_t sum_nothing(const SumCall& call) {
  const int64_t n = call.reading.count[1], lines = call.reading.count[0], planes = call.groups * call.outputs;
  ScratchFrame frame;
  float* line = frame.take<float>(n);
  OG_SCRATCH(line, "a row");
  for (int64_t i = 0; i < call.images * planes * lines; i++) {
    const int64_t plane = i / lines % planes;
    for (int64_t j = 0; j < n; j++) line[j] = call.bias ? call.bias[plane] : 0.f;
    store_results(call, i / lines / planes, plane / call.outputs, plane % call.outputs, i % lines * n, n, line);
  }
  return OG_OK;
}

inline int32_t sum_planes(const SumCall& call) {
  const int64_t positions = call.reading.positions(), taps = call.reading.taps();
  if (positions == 0 || call.images == 0 || call.outputs == 0) return OG_OK;
  if (taps == 0) return call.spread ? OG_OK : sum_nothing(call);
  if (wants_direct(call)) return sum_directly(call);
  if (wants_flat(call)) return sum_flat(call);
  const int64_t together = images_together(call.images, positions), parts = ceil_div(call.images, together);
  return run_products(parts * call.groups, call.outputs * positions * together * taps, [&](int64_t item) {
    const int64_t image = item / call.groups * together;
    return multiply_planes(call, image, least(together, call.images - image), item % call.groups);
  });
}

/** The rows of `with` for some images, side by side as dense floats. */
inline bool stage_rows(const CorrelateCall& call, int64_t image, int64_t images, int64_t group, ScratchFrame& frame,
                       MatrixView* rows) {
  const Reading& r = call.reading;
  const Planes with = call.with.at(image * call.with.image + group * call.outputs * call.with.channel);
  int64_t stride;
  if (images == 1 && is_line(with, r.count, &stride)) {
    *rows = {with.memory(), with.dtype, with.channel, stride};
    return true;
  }
  const int64_t n = images * r.positions();
  float* to = frame.take<float>(call.outputs * n);
  if (!to) return false;
  *rows = {to, OG_F32, n, 1};
  for (int64_t m = 0; m < call.outputs; m++)
    for (int64_t b = 0; b < images; b++)
      for (int64_t i = 0; i < r.count[0]; i++, to += r.count[1])
        OG_ISA::load_elements(with.at(b * with.image + m * with.channel + i * with.row).data, with.dtype, with.column,
                              r.count[1], to);
  return true;
}

inline int32_t correlate_group(const CorrelateCall& call, int64_t group) {
  const int64_t taps = call.reading.taps(), positions = call.reading.positions();
  const int64_t together = images_together(call.images, positions);
  float* to = call.to + group * call.outputs * taps;
  for (int64_t image = 0; image < call.images; image += together) {
    const int64_t images = least(together, call.images - image);
    ScratchFrame frame;
    Reading r = call.reading;
    r.from = r.from.at(image * r.from.image + group * r.channels * r.from.channel);
    MatrixView rows, plain{};
    if (!stage_rows(call, image, images, group, frame, &rows))
      return fail(OG_OUT_OF_MEMORY, "no memory for the gradient of a convolution's weights");
    const bool is_plain_call = is_plain(r, images, &plain);
    GemmCall product{call.outputs,
                     taps,
                     images * positions,
                     rows,
                     {plain.data, plain.dtype, plain.column, plain.row},
                     {to, OG_F32, taps, 1},
                     image == 0 ? nullptr : to,
                     taps,
                     1};
    if (is_plain_call) {
      OG_TRY(image == 0 ? multiply(product) : gemm(product));
      continue;
    }
    OG_TRY(with_lines(r, [&](auto lines, bool by_position) {
      product.b = by_position ? MatrixView{nullptr, OG_F32, 0, 1} : MatrixView{nullptr, OG_F32, 1, 0};
      product.b_lines = &lines;
      return gemm(product);
    }));
  }
  return OG_OK;
}

inline int32_t correlate_planes(const CorrelateCall& call) {
  const int64_t taps = call.reading.taps(), positions = call.images * call.reading.positions();
  if (positions == 0) {
    for (int64_t i = 0; i < call.groups * call.outputs * taps; i++) call.to[i] = 0.f;
    return OG_OK;
  }
  if (wants_direct(call)) return correlate_directly(call);
  return run_products(call.groups, call.outputs * taps * positions,
                      [&](int64_t group) { return correlate_group(call, group); });
}

}  // namespace
}  // namespace og
#endif
