/**
 * A weight matrix [n, k] of 4- or 8-bit codes with a scale (and a zero point) for each group of a row, and its elements
 * as floats for packing: weight = (code − zero) · scale, or NF4's number · scale.
 */
#ifndef OMNIGRAD_CPU_WEIGHT_MATRIX_H
#define OMNIGRAD_CPU_WEIGHT_MATRIX_H

#include "../core/view.h"
#include "quantize_run.h"

namespace og {
namespace {

/** 4-bit codes lie two a byte (pack_nibbles); symmetric ones plus 8. 8-bit codes: int8 symmetric, uint8 affine. */
struct WeightMatrix {
  const uint8_t* codes;
  int64_t n, k;
  int64_t group, groups;  // elements of a group, groups of a row
  int bits;
  bool is_signed, nf4;
  const void *scale, *zero;  // [n, groups]; zero may be null
  bool half_scale, byte_zero;
  float middle;  // zero where there are no zero points

  int64_t row_bytes() const { return bits == 4 ? k / 2 : k; }
  const uint8_t* row(int64_t i) const { return codes + i * row_bytes(); }

  float scale_at(int64_t index) const {
    if (!half_scale) return static_cast<const float*>(scale)[index];
#if defined(__F16C__) && !defined(OG_IS_REFERENCE)
    return _cvtsh_ss(static_cast<const f16*>(scale)[index].bits);
#else
    return to_float(static_cast<const f16*>(scale)[index]);
#endif
  }
  float zero_at(int64_t index) const {
    if (!zero) return middle;
    return byte_zero ? (float)static_cast<const uint8_t*>(zero)[index]
                     : (float)static_cast<const int32_t*>(zero)[index];
  }
};

/** n elements of row `line` from `first` on (both even for 4 bits), n ≤ 512. */
template <class C>
void dequantize_line(const WeightMatrix& w, int64_t line, int64_t first, int64_t n, C* to) {
  alignas(64) uint8_t bytes[512];
  const uint8_t* codes = w.row(line) + (w.bits == 4 ? first / 2 : first);
  if (w.bits == 4) {
    unpack_nibbles(codes, n, bytes);
    codes = bytes;
  }
  int64_t group = first / w.group, left = w.group - first % w.group;
  for (int64_t i = 0; i < n;) {
    const int64_t length = left < n - i ? left : n - i, at = line * w.groups + group;
    const Same<C> grid{{(C)w.scale_at(at), C(0), C(0), (C)w.zero_at(at)}};
    from_codes(codes + i, w.is_signed, w.nf4, length, grid, to + i);
    i += length;
    group++;
    left = w.group;
  }
}

}  // namespace
}  // namespace og
#endif
