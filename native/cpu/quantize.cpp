/**
 * quantize, dequantize, fake_quantize: floats as codes of 8 or 4 bits with a scale (and a zero point) and back.
 * Operands are contiguous and seen as [outer, channels, inner] with one scale a channel: per tensor [1, 1, n], per
 * channel of an axis [before, length, after], per token [1, tokens, features], in groups [1, groups, size].
 *
 *   quantize       x, scale?, zero? → codes, scale?, zero?, errors?. With a scale given it is used; otherwise it is
 * found: symmetric max|x| / (2^(b-1) − 1); affine (max(x, 0) − min(x, 0)) / (2^b − 1) and zero = round(−min / scale);
 * NF4 max|x|; rounded to the scale's dtype before use, 0 replaced by 1. A channel that fits L1 is read from memory
 * once: range, codes and errors while it is there (dynamic quantisation). attrs: scheme (0 symmetric, 1 affine, 2 NF4),
 * bits (8, 4), stochastic, Philox stream (4). errors: float32 [3] with Σ(y − x)², max |y − x|, Σx² of y = dequantised
 * codes. dequantize     codes, scale, zero? → y = (code − zero) · scale, or NF4's number · scale. attrs: scheme, bits.
 *   fake_quantize  x, scale, zero? → y, inside (bool: the code was not clamped). attrs: smallest, largest code.
 *
 * Codes: int8 symmetric, uint8 affine and NF4, in x's shape; or uint8 of half as many elements, two codes a byte
 * (pack_nibbles), where symmetric codes are stored plus 8. Scales float32 or float16 (float64 where x is), zero points
 * int32 or uint8. Rules of rounding: quantize_run.h. Arithmetic in float (float64: double in `reference`); codes have
 * the same value on every set; sums of errors go through float vectors of at most 1024 elements, then doubles. Parallel
 * split: by channels, or by blocks of elements where channels are long or not contiguous; random words belong to
 * elements, so any thread count gives the same bits.
 */
#include "../core/parallel.h"
#include "../core/philox.h"
#include "../core/scratch.h"
#include "../core/status.h"
#include "../core/view.h"
#include "quantize_run.h"

namespace og {
namespace OG_ISA {
namespace {

constexpr int64_t kBlock = 1024;         // elements staged at a time; even, so that packed bytes are not shared
constexpr int64_t kChunk = 32 * kBlock;  // elements of a task
constexpr int64_t kFused = 8192;         // a channel of at most so many elements stays in the cache between its passes
constexpr int64_t kShortRun = 32;        // below this, grids are spread over elements

/** Views without elements have strides that say nothing. */
bool is_dense(const og_view& v) { return count_of(v) == 0 || is_contiguous(v); }

/** [outer, channels, inner]. */
struct Extent {
  int64_t outer, channels, inner, count;

  int64_t channel_of(int64_t index) const { return index / inner % channels; }
};

/** A view of three axes. Outer runs of a single channel are one run. */
int32_t read_extent(const char* name, const og_view& x, Extent* to) {
  OG_REQUIRE(x.rank == 3 && is_dense(x), "%s: expected a contiguous [outer, channels, inner]", name);
  *to = {x.shape[0], x.shape[1], x.shape[2], count_of(x)};
  if (to->channels == 1 || to->count == 0) to->inner = to->outer * to->inner, to->outer = 1;
  return OG_OK;
}

struct Scheme {
  int kind, bits;
  bool packed;

