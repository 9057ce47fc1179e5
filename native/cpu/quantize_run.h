/**
 * Quantisation of contiguous runs that lie in L1: ranges, codes, errors, and back. One scale for the whole run (Same)
 * or one for each element (Each), so that per-tensor, per-channel, per-token and per-group are the same loops.
 *
 * Integers: code = clamp(round(x / scale), low, high) + zero, ties to even, the quotient rounded to float as a
 * division; stochastic: ⌊x / scale⌋ + (u < fraction) for a uniform u of 24 bits, so that the mean of the code is x /
 * scale. NaN becomes `zero`. NF4: the nearest of the 16 numbers of NormalFloat (Dettmers et al. 2023, arXiv:2305.14314,
 * appendix E) to x / scale, the lower one on a tie; four steps of binary search.
 */
#ifndef OMNIGRAD_CPU_QUANTIZE_RUN_H
#define OMNIGRAD_CPU_QUANTIZE_RUN_H

#include <cmath>
#include <limits>

#include "quantize_bytes.h"
#include "stage.h"

namespace og {
namespace {

/** What turns x into codes and back; low and high are relative to zero, a whole number. */
template <class C>
struct Grid {
  C scale, low, high, zero;
};

/**
 * The grid for numbers whose largest magnitude, divided by `high`, is its scale: none needs to be clamped, unless the
 * scale lacks digits. `reference` clamps all the same.
 */
template <class C>
inline Grid<C> holding(Grid<C> grid) {
#ifndef OG_IS_REFERENCE
  constexpr C infinity = std::numeric_limits<C>::infinity();
  if (grid.scale > C(0x1p-90) && grid.scale < C(0x1p90)) grid.low = -infinity, grid.high = infinity;
#endif
  return grid;
}

/** Sums over what was quantised. */
struct Errors {
  double squares = 0, largest = 0, signal = 0;
};

/** Code i of NF4. */
alignas(64) const float kNf4[16] = {-1.f,
                                    -0.6961928009986877f,
                                    -0.5250730514526367f,
                                    -0.39491748809814453f,
                                    -0.28444138169288635f,
                                    -0.18477343022823334f,
                                    -0.09105003625154495f,
                                    0.f,
                                    0.07958029955625534f,
                                    0.16093020141124725f,
                                    0.24611230194568634f,
                                    0.33791524171829224f,
                                    0.44070982933044434f,
                                    0.5626170039176941f,
                                    0.7229568362236023f,
                                    1.f};

/** Midpoints between neighbours as a search tree: children of node n are 2n and 2n + 1; x goes right when it is above.
 */
alignas(64) const float kNf4Tree[16] = {
    0.f,
    0.03979014977812767f,    // between codes 7 and 8
    -0.33967943489551544f,   // 3, 4
    0.3893125355243683f,     // 11, 12
    -0.6106329262256622f,    // 1, 2
    -0.13791173323988914f,   // 5, 6
    0.2035212516784668f,     // 9, 10
    0.6427869200706482f,     // 13, 14
    -0.8480964004993439f,    // 0, 1
    -0.4599952697753906f,    // 2, 3
    -0.23460740596055984f,   // 4, 5
    -0.045525018125772476f,  // 6, 7
    0.1202552504837513f,     // 8, 9
    0.2920137718319893f,     // 10, 11
    0.5016634166240692f,     // 12, 13
    0.8614784181118011f,     // 14, 15
};

/** Two codes of four bits a byte: element 2j in the low half of byte j, element 2j + 1 in the high half. n is even. */
inline void pack_nibbles(const uint8_t* codes, int64_t n, uint8_t* to) {
  for (int64_t j = 0; j < n / 2; j++) {
    uint16_t pair;
    std::memcpy(&pair, codes + 2 * j, 2);
    to[j] = (uint8_t)(pair | pair >> 4);
  }
}
inline void unpack_nibbles(const uint8_t* from, int64_t n, uint8_t* codes) {
  for (int64_t j = 0; j < n / 2; j++) {
    const uint16_t pair = (uint16_t)((from[j] | from[j] << 4) & 0x0f0f);
    std::memcpy(codes + 2 * j, &pair, 2);
  }
}

/** One grid for all elements. */
template <class C>
struct Same {
  Grid<C> grid;
  Grid<C> at(int64_t) const { return grid; }
};

/** A grid for each element, as four arrays. */
template <class C>
struct Each {
  const C *scale, *low, *high, *zero;
  Grid<C> at(int64_t i) const { return {scale[i], low[i], high[i], zero[i]}; }
};

#ifdef OG_IS_REFERENCE

/** x / scale as the fast sets compute it: the double quotient of two floats, rounded to float, is the float quotient.
 */
inline float quotient(float x, float scale) { return (float)((double)x / (double)scale); }
inline double quotient(double x, double scale) { return x / scale; }

template <class C>
inline C integer_code(C x, const Grid<C>& g, const uint32_t* word) {
  C v = quotient(x, g.scale);
  if (v != v) v = 0;
  v = v < g.low ? g.low : v > g.high ? g.high : v;
  if (!word) return std::nearbyint(v);
  const C floor = std::floor(v);
  return floor + ((C)(*word >> 8) * C(5.9604644775390625e-8) < v - floor ? 1 : 0);
}

/** Sums that are kept while a block is encoded. */
struct ErrorSums {
  Errors* total;
  explicit ErrorSums(Errors* to) : total(to) {}
  explicit operator bool() const { return total != nullptr; }
  void flush() {}
};

inline void add_error(Errors* errors, double x, double y) {
  const double d = std::fabs(y - x);
  errors->squares += d * d;
  errors->signal += x * x;
  if (d > errors->largest || d != d) errors->largest = d;
}

/** codes[i] of x[i]; `words` null: nearest. */
template <class C, class G>
void integer_codes(const C* x, int64_t n, const G& grids, const uint32_t* words, uint8_t* codes, ErrorSums& errors) {
  for (int64_t i = 0; i < n; i++) {
    const Grid<C> g = grids.at(i);
    const C code = integer_code(x[i], g, words ? words + i : nullptr);
    codes[i] = (uint8_t)(int32_t)(code + g.zero);
    if (errors) add_error(errors.total, (double)x[i], (double)code * (double)g.scale);
  }
}

template <class C, class G>
void nf4_codes(const C* x, int64_t n, const G& grids, uint8_t* codes, ErrorSums& errors) {
  for (int64_t i = 0; i < n; i++) {
    const C scale = grids.at(i).scale, v = quotient(x[i], scale);
    int best = 0;
    for (int node = 1; node < 16; node = best) best = 2 * node + (v > (C)kNf4Tree[node] ? 1 : 0);
    codes[i] = (uint8_t)(best - 16);
    if (errors) add_error(errors.total, (double)x[i], (double)kNf4[best - 16] * (double)scale);
  }
}

template <class C, class G>
void from_codes(const uint8_t* codes, bool is_signed, bool nf4, int64_t n, const G& grids, C* y) {
  for (int64_t i = 0; i < n; i++) {
    const Grid<C> g = grids.at(i);
    const C code = nf4 ? (C)kNf4[codes[i] & 15] : is_signed ? (C)(int8_t)codes[i] : (C)codes[i];
    y[i] = (code - g.zero) * g.scale;
  }
}

/** y = what quantising and dequantising make of x; inside[i]: the code was not clamped. */
template <class C, class G>
void fake_codes(const C* x, int64_t n, const G& grids, C* y, uint8_t* inside) {
  for (int64_t i = 0; i < n; i++) {
    const Grid<C> g = grids.at(i);
    const C r = std::nearbyint(quotient(x[i], g.scale));
    inside[i] = r >= g.low && r <= g.high;
    y[i] = (r < g.low ? g.low : r > g.high ? g.high : r) * g.scale;
  }
}

/** Largest magnitude, or smallest and largest; NaN if there is one. Both start from what they hold. */
template <class C>
void find_magnitude(const C* x, int64_t n, C* largest) {
  for (int64_t i = 0; i < n; i++) {
    const C a = std::fabs(x[i]);
    if (!(a <= *largest)) *largest = *largest != *largest ? *largest : a;
  }
}
template <class C>
void find_range(const C* x, int64_t n, C* low, C* high) {
  for (int64_t i = 0; i < n; i++) {
    if (!(x[i] >= *low)) *low = *low != *low ? *low : x[i];
    if (!(x[i] <= *high)) *high = *high != *high ? *high : x[i];
  }
}
/** The same for each of n columns. */
template <class C>
void find_ranges(const C* x, int64_t n, C* low, C* high) {
  for (int64_t i = 0; i < n; i++) find_range(x + i, 1, low + i, high + i);
}

#else

struct GridVector {
  Vf scale, low, high, zero;
};
OG_INLINE GridVector grid_at(const Same<float>& g, int64_t, int) {
  return {set1(g.grid.scale), set1(g.grid.low), set1(g.grid.high), set1(g.grid.zero)};
}
OG_INLINE GridVector grid_at(const Each<float>& g, int64_t i, int n) {
  if (n == kLanes) return {load(g.scale + i), load(g.low + i), load(g.high + i), load(g.zero + i)};
  return {load_partial(g.scale + i, n, 1.f), load_partial(g.low + i, n), load_partial(g.high + i, n),
          load_partial(g.zero + i, n)};
}

OG_INLINE Vf within(Vf v, Vf low, Vf high) { return min_second(high, max_second(low, v)); }

OG_INLINE Vi larger(Vi a, Vi b) { return a > b ? a : b; }

OG_INLINE int32_t largest_lane(Vi v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_epi32((__m512i)v);
#elif defined(__AVX2__)
  __m128i m = _mm_max_epi32(_mm256_castsi256_si128((__m256i)v), _mm256_extracti128_si256((__m256i)v, 1));
  m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
  m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
  return _mm_cvtsi128_si32(m);
#else
  int32_t top = v[0];
  for (int i = 1; i < kLanes; i++) top = v[i] > top ? v[i] : top;
  return top;
#endif
}

/** Sums that are kept in vectors while a block is encoded. */
struct ErrorSums {
  Vf squares{}, signal{};
  Vi largest{};  // bits of a magnitude: NaN is above all
  Errors* total;
  explicit ErrorSums(Errors* to) : total(to) {}
  explicit operator bool() const { return total != nullptr; }

