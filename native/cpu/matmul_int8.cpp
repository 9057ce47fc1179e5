/**
 * matmul_int8: c[…, M, N] = Σ_k (a[…, M, K] − a_zero) · (b[…, K, N] − b_zero) of int8 or uint8 codes, exact in int32,
 * or from there to float32, float16, bfloat16 (act((sum · a_scale) · b_scale + bias) + residual) or int8 and uint8
 * codes. matmul_int8_pack: b[K, N] once and for all, with the sums of its columns, in the layout of the instruction
 * set.
 *
 * Inputs: a, b, and optionally packed b, a_zero and a_scale […, M], b_zero, b_scale and bias […, N], residual […, M,
 * N]. Attributes: activation (gemm_int8_finish.h), seven_bit (b's codes, less 128 if uint8, are promised to lie in
 * [-64, 64]: checked when b is packed, and used where it is faster), scale and zero point of int8 or uint8 output. All
 * strides are free, batch axes may be broadcast. Operands must not overlap the output.
 *
 * A matrix a of float32, float16 or bfloat16 becomes int8 codes first, each row by its own largest magnitude, as
 * `quantize` makes them (code_row); it has neither a_zero nor a_scale then, and the output is a float. A last input, a
 * factor [K] of floats, is multiplied into these rows first, in float32.
 *
 * Sums are exact: a K for which one could leave int32 is refused. The float steps round once each, in float32; gelu and
 * silu add the errors of math.h. Packed weights carry a header that says for which instruction set, shape and codes
 * they were made; others are refused. Parallel split: gemm_int8_frame.h, or by matrices of a batch; by shape only.
 * `reference` is the definition: one loop per element, int64 sums, the float steps in double.
 */
#include "../core/scratch.h"
#include "gemm_int8_call.h"
#include "quantize_run.h"
#ifndef OG_IS_REFERENCE
#include "gemm_int8_frame.h"

#if OG_LANES == 16
#define OG_LOOPS VnniLoops
#define OG_KIND Vnni
#define OG_TARGET OG_VNNI_TARGET
#include "gemm_int8_loops.h"
#undef OG_LOOPS
#undef OG_KIND
#undef OG_TARGET
#elif OG_LANES == 8
#define OG_LOOPS Vnni256Loops
#define OG_KIND Vnni256
#define OG_TARGET __attribute__((target("avx512vnni,avx512vl")))
#include "gemm_int8_loops.h"
#undef OG_LOOPS
#undef OG_KIND
#undef OG_TARGET
#define OG_LOOPS AvxVnniLoops
#define OG_KIND AvxVnni
#define OG_TARGET __attribute__((target("avxvnni")))
#include "gemm_int8_loops.h"
#undef OG_LOOPS
#undef OG_KIND
#undef OG_TARGET
#define OG_HAS_SIX_ROWS
#define OG_LOOPS SevenBitLoops
#define OG_KIND SevenBit
#define OG_TARGET
#include "gemm_int8_loops.h"
#undef OG_LOOPS
#undef OG_KIND
#undef OG_TARGET
#endif
#if defined(__x86_64__)
#define OG_LOOPS WideLoops
#define OG_KIND Wide
#define OG_TARGET
#include "gemm_int8_loops.h"
#if OG_LANES == 8
#include "gemm_int8_chained.h"
#endif
#elif defined(__aarch64__)
#define OG_LOOPS NeonLoops
#define OG_KIND Neon
#define OG_TARGET
#include "gemm_int8_loops.h"
#undef OG_LOOPS
#undef OG_KIND
#undef OG_TARGET
#define OG_LOOPS NeonDotLoops
#define OG_KIND NeonDot
#define OG_TARGET OG_DOT_TARGET
#include "gemm_int8_loops.h"
#include "gemm_int8_matrix.h"
#endif
#endif