  bool nf4() const { return kind == 2; }
  bool is_signed() const { return kind == 0 && !packed; }
  /** Smallest and largest code as stored. */
  int low() const { return kind != 0 ? 0 : packed ? 1 : -((1 << (bits - 1)) - 1); }
  int high() const { return kind != 0 ? (1 << bits) - 1 : packed ? 15 : (1 << (bits - 1)) - 1; }
  /** What is added to a symmetric code. */
  int middle() const { return kind == 0 && packed ? 8 : 0; }
};

int32_t read_scheme(const char* name, const double* attrs, const Extent& extent, const og_view& codes, Scheme* to) {
  OG_REQUIRE(attrs[0] == 0 || attrs[0] == 1 || attrs[0] == 2, "%s: unknown scheme", name);
  OG_REQUIRE(attrs[1] == 8 || attrs[1] == 4, "%s: 8 or 4 bits", name);
  const int64_t held = count_of(codes);
  const bool packed = extent.count > 0 ? held != extent.count : attrs[0] == 0 && codes.dtype == OG_U8;
  *to = {(int)attrs[0], (int)attrs[1], packed};
  OG_REQUIRE(!to->nf4() || to->bits == 4, "%s: NF4 has 4 bits", name);
  OG_REQUIRE(is_dense(codes), "%s: codes must be contiguous", name);
  if (to->packed) {
    OG_REQUIRE(to->bits == 4 && codes.dtype == OG_U8 && extent.count % 2 == 0 && held == extent.count / 2,
               "%s: codes must be as many as the elements, or half as many of 4 bits", name);
    OG_REQUIRE(extent.inner % 2 == 0 || extent.channels % 2 == 0, "%s: two codes of a byte from different rows", name);
  } else {
    OG_REQUIRE(codes.dtype == (to->kind == 0 ? OG_I8 : OG_U8), "%s: codes are int8 (symmetric) or uint8", name);
  }
  return OG_OK;
}

/** One number a channel. */
bool is_vector(const og_view& v, int64_t channels) { return is_dense(v) && count_of(v) == channels; }

int32_t check_grids(const char* name, const og_view& scale, const og_view& zero, int64_t channels) {
  if (is_present(scale)) {
    OG_REQUIRE(is_vector(scale, channels), "%s: one scale a channel is expected", name);
    OG_SUPPORTED(dtype_is_float(scale.dtype) && scale.dtype != OG_BF16, "%s: scales are float32 or float16", name);
  }
  if (is_present(zero)) {
    OG_REQUIRE(is_vector(zero, channels), "%s: one zero point a channel is expected", name);
    OG_SUPPORTED(zero.dtype != OG_I64 && zero.dtype != OG_BOOL, "%s: zero points are int32, uint8 or floats", name);
  }
  return OG_OK;
}

template <class C>
C read_number(const og_view& v, int64_t i) {
  switch (v.dtype) {
    case OG_F32:
      return (C)data_of<const float>(v)[i];
    case OG_F16:
      return (C)to_float(data_of<const f16>(v)[i]);
    case OG_BF16:
      return (C)to_float(data_of<const bf16>(v)[i]);
    case OG_F64:
      return (C)data_of<const double>(v)[i];
    case OG_I32:
      return (C)data_of<const int32_t>(v)[i];
    case OG_I8:
      return (C)data_of<const int8_t>(v)[i];
    default:
      return (C)data_of<const uint8_t>(v)[i];
  }
}

/** n elements of a contiguous float operand in the compute type; where they lie, unless a copy is wanted. */
template <class C>
const C* read_floats(const og_view& x, int64_t begin, int64_t n, C* buffer, bool copy = false) {
  if (is_native<C>(x.dtype) && !copy) return data_of<const C>(x) + begin;
  read_run(x, begin, 1, n, buffer);
  return buffer;
}

/** Grids by channel; codes as stored are code + zero. */
template <class C>
struct Grids {
  og_view scale, zero;
  C low, high, middle;

  Grid<C> at(int64_t channel) const {
    const C z = is_present(zero) ? read_number<C>(zero, channel) : middle;
    return {read_number<C>(scale, channel), low - z, high - z, z};
  }
};

/** Grids spread over the elements of a block. */
template <class C>
struct Spread {
  C scale[kBlock], low[kBlock], high[kBlock], zero[kBlock];

  /** Columns: channels lie as their elements do. */
  void fill_columns(const Extent& extent, const Grids<C>& grids, int64_t begin, int64_t n) {
    int64_t channel = begin % extent.channels;
    for (int64_t i = 0; i < n;) {
      const int64_t length = extent.channels - channel < n - i ? extent.channels - channel : n - i;
      read_floats(grids.scale, channel, length, scale + i, true);
      if (is_present(grids.zero)) {
        read_floats(grids.zero, channel, length, zero + i, true);
        for (int64_t j = i; j < i + length; j++) low[j] = grids.low - zero[j], high[j] = grids.high - zero[j];
      } else {
        const C middle = grids.middle, least = grids.low - middle, most = grids.high - middle;
        for (int64_t j = i; j < i + length; j++) low[j] = least, high[j] = most, zero[j] = middle;
      }
      i += length;
      channel = 0;
    }
  }

