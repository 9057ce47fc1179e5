/**
 * Packing for the product of int8 activations and quantised weights.
 *
 * Weights: panels of kPanelColumns rows of W, zeros beyond the last. By group of k: the scales of the columns as they
 * are stored, their zero points (bytes, or floats), then the codes in words of 32 bits, `[word][column]`: eight 4-bit
 * codes as they lie in memory, or four 8-bit codes. A panel is read once, from its first byte to its last.
 *
 * Activations: blocks of 32 elements of a row as round(x / scale) in int8, scale = max|x| / 127. Panels of R rows, by
 * block: `[8][R]` words of four codes (for 4-bit weights the even elements of eight before the odd ones, as the halves
 * of the weights' bytes have them), the R sums that weights' zero points take, and the R scales.
 */
#ifndef OMNIGRAD_CPU_WEIGHT_PANEL_PACK_H
#define OMNIGRAD_CPU_WEIGHT_PANEL_PACK_H

#include "gemm_frame.h"
#include "weight_packed.h"
#include "weight_panel_kinds.h"

namespace og {
namespace {

/** Numbers of groups, one of `size` bytes for each row and group, to the heads of a panel's groups. */
inline void pack_heads(const void* from, int64_t size, int64_t groups, int64_t count, int64_t group_bytes,
                       uint8_t* panel) {
  const char* at = static_cast<const char*>(from);
  for (int64_t column = 0; column < count; column++)
    for (int64_t g = 0; g < groups; g++)
      std::memcpy(panel + g * group_bytes + column * size, at + (column * groups + g) * size, (size_t)size);
}

/** Words of kLanes rows of codes, `count` of which exist, to lanes [lane, …) of a panel. */
inline void pack_words(const WeightMatrix& w, int64_t row, int count, int lane, int64_t head, int64_t group_bytes,
                       int32_t flip, uint8_t* panel) {
  const int64_t words = w.row_bytes() / 4, group_words = w.group * w.bits / 32;
  int64_t group = 0, within = 0;
  for (int64_t at = 0; at < words; at += kLanes) {
    const int64_t n = least(kLanes, words - at);
    Vf r[kLanes], t[kLanes];
    if (n == kLanes && count == kLanes) {
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; i++) r[i] = (Vf)(load_words(w.row(row + i) + 4 * at) ^ flip);
    } else {
      for (int i = 0; i < kLanes; i++) {
        alignas(64) uint8_t line[4 * kLanes] = {};
        if (i < count) std::memcpy(line, w.row(row + i) + 4 * at, (size_t)(4 * n));
        r[i] = (Vf)(load_words(line) ^ flip);
      }
    }
    transpose_lanes(r, t);
    for (int64_t j = 0; j < n; j++) {
      store_words(panel + group * group_bytes + head + (within * kPanelColumns + lane) * 4, (Vi)t[j]);
      if (++within == group_words) within = 0, group++;
    }
  }
}

/** Panels [begin, end) of a weight. */
template <class Kind>
void pack_weight(const WeightMatrix& w, const PanelForm& form, int64_t begin, int64_t end, uint8_t* to) {
  const int64_t group_bytes = form.group_bytes(kPanelColumns), size = form.panel_bytes(kPanelColumns);
  const int64_t scales = kPanelColumns * form.scale_bytes(), head = scales + kPanelColumns * form.zero_bytes;
  const bool flips = w.bits == 8 && w.is_signed != Kind::kSignedBytes;
  for (int64_t panel = begin; panel < end; panel++, to += size) {
    const int64_t row = panel * kPanelColumns, count = least(kPanelColumns, w.n - row), first = row * w.groups;
    if (count < kPanelColumns)
      for (int64_t g = 0; g < w.groups; g++) std::memset(to + g * group_bytes, 0, (size_t)head);
    pack_heads(static_cast<const char*>(w.scale) + first * form.scale_bytes(), form.scale_bytes(), w.groups, count,
               group_bytes, to);
    if (form.zero_bytes == 1 && w.byte_zero) {
      pack_heads(static_cast<const uint8_t*>(w.zero) + first, 1, w.groups, count, group_bytes, to + scales);
    } else if (form.zero_bytes) {
      for (int64_t i = 0; i < count * w.groups; i++) {
        uint8_t* at = to + scales + i % w.groups * group_bytes + i / w.groups * form.zero_bytes;
        const float zero = w.zero_at(first + i);
        if (form.zero_bytes == 1)
          *at = (uint8_t)zero;
        else
          std::memcpy(at, &zero, 4);
      }
    }
    for (int lane = 0; lane < kPanelColumns; lane += kLanes) {
      const int here = count <= lane ? 0 : (int)least(kLanes, count - lane);
      pack_words(w, row + lane, here, lane, head, group_bytes, flips ? (int32_t)0x80808080u : 0, to);
    }
  }
}

/** What zero points of weights without zero points multiply: codes of panels are w + this. */
template <class Kind>
int32_t panel_middle(const WeightMatrix& w) {
  if (w.bits == 4) return (int32_t)w.middle;
  const int32_t stored = w.is_signed ? 128 : 0;
  return stored - (Kind::kSignedBytes ? 128 : 0);
}

constexpr int64_t kActivationBytes = 40;  // of a block of 32 in a panel: codes, sum, scale

/** One block: 32 codes in the order of the weights' halves where these have 4 bits, and their sum. The scale. */
OG_INLINE float code_block(const float* x, bool halves, int8_t* codes, int32_t* total) {
  float largest = 0;
  find_magnitude(x, kActivationBlock, &largest);
  float scale = largest / 127.f;
  if (scale == 0) scale = 1;
  uint8_t bytes[kActivationBlock];
  ErrorSums none(nullptr);
  integer_loop<false, false>(x, kActivationBlock, Same<float>{{scale, -127.f, 127.f, 0.f}}, nullptr, bytes, none);
  Vi sums{};
#pragma GCC unroll 8
  for (int i = 0; i < kActivationBlock; i += kLanes) sums += load_bytes(bytes + i, true);
  *total = (int32_t)sum(to_float(sums));  // at most 32 · 127: exact
#pragma GCC unroll 2
  for (int i = 0; i < kActivationBlock; i += 16) {
    typedef int8_t Sixteen __attribute__((vector_size(16)));
    Sixteen v;
    std::memcpy(&v, bytes + i, 16);
    if (halves) v = __builtin_shufflevector(v, v, 0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
    std::memcpy(codes + i, &v, 16);
  }
  return scale;
}

/** Row `lane` of `height` of a panel of activations; null: zeros. */
inline void pack_activations(const float* x, int64_t k, bool halves, bool affine, int32_t middle, int lane, int height,
                             char* panel) {
  for (int64_t at = 0; at < k; at += kActivationBlock, panel += kActivationBytes * height) {
    int32_t* words = reinterpret_cast<int32_t*>(panel);
    float* numbers = reinterpret_cast<float*>(words + 8 * height);
    int32_t codes[8] = {}, total = 0;
    float scale = 0;
    if (x) scale = code_block(x + at, halves, reinterpret_cast<int8_t*>(codes), &total);
    for (int i = 0; i < 8; i++) words[i * height + lane] = codes[i];
    if (affine)
      numbers[lane] = -(float)total;
    else
      words[8 * height + lane] = -middle * total;
    numbers[height + lane] = scale;
  }
}

}  // namespace
}  // namespace og
#endif
