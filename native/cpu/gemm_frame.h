/**
 * The float GEMM frame: C = init + A·B for one matrix, any strides, float32 or 16-bit operands, float32 sums.
 *
 * What the panels hold is a Panels type: FloatPanels (below) one step of k in each 32-bit word, PairPanels
 * (gemm_bf16.h) two. Depths and k count elements, `steps` words.
 *
 * The smaller operand is packed whole, by all threads; then the larger dimension is cut into tasks, each of which packs
 * its own part and runs blocks of KC steps of k over MC × (its columns) tiles, so that an A block stays in L2 and a B
 * panel in L1 (Goto and van de Geijn 2008). K is never split between threads and every border depends on the shape
 * only: a result has the same bits for any thread count.
 *
 * Error: sums run in k order within blocks of KC, the blocks are added in order; at most that of a plain float loop.
 * A C that is not dense float32 is collected in a float32 block per task and stored by `emit`, once, after the last k.
 * What is to happen to finished sums (activation, residual) is an Epilogue (gemm_epilogue.h). Other element types enter
 * through pack().
 */
#ifndef OMNIGRAD_CPU_GEMM_FRAME_H
#define OMNIGRAD_CPU_GEMM_FRAME_H

#include "../core/parallel.h"
#include "../core/scratch.h"
#include "../core/status.h"
#include "gemm_epilogue.h"
#include "gemm_far_panels.h"
#include "gemm_pack.h"

namespace og {
namespace {

/** One matrix of the product, by element strides. */
struct MatrixView {
  void* data;
  int32_t dtype;
  int64_t row, column;
};

/** C[m × n] = init + A[m × k] · B[k × n]. `init`: null or float32; the packed and direct ways want its columns dense.
 * `b_lines`: B's elements come from there instead (packed way only); b.row = 1 where a line holds a column, else
 * b.column. `a_lines` likewise; a.column = 1 where a line holds a row. `epilogue` is told that this is matrix `batch`.
 */
struct GemmCall {
  int64_t m, n, k;
  MatrixView a, b, c;
  const float* init;
  int64_t init_row, init_column;
  const LineSource *b_lines = nullptr, *a_lines = nullptr;
  Epilogue epilogue = {};
  int64_t batch = 0;
  const float* packed_b = nullptr;  // B as pack_whole leaves it; read instead of b where the packed way is taken

