/** kv_append, kv_read and attention_paged against the definition in double, over dtypes, tables, lengths and sets. */
#include "attention_fixture.h"

namespace {

struct Setting {
  int64_t B, Hq, Hkv, T, D, Dv, page, per_sequence;
  int32_t dtype;
  bool listed, causal;
  int64_t window;
  double cap;
  bool alibi, masked;
  Memory memory;
  bool spans = false;
};

/** Pages in shuffled order, full of earlier values; sequence b holds some of them. */
struct Pages {
  Setting s;
  int64_t count, capacity;
  Operand k, v, k_scales, v_scales, lengths, table;

  Pages(const Setting& s, Random& random)
      : s(s),
        count(s.listed ? s.B * s.per_sequence + 3 : s.B),
        capacity(s.page * s.per_sequence),
        k(s.dtype, {count, s.Hkv, s.page, s.D}, s.memory),
        v(s.dtype, {count, s.Hkv, s.page, s.Dv}, s.memory),
        k_scales(OG_F32, {count, s.Hkv, s.page}, kHeads),
        v_scales(OG_F32, {count, s.Hkv, s.page}, kHeads),
        lengths(OG_I32, {s.B}, kHeads),
        table(OG_I32, {s.B, s.per_sequence}, s.memory == kStretched ? kStretched : kHeads) {
    const double size = s.dtype == OG_I8 ? 127 : 2;
    k.fill(random, -size, size);
    v.fill(random, -size, size);
    k_scales.fill(random, 0.002, 0.02);
    v_scales.fill(random, 0.002, 0.02);
    std::vector<int64_t> order((size_t)count);
    for (int64_t i = 0; i < count; i++) order[(size_t)i] = i;
    for (int64_t i = count - 1; i > 0; i--) std::swap(order[(size_t)i], order[(size_t)random.below(i + 1)]);
    for (int64_t i = 0; i < s.B * s.per_sequence && s.listed; i++) table.set(i, (double)order[(size_t)i]);
    for (int64_t b = 0; b < s.B; b++) lengths.set(b, (double)random.below(capacity - s.T + 1));
    if (!s.listed) table.view.dtype = -1;
    if (s.dtype != OG_I8) k_scales.view.dtype = v_scales.view.dtype = -1;
  }

