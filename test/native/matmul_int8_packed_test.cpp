// Weights packed by matmul_int8_pack, on every instruction set and with every dot product it has: sums against int64,
// the form that they take, refusals.
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

/** Which form packed weights have: the word after the magic number. */
uint32_t layout_of(const Block& packed) { return static_cast<const uint32_t*>(packed.view.data)[1]; }
constexpr uint32_t kSplitLayout = 10, kWideLayout = 3;  // of AVX2

/** Weights packed on every path, by one thread and two, against rows of all kinds: exact, and in the form expected. */
void check_packed_sums(Tensor& b, Random& random, bool splits) {
  const int64_t k = b.shape()[0], n = b.shape()[1];
  const int before = og::threads();
  for (int64_t m : {1, 2, 5, 6, 49, 131}) {
    Operands o;
    o.b = b;
    o.a = codes(random, random.below(2) ? OG_I8 : OG_U8, {m, k}, (Layout)random.below(kLayoutCount));
    if (random.below(2)) o.a_zero = Tensor(OG_I32, {m}).integers(random, -128, 256);
    if (random.below(2)) o.b_zero = Tensor(OG_I32, {n}).integers(random, -128, 256);
    const std::vector<int64_t> want = exact_sums(o, 1, m, n, k);
    for_each_path([&](og::Isa isa) {
      for (int threads : {1, 2}) {
        og::set_threads(threads);
        Block packed(packed_bytes(k, n));
        CHECK_OK(pack(isa, o.b.view(), packed, 0));
        const uint32_t layout = layout_of(packed);
        if (layout == kWideLayout || layout == kSplitLayout)
          CHECK(layout == (splits ? kSplitLayout : kWideLayout), "layout %u", layout);
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
}

/** Codes of normal weights, a scale for each column. */
void bell_shaped(Tensor& b, Random& random) {
  const int64_t k = b.shape()[0], n = b.shape()[1];
  const int shift = b.dtype() == OG_I8 ? 0 : 128;
  Tensor normal(OG_F32, {k});
  for (int64_t j = 0; j < n; j++) {
    normal.normal(random);
    double most = 0;
    for (int64_t i = 0; i < k; i++) most = std::fmax(most, std::fabs(normal.get(i)));
    for (int64_t i = 0; i < k; i++) b.set(i * n + j, std::nearbyint(normal.get(i) / most * 127) + shift);
  }
}

/** Weights whose pairs exceed what vpmaddubsw adds exactly: split where that is rare, widened where it is not. */
void split_weights(Random& random) {
  for (int64_t k : {384, 770, 1025})
    for (int64_t n : {16, 37, 90}) {
      const int32_t dtype = random.below(2) ? OG_I8 : OG_U8;
      named("bell-shaped weights %lldx%lld %s", (long long)k, (long long)n, dtype_name(dtype));
      Tensor b(dtype, {k, n}, n == 37 ? kTransposed : kDense);
      bell_shaped(b, random);
      check_packed_sums(b, random, true);
      named("uniform weights %lldx%lld %s", (long long)k, (long long)n, dtype_name(dtype));
      b.integers(random, dtype == OG_I8 ? -128 : 0, dtype == OG_I8 ? 128 : 256);
      check_packed_sums(b, random, false);
    }
  struct Pair {
    double first, second;
    bool safe;
  };
  const Pair pairs[] = {{127, 1, true},    {64, 64, true},      {-128, 0, true}, {-64, -64, true},  {127, -128, true},
                        {127, 127, false}, {-128, -128, false}, {127, 2, false}, {-1, -128, false}, {65, 64, false}};
  for (const Pair& pair : pairs) {
    named("pairs %g %g", pair.first, pair.second);
    Tensor all(OG_I8, {98, 35});
    all.fill([&](int64_t i) { return i / 35 % 2 ? pair.second : pair.first; });
    check_packed_sums(all, random, pair.safe);
    const char* kinds[] = {"now and then", "one column", "the last words", "the same half of a group, all the room"};
    for (int kind = 0; kind < 4; kind++) {
      named("pairs %g %g: %s", pair.first, pair.second, kinds[kind]);
      const int64_t k = kind == 2 ? 387 : 384, n = 35;
      Tensor some(OG_I8, {k, n}, kTransposed);
      some.integers(random, -60, 61);
      for (int64_t i = 0; i + 1 < k; i += 2)
        for (int64_t j = 0; j < n; j++) {
          const bool is_here[] = {random.below(64) == 0, j == 17 && i < 48, i >= k - 4 && j % 3 == 1,
                                  j == n - 1 && i % 8 == 0 && i > 0};
          if (is_here[kind]) some.set(i * n + j, pair.first), some.set((i + 1) * n + j, pair.second);
        }
      check_packed_sums(some, random, true);
    }
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
  split_weights(random);
  packed_refusals(random);
  return finish("matmul_int8_packed");
}
