// quantize, dequantize, fake_quantize against the definition in double: every scheme, extent, dtype and rounding.
#include "check.h"

using namespace og_test;

namespace {

const double kNf4[16] = {-1.0,
                         -0.6961928009986877,
                         -0.5250730514526367,
                         -0.39491748809814453,
                         -0.28444138169288635,
                         -0.18477343022823334,
                         -0.09105003625154495,
                         0.0,
                         0.07958029955625534,
                         0.16093020141124725,
                         0.24611230194568634,
                         0.33791524171829224,
                         0.44070982933044434,
                         0.5626170039176941,
                         0.7229568362236023,
                         1.0};

enum Kind { kSymmetric, kAffine, kNormal };

struct Case {
  Kind kind;
  int bits;
  bool packed;
};

struct Expected {
  std::vector<double> codes, scale, zero, values;
  double squares = 0, largest = 0, signal = 0;
};

double round_to(int32_t dtype, double x) {
  return dtype == OG_F16 ? og::to_float(og::to_f16((float)x)) : dtype == OG_F64 ? x : (double)(float)x;
}

/** The definition. Codes as numbers (symmetric: signed), before they are stored. */
Expected expect(const Tensor& x, const Case& c, int32_t scale_dtype) {
  const std::vector<int64_t> s = x.shape();
  const int64_t channels = s[1], inner = s[2];
  const bool wide = x.dtype() == OG_F64;
  Expected e;
  std::vector<double> low((size_t)channels, 0), high((size_t)channels, 0);
  for (int64_t i = 0; i < x.count(); i++) {
    const size_t k = (size_t)(i / inner % channels);
    low[k] = std::fmin(low[k], x.get(i)), high[k] = std::fmax(high[k], x.get(i));
  }
  for (size_t k = 0; k < (size_t)channels; k++) {
    const double range = c.kind == kAffine ? high[k] - low[k] : std::fmax(-low[k], high[k]);
    const double levels = c.kind == kNormal ? 1 : c.kind == kAffine ? (1 << c.bits) - 1 : (1 << (c.bits - 1)) - 1;
    // a float kernel subtracts and divides in float, a double one in double
    const double wanted = wide ? (double)(float)(range / levels) : (double)((float)range / (float)levels);
    double scale = round_to(scale_dtype, wanted);
    if (scale == 0) scale = 1;
    e.scale.push_back(scale);
    const double quotient = wide ? -low[k] / scale : (double)((float)-low[k] / (float)scale);
    e.zero.push_back(c.kind == kAffine ? std::fmin(std::nearbyint(quotient), (1 << c.bits) - 1) : 0);
  }
  const double bottom = c.kind == kAffine ? 0 : -((1 << (c.bits - 1)) - 1);
  const double top = c.kind == kAffine ? (1 << c.bits) - 1 : (1 << (c.bits - 1)) - 1;
  for (int64_t i = 0; i < x.count(); i++) {
    const size_t k = (size_t)(i / inner % channels);
    const double v = wide ? x.get(i) / e.scale[k] : (double)((float)x.get(i) / (float)e.scale[k]);
    double code, value;
    if (c.kind == kNormal) {
      int best = 0;
      for (int j = 1; j < 16; j++)
        if (std::fabs(kNf4[j] - v) < std::fabs(kNf4[best] - v)) best = j;
      code = best, value = kNf4[best] * e.scale[k];
    } else {
      code = std::fmin(std::fmax(std::nearbyint(v) + e.zero[k], bottom), top);
      value = (code - e.zero[k]) * e.scale[k];
    }
    e.codes.push_back(code);
    e.values.push_back(value);
    const double d = std::fabs(value - x.get(i));
    e.squares += d * d, e.signal += x.get(i) * x.get(i), e.largest = std::fmax(e.largest, d);
  }
  return e;
}

Tensor codes_for(const Tensor& x, const Case& c) {
  if (c.packed) return Tensor(OG_U8, {x.count() / 2});
  return Tensor(c.kind == kSymmetric ? OG_I8 : OG_U8, x.shape());
}

double code_at(const Tensor& codes, const Case& c, int64_t i) {
  if (!c.packed) return codes.get(i);
  const int byte = (int)codes.get(i / 2);
  return (i % 2 ? byte >> 4 : byte & 15) - (c.kind == kSymmetric ? 8 : 0);
}

void check_case(og::Isa isa, Random& random, const Case& c, std::vector<int64_t> shape, int32_t dtype,
                int32_t scale_dtype) {
  Tensor x(dtype, shape), codes = codes_for(x.normal(random, 2), c), none;
  Tensor scale(scale_dtype, {shape[1]}), zero(OG_I32, {shape[1]}), errors(OG_F32, {3});
  Tensor& zero_out = c.kind == kAffine ? zero : none;
  CHECK_OK(run(isa, "quantize", {&x, &none, &none}, {&codes, &scale, &zero_out, &errors},
               {(double)c.kind, (double)c.bits, 0, 0, 0, 0, 0}));
  const Expected e = expect(x, c, scale_dtype);
  check_close(scale, e.scale, 0, 0, "scale");
  if (c.kind == kAffine) check_close(zero, e.zero, 0, 0, "zero");
  for (int64_t i = 0; i < x.count(); i++) {
    const double got = code_at(codes, c, i);
    if (got == e.codes[(size_t)i]) continue;
    CHECK(false, "code %lld is %g, expected %g", (long long)i, got, e.codes[(size_t)i]);
    break;
  }
  check_close(errors, {e.squares, e.largest, e.signal}, 1e-5, 1e-6, "errors");
  const int32_t outs[] = {OG_F32, OG_F16, OG_BF16, OG_F64};
  for (int32_t out : outs) {
    if ((out == OG_F64) != (dtype == OG_F64)) continue;
    Tensor y(out, shape);
    CHECK_OK(run(isa, "dequantize", {&codes, &scale, &zero_out}, {&y}, {(double)c.kind, (double)c.bits}));
    check_close(y, e.values, roundoff(out), out == OG_F16 ? 0x1p-25 : 0, "dequantised");
  }
  // without errors, which is another loop, and with the scales given, the same codes
  Tensor alone = codes_for(x, c);
  CHECK_OK(run(isa, "quantize", {&x, &none, &none}, {&alone, &scale, &zero_out, &none},
               {(double)c.kind, (double)c.bits, 0, 0, 0, 0, 0}));
  CHECK(alone.bytes() == codes.bytes(), "other codes without errors");
  Tensor again = codes_for(x, c);
  CHECK_OK(run(isa, "quantize", {&x, &scale, &zero_out}, {&again, &none, &none, &none},
               {(double)c.kind, (double)c.bits, 0, 0, 0, 0, 0}));
  CHECK(again.bytes() == codes.bytes(), "given scales give other codes");
}

void check_extremes(og::Isa isa) {
  Tensor none;
  const double inf = INFINITY;
  Tensor x(OG_F32, {1, 4, 40}), codes(OG_I8, {1, 4, 40}), scale(OG_F32, {4}), zero(OG_I32, {4}),
      affine(OG_U8, {1, 4, 40});
  x.fill([&](int64_t i) { return i == 3 ? NAN : i == 45 ? inf : i >= 80 && i < 120 ? 0 : i >= 120 ? 1e-42 : 1; });
  CHECK_OK(run(isa, "quantize", {&x, &none, &none}, {&codes, &scale, &none, &none}, {0, 8, 0, 0, 0, 0, 0}));
  CHECK(std::isnan(scale.get(0)) && scale.get(1) == inf && scale.get(2) == 1, "scales of NaN, infinity and zeros");
  for (int64_t i = 0; i < 120; i++) CHECK(codes.get(i) == 0, "code %lld is %g", (long long)i, codes.get(i));
  CHECK_OK(run(isa, "quantize", {&x, &none, &none}, {&affine, &scale, &zero, &none}, {1, 8, 0, 0, 0, 0, 0}));
  CHECK(std::isnan(scale.get(0)) && scale.get(1) == inf && scale.get(2) == 1, "affine scales");
  Tensor given(OG_F32, {1}), y(OG_F32, {1, 1, 8}), far(OG_F32, {1, 1, 8}), bytes(OG_I8, {1, 1, 8});
  given.set(0, 0.5);
  far.assign({1e30, -1e30, inf, -inf, NAN, 0.25, 0.75, -0.25});
  CHECK_OK(run(isa, "quantize", {&far, &given, &none}, {&bytes, &none, &none, &none}, {0, 8, 0, 0, 0, 0, 0}));
  check_close(bytes, {127, -127, 127, -127, 0, 0, 2, 0}, 0, 0, "codes beyond the range");
}

/** Codes beside the middles between them, where the last place of the quotient decides, and numbers out of range. */
void check_middles(og::Isa isa) {
  Random random(11);
  std::vector<float> scales = {1.f, 0.1f, 0x1p-127f, 0x1p-95f, 3e-30f, 7e25f, 0x1p95f};
  for (uint32_t upper = 128; upper < 256; upper += 3)  // mantissas beside multiples of 2^16
    for (int32_t lower = -10; lower <= 10; lower++)
      scales.push_back(std::ldexp((float)((int32_t)(upper << 16) + lower), -28 + (int)(upper % 5)));
  for (int i = 0; i < 500; i++) scales.push_back((float)random.uniform(1e-3, 2e-3));
  constexpr int64_t kHalves = 512, kBeside = 9, kOthers = 64, n = kHalves * kBeside + kOthers;
  const int64_t rows = (int64_t)scales.size();
  const float inf = INFINITY;
  const float others[] = {NAN, inf, -inf, 1e38f, -1e38f, 1e-42f, -1e-42f, 0.f, -0.f};
  Tensor x(OG_F32, {1, rows, n}), scale(OG_F32, {rows}), codes(OG_I8, {1, rows, n}), affine(OG_U8, {1, rows, n});
  Tensor none, zero(OG_U8, {rows});
  scale.fill([&](int64_t i) { return (double)scales[(size_t)i]; });
  zero.fill([](int64_t i) { return (double)(i * 37 % 256); });
  x.fill([&](int64_t i) {
    const int64_t at = i % n - kOthers;
    if (at < 0) return (double)others[i % n % 9];
    float v = ((float)(at / kBeside) - 255.5f) * scales[(size_t)(i / n)];
    for (int64_t step = at % kBeside; step > kBeside / 2; step--) v = std::nextafter(v, inf);
    for (int64_t step = at % kBeside; step < kBeside / 2; step++) v = std::nextafter(v, -inf);
    return (double)v;
  });
  CHECK_OK(run(isa, "quantize", {&x, &scale, &none}, {&codes, &none, &none, &none}, {0, 8, 0, 0, 0, 0, 0}));
  CHECK_OK(run(isa, "quantize", {&x, &scale, &zero}, {&affine, &none, &none, &none}, {1, 8, 0, 0, 0, 0, 0}));
  for (int64_t i = 0; i < x.count(); i++) {
    const float s = scales[(size_t)(i / n)], v = (float)x.get(i) / s;
    const double code = v != v ? 0 : std::nearbyint((double)v), z = zero.get(i / n);
    const double want = std::fmin(std::fmax(code, -127), 127), high = std::fmin(std::fmax(code + z, 0), 255);
    if (codes.get(i) == want && affine.get(i) == high) continue;
    CHECK(false, "%g / %g: %g and %g, expected %g and %g", x.get(i), (double)s, codes.get(i), affine.get(i), want,
          high);
    return;
  }
}

void check_stochastic(og::Isa isa, std::vector<char>* first) {
  const int64_t n = 1 << 16;
  Tensor none, x(OG_F32, {1, 2, n / 2}), codes(OG_I8, {1, 2, n / 2}), scale(OG_F32, {2});
  scale.fill([](int64_t) { return 0.5; });
  x.fill([&](int64_t i) { return 0.5 * (i % 16 < 8 ? 3.25 : -2.125); });
  CHECK_OK(run(isa, "quantize", {&x, &scale, &none}, {&codes, &none, &none, &none}, {0, 8, 1, 7, 0, 5, 0}));
  double up = 0, down = 0;
  for (int64_t i = 0; i < n; i++) {
    const double code = codes.get(i);
    const bool first_kind = i % 16 < 8;
    CHECK(first_kind ? code == 3 || code == 4 : code == -3 || code == -2, "element %lld became %g", (long long)i, code);
    (first_kind ? up : down) += code;
  }
  CHECK(std::fabs(up / (n / 2) - 3.25) < 0.012 && std::fabs(down / (n / 2) + 2.125) < 0.01, "mean of codes: %g, %g",
        up / (n / 2), down / (n / 2));
  if (first->empty()) *first = codes.bytes();
  CHECK(*first == codes.bytes(), "stochastic codes differ between sets");
  // found in one pass or given: the words belong to elements
  Tensor y(OG_F32, {1, 37, 66}), a(OG_U8, {37 * 33}), b(OG_U8, {37 * 33}), found(OG_F32, {37});
  Random random(3);
  y.normal(random);
  CHECK_OK(run(isa, "quantize", {&y, &none, &none}, {&a, &found, &none, &none}, {0, 4, 1, 7, 1, 2, 3}));
  CHECK_OK(run(isa, "quantize", {&y, &found, &none}, {&b, &none, &none, &none}, {0, 4, 1, 7, 1, 2, 3}));
  CHECK(a.bytes() == b.bytes(), "stochastic codes depend on the way");
}

void check_fake(og::Isa isa, Random& random, int32_t dtype) {
  const std::vector<int64_t> shapes[] = {{1, 1, 1000}, {1, 5, 33}, {3, 4, 5}, {7, 129, 1}, {1, 0, 3}};
  for (const auto& shape : shapes) {
    Tensor x(dtype, shape), y(dtype, shape), inside(OG_BOOL, shape), none;
    Tensor scale(dtype == OG_F64 ? OG_F64 : OG_F32, {shape[1]}), zero(OG_I32, {shape[1]});
    x.normal(random, 3).fill([&](int64_t i) { return i % 41 == 7 ? NAN : 3 * random.normal(); });
    scale.uniform(random, 0.05, 0.2);
    zero.integers(random, -3, 4);
    CHECK_OK(run(isa, "fake_quantize", {&x, &scale, &zero}, {&y, &inside}, {-20, 17}));
    std::vector<double> want, mask;
    for (int64_t i = 0; i < x.count(); i++) {
      const int64_t k = i / shape[2] % shape[1];
      const double s = scale.get(k), z = zero.get(k);
      const double v = dtype == OG_F64 ? x.get(i) / s : (double)((float)x.get(i) / (float)s);
      const double code = std::nearbyint(v) + z;
      want.push_back(std::isnan(code) ? NAN : (std::fmin(std::fmax(code, -20), 17) - z) * s);
      mask.push_back(code >= -20 && code <= 17);
    }
    check_close(y, want, roundoff(dtype), 0, "fake");
    check_close(inside, mask, 0, 0, "inside");
  }
}

void check_refusals(og::Isa isa) {
  Tensor none, x(OG_F32, {1, 2, 6}), codes(OG_I8, {1, 2, 6}), scale(OG_F32, {2}), bytes(OG_U8, {6}), short_(OG_U8, {5});
  Tensor flat(OG_F32, {12}), ints(OG_I32, {1, 2, 6}), three(OG_F32, {3}), zero(OG_I32, {2}), mask(OG_U8, {1, 2, 6});
  const auto q = [&](Tensor& in, Tensor& given, Tensor& out, Tensor& found, double kind, double bits) {
    return run(isa, "quantize", {&in, &given, &none}, {&out, &found, &none, &none}, {kind, bits, 0, 0, 0, 0, 0});
  };
  CHECK_FAILS(q(flat, none, codes, scale, 0, 8), OG_INVALID);
  CHECK_FAILS(q(ints, none, codes, scale, 0, 8), OG_UNSUPPORTED);
  CHECK_FAILS(q(x, none, codes, three, 0, 8), OG_INVALID);
  CHECK_FAILS(q(x, none, codes, none, 0, 8), OG_INVALID);
  CHECK_FAILS(q(x, scale, codes, scale, 0, 8), OG_INVALID);
  CHECK_FAILS(q(x, none, codes, scale, 3, 8), OG_INVALID);
  CHECK_FAILS(q(x, none, codes, scale, 0, 7), OG_INVALID);
  CHECK_FAILS(q(x, none, bytes, scale, 0, 8), OG_INVALID);
  CHECK_FAILS(q(x, none, short_, scale, 0, 4), OG_INVALID);
  CHECK_FAILS(q(x, none, codes, scale, 2, 8), OG_INVALID);
  CHECK_FAILS(q(x, none, codes, scale, 1, 8), OG_INVALID);
  CHECK_FAILS(run(isa, "quantize", {&x, &none, &none}, {&codes, &scale, &none, &none}, {0, 8, 1, -1, 0, 0, 0}),
              OG_INVALID);
  CHECK_FAILS(run(isa, "dequantize", {&short_, &scale, &none}, {&x}, {0, 4}), OG_INVALID);
  CHECK_FAILS(run(isa, "dequantize", {&codes, &three, &none}, {&x}, {0, 8}), OG_INVALID);
  CHECK_FAILS(run(isa, "fake_quantize", {&x, &scale, &none}, {&x, &mask}, {-1, 1}), OG_INVALID);
  CHECK_FAILS(run(isa, "fake_quantize", {&x, &scale, &zero}, {&ints, &mask}, {-1, 1}), OG_UNSUPPORTED);
}

}  // namespace

