/** The definition of attention and of its gradient in double, and what the kernels make of one case of it. */
#ifndef OMNIGRAD_TEST_ATTENTION_FIXTURE_H
#define OMNIGRAD_TEST_ATTENTION_FIXTURE_H

#include <algorithm>

#include "check.h"
#include "core/philox.h"

using namespace og_test;
using og::Isa;

namespace {

const int32_t kFloats[] = {OG_F32, OG_F16, OG_BF16, OG_F64};
const char* const kFloatNames[] = {"f32", "f16", "bf16", "f64"};

int64_t pick(Random& random, int64_t low, int64_t end) { return low + random.below(end - low); }

bool succeeded(int32_t status) {
  CHECK(status == OG_OK, "%s", og::last_message());
  return status == OG_OK;
}

enum Mask { kNone, kBool, kBoolPadding, kFloat, kFloatShared, kMaskCount };
const char* const kMaskNames[] = {"no mask", "bool", "bool padding", "float", "float shared"};

/** kHeads: [B, H, T, D]; kInterleaved: views into [B, T, 3·H, D]; kStretched: last axis of stride 2, odd offset. */
enum Memory { kHeads, kInterleaved, kStretched, kMemoryCount };

struct Case {
  int64_t B, Hq, Hkv, T, S, D, Dv;
  bool causal;
  int64_t window;
  Mask mask;
  int32_t dtype;
  Memory memory;
  double cap = 0;
  bool alibi = false;
  double drop = 0;
  /** Of packed sequences: T and S are the last ones. */
  std::vector<int64_t> query_offsets = {}, key_offsets = {};
  /** Some keys form spans in which queries see both ways. */
  bool spans = false;
};

/** For each query the span that it stands in, as from and to; 0, 0 outside of spans. Spans of up to `longest` keys. */
std::vector<int64_t> random_spans(Random& random, int64_t queries, int64_t keys, int64_t longest) {
  std::vector<int64_t> spans((size_t)(2 * queries), 0);
  for (int64_t from = random.below(5); from < keys; from += random.below(longest)) {
    const int64_t to = std::min(keys, from + 1 + random.below(longest));
    for (int64_t place = std::max<int64_t>(from, keys - queries); place < to; place++) {
      spans[(size_t)(2 * (place - keys + queries))] = from;
      spans[(size_t)(2 * (place - keys + queries) + 1)] = to;
    }
    from = to;
  }
  return spans;
}

const double kStream[4] = {77, 3, 4294967290.0, 1};

/** A four-axis operand in one of the layouts, with a guard value in the gaps. */
struct Operand {
  og_view view;
  std::vector<uint8_t> memory;

  Operand() { std::memset(&view, 0, sizeof view), view.dtype = -1; }
  Operand(int32_t dtype, std::vector<int64_t> shape, Memory layout) {
    std::memset(&view, 0, sizeof view);
    view.dtype = dtype;
    view.rank = (int32_t)shape.size();
    int64_t order[4] = {3, 2, 1, 0};
    if (layout == kInterleaved) std::swap(order[1], order[2]);
    int64_t stride = layout == kStretched ? 2 : 1;
    for (int axis : order) {
      if (axis >= view.rank) continue;
      view.shape[axis] = shape[(size_t)axis];
      view.strides[axis] = stride;
      stride *= std::max<int64_t>(shape[(size_t)axis], 1);
      if (layout == kInterleaved && axis == 1) stride *= 3;
      if (layout == kStretched) stride += 3;
    }
    const int64_t size = og::dtype_size(dtype);
    memory.assign((size_t)((stride + 9) * size), 0x7b);
    view.data = memory.data() + size;  // never aligned to more than an element
  }
  Operand(const Operand&) = delete;
  Operand& operator=(const Operand&) = delete;

