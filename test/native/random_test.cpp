// Philox against the published vectors; streams equal on every set, layout and split; moments, bounds and uniformity;
// dropout.
#include "check.h"
#include "core/philox.h"

using namespace og_test;

namespace {

/** The known-answer file of the authors' Random123 library, philox4x32 with 10 rounds. */
void check_known_answers() {
  const struct {
    uint32_t counter[4];
    og::PhiloxKey key;
    uint32_t words[4];
  } known[] = {
      {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
       {0xa4093822, 0x299f31d0},
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (const auto& k : known) {
    uint32_t words[4];
    og::philox_block(k.key, k.counter, words);
    CHECK(std::memcmp(words, k.words, sizeof words) == 0);
  }
  // the vector form is the same function, across the carry into the second counter word
  uint32_t many[4 * 37];
  const uint64_t first = 0x1fffffff0u;
  og::philox({7, 9}, first, 3, 37, many);
  for (uint64_t i = 0; i < 37; i++) {
    const uint32_t counter[4] = {(uint32_t)(first + i), (uint32_t)((first + i) >> 32), 3, 0};
    uint32_t words[4];
    og::philox_block({7, 9}, counter, words);
    CHECK(std::memcmp(words, many + 4 * i, sizeof words) == 0);
  }
}

struct Moments {
  double mean = 0, variance = 0, low = INFINITY, high = -INFINITY;
  explicit Moments(const std::vector<double>& v) {
    for (double x : v) mean += x, low = std::fmin(low, x), high = std::fmax(high, x);
    mean /= (double)v.size();
    for (double x : v) variance += (x - mean) * (x - mean);
    variance /= (double)v.size();
  }
};

/** χ² of counts against equal shares; mean `cells`−1, deviation √(2·cells). Five deviations are allowed. */
bool even(const std::vector<double>& v, double low, double high, int cells) {
  std::vector<double> count((size_t)cells);
  for (double x : v) count[(size_t)((x - low) / (high - low) * cells)]++;
  const double share = (double)v.size() / cells;
  double chi = 0;
  for (double c : count) chi += (c - share) * (c - share) / share;
  return std::fabs(chi - (cells - 1)) < 5 * std::sqrt(2. * cells);
}

}  // namespace

int main() {
  check_known_answers();
  const int64_t n = 200003;
  std::vector<double> streams[3][4];
  for_each_isa([&](og::Isa isa) {
    for (int32_t dtype : {OG_F32, OG_F16, OG_BF16, OG_F64}) {
      Tensor u(dtype, {n}), z(dtype, {n});
      CHECK_OK(run(isa, "random_uniform", {}, {&u}, {42, 7, 4294967290., 0, -1, 3}));
      const Moments flat(u.values());
      CHECK(flat.low >= -1 && flat.high < 3, "uniform numbers in [%g, %g]", flat.low, flat.high);
      CHECK(std::fabs(flat.mean - 1) < 0.03 && std::fabs(flat.variance - 16. / 12) < 0.03);
      if (dtype != OG_BF16) CHECK(even(u.values(), -1, 3, 64));
      CHECK_OK(run(isa, "random_normal", {}, {&z}, {42, 7, 4294967290., 0, 0.5, 2}));
      const Moments bell(z.values());
      CHECK(std::fabs(bell.mean - 0.5) < 0.02 && std::fabs(bell.variance - 4) < 0.06, "mean %g, variance %g", bell.mean,
            bell.variance);
      double inside = 0, third = 0, fourth = 0;
      for (double x : z.values()) {
        const double t = (x - 0.5) / 2;
        inside += std::fabs(t) < 1, third += t * t * t, fourth += t * t * t * t;
      }
      CHECK(std::fabs(inside / n - 0.682689) < 0.006);
      CHECK(std::fabs(third / n) < 0.03 && std::fabs(fourth / n - 3) < 0.12);
      if (streams[0][dtype].empty()) streams[0][dtype] = u.values(), streams[1][dtype] = z.values();
      check_close(u, streams[0][dtype], 0, 0, "uniform stream of every set");
      check_close(z, streams[1][dtype], 0, 0, "normal stream of every set");

      // a part of the stream, in another layout, is the same numbers
      const std::vector<double> whole = z.values();
      for (int layout = 0; layout < kLayoutCount; layout++) {
        Tensor part(dtype, {3, 5, 67}, (Layout)layout);
        CHECK_OK(run(isa, "random_normal", {}, {&part}, {42, 7, 4, 1, 0.5, 2}));  // 10 counters on, across the carry
        check_close(part, std::vector<double>(whole.begin() + 40, whole.begin() + 40 + 1005), 0, 0, "later part");
      }
    }
    Tensor words(OG_I64, {3}), bits(OG_I32, {2, 2}, kTransposed);
    CHECK_OK(run(isa, "random_bits", {}, {&words}, {0, 0, 0, 0}));
    check_close(words, {0x6627e8d5p0, 0xe169c58dp0, 0xbc57ac4cp0}, 0, 0, "random_bits");
    CHECK_OK(run(isa, "random_bits", {}, {&bits}, {0, 0, 0, 0}));
    CHECK((uint32_t)bits.get_int(1) == 0xe169c58du && (uint32_t)bits.get_int(3) == 0x9b00dbd8u);

    Tensor dice(OG_I64, {n}), wide(OG_I64, {n}), bytes(OG_U8, {n});
    CHECK_OK(run(isa, "random_integer", {}, {&dice}, {1, 2, 3, 4, -3, 4}));
    CHECK(Moments(dice.values()).low == -3 && Moments(dice.values()).high == 3);
    CHECK(even(dice.values(), -3, 4, 7));
    CHECK_OK(run(isa, "random_integer", {}, {&wide}, {1, 2, 3, 4, -2147483648., 2147483648.}));
    CHECK(even(wide.values(), -2147483648., 2147483648., 100));
    CHECK_OK(run(isa, "random_integer", {}, {&bytes}, {1, 2, 3, 4, 0, 256}));
    CHECK(even(bytes.values(), 0, 256, 256));

    // dropout: about p zeros, the rest scaled; the mask is replayed; p of 0 and 1
    Random random(8);
    for (int32_t dtype : {OG_F32, OG_F16, OG_BF16, OG_F64}) {
      for (int layout = 0; layout < kLayoutCount; layout++) {
        Tensor x(dtype, {70, 71}, (Layout)layout), y(dtype, {70, 71}, (Layout)((layout + 1) % kLayoutCount)),
            again(dtype, {70, 71});
        x.uniform(random, 1, 2);
        CHECK_OK(run(isa, "dropout", {&x}, {&y}, {0.25, 5, 6, 7, 8}));
        CHECK_OK(run(isa, "dropout", {&y}, {&again}, {0.25, 5, 6, 7, 8}));
        int64_t zeros = 0;
        std::vector<double> want = x.values(), twice = y.values();
        for (size_t i = 0; i < want.size(); i++) {
          const bool kept = y.get((int64_t)i) != 0;
          zeros += !kept;
          want[i] = kept ? want[i] / 0.75 : 0;
          twice[i] /= 0.75;
        }
        CHECK(std::fabs((double)zeros / 4970 - 0.25) < 0.035, "%g dropped", (double)zeros / 4970);
        check_close(y, want, roundoff(dtype) * 2.1, 0, "dropout");
        check_close(again, twice, roundoff(dtype) * 2.1, 0, "dropout replayed");
        CHECK_OK(run(isa, "dropout", {&x}, {&y}, {0, 5, 6, 7, 8}));
        check_close(y, x.values(), 0, 0, "dropout of nothing");
        CHECK_OK(run(isa, "dropout", {&x}, {&y}, {1, 5, 6, 7, 8}));
        check_close(y, std::vector<double>(4970, 0), 0, 0, "dropout of everything");
      }
    }
    Tensor big(OG_F32, {n}), empty(OG_F32, {0});
    check_threads([&] { run(isa, "random_normal", {}, {&big}, {1, 1, 1, 1, 0, 1}); }, [&] { return big.bytes(); });
    CHECK_OK(run(isa, "random_uniform", {}, {&empty}, {1, 1, 1, 1, 0, 1}));
    CHECK_OK(run(isa, "random_uniform", {}, {&big}, {1, 1, 1, 1, 0, 1e-45}));
    CHECK(Moments(big.values()).high == 0, "numbers below the smallest positive one are 0");
    CHECK_FAILS(run(isa, "random_uniform", {}, {&big}, {1, 1, 1, 1, 2, 1}), OG_INVALID);
    CHECK_FAILS(run(isa, "random_uniform", {}, {&big}, {-1, 1, 1, 1, 0, 1}), OG_INVALID);
    CHECK_FAILS(run(isa, "random_integer", {}, {&dice}, {1, 1, 1, 1, 0, 0}), OG_INVALID);
    CHECK_FAILS(run(isa, "random_normal", {}, {&dice}, {1, 1, 1, 1, 0, 1}), OG_UNSUPPORTED);
    CHECK_FAILS(run(isa, "dropout", {&big}, {&big}, {1.5, 1, 1, 1, 1}), OG_INVALID);
  });
  return finish("random");
}
