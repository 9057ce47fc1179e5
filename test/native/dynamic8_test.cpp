// Block-wise 8-bit states: codes against a search of the published map, and the optimiser's step against its
// definition.
#include <algorithm>

#include "check.h"

using namespace og_test;

namespace {

/** The 256 numbers as the authors' create_dynamic_map lists them, ascending. */
std::vector<double> published_map(bool is_signed) {
  std::vector<double> map = {0, 1};
  for (int i = 0; i < 7; i++) {
    const int count = 1 << (is_signed ? i : i + 1);
    for (int j = 0; j < count; j++) {
      const double middle = (0.1 + 0.9 * j / count + 0.1 + 0.9 * (j + 1) / count) / 2 * std::pow(10, i - 6);
      map.push_back(middle);
      if (is_signed) map.push_back(-middle);
    }
  }
  std::sort(map.begin(), map.end());
  return map;
}

int64_t blocks_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

void check_codes(og::Isa isa, Random& random, bool is_signed, int64_t n, int64_t size, int32_t dtype) {
  const std::vector<double> map = published_map(is_signed);
  Tensor x(dtype, {n}), codes(OG_U8, {n}), largest(OG_F32, {blocks_of(n, size)}), back(dtype, {n});
  x.fill([&](int64_t i) {
    if (i % 97 == 3) return 0.;
    const double value = std::ldexp(random.normal(), -(int)random.below(24));
    return is_signed ? value : std::fabs(value);
  });
  CHECK_OK(run(isa, "dynamic8_encode", {&x}, {&codes, &largest}, {(double)is_signed, (double)size}));
  CHECK_OK(run(isa, "dynamic8_decode", {&codes, &largest}, {&back}, {(double)is_signed, (double)size}));
  for (int64_t i = 0; i < n; i++) {
    double top = 0;
    for (int64_t j = i / size * size; j < std::min(n, (i / size + 1) * size); j++)
      top = std::fmax(top, std::fabs(x.get(j)));
    CHECK(largest.get(i / size) == top, "magnitude of block %lld", (long long)(i / size));
    const double v = top == 0 ? 0 : x.get(i) / top, got = map[(size_t)codes.get(i)];
    double best = 2;
    for (double number : map) best = std::fmin(best, std::fabs(number - v));
    CHECK(std::fabs(got - v) <= best + 1e-7 * std::fabs(v) + 1e-13, "%g became %g, %g away instead of %g", v, got,
          std::fabs(got - v), best);
    CHECK(close(back.get(i), got * top, roundoff(dtype) + 2e-7, 1e-30), "code %g came back as %g", got * top,
          back.get(i));
  }
}

void check_step(og::Isa isa, Random& random, int64_t n, int32_t dtype, bool decoupled) {
  const int64_t size = 256, blocks = blocks_of(n, size);
  Tensor param(dtype, {n}), grad(dtype, {n}), c1(OG_U8, {n}), c2(OG_U8, {n}), t1(OG_F32, {blocks}),
      t2(OG_F32, {blocks});
  Tensor m(OG_F32, {n}), v(OG_F32, {n});
  param.normal(random);
  const std::vector<double> map1 = published_map(true), map2 = published_map(false);
  const double lr = 0.01, beta1 = 0.9, beta2 = 0.99, eps = 1e-8, decay = 0.1, scale = 0.5;
  for (int step = 1; step <= 3; step++) {
    grad.normal(random);
    const std::vector<double> p = param.values(), g = grad.values(), a = c1.values(), b = c2.values();
    const std::vector<double> top1 = t1.values(), top2 = t2.values();
    const double bias1 = 1 - std::pow(beta1, step), bias2 = 1 - std::pow(beta2, step);
    CHECK_OK(run(isa, "adamw8bit_step", {&grad}, {&param, &c1, &t1, &c2, &t2},
                 {lr, beta1, beta2, eps, decay, bias1, bias2, scale, (double)decoupled, (double)size}));
    std::vector<double> want, first, second;
    for (size_t i = 0; i < (size_t)n; i++) {
      double gradient = g[i] * scale, old = p[i];
      if (decoupled)
        old *= 1 - lr * decay;
      else
        gradient += decay * old;
      const double mean = beta1 * map1[(size_t)a[i]] * top1[i / (size_t)size] + (1 - beta1) * gradient;
      const double square = beta2 * map2[(size_t)b[i]] * top2[i / (size_t)size] + (1 - beta2) * gradient * gradient;
      first.push_back(mean), second.push_back(square);
      want.push_back(old - lr / bias1 * mean / (std::sqrt(square / bias2) + eps));
    }
    check_close(param, want, 1e-5 + roundoff(dtype), 1e-6, "parameter");
    for (int64_t block = 0; block < blocks; block++) {
      double high1 = 0, high2 = 0;
      for (int64_t i = block * size; i < std::min(n, (block + 1) * size); i++) {
        high1 = std::fmax(high1, std::fabs(first[(size_t)i]));
        high2 = std::fmax(high2, second[(size_t)i]);
      }
      CHECK(close(t1.get(block), high1, 1e-5, 0) && close(t2.get(block), high2, 1e-5, 0), "magnitudes of moments");
    }
    CHECK_OK(run(isa, "dynamic8_decode", {&c1, &t1}, {&m}, {1, (double)size}));
    CHECK_OK(run(isa, "dynamic8_decode", {&c2, &t2}, {&v}, {0, (double)size}));
    for (int64_t i = 0; i < n; i++) {
      const double high1 = t1.get(i / size), high2 = t2.get(i / size);
      // half of the widest cell of the map; −1 is further from its nearest number
      CHECK(std::fabs(m.get(i) - first[(size_t)i]) <= 0.0072 * high1, "first moment %lld", (long long)i);
      CHECK(std::fabs(v.get(i) - second[(size_t)i]) <= 0.0037 * high2, "second moment %lld", (long long)i);
    }
  }
}

}  // namespace