  int64_t count() const {
    int64_t n = 1;
    for (int i = 0; i < view.rank; i++) n *= view.shape[i];
    return n;
  }
  void* at(int64_t index) const {
    int64_t offset = 0;
    for (int i = view.rank - 1; i >= 0; i--) {
      offset += index % view.shape[i] * view.strides[i];
      index /= view.shape[i];
    }
    return static_cast<char*>(view.data) + offset * og::dtype_size(view.dtype);
  }
  double get(int64_t i) const {
    const void* p = at(i);
    switch (view.dtype) {
      case OG_F32:
        return *static_cast<const float*>(p);
      case OG_F16:
        return og::to_float(*static_cast<const og::f16*>(p));
      case OG_BF16:
        return og::to_float(*static_cast<const og::bf16*>(p));
      case OG_F64:
        return *static_cast<const double*>(p);
      case OG_I32:
        return *static_cast<const int32_t*>(p);
      case OG_I8:
        return *static_cast<const int8_t*>(p);
      default:
        return *static_cast<const uint8_t*>(p);
    }
  }
  void set(int64_t i, double value) {
    void* p = at(i);
    switch (view.dtype) {
      case OG_F32:
        *static_cast<float*>(p) = (float)value;
        break;
      case OG_F16:
        *static_cast<og::f16*>(p) = og::to_f16((float)value);
        break;
      case OG_BF16:
        *static_cast<og::bf16*>(p) = og::to_bf16((float)value);
        break;
      case OG_F64:
        *static_cast<double*>(p) = value;
        break;
      case OG_I32:
        *static_cast<int32_t*>(p) = (int32_t)value;
        break;
      case OG_I8:
        *static_cast<int8_t*>(p) = (int8_t)std::lround(value);
        break;
      default:
        *static_cast<uint8_t*>(p) = value != 0;
    }
  }
  std::vector<double> values() const {
    std::vector<double> out((size_t)count());
    for (size_t i = 0; i < out.size(); i++) out[i] = get((int64_t)i);
    return out;
  }
  void fill(Random& random, double low, double high) {
    const int64_t n = count();
    for (int64_t i = 0; i < n; i++) set(i, random.uniform(low, high));
  }
  /** Whether every byte outside the elements still is the guard. */
  bool gaps_untouched() const {
    std::vector<uint8_t> copy = memory;
    const int64_t size = og::dtype_size(view.dtype), n = count();
    for (int64_t i = 0; i < n; i++)
      std::memset(copy.data() + (static_cast<uint8_t*>(at(i)) - memory.data()), 0x7b, (size_t)size);
    return std::all_of(copy.begin(), copy.end(), [](uint8_t b) { return b == 0x7b; });
  }
};

int32_t call_kernel(Isa isa, const char* name, const std::vector<const Operand*>& operands, size_t inputs,
                    const std::vector<double>& attrs) {
  std::vector<og_view> views;
  for (const Operand* o : operands) views.push_back(o->view);
  og_call call{
      views.data(),         views.data() + inputs, attrs.data(), (int32_t)inputs, (int32_t)(views.size() - inputs),
      (int32_t)attrs.size()};
  return og::run_kernel_on(isa, og::kernel_id(name), call);
}

/** Inputs of one case, and what the definition makes of them. */
struct Fixture {
  Case c;
  double scale;
  Operand q, k, v, mask, grad, slopes, query_offsets, key_offsets, spans;
  std::vector<double> y, lse, dq, dk, dv, dmask;

  explicit Fixture(const Case& c, uint64_t seed = 1)
      : c(c),
        scale(0.9 / std::sqrt((double)c.D)),
        q(c.dtype, {c.B, c.Hq, c.T, c.D}, c.memory),
        k(c.dtype, {c.B, c.Hkv, c.S, c.D}, c.memory),
        v(c.dtype, {c.B, c.Hkv, c.S, c.Dv}, c.memory),
        mask(mask_dtype(c), {c.B, c.Hq, c.T, c.S}, c.memory == kInterleaved ? kHeads : c.memory),
        grad(c.dtype, {c.B, c.Hq, c.T, c.Dv}, c.memory),
        slopes(c.dtype == OG_F64 ? OG_F64 : OG_F32, {c.Hq}, c.memory),
        query_offsets(OG_I32, {(int64_t)c.query_offsets.size()}, c.memory),
        key_offsets(OG_I32, {(int64_t)c.key_offsets.size()}, c.memory),
        spans(OG_I32, {c.B, c.T, 2}, c.memory) {
    for (int64_t h = 0; h < c.Hq; h++) slopes.set(h, h == 1 ? 0 : std::exp2(-1.5 * (double)h - 1));
    if (!c.alibi) slopes.view.dtype = -1;
    for (size_t n = 0; n < c.query_offsets.size(); n++) {
      query_offsets.set((int64_t)n, (double)c.query_offsets[n]);
      key_offsets.set((int64_t)n, (double)c.key_offsets[n]);
    }
    if (c.query_offsets.empty()) query_offsets.view.dtype = key_offsets.view.dtype = -1;
    Random random(seed);
    for (size_t n = 0; n + 1 < c.query_offsets.size() && c.spans; n++) {
      const int64_t first = c.query_offsets[n], keys_before = c.key_offsets[n], count = c.query_offsets[n + 1] - first;
      const std::vector<int64_t> own = random_spans(random, count, c.key_offsets[n + 1] - keys_before, 20);
      for (int64_t i = 0; i < 2 * count; i += 2) {
        const int64_t before = own[(size_t)i] != own[(size_t)i + 1] ? keys_before : 0;
        spans.set(2 * first + i, (double)(own[(size_t)i] + before));
        spans.set(2 * first + i + 1, (double)(own[(size_t)i + 1] + before));
      }
    }
    for (int64_t b = 0; b < c.B && c.spans && c.query_offsets.empty(); b++) {
      const std::vector<int64_t> own = random_spans(random, c.T, c.S, b % 2 ? 7 : 90);
      for (int64_t i = 0; i < 2 * c.T; i++) spans.set(b * 2 * c.T + i, (double)own[(size_t)i]);
    }
    if (!c.spans) spans.view.dtype = -1;
    q.fill(random, -3, 3);
    k.fill(random, -2, 2);
    v.fill(random, -1, 1);
    grad.fill(random, -1, 1);
    fill_mask(random);
  }

