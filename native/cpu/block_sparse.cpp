/**
 * Products with a block-sparse weight W [N, K]: square blocks of b = 16, 32 or 64, of which crow [N/b + 1] and col
 * [blocks] name the kept ones in compressed rows of blocks (csr.h); values are [blocks, b, b], row-major.
 *
 * block_linear:  y[M, N] = x[M, K] · Wᵀ · scale + bias; scale [N] and bias [N] optional, values of y's dtype or int8.
 * block_sampled: the kept blocks of aᵀ·b for a [M, N], b [M, K] (dense columns of b): the gradient of the values.
 *
 * Each block is a dense register tile: a few rows of W times a panel of x (sparse_panel.h), whose sums stay in
 * registers over all blocks of the row; up to eight rows of x are dot products along k instead. On AVX2, from five rows
 * of x on, blocks are turned instead of x and y: a tile is a few rows of x as they lie times up to 32 rows of W.
 * float32 sums in the order of k (dot products: in vector lanes); int8 is exact in float32. Error at most
 * (n + 6)·2^-24·Σ|v·x|·|scale| for the n elements of a row's blocks, and M·2^-24·Σ|a·b|. float64 on `reference`.
 *
 * Parallel split: block rows by panels or groups of rows of x; single blocks for block_sampled. No sum is split.
 */
#include "csr.h"
#include "stage.h"
#ifndef OG_IS_REFERENCE
#include "gemm_small.h"
#include "sparse_panel.h"
#endif

namespace og {
namespace OG_ISA {
namespace {

#ifdef OG_IS_REFERENCE

double element(const og_view& v, int64_t offset) {
  if (v.dtype == OG_F64) return data_of<const double>(v)[offset];
  if (v.dtype == OG_I8) return data_of<const int8_t>(v)[offset];
  return data_of<const float>(v)[offset];
}
void put(const og_view& v, int64_t offset, double value) {
  if (v.dtype == OG_F64)
    data_of<double>(v)[offset] = value;
  else
    data_of<float>(v)[offset] = (float)value;
}

int32_t multiply(const Csr& w, int64_t b, const og_call* call) {
  const og_view &x = call->inputs[0], &values = call->inputs[3], &scale = call->inputs[4], &bias = call->inputs[5];
  const og_view& y = call->outputs[0];
  parallel_ranges(x.shape[0], csr_grain(w, w.rows * b * b, 1 << 17), [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; m++)
      for (int64_t n = 0; n < w.rows * b; n++) {
        double sum = 0;
        for (int64_t e = w.crow[n / b]; e < w.crow[n / b + 1]; e++)
          for (int64_t k = 0; k < b; k++)
            sum += element(values, (e * b + n % b) * b + k) *
                   element(x, m * x.strides[0] + (w.col[e] * b + k) * x.strides[1]);
        if (is_present(scale)) sum *= element(scale, n);
        if (is_present(bias)) sum += element(bias, n);
        put(y, m * y.strides[0] + n * y.strides[1], sum);
      }
  });
  return OG_OK;
}

int32_t sample(const Csr& s, int64_t size, const og_call* call) {
  const og_view &a = call->inputs[0], &b = call->inputs[1], &out = call->outputs[0];
  parallel_ranges(s.rows, csr_grain(s, a.shape[0] * size * size, 1 << 17), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin * size; n < end * size; n++)
      for (int64_t e = s.crow[n / size]; e < s.crow[n / size + 1]; e++)
        for (int64_t k = 0; k < size; k++) {
          double sum = 0;
          for (int64_t m = 0; m < a.shape[0]; m++)
            sum += element(a, m * a.strides[0] + n * a.strides[1]) *
                   element(b, m * b.strides[0] + (s.col[e] * size + k) * b.strides[1]);
          put(out, (e * size + n % size) * size + k, sum);
        }
  });
  return OG_OK;
}

#else

#if OG_LANES == 16 || defined(__aarch64__)
constexpr int kBlockRows = 4;  // 16 sums, 4 runs of x
#else
constexpr int kBlockRows = 2;  // 8 sums, 4 runs of x
#endif

/**
 * Rows of x from which on AVX2 turns blocks, and how many share a turned row of blocks at most: what L2 holds of x
 * while all rows of blocks pass. Turning a block costs as much as ten of its products with a row of x.
 */
constexpr int64_t kTurnedFrom = 5, kTurnedRows = 129;

