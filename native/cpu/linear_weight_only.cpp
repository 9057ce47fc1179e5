/**
 * linear_weight_only: y[m, n] = x[m, k] · Wᵀ (+ bias[n]) for weights W[n, k] held as codes with a scale (and a zero
 * point) for each group of a row; or, transposed, y[m, k] = x[m, n] · W, the gradient of x. Inputs x, codes, scale,
 * zero?, bias?. attrs: scheme (0 symmetric, 1 affine, 2 NF4), bits (8, 4), int8 activations (4-bit codes only),
 * transposed.
 *
 * codes: int8 or uint8 [n, k], or uint8 [n, k/2] with two 4-bit codes a byte; scale float32 or float16 [n, k/group],
 * zero int32 or uint8 likewise; group a multiple of 32. x, bias and y float32, float16 or bfloat16 in any mix (float64:
 * `reference`), x and y of any strides.
 *
 * Up to 16 rows: weights become floats in registers (weight_rows.h), or x becomes int8 (weight_dots.h). More rows, and
 * transposed: the float GEMM, weights dequantised while packing (gemm_frame.h). Sums in float32 (int8: int32, then
 * float32); error against exact arithmetic on the dequantised weights at most K·2^-24·Σ|x|·scale·(|code| + |zero|).
 * Parallel split: by weight rows, or that of the GEMM; by shape only. `reference`: one loop an element, in k order, in
 * double.
 */
#include "../core/parallel.h"
#include "../core/scratch.h"
#include "../core/status.h"
#include "weight_matrix.h"
#ifndef OG_IS_REFERENCE
#include "weight_dots.h"
#endif

namespace og {
namespace OG_ISA {
namespace {

constexpr int64_t kCodedRows = 16;

struct Call {
  og_view x, y, bias;
  WeightMatrix w;
  bool coded, transposed;

