// cumsum and cumprod against running totals in double, or exact integers: every set, dtype and layout, in place,
// wrapping.
#include "check.h"

using namespace og_test;

int main() {
  Random random(9);
  const std::vector<std::vector<int64_t>> shapes = {{1}, {7}, {0}, {3, 0}, {0, 3}, {5, 40}, {3, 70, 11}, {2, 3000}};
  for_each_isa([&](og::Isa isa) {
    for (const auto& shape : shapes) {
      for (int layout = 0; layout < kLayoutCount; layout++) {
        for (int32_t dtype = 0; dtype < OG_DTYPE_COUNT; dtype++) {
          const bool real = dtype <= OG_F64;
          const int64_t n = shape.back();
          for (int32_t out : {dtype, (int32_t)OG_I64}) {
            if (real ? out != dtype : out == OG_BOOL) continue;
            for (bool product : {false, true}) {
              Tensor x(dtype, shape, (Layout)layout), y(out, shape, (Layout)((layout + 1) % kLayoutCount));
              if (real) {
                x.uniform(random, product ? 0.99 : -1, product ? 1.01 : 1);
              } else {
                x.integers(random, 0, 2);
              }
              CHECK_OK(run(isa, product ? "cumprod" : "cumsum", {&x}, {&y}));
              std::vector<double> want = x.values();
              for (size_t i = 0; i < want.size(); i++) {
                if ((int64_t)i % n == 0) continue;
                want[i] = product ? want[i - 1] * want[i] : want[i - 1] + want[i];
                // narrow integers keep their low bits
                if (!real && out != OG_I64 && og::dtype_size(out) == 1)
                  want[i] = out == OG_I8 ? (int8_t)(int64_t)want[i] : (uint8_t)(int64_t)want[i];
              }
              check_close(y, want, real ? roundoff(dtype) + 1e-13 : 0,
                          real ? 1e-12 + (dtype == OG_F16 ? 0x1p-25 : 0) : 0, product ? "cumprod" : "cumsum");
            }
          }
        }
      }
    }
    Tensor wide(OG_I64, {3}), y(OG_I64, {3}), f(OG_F32, {3}), flags(OG_BOOL, {3}), scalar(OG_F32, {});
    wide.set_int(0, INT64_MAX), wide.set_int(1, 1), wide.set_int(2, 5);
    CHECK_OK(run(isa, "cumsum", {&wide}, {&y}));
    CHECK(y.get_int(1) == INT64_MIN && y.get_int(2) == INT64_MIN + 5);
    CHECK_OK(run(isa, "cumsum", {&wide}, {&wide}));
    CHECK(wide.get_int(2) == INT64_MIN + 5, "in place");
    CHECK_FAILS(run(isa, "cumsum", {&wide}, {&f}), OG_INVALID);
    CHECK_FAILS(run(isa, "cumsum", {&f}, {&y}), OG_INVALID);
    CHECK_FAILS(run(isa, "cumsum", {&flags}, {&flags}), OG_UNSUPPORTED);
    CHECK_FAILS(run(isa, "cumsum", {&scalar}, {&scalar}), OG_INVALID);
    Tensor big(OG_F32, {500, 1000}), sums(OG_F32, {500, 1000});
    big.uniform(random, -1, 1);
    check_threads([&] { run(isa, "cumsum", {&big}, {&sums}); }, [&] { return sums.bytes(); });
  });
  return finish("cumulative");
}