  void fill(const Extent& extent, const Grids<C>& grids, int64_t begin, int64_t n) {
    if (extent.inner == 1) return fill_columns(extent, grids, begin, n);
    int64_t channel = extent.channel_of(begin), left = extent.inner - begin % extent.inner;
    for (int64_t i = 0; i < n;) {
      const Grid<C> g = grids.at(channel);
      const int64_t end = i + left < n ? i + left : n;
      for (; i < end; i++) scale[i] = g.scale, low[i] = g.low, high[i] = g.high, zero[i] = g.zero;
      channel = channel + 1 == extent.channels ? 0 : channel + 1;
      left = extent.inner;
    }
  }
  Each<C> each() const { return {scale, low, high, zero}; }
};

/** Calls run(grids, offset, length) for the pieces of a block that share a grid, or once for the whole of it. */
template <class C, class F>
void walk_grids(const Extent& extent, const Grids<C>& grids, int64_t begin, int64_t n, const F& run) {
  if (extent.inner < kShortRun) {
    alignas(64) Spread<C> spread;
    spread.fill(extent, grids, begin, n);
    run(spread.each(), 0, n);
    return;
  }
  int64_t channel = extent.channel_of(begin), left = extent.inner - begin % extent.inner;
  for (int64_t i = 0; i < n;) {
    const int64_t length = left < n - i ? left : n - i;
    run(Same<C>{grids.at(channel)}, i, length);
    i += length;
    channel = channel + 1 == extent.channels ? 0 : channel + 1;
    left = extent.inner;
  }
}

struct Stream {
  bool on;
  PhiloxKey key;
  uint64_t offset;

  /** Words of elements [begin, begin + n); room for n + 8. */
  const uint32_t* words(int64_t begin, int64_t n, uint32_t* room) const {
    if (!on) return nullptr;
    const int64_t first = begin / 4;
    philox(key, offset + (uint64_t)first, 0, (begin + n + 3) / 4 - first, room);
    return room + begin % 4;
  }
};

template <class C>
struct Quantizer {
  Extent extent;
  Scheme scheme;
  Stream stream;
  og_view x, codes;
  og_view scale, zero;  // used: given, or found
  bool wants_errors;

  Grids<C> grids() const { return {scale, zero, (C)scheme.low(), (C)scheme.high(), (C)scheme.middle()}; }

  /** Scale and zero point of a channel from its range; written down and, rounded as stored, used. */
  void found(int64_t channel, C low, C high) const {
    const C levels = scheme.nf4() ? C(1) : scheme.kind == 1 ? (C)scheme.high() : (C)((1 << (scheme.bits - 1)) - 1);
    const C range = scheme.kind == 1 ? (high > 0 || high != high ? high : 0) - (low < 0 || low != low ? low : 0) : high;
    float s = (float)(range / levels);
    if (scale.dtype == OG_F16) {
      f16* to = data_of<f16>(scale) + channel;
      *to = to_f16(s);
      s = to_float(*to);
      if (s == 0) *to = to_f16(s = 1);
    } else {
      if (s == 0) s = 1;
      data_of<float>(scale)[channel] = s;
    }
    if (scheme.kind != 1) return;
    const C least = low < 0 ? -low : C(0);
    const C z = std::nearbyint(least / (C)s);  // at most 2^bits − 1 up to the rounding of s
    const C top = (C)scheme.high();
    const int32_t value = z >= 0 ? (int32_t)(z > top ? top : z) : 0;  // NaN: 0
    if (zero.dtype == OG_U8)
      data_of<uint8_t>(zero)[channel] = (uint8_t)value;
    else
      data_of<int32_t>(zero)[channel] = value;
  }

  /** The grid of a channel whose scale was found. Codes that go up at random need their clamp. */
  Grid<C> found_grid(const Grids<C>& all, int64_t channel) const {
    const Grid<C> grid = all.at(channel);
    return scheme.kind == 0 && scale.dtype == OG_F32 && !stream.on ? holding(grid) : grid;
  }

  void find(const C* values, int64_t n, C* low, C* high) const {
    if (scheme.kind == 1)
      find_range(values, n, low, high);
    else
      find_magnitude(values, n, high);
  }