  /** Index of place j's row among all rows of the pages. */
  int64_t row_of(int64_t b, int64_t head, int64_t j) const {
    const int64_t page = s.listed ? (int64_t)table.get(b * s.per_sequence + j / s.page) : b;
    return (page * s.Hkv + head) * s.page + j % s.page;
  }
  double scale(bool values, int64_t row) const {
    return s.dtype == OG_I8 ? (values ? v_scales : k_scales).get(row) : 1;
  }
  double at(bool values, int64_t b, int64_t head, int64_t j, int64_t d) const {
    const int64_t row = row_of(b, head, j), width = values ? s.Dv : s.D;
    return scale(values, row) * (values ? v : k).get(row * width + d);
  }
  /** The first `length` rows of a head, [length][width]. */
  std::vector<double> rows(bool values, int64_t b, int64_t head, int64_t length) const {
    std::vector<double> out;
    for (int64_t j = 0; j < length; j++)
      for (int64_t d = 0; d < (values ? s.Dv : s.D); d++) out.push_back(at(values, b, head, j, d));
    return out;
  }
};

void check_append(Isa isa, Pages& pages, const Operand& k, const Operand& v) {
  const Setting& s = pages.s;
  const std::vector<double> before = pages.k.values();
  if (!succeeded(call_kernel(
          isa, "kv_append",
          {&k, &v, &pages.lengths, &pages.table, &pages.k, &pages.v, &pages.k_scales, &pages.v_scales}, 4, {})))
    return;
  std::vector<bool> written((size_t)(pages.count * s.Hkv * s.page));
  double worst = 0;
  for (int64_t b = 0; b < s.B; b++)
    for (int64_t head = 0; head < s.Hkv; head++)
      for (int64_t t = 0; t < s.T; t++) {
        const int64_t j = (int64_t)pages.lengths.get(b) + t;
        written[(size_t)pages.row_of(b, head, j)] = true;
        for (bool values : {false, true}) {
          const int64_t width = values ? s.Dv : s.D;
          double most = 0;
          for (int64_t d = 0; d < width; d++)
            most = std::max(most, std::fabs((values ? v : k).get(((b * s.Hkv + head) * s.T + t) * width + d)));
          for (int64_t d = 0; d < width; d++) {
            const double want = (values ? v : k).get(((b * s.Hkv + head) * s.T + t) * width + d);
            const double bound =
                s.dtype == OG_I8 ? most / 254 * (1 + 1e-5) : std::fabs(want) * roundoff(s.dtype) + 1e-12;
            worst = std::max(worst, std::fabs(pages.at(values, b, head, j, d) - want) / std::max(bound, 1e-30));
          }
        }
      }
  CHECK(worst <= 1, "stored values are off by %.3g of the bound", worst);
  bool kept = true;
  for (size_t i = 0; i < before.size(); i++) kept &= written[i / (size_t)s.D] || pages.k.get((int64_t)i) == before[i];
  CHECK(kept, "a place that is not new was written");
  CHECK(pages.k.gaps_untouched() && pages.v.gaps_untouched() && (s.dtype != OG_I8 || pages.k_scales.gaps_untouched()),
        "wrote between elements");
  for (int64_t b = 0; b < s.B; b++) pages.lengths.set(b, pages.lengths.get(b) + (double)s.T);
}

void check_read(Isa isa, const Pages& pages) {
  const Setting& s = pages.s;
  const int32_t dtype = s.dtype == OG_I8 ? OG_F32 : s.dtype;
  Operand k(dtype, {s.B, s.Hkv, pages.capacity, s.D}, s.memory), v(dtype, {s.B, s.Hkv, pages.capacity, s.Dv}, kHeads);
  succeeded(call_kernel(isa, "kv_read",
                        {&pages.k, &pages.v, &pages.k_scales, &pages.v_scales, &pages.lengths, &pages.table, &k, &v}, 6,
                        {}));
  bool same = true;
  const std::vector<double> got = k.values();
  for (int64_t head = 0; head < s.B * s.Hkv; head++) {
    const int64_t length = (int64_t)pages.lengths.get(head / s.Hkv), first = head * pages.capacity * s.D;
    std::vector<double> want = pages.rows(false, head / s.Hkv, head % s.Hkv, length);
    want.resize((size_t)(pages.capacity * s.D));  // zeros behind the end
    for (size_t i = 0; i < want.size(); i++)
      same &= std::fabs(got[(size_t)first + i] - want[i]) <= std::fabs(want[i]) * 1e-7;
  }
  CHECK(same, "kv_read gave other numbers than the pages hold");
}

void check_setting(const Setting& s, uint64_t seed) {
  char text[240];
  std::snprintf(
      text, sizeof text,
      "B%d Hq%d Hkv%d T%d D%d Dv%d page%d x%d dtype%d table%d causal%d window%d cap%g alibi%d mask%d memory%d spans%d",
      (int)s.B, (int)s.Hq, (int)s.Hkv, (int)s.T, (int)s.D, (int)s.Dv, (int)s.page, (int)s.per_sequence, s.dtype,
      s.listed, s.causal, (int)s.window, s.cap, s.alibi, s.masked, (int)s.memory, s.spans);
  const std::string outer = context();
  context() = text;
  for_each_isa([&](Isa isa) {
    if (s.dtype == OG_F64 && isa != og::kReference) return;
    Random random(seed);
    Pages pages(s, random);
    const int32_t dtype = s.dtype == OG_I8 ? OG_F32 : s.dtype;
    const double scale = 0.8 / std::sqrt((double)s.D);
    Operand q(dtype, {s.B, s.Hq, s.T, s.D}, s.memory), k(dtype, {s.B, s.Hkv, s.T, s.D}, s.memory),
        v(dtype, {s.B, s.Hkv, s.T, s.Dv}, s.memory), mask(OG_BOOL, {s.B, s.Hq, s.T, pages.capacity}, kHeads),
        slopes(OG_F32, {s.Hq}, kHeads), spans(OG_I32, {s.B, s.T, 2}, s.memory);
    q.fill(random, -3, 3);
    k.fill(random, -2, 2);
    v.fill(random, -2, 2);
    for (int64_t i = 0; i < mask.count(); i++) mask.set(i, random.uniform() < 0.7);
    for (int64_t h = 0; h < s.Hq; h++) slopes.set(h, std::exp2(-2. * (double)h - 1));
    if (!s.masked) mask.view.dtype = -1;
    if (!s.alibi) slopes.view.dtype = -1;
    check_append(isa, pages, k, v);
    check_read(isa, pages);
    for (int64_t b = 0; b < s.B && s.spans; b++) {
      const std::vector<int64_t> own = random_spans(random, s.T, (int64_t)pages.lengths.get(b), 30);
      for (int64_t i = 0; i < 2 * s.T; i++) spans.set(b * 2 * s.T + i, (double)own[(size_t)i]);
    }
    if (!s.spans) spans.view.dtype = -1;

    std::vector<double> want((size_t)(s.B * s.Hq * s.T * s.Dv), 0), lse((size_t)(s.B * s.Hq * s.T), -INFINITY), p;
    std::vector<double> query, keys, values;
    for (int64_t row = 0; row < s.B * s.Hq * s.T; row++) {
      const int64_t b = row / s.T / s.Hq, h = row / s.T % s.Hq, head = h / (s.Hq / s.Hkv);
      const int64_t length = (int64_t)pages.lengths.get(b), last = row % s.T + length - s.T;
      if (row % (s.T * (s.Hq / s.Hkv)) == 0) {  // the first that reads this head's pages
        keys = pages.rows(false, b, head, length);
        values = pages.rows(true, b, head, length);
      }
      query.clear();
      for (int64_t d = 0; d < s.D; d++) query.push_back(q.get(row * s.D + d));
      p.assign((size_t)length, 0);
      double top = -INFINITY, total = 0;
      for (int64_t j = 0; j < length; j++) {
        double dot = 0;
        for (int64_t d = 0; d < s.D; d++) dot += query[(size_t)d] * keys[(size_t)(j * s.D + d)];
        dot *= scale;
        if (s.cap > 0) dot = s.cap * std::tanh(dot / s.cap);
        if (s.alibi) dot -= slopes.get(h) * std::fabs((double)(last - j));
        const int64_t span = 2 * (b * s.T + row % s.T);
        const bool inside = s.spans && j >= spans.get(span) && j < spans.get(span + 1);
        const bool far = (s.causal && j > last) || (s.window > 0 && j <= last - s.window);
        const bool hidden = (far && !inside) || (s.masked && mask.get(row * pages.capacity + j) == 0);
        p[(size_t)j] = hidden ? -INFINITY : dot;
        top = std::max(top, p[(size_t)j]);
      }
      if (top == -INFINITY) continue;
      for (double& x : p) total += x = std::exp(x - top);
      lse[(size_t)row] = top + std::log(total);
      for (int64_t j = 0; j < length; j++)
        for (int64_t d = 0; d < s.Dv; d++)
          want[(size_t)(row * s.Dv + d)] += p[(size_t)j] / total * values[(size_t)(j * s.Dv + d)];
    }
    std::vector<uint8_t> first;
    for (int threads = 1; threads <= 3; threads++) {
      og::set_threads(threads);
      Operand y(dtype, {s.B, s.Hq, s.T, s.Dv}, s.memory),
          out(dtype == OG_F64 ? OG_F64 : OG_F32, {s.B, s.Hq, s.T}, kHeads);
      if (!succeeded(call_kernel(isa, "attention_paged",
                                 {&q, &pages.k, &pages.v, &mask, &slopes, &pages.k_scales, &pages.v_scales, &spans,
                                  &pages.lengths, &pages.table, &y, &out},
                                 10, {scale, s.causal ? 1. : 0., (double)s.window, s.cap})))
        break;
      if (threads == 1) {
        const double exact = dtype == OG_F64 ? 1e-13 : 4e-6;
        check_error("y", y, want, 0.1, dtype == OG_F16 || dtype == OG_BF16 ? roundoff(dtype) * 1.2 : exact);
        check_error("lse", out, lse, 1, exact);
        first = y.memory;
      } else {
        CHECK(y.memory == first, "%d threads gave other bits than 1", threads);
      }
    }
    og::set_threads(2);
  });
  context() = outer;
}

void test_settings() {
  Random random(5);
  const int32_t dtypes[] = {OG_I8, OG_F32, OG_I8, OG_BF16, OG_I8, OG_F16, OG_F64};
  const int64_t widths[] = {1, 5, 16, 33, 64, 128, 256}, pages[] = {1, 3, 16, 64, 100, 200};
  for (int n = 0; n < 60; n++) {
    Setting s;
    s.B = pick(random, 1, 4);
    s.Hkv = pick(random, 1, 3);
    s.Hq = s.Hkv * pick(random, 1, 5);
    s.T = pick(random, 1, n % 5 == 0 ? 20 : n % 5 == 1 ? 90 : 4);
    s.D = widths[pick(random, 0, 7)];
    s.Dv = n % 3 ? s.D : widths[pick(random, 0, 7)];
    s.listed = n % 4 != 3;
    s.page = s.listed ? pages[pick(random, 0, 6)] : pick(random, 20, 300);
    s.per_sequence = s.listed ? (s.T + 150) / s.page + 1 : 1;
    s.dtype = dtypes[n % 7];
    s.causal = pick(random, 0, 3) != 0;
    s.window = n % 6 == 2 ? pick(random, 1, 60) : 0;
    s.cap = n % 5 == 1 ? 3 : 0;
    s.alibi = n % 5 == 2;
    s.masked = n % 7 == 5;
    s.memory = (Memory)pick(random, 0, kMemoryCount);
    s.spans = n % 4 == 0;
    check_setting(s, (uint64_t)n + 1);
  }
  check_setting({2, 2, 1, 200, 64, 64, 64, 20, OG_F32, true, true, 0, 0, false, false, kHeads}, 5);  // tiles in place
  check_setting({3, 2, 2, 70, 32, 32, 256, 6, OG_I8, true, true, 300, 0, false, false, kHeads, true}, 6);
  check_setting({1, 1, 1, 40, 64, 64, 64, 40, OG_BF16, true, true, 0, 0, false, false, kHeads}, 7);  // ranges of tiles
  check_setting({1, 8, 2, 1, 64, 64, 64, 22, OG_I8, true, true, 0, 0, false, false, kHeads}, 3);     // ranges of keys
  check_setting({2, 32, 1, 2, 128, 128, 900, 1, OG_I8, false, true, 0, 0, false, false, kHeads}, 4);
}

/** Zeros stay zeros; an infinite or NaN row is seen as such, and spoils nothing else. */
void test_special_rows() {
  for_each_isa([](Isa isa) {
    Random random(1);
    const Setting s{1, 1, 1, 3, 16, 16, 8, 1, OG_I8, false, true, 0, 0, false, false, kHeads};
    Pages pages(s, random);
    pages.lengths.set(0, 0);
    Operand k(OG_F32, {1, 1, 3, 16}, kHeads), y(OG_F32, {1, 1, 8, 16}, kHeads), z(OG_F32, {1, 1, 8, 16}, kHeads);
    for (int64_t i = 0; i < k.count(); i++) k.set(i, i < 16 ? 0 : i < 32 ? 1 : 2);
    k.set(20, NAN);
    succeeded(call_kernel(isa, "kv_append",
                          {&k, &k, &pages.lengths, &pages.table, &pages.k, &pages.v, &pages.k_scales, &pages.v_scales},
                          4, {}));
    pages.lengths.set(0, 3);
    succeeded(call_kernel(isa, "kv_read",
                          {&pages.k, &pages.v, &pages.k_scales, &pages.v_scales, &pages.lengths, &pages.table, &y, &z},
                          6, {}));
    for (int64_t i = 0; i < 16; i++) {
      CHECK(y.get(i) == 0);
      CHECK(std::isnan(y.get(16 + i)));
      CHECK(std::fabs(y.get(32 + i) - 2) < 1e-6);
      CHECK(y.get(48 + i) == 0);
    }
  });
}

void test_refusals() {
  for_each_isa([](Isa isa) {
    Random random(2);
    const Setting s{2, 2, 2, 1, 8, 8, 4, 3, OG_I8, true, true, 0, 0, false, false, kHeads};
    const auto run = [&](const auto& change) {
      Pages pages(s, random);
      pages.lengths.set(0, 9);
      pages.lengths.set(1, 5);
      Operand q(OG_F32, {2, 2, 1, 8}, kHeads), y(OG_F32, {2, 2, 1, 8}, kHeads), lse(OG_F32, {2, 2, 1}, kHeads), absent;
      q.fill(random, -1, 1);
      change(pages);
      const int32_t read = call_kernel(isa, "attention_paged",
                                       {&q, &pages.k, &pages.v, &absent, &absent, &pages.k_scales, &pages.v_scales,
                                        &absent, &pages.lengths, &pages.table, &y, &lse},
                                       10, {1, 1, 0, 0});
      const int32_t written = call_kernel(
          isa, "kv_append",
          {&q, &q, &pages.lengths, &pages.table, &pages.k, &pages.v, &pages.k_scales, &pages.v_scales}, 4, {});
      return read == OG_OK ? written : read;
    };
    CHECK(run([](Pages&) {}) == OG_OK);
    for (double length : {-1., 13., 2147483647.})
      CHECK(run([&](Pages& pages) { pages.lengths.set(1, length); }) == OG_INDEX);
    CHECK(run([](Pages& pages) { pages.lengths.set(0, 12); }) == OG_INDEX);  // full: nothing can be appended
    for (double page : {-1., 9., -2147483648., 2147483647.})
      CHECK(run([&](Pages& pages) { pages.table.set(1, page); }) == OG_INDEX);
    CHECK(run([](Pages& pages) { pages.table.set(5, 99); }) == OG_OK);  // a page behind the end is not looked at
    CHECK(run([](Pages& pages) { pages.k_scales.view.dtype = -1; }) == OG_INVALID);
    CHECK(run([](Pages& pages) { pages.k_scales.view.shape[2] = 3; }) == OG_INVALID);
    CHECK(run([](Pages& pages) { pages.table.view.dtype = OG_F32; }) == OG_INVALID);
    CHECK(run([](Pages& pages) { pages.k.view.dtype = OG_U8; }) == OG_UNSUPPORTED);
    CHECK(run([](Pages& pages) { pages.v.view.shape[1] = 1; }) == OG_INVALID);
  });
}

}  // namespace

int main() {
  test_settings();
  test_special_rows();
  test_refusals();
  return finish("attention_paged");
}
