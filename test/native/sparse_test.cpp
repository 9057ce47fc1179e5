// Sparse products and conversions against loops over the dense matrix in double: compressed rows, blocks, 2:4; odd
// sizes, empty rows, int8 values, strides, hostile indices, equal bits for any number of threads.
#include "check.h"

using namespace og_test;

namespace {

/** A dense matrix of weights [n, k] whose dropped elements are zero, and its compressed rows. */
struct Weight {
  int64_t n, k;
  std::vector<double> dense;
  std::vector<bool> kept;
  Tensor crow, col, values;

  /** `unit`: 1 for single elements, b for blocks. Row 1 and the last column of units stay empty. */
  Weight(Random& random, int64_t n, int64_t k, double density, int32_t dtype, int64_t unit = 1)
      : n(n), k(k), dense((size_t)(n * k)), kept((size_t)(n * k)) {
    std::vector<double> rows{0}, columns, list;
    for (int64_t i = 0; i < n / unit; i++) {
      for (int64_t j = 0; j < k / unit; j++) {
        if ((i == 1 && n / unit > 2) || random.uniform() >= density) continue;
        columns.push_back((double)j);
        for (int64_t r = 0; r < unit; r++)
          for (int64_t c = 0; c < unit; c++) {
            const size_t at = (size_t)((i * unit + r) * k + j * unit + c);
            const bool fraction = dtype == OG_F32 || dtype == OG_F64;
            dense[at] = fraction ? (double)(float)random.uniform(-1, 1) : (double)(random.below(255) - 127);
            kept[at] = true;
            list.push_back(dense[at]);
          }
      }
      rows.push_back((double)columns.size());
    }
    const int64_t count = (int64_t)columns.size();
    crow = Tensor(OG_I32, {(int64_t)rows.size()}).assign(rows);
    col = Tensor(OG_I32, {count}).assign(columns);
    values = Tensor(dtype, unit == 1 ? std::vector<int64_t>{count} : std::vector<int64_t>{count, unit, unit});
    values.assign(list);
  }
};

/** y = x·wᵀ·scale + bias, and for each element the sum of magnitudes that its error is measured by. */
void check_product(const Tensor& y, const Tensor& x, const std::vector<double>& w, const Tensor& scale,
                   const Tensor& bias, int64_t k, const char* what) {
  const int64_t m = y.shape()[0], n = y.shape()[1];
  const double unit = roundoff(y.dtype()) * (y.dtype() == OG_F64 ? 4 : 1);
  for (int64_t i = 0; i < m; i++)
    for (int64_t j = 0; j < n; j++) {
      double sum = 0, magnitude = 0;
      int64_t terms = 0;
      for (int64_t c = 0; c < k; c++) {
        const double v = w[(size_t)(j * k + c)];
        if (v == 0) continue;
        sum += v * x.get(i * k + c);
        magnitude += std::fabs(v * x.get(i * k + c));
        terms++;
      }
      const double factor = scale.present() ? scale.get(j) : 1, offset = bias.present() ? bias.get(j) : 0;
      const double want = sum * factor + offset;
      const double bound = unit * ((double)(terms + 6) * magnitude * std::fabs(factor) + 2 * std::fabs(want));
      if (std::fabs(y.get(i * n + j) - want) <= bound) continue;
      CHECK(false, "%s[%d, %d] is %.9g, expected %.9g within %.2g", what, (int)i, (int)j, y.get(i * n + j), want,
            bound);
      return;
    }
  passes()++;
}

void check_csr(og::Isa isa, Random& random, int64_t m, int64_t n, int64_t k, double density, int32_t dtype,
               bool vectors, Layout layout) {
  const int32_t out = dtype == OG_I8 ? (int32_t)OG_F32 : dtype;
  Weight w(random, n, k, density, dtype);
  Tensor x(out, {m, k}, layout), y(out, {m, n}), scale, bias;
  x.uniform(random, -1, 1);
  if (vectors) {
    bias = Tensor(out, {n}).uniform(random, -1, 1);
    scale = Tensor(out, {n}).uniform(random, 0.5, 2);
  }
  CHECK_OK(run(isa, "csr_linear", {&x, &w.crow, &w.col, &w.values, &scale, &bias}, {&y}));
  check_product(y, x, w.dense, scale, bias, k, "csr_linear");
  if (dtype == OG_I8) return;

  // gradient of the values: sums over m at the kept positions
  Tensor a(out, {m, n}, layout), sampled(out, {w.values.count()});
  a.uniform(random, -1, 1);
  CHECK_OK(run(isa, "csr_sampled", {&a, &x, &w.crow, &w.col}, {&sampled}));
  std::vector<double> want;
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < k; j++) {
      if (!w.kept[(size_t)(i * k + j)]) continue;
      double sum = 0;
      for (int64_t r = 0; r < m; r++) sum += a.get(r * n + i) * x.get(r * k + j);
      want.push_back(sum);
    }
  check_close(sampled, want, 0, (double)(m + 8) * (double)m * roundoff(out), "csr_sampled");
}

