/** attention and attention_backward against the definition in double, over masks, layouts, dtypes, sets and threads. */
#include "attention_fixture.h"

namespace {

void test_random_cases() {
  Random random(7);
  const int64_t widths[] = {1, 3, 8, 16, 20, 33, 64, 80, 128, 256};
  for (int n = 0; n < draws(160); n++) {
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
    if (n % 4 == 1) c.cap = random.uniform(0.5, 40);
    c.alibi = n % 6 == 2;
    if (n % 5 == 3) c.drop = random.uniform(0, 0.9);
    check_case(c);
  }
}

void test_chosen_cases() {
  int place = 0;
  const auto check_case = [&](const Case& c, bool gradients = true) {
    if (is_chosen(place++, c.causal)) ::check_case(c, gradients);
  };
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

void test_scores() {
  Case c{2, 4, 2, 70, 90, 20, 24, true, 0, kNone, OG_F32, kInterleaved};
  for (int which = 0; which < 8; which++) {
    for (Mask mask : {kNone, kFloat}) {
      if (!is_chosen(which / 2, mask == kFloat)) continue;
      Case at = c;
      at.mask = mask;
      if (which & 1) at.cap = which & 2 ? 0.7 : 30;
      at.alibi = (which & 2) != 0;
      if (which & 4) at.drop = which & 1 ? 0.25 : 0.6;
      check_case(at);
      at.causal = false;
      at.window = 30;
      check_case(at);
      at.T = 3;  // the path of few queries
      check_case(at);
    }
  }
  Case far{1, 2, 1, 1, 5000, 64, 64, true, 0, kNone, OG_F32, kHeads};
  far.alibi = true;
  far.cap = 20;
  far.drop = 0.1;
  check_case(far, false);
}

/** Sequences of any lengths behind each other, some of them empty on one side or both. */
void test_packed() {
  Case c{1, 4, 2, 0, 0, 20, 24, true, 0, kNone, OG_F32, kInterleaved};
  const int64_t lengths[][2] = {{5, 5}, {0, 3}, {140, 140}, {1, 70}, {4, 0}, {0, 0}, {33, 65}, {31, 17}, {0, 0}};
  c.query_offsets = c.key_offsets = {0};
  for (const auto& [t, s] : lengths) {
    c.query_offsets.push_back(c.T += t);
    c.key_offsets.push_back(c.S += s);
  }
  for (int32_t dtype : kFloats)
    for (bool causal : {true, false}) {
      c.dtype = dtype;
      c.causal = causal;
      c.memory = causal ? kInterleaved : kStretched;
      check_case(c);
    }
  c.dtype = OG_F32;
  c.window = 9;
  check_case(c);
  c.spans = c.causal = true;
  check_case(c);
  c.window = 0;
  check_case(c);
  c.spans = c.causal = false;
  c.window = 9;
  c.alibi = c.causal = true;
  c.cap = 10;
  c.drop = 0.3;
  check_case(c);
  check_case(
      {1, 1, 1, 1300, 1300, 32, 32, true, 0, kNone, OG_BF16, kHeads, 0, false, 0, {0, 1100, 1300}, {0, 1100, 1300}});
}

void test_spans() {
  Random random(23);
  const int64_t widths[] = {1, 8, 20, 33, 64, 128};
  for (int n = 0; n < draws(40); n++) {
    Case c;
    c.B = pick(random, 1, 4);
    c.Hkv = pick(random, 1, 3);
    c.Hq = c.Hkv * pick(random, 1, 3);
    c.T = pick(random, 1, n % 4 == 0 ? 300 : 70);
    c.S = n % 3 == 0 ? c.T : pick(random, 1, n % 5 == 0 ? 500 : 150);
    c.D = c.Dv = widths[pick(random, 0, 6)];
    c.causal = n % 8 != 7;
    c.window = n % 3 == 1 ? pick(random, 1, 60) : 0;
    c.mask = n % 4 == 3 ? (Mask)pick(random, 0, kMaskCount) : kNone;
    c.dtype = kFloats[n % 3 ? 0 : pick(random, 0, 4)];
    c.memory = (Memory)pick(random, 0, kMemoryCount);
    if (n % 6 == 1) c.cap = 3;
    c.alibi = n % 6 == 2;
    if (n % 6 == 3) c.drop = 0.3;
    c.spans = true;
    check_case(c);
  }
  Case prefix{2, 2, 1, 640, 640, 32, 32, true, 0, kNone, OG_F32, kInterleaved};
  prefix.spans = true;
  check_case(prefix);
  prefix.window = 50;
  check_case(prefix);
  Case decode{2, 4, 2, 3, 3000, 64, 64, true, 0, kNone, OG_F32, kHeads};
  decode.spans = true;
  check_case(decode, false);
}

void test_hostile_spans() {
  for_each_isa([](Isa isa) {
    Case c{2, 1, 1, 4, 6, 8, 8, true, 0, kNone, OG_F32, kHeads};
    c.spans = true;
    const auto run = [&](const auto& change) {
      Fixture f(c);
      Results r(c);
      for (int64_t i = 0; i < 16; i++) f.spans.set(i, 0);
      change(f);
      const int32_t status = forward(isa, f, r);
      CHECK(backward(isa, f, r) == status);
      return status;
    };
    const auto span = [&](int64_t query, double from, double to) {
      return run([&](Fixture& f) {
        f.spans.set(2 * query, from);
        f.spans.set(2 * query + 1, to);
      });
    };
    CHECK(run([](Fixture&) {}) == OG_OK);
    CHECK(span(3, 0, 6) == OG_OK);     // the last query
    CHECK(span(0, 0, 3) == OG_OK);     // ends where it stands
    CHECK(span(0, 0, 6) == OG_INDEX);  // the next query would see less
    CHECK(span(0, 1, 2) == OG_INDEX);  // does not hold place 2
    CHECK(span(0, 3, 4) == OG_INDEX);
    CHECK(span(0, -1, 4) == OG_INDEX);
    CHECK(span(3, 0, 7) == OG_INDEX);
    CHECK(span(3, 2147483647, -2147483648.) == OG_INDEX);
    CHECK(span(3, -2147483648., 2147483647) == OG_INDEX);
    CHECK(run([](Fixture& f) { f.spans.view.dtype = OG_F32; }) == OG_INVALID);
    CHECK(run([](Fixture& f) { f.spans.view.shape[1] = 3; }) == OG_INVALID);
    CHECK(run([](Fixture& f) { f.spans.view.shape[2] = 1; }) == OG_INVALID);
    CHECK(run([](Fixture& f) { f.spans.view.rank = 2; }) == OG_INVALID);
  });
}

/** Offsets that do not describe sequences are refused before anything is read through them. */
void test_hostile_offsets() {
  for_each_isa([](Isa isa) {
    const std::vector<std::vector<int64_t>> wrong = {{1, 3, 6},  {0, 3, 5}, {0, 3, 7},           {0, 7, 6},
                                                     {0, -1, 6}, {0, 0},    {-2147483647, 3, 6}, {0, 2147483647, 6}};
    for (const auto& offsets : wrong)
      for (bool of_keys : {false, true}) {
        Case c{1, 2, 2, 6, 6, 8, 8, false, 0, kNone, OG_F32, kHeads};
        c.query_offsets = c.key_offsets = {0, 3, 6};
        if (offsets.size() == 3) (of_keys ? c.key_offsets : c.query_offsets) = offsets;
        Fixture f(c);
        Results r(c);
        if (offsets.size() == 2) (of_keys ? f.key_offsets : f.query_offsets).view.shape[0] = 2;
        CHECK(forward(isa, f, r) != OG_OK);
        CHECK(backward(isa, f, r) != OG_OK);
      }
    Case c{2, 2, 2, 6, 6, 8, 8, false, 0, kNone, OG_F32, kHeads};
    c.query_offsets = c.key_offsets = {0, 6};
    Fixture two(c);
    Results r(c);
    CHECK(forward(isa, two, r) == OG_INVALID);  // a batch
    two.q.view.shape[0] = two.k.view.shape[0] = two.v.view.shape[0] = 1;
    r.y.view.shape[0] = r.lse.view.shape[0] = 1;
    CHECK(forward(isa, two, r) == OG_OK);
    two.key_offsets.view.dtype = -1;
    CHECK(forward(isa, two, r) == OG_INVALID);  // offsets of one side only
  });
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
  Case c{1, 4, 2, 5, 7, 3, 4, true, 6, kFloat, OG_F64, kHeads, 1.5, true, 0.3};
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
    og_view inputs[8] = {view(memory, {1, 2, 1, 0}, {2, far, 1, 0}), view(memory, {1, 1, 0, 0}, {1, 1, 1, 1}),
                         view(memory, {1, 1, 0, 17}, {17, 17, 17, 1})};
    for (int absent = 3; absent < 8; absent++) inputs[absent].dtype = -1;
    const og_view outputs[2] = {view(result, {1, 2, 1, 17}, {34, 17, 17, 1}), view(lse, {1, 2, 1}, {2, 1, 1})};
    const double attrs[9] = {1};
    const og_call call = {inputs, outputs, attrs, 8, 2, 9};
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
  r.lse.view.shape[2] = 3;
  const double extras[][2] = {{-1, 0}, {NAN, 0}, {0, 1}, {0, -0.1}, {0, NAN}};
  for (const auto& [cap, drop] : extras) {
    f.c.cap = cap;
    f.c.drop = drop;
    CHECK(forward(og::kReference, f, r) == OG_INVALID);
  }
}

}  // namespace

int main() {
  test_spans();
  test_hostile_spans();
  test_chosen_cases();
  test_scores();
  test_packed();
  test_hostile_offsets();
  if (!kUnderThreadSanitizer) {  // values, not threads; minutes there
    test_random_cases();
    test_finite_differences();
  }
  test_empty();
  test_nan();
  test_large_scores();
  test_far_strides();
  test_refusals();
  return finish("attention");
}
