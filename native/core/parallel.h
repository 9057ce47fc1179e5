/**
 * One process-wide pool of helper threads. Work is cut into chunks whose number and borders depend on shapes only;
 * which thread runs which chunk is decided at run time. A result therefore has the same bits for any thread count.
 */
#ifndef OMNIGRAD_CORE_PARALLEL_H
#define OMNIGRAD_CORE_PARALLEL_H

#include <atomic>
#include <cstdint>

namespace og {

typedef void (*ChunkFn)(void* context, int64_t chunk);

/** Runs fn(context, 0 … chunks-1), each once, and returns when all are done (or skipped, when the job was cancelled).
 */
void parallel_run(int64_t chunks, ChunkFn fn, void* context);

/** Threads that work on one job, the caller included. 1 ≤ count ≤ 256; takes effect with the next job. */
void set_threads(int count);
int threads();
/** Cores this process may use: what set_threads defaults to (OG_THREADS overrides). */
int hardware_threads();

/** While set, this thread's jobs skip their remaining chunks once the flag becomes true. Returns the previous flag. */
const std::atomic<bool>* set_cancel_flag(const std::atomic<bool>* flag);
bool cancelled();

/** One busy-wait iteration. */
void cpu_relax();

namespace {

/** parallel_run for a callable; `body(chunk)` must be safe to call from several threads at once. */
template <class F>
inline void parallel_for(int64_t chunks, const F& body) {
  if (chunks <= 0) return;
  if (chunks == 1) {
    body(0);
    return;
  }
  parallel_run(
      chunks, [](void* context, int64_t chunk) { (*static_cast<const F*>(context))(chunk); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

/** Cuts [0, count) into pieces of `grain` and calls body(begin, end) for each. */
template <class F>
inline void parallel_ranges(int64_t count, int64_t grain, const F& body) {
  if (count <= 0) return;
  if (grain < 1) grain = 1;
  const int64_t chunks = (count + grain - 1) / grain;
  parallel_for(chunks, [&](int64_t chunk) {
    const int64_t begin = chunk * grain;
    body(begin, begin + grain < count ? begin + grain : count);
  });
}

/** Rows per chunk such that a chunk holds about `target` units of work. Depends on the shape only. */
inline int64_t grain_for(int64_t work_per_row, int64_t target = 32768) {
  if (work_per_row < 1) work_per_row = 1;
  const int64_t grain = target / work_per_row;
  return grain < 1 ? 1 : grain;
}

}  // namespace
}  // namespace og
#endif
