/**
 * softmax, log_softmax, logsumexp along the last axis, and the gradients of the first two from their results.
 * Layout: rows.h. Outputs have the shape of x (logsumexp: its leading axes); an output may be the input itself.
 * Algorithm: the largest element so far is subtracted block by block, so that maximum and sum take one pass (Milakov
 * and Gimelshein 2018, arXiv:1805.02867); the second pass of a row runs during the first of the next (rows_in_turn.h).
 * Accumulation: vectors of float over 2048 elements, double beyond. Error: softmax at most 4 ulp plus 2 ulp·|x − max|,
 * 0 below e^-87.3 of the largest element so far; log_softmax and logsumexp 2 ulp of the larger of result and |x|. A row
 * that is all -∞, or holds +∞ or NaN, gives NaN; its logsumexp -∞, +∞, NaN.
 */
#include "rows_in_turn.h"

namespace og {
namespace OG_ISA {
namespace {

constexpr int64_t kPage = 4096;

/** Scratch of a chunk: numbers of a row's blocks, and a row, which may begin anywhere in a page. */
template <class C>
int64_t rows_memory(const Rows<C>& from, const Rows<C>& to, int64_t n) {
  const bool is_row_kept = are_in_turn(from, to, n) || !from.direct || !to.direct;
  return padded(n / kSumBlock + 1) + (is_row_kept ? padded(n) + kPage / (int64_t)sizeof(C) : 0);
}

#ifdef OG_IS_REFERENCE

struct Softmax {
  template <class C>
  static void row(const C* x, C* y, int64_t n) {
    const double m = (double)row_max(x, n);
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
      const double e = std::exp((double)x[i] - m);
      y[i] = (C)e;
      sum += e;
    }
    for (int64_t i = 0; i < n; i++) y[i] = (C)((double)y[i] / sum);
  }
};
struct LogSoftmax {
  template <class C>
  static void row(const C* x, C* y, int64_t n) {
    const C m = row_max(x, n);
    const double log_sum = std::log(exp_sum(x, m, n));
    for (int64_t i = 0; i < n; i++) y[i] = (C)((double)x[i] - (double)m - log_sum);
  }
};
template <class Op, class C>
void compute_rows(const Rows<C>& from, const Rows<C>& to, int64_t n, int64_t begin, int64_t end, C* buffer) {
  for (int64_t r = begin; r < end; r++) {
    C* target = to.target(r, 0, buffer);
    Op::row(from.read(r, 0, n, buffer), target, n);
    to.commit(r, 0, n, target);
  }
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
OG_INLINE void write2(const float* a, const float* b, float* out, int64_t n, const F& f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, f(load(a + i), load(b + i)));
  if (i < n) store_partial(out + i, f(load_partial(a + i, n - i), load_partial(b + i, n - i)), n - i);
}

/** Σ e^{x − shift} of a row that comes in blocks; the shift is the largest element so far. */
struct RisingSum {
  float shift = -__builtin_inff();
  double sum = 0;

  /** What is to be subtracted from a block with this largest element. */
  float meet(float largest) {
    if (largest > shift) {
      if (sum != 0) sum *= std::exp((double)shift - (double)largest);
      shift = largest;
    }
    return shift == -__builtin_inff() ? 0.f : shift;
  }
};

/** The first pass leaves e^{x − shift} and the shift of each block, the second brings all to one shift and sum. */
struct Softmax {
  float *kept, *factors;  // of the row whose second pass is due
  RisingSum total;

