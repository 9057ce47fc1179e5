/**
 * Optimiser steps in place, every byte read and written once; sum_squares for the gradient norm, scale_ for clipping,
 * lerp_ for moving averages. Attributes in order; grad_scale (loss scaling) and the operand `factor` (clipping; a float
 * scalar or absent) multiply the gradient first.
 *   adamw_step  factor, up to 5 grads → as many params, then exp_avgs, then exp_avg_sqs, missing ones at the end
 *               absent; lr, beta1, beta2, eps, weight_decay, bias_correction1, bias_correction2, grad_scale, decoupled
 *               (1 AdamW, Loshchilov and Hutter 2019, arXiv:1711.05101; 0 Adam, the decay joins the gradient).
 *               bias_correction = 1 − beta^t. Tensors of one call share them: many small ones cost one hand-over.
 *   sgd_step    grad, factor → param, momentum buffer (absent if momentum is 0); lr, momentum, dampening, nesterov,
 *               weight_decay, first (1: the buffer starts as the gradient), grad_scale
 *   lion_step   grad, factor → param, exp_avg; lr, beta1, beta2, weight_decay, grad_scale (Chen et al. 2023,
 *               arXiv:2302.06675)
 *   sum_squares up to 16 tensors, missing ones absent → float scalar Σ x² over all of them
 *   scale_      factor → out ·= factor; memory is not touched if the factor is 1
 *   lerp_       x → out += weight·(x − out); weight
 * The order of operations is that of torch.optim. Layout: one shape, any strides (elementwise.h); param and grad any
 * float dtype, state float32 or float64. Arithmetic in float (float64: double): each result within 3 ulp of its
 * operands' size. Parallel split: by blocks; sum_squares adds float vectors over 1024 elements and doubles beyond, in
 * fixed order, and NaN and ∞ reach the result.
 */
#include "../core/scratch.h"
#include "elementwise.h"
#ifndef OG_IS_REFERENCE
#include "math.h"
#endif

