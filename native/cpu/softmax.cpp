/**
 * softmax, log_softmax, logsumexp along the last axis, and the gradients of the first two from their results.
 * Layout: rows.h. Outputs have the shape of x (logsumexp: its leading axes); an output may be the input itself.
 * Algorithm: the row's maximum is subtracted first; logsumexp takes maximum and sum in one pass (Milakov and Gimelshein
 * 2018, arXiv:1805.02867), block by block. Accumulation: vectors of float over 2048 elements, double beyond.
 * Error: softmax at most 4 ulp plus 2 ulp·|x − max|, below e^-87.3 of the maximum 0; log_softmax and logsumexp 2 ulp of
 * the larger of result and |x|. A row that is all -∞, or holds +∞ or NaN, gives NaN; its logsumexp -∞, +∞, NaN.
 */
#include "rows.h"

namespace og {
namespace OG_ISA {
namespace {

#ifdef OG_IS_REFERENCE

template <class C>
void softmax_row(const C* x, C* y, int64_t n, const C*, C*) {
  const double sum = exp_row(x, row_max(x, n), y, n);
  for (int64_t i = 0; i < n; i++) y[i] = (C)((double)y[i] / sum);
}
template <class C>
void log_softmax_row(const C* x, C* y, int64_t n, const C*, C*) {
  const C m = row_max(x, n);
  const double log_sum = std::log(exp_sum(x, m, n));
  for (int64_t i = 0; i < n; i++) y[i] = (C)((double)x[i] - (double)m - log_sum);
}
template <class C>
void softmax_backward_row(const C* y, const C* grad, C* dx, int64_t n) {
  const double dot = dot_row(y, grad, n);
  for (int64_t i = 0; i < n; i++) dx[i] = (C)((double)y[i] * ((double)grad[i] - dot));
}
template <class C>
void log_softmax_backward_row(const C* y, const C* grad, C* dx, int64_t n) {
  const double sum = sum_row(grad, n);
  for (int64_t i = 0; i < n; i++) dx[i] = (C)((double)grad[i] - std::exp((double)y[i]) * sum);
}

#else

/** out[i] = f(loads at i), vector by vector, the tail through partial loads. */
template <class F>
OG_INLINE void write1(const float* a, float* out, int64_t n, const F& f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, f(load(a + i)));
  if (i < n) store_partial(out + i, f(load_partial(a + i, n - i)), n - i);
}
template <class F>
OG_INLINE void write2(const float* a, const float* b, float* out, int64_t n, const F& f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, f(load(a + i), load(b + i)));
  if (i < n) store_partial(out + i, f(load_partial(a + i, n - i), load_partial(b + i, n - i)), n - i);
}

/** Into y, or by way of y to `past`. */
void softmax_row(const float* x, float* y, int64_t n, const float* ahead, float* past) {
  const Vf scale = set1((float)(1. / exp_row(x, row_max(x, n), y, n, ahead)));
  if (past)
    stream_vectors(past, n, [&](int64_t i, auto get) { return get(y + i) * scale; });
  else
    write1(y, y, n, [&](Vf e) { return e * scale; });
}
void log_softmax_row(const float* x, float* y, int64_t n, const float* ahead, float* past) {
  const float m = row_max(x, n);
  const Vf shift = set1(m), log_sum = set1((float)std::log(exp_sum(x, m, n, ahead)));
  if (past)
    stream_vectors(past, n, [&](int64_t i, auto get) { return (get(x + i) - shift) - log_sum; });
  else
    write1(x, y, n, [&](Vf v) { return (v - shift) - log_sum; });
}
void softmax_backward_row(const float* y, const float* grad, float* dx, int64_t n) {
  const Vf dot = set1((float)dot_row(y, grad, n));
  write2(y, grad, dx, n, [&](Vf p, Vf g) { return p * (g - dot); });
}
void log_softmax_backward_row(const float* y, const float* grad, float* dx, int64_t n) {
  const Vf all = set1((float)sum_row(grad, n));
  write2(y, grad, dx, n, [&](Vf l, Vf g) { return g - exp(l) * all; });
}

#endif

template <int IN>
int32_t check(const char* name, const og_call* call) {
  const og_view& out = call->outputs[0];
  OG_REQUIRE(out.rank >= 1, "%s: expected at least one axis", name);
  OG_SUPPORTED(dtype_is_float(out.dtype), "%s: expected a float output", name);
  for (int i = 0; i < IN; i++) {
    OG_SUPPORTED(dtype_is_float(call->inputs[i].dtype), "%s: expected float inputs", name);
    OG_REQUIRE(same_shape(call->inputs[i], out), "%s: shapes differ", name);
  }
  return OG_OK;
}

/** Work of one element, in units of a plain load and store: exp costs a few. */
constexpr int64_t kExpWork = 3;

template <class Row>
int32_t rows1(const char* name, const og_call* call, const Row& row_function) {
  OG_TRY(check<1>(name, call));
  const og_view &x = call->inputs[0], &y = call->outputs[0];
  const int64_t n = y.shape[y.rank - 1];
  if (count_of(y) == 0) return OG_OK;
  return with_float_compute(x.dtype, [&](auto type) {
    typedef decltype(type) C;
    const Rows<C> from(x), to(y, true);
    const int64_t scratch = from.direct && to.direct ? 0 : padded(n);
    return parallel_rows<C>(leading_count(y), grain_for(n * kExpWork), scratch, name,
                            [&](int64_t begin, int64_t end, C* buffer) {
                              for (int64_t r = begin; r < end; r++) {
                                C* target = to.target(r, 0, buffer);
                                C* past = to.past ? to.past_row(r) : nullptr;
                                row_function(from.read(r, 0, n, buffer), target, n, from.ahead(r, end), past);
                                if (!past) to.commit(r, 0, n, target);
                              }
                            });
  });
}

template <class Row>
int32_t rows2(const char* name, const og_call* call, const Row& row_function) {
  OG_TRY(check<2>(name, call));
  const og_view &y = call->inputs[0], &grad = call->inputs[1], &dx = call->outputs[0];
  const int64_t n = dx.shape[dx.rank - 1];
  if (count_of(dx) == 0) return OG_OK;
  return with_float_compute(y.dtype, [&](auto type) {
    typedef decltype(type) C;
    const Rows<C> value(y), slope(grad), to(dx, true);
    const int64_t size = padded(n), scratch = value.direct && slope.direct && to.direct ? 0 : 2 * size;
    return parallel_rows<C>(
        leading_count(dx), grain_for(n * 2), scratch, name, [&](int64_t begin, int64_t end, C* buffer) {
          for (int64_t r = begin; r < end; r++) {
            C* target = to.target(r, 0, buffer);
            row_function(value.read(r, 0, n, buffer), slope.read(r, 0, n, scratch ? buffer + size : buffer), target, n);
            to.commit(r, 0, n, target);
          }
        });
  });
}

}  // namespace

