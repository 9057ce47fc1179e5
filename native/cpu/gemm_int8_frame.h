/**
 * The int8 GEMM frame: exact int32 sums of one matrix product, handed to gemm_int8_finish.h tile by tile.
 *
 * As gemm_frame.h: the smaller operand is packed whole by all threads, the larger dimension is cut into tasks that pack
 * their own part (nothing, for weights that come packed). Unlike there, a tile runs over all of K: at a quarter of the
 * bytes a panel of B still fits L2, no partial sums go through memory, and the epilogue is applied to registers just
 * stored. Few rows against weights whose k is dense are dot products in four far streams, from the unpacked weights.
 * K is never split between threads, every border depends on the shape only, and integers do not round: the sums have
 * the same bits for any order.
 */
#ifndef OMNIGRAD_CPU_GEMM_INT8_FRAME_H
#define OMNIGRAD_CPU_GEMM_INT8_FRAME_H

#include <initializer_list>

#include "gemm_int8_call.h"
#include "gemm_int8_finish.h"
#include "gemm_int8_pack.h"
#include "gemm_int8_split.h"

namespace og {
namespace {

/** Numbers along one axis; data null: absent. */
struct Numbers {
  const void* data;
  int32_t dtype;
  int64_t stride;

  int32_t integer(int64_t i) const { return data ? static_cast<const int32_t*>(data)[i * stride] : 0; }
};

/** One matrix of the product: bytes, and everything that belongs to its rows and columns. */
struct Int8Call {
  int64_t m, n, k;
  Bytes a, b;  // b.row: along its columns
  bool a_signed, b_signed;
  bool seven_bit;             // B' is promised to lie in [-64, 64]; checked when it is packed
  const uint8_t* panels;      // B packed by matmul_int8_pack; null: not
  const int32_t* panel_sums;  // Σ B' of its columns
  const uint32_t* lists;      // of what its panels leave out, if they are split
  Numbers a_zero, b_zero, a_scale, b_scale, bias;
  MatrixView c, residual;
  int activation;
  float out_scale;
  int32_t out_zero;
};

/** Rows up to which the unpacked weights are read; beyond, tiles over packed ones are faster if there are any. */
constexpr int64_t kInt8FewRows = 8, kInt8FewPacked = 2;
constexpr int64_t kInt8Shared = int64_t{32} << 20;  // bytes of the shared operand packed at a time
constexpr int64_t kInt8Block = 384 << 10;           // bytes of A that stay in L2
constexpr int64_t kInt8Tasks = 16;                  // tasks over columns, at least

enum Int8Failure { kNoFailure = 0, kNoMemory = 1, kNotSevenBit = 2, kNotSplit = 3 };

/** What all loops share: the terms of rows and columns. Not a template, so that it is compiled once. */
struct Int8Terms {
  const Int8Call* call;
  Finish finish;
  int32_t uniform_zero;  // za' where all rows share it
  bool needs_sums;       // Σ B' of columns
  bool needs_zeros;      // zb' of columns
  bool centred;          // A' is staged less its zero points, and za' is 0
  int failed;

  void fail_with(int failure) { __atomic_store_n(&failed, failure, __ATOMIC_RELAXED); }