void check_conversions(og::Isa isa, Random& random, int64_t n, int64_t k, int32_t dtype, Layout layout) {
  Weight w(random, n, k, 0.3, dtype);
  Tensor mask(OG_BOOL, {n, k}, layout), dense(dtype, {n, k}, layout), col(OG_I32, {w.col.count()});
  mask.fill([&](int64_t i) { return w.kept[(size_t)i] ? 1. : 0.; });
  dense.assign(w.dense);
  CHECK_OK(run(isa, "csr_columns", {&mask, &w.crow}, {&col}));
  check_close(col, w.col.values(), 0, 0, "csr_columns");
  Tensor values(dtype, {w.values.count()}), back(dtype, {n, k}, layout);
  CHECK_OK(run(isa, "csr_gather", {&dense, &w.crow, &w.col}, {&values}));
  check_close(values, w.values.values(), 0, 0, "csr_gather");
  back.uniform(random, 5, 6);
  CHECK_OK(run(isa, "csr_scatter", {&w.values, &w.crow, &w.col}, {&back}));
  check_close(back, w.dense, 0, 0, "csr_scatter");

  Tensor crow_t(OG_I32, {k + 1}), col_t(OG_I32, {w.col.count()}), from(OG_I32, {w.col.count()});
  CHECK_OK(run(isa, "csr_transpose", {&w.crow, &w.col}, {&crow_t, &col_t, &from}));
  std::vector<double> rows{0}, columns, origins;
  for (int64_t j = 0; j < k; j++) {
    for (int64_t i = 0; i < n; i++)
      for (int64_t e = w.crow.get_int(i); e < w.crow.get_int(i + 1); e++)
        if (w.col.get_int(e) == j) columns.push_back((double)i), origins.push_back((double)e);
    rows.push_back((double)columns.size());
  }
  check_close(crow_t, rows, 0, 0, "csr_transpose crow");
  check_close(col_t, columns, 0, 0, "csr_transpose col");
  check_close(from, origins, 0, 0, "csr_transpose from");
}

