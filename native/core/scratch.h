/**
 * Per-thread scratch memory. Kernels take temporaries from here and never call malloc; what a frame took is
 * given back when the frame ends, and the blocks stay for the next call.
 */
#ifndef OMNIGRAD_CORE_SCRATCH_H
#define OMNIGRAD_CORE_SCRATCH_H

#include <cstddef>
#include <cstdint>

namespace og {

/** Bytes of this thread's arena, 64-byte aligned; nullptr when the system has none left. */
void* scratch_take(int64_t bytes);
/** Current position, to be handed back to scratch_release. */
int64_t scratch_mark();
void scratch_release(int64_t mark);

/** Everything taken through one frame is released when it goes out of scope. Frames nest. */
class ScratchFrame {
 public:
  ScratchFrame() : mark_(scratch_mark()) {}
  ~ScratchFrame() { scratch_release(mark_); }
  ScratchFrame(const ScratchFrame&) = delete;
  ScratchFrame& operator=(const ScratchFrame&) = delete;

  template <class T>
  T* take(int64_t count) {
    if (count < 0 || count > (int64_t)(PTRDIFF_MAX / sizeof(T))) return nullptr;
    return static_cast<T*>(scratch_take(count * (int64_t)sizeof(T)));
  }

 private:
  int64_t mark_;
};

}  // namespace og

#define OG_SCRATCH(pointer, what)                                                            \
  do {                                                                                       \
    if ((pointer) == nullptr) return ::og::fail(OG_OUT_OF_MEMORY, "no memory for %s", what); \
  } while (0)

#endif
