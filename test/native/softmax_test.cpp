/** softmax.cpp against the definitions in double. */
#include "check.h"

using namespace og_test;

namespace {

const double kInf = INFINITY;

/** Cuts row-major values into rows of n and lets each be replaced. */
template <class F>
std::vector<double> by_rows(const std::vector<double>& x, int64_t n, const F& f) {
  std::vector<double> out(x.size());
  for (size_t at = 0; n > 0 && at < x.size(); at += (size_t)n) f(&x[at], &out[at], at);
  return out;
}
double log_sum(const double* x, int64_t n) {
  double m = -kInf, sum = 0;
  for (int64_t i = 0; i < n; i++) m = std::fmax(m, x[i]);
  if (m == -kInf) m = 0;
  for (int64_t i = 0; i < n; i++) sum += std::exp(x[i] - m);
  return m + std::log(sum);
}

const std::vector<std::vector<int64_t>> kShapes = {{1},     {0},        {3, 0},         {0, 3},    {5},      {2, 16},
                                                   {7, 33}, {3, 2, 65}, {2, 3, 2, 129}, {2, 2500}, {1, 5003}};

void agree() {
  Random random(3);
  for (const auto& shape : kShapes)
    for (int layout = 0; layout < kLayoutCount; layout++)
      for (int32_t dtype = OG_F32; dtype <= OG_F64; dtype++)
        for_each_isa([&](og::Isa isa) {
          if (dtype == OG_F64 && isa != og::kReference) return;
          const int64_t n = shape.back();
          const double unit = og_test::roundoff(dtype), small = dtype == OG_F64 ? 1e-14 : 1e-6;
          const Layout other = (Layout)((layout + 1) % kLayoutCount);
          Tensor x(dtype, shape, (Layout)layout), y(dtype, shape, other);
          x.normal(random, 4, random.below(2) ? 30 : 0);
          const std::vector<double> in = x.values();

          CHECK(run(isa, "softmax", {&x}, {&y}) == OG_OK, "%s", og::last_message());
          check_close(y,
                      by_rows(in, n,
                              [&](const double* a, double* b, size_t) {
                                const double l = log_sum(a, n);
                                for (int64_t i = 0; i < n; i++) b[i] = std::exp(a[i] - l);
                              }),
                      2 * unit + 10 * small, dtype == OG_F16 ? 1e-7 : 1e-30, "softmax");
          CHECK(run(isa, "log_softmax", {&x}, {&y}) == OG_OK, "%s", og::last_message());
          check_close(y,
                      by_rows(in, n,
                              [&](const double* a, double* b, size_t) {
                                const double l = log_sum(a, n);
                                for (int64_t i = 0; i < n; i++) b[i] = a[i] - l;
                              }),
                      2 * unit + small, 4 * small, "log_softmax");

          Tensor lse(dtype, std::vector<int64_t>(shape.begin(), shape.end() - 1), other);
          CHECK(run(isa, "logsumexp", {&x}, {&lse}) == OG_OK, "%s", og::last_message());
          std::vector<double> sums;
          for (int64_t r = 0; r < lse.count(); r++) sums.push_back(n ? log_sum(&in[(size_t)(r * n)], n) : -kInf);
          check_close(lse, sums, 2 * unit + small, small, "logsumexp");

          Tensor grad(dtype, shape, other), dx(dtype, shape, (Layout)((layout + 2) % kLayoutCount));
          grad.normal(random);
          const std::vector<double> g = grad.values();
          run(isa, "softmax", {&x}, {&y});
          CHECK(run(isa, "softmax_backward", {&y, &grad}, {&dx}) == OG_OK, "%s", og::last_message());
          check_close(dx,
                      by_rows(y.values(), n,
                              [&](const double* p, double* out, size_t at) {
                                double dot = 0;
                                for (int64_t i = 0; i < n; i++) dot += p[i] * g[at + (size_t)i];
                                for (int64_t i = 0; i < n; i++) out[i] = p[i] * (g[at + (size_t)i] - dot);
                              }),
                      2 * unit, dtype == OG_F16 ? 1e-7 : 10 * small, "softmax_backward");
          run(isa, "log_softmax", {&x}, {&y});
          CHECK(run(isa, "log_softmax_backward", {&y, &grad}, {&dx}) == OG_OK, "%s", og::last_message());
          check_close(dx,
                      by_rows(y.values(), n,
                              [&](const double* l, double* out, size_t at) {
                                double sum = 0;
                                for (int64_t i = 0; i < n; i++) sum += g[at + (size_t)i];
                                for (int64_t i = 0; i < n; i++) out[i] = g[at + (size_t)i] - std::exp(l[i]) * sum;
                              }),
                      2 * unit + 4 * small, 100 * small, "log_softmax_backward");
        });
}

/** Rows with infinities, NaN and huge numbers, as PyTorch treats them. */
void specials() {
  for (int64_t n : {3, 19, 2100})
    for_each_isa([&](og::Isa isa) {
      Tensor x(OG_F32, {6, n}), y(OG_F32, {6, n}), lse(OG_F32, {6});
      const auto set = [&](int64_t r, int64_t i, double v) { x.set(r * n + i, v); };
      for (int64_t i = 0; i < n; i++) set(0, i, -kInf), set(1, i, -kInf), set(5, i, 3e38);
      set(1, n - 1, 7);
      set(2, n - 1, kInf);
      set(3, 0, NAN);
      set(4, 0, NAN);
      set(4, n - 1, kInf);
      CHECK(run(isa, "softmax", {&x}, {&y}) == OG_OK, "%s", og::last_message());
      for (int64_t i = 0; i < n; i++) {
        for (int64_t r : {0, 2, 3, 4})
          CHECK(std::isnan(y.get(r * n + i)), "softmax row %d of n %d is %g", (int)r, (int)n, y.get(r * n + i));
        CHECK(y.get(n + i) == (i == n - 1), "softmax with one finite number: %g", y.get(n + i));
        CHECK(close(y.get(5 * n + i), 1. / (double)n, 1e-6, 0), "softmax of equal huge numbers: %g", y.get(5 * n + i));
      }
      CHECK(run(isa, "log_softmax", {&x}, {&y}) == OG_OK, "%s", og::last_message());
      for (int64_t i = 0; i < n; i++) {
        for (int64_t r : {0, 2, 3, 4}) CHECK(std::isnan(y.get(r * n + i)), "log_softmax row %d", (int)r);
        CHECK(y.get(n + i) == (i == n - 1 ? 0 : -kInf), "log_softmax with one finite number: %g", y.get(n + i));
      }
      CHECK(run(isa, "logsumexp", {&x}, {&lse}) == OG_OK, "%s", og::last_message());
      const double want[] = {-kInf, 7, kInf, NAN, NAN, 3e38};
      for (int64_t r = 0; r < 6; r++)
        CHECK(close(lse.get(r), want[r], 1e-6, 0), "logsumexp row %d is %g", (int)r, lse.get(r));
    });
}

void threads_and_aliasing() {
  Random random(4);
  for_each_isa([&](og::Isa isa) {
    Tensor x(OG_F32, {200, 501}), y(OG_F32, {200, 501}), grad(OG_F32, {200, 501}), lse(OG_F32, {200});
    x.normal(random, 3);
    grad.normal(random);
    check_threads([&] { run(isa, "logsumexp", {&x}, {&lse}); }, [&] { return lse.bytes(); });
    check_threads([&] { run(isa, "softmax_backward", {&x, &grad}, {&y}); }, [&] { return y.bytes(); });
    run(isa, "softmax_backward", {&x, &grad}, {&grad});
    CHECK(grad.bytes() == y.bytes(), "softmax_backward in place gives other bits");
    check_threads([&] { run(isa, "softmax", {&x}, {&y}); }, [&] { return y.bytes(); });
    run(isa, "softmax", {&x}, {&x});
    CHECK(x.bytes() == y.bytes(), "softmax in place gives other bits");
  });
}

/** Long rows beyond the caches, whose blocks differ in their largest element: what each row gives by itself. */
void long_rows() {
  const int64_t rows = 1100, n = 8191;  // 34 MiB
  Random random(6);
  for (const char* kernel : {"softmax", "log_softmax"})
    for_each_isa([&](og::Isa isa) {
      Tensor x(OG_F32, {rows, n}), y(OG_F32, {rows, n});
      x.normal(random, 2);
      for (int64_t r = 0; r < rows; r += 3) x.set(r * n + random.below(n), 40);
      run(isa, kernel, {&x}, {&y});
      for (int64_t r = 0; r < rows; r += 41) {
        Tensor row(OG_F32, {1, n});
        std::memcpy(row.view().data, static_cast<const float*>(x.view().data) + r * n, (size_t)n * 4);
        run(isa, kernel, {&row}, {&row});
        CHECK(std::memcmp(row.view().data, static_cast<const float*>(y.view().data) + r * n, (size_t)n * 4) == 0,
              "row %d of %s differs among others", (int)r, kernel);
      }
    });
}

void refusals() {
  for_each_isa([&](og::Isa isa) {
    Tensor x(OG_F32, {4, 3}), wrong(OG_F32, {4, 2}), scalar(OG_F32, {}), whole(OG_I32, {4, 3}), lse(OG_F32, {3});
    CHECK(run(isa, "softmax", {&x}, {&wrong}) == OG_INVALID, "shape");
    CHECK(run(isa, "softmax", {&scalar}, {&scalar}) == OG_INVALID, "rank");
    CHECK(run(isa, "softmax", {&whole}, {&x}) == OG_UNSUPPORTED, "dtype");
    CHECK(run(isa, "softmax_backward", {&x, &wrong}, {&x}) == OG_INVALID, "shape");
    CHECK(run(isa, "logsumexp", {&x}, {&lse}) == OG_INVALID, "shape");
  });
}

}  // namespace

int main() {
  agree();
  context() = "specials";
  specials();
  context() = "threads";
  threads_and_aliasing();
  context() = "long rows";
  long_rows();
  context() = "refusals";
  refusals();
  return finish("softmax");
}