  /** Terms of the rows, in memory of `scratch`; A' = A + shift. False when it is short. */
  bool prepare(int32_t shift, ScratchFrame& scratch) {
    const Int8Call& p = *call;
    finish = {{nullptr, nullptr, nullptr},
              p.c,
              p.residual,
              p.activation,
              code_grid(p.out_scale, p.out_zero, p.c.dtype == OG_I8)};
    failed = kNoFailure;
    uniform_zero = centred ? 0 : p.a_zero.integer(0) + shift;
    if (!centred && p.a_zero.data && p.a_zero.stride != 0 && p.m > 1) {
      int32_t* zero = scratch.take<int32_t>(p.m);
      if (!zero) return false;
      bool same = true;
      for (int64_t i = 0; i < p.m; i++) {
        zero[i] = p.a_zero.integer(i) + shift;
        same = same && zero[i] == zero[0];
      }
      if (!same) finish.rows.zero = zero;
    }
    needs_sums = finish.rows.zero || uniform_zero != 0;
    needs_zeros = p.b_zero.data || !p.b_signed;
    if (needs_zeros) {
      int32_t* sum = scratch.take<int32_t>(p.m);
      if (!sum) return false;
      parallel_ranges(p.m, grain_for(p.k, 1 << 17), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
          const int64_t zero = centred ? p.a_zero.integer(i) : 0;
          sum[i] = (int32_t)((uint32_t)row_sum(i) + (uint32_t)((shift - zero) * p.k));
        }
      });
      finish.rows.sum = sum;
    }
    if (finish.floats()) {
      float* scale = scratch.take<float>(p.m);
      if (!scale) return false;
      for (int64_t i = 0; i < p.m; i++) scale[i] = 1.f;
      if (p.a_scale.data) OG_ISA::load_elements(p.a_scale.data, p.a_scale.dtype, p.a_scale.stride, p.m, scale);
      finish.rows.scale = scale;
    }
    return true;
  }

  template <class T>
  static int32_t sum_bytes(const T* from, int64_t stride, int64_t n) {
    int32_t sum = 0;
    if (stride == 1)
      for (int64_t i = 0; i < n; i++) sum += from[i];
    else
      for (int64_t i = 0; i < n; i++) sum += from[i * stride];
    return sum;
  }
  int32_t row_sum(int64_t row) const {
    const uint8_t* from = call->a.data + row * call->a.row;
    return call->a_signed ? sum_bytes(reinterpret_cast<const int8_t*>(from), call->a.k, call->k)
                          : sum_bytes(from, call->a.k, call->k);
  }

  /** Terms of columns [begin, end); `sums`: their Σ B', or null where needs_sums is false. False: no memory. */
  bool prepare_columns(int64_t begin, int64_t end, const int32_t* sums, ScratchFrame& scratch, ColumnTerms& at) const {
    const Int8Call& p = *call;
    const int64_t n = end - begin, room = n + 2 * kLanes;
    at = {scratch.take<int32_t>(room), nullptr, nullptr, nullptr, nullptr};
    at.sum = finish.rows.zero ? scratch.take<int32_t>(room) : at.add;
    at.zero = needs_zeros ? scratch.take<int32_t>(room) : at.add;
    if (!at.add || !at.sum || !at.zero) return false;
    for (int64_t j = 0; j < room; j++) at.add[j] = 0;
    const int32_t shift = shift_of_b(p.b_signed);
    if (needs_zeros) {
      for (int64_t j = 0; j < n; j++) at.zero[j] = p.b_zero.integer(begin + j) + shift;
      for (int64_t j = n; j < room; j++) at.zero[j] = 0;
    }
    if (needs_sums) {
      const uint32_t k = (uint32_t)p.k;
      for (int64_t j = 0; j < n; j++) {
        const uint32_t sum = (uint32_t)sums[j] - (needs_zeros ? k * (uint32_t)at.zero[j] : 0u);
        if (finish.rows.zero)
          at.sum[j] = (int32_t)sum;
        else
          at.add[j] = (int32_t)(0u - (uint32_t)uniform_zero * sum);
      }
      if (finish.rows.zero)
        for (int64_t j = n; j < room; j++) at.sum[j] = 0;
    }
    if (!finish.floats()) return true;
    at.scale = scratch.take<float>(room);
    at.bias = scratch.take<float>(room);
    if (!at.scale || !at.bias) return false;
    for (int64_t j = 0; j < room; j++) at.scale[j] = p.b_scale.data && j < n ? 0.f : 1.f, at.bias[j] = 0.f;
    if (p.b_scale.data) stage_numbers(p.b_scale, begin, n, at.scale);
    if (p.bias.data) stage_numbers(p.bias, begin, n, at.bias);
    return true;
  }
  static void stage_numbers(const Numbers& from, int64_t begin, int64_t n, float* to) {
    OG_ISA::load_elements(static_cast<const char*>(from.data) + begin * from.stride * dtype_size(from.dtype),
                          from.dtype, from.stride, n, to);
  }

