/**
 * Few rows of int8 activations against 4-bit weights: exact integer dot products over blocks of 32, scaled in float32.
 *
 * x is quantised on the way in blocks of 32, symmetric (max|x| / 127, to nearest even). A vector of weight bytes holds
 * kLanes / 4 blocks; unsigned codes times signed activations go through vpmaddubsw (at most 4 · 15 · 127 = 7620 in an
 * int16), then pairs into int32 (vpdpbusd does both where the machine has it), so that four lanes belong to a block.
 * float(dot) − zero · Σx is exact; one FMA with scale · x's scale adds it to float lanes, which are summed once a row.
 * Weights are read in four far streams and fetched ahead; their scales are spread to one a block first.
 */
#ifndef OMNIGRAD_CPU_WEIGHT_DOTS_H
#define OMNIGRAD_CPU_WEIGHT_DOTS_H

#include "../core/cpu_features.h"
#include "weight_rows.h"

namespace og {
namespace {

constexpr int64_t kAhead = 512;            // bytes that a stream of weights is fetched ahead
constexpr int64_t kBlock32 = 32;           // activations that share a scale
constexpr int kVectorBlocks = kLanes / 4;  // blocks in a vector of bytes
constexpr int kVectorBytes = 4 * kLanes;   // 2 codes each

/** Activations of kVectorBlocks blocks, in the order of the weights' halves. */
struct alignas(64) CodedChunk {
  int8_t even[kVectorBytes], odd[kVectorBytes];
  float sums[kLanes];   // of the lane's eight activations
  float scale[kLanes];  // of the lane's block
};

inline int64_t chunks_of(int64_t k) { return ceil_div(k, kBlock32 * kVectorBlocks); }

/** One row of k activations; what is missing in the last chunk is zero. */
inline void code_activations(const float* x, int64_t k, CodedChunk* to) {
  std::memset(static_cast<void*>(to), 0, (size_t)chunks_of(k) * sizeof(CodedChunk));
  for (int64_t block = 0; block * kBlock32 < k; block++) {
    const float* from = x + block * kBlock32;
    CodedChunk& chunk = to[block / kVectorBlocks];
    const int at = (int)(block % kVectorBlocks);
    float largest = 0;
    find_magnitude(from, kBlock32, &largest);
    float scale = largest / 127.f;
    if (scale == 0) scale = 1;
    uint8_t codes[kBlock32];
    ErrorSums none(nullptr);
    integer_codes(from, kBlock32, Same<float>{{scale, -127.f, 127.f, 0.f}}, nullptr, codes, none);
    for (int j = 0; j < 16; j++) {
      chunk.even[16 * at + j] = (int8_t)codes[2 * j];
      chunk.odd[16 * at + j] = (int8_t)codes[2 * j + 1];
    }
    for (int lane = 0; lane < 4; lane++) {
      int32_t total = 0;
      for (int j = 0; j < 4; j++) total += chunk.even[16 * at + 4 * lane + j] + chunk.odd[16 * at + 4 * lane + j];
      chunk.sums[4 * at + lane] = (float)total;
      chunk.scale[4 * at + lane] = scale;
    }
  }
}

#if OG_LANES == 16
typedef __m512i Vbyte;
OG_INLINE Vbyte load_vector(const void* p) { return _mm512_loadu_si512(p); }
OG_INLINE void halves(Vbyte v, Vbyte& low, Vbyte& high) {
  const Vbyte mask = _mm512_set1_epi8(15);
  low = _mm512_and_si512(v, mask);
  high = _mm512_and_si512(_mm512_srli_epi16(v, 4), mask);
}
template <bool kDotBytes>
OG_INLINE Vi dot(Vbyte low, Vbyte high, const CodedChunk& x) {
  if (kDotBytes) {  // the set is compiled without VNNI, so the compiler does not know the instruction
    Vbyte sum = _mm512_setzero_si512();
    const Vbyte even = load_vector(x.even), odd = load_vector(x.odd);
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(low), "v"(even));
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(high), "v"(odd));
    return (Vi)sum;
  }
  const Vbyte pairs =
      _mm512_add_epi16(_mm512_maddubs_epi16(low, load_vector(x.even)), _mm512_maddubs_epi16(high, load_vector(x.odd)));
  return (Vi)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
}
#elif OG_LANES == 8
typedef __m256i Vbyte;
OG_INLINE Vbyte load_vector(const void* p) { return _mm256_loadu_si256((const __m256i*)p); }
OG_INLINE void halves(Vbyte v, Vbyte& low, Vbyte& high) {
  const Vbyte mask = _mm256_set1_epi8(15);
  low = _mm256_and_si256(v, mask);
  high = _mm256_and_si256(_mm256_srli_epi16(v, 4), mask);
}
template <bool kDotBytes>
OG_INLINE Vi dot(Vbyte low, Vbyte high, const CodedChunk& x) {
  const Vbyte pairs =
      _mm256_add_epi16(_mm256_maddubs_epi16(low, load_vector(x.even)), _mm256_maddubs_epi16(high, load_vector(x.odd)));
  return (Vi)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
#elif defined(__aarch64__)
typedef int8x16_t Vbyte;
OG_INLINE Vbyte load_vector(const void* p) { return vld1q_s8((const int8_t*)p); }
OG_INLINE void halves(Vbyte v, Vbyte& low, Vbyte& high) {
  low = vandq_s8(v, vdupq_n_s8(15));
  high = vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(v), 4));
}
template <bool kDotBytes>
OG_INLINE Vi dot(Vbyte low, Vbyte high, const CodedChunk& x) {
  const Vbyte even = load_vector(x.even), odd = load_vector(x.odd);
  const int16x8_t a = vmlal_s8(vmull_s8(vget_low_s8(low), vget_low_s8(even)), vget_low_s8(high), vget_low_s8(odd));
  const int16x8_t b = vmlal_s8(vmull_s8(vget_high_s8(low), vget_high_s8(even)), vget_high_s8(high), vget_high_s8(odd));
  return (Vi)vpaddq_s32(vpaddlq_s16(a), vpaddlq_s16(b));
}
#else
typedef __m128i Vbyte;
OG_INLINE Vbyte load_vector(const void* p) { return _mm_loadu_si128((const __m128i*)p); }
OG_INLINE void halves(Vbyte v, Vbyte& low, Vbyte& high) {
  const Vbyte mask = _mm_set1_epi8(15);
  low = _mm_and_si128(v, mask);
  high = _mm_and_si128(_mm_srli_epi16(v, 4), mask);
}
/** SSE2 has no vpmaddubsw: both sides are widened to int16. Lane L: bytes 2L, 2L+1, 2L+8, 2L+9 of both halves. */
OG_INLINE Vi dot_half(Vbyte codes, Vbyte x) {
  const Vbyte zero = _mm_setzero_si128(), sign = _mm_cmpgt_epi8(zero, x);
  return (Vi)_mm_add_epi32(_mm_madd_epi16(_mm_unpacklo_epi8(codes, zero), _mm_unpacklo_epi8(x, sign)),
                           _mm_madd_epi16(_mm_unpackhi_epi8(codes, zero), _mm_unpackhi_epi8(x, sign)));
}
template <bool kDotBytes>
OG_INLINE Vi dot(Vbyte low, Vbyte high, const CodedChunk& x) {
  return dot_half(low, load_vector(x.even)) + dot_half(high, load_vector(x.odd));
}
#endif

