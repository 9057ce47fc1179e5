/**
 * Vector transcendental functions: polynomials with the error bound stated at each, in units of the last place (ulp)
 * of float32. NaN in, NaN out.
 */
#ifndef OMNIGRAD_CPU_MATH_H
#define OMNIGRAD_CPU_MATH_H

#include "simd.h"

namespace og {
namespace {

/**
 * e^x = 2^n·e^r with n = round(x/ln2) and |r| ≤ ln2/2, ln2 in two parts; e^r = 1 + r + r²·P(r), P of degree 4 fitted to
 * the relative error of the whole (4e-9). Adding 1.5·2^23 leaves n in the low bits of the sum: no conversion is needed.
 */
struct Exponent {
  Vf mantissa;  // e^r, in [0.7, 1.42)
  Vf magic;     // n + 1.5·2^23
};
OG_INLINE Exponent reduce_exp(Vf x) {
  const Vf magic = fma(x, set1(1.44269504088896341f), set1(12582912.f));
  const Vf n = magic - 12582912.f;
  Vf r = fma(n, set1(-0.693359375f), x);
  r = fma(n, set1(2.12194440e-4f), r);
  Vf p = set1(1.3814540579915047e-3f);
  p = fma(p, r, set1(8.36874544620514e-3f));
  p = fma(p, r, set1(4.1668388992548e-2f));
  p = fma(p, r, set1(1.666652113199234e-1f));
  p = fma(p, r, set1(4.999999403953552e-1f));
  return {fma(p, r * r, r) + 1.f, magic};
}

/** e^x by halves of its exponent: for all x, subnormal results included. */
OG_INLINE Vf exp_of_any(Vf x) {
  const Vf clipped = max_second(set1(-104.f), min_second(set1(88.8f), x));  // NaN is the second operand and passes
  const Exponent e = reduce_exp(clipped);
#if defined(__AVX512F__)
  return (Vf)_mm512_scalef_ps((__m512)e.mantissa, (__m512)(e.magic - 12582912.f));
#else
  const Vi n = bits(e.magic) - 0x4b400000, half = n >> 1;  // two factors, so that each is a normal number
  return e.mantissa * as_float((half + 127) << 23) * as_float((n - half + 127) << 23);
#endif
}

#if defined(__AVX2__)

/** Steps that an exponential divides a power of two into: as many as one instruction looks up. */
constexpr int kStepBits = OG_LANES == 16 ? 4 : 2, kSteps = 1 << kStepBits;

/** Bits of 2^(j/kSteps) less j where an exponent begins; for a shorter vector once for each half. */
struct alignas(OG_LANES * 4) StepPowers {
  uint32_t bits[OG_LANES] = {};
  constexpr StepPowers() {
    constexpr uint32_t sixteenths[16] = {0x3f800000, 0x3f85aac3, 0x3f8b95c2, 0x3f91c3d3, 0x3f9837f0, 0x3f9ef532,
                                         0x3fa5fed7, 0x3fad583f, 0x3fb504f3, 0x3fbd08a4, 0x3fc5672a, 0x3fce248c,
                                         0x3fd744fd, 0x3fe0ccdf, 0x3feac0c7, 0x3ff5257d};
    for (uint32_t i = 0; i < OG_LANES; i++)
      bits[i] = sixteenths[i % kSteps * (16 / kSteps)] - (i % kSteps << (23 - kStepBits));
  }
};
constexpr StepPowers kStepPowers;

/** 2^(n/kSteps) for the n in the low bits of `magic`: one addition corrects the exponent and takes away j. */
OG_INLINE Vf step_power(Vf magic) {
  const float* table = reinterpret_cast<const float*>(kStepPowers.bits);
#if defined(__AVX512F__)
  const Vf power = (Vf)_mm512_permutexvar_ps((__m512i)magic, _mm512_load_ps(table));
#else
  const Vf power = (Vf)_mm256_permutevar_ps(_mm256_load_ps(table), (__m256i)magic);
#endif
  return (Vf)((Vu)power + ((Vu)magic << (23 - kStepBits)));
}

/**
 * e^x = 2^(n/kSteps)·(1 + q), n = round(x·kSteps/ln2), q = e^r − 1 = r + r²·P(r), |r| ≤ ln2/(2·kSteps): P of degree 1
 * (AVX2: 2), fitted to the relative error of the whole (1.6e-9; 5.3e-9). Half the operations that the full range of r
 * takes. Results that would be subnormal are 0.
 */
struct StepExponent {
  Vf power, q;
};
template <bool kExact>
OG_INLINE StepExponent reduce_by_steps(Vf x) {
  const Vf magic = fma(x, set1(kSteps * 1.44269504088896341f), set1(12582912.f));
  const Vf n = magic - 12582912.f;
  Vf r = fma(n, set1(-0.693147182f / kSteps), x);
  if (kExact) r = fma(n, set1(1.90465430e-9f / kSteps), r);  // what float leaves of ln2
  const Vf p = kSteps == 16 ? fma(set1(1.6666718518627968e-1f), r, set1(0.5000161736249454f))
                            : fma(fma(set1(4.1641735125426634e-2f), r, set1(1.6672108512928568e-1f)), r,
                                  set1(0.5000002042167051f));
  return {step_power(magic), fma(p, r * r, r)};
}
template <bool kExact>
OG_INLINE Vf exp_by_steps(Vf x) {
  const StepExponent e = reduce_by_steps<kExact>(x);
  const Vf least = set1(-87.3365f);
#if defined(__AVX512F__)
  const __mmask16 normal = _mm512_cmp_ps_mask((__m512)x, (__m512)least, _CMP_NLT_UQ);  // NaN is not less
  return (Vf)_mm512_maskz_fmadd_ps(normal, (__m512)e.power, (__m512)e.q, (__m512)e.power);
#else
  return (Vf)_mm256_and_ps((__m256)fma(e.power, e.q, e.power), _mm256_cmp_ps((__m256)x, (__m256)least, _CMP_NLT_UQ));
#endif
}

/** e^x for x ≤ 0 (attention; up to 88 by contract); 0 below -87.3365, where results would be subnormal. At most 1 ulp.
 */
OG_INLINE Vf exp_nonpositive(Vf x) { return exp_by_steps<true>(x); }
/**
 * The same for a difference of floats (softmax, cross-entropy), whose own rounding changes e^x by half an ulp for each
 * unit of x: at most 1 + 0.05·|x| ulp.
 */
OG_INLINE Vf exp_difference(Vf x) { return exp_by_steps<false>(x); }

/** What an argument of exp_scaled is multiplied by: a step of the exponential for each unit. */
constexpr double kExpScale = kSteps * 1.44269504088896341;
/**
 * e^(w/kExpScale) for a w that comes out of a product, so that the factor costs nothing. At most 1.5 ulp, and what the
 * rounding of w makes of it; +∞ from e^88.6 on, 2^-126 instead of less.
 */
OG_INLINE Vf exp_scaled(Vf w) {
  const Vf x = max_second(set1(-126.f * kSteps), min_second(set1(128.f * kSteps), w));  // NaN passes
  const Vf magic = x + 12582912.f;
  const Vf f = x - (magic - 12582912.f);
  constexpr double h = 0.693147180559945309 / kSteps;  // e^(f·h) = 1 + f·P(f): errors 1.6e-9 and 2.6e-9
  Vf p;
  if (kSteps == 16) {
    p = set1((float)(0.16666073874977097 * h * h * h));
    p = fma(p, f, set1((float)(0.5000162115060924 * h * h)));
    p = fma(p, f, set1((float)(1.0000000030454166 * h)));
  } else {
    p = set1((float)(0.04165822648384649 * h * h * h * h));
    p = fma(p, f, set1((float)(0.16674435200982504 * h * h * h)));
    p = fma(p, f, set1((float)(0.5000001117695412 * h * h)));
    p = fma(p, f, set1((float)(0.9999998567162174 * h)));
  }
  return step_power(magic) * fma(p, f, set1(1.f));  // not power + power·q, which ∞ makes NaN
}

#else

/** e^x for x ≤ 0 (attention; up to 88 by contract); 0 below -87.68, where n = -127 makes the factor 0. At most 1 ulp.
 */
OG_INLINE Vf exp_nonpositive(Vf x) {
  const Exponent e = reduce_exp(max_second(set1(-88.f), x));    // NaN is the second operand and passes
  return e.mantissa * (Vf)(((Vu)e.magic << 23) + 0x3f800000u);  // unsigned: NaN leaves any bits here
}
/** For a difference of floats (softmax, cross-entropy), which elsewhere may be less exact. */
OG_INLINE Vf exp_difference(Vf x) { return exp_nonpositive(x); }
/** For an argument that comes out of a product, which elsewhere takes a factor along; +∞ from 88.4 on. */
constexpr double kExpScale = 1;
OG_INLINE Vf exp_scaled(Vf x) { return exp_nonpositive(min_second(set1(88.73f), x)); }

#endif

/** e^x. Error at most 1 ulp, subnormal results included; +∞ above 88.72284, 0 below -103.98. */
OG_INLINE Vf exp(Vf x) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  // a lane far out takes nothing but itself another way, so that no result depends on its neighbours
  const StepExponent e = reduce_by_steps<true>(x);
  const Vf common = fma(e.power, e.q, e.power);
  const __m256 inside = _mm256_cmp_ps((__m256)abs(x), _mm256_set1_ps(87.3f), _CMP_LT_OQ);
  if (__builtin_expect(_mm256_movemask_ps(inside) == 255, 1)) return common;
  return select((Vi)inside, common, exp_of_any(x));
#else
  return exp_of_any(x);
#endif
}

/**
 * ln x. Mantissa in [√½, √2), degree-8 polynomial (Cephes logf). At most 1 ulp; ln 0 = -∞, ln of a negative number is
 * NaN. Subnormals are scaled first.
 */
OG_INLINE Vf log(Vf x) {
  const Vi tiny = x < 1.17549435e-38f;
  const Vf scaled = select(tiny, x * 8388608.f, x);
  const Vi u = bits(scaled);
  Vf e = to_float((u >> 23) - 126) - select(tiny, set1(23.f), Vf{});
  Vf m = as_float((u & 0x007fffff) | 0x3f000000);  // [0.5, 1)
  const Vi below = m < 0.707106781186547524f;
  e = e - select(below, set1(1.f), Vf{});
  m = select(below, m + m, m) - 1.f;
  const Vf z = m * m;
  Vf p = set1(7.0376836292e-2f);
  p = fma(p, m, set1(-1.1514610310e-1f));
  p = fma(p, m, set1(1.1676998740e-1f));
  p = fma(p, m, set1(-1.2420140846e-1f));
  p = fma(p, m, set1(1.4249322787e-1f));
  p = fma(p, m, set1(-1.6668057665e-1f));
  p = fma(p, m, set1(2.0000714765e-1f));
  p = fma(p, m, set1(-2.4999993993e-1f));
  p = fma(p, m, set1(3.3333331174e-1f));
  Vf y = m * z * p;
  y = fma(e, set1(-2.12194440e-4f), y);
  y = fma(z, set1(-0.5f), y);
  Vf r = fma(e, set1(0.693359375f), m + y);
  const Vf infinity = set1(__builtin_inff()), nan = set1(__builtin_nanf(""));
  r = select(x == infinity, infinity, r);
  r = select(x == 0.f, -infinity, r);
  return select((x < 0.f) | (x != x), nan, r);
}

/** tanh x = sign(x)·(1 − 2/(e^{2|x|}+1)); below 0.625 an odd polynomial (Cephes tanhf) keeps the relative error. At
 * most 1.5 ulp. */
OG_INLINE Vf tanh(Vf x) {
  const Vf a = abs(x);
  const Vf z = x * x;
  Vf p = set1(-5.70498872745e-3f);
  p = fma(p, z, set1(2.06390887954e-2f));
  p = fma(p, z, set1(-5.37397155531e-2f));
  p = fma(p, z, set1(1.33314422036e-1f));
  p = fma(p, z, set1(-3.33332819422e-1f));
  const Vf small = copysign(fma(p * z, x, x), x);  // -0 stays -0
  const Vf large = copysign(1.f - 2.f / (exp(a + a) + 1.f), x);
  return select(a < 0.625f, small, select(x != x, x, large));
}

/**
 * 1/(1+e^-x), through e^-|x| so that nothing overflows: for x < 0 e^x/(1+e^x). At most 2.5 ulp, for which the steps of
 * exp() are too coarse.
 */
OG_INLINE Vf sigmoid(Vf x) {
  const Vf t = exp_of_any(-abs(x));
  return select(x < 0.f, t, set1(1.f)) / (1.f + t);
}

/**
 * erf x. |x| < 1: x·P(x²) (Cephes erff); beyond: 1 − e^{-x²}·Q(1/|x|) in the form of Abramowitz–Stegun 7.1.26 refined
 * by Cephes' erfcf rational fits. Absolute error at most 1.2e-7, below 1 also at most 2 ulp.
 */
OG_INLINE Vf erf(Vf x) {
  const Vf a = abs(x), z = x * x;
  Vf p = set1(7.853861353153693e-5f);
  p = fma(p, z, set1(-8.010193625184903e-4f));
  p = fma(p, z, set1(5.188327685732524e-3f));
  p = fma(p, z, set1(-2.685381193529856e-2f));
  p = fma(p, z, set1(1.128358514861418e-1f));
  p = fma(p, z, set1(-3.761262582423300e-1f));
  p = fma(p, z, set1(1.28379165726710e-1f));  // 2/√π − 1: the leading x is added without rounding the product
  const Vf inner = fma(x, p, x);
  const Vf b = select(a > 4.f, set1(4.f), select(a < 1.f, set1(1.f), a));  // erf(4) is 1 in float32
  const Vf q = 1.f / b, w = q * q;
  Vf near = set1(2.326819970068386e-2f);  // 1 ≤ |x| < 2
  near = fma(near, w, set1(-1.387039388740657e-1f));
  near = fma(near, w, set1(3.687424674597105e-1f));
  near = fma(near, w, set1(-5.824733027278666e-1f));
  near = fma(near, w, set1(6.210004621745983e-1f));
  near = fma(near, w, set1(-4.944515323274145e-1f));
  near = fma(near, w, set1(3.404879937665872e-1f));
  near = fma(near, w, set1(-2.741127028184656e-1f));
  near = fma(near, w, set1(5.638259427386472e-1f));
  Vf far = set1(-1.047766399936249e+1f);  // |x| ≥ 2
  far = fma(far, w, set1(1.297719955372516e+1f));
  far = fma(far, w, set1(-7.495518717768503e0f));
  far = fma(far, w, set1(2.921019019210786e0f));
  far = fma(far, w, set1(-1.015265279202700e0f));
  far = fma(far, w, set1(4.218463358204948e-1f));
  far = fma(far, w, set1(-2.820767439740514e-1f));
  far = fma(far, w, set1(5.641895067754075e-1f));
  const Vf tail = exp_nonpositive(-(b * b)) * q * select(b < 2.f, near, far);
  const Vf outer = copysign(1.f - tail, x);
  return select(x != x, x, select(a < 1.f, inner, outer));
}

/** Φ(x) and φ(x) = Φ'(x) of the standard normal distribution. */
struct Normal {
  Vf cdf, density;
};
/**
 * Φ(-|x|) = e^{-x²/2}·t·P(t), t = 1/(1 + 0.265|x|), with P fitted (degree 8, minimax of the relative error, 1.2e-8
 * before rounding). Relative error at most 1.5e-6 for |x| ≤ 6, in the lower tail too, where 1 + erf would cancel.
 */
OG_INLINE Normal normal(Vf x) {
  const Vf t = 1.f / fma(abs(x), set1(0.26499998569488525f), set1(1.f));
  const Vf e = exp_nonpositive(x * x * -0.5f);
  // by pairs: one after the other, the nine steps would take longer than all else
  const Vf t2 = t * t, t4 = t2 * t2;
  const Vf c01 = fma(set1(1.052466630935669e-1f), t, set1(1.0574156045913696e-1f));
  const Vf c23 = fma(set1(6.0313280671834946e-2f), t, set1(1.0270093381404877e-1f));
  const Vf c45 = fma(set1(-1.1636192351579666e-1f), t, set1(1.3795267045497894e-1f));
  const Vf c67 = fma(set1(-1.442282795906067e-1f), t, set1(2.1781432628631592e-1f));
  const Vf high = fma(set1(3.0820775777101517e-2f), t4, fma(c67, t2, c45));
  const Vf p = fma(high, t4, fma(c23, t2, c01));
  const Vf tail = e * (t * p);
  return {select(x > 0.f, 1.f - tail, tail), e * 0.3989422804014327f};
}

}  // namespace
}  // namespace og
#endif
