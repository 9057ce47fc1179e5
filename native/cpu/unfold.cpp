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

namespace og {
namespace OG_ISA {
namespace {

struct Windows {
  int64_t batch, channels, size[2], kernel[2], stride[2], padding[2], dilation[2], count[2];

  int64_t rows() const { return channels * kernel[0] * kernel[1]; }
  /** Position in the image, along an axis, of kernel element k in window o. */
  int64_t at(int axis, int64_t k, int64_t o) const { return o * stride[axis] - padding[axis] + k * dilation[axis]; }
  /** Windows [first, end) whose element k lies inside the image along an axis. */
  void inside(int axis, int64_t k, int64_t* first, int64_t* end) const {
    const int64_t base = at(axis, k, 0), s = stride[axis];
    const int64_t from = base >= 0 ? 0 : (-base + s - 1) / s;
    const int64_t left = size[axis] - base;
    const int64_t to = left <= 0 ? 0 : (left + s - 1) / s;
    *end = to < count[axis] ? to : count[axis];
    *first = from < *end ? from : *end;
  }
};

int32_t read_windows(const og_call* call, const og_view& image, const og_view& columns, Windows* w) {
  OG_REQUIRE(image.rank == 4 && columns.rank == 3, "unfold: an image of 4 axes and columns of 3 are expected");
  w->batch = image.shape[0];
  w->channels = image.shape[1];
  int64_t positions = 1;
  for (int i = 0; i < 2; i++) {
    w->size[i] = image.shape[2 + i];
    for (int part = 0; part < 4; part++) {
      const double value = call->attrs[2 * part + i];
      OG_REQUIRE(value >= 0 && value <= 1 << 24, "unfold: bad window");  // products of two stay far below 2^63
    }
    w->kernel[i] = (int64_t)call->attrs[i];
    w->stride[i] = (int64_t)call->attrs[2 + i];
    w->padding[i] = (int64_t)call->attrs[4 + i];
    w->dilation[i] = (int64_t)call->attrs[6 + i];
    OG_REQUIRE(w->kernel[i] > 0 && w->stride[i] > 0 && w->padding[i] >= 0 && w->dilation[i] > 0, "unfold: bad window");
    const int64_t room = w->size[i] + 2 * w->padding[i] - w->dilation[i] * (w->kernel[i] - 1) - 1;
    w->count[i] = room < 0 ? 0 : room / w->stride[i] + 1;
    positions *= w->count[i];
  }
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
