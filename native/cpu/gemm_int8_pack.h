/**
 * Packing for the int8 GEMM: byte operands of any strides become the panels that gemm_int8_kinds.h describes.
 *
 * Everything moves in words of four consecutive k of one row (a row of A, a column of B). Three ways in: k adjacent in
 * memory (words transposed in registers), rows adjacent (four lines of k interleaved), anything else (staged, then the
 * first way). Missing rows and missing k are zeros after the flip of the top bit.
 */
#ifndef OMNIGRAD_CPU_GEMM_INT8_PACK_H
#define OMNIGRAD_CPU_GEMM_INT8_PACK_H

#include "gemm_int8_kinds.h"
#include "gemm_pack.h"

namespace og {
namespace {

/** A byte matrix seen from packing; strides in bytes. */
struct Bytes {
  const uint8_t* data;
  int64_t row, k;
};

/** Words of kLanes rows as halves of the pairs of a step (Form::kPairs). */
template <int kWidth>
OG_INLINE void put_pairs(uint8_t* panel, int64_t word, int lane, Vi v) {
  uint8_t* to = panel + ((word >> 1) * kWidth + lane) * 8 + (word & 1) * 4;
#pragma GCC unroll 4
  for (int i = 0; i < kLanes; i++) {
    const int32_t one = v[i];
    std::memcpy(to + i * 8, &one, 4);
  }
}

/** What packing depends on: kinds that agree in it share its code. Rows: of a panel of A. */
template <int Rows, bool Pairs, bool Wide>
struct ByteForm {
  static constexpr int kRows = Rows;
  static constexpr bool kPairs = Pairs, kWide = Wide;
};
template <class Kind>
using FormOfA = ByteForm<Kind::kRows, Kind::kPairs, Kind::kWide>;
template <class Kind>
using FormOfB = ByteForm<0, Kind::kPairs, Kind::kWide>;

/** Writes words of a panel of B: four bytes a column, or (Form::kWide) two steps of two. */
template <class Form>
struct PutB {
  static constexpr int kWidth = 2 * kLanes;
  typedef int16_t Half __attribute__((vector_size(OG_LANES * 2)));
  typedef int16_t HalfUnaligned __attribute__((vector_size(OG_LANES * 2), aligned(1), may_alias));

  static OG_INLINE void vector(uint8_t* panel, int64_t word, int lane, Vi v, bool) {
    if (Form::kPairs) {
      put_pairs<kWidth>(panel, word, lane, v);
    } else if (Form::kWide) {
      uint8_t* to = panel + (2 * word * kWidth + lane) * 2;
      *reinterpret_cast<HalfUnaligned*>(to) = __builtin_convertvector(v, Half);
      *reinterpret_cast<HalfUnaligned*>(to + kWidth * 2) = __builtin_convertvector(v >> 16, Half);
    } else {
      store_words(panel + (word * kWidth + lane) * 4, v);
    }
  }
  /** Four columns. */
  static OG_INLINE void four(uint8_t* panel, int64_t word, int lane, const uint32_t (&v)[4]) {
    if (Form::kWide) {
      uint16_t low[4], high[4];
      for (int i = 0; i < 4; i++) low[i] = (uint16_t)v[i], high[i] = (uint16_t)(v[i] >> 16);
      uint8_t* to = panel + (2 * word * kWidth + lane) * 2;
      std::memcpy(to, low, 8);
      std::memcpy(to + kWidth * 2, high, 8);
    } else if (Form::kPairs) {
      Vi words;
      std::memcpy(&words, v, 16);
      put_pairs<kWidth>(panel, word, lane, words);
    } else {
      std::memcpy(panel + (word * kWidth + lane) * 4, v, 16);
    }
  }
};

/** Writes words of a panel of A: as they are, or (Form::kWide) widened to two words of int16. */
template <class Form, bool IsSigned>
struct PutA {
  static constexpr int kWidth = Form::kRows;