  /** Rows × columns of C at (row, column) are complete and lie at `sums`. */
  void finish(float* sums, int64_t ld, int64_t row, int64_t column, int64_t rows, int64_t columns) const {
    finish_part(epilogue, sums, ld, batch, row, column, rows, columns);
  }
};

#if OG_LANES == 16
constexpr int64_t kKC = 768, kMC = 20 * kMR, kNC = 2 * kNR;
#elif OG_LANES == 8
constexpr int64_t kKC = 384, kMC = 32 * kMR, kNC = 16 * kNR;
#else
constexpr int64_t kKC = 256, kMC = 24 * kMR, kNC = 32 * kNR;
#endif
/** Columns of a task that packs nothing and has a single tile of rows. */
constexpr int64_t kFewNC = OG_LANES == 16 ? kNC : kNC / 2;
static_assert(kFinishFloats / kMC >= kNR, "a block of rows and one panel must fit a rectangle");
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/**
 * Bytes of weights that a task of a product of few rows reads: enough for streams that stay far apart, little enough
 * for several threads to share the work evenly.
 */
inline int64_t task_bytes(int64_t all) { return all < (1 << 20) ? 1 << 16 : all < (4 << 20) ? 1 << 17 : 1 << 20; }
/**
 * How many of `count` pieces of so many bytes a task takes: task_bytes() or a little more, so that tasks are as long as
 * each other and two or four threads find as many. A short one at the end would leave a thread waiting.
 */
inline int64_t even_grain(int64_t count, int64_t bytes, int64_t unit, int64_t least_pieces) {
  int64_t tasks = ceil_div(count * bytes, task_bytes(count * bytes));
  tasks = tasks > 4 ? tasks / 4 * 4 : tasks == 3 ? 4 : tasks < 1 ? 1 : tasks;
  const int64_t grain = ceil_div(ceil_div(count, tasks), unit) * unit;
  return grain < least_pieces ? least_pieces : grain;
}
/** Floats that the shared packed operand may take; beyond it the product is done in several rounds. */
constexpr int64_t kPackLimit = int64_t{1} << 23;
/** Beyond so many floats a direct C is summed in a round for each block of k (from AVX2 on; elsewhere not measured). */
constexpr int64_t kRoundFloats = OG_LANES >= 8 ? int64_t{1} << 19 : kPackLimit;
/** A task count worth having even for small matrices, so that several threads find work. */
constexpr int64_t kMinTasks = 8;

template <class F>
inline int32_t with_float_storage(int32_t dtype, const F& f) {
  if (dtype == OG_F16) return f(f16{});
  if (dtype == OG_BF16) return f(bf16{});
  return f(float{});
}

/** Panels of float32, whatever the operands are stored in. */
struct FloatPanels : FloatWords {
  template <int P>
  static void pack(const Operand& from, int64_t rows, int64_t depth, float* to) {
    og::pack<P>(from, rows, depth, to);
  }
};

/** Words of a panel row that hold `depth` steps of k. */
template <class Panels>
inline int64_t steps_of(int64_t depth) {
  return ceil_div(depth, Panels::kGroup);
}

/** Length of the k blocks: K cut evenly into pieces of at most kKC words, each a multiple of 16. */
template <class Panels>
inline int64_t block_k(int64_t k) {
  const int64_t blocks = ceil_div(k, kKC * Panels::kGroup);
  return blocks <= 1 ? k : (ceil_div(k, blocks) + 15) / 16 * 16;
}

/**
 * Length of a task: near `wanted`, a multiple of `unit`, the same for all tasks up to rounding. Few tasks are as many
 * as two and four threads share without waiting for one.
 */
inline int64_t task_length(int64_t total, int64_t wanted, int64_t unit) {
  int64_t tasks = ceil_div(total, wanted);
  if (tasks < kMinTasks)
    tasks = least(kMinTasks, ceil_div(total, 2 * unit < wanted ? 2 * unit : wanted));
  else if (tasks < 8 * kMinTasks)
    tasks = ceil_div(tasks, 4) * 4;
  return ceil_div(ceil_div(total, tasks), unit) * unit;
}

/** The same for few rows in far_panels: streams that begin seldom, and as many tasks as are divisible by four. */
inline int64_t far_length(int64_t columns) {
  const int64_t tasks = ceil_div(ceil_div(columns, 2 * kNC), 4) * 4;
  return ceil_div(ceil_div(columns, tasks), kNR) * kNR;
}

/** Where the block of `depth` steps from k on, and of columns from `column` on, lies in a whole packed B. */
template <class Panels>
inline const float* packed_at(const float* packed, int64_t n, int64_t k, int64_t depth, int64_t column) {
  return packed + k / Panels::kGroup * (ceil_div(n, kNR) * kNR) + column * steps_of<Panels>(depth);
}

/** The aligned start of such memory. */
inline float* packed_start(void* memory) {
  return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(memory) + 63) / 64 * 64);
}

/** All of B, packed once for many products: block of k after block of k, panel after panel. */
template <class Panels>
inline void pack_whole(const MatrixView& b, int64_t n, int64_t k, float* to) {
  const int64_t kc = block_k<Panels>(k), panels = ceil_div(n, kNR);
  parallel_ranges(panels, kSpread, [&](int64_t begin, int64_t end) {
    const int64_t column = begin * kNR, columns = least(n, end * kNR) - column;
    for (int64_t at = 0; at < k; at += kc) {
      const int64_t depth = least(kc, k - at);
      Panels::template pack<kNR>(advance({b.data, b.dtype, b.column, b.row}, column, at), columns, depth,
                                 const_cast<float*>(packed_at<Panels>(to, n, at, depth, column)));
    }
  });
}

/**
 * Packed A panels [m rows] times packed B panels [n columns], one block of so many steps. `far`: B is not in L2 yet.
 * `ends`: the block completes the sums of a product with an epilogue, in which out.c lies at (row, column).
 */
