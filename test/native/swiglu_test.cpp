/** swiglu.cpp against the formulas in double. */
#include "check.h"

using namespace og_test;

namespace {

double logistic(double x) { return 1 / (1 + std::exp(-x)); }

void agree() {
  Random random(18);
  const std::vector<std::vector<int64_t>> shapes = {
      {}, {0}, {1}, {2}, {3}, {7}, {15}, {17}, {31}, {33}, {63}, {65}, {127}, {129}, {3, 41}, {2, 3, 700}, {5, 1024}};
  for (const auto& shape : shapes)
    for (int layout = 0; layout < kLayoutCount; layout++)
      for (int32_t dtype = OG_F32; dtype <= OG_F64; dtype++)
        for_each_isa([&](og::Isa isa) {
          if (dtype == OG_F64 && isa != og::kReference) return;
          const Layout other = (Layout)((layout + 1) % kLayoutCount), third = (Layout)((layout + 2) % kLayoutCount);
          Tensor a(dtype, shape, (Layout)layout), b(dtype, shape, other), grad(dtype, shape, third),
              y(dtype, shape, other), da(dtype, shape, third), db(dtype, shape, (Layout)layout), none;
          a.normal(random, 3);
          b.normal(random);
          grad.normal(random);
          std::vector<double> want_y, want_a, want_b;
          for (int64_t i = 0; i < a.count(); i++) {
            const double x = a.get(i), s = logistic(x), g = grad.get(i);
            want_y.push_back(x * s * b.get(i));
            want_a.push_back(g * b.get(i) * (s + x * s * logistic(-x)));
            want_b.push_back(g * x * s);
          }
          const double unit = og_test::roundoff(dtype), small = dtype == OG_F64 ? 1e-15 : dtype == OG_F16 ? 1e-7 : 2e-7;
          CHECK_OK(run(isa, "swiglu", {&a, &b}, {&y}));
          check_close(y, want_y, 10 * unit, small, "y");
          CHECK_OK(run(isa, "swiglu_backward", {&a, &b, &grad}, {&da, &db}));
          check_close(da, want_a, 10 * unit, 5 * small, "da");
          check_close(db, want_b, 10 * unit, small, "db");
          const std::vector<double> both_a = da.values(), both_b = db.values();
          CHECK_OK(run(isa, "swiglu_backward", {&a, &b, &grad}, {&da, &none}));
          CHECK(da.values() == both_a, "da alone");
          CHECK_OK(run(isa, "swiglu_backward", {&a, &b, &grad}, {&none, &db}));
          CHECK(db.values() == both_b, "db alone");
          if (dtype != OG_F32) return;
          CHECK_OK(run(isa, "swiglu_backward", {&a, &b, &grad}, {&a, &b}));
          CHECK(a.values() == both_a && b.values() == both_b, "over the inputs");
        });
}

void specials() {
  for_each_isa([&](og::Isa isa) {
    Tensor a(OG_F32, {6}), b(OG_F32, {6}), grad(OG_F32, {6}), y(OG_F32, {6}), da(OG_F32, {6}), db(OG_F32, {6});
    a.assign({NAN, 1, INFINITY, -1000, 1000, 0});
    b.assign({1, NAN, 2, 3, 3, 5});
    grad.fill([](int64_t) { return 1.; });
    CHECK_OK(run(isa, "swiglu", {&a, &b}, {&y}));
    CHECK(std::isnan(y.get(0)) && std::isnan(y.get(1)) && y.get(2) == INFINITY, "NaN and infinity");
    CHECK(y.get(3) == 0 && y.get(4) == 3000 && y.get(5) == 0, "%g %g %g", y.get(3), y.get(4), y.get(5));
    CHECK_OK(run(isa, "swiglu_backward", {&a, &b, &grad}, {&da, &db}));
    CHECK(std::isnan(da.get(0)) && std::isnan(db.get(0)) && std::isnan(da.get(1)), "NaN");
    CHECK(da.get(3) == 0 && da.get(4) == 3 && da.get(5) == 2.5, "%g %g %g", da.get(3), da.get(4), da.get(5));
  });
}

void threads_and_refusals() {
  Random random(19);
  for_each_isa([&](og::Isa isa) {
    Tensor a(OG_F32, {100, 901}), b(OG_F32, {100, 901}), grad(OG_F32, {100, 901}), da(OG_F32, {100, 901}),
        db(OG_F32, {100, 901}), bad(OG_F32, {100, 900}), whole(OG_I32, {100, 901});
    a.normal(random);
    b.normal(random);
    grad.normal(random);
    check_threads([&] { run(isa, "swiglu", {&a, &b}, {&da}); }, [&] { return da.bytes(); });
    check_threads([&] { run(isa, "swiglu_backward", {&a, &b, &grad}, {&da, &db}); }, [&] { return da.bytes(); });
    CHECK_FAILS(run(isa, "swiglu", {&a, &bad}, {&da}), OG_INVALID);
    CHECK_FAILS(run(isa, "swiglu", {&a, &whole}, {&da}), OG_UNSUPPORTED);
    CHECK_FAILS(run(isa, "swiglu_backward", {&a, &b, &bad}, {&da, &db}), OG_INVALID);
    CHECK_FAILS(run(isa, "swiglu_backward", {&a, &b, &grad}, {&da, &whole}), OG_UNSUPPORTED);
  });
}

}  // namespace

int main() {
  context() = "agree";
  agree();
  context() = "specials";
  specials();
  context() = "threads";
  threads_and_refusals();
  return finish("swiglu");
}