namespace og {
namespace OG_ISA {
namespace {

#ifdef OG_IS_REFERENCE

constexpr uint32_t kReferenceLayout = 7;

double activated(double x, int activation) {
  switch (activation) {
    case 1:
      return x <= 0 ? 0 : x;
    case 2:
      return 0.5 * x * std::erfc(-x * 0.70710678118654752440);
    case 3: {
      const double v = x * (1.5957691216057308 + 0.07135481627260025 * (x * x));
      return v == -HUGE_VAL ? 0 * v : x / (1 + std::exp(-v));
    }
    case 4:
      return x / (1 + std::exp(-x));
    default:
      return x;
  }
}

double number(const Int8Side& side, int64_t offset, double absent) {
  double value = absent;
  if (side.data)
    with_storage(side.dtype, [&](auto type) {
      value = widen<double>(static_cast<const decltype(type)*>((void*)side.data)[offset]);
    });
  return value;
}

template <class T>
T requantized(double y, double scale, double zero) {
  const double low = (double)std::numeric_limits<T>::min(), high = (double)std::numeric_limits<T>::max();
  const double code = (y == y ? std::nearbyint((double)(float)y / (double)(float)scale) : 0) + zero;
  return (T)(code < low ? low : code > high ? high : code);
}

int32_t multiply_all(const og_call* call, const Int8Product& p) {
  if (p.sides[kPacked].data)
    OG_TRY(check_packed(call->inputs[kPacked], kReferenceLayout, p.k, p.n, p.sides[kB].dtype == OG_I8, p.seven_bit));
  int outside = 0;
  parallel_ranges(p.batch * p.m, grain_for(p.n * (p.k + 1)), [&](int64_t begin, int64_t end) {
    const Int8Side* s = p.sides;
    for (int64_t row = begin; row < end; row++) {
      const int64_t index = row / p.m, i = row % p.m;
      int64_t at[kInt8Inputs];
      for (int t = 0; t < kInt8Inputs; t++) at[t] = p.offset(s[t], index);
      const int64_t az = (int64_t)number(s[kAZero], at[kAZero] + i * s[kAZero].row, 0);
      const double a_scale = number(s[kAScale], at[kAScale] + i * s[kAScale].row, 1);
      for (int64_t j = 0; j < p.n; j++) {
        const int64_t bz = (int64_t)number(s[kBZero], at[kBZero] + j * s[kBZero].row, 0);
        int64_t sum = 0;
        for (int64_t k = 0; k < p.k; k++) {
          const uint8_t a = ((const uint8_t*)s[kA].data)[at[kA] + i * s[kA].row + k * s[kA].column];
          const uint8_t b = ((const uint8_t*)s[kB].data)[at[kB] + k * s[kB].row + j * s[kB].column];
          const int32_t code = s[kB].dtype == OG_I8 ? (int8_t)b : (int32_t)b;
          const int32_t centred = s[kB].dtype == OG_I8 ? code : code - 128;
          if (p.seven_bit && (centred < -64 || centred > 64)) __atomic_store_n(&outside, 1, __ATOMIC_RELAXED);
          sum += ((s[kA].dtype == OG_I8 ? (int8_t)a : (int32_t)a) - az) * (code - bz);
        }
        const int64_t c = p.offset(p.c, index) + i * p.c.row + j * p.c.column;
        if (p.c.dtype == OG_I32) {
          ((int32_t*)p.c.data)[c] = (int32_t)sum;
          continue;
        }
        double y = (double)sum * a_scale * number(s[kBScale], at[kBScale] + j * s[kBScale].row, 1);
        y = activated(y + number(s[kBias], at[kBias] + j * s[kBias].row, 0), p.activation);
        y += number(s[kResidual], at[kResidual] + i * s[kResidual].row + j * s[kResidual].column, 0);
        if (p.c.dtype == OG_I8)
          ((int8_t*)p.c.data)[c] = requantized<int8_t>(y, p.out_scale, p.out_zero);
        else if (p.c.dtype == OG_U8)
          ((uint8_t*)p.c.data)[c] = requantized<uint8_t>(y, p.out_scale, p.out_zero);
        else
          with_storage(p.c.dtype, [&](auto type) {
            typedef decltype(type) T;
            ((T*)p.c.data)[c] = Narrow<T, double>::from(y);
          });
      }
    }
  });
  OG_REQUIRE(!outside, "matmul_int8: b has codes beyond the promised [-64, 64]");
  return OG_OK;
}

/** The reference reads b itself: its block is a header and the sums. */
int32_t pack_all(const og_view& b, bool seven_bit, char* packed) {
  const int64_t k = b.shape[0], n = b.shape[1];
  const bool is_signed = b.dtype == OG_I8;
  std::memset(packed, 0, (size_t)packed_bytes(k, n));
  for (int64_t j = 0; j < n; j++) {
    int32_t sum = 0;
    for (int64_t i = 0; i < k; i++) {
      const uint8_t raw = data_of<const uint8_t>(b)[i * b.strides[0] + j * b.strides[1]];
      const int32_t code = is_signed ? (int8_t)raw : raw - 128;
      OG_REQUIRE(!seven_bit || (code >= -64 && code <= 64), "matmul_int8: b has codes beyond the promised [-64, 64]");
      sum += code;
    }
    packed_sums(packed)[j] = sum;
  }
  write_header(packed, kReferenceLayout, k, n, is_signed, seven_bit);
  return OG_OK;
}

#else

int32_t report(int failure) {
  OG_REQUIRE(failure != kNotSevenBit, "matmul_int8: b has codes beyond the promised [-64, 64]");
  if (failure) return fail(OG_OUT_OF_MEMORY, "matmul_int8: no memory for a task");
  return OG_OK;
}

Int8Call matrix_call(const Int8Product& p, int64_t index) {
  const Int8Side* s = p.sides;
  const auto numbers = [&](int i) { return Numbers{p.at(s[i], index), s[i].dtype, s[i].row}; };
  Int8Call call{};
  call.m = p.m;
  call.n = p.n;
  call.k = p.k;
  call.a = {reinterpret_cast<const uint8_t*>(p.at(s[kA], index)), s[kA].row, s[kA].column};
  call.b = {reinterpret_cast<const uint8_t*>(p.at(s[kB], index)), s[kB].column, s[kB].row};
  call.a_signed = s[kA].dtype == OG_I8;
  call.b_signed = s[kB].dtype == OG_I8;
  call.seven_bit = p.seven_bit;
  if (s[kPacked].data) {
    call.panels = packed_panels(s[kPacked].data, p.n);
    call.panel_sums = packed_sums(s[kPacked].data);
  }
  call.a_zero = numbers(kAZero);
  call.b_zero = numbers(kBZero);
  call.a_scale = numbers(kAScale);
  call.b_scale = numbers(kBScale);
  call.bias = numbers(kBias);
  call.c = {p.at(p.c, index), p.c.dtype, p.c.row, p.c.column};
  call.residual = {p.at(s[kResidual], index), s[kResidual].dtype, s[kResidual].row, s[kResidual].column};
  call.activation = p.activation;
  if (p.c.dtype == OG_I8 || p.c.dtype == OG_U8) {  // only then were they checked
    call.out_scale = (float)p.out_scale;
    call.out_zero = (int32_t)p.out_zero;
  }
  return call;
}

/** Multiply-adds of one matrix above which its own parallel split beats one matrix per thread. */
constexpr int64_t kLargeMatrix = int64_t{1} << 28, kTaskWork = 1 << 22;

int32_t multiply_batch(const Int8Product& p, int (*run)(const Int8Call&)) {
  const auto one = [&](int64_t index) { return run(matrix_call(p, index)); };
  const int64_t work = p.m * p.n * (p.k > 0 ? p.k : 1);
  if (p.batch == 1 || work > kLargeMatrix || (p.batch < 4 && work > kTaskWork)) {
    for (int64_t i = 0; i < p.batch; i++) OG_TRY(report(one(i)));
    return OG_OK;
  }
  int failed = 0;
  parallel_ranges(p.batch, grain_for(work, kTaskWork), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++)
      if (const int failure = one(i)) __atomic_store_n(&failed, failure, __ATOMIC_RELAXED);
  });
  return report(failed);
}

template <class Gemm>
int pack_panels(const og_view& b, bool seven_bit, char* packed) {
  const int64_t k = b.shape[0], n = b.shape[1];
  Int8Call call{};
  Gemm gemm{};
  call.n = n;
  call.k = k;
  call.b = {data_of<const uint8_t>(b), b.strides[1], b.strides[0]};
  call.b_signed = b.dtype == OG_I8;
  call.seven_bit = seven_bit;
  gemm.call = &call;
  std::memset(packed, 0, sizeof(PackedHeader));  // refused until it is complete
  int32_t* sums = packed_sums(packed);
  uint8_t* panels = packed_panels(packed, n);
  const int64_t panel = panel_bytes_b<typename Gemm::Kind>(k), padded = ceil_div(n, Gemm::kColumns) * Gemm::kColumns;
  std::memset(sums + padded, 0, (size_t)(packed_columns(n) - padded) * 4);
  std::memset(panels + padded / Gemm::kColumns * panel, 0,
              (size_t)((packed_columns(n) - padded) / Gemm::kColumns * panel));
  parallel_ranges(padded / Gemm::kColumns, 8, [&](int64_t begin, int64_t end) {
    const int64_t from = begin * Gemm::kColumns, to = least(n, end * Gemm::kColumns);
    gemm.pack_columns(from, to, panels + begin * panel, sums + from);
  });
  if (!gemm.failed) write_header(packed, Gemm::Kind::kLayout, k, n, call.b_signed, seven_bit);
  return gemm.failed;
}

template <class Gemm>
int run_product(const Int8Call& call) {
  Gemm gemm{};
  gemm.call = &call;
  return gemm.run();
}

/** One Int8Gemm, behind pointers: what calls it is compiled once, not once for each. */
struct Int8Way {
  uint32_t layout;
  int (*run)(const Int8Call& call);
  int (*pack)(const og_view& b, bool seven_bit, char* packed);
};

template <class Loops>
Int8Way way_of() {
  typedef Int8Gemm<Loops> Gemm;
  return {Loops::Kind::kLayout, run_product<Gemm>, pack_panels<Gemm>};
}

/** Rows from which the sums that chained rows take of each panel pay. */
constexpr int64_t kChainedRows = 16;

/** The best loops of this set on this machine for m rows. */
Int8Way best_way(bool seven_bit, int64_t m) {
  (void)seven_bit, (void)m;
#if OG_LANES == 16
  if (cpu_feature(kVnni)) return way_of<VnniLoops>();
#elif OG_LANES == 8
  if (cpu_feature(kAvxVnni)) return way_of<AvxVnniLoops>();
  if (cpu_feature(kVnni)) return way_of<Vnni256Loops>();
  if (seven_bit) return way_of<SevenBitLoops>();
  if (m >= kChainedRows) return way_of<ChainedLoops>();
#endif
#if defined(__x86_64__)
  return way_of<WideLoops>();
#else
  if (cpu_feature(kDotProduct) && cpu_feature(kMatMulInt8)) return way_of<NeonMatrixLoops>();
  if (cpu_feature(kDotProduct)) return way_of<NeonDotLoops>();
  return way_of<NeonLoops>();
#endif
}

int32_t multiply_all(const og_call* call, const Int8Product& p) {
  const Int8Way way = best_way(p.seven_bit, p.m);
  if (p.sides[kPacked].data)
    OG_TRY(check_packed(call->inputs[kPacked], way.layout, p.k, p.n, p.sides[kB].dtype == OG_I8, p.seven_bit));
  return multiply_batch(p, way.run);
}

int32_t pack_all(const og_view& b, bool seven_bit, char* packed) {
  return report(best_way(seven_bit, 1).pack(b, seven_bit, packed));
}

#endif

}  // namespace

