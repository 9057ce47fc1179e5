// copy and fill: every dtype and pair of layouts, bits kept; conversions from the definition.
#include "check.h"

using namespace og_test;

int main() {
  Random random(1);
  const std::vector<std::vector<int64_t>> shapes = {{}, {0}, {1}, {7}, {3, 0, 2}, {37, 45}, {2, 33, 5}};
  for_each_isa([&](og::Isa isa) {
    for (int from = 0; from < kLayoutCount; from++) {
      for (int to = 0; to < kLayoutCount; to++) {
        for (const auto& shape : shapes) {
          for (int32_t dtype = 0; dtype < OG_DTYPE_COUNT; dtype++) {
            Tensor x(dtype, shape, (Layout)from), y(dtype, shape, (Layout)to), wide(OG_F64, shape, (Layout)to);
            x.uniform(random, 0, 2);
            CHECK_OK(run(isa, "copy", {&x}, {&y}));
            check_close(y, x.values(), 0, 0, "copy");
            CHECK_OK(run(isa, "copy", {&x}, {&wide}));
            check_close(wide, x.values(), 0, 0, "copy to f64");
          }
        }
      }
    }
    Tensor y(OG_BF16, {3, 1000}, kGaps);
    CHECK_OK(run(isa, "fill", {}, {&y}, {2.5}));
    check_close(y, std::vector<double>(3000, 2.5), 0, 0, "fill");

    // float to integer saturates and sends NaN to 0
    Tensor x(OG_F32, {5}), bytes(OG_I8, {5});
    x.assign({300, -300, NAN, 2.9, -2.9});
    CHECK_OK(run(isa, "copy", {&x}, {&bytes}));
    check_close(bytes, {127, -128, 0, 2, -2}, 0, 0, "f32 to i8");
  });
  return finish("copy");
}
