/**
 * The 8-bit dynamic map of block-wise optimiser states (Dettmers et al. 2022, arXiv:2110.02861): seven decades down
 * from the block's largest magnitude; decade i has 2^i (unsigned: 2^(i+1)) equal cells from 10^(i-7) to 10^(i-6), whose
 * middles are the numbers; besides, 0 and 1. Codes are in ascending order, as in bitsandbytes' create_dynamic_map.
 *
 * Both ways are arithmetic instead of a table of 256: m counts the positive numbers from zero up (unsigned: plus 1), so
 * that its exponent is the decade and its fraction the place in it. The nearest number is the cell that x lies in, and
 * decades meet in the middle of their neighbouring numbers. Plain float operations in one order: the same bits on every
 * set; a number is within 2^-23 of the map's.
 */
#ifndef OMNIGRAD_CPU_DYNAMIC8_H
#define OMNIGRAD_CPU_DYNAMIC8_H

#include "quantize_run.h"

namespace og {
namespace {

/** By decade e = 1 … 7 (0: the number 0); `one` is the code of 1. */
struct alignas(64) DynamicMap {
  float slope[8], offset[8];         // number = fraction · slope + offset
  float rate[8], start[8], last[8];  // m = base + clamp(⌊x · rate − start⌋, 0, last)
  float base[8];                     // an int32 by its bits
  float limits[8];                   // x above limits[e] lies in decade e + 1 or higher
  float tree[8];                     // the first seven as a search tree: children of node n are 2n and 2n + 1
  bool is_signed;
  float one;  // m of the number 1
};

inline DynamicMap dynamic_map(bool is_signed) {
  DynamicMap map{};
  map.is_signed = is_signed;
  double below = 0;
  const double decades[8] = {0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1};
  for (int e = 1; e < 8; e++) {
    const double top = decades[e], count = std::ldexp(1., is_signed ? e - 1 : e);
    const double first = top * (0.1 + 0.45 / count), final = top * (1 - 0.45 / count);
    map.slope[e] = (float)(0.9 * top);
    map.offset[e] = (float)first;
    map.rate[e] = (float)(count / (0.9 * top));
    map.start[e] = (float)(count / 9);
    map.base[e] = bits_float((uint32_t)count);
    map.last[e] = (float)(count - 1);
    map.limits[e - 1] = (float)((below + first) / 2);
    below = final;
  }
  map.base[0] = bits_float(is_signed ? 0u : 1u);
  map.limits[7] = (float)((below + 1) / 2);
  const int order[8] = {0, 3, 1, 5, 0, 2, 4, 6};
  for (int i = 1; i < 8; i++) map.tree[i] = map.limits[order[i]];
  map.one = is_signed ? 128 : 256;
  return map;
}

/** 1 / largest as two factors, of which neither overflows. */
struct Inverse {
  float first = 1, second = 1;
  explicit Inverse(float largest) {
    if (largest == 0) return;
    if (largest < 1e-30f) first = 1.2676506002282294e30f;  // 2^100
    second = 1.f / (largest * first);
  }
};

#ifdef OG_IS_REFERENCE

/** The code of the number nearest to x, |x| ≤ 1. */
inline uint8_t dynamic_code(const DynamicMap& map, float x) {
  const float a = map.is_signed ? std::fabs(x) : x;
  int e = 0;
  for (int i = 0; i < 7; i++) e += a > map.limits[i] ? 1 : 0;
  float cell = a * map.rate[e] - map.start[e];
  cell = cell > 0 ? cell : 0;
  int32_t m = (int32_t)float_bits(map.base[e]) + (int32_t)(cell < map.last[e] ? cell : map.last[e]);
  if (a > map.limits[7] && (!map.is_signed || x > 0)) m++;
  return (uint8_t)(!map.is_signed ? m - 1 : x < 0 ? 127 - m : 127 + m);
}

inline float dynamic_number(const DynamicMap& map, uint8_t code) {
  const int32_t m = map.is_signed ? (code < 127 ? 127 - code : code - 127) : code + 1;
  if ((float)m == map.one) return 1;
  const float wide = (float)m;
  const uint32_t bits = float_bits(wide);
  if (m == 0) return 0;
  const int e = (int)(bits >> 23) - (map.is_signed ? 126 : 127);
  const float fraction = bits_float((bits & 0x7fffffu) | 0x3f800000u) - 1.f;
  const float number = fraction * map.slope[e] + map.offset[e];
  return map.is_signed && code < 127 ? -number : number;
}

template <class C>
void dynamic_encode(const DynamicMap& map, const C* x, int64_t n, float largest, uint8_t* codes) {
  const Inverse inverse(largest);
  for (int64_t i = 0; i < n; i++) codes[i] = dynamic_code(map, (float)x[i] * inverse.first * inverse.second);
}
template <class C>
void dynamic_decode(const DynamicMap& map, const uint8_t* codes, int64_t n, float largest, C* x) {
  for (int64_t i = 0; i < n; i++) x[i] = (C)(dynamic_number(map, codes[i]) * largest);
}

#else

/** table[index] for index 0 … 7. */
OG_INLINE Vf look_up(const float* table, Vi index) {
#if defined(__AVX512F__)
  return (Vf)_mm512_permutexvar_ps((__m512i)index, _mm512_castps256_ps512(_mm256_load_ps(table)));
#elif defined(__AVX2__)
  return (Vf)_mm256_permutevar8x32_ps(_mm256_load_ps(table), (__m256i)index);
#else
  Vf v;
  for (int i = 0; i < kLanes; i++) v[i] = table[index[i]];
  return v;
#endif
}

OG_INLINE Vi dynamic_code(const DynamicMap& map, Vf x) {
  const Vf a = map.is_signed ? abs(x) : x;
  Vi e = set1(1);
#pragma GCC unroll 3
  for (int i = 0; i < 3; i++) e = e + e - (a > look_up(map.tree, e));
  e -= 8;
  // at most a fifth of a cell below the decade, which truncates to its first
  const Vf cell = a * look_up(map.rate, e) - look_up(map.start, e);
  const Vi m = bits(look_up(map.base, e)) + to_int(min_second(cell, look_up(map.last, e)));
  const Vi top = a > map.limits[7];
  if (!map.is_signed) return m - 1 - top;  // 1 is the next code
  const Vi negative = x < 0.f;
  return ((m - (top & ~negative)) ^ negative) - negative + 127;
}

OG_INLINE Vf dynamic_number(const DynamicMap& map, Vi code) {
  const Vi signed_m = map.is_signed ? code - 127 : code + 1;
  const Vi m = signed_m < 0 ? -signed_m : signed_m;
  const Vf wide = to_float(m);
  const Vi e = (Vi)((Vu)bits(wide) >> 23) - (map.is_signed ? 126 : 127);
  const Vf fraction = as_float((bits(wide) & 0x7fffff) | 0x3f800000) - 1.f;
  const Vf number = fraction * look_up(map.slope, e & 7) + look_up(map.offset, e & 7);
  const Vf known = select(wide == map.one, set1(1.f), select(m == 0, Vf{}, number));
  return map.is_signed ? select(signed_m < 0, -known, known) : known;
}

template <class C>
void dynamic_encode(const DynamicMap& map, const C* x, int64_t n, float largest, uint8_t* codes) {
  const Inverse inverse(largest);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    store_bytes(codes + i, dynamic_code(map, load(x + i) * inverse.first * inverse.second));
  if (i < n) {
    const int left = (int)(n - i);
    store_bytes(codes + i, dynamic_code(map, load_partial(x + i, left) * inverse.first * inverse.second), left);
  }
}
template <class C>
void dynamic_decode(const DynamicMap& map, const uint8_t* codes, int64_t n, float largest, C* x) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(x + i, dynamic_number(map, load_bytes(codes + i, false)) * largest);
  if (i < n) {
    const int left = (int)(n - i);
    store_partial(x + i, dynamic_number(map, load_bytes(codes + i, false, left)) * largest, left);
  }
}

#endif

}  // namespace
}  // namespace og
#endif
