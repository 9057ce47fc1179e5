/**
 * The activations that more than one kernel applies: x·Φ(x), its tanh form (Hendrycks and Gimelshein 2016,
 * arXiv:1606.08415) and silu, on a vector of floats, or (`reference`) on a double. Bounds: activation.cpp.
 */
#ifndef OMNIGRAD_CPU_ACTIVATION_FUNCTIONS_H
#define OMNIGRAD_CPU_ACTIVATION_FUNCTIONS_H

#ifdef OG_IS_REFERENCE
#include <cmath>
#else
#include "math.h"
#endif

namespace og {
namespace {

#ifdef OG_IS_REFERENCE

typedef double Number;  // one definition for both compute types
inline double exponential_nonpositive(double x) { return std::exp(x); }
constexpr double kExpScale = 1;
inline double exp_scaled(double x) { return std::exp(x); }
inline double limited(double x, double limit) { return x < -limit ? -limit : x > limit ? limit : x; }
inline double magnitude(double x) { return std::fabs(x); }
inline double pick(bool condition, double yes, double no) { return condition ? yes : no; }
struct NormalValue {
  double cdf, density;
};
inline NormalValue normal_of(double x) {
  return {0.5 * std::erfc(-x * 0.70710678118654752440), 0.39894228040143267794 * std::exp(-0.5 * x * x)};
}

#else

typedef Vf Number;
OG_INLINE Vf exponential_nonpositive(Vf x) { return exp_nonpositive(x); }
/** NaN stays NaN. */
OG_INLINE Vf limited(Vf x, Vf limit) { return max_second(-limit, min_second(limit, x)); }
OG_INLINE Vf magnitude(Vf x) { return abs(x); }
OG_INLINE Vf pick(Vi condition, Vf yes, Vf no) { return select(condition, yes, no); }
OG_INLINE Normal normal_of(Vf x) { return normal(x); }

#endif

#ifdef OG_IS_REFERENCE
#define OG_BODY inline
OG_BODY Number number(double x) { return x; }
#else
#define OG_BODY OG_INLINE
OG_BODY Number number(double x) { return set1((float)x); }
#endif

/** x·σ(v) = x/(1 + e^-v) for minus_v = -v·kExpScale. Far out on the left the denominator is infinite. */
OG_BODY Number share_of_logistic(Number x, Number minus_v) { return x / (number(1.0) + exp_scaled(minus_v)); }

/** -2u of the tanh form, times kExpScale. */
OG_BODY Number gelu_exponent(Number x, Number square) {
  return x * (number(-1.5957691216057308 * kExpScale) - number(0.07135481627260025 * kExpScale) * square);
}

struct GeluExact {
  OG_BODY Number operator()(Number x) const { return x * normal_of(x).cdf; }
};
struct GeluTanh {
  OG_BODY Number operator()(Number x) const { return share_of_logistic(x, gelu_exponent(x, x * x)); }
};
struct Silu {
  OG_BODY Number operator()(Number x) const { return share_of_logistic(x, x * number(-kExpScale)); }
};

}  // namespace
}  // namespace og
#endif
