/**
 * layer_norm (Ba, Kiros and Hinton 2016, arXiv:1607.06450) and rms_norm (Zhang and Sennrich 2019, arXiv:1910.07467)
 * along the last axis, length D, with their gradients. Layout: rows.h; weight and bias have shape [D] or are absent;
 * mean and rstd have the shape of the leading axes (float32, float64 for float64) and may be absent in the forward
 * call. layer_norm: y = (x − mean)·rstd·weight + bias, rstd = 1/√(var + eps), var over D about the mean. rms_norm: y
 * = x·rstd·weight, rstd = 1/√(mean(x²) + eps). Gradients, x̂ = (x − mean)·rstd, h = grad·weight: dx = rstd·(h − mean(h)
 * − x̂·mean(h·x̂)), for rms_norm without the mean(h); dweight = Σ grad·x̂ and dbias = Σ grad over all rows; each output
 * may be absent. add_layer_norm and add_rms_norm normalise x + residual, which is their first output; the gradient that
 * comes to that sum by itself (optional) is added to dx in the same pass. Accumulation: float vectors over 2048
 * elements of a row, double beyond; dweight and dbias float over 128 rows, double beyond. Error: y at most 8 ulp of
 * |x̂·weight| plus 1 ulp of |y|. Parallel split: by rows. dweight and dbias: at most 64 pieces of rows, fixed by the
 * shape, added in order.
 */
#include "rows.h"

