/**
 * Element-wise kernels: operands of one shape (broadcasting is a stride of zero) are cut into blocks of kBlock
 * elements; a linear operand of the compute type is used in place, any other is staged through L1. Where the
 * caller says that a function waits for memory alone, a result beyond the caches (stream.h) that is none of the
 * operands is computed in L1 and written past them; functions that compute more lose by it.
 * Parallel split: by blocks, so it depends on the count only. In-place use (an output equal to an input) is allowed.
 */
#ifndef OMNIGRAD_CPU_ELEMENTWISE_H
#define OMNIGRAD_CPU_ELEMENTWISE_H

#include <type_traits>

#include "../core/parallel.h"
#include "../core/status.h"
#include "../core/view.h"
#include "stage.h"
#include "stream.h"

namespace og {
namespace {

constexpr int64_t kBlock = 1024;
constexpr int64_t kBlocksPerChunk = 32;

/** Elements [begin, begin+n) of operand k: where they lie, or copied into the buffer. */
template <class C, int N>
inline const C* stage_in(const Loop<N>& loop, int k, const og_view& view, int64_t begin, int64_t n, C* buffer) {
  if (is_native<C>(view.dtype) && loop.linear(k)) return data_of<const C>(view) + begin;
  OG_ISA::load_lines(loop.walk(k), view, begin, n, buffer);
  return buffer;
}

template <class C, int N>
inline void stage_out(const Loop<N>& loop, int k, const og_view& view, int64_t begin, int64_t n, const C* buffer) {
  OG_ISA::store_lines(loop.walk(k), view, begin, n, buffer);
}

/** What is done to one block: runs of n ≤ kBlock contiguous elements. */
template <class C>
using BlockFn = void (*)(const void* context, const C* const* in, C* out, int64_t n);

/** out = fn(inputs…) in compute type C. Not a template over fn: the staging code exists once, not once per function. */
template <class C, int IN>
inline int32_t map_blocks_with(const og_view* const (&in)[IN], const og_view& out, BlockFn<C> fn, const void* context,
                               bool is_light) {
  const og_view* views[IN + 1];
  views[0] = &out;
  for (int i = 0; i < IN; i++) {
    OG_REQUIRE(same_shape(*in[i], out), "element-wise operands differ in shape");
    views[i + 1] = in[i];
  }
  const Loop<IN + 1> loop(views);
  const bool direct = is_native<C>(out.dtype) && loop.linear(0);
  bool past = is_light && direct && is_beyond_caches(out);
  for (int i = 0; i < IN; i++) past = past && in[i]->data != out.data;
  parallel_ranges(loop.count, kBlock * kBlocksPerChunk, [&](int64_t begin, int64_t end) {
    const StreamEnd streams{past};
    alignas(64) C buffers[IN + 1][kBlock];
    const int64_t block = past ? kBlock / 4 : kBlock;  // short, so that reading goes on while lines are written
    for (int64_t at = begin; at < end; at += block) {
      const int64_t n = end - at < block ? end - at : block;
      const C* from[IN];
      for (int i = 0; i < IN; i++) from[i] = stage_in<C>(loop, i + 1, *in[i], at, n, buffers[i + 1]);
      C* to = direct && !past ? data_of<C>(out) + at : buffers[0];
      fn(context, from, to, n);
      if (past)
        stream_copy(to, data_of<C>(out) + at, n * (int64_t)sizeof(C));
      else if (!direct)
        stage_out<C>(loop, 0, out, at, n, buffers[0]);
    }
  });
  return OG_OK;
}

/** map_blocks_with for a callable body(const C* const* in, C* out, int64_t n). */
template <class C, int IN, class Body>
inline int32_t map_blocks(const og_view* const (&in)[IN], const og_view& out, const Body& body, bool is_light = false) {
  return map_blocks_with<C, IN>(
      in, out,
      [](const void* context, const C* const* from, C* to, int64_t n) {
        (*static_cast<const Body*>(context))(from, to, n);
      },
      &body, is_light);
}

/** Scalar function over a run; the compiler vectorises what it can. */
template <class C, class F>
inline void run1(const C* x, C* y, int64_t n, const F& f) {
  for (int64_t i = 0; i < n; i++) y[i] = f(x[i]);
}
template <class C, class F>
inline void run2(const C* a, const C* b, C* y, int64_t n, const F& f) {
  for (int64_t i = 0; i < n; i++) y[i] = f(a[i], b[i]);
}

#ifndef OG_IS_REFERENCE
/** Vector function over a run; the tail goes through partial loads, so the bits do not depend on where a run ends. */
template <class F>
OG_INLINE void vectors1(const float* x, float* y, int64_t n, const F& f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, f(load(x + i)));
  if (i < n) store_partial(y + i, f(load_partial(x + i, n - i)), n - i);
}
template <class F>
OG_INLINE void vectors2(const float* a, const float* b, float* y, int64_t n, const F& f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, f(load(a + i), load(b + i)));
  if (i < n) store_partial(y + i, f(load_partial(a + i, n - i), load_partial(b + i, n - i)), n - i);
}
#endif

}  // namespace
}  // namespace og
#endif
