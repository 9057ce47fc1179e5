/**
 * The memory that frames may name. A frame carries a handle and a byte offset, never a pointer, so that every view can
 * be checked against the block it claims to lie in. One table per environment: its JavaScript thread adds and removes,
 * its executor reads.
 */
#ifndef OMNIGRAD_CORE_SLOTS_H
#define OMNIGRAD_CORE_SLOTS_H

#include <atomic>
#include <cstdint>

namespace og {

class SlotTable {
 public:
  SlotTable() = default;
  ~SlotTable();
  SlotTable(const SlotTable&) = delete;
  SlotTable& operator=(const SlotTable&) = delete;

  /** Called with the block's address and size when its slot is released. */
  typedef void (*Release)(void* base, int64_t bytes);

  /** A handle (never negative, exact as a double), or -1 when the table is full. `release` may be null: the memory is
   * borrowed. */
  int64_t add(void* base, int64_t bytes, Release release);
  /** False if the handle is not in use. */
  bool remove(int64_t handle);
  /** False if the handle is not in use. */
  bool find(int64_t handle, void** base, int64_t* bytes) const;
  int64_t live() const { return live_; }

 private:
  struct Slot {
    std::atomic<void*> base{nullptr};
    std::atomic<int64_t> bytes{0};
    std::atomic<uint32_t> generation{0};  // odd while in use
    Release release = nullptr;
    uint32_t next_free = 0;
  };
  static constexpr int kPageBits = 12, kIndexBits = 24;
  static constexpr uint32_t kPageSize = 1u << kPageBits;
  static constexpr uint32_t kPages = 1u << (kIndexBits - kPageBits);
  static constexpr uint32_t kNone = 0xffffffffu;

  Slot* slot_of(int64_t handle, uint32_t* index) const;

  std::atomic<Slot*> pages_[kPages] = {};
  uint32_t used_ = 0;
  uint32_t free_ = kNone;
  int64_t live_ = 0;
};

}  // namespace og
#endif