void check_blocks(og::Isa isa, Random& random, int64_t b, int64_t m, int64_t rows, int64_t columns, int32_t dtype,
                  bool vectors, Layout layout = kDense) {
  const int32_t out = dtype == OG_I8 ? (int32_t)OG_F32 : dtype;
  const int64_t n = rows * b, k = columns * b;
  Weight w(random, n, k, 0.4, dtype, b);
  Tensor x(out, {m, k}, layout), y(out, {m, n}), scale, bias;
  x.uniform(random, -1, 1);
  if (vectors) {
    bias = Tensor(out, {n}).uniform(random, -1, 1);
    scale = Tensor(out, {n}).uniform(random, 0.5, 2);
  }
  CHECK_OK(run(isa, "block_linear", {&x, &w.crow, &w.col, &w.values, &scale, &bias}, {&y}));
  check_product(y, x, w.dense, scale, bias, k, "block_linear");
  if (dtype == OG_I8 || (layout != kDense && layout != kUnaligned)) return;
  Tensor a(out, {m, n}), sampled(out, w.values.shape());
  a.uniform(random, -1, 1);
  CHECK_OK(run(isa, "block_sampled", {&a, &x, &w.crow, &w.col}, {&sampled}));
  std::vector<double> want;
  for (int64_t i = 0; i < rows; i++)
    for (int64_t e = w.crow.get_int(i); e < w.crow.get_int(i + 1); e++)
      for (int64_t r = 0; r < b; r++)
        for (int64_t c = 0; c < b; c++) {
          double sum = 0;
          for (int64_t p = 0; p < m; p++) sum += a.get(p * n + i * b + r) * x.get(p * k + w.col.get_int(e) * b + c);
          want.push_back(sum);
        }
  check_close(sampled, want, 0, (double)(m + 8) * (double)m * roundoff(out), "block_sampled");
}

void check_semi_structured(og::Isa isa, Random& random, int64_t m, int64_t n, int64_t k, int32_t dtype, bool vectors,
                           Layout layout) {
  const int32_t out = dtype == OG_I8 ? (int32_t)OG_F32 : dtype;
  Tensor dense(dtype, {n, k}, layout), mask(OG_BOOL, {n, k}, layout);
  std::vector<double> w((size_t)(n * k));
  for (int64_t g = 0; g < n * k / 4; g++) {
    const int64_t keep = random.below(5) == 0 ? random.below(2) : 2;  // some groups keep fewer
    for (int64_t left = keep; left > 0;) {
      const size_t at = (size_t)(4 * g + random.below(4));
      if (w[at] != 0) continue;
      w[at] = dtype == OG_I8 ? (double)(1 + random.below(127)) : (double)(float)random.uniform(0.1, 1);
      left--;
    }
  }
  mask.fill([&](int64_t i) { return w[(size_t)i] != 0; });
  dense.fill([&](int64_t i) { return w[(size_t)i] != 0 ? w[(size_t)i] : 7; });  // what is dropped need not be zero
  Tensor values(dtype, {n, k / 2}), indices(OG_U8, {n, (k + 7) / 8});
  CHECK_OK(run(isa, "semi_structured_compress", {&dense, &mask}, {&values, &indices}));
  Tensor back(dtype, {n, k}, layout), again(dtype, {n, k / 2});
  CHECK_OK(run(isa, "semi_structured_expand", {&values, &indices}, {&back}));
  check_close(back, w, 0, 0, "semi_structured_expand");
  CHECK_OK(run(isa, "semi_structured_gather", {&back, &indices}, {&again}));
  check_close(again, values.values(), 0, 0, "semi_structured_gather");

  Tensor x(out, {m, k}, layout), y(out, {m, n}), scale, bias;
  x.uniform(random, -1, 1);
  if (vectors) {
    bias = Tensor(out, {n}).uniform(random, -1, 1);
    scale = Tensor(out, {n}).uniform(random, 0.5, 2);
  }
  CHECK_OK(run(isa, "semi_structured_linear", {&x, &values, &indices, &scale, &bias}, {&y}));
  check_product(y, x, w, scale, bias, k, "semi_structured_linear");
}

bool mentions(const char* text) { return std::strstr(og::last_message(), text) != nullptr; }

