/**
 * linear_weight_only: y[m, n] = f(x[m, k] · Wᵀ (+ bias[n])) (+ residual[m, n]) for weights W[n, k] held as codes with a
 * scale (and a zero point) for each group of a row; or, transposed, y[m, k] = x[m, n] · W, the gradient of x. Inputs x,
 * codes, scale, zero?, bias?, packed? (what linear_weight_only_pack made of codes, scale and zero), residual?. attrs:
 * scheme (0 symmetric, 1 affine, 2 NF4), bits (8, 4), int8 activations (not for NF4), transposed, f
 * (gemm_activation.h). f and residual want a float32 (`reference`: or float64) y, and none transposed.
 *
 * codes: int8 or uint8 [n, k], or uint8 [n, k/2] with two 4-bit codes a byte; scale float32 or float16 [n, k/group],
 * zero int32 or uint8 likewise; group a multiple of 32. x, bias and y float32, float16 or bfloat16 in any mix (float64:
 * `reference`), x and y of any strides.
 *
 * int8 activations: blocks of 32 of x become int8 (max|x| / 127, to nearest even), integer products a block are exact
 * and scaled in float32 (weight_panel_frame.h). Otherwise up to 16 rows: weights become floats in registers
 * (weight_rows.h), or, for up to four rows on AVX2 and on AVX-512 with byte dot products, x becomes digits
 * (weight_digits.h). More rows, and transposed: the float GEMM, weights dequantised while packing (gemm_frame.h). Error
 * against exact arithmetic on the dequantised weights (and rounded x) at most K·2^-24·Σ|x|·scale·(|code| + |zero|).
 * Parallel split: by weight rows, or that of the GEMM or of the panels; by shape only. `reference`: one loop an
 * element, in k order, in double.
 */
#include "../core/parallel.h"
#include "../core/scratch.h"
#include "../core/status.h"
#include "gemm_activation.h"
#include "weight_packed.h"
#ifndef OG_IS_REFERENCE
#include "weight_digits.h"
#include "weight_panel_frame.h"

#if OG_LANES == 16
#define OG_LOOPS PanelVnniLoops
#define OG_KIND PanelVnni
#define OG_TARGET OG_VNNI_TARGET
#include "weight_panel_loops.h"
#undef OG_LOOPS
#undef OG_KIND
#undef OG_TARGET
#endif
#if defined(__x86_64__)
#define OG_LOOPS PanelPairsLoops
#define OG_KIND PanelPairs
#define OG_TARGET
#include "weight_panel_loops.h"
#elif defined(__aarch64__)
#define OG_LOOPS PanelNeonLoops
#define OG_KIND PanelNeon
#define OG_TARGET
#include "weight_panel_loops.h"
#undef OG_LOOPS
#undef OG_KIND
#undef OG_TARGET
#define OG_LOOPS PanelNeonDotLoops
#define OG_KIND PanelNeonDot
#define OG_TARGET OG_DOT_TARGET
#include "weight_panel_loops.h"
#endif
#endif

namespace og {
namespace OG_ISA {
namespace {

constexpr int64_t kFewRows = 16;

struct Call {
  og_view x, y, bias, packed, residual;
  WeightMatrix w;
  bool coded, transposed;
  int activation;

  bool has_end() const { return activation != kNoActivation || is_present(residual); }

