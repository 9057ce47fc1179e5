/**
 * Two passes over each row, the first of one row and the second of the row before in turn, line by line: the first
 * reads from memory and computes, the second writes. One after the other they would leave memory idle while there is
 * much to compute, and the core while there is much to write.
 */
#ifndef OMNIGRAD_CPU_ROWS_IN_TURN_H
#define OMNIGRAD_CPU_ROWS_IN_TURN_H

#include <algorithm>

#include "rows.h"

namespace og {
namespace {

/** Longest row whose second pass waits for the next row: what a row leaves to it must stay in a core's cache. */
constexpr int64_t kTurnRow = int64_t{1} << 17;
/** Elements ahead of the first pass that are fetched, about. */
constexpr int64_t kTurnAhead = 2048;

/** Rows of a chunk, whose first and last row have a pass alone: as many as leave some chunks for every core. */
inline int64_t grain_in_turn(int64_t rows, int64_t work) {
  const int64_t least = grain_for(work), most = grain_for(work, 1 << 20);
  return std::max(least, std::min(rows / 32, std::max(most, int64_t{8})));
}

/** Whether rows of n elements lie so that two can be worked on in place. */
template <class C>
inline bool are_in_turn(const Rows<C>& from, const Rows<C>& to, int64_t n) {
  return from.direct && (to.direct || to.past) && n <= kTurnRow;
}

/** From an element to the one that is fetched while it is computed on. */
template <class C>
inline int64_t turn_ahead(const Rows<C>& from, int64_t n) {
  if (n >= kTurnAhead) return kTurnAhead;
  return from.offset.uniform && n > 0 ? (kTurnAhead + n - 1) / n * from.offset.step : 0;
}

#ifndef OG_IS_REFERENCE

/** A vector, and the first `count` elements of one; the others read as -∞. */
struct WholeVector {
  Vf operator()(const float* p) const { return load(p); }
  void operator()(float* p, Vf v) const { store(p, v); }
};
struct PartOfVector {
  int64_t count;
  Vf operator()(const float* p) const { return load_partial(p, count, -__builtin_inff()); }
  void operator()(float* p, Vf v) const { store_partial(p, v, count); }
};

/** to[begin … end) = second(i, access), stored as usual. */
template <class Second>
OG_INLINE void second_pass(float* to, int64_t begin, int64_t end, const Second& second) {
  for (; begin + kLanes <= end; begin += kLanes) store(to + begin, second(begin, WholeVector{}));
  if (begin < end) {
    const PartOfVector part{end - begin};
    part(to + begin, second(begin, part));
  }
}

/**
 * A block of n elements of a row, and to[i] = second(i, access) of the same block of the row before, if there is `to`.
 * first(i, access) returns what is summed; keep(i, v, access) may store it: where second(i) has read already.
 */
template <bool kPast, class First, class Keep, class Second>
OG_INLINE Vf block_in_turn(int64_t n, const float* ahead, float* to, const First& first, const Keep& keep,
                           const Second& second) {
  constexpr int64_t line = kRowLine;
  int64_t head = 0, lines = 0;
  if (to) {
    head = (-(int64_t)(uintptr_t)to & (kStreamLine - 1)) / 4;
    if (head > n) head = n;
    lines = (n - head) / line * line;
    second_pass(to, 0, head, second);
    second_pass(to, head + lines, n, second);
  }
  Vf sum{};
  int64_t i = 0;
  for (; i < lines; i += line) {
    Vf v[line / kLanes];
    prefetch(ahead + i);
    for (int64_t k = 0; k < line; k += kLanes) v[k / kLanes] = first(i + k, WholeVector{});
    for (int64_t k = 0; k < line; k += kLanes) {
      const Vf result = second(head + i + k, WholeVector{});
      if (kPast)
        stream(to + head + i + k, result);
      else
        store(to + head + i + k, result);
    }
    for (int64_t k = 0; k < line; k += kLanes) keep(i + k, v[k / kLanes], WholeVector{});
    sum = sum + sum_of_line(v);
  }
  for (; i + line <= n; i += line) {
    Vf v[line / kLanes];
    prefetch(ahead + i);
    for (int64_t k = 0; k < line; k += kLanes) {
      v[k / kLanes] = first(i + k, WholeVector{});
      keep(i + k, v[k / kLanes], WholeVector{});
    }
    sum = sum + sum_of_line(v);
  }
  for (; i + kLanes <= n; i += kLanes) {
    const Vf v = first(i, WholeVector{});
    keep(i, v, WholeVector{});
    sum = sum + v;
  }
  if (i < n) {
    const PartOfVector part{n - i};
    const Vf v = first(i, part);
    keep(i, v, part);
    sum = sum + v;
  }
  return sum;
}

/** The second pass of a block alone. */
template <bool kPast, class Second>
OG_INLINE void finish_block(int64_t n, float* to, const Second& second) {
  if (kPast)
    stream_vectors(to, n, [&](int64_t i, auto access) { return second(i, access); });
  else
    second_pass(to, 0, n, second);
}

/**
 * Rows [begin, end). op.block(x, at, n, ahead, to) does n elements of the first pass and of the second of the row
 * before, if there is `to`; op.close(x, n) ends a row's first pass, after which op.second(at) is its second.
 */
template <bool kPast, class Op>
void rows_in_turn(const Rows<float>& from, const Rows<float>& to, int64_t n, int64_t begin, int64_t end, Op& op) {
  const int64_t ahead = turn_ahead(from, n);
  for (int64_t r = begin; r <= end; r++) {
    const float* x = r < end ? from.read(r, 0, n, nullptr) : nullptr;
    float* before = r == begin ? nullptr : kPast ? to.past_row(r - 1) : to.target(r - 1, 0, nullptr);
    for (int64_t at = 0; at < n; at += kSumBlock) {
      const int64_t count = std::min(n - at, kSumBlock);
      float* target = before ? before + at : nullptr;
      if (x)
        op.template block<kPast>(x + at, at, count, x + at + ahead, target);
      else
        finish_block<kPast>(count, target, op.second(at));
    }
    if (x) op.close(x, n);
  }
}

/** Both passes over one row, from x to y, which may be the same. */
template <class Op>
void row_alone(const float* x, float* y, int64_t n, Op& op) {
  for (int64_t at = 0; at < n; at += kSumBlock) {
    const int64_t count = std::min(n - at, kSumBlock);
    op.template block<false>(x + at, at, count, x + at, nullptr);
  }
  op.close(x, n);
  for (int64_t at = 0; at < n; at += kSumBlock) finish_block<false>(std::min(n - at, kSumBlock), y + at, op.second(at));
}

#endif

}  // namespace
}  // namespace og
#endif
