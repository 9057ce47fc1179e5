/**
 * rope: rotary position embedding (RoFormer, arXiv 2104.09864). Pairs of elements of each row are turned by an angle
 * given by its cosine and sine: (a, b) → (a·cos - b·sin, b·cos + a·sin).
 *
 * Layouts: x [B, H, T, D], cos and sin [B, H, T, R/2] (usually stride 0 along B and H) → y shaped as x. Attributes:
 * interleaved (1: pairs are (x[2i], x[2i+1]); 0: (x[i], x[i + R/2])), inverse (1: turn back, which is the gradient).
 * Elements from R on are copied. Any strides; y may be x itself.
 *
 * Numerics: float32 (float64 in `reference`), one rounding per product and sum. Parallel split: by rows.
 */
#include "../core/parallel.h"
#include "../core/status.h"
#include "../core/view.h"
#include "stage.h"

namespace og {
namespace OG_ISA {
namespace {

constexpr int64_t kPairs = 128;  // pairs staged at a time

/** n pairs in place. */
template <class C>
void rotate(C* a, C* b, const C* cosine, const C* sine, C sign, int64_t n) {
  int64_t i = 0;
#ifndef OG_IS_REFERENCE
  for (; i + kLanes <= n; i += kLanes) {
    const Vf x = load(a + i), y = load(b + i), c = load(cosine + i), s = load(sine + i) * sign;
    store(a + i, x * c - y * s);
    store(b + i, y * c + x * s);
  }
#endif
  for (; i < n; i++) {
    const C x = a[i], y = b[i], s = sine[i] * sign;
    a[i] = x * cosine[i] - y * s;
    b[i] = y * cosine[i] + x * s;
  }
}

/** One row at element offsets x_at and y_at; cos and sin at c_at and s_at. */
template <class C>
void rope_row(const og_call* call, int64_t x_at, int64_t y_at, int64_t c_at, int64_t s_at) {
  const og_view &x = call->inputs[0], &cosine = call->inputs[1], &sine = call->inputs[2], &y = call->outputs[0];
  const bool interleaved = call->attrs[0] != 0;
  const C sign = call->attrs[1] != 0 ? C(-1) : C(1);
  const int64_t pairs = cosine.shape[3], width = x.shape[3];
  const int64_t xs = x.strides[3], ys = y.strides[3], cs = cosine.strides[3], ss = sine.strides[3];
  const int64_t step = interleaved ? 2 : 1, apart = interleaved ? 1 : pairs;
  alignas(64) C a[kPairs], b[kPairs], c[kPairs], s[kPairs];
  for (int64_t i = 0; i < pairs; i += kPairs) {
    const int64_t n = pairs - i < kPairs ? pairs - i : kPairs;
    read_run(x, x_at + i * step * xs, step * xs, n, a);
    read_run(x, x_at + (i * step + apart) * xs, step * xs, n, b);
    read_run(cosine, c_at + i * cs, cs, n, c);
    read_run(sine, s_at + i * ss, ss, n, s);
    rotate(a, b, c, s, sign, n);
    write_run(y, y_at + i * step * ys, step * ys, n, a);
    write_run(y, y_at + (i * step + apart) * ys, step * ys, n, b);
  }
  if (x.data == y.data && x_at == y_at && xs == ys) return;
  for (int64_t d = 2 * pairs; d < width; d += kPairs) {
    const int64_t n = width - d < kPairs ? width - d : kPairs;
    read_run(x, x_at + d * xs, xs, n, a);
    write_run(y, y_at + d * ys, ys, n, a);
  }
}

}  // namespace

int32_t kernel_rope(const og_call* call) {
  const og_view &x = call->inputs[0], &cosine = call->inputs[1], &sine = call->inputs[2], &y = call->outputs[0];
  OG_REQUIRE(x.rank == 4 && same_shape(x, y), "rope: x and y must have one shape of rank 4");
  OG_REQUIRE(cosine.rank == 4 && same_shape(cosine, sine), "rope: cos and sin must have one shape of rank 4");
  for (int i = 0; i < 3; i++) OG_REQUIRE(cosine.shape[i] == x.shape[i], "rope: cos differs from x in a leading axis");
  OG_REQUIRE(2 * cosine.shape[3] <= x.shape[3], "rope: more angles than pairs");
  bool wide = y.dtype == OG_F64;
  for (int i = 0; i < 3; i++) {
    OG_SUPPORTED(dtype_is_float(call->inputs[i].dtype), "rope: operands must have a float dtype");
    wide |= call->inputs[i].dtype == OG_F64;
  }
  OG_SUPPORTED(dtype_is_float(y.dtype), "rope: operands must have a float dtype");
  return with_float_compute(wide ? OG_F64 : OG_F32, [&](auto type) {
    typedef decltype(type) C;
    const int64_t heads = x.shape[1], length = x.shape[2];
    parallel_ranges(x.shape[0] * heads * length, grain_for(x.shape[3]), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; row++) {
        const int64_t t = row % length, h = row / length % heads, b = row / length / heads;
        const auto at = [&](const og_view& v) { return b * v.strides[0] + h * v.strides[1] + t * v.strides[2]; };
        rope_row<C>(call, at(x), at(y), at(cosine), at(sine));
      }
    });
    return (int32_t)OG_OK;
  });
}

}  // namespace OG_ISA
}  // namespace og
