/**
 * Speed of attention, without Node: attention_bench [threads] [rounds] [filter]. OG_ISA chooses the instruction set.
 * Causal work counts half of T·S: forward 2·T·S·(D+Dv)/2, backward 2.5 times that. Decoding is given in GB/s of k and
 * v. Operands are views into one [B, T, 3, H, D] buffer and y into [B, T, H, D], as in a transformer block.
 */
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "core/parallel.h"
#include "core/registry.h"
#include "core/status.h"

namespace {

og_view view4(float* data, int64_t b, int64_t h, int64_t t, int64_t d, int64_t sb, int64_t sh, int64_t st) {
  og_view v;
  std::memset(&v, 0, sizeof v);
  v.data = data;
  v.dtype = OG_F32;
  v.rank = 4;
  const int64_t shape[] = {b, h, t, d}, strides[] = {sb, sh, st, 1};
  std::copy(shape, shape + 4, v.shape);
  std::copy(strides, strides + 4, v.strides);
  return v;
}

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void call(const char* name, std::vector<og_view> in, std::vector<og_view> out, const std::vector<double>& attrs) {
  const og_call c{in.data(), out.data(), attrs.data(), (int32_t)in.size(), (int32_t)out.size(), (int32_t)attrs.size()};
  if (og::run_kernel(og::kernel_id(name), c) != OG_OK) {
    std::printf("%s: %s\n", name, og::last_message());
    std::exit(1);
  }
}

struct Times {
  double best, median;
};
template <class F>
Times measure(int rounds, const F& f) {
  f();
  std::vector<double> t;
  for (int i = 0; i < rounds; i++) {
    const double start = seconds();
    f();
    t.push_back(seconds() - start);
  }
  std::sort(t.begin(), t.end());
  return {t[0], t[t.size() / 2]};
}

void bench(int64_t B, int64_t H, int64_t T, int64_t D, int rounds, double cap = 0, double drop = 0) {
  const int64_t row = 3 * H * D, n = B * T * row;
  std::vector<float> qkv((size_t)n), dqkv((size_t)n), y((size_t)(n / 3)), grad((size_t)(n / 3)),
      lse((size_t)(B * H * T));
  uint32_t state = 1;
  const auto fill = [&](std::vector<float>& x) {
    for (float& f : x) f = (float)((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-23f - 1.f;
  };
  fill(qkv);
  fill(grad);
  const auto part = [&](std::vector<float>& x, int i) {
    return view4(x.data() + i * H * D, B, H, T, D, T * row, D, row);
  };
  const auto whole = [&](std::vector<float>& x) { return view4(x.data(), B, H, T, D, T * H * D, D, H * D); };
  og_view absent, l;
  std::memset(&absent, 0, sizeof absent);
  absent.dtype = -1;
  l = view4(lse.data(), B, H, T, 1, H * T, T, 1);
  l.rank = 3;
  const std::vector<double> attrs = {1 / std::sqrt((double)D), 1, 0, cap, drop, 1, 0, 0, 0};
  const auto forward = [&] {
    call("attention", {part(qkv, 0), part(qkv, 1), part(qkv, 2), absent, absent, absent, absent, absent}, {whole(y), l},
         attrs);
  };
  const auto backward = [&] {
    call("attention_backward",
         {part(qkv, 0), part(qkv, 1), part(qkv, 2), absent, absent, absent, absent, absent, whole(y), l, whole(grad)},
         {part(dqkv, 0), part(dqkv, 1), part(dqkv, 2), absent}, attrs);
  };
  const Times f = measure(rounds, forward), b = measure(rounds, backward);
  const double flops = 2. * (double)(B * H * T * T) * (double)D;
  std::printf(
      "%2dx%2dx%4dx%3d  forward %7.2f ms %6.1f (best %6.1f)  backward %7.2f ms %6.1f (%6.1f)  both %6.1f (%6.1f) "
      "GFLOP/s\n",
      (int)B, (int)H, (int)T, (int)D, f.median * 1e3, flops / f.median * 1e-9, flops / f.best * 1e-9, b.median * 1e3,
      2.5 * flops / b.median * 1e-9, 2.5 * flops / b.best * 1e-9, 3.5 * flops / (f.median + b.median) * 1e-9,
      3.5 * flops / (f.best + b.best) * 1e-9);
}

/** One query against S cached keys; `copies` caches are used in turn, so that large ones come from memory. */
void bench_decode(int64_t H, int64_t Hkv, int64_t S, int64_t D, int copies, int rounds, int64_t T = 1) {
  std::vector<float> k((size_t)(copies * Hkv * S * D), 0.01f), v(k), q((size_t)(H * T * D), 0.5f), y(q),
      lse((size_t)(H * T));
  og_view absent, l = view4(lse.data(), 1, H, T, 1, H * T, T, 1);
  std::memset(&absent, 0, sizeof absent);
  absent.dtype = -1;
  l.rank = 3;
  int turn = 0;
  const Times t = measure(rounds, [&] {
    const int64_t at = (turn++ % copies) * Hkv * S * D;
    call("attention",
         {view4(q.data(), 1, H, T, D, H * T * D, T * D, D), view4(k.data() + at, 1, Hkv, S, D, Hkv * S * D, S * D, D),
          view4(v.data() + at, 1, Hkv, S, D, Hkv * S * D, S * D, D), absent, absent, absent, absent, absent},
         {view4(y.data(), 1, H, T, D, H * T * D, T * D, D), l}, {0.125, 1, 0, 0, 0, 0, 0, 0, 0});
  });
  const double bytes = 8. * (double)(Hkv * S * D);
  std::printf("T%d H%d/%d S%d D%d, one piece, %.0f MiB in turn: %8.1f us, %5.1f GB/s (best %5.1f)\n", (int)T, (int)H,
              (int)Hkv, (int)S, (int)D, bytes * copies / 1048576, t.median * 1e6, bytes / t.median * 1e-9,
              bytes / t.best * 1e-9);
}

/** The same from pages of 64 places, in float32 or int8; GB/s of what is read. */
void bench_paged(int64_t H, int64_t Hkv, int64_t S, int64_t D, bool quantised, int copies, int rounds, int64_t T = 1) {
  const int64_t pages = S / 64, count = copies * pages, item = quantised ? 1 : 4;
  std::vector<uint8_t> k((size_t)(count * Hkv * 64 * D * item), 0), v(k);
  std::vector<float> q((size_t)(H * T * D), 0.5f), y(q), lse((size_t)(H * T)),
      scales((size_t)(count * Hkv * 64), 0.01f);
  std::vector<int32_t> table((size_t)pages), length(1, (int32_t)S);
  og_view absent, l = view4(lse.data(), 1, H, T, 1, H * T, T, 1), sizes = l, list = l;
  std::memset(&absent, 0, sizeof absent);
  absent.dtype = -1;
  l.rank = 3;
  sizes.rank = 1;
  sizes.dtype = list.dtype = OG_I32;
  sizes.data = length.data();
  sizes.shape[0] = 1;
  list.rank = 2;
  list.data = table.data();
  list.shape[1] = pages;
  list.strides[1] = 1;
  const auto paged = [&](std::vector<uint8_t>& x) {
    og_view view = view4(nullptr, count, Hkv, 64, D, Hkv * 64 * D, 64 * D, D);
    view.data = x.data();
    view.dtype = quantised ? OG_I8 : OG_F32;
    return view;
  };
  og_view scale = view4(scales.data(), count, Hkv, 64, 1, Hkv * 64, 64, 1);
  scale.rank = 3;
  if (!quantised) scale = absent;
  int turn = 0;
  const Times t = measure(rounds, [&] {
    for (int64_t i = 0; i < pages; i++) table[(size_t)i] = (int32_t)(turn % copies * pages + (i * 5 + 3) % pages);
    turn++;
    call("attention_paged",
         {view4(q.data(), 1, H, T, D, H * T * D, T * D, D), paged(k), paged(v), absent, absent, scale, scale, absent,
          sizes, list},
         {view4(y.data(), 1, H, T, D, H * T * D, T * D, D), l}, {0.125, 1, 0, 0});
  });
  const double bytes = 2. * (double)(Hkv * S * (D * item + (quantised ? 4 : 0)));
  std::printf("T%d H%d/%d S%d D%d, pages of %s, %.0f MiB in turn: %8.1f us, %5.1f GB/s (best %5.1f)\n", (int)T, (int)H,
              (int)Hkv, (int)S, (int)D, quantised ? "int8" : "float32", bytes * copies / 1048576, t.median * 1e6,
              bytes / t.median * 1e-9, bytes / t.best * 1e-9);
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1, rounds = argc > 2 ? std::atoi(argv[2]) : 9;
  const std::string only = argc > 3 ? argv[3] : "";
  og::set_threads(threads);
  std::printf("%s, %d thread(s)\n", og::isa_name(og::current_isa()), threads);
  if (only.empty() || only == "train") bench(12, 6, 256, 64, rounds);
  if (only.empty() || only == "tiles") {
    bench(8, 12, 256, 64, rounds);
    bench(1, 12, 1024, 64, rounds);
    bench(1, 6, 256, 64, rounds);
    bench(4, 12, 64, 64, rounds);
    bench(1, 8, 2048, 128, rounds / 2 + 1);
  }
  if (only.empty() || only == "extras") {
    std::printf("soft cap, dropout:\n");
    bench(12, 6, 256, 64, rounds, 50);
    bench(12, 6, 256, 64, rounds, 0, 0.1);
  }
  if (only.empty() || only == "decode") {
    bench_decode(1, 1, 100000, 64, 4, 3 * rounds);
    const int64_t shapes[][4] = {{12, 12, 1024, 64}, {12, 12, 4096, 64}, {32, 8, 1024, 128}, {32, 8, 8192, 128}};
    for (const auto& [H, Hkv, S, D] : shapes) {
      const int copies = S > 1024 ? 8 : 1, times = S > 1024 ? 3 * rounds : 20 * rounds;
      bench_decode(H, Hkv, S, D, copies, times);
      bench_paged(H, Hkv, S, D, false, copies, times);
      bench_paged(H, Hkv, S, D, true, copies, times);
    }
  }
  if (only.empty() || only == "chunk") {
    bench_decode(12, 12, 4096, 64, 1, rounds, 256);
    bench_paged(12, 12, 4096, 64, false, 1, rounds, 256);
    bench_paged(12, 12, 4096, 64, true, 1, rounds, 256);
  }
  return 0;
}
