/** cross_entropy.cpp against the definition in double. */
#include "check.h"

using namespace og_test;

namespace {

const double kInf = INFINITY;

struct Numbers {
  std::vector<double> loss, lse, dx;
};

Numbers oracle(const std::vector<double>& x, const std::vector<double>& target, const std::vector<double>& weight,
               const std::vector<double>& grad, int64_t classes, double ignore, double smoothing) {
  Numbers out;
  out.dx.assign(x.size(), 0);
  double all = 0;
  for (int64_t c = 0; c < classes; c++) all += weight.empty() ? 1 : weight[(size_t)c];
  for (size_t r = 0; r < target.size(); r++) {
    if (target[r] == ignore) {
      out.loss.push_back(0);
      out.lse.push_back(0);
      continue;
    }
    const double* v = &x[r * (size_t)classes];
    double m = -kInf, sum = 0, smooth = 0;
    for (int64_t c = 0; c < classes; c++) m = std::fmax(m, v[c]);
    for (int64_t c = 0; c < classes; c++) sum += std::exp(v[c] - m);
    const double lse = m + std::log(sum);
    const int64_t t = (int64_t)target[r];
    const double hit = (1 - smoothing) * (weight.empty() ? 1 : weight[(size_t)t]),
                 uniform = smoothing / (double)classes;
    for (int64_t c = 0; c < classes; c++) {
      const double w = weight.empty() ? 1 : weight[(size_t)c];
      smooth += w * (lse - v[c]);
      out.dx[r * (size_t)classes + (size_t)c] =
          grad[r] * (std::exp(v[c] - lse) * (hit + uniform * all) - uniform * w - (c == t ? hit : 0));
    }
    out.loss.push_back(hit * (lse - v[t]) + (smoothing ? uniform * smooth : 0));
    out.lse.push_back(lse);
  }
  return out;
}

void agree() {
  Random random(8);
  const std::vector<std::vector<int64_t>> shapes = {{0, 5}, {1, 1}, {3, 2}, {6, 17}, {5, 64}, {9, 333}, {3, 5000}};
  int variant = 0;
  for (const auto& shape : shapes)
    for (int layout = 0; layout < kLayoutCount; layout++)
      for (int32_t dtype = OG_F32; dtype <= OG_F64; dtype++)
        for (int mode = 0; mode < 4; mode++, variant++)
          for_each_isa([&](og::Isa isa) {
            if (dtype == OG_F64 && isa != og::kReference) return;
            const bool weighted = mode & 1;
            const double smoothing = mode & 2 ? 0.15 : 0, ignore = variant % 3 ? -100 : 0;
            const int64_t rows = shape[0], classes = shape[1];
            const int32_t wide = dtype == OG_F64 ? OG_F64 : OG_F32;
            const Layout other = (Layout)((layout + 1) % kLayoutCount);
            Tensor x(dtype, shape, (Layout)layout), target(variant % 2 ? OG_I64 : OG_I32, {rows}, other);
            Tensor weight = weighted ? Tensor(wide, {classes}, (Layout)(variant % kLayoutCount)) : Tensor();
            Tensor loss(wide, {rows}, other), lse(wide, {rows}, kGaps), grad(wide, {rows}, other),
                dx(dtype, shape, other);
            x.normal(random, 3, variant % 5 ? 0 : 50);
            target.fill([&](int64_t i) { return i % 4 == 3 ? ignore : (double)random.below(classes); });
            grad.normal(random);
            if (weighted) weight.uniform(random, 0, 2);
            const double unit = og_test::roundoff(dtype), small = dtype == OG_F64 ? 1e-13 : 2e-6;
            const Numbers want = oracle(x.values(), target.values(), weighted ? weight.values() : std::vector<double>(),
                                        grad.values(), classes, ignore, smoothing);
            CHECK(run(isa, "cross_entropy", {&x, &target, &weight}, {&loss, &lse}, {ignore, smoothing}) == OG_OK, "%s",
                  og::last_message());
            check_close(loss, want.loss, small, 2 * small, "loss");
            check_close(lse, want.lse, small, small, "lse");
            CHECK(run(isa, "cross_entropy_backward", {&x, &target, &weight, &lse, &grad}, {&dx}, {ignore, smoothing}) ==
                      OG_OK,
                  "%s", og::last_message());
            // p carries the rounding of lse, |lse| * 2^-24 as the kernel states, undiminished where p - 1 cancels; the
            // factor of p is at most the gradient times twice the mean weight
            double lse_most = 0, grad_most = 0;
            for (double value : want.lse) lse_most = std::fmax(lse_most, std::fabs(value));
            for (double value : grad.values()) grad_most = std::fmax(grad_most, std::fabs(value));
            const double carried = 2 * lse_most * 0x1p-24 * grad_most;
            check_close(dx, want.dx, 2 * unit + 8 * small, dtype == OG_F16 ? 1e-7 + carried : 4 * small, "dlogits");
            Tensor loss2(wide, {rows}, kReversed), dx2(dtype, shape, (Layout)layout), copy = x;
            CHECK_OK(
                run(isa, "cross_entropy_fused", {&x, &target, &weight, &grad}, {&loss2, &dx2}, {ignore, smoothing}));
            CHECK(loss2.values() == loss.values() && dx2.values() == dx.values(), "the fused call differs");
            CHECK_OK(run(isa, "cross_entropy_fused", {&copy, &target, &weight, &grad}, {&loss2, &copy},
                         {ignore, smoothing}));
            CHECK(loss2.values() == loss.values() && copy.values() == dx.values(), "the fused call in place differs");
            if (dtype != OG_F32) return;
            const std::vector<double> apart = dx.values();
            run(isa, "cross_entropy_backward", {&x, &target, &weight, &lse, &grad}, {&x}, {ignore, smoothing});
            CHECK(x.values() == apart, "dlogits over logits differs");
          });
}

void indices() {
  for_each_isa([&](og::Isa isa) {
    Tensor x(OG_F32, {3, 4}), none, loss(OG_F32, {3}), lse(OG_F32, {3}), dx(OG_F32, {3, 4});
    for (int32_t dtype : {OG_I32, OG_I64})
      for (double bad : {4., -1., -100., 2147483647.}) {
        Tensor target(dtype, {3});
        target.set(1, bad);
        loss.fill([](int64_t) { return 5.; });
        dx.fill([](int64_t) { return 5.; });
        CHECK(run(isa, "cross_entropy", {&x, &target, &none}, {&loss, &lse}, {-7, 0}) == OG_INDEX, "target %g", bad);
        CHECK(std::strstr(og::last_message(), "position 1"), "%s", og::last_message());
        CHECK(loss.get(0) == 5, "something was written");
        CHECK(run(isa, "cross_entropy_backward", {&x, &target, &none, &lse, &loss}, {&dx}, {-7, 0}) == OG_INDEX,
              "target %g", bad);
        CHECK_FAILS(run(isa, "cross_entropy_fused", {&x, &target, &none, &lse}, {&loss, &dx}, {-7, 0}), OG_INDEX);
        CHECK(dx.get(0) == 5, "something was written");
        CHECK(run(isa, "cross_entropy", {&x, &target, &none}, {&loss, &lse}, {bad, 0}) == OG_OK, "ignored target %g",
              bad);
        CHECK(loss.get(1) == 0 && close(loss.get(0), std::log(4.), 1e-6, 0), "loss %g %g", loss.get(0), loss.get(1));
      }
  });
}

/** Infinite and NaN logits: NaN where PyTorch gives NaN; -∞ on another class is a mask. */
void specials() {
  for_each_isa([&](og::Isa isa) {
    const int64_t n = 2100;
    Tensor x(OG_F32, {6, n}), target(OG_I64, {6}), none, loss(OG_F32, {6}), lse(OG_F32, {6}), grad(OG_F32, {6}),
        dx(OG_F32, {6, n});
    grad.fill([](int64_t) { return 1.; });
    for (int64_t i = 1; i < n; i++) x.set(i, -kInf);  // only the target is left
    x.set(n, -kInf);                                  // the target is masked out
    x.set(2 * n + 2080, kInf);
    x.set(3 * n + 5, NAN);
    for (int64_t i = 0; i < n; i++) x.set(4 * n + i, -kInf);
    for (int64_t i = 0; i < n; i++) x.set(5 * n + i, i ? -3e38 : 3e38);
    CHECK(run(isa, "cross_entropy", {&x, &target, &none}, {&loss, &lse}, {-100, 0}) == OG_OK, "%s", og::last_message());
    CHECK(run(isa, "cross_entropy_backward", {&x, &target, &none, &lse, &grad}, {&dx}, {-100, 0}) == OG_OK, "%s",
          og::last_message());
    const double want[] = {0, kInf, NAN, NAN, NAN, 0};
    for (int64_t r = 0; r < 6; r++)
      CHECK(close(loss.get(r), want[r], 1e-6, 1e-6), "loss of row %d is %g", (int)r, loss.get(r));
    for (int64_t r : {2, 3, 4})
      CHECK(std::isnan(dx.get(r * n)) && std::isnan(dx.get(r * n + n - 1)), "dlogits of row %d", (int)r);
    for (int64_t r : {0, 5}) CHECK(dx.get(r * n) == 0 && dx.get(r * n + 7) == 0, "dlogits of row %d", (int)r);
    CHECK(dx.get(n) == -1, "masked target: %g", dx.get(n));
  });
}

void threads() {
  Random random(9);
  for_each_isa([&](og::Isa isa) {
    Tensor x(OG_F32, {64, 1500}), target(OG_I32, {64}), none, loss(OG_F32, {64}), lse(OG_F32, {64}),
        dx(OG_F32, {64, 1500});
    x.normal(random, 3);
    target.fill([&](int64_t) { return (double)random.below(1500); });
    check_threads(
        [&] {
          run(isa, "cross_entropy", {&x, &target, &none}, {&loss, &lse}, {-100, 0.1});
        },
        [&] { return loss.bytes(); });
    check_threads(
        [&] {
          run(isa, "cross_entropy_backward", {&x, &target, &none, &lse, &loss}, {&dx}, {-100, 0.1});
        },
        [&] { return dx.bytes(); });
    Tensor kept = x;
    check_threads(
        [&] {
          x = kept;
          run(isa, "cross_entropy_fused", {&x, &target, &none, &lse}, {&loss, &x}, {-100, 0.1});
        },
        [&] { return x.bytes(); });
    x = kept;
    run(isa, "cross_entropy", {&x, &target, &none}, {&loss, &lse}, {-100, 0.1});
    // a gradient that is one number for all rows, as a mean gives
    Tensor one(OG_F32, {1}), same(OG_F32, {64}), again(OG_F32, {64, 1500});
    one.set(0, 0.25);
    one.broadcast(0, 64);
    same.fill([](int64_t) { return 0.25; });
    run(isa, "cross_entropy_backward", {&x, &target, &none, &lse, &one}, {&dx}, {-100, 0});
    run(isa, "cross_entropy_backward", {&x, &target, &none, &lse, &same}, {&again}, {-100, 0});
    CHECK(dx.bytes() == again.bytes(), "broadcast gradient");
  });
}

void refusals() {
  for_each_isa([&](og::Isa isa) {
    Tensor x(OG_F32, {3, 4}), flat(OG_F32, {4}), target(OG_I64, {3}), bad(OG_I64, {4}), real(OG_F32, {3}), none,
        lse(OG_F32, {3});
    CHECK(run(isa, "cross_entropy", {&flat, &target, &none}, {&lse, &lse}, {-100, 0}) == OG_INVALID, "rank");
    CHECK(run(isa, "cross_entropy", {&x, &bad, &none}, {&lse, &lse}, {-100, 0}) == OG_INVALID, "target shape");
    CHECK(run(isa, "cross_entropy", {&x, &real, &none}, {&lse, &lse}, {-100, 0}) == OG_UNSUPPORTED, "target dtype");
    CHECK(run(isa, "cross_entropy", {&x, &target, &lse}, {&lse, &lse}, {-100, 0}) == OG_INVALID, "weight shape");
    Tensor dx(OG_F32, {3, 4}), other(OG_F32, {4, 3});
    CHECK_FAILS(run(isa, "cross_entropy_fused", {&x, &target, &none, &flat}, {&lse, &dx}, {-100, 0}), OG_INVALID);
    CHECK_FAILS(run(isa, "cross_entropy_fused", {&x, &target, &none, &lse}, {&lse, &other}, {-100, 0}), OG_INVALID);
    CHECK_FAILS(run(isa, "cross_entropy_fused", {&x, &target, &none, &target}, {&lse, &dx}, {-100, 0}), OG_UNSUPPORTED);
  });
}

/** Results beyond the caches, with rows that are not read among the others: the bits of the two calls. */
void beyond_caches() {
  const int64_t rows = 1100, classes = 8191;  // 34 MiB
  Random random(12);
  for (double smoothing : {0., 0.1})
    for_each_isa([&](og::Isa isa) {
      Tensor x(OG_F32, {rows, classes}), target(OG_I32, {rows}), none, grad(OG_F32, {rows}), loss(OG_F32, {rows}),
          lse(OG_F32, {rows}), dx(OG_F32, {rows, classes}), loss2(OG_F32, {rows}), dx2(OG_F32, {rows, classes});
      x.normal(random, 3);
      grad.normal(random);
      for (int64_t r = 0; r < rows; r++) target.set(r, r % 7 == 3 ? -100 : random.below(classes));
      CHECK_OK(run(isa, "cross_entropy", {&x, &target, &none}, {&loss, &lse}, {-100, smoothing}));
      CHECK_OK(run(isa, "cross_entropy_backward", {&x, &target, &none, &lse, &grad}, {&dx}, {-100, smoothing}));
      CHECK_OK(run(isa, "cross_entropy_fused", {&x, &target, &none, &grad}, {&loss2, &dx2}, {-100, smoothing}));
      CHECK(loss2.bytes() == loss.bytes() && dx2.bytes() == dx.bytes(), "the fused call differs");
    });
}

}  // namespace

int main() {
  agree();
  context() = "indices";
  indices();
  context() = "specials";
  specials();
  context() = "threads";
  threads();
  context() = "beyond caches";
  beyond_caches();
  context() = "refusals";
  refusals();
  return finish("cross_entropy");
}