template <class Panels>
inline void multiply_panels(int64_t m, int64_t n, int64_t steps, const float* a, const float* b, bool far,
                            const TileOut& out, const GemmCall* ends = nullptr, int64_t row = 0, int64_t column = 0) {
  const TileFn whole = tile_of<Panels>(kMR, kNR);
  const bool few = m <= kFewPanelRows;
  const auto at = [&](int64_t i, int64_t j, const float* next) {
    return TileOut{out.c + i * out.ldc + j, out.ldc, out.init ? out.init + i * out.ldi + j : nullptr, out.ldi, next};
  };
  for (int64_t i0 = 0; i0 < m; i0 += kMC) {
    const int64_t i1 = least(m, i0 + kMC);
    const int64_t width = ends ? kFinishFloats / (i1 - i0) / kNR * kNR : n;
    for (int64_t j0 = 0; j0 < n; j0 += width) {
      const int64_t j1 = least(n, j0 + width);
#if OG_LANES == 8
      if (few && far) {
        far_panels<Panels>(m, j1 - j0, steps, a, b + j0 * steps, at(0, j0, nullptr));
        if (ends) ends->finish(out.c + j0, out.ldc, row, column + j0, m, j1 - j0);
        continue;
      }
#endif
      for (int64_t j = j0; j < j1; j += kNR) {
        const float* panel = b + j * steps;
#if OG_LANES == 16
        if (few && m > kMR) {
          (m == 7 ? tall_tile<Panels, 7> : tall_tile<Panels, 8>)(steps, a, panel, at(0, j, nullptr), n - j);
          continue;
        }
#endif
        const float* next = far && j + kNR < n ? panel + kNR * steps : nullptr;
        for (int64_t i = i0; i < i1; i += kMR) {
          const int64_t rows = m - i, columns = n - j;
          const TileFn one = few                             ? tile_of<Panels, OG_LANES == 16>(rows, columns)
                             : rows >= kMR && columns >= kNR ? whole
                                                             : tile_of<Panels>(rows, columns);
          one(steps, a + i * steps, panel, at(i, j, next), columns);
          if (next && (next += steps / 4 * 16) >= panel + 2 * kNR * steps) next = nullptr;  // a line for four steps
        }
      }
      if (ends) ends->finish(out.c + i0 * out.ldc + j0, out.ldc, row + i0, column + j0, i1 - i0, j1 - j0);
    }
  }
}

/** Stores a float32 block [m × n], leading dimension ld, with its columns as lines, `stride` apart. */
inline void emit_turned(const float* block, int64_t ld, int64_t m, int64_t n, float* to, int64_t stride) {
  for (int64_t i = 0; i < m; i += kLanes) {
    const float* rows[kLanes];
    const int count = lanes_left(m - i, 0);
    for (int64_t j = 0; j < n; j += kLanes) {
      const int here = lanes_left(n - j, 0);
      for (int r = 0; r < count; r++) rows[r] = block + (i + r) * ld + j;
      Vf lines[kBlockK];
      transpose_block(rows, count, here, lines);
#pragma GCC unroll 16
      for (int c = 0; c < kBlockK; c++)
        if (c < here) store_first(to + (j + c) * stride + i, lines[c], count);
    }
  }
}

/** Stores a float32 block [m × n], leading dimension ld, into C at (row, column). */
inline void emit(const float* block, int64_t ld, int64_t m, int64_t n, const MatrixView& c, int64_t row,
                 int64_t column) {
  const int64_t size = dtype_size(c.dtype);
  if (c.dtype == OG_F32 && c.row == 1 && m > 1)
    return emit_turned(block, ld, m, n, static_cast<float*>(c.data) + row + column * c.column, c.column);
  for (int64_t i = 0; i < m; i++) {
    char* to = static_cast<char*>(c.data) + ((row + i) * c.row + column * c.column) * size;
    const float* from = block + i * ld;
    OG_ISA::store_elements(from, n, to, c.dtype, c.column);
  }
}

inline bool is_direct(const MatrixView& c) { return c.dtype == OG_F32 && c.column == 1; }

/** One round: rows [m0, m1), columns [n0, n1), steps [k0, k1) of the product, into a direct C or (k complete) any C. */
template <class Panels>
struct Round {
  const GemmCall* call;
  int64_t m0, m1, n0, n1, k0, k1, kc;
  bool columns_first;   // tasks over columns, A shared; else tasks over rows, B shared
  int64_t length;       // rows or columns of a task
  const float* shared;  // packed panels of the shared operand, block of k after block of k
  int failed;           // a task found no memory

