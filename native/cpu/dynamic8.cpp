/**
 * Block-wise 8-bit states (Dettmers, Lewis, Shleifer, Zettlemoyer 2022: 8-bit Optimizers via Block-wise Quantization,
 * arXiv:2110.02861). Contiguous operands; a block is `size` consecutive elements with one float32 largest magnitude.
 *
 *   dynamic8_encode  x → codes, absmax; attrs: signed, size
 *   dynamic8_decode  codes, absmax → x; attrs: signed, size
 *   adamw8bit_step   grad → param, exp_avg codes, absmax, exp_avg_sq codes, absmax; the attributes of adamw_step, and
 * the size of a block. Each block is read, decoded, stepped, encoded and written once, in L1. The first moment uses the
 * signed map, the second the unsigned one; the parameter is changed by the exact new moments.
 *
 * x, param and grad float32, float16 or bfloat16. Arithmetic in float (`reference`: moments in double). An element
 * comes back within half a cell of its decade: 0.45 · 2^-6 (signed) or 0.45 · 2^-7 of the block's largest for the upper
 * decade. NaN in a block spoils the block. Parallel split: by blocks.
 */
#include "dynamic8.h"

#include "../core/parallel.h"
#include "../core/scratch.h"
#include "../core/status.h"
#include "../core/view.h"

namespace og {
namespace OG_ISA {
namespace {

constexpr int64_t kLargestBlock = 4096;
constexpr int64_t kChunk = 32768;  // elements of a task, about

#ifdef OG_IS_REFERENCE
typedef double Number;
#else
typedef float Number;
#endif

bool is_dense(const og_view& v) { return count_of(v) == 0 || is_contiguous(v); }

int32_t check_states(const char* name, const og_view& x, const og_view& codes, const og_view& largest, double size) {
  OG_REQUIRE(size >= 1 && size <= (double)kLargestBlock && size == std::floor(size), "%s: blocks of 1 to %lld elements",
             name, (long long)kLargestBlock);
  OG_SUPPORTED(dtype_is_float(x.dtype) && x.dtype != OG_F64, "%s: float32, float16 or bfloat16 is expected", name);
  OG_REQUIRE(codes.dtype == OG_U8 && largest.dtype == OG_F32, "%s: uint8 codes and float32 magnitudes are expected",
             name);
  const int64_t count = count_of(x), block = (int64_t)size;
  OG_REQUIRE(is_dense(x) && is_dense(codes) && is_dense(largest), "%s: operands must be contiguous", name);
  OG_REQUIRE(count_of(codes) == count && count_of(largest) == count / block + (count % block ? 1 : 0),
             "%s: a code an element and a magnitude a block are expected", name);
  return OG_OK;
}

template <class C>
void read_block(const og_view& x, int64_t begin, int64_t n, C* to) {
  read_run(x, begin, 1, n, to);
}
template <class C>
void write_block(const og_view& x, int64_t begin, int64_t n, const C* from) {
  write_run(x, begin, 1, n, from);
}

/** Calls run(block, begin, n) for all blocks, some at a time on a thread. */
template <class F>
void each_block(int64_t count, int64_t size, const F& run) {
  const int64_t blocks = count / size + (count % size ? 1 : 0);
  parallel_ranges(blocks, grain_for(size, kChunk), [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; block++) {
      const int64_t begin = block * size;
      run(block, begin, count - begin < size ? count - begin : size);
    }
  });
}

template <class C>
void encode_block(const DynamicMap& map, const C* x, int64_t n, uint8_t* codes, float* largest) {
  C top = 0;
  find_magnitude(x, n, &top);
  *largest = (float)top;
  dynamic_encode(map, x, n, *largest, codes);
}

struct Rates {
  Number keep, decay, rate1, beta2, rate2, root_scale, eps, step_size, grad_scale;
  bool decoupled;
};

/** The update of adamw_step on a block in L1. */
#ifdef OG_IS_REFERENCE
void step_block(const Rates& r, int64_t n, double* p, double* g, double* m, double* v) {
  for (int64_t i = 0; i < n; i++) {
    double grad = g[i] * r.grad_scale;
    const double old = r.decoupled ? p[i] * r.keep : p[i];
    if (!r.decoupled) grad += r.decay * old;
    m[i] += r.rate1 * (grad - m[i]);
    v[i] = v[i] * r.beta2 + grad * r.rate2 * grad;
    p[i] = old - m[i] * r.step_size / (std::sqrt(v[i]) * r.root_scale + r.eps);
  }
}
#else
void step_block(const Rates& r, int64_t n, float* p, float* g, float* m, float* v) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const int left = n - i < kLanes ? (int)(n - i) : kLanes;
    Vf grad = load_n(g + i, left) * r.grad_scale;
    const Vf before = load_n(p + i, left), first = load_n(m + i, left), second = load_n(v + i, left);
    const Vf old = r.decoupled ? before * r.keep : before;
    if (!r.decoupled) grad = fma(set1(r.decay), old, grad);
    const Vf mean = fma(set1(r.rate1), grad - first, first);
    const Vf square = fma(grad * r.rate2, grad, second * r.beta2);
    store_n(m + i, mean, left);
    store_n(v + i, square, left);
    store_n(p + i, old - mean * r.step_size / fma(sqrt(square), set1(r.root_scale), set1(r.eps)), left);
  }
}
#endif

}  // namespace