namespace og {
namespace OG_ISA {
namespace {

#ifdef OG_IS_REFERENCE
typedef double Scalar;
typedef double Number;
#define OG_STEP inline
inline double multiply_add(double a, double b, double c) { return a * b + c; }
inline double splat(double x) { return x; }
inline double root(double x) { return std::sqrt(x); }
inline double sign(double x) { return x > 0 ? 1 : x < 0 ? -1 : x; }
#else
typedef float Scalar;
typedef Vf Number;
#define OG_STEP OG_INLINE
OG_INLINE Vf multiply_add(Vf a, Vf b, Vf c) { return fma(a, b, c); }
OG_INLINE Vf splat(float x) { return set1(x); }
OG_INLINE Vf root(Vf x) { return sqrt(x); }
OG_INLINE Vf sign(Vf x) { return select(x > 0.f, set1(1.f), select(x < 0.f, set1(-1.f), x)); }
#endif

/** f(x, g) changes the N numbers x in place; the tail goes through partial vectors. */
template <int N, class C, class F>
void step_run(C* const* state, const C* grad, int64_t n, const F& f) {
#ifdef OG_IS_REFERENCE
  for (int64_t i = 0; i < n; i++) {
    double x[N];
    for (int k = 0; k < N; k++) x[k] = (double)state[k][i];
    f(x, (double)grad[i]);
    for (int k = 0; k < N; k++) state[k][i] = (C)x[k];
  }
#else
  constexpr int64_t line = 16, ahead = 64;  // numbers; hardware fetches ahead up to the end of a page only
  const auto step = [&](int64_t i) __attribute__((always_inline)) {
    Vf x[N];
    for (int k = 0; k < N; k++) x[k] = load(state[k] + i);
    f(x, load(grad + i));
    for (int k = 0; k < N; k++) store(state[k] + i, x[k]);
  };
  int64_t i = 0;
  for (; i + line <= n; i += line) {
    for (int k = 0; k < N; k++) prefetch(state[k] + i + ahead);
    prefetch(grad + i + ahead);
    for (int64_t j = i; j < i + line; j += kLanes) step(j);
  }
  for (; i + kLanes <= n; i += kLanes) step(i);
  if (i < n) {
    Vf x[N];
    for (int k = 0; k < N; k++) x[k] = load_partial(state[k] + i, n - i);
    f(x, load_partial(grad + i, n - i));
    for (int k = 0; k < N; k++) store_partial(state[k] + i, x[k], n - i);
  }
#endif
}

/** The operands of one updated tensor: N that change, and the gradient. */
template <int N>
struct Operands {
  const og_view* views[N + 1];
};

constexpr int64_t kChunk = kBlock * kBlocksPerChunk;

/** Elements [begin, end) of one tensor. */
template <int N, class F>
void step_range(const Operands<N>& operands, int64_t begin, int64_t end, const F& f) {
  const og_view* const(&views)[N + 1] = operands.views;
  with_float_compute(views[0]->dtype, [&](auto type) {
    typedef decltype(type) C;
    const Loop<N + 1> loop(views);
    bool direct[N];
    for (int k = 0; k < N; k++) direct[k] = is_native<C>(views[k]->dtype) && loop.linear(k);
    alignas(64) C buffers[N + 1][kBlock];
    for (int64_t at = begin; at < end; at += kBlock) {
      const int64_t n = end - at < kBlock ? end - at : kBlock;
      C* state[N];
      for (int k = 0; k < N; k++) state[k] = const_cast<C*>(stage_in<C>(loop, k, *views[k], at, n, buffers[k]));
      step_run<N>(state, stage_in<C>(loop, N, *views[N], at, n, buffers[N]), n, f);
      for (int k = 0; k < N; k++)
        if (!direct[k]) stage_out<C>(loop, k, *views[k], at, n, buffers[k]);
    }
    return (int32_t)OG_OK;
  });
}

/** Walks tensors one after another, all of them as one list of chunks. */
template <int N, class F>
int32_t step_all(const char* name, const Operands<N>* operands, int tensors, const F& f) {
  int64_t chunks[OG_MAX_VIEWS + 1] = {0};
  for (int t = 0; t < tensors; t++) {
    const og_view* const(&views)[N + 1] = operands[t].views;
    for (int k = 0; k <= N; k++) {
      OG_REQUIRE(same_shape(*views[k], *views[0]), "%s: shapes of parameter, state and gradient differ", name);
      OG_SUPPORTED(dtype_is_float(views[k]->dtype), "%s: expected float tensors", name);
    }
    chunks[t + 1] = chunks[t] + (count_of(*views[0]) + kChunk - 1) / kChunk;
  }
  parallel_for(chunks[tensors], [&](int64_t chunk) {
    int t = 0;
    while (chunk >= chunks[t + 1]) t++;
    const int64_t begin = (chunk - chunks[t]) * kChunk, count = count_of(*operands[t].views[0]);
    step_range<N>(operands[t], begin, begin + kChunk < count ? begin + kChunk : count, f);
  });
  return OG_OK;
}

/** One tensor: input 0 is the gradient. */
template <int N, class F>
int32_t step(const char* name, const og_call* call, const F& f) {
  Operands<N> operands;
  for (int k = 0; k < N; k++) operands.views[k] = &call->outputs[k];
  operands.views[N] = &call->inputs[0];
  return step_all<N>(name, &operands, 1, f);
}

/** What gradients are multiplied by first, 1 if absent. */
int32_t read_factor(const char* name, const og_view& view, double* out) {
  *out = 1;
  if (!is_present(view)) return OG_OK;
  OG_REQUIRE(count_of(view) == 1, "%s: expected a factor of one element", name);
  OG_SUPPORTED(view.dtype == OG_F32 || view.dtype == OG_F64, "%s: expected a float32 or float64 factor", name);
  *out = view.dtype == OG_F64 ? *data_of<const double>(view) : (double)*data_of<const float>(view);
  return OG_OK;
}

/** x = param, exp_avg, exp_avg_sq. */
template <bool kDecoupled>
struct Adam {
  Scalar keep, decay, rate1, beta2, rate2, root_scale, eps, step_size, factor, grad_scale;

  OG_STEP void operator()(Number* x, Number g) const {
    g = g * factor * grad_scale;
    const Number p = kDecoupled ? x[0] * keep : x[0];
    if (!kDecoupled) g = multiply_add(splat(decay), p, g);
    x[1] = multiply_add(splat(rate1), g - x[1], x[1]);
    x[2] = multiply_add(g * rate2, g, x[2] * beta2);
    const Number denominator = multiply_add(root(x[2]), splat(root_scale), splat(eps));
    x[0] = p - x[1] * step_size / denominator;
  }
};

template <bool kNesterov, bool kFirst>
struct Momentum {
  Scalar lr, momentum, rate, decay, factor, grad_scale;