/** Indices that lie must be refused, by every kernel that follows them. */
void check_hostile(og::Isa isa, Random& random) {
  const auto refused = [&](const std::vector<double>& rows, const std::vector<double>& columns, const char* text) {
    const int64_t n = (int64_t)rows.size() - 1, count = (int64_t)columns.size(), k = 6;
    Tensor crow = Tensor(OG_I32, {n + 1}).assign(rows), col = Tensor(OG_I32, {count}).assign(columns), none;
    Tensor values(OG_F32, {count}), dense(OG_F32, {n, k}), blocks(OG_F32, {count, 16, 16});
    for (int64_t m : {1, 3, 40}) {
      Tensor x(OG_F32, {m, k}), y(OG_F32, {m, n}), wide(OG_F32, {m, 16 * k}), tall(OG_F32, {m, 16 * n});
      CHECK_FAILS(run(isa, "csr_linear", {&x, &crow, &col, &values, &none, &none}, {&y}), OG_INDEX);
      CHECK(mentions(text), "message: %s", og::last_message());
      CHECK_FAILS(run(isa, "csr_sampled", {&y, &x, &crow, &col}, {&values}), OG_INDEX);
      CHECK_FAILS(run(isa, "block_linear", {&wide, &crow, &col, &blocks, &none, &none}, {&tall}), OG_INDEX);
      CHECK_FAILS(run(isa, "block_sampled", {&tall, &wide, &crow, &col}, {&blocks}), OG_INDEX);
    }
    CHECK_FAILS(run(isa, "csr_gather", {&dense, &crow, &col}, {&values}), OG_INDEX);
    CHECK_FAILS(run(isa, "csr_scatter", {&values, &crow, &col}, {&dense}), OG_INDEX);
    Tensor crow_t(OG_I32, {k + 1}), col_t(OG_I32, {count}), from(OG_I32, {count});
    CHECK_FAILS(run(isa, "csr_transpose", {&crow, &col}, {&crow_t, &col_t, &from}), OG_INDEX);
  };
  refused({0, 2, 3}, {0, 6, 1}, "column 6 of row 0 is outside [0, 6)");
  refused({0, 2, 3}, {0, 1, -1}, "column -1 of row 1");
  refused({0, 2, 3}, {0, 1, -2147483648.}, "column -2147483648 of row 1");
  refused({0, 3, 3}, {0, 2147483647., 3}, "column 2147483647 of row 0");
  refused({0, 3, 3}, {0, 3, 2}, "do not ascend: 2 follows 3");
  refused({0, 2, 3}, {4, 4, 1}, "do not ascend: 4 follows 4");
  refused({0, 2, 4}, {2, 5, 3, 3}, "do not ascend: 3 follows 3");
  refused({0, 3, 2}, {0, 1}, "crow does not rise");
  refused({0, 4, 3}, {0, 1, 2}, "crow does not rise");
  refused({0, -1, 3}, {0, 1, 2}, "crow does not rise");
  refused({1, 2, 3}, {0, 1, 2}, "crow does not rise");
  refused({0, 1, 2}, {0, 1, 2}, "crow does not rise");
  refused({0, 2147483647., 3}, {0, 1, 2}, "crow does not rise");

  Weight w(random, 4, 6, 0.5, OG_F32);
  Tensor x(OG_F32, {2, 6}), y(OG_F32, {2, 4}), y5(OG_F32, {2, 5}), none, scale(OG_F32, {3}), wide_col(OG_I64, {3});
  CHECK_FAILS(run(isa, "csr_linear", {&x, &w.crow, &w.col, &w.values, &none, &none}, {&y5}), OG_INVALID);
  CHECK_FAILS(run(isa, "csr_linear", {&x, &w.crow, &w.col, &w.values, &scale, &none}, {&y}), OG_INVALID);
  CHECK_FAILS(run(isa, "csr_linear", {&x, &w.crow, &w.col, &scale, &none, &none}, {&y}), OG_INVALID);
  CHECK_FAILS(run(isa, "csr_linear", {&x, &w.crow, &wide_col, &w.values, &none, &none}, {&y}), OG_UNSUPPORTED);
  Tensor mask(OG_BOOL, {4, 6}), col(OG_I32, {w.col.count()});
  CHECK_FAILS(run(isa, "csr_columns", {&mask, &w.crow}, {&col}), OG_INVALID);
  Tensor odd(OG_F32, {2, 2}), blocks(OG_F32, {1, 2, 2}), crow = Tensor(OG_I32, {2}).assign({0, 1}), zero(OG_I32, {1});
  CHECK_FAILS(run(isa, "block_linear", {&odd, &crow, &zero, &blocks, &none, &none}, {&odd}), OG_UNSUPPORTED);

  Tensor dense(OG_F32, {2, 8}), keep(OG_BOOL, {2, 8}), values(OG_F32, {2, 4}), indices(OG_U8, {2, 1});
  keep.assign({1, 1, 0, 0, 0, 0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 1});
  CHECK_FAILS(run(isa, "semi_structured_compress", {&dense, &keep}, {&values, &indices}), OG_INDEX);
  CHECK(mentions("row 1 keeps more than 2 of the columns 4 to 7"), "message: %s", og::last_message());
  Tensor six(OG_F32, {2, 6}), three(OG_F32, {2, 3}), out(OG_F32, {2, 2});
  CHECK_FAILS(run(isa, "semi_structured_linear", {&six, &three, &indices, &none, &none}, {&out}), OG_INVALID);
  CHECK_FAILS(run(isa, "semi_structured_linear", {&dense, &values, &six, &none, &none}, {&out}), OG_INVALID);
}

