/** fft.cpp against the definition in double. */
#include "check.h"

using namespace og_test;

namespace {

const double kTurn = 6.283185307179586476925;

double factor(int64_t k, int64_t n, double edge, double middle) { return k == 0 || 2 * k == n ? edge : middle; }

std::vector<double> forward(const std::vector<double>& x, int64_t n, double edge, double middle) {
  const int64_t rows = (int64_t)x.size() / n, bins = n / 2 + 1;
  std::vector<double> y;
  for (int64_t r = 0; r < rows; r++)
    for (int64_t k = 0; k < bins; k++) {
      double re = 0, im = 0;
      for (int64_t j = 0; j < n; j++) {
        const double angle = kTurn * (double)(j * k % n) / (double)n;
        re += x[(size_t)(r * n + j)] * std::cos(angle);
        im -= x[(size_t)(r * n + j)] * std::sin(angle);
      }
      y.push_back(re * factor(k, n, edge, middle));
      y.push_back(im * factor(k, n, edge, middle));
    }
  return y;
}

std::vector<double> backward(const std::vector<double>& y, int64_t n, double edge, double middle) {
  const int64_t bins = n / 2 + 1, rows = (int64_t)y.size() / (2 * bins);
  std::vector<double> x;
  for (int64_t r = 0; r < rows; r++)
    for (int64_t j = 0; j < n; j++) {
      double sum = 0;
      for (int64_t k = 0; k < bins; k++) {
        const double angle = kTurn * (double)(j * k % n) / (double)n;
        const double re = y[(size_t)(2 * (r * bins + k))], im = y[(size_t)(2 * (r * bins + k) + 1)];
        sum += factor(k, n, edge, middle) * (re * std::cos(angle) - im * std::sin(angle));
      }
      x.push_back(sum);
    }
  return x;
}

double largest(const std::vector<double>& list) {
  double m = 0;
  for (double v : list) m = std::fmax(m, std::fabs(v));
  return m;
}

void agree() {
  Random random(20);
  int variant = 0;
  for (int64_t n : {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 12,  15,  16,  17,  20,  21,  31,  32,
                    33, 37, 49, 60, 62, 63, 64, 65, 74, 82, 100, 121, 127, 128, 129, 210, 400, 509})
    for (int64_t rows : {1, 3, 17, 33})
      for (int32_t dtype = OG_F32; dtype <= OG_F64; dtype++, variant++) {
        if (n > 130 && rows > 3) continue;
        const Layout layout = (Layout)(variant % kLayoutCount), other = (Layout)((variant + 2) % kLayoutCount);
        const std::vector<int64_t> lead = variant % 4 ? std::vector<int64_t>{rows} : std::vector<int64_t>{1, rows};
        std::vector<int64_t> signal = lead, spectrum = lead;
        signal.push_back(n);
        spectrum.push_back(n / 2 + 1);
        spectrum.push_back(2);
        Tensor x(dtype, signal, layout), y(dtype, spectrum, other), z(dtype, signal, other);
        x.normal(random);
        const double unit = og_test::roundoff(dtype), compute = dtype == OG_F64 ? 0x1p-53 : 0x1p-24;
        const double edge = variant % 3 ? 1 : 0.5, middle = variant % 3 ? 1 : -2;
        const double bound = 8 * compute * (std::log2((double)n) + 2);
        const std::vector<double> want = forward(x.values(), n, edge, middle);
        for_each_isa([&](og::Isa isa) {
          if (dtype == OG_F64 && isa != og::kReference) return;
          CHECK_OK(run(isa, "rfft", {&x}, {&y}, {edge, middle}));
          check_close(y, want, unit, bound * largest(want), "rfft");
        });
        y.normal(random);
        const std::vector<double> back = backward(y.values(), n, edge, middle);
        for_each_isa([&](og::Isa isa) {
          if (dtype == OG_F64 && isa != og::kReference) return;
          CHECK_OK(run(isa, "irfft", {&y}, {&z}, {edge, middle}));
          check_close(z, back, unit, bound * std::fmax(largest(back), std::sqrt((double)n)), "irfft");
        });
      }
}

/** There and back, at lengths for which the definition takes too long; against sines that are known. */
void long_signals() {
  Random random(21);
  for (int64_t n : {1 << 16, 30030, 99991, 2 * 10007, 59049})
    for_each_isa([&](og::Isa isa) {
      const int32_t dtype = isa == og::kReference ? OG_F64 : OG_F32;
      Tensor x(dtype, {2, n}), y(dtype, {2, n / 2 + 1, 2}), z(dtype, {2, n});
      x.normal(random);
      const double pitch = 0.25 * (double)(n / 7 / 4 * 4), tolerance = isa == og::kReference ? 1e-12 : 2e-5;
      const int64_t k = (int64_t)pitch;
      for (int64_t j = 0; j < n; j++) x.set(j, std::cos(kTurn * (double)(j * k % n) / (double)n + 0.3));
      CHECK_OK(run(isa, "rfft", {&x}, {&y}, {1, 1}));
      const double half = 0.5 * (double)n;
      CHECK(close(y.get(2 * k), half * std::cos(0.3), tolerance, 0), "line at %d: %g", (int)k, y.get(2 * k));
      CHECK(close(y.get(2 * k + 1), half * std::sin(0.3), tolerance, 0), "line at %d: %g", (int)k, y.get(2 * k + 1));
      double rest = 0;
      for (int64_t i = 0; i <= n / 2; i++)
        if (i != k) rest = std::fmax(rest, std::hypot(y.get(2 * i), y.get(2 * i + 1)));
      CHECK(rest < tolerance * half, "%g beside the line of n = %d", rest, (int)n);
      CHECK_OK(run(isa, "irfft", {&y}, {&z}, {1. / (double)n, 2. / (double)n}));
      check_close(z, x.values(), 0, tolerance, "there and back");
    });
}

void apart_and_threads() {
  Random random(22);
  for_each_isa([&](og::Isa isa) {
    Tensor x(OG_F32, {40, 400}), y(OG_F32, {40, 201, 2}), z(OG_F32, {40, 400}), none(OG_F32, {0, 400}),
        nothing(OG_F32, {0, 201, 2});
    x.normal(random);
    CHECK_OK(run(isa, "rfft", {&x}, {&y}, {1, 1}));
    const std::vector<double> clean = y.values();
    x.set(3 * 400 + 7, NAN);
    x.set(20 * 400, 1e30);
    CHECK_OK(run(isa, "rfft", {&x}, {&y}, {1, 1}));
    for (int64_t i = 0; i < y.count(); i++) {
      const int64_t row = i / 402;
      if (row == 3)
        CHECK(std::isnan(y.get(i)) || (i % 402) % 2 == 1, "row 3 is NaN");
      else if (row != 20)
        CHECK(y.get(i) == clean[(size_t)i], "row %d saw another", (int)row);
    }
    x.set(3 * 400 + 7, 1);
    check_threads([&] { run(isa, "rfft", {&x}, {&y}, {1, 1}); }, [&] { return y.bytes(); });
    check_threads([&] { run(isa, "irfft", {&y}, {&z}, {1, 1}); }, [&] { return z.bytes(); });
    CHECK_OK(run(isa, "rfft", {&none}, {&nothing}, {1, 1}));
    CHECK_OK(run(isa, "irfft", {&nothing}, {&none}, {1, 1}));
    // frames that overlap, as a short-time transform reads them
    Tensor line(OG_F32, {1000}), frames(OG_F32, {5, 200}), a(OG_F32, {5, 101, 2}), b(OG_F32, {5, 101, 2});
    line.normal(random);
    for (int64_t i = 0; i < 1000; i++) frames.set(i, line.get(i / 200 * 100 + i % 200));
    og_view over = line.view(), to = a.view();
    over.rank = 2;
    over.shape[0] = 5, over.shape[1] = 200;
    over.strides[0] = 100, over.strides[1] = 1;
    const double attrs[2] = {1, 1};
    const og_call call = {&over, &to, attrs, 1, 1, 2};
    CHECK_OK(og::run_kernel_on(isa, og::kernel_id("rfft"), call));
    CHECK_OK(run(isa, "rfft", {&frames}, {&b}, {1, 1}));
    CHECK(a.values() == b.values(), "overlapping frames");
  });
}

void refusals() {
  for_each_isa([&](og::Isa isa) {
    Tensor x(OG_F32, {3, 8}), y(OG_F32, {3, 5, 2}), bins(OG_F32, {3, 4, 2}), parts(OG_F32, {3, 5, 1}),
        lead(OG_F32, {2, 5, 2}), whole(OG_I32, {3, 8}), empty(OG_F32, {3, 0}), one(OG_F32, {3, 1, 2}),
        scalar(OG_F32, {});
    for (Tensor* bad : {&bins, &parts, &lead, &x}) {
      CHECK_FAILS(run(isa, "rfft", {&x}, {bad}, {1, 1}), OG_INVALID);
      CHECK_FAILS(run(isa, "irfft", {bad}, {&x}, {1, 1}), OG_INVALID);
    }
    CHECK_FAILS(run(isa, "rfft", {&whole}, {&y}, {1, 1}), OG_UNSUPPORTED);
    CHECK_FAILS(run(isa, "irfft", {&y}, {&whole}, {1, 1}), OG_UNSUPPORTED);
    CHECK_FAILS(run(isa, "rfft", {&empty}, {&one}, {1, 1}), OG_INVALID);
    CHECK_FAILS(run(isa, "rfft", {&scalar}, {&scalar}, {1, 1}), OG_INVALID);
  });
}

}  // namespace

int main() {
  context() = "agree";
  agree();
  context() = "long";
  long_signals();
  context() = "rows";
  apart_and_threads();
  context() = "refusals";
  refusals();
  return finish("fft");
}
