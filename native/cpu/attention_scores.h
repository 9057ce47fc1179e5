/**
 * What happens to a tile of scores between the two products of attention: soft cap (Gemma 2, arXiv 2408.00118: cap ·
 * tanh(s / cap)), linear bias of the distance (ALiBi, arXiv 2108.12409), masks, and dropout of the weights. Each is a
 * pass over a tile in L1, behind a branch per tile: calls without them cost nothing. Scores are in base-2 logarithms.
 */
#ifndef OMNIGRAD_CPU_ATTENTION_SCORES_H
#define OMNIGRAD_CPU_ATTENTION_SCORES_H

#include "attention_tile.h"

namespace og {
namespace {

/** What is done to the scores of one head. */
struct Scoring {
  bool any;  // of the three below
  bool masked;
  Head mask;
  float slope;  // of ALiBi, times log₂e
  float cap;    // times log₂e; 0: none
  int64_t b, h;
};

inline Scoring scoring_of(const og_call* call, const Problem& p, int64_t b, int64_t h) {
  Scoring scoring{};
  scoring.masked = is_present(call->inputs[kMask]);
  if (scoring.masked) scoring.mask = head_of(call->inputs[kMask], b, h);
  scoring.slope = (float)slope_of(call, h) * kLog2e;
  scoring.cap = (float)(p.soft_cap * 1.44269504088896340736);
  scoring.any = scoring.masked || scoring.slope != 0.f || scoring.cap > 0.f;
  scoring.b = b;
  scoring.h = h;
  return scoring;
}

/** What queries are multiplied by, so that products are scores in base 2, or arguments of the soft cap's tanh. */
inline float query_factor(const Problem& p) {
  return (float)(p.soft_cap > 0 ? p.scale / p.soft_cap : p.scale * 1.44269504088896340736);
}

/** Products → scores: soft cap, distance, mask, for keys [begin, end) counted from j0. `bend` gets 1 - tanh². */
__attribute__((noinline)) inline void apply_scoring(const Problem& p, const Scoring& scoring, int64_t t0, int64_t count,
                                                    int64_t j0, int64_t begin, int64_t end, float* scores, int64_t lds,
                                                    float* bend, float* stage, int64_t capacity) {
  if (scoring.cap > 0.f)
    for (int64_t j = begin; j < end; j++)
      for (int v = 0; v < kVecs; v++) {
        float* at = scores + j * lds + v * kLanes;
        const Vf t = tanh(load(at));
        store(at, t * scoring.cap);
        if (bend) store(bend + j * lds + v * kLanes, 1.f - t * t);
      }
  if (scoring.slope != 0.f)
    for (int64_t j = begin; j < end; j++)
      for (int v = 0; v < kVecs; v++) {
        float* at = scores + j * lds + v * kLanes;
        const Vf distance = abs(to_float(lane_index()) + (float)(t0 + v * kLanes + p.keys - p.queries - j0 - j));
        store(at, fma(distance, set1(-scoring.slope), load(at)));
      }
  if (scoring.masked) apply_mask(scoring.mask, t0, count, j0, begin, end, scores, lds, stage, capacity);
}

/** factors[0 … n-1] of consecutive weights from number `place` of the stream on: 0, or 1 / (1 - p). */
inline void kept_run(const Problem& p, uint64_t place, int64_t n, float* factors) {
  constexpr int64_t kRun = 64;
  alignas(64) uint32_t words[kRun + 4];
  const uint32_t limit = p.drop_limit;
  const float weight = (float)p.kept_weight;
  int64_t skip = (int64_t)(place % 4);
  uint64_t counter = p.drop_counter + place / 4;
  for (int64_t at = 0; at < n;) {
    const int64_t here = n - at < kRun - skip ? n - at : kRun - skip;
    philox(p.drop_key, counter, 0, (here + skip + 3) / 4, words);
    for (int64_t i = 0; i < here; i++) factors[at + i] = words[skip + i] >= limit ? weight : 0.f;
    at += here;
    counter += kRun / 4;
    skip = 0;
  }
}

/** kept[j][lane] for keys [begin, end) counted from j0 and a strip of queries from t0 on. */
__attribute__((noinline)) inline void fill_kept(const Problem& p, const Scoring& scoring, int64_t t0, int64_t count,
                                                int64_t j0, int64_t begin, int64_t end, float* kept, int64_t ldk,
                                                float* stage, int64_t capacity) {
  for (int64_t i = 0; i < kStrip; i++)  // lanes without a query repeat the last one
    kept_run(p, p.place_of(scoring.b, scoring.h, t0 + (i < count ? i : count - 1), j0 + begin), end - begin,
             stage + i * capacity);
  for (int v = 0; v < kVecs; v++)
    for (int64_t j = begin; j < end; j += kLanes) {
      Vf r[kLanes];
      for (int i = 0; i < kLanes; i++) r[i] = load(stage + (v * kLanes + i) * capacity + (j - begin));
      transpose(r);
      const int64_t n = end - j < kLanes ? end - j : kLanes;
      for (int64_t i = 0; i < n; i++) store(kept + (j + i) * ldk + v * kLanes, r[i]);
    }
}

/** tile[j][·] *= by[j][·] for j in [begin, end), a strip wide. */
inline void multiply_tile(float* tile, const float* by, int64_t ld, int64_t begin, int64_t end) {
  for (int64_t j = begin; j < end; j++)
    for (int v = 0; v < kVecs; v++) {
      float* at = tile + j * ld + v * kLanes;
      store(at, load(at) * load(by + j * ld + v * kLanes));
    }
}

/** The same for one query along its keys: `place` is where it stands, counted from the first of them. */
inline void bias_row(const Problem& p, float slope, int64_t place, float* scores, int64_t count) {
  const float cap = (float)(p.soft_cap * 1.44269504088896340736);
  for (int64_t j = 0; j < count; j += kLanes) {
    Vf score = load(scores + j);
    if (cap > 0.f) score = tanh(score) * cap;
    score = fma(abs((float)(place - j) - to_float(lane_index())), set1(-slope * kLog2e), score);
    store(scores + j, score);
  }
}

inline void drop_row(const Problem& p, uint64_t place, int64_t count, float* weights) {
  alignas(64) float factors[64];
  for (int64_t j = 0; j < count; j += 64) {
    const int64_t n = count - j < 64 ? count - j : 64;
    kept_run(p, place + (uint64_t)j, n, factors);
    for (int64_t i = 0; i < n; i++) weights[j + i] *= factors[i];
  }
}

/** Which sequence task number `task` belongs to: first[n] ≤ task < first[n + 1]. */
inline int64_t find_task(const int64_t* first, int64_t count, int64_t task) {
  int64_t low = 0, high = count;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (first[middle] <= task) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

}  // namespace
}  // namespace og
#endif
