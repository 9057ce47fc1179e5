/**
 * Moving elements between storage (any dtype, any stride) and contiguous runs of the type that a kernel computes in:
 * float for float32, float16 and bfloat16, double for float64, int64_t for integers and bool. Where the dtype is only
 * known at run time, stage.cpp does it: one copy of its loops serves all kernels of a set.
 */
#ifndef OMNIGRAD_CPU_STAGE_H
#define OMNIGRAD_CPU_STAGE_H

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "../core/dtype.h"
#include "../core/view.h"
#ifndef OG_IS_REFERENCE
#include "simd.h"
#endif

namespace og {
namespace {

/** Calls f(T{}) with the storage type of a dtype. bool is stored as uint8_t; use store_bool_run to write it. */
template <class F>
inline void with_storage(int32_t dtype, const F& f) {
  switch (dtype) {
    case OG_F32:
      f(float{});
      break;
    case OG_F16:
      f(f16{});
      break;
    case OG_BF16:
      f(bf16{});
      break;
    case OG_F64:
      f(double{});
      break;
    case OG_I8:
      f(int8_t{});
      break;
    case OG_U8:
    case OG_BOOL:
      f(uint8_t{});
      break;
    case OG_I32:
      f(int32_t{});
      break;
    default:
      f(int64_t{});
      break;
  }
}

template <class C, class T>
inline C widen(T x) {
  return (C)x;
}
template <class C>
inline C widen(f16 x) {
  return (C)to_float(x);
}
template <class C>
inline C widen(bf16 x) {
  return (C)to_float(x);
}

/** Conversion to storage: floats round to nearest even; float to integer truncates, saturates, and sends NaN to 0. */
template <class T, class C>
struct Narrow {
  static T from(C x) {
    if constexpr (std::is_floating_point<C>::value && std::is_integral<T>::value) {
      if (!(x == x)) return 0;
      // 2^63 is not representable in T; comparing against the exact power of two keeps the cast defined
      const C above = -(C)std::numeric_limits<T>::min();
      if (std::numeric_limits<T>::is_signed ? x >= above : x >= (C)std::numeric_limits<T>::max())
        return std::numeric_limits<T>::max();
      if (x <= (C)std::numeric_limits<T>::min()) return std::numeric_limits<T>::min();
      return (T)x;
    } else {
      return (T)x;
    }
  }
};
template <class C>
struct Narrow<f16, C> {
  static f16 from(C x) { return to_f16((float)x); }
};
template <class C>
struct Narrow<bf16, C> {
  static bf16 from(C x) { return to_bf16((float)x); }
};

/** dst[0..n) = src[0, stride, 2·stride, …) widened. */
template <class C, class T>
inline void load_run(const T* src, int64_t stride, int64_t n, C* dst) {
  if (stride == 1) {
#ifndef OG_IS_REFERENCE
    if constexpr (std::is_same<C, float>::value && (std::is_same<T, f16>::value || std::is_same<T, bf16>::value)) {
      int64_t i = 0;
      for (; i + kLanes <= n; i += kLanes) store(dst + i, load(src + i));
      for (; i < n; i++) dst[i] = to_float(src[i]);
      return;
    }
#endif
    for (int64_t i = 0; i < n; i++) dst[i] = widen<C>(src[i]);
  } else if (stride == 0) {
    if (n <= 0) return;  // an empty run may point anywhere
    const C value = widen<C>(src[0]);
    for (int64_t i = 0; i < n; i++) dst[i] = value;
  } else {
    for (int64_t i = 0; i < n; i++) dst[i] = widen<C>(src[i * stride]);
  }
}

template <class C, class T>
inline void store_run(const C* src, int64_t n, T* dst, int64_t stride) {
  if (stride == 1) {
#ifndef OG_IS_REFERENCE
    if constexpr (std::is_same<C, float>::value && (std::is_same<T, f16>::value || std::is_same<T, bf16>::value)) {
      int64_t i = 0;
      for (; i + kLanes <= n; i += kLanes) store(dst + i, load(src + i));
      for (; i < n; i++) dst[i] = Narrow<T, C>::from(src[i]);
      return;
    }
#endif
    for (int64_t i = 0; i < n; i++) dst[i] = Narrow<T, C>::from(src[i]);
  } else {
    for (int64_t i = 0; i < n; i++) dst[i * stride] = Narrow<T, C>::from(src[i]);
  }
}

/** Anything but zero is true, NaN included. */
template <class C>
inline void store_bool_run(const C* src, int64_t n, uint8_t* dst, int64_t stride) {
  for (int64_t i = 0; i < n; i++) dst[i * stride] = src[i] != C(0);
}

/** Whether a storage dtype already is the compute type C, so that a linear operand needs no staging. */
template <class C>
inline bool is_native(int32_t dtype) {
  if (std::is_same<C, float>::value) return dtype == OG_F32;
  if (std::is_same<C, double>::value) return dtype == OG_F64;
  return dtype == OG_I64;
}

/** Calls f(C{}) with the compute type of a dtype. Only `reference` holds the double path; dispatch sends float64 there.
 */
template <class F>
inline int32_t with_compute(int32_t dtype, const F& f) {
  if (dtype == OG_F32 || dtype == OG_F16 || dtype == OG_BF16) return f(float{});
#ifdef OG_IS_REFERENCE
  if (dtype == OG_F64) return f(double{});
#endif
  return f(int64_t{});
}

/** The same for kernels of floating-point dtypes only. */
template <class F>
inline int32_t with_float_compute(int32_t dtype, const F& f) {
#ifdef OG_IS_REFERENCE
  if (dtype == OG_F64) return f(double{});
#else
  (void)dtype;
#endif
  return f(float{});
}

}  // namespace

/** The loops of stage.cpp. */
namespace OG_ISA {
#define OG_COMPUTE_TYPES(X) X(float) X(double) X(int64_t)
#define OG_DECLARE(C)                                                                                       \
  /** to[0..n) = from[0, stride, 2·stride, …) of a dtype, widened; and back, where all but 0 is true. */ \
  void load_elements(const void* from, int32_t dtype, int64_t stride, int64_t n, C* to);                    \
  void store_elements(const C* from, int64_t n, void* to, int32_t dtype, int64_t stride);                   \
  /** Elements [begin, begin+n) of a view that is walked so. */                                             \
  void load_lines(const Walk& walk, const og_view& view, int64_t begin, int64_t n, C* to);                  \
  void store_lines(const Walk& walk, const og_view& view, int64_t begin, int64_t n, const C* from);
OG_COMPUTE_TYPES(OG_DECLARE)
#undef OG_DECLARE
}  // namespace OG_ISA

namespace {

/** Elements of a view, from element `offset` on. */
template <class C>
inline void read_run(const og_view& view, int64_t offset, int64_t stride, int64_t n, C* to) {
  const void* from = static_cast<const char*>(view.data) + offset * dtype_size(view.dtype);
  OG_ISA::load_elements(from, view.dtype, stride, n, to);
}
template <class C>
inline void write_run(const og_view& view, int64_t offset, int64_t stride, int64_t n, const C* from) {
  OG_ISA::store_elements(from, n, static_cast<char*>(view.data) + offset * dtype_size(view.dtype), view.dtype, stride);
}

}  // namespace
}  // namespace og
#endif
