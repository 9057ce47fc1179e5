/** The unit of a block of x in digits (weight_digits.h). */
#ifndef OMNIGRAD_CPU_WEIGHT_DIGITS_UNIT_H
#define OMNIGRAD_CPU_WEIGHT_DIGITS_UNIT_H

#include <cstring>

#include "quantize_run.h"

namespace og {
namespace {

/** Powers of two that bring a block's largest magnitude just below 2^23, and back. False where there is none. */
inline bool unit_of(float largest, float* to, float* unit) {
  uint32_t image;
  std::memcpy(&image, &largest, 4);
  const uint32_t exponent = image >> 23;
  if (image == 0) return *to = 0, *unit = 0, true;
  if (exponent < 31 || exponent >= 255) return false;
  uint32_t up = 276 - exponent;
  const float scaled = largest * bits_float(up << 23);
  if (scaled > 8355711.f) up--;  // 127·65536 + 127·256 + 127
  *to = bits_float(up << 23);
  *unit = bits_float((254 - up) << 23);
  return true;
}

}  // namespace
}  // namespace og
#endif
