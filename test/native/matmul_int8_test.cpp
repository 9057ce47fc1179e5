// matmul_int8 and matmul_int8_pack on every instruction set and with every dot product it has: sums against int64,
// epilogues against double, shapes around the tile sizes, layouts, batches, extremes, packed weights, refusals.
#include <cfloat>
#include <limits>

#include "matmul_int8_fixture.h"

using namespace og_test;

namespace {

double activated(double x, int activation) {
  switch (activation) {
    case 1:
      return x < 0 ? 0 : x;
    case 2:
      return 0.5 * x * std::erfc(-x / std::sqrt(2.));
    case 3:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
    case 4:
      return x / (1 + std::exp(-x));
    default:
      return x;
  }
}

/** Runs on every path with 1, 2 and 4 threads: sums exactly, floats within their bound, codes at most a tie apart. */
void check_product(Operands& o, Tensor& c, int64_t batch, int64_t m, int64_t n, int64_t k) {
  const std::vector<int64_t> sums = exact_sums(o, batch, m, n, k);
  const size_t count = sums.size();
  std::vector<double> want(count), size(count);
  for (size_t i = 0; i < count; i++) {
    const int64_t row = (int64_t)i / n, column = (int64_t)i / (m * n) * n + (int64_t)i % n;
    double y = (double)sums[i];
    if (o.a_scale.present()) y *= o.a_scale.get(row);
    if (o.b_scale.present()) y *= o.b_scale.get(column);
    const double bias = o.bias.present() ? o.bias.get(column) : 0;
    const double residual = o.residual.present() ? o.residual.get((int64_t)i) : 0;
    size[i] = std::fabs(y) + std::fabs(bias) + std::fabs(residual);
    want[i] = activated(y + bias, (int)o.activation) + residual;
  }
  const int before = og::threads();
  for_each_path([&](og::Isa isa) {
    std::vector<char> first;
    const int counts[] = {1, 2, 4};
    for (int threads : counts) {
      if (threads > thread_limit(isa, 4)) break;
      og::set_threads(threads);
      c.fill([](int64_t) { return 77.; });
      CHECK(o.run(isa, c) == OG_OK, "%s", og::last_message());
      if (threads == 1)
        first = c.bytes();
      else
        CHECK(c.bytes() == first, "%d threads gave other bits", threads);
    }
    for (size_t i = 0; i < count; i++) {
      const double got = c.get((int64_t)i);
      bool right;
      if (c.dtype() == OG_I32) {
        right = got == (double)sums[i];
      } else if (c.dtype() == OG_I8 || c.dtype() == OG_U8) {
        const double low = c.dtype() == OG_I8 ? -128 : 0, exact = want[i] / (double)(float)o.out_scale + o.out_zero;
        const double code = std::fmin(std::fmax(exact, low), low + 255);
        right = std::fabs(got - code) <= 0.5 + 2e-6 * size[i] / o.out_scale;
      } else {
        right = std::fabs(got - want[i]) <= 3e-6 * size[i] + og_test::roundoff(c.dtype()) * std::fabs(want[i]) + 6e-8;
      }
      if (right) continue;
      CHECK(false, "c[%zu] is %.9g, expected %.9g (sum %lld)", i, got, want[i], (long long)sums[i]);
      break;
    }
    passes()++;
  });
  og::set_threads(before);
}

void shapes(Random& random) {
  for (int trial = 0; trial < draws(120); trial++) {
    const int64_t m = trial < kSizeCount ? kSizes[trial] : kSizes[random.below(kSizeCount)];
    const int64_t n = trial < kSizeCount ? kSizes[(trial + 5) % kSizeCount] : kSizes[random.below(kSizeCount)];
    const int64_t k = trial < kSizeCount ? kSizes[(trial + 8) % kSizeCount] : kSizes[random.below(kSizeCount)];
    const int32_t ta = random.below(2) ? OG_I8 : OG_U8, tb = random.below(2) ? OG_I8 : OG_U8;
    const Layout la = (Layout)random.below(kLayoutCount), lb = (Layout)random.below(kLayoutCount);
    const Layout lc = random.below(2) ? kDense : (Layout)random.below(kLayoutCount);
    const int zeros = (int)random.below(4);
    named("%lldx%lldx%lld dtypes %d %d layouts %d %d %d zeros %d", (long long)m, (long long)n, (long long)k, ta, tb, la,
          lb, lc, zeros);
    Operands o;
    o.a = codes(random, ta, {m, k}, la);
    o.b = codes(random, tb, {k, n}, lb);
    if (zeros & 1) o.a_zero = Tensor(OG_I32, {m}, random.below(2) ? kDense : kReversed).integers(random, -128, 256);
    if (zeros & 2) o.b_zero = Tensor(OG_I32, {n}, random.below(2) ? kDense : kGaps).integers(random, -128, 256);
    if ((zeros & 1) && random.below(2)) o.a_zero = Tensor(OG_I32, {1}).integers(random, -128, 256).broadcast(0, m);
    Tensor c(OG_I32, {m, n}, lc);
    check_product(o, c, 1, m, n, k);
  }
}

/** Sums at the ends of what bytes can give, and a K next to the limit. */
void extremes() {
  struct Kind {
    int32_t a, b;
    double x, y;
  };
  const Kind kinds[] = {{OG_I8, OG_I8, -128, -128}, {OG_I8, OG_I8, -128, 127}, {OG_U8, OG_I8, 255, 127},
                        {OG_U8, OG_I8, 255, -128},  {OG_U8, OG_U8, 255, 255},  {OG_I8, OG_U8, -128, 255}};
  for (const Kind& kind : kinds)
    for (int64_t m : {3, 20})
      for (int zero = 0; zero < 2; zero++) {
        const int64_t n = 37, k = 777;
        named("extremes %g x %g, %lld rows, zero %d", kind.x, kind.y, (long long)m, zero);
        Operands o;
        o.a = Tensor(kind.a, {m, k}).fill([&](int64_t) { return kind.x; });
        o.b = Tensor(kind.b, {k, n}, kTransposed).fill([&](int64_t) { return kind.y; });
        if (zero) {
          o.a_zero = Tensor(OG_I32, {1}).fill([&](int64_t) { return kind.x > 0 ? -128. : 255.; }).broadcast(0, m);
          o.b_zero = Tensor(OG_I32, {1}).fill([&](int64_t) { return kind.y > 0 ? -128. : 255.; }).broadcast(0, n);
        }
        Tensor c(OG_I32, {m, n});
        check_product(o, c, 1, m, n, k);
      }
  struct Limit {
    int32_t a, b;
    double x, y;
    int64_t k;
  };
  const Limit limits[] = {
      {OG_I8, OG_I8, -128, -128, 131071}, {OG_U8, OG_U8, 255, 255, 33025}, {OG_U8, OG_I8, 255, -128, 65793}};
  for (const Limit& limit : limits)
    for (int64_t m : {2, 9}) {
      named("K at the limit %lld, %lld rows", (long long)limit.k, (long long)m);
      Operands o;
      o.a = Tensor(limit.a, {m, limit.k}).fill([&](int64_t) { return limit.x; });
      o.b = Tensor(limit.b, {limit.k, 5}, kTransposed).fill([&](int64_t) { return limit.y; });
      Tensor c(OG_I32, {m, 5});
      check_product(o, c, 1, m, 5, limit.k);
      named("K beyond the limit %lld", (long long)limit.k);
      o.a = Tensor(limit.a, {m, limit.k + 1});
      o.b = Tensor(limit.b, {limit.k + 1, 5});
      for_each_path([&](og::Isa isa) { CHECK_FAILS(o.run(isa, c), OG_UNSUPPORTED); });
    }
}

void epilogues(Random& random) {
  const int32_t outputs[] = {OG_F32, OG_F16, OG_BF16, OG_I8, OG_U8};
  const int32_t floats[] = {OG_F32, OG_F16, OG_BF16};
  const int64_t sizes[][3] = {{1, 70, 33}, {3, 41, 129}, {8, 33, 200}, {30, 50, 64}, {65, 17, 31}, {40, 300, 100}};
  for (int activation = 0; activation < 5; activation++)
    for (int32_t output : outputs)
      for (const auto& s : sizes) {
        const int64_t m = s[0], n = s[1], k = s[2];
        const int32_t ta = random.below(2) ? OG_I8 : OG_U8, tb = random.below(2) ? OG_I8 : OG_U8;
        const int present = (int)random.below(64);
        named("activation %d output %s %lldx%lldx%lld operands %d", activation, dtype_name(output), (long long)m,
              (long long)n, (long long)k, present);
        Operands o;
        o.activation = activation;
        o.a = codes(random, ta, {m, k}, (Layout)random.below(kLayoutCount));
        o.b = codes(random, tb, {k, n}, (Layout)random.below(kLayoutCount));
        const double unit = 1 / (80. * 80 * std::sqrt((double)k));
        o.a_scale = Tensor(OG_F32, {m}, present & 1 ? kReversed : kDense).uniform(random, 0.5, 1.5);
        o.b_scale = Tensor(OG_F32, {n}, present & 2 ? kGaps : kDense).uniform(random, 0.5 * unit, 1.5 * unit);
        if (present & 4) o.bias = Tensor(floats[random.below(3)], {n}, present & 1 ? kReversed : kDense).normal(random);
        if (present & 8)
          o.residual = Tensor(floats[random.below(3)], {m, n}, (Layout)random.below(kLayoutCount)).normal(random);
        if (present & 16) o.a_zero = Tensor(OG_I32, {m}).integers(random, -128, 128);
        if (present & 32) o.b_zero = Tensor(OG_I32, {n}).integers(random, 0, 256);
        o.out_scale = 0.02;
        o.out_zero = output == OG_U8 ? 128 : -3;
        Tensor c(output, {m, n}, random.below(2) ? kDense : (Layout)random.below(kLayoutCount));
        check_product(o, c, 1, m, n, k);
      }
}

/** Ties go to even, values outside saturate, NaN becomes the zero point. */
void requantisation() {
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  const double bias[] = {0.5, 1.5, 2.5, -0.5, -1.5, 1e9, -1e9, nan, inf, -inf, 126.5, 127.5, 3};
  const double want[] = {0, 2, 2, 0, -2, 127, -128, 0, 127, -128, 126, 127, 3};
  named("requantisation");
  for (int64_t m : {1, 12}) {
    Operands o;
    o.a = Tensor(OG_I8, {m, 3});
    o.b = Tensor(OG_I8, {3, 13});
    o.bias = Tensor(OG_F32, {13}).fill([&](int64_t i) { return bias[i]; });
    Tensor c(OG_I8, {m, 13});
    for_each_path([&](og::Isa isa) {
      CHECK_OK(o.run(isa, c));
      for (int64_t i = 0; i < m * 13; i++) CHECK(c.get(i) == want[i % 13], "code %g of %g", c.get(i), bias[i % 13]);
    });
  }
}

/** Codes are those of float quotients: around ties, at the ends of the codes and of floats. */
void quotients(Random& random) {
  const int64_t m = 29, n = 96;
  for (float scale : {0.1f, 1.f, 3.f, 0.37f, 0x1.fffffep-3f, 1e-38f, 0x1p-126f, 1e-31f, 1e-30f, 1e30f, 2e30f, 3e38f})
    for (int32_t output : {OG_I8, OG_U8})
      for (double zero : {0., 5., 127.}) {
        named("quotients by %g, zero %g, %s", (double)scale, zero, dtype_name(output));
        std::vector<float> y((size_t)n);
        for (size_t j = 0; j < y.size(); j++) {
          const float tie = (float)random.below(600) - 300.f + (j % 3 ? 0.5f : 0.f);
          float x = tie * scale;
          for (int32_t step = random.below(4); step > 0; step--) x = std::nextafter(x, j % 2 ? INFINITY : -INFINITY);
          y[j] = x;
        }
        const float ends[] = {NAN, INFINITY, -INFINITY, FLT_MAX, -FLT_MAX, FLT_MIN, -0.f, 0x1p-149f, 1e6f, -1e10f};
        for (size_t j = 0; j < 10; j++) y[j * 9] = ends[j] == 1e6f || ends[j] == -1e10f ? ends[j] * scale : ends[j];
        Operands o;
        o.a = Tensor(OG_I8, {m, 4});
        o.b = Tensor(OG_I8, {4, n}, kTransposed);
        o.bias = Tensor(OG_F32, {n}).fill([&](int64_t j) { return (double)y[(size_t)j]; });
        o.out_scale = (double)scale;
        o.out_zero = zero;
        const float low = (output == OG_I8 ? -128.f : 0.f) - (float)zero, high = low + 255.f;
        Tensor c(output, {m, n});
        for_each_path([&](og::Isa isa) {
          if (isa == og::kReference) return;  // its quotients are doubles
          CHECK_OK(o.run(isa, c));
          for (int64_t i = 0; i < m * n; i++) {
            const float ratio = y[(size_t)(i % n)] / scale;
            const float code = std::nearbyint(std::fmin(std::fmax(ratio != ratio ? 0.f : ratio, low), high));
            const double want = (double)code + zero;
            CHECK(c.get(i) == want, "code %g of %.9g, expected %g", c.get(i), (double)y[(size_t)(i % n)], want);
            if (c.get(i) != want) break;
          }
        });
      }
}

void batches(Random& random) {
  for (int trial = 0; trial < draws(40); trial++) {
    const int64_t g = 1 + random.below(3), h = 1 + random.below(3);
    const int64_t m = 1 + random.below(30), n = 1 + random.below(60), k = 1 + random.below(50);
    const int shared = (int)random.below(3);  // of b: nothing, the inner batch axis, both
    named("batch %lldx%lld of %lldx%lldx%lld shared %d", (long long)g, (long long)h, (long long)m, (long long)n,
          (long long)k, shared);
    Operands o;
    o.a = codes(random, OG_I8, {g, h, m, k}, (Layout)random.below(kLayoutCount));
    o.b = codes(random, random.below(2) ? OG_I8 : OG_U8, {shared == 2 ? 1 : g, shared >= 1 ? 1 : h, k, n},
                (Layout)random.below(kLayoutCount));
    if (shared >= 1) o.b.broadcast(1, h);
    if (shared == 2) o.b.broadcast(0, g);
    const bool is_float = random.below(2);
    if (is_float) {
      o.a_scale = Tensor(OG_F32, {g, h, m}).uniform(random, 0.5, 1);
      o.b_scale = Tensor(OG_F32, {1, 1, n}).uniform(random, 0.001, 0.002).broadcast(0, g).broadcast(1, h);
      if (random.below(2)) o.bias = Tensor(OG_F32, {g, h, n}).normal(random);
      if (random.below(2)) o.residual = Tensor(OG_F32, {g, h, m, n}).normal(random);
    }
    if (random.below(2)) o.a_zero = Tensor(OG_I32, {g, h, m}).integers(random, -128, 128);
    Tensor c(is_float ? OG_F32 : OG_I32, {g, h, m, n}, (Layout)random.below(kLayoutCount));
    check_product(o, c, g * h, m, n, k);
  }
}

/** Large enough for several tasks and blocks of rows, both ways of splitting. */
void large(Random& random) {
  const int64_t sizes[][3] = {{300, 200, 900}, {70, 530, 1601}, {530, 70, 401}, {8, 1400, 1000}, {1, 900, 3072}};
  for (const auto& s : sizes)
    for (int way = 0; way < 4; way++) {
      if (!is_chosen((int)(&s - sizes), way)) continue;
      const int64_t m = s[0], n = s[1], k = s[2];
      named("large %lldx%lldx%lld way %d", (long long)m, (long long)n, (long long)k, way);
      Operands o;
      o.a = codes(random, OG_I8, {m, k}, way & 1 ? kTransposed : kDense);
      o.b = codes(random, OG_I8, {k, n}, way & 2 ? kTransposed : kDense);
      Tensor c(OG_I32, {m, n});
      check_product(o, c, 1, m, n, k);
    }
}

void empty(Random& random) {
  for (int trial = 0; trial < 30; trial++) {
    int64_t d[4];
    for (int64_t& x : d) x = random.below(3) ? 1 + random.below(40) : 0;
    named("empty %lld of %lldx%lldx%lld", (long long)d[0], (long long)d[1], (long long)d[2], (long long)d[3]);
    Operands o;
    o.a = codes(random, OG_I8, {d[0], d[1], d[3]}, kDense);
    o.b = codes(random, OG_U8, {d[0], d[3], d[2]}, random.below(2) ? kTransposed : kDense);
    o.bias = Tensor(OG_F32, {d[0], d[2]}).normal(random);
    Tensor c(OG_F32, {d[0], d[1], d[2]});
    o.b_scale = Tensor(OG_F32, {d[0], d[2]}).uniform(random, 1e-4, 1e-3);
    check_product(o, c, d[0], d[1], d[2], d[3]);
    Block packed(packed_bytes(d[3], d[2]));
    Tensor b = codes(random, OG_I8, {d[3], d[2]}, kDense);
    for_each_path([&](og::Isa isa) { CHECK_OK(pack(isa, b.view(), packed, 0)); });
  }
}

/** Operands that end with their memory: a read beyond is caught by the address sanitizer. */
void exact_blocks(Random& random) {
  for (int trial = 0; trial < 60; trial++) {
    const int64_t m = 1 + random.below(trial < 20 ? 8 : 50), n = 1 + random.below(100), k = 1 + random.below(150);
    named("exact %lldx%lldx%lld", (long long)m, (long long)n, (long long)k);
    std::vector<int8_t> a((size_t)(m * k)), b((size_t)(k * n));
    std::vector<int32_t> c((size_t)(m * n));
    for (int8_t& x : a) x = (int8_t)random.below(256);
    for (int8_t& x : b) x = (int8_t)random.below(256);
    const bool ta = random.below(2), tb = random.below(2);
    og_view in[10] = {}, out = {};
    in[0] = {a.data(), OG_I8, 2, {m, k}, {ta ? 1 : k, ta ? m : 1}};
    in[1] = {b.data(), OG_I8, 2, {k, n}, {tb ? 1 : n, tb ? k : 1}};
    for (int i = 2; i < 10; i++) in[i].dtype = -1;
    out = {c.data(), OG_I32, 2, {m, n}, {n, 1}};
    const double attrs[] = {0, 0, 1, 0};
    const og_call call = {in, &out, attrs, 10, 1, 4};
    for_each_path([&](og::Isa isa) {
      CHECK_OK(og::run_kernel_on(isa, og::kernel_id("matmul_int8"), call));
      int64_t want = 0;
      for (int64_t p = 0; p < k; p++)
        want += (int64_t)a[(size_t)(ta ? p * m + m - 1 : (m - 1) * k + p)] *
                (int64_t)b[(size_t)(tb ? (n - 1) * k + p : p * n + n - 1)];
      CHECK(c.back() == want, "last sum is %d, expected %lld", c.back(), (long long)want);
    });
  }
}

void refusals() {
  named("refusals");
  Tensor c(OG_I32, {3, 6}), f(OG_F32, {3, 6}), q(OG_I8, {3, 6});
  for_each_path([&](og::Isa isa) {
    const auto make = [] {
      Operands o;
      o.a = Tensor(OG_I8, {3, 4});
      o.b = Tensor(OG_I8, {4, 6});
      return o;
    };
    Operands o = make();
    o.b = Tensor(OG_I8, {5, 6});
    CHECK_FAILS(o.run(isa, c), OG_INVALID);
    o = make();
    o.b = Tensor(OG_I32, {4, 6});
    CHECK_FAILS(o.run(isa, c), OG_UNSUPPORTED);
    o = make();
    o.bias = Tensor(OG_F32, {5});
    CHECK_FAILS(o.run(isa, f), OG_INVALID);
    o = make();
    o.bias = Tensor(OG_F32, {6});
    CHECK_FAILS(o.run(isa, c), OG_INVALID);  // int32 sums take none
    o = make();
    o.a_zero = Tensor(OG_I32, {3}).fill([](int64_t) { return 256.; });
    CHECK_FAILS(o.run(isa, c), OG_INVALID);
    o = make();
    o.activation = 5;
    CHECK_FAILS(o.run(isa, f), OG_INVALID);
    o = make();
    o.activation = std::numeric_limits<double>::quiet_NaN();
    CHECK_FAILS(o.run(isa, f), OG_INVALID);
    o = make();
    o.out_scale = 0;
    CHECK_FAILS(o.run(isa, q), OG_INVALID);
    o = make();
    o.out_zero = 200;
    CHECK_FAILS(o.run(isa, q), OG_INVALID);
  });
}

/** Rows of floats, in some calls times factors, give what their codes give. */
void check_floats(og::Isa isa, Random& random) {
  for (int64_t m : {1, 2, 3, 20})
    for (int64_t k : {1, 40, 130})
      for (int32_t dtype : {OG_F32, OG_F16, OG_BF16}) {
        context() = std::string(og::isa_name(isa)) + " floats " + std::to_string(m) + "x" + std::to_string(k);
        const int64_t n = 37;
        Operands codes, floats;
        Tensor x(dtype, {m, k}, m == 3 ? kTransposed : kDense);
        x.normal(random);
        if (m == 20) x.fill([&](int64_t i) { return i / k == 2 ? 0. : (double)(i % 11) - 5.; });
        floats.a = x;
        const bool has_factor = (m + k) % 2 == 0;
        if (has_factor)
          floats.factor = Tensor(m == 2 ? OG_F16 : OG_F32, {k}, m == 3 ? kReversed : kDense).normal(random);
        const auto number = [&](int64_t at) {
          return (float)x.get(at) * (has_factor ? (float)floats.factor.get(at % k) : 1.f);
        };
        codes.a = Tensor(OG_I8, {m, k});
        codes.a_scale = Tensor(OG_F32, {m});
        for (int64_t i = 0; i < m; i++) {
          float largest = 0;
          for (int64_t j = 0; j < k; j++) largest = std::fmax(largest, std::fabs(number(i * k + j)));
          const float scale = largest == 0 ? 1 : largest / 127.f;
          codes.a_scale.set(i, scale);
          for (int64_t j = 0; j < k; j++) codes.a.set(i * k + j, std::nearbyint(number(i * k + j) / scale));
        }
        for (Operands* o : {&codes, &floats}) {
          o->b = Tensor(OG_I8, {k, n}, kTransposed);
          o->b_scale = Tensor(OG_F32, {n});
          o->bias = Tensor(OG_F32, {n});
          o->residual = Tensor(OG_F32, {m, n});
          o->activation = 3;
        }
        codes.b.integers(random, -127, 128), codes.b_scale.uniform(random, 0.01, 0.1), codes.bias.normal(random);
        codes.residual.normal(random);
        floats.b = codes.b, floats.b_scale = codes.b_scale, floats.bias = codes.bias, floats.residual = codes.residual;
        Tensor c(OG_F32, {m, n}), d(OG_F32, {m, n});
        CHECK_OK(codes.run(isa, c));
        CHECK_OK(floats.run(isa, d));
        CHECK(c.bytes() == d.bytes(), "rows of floats give other bits than their codes");
        Tensor sums(OG_I32, {m, n});
        CHECK_FAILS(floats.run(isa, sums), OG_UNSUPPORTED);
        floats.a_scale = codes.a_scale;
        CHECK_FAILS(floats.run(isa, d), OG_INVALID);
        floats.a_scale = Tensor();
        floats.factor = Tensor(OG_F32, {k + 1});
        CHECK_FAILS(floats.run(isa, d), OG_INVALID);
        codes.factor = Tensor(OG_F32, {k});
        CHECK_FAILS(codes.run(isa, c), OG_INVALID);
      }
  context() = std::string(og::isa_name(isa)) + " floats with NaN";
  Operands o;
  o.a = Tensor(OG_F32, {2, 8}).fill([](int64_t i) { return i == 3 ? NAN : 1.; });
  o.b = Tensor(OG_I8, {8, 5}).fill([](int64_t) { return 2.; });
  Tensor y(OG_F32, {2, 5});
  CHECK_OK(o.run(isa, y));
  for (int64_t i = 0; i < 10; i++)
    CHECK(i < 5 ? std::isnan(y.get(i)) : std::fabs(y.get(i) - 16) < 1e-5, "NaN stays in its row");
}

}  // namespace

int main() {
  Random random(20261126);
  shapes(random);
  extremes();
  epilogues(random);
  requantisation();
  quotients(random);
  batches(random);
  large(random);
  empty(random);
  exact_blocks(random);
  refusals();
  for_each_path([&](og::Isa isa) { check_floats(isa, random); });
  return finish("matmul_int8");
}
