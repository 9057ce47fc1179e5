/**
 * Panels of B for the three-op dot (vpmaddubsw, vpmaddwd, vpaddd), exact for all bytes: B' = S + R.
 *
 * vpmaddubsw adds two products in int16. With A' ≤ 255 that is exact while the positive codes of a pair sum to at most
 * 128 and the negative ones to at least −128. Bell-shaped weights with one scale a row exceed this in a percent or two
 * of their pairs: there S is the pair less its excess, and R the excess, an entry of a list. Sums over R are made for
 * as many panels of A at once as stay in L1 and are where the tile begins. Four entries are a group, whose products fit
 * int16 together, so that a group is one vpmaddwd; groups end with zeros.
 *
 * The list of a panel: the number of its groups and three zeros, then the groups, one of each column in turn, since
 * sums of one column wait for each other. An entry is `step | column << 18 | byte << 22 | excess << 24`. A weight with
 * a panel of more groups than there is room for is not split.
 */
#ifndef OMNIGRAD_CPU_GEMM_INT8_SPLIT_H
#define OMNIGRAD_CPU_GEMM_INT8_SPLIT_H

#include "gemm_int8_kinds.h"

namespace og {
namespace {

constexpr int kSplitGroup = 4, kSplitPanels = 4;

/** Steps that an entry can name. */
constexpr int64_t kSplitSteps = 1 << 18;

/** The groups of one column while its excesses come. */
struct SplitColumn {
  uint32_t* to;
  int64_t room, count;
  int64_t most[2], least[2];  // of the last group, by half: sums of its positive and of its negative excesses