int main() {
  Random random(17);
  std::vector<char> first;
  for_each_isa([&](og::Isa isa) {
    for (int64_t n : {0, 1, 2, 3, 7, 15, 17, 31, 33, 63, 65, 127, 129, 1000, 5000}) {
      for (int64_t size : {64, 2048}) {
        check_codes(isa, random, true, n, size, OG_F32);
        check_codes(isa, random, false, n, size, OG_F32);
        check_codes(isa, random, true, n, size, OG_BF16);
      }
      check_step(isa, random, n, OG_F32, true);
      check_step(isa, random, n, OG_F32, false);
    }
    check_step(isa, random, 700, OG_BF16, true);
    Tensor all(OG_U8, {256}), ones(OG_F32, {1}), numbers(OG_F32, {256}), again(OG_U8, {256}), none;
    for (int is_signed = 0; is_signed < 2; is_signed++) {
      all.fill([](int64_t i) { return (double)i; });
      ones.set(0, 1);
      CHECK_OK(run(isa, "dynamic8_decode", {&all, &ones}, {&numbers}, {(double)is_signed, 256}));
      check_close(numbers, published_map(is_signed == 1), 2e-7, 0, "the map");
      CHECK_OK(run(isa, "dynamic8_encode", {&numbers}, {&again, &ones}, {(double)is_signed, 256}));
      CHECK(again.bytes() == all.bytes(), "numbers of the map are their own nearest");
    }
    Random same(5);
    Tensor x(OG_F32, {100000}), codes(OG_U8, {100000}), top(OG_F32, {49});
    x.normal(same);
    check_threads(
        [&] {
          CHECK_OK(run(isa, "dynamic8_encode", {&x}, {&codes, &top}, {1, 2048}));
        },
        [&] { return codes.bytes(); });
    if (first.empty()) first = codes.bytes();
    CHECK(first == codes.bytes(), "codes differ between instruction sets");

    Tensor spoilt(OG_F32, {8}), few(OG_U8, {8}), one(OG_F32, {1}), out(OG_F32, {8}), two(OG_F32, {2}),
        wide(OG_F64, {8});
    spoilt.set(3, NAN);
    CHECK_OK(run(isa, "dynamic8_encode", {&spoilt}, {&few, &one}, {1, 8}));
    CHECK_OK(run(isa, "dynamic8_decode", {&few, &one}, {&out}, {1, 8}));
    for (int64_t i = 0; i < 8; i++) CHECK(std::isnan(out.get(i)), "NaN spoils its block");
    CHECK_FAILS(run(isa, "dynamic8_encode", {&spoilt}, {&few, &two}, {1, 8}), OG_INVALID);
    CHECK_FAILS(run(isa, "dynamic8_encode", {&spoilt}, {&few, &one}, {1, 0}), OG_INVALID);
    CHECK_FAILS(run(isa, "dynamic8_encode", {&spoilt}, {&few, &one}, {1, 8192}), OG_INVALID);
    CHECK_FAILS(run(isa, "dynamic8_encode", {&wide}, {&few, &one}, {1, 8}), OG_UNSUPPORTED);
    CHECK_FAILS(run(isa, "dynamic8_decode", {&few, &two}, {&out}, {1, 8}), OG_INVALID);
    CHECK_FAILS(
        run(isa, "adamw8bit_step", {&spoilt}, {&out, &few, &one, &few, &two}, {1e-3, 0.9, 0.9, 1e-8, 0, 1, 1, 1, 1, 8}),
        OG_INVALID);
  });
  return finish("dynamic8");
}
