// The end of a product, on every instruction set: activation, residual and pre-activation in one call have the bits of
// matmul, the activation's kernel and add, whatever way the product takes.
#include <limits>

#include "check.h"

using namespace og_test;

namespace {

struct Function {
  const char* kernel;  // null: none
  std::vector<double> attrs;
};
const Function kFunctions[] = {{nullptr, {}}, {"gelu", {0}},   {"gelu", {1}}, {"silu", {}},
                               {"relu", {}},  {"sigmoid", {}}, {"tanh", {}}};
constexpr int kFunctionCount = 7;

/** Numbers of equal bits; NaNs may differ in theirs. */
bool same_numbers(const Tensor& a, const Tensor& b) {
  for (int64_t i = 0; i < a.count(); i++) {
    const double x = a.get(i), y = b.get(i);
    if (std::isnan(x) != std::isnan(y) || (!std::isnan(x) && (x != y || std::signbit(x) != std::signbit(y))))
      return false;
  }
  return true;
}

Tensor dense_like(Tensor& other) {
  const og_view view = other.view();
  return Tensor(view.dtype, std::vector<int64_t>(view.shape, view.shape + view.rank));
}

/** One product with an end, against its parts, on every set with three thread counts. */
void check_end(Tensor& a, Tensor& b, Tensor& bias, Tensor& residual, Tensor& c, bool with_pre, int function) {
  const int before = og::threads();
  Tensor none;
  const bool is_large = a.count() * b.shape().back() > (1 << 22);
  for_each_isa([&](og::Isa isa) {
    if (isa == og::kReference && is_large && small_sizes()) return;  // the definition takes one path whatever the size
    Tensor sums = c, active = c, want = c, pre;
    og::set_threads(1);
    CHECK(run(isa, "matmul", {&a, &b, &bias, &none, &none}, {&sums, &none}, {0}) == OG_OK, "%s", og::last_message());
    const Function& f = kFunctions[function];
    if (!f.kernel)
      active = sums;
    else if (f.attrs.empty())
      CHECK(run(isa, f.kernel, {&sums}, {&active}) == OG_OK, "%s", og::last_message());
    else
      CHECK(run(isa, f.kernel, {&sums}, {&active}, {f.attrs[0]}) == OG_OK, "%s", og::last_message());
    if (residual.present())
      CHECK(run(isa, "add", {&active, &residual}, {&want}) == OG_OK, "%s", og::last_message());
    else
      want = active;
    if (with_pre) pre = dense_like(c);
    for (int threads = 1; threads <= thread_limit(isa, 3); threads++) {
      og::set_threads(threads);
      c.fill([](int64_t) { return 7.; });
      if (with_pre) pre.fill([](int64_t) { return 7.; });
      const int32_t status = run(isa, "matmul", {&a, &b, &bias, &residual, &none}, {&c, &pre}, {(double)function});
      CHECK(status == OG_OK, "%s", og::last_message());
      CHECK(same_numbers(c, want), "%d threads: other numbers than the parts", threads);
      if (with_pre) CHECK(same_numbers(pre, sums), "%d threads: another pre-activation", threads);
    }
  });
  og::set_threads(before);
}

/** Dense operands of every way through the frame: (m, n, k), b dense or as a Linear weight. */
void ways(Random& random) {
  const int64_t sizes[][3] = {{1, 900, 770},  {1, 3, 50},     {5, 900, 70}, {8, 700, 300},   {7, 20000, 3},
                              {700, 5, 200},  {3000, 8, 9},   {900, 1, 33}, {900, 4, 33},    {20000, 2, 5},
                              {33, 65, 129},  {63, 31, 17},   {64, 48, 60}, {300, 200, 900}, {70, 530, 401},
                              {530, 70, 401}, {400, 400, 17}, {15, 127, 1}, {13, 3000, 40},  {200, 190, 385}};
  int function = 0;
  for (const auto& s : sizes)
    for (int way = 0; way < 2; way++) {
      if (!is_chosen((int)(&s - sizes), way)) continue;
      const int64_t m = s[0], n = s[1], k = s[2];
      function = (function + 1) % kFunctionCount;
      named("way %lldx%lldx%lld %s function %d", (long long)m, (long long)n, (long long)k, way ? "NT" : "NN", function);
      Tensor a(OG_F32, {m, k}), b(OG_F32, {k, n}, way ? kTransposed : kDense), bias(OG_F32, {n}), c(OG_F32, {m, n});
      Tensor residual;
      if (random.below(2)) residual = Tensor(OG_F32, {m, n}).normal(random);
      a.normal(random);
      b.normal(random);
      bias.normal(random);
      check_end(a, b, bias, residual, c, random.below(2), function);
    }
}

/** Odd sizes, any layouts, an output that may not be dense. */
void layouts(Random& random) {
  const int64_t sizes[] = {1, 2, 3, 7, 15, 17, 31, 33, 63, 65, 127, 129};
  for (int trial = 0; trial < draws(120); trial++) {
    const int64_t m = sizes[random.below(12)], n = sizes[random.below(12)];
    const int64_t k = random.below(12) ? sizes[random.below(12)] : 0;  // 0: f(bias) + residual
    const int function = trial % kFunctionCount;
    const Layout lc = random.below(2) ? kDense : (Layout)random.below(kLayoutCount);
    const Layout lr = (Layout)random.below(kLayoutCount);
    named("%lldx%lldx%lld function %d layouts %d %d", (long long)m, (long long)n, (long long)k, function, lc, lr);
    Tensor a(OG_F32, {m, k}, (Layout)random.below(kLayoutCount)), b(OG_F32, {k, n}, (Layout)random.below(kLayoutCount));
    Tensor c(OG_F32, {m, n}, lc), bias, residual;
    if (random.below(2)) bias = Tensor(OG_F32, {n}).normal(random);
    if (random.below(4)) residual = Tensor(OG_F32, {m, n}, lr).normal(random);
    a.normal(random);
    b.normal(random);
    check_end(a, b, bias, residual, c, random.below(2), function);
  }
}

void batches(Random& random) {
  for (int trial = 0; trial < draws(40); trial++) {
    const int64_t g = 1 + random.below(4), h = 1 + random.below(3);
    const int64_t m = 1 + random.below(40), n = 1 + random.below(70), k = random.below(50);
    const int function = trial % kFunctionCount;
    named("batch %lldx%lld of %lldx%lldx%lld function %d", (long long)g, (long long)h, (long long)m, (long long)n,
          (long long)k, function);
    Tensor a(OG_F32, {g, h, m, k}), c(OG_F32, {g, h, m, n}), bias, residual;
    const int shared = (int)random.below(3);
    Tensor b(OG_F32, {shared == 2 ? 1 : g, shared >= 1 ? 1 : h, k, n}, (Layout)random.below(kLayoutCount));
    a.normal(random);
    b.normal(random);
    if (shared >= 1) b.broadcast(1, h);
    if (shared == 2) b.broadcast(0, g);
    if (random.below(2)) bias = Tensor(OG_F32, {n}).normal(random);
    const int kind = (int)random.below(3);  // of the residual: none, any layout, the same for all of a batch axis
    if (kind == 1) residual = Tensor(OG_F32, {g, h, m, n}, (Layout)random.below(kLayoutCount)).normal(random);
    if (kind == 2) residual = Tensor(OG_F32, {g, 1, m, n}).normal(random).broadcast(1, h);
    check_end(a, b, bias, residual, c, random.below(2), function);
  }
  named("batch of large matrices");
  Tensor a(OG_F32, {2, 200, 150}), b(OG_F32, {2, 150, 180}), c(OG_F32, {2, 200, 180}), none;
  Tensor residual(OG_F32, {1, 1, 180});
  a.normal(random);
  b.normal(random);
  residual.normal(random).broadcast(0, 2).broadcast(1, 200);
  check_end(a, b, none, residual, c, true, 3);
}

/** NaN and infinity go through the functions as through the kernels; other operand dtypes; float64. */
void numbers(Random& random) {
  const double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  for (int function = 0; function < kFunctionCount; function++) {
    named("special values function %d", function);
    Tensor a(OG_F32, {40, 33}), b(OG_F32, {33, 50}), c(OG_F32, {40, 50}), bias(OG_F32, {50}), none;
    a.normal(random);
    b.normal(random);
    bias.normal(random);
    a.set(5, nan);
    bias.set(3, inf);
    bias.set(4, -inf);
    bias.set(49, -inf);
    check_end(a, b, bias, none, c, true, function);
    named("dtypes function %d", function);
    Tensor half(OG_F16, {40, 33}), brain(OG_BF16, {33, 50}), residual(OG_F32, {40, 50});
    half.normal(random);
    brain.normal(random);
    residual.normal(random);
    check_end(half, brain, none, residual, c, true, function);
    named("float64 function %d", function);
    Tensor wide(OG_F64, {40, 33}), wide_b(OG_F64, {33, 50}), wide_c(OG_F64, {40, 50}), wide_residual(OG_F64, {40, 50});
    wide.normal(random);
    wide_b.normal(random);
    wide_residual.normal(random);
    check_end(wide, wide_b, none, wide_residual, wide_c, true, function);
  }
}

/** A packed b gives the bits of b itself, on every way and beside every end; a wrong one is refused. */
void packed(Random& random) {
  const int64_t sizes[][3] = {{1, 90, 70},    {9, 33, 65},    {16, 100, 385},  {40, 1, 33},    {33, 129, 800},
                              {300, 200, 90}, {70, 530, 401}, {530, 70, 1000}, {129, 31, 257}, {17, 15, 1}};
  Tensor none;
  for (const auto& s : sizes)
    for (int way = 0; way < 3; way++) {
      if (!is_chosen((int)(&s - sizes), way, 3)) continue;
      const int64_t m = s[0], n = s[1], k = s[2];
      named("packed %lldx%lldx%lld layout %d", (long long)m, (long long)n, (long long)k, way);
      const Layout layout = way == 0 ? kDense : way == 1 ? kTransposed : kReversed;
      Tensor a(OG_F32, {2, m, k}), b(OG_F32, {k, n}, layout), shared(OG_F32, {1, k, n}), bias(OG_F32, {n});
      Tensor want(OG_F32, {2, m, n}), c(OG_F32, {2, m, n}), room(OG_F32, {(n + 63) * k + 16});
      Tensor fewer(OG_F32, {(n + 63) * k + 15});
      a.normal(random);
      b.normal(random);
      bias.normal(random);
      const std::vector<double> values = b.values();
      shared.assign(values).broadcast(0, 2);
      const int before = og::threads();
      for_each_isa([&](og::Isa isa) {
        for (int threads = 1; threads <= thread_limit(isa, 2); threads++) {
          og::set_threads(threads);
          room.fill([](int64_t) { return 7.; });
          CHECK(run(isa, "matmul_pack", {&b}, {&room}) == OG_OK, "%s", og::last_message());
          CHECK(run(isa, "matmul", {&a, &shared, &bias, &none, &none}, {&want, &none}, {1}) == OG_OK, "%s",
                og::last_message());
          c.fill([](int64_t) { return 7.; });
          CHECK(run(isa, "matmul", {&a, &shared, &bias, &none, &room}, {&c, &none}, {1}) == OG_OK, "%s",
                og::last_message());
          CHECK(same_numbers(c, want), "%d threads: other numbers than without packing", threads);
        }
        CHECK(run(isa, "matmul", {&a, &shared, &bias, &none, &fewer}, {&c, &none}, {0}) == OG_INVALID, "too few");
        CHECK(run(isa, "matmul_pack", {&b}, {&fewer}) == OG_INVALID, "too little room");
      });
      og::set_threads(before);
    }
  named("packed, refused");
  Tensor a(OG_F32, {2, 3, 4}), b(OG_F32, {2, 4, 5}), c(OG_F32, {2, 3, 5}), room(OG_F32, {36 * 4 + 16});
  Tensor half(OG_F16, {4, 5}), wide(OG_F64, {36 * 4 + 16});
  for_each_isa([&](og::Isa isa) {
    CHECK(run(isa, "matmul", {&a, &b, &none, &none, &room}, {&c, &none}, {0}) == OG_INVALID, "b of each matrix");
    CHECK(run(isa, "matmul", {&a, &b, &none, &none, &wide}, {&c, &none}, {0}) == OG_INVALID, "dtype");
    CHECK(run(isa, "matmul_pack", {&half}, {&room}) == OG_UNSUPPORTED, "float16");
    CHECK(run(isa, "matmul_pack", {&b}, {&room}) == OG_INVALID, "rank");
  });
}

void refusals() {
  named("refusals");
  Tensor a(OG_F32, {3, 4}), b(OG_F32, {4, 6}), c(OG_F32, {3, 6}), half(OG_F16, {3, 6}), none, short_one(OG_F32, {3, 5});
  Tensor strided(OG_F32, {3, 6}, kTransposed), ia(OG_I32, {3, 4}), ib(OG_I32, {4, 6}), ic(OG_I32, {3, 6});
  for_each_isa([&](og::Isa isa) {
    for (double activation : {-1., 7., 1e9, std::nan("")})
      CHECK(run(isa, "matmul", {&a, &b, &none, &none, &none}, {&c, &none}, {activation}) == OG_INVALID, "%g",
            activation);
    CHECK(run(isa, "matmul", {&a, &b, &none, &short_one, &none}, {&c, &none}, {0}) == OG_INVALID, "residual's shape");
    CHECK(run(isa, "matmul", {&a, &b, &none, &none, &none}, {&c, &short_one}, {1}) == OG_INVALID, "pre's shape");
    CHECK(run(isa, "matmul", {&a, &b, &none, &none, &none}, {&c, &strided}, {1}) == OG_INVALID, "pre with gaps");
    CHECK(run(isa, "matmul", {&a, &b, &none, &half, &none}, {&c, &none}, {0}) == OG_UNSUPPORTED, "residual's dtype");
    CHECK(run(isa, "matmul", {&a, &b, &none, &none, &none}, {&half, &none}, {1}) == OG_UNSUPPORTED, "float16 result");
    CHECK(run(isa, "matmul", {&ia, &ib, &none, &none, &none}, {&ic, &none}, {1}) == OG_UNSUPPORTED, "integers");
    CHECK(run(isa, "matmul", {&ia, &ib, &none, &ic, &none}, {&ic, &none}, {0}) == OG_UNSUPPORTED, "integer residual");
  });
}

}  // namespace

int main() {
  Random random(20261126);
  ways(random);
  layouts(random);
  batches(random);
  numbers(random);
  packed(random);
  refusals();
  return finish("matmul end");
}
