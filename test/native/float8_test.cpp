// float8: all 256 codes both ways, and rounding against a search for the nearest code with ties to the even one.
#include "check.h"

using namespace og_test;

namespace {

/** Value of a code from the definition of the format. */
double value_of(int code, int mantissa, int bias, bool infinities) {
  const int a = code & 0x7f, exponent = a >> mantissa, fraction = a & ((1 << mantissa) - 1);
  const int top = (1 << (7 - mantissa)) - 1;
  const double sign = code & 0x80 ? -1 : 1;
  if (infinities && exponent == top) return fraction ? NAN : sign * INFINITY;
  if (!infinities && a == 0x7f) return NAN;
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias - mantissa);
  return sign * std::ldexp((1 << mantissa) + fraction, exponent - bias - mantissa);
}

/** Nearest code to x, ties to even; beyond the midpoint behind the largest number comes `overflow`. */
int nearest(double x, int mantissa, int bias, bool infinities) {
  if (std::isnan(x)) return 0x7f;
  const int largest = infinities ? 0x7b : 0x7e;
  const double step = value_of(largest, mantissa, bias, infinities) - value_of(largest - 1, mantissa, bias, infinities);
  const double a = std::fabs(x), top = value_of(largest, mantissa, bias, infinities), half = top + step / 2;
  int best = 0;
  if (a > half || (a == half && (largest & 1))) {
    best = infinities ? 0x7c : 0x7f;
  } else {
    for (int code = 1; code <= largest; code++) {
      const double d = std::fabs(value_of(code, mantissa, bias, infinities) - a);
      const double e = std::fabs(value_of(best, mantissa, bias, infinities) - a);
      if (d < e || (d == e && !(code & 1))) best = code;
    }
  }
  return best | (std::signbit(x) ? 0x80 : 0);
}

}  // namespace

int main() {
  Random random(8);
  for_each_isa([&](og::Isa isa) {
    for (int format = 0; format < 2; format++) {
      const int mantissa = format ? 2 : 3, bias = format ? 15 : 7;
      Tensor codes(OG_U8, {256}), values(OG_F32, {256}), back(OG_U8, {256});
      codes.fill([](int64_t i) { return (double)i; });
      CHECK_OK(run(isa, "float8_decode", {&codes}, {&values}, {(double)format}));
      std::vector<double> want;
      for (int i = 0; i < 256; i++) want.push_back(value_of(i, mantissa, bias, format == 1));
      check_close(values, want, 0, 0, "decode");
      CHECK_OK(run(isa, "float8_encode", {&values}, {&back}, {(double)format}));
      for (int i = 0; i < 256; i++)
        if (!std::isnan(want[(size_t)i])) CHECK(back.get(i) == i, "code %d came back as %g", i, back.get(i));

      Tensor x(OG_F32, {3000}), y(OG_U8, {3000});
      x.fill([&](int64_t i) {
        if (i < 254) return (want[(size_t)(i & 127)] + want[(size_t)((i & 127) + 1)]) / 2;  // ties
        return std::ldexp(random.uniform(-2, 2), (int)random.below(40) - 22);
      });
      CHECK_OK(run(isa, "float8_encode", {&x}, {&y}, {(double)format}));
      std::vector<double> codes_wanted;
      for (int64_t i = 0; i < x.count(); i++) codes_wanted.push_back(nearest(x.get(i), mantissa, bias, format == 1));
      check_close(y, codes_wanted, 0, 0, "encode");
    }
    Tensor x(OG_F32, {3}), y(OG_U8, {3}), strided(OG_F32, {3}, kGaps);
    CHECK_FAILS(run(isa, "float8_encode", {&x}, {&y}, {2}), OG_INVALID);
  });
  return finish("float8");
}
