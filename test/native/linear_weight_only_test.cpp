// linear_weight_only: few and many rows, the gradient's product and int8 activations against sums in double.
#include "check.h"
#include "core/cpu_features.h"

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

/** A random weight and its elements. */
struct Weight {
  Tensor codes, scale, zero;
  std::vector<double> values;
  int kind, bits;
  int64_t n, k;

  Weight(Random& random, int scheme, int width, int64_t rows, int64_t columns, int64_t group, int32_t scale_dtype,
         int32_t zero_dtype)
      : kind(scheme), bits(width), n(rows), k(columns) {
    const int64_t groups = group ? k / group : 0;
    codes = bits == 4 ? Tensor(OG_U8, {n, k / 2}) : Tensor(kind == 0 ? OG_I8 : OG_U8, {n, k});
    codes.integers(random, bits == 8 && kind == 0 ? -127 : 0, bits == 8 && kind == 0 ? 128 : 256);
    scale = Tensor(scale_dtype, {n, groups}).uniform(random, 0.01, 0.1);
    if (kind == 1) zero = Tensor(zero_dtype, {n, groups}).integers(random, 0, bits == 4 ? 16 : 256);
    for (int64_t i = 0; i < n * k; i++) {
      double code = codes.get(bits == 4 ? i / 2 : i);
      if (bits == 4) code = (double)(i % 2 ? (int)code >> 4 : (int)code & 15);
      const int64_t at = i / k * groups + (group ? i % k / group : 0);
      const double z = kind == 1 ? zero.get(at) : kind == 0 && bits == 4 ? 8 : 0;
      values.push_back((kind == 2 ? kNf4[(int)code] : code - z) * scale.get(at));
    }
  }
};

/** Activations as the int8 way sees them. */
std::vector<double> rounded(const Tensor& x) {
  std::vector<double> out = x.values();
  for (size_t i = 0; i < out.size(); i += 32) {
    float largest = 0;
    for (size_t j = i; j < i + 32; j++) largest = std::fmax(largest, std::fabs((float)out[j]));
    const float scale = largest == 0 ? 1 : largest / 127.f;
    for (size_t j = i; j < i + 32; j++) out[j] = std::nearbyint((double)((float)out[j] / scale)) * (double)scale;
  }
  return out;
}

void check_product(og::Isa isa, Weight& w, Tensor& x, Tensor& bias, int32_t out, Layout layout, bool coded,
                   bool transposed) {
  const int64_t m = x.shape()[0], width = transposed ? w.k : w.n, depth = transposed ? w.n : w.k;
  Tensor y(out, {m, width}, layout);
  CHECK_OK(run(isa, "linear_weight_only", {&x, &w.codes, &w.scale, &w.zero, &bias}, {&y},
               {(double)w.kind, (double)w.bits, (double)coded, (double)transposed}));
  const std::vector<double> a = coded ? rounded(x) : x.values();
  for (int64_t i = 0; i < m * width; i++) {
    const int64_t row = i / width, column = i % width;
    double sum = bias.present() ? bias.get(column) : 0, size = std::fabs(sum);
    for (int64_t j = 0; j < depth; j++) {
      const double term =
          a[(size_t)(row * depth + j)] * w.values[(size_t)(transposed ? j * w.k + column : column * w.k + j)];
      sum += term, size += std::fabs(term);
    }
    // affine codes: (|code| + |zero|) is up to four times |code − zero| on average
    const double bound = size * (depth + 8) * 0x1p-24 * (w.kind == 1 ? 4 : 1) + std::fabs(sum) * roundoff(out) + 1e-6;
    if (std::fabs(y.get(i) - sum) <= bound) continue;
    CHECK(false, "y[%lld, %lld] is %.8g, expected %.8g", (long long)row, (long long)column, y.get(i), sum);
    return;
  }
  passes()++;
}