  OG_STEP void operator()(Number* x, Number g) const {
    g = multiply_add(splat(decay), x[0], g * factor * grad_scale);
    x[1] = kFirst ? g : multiply_add(splat(rate), g, x[1] * momentum);
    x[0] = x[0] - lr * (kNesterov ? multiply_add(splat(momentum), x[1], g) : x[1]);
  }
};

struct Descent {
  Scalar lr, decay, factor, grad_scale;

  OG_STEP void operator()(Number* x, Number g) const {
    x[0] = x[0] - lr * multiply_add(splat(decay), x[0], g * factor * grad_scale);
  }
};

struct Lion {
  Scalar keep, lr, rate1, rate2, factor, grad_scale;

  OG_STEP void operator()(Number* x, Number g) const {
    g = g * factor * grad_scale;
    const Number direction = sign(multiply_add(splat(rate1), g - x[1], x[1]));
    x[0] = x[0] * keep - lr * direction;
    x[1] = multiply_add(splat(rate2), g - x[1], x[1]);
  }
};

/** From the nearer end, as torch.lerp, so that a weight of 1 gives exactly x. */
template <bool kNear>
struct Lerp {
  Scalar weight, rest;

  OG_STEP void operator()(Number* out, Number x) const {
    const Number difference = x - out[0];
    out[0] = kNear ? multiply_add(difference, splat(weight), out[0]) : x - difference * rest;
  }
};

struct Scale {
  Scalar factor;

