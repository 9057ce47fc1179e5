/**
 * copy: any strided view to any other of the same shape, converting the dtype (Narrow in stage.h states how).
 * fill: one value everywhere. Equal dtypes are moved as bits, so NaN payloads survive.
 *
 * Where source and target are dense along different axes the copy is a transposition. It goes by square tiles of one
 * cache line (64 bytes) by as many elements: the lines of the source are read whole, one after the other, into a buffer
 * of at most 4 KiB, and the lines of the target are written whole. Read in place, lines a power of two apart would
 * share one set of L1 and be fetched again for every few elements. Inside a tile blocks of 16 bytes by as many elements
 * are transposed in registers, in log2 n rounds of interleaving row i with row i + n/2.
 * Parallel split of transpositions: outer axes × strips of kStrip rows × pieces of kPieceColumns columns of the target.
 */
#include <utility>

#include "elementwise.h"

namespace og {
namespace OG_ISA {
namespace {

/** Elements of T in a cache line: the edge of a tile. */
template <class T>
constexpr int64_t kEdge = 64 / (int64_t)sizeof(T);

/** Elements that are converted at a time, and bytes ahead of them that are fetched. */
constexpr int64_t kConverted = 128, kConvertAhead = 2048;

/** Rows and columns of a task. Runs of 256 elements of the source keep the hardware prefetchers going; 64 lose a tenth.
 */
constexpr int64_t kStrip = 256;
constexpr int64_t kPieceColumns = 256;

/** target[r · to_row + c] = source[r + c · from_column] for the part of a tile that exists. */
template <class T>
void transpose_part(const T* source, int64_t from_column, T* target, int64_t to_row, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < columns; c++) target[r * to_row + c] = source[r + c * from_column];
}

#ifndef OG_IS_REFERENCE

template <class T>
struct Block {
  static constexpr int n = 16 / (int)sizeof(T);
  typedef T V __attribute__((vector_size(16)));
  typedef T Unaligned __attribute__((vector_size(16), aligned(sizeof(T)), may_alias));
  typedef std::make_integer_sequence<int, n> Lanes;

  template <int Half, int... L>
  static OG_INLINE V interleave(V a, V b, std::integer_sequence<int, L...>) {
    return __builtin_shufflevector(a, b, (Half * n / 2 + L / 2 + (L & 1) * n)...);
  }
  static OG_INLINE void round(const V (&from)[n], V (&to)[n]) {
    for (int i = 0; i < n / 2; i++) {
      to[2 * i] = interleave<0>(from[i], from[i + n / 2], Lanes());
      to[2 * i + 1] = interleave<1>(from[i], from[i + n / 2], Lanes());
    }
  }
  /** n × n elements: rows `stride` apart become columns `to_row` apart. */
  static OG_INLINE void transpose(const T* from, int64_t stride, T* to, int64_t to_row) {
    V a[n], b[n];
    for (int i = 0; i < n; i++) a[i] = *reinterpret_cast<const Unaligned*>(from + i * stride);
    round(a, b);
    if constexpr (n >= 4) {
      round(b, a);
      if constexpr (n >= 8) {
        round(a, b);
        if constexpr (n >= 16) round(b, a);
      }
    }
    constexpr bool in_a = n == 4 || n == 16;
    for (int i = 0; i < n; i++) *reinterpret_cast<Unaligned*>(to + i * to_row) = in_a ? a[i] : b[i];
  }
};

/** A whole tile; the lines at `ahead` are fetched for the next one. */
template <class T>
void transpose_tile(const T* source, int64_t from_column, T* target, int64_t to_row, const T* ahead) {
  constexpr int64_t edge = kEdge<T>, n = Block<T>::n;
  alignas(64) T lines[edge * edge];
  for (int64_t c = 0; c < edge; c++) {
    std::memcpy(lines + c * edge, source + c * from_column, 64);
    prefetch(ahead + c * from_column);
  }
  for (int64_t r = 0; r < edge; r += n)
    for (int64_t c = 0; c < edge; c += n)
      Block<T>::transpose(lines + c * edge + r, edge, target + r * to_row + c, to_row);
}

/** Rows [0, rows) and columns [0, columns) of one task. */
template <class T>
void transpose_strip(const T* source, int64_t from_column, T* target, int64_t to_row, int64_t rows, int64_t columns) {
  constexpr int64_t edge = kEdge<T>;
  for (int64_t c = 0; c < columns; c += edge) {
    const bool whole = c + edge <= columns, more = c + 2 * edge <= columns;
    for (int64_t r = 0; r < rows; r += edge) {
      const T* from = source + r + c * from_column;
      T* to = target + r * to_row + c;
      if (whole && r + edge <= rows)
        transpose_tile(from, from_column, to, to_row, more ? from + edge * from_column : from);
      else
        transpose_part(from, from_column, to, to_row, rows - r < edge ? rows - r : edge, whole ? edge : columns - c);
    }
  }
}

#else

template <class T>
void transpose_strip(const T* source, int64_t from_column, T* target, int64_t to_row, int64_t rows, int64_t columns) {
  constexpr int64_t edge = kEdge<T>;
  for (int64_t c = 0; c < columns; c += edge)
    transpose_part(source + c * from_column, from_column, target + c, to_row, rows,
                   columns - c < edge ? columns - c : edge);
}

#endif

/** Whether the source is dense along one axis and the target along another: then the copy is done. */
template <class T>
bool copy_transposed(const og_view& from, const og_view& to, const Loop<2>& loop) {
  int down = -1, across = -1;  // the axes along which the source and the target are dense: rows and columns
  for (int i = 0; i < loop.rank; i++) {
    if (loop.strides[0][i] == 1) across = i;
    if (loop.strides[1][i] == 1) down = i;
  }
  if (down < 0 || across < 0 || down == across || loop.strides[1][across] == 1) return false;
  const int64_t rows = loop.shape[down], columns = loop.shape[across];
  if (rows < 8 || columns < 8) return false;
  const int64_t strips = (rows + kStrip - 1) / kStrip, pieces = (columns + kPieceColumns - 1) / kPieceColumns;
  const int64_t to_row = loop.strides[0][down], from_column = loop.strides[1][across];
  const int64_t work = (rows < kStrip ? rows : kStrip) * (columns < kPieceColumns ? columns : kPieceColumns);
  parallel_ranges(loop.count / rows / columns * strips * pieces, grain_for(work), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; task++) {
      const int64_t c0 = task % pieces * kPieceColumns, r0 = task / pieces % strips * kStrip;
      int64_t rest = task / pieces / strips;
      const T* source = data_of<const T>(from) + r0 + c0 * from_column;
      T* target = data_of<T>(to) + r0 * to_row + c0;
      for (int i = loop.rank - 1; i >= 0; i--) {
        if (i == down || i == across) continue;
        source += rest % loop.shape[i] * loop.strides[1][i];
        target += rest % loop.shape[i] * loop.strides[0][i];
        rest /= loop.shape[i];
      }
      transpose_strip(source, from_column, target, to_row, rows - r0 < kStrip ? rows - r0 : kStrip,
                      columns - c0 < kPieceColumns ? columns - c0 : kPieceColumns);
    }
  });
  return true;
}