/** One number a block, repeated over the block's four lanes. */
OG_INLINE Vf over_lanes(const float* blocks) {
#if OG_LANES == 16
  const __m512i each = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
  return (Vf)_mm512_permutexvar_ps(each, _mm512_castps128_ps512(_mm_loadu_ps(blocks)));
#elif OG_LANES == 8
  const __m256 first = _mm256_broadcast_ss(blocks), second = _mm256_broadcast_ss(blocks + 1);
  return (Vf)_mm256_blend_ps(first, second, 0xf0);
#else
  return set1(*blocks);
#endif
}

/** Each number kBlocks times; four of them are one store. */
template <int kBlocks>
OG_INLINE void repeat(const float* from, int64_t n, float* to) {
  typedef float Quad __attribute__((vector_size(16)));
  for (int64_t i = 0; i < n; i++) {
    if (kBlocks == 4) {
      const Quad four = {from[i], from[i], from[i], from[i]};
      std::memcpy(to + 4 * i, &four, 16);
    } else {
      for (int j = 0; j < kBlocks; j++) to[i * kBlocks + j] = from[i];
    }
  }
}

OG_INLINE void floats_of(const f16* from, int64_t n, float* to) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(to + i, load(from + i));
#if OG_LANES == 16
  if (i == n) return;
  const __m256i rest = _mm256_maskz_loadu_epi16((__mmask16)((1u << (n - i)) - 1u), from + i);
  store_partial(to + i, (Vf)_mm512_cvtph_ps(rest), n - i);