void check_shapes(og::Isa isa, Random& random) {
  struct Shape {
    int64_t n, k, group;
  };
  const Shape shapes[] = {{1, 32, 32},   {3, 64, 32},  {5, 96, 32},    {7, 128, 64},   {33, 128, 128},
                          {65, 160, 32}, {17, 96, 96}, {31, 384, 128}, {129, 256, 64}, {4, 768, 256}};
  const int64_t rows[] = {1, 2, 3, 7, 16, 17, 33};
  Tensor none;
  for (const Shape& s : shapes) {
    for (int scheme = 0; scheme < 5; scheme++) {
      const int kind = scheme < 2 ? 0 : scheme < 4 ? 1 : 2, bits = scheme % 2 ? 8 : 4;
      Weight w(random, kind, bits, s.n, s.k, s.group, scheme % 2 ? OG_F16 : OG_F32, s.n % 2 ? OG_U8 : OG_I32);
      for (int64_t m : rows) {
        if (isa == og::kReference && m > 7 && m != 17) continue;
        context() = std::string(og::isa_name(isa)) + " " + std::to_string(m) + "x" + std::to_string(s.n) + "x" +
                    std::to_string(s.k) + " group " + std::to_string(s.group) + " scheme " + std::to_string(scheme);
        Tensor x(OG_F32, {m, s.k}), bias(OG_F32, {s.n});
        x.normal(random), bias.normal(random);
        check_product(isa, w, x, bias, OG_F32, kDense, false, false);
        Tensor grad(OG_F32, {m, s.n});
        grad.normal(random);
        check_product(isa, w, grad, none, OG_F32, kDense, false, true);
        const bool dots = bits == 4 && kind != 2 && m <= 16;
        if (dots) check_product(isa, w, x, bias, OG_F32, kDense, true, false);
        if (m == 3 || m == 17) {
          Tensor half(OG_BF16, {m, s.k}, kGaps), other(OG_F16, {s.n}, kReversed);
          half.normal(random), other.normal(random);
          check_product(isa, w, half, other, OG_F16, kTransposed, false, false);
        }
      }
    }
  }
}

void check_edges(og::Isa isa, Random& random) {
  context() = std::string(og::isa_name(isa)) + " edges";
  Tensor none, bias(OG_F32, {6});
  bias.normal(random);
  Weight empty(random, 0, 4, 6, 0, 0, OG_F32, OG_I32), rowless(random, 0, 8, 0, 64, 32, OG_F32, OG_I32);
  Tensor x(OG_F32, {3, 0}), y(OG_F32, {3, 6}), z(OG_F32, {3, 64}), e(OG_F32, {3, 0}), wide(OG_F32, {0, 64});
  CHECK_OK(run(isa, "linear_weight_only", {&x, &empty.codes, &empty.scale, &none, &bias}, {&y}, {0, 4, 0, 0}));
  for (int64_t i = 0; i < 18; i++) CHECK(y.get(i) == bias.get(i % 6), "an empty sum is the bias");
  CHECK_OK(run(isa, "linear_weight_only", {&e, &rowless.codes, &rowless.scale, &none, &none}, {&z}, {0, 8, 0, 1}));
  for (int64_t i = 0; i < 192; i++) CHECK(z.get(i) == 0, "an empty sum is zero");
  Tensor nothing(OG_F32, {0, 0});
  CHECK_OK(
      run(isa, "linear_weight_only", {&wide, &rowless.codes, &rowless.scale, &none, &none}, {&nothing}, {0, 8, 0, 0}));

  Weight w(random, 0, 4, 8, 64, 32, OG_F32, OG_I32);
  Tensor a(OG_F32, {2, 64}), out(OG_F32, {2, 8});
  a.fill([](int64_t i) { return i == 5 ? NAN : i < 64 ? 1 : 0; });
  for (double coded : {0., 1.}) {
    CHECK_OK(run(isa, "linear_weight_only", {&a, &w.codes, &w.scale, &none, &none}, {&out}, {0, 4, coded, 0}));
    for (int64_t i = 0; i < 8; i++) CHECK(std::isnan(out.get(i)) && out.get(8 + i) == 0, "NaN stays in its row");
  }
}

