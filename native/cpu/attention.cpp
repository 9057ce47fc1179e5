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
#include "attention_scores.h"
#include "attention_tile.h"
#endif

namespace og {
namespace OG_ISA {
namespace {

#ifdef OG_IS_REFERENCE

template <class C>
int32_t forward(const og_call* call, const Problem& p) {
  const bool masked = is_present(call->inputs[kMask]);
  const C infinity = std::numeric_limits<C>::infinity();
  std::atomic<bool> failed{false};
  parallel_for(p.batch * p.q_heads, [&](int64_t task) {
    const int64_t b = task / p.q_heads, h = task % p.q_heads;
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

#if OG_LANES == 16
constexpr int64_t kKeys = 128;  // keys of a tile: 128×32 scores fill half of L1
#else
constexpr int64_t kKeys = 256;
#endif
constexpr int64_t kBlock = 4;   // strips that share a tile of keys
constexpr int64_t kFewTasks = 32;
constexpr int64_t kLongTask = 64 << 20;  // floating-point operations, about a millisecond

/** Running state of one strip of queries. */
struct Strip {
  float* q;        // [padded width][kStrip], times scale · log₂e
  float* o;        // [padded value width][kStrip], not yet divided by sum
  float* highest;  // [kStrip], base 2
  float* sum;      // [kStrip]
  int64_t t0, count;
};

struct Buffers {
  Strip strips[kBlock];
  float *scores, *rows, *keys, *values, *stage, *kept;
};

/** One tile of keys for one strip. k and v point at key j0. */
void accumulate_tile(const Problem& p, const Strip& strip, const Rows& k, const Rows& v, int64_t j0, int64_t n,
                     const Scoring& scoring, const Buffers& buffers, Ahead* ahead) {
  const Reach reach = reach_of(p, strip.t0, strip.count, j0, n);
  const int64_t begin = reach.begin;
  const int64_t first = reach.end[0], second = reach.end[1];
  const int64_t both = first < second ? first : second;
  const int64_t end = first < second ? second : first;
  if (end <= begin) return;
  float* scores = buffers.scores;
  const auto at = [&](int64_t j) { return scores + j * kStrip; };
  const int alone = first < second ? 1 : 0;  // the vector that sees keys the other does not
  const int64_t shared = both > begin ? both : begin;
  if (shared > begin)
    multiply<2, true>(shared - begin, p.width, k.data + begin * k.stride, k.stride, strip.q, kStrip, at(begin), kStrip,
                      false, ahead);
  if (end > shared)
    multiply<1, true>(end - shared, p.width, k.data + shared * k.stride, k.stride, strip.q + alone * kLanes, kStrip,
                      at(shared) + alone * kLanes, kStrip, false);
  if (scoring.any)
    apply_scoring(p, scoring, strip.t0, strip.count, j0, begin, end, scores, kStrip, nullptr, buffers.stage,
                  round_up(kKeys, kLanes));
  apply_reach(p, reach, strip.t0, j0, scores, kStrip);

  alignas(64) float shrink[kStrip];
  bool shrinks = false;
  for (int x = 0; x < kVecs; x++) {
    const Vf never = set1(-__builtin_inff());
    const Vf before = load(strip.highest + x * kLanes);
    Vf top = before, top2 = before;
    int64_t j = begin;
    for (; j + 2 <= reach.end[x]; j += 2) {
      top = max_second(load(at(j) + x * kLanes), top);
      top2 = max_second(load(at(j + 1) + x * kLanes), top2);
    }
    if (j < reach.end[x]) top = max_second(load(at(j) + x * kLanes), top);
    top = max_second(top, top2);
    const Vf base = select(top == never, Vf{}, top);
    const Vf factor = exp2_nonpositive(before - base);
    Vf sum = load(strip.sum + x * kLanes) * factor;
    for (j = begin; j < reach.end[x]; j++) {
      const Vf weight = exp2_nonpositive(load(at(j) + x * kLanes) - base);
      sum = sum + weight;
      store(at(j) + x * kLanes, weight);
    }
    store(strip.highest + x * kLanes, top);
    store(strip.sum + x * kLanes, sum);
    store(shrink + x * kLanes, factor);
    shrinks |= any((Vi)(factor != 1.f) & (before != never));
  }
  if (shrinks) {
    const Vf f0 = load(shrink), f1 = load(shrink + kLanes);
    for (int64_t d = 0; d < p.value_width; d++) {
      float* o = strip.o + d * kStrip;
      store(o, load(o) * f0);
      store(o + kLanes, load(o + kLanes) * f1);
    }
  }
  if (p.drops) {
    fill_kept(p, scoring, strip.t0, strip.count, j0, begin, end, buffers.kept, kStrip, buffers.stage,
              round_up(kKeys, kLanes));
    multiply_tile(scores, buffers.kept, kStrip, begin, end);
  }
  if (shared > begin)
    multiply<2, false>(p.value_width, shared - begin, v.data + begin * v.stride, v.stride, at(begin), kStrip, strip.o,
                       kStrip, true, ahead);
  if (end > shared)
    multiply<1, false>(p.value_width, end - shared, v.data + shared * v.stride, v.stride, at(shared) + alone * kLanes,
                       kStrip, strip.o + alone * kLanes, kStrip, true);
}

/** Divides by the sums and writes the rows of one strip, or leaves them undivided as a partial result. */
void finish_strip(const Problem& p, const Strip& strip, const Partials& partials, int64_t b, int64_t h, int64_t split,
                  const og_call* call, float* rows) {
  const int64_t padded = round_up(p.value_width, kLanes);
  alignas(64) float factor[kStrip], lse[kStrip];
  const bool whole = partials.splits == 1;
  for (int x = 0; x < kVecs; x++) {
    const Vf sum = load(strip.sum + x * kLanes), highest = load(strip.highest + x * kLanes);
    const Vi empty = (Vi)(sum == 0.f);
    store(factor + x * kLanes, whole ? select(empty, Vf{}, set1(1.f) / sum) : set1(1.f));
    store(lse + x * kLanes, select(empty, set1(-__builtin_inff()), fma(highest, set1(kLn2), log(sum))));
  }
  transpose_back(strip.o, kStrip, padded, factor, rows);
  const Head y = head_of(call->outputs[0], b, h), out = head_of(call->outputs[1], b, h);
  for (int64_t i = 0; i < strip.count; i++) {
    if (!whole) {
      partials.put((b * p.q_heads + h) * p.queries + strip.t0 + i, split, rows + i * padded, p.value_width,
                   strip.highest[i], strip.sum[i]);
      continue;
    }
    store_row(y, strip.t0 + i, 0, p.value_width, rows + i * padded);
    store_row(out, strip.t0 + i, 0, 1, lse + i);
  }
}

/** How the work is cut; a function of the shapes. */
struct Plan {
  int64_t strips;      // per task
  int64_t row_tasks;   // per head
  int64_t split_keys;  // keys per task, a multiple of kKeys
  int64_t splits;
};

Plan plan_of(const Problem& p) {
  Plan plan;
  const int64_t per_strip = 2 * kStrip * (p.keys + 1) * (p.width + p.value_width + 1) * p.group;
  plan.strips = kBlock;
  if (per_strip * kBlock > 2 * kLongTask) plan.strips = per_strip * 2 > 2 * kLongTask ? 1 : 2;
  const int64_t rows = plan.strips * kStrip;
  plan.row_tasks = (p.queries + rows - 1) / rows;
  plan.split_keys = round_up(p.keys + 1, kKeys);
  const int64_t tasks = p.batch * p.kv_heads * plan.row_tasks;
  if (!p.packed && tasks < kFewTasks && p.keys > 4 * kKeys) {
    const int64_t wanted = (kFewTasks + tasks - 1) / tasks;
    plan.split_keys = round_up((p.keys + wanted - 1) / wanted, kKeys);
    if (plan.split_keys < 2 * kKeys) plan.split_keys = 2 * kKeys;
    const int64_t longest = kLongTask / (per_strip * plan.strips / (p.keys + 1)) / kKeys * kKeys;
    if (plan.split_keys > longest && longest >= 4 * kKeys) plan.split_keys = longest;
  }
  plan.splits = (p.keys + plan.split_keys - 1) / plan.split_keys;
  if (plan.splits < 1) plan.splits = 1;
  return plan;
}

bool take_buffers(const Problem& p, bool staged, ScratchFrame* scratch, Buffers* buffers) {
  const int64_t padded = round_up(p.width, kLanes), padded_value = round_up(p.value_width, kLanes);
  const int64_t widest = padded > padded_value ? padded : padded_value;
  for (Strip& strip : buffers->strips) {
    strip.q = scratch->take<float>(padded * kStrip);
    strip.o = scratch->take<float>(padded_value * kStrip);
    strip.highest = scratch->take<float>(2 * kStrip);
    if (!strip.q || !strip.o || !strip.highest) return false;
    strip.sum = strip.highest + kStrip;
  }
  buffers->scores = scratch->take<float>(kKeys * kStrip);
  buffers->rows = scratch->take<float>(kStrip * widest);
  buffers->keys = scratch->take<float>(kKeys * p.width);
  buffers->values = scratch->take<float>(kKeys * p.value_width);
  buffers->stage = scratch->take<float>(staged ? kStrip * round_up(kKeys, kLanes) : 0);
  buffers->kept = scratch->take<float>(p.drops ? kKeys * kStrip : 0);
  return buffers->scores && buffers->rows && buffers->keys && buffers->values && buffers->stage && buffers->kept;
}

/** Queries [from, to) of head (b, h) against keys [key_from, key_to), the split-th of the plan's ranges. */
struct Block {
  int64_t b, h, from, to, key_from, key_to, split;
};

/** Block number `index` in the order of work: of one task after the other, the heads of each group. */
Block block_of(const Problem& p, const Plan& plan, int64_t index) {
  Block block;
  const int64_t g = index % p.group, task = index / p.group, rest = task / plan.splits;
  const int64_t head = rest / plan.row_tasks, rows = plan.strips * kStrip;
  block.split = task % plan.splits;
  block.b = head / p.kv_heads;
  block.h = head % p.kv_heads * p.group + g;
  // later queries see more keys under the causal order: they go first, so that threads finish together
  block.from = (plan.row_tasks - 1 - rest % plan.row_tasks) * rows;
  block.to = block.from + rows < p.queries ? block.from + rows : p.queries;
  block.key_from = block.split * plan.split_keys;
  block.key_to = block.key_from + plan.split_keys < p.keys ? block.key_from + plan.split_keys : p.keys;
  const int64_t lowest = p.key_begin(block.from), highest = p.key_end(block.to - 1);
  if (block.key_from < lowest) block.key_from = lowest;
  if (block.key_to > highest) block.key_to = highest;
  return block;
}

void run_block(const og_call* call, const Problem& p, const Block& block, const Partials& partials, Buffers& buffers) {
  const int64_t b = block.b, h = block.h, from = block.from, to = block.to;
  const Head q = head_of(call->inputs[0], b, h);
  const Head k = head_of(call->inputs[1], b, h / p.group), v = head_of(call->inputs[2], b, h / p.group);
  const Scoring scoring = scoring_of(call, p, b, h);
  const int64_t padded = round_up(p.width, kLanes), padded_value = round_up(p.value_width, kLanes);
  const int64_t strips = (to - from + kStrip - 1) / kStrip;
  for (int64_t s = 0; s < strips; s++) {
    Strip& strip = buffers.strips[s];
    strip.t0 = from + s * kStrip;
    strip.count = to - strip.t0 < kStrip ? to - strip.t0 : kStrip;
    stage_rows(q, strip.t0, strip.count, kStrip, p.width, padded, buffers.rows);
    transpose_strip(buffers.rows, padded, query_factor(p), strip.q, kStrip);
    for (int i = 0; i < kStrip; i++) {
      strip.highest[i] = -__builtin_inff();
      strip.sum[i] = 0.f;
    }
    std::memset(strip.o, 0, (size_t)(padded_value * kStrip) * sizeof(float));
  }
  for (int64_t j0 = block.key_from; j0 < block.key_to && !cancelled(); j0 += kKeys) {
    const int64_t n = block.key_to - j0 < kKeys ? block.key_to - j0 : kKeys, left = block.key_to - j0 - n;
    Ahead ahead;
    if (left > 0) {
      ahead.add(k, j0 + n, left < kKeys ? left : kKeys, p.width);
      ahead.add(v, j0 + n, left < kKeys ? left : kKeys, p.value_width);
    } else {  // what finish_strip will write, and the block that comes next
      ahead.add(head_of(call->outputs[0], b, h), from, to - from, p.value_width);
      ahead.add(q, from > kBlock * kStrip ? from - kBlock * kStrip : 0, from < kBlock * kStrip ? from : kBlock * kStrip,
                p.width);
    }
    const Rows keys = key_rows(k, j0, n, p.width, buffers.keys);
    const Rows values = key_rows(v, j0, n, p.value_width, buffers.values);
    for (int64_t s = 0; s < strips; s++)
      accumulate_tile(p, buffers.strips[s], keys, values, j0, n, scoring, buffers, &ahead);
  }
  for (int64_t s = 0; s < strips; s++)
    finish_strip(p, buffers.strips[s], partials, b, h, block.split, call, buffers.rows);
}

/** One task of the plan: a block of queries for every head of a group. */
bool run_task(const og_call* call, const Problem& p, const Plan& plan, int64_t task, const Partials& partials) {
  ScratchFrame local;
  Buffers buffers{};
  if (!take_buffers(p, p.drops || is_present(call->inputs[kMask]), &local, &buffers)) return false;
  for (int64_t g = 0; g < p.group; g++) run_block(call, p, block_of(p, plan, task * p.group + g), partials, buffers);
  return true;
}

int32_t forward_tiled(const og_call* call, const Problem& p) {
  const Plan plan = plan_of(p);
  ScratchFrame scratch;
  Partials partials;
  OG_TRY(partials.take(&scratch, p.batch * p.q_heads * p.queries, plan.splits, p.value_width));
  std::atomic<bool> failed{false};
  parallel_for(p.batch * p.kv_heads * plan.row_tasks * plan.splits, [&](int64_t task) {
    if (!run_task(call, p, plan, task, partials)) failed = true;
  });
  if (failed) return fail(OG_OUT_OF_MEMORY, "attention: no memory for a block of queries");
  if (plan.splits > 1) combine(call, p, partials);
  return OG_OK;
}

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
    if (!run_task(&own.call, own.problem, plan_of(own.problem), task - first[n], Partials())) failed = true;
  });
  if (failed) return fail(OG_OUT_OF_MEMORY, "attention: no memory for a block of queries");
  return OG_OK;
}

template <class C>
int32_t forward(const og_call* call, const Problem& p) {
  if (p.queries * p.group <= kDecodeRows) return forward_decode(call, p);
  return forward_tiled(call, p);
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
