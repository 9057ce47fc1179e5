// Runs one call of each kernel between two requests to callgrind, so that scripts/instructions.mjs can count the
// instructions of each: a regression shows without a quiet machine. One thread, AVX2 (callgrind knows no AVX-512).
//   valgrind --tool=callgrind instructions_bench
#include <valgrind/callgrind.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "core/parallel.h"
#include "core/registry.h"
#include "core/status.h"

namespace {

/** Contiguous memory with its view: small floats that are not zero, or indices below `below`. */
struct Operand {
  std::vector<float> memory;
  og_view view;

  explicit Operand(std::vector<int64_t> shape, int64_t below = 0) {
    std::memset(&view, 0, sizeof view);
    view.dtype = below ? OG_I32 : OG_F32;
    view.rank = (int32_t)shape.size();
    int64_t count = 1;
    for (int i = view.rank - 1; i >= 0; i--) {
      view.shape[i] = shape[(size_t)i];
      view.strides[i] = count;
      count *= shape[(size_t)i];
    }
    memory.resize((size_t)count);
    uint32_t state = 12345;
    for (float& x : memory) {
      state = state * 1664525u + 1013904223u;
      const int32_t index = (int32_t)((state >> 8) % (uint32_t)(below ? below : 1));
      if (below)
        std::memcpy(&x, &index, 4);
      else
        x = (float)(state >> 8) * 0x1p-24f + 0.1f;
    }
  }
};

struct Case {
  const char *kernel, *shape;
  std::vector<Operand> in, out;
  std::vector<double> attrs;
};

/** An operand that is left out. */
Operand none() {
  Operand operand({0});
  operand.view.dtype = -1;
  return operand;
}

/** b stored [n, k], seen as [k, n]. */
Operand transposed(int64_t k, int64_t n) {
  Operand b({k, n});
  b.view.strides[0] = 1;
  b.view.strides[1] = k;
  return b;
}

/** Indices 0, 1, 2, …, or all the same. */
Operand indices(std::vector<int64_t> shape, int32_t first, int32_t step) {
  Operand operand(std::move(shape), 1);
  for (size_t i = 0; i < operand.memory.size(); i++) {
    const int32_t index = first + (int32_t)i * step;
    std::memcpy(&operand.memory[i], &index, 4);
  }
  return operand;
}

/** One vector as all rows of a matrix. */
Operand repeated(int64_t rows, int64_t width) {
  Operand operand({width});
  operand.view.rank = 2;
  operand.view.shape[0] = rows;
  operand.view.shape[1] = width;
  operand.view.strides[0] = 0;
  operand.view.strides[1] = 1;
  return operand;
}

/** A step of a chain: kernel, operands and result by register (cpu/chain.h), float32. */
double step(const char* kernel, int64_t a, int64_t b, int64_t result) {
  constexpr int64_t kNone = 31;
  return (double)(og::kernel_id(kernel) + 512 * (a + 32 * (b + 32 * (kNone + 32 * result))));
}

/** A chain of x + bias, then GELU; the sum is a temporary. Operands and results that are not given are absent. */
Case chain(const char* kernel, const char* shape, std::vector<Operand> in, std::vector<Operand> out, size_t inputs,
           size_t outputs) {
  constexpr int64_t kNone = 31, kResult = 12, kTemporary = 18;
  std::vector<double> attrs = {2, step("add", 0, 1, kTemporary), step("gelu", kTemporary, kNone, kResult), 0};
  while (in.size() < inputs) in.push_back(none());
  while (out.size() < outputs) out.push_back(none());
  attrs.resize(32);
  return {kernel, shape, std::move(in), std::move(out), std::move(attrs)};
}

void count(Case& c) {
  std::vector<og_view> in, out;
  for (Operand& o : c.in) in.push_back(o.view), in.back().data = o.memory.data();
  for (Operand& o : c.out) out.push_back(o.view), out.back().data = o.memory.data();
  const og_call call = {in.data(),          out.data(),          c.attrs.data(),
                        (int32_t)in.size(), (int32_t)out.size(), (int32_t)c.attrs.size()};
  const int32_t kernel = og::kernel_id(c.kernel);
  const std::string name = std::string(c.kernel) + " " + c.shape;
  for (int turn = 0; turn < 2; turn++) {  // the first call makes scratch memory
    CALLGRIND_ZERO_STATS;
    if (og::run_kernel_on(og::kAvx2, kernel, call) != OG_OK) {
      std::printf("%s: %s\n", c.kernel, og::last_message());
      std::exit(1);
    }
  }
  CALLGRIND_DUMP_STATS_AT(name.c_str());
}

}  // namespace

