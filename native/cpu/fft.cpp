/**
 * rfft: y[…, k, :] = s_k · (Re, Im) Σ_j x[…, j] e^{-2πi·jk/n}, k = 0 … n/2, of real x [..., n]; y is [..., n/2 + 1, 2].
 * irfft: x[…, j] = Re Σ_k s_k · y[…, k] e^{+2πi·jk/n}, the transpose of rfft. In both s_k is attribute 0 at k = 0 and
 * k = n/2, attribute 1 between: with 1/n and 2/n irfft is the inverse of rfft, with 1 and 1 its gradient.
 *
 * Algorithm: fft.h, on signals of n/2 complex numbers where n is even (Sorensen et al. 1987), of n where it is odd.
 * A vector holds one row in each lane; a single row, and very long ones, run one by one.
 * Rows do not see each other: NaN stays in its own. float32, float16 and bfloat16 compute in float; error about
 * 2^-23·log2(n) of the row's largest |y| (irfft: of Σ|s·y|). Parallel split: by groups of rows.
 * `reference`: the definition in double up to kDefinition, beyond it fft.h in double.
 */
#include "fft.h"

#include "rows.h"
#ifndef OG_IS_REFERENCE
#include "gemm_pack.h"
#endif

namespace og {
namespace OG_ISA {
namespace {

#ifdef OG_IS_REFERENCE
typedef double Root;
constexpr int64_t kDefinition = 1024;
#else
typedef float Root;
#endif

/** One transform of real rows: the lengths, the factors s, and the plan of the complex one inside. */
struct Real {
  int64_t n, bins, half;  // half: n/2 if n is even, else 0
  Root edge, middle;
  Plan<Root> plan;
  const Root *re, *im;  // e^{-2πi·k/n} for k < bins, where n is even

  Root factor(int64_t k) const { return k == 0 || 2 * k == n ? edge : middle; }
};

int32_t prepare(const char* name, int64_t n, const double* attrs, ScratchFrame& frame, Real* out) {
  out->n = n;
  out->bins = n / 2 + 1;
  out->half = n % 2 == 0 ? n / 2 : 0;
  out->edge = (Root)attrs[0];
  out->middle = (Root)attrs[1];
  if (!make_plan(out->half ? out->half : n, frame, &out->plan))
    return fail(OG_OUT_OF_MEMORY, "no memory for the tables of %s", name);
  if (!out->half) return OG_OK;
  Root* roots = frame.take<Root>(2 * out->bins);
  OG_SCRATCH(roots, "the roots of unity of a real transform");
  fill_roots(n, out->bins, roots, roots + out->bins);
  out->re = roots;
  out->im = roots + out->bins;
  return OG_OK;
}

/** Numbers of type V that one group needs: two signals, and the spectrum of the rows. */
int64_t numbers_of(const Real& real) { return 4 * padded(real.plan.length) + 2 * padded(real.bins); }

template <class V>
struct Buffers {
  Signal<V> first, second, bins;

  Buffers(V* memory, const Real& real) {
    const int64_t length = padded(real.plan.length);
    first = {memory, memory + length};
    second = {memory + 2 * length, memory + 3 * length};
    bins = {memory + 4 * length, memory + 4 * length + padded(real.bins)};
  }
};

/** Number k of the spectrum, from the transform z of the samples. */
template <class V>
OG_FFT Complex<V> bin_of(const Real& real, const Signal<V>& z, int64_t k) {
  const Root s = real.factor(k);
  if (!real.half) return {z.re[k] * s, z.im[k] * s};
  const Root half = s * (Root)0.5;
  const int64_t here = k == real.half ? 0 : k, there = k == 0 ? 0 : real.half - k;
  const Complex<V> a = z.get(here), b = {z.re[there], -z.im[there]};
  const Complex<V> odd = times(turned(b - a), real.re[k], real.im[k]), sum = a + b + odd;
  return {sum.re * half, sum.im * half};
}

/** From the spectrum in `bins` to samples; where they are. */
template <class V>
Signal<V> backward_group(const Real& real, const Buffers<V>& at) {
  for (int64_t k = 0; k < real.bins; k++) {
    const bool is_edge = k == 0 || k == real.half;
    const Root s = is_edge ? real.edge : real.middle * (Root)0.5;
    at.bins.set(k, {at.bins.re[k] * s, is_edge ? V{} : at.bins.im[k] * s});
  }
  if (!real.half) {
    at.first.set(0, at.bins.get(0));
    for (int64_t k = 1; k < real.bins; k++) {
      at.first.set(k, at.bins.get(k));
      at.first.set(real.n - k, {at.bins.re[k], -at.bins.im[k]});
    }
    return transform_back(real.plan, at.first, at.second);
  }
  for (int64_t k = 0; k < real.half; k++) {
    const int64_t there = real.half - k;
    const Complex<V> a = at.bins.get(k), b = {at.bins.re[there], -at.bins.im[there]};
    at.first.set(k, a + b + turned(times(a - b, real.re[k], -real.im[k])));
  }
  return transform_back(real.plan, at.first, at.second);
}

/** The rows of the spectrum, [..., bins, 2]: each as one run of 2·bins numbers. */
template <class C>
struct Spectra {
  const og_view* view;
  RowOffsets offset;
  int64_t bins, bin_stride, part_stride;
  bool direct;

