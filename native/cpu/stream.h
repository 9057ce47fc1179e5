/**
 * Results that no cache keeps. A plain store fetches its line from memory before it changes it, so a result of n bytes
 * moves 2n; stores past the caches that together make a whole line move n. Worth it where the result is so large that
 * whoever reads it next reads memory anyway. A kernel computes into a buffer in L1 and copies it out with stream_copy,
 * or writes its last pass over a row with stream_vectors.
 *
 * These stores are ordered with no others: a StreamEnd in each chunk makes them visible before the chunk ends. Where
 * the instruction set has none (`reference`, NEON), no result counts as beyond the caches.
 */
#ifndef OMNIGRAD_CPU_STREAM_H
#define OMNIGRAD_CPU_STREAM_H

#include <cstdint>
#include <cstring>

#include "../core/view.h"
#ifndef OG_IS_REFERENCE
#include "simd.h"
#endif

namespace og {
namespace {

/** Bytes from which on a result passes the caches: the last-level cache that the cores of a common server share. */
constexpr int64_t kStreamBytes = int64_t{32} << 20;
/** Bytes that are written as one. */
constexpr int64_t kStreamLine = 64;

#if defined(OG_LANES) && defined(__x86_64__)

inline bool is_beyond_caches(const og_view& result) {
  return count_of(result) * dtype_size(result.dtype) >= kStreamBytes;
}

/** `to` is aligned to the vector. */
OG_INLINE void stream(float* to, Vf v) {
#if OG_LANES == 16
  _mm512_stream_ps(to, (__m512)v);
#elif OG_LANES == 8
  _mm256_stream_ps(to, (__m256)v);
#else
  _mm_stream_ps(to, (__m128)v);
#endif
}

struct StreamEnd {
  bool active;
  ~StreamEnd() {
    if (active) _mm_sfence();
  }
};

#else

inline bool is_beyond_caches(const og_view&) { return false; }

struct StreamEnd {
  bool active;
  ~StreamEnd() {}
};

#ifndef OG_IS_REFERENCE
OG_INLINE void stream(float* to, Vf v) { store(to, v); }
#endif

#endif

#ifndef OG_IS_REFERENCE

/** memcpy past the caches; what lies in lines that are not whole is stored as usual. The ranges must not overlap. */
inline void stream_copy(const void* from, void* to, int64_t bytes) {
  const char* source = static_cast<const char*>(from);
  char* target = static_cast<char*>(to);
  int64_t i = -(int64_t)(uintptr_t)target & (kStreamLine - 1);
  if (i > bytes) i = bytes;
  if (i > 0) std::memcpy(target, source, (size_t)i);
  for (; i + kStreamLine <= bytes; i += kStreamLine)
    for (int64_t k = i; k < i + kStreamLine; k += kLanes * 4)
      stream(reinterpret_cast<float*>(target + k), load(reinterpret_cast<const float*>(source + k)));
  if (i < bytes) std::memcpy(target + i, source + i, (size_t)(bytes - i));
}

/**
 * to[i …] = f(i, get) past the caches, vector by vector; get(p) reads as many numbers at p as are wanted. fetch(i) is
 * called once a whole line. All of it inline: what f holds would be read again after each store, were f seen elsewhere.
 */
template <class F, class Fetch>
OG_INLINE void stream_vectors(float* to, int64_t n, const F& f, const Fetch& fetch) {
  constexpr int64_t line = kStreamLine / 4;
  const auto whole = [](const float* p) { return load(p); };
  const auto some = [&](int64_t i, int64_t end) __attribute__((always_inline)) {
    for (; i + kLanes <= end; i += kLanes) store(to + i, f(i, whole));
    if (i == end) return;
    const int64_t count = end - i;
    store_partial(to + i, f(i, [count](const float* p) { return load_partial(p, count); }), count);
  };
  int64_t i = (-(int64_t)(uintptr_t)to & (kStreamLine - 1)) / 4;
  if (i > n) i = n;
  some(0, i);
  for (; i + line <= n; i += line) {
    fetch(i);
    for (int64_t k = i; k < i + line; k += kLanes) stream(to + k, f(k, whole));
  }
  some(i, n);
}
template <class F>
OG_INLINE void stream_vectors(float* to, int64_t n, const F& f) {
  stream_vectors(to, n, f, [](int64_t) {});
}

#else

inline void stream_copy(const void* from, void* to, int64_t bytes) { std::memcpy(to, from, (size_t)bytes); }

#endif

}  // namespace
}  // namespace og
#endif