int main() {
  og::set_threads(1);
  typedef Operand O;
  const int64_t rows = 64, width = 384, vocabulary = 5000;
  const std::vector<double> adam = {1e-3, 0.9, 0.95, 1e-8, 0.1, 0.5, 0.5, 1, 1};
  const auto moments = [&] { return O({rows * width}); };
  Case cases[] = {
      {"matmul",
       "128x384x256 NN",
       {O({128, 256}), O({256, 384}), none(), none(), none()},
       {O({128, 384}), none()},
       {0}},
      {"matmul",
       "128x384x256 NT",
       {O({128, 256}), transposed(256, 384), none(), none(), none()},
       {O({128, 384}), none()},
       {0}},
      {"matmul",
       "1x384x256 NT",
       {O({1, 256}), transposed(256, 384), none(), none(), none()},
       {O({1, 384}), none()},
       {0}},
      {"matmul_pack", "384x256 NT", {transposed(256, 384)}, {O({(384 + 63) * 256 + 16})}, {}},
      {"matmul",
       "32x384x256 packed",
       {O({32, 256}), transposed(256, 384), none(), none(), O({(384 + 63) * 256 + 16})},
       {O({32, 384}), none()},
       {0}},
      chain("chain", "64x384 add gelu", {O({rows, width}), repeated(rows, width)}, {O({rows, width})}, 12, 6),
      {"attention_paged",
       "1 of 500x4x64",
       {O({1, 4, 1, 64}), O({8, 4, 64, 64}), O({8, 4, 64, 64}), none(), none(), none(), none(), none(),
        indices({1}, 500, 0), indices({1, 8}, 0, 1)},
       {O({1, 4, 1, 64}), O({1, 4, 1})},
       {0.125, 1, 0, 0}},
      {"attention_paged",
       "64 of 500x4x64",
       {O({1, 4, 64, 64}), O({8, 4, 64, 64}), O({8, 4, 64, 64}), none(), none(), none(), none(), none(),
        indices({1}, 500, 0), indices({1, 8}, 0, 1)},
       {O({1, 4, 64, 64}), O({1, 4, 64})},
       {0.125, 1, 0, 0}},
      {"softmax", "64x384", {O({rows, width})}, {O({rows, width})}, {}},
      {"layer_norm",
       "64x384",
       {O({rows, width}), O({width}), O({width})},
       {O({rows, width}), O({rows}), O({rows})},
       {1e-5}},
      {"rms_norm", "64x384", {O({rows, width}), O({width})}, {O({rows, width}), O({rows})}, {1e-5}},
      {"gelu", "64x384 tanh", {O({rows, width})}, {O({rows, width})}, {1}},
      {"silu", "64x384", {O({rows, width})}, {O({rows, width})}, {}},
      {"add", "64x384", {O({rows, width}), O({rows, width})}, {O({rows, width})}, {}},
      {"sum", "64x384 rows", {O({rows, width})}, {O({rows})}, {1}},
      {"copy", "64x384 transposed", {transposed(rows, width)}, {O({rows, width})}, {}},
      {"adamw_step",
       "24576",
       {none(), moments(), none(), none(), none(), none()},
       {moments(), none(), none(), none(), none(), moments(), none(), none(), none(), none(), moments(), none(), none(),
        none(), none()},
       adam},
      {"logsumexp", "8x5000", {O({8, vocabulary})}, {O({8})}, {}},
      {"index_select", "64 of 5000x384", {O({vocabulary, width}), O({rows}, vocabulary)}, {O({rows, width})}, {0}},
  };
  for (Case& each : cases) count(each);
  return 0;
}