  int64_t m() const { return x.shape[0]; }
};

/** Views without elements have strides that say nothing. */
bool is_dense(const og_view& v) { return count_of(v) == 0 || is_contiguous(v); }

/** Scheme and bits, codes, scales and zero points; k is the number of columns. */
int32_t read_weight(const double* attrs, const og_view& codes, const og_view& scale, const og_view& zero, int64_t k,
                    WeightMatrix* to) {
  OG_REQUIRE(attrs[0] == 0 || attrs[0] == 1 || attrs[0] == 2, "linear_weight_only: unknown scheme");
  OG_REQUIRE(attrs[1] == 8 || attrs[1] == 4, "linear_weight_only: 8 or 4 bits");
  const int kind = (int)attrs[0], bits = (int)attrs[1];
  OG_REQUIRE(codes.rank == 2 && scale.rank == 2, "linear_weight_only: codes and scale must be matrices");
  WeightMatrix& w = *to;
  w.n = codes.shape[0];
  w.k = k;
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
  w.codes = data_of<const uint8_t>(codes);
  w.bits = bits;
  w.is_signed = kind == 0 && bits == 8;
  w.nf4 = kind == 2;
  w.scale = scale.data;
  w.half_scale = scale.dtype == OG_F16;
  w.zero = is_present(zero) ? zero.data : nullptr;
  w.byte_zero = zero.dtype == OG_U8;
  w.middle = kind == 0 && bits == 4 ? 8.f : 0.f;
  return OG_OK;
}

int32_t read_call(const og_call* call, Call* to) {
  const og_view &x = call->inputs[0], &codes = call->inputs[1], &bias = call->inputs[4], &y = call->outputs[0];
  to->coded = call->attrs[2] != 0;
  to->transposed = call->attrs[3] != 0;
  OG_SUPPORTED(dtype_is_float(x.dtype) && dtype_is_float(y.dtype) && (!is_present(bias) || dtype_is_float(bias.dtype)),
               "linear_weight_only: x, bias and y must be floats");
  OG_REQUIRE(x.rank == 2 && y.rank == 2 && codes.rank == 2 && x.shape[0] == y.shape[0],
             "linear_weight_only: x, codes and y must be matrices, x and y of as many rows");
  OG_TRY(read_weight(call->attrs, codes, call->inputs[2], call->inputs[3], to->transposed ? y.shape[1] : x.shape[1],
                     &to->w));
  const int64_t n = to->w.n;
  OG_REQUIRE((to->transposed ? x.shape[1] : y.shape[1]) == n, "linear_weight_only: x or y does not fit the weight");
  if (is_present(bias))
    OG_REQUIRE(bias.rank == 1 && bias.shape[0] == n && !to->transposed, "linear_weight_only: bias must be [n]");
  to->x = x;
  to->y = y;
  to->bias = bias;
  to->residual = call->inputs[6];
  const double activation = call->attrs[4];
  OG_REQUIRE(activation >= 0 && activation < kActCount && activation == std::floor(activation),
             "linear_weight_only: activation must be 0 to %d", kActCount - 1);
  to->activation = (int)activation;
  if (is_present(to->residual))
    OG_REQUIRE(same_shape(to->residual, y) && to->residual.dtype == y.dtype,
               "linear_weight_only: residual must be like y");
  if (to->has_end()) {
    OG_REQUIRE(!to->transposed, "linear_weight_only: the gradient's product has no activation and no residual");
    OG_SUPPORTED(y.dtype == OG_F32 || y.dtype == OG_F64,
                 "linear_weight_only: activation and residual need a float32 or float64 result");
  }
  to->packed = call->inputs[5];
  if (is_present(to->packed)) {
    OG_REQUIRE(to->coded && !to->transposed && !to->w.nf4,
               "linear_weight_only: packed weights are for int8 activations");
    OG_TRY(check_packed_weight_view(to->packed, to->w));
  }
  return OG_OK;
}

bool rounds_activations(const Call& c) { return c.coded && !c.transposed && !c.w.nf4; }

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

constexpr uint32_t kReferenceLayout = 1;

int32_t multiply_weights(const Call& c) {
  const WeightMatrix& w = c.w;
  PanelForm form;
  if (is_present(c.packed)) OG_TRY(check_packed_weight(c.packed, kReferenceLayout, w, &form));
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
  for (int64_t i = 0; i < m * out; i++) {
    double value = activated(c.activation, y[i]);
    if (is_present(c.residual))
      value += element(c.residual, i / out * c.residual.strides[0] + i % out * c.residual.strides[1]);
    store_element(c.y, i / out * c.y.strides[0] + i % out * c.y.strides[1], value);
  }
  return OG_OK;
}

/** The reference reads the codes: its block is a header. */
int32_t pack_weights(const WeightMatrix& w, const og_view& packed) {
  std::memset(packed.data, 0, (size_t)packed.shape[0]);
  write_weight_header(packed, kReferenceLayout, w, form_of(w));
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
  load_elements(c.bias.data, c.bias.dtype, c.bias.strides[0], c.w.n, copy);
  *to = copy;
  return true;
}

/** Rows of weights a task takes: streams stay far apart, and several threads find work (few_rows_dot). */
int64_t rows_of_task(const WeightMatrix& w) { return even_grain(w.n, w.row_bytes(), kCodeStreams, 16); }

/** What says that panels were packed for this set. */
constexpr uint32_t kPanelLayout = 0x100 + OG_LANES;

/** Calls f(PanelProduct<Loops>{}) with the best loops of this set on this machine; they read the same panels. */
template <class F>
int32_t with_panel_loops(const F& f) {
#if OG_LANES == 16
  if (cpu_feature(kVnni)) return f(PanelProduct<PanelVnniLoops>{});
#endif
#if defined(__x86_64__)
  return f(PanelProduct<PanelPairsLoops>{});
#else
  if (cpu_feature(kDotProduct)) return f(PanelProduct<PanelNeonDotLoops>{});
  return f(PanelProduct<PanelNeonLoops>{});
#endif
}

int32_t pack_weights(const WeightMatrix& w, const og_view& packed) {
  const PanelForm form = form_of(w);
  uint8_t* panels = data_of<uint8_t>(packed) + sizeof(WeightHeader);
  const int64_t count = ceil_div(w.n, kPanelColumns), size = form.panel_bytes(kPanelColumns);
  std::memset(packed.data, 0, sizeof(WeightHeader));  // refused until it is complete
  std::memset(panels + count * size, 0, (size_t)(packed.shape[0] - (int64_t)sizeof(WeightHeader) - count * size));
  with_panel_loops([&](auto product) -> int32_t {
    typedef typename decltype(product)::Kind Kind;
    if (w.k == 0) return OG_OK;
    parallel_ranges(count, grain_for(size, 1 << 17),
                    [&](int64_t begin, int64_t end) { pack_weight<Kind>(w, form, begin, end, panels + begin * size); });
    return OG_OK;
  });
  write_weight_header(packed, kPanelLayout, w, form);
  return OG_OK;
}

int32_t multiply_coded(const Call& c, const float* bias, const Epilogue& epilogue) {
  PanelCall call{&c.w, {}, nullptr, c.m(), matrix_of(c.x), matrix_of(c.y), bias, epilogue};
  if (is_present(c.packed)) {
    OG_TRY(check_packed_weight(c.packed, kPanelLayout, c.w, &call.form));
    call.panels = data_of<const uint8_t>(c.packed) + sizeof(WeightHeader);
  } else {
    call.form = form_of(c.w);
  }
  return with_panel_loops([&](auto product) {
    product.call = &call;
    return product.run();
  });
}

int32_t multiply_few(const Call& c, const float* bias, const Epilogue& epilogue) {
  const WeightMatrix& w = c.w;
  const int64_t m = c.m();
  ScratchFrame scratch;
  const bool direct = c.y.dtype == OG_F32 && is_contiguous(c.y);
  float* x = scratch.take<float>(m * w.k);
  float* sums = direct ? data_of<float>(c.y) : scratch.take<float>(m * w.n);
  OG_SCRATCH(x, "rows");
  OG_SCRATCH(sums, "sums");
  for (int64_t i = 0; i < m; i++)
    load_elements(data_of<const char>(c.x) + i * c.x.strides[0] * dtype_size(c.x.dtype), c.x.dtype, c.x.strides[1], w.k,
                  x + i * w.k);
  const int64_t grain = rows_of_task(w);
  const auto run = [&](const auto& rows) {
    parallel_ranges(w.n, grain, [&](int64_t begin, int64_t end) {
      rows(begin, end);
      finish_part(epilogue, sums + begin, w.n, 0, 0, begin, m, end - begin);
    });
  };
  DigitsOutcome outcome = kDigitsUnfit;
#if OG_LANES >= 8
  if (!w.nf4 && m <= kDigitRows && (OG_LANES == 8 || cpu_feature(kVnni)))
    outcome = multiply_digits(w, m, x, bias, sums, run);
#endif
  if (outcome == kDigitsNoMemory) return fail(OG_OUT_OF_MEMORY, "linear_weight_only: no memory for digits of x");
  if (outcome == kDigitsUnfit && w.bits == 4) {
    arrange(x, m * w.k);
    if (w.nf4)
      run(CodeRows<kNormal4>{&w, m, x, bias, sums});
    else
      run(CodeRows<kInt4>{&w, m, x, bias, sums});
  } else if (outcome == kDigitsUnfit) {
    if (w.is_signed)
      run(CodeRows<kInt8>{&w, m, x, bias, sums});
    else
      run(CodeRows<kUint8>{&w, m, x, bias, sums});
  }
  if (!direct) emit(sums, w.n, m, w.n, matrix_of(c.y), 0, 0);
  return OG_OK;
}

int32_t multiply_weights(const Call& c) {
  const WeightMatrix& w = c.w;
  ScratchFrame scratch;
  const float* bias;
  if (!dense_bias(c, scratch, &bias)) return fail(OG_OUT_OF_MEMORY, "linear_weight_only: no memory for the bias");
  const Lines residual_lines(is_present(c.residual) ? c.residual : c.y);
  const ActivationEnd end{c.activation,
                          0,
                          is_present(c.residual) ? data_of<const float>(c.residual) : nullptr,
                          &residual_lines,
                          is_present(c.residual) ? c.residual.strides[1] : 0,
                          nullptr,
                          0};
  Epilogue epilogue;
  if (c.has_end()) epilogue = {run_activation_end, &end};
  if (rounds_activations(c) && w.k > 0) return multiply_coded(c, bias, epilogue);
  if (!c.transposed && c.m() <= kFewRows && w.k > 0) return multiply_few(c, bias, epilogue);
  if ((c.transposed ? w.n : w.k) == 0) {  // an empty sum: the bias, or zero
    ScratchFrame line;
    const int64_t n = c.y.shape[1];
    float* row = line.take<float>(n + 1);
    OG_SCRATCH(row, "row");
    for (int64_t i = 0; i < c.m(); i++) {
      for (int64_t j = 0; j < n; j++) row[j] = bias ? bias[j] : 0.f;
      finish_part(epilogue, row, n, 0, i, 0, 1, n);
      emit(row, n, 1, n, matrix_of(c.y), i, 0);
    }
    return OG_OK;
  }
  CodeLines lines;
  lines.fill = CodeLines::fill_line;
  lines.w = &w;
  GemmCall call{c.m(), c.transposed ? w.k : w.n, c.transposed ? w.n : w.k, matrix_of(c.x), {}, matrix_of(c.y), bias, 0,
                1};
  call.b = c.transposed ? MatrixView{nullptr, OG_F32, 0, 1} : MatrixView{nullptr, OG_F32, 1, 0};
  call.b_lines = &lines;
  call.epilogue = epilogue;
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

int32_t kernel_linear_weight_only_pack(const og_call* call) {
  const og_view &codes = call->inputs[0], &packed = call->outputs[0];
  OG_REQUIRE(codes.rank == 2, "linear_weight_only_pack: codes must be a matrix");
  OG_SUPPORTED(call->attrs[0] == 0 || call->attrs[0] == 1, "linear_weight_only_pack: codes must be integers");
  WeightMatrix w{};
  OG_TRY(read_weight(call->attrs, codes, call->inputs[1], call->inputs[2],
                     codes.shape[1] * (call->attrs[1] == 4 ? 2 : 1), &w));
  OG_TRY(check_packed_weight_view(packed, w));
  return pack_weights(w, packed);
}

}  // namespace OG_ISA
}  // namespace og
