/**
 * gather: y[p] = x[p with its coordinate on `axis` replaced by index[p]]; y has the shape of index, and moves bits.
 * scatter: the other way, in place on the output: y[p with index[p] on `axis`] = src[p] (mode 0; the last of several
 * wins) or
 * += src[p] (mode 1; added in order along the axis in the compute type; 16-bit floats are summed in float and rounded
 * once). Any strides. Indices are checked before anything is written; negative ones are out of range. Parallel split:
 * by lines along the axis, which never write to each other's elements.
 */
#include "../core/scratch.h"
#include "elementwise.h"
#include "index.h"

namespace og {
namespace OG_ISA {
namespace {

/** y is walked along its last axis; only on `axis` does x's coordinate come from the index. */
template <class T>
void gather(const og_view& x, const og_view& index, const og_view& y, int axis) {
  const int last = y.rank - 1;
  const int64_t length = y.shape[last], x_axis = x.strides[axis], x_last = axis == last ? 0 : x.strides[last];
  const int64_t index_step = index.strides[last], y_step = y.strides[last];
  parallel_ranges(count_of(y) / length, grain_for(2 * length), [&](int64_t begin, int64_t end) {
    for (int64_t line = begin; line < end; line++) {
      int64_t rest = line, x_at = 0, index_at0 = 0, y_at = 0;
      for (int k = last - 1; k >= 0; k--) {
        const int64_t c = rest % y.shape[k];
        rest /= y.shape[k];
        y_at += c * y.strides[k];
        index_at0 += c * index.strides[k];
        if (k != axis) x_at += c * x.strides[k];
      }
      const T* from = data_of<const T>(x) + x_at;
      T* to = data_of<T>(y) + y_at;
      for (int64_t i = 0; i < length; i++)
        to[i * y_step] = from[i * x_last + index_at(index, index_at0 + i * index_step) * x_axis];
    }
  });
}

/** Offsets of one line (all coordinates but the last) in the three operands of scatter, whose axis has been moved last.
 */
struct Line {
  int64_t index = 0, src = 0, y = 0;
  Line(const og_view& i, const og_view& s, const og_view& out, int64_t line) {
    for (int k = i.rank - 2; k >= 0; k--) {
      const int64_t c = line % i.shape[k];
      line /= i.shape[k];
      index += c * i.strides[k];
      src += c * s.strides[k];
      y += c * out.strides[k];
    }
  }
};

template <class T>
void scatter_set(const og_view& index, const og_view& src, const og_view& y) {
  const int last = index.rank - 1;
  const int64_t n = index.shape[last];
  parallel_ranges(count_of(index) / n, grain_for(2 * n), [&](int64_t begin, int64_t end) {
    for (int64_t l = begin; l < end; l++) {
      const Line line(index, src, y, l);
      const T* from = data_of<const T>(src) + line.src;
      T* to = data_of<T>(y) + line.y;
      for (int64_t i = 0; i < n; i++)
        to[index_at(index, line.index + i * index.strides[last]) * y.strides[last]] = from[i * src.strides[last]];
    }
  });
}

/** T is the storage and C the compute type; when they differ a line is widened, added to, and rounded once. */
template <class C, class T>
int32_t scatter_add(const og_view& index, const og_view& src, const og_view& y) {
  const int last = index.rank - 1;
  const int64_t n = index.shape[last], length = y.shape[last];
  int32_t failed = 0;
  parallel_ranges(count_of(index) / n, grain_for(2 * n + length), [&](int64_t begin, int64_t end) {
    ScratchFrame frame;
    C* sums = frame.take<C>(length);
    if (!sums) {
      __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
      return;
    }
    for (int64_t l = begin; l < end; l++) {
      const Line line(index, src, y, l);
      const T* from = data_of<const T>(src) + line.src;
      T* to = data_of<T>(y) + line.y;
      load_run(to, y.strides[last], length, sums);
      for (int64_t i = 0; i < n; i++) {
        C& sum = sums[index_at(index, line.index + i * index.strides[last])];
        const C add = widen<C>(from[i * src.strides[last]]);
        if constexpr (std::is_same<C, int64_t>::value) {
          sum = (int64_t)((uint64_t)sum + (uint64_t)add);
        } else {
          sum += add;
        }
      }
      store_run(sums, length, to, y.strides[last]);
    }
  });
  return failed ? fail(OG_OUT_OF_MEMORY, "scatter: no memory for a line of sums") : OG_OK;
}

}  // namespace

/** attrs: axis. */
int32_t kernel_gather(const og_call* call) {
  const og_view &x = call->inputs[0], &index = call->inputs[1], &y = call->outputs[0];
  const int axis = (int)call->attrs[0];
  OG_REQUIRE(axis >= 0 && axis < x.rank && same_shape(index, y) && x.rank == y.rank,
             "gather: ranks, shapes or axis do not fit");
  OG_REQUIRE(x.dtype == y.dtype, "gather: dtypes differ");
  for (int i = 0; i < x.rank; i++)
    OG_REQUIRE(i == axis || y.shape[i] <= x.shape[i], "gather: the index is longer than x on axis %d", i);
  OG_TRY(check_indices("gather", index, axis, x.shape[axis], y));
  if (count_of(y) == 0) return OG_OK;
  switch (dtype_size(y.dtype)) {
    case 8:
      gather<uint64_t>(x, index, y, axis);
      break;
    case 4:
      gather<uint32_t>(x, index, y, axis);
      break;
    case 2:
      gather<uint16_t>(x, index, y, axis);
      break;
    default:
      gather<uint8_t>(x, index, y, axis);
  }
  return OG_OK;
}

/** attrs: axis, mode (0 set, 1 add); inputs: index, src; the output is changed in place. */
int32_t kernel_scatter(const og_call* call) {
  const og_view &index = call->inputs[0], &src = call->inputs[1], &y = call->outputs[0];
  const int axis = (int)call->attrs[0], mode = (int)call->attrs[1];
  OG_REQUIRE(axis >= 0 && axis < y.rank && same_shape(index, src) && src.rank == y.rank,
             "scatter: ranks, shapes or axis do not fit");
  OG_REQUIRE(mode == 0 || mode == 1, "scatter: mode %d", mode);
  OG_REQUIRE(src.dtype == y.dtype, "scatter: dtypes differ");
  for (int i = 0; i < y.rank; i++)
    OG_REQUIRE(i == axis || src.shape[i] <= y.shape[i], "scatter: the index is longer than the output on axis %d", i);
  OG_TRY(check_indices("scatter", index, axis, y.shape[axis], y));
  if (count_of(index) == 0) return OG_OK;
  const og_view i = axis_last(index, axis), s = axis_last(src, axis), out = axis_last(y, axis);
  if (mode == 0) {
    switch (dtype_size(y.dtype)) {
      case 8:
        scatter_set<uint64_t>(i, s, out);
        break;
      case 4:
        scatter_set<uint32_t>(i, s, out);
        break;
      case 2:
        scatter_set<uint16_t>(i, s, out);
        break;
      default:
        scatter_set<uint8_t>(i, s, out);
    }
    return OG_OK;
  }
  OG_SUPPORTED(y.dtype != OG_BOOL, "scatter: bool has no sum");
  int32_t status = OG_OK;
  with_storage(y.dtype, [&](auto stored) {
    typedef decltype(stored) T;
    status = with_compute(y.dtype, [&](auto type) {
      typedef decltype(type) C;
      if constexpr (std::is_integral<T>::value == std::is_integral<C>::value) {
        return scatter_add<C, T>(i, s, out);
      } else {
        return (int32_t)OG_OK;  // no such pair: the compute type follows from the storage type
      }
    });
  });
  return status;
}

}  // namespace OG_ISA
}  // namespace og
