// matmul, GFLOP/s per shape, instruction set and thread count, beside the FMA ceiling of this machine.
//   matmul_bench [isa|all] [threads|0 = 1 and all] [only this shape, e.g. 512x2304x768]
// Per shape: M×N×K and layout (N: row-major, T: column-major, for a and b), median and best of interleaved samples.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "core/parallel.h"
#include "core/registry.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

#if defined(__x86_64__)
/** Twelve independent FMA chains in registers. */
__attribute__((target("avx2,fma"))) void fma256(int64_t turns) {
  asm volatile("vxorps %%ymm14,%%ymm14,%%ymm14\n vxorps %%ymm15,%%ymm15,%%ymm15\n.p2align 5\n1:\n"
#define X(i) "vfmadd231ps %%ymm14,%%ymm15,%%ymm" #i "\n"
               X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) "dec %0\n jnz 1b\n vzeroupper\n"
               : "+r"(turns)
               :
               : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
                 "xmm14", "xmm15", "cc");
}
__attribute__((target("avx512f"))) void fma512(int64_t turns) {
  asm volatile("vpxorq %%zmm14,%%zmm14,%%zmm14\n vpxorq %%zmm15,%%zmm15,%%zmm15\n.p2align 5\n1:\n"
#undef X
#define X(i) "vfmadd231ps %%zmm14,%%zmm15,%%zmm" #i "\n"
               X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) "dec %0\n jnz 1b\n vzeroupper\n"
               : "+r"(turns)
               :
               : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
                 "xmm14", "xmm15", "cc");
#undef X
}

double ceiling(og::Isa isa, int threads) {
  if (isa != og::kAvx2 && isa != og::kAvx512) return 0;
  const int64_t turns = 4000000;
  double best = 0;
  for (int sample = 0; sample < 5; sample++) {
    std::vector<std::thread> helpers;
    const auto work = [&] { isa == og::kAvx512 ? fma512(turns) : fma256(turns); };
    const double start = now();
    for (int t = 1; t < threads; t++) helpers.emplace_back(work);
    work();
    for (std::thread& helper : helpers) helper.join();
    const double flops = 12.0 * 2 * (isa == og::kAvx512 ? 16 : 8) * (double)turns * threads;
    best = std::max(best, flops / (now() - start) * 1e-9);
  }
  return best;
}
#else
double ceiling(og::Isa, int) { return 0; }
#endif

struct Shape {
  const char* what;
  int64_t batch, m, n, k;
  bool ta, tb;
};

// keep this list equal to that of the peer's script
const Shape kShapes[] = {
    {"square NN", 1, 1024, 1024, 1024, false, false},
    {"square NT", 1, 1024, 1024, 1024, false, true},
    {"qkv NT", 1, 512, 2304, 768, false, true},
    {"mlp up NT", 1, 512, 3072, 768, false, true},
    {"mlp up NN", 1, 512, 3072, 768, false, false},
    {"mlp down NT", 1, 512, 768, 3072, false, true},
    {"baby proj NT", 1, 3072, 384, 384, false, true},
    {"baby up NT", 1, 3072, 1536, 384, false, true},
    {"baby down NT", 1, 3072, 384, 1536, false, true},
    {"logits NT", 1, 256, 50257, 768, false, true},
    {"baby dW TN", 1, 384, 1536, 3072, true, false},
    {"baby dx NN", 1, 3072, 384, 1536, false, false},
    {"gpt dW TN", 1, 768, 3072, 512, true, false},
    {"row NT", 1, 1, 3072, 768, false, true},
    {"row NN", 1, 1, 3072, 768, false, false},
    {"8 rows NT", 1, 8, 2304, 768, false, true},
    {"8 rows NN", 1, 8, 2304, 768, false, false},
    {"row logits NT", 1, 1, 50257, 768, false, true},
    {"64 NN", 1, 64, 64, 64, false, false},
    {"64 NT", 1, 64, 64, 64, false, true},
    {"scores NT", 48, 64, 64, 64, false, true},
    {"scores 256 NT", 24, 256, 256, 64, false, true},
    {"values NN", 24, 256, 64, 256, false, false},
    {"128 NT", 1, 128, 128, 128, false, true},
    {"256 NT", 1, 256, 256, 256, false, true},
};