  static int32_t mask_dtype(const Case& c) { return c.mask == kBool || c.mask == kBoolPadding ? OG_BOOL : c.dtype; }

  void fill_mask(Random& random) {
    if (c.mask == kNone) {
      mask.view.dtype = -1;
      return;
    }
    if (c.mask == kBoolPadding) mask.view.strides[1] = mask.view.strides[2] = 0;
    if (c.mask == kFloatShared) mask.view.strides[0] = mask.view.strides[1] = 0;
    for (int64_t i = 0; i < mask.count(); i++) {
      const double u = random.uniform();
      if (mask.view.dtype == OG_BOOL) {
        mask.set(i, u < 0.7);
      } else {
        mask.set(i, u < 0.2 ? -INFINITY : random.uniform(-2, 2));
      }
    }
    if (c.T > 2 && c.mask != kBoolPadding)  // one query that may attend to nothing
      for (int64_t j = 0; j < c.S; j++) mask.set(2 * c.S + j, mask.view.dtype == OG_BOOL ? 0 : -INFINITY);
  }

  std::vector<double> attrs() const {
    std::vector<double> list = {scale, c.causal ? 1. : 0., (double)c.window, c.cap, c.drop};
    list.insert(list.end(), kStream, kStream + 4);
    return list;
  }

  /** What dropout makes of a weight: a factor. */
  double kept(int64_t head, int64_t i, int64_t j) const {
    if (c.drop == 0) return 1;
    const uint64_t place = (uint64_t)((head * c.T + i) * c.S + j);
    const uint64_t counter = ((uint64_t)kStream[2] | (uint64_t)kStream[3] << 32) + place / 4;
    const uint32_t block[4] = {(uint32_t)counter, (uint32_t)(counter >> 32), 0, 0};
    uint32_t words[4];
    og::philox_block({(uint32_t)kStream[0], (uint32_t)kStream[1]}, block, words);
    return words[place % 4] >= (uint32_t)(c.drop * 4294967296.0) ? 1 / (1 - c.drop) : 0;
  }

  /** The keys of query i's sequence, and where among all keys it stands. */
  struct Range {
    int64_t from, to, place;
  };
  Range range_of(int64_t i) const {
    if (c.query_offsets.empty()) return {0, c.S, i + c.S - c.T};
    size_t n = 0;
    while (i >= c.query_offsets[n + 1]) n++;
    return {c.key_offsets[n], c.key_offsets[n + 1], i + c.key_offsets[n + 1] - c.query_offsets[n + 1]};
  }

  bool in_span(int64_t b, int64_t i, int64_t j) const {
    return c.spans && j >= spans.get((b * c.T + i) * 2) && j < spans.get((b * c.T + i) * 2 + 1);
  }

  double bias(int64_t head, int64_t i, int64_t j) const {
    if (c.mask == kNone) return 0;
    const double m = mask.get((head * c.T + i) * c.S + j);
    return mask.view.dtype == OG_BOOL ? (m != 0 ? 0 : -INFINITY) : m;
  }

