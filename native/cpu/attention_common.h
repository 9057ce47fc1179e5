/**
 * What the two attention kernels share on every instruction set: the problem's sizes, which keys a query may attend
 * to, and reading or writing one row of an operand of any dtype and stride.
 */
#ifndef OMNIGRAD_CPU_ATTENTION_COMMON_H
#define OMNIGRAD_CPU_ATTENTION_COMMON_H

#include "../core/status.h"
#include "../core/view.h"
#include "stage.h"

namespace og {
namespace {

constexpr int64_t kMaxHeadWidth = 256;

struct Problem {
  int64_t batch, q_heads, kv_heads, group;  // group = q_heads / kv_heads query heads read the same keys and values
  int64_t queries, keys, width, value_width;
  double scale;
  bool causal;
  int64_t window;

  /** Query i may attend to keys in [key_begin(i), key_end(i)) unless a mask forbids more. Both grow with i. */
  int64_t key_end(int64_t i) const { return causal ? clip(i + keys - queries + 1) : keys; }
  int64_t key_begin(int64_t i) const { return window > 0 ? clip(i + keys - queries - window + 1) : 0; }
  int64_t clip(int64_t j) const { return j < 0 ? 0 : j > keys ? keys : j; }
};

/** Fills the problem from q, k, v and the attributes (scale, causal, window), and checks that the shapes agree. */
inline int32_t read_problem(const og_call* call, Problem* p) {
  const og_view &q = call->inputs[0], &k = call->inputs[1], &v = call->inputs[2], &mask = call->inputs[3];
  OG_REQUIRE(q.rank == 4 && k.rank == 4 && v.rank == 4, "attention: q, k, v must have rank 4");
  p->batch = q.shape[0];
  p->q_heads = q.shape[1];
  p->kv_heads = k.shape[1];
  p->queries = q.shape[2];
  p->keys = k.shape[2];
  p->width = q.shape[3];
  p->value_width = v.shape[3];
  OG_REQUIRE(k.shape[0] == p->batch && v.shape[0] == p->batch, "attention: batch sizes differ");
  OG_REQUIRE(v.shape[1] == p->kv_heads && v.shape[2] == p->keys, "attention: k and v differ in heads or length");
  OG_REQUIRE(k.shape[3] == p->width, "attention: q and k differ in width");
  OG_REQUIRE(p->kv_heads > 0 ? p->q_heads % p->kv_heads == 0 : p->q_heads == 0,
             "attention: query heads are not a multiple of key heads");
  OG_SUPPORTED(p->width <= kMaxHeadWidth && p->value_width <= kMaxHeadWidth, "attention: head width above 256");
  p->group = p->kv_heads > 0 ? p->q_heads / p->kv_heads : 0;
  for (int i = 0; i < 3; i++)
    OG_SUPPORTED(dtype_is_float(call->inputs[i].dtype), "attention: q, k, v must have a float dtype");
  if (is_present(mask)) {
    OG_SUPPORTED(mask.dtype == OG_BOOL || dtype_is_float(mask.dtype), "attention: mask must be bool or float");
    OG_REQUIRE(mask.rank == 4 && mask.shape[0] == p->batch && mask.shape[1] == p->q_heads &&
                   mask.shape[2] == p->queries && mask.shape[3] == p->keys,
               "attention: mask must have shape [B, Hq, T, S]");
  }
  p->scale = call->attrs[0];
  p->causal = call->attrs[1] != 0;
  p->window = (int64_t)call->attrs[2];
  OG_REQUIRE(p->window >= 0, "attention: window must not be negative");
  return OG_OK;
}

/** Whether a view has the shape [B, Hq, T, last], or [B, Hq, T] when last is negative. */
inline bool has_query_shape(const og_view& v, const Problem& p, int64_t last) {
  return v.rank == (last < 0 ? 3 : 4) && v.shape[0] == p.batch && v.shape[1] == p.q_heads && v.shape[2] == p.queries &&
         (last < 0 || v.shape[3] == last);
}

/** One head of an operand: a matrix of rows. */
struct Head {
  char* data;
  int32_t dtype;
  int64_t size, row, column;  // bytes of an element; strides in elements

  char* at(int64_t index) const { return data + index * row * size; }
};

inline Head head_of(const og_view& v, int64_t b, int64_t h) {
  const int64_t size = dtype_size(v.dtype);
  return {static_cast<char*>(v.data) + (b * v.strides[0] + h * v.strides[1]) * size, v.dtype, size, v.strides[2],
          v.rank > 3 ? v.strides[3] : 1};
}

/** Elements [from, from+n) of a row, as C. */
template <class C>
inline void load_row(const Head& head, int64_t row, int64_t from, int64_t n, C* to) {
  const char* source = head.at(row) + from * head.column * head.size;
  switch (head.dtype) {
    case OG_F32:
      load_run(reinterpret_cast<const float*>(source), head.column, n, to);
      break;
    case OG_F16:
      load_run(reinterpret_cast<const f16*>(source), head.column, n, to);
      break;
    case OG_BF16:
      load_run(reinterpret_cast<const bf16*>(source), head.column, n, to);
      break;
    default:
#ifdef OG_IS_REFERENCE
      load_run(reinterpret_cast<const double*>(source), head.column, n, to);
#endif
      break;
  }
}

template <class C>
inline void store_row(const Head& head, int64_t row, int64_t from, int64_t n, const C* values) {
  char* target = head.at(row) + from * head.column * head.size;
  switch (head.dtype) {
    case OG_F32:
      store_run(values, n, reinterpret_cast<float*>(target), head.column);
      break;
    case OG_F16:
      store_run(values, n, reinterpret_cast<f16*>(target), head.column);
      break;
    case OG_BF16:
      store_run(values, n, reinterpret_cast<bf16*>(target), head.column);
      break;
    default:
#ifdef OG_IS_REFERENCE
      store_run(values, n, reinterpret_cast<double*>(target), head.column);
#endif
      break;
  }
}

/** Mask values [from, from+n) of one query as numbers to add: bool becomes 0 or -∞. */
template <class C>
inline void load_mask_row(const Head& mask, int64_t row, int64_t from, int64_t n, C* to) {
  if (mask.dtype != OG_BOOL) {
    load_row(mask, row, from, n, to);
    return;
  }
  const uint8_t* source = reinterpret_cast<const uint8_t*>(mask.at(row)) + from * mask.column;
  const C forbidden = -std::numeric_limits<C>::infinity();
  for (int64_t i = 0; i < n; i++) to[i] = source[i * mask.column] ? C(0) : forbidden;
}

}  // namespace
}  // namespace og
#endif
