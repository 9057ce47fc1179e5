// Functions of one operand against the C library in double: every instruction set, dtype and layout, special values,
// odd sizes.
#include "check.h"

using namespace og_test;

namespace {

struct Row {
  const char* name;
  double (*oracle)(double);
  double low, high;
  double ulps;      // of the compute type, float32 (the reference set is allowed as much)
  double absolute;  // where the result passes through zero and the bound is absolute
};

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double sign(double x) { return x > 0 ? 1 : x < 0 ? -1 : x; }

const Row kReal[] = {
    {"exp", [](double x) { return std::exp(x); }, -80, 80, 2, 0},
    {"expm1", [](double x) { return std::expm1(x); }, -3, 3, 2, 0},
    {"log", [](double x) { return std::log(x); }, 1e-6, 50, 2, 1e-7},
    {"log1p", [](double x) { return std::log1p(x); }, -0.9, 5, 2, 0},
    {"log2", [](double x) { return std::log2(x); }, 1e-6, 50, 2, 1e-7},
    {"sqrt", [](double x) { return std::sqrt(x); }, 0, 50, 0.5, 0},
    {"rsqrt", [](double x) { return 1 / std::sqrt(x); }, 1e-3, 50, 1.5, 0},
    {"reciprocal", [](double x) { return 1 / x; }, 0.01, 50, 0.5, 0},
    {"sin", [](double x) { return std::sin(x); }, -20, 20, 2, 0},
    {"cos", [](double x) { return std::cos(x); }, -20, 20, 2, 0},
    {"tan", [](double x) { return std::tan(x); }, -1.5, 1.5, 2, 0},
    {"asin", [](double x) { return std::asin(x); }, -1, 1, 2, 0},
    {"acos", [](double x) { return std::acos(x); }, -1, 1, 2, 0},
    {"atan", [](double x) { return std::atan(x); }, -9, 9, 2, 0},
    {"sinh", [](double x) { return std::sinh(x); }, -9, 9, 2.5, 0},
    {"cosh", [](double x) { return std::cosh(x); }, -9, 9, 2, 0},
    {"tanh", [](double x) { return std::tanh(x); }, -9, 9, 2.5, 0},
    {"sigmoid", sigmoid, -30, 30, 3, 0},
    {"erf", [](double x) { return std::erf(x); }, -4, 4, 2.5, 1.2e-7},
    {"erfc", [](double x) { return std::erfc(x); }, -4, 4, 4, 0},
};
const Row kExact[] = {
    {"neg", [](double x) { return -x; }, -9, 9, 0, 0},
    {"abs", [](double x) { return std::fabs(x); }, -9, 9, 0, 0},
    {"sign", sign, -2, 2, 0, 0},
    {"square", [](double x) { return x * x; }, -9, 9, 0.5, 0},
    {"relu", [](double x) { return x < 0 ? 0 : x; }, -9, 9, 0, 0},
    {"floor", [](double x) { return std::floor(x); }, -9, 9, 0, 0},
    {"ceil", [](double x) { return std::ceil(x); }, -9, 9, 0, 0},
    {"round", [](double x) { return std::nearbyint(x); }, -9, 9, 0, 0},
    {"trunc", [](double x) { return std::trunc(x); }, -9, 9, 0, 0},
};
const Row kPredicates[] = {
    {"logical_not", [](double x) { return x == 0 ? 1. : 0.; }, -2, 2, 0, 0},
    {"isnan", [](double x) { return std::isnan(x) ? 1. : 0.; }, -2, 2, 0, 0},
    {"isinf", [](double x) { return std::isinf(x) ? 1. : 0.; }, -2, 2, 0, 0},
    {"isfinite", [](double x) { return std::isfinite(x) ? 1. : 0.; }, -2, 2, 0, 0},
};
const int32_t kFloatDtypes[] = {OG_F32, OG_F16, OG_BF16, OG_F64};
const int32_t kOtherDtypes[] = {OG_I8, OG_I32, OG_I64};

std::vector<double> mapped(const Tensor& x, double (*f)(double)) {
  std::vector<double> out = x.values();
  for (double& v : out) v = f(v);
  return out;
}

void check_row(og::Isa isa, const Row& row, int32_t dtype, int32_t out_dtype, const Tensor& values, Layout in,
               Layout out) {
  const std::vector<int64_t> shape = values.shape();
  Tensor x(dtype, shape, in), y(out_dtype, shape, out);
  x.fill([&](int64_t i) { return values.get(i); });
  CHECK_OK(run(isa, row.name, {&x}, {&y}));
  // one unit in the last place is at most 2 roundoffs of the value; 16-bit results round once more
  const double compute = dtype == OG_F64 ? 0x1p-52 : 0x1p-23;
  const double relative = row.ulps * compute + (og::dtype_size(out_dtype) == 2 ? roundoff(out_dtype) : 0);
  const double tiny = out_dtype == OG_F16 ? 0x1p-25 : 1e-38;  // subnormal halves round absolutely
  std::vector<double> want = mapped(x, row.oracle);
  for (double& v : want)
    if (out_dtype == OG_F16 && std::fabs(v) >= 65520) v = v > 0 ? INFINITY : -INFINITY;
  check_close(y, want, relative, tiny + (dtype == OG_F64 ? 0 : row.absolute), row.name);
}

const double kSpecials[] = {0.,   -0.,      1.,        -1., 0.5,   -0.5, 1.5,   2.5,
                            -2.5, INFINITY, -INFINITY, NAN, 1e-40, 3e38, -3e38, 1e-10};

}  // namespace