  OG_INLINE void add(Vf x, Vf y, int n) {
    Vf d = y - x;
    if (n < kLanes) {
      const Vi mask = first_lanes(n);
      d = select(mask, d, Vf{});
      x = select(mask, x, Vf{});
    }
    squares = fma(d, d, squares);
    signal = fma(x, x, signal);
    largest = larger(bits(abs(d)), largest);
  }
  void flush() {
    if (!total) return;
    total->squares += (double)sum(squares);
    total->signal += (double)sum(signal);
    const double top = (double)bits_float((uint32_t)largest_lane(largest));
    if (!(top <= total->largest)) total->largest = top;
    squares = signal = Vf{};
    largest = Vi{};
  }
};

template <bool kRandom, bool kErrors, class G>
OG_INLINE void integer_loop(const float* x, int64_t n, const G& grids, const uint32_t* words, uint8_t* codes,
                            ErrorSums& errors) {
  const auto step = [&](int64_t i, int left) __attribute__((always_inline)) {
    const GridVector g = grid_at(grids, i, left);
    const Vf value = load_n(x + i, left), ratio = value / g.scale;
    const Vf v = within(select(ratio == ratio, ratio, Vf{}), g.low, g.high);
    Vf code;
    if (kRandom) {
      const Vf whole = to_float(to_int(v));
      const Vf floor = whole - select(whole > v, set1(1.f), Vf{});
      Vi word{};
      std::memcpy(&word, words + i, (size_t)left * 4);
      const Vf u = to_float((Vi)((Vu)word >> 8)) * 5.9604644775390625e-8f;
      code = floor + select(u < v - floor, set1(1.f), Vf{});
    } else {
      code = round_even(v);
    }
    store_bytes(codes + i, to_int(code + g.zero), left);
    if (kErrors) errors.add(value, code * g.scale, left);
  };
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) step(i, kLanes);
  if (i < n) step(i, (int)(n - i));
}

/**
 * x / divisor for what is rounded to a whole number of at most 8 bits next, without dividing: x·(high + low), once
 * rounded, where high + low is 1 / divisor to 2^-48. Only beside the middle between two whole numbers could these be
 * others than a division's: they are not, by trial of all 2^23 mantissas of a divisor with the five floats nearest to
 * each middle up to 255.5 times it; powers of two change nothing.
 */
struct Divisor {
  Vf high, low;

