/** activation.cpp against the formulas in double: every dtype, layout and instruction set, extremes, thread counts. */
#include "check.h"

using namespace og_test;

namespace {

const double kInf = INFINITY;

double logistic(double x) { return 1 / (1 + std::exp(-x)); }
double normal_cdf(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.)); }
double normal_density(double x) { return std::exp(-x * x / 2) / std::sqrt(2 * M_PI); }
double inner(double x) { return std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x); }

double gelu(double x) { return x * normal_cdf(x); }
double gelu_tanh(double x) { return 0.5 * x * (1 + std::tanh(inner(x))); }
double silu(double x) { return x * logistic(x); }
double gelu_slope(double x) { return normal_cdf(x) + x * normal_density(x); }
double gelu_tanh_slope(double x) {  // 1/cosh² and not 1 − tanh², which cancels
  const double u = inner(x), t = std::tanh(u), c = 1 / std::cosh(u),
               du = std::sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
  return logistic(2 * u) + 0.5 * x * (std::isnan(t) ? t : c * c) * du;
}
double silu_slope(double x) { return logistic(x) * (1 + x * (1 - logistic(x))); }
double sigmoid_slope(double y) { return y * (1 - y); }
double tanh_slope(double y) { return 1 - y * y; }
double relu_slope(double x) { return x <= 0 ? 0 : 1; }

struct Case {
  const char* name;
  double attr;  // below 0: none
  double (*value)(double);
  bool backward;
};
const Case kCases[] = {
    {"gelu", 0, gelu, false},
    {"gelu", 1, gelu_tanh, false},
    {"silu", -1, silu, false},
    {"gelu_backward", 0, gelu_slope, true},
    {"gelu_backward", 1, gelu_tanh_slope, true},
    {"silu_backward", -1, silu_slope, true},
    {"sigmoid_backward", -1, sigmoid_slope, true},
    {"tanh_backward", -1, tanh_slope, true},
    {"relu_backward", -1, relu_slope, true},
};

int32_t call(og::Isa isa, const Case& c, Tensor& x, Tensor& grad, Tensor& out) {
  if (c.backward) {
    if (c.attr < 0) return run(isa, c.name, {&x, &grad}, {&out});
    return run(isa, c.name, {&x, &grad}, {&out}, {c.attr});
  }
  if (c.attr < 0) return run(isa, c.name, {&x}, {&out});
  return run(isa, c.name, {&x}, {&out}, {c.attr});
}

void compare(og::Isa isa, const Case& c, Tensor& x, Tensor& grad, Tensor& out) {
  const int32_t status = call(isa, c, x, grad, out);
  CHECK(status == OG_OK, "%s", og::last_message());
  std::vector<double> want;
  for (int64_t i = 0; i < x.count(); i++) want.push_back(c.value(x.get(i)) * (c.backward ? grad.get(i) : 1));
  const double unit = og_test::roundoff(out.dtype());
  check_close(out, want, 8 * unit, 32 * og_test::roundoff(out.dtype() == OG_F64 ? OG_F64 : OG_F32), c.name);
}

void layouts(const Case& c) {
  Random random(1);
  const std::vector<std::vector<int64_t>> shapes = {{}, {0, 3}, {1}, {17}, {33, 5}, {3, 7, 65}, {5000}};
  for (const auto& shape : shapes)
    for (int layout = 0; layout < kLayoutCount; layout++)
      for (int32_t dtype = OG_F32; dtype <= OG_F64; dtype++)
        for_each_isa([&](og::Isa isa) {
          if (dtype == OG_F64 && isa != og::kReference) return;
          Tensor x(dtype, shape, (Layout)layout), grad(dtype, shape, (Layout)((layout + 1) % kLayoutCount));
          Tensor out(dtype, shape, (Layout)((layout + 2) % kLayoutCount));
          if (std::strstr(c.name, "sigmoid"))
            x.uniform(random, 0, 1);
          else if (std::strstr(c.name, "tanh_"))
            x.uniform(random, -1, 1);
          else
            x.normal(random, 3);
          grad.normal(random);
          compare(isa, c, x, grad, out);
        });
}