  /** The lines that the epilogue will touch, while the tile computes. */
  void fetch_output(int64_t row, int64_t rows, int64_t column, int64_t columns) const {
    for (const MatrixView* one : {&finish.c, &finish.residual}) {
      if (!one->data || one->column != 1) continue;
      const int64_t size = dtype_size(one->dtype);
      const char* at = static_cast<const char*>(one->data) + (row * one->row + column) * size;
      for (int64_t r = 0; r < rows; r++, at += one->row * size) {
        __builtin_prefetch(at, 1);
        __builtin_prefetch(at + (columns - 1) * size, 1);
      }
    }
  }
};

template <class Loops>
struct Int8Gemm : Int8Terms {
  typedef typename Loops::Kind Kind;
  static constexpr int kRows = Kind::kRows, kColumns = Loops::kColumns;
  static constexpr int kBeyond = Kind::kSplit ? 32 : 0;  // bytes behind packed A that are read
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

  /** Packs columns [begin, end), their sums, and what their panels leave out. */
  void split_columns(int64_t begin, int64_t end, uint8_t* panels, int32_t* sums, uint32_t* lists) {
    const int64_t panel = panel_bytes_b<Kind>(call->k), room = packed_room(call->k, kColumns);
    ScratchFrame scratch;
    uint32_t* by_column = scratch.take<uint32_t>(room);
    if (!by_column) return fail_with(kNoMemory);
    for (int64_t j = begin; j < end && !__atomic_load_n(&failed, __ATOMIC_RELAXED); j += kColumns, panels += panel) {
      pack_columns(j, least(end, j + kColumns), panels, sums + j);
      if (!split_panel(packed_steps<Kind>(call->k), panels, lists + j / kColumns * room, room, by_column))
        fail_with(kNotSplit);
    }
  }