int32_t kernel_softmax(const og_call* call) {
  return rows1("softmax", call,
               [](auto x, auto y, int64_t n, auto ahead, auto past) { softmax_row(x, y, n, ahead, past); });
}
int32_t kernel_log_softmax(const og_call* call) {
  return rows1("log_softmax", call,
               [](auto x, auto y, int64_t n, auto ahead, auto past) { log_softmax_row(x, y, n, ahead, past); });
}
int32_t kernel_softmax_backward(const og_call* call) {
  return rows2("softmax_backward", call,
               [](const auto* y, const auto* grad, auto* dx, int64_t n) { softmax_backward_row(y, grad, dx, n); });
}
int32_t kernel_log_softmax_backward(const og_call* call) {
  return rows2("log_softmax_backward", call,
               [](const auto* y, const auto* grad, auto* dx, int64_t n) { log_softmax_backward_row(y, grad, dx, n); });
}

int32_t kernel_logsumexp(const og_call* call) {
  const og_view &x = call->inputs[0], &out = call->outputs[0];
  OG_REQUIRE(x.rank >= 1 && is_leading_shape(out, x), "logsumexp: expected an output of the leading axes");
  OG_SUPPORTED(dtype_is_float(x.dtype) && dtype_is_float(out.dtype), "logsumexp: expected floats");
  const int64_t n = x.shape[x.rank - 1];
  return with_float_compute(x.dtype, [&](auto type) {
    typedef decltype(type) C;
    const Rows<C> from(x);
    const RowScalars<C> to(out);
    parallel_ranges(leading_count(x), grain_for(n * kExpWork), [&](int64_t begin, int64_t end) {
      alignas(64) C buffer[kSumBlock];
      for (int64_t r = begin; r < end; r++) {
        OnlineSum<C> total;
        bool nan = false;
        for (int64_t at = 0; at < n; at += kSumBlock) {
          const int64_t count = n - at < kSumBlock ? n - at : kSumBlock;
          const C* block = from.read(r, at, count, buffer);
          total.add(block, count);
          if (total.shift ==
              std::numeric_limits<C>::infinity())  // the sum is NaN now; only a NaN in the row makes the result so
            for (int64_t i = 0; i < count; i++) nan = nan || block[i] != block[i];
          else
            nan = total.sum != total.sum;
        }
        to.set(r, total.shift == std::numeric_limits<C>::infinity() && !nan ? total.shift : (C)total.value());
      }
    });
    return (int32_t)OG_OK;
  });
}

}  // namespace OG_ISA
}  // namespace og
