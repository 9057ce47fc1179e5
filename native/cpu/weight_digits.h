/**
 * One to four rows of x against quantised weights by integer dot products (AVX-512 VNNI), without rounding x to bytes:
 * each block of 32 elements of x becomes integers of 24 bits, in units of a power of two, and these are three signed
 * bytes each, x = unit · (65536·high + 256·middle + low). Three vpdpbusd of a vector of codes do what sixteen look-ups
 * and FMAs did (weight_rows.h); sums of a block are exact, and meet the scales once.
 *
 * The error is that of x: half a unit, at most 2^-23 of the block's largest magnitude. Blocks that such units do not
 * reach (largest magnitude above 0 and below 2^-96, infinite, NaN) are left to weight_rows.h.
 *
 * A chunk is 64 bytes of codes of a row: 128 elements of 4 bits, whose even ones are the low halves, or 64 of 8 bits.
 * Weights are read once, in four streams n/4 rows apart, as there.
 */
#ifndef OMNIGRAD_CPU_WEIGHT_DIGITS_H
#define OMNIGRAD_CPU_WEIGHT_DIGITS_H

#include "gemm_int8_kinds.h"
#include "weight_rows.h"

namespace og {
namespace {

enum DigitsOutcome { kDigitsDone, kDigitsUnfit, kDigitsNoMemory };

#if OG_LANES == 16

constexpr int64_t kDigitRows = 4;
/** Bytes of codes fetched ahead, into L2, in each stream. */
constexpr int64_t kDigitsAhead = 4096;

/** x of a chunk, a number a lane of four bytes of codes. */
struct DigitChunk {
  Vi digits[6];  // high, middle, low; for 4 bits the even elements and the odd ones of each
  /**
   * Without zero points, what the middle of the codes takes from the sums: 4 bits: of all digits; 8 bits: of each. With
   * them, -Σx in units, as floats.
   */
  Vi shares[3];
  Vf unit;
};

/** Powers of two that bring a block's largest magnitude just below 2^23, and back. False where there is none. */
inline bool unit_of(float largest, float* to, float* unit) {
  uint32_t image;
  std::memcpy(&image, &largest, 4);
  const uint32_t exponent = image >> 23;
  if (image == 0) return *to = 0, *unit = 0, true;
  if (exponent < 31 || exponent >= 255) return false;
  uint32_t up = 276 - exponent;
  const float scaled = largest * bits_float(up << 23);
  if (scaled > 8355711.f) up--;  // 127·65536 + 127·256 + 127
  *to = bits_float(up << 23);
  *unit = bits_float((254 - up) << 23);
  return true;
}

/** Eight bytes, every eighth of a vector, from the one at `at`. */
template <int at>
OG_INLINE void store_every_eighth(Vi x, uint8_t* to) {
  _mm_storel_epi64((__m128i*)to, _mm512_cvtepi64_epi8(_mm512_srli_epi64((__m512i)x, 8 * at)));
}

/** Σ of the four bytes in each lane. */
OG_VNNI_TARGET static inline Vi byte_sums(Vi x) {
  return (Vi)_mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), (__m512i)x);
}

