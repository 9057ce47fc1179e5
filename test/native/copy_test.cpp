// copy and fill: every dtype and pair of layouts, bits kept; transpositions of all element sizes around the edges of
// their tiles, strips and pieces, the same bits for any thread count; conversions from the definition.
#include "check.h"

using namespace og_test;

namespace {

/** Random bits, NaN payloads included, so a copy must keep every one of them. Compared as bytes of dense tensors. */
void check_transposed(og::Isa isa, Random& random, int32_t dtype, const std::vector<int64_t>& shape) {
  Tensor x(dtype, shape), along(dtype, shape, kTransposed), back(dtype, shape);
  og_view v = x.view();
  char* bytes = static_cast<char*>(v.data);
  const int64_t n = x.count() * og::dtype_size(dtype);
  for (int64_t i = 0; i < n; i++) bytes[i] = (char)random.next();
  CHECK_OK(run(isa, "copy", {&x}, {&along}));
  CHECK_OK(run(isa, "copy", {&along}, {&back}));
  CHECK(std::memcmp(v.data, back.view().data, (size_t)n) == 0, "to and fro changes bits");
  const og_view a = along.view();
  const int64_t size = og::dtype_size(dtype);
  int64_t wrong = 0;
  for (int64_t i = 0; i < x.count(); i++)
    wrong += std::memcmp(bytes + i * size, static_cast<char*>(a.data) + og::offset_of(a, i, a.rank) * size,
                         (size_t)size) != 0;
  CHECK(wrong == 0, "%d elements differ", (int)wrong);
}

}  // namespace

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
    const int64_t edges[] = {7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129};
    for (int32_t dtype : {OG_U8, OG_BF16, OG_F32, OG_I32, OG_I64, OG_F64}) {
      for (int64_t rows : edges)
        for (int64_t columns : edges) check_transposed(isa, random, dtype, {rows, columns});
      check_transposed(isa, random, dtype, {257, 300});
      check_transposed(isa, random, dtype, {20, 530});
      check_transposed(isa, random, dtype, {530, 20});
      check_transposed(isa, random, dtype, {33, 3, 70});
      check_transposed(isa, random, dtype, {17, 2, 3, 65});
    }
    for (int from : {(int)kTransposed, (int)kGaps, (int)kReversed}) {
      Tensor x(OG_F32, {5, 70, 90}, (Layout)from), to(OG_F32, {5, 70, 90}, from == kTransposed ? kGaps : kTransposed);
      x.uniform(random, 0, 1);
      CHECK_OK(run(isa, "copy", {&x}, {&to}));
      check_close(to, x.values(), 0, 0, "copy across gaps");
    }
    Tensor wide(OG_F32, {600, 700}, kTransposed), dense(OG_F32, {600, 700});
    wide.uniform(random, 0, 1);
    check_threads([&] { run(isa, "copy", {&wide}, {&dense}); }, [&] { return dense.bytes(); });
    check_close(dense, wide.values(), 0, 0, "transposed by several threads");

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
