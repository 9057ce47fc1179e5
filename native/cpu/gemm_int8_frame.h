/**
 * The int8 GEMM frame: exact int32 sums of one matrix product, handed to gemm_int8_finish.h tile by tile.
 *
 * As gemm_frame.h: the smaller operand is packed whole by all threads, the larger dimension is cut into tasks that pack
 * their own part (nothing, for weights that come packed). Unlike there, a tile runs over all of K: at a quarter of the
 * bytes a panel of B still fits L2, no partial sums go through memory, and the epilogue is applied to registers just
 * stored. Few rows against weights whose k is dense take another way (gemm_int8_few_rows.h). K is never split between
 * threads, every border depends on the shape only, and integers do not round: the sums have the same bits for any
 * order.
 */
#ifndef OMNIGRAD_CPU_GEMM_INT8_FRAME_H
#define OMNIGRAD_CPU_GEMM_INT8_FRAME_H

#include "gemm_int8_few_rows.h"

namespace og {
namespace {

constexpr int64_t kInt8Shared = int64_t{32} << 20;  // bytes of the shared operand packed at a time
constexpr int64_t kInt8Block = 384 << 10;           // bytes of A that stay in L2
constexpr int64_t kInt8Tasks = 16;                  // tasks over columns, at least

template <class Loops>
struct Int8Gemm : Int8Terms {
  typedef typename Loops::Kind Kind;
  static constexpr int kRows = Kind::kRows, kColumns = Loops::kColumns;
  static_assert(kColumns <= 2 * kLanes, "terms of columns are padded to so many");

  /** Packs columns [begin, end) and their sums. */
  void pack_columns(int64_t begin, int64_t end, uint8_t* panels, int32_t* sums) {
    const Int8Call& p = *call;
    const int64_t panel = panel_bytes_b<Kind>(p.k);
    pack_b<Kind>({p.b.data + begin * p.b.row, p.b.row, p.b.k}, p.b_signed, end - begin, p.k, panels);
    const int64_t count = ceil_div(end - begin, kColumns);
    if (p.seven_bit && !fits_seven_bits(panels, count * panel)) fail_with(kNotSevenBit);
    if (sums)
      for (int64_t j = 0; j < count; j++)
        Loops::sum_panel(packed_steps<Kind>(p.k), panels + j * panel, sums + j * kColumns);
  }

  /** Packed rows [m0, m1) times packed columns [n0, n1), whose terms are `at`. */
  void multiply_panels(int64_t m0, int64_t m1, int64_t n0, int64_t n1, const int32_t* a, const uint8_t* b,
                       const ColumnTerms& at) {
    ScratchFrame scratch;
    const int64_t steps = packed_steps<Kind>(call->k);
    int32_t* first = nullptr;  // what the sums of a panel begin with
    if constexpr (Kind::kChained) {
      first = scratch.take<int32_t>(Loops::first_length(steps));
      if (!first) return fail_with(kNoMemory);
    }
    const int64_t a_panel = panel_bytes_a<Kind>(call->k), b_panel = panel_bytes_b<Kind>(call->k);
    const char* a_bytes = reinterpret_cast<const char*>(a);
    const bool plain = finish.is_plain(), scaled = finish.is_scaled(), coded = finish.is_coded();
    int64_t block = a_panel > 0 ? kInt8Block / a_panel * kRows : m1 - m0;
    if (block < 4 * kRows) block = 4 * kRows;
    for (int64_t i0 = m0; i0 < m1; i0 += block) {
      const int64_t i1 = least(m1, i0 + block);
      for (int64_t j = n0; j < n1; j += kColumns) {
        const uint8_t* panel = b + (j - n0) / kColumns * b_panel;
        const ColumnTerms here{at.add + (j - n0), at.sum + (j - n0), at.zero + (j - n0),
                               at.scale ? at.scale + (j - n0) : nullptr, at.bias ? at.bias + (j - n0) : nullptr};
        const int32_t* add = here.add;
        if constexpr (Kind::kChained) {
          Loops::begin_panel(steps, panel, here.add, first);
          add = first;
        }
        for (int64_t i = i0; i < i1; i += kRows) {
          const int64_t rows = least(kRows, m1 - i), columns = least(kColumns, n1 - j);
          int height;
          const auto tile = Loops::pick(rows, call->panels && i == i0, height);
          const int32_t* from = reinterpret_cast<const int32_t*>(a_bytes + (i - m0) / kRows * a_panel);
          if ((plain || scaled) && height == rows && columns == kColumns) {
            const TileScale scale{scaled ? finish.rows.scale + i : nullptr, here.scale, here.bias};
            tile(steps, from, panel, add, static_cast<int32_t*>(finish.c.data) + i * finish.c.row + j, finish.c.row,
                 scaled ? &scale : nullptr);
            if (scaled) finish_scaled(finish, i, rows, j);
            continue;
          }
          fetch_output(i, rows, j, columns);
          if (coded && height == rows && columns == kColumns) {
            alignas(64) float y[kRows * kColumns];
            const TileScale scale{finish.rows.scale + i, here.scale, here.bias};
            tile(steps, from, panel, add, reinterpret_cast<int32_t*>(y), kColumns, &scale);
            finish_coded(finish, i, rows, j, y, kColumns);
            continue;
          }
          alignas(64) int32_t sums[kRows * kColumns];
          tile(steps, from, panel, add, sums, kColumns, nullptr);
          finish_block(finish, here, sums, kColumns, i, rows, j, columns);
        }
      }
    }
  }