namespace og {
namespace OG_ISA {
namespace {

constexpr int64_t kMaxPieces = 64;
constexpr int64_t kRowsInFloat = 128;

/** 1/√v, in double: it is needed once a row. */
inline double inverse_root(double v) { return 1. / std::sqrt(v); }

/** Rows whose sums for dweight and dbias are taken together. */
constexpr int kTogether = 2;

/** A row of the gradient: what is known of it, where its sums go, and what of later rows to fetch meanwhile. */
template <class C>
struct Slope {
  const C *x, *grad, *extra;
  const C *next_x, *next_grad, *next_extra;
  double mean, rstd;
  double* sums;
};

#ifdef OG_IS_REFERENCE

/** mean, rounded to C, and Σ (x − mean)². */
template <class C>
void find_moments(const C* x, int64_t n, double* mean, double* squares) {
  *mean = (double)(C)(sum_row(x, n) / (double)n);
  *squares = 0;
  for (int64_t i = 0; i < n; i++) *squares += ((double)x[i] - *mean) * ((double)x[i] - *mean);
}
/**
 * y = (x − mean)·rstd·weight + bias; weight and bias may be NULL. The vector version fetches `ahead`, and writes past
 * the caches if asked to.
 */
template <class C>
void normalize_row(const C* x, double mean, double rstd, const C* weight, const C* bias, C* y, int64_t n, const C*,
                   bool) {
  for (int64_t i = 0; i < n; i++) {
    const double v = ((double)x[i] - mean) * rstd * (weight ? (double)weight[i] : 1.);
    y[i] = (C)(bias ? v + (double)bias[i] : v);
  }
}
/** For each of R rows: dweight += grad·x̂, dbias += grad (where not NULL); sums[0] = Σ h, sums[1] = Σ h·x̂. */
template <int R, class C>
void gradient_sums(const Slope<C>* rows, const C* weight, C* dweight, C* dbias, int64_t n) {
  for (int k = 0; k < R; k++) {
    double sums[2] = {0, 0};
    for (int64_t i = 0; i < n; i++) {
      const double normal = ((double)rows[k].x[i] - rows[k].mean) * rows[k].rstd, g = (double)rows[k].grad[i];
      const double h = weight ? g * (double)weight[i] : g;
      if (dweight) dweight[i] = (C)((double)dweight[i] + g * normal);
      if (dbias) dbias[i] = (C)((double)dbias[i] + g);
      sums[0] += h;
      sums[1] += h * normal;
    }
    rows[k].sums[0] = sums[0];
    rows[k].sums[1] = sums[1];
  }
}
/** dx = rstd·(h − first − x̂·second) + extra; weight and extra may be NULL. */
template <class C>
void gradient_row(const Slope<C>& row, const C* weight, double first, double second, C* dx, int64_t n, bool) {
  for (int64_t i = 0; i < n; i++) {
    const double normal = ((double)row.x[i] - row.mean) * row.rstd;
    const double h = (double)row.grad[i] * (weight ? (double)weight[i] : 1.);
    dx[i] = (C)(row.rstd * (h - first - normal * second) + (row.extra ? (double)row.extra[i] : 0.));
  }
}
template <class C>
void add_row(const C* a, const C* b, C* sum, int64_t n) {
  for (int64_t i = 0; i < n; i++) sum[i] = (C)((double)a[i] + (double)b[i]);
}

#else

double squares_row(const float* x, double mean, int64_t n) {
  const Vf center = set1((float)mean);
  return sum_blocks(n, [&](int64_t at, int64_t count) {
    return sum_vectors(x + at, count, (float)mean, [&](Vf v) {
      const Vf d = v - center;
      return d * d;
    });
  });
}

/**
 * mean, rounded to float, and Σ (x − mean)² in one pass over the deviations from a pivot, the mean of the first four
 * vectors. False where that is more than half a standard deviation away, or something is not finite.
 */
bool moments_at_once(const float* x, int64_t n, double* mean, double* squares) {
  const Vf head = (load(x) + load(x + kLanes)) + (load(x + 2 * kLanes) + load(x + 3 * kLanes));
  const float pivot = sum(head) / (float)(4 * kLanes);
  const Vf center = set1(pivot);
  double total = 0, total_squares = 0;
  for (int64_t at = 0; at < n; at += kSumBlock) {
    const int64_t end = n - at < kSumBlock ? n : at + kSumBlock;
    Vf s[4] = {}, q[4] = {};
    int64_t i = at;
    for (; i + 4 * kLanes <= end; i += 4 * kLanes)
      for (int k = 0; k < 4; k++) {
        const Vf d = load(x + i + k * kLanes) - center;
        s[k] = s[k] + d;
        q[k] = fma(d, d, q[k]);
      }
    for (; i < end; i += kLanes) {
      const Vf d = (end - i < kLanes ? load_partial(x + i, end - i, pivot) : load(x + i)) - center;
      s[0] = s[0] + d;
      q[0] = fma(d, d, q[0]);
    }
    total += sum((s[0] + s[1]) + (s[2] + s[3]));
    total_squares += sum((q[0] + q[1]) + (q[2] + q[3]));
  }
  *mean = (double)(float)((double)pivot + total / (double)n);
  const double shift = *mean - (double)pivot, between = (double)n * shift * shift;
  *squares = total_squares - 2 * shift * total + between;
  return 4 * between <= *squares;
}

/** mean, rounded to float, and Σ (x − mean)². Short rows take less time in two passes. */
void find_moments(const float* x, int64_t n, double* mean, double* squares) {
  if (n >= 8 * kLanes && moments_at_once(x, n, mean, squares)) return;
  *mean = (double)(float)(sum_row(x, n) / (double)n);
  *squares = squares_row(x, *mean, n);
}

/**
 * Calls body(i, load, store) for the vectors of a row; the last call moves only what is left of it. fetch(i) is called
 * once a line.
 */
template <class F, class Fetch>
OG_INLINE void each_vector(int64_t n, const F& body, const Fetch& fetch) {
  constexpr int64_t line = kStreamLine / 4;
  const auto whole = [](const float* p) { return load(p); };
  const auto put = [](float* p, Vf v) { store(p, v); };
  int64_t i = 0;
  for (; i + line <= n; i += line) {
    fetch(i);
    for (int64_t k = i; k < i + line; k += kLanes) body(k, whole, put);
  }
  for (; i + kLanes <= n; i += kLanes) body(i, whole, put);
  if (i < n) {
    const int64_t rest = n - i;
    body(
        i, [rest](const float* p) { return load_partial(p, rest); },
        [rest](float* p, Vf v) { store_partial(p, v, rest); });
  }
}

/** y[i …] = f(i, get), past the caches if asked to. */
template <class F, class Fetch>
OG_INLINE void write_vectors(float* y, int64_t n, bool past, const F& f, const Fetch& fetch) {
  if (past)
    stream_vectors(y, n, f, fetch);
  else
    each_vector(
        n, [&](int64_t i, auto get, auto put) __attribute__((always_inline)) { put(y + i, f(i, get)); }, fetch);
}

void normalize_row(const float* x, double mean, double rstd, const float* weight, const float* bias, float* y,
                   int64_t n, const float* ahead, bool past) {
  const Vf center = set1((float)mean), scale = set1((float)rstd);
  if (!ahead) ahead = x;
  const auto write = [&](const auto& f) __attribute__((always_inline)) {
    write_vectors(
        y, n, past, f, [&](int64_t i) __attribute__((always_inline)) { prefetch_second(ahead + i); });
  };
  if (weight && bias)
    write([&](int64_t i, auto get) { return fma((get(x + i) - center) * scale, get(weight + i), get(bias + i)); });
  else if (weight)
    write([&](int64_t i, auto get) { return (get(x + i) - center) * scale * get(weight + i); });
  else if (bias)
    write([&](int64_t i, auto get) { return fma(get(x + i) - center, scale, get(bias + i)); });
  else
    write([&](int64_t i, auto get) { return (get(x + i) - center) * scale; });
}

/** R rows at a time, so that what is summed over rows is read and written once for all of them. */
template <int R, bool kWeight, bool kDWeight, bool kDBias>
void sums_of(const Slope<float>* rows, const float* weight, float* dweight, float* dbias, int64_t n) {
  const float *x[R], *grad[R], *next[R];
  Vf center[R], scale[R];
  double sums[R][2] = {};
  for (int k = 0; k < R; k++) {
    x[k] = rows[k].x, grad[k] = rows[k].grad, next[k] = rows[k].next_x;
    center[k] = set1((float)rows[k].mean);
    scale[k] = set1((float)rows[k].rstd);
  }
  for (int64_t at = 0; at < n; at += kSumBlock) {
    Vf s0[R] = {}, s1[R] = {};
    const auto step = [&](int64_t j, auto get, auto put) __attribute__((always_inline)) {
      const int64_t i = at + j;
      const Vf w = kWeight ? get(weight + i) : Vf{};
      Vf dw = kDWeight ? get(dweight + i) : Vf{}, db = kDBias ? get(dbias + i) : Vf{};
#pragma GCC unroll 2
      for (int k = 0; k < R; k++) {
        // g is 0 in lanes beyond the row
        const Vf normal = (get(x[k] + i) - center[k]) * scale[k], g = get(grad[k] + i);
        const Vf h = kWeight ? g * w : g;
        if (kDWeight) dw = fma(g, normal, dw);
        if (kDBias) db = g + db;
        s0[k] = s0[k] + h;
        s1[k] = fma(h, normal, s1[k]);
      }
      if (kDWeight) put(dweight + i, dw);
      if (kDBias) put(dbias + i, db);
    };
    each_vector(
        n - at < kSumBlock ? n - at : kSumBlock, step, [&](int64_t j) __attribute__((always_inline)) {
#pragma GCC unroll 2
          for (int k = 0; k < R; k++) prefetch_second(next[k] + at + j);
        });
    for (int k = 0; k < R; k++) {
      sums[k][0] += sum(s0[k]);
      sums[k][1] += sum(s1[k]);
    }
  }
  for (int k = 0; k < R; k++) {
    rows[k].sums[0] = sums[k][0];
    rows[k].sums[1] = sums[k][1];
  }
}

template <int R>
void gradient_sums(const Slope<float>* rows, const float* weight, float* dweight, float* dbias, int64_t n) {
  const auto pick = [&](auto with_weight) {
    constexpr bool w = decltype(with_weight)::value;
    if (dweight && dbias)
      sums_of<R, w, true, true>(rows, weight, dweight, dbias, n);
    else if (dweight)
      sums_of<R, w, true, false>(rows, weight, dweight, dbias, n);
    else if (dbias)
      sums_of<R, w, false, true>(rows, weight, dweight, dbias, n);
    else
      sums_of<R, w, false, false>(rows, weight, dweight, dbias, n);
  };
  if (weight)
    pick(std::true_type{});
  else
    pick(std::false_type{});
}

void add_row(const float* a, const float* b, float* to, int64_t n) {
  each_vector(
      n, [&](int64_t i, auto get, auto put) { put(to + i, get(a + i) + get(b + i)); }, [](int64_t) {});
}

template <bool kWeight, bool kExtra>
void slopes_of(const Slope<float>& row, const float* weight, float first, float second, float* dx, int64_t n,
               bool past) {
  const float *x = row.x, *grad = row.grad, *extra = row.extra, *next = row.next_grad, *next_extra = row.next_extra;
  const Vf center = set1((float)row.mean), scale = set1((float)row.rstd), a = set1(first), b = set1(second);
  write_vectors(
      dx, n, past,
      [&](int64_t i, auto get) __attribute__((always_inline)) {
        const Vf normal = (get(x + i) - center) * scale;
        const Vf h = kWeight ? get(grad + i) * get(weight + i) : get(grad + i);
        const Vf slope = scale * ((h - a) - normal * b);
        return kExtra ? slope + get(extra + i) : slope;
      },
      [&](int64_t i) __attribute__((always_inline)) {
        prefetch_second(next + i);
        if (kExtra) prefetch_second(next_extra + i);
      });
}

void gradient_row(const Slope<float>& row, const float* weight, double first, double second, float* dx, int64_t n,
                  bool past) {
  const auto run = [&](auto slopes) { slopes(row, weight, (float)first, (float)second, dx, n, past); };
  if (weight)
    run(row.extra ? slopes_of<true, true> : slopes_of<true, false>);
  else
    run(row.extra ? slopes_of<false, true> : slopes_of<false, false>);
}

#endif

int32_t check_weight(const char* name, const og_view& weight, int64_t n) {
  if (!is_present(weight)) return OG_OK;
  OG_REQUIRE(is_vector(weight, n), "%s: expected weight and bias of the length of the last axis", name);
  OG_SUPPORTED(dtype_is_float(weight.dtype), "%s: expected a float weight", name);
  return OG_OK;
}

/** A [n] operand as contiguous numbers of type C, staged if need be; NULL if absent. */
template <class C>
int32_t stage_vector(const og_view& v, int64_t n, ScratchFrame& frame, const C** out) {
  *out = nullptr;
  if (!is_present(v)) return OG_OK;
  if (is_native<C>(v.dtype) && (v.strides[0] == 1 || n <= 1)) {
    *out = data_of<const C>(v);
    return OG_OK;
  }
  C* buffer = frame.take<C>(padded(n));
  OG_SCRATCH(buffer, "the weight of a normalisation");
  read_run(v, 0, v.strides[0], n, buffer);
  *out = buffer;
  return OG_OK;
}

/** What is added to x before, and where the sum goes. */
struct Residual {
  const og_view *value, *sum;
};

template <class C>
int32_t forward(const char* name, bool centered, const og_view& x, const Residual* residual, const og_view& weight,
                const og_view* bias, const og_view& y, const og_view* mean_out, const og_view& rstd_out, double eps) {
  const int64_t n = x.shape[x.rank - 1], rows = leading_count(x);
  ScratchFrame frame;
  const C *w, *b = nullptr;
  OG_TRY(stage_vector(weight, n, frame, &w));
  if (bias) OG_TRY(stage_vector(*bias, n, frame, &b));
  const Rows<C> from(x), to(y, true), other(residual ? *residual->value : x);
  const Rows<C> sums(residual ? *residual->sum : x, residual != nullptr);
  const RowScalars<C> rstds(rstd_out);
  const int64_t size = padded(n);
  const int64_t scratch = from.direct && to.direct && other.direct && sums.direct ? 0 : 2 * size;
  return parallel_rows<C>(rows, grain_for(n), scratch, name, [&](int64_t begin, int64_t end, C* buffer) {
    for (int64_t r = begin; r < end; r++) {
      const C* row = from.read(r, 0, n, buffer);
      if (residual) {
        C* sum = sums.target(r, 0, buffer);
        add_row(row, other.read(r, 0, n, scratch ? buffer + size : buffer), sum, n);
        sums.commit(r, 0, n, sum);
        row = sums.past ? sum
                        : sums.read(r, 0, n, buffer);  // as it was rounded, since that is what the gradient will see
      }
      double mean = 0, squares;
      if (centered)
        find_moments(row, n, &mean, &squares);  // rounded, so that the backward pass, which reads C, sees the same mean
      else
        squares = dot_row(row, row, n);
      const double rstd = inverse_root(squares / (double)n + eps);
      C* target = to.past ? to.past_row(r) : to.target(r, 0, buffer);
      normalize_row(row, mean, rstd, w, b, target, n, from.ahead(r, rows), to.past);
      if (!to.past) to.commit(r, 0, n, target);
      if (mean_out && is_present(*mean_out)) RowScalars<C>(*mean_out).set(r, (C)mean);
      if (is_present(rstd_out)) rstds.set(r, (C)rstd);
    }
  });
}

template <class C>
int32_t backward(const char* name, const og_view& x, const og_view& weight, const og_view* mean_in,
                 const og_view& rstd_in, const og_view& grad, const og_view* sum_grad, const og_view& dx,
                 const og_view& dweight, const og_view* dbias) {
  const int64_t n = x.shape[x.rank - 1], rows = leading_count(x);
  const bool wants_dx = is_present(dx), wants_dw = is_present(dweight), wants_db = dbias && is_present(*dbias);
  ScratchFrame frame;
  const C* w;
  OG_TRY(stage_vector(weight, n, frame, &w));
  // pieces of rows whose dweight and dbias are kept apart, then added in order
  int64_t grain = grain_for(2 * n), pieces = (rows + grain - 1) / grain;
  if (pieces > kMaxPieces) {
    grain = (rows + kMaxPieces - 1) / kMaxPieces;
    pieces = (rows + grain - 1) / grain;
  }
  const int64_t size = padded(n), sums_size = (wants_dw ? size : 0) + (wants_db ? size : 0);
  double* partials = nullptr;
  if (sums_size > 0) {
    partials = frame.take<double>(sums_size * (pieces > 0 ? pieces : 1));
    OG_SCRATCH(partials, "the partial sums of a normalisation");
  }
  const bool has_extra = sum_grad && is_present(*sum_grad);
  const Rows<C> values(x), grads(grad), to(wants_dx ? dx : grad, wants_dx), extras(has_extra ? *sum_grad : grad);
  const RowScalars<C> means(mean_in ? *mean_in : rstd_in), rstds(rstd_in);
  const bool reads_directly = values.direct && grads.direct && extras.direct;
  const bool fetches = reads_directly && n <= kPastRow;  // what is fetched must not push out what is computed on
  const int64_t row_scratch = reads_directly && to.direct ? 0 : 3 * size;
  OG_TRY(parallel_rows<C>(rows, grain, row_scratch + sums_size, name, [&](int64_t begin, int64_t end, C* scratch) {
    C* staged = scratch;
    C* dw = wants_dw ? scratch + row_scratch : nullptr;
    C* db = wants_db ? scratch + row_scratch + (wants_dw ? size : 0) : nullptr;
    double* total = partials ? partials + begin / grain * sums_size : nullptr;
    if (total) std::memset(total, 0, (size_t)sums_size * sizeof(double));
    for (int64_t first = begin; first < end; first += kRowsInFloat) {
      const int64_t last = end - first < kRowsInFloat ? end : first + kRowsInFloat;
      if (sums_size > 0) std::memset(scratch + row_scratch, 0, (size_t)sums_size * sizeof(C));
      for (int64_t r = first; r < last;) {
        const int count = reads_directly && r + kTogether <= last ? kTogether : 1;  // staged rows share one buffer
        double sums[kTogether][2];
        Slope<C> slopes[kTogether];
        for (int k = 0; k < count; k++) {
          slopes[k].x = values.read(r + k, 0, n, staged);
          slopes[k].grad = grads.read(r + k, 0, n, row_scratch ? staged + size : staged);
          slopes[k].extra = has_extra ? extras.read(r + k, 0, n, row_scratch ? staged + 2 * size : staged) : nullptr;
          slopes[k].next_x = fetches ? values.ahead(r + k, rows, kTogether) : slopes[k].x;
          slopes[k].next_grad = fetches ? grads.ahead(r + k, rows, kTogether) : slopes[k].grad;
          slopes[k].next_extra = fetches ? extras.ahead(r + k, rows, kTogether) : slopes[k].extra;
          slopes[k].mean = mean_in ? (double)means.get(r + k) : 0.;
          slopes[k].rstd = (double)rstds.get(r + k);
          slopes[k].sums = sums[k];
        }
        if (count == kTogether)
          gradient_sums<kTogether>(slopes, w, dw, db, n);
        else
          gradient_sums<1>(slopes, w, dw, db, n);
        for (int k = 0; k < count && wants_dx; k++) {
          const Slope<C>& s = slopes[k];
          C* target = to.past ? to.past_row(r + k) : to.target(r + k, 0, staged);
          gradient_row(s, w, mean_in ? sums[k][0] / (double)n : 0., sums[k][1] / (double)n, target, n, to.past);
          if (!to.past) to.commit(r + k, 0, n, target);
        }
        r += count;
      }
      for (int64_t i = 0; i < sums_size; i++) total[i] += (double)scratch[row_scratch + i];
    }
  }));
  if (sums_size == 0) return OG_OK;
  return parallel_rows<double>(n, grain_for(pieces * 2), kSumBlock, name, [&](int64_t begin, int64_t end, double* sum) {
    for (int64_t at = begin; at < end; at += kSumBlock) {
      const int64_t count = end - at < kSumBlock ? end - at : kSumBlock;
      for (int which = 0; which < 2; which++) {
        if (which == 0 ? !wants_dw : !wants_db) continue;
        const double* from = partials + (which == 1 && wants_dw ? size : 0) + at;
        std::memset(sum, 0, (size_t)count * sizeof(double));
        for (int64_t p = 0; p < pieces; p++)
          for (int64_t i = 0; i < count; i++) sum[i] += from[p * sums_size + i];
        const og_view& out = which == 0 ? dweight : *dbias;
        write_run(out, at * out.strides[0], out.strides[0], count, sum);
      }
    }
  });
}

int32_t check_rows(const char* name, const og_view& x, const og_view& other) {
  OG_REQUIRE(x.rank >= 1 && same_shape(x, other), "%s: expected operands of one shape with a last axis", name);
  OG_SUPPORTED(dtype_is_float(x.dtype) && dtype_is_float(other.dtype), "%s: expected floats", name);
  return OG_OK;
}
int32_t check_statistic(const char* name, const og_view& v, const og_view& x) {
  OG_REQUIRE(is_leading_shape(v, x), "%s: expected mean and rstd of the shape of the leading axes", name);
  OG_SUPPORTED(dtype_is_float(v.dtype), "%s: expected float statistics", name);
  return OG_OK;
}

int32_t layer_norm_gradient(const char* name, const og_call* call, const og_view* sum_grad) {
  const og_view &x = call->inputs[0], &weight = call->inputs[1], &mean = call->inputs[2], &rstd = call->inputs[3];
  const og_view &grad = call->inputs[4], &dx = call->outputs[0], &dweight = call->outputs[1], &dbias = call->outputs[2];
  OG_TRY(check_rows(name, x, grad));
  const int64_t n = x.shape[x.rank - 1];
  if (is_present(dx)) OG_TRY(check_rows(name, x, dx));
  if (sum_grad && is_present(*sum_grad)) OG_TRY(check_rows(name, x, *sum_grad));
  OG_TRY(check_weight(name, weight, n));
  OG_TRY(check_weight(name, dweight, n));
  OG_TRY(check_weight(name, dbias, n));
  OG_TRY(check_statistic(name, mean, x));
  OG_TRY(check_statistic(name, rstd, x));
  return with_float_compute(x.dtype, [&](auto type) {
    return backward<decltype(type)>(name, x, weight, &mean, rstd, grad, sum_grad, dx, dweight, &dbias);
  });
}

int32_t rms_norm_gradient(const char* name, const og_call* call, const og_view* sum_grad) {
  const og_view &x = call->inputs[0], &weight = call->inputs[1], &rstd = call->inputs[2], &grad = call->inputs[3];
  const og_view &dx = call->outputs[0], &dweight = call->outputs[1];
  OG_TRY(check_rows(name, x, grad));
  if (is_present(dx)) OG_TRY(check_rows(name, x, dx));
  if (sum_grad && is_present(*sum_grad)) OG_TRY(check_rows(name, x, *sum_grad));
  OG_TRY(check_weight(name, weight, x.shape[x.rank - 1]));
  OG_TRY(check_weight(name, dweight, x.shape[x.rank - 1]));
  OG_TRY(check_statistic(name, rstd, x));
  return with_float_compute(x.dtype, [&](auto type) {
    return backward<decltype(type)>(name, x, weight, nullptr, rstd, grad, sum_grad, dx, dweight, nullptr);
  });
}

}  // namespace

int32_t kernel_layer_norm(const og_call* call) {
  const og_view &x = call->inputs[0], &weight = call->inputs[1], &bias = call->inputs[2];
  const og_view &y = call->outputs[0], &mean = call->outputs[1], &rstd = call->outputs[2];
  OG_TRY(check_rows("layer_norm", x, y));
  const int64_t n = x.shape[x.rank - 1];
  OG_TRY(check_weight("layer_norm", weight, n));
  OG_TRY(check_weight("layer_norm", bias, n));
  if (is_present(mean)) OG_TRY(check_statistic("layer_norm", mean, x));
  if (is_present(rstd)) OG_TRY(check_statistic("layer_norm", rstd, x));
  return with_float_compute(x.dtype, [&](auto type) {
    return forward<decltype(type)>("layer_norm", true, x, nullptr, weight, &bias, y, &mean, rstd, call->attrs[0]);
  });
}

int32_t kernel_rms_norm(const og_call* call) {
  const og_view &x = call->inputs[0], &weight = call->inputs[1], &y = call->outputs[0], &rstd = call->outputs[1];
  OG_TRY(check_rows("rms_norm", x, y));
  OG_TRY(check_weight("rms_norm", weight, x.shape[x.rank - 1]));
  if (is_present(rstd)) OG_TRY(check_statistic("rms_norm", rstd, x));
  return with_float_compute(x.dtype, [&](auto type) {
    return forward<decltype(type)>("rms_norm", false, x, nullptr, weight, nullptr, y, nullptr, rstd, call->attrs[0]);
  });
}

int32_t kernel_add_layer_norm(const og_call* call) {
  const og_view &x = call->inputs[0], &other = call->inputs[1], &weight = call->inputs[2], &bias = call->inputs[3];
  const og_view &sum = call->outputs[0], &y = call->outputs[1], &mean = call->outputs[2], &rstd = call->outputs[3];
  OG_TRY(check_rows("add_layer_norm", x, other));
  OG_TRY(check_rows("add_layer_norm", x, sum));
  OG_TRY(check_rows("add_layer_norm", x, y));
  OG_TRY(check_weight("add_layer_norm", weight, x.shape[x.rank - 1]));
  OG_TRY(check_weight("add_layer_norm", bias, x.shape[x.rank - 1]));
  if (is_present(mean)) OG_TRY(check_statistic("add_layer_norm", mean, x));
  if (is_present(rstd)) OG_TRY(check_statistic("add_layer_norm", rstd, x));
  const Residual residual = {&other, &sum};
  return with_float_compute(x.dtype, [&](auto type) {
    return forward<decltype(type)>("add_layer_norm", true, x, &residual, weight, &bias, y, &mean, rstd, call->attrs[0]);
  });
}

int32_t kernel_add_rms_norm(const og_call* call) {
  const og_view &x = call->inputs[0], &other = call->inputs[1], &weight = call->inputs[2];
  const og_view &sum = call->outputs[0], &y = call->outputs[1], &rstd = call->outputs[2];
  OG_TRY(check_rows("add_rms_norm", x, other));
  OG_TRY(check_rows("add_rms_norm", x, sum));
  OG_TRY(check_rows("add_rms_norm", x, y));
  OG_TRY(check_weight("add_rms_norm", weight, x.shape[x.rank - 1]));
  if (is_present(rstd)) OG_TRY(check_statistic("add_rms_norm", rstd, x));
  const Residual residual = {&other, &sum};
  return with_float_compute(x.dtype, [&](auto type) {
    return forward<decltype(type)>("add_rms_norm", false, x, &residual, weight, nullptr, y, nullptr, rstd,
                                   call->attrs[0]);
  });
}

int32_t kernel_layer_norm_backward(const og_call* call) {
  return layer_norm_gradient("layer_norm_backward", call, nullptr);
}
int32_t kernel_add_layer_norm_backward(const og_call* call) {
  return layer_norm_gradient("add_layer_norm_backward", call, &call->inputs[5]);
}
int32_t kernel_rms_norm_backward(const og_call* call) { return rms_norm_gradient("rms_norm_backward", call, nullptr); }
int32_t kernel_add_rms_norm_backward(const og_call* call) {
  return rms_norm_gradient("add_rms_norm_backward", call, &call->inputs[4]);
}

}  // namespace OG_ISA
}  // namespace og
