// What the tests of matmul_int8 share: paths, operands, exact sums, blocks of packed weights.
#ifndef OMNIGRAD_TEST_MATMUL_INT8_FIXTURE_H
#define OMNIGRAD_TEST_MATMUL_INT8_FIXTURE_H

#include "check.h"

namespace og_test {

/** Every set, and those with optional instructions also without them. */
template <class F>
void for_each_path(const F& body) {
  for_each_isa([&](og::Isa isa) { body(isa); });
  for (int i = 0; i < og::kFeatureCount; i++) {
    const og::CpuFeature feature = (og::CpuFeature)i;
    if (feature == og::kBf16Dot || !og::cpu_feature(feature)) continue;
    for (og::Isa isa : {og::kBaseline, og::kAvx2, og::kAvx512}) {
      const bool is_arm = feature == og::kDotProduct || feature == og::kMatMulInt8;
      if (!og::isa_available(isa) || (isa == og::kBaseline) != is_arm) continue;
      if (feature == og::kAvxVnni && isa == og::kAvx512) continue;
      const std::string before = context();
      context() = before + " " + og::isa_name(isa) + " without " + og::cpu_feature_name(feature);
      og::use_cpu_feature(feature, false);
      body(isa);
      og::use_cpu_feature(feature, true);
      context() = before;
    }
  }
}

/** The operands of one product; what is not present is absent. */
struct Operands {
  Tensor a, b, packed, a_zero, b_zero, a_scale, b_scale, bias, residual, factor;
  double activation = 0, seven_bit = 0, out_scale = 1, out_zero = 0;

  int32_t run(og::Isa isa, Tensor& c) {
    return og_test::run(isa, "matmul_int8",
                        {&a, &b, &packed, &a_zero, &b_zero, &a_scale, &b_scale, &bias, &residual, &factor}, {&c},
                        {activation, seven_bit, out_scale, out_zero});
  }
};

/** Exact sums of all matrices of the batch, row-major. */
inline std::vector<int64_t> exact_sums(const Operands& o, int64_t batch, int64_t m, int64_t n, int64_t k) {
  std::vector<int64_t> sums((size_t)(batch * m * n));
  // codes less their zero points, in rows of whole numbers: an emulator takes long for doubles
  std::vector<int32_t> a, b;
  for (int64_t at = 0; at < batch * m * k; at++)
    a.push_back((int32_t)o.a.get_int(at) - (o.a_zero.present() ? (int32_t)o.a_zero.get_int(at / k) : 0));
  for (int64_t at = 0; at < batch * k * n; at++)
    b.push_back((int32_t)o.b.get_int(at) -
                (o.b_zero.present() ? (int32_t)o.b_zero.get_int(at / (k * n) * n + at % n) : 0));
  for (int64_t row = 0; row < batch * m; row++)
    for (int64_t t = 0; t < k; t++) {
      const int64_t x = a[(size_t)(row * k + t)];
      const int32_t* y = b.data() + (row / m * k + t) * n;
      int64_t* sum = sums.data() + row * n;
      for (int64_t j = 0; j < n; j++) sum[j] += x * y[j];
    }
  return sums;
}

inline Tensor codes(Random& random, int32_t dtype, std::vector<int64_t> shape, Layout layout) {
  Tensor t(dtype, shape, layout);
  if (random.below(4) == 0)  // extremes only
    t.fill([&](int64_t) { return dtype == OG_I8 ? (random.below(2) ? -128. : 127.) : random.below(2) ? 255. : 0.; });
  else
    t.integers(random, dtype == OG_I8 ? -128 : 0, dtype == OG_I8 ? 128 : 256);
  return t;
}

const int64_t kSizes[] = {1, 2, 3, 7, 15, 17, 31, 33, 63, 65, 127, 129};
const int kSizeCount = (int)(sizeof kSizes / sizeof *kSizes);

inline int64_t packed_bytes(int64_t k, int64_t n) { return 64 + (n + 31) / 32 * 32 * (4 + (k + 7) / 8 * 8); }

/** A block on a cache line, as the runtime's blocks are. */
struct Block {
  std::vector<char> bytes;
  og_view view;

  explicit Block(int64_t size) : bytes((size_t)size + 64, (char)0xa5) {
    std::memset(&view, 0, sizeof view);
    view.data = bytes.data() + (64 - reinterpret_cast<uintptr_t>(bytes.data()) % 64) % 64;
    view.dtype = OG_U8;
    view.rank = 1;
    view.shape[0] = size;
    view.strides[0] = 1;
  }
};

inline int32_t pack(og::Isa isa, og_view b, Block& packed, double seven_bit) {
  const og_call call = {&b, &packed.view, &seven_bit, 1, 1, 1};
  return og::run_kernel_on(isa, og::kernel_id("matmul_int8_pack"), call);
}

inline int32_t multiply(og::Isa isa, og_view a, og_view b, const Block& packed, og_view c, double seven_bit) {
  og_view in[10] = {a, b, packed.view};
  for (int i = 3; i < 10; i++) in[i].dtype = -1;
  const double attrs[] = {0, seven_bit, 1, 0};
  const og_call call = {in, &c, attrs, 10, 1, 4};
  return og::run_kernel_on(isa, og::kernel_id("matmul_int8"), call);
}

}  // namespace og_test
#endif
