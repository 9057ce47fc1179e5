// Reductions against plain loops in double: every instruction set, dtype and layout, rows and columns, several pieces,
// empty sets, NaN; argmax and argmin with ties; the same bits for any thread count.
#include "check.h"

using namespace og_test;

namespace {

typedef std::vector<double> Values;

struct Row {
  const char* name;
  double (*oracle)(const Values&);
  bool exact;  // no rounding but the last
};

double sum(const Values& v) {
  double s = 0;
  for (double x : v) s += x;
  return s;
}
double mean(const Values& v) { return v.empty() ? NAN : sum(v) / (double)v.size(); }
double prod(const Values& v) {
  double s = 1;
  for (double x : v) s *= x;
  return s;
}
double amax(const Values& v) {
  double s = -INFINITY;
  for (double x : v) s = x > s || std::isnan(x) ? x : s;
  return s;
}
double amin(const Values& v) {
  double s = INFINITY;
  for (double x : v) s = x < s || std::isnan(x) ? x : s;
  return s;
}
double any(const Values& v) {
  for (double x : v)
    if (x != 0) return 1;
  return 0;
}
double all(const Values& v) {
  for (double x : v)
    if (x == 0) return 0;
  return 1;
}
double argmax(const Values& v) {
  size_t best = 0;
  for (size_t i = 1; i < v.size(); i++)
    if (v[i] > v[best] || (std::isnan(v[i]) && !std::isnan(v[best]))) best = i;
  return (double)best;
}
double argmin(const Values& v) {
  size_t best = 0;
  for (size_t i = 1; i < v.size(); i++)
    if (v[i] < v[best] || (std::isnan(v[i]) && !std::isnan(v[best]))) best = i;
  return (double)best;
}
double variance(const Values& v, double correction) {
  const double m = mean(v);
  double s = 0;
  for (double x : v) s += (x - m) * (x - m);
  return (double)v.size() > correction ? s / ((double)v.size() - correction) : NAN;
}
double norm(const Values& v, double p) {
  double s = std::isinf(p) && p < 0 ? INFINITY : 0;
  for (double x : v) {
    const double a = std::fabs(x);
    if (p == 0)
      s += a != 0;
    else if (std::isinf(p))
      s = p > 0 ? std::fmax(s, a) : std::fmin(s, a);
    else
      s += std::pow(a, p);
  }
  return p == 0 || std::isinf(p) ? s : std::pow(s, 1 / p);
}

const Row kFloatRows[] = {{"sum", sum, false},  {"mean", mean, false},    {"prod", prod, false},
                          {"amax", amax, true}, {"amin", amin, true},     {"any", any, true},
                          {"all", all, true},   {"argmax", argmax, true}, {"argmin", argmin, true}};
const char* const kIntegerNames[] = {"sum", "prod", "amax", "amin", "any", "all", "argmax", "argmin"};

bool is(const char* a, const char* b) { return std::strcmp(a, b) == 0; }

int32_t result_dtype(const char* name, int32_t dtype) {
  if (name[0] == 'a' && name[1] == 'r') return OG_I64;
  if (is(name, "any") || is(name, "all")) return OG_BOOL;
  const bool is_float = dtype <= OG_F64;
  return !is_float && (is(name, "sum") || is(name, "prod")) ? OG_I64 : dtype;
}

/** The last `axes` axes, one list per output. */
template <class F>
Values reduced(const Tensor& x, int axes, const F& f) {
  const std::vector<int64_t> shape = x.shape();
  int64_t outputs = 1, m = 1;
  for (size_t i = 0; i < shape.size(); i++) (i + (size_t)axes < shape.size() ? outputs : m) *= shape[i];
  Values out((size_t)outputs);
  for (int64_t o = 0; o < outputs; o++) {
    Values v((size_t)m);
    for (int64_t i = 0; i < m; i++) v[(size_t)i] = x.get(o * m + i);
    out[(size_t)o] = f(v);
  }
  return out;
}

std::vector<int64_t> leading(const std::vector<int64_t>& shape, int axes) {
  return std::vector<int64_t>(shape.begin(), shape.end() - axes);
}

struct Shape {
  std::vector<int64_t> shape;
  int axes;
};

void check_floats(og::Isa isa, Random& random, const Shape& s, int32_t dtype, Layout in, Layout out) {
  Tensor x(dtype, s.shape, in);
  int64_t m = 1;
  for (size_t i = s.shape.size() - (size_t)s.axes; i < s.shape.size(); i++) m *= s.shape[i];
  x.uniform(random, -1, 1);
  const double u = dtype == OG_F64 ? 0x1p-53 : 0x1p-24, last = roundoff(dtype);
  for (const Row& row : kFloatRows) {
    if (m == 0 && row.name[0] == 'a' && row.name[1] != 'n' && row.name[1] != 'l') continue;
    if (is(row.name, "prod")) x.uniform(random, 0.97, 1.03);
    Tensor y(result_dtype(row.name, dtype), leading(s.shape, s.axes), out);
    CHECK_OK(run(isa, row.name, {&x}, {&y}, {(double)s.axes}));
    const double chain = is(row.name, "prod") ? (double)m : 75;  // Σ|x| ≤ m, and the mean divides by it
    const double scale = is(row.name, "sum") ? (double)m : 1;
    check_close(y, reduced(x, s.axes, row.oracle), row.exact ? 0 : last + (is(row.name, "prod") ? chain * u : 0),
                row.exact ? 0 : chain * u * scale + 1e-30, row.name);
    if (is(row.name, "prod")) x.uniform(random, -1, 1);
  }
  for (double correction : {0., 1., (double)m}) {
    Tensor var(dtype, leading(s.shape, s.axes), out), mu(dtype, leading(s.shape, s.axes), in);
    CHECK_OK(run(isa, "var", {&x}, {&var, &mu}, {(double)s.axes, correction}));
    const double spread = (double)m > correction ? (double)m / ((double)m - correction) : 1;
    check_close(var, reduced(x, s.axes, [&](const Values& v) { return variance(v, correction); }), last + 10 * u,
                80 * u * spread + (dtype == OG_F16 ? 0x1p-25 : 0), "var");
    check_close(mu, reduced(x, s.axes, mean), last, 75 * u, "mean of var");
  }
  for (double p : {0., 1., 2., 3., 0.5, -1., (double)INFINITY, (double)-INFINITY}) {
    if (m == 0 && (p < 0 || std::isinf(p))) continue;
    if (p == 0.5 && m > 100 && dtype == OG_F16) continue;  // beyond the largest half
    if (p == -1) x.uniform(random, 0.5, 1);
    Tensor y(dtype, leading(s.shape, s.axes), out);
    CHECK_OK(run(isa, "norm", {&x}, {&y}, {(double)s.axes, p}));
    const double factor = p == 0 || std::isinf(p) ? 0 : 80 * u * (p < 1 ? 3 : 1);
    check_close(y, reduced(x, s.axes, [&](const Values& v) { return norm(v, p); }), last + factor, 1e-30, "norm");
  }
}

void check_integers(og::Isa isa, Random& random, const Shape& s, int32_t dtype, Layout in, Layout out) {
  int64_t m = 1;
  for (size_t i = s.shape.size() - (size_t)s.axes; i < s.shape.size(); i++) m *= s.shape[i];
  Tensor x(dtype, s.shape, in);
  x.integers(random, dtype == OG_U8 || dtype == OG_BOOL ? 0 : -3, dtype == OG_BOOL ? 2 : 4);
  for (const char* name : kIntegerNames) {
    if (m == 0 && name[0] == 'a' && name[1] != 'n' && name[1] != 'l') continue;
    if (is(name, "prod") && m > 30) continue;
    const Row* row = kFloatRows;
    while (!is(row->name, name)) row++;
    Tensor y(result_dtype(name, dtype), leading(s.shape, s.axes), out);
    CHECK_OK(run(isa, name, {&x}, {&y}, {(double)s.axes}));
    check_close(y, reduced(x, s.axes, row->oracle), 0, 0, name);
  }
}

/** A tensor whose kept axis is dense: what a sum over rows looks like to the kernel. */
void check_columns(og::Isa isa, Random& random, int64_t rows, int64_t columns, int32_t dtype) {
  Tensor x(dtype, {columns, rows}, kTransposed);
  x.uniform(random, -1, 1);
  const double u = dtype == OG_F64 ? 0x1p-53 : 0x1p-24;
  for (const char* name : {"sum", "amax", "argmax", "argmin"}) {
    const Row* row = kFloatRows;
    while (!is(row->name, name)) row++;
    Tensor y(result_dtype(name, dtype), {columns});
    CHECK_OK(run(isa, name, {&x}, {&y}, {1}));
    check_close(y, reduced(x, 1, row->oracle), row->exact ? 0 : roundoff(dtype), row->exact ? 0 : 75 * u * (double)rows,
                name);
  }
  Tensor var(dtype, {columns}), mu(dtype, {columns});
  CHECK_OK(run(isa, "var", {&x}, {&var, &mu}, {1, 1}));
  check_close(var, reduced(x, 1, [](const Values& v) { return variance(v, 1); }), roundoff(dtype) + 90 * u,
              dtype == OG_F16 ? 0x1p-25 : 1e-30, "var");
}

}  // namespace

