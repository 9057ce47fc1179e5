/**
 * obs_block: the inner loop of GPTQ (Frantar et al. 2023, arXiv:2210.17323, algorithm 1) and SparseGPT (Frantar and
 * Alistarh 2023, arXiv:2301.00774, algorithm 1), after the optimal brain surgeon: columns of a block of weights are
 * rounded or dropped one after the other, and what each loses is made up for by those to its right.
 *
 *   w (R, B), u (B, B), keep (R, B)?, scale (R, B)?, zero (R, B)? → values (R, B), errors (R, B), codes (R, B)?
 *   attrs: lowest and highest code
 *
 * u is the upper Cholesky factor of the inverse Hessian, restricted to the block. For each column j, with w as it is by
 * then: value = keep ? (code − zero)·scale : 0, or w itself without scales; code = clamp(round(w/scale) + zero), ties
 * to even, 0 + zero for NaN and for what is dropped; error = (w − value) / u_jj; w_k −= error·u_jk for k > j. The
 * caller takes errors·u from the columns behind the block.
 *
 * float32 throughout, each result rounded where it arises. Scale and zero may have strides of 0. Rows are independent:
 * kRows of them lie in lanes, one tile a task.
 */
#include "../core/dtype.h"
#include "../core/parallel.h"
#include "../core/scratch.h"
#include "../core/status.h"
#include "../core/view.h"

