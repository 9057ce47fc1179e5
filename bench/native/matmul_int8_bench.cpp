// matmul_int8, Gop/s per shape, beside the ceiling of its dot product from registers and of reading memory.
//   matmul_int8_bench [isa] [threads] [only this shape, e.g. 512x2304x768, or: memory]
// Weights are [N, K], k dense, codes of the full range alike often. NT: packed in the call; packed: beforehand; f32:
// with scales and bias, gelu: and with the tanh form of GELU; 7-bit NT: codes of 7 bits; bell: as f32, of normal
// weights with a scale an output. Rows of up to 8 also from memory: more copies of the weights than the caches hold, in
// turn. Median and best of interleaved samples.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "core/parallel.h"
#include "core/registry.h"
#include "core/status.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

#if defined(__x86_64__)
/** Twelve chains of vpdpbusd: Gop/s of one thread. */
__attribute__((target("avx512f"))) double dot_ceiling() {
  if (!og::cpu_feature(og::kVnni)) return 0;
  double best = 0;
  for (int sample = 0; sample < 5; sample++) {
    const int64_t count = 4000000;
    int64_t turns = count;
    const double start = now();
    asm volatile("vpxorq %%zmm14, %%zmm14, %%zmm14\n vpxorq %%zmm15, %%zmm15, %%zmm15\n.p2align 5\n1:\n"
#define X(i) "vpdpbusd %%zmm14, %%zmm15, %%zmm" #i "\n"
                 X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) "dec %0\n jnz 1b\n vzeroupper\n"
#undef X
                 : "+r"(turns)
                 :
                 : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
                   "xmm14", "xmm15", "cc");
    best = std::max(best, 12. * 128 * (double)count / (now() - start) * 1e-9);
  }
  return best;
}
#else
double dot_ceiling() { return 0; }
#endif

/** GB/s of reading memory in four streams. */
double read_ceiling() {
  const size_t words = (256u << 20) / 8, quarter = words / 4;
  std::vector<uint64_t> data(words, 1);
  double best = 0;
  for (int sample = 0; sample < 4; sample++) {
    uint64_t s[4][8] = {};
    const double start = now();
    for (size_t i = 0; i < quarter; i += 8)
      for (int t = 0; t < 4; t++)
        for (int j = 0; j < 8; j++) s[t][j] ^= data[(size_t)t * quarter + i + (size_t)j];
    const double seconds = now() - start;
    volatile uint64_t sink = s[0][0] ^ s[1][1] ^ s[2][2] ^ s[3][3];
    (void)sink;
    best = std::max(best, (double)words * 8 / seconds * 1e-9);
  }
  return best;
}

og_view view(void* data, int32_t dtype, std::initializer_list<int64_t> shape, std::initializer_list<int64_t> strides) {
  og_view v;
  std::memset(&v, 0, sizeof v);
  v.data = data;
  v.dtype = dtype;
  v.rank = (int32_t)shape.size();
  std::copy(shape.begin(), shape.end(), v.shape);
  std::copy(strides.begin(), strides.end(), v.strides);
  return v;
}

char* block(size_t bytes) { return static_cast<char*>(std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096)); }

/** n codes: alike often in [-128, 127], or half of that, or those of normal weights with one scale for each row of k.
 */
enum Weights { kUniform, kSevenBit, kBell };
void fill_codes(char* to, size_t n, int64_t k, Weights weights) {
  uint32_t state = 12345;
  const auto next = [&] { return (state = state * 1664525u + 1013904223u) >> 8; };
  if (weights != kBell) {
    for (size_t i = 0; i < n; i++) to[i] = (char)(((int)(next() & 255) - 128) / (weights == kUniform ? 1 : 2));
    return;
  }
  std::vector<float> row((size_t)k);
  for (size_t begin = 0; begin < n; begin += (size_t)k) {
    float most = 0;
    for (float& x : row) {
      x = -12.f;
      for (int t = 0; t < 24; t++) x += (float)next() / (float)(1 << 24);
      most = std::max(most, std::fabs(x));
    }
    for (size_t i = 0; i < (size_t)k; i++) to[begin + i] = (char)std::lrint(row[i] / most * 127);
  }
}

struct Case {
  const char* name;
  std::vector<double> seconds;
};