  /** Whether the inverse and the products are far from where powers of two do change something. */
  static bool serves(float divisor) { return divisor > 0x1p-90f && divisor < 0x1p90f; }
  explicit Divisor(float divisor) {
    const double inverse = 1. / (double)divisor;
    high = set1((float)inverse);
    low = set1((float)(inverse - (double)(float)inverse));
  }
  /** The parts of another Divisor's inverse. */
  Divisor(float high, float low) : high(set1(high)), low(set1(low)) {}
  OG_INLINE Vf operator()(Vf x) const { return fma(x, high, x * low); }
};

/** Whether the instruction set has what a Divisor rests on. */
#if defined(__FMA__) || defined(__aarch64__)
constexpr bool kFuses = true;
#else
constexpr bool kFuses = false;
#endif

/** What integer_loop does on one grid, four vectors at a time; x is held within the grid before it is divided. */
template <bool kHeld>
inline int64_t nearest_loop(const float* x, int64_t n, const Grid<float>& grid, uint8_t* codes) {
  const Vf low = set1(grid.low * grid.scale), high = set1(grid.high * grid.scale);
  const Divisor scale(grid.scale);
  const uint8_t zero = (uint8_t)(int32_t)grid.zero;
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    Vi code[4];
    for (int k = 0; k < 4; k++) {
      const Vf v = load(x + i + k * kLanes);
      code[k] = round_to_int(scale(kHeld ? v : within(v, low, high)));
    }
    store_bytes(codes + i, code, zero);
  }
  return i;
}

