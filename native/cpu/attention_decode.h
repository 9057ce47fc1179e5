/**
 * Attention of a few queries against many keys (generation with a key-value cache). Memory-bound: every key and value
 * is read once, for all query rows that share it, by dot products along the head and axpy updates. Ranges of keys are
 * separate tasks whose partial results are combined in order.
 */
#ifndef OMNIGRAD_CPU_ATTENTION_DECODE_H
#define OMNIGRAD_CPU_ATTENTION_DECODE_H

#include <atomic>

#include "../core/parallel.h"
#include "../core/scratch.h"
#include "attention_tile.h"

namespace og {
namespace {

constexpr int64_t kDecodeRows = kStrip / 2 > 8 ? 16 : 8;  // query rows per key head up to which this path is taken
constexpr int64_t kDecodeKeys = 64;                       // keys of a tile: its k and v stay in L1 for the other rows
constexpr int64_t kDecodeBytes = 256 << 10;               // of k and v, per task

/** Results of ranges of keys, one per query row and range: Σ 2^(s-highest)·v, highest, Σ 2^(s-highest). */
struct Partials {
  float* data = nullptr;
  int64_t splits = 1, width = 0;

  int32_t take(ScratchFrame* scratch, int64_t rows, int64_t count, int64_t value_width) {
    splits = count;
    width = value_width + 2;
    if (splits == 1) return OG_OK;
    data = scratch->take<float>(rows * splits * width);
    OG_SCRATCH(data, "partial attention results");
    return OG_OK;
  }
  float* at(int64_t row, int64_t split) const { return data + (row * splits + split) * width; }
  void put(int64_t row, int64_t split, const float* o, int64_t n, float highest, float sum) const {
    float* to = at(row, split);
    std::memcpy(to, o, (size_t)n * sizeof(float));
    to[n] = highest;
    to[n + 1] = sum;
  }
};

/** y and lse of one row from its unscaled sum. */
inline void finish_row(const og_call* call, const Problem& p, int64_t row, float* o, float highest, float sum) {
  const int64_t head = row / p.queries, t = row % p.queries;
  const Head y = head_of(call->outputs[0], head / p.q_heads, head % p.q_heads);
  const Head out = head_of(call->outputs[1], head / p.q_heads, head % p.q_heads);
  const float factor = sum == 0.f ? 0.f : 1.f / sum;
  for (int64_t d = 0; d < p.value_width; d++) o[d] *= factor;
  const float lse = sum == 0.f ? -__builtin_inff() : highest * kLn2 + log(set1(sum))[0];
  store_row(y, t, 0, p.value_width, o);
  store_row(out, t, 0, 1, &lse);
}

inline void combine(const og_call* call, const Problem& p, const Partials& partials) {
  const int64_t rows = p.batch * p.q_heads * p.queries, n = p.value_width;
  parallel_ranges(rows, grain_for(partials.splits * (n + 16)), [&](int64_t begin, int64_t end) {
    alignas(64) float total[kMaxHeadWidth];
    for (int64_t row = begin; row < end; row++) {
      float highest = -__builtin_inff();
      for (int64_t s = 0; s < partials.splits; s++) {
        const float x = partials.at(row, s)[n];
        if (x > highest) highest = x;
      }
      const float base = highest == -__builtin_inff() ? 0.f : highest;
      float sum = 0.f;
      for (int64_t d = 0; d < n; d++) total[d] = 0.f;
      for (int64_t s = 0; s < partials.splits; s++) {
        const float* part = partials.at(row, s);
        if (part[n + 1] == 0.f) continue;
        const float factor = exp2_nonpositive(set1(part[n] - base))[0];
        sum += part[n + 1] * factor;
        for (int64_t d = 0; d < n; d++) total[d] += part[d] * factor;
      }
      finish_row(call, p, row, total, highest, sum);
    }
  });
}

/** scores[j] = q · k_j for j < n; rows of k are `stride` apart. The next tile is fetched meanwhile. */
template <class T>
OG_INLINE void dots(const float* q, const T* k, int64_t stride, int64_t n, int64_t width, bool fetch, float* scores) {
  for (int64_t j = 0; j < n; j += kLanes) {
    const T* rows[kLanes];
    Vf acc[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; i++) {
      rows[i] = k + (j + i < n ? j + i : n - 1) * stride;
      acc[i] = Vf{};
      if (fetch) {
        const char* ahead = reinterpret_cast<const char*>(rows[i] + kDecodeKeys * stride);
        for (int64_t byte = 0; byte < width * (int64_t)sizeof(T); byte += 64) __builtin_prefetch(ahead + byte);
      }
    }
    for (int64_t d = 0; d < width; d += kLanes) {
      const Vf x = load(q + d);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; i++) acc[i] = fma(x, load(rows[i] + d), acc[i]);
    }
    store(scores + j, sum_each(acc));
  }
}

/** o[·] += Σ_j weight[j] · v_j for NV vectors. */
template <int NV, class T>
OG_INLINE void axpys(const float* weight, const T* v, int64_t stride, int64_t n, float* o) {
  Vf acc[NV];
#pragma GCC unroll 8
  for (int i = 0; i < NV; i++) acc[i] = load(o + i * kLanes);
  for (int64_t j = 0; j < n; j++, v += stride) {
    const Vf x = set1(weight[j]);
#pragma GCC unroll 8
    for (int i = 0; i < NV; i++) acc[i] = fma(x, load(v + i * kLanes), acc[i]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < NV; i++) store(o + i * kLanes, acc[i]);
}

/** A tile of k or v as vectors of storage type T: in place, or converted and padded. */
struct DecodeTile {
  const void* data;
  int64_t stride;
  int32_t dtype;
};
inline bool reads_in_place(const Head& head, int64_t width) { return head.column == 1 && width % kLanes == 0; }
inline DecodeTile decode_tile(const Head& head, int64_t from, int64_t n, int64_t width, float* buffer) {
  if (reads_in_place(head, width)) return {head.at(from), head.row, head.dtype};
  const int64_t padded = round_up(width, kLanes);
  stage_rows(head, from, n, n, width, padded, buffer);
  return {buffer, padded, OG_F32};
}

template <class T>
__attribute__((noinline)) void tile_scores(const float* q, const DecodeTile& k, int64_t from, int64_t n, int64_t width,
                                           bool fetch, float* scores) {
  dots(q, static_cast<const T*>(k.data) + from * k.stride, k.stride, n, width, fetch, scores);
}
template <class T>
__attribute__((noinline)) void tile_values(const float* weight, const DecodeTile& v, int64_t from, int64_t n,
                                           int64_t width, bool fetch, float* o) {
  const T* data = static_cast<const T*>(v.data) + from * v.stride;
  if (fetch)
    for (int64_t j = 0; j < n; j++) {
      const char* ahead = reinterpret_cast<const char*>(data + (j + kDecodeKeys) * v.stride);
      for (int64_t byte = 0; byte < width * (int64_t)sizeof(T); byte += 64) __builtin_prefetch(ahead + byte);
    }
  int64_t d = 0;
  for (; d + 8 * kLanes <= width; d += 8 * kLanes) axpys<8>(weight, data + d, v.stride, n, o + d);
  for (; d + 4 * kLanes <= width; d += 4 * kLanes) axpys<4>(weight, data + d, v.stride, n, o + d);
  for (; d < width; d += kLanes) axpys<1>(weight, data + d, v.stride, n, o + d);
}

struct DecodeRow {
  float *q, *o;
  float highest, sum;
};

/** Keys [from, to) for all rows of one key head. */
inline void decode_range(const og_call* call, const Problem& p, int64_t b, int64_t kv_head, int64_t from, int64_t to,
                         DecodeRow* rows, float* buffer) {
  const Head k = head_of(call->inputs[1], b, kv_head), v = head_of(call->inputs[2], b, kv_head);
  const bool masked = is_present(call->inputs[3]);
  const int64_t width = round_up(p.width, kLanes), value_width = round_up(p.value_width, kLanes);
  const bool fetch_k = reads_in_place(k, p.width), fetch_v = reads_in_place(v, p.value_width);
  alignas(64) float scores[kDecodeKeys + kLanes], allowed[kDecodeKeys];
  for (int64_t j0 = from; j0 < to && !cancelled(); j0 += kDecodeKeys) {
    const int64_t n = to - j0 < kDecodeKeys ? to - j0 : kDecodeKeys;
    const bool more = j0 + 2 * kDecodeKeys <= to;
    const DecodeTile kt = decode_tile(k, j0, n, p.width, buffer);
    const DecodeTile vt = decode_tile(v, j0, n, p.value_width, buffer + kDecodeKeys * width);
    for (int64_t r = 0; r < p.queries * p.group; r++) {
      DecodeRow& row = rows[r];
      const int64_t t = r % p.queries, h = kv_head * p.group + r / p.queries;
      const int64_t low = p.key_begin(t), high = p.key_end(t);
      const int64_t begin = low > j0 ? low - j0 : 0, end = high < j0 + n ? high - j0 : n;
      const int64_t count = end - begin;
      if (count <= 0) continue;
      const bool fetch = r == 0 && more;
      switch (kt.dtype) {
        case OG_F16:
          tile_scores<f16>(row.q, kt, begin, count, width, fetch && fetch_k, scores);
          break;
        case OG_BF16:
          tile_scores<bf16>(row.q, kt, begin, count, width, fetch && fetch_k, scores);
          break;
        default:
          tile_scores<float>(row.q, kt, begin, count, width, fetch && fetch_k, scores);
          break;
      }
      if (masked) {
        load_mask_row(head_of(call->inputs[3], b, h), t, j0 + begin, count, allowed);
        for (int64_t j = 0; j < count; j++)
          scores[j] = allowed[j] == -__builtin_inff() ? allowed[j] : scores[j] + allowed[j] * kLog2e;
      }
      const int64_t filled = round_up(count, kLanes);
      for (int64_t j = count; j < filled; j++) scores[j] = -__builtin_inff();
      Vf top = set1(row.highest);
      for (int64_t j = 0; j < filled; j += kLanes) top = max_second(load(scores + j), top);
      float highest = row.highest;
      for (int i = 0; i < kLanes; i++) highest = top[i] > highest ? top[i] : highest;
      const float base = highest == -__builtin_inff() ? 0.f : highest;
      const float factor = exp2_nonpositive(set1(row.highest - base))[0];
      Vf total{};
      for (int64_t j = 0; j < filled; j += kLanes) {
        const Vf weight = exp2_nonpositive(load(scores + j) - base);
        total = total + weight;
        store(scores + j, weight);
      }
      row.sum = row.sum * factor + sum(total);
      row.highest = highest;
      if (factor != 1.f)
        for (int64_t d = 0; d < value_width; d += kLanes) store(row.o + d, load(row.o + d) * factor);
      switch (vt.dtype) {
        case OG_F16:
          tile_values<f16>(scores, vt, begin, count, value_width, fetch && fetch_v, row.o);
          break;
        case OG_BF16:
          tile_values<bf16>(scores, vt, begin, count, value_width, fetch && fetch_v, row.o);
          break;
        default:
          tile_values<float>(scores, vt, begin, count, value_width, fetch && fetch_v, row.o);
          break;
      }
    }
  }
}

inline int32_t forward_decode(const og_call* call, const Problem& p) {
  const int64_t heads = p.batch * p.kv_heads, row_count = p.queries * p.group;
  const int64_t width = round_up(p.width, kLanes), value_width = round_up(p.value_width, kLanes);
  const int64_t key_bytes =
      p.width * dtype_size(call->inputs[1].dtype) + p.value_width * dtype_size(call->inputs[2].dtype) + 1;
  int64_t split_keys = round_up(kDecodeBytes / key_bytes, kDecodeKeys);
  if (heads < 8) split_keys = round_up(split_keys / 4, kDecodeKeys);
  int64_t splits = (p.keys + split_keys - 1) / split_keys;
  if (splits < 1) splits = 1;
  ScratchFrame scratch;
  Partials partials;
  OG_TRY(partials.take(&scratch, p.batch * p.q_heads * p.queries, splits, p.value_width));
  std::atomic<bool> failed{false};
  parallel_for(heads * splits, [&](int64_t task) {
    const int64_t split = task % splits, b = task / splits / p.kv_heads, kv_head = task / splits % p.kv_heads;
    ScratchFrame local;
    float* memory = local.take<float>(row_count * (width + value_width));
    float* buffer = local.take<float>(kDecodeKeys * (width + value_width));
    if (!memory || !buffer) {
      failed = true;
      return;
    }
    DecodeRow rows[kDecodeRows];
    for (int64_t r = 0; r < row_count; r++) {
      DecodeRow& row = rows[r];
      row.q = memory + r * (width + value_width);
      row.o = row.q + width;
      row.highest = -__builtin_inff();
      row.sum = 0.f;
      stage_rows(head_of(call->inputs[0], b, kv_head * p.group + r / p.queries), r % p.queries, 1, 1, p.width, width,
                 row.q);
      const float factor = (float)(p.scale * 1.44269504088896340736);
      for (int64_t d = 0; d < width; d++) row.q[d] *= factor;
      for (int64_t d = 0; d < value_width; d++) row.o[d] = 0.f;
    }
    const int64_t from = split * split_keys, to = from + split_keys < p.keys ? from + split_keys : p.keys;
    decode_range(call, p, b, kv_head, from, to, rows, buffer);
    for (int64_t r = 0; r < row_count; r++) {
      const int64_t row = (b * p.q_heads + kv_head * p.group + r / p.queries) * p.queries + r % p.queries;
      if (splits > 1) {
        partials.put(row, split, rows[r].o, p.value_width, rows[r].highest, rows[r].sum);
      } else {
        finish_row(call, p, row, rows[r].o, rows[r].highest, rows[r].sum);
      }
    }
  });
  if (failed) return fail(OG_OUT_OF_MEMORY, "attention: no memory for a task");
  if (splits > 1) combine(call, p, partials);
  return OG_OK;
}

}  // namespace
}  // namespace og
#endif
