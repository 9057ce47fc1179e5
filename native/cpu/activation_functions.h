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
OG_INLINE Vf magnitude(Vf x) { return abs(x); }
OG_INLINE Vf pick(Vi condition, Vf yes, Vf no) { return select(condition, yes, no); }
OG_INLINE Normal normal_of(Vf x) { return normal(x); }

#endif

#ifdef OG_IS_REFERENCE
#define OG_BODY inline
#define OG_NUMBER(x) (x)
#else
#define OG_BODY OG_INLINE
#define OG_NUMBER(x) set1(x##f)
#endif

/** 1/(1+e^-x) through e^-|x|, whose exponential is the cheaper one; 0 far out on the left. */
OG_BODY Number logistic(Number x) {
  const Number t = exponential_nonpositive(-magnitude(x)), high = OG_NUMBER(1.0) / (OG_NUMBER(1.0) + t);
  return pick(x < OG_NUMBER(0.0), t * high, high);
}

struct GeluExact {
  OG_BODY Number operator()(Number x) const { return x * normal_of(x).cdf; }
};
struct GeluTanh {
  OG_BODY Number operator()(Number x) const {
    const Number twice_u = x * (OG_NUMBER(1.5957691216057308) + OG_NUMBER(0.07135481627260025) * (x * x));
    return x * logistic(twice_u);
  }
};
struct Silu {
  OG_BODY Number operator()(Number x) const { return x * logistic(x); }
};

}  // namespace
}  // namespace og
#endif