/** The nearest codes of as many of n numbers, from the first on, as this is for. */
inline int64_t nearest_codes(const float* x, int64_t n, const Same<float>& g, uint8_t* codes) {
  if (!kFuses || n < 4 * kLanes || !Divisor::serves(g.grid.scale)) return 0;
  const bool held = g.grid.high == std::numeric_limits<float>::infinity();
  return held ? nearest_loop<true>(x, n, g.grid, codes) : nearest_loop<false>(x, n, g.grid, codes);
}
inline int64_t nearest_codes(const float*, int64_t, const Each<float>&, uint8_t*) { return 0; }

/** codes[i] of x[i]; `words` null: nearest. */
template <class C, class G>
void integer_codes(const C* x, int64_t n, const G& grids, const uint32_t* words, uint8_t* codes, ErrorSums& errors) {
  if (!words && !errors) {
    const int64_t done = nearest_codes(x, n, grids, codes);
    x += done, codes += done, n -= done;
  }
  if (words && errors)
    integer_loop<true, true>(x, n, grids, words, codes, errors);
  else if (words)
    integer_loop<true, false>(x, n, grids, words, codes, errors);
  else if (errors)
    integer_loop<false, true>(x, n, grids, words, codes, errors);
  else
    integer_loop<false, false>(x, n, grids, words, codes, errors);
}

/** Numbers of NF4 by code. */
OG_INLINE Vf nf4_value(Vi code) {
#if defined(__AVX512F__)
  return (Vf)_mm512_permutexvar_ps((__m512i)code, _mm512_load_ps(kNf4));
#elif defined(__AVX2__)
  const __m256 low = _mm256_permutevar8x32_ps(_mm256_load_ps(kNf4), (__m256i)code);
  const __m256 high = _mm256_permutevar8x32_ps(_mm256_load_ps(kNf4 + 8), (__m256i)code);
  return (Vf)_mm256_blendv_ps(low, high, (__m256)(code << 28));
#else
  Vf v;
  for (int i = 0; i < kLanes; i++) v[i] = kNf4[code[i] & 15];
  return v;
#endif
}

OG_INLINE Vi nf4_code(Vf v) {
#if defined(__AVX512F__)
  const Vf tree = (Vf)_mm512_load_ps(kNf4Tree);
  Vi node = set1(1);
#pragma GCC unroll 4
  for (int level = 0; level < 4; level++)
    node = node + node - (v > (Vf)_mm512_permutexvar_ps((__m512i)node, (__m512)tree));
  return node - 16;
#elif defined(__AVX2__)
  const __m256 top = _mm256_load_ps(kNf4Tree), bottom = _mm256_load_ps(kNf4Tree + 8);
  Vi node = set1(1);
#pragma GCC unroll 3
  for (int level = 0; level < 3; level++) node = node + node - (v > (Vf)_mm256_permutevar8x32_ps(top, (__m256i)node));
  node = node + node - (v > (Vf)_mm256_permutevar8x32_ps(bottom, (__m256i)node));
  return node - 16;
#else
  Vi code;
  for (int i = 0; i < kLanes; i++) {
    int node = 1;
    for (int level = 0; level < 4; level++) node = 2 * node + (v[i] > kNf4Tree[node] ? 1 : 0);
    code[i] = node - 16;
  }
  return code;
#endif
}

template <class C, class G>
void nf4_codes(const C* x, int64_t n, const G& grids, uint8_t* codes, ErrorSums& errors) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const int left = n - i < kLanes ? (int)(n - i) : kLanes;
    const GridVector g = grid_at(grids, i, left);
    const Vf value = load_n(x + i, left);
    const Vi code = nf4_code(value / g.scale);
    store_bytes(codes + i, code, left);
    if (errors) errors.add(value, nf4_value(code) * g.scale, left);
  }
}

