/**
 * conv2d: y[b, o, i, j] = bias[o] + Σ x[b, c, i·stride + r·dilation − padding, …s…] · w[o, c, r, s] over the channels c
 * of o's group; x [B, C, H, W], w [O, C/groups, rows, columns], bias [O] optional. conv2d_input_gradient: its adjoint
 * in x, from y's gradient and w (also what a transposed convolution computes); conv2d_weight_gradient: in w, from x and
 * y's gradient. Attributes: kernel, stride, padding, dilation, each as rows, columns, then groups.
 *
 * Matrix products whose second operand is read from the image as it is packed (conv_lines.h; gemm_frame.h): the matrix
 * of windows is never stored. The gradient in x is one product for each remainder of a position by the stride, over
 * the taps that meet it; where windows do not overlap, one product whose results are put where they belong. With fewer
 * than kFewOutputs outputs in a group (depthwise convolution) sums of shifted rows instead (conv_direct.h).
 *
 * float32, float16 and bfloat16 (all operands alike), float32 sums, rounded once; any strides. Error against exact
 * arithmetic: at most that of a plain float32 loop, K·2^-24·Σ|a·b|, K being the number of terms. NaN and infinity
 * propagate; zeros of the padding are multiplied like others. Parallel split: by the product's own, or by images and
 * groups where these are small; by shape only, and no sum is split between threads.
 * `reference`: the definition, in float (float64 in double).
 */
#include "../core/parallel.h"
#include "../core/scratch.h"
#include "../core/status.h"
#include "stage.h"
#include "window.h"
#ifndef OG_IS_REFERENCE
#include "conv_product.h"
#endif

