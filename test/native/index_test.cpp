// index_select, index_add, gather, scatter against loops over coordinates; every dtype and layout, out-of-range
// indices.
#include "check.h"

using namespace og_test;

namespace {

typedef std::vector<int64_t> Shape;

std::vector<int64_t> coordinates(int64_t position, const Shape& shape) {
  std::vector<int64_t> c(shape.size());
  for (size_t k = shape.size(); k-- > 0;) {
    c[k] = position % shape[k];
    position /= shape[k];
  }
  return c;
}
int64_t position_of(const std::vector<int64_t>& c, const Shape& shape) {
  int64_t p = 0;
  for (size_t k = 0; k < shape.size(); k++) p = p * shape[k] + c[k];
  return p;
}

double sum_tolerance(int32_t dtype) { return dtype > OG_F64 ? 0 : roundoff(dtype) + 1e-6 * (dtype != OG_F64); }

void check_shape(og::Isa isa, Random& random, const Shape& shape, int axis, int64_t n, int32_t dtype,
                 int32_t index_dtype, int layout) {
  const Layout a = (Layout)layout, b = (Layout)((layout + 1) % kLayoutCount), c = (Layout)((layout + 3) % kLayoutCount);
  const int64_t length = shape[(size_t)axis];
  Shape chosen = shape;
  chosen[(size_t)axis] = n;
  Tensor x(dtype, shape, a), index(index_dtype, {n}, c), y(dtype, chosen, b);
  x.integers(random, 0, 2);
  index.integers(random, 0, length);
  CHECK_OK(run(isa, "index_select", {&x, &index}, {&y}, {(double)axis}));
  std::vector<double> want((size_t)y.count());
  for (int64_t i = 0; i < y.count(); i++) {
    auto at = coordinates(i, chosen);
    at[(size_t)axis] = index.get_int(at[(size_t)axis]);
    want[(size_t)i] = x.get(position_of(at, shape));
  }
  check_close(y, want, 0, 0, "index_select");

  if (dtype != OG_BOOL) {
    Tensor src(dtype, chosen, b), sum(dtype, shape, a);
    if (dtype <= OG_F64)
      src.uniform(random, -1, 1), sum.uniform(random, 2, 3);
    else
      src.integers(random, 0, 3), sum.integers(random, 0, 3);
    want = sum.values();
    for (int64_t i = 0; i < src.count(); i++) {
      auto at = coordinates(i, chosen);
      at[(size_t)axis] = index.get_int(at[(size_t)axis]);
      want[(size_t)position_of(at, shape)] += src.get(i);
    }
    CHECK_OK(run(isa, "index_add", {&index, &src}, {&sum}, {(double)axis}));
    check_close(sum, want, sum_tolerance(dtype), sum_tolerance(dtype) ? 1e-5 * (dtype != OG_F64) + 1e-14 : 0,
                "index_add");
  }

  // gather and scatter take a whole tensor of indices, shorter than x on the other axes too
  Shape part = chosen;
  for (size_t k = 0; k < part.size(); k++)
    if ((int)k != axis && part[k] > 2) part[k]--;
  Tensor where(index_dtype, part, c), got(dtype, part, b);
  where.integers(random, 0, length);
  CHECK_OK(run(isa, "gather", {&x, &where}, {&got}, {(double)axis}));
  want.assign((size_t)got.count(), 0);
  for (int64_t i = 0; i < got.count(); i++) {
    auto at = coordinates(i, part);
    at[(size_t)axis] = where.get_int(i);
    want[(size_t)i] = x.get(position_of(at, shape));
  }
  check_close(got, want, 0, 0, "gather");

  for (int mode = 0; mode < (dtype == OG_BOOL ? 1 : 2); mode++) {
    Tensor src(dtype, part, a), out(dtype, shape, b);
    src.integers(random, 0, 2);
    out.integers(random, 0, 2);
    if (dtype <= OG_F64) src.uniform(random, -1, 1), out.uniform(random, 2, 3);
    want = out.values();
    for (int64_t i = 0; i < src.count(); i++) {
      auto at = coordinates(i, part);
      at[(size_t)axis] = where.get_int(i);
      double& target = want[(size_t)position_of(at, shape)];
      target = mode ? target + src.get(i) : src.get(i);
    }
    CHECK_OK(run(isa, "scatter", {&where, &src}, {&out}, {(double)axis, (double)mode}));
    const double tolerance = mode ? sum_tolerance(dtype) : 0;
    check_close(out, want, tolerance, tolerance ? 1e-5 * (dtype != OG_F64) + 1e-14 : 0,
                mode ? "scatter add" : "scatter");
  }
}

bool mentions(const char* text) { return std::strstr(og::last_message(), text) != nullptr; }

}  // namespace

