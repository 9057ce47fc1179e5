/**
 * cross_entropy: F.cross_entropy(reduction='none') of logits [N, V] and class indices [N], its gradient, and both in
 * one call: cross_entropy_fused takes the gradient of each loss beforehand and passes twice over a row while it is
 * cached (Hsu et al. 2024, arXiv:2410.10989), the second time during the first of the next row (rows_in_turn.h), with
 * the bits of the two calls. loss = (1−ε)·w_t·(lse − x_t) + ε/V·Σ_c
 * w_c·(lse − x_c),  lse = ln Σ_c e^{x_c},  ε = label_smoothing, w absent: all 1 dlogits = grad·(A·p − ε/V·w −
 * (1−ε)·w_t·[c = t]),  p = e^{x − lse},  A = (1−ε)·w_t + ε/V·Σ w Rows whose target is ignore_index give loss 0, lse 0
 * and gradient 0 and are not read. Any other target outside [0, V) fails with OG_INDEX before anything is written.
 * Attributes of both calls: ignore_index, label_smoothing. Layout: rows.h; weight [V] float or absent; loss, lse
 * float32 (float64 for float64); dlogits may be logits itself. Algorithm: forward reads a row once, block by block
 * (Milakov and Gimelshein 2018, arXiv:1805.02867); backward reads and writes it once. Accumulation: float vectors over
 * 2048 elements, double beyond. Error: loss 4 ulp of |x − max|
 * + |ln V|; p is off by the rounding of lse, |lse|·2^-24 relative. A row with +∞ or NaN gives NaN, as in PyTorch.
 */
#include "rows_in_turn.h"

namespace og {
namespace OG_ISA {
namespace {

/** Σ w_c and Σ w_c·(x_c − shift) of a block; w may be NULL. */
struct Weighted {
  double weight, value;
};

#ifdef OG_IS_REFERENCE

template <class C>
Weighted weigh(const C* x, const C* w, C shift, int64_t n) {
  Weighted out = {0, 0};
  for (int64_t i = 0; i < n; i++) {
    const double c = w ? (double)w[i] : 1.;
    out.weight += c;
    out.value += c * ((double)x[i] - (double)shift);
  }
  return out;
}
/** out = a·e^{x − lse} − (w·b, or b) */
template <class C>
void gradient_block(const C* x, const C* w, double lse, double a, double b, C* out, int64_t n, bool) {
  for (int64_t i = 0; i < n; i++) out[i] = (C)(a * std::exp((double)x[i] - lse) - (w ? (double)w[i] * b : b));
}

#else

Weighted weigh(const float* x, const float* w, float shift, int64_t n) {
  const Vf m = set1(shift);
  if (w) {
    const double total = sum_row(w, n);
    return {total, (double)sum_vectors(x, w, n, [&](Vf v, Vf c) { return c * (v - m); })};
  }
  Vf s{};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) s = s + (load(x + i) - m);
  if (i < n) s = s + (load_partial(x + i, n - i, shift) - m);
  return {(double)n, (double)sum(s)};
}

/** A block of a·e^{x − lse} − b, vector by vector. */
struct GradientBlock {
  const float* x;
  Vf shift, scale, offset;

