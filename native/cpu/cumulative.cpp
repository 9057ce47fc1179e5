/**
 * cumsum and cumprod over the last axis: y[…, j] = x[…, 0] ∘ … ∘ x[…, j].
 * Accumulation: double for floats (each result is rounded once to the output dtype, so |error| ≤ half an ulp plus
 * j·2^-53·Σ|x|), int64_t for integers, which wrap. Where another axis is the dense one, lines are taken kLines at a
 * time, so that whole cache lines are read. Any strides; in place is allowed. Parallel split: by lines; one line is
 * sequential.
 */
#include "elementwise.h"

namespace og {
namespace OG_ISA {
namespace {

constexpr int64_t kLines = 32;

struct Sum {
  static constexpr int identity = 0;
  double operator()(double a, double b) const { return a + b; }
  int64_t operator()(int64_t a, int64_t b) const { return (int64_t)((uint64_t)a + (uint64_t)b); }
};
struct Product {
  static constexpr int identity = 1;
  double operator()(double a, double b) const { return a * b; }
  int64_t operator()(int64_t a, int64_t b) const { return (int64_t)((uint64_t)a * (uint64_t)b); }
};

/** `count` lines that lie `step` apart; their elements are from_stride and to_stride apart. */
template <class A, class S, class T, class R>
void scan(const R& rule, const S* from, int64_t from_stride, int64_t from_step, T* to, int64_t to_stride,
          int64_t to_step, int64_t length, int64_t count) {
  A total[kLines];
  for (int64_t k = 0; k < count; k++) total[k] = R::identity;
  for (int64_t j = 0; j < length; j++) {
    const S* x = from + j * from_stride;
    T* y = to + j * to_stride;
    for (int64_t k = 0; k < count; k++) {
      total[k] = rule(total[k], widen<A>(x[k * from_step]));
      y[k * to_step] = Narrow<T, A>::from(total[k]);
    }
  }
}

template <class A, class S, class T, class R>
void scan_all(const R& rule, const og_view& x, const og_view& y) {
  const int last = x.rank - 1, second = last - 1;
  const int64_t length = x.shape[last];
  const bool together = second >= 0 && x.strides[last] != 1 && x.strides[second] == 1;
  const int64_t side = together ? x.shape[second] : 1, tiles = (side + kLines - 1) / kLines;
  const int outer_axes = together ? second : last;
  int64_t outer = 1;
  for (int i = 0; i < outer_axes; i++) outer *= x.shape[i];
  parallel_ranges(outer * tiles, grain_for(length * (side < kLines ? side : kLines)), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; task++) {
      const int64_t first = task % tiles * kLines, count = side - first < kLines ? side - first : kLines;
      const int64_t from_step = together ? x.strides[second] : 0, to_step = together ? y.strides[second] : 0;
      const S* from = data_of<const S>(x) + offset_of(x, task / tiles, outer_axes) + first * from_step;
      T* to = data_of<T>(y) + offset_of(y, task / tiles, outer_axes) + first * to_step;
      if (count == 1) {
        scan<A>(rule, from, x.strides[last], 0, to, y.strides[last], 0, length, 1);
      } else {
        scan<A>(rule, from, x.strides[last], from_step, to, y.strides[last], to_step, length, count);
      }
    }
  });
}

template <class R>
int32_t cumulate(const og_call* call, const R& rule) {
  const og_view &x = call->inputs[0], &y = call->outputs[0];
  OG_REQUIRE(same_shape(x, y) && x.rank > 0, "cumulative: shapes differ, or there is no axis");
  if (count_of(x) == 0) return OG_OK;
  if (dtype_is_float(x.dtype)) {
    OG_REQUIRE(y.dtype == x.dtype, "cumulative: the dtypes of floats must agree");
    with_storage(x.dtype, [&](auto type) {
      typedef decltype(type) T;
      if constexpr (!std::is_integral<T>::value) scan_all<double, T, T>(rule, x, y);
    });
    return OG_OK;
  }
  OG_REQUIRE(y.dtype == x.dtype || y.dtype == OG_I64, "cumulative: integers give their own dtype or int64");
  OG_SUPPORTED(y.dtype != OG_BOOL, "cumulative: bool gives int64");
  with_storage(x.dtype, [&](auto type) {
    typedef decltype(type) S;
    if constexpr (std::is_integral<S>::value) {
      if (y.dtype == OG_I64) {
        scan_all<int64_t, S, int64_t>(rule, x, y);
      } else {
        scan_all<int64_t, S, S>(rule, x, y);
      }
    }
  });
  return OG_OK;
}

}  // namespace

int32_t kernel_cumsum(const og_call* call) { return cumulate(call, Sum{}); }
int32_t kernel_cumprod(const og_call* call) { return cumulate(call, Product{}); }

}  // namespace OG_ISA
}  // namespace og
