/**
 * Products of a few query rows with a tile of keys or values that lie along rows: dot products and axpy updates, which
 * read each row once. A tile is a run of rows, or spread over several streams of them.
 */
#ifndef OMNIGRAD_CPU_ATTENTION_ROWS_H
#define OMNIGRAD_CPU_ATTENTION_ROWS_H

#include "attention_tile.h"

namespace og {
namespace {

constexpr int64_t kDecodeKeys = 64;  // keys of a tile at most: its k and v stay in L1 for the other rows
// Streams of keys, and of values, that are read side by side: Zen 3 reads memory faster in four than in one or two, and
// slower where software fetches. A tile of them is large, so that no stream rests long.
constexpr int kFar = OG_LANES == 8 ? 4 : 1;
constexpr int64_t kFarKeys = kFar * kDecodeKeys;  // of all streams

/** kLanes bytes, widened. */
OG_INLINE Vf load(const int8_t* p) {
#if defined(__AVX512F__)
  return (Vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
#elif defined(__AVX2__)
  return (Vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
#else
  typedef int8_t Bytes __attribute__((vector_size(OG_LANES)));
  Bytes bytes;
  std::memcpy(&bytes, p, sizeof bytes);
  return __builtin_convertvector(__builtin_convertvector(bytes, Vi), Vf);
#endif
}

/** Cache lines of n rows, into L2: L1 has no room for two tiles of k and v. */
template <class T>
OG_INLINE void fetch_rows(const T* row, int64_t stride, int64_t n, int64_t width) {
  for (int64_t j = 0; j < n; j++, row += stride)
    for (int64_t byte = 0; byte < width * (int64_t)sizeof(T); byte += 64)
      __builtin_prefetch(reinterpret_cast<const char*>(row) + byte, 0, 2);
}

/**
 * scores[r][j] = q_r · k_j for j < n and R query rows; rows of k are `stride` apart. Rows from `next` on, unless it is
 * null, are fetched meanwhile. Rows are read one after the other, in the order of memory, which the hardware foresees.
 */
template <int R, class T>
OG_INLINE void dots(const float* const* q, const T* k, int64_t stride, int64_t n, int64_t width, const T* next,
                    float* const* scores) {
  constexpr int kKeysAtOnce = kLanes / R;
  for (int64_t j = 0; j < n; j += kKeysAtOnce) {
    const T* rows[kKeysAtOnce];
    Vf acc[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; i++) acc[i] = Vf{};
#pragma GCC unroll 16
    for (int i = 0; i < kKeysAtOnce; i++) rows[i] = k + (j + i < n ? j + i : n - 1) * stride;
    if (R == 1 && next) fetch_rows(next + j * stride, stride, n - j < kKeysAtOnce ? n - j : kKeysAtOnce, width);
#pragma GCC unroll 16
    for (int i = 0; i < kKeysAtOnce; i++) {
      int64_t d = 0;
      if (R == 1) {
        for (; d + 4 * kLanes <= width; d += 4 * kLanes)
#pragma GCC unroll 4
          for (int part = 0; part < 4; part++)
            acc[i] = fma(load(q[0] + d + part * kLanes), load(rows[i] + d + part * kLanes), acc[i]);
      }
      for (; d < width; d += kLanes) {
        const T* at = rows[i] + d;
        if (R > 1 && next) __builtin_prefetch(next + (at - k), 0, 2);  // all at once would hold up the loads between
        const Vf right = load(at);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) acc[r * kKeysAtOnce + i] = fma(load(q[r] + d), right, acc[r * kKeysAtOnce + i]);
      }
    }
    const Vf sums = sum_each(acc);
    for (int r = 0; r < R; r++)
      std::memcpy(scores[r] + j, reinterpret_cast<const float*>(&sums) + r * kKeysAtOnce, kKeysAtOnce * sizeof(float));
  }
}

/** o_r[·] += Σ_j weight_r[j] · v_j for NV vectors and R query rows; the same of rows from `next` on is fetched. */
template <int R, int NV, class T>
OG_INLINE void axpys(const float* const* weight, const T* v, int64_t stride, int64_t n, const T* next, float* const* o,
                     int64_t at) {
  Vf acc[R][NV];
#pragma GCC unroll 4
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int i = 0; i < NV; i++) acc[r][i] = load(o[r] + at + i * kLanes);
  v += at;
  for (int64_t j = 0; j < n; j++, v += stride) {
    if (next) fetch_rows(next + at + j * stride, stride, 1, NV * kLanes);
    Vf left[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) left[r] = set1(weight[r][j]);
#pragma GCC unroll 8
    for (int i = 0; i < NV; i++) {
      const Vf right = load(v + i * kLanes);
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) acc[r][i] = fma(left[r], right, acc[r][i]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int i = 0; i < NV; i++) store(o[r] + at + i * kLanes, acc[r][i]);
}

/**
 * dots and axpys of a tile that is spread over kFar streams: row j is row j / kFar of stream j % kFar. n is a multiple
 * of kFar.
 */
template <int R, class T>
OG_INLINE void dots_far(const float* const* q, const T* const* k, int64_t stride, int64_t n, int64_t width,
                        float* const* scores) {
  constexpr int kKeysAtOnce = kLanes / R, kAbreast = kKeysAtOnce < kFar ? kKeysAtOnce : kFar;
  for (int64_t j = 0; j < n; j += kKeysAtOnce) {
    Vf acc[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; i++) acc[i] = Vf{};
#pragma GCC unroll 4
    for (int first = 0; first < kKeysAtOnce; first += kAbreast) {
      const T* rows[kAbreast];
#pragma GCC unroll 4
      for (int i = 0; i < kAbreast; i++) {
        const int64_t key = j + first + i < n ? j + first + i : n - 1;
        rows[i] = k[key % kFar] + key / kFar * stride;
      }
#pragma GCC unroll 2
      for (int64_t d = 0; d < width; d += kLanes) {
        Vf left[R];
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) left[r] = load(q[r] + d);
#pragma GCC unroll 4
        for (int i = 0; i < kAbreast; i++) {
          const Vf right = load(rows[i] + d);
#pragma GCC unroll 4
          for (int r = 0; r < R; r++) {
            Vf& sum = acc[r * kKeysAtOnce + first + i];
            sum = fma(left[r], right, sum);
          }
        }
      }
    }
    const Vf sums = sum_each(acc);
    for (int r = 0; r < R; r++)
      std::memcpy(scores[r] + j, reinterpret_cast<const float*>(&sums) + r * kKeysAtOnce, kKeysAtOnce * sizeof(float));
  }
}
template <int R, class T>
OG_INLINE void axpys_far(const float* const* weight, const T* const* v, int64_t stride, int64_t n, int64_t width,
                         float* const* o) {
  if constexpr (R == 1) {
    constexpr int kParts = 8;
    if (width == kParts * kLanes) {  // sums stay in registers
      Vf acc[kParts];
#pragma GCC unroll 8
      for (int i = 0; i < kParts; i++) acc[i] = load(o[0] + i * kLanes);
      for (int64_t j = 0; j < n; j++) {
        const T* row = v[j % kFar] + j / kFar * stride;
        const Vf left = set1(weight[0][j]);
#pragma GCC unroll 8
        for (int i = 0; i < kParts; i++) acc[i] = fma(left, load(row + i * kLanes), acc[i]);
      }
#pragma GCC unroll 8
      for (int i = 0; i < kParts; i++) store(o[0] + i * kLanes, acc[i]);
      return;
    }
  }
  constexpr int kRows = R < 2 ? R : 2;  // whose weights fit into registers
  for (int64_t j = 0; j < n; j += kFar) {
#pragma GCC unroll 2
    for (int r0 = 0; r0 < R; r0 += kRows) {
      const T* rows[kFar];
      Vf left[kRows][kFar];
#pragma GCC unroll 4
      for (int i = 0; i < kFar; i++) {
        rows[i] = v[i] + j / kFar * stride;
#pragma GCC unroll 2
        for (int r = 0; r < kRows; r++) left[r][i] = set1(weight[r0 + r][j + i]);
      }
#pragma GCC unroll 2
      for (int64_t d = 0; d < width; d += kLanes) {
        Vf sum[kRows];
#pragma GCC unroll 2
        for (int r = 0; r < kRows; r++) sum[r] = load(o[r0 + r] + d);
#pragma GCC unroll 4
        for (int i = 0; i < kFar; i++) {
          const Vf right = load(rows[i] + d);
#pragma GCC unroll 2
          for (int r = 0; r < kRows; r++) sum[r] = fma(left[r][i], right, sum[r]);
        }
#pragma GCC unroll 2
        for (int r = 0; r < kRows; r++) store(o[r0 + r] + d, sum[r]);
      }
    }
  }
}

/** A tile of k or v as vectors of a storage type: in place, or converted and padded. */
struct DecodeTile {
  const void* data;
  int64_t stride;
  int32_t dtype;
  const void* next;       // what is read after it, laid out like it, to be fetched meanwhile; null: none, or unknown
  const void* far[kFar];  // of a tile that is spread over streams: where each begins; data is null then
};
inline bool reads_in_place(const Head& head, int64_t width) { return head.column == 1 && width % kLanes == 0; }
inline DecodeTile decode_tile(const Head& head, int64_t from, int64_t n, int64_t width, float* buffer) {
  if (reads_in_place(head, width)) return {head.at(from), head.row, head.dtype, nullptr, {}};
  const int64_t padded = round_up(width, kLanes);
  stage_rows(head, from, n, n, width, padded, buffer);
  return {buffer, padded, OG_F32, nullptr, {}};
}

/** For one, two or four query rows, whose loads of k then are shared. */
template <class T>
__attribute__((noinline)) void tile_scores(int rows, const float* const* q, const DecodeTile& k, int64_t from,
                                           int64_t n, int64_t width, bool fetch, float* const* scores) {
  if constexpr (kFar > 1) {
    if (!k.data) {
      const T* far[kFar];
      for (int i = 0; i < kFar; i++) far[i] = static_cast<const T*>(k.far[i]);
      if (rows == 4) {
        dots_far<4>(q, far, k.stride, n, width, scores);
      } else if (rows == 2) {
        dots_far<2>(q, far, k.stride, n, width, scores);
      } else {
        dots_far<1>(q, far, k.stride, n, width, scores);
      }
      return;
    }
  }
  const T* data = static_cast<const T*>(k.data) + from * k.stride;
  const T* next = fetch && k.next ? static_cast<const T*>(k.next) + from * k.stride : nullptr;
  if (rows == 4) {
    dots<4>(q, data, k.stride, n, width, next, scores);
  } else if (rows == 2) {
    dots<2>(q, data, k.stride, n, width, next, scores);
  } else {
    dots<1>(q, data, k.stride, n, width, next, scores);
  }
}
template <class T>
__attribute__((noinline)) void tile_values(int rows, const float* const* weight, const DecodeTile& v, int64_t from,
                                           int64_t n, int64_t width, bool fetch, float* const* o) {
  if constexpr (kFar > 1) {
    if (!v.data) {
      const T* far[kFar];
      for (int i = 0; i < kFar; i++) far[i] = static_cast<const T*>(v.far[i]);
      if (rows == 4) {
        axpys_far<4>(weight, far, v.stride, n, width, o);
      } else if (rows == 2) {
        axpys_far<2>(weight, far, v.stride, n, width, o);
      } else {
        axpys_far<1>(weight, far, v.stride, n, width, o);
      }
      return;
    }
  }
  const T* data = static_cast<const T*>(v.data) + from * v.stride;
  const T* next = fetch && v.next ? static_cast<const T*>(v.next) + from * v.stride : nullptr;
  int64_t d = 0;
  if (rows == 4) {
#if OG_LANES == 16 || defined(__aarch64__)  // 16 sums of 32 registers
    for (; d + 4 * kLanes <= width; d += 4 * kLanes) axpys<4, 4>(weight, data, v.stride, n, next, o, d);
#endif
    for (; d + 2 * kLanes <= width; d += 2 * kLanes) axpys<4, 2>(weight, data, v.stride, n, next, o, d);
    for (; d < width; d += kLanes) axpys<4, 1>(weight, data, v.stride, n, next, o, d);
  } else if (rows == 2) {
    for (; d + 4 * kLanes <= width; d += 4 * kLanes) axpys<2, 4>(weight, data, v.stride, n, next, o, d);
    for (; d < width; d += kLanes) axpys<2, 1>(weight, data, v.stride, n, next, o, d);
  } else {
    for (; d + 8 * kLanes <= width; d += 8 * kLanes) axpys<1, 8>(weight, data, v.stride, n, next, o, d);
    for (; d + 4 * kLanes <= width; d += 4 * kLanes) axpys<1, 4>(weight, data, v.stride, n, next, o, d);
    for (; d < width; d += kLanes) axpys<1, 1>(weight, data, v.stride, n, next, o, d);
  }
}

}  // namespace
}  // namespace og
#endif