int main() {
  Random random(5);
  const Shape shapes[] = {{{}, 0},  {{1}, 1},     {{7}, 1},       {{5, 0}, 1},    {{0, 5}, 1},
                          {{5}, 0}, {{3, 37}, 1}, {{6, 5, 7}, 2}, {{6, 5, 7}, 1}, {{2, 3, 2, 1100}, 2}};
  const int32_t floats[] = {OG_F32, OG_F16, OG_BF16, OG_F64}, others[] = {OG_I8, OG_U8, OG_I32, OG_I64, OG_BOOL};
  for_each_isa([&](og::Isa isa) {
    for (const Shape& s : shapes) {
      for (int layout = 0; layout < kLayoutCount; layout++) {
        const Layout in = (Layout)layout, out = (Layout)((layout + 2) % kLayoutCount);
        for (int32_t dtype : floats) check_floats(isa, random, s, dtype, in, out);
        for (int32_t dtype : others) check_integers(isa, random, s, dtype, in, out);
      }
    }
    for (int32_t dtype : floats) {
      check_columns(isa, random, 3, 5, dtype);
      check_columns(isa, random, 70, 530, dtype);
      check_columns(isa, random, 1300, 37, dtype);
      for (int64_t rows : {2, 4, 5, 7, 63, 65, 67, 257})
        for (int64_t columns : {7, 15, 17, 33, 65, 129}) check_columns(isa, random, rows, columns, dtype);
      check_columns(isa, random, 259, 1061, dtype);
      check_columns(isa, random, 9, 1061, dtype);
      check_floats(isa, random, {{37, 6, 21}, 2}, dtype, kTransposed, kDense);  // rows in short runs
      check_floats(isa, random, {{3, 19, 70}, 1}, dtype, kTransposed, kDense);
    }
    for (int32_t dtype : others) {
      check_integers(isa, random, {{35, 67}, 1}, dtype, kTransposed, kDense);
      check_integers(isa, random, {{19, 6, 11}, 2}, dtype, kTransposed, kDense);
    }

    // several pieces, and the same bits for any thread count
    Tensor big(OG_F32, {2, 150001}), y(OG_F32, {2}), where(OG_I64, {2});
    big.uniform(random, -1, 1);
    check_threads([&] { run(isa, "sum", {&big}, {&y}, {1}); }, [&] { return y.bytes(); });
    check_close(y, reduced(big, 1, sum), 0, 75 * 0x1p-24 * 150001, "sum of pieces");
    check_threads([&] { run(isa, "argmax", {&big}, {&where}, {1}); }, [&] { return where.bytes(); });
    check_close(where, reduced(big, 1, argmax), 0, 0, "argmax of pieces");
    Tensor tall(OG_F32, {600, 2000}, kTransposed), sums(OG_F32, {600});
    tall.uniform(random, -1, 1);
    check_threads([&] { run(isa, "sum", {&tall}, {&sums}, {1}); }, [&] { return sums.bytes(); });
    Tensor broad(OG_F32, {1500, 600}, kTransposed), means(OG_F32, {1500}), vars(OG_F32, {1500});
    broad.uniform(random, -1, 1);
    check_threads([&] { run(isa, "var", {&broad}, {&vars, &means}, {1, 1}); }, [&] { return vars.bytes(); });
    check_threads([&] { run(isa, "mean", {&broad}, {&means}, {1}); }, [&] { return means.bytes(); });

    // long sums keep their accuracy: a naive float sum of these is off by percents
    Tensor ones(OG_F32, {1, 1}), total(OG_F32, {1});
    ones.assign({1.0001});
    ones.broadcast(1, 20000000);
    CHECK_OK(run(isa, "sum", {&ones}, {&total}, {1}));
    check_close(total, {20000000 * ones.get(0)}, 75 * 0x1p-24, 0, "long sum");

    // NaN, ties, infinities
    for (int32_t dtype : {OG_F32, OG_F64, OG_BF16}) {
      for (int64_t n : {3, 40, 2000}) {
        for (bool column : {false, true}) {
          Tensor x(dtype, {8, n}, column ? kTransposed : kDense), v(dtype, {8}), at(OG_I64, {8});
          x.uniform(random, -1, 1);
          for (int64_t i = 0; i < n; i++) x.set(i, -INFINITY);  // all equal, and the identity of amax
          for (int64_t i = 0; i < n; i++) x.set(n + i, INFINITY);
          x.set(2 * n + n - 1, NAN);
          x.set(3 * n + 1, NAN), x.set(3 * n + 2, NAN);
          for (int64_t i = 0; i < n; i++) x.set(4 * n + i, 0.5);
          for (const Row& row : kFloatRows) {
            if (row.name[0] != 'a' || is(row.name, "any") || is(row.name, "all")) continue;
            Tensor& out = row.name[1] == 'r' ? at : v;
            CHECK_OK(run(isa, row.name, {&x}, {&out}, {1}));
            check_close(out, reduced(x, 1, row.oracle), 0, 0, row.name);
          }
        }
      }
    }

    // exact and wrapping 64-bit integers
    Tensor wide(OG_I64, {2}), one(OG_I64, {});
    wide.set_int(0, INT64_MAX), wide.set_int(1, 2);
    CHECK_OK(run(isa, "sum", {&wide}, {&one}, {1}));
    CHECK(one.get_int(0) == INT64_MIN + 1);
    wide.set_int(1, INT64_MAX - 1);
    CHECK_OK(run(isa, "argmin", {&wide}, {&one}, {1}));
    CHECK(one.get_int(0) == 1);

    Tensor empty(OG_F32, {2, 0}), two(OG_F32, {2}), three(OG_F32, {3}), index(OG_I64, {2});
    CHECK_FAILS(run(isa, "amax", {&empty}, {&two}, {1}), OG_INVALID);
    CHECK_FAILS(run(isa, "argmin", {&empty}, {&index}, {1}), OG_INVALID);
    CHECK_FAILS(run(isa, "sum", {&empty}, {&three}, {1}), OG_INVALID);
    CHECK_FAILS(run(isa, "sum", {&empty}, {&two}, {3}), OG_INVALID);
  });
  return finish("reduce");
}