const float* floats_of(const float* block, int64_t, float*) { return block; }
const float* floats_of(const int8_t* block, int64_t n, float* buffer) {
  widen_codes(block, n, buffer);
  return buffer;
}

/** f of an integral constant, the side of the blocks. */
template <class F>
auto with_side(int64_t b, const F& f) {
  if (b == 16) return f(std::integral_constant<int, 16>{});
  if (b == 32) return f(std::integral_constant<int, 32>{});
  return f(std::integral_constant<int, 64>{});
}

template <class T>
struct BlockLinear {
  Csr w;
  int64_t b;
  const T* values;
  const float *scale, *bias;
  float* y;
  int64_t y_row;
  bool past;  // whether tiles of y go past the caches
  int32_t failed;

  /** All blocks of one block row as floats, one after the other. */
  const float* row_floats(int64_t row, float* buffer) const {
    return floats_of(values + w.begin(row) * b * b, w.length(row) * b * b, buffer);
  }
  int64_t buffer_floats() const { return std::is_same<T, float>::value ? 1 : w.columns * b * b; }

  /** kBlockRows rows of W against V vectors of a panel of `width`. */
  template <int V>
  OG_INLINE void rows_of(const float* blocks, int64_t row, const float* panel, int64_t width, float* tile) const {
    Vf x[kBlockRows][V];
#pragma GCC unroll 4
    for (int i = 0; i < kBlockRows; i++)
#pragma GCC unroll 4
      for (int j = 0; j < V; j++) x[i][j] = Vf{};
    for (int64_t e = 0; e < w.length(row); e++) {
      const float* v = blocks + e * b * b;
      const float* from = panel + w.col[w.begin(row) + e] * b * width;
#pragma GCC unroll 2
      for (int64_t k = 0; k < b; k++) {
        Vf run[V];
#pragma GCC unroll 4
        for (int j = 0; j < V; j++) run[j] = load(from + k * width + j * kLanes);
#pragma GCC unroll 4
        for (int i = 0; i < kBlockRows; i++) {
          const Vf factor = set1(v[i * b + k]);
#pragma GCC unroll 4
          for (int j = 0; j < V; j++) x[i][j] = fma(factor, run[j], x[i][j]);
        }
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < kBlockRows; i++)
#pragma GCC unroll 4
      for (int j = 0; j < V; j++) store(tile + i * width + j * kLanes, x[i][j]);
  }

  template <int V>
  void run_tile(const Panels& panels, int64_t panel, int64_t m0, int64_t row, float* tile, float* buffer) const {
    constexpr int part = V < 4 ? V : 4;
    constexpr int64_t width = V * kLanes;
    const float* blocks = row_floats(row, buffer);
    for (int64_t i = 0; i < b; i += kBlockRows)
      for (int j = 0; j < V; j += part)
        rows_of<part>(blocks + i * b, row, panels.at(panel) + j * kLanes, width, tile + i * width + j * kLanes);
    store_tile(tile, width, b, panels.rows(panel), scale ? scale + row * b : nullptr, bias ? bias + row * b : nullptr,
               y + (m0 + panel * kPanelWidth) * y_row + row * b, y_row, past);
  }

  /** Blocks of side B as [k][n] instead of [n][k], in panels of P columns. */
  template <int B, int P>
  void turn(const float* from, int64_t blocks, float* to) const {
    for (int j = 0; j < B; j += P)
      for (int64_t e = 0; e < blocks; e++, to += B * P)
        for (int n = 0; n < P; n += kLanes)
          for (int k = 0; k < B; k += kBlockK) {
            const float* rows[kLanes];
#pragma GCC unroll 16
            for (int i = 0; i < kLanes; i++) rows[i] = from + (e * B + j + n + i) * B + k;
            Vf columns[kBlockK];
            transpose_block(rows, kLanes, kBlockK, columns);
#pragma GCC unroll 16
            for (int i = 0; i < kBlockK; i++) store(to + (k + i) * P + n, columns[i]);
          }
  }

  /** R rows of x against a panel of J vectors of a row of blocks of side B, which gives columns of y from n on. */
  template <int B, int R, int J>
  OG_INLINE void turned_tile(const float* panel, int64_t row, int64_t n, const float* x, int64_t x_row, int64_t ahead,
                             float* to) const {
    Vf sums[R][J];
#pragma GCC unroll 6
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int j = 0; j < J; j++) sums[r][j] = Vf{};
#pragma GCC unroll 6
    for (int r = 0; r < R; r++)
      for (int j = 0; j < J * kLanes; j += 16) __builtin_prefetch(to + r * y_row + j, 1);
    const int32_t* at = w.col + w.begin(row);
    const int64_t blocks = w.length(row);
    for (int64_t e = 0; e < blocks; e++) {
      const float* v = panel + e * B * J * kLanes;
      const float* from = x + at[e] * B;
      for (int r = 0; r < R; r++)  // pieces of rows are too short for hardware to see where they lead
        for (int k = 0; k < B; k += 16) __builtin_prefetch(from + ahead + r * x_row + k);
#pragma GCC unroll 4
      for (int k = 0; k < B; k++) {
        if constexpr (R <= J) {  // what there is less of stays in registers
          Vf factor[R];
#pragma GCC unroll 4
          for (int r = 0; r < R; r++) factor[r] = set1(from[r * x_row + k]);
#pragma GCC unroll 4
          for (int j = 0; j < J; j++) {
            const Vf run = load(v + (k * J + j) * kLanes);
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) sums[r][j] = fma(factor[r], run, sums[r][j]);
          }
        } else {
          Vf run[J];
#pragma GCC unroll 4
          for (int j = 0; j < J; j++) run[j] = load(v + (k * J + j) * kLanes);
#pragma GCC unroll 6
          for (int r = 0; r < R; r++) {
            const Vf factor = set1(from[r * x_row + k]);
#pragma GCC unroll 4
            for (int j = 0; j < J; j++) sums[r][j] = fma(factor, run[j], sums[r][j]);
          }
        }
      }
    }
#pragma GCC unroll 4
    for (int j = 0; j < J; j++) {
      const Vf offset = bias ? load(bias + n + j * kLanes) : Vf{};
#pragma GCC unroll 6
      for (int r = 0; r < R; r++)
        store(to + r * y_row + j * kLanes,
              scale ? fma(sums[r][j], load(scale + n + j * kLanes), offset) : sums[r][j] + offset);
    }
  }

  /** Rows [begin, end) of x against one row of blocks; twelve sums at a time. */
  template <int B>
  void turned_row(int64_t row, const float* blocks, float* turned, const float* x, int64_t x_row, int64_t begin,
                  int64_t end) const {
    constexpr int J = B / kLanes < 4 ? B / kLanes : 4, R = 12 / J, P = J * kLanes;
    turn<B, P>(blocks, w.length(row), turned);
    for (int j = 0; j < B; j += P) {
      const int64_t n = row * B + j;
      const auto tile = [&](auto rows, int64_t i) __attribute__((always_inline)) {
        turned_tile<B, decltype(rows)::value, J>(turned + j * w.length(row) * B, row, n, x + i * x_row, x_row,
                                                 i + 2 * R <= end ? R * x_row : 0, y + i * y_row + n);
      };
      int64_t i = begin;
      for (; i + R <= end; i += R) tile(std::integral_constant<int, R>{}, i);
      for (; R > 3 && i + 3 <= end; i += 3) tile(std::integral_constant<int, 3>{}, i);
      for (; i + 2 <= end; i += 2) tile(std::integral_constant<int, 2>{}, i);
      if (i < end) tile(std::integral_constant<int, 1>{}, i);
    }
  }

  /** Many rows of x, each dense, `x_row` apart. */
  template <int B>
  int32_t run_turned(const float* x, int64_t x_row, int64_t m) {
    const int64_t groups = (m + kTurnedRows - 1) / kTurnedRows;
    const int64_t grain = csr_grain(w, B * B * (m / groups), 1 << 16);
    parallel_ranges(w.rows * groups, grain, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; i++) {
        const int64_t row = i % w.rows, group = i / w.rows;
        ScratchFrame own;
        float* turned = own.take<float>(w.length(row) * B * B + 1);
        float* buffer = own.take<float>(buffer_floats());
        if (!turned || !buffer) {
          __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
          return;
        }
        turned_row<B>(row, row_floats(row, buffer), turned, x, x_row, m * group / groups, m * (group + 1) / groups);
      }
    });
    return failed ? fail(OG_OUT_OF_MEMORY, "block_linear: no memory for a row of blocks") : OG_OK;
  }

  int32_t run(const Operand& x, int64_t m) {
    ScratchFrame scratch;
    const int64_t rows = m < kPanelRows ? m : kPanelRows, k = w.columns * b;
    Panels panels{rows, k, scratch.take<float>(Panels::floats(rows, k) + 1)};
    OG_SCRATCH(panels.data, "panels of x");
    for (int64_t m0 = 0; m0 < m; m0 += kPanelRows) {
      panels.m = m - m0 < kPanelRows ? m - m0 : kPanelRows;
      panels.fill(advance(x, m0, 0));
      parallel_for(w.rows * panels.count(), [&](int64_t chunk) {
        const int64_t panel = chunk % panels.count(), row = chunk / panels.count();
        const StreamEnd streams{past};
        ScratchFrame own;
        float* tile = own.take<float>(b * kPanelWidth);
        float* buffer = own.take<float>(buffer_floats());
        if (!tile || !buffer) {
          __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
          return;
        }
        with_vectors(panel_vectors(panels.rows(panel)),
                     [&](auto v) { run_tile<decltype(v)::value>(panels, panel, m0, row, tile, buffer); });
      });
      if (failed) return fail(OG_OUT_OF_MEMORY, "block_linear: no memory for a tile");
    }
    return OG_OK;
  }

  /** Few rows of x, each dense, `x_row` apart: four rows of W at a time, sums along k. */
  int32_t run_rows(const float* x, int64_t x_row, int64_t m) {
    parallel_ranges(w.rows, csr_grain(w, b * b * m, 1 << 16), [&](int64_t begin, int64_t end) {
      ScratchFrame own;
      float* buffer = own.take<float>(buffer_floats());
      if (!buffer) {
        __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
        return;
      }
      for (int64_t row = begin; row < end; row++) {
        const float* blocks = row_floats(row, buffer);
        for (int64_t i = 0; i < b; i += 4)
          for (int64_t r = 0; r < m; r++) {
            Vf s[4] = {};
            for (int64_t e = 0; e < w.length(row); e++) {
              const float* v = blocks + (e * b + i) * b;
              const float* from = x + r * x_row + w.col[w.begin(row) + e] * b;
              for (int64_t k = 0; k < b; k += kLanes) {
                const Vf line = load(from + k);
#pragma GCC unroll 4
                for (int j = 0; j < 4; j++) s[j] = fma(line, load(v + j * b + k), s[j]);
              }
            }
            for (int j = 0; j < 4; j++) {
              const int64_t n = row * b + i + j;
              const float total = sum(s[j]);
              y[r * y_row + n] = (scale ? total * scale[n] : total) + (bias ? bias[n] : 0.f);
            }
          }
      }
    });
    return failed ? fail(OG_OUT_OF_MEMORY, "block_linear: no memory for a row of blocks") : OG_OK;
  }
};

