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
#include "attention_rows.h"
#include "attention_scores.h"

namespace og {
namespace {

constexpr int64_t kDecodeRows = kStrip / 2 > 8 ? 16 : 8;  // query rows per key head up to which this path is taken
constexpr int64_t kDecodeParts = 32;                      // ranges of keys, over all heads, at least so many, of
constexpr int64_t kLeastElements = 32 << 10, kMostElements = 256 << 10;  // so many elements of k and v
constexpr int64_t kTaskElements = 64 << 10;  // what a task reads at least, unless threads would have less than two

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

struct DecodeRow {
  float *q, *o;
  float highest, sum;
};

/** Turns the scores of `count` keys of one row into weights, and rescales what the row has gathered. */
inline void weigh(DecodeRow& row, float* scores, int64_t count, int64_t value_width) {
  const int64_t filled = round_up(count, kLanes);
  for (int64_t j = count; j < filled; j++) scores[j] = -__builtin_inff();
  Vf top = set1(row.highest);
  for (int64_t j = 0; j < filled; j += kLanes) top = max_second(load(scores + j), top);
  const float highest = max_lane(top), base = highest == -__builtin_inff() ? 0.f : highest;
  const float factor = highest == row.highest ? 1.f : exp2_nonpositive(set1(row.highest - base))[0];
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
}

/** Keys j0 … j0 + n - 1 of one key head, n ≤ kDecodeKeys; or n ≤ kFarKeys that are spread over streams. */
struct KeyTile {
  DecodeTile k, v;
  const float *k_scale, *v_scale;  // of int8: what each key's products, and each value, are multiplied by
  int64_t n;
};

/** Rows [first, first + count) of the queries that share a key head: row r is query r % T of head r / T of the group.
 */
struct RowBlock {
  int64_t b, kv_head, first, count;