template <class T>
void copy_bits(const og_view& from, const og_view& to) {
  const og_view* const views[2] = {&to, &from};
  const Loop<2> loop(views);
  if (copy_transposed<T>(from, to, loop)) return;
  const bool past = is_beyond_caches(to) && from.data != to.data;
  parallel_ranges(loop.count, kBlock * kBlocksPerChunk, [&](int64_t begin, int64_t end) {
    if (loop.linear(0)) {
      T* target = data_of<T>(to) + begin;
      const StreamEnd streams{past};
      loop.lines(1, begin, end - begin, [&](int64_t offset, int64_t length, int64_t stride) {
        const T* source = data_of<const T>(from) + offset;
        if (stride == 1 && past) {
          stream_copy(source, target, length * (int64_t)sizeof(T));
        } else if (stride == 1) {
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

/** Dense numbers of the type C, which the dtype of `from` computes in, to or from another: no block of them in between.
 */
template <class C>
bool convert_dense(const og_view& from, const og_view& to) {
  const og_view* const views[2] = {&to, &from};
  const Loop<2> loop(views);
  const bool narrows = is_native<C>(from.dtype);
  if (!loop.linear(0) || !loop.linear(1) || from.data == to.data || !(narrows || is_native<C>(to.dtype))) return false;
  const int64_t from_size = dtype_size(from.dtype), to_size = dtype_size(to.dtype);
  parallel_ranges(loop.count, kBlock * kBlocksPerChunk, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; at += kConverted) {
      const int64_t n = end - at < kConverted ? end - at : kConverted;
      const char* source = data_of<const char>(from) + at * from_size;
      char* target = data_of<char>(to) + at * to_size;
#ifndef OG_IS_REFERENCE
      for (int64_t byte = 0; byte < n * from_size; byte += 64) __builtin_prefetch(source + kConvertAhead + byte, 0, 2);
#endif
      if (narrows)
        OG_ISA::store_elements(reinterpret_cast<const C*>(source), n, target, to.dtype, 1);
      else
        OG_ISA::load_elements(source, from.dtype, 1, n, reinterpret_cast<C*>(target));
    }
  });
  return true;
}

template <class T>
void fill_bits(const void* bits, const og_view& to) {
  T value;
  std::memcpy(&value, bits, sizeof value);
  const og_view* const views[1] = {&to};
  const Loop<1> loop(views);
  const bool past = is_beyond_caches(to);
  parallel_ranges(loop.count, kBlock * kBlocksPerChunk, [&](int64_t begin, int64_t end) {
    const StreamEnd streams{past};
    alignas(64) T run[kBlock];
    if (past)
      for (T& element : run) element = value;
    loop.lines(0, begin, end - begin, [&](int64_t offset, int64_t length, int64_t stride) {
      T* target = data_of<T>(to) + offset;
      if (past && stride == 1) {
        for (int64_t i = 0; i < length; i += kBlock)
          stream_copy(run, target + i, (length - i < kBlock ? length - i : kBlock) * (int64_t)sizeof(T));
        return;
      }
      for (int64_t i = 0; i < length; i++) target[i * stride] = value;
    });
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
    if (convert_dense<C>(from, to)) return (int32_t)OG_OK;
    return map_blocks<C>(inputs, to, [](const C* const* in, C* out, int64_t n) {
      if (in[0] != out) std::memcpy(out, in[0], (size_t)n * sizeof(C));
    });
  });
}

int32_t kernel_fill(const og_call* call) {
  const og_view& to = call->outputs[0];
  const double value = call->attrs[0];
  char bits[8] = {};
  with_storage(to.dtype, [&](auto type) {
    const auto one = Narrow<decltype(type), double>::from(to.dtype == OG_BOOL ? (value != 0 ? 1. : 0.) : value);
    std::memcpy(bits, &one, sizeof one);
  });
  switch (dtype_size(to.dtype)) {
    case 8:
      fill_bits<uint64_t>(bits, to);
      break;
    case 4:
      fill_bits<uint32_t>(bits, to);
      break;
    case 2:
      fill_bits<uint16_t>(bits, to);
      break;
    default:
      fill_bits<uint8_t>(bits, to);
  }
  return OG_OK;
}

}  // namespace OG_ISA
}  // namespace og