void check_non_finite(og::Isa isa) {
  // a NaN reaches only the outputs whose row names its column
  Tensor crow = Tensor(OG_I32, {3}).assign({0, 1, 2}), col = Tensor(OG_I32, {2}).assign({0, 2});
  Tensor values = Tensor(OG_F32, {2}).assign({1, 2}), none;
  for (int64_t m : {1, 2, 70}) {
    Tensor x(OG_F32, {m, 3}), y(OG_F32, {m, 2});
    x.fill([](int64_t i) { return i % 3 == 0 ? NAN : i % 3 == 1 ? INFINITY : 4; });
    CHECK_OK(run(isa, "csr_linear", {&x, &crow, &col, &values, &none, &none}, {&y}));
    std::vector<double> want;
    for (int64_t i = 0; i < m; i++) want.push_back(NAN), want.push_back(8);
    check_close(y, want, 0, 0, "csr_linear with NaN");
  }
  // of every four columns the first and the third are kept
  Tensor ones = Tensor(OG_F32, {5, 42}).fill([](int64_t) { return 1.; });
  Tensor places = Tensor(OG_U8, {5, 11}).fill([](int64_t) { return (double)0x88; });
  for (int64_t m : {1, 2, 4, 70}) {
    Tensor x(OG_F32, {m, 84}), y(OG_F32, {m, 5});
    x.fill([](int64_t i) { return i % 2 == 1 ? NAN : i % 4 == 0 ? 1 : 2; });
    CHECK_OK(run(isa, "semi_structured_linear", {&x, &ones, &places, &none, &none}, {&y}));
    check_close(y, std::vector<double>((size_t)(m * 5), 63), 0, 0, "semi_structured_linear with NaN");
  }
}

void check_bits(og::Isa isa, Random& random) {
  const int64_t m = 130, n = 320, k = 256;
  Tensor x(OG_F32, {m, k}), a(OG_F32, {m, n}), y(OG_F32, {m, n}), none;
  x.normal(random);
  a.normal(random);
  Weight w(random, n, k, 0.3, OG_F32), blocks(random, n, k, 0.5, OG_F32, 32);
  Tensor values(OG_F32, {n, k / 2}), indices(OG_U8, {n, k / 8}), sampled(OG_F32, {w.values.count()});
  Tensor sampled_blocks(OG_F32, blocks.values.shape());
  values.normal(random);
  indices.integers(random, 0, 256);
  const auto product = [&](const char* kernel, std::initializer_list<Tensor*> in, Tensor& out) {
    check_threads([&] { CHECK_OK(run(isa, kernel, in, {&out})); }, [&] { return out.bytes(); });
  };
  product("csr_linear", {&x, &w.crow, &w.col, &w.values, &none, &none}, y);
  product("csr_sampled", {&a, &x, &w.crow, &w.col}, sampled);
  product("block_linear", {&x, &blocks.crow, &blocks.col, &blocks.values, &none, &none}, y);
  product("block_sampled", {&a, &x, &blocks.crow, &blocks.col}, sampled_blocks);
  product("semi_structured_linear", {&x, &values, &indices, &none, &none}, y);
}

}  // namespace

