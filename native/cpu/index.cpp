/**
 * index_select: y[…, i, …] = x[…, index[i], …] along one axis (embedding look-up is axis 0). Moves bits; parallel split
 * by (outer, i) pairs. index_add: y[…, index[i], …] += src[…, i, …] in place (the embedding's gradient). The positions
 * are first chained by target row, in order; each target row is then read once, gets its sources added in index order
 * in the compute type (float for 16-bit floats, so one rounding at the end), and is written once. Error of a row with k
 * sources: k·2^-24·Σ|src|. Parallel split: target rows × pieces of the row width, so no two tasks write the same
 * element. Any strides. Indices are checked before anything is written; negative ones are out of range.
 */
#include "index.h"

#include "../core/scratch.h"
#include "elementwise.h"

namespace og {
namespace OG_ISA {
namespace {

/** Operand 1 of the loop to operand 0, element by element. */
template <class T>
void copy_strided(const Loop<2>& loop, const T* from, T* to) {
  const int64_t lines = loop.count / loop.shape[loop.rank - 1], length = loop.shape[loop.rank - 1];
  const int64_t to_step = loop.strides[0][loop.rank - 1], from_step = loop.strides[1][loop.rank - 1];
  for (int64_t line = 0; line < lines; line++) {
    int64_t rest = line, to_at = 0, from_at = 0;
    for (int k = loop.rank - 2; k >= 0; k--) {
      const int64_t c = rest % loop.shape[k];
      rest /= loop.shape[k];
      to_at += c * loop.strides[0][k];
      from_at += c * loop.strides[1][k];
    }
    for (int64_t i = 0; i < length; i++) to[to_at + i * to_step] = from[from_at + i * from_step];
  }
}

template <class T>
void select_rows(const og_view& x, const og_view& index, const og_view& y, int axis) {
  const og_view x_inner = axes_of_view(x, axis + 1, x.rank), y_inner = axes_of_view(y, axis + 1, y.rank);
  const og_view x_outer = axes_of_view(x, 0, axis), y_outer = axes_of_view(y, 0, axis);
  const og_view* const inner_views[2] = {&y_inner, &x_inner};
  const Loop<2> inner(inner_views);
  const int64_t n = index.shape[0], outer = count_of(x_outer), width = inner.count;
  const int64_t x_step = x.strides[axis], y_step = y.strides[axis], index_step = index.strides[0];
  const T* source = data_of<const T>(x);
  T* target = data_of<T>(y);
  const bool single = width == 1, dense = inner.linear(0) && inner.linear(1);
  const bool past = dense && width * (int64_t)sizeof(T) >= 256 && is_beyond_caches(y);
  parallel_ranges(outer * n, grain_for(width), [&](int64_t begin, int64_t end) {
    const StreamEnd streams{past};
    for (int64_t task = begin; task < end;) {
      const int64_t o = task / n, i0 = task % n, i1 = i0 + end - task < n ? i0 + end - task : n;
      const T* from = source + offset_of(x_outer, o, axis);
      T* to = target + offset_of(y_outer, o, axis);
      for (int64_t i = i0; i < i1; i++) {
        const T* row = from + index_at(index, i * index_step) * x_step;
        T* out = to + i * y_step;
        if (single) {
          *out = *row;
        } else if (past) {
          stream_copy(row, out, width * (int64_t)sizeof(T));
        } else if (dense) {
          std::memcpy(out, row, (size_t)width * sizeof(T));
        } else {
          copy_strided(inner, row, out);
        }
      }
      task += i1 - i0;
    }
  });
}

template <class C>
int32_t add_rows(const og_view& index, const og_view& src, const og_view& y, int axis) {
  constexpr int64_t kWidth = 512;
  const int64_t n = index.shape[0], length = y.shape[axis];
  const og_view src_inner = axes_of_view(src, axis + 1, src.rank), y_inner = axes_of_view(y, axis + 1, y.rank);
  const og_view src_outer = axes_of_view(src, 0, axis), y_outer = axes_of_view(y, 0, axis);
  const og_view* const inner_views[2] = {&y_inner, &src_inner};
  const Loop<2> inner(inner_views);
  const int64_t width = inner.count, outer = count_of(y_outer), pieces = (width + kWidth - 1) / kWidth;

  // first[v]: the first position that adds to row v; next[i]: the following one. -1 ends a chain.
  ScratchFrame frame;
  int64_t* first = frame.take<int64_t>(length);
  int64_t* next = frame.take<int64_t>(n);
  OG_SCRATCH(first, "the index chains");
  OG_SCRATCH(next, "the index chains");
  std::memset(first, 0xff, (size_t)length * sizeof(int64_t));
  for (int64_t i = n - 1; i >= 0; i--) {
    const int64_t v = index_at(index, i * index.strides[0]);
    next[i] = first[v];
    first[v] = i;
  }

  // about 64 row groups, so that a few often-used rows do not hold up the rest
  const int64_t rows_per_task = (length + 63) / 64, groups = (length + rows_per_task - 1) / rows_per_task;
  parallel_for(outer * groups * pieces, [&](int64_t task) {
    const int64_t piece = task % pieces, group = task / pieces % groups, o = task / pieces / groups;
    const int64_t begin = piece * kWidth, count = width - begin < kWidth ? width - begin : kWidth;
    const int64_t last = (group + 1) * rows_per_task < length ? (group + 1) * rows_per_task : length;
    const og_view y_base = shifted(y_inner, offset_of(y_outer, o, axis));
    const og_view src_base = shifted(src_inner, offset_of(src_outer, o, axis));
    alignas(64) C sum[kWidth], staged[kWidth];
    for (int64_t v = group * rows_per_task; v < last; v++) {
      if (first[v] < 0) continue;
      const og_view row = shifted(y_base, v * y.strides[axis]);
      const C* start = stage_in<C>(inner, 0, row, begin, count, sum);
      if (start != sum) std::memcpy(sum, start, (size_t)count * sizeof(C));
      for (int64_t i = first[v]; i >= 0; i = next[i]) {
        const og_view line = shifted(src_base, i * src.strides[axis]);
        const C* add = stage_in<C>(inner, 1, line, begin, count, staged);
        if constexpr (std::is_same<C, int64_t>::value) {
          for (int64_t j = 0; j < count; j++) sum[j] = (int64_t)((uint64_t)sum[j] + (uint64_t)add[j]);
        } else {
          for (int64_t j = 0; j < count; j++) sum[j] += add[j];
        }
      }
      stage_out<C>(inner, 0, row, begin, count, sum);
    }
  });
  return OG_OK;
}

int32_t check_axis(const char* op, const og_view& index, const og_view& selected, const og_view& whole, int axis) {
  OG_REQUIRE(axis >= 0 && axis < whole.rank && selected.rank == whole.rank, "%s: ranks or axis do not fit", op);
  OG_REQUIRE(index.rank == 1 && index.shape[0] == selected.shape[axis], "%s: the index has the wrong length", op);
  OG_REQUIRE(selected.dtype == whole.dtype, "%s: dtypes differ", op);
  for (int i = 0; i < whole.rank; i++)
    OG_REQUIRE(i == axis || selected.shape[i] == whole.shape[i], "%s: shapes differ on axis %d", op, i);
  return OG_OK;
}

}  // namespace

/** attrs: axis. */
int32_t kernel_index_select(const og_call* call) {
  const og_view &x = call->inputs[0], &index = call->inputs[1], &y = call->outputs[0];
  const int axis = (int)call->attrs[0];
  OG_TRY(check_axis("index_select", index, y, x, axis));
  OG_TRY(check_indices("index_select", index, axis, x.shape[axis], y));
  if (count_of(y) == 0) return OG_OK;
  switch (dtype_size(y.dtype)) {
    case 8:
      select_rows<uint64_t>(x, index, y, axis);
      break;
    case 4:
      select_rows<uint32_t>(x, index, y, axis);
      break;
    case 2:
      select_rows<uint16_t>(x, index, y, axis);
      break;
    default:
      select_rows<uint8_t>(x, index, y, axis);
  }
  return OG_OK;
}

/** attrs: axis; inputs: index, src; the output is added to. */
int32_t kernel_index_add(const og_call* call) {
  const og_view &index = call->inputs[0], &src = call->inputs[1], &y = call->outputs[0];
  const int axis = (int)call->attrs[0];
  OG_TRY(check_axis("index_add", index, src, y, axis));
  OG_SUPPORTED(y.dtype != OG_BOOL, "index_add: bool has no sum");
  OG_TRY(check_indices("index_add", index, axis, y.shape[axis], y));
  if (count_of(src) == 0) return OG_OK;
  return with_compute(y.dtype, [&](auto type) { return add_rows<decltype(type)>(index, src, y, axis); });
}

}  // namespace OG_ISA
}  // namespace og
