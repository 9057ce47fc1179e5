/**
 * What the machine can do at most: multiply-adds on registers, and copying memory. Speaks the protocol of
 * bench/worker.ts (setup, run, drop, peak; a line of JSON each) as far as it needs it, so that it takes part in a run
 * like a peer.
 *
 * fma: 16 chains of vector multiply-adds on every thread; two chains a port hide the latency of four cycles on all
 * known cores. One repetition is 16 × kLanes × 2 × kTurns floating-point operations on each thread. copy: memcpy of 256
 * MiB, divided among the threads; one repetition reads and writes that much.
 */
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
constexpr int kChains = 16;
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
      } else {
        const size_t part = kCopyBytes / (size_t)threads, begin = part * (size_t)t;
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
      if (op == "copy") from.assign(kCopyBytes, 1), to.assign(kCopyBytes, 2);
      const double work = op == "fma" ? 2.0 * kChains * kLanes * kTurns * threads : 2.0 * kCopyBytes;
      std::printf("{\"ok\":true,\"work\":%.0f}\n", work);
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
