/**
 * What the machine can do at most: multiply-adds on registers, of floats and of bytes, copying memory and reading it.
 * Speaks the protocol of bench/worker.ts (setup, run, drop, peak; a line of JSON each) as far as it needs it, so that
 * it takes part in a run like a peer.
 *
 * fma: chains of vector multiply-adds on every thread, more than the latency times the ports of all known cores (4 × 2)
 * and few enough to stay in registers. int8: the same with the best instructions for sums of products of bytes in
 * int32: vpdpbusd, sdot, or vpmaddubsw, vpmaddwd and vpaddd. One repetition is kChains × lanes × 2 × kTurns operations
 * on each thread.
 * copy: memcpy of 256 MiB, divided among the threads; one repetition reads and writes that much. read: the same bytes
 * added up, in four streams on every thread, which modern cores read faster than one.
 */
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
#if defined(__x86_64__) && !defined(__AVX512F__)
constexpr int kChains = 12;  // of 16 registers, beside the operands
#else
constexpr int kChains = 16;
#endif
constexpr long kTurns = 1 << 18;
constexpr size_t kCopyBytes = (size_t)256 << 20;

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));

float fma_turns(float seed) {
  Vector chains[kChains];
  for (int i = 0; i < kChains; i++) chains[i] = Vector{} + seed * (float)i;
  const Vector factor = Vector{} + 0.999f, term = Vector{} + seed;
  for (long turn = 0; turn < kTurns; turn++) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; i++) chains[i] = chains[i] * factor + term;
  }
  Vector sum = chains[0];
  for (int i = 1; i < kChains; i++) sum += chains[i];
  return sum[0];
}

// Bytes of a vector, how a chain takes in the products of two, and what a chain is. `renew` hides that operands are the
// same each turn, or compilers would take the products out of the loop.
#if defined(__AVX512VNNI__)
typedef __m512i Bytes;
typedef __m512i Sums;
Bytes bytes_of(int value) { return _mm512_set1_epi8((char)value); }
Sums no_sums() { return _mm512_setzero_si512(); }
inline Sums add_products(Sums sums, Bytes a, Bytes b) { return _mm512_dpbusd_epi32(sums, a, b); }
inline void renew(Bytes& a) { asm volatile("" : "+x"(a)); }
int any_of(Sums sums) { return _mm512_cvtsi512_si32(sums); }
constexpr bool kHasBytes = true;
#elif defined(__AVX2__)
typedef __m256i Bytes;
typedef __m256i Sums;
Bytes bytes_of(int value) { return _mm256_set1_epi8((char)value); }
Sums no_sums() { return _mm256_setzero_si256(); }
inline Sums add_products(Sums sums, Bytes a, Bytes b) {
  return _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)));
}
inline void renew(Bytes& a) { asm volatile("" : "+x"(a)); }
int any_of(Sums sums) { return _mm256_cvtsi256_si32(sums); }
constexpr bool kHasBytes = true;
#elif defined(__ARM_FEATURE_DOTPROD)
typedef int8x16_t Bytes;
typedef int32x4_t Sums;
Bytes bytes_of(int value) { return vdupq_n_s8((int8_t)value); }
Sums no_sums() { return vdupq_n_s32(0); }
inline Sums add_products(Sums sums, Bytes a, Bytes b) { return vdotq_s32(sums, a, b); }
inline void renew(Bytes& a) { asm volatile("" : "+w"(a)); }
int any_of(Sums sums) { return vgetq_lane_s32(sums, 0); }
constexpr bool kHasBytes = true;
#else
typedef int Bytes;
typedef int Sums;
Bytes bytes_of(int value) { return value; }
Sums no_sums() { return 0; }
inline Sums add_products(Sums sums, Bytes a, Bytes b) { return sums + a * b; }
inline void renew(Bytes& a) { asm volatile("" : "+r"(a)); }
int any_of(Sums sums) { return sums; }
constexpr bool kHasBytes = false;
#endif