  int64_t head(const Problem& p, int64_t r) const { return kv_head * p.group + (first + r) / p.queries; }
  int64_t query(const Problem& p, int64_t r) const { return (first + r) % p.queries; }
};

/** Keys [from, to) for a block of rows; tile_at(j0, to) gives the tile that begins with key j0. */
template <bool Quantised, class TileAt>
inline void decode_range(const og_call* call, const Problem& p, const RowBlock& block, int64_t from, int64_t to,
                         DecodeRow* rows, const TileAt& tile_at) {
  const bool masked = is_present(call->inputs[kMask]), biased = is_present(call->inputs[kSlopes]) || p.soft_cap > 0;
  const int64_t width = round_up(p.width, kLanes), value_width = round_up(p.value_width, kLanes);
  alignas(64) float memory[4][kFarKeys + kLanes], allowed[kDecodeKeys];
  float* const scores[4] = {memory[0], memory[1], memory[2], memory[3]};
  for (int64_t j0 = from, n = 0; j0 < to && !cancelled(); j0 += n) {
    const KeyTile tile = tile_at(j0, to);
    n = tile.n;
    int step = 1;
    for (int64_t r = 0; r < block.count; r += step) {
      const int64_t t = block.query(p, r), low = p.key_begin(t), high = p.key_end(t);
      const bool far = kFar > 1 && !tile.k.data;  // all rows see all of it
      const auto alike = [&](int64_t other) {
        if (far) return other < block.count;
        return other < block.count && p.key_begin(block.query(p, other)) == low &&
               p.key_end(block.query(p, other)) == high;
      };
      step = !alike(r + 1) ? 1 : alike(r + 2) && alike(r + 3) ? 4 : 2;
      const int64_t begin = low > j0 && !far ? low - j0 : 0, end = high < j0 + n && !far ? high - j0 : n;
      const int64_t count = end - begin;
      if (count <= 0) continue;
      const bool fetch = r == 0;
      const float* q[4];
      float* o[4];
      for (int i = 0; i < step; i++) {
        q[i] = rows[r + i].q;
        o[i] = rows[r + i].o;
      }
      switch (tile.k.dtype) {
        case OG_F16:
          tile_scores<f16>(step, q, tile.k, begin, count, width, fetch, scores);
          break;
        case OG_BF16:
          tile_scores<bf16>(step, q, tile.k, begin, count, width, fetch, scores);
          break;
        case OG_I8:
          if constexpr (Quantised) tile_scores<int8_t>(step, q, tile.k, begin, count, width, fetch, scores);
          break;
        default:
          tile_scores<float>(step, q, tile.k, begin, count, width, fetch, scores);
          break;
      }
      for (int i = 0; i < step; i++) {
        const int64_t h = block.head(p, r + i), query = block.query(p, r + i);
        if (Quantised && tile.k_scale)
          for (int64_t j = 0; j < count; j++) scores[i][j] *= tile.k_scale[begin + j];
        if (biased) bias_row(p, (float)slope_of(call, h), query + p.keys - p.queries - j0 - begin, scores[i], count);
        if (masked) {
          load_mask_row(head_of(call->inputs[kMask], block.b, h), query, j0 + begin, count, allowed);
          for (int64_t j = 0; j < count; j++)
            scores[i][j] = allowed[j] == -__builtin_inff() ? allowed[j] : scores[i][j] + allowed[j] * kLog2e;
        }
        weigh(rows[r + i], scores[i], count, value_width);
        if (p.drops) drop_row(p, p.place_of(block.b, h, query, j0 + begin), count, scores[i]);
        if (Quantised && tile.v_scale)
          for (int64_t j = 0; j < count; j++) scores[i][j] *= tile.v_scale[begin + j];
      }
      switch (tile.v.dtype) {
        case OG_F16:
          tile_values<f16>(step, scores, tile.v, begin, count, value_width, fetch, o);
          break;
        case OG_BF16:
          tile_values<bf16>(step, scores, tile.v, begin, count, value_width, fetch, o);
          break;
        case OG_I8:
          if constexpr (Quantised) tile_values<int8_t>(step, scores, tile.v, begin, count, value_width, fetch, o);
          break;
        default:
          tile_values<float>(step, scores, tile.v, begin, count, value_width, fetch, o);
          break;
      }
    }
  }
}

/**
 * What of the keys [from, to) may be read in streams far apart: what all rows see, where nothing asks for a key's
 * place. No stream's part of a tile crosses the end of kDecodeKeys keys, so that pages of so many give the bits of one
 * piece.
 */
struct FarKeys {
  int64_t from, quarter;  // the first of all, and how many each stream has; 0: not worth it