  template <class G>
  void encode(const C* values, int64_t n, const G& g, const uint32_t* words, uint8_t* to, ErrorSums& errors,
              const C* next = nullptr) const {
    if (scheme.nf4())
      nf4_codes(values, n, g, to, errors);
    else
      integer_codes(values, n, g, words, to, errors, next);
  }

  /** Blocks of elements whose grids are known. */
  void encode_block(int64_t begin, int64_t n, ErrorSums& errors) const {
    alignas(64) C buffer[kBlock];
    alignas(64) uint8_t bytes[kBlock];
    alignas(64) uint32_t room[kBlock + 80];
    const C* values = read_floats(x, begin, n, buffer);
    const uint32_t* words = stream.words(begin, n, room);
    uint8_t* to = scheme.packed ? bytes : data_of<uint8_t>(codes) + begin;
    const C* next = values == buffer || begin + 3 * kBlock > extent.count ? nullptr : values + 2 * kBlock;
    walk_grids<C>(extent, grids(), begin, n, [&](const auto& g, int64_t offset, int64_t length) {
      encode(values + offset, length, g, words ? words + offset : nullptr, to + offset, errors,
             next ? next + offset : nullptr);
    });
    if (scheme.packed) pack_nibbles(bytes, n, data_of<uint8_t>(codes) + begin / 2);
    errors.flush();
  }

  /** Ranges, then codes, of `count` channels that are short runs and fill at most a block together. */
  void encode_channels(int64_t first, int64_t count, ErrorSums& errors) const {
    const int64_t begin = first * extent.inner, n = count * extent.inner;
    alignas(64) C buffer[kBlock];
    alignas(64) uint8_t bytes[kBlock];
    alignas(64) uint32_t room[kBlock + 80];
    C low[kBlock], high[kBlock];
    const C* values = read_floats(x, begin, n, buffer);
    for (int64_t i = 0; i < count; i++) {
      low[i] = high[i] = 0;
      find(values + i * extent.inner, extent.inner, low + i, high + i);
    }
    for (int64_t i = 0; i < count; i++) found(first + i, low[i], high[i]);
    const uint32_t* words = stream.words(begin, n, room);
    uint8_t* to = scheme.packed ? bytes : data_of<uint8_t>(codes) + begin;
    const Grids<C> all = grids();
    for (int64_t i = 0; i < count; i++) {
      const int64_t at = i * extent.inner;
      encode(values + at, extent.inner, Same<C>{found_grid(all, first + i)}, words ? words + at : nullptr, to + at,
             errors);
    }
    if (scheme.packed) pack_nibbles(bytes, n, data_of<uint8_t>(codes) + begin / 2);
    errors.flush();
  }

  /** Range, then codes, of one channel that is a single run. */
  void encode_channel(int64_t channel, C* buffer, ErrorSums& errors) const {
    const int64_t begin = channel * extent.inner;
    const C* values = read_floats(x, begin, extent.inner, buffer);
    C low = 0, high = 0;
    find(values, extent.inner, &low, &high);
    found(channel, low, high);
    const Same<C> g{found_grid(grids(), channel)};
    const int64_t rows = extent.inner <= kBlock ? 2 : 1;
    const C* next = values == buffer || channel + rows >= extent.channels ? nullptr : values + rows * extent.inner;
    alignas(64) uint8_t bytes[kBlock];
    alignas(64) uint32_t room[kBlock + 80];
    for (int64_t i = 0; i < extent.inner; i += kBlock) {
      const int64_t n = extent.inner - i < kBlock ? extent.inner - i : kBlock;
      uint8_t* to = scheme.packed ? bytes : data_of<uint8_t>(codes) + begin + i;
      encode(values + i, n, g, stream.words(begin + i, n, room), to, errors, next ? next + i : nullptr);
      if (scheme.packed) pack_nibbles(bytes, n, data_of<uint8_t>(codes) + (begin + i) / 2);
      errors.flush();
    }
  }

  bool is_fused(bool given) const {
    return !given && extent.outer == 1 && extent.inner <= kFused && (!scheme.packed || extent.inner % 2 == 0);
  }

