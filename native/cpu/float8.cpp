/**
 * float8_encode: float32 → uint8 bit patterns; float8_decode: back, exactly. Attribute: 0 for E4M3FN (bias 7, no
 * infinity, NaN 0x7f, largest 448), 1 for E5M2 (bias 15, IEEE-like). Both operands are contiguous (the TypeScript side
 * sees to it).
 *
 * Rounds to nearest, ties to even, subnormals included. Overflow gives NaN in E4M3FN and infinity in E5M2, as the OCP
 * 8-bit floating point specification has it without saturation. Parallel split: by blocks of the element count.
 */
#include "../core/dtype.h"
#include "../core/parallel.h"
#include "../core/status.h"
#include "../core/view.h"

namespace og {
namespace OG_ISA {
namespace {

/** M: bits of the mantissa; B: bias of the exponent; kTop: largest code that is not NaN. */
template <int M, int B, uint32_t kTop, uint32_t kOverflow>
struct Format {
  static uint8_t encode(float x) {
    const uint32_t bits = float_bits(x), sign = bits >> 24 & 0x80u, a = bits & 0x7fffffffu;
    // Below the smallest normal number the spacing is 2^(1-B-M): adding 2^23 of it makes the addition round.
    const float magic = bits_float((uint32_t)(127 + 24 - B - M) << 23);
    const uint32_t small = float_bits(bits_float(a) + magic) - float_bits(magic);
    const uint32_t large = ((a + (1u << (22 - M)) - 1 + (a >> (23 - M) & 1)) >> (23 - M)) - ((uint32_t)(127 - B) << M);
    uint32_t code = a < (uint32_t)(128 - B) << 23 ? small : large;
    code = code > kTop ? kOverflow : code;
    code = a > 0x7f800000u ? 0x7fu : code;
    return (uint8_t)(sign | code);
  }

  static float decode(uint8_t code) {
    const uint32_t a = code & 0x7fu, sign = (uint32_t)(code & 0x80u) << 24;
    const float spacing = bits_float((uint32_t)(128 - B - M) << 23);
    const float magnitude =
        a < 1u << M ? (float)a * spacing : bits_float((a << (23 - M)) + ((uint32_t)(127 - B) << 23));
    const float special = a == 0x7cu && B == 15 ? bits_float(0x7f800000u) : bits_float(0x7fc00000u);
    const float value = a > kTop || (B == 15 && a >= 0x7cu) ? special : magnitude;
    return bits_float(float_bits(value) | sign);
  }
};

typedef Format<3, 7, 0x7e, 0x7f> E4M3;
typedef Format<2, 15, 0x7c, 0x7c> E5M2;

int32_t check(const char* name, const og_call* call, const og_view& wide, const og_view& codes) {
  OG_REQUIRE(wide.dtype == OG_F32 && codes.dtype == OG_U8, "%s: float32 and uint8 are expected", name);
  OG_REQUIRE(same_shape(wide, codes) && is_contiguous(wide) && is_contiguous(codes),
             "%s: equal contiguous shapes are expected", name);
  OG_REQUIRE(call->attrs[0] == 0 || call->attrs[0] == 1, "%s: unknown format", name);
  return OG_OK;
}

template <class F>
void encode_all(const float* from, uint8_t* to, int64_t count) {
  parallel_ranges(count, 65536, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) to[i] = F::encode(from[i]);
  });
}

template <class F>
void decode_all(const uint8_t* from, float* to, int64_t count) {
  parallel_ranges(count, 65536, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) to[i] = F::decode(from[i]);
  });
}

}  // namespace

int32_t kernel_float8_encode(const og_call* call) {
  const og_view &x = call->inputs[0], &y = call->outputs[0];
  OG_TRY(check("float8_encode", call, x, y));
  if (call->attrs[0] == 0)
    encode_all<E4M3>(data_of<const float>(x), data_of<uint8_t>(y), count_of(x));
  else
    encode_all<E5M2>(data_of<const float>(x), data_of<uint8_t>(y), count_of(x));
  return OG_OK;
}

int32_t kernel_float8_decode(const og_call* call) {
  const og_view &x = call->inputs[0], &y = call->outputs[0];
  OG_TRY(check("float8_decode", call, y, x));
  if (call->attrs[0] == 0)
    decode_all<E4M3>(data_of<const uint8_t>(x), data_of<float>(y), count_of(x));
  else
    decode_all<E5M2>(data_of<const uint8_t>(x), data_of<float>(y), count_of(x));
  return OG_OK;
}

}  // namespace OG_ISA
}  // namespace og
