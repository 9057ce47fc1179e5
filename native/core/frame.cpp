#include "frame.h"

#include "dtype.h"
#include "registry.h"
#include "status.h"

namespace og {
namespace {

constexpr double kMaxExact = 9007199254740991.;  // 2^53 - 1

/** False unless the double is an integer in [low, high]. */
bool to_integer(double x, double low, double high, int64_t* out) {
  if (!(x >= low && x <= high)) return false;
  *out = (int64_t)x;
  return (double)*out == x;
}

int32_t decode_view(const double*& at, const double* end, const SlotTable& slots, og_view* view) {
  int64_t handle, offset, dtype, rank, block_bytes;
  void* base;
  OG_REQUIRE(end - at >= 4, "frame ends inside a view");
  OG_REQUIRE(to_integer(at[0], -1, kMaxExact, &handle) && to_integer(at[1], 0, kMaxExact, &offset) &&
                 to_integer(at[2], 0, OG_DTYPE_COUNT - 1, &dtype) && to_integer(at[3], 0, OG_MAX_RANK, &rank),
             "frame holds a malformed view");
  at += 4;
  OG_REQUIRE(end - at >= 2 * rank, "frame ends inside a shape");
  view->dtype = (int32_t)dtype;
  view->rank = (int32_t)rank;
  double low = 0, high = 0, count = 1;  // reach in elements; doubles cannot overflow here
  bool empty = false;
  for (int i = 0; i < rank; i++) {
    OG_REQUIRE(to_integer(at[i], 0, kMaxExact, &view->shape[i]) &&
                   to_integer(at[rank + i], -kMaxExact, kMaxExact, &view->strides[i]),
               "frame holds a malformed shape");
    if (view->shape[i] == 0) empty = true;
    const double reach = (double)(view->shape[i] - 1) * (double)view->strides[i];
    (reach < 0 ? low : high) += reach;
    count *= (double)view->shape[i];
  }
  at += 2 * rank;
  if (handle < 0) {
    view->dtype = -1;
    view->rank = 0;
    view->data = nullptr;
    return OG_OK;
  }
  OG_REQUIRE(empty || count <= kMaxExact, "view has too many elements");
  OG_REQUIRE(slots.find(handle, &base, &block_bytes), "frame names memory that is not registered");
  const int64_t size = dtype_size(view->dtype);
  OG_REQUIRE(offset % size == 0, "view is not aligned to its dtype");
  OG_REQUIRE(offset <= block_bytes, "view starts outside its memory");
  if (!empty) {
    OG_REQUIRE(
        (double)offset + low * (double)size >= 0 && (double)offset + (high + 1) * (double)size <= (double)block_bytes,
        "view reaches outside its memory of %lld bytes", (long long)block_bytes);
  }
  view->data = static_cast<char*>(base) + offset;
  return OG_OK;
}

}  // namespace

int32_t decode_frame(const double* words, int64_t available, const SlotTable& slots, DecodedFrame* out) {
  int64_t kernel, total, inputs, outputs, attrs;
  OG_REQUIRE(available >= kFrameHeader, "frame is shorter than its header");
  OG_REQUIRE(to_integer(words[1], kFrameHeader, (double)available, &total), "frame lies about its length");
  OG_REQUIRE(to_integer(words[0], 0, kernel_count() - 1, &kernel), "frame names no kernel");
  OG_REQUIRE(to_integer(words[2], 0, OG_MAX_VIEWS, &inputs) && to_integer(words[3], 0, OG_MAX_VIEWS, &outputs) &&
                 inputs + outputs <= OG_MAX_VIEWS && to_integer(words[4], 0, OG_MAX_ATTRS, &attrs),
             "frame has malformed counts");
  const double* at = words + kFrameHeader;
  const double* end = words + total;
  for (int64_t i = 0; i < inputs + outputs; i++) OG_TRY(decode_view(at, end, slots, &out->views[i]));
  OG_REQUIRE(end - at == attrs, "frame has %lld attribute words, expected %lld", (long long)(end - at),
             (long long)attrs);
  for (int64_t i = 0; i < attrs; i++) out->attrs[i] = at[i];
  out->kernel = (int32_t)kernel;
  out->call = {out->views, out->views + inputs, out->attrs, (int32_t)inputs, (int32_t)outputs, (int32_t)attrs};
  return OG_OK;
}

}  // namespace og