  /** Memory for what is left out of one panel. */
  SplitWords take_words(ScratchFrame& scratch) const {
    const int64_t room = packed_room(call->k, kColumns);
    return {scratch.take<int32_t>(room), scratch.take<int32_t>(room), scratch.take<int32_t>(room), 0};
  }
  /** Packed rows [m0, m1) times packed columns [n0, n1), whose terms are `at`. */
  void multiply_panels(int64_t m0, int64_t m1, int64_t n0, int64_t n1, const int32_t* a, const uint8_t* b,
                       const ColumnTerms& at) {
    ScratchFrame scratch;
    SplitWords words{};
    alignas(64) int32_t first[Kind::kSplit ? kSplitPanels * kRows * kColumns : 1];
    if (Kind::kSplit) {
      words = take_words(scratch);
      if (!words.offsets || !words.words || !words.columns) return fail_with(kNoMemory);
    }
    const int64_t steps = packed_steps<Kind>(call->k);
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
        if (Kind::kSplit)
          unpack_entries(call->lists + j / kColumns * packed_room(call->k, kColumns), Kind::kRows * 4, words);
        for (int64_t i = i0; i < i1; i += kRows) {
          const int64_t rows = least(kRows, m1 - i), columns = least(kColumns, n1 - j);
          int height;
          const auto tile = Loops::pick(rows, call->panels && i == i0, height);
          const int32_t* from = reinterpret_cast<const int32_t*>(a_bytes + (i - m0) / kRows * a_panel);
          const int32_t* add = here.add;
          if constexpr (Kind::kSplit) {
            const int64_t at_once = panels_at_once(a_panel), row = (i - i0) % (at_once * kRows);
            if (row == 0)
              sum_remainders_of<kRows>(least(at_once, ceil_div(i1 - i, kRows)), words,
                                       reinterpret_cast<const char*>(from), a_panel, here.add, first);
            add = first + row * kColumns;
          }
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
    int32_t* to = reinterpret_cast<int32_t*>(scratch.take<char>(panels * panel_bytes_a<Kind>(p.k) + kBeyond));
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
      char* a = scratch.take<char>(ceil_div(m1 - m0, kRows) * panel + kBeyond);
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

  /** A' of one row as whole vectors, zeros beyond k. Words of 16 bits also hold a code less its zero point. */
  void stage_row(int64_t row, uint8_t* to, int64_t bytes) const {
    const Int8Call& p = *call;
    const uint8_t* from = p.a.data + row * p.a.row;
    std::memset(to, 0, (size_t)bytes);
    if (Kind::kWide) {
      int16_t* words = reinterpret_cast<int16_t*>(to);
      const int zero = p.a_zero.integer(row);
      const auto stage = [&](auto* codes, int64_t stride) {
        for (int64_t k = 0; k < p.k; k++) words[k] = (int16_t)(codes[k * stride] - zero);
      };
      const int8_t* with_sign = reinterpret_cast<const int8_t*>(from);
      if (p.a.k == 1)  // known to the loop
        p.a_signed ? stage(with_sign, 1) : stage(from, 1);
      else
        p.a_signed ? stage(with_sign, p.a.k) : stage(from, p.a.k);
    } else {
      const uint8_t flip = (Kind::kTurns ? !p.a_signed : flips_a<Kind>(p.a_signed)) ? 0x80 : 0;
      for (int64_t k = 0; k < p.k; k++) to[k] = from[k * p.a.k] ^ flip;
    }
  }

  static constexpr int kStreams = Loops::kStreams;
  static constexpr int kDotRows = OG_LANES == 16 ? 4 : 2;

  /** What turned dot products of each row have too much: 128·Σ A'. */
  uint32_t more_of_row[kInt8FewRows];

  /** Four columns of a few-rows task, and where their results go. */
  struct FourColumns {
    const uint8_t* b[kStreams];  // their weights
    int64_t ahead;               // bytes from them to those that come after them
    int64_t columns[kStreams];   // from the task's first
    int count;
    int32_t *block, *sums;  // [row][column]; [column], or null
    int64_t ld;
  };

  template <int R, bool Flip, bool Sums, bool Fetch>
  void dot_rows(int64_t i, const uint8_t* a, int64_t lda, const FourColumns& at) const {
    typename Loops::Four out[R], of_columns{};
    Loops::template dots<R, Flip, Sums, Fetch>(call->k, a + i * lda, lda, at.b, at.ahead, out, of_columns);
    for (int s = 0; s < at.count; s++) {
      for (int r = 0; r < R; r++) at.block[(i + r) * at.ld + at.columns[s]] = (int32_t)out[r][s];
      if (Sums) at.sums[at.columns[s]] = (int32_t)of_columns[s];
    }
  }
  /** The first rows wait for memory; while the others compute, the next weights are fetched. */
  template <int R, bool Flip>
  void dot_some(int64_t i, const uint8_t* a, int64_t lda, const FourColumns& at) const {
    if (i > 0)
      dot_rows<R, Flip, false, true>(i, a, lda, at);
    else if (at.sums)
      dot_rows<R, Flip, true, false>(i, a, lda, at);
    else
      dot_rows<R, Flip, false, false>(i, a, lda, at);
  }

  template <bool Flip>
  void few_rows_task(int64_t begin, int64_t end, const uint8_t* a, int64_t lda) {
    const Int8Call& p = *call;
    ScratchFrame scratch;
    const int64_t n = end - begin, ld = n + kLanes, quarter = ceil_div(n, kStreams);
    int32_t* block = scratch.take<int32_t>(p.m * ld);
    const bool own_sums = needs_sums && !p.panel_sums;
    int32_t* sums = own_sums ? scratch.take<int32_t>(n) : nullptr;
    if (!block || (own_sums && !sums)) return fail_with(kNoMemory);
    for (int64_t i = 0; i < p.m; i++)
      for (int64_t j = n; j < ld; j++) block[i * ld + j] = 0;
    FourColumns four;
    four.block = block;
    four.sums = sums;
    four.ld = ld;
    for (int64_t j = 0; j < quarter; j++) {
      four.count = 0;
      four.ahead = j + 1 < quarter ? p.b.row : 0;
      for (int s = 0; s < kStreams; s++) {
        const int64_t column = s * quarter + j;
        const bool real = column < n;  // else stream 0 once more, whose sums are not stored
        four.columns[s] = column;
        four.b[s] = p.b.data + (begin + (real ? column : j)) * p.b.row;
        four.count += real;
      }
      int64_t i = 0;
      for (; i + kDotRows <= p.m; i += kDotRows) dot_some<kDotRows, Flip>(i, a, lda, four);
      if (kDotRows > 2)
        for (; i + 2 <= p.m; i += 2) dot_some<2, Flip>(i, a, lda, four);
      for (; i < p.m; i++) dot_some<1, Flip>(i, a, lda, four);
    }
    if (Kind::kTurns && own_sums)
      for (int64_t j = 0; j < n; j++) sums[j] = (int32_t)((uint32_t)sums[j] - 128u * (uint32_t)p.k);
    ColumnTerms at;
    if (!prepare_columns(begin, end, own_sums ? sums : p.panel_sums ? p.panel_sums + begin : nullptr, scratch, at))
      return fail_with(kNoMemory);
    for (int64_t i = 0; i < p.m; i++) {
      int32_t* row = block + i * ld;
      for (int64_t j = 0; j < n; j++) row[j] = (int32_t)((uint32_t)row[j] + (uint32_t)at.add[j] - more_of_row[i]);
    }
    finish_block(finish, at, block, ld, 0, p.m, begin, n);
  }

  void few_rows() {
    const Int8Call& p = *call;
    ScratchFrame scratch;
    const int64_t unit = kLanes * Kind::kGroup, lda = ceil_div(p.k, unit) * kLanes * 4;
    uint8_t* a = scratch.take<uint8_t>(p.m * lda);
    if (!a) return fail_with(kNoMemory);
    for (int64_t i = 0; i < p.m; i++) {
      stage_row(i, a + i * lda, lda);
      more_of_row[i] = 0;
      if (Kind::kTurns)
        more_of_row[i] = 128u * (uint32_t)sum_bytes(reinterpret_cast<const int8_t*>(a + i * lda), 1, p.k);
    }
    parallel_ranges(p.n, even_grain(p.n, p.k, kStreams, 16), [&](int64_t begin, int64_t end) {
      if (cancelled()) return;
      if (p.b_signed)
        few_rows_task<false>(begin, end, a, lda);
      else
        few_rows_task<true>(begin, end, a, lda);
    });
  }

  /** Whether m rows are dot products with b as it is, whose k is `stride` bytes apart. */
  static bool reads_unpacked(int64_t m, int64_t n, int64_t stride, bool packed) {
    return m <= (packed ? kInt8FewPacked : kInt8FewRows) && stride == 1 && n >= Loops::kStreams;
  }

  int run() {
    ScratchFrame scratch;
    const bool few = !Kind::kSplit && reads_unpacked(call->m, call->n, call->b.k, call->panels);
    centred = few && Kind::kWide;  // no sums of weights to take while they are read
    const int32_t shift = few && Kind::kTurns ? (call->a_signed ? 0 : -128) : shift_of_a<Kind>(call->a_signed);
    if (!prepare(shift, scratch)) return kNoMemory;
    if constexpr (!Kind::kSplit)
      if (few) few_rows();
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