#elif OG_LANES == 8
  for (; i < n; i++) to[i] = _cvtsh_ss(from[i].bits);
#else
  for (; i < n; i++) to[i] = to_float(from[i]);
#endif
}
template <class T>
OG_INLINE void floats_of(const T* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; i++) to[i] = (float)from[i];
}

/** Numbers of a weight row's groups as floats, one for each block of 32; those of the last vector's missing blocks are
 * 0. `room` holds as many floats as there are groups. */
template <class T>
void spread_groups(const WeightMatrix& w, int64_t chunks, const T* numbers, float* room, float* to) {
  const int64_t blocks = w.group / kBlock32, held = w.groups * blocks;
  floats_of(numbers, w.groups, blocks == 1 ? to : room);
  if (blocks == 2)
    repeat<2>(room, w.groups, to);
  else if (blocks == 4)
    repeat<4>(room, w.groups, to);
  else if (blocks > 1)
    for (int64_t i = 0; i < held; i++) to[i] = room[i / blocks];
  for (int64_t i = held; i < chunks * kVectorBlocks; i++) to[i] = 0;
}

/** Weight rows [begin, end) for all m rows of coded activations. */
template <bool kDotBytes, bool kAffine>
struct DotRows {
  const WeightMatrix* w;
  int64_t m, chunks;
  const CodedChunk* x;  // [m][chunks]
  const float* bias;
  float* sums;  // [m][n]
  int* failed;  // a task found no memory

  /** Four weight rows as vectors of codes and numbers by block. */
  struct Rows {
    const uint8_t* code[kCodeStreams];
    const float *scale[kCodeStreams], *zero[kCodeStreams];
  };

  /** One step of the streams: four rows, their numbers by block, and the vectors that they end within. */
  struct Step {
    alignas(64) uint8_t ends[kCodeStreams][kVectorBytes] = {};
    Rows rows, rest;
    int64_t at[kCodeStreams];
    int count;
    float* numbers;  // [stream][scale, zero][block]
  };

  /** `count` chunks of R rows of activations. */
  template <int R>
  OG_INLINE void accumulate(const CodedChunk* from, const Rows& rows, int64_t first, int64_t count,
                            Vf (&total)[R][kCodeStreams]) const {
    for (int64_t c = 0; c < count; c++) {
#pragma GCC unroll 4
      for (int s = 0; s < kCodeStreams; s++) {
        const uint8_t* bytes = rows.code[s] + c * kVectorBytes;
        prefetch(bytes + kAhead);
        Vbyte low, high;
        halves(load_vector(bytes), low, high);
        const Vf scale = over_lanes(rows.scale[s] + (first + c) * kVectorBlocks);
        const Vf zero = kAffine ? over_lanes(rows.zero[s] + (first + c) * kVectorBlocks) : set1(8.f);
#pragma GCC unroll 4
        for (int i = 0; i < R; i++) {
          const CodedChunk& a = from[i * chunks + first + c];
          const Vf value = to_float(dot<kDotBytes>(low, high, a)) - zero * load(a.sums);
          total[i][s] = fma(value, scale * load(a.scale), total[i][s]);
        }
      }
    }
  }

