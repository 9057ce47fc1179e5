/**
 * One tile of attention's backward pass: a block of queries against a block of keys, held transposed as in
 * attention_tile.h. attention_backward.cpp says what is computed.
 */
#ifndef OMNIGRAD_CPU_ATTENTION_GRADIENT_H
#define OMNIGRAD_CPU_ATTENTION_GRADIENT_H

#include "../core/scratch.h"
#include "attention_scores.h"

namespace og {
namespace {

constexpr int64_t kBlock = OG_LANES == 8 ? 96 : 64;  // queries and keys of a tile; 96 is sixteen register tiles of AVX2
constexpr int64_t kPanel = 2 * kLanes;
constexpr int64_t kVectors = kBlock / kLanes;

// Operands of the products lie in panels as wide as a register tile: rows of a head, 256 bytes or a multiple of it
// apart, would share few sets of L1.
struct Buffers {
  float *q_rows, *q;        // [panel][kBlock][kPanel]; [strip][padded][kStrip], times scale · log₂e
  float *grad_rows, *grad;  // the same for grad, unscaled
  float* dq;                // [strip][padded][kStrip]
  float *p, *ds;            // [kBlock keys][kBlock queries]
  float *lse, *delta;       // [kBlock]; lse in base 2
  float *keys, *values;     // converted rows of the piece, where k or v cannot be read in place
  float *dk, *dv;           // [keys of the piece][padded]
  float* rows;              // [kStrip][padded]
  float* stage;             // [kStrip][kBlock]
  float *kept, *bend;       // [kBlock keys][kBlock queries]: dropout's factors, the soft cap's derivative
};

inline bool take_buffers(const Problem& p, int64_t piece, ScratchFrame* scratch, Buffers* to) {
  const int64_t w = round_up(p.width, kLanes), vw = round_up(p.value_width, kLanes);
  const auto take = [&](float*& pointer, int64_t count) { return (pointer = scratch->take<float>(count)) != nullptr; };
  // between p and ds: loads of one should not wait for stores to the other whose addresses end alike
  constexpr int64_t kApart = 544;
  return take(to->q_rows, kBlock * round_up(w, kPanel)) && take(to->q, kBlock * w) &&
         take(to->grad_rows, kBlock * round_up(vw, kPanel)) && take(to->grad, kBlock * vw) &&
         take(to->dq, kBlock * w) && take(to->p, kBlock * kBlock + kApart) && take(to->ds, kBlock * kBlock) &&
         take(to->lse, kBlock) && take(to->delta, kBlock) && take(to->keys, piece * p.width) &&
         take(to->values, piece * p.value_width) && take(to->dk, piece * w) && take(to->dv, piece * vw) &&
         take(to->rows, kStrip * (w > vw ? w : vw)) && take(to->stage, kStrip * kBlock) &&
         take(to->kept, p.drops ? kBlock * kBlock : 0) && take(to->bend, p.soft_cap > 0 ? kBlock * kBlock : 0);
}

/** Rows of a head as panels, and transposed as strips. */
inline void load_block(const Head& head, int64_t t0, int64_t count, int64_t width, float factor, float* staged,
                       float* panels, float* strips) {
  const int64_t padded = round_up(width, kLanes);
  const bool in_place = head.dtype == OG_F32 && head.column == 1 && width == padded;
  for (int64_t s = 0; s < kBlock; s += kStrip, strips += padded * kStrip, panels += kStrip * kPanel) {
    const int64_t left = count - s, here = left < 0 ? 0 : left < kStrip ? left : kStrip;
    Rows rows{staged, padded};
    if (in_place && here == kStrip)
      rows = {reinterpret_cast<const float*>(head.at(t0 + s)), head.row};
    else
      stage_rows(head, t0 + s, here, kStrip, width, padded, staged);
    for (int64_t first = 0; first < kStrip; first += kLanes)
      for (int64_t d = 0; d < padded; d += kLanes) {
        float* panel = panels + d / kPanel * kPanel * kBlock + d % kPanel;
        Vf r[kLanes];
        for (int i = 0; i < kLanes; i++) {
          const Vf x = load(rows.data + (first + i) * rows.stride + d);
          store(panel + (first + i) * kPanel, x);
          r[i] = x * factor;
        }
        transpose(r);
        for (int i = 0; i < kLanes; i++) store(strips + (d + i) * kStrip + first, r[i]);
      }
  }
}

/** What one block of queries sees of one tile of keys, vector by vector. */
struct Seen {
  int64_t begin[kVectors], end[kVectors];
};

/** P and dS of one strip (queries from column s0 of the tile on). k and v point at key j0. */
inline void score_strip(const Problem& p, const Reach& reach, int64_t s0, int64_t t0, int64_t count, const Rows& k,
                        const Rows& v, int64_t j0, int64_t n, const Scoring& scoring, const Buffers& buffers,
                        Ahead* ahead) {
  const int64_t begin = reach.begin, first = reach.end[0], second = reach.end[1];
  const int64_t end = first < second ? second : first, both = first < second ? first : second;
  const int64_t shared = both > begin ? both : begin;
  const int alone = first < second ? 1 : 0;
  float *prob = buffers.p + s0, *ds = buffers.ds + s0;
  const float *q = buffers.q + s0 * round_up(p.width, kLanes),
              *grad = buffers.grad + s0 * round_up(p.value_width, kLanes);
  if (shared > begin) {
    multiply<2, true>(shared - begin, p.width, k.data + begin * k.stride, k.stride, q, kStrip, prob + begin * kBlock,
                      kBlock, false, ahead);
    multiply<2, true>(shared - begin, p.value_width, v.data + begin * v.stride, v.stride, grad, kStrip,
                      ds + begin * kBlock, kBlock, false, ahead);
  }
  if (end > shared) {
    const int64_t at = shared * kBlock + alone * kLanes;
    multiply<1, true>(end - shared, p.width, k.data + shared * k.stride, k.stride, q + alone * kLanes, kStrip,
                      prob + at, kBlock, false);
    multiply<1, true>(end - shared, p.value_width, v.data + shared * v.stride, v.stride, grad + alone * kLanes, kStrip,
                      ds + at, kBlock, false);
  }
  if (scoring.any && end > begin)
    apply_scoring(p, scoring, t0, count, j0, begin, end, prob, kBlock, buffers.bend + s0, buffers.stage, kBlock);
  apply_reach(p, reach, t0, j0, prob, kBlock);
  if (p.drops && end > begin) {
    fill_kept(p, scoring, t0, count, j0, begin, end, buffers.kept + s0, kBlock, buffers.stage, kBlock);
    multiply_tile(ds, buffers.kept + s0, kBlock, begin, end);
  }
  for (int x = 0; x < kVecs; x++) {
    const Vf lse = load(buffers.lse + s0 + x * kLanes), delta = load(buffers.delta + s0 + x * kLanes);
    const int64_t low = begin < reach.end[x] ? begin : reach.end[x];
    for (int64_t j = 0; j < low; j++) {
      store(prob + j * kBlock + x * kLanes, Vf{});
      store(ds + j * kBlock + x * kLanes, Vf{});
    }
    for (int64_t j = low; j < reach.end[x]; j++) {
      float *at = prob + j * kBlock + x * kLanes, *to = ds + j * kBlock + x * kLanes;
      const Vf share = load(to) - delta, weight = exp2_nonpositive(load(at) - lse);
      store(at, weight);
      store(to, weight * share);
    }
    for (int64_t j = reach.end[x]; j < n; j++) {
      store(prob + j * kBlock + x * kLanes, Vf{});
      store(ds + j * kBlock + x * kLanes, Vf{});
    }
  }
  if (p.drops && end > begin) multiply_tile(prob, buffers.kept + s0, kBlock, begin, end);
}

/** dS becomes the gradient of the scores before the soft cap. Outside the reach it is 0 and stays so. */
inline void bend_back(const Reach& reach, int64_t s0, const Buffers& buffers) {
  for (int x = 0; x < kVecs; x++)
    for (int64_t j = reach.begin; j < reach.end[x]; j++) {
      float* at = buffers.ds + j * kBlock + s0 + x * kLanes;
      store(at, load(at) * load(buffers.bend + j * kBlock + s0 + x * kLanes));
    }
}

/** gradient[key][·] += Σ_query tile[key][query] · rows[query][·], over the queries that see each group of keys. */
inline void add_key_gradient(const Seen& seen, int64_t n, const float* tile, const float* rows, int64_t padded,
                             float* gradient) {
  for (int64_t c = 0; c < padded; c += kPanel) {
    const bool pair = c + kPanel <= padded;
    for (int64_t r = 0; r < n; r += kRegs) {
      const int64_t count = n - r < kRegs ? n - r : kRegs;
      int64_t low = 0, high = kVectors;
      while (low < high && (seen.end[low] <= r || seen.begin[low] >= r + count)) low++;
      while (high > low && (seen.end[high - 1] <= r || seen.begin[high - 1] >= r + count)) high--;
      if (low == high) continue;
      const int64_t depth = (high - low) * kLanes, from = low * kLanes;
      const float *a = tile + r * kBlock + from, *b = rows + c * kBlock + from * kPanel;
      if (pair) {
        multiply<2, true>(count, depth, a, kBlock, b, kPanel, gradient + r * padded + c, padded, true);
      } else {
        multiply<1, true>(count, depth, a, kBlock, b, kPanel, gradient + r * padded + c, padded, true);
      }
    }
  }
}

/** Writes dS of one strip to dmask; places that were skipped stay 0. */
inline void put_mask_gradient(const Head& head, const Reach& reach, int64_t t0, int64_t count, int64_t j0,
                              const float* ds, float* stage) {
  for (int x = 0; x < kVecs; x++) {
    const int64_t left = count - x * kLanes, rows = left < kLanes ? left : kLanes;
    for (int64_t j = reach.begin; j < reach.end[x]; j += kLanes) {
      const int64_t n = reach.end[x] - j < kLanes ? reach.end[x] - j : kLanes;
      Vf r[kLanes];
      for (int i = 0; i < kLanes; i++) r[i] = i < n ? load(ds + (j + i) * kBlock + x * kLanes) : Vf{};
      transpose(r);
      for (int64_t i = 0; i < rows; i++) {
        store(stage, r[i]);
        store_row(head, t0 + x * kLanes + i, j0 + j, n, stage);
      }
    }
  }
}

}  // namespace
}  // namespace og
#endif
