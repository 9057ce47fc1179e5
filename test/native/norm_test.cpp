/** norm.cpp against the definitions in double; the gradients also against the formula's finite differences. */
#include "check.h"

using namespace og_test;

namespace {

struct Numbers {
  std::vector<double> y, mean, rstd, dx, dweight, dbias;
};

/** Forward and backward of one normalisation, in double. Empty weight or bias: absent. */
Numbers oracle(bool centered, const std::vector<double>& x, const std::vector<double>& weight,
               const std::vector<double>& bias, const std::vector<double>& grad, int64_t rows, int64_t n, double eps) {
  Numbers out;
  out.y.resize(x.size());
  out.dx.resize(x.size());
  out.dweight.assign((size_t)n, 0);
  out.dbias.assign((size_t)n, 0);
  for (int64_t r = 0; r < rows; r++) {
    const double *v = x.data() + r * n, *g = grad.data() + r * n;
    double mean = 0, squares = 0, first = 0, second = 0;
    if (centered) {
      for (int64_t i = 0; i < n; i++) mean += v[i] / (double)n;
    }
    for (int64_t i = 0; i < n; i++) squares += (v[i] - mean) * (v[i] - mean) / (double)n;
    const double rstd = 1 / std::sqrt(squares + eps);
    for (int64_t i = 0; i < n; i++) {
      const double normal = (v[i] - mean) * rstd, w = weight.empty() ? 1 : weight[(size_t)i];
      out.y[(size_t)(r * n + i)] = normal * w + (bias.empty() ? 0 : bias[(size_t)i]);
      out.dweight[(size_t)i] += g[i] * normal;
      out.dbias[(size_t)i] += g[i];
      first += g[i] * w / (double)n;
      second += g[i] * w * normal / (double)n;
    }
    for (int64_t i = 0; i < n; i++) {
      const double normal = (v[i] - mean) * rstd, w = weight.empty() ? 1 : weight[(size_t)i];
      out.dx[(size_t)(r * n + i)] = rstd * (g[i] * w - (centered ? first : 0) - normal * second);
    }
    out.mean.push_back(mean);
    out.rstd.push_back(rstd);
  }
  return out;
}

int32_t forward(og::Isa isa, bool centered, Tensor& x, Tensor& w, Tensor& b, Tensor& y, Tensor& mean, Tensor& rstd,
                double eps) {
  return centered ? run(isa, "layer_norm", {&x, &w, &b}, {&y, &mean, &rstd}, {eps})
                  : run(isa, "rms_norm", {&x, &w}, {&y, &rstd}, {eps});
}
int32_t backward(og::Isa isa, bool centered, Tensor& x, Tensor& w, Tensor& mean, Tensor& rstd, Tensor& grad, Tensor& dx,
                 Tensor& dw, Tensor& db) {
  return centered ? run(isa, "layer_norm_backward", {&x, &w, &mean, &rstd, &grad}, {&dx, &dw, &db})
                  : run(isa, "rms_norm_backward", {&x, &w, &rstd, &grad}, {&dx, &dw});
}

void agree(bool centered) {
  Random random(5);
  const std::vector<std::vector<int64_t>> shapes = {{1},     {0, 4},     {7},       {3, 1},        {4, 16},
                                                    {5, 33}, {2, 3, 65}, {300, 24}, {2, 2, 2, 40}, {3, 4100}};
  int variant = 0;
  for (const auto& shape : shapes)
    for (int layout = 0; layout < kLayoutCount; layout++)
      for (int32_t dtype = OG_F32; dtype <= OG_F64; dtype++, variant++)
        for_each_isa([&](og::Isa isa) {
          if (dtype == OG_F64 && isa != og::kReference) return;
          const int64_t n = shape.back();
          const std::vector<int64_t> lead(shape.begin(), shape.end() - 1);
          const int32_t wide = dtype == OG_F64 ? OG_F64 : OG_F32;
          const Layout other = (Layout)((layout + 1) % kLayoutCount);
          const bool with_weight = variant % 3 != 0, with_bias = variant % 4 != 0 && centered;
          Tensor x(dtype, shape, (Layout)layout), y(dtype, shape, other), grad(dtype, shape, other),
              dx(dtype, shape, (Layout)layout);
          Tensor w = with_weight ? Tensor(variant % 5 ? dtype : wide, {n}, (Layout)(variant % kLayoutCount)) : Tensor();
          Tensor b = with_bias ? Tensor(dtype, {n}, kGaps) : Tensor();
          Tensor mean(wide, lead), rstd(wide, lead, (Layout)layout), dw(wide, {n}, kGaps), db(dtype, {n}, kReversed);
          x.normal(random, 2, variant % 2 ? 5 : 0);
          grad.normal(random);
          if (with_weight) w.normal(random, 1, 1);
          if (with_bias) b.normal(random);
          const int64_t rows = y.count() / (n ? n : 1);
          const double eps = 1e-5, unit = og_test::roundoff(dtype), small = dtype == OG_F64 ? 1e-13 : 2e-6;
          const Numbers want = oracle(centered, x.values(), with_weight ? w.values() : std::vector<double>(),
                                      with_bias ? b.values() : std::vector<double>(), grad.values(), rows, n, eps);
          CHECK(forward(isa, centered, x, w, b, y, mean, rstd, eps) == OG_OK, "%s", og::last_message());
          check_close(y, want.y, 2 * unit, 5 * small, "y");
          if (centered) check_close(mean, want.mean, small, small, "mean");
          check_close(rstd, want.rstd, small, 0, "rstd");
          if (n == 1 && centered) return;  // the variance is 0: rstd is 1/√eps and rounding is all there is

          CHECK(backward(isa, centered, x, w, mean, rstd, grad, dx, dw, db) == OG_OK, "%s", og::last_message());
          check_close(dx, want.dx, 2 * unit, 20 * small, "dx");
          check_close(dw, want.dweight, 4 * small, 40 * small, "dweight");
          if (centered) check_close(db, want.dbias, 2 * unit, 40 * small, "dbias");

          // any output may be absent
          Tensor none, only(wide, {n}, kGaps);
          CHECK(backward(isa, centered, x, w, mean, rstd, grad, none, only, none) == OG_OK, "%s", og::last_message());
          CHECK(only.bytes() == dw.bytes(), "dweight alone has other bits");
          CHECK(backward(isa, centered, x, w, mean, rstd, grad, dx, none, none) == OG_OK, "%s", og::last_message());
          check_close(dx, want.dx, 2 * unit, 20 * small, "dx alone");
          CHECK(forward(isa, centered, x, w, b, dx, none, none, eps) == OG_OK, "%s", og::last_message());
          check_close(dx, want.y, 2 * unit, 5 * small, "y alone");
        });
}

/** The kernels that add first: the bits of the sum and of its normalisation, and dx plus the sum's own gradient. */
void residual(bool centered) {
  Random random(15);
  const std::vector<std::vector<int64_t>> shapes = {{2},     {0, 4},     {7},       {3, 2},
                                                    {5, 33}, {2, 3, 65}, {150, 24}, {3, 4100}};
  int variant = 0;
  for (const auto& shape : shapes)
    for (int layout = 0; layout < kLayoutCount; layout++)
      for (int32_t dtype = OG_F32; dtype <= OG_F64; dtype++, variant++)
        for_each_isa([&](og::Isa isa) {
          if (dtype == OG_F64 && isa != og::kReference) return;
          const int64_t n = shape.back();
          const std::vector<int64_t> lead(shape.begin(), shape.end() - 1);
          const int32_t wide = dtype == OG_F64 ? OG_F64 : OG_F32;
          const Layout other = (Layout)((layout + 1) % kLayoutCount), third = (Layout)((layout + 3) % kLayoutCount);
          Tensor x(dtype, shape, (Layout)layout), r(dtype, shape, third), sum(dtype, shape, other),
              y(dtype, shape, other), grad(dtype, shape, third), extra(dtype, shape, (Layout)layout);
          Tensor w = variant % 3 ? Tensor(dtype, {n}) : Tensor(),
                 b = variant % 2 ? Tensor(dtype, {n}, kGaps) : Tensor();
          Tensor mean(wide, lead), rstd(wide, lead), dx(dtype, shape, other), dw(wide, {n}), db(wide, {n}), none;
          for (Tensor* t : {&x, &r, &grad, &extra}) t->normal(random);
          for (Tensor* t : {&w, &b})
            if (t->present()) t->normal(random, 1, 1);
          const auto add = [&](Tensor& to, Tensor& normal) {
            return centered ? run(isa, "add_layer_norm", {&x, &r, &w, &b}, {&to, &normal, &mean, &rstd}, {1e-5})
                            : run(isa, "add_rms_norm", {&x, &r, &w}, {&to, &normal, &rstd}, {1e-5});
          };
          const auto slope = [&](Tensor& own) {
            return centered
                       ? run(isa, "add_layer_norm_backward", {&sum, &w, &mean, &rstd, &grad, &own}, {&dx, &dw, &db})
                       : run(isa, "add_rms_norm_backward", {&sum, &w, &rstd, &grad, &own}, {&dx, &dw});
          };
          CHECK_OK(add(sum, y));
          std::vector<double> total = x.values();
          const std::vector<double> second = r.values();
          for (size_t i = 0; i < total.size(); i++) total[i] += second[i];
          check_close(sum, total, og_test::roundoff(dtype) * 1.001, 0, "sum");
          Tensor y2(dtype, shape), mean2(wide, lead), rstd2(wide, lead), dx2(dtype, shape), dw2(wide, {n}),
              db2(wide, {n});
          CHECK_OK(forward(isa, centered, sum, w, b, y2, mean2, rstd2, 1e-5));
          CHECK(y.values() == y2.values() && rstd.values() == rstd2.values(), "other bits than norm(sum)");

          CHECK_OK(backward(isa, centered, sum, w, mean, rstd, grad, dx2, dw2, db2));
          CHECK_OK(slope(none));
          CHECK(dx.values() == dx2.values() && dw.values() == dw2.values() && db.values() == db2.values(),
                "other gradients than norm's");
          CHECK_OK(slope(extra));
          std::vector<double> want = dx2.values();
          double largest = 0;
          for (double v : want) largest = std::fmax(largest, std::fabs(v));
          for (size_t i = 0; i < want.size(); i++) want[i] += extra.get((int64_t)i);
          check_close(dx, want, 2 * og_test::roundoff(dtype), 4 * og_test::roundoff(dtype) * largest, "dx + extra");
          CHECK(dw.values() == dw2.values(), "dweight must not see the sum's gradient");
          if (dtype == OG_F32) {
            const std::vector<double> plain = sum.values(), normal = y.values();
            CHECK_OK(add(x, r));  // each result over an operand
            CHECK(x.values() == plain && r.values() == normal, "in place");
          }
        });
  for_each_isa([&](og::Isa isa) {
    Tensor x(OG_F32, {700, 96}), r(OG_F32, {700, 96}), sum(OG_F32, {700, 96}), y(OG_F32, {700, 96}),
        mean(OG_F32, {700}), rstd(OG_F32, {700}), w, b, bad(OG_F32, {700, 95}), whole(OG_I32, {700, 96});
    x.normal(random);
    r.normal(random);
    const auto add = [&](Tensor& second) {
      return centered ? run(isa, "add_layer_norm", {&x, &second, &w, &b}, {&sum, &y, &mean, &rstd}, {1e-5})
                      : run(isa, "add_rms_norm", {&x, &second, &w}, {&sum, &y, &rstd}, {1e-5});
    };
    check_threads([&] { add(r); }, [&] { return y.bytes(); });
    CHECK_FAILS(add(bad), OG_INVALID);
    CHECK_FAILS(add(whole), OG_UNSUPPORTED);
  });
}

/** A large common offset must not destroy the variance. */
void offset() {
  Random random(6);
  for_each_isa([&](og::Isa isa) {
    Tensor x(OG_F32, {4, 1000}), w, b, y(OG_F32, {4, 1000}), mean(OG_F32, {4}), rstd(OG_F32, {4}),
        grad(OG_F32, {4, 1000});
    x.normal(random, 1, 10000);
    const Numbers want = oracle(true, x.values(), {}, {}, grad.values(), 4, 1000, 1e-5);
    forward(isa, true, x, w, b, y, mean, rstd, 1e-5);
    check_close(rstd, want.rstd, 1e-5, 0, "rstd with an offset");
    check_close(y, want.y, 0, 2e-3, "y with an offset");
  });
}

/** The pivot of the one pass is the mean of the first vectors: rows where that is far from the mean, or not finite. */
void pivot() {
  Random random(8);
  for_each_isa([&](og::Isa isa) {
    constexpr int64_t n = 50000;
    Tensor x(OG_F32, {3, n}), none, y(OG_F32, {3, n}), mean(OG_F32, {3}), rstd(OG_F32, {3});
    std::vector<double> values((size_t)(3 * n));
    for (double& v : values) v = random.uniform(-1, 1);
    for (int64_t i = 0; i < 16; i++) values[(size_t)i] = 1000, values[(size_t)(n + i)] = -1e-3 * (double)i + 3;
    x.fill([&](int64_t i) { return values[(size_t)i]; });
    const Numbers want = oracle(true, x.values(), {}, {}, values, 3, n, 1e-5);
    forward(isa, true, x, none, none, y, mean, rstd, 1e-5);
    check_close(mean, want.mean, 2e-6, 1e-6, "mean far from the pivot");
    check_close(rstd, want.rstd, 2e-6, 0, "rstd far from the pivot");
    check_close(y, want.y, 4e-6, 4e-6, "y far from the pivot");

    values[3] = (double)INFINITY, values[(size_t)(n + 20)] = -(double)INFINITY, values[(size_t)(2 * n)] = NAN;
    x.fill([&](int64_t i) { return values[(size_t)i]; });
    forward(isa, true, x, none, none, y, mean, rstd, 1e-5);
    const std::vector<double> found = mean.values();
    CHECK(found[0] == (double)INFINITY && found[1] == -(double)INFINITY && found[2] != found[2],
          "means of rows that are not finite: %g %g %g", found[0], found[1], found[2]);
    for (double v : y.values()) CHECK(v != v, "%g in a row that is not finite", v);

    Tensor same(OG_F32, {1, 333});
    same.fill([](int64_t) { return 0.1; });
    Tensor center(OG_F32, {1}), inverse(OG_F32, {1}), normal(OG_F32, {1, 333});
    forward(isa, true, same, none, none, normal, center, inverse, 1e-5);
    for (double v : normal.values()) CHECK(v == 0, "%g of a constant row", v);
  });
}

void threads_and_aliasing(bool centered) {
  Random random(7);
  for_each_isa([&](og::Isa isa) {
    Tensor x(OG_F32, {3000, 96}), w(OG_F32, {96}), b(OG_F32, {96}), y(OG_F32, {3000, 96}), mean(OG_F32, {3000}),
        rstd(OG_F32, {3000});
    Tensor grad(OG_F32, {3000, 96}), dx(OG_F32, {3000, 96}), dw(OG_F32, {96}), db(OG_F32, {96});
    x.normal(random);
    w.normal(random);
    b.normal(random);
    grad.normal(random);
    check_threads([&] { forward(isa, centered, x, w, b, y, mean, rstd, 1e-6); }, [&] { return y.bytes(); });
    const auto all = [&] {
      std::vector<char> bytes = dx.bytes();
      bytes.insert(bytes.end(), dw.bytes().begin(), dw.bytes().end());
      bytes.insert(bytes.end(), db.bytes().begin(), db.bytes().end());
      return bytes;
    };
    check_threads([&] { backward(isa, centered, x, w, mean, rstd, grad, dx, dw, db); }, all);
    const Numbers want = oracle(centered, x.values(), w.values(), b.values(), grad.values(), 3000, 96, 1e-6);
    check_close(dw, want.dweight, 1e-5, 1e-4, "dweight of many rows");
    const std::vector<char> kept = all();
    Tensor copy = dx;
    backward(isa, centered, x, w, mean, rstd, grad, grad, dw, db);
    CHECK(grad.bytes() == copy.bytes(), "dx over grad gives other bits");
    forward(isa, centered, x, w, b, x, mean, rstd, 1e-6);
    CHECK(x.bytes() == y.bytes(), "y over x gives other bits");
  });
}

void refusals() {
  for_each_isa([&](og::Isa isa) {
    Tensor x(OG_F32, {4, 3}), w(OG_F32, {4}), none, y(OG_F32, {4, 3}), mean(OG_F32, {4}), bad(OG_F32, {3}),
        scalar(OG_F32, {});
    CHECK(forward(isa, true, x, w, none, y, mean, mean, 0) == OG_INVALID, "weight length");
    CHECK(forward(isa, true, x, none, none, y, bad, mean, 0) == OG_INVALID, "mean shape");
    CHECK(forward(isa, false, scalar, none, none, scalar, none, none, 0) == OG_INVALID, "rank");
    CHECK(backward(isa, false, x, none, mean, bad, y, y, none, none) == OG_INVALID, "rstd shape");
  });
}

}  // namespace

int main() {
  for (int centered = 0; centered < 2; centered++) {
    context() = centered ? "layer_norm" : "rms_norm";
    agree(centered);
    threads_and_aliasing(centered);
    residual(centered);
  }
  context() = "offset";
  offset();
  context() = "pivot";
  pivot();
  context() = "refusals";
  refusals();
  return finish("norm");
}