namespace {

int32_t multiply_codes(const og_call* call) {
  Int8Product p{};
  OG_TRY(check_operands(call, p));
  if (is_present(call->inputs[kPacked])) OG_TRY(check_packed_view(call->inputs[kPacked], p.k, p.n));
  if (p.batch == 0 || p.m == 0 || p.n == 0) return OG_OK;
  OG_TRY(check_range(call, p));
  take_sides(call, p);
  p.fold_rows();
  return multiply_all(call, p);
}

/** A row of floats of up to 32 bits as float32. */
void stage_row(const char* from, int32_t dtype, int64_t stride, int64_t n, float* to) {
  load_elements(from, dtype, stride, n, to);
}

/** A matrix of floats: each row, times the factors, becomes int8 codes with its own scale first. */
int32_t multiply_floats(const og_call* call) {
  const og_view &a = call->inputs[kA], &c = call->outputs[0];
  OG_REQUIRE(a.rank == 2 && c.rank == 2, "matmul_int8: rows of floats must be a matrix");
  OG_REQUIRE(!is_present(call->inputs[kAZero]) && !is_present(call->inputs[kAScale]),
             "matmul_int8: rows of floats get their scales here");
  OG_SUPPORTED(dtype_is_float(c.dtype) && c.dtype != OG_F64,
               "matmul_int8: rows of floats give floats of at most 32 bits");
  const int64_t m = a.shape[0], k = a.shape[1];
  const og_view& factor = call->inputs[kAFactor];
  OG_SUPPORTED(!is_present(factor) || (dtype_is_float(factor.dtype) && factor.dtype != OG_F64),
               "matmul_int8: factors must be floats of at most 32 bits");
  OG_REQUIRE(!is_present(factor) || (factor.rank == 1 && factor.shape[0] == k),
             "matmul_int8: factors must have length %lld", (long long)k);
  ScratchFrame scratch;
  int8_t* codes = scratch.take<int8_t>(m * k + 1);
  float* scales = scratch.take<float>(m + 1);
  float* factors = is_present(factor) ? scratch.take<float>(k + 1) : nullptr;
  OG_SCRATCH(codes, "codes");
  OG_SCRATCH(scales, "scales");
  if (is_present(factor)) {
    OG_SCRATCH(factors, "factors");
    stage_row(data_of<const char>(factor), factor.dtype, factor.strides[0], k, factors);
  }
  int failed = 0;
  parallel_ranges(m, grain_for(k, 1 << 15), [&](int64_t begin, int64_t end) {
    ScratchFrame line;
    const bool direct = a.dtype == OG_F32 && a.strides[1] == 1 && !factors;
    float* staged = direct ? nullptr : line.take<float>(k + 1);
    if (!direct && !staged) return __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
    for (int64_t i = begin; i < end; i++) {
      const char* from = data_of<const char>(a) + i * a.strides[0] * dtype_size(a.dtype);
      if (!direct) stage_row(from, a.dtype, a.strides[1], k, staged);
      if (factors)
        for (int64_t t = 0; t < k; t++) staged[t] *= factors[t];
      scales[i] = code_row(direct ? reinterpret_cast<const float*>(from) : staged, k, codes + i * k);
    }
  });
  if (failed) return fail(OG_OUT_OF_MEMORY, "matmul_int8: no memory for a row");
  og_view inputs[kInt8Inputs];
  std::memcpy(inputs, call->inputs, sizeof inputs);
  inputs[kA].data = codes;
  inputs[kA].dtype = OG_I8;
  inputs[kA].strides[0] = k;
  inputs[kA].strides[1] = 1;
  inputs[kAScale] = inputs[kA];
  inputs[kAScale].data = scales;
  inputs[kAScale].dtype = OG_F32;
  inputs[kAScale].rank = 1;
  inputs[kAScale].strides[0] = 1;
  og_call of_codes = *call;
  of_codes.inputs = inputs;
  return multiply_codes(&of_codes);
}

}  // namespace

int32_t kernel_matmul_int8(const og_call* call) {
  const og_view& a = call->inputs[kA];
  if (dtype_is_float(a.dtype) && a.dtype != OG_F64) return multiply_floats(call);
  OG_REQUIRE(!is_present(call->inputs[kAFactor]), "matmul_int8: codes take no factors");
  return multiply_codes(call);
}

int32_t kernel_matmul_int8_pack(const og_call* call) {
  const og_view &b = call->inputs[0], &packed = call->outputs[0];
  OG_SUPPORTED(is_bytes(b) && b.rank == 2, "matmul_int8_pack: expected a matrix of int8 or uint8");
  OG_TRY(check_packed_view(packed, b.shape[0], b.shape[1]));
  OG_SUPPORTED(b.shape[0] <= INT32_MAX / 128, "matmul_int8_pack: sums of %lld codes may leave int32",
               (long long)b.shape[0]);
  return pack_all(b, call->attrs[0] != 0, static_cast<char*>(packed.data));
}

}  // namespace OG_ISA
}  // namespace og