  int64_t to() const { return from + kFar * quarter; }
  /** Where stream i stands when j0 - from keys have been read. */
  int64_t place(int64_t j0, int i) const { return from + (j0 - from) / kFar + i * quarter; }
  /** Keys of a tile in each stream. */
  int64_t rows(int64_t j0, int64_t end) const {
    int64_t n = (end - j0) / kFar;
    for (int i = 0; i < kFar; i++) {
      const int64_t left = kDecodeKeys - place(j0, i) % kDecodeKeys;
      if (n > left) n = left;
    }
    return n;
  }
};
inline FarKeys far_keys(const og_call* call, const Problem& p, int64_t from, int64_t to) {
  FarKeys far{from, 0};
  if (kFar == 1 || is_present(call->inputs[kMask]) || is_present(call->inputs[kSlopes]) || p.soft_cap > 0 || p.drops)
    return far;
  const int64_t low = p.key_begin(p.queries - 1), high = p.key_end(0);  // both grow with the query
  if (far.from < low) far.from = low;
  if (to > high) to = high;
  const int64_t most = (to - far.from) / kFar, unit = most < 4 * kDecodeKeys ? kLanes : kDecodeKeys;
  if (most >= unit)
    far.quarter = most / unit * unit;
  else
    far.from = from;
  return far;
}

/** decode_range with tiles of far.from … far.to() from far_tile, the others from near_tile. */
template <bool Quantised, class Near, class Far>
inline void decode_ranges(const og_call* call, const Problem& p, const RowBlock& block, int64_t from, int64_t to,
                          const FarKeys& far, DecodeRow* rows, const Near& near_tile, const Far& far_tile) {
  if constexpr (kFar > 1) {
    if (far.quarter > 0) {
      decode_range<Quantised>(call, p, block, from, far.from, rows, near_tile);
      decode_range<Quantised>(call, p, block, far.from, far.to(), rows, far_tile);
      from = far.to();
    }
  }
  decode_range<Quantised>(call, p, block, from, to, rows, near_tile);
}

/** Scratch of a block's rows: q times its factor, and sums of 0. */
inline bool start_rows(const og_call* call, const Problem& p, const RowBlock& block, ScratchFrame* scratch,
                       DecodeRow* rows) {
  const int64_t width = round_up(p.width, kLanes), value_width = round_up(p.value_width, kLanes);
  float* memory = scratch->take<float>(block.count * (width + value_width));
  if (!memory) return false;
  const float factor = query_factor(p);
  for (int64_t r = 0; r < block.count; r++) {
    DecodeRow& row = rows[r];
    row.q = memory + r * (width + value_width);
    row.o = row.q + width;
    row.highest = -__builtin_inff();
    row.sum = 0.f;
    stage_rows(head_of(call->inputs[kQ], block.b, block.head(p, r)), block.query(p, r), 1, 1, p.width, width, row.q);
    for (int64_t d = 0; d < width; d++) row.q[d] *= factor;
    for (int64_t d = 0; d < value_width; d++) row.o[d] = 0.f;
  }
  return true;
}

inline void finish_rows(const og_call* call, const Problem& p, const RowBlock& block, const Partials& partials,
                        int64_t split, DecodeRow* rows) {
  for (int64_t r = 0; r < block.count; r++) {
    const int64_t row = (block.b * p.q_heads + block.head(p, r)) * p.queries + block.query(p, r);
    if (partials.splits > 1) {
      partials.put(row, split, rows[r].o, p.value_width, rows[r].highest, rows[r].sum);
    } else {
      finish_row(call, p, row, rows[r].o, rows[r].highest, rows[r].sum);
    }
  }
}

/** Keys of a range, of `keys` for so many heads. Long ranges stream better, many keep more threads busy. */
inline int64_t split_of(const Problem& p) {
  const int64_t per_key = p.width + p.value_width + 1, heads = p.batch * p.kv_heads;
  int64_t elements = per_key * p.keys / kDecodeParts * heads;
  if (elements < kLeastElements) elements = kLeastElements;
  if (elements > kMostElements) elements = kMostElements;
  return round_up(elements / per_key, kDecodeKeys);
}

/**
 * Keys of a tile. k and v are read in turn by pieces of 8 KB, each fetched while the one before is computed on; long
 * ranges of one query row by 4 KB, so that the hardware sees two streams.
 */
inline int64_t keys_of_tile(const Problem& p, int64_t split_keys, int32_t dtype) {
  if (p.width == 0) return kDecodeKeys;
  const bool is_long = (split_keys < p.keys ? split_keys : p.keys) > 256 && p.queries * p.group == 1;
  const int64_t keys = (is_long ? 4096 : 8192) / (round_up(p.width, kLanes) * dtype_size(dtype)) / 16 * 16;
  return keys < 16 ? 16 : keys > kDecodeKeys ? kDecodeKeys : keys;
}

inline int32_t forward_decode(const og_call* call, const Problem& p) {
  const int64_t heads = p.batch * p.kv_heads;
  const int64_t width = round_up(p.width, kLanes), value_width = round_up(p.value_width, kLanes);
  const int64_t split_keys = split_of(p);
  int64_t splits = (p.keys + split_keys - 1) / split_keys;
  if (splits < 1) splits = 1;
  ScratchFrame scratch;
  Partials partials;
  OG_TRY(partials.take(&scratch, p.batch * p.q_heads * p.queries, splits, p.value_width));
  std::atomic<bool> failed{false};
  // A task takes ranges of neighbouring heads, whose keys are fetched before their turn comes. Which ones share a task
  // is nothing that results depend on.
  const int64_t range_keys = split_keys < p.keys ? split_keys : p.keys;
  const int64_t tile_keys = keys_of_tile(p, split_keys, call->inputs[kK].dtype);
  const int64_t long_enough = grain_for(range_keys * (p.width + p.value_width), kTaskElements);
  const int64_t two_a_thread = (heads * splits + 2 * threads() - 1) / (2 * threads());
  const int64_t parts_of_task = long_enough < two_a_thread ? long_enough : two_a_thread;
  parallel_ranges(heads * splits, parts_of_task, [&](int64_t first, int64_t last) {
    ScratchFrame local;
    float* buffer = local.take<float>(kDecodeKeys * (width + value_width));
    if (!buffer) failed = true;
    for (int64_t part = first; part < last && !failed; part++) {
      const int64_t split = part % splits, head = part / splits, b = head / p.kv_heads, kv_head = head % p.kv_heads;
      const RowBlock block{b, kv_head, 0, p.queries * p.group};
      const Problem own = p.of(b);
      ScratchFrame of_part;
      DecodeRow rows[kDecodeRows];
      if (!start_rows(call, p, block, &of_part, rows)) {
        failed = true;
        return;
      }
      const Head k = head_of(call->inputs[kK], b, kv_head), v = head_of(call->inputs[kV], b, kv_head);
      const bool in_place = reads_in_place(k, p.width) && reads_in_place(v, p.value_width);
      const bool alike = in_place && k.dtype == v.dtype && k.row == v.row && p.width == p.value_width;
      const int64_t from = split * split_keys, to = from + split_keys < p.keys ? from + split_keys : p.keys;
      const void* following = nullptr;  // keys of the next part
      if (alike && part + 1 < last) {
        const int64_t next = (part + 1) / splits;
        following =
            head_of(call->inputs[kK], next / p.kv_heads, next % p.kv_heads).at((part + 1) % splits * split_keys);
      }
      const auto near_tile = [&](int64_t j0, int64_t end) {
        KeyTile tile{};
        tile.n = end - j0 < tile_keys ? end - j0 : tile_keys;
        if (kFar > 1 && tile.n > kDecodeKeys - j0 % kDecodeKeys) tile.n = kDecodeKeys - j0 % kDecodeKeys;
        tile.k = decode_tile(k, j0, tile.n, p.width, buffer);
        tile.v = decode_tile(v, j0, tile.n, p.value_width, buffer + kDecodeKeys * width);
        if (alike) tile.k.next = v.at(j0);
        if (alike) tile.v.next = j0 + tile.n < end ? k.at(j0 + tile.n) : following;
        return tile;
      };
      const FarKeys far = in_place ? far_keys(call, own, from, to) : FarKeys{from, 0};
      decode_ranges<false>(call, own, block, from, to, far, rows, near_tile, [&](int64_t j0, int64_t end) {
        KeyTile tile{};
        tile.n = kFar * far.rows(j0, end);
        tile.k = {nullptr, k.row, k.dtype, nullptr, {}};
        tile.v = {nullptr, v.row, v.dtype, nullptr, {}};
        for (int i = 0; i < kFar; i++) {
          tile.k.far[i] = k.at(far.place(j0, i));
          tile.v.far[i] = v.at(far.place(j0, i));
        }
        return tile;
      });
      finish_rows(call, p, block, partials, split, rows);
    }
  });
  if (failed) return fail(OG_OUT_OF_MEMORY, "attention: no memory for a task");
  if (splits > 1) combine(call, p, partials);
  return OG_OK;
}

}  // namespace
}  // namespace og
#endif
