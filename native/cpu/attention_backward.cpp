/**
 * attention_backward: gradients of attention with respect to q, k, v and, if wanted, an additive mask.
 *
 * Layouts and attributes as in attention.cpp; y and lse are that kernel's results, grad has y's shape. Outputs dq, dk,
 * dv shaped as q, k, v, and dmask [B, Hq, T, S] (absent unless the bias is learnt). With grouped queries dk and dv are
 * summed over the group.
 *
 * Algorithm (FlashAttention-2, arXiv 2307.08691, algorithm 2): per tile, P = 2^(s - lse) is recomputed, then
 *   dv += (M ⊙ P)ᵀ·grad,  dS = P ⊙ (M ⊙ grad·vᵀ - Δ),  dmask = dS,  dX = dS ⊙ (1 - tanh²),
 *   dk += scale·dXᵀ·q,  dq += scale·dX·k,  Δ = rowsum(grad ⊙ y),
 * M being the replayed mask of dropout (1 without) and tanh the soft cap's (0 without).
 * Tiles hidden by the causal order or the window are skipped. Tiles are held transposed (attention_tile.h); scratch is
 * linear in T and S.
 *
 * Numerics: all products and sums in float32 (`reference`: float or double, straight from the formulae).
 *
 * Parallel split: each head's queries and keys are cut into pieces, by shape only. Pairs (i, j) of pieces with
 * i + j ≡ phase (mod pieces) share no output, so the pairs of one phase run in parallel and every sum has a fixed
 * order.
 */
#include <atomic>

#include "../core/parallel.h"
#include "../core/scratch.h"
#include "attention_common.h"
#ifndef OG_IS_REFERENCE
#include "attention_gradient.h"
#endif