  explicit Spectra(const og_view& v) : view(&v), offset(v, v.rank - 2) {
    bins = v.shape[v.rank - 2];
    bin_stride = v.strides[v.rank - 2];
    part_stride = v.strides[v.rank - 1];
    direct = is_native<C>(v.dtype) && part_stride == 1 && (bin_stride == 2 || bins == 1);
  }
  const C* read(int64_t row, C* buffer) const {
    if (direct) return data_of<const C>(*view) + offset(row);
    for (int part = 0; part < 2; part++) {
      C* run = buffer + 2 * bins + part * bins;
      read_run(*view, offset(row) + part * part_stride, bin_stride, bins, run);
      for (int64_t k = 0; k < bins; k++) buffer[2 * k + part] = run[k];
    }
    return buffer;
  }
  C* target(int64_t row, C* buffer) const { return direct ? data_of<C>(*view) + offset(row) : buffer; }
  void commit(int64_t row, C* from) const {
    if (direct) return;
    for (int part = 0; part < 2; part++) {
      C* run = from + 2 * bins + part * bins;
      for (int64_t k = 0; k < bins; k++) run[k] = from[2 * k + part];
      write_run(*view, offset(row) + part * part_stride, bin_stride, bins, run);
    }
  }
};

/** Numbers of type C for a staged row: the samples, or a spectrum beside its parts. */
int64_t staging_of(const Real& real) { return 4 * real.bins + 16; }

/** One row. */
template <class C>
void forward_row(const Real& real, const Rows<C>& from, const Spectra<C>& to, int64_t row, Root* memory, C* staging) {
  const Buffers<Root> at(memory, real);
  const C* x = from.read(row, 0, real.n, staging);
  for (int64_t j = 0; j < real.plan.n; j++)
    at.first.set(j, real.half ? Complex<Root>{(Root)x[2 * j], (Root)x[2 * j + 1]} : Complex<Root>{(Root)x[j], 0});
  const Signal<Root> z = transform(real.plan, at.first, at.second);
  C* y = to.target(row, staging);
  for (int64_t k = 0; k < real.bins; k++) {
    const Complex<Root> bin = bin_of(real, z, k);
    y[2 * k] = (C)bin.re;
    y[2 * k + 1] = (C)bin.im;
  }
  to.commit(row, y);
}

template <class C>
void backward_row(const Real& real, const Spectra<C>& from, const Rows<C>& to, int64_t row, Root* memory, C* staging) {
  const Buffers<Root> at(memory, real);
  const C* y = from.read(row, staging);
  for (int64_t k = 0; k < real.bins; k++) at.bins.set(k, {(Root)y[2 * k], (Root)y[2 * k + 1]});
  const Signal<Root> samples = backward_group(real, at);
  C* x = to.target(row, 0, staging);
  if (real.half)
    for (int64_t j = 0; j < real.half; j++) {
      x[2 * j] = (C)samples.re[j];
      x[2 * j + 1] = (C)samples.im[j];
    }
  else
    for (int64_t j = 0; j < real.n; j++) x[j] = (C)samples.re[j];
  to.commit(row, 0, real.n, x);
}

#ifndef OG_IS_REFERENCE

/** The j-th of real and imaginary parts in turn. Branches: UBSan of GCC 12 goes wrong with `(odd ? im : re)[…]`. */
OG_FFT void put_part(const Signal<Vf>& z, int64_t j, Vf v) {
  if (j % 2)
    z.im[j / 2] = v;
  else
    z.re[j / 2] = v;
}
OG_FFT Vf part_of(const Signal<Vf>& z, int64_t j) {
  if (j % 2) return z.im[j / 2];
  return z.re[j / 2];
}

/** put(j, v) with the j-th numbers of `count` rows in the lanes of v, for j < n; further lanes hold zeros. */
template <class F>
OG_FFT void load_lanes(const float* const* rows, int count, int64_t n, const F& put) {
  const float* at[kLanes];
  for (int r = 0; r < count; r++) at[r] = rows[r];
  for (int64_t j = 0; j < n; j += kLanes) {
    const int here = lanes_left(n - j, 0);
    Vf block[kBlockK];
    transpose_block(at, count, here, block);
#pragma GCC unroll 16
    for (int t = 0; t < kBlockK; t++)
      if (t < here) put(j + t, block[t]);
    for (int r = 0; r < count; r++) at[r] += here;
  }
}

/** The other way: lane r of get(j) becomes the j-th number of row r. */
template <class F>
OG_FFT void store_lanes(float* const* rows, int count, int64_t n, const F& get) {
  for (int64_t j = 0; j < n; j += kLanes) {
    const int here = lanes_left(n - j, 0);
    Vf block[kBlockK], lines[kBlockK];
#pragma GCC unroll 16
    for (int t = 0; t < kBlockK; t++) block[t] = t < here ? get(j + t) : Vf{};
    transpose_lanes(block, lines);
#pragma GCC unroll 16
    for (int r = 0; r < kBlockK; r++) {
      if (r >= count) continue;
      if (here == kLanes)
        store(rows[r] + j, lines[r]);
      else
        store_first(rows[r] + j, lines[r], here);
    }
  }
}

/** forward_rows for a row in each lane of Vf: rows change places with lanes in registers. */
void forward_lanes(const Real& real, const Rows<float>& from, const Spectra<float>& to, int64_t begin, int64_t end,
                   Vf* memory, float* staging) {
  const Buffers<Vf> at(memory, real);
  const int count = (int)(end - begin);
  const int64_t room = staging_of(real);
  const float* x[kLanes];
  float* y[kLanes];
  for (int r = 0; r < count; r++) x[r] = from.read(begin + r, 0, real.n, staging + r * room);
  if (real.half)
    load_lanes(x, count, real.n, [&](int64_t j, Vf v) { put_part(at.first, j, v); });
  else
    load_lanes(x, count, real.n, [&](int64_t j, Vf v) { at.first.set(j, {v, Vf{}}); });
  const Signal<Vf> z = transform(real.plan, at.first, at.second);
  for (int r = 0; r < count; r++) y[r] = to.target(begin + r, staging + r * room);
  Complex<Vf> bin{};
  store_lanes(y, count, 2 * real.bins, [&](int64_t j) {
    if (j % 2) return bin.im;
    bin = bin_of(real, z, j / 2);
    return bin.re;
  });
  for (int r = 0; r < count; r++) to.commit(begin + r, y[r]);
}

void backward_lanes(const Real& real, const Spectra<float>& from, const Rows<float>& to, int64_t begin, int64_t end,
                    Vf* memory, float* staging) {
  const Buffers<Vf> at(memory, real);
  const int count = (int)(end - begin);
  const int64_t room = staging_of(real);
  const float* y[kLanes];
  float* x[kLanes];
  for (int r = 0; r < count; r++) y[r] = from.read(begin + r, staging + r * room);
  load_lanes(y, count, 2 * real.bins, [&](int64_t j, Vf v) { put_part(at.bins, j, v); });
  const Signal<Vf> samples = backward_group(real, at);
  for (int r = 0; r < count; r++) x[r] = to.target(begin + r, 0, staging + r * room);
  if (real.half)
    store_lanes(x, count, real.n, [&](int64_t j) { return part_of(samples, j); });
  else
    store_lanes(x, count, real.n, [&](int64_t j) { return samples.re[j]; });
  for (int r = 0; r < count; r++) to.commit(begin + r, 0, real.n, x[r]);
}

#endif

/** run(begin, end, memory, staging) for groups of as many rows as V has lanes. */
template <class V, class N, class C, class F>
int32_t groups(const char* name, const Real& real, int64_t rows, const F& run) {
  constexpr int64_t lanes = (int64_t)(sizeof(V) / sizeof(N));
  const int64_t grain = grain_for(real.plan.length * 8) * lanes;
  int32_t failed = 0;
  parallel_ranges(rows, grain, [&](int64_t begin, int64_t end) {
    ScratchFrame frame;
    V* memory = frame.take<V>(numbers_of(real));
    C* staging = frame.take<C>(staging_of(real) * lanes);
    if (!memory || !staging) {
      __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
      return;
    }
    for (int64_t at = begin; at < end; at += lanes) run(at, at + lanes < end ? at + lanes : end, memory, staging);
  });
  if (failed) return fail(OG_OUT_OF_MEMORY, "no memory for the rows of %s", name);
  return OG_OK;
}

#ifdef OG_IS_REFERENCE

/** The definition, in double. */
template <class C>
int32_t by_definition(const char* name, bool is_forward, const Real& real, const double* attrs, int64_t rows,
                      const Rows<C>& signal, const Spectra<C>& spectrum) {
  const int64_t n = real.n;
  ScratchFrame frame;
  double* roots = frame.take<double>(2 * n);
  OG_SCRATCH(roots, "the roots of unity of a definition");
  fill_roots(n, n, roots, roots + n);
  const auto factor = [&](int64_t k) { return k == 0 || 2 * k == n ? attrs[0] : attrs[1]; };
  return parallel_rows<C>(rows, grain_for(n * n), staging_of(real) + n, name,
                          [&](int64_t begin, int64_t end, C* memory) {
                            C* second = memory + staging_of(real);  // of n numbers: a row of samples
                            for (int64_t row = begin; row < end; row++) {
                              if (is_forward) {
                                const C* x = signal.read(row, 0, n, second);
                                C* y = spectrum.target(row, memory);
                                for (int64_t k = 0; k < real.bins; k++) {
                                  double re = 0, im = 0;
                                  for (int64_t j = 0; j < n; j++) {
                                    re += (double)x[j] * roots[j * k % n];
                                    im += (double)x[j] * roots[n + j * k % n];
                                  }
                                  y[2 * k] = (C)(re * factor(k));
                                  y[2 * k + 1] = (C)(im * factor(k));
                                }
                                spectrum.commit(row, y);
                              } else {
                                const C* y = spectrum.read(row, memory);
                                C* x = signal.target(row, 0, second);
                                for (int64_t j = 0; j < n; j++) {
                                  double sum = 0;
                                  for (int64_t k = 0; k < real.bins; k++) {
                                    const bool is_edge = k == 0 || 2 * k == n;  // where the sine is 0
                                    const double im = is_edge ? 0 : (double)y[2 * k + 1] * roots[n + j * k % n];
                                    sum += factor(k) * ((double)y[2 * k] * roots[j * k % n] + im);
                                  }
                                  x[j] = (C)sum;
                                }
                                signal.commit(row, 0, n, x);
                              }
                            }
                          });
}

#endif

/** Beyond this many numbers a group of lanes would take too much memory (64 MiB a thread). */
constexpr int64_t kGroupNumbers = 1 << 20;

template <class C>
int32_t run(const char* name, bool is_forward, const og_view& signal, const og_view& spectrum, const double* attrs) {
  const int64_t n = signal.shape[signal.rank - 1], rows = leading_count(signal);
  const Rows<C> samples(signal);
  const Spectra<C> bins(spectrum);
  ScratchFrame frame;
  Real real;
  OG_TRY(prepare(name, n, attrs, frame, &real));
#ifdef OG_IS_REFERENCE
  if (n <= kDefinition) return by_definition(name, is_forward, real, attrs, rows, samples, bins);
#endif
#ifndef OG_IS_REFERENCE
  if (rows > 1 && numbers_of(real) <= kGroupNumbers)
    return groups<Vf, float, C>(name, real, rows, [&](int64_t begin, int64_t end, Vf* memory, C* staging) {
      if (is_forward)
        forward_lanes(real, samples, bins, begin, end, memory, staging);
      else
        backward_lanes(real, bins, samples, begin, end, memory, staging);
    });
#endif
  return groups<Root, Root, C>(name, real, rows, [&](int64_t begin, int64_t end, Root* memory, C* staging) {
    if (is_forward)
      forward_row(real, samples, bins, begin, memory, staging);
    else
      backward_row(real, bins, samples, begin, memory, staging);
    (void)end;
  });
}

/** signal [..., n] and spectrum [..., n/2 + 1, 2]. */
int32_t check(const char* name, const og_view& signal, const og_view& spectrum) {
  OG_SUPPORTED(dtype_is_float(signal.dtype) && dtype_is_float(spectrum.dtype), "%s: expected floats", name);
  OG_REQUIRE(signal.rank >= 1 && spectrum.rank == signal.rank + 1, "%s: expected [..., n] and [..., n/2 + 1, 2]", name);
  const int axis = signal.rank - 1;
  OG_REQUIRE(
      signal.shape[axis] >= 1 && spectrum.shape[axis] == signal.shape[axis] / 2 + 1 && spectrum.shape[axis + 1] == 2,
      "%s: expected n/2 + 1 pairs for n numbers, n at least 1", name);
  for (int i = 0; i < axis; i++)
    OG_REQUIRE(signal.shape[i] == spectrum.shape[i], "%s: leading axis %d differs", name, i);
  return OG_OK;
}

}  // namespace

int32_t kernel_rfft(const og_call* call) {
  const og_view &x = call->inputs[0], &y = call->outputs[0];
  OG_TRY(check("rfft", x, y));
  if (count_of(y) == 0) return OG_OK;
  return with_float_compute(x.dtype, [&](auto type) { return run<decltype(type)>("rfft", true, x, y, call->attrs); });
}

int32_t kernel_irfft(const og_call* call) {
  const og_view &y = call->inputs[0], &x = call->outputs[0];
  OG_TRY(check("irfft", x, y));
  if (count_of(y) == 0) return OG_OK;
  return with_float_compute(y.dtype, [&](auto type) { return run<decltype(type)>("irfft", false, x, y, call->attrs); });
}

}  // namespace OG_ISA
}  // namespace og
