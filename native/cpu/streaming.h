/**
 * Results of rows (rows.h) written past the caches. A plain store reads its line from memory first; a result so large
 * that its lines leave the caches before anybody reads them costs a third less traffic without. x86 only: elsewhere,
 * and in `reference`, nothing streams.
 */
#ifndef OMNIGRAD_CPU_STREAMING_H
#define OMNIGRAD_CPU_STREAMING_H

#include "rows.h"

namespace og {
namespace {

/** Bytes of a result from which on it is streamed: half of a usual last cache. */
constexpr int64_t kStreamBytes = 16 << 20;

#if defined(__x86_64__) && !defined(OG_IS_REFERENCE)
constexpr bool kCanStream = true;

/** p on a vector's boundary. */
OG_INLINE void store_streaming(float* p, Vf v) {
#if defined(__AVX512F__)
  _mm512_stream_ps(p, (__m512)v);
#elif defined(__AVX2__)
  _mm256_stream_ps(p, (__m256)v);
#else
  _mm_stream_ps(p, (__m128)v);
#endif
}
/** At the end of a range of rows: before another thread learns that they are there. */
inline void end_streaming() { _mm_sfence(); }
#else
constexpr bool kCanStream = false;
#ifndef OG_IS_REFERENCE
OG_INLINE void store_streaming(float* p, Vf v) { store(p, v); }
#endif
inline void end_streaming() {}
#endif

/** Whether rows of `out` are so many that they are streamed, and can be: not over `in`, whose lines are cached. */
template <class C>
inline bool streams(const Rows<C>& in, const Rows<C>& out) {
  return kCanStream && in.direct && out.direct && in.view->data != out.view->data &&
         count_of(*out.view) * (int64_t)sizeof(C) >= kStreamBytes;
}

/** Elements before the first whole line of 64 bytes, at most n. */
inline int64_t before_line(const float* p, int64_t n) {
  const int64_t head = (int64_t)((64 - (reinterpret_cast<uintptr_t>(p) & 63)) & 63) / (int64_t)sizeof(float);
  return head < n ? head : n;
}

}  // namespace
}  // namespace og
#endif