  template <int R>
  OG_INLINE void multiply(int64_t i, const Step& step) const {
    Vf total[R][kCodeStreams];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int s = 0; s < kCodeStreams; s++) total[r][s] = Vf{};
    const int64_t whole = w->k / (kBlock32 * kVectorBlocks);
    accumulate<R>(x + i * chunks, step.rows, 0, whole, total);
    if (whole < chunks) accumulate<R>(x + i * chunks, step.rest, whole, 1, total);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int s = 0; s < kCodeStreams; s++) {
        if (s >= step.count) break;
        const float y = sum(total[r][s]);
        sums[(i + r) * w->n + step.at[s]] = bias ? y + bias[step.at[s]] : y;
      }
  }

  void prepare(const Streams& streams, int64_t j, float* room, Step& step) const {
    const int64_t blocks = chunks * kVectorBlocks, whole = w->k / (kBlock32 * kVectorBlocks);
    const bool direct = !w->half_scale && w->group == kBlock32 && whole == chunks;
    step.count = streams.rows(j, step.at);
    for (int s = 0; s < kCodeStreams; s++) {
      const int64_t first = step.at[s] * w->groups;
      float *scale = step.numbers + 2 * s * blocks, *zero = scale + blocks;
      const uint8_t* code = w->row(step.at[s]);
      if (!direct && w->half_scale)
        spread_groups(*w, chunks, static_cast<const f16*>(w->scale) + first, room, scale);
      else if (!direct)
        spread_groups(*w, chunks, static_cast<const float*>(w->scale) + first, room, scale);
      if (kAffine && !w->zero)
        for (int64_t i = 0; i < blocks; i++) zero[i] = w->middle;
      else if (kAffine && w->byte_zero)
        spread_groups(*w, chunks, static_cast<const uint8_t*>(w->zero) + first, room, zero);
      else if (kAffine)
        spread_groups(*w, chunks, static_cast<const int32_t*>(w->zero) + first, room, zero);
      if (whole < chunks)
        std::memcpy(step.ends[s], code + whole * kVectorBytes, (size_t)(w->k / kBlock32 % kVectorBlocks) * 16);
      step.rows.code[s] = code;
      step.rest.code[s] = step.ends[s];
      step.rows.scale[s] = step.rest.scale[s] = direct ? static_cast<const float*>(w->scale) + first : scale;
      step.rows.zero[s] = step.rest.zero[s] = zero;
    }
  }

  void operator()(int64_t begin, int64_t end) const {
    ScratchFrame scratch;
    const int64_t held = 2 * kCodeStreams * chunks * kVectorBlocks;
    Step step;
    step.numbers = scratch.take<float>(held + w->groups);
    if (!step.numbers) {
      __atomic_store_n(failed, 1, __ATOMIC_RELAXED);
      return;
    }
    const Streams streams(begin, end);
    for (int64_t j = 0; j < streams.quarter; j++) {
      prepare(streams, j, step.numbers + held, step);
      int64_t i = 0;
      for (; i + kCodeRows <= m; i += kCodeRows) multiply<kCodeRows>(i, step);
      if (kCodeRows > 2)
        for (; i + 2 <= m; i += 2) multiply<2>(i, step);
      for (; i < m; i++) multiply<1>(i, step);
    }
  }
};

/** 4-bit integers in groups of whole blocks. */
inline bool has_dots(const WeightMatrix& w) { return w.bits == 4 && !w.nf4 && w.group % kBlock32 == 0; }

}  // namespace
}  // namespace og
#endif
