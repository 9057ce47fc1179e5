/**
 * The operands of matmul_int8, checked and sorted by axis, for every instruction set alike: batch axes, rows, columns;
 * the form of packed weights; and the bound that keeps sums within int32.
 */
#ifndef OMNIGRAD_CPU_GEMM_INT8_CALL_H
#define OMNIGRAD_CPU_GEMM_INT8_CALL_H

#include <cmath>
#include <initializer_list>

#include "../core/parallel.h"
#include "../core/status.h"
#include "../core/view.h"
#include "stage.h"

namespace og {
namespace {

/** Inputs of matmul_int8. */
enum Int8Input { kA, kB, kPacked, kAZero, kBZero, kAScale, kBScale, kBias, kResidual, kInt8Inputs };
/** Behind those of codes: what rows of floats are multiplied by. */
constexpr int kAFactor = kInt8Inputs;

/** One operand by axis; data null: absent. */
struct Int8Side {
  char* data;
  int32_t dtype;
  int64_t row, column;  // of a vector: `row` along its axis
  int64_t strides[OG_MAX_RANK];

  char* at(int64_t offset) const { return data ? data + offset * dtype_size(dtype) : nullptr; }
};

struct Int8Product {
  int64_t m, n, k, batch;
  int rank;  // of the batch
  int64_t shape[OG_MAX_RANK];
  Int8Side sides[kInt8Inputs], c;
  bool seven_bit;
  int activation;
  double out_scale, out_zero;

  int64_t offset(const Int8Side& side, int64_t index) const {
    int64_t offset = 0;
    for (int i = rank - 1; i >= 0; i--) {
      offset += index % shape[i] * side.strides[i];
      index /= shape[i];
    }
    return offset;
  }
  char* at(const Int8Side& side, int64_t index) const { return side.at(offset(side, index)); }