  Operand a_at(int64_t row, int64_t k) const {
    return advance({call->a.data, call->a.dtype, call->a.row, call->a.column, call->a_lines}, row, k);
  }
  Operand b_at(int64_t column, int64_t k) const {
    return advance({call->b.data, call->b.dtype, call->b.column, call->b.row, call->b_lines}, column, k);
  }

  void pack_shared(int64_t begin, int64_t end, float* to) const {
    const int unit = columns_first ? kMR : kNR;
    const int64_t total = columns_first ? m1 - m0 : n1 - n0;
    const int64_t padded = ceil_div(total, unit) * unit;
    for (int64_t k = k0; k < k1; k += kc) {
      const int64_t depth = least(kc, k1 - k);
      float* target = to + (k - k0) / Panels::kGroup * padded + begin * steps_of<Panels>(depth);
      if (columns_first)
        Panels::template pack<kMR>(a_at(m0 + begin, k), end - begin, depth, target);
      else
        Panels::template pack<kNR>(b_at(n0 + begin, k), end - begin, depth, target);
    }
  }

  void run_task(int64_t task) {
    const int64_t total = columns_first ? n1 - n0 : m1 - m0;
    const int64_t shared_total = columns_first ? m1 - m0 : n1 - n0;
    const int shared_unit = columns_first ? kMR : kNR, own_unit = columns_first ? kNR : kMR;
    const int64_t shared_padded = ceil_div(shared_total, shared_unit) * shared_unit;
    const int64_t begin = task * length, end = least(total, begin + length);
    const int64_t row = columns_first ? m0 : m0 + begin, column = columns_first ? n0 + begin : n0;
    const int64_t rows = columns_first ? shared_total : end - begin,
                  columns = columns_first ? end - begin : shared_total;

    const float* packed = columns_first ? call->packed_b : nullptr;
    ScratchFrame scratch;
    float* own =
        packed ? nullptr : scratch.take<float>(ceil_div(end - begin, own_unit) * own_unit * steps_of<Panels>(kc));
    const bool direct = is_direct(call->c);
    float* block =
        direct ? static_cast<float*>(call->c.data) + row * call->c.row + column : scratch.take<float>(rows * columns);
    if ((!own && !packed) || !block) {
      __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
      return;
    }
    const int64_t ldc = direct ? call->c.row : columns;
    for (int64_t k = k0; k < k1 && !cancelled(); k += kc) {
      const int64_t depth = least(kc, k1 - k), steps = steps_of<Panels>(depth);
      TileOut out{block, ldc, block, ldc};
      if (k == 0)
        out.init = call->init ? call->init + row * call->init_row + column : nullptr, out.ldi = call->init_row;
      const float* other = shared + (k - k0) / Panels::kGroup * shared_padded;
      const GemmCall* ends = call->epilogue.run && k + depth == call->k ? call : nullptr;
      if (columns_first) {
        const float* panels = own;
        if (packed)
          panels = packed_at<Panels>(packed, call->n, k, depth, column);
        else
          Panels::template pack<kNR>(b_at(column, k), columns, depth, own);
        multiply_panels<Panels>(rows, columns, steps, other, panels, packed != nullptr, out, ends, row, column);
      } else {
        Panels::template pack<kMR>(a_at(row, k), rows, depth, own);
        multiply_panels<Panels>(rows, columns, steps, own, other, true, out, ends, row, column);
      }
    }
    if (!direct) emit(block, ldc, rows, columns, call->c, row, column);
  }
};