  bool add(int64_t step, int column, int byte, int excess) {
    const int half = byte >> 1;
    const bool fits = count % kSplitGroup != 0 && most[half] + (excess > 0 ? excess : 0) <= 128 &&
                      least[half] + (excess < 0 ? excess : 0) >= -128;
    if (!fits) {
      end();
      if (count + kSplitGroup > room) return false;
      most[0] = most[1] = least[0] = least[1] = 0;
    }
    (excess > 0 ? most : least)[half] += excess;
    to[count++] = (uint32_t)step | (uint32_t)column << 18 | (uint32_t)byte << 22 | (uint32_t)(excess & 255) << 24;
    return true;
  }
  /** Completes the last group by entries of nothing, of its column. */
  void end() {
    for (; count % kSplitGroup != 0; count++) to[count] = to[count - 1] & (15u << 18);
  }
};

/** What a pair of codes has beyond what vpmaddubsw can add. */
inline int pair_excess(int first, int second) {
  const int above = (first > 0 ? first : 0) + (second > 0 ? second : 0) - 128;
  const int below = (first < 0 ? first : 0) + (second < 0 ? second : 0) + 128;
  return above > 0 ? above : below < 0 ? below : 0;
}

/** Turns a packed panel into its S and `list`, of `room` words. False: too many; the panel is of no use then. */
inline bool split_panel(int64_t steps, uint8_t* panel, uint32_t* list, int64_t room, uint32_t* by_column) {
  constexpr int kColumns = 2 * kLanes;
  if (steps > kSplitSteps || room < kSplitGroup) return false;
  int64_t used = 0, begins[kColumns], counts[kColumns];
  for (int column = 0; column < kColumns; column++) {
    SplitColumn at{by_column + used, room - kSplitGroup - used, 0, {}, {}};
    int8_t* codes = reinterpret_cast<int8_t*>(panel) + column * 4;
    for (int64_t step = 0; step < steps; step++, codes += kColumns * 4)
      for (int byte = 0; byte < 4; byte += 2) {
        const int excess = pair_excess(codes[byte], codes[byte + 1]);
        if (excess == 0) continue;
        const bool second = excess > 0 ? codes[byte + 1] > codes[byte] : codes[byte + 1] < codes[byte];
        if (!at.add(step, column, byte + second, excess)) return false;
        codes[byte + second] = (int8_t)(codes[byte + second] - excess);
      }
    at.end();
    begins[column] = used;
    counts[column] = at.count;
    used += at.count;
  }
  uint32_t* to = list + kSplitGroup;
  for (int64_t turn = 0; to < list + kSplitGroup + used; turn += kSplitGroup)
    for (int column = 0; column < kColumns; column++)
      if (turn < counts[column]) {
        std::memcpy(to, by_column + begins[column] + turn, sizeof(uint32_t) * kSplitGroup);
        to += kSplitGroup;
      }
  const uint32_t head[kSplitGroup] = {(uint32_t)(used / kSplitGroup)};
  std::memcpy(list, head, sizeof head);
  return true;
}

/** Groups as the loop below wants them. */
struct SplitWords {
  int32_t *offsets, *words;  // bytes from the beginning of a panel of A; the excess in the place of its byte
  int32_t* columns;          // four times each: where the sums of its column begin
  int64_t groups;
};

inline void unpack_entries(const uint32_t* list, int32_t step_bytes, SplitWords& to) {
  to.groups = list[0];
  const uint32_t* from = list + kSplitGroup;
  for (int64_t i = 0; i < to.groups * kSplitGroup; i++) {
    const uint32_t entry = from[i];
    to.offsets[i] = (int32_t)(entry & (kSplitSteps - 1)) * step_bytes;
    to.words[i] = (int32_t)((entry >> 24) << ((entry >> 22 & 3) * 8));
    to.columns[i] = (int32_t)(entry >> 18 & 15) * kLanes;
  }
}

/** Panels of A whose sums over R are made at once: they are read here and there, so they must stay in L1. */
inline int64_t panels_at_once(int64_t panel_bytes) {
  constexpr int64_t kNear = 20 << 10;
  return 4 * panel_bytes <= kNear ? kSplitPanels : 2 * panel_bytes <= kNear ? 2 : 1;
}

/**
 * to[panels][kRows][kColumns] = add + A'·R of up to kSplitPanels panels of A, `panel` bytes apart. A is readable for
 * two words beyond its end.
 */
template <int kRows>
void sum_remainders_of(int64_t panels, const SplitWords& from, const char* a, int64_t panel, const int32_t* add,
                       int32_t* to);

#if OG_LANES == 8

/** The same for P panels. */
template <int kRows, int P>
void sum_remainders(const SplitWords& from, const char* a, int64_t panel, const int32_t* add, int32_t* to) {
  constexpr int kColumns = 2 * kLanes;
  alignas(32) float sums[P][kColumns][kLanes];  // int32, of the rows of a panel
  for (int i = 0; i < P; i++)  // GCC makes `rep stos` of memset, which costs as much as half the groups
#pragma GCC unroll 16
    for (int j = 0; j < kColumns; j++) store(sums[i][j], Vf{});
  const __m256i ones = _mm256_set1_epi16(1);
  const int32_t *offsets = from.offsets, *words = from.words;
  for (int64_t g = 0; g < from.groups; g++, offsets += kSplitGroup, words += kSplitGroup) {
    const char *p0 = a + offsets[0], *p1 = a + offsets[1], *p2 = a + offsets[2], *p3 = a + offsets[3];
    const __m256i w0 = _mm256_set1_epi32(words[0]), w1 = _mm256_set1_epi32(words[1]);
    const __m256i w2 = _mm256_set1_epi32(words[2]), w3 = _mm256_set1_epi32(words[3]);
    float* sum = sums[0][0] + from.columns[g * kSplitGroup];
#pragma GCC unroll 4
    for (int i = 0; i < P; i++, sum += kColumns * kLanes) {
      const __m256i s = _mm256_add_epi16(_mm256_maddubs_epi16((__m256i)load_words(p0), w0),
                                         _mm256_maddubs_epi16((__m256i)load_words(p1), w1));
      const __m256i t = _mm256_add_epi16(_mm256_maddubs_epi16((__m256i)load_words(p2), w2),
                                         _mm256_maddubs_epi16((__m256i)load_words(p3), w3));
      store_words(sum, add_words(load_words(sum), (Vi)_mm256_madd_epi16(_mm256_add_epi16(s, t), ones)));
      p0 += panel, p1 += panel, p2 += panel, p3 += panel;
    }
  }
  for (int i = 0; i < P; i++)
    for (int half = 0; half < 2; half++) {
      Vf r[kLanes], t[kLanes];
#pragma GCC unroll 8
      for (int j = 0; j < kLanes; j++) r[j] = load(sums[i][half * kLanes + j]);
      transpose_lanes(r, t);
      const Vi first = load_words(add + half * kLanes);
#pragma GCC unroll 8
      for (int row = 0; row < kRows; row++)
        store_words(to + (i * kRows + row) * kColumns + half * kLanes, add_words(first, (Vi)t[row]));
    }
}

template <int kRows>
void sum_remainders_of(int64_t panels, const SplitWords& from, const char* a, int64_t panel, const int32_t* add,
                       int32_t* to) {
  if (panels == 4) return sum_remainders<kRows, 4>(from, a, panel, add, to);
  if (panels == 2) return sum_remainders<kRows, 2>(from, a, panel, add, to);
  for (int64_t i = 0; i < panels; i++)
    sum_remainders<kRows, 1>(from, a + i * panel, panel, add, to + i * kRows * 2 * kLanes);
}

#endif

}  // namespace
}  // namespace og
#endif
