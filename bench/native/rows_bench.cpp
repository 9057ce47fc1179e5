// Row-wise and element-wise kernels, GB/s of the bytes that must move (inputs read once, outputs written once; in-place
// operands count twice), beside a copy of the same machine.
//   rows_bench [isa|all] [threads] [only kernels whose name contains this] [rows]
// Shapes are named for 16384 rows; few rows (and 4 × 50257 logits) show what stays in the caches.
// Instruction sets are interleaved; best and median of the samples. With one thread the clock is the CPU time of the
// process, which neighbours on the machine disturb less than wall time.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "core/parallel.h"
#include "core/registry.h"
#include "core/status.h"

namespace {

double now() {
  timespec t;
  clock_gettime(og::threads() == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/** Contiguous float32 (or int32) memory with its view; values are small and not zero. */
struct Operand {
  std::vector<float> memory;
  og_view view;

  explicit Operand(std::vector<int64_t> shape = {}, int32_t dtype = OG_F32, int64_t below = 0) {
    std::memset(&view, 0, sizeof view);
    view.dtype = dtype;
    view.rank = (int32_t)shape.size();
    int64_t count = 1;
    for (int i = view.rank - 1; i >= 0; i--) {
      view.shape[i] = shape[(size_t)i];
      view.strides[i] = count;
      count *= shape[(size_t)i];
    }
    if (dtype < 0) return;
    memory.resize((size_t)count);
    uint32_t state = 12345;
    for (float& x : memory) {
      state = state * 1664525u + 1013904223u;
      if (dtype == OG_I32) {
        const int32_t index = (int32_t)((state >> 8) % (uint32_t)below);
        std::memcpy(&x, &index, 4);
      } else {
        x = ((float)(state >> 8) * 0x1p-24f - 0.3f) * 2.f;
        if (below) x = x < 0 ? -x : x;
      }
    }
  }
};

struct Case {
  const char* name;
  const char* shape;
  double bytes;
  std::vector<Operand*> in, out;
  std::vector<double> attrs;
};

double run_once(og::Isa isa, const Case& c) {
  std::vector<og_view> in, out;
  for (Operand* o : c.in) in.push_back(o->view), in.back().data = o->memory.data();
  for (Operand* o : c.out) out.push_back(o->view), out.back().data = o->memory.data();
  const og_call call = {in.data(),          out.data(),          c.attrs.data(),
                        (int32_t)in.size(), (int32_t)out.size(), (int32_t)c.attrs.size()};
  const double start = now();
  if (og::run_kernel_on(isa, og::kernel_id(c.name), call) != OG_OK) {
    std::printf("%s: %s\n", c.name, og::last_message());
    std::exit(1);
  }
  return now() - start;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string isa_wanted = argc > 1 ? argv[1] : "all", only = argc > 3 ? argv[3] : "";
  og::set_threads(argc > 2 ? std::atoi(argv[2]) : 1);
  const int64_t rows = argc > 4 ? std::atoll(argv[4]) : 16384, width = 768, n = rows * width,
                tokens = argc > 4 ? 4 : 512, vocabulary = 50257;
  Operand none({}, -1), a({rows, width}), b({rows, width}), c({rows, width}), d({rows, width}),
      positive({rows, width}, OG_F32, 1);
  Operand weight({width}), bias({width}), dweight({width}), dbias({width}), mean({rows}), rstd({rows}, OG_F32, 1),
      scalar;
  Operand attention_in({rows * 3 / 2, 512}), attention_out({rows * 3 / 2, 512});
  Operand logits({tokens, vocabulary}), dlogits({tokens, vocabulary}), target({tokens}, OG_I32, vocabulary),
      loss({tokens}), lse({tokens}), grad({tokens});
  for (float& x : lse.memory) x = 11;
  const double one = 4. * (double)n, wide = 4. * (double)(tokens * vocabulary);
  const std::vector<double> adam = {1e-3, 0.9, 0.95, 1e-8, 0.1, 0.5, 0.5, 1, 1};
  std::vector<Case> cases = {
      {"copy", "16384x768", 2 * one, {&a}, {&d}, {}},
      {"softmax", "16384x768", 2 * one, {&a}, {&d}, {}},
      {"softmax", "24576x512", 2 * one, {&attention_in}, {&attention_out}, {}},
      {"softmax", "512x50257", 2 * wide, {&logits}, {&dlogits}, {}},
      {"log_softmax", "16384x768", 2 * one, {&a}, {&d}, {}},
      {"softmax_backward", "16384x768", 3 * one, {&positive, &b}, {&d}, {}},
      {"log_softmax_backward", "16384x768", 3 * one, {&a, &b}, {&d}, {}},
      {"logsumexp", "16384x768", one, {&a}, {&mean}, {}},
      {"layer_norm", "16384x768", 2 * one, {&a, &weight, &bias}, {&d, &mean, &rstd}, {1e-5}},
      {"layer_norm_backward", "16384x768", 3 * one, {&a, &weight, &mean, &rstd, &b}, {&d, &dweight, &dbias}, {}},
      {"rms_norm", "16384x768", 2 * one, {&a, &weight}, {&d, &rstd}, {1e-5}},
      {"rms_norm_backward", "16384x768", 3 * one, {&a, &weight, &rstd, &b}, {&d, &dweight}, {}},
      {"cross_entropy", "512x50257", wide, {&logits, &target, &none}, {&loss, &lse}, {-100, 0}},
      {"cross_entropy", "512x50257 smoothed", wide, {&logits, &target, &none}, {&loss, &lse}, {-100, 0.1}},
      {"cross_entropy_backward", "512x50257", 2 * wide, {&logits, &target, &none, &lse, &grad}, {&dlogits}, {-100, 0}},
      {"gelu", "16384x768 exact", 2 * one, {&a}, {&d}, {0}},
      {"gelu", "16384x768 tanh", 2 * one, {&a}, {&d}, {1}},
      {"gelu_backward", "16384x768 exact", 3 * one, {&a, &b}, {&d}, {0}},
      {"gelu_backward", "16384x768 tanh", 3 * one, {&a, &b}, {&d}, {1}},
      {"silu", "16384x768", 2 * one, {&a}, {&d}, {}},
      {"silu_backward", "16384x768", 3 * one, {&a, &b}, {&d}, {}},
      {"relu_backward", "16384x768", 3 * one, {&a, &b}, {&d}, {}},
      {"adamw_step",
       "12.6M",
       7 * one,
       {&none, &a, &none, &none, &none, &none},
       {&b, &none, &none, &none, &none, &c, &none, &none, &none, &none, &positive, &none, &none, &none, &none},
       adam},
      {"sgd_step", "12.6M momentum", 5 * one, {&a, &none}, {&b, &c}, {1e-3, 0.9, 0, 0, 0.1, 0, 1}},
      {"lion_step", "12.6M", 5 * one, {&a, &none}, {&b, &c}, {1e-3, 0.9, 0.99, 0.1, 1}},
      {"sum_squares", "12.6M", one, {&a}, {&scalar}, {}},
      {"lerp_", "12.6M", 3 * one, {&a}, {&b}, {0.001}},
  };
  std::vector<og::Isa> sets;
  for (int i = og::kBaseline; i < og::kIsaCount; i++)
    if (og::isa_available((og::Isa)i) &&
        (isa_wanted == "all" ? i != og::kBaseline : isa_wanted == og::isa_name((og::Isa)i)))
      sets.push_back((og::Isa)i);
  std::printf("%-24s %-20s", "GB/s, best (median)", "");
  for (og::Isa isa : sets) std::printf("%18s", og::isa_name(isa));
  std::printf("\n");
  for (const Case& c : cases) {
    if (std::strstr(c.name, only.c_str()) == nullptr) continue;
    std::vector<std::vector<double>> samples(sets.size());
    for (int sample = 0; sample < (argc > 4 ? 101 : 9); sample++)
      for (size_t s = 0; s < sets.size(); s++) {
        const double seconds = run_once(sets[s], c);
        if (sample > 0) samples[s].push_back(c.bytes / seconds * 1e-9);
      }
    std::printf("%-24s %-20s", c.name, c.shape);
    for (auto& list : samples) {
      std::sort(list.begin(), list.end());
      std::printf("%9.1f (%6.1f)", list.back(), list[list.size() / 2]);
    }
    std::printf("\n");
  }
}
