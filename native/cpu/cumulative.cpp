/**
 * cumsum and cumprod over the last axis: y[…, j] = x[…, 0] ∘ … ∘ x[…, j].
 * Accumulation: double for floats (each result is rounded once to the output dtype, so |error| ≤ half an ulp plus
 * j·2^-53·Σ|x|), int64_t for integers, which wrap. Where another axis is the dense one, lines are taken kLines at a
 * time, so that whole cache lines are read. Sums of dense float32 lines are taken a vector at a time. Any strides; in
 * place is allowed. Parallel split: by lines; one line is sequential.
 */
#include <utility>

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

/** `count` lines that lie `step` apart; their elements are `stride` apart. */
struct Lines {
  void* data;
  int64_t stride, step;
};
typedef void (*Scan)(const Lines& from, const Lines& to, int64_t length, int64_t count);

template <class A, class S, class T, class R>
void scan(const Lines& from, const Lines& to, int64_t length, int64_t count) {
  const R rule{};
  const S* x = static_cast<const S*>(from.data);
  T* y = static_cast<T*>(to.data);
  if (count == 1) {
    A total = R::identity;
    for (int64_t j = 0; j < length; j++, x += from.stride, y += to.stride) {
      total = rule(total, widen<A>(*x));
      *y = Narrow<T, A>::from(total);
    }
    return;
  }
  A total[kLines];
  for (int64_t k = 0; k < count; k++) total[k] = R::identity;
  for (int64_t j = 0; j < length; j++, x += from.stride, y += to.stride) {
    for (int64_t k = 0; k < count; k++) {
      total[k] = rule(total[k], widen<A>(x[k * from.step]));
      y[k * to.step] = Narrow<T, A>::from(total[k]);
    }
  }
}

#ifndef OG_IS_REFERENCE

constexpr int kWide = kLanes / 2;
typedef double Vd __attribute__((vector_size(kWide * 8)));
typedef float Vh __attribute__((vector_size(kWide * 4)));

/** Lane i gets lane i - STEP, the first ones 0. */
template <int STEP, int... L>
OG_INLINE Vd moved_up(Vd v, std::integer_sequence<int, L...>) {
  return __builtin_shufflevector(v, Vd{}, (L < STEP ? kWide : L - STEP)...);
}
/** All lanes get the last one. */
template <int... L>
OG_INLINE Vd last_lane(Vd v, std::integer_sequence<int, L...>) {
  return __builtin_shufflevector(v, v, (L * 0 + kWide - 1)...);
}
template <int... L>
OG_INLINE Vd low_half(Vf v, std::integer_sequence<int, L...>) {
  return __builtin_convertvector((Vh)__builtin_shufflevector(v, v, L...), Vd);
}
template <int... L>
OG_INLINE Vd high_half(Vf v, std::integer_sequence<int, L...>) {
  return __builtin_convertvector((Vh)__builtin_shufflevector(v, v, (L + kWide)...), Vd);
}
template <int... L>
OG_INLINE Vf joined(Vd low, Vd high, std::integer_sequence<int, L...>) {
  return __builtin_shufflevector(__builtin_convertvector(low, Vh), __builtin_convertvector(high, Vh), L...);
}

/** Sums of the lanes up to each, in log2 rounds: the chain from vector to vector is one addition. */
OG_INLINE Vd prefix(Vd v) {
  constexpr auto lanes = std::make_integer_sequence<int, kWide>();
  v += moved_up<1>(v, lanes);
  if constexpr (kWide > 2) v += moved_up<2>(v, lanes);
  if constexpr (kWide > 4) v += moved_up<4>(v, lanes);
  return v;
}

OG_INLINE Vf sums_of(Vf x, Vd* total) {
  constexpr auto lanes = std::make_integer_sequence<int, kWide>();
  const Vd low = prefix(low_half(x, lanes)), high = prefix(high_half(x, lanes));
  const Vd middle = *total + last_lane(low, lanes);
  const Vf y = joined(*total + low, middle + high, std::make_integer_sequence<int, kLanes>());
  *total = middle + last_lane(high, lanes);
  return y;
}

