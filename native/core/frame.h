/**
 * A call as JavaScript writes it: one run of doubles.
 *
 *   [0] kernel   [1] words in this frame   [2] inputs   [3] outputs   [4] attributes
 *   per view:    handle (-1: absent), byte offset, dtype, rank, shape × rank, strides × rank (elements)
 *   attributes
 *
 * Nothing in it is believed: decoding checks every count, size and extent against the slot table.
 */
#ifndef OMNIGRAD_CORE_FRAME_H
#define OMNIGRAD_CORE_FRAME_H

#include <cstdint>

#include "omnigrad/abi.h"
#include "slots.h"

namespace og {

constexpr int kFrameHeader = 5;

struct DecodedFrame {
  int32_t kernel = -1;
  og_call call{};
  og_view views[OG_MAX_VIEWS];
  double attrs[OG_MAX_ATTRS];
};

/** Reads one frame of at most `available` words. OG_OK, or OG_INVALID with a message. */
int32_t decode_frame(const double* words, int64_t available, const SlotTable& slots, DecodedFrame* out);

}  // namespace og
#endif
