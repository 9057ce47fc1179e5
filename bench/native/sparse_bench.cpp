// Sparse products against the dense one, all in one run and interleaved: GFLOP/s of the dense product, and how many
// times faster each sparse layout is.
//   sparse_bench [isa] [threads] [only this M]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "core/parallel.h"
#include "core/registry.h"
#include "core/status.h"

namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

uint32_t random_bits() {
  static uint32_t state = 12345;
  state = state * 1664525u + 1013904223u;
  return state >> 8;
}
double uniform() { return random_bits() * 0x1p-24; }

template <class T>
og_view view(std::vector<T>& data, int32_t dtype, std::vector<int64_t> shape) {
  og_view v = {};
  v.data = data.data();
  v.dtype = dtype;
  v.rank = (int32_t)shape.size();
  int64_t stride = 1;
  for (int i = v.rank - 1; i >= 0; i--) {
    v.shape[i] = shape[(size_t)i];
    v.strides[i] = stride;
    stride *= shape[(size_t)i];
  }
  return v;
}
og_view absent() {
  og_view v = {};
  v.dtype = -1;
  return v;
}

struct Contender {
  std::string name;
  std::function<void()> run;
  std::vector<double> samples;
  double median() {
    std::sort(samples.begin(), samples.end());
    return samples[samples.size() / 2];
  }
};

og::Isa isa;

void call(const char* kernel, std::vector<og_view> in, std::vector<og_view> out, std::vector<double> attrs = {}) {
  const og_call c = {in.data(),          out.data(),          attrs.data(),
                     (int32_t)in.size(), (int32_t)out.size(), (int32_t)attrs.size()};
  if (og::run_kernel_on(isa, og::kernel_id(kernel), c) != OG_OK) {
    std::printf("%s: %s\n", kernel, og::last_message());
    std::exit(1);
  }
}