  GradientBlock(const float* x, double lse, double a, double b)
      : x(x), shift(set1((float)lse)), scale(set1((float)a)), offset(set1((float)b)) {}
  template <class Access>
  OG_INLINE Vf operator()(int64_t i, Access access) const {
    return scale * exp_difference(access(x + i) - shift) - offset;
  }
};
void gradient_block(const float* x, const float* w, double lse, double a, double b, float* out, int64_t n, bool past) {
  const GradientBlock gradient(x, lse, a, b);
  const auto write = [&](const auto& f) {
    if (past && kFetchesRows)
      stream_vectors(
          out, n, [&](int64_t i, auto access) { return f(i, access); },
          [&](int64_t i) __attribute__((always_inline)) { prefetch_second(x + i + kReadAhead); });
    else
      past ? finish_block<true>(n, out, f) : finish_block<false>(n, out, f);
  };
  if (!w) return write(gradient);
  write([&](int64_t i, auto access) {
    return gradient.scale * exp_difference(access(x + i) - gradient.shift) - access(w + i) * gradient.offset;
  });
}

#endif

constexpr int64_t kIgnored = -1;

/** Target of each row, kIgnored where it is ignore_index. */
int32_t read_targets(const char* name, const og_view& view, int64_t rows, int64_t classes, double ignore_index,
                     int64_t* out) {
  const RowOffsets offset(view, 1);
  for (int64_t r = 0; r < rows; r++) {
    const int64_t t =
        view.dtype == OG_I64 ? data_of<const int64_t>(view)[offset(r)] : data_of<const int32_t>(view)[offset(r)];
    if ((double)t == ignore_index)
      out[r] = kIgnored;
    else if (t >= 0 && t < classes)
      out[r] = t;
    else
      return fail(OG_INDEX, "%s: target %lld at position %lld is outside [0, %lld)", name, (long long)t, (long long)r,
                  (long long)classes);
  }
  return OG_OK;
}

/** Everything both passes need; the weight is staged, the targets are checked. */
template <class C>
struct Setup {
  int64_t rows, classes;
  double smoothing, total_weight;
  const int64_t* targets;
  const C* weight;
};

int32_t check(const char* name, const og_call* call) {
  const og_view &x = call->inputs[0], &target = call->inputs[1], &weight = call->inputs[2];
  OG_REQUIRE(x.rank == 2, "%s: expected logits of shape [N, V]", name);
  OG_SUPPORTED(dtype_is_float(x.dtype), "%s: expected float logits", name);
  OG_REQUIRE(is_vector(target, x.shape[0]), "%s: expected a target of shape [N]", name);
  OG_SUPPORTED(target.dtype == OG_I32 || target.dtype == OG_I64, "%s: expected an int32 or int64 target", name);
  if (is_present(weight)) {
    OG_REQUIRE(is_vector(weight, x.shape[1]), "%s: expected a weight of shape [V]", name);
    OG_SUPPORTED(dtype_is_float(weight.dtype), "%s: expected a float weight", name);
  }
  return OG_OK;
}

template <class C>
int32_t prepare(const char* name, const og_call* call, ScratchFrame& frame, Setup<C>* out) {
  const og_view &x = call->inputs[0], &target = call->inputs[1], &weight = call->inputs[2];
  out->rows = x.shape[0];
  out->classes = x.shape[1];
  out->smoothing = call->attrs[1];
  int64_t* targets = frame.take<int64_t>(out->rows);
  OG_SCRATCH(targets, "the targets of cross_entropy");
  OG_TRY(read_targets(name, target, out->rows, out->classes, call->attrs[0], targets));
  out->targets = targets;
  out->weight = nullptr;
  out->total_weight = (double)out->classes;
  if (!is_present(weight)) return OG_OK;
  if (is_native<C>(weight.dtype) && weight.strides[0] == 1) {
    out->weight = data_of<const C>(weight);
  } else {
    C* staged = frame.take<C>(padded(out->classes));
    OG_SCRATCH(staged, "the weight of cross_entropy");
    read_run(weight, 0, weight.strides[0], out->classes, staged);
    out->weight = staged;
  }
  out->total_weight = out->smoothing != 0 ? sum_row(out->weight, out->classes) : 0;
  return OG_OK;
}

template <class C>
struct LossAndSum {
  C loss, lse;
};

/** The pass over a row that counts, block by block. */
template <class C>
struct ForwardRow {
  const Setup<C>& setup;
  OnlineSum<C> total = {};
  double spread = 0;  // Σ w_c·x_c