namespace og {
namespace OG_ISA {
namespace {

constexpr int64_t kRows = 16;
/** Adding and subtracting it rounds floats of magnitude below 2^22 to integers, ties to even. */
constexpr float kRounder = 12582912.f;

struct Block {
  og_view w, u, keep, scale, zero, values, errors, codes;
  int64_t rows, columns;
  float lowest, highest;
};

template <class T>
T at(const og_view& v, int64_t row, int64_t column) {
  return data_of<const T>(v)[row * v.strides[0] + column * v.strides[1]];
}

/** The lanes of one column of an optional operand; rows beyond the last get `fill`. */
template <class T>
void lanes_of(const og_view& v, int64_t row, int64_t rows, int64_t column, float fill, float* to) {
  for (int64_t r = 0; r < kRows; r++) to[r] = r < rows ? (float)at<T>(v, row + r, column) : fill;
}

void round_lanes(const float* w, const float* scale, const float* zero, float lowest, float highest, float* code,
                 float* value) {
  for (int64_t r = 0; r < kRows; r++) {
    const float low = lowest - zero[r], high = highest - zero[r];
    float q = w[r] / scale[r];
    q = q > low ? q : low;  // NaN becomes low here; it is put right below
    q = q < high ? q : high;
    q = (q + kRounder) - kRounder;
    q = w[r] == w[r] ? q : 0.f;
    code[r] = q + zero[r];
    value[r] = q * scale[r];
  }
}

void tile(const Block& block, int64_t row, float* w) {
  const int64_t rows = block.rows - row < kRows ? block.rows - row : kRows, n = block.columns;
  const float* u = data_of<const float>(block.u);
  const int64_t u_row = block.u.strides[0], u_column = block.u.strides[1];
  for (int64_t j = 0; j < n; j++) lanes_of<float>(block.w, row, rows, j, 0, w + j * kRows);
  for (int64_t j = 0; j < n; j++) {
    float* now = w + j * kRows;
    float scale[kRows], zero[kRows] = {}, keep[kRows], code[kRows] = {}, value[kRows], error[kRows];
    for (int64_t r = 0; r < kRows; r++) value[r] = now[r];
    if (is_present(block.scale)) {
      lanes_of<float>(block.scale, row, rows, j, 1, scale);
      if (is_present(block.zero)) lanes_of<int32_t>(block.zero, row, rows, j, 0, zero);
      round_lanes(now, scale, zero, block.lowest, block.highest, code, value);
    }
    if (is_present(block.keep)) {
      lanes_of<uint8_t>(block.keep, row, rows, j, 1, keep);
      for (int64_t r = 0; r < kRows; r++) {
        value[r] = keep[r] != 0 ? value[r] : 0.f;
        code[r] = keep[r] != 0 ? code[r] : zero[r];
      }
    }
    const float pivot = u[j * (u_row + u_column)];
    for (int64_t r = 0; r < kRows; r++) error[r] = (now[r] - value[r]) / pivot;
    for (int64_t k = j + 1; k < n; k++) {
      const float factor = u[j * u_row + k * u_column];
      float* next = w + k * kRows;
      for (int64_t r = 0; r < kRows; r++) next[r] -= error[r] * factor;
    }
    for (int64_t r = 0; r < rows; r++) {
      data_of<float>(block.values)[(row + r) * n + j] = value[r];
      data_of<float>(block.errors)[(row + r) * n + j] = error[r];
      if (!is_present(block.codes)) continue;
      if (block.codes.dtype == OG_I8) {
        data_of<int8_t>(block.codes)[(row + r) * n + j] = (int8_t)code[r];
      } else {
        data_of<uint8_t>(block.codes)[(row + r) * n + j] = (uint8_t)code[r];
      }
    }
  }
}

bool is_matrix(const og_view& v, int32_t dtype, int64_t rows, int64_t columns) {
  return v.dtype == dtype && v.rank == 2 && v.shape[0] == rows && v.shape[1] == columns;
}

}  // namespace

int32_t kernel_obs_block(const og_call* call) {
  const og_view* in = call->inputs;
  const og_view* out = call->outputs;
  Block block = {
      in[0], in[1], in[2], in[3], in[4], out[0], out[1], out[2], 0, 0, (float)call->attrs[0], (float)call->attrs[1]};
  OG_REQUIRE(block.w.rank == 2 && block.w.dtype == OG_F32, "obs_block: w is a float32 matrix");
  const int64_t rows = block.rows = block.w.shape[0], columns = block.columns = block.w.shape[1];
  OG_REQUIRE(is_matrix(block.u, OG_F32, columns, columns), "obs_block: u is a float32 matrix of w's columns");
  OG_REQUIRE(is_matrix(block.values, OG_F32, rows, columns) && is_contiguous(block.values) &&
                 is_matrix(block.errors, OG_F32, rows, columns) && is_contiguous(block.errors),
             "obs_block: values and errors are contiguous and shaped like w");
  OG_REQUIRE(!is_present(block.keep) || is_matrix(block.keep, OG_BOOL, rows, columns), "obs_block: keep is bool");
  const bool coded = is_present(block.scale);
  OG_REQUIRE(!coded || is_matrix(block.scale, OG_F32, rows, columns), "obs_block: scale is float32, shaped like w");
  OG_REQUIRE(!is_present(block.zero) || (coded && is_matrix(block.zero, OG_I32, rows, columns)),
             "obs_block: zero is int32, shaped like w, and belongs to a scale");
  if (is_present(block.codes)) {
    const bool is_signed = block.codes.dtype == OG_I8;
    OG_REQUIRE(coded && is_matrix(block.codes, is_signed ? OG_I8 : OG_U8, rows, columns) && is_contiguous(block.codes),
               "obs_block: codes are contiguous int8 or uint8, shaped like w, and belong to a scale");
    OG_REQUIRE(block.lowest <= block.highest && block.lowest >= (is_signed ? -128 : 0) &&
                   block.highest <= (is_signed ? 127 : 255),
               "obs_block: the codes do not fit their dtype");
  }
  OG_REQUIRE(!coded || (block.lowest >= -32768 && block.highest <= 32767), "obs_block: codes of at most 16 bits");
  if (rows == 0 || columns == 0) return OG_OK;
  std::atomic<bool> starved{false};
  parallel_ranges((rows + kRows - 1) / kRows, grain_for(kRows * columns * columns / 2),
                  [&](int64_t begin, int64_t end) {
                    ScratchFrame frame;
                    float* w = frame.take<float>(columns * kRows);
                    if (w == nullptr) {
                      starved = true;
                      return;
                    }
                    for (int64_t i = begin; i < end; i++) tile(block, i * kRows, w);
                  });
  OG_SCRATCH(starved ? nullptr : &block, "obs_block's tile");
  return OG_OK;
}

}  // namespace OG_ISA
}  // namespace og