  int32_t* pack_rows(int64_t begin, int64_t end, ScratchFrame& scratch) const {
    const Int8Call& p = *call;
    const int64_t panels = ceil_div(end - begin, kRows);
    int32_t* to = reinterpret_cast<int32_t*>(scratch.take<char>(panels * panel_bytes_a<Kind>(p.k)));
    if (to) pack_a<Kind>({p.a.data + begin * p.a.row, p.a.row, p.a.k}, p.a_signed, end - begin, p.k, to);
    return to;
  }

  /** All columns [n0, n1) packed in `panels` against rows [begin, end), which are packed here. */
  void row_task(int64_t begin, int64_t end, int64_t n0, int64_t n1, const uint8_t* panels, const int32_t* sums) {
    ScratchFrame scratch;
    ColumnTerms at;
    const int32_t* a = pack_rows(begin, end, scratch);
    if (!a || !prepare_columns(n0, n1, sums, scratch, at)) return fail_with(kNoMemory);
    multiply_panels(begin, end, n0, n1, a, panels, at);
  }

  /** Rows [m0, m1) packed in `a` against columns [begin, end), which are packed here unless they come packed. */
  void column_task(int64_t begin, int64_t end, int64_t m0, int64_t m1, const int32_t* a) {
    ScratchFrame scratch;
    ColumnTerms at;
    const int64_t panel = panel_bytes_b<Kind>(call->k), count = ceil_div(end - begin, kColumns);
    const uint8_t* panels = call->panels ? call->panels + begin / kColumns * panel : nullptr;
    const int32_t* sums = call->panel_sums ? call->panel_sums + begin : nullptr;
    if (!panels) {
      uint8_t* own = scratch.take<uint8_t>(count * panel);
      int32_t* own_sums = needs_sums ? scratch.take<int32_t>(count * kColumns) : nullptr;
      if (!own || (needs_sums && !own_sums)) return fail_with(kNoMemory);
      pack_columns(begin, end, own, own_sums);
      panels = own;
      sums = own_sums;
    }
    if (!prepare_columns(begin, end, sums, scratch, at)) return fail_with(kNoMemory);
    multiply_panels(m0, m1, begin, end, a, panels, at);
  }

