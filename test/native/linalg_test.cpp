// cholesky and triangular_solve in double: products give the matrix back, on every set, at sizes around the blocks.
#include "check.h"

using namespace og_test;

namespace {

/** M·Mᵀ + n·I for a random M: symmetric, positive definite, well conditioned. */
Tensor definite(Random& random, int64_t batch, int64_t n) {
  Tensor m(OG_F64, {batch, n, n}), a(OG_F64, {batch, n, n});
  m.normal(random);
  const std::vector<double> v = m.values();
  a.fill([&](int64_t i) {
    const int64_t b = i / (n * n), row = i / n % n, column = i % n;
    double sum = row == column ? (double)n : 0;
    for (int64_t k = 0; k < n; k++) sum += v[(size_t)((b * n + row) * n + k)] * v[(size_t)((b * n + column) * n + k)];
    return sum;
  });
  return a;
}

void check_cholesky(og::Isa isa, Random& random, int64_t batch, int64_t n) {
  Tensor a = definite(random, batch, n), l(OG_F64, {batch, n, n}), info(OG_I32, {batch});
  CHECK_OK(run(isa, "cholesky", {&a}, {&l, &info}));
  const std::vector<double> v = l.values();
  std::vector<double> product(v.size());
  for (size_t i = 0; i < v.size(); i++) {
    const size_t size = (size_t)n, b = i / (size * size), row = i / size % size, column = i % size;
    if (column > row) CHECK(v[i] == 0, "above the diagonal");
    for (size_t k = 0; k < size; k++) product[i] += v[(b * size + row) * size + k] * v[(b * size + column) * size + k];
  }
  check_close(a, product, 1e-12, 1e-12 * (double)(n + 1), "L·Lᵀ");
  check_close(info, std::vector<double>((size_t)batch, 0), 0, 0, "info");
  // the upper triangle is not read; in place gives the same bits
  Tensor half = a, same = a;
  half.fill([&](int64_t i) { return i % n > i / n % n ? NAN : a.get(i); });
  Tensor again(OG_F64, {batch, n, n});
  CHECK_OK(run(isa, "cholesky", {&half}, {&again, &info}));
  CHECK(again.bytes() == l.bytes(), "reads above the diagonal");
  CHECK_OK(run(isa, "cholesky", {&same}, {&same, &info}));
  CHECK(same.bytes() == l.bytes(), "in place");
}

void check_solve(og::Isa isa, Random& random, int64_t batch, int64_t n, int64_t m, bool upper, bool identity) {
  Tensor a(OG_F64, {batch, n, n}), b(OG_F64, {batch, n, m}), x(OG_F64, {batch, n, m});
  a.fill([&](int64_t i) {
    const int64_t row = i / n % n, column = i % n;
    if (row == column) return 2 + random.uniform();
    return (column > row) == upper ? random.uniform(-1, 1) / (double)n : NAN;
  });
  b.fill([&](int64_t i) { return identity ? (double)(i / m % n == i % m) : random.normal(); });
  CHECK_OK(run(isa, "triangular_solve", {&a, &b}, {&x}, {upper ? 1. : 0.}));
  std::vector<double> product((size_t)b.count());
  for (int64_t i = 0; i < b.count(); i++) {
    const int64_t matrix = i / (n * m), row = i / m % n, column = i % m;
    for (int64_t k = upper ? row : 0; k <= (upper ? n - 1 : row); k++)
      product[(size_t)i] += a.get((matrix * n + row) * n + k) * x.get((matrix * n + k) * m + column);
  }
  check_close(b, product, 1e-12, 1e-12, "A·X");
}

}  // namespace

int main() {
  Random random(11);
  for_each_isa([&](og::Isa isa) {
    for (int64_t n : {1, 2, 3, 7, 15, 17, 31, 33, 63, 64, 65, 127, 129, 200}) {
      named("n = %d", (int)n);
      check_cholesky(isa, random, n < 40 ? 3 : 1, n);
      for (bool upper : {false, true})
        for (int64_t m : {(int64_t)1, (int64_t)5, (int64_t)33, n}) check_solve(isa, random, 2, n, m, upper, m == n);
    }
    named("refusals");
    Tensor empty(OG_F64, {2, 0, 0}), out(OG_F64, {2, 0, 0}), info(OG_I32, {2});
    info.assign({7, 7});
    CHECK_OK(run(isa, "cholesky", {&empty}, {&out, &info}));
    check_close(info, {0, 0}, 0, 0, "info of nothing");
    Tensor none(OG_F64, {2, 0, 3}), nothing(OG_F64, {2, 0, 3});
    CHECK_OK(run(isa, "triangular_solve", {&empty, &none}, {&nothing}, {0}));
    // not positive definite from the third minor on; NaN and infinities count as that
    for (double bad : {-1., 0., (double)NAN, (double)INFINITY}) {
      Tensor a(OG_F64, {1, 4, 4}), l(OG_F64, {1, 4, 4}), first(OG_I32, {1});
      a.fill([&](int64_t i) { return i % 5 ? 0 : i == 10 ? bad : 4.; });
      CHECK_OK(run(isa, "cholesky", {&a}, {&l, &first}));
      check_close(first, {3}, 0, 0, "info");
      CHECK(l.get(0) == 2 && l.get(5) == 2 && std::isnan(l.get(10)) && std::isnan(l.get(15)), "rows from there on");
    }
    Tensor wide(OG_F64, {1, 2, 3}), single(OG_F32, {1, 2, 2}), square(OG_F64, {1, 2, 2}),
        gaps(OG_F64, {1, 2, 2}, kGaps);
    Tensor one(OG_I32, {1}), two(OG_I32, {2});
    CHECK_FAILS(run(isa, "cholesky", {&wide}, {&wide, &one}), OG_INVALID);
    CHECK_FAILS(run(isa, "cholesky", {&gaps}, {&square, &one}), OG_INVALID);
    CHECK_FAILS(run(isa, "cholesky", {&square}, {&square, &two}), OG_INVALID);
    CHECK_FAILS(run(isa, "cholesky", {&single}, {&single, &one}), OG_UNSUPPORTED);
    CHECK_FAILS(run(isa, "triangular_solve", {&square, &single}, {&single}, {0}), OG_UNSUPPORTED);
    Tensor tall(OG_F64, {1, 3, 2});
    CHECK_FAILS(run(isa, "triangular_solve", {&square, &tall}, {&tall}, {0}), OG_INVALID);
    named("threads");
    Tensor a = definite(random, 1, 300), l(OG_F64, {1, 300, 300}), x(OG_F64, {1, 300, 300});
    check_threads([&] { run(isa, "cholesky", {&a}, {&l, &one}); }, [&] { return l.bytes(); });
    check_threads([&] { run(isa, "triangular_solve", {&l, &a}, {&x}, {0}); }, [&] { return x.bytes(); });
  });
  return finish("linalg");
}