namespace og {
namespace OG_ISA {
namespace {

enum Input { kY = kSharedInputs, kLse, kGrad, kInputs };
enum Output { kDq, kDk, kDv, kDmask };

#ifdef OG_IS_REFERENCE

template <class C>
int32_t backward(const og_call* call, const Problem& whole) {
  const bool masked = is_present(call->inputs[kMask]), wants_mask = is_present(call->outputs[kDmask]);
  std::atomic<bool> failed{false};
  parallel_for(whole.batch * whole.kv_heads, [&](int64_t task) {
    const int64_t b = task / whole.kv_heads, kv_head = task % whole.kv_heads, w = whole.width, vw = whole.value_width;
    const Problem p = whole.of(b);
    const Head k = head_of(call->inputs[kK], b, kv_head), v = head_of(call->inputs[kV], b, kv_head);
    ScratchFrame scratch;
    C* keys = scratch.take<C>(2 * p.keys * w);
    C* values = scratch.take<C>(2 * p.keys * vw);
    C* rows = scratch.take<C>(2 * w + 2 * vw);
    C* bias = scratch.take<C>(2 * p.keys);
    if (!keys || !values || !rows || !bias) {
      failed = true;
      return;
    }
    C *dk = keys + p.keys * w, *dv = values + p.keys * vw, *dbias = bias + p.keys;
    C *q_row = rows, *dq = rows + w, *grad = rows + 2 * w, *y = grad + vw;
    for (int64_t j = 0; j < p.keys; j++) {
      load_row(k, j, 0, w, keys + j * w);
      load_row(v, j, 0, vw, values + j * vw);
    }
    for (int64_t i = 0; i < p.keys * w; i++) dk[i] = 0;
    for (int64_t i = 0; i < p.keys * vw; i++) dv[i] = 0;
    for (int64_t g = 0; g < p.group; g++) {
      const int64_t h = kv_head * p.group + g;
      const C slope = (C)slope_of(call, h);
      const Head q = head_of(call->inputs[kQ], b, h), dq_out = head_of(call->outputs[kDq], b, h);
      for (int64_t i = 0; i < p.queries; i++) {
        const int64_t begin = p.key_begin(i), end = p.key_end(i);
        C lse = 0, delta = 0;
        load_row(q, i, 0, w, q_row);
        load_row(head_of(call->inputs[kGrad], b, h), i, 0, vw, grad);
        load_row(head_of(call->inputs[kY], b, h), i, 0, vw, y);
        load_row(head_of(call->inputs[kLse], b, h), i, 0, 1, &lse);
        if (masked && end > begin)
          load_mask_row(head_of(call->inputs[kMask], b, h), i, begin, end - begin, bias + begin);
        for (int64_t d = 0; d < vw; d++) delta += grad[d] * y[d];
        for (int64_t d = 0; d < w; d++) dq[d] = 0;
        for (int64_t j = 0; j < p.keys; j++) dbias[j] = 0;
        for (int64_t j = begin; j < end && lse != -std::numeric_limits<C>::infinity(); j++) {
          C score = 0, dp = 0;
          for (int64_t d = 0; d < w; d++) score += q_row[d] * keys[j * w + d];
          score *= (C)p.scale;
          C bend = 1;  // derivative of the soft cap
          if (p.soft_cap > 0) {
            const C t = std::tanh(score / (C)p.soft_cap);
            score = (C)p.soft_cap * t;
            bend = 1 - t * t;
          }
          if (slope != C(0)) score -= slope * std::abs((C)(i + p.keys - p.queries - j));
          if (masked) score = bias[j] == -std::numeric_limits<C>::infinity() ? bias[j] : score + bias[j];
          const C weight = std::exp(score - lse);
          for (int64_t d = 0; d < vw; d++) dp += grad[d] * values[j * vw + d];
          const C share = (C)kept(p, b, h, i, j), ds = weight * (share * dp - delta);
          dbias[j] = ds;
          for (int64_t d = 0; d < vw; d++) dv[j * vw + d] += share * weight * grad[d];
          for (int64_t d = 0; d < w; d++) {
            dk[j * w + d] += (C)p.scale * bend * ds * q_row[d];
            dq[d] += (C)p.scale * bend * ds * keys[j * w + d];
          }
        }
        store_row(dq_out, i, 0, w, dq);
        if (wants_mask) store_row(head_of(call->outputs[kDmask], b, h), i, 0, p.keys, dbias);
      }
    }
    for (int64_t j = 0; j < p.keys; j++) {
      store_row(head_of(call->outputs[kDk], b, kv_head), j, 0, w, dk + j * w);
      store_row(head_of(call->outputs[kDv], b, kv_head), j, 0, vw, dv + j * vw);
    }
  });
  if (failed) return fail(OG_OUT_OF_MEMORY, "attention_backward: no memory for a head");
  return OG_OK;
}

template <class C>
int32_t backward_packed(const og_call* call, const Problem& p) {
  Sequence sequence;
  for (int64_t n = 0; n < p.sequences; n++) {
    sequence.take(call, p, n, 1u << kK | 1u << kV, 1u << kDk | 1u << kDv);
    OG_TRY(backward<C>(&sequence.call, sequence.problem));
  }
  return OG_OK;
}

#else

constexpr int64_t kFewTasks = 16;
constexpr int64_t kLongTask = 128 << 20;  // floating-point operations, about 2 ms
constexpr int64_t kLongPiece = 1024;      // keys whose gradients one task keeps in its cache

/** One (batch, key head) and one pair of pieces: queries [from, to) against keys [key_from, key_to). */
struct Task {
  const og_call* call;
  const Problem* problem;
  const og_view *dq, *dk, *dv;  // where results go: the outputs, or float32 accumulators
  bool add;                     // to what is there already
  int64_t b, kv_head, from, to, key_from, key_to;
};

/** values + what lies in the row, when adding; the row is float32 then. */
void put_row(const Head& head, int64_t row, int64_t n, float* values, bool add) {
  if (add) {
    const float* at = reinterpret_cast<const float*>(head.at(row));
    for (int64_t d = 0; d < n; d++) values[d] += at[d * head.column];
  }
  store_row(head, row, 0, n, values);
}

/** Rows, transposes and row constants of `count` queries from t0. */
void load_queries(const Task& task, int64_t h, int64_t t0, int64_t count, const Buffers& buffers) {
  const Problem& p = *task.problem;
  const int64_t w = round_up(p.width, kLanes), vw = round_up(p.value_width, kLanes);
  const Head lse = head_of(task.call->inputs[kLse], task.b, h), y = head_of(task.call->inputs[kY], task.b, h);
  load_block(head_of(task.call->inputs[kQ], task.b, h), t0, count, p.width, query_factor(p), buffers.rows,
             buffers.q_rows, buffers.q);
  load_block(head_of(task.call->inputs[kGrad], task.b, h), t0, count, p.value_width, 1.f, buffers.rows,
             buffers.grad_rows, buffers.grad);
  alignas(64) float row[kMaxHeadWidth];
  for (int64_t d = p.value_width; d < vw; d++) row[d] = 0.f;
  for (int64_t i = 0; i < kBlock; i++) {
    buffers.lse[i] = __builtin_inff();  // a query without keys, or none at all, has probabilities of 0
    buffers.delta[i] = 0.f;
    if (i >= count) continue;
    float value = 0.f;
    load_row(lse, t0 + i, 0, 1, &value);
    if (value != -__builtin_inff()) buffers.lse[i] = value * kLog2e;
    const float* values = row;
    if (vw == p.value_width)
      values = key_rows(y, t0 + i, 1, vw, row).data;
    else
      load_row(y, t0 + i, 0, p.value_width, row);
    Vf delta{};
    for (int64_t d = 0; d < vw; d += kLanes)
      delta = fma(load(values + d), load(buffers.grad_rows + d / kPanel * kPanel * kBlock + i * kPanel + d % kPanel),
                  delta);
    buffers.delta[i] = sum(delta);
  }
  std::memset(buffers.dq, 0, (size_t)(w * kBlock) * sizeof(float));
}

/** One block of queries of one head against the keys of the task. */
void run_queries(const Task& task, int64_t h, int64_t t0, int64_t count, const Rows& k, const Rows& v,
                 const Buffers& buffers) {
  const Problem& p = *task.problem;
  const int64_t w = round_up(p.width, kLanes), vw = round_up(p.value_width, kLanes);
  const int64_t lowest = p.key_begin(t0), highest = p.key_end(t0 + count - 1);
  const int64_t begin = task.key_from + (lowest > task.key_from ? (lowest - task.key_from) / kBlock * kBlock : 0);
  const int64_t end = task.key_to < highest ? task.key_to : highest;
  if (end <= begin && task.add) return;
  load_queries(task, h, t0, count, buffers);
  const bool wants_mask = is_present(task.call->outputs[kDmask]);
  const Scoring scoring = scoring_of(task.call, p, task.b, h);
  const Head dq = head_of(*task.dq, task.b, h);
  const int64_t next = t0 + count, next_count = task.to - next < kBlock ? task.to - next : kBlock;
  Ahead ahead;
  ahead.add(dq, t0, count, p.width);
  if (next_count > 0) {  // the next block of queries, and the keys that only it sees
    const int64_t next_end =
        p.key_end(next + next_count - 1) < task.key_to ? p.key_end(next + next_count - 1) : task.key_to;
    ahead.add(head_of(task.call->inputs[kQ], task.b, h), next, next_count, p.width);
    ahead.add(head_of(task.call->inputs[kGrad], task.b, h), next, next_count, p.value_width);
    ahead.add(head_of(task.call->inputs[kY], task.b, h), next, next_count, p.value_width);
    ahead.add(head_of(task.call->inputs[kK], task.b, task.kv_head), end, next_end - end, p.width);
    ahead.add(head_of(task.call->inputs[kV], task.b, task.kv_head), end, next_end - end, p.value_width);
  } else {
    ahead.add(head_of(*task.dk, task.b, task.kv_head), task.key_from, task.key_to - task.key_from, p.width);
    ahead.add(head_of(*task.dv, task.b, task.kv_head), task.key_from, task.key_to - task.key_from, p.value_width);
  }
  for (int64_t j0 = begin; j0 < end && !cancelled(); j0 += kBlock) {
    const int64_t n = end - j0 < kBlock ? end - j0 : kBlock, offset = j0 - task.key_from;
    const Rows keys{k.data + offset * k.stride, k.stride}, values{v.data + offset * v.stride, v.stride};
    Seen seen;
    for (int64_t s = 0; s < kBlock / kStrip; s++) {
      const int64_t left = count - s * kStrip, rows = left < 0 ? 0 : left < kStrip ? left : kStrip;
      const int64_t t = t0 + s * kStrip;
      Reach reach = reach_of(p, rows > 0 ? t : t0, rows, j0, n);
      for (int x = 0; x < kVecs; x++) {
        seen.begin[s * kVecs + x] = reach.begin;
        seen.end[s * kVecs + x] = reach.end[x];
      }
      score_strip(p, reach, s * kStrip, t, rows, keys, values, j0, n, scoring, buffers, &ahead);
      if (wants_mask)
        put_mask_gradient(head_of(task.call->outputs[kDmask], task.b, h), reach, t, rows, j0, buffers.ds + s * kStrip,
                          buffers.stage);
      if (p.soft_cap > 0) bend_back(reach, s * kStrip, buffers);
      const int64_t first = reach.end[0] > reach.begin ? reach.end[0] : reach.begin;
      const int64_t second = reach.end[1] > reach.begin ? reach.end[1] : reach.begin;
      const int64_t both = first < second ? first : second, alone = first < second ? 1 : 0;
      const float* ds = buffers.ds + s * kStrip;
      float* dq = buffers.dq + s * kStrip * w;
      if (both > reach.begin)
        multiply<2, false>(p.width, both - reach.begin, keys.data + reach.begin * keys.stride, keys.stride,
                           ds + reach.begin * kBlock, kBlock, dq, kStrip, true, &ahead);
      const int64_t last = first < second ? second : first;
      if (last > both)
        multiply<1, false>(p.width, last - both, keys.data + both * keys.stride, keys.stride,
                           ds + both * kBlock + alone * kLanes, kBlock, dq + alone * kLanes, kStrip, true);
    }
    add_key_gradient(seen, n, buffers.p, buffers.grad_rows, vw, buffers.dv + offset * vw);
    add_key_gradient(seen, n, buffers.ds, buffers.q_rows, w, buffers.dk + offset * w);
  }
  alignas(64) float factor[kStrip];
  for (float& f : factor) f = (float)p.scale;
  for (int64_t s = 0; s < count; s += kStrip) {
    transpose_back(buffers.dq + s * w, kStrip, w, factor, buffers.rows);
    for (int64_t i = s; i < count && i < s + kStrip; i++)
      put_row(dq, t0 + i, p.width, buffers.rows + (i - s) * w, task.add);
  }
}

void run_task(const Task& task, const Buffers& buffers) {
  const Problem& p = *task.problem;
  const int64_t w = round_up(p.width, kLanes), vw = round_up(p.value_width, kLanes);
  const int64_t n = task.key_to - task.key_from;
  if (task.add &&
      (task.to <= task.from || p.key_end(task.to - 1) <= task.key_from || p.key_begin(task.from) >= task.key_to))
    return;
  Rows k = key_rows(head_of(task.call->inputs[kK], task.b, task.kv_head), task.key_from, n, p.width, buffers.keys);
  Rows v =
      key_rows(head_of(task.call->inputs[kV], task.b, task.kv_head), task.key_from, n, p.value_width, buffers.values);
  k = near_rows(k, n, p.width, buffers.keys);
  v = near_rows(v, n, p.value_width, buffers.values);
  std::memset(buffers.dk, 0, (size_t)(n * w) * sizeof(float));
  std::memset(buffers.dv, 0, (size_t)(n * vw) * sizeof(float));
  for (int64_t g = 0; g < p.group; g++)
    for (int64_t t0 = task.from; t0 < task.to; t0 += kBlock)
      run_queries(task, task.kv_head * p.group + g, t0, task.to - t0 < kBlock ? task.to - t0 : kBlock, k, v, buffers);
  const Head dk = head_of(*task.dk, task.b, task.kv_head), dv = head_of(*task.dv, task.b, task.kv_head);
  for (int64_t j = 0; j < n; j++) {
    float* row = buffers.dk + j * w;
    for (int64_t d = 0; d < p.width; d++) row[d] *= (float)p.scale;
    put_row(dk, task.key_from + j, p.width, row, task.add);
    put_row(dv, task.key_from + j, p.value_width, buffers.dv + j * vw, task.add);
  }
}

/** How the pairs of query and key pieces are cut; a function of the shapes. */
struct Plan {
  int64_t query_piece, key_piece, query_pieces, key_pieces, phases;
};

Plan plan_of(const Problem& p) {
  const int64_t heads = p.batch * p.kv_heads;
  const int64_t work = 5 * (p.queries + 1) * (p.keys + 1) * (p.width + p.value_width) * p.group / (p.causal ? 2 : 1);
  int64_t pieces = 1;
  while (pieces * pieces < work / kLongTask) pieces++;
  const int64_t wanted = (kFewTasks + heads - 1) / heads, longest = p.queries / 128 + 1;
  if (pieces < wanted) pieces = wanted < longest ? wanted : longest;
  const auto cut = [](int64_t length, int64_t count) { return round_up((length + count - 1) / count, kBlock); };
  Plan plan;
  plan.query_piece = cut(p.queries, pieces);
  plan.key_piece = cut(p.keys, pieces);
  if (plan.key_piece > kLongPiece) plan.key_piece = kLongPiece;
  if (plan.key_piece < kBlock) plan.key_piece = kBlock;
  if (plan.query_piece < kBlock) plan.query_piece = kBlock;
  plan.query_pieces = (p.queries + plan.query_piece - 1) / plan.query_piece;
  plan.key_pieces = (p.keys + plan.key_piece - 1) / plan.key_piece;
  // without keys or queries the other side's gradients must still be written
  if (plan.query_pieces < 1) plan.query_pieces = 1;
  if (plan.key_pieces < 1) plan.key_pieces = 1;
  plan.phases = plan.query_pieces > plan.key_pieces ? plan.query_pieces : plan.key_pieces;
  return plan;
}

/** Calls body(b, h, row) for every row of a [B, H, T, ·] view, in parallel. */
template <class F>
void for_rows(const og_view& v, int64_t work_per_row, const F& body) {
  parallel_ranges(v.shape[0] * v.shape[1] * v.shape[2], grain_for(work_per_row), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t head = i / v.shape[2];
      body(head / v.shape[1], head % v.shape[1], i % v.shape[2]);
    }
  });
}

void clear(const og_view& v) {
  for_rows(v, v.shape[3], [&](int64_t b, int64_t h, int64_t row) {
    const Head head = head_of(v, b, h);
    alignas(64) const float zeros[256] = {};
    for (int64_t d = 0; d < v.shape[3]; d += 256)
      store_row(head, row, d, v.shape[3] - d < 256 ? v.shape[3] - d : 256, zeros);
  });
}

/** Where sums over phases are kept: the output if it is float32, otherwise a contiguous float32 copy of its shape. */
int32_t take_accumulator(const og_view& out, ScratchFrame* scratch, og_view* accumulator) {
  *accumulator = out;
  if (out.dtype == OG_F32) return OG_OK;
  float* data = scratch->take<float>(count_of(out));
  OG_SCRATCH(data, "attention gradients");
  accumulator->data = data;
  accumulator->dtype = OG_F32;
  for (int64_t i = 3, stride = 1; i >= 0; i--) {
    accumulator->strides[i] = stride;
    stride *= out.shape[i];
  }
  return OG_OK;
}

/** Query piece i of one key head, in one phase. */
bool run_piece(const og_call* call, const Problem& whole, const Plan& plan, int64_t index, int64_t phase,
               const og_view* sums, bool add) {
  const int64_t head = index / plan.query_pieces, i = index % plan.query_pieces;
  const Problem p = whole.of(head / whole.kv_heads);
  const int64_t j = (phase + plan.phases - i) % plan.phases;
  if (j >= plan.key_pieces) return true;
  ScratchFrame local;
  Buffers buffers{};
  if (!take_buffers(p, plan.key_piece, &local, &buffers)) return false;
  Task task{call, &p, &sums[0], &sums[1], &sums[2], add, head / p.kv_heads, head % p.kv_heads, 0, 0, 0, 0};
  task.from = i * plan.query_piece;
  task.to = task.from + plan.query_piece < p.queries ? task.from + plan.query_piece : p.queries;
  task.key_from = j * plan.key_piece;
  task.key_to = task.key_from + plan.key_piece < p.keys ? task.key_from + plan.key_piece : p.keys;
  run_task(task, buffers);
  return true;
}

/** Runs phases of `tasks` pieces each into the outputs, through float32 sums where there are several phases. */
template <class F>
int32_t run_phases(const og_call* call, int64_t phases, int64_t tasks, const F& run) {
  const bool add = phases > 1;
  ScratchFrame scratch;
  og_view sums[3] = {call->outputs[kDq], call->outputs[kDk], call->outputs[kDv]};
  if (add)
    for (int i = 0; i < 3; i++) {
      OG_TRY(take_accumulator(call->outputs[i], &scratch, &sums[i]));
      clear(sums[i]);
    }
  std::atomic<bool> failed{false};
  for (int64_t phase = 0; phase < phases && !cancelled(); phase++)
    parallel_for(tasks, [&](int64_t index) {
      if (!run(index, phase, sums, add)) failed = true;
    });
  if (failed) return fail(OG_OUT_OF_MEMORY, "attention_backward: no memory for a task");
  if (add)
    for (int i = 0; i < 3; i++) {
      const og_view &from = sums[i], &to = call->outputs[i];
      if (from.data == to.data) continue;
      for_rows(to, to.shape[3], [&](int64_t b, int64_t h, int64_t row) {
        const Head source = head_of(from, b, h);
        store_row(head_of(to, b, h), row, 0, to.shape[3], reinterpret_cast<const float*>(source.at(row)));
      });
    }
  return OG_OK;
}

template <class C>
int32_t backward(const og_call* call, const Problem& p) {
  if (is_present(call->outputs[kDmask])) clear(call->outputs[kDmask]);
  const Plan plan = plan_of(p);
  return run_phases(call, plan.phases, p.batch * p.kv_heads * plan.query_pieces,
                    [&](int64_t index, int64_t phase, const og_view* sums, bool add) {
                      return run_piece(call, p, plan, index, phase, sums, add);
                    });
}

/** All sequences side by side in each phase; one that has fewer phases rests in the last ones. */
template <class C>
int32_t backward_packed(const og_call* call, const Problem& p) {
  const int64_t count = p.sequences;
  ScratchFrame scratch;
  int64_t* first = scratch.take<int64_t>(count + 1);
  OG_SCRATCH(first, "tasks of packed sequences");
  const auto take = [&](int64_t n, Sequence* to) { to->take(call, p, n, 1u << kK | 1u << kV, 1u << kDk | 1u << kDv); };
  Sequence sequence;
  int64_t phases = 1;
  first[0] = 0;
  for (int64_t n = 0; n < count; n++) {
    take(n, &sequence);
    const Plan plan = plan_of(sequence.problem);
    first[n + 1] = first[n] + p.kv_heads * plan.query_pieces;
    if (plan.phases > phases) phases = plan.phases;
  }
  return run_phases(call, phases, first[count], [&](int64_t index, int64_t phase, const og_view* sums, bool add) {
    const int64_t n = find_task(first, count, index);
    Sequence own;
    take(n, &own);
    const Plan plan = plan_of(own.problem);
    if (phase >= plan.phases) return true;
    const og_view rows[3] = {rows_of(sums[0], own.problem.first_query, own.problem.queries),
                             rows_of(sums[1], own.problem.first_key, own.problem.keys),
                             rows_of(sums[2], own.problem.first_key, own.problem.keys)};
    return run_piece(&own.call, own.problem, plan, index - first[n], phase, rows, add);
  });
}

#endif

}  // namespace

