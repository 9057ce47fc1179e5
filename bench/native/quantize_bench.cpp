// Quantisation and weight-only layers. Quantise, dequantise, optimiser states: GB/s of the bytes that must move.
// Weight-only layers: GB/s of codes and scales (few rows, weights out of memory: copies in turn), GFLOP/s beside matmul
// (many rows).
//   quantize_bench [isa|all] [threads] [only cases whose name contains this]
// Cases are interleaved with instruction sets; best and median of the samples, wall time.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/parallel.h"
#include "core/registry.h"
#include "core/status.h"

namespace {

double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/** Contiguous memory with its view: floats around zero, or random bytes. */
struct Operand {
  std::vector<char> memory;
  og_view view;

  explicit Operand(std::vector<int64_t> shape = {}, int32_t dtype = OG_F32) {
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
    memory.resize((size_t)(count * og::dtype_size(dtype)) + 64);
    uint32_t state = 12345;
    char* const base = aligned();
    for (int64_t i = 0; i < count; i++) {
      state = state * 1664525u + 1013904223u;
      const float x = ((float)(state >> 8) * 0x1p-24f - 0.4f) * 2.f;
      if (dtype == OG_F32)
        reinterpret_cast<float*>(base)[i] = x;
      else if (dtype == OG_F16)
        reinterpret_cast<og::f16*>(base)[i] = og::to_f16(0.01f + x * x);
      else
        base[i] = (char)(state >> 24);
    }
  }
  og_view here() const {
    og_view v = view;
    v.data = v.dtype < 0 ? nullptr : aligned();
    return v;
  }
  char* aligned() const {
    char* const p = const_cast<char*>(memory.data());
    return p + (64 - reinterpret_cast<uintptr_t>(p) % 64) % 64;
  }
};

void call(og::Isa isa, const char* name, std::vector<const Operand*> in, std::vector<const Operand*> out,
          const std::vector<double>& attrs) {
  std::vector<og_view> inputs, outputs;
  for (const Operand* o : in) inputs.push_back(o->here());
  for (const Operand* o : out) outputs.push_back(o->here());
  const og_call c = {inputs.data(),          outputs.data(),          attrs.data(),
                     (int32_t)inputs.size(), (int32_t)outputs.size(), (int32_t)attrs.size()};
  if (og::run_kernel_on(isa, og::kernel_id(name), c) == OG_OK) return;
  std::printf("%s: %s\n", name, og::last_message());
  std::exit(1);
}

struct Case {
  std::string name;
  double amount;  // bytes or flops of a run, in units of 1e9 a second
  std::function<void(og::Isa)> run;
};

std::string wanted;

void measure(const std::vector<Case>& cases, const std::vector<og::Isa>& isas) {
  constexpr int kSamples = 15;
  std::vector<std::vector<double>> times(cases.size() * isas.size());
  for (int sample = -2; sample < kSamples; sample++)
    for (size_t c = 0; c < cases.size(); c++)
      for (size_t i = 0; i < isas.size(); i++) {
        if (cases[c].name.find(wanted) == std::string::npos) continue;
        const double start = now();
        cases[c].run(isas[i]);
        if (sample >= 0) times[c * isas.size() + i].push_back(now() - start);
      }
  for (size_t c = 0; c < cases.size(); c++)
    for (size_t i = 0; i < isas.size(); i++) {
      std::vector<double>& t = times[c * isas.size() + i];
      if (t.empty()) continue;
      std::sort(t.begin(), t.end());
      std::printf("%-44s %-9s %8.1f (%.1f)\n", cases[c].name.c_str(), og::isa_name(isas[i]),
                  cases[c].amount / t[0] * 1e-9, cases[c].amount / t[t.size() / 2] * 1e-9);
    }
}

void bench_rows(const std::vector<og::Isa>& isas) {
  const int64_t rows = 16384, width = 768, n = rows * width;
  const Operand none({}, -1), x({1, rows, width}), y({1, rows, width}), flat({1, 1, n}), columns({rows, width, 1});
  const Operand i8({1, rows, width}, OG_I8), i8flat({1, 1, n}, OG_I8), i8columns({rows, width, 1}, OG_I8);
  const Operand u8({1, rows, width}, OG_U8), scale({rows}), zero({rows}, OG_I32), one({1}), across({width}),
      errors({3});
  const int64_t groups = n / 32, wide = n / 64;
  const Operand grouped({1, groups, 32}), nibbles({n / 2}, OG_U8), scales({groups}), zeros({groups}, OG_I32);
  const Operand grouped64({1, wide, 64}), scales64({wide}), mask({1, rows, width}, OG_BOOL);
  const Operand param({n}), grad({n}), c1({n}, OG_U8), c2({n}, OG_U8), m1({n / 2048}), m2({n / 2048}), m({n}), v({n});
  const double in = 4. * (double)n, out = (double)n;
  const std::vector<double> symmetric = {0, 8, 0, 0, 0, 0, 0}, affine = {1, 8, 0, 0, 0, 0, 0};
  const std::vector<double> sym4 = {0, 4, 0, 0, 0, 0, 0}, aff4 = {1, 4, 0, 0, 0, 0, 0}, nf4 = {2, 4, 0, 0, 0, 0, 0};
  const std::vector<double> adam = {1e-3, 0.9, 0.95, 1e-8, 0.1, 0.5, 0.5, 1, 1};
  std::vector<double> adam8 = adam;
  adam8.push_back(2048);
  const auto quantize = [&](const Operand& from, const Operand& to, const Operand& s, const Operand& z,
                            const std::vector<double>& attrs, const Operand& e) {
    return [&, attrs](og::Isa isa) { call(isa, "quantize", {&from, &none, &none}, {&to, &s, &z, &e}, attrs); };
  };
  std::vector<double> random = symmetric;
  random[2] = 1;
  measure(
      {
          {"copy", 2 * in, [&](og::Isa isa) { call(isa, "copy", {&m}, {&v}, {}); }},
          {"quantize given, per row int8", in + out,
           [&](og::Isa isa) {
             call(isa, "quantize", {&x, &scale, &none}, {&i8, &none, &none, &none}, symmetric);
           }},
          {"quantize dynamic, per row int8", in + out, quantize(x, i8, scale, none, symmetric, none)},
          {"quantize dynamic, per row int8, errors", in + out, quantize(x, i8, scale, none, symmetric, errors)},
          {"quantize dynamic, per row int8, stochastic", in + out, quantize(x, i8, scale, none, random, none)},
          {"quantize dynamic, per row uint8 affine", in + out, quantize(x, u8, scale, zero, affine, none)},
          {"quantize dynamic, per tensor int8", in + out, quantize(flat, i8flat, one, none, symmetric, none)},
          {"quantize dynamic, per column int8", in + out, quantize(columns, i8columns, across, none, symmetric, none)},
          {"quantize int4 packed, groups of 32", in + out * 0.625,
           quantize(grouped, nibbles, scales, none, sym4, none)},
          {"quantize int4 packed, groups of 32, errors", in + out * 0.625,
           quantize(grouped, nibbles, scales, none, sym4, errors)},
          {"quantize uint4 affine, groups of 32", in + out * 0.75,
           quantize(grouped, nibbles, scales, zeros, aff4, none)},
          {"quantize NF4, groups of 64", in + out * 0.5625, quantize(grouped64, nibbles, scales64, none, nf4, none)},
          {"dequantize int8, per row", in + out,
           [&](og::Isa isa) {
             call(isa, "dequantize", {&i8, &scale, &none}, {&y}, {0, 8});
           }},
          {"dequantize int4 packed, groups of 32", in + out * 0.625,
           [&](og::Isa isa) {
             call(isa, "dequantize", {&nibbles, &scales, &none}, {&grouped}, {0, 4});
           }},
          {"dequantize NF4, groups of 64", in + out * 0.5625,
           [&](og::Isa isa) {
             call(isa, "dequantize", {&nibbles, &scales64, &none}, {&grouped64}, {2, 4});
           }},
          {"fake_quantize per row", 2 * in + out,
           [&](og::Isa isa) {
             call(isa, "fake_quantize", {&x, &scale, &none}, {&y, &mask}, {-128, 127});
           }},
          {"dynamic8_encode", in + out,
           [&](og::Isa isa) {
             call(isa, "dynamic8_encode", {&grad}, {&c1, &m1}, {1, 2048});
           }},
          {"dynamic8_decode", in + out,
           [&](og::Isa isa) {
             call(isa, "dynamic8_decode", {&c1, &m1}, {&m}, {1, 2048});
           }},
          {"adamw_step (bytes of 32-bit states)", 7 * in,
           [&](og::Isa isa) {
             call(isa, "adamw_step", {&grad}, {&param, &m, &v}, adam);
           }},
          {"adamw8bit_step (its own bytes)", 3 * in + 4 * out,
           [&](og::Isa isa) {
             call(isa, "adamw8bit_step", {&grad}, {&param, &c1, &m1, &c2, &m2}, adam8);
           }},
          {"adamw8bit_step (as of 32-bit states)", 7 * in,
           [&](og::Isa isa) {
             call(isa, "adamw8bit_step", {&grad}, {&param, &c1, &m1, &c2, &m2}, adam8);
           }},
      },
      isas);
}

struct Weight {
  Operand codes, scale, packed;
  double bytes;
  Weight(int64_t n, int64_t k, int bits, int64_t group, int32_t scale_dtype)
      : codes({n, bits == 4 ? k / 2 : k}, bits == 4 ? OG_U8 : OG_I8), scale({n, k / group}, scale_dtype) {
    const int64_t scales = k / group * og::dtype_size(scale_dtype);
    bytes = (double)(n * (k * bits / 8 + scales));
    packed = Operand({64 + (n + 31) / 32 * 32 * (k * bits / 8 + scales)}, OG_U8);
  }
};

void bench_linear(const std::vector<og::Isa>& isas, int64_t n, int64_t k, int64_t m, bool cold) {
  const Operand none({}, -1), x({m, k}), y({m, n});
  std::vector<Case> cases;
  static std::vector<Weight*> kept;
  const std::string shape =
      std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k) + (cold ? " memory" : "");
  const auto add = [&](const char* what, int bits, int64_t group, int32_t scale_dtype, double scheme, double coded) {
    const std::string name = std::string(what) + " " + shape;
    if (name.find(wanted) == std::string::npos) return;
    std::vector<Weight*> copies;
    const double bytes = (double)(n * k) * bits / 8;
    const int count = cold ? (int)(1.2e8 / bytes) + 1 : 1;
    for (int i = 0; i < count; i++) copies.push_back(new Weight(n, k, bits, group, scale_dtype));
    kept.insert(kept.end(), copies.begin(), copies.end());
    const double amount = m <= 16 ? copies[0]->bytes * count : 2. * (double)(m * n * k);
    const std::vector<double> attrs = {scheme, (double)bits, coded != 0 ? 1. : 0., 0, 0};
    const bool packed = coded == 2;
    for (og::Isa isa : isas)
      if (packed && isas.size() == 1)
        for (Weight* w : copies)
          call(isa, "linear_weight_only_pack", {&w->codes, &w->scale, &none}, {&w->packed}, {scheme, (double)bits});
    if (packed && isas.size() != 1) return;
    cases.push_back({name, amount, [copies, attrs, packed, &none, &x, &y](og::Isa isa) {
                       for (Weight* w : copies)
                         call(isa, "linear_weight_only",
                              {&x, &w->codes, &w->scale, &none, &none, packed ? &w->packed : &none, &none}, {&y},
                              attrs);
                     }});
  };
  // packed weights: only where one instruction set is named
  add("int4 g32 f16 a8 packed", 4, 32, OG_F16, 0, 2);
  add("int4 g32 f32 a8 packed", 4, 32, OG_F32, 0, 2);
  add("int4 g128 f16 a8 packed", 4, 128, OG_F16, 0, 2);
  add("int8 g128 f32 a8 packed", 8, 128, OG_F32, 0, 2);
  if (m > 16) add("int4 g32 f32 a8", 4, 32, OG_F32, 0, 1);
  add("int4 g32 f32 float", 4, 32, OG_F32, 0, 0);
  add("int4 g32 f16 float", 4, 32, OG_F16, 0, 0);
  add("int4 g128 f16 float", 4, 128, OG_F16, 0, 0);
  add("nf4 g64 f32 float", 4, 64, OG_F32, 2, 0);
  add("int8 g32 f16 float", 8, 32, OG_F16, 0, 0);
  add("int8 g32 f32 float", 8, 32, OG_F32, 0, 0);
  add("int8 g128 f16 float", 8, 128, OG_F16, 0, 0);
  add("int8 output f32 float", 8, k, OG_F32, 0, 0);
  Operand dense({k, n}), c({m, n});
  dense.view.strides[0] = 1;
  dense.view.strides[1] = k;
  if (!cold)
    cases.push_back(
        {"float32 matmul " + shape, m <= 16 ? 4. * (double)(n * k) : 2. * (double)(m * n * k), [&](og::Isa isa) {
           call(isa, "matmul", {&x, &dense, &none, &none, &none}, {&c, &none}, {0});
         }});
  measure(cases, isas);
  for (Weight* w : kept) delete w;
  kept.clear();
}

}  // namespace

int main(int argc, char** argv) {
  const std::string isa_wanted = argc > 1 ? argv[1] : "all";
  og::set_threads(argc > 2 ? std::atoi(argv[2]) : 1);
  wanted = argc > 3 ? argv[3] : "";
  std::vector<og::Isa> isas;
  for (int i = 1; i < og::kIsaCount; i++)
    if (og::isa_available((og::Isa)i) && (isa_wanted == "all" ? i > 1 : isa_wanted == og::isa_name((og::Isa)i)))
      isas.push_back((og::Isa)i);
  if (wanted.find("packed") == std::string::npos) bench_rows(isas);
  bench_linear(isas, 3072, 768, 1, false);
  bench_linear(isas, 3072, 768, 1, true);
  bench_linear(isas, 50257, 768, 1, true);
  for (int64_t m : {2, 4, 8}) bench_linear(isas, 3072, 768, m, true);
  bench_linear(isas, 3072, 768, 8, false);
  bench_linear(isas, 3072, 768, 64, false);
  bench_linear(isas, 3072, 768, 512, false);
  return 0;
}