  /** pass(shift, &largest): see OnlineSum. */
  template <class Pass>
  void add(const C* x, int64_t at, int64_t n, const Pass& pass) {
    total.add(x, n, pass);
    if (setup.smoothing == 0) return;
    const C shift = std::fabs(total.shift) < std::numeric_limits<C>::infinity() ? total.shift : C(0);
    const Weighted w = weigh(x, setup.weight ? setup.weight + at : nullptr, shift, n);
    spread += w.value + w.weight * (double)shift;
  }
  LossAndSum<C> end(const Rows<C>& logits, int64_t r) const {
    const int64_t t = setup.targets[r];
    C x_t;
    read_run(*logits.view, logits.offset(r) + t * logits.stride, 1, 1, &x_t);
    const double log_sum = std::log(total.sum), shift = (double)total.shift, smoothing = setup.smoothing;
    const double lse = total.shift == -std::numeric_limits<C>::infinity() ? (double)NAN : shift + log_sum;
    // differences from the shift first: they are exact, and log_sum is small
    double loss = (1 - smoothing) * (setup.weight ? (double)setup.weight[t] : 1.) * (shift - (double)x_t + log_sum);
    if (smoothing != 0) loss += smoothing / (double)setup.classes * (setup.total_weight * lse - spread);
    return {(C)loss, (C)lse};
  }
};

/** e^{x − shift} of a block summed, its largest element, and what is yet to be written of the row before. */
#ifndef OG_IS_REFERENCE
template <bool kPast, class Second>
OG_INLINE double forward_and_second(const float* x, int64_t n, const float* ahead, float shift, float* largest,
                                    float* to, const Second& second) {
  const Vf m = set1(shift);
  Vf most = set1(-__builtin_inff());
  const Vf total = block_in_turn<kPast>(
      n, ahead, to,
      [&](int64_t i, auto access) {
        const Vf v = access(x + i);
        most = max_second(v, most);
        return exp_difference(v - m);
      },
      [](int64_t, Vf, auto) {}, second);
  *largest = max_number(most);
  return (double)sum(total);
}
#endif

/** One row that counts, read once, block by block through `buffer` where it needs staging. */
template <class C>
LossAndSum<C> forward_row(const Setup<C>& s, const Rows<C>& logits, int64_t r, C* buffer) {
  ForwardRow<C> row{s};
  for (int64_t at = 0; at < s.classes; at += kSumBlock) {
    const int64_t count = std::min(s.classes - at, kSumBlock);
    const C* block = logits.read(r, at, count, buffer);
    row.add(block, at, count, [&](C shift, C* largest) { return exp_sum_max(block, shift, count, largest); });
  }
  return row.end(logits, r);
}

/** dlogits = a·e^{x − lse} − b·w, but for the target's. */
template <class C>
struct Gradient {
  double lse, a, b, hit;  // hit: taken from the target's
  int64_t target;