int32_t kernel_attention_backward(const og_call* call) {
  Problem p;
  ScratchFrame scratch;
  OG_TRY(read_problem(call, &scratch, &p));
  const og_view *in = call->inputs, *out = call->outputs;
  OG_REQUIRE(has_query_shape(in[kY], p, p.value_width) && has_query_shape(in[kGrad], p, p.value_width),
             "attention_backward: y and grad must have shape [B, Hq, T, Dv]");
  OG_REQUIRE(has_query_shape(in[kLse], p, -1), "attention_backward: lse must have shape [B, Hq, T]");
  for (int i = 0; i < 3; i++)
    OG_REQUIRE(same_shape(in[i], out[i]), "attention_backward: dq, dk, dv must be shaped as q, k, v");
  OG_SUPPORTED(!p.packed || !is_present(out[kDmask]), "attention_backward: packed sequences have no mask");
  OG_REQUIRE(!is_present(out[kDmask]) || has_query_shape(out[kDmask], p, p.keys),
             "attention_backward: dmask must have shape [B, Hq, T, S]");
  bool wide = false;
  for (int i = 0; i < kInputs; i++) {
    if (i > kMask && i < kSharedInputs) continue;
    wide |= in[i].dtype == OG_F64;
    OG_SUPPORTED(i == kMask || dtype_is_float(in[i].dtype), "attention_backward: inputs must have a float dtype");
  }
  for (int i = 0; i < 4; i++) {
    wide |= out[i].dtype == OG_F64;
    OG_SUPPORTED(dtype_is_float(out[i].dtype) || (i == kDmask && !is_present(out[i])),
                 "attention_backward: outputs must have a float dtype");
  }
  if (p.batch == 0 || p.kv_heads == 0 || p.q_heads == 0) return OG_OK;
  return with_float_compute(wide ? OG_F64 : OG_F32, [&](auto type) {
    return p.packed ? backward_packed<decltype(type)>(call, p) : backward<decltype(type)>(call, p);
  });
}

}  // namespace OG_ISA
}  // namespace og