  /** Tasks over columns; A is packed first, in rounds if it is very large. */
  void by_columns() {
    const Int8Call& p = *call;
    const int64_t panel = panel_bytes_a<Kind>(p.k);
    int64_t width = p.m;
    if (ceil_div(p.m, kRows) * panel > kInt8Shared)
      width = kInt8Shared / panel > 0 ? kInt8Shared / panel * kRows : kRows;
    // panels of B that fit half of L2 with room for A
    int64_t wanted = panel > 0 ? (256 << 10) / panel_bytes_b<Kind>(p.k) * kColumns : 8 * kColumns;
    // nine tasks of 256 columns would leave one of two threads idle for a tenth of the time
    wanted = least(least(wanted, 8 * kColumns), p.n / (kInt8Tasks * kColumns) * kColumns);
    if (wanted < kColumns) wanted = kColumns;
    for (int64_t m0 = 0; m0 < p.m && !failed; m0 += width) {
      const int64_t m1 = least(p.m, m0 + width);
      ScratchFrame scratch;
      char* a = scratch.take<char>(ceil_div(m1 - m0, kRows) * panel);
      if (!a) return fail_with(kNoMemory);
      parallel_ranges(m1 - m0, kRows * 4, [&](int64_t begin, int64_t end) {
        pack_a<Kind>({p.a.data + (m0 + begin) * p.a.row, p.a.row, p.a.k}, p.a_signed, end - begin, p.k,
                     reinterpret_cast<int32_t*>(a + begin / kRows * panel));
      });
      const int64_t length = task_length(p.n, wanted, kColumns);
      parallel_for(ceil_div(p.n, length), [&](int64_t task) {
        if (!cancelled())
          column_task(task * length, least(p.n, (task + 1) * length), m0, m1, reinterpret_cast<int32_t*>(a));
      });
    }
  }

  /** Tasks over rows; B is packed first, unless it comes packed. */
  void by_rows() {
    const Int8Call& p = *call;
    const int64_t panel = panel_bytes_b<Kind>(p.k), a_panel = panel_bytes_a<Kind>(p.k);
    int64_t width = p.n;
    if (!p.panels && ceil_div(p.n, kColumns) * panel > kInt8Shared)
      width = kInt8Shared / panel > 0 ? kInt8Shared / panel * kColumns : kColumns;
    int64_t wanted = a_panel > 0 ? kInt8Block / a_panel * kRows : 16 * kRows;
    wanted = wanted < 2 * kRows ? 2 * kRows : least(wanted, 16 * kRows);
    for (int64_t n0 = 0; n0 < p.n && !failed; n0 += width) {
      const int64_t n1 = least(p.n, n0 + width), count = ceil_div(n1 - n0, kColumns);
      ScratchFrame scratch;
      const uint8_t* panels = p.panels;
      const int32_t* sums = p.panel_sums;
      if (!panels) {
        uint8_t* own = scratch.take<uint8_t>(count * panel);
        int32_t* own_sums = needs_sums ? scratch.take<int32_t>(count * kColumns) : nullptr;
        if (!own || (needs_sums && !own_sums)) return fail_with(kNoMemory);
        parallel_ranges(count, 8, [&](int64_t begin, int64_t end) {
          pack_columns(n0 + begin * kColumns, least(n1, n0 + end * kColumns), own + begin * panel,
                       own_sums ? own_sums + begin * kColumns : nullptr);
        });
        panels = own;
        sums = own_sums;
      }
      if (failed) return;
      const int64_t length = task_length(p.m, wanted, kRows);
      parallel_for(ceil_div(p.m, length), [&](int64_t task) {
        if (!cancelled()) row_task(task * length, least(p.m, (task + 1) * length), n0, n1, panels, sums);
      });
    }
  }

  int run() {
    ScratchFrame scratch;
    const bool few = !Kind::kChained && Int8FewRows<Loops>::serves(call->m, call->n, call->b.k, call->panels);
    centred = few && Kind::kWide;  // no sums of weights to take while they are read
    if (!prepare(few ? Int8FewRows<Loops>::shift(call->a_signed) : shift_of_a<Kind>(call->a_signed), scratch))
      return kNoMemory;
    if constexpr (!Kind::kChained)
      if (few) Int8FewRows<Loops>{this, {}}.run();
    if (!few && call->n >= call->m)
      by_columns();
    else if (!few)
      by_rows();
    return failed;
  }
};

}  // namespace
}  // namespace og
#endif