template <class C, class G>
void from_codes(const uint8_t* codes, bool is_signed, bool nf4, int64_t n, const G& grids, C* y) {
  const auto loop = [&](auto value_of) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      const GridVector g = grid_at(grids, i, kLanes);
      store(y + i, (value_of(i, kLanes) - g.zero) * g.scale);
    }
    if (i == n) return;
    const int left = (int)(n - i);
    const GridVector g = grid_at(grids, i, left);
    store_partial(y + i, (value_of(i, left) - g.zero) * g.scale, left);
  };
  if (nf4)
    loop([&](int64_t i, int left) { return nf4_value(load_bytes(codes + i, false, left)); });
  else if (is_signed)
    loop([&](int64_t i, int left) { return to_float(load_bytes(codes + i, true, left)); });
  else
    loop([&](int64_t i, int left) { return to_float(load_bytes(codes + i, false, left)); });
}

template <class C, class G>
void fake_codes(const C* x, int64_t n, const G& grids, C* y, uint8_t* inside) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const int left = n - i < kLanes ? (int)(n - i) : kLanes;
    const GridVector g = grid_at(grids, i, left);
    const Vf r = round_even(load_n(x + i, left) / g.scale);
    store_bytes(inside + i, ((r >= g.low) & (r <= g.high)) & 1, left);
    store_n(y + i, within(r, g.low, g.high) * g.scale, left);
  }
}

/** Largest magnitude, or smallest and largest; NaN if there is one. Both start from what they hold. Magnitudes are
 * compared as the integers of their bits, where NaN is above infinity. */
template <class C>
void find_magnitude(const C* x, int64_t n, C* largest) {
  Vi a{}, b{};
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    a = larger(a, bits(abs(load(x + i))));
    b = larger(b, bits(abs(load(x + i + kLanes))));
  }
  for (; i < n; i += kLanes) a = larger(a, bits(abs(load_n(x + i, n - i < kLanes ? (int)(n - i) : kLanes))));
  const int32_t found = largest_lane(larger(a, b)), before = (int32_t)float_bits(*largest);
  if (found > before) *largest = bits_float((uint32_t)found);
}

OG_INLINE bool any_lane(Vi mask) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask((__m512i)mask) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_ps((__m256)mask) != 0;
#else
  return (mask[0] | mask[1] | mask[2] | mask[3]) != 0;
#endif
}

/** Largest lane of a vector without NaN. */
OG_INLINE float largest_float(Vf v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)v);
#elif defined(__AVX2__)
  __m128 m = _mm_max_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
#else
  return max_lane(v);
#endif
}

/** The maxima drop NaN, which is looked for beside them. */
template <class C>
void find_range(const C* x, int64_t n, C* low, C* high) {
  if (n == 0) return;
  Vf least[2] = {set1(*low), set1(*low)}, most[2] = {set1(*high), set1(*high)};
  Vi nan[2] = {least[0] != least[0], most[0] != most[0]};
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes)
    for (int k = 0; k < 2; k++) {
      const Vf v = load(x + i + k * kLanes);
      least[k] = min_second(v, least[k]);
      most[k] = max_second(v, most[k]);
      nan[k] |= v != v;
    }
  for (; i < n; i += kLanes) {
    const Vf v = n - i < kLanes ? load_partial(x + i, n - i, x[i]) : load(x + i);
    least[0] = min_second(v, least[0]);
    most[0] = max_second(v, most[0]);
    nan[0] |= v != v;
  }
  if (any_lane(nan[0] | nan[1])) {
    *low = *high = std::numeric_limits<float>::quiet_NaN();
    return;
  }
  *low = -largest_float(-min_second(least[0], least[1]));
  *high = largest_float(max_second(most[0], most[1]));
}

/** The same for each of n columns. */
template <class C>
void find_ranges(const C* x, int64_t n, C* low, C* high) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const int left = n - i < kLanes ? (int)(n - i) : kLanes;
    const Vf v = load_n(x + i, left);
    store_n(low + i, min_nan(v, load_n(low + i, left)), left);
    store_n(high + i, max_nan(v, load_n(high + i, left)), left);
  }
}

#endif

/** n floats as the int8 codes nearest to x / scale, scale = max|x| / 127 or 1 for zeros: the scale. */
inline float code_row(const float* x, int64_t n, int8_t* codes) {
  float largest = 0;
  find_magnitude(x, n, &largest);
  float scale = largest / 127.f;
  if (scale == 0) scale = 1;
  ErrorSums none(nullptr);
  integer_codes(x, n, Same<float>{holding<float>({scale, -127.f, 127.f, 0.f})}, nullptr,
                reinterpret_cast<uint8_t*>(codes), none);
  return scale;
}

}  // namespace
}  // namespace og
#endif