  /** Batch axes under which B and its numbers stay the same, and rows that run on: one product of more rows. */
  void fold_rows() {
    Int8Side* const of_rows[] = {&sides[kA], &sides[kAZero], &sides[kAScale], &sides[kResidual], &c};
    const int of_columns[] = {kB, kBZero, kBScale, kBias};
    for (; rank > 0; rank--) {
      const int axis = rank - 1;
      const int64_t length = shape[axis];
      if (length == 1) continue;
      if (m == 1)
        for (Int8Side* side : of_rows) side->row = side->strides[axis];
      for (int i : of_columns)
        if (sides[i].data && sides[i].strides[axis] != 0) return;
      for (Int8Side* side : of_rows)
        if (side->data && side->strides[axis] != side->row * m) return;
      m *= length;
      batch /= length;
    }
  }
};

/** The head of packed weights. What follows: int32 sums of the columns, and the panels of one instruction set. */
struct PackedHeader {
  uint32_t magic, layout;
  int64_t k, n;
  int32_t is_signed, seven_bit;
  int64_t bytes;
  int64_t reserved[3];
};
static_assert(sizeof(PackedHeader) == 64, "panels must stay aligned");
constexpr uint32_t kPackedMagic = 0x38474f50;  // "POG8"

/** Columns and k as packed for any set: to whole panels of 32, and to words of eight. */
inline int64_t packed_columns(int64_t n) { return (n + 31) / 32 * 32; }
inline int64_t packed_bytes(int64_t k, int64_t n) {
  return (int64_t)sizeof(PackedHeader) + packed_columns(n) * (4 + (k + 7) / 8 * 8);
}
inline int32_t* packed_sums(char* packed) { return reinterpret_cast<int32_t*>(packed + sizeof(PackedHeader)); }
inline uint8_t* packed_panels(char* packed, int64_t n) {
  return reinterpret_cast<uint8_t*>(packed + sizeof(PackedHeader) + packed_columns(n) * 4);
}

inline bool is_bytes(const og_view& v) { return v.dtype == OG_I8 || v.dtype == OG_U8; }

/** `packed` can be a block of packed weights for a B of k × n. */
inline int32_t check_packed_view(const og_view& packed, int64_t k, int64_t n) {
  OG_REQUIRE(packed.dtype == OG_U8 && packed.rank == 1 && is_contiguous(packed),
             "packed weights: expected dense uint8");
  OG_REQUIRE(k < (int64_t{1} << 40) && n < (int64_t{1} << 40) && (k == 0 || n < (int64_t{1} << 46) / (k + 8)) &&
                 packed.shape[0] == packed_bytes(k, n),
             "packed weights: %lld bytes do not hold (%lld, %lld)", (long long)packed.shape[0], (long long)k,
             (long long)n);
  OG_REQUIRE(reinterpret_cast<uintptr_t>(packed.data) % 64 == 0, "packed weights: must begin on a cache line");
  return OG_OK;
}

/** The block was packed for this layout, shape and kind of codes. */
inline int32_t check_packed(const og_view& packed, uint32_t layout, int64_t k, int64_t n, bool is_signed,
                            bool seven_bit) {
  OG_TRY(check_packed_view(packed, k, n));
  const PackedHeader& head = *data_of<const PackedHeader>(packed);
  OG_REQUIRE(head.magic == kPackedMagic && head.bytes == packed.shape[0], "packed weights: not made by pack");
  OG_REQUIRE(head.layout == layout, "packed weights: layout %u, this instruction set reads %u; pack them again",
             head.layout, layout);
  OG_REQUIRE(
      head.k == k && head.n == n && head.is_signed == (is_signed ? 1 : 0) && head.seven_bit == (seven_bit ? 1 : 0),
      "packed weights: made of another weight");
  return OG_OK;
}

inline void write_header(char* packed, uint32_t layout, int64_t k, int64_t n, bool is_signed, bool seven_bit) {
  const PackedHeader head{kPackedMagic,       layout,   k, n, is_signed ? 1 : 0, seven_bit ? 1 : 0,
                          packed_bytes(k, n), {0, 0, 0}};
  std::memcpy(packed, &head, sizeof head);
}

/** Zero points lie in [-128, 255]; `low` and `high` become their range (0 for none). */
inline int32_t range_of_zeros(const og_view& v, int32_t& low, int32_t& high) {
  low = high = 0;
  if (!is_present(v)) return OG_OK;
  og_view once = v;  // broadcast axes are looked at once
  for (int i = 0; i < v.rank; i++)
    if (v.strides[i] == 0 && v.shape[i] > 1) once.shape[i] = 1;
  const int64_t count = count_of(once);
  for (int64_t i = 0; i < count; i++) {
    const int32_t zero = data_of<const int32_t>(v)[offset_of(once, i, once.rank)];
    OG_REQUIRE(zero >= -128 && zero <= 255, "matmul_int8: zero point %d is not a code", zero);
    if (i == 0 || zero < low) low = zero;
    if (i == 0 || zero > high) high = zero;
  }
  return OG_OK;
}

/** Largest |code − zero point|. */
inline int64_t largest_distance(bool is_signed, int32_t low, int32_t high) {
  const int64_t top = (is_signed ? 127 : 255) - (int64_t)low, bottom = (int64_t)high - (is_signed ? -128 : 0);
  return top > bottom ? top : bottom;
}

/** A vector of the batch axes and one more. */
inline int32_t check_vector(const og_view& v, const og_view& c, int axis, const char* what) {
  if (!is_present(v)) return OG_OK;
  OG_REQUIRE(v.rank == c.rank - 1, "matmul_int8: %s must have rank %d", what, c.rank - 1);
  for (int i = 0; i + 2 < c.rank; i++)
    OG_REQUIRE(v.shape[i] == c.shape[i], "matmul_int8: batch axis %d of %s differs", i, what);
  OG_REQUIRE(v.shape[v.rank - 1] == c.shape[axis], "matmul_int8: %s must have length %lld", what,
             (long long)c.shape[axis]);
  return OG_OK;
}

inline int32_t check_operands(const og_call* call, Int8Product& p) {
  const og_view* in = call->inputs;
  const og_view &a = in[kA], &b = in[kB], &c = call->outputs[0];
  OG_REQUIRE(c.rank >= 2 && a.rank == c.rank && b.rank == c.rank,
             "matmul_int8: operands must have the output's rank, at least 2");
  const int batch_rank = c.rank - 2;
  for (int i = 0; i < batch_rank; i++)
    OG_REQUIRE(a.shape[i] == c.shape[i] && b.shape[i] == c.shape[i], "matmul_int8: batch axis %d differs", i);
  p.m = c.shape[batch_rank];
  p.n = c.shape[batch_rank + 1];
  p.k = a.shape[batch_rank + 1];
  OG_REQUIRE(a.shape[batch_rank] == p.m && b.shape[batch_rank] == p.k && b.shape[batch_rank + 1] == p.n,
             "matmul_int8: (%lld, %lld) · (%lld, %lld) does not give (%lld, %lld)", (long long)a.shape[batch_rank],
             (long long)p.k, (long long)b.shape[batch_rank], (long long)b.shape[batch_rank + 1], (long long)p.m,
             (long long)p.n);
  OG_SUPPORTED(is_bytes(a) && is_bytes(b), "matmul_int8: operands must be int8 or uint8");
  OG_TRY(check_vector(in[kAZero], c, batch_rank, "a_zero"));
  OG_TRY(check_vector(in[kAScale], c, batch_rank, "a_scale"));
  OG_TRY(check_vector(in[kBZero], c, batch_rank + 1, "b_zero"));
  OG_TRY(check_vector(in[kBScale], c, batch_rank + 1, "b_scale"));
  OG_TRY(check_vector(in[kBias], c, batch_rank + 1, "bias"));
  OG_REQUIRE(!is_present(in[kResidual]) || same_shape(in[kResidual], c), "matmul_int8: residual must have c's shape");
  for (int i : {kAZero, kBZero})
    OG_SUPPORTED(!is_present(in[i]) || in[i].dtype == OG_I32, "matmul_int8: zero points must be int32");
  for (int i : {kAScale, kBScale, kBias, kResidual})
    OG_SUPPORTED(!is_present(in[i]) || (dtype_is_float(in[i].dtype) && in[i].dtype != OG_F64),
                 "matmul_int8: scales, bias and residual must be floats of at most 32 bits");
  const double activation = call->attrs[0];
  OG_REQUIRE(activation >= 0 && activation < 5 && activation == std::floor(activation),
             "matmul_int8: activation %g does not exist", activation);
  p.activation = (int)activation;
  p.seven_bit = call->attrs[1] != 0;
  p.out_scale = call->attrs[2];
  p.out_zero = call->attrs[3];
  if (c.dtype == OG_I32) {
    for (int i : {kAScale, kBScale, kBias, kResidual})
      OG_REQUIRE(!is_present(in[i]), "matmul_int8: int32 sums take no scale, bias or residual");
    OG_REQUIRE(p.activation == 0, "matmul_int8: int32 sums take no activation");
  } else {
    OG_SUPPORTED(is_bytes(c) || (dtype_is_float(c.dtype) && c.dtype != OG_F64),
                 "matmul_int8: output must be int32, a float of at most 32 bits, int8 or uint8");
  }
  if (is_bytes(c)) {
    const double low = c.dtype == OG_I8 ? -128 : 0;
    OG_REQUIRE(p.out_scale > 0 && (float)p.out_scale > 0 && std::isfinite((float)p.out_scale),
               "matmul_int8: output scale %g is no positive float", p.out_scale);
    OG_REQUIRE(p.out_zero >= low && p.out_zero <= low + 255 && p.out_zero == std::floor(p.out_zero),
               "matmul_int8: output zero point %g is not a code", p.out_zero);
  }
  p.rank = batch_rank;
  p.batch = 1;
  for (int i = 0; i < batch_rank; i++) {
    p.shape[i] = c.shape[i];
    p.batch *= c.shape[i];
  }
  if (is_present(in[kPacked]))
    for (int i = 0; i < batch_rank; i++)
      OG_REQUIRE(b.shape[i] <= 1 || b.strides[i] == 0, "matmul_int8: packed weights hold one matrix, b has several");
  return OG_OK;
}

/** No sum can leave int32: refused, not wrapped. */
inline int32_t check_range(const og_call* call, const Int8Product& p) {
  int32_t low, high;
  OG_TRY(range_of_zeros(call->inputs[kAZero], low, high));
  const int64_t a = largest_distance(call->inputs[kA].dtype == OG_I8, low, high);
  OG_TRY(range_of_zeros(call->inputs[kBZero], low, high));
  const int64_t b = largest_distance(call->inputs[kB].dtype == OG_I8, low, high);
  OG_SUPPORTED(p.k <= INT32_MAX / (a * b), "matmul_int8: sums of %lld products up to %lld may leave int32",
               (long long)p.k, (long long)(a * b));
  return OG_OK;
}

inline Int8Side side_of(const og_view& v, int batch_rank, bool vector) {
  Int8Side side{static_cast<char*>(v.data), v.dtype, 0, 0, {}};
  if (!is_present(v)) {
    side.data = nullptr;
    return side;
  }
  for (int i = 0; i < batch_rank; i++) side.strides[i] = v.strides[i];
  side.row = v.strides[batch_rank];
  if (!vector) side.column = v.strides[batch_rank + 1];
  return side;
}

inline void take_sides(const og_call* call, Int8Product& p) {
  for (int i = 0; i < kInt8Inputs; i++) {
    const bool matrix = i == kA || i == kB || i == kResidual;
    if (i != kPacked) p.sides[i] = side_of(call->inputs[i], p.rank, !matrix);
  }
  p.sides[kPacked] = {
      is_present(call->inputs[kPacked]) ? static_cast<char*>(call->inputs[kPacked].data) : nullptr, OG_U8, 0, 0, {}};
  p.c = side_of(call->outputs[0], p.rank, false);
}

}  // namespace
}  // namespace og
#endif