int main() {
  Random random(3);
  const std::vector<std::vector<int64_t>> shapes = {{}, {0}, {1}, {5}, {3, 37}, {2, 1031}};
  for_each_isa([&](og::Isa isa) {
    for (const auto& shape : shapes) {
      for (int layout = 0; layout < kLayoutCount; layout++) {
        const Layout in = (Layout)layout, out = (Layout)((layout + (int)shape.size()) % kLayoutCount);
        for (int32_t dtype : kFloatDtypes) {
          for (const Row& row : kReal) {
            Tensor values(dtype, shape);
            // bf16 could round its way out of the domain, so it is drawn a little inside
            const double margin = 0.01 * (row.high - row.low);
            values.uniform(random, row.low + (row.low == 0 || row.low > 0 ? 0 : margin), row.high - margin);
            check_row(isa, row, dtype, dtype, values, in, out);
          }
          for (const Row& row : kExact)
            check_row(isa, row, dtype, dtype, Tensor(dtype, shape).uniform(random, -9, 9), in, out);
          for (const Row& row : kPredicates)
            check_row(isa, row, dtype, OG_BOOL, Tensor(dtype, shape).integers(random, -1, 2), in, out);
        }
        for (int32_t dtype : kOtherDtypes) {
          for (const Row& row : kExact)
            check_row(isa, row, dtype, dtype, Tensor(dtype, shape).integers(random, -9, 9), in, out);
          for (const Row& row : kPredicates)
            check_row(isa, row, dtype, OG_BOOL, Tensor(dtype, shape).integers(random, -1, 2), in, out);
        }
      }
    }

    // special values: NaN, infinities, signed zeros, subnormals, the largest numbers
    const int64_t count = (int64_t)(sizeof kSpecials / sizeof *kSpecials);
    for (int32_t dtype : {OG_F32, OG_F64}) {
      Tensor x(dtype, {count});
      x.fill([&](int64_t i) { return kSpecials[i]; });
      for (const Row& row : kReal) {
        Tensor y(dtype, {count});
        CHECK_OK(run(isa, row.name, {&x}, {&y}));
        std::vector<double> want = mapped(x, row.oracle);
        if (dtype == OG_F32)
          for (double& v : want) v = (float)v;
        check_close(y, want, 4e-7, row.absolute + 2e-45, row.name);
      }
      for (const Row& row : kExact) {
        Tensor y(dtype, {count});
        CHECK_OK(run(isa, row.name, {&x}, {&y}));
        std::vector<double> want = mapped(x, row.oracle);
        if (dtype == OG_F32)
          for (double& v : want) v = (float)v;
        check_close(y, want, 0, 0, row.name);
      }
      for (const Row& row : kPredicates) {
        Tensor y(OG_BOOL, {count});
        CHECK_OK(run(isa, row.name, {&x}, {&y}));
        check_close(y, mapped(x, row.oracle), 0, 0, row.name);
      }
      Tensor y(dtype, {count});
      CHECK_OK(run(isa, "clamp", {&x}, {&y}, {-1, 2}));
      std::vector<double> want = x.values();
      for (double& v : want) v = v < -1 ? -1 : v > 2 ? 2 : v;
      check_close(y, want, 0, 0, "clamp");
      CHECK_OK(run(isa, "clamp", {&x}, {&y}, {-INFINITY, INFINITY}));
      check_close(y, x.values(), 0, 0, "clamp without limits");
    }

    Tensor wide(OG_I64, {3}), narrow(OG_I64, {3});
    wide.set_int(0, INT64_MIN), wide.set_int(1, INT64_MAX), wide.set_int(2, -5);
    CHECK_OK(run(isa, "neg", {&wide}, {&narrow}));
    CHECK(narrow.get_int(0) == INT64_MIN && narrow.get_int(1) == -INT64_MAX && narrow.get_int(2) == 5);
    CHECK_OK(run(isa, "clamp", {&wide}, {&narrow}, {-INFINITY, 7}));
    CHECK(narrow.get_int(0) == INT64_MIN && narrow.get_int(1) == 7 && narrow.get_int(2) == -5);

    // integers become floats on the way into a real function; other results are refused
    Tensor integers(OG_I32, {3}), floats(OG_F32, {3});
    integers.assign({1, 4, 9});
    CHECK_OK(run(isa, "sqrt", {&integers}, {&floats}));
    check_close(floats, {1, 2, 3}, 0, 0, "sqrt of integers");
    CHECK_FAILS(run(isa, "sqrt", {&integers}, {&integers}), OG_UNSUPPORTED);
    Tensor longer(OG_F32, {4});
    CHECK_FAILS(run(isa, "exp", {&longer}, {&floats}), OG_INVALID);

    // in place, broadcast input, and the same bits for any thread count
    Tensor big(OG_F32, {300, 1000}), result(OG_F32, {300, 1000});
    big.uniform(random, -5, 5);
    check_threads([&] { run(isa, "tanh", {&big}, {&result}); }, [&] { return result.bytes(); });
    const std::vector<double> before = result.values();
    CHECK_OK(run(isa, "tanh", {&big}, {&big}));
    check_close(big, before, 0, 0, "tanh in place");
    Tensor one(OG_F32, {1, 7}), many(OG_F32, {300, 7});
    one.uniform(random, -5, 5);
    one.broadcast(0, 300);
    CHECK_OK(run(isa, "abs", {&one}, {&many}));
    check_close(many, mapped(one, [](double x) { return std::fabs(x); }), 0, 0, "abs of a broadcast view");
  });
  return finish("unary");
}