void check_refusals(og::Isa isa, Random& random) {
  context() = std::string(og::isa_name(isa)) + " refusals";
  Tensor none, x(OG_F32, {2, 64}), y(OG_F32, {2, 8}), narrow(OG_F32, {2, 7}), flat(OG_F32, {128}),
      ints(OG_I32, {2, 64});
  Weight w(random, 0, 4, 8, 64, 32, OG_F32, OG_I32), odd(random, 0, 4, 8, 64, 16, OG_F32, OG_I32);
  Tensor scales(OG_F32, {8, 3}), zeros(OG_I32, {8, 2}), bias(OG_F32, {7}), gaps(OG_F32, {8, 2}, kGaps),
      bf(OG_BF16, {8, 2});
  const auto call = [&](Tensor& a, Tensor& codes, Tensor& scale, Tensor& zero, Tensor& b, Tensor& out, double kind,
                        double bits) {
    return run(isa, "linear_weight_only", {&a, &codes, &scale, &zero, &b}, {&out}, {kind, bits, 0, 0});
  };
  CHECK_OK(call(x, w.codes, w.scale, none, none, y, 0, 4));
  CHECK_FAILS(call(flat, w.codes, w.scale, none, none, y, 0, 4), OG_INVALID);
  CHECK_FAILS(call(ints, w.codes, w.scale, none, none, y, 0, 4), OG_UNSUPPORTED);
  CHECK_FAILS(call(x, w.codes, w.scale, none, none, narrow, 0, 4), OG_INVALID);
  CHECK_FAILS(call(x, w.codes, scales, none, none, y, 0, 4), OG_INVALID);
  CHECK_FAILS(call(x, w.codes, gaps, none, none, y, 0, 4), OG_INVALID);
  CHECK_FAILS(call(x, w.codes, bf, none, none, y, 0, 4), OG_UNSUPPORTED);
  CHECK_FAILS(call(x, w.codes, w.scale, zeros, none, y, 0, 4), OG_INVALID);
  CHECK_FAILS(call(x, w.codes, w.scale, none, bias, y, 0, 4), OG_INVALID);
  CHECK_FAILS(call(x, w.codes, w.scale, none, none, y, 0, 8), OG_INVALID);
  CHECK_FAILS(call(x, w.codes, w.scale, none, none, y, 2, 8), OG_INVALID);
  CHECK_FAILS(call(x, w.codes, w.scale, none, none, y, 3, 4), OG_INVALID);
  CHECK_FAILS(call(x, w.codes, w.scale, none, none, y, 0, 5), OG_INVALID);
  CHECK_FAILS(call(x, odd.codes, odd.scale, none, none, y, 0, 4), OG_UNSUPPORTED);
}

}  // namespace

int main() {
  Random random(21);
  for_each_isa([&](og::Isa isa) {
    check_shapes(isa, random);
    check_edges(isa, random);
    check_refusals(isa, random);
    context() = og::isa_name(isa);
    if (isa == og::kReference) return;
    Weight w(random, 0, 4, 1500, 768, 32, OG_F32, OG_I32);
    Tensor none;
    for (int64_t m : {1, 40}) {
      Tensor x(OG_F32, {m, 768}), y(OG_F32, {m, 1500});
      x.normal(random);
      for (double coded : {0., 1.})
        check_threads(
            [&] {
              CHECK_OK(run(isa, "linear_weight_only", {&x, &w.codes, &w.scale, &none, &none}, {&y}, {0, 4, coded, 0}));
            },
            [&] { return y.bytes(); });
    }
    if (!og::cpu_feature(og::kVnni)) return;
    Tensor x(OG_F32, {5, 768}), with(OG_F32, {5, 1500}), without(OG_F32, {5, 1500});
    x.normal(random);
    CHECK_OK(run(isa, "linear_weight_only", {&x, &w.codes, &w.scale, &none, &none}, {&with}, {0, 4, 1, 0}));
    og::use_cpu_feature(og::kVnni, false);
    CHECK_OK(run(isa, "linear_weight_only", {&x, &w.codes, &w.scale, &none, &none}, {&without}, {0, 4, 1, 0}));
    og::use_cpu_feature(og::kVnni, true);
    CHECK(with.bytes() == without.bytes(), "VNNI gives other bits");
  });
  return finish("linear_weight_only");
}