  int64_t m() const { return x.shape[0]; }
};

/** Views without elements have strides that say nothing. */
bool is_dense(const og_view& v) { return count_of(v) == 0 || is_contiguous(v); }

int32_t read_call(const og_call* call, Call* to) {
  const og_view &x = call->inputs[0], &codes = call->inputs[1], &scale = call->inputs[2], &zero = call->inputs[3],
                &bias = call->inputs[4], &y = call->outputs[0];
  const double* a = call->attrs;
  OG_REQUIRE(a[0] == 0 || a[0] == 1 || a[0] == 2, "linear_weight_only: unknown scheme");
  OG_REQUIRE(a[1] == 8 || a[1] == 4, "linear_weight_only: 8 or 4 bits");
  const int kind = (int)a[0], bits = (int)a[1];
  to->coded = a[2] != 0;
  to->transposed = a[3] != 0;
  OG_SUPPORTED(dtype_is_float(x.dtype) && dtype_is_float(y.dtype) && (!is_present(bias) || dtype_is_float(bias.dtype)),
               "linear_weight_only: x, bias and y must be floats");
  OG_REQUIRE(x.rank == 2 && y.rank == 2 && codes.rank == 2 && scale.rank == 2 && x.shape[0] == y.shape[0],
             "linear_weight_only: x, codes, scale and y must be matrices, x and y of as many rows");
  WeightMatrix& w = to->w;
  w.n = codes.shape[0];
  w.k = to->transposed ? y.shape[1] : x.shape[1];
  OG_REQUIRE((to->transposed ? x.shape[1] : y.shape[1]) == w.n, "linear_weight_only: x or y does not fit the weight");
  OG_REQUIRE(bits == 4 ? codes.dtype == OG_U8 && w.k % 2 == 0 && codes.shape[1] == w.k / 2
                       : codes.dtype == (kind == 0 ? OG_I8 : OG_U8) && codes.shape[1] == w.k,
             "linear_weight_only: codes do not fit x");
  OG_REQUIRE(kind != 2 || bits == 4, "linear_weight_only: NF4 has 4 bits");
  OG_REQUIRE(is_dense(codes) && is_dense(scale), "linear_weight_only: codes and scales must be contiguous");
  w.groups = scale.shape[1];
  OG_REQUIRE(scale.shape[0] == w.n && (w.k == 0 ? true : w.groups > 0 && w.k % w.groups == 0),
             "linear_weight_only: scales do not divide the rows");
  w.group = w.groups > 0 ? w.k / w.groups : 0;
  OG_SUPPORTED(w.group % 32 == 0, "linear_weight_only: groups must be a multiple of 32");
  OG_SUPPORTED(scale.dtype == OG_F32 || scale.dtype == OG_F16, "linear_weight_only: scales are float32 or float16");
  if (is_present(zero)) {
    OG_REQUIRE(kind == 1 && same_shape(zero, scale) && is_dense(zero),
               "linear_weight_only: zero points are affine, contiguous, and as many as scales");
    OG_SUPPORTED(zero.dtype == OG_I32 || zero.dtype == OG_U8, "linear_weight_only: zero points are int32 or uint8");
  }
  if (is_present(bias))
    OG_REQUIRE(bias.rank == 1 && bias.shape[0] == w.n && !to->transposed, "linear_weight_only: bias must be [n]");
  w.codes = data_of<const uint8_t>(codes);
  w.bits = bits;
  w.is_signed = kind == 0 && bits == 8;
  w.nf4 = kind == 2;
  w.scale = scale.data;
  w.half_scale = scale.dtype == OG_F16;
  w.zero = is_present(zero) ? zero.data : nullptr;
  w.byte_zero = zero.dtype == OG_U8;
  w.middle = kind == 0 && bits == 4 ? 8.f : 0.f;
  to->x = x;
  to->y = y;
  to->bias = bias;
  return OG_OK;
}

#ifdef OG_IS_REFERENCE

double element(const og_view& v, int64_t offset) {
  double value = 0;
  with_storage(v.dtype, [&](auto type) { value = widen<double>(data_of<const decltype(type)>(v)[offset]); });
  return value;
}
void store_element(const og_view& v, int64_t offset, double value) {
  with_storage(v.dtype, [&](auto type) {
    typedef decltype(type) T;
    data_of<T>(v)[offset] = Narrow<T, double>::from(value);
  });
}

/** What int8 activations make of one block of 32. */
void round_block(double* x) {
  float largest = 0;
  for (int i = 0; i < 32; i++)
    if (!(std::fabs((float)x[i]) <= largest)) largest = largest != largest ? largest : std::fabs((float)x[i]);
  float scale = largest / 127.f;
  if (scale == 0) scale = 1;
  for (int i = 0; i < 32; i++) {
    const Grid<float> grid{scale, -127.f, 127.f, 0.f};
    x[i] = (double)integer_code((float)x[i], grid, nullptr) * (double)scale;
  }
}

bool rounds_activations(const Call& c) {
  return c.coded && !c.transposed && c.w.bits == 4 && !c.w.nf4 && c.m() <= kCodedRows;
}

int32_t multiply_weights(const Call& c) {
  const WeightMatrix& w = c.w;
  ScratchFrame scratch;
  const int64_t m = c.m();
  double* x = scratch.take<double>(m * c.x.shape[1] + 1);
  double* y = scratch.take<double>(m * c.y.shape[1] + 1);
  OG_SCRATCH(x, "x");
  OG_SCRATCH(y, "y");
  const int64_t width = c.x.shape[1], out = c.y.shape[1];
  for (int64_t i = 0; i < m * width; i++) x[i] = element(c.x, i / width * c.x.strides[0] + i % width * c.x.strides[1]);
  if (rounds_activations(c))
    for (int64_t i = 0; i < m * width; i += 32) round_block(x + i);
  for (int64_t i = 0; i < m * out; i++) y[i] = is_present(c.bias) ? element(c.bias, i % out * c.bias.strides[0]) : 0;
  for (int64_t row = 0; row < w.n; row++) {
    for (int64_t k = 0; k < w.k; k += 32) {
      double weights[32];
      dequantize_line(w, row, k, 32, weights);
      for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < 32; j++) {
          if (c.transposed)
            y[i * out + k + j] += x[i * width + row] * weights[j];
          else
            y[i * out + row] += x[i * width + k + j] * weights[j];
        }
    }
  }
  for (int64_t i = 0; i < m * out; i++) store_element(c.y, i / out * c.y.strides[0] + i % out * c.y.strides[1], y[i]);
  return OG_OK;
}

#else

struct CodeLines : LineSource {
  const WeightMatrix* w;

