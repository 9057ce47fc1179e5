#include "scheduling.h"

#if defined(__linux__)
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#endif

namespace og {

#if defined(__linux__)

namespace {

constexpr int kComputeNice = 3;
constexpr uint64_t kShortSliceNanoseconds = 500000;
constexpr uint64_t kDefaultSlice = 0;

/** sched_attr of sched_setattr(2), its first version; C libraries do not declare it. */
struct SchedulingAttributes {
  uint32_t size;
  uint32_t policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime;
  uint64_t deadline;
  uint64_t period;
};

/** Sets both for this thread, unless its policy is another than the default one: then somebody chose it. */
void schedule(int32_t nice, uint64_t slice_nanoseconds) {
  SchedulingAttributes attributes = {};
  attributes.size = sizeof attributes;
  if (syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0) != 0) return;
  if (attributes.policy != SCHED_OTHER) return;
  attributes.nice = nice;
  attributes.runtime = slice_nanoseconds;
  (void)!syscall(SYS_sched_setattr, 0, &attributes, 0);
}

}  // namespace

// Relative to the first thread, as the user started the process; a thread starts with its maker's slice and priority.
void run_below_event_loop() { schedule(getpriority(PRIO_PROCESS, (id_t)getpid()) + kComputeNice, kDefaultSlice); }

void prefer_short_slices() { schedule(getpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid)), kShortSliceNanoseconds); }

#else

void run_below_event_loop() {}
void prefer_short_slices() {}

#endif

}  // namespace og
