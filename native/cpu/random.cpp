/**
 * Random tensors from Philox4x32-10 (core/philox.h): the value of element i is a function of seed, offset and i alone,
 * and has the same bits on every instruction set and for any thread count: float32 results use only IEEE operations
 * that round correctly, without fused ones, from one definition that all sets compile.
 *
 * attrs begin with seed low, seed high, offset low, offset high (32 bits each); a call uses ⌈count / 4⌉ counters.
 * random_uniform: low + (high − low)·u, u of 24 bits (11 for float16, 8 for bfloat16, 53 for float64), always below
 * high. random_normal: Box–Muller on words (0, 1) and (2, 3) of a counter: r = √(−2 ln u₁), then r·cos, r·sin of 2πu₂;
 * u₁ of 32 bits, so |z| ≤ 6.66. ln, cos and sin are the Cephes float polynomials (2 ulp); float64 goes through the C
 * library. random_integer: ⌊range·U / 2^64⌋ for a 64-bit U; any value's probability is off by less than range·2^-64.
 * random_bits: the words. dropout: y = word ≥ p·2^32 ? x/(1−p) : 0; the same call on the gradient replays the mask.
 * 64-bit draws take their second word from the same counter of stream 1. Parallel split: by 8192 elements. Any strides.
 */
#include "../core/philox.h"
#include "elementwise.h"

namespace og {
namespace OG_ISA {
namespace {

constexpr int64_t kChunk = 8 * kBlock;

struct Stream {
  PhiloxKey key;
  uint64_t offset;

