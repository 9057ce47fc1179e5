/**
 * math.h against the C library in double (erf, Φ: long double), over a dense sweep of all floats. Built once per
 * instruction set (CMakeLists.txt), because the functions exist only inside the kernels' own compilation.
 */
#include "cpu/math.h"

#include "check.h"

using namespace og_test;

namespace {

/** Distance in units of the last place of `want` rounded to float; subnormals share one unit. */
double ulps(float got, long double want) {
  const double limit = 3.4028235677973366e38;  // halfway between the largest float and 2^128
  if (std::isnan((double)want)) return std::isnan(got) ? 0 : INFINITY;
  if (std::fabs((double)want) >= limit) return got == (want > 0 ? INFINITY : -INFINITY) ? 0 : INFINITY;
  if (!std::isfinite(got)) return INFINITY;
  int exponent;
  std::frexp((double)want, &exponent);
  const double unit = std::ldexp(1., (want == 0 || exponent < -125 ? -125 : exponent) - 24);
  return std::fabs((double)((long double)got - want)) / unit;
}

struct Worst {
  double value = 0;
  float at = 0;
};

/**
 * Every step-th float of each sign whose magnitude lies in [low, high], through f, against exact; a 17th of them where
 * sizes are small: one function has few paths, and exact values in long double are slow under an emulator.
 */
template <class F, class G, class E>
Worst sweep(float low, float high, bool negative, uint32_t wanted, const F& f, const G& exact, const E& error) {
  const uint32_t step = small_sizes() ? 17 * wanted : wanted;
  Worst worst;
  const uint32_t last = og::float_bits(high);
  float x[og::kLanes], y[og::kLanes];
  for (uint32_t u = og::float_bits(low); u <= last;) {
    for (int i = 0; i<og::kLanes; i++, u += u> last ? 0 : step) {
      const float v = og::bits_float(u > last ? last : u);
      x[i] = negative ? -v : v;
    }
    og::store(y, f(og::load(x)));
    for (int i = 0; i < og::kLanes; i++) {
      const double e = error(y[i], exact(x[i]));
      if (!(e <= worst.value)) worst = {e, x[i]};
    }
    if (u > last) break;
  }
  return worst;
}

constexpr uint32_t kStep = 1013;  // about two million of each sign

template <class F, class G>
void check_ulps(const char* name, double bound, float low, float high, bool negative, const F& f, const G& exact,
                uint32_t step = kStep) {
  const Worst w = sweep(low, high, negative, step, f, exact, ulps);
  CHECK(w.value <= bound, "%s is %.3f ulp off at %.9g, the bound is %g", name, w.value, w.at, bound);
  if (std::getenv("OG_VERBOSE"))
    std::printf("%-28s [%g, %g]%s %.3f ulp at %.9g\n", name, low, high, negative ? " negative" : "", w.value, w.at);
}

template <class F>
float one(const F& f, float x) {
  float y[og::kLanes];
  og::store(y, f(og::set1(x)));
  return y[0];
}

template <class F>
void check_point(const char* name, const F& f, float x, float want) {
  const float got = one(f, x);
  CHECK(std::isnan(want) ? std::isnan(got) : og::float_bits(got) == og::float_bits(want), "%s(%g) is %g, expected %g",
        name, x, got, want);
}

}  // namespace

