/**
 * Element-wise functions of two operands: arithmetic, comparisons (1 or 0), logic.
 * Accumulation: none. Each result is the correctly rounded one of the compute type (float for the 16-bit floats), but
 * for pow and atan2, which go through the C library. Integers wrap on overflow; division by zero gives 0.
 */
#include "elementwise.h"

namespace og {
namespace OG_ISA {
namespace {

template <class C, class F>
int32_t map2(const og_call* call, const F& f) {
  const og_view* const inputs[2] = {&call->inputs[0], &call->inputs[1]};
  return map_blocks<C>(
      inputs, call->outputs[0], [&](const C* const* in, C* out, int64_t n) { run2(in[0], in[1], out, n, f); }, true);
}

template <class F>
int32_t binary(const og_call* call, const F& f) {
  return with_compute(call->inputs[0].dtype, [&](auto type) { return map2<decltype(type)>(call, f); });
}

inline int64_t wrap(uint64_t x) { return (int64_t)x; }

struct Add {
  template <class C>
  C operator()(C a, C b) const {
    return a + b;
  }
  int64_t operator()(int64_t a, int64_t b) const { return wrap((uint64_t)a + (uint64_t)b); }
};
struct Sub {
  template <class C>
  C operator()(C a, C b) const {
    return a - b;
  }
  int64_t operator()(int64_t a, int64_t b) const { return wrap((uint64_t)a - (uint64_t)b); }
};
struct Mul {
  template <class C>
  C operator()(C a, C b) const {
    return a * b;
  }
  int64_t operator()(int64_t a, int64_t b) const { return wrap((uint64_t)a * (uint64_t)b); }
};
struct Div {
  template <class C>
  C operator()(C a, C b) const {
    return a / b;
  }
  int64_t operator()(int64_t a, int64_t b) const { return b == 0 ? 0 : b == -1 ? wrap(0 - (uint64_t)a) : a / b; }
};
/** Result has the sign of the divisor, as Python's %. */
struct Remainder {
  template <class C>
  C operator()(C a, C b) const {
    const C r = std::fmod(a, b);
    return r != 0 && (r < 0) != (b < 0) ? r + b : r;
  }
  int64_t operator()(int64_t a, int64_t b) const {
    if (b == 0 || b == -1) return 0;
    const int64_t r = a % b;
    return r != 0 && (r < 0) != (b < 0) ? r + b : r;
  }
};
/** Result has the sign of the dividend, as C's fmod. */
struct Fmod {
  template <class C>
  C operator()(C a, C b) const {
    return std::fmod(a, b);
  }
  int64_t operator()(int64_t a, int64_t b) const { return b == 0 || b == -1 ? 0 : a % b; }
};
struct Pow {
  template <class C>
  C operator()(C a, C b) const {
    return std::pow(a, b);
  }
  int64_t operator()(int64_t a, int64_t b) const {
    if (b < 0) return a == 1 ? 1 : a == -1 ? (b % 2 ? -1 : 1) : 0;
    uint64_t result = 1, base = (uint64_t)a;
    for (uint64_t e = (uint64_t)b; e; e >>= 1, base *= base)
      if (e & 1) result *= base;
    return wrap(result);
  }
};
struct Atan2 {
  template <class C>
  C operator()(C a, C b) const {
    return std::atan2(a, b);
  }
  int64_t operator()(int64_t a, int64_t b) const { return (int64_t)std::atan2((double)a, (double)b); }
};
/** NaN in either operand gives NaN. */
struct Maximum {
  template <class C>
  C operator()(C a, C b) const {
    return a > b || a != a ? a : b;
  }
};
struct Minimum {
  template <class C>
  C operator()(C a, C b) const {
    return a < b || a != a ? a : b;
  }
};

#define OG_COMPARISON(name, expression)  \
  struct name {                          \
    template <class C>                   \
    C operator()(C a, C b) const {       \
      return (expression) ? C(1) : C(0); \
    }                                    \
  };
OG_COMPARISON(Equal, a == b)
OG_COMPARISON(NotEqual, a != b)
OG_COMPARISON(Less, a < b)
OG_COMPARISON(LessEqual, a <= b)
OG_COMPARISON(Greater, a > b)
OG_COMPARISON(GreaterEqual, a >= b)
OG_COMPARISON(LogicalAnd, (a != C(0)) & (b != C(0)))
OG_COMPARISON(LogicalOr, (a != C(0)) | (b != C(0)))
OG_COMPARISON(LogicalXor, (a != C(0)) != (b != C(0)))
#undef OG_COMPARISON

}  // namespace

int32_t kernel_add(const og_call* call) { return binary(call, Add{}); }
int32_t kernel_sub(const og_call* call) { return binary(call, Sub{}); }
int32_t kernel_mul(const og_call* call) { return binary(call, Mul{}); }
int32_t kernel_div(const og_call* call) { return binary(call, Div{}); }
int32_t kernel_remainder(const og_call* call) { return binary(call, Remainder{}); }
int32_t kernel_fmod(const og_call* call) { return binary(call, Fmod{}); }
int32_t kernel_pow(const og_call* call) { return binary(call, Pow{}); }
int32_t kernel_atan2(const og_call* call) { return binary(call, Atan2{}); }
int32_t kernel_maximum(const og_call* call) { return binary(call, Maximum{}); }
int32_t kernel_minimum(const og_call* call) { return binary(call, Minimum{}); }
int32_t kernel_eq(const og_call* call) { return binary(call, Equal{}); }
int32_t kernel_ne(const og_call* call) { return binary(call, NotEqual{}); }
int32_t kernel_lt(const og_call* call) { return binary(call, Less{}); }
int32_t kernel_le(const og_call* call) { return binary(call, LessEqual{}); }
int32_t kernel_gt(const og_call* call) { return binary(call, Greater{}); }
int32_t kernel_ge(const og_call* call) { return binary(call, GreaterEqual{}); }
int32_t kernel_logical_and(const og_call* call) { return binary(call, LogicalAnd{}); }
int32_t kernel_logical_or(const og_call* call) { return binary(call, LogicalOr{}); }
int32_t kernel_logical_xor(const og_call* call) { return binary(call, LogicalXor{}); }

}  // namespace OG_ISA
}  // namespace og