  /** 32-bit words of elements [begin, begin+n), begin a multiple of 4; writes n rounded up to 4. */
  void words(int64_t begin, int64_t n, uint32_t* out, uint32_t number = 0) const {
    philox(key, offset + (uint64_t)begin / 4, number, (n + 3) / 4, out);
  }
};

int32_t read_stream(const double* attrs, Stream* stream) {
  for (int i = 0; i < 4; i++)
    OG_REQUIRE(attrs[i] >= 0 && attrs[i] < 4294967296.0 && attrs[i] == std::floor(attrs[i]),
               "random: seed and offset are given as halves of 32 bits");
  stream->key = {(uint32_t)attrs[0], (uint32_t)attrs[1]};
  stream->offset = (uint64_t)attrs[2] | (uint64_t)attrs[3] << 32;
  return OG_OK;
}

/** Calls fill(begin, n, C* to) for every block of the output; `to` has room for n rounded up to 4. */
template <class C, class F>
void generate(const og_view& out, const F& fill) {
  const og_view* const views[1] = {&out};
  const Loop<1> loop(views);
  parallel_ranges(loop.count, kChunk, [&](int64_t begin, int64_t end) {
    alignas(64) C buffer[kBlock];
    for (int64_t at = begin; at < end; at += kBlock) {
      const int64_t n = end - at < kBlock ? end - at : kBlock;
      fill(at, n, buffer);
      stage_out<C>(loop, 0, out, at, n, buffer);
    }
  });
}

/** 53 random bits in [0, 1). */
inline double unit53(uint32_t high, uint32_t low) {
  return (double)((uint64_t)high << 21 | low >> 11) * 1.1102230246251565404e-16;
}

/** Largest number of the dtype below `high`, as float or double. */
double below(int32_t dtype, double high) {
  if (dtype == OG_F64) return std::nextafter(high, -std::numeric_limits<double>::infinity());
  if (dtype == OG_F32) {
    const float nearest = (float)high;
    return (double)nearest < high ? nearest : std::nextafter(nearest, -std::numeric_limits<float>::infinity());
  }
  const bool half = dtype == OG_F16;
  const auto value = [half](uint16_t bits) { return (double)(half ? to_float(f16{bits}) : to_float(bf16{bits})); };
  uint16_t bits = half ? to_f16((float)high).bits : to_bf16((float)high).bits;
  if (value(bits) < high) return value(bits);
  if ((bits & 0x7fffu) == 0) return value(0x8001u);  // the step below zero
  return value((uint16_t)(bits & 0x8000u ? bits + 1 : bits - 1));
}

void uniform(const Stream& stream, const og_view& out, float low, float range, float limit) {
  const int drop = out.dtype == OG_F32 ? 8 : out.dtype == OG_F16 ? 21 : 24;
  const float unit = 1.f / (float)(1u << (32 - drop));
  generate<float>(out, [&](int64_t begin, int64_t n, float* to) {
    alignas(64) uint32_t words[kBlock];
    stream.words(begin, n, words);
    for (int64_t i = 0; i < n; i++) {
      const float y = low + range * ((float)(int32_t)(words[i] >> drop) * unit);
      to[i] = y < limit ? y : limit;
    }
  });
}

/** −2 ln u, u = (w + 1) / 2^32 rounded to float. Mantissa in [√½, √2), the polynomial of Cephes logf. */
inline float minus_two_log(uint32_t w) {
  const float u =
      (float)(int32_t)(w >> 16) * 1.52587890625e-5f + (float)(int32_t)((w & 0xffffu) + 1) * 2.3283064365386963e-10f;
  const uint32_t bits = float_bits(u);
  // mantissa in [√½, √2), by integer steps alone: a branch would keep the loop from becoming vector code
  const uint32_t mantissa = bits & 0x007fffffu, low = mantissa < 0x003504f3u ? 1 : 0;
  const float e = (float)(int32_t)((bits >> 23) - 126 - low);
  const float m = bits_float((mantissa | 0x3f000000u) + (low << 23)) - 1.f;
  const float z = m * m;
  float p = 7.0376836292e-2f;
  p = p * m + -1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m + -1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m + -1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m + -2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  float y = m * z * p;
  y = y + e * -2.12194440e-4f;
  y = y - 0.5f * z;
  return -2.f * (e * 0.693359375f + (m + y));
}

/** cos and sin of 2π·w/2^32: the quadrant is split off exactly, the rest lies in [−π/4, π/4) (Cephes sinf, cosf). */
inline void turn(uint32_t w, float* cosine, float* sine) {
  const uint32_t quadrant = (w + 0x20000000u) >> 30;
  const float x = (float)(int32_t)(w - (quadrant << 30)) * 1.4629180792671596e-9f;
  const float z = x * x;
  const float s = ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z + -1.6666654611e-1f) * z * x + x;
  const float c =
      ((2.443315711809948e-5f * z + -1.388731625493765e-3f) * z + 4.166664568298827e-2f) * (z * z) - 0.5f * z + 1.f;
  const uint32_t swap = 0u - (quadrant & 1), s_bits = float_bits(s), c_bits = float_bits(c);
  *cosine = bits_float(((s_bits & swap) | (c_bits & ~swap)) ^ ((quadrant + 1) & 2) << 30);
  *sine = bits_float(((c_bits & swap) | (s_bits & ~swap)) ^ (quadrant & 2) << 30);
}

void normal(const Stream& stream, const og_view& out, float mean, float deviation) {
  generate<float>(out, [&](int64_t begin, int64_t n, float* to) {
    constexpr int64_t kPairs = kBlock / 2;
    alignas(64) uint32_t words[kBlock];
    alignas(64) float radius[kPairs], cosine[kPairs], sine[kPairs];
    stream.words(begin, n, words);
    const int64_t pairs = (n + 3) / 4 * 2;
    for (int64_t i = 0; i < pairs; i++) radius[i] = minus_two_log(words[2 * i]);
    for (int64_t i = 0; i < pairs; i++) turn(words[2 * i + 1], cosine + i, sine + i);
#ifdef OG_IS_REFERENCE
    for (int64_t i = 0; i < pairs; i++) radius[i] = std::sqrt(radius[i]);
#else
    vectors1(radius, radius, pairs, [](Vf x) { return sqrt(x); });  // rounds correctly everywhere
#endif
    for (int64_t i = 0; i < pairs; i++) {
      to[2 * i] = mean + deviation * (radius[i] * cosine[i]);
      to[2 * i + 1] = mean + deviation * (radius[i] * sine[i]);
    }
  });
}

#ifdef OG_IS_REFERENCE
void uniform(const Stream& stream, const og_view& out, double low, double range, double limit) {
  generate<double>(out, [&](int64_t begin, int64_t n, double* to) {
    uint32_t high[kBlock], rest[kBlock];
    stream.words(begin, n, high);
    stream.words(begin, n, rest, 1);
    for (int64_t i = 0; i < n; i++) {
      const double y = low + range * unit53(high[i], rest[i]);
      to[i] = y < limit ? y : limit;
    }
  });
}

void normal(const Stream& stream, const og_view& out, double mean, double deviation) {
  generate<double>(out, [&](int64_t begin, int64_t n, double* to) {
    uint32_t high[kBlock], rest[kBlock];
    stream.words(begin, n, high);
    stream.words(begin, n, rest, 1);
    for (int64_t i = 0; i < n; i += 2) {
      const double radius = std::sqrt(-2 * std::log(1 - unit53(high[i], rest[i])));
      const double angle = 6.283185307179586476925 * unit53(high[i + 1], rest[i + 1]);
      to[i] = mean + deviation * (radius * std::cos(angle));
      to[i + 1] = mean + deviation * (radius * std::sin(angle));
    }
  });
}
#endif

/** to[i] = words[i] ≥ limit ? from[i]·scale : 0. */
template <class C>
inline void keep(const uint32_t* words, uint32_t limit, const C* from, C scale, C* to, int64_t n) {
  int64_t i = 0;
#ifndef OG_IS_REFERENCE
  if constexpr (std::is_same<C, float>::value) {
    const Vu edge = limit - Vu{};
    for (; i + kLanes <= n; i += kLanes) {
      Vu word;
      std::memcpy(&word, words + i, sizeof word);
      store(to + i, select((Vi)(word >= edge), load(from + i) * set1(scale), Vf{}));
    }
  }
#endif
  for (; i < n; i++) to[i] = words[i] >= limit ? from[i] * scale : C(0);
}

template <class C>
int32_t drop(const og_view& x, const og_view& y, const Stream& stream, double p) {
  const og_view* const views[2] = {&y, &x};
  const Loop<2> loop(views);
  const uint64_t threshold = (uint64_t)(p * 4294967296.0);
  const uint32_t limit = (uint32_t)threshold;
  const C scale = threshold >> 32 ? C(0) : C(1 / (1 - p));
  const bool nothing = threshold >> 32, direct = is_native<C>(y.dtype) && loop.linear(0);
  parallel_ranges(loop.count, kChunk, [&](int64_t begin, int64_t end) {
    alignas(64) uint32_t words[kBlock];
    alignas(64) C buffers[2][kBlock];
    for (int64_t at = begin; at < end; at += kBlock) {
      const int64_t n = end - at < kBlock ? end - at : kBlock;
      const C* from = stage_in<C>(loop, 1, x, at, n, buffers[1]);
      C* to = direct ? data_of<C>(y) + at : buffers[0];
      stream.words(at, n, words);
      if (nothing) {
        std::memset(to, 0, (size_t)n * sizeof(C));
      } else {
        keep(words, limit, from, scale, to, n);
      }
      if (!direct) stage_out<C>(loop, 0, y, at, n, to);
    }
  });
  return OG_OK;
}

}  // namespace

/** attrs: stream (4), low, high. */
int32_t kernel_random_uniform(const og_call* call) {
  const og_view& out = call->outputs[0];
  Stream stream;
  OG_TRY(read_stream(call->attrs, &stream));
  OG_SUPPORTED(dtype_is_float(out.dtype), "random_uniform: the output must be a float");
  const double low = call->attrs[4], high = call->attrs[5];
  OG_REQUIRE(low <= high && std::isfinite(low) && std::isfinite(high),
             "random_uniform: low and high must be finite and in order");
  const double limit = low < high ? below(out.dtype, high) : low;
#ifdef OG_IS_REFERENCE
  if (out.dtype == OG_F64) {
    uniform(stream, out, low, high - low, limit);
    return OG_OK;
  }
#endif
  uniform(stream, out, (float)low, (float)(high - low), (float)limit);
  return OG_OK;
}

/** attrs: stream (4), mean, standard deviation. */
int32_t kernel_random_normal(const og_call* call) {
  const og_view& out = call->outputs[0];
  Stream stream;
  OG_TRY(read_stream(call->attrs, &stream));
  OG_SUPPORTED(dtype_is_float(out.dtype), "random_normal: the output must be a float");
#ifdef OG_IS_REFERENCE
  if (out.dtype == OG_F64) {
    normal(stream, out, call->attrs[4], call->attrs[5]);
    return OG_OK;
  }
#endif
  normal(stream, out, (float)call->attrs[4], (float)call->attrs[5]);
  return OG_OK;
}

/** attrs: stream (4). int64 holds the word as it is, int32 its bits. */
int32_t kernel_random_bits(const og_call* call) {
  const og_view& out = call->outputs[0];
  Stream stream;
  OG_TRY(read_stream(call->attrs, &stream));
  OG_SUPPORTED(out.dtype == OG_I64 || out.dtype == OG_I32, "random_bits: the output must be int32 or int64");
  generate<int64_t>(out, [&](int64_t begin, int64_t n, int64_t* to) {
    alignas(64) uint32_t words[kBlock];
    stream.words(begin, n, words);
    for (int64_t i = 0; i < n; i++) to[i] = words[i];
  });
  return OG_OK;
}

/** attrs: stream (4), low (included), high (excluded). */
int32_t kernel_random_integer(const og_call* call) {
  const og_view& out = call->outputs[0];
  Stream stream;
  OG_TRY(read_stream(call->attrs, &stream));
  const double low = call->attrs[4], high = call->attrs[5];
  OG_REQUIRE(low < high && high - low <= 4294967296.0 && low == std::floor(low) && high == std::floor(high) &&
                 std::fabs(low) <= 9007199254740992.0 && std::fabs(high) <= 9007199254740992.0,
             "random_integer: low and high must be integers at most 2^32 apart");
  const int64_t first = (int64_t)low;
  const uint64_t range = (uint64_t)((int64_t)high - first);
  generate<int64_t>(out, [&](int64_t begin, int64_t n, int64_t* to) {
    alignas(64) uint32_t words[kBlock], rest[kBlock];
    stream.words(begin, n, words);
    stream.words(begin, n, rest, 1);
    for (int64_t i = 0; i < n; i++) to[i] = first + (int64_t)((words[i] * range + (rest[i] * range >> 32)) >> 32);
  });
  return OG_OK;
}

/** attrs: p, stream (4). */
int32_t kernel_dropout(const og_call* call) {
  const og_view &x = call->inputs[0], &y = call->outputs[0];
  const double p = call->attrs[0];
  Stream stream;
  OG_TRY(read_stream(call->attrs + 1, &stream));
  OG_REQUIRE(same_shape(x, y), "dropout: shapes differ");
  OG_REQUIRE(p >= 0 && p <= 1, "dropout: p must lie in [0, 1]");
  OG_SUPPORTED(dtype_is_float(y.dtype) && dtype_is_float(x.dtype), "dropout: operands must be floats");
  return with_float_compute(y.dtype, [&](auto type) { return drop<decltype(type)>(x, y, stream, p); });
}

}  // namespace OG_ISA
}  // namespace og
