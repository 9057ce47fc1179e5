// Products of two bfloat16 matrices, with dot products of pairs and without them: every layout, odd depths, batches,
// ends, packed weights, threads, special values, and the error beside that of the definition in float32.
#include <limits>

#include "check.h"
#include "core/cpu_features.h"

using namespace og_test;

namespace {

/** Every set, and AVX-512 also without its dot products of pairs. */
template <class F>
void for_each_path(const F& body) {
  for_each_isa([&](og::Isa isa) { body(isa); });
  if (!og::cpu_feature(og::kBf16Dot) || !og::isa_available(og::kAvx512)) return;
  const std::string before = context();
  context() = before + " avx512 without pairs";
  og::use_cpu_feature(og::kBf16Dot, false);
  body(og::kAvx512);
  og::use_cpu_feature(og::kBf16Dot, true);
  context() = before;
}

struct Product {
  std::vector<double> want, size;  // in double, and Σ|a·b| + |bias|
};

/** a [batch, m, k] (or [m, k]), b [k, n] for all of the batch. */
Product oracle(const Tensor& a, const Tensor& b, const Tensor& bias) {
  const int64_t k = b.shape()[0], n = b.shape()[1], rows = k ? a.count() / k : 0;
  const std::vector<double> av = a.values(), bv = b.values();
  std::vector<double> first((size_t)n, 0.);
  if (bias.present()) first = bias.values();
  Product p;
  for (int64_t i = 0; i < rows; i++) {
    for (double x : first) p.want.push_back(x), p.size.push_back(std::fabs(x));
    double *sum = p.want.data() + i * n, *size = p.size.data() + i * n;
    for (int64_t q = 0; q < k; q++) {
      const double x = av[(size_t)(i * k + q)], *y = bv.data() + q * n;
      for (int64_t j = 0; j < n; j++) {
        sum[j] += x * y[j];
        size[j] += std::fabs(x * y[j]);
      }
    }
  }
  return p;
}

void check_result(const Tensor& c, const Product& p, int64_t depth) {
  const double sum_error = 2 * 0x1p-24 * (4 + 2 * std::sqrt((double)depth));
  for (size_t i = 0; i < p.want.size(); i++) {
    const double got = c.get((int64_t)i), want = p.want[i];
    const double bound = sum_error * p.size[i] + roundoff(c.dtype()) * std::fabs(want) + (double)depth * 0x1p-126 +
                         (c.dtype() == OG_F16 ? 0x1p-25 : 0);
    if (std::isnan(want) ? std::isnan(got) : std::isinf(want) ? got == want : std::fabs(got - want) <= bound) continue;
    CHECK(false, "c[%zu] is %.9g, expected %.9g ± %.2g", i, got, want, bound);
    return;
  }
}

int32_t multiply(og::Isa isa, Tensor& a, Tensor& b, Tensor& bias, Tensor& packed, Tensor& c) {
  Tensor none;
  return run(isa, "matmul", {&a, &b, &bias, &none, &packed}, {&c, &none}, {0});
}

/** One product on every path, unpacked and packed, with three thread counts. */
void check_product(Tensor& a, Tensor& b, Tensor& bias, Tensor& c) {
  const int64_t k = b.shape()[0], n = b.shape()[1];
  const Product p = oracle(a, b, bias);
  Tensor none, room(OG_F32, {(n + 63) * ((k + 1) / 2) + 16});
  const int before = og::threads();
  const bool is_large = (int64_t)p.want.size() * k > (1 << 22);
  for_each_path([&](og::Isa isa) {
    if (isa == og::kReference && is_large && small_sizes()) return;  // the definition takes one path whatever the size
    std::vector<char> first, first_packed;
    for (int threads = 1; threads <= (isa == og::kReference ? 1 : 3); threads++) {
      og::set_threads(threads);
      c.fill([](int64_t) { return 7.; });
      CHECK(multiply(isa, a, b, bias, none, c) == OG_OK, "%s", og::last_message());
      check_result(c, p, k);
      const std::vector<char> plain = c.bytes();
      room.fill([](int64_t) { return 7.; });
      CHECK(run(isa, "matmul_pack", {&b}, {&room}) == OG_OK, "%s", og::last_message());
      c.fill([](int64_t) { return 7.; });
      CHECK(multiply(isa, a, b, bias, room, c) == OG_OK, "%s", og::last_message());
      check_result(c, p, k);
      if (threads == 1) {
        first = plain;
        first_packed = c.bytes();
      }
      CHECK(plain == first, "%d threads gave other bits", threads);
      CHECK(c.bytes() == first_packed, "%d threads gave other bits, packed", threads);
      if (a.count() / (k ? k : 1) > 8) CHECK(first == first_packed, "packing changed bits");
    }
  });
  og::set_threads(before);
}

void shapes(Random& random) {
  const int64_t sizes[] = {1, 2, 3, 7, 14, 15, 17, 29, 31, 33, 63, 65, 113, 129, 160};
  const int count = (int)(sizeof sizes / sizeof *sizes);
  const int32_t outputs[] = {OG_BF16, OG_F32, OG_F16};
  for (int trial = 0; trial < draws(150); trial++) {
    const int64_t m = trial < count ? sizes[trial] : sizes[random.below(count)];
    const int64_t n = trial < count ? sizes[(trial + 5) % count] : sizes[random.below(count)];
    const int64_t k = trial < count ? sizes[(trial + 8) % count] : sizes[random.below(count)];
    const Layout la = (Layout)random.below(kLayoutCount), lb = (Layout)random.below(kLayoutCount);
    const Layout lc = random.below(2) ? kDense : (Layout)random.below(kLayoutCount);
    const int32_t out = outputs[random.below(3)];
    named("%lldx%lldx%lld layouts %d %d %d to %s", (long long)m, (long long)n, (long long)k, la, lb, lc,
          dtype_name(out));
    Tensor a(OG_BF16, {m, k}, la), b(OG_BF16, {k, n}, lb), c(out, {m, n}, lc), bias;
    if (random.below(2)) bias = Tensor(random.below(2) ? OG_BF16 : OG_F32, {n}, random.below(2) ? kDense : kReversed);
    a.normal(random);
    b.normal(random);
    if (bias.present()) bias.normal(random);
    check_product(a, b, bias, c);
  }
}

/** Several blocks of k, several tasks, both ways of splitting, in the forms of forward and gradients. */
void large(Random& random) {
  const int64_t sizes[][3] = {{300, 200, 801}, {70, 530, 1601}, {530, 70, 1601}, {9, 700, 1000}, {700, 9, 1001},
                              {8, 700, 1601},  {3, 900, 770},   {1, 900, 771},   {400, 400, 17}, {28, 64, 1536}};
  for (const auto& s : sizes)
    for (int way = 0; way < 4; way++) {
      if (!is_chosen((int)(&s - sizes), way)) continue;
      named("large %lldx%lldx%lld way %d", (long long)s[0], (long long)s[1], (long long)s[2], way);
      Tensor a(OG_BF16, {s[0], s[2]}, way & 1 ? kTransposed : kDense);
      Tensor b(OG_BF16, {s[2], s[1]}, way & 2 ? kTransposed : kDense), c(OG_BF16, {s[0], s[1]}), bias(OG_BF16, {s[1]});
      a.normal(random);
      b.normal(random);
      bias.normal(random);
      check_product(a, b, bias, c);
    }
}

/** Rows of a batch, a matrix each for the batch, and a b of each matrix. */
void batches(Random& random) {
  for (int trial = 0; trial < draws(20); trial++) {
    const int64_t g = 1 + random.below(3), m = 1 + random.below(70), n = 1 + random.below(90), k = 1 + random.below(90);
    named("batch %lld of %lldx%lldx%lld", (long long)g, (long long)m, (long long)n, (long long)k);
    Tensor a(OG_BF16, {g, m, k}, (Layout)random.below(kLayoutCount)), b(OG_BF16, {g, k, n}, (Layout)random.below(5));
    Tensor c(OG_BF16, {g, m, n}, (Layout)random.below(kLayoutCount)), none;
    a.normal(random);
    b.normal(random);
    Product p;
    const std::vector<double> av = a.values(), bv = b.values();
    for (int64_t i = 0; i < g; i++) {
      Tensor one(OG_BF16, {m, k}), other(OG_BF16, {k, n});
      one.assign(std::vector<double>(av.begin() + i * m * k, av.begin() + (i + 1) * m * k));
      other.assign(std::vector<double>(bv.begin() + i * k * n, bv.begin() + (i + 1) * k * n));
      const Product q = oracle(one, other, none);
      p.want.insert(p.want.end(), q.want.begin(), q.want.end());
      p.size.insert(p.size.end(), q.size.begin(), q.size.end());
    }
    for_each_path([&](og::Isa isa) {
      CHECK(multiply(isa, a, b, none, none, c) == OG_OK, "%s", og::last_message());
      check_result(c, p, k);
    });
  }
}

/** Activation, residual and pre-activation on finished sums have the bits of separate calls. */
void ends(Random& random) {
  const int64_t sizes[][3] = {{40, 70, 801}, {8, 300, 90}, {130, 33, 65}};
  for (const auto& s : sizes) {
    named("end %lldx%lldx%lld", (long long)s[0], (long long)s[1], (long long)s[2]);
    Tensor a(OG_BF16, {s[0], s[2]}), b(OG_BF16, {s[2], s[1]}, kTransposed), bias(OG_BF16, {s[1]}), none;
    Tensor residual(OG_F32, {s[0], s[1]}, kTransposed), c(OG_F32, {s[0], s[1]}), sums(OG_F32, {s[0], s[1]});
    Tensor pre(OG_F32, {s[0], s[1]}), active(OG_F32, {s[0], s[1]}), want(OG_F32, {s[0], s[1]});
    a.normal(random);
    b.normal(random);
    bias.normal(random);
    residual.normal(random);
    for_each_path([&](og::Isa isa) {
      CHECK(multiply(isa, a, b, bias, none, sums) == OG_OK, "%s", og::last_message());
      CHECK(run(isa, "silu", {&sums}, {&active}) == OG_OK, "%s", og::last_message());
      CHECK(run(isa, "add", {&active, &residual}, {&want}) == OG_OK, "%s", og::last_message());
      CHECK(run(isa, "matmul", {&a, &b, &bias, &residual, &none}, {&c, &pre}, {3}) == OG_OK, "%s", og::last_message());
      CHECK(c.bytes() == want.bytes() && pre.bytes() == sums.bytes(), "other bits than separate calls");
    });
  }
}

/** The largest error relative to Σ|a·b|, at most twice that of a float32 loop (`reference`). */
void errors(Random& random) {
  for (int64_t depth : {100, 767, 3072}) {
    named("errors, depth %lld", (long long)depth);
    Tensor a(OG_BF16, {60, depth}), b(OG_BF16, {depth, 80}, kTransposed), c(OG_F32, {60, 80}), none;
    a.normal(random);
    b.normal(random);
    const Product p = oracle(a, b, none);
    double limit = 0;
    for_each_path([&](og::Isa isa) {
      CHECK(multiply(isa, a, b, none, none, c) == OG_OK, "%s", og::last_message());
      double worst = 0;
      for (size_t i = 0; i < p.want.size(); i++)
        worst = std::fmax(worst, std::fabs(c.get((int64_t)i) - p.want[i]) / p.size[i]);
      if (isa == og::kReference) limit = worst;
      if (limit > 0) CHECK(worst <= 2 * limit, "%.3g, the definition has %.3g", worst, limit);
    });
  }
}

void special_values(Random& random) {
  const double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  const int64_t sizes[][3] = {{4, 40, 64}, {50, 60, 71}, {100, 300, 500}, {1, 33, 9}};
  for (const auto& s : sizes)
    for (int layout = 0; layout < 2; layout++) {
      named("special values %lldx%lldx%lld layout %d", (long long)s[0], (long long)s[1], (long long)s[2], layout);
      Tensor a(OG_BF16, {s[0], s[2]}), b(OG_BF16, {s[2], s[1]}, layout ? kTransposed : kDense), none;
      Tensor c(OG_F32, {s[0], s[1]});
      a.normal(random);
      b.normal(random);
      a.set(s[2] / 2, nan);                         // row 0
      if (s[0] > 1) a.set(s[2] + 1, inf);           // row 1
      b.set(1 * s[1] + s[1] - 1, 0);                // inf · 0 in the last column
      b.set((s[2] - 1) * s[1] + 2, -inf);           // column 2
      if (s[0] > 2) a.set(2 * s[2] + s[2] - 1, 0);  // 0 · −inf in row 2
      check_product(a, b, none, c);
    }
  named("overflow and tiny operands");
  Tensor a(OG_BF16, {20, 2}), b(OG_BF16, {2, 40}), c(OG_F32, {20, 40}), none;
  a.fill([](int64_t i) { return i < 2 ? 0x1p127 : i < 4 ? (i == 2 ? 0x1p127 : -0x1p127) : 0x1p-130; });
  b.fill([](int64_t) { return 4.; });
  for_each_path([&](og::Isa isa) {
    CHECK(multiply(isa, a, b, none, none, c) == OG_OK, "%s", og::last_message());
    CHECK(c.get(0) == inf, "overflow gave %g", c.get(0));
    CHECK(!std::isfinite(c.get(40)), "inf less a product beyond the range gave %g",
          c.get(40));  // NaN where products round
    // below 2^-126 an operand may count as zero
    CHECK(c.get(80) == 0x1p-127 || c.get(80) == 0, "2^-127 gave %g", c.get(80));
  });
}

/** Operands that end with their memory: a read beyond is caught by the address sanitizer. */
void exact_blocks(Random& random) {
  for (int trial = 0; trial < 60; trial++) {
    const int64_t m = 1 + random.below(60), n = 1 + random.below(100), k = 1 + random.below(150);
    named("exact %lldx%lldx%lld", (long long)m, (long long)n, (long long)k);
    std::vector<uint16_t> a((size_t)(m * k)), b((size_t)(k * n)), c((size_t)(m * n));
    for (uint16_t& x : a) x = og::to_bf16((float)random.normal()).bits;
    for (uint16_t& x : b) x = og::to_bf16((float)random.normal()).bits;
    const bool ta = random.below(2), tb = random.below(2);
    og_view in[5] = {}, out[2] = {};
    const double attrs[1] = {0};
    in[0] = {a.data(), OG_BF16, 2, {m, k}, {ta ? 1 : k, ta ? m : 1}};
    in[1] = {b.data(), OG_BF16, 2, {k, n}, {tb ? 1 : n, tb ? k : 1}};
    in[2].dtype = in[3].dtype = in[4].dtype = out[1].dtype = -1;
    out[0] = {c.data(), OG_BF16, 2, {m, n}, {n, 1}};
    og_call call = {in, out, attrs, 5, 2, 1};
    for_each_path([&](og::Isa isa) {
      CHECK(og::run_kernel_on(isa, og::kernel_id("matmul"), call) == OG_OK, "%s", og::last_message());
      double want = 0, size = 0;
      for (int64_t p = 0; p < k; p++) {
        const double term = (double)og::to_float(og::bf16{a[(size_t)(ta ? p * m + m - 1 : (m - 1) * k + p)]}) *
                            (double)og::to_float(og::bf16{b[(size_t)(tb ? (n - 1) * k + p : p * n + n - 1)]});
        want += term;
        size += std::fabs(term);
      }
      const double got = og::to_float(og::bf16{c.back()});
      CHECK(std::fabs(got - want) <= 1e-6 * size + 0x1p-8 * std::fabs(want), "last element is %g, expected %g", got,
            want);
    });
  }
}

void refusals() {
  named("refusals");
  Tensor a(OG_BF16, {3, 5}), b(OG_BF16, {5, 6}), c(OG_BF16, {3, 6}), none;
  Tensor room(OG_F32, {69 * 3 + 16}), whole(OG_F32, {69 * 5 + 16}), half(OG_F16, {5, 6});
  for_each_path([&](og::Isa isa) {
    CHECK(run(isa, "matmul_pack", {&b}, {&room}) == OG_OK, "%s", og::last_message());
    CHECK(run(isa, "matmul_pack", {&b}, {&whole}) == OG_INVALID, "room for float32");
    CHECK(multiply(isa, a, b, none, whole, c) == OG_INVALID, "packed float32 beside bfloat16");
    CHECK(multiply(isa, a, half, none, room, c) == OG_INVALID, "packed bfloat16 beside float16");
  });
}

}  // namespace

int main() {
  Random random(20261127);
  shapes(random);
  large(random);
  batches(random);
  ends(random);
  errors(random);
  special_values(random);
  exact_blocks(random);
  refusals();
  return finish("matmul bf16");
}