int byte_turns(int seed) {
  Sums chains[kChains];
  for (Sums& chain : chains) chain = no_sums();
  Bytes a = bytes_of(seed & 63), b = bytes_of(3);
  for (long turn = 0; turn < kTurns; turn++) {
    renew(a), renew(b);
#pragma GCC unroll 16
    for (int i = 0; i < kChains; i++) chains[i] = add_products(chains[i], a, b);
  }
  int sum = 0;
  for (Sums chain : chains) sum += any_of(chain);
  return sum;
}

typedef long long Words __attribute__((vector_size(kLanes * sizeof(float)), aligned(8), may_alias));

long long read_streams(const char* data, size_t bytes) {
  constexpr int kStreams = 4;
  const size_t part = bytes / kStreams / 256 * 256;
  Words sums[kStreams] = {};
  for (size_t at = 0; at < part; at += 256) {
    for (int stream = 0; stream < kStreams; stream++) {
      const Words* words = (const Words*)(data + (size_t)stream * part + at);
#pragma GCC unroll 16
      for (size_t i = 0; i < 256 / sizeof(Words); i++) sums[stream] += words[i];
    }
  }
  return (sums[0] + sums[1] + sums[2] + sums[3])[0];
}

template <class F>
void on_threads(int threads, const F& body) {
  std::vector<std::thread> others;
  for (int t = 1; t < threads; t++) others.emplace_back(body, t);
  body(0);
  for (std::thread& thread : others) thread.join();
}

double seconds_of(const std::string& op, int threads, long count, std::vector<char>& from, std::vector<char>& to) {
  const auto begun = std::chrono::steady_clock::now();
  on_threads(threads, [&](int t) {
    for (long i = 0; i < count; i++) {
      if (op == "fma") {
        volatile float sink = fma_turns(1e-3f * (float)(t + 1));
        (void)sink;
        continue;
      }
      if (op == "int8") {
        volatile int sink = byte_turns(t + 1);
        (void)sink;
        continue;
      }
      const size_t part = kCopyBytes / (size_t)threads / 4096 * 4096, begin = part * (size_t)t;
      if (op == "read") {
        const size_t to_line = (size_t)(-(intptr_t)from.data() & 63);
        volatile long long sink = read_streams(from.data() + to_line + begin, part);
        (void)sink;
      } else {
        std::memcpy(to.data() + begin, from.data() + begin, part);
      }
    }
  });
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
}

/** The value behind a key of a request that we wrote ourselves: `"key":value`. */
std::string field(const std::string& line, const char* key) {
  const std::string mark = std::string("\"") + key + "\":";
  const size_t at = line.find(mark);
  if (at == std::string::npos) return "";
  size_t begin = at + mark.size();
  if (line[begin] == '"') begin++;
  return line.substr(begin, line.find_first_of("\",}", begin) - begin);
}

}  // namespace

int main() {
  std::vector<char> from, to;
  std::string op;
  int threads = 1;
  char buffer[1024];
  while (std::fgets(buffer, sizeof buffer, stdin)) {
    const std::string line = buffer, what = field(line, "do");
    if (what == "setup") {
      op = field(line, "op");
      threads = std::atoi(field(line, "threads").c_str());
      if (op == "copy" || op == "read") from.assign(kCopyBytes + 64, 1);
      if (op == "copy") to.assign(kCopyBytes, 2);
      double work = 2.0 * kChains * kTurns * threads * (op == "int8" ? (double)sizeof(Bytes) : kLanes);
      if (op == "copy") work = 2.0 * kCopyBytes;
      if (op == "read") work = (double)kCopyBytes;
      const bool known = op != "int8" || kHasBytes;
      std::printf("{\"ok\":%s,\"work\":%.0f}\n", known ? "true" : "false", work);
    } else if (what == "run") {
      const double seconds = seconds_of(op, threads, std::atol(field(line, "n").c_str()), from, to);
      std::printf("{\"ok\":true,\"seconds\":%.9f}\n", seconds);
    } else {
      if (what == "drop") std::vector<char>().swap(from), std::vector<char>().swap(to);
      std::printf("{\"ok\":true}\n");
    }
    std::fflush(stdout);
  }
  return 0;
}
