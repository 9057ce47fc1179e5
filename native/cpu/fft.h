/**
 * Complex discrete Fourier transforms of any length, of one signal or of one in each lane of a vector: mixed radix in
 * Stockham's form (no bit reversal, two buffers; butterflies of 2, 3, 4, 5 and 8, other primes up to kLargestPrime by
 * the definition), and Bluestein's chirp transform (1970) where a larger prime divides the length. Roots of unity are
 * computed in double and rounded once. Error: about ε·log2(n) of the largest output, ε that of the type.
 */
#ifndef OMNIGRAD_CPU_FFT_H
#define OMNIGRAD_CPU_FFT_H

#include <cmath>
#include <type_traits>

#include "../core/scratch.h"
#ifndef OG_IS_REFERENCE
#include "simd.h"
#endif

namespace og {
namespace {

#define OG_FFT inline __attribute__((always_inline))

constexpr int64_t kLargestPrime = 31;
constexpr double kTurn = 6.283185307179586476925;

/** e^{-2πi·k/n} for 0 ≤ k < n, exact at the quarters. */
inline void root_of_unity(int64_t k, int64_t n, double* re, double* im) {
  const int64_t eighths = 8 * (k % n) / n;  // 8n is far below 2^63: a plan of that length has no memory
  const int64_t quarter = (eighths + 1) / 2 % 4;
  const double angle = kTurn * ((double)(k - (eighths + 1) / 2 * n / 4.) / (double)n);
  const double c = std::cos(angle), s = std::sin(angle);
  *re = quarter == 0 ? c : quarter == 1 ? -s : quarter == 2 ? -c : s;
  *im = -(quarter == 0 ? s : quarter == 1 ? c : quarter == 2 ? -s : -c);
}

/** All n of them; long tables as products of two shorter ones. */
template <class T>
void fill_roots(int64_t n, int64_t count, T* re, T* im) {
  constexpr int64_t kPart = 512;
  double small_re[kPart], small_im[kPart];
  for (int64_t k = 0; k < kPart && k < count; k++) root_of_unity(k, n, &small_re[k], &small_im[k]);
  for (int64_t base = 0; base < count; base += kPart) {
    double r, i;
    root_of_unity(base, n, &r, &i);
    for (int64_t k = 0; k < kPart && base + k < count; k++) {
      double x = r * small_re[k] - i * small_im[k], y = r * small_im[k] + i * small_re[k];
      if (4 * (base + k) % n == 0) root_of_unity(base + k, n, &x, &y);
      re[base + k] = (T)x;
      im[base + k] = (T)y;
    }
  }
}

/** T: the type of roots. */
template <class T>
struct Plan {
  int64_t n = 1;
  int64_t length = 1;  // of the mixed-radix transform: n, or that of Bluestein's convolution
  int count = 0;
  int32_t factors[64];
  const T *re = nullptr, *im = nullptr;                    // roots of order `length`
  const T *chirp_re = nullptr, *chirp_im = nullptr;        // e^{-πi·j²/n}
  const T *spectrum_re = nullptr, *spectrum_im = nullptr;  // of its conjugate, divided by length
  bool is_chirp() const { return chirp_re != nullptr; }
};

template <class V>
struct Complex {
  V re, im;
};
template <class V, class T>
OG_FFT Complex<V> times(Complex<V> a, T re, T im) {
  return {a.re * re - a.im * im, a.re * im + a.im * re};
}
#ifndef OG_IS_REFERENCE
OG_FFT Complex<Vf> times(Complex<Vf> a, float re, float im) {
  const Vf r = set1(re), i = set1(im);
  return {fma(a.re, r, -(a.im * i)), fma(a.re, i, a.im * r)};
}
#endif
template <class V>
OG_FFT Complex<V> operator+(Complex<V> a, Complex<V> b) {
  return {a.re + b.re, a.im + b.im};
}
template <class V>
OG_FFT Complex<V> operator-(Complex<V> a, Complex<V> b) {
  return {a.re - b.re, a.im - b.im};
}
/** i·a */
template <class V>
OG_FFT Complex<V> turned(Complex<V> a) {
  return {-a.im, a.re};
}

/** Two arrays of numbers. */
template <class V>
struct Signal {
  V *re, *im;
  OG_FFT Complex<V> get(int64_t i) const { return {re[i], im[i]}; }
  OG_FFT void set(int64_t i, Complex<V> x) const {
    re[i] = x.re;
    im[i] = x.im;
  }
};

/** b = DFT of order p of a; for p without a butterfly of its own. */
template <class V, class T>
void small_transform(const Plan<T>& plan, int p, const Complex<V>* a, Complex<V>* b) {
  const int64_t step = plan.length / p;
  for (int j = 0; j < p; j++) {
    Complex<V> sum = a[0];
    for (int r = 1; r < p; r++) {
      const int64_t at = j * r % p * step;
      sum = sum + times(a[r], plan.re[at], plan.im[at]);
    }
    b[j] = sum;
  }
}

/** e^{-2πi/4·jk} summed over four numbers. */
template <class V>
OG_FFT void butterfly_4(Complex<V> a0, Complex<V> a1, Complex<V> a2, Complex<V> a3, Complex<V>* b) {
  const Complex<V> even = a0 + a2, odd = a1 + a3, low = a0 - a2, high = turned(a1 - a3);
  b[0] = even + odd;
  b[1] = low - high;
  b[2] = even - odd;
  b[3] = low + high;
}

template <class V, class T>
OG_FFT void butterfly(const Plan<T>& plan, int p, const Complex<V>* a, Complex<V>* b) {
  if (p == 2) {
    b[0] = a[0] + a[1];
    b[1] = a[0] - a[1];
  } else if (p == 3) {
    const T sine = (T)0.86602540378443864676;
    const Complex<V> sum = a[1] + a[2], difference = a[1] - a[2];
    const Complex<V> rest = {a[0].re - sum.re * (T)0.5, a[0].im - sum.im * (T)0.5};
    const Complex<V> side = turned(Complex<V>{difference.re * sine, difference.im * sine});
    b[0] = a[0] + sum;
    b[1] = rest - side;
    b[2] = rest + side;
  } else if (p == 4) {
    butterfly_4(a[0], a[1], a[2], a[3], b);
  } else if (p == 8) {
    const T half = (T)0.70710678118654752440;
    Complex<V> even[4], odd[4];
    butterfly_4(a[0], a[2], a[4], a[6], even);
    butterfly_4(a[1], a[3], a[5], a[7], odd);
    odd[1] = {(odd[1].re + odd[1].im) * half, (odd[1].im - odd[1].re) * half};
    odd[2] = {odd[2].im, -odd[2].re};
    odd[3] = {(odd[3].im - odd[3].re) * half, -(odd[3].re + odd[3].im) * half};
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
      b[j] = even[j] + odd[j];
      b[j + 4] = even[j] - odd[j];
    }
  } else if (p == 5) {
    const T c1 = (T)0.30901699437494742410, c2 = (T)-0.80901699437494742410;
    const T s1 = (T)0.95105651629515357212, s2 = (T)0.58778525229247312917;
    const Complex<V> t1 = a[1] + a[4], t2 = a[2] + a[3], t3 = a[1] - a[4], t4 = a[2] - a[3];
    const Complex<V> m1 = {a[0].re + t1.re * c1 + t2.re * c2, a[0].im + t1.im * c1 + t2.im * c2};
    const Complex<V> m2 = {a[0].re + t1.re * c2 + t2.re * c1, a[0].im + t1.im * c2 + t2.im * c1};
    const Complex<V> n1 = turned(Complex<V>{t3.re * s1 + t4.re * s2, t3.im * s1 + t4.im * s2});
    const Complex<V> n2 = turned(Complex<V>{t3.re * s2 - t4.re * s1, t3.im * s2 - t4.im * s1});
    b[0] = a[0] + t1 + t2;
    b[1] = m1 - n1;
    b[2] = m2 - n2;
    b[3] = m2 + n2;
    b[4] = m1 + n1;
  } else {
    small_transform(plan, p, a, b);
  }
}

/** One pass of Stockham's transform: sub-transforms of length l, each of stride s, split by the factor P (0: `p`). */
template <int P, class V, class T>
void pass(const Plan<T>& plan, int p, int64_t l, int64_t s, const Signal<V>& x, const Signal<V>& y) {
  if (P != 0) p = P;
  const int64_t m = l / p, step = plan.length / l, far = s * m;
  Complex<V> a[P ? P : kLargestPrime] = {}, b[P ? P : kLargestPrime] = {};
  for (int64_t q = 0; q < s; q++) {  // k = 0, whose roots are 1
#pragma GCC unroll 8
    for (int r = 0; r < p; r++) a[r] = x.get(q + far * r);
    butterfly<V>(plan, p, a, b);
#pragma GCC unroll 8
    for (int j = 0; j < p; j++) y.set(q + s * j, b[j]);
  }
  for (int64_t k = 1; k < m; k++)
    for (int64_t q = 0; q < s; q++) {
#pragma GCC unroll 8
      for (int r = 0; r < p; r++) a[r] = x.get(q + s * k + far * r);
      butterfly<V>(plan, p, a, b);
      y.set(q + s * p * k, b[0]);
#pragma GCC unroll 8
      for (int j = 1; j < p; j++) {
        const int64_t at = j * k * step;
        y.set(q + s * (p * k + j), times(b[j], plan.re[at], plan.im[at]));
      }
    }
}

template <class V, class T>
void pass_of(const Plan<T>& plan, int p, int64_t l, int64_t s, const Signal<V>& x, const Signal<V>& y) {
  switch (p) {
    case 2:
      return pass<2>(plan, p, l, s, x, y);
    case 3:
      return pass<3>(plan, p, l, s, x, y);
    case 4:
      return pass<4>(plan, p, l, s, x, y);
    case 5:
      return pass<5>(plan, p, l, s, x, y);
    case 8:
      return pass<8>(plan, p, l, s, x, y);
    default:
      return pass<0>(plan, p, l, s, x, y);
  }
}

/** The mixed-radix transform of `x`, through `other`; where the result is. */
template <class V, class T>
Signal<V> transform_factors(const Plan<T>& plan, Signal<V> x, Signal<V> other) {
  int64_t l = plan.length, s = 1;
  for (int i = 0; i < plan.count; i++) {
    const int p = plan.factors[i];
#ifndef OG_IS_REFERENCE
    // s numbers in a row are treated alike: of a single signal, as many as fill a vector at once
    if (std::is_same<V, float>::value && s % kLanes == 0) {
      const auto wide = [](const Signal<V>& z) {
        return Signal<Vf>{reinterpret_cast<Vf*>(z.re), reinterpret_cast<Vf*>(z.im)};
      };
      pass_of(plan, p, l, s / kLanes, wide(x), wide(other));
    } else {
      pass_of(plan, p, l, s, x, other);
    }
#else
    pass_of(plan, p, l, s, x, other);
#endif
    l /= p;
    s *= p;
    const Signal<V> result = other;
    other = x;
    x = result;
  }
  return x;
}

/** X_k = Σ x_j e^{-2πi·jk/n}. Both signals have room for plan.length numbers, on cache lines. */
template <class V, class T>
Signal<V> transform(const Plan<T>& plan, const Signal<V>& x, const Signal<V>& other) {
  if (!plan.is_chirp()) return transform_factors(plan, x, other);
  for (int64_t j = 0; j < plan.n; j++) x.set(j, times(x.get(j), plan.chirp_re[j], plan.chirp_im[j]));
  for (int64_t j = plan.n; j < plan.length; j++) x.set(j, Complex<V>{V{}, V{}});
  Signal<V> y = transform_factors(plan, x, other);
  for (int64_t k = 0; k < plan.length; k++) y.set(k, times(y.get(k), plan.spectrum_re[k], plan.spectrum_im[k]));
  // the inverse, by exchanging real and imaginary parts
  const Signal<V> rest = y.re == x.re ? other : x;
  const Signal<V> z = transform_factors(plan, Signal<V>{y.im, y.re}, Signal<V>{rest.im, rest.re});
  y = {z.im, z.re};
  for (int64_t k = 0; k < plan.n; k++) y.set(k, times(y.get(k), plan.chirp_re[k], plan.chirp_im[k]));
  return y;
}

/** Σ x_j e^{+2πi·jk/n} */
template <class V, class T>
Signal<V> transform_back(const Plan<T>& plan, const Signal<V>& x, const Signal<V>& other) {
  const Signal<V> y = transform(plan, Signal<V>{x.im, x.re}, Signal<V>{other.im, other.re});
  return {y.im, y.re};
}

/** Cuts n into the factors of `pass`, as few as there can be; false if a prime is too large. */
template <class T>
bool factorize(int64_t n, Plan<T>* plan) {
  plan->count = 0;
  const auto take = [&](int p) {
    plan->factors[plan->count++] = p;
    n /= p;
  };
  while (n % 8 == 0) take(n % 32 == 16 ? 4 : 8);  // 4·4 rather than 8·2
  for (int p = 4; p <= kLargestPrime; p = p == 4 ? 2 : p == 2 ? 3 : p + 2)
    while (n % p == 0) take(p);
  return n == 1;
}

/** A plan for n ≥ 1 with tables in `frame`; false when memory is short. */
template <class T>
bool make_plan(int64_t n, ScratchFrame& frame, Plan<T>* plan) {
  plan->n = plan->length = n;
  const bool direct = factorize(n, plan);
  if (!direct) {
    if (n > (int64_t{1} << 40)) return false;
    plan->length = 16;  // so that tables stay aligned
    while (plan->length < 2 * n - 1) plan->length *= 2;
    factorize(plan->length, plan);
  }
  const int64_t length = plan->length;
  if (length > (int64_t{1} << 45)) return false;
  T* roots = frame.take<T>(2 * length);
  if (!roots) return false;
  fill_roots(length, length, roots, roots + length);
  plan->re = roots;
  plan->im = roots + length;
  if (direct) return true;
  T *chirp_re = frame.take<T>(2 * n), *x = frame.take<T>(6 * length);
  if (!chirp_re || !x) return false;
  T* chirp_im = chirp_re + n;
  const Signal<T> spectrum = {x, x + length}, first = {x + 2 * length, x + 3 * length},
                  second = {x + 4 * length, x + 5 * length};
  for (int64_t i = 0; i < length; i++) first.set(i, {T(0), T(0)});
  int64_t square = 0;  // j² mod 2n
  for (int64_t j = 0; j < n; j++) {
    double re, im;
    root_of_unity(square, 2 * n, &re, &im);
    chirp_re[j] = (T)re;
    chirp_im[j] = (T)im;
    first.set(j, {(T)re, (T)-im});
    if (j > 0) first.set(length - j, {(T)re, (T)-im});
    square = (square + 2 * j + 1) % (2 * n);
  }
  const Signal<T> result = transform_factors(*plan, first, second);
  for (int64_t k = 0; k < length; k++) spectrum.set(k, {result.re[k] / (T)length, result.im[k] / (T)length});
  plan->chirp_re = chirp_re;
  plan->chirp_im = chirp_im;
  plan->spectrum_re = spectrum.re;
  plan->spectrum_im = spectrum.im;
  return true;
}

}  // namespace
}  // namespace og
#endif