void bench(int64_t m, int64_t n, int64_t k) {
  std::vector<float> x((size_t)(m * k)), dense((size_t)(n * k)), y((size_t)(m * n));
  for (float& v : x) v = (float)uniform() - 0.5f;
  for (float& v : dense) v = (float)uniform() - 0.5f;
  std::vector<Contender> all;
  const og_view xv = view(x, OG_F32, {m, k}), yv = view(y, OG_F32, {m, n});
  og_view wt = view(dense, OG_F32, {n, k});
  std::swap(wt.shape[0], wt.shape[1]);
  std::swap(wt.strides[0], wt.strides[1]);
  all.push_back({"dense", [=] { call("matmul", {xv, wt, absent(), absent(), absent()}, {yv, absent()}, {0}); }, {}});
  struct Weights {
    std::vector<int32_t> crow, col;
    std::vector<float> values;
    std::vector<int8_t> codes;
  };
  std::vector<Weights> kept(6);
  const double sparsities[] = {0.5, 0.6, 0.7, 0.8, 0.9, 0.95};
  std::vector<float> scale((size_t)n, 0.01f);
  const og_view sv = view(scale, OG_F32, {n});
  for (size_t i = 0; i < kept.size(); i++) {
    Weights& w = kept[i];
    w.crow.push_back(0);
    for (int64_t r = 0; r < n; r++) {
      for (int64_t c = 0; c < k; c++)
        if (uniform() >= sparsities[i]) {
          w.col.push_back((int32_t)c);
          w.values.push_back((float)uniform());
          w.codes.push_back((int8_t)(random_bits() & 127));
        }
      w.crow.push_back((int32_t)w.col.size());
    }
    const int64_t nnz = (int64_t)w.col.size();
    const og_view crow = view(w.crow, OG_I32, {n + 1}), col = view(w.col, OG_I32, {nnz});
    const og_view values = view(w.values, OG_F32, {nnz}), codes = view(w.codes, OG_I8, {nnz});
    char name[32];
    std::snprintf(name, sizeof name, "csr %.0f", 100 * sparsities[i]);
    all.push_back({name, [=] { call("csr_linear", {xv, crow, col, values, absent(), absent()}, {yv}); }, {}});
    if (i == 3) all.push_back({"csr8 80", [=] { call("csr_linear", {xv, crow, col, codes, sv, absent()}, {yv}); }, {}});
  }
  // blocks of 32 at 80 % and 90 %, with and without int8; 2:4
  std::vector<Weights> blocks(2);
  for (size_t i = 0; i < 2; i++) {
    Weights& w = blocks[i];
    w.crow.push_back(0);
    for (int64_t r = 0; r < n / 32; r++) {
      for (int64_t c = 0; c < k / 32; c++)
        if (uniform() >= (i ? 0.9 : 0.8)) w.col.push_back((int32_t)c);
      w.crow.push_back((int32_t)w.col.size());
    }
    const int64_t count = (int64_t)w.col.size();
    w.values.assign((size_t)(count * 1024), 0.5f);
    w.codes.assign((size_t)(count * 1024), 3);
    const og_view crow = view(w.crow, OG_I32, {n / 32 + 1}), col = view(w.col, OG_I32, {count});
    const og_view values = view(w.values, OG_F32, {count, 32, 32}), codes = view(w.codes, OG_I8, {count, 32, 32});
    all.push_back({i ? "b32 90" : "b32 80",
                   [=] {
                     call("block_linear", {xv, crow, col, values, absent(), absent()}, {yv});
                   },
                   {}});
    if (i == 0)
      all.push_back({"b32i8 80", [=] { call("block_linear", {xv, crow, col, codes, sv, absent()}, {yv}); }, {}});
  }
  std::vector<float> half((size_t)(n * k / 2), 0.5f);
  std::vector<int8_t> half8((size_t)(n * k / 2), 5);
  std::vector<uint8_t> places((size_t)(n * k / 8));
  for (uint8_t& p : places) p = (uint8_t)(random_bits() & 1 ? 0xE4 : 0x8D);
  const og_view hv = view(half, OG_F32, {n, k / 2}), cv = view(half8, OG_I8, {n, k / 2}),
                pv = view(places, OG_U8, {n, k / 8});
  all.push_back({"2:4", [=] { call("semi_structured_linear", {xv, hv, pv, absent(), absent()}, {yv}); }, {}});
  all.push_back({"2:4i8", [=] { call("semi_structured_linear", {xv, cv, pv, sv, absent()}, {yv}); }, {}});
  // gradient of the kept values: against the dense product of the same shape
  std::vector<std::vector<float>> grads(2);
  for (size_t i = 0; i < 2; i++) {
    Weights& w = kept[3 + i];
    grads[i].resize(w.values.size());
    const og_view crow = view(w.crow, OG_I32, {n + 1}), col = view(w.col, OG_I32, {(int64_t)w.col.size()});
    const og_view gv = view(grads[i], OG_F32, {(int64_t)w.col.size()});
    all.push_back({i ? "dv 90" : "dv 80", [=] { call("csr_sampled", {yv, xv, crow, col}, {gv}); }, {}});
  }
  for (Contender& c : all) {  // warm-up, and how many calls make a sample of 3 ms
    c.run();
  }
  const int rounds = 15;
  for (int r = 0; r < rounds; r++)
    for (Contender& c : all) {
      int calls = 0;
      const double start = now();
      double end;
      do {
        c.run();
        calls++;
        end = now();
      } while (end - start < 2e-3);
      c.samples.push_back((end - start) / calls);
    }
  const double base = all[0].median();
  std::printf("M %4lld N %4lld K %4lld: dense %6.1f GFLOP/s", (long long)m, (long long)n, (long long)k,
              2e-9 * (double)(m * n * k) / base);
  for (size_t i = 1; i < all.size(); i++) std::printf("  %s %5.2f", all[i].name.c_str(), base / all[i].median());
  std::printf("\n");
}

}  // namespace

int main(int argc, char** argv) {
  isa = og::default_isa();
  for (int i = 0; i < og::kIsaCount; i++)
    if (argc > 1 && std::strcmp(argv[1], og::isa_name((og::Isa)i)) == 0) isa = (og::Isa)i;
  og::set_threads(argc > 2 ? std::atoi(argv[2]) : 1);
  const int64_t only = argc > 3 ? std::atoll(argv[3]) : 0;
  std::printf("%s, %d thread(s); times faster than dense\n", og::isa_name(isa), og::threads());
  for (int64_t m : {1, 8, 128, 512}) {
    if (only && m != only) continue;
    bench(m, 768, 768);
    bench(m, 3072, 768);
    bench(m, 768, 3072);
    bench(m, 384, 1536);
  }
  return 0;
}
