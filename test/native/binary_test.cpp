// Functions of two operands: every dtype and layout against double or exact integers, broadcast operands, NaN,
// wrap-around.
#include <climits>

#include "check.h"

using namespace og_test;

namespace {

double py_remainder(double a, double b) {
  const double r = std::fmod(a, b);
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
double maximum(double a, double b) { return std::isnan(a) || std::isnan(b) ? NAN : a > b ? a : b; }
double minimum(double a, double b) { return std::isnan(a) || std::isnan(b) ? NAN : a < b ? a : b; }

struct Entry {
  const char* name;
  double (*function)(double, double);
  bool integers;  // whether integer dtypes give the same as the function on doubles, for small operands
  double ulps;    // of the result's dtype
  double low_a, high_a;
};

const Entry kEntries[] = {
    {"add", [](double a, double b) { return a + b; }, true, 1, -9, 9},
    {"sub", [](double a, double b) { return a - b; }, true, 1, -9, 9},
    {"mul", [](double a, double b) { return a * b; }, true, 1, -9, 9},
    {"div", [](double a, double b) { return a / b; }, false, 1, -9, 9},
    {"remainder", py_remainder, true, 1, -9, 9},
    {"fmod", [](double a, double b) { return std::fmod(a, b); }, true, 1, -9, 9},
    {"pow", [](double a, double b) { return std::pow(a, b); }, false, 4, 0.1, 9},
    {"atan2", [](double a, double b) { return std::atan2(a, b); }, false, 4, -9, 9},
    {"maximum", maximum, true, 0, -9, 9},
    {"minimum", minimum, true, 0, -9, 9},
    {"eq", [](double a, double b) { return a == b ? 1. : 0.; }, true, 0, -3, 3},
    {"ne", [](double a, double b) { return a != b ? 1. : 0.; }, true, 0, -3, 3},
    {"lt", [](double a, double b) { return a < b ? 1. : 0.; }, true, 0, -3, 3},
    {"le", [](double a, double b) { return a <= b ? 1. : 0.; }, true, 0, -3, 3},
    {"gt", [](double a, double b) { return a > b ? 1. : 0.; }, true, 0, -3, 3},
    {"ge", [](double a, double b) { return a >= b ? 1. : 0.; }, true, 0, -3, 3},
    {"logical_and", [](double a, double b) { return a != 0 && b != 0 ? 1. : 0.; }, true, 0, -2, 2},
    {"logical_or", [](double a, double b) { return a != 0 || b != 0 ? 1. : 0.; }, true, 0, -2, 2},
    {"logical_xor", [](double a, double b) { return (a != 0) != (b != 0) ? 1. : 0.; }, true, 0, -2, 2},
};

bool is_comparison(const Entry& entry) { return entry.ulps == 0 && entry.high_a < 9; }

void check_values(og::Isa isa, const Entry& entry, int32_t dtype, const std::vector<int64_t>& shape, int layout,
                  Random& random) {
  const bool is_float = og::dtype_is_float(dtype), is_unsigned = dtype == OG_U8;
  if (!is_float && !entry.integers) return;
  const int32_t result = is_comparison(entry) ? (int32_t)OG_BOOL : dtype;
  Tensor a(dtype, shape, (Layout)layout), b(dtype, shape, (Layout)((layout + 2) % kLayoutCount));
  Tensor y(result, shape, (Layout)((layout + 3) % kLayoutCount));
  if (is_float && entry.ulps > 0) {
    a.uniform(random, entry.low_a, entry.high_a), b.uniform(random, 0.5, 4);
  } else {
    // Few distinct values, so that comparisons meet equal operands; no zero divisor.
    const int64_t low = is_unsigned ? 0 : -3;
    a.integers(random, is_unsigned ? 4 : low, 8), b.integers(random, entry.ulps > 0 ? 1 : low, 4);
  }
  CHECK_OK(run(isa, entry.name, {&a, &b}, {&y}));
  std::vector<double> want((size_t)a.count());
  for (size_t i = 0; i < want.size(); i++) want[i] = entry.function(a.get((int64_t)i), b.get((int64_t)i));
  // The remainder of rounded operands is exact; the others round once, on top of the rounding of float arithmetic.
  check_close(y, want, entry.ulps * roundoff(result) * 1.01, is_float && entry.ulps > 0 ? 4e-7 : 0, entry.name);
}

void check_specials(og::Isa isa) {
  const auto one = [&](const char* name, double a, double b) {
    Tensor x(OG_F32, {1}), y(OG_F32, {1}), out(OG_F32, {1});
    x.assign({a}), y.assign({b});
    CHECK_OK(run(isa, name, {&x, &y}, {&out}));
    return out.get(0);
  };
  for (const char* name : {"maximum", "minimum", "add", "sub", "mul", "div"}) {
    CHECK(std::isnan(one(name, NAN, 1)), "%s(NaN, 1)", name);
    CHECK(std::isnan(one(name, 1, NAN)), "%s(1, NaN)", name);
  }
  CHECK(one("eq", NAN, NAN) == 0 && one("ne", NAN, NAN) == 1 && one("le", NAN, 1) == 0 && one("ge", 1, NAN) == 0);
  CHECK(one("div", 1, 0) == INFINITY && one("div", -1, 0) == -INFINITY && std::isnan(one("div", 0, 0)));
  CHECK(one("remainder", -5, 3) == 1 && one("remainder", 5, -3) == -1 && one("fmod", -5, 3) == -2);
  CHECK(one("pow", 0, 0) == 1 && std::isnan(one("pow", -1, 0.5)) && one("pow", -2, 3) == -8);
  CHECK(std::fabs(one("atan2", 0, -1) - 3.14159265358979) < 1e-6);
}

/** Integers wrap, and nothing traps: neither the quotient that does not fit nor a division by zero. */
void check_integers(og::Isa isa) {
  const auto one = [&](const char* name, int64_t a, int64_t b) {
    Tensor x(OG_I64, {1}), y(OG_I64, {1}), out(OG_I64, {1});
    x.set_int(0, a), y.set_int(0, b);
    CHECK_OK(run(isa, name, {&x, &y}, {&out}));
    return out.get_int(0);
  };
  CHECK(one("add", INT64_MAX, 1) == INT64_MIN && one("sub", INT64_MIN, 1) == INT64_MAX);
  CHECK(one("mul", INT64_MIN, -1) == INT64_MIN && one("div", INT64_MIN, -1) == INT64_MIN);
  CHECK(one("div", 7, 0) == 0 && one("remainder", 7, 0) == 0 && one("fmod", 7, 0) == 0);
  CHECK(one("div", -7, 2) == -3 && one("remainder", -7, 2) == 1 && one("fmod", -7, 2) == -1);
  CHECK(one("pow", 3, 4) == 81 && one("pow", -1, -3) == -1 && one("pow", 2, -1) == 0 && one("pow", 2, 64) == 0);
  CHECK(one("maximum", (1ll << 53) + 1, 1ll << 53) == (1ll << 53) + 1, "64-bit integers do not go through double");
}

}  // namespace

int main() {
  Random random(11);
  const std::vector<std::vector<int64_t>> shapes = {{}, {0}, {1}, {17}, {3, 41}, {2, 3, 130}};
  for_each_isa([&](og::Isa isa) {
    for (const Entry& entry : kEntries)
      for (int32_t dtype = 0; dtype < OG_BOOL; dtype++)
        for (const auto& shape : shapes)
          for (int layout = 0; layout < kLayoutCount; layout++) check_values(isa, entry, dtype, shape, layout, random);
    check_specials(isa);
    check_integers(isa);

    Tensor column(OG_F32, {2000, 1}), row(OG_F32, {1, 33}), y(OG_F32, {2000, 33});
    column.uniform(random, -1, 1), row.uniform(random, -1, 1);
    std::vector<double> want;
    for (int64_t i = 0; i < 2000; i++)
      for (int64_t j = 0; j < 33; j++) want.push_back(column.get(i) * row.get(j));
    column.broadcast(1, 33), row.broadcast(0, 2000);
    check_threads([&] { run(isa, "mul", {&column, &row}, {&y}); }, [&] { return y.bytes(); });
    check_close(y, want, roundoff(OG_F32), 0, "mul with broadcast operands");

    Tensor x(OG_F32, {4}), shorter(OG_F32, {3}), z(OG_F32, {4});
    CHECK(run(isa, "add", {&x, &shorter}, {&z}) != OG_OK, "operands of two shapes");
    CHECK_OK(run(isa, "add", {&x, &x}, {&x}));
  });
  return finish("binary");
}