int main() {
  Random random(12);
  std::vector<char> first;
  const Case cases[] = {{kSymmetric, 8, false}, {kAffine, 8, false}, {kSymmetric, 4, false}, {kAffine, 4, false},
                        {kSymmetric, 4, true},  {kAffine, 4, true},  {kNormal, 4, false},    {kNormal, 4, true}};
  const std::vector<int64_t> shapes[] = {
      {1, 1, 0},    {1, 1, 1},     {1, 1, 2},     {1, 3, 7},    {1, 2, 15},  {1, 2, 17},   {1, 2, 31},
      {1, 5, 32},   {1, 2, 33},    {1, 2, 63},    {1, 2, 65},   {1, 2, 127}, {1, 9, 128},  {1, 2, 129},
      {1, 40, 16},  {1, 3, 8192},  {1, 1, 5000},  {4, 1, 2500}, {3, 6, 5},   {33, 200, 1}, {2, 3, 64},
      {3, 2, 1030}, {2, 2, 33000}, {1, 1, 70001}, {5, 0, 4},    {0, 3, 4},   {2, 2100, 1}, {2, 700, 3}};
  for_each_isa([&](og::Isa isa) {
    for (const Case& c : cases) {
      for (const auto& shape : shapes) {
        const int64_t count = shape[0] * shape[1] * shape[2];
        const int64_t inner = shape[1] == 1 ? count : shape[2];
        if (c.packed && (count % 2 || (inner % 2 && shape[1] % 2))) continue;
        context() = std::string(og::isa_name(isa)) + " kind " + std::to_string(c.kind) + " bits " +
                    std::to_string(c.bits) + (c.packed ? " packed " : " ") + std::to_string(shape[0]) + "x" +
                    std::to_string(shape[1]) + "x" + std::to_string(shape[2]);
        check_case(isa, random, c, shape, OG_F32, OG_F32);
        if (count > 20000) continue;
        check_case(isa, random, c, shape, OG_F16, OG_F32);
        check_case(isa, random, c, shape, OG_BF16, OG_F16);
        if (isa == og::kReference) check_case(isa, random, c, shape, OG_F64, OG_F32);
      }
    }
    context() = og::isa_name(isa);
    check_extremes(isa);
    check_middles(isa);
    check_stochastic(isa, &first);
    check_fake(isa, random, OG_F32);
    if (isa == og::kReference) check_fake(isa, random, OG_F64);
    check_refusals(isa);
    const std::vector<int64_t> wide[] = {{1, 1, 200000}, {1, 3000, 64}, {40, 3000, 1}};
    for (const auto& shape : wide) {
      Tensor x(OG_F32, shape), codes(OG_I8, shape), scale(OG_F32, {shape[1]}), errors(OG_F32, {3}), none;
      x.normal(random);
      check_threads(
          [&] {
            CHECK_OK(run(isa, "quantize", {&x, &none, &none}, {&codes, &scale, &none, &errors}, {0, 8, 1, 1, 2, 3, 4}));
          },
          [&] {
            std::vector<char> all = codes.bytes();
            for (const Tensor* t : {&scale, &errors}) all.insert(all.end(), t->bytes().begin(), t->bytes().end());
            return all;
          });
    }
  });
  return finish("quantize");
}