  /** Ranges of long or scattered channels. */
  int32_t find_all() const {
    ScratchFrame scratch;
    if (extent.outer == 1) {  // every channel is one run, cut into pieces whose ranges are put together
      const int64_t pieces = (extent.inner + kChunk - 1) / kChunk;
      C* ranges = scratch.take<C>(extent.channels * pieces * 2 + 1);
      OG_SCRATCH(ranges, "the ranges of quantize");
      parallel_for(extent.channels * pieces, [&](int64_t task) {
        const int64_t piece = task % pieces, end = piece + 1 == pieces ? extent.inner : (piece + 1) * kChunk;
        C low = 0, high = 0;
        alignas(64) C buffer[kBlock];
        for (int64_t at = piece * kChunk; at < end; at += kBlock) {
          const int64_t n = end - at < kBlock ? end - at : kBlock;
          find(read_floats(x, task / pieces * extent.inner + at, n, buffer), n, &low, &high);
        }
        ranges[2 * task] = low;
        ranges[2 * task + 1] = high;
      });
      for (int64_t channel = 0; channel < extent.channels; channel++) {
        C low = 0, high = 0;
        for (int64_t piece = 0; piece < pieces; piece++) {
          const C* range = ranges + 2 * (channel * pieces + piece);
          if (!(range[0] >= low)) low = low != low ? low : range[0];
          if (!(range[1] <= high)) high = high != high ? high : range[1];
        }
        found(channel, low, high);
      }
      return OG_OK;
    }
    if (extent.inner < kShortRun) return find_columns();
    parallel_for(extent.channels, [&](int64_t channel) {
      alignas(64) C buffer[kBlock];
      C low = 0, high = 0;
      for (int64_t row = 0; row < extent.outer; row++) {
        const int64_t at = (row * extent.channels + channel) * extent.inner;
        for (int64_t i = 0; i < extent.inner; i += kBlock) {
          const int64_t n = extent.inner - i < kBlock ? extent.inner - i : kBlock;
          find(read_floats(x, at + i, n, buffer), n, &low, &high);
        }
      }
      found(channel, low, high);
    });
    return OG_OK;
  }

  /** Ranges of channels whose runs are short: of each column of a piece of rows, then put together. */
  int32_t find_columns() const {
    const int64_t width = extent.channels * extent.inner, most = (int64_t{1} << 20) / width;
    int64_t pieces = extent.outer < 64 ? extent.outer : 64;
    if (pieces > most) pieces = most > 0 ? most : 1;
    const int64_t rows = (extent.outer + pieces - 1) / pieces;
    pieces = (extent.outer + rows - 1) / rows;
    ScratchFrame scratch;
    C* ranges = scratch.take<C>(pieces * 2 * width);
    OG_SCRATCH(ranges, "the ranges of quantize");
    parallel_for(pieces, [&](int64_t piece) {
      alignas(64) C buffer[kBlock];
      C *low = ranges + piece * 2 * width, *high = low + width;
      for (int64_t i = 0; i < 2 * width; i++) low[i] = 0;
      const int64_t end = piece + 1 == pieces ? extent.outer : (piece + 1) * rows;
      for (int64_t row = piece * rows; row < end; row++)
        for (int64_t i = 0; i < width; i += kBlock) {
          const int64_t n = width - i < kBlock ? width - i : kBlock;
          find_ranges(read_floats(x, row * width + i, n, buffer), n, low + i, high + i);
        }
    });
    C *low = ranges, *high = ranges + width;
    for (int64_t other = 2; other < 2 * pieces; other++) find_ranges(ranges + other * width, width, low, high);
    for (int64_t channel = 0; channel < extent.channels; channel++) {
      C least = 0, largest = 0, unused = 0;
      find_range(low + channel * extent.inner, extent.inner, &least, &largest);
      find_range(high + channel * extent.inner, extent.inner, &unused, &largest);
      if (scheme.kind != 1) find_magnitude(&least, 1, &largest);
      found(channel, least, largest);
    }
    return OG_OK;
  }

