// obs_block against the definition in float, step by step, on every set: rounding, dropping, both, neither.
#include "check.h"

using namespace og_test;

namespace {

struct Expected {
  std::vector<double> values, errors, codes;
};

/** The definition; products and differences rounded as the kernel states. */
Expected expect(const Tensor& w, const Tensor& u, const Tensor& keep, const Tensor& scale, const Tensor& zero,
                float lowest, float highest) {
  const int64_t rows = w.shape()[0], n = w.shape()[1];
  Expected e;
  for (int64_t r = 0; r < rows; r++) {
    std::vector<float> now((size_t)n);
    for (int64_t j = 0; j < n; j++) now[(size_t)j] = (float)w.get(r * n + j);
    for (int64_t j = 0; j < n; j++) {
      const float x = now[(size_t)j];
      float value = x, code = 0;
      if (scale.present()) {
        const float s = (float)scale.get(r * n + j), z = zero.present() ? (float)zero.get(r * n + j) : 0.f;
        float q = x == x ? std::fmin(std::fmax(x / s, lowest - z), highest - z) : 0.f;
        q = std::nearbyint(q);
        code = q + z;
        value = q * s;
        if (keep.present() && keep.get(r * n + j) == 0) code = z;
      }
      if (keep.present() && keep.get(r * n + j) == 0) value = 0;
      const float error = (x - value) / (float)u.get(j * n + j);
      for (int64_t k = j + 1; k < n; k++) {
        const float part = error * (float)u.get(j * n + k);
        now[(size_t)k] = now[(size_t)k] - part;
      }
      e.values.push_back(value), e.errors.push_back(error), e.codes.push_back(code);
    }
  }
  return e;
}

}  // namespace

int main() {
  Random random(12);
  for_each_isa([&](og::Isa isa) {
    for (int64_t rows : {1, 2, 15, 16, 17, 40}) {
      for (int64_t n : {1, 3, 32, 129}) {
        for (int layout = 0; layout < kLayoutCount; layout++) {
          for (int mode = 0; mode < 8; mode++) {
            named("%d × %d, layout %d, mode %d", (int)rows, (int)n, layout, mode);
            const bool masked = mode & 1, coded = mode & 2, affine = mode & 4;
            if (affine && !coded) continue;
            Tensor w(OG_F32, {rows, n}, (Layout)layout), u(OG_F32, {n, n}, (Layout)layout), keep, scale, zero, codes;
            w.normal(random);
            u.fill([&](int64_t i) { return i / n == i % n ? 1 + random.uniform() : 0.3 * random.normal(); });
            if (masked) keep = Tensor(OG_BOOL, {rows, n}, (Layout)layout), keep.integers(random, 0, 2);
            if (coded) scale = Tensor(OG_F32, {rows, n}, (Layout)layout), scale.uniform(random, 0.1, 0.4);
            if (coded && mode == 2) {  // one scale a row, as without groups
              scale = Tensor(OG_F32, {rows, 1});
              scale.uniform(random, 0.1, 0.4).broadcast(1, n);
            }
            if (affine) zero = Tensor(OG_I32, {rows, n}, (Layout)layout), zero.integers(random, 0, 16);
            if (coded) codes = Tensor(affine ? OG_U8 : OG_I8, {rows, n});
            Tensor values(OG_F32, {rows, n}), errors(OG_F32, {rows, n});
            const double lowest = affine ? 0 : -7, highest = affine ? 15 : 7;
            CHECK_OK(
                run(isa, "obs_block", {&w, &u, &keep, &scale, &zero}, {&values, &errors, &codes}, {lowest, highest}));
            const Expected e = expect(w, u, keep, scale, zero, (float)lowest, (float)highest);
            check_close(values, e.values, 0, 0, "values");
            check_close(errors, e.errors, 0, 0, "errors");
            if (coded) check_close(codes, e.codes, 0, 0, "codes");
          }
        }
      }
    }
    named("numbers that are none");
    Tensor w(OG_F32, {1, 3}), u(OG_F32, {3, 3}), none, scale(OG_F32, {1, 3}), codes(OG_I8, {1, 3});
    Tensor values(OG_F32, {1, 3}), errors(OG_F32, {1, 3});
    w.assign({INFINITY, 1, NAN}), u.assign({1, 0, 0, 0, 1, 0, 0, 0, 1}), scale.fill([](int64_t) { return 0.5; });
    CHECK_OK(run(isa, "obs_block", {&w, &u, &none, &scale, &none}, {&values, &errors, &codes}, {-127, 127}));
    CHECK(codes.get(0) == 127 && codes.get(2) == 0, "%g %g", codes.get(0), codes.get(2));
    named("refusals");
    Tensor empty(OG_F32, {0, 3}), half(OG_F16, {1, 3}), narrow(OG_F32, {2, 2}), e0(OG_F32, {0, 3}), e1(OG_F32, {0, 3});
    Tensor flags(OG_I8, {1, 3});
    CHECK_OK(run(isa, "obs_block", {&empty, &u, &none, &none, &none}, {&e0, &e1, &none}, {0, 0}));
    CHECK_FAILS(run(isa, "obs_block", {&half, &u, &none, &none, &none}, {&values, &errors, &none}, {0, 0}), OG_INVALID);
    CHECK_FAILS(run(isa, "obs_block", {&w, &narrow, &none, &none, &none}, {&values, &errors, &none}, {0, 0}),
                OG_INVALID);
    CHECK_FAILS(run(isa, "obs_block", {&w, &u, &flags, &none, &none}, {&values, &errors, &none}, {0, 0}), OG_INVALID);
    CHECK_FAILS(run(isa, "obs_block", {&w, &u, &none, &none, &none}, {&values, &errors, &codes}, {-7, 7}), OG_INVALID);
    CHECK_FAILS(run(isa, "obs_block", {&w, &u, &none, &scale, &none}, {&values, &errors, &codes}, {-200, 7}),
                OG_INVALID);
    named("threads");
    Tensor big(OG_F32, {300, 64}), factor(OG_F32, {64, 64}), out(OG_F32, {300, 64}), lost(OG_F32, {300, 64});
    Tensor kept(OG_BOOL, {300, 64});
    big.normal(random), kept.integers(random, 0, 2);
    factor.fill([&](int64_t i) { return i / 64 == i % 64 ? 1. : 0.1 * random.normal(); });
    check_threads(
        [&] {
          run(isa, "obs_block", {&big, &factor, &kept, &none, &none}, {&out, &lost, &none}, {0, 0});
        },
        [&] { return out.bytes(); });
  });
  return finish("obs_block");
}
