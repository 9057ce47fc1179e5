// linear_weight_only: few and many rows, the gradient's product and int8 activations against sums in double.
#include <algorithm>

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

/** A random weight and its elements; whoever changes codes, scales or zero points reads these again. */
struct Weight {
  Tensor codes, scale, zero;
  std::vector<double> values;
  int kind, bits;
  int64_t n, k, group;

  Weight(Random& random, int scheme, int width, int64_t rows, int64_t columns, int64_t size, int32_t scale_dtype,
         int32_t zero_dtype)
      : kind(scheme), bits(width), n(rows), k(columns), group(size) {
    const int64_t groups = group ? k / group : 0;
    codes = bits == 4 ? Tensor(OG_U8, {n, k / 2}) : Tensor(kind == 0 ? OG_I8 : OG_U8, {n, k});
    codes.integers(random, bits == 8 && kind == 0 ? -127 : 0, bits == 8 && kind == 0 ? 128 : 256);
    scale = Tensor(scale_dtype, {n, groups}).uniform(random, 0.01, 0.1);
    if (kind == 1) zero = Tensor(zero_dtype, {n, groups}).integers(random, 0, bits == 4 ? 16 : 256);
    read();
  }

  void read() {
    const int64_t groups = group ? k / group : 0;
    values.clear();
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

/** A block on a cache line, as the kernels want it. */
class Packed {
 public:
  int32_t make(og::Isa isa, Weight& w) {
    const int64_t groups = w.scale.shape()[1];
    const int64_t bytes =
        64 + (w.n + 31) / 32 * 32 *
                 (groups * (og::dtype_size(w.scale.dtype()) + (w.zero.present() ? 4 : 0)) + w.k * w.bits / 8);
    memory_.assign((size_t)bytes + 64, (char)0x5a);
    std::memset(&view_, 0, sizeof view_);
    view_.data = memory_.data() + (64 - reinterpret_cast<uintptr_t>(memory_.data()) % 64) % 64;
    view_.dtype = OG_U8;
    view_.rank = 1;
    view_.shape[0] = bytes;
    view_.strides[0] = 1;
    og_view in[] = {w.codes.view(), w.scale.view(), w.zero.view()};
    const double attrs[] = {(double)w.kind, (double)w.bits};
    const og_call call = {in, &view_, attrs, 3, 1, 2};
    return og::run_kernel_on(isa, og::kernel_id("linear_weight_only_pack"), call);
  }
  og_view view() const { return view_; }
  char* data() { return static_cast<char*>(view_.data); }
  bool guarded() const {
    const char* end = static_cast<const char*>(view_.data) + view_.shape[0];
    return std::all_of(end, memory_.data() + memory_.size(), [](char c) { return c == (char)0x5a; });
  }

 private:
  std::vector<char> memory_;
  og_view view_;
};

/** linear_weight_only with a packed weight. */
int32_t run_packed(og::Isa isa, Weight& w, const og_view& packed, Tensor& x, Tensor& bias, Tensor& y, double coded = 1,
                   double transposed = 0) {
  og_view in[] = {x.view(), w.codes.view(), w.scale.view(), w.zero.view(), bias.view(), packed, Tensor().view()},
          out = y.view();
  const double attrs[] = {(double)w.kind, (double)w.bits, coded, transposed, 0};
  const og_call call = {in, &out, attrs, 7, 1, 5};
  return og::run_kernel_on(isa, og::kernel_id("linear_weight_only"), call);
}

void check_product(og::Isa isa, Weight& w, Tensor& x, Tensor& bias, int32_t out, Layout layout, bool coded,
                   bool transposed) {
  Tensor none;
  const int64_t m = x.shape()[0], width = transposed ? w.k : w.n, depth = transposed ? w.n : w.k;
  Tensor y(out, {m, width}, layout);
  CHECK_OK(run(isa, "linear_weight_only", {&x, &w.codes, &w.scale, &w.zero, &bias, &none, &none}, {&y},
               {(double)w.kind, (double)w.bits, (double)coded, (double)transposed, 0}));
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
  if (!coded || w.n == 0) return;
  Packed packed;
  Tensor again(out, {m, width}, layout);
  CHECK_OK(packed.make(isa, w));
  CHECK(packed.guarded(), "pack wrote beyond its block");
  CHECK_OK(run_packed(isa, w, packed.view(), x, bias, again));
  CHECK(again.bytes() == y.bytes(), "a packed weight gives other bits");
}

void check_shapes(og::Isa isa, Random& random) {
  struct Shape {
    int64_t n, k, group;
  };
  const Shape shapes[] = {{1, 32, 32},   {3, 64, 32},  {5, 96, 32},    {7, 128, 64},   {33, 128, 128},
                          {65, 160, 32}, {17, 96, 96}, {31, 384, 128}, {129, 256, 64}, {4, 768, 256}};
  const int64_t rows[] = {1, 2, 3, 4, 7, 16, 17, 33};
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
        const bool integers = kind != 2;
        if (integers) check_product(isa, w, x, bias, OG_F32, kDense, true, false);
        if (m == 3 || m == 17) {
          Tensor half(OG_BF16, {m, s.k}, kGaps), other(OG_F16, {s.n}, kReversed);
          half.normal(random), other.normal(random);
          check_product(isa, w, half, other, OG_F16, kTransposed, false, false);
          if (integers) check_product(isa, w, half, other, OG_BF16, kGaps, true, false);
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
  CHECK_OK(run(isa, "linear_weight_only", {&x, &empty.codes, &empty.scale, &none, &bias, &none, &none}, {&y},
               {0, 4, 0, 0, 0}));
  for (int64_t i = 0; i < 18; i++) CHECK(y.get(i) == bias.get(i % 6), "an empty sum is the bias");
  CHECK_OK(run(isa, "linear_weight_only", {&e, &rowless.codes, &rowless.scale, &none, &none, &none, &none}, {&z},
               {0, 8, 0, 1, 0}));
  for (int64_t i = 0; i < 192; i++) CHECK(z.get(i) == 0, "an empty sum is zero");
  Tensor nothing(OG_F32, {0, 0});
  CHECK_OK(run(isa, "linear_weight_only", {&wide, &rowless.codes, &rowless.scale, &none, &none, &none, &none},
               {&nothing}, {0, 8, 0, 0, 0}));

  Weight w(random, 0, 4, 8, 64, 32, OG_F32, OG_I32);
  Tensor a(OG_F32, {2, 64}), out(OG_F32, {2, 8});
  a.fill([](int64_t i) { return i == 5 ? NAN : i < 64 ? 1 : 0; });
  for (double coded : {0., 1.}) {
    CHECK_OK(run(isa, "linear_weight_only", {&a, &w.codes, &w.scale, &none, &none, &none, &none}, {&out},
                 {0, 4, coded, 0, 0}));
    for (int64_t i = 0; i < 8; i++) CHECK(std::isnan(out.get(i)) && out.get(8 + i) == 0, "NaN stays in its row");
  }
}

/**
 * Integer sums are exact: with scales of one, whole activations whose block holds a 127, and weights at their extremes,
 * y is the exact integer (below 2^24). Zero points beyond a byte take the wide form.
 */
void check_extremes(og::Isa isa, Random& random) {
  for (int bits : {4, 8})
    for (int kind : {0, 1})
      for (int wide : {0, 1}) {
        if (wide && kind == 0) continue;
        context() = std::string(og::isa_name(isa)) + " extremes " + std::to_string(bits) + " " + std::to_string(kind);
        const int64_t n = 35, k = 64, m = 9;
        Weight w(random, kind, bits, n, k, 32, OG_F32, OG_I32);
        w.scale.fill([](int64_t) { return 1.; });
        const bool bytes = bits == 8 && kind == 0;
        w.codes.fill([&](int64_t i) {
          return i % 3 == 0 ? (bytes ? -128. : 0.) : i % 3 == 1 ? (bytes ? 127. : 255.) : (double)random.below(100);
        });
        if (kind == 1)
          w.zero.fill([&](int64_t i) { return wide ? (i % 2 ? -300. : 700.) : i % 2 ? 0. : bits == 4 ? 15. : 255.; });
        w.read();
        Tensor x(OG_F32, {m, k}), y(OG_F32, {m, n}), none;
        x.fill([&](int64_t i) {
          const int64_t row = i / k;
          return i % 32 == 0 ? 127. : row == 0 ? 127. : row == 1 ? -127. : (double)(random.below(255) - 127);
        });
        CHECK_OK(run(isa, "linear_weight_only", {&x, &w.codes, &w.scale, &w.zero, &none, &none, &none}, {&y},
                     {(double)kind, (double)bits, 1, 0, 0}));
        for (int64_t i = 0; i < m * n; i++) {
          int64_t sum = 0;
          for (int64_t j = 0; j < k; j++)
            sum += (int64_t)w.values[(size_t)(i % n * k + j)] * (int64_t)x.get(i / n * k + j);
          CHECK(y.get(i) == (double)sum, "y[%lld] is %.9g, expected %lld", (long long)i, y.get(i), (long long)sum);
        }
      }
}

/**
 * With scales of one, x of whole numbers times a power of two, and codes at their extremes, y is exact: whichever way
 * few rows take, also where x is too small or too large for digits.
 */
void check_exact_rows(og::Isa isa, Random& random) {
  for (int bits : {4, 8})
    for (int kind : {0, 1})
      for (int64_t group : {32, 64, 160}) {
        const int64_t n = 9, k = group == 64 ? 192 : 160, groups = k / group;
        Weight w(random, kind, bits, n, k, group, groups % 2 ? OG_F16 : OG_F32, OG_I32);
        w.scale.fill([](int64_t) { return 1.; });
        const bool bytes = bits == 8 && kind == 0;
        w.codes.fill([&](int64_t i) {
          return i % 3 == 0 ? (bytes ? -128. : 0.) : i % 3 == 1 ? (bytes ? 127. : 255.) : (double)random.below(100);
        });
        if (kind == 1) w.zero.fill([&](int64_t i) { return i % 2 ? 0. : bits == 4 ? 15. : 255.; });
        w.read();
        for (int64_t m : {1, 2, 3, 4, 5})
          for (double unit : {1., 0x1p-110, 0x1p-75, 0x1p80}) {
            context() = std::string(og::isa_name(isa)) + " exact " + std::to_string(bits) + " " + std::to_string(kind) +
                        " group " + std::to_string(group) + " rows " + std::to_string(m);
            Tensor x(OG_F32, {m, k}), y(OG_F32, {m, n}), none;
            x.fill([&](int64_t i) {
              return unit * (i / 32 % 4 == 3 ? 0. : i % 7 == 0 ? 127. : random.below(255) - 127.);
            });
            CHECK_OK(run(isa, "linear_weight_only", {&x, &w.codes, &w.scale, &w.zero, &none, &none, &none}, {&y},
                         {(double)kind, (double)bits, 0, 0, 0}));
            for (int64_t i = 0; i < m * n; i++) {
              double sum = 0;
              for (int64_t j = 0; j < k; j++) sum += w.values[(size_t)(i % n * k + j)] * x.get(i / n * k + j);
              CHECK(y.get(i) == sum, "y[%lld] is %.9g, expected %.9g", (long long)i, y.get(i), sum);
            }
          }
      }
}

/**
 * One to five rows by every form of numbers that few rows read: groups that fill a vector of codes and that do not,
 * scales and zero points of both dtypes, and x whose blocks reach each digit's extremes.
 */
void check_few_rows(og::Isa isa, Random& random) {
  Tensor bias(OG_F32, {13});
  bias.normal(random);
  for (int bits : {4, 8})
    for (int kind : {0, 1})
      for (int32_t scales : {OG_F32, OG_F16})
        for (int64_t group : {32, 64, 96, 128, 160, 384}) {
          const int64_t k = group == 384 ? 384 : group == 128 ? 256 : group * 3;
          Weight w(random, kind, bits, 13, k, group, scales, scales == OG_F32 ? OG_U8 : OG_I32);
          for (int64_t m : {1, 2, 3, 4, 5}) {
            named("%s few rows, %d bits, kind %d, %s scales, group %d, %d rows", og::isa_name(isa), bits, kind,
                  scales == OG_F16 ? "half" : "float", (int)group, (int)m);
            Tensor x(OG_F32, {m, k});
            x.normal(random);
            check_product(isa, w, x, bias, OG_F32, kDense, false, false);
            // just below a power of two, above which the unit doubles, of both signs; and far below their block's
            // largest
            x.fill([&](int64_t i) {
              const double sign = i % 3 == 0 ? -1 : 1;
              return sign * (i / 32 % 2 ? i % 5 == 0 ? 2 - 0x1p-23 : random.uniform(0, 2) : i % 5 == 0 ? 3 : 0x1p-21);
            });
            check_product(isa, w, x, bias, OG_F32, kDense, false, false);
          }
        }
}

/** Infinity and NaN stay in their row, whatever the others' way. */
void check_few_special(og::Isa isa, Random& random) {
  for (int bits : {4, 8})
    for (int kind : {0, 1})
      for (double special : {(double)NAN, (double)INFINITY}) {
        named("%s special %g, %d bits, kind %d", og::isa_name(isa), special, bits, kind);
        Weight w(random, kind, bits, 7, 96, 32, OG_F32, OG_I32);
        Tensor x(OG_F32, {3, 96}), one(OG_F32, {1, 96}), y(OG_F32, {3, 7}), alone(OG_F32, {1, 7}), none;
        x.fill([&](int64_t i) { return i == 96 + 40 ? special : (i % 9 - 4) * 0.25; });
        one.fill([&](int64_t i) { return (i % 9 - 4) * 0.25; });
        CHECK_OK(run(isa, "linear_weight_only", {&x, &w.codes, &w.scale, &w.zero, &none, &none, &none}, {&y},
                     {(double)kind, (double)bits, 0, 0, 0}));
        CHECK_OK(run(isa, "linear_weight_only", {&one, &w.codes, &w.scale, &w.zero, &none, &none, &none}, {&alone},
                     {(double)kind, (double)bits, 0, 0, 0}));
        for (int64_t i = 0; i < 7; i++) {
          const double weight = w.values[(size_t)(i * 96 + 40)], got = y.get(7 + i);
          if (std::isnan(special))
            CHECK(std::isnan(got), "y[1, %lld] is %g, not NaN", (long long)i, got);
          else if (weight != 0)
            CHECK(std::isinf(got) && (got > 0) == (weight > 0), "y[1, %lld] is %g", (long long)i, got);
          CHECK(std::fabs(y.get(i) - alone.get(i)) <= 1e-4, "row 0 changed from %g to %g", alone.get(i), y.get(i));
        }
      }
}

/** Activation and residual: those of the sums that come without. */
void check_end(og::Isa isa, Random& random) {
  Tensor none;
  Weight w(random, 0, 4, 70, 64, 32, OG_F32, OG_I32), nf4(random, 2, 4, 70, 64, 32, OG_F32, OG_I32);
  for (int64_t m : {1, 3, 9, 40})
    for (double coded : {0., 1.})
      for (int kind = 0; kind < 7; kind++)
        for (Layout layout : {kDense, kTransposed}) {
          context() = std::string(og::isa_name(isa)) + " end " + std::to_string(kind) + " rows " + std::to_string(m);
          Weight& weight = kind == 2 && coded == 0 ? nf4 : w;
          Tensor x(OG_F32, {m, 64}), bias(OG_F32, {70}), residual(OG_F32, {m, 70}, layout), sums(OG_F32, {m, 70}),
              y(OG_F32, {m, 70}, layout);
          x.normal(random), bias.normal(random), residual.normal(random);
          const auto call = [&](Tensor& more, Tensor& to, int f) {
            return run(isa, "linear_weight_only", {&x, &weight.codes, &weight.scale, &none, &bias, &none, &more}, {&to},
                       {(double)weight.kind, 4, coded, 0, (double)f});
          };
          CHECK_OK(call(none, sums, 0));
          CHECK_OK(call(kind % 2 ? residual : none, y, kind));
          for (int64_t i = 0; i < m * 70; i++) {
            const double v = sums.get(i), e = std::exp(-v);
            const double f[] = {
                v,
                0.5 * v * std::erfc(-v / std::sqrt(2.)),
                0.5 * v * (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846) * (v + 0.044715 * v * v * v))),
                v / (1 + e),
                v < 0 ? 0 : v,
                1 / (1 + e),
                std::tanh(v)};
            const double wanted = f[kind] + (kind % 2 ? residual.get(i) : 0);
            CHECK(std::fabs(y.get(i) - wanted) <= 1e-6 * (1 + std::fabs(v)), "y[%lld] is %.8g, expected %.8g",
                  (long long)i, y.get(i), wanted);
          }
        }
  context() = std::string(og::isa_name(isa)) + " end";
  Tensor x(OG_F32, {2, 64}), y(OG_F32, {2, 70}), half(OG_F16, {2, 70}), narrow(OG_F32, {2, 69});
  const auto call = [&](Tensor& a, Tensor& residual, Tensor& to, double transposed, double f) {
    return run(isa, "linear_weight_only", {&a, &w.codes, &w.scale, &none, &none, &none, &residual}, {&to},
               {0, 4, 0, transposed, f});
  };
  CHECK_FAILS(call(x, half, y, 0, 0), OG_INVALID);
  CHECK_FAILS(call(x, narrow, y, 0, 0), OG_INVALID);
  CHECK_FAILS(call(x, none, half, 0, 1), OG_UNSUPPORTED);
  CHECK_FAILS(call(y, none, x, 1, 1), OG_INVALID);
  CHECK_FAILS(call(x, none, y, 0, 7), OG_INVALID);
}

/** Blocks of another set, weight, or none are refused. */
void check_packed(og::Isa isa, Random& random) {
  context() = std::string(og::isa_name(isa)) + " packed";
  Weight w(random, 1, 4, 40, 64, 32, OG_F16, OG_I32), other(random, 1, 4, 40, 64, 64, OG_F16, OG_I32),
      nf4(random, 2, 4, 40, 64, 32, OG_F16, OG_I32);
  Tensor x(OG_F32, {3, 64}), y(OG_F32, {3, 40}), grad(OG_F32, {3, 40}), none;
  x.normal(random);
  Packed packed, wrong;
  CHECK_OK(packed.make(isa, w));
  CHECK_OK(run_packed(isa, w, packed.view(), x, none, y));
  CHECK_FAILS(run_packed(isa, w, packed.view(), x, none, y, 0), OG_INVALID);
  CHECK_FAILS(run_packed(isa, w, packed.view(), grad, none, x, 1, 1), OG_INVALID);
  CHECK_FAILS(wrong.make(isa, nf4), OG_UNSUPPORTED);
  CHECK_OK(wrong.make(isa, other));
  CHECK_FAILS(run_packed(isa, w, wrong.view(), x, none, y), OG_INVALID);
  og_view shorter = packed.view(), shifted = packed.view();
  shorter.shape[0]--;
  shifted.data = packed.data() + 8;
  CHECK_FAILS(run_packed(isa, w, shorter, x, none, y), OG_INVALID);
  CHECK_FAILS(run_packed(isa, w, shifted, x, none, y), OG_INVALID);
  for (int i = 0; i < og::kIsaCount; i++) {
    if ((og::Isa)i == isa || !og::isa_available((og::Isa)i)) continue;
    CHECK_OK(wrong.make((og::Isa)i, w));
    CHECK_FAILS(run_packed(isa, w, wrong.view(), x, none, y), OG_INVALID);
  }
  packed.data()[0] ^= 1;
  CHECK_FAILS(run_packed(isa, w, packed.view(), x, none, y), OG_INVALID);
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
    return run(isa, "linear_weight_only", {&a, &codes, &scale, &zero, &b, &none, &none}, {&out}, {kind, bits, 0, 0, 0});
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
    check_extremes(isa, random);
    check_exact_rows(isa, random);
    check_few_rows(isa, random);
    check_few_special(isa, random);
    check_end(isa, random);
    check_packed(isa, random);
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
              CHECK_OK(run(isa, "linear_weight_only", {&x, &w.codes, &w.scale, &none, &none, &none, &none}, {&y},
                           {0, 4, coded, 0, 0}));
            },
            [&] { return y.bytes(); });
    }
    // sums of a block are integers: the same with and without the instruction, and for each height of panels
    Weight bytes(random, 1, 8, 1500, 768, 64, OG_F32, OG_U8);
    for (Weight* weight : {&w, &bytes}) {
      const double kind = weight->kind, bits = weight->bits;
      Tensor x(OG_F32, {11, 768}), y(OG_F32, {11, 1500});
      x.normal(random);
      const auto multiply = [&] {
        CHECK_OK(run(isa, "linear_weight_only",
                     {&x, &weight->codes, &weight->scale, &weight->zero, &none, &none, &none}, {&y},
                     {kind, bits, 1, 0, 0}));
      };
      multiply();
      const std::vector<char> with = y.bytes();
      for (og::CpuFeature feature : {og::kVnni, og::kDotProduct}) {
        if (!og::cpu_feature(feature)) continue;
        og::use_cpu_feature(feature, false);
        multiply();
        og::use_cpu_feature(feature, true);
        CHECK(with == y.bytes(), "other instructions give other bits");
      }
    }
  });
  return finish("linear_weight_only");
}