std::vector<float> filled(int64_t n) {
  std::vector<float> v((size_t)n);
  uint32_t state = 12345;
  for (float& x : v) {
    state = state * 1664525u + 1013904223u;
    x = (float)(state >> 8) * 0x1p-23f - 1.f;
  }
  return v;
}

void bench(const Shape& s, const std::vector<og::Isa>& isas, const std::vector<int>& counts) {
  std::vector<float> a = filled(s.batch * s.m * s.k), b = filled(s.batch * s.k * s.n), c((size_t)(s.batch * s.m * s.n));
  og_view in[5] = {}, out[2] = {};
  const double attrs[1] = {0};
  in[0] = {a.data(), OG_F32, 3, {s.batch, s.m, s.k}, {s.m * s.k, s.ta ? 1 : s.k, s.ta ? s.m : 1}};
  in[1] = {b.data(), OG_F32, 3, {s.batch, s.k, s.n}, {s.k * s.n, s.tb ? 1 : s.n, s.tb ? s.k : 1}};
  in[2].dtype = in[3].dtype = in[4].dtype = out[1].dtype = -1;
  out[0] = {c.data(), OG_F32, 3, {s.batch, s.m, s.n}, {s.m * s.n, s.n, 1}};
  const og_call call = {in, out, attrs, 5, 2, 1};
  const int32_t id = og::kernel_id("matmul");
  const double flops = 2.0 * (double)s.batch * (double)s.m * (double)s.n * (double)s.k;
  const int64_t repeats = std::max<int64_t>(1, (int64_t)(2e8 / flops));
  const size_t ways = isas.size() * counts.size();
  std::vector<std::vector<double>> rates(ways);
  for (int sample = -1; sample < 9; sample++)
    for (size_t w = 0; w < ways; w++) {
      og::set_threads(counts[w % counts.size()]);
      const og::Isa isa = isas[w / counts.size()];
      const double start = now();
      for (int64_t r = 0; r < repeats; r++) og::run_kernel_on(isa, id, call);
      if (sample >= 0) rates[w].push_back(flops * (double)repeats / (now() - start) * 1e-9);
    }
  std::printf("%-14s %2lldx%5lldx%5lldx%5lld", s.what, (long long)s.batch, (long long)s.m, (long long)s.n,
              (long long)s.k);
  for (size_t w = 0; w < ways; w++) {
    std::sort(rates[w].begin(), rates[w].end());
    std::printf("  %s/%d %6.1f %6.1f", og::isa_name(isas[w / counts.size()]), counts[w % counts.size()],
                rates[w][rates[w].size() / 2], rates[w].back());
  }
  std::printf("\n");
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  const char* wanted = argc > 1 ? argv[1] : "all";
  const int threads = argc > 2 ? std::atoi(argv[2]) : 0;
  std::vector<og::Isa> isas;
  for (int i = og::kIsaCount - 1; i >= og::kBaseline; i--)
    if (og::isa_available((og::Isa)i) &&
        (!std::strcmp(wanted, "all") || !std::strcmp(wanted, og::isa_name((og::Isa)i))))
      isas.push_back((og::Isa)i);
  std::vector<int> counts;
  if (threads > 0)
    counts = {threads};
  else
    counts = {1, og::hardware_threads()};
  for (og::Isa isa : isas)
    for (int count : counts)
      if (const double limit = ceiling(isa, count))
        std::printf("ceiling %s, %d threads: %.1f GFLOP/s\n", og::isa_name(isa), count, limit);
  for (const Shape& shape : kShapes) {
    char text[80];
    std::snprintf(text, sizeof text, "%lldx%lldx%lld", (long long)shape.m, (long long)shape.n, (long long)shape.k);
    if (argc > 3 && std::strcmp(argv[3], text) != 0 && std::strcmp(argv[3], shape.what) != 0) continue;
    bench(shape, isas, counts);
  }
  return 0;
}