  Gradient(const Setup<C>& s, int64_t r, double lse, double grad) : lse(lse), target(s.targets[r]) {
    const double uniform = s.smoothing / (double)s.classes;
    const double own = target == kIgnored ? 0. : (1 - s.smoothing) * (s.weight ? (double)s.weight[target] : 1.);
    // an infinite lse makes every gradient NaN, not only that of the infinite logit
    a = grad * (own + uniform * s.total_weight) + (lse - lse);
    b = grad * uniform;
    hit = grad * own;
  }
  C at_target(const Setup<C>& s, double x_t) const {
    return (C)(a * std::exp(x_t - lse) - b * (s.weight ? (double)s.weight[target] : 1.) - hit);
  }
  void block(const Setup<C>& s, const C* x, int64_t at, int64_t n, C* out, bool past) const {
    gradient_block(x, s.weight && b != 0 ? s.weight + at : nullptr, lse, a, b, out, n, past);
  }
};

/** The gradient of one row; lse and grad are not read where the target is ignored. */
template <class C>
void backward_row(const Setup<C>& s, const Rows<C>& logits, const Rows<C>& out, int64_t r, double lse, double grad,
                  C* buffer) {
  const Gradient<C> gradient(s, r, lse, grad);
  const int64_t t = gradient.target;
  for (int64_t at = 0; at < s.classes; at += kSumBlock) {
    const int64_t count = std::min(s.classes - at, kSumBlock);
    C* target = out.past ? out.past_row(r) + at : out.target(r, at, buffer);
    if (t == kIgnored) {
      for (int64_t i = 0; i < count; i++) target[i] = 0;
    } else {
      const C* block = logits.read(r, at, count, buffer);
      const bool here = t >= at && t < at + count;
      const double x_t = here ? (double)block[t - at] : 0;
      gradient.block(s, block, at, count, target, out.past);
      if (here) target[t - at] = gradient.at_target(s, x_t);
    }
    if (!out.past) out.commit(r, at, count, target);
  }
}

template <class C>
int32_t forward(const og_call* call) {
  ScratchFrame frame;
  Setup<C> s;
  OG_TRY(prepare("cross_entropy", call, frame, &s));
  const Rows<C> logits(call->inputs[0]);
  const RowScalars<C> losses(call->outputs[0]), sums(call->outputs[1]);
  parallel_ranges(s.rows, grain_for(s.classes * 3), [&](int64_t begin, int64_t end) {
    alignas(64) C buffer[kSumBlock];
    for (int64_t r = begin; r < end; r++) {
      const LossAndSum<C> row = s.targets[r] == kIgnored ? LossAndSum<C>{0, 0} : forward_row(s, logits, r, buffer);
      losses.set(r, row.loss);
      sums.set(r, row.lse);
    }
  });
  return OG_OK;
}

template <class C>
int32_t backward(const og_call* call) {
  ScratchFrame frame;
  Setup<C> s;
  OG_TRY(prepare("cross_entropy_backward", call, frame, &s));
  const Rows<C> logits(call->inputs[0]), out(call->outputs[0], true, std::numeric_limits<int64_t>::max());
  const RowScalars<C> sums(call->inputs[3]), grads(call->inputs[4]);
  parallel_ranges(s.rows, grain_for(s.classes * 3), [&](int64_t begin, int64_t end) {
    const StreamEnd streams{out.past};
    alignas(64) C buffer[kSumBlock];
    for (int64_t r = begin; r < end; r++) {
      const double grad = s.targets[r] == kIgnored ? 0. : (double)grads.get(r);
      backward_row(s, logits, out, r, (double)sums.get(r), grad, buffer);
    }
  });
  return OG_OK;
}

#ifndef OG_IS_REFERENCE

/** Both passes over rows [begin, end) in turn; `out` may be the logits. */
template <bool kPast>
void both_in_turn(const Setup<float>& s, const Rows<float>& logits, const Rows<float>& out,
                  const RowScalars<float>& grads, const RowScalars<float>& losses, int64_t begin, int64_t end) {
  const int64_t n = s.classes, ahead = turn_ahead(logits, n);
  const auto row_of = [&](int64_t r) { return kPast ? out.past_row(r) : out.target(r, 0, nullptr); };
  const auto counts = [&](int64_t r) { return r >= begin && r < end && s.targets[r] != kIgnored; };
  Gradient<float> due(s, begin, 0, 0);  // of the row before
  float hit = 0;
  for (int64_t r = begin; r <= end; r++) {
    const float* x = counts(r) ? logits.read(r, 0, n, nullptr) : nullptr;
    const float* before = counts(r - 1) ? logits.read(r - 1, 0, n, nullptr) : nullptr;
    float* to = r > begin ? row_of(r - 1) : nullptr;
    const bool is_turn = x && before && !(s.weight && due.b != 0);
    ForwardRow<float> row{s};
    for (int64_t at = 0; at < n; at += kSumBlock) {
      const int64_t count = std::min(n - at, kSumBlock);
      if (before && !is_turn)
        due.block(s, before + at, at, count, to + at, kPast);
      else if (to && !before)
        std::fill(to + at, to + at + count, 0.f);
      if (!x) continue;
      const float* block = x + at;
      row.add(block, at, count, [&](float shift, float* largest) {
        if (!is_turn) return exp_sum_max(block, shift, count, largest);
        return forward_and_second<kPast>(block, count, block + ahead, shift, largest, to + at,
                                         GradientBlock(before + at, due.lse, due.a, due.b));
      });
    }
    if (before) to[due.target] = hit;
    if (r == end) break;
    const LossAndSum<float> result = x ? row.end(logits, r) : LossAndSum<float>{0, 0};
    losses.set(r, result.loss);
    if (!x) continue;
    due = Gradient<float>(s, r, (double)result.lse, (double)grads.get(r));
    hit = due.at_target(s, (double)x[due.target]);
  }
}

#endif

template <class C>
void both_rows(const Setup<C>& s, const Rows<C>& logits, const Rows<C>& out, const RowScalars<C>& grads,
               const RowScalars<C>& losses, int64_t begin, int64_t end) {
#ifndef OG_IS_REFERENCE
  const StreamEnd streams{out.past};
  if (are_in_turn(logits, out, s.classes))
    return out.past ? both_in_turn<true>(s, logits, out, grads, losses, begin, end)
                    : both_in_turn<false>(s, logits, out, grads, losses, begin, end);
#endif
  alignas(64) C buffer[kSumBlock];
  for (int64_t r = begin; r < end; r++) {
    const bool counts = s.targets[r] != kIgnored;
    const LossAndSum<C> row = counts ? forward_row(s, logits, r, buffer) : LossAndSum<C>{0, 0};
    losses.set(r, row.loss);
    backward_row(s, logits, out, r, (double)row.lse, counts ? (double)grads.get(r) : 0., buffer);
  }
}

template <class C>
int32_t both(const og_call* call) {
  ScratchFrame frame;
  Setup<C> s;
  OG_TRY(prepare("cross_entropy_fused", call, frame, &s));
  const Rows<C> logits(call->inputs[0]), out(call->outputs[1], true, kTurnRow);
  const RowScalars<C> grads(call->inputs[3]), losses(call->outputs[0]);
  parallel_ranges(s.rows, grain_in_turn(s.rows, s.classes * 5),
                  [&](int64_t begin, int64_t end) { both_rows(s, logits, out, grads, losses, begin, end); });
  return OG_OK;
}

}  // namespace

int32_t kernel_cross_entropy(const og_call* call) {
  OG_TRY(check("cross_entropy", call));
  for (int i = 0; i < 2; i++) {
    OG_REQUIRE(is_leading_shape(call->outputs[i], call->inputs[0]),
               "cross_entropy: expected loss and lse of shape [N]");
    OG_SUPPORTED(dtype_is_float(call->outputs[i].dtype), "cross_entropy: expected float loss and lse");
  }
  return with_float_compute(call->inputs[0].dtype, [&](auto type) { return forward<decltype(type)>(call); });
}

int32_t kernel_cross_entropy_backward(const og_call* call) {
  OG_TRY(check("cross_entropy_backward", call));
  for (int i = 3; i < 5; i++) {
    OG_REQUIRE(is_leading_shape(call->inputs[i], call->inputs[0]),
               "cross_entropy_backward: expected lse and grad of shape [N]");
    OG_SUPPORTED(dtype_is_float(call->inputs[i].dtype), "cross_entropy_backward: expected float lse and grad");
  }
  OG_REQUIRE(same_shape(call->outputs[0], call->inputs[0]),
             "cross_entropy_backward: expected dlogits of the shape of logits");
  OG_SUPPORTED(dtype_is_float(call->outputs[0].dtype), "cross_entropy_backward: expected float dlogits");
  return with_float_compute(call->inputs[0].dtype, [&](auto type) { return backward<decltype(type)>(call); });
}

int32_t kernel_cross_entropy_fused(const og_call* call) {
  const og_view &logits = call->inputs[0], &grad = call->inputs[3], &loss = call->outputs[0], &dx = call->outputs[1];
  OG_TRY(check("cross_entropy_fused", call));
  OG_REQUIRE(is_leading_shape(grad, logits) && is_leading_shape(loss, logits),
             "cross_entropy_fused: expected grad and loss of shape [N]");
  OG_REQUIRE(same_shape(dx, logits), "cross_entropy_fused: expected dlogits of the shape of logits");
  OG_SUPPORTED(dtype_is_float(grad.dtype) && dtype_is_float(loss.dtype) && dtype_is_float(dx.dtype),
               "cross_entropy_fused: expected floats");
  return with_float_compute(logits.dtype, [&](auto type) { return both<decltype(type)>(call); });
}

}  // namespace OG_ISA
}  // namespace og