namespace og {
namespace OG_ISA {
namespace {

/** Operands by their part: images (x or its gradient), results (y or its gradient), weights, bias. */
struct Conv {
  Windows w;
  int64_t groups, outputs;  // of a group
  int64_t inputs;           // of a group
  og_view x, y, weight, bias;
};

int32_t read_conv(const char* name, const double* attrs, const og_view& x, const og_view& y, const og_view& weight,
                  Conv* c) {
  OG_REQUIRE(x.rank == 4 && y.rank == 4 && weight.rank == 4, "%s: expected operands of 4 axes", name);
  OG_SUPPORTED(dtype_is_float(x.dtype) && x.dtype == y.dtype && x.dtype == weight.dtype,
               "%s: expected floats of one dtype", name);
  OG_TRY(read_window(name, attrs, x, &c->w));
  OG_REQUIRE(attrs[8] >= 1 && attrs[8] <= 1 << 24, "%s: bad number of groups", name);
  c->groups = (int64_t)attrs[8];
  c->inputs = weight.shape[1];
  c->outputs = weight.shape[0] / c->groups;
  OG_REQUIRE(c->outputs * c->groups == weight.shape[0] && c->inputs * c->groups == x.shape[1] &&
                 weight.shape[2] == c->w.kernel[0] && weight.shape[3] == c->w.kernel[1],
             "%s: weights and channels do not fit", name);
  OG_REQUIRE(y.shape[0] == x.shape[0] && y.shape[1] == weight.shape[0] && y.shape[2] == c->w.count[0] &&
                 y.shape[3] == c->w.count[1],
             "%s: the result does not fit the image", name);
  c->x = x;
  c->y = y;
  c->weight = weight;
  c->bias = og_view{};
  c->bias.dtype = -1;
  return OG_OK;
}

#ifdef OG_IS_REFERENCE

template <class C>
struct Elements {
  const og_view* view;
  C get(int64_t a, int64_t b, int64_t c, int64_t d) const {
    C value{};
    const int64_t at = offset(a, b, c, d);
    with_storage(view->dtype, [&](auto type) { value = widen<C>(data_of<const decltype(type)>(*view)[at]); });
    return value;
  }
  void set(int64_t a, int64_t b, int64_t c, int64_t d, C value) const {
    const int64_t at = offset(a, b, c, d);
    with_storage(view->dtype, [&](auto type) {
      typedef decltype(type) T;
      data_of<T>(*view)[at] = Narrow<T, C>::from(value);
    });
  }
  int64_t offset(int64_t a, int64_t b, int64_t c, int64_t d) const {
    return a * view->strides[0] + b * view->strides[1] + c * view->strides[2] + d * view->strides[3];
  }
};

template <class C>
int32_t forward(const Conv& c) {
  const Windows& w = c.w;
  const Elements<C> x{&c.x}, y{&c.y}, weight{&c.weight};
  parallel_ranges(w.batch * c.groups * c.outputs, 1, [&](int64_t begin, int64_t) {
    const int64_t o = begin % (c.groups * c.outputs), b = begin / (c.groups * c.outputs), g = o / c.outputs;
    for (int64_t i = 0; i < w.count[0]; i++)
      for (int64_t j = 0; j < w.count[1]; j++) {
        C sum{};
        for (int64_t k = 0; k < c.inputs; k++)
          for (int64_t r = 0; r < w.kernel[0]; r++)
            for (int64_t s = 0; s < w.kernel[1]; s++) {
              const int64_t h = w.at(0, r, i), v = w.at(1, s, j);
              const bool inside = h >= 0 && h < w.size[0] && v >= 0 && v < w.size[1];
              sum += (inside ? x.get(b, g * c.inputs + k, h, v) : C(0)) * weight.get(o, k, r, s);
            }
        if (c.bias.dtype >= 0)
          with_storage(c.bias.dtype, [&](auto type) {
            sum += widen<C>(data_of<const decltype(type)>(c.bias)[o * c.bias.strides[0]]);
          });
        y.set(b, o, i, j, sum);
      }
  });
  return OG_OK;
}

template <class C>
int32_t input_gradient(const Conv& c) {
  const Windows& w = c.w;
  const Elements<C> x{&c.x}, y{&c.y}, weight{&c.weight};
  parallel_ranges(w.batch * w.channels, 1, [&](int64_t begin, int64_t) {
    const int64_t channel = begin % w.channels, b = begin / w.channels, g = channel / c.inputs;
    for (int64_t h = 0; h < w.size[0]; h++)
      for (int64_t v = 0; v < w.size[1]; v++) {
        C sum{};
        for (int64_t k = 0; k < c.outputs; k++)
          for (int64_t r = 0; r < w.kernel[0]; r++)
            for (int64_t s = 0; s < w.kernel[1]; s++) {
              const int64_t i = h - w.at(0, r, 0), j = v - w.at(1, s, 0), o = g * c.outputs + k;
              if (i < 0 || j < 0 || i % w.stride[0] || j % w.stride[1] || i / w.stride[0] >= w.count[0] ||
                  j / w.stride[1] >= w.count[1])
                continue;
              sum += y.get(b, o, i / w.stride[0], j / w.stride[1]) * weight.get(o, channel % c.inputs, r, s);
            }
        x.set(b, channel, h, v, sum);
      }
  });
  return OG_OK;
}

template <class C>
int32_t weight_gradient(const Conv& c) {
  const Windows& w = c.w;
  const Elements<C> x{&c.x}, y{&c.y}, weight{&c.weight};
  parallel_ranges(c.groups * c.outputs * c.inputs, 1, [&](int64_t begin, int64_t) {
    const int64_t k = begin % c.inputs, o = begin / c.inputs, channel = o / c.outputs * c.inputs + k;
    for (int64_t r = 0; r < w.kernel[0]; r++)
      for (int64_t s = 0; s < w.kernel[1]; s++) {
        C sum{};
        for (int64_t b = 0; b < w.batch; b++)
          for (int64_t i = 0; i < w.count[0]; i++)
            for (int64_t j = 0; j < w.count[1]; j++) {
              const int64_t h = w.at(0, r, i), v = w.at(1, s, j);
              const bool inside = h >= 0 && h < w.size[0] && v >= 0 && v < w.size[1];
              sum += (inside ? x.get(b, channel, h, v) : C(0)) * y.get(b, o, i, j);
            }
        weight.set(o, k, r, s, sum);
      }
  });
  return OG_OK;
}

#else

/** Where the taps of the forward sum read, in memory of `frame`; false when memory is short. */
bool forward_reading(const Conv& c, ScratchFrame& frame, Reading* out) {
  const Windows& w = c.w;
  int64_t* at = frame.take<int64_t>(w.kernel[0] + 3 * w.kernel[1]);
  if (!at) return false;
  int64_t *row_at = at, *col_at = at + w.kernel[0], *first = col_at + w.kernel[1], *end = first + w.kernel[1];
  for (int64_t r = 0; r < w.kernel[0]; r++) row_at[r] = w.at(0, r, 0);
  for (int64_t s = 0; s < w.kernel[1]; s++) {
    col_at[s] = w.at(1, s, 0);
    w.inside(1, s, first + s, end + s);
  }
  *out = {planes_of(c.x),
          c.inputs,
          w.kernel[0],
          w.kernel[1],
          row_at,
          col_at,
          first,
          end,
          {w.size[0], w.size[1]},
          {w.stride[0], w.stride[1]},
          {w.count[0], w.count[1]},
          w.dilation[1] == 1};
  return true;
}

/** One axis of the gradient in x: positions `phase` + stride·t take the taps `taps`, which read t + at[…]. */
struct Phase {
  int64_t count, taps;
  int64_t *which, *at, *first, *end;
};

bool read_phase(const Windows& w, int axis, int64_t phase, ScratchFrame& frame, Phase* out) {
  const int64_t stride = w.stride[axis];
  out->count = w.size[axis] > phase ? (w.size[axis] - phase + stride - 1) / stride : 0;
  out->taps = 0;
  out->which = frame.take<int64_t>(4 * w.kernel[axis]);
  if (!out->which) return false;
  out->at = out->which + w.kernel[axis];
  out->first = out->at + w.kernel[axis];
  out->end = out->first + w.kernel[axis];
  for (int64_t k = 0; k < w.kernel[axis]; k++) {
    const int64_t lift = phase - w.at(axis, k, 0);
    if (lift % stride != 0) continue;
    const int64_t n = out->taps++, at = lift / stride, last = w.count[axis] - at;
    out->which[n] = k;
    out->at[n] = at;
    out->end[n] = last < 0 ? 0 : last < out->count ? last : out->count;
    const int64_t first = at < 0 ? -at : 0;
    out->first[n] = first < out->end[n] ? first : out->end[n];
  }
  return true;
}

/** All weights as dense floats. */
void stage_weights(const Conv& c, float* to) {
  const og_view& v = c.weight;
  const int64_t lines = v.shape[0] * c.inputs * c.w.kernel[0], length = c.w.kernel[1];
  parallel_ranges(lines, grain_for(length), [&](int64_t begin, int64_t end) {
    for (int64_t line = begin; line < end; line++)
      load_elements(data_of<const char>(v) + offset_of(v, line, 3) * dtype_size(v.dtype), v.dtype, v.strides[3], length,
                    to + line * length);
  });
}

/** All zeros. */
void fill_planes(const og_view& x) {
  parallel_ranges(x.shape[0] * x.shape[1] * x.shape[2], grain_for(x.shape[3]), [&](int64_t begin, int64_t end) {
    const float zero = 0;
    for (int64_t line = begin; line < end; line++) {
      char* to = data_of<char>(x) + offset_of(x, line, 3) * dtype_size(x.dtype);
      for (int64_t i = 0; i < x.shape[3]; i++) emit(&zero, 1, 1, 1, {to, x.dtype, 0, x.strides[3]}, 0, i);
    }
  });
}

int32_t forward(const Conv& c) {
  ScratchFrame frame;
  SumCall call{};
  if (!forward_reading(c, frame, &call.reading)) return fail(OG_OUT_OF_MEMORY, "conv2d: no memory for the taps");
  const int64_t taps = call.reading.taps(), rows = c.groups * c.outputs;
  call.images = c.w.batch;
  call.groups = c.groups;
  call.outputs = c.outputs;
  call.to = planes_of(c.y);
  if (c.bias.dtype >= 0) {
    float* bias = frame.take<float>(rows);
    OG_SCRATCH(bias, "the bias of conv2d");
    load_elements(c.bias.data, c.bias.dtype, c.bias.strides[0], rows, bias);
    call.bias = bias;
  }
  if (c.weight.dtype == OG_F32 && is_contiguous_tail(c.weight, 3)) {
    call.weights = {c.weight.data, OG_F32, c.weight.strides[0], 1};
  } else {
    float* copy = frame.take<float>(rows * taps);
    OG_SCRATCH(copy, "the weights of conv2d");
    stage_weights(c, copy);
    call.weights = {copy, OG_F32, taps, 1};
  }
  call.weights_group = c.outputs * call.weights.row;
  return sum_planes(call);
}

/** Weights [C, O/groups · taps] of each group, for the taps of a phase. */
void turn_weights(const Conv& c, const Phase& rows, const Phase& cols, float* to) {
  const og_view& v = c.weight;
  const int64_t taps = rows.taps * cols.taps, ld = c.outputs * taps;
  with_float_storage(v.dtype, [&](auto type) -> int32_t {
    const auto* from = data_of<const decltype(type)>(v);
    parallel_ranges(c.groups * c.inputs, grain_for(ld), [&](int64_t begin, int64_t end) {
      for (int64_t line = begin; line < end; line++) {
        const int64_t k = line % c.inputs, g = line / c.inputs;
        float* target = to + line * ld;
        for (int64_t o = 0; o < c.outputs; o++)
          for (int64_t r = 0; r < rows.taps; r++)
            for (int64_t s = 0; s < cols.taps; s++)
              *target++ = widen<float>(from[(g * c.outputs + o) * v.strides[0] + k * v.strides[1] +
                                            rows.which[r] * v.strides[2] + cols.which[s] * v.strides[3]]);
      }
    });
    return OG_OK;
  });
}

int32_t phase_of_gradient(const Conv& c, const Phase& rows, const Phase& cols, int64_t row, int64_t col) {
  const Windows& w = c.w;
  const Planes to = planes_of(c.x);
  SumCall call{};
  call.images = w.batch;
  call.groups = c.groups;
  call.outputs = c.inputs;
  call.to = to.at(row * to.row + col * to.column);
  call.to.row *= w.stride[0];
  call.to.column *= w.stride[1];
  call.reading = {planes_of(c.y),
                  c.outputs,
                  rows.taps,
                  cols.taps,
                  rows.at,
                  cols.at,
                  cols.first,
                  cols.end,
                  {w.count[0], w.count[1]},
                  {1, 1},
                  {rows.count, cols.count},
                  false};
  const int64_t taps = call.reading.taps();
  ScratchFrame frame;
  float* weights = frame.take<float>(w.channels * taps + 1);
  OG_SCRATCH(weights, "the weights of conv2d_input_gradient");
  turn_weights(c, rows, cols, weights);
  call.weights = {weights, OG_F32, taps, 1};
  call.weights_group = c.inputs * taps;
  return sum_planes(call);
}

/** Whether no element of the image lies in two windows, but some window holds several. */
bool lies_apart(const Windows& w) {
  for (int i = 0; i < 2; i++)
    if (w.count[i] > 1 && w.stride[i] <= w.dilation[i] * (w.kernel[i] - 1)) return false;
  return w.kernel[0] * w.kernel[1] > 1;
}

/** One product for all taps, and each result goes where it belongs. */
int32_t spread_gradient(const Conv& c) {
  const Windows& w = c.w;
  const int64_t taps = c.inputs * w.kernel[0] * w.kernel[1];
  ScratchFrame frame;
  SumCall call{};
  call.images = w.batch;
  call.groups = c.groups;
  call.outputs = taps;
  call.to = planes_of(c.x);
  call.spread = &c.w;
  int64_t* at = frame.take<int64_t>(4);
  OG_SCRATCH(at, "the taps of a convolution");
  at[0] = at[1] = at[2] = 0;
  at[3] = w.count[1];
  call.reading = {
      planes_of(c.y),           c.outputs, 1, 1, at, at + 1, at + 2, at + 3, {w.count[0], w.count[1]}, {1, 1},
      {w.count[0], w.count[1]}, true};
  if (is_contiguous_tail(c.weight, 3)) {
    call.weights = {c.weight.data, c.weight.dtype, 1, c.weight.strides[0]};
    call.weights_group = c.outputs * c.weight.strides[0];
  } else {
    float* copy = frame.take<float>(c.groups * c.outputs * taps);
    OG_SCRATCH(copy, "the weights of conv2d_input_gradient");
    stage_weights(c, copy);
    call.weights = {copy, OG_F32, 1, taps};
    call.weights_group = c.outputs * taps;
  }
  fill_planes(c.x);
  return sum_planes(call);
}

int32_t input_gradient(const Conv& c) {
  const Windows& w = c.w;
  if (lies_apart(w)) return spread_gradient(c);
  for (int64_t row = 0; row < w.stride[0] && row < w.size[0]; row++) {
    ScratchFrame frame;
    Phase rows;
    if (!read_phase(w, 0, row, frame, &rows)) return fail(OG_OUT_OF_MEMORY, "no memory for the taps of a convolution");
    for (int64_t col = 0; col < w.stride[1] && col < w.size[1]; col++) {
      ScratchFrame inner;
      Phase cols;
      if (!read_phase(w, 1, col, inner, &cols))
        return fail(OG_OUT_OF_MEMORY, "no memory for the taps of a convolution");
      OG_TRY(phase_of_gradient(c, rows, cols, row, col));
    }
  }
  return OG_OK;
}

int32_t weight_gradient(const Conv& c) {
  ScratchFrame frame;
  CorrelateCall call{};
  if (!forward_reading(c, frame, &call.reading))
    return fail(OG_OUT_OF_MEMORY, "no memory for the taps of a convolution");
  call.images = c.w.batch;
  call.groups = c.groups;
  call.outputs = c.outputs;
  call.with = planes_of(c.y);
  const int64_t rows = c.groups * c.outputs, taps = call.reading.taps();
  if (c.weight.dtype == OG_F32 && is_contiguous(c.weight)) {
    call.to = data_of<float>(c.weight);
    return correlate_planes(call);
  }
  call.to = frame.take<float>(rows * taps);
  OG_SCRATCH(call.to, "the gradient of a convolution's weights");
  OG_TRY(correlate_planes(call));
  const int64_t columns = c.w.kernel[1];
  for (int64_t line = 0; line < rows * c.inputs * c.w.kernel[0]; line++)
    emit(call.to + line * columns, columns, 1, columns,
         {data_of<char>(c.weight) + offset_of(c.weight, line, 3) * dtype_size(c.weight.dtype), c.weight.dtype, 0,
          c.weight.strides[3]},
         0, 0);
  return OG_OK;
}

#endif

#ifdef OG_IS_REFERENCE
#define OG_CONV(run, conv) with_float_compute((conv).x.dtype, [&](auto type) { return run<decltype(type)>(conv); })
#else
#define OG_CONV(run, conv) run(conv)
#endif

}  // namespace

int32_t kernel_conv2d(const og_call* call) {
  Conv c;
  OG_TRY(read_conv("conv2d", call->attrs, call->inputs[0], call->outputs[0], call->inputs[1], &c));
  const og_view& bias = call->inputs[2];
  if (is_present(bias)) {
    OG_REQUIRE(bias.rank == 1 && bias.shape[0] == c.weight.shape[0], "conv2d: expected a bias for each output");
    OG_SUPPORTED(bias.dtype == c.x.dtype, "conv2d: expected floats of one dtype");
    c.bias = bias;
  }
  return count_of(c.y) == 0 ? (int32_t)OG_OK : OG_CONV(forward, c);
}

int32_t kernel_conv2d_input_gradient(const og_call* call) {
  Conv c;
  OG_TRY(read_conv("conv2d_input_gradient", call->attrs, call->outputs[0], call->inputs[0], call->inputs[1], &c));
  return count_of(c.x) == 0 ? (int32_t)OG_OK : OG_CONV(input_gradient, c);
}

int32_t kernel_conv2d_weight_gradient(const og_call* call) {
  Conv c;
  OG_TRY(read_conv("conv2d_weight_gradient", call->attrs, call->inputs[0], call->inputs[1], call->outputs[0], &c));
  return count_of(c.weight) == 0 ? (int32_t)OG_OK : OG_CONV(weight_gradient, c);
}

}  // namespace OG_ISA
}  // namespace og
