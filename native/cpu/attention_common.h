/**
 * What the two attention kernels share on every instruction set: the problem's sizes, which keys a query may attend
 * to, what happens to a score, sequences that are packed behind each other, and reading or writing one row of an
 * operand of any dtype and stride.
 *
 * Operands that both kernels begin with: q, k, v, mask, slopes [Hq] (ALiBi; float32 or float64), query offsets and key
 * offsets [N+1] int32 (packed sequences; both or none), spans [B, T, 2] int32: query i also
 * sees the keys [spans[b][i][0], spans[b][i][1]) whatever causal and window say; unless empty they include its place.
 * What a query sees must not begin or end before what the one before it sees, as it is with spans that do not overlap:
 * then tiles are skipped as before. Attributes of both: scale, causal, window (0: none), soft cap
 * (0: none), dropout probability, and its stream in four halves of 32 bits as random.cpp takes it. A score is
 *   s = cap·tanh(scale·q·k / cap) − slope·|place − j| + mask,
 * where query i stands at place i + S − T among the keys. Weight (b, h, i, j) has number ((b·Hq + h)·T + i)·S + j; it
 * is kept, and divided by 1 − p, if the stream's word of that number is at least p·2^32. That is what the dropout
 * kernel does to a contiguous [B, Hq, T, S] tensor. With packed sequences T and S of that number are the totals.
 */
#ifndef OMNIGRAD_CPU_ATTENTION_COMMON_H
#define OMNIGRAD_CPU_ATTENTION_COMMON_H

#include <cmath>

#include "../core/philox.h"
#include "../core/scratch.h"
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
  double soft_cap;  // 0: none
  bool drops;
  double kept_weight;  // 1 / (1 - p)
  uint32_t drop_limit;
  PhiloxKey drop_key;
  uint64_t drop_counter;
  // where this problem's rows lie in the operands of the call: not at 0 for one sequence of a packed call
  int64_t first_query, first_key, all_queries, all_keys;
  // of packed sequences, a checked copy: outputs of a hostile call may lie over the operands
  bool packed;
  int64_t sequences;
  const int64_t *query_offsets, *key_offsets;
  // of spans: what each query sees, [B][T]; null without. Of one sequence of the batch: [T]
  const int32_t *begins, *ends;
  const int64_t* lengths;  // keys of each sequence of the batch; null: all have `keys`

  /** Query i may attend to keys in [key_begin(i), key_end(i)) unless a mask forbids more. Both grow with i. */
  int64_t key_end(int64_t i) const { return ends ? ends[i] : causal ? clip(i + keys - queries + 1) : keys; }
  int64_t key_begin(int64_t i) const {
    return begins ? begins[i] : window > 0 ? clip(i + keys - queries - window + 1) : 0;
  }
  /** The problem of sequence b, whose keys and spans are its own. key_begin and key_end are those of such a problem. */
  Problem of(int64_t b) const {
    Problem own = *this;
    if (lengths) own.keys = lengths[b];
    if (ends) {
      own.begins += b * queries;
      own.ends += b * queries;
    }
    return own;
  }
  int64_t clip(int64_t j) const { return j < 0 ? 0 : j > keys ? keys : j; }
  /** The problem of packed sequence n. */
  Problem sequence(int64_t n) const {
    Problem own = *this;
    own.first_query = query_offsets[n];
    own.first_key = key_offsets[n];
    own.queries = query_offsets[n + 1] - own.first_query;
    own.keys = key_offsets[n + 1] - own.first_key;
    if (ends) {
      own.begins += own.first_query;
      own.ends += own.first_query;
    }
    return own;
  }
  /** Number of weight (b, h, i, j) in the stream of dropout. */
  uint64_t place_of(int64_t b, int64_t h, int64_t i, int64_t j) const {
    return ((uint64_t)(b * q_heads + h) * (uint64_t)all_queries + (uint64_t)(first_query + i)) * (uint64_t)all_keys +
           (uint64_t)(first_key + j);
  }
};

enum SharedInput { kQ, kK, kV, kMask, kSlopes, kQueryOffsets, kKeyOffsets, kSpans, kSharedInputs };
constexpr int kSharedAttrs = 9;
constexpr int64_t kSpansRest = 16;  // numbers behind the last query's: vectors of them are read whole

/** One sequence: spans of its queries, whose numbers count from key first_key on; what each sees goes to `p`'s arrays.
 */
