// Weights packed by matmul_int8_pack, on every instruction set and with every dot product it has: sums against int64,
// and refusals.
#include "matmul_int8_fixture.h"

using namespace og_test;

namespace {

void packed_weights(Random& random) {
  for (int trial = 0; trial < draws(40); trial++) {
    const int64_t m = kSizes[random.below(kSizeCount)], n = kSizes[random.below(kSizeCount)] + (trial % 4 ? 0 : 300);
    const int64_t k = kSizes[random.below(kSizeCount)];
    const int32_t ta = random.below(2) ? OG_I8 : OG_U8, tb = random.below(2) ? OG_I8 : OG_U8;
    const int seven = trial % 3 == 0;
    named("packed %lldx%lldx%lld dtypes %d %d seven bits %d", (long long)m, (long long)n, (long long)k, ta, tb, seven);
    Operands o;
    o.a = codes(random, ta, {m, k}, (Layout)random.below(kLayoutCount));
    o.b = codes(random, tb, {k, n}, (Layout)random.below(kLayoutCount));
    if (seven) o.b.integers(random, tb == OG_I8 ? -64 : 64, tb == OG_I8 ? 65 : 193);
    const std::vector<int64_t> want = exact_sums(o, 1, m, n, k);
    for_each_path([&](og::Isa isa) {
      Block packed(packed_bytes(k, n));
      Tensor c(OG_I32, {m, n});
      CHECK_OK(pack(isa, o.b.view(), packed, seven));
      CHECK_OK(multiply(isa, o.a.view(), o.b.view(), packed, c.view(), seven));
      CHECK(std::memcmp(packed.bytes.data() + packed.bytes.size() - 1, "\xa5", 1) == 0 ||
                reinterpret_cast<uintptr_t>(packed.bytes.data()) % 64 == 0,
            "wrote beyond the block");
      for (size_t i = 0; i < want.size(); i++)
        if (c.get((int64_t)i) != (double)want[i]) {
          CHECK(false, "c[%zu] is %g, expected %lld", i, c.get((int64_t)i), (long long)want[i]);
          break;
        }
      // unpacked, with the promise
      o.seven_bit = seven;
      CHECK_OK(o.run(isa, c));
      for (size_t i = 0; i < want.size(); i++)
        if (c.get((int64_t)i) != (double)want[i]) {
          CHECK(false, "unpacked c[%zu] is %g, expected %lld", i, c.get((int64_t)i), (long long)want[i]);
          break;
        }
      o.seven_bit = 0;
    });
  }
}

/** Weights packed on every path, by one thread and two, against these rows: exact. */
void check_packed_sums(const Tensor& a, const Tensor& b, Random& random) {
  const int64_t m = a.shape()[0], k = b.shape()[0], n = b.shape()[1];
  const int before = og::threads();
  Operands o;
  o.a = a;
  o.b = b;
  if (random.below(2)) o.a_zero = Tensor(OG_I32, {m}).integers(random, -128, 256);
  if (random.below(2)) o.b_zero = Tensor(OG_I32, {n}).integers(random, -128, 256);
  const std::vector<int64_t> want = exact_sums(o, 1, m, n, k);
  for_each_path([&](og::Isa isa) {
    for (int threads : {1, 2}) {
      og::set_threads(threads);
      Block packed(packed_bytes(k, n));
      CHECK_OK(pack(isa, o.b.view(), packed, 0));
      Tensor c(OG_I32, {m, n});
      og_view in[10] = {o.a.view(), o.b.view(), packed.view, o.a_zero.view(), o.b_zero.view()};
      for (int i = 5; i < 10; i++) in[i].dtype = -1;
      const og_view out = c.view();
      const double attrs[] = {0, 0, 1, 0};
      const og_call call = {in, &out, attrs, 10, 1, 4};
      CHECK_OK(og::run_kernel_on(isa, og::kernel_id("matmul_int8"), call));
      for (size_t i = 0; i < want.size(); i++)
        if (c.get((int64_t)i) != (double)want[i]) {
          CHECK(false, "%lld rows: c[%zu] is %g, expected %lld", (long long)m, i, c.get((int64_t)i),
                (long long)want[i]);
          break;
        }
    }
    og::set_threads(before);
    passes()++;
  });
}

/** Many rows, of which four share three sums on AVX2: blocks of k, and codes at the ends of their range everywhere. */
void many_rows(Random& random) {
  const int64_t rows[] = {16, 17, 20, 23, 49, 131}, columns[] = {16, 37, 90};
  int trial = 0;
  for (int64_t k : {1, 5, 384, 507, 508, 509, 511, 770, 1016, 1025})
    for (int32_t ta : {OG_I8, OG_U8}) {
      const int64_t m = rows[trial % 6], n = columns[random.below(3)];
      const int32_t tb = random.below(2) ? OG_I8 : OG_U8;
      named("many rows %lldx%lldx%lld dtypes %d %d", (long long)m, (long long)n, (long long)k, ta, tb);
      check_packed_sums(codes(random, ta, {m, k}, (Layout)(trial % kLayoutCount)),
                        codes(random, tb, {k, n}, (Layout)random.below(kLayoutCount)), random);
      trial++;
    }
  const double ends[] = {-128, 127};
  for (double x : ends)
    for (double y : ends)
      for (double next : ends)
        for (int64_t k : {508, 512, 1016}) {  // of one block, just too long for one, of two whole ones
          named("all codes %g, every other row %g, weights %g, k %lld", x, next, y, (long long)k);
          Tensor a(OG_I8, {21, k}), b(OG_I8, {k, 18});
          a.fill([&](int64_t i) { return i / k % 2 ? next : x; });
          b.fill([&](int64_t) { return y; });
          check_packed_sums(a, b, random);
        }
}

void packed_refusals(Random& random) {
  const int64_t m = 20, n = 50, k = 70;
  named("packed refusals");
  Tensor a = codes(random, OG_I8, {m, k}, kDense), b = codes(random, OG_I8, {k, n}, kDense), c(OG_I32, {m, n});
  Tensor narrow = codes(random, OG_I8, {k - 4, n}, kDense), unsigned_b(OG_U8, {k, n});
  b.set(7, 65);
  for_each_path([&](og::Isa isa) {
    Block packed(packed_bytes(k, n)), empty(packed_bytes(k, n)), small(packed_bytes(k, n) - 1);
    std::memset(empty.view.data, 0, 64);
    CHECK_FAILS(pack(isa, b.view(), small, 0), OG_INVALID);
    CHECK_FAILS(pack(isa, b.view(), packed, 1), OG_INVALID);                          // 65 breaks the promise
    CHECK_FAILS(multiply(isa, a.view(), b.view(), packed, c.view(), 1), OG_INVALID);  // and left nothing usable
    CHECK_FAILS(multiply(isa, a.view(), b.view(), empty, c.view(), 0), OG_INVALID);
    CHECK_OK(pack(isa, b.view(), packed, 0));
    CHECK_OK(multiply(isa, a.view(), b.view(), packed, c.view(), 0));
    CHECK_FAILS(multiply(isa, a.view(), b.view(), packed, c.view(), 1), OG_INVALID);
    CHECK_FAILS(multiply(isa, a.view(), unsigned_b.view(), packed, c.view(), 0), OG_INVALID);
    for (int other = 0; other < og::kIsaCount; other++)
      if ((og::Isa)other != isa && og::isa_available((og::Isa)other))
        CHECK_FAILS(multiply((og::Isa)other, a.view(), b.view(), packed, c.view(), 0), OG_INVALID);
    Operands o;
    o.a = a;
    o.b = b;
    o.seven_bit = 1;
    CHECK_FAILS(o.run(isa, c), OG_INVALID);
  });
}

}  // namespace

int main() {
  Random random(20261127);
  packed_weights(random);
  many_rows(random);
  packed_refusals(random);
  return finish("matmul_int8_packed");
}
