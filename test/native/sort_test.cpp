// sort and topk against a stable sort of the C++ library: every set, dtype and layout, ties, NaN, signed zeros,
// infinities, lengths on both sides of each algorithm's limits.
#include <algorithm>

#include "check.h"

using namespace og_test;

namespace {

/** NaN is the largest number; -0 equals 0. */
bool less(double a, double b) { return std::isnan(b) ? !std::isnan(a) : a < b; }

/** Where the elements of a tensor go, row by row. */
struct Order {
  std::vector<double> values, indices;

  Order(const Tensor& x, bool descending) {
    const std::vector<double> all = x.values();
    const int64_t n = x.shape().back(), rows = n ? x.count() / n : 0;
    for (int64_t r = 0; r < rows; r++) {
      const double* row = all.data() + r * n;
      std::vector<int64_t> order((size_t)n);
      for (int64_t i = 0; i < n; i++) order[(size_t)i] = i;
      std::stable_sort(order.begin(), order.end(),
                       [&](int64_t a, int64_t b) { return descending ? less(row[b], row[a]) : less(row[a], row[b]); });
      for (int64_t i : order) values.push_back(row[i]), indices.push_back((double)i);
    }
  }
};

void check_rows(og::Isa isa, Tensor& x, const Order& order, int64_t k, bool descending, bool whole, int layout) {
  std::vector<int64_t> shape = x.shape();
  const int64_t n = shape.back(), rows = n ? x.count() / n : 0;
  shape.back() = k;
  Tensor values(x.dtype(), shape, (Layout)layout), indices(OG_I64, shape, (Layout)((layout + 2) % kLayoutCount));
  if (whole) {
    CHECK_OK(run(isa, "sort", {&x}, {&values, &indices}, {descending ? 1. : 0.}));
  } else {
    CHECK_OK(run(isa, "topk", {&x}, {&values, &indices}, {descending ? 1. : 0., 1}));
  }
  std::vector<double> want_values, want_indices;
  for (int64_t r = 0; r < rows; r++)
    for (int64_t i = r * n; i < r * n + k; i++) {
      want_values.push_back(order.values[(size_t)i]);
      want_indices.push_back(order.indices[(size_t)i]);
    }
  check_close(values, want_values, 0, 0, whole ? "sorted values" : "top values");
  check_close(indices, want_indices, 0, 0, whole ? "sorted indices" : "top indices");
}

}  // namespace

int main() {
  Random random(10);
  const std::vector<std::vector<int64_t>> shapes = {{1}, {0}, {3, 0}, {2, 7}, {3, 48}, {2, 49}, {3, 2, 300}, {1, 5000}};
  for_each_isa([&](og::Isa isa) {
    for (const auto& shape : shapes) {
      for (int layout = 0; layout < kLayoutCount; layout++) {
        for (int32_t dtype = 0; dtype < OG_DTYPE_COUNT; dtype++) {
          Tensor x(dtype, shape, (Layout)layout);
          const bool real = dtype <= OG_F64, is_unsigned = dtype == OG_U8 || dtype == OG_BOOL;
          if (real && layout % 2) {
            x.uniform(random, -3, 3);
          } else {  // few different values, so that ties are everywhere
            x.integers(random, is_unsigned ? 0 : -4, dtype == OG_BOOL ? 2 : 5);
          }
          if (real && x.count() > 6) {
            x.set(1, NAN), x.set(3, NAN), x.set(0, -0.), x.set(2, 0), x.set(4, -INFINITY), x.set(6, INFINITY);
          }
          const int64_t n = shape.back();
          for (bool descending : {false, true}) {
            const Order order(x, descending);
            check_rows(isa, x, order, n, descending, true, (layout + 1) % kLayoutCount);
            for (int64_t k : {int64_t{0}, int64_t{1}, n / 20, n / 8, n / 8 + 1, n})
              if (k <= n) check_rows(isa, x, order, k, descending, false, (layout + 1) % kLayoutCount);
          }
        }
      }
    }
    Tensor wide(OG_I64, {4}), values(OG_I64, {4}), indices(OG_I64, {4}), narrow(OG_I32, {4}), longer(OG_I64, {5});
    wide.set_int(0, INT64_MAX), wide.set_int(1, INT64_MIN), wide.set_int(2, INT64_MAX - 1), wide.set_int(3, -1);
    CHECK_OK(run(isa, "sort", {&wide}, {&values, &indices}, {0}));
    CHECK(values.get_int(0) == INT64_MIN && values.get_int(2) == INT64_MAX - 1 && values.get_int(3) == INT64_MAX);
    CHECK_FAILS(run(isa, "sort", {&wide}, {&values, &narrow}, {0}), OG_INVALID);
    CHECK_FAILS(run(isa, "topk", {&wide}, {&longer, &longer}, {1, 1}), OG_INVALID);

    Tensor big(OG_F32, {300, 500}), sorted(OG_F32, {300, 500}), order(OG_I64, {300, 500});
    big.uniform(random, -1, 1);
    check_threads([&] { run(isa, "sort", {&big}, {&sorted, &order}, {1}); }, [&] { return order.bytes(); });
  });
  return finish("sort");
}