  static OG_INLINE void one(uint8_t* panel, int64_t step, int lane, Vi v, bool last) {
    int32_t* to = reinterpret_cast<int32_t*>(panel) + step * kWidth + lane;
    // lanes beyond the panel fall into the next step, which is written afterwards; there is none after the last
    if (kWidth - lane >= kLanes || !last)
      store_words(to, v);
    else
      store_first(reinterpret_cast<float*>(to), (Vf)v, kWidth - lane);
  }
  static OG_INLINE Vi widen(Vi v) {  // its low two bytes
    if (IsSigned) return (((v << 24) >> 24) & 0xffff) | (((v << 16) >> 24) << 16);
    return (v & 0xff) | ((v & 0xff00) << 8);
  }
  static OG_INLINE void vector(uint8_t* panel, int64_t word, int lane, Vi v, bool last) {
    if (Form::kPairs) {
      put_pairs<kWidth>(panel, word, lane, v);
    } else if (Form::kWide) {
      one(panel, 2 * word, lane, widen(v), false);
      one(panel, 2 * word + 1, lane, widen((Vi)((Vu)v >> 16)), last);
    } else {
      one(panel, word, lane, v, last);
    }
  }
};

#if OG_LANES == 8
/** Writes words of a panel of A of four rows in three (gemm_int8_chained.h). */
struct PutChained {
  static constexpr int kWidth = 8, kWords = 6;