/** One dense line; past the caches through a run in L1 where `past`. */
void sum_line(const float* from, float* to, int64_t length, bool past) {
  constexpr int64_t run = 1024;
  alignas(64) float buffer[run];
  Vd total{};
  for (int64_t at = 0; at < length; at += run) {
    const int64_t n = length - at < run ? length - at : run;
    const float* x = from + at;
    float* y = past ? buffer : to + at;
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store(y + i, sums_of(load(x + i), &total));
    if (i < n) store_partial(y + i, sums_of(load_partial(x + i, n - i), &total), n - i);
    if (past) stream_copy(buffer, to + at, n * 4);
  }
}

#endif

/** Not a template: the walk exists once, not once per rule and dtype. `sums`: scan adds up. */
void scan_all(Scan scan, bool sums, const og_view& x, const og_view& y) {
  const int last = x.rank - 1, second = last - 1;
  const int64_t length = x.shape[last];
  const bool together = second >= 0 && x.strides[last] != 1 && x.strides[second] == 1;
  const int64_t side = together ? x.shape[second] : 1, tiles = (side + kLines - 1) / kLines;
  const int outer_axes = together ? second : last;
  int64_t outer = 1;
  for (int i = 0; i < outer_axes; i++) outer *= x.shape[i];
  const bool past = is_beyond_caches(y) && x.data != y.data;
  const bool in_vectors = sums && x.dtype == OG_F32 && x.strides[last] == 1 && y.strides[last] == 1;
  (void)in_vectors;
  parallel_ranges(outer * tiles, grain_for(length * (side < kLines ? side : kLines)), [&](int64_t begin, int64_t end) {
    const StreamEnd streams{past};
    for (int64_t task = begin; task < end; task++) {
      const int64_t first = task % tiles * kLines, count = side - first < kLines ? side - first : kLines;
      const auto lines_of = [&](const og_view& v) {
        const int64_t step = together ? v.strides[second] : 0;
        const int64_t at = offset_of(v, task / tiles, outer_axes) + first * step;
        return Lines{data_of<char>(v) + at * dtype_size(v.dtype), v.strides[last], step};
      };
      const Lines from = lines_of(x), to = lines_of(y);
#ifndef OG_IS_REFERENCE
      if (in_vectors && count == 1) {
        sum_line(static_cast<const float*>(from.data), static_cast<float*>(to.data), length, past);
        continue;
      }
#endif
      scan(from, to, length, count);
    }
  });
}

template <class R>
int32_t cumulate(const og_call* call) {
  const og_view &x = call->inputs[0], &y = call->outputs[0];
  OG_REQUIRE(same_shape(x, y) && x.rank > 0, "cumulative: shapes differ, or there is no axis");
  if (count_of(x) == 0) return OG_OK;
  if (dtype_is_float(x.dtype)) {
    OG_REQUIRE(y.dtype == x.dtype, "cumulative: the dtypes of floats must agree");
  } else {
    OG_REQUIRE(y.dtype == x.dtype || y.dtype == OG_I64, "cumulative: integers give their own dtype or int64");
    OG_SUPPORTED(y.dtype != OG_BOOL, "cumulative: bool gives int64");
  }
  Scan found = nullptr;
  with_storage(x.dtype, [&](auto type) {
    typedef decltype(type) S;
    if constexpr (!std::is_integral<S>::value)
      found = scan<double, S, S, R>;
    else
      found = y.dtype == OG_I64 ? scan<int64_t, S, int64_t, R> : scan<int64_t, S, S, R>;
  });
  scan_all(found, std::is_same<R, Sum>::value, x, y);
  return OG_OK;
}

}  // namespace

int32_t kernel_cumsum(const og_call* call) { return cumulate<Sum>(call); }
int32_t kernel_cumprod(const og_call* call) { return cumulate<Product>(call); }

}  // namespace OG_ISA
}  // namespace og