int main() {
  Random random(6);
  const Shape shapes[] = {{7}, {5, 9}, {4, 3, 6}, {3, 600}, {2, 3, 4, 5}};
  for_each_isa([&](og::Isa isa) {
    for (const Shape& shape : shapes)
      for (int axis = 0; axis < (int)shape.size(); axis++)
        for (int layout = 0; layout < kLayoutCount; layout++)
          for (int32_t dtype = 0; dtype < OG_DTYPE_COUNT; dtype++)
            for (int64_t n : {0, 1, 11})
              check_shape(isa, random, shape, axis, n, dtype, layout % 2 ? OG_I32 : OG_I64, layout);

    Tensor x(OG_F32, {4, 3}), index(OG_I64, {5}), y(OG_F32, {5, 3}), whole(OG_I32, {5, 3});
    y.fill([](int64_t) { return 7; });
    x.fill([](int64_t) { return 7; });
    for (double bad : {4., -1., 1e15}) {
      index.assign({0, 3, bad, 1, 9});
      CHECK_FAILS(run(isa, "index_select", {&x, &index}, {&y}, {0}), OG_INDEX);
      CHECK(mentions("position 2") && mentions("length 4"));
      CHECK_FAILS(run(isa, "index_add", {&index, &y}, {&x}, {0}), OG_INDEX);
    }
    whole.set(7, -3);
    CHECK_FAILS(run(isa, "gather", {&x, &whole}, {&y}, {0}), OG_INDEX);
    CHECK(mentions("index -3 at position 7"));
    CHECK_FAILS(run(isa, "scatter", {&whole, &y}, {&x}, {0, 1}), OG_INDEX);
    check_close(y, std::vector<double>(15, 7), 0, 0, "refused look-ups write nothing");
    check_close(x, std::vector<double>(12, 7), 0, 0, "refused sums write nothing");
    Tensor floats(OG_F32, {5}), integers(OG_I32, {5, 3});
    CHECK_FAILS(run(isa, "index_select", {&x, &floats}, {&y}, {0}), OG_INVALID);
    CHECK_FAILS(run(isa, "index_select", {&x, &index}, {&integers}, {0}), OG_INVALID);
    CHECK_FAILS(run(isa, "index_select", {&x, &index}, {&y}, {2}), OG_INVALID);

    // the embedding's gradient: the same bits for any thread count; thousands of bfloat16 terms do not stagnate
    Tensor tokens(OG_I32, {3000}), grad(OG_F32, {3000, 768}), table(OG_F32, {500, 768});
    tokens.integers(random, 0, 500);
    grad.uniform(random, -1, 1);
    check_threads(
        [&] {
          table.fill([](int64_t) { return 0; }), run(isa, "index_add", {&tokens, &grad}, {&table}, {0});
        },
        [&] { return table.bytes(); });
    check_threads([&] { run(isa, "index_select", {&table, &tokens}, {&grad}, {0}); }, [&] { return grad.bytes(); });
    Tensor zeros(OG_I64, {4000}), ones(OG_BF16, {4000, 3}), total(OG_BF16, {2, 3});
    ones.fill([](int64_t) { return 1; });
    CHECK_OK(run(isa, "index_add", {&zeros, &ones}, {&total}, {0}));
    check_close(total, {4000, 4000, 4000, 0, 0, 0}, roundoff(OG_BF16), 0, "index_add in bfloat16");
  });
  return finish("index");
}
