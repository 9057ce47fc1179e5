/**
 * Results beyond the caches (stream.h): the same bits as its halves, which are small enough to be written as usual; and
 * what lies around a result stays as it was. Rows are of odd length, so that they begin at every place within a line.
 */
#include "check.h"

using namespace og_test;

namespace {

constexpr int64_t kWidth = 1023, kRows = 8400;  // 32.8 MiB
constexpr float kGuard = 7777.f;

/** Floats with `kWidth` more on either side, one float off the start of a line. */
struct Memory {
  std::vector<float> all;
  explicit Memory(int64_t count, Random* random = nullptr) : all((size_t)(count + 2 * kWidth + 32), kGuard) {
    if (random)
      for (int64_t i = 0; i < count; i++) data()[i] = (float)random->uniform(-2, 2);
    else
      for (int64_t i = 0; i < count; i++) data()[i] = 1.f;
  }
  float* data() {
    const size_t lines = ((uintptr_t)(all.data() + kWidth) + 63) / 64;
    return reinterpret_cast<float*>(lines * 64) + 1;
  }
  bool is_guarded(int64_t count) {
    const float *begin = data(), *end = begin + count;
    for (const float* p = all.data(); p < begin; p++)
      if (*p != kGuard) return false;
    for (const float* p = end; p < all.data() + all.size(); p++)
      if (*p != kGuard) return false;
    return true;
  }
};

/** An operand: rows of a matrix, one number a row, a vector of the width, or absent. */
enum class Kind { matrix, column, vector, absent };

struct Case {
  const char* kernel;
  std::vector<Kind> inputs, outputs;
  std::vector<double> attrs;
  std::vector<int> positive;  // inputs that must be
};

constexpr Kind M = Kind::matrix, C = Kind::column, V = Kind::vector, A = Kind::absent;

const std::vector<Case> kCases = {
    {"fill", {}, {M}, {0.5}, {}},
    {"copy", {M}, {M}, {}, {}},
    {"add", {M, M}, {M}, {}, {}},
    {"softmax", {M}, {M}, {}, {}},
    {"log_softmax", {M}, {M}, {}, {}},
    {"softmax_backward", {M, M}, {M}, {}, {}},
    {"log_softmax_backward", {M, M}, {M}, {}, {}},
    {"layer_norm", {M, V, V}, {M, C, C}, {1e-5}, {}},
    {"layer_norm", {M, A, V}, {M, C, C}, {1e-5}, {}},
    {"layer_norm", {M, A, A}, {M, C, C}, {1e-5}, {}},
    {"rms_norm", {M, V}, {M, C}, {1e-5}, {}},
    {"add_layer_norm", {M, M, V, V}, {M, M, C, C}, {1e-5}, {}},
    {"layer_norm_backward", {M, V, C, C, M}, {M, A, A}, {}, {3}},
    {"add_layer_norm_backward", {M, V, C, C, M, M}, {M, A, A}, {}, {3}},
    {"rms_norm_backward", {M, V, C, M}, {M, A}, {}, {2}},
    {"cumsum", {M}, {M}, {}, {}},
};

/** Rows [begin, end) of an operand. */
og_view rows_of(Kind kind, Memory& memory, int64_t begin, int64_t end) {
  og_view v{};
  v.dtype = kind == Kind::absent ? -1 : OG_F32;
  v.data = memory.data();
  if (kind == Kind::absent) return v;
  v.rank = kind == Kind::matrix ? 2 : 1;
  v.shape[0] = kind == Kind::vector ? kWidth : end - begin;
  v.strides[0] = kind == Kind::matrix ? kWidth : 1;
  v.shape[1] = kWidth;
  v.strides[1] = 1;
  if (kind != Kind::vector) v.data = memory.data() + begin * v.strides[0];
  return v;
}

int32_t run_rows(og::Isa isa, const Case& c, std::vector<Memory>& in, std::vector<Memory>& out, int64_t begin,
                 int64_t end) {
  std::vector<og_view> inputs, outputs;
  for (size_t i = 0; i < in.size(); i++) inputs.push_back(rows_of(c.inputs[i], in[i], begin, end));
  for (size_t i = 0; i < out.size(); i++) outputs.push_back(rows_of(c.outputs[i], out[i], begin, end));
  const og_call call = {inputs.data(),          outputs.data(),          c.attrs.data(),
                        (int32_t)inputs.size(), (int32_t)outputs.size(), (int32_t)c.attrs.size()};
  return og::run_kernel_on(isa, og::kernel_id(c.kernel), call);
}

int64_t count_of(Kind kind) {
  return kind == Kind::matrix ? kRows * kWidth : kind == Kind::column ? kRows : kind == Kind::vector ? kWidth : 0;
}

void halves_agree() {
  Random random(11);
  for (const Case& c : kCases) {
    std::vector<Memory> in, whole, halves;
    for (Kind kind : c.inputs) in.emplace_back(count_of(kind), &random);
    for (int i : c.positive)
      for (int64_t k = 0; k < count_of(c.inputs[(size_t)i]); k++)
        in[(size_t)i].data()[k] = std::fabs(in[(size_t)i].data()[k]) + 0.1f;
    for (Kind kind : c.outputs) whole.emplace_back(count_of(kind)), halves.emplace_back(count_of(kind));
    for_each_isa([&](og::Isa isa) {
      if (isa == og::kReference) return;
      CHECK_OK(run_rows(isa, c, in, whole, 0, kRows));
      CHECK_OK(run_rows(isa, c, in, halves, 0, kRows / 2));
      CHECK_OK(run_rows(isa, c, in, halves, kRows / 2, kRows));
      for (size_t i = 0; i < whole.size(); i++) {
        const int64_t count = count_of(c.outputs[i]);
        CHECK(std::memcmp(whole[i].data(), halves[i].data(), (size_t)count * 4) == 0, "%s, output %zu", c.kernel, i);
        CHECK(whole[i].is_guarded(count), "%s wrote beside output %zu", c.kernel, i);
      }
    });
  }
}

void selected_rows_agree() {
  Random random(12);
  Memory table(64 * kWidth, &random), y(kRows * kWidth);
  std::vector<int32_t> index((size_t)kRows);
  for (int32_t& i : index) i = (int32_t)random.below(64);
  og_view ids{}, from = rows_of(M, table, 0, 64), to = rows_of(M, y, 0, kRows);
  ids.dtype = OG_I32;
  ids.rank = 1;
  ids.shape[0] = kRows;
  ids.strides[0] = 1;
  ids.data = index.data();
  const og_view inputs[2] = {from, ids};
  const double axis = 0;
  const og_call call = {inputs, &to, &axis, 2, 1, 1};
  for_each_isa([&](og::Isa isa) {
    std::fill(y.data(), y.data() + kRows * kWidth, 0.f);
    CHECK_OK(og::run_kernel_on(isa, og::kernel_id("index_select"), call));
    bool same = true;
    for (int64_t r = 0; r < kRows; r++)
      same = same && std::memcmp(y.data() + r * kWidth, table.data() + index[(size_t)r] * kWidth, kWidth * 4) == 0;
    CHECK(same, "index_select");
    CHECK(y.is_guarded(kRows * kWidth), "index_select wrote beside its result");
  });
}

}  // namespace

int main() {
  for (int threads : {1, 3}) {
    if (threads == 1 && small_sizes()) continue;
    og::set_threads(threads);
    halves_agree();
    selected_rows_agree();
  }
  return finish("stream_test");
}