template <class T>
int32_t multiply_as(const Csr& w, int64_t b, const og_call* call) {
  const og_view &x = call->inputs[0], &y = call->outputs[0];
  const auto vector = [&](int i) {
    return is_present(call->inputs[i]) ? data_of<const float>(call->inputs[i]) : nullptr;
  };
  BlockLinear<T> body{
      w, b, data_of<const T>(call->inputs[3]), vector(4), vector(5), data_of<float>(y), y.strides[0], stores_past(y),
      0};
  if constexpr (kLanes == 8)
    if (x.shape[0] >= kTurnedFrom && x.strides[1] == 1)
      return with_side(b, [&](auto side) {
        return body.template run_turned<decltype(side)::value>(data_of<const float>(x), x.strides[0], x.shape[0]);
      });
  if (x.shape[0] <= 8 && x.strides[1] == 1) return body.run_rows(data_of<const float>(x), x.strides[0], x.shape[0]);
  return body.run({x.data, OG_F32, x.strides[0], x.strides[1]}, x.shape[0]);
}

int32_t multiply(const Csr& w, int64_t b, const og_call* call) {
  return call->inputs[3].dtype == OG_I8 ? multiply_as<int8_t>(w, b, call) : multiply_as<float>(w, b, call);
}

#if OG_LANES == 16 || defined(__aarch64__)
constexpr int kSampleRows = 8;
#else
constexpr int kSampleRows = 4;
#endif