int main() {
  Random random(7);
  for_each_isa([&](og::Isa isa) {
    const int32_t types[] = {OG_F32, OG_I8, OG_F64};
    const int64_t sizes[] = {1, 2, 3, 7, 15, 17, 31, 33, 63, 65, 127, 129};
    int turn = 0;
    for (int32_t dtype : types) {
      for (int64_t m : sizes) {
        const int64_t n = sizes[(turn * 5 + 3) % 12], k = sizes[(turn * 7 + 5) % 12];
        const Layout layout = (Layout)(turn % kLayoutCount);
        check_csr(isa, random, m, n, k, turn % 4 == 0 ? 1 : 0.3, dtype, turn % 2 == 0, layout);
        check_semi_structured(isa, random, m, n, (k + 3) / 4 * 4, dtype, turn % 2 == 1, layout);
        check_blocks(isa, random, 16 << (turn % 3), m, 1 + turn % 4, 1 + turn % 3, dtype, turn % 2 == 0, layout);
        turn++;
      }
      check_csr(isa, random, 70, 140, 700, 0.2, dtype, true, kDense);  // several stretches and tiles
      check_csr(isa, random, 5, 9, 40, 0, dtype, true, kDense);        // nothing kept
      check_csr(isa, random, 70, 9, 400, 0, dtype, true, kDense);
      check_csr(isa, random, 70, 9, 0, 0, dtype, true, kDense);
      check_semi_structured(isa, random, 70, 140, 460, dtype, true, kDense);
      for (int64_t m : {1, 2, 3, 6})  // few rows: streams that lie apart, and rows of the weight left over
        check_semi_structured(isa, random, m, 4 * m + 39, 460, dtype, true, m == 3 ? kUnaligned : kDense);
      for (int64_t empty : {0, 1, 2}) {
        check_csr(isa, random, empty == 0 ? 0 : 3, empty == 1 ? 0 : 4, empty == 2 ? 0 : 5, 0.5, dtype, true, kDense);
        check_semi_structured(isa, random, empty == 0 ? 0 : 3, empty == 1 ? 0 : 4, empty == 2 ? 0 : 8, dtype, true,
                              kDense);
        check_blocks(isa, random, 16, empty == 0 ? 0 : 3, empty == 1 ? 0 : 1, empty == 2 ? 0 : 1, dtype, true);
      }
    }
    check_csr(isa, random, 1030, 9, 20, 0.5, OG_F32, true, kDense);   // several rounds of rows of x
    check_csr(isa, random, 80, 560, 500, 0.5, OG_F32, true, kDense);  // more weights than L2 holds
    for (int64_t m : {5, 8, 261, 520})                                // few rows, and several groups of many
      check_blocks(isa, random, 16 << m % 3, m, 2, 3, OG_F32, m > 8);
    for (int32_t dtype = 0; dtype < OG_DTYPE_COUNT; dtype++)
      if (dtype != OG_BOOL && dtype != OG_U8)
        for (int layout = 0; layout < kLayoutCount; layout++)
          check_conversions(isa, random, 9, 21, dtype, (Layout)layout);
    check_conversions(isa, random, 0, 5, OG_F32, kDense);
    check_conversions(isa, random, 5, 0, OG_F32, kDense);
    check_hostile(isa, random);
    check_non_finite(isa);
    check_bits(isa, random);
  });
  return finish("sparse");
}