  OG_STEP void operator()(Number* out, Number) const { out[0] = out[0] * factor; }
};

#ifdef OG_IS_REFERENCE
template <class C>
double squares(const C* x, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
  return sum;
}
#else
double squares(const float* x, int64_t n) {
  Vf s[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
    for (int k = 0; k < 4; k++) {
      const Vf v = load(x + i + k * kLanes);
      s[k] = fma(v, v, s[k]);
    }
  for (; i < n; i += kLanes) {
    const Vf v = n - i < kLanes ? load_partial(x + i, n - i) : load(x + i);
    s[0] = fma(v, v, s[0]);
  }
  return sum((s[0] + s[1]) + (s[2] + s[3]));
}
#endif

double squares_range(const og_view& x, int64_t begin, int64_t end) {
  double sum = 0;
  with_float_compute(x.dtype, [&](auto type) {
    typedef decltype(type) C;
    const og_view* const views[1] = {&x};
    const Loop<1> loop(views);
    alignas(64) C buffer[kBlock];
    for (int64_t at = begin; at < end; at += kBlock) {
      const int64_t n = end - at < kBlock ? end - at : kBlock;
      sum += squares(stage_in<C>(loop, 0, x, at, n, buffer), n);
    }
    return (int32_t)OG_OK;
  });
  return sum;
}

constexpr int kAdamTensors = 5, kSquaresTensors = 16;

}  // namespace

int32_t kernel_adamw_step(const og_call* call) {
  const double* a = call->attrs;
  const double lr = a[0], decay = a[4];
  double factor;
  OG_TRY(read_factor("adamw_step", call->inputs[0], &factor));
  Operands<3> operands[kAdamTensors];
  int tensors = 0;
  for (int t = 0; t < kAdamTensors; t++) {
    const og_view &grad = call->inputs[1 + t], *param = &call->outputs[t];
    const bool is = is_present(grad);
    for (int k = 0; k < 3; k++)
      OG_REQUIRE(is_present(param[k * kAdamTensors]) == is, "adamw_step: tensor %d lacks an operand", t);
    if (!is) continue;
    operands[tensors++] = {{param, param + kAdamTensors, param + 2 * kAdamTensors, &grad}};
  }
  const auto run = [&](auto rule) {
    rule.keep = (Scalar)(1 - lr * decay);
    rule.decay = (Scalar)decay;
    rule.rate1 = (Scalar)(1 - a[1]);
    rule.beta2 = (Scalar)a[2];
    rule.rate2 = (Scalar)(1 - a[2]);
    rule.root_scale = (Scalar)(1 / std::sqrt(a[6]));
    rule.eps = (Scalar)a[3];
    rule.step_size = (Scalar)(lr / a[5]);
    rule.factor = (Scalar)factor;
    rule.grad_scale = (Scalar)a[7];
    return step_all<3>("adamw_step", operands, tensors, rule);
  };
  return a[8] != 0 ? run(Adam<true>{}) : run(Adam<false>{});
}

int32_t kernel_sgd_step(const og_call* call) {
  const double* a = call->attrs;
  const Scalar lr = (Scalar)a[0], decay = (Scalar)a[4], grad_scale = (Scalar)a[6];
  double factor;
  OG_TRY(read_factor("sgd_step", call->inputs[1], &factor));
  if (!is_present(call->outputs[1])) {
    OG_REQUIRE(a[1] == 0, "sgd_step: momentum needs a buffer");
    return step<1>("sgd_step", call, Descent{lr, decay, (Scalar)factor, grad_scale});
  }
  const auto run = [&](auto rule) {
    rule.lr = lr;
    rule.momentum = (Scalar)a[1];
    rule.rate = (Scalar)(1 - a[2]);
    rule.decay = decay;
    rule.factor = (Scalar)factor;
    rule.grad_scale = grad_scale;
    return step<2>("sgd_step", call, rule);
  };
  const bool nesterov = a[3] != 0, first = a[5] != 0;
  if (nesterov) return first ? run(Momentum<true, true>{}) : run(Momentum<true, false>{});
  return first ? run(Momentum<false, true>{}) : run(Momentum<false, false>{});
}

int32_t kernel_lion_step(const og_call* call) {
  const double* a = call->attrs;
  double factor;
  OG_TRY(read_factor("lion_step", call->inputs[1], &factor));
  Lion rule;
  rule.keep = (Scalar)(1 - a[0] * a[3]);
  rule.lr = (Scalar)a[0];
  rule.rate1 = (Scalar)(1 - a[1]);
  rule.rate2 = (Scalar)(1 - a[2]);
  rule.factor = (Scalar)factor;
  rule.grad_scale = (Scalar)a[4];
  return step<2>("lion_step", call, rule);
}

int32_t kernel_lerp_(const og_call* call) {
  const double weight = call->attrs[0];
  if (std::fabs(weight) < 0.5) return step<1>("lerp_", call, Lerp<true>{(Scalar)weight, (Scalar)(1 - weight)});
  return step<1>("lerp_", call, Lerp<false>{(Scalar)weight, (Scalar)(1 - weight)});
}

int32_t kernel_scale_(const og_call* call) {
  double factor;
  OG_TRY(read_factor("scale_", call->inputs[0], &factor));
  const og_view& out = call->outputs[0];
  OG_SUPPORTED(dtype_is_float(out.dtype), "scale_: expected a float tensor");
  if (factor == 1) return OG_OK;
  const Operands<1> operands = {{&out, &out}};
  return step_all<1>("scale_", &operands, 1, Scale{(Scalar)factor});
}

int32_t kernel_sum_squares(const og_call* call) {
  const og_view& out = call->outputs[0];
  OG_REQUIRE(count_of(out) == 1, "sum_squares: expected one output element");
  OG_SUPPORTED(out.dtype == OG_F32 || out.dtype == OG_F64, "sum_squares: expected a float output");
  int64_t chunks[kSquaresTensors + 1] = {0};
  for (int t = 0; t < kSquaresTensors; t++) {
    const og_view& x = call->inputs[t];
    OG_SUPPORTED(!is_present(x) || dtype_is_float(x.dtype), "sum_squares: expected floats");
    chunks[t + 1] = chunks[t] + (is_present(x) ? (count_of(x) + kChunk - 1) / kChunk : 0);
  }
  const int64_t total = chunks[kSquaresTensors];
  ScratchFrame frame;
  double* partial = frame.take<double>(total > 0 ? total : 1);
  OG_SCRATCH(partial, "the partial sums of sum_squares");
  for (int64_t i = 0; i < total; i++) partial[i] = 0;
  parallel_for(total, [&](int64_t chunk) {
    int t = 0;
    while (chunk >= chunks[t + 1]) t++;
    const og_view& x = call->inputs[t];
    const int64_t begin = (chunk - chunks[t]) * kChunk, count = count_of(x);
    partial[chunk] = squares_range(x, begin, begin + kChunk < count ? begin + kChunk : count);
  });
  double sum = 0;
  for (int64_t i = 0; i < total; i++) sum += partial[i];
  if (out.dtype == OG_F64)
    *data_of<double>(out) = sum;
  else
    *data_of<float>(out) = (float)sum;
  return OG_OK;
}

}  // namespace OG_ISA
}  // namespace og