int32_t sample(const Csr& s, int64_t size, const og_call* call) {
  const og_view &a = call->inputs[0], &b = call->inputs[1];
  const int64_t m = a.shape[0];
  float* out = data_of<float>(call->outputs[0]);
  parallel_ranges(s.rows, csr_grain(s, m * size * size, 1 << 18), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++)
      for (int64_t e = s.crow[row]; e < s.crow[row + 1]; e++)
        for (int64_t i = 0; i < size; i += kSampleRows)
          for (int64_t j = 0; j < size;) {
            const float* left = data_of<const float>(a) + (row * size + i) * a.strides[1];
            const float* right = data_of<const float>(b) + s.col[e] * size + j;
            const TileOut to{out + (e * size + i) * size + j, size, nullptr, 0};
            if (j + 2 * kLanes <= size) {
              direct_tile<kSampleRows, 2>(m, left, a.strides[1], a.strides[0], right, b.strides[0], to, 2 * kLanes);
              j += 2 * kLanes;
            } else {
              direct_tile<kSampleRows, 1>(m, left, a.strides[1], a.strides[0], right, b.strides[0], to, kLanes);
              j += kLanes;
            }
          }
  });
  return OG_OK;
}

#endif

int32_t check_blocks(const char* op, const og_view& values, const Csr& w, int64_t* size) {
  OG_REQUIRE(values.rank == 3 && values.shape[0] == w.count && values.shape[1] == values.shape[2],
             "%s: the values must be [blocks, b, b]", op);
  const int64_t b = values.shape[1];
  OG_SUPPORTED(b == 16 || b == 32 || b == 64, "%s: blocks must be 16, 32 or 64 wide", op);
  OG_SUPPORTED(is_dense(values), "%s: the values must be dense in memory", op);
  *size = b;
  return OG_OK;
}

}  // namespace