  auto second(int64_t at) const {
    const float* e = kept + at;
    const Vf factor = set1(factors[at / kSumBlock]);
    return [=](int64_t i, auto access) { return access(e + i) * factor; };
  }
  template <bool kPast>
  void block(const float* x, int64_t at, int64_t n, const float* ahead, float* to) {
    const auto before = second(at);
    const Vf shift = set1(total.meet(row_max(x, n)));
    factors[at / kSumBlock] = total.shift;
    float* e = kept + at;
    total.sum += (double)sum(block_in_turn<kPast>(
        n, ahead, to, [&](int64_t i, auto access) { return exp_difference(access(x + i) - shift); },
        [&](int64_t i, Vf v, auto access) { access(e + i, v); }, before));
  }
  void use(float* row, float* numbers) {
    kept = row;
    factors = numbers;
  }
  void close(const float*, int64_t n) {
    for (int64_t b = 0; b * kSumBlock < n; b++) {
      const float shift = factors[b];
      double scale = 0;  // a block without a number gave 0
      if (shift == total.shift)
        scale = 1;
      else if (shift != -__builtin_inff())
        scale = std::exp((double)shift - (double)total.shift);
      factors[b] = (float)(scale / total.sum);
    }
    total = {};
  }
};

struct LogSoftmax {
  const float* row = nullptr;
  float shift = 0, log_sum = 0;  // of the row whose second pass is due
  RisingSum total;

  auto second(int64_t at) const {
    const float* x = row ? row + at : nullptr;
    const Vf m = set1(shift), l = set1(log_sum);
    return [=](int64_t i, auto access) { return (access(x + i) - m) - l; };
  }
  template <bool kPast>
  void block(const float* x, int64_t at, int64_t n, const float* ahead, float* to) {
    const Vf base = set1(total.meet(row_max(x, n)));
    total.sum += (double)sum(block_in_turn<kPast>(
        n, ahead, to, [&](int64_t i, auto access) { return exp_difference(access(x + i) - base); },
        [](int64_t, Vf, auto) {}, second(at)));
  }
  void use(float*, float*) {}
  void close(const float* x, int64_t) {
    row = x;
    shift = total.shift;
    log_sum = (float)std::log(total.sum);
    total = {};
  }
};
/** The first place in `memory` that lies half a page from x: loads wait for stores to the same place of another page.
 */
inline float* apart(float* memory, const float* x) {
  const uintptr_t wanted = (uintptr_t)x + kPage / 2 - (uintptr_t)memory;
  return memory + wanted % kPage / kStreamLine * (kStreamLine / 4);
}

template <class Op>
void compute_rows(const Rows<float>& from, const Rows<float>& to, int64_t n, int64_t begin, int64_t end,
                  float* memory) {
  Op op{};
  float* buffer = memory + padded(n / kSumBlock + 1);
  if (are_in_turn(from, to, n)) {
    op.use(apart(buffer, from.read(begin, 0, n, nullptr)), memory);
    if (to.past)
      rows_in_turn<true>(from, to, n, begin, end, op);
    else
      rows_in_turn<false>(from, to, n, begin, end, op);
    return;
  }
  for (int64_t r = begin; r < end; r++) {
    float* target = to.target(r, 0, buffer);
    op.use(target, memory);
    row_alone(from.read(r, 0, n, buffer), target, n, op);
    to.commit(r, 0, n, target);
  }
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

template <class Op>
int32_t rows1(const char* name, const og_call* call) {
  OG_TRY(check<1>(name, call));
  const og_view &x = call->inputs[0], &y = call->outputs[0];
  const int64_t n = y.shape[y.rank - 1], rows = leading_count(y);
  if (count_of(y) == 0) return OG_OK;
  return with_float_compute(x.dtype, [&](auto type) {
    typedef decltype(type) C;
    const Rows<C> from(x), to(y, true, kTurnRow);
    return parallel_rows<C>(
        rows, grain_in_turn(rows, n * kExpWork), rows_memory(from, to, n), name,
        [&](int64_t begin, int64_t end, C* memory) { compute_rows<Op>(from, to, n, begin, end, memory); });
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

int32_t kernel_softmax(const og_call* call) { return rows1<Softmax>("softmax", call); }
int32_t kernel_log_softmax(const og_call* call) { return rows1<LogSoftmax>("log_softmax", call); }
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