inline int32_t take_spans_of(const og_view& spans, const Problem& p, int64_t b, int32_t* begins, int32_t* ends) {
  for (int64_t i = 0; i < p.queries; i++) {
    const int64_t row = p.first_query + i;
    const int32_t* span = data_of<int32_t>(spans) + b * spans.strides[0] + row * spans.strides[1];
    const int64_t from = span[0] - p.first_key, to = span[spans.strides[2]] - p.first_key;
    const int64_t place = i + p.keys - p.queries;
    int64_t begin = p.key_begin(i), end = p.key_end(i);
    if (from != to) {
      if (from < 0 || from > place || to <= place || to > p.keys)
        return fail(OG_INDEX, "attention: span %lld to %lld does not hold query %lld, at place %lld of %lld keys",
                    (long long)(from + p.first_key), (long long)(to + p.first_key), (long long)row,
                    (long long)(place + p.first_key), (long long)(p.keys + p.first_key));
      if (from < begin) begin = from;
      if (to > end) end = to;
    }
    if (i > 0 && (begin < begins[i - 1] || end < ends[i - 1]))
      return fail(OG_INDEX, "attention: query %lld sees less far than the one before it; spans must not overlap",
                  (long long)row);
    begins[i] = (int32_t)begin;
    ends[i] = (int32_t)end;
  }
  return OG_OK;
}

/** Checks spans and computes what each query sees from them, causal order and window. */
inline int32_t take_spans(const og_view& spans, ScratchFrame* scratch, Problem* p) {
  p->begins = p->ends = nullptr;
  if (!is_present(spans)) return OG_OK;
  OG_REQUIRE(spans.dtype == OG_I32 && spans.rank == 3 && spans.shape[0] == p->batch && spans.shape[1] == p->queries &&
                 spans.shape[2] == 2,
             "attention: spans must be int32 [B, T, 2]");
  OG_SUPPORTED(p->keys < int64_t{1} << 31, "attention: too many keys for spans");
  const int64_t count = p->batch * p->queries + kSpansRest;
  int32_t* begins = scratch->take<int32_t>(count);
  int32_t* ends = scratch->take<int32_t>(count);
  OG_SCRATCH(begins, "spans");
  OG_SCRATCH(ends, "spans");
  for (int64_t b = 0; b < p->batch && !p->packed; b++)
    OG_TRY(take_spans_of(spans, p->of(b), b, begins + b * p->queries, ends + b * p->queries));
  for (int64_t n = 0; n < p->sequences && p->packed; n++) {
    const Problem own = p->sequence(n);
    OG_TRY(take_spans_of(spans, own, 0, begins + own.first_query, ends + own.first_query));
  }
  for (int64_t i = p->batch * p->queries; i < count; i++) begins[i] = ends[i] = 0;
  p->begins = begins;
  p->ends = ends;
  return OG_OK;
}

/** Copies offsets, which must begin with 0, never fall, and end at the number of rows. */
inline int32_t take_offsets(const og_view& offsets, const char* name, int64_t count, int64_t rows,
                            ScratchFrame* scratch, const int64_t** copy) {
  OG_REQUIRE(offsets.dtype == OG_I32 && offsets.rank == 1 && offsets.shape[0] == count + 1,
             "attention: %s offsets must be int32, one more than sequences", name);
  int64_t* to = scratch->take<int64_t>(count + 1);
  OG_SCRATCH(to, "offsets of packed sequences");
  for (int64_t n = 0; n <= count; n++) {
    const int64_t at = data_of<int32_t>(offsets)[n * offsets.strides[0]], before = n == 0 ? 0 : to[n - 1];
    const bool fits = at >= before && at <= rows && (n > 0 || at == 0) && (n < count || at == rows);
    if (!fits)
      return fail(OG_INDEX, "attention: %s offset %lld is %lld; offsets go from 0 to %lld without falling", name,
                  (long long)n, (long long)at, (long long)rows);
    to[n] = at;
  }
  *copy = to;
  return OG_OK;
}