/** A row of x as chunks. False where a block has no unit. */
template <int kBits>
OG_VNNI_TARGET bool make_digits(const float* x, int64_t k, bool affine, DigitChunk* to) {
  constexpr int64_t kElements = 512 / kBits, kBlocks = kElements / 32;
  for (int64_t first = 0; first < k; first += kElements, to++) {
    std::memset((void*)to, 0, sizeof *to);
    alignas(64) float units[16] = {};
    uint8_t* bytes = reinterpret_cast<uint8_t*>(to->digits);
    for (int64_t block = 0; block < kBlocks && first + 32 * block < k; block++) {
      const float* from = x + first + 32 * block;
      const Vf a = load(from), b = load(from + 16);
      float largest = 0, scale, unit;
      find_magnitude(from, 32, &largest);
      if (!unit_of(largest, &scale, &unit)) return false;
      for (int i = 0; i < 16 / kBlocks; i++) units[block * (16 / kBlocks) + i] = unit;
      // a byte of the sum is a digit plus 128
      const Vi low = (Vi)_mm512_cvtps_epi32((__m512)(a * scale)) + 0x00808080,
               high = (Vi)_mm512_cvtps_epi32((__m512)(b * scale)) + 0x00808080;
      const Vi y = low ^ 0x00808080, z = high ^ 0x00808080;
      if (kBits == 4) {
        uint8_t* at = bytes + 16 * block;
        store_every_eighth<2>(y, at), store_every_eighth<2>(z, at + 8);
        store_every_eighth<6>(y, at + 64), store_every_eighth<6>(z, at + 72);
        store_every_eighth<1>(y, at + 128), store_every_eighth<1>(z, at + 136);
        store_every_eighth<5>(y, at + 192), store_every_eighth<5>(z, at + 200);
        store_every_eighth<0>(y, at + 256), store_every_eighth<0>(z, at + 264);
        store_every_eighth<4>(y, at + 320), store_every_eighth<4>(z, at + 328);
      } else {
        for (int digit = 0; digit < 3; digit++) {
          const int shift = 16 - 8 * digit;
          uint8_t* at = bytes + 64 * digit + 32 * block;
          _mm_storeu_si128((__m128i*)at, _mm512_cvtepi32_epi8(_mm512_srli_epi32((__m512i)y, shift)));
          _mm_storeu_si128((__m128i*)(at + 16), _mm512_cvtepi32_epi8(_mm512_srli_epi32((__m512i)z, shift)));
        }
      }
    }
    to->unit = load(units);
    Vi sums[3];
    for (int digit = 0; digit < 3; digit++)
      sums[digit] = kBits == 4 ? byte_sums(to->digits[2 * digit]) + byte_sums(to->digits[2 * digit + 1])
                               : byte_sums(to->digits[digit]);
    const Vi all = sums[0] * 65536 + sums[1] * 256 + sums[2];
    if (affine)
      to->shares[0] = (Vi)(-to_float(all));
    else if (kBits == 4)
      to->shares[0] = all * -8;
    else
      for (int digit = 0; digit < 3; digit++) to->shares[digit] = sums[digit] * -128;
  }
  return true;
}

/** The sums of four vectors' lanes. */
OG_INLINE void sum_of_four(const Vf (&v)[4], float* to) {
  __m128 q[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    const __m512 x = (__m512)v[i];
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    q[i] = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  }
  const __m128 a = _mm_add_ps(_mm_unpacklo_ps(q[0], q[1]), _mm_unpackhi_ps(q[0], q[1]));  // 0 1 0 1
  const __m128 b = _mm_add_ps(_mm_unpacklo_ps(q[2], q[3]), _mm_unpackhi_ps(q[2], q[3]));  // 2 3 2 3
  _mm_storeu_ps(to, _mm_add_ps(_mm_movelh_ps(a, b), _mm_movehl_ps(b, a)));
}

/** How scales lie: one for several chunks, or a float32 or float16 a block. */
enum DigitScales { kHeldScale, kBlockScale, kBlockHalf };

/** Weight rows [begin, end) for all m rows of x. sums: [m][n]. */
template <int kBits, bool kAffine, DigitScales kScales>
struct DigitDots {
  static constexpr int S = kCodeStreams;
  static constexpr int64_t kElements = 512 / kBits;
  static constexpr int kBlocks = (int)kElements / 32;
  static constexpr int64_t kScaleBytes = kScales == kBlockHalf ? 2 : 4;

  const WeightMatrix* w;
  int64_t m;
  const DigitChunk* x;  // [m][chunks]
  const float* bias;
  float* sums;
  int* failed;

  int64_t chunks() const { return ceil_div(w->k, kElements); }
  int64_t blocks() const { return w->k / 32; }

  /** Where the numbers of four weight rows lie. */
  struct Rows {
    const uint8_t* code[S];
    const char* scale[S];  // of blocks
    const float* zero[S];  // of blocks, where weights are affine
    int64_t first[S];      // index of the first group
  };

