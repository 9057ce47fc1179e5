/**
 * copy: any strided view to any other of the same shape, converting the dtype (Narrow in stage.h states how).
 * fill: one value everywhere. Equal dtypes are moved as bits, so NaN payloads survive.
 */
#include "elementwise.h"

namespace og {
namespace OG_ISA {
namespace {

/** Tile edge of the transposing copy: 32×32 elements of 4 bytes fill half of a 8 KiB L1 set group. */
constexpr int64_t kTile = 32;

/** The source runs along one axis, the target along another: walk square tiles, so that both use whole cache lines. */
template <class T>
bool copy_transposed(const og_view& from, const og_view& to, const Loop<2>& loop) {
  if (loop.rank < 2) return false;
  const int inner = loop.rank - 1;
  int across = -1;  // the axis on which the source is dense
  for (int i = 0; i < inner; i++)
    if (loop.strides[1][i] == 1) across = i;
  if (across < 0 || loop.strides[0][inner] != 1 || loop.shape[inner] < 8 || loop.shape[across] < 8) return false;
  const int64_t rows = loop.shape[across], columns = loop.shape[inner];
  const int64_t row_tiles = (rows + kTile - 1) / kTile;
  int64_t outer = 1;
  for (int i = 0; i < inner; i++)
    if (i != across) outer *= loop.shape[i];
  const int64_t to_row = loop.strides[0][across], from_column = loop.strides[1][inner];
  parallel_ranges(outer * row_tiles, grain_for(kTile * columns), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; task++) {
      int64_t rest = task / row_tiles;
      const int64_t r0 = task % row_tiles * kTile, r1 = r0 + kTile < rows ? r0 + kTile : rows;
      const T* source = data_of<const T>(from);
      T* target = data_of<T>(to);
      for (int i = inner - 1; i >= 0; i--) {
        if (i == across) continue;
        source += rest % loop.shape[i] * loop.strides[1][i];
        target += rest % loop.shape[i] * loop.strides[0][i];
        rest /= loop.shape[i];
      }
      for (int64_t c0 = 0; c0 < columns; c0 += kTile) {
        const int64_t c1 = c0 + kTile < columns ? c0 + kTile : columns;
        for (int64_t r = r0; r < r1; r++)
          for (int64_t c = c0; c < c1; c++) target[r * to_row + c] = source[r + c * from_column];
      }
    }
  });
  return true;
}

template <class T>
void copy_bits(const og_view& from, const og_view& to) {
  const og_view* const views[2] = {&to, &from};
  const Loop<2> loop(views);
  if (copy_transposed<T>(from, to, loop)) return;
  parallel_ranges(loop.count, kBlock * kBlocksPerChunk, [&](int64_t begin, int64_t end) {
    if (loop.linear(0)) {
      T* target = data_of<T>(to) + begin;
      loop.lines(1, begin, end - begin, [&](int64_t offset, int64_t length, int64_t stride) {
        const T* source = data_of<const T>(from) + offset;
        if (stride == 1) {
          std::memcpy(target, source, (size_t)length * sizeof(T));
        } else {
          for (int64_t i = 0; i < length; i++) target[i] = source[i * stride];
        }
        target += length;
      });
      return;
    }
    alignas(64) T buffer[kBlock];
    for (int64_t at = begin; at < end; at += kBlock) {
      const int64_t n = end - at < kBlock ? end - at : kBlock;
      T* staged = buffer;
      loop.lines(1, at, n, [&](int64_t offset, int64_t length, int64_t stride) {
        const T* source = data_of<const T>(from) + offset;
        for (int64_t i = 0; i < length; i++) staged[i] = source[i * stride];
        staged += length;
      });
      staged = buffer;
      loop.lines(0, at, n, [&](int64_t offset, int64_t length, int64_t stride) {
        T* target = data_of<T>(to) + offset;
        for (int64_t i = 0; i < length; i++) target[i * stride] = staged[i];
        staged += length;
      });
    }
  });
}

}  // namespace

int32_t kernel_copy(const og_call* call) {
  const og_view &from = call->inputs[0], &to = call->outputs[0];
  OG_REQUIRE(same_shape(from, to), "copy: shapes differ");
  if (count_of(to) == 0) return OG_OK;
  if (from.dtype == to.dtype) {
    switch (dtype_size(to.dtype)) {
      case 8:
        copy_bits<uint64_t>(from, to);
        break;
      case 4:
        copy_bits<uint32_t>(from, to);
        break;
      case 2:
        copy_bits<uint16_t>(from, to);
        break;
      default:
        copy_bits<uint8_t>(from, to);
    }
    return OG_OK;
  }
  const og_view* const inputs[1] = {&from};
  return with_compute(from.dtype, [&](auto type) {
    typedef decltype(type) C;
    return map_blocks<C>(inputs, to, [](const C* const* in, C* out, int64_t n) {
      if (in[0] != out) std::memcpy(out, in[0], (size_t)n * sizeof(C));
    });
  });
}

int32_t kernel_fill(const og_call* call) {
  const og_view& to = call->outputs[0];
  const double value = call->attrs[0];
  const og_view* const views[1] = {&to};
  const Loop<1> loop(views);
  with_storage(to.dtype, [&](auto type) {
    typedef decltype(type) T;
    T bits = Narrow<T, double>::from(value);
    if (to.dtype == OG_BOOL) bits = Narrow<T, double>::from(value != 0 ? 1. : 0.);
    parallel_ranges(loop.count, kBlock * kBlocksPerChunk, [&](int64_t begin, int64_t end) {
      loop.lines(0, begin, end - begin, [&](int64_t offset, int64_t length, int64_t stride) {
        T* target = data_of<T>(to) + offset;
        for (int64_t i = 0; i < length; i++) target[i * stride] = bits;
      });
    });
  });
  return OG_OK;
}

}  // namespace OG_ISA
}  // namespace og