  static OG_INLINE void vector(uint8_t* panel, int64_t word, int, Vi v, bool last) {
    const __m256i rows = _mm256_setr_epi32(0, 1, 2, 4, 5, 6, 7, 7), next = _mm256_setr_epi32(1, 2, 3, 5, 6, 7, 7, 7);
    const __m256i low = _mm256_permutevar8x32_epi32((__m256i)v, rows) ^ _mm256_set1_epi8(-128);
    const __m256i high = _mm256_permutevar8x32_epi32((__m256i)v, next);
    // each word's bytes in turn from `low` and `high`: of both halves the first eight, and the last eight
    const __m256i bytes = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15,  //
                                           0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    const __m256i l = _mm256_shuffle_epi8(low, bytes), h = _mm256_shuffle_epi8(high, bytes);
    int32_t* to = reinterpret_cast<int32_t*>(panel) + 2 * word * kWords;
    // two lanes too many fall into the next step, which is written afterwards; there is none after the last
    store_words(to, (Vi)_mm256_unpacklo_epi8(l, h));
    const Vi second = (Vi)_mm256_unpackhi_epi8(l, h);
    if (!last)
      store_words(to + kWords, second);
    else
      store_first(reinterpret_cast<float*>(to + kWords), (Vf)second, kWords);
  }
};
#endif

/** `count` ≤ kLanes rows whose k is dense, to lanes [lane, …) of a panel. `word`, `words`: position and length. */
template <class Put>
OG_INLINE void pack_bytes_group(const uint8_t* const* rows, int count, int64_t k, uint8_t flip, int64_t word, bool ends,
                                int lane, uint8_t* panel) {
  const Vi mask = set1((int32_t)(flip * 0x01010101u));
  const int64_t words = (k + 3) / 4;
  constexpr int kMost = Put::kWidth < kLanes ? Put::kWidth : kLanes;
  for (int64_t w = 0; w < words; w += kLanes) {
    const int64_t left = k - 4 * w;
    Vf r[kLanes], t[kLanes];
    if (left >= 4 * kLanes && count == kMost) {
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; i++) r[i] = i < kMost ? (Vf)(load_words(rows[i] + 4 * w) ^ mask) : Vf{};
    } else {
      const int64_t n = left < 4 * kLanes ? left : 4 * kLanes;
      for (int i = 0; i < kLanes; i++) {
        alignas(64) uint8_t line[4 * kLanes];
        std::memset(line, flip, sizeof line);
        if (i < count) std::memcpy(line, rows[i] + 4 * w, (size_t)n);
        r[i] = (Vf)(load_words(line) ^ mask);
      }
    }
    transpose_lanes(r, t);
    const int n = words - w < kLanes ? (int)(words - w) : kLanes;
    if (n == kLanes && (!ends || w + kLanes < words)) {
#pragma GCC unroll 16
      for (int j = 0; j < kLanes; j++) Put::vector(panel, word + w + j, lane, (Vi)t[j], false);
    } else {
      for (int j = 0; j < n; j++) Put::vector(panel, word + w + j, lane, (Vi)t[j], ends && w + j + 1 == words);
    }
  }
}

/** One panel of `count` rows, dense along k, `stride` bytes apart; `ends`: the panel ends with this piece of k. */
template <class Put>
void pack_bytes_panel(const uint8_t* from, int64_t stride, int count, int64_t k, uint8_t flip, int64_t word, bool ends,
                      uint8_t* panel) {
  for (int lane = 0; lane < Put::kWidth; lane += kLanes) {
    const uint8_t* rows[kLanes] = {};
    const int here = count - lane < kLanes ? (count > lane ? count - lane : 0) : kLanes;
    for (int i = 0; i < here; i++) rows[i] = from + (lane + i) * stride;
    pack_bytes_group<Put>(rows, here, k, flip, word, ends, lane, panel);
  }
}

typedef uint8_t Bytes16 __attribute__((vector_size(16)));

/** Rows adjacent in memory: words of sixteen rows from four lines of k. */
template <class Form>
void pack_adjacent(const Bytes& from, int64_t rows, int64_t k, uint8_t flip, int64_t panel_size, uint8_t* to) {
  typedef PutB<Form> Put;
  const Bytes16 mask = Bytes16{} + flip;
  for (int64_t k0 = 0; k0 < k; k0 += 4) {
    const int lines = k - k0 < 4 ? (int)(k - k0) : 4;
    const int64_t padded = (rows + Put::kWidth - 1) / Put::kWidth * Put::kWidth;
    for (int64_t r = 0; r < padded; r += 16) {
      Bytes16 v[4];
      const int64_t n = rows - r < 16 ? (rows > r ? rows - r : 0) : 16;
      for (int j = 0; j < 4; j++) {
        v[j] = mask;
        if (j < lines && n == 16)
          std::memcpy(&v[j], from.data + (k0 + j) * from.k + r, 16);
        else if (j < lines)
          std::memcpy(&v[j], from.data + (k0 + j) * from.k + r, (size_t)n);
        v[j] ^= mask;
      }
#define OG_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define OG_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
      typedef uint16_t Pairs __attribute__((vector_size(16)));
      const Pairs a = (Pairs)__builtin_shufflevector(v[0], v[1], OG_LOW),
                  b = (Pairs)__builtin_shufflevector(v[2], v[3], OG_LOW),
                  c = (Pairs)__builtin_shufflevector(v[0], v[1], OG_HIGH),
                  d = (Pairs)__builtin_shufflevector(v[2], v[3], OG_HIGH);
#undef OG_LOW
#undef OG_HIGH
      const Pairs words[4] = {__builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11),
                              __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15),
                              __builtin_shufflevector(c, d, 0, 8, 1, 9, 2, 10, 3, 11),
                              __builtin_shufflevector(c, d, 4, 12, 5, 13, 6, 14, 7, 15)};
      for (int q = 0; q < 4; q++) {
        const int64_t at = r + 4 * q;
        if (at >= padded) break;
        uint32_t four[4];
        std::memcpy(four, &words[q], 16);
        Put::four(to + at / Put::kWidth * panel_size, k0 / 4, (int)(at % Put::kWidth), four);
      }
    }
  }
}

constexpr int64_t kByteStage = 256;  // bytes of k staged at a time

/** Rows [0, rows) of `from`, all of k, as panels of Put. */
template <class Put>
void pack_bytes(const Bytes& from, int64_t rows, int64_t k, uint8_t flip, int64_t panel_size, uint8_t* to) {
  for (int64_t r = 0; r < rows; r += Put::kWidth, to += panel_size) {
    const int count = rows - r < Put::kWidth ? (int)(rows - r) : Put::kWidth;
    const uint8_t* source = from.data + r * from.row;
    if (from.k == 1) {
      pack_bytes_panel<Put>(source, from.row, count, k, flip, 0, true, to);
      continue;
    }
    uint8_t staged[Put::kWidth * kByteStage];
    for (int64_t k0 = 0; k0 < k; k0 += kByteStage) {
      const int64_t n = k - k0 < kByteStage ? k - k0 : kByteStage;
      if (from.row == 1) {
        for (int64_t j = 0; j < n; j++)
          for (int i = 0; i < count; i++) staged[i * kByteStage + j] = source[(k0 + j) * from.k + i];
      } else {
        for (int i = 0; i < count; i++)
          for (int64_t j = 0; j < n; j++) staged[i * kByteStage + j] = source[i * from.row + (k0 + j) * from.k];
      }
      pack_bytes_panel<Put>(staged, kByteStage, count, n, flip, k0 / 4, k0 + n == k, to);
    }
  }
}