int main() {
#ifdef __AVX512F__
  if (!og::isa_available(og::kAvx512)) return skip("math: no AVX-512 here");
#elif defined(__AVX2__)
  if (!og::isa_available(og::kAvx2)) return skip("math: no AVX2 here");
#endif
  const float inf = INFINITY, nan = NAN, tiny = 1.401298464e-45f, huge = 3.4028234e38f;
  const auto exp_v = [](og::Vf x) { return og::exp(x); };
  const auto expn_v = [](og::Vf x) { return og::exp_nonpositive(x); };
  const auto log_v = [](og::Vf x) { return og::log(x); };
  const auto tanh_v = [](og::Vf x) { return og::tanh(x); };
  const auto sigmoid_v = [](og::Vf x) { return og::sigmoid(x); };
  const auto erf_v = [](og::Vf x) { return og::erf(x); };
  const auto cdf_v = [](og::Vf x) { return og::normal(x).cdf; };
  const auto density_v = [](og::Vf x) { return og::normal(x).density; };

  const auto exp_d = [](float x) { return (long double)std::exp((double)x); };
  const auto log_d = [](float x) { return (long double)std::log((double)x); };
  const auto tanh_d = [](float x) { return (long double)std::tanh((double)x); };
  const auto sigmoid_d = [](float x) { return 1.L / (1.L + std::exp(-(long double)x)); };
  const auto erf_d = [](float x) { return (long double)std::erf((double)x); };

  context() = "exp";
  check_ulps("exp", 1, 0, huge, false, exp_v, exp_d);
  check_ulps("exp", 1, 0, huge, true, exp_v, exp_d);
  check_ulps("exp near overflow", 1, 88.f, 89.f, false, exp_v, exp_d, 3);
  check_ulps("exp to subnormals", 1, 86.f, 105.f, true, exp_v, exp_d, 7);
  check_point("exp", exp_v, inf, inf);
  check_point("exp", exp_v, -inf, 0);
  check_point("exp", exp_v, nan, nan);
  check_point("exp", exp_v, og::bits_float(0x7f800001u), nan);
  check_point("exp", exp_v, 0, 1);
  check_point("exp", exp_v, -0.f, 1);
  check_point("exp", exp_v, 88.72283f, og::bits_float(0x7f7fff84u));

  context() = "exp_nonpositive";
  check_ulps("exp_nonpositive", 1, 0, 87.32f, true, expn_v, exp_d);
  check_ulps("exp_nonpositive above 0", 1, 0, 80.f, false, expn_v, exp_d);
  check_point("exp_nonpositive", expn_v, -87.7f, 0);
  check_point("exp_nonpositive", expn_v, -88.5f, 0);
  check_point("exp_nonpositive", expn_v, -huge, 0);
  check_point("exp_nonpositive", expn_v, -inf, 0);
  check_point("exp_nonpositive", expn_v, 0, 1);
  // a difference's own rounding grows with it, and so may the error
  const auto difference_v = [](og::Vf x) { return og::exp_difference(x); };
  const auto per_unit = [](float got, long double want) {
    return ulps(got, want) / (1 - 0.05 * std::log((double)want));
  };
  const Worst w = sweep(0, 87.32f, true, kStep, difference_v, exp_d, per_unit);
  CHECK(w.value <= 1, "exp_difference is %.3f of its bound off at %.9g", w.value, w.at);
  check_point("exp_difference", difference_v, -87.7f, 0);
  check_point("exp_difference", difference_v, -inf, 0);
  check_point("exp_difference", difference_v, 0, 1);
  check_point("exp_difference", difference_v, nan, nan);
  check_point("exp_difference", difference_v, -nan, nan);
  const auto scaled_v = [](og::Vf x) { return og::exp_scaled(x * (float)og::kExpScale); };
  const auto of_product = [](float got, long double want) {
    return ulps(got, want) / (1.5 + 2 * std::fabs(std::log((double)want)));
  };
  for (int negative = 0; negative < 2; negative++) {
    const Worst most = sweep(0, negative ? 87.3f : 88.f, negative, kStep, scaled_v, exp_d, of_product);
    CHECK(most.value <= 1, "exp_scaled is %.3f of its bound off at %.9g", most.value, most.at);
  }
  const auto or_infinite = [](float got, long double want) {
    return std::isinf(got) && want > 1e38L ? 0 : ulps(got, want) / 200;
  };
  const Worst end = sweep(88.f, 88.72f, false, 3, scaled_v, exp_d, or_infinite);
  CHECK(end.value <= 1, "exp_scaled is %.3f of its bound off at %.9g", end.value, end.at);
  check_point("exp_scaled", scaled_v, 0, 1);
  check_point("exp_scaled", scaled_v, 88.8f, inf);
  check_point("exp_scaled", scaled_v, huge, inf);
  check_point("exp_scaled", scaled_v, inf, inf);
  check_point("exp_scaled", scaled_v, nan, nan);
  check_point("exp_scaled", scaled_v, -nan, nan);
  CHECK(one(scaled_v, -inf) < 1.2e-38f, "exp_scaled(-inf) is %g", one(scaled_v, -inf));
  for (uint32_t payload = 1; payload < 0x00400000u;
       payload = payload * 3 + 1) {  // a payload must not turn NaN into a number
    check_point("exp_nonpositive", expn_v, og::bits_float(0x7f800000u | payload), nan);
    check_point("exp_nonpositive", expn_v, og::bits_float(0xffc00000u | payload), nan);
  }

  context() = "log";
  check_ulps("log", 1, tiny, huge, false, log_v, log_d);
  check_ulps("log of subnormals", 1, tiny, 1.1754943e-38f, false, log_v, log_d, 97);
  check_ulps("log around 1", 1, 0.7f, 1.5f, false, log_v, log_d, 7);
  check_point("log", log_v, 0, -inf);
  check_point("log", log_v, -0.f, -inf);
  check_point("log", log_v, inf, inf);
  check_point("log", log_v, -1, nan);
  check_point("log", log_v, -inf, nan);
  check_point("log", log_v, -tiny, nan);
  check_point("log", log_v, nan, nan);
  check_point("log", log_v, 1, 0);

  context() = "tanh";
  for (int negative = 0; negative < 2; negative++) {
    check_ulps("tanh", 1.5, 0, huge, negative, tanh_v, tanh_d);
    check_ulps("tanh, middle", 1.5, 0.1f, 10.f, negative, tanh_v, tanh_d, 11);
  }
  check_point("tanh", tanh_v, inf, 1);
  check_point("tanh", tanh_v, -inf, -1);
  check_point("tanh", tanh_v, nan, nan);
  check_point("tanh", tanh_v, -0.f, -0.f);
  check_point("tanh", tanh_v, tiny, tiny);

  context() = "sigmoid";
  check_ulps("sigmoid", 2.5, 0, huge, false, sigmoid_v, sigmoid_d);
  check_ulps("sigmoid", 2.5, 0, huge, true, sigmoid_v, sigmoid_d);
  check_ulps("sigmoid to subnormals", 2.5, 80.f, 105.f, true, sigmoid_v, sigmoid_d, 7);
  check_point("sigmoid", sigmoid_v, inf, 1);
  check_point("sigmoid", sigmoid_v, -inf, 0);
  check_point("sigmoid", sigmoid_v, nan, nan);
  check_point("sigmoid", sigmoid_v, 0, 0.5f);

  context() = "erf";
  const auto absolute = [](float got, long double want) {
    return std::isnan(got) ? INFINITY : std::fabs((double)((long double)got - want));
  };
  for (int negative = 0; negative < 2; negative++) {
    const Worst w = sweep(0, huge, negative, kStep, erf_v, erf_d, absolute);
    CHECK(w.value <= 1.2e-7, "erf is %.3g off at %.9g", w.value, w.at);
    check_ulps("erf below 1", 2, 0, 0.99999994f, negative, erf_v, erf_d);
  }
  check_point("erf", erf_v, inf, 1);
  check_point("erf", erf_v, -inf, -1);
  check_point("erf", erf_v, nan, nan);
  check_point("erf", erf_v, -0.f, -0.f);

  context() = "normal";
  const auto relative = [](float got, long double want) { return std::fabs((double)((long double)got / want - 1)); };
  const auto cdf_d = [](float x) { return 0.5L * std::erfc(-(long double)x / std::sqrt(2.L)); };
  const auto density_d = [](float x) {
    return std::exp(-(long double)x * x / 2) / std::sqrt(2 * 3.14159265358979323846L);
  };
  for (int negative = 0; negative < 2; negative++) {
    Worst w = sweep(0, 6.f, negative, kStep, cdf_v, cdf_d, relative);
    CHECK(w.value <= 1.5e-6, "cdf is %.3g off at %.9g", w.value, w.at);
    w = sweep(0, 6.f, negative, kStep, density_v, density_d, relative);
    CHECK(w.value <= 1.5e-6, "density is %.3g off at %.9g", w.value, w.at);
    w = sweep(6.f, huge, negative, kStep, cdf_v, cdf_d, absolute);
    CHECK(w.value <= 6e-8, "cdf is %.3g off at %.9g", w.value, w.at);
  }
  check_point("cdf", cdf_v, inf, 1);
  check_point("cdf", cdf_v, -inf, 0);
  check_point("cdf", cdf_v, nan, nan);
  check_point("density", density_v, inf, 0);
  check_point("density", density_v, nan, nan);
  return finish("math");
}