  /** Keys that a query does not see have weights of zero, and are passed over. */
  void solve(bool gradients) {
    const std::vector<double> Q = q.values(), K = k.values(), V = v.values(), G = grad.values();
    y.assign((size_t)(c.B * c.Hq * c.T * c.Dv), 0);
    lse.assign((size_t)(c.B * c.Hq * c.T), -INFINITY);
    dq.assign(Q.size(), 0);
    dk.assign(K.size(), 0);
    dv.assign(V.size(), 0);
    dmask.assign((size_t)(c.B * c.Hq * c.T * c.S), 0);
    std::vector<double> p((size_t)c.S), bend((size_t)c.S, 1);
    for (int64_t head = 0; head < c.B * c.Hq; head++) {
      const int64_t kv = head / c.Hq * c.Hkv + head % c.Hq / (c.Hq / c.Hkv);
      for (int64_t i = 0; i < c.T; i++) {
        const double *qi = &Q[(size_t)((head * c.T + i) * c.D)], *gi = &G[(size_t)((head * c.T + i) * c.Dv)];
        double top = -INFINITY, total = 0, delta = 0;
        const Range range = range_of(i);
        const int64_t last = range.place;
        p.assign((size_t)c.S, -INFINITY);
        for (int64_t j = range.from; j < range.to; j++) {
          const bool far = (c.causal && j > last) || (c.window > 0 && j <= last - c.window);
          if (far && !in_span(head / c.Hq, i, j)) continue;
          const double* key = &K[(size_t)((kv * c.S + j) * c.D)];
          double s = 0;
          for (int64_t d = 0; d < c.D; d++) s += qi[d] * key[d];
          s *= scale;
          if (c.cap > 0) {
            const double t = std::tanh(s / c.cap);
            s = c.cap * t;
            bend[(size_t)j] = 1 - t * t;
          }
          if (c.alibi) s -= slopes.get(head % c.Hq) * std::fabs((double)(last - j));
          p[(size_t)j] = s + bias(head, i, j);
          top = std::max(top, p[(size_t)j]);
        }
        if (top == -INFINITY) continue;
        for (double& x : p) total += x = std::exp(x - top);
        lse[(size_t)(head * c.T + i)] = top + std::log(total);
        double* yi = &y[(size_t)((head * c.T + i) * c.Dv)];
        for (int64_t j = 0; j < c.S; j++) {
          p[(size_t)j] /= total;
          if (p[(size_t)j] == 0) continue;
          const double used = p[(size_t)j] * kept(head, i, j), *value = &V[(size_t)((kv * c.S + j) * c.Dv)];
          for (int64_t d = 0; d < c.Dv; d++) yi[d] += used * value[d];
        }
        if (!gradients) continue;
        for (int64_t d = 0; d < c.Dv; d++) delta += gi[d] * yi[d];
        for (int64_t j = 0; j < c.S; j++) {
          if (p[(size_t)j] == 0) continue;
          const double share = kept(head, i, j), *value = &V[(size_t)((kv * c.S + j) * c.Dv)];
          double *of_value = &dv[(size_t)((kv * c.S + j) * c.Dv)], dp = 0;
          for (int64_t d = 0; d < c.Dv; d++) {
            dp += share * gi[d] * value[d];
            of_value[d] += share * p[(size_t)j] * gi[d];
          }
          double ds = p[(size_t)j] * (dp - delta);
          dmask[(size_t)((head * c.T + i) * c.S + j)] = ds;
          ds *= bend[(size_t)j];
          const double* key = &K[(size_t)((kv * c.S + j) * c.D)];
          double *of_query = &dq[(size_t)((head * c.T + i) * c.D)], *of_key = &dk[(size_t)((kv * c.S + j) * c.D)];
          for (int64_t d = 0; d < c.D; d++) {
            of_query[d] += scale * ds * key[d];
            of_key[d] += scale * ds * qi[d];
          }
        }
      }
    }
  }
};

struct Results {
  Operand y, lse, dq, dk, dv, dmask;
  explicit Results(const Case& c)
      : y(c.dtype, {c.B, c.Hq, c.T, c.Dv}, c.memory),
        lse(c.dtype == OG_F64 ? OG_F64 : OG_F32, {c.B, c.Hq, c.T}, c.memory == kStretched ? kStretched : kHeads),
        dq(c.dtype, {c.B, c.Hq, c.T, c.D}, c.memory),
        dk(c.dtype, {c.B, c.Hkv, c.S, c.D}, c.memory),
        dv(c.dtype, {c.B, c.Hkv, c.S, c.Dv}, c.memory),
        dmask(c.dtype, {c.B, c.Hq, c.T, c.S}, c.memory == kInterleaved ? kHeads : c.memory) {
    if (c.mask != kFloat) dmask.view.dtype = -1;
  }
};

int32_t forward(Isa isa, const Fixture& f, Results& r) {
  return call_kernel(isa, "attention",
                     {&f.q, &f.k, &f.v, &f.mask, &f.slopes, &f.query_offsets, &f.key_offsets, &f.spans, &r.y, &r.lse},
                     8, f.attrs());
}
int32_t backward(Isa isa, const Fixture& f, Results& r) {
  return call_kernel(isa, "attention_backward",
                     {&f.q, &f.k, &f.v, &f.mask, &f.slopes, &f.query_offsets, &f.key_offsets, &f.spans, &r.y, &r.lse,
                      &f.grad, &r.dq, &r.dk, &r.dv, &r.dmask},
                     11, f.attrs());
}

/** Largest |actual - expected| relative to the larger of the expected maximum and `floor`; infinities must agree. */
double error_of(const Operand& actual, const std::vector<double>& expected, double floor) {
  double worst = 0, largest = floor;
  for (double e : expected)
    if (std::isfinite(e)) largest = std::max(largest, std::fabs(e));
  for (size_t i = 0; i < expected.size(); i++) {
    const double a = actual.get((int64_t)i), e = expected[i];
    if (a == e) continue;
    const double error = std::fabs(a - e) / largest;
    worst = std::isfinite(error) ? std::max(worst, error) : INFINITY;
  }
  return worst;
}

void check_error(const char* what, const Operand& actual, const std::vector<double>& expected, double floor,
                 double tolerance) {
  const double error = error_of(actual, expected, floor);
  CHECK(error <= tolerance, "%s: error %.3g above %.3g", what, error, tolerance);
  CHECK(actual.gaps_untouched(), "%s: wrote between elements", what);
}

inline void check_case(const Case& c, bool gradients = true) {
  char text[240];
  std::snprintf(
      text, sizeof text,
      "B%d Hq%d Hkv%d T%d S%d D%d Dv%d causal%d window%d %s %s memory%d cap%g alibi%d drop%g packed%d spans%d",
      (int)c.B, (int)c.Hq, (int)c.Hkv, (int)c.T, (int)c.S, (int)c.D, (int)c.Dv, c.causal, (int)c.window,
      kMaskNames[c.mask], kFloatNames[c.dtype], (int)c.memory, c.cap, c.alibi, c.drop, (int)c.query_offsets.size(),
      c.spans);
  const std::string outer = context();
  context() = text;
  Fixture f(c);
  f.solve(gradients);
  const bool is_large = c.B * c.Hq * c.T * c.S * c.D > (1 << 20);
  for_each_isa([&](Isa isa) {
    if (c.dtype == OG_F64 && isa != og::kReference) return;
    // the definition takes one path whatever the size
    if (c.dtype != OG_F64 && isa == og::kReference && is_large && small_sizes()) return;
    const bool half = c.dtype == OG_F16 || c.dtype == OG_BF16;
    const double exact = c.dtype == OG_F64 ? 1e-13 : 4e-6, tolerance = half ? roundoff(c.dtype) * 1.2 : exact;
    std::vector<std::vector<uint8_t>> first;
    for (int threads = 1; threads <= 3; threads++) {
      if (threads > 1 && isa == og::kReference) break;
      og::set_threads(threads);
      Results r(c);
      if (!succeeded(forward(isa, f, r))) return;
      if (gradients && !succeeded(backward(isa, f, r))) return;
      if (threads == 1) {
        check_error("y", r.y, f.y, 0.1, tolerance);
        check_error("lse", r.lse, f.lse, 1, exact);
        if (gradients) {
          // y is rounded to 16 bits before it enters Δ, so the gradients see that rounding too
          const double loose = half ? 5 * roundoff(c.dtype) : 4 * exact;
          check_error("dq", r.dq, f.dq, 0.1, loose);
          check_error("dk", r.dk, f.dk, 0.1, loose);
          check_error("dv", r.dv, f.dv, 0.1, half ? tolerance : loose);
          if (r.dmask.view.dtype >= 0) check_error("dmask", r.dmask, f.dmask, 0.1, loose);
        }
        for (Operand* o : {&r.y, &r.lse, &r.dq, &r.dk, &r.dv, &r.dmask}) first.push_back(o->memory);
      } else {
        size_t i = 0;
        bool same = true;
        for (Operand* o : {&r.y, &r.lse, &r.dq, &r.dk, &r.dv, &r.dmask}) same &= o->memory == first[i++];
        CHECK(same, "%d threads gave other bits than 1", threads);
      }
    }
    og::set_threads(2);
  });
  context() = outer;
}

}  // namespace
#endif
