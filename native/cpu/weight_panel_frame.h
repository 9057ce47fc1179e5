/**
 * int8 activations times quantised weights: y[m, n] = Σ over blocks of 32 of float(exact integer sum) · x's scale · W's
 * scale, added in float32 in the order of k.
 *
 * Activations are quantised and packed first, by all threads; tasks are panels of weights by blocks of rows whose
 * packed activations stay in L2. A panel of weights then stays in L1 or L2 while all rows of the block pass by. One to
 * six rows read the weights once, one stream a task (one row on AVX2: four). Weights that do not come packed are packed
 * here. The borders of tasks depend on the shape only, and k is never split.
 */
#ifndef OMNIGRAD_CPU_WEIGHT_PANEL_FRAME_H
#define OMNIGRAD_CPU_WEIGHT_PANEL_FRAME_H

#include "weight_panel_pack.h"

namespace og {
namespace {

/** One product; n, k, m > 0. */
struct PanelCall {
  const WeightMatrix* w;
  PanelForm form;
  const uint8_t* panels;  // null: not packed
  int64_t m;
  MatrixView x, y;
  const float* bias;  // null: none
  Epilogue epilogue;
};

constexpr int64_t kPanelShared = int64_t{32} << 20;  // bytes of an operand packed at a time
constexpr int64_t kPanelBlock = 256 << 10;           // bytes of activations that stay in L2
constexpr int64_t kPanelWork = int64_t{1} << 22;     // multiplications of a task, at least

template <class Loops>
struct PanelProduct {
  typedef typename Loops::Kind Kind;
  static constexpr int64_t kRows = Kind::kRows;

  const PanelCall* call;
  int failed = 0;

  int64_t panel_size() const { return call->form.panel_bytes(kPanelColumns); }
  int64_t row_bytes() const { return call->form.k / kActivationBlock * kActivationBytes; }

  /** Rows [begin, end) of x, begin a multiple of kRows, as panels. */
  void pack_rows(int64_t begin, int64_t end, char* to) {
    const PanelCall& p = *call;
    const int64_t k = p.form.k;
    const bool direct = p.x.dtype == OG_F32 && p.x.column == 1;
    ScratchFrame scratch;
    float* staged = direct ? nullptr : scratch.take<float>(k);
    if (!direct && !staged) return __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
    const int32_t middle = panel_middle<Kind>(*p.w);
    for (int64_t row = begin; row < end; row += kRows, to += kRows * row_bytes()) {
      const int height = Loops::height_for(least(kRows, end - row));
      for (int lane = 0; lane < height; lane++) {
        const float* x = nullptr;
        if (row + lane < end) {
          const char* from = static_cast<const char*>(p.x.data) + (row + lane) * p.x.row * dtype_size(p.x.dtype);
          x = reinterpret_cast<const float*>(from);
          if (!direct) {
            OG_ISA::load_elements(from, p.x.dtype, p.x.column, k, staged);
            x = staged;
          }
        }
        pack_activations(x, k, p.form.bits == 4, p.form.zero_bytes != 0, middle, lane, height, to);
      }
    }
  }

  /** Rows [m0, m1), packed in `a`, times panels [begin, end), of which `b` is the first. */
  void multiply(int64_t m0, int64_t m1, const char* a, int64_t begin, int64_t end, const uint8_t* b) const {
    const PanelCall& p = *call;
    const int64_t size = panel_size(), stride = kRows * row_bytes();
    const bool direct = p.y.dtype == OG_F32 && p.y.column == 1;
    for (int64_t panel = begin; panel < end; panel++, b += size) {
      const int64_t column = panel * kPanelColumns, columns = least(kPanelColumns, p.w->n - column);
      alignas(64) float own_bias[kPanelColumns] = {};
      if (p.bias) std::memcpy(own_bias, p.bias + column, (size_t)columns * 4);
      const char* rows = a;
      for (int64_t row = m0; row < m1; row += kRows, rows += stride) {
        const int64_t count = least(kRows, m1 - row);
        const int height = Loops::height_for(count);
        const auto tile = Loops::pick(p.form, height);
        if (direct && height == count && columns == kPanelColumns) {
          tile(p.form, rows, b, own_bias, static_cast<float*>(p.y.data) + row * p.y.row + column, p.y.row);
          continue;
        }
        alignas(64) float block[kRows * kPanelColumns];
        tile(p.form, rows, b, own_bias, block, kPanelColumns);
        if (!direct) finish_part(p.epilogue, block, kPanelColumns, 0, row, column, count, columns);
        emit(block, kPanelColumns, count, columns, p.y, row, column);
      }
      if (direct)
        finish_part(p.epilogue, static_cast<float*>(p.y.data) + m0 * p.y.row + column, p.y.row, 0, m0, column, m1 - m0,
                    columns);
    }
  }

