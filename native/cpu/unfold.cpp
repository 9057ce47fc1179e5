/**
 * unfold (im2col): x [B, C, H, W] → y [B, C·kh·kw, oh·ow], every window as a column, zeros for what lies in the
 * padding. fold (col2im): its adjoint, columns summed up where their windows lie. Attributes: kernel, stride, padding,
 * dilation, each as rows, columns. The number of window positions follows from the image and these.
 *
 * Any strides; unfold moves bits (every dtype), fold sums floats in float (float64 in double, integers in int64_t), per
 * element in the order of the kernel's elements: at most kh·kw additions, error below kh·kw·2^-24·Σ|x|. Both are
 * gathers, so no two tasks write one element. Parallel split: unfold by rows of y, fold by rows of the image.
 */
#include "../core/parallel.h"
#include "../core/scratch.h"
#include "../core/status.h"
#include "../core/view.h"
#include "stage.h"
#include "window.h"

namespace og {
namespace OG_ISA {
namespace {

int32_t read_windows(const og_call* call, const og_view& image, const og_view& columns, Windows* w) {
  OG_REQUIRE(image.rank == 4 && columns.rank == 3, "unfold: an image of 4 axes and columns of 3 are expected");
  OG_TRY(read_window("unfold", call->attrs, image, w));
  const int64_t positions = w->count[0] * w->count[1];
  OG_REQUIRE(columns.shape[0] == w->batch && columns.shape[1] == w->rows() && columns.shape[2] == positions,
             "unfold: the columns do not fit the image");
  OG_REQUIRE(image.dtype == columns.dtype, "unfold: operands differ in dtype");
  return OG_OK;
}

/** One row of y: one element of one channel's kernel, for all windows. */
template <class T>
void unfold_row(const Windows& w, const og_view& x, const og_view& y, int64_t row) {
  const int64_t per_image = w.rows(), b = row / per_image, r = row % per_image;
  const int64_t kj = r % w.kernel[1], ki = r / w.kernel[1] % w.kernel[0], c = r / (w.kernel[1] * w.kernel[0]);
  const T* from = data_of<const T>(x) + b * x.strides[0] + c * x.strides[1];
  T* to = data_of<T>(y) + b * y.strides[0] + r * y.strides[1];
  const int64_t step = y.strides[2], walk = w.stride[1] * x.strides[3];
  int64_t first, end;
  w.inside(1, kj, &first, &end);
  for (int64_t i = 0; i < w.count[0]; i++, to += w.count[1] * step) {
    const int64_t h = w.at(0, ki, i);
    const bool empty = h < 0 || h >= w.size[0];
    const int64_t begin = empty ? w.count[1] : first, stop = empty ? w.count[1] : end;
    for (int64_t j = 0; j < begin; j++) to[j * step] = T(0);
    if (empty) continue;
    const T* line = from + h * x.strides[2] + w.at(1, kj, 0) * x.strides[3];
    if (step == 1 && walk == 1) {
      if (stop > begin) std::memcpy(to + begin, line + begin, sizeof(T) * (size_t)(stop - begin));
    } else {
      for (int64_t j = begin; j < stop; j++) to[j * step] = line[j * walk];
    }
    for (int64_t j = stop; j < w.count[1]; j++) to[j * step] = T(0);
  }
}

template <class T>
void unfold_bits(const Windows& w, const og_view& x, const og_view& y) {
  parallel_ranges(w.batch * w.rows(), grain_for(w.count[0] * w.count[1]), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) unfold_row<T>(w, x, y, row);
  });
}

/** One row of one channel's image, summed in `sums`. */
template <class C, class T>
void fold_row(const Windows& w, const og_view& x, const og_view& y, int64_t row, C* sums) {
  const int64_t h = row % w.size[0], c = row / w.size[0] % w.channels, b = row / (w.size[0] * w.channels);
  for (int64_t i = 0; i < w.size[1]; i++) sums[i] = C(0);
  for (int64_t ki = 0; ki < w.kernel[0]; ki++) {
    const int64_t lift = h + w.padding[0] - ki * w.dilation[0];
    if (lift < 0 || lift % w.stride[0] || lift / w.stride[0] >= w.count[0]) continue;
    const int64_t line = lift / w.stride[0] * w.count[1];
    for (int64_t kj = 0; kj < w.kernel[1]; kj++) {
      const int64_t r = (c * w.kernel[0] + ki) * w.kernel[1] + kj;
      const T* from = data_of<const T>(x) + b * x.strides[0] + r * x.strides[1] + line * x.strides[2];
      int64_t first, end;
      w.inside(1, kj, &first, &end);
      C* to = sums + w.at(1, kj, 0);
      for (int64_t j = first; j < end; j++) to[j * w.stride[1]] += widen<C>(from[j * x.strides[2]]);
    }
  }
  T* to = data_of<T>(y) + b * y.strides[0] + c * y.strides[1] + h * y.strides[2];
  store_run(sums, w.size[1], to, y.strides[3]);
}

template <class C>
int32_t fold_sums(const Windows& w, const og_view& x, const og_view& y) {
  std::atomic<bool> failed(false);
  const int64_t work = w.size[1] * w.kernel[0] * w.kernel[1];
  parallel_ranges(w.batch * w.channels * w.size[0], grain_for(work), [&](int64_t begin, int64_t end) {
    ScratchFrame scratch;
    C* sums = scratch.take<C>(w.size[1]);
    if (!sums) {
      failed.store(true);
      return;
    }
    with_storage(y.dtype, [&](auto type) {
      typedef decltype(type) T;
      constexpr bool computes_so = std::is_integral<T>::value       ? std::is_same<C, int64_t>::value
                                   : std::is_same<T, double>::value ? std::is_same<C, double>::value
                                                                    : std::is_same<C, float>::value;
      if constexpr (computes_so)  // there is no other pair: x and y have one dtype
        for (int64_t row = begin; row < end; row++) fold_row<C, T>(w, x, y, row, sums);
    });
  });
  return failed.load() ? fail(OG_OUT_OF_MEMORY, "fold: no memory for a row") : (int32_t)OG_OK;
}

}  // namespace

int32_t kernel_unfold(const og_call* call) {
  const og_view &x = call->inputs[0], &y = call->outputs[0];
  Windows w;
  OG_TRY(read_windows(call, x, y, &w));
  if (count_of(y) == 0) return OG_OK;
  switch (dtype_size(x.dtype)) {
    case 8:
      unfold_bits<uint64_t>(w, x, y);
      break;
    case 4:
      unfold_bits<uint32_t>(w, x, y);
      break;
    case 2:
      unfold_bits<uint16_t>(w, x, y);
      break;
    default:
      unfold_bits<uint8_t>(w, x, y);
  }
  return OG_OK;
}

int32_t kernel_fold(const og_call* call) {
  const og_view &x = call->inputs[0], &y = call->outputs[0];
  Windows w;
  OG_TRY(read_windows(call, y, x, &w));
  return with_compute(x.dtype, [&](auto type) { return fold_sums<decltype(type)>(w, x, y); });
}

}  // namespace OG_ISA
}  // namespace og
