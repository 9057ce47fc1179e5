/** attention and attention_backward against the definition in double, over masks, layouts, dtypes, sets and threads. */
#include <algorithm>

#include "check.h"

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
};

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
      default:
        *static_cast<uint8_t*>(p) = value != 0;
    }
  }
  std::vector<double> values() const {
    std::vector<double> out((size_t)count());
    for (int64_t i = 0; i < count(); i++) out[(size_t)i] = get(i);
    return out;
  }
  void fill(Random& random, double low, double high) {
    for (int64_t i = 0; i < count(); i++) set(i, random.uniform(low, high));
  }
  /** Whether every byte outside the elements still is the guard. */
  bool gaps_untouched() const {
    std::vector<uint8_t> copy = memory;
    const int64_t size = og::dtype_size(view.dtype);
    for (int64_t i = 0; i < count(); i++)
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
  Operand q, k, v, mask, grad;
  std::vector<double> y, lse, dq, dk, dv, dmask;

  explicit Fixture(const Case& c, uint64_t seed = 1)
      : c(c),
        scale(0.9 / std::sqrt((double)c.D)),
        q(c.dtype, {c.B, c.Hq, c.T, c.D}, c.memory),
        k(c.dtype, {c.B, c.Hkv, c.S, c.D}, c.memory),
        v(c.dtype, {c.B, c.Hkv, c.S, c.Dv}, c.memory),
        mask(mask_dtype(c), {c.B, c.Hq, c.T, c.S}, c.memory == kInterleaved ? kHeads : c.memory),
        grad(c.dtype, {c.B, c.Hq, c.T, c.Dv}, c.memory) {
    Random random(seed);
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

  std::vector<double> attrs() const { return {scale, c.causal ? 1. : 0., (double)c.window}; }

  double bias(int64_t head, int64_t i, int64_t j) const {
    if (c.mask == kNone) return 0;
    const double m = mask.get((head * c.T + i) * c.S + j);
    return mask.view.dtype == OG_BOOL ? (m != 0 ? 0 : -INFINITY) : m;
  }

  void solve() {
    const std::vector<double> Q = q.values(), K = k.values(), V = v.values(), G = grad.values();
    y.assign((size_t)(c.B * c.Hq * c.T * c.Dv), 0);
    lse.assign((size_t)(c.B * c.Hq * c.T), -INFINITY);
    dq.assign(Q.size(), 0);
    dk.assign(K.size(), 0);
    dv.assign(V.size(), 0);
    dmask.assign((size_t)(c.B * c.Hq * c.T * c.S), 0);
    std::vector<double> p((size_t)c.S);
    for (int64_t head = 0; head < c.B * c.Hq; head++) {
      const int64_t kv = head / c.Hq * c.Hkv + head % c.Hq / (c.Hq / c.Hkv);
      for (int64_t i = 0; i < c.T; i++) {
        const double *qi = &Q[(size_t)((head * c.T + i) * c.D)], *gi = &G[(size_t)((head * c.T + i) * c.Dv)];
        double top = -INFINITY, total = 0, delta = 0;
        for (int64_t j = 0; j < c.S; j++) {
          double s = 0;
          for (int64_t d = 0; d < c.D; d++) s += qi[d] * K[(size_t)((kv * c.S + j) * c.D + d)];
          const int64_t last = i + c.S - c.T;
          const bool hidden = (c.causal && j > last) || (c.window > 0 && j <= last - c.window);
          p[(size_t)j] = hidden ? -INFINITY : s * scale + bias(head, i, j);
          top = std::max(top, p[(size_t)j]);
        }
        if (top == -INFINITY) continue;
        for (double& x : p) total += x = std::exp(x - top);
        lse[(size_t)(head * c.T + i)] = top + std::log(total);
        double* yi = &y[(size_t)((head * c.T + i) * c.Dv)];
        for (int64_t j = 0; j < c.S; j++) {
          p[(size_t)j] /= total;
          for (int64_t d = 0; d < c.Dv; d++) yi[d] += p[(size_t)j] * V[(size_t)((kv * c.S + j) * c.Dv + d)];
        }
        for (int64_t d = 0; d < c.Dv; d++) delta += gi[d] * yi[d];
        for (int64_t j = 0; j < c.S; j++) {
          double dp = 0;
          for (int64_t d = 0; d < c.Dv; d++) {
            dp += gi[d] * V[(size_t)((kv * c.S + j) * c.Dv + d)];
            dv[(size_t)((kv * c.S + j) * c.Dv + d)] += p[(size_t)j] * gi[d];
          }
          const double ds = p[(size_t)j] * (dp - delta);
          dmask[(size_t)((head * c.T + i) * c.S + j)] = ds;
          for (int64_t d = 0; d < c.D; d++) {
            dq[(size_t)((head * c.T + i) * c.D + d)] += scale * ds * K[(size_t)((kv * c.S + j) * c.D + d)];
            dk[(size_t)((kv * c.S + j) * c.D + d)] += scale * ds * qi[d];
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
  return call_kernel(isa, "attention", {&f.q, &f.k, &f.v, &f.mask, &r.y, &r.lse}, 4, f.attrs());
}
int32_t backward(Isa isa, const Fixture& f, Results& r) {
  return call_kernel(isa, "attention_backward",
                     {&f.q, &f.k, &f.v, &f.mask, &r.y, &r.lse, &f.grad, &r.dq, &r.dk, &r.dv, &r.dmask}, 7, f.attrs());
}

/** Largest |actual - expected| relative to the larger of the expected maximum and `floor`; infinities must agree. */
double error_of(const Operand& actual, const std::vector<double>& expected, double floor) {
  double worst = 0, largest = floor;
  for (double e : expected)
    if (std::isfinite(e)) largest = std::max(largest, std::fabs(e));
  for (int64_t i = 0; i < actual.count(); i++) {
    const double a = actual.get(i), e = expected[(size_t)i];
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

void check_case(const Case& c, bool gradients = true) {
  char text[200];
  std::snprintf(text, sizeof text, "B%d Hq%d Hkv%d T%d S%d D%d Dv%d causal%d window%d %s %s memory%d", (int)c.B,
                (int)c.Hq, (int)c.Hkv, (int)c.T, (int)c.S, (int)c.D, (int)c.Dv, c.causal, (int)c.window,
                kMaskNames[c.mask], kFloatNames[c.dtype], (int)c.memory);
  const std::string outer = context();
  context() = text;
  Fixture f(c);
  f.solve();
  for_each_isa([&](Isa isa) {
    if (c.dtype == OG_F64 && isa != og::kReference) return;
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

void test_random_cases() {
  Random random(7);
  const int64_t widths[] = {1, 3, 8, 16, 20, 33, 64, 80, 128, 256};
  for (int n = 0; n < 160; n++) {
    Case c;
    c.B = pick(random, 1, 3);
    c.Hkv = pick(random, 1, 4);
    c.Hq = c.Hkv * pick(random, 1, 4);
    c.T = pick(random, 1, n % 4 == 0 ? 150 : 40);
    c.S = n % 3 == 0 ? c.T : pick(random, 1, n % 5 == 0 ? 400 : 80);
    c.D = widths[pick(random, 0, 10)];
    c.Dv = n % 2 ? c.D : widths[pick(random, 0, 10)];
    c.causal = pick(random, 0, 2) != 0;
    c.window = pick(random, 0, 3) == 0 ? pick(random, 1, 40) : 0;
    c.mask = (Mask)pick(random, 0, kMaskCount);
    c.dtype = kFloats[pick(random, 0, 4)];
    c.memory = (Memory)pick(random, 0, kMemoryCount);
    check_case(c);
  }
}

void test_chosen_cases() {
  for (bool causal : {false, true}) {
    check_case({2, 3, 3, 256, 256, 64, 64, causal, 0, kNone, OG_F32, kInterleaved});  // training
    check_case({1, 2, 1, 300, 1100, 32, 48, causal, 0, kNone, OG_F32, kHeads});       // continued prefill, split keys
    check_case({1, 1, 1, 17, 2500, 16, 16, causal, 700, kBoolPadding, OG_F32, kHeads});
    check_case({1, 1, 1, 700, 700, 64, 64, causal, 0, kFloat, OG_F32, kHeads});           // several phases
    check_case({1, 1, 1, 520, 1200, 24, 40, causal, 100, kNone, OG_BF16, kInterleaved});  // accumulators beside bf16
    check_case({1, 4, 2, 1, 5000, 64, 64, causal, 0, kNone, OG_F32, kHeads}, false);      // decoding
    check_case({1, 8, 1, 1, 3000, 128, 128, causal, 0, kBoolPadding, OG_BF16, kHeads}, false);
    check_case({2, 2, 2, 4, 900, 80, 72, causal, 0, kFloat, OG_F16, kInterleaved}, false);
    check_case({1, 1, 1, 6, 2000, 20, 20, causal, 500, kNone, OG_F32, kStretched}, false);
    check_case({1, 2, 2, 40, 13, 16, 16, causal, 0, kNone, OG_F32, kHeads});  // more queries than keys
  }
}

void test_empty() {
  for_each_isa([](Isa isa) {
    for (int which = 0; which < 4; which++) {
      Case c{2, 2, 2, 3, 4, 8, 8, false, 0, kNone, OG_F32, kHeads};
      if (which == 0) c.B = 0;
      if (which == 1) c.T = 0;
      if (which == 2) c.S = 0;
      if (which == 3) c.Hq = c.Hkv = 0;
      Fixture f(c);
      Results r(c);
      for (Operand* o : {&r.y, &r.lse, &r.dq, &r.dk, &r.dv})
        for (int64_t i = 0; i < o->count(); i++) o->set(i, 5);
      succeeded(forward(isa, f, r));
      succeeded(backward(isa, f, r));
      for (const Operand* o : {&r.y, &r.dq, &r.dk, &r.dv})
        for (double x : o->values()) CHECK(x == 0);
      for (double x : r.lse.values()) CHECK(x == -INFINITY);
    }
  });
}

/** NaN in a query spoils its own row only; NaN in a key spoils the rows that see it. */
void test_nan() {
  for_each_isa([](Isa isa) {
    for (int64_t T : {3, 70}) {
      Case c{1, 1, 1, T, T, 16, 16, true, 0, kNone, OG_F32, kHeads};
      Fixture f(c);
      f.q.set(1 * 16 + 3, NAN);
      f.k.set((T - 1) * 16 + 5, NAN);
      Results r(c);
      succeeded(forward(isa, f, r));
      succeeded(backward(isa, f, r));
      for (int64_t i = 0; i < T; i++) {
        const bool spoiled = i == 1 || i == T - 1;
        CHECK(std::isnan(r.y.get(i * 16)) == spoiled);
        CHECK(std::isnan(r.lse.get(i)) == spoiled);
        CHECK(std::isnan(r.dq.get(i * 16)) == spoiled);
      }
    }
  });
}

/** Large scores: the maximum is subtracted, nothing overflows, and a dominant key takes all. */
void test_large_scores() {
  for_each_isa([](Isa isa) {
    for (int64_t T : {2, 64}) {
      Case c{1, 1, 1, T, 300, 4, 4, false, 0, kNone, OG_F32, kHeads};
      Fixture f(c);
      for (int64_t i = 0; i < f.q.count(); i++) f.q.set(i, 100);
      for (int64_t i = 0; i < f.k.count(); i++) f.k.set(i, i / 4 == 150 ? 100 : -100);
      Results r(c);
      succeeded(forward(isa, f, r));
      for (int64_t i = 0; i < T * 4; i++) CHECK(std::fabs(r.y.get(i) - f.v.get(150 * 4 + i % 4)) < 1e-6);
      CHECK(std::fabs(r.lse.get(0) / (f.scale * 40000) - 1) < 1e-6);
    }
  });
}

/** The reference gradient, in double, against central differences. */
void test_finite_differences() {
  Case c{1, 4, 2, 5, 7, 3, 4, true, 6, kFloat, OG_F64, kHeads};
  Fixture f(c);
  Results r(c);
  succeeded(forward(og::kReference, f, r));
  succeeded(backward(og::kReference, f, r));
  const auto loss = [&] {
    Results at(c);
    succeeded(forward(og::kReference, f, at));
    double sum = 0;
    for (int64_t i = 0; i < at.y.count(); i++) sum += at.y.get(i) * f.grad.get(i);
    return sum;
  };
  const auto compare = [&](Operand& x, const Operand& gradient) {
    for (int64_t i = 0; i < x.count(); i++) {
      const double at = x.get(i), h = 1e-5;
      if (!std::isfinite(at)) continue;
      x.set(i, at + h);
      const double above = loss();
      x.set(i, at - h);
      const double below = loss();
      x.set(i, at);
      CHECK(std::fabs((above - below) / (2 * h) - gradient.get(i)) < 1e-8);
    }
  };
  compare(f.q, r.dq);
  compare(f.k, r.dk);
  compare(f.v, r.dv);
  compare(f.mask, r.dmask);
}

/** A view without elements may have any strides; nothing of it may be read. */
void test_far_strides() {
  float memory[64] = {}, result[34], lse[2];
  const auto view = [](void* data, std::initializer_list<int64_t> shape, std::initializer_list<int64_t> strides) {
    og_view v{data, OG_F32, 0, {}, {}};
    for (int64_t n : shape) v.shape[v.rank++] = n;
    int axis = 0;
    for (int64_t n : strides) v.strides[axis++] = n;
    return v;
  };
  const int64_t far = int64_t{1} << 52;
  for (int i = 0; i < og::kIsaCount; i++) {
    if (!og::isa_available((og::Isa)i)) continue;
    og_view inputs[4] = {view(memory, {1, 2, 1, 0}, {2, far, 1, 0}),
                         view(memory, {1, 1, 0, 0}, {1, 1, 1, 1}),
                         view(memory, {1, 1, 0, 17}, {17, 17, 17, 1}),
                         {}};
    inputs[3].dtype = -1;
    const og_view outputs[2] = {view(result, {1, 2, 1, 17}, {34, 17, 17, 1}), view(lse, {1, 2, 1}, {2, 1, 1})};
    const double attrs[3] = {1, 0, 0};
    const og_call call = {inputs, outputs, attrs, 4, 2, 3};
    for (float& x : result) x = 5;
    CHECK(og::run_kernel_on((og::Isa)i, og::kernel_id("attention"), call) == OG_OK);
    for (float x : result) CHECK(x == 0);
    for (float x : lse) CHECK(x == -INFINITY);
  }
}

void test_refusals() {
  Case c{1, 2, 2, 3, 4, 8, 8, false, 0, kNone, OG_F32, kHeads};
  Fixture f(c);
  Results r(c);
  f.k.view.shape[3] = 7;
  CHECK(forward(og::kReference, f, r) == OG_INVALID);
  f.k.view.shape[3] = 8;
  f.q.view.dtype = OG_I32;
  CHECK(forward(og::kReference, f, r) == OG_UNSUPPORTED);
  f.q.view.dtype = OG_F32;
  r.lse.view.shape[2] = 2;
  CHECK(forward(og::kReference, f, r) == OG_INVALID);
}

}  // namespace

int main() {
  test_chosen_cases();
  test_random_cases();
  test_empty();
  test_nan();
  test_large_scores();
  test_finite_differences();
  test_far_strides();
  test_refusals();
  return finish("attention");
}