  /**
   * One row times panels [begin, end), which come from memory: those of each quarter side by side, as one stream leaves
   * memory idle (gemm_small.h). Streams run on from task to task. Returns the panels done, all of which are whole.
   */
  int64_t multiply_far(int64_t row, const char* a, int64_t begin, int64_t end, const uint8_t* b) const {
    constexpr int P = Loops::kFarPanels;
    const PanelCall& p = *call;
    if (p.y.dtype != OG_F32 || p.y.column != 1) return 0;
    const int64_t whole = least(end, p.w->n / kPanelColumns) - begin, steps = whole / P, size = panel_size();
    const int64_t far = steps * kPanelColumns, grain = ceil_div(even_grain(whole, size, 1, 1), P);
    const auto tile = Loops::pick_far(p.form);
    parallel_ranges(steps, grain, [&](int64_t first, int64_t last) {
      if (cancelled()) return;
      for (int64_t step = first; step < last; step++) {
        const int64_t column = (begin + step) * kPanelColumns;
        float* y = static_cast<float*>(p.y.data) + row * p.y.row + column;
        alignas(64) float bias[P * kPanelColumns] = {};
        if (p.bias)
          for (int i = 0; i < P; i++)
            std::memcpy(bias + i * kPanelColumns, p.bias + column + i * far, kPanelColumns * sizeof(float));
        tile(p.form, a, b + step * size, steps * size, bias, y, far);
        for (int i = 0; i < P; i++)
          finish_part(p.epilogue, y + i * far, p.y.row, 0, row, column + i * far, 1, kPanelColumns);
      }
    });
    return steps * P;
  }

  /** All rows [m0, m1), packed in `a`, times panels [begin, end). */
  void multiply_all(int64_t m0, int64_t m1, const char* a, int64_t begin, int64_t end, const uint8_t* b) {
    const int64_t size = panel_size(), rows = m1 - m0;
    if (Loops::kFarPanels > 1 && rows == 1) {
      const int64_t done = multiply_far(m0, a, begin, end, b);
      begin += done;
      b += done * size;
      if (begin == end) return;
    }
    int64_t length = kPanelBlock / row_bytes() / kRows * kRows;
    if (length < 4 * kRows) length = 4 * kRows;
    const int64_t blocks = ceil_div(rows, length);
    length = ceil_div(ceil_div(rows, blocks), kRows) * kRows;
    int64_t panels = grain_for(least(rows, length) * kPanelColumns * call->form.k, kPanelWork);
    if (rows <= 2 * kRows) panels = even_grain(end - begin, size, 1, 1);
    const int64_t columns = ceil_div(end - begin, panels);
    parallel_for(blocks * columns, [&](int64_t task) {
      if (cancelled()) return;
      const int64_t row = m0 + task / columns * length, panel = begin + task % columns * panels;
      if (row >= m1) return;
      multiply(row, least(m1, row + length), a + (row - m0) * row_bytes(), panel, least(end, panel + panels),
               b + (panel - begin) * size);
    });
  }

  int32_t run() {
    const PanelCall& p = *call;
    const int64_t count = ceil_div(p.w->n, kPanelColumns), size = panel_size();
    const int64_t height = least(p.m, kPanelShared / row_bytes() / kRows * kRows + kRows);
    const int64_t width = p.panels ? count : least(count, kPanelShared / size + 1);
    for (int64_t n0 = 0; n0 < count; n0 += width) {
      const int64_t n1 = least(count, n0 + width);
      ScratchFrame scratch;
      const uint8_t* panels = p.panels ? p.panels + n0 * size : nullptr;
      if (!panels) {
        uint8_t* own = scratch.take<uint8_t>((n1 - n0) * size);
        OG_SCRATCH(own, "packed weights");
        parallel_ranges(n1 - n0, grain_for(size, 1 << 17), [&](int64_t begin, int64_t end) {
          pack_weight<Kind>(*p.w, p.form, n0 + begin, n0 + end, own + begin * size);
        });
        panels = own;
      }
      for (int64_t m0 = 0; m0 < p.m; m0 += height) {
        const int64_t m1 = least(p.m, m0 + height);
        ScratchFrame rows;
        char* a = rows.take<char>(ceil_div(m1 - m0, kRows) * kRows * row_bytes());
        OG_SCRATCH(a, "coded rows");
        parallel_ranges(ceil_div(m1 - m0, kRows), grain_for(kRows * p.form.k, 1 << 15),
                        [&](int64_t begin, int64_t end) {
                          pack_rows(m0 + begin * kRows, least(m1, m0 + end * kRows), a + begin * kRows * row_bytes());
                        });
        if (failed) return fail(OG_OUT_OF_MEMORY, "linear_weight_only: no memory for a row");
        multiply_all(m0, m1, a, n0, n1, panels);
      }
    }
    return OG_OK;
  }
};

}  // namespace
}  // namespace og
#endif