  /** Four numbers of blocks (two for 8 bits) as one a lane. */
  static OG_INLINE Vf spread(__m128 numbers) {
    const __m512i lane = kBits == 4 ? _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0)
                                    : _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
    return (Vf)_mm512_permutexvar_ps(lane, _mm512_castps128_ps512(numbers));
  }
  template <bool kTail>
  static OG_INLINE Vf floats_at(const float* from, __mmask8 mask) {
    return spread(kTail ? _mm_maskz_loadu_ps(mask, from) : _mm_loadu_ps(from));
  }
  template <bool kTail>
  static OG_INLINE Vf scales_at(const char* from, int64_t block, __mmask8 mask) {
    if (kScales == kBlockScale) return floats_at<kTail>(reinterpret_cast<const float*>(from) + block, mask);
    const uint16_t* halves = reinterpret_cast<const uint16_t*>(from) + block;
    return spread(_mm_cvtph_ps(kTail ? _mm_maskz_loadu_epi16(mask, halves) : _mm_loadl_epi64((const __m128i*)halves)));
  }

  /** Σ of a chunk of x times a chunk of codes, in floats. */
  static OG_VNNI_TARGET OG_INLINE Vf product(const DigitChunk& c, Vi even, Vi odd, Vf zeros) {
    Vf value;
    if (kBits == 4) {
      Vi total = Vnni::dot(Vnni::dot(Vi{}, even, c.digits[0]), odd, c.digits[1]);
      total = Vnni::dot(Vnni::dot(total << 8, even, c.digits[2]), odd, c.digits[3]);
      total = Vnni::dot(Vnni::dot(total << 8, even, c.digits[4]), odd, c.digits[5]);
      value = to_float(kAffine ? total : add_words(total, c.shares[0]));
    } else {
      const Vi high = Vnni::dot(kAffine ? Vi{} : c.shares[0], even, c.digits[0]);
      const Vi middle = Vnni::dot(kAffine ? Vi{} : c.shares[1], even, c.digits[1]);
      const Vi low = Vnni::dot(kAffine ? Vi{} : c.shares[2], even, c.digits[2]);
      value = fma(to_float(high), set1(65536.f), to_float((middle << 8) + low));
    }
    return kAffine ? fma(zeros, (Vf)c.shares[0], value) : value;
  }

  /** sum[s][r] += chunk `at` of x times that of the codes. */
  template <int R, bool kTail>
  static OG_VNNI_TARGET OG_INLINE void step(const DigitChunk* x, int64_t stride, const Rows& rows, int64_t at,
                                            __mmask64 bytes, __mmask8 mask, Vf (&sum)[R][S]) {
#pragma GCC unroll 4
    for (int s = 0; s < S; s++) {
      const uint8_t* code = rows.code[s] + 64 * at;
      __builtin_prefetch(code + kDigitsAhead, 0, 2);
      if (kScales != kHeldScale)
        __builtin_prefetch(rows.scale[s] + at * kBlocks * kScaleBytes + kDigitsAhead / 4, 0, 2);
      const Vi v = kTail ? (Vi)_mm512_maskz_loadu_epi8(bytes, code) : load_words(code);
      const Vf scales = kScales == kHeldScale ? Vf{} : scales_at<kTail>(rows.scale[s], at * kBlocks, mask);
      const Vf zeros = kAffine ? floats_at<kTail>(rows.zero[s] + at * kBlocks, mask) : Vf{};
      const Vi even = kBits == 4 ? v & 0x0f0f0f0f : kAffine ? v : v ^ (int32_t)0x80808080;
      const Vi odd = kBits == 4 ? (Vi)((Vu)v >> 4) & 0x0f0f0f0f : Vi{};
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) {
        const DigitChunk& c = x[r * stride + at];
        sum[r][s] = fma(product(c, even, odd, zeros), kScales == kHeldScale ? c.unit : c.unit * scales, sum[r][s]);
      }
    }
  }

  template <int R>
  OG_VNNI_TARGET __attribute__((noinline)) void rows(int64_t row, const int64_t* at, int count,
                                                     const Rows& from) const {
    const int64_t stride = chunks(), whole = w->k / kElements, left = w->k % kElements;
    const DigitChunk* c = x + row * stride;
    const __mmask64 bytes = ((__mmask64)1 << (left * kBits / 8)) - 1;
    const __mmask8 mask = (__mmask8)((1 << (left / 32)) - 1);
    Vf total[R][S] = {};
    if (kScales == kHeldScale) {
      const int64_t length = w->groups == 1 ? whole : w->group / kElements;
      for (int64_t group = 0; group < w->groups; group++) {
        Vf sum[R][S] = {};
        for (int64_t i = group * length; i < (group + 1) * length; i++) step<R, false>(c, stride, from, i, 0, 0, sum);
        if (left) step<R, true>(c, stride, from, whole, bytes, mask, sum);
#pragma GCC unroll 4
        for (int s = 0; s < S; s++) {
          const Vf scale = set1(w->scale_at(from.first[s] + group));
#pragma GCC unroll 4
          for (int r = 0; r < R; r++) total[r][s] = fma(sum[r][s], scale, total[r][s]);
        }
      }
    } else {
      for (int64_t i = 0; i < whole; i++) step<R, false>(c, stride, from, i, 0, 0, total);
      if (left) step<R, true>(c, stride, from, whole, bytes, mask, total);
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
      float y[S];
      sum_of_four(total[r], y);
      for (int s = 0; s < count; s++) sums[(row + r) * w->n + at[s]] = y[s] + (bias ? bias[at[s]] : 0.f);
    }
  }

  /** A number for each block of a row, of one for each group. */
  template <class Number>
  void spread_groups(const Number& number, int64_t first, float* to) const {
    const int64_t times = w->group / 32;
    for (int64_t g = 0; g < w->groups; g++) {
      const float value = number(first + g);
      for (int64_t i = 0; i < times; i++) *to++ = value;
    }
  }

  void operator()(int64_t begin, int64_t end) const {
    ScratchFrame scratch;
    const bool spreads = kScales == kBlockScale && (w->group != 32 || w->half_scale);
    const int64_t room = blocks() + 16;
    float* numbers = kAffine || spreads ? scratch.take<float>(2 * S * room) : nullptr;
    if ((kAffine || spreads) && !numbers) return __atomic_store_n(failed, 1, __ATOMIC_RELAXED);
    const Streams streams(begin, end);
    for (int64_t j = 0; j < streams.quarter; j++) {
      int64_t at[S];
      const int count = streams.rows(j, at);
      Rows from;
      for (int s = 0; s < S; s++) {
        const int64_t first = at[s] * w->groups;
        from.code[s] = w->row(at[s]);
        from.first[s] = first;
        from.scale[s] = static_cast<const char*>(w->scale) + first * (w->half_scale ? 2 : 4);
        from.zero[s] = numbers + s * room;
        if (spreads) {
          float* scales = numbers + (S + s) * room;
          spread_groups([&](int64_t i) { return w->scale_at(i); }, first, scales);
          from.scale[s] = reinterpret_cast<const char*>(scales);
        }
        if (kAffine) spread_groups([&](int64_t i) { return w->zero_at(i); }, first, numbers + s * room);
      }
      int64_t i = 0;
      if (m == 4) rows<4>(0, at, count, from), i = 4;
      for (; i + 2 <= m; i += 2) rows<2>(i, at, count, from);
      if (i < m) rows<1>(i, at, count, from);
    }
  }
};

