/**
 * What a float product does with C beyond the sum: an Epilogue is called for each finished rectangle of C (all of K
 * summed, the bias added) by the thread that finished it, while the rectangle is still in cache.
 *
 * Rectangles hold at most kFinishFloats floats and are as wide as the path that made them allows; together they cover C
 * exactly once. Their borders depend on the shape only, so an epilogue may keep partial results by rectangle; no other
 * thread reads or writes the rectangle meanwhile, and nothing reads it afterwards but what stores it.
 */
#ifndef OMNIGRAD_CPU_GEMM_EPILOGUE_H
#define OMNIGRAD_CPU_GEMM_EPILOGUE_H

#include <cstdint>

namespace og {
namespace {

/**
 * `c` points at element (row, col) of matrix `batch`, rows lie `ldc` floats apart; it is changed in place. It is the
 * output itself, or, where the output is not dense float32, float32 sums that are stored there afterwards. run must not
 * fail or start parallel work, and may take scratch memory. run == null: none.
 */
struct Epilogue {
  void (*run)(const void* context, float* c, int64_t ldc, int64_t batch, int64_t row, int64_t col, int64_t rows,
              int64_t cols) = nullptr;
  const void* context = nullptr;
};

/** 64 KiB: half of the smallest L2 in use, with room for what an epilogue reads beside it. */
constexpr int64_t kFinishFloats = 1 << 14;

/** Rows of a rectangle of `cols` columns. */
inline int64_t finish_rows(int64_t cols) { return cols >= kFinishFloats ? 1 : kFinishFloats / cols; }

/** Calls an epilogue for a finished part of C, in pieces of at most kFinishFloats. */
inline void finish_part(const Epilogue& epilogue, float* c, int64_t ldc, int64_t batch, int64_t row, int64_t col,
                        int64_t rows, int64_t cols) {
  if (!epilogue.run) return;
  const int64_t width = cols < kFinishFloats ? cols : kFinishFloats, height = finish_rows(width);
  for (int64_t i = 0; i < rows; i += height)
    for (int64_t j = 0; j < cols; j += width)
      epilogue.run(epilogue.context, c + i * ldc + j, ldc, batch, row + i, col + j,
                   rows - i < height ? rows - i : height, cols - j < width ? cols - j : width);
}

}  // namespace
}  // namespace og
#endif
