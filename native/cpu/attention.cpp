/**
 * attention: y = dropout(softmax(s)) v, and the log-sum-exp of every row of scores s, which the backward pass needs.
 *
 * Layouts: q [B, Hq, T, D], k [B, Hkv, S, D], v [B, Hkv, S, Dv], mask [B, Hq, T, S] (bool: may attend; float: added to
 * the scaled scores) → y [B, Hq, T, Dv], lse [B, Hq, T] float32. Any strides; y may be a view into [B, T, Hq, Dv]
 * memory. The other operands, the attributes and the score are in attention_common.h. Causal order is aligned to the
 * end of the keys. Query head h reads key head h / (Hq / Hkv). A query that may attend to nothing gives y = 0 and lse =
 * -∞. Values at masked places must be finite: they are multiplied by a probability of 0.
 *
 * Packed sequences (B = 1) are problems of their own, side by side: blocks outside a sequence are never touched. Their
 * keys are not split.
 *
 * Algorithm: online softmax (Milakov & Gimelshein 2018) over tiles of keys, as in FlashAttention-2 (arXiv 2307.08691);
 * tiles that the causal order or the window hide entirely are skipped. Scores are held transposed (attention_tile.h)
 * and never leave L1; scratch does not grow with T·S. A few queries against many keys take attention_decode.h.
 *
 * Numerics: products accumulate in float32, in base-2 logarithms (scale · log₂e is folded into q), 2^x with a relative
 * error of 1.7e-7; about 1e-6 relative to the largest |v|. `reference` computes the definition in float or double.
 *
 * Parallel split: (batch, key head, block of queries); where those are few and the keys many, also ranges of keys,
 * whose partial results are combined in order. Depends on the shapes only.
 */
#include <atomic>

#include "../core/parallel.h"
#include "../core/scratch.h"
#include "attention_common.h"
#ifndef OG_IS_REFERENCE
#include "attention_decode.h"
#include "attention_strips.h"
#endif

