/**
 * swiglu: y = silu(a)·b, silu(a) = a·σ(a) (Shazeer 2020, arXiv:2002.05202), and its gradients
 *   da = grad·b·(σ(a) + a·σ(a)·(1 − σ(a))),  db = grad·silu(a),
 * each one pass over memory. Either gradient may be absent. Layout: operands of one shape, any strides, see
 * elementwise.h; a and b may be halves of one tensor, and so may da and db, or each may be an input itself.
 * float32, float16, bfloat16 compute in float, float64 in double on `reference`. Error: at most 5 ulp of the result
 * plus 1e-7·|a·b|, as silu. NaN passes through. Parallel split: by blocks, or by pieces of rows.
 */
#include "elementwise.h"
#include "rows.h"
#ifndef OG_IS_REFERENCE
#include "math.h"
#endif

namespace og {
namespace OG_ISA {
namespace {

constexpr int64_t kLeastRow = 64, kPiece = 4096;

#ifdef OG_IS_REFERENCE

template <class C>
void forward_run(const C* a, const C* b, C* y, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    const double x = (double)a[i];
    y[i] = (C)(x / (1 + std::exp(-x)) * (double)b[i]);
  }
}
template <class C>
void backward_run(const C* a, const C* b, const C* grad, C* da, C* db, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    const double x = (double)a[i], g = (double)grad[i], other = (double)b[i];
    const double s = 1 / (1 + std::exp(-x)), rest = 1 / (1 + std::exp(x));
    da[i] = (C)(g * other * (s + x * s * rest));
    db[i] = (C)(g * (x * s));
  }
}

#else

/** σ(x) and 1 − σ(x) through e^-|x|, without cancellation. */
struct Logistic {
  Vf value, rest;
};
OG_INLINE Logistic logistic(Vf x) {
  const Vf t = exp_nonpositive(-abs(x)), high = 1.f / (1.f + t), low = t * high;
  const Vi left = x < 0.f;
  return {select(left, low, high), select(left, high, low)};
}

void forward_run(const float* a, const float* b, float* y, int64_t n) {
  vectors2(a, b, y, n, [](Vf x, Vf other) { return x * logistic(x).value * other; });
}

OG_INLINE void gradients(Vf x, Vf other, Vf g, Vf* da, Vf* db) {
  const Logistic s = logistic(x);
  const Vf silu = x * s.value;
  *da = g * other * fma(silu, s.rest, s.value);
  *db = g * silu;
}
void backward_run(const float* a, const float* b, const float* grad, float* da, float* db, int64_t n) {
  Vf p, q;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    gradients(load(a + i), load(b + i), load(grad + i), &p, &q);
    store(da + i, p);
    store(db + i, q);
  }
  if (i < n) {
    gradients(load_partial(a + i, n - i), load_partial(b + i, n - i), load_partial(grad + i, n - i), &p, &q);
    store_partial(da + i, p, n - i);
    store_partial(db + i, q, n - i);
  }
}

#endif

/**
 * Rows of unit stride that do not follow one another, as halves of a tensor: worked on in place, not through staging.
 * body(operands, n) gets a piece of each view.
 */
template <class C, int N, class F>
bool in_rows(const og_view* const (&views)[N], const F& body) {
  const og_view& first = *views[0];
  if (first.rank < 2 || first.shape[first.rank - 1] < kLeastRow) return false;
  for (int k = 0; k < N; k++)
    if (!Rows<C>(*views[k]).direct) return false;
  if (Loop<N>(views).rank <= 1) return false;  // one run: blocks of it are longer
  const int64_t n = first.shape[first.rank - 1], pieces = (n + kPiece - 1) / kPiece;
  const int64_t rows = leading_count(first);
  parallel_ranges(rows * pieces, grain_for(n < kPiece ? n : kPiece), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t at = i % pieces * kPiece, count = n - at < kPiece ? n - at : kPiece;
      C* at_row[N];
      for (int k = 0; k < N; k++)
        at_row[k] = data_of<C>(*views[k]) + offset_of(*views[k], i / pieces, first.rank - 1) + at;
      body(at_row, count);
    }
  });
  return true;
}

}  // namespace

int32_t kernel_swiglu(const og_call* call) {
  const og_view* const inputs[2] = {&call->inputs[0], &call->inputs[1]};
  OG_SUPPORTED(
      dtype_is_float(inputs[0]->dtype) && dtype_is_float(inputs[1]->dtype) && dtype_is_float(call->outputs[0].dtype),
      "swiglu: expected floats");
  return with_float_compute(inputs[0]->dtype, [&](auto type) {
    typedef decltype(type) C;
    const og_view* const views[3] = {inputs[0], inputs[1], &call->outputs[0]};
    OG_REQUIRE(same_shape(*views[1], *views[0]) && same_shape(*views[2], *views[0]),
               "swiglu: operands differ in shape");
    if (in_rows<C>(views, [](C* const* at, int64_t n) { forward_run(at[0], at[1], at[2], n); })) return (int32_t)OG_OK;
    return map_blocks<C>(inputs, call->outputs[0],
                         [](const C* const* in, C* out, int64_t n) { forward_run(in[0], in[1], out, n); });
  });
}

int32_t kernel_swiglu_backward(const og_call* call) {
  const og_view &a = call->inputs[0], &b = call->inputs[1], &grad = call->inputs[2];
  const og_view *da = &call->outputs[0], *db = &call->outputs[1];
  const bool wants_a = is_present(*da), wants_b = is_present(*db);
  // an absent output is walked as the gradient is, and not written
  const og_view* const views[5] = {&a, &b, &grad, wants_a ? da : &grad, wants_b ? db : &grad};
  for (int k = 0; k < 5; k++) {
    OG_REQUIRE(same_shape(*views[k], a), "swiglu_backward: operands differ in shape");
    OG_SUPPORTED(dtype_is_float(views[k]->dtype), "swiglu_backward: expected floats");
  }
  return with_float_compute(a.dtype, [&](auto type) {
    typedef decltype(type) C;
    if (wants_a && wants_b &&
        in_rows<C>(views, [](C* const* at, int64_t n) { backward_run(at[0], at[1], at[2], at[3], at[4], n); }))
      return (int32_t)OG_OK;
    const Loop<5> loop(views);
    parallel_ranges(loop.count, kBlock * kBlocksPerChunk, [&](int64_t begin, int64_t end) {
      alignas(64) C buffers[5][kBlock];
      for (int64_t at = begin; at < end; at += kBlock) {
        const int64_t n = end - at < kBlock ? end - at : kBlock;
        const C* in[3];
        for (int k = 0; k < 3; k++) in[k] = stage_in<C>(loop, k, *views[k], at, n, buffers[k]);
        backward_run(in[0], in[1], in[2], buffers[3], buffers[4], n);
        if (wants_a) stage_out<C>(loop, 3, *da, at, n, buffers[3]);
        if (wants_b) stage_out<C>(loop, 4, *db, at, n, buffers[4]);
      }
    });
    return (int32_t)OG_OK;
  });
}

}  // namespace OG_ISA
}  // namespace og
