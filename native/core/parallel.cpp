#include "parallel.h"

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>

#include "scheduling.h"

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace og {

void cpu_relax() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield" ::: "memory");
#endif
}

namespace {

constexpr int kMaxThreads = 256;
constexpr int64_t kSpinNanoseconds = 50000;  // longer than the pause between two kernels of a decoding step

thread_local const std::atomic<bool>* cancel_flag = nullptr;
thread_local bool inside_job = false;  // nested parallelism runs in line

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

struct Job {
  ChunkFn fn;
  void* context;
  int64_t chunks;
  const std::atomic<bool>* cancel;
};

/**
 * The pool is leaked on purpose: joining threads in a static destructor deadlocks or crashes when the process ends
 * while a helper is inside a kernel.
 */
class Pool {
 public:
  void run(const Job& job) {
    std::unique_lock<std::mutex> submit(submit_, std::try_to_lock);
    const int helpers = wanted_.load(std::memory_order_relaxed) - 1;
    if (!submit.owns_lock() || helpers < 1) {  // another environment has the pool: same chunks, on this thread alone
      run_inline(job);
      return;
    }
    ensure_helpers(helpers);
    job_ = job;
    next_.store(0, std::memory_order_relaxed);
    allowed_.store(helpers < job.chunks - 1 ? helpers : (int)(job.chunks - 1), std::memory_order_relaxed);
    // Opening the gate publishes job_; a helper enters only while the gate is open and has a place left.
    gate_.store(kOpen, std::memory_order_seq_cst);
    epoch_.fetch_add(1, std::memory_order_seq_cst);
    if (parked_.load(std::memory_order_seq_cst) > 0) {
      std::lock_guard<std::mutex> lock(park_);
      wake_.notify_all();
    }
    work(job);
    gate_.fetch_and(~kOpen, std::memory_order_seq_cst);
    int spins = 0;
    while (gate_.load(std::memory_order_acquire) != 0) {
      cpu_relax();
      if (++spins > 2000) {  // a helper lost its core in the middle of a chunk; let it have ours
        std::this_thread::yield();
        spins = 0;
      }
    }
  }

  void set_wanted(int count) { wanted_.store(count); }
  int wanted() const { return wanted_.load(); }

 private:
  static constexpr int64_t kOpen = int64_t{1} << 40;  // below it: the number of helpers inside

  static void run_inline(const Job& job) {
    for (int64_t i = 0; i < job.chunks; i++) {
      if (job.cancel && job.cancel->load(std::memory_order_relaxed)) return;
      job.fn(job.context, i);
    }
  }

  void work(const Job& job) {
    const bool before = inside_job;
    inside_job = true;
    for (;;) {
      if (job.cancel && job.cancel->load(std::memory_order_relaxed)) break;
      const int64_t chunk = next_.fetch_add(1, std::memory_order_relaxed);
      if (chunk >= job.chunks) break;
      job.fn(job.context, chunk);
    }
    inside_job = before;
  }

  bool enter() {
    int64_t seen = gate_.load(std::memory_order_seq_cst);
    for (;;) {
      if (!(seen & kOpen)) return false;
      if ((int)(seen & (kOpen - 1)) >= allowed_.load(std::memory_order_relaxed)) return false;
      if (gate_.compare_exchange_weak(seen, seen + 1, std::memory_order_seq_cst)) return true;
    }
  }

  void helper() {
    run_below_event_loop();
    uint32_t seen = 0;
    for (;;) {
      const int64_t started = now_ns();
      for (int i = 0; epoch_.load(std::memory_order_seq_cst) == seen; i++) {
        cpu_relax();
        if ((i & 63) == 63 && now_ns() - started > kSpinNanoseconds) {
          std::unique_lock<std::mutex> lock(park_);
          parked_.fetch_add(1, std::memory_order_seq_cst);
          wake_.wait(lock, [&] { return epoch_.load(std::memory_order_seq_cst) != seen; });
          parked_.fetch_sub(1, std::memory_order_seq_cst);
        }
      }
      seen = epoch_.load(std::memory_order_seq_cst);
      if (!enter()) continue;
      cancel_flag = job_.cancel;
      work(job_);
      gate_.fetch_sub(1, std::memory_order_seq_cst);
    }
  }

  void ensure_helpers(int count) {
    while (started_ < count) {
      started_++;
      std::thread([this] { helper(); }).detach();
    }
  }

  std::mutex submit_;
  Job job_{};
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<int64_t> gate_{0};
  alignas(64) std::atomic<uint32_t> epoch_{0};
  std::atomic<int> parked_{0};
  std::atomic<int> allowed_{0};
  std::mutex park_;
  std::condition_variable wake_;
  int started_ = 0;  // guarded by submit_
  std::atomic<int> wanted_{1};
};

int initial_threads() {
  const char* text = std::getenv("OG_THREADS");
  const long asked = text ? std::strtol(text, nullptr, 10) : 0;
  if (asked >= 1 && asked <= kMaxThreads) return (int)asked;
  return hardware_threads();
}

Pool& pool() {
  static Pool* instance = [] {
    Pool* made = new Pool;
    made->set_wanted(initial_threads());
    return made;
  }();
  return *instance;
}

}  // namespace

int hardware_threads() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    const int count = CPU_COUNT(&set);
    if (count >= 1) return count < kMaxThreads ? count : kMaxThreads;
  }
#endif
  const unsigned count = std::thread::hardware_concurrency();
  return count < 1 ? 1 : count < (unsigned)kMaxThreads ? (int)count : kMaxThreads;
}

void parallel_run(int64_t chunks, ChunkFn fn, void* context) {
  if (chunks <= 0) return;
  const Job job{fn, context, chunks, cancel_flag};
  if (chunks == 1 || inside_job) {
    for (int64_t i = 0; i < chunks && !cancelled(); i++) fn(context, i);
    return;
  }
  pool().run(job);
}

void set_threads(int count) { pool().set_wanted(count < 1 ? 1 : count > kMaxThreads ? kMaxThreads : count); }
int threads() { return pool().wanted(); }

const std::atomic<bool>* set_cancel_flag(const std::atomic<bool>* flag) {
  const std::atomic<bool>* before = cancel_flag;
  cancel_flag = flag;
  return before;
}

bool cancelled() { return cancel_flag && cancel_flag->load(std::memory_order_relaxed); }

}  // namespace og