  static void fill_line(const LineSource* self, int64_t line, int64_t first, int64_t n, float* to) {
    dequantize_line(*static_cast<const CodeLines*>(self)->w, line, first, n, to);
  }
};
static_assert(kSpread * kNR <= 512, "lines are dequantised in one piece");

MatrixView matrix_of(const og_view& v) { return {v.data, v.dtype, v.strides[0], v.strides[1]}; }

/** The bias as dense floats; null without one. False when memory is short. */
bool dense_bias(const Call& c, ScratchFrame& scratch, const float** to) {
  *to = nullptr;
  if (!is_present(c.bias)) return true;
  float* copy = scratch.take<float>(c.w.n + 1);
  if (!copy) return false;
  stage_floats(c.bias.data, c.bias.dtype, c.bias.strides[0], c.w.n, copy);
  *to = copy;
  return true;
}

/** Rows of weights a task takes: streams stay far apart, and several threads find work (few_rows_dot). */
int64_t rows_of_task(const WeightMatrix& w) {
  const int64_t bytes = w.row_bytes();
  if (w.n * bytes < (4 << 20)) return grain_for(bytes, 1 << 17);
  const int64_t grain = grain_for(bytes, 1 << 20);
  return grain < 16 ? 16 : grain;
}

template <bool kDotBytes>
void run_dots_as(const WeightMatrix& w, int64_t grain, int64_t m, const CodedChunk* x, const float* bias, float* sums,
                 int* failed) {
  const int64_t chunks = chunks_of(w.k);
  if (w.zero || w.middle != 8)
    parallel_ranges(w.n, grain, DotRows<kDotBytes, true>{&w, m, chunks, x, bias, sums, failed});
  else
    parallel_ranges(w.n, grain, DotRows<kDotBytes, false>{&w, m, chunks, x, bias, sums, failed});
}

/** Sums of bytes are integers: the same with and without VNNI. */
int32_t run_dots(const WeightMatrix& w, int64_t grain, int64_t m, const CodedChunk* x, const float* bias, float* sums) {
  int failed = 0;
#if OG_LANES == 16
  if (cpu_feature(kVnni))
    run_dots_as<true>(w, grain, m, x, bias, sums, &failed);
  else
#endif
    run_dots_as<false>(w, grain, m, x, bias, sums, &failed);
  return failed ? fail(OG_OUT_OF_MEMORY, "linear_weight_only: no memory for the scales of a row") : (int32_t)OG_OK;
}

int32_t multiply_few(const Call& c, const float* bias) {
  const WeightMatrix& w = c.w;
  const int64_t m = c.m();
  ScratchFrame scratch;
  const bool direct = c.y.dtype == OG_F32 && is_contiguous(c.y);
  float* x = scratch.take<float>(m * w.k);
  float* sums = direct ? data_of<float>(c.y) : scratch.take<float>(m * w.n);
  OG_SCRATCH(x, "rows");
  OG_SCRATCH(sums, "sums");
  for (int64_t i = 0; i < m; i++)
    stage_floats(data_of<const char>(c.x) + i * c.x.strides[0] * dtype_size(c.x.dtype), c.x.dtype, c.x.strides[1], w.k,
                 x + i * w.k);
  const int64_t grain = rows_of_task(w);
  if (c.coded && has_dots(w)) {
    const int64_t chunks = chunks_of(w.k);
    CodedChunk* coded = scratch.take<CodedChunk>(m * chunks);
    OG_SCRATCH(coded, "coded rows");
    for (int64_t i = 0; i < m; i++) code_activations(x + i * w.k, w.k, coded + i * chunks);
    OG_TRY(run_dots(w, grain, m, coded, bias, sums));
  } else if (w.bits == 4) {
    arrange(x, m * w.k);
    if (w.nf4)
      parallel_ranges(w.n, grain, CodeRows<kNormal4>{&w, m, x, bias, sums});
    else
      parallel_ranges(w.n, grain, CodeRows<kInt4>{&w, m, x, bias, sums});
  } else if (w.is_signed) {
    parallel_ranges(w.n, grain, CodeRows<kInt8>{&w, m, x, bias, sums});
  } else {
    parallel_ranges(w.n, grain, CodeRows<kUint8>{&w, m, x, bias, sums});
  }
  if (!direct) emit(sums, w.n, m, w.n, matrix_of(c.y), 0, 0);
  return OG_OK;
}

int32_t multiply_weights(const Call& c) {
  const WeightMatrix& w = c.w;
  ScratchFrame scratch;
  const float* bias;
  if (!dense_bias(c, scratch, &bias)) return fail(OG_OUT_OF_MEMORY, "linear_weight_only: no memory for the bias");
  if (!c.transposed && c.m() <= kCodedRows && w.k > 0) return multiply_few(c, bias);
  if ((c.transposed ? w.n : w.k) == 0) {  // an empty sum: the bias, or zero
    ScratchFrame line;
    const int64_t n = c.y.shape[1];
    float* row = line.take<float>(n + 1);
    OG_SCRATCH(row, "row");
    for (int64_t j = 0; j < n; j++) row[j] = bias ? bias[j] : 0.f;
    for (int64_t i = 0; i < c.m(); i++) emit(row, n, 1, n, matrix_of(c.y), i, 0);
    return OG_OK;
  }
  CodeLines lines;
  lines.fill = CodeLines::fill_line;
  lines.w = &w;
  GemmCall call{c.m(), c.transposed ? w.k : w.n, c.transposed ? w.n : w.k, matrix_of(c.x), {}, matrix_of(c.y), bias, 0,
                1};
  call.b = c.transposed ? MatrixView{nullptr, OG_F32, 0, 1} : MatrixView{nullptr, OG_F32, 1, 0};
  call.b_lines = &lines;
  return gemm(call);
}

#endif

}  // namespace

int32_t kernel_linear_weight_only(const og_call* call) {
  Call c{};
  OG_TRY(read_call(call, &c));
  if (c.m() == 0 || c.y.shape[1] == 0) return OG_OK;
  return multiply_weights(c);
}

}  // namespace OG_ISA
}  // namespace og
