/**
 * Activations and their gradients, one pass over memory each: gelu, gelu_backward, silu, silu_backward,
 * sigmoid_backward, tanh_backward (these two take the forward result y), relu_backward (x or y).
 * Layout: operands of one shape, any strides, see elementwise.h. float32, float16, bfloat16 compute in float, float64
 * in double on `reference`. gelu: attribute 0 is 0 for x·Φ(x), 1 for the tanh form (Hendrycks and Gimelshein 2016,
 * arXiv:1606.08415), computed as x/(1 + e^-2u), u = √(2/π)(x + 0.044715x³): one exponential and one division. The
 * gradient of the exact form needs Φ and φ, which share their exponential (math.h: normal). Error: at most 4 ulp of the
 * result plus 1e-7·|x|. NaN passes through; ±∞ follow the formula, as in PyTorch.
 */
#include "activation_functions.h"
#include "elementwise.h"

namespace og {
namespace OG_ISA {
namespace {

/** σ(x) and σ(x)·(1 − σ(x)), the latter without the cancellation of 1 − σ. */
struct Logistic {
  Number value, slope;
};
OG_BODY Logistic logistic_pair(Number x) {
  const Number t = exponential_nonpositive(-magnitude(x));
  const Number high = number(1.0) / (number(1.0) + t), low = t * high;
  return {pick(x < number(0.0), low, high), low * high};
}

struct GeluExactBackward {
  OG_BODY Number operator()(Number x, Number grad) const {
    const auto n = normal_of(x);
    return grad * (n.cdf + x * n.density);
  }
};
/**
 * d/dx x·σ(v) = σ(v) + x·v'·σ(v)·(1 − σ(v)), v = 2u. Beyond ±10 as at ±10, where it is 0 or 1 but for 3e-36; so neither
 * v' nor 1/σ = 1 + e^-v overflows.
 */
struct GeluTanhBackward {
  OG_BODY Number operator()(Number x_any, Number grad) const {
    const Number x = limited(x_any, number(10.0)), square = x * x;
    const Number rate = x * (number(1.5957691216057308) + number(0.21406444881780076) * square);
    const Number t = exp_scaled(gelu_exponent(x, square)), value = number(1.0) / (number(1.0) + t);
    return grad * (value + rate * (value * (t * value)));
  }
};
struct SiluBackward {
  OG_BODY Number operator()(Number x, Number grad) const {
    const Logistic s = logistic_pair(x);
    return grad * (s.value + x * s.slope);
  }
};
struct SigmoidBackward {
  OG_BODY Number operator()(Number y, Number grad) const { return grad * ((number(1.0) - y) * y); }
};
struct TanhBackward {
  OG_BODY Number operator()(Number y, Number grad) const { return grad * (number(1.0) - y * y); }
};
/** Only x ≤ 0 blocks the gradient, so that NaN lets it pass, as PyTorch's threshold_backward. */
struct ReluBackward {
  OG_BODY Number operator()(Number x, Number grad) const { return pick(x <= number(0.0), number(0.0), grad); }
};

template <class F>
int32_t map1(const og_call* call, const F& f) {
  const og_view* const inputs[1] = {&call->inputs[0]};
  OG_SUPPORTED(dtype_is_float(inputs[0]->dtype) && dtype_is_float(call->outputs[0].dtype),
               "activation: expected floats");
  return with_float_compute(inputs[0]->dtype, [&](auto type) {
    typedef decltype(type) C;
    return map_blocks<C>(inputs, call->outputs[0], [&](const C* const* in, C* out, int64_t n) {
#ifdef OG_IS_REFERENCE
      run1(in[0], out, n, [&](C x) { return (C)f((double)x); });
#else
      vectors1(in[0], out, n, f);
#endif
    });
  });
}

template <class F>
int32_t map2(const og_call* call, const F& f) {
  const og_view* const inputs[2] = {&call->inputs[0], &call->inputs[1]};
  OG_SUPPORTED(
      dtype_is_float(inputs[0]->dtype) && dtype_is_float(inputs[1]->dtype) && dtype_is_float(call->outputs[0].dtype),
      "activation: expected floats");
  return with_float_compute(inputs[0]->dtype, [&](auto type) {
    typedef decltype(type) C;
    return map_blocks<C>(inputs, call->outputs[0], [&](const C* const* in, C* out, int64_t n) {
#ifdef OG_IS_REFERENCE
      run2(in[0], in[1], out, n, [&](C a, C b) { return (C)f((double)a, (double)b); });
#else
      vectors2(in[0], in[1], out, n, f);
#endif
    });
  });
}

}  // namespace

int32_t kernel_gelu(const og_call* call) {
  return call->attrs[0] != 0 ? map1(call, GeluTanh{}) : map1(call, GeluExact{});
}
int32_t kernel_gelu_backward(const og_call* call) {
  return call->attrs[0] != 0 ? map2(call, GeluTanhBackward{}) : map2(call, GeluExactBackward{});
}
int32_t kernel_silu(const og_call* call) { return map1(call, Silu{}); }
int32_t kernel_silu_backward(const og_call* call) { return map2(call, SiluBackward{}); }
int32_t kernel_sigmoid_backward(const og_call* call) { return map2(call, SigmoidBackward{}); }
int32_t kernel_tanh_backward(const og_call* call) { return map2(call, TanhBackward{}); }
int32_t kernel_relu_backward(const og_call* call) { return map2(call, ReluBackward{}); }

}  // namespace OG_ISA
}  // namespace og