/** Steps of k of a packed panel: K rounded up to words of four, or pairs of them. */
template <class Kind>
OG_INLINE int64_t packed_steps(int64_t k) {
  return Kind::kPairs ? (k + 7) / 8 : (k + 3) / 4 * (4 / Kind::kGroup);
}
/** Bytes of one packed panel. */
template <class Kind>
OG_INLINE int64_t panel_bytes_a(int64_t k) {
  return packed_steps<Kind>(k) * step_words<Kind>() * (Kind::kPairs ? 8 : 4);
}
template <class Kind>
OG_INLINE int64_t panel_bytes_b(int64_t k) {
  return packed_steps<Kind>(k) * (2 * kLanes) * (Kind::kPairs ? 8 : Kind::kGroup);
}

/** Zeros the last step of panels where it is only half filled. */
template <class Kind>
void clear_last_pair(int64_t rows, int width, int64_t k, int64_t panel_size, uint8_t* to) {
  if (!Kind::kPairs || (k + 3) / 4 % 2 == 0) return;
  for (int64_t r = 0; r < rows; r += width, to += panel_size) std::memset(to + panel_size - width * 8, 0, width * 8);
}

template <class Kind>
void pack_a(const Bytes& from, bool is_signed, int64_t rows, int64_t k, int32_t* to) {
  const uint8_t flip = flips_a<Kind>(is_signed) ? 0x80 : 0;
  uint8_t* bytes = reinterpret_cast<uint8_t*>(to);
  clear_last_pair<Kind>(rows, Kind::kRows, k, panel_bytes_a<Kind>(k), bytes);
#if OG_LANES == 8
  if (Kind::kChained) return pack_bytes<PutChained>(from, rows, k, flip, panel_bytes_a<Kind>(k), bytes);
#endif
  if (is_signed || !Kind::kWide)
    pack_bytes<PutA<FormOfA<Kind>, true>>(from, rows, k, flip, panel_bytes_a<Kind>(k), bytes);
  else
    pack_bytes<PutA<FormOfA<Kind>, false>>(from, rows, k, flip, panel_bytes_a<Kind>(k), bytes);
}

template <class Kind>
void pack_b(const Bytes& from, bool is_signed, int64_t columns, int64_t k, uint8_t* to) {
  const uint8_t flip = is_signed ? 0 : 0x80;
  clear_last_pair<Kind>(columns, 2 * kLanes, k, panel_bytes_b<Kind>(k), to);
  if (from.row == 1 && from.k != 1) {  // several panels at a time, so that each visit to a line uses all of it
    constexpr int64_t kStrip = 8 * 2 * kLanes;
    for (int64_t j = 0; j < columns; j += kStrip)
      pack_adjacent<FormOfB<Kind>>({from.data + j, 1, from.k}, columns - j < kStrip ? columns - j : kStrip, k, flip,
                                   panel_bytes_b<Kind>(k), to + j / (2 * kLanes) * panel_bytes_b<Kind>(k));
  } else {
    pack_bytes<PutB<FormOfB<Kind>>>(from, columns, k, flip, panel_bytes_b<Kind>(k), to);
  }
}

/** Whether all codes of packed B lie in [-64, 64]. */
inline bool fits_seven_bits(const uint8_t* panels, int64_t bytes) {
  const int8_t* codes = reinterpret_cast<const int8_t*>(panels);
  uint8_t most = 0;
  for (int64_t i = 0; i < bytes; i++) {
    const uint8_t shifted = (uint8_t)(codes[i] + 64);
    most = shifted > most ? shifted : most;
  }
  return most <= 128;
}

}  // namespace
}  // namespace og
#endif