template <class Panels>
inline int32_t gemm_rounds(const GemmCall& call) {
  Round<Panels> round{};
  round.call = &call;
  round.columns_first = call.n >= call.m;
  const int64_t shared_total = round.columns_first ? call.m : call.n;
  const int64_t unit = round.columns_first ? kMR : kNR;
  round.kc = block_k<Panels>(call.k);
  // how much of the shared operand is packed at a time
  const bool packs = round.columns_first || !call.packed_b;
  int64_t depth = call.k, width = shared_total;
  if (packs && steps_of<Panels>(depth) * width > kPackLimit) {
    width = least(shared_total, 4096);
    if (steps_of<Panels>(depth) * width > kPackLimit && is_direct(call.c))
      depth = kPackLimit * Panels::kGroup / width / round.kc * round.kc;
    width = least(shared_total, kPackLimit / steps_of<Panels>(depth) / unit * unit);
    if (width < unit) width = least(unit, shared_total);
  }
  // a block of k at a time where all of it would go to memory and come back: its room stays in the last cache
  if (packs && is_direct(call.c) && steps_of<Panels>(depth) * width > kRoundFloats) depth = least(depth, round.kc);
  ScratchFrame scratch;
  float* shared = packs ? scratch.take<float>(ceil_div(width, unit) * unit * steps_of<Panels>(depth)) : nullptr;
  if (packs) OG_SCRATCH(shared, "packed matrix");
  round.shared = packs ? shared : call.packed_b;
  for (int64_t w = 0; w < shared_total; w += width) {
    const int64_t w1 = least(shared_total, w + width);
    round.m0 = round.columns_first ? w : 0;
    round.m1 = round.columns_first ? w1 : call.m;
    round.n0 = round.columns_first ? 0 : w;
    round.n1 = round.columns_first ? call.n : w1;
    for (int64_t k = 0; k < call.k; k += depth) {
      round.k0 = k;
      round.k1 = least(call.k, k + depth);
      const int64_t grain = unit * kSpread;
      if (packs)
        parallel_ranges(w1 - w, grain, [&](int64_t begin, int64_t end) { round.pack_shared(begin, end, shared); });
      const int64_t total = round.columns_first ? call.n : call.m;
      // a short task where it costs nothing: threads share the work more evenly
      const int64_t wanted = call.packed_b && call.m <= kMR ? kFewNC : kNC;
      const bool far = OG_LANES == 8 && call.packed_b && call.m <= kFewPanelRows;
      round.length = !round.columns_first ? task_length(total, kMC, kMR)
                     : far                ? far_length(total)
                                          : task_length(total, wanted, kNR);
      parallel_for(ceil_div(total, round.length), [&](int64_t task) { round.run_task(task); });
      if (round.failed) return fail(OG_OUT_OF_MEMORY, "matmul: no memory for a task");
    }
  }
  return OG_OK;
}

/** A C that cannot be summed in place and a K too deep to pack at once: the sums live in a float32 copy of C. */
template <class Panels>
inline int32_t gemm_through_copy(const GemmCall& call) {
  ScratchFrame scratch;
  float* sums = scratch.take<float>(call.m * call.n);
  OG_SCRATCH(sums, "float32 sums");
  GemmCall inner = call;
  inner.c = {sums, OG_F32, call.n, 1};
  OG_TRY(gemm_rounds<Panels>(inner));
  parallel_ranges(call.m, grain_for(call.n), [&](int64_t begin, int64_t end) {
    emit(sums + begin * call.n, call.n, end - begin, call.n, call.c, begin, 0);
  });
  return OG_OK;
}

/** m, n, k > 0. */
template <class Panels>
inline int32_t gemm_of(const GemmCall& call) {
  const int64_t shared = least(call.m, call.n), steps = steps_of<Panels>(call.k);
  if (!is_direct(call.c) && shared > 0 && steps > kPackLimit / least(shared, 256))
    return gemm_through_copy<Panels>(call);
  return gemm_rounds<Panels>(call);
}

}  // namespace

/** Compiled once for all kernels of a set, in gemm.cpp. `call` is a GemmCall, a type of which each file has its own. */
namespace OG_ISA {
int32_t gemm_of_floats(const void* call);
/** By a way of gemm_small.h, if one suits shape and layout. */
bool multiply_unpacked(const void* call, int32_t* status);
}  // namespace OG_ISA

namespace {

/** m, n, k > 0. */
inline int32_t gemm(const GemmCall& call) { return OG_ISA::gemm_of_floats(&call); }

/** The product by the way that suits its shape and layout. m, n, k > 0. */
inline int32_t multiply(const GemmCall& call) {
  int32_t status;
  return OG_ISA::multiply_unpacked(&call, &status) ? status : gemm(call);
}

}  // namespace
}  // namespace og
#endif