/** Wide sweep in float32, with the relative error where the function says that it keeps it. */
void sweep() {
  for_each_isa([&](og::Isa isa) {
    Tensor x(OG_F32, {4001}), grad(OG_F32, {4001}), out(OG_F32, {4001});
    x.fill([](int64_t i) { return (i - 2000) * 0.005; });
    grad.fill([](int64_t) { return 1.; });
    for (const Case& c : kCases)
      if (!std::strstr(c.name, "sigmoid") && !std::strstr(c.name, "tanh_")) compare(isa, c, x, grad, out);
    run(isa, "gelu", {&x}, {&out}, {0});
    double worst = 0;
    for (int64_t i = 0; i < 4001; i++)
      if (std::fabs(x.get(i)) <= 6 && x.get(i) != 0)
        worst = std::fmax(worst, std::fabs(out.get(i) / gelu(x.get(i)) - 1));
    CHECK(worst < 1.6e-6, "relative error of gelu %.3g", worst);
  });
}

void extremes() {
  const double points[] = {0.,  -0.,  1e-40, -1e-40, 1e-30, 88,    -88,  104,   -104,
                           1e4, -1e4, 1e18,  -1e18,  3e38,  -3e38, kInf, -kInf, NAN};
  const int64_t n = sizeof points / sizeof points[0];
  for_each_isa([&](og::Isa isa) {
    Tensor x(OG_F32, {n}), grad(OG_F32, {n}), out(OG_F32, {n});
    x.fill([&](int64_t i) { return points[i]; });
    grad.fill([](int64_t) { return 2.; });
    for (const Case& c : kCases) {
      if (std::strstr(c.name, "sigmoid") || std::strstr(c.name, "tanh_")) continue;
      CHECK(call(isa, c, x, grad, out) == OG_OK, "%s", og::last_message());
      for (int64_t i = 0; i < n; i++) {
        const double p = points[i], got = out.get(i);
        if (std::isnan(p)) {
          if (std::strstr(c.name, "relu"))
            CHECK(got == 2, "relu_backward(NaN) = %g", got);
          else
            CHECK(std::isnan(got), "%s(NaN) = %g", c.name, got);
        } else if (std::isfinite(p)) {
          const double limit = p > 50 ? (c.backward ? 2 : p) : p < -50 ? 0 : c.value(p) * (c.backward ? 2 : 1);
          CHECK(close(got, limit, 1e-6, 1e-35), "%s %g (%g) = %g, expected %g", c.name, c.attr, p, got, limit);
        } else if (!c.backward && p > 0) {
          CHECK(got == p, "%s(inf) = %g", c.name, got);
        }
      }
    }
  });
}

/** silu and the tanh form of gelu where e^-v comes to its end. */
void overflow() {
  const int64_t n = 4000;
  for_each_isa([&](og::Isa isa) {
    Tensor x(OG_F32, {n}), out(OG_F32, {n});
    for (const char* kernel : {"silu", "gelu"}) {
      const bool is_silu = std::strcmp(kernel, "silu") == 0;
      x.fill([&](int64_t i) { return is_silu ? -86. - 1e-3 * (double)i : -9.96 - 5e-5 * (double)i; });
      const int32_t status = is_silu ? run(isa, kernel, {&x}, {&out}) : run(isa, kernel, {&x}, {&out}, {1});
      CHECK(status == OG_OK, "%s", og::last_message());
      for (int64_t i = 0; i < n; i++) CHECK(std::fabs(out.get(i)) < 1e-35, "%s(%g) = %g", kernel, x.get(i), out.get(i));
    }
  });
}

void threads_and_aliasing() {
  Random random(2);
  for_each_isa([&](og::Isa isa) {
    for (const Case& c : kCases) {
      Tensor x(OG_F32, {100003}), grad(OG_F32, {100003}), out(OG_F32, {100003});
      x.uniform(random, -1, 1);
      grad.normal(random);
      check_threads([&] { call(isa, c, x, grad, out); }, [&] { return out.bytes(); });
      call(isa, c, x, grad, c.backward ? grad : x);
      CHECK((c.backward ? grad : x).bytes() == out.bytes(), "%s in place gives other bits", c.name);
    }
  });
}

void refusals() {
  for_each_isa([&](og::Isa isa) {
    Tensor x(OG_F32, {4}), wrong(OG_F32, {5}), whole(OG_I32, {4});
    CHECK(run(isa, "silu", {&x}, {&wrong}) == OG_INVALID, "shape");
    CHECK(run(isa, "silu_backward", {&x, &wrong}, {&x}) == OG_INVALID, "shape");
    CHECK(run(isa, "silu", {&whole}, {&whole}) == OG_UNSUPPORTED, "dtype");
  });
}

}  // namespace

int main() {
  for (const Case& c : kCases) {
    context() = c.name;
    layouts(c);
  }
  context() = "sweep";
  sweep();
  context() = "extremes";
  extremes();
  context() = "overflow";
  overflow();
  context() = "threads";
  threads_and_aliasing();
  context() = "refusals";
  refusals();
  return finish("activation");
}