namespace og {
namespace OG_ISA {
namespace {

#ifdef OG_IS_REFERENCE

template <class C>
int32_t forward(const og_call* call, const Problem& whole) {
  const bool masked = is_present(call->inputs[kMask]);
  const C infinity = std::numeric_limits<C>::infinity();
  std::atomic<bool> failed{false};
  parallel_for(whole.batch * whole.q_heads, [&](int64_t task) {
    const int64_t b = task / whole.q_heads, h = task % whole.q_heads;
    const Problem p = whole.of(b);
    const Head q = head_of(call->inputs[0], b, h), y = head_of(call->outputs[0], b, h);
    const Head k = head_of(call->inputs[1], b, h / p.group), v = head_of(call->inputs[2], b, h / p.group);
    const Head mask = masked ? head_of(call->inputs[kMask], b, h) : Head{};
    const C slope = (C)slope_of(call, h);
    const Head lse = head_of(call->outputs[1], b, h);
    ScratchFrame scratch;
    C* keys = scratch.take<C>(p.keys * p.width);
    C* values = scratch.take<C>(p.keys * p.value_width);
    C* score = scratch.take<C>(p.keys);
    C* row = scratch.take<C>(p.width + p.value_width);
    if (!keys || !values || !score || !row) {
      failed = true;
      return;
    }
    C* sum = row + p.width;
    for (int64_t j = 0; j < p.keys; j++) {
      load_row(k, j, 0, p.width, keys + j * p.width);
      load_row(v, j, 0, p.value_width, values + j * p.value_width);
    }
    for (int64_t i = 0; i < p.queries; i++) {
      const int64_t begin = p.key_begin(i), end = p.key_end(i);
      load_row(q, i, 0, p.width, row);
      if (masked && end > begin) load_mask_row(mask, i, begin, end - begin, score + begin);
      C highest = -infinity;
      for (int64_t j = begin; j < end; j++) {
        C dot = 0;
        for (int64_t d = 0; d < p.width; d++) dot += row[d] * keys[j * p.width + d];
        dot *= (C)p.scale;
        if (p.soft_cap > 0) dot = (C)p.soft_cap * std::tanh(dot / (C)p.soft_cap);
        if (slope != C(0)) dot -= slope * std::abs((C)(i + p.keys - p.queries - j));
        score[j] = !masked ? dot : score[j] == -infinity ? -infinity : dot + score[j];
        if (score[j] > highest) highest = score[j];
      }
      const C base = highest == -infinity ? C(0) : highest;
      C total = 0;
      for (int64_t d = 0; d < p.value_width; d++) sum[d] = 0;
      for (int64_t j = begin; j < end; j++) {
        const C weight = std::exp(score[j] - base);
        const C used = weight * (C)kept(p, b, h, i, j);
        total += weight;
        for (int64_t d = 0; d < p.value_width; d++) sum[d] += used * values[j * p.value_width + d];
      }
      const C logarithm = total == C(0) ? -infinity : base + std::log(total);
      for (int64_t d = 0; d < p.value_width; d++) sum[d] = total == C(0) ? C(0) : sum[d] / total;
      store_row(y, i, 0, p.value_width, sum);
      store_row(lse, i, 0, 1, &logarithm);
    }
  });
  if (failed) return fail(OG_OUT_OF_MEMORY, "attention: no memory for a head");
  return OG_OK;
}

template <class C>
int32_t forward_packed(const og_call* call, const Problem& p) {
  Sequence sequence;
  for (int64_t n = 0; n < p.sequences; n++) {
    sequence.take(call, p, n, 1u << kK | 1u << kV, 0);
    OG_TRY(forward<C>(&sequence.call, sequence.problem));
  }
  return OG_OK;
}

#else

/** The tasks of all sequences in one row, so that short ones keep the threads busy together. */
template <class C>
int32_t forward_packed(const og_call* call, const Problem& p) {
  const int64_t count = p.sequences;
  ScratchFrame scratch;
  int64_t* first = scratch.take<int64_t>(count + 1);
  OG_SCRATCH(first, "tasks of packed sequences");
  const auto take = [&](int64_t n, Sequence* to) { to->take(call, p, n, 1u << kK | 1u << kV, 0); };
  Sequence sequence;
  first[0] = 0;
  for (int64_t n = 0; n < count; n++) {
    take(n, &sequence);
    first[n + 1] = first[n] + p.kv_heads * plan_of(sequence.problem).row_tasks;
  }
  std::atomic<bool> failed{false};
  parallel_for(first[count], [&](int64_t task) {
    const int64_t n = find_task(first, count, task);
    Sequence own;
    take(n, &own);
    if (!run_task(&own.call, own.problem, plan_of(own.problem), task - first[n], Partials(), KeysInPlace{&own.call}))
      failed = true;
  });
  if (failed) return fail(OG_OUT_OF_MEMORY, "attention: no memory for a block of queries");
  return OG_OK;
}

template <class C>
int32_t forward(const og_call* call, const Problem& p) {
  if (p.queries * p.group <= kDecodeRows) return forward_decode(call, p);
  return forward_tiled(call, p, KeysInPlace{call});
}

#endif

}  // namespace

int32_t kernel_attention(const og_call* call) {
  Problem p;
  ScratchFrame scratch;
  OG_TRY(read_problem(call, &scratch, &p));
  const og_view &y = call->outputs[0], &lse = call->outputs[1];
  OG_REQUIRE(has_query_shape(y, p, p.value_width), "attention: y must have shape [B, Hq, T, Dv]");
  OG_REQUIRE(has_query_shape(lse, p, -1), "attention: lse must have shape [B, Hq, T]");
  OG_SUPPORTED(dtype_is_float(y.dtype) && dtype_is_float(lse.dtype), "attention: outputs must have a float dtype");
  if (p.batch == 0 || p.q_heads == 0 || p.queries == 0) return OG_OK;
  bool wide = y.dtype == OG_F64 || lse.dtype == OG_F64;
  for (int i = 0; i < 4; i++) wide |= call->inputs[i].dtype == OG_F64;
  return with_float_compute(wide ? OG_F64 : OG_F32, [&](auto type) {
    return p.packed ? forward_packed<decltype(type)>(call, p) : forward<decltype(type)>(call, p);
  });
}

}  // namespace OG_ISA
}  // namespace og
