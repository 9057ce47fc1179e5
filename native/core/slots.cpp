#include "slots.h"

#include <new>

namespace og {

SlotTable::~SlotTable() {
  for (uint32_t i = 0; i < used_; i++) {
    Slot& slot = pages_[i >> kPageBits].load()[i & (kPageSize - 1)];
    if ((slot.generation.load() & 1) && slot.release) slot.release(slot.base.load(), slot.bytes.load());
  }
  for (auto& page : pages_) delete[] page.load();
}

int64_t SlotTable::add(void* base, int64_t bytes, Release release) {
  uint32_t index = free_;
  if (index == kNone) {
    if (used_ == kPages * kPageSize) return -1;
    index = used_;
    std::atomic<Slot*>& page = pages_[index >> kPageBits];
    if (!page.load(std::memory_order_relaxed)) {
      Slot* made = new (std::nothrow) Slot[kPageSize];
      if (!made) return -1;
      page.store(made, std::memory_order_release);
    }
    used_++;
  }
  Slot& slot = pages_[index >> kPageBits].load(std::memory_order_relaxed)[index & (kPageSize - 1)];
  if (index == free_) free_ = slot.next_free;
  slot.base.store(base, std::memory_order_relaxed);
  slot.bytes.store(bytes, std::memory_order_relaxed);
  slot.release = release;
  const uint32_t generation = slot.generation.load(std::memory_order_relaxed) + 1;
  slot.generation.store(generation, std::memory_order_release);
  live_++;
  // 24 bits of index, 28 of generation: 52 bits, so a double holds the handle exactly
  return (int64_t)index | ((int64_t)(generation & 0xfffffffu) << kIndexBits);
}

SlotTable::Slot* SlotTable::slot_of(int64_t handle, uint32_t* index) const {
  if (handle < 0 || handle >= (int64_t{1} << 52)) return nullptr;
  *index = (uint32_t)(handle & ((1u << kIndexBits) - 1));
  Slot* page = pages_[*index >> kPageBits].load(std::memory_order_acquire);
  if (!page) return nullptr;
  Slot* slot = page + (*index & (kPageSize - 1));
  const uint32_t generation = slot->generation.load(std::memory_order_acquire);
  if (!(generation & 1) || (int64_t)(generation & 0xfffffffu) != handle >> kIndexBits) return nullptr;
  return slot;
}

bool SlotTable::find(int64_t handle, void** base, int64_t* bytes) const {
  uint32_t index;
  const Slot* slot = slot_of(handle, &index);
  if (!slot) return false;
  *base = slot->base.load(std::memory_order_relaxed);
  *bytes = slot->bytes.load(std::memory_order_relaxed);
  return true;
}

bool SlotTable::remove(int64_t handle) {
  uint32_t index;
  Slot* slot = slot_of(handle, &index);
  if (!slot) return false;
  if (slot->release) slot->release(slot->base.load(), slot->bytes.load());
  slot->generation.store(slot->generation.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  slot->base.store(nullptr, std::memory_order_relaxed);
  slot->bytes.store(0, std::memory_order_relaxed);
  slot->next_free = free_;
  free_ = index;
  live_--;
  return true;
}

}  // namespace og
