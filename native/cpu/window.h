/** Windows that slide over the last two axes of an image [B, C, H, W]: their geometry, from a kernel's attributes. */
#ifndef OMNIGRAD_CPU_WINDOW_H
#define OMNIGRAD_CPU_WINDOW_H

#include "../core/status.h"
#include "../core/view.h"

namespace og {
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

/** `attrs`: kernel, stride, padding, dilation, each as rows, columns. */
inline int32_t read_window(const char* name, const double* attrs, const og_view& image, Windows* w) {
  w->batch = image.shape[0];
  w->channels = image.shape[1];
  for (int i = 0; i < 2; i++) {
    w->size[i] = image.shape[2 + i];
    for (int part = 0; part < 4; part++) {
      const double value = attrs[2 * part + i];
      OG_REQUIRE(value >= 0 && value <= 1 << 24, "%s: bad window", name);  // products of two stay far below 2^63
    }
    w->kernel[i] = (int64_t)attrs[i];
    w->stride[i] = (int64_t)attrs[2 + i];
    w->padding[i] = (int64_t)attrs[4 + i];
    w->dilation[i] = (int64_t)attrs[6 + i];
    OG_REQUIRE(w->kernel[i] > 0 && w->stride[i] > 0 && w->dilation[i] > 0, "%s: bad window", name);
    const int64_t room = w->size[i] + 2 * w->padding[i] - w->dilation[i] * (w->kernel[i] - 1) - 1;
    w->count[i] = room < 0 ? 0 : room / w->stride[i] + 1;
  }
  return OG_OK;
}

}  // namespace
}  // namespace og
#endif