void run_shape(og::Isa isa, int64_t m, int64_t n, int64_t k, bool cold) {
  const int kernel = og::kernel_id("matmul_int8"), packer = og::kernel_id("matmul_int8_pack");
  const size_t bytes = (size_t)(n * k), packed_size = (size_t)(64 + (n + 31) / 32 * 32 * (4 + (k + 7) / 8 * 8));
  const int copies = cold ? std::max(1, (int)((96u << 20) / bytes)) : 1;
  char* a = block((size_t)(m * k));
  for (int64_t i = 0; i < m * k; i++) a[i] = (char)(i * 37 % 251);
  std::vector<char*> weights, packed;
  for (int c = 0; c < copies + 2; c++) {  // the last two: of 7 bits, and bell-shaped
    weights.push_back(block(bytes));
    fill_codes(weights.back(), bytes, k, c < copies ? kUniform : c == copies ? kSevenBit : kBell);
    packed.push_back(block(packed_size));
  }
  char* out = block((size_t)(m * n) * 4);
  std::vector<float> scale((size_t)std::max(m, n), 0.001f), bias((size_t)n, 0.5f);
  const double flag = 0;
  for (size_t c = 0; c < packed.size(); c++) {
    const og_view b = view(weights[c], OG_I8, {k, n}, {1, k});
    const og_view p = view(packed[c], OG_U8, {(int64_t)packed_size}, {1});
    const og_call call = {&b, &p, &flag, 1, 1, 1};
    if (og::run_kernel_on(isa, packer, call)) std::printf("%s\n", og::last_message());
  }
  int next = 0;
  const auto multiply = [&](bool with_packed, bool is_float, bool gelu, bool seven_bit, bool coded, bool bell) {
    const size_t which = seven_bit ? (size_t)copies : bell ? (size_t)copies + 1 : (size_t)next;
    og_view in[10];
    for (og_view& v : in) std::memset(&v, 0, sizeof v), v.dtype = -1;
    in[0] = view(a, OG_I8, {m, k}, {k, 1});
    in[1] = view(weights[which], OG_I8, {k, n}, {1, k});
    if (with_packed) in[2] = view(packed[which], OG_U8, {(int64_t)packed_size}, {1});
    if (is_float) {
      in[5] = view(scale.data(), OG_F32, {m}, {1});
      in[6] = view(scale.data(), OG_F32, {n}, {1});
      in[7] = view(bias.data(), OG_F32, {n}, {1});
    }
    const og_view c = view(out, coded ? OG_U8 : is_float ? OG_F32 : OG_I32, {m, n}, {n, 1});
    const double attrs[] = {gelu ? 3. : 0., seven_bit ? 1. : 0., 0.1, coded ? 128. : 0.};
    const og_call call = {in, &c, attrs, 10, 1, 4};
    if (og::run_kernel_on(isa, kernel, call)) std::printf("%s\n", og::last_message());
    next = (next + 1) % copies;
  };
  std::vector<Case> cases = {{"NT", {}},    {"packed", {}},   {"f32", {}}, {"gelu", {}},
                             {"codes", {}}, {"7-bit NT", {}}, {"bell", {}}};
  if (cold) cases.resize(2);
  const double work = 2. * (double)(m * n * k);
  for (int sample = 0; sample < 15; sample++)
    for (Case& one : cases) {
      const int turns = std::max(1, (int)(2e9 / work / 2));
      const double start = now();
      for (int t = 0; t < turns; t++)
        multiply(std::strchr("pfgcb", one.name[0]), std::strchr("fgcb", one.name[0]), one.name[0] == 'g',
                 one.name[0] == '7', one.name[0] == 'c', one.name[0] == 'b');
      one.seconds.push_back((now() - start) / turns);
    }
  std::printf("%5lldx%lldx%lld%s", (long long)m, (long long)n, (long long)k, cold ? " from memory" : "");
  for (Case& one : cases) {
    std::sort(one.seconds.begin(), one.seconds.end());
    const double middle = one.seconds[one.seconds.size() / 2];
    std::printf("  %s %.0f / %.0f", one.name, work / middle * 1e-9, work / one.seconds[0] * 1e-9);
    if (m <= 16) std::printf(" (%.1f GB/s)", (double)bytes / middle * 1e-9);
  }
  std::printf("\n");
  std::fflush(stdout);
  for (char* p : weights) std::free(p);
  for (char* p : packed) std::free(p);
  std::free(a);
  std::free(out);
}

}  // namespace

int main(int argc, char** argv) {
  og::Isa isa = og::default_isa();
  for (int i = 0; i < og::kIsaCount; i++)
    if (argc > 1 && std::strcmp(argv[1], og::isa_name((og::Isa)i)) == 0) isa = (og::Isa)i;
  og::set_threads(argc > 2 ? std::atoi(argv[2]) : 1);
  const char* only = argc > 3 ? argv[3] : nullptr;
  std::printf("%s, %d threads; vpdpbusd %.0f Gop/s a thread, reading %.1f GB/s\n", og::isa_name(isa), og::threads(),
              dot_ceiling(), read_ceiling());
  const int64_t shapes[][3] = {{512, 2304, 768},   {512, 3072, 768}, {512, 768, 3072}, {3072, 384, 384},
                               {1024, 1024, 1024}, {64, 3072, 768},  {1, 3072, 768},   {2, 3072, 768},
                               {4, 3072, 768},     {8, 3072, 768}};
  for (const auto& s : shapes) {
    const std::string name = std::to_string(s[0]) + "x" + std::to_string(s[1]) + "x" + std::to_string(s[2]);
    if (!only || name == only) run_shape(isa, s[0], s[1], s[2], false);
  }
  const int64_t cold[][3] = {{1, 3072, 768}, {1, 50257, 768}, {2, 3072, 768},
                             {4, 3072, 768}, {8, 3072, 768},  {16, 3072, 768}};
  for (const auto& s : cold)
    if (!only || std::strcmp(only, "memory") == 0) run_shape(isa, s[0], s[1], s[2], true);
  return 0;
}
