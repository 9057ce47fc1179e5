/**
 * Several element-wise operations in one pass over memory (chain.h). The call's operands are matrices of one shape with
 * any strides (0 for what is broadcast). Accumulation and error: those of the steps; the bits are theirs.
 * Parallel split: rectangles of about 8192 elements, whole rows where they are shorter, so temporaries stay in L2.
 */
#include "chain.h"

#include <atomic>

#include "../core/parallel.h"

namespace og {
namespace OG_ISA {
namespace {

constexpr int64_t kTile = 8192;

}  // namespace

int32_t kernel_chain(const og_call* call) {
  Chain chain;
  OG_TRY(read_chain(call, &chain));
  if (chain.rows == 0 || chain.cols == 0) return OG_OK;
  int64_t cols = chain.cols < kTile ? chain.cols : kTile, rows = kTile / cols;
  if (chain.counts && chain.cols % 4 != 0 && chain.rows > 1) {  // a rectangle starts at a multiple of 4 elements
    cols = chain.cols;
    rows = rows < 4 ? 4 : rows / 4 * 4;
  }
  const int64_t down = (chain.rows + rows - 1) / rows, across = (chain.cols + cols - 1) / cols;
  const auto tile = [&](int64_t index) {
    const int64_t row = index / across * rows, col = index % across * cols;
    return run_chain(chain, row, col, row + rows < chain.rows ? rows : chain.rows - row,
                     col + cols < chain.cols ? cols : chain.cols - col);
  };
  OG_TRY(tile(0));  // what a step does not take it refuses here, with its message on this thread
  std::atomic<int32_t> status{OG_OK};
  parallel_for(down * across - 1, [&](int64_t index) {
    const int32_t result = tile(index + 1);
    if (result != OG_OK) status.store(result, std::memory_order_relaxed);
  });
  const int32_t result = status.load();
  return result == OG_OK ? OG_OK : fail(result, "chain: a step failed");
}

}  // namespace OG_ISA
}  // namespace og
