/**
 * discard: the bytes of a dense view are not needed any more. Whole pages within it go back to the system at once,
 * while the address range stays the owner's; what is read there afterwards is undefined (on Linux zeros, or on the
 * first and last page what it was). It is a call so that it has its place in the queue: after whatever still reads the
 * memory, before whoever gets the pages next. Advice: where the system does not take it, nothing happens.
 */
#if defined(_WIN32)
#define NOMINMAX
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "../core/dtype.h"
#include "../core/status.h"
#include "../core/view.h"

namespace og {
namespace OG_ISA {
namespace {

int64_t page_bytes() {
#if defined(_WIN32)
  SYSTEM_INFO info;
  GetSystemInfo(&info);
  return (int64_t)info.dwPageSize;
#else
  return (int64_t)sysconf(_SC_PAGESIZE);
#endif
}

void give_back(char* base, int64_t bytes) {
#if defined(_WIN32)
  (void)DiscardVirtualMemory(base, (size_t)bytes);
#elif defined(__linux__)
  (void)madvise(base, (size_t)bytes, MADV_DONTNEED);
#elif defined(MADV_FREE)
  (void)madvise(base, (size_t)bytes, MADV_FREE);
#else
  (void)base, (void)bytes;
#endif
}

}  // namespace

int32_t kernel_discard(const og_call* call) {
  const og_view& block = call->outputs[0];
  OG_REQUIRE(is_contiguous(block), "discard: the view has gaps");
  const int64_t page = page_bytes(), bytes = count_of(block) * dtype_size(block.dtype);
  const int64_t lead = (page - (int64_t)(reinterpret_cast<uintptr_t>(block.data) % (uintptr_t)page)) % page;
  const int64_t whole = (bytes - lead) / page * page;
  if (whole > 0) give_back(static_cast<char*>(block.data) + lead, whole);
  return OG_OK;
}

}  // namespace OG_ISA
}  // namespace og
