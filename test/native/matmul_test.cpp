// matmul on every instruction set: shapes around the tile sizes, layouts, batches, bias, dtypes, threads, special
// values.
#include <limits>

#include "check.h"

using namespace og_test;

namespace {

struct Case {
  std::vector<int64_t> a, b, c, bias;  // shapes; an empty bias is absent
};

int32_t multiply(og::Isa isa, Tensor* a, Tensor* b, Tensor* bias, Tensor* c) {
  Tensor none;
  return run(isa, "matmul", {a, b, bias, &none, &none}, {c, &none}, {0});
}

/** Expected values in double (integers: exactly, wrapped), and per element Σ|a·b| + |bias| for the error bound. */
void oracle(const Tensor& a, const Tensor& b, const Tensor& bias, const std::vector<int64_t>& shape, int64_t depth,
            std::vector<double>& want, std::vector<double>& size) {
  const int64_t n = shape[shape.size() - 1], m = shape[shape.size() - 2];
  int64_t batch = 1;
  for (size_t i = 0; i + 2 < shape.size(); i++) batch *= shape[i];
  const std::vector<double> av = a.values(), bv = b.values();
  std::vector<double> biases;
  if (bias.present()) biases = bias.values();
  want.assign((size_t)(batch * m * n), 0);
  size.assign(want.size(), 0);
  for (int64_t row = 0; row < batch * m; row++) {
    double *sum = want.data() + row * n, *absolute = size.data() + row * n;
    for (int64_t k = 0; k < depth; k++) {
      const double x = av[(size_t)(row * depth + k)], *y = bv.data() + (row / m * depth + k) * n;
      for (int64_t j = 0; j < n; j++) {
        sum[j] += x * y[j];
        absolute[j] += std::fabs(x * y[j]);
      }
    }
    for (int64_t j = 0; j < n && !biases.empty(); j++) {
      const double value = (int64_t)biases.size() == n ? biases[(size_t)j] : biases[(size_t)(row * n + j)];
      sum[j] += value;
      absolute[j] += std::fabs(value);
    }
  }
}

void check_result(const Tensor& c, const std::vector<double>& want, const std::vector<double>& size, int64_t depth,
                  bool reference) {
  // random signs: a float loop errs by about sqrt(K) roundoffs of Σ|ab|; its worst case is K
  const double sum_error = (reference ? 1.0 : 2.0) * 0x1p-24 * (4 + 2 * std::sqrt((double)depth));
  for (size_t i = 0; i < want.size(); i++) {
    const double got = c.get((int64_t)i);
    const double bound =
        sum_error * size[i] + roundoff(c.dtype()) * std::fabs(want[i]) + 1e-30 + (c.dtype() == OG_F16 ? 0x1p-25 : 0);
    if (std::isnan(want[i])   ? std::isnan(got)
        : std::isinf(want[i]) ? got == want[i]
                              : std::fabs(got - want[i]) <= bound)
      continue;
    CHECK(false, "c[%zu] is %.9g, expected %.9g ± %.2g", i, got, want[i], bound);
    return;
  }
}

/** One product on every instruction set, with three thread counts. */
void check_product(Tensor& a, Tensor& b, Tensor& bias, Tensor& c, const std::vector<int64_t>& shape, int64_t depth) {
  std::vector<double> want, size;
  oracle(a, b, bias, shape, depth, want, size);
  const int before = og::threads();
  const bool is_large = (int64_t)want.size() * depth > (1 << 22);
  for_each_isa([&](og::Isa isa) {
    // the definition takes one path whatever the size
    if (isa == og::kReference && a.dtype() != OG_F64 && is_large && small_sizes()) return;
    std::vector<char> first;
    for (int threads = 1; threads <= thread_limit(isa, 3); threads++) {
      og::set_threads(threads);
      const int32_t status = multiply(isa, &a, &b, &bias, &c);
      CHECK(status == OG_OK, "%s", og::last_message());
      if (threads == 1) {
        check_result(c, want, size, depth, isa == og::kReference);
        first = c.bytes();
      } else {
        CHECK(c.bytes() == first, "%d threads gave other bits", threads);
      }
      c.fill([](int64_t) { return 7.; });
    }
  });
  og::set_threads(before);
}

void shapes(Random& random) {
  const int64_t sizes[] = {1, 2, 3, 7, 15, 17, 31, 33, 63, 65, 127, 129};
  const int count = (int)(sizeof sizes / sizeof *sizes);
  for (int trial = 0; trial < draws(150); trial++) {
    // every size in every place once, then at random
    const int64_t m = trial < count ? sizes[trial] : sizes[random.below(count)];
    const int64_t n = trial < count ? sizes[(trial + 5) % count] : sizes[random.below(count)];
    const int64_t k = trial < count ? sizes[(trial + 8) % count] : sizes[random.below(count)];
    const Layout la = (Layout)random.below(kLayoutCount), lb = (Layout)random.below(kLayoutCount);
    const Layout lc = random.below(2) ? kDense : (Layout)random.below(kLayoutCount);
    const int with_bias = (int)random.below(3);
    named("%lldx%lldx%lld layouts %d %d %d bias %d", (long long)m, (long long)n, (long long)k, la, lb, lc, with_bias);
    Tensor a(OG_F32, {m, k}, la), b(OG_F32, {k, n}, lb), c(OG_F32, {m, n}, lc), bias;
    if (with_bias == 1) bias = Tensor(OG_F32, {n}, random.below(2) ? kDense : kReversed);
    if (with_bias == 2) bias = Tensor(OG_F32, {m, n}, (Layout)random.below(kLayoutCount));
    a.normal(random);
    b.normal(random);
    if (with_bias) bias.normal(random);
    check_product(a, b, bias, c, {m, n}, k);
  }
}

/** Products large enough for several blocks of k, several tasks and both ways of splitting. */
void large(Random& random) {
  const int64_t sizes[][3] = {{300, 200, 900}, {70, 530, 401}, {530, 70, 401}, {9, 700, 1000}, {700, 9, 1000},
                              {8, 700, 1000},  {700, 5, 1000}, {1, 900, 770},  {5, 900, 770},  {400, 400, 17}};
  for (const auto& s : sizes)
    for (int way = 0; way < 4; way++) {
      if (!is_chosen((int)(&s - sizes), way)) continue;
      const int64_t m = s[0], n = s[1], k = s[2];
      named("large %lldx%lldx%lld way %d", (long long)m, (long long)n, (long long)k, way);
      Tensor a(OG_F32, {m, k}, way & 1 ? kTransposed : kDense), b(OG_F32, {k, n}, way & 2 ? kTransposed : kDense);
      Tensor c(OG_F32, {m, n}), bias(OG_F32, {n});
      a.normal(random);
      b.normal(random);
      bias.normal(random);
      check_product(a, b, bias, c, {m, n}, k);
    }
}

void batches(Random& random) {
  for (int trial = 0; trial < draws(60); trial++) {
    const int64_t g = 1 + random.below(4), h = 1 + random.below(3);
    const int64_t m = 1 + random.below(40), n = 1 + random.below(70), k = 1 + random.below(50);
    named("batch %lldx%lld of %lldx%lldx%lld", (long long)g, (long long)h, (long long)m, (long long)n, (long long)k);
    const Layout layout = (Layout)random.below(kLayoutCount);
    Tensor a(OG_F32, {g, h, m, k}, layout), c(OG_F32, {g, h, m, n}, (Layout)random.below(kLayoutCount)), b, bias;
    const int shared = (int)random.below(3);  // of b: nothing, the inner batch axis, both (a Linear over (B, T, C))
    b = Tensor(OG_F32, {shared == 2 ? 1 : g, shared >= 1 ? 1 : h, k, n}, (Layout)random.below(kLayoutCount));
    a.normal(random);
    b.normal(random);
    if (shared >= 1) b.broadcast(1, h);
    if (shared == 2) b.broadcast(0, g);
    const int kind = (int)random.below(3);
    if (kind == 1) bias = Tensor(OG_F32, {n});
    if (kind == 2) bias = Tensor(OG_F32, {1, 1, m, n}).normal(random).broadcast(0, g).broadcast(1, h);
    if (kind == 1) bias.normal(random);
    check_product(a, b, bias, c, {g, h, m, n}, k);
  }
  named("batch of large matrices");
  Tensor a(OG_F32, {3, 200, 150}), b(OG_F32, {3, 150, 180}), c(OG_F32, {3, 200, 180}), bias;
  a.normal(random);
  b.normal(random);
  check_product(a, b, bias, c, {3, 200, 180}, 150);
}

void float_dtypes(Random& random) {
  const int32_t dtypes[] = {OG_F32, OG_F16, OG_BF16};
  const int64_t sizes[][3] = {{3, 50, 70}, {1, 65, 33}, {40, 66, 500}, {64, 3, 129}, {130, 40, 20}, {30, 300, 900}};
  for (int32_t ta : dtypes)
    for (int32_t tb : dtypes)
      for (const auto& s : sizes) {
        const int32_t tc = dtypes[random.below(3)], ti = dtypes[random.below(3)];
        const Layout la = (Layout)random.below(kLayoutCount), lb = (Layout)random.below(kLayoutCount);
        named("dtypes %d %d -> %d bias %d, %lldx%lldx%lld layouts %d %d", ta, tb, tc, ti, (long long)s[0],
              (long long)s[1], (long long)s[2], la, lb);
        Tensor a(ta, {s[0], s[2]}, la), b(tb, {s[2], s[1]}, lb),
            c(tc, {s[0], s[1]}, random.below(2) ? kDense : kTransposed);
        Tensor bias(ti, {s[1]});
        a.normal(random);
        b.normal(random);
        bias.normal(random);
        check_product(a, b, bias, c, {s[0], s[1]}, s[2]);
      }
}

void doubles(Random& random) {
  named("float64");
  Tensor a(OG_F64, {2, 17, 33}), b(OG_F64, {2, 33, 9}, kTransposed), c(OG_F64, {2, 17, 9}), bias(OG_F64, {9});
  a.normal(random);
  b.normal(random);
  bias.normal(random);
  std::vector<double> want, size;
  oracle(a, b, bias, {2, 17, 9}, 33, want, size);
  CHECK(multiply(og::kReference, &a, &b, &bias, &c) == OG_OK, "%s", og::last_message());
  check_close(c, want, 1e-13, 1e-13, "c");
}

void integers(Random& random) {
  struct Kind {
    int32_t a, b, c;
    double low, high;
  };
  const Kind kinds[] = {{OG_I8, OG_I8, OG_I32, -128, 128},   {OG_U8, OG_I8, OG_I32, 0, 128},
                        {OG_I32, OG_I32, OG_I64, -1e5, 1e5}, {OG_I64, OG_I64, OG_I64, -1e5, 1e5},
                        {OG_I32, OG_I8, OG_I32, -100, 100},  {OG_U8, OG_U8, OG_I64, 0, 256}};
  for (const Kind& kind : kinds)
    for (int trial = 0; trial < 8; trial++) {
      const int64_t m = 1 + random.below(trial < 4 ? 4 : 140), n = 1 + random.below(200), k = 1 + random.below(300);
      named("integers %d %d -> %d, %lldx%lldx%lld", kind.a, kind.b, kind.c, (long long)m, (long long)n, (long long)k);
      Tensor a(kind.a, {2, m, k}, (Layout)random.below(kLayoutCount)),
          b(kind.b, {2, k, n}, (Layout)random.below(kLayoutCount));
      Tensor c(kind.c, {2, m, n}, (Layout)random.below(kLayoutCount)), bias(OG_I32, {n});
      const auto value = [&](int64_t) { return std::floor(random.uniform(kind.low, kind.high)); };
      a.fill(value);
      b.fill(value);
      bias.fill(value);
      std::vector<double> want, size;
      oracle(a, b, bias, {2, m, n}, k, want, size);
      for_each_isa([&](og::Isa isa) {
        CHECK(multiply(isa, &a, &b, &bias, &c) == OG_OK, "%s", og::last_message());
        check_close(c, want, 0, 0, "c");
      });
    }
  named("integers wrap");
  Tensor a(OG_I32, {1, 2}), b(OG_I32, {2, 1}), c(OG_I8, {1, 1}), wide(OG_I32, {1, 1}), none;
  a.fill([](int64_t) { return 65536.; });
  b.fill([](int64_t i) { return i ? 65537. : 65536.; });
  for_each_isa([&](og::Isa isa) {
    CHECK(multiply(isa, &a, &b, &none, &wide) == OG_OK && wide.get(0) == 65536, "int32 sum is %g", wide.get(0));
    CHECK(multiply(isa, &a, &b, &none, &c) == OG_OK && c.get(0) == 0, "int8 sum is %g", c.get(0));
  });
}

void empty(Random& random) {
  for (int trial = 0; trial < 40; trial++) {
    int64_t d[4];
    for (int64_t& x : d) x = random.below(3) ? 1 + random.below(20) : 0;
    named("empty %lld of %lldx%lldx%lld", (long long)d[0], (long long)d[1], (long long)d[2], (long long)d[3]);
    Tensor a(OG_F32, {d[0], d[1], d[3]}), b(OG_F32, {d[0], d[3], d[2]}), c(OG_F32, {d[0], d[1], d[2]}), bias;
    if (random.below(2)) bias = Tensor(OG_F32, {d[2]}).normal(random);
    a.normal(random);
    b.normal(random);
    check_product(a, b, bias, c, {d[0], d[1], d[2]}, d[3]);
  }
}

void special_values(Random& random) {
  const double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  const int64_t sizes[][3] = {{4, 40, 64}, {40, 4, 64}, {50, 60, 70}, {100, 300, 500}, {1, 33, 9}};
  for (const auto& s : sizes)
    for (int layout = 0; layout < 2; layout++) {
      named("special values %lldx%lldx%lld layout %d", (long long)s[0], (long long)s[1], (long long)s[2], layout);
      Tensor a(OG_F32, {s[0], s[2]}), b(OG_F32, {s[2], s[1]}, layout ? kTransposed : kDense), c(OG_F32, {s[0], s[1]}),
          none;
      a.normal(random);
      b.normal(random);
      a.set(s[2] / 2, nan);                         // row 0
      if (s[0] > 1) a.set(s[2] + 1, inf);           // row 1
      b.set(1 * s[1] + s[1] - 1, 0);                // inf · 0 in the last column
      b.set((s[2] - 1) * s[1] + 2, -inf);           // column 2
      if (s[0] > 2) a.set(2 * s[2] + s[2] - 1, 0);  // 0 · −inf in row 2
      check_product(a, b, none, c, {s[0], s[1]}, s[2]);
    }
}

/** Operands that end with their memory: a read beyond is caught by the address sanitizer. */
void exact_blocks(Random& random) {
  for (int trial = 0; trial < 40; trial++) {
    const int64_t m = 1 + random.below(50), n = 1 + random.below(100), k = 1 + random.below(100);
    named("exact %lldx%lldx%lld", (long long)m, (long long)n, (long long)k);
    std::vector<float> a((size_t)(m * k)), b((size_t)(k * n)), c((size_t)(m * n));
    for (float& x : a) x = (float)random.normal();
    for (float& x : b) x = (float)random.normal();
    const bool ta = random.below(2), tb = random.below(2);
    og_view in[5] = {}, out[2] = {};
    const double attrs[1] = {0};
    in[0] = {a.data(), OG_F32, 2, {m, k}, {ta ? 1 : k, ta ? m : 1}};
    in[1] = {b.data(), OG_F32, 2, {k, n}, {tb ? 1 : n, tb ? k : 1}};
    in[2].dtype = in[3].dtype = in[4].dtype = out[1].dtype = -1;
    out[0] = {c.data(), OG_F32, 2, {m, n}, {n, 1}};
    og_call call = {in, out, attrs, 5, 2, 1};
    for_each_isa([&](og::Isa isa) {
      CHECK(og::run_kernel_on(isa, og::kernel_id("matmul"), call) == OG_OK, "%s", og::last_message());
      double want = 0, size = 0;
      for (int64_t p = 0; p < k; p++) {
        const double term = (double)a[(size_t)(ta ? p * m + m - 1 : (m - 1) * k + p)] *
                            (double)b[(size_t)(tb ? (n - 1) * k + p : p * n + n - 1)];
        want += term;
        size += std::fabs(term);
      }
      CHECK(std::fabs(c.back() - want) <= 1e-6 * size, "last element is %g, expected %g", c.back(), want);
    });
  }
}

void refusals() {
  named("refusals");
  Tensor a(OG_F32, {3, 4}), b(OG_F32, {5, 6}), c(OG_F32, {3, 6}), none, i(OG_I32, {4, 6}), bias(OG_F32, {5}),
      flags(OG_BOOL, {3, 6});
  Tensor good(OG_F32, {4, 6}), ia(OG_I32, {3, 4});
  for_each_isa([&](og::Isa isa) {
    CHECK(multiply(isa, &a, &b, &none, &c) == OG_INVALID, "inner sizes");
    CHECK(multiply(isa, &a, &good, &bias, &c) == OG_INVALID, "bias length");
    CHECK(multiply(isa, &a, &i, &none, &c) == OG_UNSUPPORTED, "float times integer");
    CHECK(multiply(isa, &ia, &i, &none, &flags) == OG_UNSUPPORTED, "bool output");
  });
}

}  // namespace

int main() {
  Random random(20261123);
  shapes(random);
  large(random);
  batches(random);
  float_dtypes(random);
  doubles(random);
  integers(random);
  empty(random);
  special_values(random);
  exact_blocks(random);
  refusals();
  return finish("matmul");
}
