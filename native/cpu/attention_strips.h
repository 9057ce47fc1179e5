/**
 * Attention of many queries: strips of queries that lie along the lanes, against tiles of keys, with an online softmax
 * (attention.cpp says how). Where tiles of keys and values come from is the caller's.
 */
#ifndef OMNIGRAD_CPU_ATTENTION_STRIPS_H
#define OMNIGRAD_CPU_ATTENTION_STRIPS_H

#include <atomic>

#include "../core/parallel.h"
#include "../core/scratch.h"
#include "attention_decode.h"
#include "attention_scores.h"

namespace og {
namespace {

#if OG_LANES == 16
constexpr int64_t kKeys = 128;  // keys of a tile: 128×32 scores fill half of L1
#else
constexpr int64_t kKeys = 256;
#endif
constexpr int64_t kBlock = 4;  // strips that share a tile of keys
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
inline void accumulate_tile(const Problem& p, const Strip& strip, const Rows& k, const Rows& v, int64_t j0, int64_t n,
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
inline void finish_strip(const Problem& p, const Strip& strip, const Partials& partials, int64_t b, int64_t h,
                         int64_t split, const og_call* call, float* rows) {
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

inline Plan plan_of(const Problem& p) {
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

inline bool take_buffers(const Problem& p, bool staged, ScratchFrame* scratch, Buffers* buffers) {
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
inline Block block_of(const Problem& p, const Plan& plan, int64_t index) {
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

/** Keys and values that are the operands k and v, read where they are. */
struct KeysInPlace {
  const og_call* call;

  void fetch(const Problem& p, int64_t b, int64_t head, int64_t from, int64_t n, Ahead* ahead) const {
    ahead->add(head_of(call->inputs[kK], b, head), from, n, p.width);
    ahead->add(head_of(call->inputs[kV], b, head), from, n, p.value_width);
  }
  Rows keys(const Problem& p, int64_t b, int64_t head, int64_t from, int64_t n, float* buffer) const {
    return key_rows(head_of(call->inputs[kK], b, head), from, n, p.width, buffer);
  }
  Rows values(const Problem& p, int64_t b, int64_t head, int64_t from, int64_t n, float* buffer) const {
    return key_rows(head_of(call->inputs[kV], b, head), from, n, p.value_width, buffer);
  }
};

/** `source` gives tiles of keys and values as float rows, as KeysInPlace does. */
template <class Source>
void run_block(const og_call* call, const Problem& p, const Block& block, const Partials& partials, Buffers& buffers,
               const Source& source) {
  const int64_t b = block.b, h = block.h, from = block.from, to = block.to, kv_head = h / p.group;
  const Head q = head_of(call->inputs[kQ], b, h);
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
      source.fetch(p, b, kv_head, j0 + n, left < kKeys ? left : kKeys, &ahead);
    } else {  // what finish_strip will write, and the block that comes next
      ahead.add(head_of(call->outputs[0], b, h), from, to - from, p.value_width);
      ahead.add(q, from > kBlock * kStrip ? from - kBlock * kStrip : 0, from < kBlock * kStrip ? from : kBlock * kStrip,
                p.width);
    }
    const Rows keys = source.keys(p, b, kv_head, j0, n, buffers.keys);
    Rows values = source.values(p, b, kv_head, j0, n, buffers.values);
    if (strips >= 4) values = near_rows(values, n, p.value_width, buffers.values);
    for (int64_t s = 0; s < strips; s++)
      accumulate_tile(p, buffers.strips[s], keys, values, j0, n, scoring, buffers, &ahead);
  }
  for (int64_t s = 0; s < strips; s++)
    finish_strip(p, buffers.strips[s], partials, b, h, block.split, call, buffers.rows);
}

/** One task of the plan: a block of queries for every head of a group. */
template <class Source>
bool run_task(const og_call* call, const Problem& whole, const Plan& plan, int64_t task, const Partials& partials,
              const Source& source) {
  const Problem p = whole.of(task / plan.splits / plan.row_tasks / whole.kv_heads);
  ScratchFrame local;
  Buffers buffers{};
  if (!take_buffers(p, p.drops || is_present(call->inputs[kMask]), &local, &buffers)) return false;
  for (int64_t g = 0; g < p.group; g++)
    run_block(call, p, block_of(p, plan, task * p.group + g), partials, buffers, source);
  return true;
}

template <class Source>
int32_t forward_tiled(const og_call* call, const Problem& p, const Source& source) {
  const Plan plan = plan_of(p);
  ScratchFrame scratch;
  Partials partials;
  OG_TRY(partials.take(&scratch, p.batch * p.q_heads * p.queries, plan.splits, p.value_width));
  std::atomic<bool> failed{false};
  parallel_for(p.batch * p.kv_heads * plan.row_tasks * plan.splits, [&](int64_t task) {
    if (!run_task(call, p, plan, task, partials, source)) failed = true;
  });
  if (failed) return fail(OG_OUT_OF_MEMORY, "attention: no memory for a block of queries");
  if (plan.splits > 1) combine(call, p, partials);
  return OG_OK;
}

}  // namespace
}  // namespace og
#endif