int32_t kernel_block_linear(const og_call* call) {
  const char* op = "block_linear";
  const og_view &x = call->inputs[0], &values = call->inputs[3], &y = call->outputs[0];
  OG_REQUIRE(x.rank == 2 && y.rank == 2 && x.shape[0] == y.shape[0], "%s: x is [M, K] and the result [M, N]", op);
  OG_SUPPORTED((y.dtype == OG_F32 || y.dtype == OG_F64) && x.dtype == y.dtype,
               "%s: x and the result must be float32 or float64", op);
  OG_SUPPORTED(values.dtype == y.dtype || values.dtype == OG_I8, "%s: values must be of x's dtype or int8", op);
  OG_SUPPORTED(y.strides[1] == 1 || y.shape[1] == 1, "%s: the columns of the result must be dense", op);
  OG_REQUIRE(values.rank == 3 && values.shape[1] > 0 && x.shape[1] % values.shape[1] == 0,
             "%s: the blocks do not divide K", op);
  Csr w;
  int64_t b = 0;
  OG_TRY(read_checked_csr(op, call->inputs[1], call->inputs[2], x.shape[1] / values.shape[1], y, &w));
  OG_TRY(check_blocks(op, values, w, &b));
  OG_REQUIRE(w.rows * b == y.shape[1], "%s: crow has %lld rows of blocks, the result %lld columns", op,
             (long long)w.rows, (long long)y.shape[1]);
  OG_TRY(check_vector(op, "scale", call->inputs[4], w.rows * b, y.dtype));
  OG_TRY(check_vector(op, "bias", call->inputs[5], w.rows * b, y.dtype));
  if (x.shape[0] == 0 || w.rows == 0) return OG_OK;
  return multiply(w, b, call);
}

int32_t kernel_block_sampled(const og_call* call) {
  const char* op = "block_sampled";
  const og_view &a = call->inputs[0], &b = call->inputs[1], &out = call->outputs[0];
  OG_REQUIRE(a.rank == 2 && b.rank == 2 && a.shape[0] == b.shape[0], "%s: a is [M, N] and b [M, K]", op);
  OG_SUPPORTED((out.dtype == OG_F32 || out.dtype == OG_F64) && a.dtype == out.dtype && b.dtype == out.dtype,
               "%s: a, b and the result must be float32 or float64", op);
  OG_SUPPORTED(b.strides[1] == 1 || b.shape[1] <= 1, "%s: the columns of b must be dense", op);
  OG_REQUIRE(out.rank == 3 && out.shape[1] > 0 && b.shape[1] % out.shape[1] == 0, "%s: the blocks do not divide K", op);
  Csr s;
  int64_t size = 0;
  OG_TRY(read_checked_csr(op, call->inputs[2], call->inputs[3], b.shape[1] / out.shape[1], out, &s));
  OG_TRY(check_blocks(op, out, s, &size));
  OG_REQUIRE(s.rows * size == a.shape[1], "%s: crow has %lld rows of blocks, a %lld columns", op, (long long)s.rows,
             (long long)a.shape[1]);
  return sample(s, size, call);
}

}  // namespace OG_ISA
}  // namespace og
