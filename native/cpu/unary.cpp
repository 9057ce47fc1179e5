/**
 * Element-wise functions of one operand, and clamp.
 * Algorithm: exp, log, tanh, sigmoid and erf are the polynomials of math.h (bounds stated there); neg, abs, sign,
 * square, relu, reciprocal, rsqrt, sqrt and clamp are plain vector arithmetic; the rest goes through the C library,
 * whose float functions err by at most 2 ulp in glibc. Accumulation: none. rsqrt rounds twice (1 ulp). 16-bit floats
 * are computed in float32 and rounded once. float functions compute in the output's type, so an integer operand is
 * converted on the way; the others in the input's. Integers wrap. Parallel split: by blocks of the element count
 * (elementwise.h).
 */
#include "elementwise.h"
#ifndef OG_IS_REFERENCE
#include "math.h"
#endif

namespace og {
namespace OG_ISA {
namespace {

template <class C, class F>
int32_t map1(const og_call* call, const F& f) {
  const og_view* const inputs[1] = {&call->inputs[0]};
  return map_blocks<C>(inputs, call->outputs[0],
                       [&](const C* const* in, C* out, int64_t n) { run1(in[0], out, n, f); });
}

/** Functions that integers have too. */
template <class F>
int32_t unary(const og_call* call, const F& f) {
  return with_compute(call->inputs[0].dtype, [&](auto type) { return map1<decltype(type)>(call, f); });
}

int32_t check_float_output(const og_call* call) {
  OG_SUPPORTED(dtype_is_float(call->outputs[0].dtype), "the result of a transcendental function must be a float");
  return OG_OK;
}

/** Functions of real numbers, one element at a time. */
template <class F>
int32_t real(const og_call* call, const F& f) {
  OG_TRY(check_float_output(call));
  return with_float_compute(call->outputs[0].dtype, [&](auto type) { return map1<decltype(type)>(call, f); });
}

/** Functions of real numbers that also take vectors. */
template <class F>
int32_t vector_real(const og_call* call, const F& f) {
#ifdef OG_IS_REFERENCE
  return real(call, f);
#else
  OG_TRY(check_float_output(call));
  const og_view* const inputs[1] = {&call->inputs[0]};
  return map_blocks<float>(inputs, call->outputs[0],
                           [&](const float* const* in, float* out, int64_t n) { vectors1(in[0], out, n, f); });
#endif
}

#ifdef OG_IS_REFERENCE
#define OG_VECTOR_REAL(name, scalar, vector) \
  struct name {                              \
    template <class C>                       \
    C operator()(C x) const {                \
      return scalar;                         \
    }                                        \
  };
#else
#define OG_VECTOR_REAL(name, scalar, vector)               \
  struct name {                                            \
    OG_INLINE Vf operator()(Vf x) const { return vector; } \
  };
#endif
OG_VECTOR_REAL(Exp, std::exp(x), exp(x))
OG_VECTOR_REAL(Log, std::log(x), log(x))
OG_VECTOR_REAL(Tanh, std::tanh(x), tanh(x))
OG_VECTOR_REAL(Sigmoid, C(1) / (C(1) + std::exp(-x)), sigmoid(x))
OG_VECTOR_REAL(Erf, std::erf(x), erf(x))
OG_VECTOR_REAL(Sqrt, std::sqrt(x), sqrt(x))
OG_VECTOR_REAL(Rsqrt, C(1) / std::sqrt(x), 1.f / sqrt(x))
OG_VECTOR_REAL(Reciprocal, C(1) / x, 1.f / x)
#undef OG_VECTOR_REAL

#define OG_REAL(name, expression) \
  struct name {                   \
    template <class C>            \
    C operator()(C x) const {     \
      return expression;          \
    }                             \
  };
OG_REAL(Expm1, std::expm1(x))
OG_REAL(Log1p, std::log1p(x))
OG_REAL(Log2, std::log2(x))
OG_REAL(Sin, std::sin(x))
OG_REAL(Cos, std::cos(x))
OG_REAL(Tan, std::tan(x))
OG_REAL(Asin, std::asin(x))
OG_REAL(Acos, std::acos(x))
OG_REAL(Atan, std::atan(x))
OG_REAL(Sinh, std::sinh(x))
OG_REAL(Cosh, std::cosh(x))
OG_REAL(Erfc, std::erfc(x))
#undef OG_REAL

struct Neg {
  template <class C>
  C operator()(C x) const {
    return -x;
  }
  int64_t operator()(int64_t x) const { return (int64_t)(0 - (uint64_t)x); }
};
struct Abs {
  template <class C>
  C operator()(C x) const {
    return std::fabs(x);
  }
  int64_t operator()(int64_t x) const { return x < 0 ? (int64_t)(0 - (uint64_t)x) : x; }
};
/** -1, 0 or 1; NaN stays NaN. */
struct Sign {
  template <class C>
  C operator()(C x) const {
    return x > C(0) ? C(1) : x < C(0) ? C(-1) : x == C(0) ? C(0) : x;
  }
};
struct Square {
  template <class C>
  C operator()(C x) const {
    return x * x;
  }
  int64_t operator()(int64_t x) const { return (int64_t)((uint64_t)x * (uint64_t)x); }
};
struct Relu {
  template <class C>
  C operator()(C x) const {
    return x < C(0) ? C(0) : x;
  }
};

/** Steps leave integers as they are. */
#define OG_STEP(name, function)                       \
  struct name {                                       \
    template <class C>                                \
    C operator()(C x) const {                         \
      return function(x);                             \
    }                                                 \
    int64_t operator()(int64_t x) const { return x; } \
  };
OG_STEP(Floor, std::floor)
OG_STEP(Ceil, std::ceil)
OG_STEP(Round, std::nearbyint)  // ties to even in the rounding mode that every process starts with
OG_STEP(Trunc, std::trunc)
#undef OG_STEP

struct LogicalNot {
  template <class C>
  C operator()(C x) const {
    return x == C(0) ? C(1) : C(0);
  }
};
struct IsNan {
  template <class C>
  C operator()(C x) const {
    return x != x ? C(1) : C(0);
  }
};
struct IsInf {
  template <class C>
  C operator()(C x) const {
    return std::fabs(x) == std::numeric_limits<C>::infinity() ? C(1) : C(0);
  }
  int64_t operator()(int64_t) const { return 0; }
};
struct IsFinite {
  template <class C>
  C operator()(C x) const {
    return std::fabs(x) < std::numeric_limits<C>::infinity() ? C(1) : C(0);
  }
  int64_t operator()(int64_t) const { return 1; }
};

}  // namespace

int32_t kernel_exp(const og_call* call) { return vector_real(call, Exp{}); }
int32_t kernel_log(const og_call* call) { return vector_real(call, Log{}); }
int32_t kernel_tanh(const og_call* call) { return vector_real(call, Tanh{}); }
int32_t kernel_sigmoid(const og_call* call) { return vector_real(call, Sigmoid{}); }
int32_t kernel_erf(const og_call* call) { return vector_real(call, Erf{}); }
int32_t kernel_sqrt(const og_call* call) { return vector_real(call, Sqrt{}); }
int32_t kernel_rsqrt(const og_call* call) { return vector_real(call, Rsqrt{}); }
int32_t kernel_reciprocal(const og_call* call) { return vector_real(call, Reciprocal{}); }

int32_t kernel_expm1(const og_call* call) { return real(call, Expm1{}); }
int32_t kernel_log1p(const og_call* call) { return real(call, Log1p{}); }
int32_t kernel_log2(const og_call* call) { return real(call, Log2{}); }
int32_t kernel_sin(const og_call* call) { return real(call, Sin{}); }
int32_t kernel_cos(const og_call* call) { return real(call, Cos{}); }
int32_t kernel_tan(const og_call* call) { return real(call, Tan{}); }
int32_t kernel_asin(const og_call* call) { return real(call, Asin{}); }
int32_t kernel_acos(const og_call* call) { return real(call, Acos{}); }
int32_t kernel_atan(const og_call* call) { return real(call, Atan{}); }
int32_t kernel_sinh(const og_call* call) { return real(call, Sinh{}); }
int32_t kernel_cosh(const og_call* call) { return real(call, Cosh{}); }
int32_t kernel_erfc(const og_call* call) { return real(call, Erfc{}); }

int32_t kernel_neg(const og_call* call) { return unary(call, Neg{}); }
int32_t kernel_abs(const og_call* call) { return unary(call, Abs{}); }
int32_t kernel_sign(const og_call* call) { return unary(call, Sign{}); }
int32_t kernel_square(const og_call* call) { return unary(call, Square{}); }
int32_t kernel_relu(const og_call* call) { return unary(call, Relu{}); }
int32_t kernel_floor(const og_call* call) { return unary(call, Floor{}); }
int32_t kernel_ceil(const og_call* call) { return unary(call, Ceil{}); }
int32_t kernel_round(const og_call* call) { return unary(call, Round{}); }
int32_t kernel_trunc(const og_call* call) { return unary(call, Trunc{}); }
int32_t kernel_logical_not(const og_call* call) { return unary(call, LogicalNot{}); }
int32_t kernel_isnan(const og_call* call) { return unary(call, IsNan{}); }
int32_t kernel_isinf(const og_call* call) { return unary(call, IsInf{}); }
int32_t kernel_isfinite(const og_call* call) { return unary(call, IsFinite{}); }

/** attrs: lower and upper limit, ∓Infinity for none. NaN stays NaN; where the limits cross, the upper one wins. */
int32_t kernel_clamp(const og_call* call) {
  return with_compute(call->inputs[0].dtype, [&](auto type) {
    typedef decltype(type) C;
    const C low = Narrow<C, double>::from(call->attrs[0]), high = Narrow<C, double>::from(call->attrs[1]);
    return map1<C>(call, [=](C x) {
      const C raised = x < low ? low : x;
      return raised > high ? high : raised;
    });
  });
}

}  // namespace OG_ISA
}  // namespace og
