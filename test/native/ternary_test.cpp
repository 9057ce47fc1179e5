// where: every dtype and layout, broadcast operands, exact 64-bit integers, NaN.
#include "check.h"

using namespace og_test;

int main() {
  Random random(4);
  const std::vector<std::vector<int64_t>> shapes = {{}, {0}, {1}, {9}, {3, 41}, {2, 3, 700}};
  for_each_isa([&](og::Isa isa) {
    for (const auto& shape : shapes) {
      for (int layout = 0; layout < kLayoutCount; layout++) {
        for (int32_t dtype = 0; dtype < OG_DTYPE_COUNT; dtype++) {
          Tensor c(OG_BOOL, shape, (Layout)layout), a(dtype, shape, (Layout)((layout + 1) % kLayoutCount));
          Tensor b(dtype, shape, (Layout)((layout + 2) % kLayoutCount)),
              y(dtype, shape, (Layout)((layout + 3) % kLayoutCount));
          c.integers(random, 0, 2);
          a.uniform(random, 0, 100);
          b.uniform(random, 0, 100);
          CHECK_OK(run(isa, "where", {&c, &a, &b}, {&y}));
          std::vector<double> want = b.values();
          for (size_t i = 0; i < want.size(); i++)
            if (c.get((int64_t)i) != 0) want[i] = a.get((int64_t)i);
          check_close(y, want, 0, 0, "where");
        }
      }
    }
    Tensor c(OG_BOOL, {2}), a(OG_I64, {2}), b(OG_I64, {2}), y(OG_I64, {2}), f(OG_F32, {2});
    c.assign({1, 0});
    a.set_int(0, INT64_MAX), b.set_int(1, INT64_MIN);
    CHECK_OK(run(isa, "where", {&c, &a, &b}, {&y}));
    CHECK(y.get_int(0) == INT64_MAX && y.get_int(1) == INT64_MIN);
    CHECK_FAILS(run(isa, "where", {&c, &a, &f}, {&y}), OG_INVALID);
    CHECK_FAILS(run(isa, "where", {&f, &a, &b}, {&y}), OG_INVALID);

    Tensor row(OG_BOOL, {1, 5}), one(OG_F32, {1, 1}), x(OG_F32, {2000, 5}), z(OG_F32, {2000, 5});
    row.assign({1, 0, 0, 1, 1});
    row.broadcast(0, 2000);
    one.assign({NAN});
    one.broadcast(0, 2000).broadcast(1, 5);
    x.uniform(random, -1, 1);
    check_threads([&] { run(isa, "where", {&row, &x, &one}, {&z}); }, [&] { return z.bytes(); });
    std::vector<double> want = x.values();
    for (size_t i = 0; i < want.size(); i++)
      if (row.get((int64_t)i) == 0) want[i] = NAN;
    check_close(z, want, 0, 0, "where with broadcast operands");
  });
  return finish("ternary");
}
