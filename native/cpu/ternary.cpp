/**
 * where: condition ? a : b, element by element. a, b and the output share one dtype and are moved as bits, so NaN
 * payloads and 64-bit integers survive; the condition is bool. Any strides (broadcasting is a stride of zero); no
 * arithmetic. Parallel split: by blocks of the element count. The output may be a or b itself.
 */
#include "elementwise.h"

namespace og {
namespace OG_ISA {
namespace {

template <class T>
const T* stage_bits(const Loop<4>& loop, int k, const og_view& view, int64_t begin, int64_t n, T* buffer) {
  if (loop.linear(k)) return data_of<const T>(view) + begin;
  T* to = buffer;
  loop.lines(k, begin, n, [&](int64_t offset, int64_t length, int64_t stride) {
    load_run(data_of<const T>(view) + offset, stride, length, to);
    to += length;
  });
  return buffer;
}

template <class T>
void select_bits(const og_view& condition, const og_view& a, const og_view& b, const og_view& out) {
  const og_view* const views[4] = {&out, &condition, &a, &b};
  const Loop<4> loop(views);
  const bool direct = loop.linear(0);
  parallel_ranges(loop.count, kBlock * kBlocksPerChunk, [&](int64_t begin, int64_t end) {
    alignas(64) uint8_t flags[kBlock];
    alignas(64) T buffers[3][kBlock];
    for (int64_t at = begin; at < end; at += kBlock) {
      const int64_t n = end - at < kBlock ? end - at : kBlock;
      const uint8_t* c = stage_bits<uint8_t>(loop, 1, condition, at, n, flags);
      const T* yes = stage_bits<T>(loop, 2, a, at, n, buffers[1]);
      const T* no = stage_bits<T>(loop, 3, b, at, n, buffers[2]);
      T* to = direct ? data_of<T>(out) + at : buffers[0];
      for (int64_t i = 0; i < n; i++) {
        const T mask = (T)(0 - (T)(c[i] != 0));
        to[i] = (T)((yes[i] & mask) | (no[i] & (T)~mask));
      }
      if (direct) continue;
      const T* from = to;
      loop.lines(0, at, n, [&](int64_t offset, int64_t length, int64_t stride) {
        store_run(from, length, data_of<T>(out) + offset, stride);
        from += length;
      });
    }
  });
}

}  // namespace

int32_t kernel_where(const og_call* call) {
  const og_view &condition = call->inputs[0], &a = call->inputs[1], &b = call->inputs[2], &out = call->outputs[0];
  OG_REQUIRE(same_shape(condition, out) && same_shape(a, out) && same_shape(b, out), "where: operands differ in shape");
  OG_REQUIRE(a.dtype == out.dtype && b.dtype == out.dtype, "where: a, b and the output differ in dtype");
  OG_REQUIRE(condition.dtype == OG_BOOL || condition.dtype == OG_U8, "where: the condition must be bool");
  switch (dtype_size(out.dtype)) {
    case 8:
      select_bits<uint64_t>(condition, a, b, out);
      break;
    case 4:
      select_bits<uint32_t>(condition, a, b, out);
      break;
    case 2:
      select_bits<uint16_t>(condition, a, b, out);
      break;
    default:
      select_bits<uint8_t>(condition, a, b, out);
  }
  return OG_OK;
}

}  // namespace OG_ISA
}  // namespace og
