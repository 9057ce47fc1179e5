/**
 * The block that linear_weight_only_pack makes of a quantised weight: a header that says for which instruction set,
 * shape and codes it was made, then the panels of weight_panels.h. Others are refused.
 */
#ifndef OMNIGRAD_CPU_WEIGHT_PACKED_H
#define OMNIGRAD_CPU_WEIGHT_PACKED_H

#include "../core/status.h"
#include "weight_matrix.h"

namespace og {
namespace {

constexpr int64_t kActivationBlock = 32;  // activations that share a scale

struct WeightHeader {
  uint32_t magic, layout;
  int64_t n, k, group, bytes;
  int32_t bits, is_signed, half_scale, zero_bytes;
  int64_t reserved;
};
static_assert(sizeof(WeightHeader) == 64, "panels must stay aligned");
constexpr uint32_t kWeightMagic = 0x34474f50;  // "POG4"

/** How a panel holds its numbers. */
struct PanelForm {
  int64_t k, group;
  int bits;
  bool half_scale;
  int zero_bytes;  // of a zero point: none, a byte, or a float

  int64_t groups() const { return group > 0 ? k / group : 0; }
  int64_t scale_bytes() const { return half_scale ? 2 : 4; }
  int64_t group_bytes(int64_t columns) const { return columns * (scale_bytes() + zero_bytes + group * bits / 8); }
  int64_t panel_bytes(int64_t columns) const { return groups() * group_bytes(columns); }
};

inline int64_t packed_rows(int64_t n) { return (n + 31) / 32 * 32; }

/** Room for any form: columns to whole panels of 32, zero points as floats. */
inline int64_t packed_weight_bytes(const WeightMatrix& w) {
  return (int64_t)sizeof(WeightHeader) +
         packed_rows(w.n) * (w.groups * ((w.half_scale ? 2 : 4) + (w.zero ? 4 : 0)) + w.row_bytes());
}

/** Zero points are bytes where all of them fit. */
inline PanelForm form_of(const WeightMatrix& w) {
  PanelForm form{w.k, w.group, w.bits, w.half_scale, 0};
  if (!w.zero) return form;
  form.zero_bytes = 1;
  if (!w.byte_zero) {
    const int32_t* zero = static_cast<const int32_t*>(w.zero);
    uint32_t all = 0;
    for (int64_t i = 0; i < w.n * w.groups; i++) all |= (uint32_t)zero[i];
    if (all > 255) form.zero_bytes = 4;
  }
  return form;
}

inline int32_t check_packed_weight_view(const og_view& packed, const WeightMatrix& w) {
  OG_REQUIRE(packed.dtype == OG_U8 && packed.rank == 1 && (packed.shape[0] <= 1 || packed.strides[0] == 1),
             "packed weight: expected dense uint8");
  OG_REQUIRE(packed.shape[0] == packed_weight_bytes(w), "packed weight: %lld bytes, not %lld",
             (long long)packed.shape[0], (long long)packed_weight_bytes(w));
  OG_REQUIRE(reinterpret_cast<uintptr_t>(packed.data) % 64 == 0, "packed weight: must begin on a cache line");
  return OG_OK;
}

/** The block was packed for this layout and kind of codes; `form` becomes that of its panels. */
inline int32_t check_packed_weight(const og_view& packed, uint32_t layout, const WeightMatrix& w, PanelForm* form) {
  OG_TRY(check_packed_weight_view(packed, w));
  const WeightHeader& head = *data_of<const WeightHeader>(packed);
  OG_REQUIRE(head.magic == kWeightMagic && head.bytes == packed.shape[0], "packed weight: not made by pack");
  OG_REQUIRE(head.layout == layout, "packed weight: layout %u, this instruction set reads %u; pack it again",
             head.layout, layout);
  OG_REQUIRE(head.n == w.n && head.k == w.k && head.group == w.group && head.bits == w.bits &&
                 head.is_signed == (int32_t)w.is_signed && head.half_scale == (int32_t)w.half_scale &&
                 (w.zero ? head.zero_bytes == 1 || head.zero_bytes == 4 : head.zero_bytes == 0),
             "packed weight: made of another weight");
  *form = {w.k, w.group, w.bits, w.half_scale, head.zero_bytes};
  return OG_OK;
}

inline void write_weight_header(const og_view& packed, uint32_t layout, const WeightMatrix& w, const PanelForm& form) {
  *data_of<WeightHeader>(packed) = {
      kWeightMagic, layout, w.n, w.k, w.group, packed.shape[0], w.bits, w.is_signed, w.half_scale, form.zero_bytes, 0};
}

}  // namespace
}  // namespace og
#endif
