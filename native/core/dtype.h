/** Element types: sizes, and exact scalar conversions for the two 16-bit float formats. */
#ifndef OMNIGRAD_CORE_DTYPE_H
#define OMNIGRAD_CORE_DTYPE_H

#include <cstdint>
#include <cstring>

#include "omnigrad/abi.h"

namespace og {

inline int64_t dtype_size(int32_t dtype) {
  switch (dtype) {
    case OG_F64:
    case OG_I64:
      return 8;
    case OG_F32:
    case OG_I32:
      return 4;
    case OG_F16:
    case OG_BF16:
      return 2;
    default:
      return 1;
  }
}

inline bool dtype_is_float(int32_t dtype) { return dtype >= OG_F32 && dtype <= OG_F64; }

namespace {  // internal linkage: these are compiled once per instruction set and must never be merged by the linker

inline uint32_t float_bits(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return u;
}

inline float bits_float(uint32_t u) {
  float x;
  std::memcpy(&x, &u, 4);
  return x;
}

struct f16 {
  uint16_t bits;
};
struct bf16 {
  uint16_t bits;
};

/** IEEE binary16 to binary32, exact. Subnormals are scaled by a float multiplication, which is exact. */
inline float to_float(f16 h) {
  const uint32_t sign = (uint32_t)(h.bits & 0x8000u) << 16;
  const uint32_t rest = h.bits & 0x7fffu;
  if (rest >= 0x7c00u) return bits_float(sign | 0x7f800000u | ((rest & 0x3ffu) << 13));
  if (rest >= 0x0400u) return bits_float(sign | ((rest << 13) + 0x38000000u));
  const float magnitude = (float)rest * 5.9604644775390625e-8f;  // 2^-24
  return sign ? -magnitude : magnitude;
}

inline float to_float(bf16 h) { return bits_float((uint32_t)h.bits << 16); }

/** binary32 to binary16, round to nearest even; NaN stays NaN, overflow becomes infinity. */
inline f16 to_f16(float x) {
  const uint32_t u = float_bits(x);
  const uint16_t sign = (uint16_t)((u >> 16) & 0x8000u);
  const uint32_t a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return {(uint16_t)(sign | 0x7e00u)};
  if (a >= 0x477ff000u) return {(uint16_t)(sign | 0x7c00u)};
  if (a < 0x38800000u) {  // subnormal result: adding 0.5 aligns the mantissa so that the FPU rounds to even
    const float y = bits_float(a) + 0.5f;
    return {(uint16_t)(sign | (float_bits(y) - 0x3f000000u))};
  }
  const uint32_t rounded = a + 0xfffu + ((a >> 13) & 1u);
  return {(uint16_t)(sign | ((rounded - 0x38000000u) >> 13))};
}

inline bf16 to_bf16(float x) {
  const uint32_t u = float_bits(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {(uint16_t)((u >> 16) | 0x40u)};
  return {(uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}

}  // namespace
}  // namespace og
#endif
