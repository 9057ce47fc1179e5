#include "scratch.h"

#include <cstdlib>

namespace og {
namespace {

constexpr int64_t kAlign = 64;
constexpr int64_t kFirstBlock = 1 << 20;
constexpr int kMaxBlocks = 40;  // sizes double, so this is never reached

struct Block {
  char* base = nullptr;
  int64_t size = 0;
  int64_t start = 0;  // position of the block's first byte in the arena's own numbering
};

/** A stack of blocks. Positions grow monotonically through the blocks; a mark is such a position. */
struct Arena {
  Block blocks[kMaxBlocks];
  int count = 0;    // blocks allocated
  int current = 0;  // block that holds `top`
  int64_t top = 0;

  ~Arena() {
    for (int i = 0; i < count; i++) std::free(blocks[i].base);
  }

  void* take(int64_t bytes) {
    if (bytes < 0 || bytes > (int64_t{1} << 46)) return nullptr;
    bytes = (bytes + kAlign - 1) / kAlign * kAlign;
    if (bytes == 0) bytes = kAlign;
    for (int i = current; i < count; i++) {
      const int64_t from = top > blocks[i].start ? top : blocks[i].start;
      if (from + bytes <= blocks[i].start + blocks[i].size) {
        current = i;
        top = from + bytes;
        return blocks[i].base + (from - blocks[i].start);
      }
    }
    if (count == kMaxBlocks) return nullptr;
    const int64_t previous = count ? blocks[count - 1].size : kFirstBlock / 2;
    const int64_t wanted = bytes > 2 * previous ? bytes : 2 * previous;
    Block block;
    block.size = (wanted + 4095) / 4096 * 4096;
    block.base = static_cast<char*>(std::aligned_alloc(4096, (size_t)block.size));
    if (!block.base && block.size > bytes) {  // the generous size failed; the exact one may not
      block.size = (bytes + 4095) / 4096 * 4096;
      block.base = static_cast<char*>(std::aligned_alloc(4096, (size_t)block.size));
    }
    if (!block.base) return nullptr;
    block.start = count ? blocks[count - 1].start + blocks[count - 1].size : 0;
    current = count;
    blocks[count++] = block;
    top = block.start + bytes;
    return block.base;
  }

  void release(int64_t mark) {
    top = mark;
    while (current > 0 && blocks[current].start >= mark) current--;
    if (mark == 0 && count > 1) {  // several blocks were needed: next time one block should do
      int64_t total = 0;
      for (int i = 0; i < count; i++) {
        total += blocks[i].size;
        std::free(blocks[i].base);
      }
      count = 0;
      current = 0;
      char* base = static_cast<char*>(std::aligned_alloc(4096, (size_t)total));
      if (base) blocks[count++] = {base, total, 0};
    }
  }
};

thread_local Arena arena;

}  // namespace

void* scratch_take(int64_t bytes) { return arena.take(bytes); }
int64_t scratch_mark() { return arena.top; }
void scratch_release(int64_t mark) { arena.release(mark); }

}  // namespace og
