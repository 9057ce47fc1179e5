/**
 * Floats as codes of eight bits: clamp(round(y / scale) + zero), ties to even, NaN becomes zero; the quotient rounded
 * to float as a division, which a Divisor does without dividing (quantize_run.h).
 */
#ifndef OMNIGRAD_CPU_GEMM_INT8_CODES_H
#define OMNIGRAD_CPU_GEMM_INT8_CODES_H

#include "quantize_run.h"

namespace og {
namespace {

/** low and high are relative to zero; `inverse`: of a Divisor by the scale, made once. */
struct CodeGrid {
  float scale, low, high;
  int32_t zero;
  float inverse[2];
};

inline CodeGrid code_grid(float scale, int32_t zero, bool is_signed) {
  const int32_t low = is_signed ? -128 : 0;
  const Divisor divided(Divisor::serves(scale) ? scale : 1.f);
  return {scale, (float)(low - zero), (float)(low + 255 - zero), zero, {divided.high[0], divided.low[0]}};
}

/** Calls body(code), where code(y) is the codes of a vector in the low bytes of its lanes. */
template <class Body>
OG_INLINE void with_codes(const CodeGrid& grid, const Body& body) {
  if (kFuses && Divisor::serves(grid.scale)) {
    const Divisor divided(grid.inverse[0], grid.inverse[1]);
    const Vf low = set1(grid.low * grid.scale), high = set1(grid.high * grid.scale);
    body([&](Vf y) __attribute__((always_inline)) { return round_to_int(divided(within(y, low, high))) + grid.zero; });
  } else {
    body([&](Vf y) {
      const Vf ratio = y / grid.scale, number = select(ratio == ratio, ratio, Vf{});
      return to_int(round_small(within(number, set1(grid.low), set1(grid.high)))) + grid.zero;
    });
  }
}

/** n floats as codes, `stride` apart. */
inline void store_codes(const float* from, int64_t n, const CodeGrid& grid, uint8_t* to, int64_t stride) {
  int64_t i = 0;
  if (stride == 1)
    with_codes(grid, [&](const auto& code) {
      for (; i + kLanes <= n; i += kLanes) store_bytes(to + i, code(load(from + i)));
    });
  for (; i < n; i++) {
    const float x = from[i] / grid.scale;
    const float clipped = x < grid.low ? grid.low : x > grid.high ? grid.high : x == x ? x : 0.f;
    const float magic = 12582912.f;  // 1.5 · 2^23: rounds to the nearest integer, ties to even
    to[i * stride] = (uint8_t)((int32_t)((clipped + magic) - magic) + grid.zero);
  }
}

}  // namespace
}  // namespace og
#endif