/** Soft cap, dropout, slopes and packing. */
inline int32_t read_extras(const og_call* call, ScratchFrame* scratch, Problem* p) {
  const og_view &slopes = call->inputs[kSlopes], &queries = call->inputs[kQueryOffsets],
                &keys = call->inputs[kKeyOffsets];
  const double p_drop = call->attrs[4];
  p->soft_cap = call->attrs[3];
  OG_REQUIRE(p->soft_cap >= 0 && p->soft_cap <= 1e30, "attention: the soft cap must be positive, or 0 for none");
  OG_REQUIRE(p_drop >= 0 && p_drop < 1, "attention: the dropout probability must lie in [0, 1)");
  for (int i = 5; i < kSharedAttrs; i++)
    OG_REQUIRE(call->attrs[i] >= 0 && call->attrs[i] < 4294967296.0 && call->attrs[i] == std::floor(call->attrs[i]),
               "attention: the stream is given as halves of 32 bits");
  p->drops = p_drop > 0;
  p->kept_weight = 1 / (1 - p_drop);
  p->drop_limit = (uint32_t)(p_drop * 4294967296.0);
  p->drop_key = {(uint32_t)call->attrs[5], (uint32_t)call->attrs[6]};
  p->drop_counter = (uint64_t)call->attrs[7] | (uint64_t)call->attrs[8] << 32;
  if (is_present(slopes))
    OG_REQUIRE((slopes.dtype == OG_F32 || slopes.dtype == OG_F64) && slopes.rank == 1 && slopes.shape[0] == p->q_heads,
               "attention: slopes must be float32 or float64, one a query head");
  p->first_query = p->first_key = 0;
  p->all_queries = p->queries;
  p->all_keys = p->keys;
  p->packed = is_present(queries);
  p->sequences = 1;
  p->query_offsets = p->key_offsets = nullptr;
  p->lengths = nullptr;
  OG_REQUIRE(p->packed == is_present(keys), "attention: offsets of queries and keys come together");
  p->begins = p->ends = nullptr;
  if (!p->packed) return take_spans(call->inputs[kSpans], scratch, p);
  OG_REQUIRE(p->batch == 1, "attention: packed sequences have a batch of 1");
  OG_SUPPORTED(!is_present(call->inputs[kMask]), "attention: packed sequences take no mask");
  OG_REQUIRE(queries.rank == 1 && queries.shape[0] >= 1, "attention: offsets must have rank 1 and an element");
  p->sequences = queries.shape[0] - 1;
  OG_TRY(take_offsets(queries, "query", p->sequences, p->queries, scratch, &p->query_offsets));
  OG_TRY(take_offsets(keys, "key", p->sequences, p->keys, scratch, &p->key_offsets));
  return take_spans(call->inputs[kSpans], scratch, p);
}

/** Fills the problem from the shared operands and attributes, and checks that the shapes agree. */
inline int32_t read_problem(const og_call* call, ScratchFrame* scratch, Problem* p) {
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
  OG_REQUIRE(call->attrs[2] >= 0 && call->attrs[2] <= 9007199254740992.0, "attention: window must not be negative");
  p->window = (int64_t)call->attrs[2];
  return read_extras(call, scratch, p);
}

/** Slope of a head's linear bias; 0 without. */
inline double slope_of(const og_call* call, int64_t h) {
  const og_view& slopes = call->inputs[kSlopes];
  if (!is_present(slopes)) return 0;
  const int64_t at = h * slopes.strides[0];
  return slopes.dtype == OG_F64 ? data_of<double>(slopes)[at] : (double)data_of<float>(slopes)[at];
}

/** Rows [from, from + n) of a [B, H, T, ·] view. */
inline og_view rows_of(const og_view& v, int64_t from, int64_t n) {
  og_view rows = v;
  if (!is_present(v)) return rows;
  if (from > 0) rows.data = static_cast<char*>(v.data) + from * v.strides[2] * dtype_size(v.dtype);
  rows.shape[2] = n;
  return rows;
}

/** One sequence of a packed call, as a call of its own. Not to be moved: the call points into it. */
struct Sequence {
  og_view inputs[11], outputs[4];
  og_call call;
  Problem problem;

  /** Bit i of `key_inputs` and `key_outputs`: operand i has rows of keys, not of queries. */
  void take(const og_call* from, const Problem& whole, int64_t n, uint32_t key_inputs, uint32_t key_outputs) {
    const int64_t q = whole.query_offsets[n], q_end = whole.query_offsets[n + 1];
    const int64_t k = whole.key_offsets[n], k_end = whole.key_offsets[n + 1];
    for (int i = 0; i < from->input_count; i++) {
      if (i >= kMask && i < kSharedInputs) {
        inputs[i] = from->inputs[i];
      } else {
        inputs[i] =
            key_inputs >> i & 1 ? rows_of(from->inputs[i], k, k_end - k) : rows_of(from->inputs[i], q, q_end - q);
      }
    }
    for (int i = 0; i < from->output_count; i++)
      outputs[i] =
          key_outputs >> i & 1 ? rows_of(from->outputs[i], k, k_end - k) : rows_of(from->outputs[i], q, q_end - q);
    call = *from;
    call.inputs = inputs;
    call.outputs = outputs;
    problem = whole.sequence(n);
  }
};

#ifdef OG_IS_REFERENCE
/** What becomes of a weight: 0, or itself divided by the probability of being kept. */
inline double kept(const Problem& p, int64_t b, int64_t h, int64_t i, int64_t j) {
  if (!p.drops) return 1;
  const uint64_t place = p.place_of(b, h, i, j);
  uint32_t words[4];
  philox(p.drop_key, p.drop_counter + place / 4, 0, 1, words);
  return words[place % 4] >= p.drop_limit ? p.kept_weight : 0;
}
#endif

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
  OG_ISA::load_elements(head.at(row) + from * head.column * head.size, head.dtype, head.column, n, to);
}

template <class C>
inline void store_row(const Head& head, int64_t row, int64_t from, int64_t n, const C* values) {
  OG_ISA::store_elements(values, n, head.at(row) + from * head.column * head.size, head.dtype, head.column);
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