/**
 * sums[m][n] = x · Wᵀ + bias, x: [m][k]. `run` calls what it is given for ranges of weight rows. Unfit: some block of x
 * has no unit.
 */
template <class Run>
DigitsOutcome multiply_digits(const WeightMatrix& w, int64_t m, const float* x, const float* bias, float* sums,
                              const Run& run_rows) {
  ScratchFrame scratch;
  const int64_t chunks = ceil_div(w.k * w.bits, 512);
  DigitChunk* digits = reinterpret_cast<DigitChunk*>(scratch.take<char>(m * chunks * (int64_t)sizeof(DigitChunk)));
  if (!digits) return kDigitsNoMemory;
  const bool affine = w.zero || (w.bits == 8 && !w.is_signed);
  for (int64_t i = 0; i < m; i++)
    if (!(w.bits == 4 ? make_digits<4> : make_digits<8>)(x + i * w.k, w.k, affine, digits + i * chunks))
      return kDigitsUnfit;
  int failed = 0;
  const auto run = [&](auto dots) {
    dots = {&w, m, digits, bias, sums, &failed};
    run_rows(dots);
  };
  const int64_t elements = 512 / w.bits;
  const auto of_scales = [&](auto bits, auto zeros) {
    constexpr int kBits = decltype(bits)::value;
    constexpr bool kAffine = decltype(zeros)::value;
    if (w.groups == 1 || w.group % elements == 0)
      run(DigitDots<kBits, kAffine, kHeldScale>{});
    else if (w.group == 32 && w.half_scale)
      run(DigitDots<kBits, kAffine, kBlockHalf>{});
    else
      run(DigitDots<kBits, kAffine, kBlockScale>{});
  };
  const auto of_bits = [&](auto zeros) {
    if (w.bits == 4)
      of_scales(std::integral_constant<int, 4>{}, zeros);
    else
      of_scales(std::integral_constant<int, 8>{}, zeros);
  };
  affine ? of_bits(std::true_type{}) : of_bits(std::false_type{});
  return failed ? kDigitsNoMemory : kDigitsDone;
}

#endif

}  // namespace
}  // namespace og
#endif