int32_t kernel_dynamic8_encode(const og_call* call) {
  const og_view &x = call->inputs[0], &codes = call->outputs[0], &largest = call->outputs[1];
  OG_TRY(check_states("dynamic8_encode", x, codes, largest, call->attrs[1]));
  const DynamicMap map = dynamic_map(call->attrs[0] != 0);
  each_block(count_of(x), (int64_t)call->attrs[1], [&](int64_t block, int64_t begin, int64_t n) {
    alignas(64) float buffer[kLargestBlock];
    read_block(x, begin, n, buffer);
    encode_block(map, buffer, n, data_of<uint8_t>(codes) + begin, data_of<float>(largest) + block);
  });
  return OG_OK;
}

int32_t kernel_dynamic8_decode(const og_call* call) {
  const og_view &codes = call->inputs[0], &largest = call->inputs[1], &x = call->outputs[0];
  OG_TRY(check_states("dynamic8_decode", x, codes, largest, call->attrs[1]));
  const DynamicMap map = dynamic_map(call->attrs[0] != 0);
  each_block(count_of(x), (int64_t)call->attrs[1], [&](int64_t block, int64_t begin, int64_t n) {
    alignas(64) float buffer[kLargestBlock];
    dynamic_decode(map, data_of<const uint8_t>(codes) + begin, n, data_of<const float>(largest)[block], buffer);
    write_block(x, begin, n, buffer);
  });
  return OG_OK;
}

int32_t kernel_adamw8bit_step(const og_call* call) {
  const og_view &grad = call->inputs[0], &param = call->outputs[0], &codes1 = call->outputs[1],
                &largest1 = call->outputs[2], &codes2 = call->outputs[3], &largest2 = call->outputs[4];
  const double* a = call->attrs;
  OG_TRY(check_states("adamw8bit_step", param, codes1, largest1, a[9]));
  OG_TRY(check_states("adamw8bit_step", grad, codes2, largest2, a[9]));
  OG_REQUIRE(count_of(grad) == count_of(param), "adamw8bit_step: parameter and gradient differ in size");
  Rates r;
  r.keep = (Number)(1 - a[0] * a[4]);
  r.decay = (Number)a[4];
  r.rate1 = (Number)(1 - a[1]);
  r.beta2 = (Number)a[2];
  r.rate2 = (Number)(1 - a[2]);
  r.root_scale = (Number)(1 / std::sqrt(a[6]));
  r.eps = (Number)a[3];
  r.step_size = (Number)(a[0] / a[5]);
  r.grad_scale = (Number)a[7];
  r.decoupled = a[8] != 0;
  const DynamicMap first = dynamic_map(true), second = dynamic_map(false);
  const int64_t count = count_of(param);
  each_block(count, (int64_t)a[9], [&](int64_t block, int64_t begin, int64_t n) {
    alignas(64) Number p[kLargestBlock];
    alignas(64) Number g[kLargestBlock];
    alignas(64) Number m[kLargestBlock];
    alignas(64) Number v[kLargestBlock];
    read_block(param, begin, n, p);
    read_block(grad, begin, n, g);
    uint8_t *code1 = data_of<uint8_t>(codes1) + begin, *code2 = data_of<uint8_t>(codes2) + begin;
    float *top1 = data_of<float>(largest1) + block, *top2 = data_of<float>(largest2) + block;
    dynamic_decode(first, code1, n, *top1, m);
    dynamic_decode(second, code2, n, *top2, v);
    step_block(r, n, p, g, m, v);
    write_block(param, begin, n, p);
    encode_block(first, m, n, code1, top1);
    encode_block(second, v, n, code2, top2);
  });
  return OG_OK;
}

}  // namespace OG_ISA
}  // namespace og
