/** rope against its definition: both pairings, both directions, layouts, dtypes, in place, broadcast angles. */
#include "check.h"

using namespace og_test;
using og::Isa;

namespace {

struct Case {
  int64_t B, H, T, D, R;
  bool interleaved, inverse;
  int32_t dtype;
  Layout layout;
};

std::vector<double> expected(const Case& c, const Tensor& x, const std::vector<double>& cosine,
                             const std::vector<double>& sine) {
  std::vector<double> y = x.values();
  const int64_t pairs = c.R / 2;
  for (int64_t row = 0; row < c.B * c.H * c.T; row++)
    for (int64_t i = 0; i < pairs; i++) {
      const int64_t at = row * c.D + (c.interleaved ? 2 * i : i), to = at + (c.interleaved ? 1 : pairs);
      const double a = x.get(at), b = x.get(to), co = cosine[(size_t)(row % c.T * pairs + i)];
      const double si = sine[(size_t)(row % c.T * pairs + i)] * (c.inverse ? -1 : 1);
      y[(size_t)at] = a * co - b * si;
      y[(size_t)to] = b * co + a * si;
    }
  return y;
}

void check_case(const Case& c, Isa isa) {
  if (c.dtype == OG_F64 && isa != og::kReference) return;
  Random random(3);
  Tensor x(c.dtype, {c.B, c.H, c.T, c.D}, c.layout), y(c.dtype, {c.B, c.H, c.T, c.D}, c.layout);
  Tensor cosine(OG_F32, {1, 1, c.T, c.R / 2}), sine(OG_F32, {1, 1, c.T, c.R / 2});
  x.uniform(random, -2, 2);
  for (int64_t i = 0; i < cosine.count(); i++) {
    const double angle = random.uniform(-40, 40);
    cosine.set(i, std::cos(angle));
    sine.set(i, std::sin(angle));
  }
  const std::vector<double> before = x.values();
  const std::vector<double> want = expected(c, x, cosine.values(), sine.values());
  for (Tensor* t : {&cosine, &sine}) t->broadcast(0, c.B).broadcast(1, c.H);  // one table for all batches and heads
  const double interleaved = c.interleaved, inverse = c.inverse, unit = roundoff(c.dtype);
  const bool exact = c.dtype == OG_F64;
  check_threads(
      [&] {
        CHECK(run(isa, "rope", {&x, &cosine, &sine}, {&y}, {interleaved, inverse}) == OG_OK);
      },
      [&] { return y.bytes(); });
  check_close(y, want, unit * 1.1, exact ? 1e-15 : 5e-7, "y");
  CHECK(run(isa, "rope", {&x, &cosine, &sine}, {&x}, {interleaved, inverse}) == OG_OK);
  CHECK(x.values() == y.values(), "in place gave another result");
  CHECK(run(isa, "rope", {&x, &cosine, &sine}, {&x}, {interleaved, 1 - inverse}) == OG_OK);
  check_close(x, before, 0, exact ? 1e-6 : 8 * unit, "turned back");
}

}  // namespace

int main() {
  for_each_isa([](Isa isa) {
    const int32_t floats[] = {OG_F32, OG_F16, OG_BF16, OG_F64};
    Random random(11);
    for (int n = 0; n < 120; n++) {
      Case c;
      c.B = 1 + random.below(2);
      c.H = 1 + random.below(3);
      c.T = n == 0 ? 0 : 1 + random.below(39);
      c.R = 2 * random.below(n % 9 == 0 ? 300 : 40);
      c.D = c.R + (n % 3 ? 0 : random.below(9)) + (c.R == 0);
      c.interleaved = random.below(2);
      c.inverse = random.below(2);
      c.dtype = floats[random.below(4)];
      c.layout = (Layout)random.below(kLayoutCount);
      check_case(c, isa);
    }
    Tensor x(OG_F32, {1, 1, 2, 4}), wide(OG_F32, {1, 1, 2, 3});
    CHECK(run(isa, "rope", {&x, &wide, &wide}, {&x}, {0, 0}) == OG_INVALID);
  });
  return finish("rope");
}
