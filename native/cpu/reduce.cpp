/**
 * Reductions over the last attrs[0] axes: sum, mean, prod, amax, amin, any, all, var (with its mean), norm.
 * Walking order, accumulation, error bound of sums and parallel split: reduce.h. mean = sum / n; var sums (x − mean)²
 * in a second pass, so it does not cancel; NaN where n ≤ correction. norm takes any real p, 0 counts the non-zeros, ±∞
 * the largest or smallest magnitude; squares are summed unscaled (magnitudes above 1.8e19 overflow in float32). NaN
 * passes through amax and amin. No elements: sum 0, prod 1, any 0, all 1, mean and var NaN; amax and amin refuse. Any
 * strides; integers compute in int64_t, 16-bit floats in float.
 */
#include "reduce.h"

namespace og {
namespace OG_ISA {
namespace {

/** Names that scalars and vectors share. */
template <class T>
inline T add(T a, T b) {
  return a + b;
}
template <class T>
inline T multiply(T a, T b) {
  return a * b;
}
inline int64_t add(int64_t a, int64_t b) { return (int64_t)((uint64_t)a + (uint64_t)b); }
inline int64_t multiply(int64_t a, int64_t b) { return (int64_t)((uint64_t)a * (uint64_t)b); }
template <class T>
inline T larger(T a, T b) {
  return a > b || a != a ? a : b;
}
template <class T>
inline T smaller(T a, T b) {
  return a < b || a != a ? a : b;
}
template <class T>
inline T size_of(T a) {
  return std::fabs(a);
}
template <class T>
inline T nonzero(T a) {
  return a != T(0) ? T(1) : T(0);
}
#ifndef OG_IS_REFERENCE
OG_INLINE Vf larger(Vf a, Vf b) { return max_nan(a, b); }
OG_INLINE Vf smaller(Vf a, Vf b) { return min_nan(a, b); }
OG_INLINE Vf size_of(Vf a) { return abs(a); }
OG_INLINE Vf nonzero(Vf a) { return select(a != Vf{}, set1(1.f), Vf{}); }
#endif

struct Plain {
  template <class T>
  T map(T x, T) const {
    return x;
  }
  template <class P>
  P result(P total, int64_t) const {
    return total;
  }
};
struct Sum : Plain {
  static constexpr int identity = 0;
  template <class T>
  T combine(T a, T b) const {
    return add(a, b);
  }
};
struct Mean : Sum {
  template <class P>
  P result(P total, int64_t m) const {
    return m == 0 ? (P)NAN : total / (P)m;
  }
};
struct Prod : Plain {
  static constexpr int identity = 1;
  template <class T>
  T combine(T a, T b) const {
    return multiply(a, b);
  }
};
template <class C>
struct Largest : Plain {
  static constexpr C identity =
      std::numeric_limits<C>::has_infinity ? -std::numeric_limits<C>::infinity() : std::numeric_limits<C>::min();
  template <class T>
  T combine(T a, T b) const {
    return larger(a, b);
  }
};
template <class C>
struct Smallest : Plain {
  static constexpr C identity =
      std::numeric_limits<C>::has_infinity ? std::numeric_limits<C>::infinity() : std::numeric_limits<C>::max();
  template <class T>
  T combine(T a, T b) const {
    return smaller(a, b);
  }
};
struct Any : Plain {
  static constexpr int identity = 0;
  template <class T>
  T map(T x, T) const {
    return nonzero(x);
  }
  template <class T>
  T combine(T a, T b) const {
    return larger(a, b);
  }
};
struct All : Plain {
  static constexpr int identity = 1;
  template <class T>
  T map(T x, T) const {
    return nonzero(x);
  }
  template <class T>
  T combine(T a, T b) const {
    return smaller(a, b);
  }
};
struct Variance : Sum {
  double correction;
  template <class T>
  T map(T x, T mean) const {
    return (x - mean) * (x - mean);
  }
  template <class P>
  P result(P total, int64_t m) const {
    return (double)m > correction ? total / (P)((double)m - correction) : (P)NAN;
  }
};

struct CountNonzero : Sum {
  template <class T>
  T map(T x, T) const {
    return nonzero(x);
  }
};
struct Norm1 : Sum {
  template <class T>
  T map(T x, T) const {
    return size_of(x);
  }
};
struct Norm2 : Sum {
  template <class T>
  T map(T x, T) const {
    return x * x;
  }
  template <class P>
  P result(P total, int64_t) const {
    return std::sqrt(total);
  }
};
template <class C>
struct NormMax : Largest<C> {
  static constexpr C identity = 0;
  template <class T>
  T map(T x, T) const {
    return size_of(x);
  }
};
template <class C>
struct NormMin : Smallest<C> {
  template <class T>
  T map(T x, T) const {
    return size_of(x);
  }
};
struct NormP : Sum {
  double p;
  double map(double x, double) const { return std::pow(std::fabs(x), p); }
  float map(float x, float) const { return std::pow(std::fabs(x), (float)p); }
#ifndef OG_IS_REFERENCE
  Vf map(Vf x, Vf) const {
    Vf y;
    for (int i = 0; i < kLanes; i++) y[i] = std::pow(std::fabs(x[i]), (float)p);
    return y;
  }
#endif
  double result(double total, int64_t) const { return std::pow(total, 1 / p); }
};

int axes_of(const og_call* call) { return (int)call->attrs[0]; }

/** Rules whose integers stay integers. */
template <class R>
int32_t reduce(const og_call* call, const R& rule) {
  OG_TRY(check_reduction(call, axes_of(call)));
  return with_compute(call->inputs[0].dtype, [&](auto type) {
    return reduce_all<decltype(type)>(rule, call->inputs[0], axes_of(call), (const decltype(type)*)nullptr,
                                      call->outputs[0]);
  });
}

/** Rules with real results. */
template <class R>
int32_t reduce_real(const og_call* call, const R& rule) {
  OG_TRY(check_reduction(call, axes_of(call)));
  OG_SUPPORTED(dtype_is_float(call->outputs[0].dtype), "the result of this reduction must be a float");
  return with_float_compute(call->outputs[0].dtype, [&](auto type) {
    return reduce_all<decltype(type)>(rule, call->inputs[0], axes_of(call), (const decltype(type)*)nullptr,
                                      call->outputs[0]);
  });
}

template <template <class> class R>
int32_t reduce_extreme(const og_call* call) {
  OG_TRY(check_reduction(call, axes_of(call)));
  OG_REQUIRE(count_of(call->inputs[0]) > 0 || count_of(call->outputs[0]) == 0, "nothing to take the extreme value of");
  return with_compute(call->inputs[0].dtype, [&](auto type) {
    typedef decltype(type) C;
    return reduce_all<C>(R<C>{}, call->inputs[0], axes_of(call), (const C*)nullptr, call->outputs[0]);
  });
}

template <class C>
int32_t variance(const og_call* call) {
  const og_view& x = call->inputs[0];
  const og_view &var = call->outputs[0], &mean = call->outputs[1];
  // the means of the second pass keep full precision, whatever the output holds
  ScratchFrame frame;
  C* means = frame.take<C>(count_of(mean));
  OG_SCRATCH(means, "means");
  og_view dense = mean;
  dense.data = means;
  dense.dtype = std::is_same<C, double>::value ? OG_F64 : OG_F32;
  for (int64_t i = dense.rank - 1, stride = 1; i >= 0; stride *= dense.shape[i--]) dense.strides[i] = stride;
  OG_TRY(reduce_all<C>(Mean{}, x, axes_of(call), (const C*)nullptr, dense));
  Variance rule;
  rule.correction = call->attrs[1];
  OG_TRY(reduce_all<C>(rule, x, axes_of(call), (const C*)means, var));
  const og_view* const inputs[1] = {&dense};
  return map_blocks<C>(inputs, mean, [](const C* const* in, C* out, int64_t n) {
    if (in[0] != out) std::memcpy(out, in[0], (size_t)n * sizeof(C));
  });
}

}  // namespace

int32_t kernel_sum(const og_call* call) { return reduce(call, Sum{}); }
int32_t kernel_prod(const og_call* call) { return reduce(call, Prod{}); }
int32_t kernel_any(const og_call* call) { return reduce(call, Any{}); }
int32_t kernel_all(const og_call* call) { return reduce(call, All{}); }
int32_t kernel_mean(const og_call* call) { return reduce_real(call, Mean{}); }
int32_t kernel_amax(const og_call* call) { return reduce_extreme<Largest>(call); }
int32_t kernel_amin(const og_call* call) { return reduce_extreme<Smallest>(call); }

/** attrs: axes, correction; outputs: variance, mean. */
int32_t kernel_var(const og_call* call) {
  OG_TRY(check_reduction(call, axes_of(call)));
  OG_SUPPORTED(dtype_is_float(call->outputs[0].dtype) && dtype_is_float(call->outputs[1].dtype),
               "the results of var must be floats");
  return with_float_compute(call->outputs[0].dtype, [&](auto type) { return variance<decltype(type)>(call); });
}

/** attrs: axes, p. */
int32_t kernel_norm(const og_call* call) {
  const double p = call->attrs[1];
  OG_REQUIRE(p == p, "norm: p is NaN");
  if (p == 0) return reduce_real(call, CountNonzero{});
  if (p == 1) return reduce_real(call, Norm1{});
  if (p == 2) return reduce_real(call, Norm2{});
  if (std::isinf(p)) {
    OG_TRY(check_reduction(call, axes_of(call)));
    OG_SUPPORTED(dtype_is_float(call->outputs[0].dtype), "the result of norm must be a float");
    OG_REQUIRE(p > 0 || count_of(call->inputs[0]) > 0 || count_of(call->outputs[0]) == 0,
               "norm: no elements have a smallest magnitude");
    return with_float_compute(call->outputs[0].dtype, [&](auto type) {
      typedef decltype(type) C;
      const og_view &x = call->inputs[0], &y = call->outputs[0];
      return p > 0 ? reduce_all<C>(NormMax<C>{}, x, axes_of(call), (const C*)nullptr, y)
                   : reduce_all<C>(NormMin<C>{}, x, axes_of(call), (const C*)nullptr, y);
    });
  }
  NormP rule;
  rule.p = p;
  return reduce_real(call, rule);
}

}  // namespace OG_ISA
}  // namespace og