  int32_t run(bool given, const og_view& errors) const {
    const bool fused = is_fused(given);
    const int64_t total = fused ? extent.channels : extent.count;
    const int64_t grain = fused ? grain_for(extent.inner, kChunk) : kChunk;
    const int64_t chunks = total > 0 ? (total + grain - 1) / grain : 0;
    ScratchFrame scratch;
    Errors* partial = nullptr;
    if (wants_errors) {
      partial = scratch.take<Errors>(chunks + 1);
      OG_SCRATCH(partial, "the errors of quantize");
    }
    if (!given && !fused) OG_TRY(find_all());
    int short_of_memory = 0;
    parallel_ranges(total, grain, [&](int64_t begin, int64_t end) {
      Errors total;
      ErrorSums sums(wants_errors ? &total : nullptr);
      if (fused && 2 * extent.inner <= kBlock && extent.inner > 0) {
        const int64_t step = kBlock / extent.inner;
        for (int64_t i = begin; i < end; i += step) encode_channels(i, end - i < step ? end - i : step, sums);
      } else if (fused) {
        ScratchFrame inner;
        C* buffer = is_native<C>(x.dtype) ? nullptr : inner.take<C>(extent.inner);
        if (!buffer && !is_native<C>(x.dtype)) {
          __atomic_store_n(&short_of_memory, 1, __ATOMIC_RELAXED);
          return;
        }
        for (int64_t channel = begin; channel < end; channel++) encode_channel(channel, buffer, sums);
      } else {
        for (int64_t at = begin; at < end; at += kBlock) encode_block(at, end - at < kBlock ? end - at : kBlock, sums);
      }
      if (wants_errors) partial[begin / grain] = total;
    });
    if (short_of_memory) return fail(OG_OUT_OF_MEMORY, "quantize: no memory for a row");
    if (wants_errors) {
      Errors sums;
      for (int64_t i = 0; i < chunks; i++) {
        sums.squares += partial[i].squares;
        sums.signal += partial[i].signal;
        if (!(partial[i].largest <= sums.largest)) sums.largest = partial[i].largest;
      }
      float* to = data_of<float>(errors);
      to[0] = (float)sums.squares;
      to[1] = (float)sums.largest;
      to[2] = (float)sums.signal;
    }
    return OG_OK;
  }
};

/** The scale's operand where it is used as an array of one number a channel. */
og_view absent() {
  og_view none{};
  none.dtype = -1;
  return none;
}

}  // namespace

int32_t kernel_quantize(const og_call* call) {
  const og_view &x = call->inputs[0], &scale_in = call->inputs[1], &zero_in = call->inputs[2];
  const og_view &codes = call->outputs[0], &scale_out = call->outputs[1], &zero_out = call->outputs[2],
                &errors = call->outputs[3];
  const double* a = call->attrs;
  Extent extent;
  Scheme scheme;
  OG_SUPPORTED(dtype_is_float(x.dtype), "quantize: x must be a float");
  OG_TRY(read_extent("quantize", x, &extent));
  OG_TRY(read_scheme("quantize", a, extent, codes, &scheme));
  const bool given = is_present(scale_in);
  OG_REQUIRE(given != is_present(scale_out), "quantize: a scale is either given or found");
  OG_TRY(check_grids("quantize", given ? scale_in : scale_out, given ? zero_in : zero_out, extent.channels));
  if (!given) {
    OG_SUPPORTED(scale_out.dtype != OG_F64, "quantize: scales found are float32 or float16");
    OG_REQUIRE(!is_present(zero_in) && is_present(zero_out) == (scheme.kind == 1),
               "quantize: zero points belong to the affine scheme");
    OG_SUPPORTED(!is_present(zero_out) || zero_out.dtype == OG_I32 || zero_out.dtype == OG_U8,
                 "quantize: zero points are int32 or uint8");
  } else {
    OG_REQUIRE(!is_present(zero_out), "quantize: zero points are either given or found");
    OG_REQUIRE(!is_present(zero_in) || scheme.kind == 1, "quantize: zero points belong to the affine scheme");
  }
  if (is_present(errors))
    OG_REQUIRE(errors.dtype == OG_F32 && is_contiguous(errors) && count_of(errors) == 3,
               "quantize: errors are float32 [3]");
  Stream stream{a[2] != 0, {0, 0}, 0};
  if (stream.on) {
    OG_SUPPORTED(!scheme.nf4(), "quantize: NF4 rounds to nearest");
    for (int i = 3; i < 7; i++)
      OG_REQUIRE(a[i] >= 0 && a[i] < 4294967296.0 && a[i] == std::floor(a[i]),
                 "quantize: seed and offset are given as halves of 32 bits");
    stream.key = {(uint32_t)a[3], (uint32_t)a[4]};
    stream.offset = (uint64_t)a[5] | (uint64_t)a[6] << 32;
  }
  return with_float_compute(x.dtype, [&](auto type) {
    typedef decltype(type) C;
    const Quantizer<C> work{extent,
                            scheme,
                            stream,
                            x,
                            codes,
                            given ? scale_in : scale_out,
                            scheme.kind != 1 ? absent()
                            : given          ? zero_in
                                             : zero_out,
                            is_present(errors)};
    return work.run(given, errors);
  });
}

int32_t kernel_dequantize(const og_call* call) {
  const og_view &codes = call->inputs[0], &scale = call->inputs[1], &zero = call->inputs[2], &y = call->outputs[0];
  Extent extent;
  Scheme scheme;
  OG_SUPPORTED(dtype_is_float(y.dtype), "dequantize: the output must be a float");
  OG_TRY(read_extent("dequantize", y, &extent));
  OG_TRY(read_scheme("dequantize", call->attrs, extent, codes, &scheme));
  OG_TRY(check_grids("dequantize", scale, zero, extent.channels));
  return with_float_compute(y.dtype, [&](auto type) {
    typedef decltype(type) C;
    const Grids<C> grids{scale, scheme.kind == 1 ? zero : absent(), C(0), C(0), (C)scheme.middle()};
    parallel_ranges(extent.count, kChunk, [&](int64_t begin, int64_t end) {
      alignas(64) C buffer[kBlock];
      alignas(64) uint8_t bytes[kBlock];
      for (int64_t at = begin; at < end; at += kBlock) {
        const int64_t n = end - at < kBlock ? end - at : kBlock;
        const uint8_t* from = data_of<const uint8_t>(codes) + at;
        if (scheme.packed) {
          unpack_nibbles(data_of<const uint8_t>(codes) + at / 2, n, bytes);
          from = bytes;
        }
        const bool direct = is_native<C>(y.dtype);
        C* to = direct ? data_of<C>(y) + at : buffer;
        walk_grids<C>(extent, grids, at, n, [&](const auto& g, int64_t offset, int64_t length) {
          from_codes(from + offset, scheme.is_signed(), scheme.nf4(), length, g, to + offset);
        });
        if (!direct) write_run(y, at, 1, n, buffer);
      }
    });
    return (int32_t)OG_OK;
  });
}

int32_t kernel_fake_quantize(const og_call* call) {
  const og_view &x = call->inputs[0], &scale = call->inputs[1], &zero = call->inputs[2];
  const og_view &y = call->outputs[0], &inside = call->outputs[1];
  Extent extent;
  OG_SUPPORTED(dtype_is_float(x.dtype) && y.dtype == x.dtype, "fake_quantize: x and y must be floats of one dtype");
  OG_TRY(read_extent("fake_quantize", x, &extent));
  OG_REQUIRE(same_shape(x, y) && is_dense(y) && same_shape(x, inside) && is_dense(inside) && inside.dtype == OG_BOOL,
             "fake_quantize: y and a bool mask in the shape of x are expected");
  OG_TRY(check_grids("fake_quantize", scale, zero, extent.channels));
  const double low = call->attrs[0], high = call->attrs[1];
  OG_REQUIRE(low <= high && std::fabs(low) <= 2147483648.0 && std::fabs(high) <= 2147483648.0,
             "fake_quantize: codes must be in order and fit 32 bits");
  return with_float_compute(x.dtype, [&](auto type) {
    typedef decltype(type) C;
    const Grids<C> grids{scale, zero, (C)low, (C)high, C(0)};
    parallel_ranges(extent.count, kChunk, [&](int64_t begin, int64_t end) {
      alignas(64) C in[kBlock];
      alignas(64) C out[kBlock];
      const bool direct = is_native<C>(x.dtype);
      for (int64_t at = begin; at < end; at += kBlock) {
        const int64_t n = end - at < kBlock ? end - at : kBlock;
        const C* from = read_floats(x, at, n, in);
        C* to = direct ? data_of<C>(y) + at : out;
        uint8_t* mask = data_of<uint8_t>(inside) + at;
        walk_grids<C>(extent, grids, at, n, [&](const auto& g, int64_t offset, int64_t length) {
          fake_codes(from + offset, length, g, to + offset, mask + offset);
        });
        if (!direct) write_run(y, at, 1, n, out);
      }
    });
    return (int32_t)OG_OK;
  });
}

}  // namespace OG_ISA
}  // namespace og
